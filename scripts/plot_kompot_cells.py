"""Rule plot_kompot_cells: the figures of abundance."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_abundance

draw_abundance(
    states=snakemake.input.states,
    abundance=snakemake.input.abundance,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    figures=dict(snakemake.output.items()),
)
