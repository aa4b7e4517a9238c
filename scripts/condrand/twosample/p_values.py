"""P values of the Mann-Whitney and Welch tests, as natural logarithms.

Logarithms rank what is far below the smallest float64; ``exp`` of them is the p value.
"""

from functools import lru_cache
from math import comb, log

import numpy as np
from scipy.special import betaln, log_ndtr, stdtr

# Below this p, Student's tail is taken from a continued fraction in logs.
_TINY_P = 1e-100
# A spread below this share of the values' own size is rounding: a relative error of 2**-52 in
# each value gives squares 2**-104 of the values'.
_CONSTANT = 2.0**-100
_CONTINUED = 1000


def mann_whitney(
    two_u: np.ndarray,
    ties: np.ndarray,
    n: np.ndarray,
    n_control: np.ndarray,
    continuity: bool = True,
) -> tuple[np.ndarray, np.ndarray]:
    """Z and log p of the two-sided asymptotic Mann-Whitney test with tie correction.

    Parameters
    ----------
    two_u : int64
        Twice the U of the target group.
    ties : float64
        ``sum(t**3 - t)`` over the tie classes of both groups together.
    n, n_control : int64, broadcast against `two_u`
        Cells of the target and of the control group.
    continuity : bool
        Whether ``|U - mean|`` is reduced by one half.

    Returns
    -------
    float64, float64
        z with the sign of ``U - mean``, and the natural logarithm of p. NaN where a group is
        empty or all values are equal.

    Notes
    -----
    Definition: ``z = (|U - n m/2| - 1/2) / s``, ``s**2 = n m/12 ((N + 1) - ties/(N (N - 1)))``
    with N = n + m; ``p = erfc(z / sqrt(2))``, at most 1. Equal to
    ``scipy.stats.mannwhitneyu(method="asymptotic")``, but that equal values are NaN, not 1.
    z is 0 where ``|U - n m/2| <= 1/2``.
    Source: Mann & Whitney 1947; Lehmann 1975, section 1.4.
    """
    n, m = np.asarray(n, np.float64), np.asarray(n_control, np.float64)
    cells = n + m
    with np.errstate(divide="ignore", invalid="ignore"):
        # The variance as a product of what is left of the cubes: 0 where all values tie.
        left = (cells - 1) * cells * (cells + 1) - ties
        variance = n * m / (12 * cells * (cells - 1)) * left
        # Cubes are rounded above 2**53; one cell apart from a single tie class leaves 3 N**2.
        testable = (n > 0) & (m > 0) & (left > 1.5 * cells * (cells - 1))
        # Products of group sizes are below 2**53 up to 95 million cells on either side.
        gap = (two_u - n * m) / 2
        z = np.maximum(np.abs(gap) - (0.5 if continuity else 0.0), 0.0) / np.sqrt(variance)
        log_p = np.minimum(np.log(2) + log_ndtr(-z), 0.0)
    return np.where(testable, np.copysign(z, gap), np.nan), np.where(testable, log_p, np.nan)


def auroc(two_u: np.ndarray, n: np.ndarray, n_control: np.ndarray) -> np.ndarray:
    """``U / (n m)``: the probability that a target cell exceeds a control cell, ties by half."""
    pairs = np.asarray(n, np.float64) * n_control
    return np.where(pairs > 0, two_u / np.where(pairs > 0, 2 * pairs, 1), np.nan)


def rank_biserial(two_u: np.ndarray, n: np.ndarray, n_control: np.ndarray) -> np.ndarray:
    """``2 U / (n m) - 1``, from -1 to 1."""
    pairs = np.asarray(n, np.float64) * n_control
    return np.where(pairs > 0, (two_u - pairs) / np.where(pairs > 0, pairs, 1), np.nan)


@lru_cache(maxsize=64)
def _upper_tails(n: int, m: int) -> tuple[list[int], int]:
    """Arrangements with U at least ``n m - u`` for u = 0, 1, ..., n m / 2, and all of them."""
    few, many = sorted((n, m))
    half = few * many // 2
    ways = [1] + [0] * half
    # The numbers of arrangements are the coefficients of the Gaussian binomial, a product of
    # (1 - q**(many + i)) / (1 - q**i); integers of any size stay exact.
    for i in range(1, few + 1):
        for u in range(half, many + i - 1, -1):
            ways[u] -= ways[u - many - i]
        for u in range(i, half + 1):
            ways[u] += ways[u - i]
    for u in range(1, half + 1):
        ways[u] += ways[u - 1]
    return ways, comb(n + m, few)


def mann_whitney_exact(two_u: np.ndarray, ties: np.ndarray, n: int, n_control: int) -> np.ndarray:
    """Log p of the exact two-sided Mann-Whitney test of one pair of groups.

    Parameters
    ----------
    two_u : int64, shape (n_features,)
    ties : float64, shape (n_features,)
    n, n_control : int

    Returns
    -------
    float64, shape (n_features,)
        NaN where values tie, or where a group is empty.

    Notes
    -----
    Definition: twice the share of arrangements with U at least as large, at most 1; equal to
    ``scipy.stats.mannwhitneyu(method="exact")``.
    Cost: ``min(n, m)**2 max(n, m)`` additions of long integers, kept per pair of sizes.
    """
    out = np.full(np.shape(two_u), np.nan)
    if n == 0 or n_control == 0:
        return out
    tails, every = _upper_tails(int(n), int(n_control))
    log_every = log(every)
    for j in np.flatnonzero(np.asarray(ties) == 0):
        u = int(two_u[j]) // 2
        u = min(u, int(n) * int(n_control) - u)
        at_least = 2 * tails[u]
        if at_least >= every:
            out[j] = 0.0
        else:
            ratio = at_least / every
            out[j] = log(ratio) if ratio > 1e-300 else log(at_least) - log_every
    return out


def welch(
    total: np.ndarray,
    squares: np.ndarray,
    n: np.ndarray,
    control_total: np.ndarray,
    control_squares: np.ndarray,
    n_control: np.ndarray,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t, degrees of freedom and log p of Welch's two-sided test.

    Parameters
    ----------
    total, squares : float64
        Sum, and sum of squared deviations from the mean, of the target group.
    n : int64, broadcast
    control_total, control_squares, n_control
        The same of the control group.

    Returns
    -------
    float64, float64, float64
        NaN where a group has fewer than two cells, or where neither varies.

    Notes
    -----
    Source: Welch 1947; degrees of freedom by Satterthwaite 1946.
    Equal to ``scipy.stats.ttest_ind(equal_var=False)``, but that two constant groups are NaN.
    """
    n, m = np.asarray(n, np.float64), np.asarray(n_control, np.float64)
    with np.errstate(divide="ignore", invalid="ignore", over="ignore", under="ignore"):
        mean, control_mean = total / n, control_total / m
        size = n * mean**2 + m * control_mean**2
        error = squares / (n * (n - 1))
        control_error = control_squares / (m * (m - 1))
        both = error + control_error
        t = (mean - control_mean) / np.sqrt(both)
        # Shares, as squares of small errors underflow.
        share = error / both
        df = 1 / (share**2 / (n - 1) + (1 - share) ** 2 / (m - 1))
        testable = (n > 1) & (m > 1) & (squares + control_squares > _CONSTANT * size)
    t, df = np.where(testable, t, np.nan), np.where(testable, df, np.nan)
    return t, df, log_student(t, df)


def log_student(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Natural logarithm of ``P(|T| >= |t|)`` for Student's T.

    Parameters
    ----------
    t, df : float64, equal shapes
        NaN gives NaN.

    Notes
    -----
    Definition: the regularized incomplete beta function ``I_x(df/2, 1/2)`` at
    ``x = df/(df + t**2)``; below 1e-100 by its continued fraction (DLMF 8.17.22), whose
    factors are kept as logarithms.
    """
    t, df = np.asarray(t, np.float64), np.asarray(df, np.float64)
    size = np.abs(t)
    with np.errstate(divide="ignore", invalid="ignore", under="ignore"):
        p = 2 * stdtr(df, -size)
        log_p = np.minimum(np.log(p), 0.0)
    small = (p < _TINY_P) & np.isfinite(size)
    if np.any(small):
        log_p = np.array(log_p)
        log_p[small] = _log_tail(size[small], df[small])
    return log_p


def _log_tail(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """:func:`log_student` far out, by Lentz's algorithm."""
    a, b = df / 2, 0.5
    ratio = (t / df) * t
    x = 1 / (1 + ratio)
    log_x = -np.log1p(ratio)
    log_rest = np.log(ratio) + log_x
    c = np.ones_like(x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    # A value that has converged stays as it is: it must not depend on those beside it.
    moving = np.ones(x.shape, bool)
    for k in range(1, _CONTINUED):
        step = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        d = 1 / (1 + step * d)
        c = 1 + step / c
        factor = d * c
        step = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        d = 1 / (1 + step * d)
        c = 1 + step / c
        fraction = np.where(moving, fraction * factor * (d * c), fraction)
        moving &= np.abs(d * c - 1) >= 1e-15
        if not moving.any():
            break
    return a * log_x + b * log_rest - np.log(a) - betaln(a, b) + np.log(fraction)
