"""Rule kompot_states: the cells of two conditions, and their states."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_states import place_cells

place_cells(
    screen=snakemake.input.screen,
    states=snakemake.output.states,
    sizes=snakemake.output.sizes,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
)
