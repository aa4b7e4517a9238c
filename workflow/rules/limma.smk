"""
Linear models of samples: filter, weights, fit, contrasts with moderated t tests.

INPUTS
    results/{screen}/{analysis}/samples.h5ad
OUTPUTS
    results/{screen}/{analysis}/filtered.h5ad        features with counts enough; libraries, MDS
    results/{screen}/{analysis}/outcome.h5ad         log expression, weights, design
    results/{screen}/{analysis}/shard-{shard}.h5     fits of a run of blocks of features
    results/{screen}/{analysis}/effects.parquet, effects.tsv.gz    every contrast and feature
    results/{screen}/{analysis}/features.tsv.gz, calls.tsv, moderation.tsv, summary.txt
"""


rule limma_filter:
    input:
        samples="results/{screen}/{analysis}/samples.h5ad",
        design_matrix=design_of_filter,
    output:
        filtered="results/{screen}/{analysis}/filtered.h5ad",
    log:
        "logs/{screen}/{analysis}/filtered.log",
    benchmark:
        "logs/{screen}/{analysis}/filtered.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=linear_mem_mb,
        runtime=20,
    params:
        settings=filter_settings,
        version=RESULTS_VERSION["limma_filter"],
    script:
        "../../scripts/limma_filter.py"


rule limma_voom:
    input:
        filtered="results/{screen}/{analysis}/filtered.h5ad",
        design_matrix=design_matrix,
        kernels=ancient("results/kernels.txt"),
    output:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
    log:
        "logs/{screen}/{analysis}/outcome.log",
    benchmark:
        "logs/{screen}/{analysis}/outcome.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=linear_mem_mb,
        runtime=20,
    params:
        settings=voom_settings,
        version=RESULTS_VERSION["limma_voom"],
    script:
        "../../scripts/limma_voom.py"


rule limma_shard:
    """Fit a run of blocks of features."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure("results/{screen}/{analysis}/shard-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=linear_shard_mem_mb,
        runtime=20,
    params:
        run=lambda wildcards: (int(wildcards.shard), len(SHARDS)),
        version=RESULTS_VERSION["limma_shard"],
    script:
        "../../scripts/limma_shard.py"


rule limma_effects:
    """Test contrasts of the fits of all features."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        shards=shards_of_analysis,
        kernels=ancient("results/kernels.txt"),
    output:
        effects="results/{screen}/{analysis}/effects.parquet",
        effects_tsv=report(
            "results/{screen}/{analysis}/effects.tsv.gz",
            caption="../report/effects_linear.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Effects (table)"},
        ),
        features=report(
            "results/{screen}/{analysis}/features.tsv.gz",
            caption="../report/features.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "F tests and variances of features (table)"},
        ),
        calls=report(
            "results/{screen}/{analysis}/calls.tsv",
            caption="../report/calls.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Calls by contrast (table)"},
        ),
        moderation=report(
            "results/{screen}/{analysis}/moderation.tsv",
            caption="../report/moderation.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Moderation of variances (table)"},
        ),
    log:
        "logs/{screen}/{analysis}/effects.log",
    benchmark:
        "logs/{screen}/{analysis}/effects.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=linear_mem_mb,
        runtime=20,
    params:
        settings=contrasts_settings,
        fdr=config["fdr"],
        version=RESULTS_VERSION["limma_effects"],
    script:
        "../../scripts/limma_effects.py"


rule limma_summary:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        filtered="results/{screen}/{analysis}/filtered.h5ad",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        calls="results/{screen}/{analysis}/calls.tsv",
        moderation="results/{screen}/{analysis}/moderation.tsv",
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
        analysis=analyses_with("limma"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/limma_summary.py"
