"""
Samples x features, for linear models: a count table, or the rows of a file, or sums of cells.

INPUTS
    the count table and the table of its samples, or the .h5ad or Zarr of the screen
OUTPUTS
    results/{screen}/{analysis}/samples.h5ad
"""


rule load_samples:
    input:
        screen=screen_file,
        samples=sample_table,
    output:
        samples="results/{screen}/{analysis}/samples.h5ad",
    log:
        "logs/{screen}/{analysis}/samples.log",
    benchmark:
        "logs/{screen}/{analysis}/samples.benchmark.tsv"
    wildcard_constraints:
        analysis=analyses_with("limma", "anova"),
    conda:
        "../../envs/condrand.yaml"
    resources:
        mem_mb=load_samples_mem_mb,
        runtime=60,
    params:
        screen=settings_of_table,
        settings=samples_settings,
        version=RESULTS_VERSION["load_samples"],
    script:
        "../../scripts/load_samples.py"
