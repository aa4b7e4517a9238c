"""Exponentially tilted propensities: a treatment law under which a rare statistic is common."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL
from condrand.kernels.elementary import exp, log1p
from condrand.kernels.resampling import CHUNK

# A logit is moved by at most this much: odds of 1e12 times its exponential are still a float64.
LARGEST = 600.0


@njit(**KERNEL)
def tilt_cells(p, rows, h, level, tilt, column, gap):
    """Tilt the propensities along the linear form of one feature.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
        Propensity, inside (0, 1).
    rows : float64[:, ::1], shape (n_cells, width)
        The feature's scores r in column 0. Column `column` is overwritten with what is added to
        each logit, ``a = tilt (r - level h)``, clamped to ``[-LARGEST, LARGEST]``.
    h : float64[::1], shape (n_cells,)
    level, tilt : float
    column : int
    gap : float64[::1], shape (n_cells,)
        Overwritten with the scale of the gaps between hits under the tilted law pi, as of
        :func:`condrand.kernels.resampling.mean_gaps`.

    Returns
    -------
    float
        ``K = sum log(1 - p + p exp(a))``. The likelihood ratio of a set x to the tilted law is
        ``exp(K - sum x a)``, exactly, whatever a is.

    Notes
    -----
    ``-log(1 - pi) = log(1 + p/(1 - p) exp(a))``: no difference from 1 is taken, so that the gap
    stays right as pi nears 1.
    """
    total = 0.0
    added = np.empty(CHUNK)
    for start in range(0, p.size, CHUNK):
        n = min(CHUNK, p.size - start)
        for i in range(n):
            a = tilt * (rows[start + i, 0] - level * h[start + i])
            a = min(max(a, -LARGEST), LARGEST)
            rows[start + i, column] = a
            added[i] = a
        for i in range(n):
            odds = p[start + i] / (1.0 - p[start + i])
            tilted = log1p(odds * exp(added[i]))
            gap[start + i] = 1.0 / tilted
            added[i] = tilted - log1p(odds)
        for i in range(n):
            total += added[i]
    return total
