"""Rule kompot_abundance: densities of both conditions in every cell."""

from condrand.entry import start

start(snakemake)

from condrand.engines.kompot_steps import change_abundance

change_abundance(
    states=snakemake.input.states,
    abundance=snakemake.output.abundance,
    settings=snakemake.params.settings,
)
