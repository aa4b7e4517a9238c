"""Tail probabilities of a Bernoulli conditional randomization test without resampling.

Given the outcome, the statistic reaches t where a sum ``L = sum x_i (r_i - t h_i)`` of independent
``x_i ~ Bernoulli(p_i)`` reaches ``t offset`` (:class:`condrand.statistics.scores.LinearForm`). Its
tail follows from the cumulant generating function K at the saddlepoint ``K'(s) = t offset``
(Lugannani & Rice 1980; Daniels 1987; for such tests Niu, Ray Choudhury & Katsevich 2024).
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from scipy.special import erfcx

from condrand.kernels.saddlepoint import cumulants, tilted_cumulants
from condrand.statistics.scores import LinearForm, Scores

# Cells that must carry a tail: with fewer the sum is far from continuous, or an outlying cell
# decides it, and the orders of the expansion do not tell.
_FEW = 4.0
# Largest logarithm of the ratio of the orders.
_APART = 0.2

SMALL = 50_000
"""Above this many cells the expansion of a statistic's denominator is not done anew: it costs a
pass over the covariates for each tail, and changes little."""

# Features whose residuals are written out at once, and sums expanded anew.
_TOGETHER = 16
# A step this small is finished by the Taylor series: in standard deviations of the tilted sum, and
# in what it changes of the variance.
_CLOSE = 2e-2
# Nearer than this to the mean (in the same units) 1/u - 1/w is taken from its series.
_CENTRE = 6e-3
# Nearer than this the second order is rounding; it is of little account there.
_NEAR = 0.05
# Where an expansion anew begins to show.
_FAR = np.log(0.01)
_MOST_STEPS = 100
# Largest exponent of a tilt towards a level that no treated set reaches.
_SAFE = 10.0
# Beyond this exponent a cell is treated in every tilted set.
_CERTAIN = 100.0
# A tail that holds the mean is given a hundredth at least: one that a few outlying cells leave
# less is none that an expansion about the other side could tell.
_MOST = np.log(0.99)
_LOG_ROOT_2PI = 0.5 * np.log(2.0 * np.pi)


@dataclass(frozen=True)
class TailPoint:
    """Saddlepoints of the upper ([:, 0]) and the lower ([:, 1]) tail of some features.

    All float64, shape (n_features, 2); NaN where a tail is no part of the test, or the feature
    does not vary.

    Attributes
    ----------
    tilt : numpy.ndarray
        s, by which ``logit p_i + s (r_i - level h_i)`` centres the sum on the edge: positive
        in the upper tail, negative in the lower; 0 where the tail holds the mean. Of float32.
    log_p : numpy.ndarray
        Natural logarithm of the tail's probability; ``-inf`` where the level lies outside the
        support of the linear form, and the tilt then is only one that is safe.
    log_error : numpy.ndarray
        How far the two orders of the expansion differ.
    n_effective : numpy.ndarray
        About how many treated cells carry the tail: ``(sum v r**2)**2 / sum v r**4``, v the
        variance of each cell's treatment under the tilt.
    level : numpy.ndarray
        The statistic is at least [:, 0], at most [:, 1].
    """

    tilt: np.ndarray
    log_p: np.ndarray
    log_error: np.ndarray
    n_effective: np.ndarray
    level: np.ndarray


def tail_levels(observed: np.ndarray, centre: np.ndarray, tail: str) -> np.ndarray:
    """Where the tails of a test begin.

    Parameters
    ----------
    observed, centre : float64, shape (n_features,)
    tail : {"two_sided", "two_sided_centred", "left", "right"}
        As in :func:`condrand.nulls.empirical.p_values`.

    Returns
    -------
    float64, shape (n_features, 2)
        The statistic is at least [:, 0], or at most [:, 1]; NaN where there is no such tail.
    """
    if tail in ("right", "left"):
        absent = np.full(observed.shape, np.nan)
        return np.stack([observed, absent] if tail == "right" else [absent, observed], axis=1)
    about = centre if tail == "two_sided_centred" else np.zeros_like(observed)
    far = np.abs(observed - about)
    # Exactly the observed value on its own side, whatever the rounding of the distance.
    upper = np.where(observed >= about, observed, about + far)
    lower = np.where(observed <= about, observed, about - far)
    return np.stack([upper, lower], axis=1)


def tail_points(
    scores: Scores,
    form: LinearForm,
    p: np.ndarray,
    features: np.ndarray,
    levels: np.ndarray,
    linear_form: Callable[[Scores, np.ndarray], LinearForm] | None = None,
) -> TailPoint:
    """Saddlepoints of the tails of some features.

    Parameters
    ----------
    scores : DenseScores or SparseScores
        Of a statistic that has a linear form.
    form : LinearForm
        Of that statistic under `p`.
    p : float64[::1], shape (n_cells,)
        Propensity, inside (0, 1).
    features : int64[::1], shape (n_some,)
        Which features.
    levels : float64, shape (n_some, 2)
        From :func:`tail_levels`, of these features.
    linear_form : callable, optional
        The statistic's. Then, where cells are few (:data:`SMALL`), a tail's probability below 0.01
        is that of the form expanded anew about the tilted mean; its tilt stays that of `form`.
    """
    parts = [np.full(levels.shape, np.nan) for _ in range(4)]
    for first in range(0, features.size, _TOGETHER):
        some = slice(first, first + _TOGETHER)
        wanted = np.isfinite(levels[some])
        row_of, side = np.nonzero(wanted)
        is_upper = side == 0
        reached = levels[some][wanted]
        sums = _Sums(scores.residuals(features[some]), row_of, reached, form.h, p)
        found = _tails(_solve(sums, reached * form.offset), is_upper)
        if linear_form is not None and p.size <= SMALL:
            _expand_anew(sums, found, is_upper, lambda pi: linear_form(scores, pi))
        for out, part in zip(parts, found, strict=True):
            out[some][wanted] = part
    return TailPoint(*parts, levels)


def p_values(points: TailPoint, observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of the p value of each feature, both tails together, and its error.

    Parameters
    ----------
    points : TailPoint
    observed : float64, shape (n_features,)
        Observed statistic.

    Returns
    -------
    log_p, log_error : float64, shape (n_features,)
        NaN where the observed value itself lies outside the support of the linear form.
    """
    total, share = _total(points)
    own = np.any((points.level == observed[:, None]) & np.isfinite(points.log_p), axis=1)
    error = np.sum(np.where(share > 0, share * points.log_error, 0.0), axis=1)
    return np.where(own, np.minimum(total, 0.0), np.nan), np.where(own, error, np.nan)


def diagnose(points: TailPoint, observed: np.ndarray) -> np.ndarray:
    """Why a saddlepoint may not speak for a test, by feature.

    Parameters
    ----------
    points : TailPoint
    observed : float64, shape (n_features,)

    Returns
    -------
    object array of str, shape (n_features,)
        Empty where it may; else ``support`` (no p value: the observed value lies outside the
        support of the linear form), ``few cells`` (too few carry the tails) or ``orders`` (the
        orders of the expansion differ much). Tails that make up less than a tenth do not count.

    Notes
    -----
    Where it may, and 12 treated cells or more are expected, probabilities down to 1e-8 were off by
    a factor of 1.05 in nine of ten cases, 1.3 at most, sums of few distinct scores among them.
    """
    log_p, _ = p_values(points, observed)
    _, share = _total(points)
    counts = share >= 0.1
    why = np.full(log_p.size, "", object)
    why[np.any(counts & ~(points.log_error <= _APART), axis=1)] = "orders"
    why[np.any(counts & ~(points.n_effective >= _FEW), axis=1)] = "few cells"
    why[np.isnan(log_p)] = "support"
    return why


def _total(points: TailPoint) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of the tails' sum, and their shares of it."""
    parts = np.where(np.isnan(points.log_p), -np.inf, points.log_p)
    total = np.logaddexp(parts[:, 0], parts[:, 1])
    with np.errstate(invalid="ignore"):
        return total, np.exp(parts - total[:, None])


@dataclass(frozen=True)
class _Sums:
    """Some sums: which row of scores, and at which level of the statistic."""

    rows: np.ndarray
    row_of: np.ndarray
    levels: np.ndarray
    h: np.ndarray
    p: np.ndarray

    def cumulants(self) -> np.ndarray:
        """What the kernel sums at no tilt, of all sums: shape (6, n_sums)."""
        out = np.empty((6, self.levels.size))
        cumulants(self.rows, self.row_of, self.levels, self.h, self.p, out)
        return out

    def tilted(self, at: np.ndarray, tilts: np.ndarray) -> np.ndarray:
        """What the kernel sums at a tilt of each of some sums: shape (7, n_some)."""
        out = np.empty((7, at.size))
        tilted_cumulants(self.rows, self.row_of[at], self.levels[at], tilts, self.h, self.p, out)
        return out

    def terms(self, at: int) -> np.ndarray:
        """What each cell adds to a sum."""
        return self.rows[self.row_of[at]] - self.levels[at] * self.h


@dataclass(frozen=True)
class _Solved:
    """Saddlepoints by sum: s, ``s K'(s) - K(s)``, three derivatives of K there, and a sum.

    The sum is ``sum pi (1 - pi) r**4``. Where there is no saddlepoint, s is a safe tilt and the
    exponent infinite; NaN where nothing varies.
    """

    tilt: np.ndarray
    exponent: np.ndarray
    second: np.ndarray
    third: np.ndarray
    fourth: np.ndarray
    coarse: np.ndarray


def _solve(sums: _Sums, targets: np.ndarray) -> _Solved:
    """Solve ``K'(s) = target`` for every sum."""
    out = np.full((6, targets.size), np.nan)
    if not targets.size:
        return _Solved(*out)
    mean, *spread, least, most = sums.cumulants()
    varies, reached = spread[0] > 0, (least < targets) & (targets < most)
    for at in np.flatnonzero(varies & ~reached):
        safe = _SAFE / np.max(np.abs(sums.terms(at)))
        out[:2, at] = safe if targets[at] >= most[at] else -safe, np.inf
    left = np.flatnonzero(varies & reached)
    low = np.where(targets > mean, 0.0, -np.inf)
    high = np.where(targets > mean, np.inf, 0.0)
    tilt = np.zeros(targets.size)
    tilt[left] = _step((targets - mean)[left], *(k[left] for k in spread))
    for _ in range(_MOST_STEPS):
        if not left.size:
            break
        s, target = tilt[left], targets[left]
        k = sums.tilted(left, s)
        gap = target - k[1]
        with np.errstate(divide="ignore"):
            close = np.abs(gap) <= _CLOSE * np.minimum(np.sqrt(k[2]), k[2] ** 2 / np.abs(k[3]))
        out[:, left[close]] = _finish(s[close], target[close], k[:, close])
        low[left] = np.where(gap > 0, s, low[left])
        high[left] = np.where(gap > 0, high[left], s)
        tilt[left] = _inside(s, _step(gap, *k[2:5]), low[left], high[left])
        left = left[~close]
    return _Solved(*out)


def _step(gap: np.ndarray, k2: np.ndarray, k3: np.ndarray, k4: np.ndarray) -> np.ndarray:
    """How far to tilt for the mean to move by a gap, from the cumulants here.

    The tilt is the integral of 1/V over the mean, V being the variance of the tilted sum as a
    function of its mean: ``V = K'' (1 + a z + b z**2)``, in standard deviations z, has the right
    value and two right derivatives, and the laws whose V is quadratic include the normal,
    Poisson, gamma and negative binomial (Morris 1982).
    """
    with np.errstate(all="ignore"):
        root = np.sqrt(k2)
        z, a = gap / root, k3 / (k2 * root)
        y = z / (2.0 + a * z)
        turn = np.sign(y * z)
        # By the discriminant a**2 - 4 b of V, where 2 b is the fourth cumulant less a**2.
        x = (3.0 * a * a - 2.0 * k4 / (k2 * k2)) * y * y
        size = np.sqrt(np.abs(x))
        angle = np.arctan2(size, turn) * turn / size
        # V has a zero before the level where the size passes 1: the search goes on from far out.
        steep = np.arctanh(np.minimum(size, 0.999)) * turn / size
        flat = 1.0 + x / 3.0 + x * x / 5.0
        near = (np.abs(x) < 1e-4) & (turn > 0)
        step = 2.0 * y * np.where(near, flat, np.where(x > 0, steep, angle)) / root
        return np.where(np.isfinite(step), step, gap / k2)


def _inside(s: np.ndarray, step: np.ndarray, low: np.ndarray, high: np.ndarray) -> np.ndarray:
    """The next tilt: a step, or else halfway between the bounds, or twice as far out."""
    after = s + step
    with np.errstate(invalid="ignore"):
        halfway = np.where(np.isfinite(low) & np.isfinite(high), 0.5 * (low + high), 2.0 * s)
        return np.where((after > low) & (after < high), after, halfway)


def _finish(s: np.ndarray, target: np.ndarray, k: np.ndarray) -> np.ndarray:
    """The rows of :class:`_Solved`, by Taylor series from a tilt close by."""
    k0, k1, k2, k3, k4, k5, coarse = k
    gap = target - k1
    d = gap / k2
    for _ in range(4):
        slope = k2 + d * (k3 + d * (k4 / 2 + d * k5 / 6))
        d += (gap - d * (k2 + d * (k3 / 2 + d * (k4 / 6 + d * k5 / 24)))) / slope
    # What is of first order in d cancels in s target - K(s).
    rest = gap - d * (k2 / 2 + d * (k3 / 6 + d * (k4 / 24 + d * k5 / 120)))
    second = k2 + d * (k3 + d * (k4 / 2 + d * k5 / 6))
    third, fourth = k3 + d * (k4 + d * k5 / 2), k4 + d * k5
    return np.stack([s + d, s * target - k0 + d * rest, second, third, fourth, coarse])


def _expand_anew(
    sums: _Sums,
    found: tuple[np.ndarray, ...],
    is_upper: np.ndarray,
    form_under: Callable[[np.ndarray], LinearForm],
) -> None:
    """What :func:`_tails` found, but for the tilt, by the linear form about each tilted mean."""
    tilt, log_p = found[:2]
    far = np.flatnonzero((tilt != 0) & np.isfinite(log_p) & (log_p < _FAR))
    for first in range(0, far.size, _TOGETHER):
        some = far[first : first + _TOGETHER]
        rows, targets = np.empty((some.size, sums.p.size)), np.empty(some.size)
        for k, at in enumerate(some):
            odds = sums.p * np.exp(np.minimum(tilt[at] * sums.terms(at), _CERTAIN))
            form = form_under(odds / (1.0 - sums.p + odds))
            rows[k] = sums.rows[sums.row_of[at]] - sums.levels[at] * form.h
            targets[k] = sums.levels[at] * form.offset
        anew = _Sums(rows, np.arange(some.size), np.zeros(some.size), sums.h, sums.p)
        tails = _tails(_solve(anew, targets), is_upper[some])
        # Where the new form does not reach the level, or not beyond the mean, nothing changes.
        good = (tails[0] != 0) & np.isfinite(tails[1])
        for old, new in zip(found[1:], tails[1:], strict=True):
            old[some[good]] = new[good]


def _tails(solved: _Solved, is_upper: np.ndarray) -> tuple[np.ndarray, ...]:
    """The fields of :class:`TailPoint` but the level, of every sum's tail."""
    s, unreached = solved.tilt, np.isinf(solved.exponent)
    # The tail away from the mean is an upper one, seen from its side: odd cumulants turn.
    side = np.where(s < 0, -1.0, 1.0)
    with np.errstate(divide="ignore", invalid="ignore"):
        root = np.sqrt(np.maximum(solved.second, 0.0))
        third, fourth = side * solved.third / root**3, solved.fourth / root**4
        n_effective = root**4 / solved.coarse
        orders = _log_upper_tail(np.abs(s) * root, solved.exponent, third, fourth)
        beyond = (side > 0) == is_upper
        first, second = (
            np.where(beyond, order, np.log1p(-np.exp(np.minimum(order, _MOST))))
            for order in (np.where(unreached, -np.inf, order) for order in orders)
        )
        error = np.where(unreached, 0.0, np.abs(first - second))
    n_effective = np.where(unreached, 0.0, n_effective)
    # Draws depend on the tilt, and numpy's functions on the processor in their last bits.
    tilt = np.where(beyond | np.isnan(s), s, 0.0).astype(np.float32).astype(np.float64)
    return tilt, second, error, n_effective


def _log_upper_tail(
    u: np.ndarray, exponent: np.ndarray, third: np.ndarray, fourth: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Logarithm of an upper tail beyond the mean, by the first and the second order.

    Parameters
    ----------
    u : float64
        ``s sqrt(K''(s))``, not negative.
    exponent : float64
        ``s K'(s) - K(s)``.
    third, fourth : float64
        Standardized cumulants of the tilted sum.

    Notes
    -----
    ``phi(w) (M(w) + 1/u - 1/w)`` with ``w = sqrt(2 exponent)`` and Mills' ratio M; the second
    order adds ``(fourth/8 - 5 third**2/24)/u - third/(2 u**2) - 1/u**3 + 1/w**3`` (Daniels 1987).
    Where a sum of these has no sign of a probability, the first order is
    ``Phi(-w - log(u/w)/w)`` (Barndorff-Nielsen 1986).
    """
    with np.errstate(all="ignore"):
        # Towards the mean w/u has a series, and differences of reciprocals would cancel.
        central = u < _CENTRE
        c = third * u / 3 - fourth * u * u / 12
        w = np.where(central, u * np.sqrt(1 - c), np.sqrt(2 * np.maximum(exponent, 0.0)))
        series = -(third / 3 - fourth * u / 12) * (1 / 2 + c * (3 / 8 + c * 5 / 16))
        mills = np.sqrt(np.pi / 2) * erfcx(w / np.sqrt(2))
        inside = mills + np.where(central, series, 1 / u - 1 / w)
        shifted = w + np.log(u / w) / w
        barndorff_nielsen = np.log(0.5 * erfcx(shifted / np.sqrt(2))) - 0.5 * shifted**2
        usable = inside > 0.25 * np.minimum(mills, 1 / u)
        lugannani_rice = np.log(inside) - 0.5 * w * w - _LOG_ROOT_2PI
        first = np.where(usable, lugannani_rice, barndorff_nielsen)
        more = (fourth / 8 - 5 * third**2 / 24) / u - third / (2 * u * u) - 1 / u**3 + 1 / w**3
        ratio = np.where(u < _NEAR, 0.0, more / inside)
        second = np.where(usable & (np.abs(ratio) < 0.5), first + np.log1p(ratio), first)
    return np.minimum(first, 0.0), np.minimum(second, 0.0)
