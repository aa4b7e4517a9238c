"""One p value from several independent ones, say of the batches of a screen."""

import numpy as np
from scipy.special import chdtrc, ndtr, ndtri


def fisher(p: np.ndarray, axis: int = 0) -> np.ndarray:
    """Combine p values by Fisher's method, ``-2 sum(log p)`` against chi-squared of 2m degrees.

    Parameters
    ----------
    p : float64
        Independent p values; NaN where no test was made, which is left out.
    axis : int
        Axis to combine over.

    Returns
    -------
    float64, the shape of `p` without `axis`
        NaN where every p value is.

    Raises
    ------
    ValueError
        If a p value lies outside [0, 1].

    Notes
    -----
    Source: Fisher 1932, "Statistical methods for research workers", section 21.1. The sign of an
    effect is not heard: opposite effects in two batches add up to evidence.
    """
    p = _checked(p)
    made = ~np.isnan(p)
    m = made.sum(axis=axis)
    with np.errstate(divide="ignore"):
        statistic = -2 * np.sum(np.log(np.where(made, p, 1.0)), axis=axis)
    return np.where(m > 0, chdtrc(2 * np.maximum(m, 1), statistic), np.nan)[()]


def stouffer(
    p: np.ndarray, sign: np.ndarray, axis: int = 0, weights: np.ndarray | None = None
) -> np.ndarray:
    """Combine two-sided p values and the signs of their effects by Stouffer's method.

    Parameters
    ----------
    p : float64
        Independent two-sided p values; NaN where no test was made, which is left out.
    sign : float64, the shape of `p`
        Effects; only their signs count, and 0 counts as no evidence.
    axis : int
        Axis to combine over.
    weights : float64, shape (p.shape[axis],) or the shape of `p`, or None
        Equal by default.

    Returns
    -------
    float64, the shape of `p` without `axis`
        Two-sided. NaN where every p value is, or where evidence without bound (p = 0) points
        both ways.

    Raises
    ------
    ValueError
        If a p value lies outside [0, 1], or shapes do not agree.

    Notes
    -----
    ``z = sign Phi^-1(1 - p/2)``, ``Z = sum(w z) / sqrt(sum(w**2))``, ``p = 2 Phi(-|Z|)``
    (Stouffer et al. 1949, "The American soldier" vol. 1, p. 45 note; Liptak 1958 for weights).
    Without the signs every z is at least 0, Z has mean .80 per batch in place of 0, and the
    two-sided p value of four batches falls below .05 in a quarter of null tests.
    """
    p, sign = _checked(p), np.sign(np.asarray(sign, np.float64))
    if sign.shape != p.shape:
        raise ValueError(f"signs have shape {sign.shape}, p values {p.shape}")
    p = np.where(np.isnan(sign), np.nan, p)
    # -Phi^-1(p/2), which does not round off a small p as 1 - p/2 would; 0 inf is no evidence.
    z = np.where(sign == 0, 0.0, -np.where(sign == 0, 1.0, sign) * ndtri(p / 2))
    return 2 * ndtr(-np.abs(_weighted_sum(z, p, axis, weights)))


def stouffer_one_sided(
    p: np.ndarray, axis: int = 0, weights: np.ndarray | None = None
) -> np.ndarray:
    """Combine one-sided p values by Stouffer's method; parameters as in :func:`stouffer`.

    Returns
    -------
    float64, the shape of `p` without `axis`
        One-sided: ``Phi(sum(w Phi^-1(p)) / sqrt(sum(w**2)))``.
    """
    p = _checked(p)
    return ndtr(_weighted_sum(ndtri(p), p, axis, weights))


def _checked(p: np.ndarray) -> np.ndarray:
    p = np.asarray(p, np.float64)
    if ((p < 0) | (p > 1)).any():
        raise ValueError(f"p values lie outside [0, 1]: {np.nanmin(p)} to {np.nanmax(p)}")
    return p


def _weighted_sum(
    z: np.ndarray, p: np.ndarray, axis: int, weights: np.ndarray | None
) -> np.ndarray:
    """Standardized sum of the z of the tests that were made; NaN where there is none."""
    made = ~np.isnan(p)
    weights = np.ones(p.shape[axis]) if weights is None else np.asarray(weights, np.float64)
    if weights.ndim == 1:
        weights = np.expand_dims(weights, [i for i in range(p.ndim) if i != axis % p.ndim])
    used = np.where(made, np.broadcast_to(weights, p.shape), 0.0)
    # Two infinite z of opposite signs have no sum, and no test made has no norm: both are NaN.
    with np.errstate(divide="ignore", invalid="ignore"):
        total = np.sum(np.where(used != 0, used * z, 0.0), axis=axis)
        return total / np.sqrt(np.sum(used**2, axis=axis))
