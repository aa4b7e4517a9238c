"""
What every batch of an analysis shares, computed once.

INPUTS
    results/{screen}/screen.h5ad
OUTPUTS
    results/{screen}/{analysis}/outcome.h5ad          scores of the transformed outcome, design
    results/{screen}/{analysis}/residual_trends.tsv   residuals along each numeric covariate
"""


rule normalize:
    input:
        screen="results/{screen}/screen.h5ad",
    output:
        outcome="results/{screen}/{analysis}/outcome.h5ad",
        trends="results/{screen}/{analysis}/residual_trends.tsv",
    log:
        "logs/{screen}/{analysis}/outcome.log",
    benchmark:
        "logs/{screen}/{analysis}/outcome.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=normalize_mem_mb,
        runtime=60,
    params:
        settings=lambda wildcards: normalize_settings(analysis_of(wildcards)),
        version=RESULTS_VERSION["normalize"],
    script:
        "../../scripts/normalize.py"
