"""Rule annotate_h5ad: a copy of the user's file with the effects in uns."""

from condrand.entry import start

start(snakemake)

from condrand.merge import annotate

annotate(
    source=snakemake.input.screen,
    effects=snakemake.input.effects,
    controls=snakemake.input.controls,
    analysis=snakemake.wildcards.analysis,
    annotated=snakemake.output.annotated,
)
