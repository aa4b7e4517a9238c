"""Rule crt_merge: add the shards of a batch and turn them into p values."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt import merge_batch

merge_batch(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    shards=snakemake.input.shards,
    table=snakemake.output.table,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
