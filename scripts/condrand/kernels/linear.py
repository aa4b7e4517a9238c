"""Least squares of many features on one design, and the weights of voom.

Features are handled in lanes: LANES of them at a time, side by side, so that every sum of a
feature runs over its samples in order and the loops still vectorize. What a feature gets
depends on nothing but its own row.
"""

import numpy as np
from numba import njit

from condrand.kernels import INLINE, KERNEL
from condrand.kernels.elementary import bits_of, float_of, log

# Features side by side: 32 pay for the aliasing check before each vector loop, and the rows of
# 200 samples still fit the second cache level.
LANES = 32
# A column of the design whose part outside the span of those before it is shorter than this
# share of its length is a combination of them (the tolerance of R's lm).
RANK_TOLERANCE = 1e-7
# Pivots of the normal equations, relative to the diagonal. Their inverse loses 1e-16 / SAFE at
# most; anything below is fitted column by column.
SAFE = 1e-4
# A feature with less residual variance says nothing about the samples.
NO_VARIANCE = 1e-15

_INV_LN2 = 1.4426950408889634
_EXPONENT_SHIFT = np.uint64(52)
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
_SQRT2_CARRY = np.uint64(0x00095F6200000000)
_SQRT_HALF_BITS = np.uint64(0x3FE6A09E00000000)
_TWO52_BITS = np.uint64(0x4330000000000000)
_TWO52_AND_BIAS = 4503599627370496.0 + 1023.0


@njit(**INLINE)
def log2(x):
    """Binary logarithm of a positive normal float64; exact for powers of two, else under 1 ulp.

    Notes
    -----
    ``x = 2**k m`` with ``m`` in ``[sqrt(1/2), sqrt(2))``: only the logarithm of m is rounded
    before k is added.
    """
    shifted = bits_of(x) + _SQRT2_CARRY
    k = float_of((shifted >> _EXPONENT_SHIFT) | _TWO52_BITS) - _TWO52_AND_BIAS
    m = float_of((shifted & _MANTISSA) + _SQRT_HALF_BITS)
    return k + log(m) * _INV_LN2


@njit(**KERNEL)
def log2_rows(counts, scale, prior, out):
    """``log2((c + prior) / scale * 1e6)`` of every count.

    Parameters
    ----------
    counts : float64[:, ::1], shape (n_features, n_samples)
    scale : float64[::1], shape (n_samples,)
    prior : float
    out : float64[:, ::1], shape (n_features, n_samples)
        Overwritten.
    """
    for g in range(counts.shape[0]):
        row, into = counts[g], out[g]
        for i in range(scale.size):
            into[i] = log2((row[i] + prior) / scale[i] * 1e6)


@njit(**KERNEL)
def row_means(values, mean, n_present):
    """Mean of the values of each row that are not NaN, as if summed exactly.

    Parameters
    ----------
    values : float64[:, ::1], shape (n_features, n_samples)
    mean : float64[::1], shape (n_features,)
        Overwritten; NaN for a row without a value.
    n_present : int64[::1], shape (n_features,)
        Overwritten.

    Notes
    -----
    Error: 1 ulp, by carrying the rounding of every addition along (Knuth 1969, 4.2.2).
    """
    for g in range(values.shape[0]):
        total = lost = 0.0
        n = 0
        for y in values[g]:
            if y == y:
                grown = total + y
                part = grown - total
                lost += (total - (grown - part)) + (y - part)
                total = grown
                n += 1
        n_present[g] = n
        mean[g] = (total + lost) / n if n else np.nan


@njit(**KERNEL)
def _add_product(out, factor, values):
    for lane in range(LANES):
        out[lane] += factor * values[lane]


@njit(**KERNEL)
def _subtract_product(out, a, b):
    for lane in range(LANES):
        out[lane] -= a[lane] * b[lane]


@njit(**KERNEL)
def _add_square(out, weight, values):
    for lane in range(LANES):
        out[lane] += weight[lane] * values[lane] * values[lane]


@njit(**KERNEL)
def _weigh(out, weight, values):
    for lane in range(LANES):
        out[lane] = weight[lane] * values[lane]


@njit(**KERNEL)
def _divide(out, divisor):
    for lane in range(LANES):
        out[lane] /= divisor[lane]


@njit(**KERNEL)
def common(values, root, basis, factor, coefficients, squares):
    """Least squares of complete rows with weights that all rows share.

    Parameters
    ----------
    values : float64[:, ::1], shape (n_features, n_samples)
        Finite.
    root : float64[::1], shape (n_samples,)
        Square roots of the weights.
    basis : float64[:, ::1], shape (n_samples, rank)
        Q of the design with rows times `root`.
    factor : float64[:, ::1], shape (rank, rank)
        R of it, upper triangular.
    coefficients : float64[:, ::1], shape (n_features, rank)
        Overwritten.
    squares : float64[::1], shape (n_features,)
        Overwritten with ``sum w r**2`` of the residuals r.

    Notes
    -----
    The residuals are formed and squared: a difference of two sums of squares would cancel.
    """
    n_features, n = values.shape
    rank = factor.shape[0]
    y, c = np.empty((n, LANES)), np.empty((rank, LANES))
    left, total, unit = np.empty(LANES), np.empty(LANES), np.ones(LANES)
    for first in range(0, n_features, LANES):
        lanes = min(LANES, n_features - first)
        y[:] = 0.0
        for lane in range(lanes):
            row = values[first + lane]
            for i in range(n):
                y[i, lane] = row[i] * root[i]
        c[:] = 0.0
        for i in range(n):
            for k in range(rank):
                _add_product(c[k], basis[i, k], y[i])
        total[:] = 0.0
        for i in range(n):
            left[:] = y[i]
            for k in range(rank):
                _add_product(left, -basis[i, k], c[k])
            _add_square(total, unit, left)
        for k in range(rank - 1, -1, -1):
            for m in range(k + 1, rank):
                _add_product(c[k], -factor[k, m], c[m])
            for lane in range(lanes):
                c[k, lane] /= factor[k, k]
        for lane in range(lanes):
            squares[first + lane] = total[lane]
            for k in range(rank):
                coefficients[first + lane, k] = c[k, lane]


@njit(**KERNEL)
def _cholesky(a, out):
    """Lower triangle of ``A = L L'`` in every lane; rows and columns first, lanes last."""
    for j in range(a.shape[0]):
        for k in range(j + 1):
            entry = out[j, k]
            entry[:] = a[j, k]
            for m in range(k):
                _subtract_product(entry, out[j, m], out[k, m])
            if k < j:
                _divide(entry, out[k, k])
            else:
                for lane in range(LANES):
                    entry[lane] = np.sqrt(entry[lane])


@njit(**KERNEL)
def _solve(lower, b):
    """Overwrite b by the solution of ``L L' c = b``, in every lane."""
    rank = b.shape[0]
    for j in range(rank):
        for k in range(j):
            _subtract_product(b[j], lower[j, k], b[k])
        _divide(b[j], lower[j, j])
    for j in range(rank - 1, -1, -1):
        for k in range(j + 1, rank):
            _subtract_product(b[j], lower[k, j], b[k])
        _divide(b[j], lower[j, j])


@njit(**KERNEL)
def _invert(lower, out):
    """Inverse of a lower triangle, in every lane."""
    rank = lower.shape[0]
    for j in range(rank):
        for i in range(j, rank):
            entry = out[i, j]
            entry[:] = 1.0 if i == j else 0.0
            for m in range(j, i):
                _subtract_product(entry, lower[i, m], out[m, j])
            _divide(entry, lower[i, i])


@njit(**KERNEL)
def _is_safe(lower, design_lower, rank, lane):
    """Whether the normal equations of a lane are far from singular."""
    for j in range(rank):
        whole = designed = 0.0
        for k in range(j + 1):
            whole += lower[j, k, lane] ** 2
            designed += design_lower[j, k, lane] ** 2
        pivot, own = lower[j, j, lane] ** 2, design_lower[j, j, lane] ** 2
        # Written so that NaN, from the root of a negative pivot, is not safe. The second part
        # keeps clear of the tolerance below which a column counts as a combination of others.
        if not (pivot > SAFE * whole and own > 100.0 * RANK_TOLERANCE**2 * designed):
            return False
    return True


@njit(**KERNEL)
def _orthonormal(root, design, q, r, kept):
    """Gram-Schmidt of a weighted design: its rank, and the basis in the first rows of q.

    Parameters
    ----------
    root : float64[::1], shape (n_samples,)
        Square roots of the weights; 0 for a sample to leave out.
    design : float64[:, ::1], shape (n_coefficients, n_samples)
        Transposed.
    q : float64[:, ::1], shape (>= n_coefficients, n_samples)
        Overwritten; orthonormal rows.
    r : float64[:, ::1], shape (n_coefficients, n_coefficients)
        Overwritten; upper triangular, for the columns that count.
    kept : int64[::1], shape (n_coefficients,)
        Overwritten with the columns that count. Earlier ones win: one that is a combination of
        those before it does not.

    Notes
    -----
    Each column is cleared twice (Giraud et al. 2005: orthogonal to rounding).
    """
    n_coefficients, n = design.shape
    r[:] = 0.0
    rank = 0
    for j in range(n_coefficients):
        column = q[rank]
        whole = 0.0
        for i in range(n):
            column[i] = root[i] * design[j, i]
            whole += column[i] * column[i]
        for _ in range(2):
            for k in range(rank):
                product = 0.0
                for i in range(n):
                    product += q[k, i] * column[i]
                for i in range(n):
                    column[i] -= product * q[k, i]
                r[k, rank] += product
        left = 0.0
        for i in range(n):
            left += column[i] * column[i]
        length = np.sqrt(left)
        if length > 0.0 and length >= RANK_TOLERANCE * np.sqrt(whole):
            for i in range(n):
                column[i] /= length
            r[rank, rank] = length
            kept[rank] = j
            rank += 1
        else:
            for k in range(rank):
                r[k, rank] = 0.0
    return rank


@njit(**KERNEL)
def _residuals(q, rank, z, c):
    """Overwrite z by its part outside the first `rank` rows of q, and c by the part inside."""
    c[:] = 0.0
    for _ in range(2):
        for k in range(rank):
            product = 0.0
            for i in range(z.size):
                product += q[k, i] * z[i]
            for i in range(z.size):
                z[i] -= product * q[k, i]
            c[k] += product


@njit(**KERNEL)
def _by_columns(values, weights, design, contrasts, q, z, coefficients, stdev, contrast_stdev):
    """Weighted least squares of one row, column of the design by column.

    Parameters
    ----------
    values, weights : float64[::1], shape (n_samples,)
        Weight 0 where the value is missing.
    design : float64[:, ::1], shape (n_coefficients, n_samples)
        Transposed.
    contrasts : float64[:, ::1], shape (n_contrasts, n_coefficients)
    q : float64[:, ::1], shape (n_coefficients, n_samples)
    z : float64[::1], shape (n_samples,)
        Room.
    coefficients, stdev, contrast_stdev
        Rows to fill; NaN where not estimable.

    Returns
    -------
    rank : int
    squares : float

    Notes
    -----
    Not in lanes: for the few rows whose normal equations are close to singular.
    """
    n_coefficients, n = design.shape
    r = np.empty((n_coefficients, n_coefficients))
    kept = np.empty(n_coefficients, np.int64)
    for i in range(n):
        z[i] = np.sqrt(weights[i])
    rank = _orthonormal(z, design, q, r, kept)
    for i in range(n):
        z[i] *= values[i]
    c = np.empty(rank)
    _residuals(q, rank, z, c)
    squares = 0.0
    for i in range(n):
        squares += z[i] * z[i]
    coefficients[:] = np.nan
    stdev[:] = np.nan
    inverse = np.zeros((rank, rank))
    for k in range(rank - 1, -1, -1):
        for m in range(k + 1, rank):
            c[k] -= r[k, m] * c[m]
        c[k] /= r[k, k]
        inverse[k, k] = 1.0 / r[k, k]
        for m in range(k + 1, rank):
            total = 0.0
            for j in range(k + 1, m + 1):
                total += r[k, j] * inverse[j, m]
            inverse[k, m] = -total / r[k, k]
        length = 0.0
        for m in range(k, rank):
            length += inverse[k, m] ** 2
        coefficients[kept[k]] = c[k]
        stdev[kept[k]] = np.sqrt(length)
    for j in range(contrasts.shape[0]):
        reached = 0.0
        for m in range(rank):
            total = 0.0
            for k in range(m + 1):
                total += inverse[k, m] * contrasts[j, kept[k]]
            reached += total * total
        for k in range(n_coefficients):
            if contrasts[j, k] != 0.0 and not np.isfinite(coefficients[k]):
                reached = np.nan
        contrast_stdev[j] = np.sqrt(reached)
    return rank, squares


@njit(**KERNEL)
def weighted(
    values, weights, basis, factor, contrasts, coefficients, stdev, contrast_stdev, squares, df
):
    """Least squares of every row with weights of its own, or with missing values.

    Parameters
    ----------
    values, weights : float64[:, ::1], shape (n_features, n_samples)
        A sample is left out of a row where its value is not finite, or its weight not finite or
        not positive.
    basis, factor : float64[:, ::1], shapes (n_samples, rank) and (rank, rank)
        Q and R of the design; R upper triangular.
    contrasts : float64[:, ::1], shape (n_contrasts, rank)
        Combinations of the coefficients whose standard errors are wanted; may be none.
    coefficients, stdev : float64[:, ::1], shape (n_features, rank)
        Overwritten with the coefficients and ``sqrt(diag((X'WX)**-1))``; NaN where the samples
        of a row do not determine a coefficient.
    contrast_stdev : float64[:, ::1], shape (n_features, n_contrasts)
        Overwritten with ``sqrt(c'(X'WX)**-1 c)``.
    squares, df : float64[::1], shape (n_features,)
        Overwritten with ``sum w r**2`` and the samples less the rank.

    Notes
    -----
    Definition: Cholesky of ``Q'WQ``, whose condition is that of the weights alone, and one
    refinement with the residuals, which brings the coefficients to the accuracy of a QR
    (Björck 1987). Rows where pivots are small are done by :func:`_by_columns`.
    Cost: about ``n rank (rank + 6) / 2`` multiplications a row.
    """
    n_features, n = values.shape
    rank, n_contrasts = factor.shape[0], contrasts.shape[0]
    y, w = np.empty((n, LANES)), np.empty((n, LANES))
    gram, lower = np.empty((rank, rank, LANES)), np.empty((rank, rank, LANES))
    scaled, inverse = np.empty((rank, rank, LANES)), np.empty((rank, rank, LANES))
    c, step, pull = np.empty((rank, LANES)), np.empty((rank, LANES)), np.empty((rank, LANES))
    left, total, part = np.empty(LANES), np.empty(LANES), np.empty(LANES)
    present = np.empty(LANES, np.int64)
    design = np.zeros((rank, n))
    for j in range(rank):
        for i in range(n):
            for k in range(j + 1):
                design[j, i] += basis[i, k] * factor[k, j]
    room, plain, plain_weights = np.empty((rank, n)), np.empty(n), np.empty(n)
    plain_values = np.empty(n)
    for first in range(0, n_features, LANES):
        lanes = min(LANES, n_features - first)
        # Lanes past the last feature hold a harmless fit.
        y[:] = 0.0
        w[:] = 1.0
        for lane in range(lanes):
            row, row_weights = values[first + lane], weights[first + lane]
            count = 0
            for i in range(n):
                here = np.isfinite(row[i]) and row_weights[i] > 0.0 and row_weights[i] < np.inf
                y[i, lane] = row[i] if here else 0.0
                w[i, lane] = row_weights[i] if here else 0.0
                count += here
            present[lane] = count
        gram[:] = 0.0
        c[:] = 0.0
        for i in range(n):
            for j in range(rank):
                _weigh(part, w[i], y[i])
                _add_product(c[j], basis[i, j], part)
                for k in range(j + 1):
                    _add_product(gram[j, k], basis[i, j] * basis[i, k], w[i])
        _cholesky(gram, lower)
        _solve(lower, c)
        total[:] = 0.0
        pull[:] = 0.0
        for i in range(n):
            left[:] = y[i]
            for k in range(rank):
                _add_product(left, -basis[i, k], c[k])
            _add_square(total, w[i], left)
            _weigh(part, w[i], left)
            for k in range(rank):
                _add_product(pull[k], basis[i, k], part)
        step[:] = pull
        _solve(lower, step)
        for k in range(rank):
            _subtract_product(total, step[k], pull[k])
            for lane in range(LANES):
                c[k, lane] += step[k, lane]
        # R'L is the Cholesky factor of X'WX.
        for j in range(rank):
            for k in range(j + 1):
                scaled[j, k] = 0.0
                for m in range(k, j + 1):
                    _add_product(scaled[j, k], factor[m, j], lower[m, k])
        _invert(scaled, inverse)
        for k in range(rank - 1, -1, -1):
            for m in range(k + 1, rank):
                _add_product(c[k], -factor[k, m], c[m])
            for lane in range(LANES):
                c[k, lane] /= factor[k, k]
        for lane in range(lanes):
            g = first + lane
            if not _is_safe(lower, scaled, rank, lane):
                for i in range(n):
                    plain_values[i], plain_weights[i] = y[i, lane], w[i, lane]
                found, squares[g] = _by_columns(
                    plain_values,
                    plain_weights,
                    design,
                    contrasts,
                    room,
                    plain,
                    coefficients[g],
                    stdev[g],
                    contrast_stdev[g],
                )
                df[g] = present[lane] - found
                continue
            df[g] = present[lane] - rank
            squares[g] = total[lane] if total[lane] > 0.0 else 0.0
            for k in range(rank):
                coefficients[g, k] = c[k, lane]
                length = 0.0
                for m in range(k, rank):
                    length += inverse[m, k, lane] ** 2
                stdev[g, k] = np.sqrt(length)
            for j in range(n_contrasts):
                reached = 0.0
                for m in range(rank):
                    along = 0.0
                    for k in range(m + 1):
                        along += inverse[m, k, lane] * contrasts[j, k]
                    reached += along * along
                contrast_stdev[g, j] = np.sqrt(reached)


@njit(**KERNEL)
def quality_by_gene(values, weights, design, prior, log_variance):
    """Log variance of the samples, learned from one feature after another.

    Parameters
    ----------
    values, weights : float64[:, ::1], shape (n_features, n_samples)
        A sample is left out of a row as in :func:`weighted`.
    design : float64[:, ::1], shape (n_coefficients, n_samples)
        Transposed.
    prior : float
        Features' worth of information that all samples are alike.
    log_variance : float64[::1], shape (n_samples,)
        Overwritten; sums to 0.

    Notes
    -----
    Definition: one scoring step a feature for the log variances ``Z g``, with the information of
    all features so far. Z is the identity over a row of -1, so that they sum to 0. The score of
    a feature is ``Z'(w r**2 / s**2 - (1 - h))`` with h the leverages; its information is that of
    a gamma model with weights ``1 - h``, after its own variance has been eliminated.
    Cost: a Cholesky of order ``n_samples - 1`` a feature.
    Source: Ritchie 2006, "gene-by-gene update algorithm".
    """
    n_features, n = values.shape
    m = n - 1
    n_coefficients = design.shape[0]
    q, r = np.empty((n_coefficients, n)), np.empty((n_coefficients, n_coefficients))
    kept, inside = np.empty(n_coefficients, np.int64), np.empty(n_coefficients)
    root, z, free, score = np.empty(n), np.empty(n), np.empty(n), np.empty(n)
    information, lower, step = np.empty((m, m)), np.empty((m, m)), np.empty(m)
    for j in range(m):
        for k in range(m):
            information[j, k] = 2.0 * prior if j == k else prior
    log_variance[:] = 0.0
    for g in range(n_features):
        observed = 0
        for i in range(n):
            w, y = weights[g, i], values[g, i]
            here = np.isfinite(y) and w > 0.0 and w < np.inf
            observed += here
            root[i] = np.sqrt(w * np.exp(-log_variance[i])) if here else 0.0
            z[i] = root[i] * y if here else 0.0
        rank = _orthonormal(root, design, q, r, kept)
        df = observed - rank
        if df <= 0:
            continue
        _residuals(q, rank, z, inside)
        squares = whole = 0.0
        for i in range(n):
            squares += z[i] * z[i]
            free[i] = 1.0 if root[i] > 0.0 else 0.0
            for k in range(rank):
                free[i] -= q[k, i] * q[k, i]
            if root[i] == 0.0:
                free[i] = 0.0
            whole += free[i]
        if squares / df < NO_VARIANCE:
            continue
        for i in range(n):
            score[i] = z[i] * z[i] * df / squares - free[i]
        for j in range(m):
            step[j] = score[j] - score[m]
            for k in range(j + 1):
                grown = free[m] - (free[j] - free[m]) * (free[k] - free[m]) / whole
                information[j, k] += grown + free[j] if j == k else grown
        for j in range(m):
            for k in range(j + 1):
                entry = information[j, k]
                for i in range(k):
                    entry -= lower[j, i] * lower[k, i]
                lower[j, k] = np.sqrt(entry) if j == k else entry / lower[k, k]
        for j in range(m):
            for k in range(j):
                step[j] -= lower[j, k] * step[k]
            step[j] /= lower[j, j]
        for j in range(m - 1, -1, -1):
            for k in range(j + 1, m):
                step[j] -= lower[k, j] * step[k]
            step[j] /= lower[j, j]
        for j in range(m):
            log_variance[j] += step[j]
            log_variance[m] -= step[j]


@njit(**INLINE)
def _cell(x, first, per_unit, last):
    """Cell of an even grid; never lower for a larger x."""
    return int(min(max((x - first) * per_unit, 0.0), last))


@njit(**KERNEL)
def precision_weights(coefficients, design, offset, line_x, line_y, out):
    """``f(x'b + offset)**-4`` of every row and sample, f linear between the points of a line.

    Parameters
    ----------
    coefficients : float64[:, ::1], shape (n_features, rank)
    design : float64[:, ::1], shape (n_samples, rank)
    offset : float64[::1], shape (n_samples,)
    line_x, line_y : float64[::1], shape (n_points,)
        x strictly ascending; f is constant before the first and after the last.
    out : float64[:, ::1], shape (n_features, n_samples)
        Overwritten; NaN where the fitted value is.

    Notes
    -----
    Cost: a look into a grid of twice as many cells as points leaves few points to search.
    """
    n_points, n_cells = line_x.size, 2 * line_x.size
    start, end = line_x[0], line_x[n_points - 1]
    per_unit = n_cells / (end - start) if n_points > 1 else 0.0
    last = float(n_cells - 1)
    # before[k]: points in the cells before cell k.
    before = np.zeros(n_cells + 1, np.int64)
    for x in line_x:
        before[_cell(x, start, per_unit, last) + 1] += 1
    for k in range(n_cells):
        before[k + 1] += before[k]
    for g in range(coefficients.shape[0]):
        b, into = coefficients[g], out[g]
        for i in range(offset.size):
            x = 0.0
            for k in range(b.size):
                x += design[i, k] * b[k]
            x += offset[i]
            if x != x:
                into[i] = np.nan
                continue
            if x <= start:
                value = line_y[0]
            elif x >= end:
                value = line_y[n_points - 1]
            else:
                k = _cell(x, start, per_unit, last)
                # line_x[low] <= x < line_x[high]
                low, high = max(before[k] - 1, 0), min(before[k + 1], n_points - 1)
                while high - low > 1:
                    middle = (low + high) // 2
                    if line_x[middle] <= x:
                        low = middle
                    else:
                        high = middle
                value = line_y[low] + (line_y[high] - line_y[low]) * (
                    (x - line_x[low]) / (line_x[high] - line_x[low])
                )
            square = value * value
            into[i] = 1.0 / (square * square)
