"""Variance over the samples of a condition: how much their own functions differ."""

import logging
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from condrand.gp.covariance import Inducing, batches, checked_points, product
from condrand.gp.function import FunctionEstimator, checked_sigma, dense_rows

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Samples:
    """Samples of a condition with enough cells.

    Attributes
    ----------
    names : list
        Ascending.
    cells : tuple of int64 arrays
        Cells of each, ascending.
    """

    names: list
    cells: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, labels: np.ndarray, n_cells: int, min_cells: int = 2) -> "Samples":
        """Samples from one label per cell; those of fewer than `min_cells` are left out.

        Raises
        ------
        ValueError
            If the labels are not one per cell, or one is missing.
        """
        labels = np.asarray(labels)
        if labels.shape != (n_cells,):
            raise ValueError(
                f"sample labels of shape {labels.shape} for {n_cells} cells: give one per cell"
            )
        # Only a missing value differs from itself.
        missing = labels != labels
        if labels.dtype == object:
            missing = missing | np.array([label is None for label in labels])
        if np.any(missing):
            raise ValueError(
                f"{np.count_nonzero(missing)} cells have no sample: leave these cells out"
            )
        names, codes = np.unique(labels, return_inverse=True)
        sizes = np.bincount(codes)
        kept = np.flatnonzero(sizes >= min_cells)
        if kept.size < names.size:
            small = ", ".join(str(name) for name in names[sizes < min_cells])
            log.warning("samples of fewer than %d cells are left out: %s", min_cells, small)
        return cls(names[kept].tolist(), tuple(np.flatnonzero(codes == k) for k in kept))

    @property
    def enough(self) -> bool:
        """Whether there are two samples, the fewest that differ."""
        return len(self.names) > 1


def contrasts(values: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """S - 1 orthonormal combinations of S arrays, without their mean.

    Notes
    -----
    Definition: ``h_r = sqrt(r/(r+1)) (mean of the first r - value r+1)`` (Helmert), so that the
    sum of ``h h'`` is that of ``c c'`` over the values less their mean c: one array less to
    predict, and no cancellation.
    """
    mean = None
    for r, value in enumerate(values):
        if mean is None:
            mean = value.copy()
            continue
        difference = mean - value
        mean -= difference / (r + 1)
        difference *= math.sqrt(r / (r + 1))
        yield difference


@dataclass(frozen=True)
class SampleVariance:
    """Variance of the means of S samples.

    Attributes
    ----------
    models : tuple of FunctionEstimator
        One for each sample.
    weights : tuple of float64[:, ::1], shape (m, G), optional
        The S - 1 contrasts of the models' weights, where all have the same inducing points.
    """

    models: tuple[FunctionEstimator, ...]
    weights: tuple[np.ndarray, ...] | None

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        y: "np.ndarray | sp.spmatrix",
        samples: Samples,
        length_scale: float | None,
        sigma: float = 1.0,
        landmarks: Inducing | np.ndarray | None = None,
        length_scale_of: Callable[[np.ndarray], float] | None = None,
    ) -> "SampleVariance":
        """Fit one function to the cells of each sample.

        Parameters
        ----------
        x : float64, shape (n, p)
        y : numbers, shape (n, G)
        samples : Samples
        length_scale : float, optional
            Of all samples; if not given, `length_scale_of` finds it for the cells of each.
        sigma : float
            Above 0.
        landmarks : Inducing, or float64 of shape (m, p), optional
            A full process for each sample if not given.
        length_scale_of : callable, optional

        Raises
        ------
        ValueError
            For fewer than 2 samples.
        """
        x, sigma = checked_points(x), checked_sigma(sigma)
        if not samples.enough:
            raise ValueError(
                f"At least 2 groups with enough cells make a variance, there are "
                f"{len(samples.names)}: give more samples, lower min_cells, or do without "
                "sample variance"
            )
        if landmarks is not None and length_scale is not None:
            if not isinstance(landmarks, Inducing):
                landmarks = Inducing.of(landmarks, length_scale)
        models = []
        for cells in samples.cells:
            here = x[cells]
            scale = length_scale if length_scale is not None else length_scale_of(here)
            if isinstance(landmarks, Inducing):
                # Rows of a sample come by batches: no copy of its expression is made.
                blocks = (
                    (x[part], dense_rows(y, part))
                    for part in (cells[at] for at in batches(len(cells)))
                )
                model = FunctionEstimator.of_blocks(blocks, landmarks, y.shape[1], sigma)
            else:
                model = FunctionEstimator.of(here, y[cells], scale, sigma, landmarks)
            models.append(model)
        return cls.of_models(models)

    @classmethod
    def of_models(cls, models: list[FunctionEstimator]) -> "SampleVariance":
        """Variance over functions already there."""
        first = models[0].inducing
        weights = None
        if all(model.inducing is first for model in models):
            weights = tuple(contrasts(model.weights for model in models))
        return cls(tuple(models), weights)

    @property
    def n_samples(self) -> int:
        """Number of samples."""
        return len(self.models)

    def deviations(
        self,
        x: np.ndarray,
        covariance: Callable[[Inducing], np.ndarray] | None = None,
        genes: slice = slice(None),
        work: np.ndarray | None = None,
    ) -> Iterator[np.ndarray]:
        """S - 1 arrays h, so that ``sum h h' / (S - 1)`` is the covariance over the samples.

        Parameters
        ----------
        x : float64, shape (n, p)
        covariance : callable, optional
            Gives ``K(x, U)``, which others may have made already.
        genes : slice
        work : float64, shape (n, G), optional
            Memory for each h in turn; each in its own if not given.

        Yields
        ------
        float64, shape (n, G)
        """
        if covariance is None:
            made = None if self.weights is None else self.models[0].inducing.covariance(x)

            def covariance(inducing: Inducing) -> np.ndarray:
                return inducing.covariance(x) if made is None else made

        if self.weights is not None:
            rows = covariance(self.models[0].inducing)
            for weights in self.weights:
                yield product(rows, weights[:, genes], work)
        else:
            yield from contrasts(
                product(covariance(model.inducing), model.weights[:, genes])
                for model in self.models
            )

    def add_variance(
        self,
        out: np.ndarray,
        x: np.ndarray,
        covariance: Callable[[Inducing], np.ndarray] | None = None,
        work: np.ndarray | None = None,
    ) -> None:
        """Add the variance over the samples at each cell to `out`, shape (n, G)."""
        for h in self.deviations(x, covariance, work=work):
            # Divided before it is squared: out takes it as it is.
            h *= math.sqrt(1.0 / (self.n_samples - 1))
            np.square(h, out=h)
            out += h

    def variance(self, x: np.ndarray) -> np.ndarray:
        """Variance over the samples, ``ddof=1``, at each cell: float64, shape (n, G)."""
        x = checked_points(x)
        out = np.zeros((len(x), self.models[0].n_genes))
        for at in batches(len(x)):
            self.add_variance(out[at], x[at])
        return out

    def covariance(self, x: np.ndarray) -> np.ndarray:
        """Covariance over the samples of all pairs of cells, for each gene: shape (n, n, G).

        Notes
        -----
        Only for few cells and genes: nothing here needs it, see :meth:`deviations`.
        """
        x = checked_points(x)
        h = np.stack(list(self.deviations(x))) / math.sqrt(self.n_samples - 1)
        return np.einsum("rig,rjg->ijg", h, h, optimize=True)
