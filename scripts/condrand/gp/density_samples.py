"""Variance of the log density over the samples of a condition: one density for each sample."""

from dataclasses import dataclass

import numpy as np

from condrand.errors import listed
from condrand.gp.density import Density, DensityPrior, log_densities
from condrand.gp.sample_variance import Samples

# A fractal dimension of fewer cells is noise: of 2 cells it is 0, of 5 cells on a plane 1.5.
FEWEST_FOR_DIMENSION = 10


class TooFewSamples(ValueError):
    """One sample has no variance."""


@dataclass(frozen=True)
class DensitySamples:
    """Densities of the samples of one condition.

    Attributes
    ----------
    names : list
        Samples with enough cells, ascending.
    densities : tuple of Density
        One for each of them.
    """

    names: list
    densities: tuple[Density, ...]

    @classmethod
    def of(
        cls,
        cells: np.ndarray,
        samples: np.ndarray,
        prior: DensityPrior,
        min_cells: int = 2,
    ) -> "DensitySamples":
        """Learn a density of the cells of each sample.

        Parameters
        ----------
        cells : float64, shape (n, p)
        samples : array, shape (n,)
            Sample of each cell; none missing.
        prior : DensityPrior
            What the densities have in common; what it leaves open, each sample decides by its
            own cells.
        min_cells : int
            Smaller samples are left out, with a warning.

        Returns
        -------
        DensitySamples

        Raises
        ------
        TooFewSamples
            If fewer than 2 samples are left.
        ValueError
            If one of fewer than 10 cells would have to tell its own dimension.
        """
        groups = Samples.of(samples, len(cells), min_cells)
        if not groups.enough:
            raise TooFewSamples(
                f"At least 2 groups of {min_cells} cells or more make a variance, there are "
                f"{len(groups.names)}: give more samples, or do without sample variance"
            )
        tiny = [
            name
            for name, of_name in zip(groups.names, groups.cells, strict=True)
            if of_name.size < FEWEST_FOR_DIMENSION
        ]
        if tiny and prior.d is None and prior.d_method == "fractal":
            raise ValueError(
                f"samples of fewer than {FEWEST_FOR_DIMENSION} cells cannot tell the dimension "
                f"of their space ({listed(tiny)}): set sync_parameters=True, give d, or raise "
                "min_cells"
            )
        return cls(groups.names, tuple(prior.fit(cells[of_name]) for of_name in groups.cells))

    def log_densities(self, points: np.ndarray) -> np.ndarray:
        """Normalized log densities at points. float64, shape (n_samples, n_points)."""
        return log_densities(self.densities, points)

    def variance(self, points: np.ndarray, diag: bool = True) -> np.ndarray:
        """Variance over the samples, of one less than their number.

        Parameters
        ----------
        points : float64, shape (n_points, p)
        diag : bool
            Of each point; or the covariance of all pairs of points.

        Returns
        -------
        float64, shape (n_points, 1), or (n_points, n_points, 1)
        """
        found = self.log_densities(points)
        if diag:
            return found.var(axis=0, ddof=1)[:, None]
        away = found - found.mean(axis=0)
        return (away.T @ away)[:, :, None] / (len(found) - 1)
