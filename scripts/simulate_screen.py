"""Rule simulate_screen: write a synthetic screen with known effects."""

from condrand.entry import start

start(snakemake)

from condrand.simulate import simulate_screen

simulate_screen(snakemake.output.screen, **snakemake.params.settings)
