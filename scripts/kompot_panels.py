"""Rule kompot_panels: smooth the expression of the top genes."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import smooth_top_genes

smooth_top_genes(
    screen=snakemake.input.screen,
    states=snakemake.input.states,
    effects=snakemake.input.effects,
    panels=snakemake.output.panels,
    settings=snakemake.params.settings,
)
