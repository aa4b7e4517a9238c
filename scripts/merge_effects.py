"""Rule merge_effects: join all batches of an analysis and control the FDR."""

from condrand.entry import start

start(snakemake)

from condrand.merge import merge_analysis

merge_analysis(
    batches=snakemake.input.batches,
    outcome=snakemake.input.outcome,
    p_floor=snakemake.params.p_floor,
    written=dict(snakemake.output.items()),
)
