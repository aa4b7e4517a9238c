"""Per-cell scores of a statistic, dense or sparse, and their sums over treated sets."""

from dataclasses import dataclass, field

import numpy as np

from condrand.kernels.moments import (
    bernoulli_moments_dense,
    bernoulli_moments_sparse,
    weighted_gram,
)
from condrand.kernels.resampling import observed_sums_dense, observed_sums_sparse
from condrand.kernels.saddlepoint import sparse_residuals

_CANCELLED = 1e-12
_VECTOR = 8
NO_CONSTANTS = np.zeros((0, 0))


def padded(n_columns: int) -> int:
    """Columns of a score row that are whole vectors of eight float64."""
    return -(-n_columns // _VECTOR) * _VECTOR


@dataclass(frozen=True)
class SetSums:
    """Sums over the treated cells of one set per row.

    Attributes
    ----------
    rows : float64[:, ::1], shape (n_sets, width)
        Sums of the scores.
    counts : int64[::1], shape (n_sets,)
        Treated cells.
    basis : float64[:, ::1], shape (n_sets, rank), or None
        Sums of the covariates' basis, where the scores keep it apart (sparse).
    """

    rows: np.ndarray
    counts: np.ndarray
    basis: np.ndarray | None = None


@dataclass(frozen=True)
class Moments:
    """Mean and variance of a Bernoulli set sum, known from the propensities.

    Attributes
    ----------
    mean, variance : float64, shape (n_features,)
        Of the sum of each feature's residual over the treated cells.
    count : float
        Expected treated cells.
    denominator : float
        Expected ``n - |sum Q|**2``.
    """

    mean: np.ndarray
    variance: np.ndarray
    count: float
    denominator: float


@dataclass(frozen=True)
class LinearForm:
    """``statistic >= t`` written as ``sum x_i (r_i - t h_i) >= t offset`` over the cells.

    The statistic's denominator is linear in the treatment x here: expanded about its mean under
    the propensities, the mean of what that drops added to the constant.

    Attributes
    ----------
    h : float64[::1], shape (n_cells,)
    offset : float
    """

    h: np.ndarray
    offset: float


@dataclass(frozen=True)
class DenseScores:
    """One row of scores per cell: a column per feature, then whatever else is summed.

    Attributes
    ----------
    rows : float64[:, ::1], shape (n_cells, width)
        The features' scores, the covariates' basis Q in the next `rank` columns, a statistic's
        further columns, and zeros up to a multiple of eight columns (:func:`padded`).
    n_features, rank : int
    constants : float64[:, ::1], shape (n_constants, n_features)
        What the statistic's finalizer needs of all cells together.
    """

    rows: np.ndarray
    n_features: int
    rank: int
    constants: np.ndarray = field(default_factory=lambda: NO_CONSTANTS)

    @property
    def n_cells(self) -> int:
        """Cells scored."""
        return self.rows.shape[0]

    def room_for(self, n_sets: int) -> SetSums:
        """Uninitialized sums of `n_sets` sets."""
        return SetSums(np.empty((n_sets, self.rows.shape[1])), np.empty(n_sets, np.int64))

    def observed(self, cells: np.ndarray) -> SetSums:
        """Sums over one set of cells (int64[::1], sorted)."""
        sums = self.room_for(1)
        observed_sums_dense(cells, self.rows, sums.rows[0])
        sums.counts[0] = cells.size
        return sums

    def moments(self, p: np.ndarray) -> Moments:
        """Moments under propensities `p`, float64[::1] of shape (n_cells,)."""
        mean, variance = np.empty(self.rows.shape[1]), np.empty(self.rows.shape[1])
        bernoulli_moments_dense(p, self.rows, mean, variance)
        k, end = self.n_features, self.n_features + self.rank
        count = float(np.sum(p))
        denominator = count - float(np.sum(mean[k:end] ** 2) + np.sum(variance[k:end]))
        return Moments(mean[:k], variance[:k], count, denominator)

    def residuals(self, features: np.ndarray) -> np.ndarray:
        """Residuals of some features (int64): float64[:, ::1], a row of all cells for each."""
        return np.ascontiguousarray(self.rows.T[features])

    def basis_rows(self) -> tuple[np.ndarray, int]:
        """Rows that hold the covariates' basis, and its first column."""
        return self.rows, self.n_features

    def of_features(self, features: np.ndarray) -> "DenseScores":
        """The scores of some features (int64) alone: narrower rows, copied."""
        constants, further = _further_columns(self, features)
        basis = self.n_features + np.arange(self.rank)
        columns = np.concatenate([features, basis, further])
        rows = np.zeros((self.n_cells, padded(columns.size)))
        rows[:, : columns.size] = self.rows[:, columns]
        return DenseScores(rows, features.size, self.rank, constants)


@dataclass(frozen=True)
class SparseScores:
    """Sparse scores Y in CSR, their residual taken after summing: ``sum Y - (sum Q)(Q'Y)``.

    Attributes
    ----------
    data, indices, indptr : float64[::1], int32[::1], int64[::1]
        Y, one row per cell: the features' columns, then a statistic's further ones.
    basis : float64[:, ::1], shape (n_cells, rank)
        Q.
    projection : float64[:, ::1], shape (rank, width)
        ``Q'Y``.
    n_features : int
    constants : float64[:, ::1], shape (n_constants, n_features)
        As in :class:`DenseScores`.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    basis: np.ndarray
    projection: np.ndarray
    n_features: int
    constants: np.ndarray = field(default_factory=lambda: NO_CONSTANTS)

    @property
    def n_cells(self) -> int:
        """Cells scored."""
        return self.basis.shape[0]

    @property
    def rank(self) -> int:
        """Columns of Q."""
        return self.projection.shape[0]

    def room_for(self, n_sets: int) -> SetSums:
        """Uninitialized sums of `n_sets` sets."""
        rows = np.empty((n_sets, self.projection.shape[1]))
        basis = np.empty((n_sets, self.rank))
        return SetSums(rows, np.empty(n_sets, np.int64), basis)

    def observed(self, cells: np.ndarray) -> SetSums:
        """Sums over one set of cells (int64[::1], sorted)."""
        sums = self.room_for(1)
        observed_sums_sparse(
            cells, self.data, self.indices, self.indptr, self.basis, sums.rows[0], sums.basis[0]
        )
        sums.counts[0] = cells.size
        return sums

    def moments(self, p: np.ndarray) -> Moments:
        """Moments under propensities `p`, float64[::1] of shape (n_cells,).

        The variance expands ``sum v (y - Q b)**2`` with ``v = p (1 - p)``, ``b = Q'y``, so that
        the residual is never written out.
        """
        width, k = self.projection.shape[1], self.n_features
        mean, square = np.empty(width), np.empty(width)
        cross = np.empty((width, self.rank))
        gram = np.empty((self.rank, self.rank))
        bernoulli_moments_sparse(
            p, self.data, self.indices, self.indptr, self.basis, mean, square, cross
        )
        weighted_gram(p, self.basis, gram)
        b = self.projection
        basis_mean = p @ self.basis
        mean = mean - basis_mean @ b
        variance = square - 2 * np.sum(cross.T * b, axis=0) + np.sum(b * (gram @ b), axis=0)
        count = float(np.sum(p))
        denominator = count - float(np.sum(basis_mean**2) + np.trace(gram))
        # Below this the difference of the sums is rounding: the feature does not vary.
        variance = np.where(variance <= _CANCELLED * square, 0.0, variance)
        return Moments(mean[:k], variance[:k], count, denominator)

    def residuals(self, features: np.ndarray) -> np.ndarray:
        """Residuals of some features (int64): float64[:, ::1], a row of all cells for each."""
        column_of = np.full(self.projection.shape[1], -1)
        column_of[features] = np.arange(features.size)
        out = np.empty((features.size, self.n_cells))
        sparse_residuals(
            self.data,
            self.indices,
            self.indptr,
            self.basis,
            np.ascontiguousarray(self.projection[:, features]),
            column_of,
            out,
        )
        return out

    def basis_rows(self) -> tuple[np.ndarray, int]:
        """Rows that hold the covariates' basis, and its first column."""
        return self.basis, 0

    def of_features(self, features: np.ndarray) -> "SparseScores":
        """The scores of some features (int64) alone: shorter rows, copied."""
        constants, further = _further_columns(self, features)
        columns = np.concatenate([features, further])
        place = np.full(self.projection.shape[1], -1, np.int32)
        place[columns] = np.arange(columns.size)
        place = place[self.indices]
        kept = place >= 0
        before = np.concatenate([np.zeros(1, np.int64), np.cumsum(kept)])
        return SparseScores(
            self.data[kept],
            place[kept],
            before[self.indptr],
            self.basis,
            np.ascontiguousarray(self.projection[:, columns]),
            features.size,
            constants,
        )


Scores = DenseScores | SparseScores


def _further_columns(scores: Scores, features: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Constants of some features, and their columns beyond the first.

    Of a statistic whose finalizer has constants, the squares stand beside the values.
    """
    if not scores.constants.shape[0]:
        return scores.constants, features[:0]
    return scores.constants[:, features], scores.n_features + features
