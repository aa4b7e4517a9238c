"""From a stored screen to what every batch shares: scores of the outcome and the design."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.covariates import dependencies, encode, orthonormal_basis, standardize
from condrand.errors import InputError
from condrand.io.outcome import Outcome
from condrand.io.stages import StoredScreen, write_outcome
from condrand.io.tables import write_tsv
from condrand.outcomes import clr, expression
from condrand.residuals import residual_trends_table, trend_warnings
from condrand.statistics import STATISTICS
from condrand.statistics.scores import DenseScores, Scores

log = logging.getLogger(__name__)

CONTROL_WORDS = {
    "complement": "all other cells",
    "ntc": "cells that carry NTC guides alone",
}
# Statistics that see the covariates only where they are given the outcome's residuals.
OF_RESIDUALS = ("rank", "welch")
# Features of a sparse outcome whose residuals are looked at for trends.
_TREND_FEATURES = 100


@dataclass(frozen=True)
class Design:
    """Covariates ready for the models.

    Attributes
    ----------
    names : list of str
        Columns kept.
    columns : float64, shape (n_cells, n_covariates)
        Standardized, full rank, without intercept.
    dropped : list of str
        Columns left out, with the reason.
    """

    names: list[str]
    columns: np.ndarray
    dropped: list[str]


def make_design(
    table: pd.DataFrame,
    numeric_as_category_threshold: int | None,
    burden: pd.DataFrame | None = None,
) -> Design:
    """Encode and standardize covariates, leaving out what adds nothing.

    Parameters
    ----------
    table : pandas.DataFrame, shape (n_cells, n_columns)
        From the stored screen.
    numeric_as_category_threshold : int or None
        See :func:`condrand.covariates.encode`.
    burden : pandas.DataFrame, optional
        Guide burdens of the cells, numbers however few they are.
    """
    encoded = encode(table, numeric_as_category_threshold)
    if burden is not None:
        encoded = pd.concat([encoded, burden.set_axis(encoded.index)], axis=1)
    columns = standardize(encoded.to_numpy())
    names = list(encoded.columns)
    dependent = dependencies(names, columns)
    for dependency in dependent:
        log.warning("design column dropped: %s", dependency)
    left_out = {dependency.column for dependency in dependent}
    keep = [j for j, name in enumerate(names) if name not in left_out]
    return Design(
        [names[j] for j in keep],
        np.ascontiguousarray(columns[:, keep]),
        [str(dependency) for dependency in dependent],
    )


def transform_outcome(
    values: np.ndarray | sp.csr_matrix,
    settings: Mapping[str, Any],
    library_size: np.ndarray | None = None,
) -> tuple[np.ndarray | sp.csr_matrix, str]:
    """The outcome as it is tested, and the scale of its effects.

    Parameters
    ----------
    values : dense or CSR, shape (n_cells, n_features)
        As stored.
    settings : mapping
        The outcome section of the analysis.
    library_size : float64, shape (n_cells,), or None

    Returns
    -------
    float64, dense or CSR, and str
    """
    transform = settings["transform"]
    if transform in ("clr", "usage"):
        usage = values.toarray() if sp.issparse(values) else values
        usage = np.array(usage, np.float64)
        usage /= usage.sum(axis=1, keepdims=True)
        floor = clr.usage_floor(usage, settings["floor_quantile"], settings["floor_epsilon"])
        log.info("usage floored at %.4g", floor)
        if transform == "usage":
            return clr.floored(usage, floor), clr.USAGE_SCALE
        return clr.clr(usage, floor), clr.EFFECT_SCALE
    if transform == "log1p_cpm":
        logged = expression.log1p_cpm(
            values if sp.issparse(values) else np.asarray(values, np.float64),
            library_size,
            settings["target_sum"],
        )
        return logged, expression.effect_scale(settings["target_sum"])
    return values.astype(np.float64), "as stored"


def choose_control(control: str, moi: Mapping[str, float], n_ntc_cells: int) -> tuple[str, str]:
    """Which cells the treated ones are compared with, and why.

    Parameters
    ----------
    control : {"auto", "complement", "ntc"}
    moi : mapping
        Shares of the cells with ``none``, ``one`` and ``several`` guides; ``mean`` guides.
    n_ntc_cells : int
        Cells that carry NTC guides and no others.

    Returns
    -------
    control : {"complement", "ntc"}
    reason : str

    Notes
    -----
    Where most cells carry exactly one guide, the complement of a target's cells is a mixture of
    other perturbations, and differs from any guide's cells for their effects alone. Where cells
    carry several guides, or mostly none, the complement is the population that the propensity
    model describes, and the larger one.
    """
    if control != "auto":
        return control, "as configured"
    share = f"{100 * moi['one']:.1f} % of the cells carry exactly one guide"
    if moi["one"] <= 0.5:
        return "complement", f"{share}, {moi['mean']:.2f} guides per cell"
    if not n_ntc_cells:
        return "complement", f"{share}, but no cell carries NTC guides alone"
    return "ntc", f"{share} (low MOI); {n_ntc_cells:,} cells carry NTC guides alone"


def normalize(
    screen: str | Path,
    outcome: str | Path,
    settings: Mapping[str, Any],
    *,
    statistic: str = "ols",
    residualize: bool = False,
    control: str = "complement",
    batch_key: str | None = None,
    by_burden: bool = False,
    trends: str | Path | None = None,
) -> None:
    """Write the scores and the design that every batch of an analysis shares.

    Parameters
    ----------
    screen : str or pathlib.Path
        Stored screen, from the load stage.
    outcome : str or pathlib.Path
        File to write.
    settings : mapping
        The outcome section of the analysis.
    statistic : str
        One of :data:`condrand.statistics.STATISTICS`.
    residualize : bool
        Whether rank and welch take the outcome less its regression on the design.
    control : {"auto", "complement", "ntc"}
        See :func:`choose_control`.
    batch_key : str or None
        Column of the batches, where the sampler or the null asks for them.
    by_burden : bool
        Whether the sampler asks for the guides per cell.
    trends : str or pathlib.Path, optional
        Table to write: residuals of the outcome along each numeric covariate.
    """
    stored = StoredScreen.read(screen, settings, batch_key)
    control, reason = choose_control(
        control, stored.counts.moi, int(stored.counts.is_ntc_cell.sum())
    )
    log.info("compared with %s: %s", CONTROL_WORDS[control], reason)
    of_target, of_ntc = stored.counts.burdens(control)
    columns = {"log1p_guides": of_target, "log1p_ntc_guides": of_ntc}
    design = make_design(
        stored.covariates,
        stored.numeric_as_category_threshold,
        pd.DataFrame({name: burden for name, burden in columns.items() if np.ptp(burden)})
        if stored.burden
        else None,
    )
    log.info("%d design columns: %s", len(design.names), ", ".join(design.names) or "none")
    tested, effect_scale = transform_outcome(stored.values, settings, stored.library_size)
    # The values as stored are let go: of a large screen every copy counts.
    stored = replace(stored, values=None)
    log.info("%d cells x %d features", *tested.shape)
    basis = orthonormal_basis(design.columns)
    # OLS regresses the outcome on the design itself.
    residualize = residualize and statistic in OF_RESIDUALS
    if residualize and sp.issparse(tested):
        raise InputError(
            f"{settings['key']}: is sparse, and its residuals, which the statistic {statistic} "
            "takes, are not. Store it dense, set `residualize: false`, or use `statistic: ols_t`"
        )
    if residualize:
        effect_scale = f"residual of {effect_scale}"
    scores: Scores | None = None
    if control == "complement":
        if residualize:
            tested -= basis @ (basis.T @ tested)
        scores = STATISTICS[statistic].score(tested, basis)
    if trends is not None:
        residuals, features = _residuals(tested, basis, scores, stored.features)
        write_trends(residuals, stored.covariates, features, trends)
    shared = Outcome(
        scores,
        design.columns,
        stored.features,
        STATISTICS[statistic].effect_scale(effect_scale),
        "",
        statistic,
        control,
        tested if control == "ntc" else None,
        stored.counts.is_ntc_cell if control == "ntc" else None,
        stored.batch,
        of_target if by_burden else None,
        of_ntc if by_burden else None,
        stored.batch_levels,
        residualize,
    )
    write_outcome(
        outcome,
        stored.cells,
        shared,
        design.names,
        design.dropped,
        reason,
        effect_scale,
        stored.counts.moi["one"],
    )


def _residuals(
    tested: np.ndarray | sp.csr_matrix,
    basis: np.ndarray,
    scores: Scores | None,
    features: list[str],
) -> tuple[np.ndarray, list[str]]:
    """The outcome less its regression on the design, and the features it is of."""
    if isinstance(scores, DenseScores) and scores.rank:
        return scores.rows[:, : scores.n_features], features
    if sp.issparse(tested):
        # Residuals are dense: only the features with most to show are looked at.
        most = np.sort(np.argsort(-tested.getnnz(axis=0), kind="stable")[:_TREND_FEATURES])
        residuals, features = tested[:, most].toarray(), [features[k] for k in most]
    else:
        residuals = tested.copy()
    residuals -= basis @ (basis.T @ residuals)
    return residuals, features


def write_trends(
    residuals: np.ndarray, covariates: pd.DataFrame, features: list[str], trends: str | Path
) -> None:
    """Write how residuals run along each numeric covariate, and warn of a trend.

    Parameters
    ----------
    residuals : float64, shape (n_cells, n_features)
    covariates : pandas.DataFrame
    features : list of str
    trends : str or pathlib.Path
        Table to write: see :func:`condrand.residuals.residual_trends_table`.
    """
    numeric = covariates.select_dtypes("number")
    table = residual_trends_table(
        residuals, numeric.to_numpy(np.float64), [str(name) for name in numeric.columns], features
    )
    write_tsv(table, trends)
    for warning in trend_warnings(table):
        log.warning(warning)
