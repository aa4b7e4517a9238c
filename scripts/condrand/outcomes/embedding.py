"""States of cells: principal components of their expression, and diffusion components of these."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp
from scipy.linalg import eigh
from scipy.sparse.csgraph import connected_components
from scipy.sparse.linalg import eigsh
from scipy.spatial import KDTree

# Of so few cells all eigenvectors are found at once.
_DENSE_UP_TO = 400
# Components of a smaller share of the largest variance are rounding.
_NOTHING = 1e-12
# Seed of the vector from which the search for eigenvectors starts.
_SEED = 0


@dataclass(frozen=True)
class Components:
    """Principal components of n cells.

    Attributes
    ----------
    scores : float64, shape (n, k)
        Where the cells lie, in the unit of the features.
    loadings : float64, shape (n_features, k)
        Orthonormal; the largest of each column is positive.
    variance : float64, shape (k,)
        Of the scores, n - 1 below; decreasing.
    share : float64, shape (k,)
        Of the variance of all features.
    """

    scores: np.ndarray
    loadings: np.ndarray
    variance: np.ndarray
    share: np.ndarray


def moments(rows: np.ndarray | sp.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
    """Mean and variance of each feature over n cells, ``n - 1`` below.

    Parameters
    ----------
    rows : float64, dense or CSR, shape (n, n_features)
        2 cells or more.

    Returns
    -------
    tuple of float64, shape (n_features,)
    """
    n, n_features = rows.shape
    if not sp.issparse(rows):
        return rows.mean(axis=0), rows.var(axis=0, ddof=1)
    # bincount adds in the order of the cells, whatever the machine.
    mean = np.bincount(rows.indices, rows.data, n_features) / n
    there = np.bincount(rows.indices, minlength=n_features)
    squares = np.square(rows.data - mean[rows.indices])
    total = np.bincount(rows.indices, squares, n_features) + (n - there) * np.square(mean)
    return mean, total / (n - 1)


def most_variable(variances: np.ndarray, n_features: int) -> np.ndarray:
    """Features of the largest variances above 0, in their own order; of equal ones the first.

    Parameters
    ----------
    variances : float64, shape (n,)
    n_features : int

    Returns
    -------
    int64, shape (at most n_features,)
    """
    order = np.argsort(-variances, kind="stable")[:n_features]
    return np.sort(order[variances[order] > 0.0])


def principal_components(
    pieces: Callable[[], Iterable[np.ndarray]], mean: np.ndarray, n_components: int
) -> Components:
    """Principal components of features that are centred, not scaled.

    Parameters
    ----------
    pieces : callable
        Gives the cells, some at a time and each time in the same pieces: float64, shape
        (n_some, n_features). They are asked for twice.
    mean : float64, shape (n_features,)
    n_components : int
        Fewer are found where fewer vary.

    Returns
    -------
    Components

    Notes
    -----
    Definition: eigenvectors of ``sum (y - mean) (y - mean)' / (n - 1)``.
    Cost: two passes, ``n n_features**2`` for the first; memory of ``n_features**2`` and a piece.
    """
    gram, n = np.zeros((mean.size, mean.size)), 0
    for piece in pieces():
        away = piece - mean
        gram += away.T @ away
        n += len(away)
    if n < 2:
        raise ValueError(f"{n} cells have no principal components: give two or more")
    gram /= n - 1
    total = float(np.trace(gram))
    k = min(n_components, mean.size, n - 1)
    variance, loadings = eigh(gram, subset_by_index=(mean.size - k, mean.size - 1))
    variance, loadings = variance[::-1], loadings[:, ::-1]
    kept = variance > _NOTHING * total
    variance = variance[kept]
    loadings = np.ascontiguousarray(signed(loadings[:, kept]))
    scores = np.concatenate([(piece - mean) @ loadings for piece in pieces()])
    return Components(scores, loadings, variance, variance / total)


def signed(vectors: np.ndarray) -> np.ndarray:
    """Columns, each with its largest entry positive; of equally large ones the first counts."""
    if not vectors.size:
        return vectors
    largest = np.abs(vectors).argmax(axis=0)
    return vectors * np.where(np.take_along_axis(vectors, largest[None], 0)[0] < 0.0, -1.0, 1.0)


def neighbour_graph(x: np.ndarray, n_neighbors: int) -> sp.csr_matrix:
    """Similarities of each cell with its nearest, symmetric, 1 with itself.

    Parameters
    ----------
    x : float64, shape (n, p)
    n_neighbors : int
        Nearest others of each cell; at most n - 1 of them.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (n, n)

    Notes
    -----
    Definition: ``exp(-d**2 / (s_i s_j))`` of two cells of which one is among the nearest of the
    other, s being the distance of a cell to its (n_neighbors / 3)-th nearest, rounded up; where
    that is 0, the smallest such distance above 0.
    Source: Zelnik-Manor & Perona 2004 for the local scales.
    """
    n = len(x)
    k = min(n_neighbors, n - 1)
    if k < 1:
        raise ValueError(f"{n} cells have no neighbours: give two or more")
    away, near = KDTree(x).query(x, k=k + 1)
    scale = away[:, -(-k // 3)]
    useful = scale > 0.0
    if not useful.any():
        raise ValueError("cells lie at too few places: more of them coincide than are neighbours")
    scale = np.where(useful, scale, scale[useful].min())
    rows = np.repeat(np.arange(n), k + 1)
    columns, squares = near.ravel(), np.square(away.ravel())
    kept = columns != rows
    rows, columns, squares = rows[kept], columns[kept], squares[kept]
    similar = np.exp(-squares / (scale[rows] * scale[columns]))
    one_way = sp.csr_matrix((similar, (rows, columns)), shape=(n, n))
    return (one_way.maximum(one_way.T) + sp.identity(n, format="csr")).tocsr()


def diffusion_components(x: np.ndarray, n_components: int, n_neighbors: int) -> np.ndarray:
    """Multiscale diffusion components of cells.

    Parameters
    ----------
    x : float64, shape (n, p)
        Such as principal components.
    n_components : int
        At most n - 1.
    n_neighbors : int
        As in :func:`neighbour_graph`.

    Returns
    -------
    float64, shape (n, n_components)
        The largest entry of each is positive.

    Raises
    ------
    ValueError
        If the graph falls apart: no diffusion leads from a part to another.

    Notes
    -----
    Definition: with W the graph and ``q = W 1``, ``V = W / (q q')`` frees it from the density of
    the cells; ``T = D**-1/2 V D**-1/2``, ``D = diag(V 1)``. Of its eigenvectors u, the one of
    eigenvalue 1 left out, a component is ``sqrt(sum(D)) D**-1/2 u l / (1 - l)``: the sum over all
    times of diffusion, each u of variance 1 under its stationary distribution.
    Source: Coifman & Lafon 2006 with ``alpha = 1``.
    """
    n = len(x)
    graph = neighbour_graph(x, n_neighbors)
    n_parts, part = connected_components(graph, directed=False)
    if n_parts > 1:
        sizes = sorted(np.bincount(part).tolist(), reverse=True)
        shown = ", ".join(f"{size:,}" for size in sizes[:5])
        raise ValueError(
            f"the graph of {n_neighbors} neighbours falls into {n_parts} parts of {shown}"
            f"{', ...' if n_parts > 5 else ''} cells"
        )
    dense = np.asarray(graph.sum(axis=1)).ravel()
    freed = sp.diags(1.0 / dense) @ graph @ sp.diags(1.0 / dense)
    degree = np.asarray(freed.sum(axis=1)).ravel()
    root = np.sqrt(degree)
    symmetric = sp.csr_matrix(sp.diags(1.0 / root) @ freed @ sp.diags(1.0 / root))
    k = min(n_components, n - 1) + 1
    if n <= max(_DENSE_UP_TO, 2 * k):
        values, vectors = eigh(symmetric.toarray(), subset_by_index=(n - k, n - 1))
    else:
        start = np.random.default_rng(_SEED).random(n)
        values, vectors = eigsh(symmetric, k, which="LA", v0=start)
    order = np.argsort(-values, kind="stable")[1:]
    values, vectors = values[order], vectors[:, order]
    found = vectors * (np.sqrt(degree.sum()) / root)[:, None] * (values / (1.0 - values))
    return np.ascontiguousarray(signed(found))
