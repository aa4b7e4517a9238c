"""Rule plot_contrasts: the figures of contrasts."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_contrasts

draw_contrasts(
    effects=snakemake.input.effects,
    features=snakemake.input.features,
    outcome=snakemake.input.outcome,
    fdr=snakemake.params.fdr,
    figures=dict(snakemake.output.items()),
)
