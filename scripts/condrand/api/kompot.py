"""Differential expression and abundance over cell states, under the names of kompot.

Arrays in, arrays out: cells are rows. The classes keep kompot's vocabulary; what it calls a
smoothed expression it called an imputed one up to 0.6, and both names are there.
"""

import logging
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from condrand.api.abundance import DifferentialAbundance
from condrand.api.cell_states import NO_SAMPLES, NOT_FITTED, cells_of, check_numbers, samples_of
from condrand.errors import Problems, listed, nearest
from condrand.gp.covariance import CELLS_AT_ONCE
from condrand.gp.density import DensityPrior
from condrand.gp.density_samples import DensitySamples
from condrand.gp.expression import COMBINATIONS, ExpressionModel
from condrand.gp.function import FunctionEstimator
from condrand.gp.mahalanobis import neg_log10_tail
from condrand.gp.neighbours import landmarks as clustered
from condrand.gp.neighbours import length_scale, nearest_distances
from condrand.gp.null_genes import NullGenes
from condrand.gp.sample_variance import Samples, SampleVariance
from condrand.io.scratch_arrays import ScratchArrays
from condrand.local_fdr import local_fdr

if TYPE_CHECKING:  # pandas takes more memory than the numbers of a small fit
    import pandas as pd

__all__ = [
    "DifferentialAbundance",
    "DifferentialExpression",
    "SampleVarianceEstimator",
    "compute_fdr",
]

log = logging.getLogger(__name__)

# A full process of more cells takes their covariance, as in mellon: 5,000 landmarks instead.
_FULL_UP_TO = 5000
# Null genes dealt and fitted at once.
_NULL_AT_ONCE = 500
# A covariance of cells for each gene is for a look at a few of them.
_LARGEST_COVARIANCE = 2**30
_BY_CELL = ("condition1_smoothed", "condition2_smoothed", "fold_change", "fold_change_zscores")


class DifferentialExpression:
    """How expression at the same cell state differs between two conditions.

    Parameters
    ----------
    n_landmarks : int, optional
        Landmarks made by k-means of the cells of both conditions; 2 or more. Without them (None
        or 0) every cell of a condition is one, up to 5,000 cells; beyond, 5,000 are made.
    use_sample_variance : bool, optional
        Whether differences between samples add to the variance; where samples are given, if not
        said.
    use_empirical_variance : bool
        Whether squared residuals, smoothed over the cell states, add to the variance.
    eps : float
        Added to variances, and to the diagonal of the covariance of a difference.
    jit_compile : bool
        Has no effect; kompot has it.
    function_predictor1, function_predictor2 : FunctionEstimator, optional
        Functions already fitted: then :meth:`fit` need not be called.
    variance_predictor1, variance_predictor2 : SampleVariance or SampleVarianceEstimator, optional
        Variances over samples already fitted. They are used unless :meth:`fit` is given samples.
    random_state : int, optional
        Seed of the landmarks; 0 if not given, so that two calls give the same.
    batch_size : int, optional
        Cells predicted at a time; 2,048 for None or 0.
    store_arrays_on_disk : bool, optional
        Whether arrays of cells by genes are files, deleted when they are no longer used; where
        `disk_storage_dir` is given, if not said.
    disk_storage_dir : str or pathlib.Path, optional
        Where their folder is made.
    max_memory_ratio : float
        Has no effect; kompot has it.
    cov_combine : {"sum", "mean"}
        How the covariances of both conditions make that of the difference: their sum, as in
        kompot 0.8, or their mean, as before; without samples distances are then sqrt(2) times
        as large.

    Attributes
    ----------
    function_predictor1, function_predictor2 : FunctionEstimator
        After :meth:`fit`; and ``variance_predictor1``, ``variance_predictor2``.
    landmarks : float64, shape (m, p), or None
        As used by the fit.
    ls : float
        Length scale as used by the fit.
    genes : pandas.Index
        Names from the table of the expression, or numbers.
    condition1_smoothed, condition2_smoothed, condition1_imputed, condition2_imputed
        After :meth:`predict`, as all that it returns.
    condition1_std, condition2_std, fold_change, fold_change_zscores, mean_log_fold_change
    mahalanobis_distances, neg_log10_ptp, null_mahalanobis_distances
        After ``predict(compute_mahalanobis=True)``.
    """

    def __init__(
        self,
        n_landmarks: int | None = None,
        use_sample_variance: bool | None = None,
        use_empirical_variance: bool = False,
        eps: float = 1e-8,
        jit_compile: bool = False,
        function_predictor1: FunctionEstimator | None = None,
        function_predictor2: FunctionEstimator | None = None,
        variance_predictor1: "SampleVariance | SampleVarianceEstimator | None" = None,
        variance_predictor2: "SampleVariance | SampleVarianceEstimator | None" = None,
        random_state: int | None = None,
        batch_size: int | None = 500,
        store_arrays_on_disk: bool | None = None,
        disk_storage_dir: str | Path | None = None,
        max_memory_ratio: float = 0.8,
        *,
        cov_combine: str = "sum",
    ) -> None:
        problems = Problems("DifferentialExpression")
        functions = function_predictor1, function_predictor2
        for i, given in enumerate(functions, 1):
            if given is not None and not isinstance(given, FunctionEstimator):
                mend = "give that of a fitted DifferentialExpression."
                problems.add(f"function_predictor{i}", f"is a {type(given).__name__}", mend)
        if (function_predictor1 is None) != (function_predictor2 is None):
            mend = "give both, or none and call fit()."
            problems.add("function_predictor1, function_predictor2", "one is missing", mend)
        variances = tuple(
            _variance_of(given, f"variance_predictor{i}", problems)
            for i, given in enumerate((variance_predictor1, variance_predictor2), 1)
        )
        check_numbers(n_landmarks, batch_size, problems)
        if not (np.isfinite(eps) and eps > 0.0):
            problems.add("eps", f"is {eps}", "it is a small number above 0, such as 1e-8.")
        if cov_combine not in COMBINATIONS:
            problems.add("cov_combine", f"is {cov_combine!r}", "it is 'sum' or 'mean'.")
        problems.report()
        self.n_landmarks = n_landmarks
        self.use_sample_variance = use_sample_variance
        self.use_empirical_variance = use_empirical_variance
        self.eps = eps
        self.jit_compile = jit_compile
        self.random_state = random_state
        self.batch_size = batch_size
        self.disk_storage_dir = disk_storage_dir
        if store_arrays_on_disk is None:
            store_arrays_on_disk = disk_storage_dir is not None
        self.store_arrays_on_disk = store_arrays_on_disk
        self.max_memory_ratio = max_memory_ratio
        self.cov_combine = cov_combine
        self.landmarks: np.ndarray | None = None
        self.ls: float | None = None
        self.genes: pd.Index | None = None
        self._given_variances = variances
        self._model: ExpressionModel | None = None
        self._null_models: list[ExpressionModel] = []
        self.variance_predictor1, self.variance_predictor2 = variances
        self.function_predictor1, self.function_predictor2 = functions
        if function_predictor1 is not None:
            if use_empirical_variance:
                raise ValueError(
                    "use_empirical_variance needs the cells: call fit() instead of giving "
                    "function predictors"
                )
            self._take(ExpressionModel(functions, self._wanted(variances)), None)
        self._forget()

    def fit(
        self,
        X_condition1: np.ndarray,
        y_condition1: "np.ndarray | sp.spmatrix | pd.DataFrame",
        X_condition2: np.ndarray,
        y_condition2: "np.ndarray | sp.spmatrix | pd.DataFrame",
        sigma: float = 1.0,
        ls: float | None = None,
        ls_factor: float = 10.0,
        landmarks: np.ndarray | None = None,
        condition1_sample_indices: np.ndarray | None = None,
        condition2_sample_indices: np.ndarray | None = None,
        sample_estimator_ls: float | None = None,
        allow_single_condition_variance: bool = False,
        *,
        min_cells: int = 2,
        n_null_genes: int = 0,
        null_seed: int = 42,
    ) -> "DifferentialExpression":
        """Fit the expression of both conditions.

        Parameters
        ----------
        X_condition1, X_condition2 : float64, shapes (n1, p) and (n2, p)
            Cell states, such as diffusion components.
        y_condition1, y_condition2 : numbers, shapes (n1, G) and (n2, G)
            Log expression; arrays, sparse matrices or tables.
        sigma : float
            Standard deviation of the noise, above 0; one number for all genes.
        ls : float, optional
            Length scale; from the distances to nearest cells of condition 1 if not given, for
            both conditions and all samples.
        ls_factor : float
            Times that length scale; not times one given.
        landmarks : float64, shape (m, p), optional
            Instead of `n_landmarks` made here.
        condition1_sample_indices, condition2_sample_indices : array, shapes (n1,) and (n2,)
            Sample of each cell, optional.
        sample_estimator_ls : float, optional
            Length scale of the functions of samples.
        allow_single_condition_variance : bool
            A condition of one sample takes the variance of the other, instead of an error.
        min_cells : int
            Smaller samples are left out, with a warning.
        n_null_genes : int
            Genes dealt anew to the cells of both conditions, for :meth:`compute_fdr`; kompot
            takes 2,000, and none with samples.
        null_seed : int

        Returns
        -------
        DifferentialExpression
            Itself.

        Raises
        ------
        ValueError
            For input that cannot be used, with every fault of it.
        """
        problems = Problems("DifferentialExpression.fit")
        first = cells_of(X_condition1, "X_condition1", problems)
        features = None if first is None else first.shape[1]
        second = cells_of(X_condition2, "X_condition2", problems, features)
        if landmarks is not None:
            landmarks = cells_of(landmarks, "landmarks", problems, features)
        x = first, second
        y, genes = _expression(y_condition1, y_condition2, x, problems)
        labels = condition1_sample_indices, condition2_sample_indices
        if n_null_genes < 0:
            problems.add("n_null_genes", f"is {n_null_genes}", "it is 0 or more.")
        samples = (None, None)
        if self.use_sample_variance is not False:
            samples = _samples(labels, x, min_cells, allow_single_condition_variance, problems)
            none = all(given is None for given in (*labels, *self._given_variances))
            if self.use_sample_variance and none:
                problems.add("use_sample_variance", "is True without samples", NO_SAMPLES)
        problems.report()

        if ls is None:
            ls = length_scale(nearest_distances(first), ls_factor)
        if landmarks is None:
            landmarks = self._landmarks(first, second)

        def model_of(values: tuple[np.ndarray, np.ndarray], like: ExpressionModel | None):
            # Null genes use the factors of the landmarks that are there already.
            shared = None if like is None else like.functions[0].inducing
            return ExpressionModel.of(
                x,
                values,
                ls,
                sigma,
                landmarks if shared is None or landmarks is None else shared,
                samples,
                sample_length_scale=sample_estimator_ls,
                empirical=self.use_empirical_variance,
            )

        model = model_of(y, None)
        nulls = []
        if n_null_genes:
            drawn = NullGenes.of(y[0].shape[1], n_null_genes, null_seed)
            for start in range(0, n_null_genes, _NULL_AT_ONCE):
                dealt = drawn.dealt(*y, slice(start, start + _NULL_AT_ONCE))
                nulls.append(model_of(dealt, model))
        if all(groups is None for groups in samples):
            given = self._wanted(self._given_variances)
            model = ExpressionModel(model.functions, given, model.residuals)
        self._forget()
        self.landmarks, self.ls, self._null_models = landmarks, float(ls), nulls
        self._take(model, genes)
        return self

    def predict(
        self,
        X_new: np.ndarray,
        compute_mahalanobis: bool = False,
        *,
        use_landmarks: bool = True,
        landmarks_override: np.ndarray | None = None,
        outputs: tuple[str, ...] | None = None,
    ) -> dict[str, np.ndarray]:
        """Expression of both conditions at cell states, and its difference.

        Parameters
        ----------
        X_new : float64, shape (n, p)
        compute_mahalanobis : bool
            Also distances of the difference over all points together.
        use_landmarks, landmarks_override
            As in :meth:`compute_mahalanobis_distances`.
        outputs : tuple of str, optional
            Arrays of cells by genes that are wanted, of ``condition1_smoothed``,
            ``condition2_smoothed``, ``fold_change`` and ``fold_change_zscores``; all if not
            given. What is not wanted takes no memory.

        Returns
        -------
        dict of float64
            ``condition1_smoothed``, ``condition2_smoothed`` (also as ``condition1_imputed``,
            ``condition2_imputed``: the same arrays), ``fold_change`` (natural log if the
            expression is), ``fold_change_zscores``: shape (n, G). ``condition1_std``,
            ``condition2_std``: shape (n, 1) where all genes have the same, else (n, G).
            ``mean_log_fold_change``: shape (G,). If asked for, ``mahalanobis_distances`` and
            ``neg_log10_ptp``, shape (G,): the tail of a chi-squared distribution with as many
            degrees of freedom as cell states have dimensions, which is not calibrated; see
            :meth:`compute_fdr`. They are attributes too.

        Raises
        ------
        ValueError
            Before :meth:`fit`, and for states that do not fit it.
        """
        model = self._fitted()
        problems = Problems("DifferentialExpression.predict")
        features = model.functions[0].inducing.points.shape[1]
        points = cells_of(X_new, "X_new", problems, features)
        for name in outputs or ():
            if name not in _BY_CELL:
                mend = f"{nearest(name, _BY_CELL)}choose from {listed(_BY_CELL)}."
                problems.add("outputs", f"has {name!r}", mend)
        problems.report()
        wanted = _BY_CELL if outputs is None else outputs
        scratch = None
        if self.store_arrays_on_disk:
            scratch = ScratchArrays(self.disk_storage_dir)
            n_arrays = len(wanted) + 2 * model.by_gene
            scratch.reserve(8 * len(points) * model.n_genes * n_arrays)

        def array(name: str, shape: tuple[int, int]) -> np.ndarray | None:
            if name in _BY_CELL and name not in wanted:
                return None
            if scratch is not None and shape[1] == model.n_genes:
                return scratch.array(name, shape)
            return np.empty(shape)

        self._forget()
        found = model.predict(points, self.eps, self.batch_size or CELLS_AT_ONCE, array)
        for condition in (1, 2):
            if f"condition{condition}_smoothed" in found:
                found[f"condition{condition}_imputed"] = found[f"condition{condition}_smoothed"]
        if compute_mahalanobis:
            distances = self.compute_mahalanobis_distances(
                points, use_landmarks=use_landmarks, landmarks_override=landmarks_override
            )
            found["mahalanobis_distances"] = distances
            found["neg_log10_ptp"] = self.neg_log10_ptp
        for name, values in found.items():
            setattr(self, name, values)
        return found

    def compute_mahalanobis_distances(
        self,
        X_new: np.ndarray | None = None,
        *,
        use_landmarks: bool = True,
        landmarks_override: np.ndarray | None = None,
    ) -> np.ndarray:
        """Distance of each gene's difference from 0, by its covariance over all points.

        Parameters
        ----------
        X_new : float64, shape (P, p), optional
            Points, where there are no landmarks or they are not to be used.
        use_landmarks : bool
        landmarks_override : float64, shape (P, p), optional
            Points instead of either.

        Returns
        -------
        float64, shape (G,)
            Also the attribute ``mahalanobis_distances``, with ``neg_log10_ptp``, and
            ``null_mahalanobis_distances`` where null genes were fitted.
        """
        model = self._fitted()
        problems = Problems("DifferentialExpression.compute_mahalanobis_distances")
        first = model.functions[0]
        features = first.inducing.points.shape[1]
        if landmarks_override is not None:
            points = cells_of(landmarks_override, "landmarks_override", problems, features)
        elif use_landmarks and first.inner is not None:
            points = first.inducing.points
        elif X_new is None:
            problems.add("X_new", "is missing", "give points: the model has no landmarks to use.")
        else:
            points = cells_of(X_new, "X_new", problems, features)
        problems.report()
        distances = model.mahalanobis(points, self.eps, self.cov_combine)
        self.mahalanobis_distances = distances
        self.neg_log10_ptp = neg_log10_tail(distances, features)
        if self._null_models:
            null = [m.mahalanobis(points, self.eps, self.cov_combine) for m in self._null_models]
            self.null_mahalanobis_distances = np.concatenate(null)
        return distances

    def compute_fdr(
        self, null_mahalanobis_distances: np.ndarray | None = None, fdr_threshold: float = 0.05
    ) -> "pd.DataFrame":
        """False discovery rates of the genes, from distances of null genes.

        Parameters
        ----------
        null_mahalanobis_distances : float64, shape (n_null,), optional
            Instead of those of the null genes that :meth:`fit` made.
        fdr_threshold : float

        Returns
        -------
        pandas.DataFrame
            As of :func:`compute_fdr`, by gene.
        """
        self._fitted()
        if self.mahalanobis_distances is None:
            raise ValueError(
                "no Mahalanobis distances: call predict(X_new, compute_mahalanobis=True) first"
            )
        null = null_mahalanobis_distances
        if null is None:
            null = self.null_mahalanobis_distances
        if null is None:
            raise ValueError(
                "no null genes: call fit(..., n_null_genes=2000) and predict again, or give "
                "null_mahalanobis_distances"
            )
        found = compute_fdr(self.mahalanobis_distances, null, fdr_threshold)
        return found if self.genes is None else found.set_index(self.genes)

    def _landmarks(self, first: np.ndarray, second: np.ndarray) -> np.ndarray | None:
        """Landmarks for both conditions; None for full processes."""
        n_landmarks = self.n_landmarks or 0
        if not n_landmarks:
            if max(len(first), len(second)) <= _FULL_UP_TO:
                return None
            n_landmarks = _FULL_UP_TO
            log.warning("more than %d cells: that many landmarks are made of them", _FULL_UP_TO)
        seed = 0 if self.random_state is None else self.random_state
        return clustered(np.vstack([first, second]), n_landmarks, seed)

    def _wanted(
        self, variances: tuple[SampleVariance | None, SampleVariance | None]
    ) -> tuple[SampleVariance | None, SampleVariance | None]:
        """Variances given, where they are to count."""
        if self.use_sample_variance is False:
            return None, None
        if self.use_sample_variance and variances == (None, None):
            raise ValueError(NO_SAMPLES)
        return variances

    def _take(self, model: ExpressionModel, genes: "pd.Index | None") -> None:
        """Have a fitted model."""
        self._model, self.genes = model, genes
        self.function_predictor1, self.function_predictor2 = model.functions
        self.variance_predictor1, self.variance_predictor2 = model.samples

    def _fitted(self) -> ExpressionModel:
        """The model; ValueError where there is none."""
        if self._model is None:
            raise ValueError(NOT_FITTED)
        return self._model

    def _forget(self) -> None:
        """Have no results: those there are belong to another fit or other cells."""
        self.condition1_smoothed = self.condition2_smoothed = None
        self.condition1_imputed = self.condition2_imputed = None
        self.condition1_std = self.condition2_std = None
        self.fold_change = self.fold_change_zscores = self.mean_log_fold_change = None
        self.mahalanobis_distances = self.neg_log10_ptp = None
        self.null_mahalanobis_distances = None


class SampleVarianceEstimator:
    """Variance over samples of their functions or densities.

    Parameters
    ----------
    eps : float
        Has no effect; kompot has it.
    jit_compile : bool
        Has no effect; kompot has it.
    estimator_type : {"function", "density"}

    Attributes
    ----------
    samples : SampleVariance or DensitySamples
        After :meth:`fit`.
    """

    def __init__(
        self, eps: float = 1e-8, jit_compile: bool = True, estimator_type: str = "function"
    ) -> None:
        if estimator_type not in _SETTINGS:
            raise ValueError(
                f"estimator_type is {estimator_type!r}: it is 'function' or 'density'"
            )
        self.eps, self.jit_compile, self.estimator_type = eps, jit_compile, estimator_type
        self.samples: SampleVariance | DensitySamples | None = None

    def fit(
        self,
        X: np.ndarray,
        Y: "np.ndarray | sp.spmatrix | pd.DataFrame | None" = None,
        grouping_vector: np.ndarray | None = None,
        min_cells: int = 2,
        ls_factor: float = 10.0,
        estimator_kwargs: dict[str, object] | None = None,
    ) -> "SampleVarianceEstimator":
        """Fit one function or density to the cells of each sample.

        Parameters
        ----------
        X : float64, shape (n, p)
        Y : numbers, shape (n, G)
            Expression, for functions only.
        grouping_vector : array, shape (n,)
            Sample of each cell.
        min_cells : int
            Smaller samples are left out, with a warning.
        ls_factor : float
            Times the length scale of each sample, where none is given.
        estimator_kwargs : dict, optional
            ``ls`` and ``landmarks``; for functions also ``sigma``, which must be given and above
            0; for densities ``d``, ``d_method``, ``mu`` and ``optimizer``. It is not changed.
        """
        kind = self.estimator_type
        problems = Problems("SampleVarianceEstimator.fit")
        settings = dict(estimator_kwargs or {})
        for name in sorted(settings.keys() - _SETTINGS[kind]):
            mend = (
                f"{nearest(name, _SETTINGS[kind])}choose from {listed(sorted(_SETTINGS[kind]))}."
            )
            problems.add("estimator_kwargs", f"has {name!r}", mend)
        cells = cells_of(X, "X", problems)
        given = settings.get("landmarks")
        features = None if cells is None else cells.shape[1]
        if given is not None:
            given = cells_of(given, "landmarks", problems, features)
        if grouping_vector is None:
            problems.add("grouping_vector", "is missing", "give the sample of each cell.")
        elif cells is not None and np.shape(grouping_vector) != (len(cells),):
            what = f"has shape {np.shape(grouping_vector)} for {len(cells)} cells"
            problems.add("grouping_vector", what, "give one sample per cell.")
        values = None
        if kind == "function":
            if Y is None:
                problems.add("Y", "is missing", "a variance of functions needs the expression.")
            else:
                values = _matrix(Y, "Y", cells, problems)
            if "sigma" not in settings:
                mend = "give estimator_kwargs={'sigma': 1.0}: without noise functions interpolate."
                problems.add("sigma", "is missing", mend)
        problems.report()
        ls = settings.get("ls")
        if kind == "density":
            prior = DensityPrior(
                given,
                settings.get("d"),
                settings.get("d_method", "fractal"),
                settings.get("mu"),
                ls,
                ls_factor,
                settings.get("optimizer", "newton"),
            )
            self.samples = DensitySamples.of(cells, grouping_vector, prior, min_cells)
            return self
        self.samples = SampleVariance.of(
            cells,
            values,
            Samples.of(grouping_vector, len(cells), min_cells),
            ls,
            settings["sigma"],
            given,
            lambda here: length_scale(nearest_distances(here), ls_factor),
        )
        return self

    def predict(self, X_new: np.ndarray, diag: bool = True) -> np.ndarray:
        """Variance over the samples, ``ddof=1``.

        Parameters
        ----------
        X_new : float64, shape (n, p)
        diag : bool
            At each cell; else the covariance of all pairs of cells, which is for a look at a few
            cells and genes: up to 1 GB.

        Returns
        -------
        float64, shape (n, G), or (n, n, G)
            G is 1 for densities.
        """
        if self.samples is None:
            raise RuntimeError(NOT_FITTED)
        problems = Problems("SampleVarianceEstimator.predict")
        points = cells_of(X_new, "X_new", problems)
        problems.report()
        density = self.estimator_type == "density"
        n_genes = 1 if density else self.samples.models[0].n_genes
        n_bytes = 8 * len(points) ** 2 * n_genes
        if not diag and n_bytes > _LARGEST_COVARIANCE:
            raise ValueError(
                f"covariances of {len(points):,} cells for {n_genes:,} genes take "
                f"{n_bytes / 2**30:.1f} GB: give fewer, or use samples.deviations, of which they "
                "are the products"
            )
        if density:
            found = self.samples.variance(points, diag)
            return found.reshape(*(len(points),) * (1 if diag else 2), 1)
        return self.samples.variance(points) if diag else self.samples.covariance(points)


# What estimator_kwargs may hold.
_SETTINGS = {
    "function": {"sigma", "ls", "landmarks"},
    "density": {"ls", "landmarks", "d", "d_method", "mu", "optimizer"},
}


def compute_fdr(
    mahalanobis_distances: "np.ndarray | pd.Series",
    null_mahalanobis_distances: "np.ndarray | pd.Series",
    fdr_threshold: float = 0.05,
) -> "pd.DataFrame":
    """False discovery rates of genes, from Mahalanobis distances of null genes.

    Parameters
    ----------
    mahalanobis_distances : float64, shape (G,)
        A Series gives the result its index.
    null_mahalanobis_distances : float64, shape (n_null,)
    fdr_threshold : float
        Of the local FDR.

    Returns
    -------
    pandas.DataFrame
        ``mahalanobis``, ``pvalue``, ``local_fdr``, ``tail_fdr`` and ``is_de``; all rates 1 for
        fewer than two distances.
    """
    import pandas as pd

    found = local_fdr(mahalanobis_distances, null_mahalanobis_distances, fdr_threshold)
    index = getattr(mahalanobis_distances, "index", None)
    return pd.DataFrame(
        {
            "mahalanobis": np.asarray(mahalanobis_distances, np.float64),
            "pvalue": found.p_values,
            "local_fdr": found.local_fdr,
            "tail_fdr": found.tail_fdr,
            "is_de": found.is_de,
        },
        index=index,
    )


def _variance_of(given: object, key: str, problems: Problems) -> SampleVariance | None:
    """The variance that a user gave, in either of its forms."""
    held = given.samples if isinstance(given, SampleVarianceEstimator) else given
    if given is not None and not isinstance(held, SampleVariance):
        mend = "give a fitted SampleVarianceEstimator of functions."
        problems.add(key, f"is a {type(given).__name__} without functions of samples", mend)
        return None
    return held


def _has_names(values: object) -> bool:
    """Whether values are a data frame."""
    return hasattr(values, "columns") and hasattr(values, "to_numpy")


def _matrix(
    values: object, key: str, cells: np.ndarray | None, problems: Problems
) -> "np.ndarray | sp.spmatrix | None":
    """Expression of cells, dense or sparse by rows; None where it is something else."""
    if sp.issparse(values):
        matrix = values.tocsr()
    else:
        matrix = values.to_numpy() if _has_names(values) else np.asarray(values)
    if matrix.ndim != 2 or 0 in matrix.shape:
        what = f"has shape {matrix.shape}"
        problems.add(key, what, "give cells by genes; one gene is a single column.")
        return None
    if matrix.dtype.kind not in "fiub":
        problems.add(key, f"holds {matrix.dtype}", "give real numbers.")
        return None
    if cells is not None and len(cells) != matrix.shape[0]:
        what = f"has {matrix.shape[0]} cells, their states {len(cells)}"
        problems.add(key, what, "give both for the same cells.")
    return matrix


def _expression(
    first: object,
    second: object,
    cells: tuple[np.ndarray | None, np.ndarray | None],
    problems: Problems,
) -> tuple[tuple[np.ndarray, np.ndarray], "pd.Index | None"]:
    """Expression of both conditions, and the names of their genes."""
    y1 = _matrix(first, "y_condition1", cells[0], problems)
    y2 = _matrix(second, "y_condition2", cells[1], problems)
    if y1 is not None and y2 is not None and y1.shape[1] != y2.shape[1]:
        what = f"has {y2.shape[1]} genes, y_condition1 {y1.shape[1]}"
        problems.add("y_condition2", what, "give the same genes in the same order.")
    names = [given.columns if _has_names(given) else None for given in (first, second)]
    if names[0] is not None and names[1] is not None and not names[0].equals(names[1]):
        what = "names other genes than y_condition1, or in another order"
        problems.add("y_condition2", what, "give y_condition2[y_condition1.columns].")
    named = names[0] if names[0] is not None else names[1]
    return (y1, y2), named


def _samples(
    labels: tuple[object, object],
    cells: tuple[np.ndarray | None, np.ndarray | None],
    min_cells: int,
    may_borrow: bool,
    problems: Problems,
) -> tuple[Samples | None, Samples | None]:
    """Samples of each condition; one that has too few of them may borrow the other's variance."""
    found = []
    for i, (given, x) in enumerate(zip(labels, cells, strict=True), 1):
        values = samples_of(given, f"condition{i}_sample_indices", x, problems)
        found.append(None if values is None else Samples.of(values, len(x), min_cells))
    short = [i for i, groups in enumerate(found, 1) if groups is not None and not groups.enough]
    can_borrow = any(groups is not None and groups.enough for groups in found)
    for i in short:
        if may_borrow and can_borrow:
            log.warning("condition %d has one sample: the other's variance is used for it", i)
            continue
        mend = "give more samples, or use_sample_variance=False"
        if can_borrow:
            mend += ", or allow_single_condition_variance=True to use the other's variance"
        what = f"has fewer than 2 samples of {min_cells} cells or more"
        problems.add(f"condition{i}_sample_indices", what, f"{mend}.")
    return found[0], found[1]
