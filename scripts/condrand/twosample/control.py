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
from condrand.twosample.moments import moments
from condrand.twosample.rows import (
    MEASURES,
    Needs,
    Scaling,
    as_rows,
    batches,
    by_feature,
    each,
    refuse,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

# Finer buckets save comparisons and cost cache.
_BUCKETS_PER_KEY = 2
_BLOCKS_PER_THREAD = 4
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
    n_nonzero : int64, shape (n_features,)
    n_negative : int64, shape (n_features,), or None
    ties : float64, shape (n_features,), or None
        ``sum(t**3 - t)`` over the tie classes of nonzero values.
    total : float64, shape (n_features,)
        Sum of the values on the scale of their :class:`.Scaling`.
    squares, natural : float64, shape (n_features,), or None
        Sum of the squared deviations of these values from their mean, zeros counted, and sum of
        the natural values.

    Notes
    -----
    None is what :class:`.Needs` leaves out; of ranks, `n_negative` and `ties`.
    """

    n_cells: int
    n_nonzero: np.ndarray
    n_negative: np.ndarray | None
    ties: np.ndarray | None
    total: np.ndarray
    squares: np.ndarray | None
    natural: np.ndarray | None

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
    needs : Needs
    tables : LookUp or Counts or None
        None where no ranks are wanted.
    """

    n_features: int
    scaling: Scaling
    divided: bool
    needs: Needs
    tables: LookUp | Counts | None = field(repr=False)

    @classmethod
    def of(
        cls,
        matrix: "np.ndarray | sp.csr_matrix",
        library: np.ndarray | None = None,
        scaling: Scaling | None = None,
        *,
        order: np.ndarray | None = None,
        counts: bool = False,
        needs: Needs | None = None,
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
            0 and there is no library: faster. Checked where ranks are wanted.
        needs : Needs, optional
            What is wanted of control and groups; all by default.
        threads : int
            Results do not depend on it.

        Raises
        ------
        ValueError
            If a value is not finite, negative where the scaling takes its logarithm, or not a
            count where counts are promised.
        """
        scaling, needs = scaling or Scaling(), needs or Needs()
        if counts and library is not None:
            raise ValueError("divided by a library, values are no counts: use counts=False")
        rows = as_rows(matrix, library, order)
        factor = scaling.factor(library)
        of_all = (rows.n_features, scaling, library is not None, needs)
        if not needs.ranks:
            whole = np.array([0, rows.n_cells])
            found = moments(rows, whole, scaling, factor, needs.natural, threads)
            n_nonzero, *sums = (None if array is None else array[0] for array in found)
            return cls(rows.n_cells, n_nonzero, None, None, *sums, *of_all, None)
        parts = np.linspace(0, rows.n_cells, max(1, threads) + 1).astype(np.int64)
        column, _, values = by_feature(rows, parts, scaling, threads)
        ties, sums = np.empty(rows.n_features), np.empty((3, rows.n_features))
        how = (MEASURES[scaling.measure], factor)
        blocks = batches(np.diff(column), 1 if threads <= 1 else _BLOCKS_PER_THREAD * threads)
        make = _count_tables if counts else _look_up_tables
        tables, fill = make(column, values, *how, scaling, blocks, threads)
        common = (rows.n_cells, column, values, *how, needs.code)

        def run(block: tuple[int, int]) -> None:
            fill(*block, *common, ties, sums)

        each(run, blocks, threads)
        total, squares, natural = sums
        return cls(
            *(rows.n_cells, np.diff(column), _n_negative(column, values), ties, total),
            *(squares if needs.squares else None, natural if needs.natural else None),
            *(*of_all, tables),
        )


def _n_negative(column: np.ndarray, values: np.ndarray) -> np.ndarray:
    """Negative values of each feature."""
    if values.min(initial=0) >= 0:
        return np.zeros(column.size - 1, np.int64)
    return np.diff(np.concatenate([[0], np.cumsum(values < 0)])[column])


def _look_up_tables(
    column: np.ndarray,
    values: np.ndarray,
    code: int,
    factor: float,
    scaling: Scaling,
    blocks: list[tuple[int, int]],
    threads: int,
) -> tuple[LookUp, Callable]:
    """Empty tables for these nonzeros by feature, and what fills them."""
    n_features = column.size - 1
    edges = np.empty((n_features, 5), np.int64)
    n_buckets = np.empty(n_features, np.int64)

    def look(block: tuple[int, int]) -> None:
        edges_of_features(*block, column, values, _BUCKETS_PER_KEY, edges, n_buckets)

    each(look, blocks, threads)
    bucket_ptr = np.concatenate([[0], np.cumsum(n_buckets)])
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

    def fill(first, last, n_cells, column, values, code, factor, wanted, ties, sums):
        fill_tables(
            *(first, last, n_cells, column, values, code, factor, wanted, tables.edges),
            *(tables.bucket_ptr, tables.keys, tables.below, tables.buckets, tables.n_distinct),
            *(ties, sums),
        )

    return tables, fill


def _count_tables(
    column: np.ndarray,
    values: np.ndarray,
    code: int,
    factor: float,
    scaling: Scaling,
    blocks: list[tuple[int, int]],
    threads: int,
) -> tuple[Counts, Callable]:
    """Empty tables for these counts by feature, and what fills them."""
    limits, n_above = np.empty((2, column.size - 1), np.int64)
    bounds = (_LEAST_LIMIT, _MOST_LIMIT, _SHARE_ABOVE)

    def look(block: tuple[int, int]) -> None:
        refuse(limits_of_counts(*block, column, values, *bounds, limits, n_above), scaling)

    each(look, blocks, threads)
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

    def fill(first, last, n_cells, column, values, code, factor, wanted, ties, sums):
        fill_count_tables(
            *(first, last, n_cells, column, values, code, factor, wanted, tables.table_ptr),
            *(tables.below, tables.above_ptr, tables.above, ties, sums),
        )

    return tables, fill
