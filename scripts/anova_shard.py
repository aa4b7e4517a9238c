"""Rule anova_shard: test a run of blocks of features."""

from condrand.entry import start

start(snakemake)

from condrand.engines.anova_steps import anova_shard

anova_shard(
    samples=snakemake.input.samples,
    shard=snakemake.output.shard,
    run=snakemake.params.run,
    settings=snakemake.params.settings,
)
