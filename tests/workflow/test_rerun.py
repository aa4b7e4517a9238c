"""What is computed again after a change or a failure, and what is not.

The finished run has 2 batches x 2 shards. Jobs are named by their (first) output.
"""

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

S, A = "results/S", "results/S/A"
SHARD = f"{A}/batch-0000/shard-0001.h5"
SHARDS = {f"{A}/batch-{b:04d}/shard-{s:04d}.h5" for b in range(2) for s in range(2)}
PROPENSITIES = {f"{A}/batch-{b:04d}/propensity.h5" for b in range(2)}
NULLS = {f"{A}/batch-{b:04d}/null.h5" for b in range(2)}
STAGES = {f"{A}/batch-{b:04d}/stage-1/shard-{s:04d}.h5" for b in range(2) for s in range(2)}
BATCH_TABLES = {f"{A}/batch-{b:04d}.parquet" for b in range(2)}
TABLES = {f"{A}/effects.parquet"}
SUMMARY, FIGURES = {f"{A}/summary.txt"}, {f"{A}/plots/qq.png", f"{A}/plots/qq_diagnostics.png"}
STANDING = {f"{A}/plots/propensity.png", f"{A}/plots/residuals.png"}
UNITS = {f"{A}/units.tsv", f"{A}/plots/propensity.png"}
AFTER_TABLES = TABLES | SUMMARY | FIGURES
AFTER_STAGES = BATCH_TABLES | AFTER_TABLES
AFTER_SHARDS = NULLS | {f"{A}/crt_null.tsv"} | STAGES | AFTER_STAGES
ONE_SHARD = {SHARD} | {path for path in AFTER_SHARDS if "batch-0001" not in path}


def test_a_finished_run_plans_nothing(finished):
    assert finished.planned() == {}


def test_forcing_one_shard_plans_it_its_merge_and_what_follows(finished):
    assert finished.planned("--forcerun", SHARD, "--", "all") == {
        SHARD: "crt_shard",
        f"{A}/batch-0000/null.h5": "crt_merge",
        f"{A}/batch-0000/stage-1/shard-0000.h5": "crt_refine",
        f"{A}/batch-0000/stage-1/shard-0001.h5": "crt_refine",
        f"{A}/batch-0000.parquet": "crt_effects",
        f"{A}/crt_null.tsv": "crt_null",
        f"{A}/effects.parquet": "merge_effects",
        f"{A}/summary.txt": "summarize",
        f"{A}/plots/qq.png": "plot_effects",
        f"{A}/plots/qq_diagnostics.png": "plot_diagnostics",
    }


@pytest.mark.slow
def test_forcing_it_without_naming_a_goal_plans_the_same(finished):
    assert set(finished.planned("--forcerun", SHARD)) == ONE_SHARD


@pytest.mark.parametrize("also", [[], [f"{A}/batch-0000.parquet", f"{A}/effects.parquet"]])
def test_a_deleted_shard_is_missed_whatever_was_made_from_it(also, copy_of_finished):
    for path in (SHARD, *also):
        (copy_of_finished.path / path).unlink()
    assert set(copy_of_finished.planned()) == ONE_SHARD


@pytest.mark.slow
def test_a_shard_that_only_looks_newer_plans_nothing(copy_of_finished):
    # Inputs below a megabyte are compared by checksum.
    os.utime(copy_of_finished.path / SHARD)
    assert copy_of_finished.planned() == {}


@pytest.mark.parametrize(
    ("resamples", "shards"),
    [
        # 3 blocks: the second shard gets blocks 1 and 2.
        (3072, {path for path in SHARDS if path.endswith("shard-0001.h5")}),
        # Still 2 blocks, the last one cut short.
        (2000, {path for path in SHARDS if path.endswith("shard-0001.h5")}),
        # 4 blocks: both shards get other ones.
        pytest.param(4096, SHARDS, marks=pytest.mark.slow),
    ],
)
def test_another_number_of_resamples_plans_only_shards_with_other_blocks(
    resamples, shards, copy_of_finished
):
    copy_of_finished.change("analyses", "A", "resamples", resamples)
    after = AFTER_SHARDS
    if resamples == 4096:
        # Refining is worth two blocks: half of them, and half of the shards.
        after = {path for path in after if "stage-1/shard-0001" not in path}
    assert set(copy_of_finished.planned()) == shards | after


def test_twice_the_resamples_in_twice_the_shards_keeps_every_old_shard(copy_of_finished):
    copy_of_finished.change("analyses", "A", "resamples", 4096)
    copy_of_finished.change("scatter", "shards", 4)
    new = {f"{A}/batch-{b:04d}/shard-{s:04d}.h5" for b in range(2) for s in (2, 3)}
    # Refining is worth two blocks of the four, and has the two shards that it had.
    assert set(copy_of_finished.planned()) == new | AFTER_SHARDS


def test_another_seed_plans_shards_and_what_follows_but_nothing_before(copy_of_finished):
    copy_of_finished.change("seed", 124)
    assert set(copy_of_finished.planned()) == SHARDS | AFTER_SHARDS


def test_another_fdr_plans_summary_and_figures_only(copy_of_finished):
    copy_of_finished.change("fdr", 0.1)
    assert set(copy_of_finished.planned()) == SUMMARY | {f"{A}/plots/qq.png"}


@pytest.mark.slow
def test_another_tail_plans_stages_and_what_follows(copy_of_finished):
    copy_of_finished.change("analyses", "A", "tail", "left")
    assert set(copy_of_finished.planned()) == STAGES | AFTER_STAGES


def test_a_deleted_refine_shard_plans_it_and_what_depends_on_it(copy_of_finished):
    shard = f"{A}/batch-0001/stage-1/shard-0000.h5"
    (copy_of_finished.path / shard).unlink()
    assert set(copy_of_finished.planned()) == {shard, f"{A}/batch-0001.parquet"} | AFTER_TABLES


IMPORTANCE = {"below": 0.01, "method": "importance", "resamples": 255}
PLAIN = {"below": 0.001, "method": "resamples", "resamples": 5000}


def test_other_stages_leave_the_shards_of_resamples_alone(copy_of_finished):
    copy_of_finished.change("analyses", "A", "refine", [{**IMPORTANCE, "below": 0.1}])
    assert set(copy_of_finished.planned()) == STAGES | AFTER_STAGES
    copy_of_finished.change("analyses", "A", "calibration", "empirical")
    copy_of_finished.change("analyses", "A", "refine", "auto")
    assert set(copy_of_finished.planned()) == AFTER_STAGES


@pytest.mark.slow
def test_one_stage_more_keeps_those_before_it(copy_of_finished):
    # Written out, the first stage is still what `auto` is.
    copy_of_finished.change("analyses", "A", "refine", [IMPORTANCE])
    assert copy_of_finished.planned() == {}
    copy_of_finished.change("analyses", "A", "refine", [IMPORTANCE, PLAIN])
    second = {path.replace("stage-1", "stage-2") for path in STAGES}
    assert set(copy_of_finished.planned()) == second | AFTER_STAGES


@pytest.mark.slow
def test_another_clip_plans_propensities_and_what_follows(copy_of_finished):
    copy_of_finished.change("analyses", "A", "propensity", "clip", 1e-5)
    assert set(copy_of_finished.planned()) == PROPENSITIES | SHARDS | AFTER_SHARDS | UNITS


def test_other_threads_plan_nothing(copy_of_finished):
    copy_of_finished.change("scatter", "threads", 2)
    assert copy_of_finished.planned() == {}


def test_another_analysis_of_the_same_outcome_leaves_the_first_one_alone(copy_of_finished):
    copy_of_finished.change("analyses", "B", {"engine": "crt", "tail": "left"})
    planned = copy_of_finished.planned()
    assert f"{S}/B/effects.parquet" in planned
    assert [path for path in planned if not path.startswith(f"{S}/B/")] == []


@pytest.mark.slow
def test_another_screen_leaves_the_first_one_alone(copy_of_finished):
    copy_of_finished.change("screens", "T", {"simulate": {"n_cells": 500}})
    planned = copy_of_finished.planned()
    assert "results/T/A/effects.parquet" in planned
    assert [path for path in planned if not path.startswith("results/T/")] == []


@pytest.mark.parametrize(
    ("stage", "expected"),
    [
        ("crt_shard", SHARDS | AFTER_SHARDS),
        pytest.param(
            "crt_propensity",
            PROPENSITIES | SHARDS | AFTER_SHARDS | UNITS,
            marks=pytest.mark.slow,
        ),
        pytest.param("crt_merge", AFTER_SHARDS | UNITS, marks=pytest.mark.slow),
        pytest.param("crt_refine", STAGES | AFTER_STAGES, marks=pytest.mark.slow),
        pytest.param("crt_effects", AFTER_STAGES, marks=pytest.mark.slow),
        pytest.param("plots", FIGURES | STANDING, marks=pytest.mark.slow),
    ],
)
def test_raising_the_version_of_a_stage_plans_it_and_what_follows(
    stage, expected, finished, checkout
):
    change_line(
        checkout / "scripts/condrand/version.py",
        lambda line: line.strip().startswith(f'"{stage}":'),
        lambda line: re.sub(r"\d+", lambda number: str(int(number[0]) + 1), line),
    )
    assert set(planned_by(checkout, finished)) == expected


def test_an_edited_kernel_plans_nothing_and_hides_nothing_that_is_missing(
    finished, checkout, tmp_path
):
    with (checkout / "scripts/condrand/kernels/ols.py").open("a") as source:
        source.write("# An edit that changes no number.\n")
    run = finished.copy(tmp_path / "run", checkout)
    assert run.planned() == {}
    run.change("analyses", "B", {"engine": "crt", "resamples": 100})
    planned = run.planned()
    assert "results/S/B/effects.parquet" in planned
    assert "results/kernels.txt" not in planned


def change_line(path: Path, wanted, change) -> None:
    lines = path.read_text().splitlines(keepends=True)
    changed = [change(line) if wanted(line) else line for line in lines]
    assert sum(old != new for old, new in zip(lines, changed, strict=True)) == 1
    path.write_text("".join(changed))


def planned_by(checkout: Path, finished) -> dict[str, str]:
    return finished.copy(checkout.parent / "run", checkout).planned()


def block(folder, *logs: str) -> Callable[[], None]:
    """Make the jobs fail that write these logs; give what lets them be again."""
    places = [folder.path / "logs/S" / log for log in logs]
    for place in places:
        place.unlink()
        # Snakemake removes a log before its job starts, but no folder with something in it.
        (place / "in-the-way").mkdir(parents=True)

    def let_be() -> None:
        for place in places:
            shutil.rmtree(place)

    return let_be


BATCHES = ("batch-0000", "batch-0001")


@pytest.mark.parametrize(
    ("rule", "logs", "change"),
    [
        ("normalize", ["A/outcome.log"], ("analyses", "A", "outcome", "transform", "none")),
        ("crt_effects", [f"A/{b}.log" for b in BATCHES], ("analyses", "A", "tail", "left")),
        pytest.param(
            "load_screen",
            ["screen.log"],
            ("screens", "S", "ntc_labels", ["non-targeting", "other"]),
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "crt_propensity",
            [f"A/{b}/propensity.log" for b in BATCHES],
            ("analyses", "A", "propensity", "clip", 1e-5),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_what_failed_after_a_change_is_not_forgotten_over_the_old_results(
    rule, logs, change, copy_of_finished
):
    """Snakemake removes an old file before it is made anew, so after a failure it is missing."""
    copy_of_finished.change(*change)
    let_be = block(copy_of_finished, *logs)
    copy_of_finished.snakemake("--keep-going", fails=True)
    let_be()
    planned = copy_of_finished.planned()
    assert list(planned.values()).count(rule) == len(logs)
    assert set(planned) >= AFTER_STAGES


def test_after_a_failed_shard_the_others_finish_and_only_the_missing_is_planned(
    finished, copy_of_finished
):
    shards = {path for path in SHARDS if "batch-0000" in path}
    for path in shards | AFTER_SHARDS | UNITS:
        (copy_of_finished.path / path).unlink()
    let_be = block(copy_of_finished, "A/batch-0000/shard-0001.log")
    text = copy_of_finished.snakemake("--keep-going", fails=True)
    assert text.count("Error in rule ") == 1
    made = set(copy_of_finished.contents())
    of_other_batch = {path for path in AFTER_SHARDS if "batch-0001" in path}
    expected = SHARDS - {SHARD} | of_other_batch | UNITS
    assert made & (SHARDS | AFTER_SHARDS | UNITS) == expected

    let_be()
    assert set(copy_of_finished.planned()) == ONE_SHARD
    copy_of_finished.snakemake()
    assert copy_of_finished.contents() == finished.contents()


@pytest.mark.slow
def test_a_forced_shard_is_made_again_with_the_same_bytes_and_so_is_what_follows(
    finished, copy_of_finished
):
    from_before = copy_of_finished.path / SHARD
    before = from_before.stat().st_mtime_ns
    text = copy_of_finished.snakemake("--forcerun", SHARD, "--", "all")
    # Snakemake carries out its plan to the end, though the new shard equals the old one.
    assert f"{len(ONE_SHARD) + 1} of {len(ONE_SHARD) + 1} steps (100%) done" in text
    assert from_before.stat().st_mtime_ns > before
    assert copy_of_finished.contents() == finished.contents()
    assert copy_of_finished.planned() == {}


@pytest.mark.slow
def test_growing_step_by_step_gives_the_bytes_of_a_run_from_scratch(copy_of_finished, new_folder):
    """Resamples raised, then a second analysis: against one run of the final config."""
    copy_of_finished.change("analyses", "A", "resamples", 4000)
    copy_of_finished.change("scatter", "shards", 4)
    copy_of_finished.snakemake()
    copy_of_finished.change("analyses", "B", {"engine": "crt", "tail": "right"})
    copy_of_finished.snakemake()
    fresh = new_folder({}, "fresh")
    shutil.copy2(copy_of_finished.config_file, fresh.config_file)
    fresh.snakemake()
    assert copy_of_finished.contents() == fresh.contents()
