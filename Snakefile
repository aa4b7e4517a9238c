# results/{screen}/screen.h5ad                                     the input, checked; targets.tsv beside it
# results/{screen}/{analysis}/outcome.h5ad                         what every batch shares
# results/{screen}/{analysis}/batch-{batch}/propensity.h5           (crt)
# results/{screen}/{analysis}/batch-{batch}/shard-{shard}.h5       the unit of failure and rerun
# results/{screen}/{analysis}/batch-{batch}.parquet                a merged batch
# results/{screen}/{analysis}/samples.h5ad, filtered.h5ad          samples x features  (limma, anova)
# results/{screen}/{analysis}/shard-{shard}.h5                     a run of features   (limma, anova)
# results/{screen}/{analysis}/effects.parquet                      the results; plots/ beside it
# logs/...                                                         the same path, .log and .benchmark.tsv
import sys
from pathlib import Path

from snakemake.utils import min_version

min_version("9.0")

sys.path.insert(0, str(Path(workflow.basedir) / "scripts"))


# A configuration named on the command line replaces the demo's; Snakemake alone would mix them.
if not workflow.overwrite_configfiles:

    configfile: "config/config.yaml"


report: "workflow/report/workflow.rst"


include: "workflow/rules/common.smk"
include: "workflow/rules/kernels.smk"
include: "workflow/rules/simulate.smk"
include: "workflow/rules/load.smk"
include: "workflow/rules/normalize.smk"
include: "workflow/rules/crt.smk"
include: "workflow/rules/dex.smk"
include: "workflow/rules/kompot.smk"
include: "workflow/rules/samples.smk"
include: "workflow/rules/limma.smk"
include: "workflow/rules/anova.smk"
include: "workflow/rules/merge.smk"
include: "workflow/rules/plots.smk"


rule all:
    default_target: True
    input:
        results_wanted(),


onsuccess:
    print_summaries()
