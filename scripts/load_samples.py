"""Rule load_samples: check the user's samples and store what an analysis needs of them."""

from condrand.entry import start

start(snakemake)

from condrand.samples import load_samples

load_samples(
    path=snakemake.input.screen,
    table=snakemake.input.get("samples") or None,
    screen_settings=snakemake.params.screen,
    settings=snakemake.params.settings,
    samples_out=snakemake.output.samples,
)
