"""Rule crt_ntc_null: compare targets with pseudo-genes made of NTC guides."""

from condrand.entry import start

start(snakemake)

from condrand.engines.ntc_null import write_ntc_null

write_ntc_null(
    screen=snakemake.input.screen,
    units=[snakemake.input.targets, snakemake.input.groups],
    outcome=snakemake.input.outcome,
    table=snakemake.output.table,
    matching=snakemake.output.matching,
    crossfit=snakemake.output.crossfit,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    wanted=snakemake.params.targets,
    controls=snakemake.params.controls,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
    n_batches=snakemake.params.n_batches,
)
