"""
Conditional randomization: propensities, null distributions by resampling, p values.

INPUTS
    results/{screen}/screen.h5ad, targets.tsv
    results/{screen}/{analysis}/outcome.h5ad
OUTPUTS
    results/{screen}/{analysis}/batch-{batch}/propensity.h5
    results/{screen}/{analysis}/batch-{batch}/shard-{shard}.h5
    results/{screen}/{analysis}/batch-{batch}/null.h5, batch-{batch}.crt_null.tsv
    results/{screen}/{analysis}/batch-{batch}/stage-{stage}/shard-{shard}.h5
    results/{screen}/{analysis}/batch-{batch}.parquet
    results/{screen}/{analysis}/units.tsv         treated cells and propensities of every unit
    results/{screen}/{analysis}/crt_null.tsv      leave-one-out p values of the NTC groups, counted
    results/{screen}/{analysis}/ntc_null.parquet, ntc_matching.tsv, crossfit.parquet
"""


rule crt_propensity:
    input:
        screen="results/{screen}/screen.h5ad",
        targets="results/{screen}/targets.tsv",
        groups="results/{screen}/{analysis}/ntc_groups.tsv",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        # The cache changes no number, so a renewed one restarts nothing.
        kernels=ancient("results/kernels.txt"),
    output:
        propensity="results/{screen}/{analysis}/batch-{batch}/propensity.h5",
    log:
        "logs/{screen}/{analysis}/batch-{batch}/propensity.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}/propensity.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=propensity_mem_mb,
        runtime=propensity_runtime,
    params:
        batch=lambda wildcards: int(wildcards.batch),
        targets=lambda wildcards: analysis_of(wildcards)["targets"],
        controls=lambda wildcards: analysis_of(wildcards)["controls"],
        settings=lambda wildcards: {
            **draws_of(wildcards),
            "propensity": analysis_of(wildcards)["propensity"],
        },
        version=RESULTS_VERSION["crt_propensity"],
    script:
        "../../scripts/crt_propensity.py"


rule crt_shard:
    """Draw a run of blocks of resamples for one batch of targets."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        propensity="results/{screen}/{analysis}/batch-{batch}/propensity.h5",
        targets=ancient("results/{screen}/targets.tsv"),
        groups=ancient("results/{screen}/{analysis}/ntc_groups.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure("results/{screen}/{analysis}/batch-{batch}/shard-{shard}.h5", non_empty=True),
    log:
        "logs/{screen}/{analysis}/batch-{batch}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=shard_mem_mb,
        runtime=shard_runtime,
    params:
        blocks=blocks_of_shard,
        resamples=resamples_of_shard,
        seed=config["seed"],
        settings=draws_of,
        version=RESULTS_VERSION["crt_shard"],
    script:
        "../../scripts/crt_shard.py"


rule crt_merge:
    """Add the shards of a batch: exact counts, so any split gives the same bits."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        propensity="results/{screen}/{analysis}/batch-{batch}/propensity.h5",
        shards=shards_of_batch,
    output:
        null="results/{screen}/{analysis}/batch-{batch}/null.h5",
        null_counts="results/{screen}/{analysis}/batch-{batch}.crt_null.tsv",
    log:
        "logs/{screen}/{analysis}/batch-{batch}/null.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}/null.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=20,
    params:
        settings=lambda wildcards: {
            **draws_of(wildcards),
            "resamples": analysis_of(wildcards)["resamples"],
        },
        seed=config["seed"],
        version=RESULTS_VERSION["crt_merge"],
    script:
        "../../scripts/crt_merge.py"


rule crt_refine:
    """Find small p values of a batch anew; which they are is known when it starts."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        propensity="results/{screen}/{analysis}/batch-{batch}/propensity.h5",
        null="results/{screen}/{analysis}/batch-{batch}/null.h5",
        before=stages_of_batch,
        targets=ancient("results/{screen}/targets.tsv"),
        groups=ancient("results/{screen}/{analysis}/ntc_groups.tsv"),
        kernels=ancient("results/kernels.txt"),
    output:
        shard=ensure(
            "results/{screen}/{analysis}/batch-{batch}/stage-{stage}/shard-{shard}.h5",
            non_empty=True,
        ),
    log:
        "logs/{screen}/{analysis}/batch-{batch}/stage-{stage}/shard-{shard}.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}/stage-{stage}/shard-{shard}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    threads: config["scatter"]["threads"]
    resources:
        mem_mb=refine_mem_mb,
        runtime=refine_runtime,
    params:
        shard=shard_of_stage,
        seed=config["seed"],
        settings=refine_settings,
        version=RESULTS_VERSION["crt_refine"],
    script:
        "../../scripts/crt_refine.py"


rule crt_effects:
    """Turn what was resampled and refined into a table."""
    input:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        propensity="results/{screen}/{analysis}/batch-{batch}/propensity.h5",
        null="results/{screen}/{analysis}/batch-{batch}/null.h5",
        stages=stages_of_batch,
    output:
        table="results/{screen}/{analysis}/batch-{batch}.parquet",
    log:
        "logs/{screen}/{analysis}/batch-{batch}.log",
    benchmark:
        "logs/{screen}/{analysis}/batch-{batch}.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=tables_mem_mb,
        runtime=20,
    params:
        settings=lambda wildcards: {
            **refine_settings(wildcards),
            "calibration": analysis_of(wildcards)["calibration"],
        },
        seed=config["seed"],
        version=RESULTS_VERSION["crt_effects"],
    script:
        "../../scripts/crt_effects.py"


rule crt_units:
    input:
        propensities=propensities_of_analysis,
    output:
        units="results/{screen}/{analysis}/units.tsv",
    log:
        "logs/{screen}/{analysis}/units.log",
    benchmark:
        "logs/{screen}/{analysis}/units.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(1000),
        runtime=10,
    params:
        version=RESULTS_VERSION["crt_merge"],
    script:
        "../../scripts/crt_units.py"


rule crt_null:
    """Not with the units: their propensities are known before any shard."""
    input:
        null_counts=null_counts_of_analysis,
    output:
        crt_null="results/{screen}/{analysis}/crt_null.tsv",
    log:
        "logs/{screen}/{analysis}/crt_null.log",
    benchmark:
        "logs/{screen}/{analysis}/crt_null.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(1000),
        runtime=10,
    params:
        version=RESULTS_VERSION["crt_merge"],
    script:
        "../../scripts/crt_null.py"


rule crt_ntc_null:
    """The other null: pseudo-genes made of NTC guides, nothing resampled."""
    input:
        screen="results/{screen}/screen.h5ad",
        targets="results/{screen}/targets.tsv",
        groups="results/{screen}/{analysis}/ntc_groups.tsv",
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        kernels=ancient("results/kernels.txt"),
    output:
        table="results/{screen}/{analysis}/ntc_null.parquet",
        matching=report(
            "results/{screen}/{analysis}/ntc_matching.tsv",
            caption="../report/ntc_matching.rst",
            category="{screen}",
            subcategory="{analysis}",
            labels={"result": "Matching with NTC pseudo-genes (table)"},
        ),
        crossfit="results/{screen}/{analysis}/crossfit.parquet",
    log:
        "logs/{screen}/{analysis}/ntc_null.log",
    benchmark:
        "logs/{screen}/{analysis}/ntc_null.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=ntc_null_mem_mb,
        runtime=60,
    params:
        settings=lambda wildcards: analysis_of(wildcards)["ntc_empirical"],
        targets=lambda wildcards: analysis_of(wildcards)["targets"],
        controls=lambda wildcards: analysis_of(wildcards)["controls"],
        seed=config["seed"],
        n_batches=len(BATCHES),
        version=RESULTS_VERSION["crt_ntc_null"],
    script:
        "../../scripts/crt_ntc_null.py"
