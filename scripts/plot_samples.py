"""Rule plot_samples: libraries, densities and MDS of samples."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_samples

draw_samples(
    filtered=snakemake.input.filtered,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    figures=dict(snakemake.output.items()),
)
