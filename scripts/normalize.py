"""Rule normalize: the scores and the design that every batch of an analysis shares."""

from condrand.entry import start

start(snakemake)

from condrand.normalize import normalize

normalize(
    screen=snakemake.input.screen,
    outcome=snakemake.output.outcome,
    settings=snakemake.params.settings,
    numeric_as_category_threshold=snakemake.params.numeric_as_category_threshold,
    statistic=snakemake.params.statistic,
)
