"""
Differential expression: each target's cells against one control, feature by feature.

INPUTS
    results/{screen}/screen.h5ad
OUTPUTS
    results/{screen}/{analysis}/outcome.h5ad    who is compared with whom, and on which values
    results/{screen}/{analysis}/groups.tsv      every unit: cells, batch; blocks.tsv: its features
    results/{screen}/{analysis}/batch-{batch}/shard-{shard}.h5    sums over a run of blocks
    results/{screen}/{analysis}/batch-{batch}.parquet
"""


rule dex_groups:
    input:
        screen="results/{screen}/screen.h5ad",
        ntc_groups=ntc_groups_of_analysis,
    output:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        groups="results/{screen}/{analysis}/groups.tsv",
        blocks="results/{screen}/{analysis}/blocks.tsv",
    log:
        "logs/{screen}/{analysis}/outcome.log",
    benchmark:
        "logs/{screen}/{analysis}/outcome.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=dex_groups_mem_mb,
        runtime=20,
    params:
        settings=groups_settings,
        seed=config["seed"],
        n_batches=len(BATCHES),
        version=RESULTS_VERSION["dex_groups"],
    script:
        "../../scripts/dex_groups.py"


rule dex_shard:
    """Sum a batch of units over a run of blocks of features."""
    input:
        screen="results/{screen}/screen.h5ad",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        groups=ancient("results/{screen}/{analysis}/groups.tsv"),
        blocks=ancient("results/{screen}/{analysis}/blocks.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure("results/{screen}/{analysis}/batch-{batch}/shard-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/batch-{batch}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("dex"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=dex_shard_mem_mb,
        runtime=dex_shard_runtime,
    params:
        batch=lambda wildcards: int(wildcards.batch),
        run=lambda wildcards: (int(wildcards.shard), len(SHARDS)),
        test=lambda wildcards: analysis_of(wildcards)["test"],
        version=RESULTS_VERSION["dex_shard"],
    script:
        "../../scripts/dex_shard.py"


rule dex_merge:
    """Join the blocks of features of a batch, and test."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        shards=shards_of_batch,
        groups=ancient("results/{screen}/{analysis}/groups.tsv"),
        blocks=ancient("results/{screen}/{analysis}/blocks.tsv"),
    output:
        table="results/{screen}/{analysis}/batch-{batch}.parquet",
    log:
        "logs/{screen}/{analysis}/batch-{batch}.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=dex_merge_mem_mb,
        runtime=20,
    params:
        batch=lambda wildcards: int(wildcards.batch),
        settings=test_settings,
        version=RESULTS_VERSION["dex_merge"],
    script:
        "../../scripts/dex_merge.py"
