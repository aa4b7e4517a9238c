"""The same numbers, bit for bit, however the work is split and whatever else is in the screen.

The fast tests call the functions behind the rules; the slow one runs Snakemake. As a program,
this file makes one analysis: ``python test_determinism.py SCREEN FOLDER``.
"""

import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml

from condrand.config import (
    complete_config,
    needs_of,
    normalize_settings,
    p_floors,
    refine_stages,
)
from condrand.engines.crt_refine_steps import refine_shard, write_effects
from condrand.engines.crt_steps import (
    join_null_counts,
    merge_batch,
    prepare_batch,
    resample_shard,
)
from condrand.engines.ntc_groups import write_ntc_groups
from condrand.fdr import benjamini_hochberg
from condrand.io.shards import read_arrays
from condrand.merge import merge_analysis
from condrand.normalize import normalize
from condrand.plan import BLOCK, blocks_of_shard
from condrand.screen import load_screen
from condrand.simulate import simulate_screen

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"
SCHEMA = SCRIPTS.parent / "workflow" / "schemas" / "config.schema.yaml"

# 7 blocks, so that 7 shards hold one each; the last is cut short.
RESAMPLES = 7 * BLOCK - 168
SIMULATE = {"n_cells": 600, "n_programs": 3, "n_targets": 6, "guides_per_target": 2}
TABLES = {
    "effects": "effects.parquet",
    "effects_tsv": "effects.tsv.gz",
    "controls": "controls.parquet",
    "controls_tsv": "controls.tsv.gz",
    "ntc_groups": "ntc_groups.parquet",
    "crt_null": "crt_null.tsv",
    "calibration": "calibration.tsv",
    "flagged_controls": "flagged_controls.tsv",
    "verdict": "verdict.txt",
}


def config_of(source: Path, analysis: dict[str, Any]) -> dict[str, Any]:
    base = {"engine": "crt", "resamples": RESAMPLES, "calibration": "skew_normal"}
    return {"screens": {"S": {"path": str(source)}}, "analyses": {"A": {**base, **analysis}}}


def make_analysis(
    source: Path,
    folder: Path,
    *,
    shards: int = 1,
    batches: int = 1,
    threads: int = 1,
    seed: int = 123,
    **analysis: Any,
) -> dict[str, bytes]:
    """Do what the rules from load_screen to merge_effects do; give the tables' bytes."""
    schema = yaml.safe_load(SCHEMA.read_text())
    config = complete_config(config_of(source, analysis), schema, "this test")
    screen_settings, settings = config["screens"]["S"], config["analyses"]["A"]
    wanted, controls = settings["targets"], settings["controls"]
    folder.mkdir(parents=True)
    screen, targets, outcome = (folder / f for f in ("screen.h5ad", "targets.tsv", "outcome.h5ad"))
    groups = folder / "ntc_groups.tsv"
    load_screen(
        source,
        screen_settings,
        [settings["outcome"]],
        needs_of(config, "S"),
        batches,
        screen,
        targets,
    )
    normalize(screen, outcome, **normalize_settings(settings))
    write_ntc_groups(screen, groups, controls, settings["ntc_groups"], batches)
    merged, counts = [], []
    for batch in range(batches):
        propensity = folder / f"batch-{batch}" / "propensity.h5"
        prepare_batch(
            screen, [targets, groups], outcome, propensity, batch, wanted, controls, settings
        )
        paths = [folder / f"batch-{batch}" / f"shard-{shard}.h5" for shard in range(shards)]
        for shard, path in enumerate(paths):
            blocks = blocks_of_shard(settings["resamples"], shards, shard)
            resample_shard(
                outcome, propensity, path, blocks, settings["resamples"], seed, threads, settings
            )
        merged.append(folder / f"batch-{batch}.parquet")
        counts.append(folder / f"batch-{batch}.crt_null.tsv")
        null = folder / f"batch-{batch}" / "null.h5"
        merge_batch(outcome, propensity, paths, null, counts[-1], settings, seed)
        stages = refine_stages(settings)
        refined = []
        for number in range(1, 1 + len(stages)):
            given, before = {**settings, "stages": stages[:number]}, list(refined)
            for s in range(shards):
                refined.append(folder / f"batch-{batch}" / f"stage-{number}" / f"{s}.h5")
                refine_shard(
                    *(outcome, propensity, null, before, refined[-1], (s, shards), given),
                    *(seed, threads),
                )
        given = {**settings, "stages": stages}
        write_effects(outcome, propensity, null, refined, merged[-1], ("S", "A"), given, seed)
    written = {key: folder / name for key, name in TABLES.items()}
    merge_analysis(merged, outcome, p_floors(settings), written)
    join_null_counts(counts, written["crt_null"])
    return tables_in(folder)


def tables_in(folder: Path) -> dict[str, bytes]:
    return {name: (folder / name).read_bytes() for name in TABLES.values()}


def bits(table: pd.DataFrame, without: tuple[str, ...] = ()) -> dict[str, Any]:
    """The columns of a table such that equality is equality of every bit."""
    return {
        name: column.to_numpy().tobytes() if column.dtype.kind in "fi" else column.tolist()
        for name, column in table.items()
        if name not in without
    }


def read_table(folder: Path, targets: set[str], name: str = "effects") -> pd.DataFrame:
    table = pd.read_parquet(folder / f"{name}.parquet")
    return table[table["target"].isin(targets)]


@pytest.fixture(scope="module")
def screen(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A simulated screen of 6 targets and 2 NTC guides."""
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    simulate_screen(path, **SIMULATE)
    return path


@pytest.fixture(scope="module")
def whole(screen: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the undivided analysis: one shard, one batch, one thread."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    make_analysis(screen, folder)
    return folder


SPLITS = list(product((1, 2, 7), (1, 4), (1, 2)))


@pytest.mark.parametrize(("shards", "batches", "threads"), SPLITS)
def test_shards_batches_and_threads_change_no_byte_of_any_table(
    shards, batches, threads, screen, whole, tmp_path
):
    made = make_analysis(screen, tmp_path / "run", shards=shards, batches=batches, threads=threads)
    assert made == tables_in(whole)


@pytest.mark.parametrize(
    "analysis",
    [
        {"sampler": "stratified_perm", "statistic": "rank", "tail": "left"},
        {"sampler": "stratified_perm", "statistic": "ols_t", "tail": "two_sided_centred"},
        {"statistic": "welch", "tail": "right"},
        {"statistic": "ols", "control": "ntc"},
        # Residuals of every unit's own comparison.
        {"statistic": "rank", "control": "ntc"},
        {"sampler": "stratified_perm", "statistic": "welch", "control": "ntc"},
    ],
    ids=lambda analysis: "-".join(analysis.values()),
)
def test_splitting_changes_no_byte_whatever_the_sampler_statistic_and_control(
    analysis, screen, tmp_path
):
    analysis = {**analysis, "resamples": 2 * BLOCK + 9}
    undivided = make_analysis(screen, tmp_path / "whole", **analysis)
    split = make_analysis(screen, tmp_path / "run", shards=3, batches=2, threads=2, **analysis)
    assert split == undivided


STAGES = [
    {"below": 0.6, "method": "importance", "resamples": 300},
    {"below": 0.4, "method": "saddlepoint"},
    {"below": 0.3, "method": "resamples", "resamples": BLOCK + 300},
]


@pytest.mark.parametrize(
    "analysis",
    [
        {"refine": STAGES},
        {"refine": STAGES, "statistic": "rank", "control": "ntc", "tail": "right"},
        {"refine": STAGES[2:], "sampler": "stratified_perm", "statistic": "welch"},
        {"calibration": "importance", "statistic": "ols", "tail": "two_sided_centred"},
        {"calibration": "saddlepoint"},
    ],
    ids=["three stages", "of NTC cells", "stratified", "importance", "saddlepoint"],
)
def test_splitting_changes_no_byte_of_what_is_refined(analysis, screen, tmp_path):
    analysis = {"calibration": "adaptive", "resamples": 399, **analysis}
    undivided = make_analysis(screen, tmp_path / "whole", **analysis)
    for shards, batches, threads in ((2, 1, 2), (7, 11, 1)):
        folder = tmp_path / f"{shards}-{batches}"
        split = make_analysis(
            screen, folder, shards=shards, batches=batches, threads=threads, **analysis
        )
        assert split == undivided
    table = pd.read_parquet(tmp_path / "whole/effects.parquet")
    assert (table["n_resamples"] != 399).any()


def test_more_shards_than_blocks_and_more_batches_than_targets_change_no_byte(
    screen, whole, tmp_path
):
    assert make_analysis(screen, tmp_path / "run", shards=9, batches=11) == tables_in(whole)


def test_splitting_one_target_over_threads_changes_no_byte(screen, tmp_path):
    # With fewer units than threads, the blocks of a unit are split too.
    alone = {"targets": ["GENE001"], "controls": "none"}
    one, eight = (
        make_analysis(screen, tmp_path / str(threads), threads=threads, **alone)
        for threads in (1, 8)
    )
    assert one == eight


def test_another_seed_changes_p_values_but_no_estimate(screen, whole, tmp_path):
    make_analysis(screen, tmp_path / "run", seed=124)
    for name in ("effects", "controls"):
        old, new = (pd.read_parquet(f / f"{name}.parquet") for f in (whole, tmp_path / "run"))
        assert (old["p_value"] != new["p_value"]).all()
        estimates = ["target", "feature", "n_target", "n_control", "effect"]
        assert bits(old[estimates]) == bits(new[estimates])


def test_more_resamples_keep_every_full_block(screen, whole, tmp_path):
    seven, nine = tmp_path / "seven", tmp_path / "nine"
    make_analysis(screen, seven, shards=7)
    make_analysis(screen, nine, shards=9, resamples=9 * BLOCK)
    for shard in range(7):
        old, new = (folder / "batch-0" / f"shard-{shard}.h5" for folder in (seven, nine))
        (_, before), (_, after) = read_arrays(old), read_arrays(new)
        if shard < 6:
            assert old.read_bytes() == new.read_bytes()
            assert (before["n"] == BLOCK).all()
        else:
            # Cut short before, full now.
            assert (before["n"] == RESAMPLES - 6 * BLOCK).all()
            assert (after["n"] == BLOCK).all()


KEPT = ["GENE005", "GENE001", "GENE003"]


def test_testing_fewer_targets_leaves_the_others_bits_but_not_their_fdr(screen, whole, tmp_path):
    make_analysis(screen, tmp_path / "run", targets=KEPT, batches=2)
    before, after = read_table(whole, set(KEPT)), pd.read_parquet(tmp_path / "run/effects.parquet")
    assert set(after["target"]) == set(KEPT)
    assert bits(before, without=("fdr",)) == bits(after, without=("fdr",))
    controls = [pd.read_parquet(f / "controls.parquet") for f in (whole, tmp_path / "run")]
    assert bits(controls[0]) == bits(controls[1])
    # The FDR is a statement about the family of all tests that were made, so it must follow.
    adjusted = benjamini_hochberg(after["p_value"].to_numpy())
    assert after["fdr"].to_numpy().tobytes() == adjusted.tobytes()
    assert (before["fdr"].to_numpy() != after["fdr"].to_numpy()).any()


def test_leaving_out_the_controls_leaves_the_effects_bits(screen, whole, tmp_path):
    make_analysis(screen, tmp_path / "run", controls="none")
    made = (tmp_path / "run/effects.parquet").read_bytes()
    assert made == (whole / "effects.parquet").read_bytes()
    assert len(pd.read_parquet(tmp_path / "run/controls.parquet")) == 0


def rewrite(screen: Path, to: Path, guides: np.ndarray) -> Path:
    """The same screen with some guides only, in another order."""
    data = ad.read_h5ad(screen)
    names = data.uns["guide_names"][guides]
    data.obsm["guide_assignment"] = data.obsm["guide_assignment"][:, guides]
    data.uns["guide_names"] = names
    data.uns["guide2gene"] = {name: data.uns["guide2gene"][name] for name in names}
    data.write_h5ad(to)
    return to


def test_targets_and_guides_missing_from_the_file_leave_the_others_bits(screen, whole, tmp_path):
    data = ad.read_h5ad(screen)
    names = data.uns["guide_names"]
    target_of = np.array([data.uns["guide2gene"][name] for name in names])
    gone = np.isin(target_of, ["GENE001", "GENE004"]) | (names == "NTC_001")
    reduced = rewrite(screen, tmp_path / "reduced.h5ad", np.flatnonzero(~gone))
    make_analysis(reduced, tmp_path / "run", batches=2)

    left = {"GENE002", "GENE003", "GENE005", "GENE006"}
    effects = pd.read_parquet(tmp_path / "run/effects.parquet")
    assert set(effects["target"]) == left
    assert bits(read_table(whole, left), ("fdr",)) == bits(effects, ("fdr",))
    controls = pd.read_parquet(tmp_path / "run/controls.parquet")
    assert "NTC_001" not in set(controls["target"])
    assert len(controls) > 0
    assert bits(read_table(whole, set(controls["target"]), "controls")) == bits(controls)


def test_the_order_of_the_guides_in_the_file_changes_no_byte(screen, whole, tmp_path):
    n_guides = ad.read_h5ad(screen).obsm["guide_assignment"].shape[1]
    reversed_ = rewrite(screen, tmp_path / "reversed.h5ad", np.arange(n_guides)[::-1])
    assert make_analysis(reversed_, tmp_path / "run") == tables_in(whole)


def start_as_program(screen: Path, folder: Path, **environment: str) -> subprocess.Popen:
    return subprocess.Popen(
        [sys.executable, __file__, str(screen), str(folder)],
        env={**os.environ, "PYTHONPATH": str(SCRIPTS), **environment},
    )


def test_processes_that_hash_differently_write_the_same_bytes(screen, tmp_path):
    folders = [tmp_path / seed for seed in ("0", "1")]
    processes = [start_as_program(screen, f, PYTHONHASHSEED=f.name) for f in folders]
    assert [process.wait() for process in processes] == [0, 0]
    contents = [
        {path.relative_to(f): path.read_bytes() for path in f.rglob("*") if path.is_file()}
        for f in folders
    ]
    assert len(contents[0]) == len(TABLES) + 9
    assert contents[0] == contents[1]


@pytest.mark.slow
def test_the_workflow_gives_the_same_bytes_however_it_is_split(screen, new_folder, tmp_path):
    made = []
    for batches, shards, threads in ((1, 1, 1), (4, 7, 1), (2, 2, 2)):
        config = config_of(screen, {})
        config["scatter"] = {"batches": batches, "shards": shards, "threads": threads}
        folder = new_folder({"seed": 123, **config}, f"{batches}-{shards}-{threads}")
        folder.snakemake()
        results = folder.path / "results/S/A"
        made.append(
            {
                str(path.relative_to(results)): path.read_bytes()
                for path in results.rglob("*")
                if path.is_file()
                and not path.relative_to(results).parts[0].startswith("batch-")
                # It says the batch of each group.
                and path.name != "ntc_groups.tsv"
            }
        )
    assert {"units.tsv", "summary.txt", "plots/qq.svg", "plots/qq.png"} < set(made[0])
    assert made[0] == made[1] == made[2]

    # The functions, called as in the fast tests, give what the workflow gives. Every job of the
    # workflow runs BLAS on one thread.
    program = start_as_program(screen, tmp_path / "program", OPENBLAS_NUM_THREADS="1")
    assert program.wait() == 0
    tables = tables_in(tmp_path / "program")
    assert tables == {name: made[0][name] for name in tables}


if __name__ == "__main__":
    make_analysis(Path(sys.argv[1]), Path(sys.argv[2]))
