"""OLS: the coefficient of the treatment in outcome ~ treatment + covariates.

``beta = x'M Y / x'M x`` with ``M = I - QQ'`` (Frisch & Waugh 1933, Lovell 1963): for an indicator
x both parts are sums over the treated cells, ``sum (M Y)`` and ``n - |sum Q|**2``.
"""

from typing import TYPE_CHECKING

import numpy as np

from condrand.kernels.ols import SINGULAR, coefficients_dense, coefficients_sparse
from condrand.kernels.saddlepoint import linearize
from condrand.statistics.scores import (
    DenseScores,
    LinearForm,
    Moments,
    Scores,
    SetSums,
    SparseScores,
    padded,
)

if TYPE_CHECKING:  # scipy would delay the start of every shard job
    import scipy.sparse as sp

# Rows that are projected together: one such piece is all that is held beside the scores.
_PIECE = 65_536
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
            n_features,
        )
    rows = np.zeros((n_cells, padded(n_features + rank)))
    rows[:, :n_features] = outcome
    rows[:, n_features : n_features + rank] = basis
    residual = rows[:, :n_features]
    _take_out(residual, basis, projection)
    # A second pass takes out what rounding left of the covariates in the residual.
    left = sum(basis[piece].T @ residual[piece] for piece in _pieces(n_cells))
    _take_out(residual, basis, left)
    rows[:, np.flatnonzero(_squares(residual) <= _CONSTANT * _squares(outcome))] = 0.0
    return DenseScores(rows, n_features, rank)


def rescore(scores: Scores, cells: np.ndarray, basis: np.ndarray) -> Scores:
    """Score rows of some cells (int64), from those of all; dense rows are copied once.

    The basis, float64[:, ::1] of shape (n_some, rank), must span these rows of the basis of
    `scores`, so that nothing the first projection took out is missed, and be no wider.
    """
    if isinstance(scores, SparseScores):
        import scipy.sparse as sp

        shape = (scores.n_cells, scores.projection.shape[1])
        outcome = sp.csr_matrix((scores.data, scores.indices, scores.indptr), shape=shape)
        return score(outcome[cells], basis)
    rows = scores.rows[cells]
    k, end = scores.n_features, scores.n_features + basis.shape[1]
    residual = rows[:, :k]
    whole = _squares(residual)
    for _ in range(2):
        _take_out(residual, basis, basis.T @ residual)
    rows[:, np.flatnonzero(_squares(residual) <= _CONSTANT * whole)] = 0.0
    rows[:, k:end] = basis
    rows[:, end:] = 0.0
    return DenseScores(rows, k, basis.shape[1])


def residual_squares(scores: Scores) -> tuple[np.ndarray, np.ndarray]:
    """Residual sums of squares, and the sums whose rounding they share.

    Both float64, shape (n_features,). Dense scores hold the residual, so the two are the same;
    where it is taken after summing (sparse), the second are those of the outcome.
    """
    if isinstance(scores, DenseScores):
        left = _squares(scores.rows[:, : scores.n_features])
        return left, left
    whole = np.bincount(scores.indices, scores.data**2, minlength=scores.n_features)
    return np.maximum(whole - np.sum(scores.projection**2, axis=0), 0.0), whole


def _pieces(n_cells: int) -> list[slice]:
    return [slice(first, first + _PIECE) for first in range(0, n_cells, _PIECE)]


def _take_out(residual: np.ndarray, basis: np.ndarray, weights: np.ndarray) -> None:
    for piece in _pieces(len(residual)):
        residual[piece] -= basis[piece] @ weights


def _squares(columns: np.ndarray) -> np.ndarray:
    return np.einsum("ik,ik->k", columns, columns)


def coefficients(scores: Scores, sums: SetSums) -> np.ndarray:
    """OLS coefficient of every set and feature.

    Returns
    -------
    float64[:, ::1], shape (n_sets, n_features)
        0 for a set whose indicator the covariates explain (:func:`untestable`).
    """
    out = np.empty((sums.counts.size, scores.n_features))
    if isinstance(scores, DenseScores):
        coefficients_dense(sums.rows, sums.counts, scores.n_features, scores.rank, out)
    else:
        coefficients_sparse(sums.rows, sums.basis, scores.projection, sums.counts, out)
    return out


values = effects = coefficients


def effect_scale(outcome_scale: str) -> str:
    """A coefficient has the unit of the outcome."""
    return outcome_scale


def denominators(scores: Scores, sums: SetSums) -> np.ndarray:
    """``n - |sum Q|**2`` of every set: float64, shape (n_sets,)."""
    q = sums.basis
    if isinstance(scores, DenseScores):
        q = sums.rows[:, scores.n_features : scores.n_features + scores.rank]
    total = sums.counts.astype(np.float64)
    # Column by column: the order of summing must not depend on the number of sets.
    for j in range(scores.rank):
        total -= q[:, j] * q[:, j]
    return total


def untestable(scores: Scores, sums: SetSums) -> str:
    """Why the first set has no coefficient; empty where it has one."""
    if denominators(scores, sums)[0] <= SINGULAR * sums.counts[0]:
        return "covariates determine the treatment"
    return ""


def null_units(scores: Scores, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Approximate mean and standard deviation of the coefficient under resampling.

    Only units for the summary of the null: nothing else depends on the approximation of the
    denominator by its mean.

    Returns
    -------
    centre, scale : float64, shape (n_features,)
        The scale is 0 for a feature that does not vary.
    """
    return moments.mean / moments.denominator, np.sqrt(moments.variance) / moments.denominator


def linear_denominator(scores: Scores, p: np.ndarray) -> tuple[LinearForm, float, float]:
    """``n - |sum Q|**2`` as ``sum x h + offset``, and the mean and variance of that.

    With ``q = sum p Q``, ``|sum Q|**2 = 2 q'(sum Q) - |q|**2 + |sum (x - p) Q|**2``; of the last
    part only its mean is kept, ``sum p (1 - p) |Q|**2``.
    """
    rows, first = scores.basis_rows()
    q, h = np.empty(scores.rank), np.empty(scores.n_cells)
    count, dropped, variance = linearize(p, rows, first, scores.rank, q, h)
    squares = float(np.sum(q * q))
    return LinearForm(h, squares - dropped), count - squares - dropped, variance


def linear_form(scores: Scores, p: np.ndarray) -> LinearForm:
    """The event ``beta >= t`` under propensities `p` (float64[::1]) as a sum over the cells."""
    return linear_denominator(scores, p)[0]
