"""Rule plot_residuals: residuals of the outcome along each numeric covariate."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_residuals

draw_residuals(
    trends=snakemake.input.trends,
    outcome=snakemake.input.outcome,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    png=snakemake.output.png,
    svg=snakemake.output.svg,
)
