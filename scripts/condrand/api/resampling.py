"""Tests of sets of cells: options in, calls of the engine out."""

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from condrand.api.burden import BURDEN_KEY
from condrand.api.draws import check_resamples
from condrand.api.inputs import NTC_LABELS, CRTInputs, carriers, outcome_of
from condrand.api.propensities import (
    CLIP,
    GivenPropensities,
    fit_propensity_logistic,
    given_propensity,
)
from condrand.comparison import Comparisons
from condrand.engines import crt
from condrand.errors import listed
from condrand.io.outcome import Outcome
from condrand.plan import n_blocks
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY, make_strata
from condrand.statistics import STATISTICS
from condrand.units import NTC_GROUP, TARGET, join_guides

# Names of the statistics, and by which others they go.
_STATISTIC_OF = {
    **{name: name for name in STATISTICS},
    "beta": "ols",
    **dict.fromkeys(("utest", "wilcoxon", "mannwhitney", "mannwhitneyu"), "rank"),
}
STAT_NAMES = {
    "ols": "beta",
    "ols_t": "beta",
    "rank": "rank_biserial",
    "welch": "difference_of_means",
}
TAIL_OF = {0: "two_sided", 1: "right", -1: "left"}
_RESAMPLING_KEYS = (
    *("n_bins", "stratify_by_batch", "batch_key", "min_stratum_size"),
    *("burden_key", "n_burden_bins", "burden_bin_method", "burden_clip_quantiles", "ntc_labels"),
)


def refuse_unknown(given: Mapping[str, Any], known: Iterable[str], what: str) -> None:
    """Raise ValueError for options that nobody would read."""
    unknown = sorted(set(given) - set(known))
    if unknown:
        raise ValueError(f"{what} has no {listed(unknown)}; it has {listed(known, 20)}")


@dataclass(frozen=True)
class Tested:
    """A set of cells to be tested: the union of the cells of some guides.

    Attributes
    ----------
    kind, name : str
        By which random numbers are drawn.
    columns : list of int
        Of the guides.
    """

    kind: str
    name: str
    columns: list[int]


def gene_of(inputs: CRTInputs, gene: str) -> Tested:
    """The guides of a gene."""
    if gene not in inputs.gene_to_cols:
        raise KeyError(f"no guide of {gene!r}; genes are {listed(sorted(inputs.gene_to_cols))}")
    return Tested(TARGET, gene, inputs.gene_to_cols[gene])


def guide_set_of(inputs: CRTInputs, guide_idx: Iterable[int], name: str = "") -> Tested:
    """A set of guide columns; without a name its random numbers depend on the guides."""
    columns = sorted({int(column) for column in guide_idx})
    if not columns or columns[0] < 0 or columns[-1] >= len(inputs.guide_names):
        raise ValueError(f"{columns} are not columns of {len(inputs.guide_names)} guides")
    name = name or join_guides(sorted(inputs.guide_names[column] for column in columns))
    return Tested(NTC_GROUP, name, columns)


class Tests:
    """How sets of cells are tested: everything but which set, B, seed and tail.

    Parameters
    ----------
    inputs : CRTInputs
    propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
        As in :func:`condrand.api.run_one_gene_union_crt`.
    """

    __test__ = False  # its name starts as pytest's classes do

    def __init__(
        self,
        inputs: CRTInputs,
        propensity_model: Callable[..., Any] | None = None,
        resampling_method: str = "bernoulli_index",
        resampling_kwargs: Mapping[str, Any] | None = None,
        test_stat: str = "ols",
        test_stat_kwargs: Mapping[str, Any] | None = None,
    ):
        if resampling_method not in SAMPLERS:
            raise ValueError(f"resampling_method {resampling_method!r} is none of {[*SAMPLERS]}")
        self.inputs = inputs
        self.sampler = resampling_method
        self.model = None if propensity_model is fit_propensity_logistic else propensity_model
        self.statistic = statistic_of(test_stat)
        use = _use(test_stat_kwargs, self.statistic)
        options = dict(resampling_kwargs or {})
        refuse_unknown(options, _RESAMPLING_KEYS, "resampling_kwargs")
        if options and not SAMPLERS[resampling_method].needs_strata:
            raise ValueError(f"resampling_method {resampling_method!r} takes no resampling_kwargs")
        self.outcome = outcome_of(inputs, self.statistic, use)
        self.stratify: dict[str, Any] = {**STRATIFY, "stratify_by_burden": False}
        self._burden_columns = np.zeros(0, np.int64)
        if SAMPLERS[resampling_method].needs_strata:
            self._stratify_by(options)

    def _stratify_by(self, options: dict[str, Any]) -> None:
        batch_key, burden_key = options.pop("batch_key", None), options.pop("burden_key", None)
        labels = options.pop("ntc_labels", NTC_LABELS)
        self.stratify |= options | {"stratify_by_burden": burden_key is not None}
        batch = n_guides = None
        if self.stratify["stratify_by_batch"]:
            batch = batch_codes(self.inputs, batch_key)
        if burden_key == BURDEN_KEY:
            gene_of_guide = self.inputs.guide2gene
            names = enumerate(self.inputs.guide_names)
            self._burden_columns = np.array(
                [j for j, name in names if gene_of_guide.get(name) not in labels], np.int64
            )
            calls = self.inputs.G[:, self._burden_columns]
            n_guides = np.asarray((calls > 0).sum(axis=1), np.float64).ravel()
        elif burden_key is not None:
            n_guides = _column_as_counts(self.inputs, burden_key)
        self.outcome = replace(self.outcome, batch=batch, n_guides=n_guides)

    def prepare(self, units: list[Tested]) -> crt.Batch:
        """Propensities and observed statistics of some units."""
        treated, n_own = [], []
        for unit in units:
            cells, _ = carriers(self.inputs, unit.columns)
            own, count = carriers(self.inputs, np.intersect1d(unit.columns, self._burden_columns))
            n_own.append(np.zeros(cells.size))
            n_own[-1][np.searchsorted(cells, own)] = count
            treated.append(cells)
        kinds, names = [unit.kind for unit in units], [unit.name for unit in units]
        if self.model is None:
            return crt.prepare(
                self.outcome,
                kinds,
                names,
                treated,
                clip=CLIP,
                n_own=n_own,
                sampler=self.sampler,
                stratify=self.stratify,
            )
        return self._with_given_propensities(kinds, names, treated, n_own)

    def _with_given_propensities(
        self, kinds: list[str], names: list[str], treated: list[np.ndarray], n_own: list
    ) -> crt.Batch:
        # The engine fits a model without covariates; its propensities are then replaced.
        bare: Outcome = replace(self.outcome, design=np.zeros((self.inputs.n_cells, 0)))
        batch = crt.prepare(bare, kinds, names, treated, clip=CLIP, n_own=n_own)
        statistic, scores = STATISTICS[self.statistic], self.outcome.scores
        given: list[np.ndarray | None] = [None] * len(names)
        comparisons = Comparisons(bare)
        for g, note in enumerate(batch.notes):
            if note:
                continue
            p = given_propensity(self.inputs, self.model, treated[g])
            given[g] = p
            batch.centre[g], batch.scale[g] = statistic.null_units(scores, scores.moments(p))
            if SAMPLERS[self.sampler].needs_strata:
                there = comparisons.of(treated[g], n_own[g])
                strata = make_strata(treated[g], p, there.batch, there.burden, self.stratify)
                if not strata.free:
                    batch.notes[g] = "no stratum holds both treated and other cells"
        return replace(batch, model=GivenPropensities(given))

    def propensity(self, batch: crt.Batch) -> np.ndarray:
        """Propensity of every cell for the first unit of a batch, which can be tested."""
        there = Comparisons(self.outcome).of(batch.treated[0], batch.n_own[0])
        return batch.model.predict(0, there.covariates, there.n_cells)

    def table(
        self,
        batch: crt.Batch,
        B: int,
        seed: int,
        n_jobs: int = 1,
        side_code: int = 0,
        calibration: str = "empirical",
    ) -> pd.DataFrame:
        """Resample the units of a batch; one row per unit and program, as the workflow's merge.

        Parameters
        ----------
        batch : Batch
        B, seed, n_jobs : int
        side_code : {0, 1, -1}
        calibration : {"empirical", "skew_normal"}
        """
        if side_code not in TAIL_OF:
            raise ValueError(f"side code {side_code!r} is none of 0, 1, -1")
        check_resamples(B)
        summaries = crt.resample(
            self.outcome,
            batch,
            range(n_blocks(B)),
            B,
            seed,
            n_threads(n_jobs),
            self.sampler,
            self.stratify,
        )
        settings = {"tail": TAIL_OF[side_code], "calibration": calibration}
        return crt.batch_table(self.outcome, batch, summaries, ("", ""), settings)

    def null(self, unit: Tested, B: int, seed: int) -> np.ndarray:
        """Resampled statistics of one unit: float64, shape (B, n_programs).

        Raises
        ------
        ValueError
            If the unit cannot be tested.
        """
        check_resamples(B)
        batch = self.prepare([unit])
        if batch.notes[0]:
            raise ValueError(f"{unit.name} cannot be tested: {batch.notes[0]}")
        blocks = crt.null_blocks(
            Comparisons(self.outcome),
            batch,
            0,
            range(n_blocks(B)),
            B,
            seed,
            self.sampler,
            self.stratify,
        )
        return np.concatenate([null for _, null in blocks])


def statistic_of(test_stat: str) -> str:
    """Our name of a statistic, whatever name it goes by."""
    if test_stat not in _STATISTIC_OF:
        raise ValueError(f"test_stat {test_stat!r} is none of {', '.join(_STATISTIC_OF)}")
    return _STATISTIC_OF[test_stat]


def batch_codes(inputs: CRTInputs, batch_key: str | None = None) -> np.ndarray:
    """Batch of every cell as a number: int64, in the order of the batches' names.

    Raises
    ------
    ValueError
        If there is no such column, or a cell has no batch.
    """
    return batches_of(inputs, batch_key)[1]


def batches_of(inputs: CRTInputs, batch_key: str | None = None) -> tuple[np.ndarray, np.ndarray]:
    """Names of the batches, and the code of every cell; see :func:`batch_codes`."""
    table, values = inputs.covar_df_raw, inputs.batch_raw
    if batch_key is not None and table is not None and batch_key in table:
        values = table[batch_key]
    elif batch_key is not None and getattr(values, "name", None) != batch_key:
        values = None
    if values is None:
        raise ValueError(
            f"there is no batch column {batch_key or ''!r}: name one by batch_key, or set "
            "stratify_by_batch=False"
        )
    values = pd.Series(values)
    if values.isna().any():
        raise ValueError(f"{values.isna().sum():,} cells have no batch")
    names, codes = np.unique(values.astype(str).to_numpy(), return_inverse=True)
    return names, codes.astype(np.int64)


def n_threads(n_jobs: int) -> int:
    """Threads that `n_jobs` asks for; a negative number asks for all processors."""
    return max(1, n_jobs if n_jobs > 0 else os.cpu_count() or 1)


def _use(test_stat_kwargs: Mapping[str, Any] | None, statistic: str) -> str:
    options = dict(test_stat_kwargs or {})
    refuse_unknown(options, ("use", "rank_method", "rank_dtype"), "test_stat_kwargs")
    use = options.get("use", "clr")
    if use not in ("clr", "usage"):
        raise ValueError(f"use {use!r} is neither 'clr' nor 'usage'")
    if options.get("rank_method", "average") != "average":
        raise ValueError("rank_method: ties share their average")
    return use


def _column_as_counts(inputs: CRTInputs, key: str) -> np.ndarray:
    """A column whose log1p is, but for place and scale, the column of the covariates.

    The engine bins log1p of a count; bins change with neither.
    """
    table = inputs.covar_df_raw
    if table is None or key not in table:
        raise ValueError(
            f"there is no covariate {key!r} to stratify by; {BURDEN_KEY!r} is counted from the "
            "guides"
        )
    values = table[key].to_numpy(np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        raise ValueError(f"{key} is not finite in every cell")
    width = np.ptp(values)
    return np.expm1((values - values.min()) / (width if width > 0 else 1.0))
