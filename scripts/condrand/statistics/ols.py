"""OLS: the coefficient of the treatment in outcome ~ treatment + covariates.

``beta = x'M Y / x'M x`` with ``M = I - QQ'`` (Frisch & Waugh 1933, Lovell 1963): for an indicator
x both parts are sums over the treated cells, ``sum (M Y)`` and ``n - |sum Q|**2``.
"""

from typing import TYPE_CHECKING

import numpy as np

from condrand.kernels.ols import SINGULAR, coefficients_dense, coefficients_sparse
from condrand.statistics.scores import DenseScores, Moments, Scores, SetSums, SparseScores

if TYPE_CHECKING:  # scipy would delay the start of every shard job
    import scipy.sparse as sp

_VECTOR = 8
# Residual variance this small relative to the feature's own is rounding: the covariates (or a
# constant) explain the feature wholly, and its coefficient would be noise over noise.
_CONSTANT = 1e-20


def score(outcome: "np.ndarray | sp.csr_matrix", basis: np.ndarray) -> Scores:
    """Score rows of an outcome.

    Parameters
    ----------
    outcome : float64, dense or CSR, shape (n_cells, n_features)
    basis : float64[:, ::1], shape (n_cells, rank)
        Orthonormal basis of intercept and covariates.
    """
    n_cells, n_features = outcome.shape
    rank = basis.shape[1]
    projection = np.ascontiguousarray((outcome.T @ basis).T)
    if not isinstance(outcome, np.ndarray):
        return SparseScores(
            np.ascontiguousarray(outcome.data, np.float64),
            np.ascontiguousarray(outcome.indices, np.int32),
            np.ascontiguousarray(outcome.indptr, np.int64),
            basis,
            projection,
        )
    width = -(-(n_features + rank) // _VECTOR) * _VECTOR
    rows = np.zeros((n_cells, width))
    rows[:, :n_features] = outcome
    rows[:, :n_features] -= basis @ projection
    # A second pass takes out what rounding left of the covariates in the residual.
    rows[:, :n_features] -= basis @ (basis.T @ rows[:, :n_features])
    constant = np.sum(rows[:, :n_features] ** 2, axis=0) <= _CONSTANT * np.sum(outcome**2, axis=0)
    rows[:, np.flatnonzero(constant)] = 0.0
    rows[:, n_features : n_features + rank] = basis
    return DenseScores(rows, n_features, rank)


def coefficients(scores: Scores, sums: SetSums) -> np.ndarray:
    """OLS coefficient of every set and feature.

    Returns
    -------
    float64[:, ::1], shape (n_sets, n_features)
        0 for a set whose indicator the covariates explain (:func:`is_singular`).
    """
    out = np.empty((sums.counts.size, scores.n_features))
    if isinstance(scores, DenseScores):
        coefficients_dense(sums.rows, sums.counts, scores.n_features, scores.rank, out)
    else:
        coefficients_sparse(sums.rows, sums.basis, scores.projection, sums.counts, out)
    return out


def is_singular(scores: Scores, sums: SetSums) -> bool:
    """Whether the covariates explain the indicator of the first set."""
    if isinstance(scores, DenseScores):
        q = sums.rows[0, scores.n_features : scores.n_features + scores.rank]
    else:
        q = sums.basis[0]
    return bool(sums.counts[0] - q @ q <= SINGULAR * sums.counts[0])


def null_units(moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Approximate mean and standard deviation of the coefficient under resampling.

    Only units for the summary of the null: nothing else depends on the approximation of the
    denominator by its mean.

    Returns
    -------
    centre, scale : float64, shape (n_features,)
        The scale is 0 for a feature that does not vary.
    """
    return moments.mean / moments.denominator, np.sqrt(moments.variance) / moments.denominator
