"""Rule crt_shard: resample a batch of targets over a run of blocks of resamples."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import resample_shard

resample_shard(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    shard=snakemake.output.shard,
    blocks=snakemake.params.blocks,
    resamples=snakemake.params.resamples,
    seed=snakemake.params.seed,
    threads=snakemake.threads,
    settings=snakemake.params.settings,
)
