"""Rule limma_filter: keep the features with counts enough."""

from condrand.entry import start

start(snakemake)

from condrand.engines.limma_steps import filter_features

filter_features(
    samples=snakemake.input.samples,
    filtered=snakemake.output.filtered,
    settings=snakemake.params.settings,
    design_matrix=snakemake.input.get("design_matrix") or None,
)
