"""Differential abundance of cell states, under the names of the Python package kompot."""

import logging

import numpy as np

from condrand.api.cell_states import NO_SAMPLES, NOT_FITTED, cells_of, check_numbers, samples_of
from condrand.errors import Problems
from condrand.gp.abundance import Abundance
from condrand.gp.density import Density, DensityPrior
from condrand.gp.density_samples import DensitySamples
from condrand.gp.neighbours import landmarks as clustered

log = logging.getLogger(__name__)

# kompot's own name of its optimizer.
_OPTIMIZERS = {"newton": "newton", "lbfgs": "lbfgs", "L-BFGS-B": "lbfgs"}


class DifferentialAbundance:
    """Where in a space of cell states cells become more or fewer between two conditions.

    Parameters
    ----------
    log_fold_change_threshold : float
        Natural log fold change beyond which a change has a direction.
    ptp_threshold : float
        Posterior tail probability below which a change has a direction.
    n_landmarks : int, optional
        Landmarks made by k-means of the cells of both conditions; 2 or more. Without them (None
        or 0) every cell of a condition is one, up to 5,000 cells.
    use_sample_variance : bool, optional
        Whether differences between samples add to the uncertainty; where samples are given, if
        not said.
    eps : float
        Added to the variance of a fold change.
    jit_compile : bool
        Has no effect; kompot has it.
    density_predictor1, density_predictor2 : Density, optional
        Densities already learned: then :meth:`fit` need not be called.
    variance_predictor1, variance_predictor2 : DensitySamples, optional
        Densities of samples already learned. They are used unless :meth:`fit` is given samples.
    random_state : int, optional
        Seed of the landmarks; 0 if not given, so that two calls give the same.
    batch_size : int, optional
        Points that are predicted at a time; 2,048 if not given. The numbers do not depend on it
        beyond rounding.
    ptp_sides : {1, 2}
        ``Phi(-|z|)``, as kompot 0.8 gives it, or twice that, as kompot did up to 0.7.

    Attributes
    ----------
    density_predictor1, density_predictor2 : Density
        After :meth:`fit`; and ``variance_predictor1``, ``variance_predictor2``.
    landmarks : float64, shape (m, p), or None
        As used by the fit.
    log_density_condition1, log_density_condition2, log_fold_change : float64, shape (n,)
        After :meth:`predict`, as all that it returns.
    log_fold_change_uncertainty, log_fold_change_zscore : float64, shape (n,)
    neg_log10_fold_change_ptp : float64, shape (n,)
    log_fold_change_direction : object, shape (n,)
    """

    def __init__(
        self,
        log_fold_change_threshold: float = 1.0,
        ptp_threshold: float = 0.05,
        n_landmarks: int | None = None,
        use_sample_variance: bool | None = None,
        eps: float = 1e-12,
        jit_compile: bool = False,
        density_predictor1: Density | None = None,
        density_predictor2: Density | None = None,
        variance_predictor1: DensitySamples | None = None,
        variance_predictor2: DensitySamples | None = None,
        random_state: int | None = None,
        batch_size: int | None = None,
        *,
        ptp_sides: int = 1,
    ) -> None:
        problems = Problems("DifferentialAbundance")
        for key, given, kind in (
            ("density_predictor1", density_predictor1, Density),
            ("density_predictor2", density_predictor2, Density),
            ("variance_predictor1", variance_predictor1, DensitySamples),
            ("variance_predictor2", variance_predictor2, DensitySamples),
        ):
            if given is not None and not isinstance(given, kind):
                mend = f"give the {key} of a fitted DifferentialAbundance, a {kind.__name__}."
                problems.add(key, f"is a {type(given).__name__}", mend)
        check_numbers(n_landmarks, batch_size, problems)
        problems.report()
        self.log_fold_change_threshold = log_fold_change_threshold
        self.ptp_threshold = ptp_threshold
        self.n_landmarks = n_landmarks
        self.use_sample_variance = use_sample_variance
        self.eps = eps
        self.jit_compile = jit_compile
        self.density_predictor1 = density_predictor1
        self.density_predictor2 = density_predictor2
        self.variance_predictor1 = variance_predictor1
        self.variance_predictor2 = variance_predictor2
        self._given_variances = variance_predictor1, variance_predictor2
        self.random_state = random_state
        self.batch_size = batch_size
        self.ptp_sides = ptp_sides
        self.landmarks: np.ndarray | None = None
        self.log_density_condition1: np.ndarray | None = None
        self.log_density_condition2: np.ndarray | None = None
        self.log_fold_change: np.ndarray | None = None
        self.log_fold_change_uncertainty: np.ndarray | None = None
        self.log_fold_change_zscore: np.ndarray | None = None
        self.neg_log10_fold_change_ptp: np.ndarray | None = None
        self.log_fold_change_direction: np.ndarray | None = None

    def fit(
        self,
        X_condition1: np.ndarray,
        X_condition2: np.ndarray,
        landmarks: np.ndarray | None = None,
        ls: float | None = None,
        ls_factor: float = 10.0,
        sync_parameters: bool = False,
        condition1_sample_indices: np.ndarray | None = None,
        condition2_sample_indices: np.ndarray | None = None,
        sample_estimator_ls: float | None = None,
        allow_single_condition_variance: bool = False,
        *,
        min_cells: int = 2,
        d: float | None = None,
        d_method: str = "fractal",
        mu: float | None = None,
        optimizer: str = "newton",
    ) -> "DifferentialAbundance":
        """Learn the density of the cells of each condition.

        Parameters
        ----------
        X_condition1, X_condition2 : float64, shapes (n1, p) and (n2, p)
            Cell states, such as diffusion components.
        landmarks : float64, shape (m, p), optional
            Instead of `n_landmarks` made here.
        ls : float, optional
            Length scale; from the distances to nearest cells if not given.
        ls_factor : float
            Times that length scale; not times one given.
        sync_parameters : bool
            Dimension, prior mean and length scale are those of all cells together, for both
            conditions and all samples. Recommended: by default, as in kompot, each decides by its
            own cells, and what it decides differently shows as a change.
        condition1_sample_indices, condition2_sample_indices : array, shapes (n1,) and (n2,)
            Sample of each cell, optional.
        sample_estimator_ls : float, optional
            Length scale of the densities of samples; as above if not given.
        allow_single_condition_variance : bool
            A condition of one sample takes the variance of the other, instead of an error.
        min_cells : int
            Smaller samples are left out, with a warning. Without `sync_parameters` or `d`, one of
            fewer than 10 cells is an error: it cannot tell its dimension.
        d : float, optional
            Dimension of the space of the cells.
        d_method : {"fractal", "embedding"}
            How d is found if not given; "embedding" is the number p.
        mu : float, optional
            Prior mean of the log densities.
        optimizer : {"newton", "lbfgs"}
            The second stops where kompot does, about 1e-4 of log density from the maximum.

        Returns
        -------
        DifferentialAbundance
            Itself.

        Raises
        ------
        ValueError
            For input that cannot be used, with every fault of it.
        """
        problems = Problems("DifferentialAbundance.fit")
        first = cells_of(X_condition1, "X_condition1", problems)
        like = None if first is None else first.shape[1], "X_condition1"
        second = cells_of(X_condition2, "X_condition2", problems, *like)
        if landmarks is not None:
            landmarks = cells_of(landmarks, "landmarks", problems, *like)
        if optimizer not in _OPTIMIZERS:
            what = f"is {optimizer!r}"
            problems.add("optimizer", what, "it is 'newton', or 'lbfgs' for kompot's numbers.")
        samples = self._samples(
            (condition1_sample_indices, condition2_sample_indices), (first, second), problems
        )
        problems.report()

        if landmarks is None and self.n_landmarks:
            seed = 0 if self.random_state is None else self.random_state
            landmarks = clustered(np.vstack([first, second]), self.n_landmarks, seed)
        if _any(samples) and not sync_parameters and d is None:
            log.warning(
                "each sample tells its own dimension, and differences between these count as "
                "sample variance: sync_parameters=True avoids it"
            )
        prior = DensityPrior(landmarks, d, d_method, mu, ls, ls_factor, _OPTIMIZERS[optimizer])
        found = Abundance.of(
            (first, second),
            prior,
            samples,
            synchronize=sync_parameters,
            sample_ls=sample_estimator_ls,
            min_cells=min_cells,
            share_variance=allow_single_condition_variance,
        )
        self.landmarks = landmarks
        self.density_predictor1, self.density_predictor2 = found.densities
        # Samples of an earlier fit are no part of this one.
        self.variance_predictor1, self.variance_predictor2 = (
            found.samples if _any(samples) else self._given_variances
        )
        return self

    def predict(
        self,
        X_new: np.ndarray,
        log_fold_change_threshold: float | None = None,
        ptp_threshold: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Change of density at cell states.

        Parameters
        ----------
        X_new : float64, shape (n, p)
        log_fold_change_threshold, ptp_threshold : float, optional
            Instead of those given at first.

        Returns
        -------
        dict of arrays, shape (n,)
            ``log_density_condition1``, ``log_density_condition2`` (natural log, each normalized
            by its cells), ``log_fold_change``, ``log_fold_change_uncertainty`` (a variance),
            ``log_fold_change_zscore``, ``neg_log10_fold_change_ptp`` and
            ``log_fold_change_direction`` ("up", "down" or "neutral"). They are attributes too.

        Raises
        ------
        ValueError
            Before :meth:`fit`, and for states that do not fit it.
        """
        if self.density_predictor1 is None or self.density_predictor2 is None:
            raise ValueError(NOT_FITTED)
        samples = (None, None)
        if self.use_sample_variance is not False:
            samples = (self.variance_predictor1, self.variance_predictor2)
        if self.use_sample_variance and not _any(samples):
            raise ValueError(NO_SAMPLES)
        problems = Problems("DifferentialAbundance.predict")
        points = cells_of(X_new, "X_new", problems)
        problems.report()
        threshold = log_fold_change_threshold
        change = Abundance((self.density_predictor1, self.density_predictor2), samples).predict(
            points,
            threshold=self.log_fold_change_threshold if threshold is None else threshold,
            ptp_threshold=self.ptp_threshold if ptp_threshold is None else ptp_threshold,
            ptp_sides=self.ptp_sides,
            eps=self.eps,
            batch_size=self.batch_size,
        )
        found = {
            "log_density_condition1": change.log_density1,
            "log_density_condition2": change.log_density2,
            "log_fold_change": change.log_fold_change,
            "log_fold_change_uncertainty": change.uncertainty,
            "log_fold_change_zscore": change.z,
            "neg_log10_fold_change_ptp": change.neg_log10_ptp,
            "log_fold_change_direction": change.direction,
        }
        for name, values in found.items():
            setattr(self, name, values)
        return found

    def _samples(
        self,
        given: tuple[object, object],
        cells: tuple[np.ndarray | None, np.ndarray | None],
        problems: Problems,
    ) -> tuple[np.ndarray | None, np.ndarray | None]:
        """Samples of the cells of each condition, where they are to count."""
        if self.use_sample_variance is False:
            return None, None
        if self.use_sample_variance and not _any(given) and not _any(self._given_variances):
            problems.add("use_sample_variance", "is True without samples", NO_SAMPLES)
        first, second = (
            samples_of(labels, f"condition{i}_sample_indices", x, problems)
            for i, (labels, x) in enumerate(zip(given, cells, strict=True), 1)
        )
        return first, second


def _any(pair: tuple[object, object]) -> bool:
    return pair[0] is not None or pair[1] is not None
