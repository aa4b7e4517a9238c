"""Mann-Whitney U of treated against other cells, as the rank-biserial correlation.

Ranks R are taken once over all cells, ties sharing their average. ``U = sum R - n(n + 1)/2`` and
``r = 2 U / (n (N - n)) - 1`` (Mann & Whitney 1947; Wendt 1972); with centred ranks
``r = 2 sum(R - (N + 1)/2) / (n (N - n))``. Centred ranks are multiples of one half, so their sums
are exact and ties between treated sets compare equal. Covariates enter through the resampling
alone.
"""

from typing import TYPE_CHECKING

import numpy as np

from condrand.statistics.scores import (
    DenseScores,
    LinearForm,
    Moments,
    Scores,
    SetSums,
    SparseScores,
    padded,
)

if TYPE_CHECKING:  # scipy would delay the start of every shard job
    import scipy.sparse as sp


def average_ranks(values: np.ndarray) -> np.ndarray:
    """Ranks from 1, ties sharing their average: float64, shape of `values` (one axis)."""
    order = np.argsort(values, kind="stable")
    ordered = values[order]
    first = np.flatnonzero(np.concatenate([[True], ordered[1:] != ordered[:-1]]))
    end = np.append(first[1:], values.size)
    ranks = np.empty(values.size)
    ranks[order] = np.repeat((first + end + 1) / 2, end - first)
    return ranks


def score(outcome: "np.ndarray | sp.csr_matrix", basis: np.ndarray) -> Scores:
    """Centred ranks of each feature.

    Parameters
    ----------
    outcome : float64, dense or CSR, shape (n_cells, n_features)
        Finite. In CSR the zeros, which tie, keep a rank of their own beside the stored ranks.
    basis : float64[:, ::1], shape (n_cells, rank)
        Not used.
    """
    n_cells, n_features = outcome.shape
    middle = (n_cells + 1) / 2
    if isinstance(outcome, np.ndarray):
        rows = np.zeros((n_cells, padded(n_features)))
        for k in range(n_features):
            rows[:, k] = average_ranks(outcome[:, k]) - middle
        return DenseScores(rows, n_features, 0)
    columns = outcome.tocsc(copy=True)
    columns.eliminate_zeros()
    of_zero = np.empty(n_features)
    for k in range(n_features):
        part = slice(columns.indptr[k], columns.indptr[k + 1])
        data = columns.data[part]
        n_zeros = n_cells - data.size
        of_zero[k] = np.count_nonzero(data < 0) + (n_zeros + 1) / 2
        ranks = average_ranks(data) + np.where(data > 0, n_zeros, 0)
        columns.data[part] = ranks - of_zero[k]
    rows = columns.tocsr()
    return SparseScores(
        np.ascontiguousarray(rows.data, np.float64),
        np.ascontiguousarray(rows.indices, np.int32),
        np.ascontiguousarray(rows.indptr, np.int64),
        np.ones((n_cells, 1)),
        (middle - of_zero)[None],
        n_features,
    )


def values(scores: Scores, sums: SetSums) -> np.ndarray:
    """Rank-biserial correlation of every set and feature: float64, (n_sets, n_features).

    0 for a set of no or all cells.
    """
    if isinstance(scores, DenseScores):
        centred = sums.rows[:, : scores.n_features]
    else:
        centred = sums.rows - sums.counts[:, None] * scores.projection
    pairs = sums.counts * (scores.n_cells - sums.counts).astype(np.float64)
    return centred * (2.0 / np.where(pairs > 0, pairs, np.inf))[:, None]


effects = values


def effect_scale(outcome_scale: str) -> str:
    """The correlation has no unit."""
    return f"rank-biserial correlation of {outcome_scale}"


def untestable(scores: Scores, sums: SetSums) -> str:
    """Nothing: any set of some but not all cells has a rank sum."""
    return ""


def null_units(scores: Scores, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Approximate mean and standard deviation under resampling; see :mod:`.ols`."""
    factor = 2.0 / (moments.count * (scores.n_cells - moments.count))
    return factor * moments.mean, factor * np.sqrt(moments.variance)


def linear_form(scores: Scores, p: np.ndarray) -> LinearForm:
    """The event ``r >= t`` under propensities `p` (float64[::1]) as a sum over the cells.

    ``n (N - n)`` is expanded about ``m = sum p``: ``(N - 2 m) n + m**2 - (n - m)**2``, of which
    the last part is kept as its mean, ``sum p (1 - p)``.
    """
    n_cells, mean = scores.n_cells, float(np.sum(p))
    variance = mean - float(np.sum(p * p))
    return LinearForm(np.full(n_cells, 0.5 * (n_cells - 2.0 * mean)), 0.5 * (mean**2 - variance))
