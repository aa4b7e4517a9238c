"""Sums and squares of groups of cells, without ranks: straight from their rows."""

import numpy as np

from condrand.kernels.welch import (
    moments_of_groups,
    scale_cells,
    squares_of_cells,
    totals_of_cells,
)
from condrand.twosample.rows import MEASURES, Rows, Scaling, Scratch, batches, each, refuse

# Groups of more cells are summed in pieces of at least so many cells, and in at most so many.
_PIECE, _MOST_PIECES = 2048, 64
_BATCHES_PER_THREAD = 8


def moments(
    rows: Rows,
    group_ptr: np.ndarray,
    scaling: Scaling,
    factor: float,
    natural: bool,
    threads: int = 1,
) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]:
    """Nonzeros, sums, squared deviations and natural sums of consecutive groups of cells.

    Parameters
    ----------
    rows : Rows
    group_ptr : int64, shape (n_groups + 1,)
    scaling : Scaling
    factor : float
        From :meth:`.Scaling.factor`.
    natural : bool
        Whether natural sums are wanted.
    threads : int
        Results do not depend on it.

    Returns
    -------
    int64, float64, float64, float64 or None, shape (n_groups, n_features)

    Raises
    ------
    ValueError
        If a value is not finite, or negative where the scaling takes its logarithm.
    """
    shape = (group_ptr.size - 1, rows.n_features)
    n_nonzero, (total, squares) = np.empty(shape, np.int64), np.empty((2, *shape))
    plain = np.empty(shape if natural else (shape[0], 0))
    how = (rows.library, MEASURES[scaling.measure], factor)
    stored, n_cells = rows.stored(group_ptr), np.diff(group_ptr)
    scratch = Scratch()

    def room(size: int) -> tuple[np.ndarray, np.ndarray]:
        return scratch.of("scaled", size), scratch.of("natural", size if natural else 0)

    def run(batch: tuple[int, int]) -> None:
        part = slice(*batch)
        code = moments_of_groups(
            *(rows.data, rows.indices, rows.indptr, rows.indptr[0], rows.order),
            *(group_ptr[batch[0] : batch[1] + 1], *how, *room(int(stored[part].max(initial=0)))),
            *(n_nonzero[part], total[part], squares[part], plain[part]),
        )
        refuse(code, scaling)

    is_large = n_cells > 2 * _PIECE
    # Where runs of groups that are not large begin and end.
    edges = np.flatnonzero(np.diff(np.concatenate([[True], is_large, [True]])))
    items = [
        (int(first) + a, int(first) + b)
        for first, last in zip(edges[::2], edges[1::2], strict=True)
        for a, b in batches(stored[first:last], _BATCHES_PER_THREAD * threads)
    ]
    each(run, items, threads)
    for g in np.flatnonzero(is_large):
        sums = (n_nonzero[g], total[g], squares[g], plain[g])
        _of_large(rows, group_ptr[g], group_ptr[g + 1], scaling, how, room, sums, threads)
    return n_nonzero, total, squares, plain if natural else None


def _of_large(rows, first, last, scaling, how, room, sums, threads) -> None:
    """Moments of one group, in pieces that its number of cells gives."""
    n_nonzero, total, squares, plain = sums
    n_cells = last - first
    n_pieces = min(_MOST_PIECES, n_cells // _PIECE)
    cuts = np.linspace(first, last, n_pieces + 1).astype(np.int64)
    csr = (rows.data, rows.indices, rows.indptr, rows.indptr[0], rows.order)
    stored = rows.stored(cuts)
    count = np.empty((n_pieces, total.size), np.int64)
    parts, plains = np.empty((n_pieces, total.size)), np.empty((n_pieces, plain.size))

    def scaled(k: int, natural: bool) -> tuple[np.ndarray, np.ndarray]:
        values, plain = room(int(stored[k]))
        plain = plain if natural else plain[:0]
        code = scale_cells(
            *(rows.data, rows.indptr, rows.indptr[0], rows.order, cuts[k], cuts[k + 1]),
            *(*how, values, plain),
        )
        refuse(code, scaling)
        return values, plain

    def add(k: int) -> None:
        own = (count[k], parts[k], plains[k])
        totals_of_cells(*csr, cuts[k], cuts[k + 1], *scaled(k, True), *own)

    each(add, list(range(n_pieces)), threads)
    n_nonzero[:], total[:], plain[:] = count.sum(axis=0), parts.sum(axis=0), plains.sum(axis=0)
    mean, gaps = total / n_cells, np.empty_like(parts)

    def square(k: int) -> None:
        values, _ = scaled(k, False)
        squares_of_cells(*csr, cuts[k], cuts[k + 1], values, mean, parts[k], gaps[k])

    each(square, list(range(n_pieces)), threads)
    n_zeros = n_cells - n_nonzero
    # As by squares_from.
    left = (gaps.sum(axis=0) - n_zeros * mean) ** 2 / n_cells
    squares[:] = np.maximum(parts.sum(axis=0) + n_zeros * mean * mean - left, 0.0)
