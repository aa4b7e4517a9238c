"""
The configuration, and functions that rules call for their inputs, parameters and resources.

Nothing here opens the data: a dry run on a laptop shows every job.
"""

import re

import yaml
from snakemake.exceptions import WorkflowError

from condrand import plan
from condrand.config import (
    OF_CELLS,
    OF_SAMPLES,
    analyses_of,
    check_files,
    complete_config,
    needs_of,
    normalize_settings,
    outcomes_of,
    p_floors,
    refine_stages,
)
from condrand.errors import InputError
from condrand.version import RESULTS_VERSION

SCHEMA = Path(workflow.basedir) / "workflow" / "schemas" / "config.schema.yaml"


def unread_screens():
    """Screens of which something is to be read yet: a loaded one needs its file no more."""
    cells = [(screen, "screen.h5ad") for screen, _ in analyses_of(config, OF_CELLS)]
    samples = [
        (screen, f"{name}/samples.h5ad") for screen, name in analyses_of(config, OF_SAMPLES)
    ]
    return {
        screen for screen, file in cells + samples if not Path(f"results/{screen}/{file}").exists()
    }


try:
    named = ", ".join(map(str, workflow.configfiles))
    config = complete_config(config, yaml.safe_load(SCHEMA.read_text()), named)
    check_files(config, named, unread_screens())
except InputError as error:
    raise WorkflowError(f"Bad configuration. {error}") from None

BATCHES = [plan.number(b) for b in range(config["scatter"]["batches"])]
SHARDS = [plan.number(s) for s in range(config["scatter"]["shards"])]


wildcard_constraints:
    screen="[^/]+",
    analysis="[^/]+",
    batch=r"\d{4}",
    shard=r"\d{4}",
    stage=r"\d+",


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
TABLES = ["effects.parquet", "effects.tsv.gz", "summary.txt"]
FIGURES = ["p_histogram"]
CONTROLS = ["controls.parquet", "controls.tsv.gz", "ntc_groups.parquet", "calibration.tsv"]
CONTROLS += ["flagged_controls.tsv", "verdict.txt", "outcome.h5ad"]
EFFECTS = ["qq", "volcano", "volcano_by_feature"]
OF_ENGINE = {
    "crt": {"tables": [*CONTROLS, "residual_trends.tsv"], "figures": [*EFFECTS, "residuals"]},
    "dex": {
        "tables": [
            *CONTROLS,
            "groups.tsv",
            "blocks.tsv",
            "ranked_targets.tsv",
            "plots/targets.pdf",
        ],
        "figures": [
            *EFFECTS,
            *("volcano_by_target", "md_by_target", "heatmap", "dotplot", "ranking"),
        ],
    },
    "kompot": {
        "tables": [
            *("states.h5ad", "sizes.tsv", "abundance.h5", "panels.h5", "cells.h5ad"),
            *("null_distances.tsv.gz", "fdr.tsv"),
        ],
        "figures": [
            *("abundance_volcano", "abundance_embedding", "expression_volcano", "mahalanobis"),
            "panels",
        ],
    },
    "limma": {
        "tables": [
            *("samples.h5ad", "filtered.h5ad", "outcome.h5ad", "features.tsv.gz", "calls.tsv"),
            *("moderation.tsv", "plots/top_heatmaps.pdf"),
        ],
        "figures": [
            *("library_sizes", "densities", "mds", "voom_trend", "sa", "md_by_contrast"),
            *("volcano_by_contrast", "top_heatmap"),
        ],
    },
    "anova": {
        "tables": ["samples.h5ad", "significant.tsv", "terms.tsv"],
        "figures": ["clustered_heatmap"],
    },
}
OF_NULL = {
    "crt": {
        "tables": ["units.tsv", "ntc_groups.tsv", "crt_null.tsv"],
        "figures": ["propensity", "qq_diagnostics", "qq_by_feature", "agreement"],
    },
    "ntc_empirical": {
        "tables": ["ntc_groups.tsv", "ntc_null.parquet", "ntc_matching.tsv", "crossfit.parquet"],
        "figures": ["qq_crossfit"],
    },
}


def is_sharded(analysis):
    """Whether batches of an analysis are split over shards; the null of NTC guides is not."""
    return analysis["engine"] in ("crt", "dex") and analysis.get("null_method") != "ntc_empirical"


def refined_shards(analysis, before=None):
    """Shards of the stages of refinement, or of those before one, as they lie in a batch."""
    return [
        f"stage-{number}/shard-{plan.number(shard)}.h5"
        for number, n_shards in enumerate(shards_of_stages(analysis)[:before], 1)
        for shard in range(n_shards)
    ]


def shards_of_stages(analysis):
    """How many shards each stage of refinement has."""
    resamples = analysis["resamples"]
    stages = refine_stages(analysis)
    return [plan.refine_shards(len(SHARDS), resamples, stage) for stage in stages]


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
    if settings["engine"] in (*OF_SAMPLES, "kompot"):
        names += [f"shard-{shard}.h5" for shard in SHARDS]
    if settings["engine"] == "kompot" and settings["null_distances"]["count"]:
        names += [f"null-{shard}.h5" for shard in SHARDS]
    if is_sharded(settings):
        names += [f"batch-{batch}.parquet" for batch in BATCHES]
        names += [f"batch-{batch}/shard-{shard}.h5" for batch in BATCHES for shard in SHARDS]
    if settings.get("null_method") == "crt":
        names += [f"batch-{batch}.crt_null.tsv" for batch in BATCHES]
        names += [f"batch-{batch}/propensity.h5" for batch in BATCHES]
        names += [f"batch-{batch}/null.h5" for batch in BATCHES]
        for batch in BATCHES:
            names += [f"batch-{batch}/{name}" for name in refined_shards(settings)]
    if settings.get("write_h5ad"):
        names.append("annotated.h5ad")
    return [f"results/{screen}/{analysis}/{name}" for name in names]


def results_wanted():
    """Every file of a run but the kernel stamp, from the configuration alone.

    Intermediate files too: Snakemake does not miss one whose descendants are there, so a deleted
    shard, or what a failed job took away after a change, would be forgotten over old results.
    """
    analysed = dict.fromkeys(screen for screen, _ in analyses_of(config, OF_CELLS))
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


def sample_table(wildcards):
    """The table of the samples of a count table."""
    return config["screens"][wildcards.screen].get("samples", [])


def design_matrix(wildcards):
    """The user's design, where it is a table."""
    return analysis_of(wildcards)["design_matrix"] or []


def design_of_filter(wildcards):
    """As :func:`design_matrix`, where it says how samples are grouped."""
    by_design = analysis_of(wildcards)["filter"]["groups"] is None
    return design_matrix(wildcards) if by_design else []


def shards_of_analysis(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}"
    return [f"{folder}/shard-{shard}.h5" for shard in SHARDS]


def nulls_of_analysis(wildcards):
    folder = f"results/{wildcards.screen}/{wildcards.analysis}"
    wanted = SHARDS if analysis_of(wildcards)["null_distances"]["count"] else []
    return [f"{folder}/null-{shard}.h5" for shard in wanted]


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


def stages_of_batch(wildcards):
    """Shards of the stages of refinement, of those before one where a stage is named."""
    before = int(wildcards.stage) - 1 if "stage" in wildcards.keys() else None
    folder = f"results/{wildcards.screen}/{wildcards.analysis}/batch-{wildcards.batch}"
    return [f"{folder}/{name}" for name in refined_shards(analysis_of(wildcards), before)]


# Parameters: what gives a file its meaning, and nothing else


def settings_of_screen(wildcards):
    """The screen's section without its files, which the rule's input holds."""
    section = config["screens"][wildcards.screen]
    others = ("path", "samples", "simulate", "annotation_columns")
    return {key: section[key] for key in sorted(section) if key not in others}


def settings_of_table(wildcards):
    """What is read of a screen whose samples are taken: guide calls for their targets alone."""
    keys = ["annotation_columns"]
    if analysis_of(wildcards)["pseudobulk"]["targets"]:
        keys += ["guide_assignment", "guide_names", "guide2gene", "ntc_labels"]
    return {key: config["screens"][wildcards.screen][key] for key in keys}


def outcomes_of_screen(wildcards):
    return outcomes_of(config, wildcards.screen)


def needs_of_screen(wildcards):
    return needs_of(config, wildcards.screen)


def p_floors_of(wildcards):
    """Smallest p values of an analysis that are counted, and that are reported."""
    return p_floors(analysis_of(wildcards))


def draws_of(wildcards):
    """Who is treated in a resample."""
    return {key: analysis_of(wildcards)[key] for key in ("sampler", "stratify")}


def shard_of_stage(wildcards):
    """Which shard of how many."""
    n_shards = shards_of_stages(analysis_of(wildcards))[int(wildcards.stage) - 1]
    return int(wildcards.shard), n_shards


def refine_settings(wildcards):
    """What says which tests go on from stage to stage, up to a stage where one is named."""
    stages = refine_stages(analysis_of(wildcards))
    if "stage" in wildcards.keys():
        stages = stages[: int(wildcards.stage)]
    return {**draws_of(wildcards), "tail": analysis_of(wildcards)["tail"], "stages": stages}


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


def samples_settings(wildcards):
    """What says which values of which samples are taken."""
    analysis = analysis_of(wildcards)
    columns = {analysis["colour"], analysis.get("filter", {}).get("groups")}
    return {
        "key": analysis["outcome"]["key"],
        "pseudobulk": analysis["pseudobulk"],
        "exclude": analysis["exclude"],
        "counts": analysis["outcome"]["transform"] != "none",
        "columns": sorted(columns - {None}),
    }


def filter_settings(wildcards):
    """What says which features are kept, and how samples are grouped."""
    analysis = analysis_of(wildcards)
    settings = {key: analysis[key] for key in ("filter", "normalization", "colour")}
    # Only whether values are counts: another transform of them keeps the features.
    transform = analysis["outcome"]["transform"]
    settings["transform"] = "none" if transform == "none" else "counts"
    # Samples that are grouped by a column are kept whatever the design.
    by_design = analysis["filter"]["groups"] is None
    settings["design"] = analysis["design"] if by_design else None
    settings["strip_prefix"] = analysis["strip_prefix"] if by_design else True
    return settings


def voom_settings(wildcards):
    """What says how counts become weighted log expression."""
    analysis = analysis_of(wildcards)
    keys = ("design", "strip_prefix", "array_weights")
    outcome = {key: analysis["outcome"][key] for key in ("transform", "span", "prior_count")}
    return {**outcome, **{key: analysis[key] for key in keys}}


def contrasts_settings(wildcards):
    """What is tested, and how."""
    keys = ("contrasts", "exact_contrasts", "moderation", "treat", "decide")
    return {key: analysis_of(wildcards)[key] for key in keys}


def anova_settings(wildcards):
    """The model of an analysis of variance."""
    analysis = analysis_of(wildcards)
    outcome = {key: analysis["outcome"][key] for key in ("transform", "prior_count")}
    return {**outcome, "formula": analysis["formula"]}


def states_settings(wildcards):
    """Which cells there are, and where."""
    analysis = analysis_of(wildcards)
    keys = ("outcome", "condition", "levels", "sample", "embedding", "plot_embedding")
    keys += ("n_landmarks", "length_scale", "ls_factor", "sample_variance", "min_cells")
    null = analysis["null_distances"]
    # Whether there are samples to exchange is found at once; how often they are changes no state.
    exchanged = null["kind"] == "samples" and null["count"] > 0
    kind = {"kind": "samples", "count": 1} if exchanged else {"kind": "genes", "count": 0}
    return {**{key: analysis[key] for key in keys}, "null": kind}


def abundance_settings(wildcards):
    """When abundance changes."""
    analysis = analysis_of(wildcards)
    keys = ("length_scale", "ls_factor", "min_cells", "abundance")
    return {key: analysis[key] for key in keys}


def expression_settings(wildcards):
    """How expression is smoothed and compared."""
    keys = ("outcome", "sigma", "empirical_variance", "min_cells", "cov_combine")
    return {key: analysis_of(wildcards)[key] for key in keys}


def null_settings(wildcards):
    """As :func:`expression_settings`, and what is no effect; the threshold changes no distance."""
    null = analysis_of(wildcards)["null_distances"]
    return {
        **expression_settings(wildcards),
        "null": {key: null[key] for key in ("kind", "count")},
    }


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


def refine_mem_mb(wildcards, input, threads, attempt):
    return attempt * plan.refine_mem_mb(plan.read_mb(input.outcome), threads)


def refine_runtime(wildcards, input, threads, attempt):
    number = int(wildcards.stage) - 1
    stage = refine_stages(analysis_of(wildcards))[number]
    units, treated = plan.batch_load([input.targets, input.groups], int(wildcards.batch))
    minutes = plan.refine_runtime_min(
        plan.read_mb(input.outcome),
        plan.n_tests(plan.read_mb(input.null)),
        units,
        treated,
        stage,
        shards_of_stages(analysis_of(wildcards))[number] * threads,
    )
    return attempt * minutes


def load_samples_mem_mb(wildcards, input, attempt):
    return attempt * plan.load_samples_mem_mb(plan.read_mb(input.screen))


def linear_mem_mb(wildcards, input, attempt):
    """Steps that hold all values of all samples."""
    files = [path for path in input if Path(path).suffix in (".h5ad", ".h5")]
    return attempt * plan.linear_mem_mb(sum(plan.read_mb(path) for path in files))


def linear_shard_mem_mb(wildcards, input, attempt):
    file = getattr(input, "outcome", None) or input.samples
    return attempt * plan.linear_mem_mb(plan.read_mb(file) / len(SHARDS))


def kompot_states_mem_mb(wildcards, input, attempt):
    return attempt * plan.kompot_states_mem_mb(plan.read_mb(input.screen))


def kompot_mem_mb(wildcards, input, attempt):
    return attempt * plan.kompot_mem_mb(plan.kompot_sizes(input.sizes))


def kompot_runtime(wildcards, input, attempt):
    sizes = plan.kompot_sizes(input.sizes)
    blocks = -(-plan.n_feature_blocks(sizes["n_features"]) // len(SHARDS))
    return attempt * plan.kompot_runtime_min(sizes, blocks)


def kompot_null_runtime(wildcards, input, attempt):
    sizes, null = plan.kompot_sizes(input.sizes), analysis_of(wildcards)["null_distances"]
    blocks = plan.n_feature_blocks(null["count"])
    if null["kind"] == "samples":
        blocks = null["count"] * plan.n_feature_blocks(sizes["n_features"])
    return attempt * plan.kompot_runtime_min(sizes, -(-blocks // len(SHARDS)))


def tables_mem_mb(wildcards, input, attempt):
    """Merging and plotting: libraries, and the tables a few times over.

    Of an outcome only the header is read.
    """
    tables = [path for path in input if Path(path).name != "outcome.h5ad"]
    return attempt * plan.job_mem_mb(1000 + 10 * sum(plan.read_mb(path) for path in tables))


def fixed_mem_mb(script_mb):
    """Of jobs that need about the same whatever the input."""
    return lambda wildcards, attempt: attempt * plan.job_mem_mb(script_mb)
