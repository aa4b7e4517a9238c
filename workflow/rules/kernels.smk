"""
Compile once before thousands of shards start.

OUTPUTS
    results/kernels.txt    a stamp; the compiled kernels are in $CONDRAND_CACHE
"""


rule warm_kernels:
    # Without parameters, so that it is never made anew: all jobs that want it say `ancient`, and
    # Snakemake forgets the missing files of jobs behind a job that is made anew for another reason.
    # Kernels that changed since, or another kind of processor, are compiled by the jobs themselves.
    output:
        stamp="results/kernels.txt",
    log:
        "logs/kernels.log",
    benchmark:
        "logs/kernels.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(1500),
        runtime=10,
    script:
        "../../scripts/warm_kernels.py"
