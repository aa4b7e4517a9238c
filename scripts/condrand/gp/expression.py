"""Expression of two conditions as functions of the cell state, and their difference."""

import itertools
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from condrand.gp.covariance import Inducing, batches, checked_points, product, row_squares
from condrand.gp.function import FunctionEstimator
from condrand.gp.mahalanobis import SharedCovariance, by_genes, genes_at_once
from condrand.gp.sample_variance import Samples, SampleVariance

COMBINATIONS = {"sum": 1.0, "mean": 0.5}
# Points of a Mahalanobis distance: their covariance has this squared entries.
MOST_POINTS = 10_000

Rows = np.ndarray | sp.spmatrix


@dataclass(frozen=True)
class ExpressionModel:
    """Fitted functions of both conditions.

    Attributes
    ----------
    functions : tuple of 2 FunctionEstimator
    samples : tuple of 2 SampleVariance, or None where a condition has none
    residuals : tuple of 2 FunctionEstimator, or None
        Squared residuals smoothed over the cell states.
    """

    functions: tuple[FunctionEstimator, FunctionEstimator]
    samples: tuple[SampleVariance | None, SampleVariance | None] = (None, None)
    residuals: tuple[FunctionEstimator, FunctionEstimator] | None = None

    @classmethod
    def of(
        cls,
        x: tuple[np.ndarray, np.ndarray],
        y: tuple[Rows, Rows],
        length_scale: float,
        sigma: float = 1.0,
        landmarks: Inducing | np.ndarray | None = None,
        samples: tuple[Samples | None, Samples | None] = (None, None),
        sample_landmarks: Inducing | np.ndarray | None = None,
        sample_length_scale: float | None = None,
        empirical: bool = False,
    ) -> "ExpressionModel":
        """Fit to the cells of both conditions.

        Parameters
        ----------
        x : pair of float64, shapes (n1, p) and (n2, p)
        y : pair of numbers, shapes (n1, G) and (n2, G)
        length_scale : float
        sigma : float
            Noise of the expression; one number for all genes.
        landmarks : Inducing, or float64 of shape (m, p), optional
            Shared by the conditions and their samples; full processes if not given.
        samples : pair of Samples, or None
            Adds the variance over samples.
        sample_landmarks : Inducing, optional
            Of the samples, where their length scale differs.
        sample_length_scale : float, optional
            Of the samples; as that of the conditions if not given.
        empirical : bool
            Adds the smoothed squared residuals, taken from the samples' functions where there
            are samples.
        """
        if landmarks is not None and not isinstance(landmarks, Inducing):
            landmarks = Inducing.of(landmarks, length_scale)
        other = sample_length_scale is not None and sample_length_scale != length_scale
        sample_scale = sample_length_scale if other else length_scale
        if not other:
            sample_landmarks = landmarks
        elif sample_landmarks is None and landmarks is not None:
            sample_landmarks = Inducing.of(landmarks.points, sample_scale)
        pairs = list(zip(x, y, strict=True))
        functions = tuple(
            FunctionEstimator.of(*pair, length_scale, sigma, landmarks) for pair in pairs
        )
        variances = tuple(
            None
            if groups is None or not groups.enough
            else SampleVariance.of(*pair, groups, sample_scale, sigma, sample_landmarks)
            for pair, groups in zip(pairs, samples, strict=True)
        )
        residuals = None
        if empirical:
            residuals = tuple(
                _smoothed_residuals(*part)
                for part in zip(functions, variances, samples, x, y, strict=True)
            )
        # A condition of one sample borrows the variance of the other.
        borrowed = tuple(
            variances[1 - c] if variances[c] is None and samples[c] is not None else variances[c]
            for c in (0, 1)
        )
        return cls(functions, borrowed, residuals)

    @property
    def n_genes(self) -> int:
        """Number of genes."""
        return self.functions[0].n_genes

    @property
    def by_gene(self) -> bool:
        """Whether genes differ in their variance."""
        return self.residuals is not None or any(v is not None for v in self.samples)

    def predict(
        self,
        x: np.ndarray,
        eps: float = 1e-8,
        batch: int = 500,
        array: Callable[[str, tuple[int, int]], np.ndarray | None] | None = None,
    ) -> dict[str, np.ndarray]:
        """Means of both conditions at some cells, and their difference.

        Parameters
        ----------
        x : float64, shape (n, p)
        eps : float
            Added to every variance under a root, and least of a smoothed squared residual.
        batch : int
            Cells at once.
        array : callable, optional
            Makes the arrays of results from name and shape, or gives None for one that is not
            wanted; in memory if not given.

        Returns
        -------
        dict of float64
            ``condition1_smoothed``, ``condition2_smoothed``, ``fold_change`` and
            ``fold_change_zscores`` of shape (n, G), unless not wanted;
            ``condition1_std`` and ``condition2_std`` of shape (n, G), or (n, 1) where all genes
            have the same; ``mean_log_fold_change`` of shape (G,).

        Notes
        -----
        Definition: ``v_c = cov_c(x, x) [+ residuals] [+ variance over samples]``,
        ``std_c = sqrt(v_c + eps)``, ``z = (m2 - m1) / sqrt(v1 + v2 + eps)``.
        Cost: memory of the results and a few times ``batch x G``.
        """
        x = checked_points(x)
        if x.shape[1] != self.functions[0].inducing.points.shape[1]:
            raise ValueError(
                f"cells of {x.shape[1]} dimensions for a model of "
                f"{self.functions[0].inducing.points.shape[1]}: use the same representation"
            )
        n, n_genes, batch = len(x), self.n_genes, min(batch, len(x))
        std_columns = n_genes if self.by_gene else 1
        shapes = {
            "condition1_smoothed": n_genes,
            "condition2_smoothed": n_genes,
            "condition1_std": std_columns,
            "condition2_std": std_columns,
            "fold_change": n_genes,
            "fold_change_zscores": n_genes,
        }
        made = {
            name: np.empty((n, columns)) if array is None else array(name, (n, columns))
            for name, columns in shapes.items()
        }
        spare = {
            name: np.empty((batch, shapes[name])) for name, kept in made.items() if kept is None
        }
        work, total = np.empty((batch, n_genes)), np.zeros(n_genes)
        for at in batches(n, batch):
            k = at.stop - at.start
            # A memmap as plain memory: its own class costs a little at every step.
            rows = {
                name: spare[name][:k] if kept is None else np.asarray(kept[at])
                for name, kept in made.items()
            }
            self._predict_rows(x[at], eps, rows, work[:k])
            total += rows["fold_change"].sum(axis=0)
        results = {name: kept for name, kept in made.items() if kept is not None}
        return {**results, "mean_log_fold_change": total / n}

    def _predict_rows(
        self, x: np.ndarray, eps: float, rows: dict[str, np.ndarray], work: np.ndarray
    ) -> None:
        """Fill in the results of some cells; `work` has the shape (cells, G)."""
        covariances = _Covariances(x)
        means = [rows["condition1_smoothed"], rows["condition2_smoothed"]]
        stds = [rows["condition1_std"], rows["condition2_std"]]
        for function, mean in zip(self.functions, means, strict=True):
            product(covariances.of(function.inducing), function.weights, out=mean)
        for c in range(2):
            stds[c][:] = 0.0
            if self.residuals is not None:
                smooth = self.residuals[c]
                product(covariances.of(smooth.inducing), smooth.weights, out=stds[c])
                np.maximum(stds[c], eps, out=stds[c])
            if self.samples[c] is not None:
                self.samples[c].add_variance(stds[c], x, covariances.of, work)
        for c, variance in enumerate(self._shared_variances(covariances)):
            stds[c] += variance[:, None]
        difference, z = rows["fold_change"], rows["fold_change_zscores"]
        np.subtract(means[1], means[0], out=difference)
        whole = work if self.by_gene else np.empty((len(x), 1))
        np.add(stds[0], stds[1], out=whole)
        whole += eps
        np.sqrt(whole, out=whole)
        np.divide(difference, whole, out=z)
        for std in stds:
            std += eps
            np.sqrt(std, out=std)

    def _shared_variances(self, covariances: "_Covariances") -> list[np.ndarray]:
        """Variances of both means that all genes share; the covariances are used up."""
        whitened, variances = {}, []
        for function in self.functions:
            key = id(function.inducing)
            if key not in whitened:
                rows = function.inducing.whiten(covariances.of(function.inducing))
                whitened[key] = rows, function.inducing.variance_left(rows)
            rows, left = whitened[key]
            c = function.inner_of(rows)
            variances.append(left if c is None else left + row_squares(c))
        return variances

    def mahalanobis(
        self, points: np.ndarray, eps: float = 1e-8, combine: str = "sum"
    ) -> np.ndarray:
        """Distance of the difference from 0 over all points together, by its covariance.

        Parameters
        ----------
        points : float64, shape (P, p)
        eps : float
            Added to the diagonal of the covariance.
        combine : {"sum", "mean"}
            The covariance of the difference, or half of it, as kompot before 0.8 has it. The
            variances over samples add up either way.

        Returns
        -------
        float64, shape (G,)
        """
        points = checked_points(points, "points of the Mahalanobis distance")
        if combine not in COMBINATIONS:
            raise ValueError(f"covariances combine by 'sum' or 'mean', not {combine!r}")
        if len(points) > MOST_POINTS:
            raise ValueError(
                f"a Mahalanobis distance over {len(points):,} points, more than {MOST_POINTS:,}: "
                "fit with landmarks, or give fewer points"
            )
        matrix = self.functions[0].covariance(points)
        matrix += self.functions[1].covariance(points)
        matrix *= COMBINATIONS[combine]
        shared = SharedCovariance.of(matrix, eps)
        covariances = _Covariances(points)
        first, second = self.functions
        kinds = [sample for sample in self.samples if sample is not None]
        n_factors = sum(sample.n_samples - 1 for sample in kinds)

        def distances(at: slice) -> np.ndarray:
            if first.inducing is second.inducing:
                # The weights differ first: one product instead of two.
                weights = second.weights[:, at] - first.weights[:, at]
                delta = product(covariances.of(first.inducing), weights)
            else:
                delta = product(covariances.of(second.inducing), second.weights[:, at])
                delta -= product(covariances.of(first.inducing), first.weights[:, at])
            factors = []
            for sample in kinds:
                for h in sample.deviations(points, covariances.of, at):
                    h /= np.sqrt(sample.n_samples - 1)
                    factors.append(h)
            if self.residuals is None:
                if not kinds:
                    return shared.distances(delta)
                return shared.distances_with_factors(delta, factors)
            variances = np.zeros_like(delta)
            for smooth in self.residuals:
                seen = product(covariances.of(smooth.inducing), smooth.weights[:, at])
                variances += np.maximum(seen, eps, out=seen)
            if not kinds:
                return shared.distances_by_coordinate(delta, variances)
            return shared.distances_exact(delta, factors, variances)

        at_once = genes_at_once(len(points), 2 * (n_factors + 1))
        return by_genes(self.n_genes, at_once, distances)


class _Covariances:
    """Covariances of some cells with inducing points, each made once."""

    def __init__(self, x: np.ndarray) -> None:
        self._x = x
        self._made: dict[int, np.ndarray] = {}

    def of(self, inducing: Inducing) -> np.ndarray:
        """``K(x, U)``."""
        if id(inducing) not in self._made:
            self._made[id(inducing)] = inducing.covariance(self._x)
        return self._made[id(inducing)]


def _smoothed_residuals(
    function: FunctionEstimator,
    variance: SampleVariance | None,
    samples: Samples | None,
    x: np.ndarray,
    y: Rows,
) -> FunctionEstimator:
    """Squared residuals of a condition, smoothed by its own function."""
    if variance is None:
        blocks = function.squared_residuals(x, y)
    else:
        x = checked_points(x)
        blocks = itertools.chain.from_iterable(
            model.squared_residuals(x[cells], y[cells])
            for model, cells in zip(variance.models, samples.cells, strict=True)
        )
    return function.smoothed(blocks, function.n_genes)
