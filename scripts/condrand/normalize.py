"""From a stored screen to what every batch shares: scores of the outcome and the design."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.covariates import dependencies, encode, orthonormal_basis, standardize
from condrand.io.stages import StoredScreen, write_outcome
from condrand.outcomes import clr, expression
from condrand.statistics import STATISTICS
from condrand.statistics.scores import Scores

log = logging.getLogger(__name__)


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


def make_design(table: pd.DataFrame, numeric_as_category_threshold: int | None) -> Design:
    """Encode and standardize covariates, leaving out what adds nothing.

    Parameters
    ----------
    table : pandas.DataFrame, shape (n_cells, n_columns)
        From the stored screen.
    numeric_as_category_threshold : int or None
        See :func:`condrand.covariates.encode`.
    """
    encoded = encode(table, numeric_as_category_threshold)
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
    if transform == "clr":
        usage = values.toarray() if sp.issparse(values) else values
        usage = np.asarray(usage, np.float64)
        usage = usage / usage.sum(axis=1, keepdims=True)
        floor = clr.usage_floor(usage, settings["floor_quantile"], settings["floor_epsilon"])
        log.info("usage floored at %.4g", floor)
        return clr.clr(usage, floor), clr.EFFECT_SCALE
    if transform == "log1p_cpm":
        logged = expression.log1p_cpm(
            values if sp.issparse(values) else np.asarray(values, np.float64),
            library_size,
            settings["target_sum"],
        )
        return logged, expression.effect_scale(settings["target_sum"])
    return values.astype(np.float64), "as stored"


def normalize(
    screen: str | Path,
    outcome: str | Path,
    settings: Mapping[str, Any],
    statistic: str = "ols",
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
    """
    stored = StoredScreen.read(screen, settings)
    design = make_design(stored.covariates, stored.numeric_as_category_threshold)
    log.info("%d design columns: %s", len(design.names), ", ".join(design.names) or "none")
    tested, effect_scale = transform_outcome(stored.values, settings, stored.library_size)
    basis = orthonormal_basis(design.columns)
    scores: Scores = STATISTICS[statistic].score(tested, basis)
    write_outcome(outcome, stored.cells, stored.features, scores, design, effect_scale, statistic)
    log.info("%d cells x %d features", *tested.shape)
