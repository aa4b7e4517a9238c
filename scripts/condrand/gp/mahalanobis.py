"""Mahalanobis distances of the difference of two functions, gene by gene.

P points; a difference ``delta_g`` of shape (P,); its covariance ``S_g = S + F_g F_g' + diag(v_g)``
with S shared by the genes, F_g of R columns from the samples and v_g from the residuals.
``D_g = |chol(S_g + eps I)**-1 delta_g|``. Matrices of P x P for each gene are never kept.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import special
from scipy.linalg import blas, lapack

from condrand.gp.covariance import cholesky, solve_columns

# Where nearly all covariance is on the diagonal, of enough points, the rest is left out.
_DIAGONAL = 0.95
_ENOUGH_POINTS = 10
# Below this a tail probability is found by its continued fraction; float64 ends at 1e-308.
_SMALLEST_TAIL = 1e-280
_FRACTION_STEPS = 500


@dataclass(frozen=True)
class SharedCovariance:
    """The part of the covariance that all genes share.

    Attributes
    ----------
    matrix : float64[:, ::1], shape (P, P)
        S.
    lower : float64, shape (P, P)
        Fortran order: the Cholesky factor of ``S + eps I``.
    eps : float
    """

    matrix: np.ndarray
    lower: np.ndarray
    eps: float

    @classmethod
    def of(cls, matrix: np.ndarray, eps: float = 1e-8) -> "SharedCovariance":
        """Factor a covariance; ValueError where it is not positive definite."""
        shifted = matrix.copy(order="C")
        np.einsum("ii->i", shifted)[:] += eps
        what = f"the covariance of the difference at {len(matrix)} points"
        return cls(matrix, cholesky(shifted, what), eps)

    @property
    def is_diagonal(self) -> bool:
        """Whether points hardly covary: the trace is over 0.95 of the sum of all sizes."""
        if len(self.matrix) <= _ENOUGH_POINTS:
            return False
        return float(np.trace(self.matrix)) > _DIAGONAL * float(np.abs(self.matrix).sum())

    def distances(self, delta: np.ndarray) -> np.ndarray:
        """Distances under the shared covariance alone; delta, shape (P, G), is overwritten.

        Notes
        -----
        Where :attr:`is_diagonal`, ``sqrt(sum delta**2 / max(diag S, eps))``.
        """
        if self.is_diagonal:
            delta /= np.sqrt(np.maximum(np.diag(self.matrix), self.eps))[:, None]
            z = delta
        else:
            z = solve_columns(self.lower, delta)
        return np.sqrt(np.einsum("pg,pg->g", z, z))

    def distances_with_factors(self, delta: np.ndarray, factors: Sequence[np.ndarray]):
        """Distances under ``S + F_g F_g'``.

        Parameters
        ----------
        delta : float64, shape (P, G)
        factors : sequence of R float64 arrays, shape (P, G)
            Columns of F_g, for all genes.

        Returns
        -------
        float64, shape (G,)

        Notes
        -----
        Definition: with ``L L' = S + eps I``, ``z = L**-1 delta``, ``V = L**-1 F`` and
        ``w = (I + V'V)**-1 V'z``, ``D**2 = |z - V w|**2 + |w|**2``: a sum of squares, so nothing
        cancels (Woodbury's identity).
        Cost: one solve for all genes, R + 1 columns of each; memory ``P (R + 1) G``.
        """
        n_points, n_genes = delta.shape
        n_factors = len(factors)
        columns = np.empty((n_points, n_factors + 1, n_genes))
        columns[:, 0] = delta
        for r, factor in enumerate(factors):
            columns[:, r + 1] = factor
        solve_columns(self.lower, columns.reshape(n_points, -1))
        z, v = columns[:, 0], [columns[:, r + 1] for r in range(n_factors)]
        inner = np.empty((n_genes, n_factors, n_factors))
        right = np.empty((n_genes, n_factors, 1))
        for r in range(n_factors):
            right[:, r, 0] = np.einsum("pg,pg->g", v[r], z)
            for s in range(r + 1):
                inner[:, r, s] = inner[:, s, r] = np.einsum("pg,pg->g", v[r], v[s])
            inner[:, r, r] += 1.0
        w = np.linalg.solve(inner, right)[:, :, 0]
        for r in range(n_factors):
            v[r] *= w[:, r]
            z -= v[r]
        return np.sqrt(np.einsum("pg,pg->g", z, z) + np.einsum("gr,gr->g", w, w))

    def distances_by_coordinate(self, delta: np.ndarray, variances: np.ndarray) -> np.ndarray:
        """Distances where a gene's own variances widen the coordinates of its difference.

        Parameters
        ----------
        delta, variances : float64, shape (P, G)
            The difference is overwritten.

        Notes
        -----
        Definition: ``D**2 = sum_i z_i**2 / (1 + sum_j (L**-1)_ij**2 v_j)``, ``z = L**-1 delta``:
        the diagonal of ``I + L**-1 diag(v) L**-T``, an approximation of the inverse that needs
        one factor for all genes. :meth:`distances` has the same rule for a diagonal S, which
        ignores the variances.
        """
        if self.is_diagonal:
            return self.distances(delta)
        z = solve_columns(self.lower, delta)
        inverse, _ = lapack.dtrtri(self.lower, lower=1)
        inverse = np.square(np.tril(inverse))
        widened = inverse @ variances
        widened += 1.0
        np.square(z, out=z)
        z /= widened
        return np.sqrt(z.sum(axis=0))

    def distances_exact(
        self, delta: np.ndarray, factors: Sequence[np.ndarray], variances: np.ndarray
    ) -> np.ndarray:
        """Distances under ``S + F_g F_g' + diag(v_g)``, with one factorization for each gene.

        Parameters
        ----------
        delta, variances : float64, shape (P, G)
        factors : sequence of R float64 arrays, shape (P, G)
        """
        n_points, n_genes = delta.shape
        shared = self.matrix.copy(order="F")
        np.einsum("ii->i", shared)[:] += self.eps
        work, out = np.empty_like(shared), np.empty(n_genes)
        for g in range(n_genes):
            work[:] = shared
            np.einsum("ii->i", work)[:] += variances[:, g]
            columns = np.asfortranarray(np.stack([factor[:, g] for factor in factors], axis=1))
            matrix = blas.dsyrk(1.0, columns, beta=1.0, c=work, lower=1, overwrite_c=1)
            lower, failed = lapack.dpotrf(matrix, lower=1, clean=0, overwrite_a=1)
            if failed:
                raise ValueError(
                    f"the covariance of gene {g} is not positive definite (pivot {failed} of "
                    f"{n_points}): use fewer landmarks"
                )
            z, _ = lapack.dtrtrs(lower, delta[:, g], lower=1)
            out[g] = math.sqrt(float(np.dot(z, z)))
        return out


def genes_at_once(n_points: int, n_columns: int, n_bytes: int = 1 << 26) -> int:
    """Genes whose columns, of float64 at each point, fill no more than some bytes."""
    return max(1, n_bytes // (8 * n_points * n_columns))


def by_genes(n_genes: int, at_once: int, distances: Callable[[slice], np.ndarray]) -> np.ndarray:
    """Distances of all genes, some at a time."""
    out = np.empty(n_genes)
    for start in range(0, n_genes, at_once):
        at = slice(start, min(start + at_once, n_genes))
        out[at] = distances(at)
    return out


def neg_log10_tail(distances: np.ndarray, df: int) -> np.ndarray:
    """``-log10 P(chi2_df > D**2)``, also where the probability is below the smallest float64.

    Parameters
    ----------
    distances : float64, shape (G,)
    df : int

    Notes
    -----
    Definition: beyond 1e-280, ``log Gamma(a, x) = a log x - x + log K(a, x)`` with K the
    continued fraction of the upper incomplete gamma function (DLMF 8.9.2, modified Lentz).
    """
    squared = np.square(np.asarray(distances, np.float64))
    tail = special.chdtrc(df, squared)
    with np.errstate(divide="ignore"):
        log_tail = np.log(tail)
    far = np.flatnonzero(tail < _SMALLEST_TAIL)
    if far.size:
        a, x = 0.5 * df, 0.5 * squared[far]
        log_tail[far] = a * np.log(x) - x + np.log(_gamma_fraction(a, x)) - special.gammaln(a)
    return -log_tail / math.log(10.0)


def _gamma_fraction(a: float, x: np.ndarray) -> np.ndarray:
    """``Gamma(a, x) exp(x) x**-a`` for x well above a."""
    b = x + 1.0 - a
    c = np.full(x.shape, np.inf)
    d = 1.0 / b
    value = d.copy()
    for i in range(1, _FRACTION_STEPS):
        numerator = -i * (i - a)
        b = b + 2.0
        d = 1.0 / (numerator * d + b)
        c = b + numerator / c
        value *= c * d
        if np.all(np.abs(c * d - 1.0) < 1e-15):
            break
    return value
