"""Rule limma_shard: fit a run of blocks of features."""

from condrand.entry import start

start(snakemake)

from condrand.engines.limma_steps import fit_shard

fit_shard(
    outcome=snakemake.input.outcome,
    shard=snakemake.output.shard,
    run=snakemake.params.run,
    threads=snakemake.threads,
)
