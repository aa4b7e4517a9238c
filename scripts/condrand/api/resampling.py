"""Tests of sets of cells: options in, calls of the engine out."""

import logging
import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from condrand.api.burden import BURDEN_KEY, guide_counts
from condrand.api.draws import check_resamples
from condrand.api.inputs import CRTInputs, carriers, columns_of, outcome_of
from condrand.api.propensities import (
    CLIP,
    GivenPropensities,
    fit_propensity_logistic,
    given_propensity,
)
from condrand.comparison import Comparison, Comparisons
from condrand.config import refine_stages
from condrand.engines import crt, crt_refine
from condrand.errors import listed
from condrand.io.outcome import Outcome
from condrand.normalize import CONTROL_WORDS, choose_control
from condrand.plan import n_blocks
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY
from condrand.statistics import STATISTICS
from condrand.units import NTC_GROUP, NTC_LABELS, TARGET, join_guides

log = logging.getLogger(__name__)

# Parameters that many functions have: a model of the propensity, options by name.
Model = Callable[..., Any] | None
Options = Mapping[str, Any] | None

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
CALIBRATIONS = ("adaptive", "empirical", "skew_normal", "saddlepoint", "importance")
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
    propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs, control,
    ntc_labels
        As in :func:`condrand.api.run_one_gene_union_crt`.
    """

    __test__ = False  # its name starts as pytest's classes do

    def __init__(
        self,
        inputs: CRTInputs,
        propensity_model: Model = None,
        resampling_method: str = "bernoulli_index",
        resampling_kwargs: Options = None,
        test_stat: str = "ols",
        test_stat_kwargs: Options = None,
        control: str = "complement",
        ntc_labels: Iterable[str] = NTC_LABELS,
    ):
        if resampling_method not in SAMPLERS:
            raise ValueError(f"resampling_method {resampling_method!r} is none of {[*SAMPLERS]}")
        options = dict(resampling_kwargs or {})
        refuse_unknown(options, _RESAMPLING_KEYS, "resampling_kwargs")
        needs_strata = SAMPLERS[resampling_method].needs_strata
        if options and not needs_strata:
            raise ValueError(f"resampling_method {resampling_method!r} takes no resampling_kwargs")
        self.inputs = inputs
        self.sampler = resampling_method
        self.model = None if propensity_model is fit_propensity_logistic else propensity_model
        self.statistic = statistic_of(test_stat)
        self._ntc_columns = columns_of(inputs, options.pop("ntc_labels", ntc_labels))
        is_ntc_cell = self._ntc_cells(control)
        outcome = outcome_of(
            inputs, self.statistic, *_what_is_tested(test_stat_kwargs), is_ntc_cell
        )
        self.stratify: dict[str, Any] = {**STRATIFY, "stratify_by_burden": False}
        self._counts_guides = False
        self.outcome = self._stratified(outcome, options) if needs_strata else outcome

    def _ntc_cells(self, control: str) -> np.ndarray | None:
        """The cells to compare with, unless these are all others."""
        check_control(control)
        if control == "complement":
            return None
        counts = guide_counts(self.inputs, self._ntc_columns)
        found = counts.is_ntc_cell
        control, reason = choose_control(control, counts.moi, int(found.sum()))
        log.info("compared with %s: %s", CONTROL_WORDS[control], reason)
        if control == "complement":
            return None
        if not found.any():
            raise ValueError(
                "no cell carries NTC guides and no others, so control='ntc' has none to compare "
                "with: correct ntc_labels"
            )
        return found

    def _stratified(self, outcome: Outcome, options: dict[str, Any]) -> Outcome:
        """The outcome with what the sampler's strata are made of."""
        batch_key, burden_key = options.pop("batch_key", None), options.pop("burden_key", None)
        self.stratify |= options | {"stratify_by_burden": burden_key is not None}
        batch = burden = ntc_burden = None
        if self.stratify["stratify_by_batch"]:
            batch = batch_codes(self.inputs, batch_key)
        if burden_key == BURDEN_KEY:
            self._counts_guides = True
            counts = guide_counts(self.inputs, self._ntc_columns)
            burden, ntc_burden = counts.burdens(outcome.control)
        elif burden_key is not None:
            burden = ntc_burden = _covariate(self.inputs, burden_key)
        return replace(outcome, batch=batch, burden=burden, ntc_burden=ntc_burden)

    def prepare(self, units: list[Tested]) -> crt.Batch:
        """Propensities and observed statistics of some units."""
        kinds, names = [self._kind(unit) for unit in units], [unit.name for unit in units]
        treated = [carriers(self.inputs, unit.columns) for unit in units]
        model = GivenPropensities([None] * len(units))

        def given(unit: int, there: Comparison) -> np.ndarray:
            C = self.inputs.C if there.cells is None else self.inputs.C[there.cells]
            model.p[unit] = given_propensity(C, self.model, there.treated)
            return model.p[unit]

        batch = crt.prepare(
            self.outcome,
            kinds,
            names,
            treated,
            clip=CLIP,
            sampler=self.sampler,
            stratify=self.stratify,
            given=None if self.model is None else given,
        )
        return batch if self.model is None else replace(batch, model=model)

    def _kind(self, unit: Tested) -> str:
        """The kind of a unit; the number of guides to be held fixed must count its own."""
        if not self._counts_guides or self.outcome.control == "ntc":
            return unit.kind
        n_ntc = len(set(unit.columns) & set(self._ntc_columns))
        if 0 < n_ntc < len(unit.columns):
            raise ValueError(
                f"{unit.name} has NTC guides and others, which {BURDEN_KEY!r} counts apart: "
                "stratify by a covariate, or correct resampling_kwargs['ntc_labels']"
            )
        return NTC_GROUP if n_ntc else TARGET

    def propensity(self, batch: crt.Batch) -> np.ndarray:
        """Propensity of every cell for the first unit of a batch, which can be tested."""
        there = Comparisons(self.outcome).of(batch.kinds[0], batch.treated[0])
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
        calibration : {"adaptive", "empirical", "skew_normal", "saddlepoint", "importance"}
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
        refined = crt_refine.refined_p_values(
            self.outcome,
            batch,
            summaries,
            self._stages(calibration, B),
            crt_refine.Draws(seed, TAIL_OF[side_code], self.sampler, self.stratify),
            n_threads(n_jobs),
        )
        return crt.batch_table(self.outcome, batch, summaries, ("", ""), settings, refined)

    def _stages(self, calibration: str, B: int) -> list[dict[str, Any]]:
        """How small p values are refined."""
        if calibration not in CALIBRATIONS:
            raise ValueError(f"calibration {calibration!r} is none of {', '.join(CALIBRATIONS)}")
        analysis = {"null_method": "crt", "calibration": calibration, "refine": "auto"}
        analysis |= {"resamples": B, "sampler": self.sampler, "statistic": self.statistic}
        return refine_stages(analysis)

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


def check_control(control: str) -> None:
    """Raise ValueError unless the word is known."""
    words = ("auto", *CONTROL_WORDS)
    if control not in words:
        raise ValueError(f"control {control!r} is none of {', '.join(words)}")


def _what_is_tested(test_stat_kwargs: Options) -> tuple[str, bool]:
    """What is tested, and whether less its regression on the covariates."""
    options = dict(test_stat_kwargs or {})
    known = ("use", "residualize", "rank_method", "rank_dtype")
    refuse_unknown(options, known, "test_stat_kwargs")
    use = options.get("use", "clr")
    if use not in ("clr", "usage"):
        raise ValueError(f"use {use!r} is neither 'clr' nor 'usage'")
    if options.get("rank_method", "average") != "average":
        raise ValueError("rank_method: ties share their average")
    return use, bool(options.get("residualize", False))


def _covariate(inputs: CRTInputs, key: str) -> np.ndarray:
    """A numeric column of the covariates as it is: float64, shape (n_cells,)."""
    table = inputs.covar_df_raw
    if table is None or key not in table:
        raise ValueError(
            f"there is no covariate {key!r} to stratify by; {BURDEN_KEY!r} is counted from the "
            "guides"
        )
    values = table[key].to_numpy(np.float64, na_value=np.nan)
    if not np.isfinite(values).all():
        raise ValueError(f"{key} is not finite in every cell")
    return values
