"""Covariance of cell states, and what the estimators share of it: points, factors, solves."""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from scipy.linalg import blas, lapack

from condrand.kernels.matern import matern52_from_products

# Added to the diagonal of a covariance before it is factored.
JITTER = 1e-6
# Keeps the distance of a point from itself away from 0.
_OFFSET = 1e-12
_SQRT5 = math.sqrt(5.0)
# Cells whose covariance with the inducing points is held at once: enough for the speed of a
# matrix product. A constant, so that sums over cells do not depend on the caller.
CELLS_AT_ONCE = 2048


def batches(n: int, size: int = CELLS_AT_ONCE) -> Iterator[slice]:
    """Consecutive slices of at most `size` of n rows."""
    for start in range(0, n, size):
        yield slice(start, min(start + size, n))


def checked_points(x: np.ndarray, name: str = "X") -> np.ndarray:
    """Points as float64[:, ::1], shape (n, p).

    Raises
    ------
    ValueError
        If there are none, or a coordinate is missing or infinite.
    """
    x = np.ascontiguousarray(x, np.float64)
    if x.ndim != 2 or 0 in x.shape:
        raise ValueError(
            f"{name} has shape {x.shape}: give cells x dimensions, with one of each at least"
        )
    bad = np.flatnonzero(~np.isfinite(x).all(axis=1))
    if bad.size:
        shown = ", ".join(map(str, bad[:5]))
        raise ValueError(
            f"{name}: {bad.size} of {len(x)} cells have a missing or infinite coordinate (rows "
            f"{shown}{', ...' if bad.size > 5 else ''}): leave these cells out"
        )
    return x


def checked_length_scale(length_scale: float) -> float:
    """A length scale as float; ValueError unless it is finite and above 0."""
    length_scale = float(length_scale)
    if not (math.isfinite(length_scale) and length_scale > 0.0):
        raise ValueError(f"the length scale is a finite number above 0, not {length_scale}")
    return length_scale


def distances(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """``sqrt(max(|x|**2 - 2 x'y + |y|**2 + 1e-12, 0))``.

    Parameters
    ----------
    x, y : float64, shapes (n, p) and (m, p)

    Returns
    -------
    float64[:, ::1], shape (n, m)
    """
    products, x_squares, y_squares = _products(x, y)
    products *= -2.0
    products += x_squares[:, None]
    products += y_squares
    products += _OFFSET
    np.maximum(products, 0.0, out=products)
    return np.sqrt(products, out=products)


def matern52(x: np.ndarray, y: np.ndarray, length_scale: float) -> np.ndarray:
    """Matern-5/2 covariance ``(1 + r + r**2/3) exp(-r)``, ``r = sqrt(5) distance / length_scale``.

    Parameters
    ----------
    x, y : float64, shapes (n, p) and (m, p)
        Finite.
    length_scale : float
        Above 0.

    Returns
    -------
    float64[:, ::1], shape (n, m)
        A point with itself is short of 1 by 1e-12 over the squared length scale.
    """
    products, x_squares, y_squares = _products(x, y)
    matern52_from_products(products, x_squares, y_squares, _OFFSET, _SQRT5 / length_scale)
    return products


def variance_of_a_point(length_scale: float) -> float:
    """Covariance of a point with itself, as :func:`matern52` has it without rounding."""
    r = _SQRT5 * math.sqrt(_OFFSET) / length_scale
    return (1.0 + r + r * r / 3.0) * math.exp(-r)


def _products(x: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Inner products of all pairs, and the squares of either side."""
    x = np.ascontiguousarray(x, np.float64)
    y = np.ascontiguousarray(y, np.float64)
    if x.ndim != 2 or y.ndim != 2 or x.shape[1] != y.shape[1]:
        raise ValueError(
            f"points of shapes {x.shape} and {y.shape}: both are n x p, of the same p dimensions"
        )
    return product(x, y.T), row_squares(x), row_squares(y)


def row_squares(rows: np.ndarray) -> np.ndarray:
    """Sum of squares of each row, without an array of the squares."""
    return np.einsum("ij,ij->i", rows, rows)


def cholesky(matrix: np.ndarray, what: str) -> np.ndarray:
    """Lower Cholesky factor, in Fortran order, in the memory of the matrix.

    Parameters
    ----------
    matrix : float64, shape (m, m)
        Symmetric; of a C-ordered matrix the upper triangle is read. Overwritten.
    what : str
        Name of the matrix in an error.

    Raises
    ------
    ValueError
        If the matrix is not positive definite.
    """
    # The transpose of a symmetric C-ordered matrix is Fortran-ordered: no copy is made.
    fortran = matrix if matrix.flags.f_contiguous else matrix.T
    factor, failed = lapack.dpotrf(fortran, lower=1, clean=1, overwrite_a=1)
    if failed:
        raise ValueError(
            f"{what} is not positive definite (pivot {failed} of {len(matrix)}): points lie too "
            "close together for their length scale, or coordinates are too large; scale the "
            "coordinates, take fewer landmarks, or a shorter length scale"
        )
    return factor


def solve_rows(
    lower: np.ndarray, rows: np.ndarray, transposed: bool = False, scale: float = 1.0
) -> np.ndarray:
    """``scale L**-1 b`` for every row b, in place: ``rows L**-T``.

    Parameters
    ----------
    lower : float64, shape (m, m)
        Fortran order; lower triangular.
    rows : float64[:, ::1], shape (n, m)
        Overwritten.
    transposed : bool
        ``L**-T b`` instead.
    """
    return blas.dtrsm(scale, lower, rows.T, lower=1, trans_a=int(transposed), overwrite_b=1).T


def solve_columns(
    lower: np.ndarray, columns: np.ndarray, transposed: bool = False, scale: float = 1.0
) -> np.ndarray:
    """``scale L**-1 C`` (or ``L**-T C``) in place.

    Parameters
    ----------
    lower : float64, shape (m, m)
        Fortran order; lower triangular.
    columns : float64[:, ::1], shape (m, k)
        Overwritten.
    transposed : bool
    """
    return blas.dtrsm(
        scale, lower, columns.T, side=1, lower=1, trans_a=int(not transposed), overwrite_b=1
    ).T


def product(a: np.ndarray, b: np.ndarray, out: np.ndarray | None = None) -> np.ndarray:
    """``a b``: float64[:, ::1], shape (n, k).

    By scipy's BLAS, as all solves are: numpy has one of its own, and the threads of each wait
    busily while the other works.

    Parameters
    ----------
    a, b : float64, shapes (n, m) and (m, k)
    out : float64[:, ::1], shape (n, k), optional
        Overwritten.
    """
    if out is None:
        out = np.empty((a.shape[0], b.shape[1]))
    blas.dgemm(1.0, b.T, a.T, beta=0.0, c=out.T, overwrite_c=1)
    return out


def vector_product(a: np.ndarray, v: np.ndarray) -> np.ndarray:
    """``a v`` of a matrix and a vector, as :func:`product`: float64, shape (n,).

    Parameters
    ----------
    a : float64, shape (n, m)
        Contiguous by rows or by columns, or it is copied.
    v : float64, shape (m,)
    """
    if a.flags.f_contiguous:
        return blas.dgemv(1.0, a, v)
    return blas.dgemv(1.0, a.T, v, trans=1)


def add_product(total: np.ndarray, a: np.ndarray, b: np.ndarray) -> np.ndarray:
    """``total + a'b`` in the memory of the total.

    Parameters
    ----------
    total : float64[:, ::1], shape (m, k)
        Overwritten.
    a, b : float64[:, ::1], shapes (n, m) and (n, k)
    """
    return blas.dgemm(1.0, b.T, a.T, beta=1.0, c=total.T, trans_b=1, overwrite_c=1).T


def add_gram(total: np.ndarray, a: np.ndarray) -> np.ndarray:
    """``total + a'a`` in the memory of the total; only the upper triangle is meant.

    Parameters
    ----------
    total : float64[:, ::1], shape (m, m)
        Overwritten.
    a : float64[:, ::1], shape (n, m)
    """
    # The lower triangle of the Fortran-ordered transpose.
    return blas.dsyrk(1.0, a.T, beta=1.0, c=total.T, lower=1, overwrite_c=1).T


@dataclass(frozen=True)
class Inducing:
    """Inducing points with the factor of their covariance.

    Attributes
    ----------
    points : float64[:, ::1], shape (m, p)
        Landmarks U, or all cells of a full process.
    length_scale : float
    lower : float64, shape (m, m)
        Fortran order: ``L L' = K(U, U) + nugget I``.
    nugget : float
        JITTER, or the variance of the noise in a full process.
    """

    points: np.ndarray
    length_scale: float
    lower: np.ndarray
    nugget: float

    @classmethod
    def of(cls, points: np.ndarray, length_scale: float, nugget: float = JITTER) -> "Inducing":
        """Inducing points at a length scale.

        Raises
        ------
        ValueError
            For points that are missing or infinite, or a covariance that has no factor.
        """
        points = checked_points(points, "inducing points")
        length_scale = checked_length_scale(length_scale)
        covariance = matern52(points, points, length_scale)
        np.einsum("ii->i", covariance)[:] += nugget
        lower = cholesky(covariance, f"the covariance of {len(points)} points")
        return cls(points, length_scale, lower, nugget)

    @property
    def m(self) -> int:
        """Number of inducing points."""
        return len(self.points)

    def covariance(self, x: np.ndarray) -> np.ndarray:
        """``K(x, U)``: float64[:, ::1], shape (n, m)."""
        return matern52(x, self.points, self.length_scale)

    def whiten(self, covariance: np.ndarray) -> np.ndarray:
        """``K(x, U) L**-T`` in place of ``K(x, U)``; its rows are the vectors ``a``."""
        return solve_rows(self.lower, covariance)

    def whitened(self, x: np.ndarray) -> np.ndarray:
        """``K(x, U) L**-T``: float64[:, ::1], shape (n, m)."""
        return self.whiten(self.covariance(x))

    def weights(self, z: np.ndarray) -> np.ndarray:
        """``L**-T z``: what multiplies ``K(x, U)`` where z multiplies the whitened rows.

        Parameters
        ----------
        z : float64, shape (m,) or (m, k)
        """
        copied = np.array(z, np.float64, order="C")
        solved = solve_columns(self.lower, copied.reshape(self.m, -1), transposed=True)
        return solved.reshape(copied.shape)

    def variance_left(self, whitened: np.ndarray) -> np.ndarray:
        """``k(x, x) - a'a`` at each cell: what the inducing points do not explain.

        Parameters
        ----------
        whitened : float64[:, ::1], shape (n, m)
            From :meth:`whitened`.
        """
        return variance_of_a_point(self.length_scale) - row_squares(whitened)

    def covariance_left(self, x: np.ndarray, whitened: np.ndarray) -> np.ndarray:
        """``k(x, x') - a'a`` of all pairs of cells.

        Parameters
        ----------
        x : float64, shape (n, p)
            The inducing points themselves have an exact form, which is used.
        whitened : float64[:, ::1], shape (n, m)
            Of x.

        Returns
        -------
        float64[:, ::1], shape (n, n)

        Notes
        -----
        Definition: at the inducing points it is ``j I - j**2 (K + j I)**-1``, without the
        cancellation of the difference.
        """
        if x is self.points or np.array_equal(x, self.points):
            inverse, _ = lapack.dpotri(self.lower, lower=1)
            left = -(self.nugget**2) * np.tril(inverse)
            left += np.tril(left, -1).T
            np.einsum("ii->i", left)[:] += self.nugget
            return np.ascontiguousarray(left)
        left = matern52(x, x, self.length_scale)
        left -= product(whitened, whitened.T)
        return left
