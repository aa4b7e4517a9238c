"""Rule kompot_cells: all results by cell, for users."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import write_cells

write_cells(
    states=snakemake.input.states,
    abundance=snakemake.input.abundance,
    panels=snakemake.input.panels,
    cells=snakemake.output.cells,
)
