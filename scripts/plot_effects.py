"""Rule plot_effects: the figures of an analysis."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_effects

draw_effects(
    effects=snakemake.input.effects,
    controls=snakemake.input.controls,
    fdr=snakemake.params.fdr,
    figures=dict(snakemake.output.items()),
)
