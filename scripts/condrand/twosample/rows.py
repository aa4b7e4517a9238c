"""Cells x features in memory, sparse or dense, as the kernels read them."""

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from condrand.kernels.mann_whitney import (
    FINE,
    LOG1P,
    LOGGED,
    NATURAL,
    NEGATIVE,
    NOT_A_COUNT,
    NOT_FINITE,
    PLAIN,
    SQUARES,
    compress_rows,
    count_by_feature,
    count_in_rows,
    look_at_rows,
    transpose_groups,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

MEASURES = {"log1p": LOG1P, "logged": LOGGED, "plain": PLAIN}
_DTYPES = (np.float32, np.float64, np.int32)
_WRONG = {
    NOT_FINITE: "values must be finite: NaN or infinity found",
    NEGATIVE: "negative values have no log1p of counts: use measure 'logged' or 'plain'",
    NOT_A_COUNT: "values are not counts (integers from 0): build the tables with counts=False",
}


@dataclass(frozen=True)
class Scaling:
    """What one value of a cell stands for.

    Attributes
    ----------
    measure : {"log1p", "logged", "plain"}
        The scale of means and of Welch's t. ``log1p``: the stored values are natural and are
        logged; ``logged``: they are logs already; ``plain``: they are used as they are, and are
        their own natural values. Ranks do not depend on it.
    target_sum : float
        Natural values are ``value / library * target_sum``, where libraries are given.
    """

    measure: str = "log1p"
    target_sum: float = 1e4

    def factor(self, library: np.ndarray | None) -> float:
        """What a value divided by its library is multiplied by."""
        return 1.0 if library is None else float(self.target_sum)


@dataclass(frozen=True)
class Needs:
    """Which sums are wanted, beside numbers of nonzeros and sums of values; fewer cost less.

    Attributes
    ----------
    ranks : bool
        U and ties.
    squares : bool
        Squared deviations from the mean. Without ranks they are always there.
    natural : bool
        Sums of natural values.
    """

    ranks: bool = True
    squares: bool = True
    natural: bool = True

    @property
    def code(self) -> int:
        """Bits for the kernels."""
        return SQUARES * self.squares + NATURAL * self.natural


@dataclass(frozen=True)
class Rows:
    """Cells x features, each cell a row of a CSR, with a divisor per row.

    Attributes
    ----------
    data : float32, float64 or int32 [::1]
    indices : int32[::1]
        No feature twice in a row; any order.
    indptr : int64[::1], shape (n_rows + 1,)
    n_features : int
    library : float64[::1], shape (n_rows,) or (0,)
        Divisor of each row, positive; none if empty.
    order : int64[::1], shape (n_cells,)
        Row of each cell.
    """

    data: np.ndarray
    indices: np.ndarray
    indptr: np.ndarray
    n_features: int
    library: np.ndarray
    order: np.ndarray

    @property
    def n_cells(self) -> int:
        """Number of cells."""
        return self.order.size

    def stored(self, group_ptr: np.ndarray) -> np.ndarray:
        """Stored values of consecutive groups of cells: int64, shape (n_groups,)."""
        cells = self.order[group_ptr[0] : group_ptr[-1]]
        upto = np.concatenate([[0], np.cumsum(self.indptr[cells + 1] - self.indptr[cells])])
        return np.diff(upto[group_ptr - group_ptr[0]])


def as_rows(
    matrix: "np.ndarray | sp.csr_matrix",
    library: np.ndarray | None,
    order: np.ndarray | None = None,
) -> Rows:
    """A CSR or dense matrix as :class:`Rows`; arrays that fit are shared, not copied.

    Parameters
    ----------
    matrix : CSR or dense, shape (n_rows, n_features)
    library : float64, shape (n_rows,), or None
    order : int64, shape (n_cells,), optional
        Row of each cell; every row once by default. A dense matrix is compressed in this order.

    Raises
    ------
    ValueError
        If the libraries are not one positive number per row.
    """
    n_rows, n_features = matrix.shape
    divisors = np.empty(0) if library is None else np.ascontiguousarray(library, np.float64)
    if library is not None and not (
        divisors.shape == (n_rows,) and np.all((divisors > 0) & np.isfinite(divisors))
    ):
        raise ValueError("library must hold one positive number for each cell")
    order = np.arange(n_rows) if order is None else np.ascontiguousarray(order, np.int64)
    if order.size and not 0 <= order.min() <= order.max() < n_rows:
        raise ValueError(f"rows must be numbered from 0 to {n_rows - 1}")
    if isinstance(matrix, np.ndarray):
        values = _plain(matrix)
        stored = count_in_rows(values, order)
        # The kernel writes before it knows whether a value stays: room for one more.
        data, indices = np.empty(stored + 1, values.dtype), np.empty(stored + 1, np.int32)
        indptr = np.empty(order.size + 1, np.int64)
        compress_rows(values, order, data, indices, indptr)
        divisors = divisors[order] if library is not None else divisors
        order = np.arange(order.size)
        return Rows(data[:stored], indices[:stored], indptr, n_features, divisors, order)
    return Rows(
        _plain(matrix.data),
        np.ascontiguousarray(matrix.indices, np.int32),
        np.ascontiguousarray(matrix.indptr, np.int64),
        n_features,
        divisors,
        order,
    )


def _plain(values: np.ndarray) -> np.ndarray:
    """Values in one of the kernels' dtypes."""
    dtype = values.dtype if values.dtype in _DTYPES else np.float64
    return np.ascontiguousarray(values, dtype)


@dataclass(frozen=True)
class Facts:
    """What the values of some cells are.

    Attributes
    ----------
    totals : float64, shape (n_cells,)
        Sum of each cell.
    n_not_finite, n_negative, n_fractional : int
    largest : float
    """

    totals: np.ndarray
    n_not_finite: int
    n_negative: int
    n_fractional: int
    largest: float

    @classmethod
    def of(
        cls, matrix: "np.ndarray | sp.csr_matrix", order: np.ndarray, threads: int = 1
    ) -> "Facts":
        """Of the rows `order` of a CSR or dense matrix."""
        if isinstance(matrix, np.ndarray):
            values = _plain(matrix).reshape(-1)
            indptr = np.arange(matrix.shape[0] + 1) * matrix.shape[1]
        else:
            values, indptr = _plain(matrix.data), np.ascontiguousarray(matrix.indptr, np.int64)
        totals = np.empty(order.size)
        cuts = np.linspace(0, order.size, 1 if threads <= 1 else 4 * threads + 1).astype(int)
        cuts = np.concatenate([[0], cuts, [order.size]])
        found = np.zeros((cuts.size - 1, 4))

        def run(k: int) -> None:
            part = slice(cuts[k], cuts[k + 1])
            look_at_rows(values, indptr, order[part], totals[part], found[k])

        each(run, list(range(cuts.size - 1)), threads)
        n = found[:, :3].sum(axis=0).astype(int)
        return cls(totals, int(n[0]), int(n[1]), int(n[2]), float(found[:, 3].max()))

    @classmethod
    def joined(cls, parts: "list[Facts]") -> "Facts":
        """Of the cells of all parts, in order."""
        return cls(
            np.concatenate([part.totals for part in parts]),
            sum(part.n_not_finite for part in parts),
            sum(part.n_negative for part in parts),
            sum(part.n_fractional for part in parts),
            max((part.largest for part in parts), default=0.0),
        )


def each(run: Callable, items: list, threads: int) -> None:
    """Call a function on every item, by several threads where asked for."""
    if threads <= 1 or len(items) <= 1:
        for item in items:
            run(item)
        return
    with ThreadPoolExecutor(threads) as pool:
        list(pool.map(run, items))


def batches(sizes: np.ndarray, n_batches: int) -> list[tuple[int, int]]:
    """Consecutive ranges with about equal sums of sizes; fewer where there is nothing between."""
    upto = np.concatenate([[0], np.cumsum(sizes)])
    # The cut nearest to each share.
    shares = np.linspace(0, upto[-1], n_batches + 1)[1:-1]
    cuts = np.searchsorted((upto[:-1] + upto[1:]) / 2, shares)
    cuts = np.unique(np.concatenate([[0], cuts, [len(sizes)]])).tolist()
    return list(zip(cuts[:-1], cuts[1:], strict=True))


@dataclass(frozen=True)
class Scratch:
    """Arrays that are written anew by each item of a thread: fresh memory costs page faults."""

    held: threading.local = field(default_factory=threading.local)

    def of(self, name: str, size: int, dtype: type = np.float64) -> np.ndarray:
        """An array of at least `size` elements; zeros at first, then what the thread left."""
        found = getattr(self.held, name, None)
        if found is None or found.size < size:
            found = np.zeros(size + size // 8, dtype)
            setattr(self.held, name, found)
        # An empty array says that nothing is wanted.
        return found if size else found[:0]


def refuse(code: int, scaling: Scaling) -> None:
    """Raise ValueError for a kernel's code of a value that cannot be used."""
    if code != FINE and not (code == NEGATIVE and scaling.measure != "log1p"):
        raise ValueError(_WRONG[code])


def by_feature(
    rows: Rows,
    group_ptr: np.ndarray,
    scaling: Scaling,
    threads: int = 1,
    room: Callable = np.empty,
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Nonzeros of consecutive groups by feature; see :func:`.transpose_groups`.

    `room` gives an array of at least some number of float64. Threads share out the groups.
    """
    csr = (rows.data, rows.indices, rows.indptr, rows.indptr[0], rows.order)
    parts = batches(np.diff(group_ptr), threads)
    count = np.empty((len(parts), rows.n_features), np.int64)
    ends = np.empty((group_ptr.size - 1, rows.n_features), np.int32)

    def add(k: int) -> None:
        count_by_feature(*csr, *group_ptr[list(parts[k])], count[k])

    each(add, list(range(len(parts))), threads)
    column = np.concatenate([[0], np.cumsum(count.sum(axis=0))])
    cursor = column[:-1] + np.cumsum(count, axis=0) - count
    values = room(column[-1])

    def fill(k: int) -> None:
        a, b = parts[k]
        code = transpose_groups(
            *(*csr, group_ptr[a : b + 1], rows.library, column, cursor[k], ends[a:b], values)
        )
        refuse(code, scaling)

    each(fill, list(range(len(parts))), threads)
    return column, ends, values[: column[-1]]
