"""
The user's file, read once and checked whole.

INPUTS
    the .h5ad of the screen
OUTPUTS
    results/{screen}/screen.h5ad    treated cells, covariates and outcomes, as stored
    results/{screen}/targets.tsv    every target and NTC guide: guides, cells, batch, kept or why not
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
        targets=targets_of_screen,
        needs_controls=needs_controls,
        needs_ntc_cells=needs_ntc_cells,
        batch_keys=batch_keys_of_screen,
        n_batches=len(BATCHES),
        version=RESULTS_VERSION["load"],
    script:
        "../../scripts/load_screen.py"
