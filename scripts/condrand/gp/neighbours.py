"""Nearest neighbours of cells, the length scale they suggest, and landmarks among the cells."""

import logging
import math

import numpy as np
from scipy.cluster.vq import vq
from scipy.spatial import KDTree

from condrand.gp.covariance import checked_points

log = logging.getLogger(__name__)

# Between neighbouring cells a covariance should hardly change: exp(3) times their distance.
_LOG_LENGTHS = 3.0
# Lloyd's steps; the landmarks need cover the cells, not be optimal.
_STEPS = 30
# Lloyd's algorithm ends where the centres move less than this share of the variance of the cells.
_MOVED = 1e-4


def nearest_distances(x: np.ndarray) -> np.ndarray:
    """Euclidean distance of each cell from the nearest other cell; exact.

    Parameters
    ----------
    x : float64, shape (n, p)
        Two cells or more.

    Returns
    -------
    float64, shape (n,)
        0 for a cell that occurs twice: see :func:`validate_nn`.
    """
    x = checked_points(x)
    if len(x) < 2:
        raise ValueError("one cell has no neighbour: give two cells or more")
    found, _ = KDTree(x).query(x, k=2)
    return np.ascontiguousarray(found[:, 1])


def validate_nn(nn: np.ndarray) -> np.ndarray:
    """Distances whose useless values, not finite or not above 0, are the smallest useful one.

    Parameters
    ----------
    nn : floating, shape (n,)
        float32 stays float32.

    Returns
    -------
    floating, shape (n,)
        The array given where nothing is to mend.

    Raises
    ------
    ValueError
        If no distance is useful.
    """
    nn = np.asarray(nn)
    useful = np.isfinite(nn) & (nn > 0)
    if useful.all():
        return nn
    if not useful.any():
        raise ValueError(
            "no cell has a neighbour at a finite distance above 0: all cells lie on one point; "
            "give the length scale, or other coordinates"
        )
    smallest = nn[useful].min()
    log.warning(
        "%d of %d cells have the same coordinates as another (or none); their distance is taken "
        "to be %g, the smallest one above 0",
        np.count_nonzero(~useful),
        nn.size,
        smallest,
    )
    return np.where(useful, nn, smallest)


def length_scale(nn: np.ndarray, factor: float = 10.0) -> float:
    """``exp(mean(log nn) + 3) * factor``.

    Parameters
    ----------
    nn : floating, shape (n,)
        Distances of nearest neighbours, mended by :func:`validate_nn` here. Those of type float32
        are handled as float32, as the reference implementation does.
    factor : float
        Above 0.
    """
    if not (math.isfinite(factor) and factor > 0.0):
        raise ValueError(f"the factor of the length scale is a number above 0, not {factor}")
    nn = validate_nn(nn)
    return float(np.exp(np.log(nn).mean() + nn.dtype.type(_LOG_LENGTHS)) * nn.dtype.type(factor))


def landmarks(x: np.ndarray, n_landmarks: int, seed: int = 0) -> np.ndarray:
    """Centres of k-means clusters; all cells where there are no more of them than landmarks.

    Parameters
    ----------
    x : float64, shape (n, p)
    n_landmarks : int
        Two or more.
    seed : int
        Of numpy's default generator, which draws the first centres.

    Returns
    -------
    float64[:, ::1], shape (m, p)
        m may be smaller where cells coincide.

    Notes
    -----
    Definition: first centres by k-means++ (Arthur & Vassilvitskii 2007), then Lloyd's algorithm.
    A centre that loses all its cells stays where it was.
    Cost: ``n m p`` a step. scipy's own k-means++ compares each new centre with all before it.
    """
    x = checked_points(x)
    if n_landmarks < 2:
        raise ValueError(f"{n_landmarks} landmarks: give 2 or more, or none for a full process")
    if n_landmarks >= len(x):
        return x
    centres = _first_centres(x, n_landmarks, np.random.default_rng(seed))
    enough = _MOVED * x.var(axis=0).mean()
    for _ in range(_STEPS):
        nearest, _ = vq(x, centres, check_finite=False)
        n_cells = np.bincount(nearest, minlength=len(centres))
        sums = [np.bincount(nearest, column, len(centres)) for column in x.T]
        means = np.column_stack(sums) / np.maximum(n_cells, 1)[:, None]
        means = np.where(n_cells[:, None] > 0, means, centres)
        moved = np.square(means - centres).sum()
        centres = np.ascontiguousarray(means)
        if moved <= enough:
            break
    return centres


def _first_centres(x: np.ndarray, n_centres: int, random: np.random.Generator) -> np.ndarray:
    """Cells drawn with probabilities of their squared distance from those drawn before."""
    chosen = [int(random.integers(len(x)))]
    away = np.full(len(x), np.inf)
    # One column per cell: a pass of numpy for each dimension, none of n x p.
    columns, part = np.ascontiguousarray(x.T), np.empty(len(x))
    total = np.empty(len(x))
    while len(chosen) < n_centres:
        total[:] = 0.0
        for column in columns:
            np.subtract(column, column[chosen[-1]], out=part)
            np.square(part, out=part)
            total += part
        np.minimum(away, total, out=away)
        reached = np.cumsum(away)
        if reached[-1] <= 0.0:
            break  # no cell is left that differs from the centres
        chosen.append(int(np.searchsorted(reached, random.random() * reached[-1], side="right")))
    return x[chosen]
