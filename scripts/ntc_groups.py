"""Rule ntc_groups: form groups of NTC guides that look like targets."""

from condrand.entry import start

start(snakemake)

from condrand.engines.ntc_groups import write_ntc_groups

write_ntc_groups(
    screen=snakemake.input.screen,
    table=snakemake.output.groups,
    controls=snakemake.params.controls,
    settings=snakemake.params.settings,
    n_batches=snakemake.params.n_batches,
)
