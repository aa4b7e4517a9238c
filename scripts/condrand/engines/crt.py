"""crt: the conditional randomization test of each target's effect on each feature.

Under the null hypothesis the outcome says nothing about who is treated, given the covariates.
So: fit each target's propensity, draw treated sets from it, compute the statistic of each, and
ask how often it is as extreme as the observed one (Candes, Fan, Janson & Lv 2018; for screens:
Barry et al. 2021).

The three steps mirror the workflow's rules: :func:`prepare_batch`, :func:`resample_shard`,
:func:`merge_batch`. Each reads files, calls pure functions and writes one file.
"""

import logging
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condrand.io.outcome import (
    Outcome,
    OutcomeHeader,
    read_header,
    read_outcome,
    read_treated,
)
from condrand.io.shards import (
    ShardError,
    check_shards,
    differences,
    read_arrays,
    write_arrays,
)
from condrand.nulls.summary import NullSummary
from condrand.plan import n_blocks, resamples_of_block
from condrand.propensity import PropensityModel, area_under_curve, fit_propensities, in_lanes
from condrand.samplers import SAMPLERS
from condrand.statistics import STATISTICS
from condrand.units import units_of_batch
from condrand.version import RESULTS_VERSION

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
    notes : list of str
        Why a unit cannot be tested; empty where it can.
    model : PropensityModel
    observed : float64, shape (n_units, n_features)
        Statistic under the observed treatment.
    centre, scale : float64, shape (n_units, n_features)
        Units of the standardized null.
    diagnostics : dict of str to float64, shape (n_units,)
        Observed and expected treated cells, quantiles of the propensity, its AUC.
    """

    kinds: list[str]
    names: list[str]
    notes: list[str]
    model: PropensityModel
    observed: np.ndarray
    centre: np.ndarray
    scale: np.ndarray
    diagnostics: dict[str, np.ndarray]


DIAGNOSTICS = ("n_target", "n_expected", "p_q01", "p_median", "p_q99", "auc")


def prepare(
    outcome: Outcome,
    kinds: list[str],
    names: list[str],
    treated: list[np.ndarray],
    inverse_penalty: float = 1.0,
    clip: float = 1e-6,
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
    """
    statistic = STATISTICS[outcome.statistic]
    n_units, n_features, n_cells = len(names), len(outcome.features), outcome.n_cells
    covariates = in_lanes(outcome.design)
    notes = [_untestable(cells.size, n_cells) for cells in treated]
    coefficients = np.full((n_units, covariates.shape[0] + 1), np.nan)
    converged = np.zeros(n_units, bool)
    testable = [g for g in range(n_units) if not notes[g]]
    for first in range(0, len(testable), _FIT_TOGETHER):
        some = testable[first : first + _FIT_TOGETHER]
        began = time.monotonic()
        fit = fit_propensities(
            covariates, n_cells, [treated[g] for g in some], inverse_penalty, clip
        )
        coefficients[some], converged[some] = fit.coefficients, fit.converged
        done, seconds = first + len(some), time.monotonic() - began
        log.info("propensity of %d/%d units, %.2f s", done, len(testable), seconds)
    model = PropensityModel(coefficients, converged, clip)
    observed, centre, scale = (np.full((n_units, n_features), np.nan) for _ in range(3))
    diagnostics = {name: np.full(n_units, np.nan) for name in DIAGNOSTICS}
    for g, cells in enumerate(treated):
        diagnostics["n_target"][g] = cells.size
        if notes[g]:
            continue
        sums = outcome.scores.observed(cells)
        if statistic.is_singular(outcome.scores, sums):
            notes[g] = "covariates determine the treatment"
        elif not converged[g]:
            notes[g] = "propensity did not converge"
        else:
            p = model.predict(g, covariates, n_cells)
            moments = outcome.scores.moments(p)
            observed[g] = statistic.coefficients(outcome.scores, sums)[0]
            centre[g], scale[g] = statistic.null_units(moments)
            quantiles = np.quantile(p, [0.01, 0.5, 0.99])
            values = (moments.count, *quantiles, area_under_curve(p, cells))
            for name, value in zip(DIAGNOSTICS[1:], values, strict=True):
                diagnostics[name][g] = value
    return Batch(kinds, names, notes, model, observed, centre, scale, diagnostics)


def resample(
    outcome: Outcome,
    batch: Batch,
    blocks: range,
    resamples: int,
    seed: int,
    threads: int = 1,
    sampler: str = "bernoulli_index",
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

    Returns
    -------
    list of NullSummary
        One per unit; empty ones for units that cannot be tested.
    """
    statistic = STATISTICS[outcome.statistic]
    n_features = len(outcome.features)
    covariates = in_lanes(outcome.design)
    summaries = [NullSummary.empty(n_features) for _ in batch.names]
    testable = [g for g, note in enumerate(batch.notes) if not note]
    if not testable or not len(blocks):
        return summaries
    # With fewer units than threads, each unit's blocks are split too.
    n_runs = min(len(blocks), -(-threads // len(testable)))
    cuts = [len(blocks) * i // n_runs for i in range(n_runs + 1)]
    runs = [blocks[a:b] for a, b in zip(cuts, cuts[1:], strict=False)]

    def work(g: int, run: range) -> tuple[int, NullSummary, float]:
        began = time.monotonic()
        p = batch.model.predict(g, covariates, outcome.n_cells)
        draw = SAMPLERS[sampler].of(seed, batch.kinds[g], batch.names[g], p)
        summary = NullSummary.empty(n_features)
        for block in run:
            size = resamples_of_block(resamples, block)
            sums = draw.set_sums(outcome.scores, block, size)
            null = statistic.coefficients(outcome.scores, sums)
            summary.add_resamples(null, batch.observed[g], batch.centre[g], batch.scale[g])
        return g, summary, time.monotonic() - began

    jobs = [(g, run) for g in testable for run in runs]
    with ThreadPoolExecutor(threads) as pool:
        for done, (g, summary, seconds) in enumerate(pool.map(lambda job: work(*job), jobs), 1):
            summaries[g] += summary
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


def prepare_batch(
    screen: str | Path,
    targets: str | Path,
    outcome: str | Path,
    propensity: str | Path,
    batch: int,
    wanted: list[str] | str,
    controls: str,
    settings: Mapping[str, Any],
) -> None:
    """Step of rule crt_propensity: see :func:`prepare`.

    Parameters
    ----------
    screen, targets, outcome : str or pathlib.Path
        Files of the load and normalize stages.
    propensity : str or pathlib.Path
        File to write.
    batch : int
    wanted : list of str or "all"
        Targets of the analysis.
    controls : {"guides", "none"}
        Whether NTC guides are tested as pseudo-targets.
    settings : mapping
        The propensity section of the analysis.
    """
    shared = read_outcome(outcome)
    units = units_of_batch(targets, batch, wanted, controls)
    kinds, names = [kind for kind, _ in units], [name for _, name in units]
    treated = read_treated(screen, units)
    fitted = prepare(shared, kinds, names, treated, settings["inverse_penalty"], settings["clip"])
    key = {
        "outcome": shared.digest,
        "kinds": kinds,
        "names": names,
        "notes": fitted.notes,
        "clip": settings["clip"],
        "version": RESULTS_VERSION["crt_propensity"],
    }
    arrays = {
        "coefficients": fitted.model.coefficients,
        "converged": fitted.model.converged,
        "observed": fitted.observed,
        "centre": fitted.centre,
        "scale": fitted.scale,
        **fitted.diagnostics,
    }
    write_arrays(propensity, key, arrays)
    log.info("%d units, %d of them testable", len(units), fitted.notes.count(""))


def read_batch(propensity: str | Path) -> tuple[Batch, dict[str, Any]]:
    """Read what :func:`prepare_batch` wrote, and its key."""
    key, arrays = read_arrays(propensity)
    model = PropensityModel(arrays["coefficients"], arrays["converged"], key["clip"])
    batch = Batch(
        key["kinds"],
        key["names"],
        key["notes"],
        model,
        arrays["observed"],
        arrays["centre"],
        arrays["scale"],
        {name: arrays[name] for name in DIAGNOSTICS},
    )
    return batch, key


def resample_shard(
    outcome: str | Path,
    propensity: str | Path,
    shard: str | Path,
    blocks: tuple[int, int],
    resamples: int,
    seed: int,
    threads: int,
    sampler: str = "bernoulli_index",
) -> None:
    """Step of rule crt_shard: see :func:`resample`.

    Parameters
    ----------
    outcome, propensity : str or pathlib.Path
    shard : str or pathlib.Path
        File to write.
    blocks : (int, int)
        First block, and the first after the last.
    resamples, seed, threads : int
    sampler : str
    """
    shared = read_outcome(outcome)
    batch, batch_key = read_batch(propensity)
    _check_same_outcome(propensity, batch_key, shared)
    log.info("computing starts: %d units, blocks %d to %d", len(batch.names), *blocks)
    summaries = resample(shared, batch, range(*blocks), resamples, seed, threads, sampler)
    key = {
        **_shard_key(batch_key, seed, sampler),
        "first_block": blocks[0],
        "end_block": blocks[1],
    }
    write_arrays(shard, key, NullSummary.stacked(summaries, len(shared.features)))


def merge_batch(
    outcome: str | Path,
    propensity: str | Path,
    shards: list[str | Path],
    table: str | Path,
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Step of rule crt_merge: add the shards of a batch and turn them into p values.

    Parameters
    ----------
    outcome, propensity : str or pathlib.Path
    shards : list of str or pathlib.Path
    table : str or pathlib.Path
        Parquet file to write.
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        The analysis.
    seed : int

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    from condrand.io.tables import write_parquet

    shared = read_header(outcome)
    batch, batch_key = read_batch(propensity)
    _check_same_outcome(propensity, batch_key, shared)
    total = [NullSummary.empty(len(shared.features)) for _ in batch.names]
    expected = _shard_key(batch_key, seed, settings["sampler"])
    keys = []
    for path in shards:
        key, arrays = read_arrays(path)
        keys.append(key)
        if not differences(key, expected):
            for g, part in enumerate(NullSummary.unstacked(arrays)):
                total[g] += part
    check_shards(shards, keys, expected, n_blocks(settings["resamples"]))
    for name, note, summary in zip(batch.names, batch.notes, total, strict=True):
        # The key holds no B, so that raising it keeps finished shards; the counts tell.
        if not note and summary.n[0] != settings["resamples"]:
            raise ShardError(
                f"{Path(shards[-1]).parent}: {summary.n[0]:,} resamples of {name}, not "
                f"{settings['resamples']:,}: the shards were made for another B. Remove the "
                "folder's shards and run again"
            )
    write_parquet(batch_table(shared, batch, total, labels, settings), table)


def batch_table(
    outcome: Outcome | OutcomeHeader,
    batch: Batch,
    summaries: list[NullSummary],
    labels: tuple[str, str],
    settings: Mapping[str, Any],
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
        "n_control": outcome.n_cells - n_target,
        "effect": batch.observed.ravel(),
        "effect_scale": outcome.effect_scale,
        **{name: spread.pop(name) for name in ("statistic", "p_value", "neg_log10_p", "p_source")},
    }
    table = effects_table(contract, spread, note)
    table.insert(0, "kind", np.repeat(np.array(batch.kinds, dtype=object), n_features))
    return table


def units_table(propensities: list[str | Path], labels: tuple[str, str]) -> "pd.DataFrame":
    """Diagnostics of every unit of an analysis, from its batches' files, by kind and name.

    Parameters
    ----------
    propensities : list of str or pathlib.Path
    labels : (str, str)
        Screen and analysis.
    """
    import pandas as pd

    tables = []
    for path in propensities:
        batch, _ = read_batch(path)
        names = dict(zip(("screen", "analysis"), labels, strict=True))
        names |= {"unit": batch.names, "kind": batch.kinds}
        tables.append(pd.DataFrame({**names, **batch.diagnostics, "note": batch.notes}))
    table = pd.concat(tables, ignore_index=True)
    table["n_target"] = table["n_target"].astype(np.int64)
    return table.sort_values(["kind", "unit"], kind="stable", ignore_index=True)


def _fill(values: np.ndarray, rows: np.ndarray) -> np.ndarray:
    if values.dtype == object:
        out = np.full(rows.size, "", object)
    else:
        out = np.full(rows.size, np.nan)
    out[rows] = values
    return out


def _untestable(n_treated: int, n_cells: int) -> str:
    if n_treated == 0:
        return "no treated cell"
    if n_treated == n_cells:
        return "every cell is treated"
    return ""


def _shard_key(batch_key: Mapping[str, Any], seed: int, sampler: str) -> dict[str, Any]:
    return {
        "outcome": batch_key["outcome"],
        "propensity": batch_key["checksum"],
        "names": batch_key["names"],
        "kinds": batch_key["kinds"],
        "seed": seed,
        "sampler": sampler,
        "version": RESULTS_VERSION["crt_shard"],
    }


def _check_same_outcome(
    path: str | Path, key: Mapping[str, Any], outcome: Outcome | OutcomeHeader
) -> None:
    if key["outcome"] != outcome.digest:
        raise ValueError(f"{path} was made from another outcome; remove it and run again")
