"""Rule summarize: a few plain lines about an analysis."""

from condrand.entry import start

start(snakemake)

from condrand.merge import write_summary

write_summary(
    effects=snakemake.input.effects,
    calibration=snakemake.input.calibration,
    summary=snakemake.output.summary,
    fdr=snakemake.params.fdr,
)
