"""crt: the conditional randomization test of each target's effect on each feature.

Under the null hypothesis the outcome says nothing about who is treated, given the covariates.
So: fit each target's propensity, draw treated sets from it, compute the statistic of each, and
ask how often it is as extreme as the observed one (Candes, Fan, Janson & Lv 2018; for screens:
Barry et al. 2021).

Three steps, :func:`prepare`, :func:`resample` and :func:`batch_table`; the workflow's rules call
them through :mod:`condrand.engines.crt_steps`, notebooks through :mod:`condrand.api`.
"""

import logging
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from condrand.comparison import Comparison, Comparisons
from condrand.io.outcome import Outcome, OutcomeHeader
from condrand.nulls.leave_one_out import rank_counts
from condrand.nulls.p_values import PValues
from condrand.nulls.summary import NullSummary
from condrand.plan import resamples_of_block
from condrand.propensity import PropensityModel, area_under_curve, fit_propensities
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY, Strata, make_strata
from condrand.statistics import STATISTICS
from condrand.units import NTC_GROUP

if TYPE_CHECKING:  # pandas would delay the start of every shard job
    import pandas as pd

log = logging.getLogger(__name__)

# Units whose Newton steps share one pass over the covariates.
_FIT_TOGETHER = 16


@dataclass(frozen=True)
class Batch:
    """Units of a batch, ready to be resampled.

    Attributes
    ----------
    kinds, names : list of str
        One entry per unit.
    treated : list of int64[::1]
        Treated cells of each unit, sorted.
    notes : list of str
        Why a unit cannot be tested; empty where it can.
    model : PropensityModel
        Or what else has its ``predict``.
    effect : float64, shape (n_units, n_features)
        What a reader is told.
    observed : float64, shape (n_units, n_features)
        Statistic under the observed treatment.
    centre, scale : float64, shape (n_units, n_features)
        Units of the standardized null.
    diagnostics : dict of str to float64, shape (n_units,)
        See :data:`DIAGNOSTICS`.
    """

    kinds: list[str]
    names: list[str]
    treated: list[np.ndarray]
    notes: list[str]
    model: PropensityModel
    effect: np.ndarray
    observed: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    diagnostics: dict[str, np.ndarray]


DIAGNOSTICS = (
    *("n_target", "n_control", "n_expected", "p_q01", "p_median", "p_q99", "auc"),
    *("n_strata", "n_merged_strata", "n_free"),
)
"""Treated and control cells; treated cells the propensity expects, its quantiles and its AUC;
strata, how many small ones were merged, and treated cells that a permutation can move."""


def prepare(
    outcome: Outcome,
    kinds: list[str],
    names: list[str],
    treated: list[np.ndarray],
    inverse_penalty: float = 1.0,
    clip: float = 1e-6,
    sampler: str = "bernoulli_index",
    stratify: Mapping[str, Any] = STRATIFY,
    given: Callable[[int, Comparison], np.ndarray] | None = None,
) -> Batch:
    """Fit the propensities of some units and compute their observed statistics.

    Parameters
    ----------
    outcome : Outcome
    kinds, names : list of str
    treated : list of int64[::1]
        Treated cells of each unit, sorted.
    inverse_penalty, clip : float
        See :func:`condrand.propensity.fit_propensities`.
    sampler : str
        One of :data:`condrand.samplers.SAMPLERS`.
    stratify : mapping, optional
        See :func:`condrand.samplers.strata.make_strata`.
    given : callable, optional
        Propensities of a unit, by its number and comparison: float64[::1], shape (n_cells,). Then
        nothing is fitted, and the model of the batch is the caller's to replace.
    """
    statistic = STATISTICS[outcome.statistic]
    n_units, n_features = len(names), len(outcome.features)
    comparisons = Comparisons(outcome)
    sizes = [comparisons.n_cells(cells) for cells in treated]
    notes = [
        _untestable(cells.size, size, outcome.control)
        for cells, size in zip(treated, sizes, strict=True)
    ]
    coefficients = np.full((n_units, outcome.design.shape[1] + 1), np.nan)
    converged = np.full(n_units, given is not None)
    model = PropensityModel(coefficients, converged, clip)
    effect, observed, centre, scale = (np.full((n_units, n_features), np.nan) for _ in range(4))
    diagnostics = {name: np.full(n_units, np.nan) for name in DIAGNOSTICS}
    diagnostics["n_target"][:] = [cells.size for cells in treated]
    diagnostics["n_control"][:] = np.array(sizes) - diagnostics["n_target"]
    testable = [g for g in range(n_units) if not notes[g]]
    together = _FIT_TOGETHER if comparisons.are_shared else 1
    for first in range(0, len(testable), together):
        some = testable[first : first + together]
        began = time.monotonic()
        compared = [comparisons.of(kinds[g], treated[g]) for g in some]
        if given is None:
            fit = fit_propensities(
                compared[0].covariates,
                compared[0].n_cells,
                [comparison.treated for comparison in compared],
                inverse_penalty,
                clip,
            )
            coefficients[some], converged[some] = fit.coefficients, fit.converged
        for g, comparison in zip(some, compared, strict=True):
            scores, cells = comparison.scores, comparison.treated
            sums = scores.observed(cells)
            notes[g] = statistic.untestable(scores, sums)
            if not notes[g] and not converged[g]:
                notes[g] = "propensity did not converge"
            if notes[g]:
                continue
            if given is None:
                p = model.predict(g, comparison.covariates, comparison.n_cells)
            else:
                p = given(g, comparison)
            moments = scores.moments(p)
            effect[g] = statistic.effects(scores, sums)[0]
            observed[g] = statistic.values(scores, sums)[0]
            centre[g], scale[g] = statistic.null_units(scores, moments)
            quantiles = np.quantile(p, [0.01, 0.5, 0.99])
            found = [moments.count, *quantiles, area_under_curve(p, cells)]
            strata = _strata(comparison, p, sampler, stratify)
            if strata is not None:
                found += [strata.n_strata, strata.n_merged, strata.free]
                if not strata.free:
                    notes[g] = "no stratum holds both treated and other cells"
            for name, value in zip(DIAGNOSTICS[2:], found, strict=False):
                diagnostics[name][g] = value
        done, seconds = first + len(some), time.monotonic() - began
        log.info("propensity of %d/%d units, %.2f s", done, len(testable), seconds)
    return Batch(
        kinds,
        names,
        treated,
        notes,
        model,
        effect,
        observed,
        centre,
        scale,
        diagnostics,
    )


def resample(
    outcome: Outcome,
    batch: Batch,
    blocks: range,
    resamples: int,
    seed: int,
    threads: int = 1,
    sampler: str = "bernoulli_index",
    stratify: Mapping[str, Any] = STRATIFY,
    null_counts: np.ndarray | None = None,
) -> list[NullSummary]:
    """Resample every testable unit of a batch over a run of blocks.

    Parameters
    ----------
    outcome : Outcome
    batch : Batch
    blocks : range
        Blocks of resamples, contiguous.
    resamples : int
        B, over all blocks of all shards.
    seed : int
    threads : int
        Changes no bit of the result: units, and runs of blocks, add exactly.
    sampler : str
        One of :data:`condrand.samplers.SAMPLERS`.
    stratify : mapping, optional
        See :func:`condrand.samplers.strata.make_strata`.
    null_counts : int64, shape (resamples of block 0,), optional
        Receives the leave-one-out p values of NTC groups in block 0, counted; see
        :func:`condrand.nulls.leave_one_out.rank_counts`.

    Returns
    -------
    list of NullSummary
        One per unit; empty ones for units that cannot be tested.
    """
    n_features = len(outcome.features)
    comparisons = Comparisons(outcome)
    summaries = [NullSummary.empty(n_features) for _ in batch.names]
    testable = [g for g, note in enumerate(batch.notes) if not note]
    if not testable or not len(blocks):
        return summaries
    # With fewer units than threads, each unit's blocks are split too.
    n_runs = min(len(blocks), -(-threads // len(testable)))
    cuts = [len(blocks) * i // n_runs for i in range(n_runs + 1)]
    runs = [blocks[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]

    def work(g: int, run: range) -> tuple[int, NullSummary, np.ndarray | None, float]:
        began = time.monotonic()
        summary, counts = NullSummary.empty(n_features), None
        for block, null in null_blocks(
            comparisons, batch, g, run, resamples, seed, sampler, stratify
        ):
            summary.add_resamples(null, batch.observed[g], batch.centre[g], batch.scale[g])
            if block == 0 and batch.kinds[g] == NTC_GROUP and null_counts is not None:
                counts = rank_counts(null[:, batch.scale[g] > 0])
        return g, summary, counts, time.monotonic() - began

    jobs = [(g, run) for g in testable for run in runs]
    with ThreadPoolExecutor(threads) as pool:
        results = pool.map(lambda job: work(*job), jobs)
        for done, (g, summary, counts, seconds) in enumerate(results, 1):
            summaries[g] += summary
            if counts is not None:
                null_counts += counts
            log.info(
                "%d/%d %s: %d treated cells, %d resamples, %.2f s",
                done,
                len(jobs),
                batch.names[g],
                batch.diagnostics["n_target"][g],
                summary.n[0],
                seconds,
            )
    return summaries


def null_blocks(
    comparisons: Comparisons,
    batch: Batch,
    unit: int,
    blocks: range,
    resamples: int,
    seed: int,
    sampler: str,
    stratify: Mapping[str, Any],
    features: np.ndarray | None = None,
    stream: tuple[str, ...] = (),
) -> Iterator[tuple[int, np.ndarray]]:
    """Block number and resampled statistics of one unit, block after block.

    Those of some features (int64) alone need narrower score rows, and are the same bits. For
    `stream` see :func:`condrand.samplers.streams.stream_key`.

    Yields
    ------
    int, float64[:, ::1] of shape (n_resamples, n_features)
    """
    statistic = STATISTICS[comparisons.outcome.statistic]
    comparison = comparisons.of(batch.kinds[unit], batch.treated[unit])
    p = batch.model.predict(unit, comparison.covariates, comparison.n_cells)
    strata = _strata(comparison, p, sampler, stratify)
    draw = SAMPLERS[sampler].of(seed, batch.kinds[unit], batch.names[unit], p, strata, stream)
    scores = comparison.scores
    if features is not None:
        scores = scores.of_features(features)
    for block in blocks:
        sums = draw.set_sums(scores, block, resamples_of_block(resamples, block))
        yield block, statistic.values(scores, sums)


def batch_table(
    outcome: Outcome | OutcomeHeader,
    batch: Batch,
    summaries: list[NullSummary],
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    refined: PValues | None = None,
) -> "pd.DataFrame":
    """The results contract's rows of a batch, with a leading column ``kind``.

    Parameters
    ----------
    outcome : Outcome or OutcomeHeader
    batch : Batch
    summaries : list of NullSummary
        Of all resamples, one per unit.
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        The analysis: ``tail`` and ``calibration`` are read.
    refined : PValues, optional
        Of shape (n_units, n_features), from :mod:`condrand.engines.crt_refine`.

    Returns
    -------
    pandas.DataFrame
        One row per unit and feature; ``fdr`` is still NaN.
    """
    from condrand.nulls.calibrate import calibrate
    from condrand.tables import effects_table

    n_units, n_features = len(batch.names), len(outcome.features)
    testable = np.array([not note for note in batch.notes], dtype=bool)
    rows = np.repeat(testable, n_features)
    summary = NullSummary.joined([s for s, yes in zip(summaries, testable, strict=True) if yes])
    columns = calibrate(
        summary,
        batch.observed[testable].ravel(),
        batch.centre[testable].ravel(),
        batch.scale[testable].ravel(),
        settings["tail"],
        settings["calibration"],
        None if refined is None else refined.of(testable),
    )
    spread = {name: _fill(values, rows) for name, values in columns.items()}
    note = np.repeat(np.array(batch.notes, dtype=object), n_features)
    note[rows] = spread.pop("note")[rows]
    n_target = np.repeat(batch.diagnostics["n_target"].astype(np.int64), n_features)
    contract = {
        "screen": labels[0],
        "analysis": labels[1],
        "target": np.repeat(np.array(batch.names, dtype=object), n_features),
        "feature": np.tile(np.array(outcome.features, dtype=object), n_units),
        "n_target": n_target,
        "n_control": np.repeat(batch.diagnostics["n_control"].astype(np.int64), n_features),
        "effect": batch.effect.ravel(),
        "effect_scale": outcome.effect_scale,
        **{name: spread.pop(name) for name in ("statistic", "p_value", "neg_log10_p", "p_source")},
    }
    table = effects_table(contract, spread, note)
    table.insert(0, "kind", np.repeat(np.array(batch.kinds, dtype=object), n_features))
    return table


def _fill(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        out = np.full(rows.size, "", object)
    else:
        out = np.full(rows.size, np.nan)
    out[rows] = values
    return out


def _untestable(n_treated: int, n_cells: int, control: str) -> str:
    if n_treated == 0:
        return "no treated cell"
    if n_treated == n_cells:
        return "every cell is treated" if control == "complement" else "no NTC cell to compare"
    return ""


def _strata(
    comparison: Comparison, p: np.ndarray, sampler: str, stratify: Mapping[str, Any]
) -> Strata | None:
    if not SAMPLERS[sampler].needs_strata:
        return None
    batch = comparison.batch if stratify["stratify_by_batch"] else None
    burden = comparison.burden if stratify["stratify_by_burden"] else None
    for asked, given in (("stratify_by_batch", batch), ("stratify_by_burden", burden)):
        if stratify[asked] and given is None:
            raise ValueError(f"{asked} is set, but the outcome does not hold what it needs")
    return make_strata(comparison.treated, p, batch, burden, stratify)
