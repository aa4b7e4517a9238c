"""voom: log counts per million, and weights from the trend of their variance."""

import logging
import math
from dataclasses import dataclass

import numpy as np

from condrand.kernels.linear import log2_rows, precision_weights
from condrand.linear.fit import Basis, checked_design, fit_rows, in_rows
from condrand.linear.lowess import lowess

log = logging.getLogger(__name__)

_LOG2_MILLION = math.log2(1e6)


@dataclass(frozen=True)
class Voom:
    """Log counts with weights; G features, n samples.

    Attributes
    ----------
    E : float64[:, ::1], shape (G, n)
        ``log2((c + 0.5) / (library + 1) * 1e6)``.
    weights : float64[:, ::1], shape (G, n)
        Inverse of the variance that the trend predicts; NaN where the fitted value is unknown.
    lib_size : float64, shape (n,)
        Counts of each library, as used.
    line_x, line_y : float64, shape (n_points,)
        The trend: log2 count size ascending, and square root of the standard deviation. Empty
        where the design leaves nothing to estimate it from.
    points_x, points_y : float64, shape (n_points,)
        What the trend was drawn through: the features with a count and with residuals, in order.
    span : float
        Share of the points in a window of the trend.
    sample_weights : float64, shape (n,), optional
        Quality of the samples, already part of `weights`.
    """

    E: np.ndarray
    weights: np.ndarray
    lib_size: np.ndarray
    line_x: np.ndarray
    line_y: np.ndarray
    points_x: np.ndarray
    points_y: np.ndarray
    span: float
    sample_weights: np.ndarray | None = None


def adaptive_span(n_features: int) -> float:
    """Span that narrows with the number of features: ``0.3 + 0.7 (50/G)**(1/3)``, at most 1."""
    return min(1.0, 0.3 + 0.7 * (50.0 / n_features) ** (1.0 / 3.0))


def voom(
    counts: np.ndarray,
    design: np.ndarray,
    lib_size: np.ndarray | None = None,
    span: float | None = None,
    weights: np.ndarray | None = None,
    *,
    threads: int = 1,
) -> Voom:
    """Log counts per million, and precision weights from their mean-variance trend.

    Parameters
    ----------
    counts : numbers, shape (G, n)
        Filtered counts; not negative.
    design : float64, shape (n, p)
    lib_size : float64, shape (n,), optional
        Library sizes, times their normalization factors if any; the sums of the counts given if
        not said.
    span : float, optional
        Share of the features in a window of the trend; :func:`adaptive_span` if not said.
    weights : float64, optional
        For the fit that the trend is drawn from, as in :func:`.lm_fit`. They are no part of the
        weights that come out.
    threads : int
        The numbers do not depend on it.

    Returns
    -------
    Voom

    Raises
    ------
    ValueError
        For fewer than 2 features, a missing, infinite or negative count, nothing but zeros, or
        shapes that do not fit.

    Notes
    -----
    Definition: the trend f is a lowess line of ``sqrt(sigma_g)`` over
    ``mean E_g + mean log2(library + 1) - log2(1e6)``; the weight of a count is
    ``f(fitted)**-4``, with fitted the fitted value of its E on the scale of log2 counts. Outside
    the range of the features f is constant.
    Features without a count take no part in the trend, but in the adaptive span.
    Cost: the fitted log2 count is ``x'b + log2(library + 1) - log2(1e6)``, without a power.
    Source: Law 2014.
    """
    counts = _counts(counts)
    n_features, n = counts.shape
    design = np.asarray(design, np.float64)
    design, names = checked_design(design, [str(j) for j in range(design.shape[-1])])
    if design.shape[0] != n:
        raise ValueError(f"the design has {design.shape[0]} rows, the counts {n} samples")
    lib_size = _library(counts, lib_size)
    span = adaptive_span(n_features) if span is None else float(span)
    if not 0.0 < span <= 1.0:
        raise ValueError(f"the span is a share of the features, above 0 and up to 1, not {span}")

    E, w = np.empty((2, n_features, n))
    library = lib_size + 1.0
    in_rows(lambda at: log2_rows(counts[at], library, 0.5, E[at]), n_features, threads)
    features = [""] * n_features
    fit = fit_rows(E, design, features, names, weights, threads=threads)
    nothing = np.empty(0)
    if np.count_nonzero(fit.df_residual > 0) < 2:
        log.warning("the design leaves no replicates: all voom weights are 1")
        return Voom(E, np.ones_like(E), lib_size, *[nothing] * 4, span)
    shift = math.fsum(np.log2(library)) / n
    x, y = fit.amean + shift - _LOG2_MILLION, np.sqrt(fit.sigma)
    drawn = (counts > 0.0).any(axis=1) & np.isfinite(y)
    if not drawn.any():
        raise ValueError("voom: every count is zero")
    x, y = x[drawn], y[drawn]
    line_x, line_y = lowess(x, y, span)
    distinct, at_x = np.unique(line_x, return_inverse=True)
    level = np.bincount(at_x, line_y) / np.bincount(at_x)
    kept = Basis.of(design).kept
    b = np.ascontiguousarray(fit.coefficients[:, kept])
    columns = np.ascontiguousarray(design[:, kept])
    offset = np.log2(library) - _LOG2_MILLION

    def run(at: slice) -> None:
        precision_weights(b[at], columns, offset, distinct, level, w[at])

    in_rows(run, n_features, threads)
    return Voom(E, w, lib_size, line_x, line_y, x, y, span)


def _counts(counts: np.ndarray) -> np.ndarray:
    """Counts as float64[:, ::1]; ValueError where voom cannot use them."""
    counts = np.ascontiguousarray(counts, np.float64)
    if counts.ndim != 2 or counts.shape[0] < 2 or counts.shape[1] < 1:
        raise ValueError(f"voom needs counts of 2 features or more by samples, not {counts.shape}")
    low = counts.min()
    if not np.isfinite(low) or not np.isfinite(counts.max()):
        raise ValueError("voom: a count is missing or infinite")
    if low < 0.0:
        raise ValueError(f"voom: a count is negative ({low:g})")
    return counts


def _library(counts: np.ndarray, lib_size: np.ndarray | None) -> np.ndarray:
    """Library sizes, float64 of shape (n_samples,); by default the sums of the counts."""
    n = counts.shape[1]
    if lib_size is None:
        return counts.sum(axis=0)
    lib_size = np.array(lib_size, np.float64)
    if lib_size.shape != (n,):
        raise ValueError(f"library sizes of shape {lib_size.shape} for {n} samples")
    if not (np.isfinite(lib_size) & (lib_size >= 0.0)).all():
        raise ValueError("a library size is missing, infinite or negative")
    return lib_size
