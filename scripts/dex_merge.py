"""Rule dex_merge: join the blocks of features of a batch, and test."""

from condrand.entry import start

start(snakemake)

from condrand.engines.dex_steps import merge_batch

merge_batch(
    outcome=snakemake.input.outcome,
    shards=snakemake.input.shards,
    table=snakemake.output.table,
    batch=snakemake.params.batch,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
)
