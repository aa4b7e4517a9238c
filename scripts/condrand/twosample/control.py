"""Tables of the control group, built once and used for every target group."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from condrand.kernels.mann_whitney import (
    edges_of_features,
    fill_count_tables,
    fill_tables,
    limits_of_counts,
    scale_counts,
)
from condrand.twosample.rows import MEASURES, Scaling, as_rows, by_feature, each, refuse

if TYPE_CHECKING:
    import scipy.sparse as sp

# Finer buckets save comparisons and cost cache.
_BUCKETS_PER_KEY = 2
# A table of counts reaches so far that it holds all but this share of the control's nonzeros;
# short tables stay in the cache, and the few counts above are sorted.
_LEAST_LIMIT, _MOST_LIMIT, _SHARE_ABOVE = 6, 4096, 0.002


@dataclass(frozen=True)
class LookUp:
    """Sorted distinct values of each feature; see :func:`.fill_tables`."""

    edges: np.ndarray
    bucket_ptr: np.ndarray
    key_ptr: np.ndarray
    keys: np.ndarray
    below: np.ndarray
    buckets: np.ndarray
    n_distinct: np.ndarray


@dataclass(frozen=True)
class Counts:
    """Counts by value of each feature; see :func:`.fill_count_tables`."""

    scaled: np.ndarray
    natural: np.ndarray
    table_ptr: np.ndarray
    below: np.ndarray
    above_ptr: np.ndarray
    above: np.ndarray


@dataclass(frozen=True)
class ControlSums:
    """What of a control group p values and means need.

    Attributes
    ----------
    n_cells : int
    n_nonzero, n_negative : int64, shape (n_features,)
    ties : float64, shape (n_features,)
        ``sum(t**3 - t)`` over the tie classes of nonzero values.
    total, squares, natural : float64, shape (n_features,)
        Sum of the values on the scale of their :class:`.Scaling`, sum of their squared deviations
        from their mean, and sum of the natural values; zeros counted.
    """

    n_cells: int
    n_nonzero: np.ndarray
    n_negative: np.ndarray
    ties: np.ndarray
    total: np.ndarray
    squares: np.ndarray
    natural: np.ndarray

    @property
    def n_zeros(self) -> np.ndarray:
        """Cells without expression: int64, shape (n_features,)."""
        return self.n_cells - self.n_nonzero


@dataclass(frozen=True)
class ControlTables(ControlSums):
    """What of a control group every comparison needs.

    Attributes
    ----------
    n_features : int
    scaling : Scaling
    divided : bool
        Whether values were divided by libraries.
    tables : LookUp or Counts
    """

    n_features: int
    scaling: Scaling
    divided: bool
    tables: LookUp | Counts = field(repr=False)

    @classmethod
    def of(
        cls,
        matrix: "np.ndarray | sp.csr_matrix",
        library: np.ndarray | None = None,
        scaling: Scaling | None = None,
        *,
        order: np.ndarray | None = None,
        counts: bool = False,
        threads: int = 1,
    ) -> "ControlTables":
        """Tables of the cells of the control group.

        Parameters
        ----------
        matrix : CSR or dense, shape (n_rows, n_features)
            float32, float64 or int32 (others are copied to float64). Finite; explicit zeros are
            zeros; no entry twice.
        library : float64, shape (n_rows,), optional
            Library sizes. Cells are then ranked by value / library in float64, which keeps ties
            of equal fractions as long as value * library < 2**52.
        scaling : Scaling, optional
            For means and Welch's t; ``Scaling()`` by default.
        order : int64, shape (n_cells,), optional
            Rows of the control cells; all by default.
        counts : bool
            Whether all values, of the control group and of the groups to come, are integers from
            0 and there is no library: faster. Checked.
        threads : int
            Results do not depend on it.

        Raises
        ------
        ValueError
            If a value is not finite, negative where the scaling takes its logarithm, or not a
            count where counts are promised.
        """
        scaling = scaling or Scaling()
        if counts and library is not None:
            raise ValueError("divided by a library, values are no counts: use counts=False")
        rows = as_rows(matrix, library, order)
        factor = scaling.factor(library)
        code = MEASURES[scaling.measure]
        column, _, values = by_feature(rows, np.array([0, rows.n_cells]), scaling)
        ties, sums = np.empty(rows.n_features), np.empty((3, rows.n_features))
        common = (rows.n_cells, column, values, code, factor)
        if counts:
            limits, n_above = np.empty((2, rows.n_features), np.int64)
            bounds = (_LEAST_LIMIT, _MOST_LIMIT, _SHARE_ABOVE)
            refuse(limits_of_counts(column, values, *bounds, limits, n_above), scaling)
            tables, fill = _count_tables(limits, n_above, code, factor)
        else:
            tables, fill = _look_up_tables(column, values)
        blocks = _blocks(column, threads)

        def run(block: tuple[int, int]) -> None:
            fill(*block, *common, ties, sums)

        each(run, blocks, threads)
        return cls(
            *(rows.n_cells, np.diff(column), _n_negative(column, values), ties, *sums),
            *(rows.n_features, scaling, library is not None, tables),
        )


def _n_negative(column: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Negative values of each feature."""
    if values.min(initial=0) >= 0:
        return np.zeros(column.size - 1, np.int64)
    return np.diff(np.concatenate([[0], np.cumsum(values < 0)])[column])


def _blocks(column: np.ndarray, threads: int) -> list[tuple[int, int]]:
    """Ranges of features with about equal numbers of nonzeros, a few per thread."""
    n_features = column.size - 1
    n_blocks = 1 if threads <= 1 else 4 * threads
    cuts = np.searchsorted(column, np.linspace(0, column[-1], n_blocks + 1)[1:-1])
    cuts = np.unique(np.clip(np.concatenate([[0], cuts, [n_features]]), 0, n_features))
    return [(int(a), int(b)) for a, b in zip(cuts[:-1], cuts[1:], strict=True)]


def _look_up_tables(column: np.ndarray, values: np.ndarray) -> tuple[LookUp, Callable]:
    """Empty tables for these nonzeros by feature, and what fills them."""
    n_features = column.size - 1
    edges = np.empty((n_features, 5), np.int64)
    bucket_ptr = np.empty(n_features + 1, np.int64)
    edges_of_features(column, values, _BUCKETS_PER_KEY, edges, bucket_ptr)
    key_ptr = column + 2 * np.arange(n_features + 1)
    tables = LookUp(
        edges,
        bucket_ptr,
        key_ptr,
        np.empty(key_ptr[-1], np.int64),
        np.empty(key_ptr[-1], np.int32),
        np.empty(bucket_ptr[-1], np.int32),
        np.zeros(n_features, np.int64),
    )

    def fill(first, last, n_cells, column, values, code, factor, ties, sums):
        fill_tables(
            *(first, last, n_cells, column, values, code, factor, tables.edges),
            *(tables.bucket_ptr, tables.keys, tables.below, tables.buckets, tables.n_distinct),
            *(ties, sums),
        )

    return tables, fill


def _count_tables(
    limits: np.ndarray, n_above: np.ndarray, code: int, factor: float
) -> tuple[Counts, Callable]:
    """Empty tables up to these limits, and what fills them."""
    scaled = np.empty(limits.max(initial=0) + 1)
    natural = np.empty_like(scaled)
    scale_counts(code, factor, scaled, natural)
    table_ptr = np.concatenate([[0], np.cumsum(limits + 2)])
    above_ptr = np.concatenate([[0], np.cumsum(n_above)])
    tables = Counts(
        scaled,
        natural,
        table_ptr,
        np.empty(table_ptr[-1], np.int32),
        above_ptr,
        np.empty(above_ptr[-1], np.int64),
    )

    def fill(first, last, n_cells, column, values, code, factor, ties, sums):
        fill_count_tables(
            *(first, last, n_cells, column, values, code, factor, tables.table_ptr),
            *(tables.below, tables.above_ptr, tables.above, ties, sums),
        )

    return tables, fill
