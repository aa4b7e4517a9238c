"""Rule plot_kompot_genes: the figures of expression."""

from condrand.entry import start

start(snakemake)

from condrand.figures import draw_genes

draw_genes(
    effects=snakemake.input.effects,
    null_distances=snakemake.input.null_distances,
    panels=snakemake.input.panels,
    states=snakemake.input.states,
    fdr=snakemake.params.fdr,
    figures=dict(snakemake.output.items()),
)
