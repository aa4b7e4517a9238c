"""What the design left in the outcome: residuals against each numeric covariate."""

import re
from collections.abc import Sequence

import numpy as np
import pandas as pd
from scipy import stats

_COLUMNS = (
    "covariate",
    "feature",
    "bin",
    "covariate_mean",
    "residual_mean",
    "residual_se",
    "n_cells",
    "trend_r2",
    "p_trend",
)
# Of all pairs of covariate and feature, adjusted: below it a trend is no accident.
_SIGNIFICANT = 0.05
_ROUNDING = 1e-10


def residual_trends_table(
    residuals: np.ndarray,
    covariates: np.ndarray,
    names: Sequence[str],
    features: Sequence[str],
    n_bins: int = 20,
) -> pd.DataFrame:
    """Means of the outcome's residuals in bins of each numeric covariate.

    Parameters
    ----------
    residuals : array, shape (n_cells, n_features)
        Outcome less its regression on the design; finite. A memory map will do: one column
        at a time is read.
    covariates : array, shape (n_cells, n_covariates)
        As measured, not standardized; finite.
    names, features : sequence of str
        Of the columns of either.
    n_bins : int
        Largest number of bins, of about equally many cells. Ties stay together.

    Returns
    -------
    pandas.DataFrame
        One row per covariate, feature and bin, from 0: mean of the covariate, mean of the
        residual with its standard error (NaN for a bin of one cell), number of cells; and, the
        same in all bins, ``trend_r2`` and ``p_trend``. Covariates with at most two distinct
        values are left out: a line fits them wholly.

    Notes
    -----
    ``trend_r2`` is the share of the residuals' variance that the bins explain beyond a line in
    the covariate: of the nested models ``1 + x`` and ``1 + x + bin``, the difference of the sums
    of squares over the total. ``p_trend`` is the F test of the two, NaN where they have no
    degree of freedom between or after them. It takes cells as independent with equal variance,
    and among many cells a trend too small to matter is significant: judge by ``trend_r2``, of
    which about ``n_bins / n_cells`` is chance.
    """
    parts = []
    for j, name in enumerate(names):
        x = np.asarray(covariates[:, j], dtype=np.float64)
        bins = _bins(x, n_bins)
        if bins is None:
            continue
        n = np.bincount(bins)
        x_mean = np.bincount(bins, x) / n
        x = x - x.mean()
        for k, feature in enumerate(features):
            r = np.asarray(residuals[:, k], dtype=np.float64)
            r = r - r.mean()
            mean = np.bincount(bins, r) / n
            squares = np.maximum(np.bincount(bins, r * r) - n * mean**2, 0.0)
            with np.errstate(divide="ignore", invalid="ignore"):
                se = np.sqrt(squares / (n - 1.0) / n)
            trend = _trend(r, x, bins, squares.sum())
            values = (name, feature, np.arange(n.size), x_mean, mean, se, n, *trend)
            parts.append(pd.DataFrame(dict(zip(_COLUMNS, values, strict=True))))
    if not parts:
        return pd.DataFrame(columns=list(_COLUMNS))
    return pd.concat(parts, ignore_index=True)


def trend_warnings(table: pd.DataFrame, r2: float = 0.01) -> list[str]:
    """What a user should know about trends left in the residuals.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`residual_trends_table`.
    r2 : float
        Share of the residual variance from which a trend matters.

    Returns
    -------
    list of str
        One sentence per covariate with such a trend in any feature, the worst first. A trend
        counts only if its ``p_trend``, times the number of all trends looked at, is below 0.05:
        of few cells the bins explain a share by chance.
    """
    if not len(table):
        return []
    trends = table.drop_duplicates(["covariate", "feature"])
    real = trends["p_trend"] * len(trends) < _SIGNIFICANT
    found = trends[real & (trends["trend_r2"] >= r2)]
    found = found.sort_values("trend_r2", ascending=False, kind="stable")
    sentences = []
    for covariate, rows in found.groupby("covariate", sort=False):
        worst = rows.iloc[0]
        of = (trends["covariate"] == covariate).sum()
        sentences.append(
            f"The effect of covariate {covariate} is not linear: its bins explain "
            f"{100 * worst['trend_r2']:.1f} % of the residual variance of {worst['feature']}, and "
            f"{100 * r2:g} % or more of {len(rows):,} of {of:,} features; give it a curve in the "
            f"design, `formula: ~ bs({_in_formula(str(covariate))}, df=4)` with the other "
            "covariates added."
        )
    return sentences


def _in_formula(covariate: str) -> str:
    """A covariate as a formula over obs writes it; log(x) and log1p(x) are of a column x."""
    logged = re.fullmatch(r"(log|log1p)\((.+)\)", covariate)
    if logged:
        column = _in_formula(logged[2])
        return f"log({column})" if logged[1] == "log" else f"log({column} + 1)"
    return covariate if covariate.isidentifier() else f"`{covariate}`"


def _bins(x: np.ndarray, n_bins: int) -> np.ndarray | None:
    """Give the bin of each cell, without gaps; None for at most two distinct values."""
    ordered = np.sort(x)
    if np.count_nonzero(ordered[1:] != ordered[:-1]) < 2:
        return None
    at = np.linspace(0, x.size, n_bins + 1)[1:-1].astype(np.int64)
    edges = np.unique(ordered[at])
    # Where most cells have the largest value, it gets a bin of its own.
    side = "left" if edges[0] < ordered[-1] else "right"
    return np.unique(np.searchsorted(edges, x, side=side), return_inverse=True)[1]


def _trend(
    r: np.ndarray, x: np.ndarray, bins: np.ndarray, within_bins: float
) -> tuple[float, float]:
    """Give trend_r2 and p_trend of centred residuals and a centred covariate."""
    total = float(r @ r)
    if total <= 0.0:
        return np.nan, np.nan
    n = np.bincount(bins)
    of_x = float(x @ x)
    sum_x = np.bincount(bins, x)
    x_within = of_x - float(np.sum(sum_x**2 / n))
    linear = total - float(x @ r) ** 2 / of_x
    full, n_terms = within_bins, n.size - 2
    # Bins of one value each hold the line already.
    if x_within > _ROUNDING * of_x:
        cross = float(x @ r) - float(np.sum(sum_x * np.bincount(bins, r) / n))
        full, n_terms = within_bins - cross**2 / x_within, n.size - 1
    left = r.size - 2 - n_terms
    gained = max(linear - full, 0.0)
    if n_terms < 1 or left < 1:
        return 0.0, np.nan
    if full <= _ROUNDING * total:
        return gained / total, 0.0 if gained > _ROUNDING * total else np.nan
    return gained / total, float(stats.f.sf(gained / n_terms / (full / left), n_terms, left))
