"""Sums of a saddlepoint approximation: cumulants of many tilted Bernoulli sums at once.

A lane is one sum ``L = sum x_i (r_i - t h_i)`` of independent ``x_i ~ Bernoulli(p_i)``: the column
of scores r and the level t are the lane's own, h and p are shared. Lanes do not mix and each adds
its cells in order, so that a lane's bits do not depend on which others are in the call.
"""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL
from condrand.kernels.elementary import exp, log

# Lanes worked on together. The loop over them has a length known to the compiler and its operands
# lie in one array, or the aliasing checks before it would keep it from being vectorized.
LANES = 16
# Cells summed before their sums are added to the totals: short sums round less.
_CHUNK = 256
# Cells whose moment generating functions are multiplied before one logarithm is taken.
_FACTORS = 4
# Above this exponent a cell is treated for certain: log(1 - p + p exp(x)) is x + log(p) to the
# last bit, for any p above 1e-26. Products of exp(100) of some cells do not overflow.
_CERTAIN = 100.0

# Where the parts of the working array begin.
_R, _T, _S, _PRODUCT = 0, LANES, 2 * LANES, 3 * LANES
_SUMS = 4 * LANES


@njit(**KERNEL)
def _add_powers(work, rows, columns, h, p, start, stop):
    """Add the powers of some cells' terms to the sums of LANES lanes."""
    for i in range(start, stop):
        for lane in range(LANES):
            work[lane] = rows[i, columns[lane]]
        at, v = h[i], p[i] * (1.0 - p[i])
        first, third, fourth = p[i], v * (1.0 - 2.0 * p[i]), v * (1.0 - 6.0 * v)
        for lane in range(LANES):
            r = work[lane] - work[_T + lane] * at
            square = r * r
            work[_SUMS + lane] += first * r
            work[_SUMS + LANES + lane] += v * square
            work[_SUMS + 2 * LANES + lane] += third * (square * r)
            work[_SUMS + 3 * LANES + lane] += fourth * (square * square)


@njit(**KERNEL)
def _add_tilted(work, rows, columns, h, p, start, stop):
    """Add ``K(s)`` and the terms of its derivatives of some cells to the sums of LANES lanes."""
    for i in range(start, stop):
        for lane in range(LANES):
            work[lane] = rows[i, columns[lane]]
        at, chance, rest = h[i], p[i], 1.0 - p[i]
        for lane in range(LANES):
            r = work[lane] - work[_T + lane] * at
            x = work[_S + lane] * r
            capped = min(x, _CERTAIN)
            hit = chance * exp(capped)
            total = rest + hit
            inverse = 1.0 / total
            pi = hit * inverse
            no = rest * inverse
            v = pi * no
            second = v * (r * r)
            turn = no - pi
            third = second * r
            fourth = third * r
            work[_PRODUCT + lane] *= total
            work[_SUMS + lane] += x - capped
            work[_SUMS + LANES + lane] += pi * r
            work[_SUMS + 2 * LANES + lane] += second
            work[_SUMS + 3 * LANES + lane] += third * turn
            work[_SUMS + 4 * LANES + lane] += fourth * (1.0 - 6.0 * v)
            work[_SUMS + 5 * LANES + lane] += fourth * r * (turn * (1.0 - 12.0 * v))
            work[_SUMS + 6 * LANES + lane] += fourth
        if (i - start) % _FACTORS == _FACTORS - 1 or i == stop - 1:
            for lane in range(LANES):
                work[_SUMS + lane] += log(work[_PRODUCT + lane])
                work[_PRODUCT + lane] = 1.0


@njit(**KERNEL)
def _sum_chunks(tilted, rows, columns, levels, tilts, h, p, out):
    work = np.ones(_SUMS + out.shape[0] * LANES)
    out[:] = 0.0
    for first in range(0, columns.size, LANES):
        lanes = columns[first : first + LANES]
        work[_T : _T + LANES] = levels[first : first + LANES]
        work[_S : _S + LANES] = tilts[first : first + LANES]
        for start in range(0, p.size, _CHUNK):
            work[_SUMS:] = 0.0
            stop = min(start + _CHUNK, p.size)
            if tilted:
                _add_tilted(work, rows, lanes, h, p, start, stop)
            else:
                _add_powers(work, rows, lanes, h, p, start, stop)
            for k in range(out.shape[0]):
                for lane in range(LANES):
                    out[k, first + lane] += work[_SUMS + k * LANES + lane]


@njit(**KERNEL)
def cumulants(rows, columns, levels, h, p, out):
    """First four cumulants of some lanes without tilt.

    Parameters
    ----------
    rows : float64[:, ::1], shape (n_cells, width)
        Scores of the features.
    columns : uint64[::1], shape (n_lanes,), a multiple of LANES
        Column of each lane.
    levels : float64[::1], shape (n_lanes,)
        t of each lane.
    h, p : float64[::1], shape (n_cells,)
        p inside (0, 1).
    out : float64[:, ::1], shape (4, n_lanes)
        Overwritten.
    """
    _sum_chunks(False, rows, columns, levels, levels, h, p, out)


@njit(**KERNEL)
def tilted_cumulants(rows, columns, levels, tilts, h, p, out):
    """``K(s)`` and its first five derivatives, of some lanes at a tilt s each.

    ``K(s) = sum log(1 - p + p exp(s (r - t h)))``, finite for every finite s.

    Parameters
    ----------
    rows, columns, levels, h, p
        As in :func:`cumulants`.
    tilts : float64[::1], shape (n_lanes,)
        s of each lane.
    out : float64[:, ::1], shape (7, n_lanes)
        Overwritten; the last row with ``sum pi (1 - pi) (r - t h)**4``, pi being tilted.
    """
    _sum_chunks(True, rows, columns, levels, tilts, h, p, out)


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
    q[:] = 0.0
    count = dropped = spread = 0.0
    for i in range(p.size):
        length = 0.0
        for j in range(rank):
            part = rows[i, first + j]
            q[j] += p[i] * part
            length += part * part
        count += p[i]
        dropped += p[i] * (1.0 - p[i]) * length
    for i in range(p.size):
        inner = 0.0
        for j in range(rank):
            inner += rows[i, first + j] * q[j]
        h[i] = 1.0 - 2.0 * inner
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
    out : float64[:, ::1], shape (n_cells, n_some)
        Overwritten.
    """
    for i in range(out.shape[0]):
        residual = out[i]
        residual[:] = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            k = column_of[indices[e]]
            if k >= 0:
                residual[k] += data[e]
        for j in range(projection.shape[0]):
            weight = basis[i, j]
            row = projection[j]
            for k in range(residual.size):
                residual[k] -= weight * row[k]
