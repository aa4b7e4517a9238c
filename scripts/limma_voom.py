"""Rule limma_voom: weighted log expression of the samples."""

from condrand.entry import start

start(snakemake)

from condrand.engines.limma_steps import voom_samples

voom_samples(
    filtered=snakemake.input.filtered,
    design_matrix=snakemake.input.get("design_matrix") or None,
    outcome=snakemake.output.outcome,
    settings=snakemake.params.settings,
    threads=snakemake.threads,
)
