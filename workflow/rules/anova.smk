"""
Analysis of variance of every feature.

INPUTS
    results/{screen}/{analysis}/samples.h5ad
OUTPUTS
    results/{screen}/{analysis}/shard-{shard}.h5     F tests of a run of blocks of features
    results/{screen}/{analysis}/effects.parquet, effects.tsv.gz    every term and feature
    results/{screen}/{analysis}/significant.tsv, terms.tsv, summary.txt
"""


rule anova_shard:
    """Test a run of blocks of features."""
    input:
        samples="results/{screen}/{analysis}/samples.h5ad",
    output:
        shard=ensure("results/{screen}/{analysis}/shard-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("anova"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=linear_shard_mem_mb,
        runtime=20,
    params:
        run=lambda wildcards: (int(wildcards.shard), len(SHARDS)),
        settings=anova_settings,
        version=RESULTS_VERSION["anova_shard"],
    script:
        "../../scripts/anova_shard.py"


rule anova_effects:
    """Join the tests of all features, and adjust them."""
    input:
        samples="results/{screen}/{analysis}/samples.h5ad",
        shards=shards_of_analysis,
    output:
        effects="results/{screen}/{analysis}/effects.parquet",
        effects_tsv=report(
            "results/{screen}/{analysis}/effects.tsv.gz",
            caption="../report/effects_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Effects (table)"},
        ),
        significant=report(
            "results/{screen}/{analysis}/significant.tsv",
            caption="../report/significant.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Significant features (table)"},
        ),
        terms=report(
            "results/{screen}/{analysis}/terms.tsv",
            caption="../report/terms.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Terms of the model (table)"},
        ),
    log:
        "logs/{screen}/{analysis}/effects.log",
    benchmark:
        "logs/{screen}/{analysis}/effects.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("anova"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=linear_mem_mb,
        runtime=20,
    params:
        settings=anova_settings,
        significant=lambda wildcards: analysis_of(wildcards)["significant"],
        fdr=config["fdr"],
        version=RESULTS_VERSION["anova_effects"],
    script:
        "../../scripts/anova_effects.py"


rule anova_summary:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        samples="results/{screen}/{analysis}/samples.h5ad",
        terms="results/{screen}/{analysis}/terms.tsv",
    output:
        summary=report(
            "results/{screen}/{analysis}/summary.txt",
            caption="../report/summary_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Summary"},
        ),
    log:
        "logs/{screen}/{analysis}/summary.log",
    benchmark:
        "logs/{screen}/{analysis}/summary.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("anova"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/anova_summary.py"
