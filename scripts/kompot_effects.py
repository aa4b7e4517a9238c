"""Rule kompot_effects: join the genes, and compare their distances with those of the null."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import test_genes

test_genes(
    states=snakemake.input.states,
    shards=snakemake.input.shards,
    nulls=snakemake.input.nulls,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
    written=dict(snakemake.output.items()),
)
