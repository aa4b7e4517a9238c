"""Rule load_screen: check the user's file and store what the analyses need of it."""

from condrand.entry import start

start(snakemake)

from condrand.screen import load_screen

load_screen(
    path=snakemake.input.screen,
    settings=snakemake.params.settings,
    outcomes=snakemake.params.outcomes,
    needs=snakemake.params.needs,
    n_batches=snakemake.params.n_batches,
    screen=snakemake.output.screen,
    targets=snakemake.output.targets,
)
