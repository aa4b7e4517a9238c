"""Rule anova_effects: join the tests of all features, and adjust them."""

from condrand.entry import start

start(snakemake)

from condrand.engines.anova_steps import anova_effects

anova_effects(
    samples=snakemake.input.samples,
    shards=snakemake.input.shards,
    labels=(snakemake.wildcards.screen, snakemake.wildcards.analysis),
    settings={**snakemake.params.settings, "significant": snakemake.params.significant},
    fdr=snakemake.params.fdr,
    written=dict(snakemake.output.items()),
)
