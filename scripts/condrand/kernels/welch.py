"""Sums and squared deviations of groups of rows, feature by feature, straight from a CSR.

Two passes over a group's rows: sums, then squared deviations from the means. Zeros that are not
stored enter by their number. Values are added in the order of the cells, as by the kernels of
:mod:`condrand.kernels.mann_whitney`: the bits are the same.
"""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL
from condrand.kernels.elementary import exp, log1p
from condrand.kernels.mann_whitney import (
    FINE,
    LOG1P,
    LOGGED,
    NEGATIVE,
    NOT_FINITE,
    not_negative,
    squares_from,
)

_HIGHEST = np.finfo(np.float64).max


@njit(**KERNEL)
def scale_cells(
    data, indptr, start, order, first, last, library, measure, factor, scaled, natural
):
    """Values of the cells `first` to `last` on the scale of their sums, one after the other.

    Parameters
    ----------
    data, indptr, start, order, library
        As in :func:`.transpose_groups`.
    first, last : int
        Range of cells, half open.
    measure, factor : int, float
    scaled : float64[::1], shape (at least the stored values,)
        Receives what each stored value adds to the sum.
    natural : float64[::1], shape of `scaled` or (0,)
        Receives natural values, where there is room.

    Returns
    -------
    int
        FINE, NOT_FINITE or, if any is negative, NEGATIVE.
    """
    at = 0
    refused, negative = False, False
    for c in range(first, last):
        i = order[c]
        begin, n = indptr[i] - start, indptr[i + 1] - indptr[i]
        divisor = library[i] if library.size else 1.0
        row = scaled[at : at + n]
        for e in range(n):
            value = float(data[begin + e]) / divisor
            refused |= not (abs(value) <= _HIGHEST)
            negative |= value < 0.0
            row[e] = value
        if natural.size:
            plain = natural[at : at + n]
            for e in range(n):
                if measure == LOGGED:
                    plain[e] = exp(row[e]) - 1.0
                elif measure == LOG1P:
                    plain[e] = row[e] * factor
                else:
                    plain[e] = row[e]
        if measure == LOG1P:
            for e in range(n):
                row[e] = log1p(row[e] * factor)
        at += n
    if refused:
        return NOT_FINITE
    return NEGATIVE if negative else FINE


@njit(**KERNEL)
def totals_of_cells(
    data, indices, indptr, start, order, first, last, scaled, natural, n_nonzero, total, plain
):
    """Nonzeros and sums of the cells `first` to `last`, by feature.

    Parameters
    ----------
    data, indices, indptr, start, order
        As in :func:`.transpose_groups`.
    first, last : int
    scaled, natural : float64[::1]
        From :func:`scale_cells`.
    n_nonzero : int64[::1], shape (n_features,)
    total : float64[::1], shape (n_features,)
    plain : float64[::1], shape (n_features,) or (0,)
        Receive their number, their sum and the sum of natural values, where `natural` has them.
    """
    n_nonzero[:] = 0
    total[:] = 0.0
    plain[:] = 0.0
    at = 0
    for c in range(first, last):
        i = order[c]
        begin, n = indptr[i] - start, indptr[i + 1] - indptr[i]
        for e in range(n):
            j = not_negative(indices[not_negative(begin + e)])
            n_nonzero[j] += data[not_negative(begin + e)] != 0
            total[j] += scaled[not_negative(at + e)]
        if natural.size:
            for e in range(n):
                j = not_negative(indices[not_negative(begin + e)])
                plain[j] += natural[not_negative(at + e)]
        at += n


@njit(**KERNEL)
def squares_of_cells(
    data, indices, indptr, start, order, first, last, scaled, mean, squares, gaps
):
    """Squared deviations of the nonzeros of the cells `first` to `last`, by feature.

    Parameters
    ----------
    data, indices, indptr, start, order, first, last, scaled
        As in :func:`totals_of_cells`.
    mean : float64[::1], shape (n_features,)
    squares, gaps : float64[::1], shape (n_features,)
        Receive the sums of ``(x - mean)**2`` and of ``x - mean``; zeros, stored or not, are left
        out.
    """
    squares[:] = 0.0
    gaps[:] = 0.0
    at = 0
    for c in range(first, last):
        i = order[c]
        begin, n = indptr[i] - start, indptr[i + 1] - indptr[i]
        for e in range(n):
            j = not_negative(indices[not_negative(begin + e)])
            gap = scaled[not_negative(at + e)] - mean[j]
            gap = gap if data[not_negative(begin + e)] != 0 else 0.0
            squares[j] += gap * gap
            gaps[j] += gap
        at += n


@njit(**KERNEL)
def moments_of_groups(
    data, indices, indptr, start, order, group_ptr, library, measure, factor, scaled, natural,
    n_nonzero, total, squares, plain,
):  # fmt: skip
    """Sums and squared deviations of consecutive groups of rows.

    Parameters
    ----------
    data, indices, indptr, start, order, group_ptr, library
        As in :func:`.transpose_groups`.
    measure, factor : int, float
    scaled, natural : float64[::1]
        Scratch for the stored values of the largest group; `natural` may be empty.
    n_nonzero : int64[:, ::1], shape (n_groups, n_features)
    total, squares : float64[:, ::1], shape (n_groups, n_features)
    plain : float64[:, ::1], shape (n_groups, n_features), or (n_groups, 0) without `natural`
        Receive nonzeros, sum, squared deviations from the mean, and natural sum; of all cells,
        zeros too.

    Returns
    -------
    int
        As :func:`scale_cells`.
    """
    n_features = n_nonzero.shape[1]
    mean, gaps = np.empty(n_features), np.empty(n_features)
    worst = FINE
    for g in range(group_ptr.size - 1):
        first, last = group_ptr[g], group_ptr[g + 1]
        code = scale_cells(
            *(data, indptr, start, order, first, last, library, measure, factor),
            *(scaled, natural),
        )
        if code == NOT_FINITE:
            return code
        worst = max(worst, code)
        totals_of_cells(
            *(data, indices, indptr, start, order, first, last, scaled, natural),
            *(n_nonzero[g], total[g], plain[g]),
        )
        n_cells = last - first
        for j in range(n_features):
            mean[j] = total[g, j] / n_cells if n_cells > 0 else 0.0
        squares_of_cells(
            *(data, indices, indptr, start, order, first, last, scaled, mean, squares[g], gaps),
        )
        for j in range(n_features):
            n_zeros = n_cells - n_nonzero[g, j]
            squares[g, j] = squares_from(squares[g, j], gaps[j], mean[j], n_zeros, n_cells)
    return worst
