"""Log density of cells as a Gaussian process, learned from the distances to nearest cells."""

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from scipy.linalg import LinAlgError, blas, cho_factor, cho_solve
from scipy.special import gammaln

from condrand.gp.covariance import (
    CELLS_AT_ONCE,
    Inducing,
    batches,
    checked_points,
    product,
    variance_of_a_point,
    vector_product,
)
from condrand.gp.dimension import intrinsic_dimension
from condrand.gp.neighbours import landmarks as clustered
from condrand.gp.neighbours import length_scale, nearest_distances, validate_nn

log = logging.getLogger(__name__)

OPTIMIZERS = ("newton", "lbfgs")
# The prior mean lies so far below the lowest log densities that empty space stays empty.
_BELOW = 10.0
_LOWEST = 0.01
# A Newton decrement from which on whole steps square the error, and one after which the next
# would be lost in rounding (see `_newton`).
_SURE, _DONE = 0.25, 1e-6
_MAX_STEPS = 100
_TOO_FAR = (
    "a cell lies too far from all others for so high a dimension, or mu is too high; leave such "
    "cells out, or give a lower d or mu"
)
# Least curvature that a standard deviation is taken from.
_FLAT = 1e-8
# Up to so many cells each is a landmark; more have so many landmarks, made with this seed.
FULL = 5000
_SEED = 42


@dataclass(frozen=True)
class Density:
    """Log density of n cells over m landmarks.

    Attributes
    ----------
    inducing : Inducing
        Landmarks and their covariance; without landmarks the cells themselves.
    weights : float64, shape (m,)
        ``log density(x) = mu + k(x, U) weights``.
    z, z_std : float64, shape (m,)
        Most probable coefficients and their standard deviations, each by its own curvature.
    mu, d : float
        Prior mean, and dimension of the space the cells fill.
    n_cells : int
    log_density : float64, shape (n,)
        Of the cells themselves, not normalized.
    start : float64, shape (m,)
        Where the search of z began.
    loss : float
        Negative log posterior at z.
    iterations : int
        Steps of the search.
    """

    inducing: Inducing
    weights: np.ndarray
    z: np.ndarray
    z_std: np.ndarray
    mu: float
    d: float
    n_cells: int
    log_density: np.ndarray
    start: np.ndarray
    loss: float
    iterations: int

    @classmethod
    def of(
        cls,
        cells: np.ndarray,
        inducing: Inducing,
        nearest: np.ndarray,
        d: float,
        mu: float | None = None,
        optimizer: str = "newton",
        full: bool = False,
    ) -> "Density":
        """Learn the density of cells.

        Parameters
        ----------
        cells : float64, shape (n, p)
        inducing : Inducing
            Over the landmarks, or over the cells themselves.
        nearest : float, shape (n,)
            Distance of each cell to its nearest other; above 0.
        d : float
            Dimension of the space the cells fill.
        mu : float, optional
            Prior mean; by :func:`prior_mean` if not given.
        optimizer : {"newton", "lbfgs"}
            Newton's method, which reaches the maximum; or L-BFGS-B with kompot's settings, which
            stops as early as kompot does, about 1e-4 of log density away.
        full : bool
            The inducing points are the cells: L is the factor of their covariance itself.

        Returns
        -------
        Density

        Raises
        ------
        ValueError
            If a distance is not positive and finite, the optimizer is unknown, or the search
            does not end.

        Notes
        -----
        Definition: ``f = L z + mu`` with z standard normal. The distance r of a cell to its
        nearest is that to the first point of a Poisson process of density ``exp(f)`` in d
        dimensions: ``log p = f + log d + (d-1) log r + c - exp(f + V)`` with
        ``V = d log r + c`` and ``c = log(volume of the unit ball)``.
        z_std is ``H_jj**-0.5`` of ``H = I + L' diag(exp(f+V)) L``.
        Cost: ``n m**2`` a Newton step, or ``n**3 / 3`` where n is at most m; 4 to 6 steps.
        Source: Otto 2024 (mellon).
        """
        cells = checked_points(cells)
        nearest = np.asarray(nearest)
        if nearest.shape != (len(cells),):
            raise ValueError(f"{nearest.size} nearest distances for {len(cells)} cells")
        if not (np.isfinite(nearest) & (nearest > 0.0)).all():
            raise ValueError("a nearest distance is missing, infinite or 0: use validate_nn")
        if optimizer not in OPTIMIZERS:
            raise ValueError(f"optimizer is 'newton' or 'lbfgs', not {optimizer!r}")
        mu = prior_mean(nearest, d) if mu is None else float(mu)
        if not math.isfinite(mu):
            raise ValueError(f"the prior mean mu is {mu}: give a finite number")
        basis = np.ascontiguousarray(inducing.lower) if full else inducing.whitened(cells)
        loss = _Loss(basis, nearest, d, mu)
        start = loss.ridge(_log_density_of_distance(nearest, d) - mu)
        z, steps = (_newton if optimizer == "newton" else _lbfgs)(loss, start)
        value, _, rate = loss.at(z)
        curvature = np.ones(z.size)
        for at in batches(len(cells)):
            curvature += vector_product(np.square(basis[at]).T, rate[at])
        return cls(
            inducing=inducing,
            weights=inducing.weights(z),
            z=z,
            z_std=1.0 / np.sqrt(np.maximum(curvature, _FLAT)),
            mu=mu,
            d=float(d),
            n_cells=len(cells),
            log_density=vector_product(basis, z) + mu,
            start=start,
            loss=value,
            iterations=steps,
        )

    def predict(self, points: np.ndarray, normalize: bool = True) -> np.ndarray:
        """Log density at points; normalized by the number of cells. float64, shape (n_points,)."""
        return log_densities([self], points, normalize)[0]

    def uncertainty(self, points: np.ndarray) -> np.ndarray:
        """Variance of the log density at points. float64, shape (n_points,)."""
        return with_variances([self], points)[1][0]


@dataclass(frozen=True)
class DensityPrior:
    """What is laid down before the cells are seen; what is None, they decide.

    Attributes
    ----------
    landmarks : float64, shape (m, p), optional
        Without them every cell is one, up to 5,000 cells, and beyond 5,000 are made of them.
    d : float, optional
        Dimension of the space the cells fill.
    d_method : {"fractal", "embedding"}
        Where d comes from, as in :func:`.intrinsic_dimension`.
    mu : float, optional
        Prior mean.
    ls : float, optional
        Length scale of the covariance.
    ls_factor : float
        Times the length scale that the distances to nearest cells suggest; not times `ls`.
    optimizer : {"newton", "lbfgs"}
        As in :meth:`Density.of`.
    """

    landmarks: np.ndarray | None = None
    d: float | None = None
    d_method: str = "fractal"
    mu: float | None = None
    ls: float | None = None
    ls_factor: float = 10.0
    optimizer: str = "newton"

    @cached_property
    def inducing(self) -> Inducing | None:
        """Landmarks and covariance, where no cells have a say in them: made once for all."""
        if self.landmarks is None or self.ls is None:
            return None
        return Inducing.of(self.landmarks, self.ls)

    def synchronized(self, cells: np.ndarray, nearest: np.ndarray | None = None) -> "DensityPrior":
        """The same, with d, mu and ls of these cells where they were open."""
        d = intrinsic_dimension(cells, self.d, self.d_method)
        if self.mu is not None and self.ls is not None:
            return replace(self, d=d)
        nearest = validate_nn(nearest_distances(cells) if nearest is None else nearest)
        mu = prior_mean(nearest, d) if self.mu is None else self.mu
        ls = length_scale(nearest, self.ls_factor) if self.ls is None else self.ls
        return replace(self, d=d, mu=mu, ls=ls)

    def fit(self, cells: np.ndarray, nearest: np.ndarray | None = None) -> Density:
        """Density of cells; distances to their nearest are looked for if not given."""
        cells = checked_points(cells)
        d = intrinsic_dimension(cells, self.d, self.d_method)
        nearest = validate_nn(nearest_distances(cells) if nearest is None else nearest)
        inducing, full = self.inducing, False
        if inducing is None:
            ls = length_scale(nearest, self.ls_factor) if self.ls is None else self.ls
            points = self.landmarks
            if points is None:
                full = len(cells) <= FULL
                points = cells if full else clustered(cells, FULL, _SEED)
            inducing = Inducing.of(points, ls)
        return Density.of(cells, inducing, nearest, d, self.mu, self.optimizer, full)


def prior_mean(nearest: np.ndarray, d: float) -> float:
    """10 below the first percentile of the log densities of single distances."""
    return float(np.quantile(_log_density_of_distance(nearest, d), _LOWEST)) - _BELOW


def log_densities(
    densities: Sequence[Density],
    points: np.ndarray,
    normalize: bool = True,
    batch_size: int | None = None,
) -> np.ndarray:
    """Log densities of several groups of cells at the same points.

    Parameters
    ----------
    densities : sequence of Density
        The covariance with landmarks is made once for all that share an Inducing.
    points : float64, shape (n_points, p)
    normalize : bool
        Less the log of the number of cells of each.
    batch_size : int, optional
        Points at a time; 2,048 if not given.

    Returns
    -------
    float64, shape (n_densities, n_points)
    """
    return _at_points(densities, (), points, normalize, batch_size)[0]


def with_variances(
    densities: Sequence[Density],
    points: np.ndarray,
    normalize: bool = True,
    batch_size: int | None = None,
    others: Sequence[Density] = (),
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Log densities of several groups of cells at the same points, and how sure they are.

    Parameters
    ----------
    densities, points, normalize, batch_size
        As in :func:`log_densities`.
    others : sequence of Density
        Those whose log densities alone are wanted.

    Returns
    -------
    log_density, variance : float64, shape (n_densities, n_points)
    other : float64, shape (n_others, n_points)

    Notes
    -----
    Definition: with ``a = Lp**-1 k(U, x)`` the variance is ``k(x, x) - a'a``, what the landmarks
    leave open, and ``a' diag(z_std**2) a``, what the cells do.
    """
    both, variances = _at_points([*densities, *others], densities, points, normalize, batch_size)
    return both[: len(densities)], variances, both[len(densities) :]


def _at_points(
    densities: Sequence[Density],
    unsure: Sequence[Density],
    points: np.ndarray,
    normalize: bool,
    batch_size: int | None,
) -> tuple[np.ndarray, np.ndarray]:
    """Log densities, and variances of the first few, `unsure`; one row for each."""
    points = checked_points(points, "X_new")
    shared: dict[int, list[int]] = {}
    for i, density in enumerate(densities):
        features = density.inducing.points.shape[1]
        if points.shape[1] != features:
            raise ValueError(f"points of {points.shape[1]} features, densities of {features}")
        shared.setdefault(id(density.inducing), []).append(i)
    means = np.empty((len(densities), len(points)))
    variances = np.empty((len(unsure), len(points)))
    for members in shared.values():
        inducing = densities[members[0]].inducing
        weights = np.stack([densities[i].weights for i in members], axis=1)
        shift = np.array([_shift(densities[i], normalize) for i in members])
        doubtful = [i for i in members if i < len(unsure)]
        explained = np.array([1.0 - densities[i].z_std ** 2 for i in doubtful]).T
        itself = variance_of_a_point(inducing.length_scale)
        for at in batches(len(points), batch_size or CELLS_AT_ONCE):
            near = inducing.covariance(points[at])
            means[members, at] = (product(near, weights) + shift).T
            if doubtful:
                a = inducing.whiten(near)
                np.square(a, out=a)
                # Rounding must not make a variance negative where landmarks leave nothing open.
                variances[doubtful, at] = np.maximum(itself - product(a, explained), 0.0).T
    return means, variances


def _shift(density: Density, normalize: bool) -> float:
    return density.mu - (math.log(density.n_cells) if normalize else 0.0)


def _log_ball(d: float) -> float:
    """Log volume of the unit ball."""
    return 0.5 * d * math.log(math.pi) - float(gammaln(0.5 * d + 1.0))


def _log_density_of_distance(nearest: np.ndarray, d: float) -> np.ndarray:
    """Log density at which a distance to the nearest is most probable, had it the cell alone."""
    return -_log_ball(d) - d * np.log(nearest)


class _Loss:
    """Negative log posterior of z, strictly convex.

    Attributes
    ----------
    basis : float64[:, ::1], shape (n, m)
        L, the basis functions at the cells.
    """

    def __init__(self, basis: np.ndarray, nearest: np.ndarray, d: float, mu: float) -> None:
        self.basis, self.mu = basis, mu
        n, m = basis.shape
        # No cast: float32 distances make the float32 terms that kompot makes of them.
        self.volume = d * np.log(nearest) + _log_ball(d)
        # What of the loss does not depend on z: L-BFGS-B stops by the loss relative to itself.
        self.constant = 0.5 * m * math.log(2.0 * math.pi) - float(
            n * (math.log(d) + _log_ball(d)) + (d - 1.0) * np.log(nearest, dtype=float).sum()
        )
        # Of n cells and m coefficients the smaller number is solved for. The upper triangle.
        self.gram = blas.dsyrk(1.0, basis.T, trans=1, lower=1).T if n <= m else None

    def at(self, z: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Loss, its gradient, and ``exp(f + V)``; all may overflow to infinity."""
        f = vector_product(self.basis, z) + self.mu
        # An infinite loss is one to turn back from; its gradient is not looked at.
        with np.errstate(over="ignore", invalid="ignore"):
            rate = np.exp(f + self.volume)
            value = float(0.5 * (z @ z) + self.constant - (f - rate).sum())
            return value, z + vector_product(self.basis.T, rate - 1.0), rate

    def solve(self, rate: np.ndarray, right: np.ndarray) -> np.ndarray:
        """``(I + L' diag(rate) L)**-1 right``."""
        root = np.sqrt(rate)
        if self.gram is None:
            hessian = np.eye(right.size, order="F")
            for at in batches(root.size):
                scaled = root[at, None] * self.basis[at]
                # Half a product: the lower triangle alone.
                hessian = blas.dsyrk(1.0, scaled.T, 1.0, hessian, lower=1, overwrite_c=1)
            return cho_solve(cho_factor(hessian, lower=True, overwrite_a=True), right)
        inner = root[:, None] * self.gram * root
        np.einsum("ii->i", inner)[:] += 1.0
        # Of a symmetric matrix the transpose is as good, and needs no copy.
        factor = cho_factor(inner.T, lower=True, overwrite_a=True)
        along = root * cho_solve(factor, root * vector_product(self.basis, right))
        return right - vector_product(self.basis.T, along)

    def ridge(self, target: np.ndarray) -> np.ndarray:
        """``(I + L'L)**-1 L' target``: least squares of f - mu, where the search begins."""
        return self.solve(np.ones(target.size), vector_product(self.basis.T, target))


def _newton(loss: _Loss, start: np.ndarray) -> tuple[np.ndarray, int]:
    """Minimum of the loss by Newton's method, and the steps it took.

    Notes
    -----
    A row of L is no longer than ``1 + 1e-6``, since ``k(x, x) <= 1``, and H is at least I; so
    third derivatives are bounded by the second as self-concordance wants it. From a decrement of
    1/4 on every whole step therefore squares the error at least (Boyd 2004, section 9.6); before,
    steps are halved until the loss falls. Later the loss, blurred by rounding, is not asked.
    """
    z, (value, gradient, rate) = start, loss.at(start)
    # Least squares may overshoot at a lone cell by so much that nothing is left of the others.
    nowhere = np.zeros_like(start)
    if not value <= loss.at(nowhere)[0]:
        z, (value, gradient, rate) = nowhere, loss.at(nowhere)
    if not np.isfinite(value):
        raise ValueError(f"the density overflows where the search begins: {_TOO_FAR}")
    for steps in range(1, _MAX_STEPS + 1):
        try:
            step = -loss.solve(rate, gradient)
        except LinAlgError:
            step = np.full_like(z, np.nan)
        squared = float(-(step @ gradient))
        # Rates of 1e20 at one cell drown the rest of the curvature in rounding.
        if not squared > -(_DONE**2):
            raise ValueError(f"the density has no curvature that can be solved: {_TOO_FAR}")
        length, before = 1.0, value
        value, gradient, rate = loss.at(z + step)
        while squared > _SURE**2 and not value <= before - 1e-4 * length * squared:
            length *= 0.5
            value, gradient, rate = loss.at(z + length * step)
        z = z + length * step
        if squared <= _DONE**2 and np.abs(gradient).max() <= _DONE * (1.0 + np.abs(z).max()):
            return z, steps
    raise ValueError(f"the density is not found after {_MAX_STEPS} Newton steps: {_TOO_FAR}")


def _lbfgs(loss: _Loss, start: np.ndarray) -> tuple[np.ndarray, int]:
    """Near the minimum of the loss, by L-BFGS-B as kompot calls it, and its iterations."""
    from scipy.optimize import minimize  # the default search needs none of it

    found = minimize(
        lambda z: loss.at(z)[:2], start, jac=True, method="L-BFGS-B", options={"maxiter": 500}
    )
    if not np.isfinite(found.x).all():
        raise ValueError(f"L-BFGS-B found no density: {found.message}; use optimizer='newton'")
    if not found.success:
        log.warning("L-BFGS-B ended early: %s", found.message)
    return found.x, int(found.nit)
