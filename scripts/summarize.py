"""Rule summarize: a few plain lines about an analysis."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_summary

write_summary(
    effects=snakemake.input.effects,
    outcome=snakemake.input.outcome,
    trends=snakemake.input.trends,
    verdict=snakemake.input.verdict,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
    p_floors=snakemake.params.p_floors,
)
