"""Skew-normal calibration: a smooth tail fitted to the moments of the resamples.

Azzalini 1985, "A class of distributions which includes the normal ones": density
``2/omega phi(t) Phi(alpha t)``, ``t = (x - xi)/omega``. Fit by moments; two diagnostics decide
whether it may speak for the tail.
"""

from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx, log_ndtr, ndtr, owens_t

from condrand.kernels.null_summary import CLAMP
from condrand.nulls.summary import EDGES, NullSummary

# Largest skewness of a skew-normal is 0.99527; beyond, the old pipeline's remedy is kept.
_MAX_SKEWNESS = 0.995
_SKEWNESS_BEYOND = 0.9 * 0.995
# An extreme may pass what a normal null would reach, sqrt(2 log B) standard deviations, by half.
_OUTLIER_RATIO = 1.5
# In the upper and lower tenth of the null the empirical tail may be at most twice the fitted one.
_TAIL_RATIO = 2.0
_TAIL_PROBABILITIES = (0.01, 0.10)
# Standard deviations, in the units of the summary, that the histogram's bins of 1/8 between -8
# and 8 resolve: some edges fall into the outer tenths on both sides.
_SPREAD = (0.2, 4.0)
# The smallest number of resamples beyond a bin edge that says anything about its probability.
_TAIL_COUNT = 10
_LAGUERRE_NODES, _LAGUERRE_WEIGHTS = np.polynomial.laguerre.laggauss(64)


@dataclass(frozen=True)
class SkewNormal:
    """Location xi, scale omega and shape alpha; each float64, shape (n_features,)."""

    location: np.ndarray
    scale: np.ndarray
    shape: np.ndarray


def fit_moments(mean: np.ndarray, sd: np.ndarray, skewness: np.ndarray) -> SkewNormal:
    """The skew-normal with the given mean, standard deviation and skewness.

    Parameters
    ----------
    mean, sd, skewness : float64, shape (n_features,)

    Notes
    -----
    ``r = sign(g) (2|g| / (4 - pi))**(1/3)``, ``delta = r / sqrt(2/pi) / sqrt(1 + r**2)``,
    ``alpha = delta / sqrt(1 - delta**2)``, ``omega = sd / sqrt(1 - 2 delta**2 / pi)``,
    ``xi = mean - omega delta sqrt(2/pi)`` (Azzalini 1985, section 2). A skewness no skew-normal
    has is replaced by 0.8955 of the same sign.
    """
    skewness = np.where(
        np.abs(skewness) > _MAX_SKEWNESS, np.sign(skewness) * _SKEWNESS_BEYOND, skewness
    )
    r = np.sign(skewness) * np.cbrt(2 * np.abs(skewness) / (4 - np.pi))
    delta = r / (np.sqrt(2 / np.pi) * np.sqrt(1 + r**2))
    shape = delta / np.sqrt(1 - delta**2)
    scale = sd / np.sqrt(1 - 2 * delta**2 / np.pi)
    return SkewNormal(mean - scale * delta * np.sqrt(2 / np.pi), scale, shape)


def log_sf(x: np.ndarray, fit: SkewNormal) -> np.ndarray:
    """Natural logarithm of the upper tail probability, accurate as far as float64 reaches.

    Notes
    -----
    ``sf = Phi(-t) + 2 T(t, alpha)`` with Owen's T. Where the two parts cancel (the light tail),
    ``2 phi(t) Phi(alpha t)`` is integrated instead: with ``c = 1 + alpha**2`` and
    ``Phi(-y) = exp(-y**2/2) erfcx(y/sqrt 2)/2`` the integrand is ``exp(-c t**2/2)`` times a slow
    factor, for Gauss-Laguerre quadrature.
    """
    t = (np.asarray(x, np.float64) - fit.location) / fit.scale
    alpha = np.broadcast_to(fit.shape, t.shape)
    with np.errstate(divide="ignore", invalid="ignore"):
        plain = np.log(ndtr(-t) + 2 * owens_t(t, alpha))
    # Past 30 ndtr nears its underflow; the heavy tail is what the light tail of the mirrored
    # shape leaves of twice the normal's: 2 phi Phi(at) = 2 phi - 2 phi Phi(-at).
    out = plain.copy()
    far = (t > 30) & (alpha >= 0)
    if far.any():
        whole = np.log(2) + log_ndtr(-t[far])
        out[far] = whole + np.log1p(-np.exp(_log_light_tail(t[far], alpha[far]) - whole))
    light = (alpha < 0) & (t > 0) & ((1 + alpha**2) * t**2 > 8)
    if light.any():
        out[light] = _log_light_tail(t[light], -alpha[light])
    return out


def _log_light_tail(t: np.ndarray, a: np.ndarray) -> np.ndarray:
    c = 1 + a**2
    v = _LAGUERRE_NODES[:, None]
    step = v / (c * t)
    slow = np.exp(-0.5 * c * step**2) * erfcx(a * (t + step) / np.sqrt(2))
    integral = _LAGUERRE_WEIGHTS @ slow / (c * t)
    return -0.5 * c * t**2 + np.log(integral) - 0.5 * np.log(2 * np.pi)


def log_cdf(x: np.ndarray, fit: SkewNormal) -> np.ndarray:
    """Natural logarithm of the lower tail probability: :func:`log_sf` of the mirror image."""
    mirror = SkewNormal(-fit.location, fit.scale, -fit.shape)
    return log_sf(-np.asarray(x, np.float64), mirror)


def log_p_values(
    statistic: np.ndarray, fit: SkewNormal, tail: str, centre: np.ndarray | float = 0.0
) -> np.ndarray:
    """Natural logarithm of the p value of an observed statistic.

    Parameters
    ----------
    statistic : float64, shape (n_features,)
    fit : SkewNormal
        In the units of the statistic.
    tail : {"two_sided", "two_sided_centred", "left", "right"}
        Two-sided is what the empirical p value counts, ``P(|T - c| >= |observed - c|)`` with c
        zero, or `centre` if centred: both tails of the fit, not twice one.
    centre : float64, shape (n_features,)
    """
    if tail == "right":
        return log_sf(statistic, fit)
    if tail == "left":
        return log_cdf(statistic, fit)
    about = centre if tail == "two_sided_centred" else 0.0
    far = np.abs(statistic - about)
    both = np.logaddexp(log_sf(about + far, fit), log_cdf(about - far, fit))
    return np.minimum(both, 0.0)


def diagnose(summary: NullSummary, fit: SkewNormal) -> np.ndarray:
    """Why a fit may not speak for the tails, by feature.

    Parameters
    ----------
    summary : NullSummary
    fit : SkewNormal
        In the units of the summary's z.

    Returns
    -------
    object array of str, shape (n_features,)
        Empty where the fit passes; else ``degenerate`` (the null hardly varies, or so much that
        the histogram cannot show its tails), ``outlier`` (an extreme resample lies more than 1.5
        times as far out as a normal null would reach) or ``tail`` (somewhere between the outer
        10 % and 1 % the resamples hold more than twice the fitted probability).

    Notes
    -----
    The tail is compared at the histogram's edges, where the counts are exact, not at quantiles.
    """
    mean, sd, _ = summary.moments()
    n = int(summary.n[0])
    why = np.full(mean.size, "", object)
    reach = np.sqrt(2 * np.log(max(n, 2)))
    spread = (sd > _SPREAD[0]) & (sd < _SPREAD[1])
    why[~spread] = "degenerate"
    at = np.flatnonzero(spread)
    columns = SkewNormal(fit.location[at], fit.scale[at], fit.shape[at])
    why[at[_tail_excess(summary.histogram[at], columns, n) > _TAIL_RATIO]] = "tail"
    low, high = summary.extremes
    far = (high > mean + _OUTLIER_RATIO * reach * sd) | (low < mean - _OUTLIER_RATIO * reach * sd)
    # Moments of clamped values are not those of the null.
    far |= (high > CLAMP) | (low < -CLAMP)
    why[spread & far] = "outlier"
    return why


def _tail_excess(histogram: np.ndarray, fit: SkewNormal, n: int) -> np.ndarray:
    """Largest ratio of empirical to fitted tail probability in the outer tenths, by feature."""
    counts = histogram.astype(np.int64)
    below = np.cumsum(counts, axis=1)[:, :-1]
    edges = EDGES[1:-1]
    columns = SkewNormal(fit.location[:, None], fit.scale[:, None], fit.shape[:, None])
    worst = np.zeros(counts.shape[0])
    low, high = _TAIL_PROBABILITIES
    for count, log_fitted in ((n - below, log_sf), (below, log_cdf)):
        share = count / n
        relevant = (share >= low) & (share <= high) & (count >= _TAIL_COUNT)
        used = np.flatnonzero(relevant.any(axis=0))
        if not used.size:
            continue
        points = np.broadcast_to(edges[used], (counts.shape[0], used.size))
        # At edges that are not relevant the fitted probability may vanish.
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            ratio = share[:, used] / np.exp(log_fitted(points, columns))
        worst = np.maximum(worst, np.where(relevant[:, used], ratio, 0.0).max(axis=1))
    return worst
