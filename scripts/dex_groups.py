"""Rule dex_groups: say which cells are compared with which, and on which values."""

from condrand.entry import start

start(snakemake)

from condrand.engines.dex_groups import plan_groups

plan_groups(
    screen=snakemake.input.screen,
    ntc_groups=snakemake.input.ntc_groups or None,
    outcome=snakemake.output.outcome,
    groups=snakemake.output.groups,
    blocks=snakemake.output.blocks,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
    n_batches=snakemake.params.n_batches,
)
