"""Rule plot_diagnostics: controls of every kind, and sources of p values."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_diagnostics

draw_diagnostics(
    effects=snakemake.input.effects,
    controls=snakemake.input.controls,
    groups=snakemake.input.groups,
    null_counts=snakemake.input.null_counts,
    p_floor=snakemake.params.p_floor,
    figures=dict(snakemake.output.items()),
)
