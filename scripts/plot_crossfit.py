"""Rule plot_crossfit: targets and held-out NTC pseudo-genes against other pseudo-genes."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_crossfit

draw_crossfit(
    crossfit=snakemake.input.crossfit,
    png=snakemake.output.png,
    svg=snakemake.output.svg,
)
