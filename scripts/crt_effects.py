"""Rule crt_effects: turn what was resampled and refined of a batch into a table."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_refine_steps import write_effects

write_effects(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    null=snakemake.input.null,
    stages=snakemake.input.stages,
    table=snakemake.output.table,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
