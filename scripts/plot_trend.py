"""Rule plot_trend: the mean-variance trend."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_trend

draw_trend(
    outcome=snakemake.input.outcome,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    figures=dict(snakemake.output.items()),
)
