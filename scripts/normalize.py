"""Rule normalize: the scores and the design that every batch of an analysis shares."""

from condrand.entry import start

start(snakemake)

from condrand.normalize import normalize

normalize(
    screen=snakemake.input.screen,
    outcome=snakemake.output.outcome,
    trends=snakemake.output.trends,
    **snakemake.params.settings,
)
