"""One round of locally weighted straight lines through sorted points."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL

# Of the half width of a window: a point nearer than NEAR has weight 1 and one farther than FAR
# weight 0, where the tricube is so close to either that its rounding would show more.
NEAR, FAR = 0.001, 0.999
# Of the range of x: a window that spreads less than this carries no slope.
FLAT = 0.001


@njit(**KERNEL)
def _tricube(x, robustness, at, half_width, weights):
    """Weights of the points of a window, and their sums ``sum w`` and ``sum w x``."""
    near, far = NEAR * half_width, FAR * half_width
    for j in range(x.size):
        distance = abs(x[j] - at)
        u = distance / half_width
        u = 1.0 - u * u * u
        # Selected last: a window without width makes u NaN, and all its points are near.
        weight = u * u * u if distance > near else 1.0
        weights[j] = weight * robustness[j] if distance <= far else 0.0
    total = first = 0.0
    for j in range(x.size):
        total += weights[j]
        first += weights[j] * x[j]
    return total, first


@njit(**KERNEL)
def _line(x, y, weights, total, centre, at, least_spread):
    """Value at `at` of the weighted straight line, or the weighted mean where x hardly varies."""
    square = cross = level = 0.0
    for j in range(x.size):
        away = x[j] - centre
        pull = weights[j] * away
        square += pull * away
        cross += pull * y[j]
        level += weights[j] * y[j]
    if np.sqrt(square / total) > least_spread:
        level += (at - centre) * total / square * cross
    return level / total


@njit(**KERNEL)
def smooth(x, y, robustness, window, delta, fitted):
    """Locally weighted straight lines, at some points exactly and between them interpolated.

    Parameters
    ----------
    x, y : float64[::1], shape (n_points,)
        Finite, x ascending, at least 2 points.
    robustness : float64[::1], shape (n_points,)
        Factor of every point's weight; 1 in the first round.
    window : int
        Points of a window, from 2 to ``n_points``.
    delta : float
        After a fit at ``x_i``, points up to ``x_i + delta`` are interpolated, except the last
        of them, where the next fit is.
    fitted : float64[::1], shape (n_points,)
        Overwritten.

    Notes
    -----
    Definition: tricube weights ``(1 - (r/h)**3)**3`` of the distance r, with h the distance to
    the farther end of the `window` points nearest by.
    Ties: points of one x get one value. A point past the window's right end counts too if it
    lies as near; that only happens in a window of one x.
    Cost: fits times the points of a window; sums run in the order of the points.
    Source: Cleveland 1979, section 2; Cleveland 1981 for the interpolation.
    """
    n = x.size
    weights = np.empty(n)
    least_spread = FLAT * (x[n - 1] - x[0])
    left, right = 0, window - 1
    done, i = -1, 0
    while True:
        while right < n - 1 and x[i] - x[left] > x[right + 1] - x[i]:
            left += 1
            right += 1
        half_width = max(x[i] - x[left], x[right] - x[i])
        stop = right + 1
        while stop < n and x[stop] - x[i] <= FAR * half_width:
            stop += 1
        inside = x[left:stop]
        total, first = _tricube(inside, robustness[left:stop], x[i], half_width, weights)
        if total > 0.0:
            centre = first / total
            fitted[i] = _line(inside, y[left:stop], weights, total, centre, x[i], least_spread)
        else:  # the robust round before has thrown out the whole window
            fitted[i] = y[i]
        if done >= 0:
            width = x[i] - x[done]
            for j in range(done + 1, i):
                share = (x[j] - x[done]) / width
                fitted[j] = share * fitted[i] + (1.0 - share) * fitted[done]
        done = i
        cut = x[done] + delta
        i = done + 1
        while i < n and x[i] <= cut:
            if x[i] == x[done]:
                fitted[i] = fitted[done]
                done = i
            i += 1
        if done >= n - 1:
            return
        i = max(done + 1, i - 1)
