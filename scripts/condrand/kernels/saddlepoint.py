"""Sums of a saddlepoint approximation: cumulants of tilted Bernoulli sums.

A sum is ``L = sum x_i (r_i - t h_i)`` of independent ``x_i ~ Bernoulli(p_i)``: the scores r and
the level t are its own, h and p are those of all sums of a call. Each adds its cells in the same
order whatever else is in the call.
"""

import numpy as np
from numba import njit

from condrand.kernels import INLINE, KERNEL
from condrand.kernels.elementary import exp, log

# Cells worked on side by side, each with a partial sum of its own. The loop over them has a length
# known to the compiler and its operands lie in one array, or the aliasing checks before it would
# keep it from being vectorized.
_LANES = 16
# Cells whose partial sums are added to the totals: short sums round less.
_CHUNK = 256
# Cells whose moment generating functions are multiplied before one logarithm is taken.
_FACTORS = 4
# Above this exponent a cell is treated for certain: log(1 - p + p exp(x)) is x + log(p) to the
# last bit, for any p above 1e-26. Products of exp(100) of some cells do not overflow.
_CERTAIN = 100.0

# Where the parts of the working array begin.
_R, _P, _PRODUCT, _SUMS = 0, _LANES, 2 * _LANES, 3 * _LANES


@njit(**INLINE)
def _load(work, r, level, h, p, i):
    """The next cells' terms and propensities."""
    for lane in range(_LANES):
        work[lane] = r[i + lane] - level * h[i + lane]
        work[_P + lane] = p[i + lane]


@njit(**KERNEL)
def _add_powers(work, r, level, h, p, start, stop):
    """Add the powers of some cells' terms, and their parts below and above 0, to the sums."""
    for i in range(start, stop, _LANES):
        _load(work, r, level, h, p, i)
        for lane in range(_LANES):
            term, chance = work[lane], work[_P + lane]
            v = chance * (1.0 - chance)
            square = term * term
            work[_SUMS + lane] += chance * term
            work[_SUMS + _LANES + lane] += v * square
            work[_SUMS + 2 * _LANES + lane] += v * (1.0 - 2.0 * chance) * (square * term)
            work[_SUMS + 3 * _LANES + lane] += v * (1.0 - 6.0 * v) * (square * square)
            work[_SUMS + 4 * _LANES + lane] += min(term, 0.0)
            work[_SUMS + 5 * _LANES + lane] += max(term, 0.0)


@njit(**KERNEL)
def _add_tilted(work, r, level, tilt, h, p, start, stop):
    """Add ``K(s)`` and the terms of its derivatives of some cells to the partial sums."""
    for i in range(start, stop, _LANES):
        _load(work, r, level, h, p, i)
        for lane in range(_LANES):
            term, chance = work[lane], work[_P + lane]
            x = tilt * term
            capped = min(x, _CERTAIN)
            rest = 1.0 - chance
            hit = chance * exp(capped)
            total = rest + hit
            inverse = 1.0 / total
            pi = hit * inverse
            no = rest * inverse
            v = pi * no
            second = v * (term * term)
            turn = no - pi
            third = second * term
            fourth = third * term
            work[_PRODUCT + lane] *= total
            work[_SUMS + lane] += x - capped
            work[_SUMS + _LANES + lane] += pi * term
            work[_SUMS + 2 * _LANES + lane] += second
            work[_SUMS + 3 * _LANES + lane] += third * turn
            work[_SUMS + 4 * _LANES + lane] += fourth * (1.0 - 6.0 * v)
            work[_SUMS + 5 * _LANES + lane] += fourth * term * (turn * (1.0 - 12.0 * v))
            work[_SUMS + 6 * _LANES + lane] += fourth
        last = i + _LANES
        if (last - start) % (_FACTORS * _LANES) == 0 or last == stop:
            for lane in range(_LANES):
                work[_SUMS + lane] += log(work[_PRODUCT + lane])
                work[_PRODUCT + lane] = 1.0


@njit(**KERNEL)
def _sum_chunks(tilted, rows, row_of, levels, tilts, h, p, out):
    work = np.ones(_SUMS + out.shape[0] * _LANES)
    out[:] = 0.0
    whole = p.size - p.size % _LANES
    # Cells that fill no vector, and cells without a chance of treatment, which add nothing.
    left = np.zeros((3, _LANES))
    left[1, : p.size - whole] = h[whole:]
    left[2, : p.size - whole] = p[whole:]
    for k in range(row_of.size):
        r = rows[row_of[k]]
        left[0, : p.size - whole] = r[whole:]
        for start in range(0, p.size, _CHUNK):
            work[_SUMS:] = 0.0
            stop = min(start + _CHUNK, whole)
            if tilted:
                _add_tilted(work, r, levels[k], tilts[k], h, p, start, stop)
            else:
                _add_powers(work, r, levels[k], h, p, start, stop)
            if start + _CHUNK > p.size > whole:
                if tilted:
                    _add_tilted(work, left[0], levels[k], tilts[k], left[1], left[2], 0, _LANES)
                else:
                    _add_powers(work, left[0], levels[k], left[1], left[2], 0, _LANES)
            for part in range(out.shape[0]):
                for lane in range(_LANES):
                    out[part, k] += work[_SUMS + part * _LANES + lane]


@njit(**KERNEL)
def cumulants(rows, row_of, levels, h, p, out):
    """First four cumulants of some sums without tilt, and the ends of their support.

    Parameters
    ----------
    rows : float64[:, ::1], shape (n_rows, n_cells)
        Scores of a feature each.
    row_of : int64[::1], shape (n_sums,)
        Row of each sum.
    levels : float64[::1], shape (n_sums,)
        t of each sum.
    h, p : float64[::1], shape (n_cells,)
        p inside (0, 1).
    out : float64[:, ::1], shape (6, n_sums)
        Overwritten; the last rows with the least and the largest value of the sum.
    """
    _sum_chunks(False, rows, row_of, levels, levels, h, p, out)


@njit(**KERNEL)
def tilted_cumulants(rows, row_of, levels, tilts, h, p, out):
    """``K(s)`` and its first five derivatives, of some sums at a tilt s each.

    ``K(s) = sum log(1 - p + p exp(s (r - t h)))``, finite for every finite s.

    Parameters
    ----------
    rows, row_of, levels, h, p
        As in :func:`cumulants`.
    tilts : float64[::1], shape (n_sums,)
        s of each sum.
    out : float64[:, ::1], shape (7, n_sums)
        Overwritten; the last row with ``sum pi (1 - pi) (r - t h)**4``, pi being tilted.
    """
    _sum_chunks(True, rows, row_of, levels, tilts, h, p, out)


@njit(**KERNEL)
def linearize(p, rows, first, rank, q, h):
    """``q = sum p Q`` and ``h = 1 - 2 Q'q``, for the linear form of ``n - |sum Q|**2``.

    Parameters
    ----------
    p : float64[::1], shape (n_cells,)
    rows : float64[:, ::1], shape (n_cells, >= first + rank)
        Q in the columns from `first`.
    first, rank : int
    q : float64[::1], shape (rank,)
        Overwritten.
    h : float64[::1], shape (n_cells,)
        Overwritten.

    Returns
    -------
    count, dropped, spread : float
        ``sum p``, ``sum p (1 - p) |Q|**2`` and ``sum p (1 - p) h**2``.
    """
    count = dropped = spread = 0.0
    for j in range(rank):
        total = squares = 0.0
        for i in range(p.size):
            part = rows[i, first + j]
            total += p[i] * part
            squares += p[i] * (1.0 - p[i]) * (part * part)
        q[j] = total
        dropped += squares
    # One sum along a row would wait for each of its additions.
    end = rank - rank % 4
    for i in range(p.size):
        row = rows[i, first : first + rank]
        a = b = c = d = 0.0
        for j in range(0, end, 4):
            a += row[j] * q[j]
            b += row[j + 1] * q[j + 1]
            c += row[j + 2] * q[j + 2]
            d += row[j + 3] * q[j + 3]
        for j in range(end, rank):
            a += row[j] * q[j]
        h[i] = 1.0 - 2.0 * ((a + b) + (c + d))
        count += p[i]
        spread += p[i] * (1.0 - p[i]) * h[i] * h[i]
    return count, dropped, spread


@njit(**KERNEL)
def sparse_residuals(data, indices, indptr, basis, projection, column_of, out):
    """Residuals ``Y - Q (Q'Y)`` of some features of sparse scores, written out.

    Parameters
    ----------
    data, indices, indptr
        Y in CSR, one row per cell.
    basis : float64[:, ::1], shape (n_cells, rank)
        Q.
    projection : float64[:, ::1], shape (rank, n_some)
        ``Q'Y`` of these features.
    column_of : int64[::1], shape (width,)
        Where each column of Y goes; negative for those that are not wanted.
    out : float64[:, ::1], shape (n_some, n_cells)
        Overwritten.
    """
    n_some = out.shape[0]
    residual = np.empty(n_some)
    for i in range(out.shape[1]):
        residual[:] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            k = column_of[indices[e]]
            if k >= 0:
                residual[k] += data[e]
        for j in range(projection.shape[0]):
            weight = basis[i, j]
            row = projection[j]
            for k in range(n_some):
                residual[k] -= weight * row[k]
        for k in range(n_some):
            out[k, i] = residual[k]
