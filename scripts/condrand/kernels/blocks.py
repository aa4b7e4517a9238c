"""Sparse rows cut into blocks of columns."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL


@njit(**KERNEL)
def order_by_block(indices, indptr, width, order, lengths):
    """Where the entries of each block of columns are, row after row.

    Parameters
    ----------
    indices, indptr : int32[::1], int64[::1]
        CSR, any order within a row.
    width : int
        Columns of a block.
    order : int64[::1], shape (n_stored,)
        Receives the places of the entries, those of the first block first.
    lengths : int64[:, ::1], shape (n_blocks, n_rows)
        Receives the entries of each row in each block; zero before.

    Notes
    -----
    Cost: two passes over the indices.
    """
    n_blocks, n_rows = lengths.shape
    for i in range(n_rows):
        for e in range(indptr[i], indptr[i + 1]):
            lengths[indices[e] // width, i] += 1
    cursor = np.zeros(n_blocks, np.int64)
    for b in range(1, n_blocks):
        cursor[b] = cursor[b - 1] + lengths[b - 1].sum()
    for i in range(n_rows):
        for e in range(indptr[i], indptr[i + 1]):
            b = indices[e] // width
            order[cursor[b]] = e
            cursor[b] += 1
