"""Rule kompot_null: compare expression without an effect."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import null_shard

null_shard(
    screen=snakemake.input.screen,
    states=snakemake.input.states,
    shard=snakemake.output.shard,
    run=snakemake.params.run,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
