"""Distribution of the values of every sample, as smooth curves on one grid."""

from dataclasses import dataclass

import numpy as np

# Bins per bandwidth. Sharing a value between two bins is off by (1/50)^2 / 8 of the second
# derivative of a kernel.
_BINS = 50
# Bandwidths beyond the ends: at eight of them a kernel has fallen to 1e-14.
_PAD = 8.0
# A bandwidth this small against the range would need more bins than the sum has terms.
_NARROW = 1e-5


@dataclass(frozen=True)
class Densities:
    """Curves of n samples.

    Attributes
    ----------
    grid : float64, shape (n_points,)
        From the smallest to the largest value of all samples.
    density : float64, shape (n, n_points)
        One curve per sample, per unit of the values. NaN for a sample without spread.
    bandwidth : float64, shape (n,)
        Standard deviation of the kernel.
    """

    grid: np.ndarray
    density: np.ndarray
    bandwidth: np.ndarray


def sample_densities(values: np.ndarray, n_points: int = 200) -> Densities:
    """Gaussian kernel density of every sample, on one grid.

    Parameters
    ----------
    values : numbers, shape (G, n)
        Finite; such as log counts per million.
    n_points : int
        Points of the grid, at least 2.

    Raises
    ------
    ValueError
        For no values, or one that is missing or infinite.

    Notes
    -----
    Definition: ``f_i(x) = mean_g phi((x - y_gi)/h_i) / h_i``, phi the standard normal density and
    ``h_i = G**(-1/5) * sd_i`` with the sample standard deviation (ddof 1).
    Tolerance: each value is shared between two bins of at most ``h_i/50``, and the bins are
    smoothed by a Fourier transform. The curve is off by at most ``2e-5 / h_i``, less than a
    thousandth of what can be seen.
    Cost: one pass over the values, and a transform whose length does not depend on G.
    Source: Scott 1992 (rule of the bandwidth); Silverman 1982 (transform of bins).
    """
    values = np.asarray(values, np.float64)
    if values.ndim != 2 or not values.size:
        raise ValueError(f"values must be features by samples, not {values.shape}")
    if n_points < 2:
        raise ValueError(f"a grid of {n_points} points, expected at least 2")
    low, high = values.min(), values.max()
    if not np.isfinite(high - low):
        raise ValueError("a value is missing or infinite")
    g, n = values.shape
    bandwidth = np.full(n, np.nan) if g < 2 else g ** (-0.2) * values.std(axis=0, ddof=1)
    grid = np.linspace(low, high, n_points)
    density = np.full((n, n_points), np.nan)
    # The spread that rounding gives to equal values is none.
    least = 1e-12 * max(abs(low), abs(high))
    for i, h in enumerate(bandwidth):
        if h > least:
            curve = _binned if h > _NARROW * (high - low) else _summed
            density[i] = curve(values[:, i], grid, h)
    return Densities(grid, density, bandwidth)


def _binned(y: np.ndarray, grid: np.ndarray, h: float) -> np.ndarray:
    """Density on a grid by linear binning and a Fourier transform."""
    span = grid[-1] - grid[0]
    # Every point of the grid is a bin.
    per_point = int(np.ceil(span / (grid.size - 1) * _BINS / h))
    n_bins = per_point * (grid.size - 1) + 1
    step = span / (n_bins - 1)
    place = (y - grid[0]) / step
    left = np.minimum(place.astype(np.int64), n_bins - 2)
    share = place - left
    length = 1 << int(np.ceil(np.log2(n_bins + _PAD * h / step)))
    mass = np.bincount(left, 1.0 - share, length) + np.bincount(left + 1, share, length)
    frequency = 2.0 * np.pi * np.fft.rfftfreq(length, step)
    smooth = np.fft.irfft(np.fft.rfft(mass) * np.exp(-((h * frequency) ** 2) / 2.0), length)
    # Rounding of the transform leaves tiny negative values where there is nothing.
    return np.maximum(smooth[:n_bins:per_point], 0.0) / (y.size * step)


def _summed(y: np.ndarray, grid: np.ndarray, h: float) -> np.ndarray:
    """Density on a grid by its definition, point by point."""
    kernel = [np.exp(-(((x - y) / h) ** 2) / 2.0).mean() for x in grid]
    return np.array(kernel) / (h * np.sqrt(2.0 * np.pi))
