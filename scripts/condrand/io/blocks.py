"""The outcome in a stored screen: blocks of features, so that a job reads those it tests."""

import hashlib
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import scipy.sparse as sp

from condrand.io.h5ad import Matrix, SparseRows, dense_rows, matrix, read, write_element
from condrand.kernels.blocks import order_by_block
from condrand.plan import FEATURES_PER_BLOCK, number

# Values from here on are no counts that the kernels could tabulate.
_COUNT_LIMIT = 2**31 - 2


def open_screen(path: str | Path) -> h5py.File:
    """A stored screen, opened for reading."""
    return h5py.File(path, "r")


def outcome_name(key: str) -> str:
    """Name of an outcome's elements in the stored screen."""
    return f"outcome.{key.replace('/', ':')}"


class OutcomeWriter:
    """An outcome, written into a new screen while its rows pass by.

    Parameters
    ----------
    out : h5py.File
        The screen.
    key : str
        As configured.
    shape : (int, int)
    dtype : numpy.dtype
    is_sparse : bool

    Notes
    -----
    Beside the blocks: what every cell sums to, whether all values are counts, and a digest of
    them all, none of which depends on the pieces.
    """

    def __init__(
        self,
        out: h5py.File,
        key: str,
        shape: tuple[int, int],
        dtype: np.dtype | type,
        is_sparse: bool,
    ):
        self._out, self._name, self._shape = out, outcome_name(key), shape
        starts = range(0, max(1, shape[1]), FEATURES_PER_BLOCK)
        widths = [min(FEATURES_PER_BLOCK, shape[1] - start) for start in starts]
        names = [_block(self._name, b) for b in range(len(widths))]
        self._blocks: list[Any] = [
            SparseRows(out["obsm"], name, width, dtype)
            if is_sparse
            else dense_rows(out["obsm"], name, (shape[0], width), dtype)
            for name, width in zip(names, widths, strict=True)
        ]
        self._sums = np.empty(shape[0])
        self._is_counts = True
        words = f"{shape} {np.dtype(dtype).str} {is_sparse}".encode()
        self._digests = [hashlib.blake2b(words, digest_size=16) for _ in range(3)]

    def append(self, start: int, rows: np.ndarray | sp.csr_matrix, sums: np.ndarray) -> None:
        """Add the rows from `start` on, sparse ones canonical, and their :func:`row_sums`."""
        stop = start + rows.shape[0]
        stored = rows.data if sp.issparse(rows) else rows
        self._sums[start:stop] = sums
        self._is_counts = self._is_counts and _are_counts(stored)
        lengths = np.diff(rows.indptr).astype("<i8") if sp.issparse(rows) else np.empty(0)
        indices = rows.indices.astype("<i4", copy=False) if sp.issparse(rows) else np.empty(0)
        for digest, part in zip(self._digests, (stored, indices, lengths), strict=True):
            digest.update(np.ascontiguousarray(part).data)
        if sp.issparse(rows):
            for block, part in zip(self._blocks, split_columns(rows), strict=True):
                block.append(part)
        else:
            for b, block in enumerate(self._blocks):
                first = b * FEATURES_PER_BLOCK
                block[start:stop] = rows[:, first : first + FEATURES_PER_BLOCK]

    def finish(self, features: list[str] | None) -> None:
        """Write what is known when all rows have passed."""
        for block in self._blocks:
            if isinstance(block, SparseRows):
                block.finish()
        write_element(self._out["obsm"], f"sums.{self._name}", self._sums[:, None])
        uns = self._out["uns"]
        write_element(uns, f"is_counts.{self._name}", self._is_counts)
        words = "".join(digest.hexdigest() for digest in self._digests)
        write_element(uns, f"digest.{self._name}", words)
        if features is not None:
            write_element(uns, f"features.{self._name}", np.array(features, dtype=object))


def is_stored(file: h5py.File, key: str) -> bool:
    """Whether a screen holds an outcome."""
    return _block(outcome_name(key), 0) in file["obsm"]


def block_matrices(file: h5py.File, key: str) -> list[Matrix]:
    """The blocks of features of a stored outcome, in order, not yet read."""
    name, found = outcome_name(key), []
    while _block(name, len(found)) in file["obsm"]:
        found.append(matrix(file, f"obsm/{_block(name, len(found))}"))
    return found


def read_whole(file: h5py.File, key: str) -> np.ndarray | sp.csr_matrix:
    """A stored outcome, dense or CSR as it was."""
    parts = [read(file, block.where) for block in block_matrices(file, key)]
    if len(parts) == 1:
        return parts[0]
    return sp.hstack(parts, "csr") if sp.issparse(parts[0]) else np.hstack(parts)


def split_columns(rows: sp.csr_matrix, width: int = FEATURES_PER_BLOCK) -> list[sp.csr_matrix]:
    """CSR rows in blocks of `width` columns, the last maybe narrower."""
    n_rows, n_columns = rows.shape
    n_blocks = max(1, -(-n_columns // width))
    if n_blocks == 1:
        return [rows]
    order = np.empty(rows.nnz, np.int64)
    lengths = np.zeros((n_blocks, n_rows), np.int64)
    order_by_block(
        *(rows.indices.astype(np.int32, copy=False), rows.indptr.astype(np.int64), width),
        *(order, lengths),
    )
    data, indices = rows.data[order], rows.indices[order]
    parts, end = [], 0
    for b, of_rows in enumerate(lengths):
        indptr = np.concatenate([[0], np.cumsum(of_rows)])
        begin, end = end, end + int(indptr[-1])
        columns = min(width, n_columns - b * width)
        inside = (data[begin:end], indices[begin:end] - b * width, indptr)
        parts.append(sp.csr_matrix(inside, shape=(n_rows, columns)))
    return parts


def _block(name: str, block: int) -> str:
    return f"{name}.block-{number(block)}"


def row_sums(rows: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """What every row sums to: float64, shape (n_rows,)."""
    with np.errstate(invalid="ignore", over="ignore"):
        if sp.issparse(rows):
            # scipy sums in the values' own type, and float32 is exact up to 16.7 million only.
            return rows @ np.ones(rows.shape[1])
        return rows.sum(axis=1, dtype=np.float64)


def _are_counts(values: np.ndarray) -> bool:
    if not values.size or values.dtype.kind == "b":
        return True
    low, high = values.min(), values.max()
    if not (low >= 0 and high <= _COUNT_LIMIT):
        return False
    return values.dtype.kind in "iu" or bool(np.all(values == np.floor(values)))
