"""Rule dex_summary: a few plain lines about a dex analysis."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_comparison_summary

write_comparison_summary(
    effects=snakemake.input.effects,
    outcome=snakemake.input.outcome,
    verdict=snakemake.input.verdict,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
)
