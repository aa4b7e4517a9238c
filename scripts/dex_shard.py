"""Rule dex_shard: sum a batch of units over a run of blocks of features."""

from condrand.entry import start

start(snakemake)

from condrand.engines.dex_steps import sum_shard

sum_shard(
    screen=snakemake.input.screen,
    outcome=snakemake.input.outcome,
    shard=snakemake.output.shard,
    batch=snakemake.params.batch,
    run=snakemake.params.run,
    test=snakemake.params.test,
    threads=snakemake.threads,
)
