"""Differential abundance: change of the log density of cells between two conditions."""

import logging
import math
from dataclasses import dataclass, replace

import numpy as np
from scipy.special import log_ndtr

from condrand.gp.density import Density, DensityPrior, with_variances
from condrand.gp.density_samples import DensitySamples, TooFewSamples

log = logging.getLogger(__name__)

_LN_10 = math.log(10.0)


@dataclass(frozen=True)
class Change:
    """How log density changes from condition 1 to condition 2, at n points.

    Attributes
    ----------
    log_density1, log_density2 : float64, shape (n,)
        Each normalized by its cells.
    log_fold_change : float64, shape (n,)
        Natural log.
    uncertainty : float64, shape (n,)
        Variance of the log fold change.
    z : float64, shape (n,)
        ``log_fold_change / sqrt(uncertainty + eps)``.
    neg_log10_ptp : float64, shape (n,)
        ``-log10`` of the posterior tail probability: that the change has the other sign.
    direction : object, shape (n,)
        "up", "down" or "neutral".
    """

    log_density1: np.ndarray
    log_density2: np.ndarray
    log_fold_change: np.ndarray
    uncertainty: np.ndarray
    z: np.ndarray
    neg_log10_ptp: np.ndarray
    direction: np.ndarray


@dataclass(frozen=True)
class Abundance:
    """Densities of two conditions, and of their samples where these are to count.

    Attributes
    ----------
    densities : tuple of Density
        Of condition 1 and condition 2.
    samples : tuple of DensitySamples or None
        Of condition 1 and condition 2; a condition without samples adds no variance.
    """

    densities: tuple[Density, Density]
    samples: tuple[DensitySamples | None, DensitySamples | None] = (None, None)

    @classmethod
    def of(
        cls,
        cells: tuple[np.ndarray, np.ndarray],
        prior: DensityPrior,
        samples: tuple[np.ndarray | None, np.ndarray | None] = (None, None),
        *,
        synchronize: bool = False,
        sample_ls: float | None = None,
        min_cells: int = 2,
        share_variance: bool = False,
    ) -> "Abundance":
        """Learn the densities.

        Parameters
        ----------
        cells : pair of float64, shape (n1, p) and (n2, p)
        prior : DensityPrior
        samples : pair of arrays, shape (n1,) and (n2,), optional
            Sample of each cell.
        synchronize : bool
            What the prior leaves open is decided by the cells of both conditions together, for
            all densities. Otherwise each decides for itself, and what they decide differently
            shows as a change of density.
        sample_ls : float, optional
            Length scale of the samples; that of the prior if not given.
        min_cells : int
            As in :meth:`DensitySamples.of`.
        share_variance : bool
            A condition of a single sample takes the variance of the other, instead of an error.

        Returns
        -------
        Abundance

        Raises
        ------
        TooFewSamples
            If a condition has too few samples and may not take the other's variance, or neither
            has enough.
        """
        if synchronize:
            prior = prior.synchronized(np.vstack(cells))
        of_samples = prior if sample_ls in (None, prior.ls) else replace(prior, ls=sample_ls)
        return cls(
            (prior.fit(cells[0]), prior.fit(cells[1])),
            _samples(cells, samples, of_samples, min_cells, share_variance),
        )

    def predict(
        self,
        points: np.ndarray,
        *,
        threshold: float = 1.0,
        ptp_threshold: float = 0.05,
        ptp_sides: int = 1,
        eps: float = 1e-12,
        batch_size: int | None = None,
    ) -> Change:
        """Change at points.

        Parameters
        ----------
        points : float64, shape (n, p)
        threshold, ptp_threshold, ptp_sides, eps
            As in :func:`change`.
        batch_size : int, optional
            Points at a time; as many as fit in 32 MB for each landmark if not given.

        Returns
        -------
        Change

        Notes
        -----
        Definition: the uncertainty is the sum of both densities', and of the variances over the
        samples of each condition.
        """
        groups = [s.densities if s is not None else () for s in self.samples]
        log_density, variance, of_samples = with_variances(
            self.densities, points, batch_size=batch_size, others=[*groups[0], *groups[1]]
        )
        uncertainty = variance.sum(axis=0)
        for rows in np.split(of_samples, [len(groups[0])]):
            if len(rows):
                uncertainty += rows.var(axis=0, ddof=1)
        return change(
            *log_density,
            uncertainty,
            threshold=threshold,
            ptp_threshold=ptp_threshold,
            ptp_sides=ptp_sides,
            eps=eps,
        )


def _samples(
    cells: tuple[np.ndarray, np.ndarray],
    samples: tuple[np.ndarray | None, np.ndarray | None],
    prior: DensityPrior,
    min_cells: int,
    share_variance: bool,
) -> tuple[DensitySamples | None, DensitySamples | None]:
    """Densities of the samples of each condition."""
    found: list[DensitySamples | None] = [None, None]
    single: list[int] = []
    for i, (x, given) in enumerate(zip(cells, samples, strict=True)):
        if given is None:
            continue
        try:
            found[i] = DensitySamples.of(x, given, prior, min_cells)
        except TooFewSamples as error:
            if not share_variance:
                raise TooFewSamples(
                    f"condition {i + 1}: {error}; or let it take the variance of the other "
                    "condition (allow_single_condition_variance=True)"
                ) from error
            single.append(i)
    for i in single:
        if found[1 - i] is None:
            raise TooFewSamples(
                "neither condition has 2 samples of enough cells: there is no sample variance"
            )
        log.warning("condition %d has too few samples: it takes the other's variance", i + 1)
        found[i] = found[1 - i]
    return found[0], found[1]


def change(
    log_density1: np.ndarray,
    log_density2: np.ndarray,
    uncertainty: np.ndarray,
    *,
    threshold: float = 1.0,
    ptp_threshold: float = 0.05,
    ptp_sides: int = 1,
    eps: float = 1e-12,
) -> Change:
    """Change from log densities and its variance.

    Parameters
    ----------
    log_density1, log_density2, uncertainty : float64, shape (n,)
        The last is the variance of the difference.
    threshold : float
        Natural log fold change beyond which a change has a direction.
    ptp_threshold : float
        Posterior tail probability below which a change has a direction.
    ptp_sides : {1, 2}
        ``Phi(-|z|)``, as kompot 0.8 gives it, or twice that, as kompot did up to 0.7.
    eps : float
        Added to the variance.

    Returns
    -------
    Change

    Raises
    ------
    ValueError
        If an option is out of its range, or a number not finite.
    """
    if not (math.isfinite(threshold) and threshold >= 0.0):
        raise ValueError(f"log_fold_change_threshold is 0 or more, not {threshold}")
    if not 0.0 < ptp_threshold <= 1.0:
        raise ValueError(f"ptp_threshold is a probability above 0, not {ptp_threshold}")
    if ptp_sides not in (1, 2):
        raise ValueError(f"ptp_sides is 1 or 2, not {ptp_sides}")
    if not (math.isfinite(eps) and eps >= 0.0):
        raise ValueError(f"eps is 0 or more, not {eps}")
    lfc = log_density2 - log_density1
    if not (np.isfinite(lfc).all() and np.isfinite(uncertainty).all()):
        raise ValueError("a log density or its uncertainty is missing or infinite")
    spread = uncertainty + eps
    if not (spread > 0.0).all():
        raise ValueError("an uncertainty plus eps is not positive: give an eps above 0")
    z = lfc / np.sqrt(spread)
    nlp = -(log_ndtr(-np.abs(z)) + math.log(ptp_sides)) / _LN_10
    sure = (np.abs(lfc) > threshold) & (nlp > -math.log10(ptp_threshold))
    direction = np.full(lfc.shape, "neutral", object)
    direction[sure & (lfc > 0.0)] = "up"
    direction[sure & (lfc < 0.0)] = "down"
    return Change(log_density1, log_density2, lfc, uncertainty, z, nlp, direction)
