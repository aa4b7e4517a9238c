"""Set sums: for every resample, the sum of the score rows of its treated cells.

The one resampling kernel. A sampler says which resamples of a block treat a cell; the score
rows of that cell are then added to the accumulators of those resamples. Cells are walked in
memory order, once per block of resamples, so each score row is read once and each accumulator
receives its rows in increasing order of cell: the same order in which the observed set is
summed (:func:`observed_sums_dense`), so that equal sets give equal bits.
"""

import numpy as np
from numba import njit, uint64

from condrand.kernels import INLINE, KERNEL
from condrand.kernels.elementary import float_of, log, log1p
from condrand.kernels.philox import LOW32, SHIFT32, philox4x32

# Cells whose resamples are drawn together: enough to fill vectors, few enough that their
# working arrays stay in the first-level cache.
CHUNK = 128
# Places of a cell's hits beyond one for each resample.
ROOM = 2
_ONE_BITS = np.uint64(0x3FF0000000000000)
_TWELVE = np.uint64(12)
_BELOW_ONE = 1.0 - 2.0**-53


@njit(**INLINE)
def _exponential(word):
    """A standard exponential from 64 random bits: -log of a uniform in (0, 1)."""
    return -log(float_of((word >> _TWELVE) | _ONE_BITS) - _BELOW_ONE)


@njit(**KERNEL)
def _draw_exponentials(k0, k1, block, turn, cells, first, second):
    k0 &= LOW32
    k1 &= LOW32
    block &= LOW32
    turn &= LOW32
    for a in range(cells.size):
        w0, w1, w2, w3 = philox4x32(cells[a] & LOW32, block, turn, uint64(0), k0, k1)
        first[a] = _exponential((w0 << SHIFT32) | w1)
        second[a] = _exponential((w2 << SHIFT32) | w3)


@njit(**KERNEL)
def mean_gaps(p, out):
    """Scale of the exponential that gives a cell's gaps between hits, ``-1 / log(1 - p)``.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
        Propensity, inside (0, 1).
    out : float64[::1], shape (n_cells,)
        Overwritten; may be ``p`` itself.
    """
    for i in range(out.size):
        out[i] = -1.0 / log1p(-p[i])


@njit(**KERNEL)
def bernoulli_hits(k0, k1, block, start, n_resamples, gap, hits, n_hits, cells, work):
    """Which resamples of a block treat each cell of a chunk: independent Bernoulli draws.

    Parameters
    ----------
    k0, k1 : uint64
        Key words of (seed, unit).
    block : uint64
        Index of the block of resamples.
    start : int
        Index of the chunk's first cell.
    n_resamples : int
        Resamples of the block that are wanted, counted from its first.
    gap : float64[::1], shape (n,)
        :func:`mean_gaps` of the chunk's cells.
    hits : uint16[:, ::1], shape (CHUNK, >= n_resamples + ROOM)
        Row i receives the resamples that treat cell ``start + i``, increasing, and scratch.
    n_hits : int64[::1], shape (CHUNK,)
        Receives how many there are.
    cells, work : uint64[::1], shape (CHUNK,); float64[:, ::1], shape (3, CHUNK)
        Scratch.

    Notes
    -----
    Definition: the number of resamples passed over before the next hit is geometric,
    ``floor(E * gap)`` with E standard exponential, because ``P(E gap >= k) = (1 - p)**k``. E is a
    function of (key, block, cell, turn) alone. A smaller ``n_resamples`` gives a prefix.
    """
    n = gap.size
    position, first, second = work[0], work[1], work[2]
    end = float(n_resamples)
    for i in range(n):
        position[i] = 0.0
        cells[i] = start + i
    n_active = n
    turn = uint64(0)
    while n_active > 0:
        _draw_exponentials(k0, k1, block, turn, cells[:n_active], first, second)
        found = np.int64(turn + turn)
        still = 0
        # Whether a cell is hit again is a coin toss, so both places are written, hit or not, and
        # the counts say how many are meant: a branch would be guessed wrong half of the time.
        for a in range(n_active):
            cell = cells[a]
            i = np.int64(cell) - start
            # np.floor keeps a float: a gap of a tiny p would overflow an integer.
            at = min(position[a] + np.floor(first[a] * gap[i]), end)
            then = min(at + 1.0 + np.floor(second[a] * gap[i]), end)
            hits[i, found] = np.uint16(at)
            hits[i, found + 1] = np.uint16(then)
            n_hits[i] = found + np.int64(at < end) + np.int64(then < end)
            position[still] = then + 1.0
            cells[still] = cell
            still += then < end
        n_active = still
        turn += uint64(1)


@njit(**INLINE)
def add_row(total, row):
    """Add one row of scores to an accumulator, in place."""
    for j in range(row.size):
        total[j] += row[j]


@njit(**KERNEL)
def bernoulli_sums_dense(k0, k1, block, gap, scores, sums, counts):
    """Set sums of one block of Bernoulli resamples over dense scores.

    Parameters
    ----------
    k0, k1, block, gap
        As in :func:`bernoulli_hits`; ``gap`` has shape (n_cells,).
    scores : float64[:, ::1], shape (n_cells, width)
        One row per cell.
    sums : float64[:, ::1], shape (n_resamples, width)
        Overwritten: row b is the sum of the scores of the cells treated in resample b.
    counts : int64[::1], shape (n_resamples,)
        Overwritten: treated cells of each resample.

    Notes
    -----
    Cost: ``sum(p) * n_resamples`` row additions, one pass over ``scores``.
    """
    n_cells = gap.size
    n_resamples = counts.size
    sums[:] = 0.0
    counts[:] = 0
    hits = np.empty((CHUNK, n_resamples + ROOM), np.uint16)
    n_hits = np.empty(CHUNK, np.int64)
    cells = np.empty(CHUNK, np.uint64)
    work = np.empty((3, CHUNK))
    for start in range(0, n_cells, CHUNK):
        stop = min(start + CHUNK, n_cells)
        bernoulli_hits(
            k0, k1, block, start, n_resamples, gap[start:stop], hits, n_hits, cells, work
        )
        for i in range(stop - start):
            row = scores[start + i]
            for h in range(n_hits[i]):
                b = hits[i, h]
                counts[b] += 1
                add_row(sums[b], row)


@njit(**KERNEL)
def bernoulli_sums_sparse(
    k0, k1, block, gap, data, indices, indptr, basis, sums, basis_sums, counts
):
    """Set sums of one block of Bernoulli resamples over sparse scores and a dense basis.

    Parameters
    ----------
    k0, k1, block, gap, counts
        As in :func:`bernoulli_sums_dense`.
    data, indices, indptr : float64[::1], int32[::1], int64[::1]
        Scores in CSR, one row per cell.
    basis : float64[:, ::1], shape (n_cells, rank)
        Orthonormal basis of the covariates.
    sums : float64[:, ::1], shape (n_resamples, n_features)
        Overwritten.
    basis_sums : float64[:, ::1], shape (n_resamples, rank)
        Overwritten.
    """
    n_cells = gap.size
    n_resamples = counts.size
    sums[:] = 0.0
    basis_sums[:] = 0.0
    counts[:] = 0
    hits = np.empty((CHUNK, n_resamples + ROOM), np.uint16)
    n_hits = np.empty(CHUNK, np.int64)
    cells = np.empty(CHUNK, np.uint64)
    work = np.empty((3, CHUNK))
    for start in range(0, n_cells, CHUNK):
        stop = min(start + CHUNK, n_cells)
        bernoulli_hits(
            k0, k1, block, start, n_resamples, gap[start:stop], hits, n_hits, cells, work
        )
        for i in range(stop - start):
            low, high = indptr[start + i], indptr[start + i + 1]
            row = basis[start + i]
            for h in range(n_hits[i]):
                b = hits[i, h]
                counts[b] += 1
                add_row(basis_sums[b], row)
                total = sums[b]
                for e in range(low, high):
                    total[indices[e]] += data[e]


@njit(**KERNEL)
def observed_sums_dense(cells, scores, sums):
    """Sum of the score rows of the observed treated cells, in increasing order of cell.

    Parameters
    ----------
    cells : int64[::1]
        Treated cells, sorted.
    scores : float64[:, ::1], shape (n_cells, width)
    sums : float64[::1], shape (width,)
        Overwritten.
    """
    sums[:] = 0.0
    for i in cells:
        add_row(sums, scores[i])


@njit(**KERNEL)
def observed_sums_sparse(cells, data, indices, indptr, basis, sums, basis_sums):
    """Sparse counterpart of :func:`observed_sums_dense`; see :func:`bernoulli_sums_sparse`."""
    sums[:] = 0.0
    basis_sums[:] = 0.0
    for i in cells:
        add_row(basis_sums, basis[i])
        for e in range(indptr[i], indptr[i + 1]):
            sums[indices[e]] += data[e]
