"""
The user's file, read once and checked whole.

INPUTS
    the .h5ad or Zarr of the screen
OUTPUTS
    results/{screen}/screen.h5ad    treated cells, covariates and outcomes, as stored
    results/{screen}/targets.tsv    every target and NTC guide: guides, cells, batch, kept or why not
    results/{screen}/{analysis}/ntc_groups.tsv    groups of NTC guides that look like targets
"""


rule load_screen:
    input:
        screen=screen_file,
    output:
        screen="results/{screen}/screen.h5ad",
        targets="results/{screen}/targets.tsv",
    log:
        "logs/{screen}/screen.log",
    benchmark:
        "logs/{screen}/screen.benchmark.tsv"
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=load_mem_mb,
        runtime=60,
    params:
        settings=settings_of_screen,
        outcomes=outcomes_of_screen,
        needs=needs_of_screen,
        n_batches=len(BATCHES),
        version=RESULTS_VERSION["load"],
    script:
        "../../scripts/load_screen.py"


rule ntc_groups:
    input:
        screen="results/{screen}/screen.h5ad",
    output:
        groups="results/{screen}/{analysis}/ntc_groups.tsv",
    log:
        "logs/{screen}/{analysis}/ntc_groups.log",
    benchmark:
        "logs/{screen}/{analysis}/ntc_groups.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("crt", "dex"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=fixed_mem_mb(1500),
        runtime=10,
    params:
        controls=lambda wildcards: analysis_of(wildcards)["controls"],
        settings=lambda wildcards: analysis_of(wildcards)["ntc_groups"],
        n_batches=len(BATCHES),
        version=RESULTS_VERSION["ntc_groups"],
    script:
        "../../scripts/ntc_groups.py"
