"""Mann-Whitney U of many groups of cells against one control group, over stored (sparse) values.

``2 U = sum over target cells of (2 #control < v + #control = v)``: U is additive over target
cells, so no group is ever sorted or merged with the control. Each feature has one table of the
control group; a value is looked up in it. Two kinds of table:

* sorted distinct values behind a bucket index, for any values. Rows are transposed into a scratch
  of a few groups, so that each table is loaded into the cache once per batch of groups;
* counts by value, for small non-negative integers. A group's values are counted the same way,
  straight from its rows, and everything follows from the two histograms.

Zeros are never stored: what is missing from the stored values is zero.
"""

import numpy as np
from numba import int64, njit

from condrand.kernels import INLINE, KERNEL
from condrand.kernels.elementary import bits_of, exp, float_of, log1p

# How a value enters means and sums of squares, and what its natural value is.
LOG1P = 0  # log1p(f v); f v
LOGGED = 1  # v, a log1p already; expm1(v)
PLAIN = 2  # v; v

# Sums that are wanted.
SQUARES = 1
NATURAL = 2

# Codes of a refused value.
FINE = 0
NOT_FINITE = 1
NEGATIVE = 2
NOT_A_COUNT = 3

_ABSOLUTE = np.uint64(0x7FFFFFFFFFFFFFFF)
_LARGEST_KEY = np.int64(0x7FFFFFFFFFFFFFFF)
_SIGN = np.int64(63)
_HIGHEST = np.finfo(np.float64).max
# Longer buckets are bisected first.
_LONG_BUCKET = 8
# So many values are compared pair by pair, rather than sorted.
_FEW = 16
_COUNT_LIMIT = 2.0**31 - 2.0


@njit(**INLINE)
def _key(value):
    """An int64 that orders as the float64 does."""
    bits = int64(bits_of(value))
    return bits ^ ((bits >> _SIGN) & _LARGEST_KEY)


@njit(**INLINE)
def _value(key):
    """The float64 of a :func:`_key`, which is its own inverse."""
    return float_of(np.uint64(key ^ ((key >> _SIGN) & _LARGEST_KEY)))


@njit(**INLINE)
def not_negative(i):
    """The same index, for numba not to ask whether it counts from the end."""
    return np.uint64(i)


@njit(**INLINE)
def _bucket(key, edge):
    """Bucket of a key: monotone, by its leading bits, separately below and from zero."""
    low = edge[0] if key < 0 else edge[1]
    last = edge[2] if key < 0 else edge[3]
    first = 0 if key < 0 else edge[2] + 1
    return first + min(max(key - low, int64(0)) >> edge[4], last)


@njit(**INLINE)
def cube_less(t):
    """``t**3 - t`` of a tie class of t cells, as float64."""
    t = float(t)
    return (t - 1.0) * t * (t + 1.0)


@njit(**KERNEL)
def count_in_rows(values, order):
    """Nonzeros in some rows of a dense matrix."""
    count = 0
    for i in range(order.size):
        row = values[order[i]]
        for j in range(row.size):
            count += row[j] != 0
    return count


@njit(**KERNEL)
def compress_rows(values, order, data, indices, indptr):
    """The nonzeros of rows of a dense matrix as CSR.

    Parameters
    ----------
    values : float32, float64 or int32 [:, ::1], shape (n_rows, n_features)
    order : int64[::1], shape (n_cells,)
        Which rows, in which order.
    data, indices : [::1], shape (nonzeros + 1,)
        Overwritten; the dtype of `values`, int32.
    indptr : int64[::1], shape (n_cells + 1,)
    """
    at = 0
    indptr[0] = 0
    for i in range(order.size):
        row = values[order[i]]
        for j in range(row.size):
            data[at] = row[j]
            indices[at] = j
            at += row[j] != 0
        indptr[i + 1] = at


@njit(**KERNEL)
def look_at_rows(data, indptr, order, totals, found):
    """Sums of rows, and what their values are.

    Parameters
    ----------
    data, indptr : float32, float64 or int32 [::1], int64[::1]
        Values of row i are ``data[indptr[i] : indptr[i + 1]]``.
    order : int64[::1], shape (n_cells,)
        Row of each cell.
    totals : float64[::1], shape (n_cells,)
        Receives the sums.
    found : float64[::1], shape (4,)
        Receives how many values are not finite, negative, and finite but no integers, and the
        largest.
    """
    not_finite, negative, fractional = int64(0), int64(0), int64(0)
    largest = 0.0
    for c in range(totals.size):
        i = order[c]
        total = 0.0
        for e in range(indptr[i], indptr[i + 1]):
            value = float(data[e])
            total += value
            finite = abs(value) <= _HIGHEST
            not_finite += not finite
            negative += value < 0.0
            fractional += finite & (np.floor(value) != value)
            largest = value if value > largest else largest
        totals[c] = total
    found[0] = not_finite
    found[1] = negative
    found[2] = fractional
    found[3] = largest


@njit(**KERNEL)
def count_by_feature(data, indices, indptr, start, order, first, last, count):
    """Nonzeros of each feature in the cells `first` to `last`.

    Parameters
    ----------
    data, indices, indptr, start, order
        As in :func:`transpose_groups`.
    first, last : int
        Range of cells, half open.
    count : int64[::1], shape (n_features,)
        Overwritten.
    """
    count[:] = 0
    for c in range(first, last):
        i = order[c]
        for e in range(indptr[i] - start, indptr[i + 1] - start):
            count[not_negative(indices[e])] += data[e] != 0


@njit(**KERNEL)
def transpose_groups(
    data, indices, indptr, start, order, group_ptr, library, column, cursor, ends, values
):
    """Nonzeros of consecutive groups of rows, ordered by feature, then group, then cell.

    Parameters
    ----------
    data, indices, indptr : float32, float64 or int32 [::1], int32[::1], int64[::1]
        CSR. Explicit zeros are left out.
    start : int
        What to subtract from `indptr` to index `data`.
    order : int64[::1], shape (n_cells,)
        Row of each cell.
    group_ptr : int64[::1], shape (n_groups + 1,)
        First cell of each group.
    library : float64[::1], shape (n_rows,) or (0,)
        Divisor of each row; none if empty.
    column : int64[::1], shape (n_features + 1,)
        Where each feature starts in `values`.
    cursor : int64[::1], shape (n_features,)
        Where the next value of each feature goes; advanced.
    ends : int32[:, ::1], shape (n_groups, n_features)
        Receives where each group's values of a feature end, counted from ``column``.
    values : float64[::1], shape (at least the nonzeros of these rows,)
        Receives the values, divided.

    Returns
    -------
    int
        FINE, NOT_FINITE or, if any is negative, NEGATIVE.

    Notes
    -----
    Cost: one scattered write per nonzero.
    """
    worst = FINE
    for g in range(group_ptr.size - 1):
        for c in range(group_ptr[g], group_ptr[g + 1]):
            i = order[c]
            divisor = library[i] if library.size else 1.0
            divided = library.size > 0
            for e in range(indptr[i] - start, indptr[i + 1] - start):
                value = float(data[e])
                if value != 0.0:
                    if divided:
                        value /= divisor
                    if not (0.0 < value <= _HIGHEST):
                        if not abs(value) <= _HIGHEST:
                            return NOT_FINITE
                        worst = NEGATIVE
                    j = not_negative(indices[e])
                    values[not_negative(cursor[j])] = value
                    cursor[j] += 1
        for j in range(cursor.size):
            ends[g, j] = cursor[j] - column[j]
    return worst


@njit(**KERNEL)
def _natural(values, total, measure, factor, work):
    """Sum of natural values; `total` is the sum of these values as they are, where they are."""
    natural = 0.0
    if measure == LOG1P:
        for e in range(values.size):
            natural += values[e] * factor
    elif measure == LOGGED:
        for e in range(values.size):
            work[e] = exp(values[e]) - 1.0
        for e in range(values.size):
            natural += work[e]
    else:
        natural = total
    return natural


@njit(**INLINE)
def squares_from(squares, gaps, mean, n_zeros, n_cells):
    """Squared deviations from the mean, from those of nonzeros and their sum.

    The mean is rounded: without the sum of the deviations a constant would seem to vary.
    """
    gaps = gaps - n_zeros * mean
    squares = squares + n_zeros * mean * mean
    return max(squares - gaps * gaps / n_cells, 0.0) if n_cells > 0 else 0.0


@njit(**KERNEL)
def _squares(scaled, total, n_zeros):
    """Squared deviations from their mean, of some values and zeros."""
    n = scaled.size
    mean = total / (n + n_zeros) if n + n_zeros > 0 else 0.0
    squares, gaps = 0.0, 0.0
    for e in range(n):
        gap = scaled[e] - mean
        squares += gap * gap
        gaps += gap
    return squares_from(squares, gaps, mean, n_zeros, n + n_zeros)


@njit(**KERNEL)
def _measure(values, n_zeros, measure, factor, wanted, work, sums):
    """Sum, squared deviations from the mean, and natural sum of some values and zeros.

    Of the last two only what is wanted: bits SQUARES and NATURAL.
    """
    scaled = values
    if measure == LOG1P:
        for e in range(values.size):
            work[e] = log1p(values[e] * factor)
        scaled = work[: values.size]
    total = 0.0
    for e in range(values.size):
        total += scaled[e]
    sums[0] = total
    if wanted & SQUARES:
        sums[1] = _squares(scaled, total, n_zeros)
    if wanted & NATURAL:
        sums[2] = _natural(values, total, measure, factor, work)


@njit(**KERNEL)
def edges_of_features(first, last, column, values, per_key, edges, n_buckets):
    """How the bucket index of features `first` to `last` maps keys to buckets.

    Parameters
    ----------
    first, last : int
        Range of features, half open.
    column : int64[::1], shape (n_features + 1,)
    values : float64[::1], shape (n_stored,)
        Nonzeros by feature.
    per_key : int
        At most so many buckets per stored value.
    edges : int64[:, ::1], shape (n_features, 5)
        Receives the smallest negative and the smallest positive key, the last bucket of the
        negative and of the other keys, and by how many bits keys are shifted.
    n_buckets : int64[::1], shape (n_features,)
        Receives the number of buckets, with one more for their end.
    """
    for j in range(first, last):
        low_negative, high_negative = int64(-1), -_LARGEST_KEY
        low_positive, high_positive = _LARGEST_KEY, int64(0)
        for e in range(column[j], column[j + 1]):
            key = _key(values[e])
            if key < 0:
                low_negative = min(low_negative, key)
                high_negative = max(high_negative, key)
            else:
                low_positive = min(low_positive, key)
                high_positive = max(high_positive, key)
        below = max(high_negative - low_negative, int64(0)) if low_negative < -1 else int64(0)
        above = max(high_positive - low_positive, int64(0)) if high_positive > 0 else int64(0)
        most = per_key * (column[j + 1] - column[j])
        shift = int64(0)
        while (below >> shift) + (above >> shift) > most:
            shift += 1
        edges[j, 0] = low_negative
        edges[j, 1] = low_positive
        edges[j, 2] = below >> shift
        edges[j, 3] = above >> shift
        edges[j, 4] = shift
        n_buckets[j] = (below >> shift) + (above >> shift) + 3


@njit(**KERNEL)
def fill_tables(
    first, last, n_cells, column, values, measure, factor, wanted, edges, bucket_ptr, keys, below,
    buckets, n_distinct, own_ties, sums,
):  # fmt: skip
    """Tables of the control group for features `first` to `last`.

    Parameters
    ----------
    first, last : int
        Range of features, half open.
    n_cells : int
        Cells of the control group.
    column, values : int64[::1], float64[::1]
        Nonzeros by feature.
    measure, factor : int, float
        How values enter the sums.
    wanted : int
        Which sums, beside the first: bits SQUARES and NATURAL.
    edges, bucket_ptr
        From :func:`edges_of_features`, and the offsets of the features' buckets.
    keys : int64[::1], shape (n_stored + 2 n_features,)
        Receives, from ``column[j] + 2 j``, the distinct keys of feature j, that of zero among
        them where it occurs, and a key above all.
    below : int32[::1], shape of `keys`
        Receives the control cells below each key.
    buckets : int32[::1], shape (bucket_ptr[-1],)
        Receives, for each bucket, how many distinct keys lie in earlier ones.
    n_distinct : int64[::1], shape (n_features,)
        Receives the number of keys, but the last.
    own_ties : float64[::1], shape (n_features,)
        Receives the sum of ``t**3 - t`` over the tie classes of nonzero values.
    sums : float64[:, ::1], shape (3, n_features)
        Receives sum and, if wanted, squared deviations from the mean and natural sum.

    Notes
    -----
    Cost: a bucket sort, linear in the nonzeros unless values crowd in few buckets.
    """
    longest = 1
    for j in range(first, last):
        longest = max(longest, column[j + 1] - column[j])
    work = np.empty(longest)
    ordered = np.empty(longest, np.int64)
    own = np.empty(3)
    for j in range(first, last):
        part = values[column[j] : column[j + 1]]
        n = part.size
        _measure(part, n_cells - n, measure, factor, wanted, work, own)
        for k in range(3):
            sums[k, j] = own[k]
        edge = edges[j]
        bucket = buckets[bucket_ptr[j] : bucket_ptr[j + 1]]
        bucket[:] = 0
        for e in range(n):
            bucket[_bucket(_key(part[e]), edge) + 1] += 1
        for b in range(1, bucket.size):
            bucket[b] += bucket[b - 1]
        for e in range(n):
            key = _key(part[e])
            b = _bucket(key, edge)
            ordered[bucket[b]] = key
            bucket[b] += 1
        # Now bucket[b] is the end of bucket b.
        begin = 0
        for b in range(bucket.size):
            end = bucket[b]
            if end - begin > 24:
                ordered[begin:end].sort()
            else:
                for e in range(begin + 1, end):
                    key = ordered[e]
                    at = e
                    while at > begin and ordered[at - 1] > key:
                        ordered[at] = ordered[at - 1]
                        at -= 1
                    ordered[at] = key
            begin = max(begin, end)
        offset = column[j] + 2 * j
        n_keys = 0
        cells = 0
        ties = 0.0
        zeros = n_cells - n
        next_bucket = 0
        e = 0
        while e < n or zeros > 0:
            if zeros > 0 and (e >= n or ordered[e] > 0):
                key = int64(0)
                t = zeros
                zeros = 0
            else:
                key = ordered[e]
                t = 1
                e += 1
                while e < n and ordered[e] == key:
                    t += 1
                    e += 1
                ties += cube_less(t)
            b = _bucket(key, edge)
            while next_bucket <= b:
                bucket[next_bucket] = n_keys
                next_bucket += 1
            keys[offset + n_keys] = key
            below[offset + n_keys] = cells
            n_keys += 1
            cells += t
        keys[offset + n_keys] = _LARGEST_KEY
        below[offset + n_keys] = cells
        while next_bucket < bucket.size:
            bucket[next_bucket] = n_keys
            next_bucket += 1
        n_distinct[j] = n_keys
        own_ties[j] = ties


@njit(**KERNEL)
def _repeated_ties(values, slots, less, repeats, n_repeats, latest, seen, crowd):
    """What values in slots already taken add to the sum of ``t**3 - t``.

    The latest value of each slot counts already. An odd slot is a value of the control
    group; an even one is a gap between two, where values may differ.
    """
    ties = 0.0
    n_others = 0
    for r in range(n_repeats):
        e = repeats[r]
        slot = slots[e]
        if slot & 1 or values[e] == values[latest[slot]]:
            seen[slot] += 1
            of_control = less[(slot >> 1) + (slot & 1)] - less[slot >> 1]
            t = float(of_control + seen[slot])
            ties += 3.0 * t * (t + 1.0)
        else:
            crowd[n_others] = values[e]
            n_others += 1
    for r in range(n_repeats):
        seen[slots[repeats[r]]] = 0
    # Mostly few and all different: seen without a branch, and without a sort.
    equal = n_others > _FEW
    if not equal:
        for e in range(1, n_others):
            for f in range(e):
                equal |= crowd[f] == crowd[e]
    if equal:
        others = crowd[:n_others]
        others.sort()
        e = 0
        while e < n_others:
            begin = e
            while e < n_others and others[e] == others[begin]:
                e += 1
            ties += cube_less(e - begin)
    return ties


@njit(**KERNEL)
def sums_by_look_up(
    column, ends, values, n_cells, measure, factor, wanted, edges, bucket_ptr, key_ptr, keys,
    below, buckets, latest, seen, slots, repeats, work, crowd, two_u, ties, n_nonzero, sums,
):  # fmt: skip
    """2U, ties and sums of a batch of groups over all features.

    Parameters
    ----------
    column, ends, values
        From :func:`transpose_groups`.
    n_cells : int64[::1], shape (n_groups,)
        Cells of each group.
    measure, factor, wanted : int, float, int
    edges, bucket_ptr, keys, below, buckets
        From :func:`fill_tables`; ``key_ptr[j]`` is where the keys of feature j start.
    latest, seen : int32[::1], shape (2 * (1 + most distinct keys),)
        Scratch; `seen` is zero before and after.
    slots, repeats, work, crowd : int32[::1], int32[::1], float64[::1], float64[::1]
        Scratch of the longest feature, one more for `repeats`.
    two_u, n_nonzero : int64[:, ::1], int64[:, ::1], shape (n_groups, n_features)
        Receive twice the U of the stored values and their number.
    ties : float64[:, ::1], shape (n_groups, n_features)
        Receives by how much the sum of ``t**3 - t`` grows over the control group's own, zeros
        left out.
    sums : float64[:, :, ::1], shape (3, n_groups, n_features)

    Notes
    -----
    Definition: when a tie class grows from t to t + 1 cells, ``t**3 - t`` grows by 3 t (t + 1).
    Error: 2U exact; ties exact below 2**53, then rounded once per cell.
    """
    n_groups = n_cells.size
    for j in range(column.size - 1):
        begin, stop = column[j], column[j + 1]
        edge_low, edge_high = edges[j, 0], edges[j, 1]
        last_low, last_high, shift = edges[j, 2], edges[j, 3], edges[j, 4]
        bucket = buckets[bucket_ptr[j] : bucket_ptr[j + 1]]
        key = keys[key_ptr[j] : key_ptr[j + 1]]
        less = below[key_ptr[j] : key_ptr[j + 1]]
        for e in range(begin, stop):
            k = _key(values[e])
            low = edge_low if k < 0 else edge_high
            last = last_low if k < 0 else last_high
            first = int64(0) if k < 0 else last_low + 1
            b = first + min(max(k - low, int64(0)) >> shift, last)
            at = int64(bucket[not_negative(b)])
            end = int64(bucket[not_negative(b + 1)])
            while end - at > _LONG_BUCKET:
                middle = (at + end) >> 1
                if key[middle] < k:
                    at = middle + 1
                else:
                    end = middle
            # Most buckets hold one key or none: one step without a branch, few more to mispredict.
            at += key[not_negative(at)] < k
            while key[not_negative(at)] < k:
                at += 1
            slots[not_negative(e - begin)] = np.int32(2 * at + (key[not_negative(at)] == k))
        scaled = values[begin:stop]
        if measure == LOG1P:
            for e in range(stop - begin):
                work[e] = log1p(values[begin + e] * factor)
            scaled = work[: stop - begin]
        at = 0
        for g in range(n_groups):
            end = int64(ends[g, j])
            n = end - at
            part = values[begin + at : begin + end]
            slot_of = slots[at:end]
            scaled_of = scaled[at:end]
            # Stores, then loads: one loop of both would make loads wait for the stores.
            for e in range(n):
                latest[not_negative(slot_of[e])] = e
            twice = int64(0)
            grown = 0.0
            total = 0.0
            n_repeats = 0
            for e in range(n):
                slot = slot_of[e]
                total += scaled_of[e]
                smaller = less[not_negative(slot >> 1)]
                upto = less[not_negative((slot >> 1) + (slot & 1))]
                twice += int64(smaller) + int64(upto)
                repeated = latest[not_negative(slot)] != e
                t = 0.0 if repeated else float(upto - smaller)
                grown += 3.0 * t * (t + 1.0)
                repeats[not_negative(n_repeats)] = e
                n_repeats += repeated
            if n_repeats > 0:
                grown += _repeated_ties(
                    part, slot_of, less, repeats, n_repeats, latest, seen, crowd
                )
            two_u[g, j] = twice
            ties[g, j] = grown
            n_nonzero[g, j] = n
            sums[0, g, j] = total
            if wanted & SQUARES:
                sums[1, g, j] = _squares(scaled_of, total, n_cells[g] - n)
            if wanted & NATURAL:
                sums[2, g, j] = _natural(part, total, measure, factor, work)
            at = end


@njit(**INLINE)
def _scaled(value, measure, factor):
    """What a value adds to the sum, and its natural value."""
    if measure == LOG1P:
        scaled, natural = log1p(value * factor), value * factor
    elif measure == LOGGED:
        scaled, natural = value, exp(value) - 1.0
    else:
        scaled, natural = value, value
    return scaled, natural


@njit(**KERNEL)
def scale_counts(measure, factor, scaled, natural):
    """Sums' part and natural value of the counts 0, 1, ... into float64[::1] of one length."""
    for count in range(scaled.size):
        scaled[count], natural[count] = _scaled(float(count), measure, factor)


@njit(**KERNEL)
def limits_of_counts(first, last, column, values, least, most, share, limits, n_above):
    """The largest count of each of the features `first` to `last` that its table holds.

    Parameters
    ----------
    first, last : int
        Range of features, half open.
    column, values : int64[::1], float64[::1]
        Nonzero counts by feature.
    least, most : int
        Bounds of the limit.
    share : float
        The limit leaves out at most this share of the nonzero counts, `most` permitting.
    limits, n_above : int64[::1], shape (n_features,)
        Receive the limit, and how many counts are above it.

    Returns
    -------
    int
        FINE or NOT_A_COUNT.
    """
    seen = np.zeros(most + 2, np.int64)
    for j in range(first, last):
        n = column[j + 1] - column[j]
        highest = 0
        for e in range(column[j], column[j + 1]):
            count = int64(values[e])
            if float(count) != values[e] or count < 0 or values[e] > _COUNT_LIMIT:
                return NOT_A_COUNT
            highest = max(highest, min(count, most + 1))
            seen[min(count, most + 1)] += 1
        above = seen[most + 1]
        limit = min(highest, most)
        while limit > least and above + seen[limit] <= share * n:
            above += seen[limit]
            limit -= 1
        limits[j] = max(limit, least)
        n_above[j] = above
        seen[: highest + 1] = 0
    return FINE


@njit(**KERNEL)
def fill_count_tables(
    first, last, n_cells, column, values, measure, factor, wanted, table_ptr, below, above_ptr,
    above, own_ties, sums,
):  # fmt: skip
    """Tables of the control group's counts for features `first` to `last`.

    Parameters
    ----------
    first, last, n_cells, column, values, measure, factor, wanted, own_ties, sums
        As in :func:`fill_tables`.
    table_ptr : int64[::1], shape (n_features + 1,)
        A feature's table has its limit + 2 entries.
    below : int32[::1], shape (table_ptr[-1],)
        Receives the control cells with smaller counts than 0, 1, ..., limit + 1.
    above_ptr, above : int64[::1], shape (n_features + 1,); int64[::1]
        Receives the counts above the limit, sorted, of each feature.
    """
    longest = 1
    for j in range(first, last):
        longest = max(longest, column[j + 1] - column[j])
    work = np.empty(longest)
    own = np.empty(3)
    for j in range(first, last):
        part = values[column[j] : column[j + 1]]
        n = part.size
        _measure(part, n_cells - n, measure, factor, wanted, work, own)
        for k in range(3):
            sums[k, j] = own[k]
        table = below[table_ptr[j] : table_ptr[j + 1]]
        table[:] = 0
        at = above_ptr[j]
        for e in range(n):
            count = int64(part[e])
            if count < table.size - 1:
                table[count + 1] += 1
            else:
                above[at] = count
                at += 1
        table[1] = n_cells - n
        ties = 0.0
        for count in range(1, table.size):
            if count > 1:
                ties += cube_less(table[count])
            table[count] += table[count - 1]
        large = above[above_ptr[j] : above_ptr[j + 1]]
        large.sort()
        e = 0
        while e < large.size:
            begin = e
            while e < large.size and large[e] == large[begin]:
                e += 1
            ties += cube_less(e - begin)
        own_ties[j] = ties


@njit(**INLINE)
def _first_not_below(values, value):
    """Index of the first of some sorted values that is not below a value."""
    low, high = 0, values.size
    while low < high:
        middle = (low + high) >> 1
        if values[middle] < value:
            low = middle + 1
        else:
            high = middle
    return low


@njit(**KERNEL)
def sums_by_counts(
    data, indices, indptr, start, order, group_ptr, measure, factor, wanted, scaled, natural,
    table_ptr, below, above_ptr, above, two_u, ties, n_nonzero, sums,
):  # fmt: skip
    """2U, ties and sums of consecutive groups of rows of counts.

    Parameters
    ----------
    data, indices, indptr, start, order, group_ptr
        As in :func:`transpose_groups`.
    measure, factor, wanted : int, float, int
    scaled, natural : float64[::1], shape (largest limit + 1,)
        From :func:`scale_counts`.
    table_ptr, below, above_ptr, above
        From :func:`fill_count_tables`.
    two_u, ties, n_nonzero, sums
        As in :func:`sums_by_look_up`.

    Returns
    -------
    int
        FINE or NOT_A_COUNT.

    Notes
    -----
    Cost: one increment per nonzero; per group, one pass over the tables. Counts above a table's
    limit are sorted.
    """
    n_features = table_ptr.size - 1
    seen = np.empty(below.size, np.int32)
    longest = 0
    for g in range(group_ptr.size - 1):
        stored = int64(0)
        for c in range(group_ptr[g], group_ptr[g + 1]):
            stored += indptr[order[c] + 1] - indptr[order[c]]
        longest = max(longest, stored)
    large = np.empty(longest, np.int64)
    for g in range(group_ptr.size - 1):
        seen[:] = 0
        n_large = 0
        wrong = False
        for c in range(group_ptr[g], group_ptr[g + 1]):
            i = order[c]
            for e in range(indptr[i] - start, indptr[i + 1] - start):
                count = int64(data[e])
                wrong |= (float(count) != float(data[e])) | (count < 0)
                j = not_negative(indices[e])
                offset = table_ptr[j]
                if (count >= 0) & (count < table_ptr[j + np.uint64(1)] - offset - 1):
                    seen[not_negative(offset + count)] += 1
                else:
                    wrong |= count > int64(_COUNT_LIMIT)
                    large[n_large] = (int64(j) << 32) | (count & int64(0xFFFFFFFF))
                    n_large += 1
        if wrong:
            return NOT_A_COUNT
        rest = large[:n_large]
        rest.sort()
        n_cells = group_ptr[g + 1] - group_ptr[g]
        stop = 0
        for j in range(n_features):
            offset = table_ptr[j]
            size = table_ptr[j + 1] - offset
            twice = int64(0)
            grown = 0.0
            cells = int64(0)
            total = 0.0
            plain = 0.0
            for count in range(1, size - 1):
                h = int64(seen[offset + count])
                if h > 0:
                    smaller, upto = int64(below[offset + count]), int64(below[offset + count + 1])
                    twice += h * (smaller + upto)
                    t = float(upto - smaller)
                    # (t + h)**3 - (t + h) - (t**3 - t), without the difference of large cubes
                    h_ = float(h)
                    grown += h_ * (3.0 * t * (t + h_) + (h_ - 1.0) * (h_ + 1.0))
                    cells += h
                    total += h_ * scaled[count]
                    plain += h_ * natural[count]
            begin = stop
            while stop < n_large and rest[stop] >> 32 == j:
                stop += 1
            if stop > begin:
                known = above[above_ptr[j] : above_ptr[j + 1]]
                all_below = int64(below[offset + size - 1])
                e = begin
                while e < stop:
                    run = e
                    while e < stop and rest[e] == rest[run]:
                        e += 1
                    count = rest[run] & int64(0xFFFFFFFF)
                    h = int64(e - run)
                    smaller = _first_not_below(known, count)
                    upto = _first_not_below(known, count + 1)
                    twice += h * (2 * all_below + smaller + upto)
                    t = float(upto - smaller)
                    h_ = float(h)
                    grown += h_ * (3.0 * t * (t + h_) + (h_ - 1.0) * (h_ + 1.0))
                    cells += h
                    x, y = _scaled(float(count), measure, factor)
                    total += h_ * x
                    plain += h_ * y
            if wanted & SQUARES:
                mean = total / n_cells if n_cells > 0 else 0.0
                squares = (n_cells - cells) * mean * mean
                for count in range(1, size - 1):
                    gap = scaled[count] - mean
                    squares += seen[offset + count] * (gap * gap)
                for e in range(begin, stop):
                    x, y = _scaled(float(rest[e] & int64(0xFFFFFFFF)), measure, factor)
                    squares += (x - mean) * (x - mean)
                sums[1, g, j] = squares
            two_u[g, j] = twice
            ties[g, j] = grown
            n_nonzero[g, j] = cells
            sums[0, g, j] = total
            sums[2, g, j] = plain
    return FINE
