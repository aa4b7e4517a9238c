"""Rule plot_targets: the figures of targets, one by one and beside each other."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_targets

draw_targets(
    effects=snakemake.input.effects,
    fdr=snakemake.params.fdr,
    figures=dict(snakemake.output.items()),
)
