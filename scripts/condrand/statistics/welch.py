"""Welch's t of treated against other cells (Welch 1947): scores ``[Y | Y**2]``.

``t = (m1 - m0) / sqrt(v1/n + v0/(N - n))`` with the sample variances of the two groups, all from
sums over the treated cells and totals over all. Covariates enter through the resampling alone.
"""

from typing import TYPE_CHECKING

import numpy as np

from condrand.statistics.scores import (
    DenseScores,
    Moments,
    Scores,
    SetSums,
    SparseScores,
    padded,
)

if TYPE_CHECKING:  # scipy would delay the start of every shard job
    import scipy.sparse as sp

# Squares that differ from zero by this share of the feature's own are rounding.
_CONSTANT = 1e-12
# The same where values are centred before they are squared.
_CONSTANT_CENTRED = 1e-20


def score(outcome: "np.ndarray | sp.csr_matrix", basis: np.ndarray) -> Scores:
    """Values and their squares, centred where dense; totals of both as constants.

    Parameters
    ----------
    outcome : float64, dense or CSR, shape (n_cells, n_features)
    basis : float64[:, ::1], shape (n_cells, rank)
        Not used.
    """
    n_cells, k = outcome.shape
    mean = np.asarray(outcome.mean(axis=0)).ravel()
    if isinstance(outcome, np.ndarray):
        rows = np.zeros((n_cells, padded(2 * k)))
        np.subtract(outcome, mean, out=rows[:, :k])
        np.square(rows[:, :k], out=rows[:, k : 2 * k])
        totals = np.sum(rows[:, : 2 * k], axis=0).reshape(2, k)
        whole = totals[1] + n_cells * mean**2
        constant = np.flatnonzero(totals[1] <= _CONSTANT_CENTRED * whole)
        rows[:, np.concatenate([constant, k + constant])] = 0.0
        totals[:, constant] = 0.0
        return DenseScores(rows, k, 0, totals)
    import scipy.sparse as sp

    both = sp.hstack([outcome, outcome.multiply(outcome)]).tocsr()
    whole = np.asarray(both[:, k:].sum(axis=0)).ravel()
    squares = whole - n_cells * mean**2
    squares[squares <= _CONSTANT * whole] = 0.0
    return SparseScores(
        np.ascontiguousarray(both.data, np.float64),
        np.ascontiguousarray(both.indices, np.int32),
        np.ascontiguousarray(both.indptr, np.int64),
        np.ones((n_cells, 1)),
        np.concatenate([mean, np.zeros(k)])[None],
        k,
        np.stack([np.zeros(k), squares]),
    )


def _group_sums(scores: Scores, sums: SetSums) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Treated cells, and sums of the centred values and their squares over them."""
    k, n = scores.n_features, sums.counts[:, None].astype(np.float64)
    total, squares = sums.rows[:, :k], sums.rows[:, k : 2 * k]
    if isinstance(scores, SparseScores):
        mean = scores.projection[0, :k]
        squares = squares - 2.0 * mean * total + n * mean**2
        total = total - n * mean
    return n, total, squares


def effects(scores: Scores, sums: SetSums) -> np.ndarray:
    """Difference of means, treated less others: float64, shape (n_sets, n_features)."""
    n, total, _ = _group_sums(scores, sums)
    others = scores.n_cells - n
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = total / n - (scores.constants[0] - total) / others
    return np.where((n > 0) & (others > 0), difference, 0.0)


def effect_scale(outcome_scale: str) -> str:
    """A difference of means has the unit of the outcome."""
    return outcome_scale


def values(scores: Scores, sums: SetSums) -> np.ndarray:
    """Welch's t of every set and feature: float64, shape (n_sets, n_features).

    0 for a set that leaves fewer than two cells on either side, and where neither side varies.
    """
    n, total, squares = _group_sums(scores, sums)
    others = scores.n_cells - n
    rest, rest_squares = scores.constants[0] - total, scores.constants[1] - squares
    with np.errstate(divide="ignore", invalid="ignore"):
        difference = total / n - rest / others
        within = np.maximum(squares - total**2 / n, 0.0) / (n * (n - 1.0))
        within += np.maximum(rest_squares - rest**2 / others, 0.0) / (others * (others - 1.0))
        t = difference / np.sqrt(within)
    smallest = _CONSTANT * scores.constants[1] / scores.n_cells**2
    varies = (within > smallest) & (scores.constants[1] > 0)
    return np.where((n > 1) & (others > 1) & varies, t, 0.0)


def untestable(scores: Scores, sums: SetSums) -> str:
    """Why the first set has no t; empty where it has one."""
    n = sums.counts[0]
    return "" if 1 < n < scores.n_cells - 1 else "fewer than two cells in a group"


def null_units(scores: Scores, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Approximate mean and standard deviation under resampling; see :mod:`.ols`."""
    n, n_cells = moments.count, scores.n_cells
    error = np.sqrt(scores.constants[1] / n_cells * (1.0 / n + 1.0 / (n_cells - n)))
    with np.errstate(divide="ignore", invalid="ignore"):
        factor = np.where(error > 0, n_cells / (n * (n_cells - n)) / error, 0.0)
    return factor * moments.mean, factor * np.sqrt(moments.variance)
