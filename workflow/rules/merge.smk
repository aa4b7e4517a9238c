"""
All batches of an analysis to its tables.

INPUTS
    results/{screen}/{analysis}/batch-{batch}.parquet
OUTPUTS
    results/{screen}/{analysis}/effects.parquet, effects.tsv.gz
    results/{screen}/{analysis}/controls.parquet, controls.tsv.gz
    results/{screen}/{analysis}/ntc_groups.parquet
    results/{screen}/{analysis}/calibration.tsv, flagged_controls.tsv, verdict.txt, summary.txt
    results/{screen}/{analysis}/annotated.h5ad    on request
"""


rule merge_effects:
    input:
        batches=batches_of_analysis,
        outcome="results/{screen}/{analysis}/outcome.h5ad",
    output:
        effects="results/{screen}/{analysis}/effects.parquet",
        effects_tsv=report(
            "results/{screen}/{analysis}/effects.tsv.gz",
            caption="../report/effects.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Effects (table)"},
        ),
        controls="results/{screen}/{analysis}/controls.parquet",
        controls_tsv=report(
            "results/{screen}/{analysis}/controls.tsv.gz",
            caption="../report/controls.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "NTC guides (table)"},
        ),
        ntc_groups="results/{screen}/{analysis}/ntc_groups.parquet",
        calibration=report(
            "results/{screen}/{analysis}/calibration.tsv",
            caption="../report/calibration.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Calibration (table)"},
        ),
        flagged_controls=report(
            "results/{screen}/{analysis}/flagged_controls.tsv",
            caption="../report/flagged_controls.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Suspected NTC guides (table)"},
        ),
        verdict=report(
            "results/{screen}/{analysis}/verdict.txt",
            caption="../report/verdict.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Calibration (verdict)"},
        ),
    log:
        "logs/{screen}/{analysis}/effects.log",
    benchmark:
        "logs/{screen}/{analysis}/effects.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt", "dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        p_floors=p_floors_of,
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/merge_effects.py"


rule summarize:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        trends="results/{screen}/{analysis}/residual_trends.tsv",
        verdict="results/{screen}/{analysis}/verdict.txt",
    output:
        summary=report(
            "results/{screen}/{analysis}/summary.txt",
            caption="../report/summary.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Summary"},
        ),
    log:
        "logs/{screen}/{analysis}/summary.log",
    benchmark:
        "logs/{screen}/{analysis}/summary.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        fdr=config["fdr"],
        p_floors=p_floors_of,
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/summarize.py"


rule dex_summary:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        verdict="results/{screen}/{analysis}/verdict.txt",
    output:
        summary=report(
            "results/{screen}/{analysis}/summary.txt",
            caption="../report/summary.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Summary"},
        ),
    log:
        "logs/{screen}/{analysis}/summary.log",
    benchmark:
        "logs/{screen}/{analysis}/summary.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/dex_summary.py"


rule annotate_h5ad:
    input:
        screen=screen_file,
        effects="results/{screen}/{analysis}/effects.parquet",
        controls="results/{screen}/{analysis}/controls.parquet",
    output:
        annotated="results/{screen}/{analysis}/annotated.h5ad",
    log:
        "logs/{screen}/{analysis}/annotated.log",
    benchmark:
        "logs/{screen}/{analysis}/annotated.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt", "dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(2000),
        runtime=60,
    params:
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/annotate_h5ad.py"
