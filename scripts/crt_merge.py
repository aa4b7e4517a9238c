"""Rule crt_merge: add the shards of a batch and turn them into p values."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import merge_batch

merge_batch(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    shards=snakemake.input.shards,
    table=snakemake.output.table,
    null_counts=snakemake.output.null_counts,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
