"""Rule crt_refine: find a share of the small p values of a batch anew."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_refine_steps import refine_shard

refine_shard(
    outcome=snakemake.input.outcome,
    propensity=snakemake.input.propensity,
    null=snakemake.input.null,
    before=snakemake.input.before,
    written=snakemake.output.shard,
    shard=snakemake.params.shard,
    settings=snakemake.params.settings,
    seed=snakemake.params.seed,
    threads=snakemake.threads,
)
