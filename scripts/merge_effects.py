"""Rule merge_effects: join all batches of an analysis and control the FDR."""

from condrand.entry import start

start(snakemake)

from condrand.merge import merge_analysis

merge_analysis(
    batches=snakemake.input.batches,
    outcome=snakemake.input.outcome,
    p_floors=snakemake.params.p_floors,
    written=dict(snakemake.output.items()),
)
