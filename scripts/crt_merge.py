"""Rule crt_merge: add the shards of a batch."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import merge_batch

merge_batch(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    shards=snakemake.input.shards,
    null=snakemake.output.null,
    null_counts=snakemake.output.null_counts,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
