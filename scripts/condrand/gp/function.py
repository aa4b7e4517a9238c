"""Functions of the cell state, one per gene, by Gaussian process regression."""

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from condrand.gp.covariance import (
    JITTER,
    Inducing,
    add_gram,
    add_product,
    batches,
    checked_points,
    cholesky,
    matern52,
    product,
    row_squares,
    solve_columns,
    solve_rows,
)

Blocks = Iterable[tuple[np.ndarray, np.ndarray]]


def dense_rows(y: "np.ndarray | sp.spmatrix", at: slice) -> np.ndarray:
    """Some rows of a dense or sparse matrix as float64[:, ::1]."""
    rows = y[at]
    return np.ascontiguousarray(rows.toarray() if sp.issparse(rows) else rows, np.float64)


def checked_sigma(sigma: float) -> float:
    """Standard deviation of the noise as float; ValueError unless it is finite and above 0."""
    if np.ndim(sigma):
        raise ValueError("sigma is one number for all genes; scale the genes instead")
    sigma = float(sigma)
    if not (math.isfinite(sigma) and sigma > 0.0):
        raise ValueError(
            f"sigma, the noise of the expression, is a finite number above 0, not {sigma}: "
            "without noise the fit interpolates; 1.0 is usual for log counts"
        )
    return sigma


@dataclass(frozen=True)
class FunctionEstimator:
    """Mean and covariance of the functions of G genes.

    Attributes
    ----------
    inducing : Inducing
        Landmarks, or all cells with the noise as their nugget.
    inner : float64, shape (m, m), optional
        Fortran order: the Cholesky factor of ``I + A A'/sigma**2``. None for a full process.
    weights : float64[:, ::1], shape (m, G)
        ``mean(x) = k(x, U) weights``.
    sigma : float

    Notes
    -----
    Definition: with prior mean 0, ``w = L**-T B**-T B**-1 A Y / sigma**2`` where
    ``B B' = I + A A'/sigma**2`` and ``A = L**-1 K(U, X)``;
    ``cov(x, x') = k(x, x') - a'a + c'c``, ``a = L**-1 k(U, x)``, ``c = B**-1 a``. Without
    landmarks ``L L' = K + max(sigma**2, jitter) I``, ``w = L**-T L**-1 Y``, and no c.
    The covariance is the same for all genes.
    """

    inducing: Inducing
    inner: np.ndarray | None
    weights: np.ndarray
    sigma: float

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: "np.ndarray | sp.spmatrix",
        length_scale: float,
        sigma: float = 1.0,
        landmarks: Inducing | np.ndarray | None = None,
    ) -> "FunctionEstimator":
        """Fit to the cells.

        Parameters
        ----------
        x : float64, shape (n, p)
        y : numbers, shape (n, G)
            Dense, or sparse by rows.
        length_scale : float
            Not used where the landmarks are an :class:`Inducing` already.
        sigma : float
            Standard deviation of the noise, above 0.
        landmarks : Inducing, or float64 of shape (m, p), optional
            A full process if not given.

        Raises
        ------
        ValueError
            For missing values, shapes that do not fit, or a covariance without a factor.
        """
        x, sigma = checked_points(x), checked_sigma(sigma)
        if y.ndim != 2 or y.shape[0] != len(x) or y.shape[1] < 1:
            raise ValueError(
                f"expression of shape {y.shape} for {len(x)} cells: give cells x genes (one gene "
                "as a single column)"
            )
        if landmarks is None:
            inducing = Inducing.of(x, length_scale, max(sigma * sigma, JITTER))
            return cls._full(inducing, dense_rows(y, slice(None)), sigma)
        if not isinstance(landmarks, Inducing):
            landmarks = Inducing.of(landmarks, length_scale)
        blocks = ((x[at], dense_rows(y, at)) for at in batches(len(x)))
        return cls.of_blocks(blocks, landmarks, y.shape[1], sigma)

    @classmethod
    def of_blocks(
        cls, blocks: Blocks, inducing: Inducing, n_genes: int, sigma: float
    ) -> "FunctionEstimator":
        """Fit with landmarks to cells that come in blocks of x and y, which are not kept."""
        m = inducing.m
        gram, seen = np.zeros((m, m)), np.zeros((m, n_genes))
        for x, y in blocks:
            whitened = inducing.whitened(x)
            gram = add_gram(gram, whitened)
            seen = add_product(seen, whitened, y)
        gram /= sigma * sigma
        np.einsum("ii->i", gram)[:] += 1.0
        inner = cholesky(gram, f"the information of the cells on {m} landmarks")
        weights = solve_columns(inner, seen, scale=1.0 / (sigma * sigma))
        weights = solve_columns(inner, weights, transposed=True)
        weights = solve_columns(inducing.lower, weights, transposed=True)
        return cls(inducing, inner, _known(weights), sigma)

    @classmethod
    def _full(cls, inducing: Inducing, y: np.ndarray, sigma: float) -> "FunctionEstimator":
        """Fit a full process; `inducing` are its cells."""
        weights = solve_columns(inducing.lower, y.copy())
        weights = solve_columns(inducing.lower, weights, transposed=True)
        return cls(inducing, None, _known(weights), sigma)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.weights.shape[1]

    def mean(self, x: np.ndarray) -> np.ndarray:
        """Means at some cells: float64[:, ::1], shape (n, G)."""
        x = checked_points(x)
        out = np.empty((len(x), self.n_genes))
        for at in batches(len(x)):
            product(self.inducing.covariance(x[at]), self.weights, out=out[at])
        return out

    def inner_of(self, whitened: np.ndarray) -> np.ndarray | None:
        """``c = B**-1 a`` of each whitened row, as rows; None for a full process."""
        return None if self.inner is None else solve_rows(self.inner, whitened.copy(order="C"))

    def variance(self, x: np.ndarray) -> np.ndarray:
        """Variance of the mean at each cell: shape (n,), the same for all genes."""
        x = checked_points(x)
        out = np.empty(len(x))
        for at in batches(len(x)):
            whitened = self.inducing.whitened(x[at])
            out[at] = self.variance_of(whitened, self.inducing.variance_left(whitened))
        return out

    def variance_of(self, whitened: np.ndarray, left: np.ndarray) -> np.ndarray:
        """Variance from whitened rows and what the landmarks leave of the prior variance.

        Parameters
        ----------
        whitened : float64[:, ::1], shape (n, m)
        left : float64, shape (n,)
            :meth:`.Inducing.variance_left`; two functions on the same landmarks share it.
        """
        c = self.inner_of(whitened)
        return left if c is None else left + row_squares(c)

    def covariance(self, x: np.ndarray) -> np.ndarray:
        """Covariance of the means of all pairs of cells: float64[:, ::1], shape (n, n)."""
        x = checked_points(x)
        whitened = self.inducing.whitened(x)
        if self.inner is None:
            # Cells of a full process are no exception: their noise is not part of the function.
            out = matern52(x, x, self.inducing.length_scale)
            out -= product(whitened, whitened.T)
            return out
        out = self.inducing.covariance_left(x, whitened)
        c = self.inner_of(whitened)
        out += product(c, c.T)
        return out

    def squared_residuals(
        self, x: np.ndarray, y: "np.ndarray | sp.spmatrix"
    ) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        """Blocks of cells with ``(y - mean)**2 / (1 - h)**2``, as if each cell were left out.

        Parameters
        ----------
        x, y
            What was fitted.

        Yields
        ------
        tuple of float64
            Cells, shape (b, p), and their residuals, shape (b, G).

        Notes
        -----
        Definition: the leverages are ``h = diag(B M**-1 B')``, ``B = K(X, U)``,
        ``M = sigma**2 L L' + B'B + jitter I``; of a full process,
        ``1 - sigma**2 diag((K + (sigma**2 + jitter) I)**-1)``.
        """
        x = checked_points(x)
        variance, inducing = self.sigma * self.sigma, self.inducing
        if self.inner is None:
            factor = Inducing.of(x, inducing.length_scale, variance + JITTER)
            # diag of the inverse: squares of the columns of L**-1.
            columns = solve_rows(factor.lower, np.eye(len(x)))
            kept = variance * row_squares(columns)
        else:
            m = inducing.m
            matrix = np.zeros((m, m))
            for at in batches(len(x)):
                matrix = add_gram(matrix, inducing.covariance(x[at]))
            matrix += variance * product(inducing.lower, inducing.lower.T)
            np.einsum("ii->i", matrix)[:] += JITTER
            factor = cholesky(matrix, "the covariance of the leverages")
            kept = None
        for at in batches(len(x)):
            covariance = inducing.covariance(x[at])
            rest = dense_rows(y, at) - product(covariance, self.weights)
            if kept is None:
                share = 1.0 - row_squares(solve_rows(factor, covariance))
            else:
                share = kept[at]
            rest /= share[:, None]
            np.square(rest, out=rest)
            yield x[at], rest

    def smoothed(self, blocks: Blocks, n_genes: int) -> "FunctionEstimator":
        """The same smoother on other values, such as squared residuals."""
        if self.inner is not None:
            return self.of_blocks(blocks, self.inducing, n_genes, self.sigma)
        parts = list(blocks)
        x, y = np.concatenate([x for x, _ in parts]), np.concatenate([y for _, y in parts])
        return self.of(x, y, self.inducing.length_scale, self.sigma)


def _known(weights: np.ndarray) -> np.ndarray:
    """Weights; ValueError where a missing value of the expression has reached them."""
    bad = np.flatnonzero(~np.isfinite(weights[0]))
    if bad.size:
        shown = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{bad.size} of {weights.shape[1]} genes have a missing or infinite value (columns "
            f"{shown}{', ...' if bad.size > 5 else ''}): leave them out or fill them in"
        )
    return weights
