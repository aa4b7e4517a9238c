"""Moderated tests: the residual variances of all features inform that of each (empirical Bayes).

Model (Smyth 2004): the variance of a feature is ``s0^2 d0 / chi^2(d0)``, so that its estimate
``s^2`` on d degrees of freedom is ``s0^2 F(d, d0)``. Symbols as in the papers: `s0^2` and `d0` are
the prior variance and its degrees of freedom, `ld(x) = log x - digamma(x)`.
"""

from dataclasses import dataclass, replace

import numpy as np
from scipy.special import (
    betainc,
    betaincc,
    betainccinv,
    betaincinv,
    betaln,
    digamma,
    fdtr,
    fdtrc,
    gammainc,
    gammaincc,
    gammainccinv,
    gammaln,
    polygamma,
    roots_legendre,
)

from condrand.linear.fit import Fit
from condrand.twosample.p_values import log_student

# Variances below this share of their median are raised to it: the logarithm of an exact 0 would
# be infinite, and one tiny variance would swamp the others.
_SMALLEST_SHARE = 1e-5
# The same before winsorizing, where the size of an outlier no longer matters.
_SMALLEST_ROBUST_SHARE = 1e-12
# Below this tail probability the special functions near underflow; continued fractions take over.
_TINY_P = 1e-100
_CONTINUED = 2000
# Up to here scipy's F has an error of at most 3e-13 in log p, with more it grows to 1e-9.
_FAST_DF = 1e4
_NEWTON = 100
# Above this many prior degrees of freedom a posterior t is normal to float64.
_NORMAL_DF = 1e6
# Eigenvalues below this share of the largest are contrasts that depend on others.
_DEPENDENT = 1e-8
# Share of the variances on either side that the centre of a robust fit leaves out.
_TRIM = 0.1
_QUADRATURE = 128
_LOWESS_SPAN = 0.4
_LOWESS_ROUNDS = 3
# Rounding of a number near 1, as a relative tolerance.
_EPSILONS = 4 * np.finfo(np.float64).eps


@dataclass(frozen=True)
class Squeezed:
    """Variances drawn towards their common prior.

    Attributes
    ----------
    var_post : float64, shape (G,)
    var_prior : float or float64, shape (G,)
        s0^2; one per feature with a trend.
    df_prior : float or float64, shape (G,)
        d0, possibly inf; one per feature from a robust fit.
    """

    var_post: np.ndarray
    var_prior: np.ndarray | float
    df_prior: np.ndarray | float


@dataclass(frozen=True)
class RobustPrior:
    """A prior fitted with outlying variances held back.

    Attributes
    ----------
    scale : float or float64, shape (G,)
        s0^2; one per feature with a trend.
    df2 : float
        d0 of the features that are no outliers, possibly inf.
    df2_shrunk : float64, shape (G,)
        d0 of each feature: `df2`, less for outliers.
    p_not_outlier : float64, shape (G,)
        Estimated probability that the feature follows the prior; NaN where it has no variance.
    """

    scale: np.ndarray | float
    df2: float
    df2_shrunk: np.ndarray
    p_not_outlier: np.ndarray


# Special functions


def trigamma_inverse(x: np.ndarray | float) -> np.ndarray:
    """The y > 0 with ``trigamma(y) = x``.

    Parameters
    ----------
    x : float64
        NaN, and what is negative, give NaN; 0 gives inf and inf gives 0.

    Notes
    -----
    Error: 1e-15 relative. Newton's method for ``1/trigamma``, which is convex and nearly linear;
    from below the root, so it climbs without overshooting.
    Source: Smyth 2004.
    """
    x = np.asarray(x, np.float64)
    with np.errstate(divide="ignore", invalid="ignore"):
        # Leading terms of trigamma at large and small y; the next change y by 1e-7 relative.
        y = np.where(x > 1e7, 1 / np.sqrt(x), 1 / x)
    y = np.where(x < 0, np.nan, y)
    middle = (x >= 1e-6) & (x <= 1e7)
    if np.any(middle):
        target = x[middle]
        root = 0.5 + 1 / target
        for _ in range(_NEWTON):
            value = polygamma(1, root)
            step = value * (1 - value / target) / polygamma(2, root)
            root += step
            if np.all(np.abs(step) <= 1e-8 * root):
                break
        y[middle] = root
    return y


def log_f(f: np.ndarray, df1: np.ndarray | float, df2: np.ndarray | float) -> np.ndarray:
    """Natural logarithm of ``P(F >= f)`` for an F on (df1, df2) degrees of freedom.

    Parameters
    ----------
    f, df1, df2 : float64, broadcast
        NaN gives NaN, inf gives -inf. `df2` may be inf: then ``df1 F`` is chi-squared.

    Notes
    -----
    Definition: the incomplete beta function ``I_x(df2/2, df1/2)`` at
    ``x = df2/(df2 + df1 f)``; below 1e-100 by its continued fraction (DLMF 8.17.22), that of the
    incomplete gamma function for df2 = inf (DLMF 8.9.2), with factors kept as logarithms.
    """
    f, df1, df2 = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (f, df1, df2)))
    out = np.full(f.shape, np.nan)
    out[f <= 0] = 0.0
    out[np.isposinf(f)] = -np.inf
    out[np.isnan(df1 + df2)] = np.nan
    positive = np.isfinite(f) & (f > 0) & (df1 > 0) & (df2 > 0)
    chi = positive & np.isinf(df2)
    if np.any(chi):
        out[chi] = _log_chi(df1[chi] / 2, df1[chi] * f[chi] / 2)
    beta = positive & np.isfinite(df2)
    if np.any(beta):
        out[beta] = _log_f_finite(f[beta], df1[beta], df2[beta])
    return out


def _log_f_finite(f: np.ndarray, df1: np.ndarray, df2: np.ndarray) -> np.ndarray:
    p = fdtrc(df1, df2, f)
    with np.errstate(divide="ignore"):
        out = np.log(p)
    large = p > 0.5
    out[large] = np.log1p(-fdtr(df1[large], df2[large], f[large]))
    # The slower function where the faster one underflows, or loses digits to many df.
    slow = (p < _TINY_P) | (df2 > _FAST_DF)
    if np.any(slow):
        d1, d2 = df1[slow], df2[slow]
        out[slow] = _log_beta(d2 / 2, d1 / 2, d1 * f[slow] / d2)
    return out


def _log_beta(a: np.ndarray, b: np.ndarray, ratio: np.ndarray) -> np.ndarray:
    """Log of ``I_x(a, b)`` at ``x = 1/(1 + ratio)``."""
    x, rest = 1 / (1 + ratio), ratio / (1 + ratio)
    # Of x and 1 - x the smaller holds the digits; of p and 1 - p too.
    p = np.empty_like(x)
    small = ratio > 1
    p[small] = betainc(a[small], b[small], x[small])
    p[~small] = betaincc(b[~small], a[~small], rest[~small])
    with np.errstate(divide="ignore"):
        out = np.log(p)
    large = (p > 0.5) & ~small
    out[large] = np.log1p(-betainc(b[large], a[large], rest[large]))
    large = (p > 0.5) & small
    out[large] = np.log1p(-betaincc(a[large], b[large], x[large]))
    tiny = p < _TINY_P
    if np.any(tiny):
        a, b, ratio = a[tiny], b[tiny], ratio[tiny]
        log_x = -np.log1p(ratio)
        front = a * log_x + b * (np.log(ratio) + log_x) - np.log(a) - betaln(a, b)
        out[tiny] = front + np.log(_beta_fraction(a, b, 1 / (1 + ratio)))
    return out


def _beta_fraction(a: np.ndarray, b: np.ndarray, x: np.ndarray) -> np.ndarray:
    """The continued fraction of DLMF 8.17.22, by Lentz's algorithm."""
    c = np.ones_like(x)
    d = 1 / (1 - (a + b) * x / (a + 1))
    fraction = d.copy()
    for k in range(1, _CONTINUED):
        even = k * (b - k) * x / ((a + 2 * k - 1) * (a + 2 * k))
        odd = -(a + k) * (a + b + k) * x / ((a + 2 * k) * (a + 2 * k + 1))
        for term in (even, odd):
            d = 1 / (1 + term * d)
            c = 1 + term / c
            fraction *= c * d
        if np.all(np.abs(c * d - 1) < 1e-15):
            break
    return fraction


def _log_chi(a: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Log of the regularized upper incomplete gamma function ``Q(a, y)``."""
    p = gammaincc(a, y)
    with np.errstate(divide="ignore"):
        out = np.where(p < 0.5, np.log(p), np.log1p(-np.minimum(gammainc(a, y), 0.5)))
    tiny = p < _TINY_P
    if np.any(tiny):
        a, y = a[tiny], y[tiny]
        b = y + 1 - a
        c, d = np.full_like(b, np.inf), 1 / b
        fraction = d.copy()
        for k in range(1, _CONTINUED):
            term = -k * (k - a)
            b = b + 2
            d = 1 / (b + term * d)
            c = b + term / c
            fraction *= c * d
            if np.all(np.abs(c * d - 1) < 1e-15):
                break
        out[tiny] = a * np.log(y) - y - gammaln(a) + np.log(fraction)
    return out


def f_quantile(log_p: np.ndarray, df1: np.ndarray | float, df2: np.ndarray | float) -> np.ndarray:
    """The f with ``log P(F >= f) = log_p``: inverse of :func:`log_f`.

    Parameters
    ----------
    log_p, df1, df2 : float64, broadcast
        NaN gives NaN. `df2` may be inf.
    """
    log_p, df1, df2 = np.broadcast_arrays(*(np.asarray(v, np.float64) for v in (log_p, df1, df2)))
    p = np.maximum(np.exp(log_p), _TINY_P)
    a, b = df2 / 2, df1 / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        # Both x and 1 - x, each from its own inverse: neither loses digits where it is small.
        x, rest = betaincinv(a, b, p), betainccinv(b, a, p)
        # Above one half the complement 1 - p holds the digits.
        q = -np.expm1(log_p)
        x = np.where(p > 0.5, betainccinv(a, b, q), x)
        rest = np.where(p > 0.5, betaincinv(b, a, q), rest)
        f = np.where(np.isinf(df2), gammainccinv(b, p) / b, (df2 / df1) * (rest / x))
    # The library's inverses are good to 1e-9 with many degrees of freedom, and end at 1e-300.
    # Where p is nearly 1 its logarithm is too flat to improve on them.
    steep = (log_p < -1e-3) & np.isfinite(log_p) & (f > 0)
    if np.any(steep):
        f[steep] = _polished(log_p[steep], f[steep], df1[steep], df2[steep])
    return f


def _polished(log_p: np.ndarray, f: np.ndarray, df1: np.ndarray, df2: np.ndarray) -> np.ndarray:
    """Newton's method in log f from `f`: the quantile, or that of a larger p.

    The logarithm of the tail is concave in log f, so steps from the second on come from the right
    and cannot miss.
    """
    a, b = df2 / 2, df1 / 2
    s = np.log(f)
    for _ in range(_NEWTON):
        log_tail = log_f(np.exp(s), df1, df2)
        log_y = s + np.log(b)
        with np.errstate(invalid="ignore", divide="ignore"):
            log_ratio = log_y - np.log(a)
            log_x = -np.logaddexp(0.0, log_ratio)
            beta = a * log_x + b * (log_ratio + log_x) - betaln(a, b)
        gamma = b * log_y - np.exp(log_y) - gammaln(b)
        # The density of log f.
        log_density = np.where(np.isinf(df2), gamma, beta)
        step = (log_tail - log_p) * np.exp(log_tail - log_density)
        s = s + step
        if np.all(np.abs(step) < 1e-13 * np.maximum(1.0, np.abs(s))):
            break
    return np.exp(s)


# The prior


def _ld(x: np.ndarray | float) -> np.ndarray:
    return np.log(x) - digamma(x)


def _usable(variances: np.ndarray, df: np.ndarray, covariate: np.ndarray | None) -> np.ndarray:
    usable = np.isfinite(variances) & (variances >= 0) & (df > 0)
    if covariate is not None:
        usable &= np.isfinite(covariate)
    if not np.any(usable):
        raise ValueError(
            "no feature has a residual variance: there are no degrees of freedom left"
        )
    return usable


def _raised(variances: np.ndarray, share: float) -> np.ndarray:
    median = np.median(variances)
    if median == 0:
        raise ValueError(
            "the residual variance of half of the features or more is 0: "
            "leave out features that do not vary before variances are moderated"
        )
    return np.maximum(variances, share * median)


class _Spline:
    """Natural cubic splines of a covariate; Hastie, Tibshirani & Friedman 2009, eq. 5.4-5.5.

    1 parameter below 3 values, a line below 6, one interior knot at the median below 30, else two
    at the thirds. Any basis of this space gives the same fit.
    """

    def __init__(self, covariate: np.ndarray):
        n = covariate.size
        size = 1 + (n >= 3) + (n >= 6) + (n >= 30)
        self.size = min(size, np.unique(covariate).size)
        self.low, high = covariate.min(), covariate.max()
        self.range = high - self.low if high > self.low else 1.0
        inner = np.linspace(0, 1, max(self.size, 2))[1:-1]
        knots = np.quantile(covariate, np.concatenate([[0.0], inner, [1.0]]))
        # Ties may put quantiles on one value; such a knot would add nothing but a division by 0.
        self.knots = (np.unique(knots) - self.low) / self.range

    def basis(self, covariate: np.ndarray) -> np.ndarray:
        """float64, shape (n, at most 4); lines beyond the outer knots."""
        x = (covariate - self.low) / self.range
        columns = [np.ones_like(x)]
        if self.size > 1:
            columns.append(x)
        last, before = self.knots[-1], self.knots[-2] if self.knots.size > 1 else 0.0

        def bent(knot: float) -> np.ndarray:
            cubes = np.maximum(x - knot, 0.0) ** 3 - np.maximum(x - last, 0.0) ** 3
            return cubes / (last - knot)

        columns += [bent(knot) - bent(before) for knot in self.knots[:-2]]
        return np.stack(columns, axis=1)


def fit_f_dist(
    variances: np.ndarray,
    df: np.ndarray | float,
    covariate: np.ndarray | None = None,
    legacy: bool = True,
) -> tuple[np.ndarray | float, float]:
    """s0^2 and d0 of variances that follow ``s0^2 F(df, d0)``.

    Parameters
    ----------
    variances : float64, shape (G,)
        Features that are not finite or have no degrees of freedom are left out of the fit.
    df : float64, shape (G,) or float
    covariate : float64, shape (G,), optional
        log s0^2 is a natural cubic spline of it. NaN leaves a feature out.
    legacy : bool
        Moments of ``log s^2`` always. Otherwise maximum likelihood where the degrees of freedom
        differ between features, as newer limma (3.6x); see the notes.

    Returns
    -------
    scale : float, or float64 of shape (G,) with a covariate
        s0^2.
    df2 : float
        d0; inf where the variances differ no more than chance has them.

    Notes
    -----
    Definition (moments): ``e = log s^2 + ld(d/2)`` has mean ``log s0^2 + ld(d0/2)`` and variance
    ``trigamma(d/2) + trigamma(d0/2)``. With d0 = inf, s0^2 is the mean of the variances.
    Variances below 1e-5 of their median count as that; one usable feature gives d0 = 0.
    Source: Smyth 2004; with a trend Law et al. 2014 and Sartor et al. 2006.

    Maximum likelihood is our own: the likelihood of ``log s^2`` is concave in the parameters of
    log s0^2, which are profiled out by Newton's method; d0 is searched on ``d0/(1 + d0)``. limma
    weights the mean otherwise, so figures are near but not equal. With few degrees of freedom in
    some features it has the smaller variance.
    """
    variances = np.asarray(variances, np.float64)
    df = np.broadcast_to(np.asarray(df, np.float64), variances.shape)
    usable = _usable(variances, df, covariate)
    s2, d = variances[usable], df[usable]
    if s2.size == 1:
        whole = float(s2[0])
        return (np.full(variances.shape, whole) if covariate is not None else whole), 0.0
    s2 = _raised(s2, _SMALLEST_SHARE)
    if covariate is None:
        basis = every = np.ones((s2.size, 1))
    else:
        spline = _Spline(covariate[usable])
        basis, every = spline.basis(covariate[usable]), spline.basis(covariate)
    e = np.log(s2) + _ld(d / 2)
    if covariate is None:
        # The mean itself; least squares on a constant would round otherwise.
        weights, rank = np.array([e.mean()]), 1
    else:
        weights, _, rank, _ = np.linalg.lstsq(basis, e, rcond=None)
    residual = e - basis @ weights
    spread = float(residual @ residual) / max(s2.size - rank, 1)
    excess = spread - float(np.mean(polygamma(1, d / 2)))
    df2 = 2 * float(trigamma_inverse(np.array([excess]))[0]) if excess > 0 else np.inf
    if not legacy and np.ptp(d) > 0:
        weights, df2 = _most_likely(np.log(s2), d, basis, weights, df2)
        log_scale = every @ weights
    else:
        log_scale = every @ weights - (_ld(df2 / 2) if np.isfinite(df2) else 0.0)
    if covariate is not None:
        return np.exp(log_scale), df2
    if np.isinf(df2) and (legacy or np.ptp(d) == 0):
        return float(np.mean(s2)), df2
    return float(np.exp(log_scale[0])), df2


def _most_likely(
    y: np.ndarray, d: np.ndarray, basis: np.ndarray, weights: np.ndarray, df2: float
) -> tuple[np.ndarray, float]:
    """Maximum likelihood of log variances `y`: spline weights of log s0^2, and d0."""
    from scipy.optimize import minimize_scalar

    start = weights - (
        np.linalg.lstsq(basis, np.full(y.size, _ld(df2 / 2)), rcond=None)[0]
        if np.isfinite(df2)
        else 0.0
    )

    def profile(share: float) -> tuple[float, np.ndarray]:
        """Largest log likelihood at ``d0/(1 + d0) = share``, and where it is."""
        d0 = share / (1 - share) if share < 1 else np.inf

        def terms(beta: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
            r = y - basis @ beta
            if np.isinf(d0):
                grown = np.exp(r)
                value = d / 2 * (np.log(d / 2) + r - grown) - gammaln(d / 2)
                return float(np.sum(value)), d / 2 * (grown - 1), d / 2 * grown
            odds = np.log(d / d0) + r
            part = 1 / (1 + np.exp(-odds))
            value = d / 2 * odds - (d + d0) / 2 * np.logaddexp(0.0, odds)
            total = float(np.sum(value - betaln(d / 2, d0 / 2)))
            return total, (d + d0) / 2 * part - d / 2, (d + d0) / 2 * part * (1 - part)

        beta = start.copy()
        value, slope, curve = terms(beta)
        for _ in range(_NEWTON):
            hessian = basis.T @ (curve[:, None] * basis)
            step = np.linalg.lstsq(hessian, basis.T @ slope, rcond=None)[0]
            size = 1.0
            while True:
                made = terms(beta + size * step)
                if made[0] >= value - 1e-12 * abs(value) or size < 1e-6:
                    break
                size /= 2
            beta = beta + size * step
            value, slope, curve = made
            if np.max(np.abs(step)) < 1e-12:
                break
        return value, beta

    grid = np.linspace(0.02, 1.0, 50)
    best = int(np.argmax([profile(share)[0] for share in grid]))
    low, high = grid[best] - 0.0199, min(grid[best] + 0.02, 1.0)
    found = minimize_scalar(
        lambda share: -profile(share)[0],
        bounds=(low, high),
        method="bounded",
        options={"xatol": 1e-10},
    )
    share = 1.0 if profile(1.0)[0] >= -found.fun else float(found.x)
    return profile(share)[1], share / (1 - share) if share < 1 else np.inf


def winsorized_moments(
    df1: float, df2: float, winsor_tail_p: tuple[float, float] = (0.05, 0.1)
) -> tuple[float, float]:
    """Mean and variance of log F(df1, df2), winsorized.

    Parameters
    ----------
    df1, df2 : float
        `df2` may be inf.
    winsor_tail_p : tuple of float
        Tail probabilities, lower and upper, whose values are drawn in to the quantile.

    Notes
    -----
    Error: 128 Gauss-Legendre points in ``f/(1 + f)``.
    Source: Phipson et al. 2016.
    """
    lower, upper = winsor_tail_p
    f = f_quantile(np.log([1 - lower, upper]), df1, df2)
    ends = f / (1 + f)
    nodes, weights = roots_legendre(_QUADRATURE)
    width = (ends[1] - ends[0]) / 2
    u = ends.mean() + width * nodes
    z = np.log(u) - np.log1p(-u)
    a, b = df1 / 2, df2 / 2
    # The density of f times df/du = (1 - u)^-2, written by log f = z and f + 1 = 1/(1 - u).
    if np.isinf(df2):
        log_density = a * (np.log(a) + z - np.exp(z)) - gammaln(a) - z
    else:
        odds = np.log(df1 / df2) + z
        log_density = a * odds - (a + b) * np.logaddexp(0.0, odds) - betaln(a, b) - z
    mass = width * weights * np.exp(log_density - 2 * np.log1p(-u))
    tails = np.array([lower, upper])
    mean = float(mass @ z + tails @ np.log(f))
    variance = float(mass @ (z - mean) ** 2 + tails @ (np.log(f) - mean) ** 2)
    return mean, variance


def fit_f_dist_robustly(
    variances: np.ndarray,
    df: np.ndarray | float,
    covariate: np.ndarray | None = None,
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
) -> RobustPrior:
    """The prior of most variances, and how far each feature is trusted to follow it.

    Parameters
    ----------
    variances, df, covariate
        As :func:`fit_f_dist`.
    winsor_tail_p : tuple of float
        Shares of the smallest and the largest variances that are winsorized.

    Notes
    -----
    Definition: log variances less their centre (10 % trimmed mean; with a covariate its lowess
    curve) are winsorized; d0 is where the winsorized variance of log F(d, d0) equals theirs, never
    below that of :func:`fit_f_dist`. The ratio of the tail probability of a variance to its
    empirical one, if below 1, is the probability that it is no outlier. Outliers get fewer prior
    degrees of freedom, monotone in their tail probability. Variances on unequal degrees of
    freedom are first mapped, by equal tail probability under the non-robust prior, to the largest.
    A feature without variance has the common d0 and, with a covariate, the s0^2 interpolated
    between its neighbours.
    Source: Phipson et al. 2016.
    """
    variances = np.asarray(variances, np.float64)
    df = np.broadcast_to(np.asarray(df, np.float64), variances.shape)
    usable = _usable(variances, df, covariate)
    n = int(np.count_nonzero(usable))
    plain_scale, plain_df2 = fit_f_dist(variances, df, covariate)
    if n < 3:
        p = np.where(usable, 1.0, np.nan)
        return RobustPrior(plain_scale, plain_df2, np.full(variances.shape, plain_df2), p)
    s2, d1 = variances[usable], float(df[usable].max())
    plain = np.broadcast_to(plain_scale, variances.shape)[usable]
    s2 = _to_equal_df(s2, df[usable], d1, plain, plain_df2)
    z = np.log(_raised(s2, _SMALLEST_ROBUST_SHARE))
    if covariate is None:
        cut = int(n * _TRIM)
        centre = np.full(n, np.sort(z)[cut : n - cut].mean())
    else:
        centre = _smoothed(covariate[usable], z)
    away = z - centre
    low, high = np.quantile(away, [winsor_tail_p[0], 1 - winsor_tail_p[1]])
    drawn = np.clip(away, low, high)
    mean, variance = float(drawn.mean()), float(drawn.var(ddof=1))
    df2 = _matching_df2(variance, d1, plain_df2, winsor_tail_p)
    log_scale = centre + mean - winsorized_moments(d1, df2, winsor_tail_p)[0]
    f = np.exp(z - log_scale)
    p, shrunk = _outliers(f, d1, df2)
    p_not_outlier = np.full(variances.shape, np.nan)
    p_not_outlier[usable] = p
    df2_shrunk = np.full(variances.shape, df2)
    df2_shrunk[usable] = shrunk
    if covariate is None:
        return RobustPrior(float(np.exp(log_scale[0])), df2, df2_shrunk, p_not_outlier)
    scale = np.full(variances.shape, np.nan)
    scale[usable] = np.exp(log_scale)
    rest = ~usable & np.isfinite(covariate)
    order = np.argsort(covariate[usable], kind="stable")
    scale[rest] = np.exp(np.interp(covariate[rest], covariate[usable][order], log_scale[order]))
    return RobustPrior(scale, df2, df2_shrunk, p_not_outlier)


def _smoothed(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    # Here and not above: numba is slow to import, and only this needs it.
    from condrand.linear.lowess import lowess_in_place

    return lowess_in_place(x, y, _LOWESS_SPAN, _LOWESS_ROUNDS)


def _to_equal_df(
    s2: np.ndarray, d: np.ndarray, most: float, scale: np.ndarray, df2: float
) -> np.ndarray:
    """Variances on `most` degrees of freedom with the tail probabilities of those on `d`."""
    fewer = d < most
    if not np.any(fewer):
        return s2
    s2 = s2.copy()
    f, d, scale = s2[fewer] / scale[fewer], d[fewer], scale[fewer]
    upper = log_f(f, d, df2)
    lower = _log_f_below(f, d, df2)
    up = upper < lower
    mapped = np.empty_like(f)
    mapped[up] = f_quantile(upper[up], most, df2)
    mapped[~up] = _f_quantile_below(lower[~up], most, df2)
    s2[fewer] = mapped * scale
    return s2


def _log_f_below(f: np.ndarray, df1: np.ndarray, df2: float) -> np.ndarray:
    """Log of ``P(F <= f)``; -inf at 0."""
    if np.isfinite(df2):
        with np.errstate(divide="ignore"):
            # 1/F is F on exchanged degrees of freedom.
            return log_f(1 / f, df2, df1)
    with np.errstate(divide="ignore"):
        return np.log(gammainc(df1 / 2, df1 * f / 2))


def _f_quantile_below(log_p: np.ndarray, df1: float, df2: float) -> np.ndarray:
    out = np.zeros(log_p.shape)
    some = np.isfinite(log_p)
    if np.isfinite(df2):
        out[some] = 1 / f_quantile(log_p[some], df2, df1)
    else:
        from scipy.special import gammaincinv

        out[some] = gammaincinv(df1 / 2, np.exp(log_p[some])) / (df1 / 2)
    return out


def _matching_df2(
    variance: float, df1: float, least: float, winsor_tail_p: tuple[float, float]
) -> float:
    """The d0 >= `least` at which winsorized log F(df1, d0) has the given variance."""
    from scipy.optimize import brentq

    def excess(share: float) -> float:
        df2 = share / (1 - share) if share < 1 else np.inf
        return float(np.log(variance / winsorized_moments(df1, df2, winsor_tail_p)[1]))

    if variance <= 0 or np.isinf(least):
        return np.inf
    # The variance of log F falls as d0 grows, so the excess rises with it.
    if excess(1.0) <= 0:
        return np.inf
    first = least / (1 + least)
    if excess(first) >= 0:
        return least
    # limma's tolerance: of the two roots, both within it, this one is the same to 1e-13.
    share = brentq(excess, first, 1.0, xtol=1e-8, rtol=_EPSILONS)
    return share / (1 - share)


def _outliers(f: np.ndarray, df1: float, df2: float) -> tuple[np.ndarray, np.ndarray]:
    """Probability of no outlier, and prior degrees of freedom, of each variance ratio."""
    n = f.size
    log_tail = log_f(f, df1, df2)
    log_empirical = np.log((n - _average_ranks(f) + 0.5) / n)
    p = np.exp(np.minimum(log_tail - log_empirical, 0.0))
    if np.all(p == 1):
        return p, np.full(n, df2)
    order = np.argsort(log_tail, kind="stable")
    if np.isinf(df2):
        # All residual degrees of freedom together are what an outlier's prior can have at most.
        shrunk = np.where(p < 1, p * n * df1, np.inf)
        shrunk[order] = np.maximum.accumulate(shrunk[order])
        return p, shrunk
    # That of an outlier puts the largest ratio at its median: exactly if the tail were a power.
    outlier = df2 * np.log(0.5) / log_tail.min()
    largest = log_f(np.array([f.max()]), df1, outlier)[0]
    outlier *= np.log(0.5) / largest
    ordered = (p * df2 + (1 - p) * outlier)[order]
    running = np.cumsum(ordered) / np.arange(1, n + 1)
    head = int(np.argmin(running))
    ordered[: head + 1] = running[head]
    shrunk = np.empty(n)
    shrunk[order] = np.maximum.accumulate(ordered)
    return p, shrunk


def _average_ranks(values: np.ndarray) -> np.ndarray:
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def squeeze_var(
    variances: np.ndarray,
    df: np.ndarray | float,
    covariate: np.ndarray | None = None,
    robust: bool = False,
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
    legacy: bool = True,
) -> Squeezed:
    """Posterior variances: ``(d s^2 + d0 s0^2)/(d + d0)``.

    Parameters
    ----------
    variances, df, covariate, legacy
        As :func:`fit_f_dist`. A feature without degrees of freedom gets s0^2.
    robust : bool
        Hold outlying variances back, by :func:`fit_f_dist_robustly` (moments, always).
    winsor_tail_p : tuple of float
        For the robust fit.

    Notes
    -----
    Source: Smyth 2004; Phipson et al. 2016.
    """
    variances = np.asarray(variances, np.float64)
    df = np.broadcast_to(np.asarray(df, np.float64), variances.shape)
    if robust and not legacy:
        raise ValueError("the robust prior is fitted by moments: robust needs legacy")
    df_prior: np.ndarray | float
    if robust:
        prior = fit_f_dist_robustly(variances, df, covariate, winsor_tail_p)
        scale, df_prior = prior.scale, prior.df2_shrunk
    else:
        scale, df_prior = fit_f_dist(variances, df, covariate, legacy)
    s2 = np.where(df > 0, variances, 0.0)
    d0 = np.broadcast_to(np.asarray(df_prior, np.float64), variances.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        post = (df * s2 + d0 * scale) / (df + d0)
    return Squeezed(np.where(np.isinf(d0), scale, post), scale, df_prior)


# Tests


def moderated_f(
    t: np.ndarray, cov_coefficients: np.ndarray, df2: np.ndarray
) -> tuple[np.ndarray, int, np.ndarray]:
    """F of all contrasts together.

    Parameters
    ----------
    t : float64, shape (G, p)
    cov_coefficients : float64, shape (p, p)
        Unscaled covariance of the contrasts; only their correlation R is used.
    df2 : float64, shape (G,)

    Returns
    -------
    F : float64, shape (G,)
        NaN where a contrast has no t.
    df1 : int
        Rank of R: contrasts that depend on others count once.
    log_p : float64, shape (G,)
        Natural logarithm.

    Notes
    -----
    Definition: ``F = t' R^- t / rank``. Contrasts that no feature can estimate are left out.
    Source: Smyth 2004.
    """
    estimable = estimable_contrasts(t, cov_coefficients)
    t = t[:, estimable]
    if not t.shape[1]:
        return np.full(t.shape[0], np.nan), 0, np.full(t.shape[0], np.nan)
    root, rank = whitening(cov_coefficients[np.ix_(estimable, estimable)])
    with np.errstate(invalid="ignore"):
        f = np.sum((t @ root) ** 2, axis=1) / rank
    return f, rank, log_f(f, rank, df2)


def estimable_contrasts(t: np.ndarray, cov_coefficients: np.ndarray) -> np.ndarray:
    """Contrasts that some feature has a t of: bool, shape (p,)."""
    return np.any(np.isfinite(t), axis=0) & (np.diag(cov_coefficients) > 0)


def whitening(cov_coefficients: np.ndarray) -> tuple[np.ndarray, int]:
    """``U L^-1/2`` of the correlation ``U L U'``: float64, shape (p, rank); and the rank."""
    if cov_coefficients.shape == (1, 1):
        return np.ones((1, 1)), 1
    sd = np.sqrt(np.diag(cov_coefficients))
    values, vectors = np.linalg.eigh(cov_coefficients / np.outer(sd, sd))
    kept = values > _DEPENDENT * values[-1]
    return vectors[:, kept] / np.sqrt(values[kept]), int(np.count_nonzero(kept))


def _squeezed_fit(
    fit: Fit,
    trend: "bool | np.ndarray",
    robust: bool,
    winsor_tail_p: tuple[float, float],
    legacy: bool,
) -> Fit:
    """The fit with its prior, posterior variances and t degrees of freedom."""
    covariate = None
    if isinstance(trend, np.ndarray):
        covariate = np.asarray(trend, np.float64)
        if covariate.shape != fit.sigma.shape:
            raise ValueError(
                f"trend has shape {covariate.shape}, expected one value for each of the "
                f"{fit.sigma.size} features"
            )
    elif trend:
        covariate = fit.amean
    df = np.asarray(fit.df_residual, np.float64)
    made = squeeze_var(fit.sigma**2, df, covariate, robust, winsor_tail_p, legacy)
    # No test can rest on more than all residual degrees of freedom together.
    df_total = np.minimum(df + made.df_prior, df.sum())
    return replace(
        fit,
        df_prior=made.df_prior,
        s2_prior=made.var_prior,
        s2_post=made.var_post,
        df_total=df_total,
        t=None,
        log_p=None,
        p_value=None,
        lods=None,
        F=None,
        F_df1=None,
        F_df2=None,
        F_log_p=None,
        F_p_value=None,
        var_prior=None,
        treat_lfc=None,
    )


def e_bayes(
    fit: Fit,
    proportion: float = 0.01,
    trend: "bool | np.ndarray" = False,
    robust: bool = False,
    stdev_coef_lim: tuple[float, float] = (0.1, 4.0),
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
    legacy: bool = True,
) -> Fit:
    """Moderated t, F and log odds of every feature.

    Parameters
    ----------
    fit : Fit
        From a linear model or its contrasts.
    proportion : float
        Share of the features expected to have an effect, in (0, 1); only the log odds depend on
        it.
    trend : bool or float64 of shape (G,)
        Whether s0^2 depends on the mean of the feature, or on the values given.
    robust : bool
        Whether features with outlying variances are held back from the prior.
    stdev_coef_lim : tuple of float
        Least and largest standard deviation of the effects there are, in units of s0.
    winsor_tail_p : tuple of float
        For the robust fit.
    legacy : bool
        Moments for the prior, as limma 3.54. False: maximum likelihood where residual degrees of
        freedom differ, as newer limma has by default; see :func:`fit_f_dist`.

    Returns
    -------
    Fit
        With `df_prior`, `s2_prior`, `s2_post`, `df_total`, `t`, `log_p`, `p_value`, `lods`,
        `var_prior`, and F. `lods` is the natural logarithm of the odds of an effect.

    Notes
    -----
    Definition: ``t = B/(su s~)`` on ``min(d + d0, sum d)`` degrees of freedom; F on
    ``d + d0``, not capped, as in limma. p values are two-sided.
    Source: Smyth 2004; Ritchie et al. 2015; Phipson et al. 2016.
    """
    if not 0 < proportion < 1:
        raise ValueError(f"proportion is {proportion}, expected a number between 0 and 1")
    fit = _squeezed_fit(fit, trend, robust, winsor_tail_p, legacy)
    df = np.broadcast_to(fit.df_total[:, None], fit.coefficients.shape)
    with np.errstate(invalid="ignore", divide="ignore"):
        t = fit.coefficients / fit.stdev_unscaled / np.sqrt(fit.s2_post)[:, None]
    log_p = log_student(t, df)
    var_prior, lods = _log_odds(fit, t, log_p, proportion, stdev_coef_lim)
    f_df2 = np.asarray(fit.df_residual + fit.df_prior, np.float64)
    f, f_df1, f_log_p = moderated_f(t, fit.cov_coefficients, f_df2)
    return replace(
        fit,
        t=t,
        log_p=log_p,
        p_value=np.exp(log_p),
        lods=lods,
        var_prior=var_prior,
        F=f,
        F_df1=f_df1,
        F_df2=f_df2,
        F_log_p=f_log_p,
        F_p_value=np.exp(f_log_p),
    )


def _log_odds(
    fit: Fit,
    t: np.ndarray,
    log_p: np.ndarray,
    proportion: float,
    stdev_coef_lim: tuple[float, float],
) -> tuple[np.ndarray, np.ndarray]:
    """Prior variance of the effects, shape (p,), and log odds of an effect, shape (G, p).

    Source: Smyth 2004 (log odds, and the prior variance from the largest t).
    """
    limits = np.array(stdev_coef_lim) ** 2 / np.nanmedian(fit.s2_prior)
    su2, df = fit.stdev_unscaled**2, fit.df_total
    v0 = np.array(
        [
            _effect_variance(t[:, k], log_p[:, k], su2[:, k], df, proportion, limits)
            for k in range(t.shape[1])
        ]
    )
    d0 = np.broadcast_to(np.asarray(fit.df_prior, np.float64), df.shape)[:, None]
    df = df[:, None]
    with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
        r = 1 + v0 / su2
        t2 = t**2
        kernel = (1 + df) / 2 * np.log((t2 + df) / (t2 / r + df))
        # An infinite df, though not the capped one, makes the two t densities normal.
        kernel = np.where(d0 > _NORMAL_DF, t2 * (1 - 1 / r) / 2, kernel)
        return v0, np.log(proportion / (1 - proportion)) - np.log(r) / 2 + kernel


def _effect_variance(
    t: np.ndarray,
    log_p: np.ndarray,
    su2: np.ndarray,
    df: np.ndarray,
    proportion: float,
    limits: np.ndarray,
) -> float:
    """Prior variance of the effects of one contrast, in units of the residual variance."""
    made = ~np.isnan(t)
    n = int(np.count_nonzero(made))
    if n == 0:
        return np.nan
    size, log_p, su2, df = np.abs(t[made]), log_p[made], su2[made], df[made]
    n_top = int(np.ceil(proportion / 2 * n))
    share = max(n_top / n, proportion)
    most = float(df.max())
    # Equal tails make t on different degrees of freedom comparable: p gives their order.
    by = -size if np.all(df == most) else log_p
    top = np.argsort(by, kind="stable")[:n_top]
    size, log_p, su2, fewer = size[top], log_p[top], su2[top], df[top] < most
    size[fewer] = np.sqrt(f_quantile(log_p[fewer], 1.0, most))
    null = np.exp(log_p)
    rank = np.arange(1, n_top + 1)
    target = ((rank - 0.5) / n - (1 - share) * null) / share
    v0 = np.zeros(n_top)
    above = target > null
    if np.any(above):
        quantile2 = f_quantile(np.log(target[above]), 1.0, most)
        v0[above] = su2[above] * (size[above] ** 2 / quantile2 - 1)
    return float(np.mean(np.clip(v0, *limits)))


def treat(
    fit: Fit,
    lfc: float | None = None,
    fc: float = 1.2,
    trend: "bool | np.ndarray" = False,
    robust: bool = False,
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
    legacy: bool = True,
) -> Fit:
    """Moderated t tests against effects no larger than a threshold.

    Parameters
    ----------
    fit : Fit
        From a linear model or its contrasts.
    lfc : float, optional
        Threshold on the size of the log2 fold change.
    fc : float
        Threshold as a fold change, where `lfc` is not given; above 0.
    trend, robust, winsor_tail_p, legacy
        As :func:`e_bayes`.

    Returns
    -------
    Fit
        With `t`, `log_p`, `p_value` and `treat_lfc`; no log odds and no F.

    Notes
    -----
    Definition: with ``se = su s~``, ``p = P(T > (|B| - lfc)/se) + P(T > (|B| + lfc)/se)``;
    t is that of the nearer threshold, with the sign of B, and 0 between the two.
    Source: McCarthy & Smyth 2009.
    """
    if lfc is None:
        if not fc > 0:
            raise ValueError(f"fc is {fc}, expected a fold change above 0")
        lfc = np.log2(fc)
    lfc = float(abs(lfc))
    fit = _squeezed_fit(fit, trend, robust, winsor_tail_p, legacy)
    df = np.broadcast_to(fit.df_total[:, None], fit.coefficients.shape)
    se = fit.stdev_unscaled * np.sqrt(fit.s2_post)[:, None]
    size = np.abs(fit.coefficients)
    with np.errstate(invalid="ignore", divide="ignore"):
        near, far = (size - lfc) / se, (size + lfc) / se
        log_p = np.minimum(np.logaddexp(_log_upper(near, df), _log_upper(far, df)), 0.0)
        t = np.sign(fit.coefficients) * np.maximum(near, 0.0)
    return replace(fit, t=t, log_p=log_p, p_value=np.exp(log_p), treat_lfc=lfc)


def _log_upper(t: np.ndarray, df: np.ndarray) -> np.ndarray:
    """Log of ``P(T > t)``."""
    half = log_student(t, df) - np.log(2)
    return np.where(t < 0, np.log1p(-np.exp(half)), half)
