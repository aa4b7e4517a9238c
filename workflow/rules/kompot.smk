"""
Abundance and expression along the states of cells, between two conditions.

INPUTS
    results/{screen}/screen.h5ad
OUTPUTS
    results/{screen}/{analysis}/states.h5ad, sizes.tsv        cells, their states, landmarks
    results/{screen}/{analysis}/abundance.h5                  densities of both conditions in every cell
    results/{screen}/{analysis}/shard-{shard}.h5              expression: a run of blocks of genes
    results/{screen}/{analysis}/null-{shard}.h5               the same of null genes, or exchanged samples
    results/{screen}/{analysis}/effects.parquet, effects.tsv.gz, null_distances.tsv.gz, fdr.tsv
    results/{screen}/{analysis}/panels.h5                     smoothed expression of the top genes
    results/{screen}/{analysis}/cells.h5ad                    for users: all results by cell
"""


rule kompot_states:
    input:
        screen="results/{screen}/screen.h5ad",
        kernels=ancient("results/kernels.txt"),
    output:
        states="results/{screen}/{analysis}/states.h5ad",
        sizes="results/{screen}/{analysis}/sizes.tsv",
    log:
        "logs/{screen}/{analysis}/states.log",
    benchmark:
        "logs/{screen}/{analysis}/states.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=kompot_states_mem_mb,
        runtime=60,
    params:
        settings=states_settings,
        seed=config["seed"],
        version=RESULTS_VERSION["kompot_states"],
    script:
        "../../scripts/kompot_states.py"


rule kompot_abundance:
    input:
        states="results/{screen}/{analysis}/states.h5ad",
        sizes=ancient("results/{screen}/{analysis}/sizes.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        abundance="results/{screen}/{analysis}/abundance.h5",
    log:
        "logs/{screen}/{analysis}/abundance.log",
    benchmark:
        "logs/{screen}/{analysis}/abundance.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=kompot_mem_mb,
        runtime=60,
    params:
        settings=abundance_settings,
        version=RESULTS_VERSION["kompot_abundance"],
    script:
        "../../scripts/kompot_abundance.py"


rule kompot_shard:
    """Compare the expression of a run of blocks of genes."""
    input:
        screen="results/{screen}/screen.h5ad",
        states="results/{screen}/{analysis}/states.h5ad",
        sizes=ancient("results/{screen}/{analysis}/sizes.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure("results/{screen}/{analysis}/shard-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=kompot_mem_mb,
        runtime=kompot_runtime,
    params:
        run=lambda wildcards: (int(wildcards.shard), len(SHARDS)),
        settings=expression_settings,
        version=RESULTS_VERSION["kompot_shard"],
    script:
        "../../scripts/kompot_shard.py"


rule kompot_null:
    """The same without an effect."""
    input:
        screen="results/{screen}/screen.h5ad",
        states="results/{screen}/{analysis}/states.h5ad",
        sizes=ancient("results/{screen}/{analysis}/sizes.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure("results/{screen}/{analysis}/null-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/null-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/null-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=kompot_mem_mb,
        runtime=kompot_null_runtime,
    params:
        run=lambda wildcards: (int(wildcards.shard), len(SHARDS)),
        settings=null_settings,
        seed=config["seed"],
        version=RESULTS_VERSION["kompot_null"],
    script:
        "../../scripts/kompot_null.py"


rule kompot_effects:
    """Join the genes, and compare their distances with those of the null."""
    input:
        states="results/{screen}/{analysis}/states.h5ad",
        shards=shards_of_analysis,
        nulls=nulls_of_analysis,
    output:
        effects="results/{screen}/{analysis}/effects.parquet",
        effects_tsv=report(
            "results/{screen}/{analysis}/effects.tsv.gz",
            caption="../report/kompot_effects.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Effects (table)"},
        ),
        null_distances=report(
            "results/{screen}/{analysis}/null_distances.tsv.gz",
            caption="../report/null_distances.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Null distances (table)"},
        ),
        fdr=report(
            "results/{screen}/{analysis}/fdr.tsv",
            caption="../report/fdr_table.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "False discovery rates (table)"},
        ),
    log:
        "logs/{screen}/{analysis}/effects.log",
    benchmark:
        "logs/{screen}/{analysis}/effects.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        settings=lambda wildcards: {
            **null_settings(wildcards),
            "null": analysis_of(wildcards)["null_distances"],
        },
        seed=config["seed"],
        version=RESULTS_VERSION["kompot_effects"],
    script:
        "../../scripts/kompot_effects.py"


rule kompot_panels:
    """Smooth the expression of the top genes."""
    input:
        screen="results/{screen}/screen.h5ad",
        states="results/{screen}/{analysis}/states.h5ad",
        sizes=ancient("results/{screen}/{analysis}/sizes.tsv"),
        effects="results/{screen}/{analysis}/effects.parquet",
        kernels=ancient("results/kernels.txt"),
    output:
        panels="results/{screen}/{analysis}/panels.h5",
    log:
        "logs/{screen}/{analysis}/panels.log",
    benchmark:
        "logs/{screen}/{analysis}/panels.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=kompot_mem_mb,
        runtime=30,
    params:
        settings=lambda wildcards: {
            **expression_settings(wildcards),
            "panels": analysis_of(wildcards)["panels"],
        },
        version=RESULTS_VERSION["kompot_panels"],
    script:
        "../../scripts/kompot_panels.py"


rule kompot_cells:
    input:
        states="results/{screen}/{analysis}/states.h5ad",
        abundance="results/{screen}/{analysis}/abundance.h5",
        panels="results/{screen}/{analysis}/panels.h5",
    output:
        cells="results/{screen}/{analysis}/cells.h5ad",
    log:
        "logs/{screen}/{analysis}/cells.log",
    benchmark:
        "logs/{screen}/{analysis}/cells.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=30,
    params:
        version=RESULTS_VERSION["kompot_panels"],
    script:
        "../../scripts/kompot_cells.py"


rule kompot_summary:
    input:
        effects="results/{screen}/{analysis}/effects.parquet",
        states="results/{screen}/{analysis}/states.h5ad",
        abundance="results/{screen}/{analysis}/abundance.h5",
        fdr_table="results/{screen}/{analysis}/fdr.tsv",
    output:
        summary=report(
            "results/{screen}/{analysis}/summary.txt",
            caption="../report/summary_kompot.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Summary"},
        ),
    log:
        "logs/{screen}/{analysis}/summary.log",
    benchmark:
        "logs/{screen}/{analysis}/summary.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("kompot"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=10,
    params:
        fdr=config["fdr"],
        version=RESULTS_VERSION["merge"],
    script:
        "../../scripts/kompot_summary.py"
