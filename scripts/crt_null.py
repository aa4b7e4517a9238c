"""Rule crt_null: count the leave-one-out p values of the NTC groups of all batches."""

from condrand.entry import start

start(snakemake)

from condrand.engines.crt_steps import join_null_counts

join_null_counts(null_counts=snakemake.input.null_counts, crt_null=snakemake.output.crt_null)
