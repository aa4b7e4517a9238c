"""OLS coefficients of a treatment indicator from set sums."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL

# A denominator this small relative to the number of treated cells means that the covariates
# explain the indicator: the coefficient is 0/0. Rounding of n - |sum Q|^2 is about 1e-13 n.
SINGULAR = 1e-9


@njit(**KERNEL)
def coefficients_dense(sums, counts, n_features, rank, out):
    """``beta = sum(M Y) / (n - |sum Q|**2)`` for every resample.

    Parameters
    ----------
    sums : float64[:, ::1], shape (n_resamples, >= n_features + rank)
        Set sums of ``[M Y | Q]``.
    counts : int64[::1], shape (n_resamples,)
        Treated cells n.
    n_features, rank : int
    out : float64[:, ::1], shape (n_resamples, n_features)
        Overwritten; 0 where the denominator vanishes (no treated cell among them), which makes
        the statistic a function of every possible treated set.

    Notes
    -----
    Frisch-Waugh-Lovell: with ``M = I - QQ'``, ``beta = x'M Y / x'M x`` and
    ``x'M x = n - |Q'x|**2`` for an indicator x.
    """
    for b in range(counts.size):
        denominator = float(counts[b])
        for j in range(n_features, n_features + rank):
            denominator -= sums[b, j] * sums[b, j]
        if denominator <= SINGULAR * counts[b]:
            out[b, :] = 0.0
        else:
            inverse = 1.0 / denominator
            for k in range(n_features):
                out[b, k] = sums[b, k] * inverse


@njit(**KERNEL)
def coefficients_sparse(sums, basis_sums, projection, counts, out):
    """The same from unprojected sums: ``sum(M Y) = sum Y - (sum Q)(Q'Y)``.

    Parameters
    ----------
    sums : float64[:, ::1], shape (n_resamples, n_features)
        Set sums of Y.
    basis_sums : float64[:, ::1], shape (n_resamples, rank)
        Set sums of Q.
    projection : float64[:, ::1], shape (rank, n_features)
        ``Q'Y``.
    counts, out
        As in :func:`coefficients_dense`.
    """
    n_features = sums.shape[1]
    total = np.empty(n_features)
    for b in range(counts.size):
        denominator = float(counts[b])
        total[:] = sums[b]
        for j in range(projection.shape[0]):
            q = basis_sums[b, j]
            denominator -= q * q
            row = projection[j]
            for k in range(n_features):
                total[k] -= q * row[k]
        if denominator <= SINGULAR * counts[b]:
            out[b, :] = 0.0
        else:
            inverse = 1.0 / denominator
            for k in range(n_features):
                out[b, k] = total[k] * inverse
