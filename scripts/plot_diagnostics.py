"""Rule plot_diagnostics: quantile-quantile plots of every kind of control."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_diagnostics

draw_diagnostics(
    effects=snakemake.input.effects,
    controls=snakemake.input.controls,
    groups=snakemake.input.groups,
    null_counts=snakemake.input.null_counts,
    figures=dict(snakemake.output.items()),
)
