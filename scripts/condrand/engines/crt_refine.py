"""Refining the crt: small p values are found anew where B resamples cannot resolve them.

A test whose p value is at or below what a stage asks goes on to it and reports that stage's p
value alone, from fresh draws. That keeps it valid at every level t: below the stage's threshold
``{p <= t}`` lies within ``{p of the last stage <= t}``, above it within ``{p of the first <= t}``.

Work is a run of items, so that any number of shards computes the same: a test, or for plain
resamples a block of draws of one unit, which serves all its tests.
"""

import hashlib
import itertools
import logging
import threading
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from condrand.comparison import Comparisons
from condrand.engines.crt import Batch, null_blocks
from condrand.io.outcome import Outcome
from condrand.nulls import empirical, importance
from condrand.nulls.p_values import PValues
from condrand.nulls.summary import NullSummary
from condrand.plan import BLOCK, n_blocks
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY
from condrand.statistics import STATISTICS

log = logging.getLogger(__name__)

# Nanoseconds, as measured: of a treated cell of a draw, and of a cell in a pass over all of them.
_HIT_NS, _CELL_NS = 10, 4
# Passes that a block of draws takes beside its hits.
_BLOCK_PASSES = 4
# Tests of a unit whose residuals are written out together, to be drawn for.
_TOGETHER = 16
# Passes over the cells that finding a saddlepoint takes.
_SADDLEPOINT_PASSES = 4


@dataclass(frozen=True)
class Tests:
    """Tests of a batch that go on to a stage, ordered by unit and feature.

    Attributes
    ----------
    unit, feature : int64, shape (n_tests,)
    """

    __test__ = False  # its name starts as pytest's classes do

    unit: np.ndarray
    feature: np.ndarray

    @classmethod
    def at_most(cls, below: float, p: np.ndarray) -> "Tests":
        """Those with a p value of at most `below`.

        Parameters
        ----------
        below : float
        p : float64, shape (n_units, n_features)
            NaN where there is no test.
        """
        return cls(*np.nonzero(p <= below))

    @property
    def size(self) -> int:
        """How many."""
        return self.unit.size

    @property
    def digest(self) -> str:
        """What tells them from others."""
        both = np.stack([self.unit, self.feature]).astype("<i8")
        return hashlib.blake2b(both.tobytes(), digest_size=16).hexdigest()


@dataclass(frozen=True)
class Draws:
    """How sets are drawn, and which tail they are looked at: alike in all stages.

    Attributes
    ----------
    seed : int
    tail : {"two_sided", "two_sided_centred", "left", "right"}
    sampler : str
    stratify : mapping
    """

    seed: int
    tail: str
    sampler: str = "bernoulli_index"
    stratify: Mapping[str, Any] = field(default_factory=lambda: STRATIFY)


def first_p_values(batch: Batch, summaries: list[NullSummary], tail: str) -> PValues:
    """Empirical p values of all tests of a batch, of shape (n_units, n_features)."""
    found = PValues.none(batch.observed.shape)
    for g, (note, summary) in enumerate(zip(batch.notes, summaries, strict=True)):
        if not note:
            varies = batch.scale[g] > 0
            p = empirical.p_values(summary.exceed, int(summary.n[0]), tail)[varies]
            found.set_empirical((g, varies), p, int(summary.n[0]))
    return found


def refined_p_values(
    outcome: Outcome,
    batch: Batch,
    summaries: list[NullSummary],
    stages: list[dict[str, Any]],
    draws: Draws,
    threads: int = 1,
) -> PValues:
    """What all tests of a batch report after all stages, in one piece.

    Parameters
    ----------
    outcome : Outcome
    batch : Batch
    summaries : list of NullSummary
        Of all resamples, one per unit.
    stages : list of dict
        From :func:`condrand.config.refine_stages`.
    draws : Draws
    threads : int
    """
    found = first_p_values(batch, summaries, draws.tail)
    for number, stage in enumerate(stages, 1):
        tests = Tests.at_most(stage["below"], found.p_value)
        items = range(costs(batch, tests, stage).size)
        if len(items):
            arrays = refine(outcome, batch, tests, items, stage, number, draws, threads)
            take(found, tests, stage, arrays)
    return found


def costs(batch: Batch, tests: Tests, stage: Mapping[str, Any]) -> np.ndarray:
    """Expected nanoseconds of each item of a stage: int64, shape (n_items,).

    Parameters
    ----------
    batch : Batch
    tests : Tests
        Those of the stage.
    stage : mapping
        ``method`` and ``resamples``.
    """
    n_treated = batch.diagnostics["n_target"].astype(np.int64)
    compared = n_treated + batch.diagnostics["n_control"].astype(np.int64)
    if stage["method"] == "resamples":
        units, n_tests = np.unique(tests.unit, return_counts=True)
        of_block = n_treated[units] * BLOCK * (_HIT_NS + n_tests)
        of_block += _BLOCK_PASSES * _CELL_NS * compared[units]
        return np.repeat(of_block, n_blocks(stage["resamples"]))
    of_test = _SADDLEPOINT_PASSES * _CELL_NS * compared
    if stage["method"] == "importance":
        passes = _BLOCK_PASSES * n_blocks(stage["resamples"])
        of_test += 2 * (n_treated * stage["resamples"] * _HIT_NS + passes * _CELL_NS * compared)
    return of_test[tests.unit]


def refine(
    outcome: Outcome,
    batch: Batch,
    tests: Tests,
    items: range,
    stage: Mapping[str, Any],
    number: int,
    draws: Draws,
    threads: int = 1,
) -> dict[str, np.ndarray]:
    """Work on a run of items of a stage.

    Parameters
    ----------
    outcome : Outcome
    batch : Batch
    tests : Tests
        All of the stage.
    items : range
        Of ``range(costs(...).size)``.
    stage : mapping
        ``method`` and ``resamples``.
    number : int
        Of the stage, from 1: its draws are none of another stage.
    draws : Draws
    threads : int
        Changes no bit of the result.

    Returns
    -------
    dict of numpy.ndarray
        Of importance and saddlepoint an entry per item, to be joined: ``log_p``,
        ``relative_error``, ``n_resamples`` (0 where the saddlepoint speaks), and
        ``log_p_saddlepoint`` (NaN where it may not). Of resamples an entry per test of the stage,
        to be added: ``exceed``, ``n``.

    Notes
    -----
    A stage of saddlepoints draws, as one of importance does, for the tests that these may not
    speak for (:func:`condrand.nulls.saddlepoint.diagnose`).
    """
    if stage["method"] == "resamples":
        return _count(outcome, batch, tests, items, stage, number, draws, threads)
    return _tilt(outcome, batch, tests, items, stage, number, draws, threads)


def take(
    found: PValues, tests: Tests, stage: Mapping[str, Any], arrays: Mapping[str, np.ndarray]
) -> None:
    """Let the tests of a stage report what it found, in place.

    Parameters
    ----------
    found : PValues
        What all tests reported before.
    tests : Tests
    stage : mapping
    arrays : mapping
        Of :func:`refine`, of all items.
    """
    at = (tests.unit, tests.feature)
    if stage["method"] == "resamples":
        n = stage["resamples"]
        found.set_empirical(at, (1 + arrays["exceed"]) / (n + 1), n)
        return
    n_resamples = arrays["n_resamples"]
    source = np.where(n_resamples > 0, "importance", "saddlepoint").astype(object)
    found.set_log(at, arrays["log_p"], source, arrays["relative_error"], n_resamples)
    found.p_saddlepoint[at] = np.exp(arrays["log_p_saddlepoint"])


def _runs(units: np.ndarray, threads: int) -> list[slice]:
    """Runs of items of one unit each; with fewer units than threads, each unit's are split too."""
    ends = [0, *(np.flatnonzero(np.diff(units)) + 1), units.size]
    runs = []
    for first, end in itertools.pairwise(map(int, ends)):
        parts = -(-threads // (len(ends) - 1))
        cuts = [first + (end - first) * i // parts for i in range(parts + 1)]
        runs += [slice(a, b) for a, b in itertools.pairwise(cuts) if a < b]
    return runs


def _in_threads(work: Callable[[slice], None], runs: list[slice], threads: int) -> None:
    began = time.monotonic()
    with ThreadPoolExecutor(threads) as pool:
        for done, _ in enumerate(pool.map(work, runs), 1):
            if done == len(runs) or done % 100 == 0:
                log.info("%d/%d runs of items, %.2f s", done, len(runs), time.monotonic() - began)


def _count(
    outcome: Outcome,
    batch: Batch,
    tests: Tests,
    items: range,
    stage: Mapping[str, Any],
    number: int,
    draws: Draws,
    threads: int,
) -> dict[str, np.ndarray]:
    resamples = stage["resamples"]
    units, first_test = np.unique(tests.unit, return_index=True)
    end_test = np.append(first_test[1:], tests.size)
    at, block = np.divmod(np.arange(items.start, items.stop), n_blocks(resamples))
    comparisons = Comparisons(outcome)
    found = {name: np.zeros(tests.size, np.int64) for name in ("exceed", "n")}
    lock = threading.Lock()

    def work(run: slice) -> None:
        of_unit = slice(first_test[at[run.start]], end_test[at[run.start]])
        unit, features = int(units[at[run.start]]), tests.feature[of_unit]
        blocks = range(int(block[run.start]), int(block[run.stop - 1]) + 1)
        observed, centre = batch.observed[unit, features], batch.centre[unit, features]
        counts, n = np.zeros(features.size, np.int64), 0
        for _, null in null_blocks(
            comparisons,
            batch,
            unit,
            blocks,
            resamples,
            draws.seed,
            draws.sampler,
            draws.stratify,
            features,
            (str(number),),
        ):
            extreme = empirical.as_extreme(null, observed, centre, draws.tail)
            counts += np.count_nonzero(extreme, axis=0)
            n += len(null)
        # Whole numbers: the order in which threads add them changes nothing.
        with lock:
            found["exceed"][of_unit] += counts
            found["n"][of_unit] += n

    _in_threads(work, _runs(at, threads), threads)
    return found


def _tilt(
    outcome: Outcome,
    batch: Batch,
    tests: Tests,
    items: range,
    stage: Mapping[str, Any],
    number: int,
    draws: Draws,
    threads: int,
) -> dict[str, np.ndarray]:
    from condrand.nulls import saddlepoint

    statistic = STATISTICS[outcome.statistic]
    if not hasattr(statistic, "linear_form") or SAMPLERS[draws.sampler].needs_strata:
        raise ValueError(
            f"{stage['method']} needs cells that are drawn independently and a statistic with a "
            f"linear form, not the sampler {draws.sampler} and the statistic {outcome.statistic}"
        )
    comparisons = Comparisons(outcome)
    units = tests.unit[items.start : items.stop]
    features = tests.feature[items.start : items.stop]
    names = ("log_p", "relative_error", "log_p_saddlepoint", "n_resamples")
    found = {name: np.full(units.size, np.nan) for name in names}
    worker = threading.local()

    def work(run: slice) -> None:
        unit, some = int(units[run.start]), features[run]
        comparison = comparisons.of(batch.kinds[unit], batch.treated[unit])
        p = batch.model.predict(unit, comparison.covariates, comparison.n_cells)
        scores, centre = comparison.scores, batch.centre[unit, some]
        form = statistic.linear_form(scores, p)
        observed = batch.observed[unit, some]
        levels = saddlepoint.tail_levels(observed, centre, draws.tail)
        points = saddlepoint.tail_points(scores, form, p, some, levels, statistic.linear_form)
        log_p, error = saddlepoint.p_values(points, observed)
        doubtful = saddlepoint.diagnose(points, observed) != ""
        log_p[doubtful] = np.nan
        found["log_p_saddlepoint"][run] = log_p
        drawn = np.arange(some.size)
        if stage["method"] == "saddlepoint":
            found["log_p"][run], found["relative_error"][run] = log_p, error
            found["n_resamples"][run] = 0
            drawn = np.flatnonzero(doubtful)
        if not hasattr(worker, "rows"):
            worker.rows = importance.NarrowRows()
        for k, i in enumerate(drawn):
            if k % _TOGETHER == 0:
                residuals = scores.residuals(some[drawn[k : k + _TOGETHER]])
            rows, gap = worker.rows.of(scores, residuals[k % _TOGETHER])
            part = (str(number), outcome.features[some[i]])
            estimate = importance.estimate(
                rows,
                gap,
                statistic,
                form.h,
                p,
                comparison.treated,
                centre[i],
                draws.tail,
                levels[i],
                np.nan_to_num(points.tilt[i]),
                (draws.seed, batch.kinds[unit], batch.names[unit], part),
                stage["resamples"],
            )
            at = run.start + i
            found["log_p"][at] = estimate.log_p
            found["relative_error"][at] = estimate.relative_error
            found["n_resamples"][at] = estimate.n_resamples

    _in_threads(work, _runs(units, threads), threads)
    return found
