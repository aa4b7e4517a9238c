"""Stratified permutation: in each stratum as many cells are treated as were observed.

Each resample draws the treated cells of every stratum uniformly without replacement, by Floyd's
algorithm (Bentley & Floyd, "Programming pearls: a sample of brilliance", CACM 30(9), 1987): for
``j = n - m, ..., n - 1`` take a uniform place of ``0, ..., j``, or j itself if that place is
already taken. m draws give m distinct places of n, all sets equally likely.

The hits of a run of resamples are then brought in order of cell, so that the score rows are read
and added as in :mod:`condrand.kernels.resampling`.
"""

import numpy as np
from numba import njit, uint64

from condrand.kernels import INLINE, KERNEL
from condrand.kernels.philox import LOW32, SHIFT32, philox4x32
from condrand.kernels.resampling import add_row

# Counters computed together: enough to fill vectors, few enough for the first-level cache.
TOGETHER = 256
_ONE, _TWO = np.uint64(1), np.uint64(2)


@njit(**KERNEL)
def digitize(values, inner_edges, out):
    """Bin of each value: how many of the inner edges are at or below it.

    Parameters
    ----------
    values : float64[::1], shape (n,)
    inner_edges : float64[::1]
        Edges between bins.
    out : int32[::1], shape (n,)
        Overwritten.

    Notes
    -----
    Counting vectorizes; for the few bins of a stratification it beats a binary search tenfold.
    """
    out[:] = 0
    for e in range(inner_edges.size):
        edge = inner_edges[e]
        for i in range(values.size):
            out[i] += np.int32(values[i] >= edge)


@njit(**KERNEL)
def cells_by_stratum(stratum, start, cells):
    """Cells in order of stratum, within a stratum in order of cell.

    Parameters
    ----------
    stratum : int32[::1], shape (n_cells,)
    start : int64[::1], shape (n_strata,)
        Where each stratum begins; each entry is moved to the end of its stratum.
    cells : int32[::1], shape (n_cells,)
        Overwritten.
    """
    for i in range(stratum.size):
        s = stratum[i]
        cells[start[s]] = i
        start[s] += 1


@njit(**KERNEL)
def merge_small(sizes, run, least, group):
    """Join consecutive parts until each has enough cells, within runs of parts.

    Parameters
    ----------
    sizes : int64[::1], shape (n,)
        Cells of each part, positive.
    run : int64[::1], shape (n,)
        Parts of different runs are not joined; equal numbers are consecutive.
    least : int
        Cells that are enough.
    group : int64[::1], shape (n,)
        Overwritten: number of the joined part, increasing.

    Notes
    -----
    A part that is too small is joined to the next of its run, the last ones to those before. A run
    that is too small as a whole becomes one part.
    """
    n_groups, size, first = 0, 0, 0
    for i in range(sizes.size):
        if i == 0 or run[i] != run[i - 1]:
            size, first = 0, n_groups
        if size == 0:
            n_groups += 1
        size += sizes[i]
        group[i] = n_groups - 1
        is_last = i + 1 == sizes.size or run[i + 1] != run[i]
        if size >= least:
            size = 0
        elif is_last and n_groups - 1 > first:
            j = i
            while j >= 0 and group[j] == n_groups - 1:
                group[j] -= 1
                j -= 1
            n_groups -= 1


@njit(**INLINE)
def _below(high, low, n):
    """A uniform integer below n < 2**32, the upper half of the product of n and 64 bits."""
    return (high * n + ((low * n) >> SHIFT32)) >> SHIFT32


@njit(**KERNEL)
def _draw_places(k0, k1, block, stratum, n_untreated, resample, pair, first, second):
    k0 &= LOW32
    k1 &= LOW32
    block &= LOW32
    stratum &= LOW32
    for a in range(resample.size):
        w0, w1, w2, w3 = philox4x32(
            stratum, block, resample[a] & LOW32, (pair[a] + _ONE) & LOW32, k0, k1
        )
        j = n_untreated + _TWO * pair[a]
        first[a] = _below(w0, w1, (j + _ONE) & LOW32)
        second[a] = _below(w2, w3, (j + _TWO) & LOW32)


@njit(**KERNEL)
def stratified_hits(k0, k1, block, start, n_run, cells, indptr, n_treated, drawn, hits, end):
    """Which resamples of a run treat each cell.

    Parameters
    ----------
    k0, k1 : uint64
        Key words of (seed, unit).
    block : uint64
        Index of the block of resamples.
    start : int
        First resample of the run, counted from the block's first.
    n_run : int
        Resamples of the run, below 2**16.
    cells : int32[::1], shape (n_cells,)
        All cells in order of stratum, within a stratum in order of cell.
    indptr : int64[::1], shape (n_strata + 1,)
        Where the strata begin in ``cells``.
    n_treated : int64[::1], shape (n_strata,)
        Treated cells of each stratum.
    drawn : int32[::1], shape (>= n_run * sum(n_treated),)
        Scratch.
    hits : uint16[::1], shape (>= n_run * sum(n_treated),)
        Receives the resamples that treat each cell, counted from ``start``, increasing; cell
        after cell.
    end : int32[::1], shape (n_cells,)
        Overwritten: ``hits[end[i - 1]:end[i]]`` are those of cell i.

    Notes
    -----
    Definition: draws 2k and 2k + 1 of a stratum in a resample come from the counter (stratum,
    block, resample in block, 1 + k). The last word is 0 in the Bernoulli sampler, so the two
    never use the same counter. A draw multiplies 64 random bits by the number of places n and
    keeps the upper half: the probability of a place is off from ``1 / n`` by less than 2**-64,
    that is by less than 2**-40 of itself for strata of up to 2**24 cells.
    """
    end[:] = 0
    resample, pair = np.empty(TOGETHER, np.uint64), np.empty(TOGETHER, np.uint64)
    first, second = np.empty(TOGETHER, np.uint64), np.empty(TOGETHER, np.uint64)
    # The last resample that took a place, counted from 1.
    taken_by = np.empty(np.max(np.diff(indptr)), np.uint16)
    h = 0
    for s in range(n_treated.size):
        members = cells[indptr[s] : indptr[s + 1]]
        n, m = members.size, n_treated[s]
        taken_by[:n] = 0
        n_pairs = (m + 1) // 2
        left = n_run * n_pairs
        b, k = 0, 0
        while left > 0:
            size = min(left, TOGETHER)
            for a in range(size):
                resample[a] = start + b
                pair[a] = k
                k += 1
                if k == n_pairs:
                    k = 0
                    b += 1
            _draw_places(
                k0, k1, block, uint64(s), uint64(n - m), resample[:size], pair, first, second
            )
            for a in range(size):
                mark = np.uint16(np.int64(resample[a]) - start + 1)
                j = n - m + 2 * np.int64(pair[a])
                place = np.int64(first[a])
                place = j if taken_by[place] == mark else place
                taken_by[place] = mark
                drawn[h] = members[place]
                end[members[place]] += 1
                h += 1
                j += 1
                if j < n:
                    place = np.int64(second[a])
                    place = j if taken_by[place] == mark else place
                    taken_by[place] = mark
                    drawn[h] = members[place]
                    end[members[place]] += 1
                    h += 1
            left -= size
    total = 0
    for i in range(end.size):
        count = end[i]
        end[i] = total
        total += count
    h = 0
    for s in range(n_treated.size):
        for b in range(n_run):
            for _ in range(n_treated[s]):
                i = drawn[h]
                hits[end[i]] = b
                end[i] += 1
                h += 1


@njit(**KERNEL)
def stratified_sums_dense(
    k0, k1, block, cells, indptr, n_treated, run_length, scores, sums, counts
):
    """Set sums of one block of stratified resamples over dense scores.

    Parameters
    ----------
    k0, k1, block, cells, indptr, n_treated
        As in :func:`stratified_hits`.
    run_length : int
        Resamples whose hits are held at once. Changes no bit.
    scores : float64[:, ::1], shape (n_cells, width)
        One row per cell.
    sums : float64[:, ::1], shape (n_resamples, width)
        Overwritten: row b is the sum of the scores of the cells treated in resample b.
    counts : int64[::1], shape (n_resamples,)
        Overwritten: treated cells of each resample, all equal.

    Notes
    -----
    Cost: ``sum(n_treated) * n_resamples`` row additions, one pass over ``scores`` per run.
    """
    n_resamples = counts.size
    sums[:] = 0.0
    counts[:] = n_treated.sum()
    longest = min(run_length, n_resamples) * n_treated.sum()
    drawn, hits = np.empty(longest, np.int32), np.empty(longest, np.uint16)
    end = np.empty(cells.size, np.int32)
    for start in range(0, n_resamples, run_length):
        n_run = min(run_length, n_resamples - start)
        stratified_hits(k0, k1, block, start, n_run, cells, indptr, n_treated, drawn, hits, end)
        begin = 0
        for i in range(cells.size):
            row = scores[i]
            for h in range(begin, end[i]):
                add_row(sums[start + hits[h]], row)
            begin = end[i]


@njit(**KERNEL)
def stratified_sums_sparse(
    k0,
    k1,
    block,
    cells,
    indptr,
    n_treated,
    run_length,
    data,
    indices,
    row_start,
    basis,
    sums,
    basis_sums,
    counts,
):
    """Set sums of one block of stratified resamples over sparse scores and a dense basis.

    Parameters
    ----------
    k0, k1, block, cells, indptr, n_treated, run_length, counts
        As in :func:`stratified_sums_dense`.
    data, indices, row_start : float64[::1], int32[::1], int64[::1]
        Scores in CSR, one row per cell.
    basis : float64[:, ::1], shape (n_cells, rank)
        Orthonormal basis of the covariates.
    sums : float64[:, ::1], shape (n_resamples, n_features)
        Overwritten.
    basis_sums : float64[:, ::1], shape (n_resamples, rank)
        Overwritten.
    """
    n_resamples = counts.size
    sums[:] = 0.0
    basis_sums[:] = 0.0
    counts[:] = n_treated.sum()
    longest = min(run_length, n_resamples) * n_treated.sum()
    drawn, hits = np.empty(longest, np.int32), np.empty(longest, np.uint16)
    end = np.empty(cells.size, np.int32)
    for start in range(0, n_resamples, run_length):
        n_run = min(run_length, n_resamples - start)
        stratified_hits(k0, k1, block, start, n_run, cells, indptr, n_treated, drawn, hits, end)
        begin = 0
        for i in range(cells.size):
            low, high = row_start[i], row_start[i + 1]
            row = basis[i]
            for h in range(begin, end[i]):
                b = start + hits[h]
                add_row(basis_sums[b], row)
                total = sums[b]
                for e in range(low, high):
                    total[indices[e]] += data[e]
            begin = end[i]
