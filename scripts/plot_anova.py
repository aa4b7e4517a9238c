"""Rule plot_anova: the figures of an analysis of variance."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_anova

draw_anova(
    samples=snakemake.input.samples,
    effects=snakemake.input.effects,
    fdr=snakemake.params.fdr,
    settings=snakemake.params.settings,
    figures=dict(snakemake.output.items()),
)
