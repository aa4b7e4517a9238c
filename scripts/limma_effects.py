"""Rule limma_effects: test contrasts of the fits of all features."""

from condrand.entry import start

start(snakemake)

from condrand.engines.limma_steps import test_contrasts

test_contrasts(
    outcome=snakemake.input.outcome,
    shards=snakemake.input.shards,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings=snakemake.params.settings,
    fdr=snakemake.params.fdr,
    written=dict(snakemake.output.items()),
    threads=snakemake.threads,
)
