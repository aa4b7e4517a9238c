"""Rule warm_kernels: compile every kernel once, before thousands of shards start."""

from condrand.entry import start

start(snakemake)

from condrand.warm import warm

warm(snakemake.output.stamp)
