"""Rule anova_summary: a few plain lines about an analysis of variance."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_terms_summary

write_terms_summary(
    effects=snakemake.input.effects,
    samples=snakemake.input.samples,
    terms=snakemake.input.terms,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
)
