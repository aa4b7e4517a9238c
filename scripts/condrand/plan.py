"""How the work is split, and what a job needs. Standard library only: the Snakefile imports it.

A block of 1,024 resamples is the unit of random numbers; a shard is a run of whole blocks. So
any number of shards draws the same numbers, and raising B only adds blocks.
"""

import bisect
import csv
import itertools
import math
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

# Part of the definition of every random number: changing it changes all results. At this size
# one pass over the scores serves a whole block while its accumulators fit in a megabyte of
# second-level cache for up to about a hundred features.
BLOCK = 1024

# Features that are stored, read and tested together where cells are compared gene by gene; no
# number depends on it. Wide enough that a cell's row pointer is small beside its values, narrow
# enough that a block of ten million cells fits in a job.
FEATURES_PER_BLOCK = 512

# What a job is given over what it is expected to need: a run time that is too short costs a retry.
MARGIN = 4

# Snakemake's own two processes in a job of a cluster, MiB. Of 550 jobs: at most 168 each.
SNAKEMAKE_MB = 350

_MB = 2**20
# A stage below this takes few of the tests, whose draws cost about so many blocks of all.
_FEW_TESTS, _BLOCKS_WORTH = 0.05, 2


def n_blocks(resamples: int) -> int:
    """Blocks that hold `resamples` resamples; the last may be partly used."""
    return math.ceil(resamples / BLOCK)


def blocks_of_shard(resamples: int, n_shards: int, shard: int) -> tuple[int, int]:
    """First block of a shard, and the first block after it; equal when the shard is empty.

    Parameters
    ----------
    resamples : int
        B, over all shards.
    n_shards : int
        Shards the blocks are spread over, as evenly as whole blocks allow.
    shard : int
        From 0 to ``n_shards - 1``.

    Raises
    ------
    ValueError
        If there is no such shard.
    """
    return run_of_shard(n_blocks(resamples), n_shards, shard)


def run_of_shard(blocks: int, n_shards: int, shard: int) -> tuple[int, int]:
    """As :func:`blocks_of_shard`, of so many blocks of whatever kind."""
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard {shard} is not one of {n_shards}")
    return blocks * shard // n_shards, blocks * (shard + 1) // n_shards


def even_run(costs: list[int], n_shards: int, shard: int) -> tuple[int, int]:
    """First item of a shard, and the first after it, such that shards cost about the same.

    Parameters
    ----------
    costs : list of int
        Of each item, in order; positive.
    n_shards, shard : int
        As of :func:`blocks_of_shard`. An item belongs to the shard in whose even share of the
        total it starts.
    """
    if not 0 <= shard < n_shards:
        raise ValueError(f"shard {shard} is not one of {n_shards}")
    starts = [0, *itertools.accumulate(costs)]
    total = starts.pop()
    ends = (-(-total * s // n_shards) for s in (shard, shard + 1))
    first, end = (bisect.bisect_left(starts, at) if at < total else len(costs) for at in ends)
    return first, end


def n_feature_blocks(n_features: int) -> int:
    """Blocks that hold `n_features` features: at least one."""
    return max(1, math.ceil(n_features / FEATURES_PER_BLOCK))


def resamples_of_block(resamples: int, block: int) -> int:
    """Resamples of `block` that count: all of them, but for the last block."""
    return min(BLOCK, resamples - block * BLOCK)


def deal(weights: dict[str, int], n_batches: int) -> dict[str, int]:
    """Deal named items to batches of about equal weight, whatever their order.

    Parameters
    ----------
    weights : dict of str to int
        Work of each item: the treated cells of a target.
    n_batches : int

    Returns
    -------
    dict of str to int
        Batch of each item, from 0: heaviest first, each to the lightest batch (Graham 1969).
    """
    load = [0] * n_batches
    batch = {}
    for name in sorted(weights, key=lambda name: (-weights[name], name)):
        lightest = min(range(n_batches), key=lambda b: (load[b], b))
        batch[name] = lightest
        # A target without cells still costs a pass over the cells.
        load[lightest] += weights[name] + 1
    return batch


def number(index: int) -> str:
    """A batch or shard number as it stands in paths."""
    return f"{index:04d}"


def batch_load(tables: list[str | Path], batch: int) -> tuple[int, int]:
    """Units of a batch and their treated cells, from ``targets.tsv`` and ``ntc_groups.tsv``."""
    loads = [
        _loads(str(path), Path(path).stat().st_mtime_ns).get(batch, (0, 0)) for path in tables
    ]
    return sum(units for units, _ in loads), sum(treated for _, treated in loads)


@lru_cache(maxsize=64)
def _loads(targets: str, _mtime_ns: int) -> dict[int, tuple[int, int]]:
    """The load of every batch: read once, not once for each of thousands of shards."""
    loads: dict[int, tuple[int, int]] = {}
    with open(targets, newline="") as lines:
        for row in csv.DictReader(lines, delimiter="\t"):
            units, treated = loads.get(int(row["batch"]), (0, 0))
            loads[int(row["batch"])] = units + 1, treated + int(row["n_cells"])
    return loads


def read_mb(path: str | Path) -> int:
    """Size of a file, or of all files in a folder, in MiB, rounded up."""
    path = Path(path)
    files = path.rglob("*") if path.is_dir() else [path]
    return math.ceil(sum(file.stat().st_size for file in files) / _MB)


def feature_blocks(blocks: str | Path) -> tuple[list[float], int]:
    """Sizes of the blocks of features, MiB, and all their features, from ``blocks.tsv``."""
    with open(blocks, newline="") as lines:
        rows = list(csv.DictReader(lines, delimiter="\t"))
    return [float(row["mb"]) for row in rows], sum(int(row["n_features"]) for row in rows)


def job_mem_mb(script_mb: float) -> int:
    """Memory a job asks for, MiB: its script's, as measured below, and Snakemake's beside it."""
    return int(SNAKEMAKE_MB + script_mb)


def load_mem_mb(input_mb: float) -> int:
    """Memory of the load job, MiB.

    The outcome is copied in pieces; guide calls and covariates are held. Measured: 507 MiB for a
    file of 211 MiB, of which the libraries are 300; 620 MiB for one of 2 GiB without guide calls.
    """
    return job_mem_mb(1500 + 0.1 * input_mb)


def normalize_mem_mb(screen_mb: float) -> int:
    """Memory of the normalize job, MiB: several float64 copies of what may be stored as float32.

    Measured: 2,141 MiB for a screen of 683 MiB stored as float64.
    """
    return job_mem_mb(600 + 5 * screen_mb)


def propensity_mem_mb(outcome_mb: float) -> int:
    """Memory of a propensity job, MiB: the scores and the transposed covariates.

    Measured: 923 MiB for an outcome of 695 MiB.
    """
    return job_mem_mb(500 + 1.2 * outcome_mb)


def shard_mem_mb(outcome_mb: float, threads: int) -> int:
    """Memory of a shard job, MiB: the scores once, accumulators and null per thread.

    Measured: 924 MiB for an outcome of 695 MiB and one thread.
    """
    return job_mem_mb(400 + 1.2 * outcome_mb + threads * (40 + 0.1 * outcome_mb))


def ntc_null_mem_mb(outcome_mb: float) -> int:
    """Memory of the null of NTC pseudo-genes, MiB: the scores, and once more those of a batch.

    Measured, with 5,000 pseudo-genes and 70 features: 530 MiB for an outcome of 71 MiB and 799
    MiB for one of 284 MiB with most cells in one of four batches; 641 and 978 MiB for 82 and 327
    MiB in ten. Statistics of every unit in every batch are held too: 6 MiB a batch here.
    """
    return job_mem_mb(800 + 2.2 * outcome_mb)


def shard_seconds(outcome_mb: float, n_units: float, n_treated: float, blocks: float) -> float:
    """Expected work of a shard job, seconds of one core.

    A block costs one pass over the scores per unit (about 5 GiB/s on an old core) and one row
    addition per hit (about 60 ns for a hundred features).
    """
    passes = n_units * blocks * outcome_mb / 5000
    additions = n_treated * blocks * BLOCK * 60e-9
    return passes + additions


def shard_runtime_min(
    outcome_mb: float, n_units: int, n_treated: int, blocks: int, threads: int
) -> int:
    """Wall time of a shard job, minutes, with a margin of four."""
    seconds = shard_seconds(outcome_mb, n_units, n_treated, blocks)
    return max(5, math.ceil(MARGIN * seconds / 60 / threads))


def n_tests(null_mb: float) -> float:
    """Tests of a batch, at most, by the size of its merged null. Measured: 84 bytes for each."""
    return null_mb * _MB / 70


def refine_shards(n_shards: int, resamples: int, stage: Mapping[str, Any]) -> int:
    """Shards of a stage of refinement: no more than its work is worth.

    Parameters
    ----------
    n_shards : int
        Shards of the resamples.
    resamples : int
        B, of all tests.
    stage : mapping
        ``below`` and ``method``. Few tests with draws of their own cost about as much as some
        blocks of resamples of all; plain ones are many.
    """
    if stage["method"] == "resamples" or stage["below"] > _FEW_TESTS:
        return n_shards
    return min(n_shards, math.ceil(n_shards * _BLOCKS_WORTH / n_blocks(resamples)))


def refine_mem_mb(outcome_mb: float, threads: int) -> int:
    """Memory of a refine job, MiB: as of a shard job, and of each thread some features' scores.

    Residuals of 16 features, which sparse scores do not hold, and narrow score rows of one.
    """
    return shard_mem_mb(outcome_mb, threads) + int(threads * (40 + 0.5 * outcome_mb))


def refine_seconds(
    outcome_mb: float, tests: float, units: float, treated: float, stage: Mapping[str, Any]
) -> float:
    """Expected work of refining a batch of tests, seconds of one core.

    Parameters
    ----------
    outcome_mb : float
    tests, units, treated : float
        Of the batch: tests before any is refined, units, and their treated cells.
    stage : mapping
        Beside those below its threshold without an effect, a twentieth of the tests is taken to
        have one.

    Notes
    -----
    Measured with 100,000 cells, 70 features, 15 covariates (69 MiB) and 500 treated cells: a
    test takes 1.4 ms by saddlepoint, 12 ms by 255 importance draws of two tails, 10 ns a treated
    cell of a draw. Of a stage of saddlepoints a third of the tests are taken to be drawn for.
    Plain resamples of a unit serve all its tests.
    """
    refined = tests * min(1.0, stage["below"] + 0.05)
    a_pass = 6e-6 * outcome_mb
    if stage["method"] == "resamples":
        blocks = n_blocks(stage["resamples"])
        unit = 4 * a_pass * blocks + treated / max(1, units) * blocks * BLOCK * 15e-9
        return min(units, refined) * unit
    drawn = 1.0 if stage["method"] == "importance" else 1 / 3
    draws = 8 * n_blocks(stage["resamples"]) * a_pass
    draws += treated / max(1, units) * 2 * stage["resamples"] * 10e-9
    return refined * (4 * a_pass + drawn * draws)


def refine_runtime_min(
    outcome_mb: float,
    tests: float,
    units: float,
    treated: float,
    stage: Mapping[str, Any],
    workers: int,
) -> int:
    """Wall time of a refine job, one of so many threads of all shards, minutes."""
    seconds = refine_seconds(outcome_mb, tests, units, treated, stage)
    return max(5, math.ceil(MARGIN * seconds / 60 / workers))


def propensity_seconds(outcome_mb: float, n_units: float) -> float:
    """Expected work of a propensity job, seconds: ten Newton passes per unit."""
    return n_units * 10 * outcome_mb / 2000


def propensity_runtime_min(outcome_mb: float, n_units: int) -> int:
    """Wall time of a propensity job, minutes, with a margin of four."""
    return max(5, math.ceil(MARGIN * propensity_seconds(outcome_mb, n_units) / 60))


def dex_groups_mem_mb(screen_mb: float) -> int:
    """Memory of grouping the cells, MiB: names and some numbers of each."""
    return job_mem_mb(1500 + 0.05 * screen_mb)


def dex_shard_mem_mb(blocks_mb: list[float], n_tests: int) -> int:
    """Memory of a shard of comparisons, MiB.

    A block of features at a time with its tables, and sums of all tests. Measured: 467 MiB for
    blocks of 53 MiB and 0.5 million tests.
    """
    return job_mem_mb(500 + 4 * max(blocks_mb) + 100 * n_tests / _MB)


def dex_merge_mem_mb(n_tests: int) -> int:
    """Memory of the merge of a batch of comparisons, MiB: the sums of all tests, twice.

    Measured: 654 MiB for 4 million tests.
    """
    return job_mem_mb(600 + 130 * n_tests / _MB)


def dex_shard_seconds(blocks_mb: list[float], n_shards: int) -> float:
    """Expected time of a shard of comparisons, seconds.

    A block is read at some 100 MiB/s from a busy disk, and its values are looked up faster.
    """
    return sum(blocks_mb) / n_shards / 100


def dex_shard_runtime_min(blocks_mb: list[float], n_shards: int) -> int:
    """Wall time of a shard of comparisons, minutes, with a margin of four."""
    return 5 + math.ceil(MARGIN * dex_shard_seconds(blocks_mb, n_shards) / 60)


def load_samples_mem_mb(input_mb: float) -> int:
    """Memory of reading samples, MiB: a gzipped count table as text and numbers.

    Of cells only the sums of the samples are held.
    """
    return job_mem_mb(1500 + 10 * min(input_mb, 2000))


def linear_mem_mb(stored_mb: float) -> int:
    """Memory of a step of the linear models, MiB: some float64 copies of what is stored."""
    return job_mem_mb(600 + 8 * stored_mb)


def kompot_sizes(sizes: str | Path) -> dict[str, int]:
    """Cells, landmarks, samples and features of cell states, from ``sizes.tsv``."""
    with open(sizes, newline="") as lines:
        return {row["what"]: int(row["number"]) for row in csv.DictReader(lines, delimiter="\t")}


def kompot_states_mem_mb(screen_mb: float) -> int:
    """Memory of placing cells, MiB: pieces of the screen, and covariances of features."""
    return job_mem_mb(2000 + 0.3 * screen_mb)


def kompot_mem_mb(sizes: dict[str, int]) -> int:
    """Memory of Gaussian processes over cell states, MiB.

    Covariances of cells and landmarks, factors of landmarks for each sample, and some copies of a
    block of features.
    """
    n, m, s = sizes["n_cells"], sizes["n_landmarks"], sizes["n_samples"] + 2
    values = 3 * n * m + (3 + s) * m * m + (6 * n + 2 * s * m) * FEATURES_PER_BLOCK
    return job_mem_mb(700 + 8 * values / _MB)


def kompot_seconds(sizes: dict[str, int], blocks: int) -> float:
    """Expected time of blocks of features, seconds: some 5e9 products a second.

    Factors of the landmarks are made once; a block is solved and predicted in every cell.
    """
    n, m, s = sizes["n_cells"], sizes["n_landmarks"], sizes["n_samples"] + 2
    once, each = s * (n * m * m + m**3), 4 * n * m * FEATURES_PER_BLOCK
    return (once + blocks * each) / 5e9


def kompot_runtime_min(sizes: dict[str, int], blocks: int) -> int:
    """Wall time of blocks of features, minutes, with a margin of four."""
    return 5 + math.ceil(MARGIN * kompot_seconds(sizes, blocks) / 60)
