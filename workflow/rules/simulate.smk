"""
A synthetic screen with known effects, for screens that have `simulate` in place of `path`.

OUTPUTS
    results/{screen}/simulated.h5ad
"""


rule simulate_screen:
    output:
        screen="results/{screen}/simulated.h5ad",
    log:
        "logs/{screen}/simulated.log",
    benchmark:
        "logs/{screen}/simulated.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(2000),
        runtime=30,
    params:
        settings=lambda wildcards: config["screens"][wildcards.screen]["simulate"],
        version=RESULTS_VERSION["simulate"],
    script:
        "../../scripts/simulate_screen.py"
