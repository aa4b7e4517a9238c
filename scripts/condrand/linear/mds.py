"""Multidimensional scaling of samples by their leading log fold changes."""

from dataclasses import dataclass

import numpy as np

SELECTIONS = ("pairwise", "common")


@dataclass(frozen=True)
class Mds:
    """Coordinates of samples.

    Attributes
    ----------
    coordinates : float64, shape (n, n)
        Column d is dimension d; 0 where the eigenvalue is not positive. Distances between rows
        approximate the leading log fold changes.
    eigenvalues : float64, shape (n,)
        Decreasing; negative ones are there because leading distances need not be Euclidean.
    variance_explained : float64, shape (n,)
        Share of each eigenvalue in the sum of the positive ones.
    squared_distances : float64, shape (n, n)
        Mean square of the leading log fold changes of two samples.
    top : int
        Features used per pair.
    """

    coordinates: np.ndarray
    eigenvalues: np.ndarray
    variance_explained: np.ndarray
    squared_distances: np.ndarray
    top: int

    def axis_label(self, dimension: int) -> str:
        """Label of a dimension (0 is the first), with its rounded share in per cent."""
        share = round(100 * float(self.variance_explained[dimension]))
        return f"Leading logFC dim {dimension + 1} ({share}%)"


def plot_mds(values: np.ndarray, top: int = 500, gene_selection: str = "pairwise") -> Mds:
    """Coordinates of an MDS plot.

    Parameters
    ----------
    values : float64, shape (G, n)
        Log expression; features with a value that is not finite are left out.
    top : int
        Features that make up a distance.
    gene_selection : {"pairwise", "common"}
        The features that differ most between the two samples of each pair, or those with the
        largest variance over all samples.

    Notes
    -----
    Definition: D_ij is the mean of the `top` largest ``(x_gi - x_gj)^2``; with
    ``-J D J/2 = U L U'`` (J centres) the coordinates are ``U sqrt(max(L, 0))``.
    Sign: in each dimension, the first sample at least half as far out as the farthest is
    positive. The side is arbitrary; this rule does not hang on a near tie of the two ends.
    Cost: G n^2/2 for ``pairwise``, plus a partial sort for each pair.
    Source: Ritchie et al. 2015; Gower 1966.
    """
    if gene_selection not in SELECTIONS:
        raise ValueError(
            f"gene_selection is {gene_selection!r}, expected one of {', '.join(SELECTIONS)}"
        )
    if top < 1:
        raise ValueError(f"top is {top}, expected at least 1")
    values = np.asarray(values, np.float64)
    values = values[np.all(np.isfinite(values), axis=1)]
    g, n = values.shape
    if n < 3:
        raise ValueError(f"there are {n} samples, expected at least 3")
    if g == 0:
        raise ValueError("no feature has finite values in all samples")
    top = min(top, g)
    if gene_selection == "common":
        spread = np.argsort(-values.var(axis=1, ddof=1), kind="stable")
        values = values[np.sort(spread[:top])]
    samples = np.ascontiguousarray(values.T)
    squares = np.zeros((n, n))
    for i in range(1, n):
        for j in range(i):
            difference = (samples[i] - samples[j]) ** 2
            if difference.size > top:
                difference = np.partition(difference, difference.size - top)[-top:]
            squares[i, j] = squares[j, i] = difference.mean()
    row = squares.mean(axis=1)
    inner = -(squares - row[:, None] - row[None, :] + row.mean()) / 2
    eigenvalues, vectors = np.linalg.eigh(inner)
    eigenvalues, vectors = eigenvalues[::-1].copy(), vectors[:, ::-1]
    positive = np.maximum(eigenvalues, 0.0)
    coordinates = vectors * np.sqrt(positive)
    size = np.abs(coordinates)
    first = np.argmax(size >= size.max(axis=0) / 2, axis=0)
    coordinates = coordinates * np.where(coordinates[first, np.arange(n)] < 0, -1.0, 1.0)
    total = positive.sum()
    share = positive / total if total > 0 else np.zeros(n)
    return Mds(coordinates, eigenvalues, share, squares, top)
