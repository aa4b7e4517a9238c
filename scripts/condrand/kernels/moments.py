"""Known moments of a Bernoulli-weighted set sum, which give the null its units."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL


@njit(**KERNEL)
def bernoulli_moments_dense(p, scores, mean, variance):
    """Mean ``sum p r`` and variance ``sum p (1 - p) r**2`` of a set sum of each score column.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
        Propensity.
    scores : float64[:, ::1], shape (n_cells, width)
    mean, variance : float64[::1], shape (width,)
        Overwritten.
    """
    mean[:] = 0.0
    variance[:] = 0.0
    for i in range(p.size):
        row = scores[i]
        spread = p[i] * (1.0 - p[i])
        for j in range(row.size):
            mean[j] += p[i] * row[j]
            variance[j] += spread * row[j] * row[j]


@njit(**KERNEL)
def bernoulli_moments_sparse(p, data, indices, indptr, basis, mean, square, cross):
    """Parts of the same moments for sparse scores Y beside a dense basis Q.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
    data, indices, indptr
        Y in CSR.
    basis : float64[:, ::1], shape (n_cells, rank)
    mean, square : float64[::1], shape (n_features,)
        Overwritten with ``sum p y`` and ``sum p (1 - p) y**2``.
    cross : float64[:, ::1], shape (n_features, rank)
        Overwritten with ``sum p (1 - p) y Q``.
    """
    mean[:] = 0.0
    square[:] = 0.0
    cross[:] = 0.0
    for i in range(p.size):
        row = basis[i]
        spread = p[i] * (1.0 - p[i])
        for e in range(indptr[i], indptr[i + 1]):
            k = indices[e]
            y = data[e]
            mean[k] += p[i] * y
            square[k] += spread * y * y
            for j in range(row.size):
                cross[k, j] += spread * y * row[j]


@njit(**KERNEL)
def weighted_gram(p, basis, out):
    """``sum p (1 - p) Q Q'``.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
    basis : float64[:, ::1], shape (n_cells, rank)
    out : float64[:, ::1], shape (rank, rank)
        Overwritten.
    """
    out[:] = 0.0
    rank = basis.shape[1]
    scaled = np.empty(rank)
    for i in range(p.size):
        spread = p[i] * (1.0 - p[i])
        for j in range(rank):
            scaled[j] = spread * basis[i, j]
        for j in range(rank):
            for k in range(rank):
                out[j, k] += scaled[j] * basis[i, k]
