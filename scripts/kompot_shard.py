"""Rule kompot_shard: compare the expression of a run of blocks of genes."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import fit_shard

fit_shard(
    screen=snakemake.input.screen,
    states=snakemake.input.states,
    shard=snakemake.output.shard,
    run=snakemake.params.run,
    settings=snakemake.params.settings,
)
