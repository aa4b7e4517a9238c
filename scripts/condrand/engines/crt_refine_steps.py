"""Steps of refining the crt: files to :mod:`condrand.engines.crt_refine` and back."""

import itertools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from condrand.engines.crt import Batch, batch_table
from condrand.engines.crt_refine import Draws, Tests, costs, first_p_values, refine, take
from condrand.engines.crt_steps import check_same_outcome, null_key, read_batch
from condrand.io.outcome import OutcomeHeader, read_header, read_outcome
from condrand.io.shards import (
    ShardError,
    differences,
    join_arrays,
    read_arrays,
    read_shards,
    write_arrays,
)
from condrand.nulls.p_values import PValues
from condrand.nulls.summary import NullSummary
from condrand.plan import even_run
from condrand.version import RESULTS_VERSION

log = logging.getLogger(__name__)


def refine_shard(
    outcome: str | Path,
    propensity: str | Path,
    null: str | Path,
    before: list[str | Path],
    written: str | Path,
    shard: tuple[int, int],
    settings: Mapping[str, Any],
    seed: int,
    threads: int,
) -> None:
    """Step of rule crt_refine: see :func:`condrand.engines.crt_refine.refine`.

    Parameters
    ----------
    outcome, propensity, null : str or pathlib.Path
        The last of the merged resamples.
    before : list of str or pathlib.Path
        Shards of all stages before this one, in order, each stage in a folder of its own.
    written : str or pathlib.Path
        File to write.
    shard : (int, int)
        Which of how many shards.
    settings : mapping
        ``tail``, ``sampler``, ``stratify``, and ``stages`` up to this one.
    seed, threads : int

    Notes
    -----
    The outcome, which may be large, is read only where there is work.
    """
    stages = settings["stages"]
    number, stage = len(stages), stages[-1]
    made = _Stages(outcome, propensity, null, seed, settings)
    found = made.p_values(stages[:-1], before)
    tests = Tests.at_most(stage["below"], found.p_value)
    cost = costs(made.batch, tests, stage)
    first, end = even_run(cost.tolist(), shard[1], shard[0])
    log.info(
        "stage %d, %s: %d tests with p <= %g, items %d to %d of %d",
        *(number, stage["method"], tests.size, stage["below"], first, end, cost.size),
    )
    arrays: dict[str, np.ndarray] = {}
    if first < end:
        shared = read_outcome(outcome)
        draws = Draws(seed, settings["tail"], settings["sampler"], settings["stratify"])
        items = range(first, end)
        arrays = refine(shared, made.batch, tests, items, stage, number, draws, threads)
    key = {**made.key(number, stages, tests), "first_block": first, "end_block": end}
    write_arrays(written, key, arrays)


def write_effects(
    outcome: str | Path,
    propensity: str | Path,
    null: str | Path,
    stages: list[str | Path],
    table: str | Path,
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Step of rule crt_effects: p values of a batch, each of the last stage its test went to.

    Parameters
    ----------
    outcome, propensity, null : str or pathlib.Path
    stages : list of str or pathlib.Path
        Shards of all stages, in order, each stage in a folder of its own.
    table : str or pathlib.Path
        Parquet file to write.
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        ``tail``, ``calibration``, ``sampler``, ``stratify`` and ``stages``.
    seed : int

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    from condrand.io.tables import write_parquet

    made = _Stages(outcome, propensity, null, seed, settings)
    refined = made.p_values(settings["stages"], stages)
    rows = batch_table(made.header, made.batch, made.summaries, labels, settings, refined)
    write_parquet(rows, table)


class _Stages:
    """What is known of a batch from stage to stage."""

    def __init__(
        self,
        outcome: str | Path,
        propensity: str | Path,
        null: str | Path,
        seed: int,
        settings: Mapping[str, Any],
    ):
        self.header: OutcomeHeader = read_header(outcome)
        self.batch: Batch
        self.batch, batch_key = read_batch(propensity)
        check_same_outcome(propensity, batch_key, self.header)
        key, arrays = read_arrays(null)
        wrong = differences(key, null_key(batch_key, seed, settings))
        if wrong:
            raise ShardError(
                f"{null}: made for another {' and '.join(wrong)}. Remove it and give the same "
                f"command again: rm '{null}'"
            )
        self.summaries = NullSummary.unstacked(arrays)
        self._tail = settings["tail"]
        self._null = key["checksum"]

    def key(self, number: int, stages: list[dict[str, Any]], tests: Tests) -> dict[str, Any]:
        """What gives the numbers of a stage their meaning: nothing of how it was split."""
        return {
            "null": self._null,
            "tail": self._tail,
            "stage": number,
            "stages": stages,
            "tests": tests.digest,
            "version": RESULTS_VERSION["crt_refine"],
        }

    def p_values(self, stages: list[dict[str, Any]], shards: list[str | Path]) -> PValues:
        """What all tests report after some stages, whose shards are given in order."""
        found = first_p_values(self.batch, self.summaries, self._tail)
        folders = itertools.groupby(map(Path, shards), key=lambda path: path.parent)
        of_stages = [list(paths) for _, paths in folders]
        for i, (stage, paths) in enumerate(zip(stages, of_stages, strict=True)):
            tests = Tests.at_most(stage["below"], found.p_value)
            n_items = costs(self.batch, tests, stage).size
            expected = self.key(i + 1, stages[: i + 1], tests)
            parts = read_shards(paths, expected, n_items, "item")
            if parts:
                take(found, tests, stage, _whole(parts, stage))
        return found


def _whole(parts: list[dict[str, np.ndarray]], stage: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays of a stage from those of its shards."""
    if stage["method"] == "resamples":
        return {name: np.sum([part[name] for part in parts], axis=0) for name in parts[0]}
    return join_arrays(parts)
