"""Rule crt_propensity: fit the propensities of a batch and compute its observed statistics."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import prepare_batch

prepare_batch(
    screen=snakemake.input.screen,
    units=[snakemake.input.targets, snakemake.input.groups],
    outcome=snakemake.input.outcome,
    propensity=snakemake.output.propensity,
    batch=snakemake.params.batch,
    wanted=snakemake.params.targets,
    controls=snakemake.params.controls,
    settings=snakemake.params.settings,
)
