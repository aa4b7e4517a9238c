"""Rule merge_effects: join all batches of an analysis and control the FDR."""

from condrand.entry import start

start(snakemake)

from condrand.merge import merge_analysis

merge_analysis(
    batches=snakemake.input.batches,
    outcome=snakemake.input.outcome,
    effects=snakemake.output.effects,
    effects_tsv=snakemake.output.effects_tsv,
    controls=snakemake.output.controls,
    controls_tsv=snakemake.output.controls_tsv,
    calibration=snakemake.output.calibration,
)
