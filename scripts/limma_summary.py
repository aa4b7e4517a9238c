"""Rule limma_summary: a few plain lines about a limma analysis."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_contrasts_summary

write_contrasts_summary(
    effects=snakemake.input.effects,
    outcome=snakemake.input.outcome,
    filtered=snakemake.input.filtered,
    calls=snakemake.input.calls,
    moderation=snakemake.input.moderation,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
)
