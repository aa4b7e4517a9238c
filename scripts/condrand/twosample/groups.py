"""Sums of target groups over their cells: U, ties, means and squares, feature by feature."""

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import numpy as np

from condrand.kernels.mann_whitney import sums_by_counts, sums_by_look_up
from condrand.twosample.control import ControlSums, ControlTables, Counts
from condrand.twosample.moments import moments
from condrand.twosample.rows import (
    MEASURES,
    Rows,
    Scratch,
    as_rows,
    batches,
    by_feature,
    each,
    refuse,
)

if TYPE_CHECKING:
    import scipy.sparse as sp

# Nonzeros transposed at a time, 8 bytes each: at least so many, and so many for each nonzero of
# the control group, as a batch reads all its tables once, from memory where they are large.
_BATCH = 8_000_000
_BATCH_PER_CONTROL = 2
# A difference of sums of squares that is a smaller share of the values' own squares is rounding:
# one value apart in a million cells leaves more than 1e-7 of them.
_ROUNDING = 1e-12
# Groups of counts share nothing but the threads.
_COUNT_BATCHES_PER_THREAD = 8


def cubes_less(t: np.ndarray) -> np.ndarray:
    """``t**3 - t`` of tie classes of t cells: float64, as int64 overflows from 2.1 million."""
    t = t.astype(np.float64)
    return (t - 1) * t * (t + 1)


@dataclass(frozen=True)
class GroupSums:
    """Sums of groups of cells beside a control group.

    Attributes
    ----------
    n_cells : int64, shape (n_groups,)
    n_control : int64, shape (n_groups,)
        Cells each group is compared with.
    two_u : int64, shape (n_groups, n_features), or None
        Twice the Mann-Whitney U of the group: ``sum over its cells of (2 #control < v + #control
        = v)``. Exact.
    ties : float64, shape (n_groups, n_features), or None
        ``sum(t**3 - t)`` over the tie classes of group and control together. Exact below 2**53,
        then rounded to a relative error under 2e-16 per cell added.
    n_nonzero : int64, shape (n_groups, n_features)
    total, squares, natural : float64, shape (n_groups, n_features), or None
        As in :class:`.ControlSums`, of the group.

    Notes
    -----
    None is what :class:`.Needs` leaves out; of ranks, `two_u` and `ties`.
    """

    n_cells: np.ndarray
    n_control: np.ndarray
    two_u: np.ndarray | None
    ties: np.ndarray | None
    n_nonzero: np.ndarray
    total: np.ndarray
    squares: np.ndarray | None
    natural: np.ndarray | None


def group_sums(
    control: ControlTables,
    matrix: "np.ndarray | sp.csr_matrix",
    group_ptr: np.ndarray,
    library: np.ndarray | None = None,
    *,
    order: np.ndarray | None = None,
    threads: int = 1,
) -> GroupSums:
    """Sums of every group of cells beside the control group.

    Parameters
    ----------
    control : ControlTables
        Its `needs` are those of the groups.
    matrix : CSR or dense, shape (n_rows, n_features)
        As in :meth:`.ControlTables.of`.
    group_ptr : int64, shape (n_groups + 1,)
        First cell of each group, and the end of the last. Groups may be empty.
    library : float64, shape (n_rows,), optional
        Library sizes, where the control group has them.
    order : int64, shape (n_cells,), optional
        Row of each cell, one group after the other; a row may occur in several groups. By
        default the rows are the cells.
    threads : int
        Results do not depend on it.

    Raises
    ------
    ValueError
        As :meth:`.ControlTables.of`, and if the features are not those of the control group.
    """
    group_ptr = np.ascontiguousarray(group_ptr, np.int64)
    if matrix.shape[1] != control.n_features:
        raise ValueError(
            f"the groups have {matrix.shape[1]} features, the control {control.n_features}"
        )
    n_cells = matrix.shape[0] if order is None else len(order)
    if np.any(np.diff(group_ptr) < 0) or group_ptr[0] < 0 or group_ptr[-1] > n_cells:
        raise ValueError("group_ptr must rise from 0 to at most the number of cells")
    if control.divided != (library is not None):
        raise ValueError("either both or neither of control group and groups have libraries")
    rows = as_rows(matrix, library, order)
    needs, factor, sizes = control.needs, control.scaling.factor(library), np.diff(group_ptr)
    n_control = np.full(sizes.size, control.n_cells)
    if not needs.ranks:
        found = moments(rows, group_ptr, control.scaling, factor, needs.natural, threads)
        return GroupSums(sizes, n_control, None, None, *found)
    shape = (sizes.size, control.n_features)
    two_u, n_nonzero = np.empty(shape, np.int64), np.empty(shape, np.int64)
    ties, sums = np.empty(shape), np.empty((3, *shape))
    batch_of = _counts_batch if isinstance(control.tables, Counts) else _look_up_batch
    scratch = Scratch()

    def run(batch: tuple[int, int]) -> None:
        part = slice(*batch)
        # The kernels write rows of contiguous arrays; the sums of a batch are not contiguous.
        own = np.empty((3, batch[1] - batch[0], control.n_features))
        edges = group_ptr[batch[0] : batch[1] + 1]
        out = (two_u[part], ties[part], n_nonzero[part], own)
        batch_of(control, rows, edges, factor, scratch, *out)
        for k, wanted in enumerate((True, needs.squares, needs.natural)):
            if wanted:
                sums[k, part] = own[k]
        zeros = sizes[part, None] - n_nonzero[part]
        # Target cells that are zero: as many control cells are below as are negative.
        two_u[part] += zeros * (2 * control.n_negative + control.n_zeros)
        ties[part] += control.ties + cubes_less(zeros + control.n_zeros)

    each(run, _batches(control, rows, group_ptr, threads), threads)
    total, squares, natural = sums
    return GroupSums(
        *(sizes, n_control, two_u, ties, n_nonzero, total),
        *(squares if needs.squares else None, natural if needs.natural else None),
    )


def rest_sums(everyone: ControlSums, groups: GroupSums) -> tuple[GroupSums, GroupSums]:
    """Groups against all other cells, from their sums against all cells.

    Parameters
    ----------
    everyone : ControlSums
        Of all cells, those of the groups among them.
    groups : GroupSums
        Of some of these cells against `everyone`.

    Returns
    -------
    GroupSums, GroupSums
        The groups against the rest, and the rest of each group: of the latter only `n_cells`,
        `n_nonzero`, `total`, `squares` and `natural` belong to it.

    Notes
    -----
    Definition: a group against itself has ``2 U = n**2``, and group and rest together are all
    cells. Error: 2U exact. Squares of the rest are a difference, so their relative error grows
    with the share of the group.
    """
    n = groups.n_cells[:, None]
    others = everyone.n_cells - n
    versus = replace(groups, n_control=others[:, 0])
    if groups.two_u is not None:
        ties = np.broadcast_to(everyone.ties + cubes_less(everyone.n_zeros), groups.ties.shape)
        versus = replace(versus, two_u=groups.two_u - n * n, ties=ties)
    n_nonzero = everyone.n_nonzero - groups.n_nonzero

    def left(whole: np.ndarray, part: np.ndarray) -> np.ndarray:
        # Without a value left, a difference of sums is rounding.
        return np.where(n_nonzero > 0, whole - part, 0.0)

    total = left(everyone.total, groups.total)
    squares = natural = None
    if groups.squares is not None:
        with np.errstate(divide="ignore", invalid="ignore"):
            between = (groups.total / n - total / others) ** 2 * (n * others / everyone.n_cells)
        between = np.where((n > 0) & (others > 0), between, 0.0)
        squares = left(everyone.squares, groups.squares + between)
        # What is left of a constant rest is rounding too.
        size = everyone.squares + everyone.total**2 / max(1, everyone.n_cells)
        squares = np.where(squares > _ROUNDING * size, squares, 0.0)
    if groups.natural is not None:
        natural = left(everyone.natural, groups.natural)
    rest = replace(
        versus,
        n_cells=others[:, 0],
        n_control=groups.n_cells,
        n_nonzero=n_nonzero,
        total=total,
        squares=squares,
        natural=natural,
    )
    return versus, rest


def _batches(
    control: ControlTables, rows: Rows, group_ptr: np.ndarray, threads: int
) -> list[tuple[int, int]]:
    """Ranges of groups that are summed together."""
    stored = rows.stored(group_ptr)
    if isinstance(control.tables, Counts):
        # Each group costs a pass over the tables too.
        stored = stored + control.tables.below.size
        return batches(stored, _COUNT_BATCHES_PER_THREAD * max(1, threads))
    # As many for each thread; few, as each reads all tables.
    threads = max(1, threads)
    most = threads * max(_BATCH, _BATCH_PER_CONTROL * int(control.n_nonzero.sum()))
    return batches(stored, threads * max(1, -(-int(stored.sum()) // most)))


def _look_up_batch(control, rows, group_ptr, factor, scratch, two_u, ties, n_nonzero, sums):
    """One batch through :func:`.sums_by_look_up`."""
    column, ends, values = by_feature(
        rows, group_ptr, control.scaling, room=lambda size: scratch.of("values", size)
    )
    tables = control.tables
    longest = int(np.diff(column).max(initial=1))
    n_slots = 2 * int(tables.n_distinct.max(initial=0)) + 2
    sums_by_look_up(
        *(column, ends, values, np.diff(group_ptr)),
        *(MEASURES[control.scaling.measure], factor, control.needs.code, tables.edges),
        *(tables.bucket_ptr, tables.key_ptr, tables.keys, tables.below, tables.buckets),
        *(scratch.of("latest", n_slots, np.int32), scratch.of("seen", n_slots, np.int32)),
        *(scratch.of("slots", longest, np.int32), scratch.of("repeats", longest + 1, np.int32)),
        *(scratch.of("work", longest), scratch.of("crowd", longest)),
        *(two_u, ties, n_nonzero, sums),
    )


def _counts_batch(control, rows, group_ptr, factor, scratch, two_u, ties, n_nonzero, sums):
    """One batch through :func:`.sums_by_counts`."""
    tables = control.tables
    code = sums_by_counts(
        *(rows.data, rows.indices, rows.indptr, rows.indptr[0], rows.order, group_ptr),
        *(MEASURES[control.scaling.measure], factor, control.needs.code),
        *(tables.scaled, tables.natural, tables.table_ptr, tables.below),
        *(tables.above_ptr, tables.above, two_u, ties, n_nonzero, sums),
    )
    refuse(code, control.scaling)
