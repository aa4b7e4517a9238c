"""Local and tail false discovery rates of distances, from distances of null genes."""

import math
from dataclasses import dataclass

import numpy as np
from scipy.optimize import isotonic_regression

# The distances at which densities are estimated: fine against the width of a kernel, which is
# a tenth of their spread or more for up to 100,000 genes.
_GRID = 500
# Beyond the largest distance, so that its own kernel is not cut at its peak.
_BEYOND = 1.05
# Where the density is a smaller share of its peak, a ratio says nothing.
_NO_DENSITY = 1e-10
# Values of the kernel held at once.
_AT_ONCE = 1 << 20


@dataclass(frozen=True)
class LocalFdr:
    """False discovery rates of G genes.

    Attributes
    ----------
    p_values : float64, shape (G,)
        Share of the null distances that are as large; where none is, the smallest share above 0.
    local_fdr : float64, shape (G,)
        Probability that a gene at this distance is null.
    tail_fdr : float64, shape (G,)
        Share of null genes among those at this distance or farther.
    is_de : bool, shape (G,)
        ``local_fdr`` below the threshold.
    """

    p_values: np.ndarray
    local_fdr: np.ndarray
    tail_fdr: np.ndarray
    is_de: np.ndarray


def local_fdr(distances: np.ndarray, null: np.ndarray, threshold: float = 0.05) -> LocalFdr:
    """False discovery rates of distances.

    Parameters
    ----------
    distances : float64, shape (G,)
        Not negative.
    null : float64, shape (n_null,)
        Distances of genes without an effect.
    threshold : float

    Returns
    -------
    LocalFdr
        All 1 for fewer than two distances on either side.

    Raises
    ------
    ValueError
        For a missing, infinite or negative distance, or a threshold that is no probability.

    Notes
    -----
    Definition: with f and f0 the densities of distances and null distances,
    ``local(d) = f0(d) / f(d)`` and ``tail(d) = int_d f0 / int_d f``, made decreasing in d. The
    share of null genes is taken to be 1, so both are upper bounds. A density is that of the
    distances and their mirror image (Gaussian kernel, width by Scott's rule, of both), made
    decreasing.
    Source: Efron 2008, "Microarrays, empirical Bayes and the two-groups model", sections 2 and 3;
    Barlow 1972 for the decreasing regression.
    """
    distances = _checked(distances, "distances")
    null = _checked(null, "null distances")
    if not 0.0 < threshold < 1.0:
        raise ValueError(f"the threshold of the local FDR is a probability, not {threshold}")
    n = distances.size
    if min(n, null.size) < 2:
        return LocalFdr(np.ones(n), np.ones(n), np.ones(n), np.zeros(n, bool))
    # As a share of the null distances: ties count as larger.
    larger = null.size - np.searchsorted(np.sort(null), distances, side="left")
    p_values = larger / null.size
    above = p_values[p_values > 0.0]
    p_values[p_values == 0.0] = above.min() if above.size else 1.0 / null.size

    farthest = max(distances.max(), null.max())
    grid = np.linspace(0.0, farthest * _BEYOND, _GRID)
    f, f0 = _decreasing_density(distances, grid), _decreasing_density(null, grid)
    known = f > f.max() * _NO_DENSITY
    local = np.ones(_GRID)
    local[known] = np.clip(f0[known] / f[known], 0.0, 1.0)
    # Sums over the even grid stand for the integrals.
    tail_f, tail_f0 = (np.cumsum(density[::-1])[::-1] for density in (f, f0))
    known = tail_f > tail_f[0] * _NO_DENSITY
    tail = np.ones(_GRID)
    tail[known] = np.clip(tail_f0[known] / tail_f[known], 0.0, 1.0)
    at = [np.interp(distances, grid, _decreasing(rate)) for rate in (local, tail)]
    return LocalFdr(p_values, at[0], at[1], at[0] < threshold)


def _checked(distances: np.ndarray, name: str) -> np.ndarray:
    """Distances as float64, shape (n,); ValueError unless finite and not negative."""
    distances = np.asarray(distances, np.float64).ravel()
    bad = ~(np.isfinite(distances) & (distances >= 0.0))
    if bad.any():
        raise ValueError(
            f"{np.count_nonzero(bad)} of {distances.size} {name} are missing, infinite or "
            "negative: leave these genes out"
        )
    return distances


def _decreasing(values: np.ndarray) -> np.ndarray:
    """The decreasing sequence nearest to the values."""
    return isotonic_regression(values, increasing=False).x


def _decreasing_density(values: np.ndarray, grid: np.ndarray) -> np.ndarray:
    """Density of values that are not negative, decreasing, of integral 1 over the grid."""
    both = np.concatenate([values, -values])
    width = both.std(ddof=1) * both.size**-0.2
    if width <= 0.0:
        raise ValueError("all distances are 0: no gene differs, or the model was not fitted")
    density = np.empty(grid.size)
    step = max(1, _AT_ONCE // both.size)
    for start in range(0, grid.size, step):
        away = grid[start : start + step, None] - both
        away /= width
        np.square(away, out=away)
        away *= -0.5
        density[start : start + step] = np.exp(away, out=away).sum(axis=1)
    density *= 2.0 / (both.size * width * math.sqrt(2.0 * math.pi))
    density = _decreasing(density)
    return density / np.trapezoid(density, grid)
