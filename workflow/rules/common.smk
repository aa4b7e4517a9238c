"""
The configuration, and functions that rules call for their inputs, parameters and resources.

Nothing here opens the data: a dry run on a laptop shows every job.
"""

import re

import yaml
from snakemake.exceptions import WorkflowError

from condrand import plan
from condrand.config import (
    analyses_of,
    check_files,
    complete_config,
    needs_of,
    normalize_settings,
    outcomes_of,
)
from condrand.errors import InputError
from condrand.version import RESULTS_VERSION, kernel_sources_digest

SCHEMA = Path(workflow.basedir) / "workflow" / "schemas" / "config.schema.yaml"

try:
    named = ", ".join(map(str, workflow.configfiles))
    config = complete_config(config, yaml.safe_load(SCHEMA.read_text()), named)
    # A screen that is loaded already needs its file no more.
    unread = [s for s in config["screens"] if not Path(f"results/{s}/screen.h5ad").exists()]
    check_files(config, named, unread)
except InputError as error:
    raise WorkflowError(f"Bad configuration. {error}") from None

BATCHES = [plan.number(b) for b in range(config["scatter"]["batches"])]
SHARDS = [plan.number(s) for s in range(config["scatter"]["shards"])]


wildcard_constraints:
    screen="[^/]+",
    analysis="[^/]+",
    batch=r"\d{4}",
    shard=r"\d{4}",


def analysis_of(wildcards):
    return config["analyses"][wildcards.analysis]


def analyses_with(*engines):
    """Pattern of the names of the analyses of some engines: two may write files of one name."""
    named = [
        re.escape(name)
        for name, analysis in config["analyses"].items()
        if analysis["engine"] in engines
    ]
    return "|".join(named) or "(?!)"


SCREEN_FILES = ["screen.h5ad", "targets.tsv"]
TABLES = ["effects.parquet", "effects.tsv.gz", "controls.parquet", "controls.tsv.gz"]
TABLES += ["ntc_groups.parquet", "calibration.tsv", "summary.txt"]
TABLES += ["flagged_controls.tsv", "verdict.txt", "outcome.h5ad"]
FIGURES = ["qq", "volcano", "volcano_by_feature", "p_histogram"]
OF_ENGINE = {
    "crt": {"tables": ["residual_trends.tsv"], "figures": ["residuals"]},
    "dex": {
        "tables": ["groups.tsv", "blocks.tsv", "ranked_targets.tsv", "plots/targets.pdf"],
        "figures": ["volcano_by_target", "md_by_target", "heatmap", "dotplot", "ranking"],
    },
}
OF_NULL = {
    "crt": {
        "tables": ["units.tsv", "ntc_groups.tsv", "crt_null.tsv"],
        "figures": ["propensity", "qq_diagnostics", "qq_by_feature"],
    },
    "ntc_empirical": {
        "tables": ["ntc_groups.tsv", "ntc_null.parquet", "ntc_matching.tsv", "crossfit.parquet"],
        "figures": ["qq_crossfit"],
    },
}


def is_sharded(analysis):
    """Whether batches of an analysis are split over shards; the null of NTC guides is not."""
    return analysis.get("null_method") != "ntc_empirical"


def results_of(screen, analysis):
    """Every file below an analysis's folder."""
    settings = config["analyses"][analysis]
    sets = [OF_ENGINE[settings["engine"]]]
    if settings["engine"] == "crt":
        sets.append(OF_NULL[settings["null_method"]])
    figures = FIGURES + [figure for those in sets for figure in those["figures"]]
    names = TABLES + [table for those in sets for table in those["tables"]]
    names += [f"plots/{figure}.{kind}" for figure in figures for kind in ("png", "svg")]
    if settings["engine"] == "dex" and settings["groupby"] is None:
        names.append("ntc_groups.tsv")
    if is_sharded(settings):
        names += [f"batch-{batch}.parquet" for batch in BATCHES]
        names += [f"batch-{batch}/shard-{shard}.h5" for batch in BATCHES for shard in SHARDS]
    if settings.get("null_method") == "crt":
        names += [f"batch-{batch}.crt_null.tsv" for batch in BATCHES]
        names += [f"batch-{batch}/propensity.h5" for batch in BATCHES]
    if config["analyses"][analysis]["write_h5ad"]:
        names.append("annotated.h5ad")
    return [f"results/{screen}/{analysis}/{name}" for name in names]


def results_wanted():
    """Every file of a run but the kernel stamp, from the configuration alone.

    Intermediate files too: Snakemake does not miss one whose descendants are there, so a deleted
    shard, or what a failed job took away after a change, would be forgotten over old results.
    """
    analysed = dict.fromkeys(screen for screen, _ in analyses_of(config))
    wanted = [f"results/{screen}/{name}" for screen in analysed for name in SCREEN_FILES]
    for screen, analysis in analyses_of(config):
        wanted += results_of(screen, analysis)
    return wanted


def print_summaries():
    for screen, analysis in analyses_of(config):
        summary = Path(f"results/{screen}/{analysis}/summary.txt")
        if summary.exists():
            print(f"\n{summary.read_text()}", file=sys.stderr)


# Inputs


def screen_file(wildcards):
    """The user's file of a screen, or the one that is simulated in its place."""
    screen = config["screens"][wildcards.screen]
    return screen.get("path", f"results/{wildcards.screen}/simulated.h5ad")


def batches_of_analysis(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}"
    if not is_sharded(analysis_of(wildcards)):
        return [f"{folder}/ntc_null.parquet"]
    return [f"{folder}/batch-{batch}.parquet" for batch in BATCHES]


def null_counts_of_analysis(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}"
    return [f"{folder}/batch-{batch}.crt_null.tsv" for batch in BATCHES]


def propensities_of_analysis(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}"
    return [f"{folder}/batch-{batch}/propensity.h5" for batch in BATCHES]


def ntc_groups_of_analysis(wildcards):
    """Groups of NTC guides, where cells are grouped by guides."""
    if analysis_of(wildcards)["groupby"] is not None:
        return []
    return f"results/{wildcards.screen}/{wildcards.analysis}/ntc_groups.tsv"


def shards_of_batch(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}/batch-{wildcards.batch}"
    return [f"{folder}/shard-{shard}.h5" for shard in SHARDS]


# Parameters: what gives a file its meaning, and nothing else


def settings_of_screen(wildcards):
    """The screen's section without its path, which the rule's input holds."""
    section = config["screens"][wildcards.screen]
    return {key: section[key] for key in sorted(section) if key not in ("path", "simulate")}


def outcomes_of_screen(wildcards):
    return outcomes_of(config, wildcards.screen)


def needs_of_screen(wildcards):
    return needs_of(config, wildcards.screen)


def p_floor_of(wildcards):
    """Smallest empirical p value of an analysis, where it is one for all tests."""
    analysis = analysis_of(wildcards)
    return 1 / (analysis["resamples"] + 1) if analysis.get("null_method") == "crt" else None


def draws_of(wildcards):
    """Who is treated in a resample."""
    return {key: analysis_of(wildcards)[key] for key in ("sampler", "stratify")}


def groups_settings(wildcards):
    """What says who is compared with whom: the analysis but its tests."""
    analysis = analysis_of(wildcards)
    keys = ("outcome", "groupby", "multiple_guides", "targets", "control", "control_group")
    keys += ("controls", "max_records", "ties")
    return {key: analysis[key] for key in keys}


def test_settings(wildcards):
    """How sums become p values and effects."""
    keys = ("test", "geometric_mean", "pseudocount", "continuity", "exact_max_cells")
    return {key: analysis_of(wildcards)[key] for key in keys}


def blocks_of_shard(wildcards):
    resamples = analysis_of(wildcards)["resamples"]
    return plan.blocks_of_shard(resamples, len(SHARDS), int(wildcards.shard))


def resamples_of_shard(wildcards):
    """B, but only where it cuts the shard's last block short: raising B keeps the other shards."""
    end = blocks_of_shard(wildcards)[1] * plan.BLOCK
    return min(analysis_of(wildcards)["resamples"], end)


# Resources: from the sizes of files, in MiB and minutes, growing with each attempt


def load_mem_mb(wildcards, input, attempt):
    return attempt * plan.load_mem_mb(plan.read_mb(input.screen))


def normalize_mem_mb(wildcards, input, attempt):
    return attempt * plan.normalize_mem_mb(plan.read_mb(input.screen))


def propensity_mem_mb(wildcards, input, attempt):
    return attempt * plan.propensity_mem_mb(plan.read_mb(input.outcome))


def propensity_runtime(wildcards, input, attempt):
    units, _ = plan.batch_load([input.targets, input.groups], int(wildcards.batch))
    return attempt * plan.propensity_runtime_min(plan.read_mb(input.outcome), units)


def shard_mem_mb(wildcards, input, threads, attempt):
    return attempt * plan.shard_mem_mb(plan.read_mb(input.outcome), threads)


def dex_shard_mem_mb(wildcards, input, attempt):
    blocks_mb, n_features = plan.feature_blocks(input.blocks)
    units, _ = plan.batch_load([input.groups], int(wildcards.batch))
    n_tests = units * -(-n_features // len(SHARDS))
    return attempt * plan.dex_shard_mem_mb(blocks_mb, n_tests)


def dex_shard_runtime(wildcards, input, attempt):
    blocks_mb, _ = plan.feature_blocks(input.blocks)
    return attempt * plan.dex_shard_runtime_min(blocks_mb, len(SHARDS))


def dex_groups_mem_mb(wildcards, input, attempt):
    return attempt * plan.dex_groups_mem_mb(plan.read_mb(input.screen))


def dex_merge_mem_mb(wildcards, input, attempt):
    _, n_features = plan.feature_blocks(input.blocks)
    units, _ = plan.batch_load([input.groups], int(wildcards.batch))
    return attempt * plan.dex_merge_mem_mb(units * n_features)


def ntc_null_mem_mb(wildcards, input, attempt):
    return attempt * plan.ntc_null_mem_mb(plan.read_mb(input.outcome))


def shard_runtime(wildcards, input, threads, attempt):
    first, end = blocks_of_shard(wildcards)
    units, treated = plan.batch_load([input.targets, input.groups], int(wildcards.batch))
    minutes = plan.shard_runtime_min(
        plan.read_mb(input.outcome), units, treated, end - first, threads
    )
    return attempt * minutes


def tables_mem_mb(wildcards, input, attempt):
    """Merging and plotting: libraries, and the tables a few times over.

    Of an outcome only the header is read.
    """
    tables = [path for path in input if Path(path).name != "outcome.h5ad"]
    return attempt * (1000 + 10 * sum(plan.read_mb(path) for path in tables))
