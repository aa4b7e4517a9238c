"""Intrinsic dimension of a cloud of cells: how the number of neighbours grows with the radius."""

import math

import numpy as np
from scipy.spatial import KDTree

METHODS = ("fractal", "embedding")
# Beyond it the volume of a ball, and with it every density, leaves what floats can tell apart.
MOST = 50.0
# Cells whose balls are looked at; Cells in a ball, its centre among them; seed of the choice.
_QUERIES, _BALL, _SEED = 500, 10, 432

_ROTATIONS = ((13, 15, 26, 6), (17, 29, 16, 24))
_PARITY = np.uint32(0x1BD11BDA)


def intrinsic_dimension(
    cells: np.ndarray, d: float | None = None, method: str = "fractal"
) -> float:
    """Dimension of the space the cells fill.

    Parameters
    ----------
    cells : float64, shape (n, p)
    d : float, optional
        The dimension, if it is known; no method is then asked.
    method : {"fractal", "embedding"}
        By :func:`fractal_dimension`, or the number of features p.

    Returns
    -------
    float
        Above 0.

    Raises
    ------
    ValueError
        If the method is unknown, or the dimension not positive; and if it was not given and is
        above 50.
    """
    if d is not None:
        if not (math.isfinite(d) and d > 0.0):
            raise ValueError(f"the dimension d is a number above 0, not {d}")
        return float(d)
    if method not in METHODS:
        raise ValueError(f"d_method is 'fractal' or 'embedding', or give d itself; not {method!r}")
    found = fractal_dimension(cells) if method == "fractal" else float(np.shape(cells)[1])
    if found > MOST:
        raise ValueError(
            f"the dimension of the cells is {found:.4g} ({method}), too high for densities: use "
            f"fewer components (at most {MOST:.0f}), or give d"
        )
    if not found > 0.0:
        raise ValueError(f"the dimension of the cells is {found:.4g} ({method}): give d")
    return found


def fractal_dimension(cells: np.ndarray) -> float:
    """Mean exponent by which pairs of cells in a small ball grow with their distance.

    Parameters
    ----------
    cells : float64, shape (n, p)
        3 or more, without missing values.

    Returns
    -------
    float

    Raises
    ------
    ValueError
        For fewer than 3 cells, a missing or infinite value, or no ball with two distances.

    Notes
    -----
    Definition: a ball is a cell and its nearest 9; its distances are those of its 45 pairs, and
    its slope is that of the least squares line of ``log(1..45)`` over the sorted log distances.
    The dimension is the mean slope over all cells, or over 500 drawn by :func:`chosen_rows`.
    Ties: two cells at one place count as a pair, but have no log distance and so no point on the
    line.
    Source: Grassberger 1983, correlation dimension, as kompot takes it.
    """
    cells = np.ascontiguousarray(cells, np.float64)
    n = len(cells)
    if cells.ndim != 2 or n < 3:
        raise ValueError(f"a fractal dimension needs 3 cells or more, not {cells.shape}: give d")
    if not np.isfinite(cells).all():
        raise ValueError("a coordinate of a cell is missing or infinite: leave such cells out")
    queries = cells if n <= _QUERIES else cells[chosen_rows(n, _QUERIES, _SEED)]
    size = min(_BALL, n)
    _, near = KDTree(cells).query(queries, k=size)
    first, second = np.triu_indices(size, 1)
    away = cells[near[:, first]] - cells[near[:, second]]
    distances = np.sort(np.sqrt(np.einsum("qij,qij->qi", away, away)), axis=1)

    apart = distances > 0.0
    x = np.log(distances, where=apart, out=np.zeros_like(distances))
    y = np.broadcast_to(np.log(np.arange(1.0, first.size + 1.0)), x.shape)
    points = apart.sum(axis=1, keepdims=True)
    with np.errstate(invalid="ignore", divide="ignore"):
        x = np.where(apart, x - x.sum(axis=1, keepdims=True) / points, 0.0)
        slopes = (x * y).sum(axis=1) / (x * x).sum(axis=1)
    slopes = slopes[np.isfinite(slopes)]
    if slopes.size == 0:
        raise ValueError("all neighbours of the cells lie at one place or distance: give d")
    return float(slopes.mean())


def chosen_rows(n: int, size: int, seed: int) -> np.ndarray:
    """Rows drawn without replacement, the same as ``jax.random.choice`` draws for this seed.

    Parameters
    ----------
    n, size : int
        `size` of `n` rows.
    seed : int
        From 0 to 2**32 - 1.

    Returns
    -------
    int64, shape (size,)

    Notes
    -----
    Definition: the rows are sorted by random words, in ``ceil(3 log(n) / log(2**32 - 1))`` rounds
    with a key each, and the first are taken.
    """
    rows = np.arange(n)
    key = np.array([0, seed], np.uint32)
    for _ in range(math.ceil(3.0 * math.log(max(1, n)) / math.log(2**32 - 1))):
        high, low = _threefry(key, 2)
        key, sub = np.array([high[0], low[0]]), np.array([high[1], low[1]])
        high, low = _threefry(sub, n)
        rows = rows[np.argsort(high ^ low, kind="stable")]
    return rows[:size]


def _threefry(key: np.ndarray, n: int) -> tuple[np.ndarray, np.ndarray]:
    """Threefry-2x32 with 20 rounds of the counters 0 to n - 1 (Salmon 2011); two uint32 words."""
    parts = (key[0], key[1], key[0] ^ key[1] ^ _PARITY)
    high = np.full(n, parts[0], np.uint32)
    low = np.arange(n, dtype=np.uint32) + parts[1]
    for step in range(5):
        for bits in _ROTATIONS[step % 2]:
            high = high + low
            low = ((low << np.uint32(bits)) | (low >> np.uint32(32 - bits))) ^ high
        high = high + parts[(step + 1) % 3]
        low = low + parts[(step + 2) % 3] + np.uint32(step + 1)
    return high, low
