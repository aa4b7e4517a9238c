"""Rule kompot_summary: a few plain lines about a kompot analysis."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_states_summary

write_states_summary(
    effects=snakemake.input.effects,
    states=snakemake.input.states,
    abundance=snakemake.input.abundance,
    fdr_table=snakemake.input.fdr_table,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
)
