"""Reading parts of AnnData files, .h5ad or Zarr, and writing small .h5ad, without loading X.

anndata does the reading of single elements; it and zarr are imported where they are used, because
shard jobs only need h5py and must start at once.
"""

import errno
import logging
import math
import os
import shutil
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeAlias

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import InputError, listed
from condrand.io.atomic import replacing

if TYPE_CHECKING:
    import zarr

log = logging.getLogger(__name__)

# An open file, .h5ad or Zarr: both map names to elements in one way.
Group: TypeAlias = "h5py.Group | zarr.Group"

# Where a bare key is looked for, in the order a user would expect.
SEARCHED = ("obsm", "layers", "obsp", "uns", "obs")
# Stored bytes of a matrix held in memory at once while it is checked and copied.
_PIECE_BYTES = 64 * 2**20
# Of a matrix that must be turned, or unpacked in large chunks, this much is held.
_HELD_BYTES = 320 * 2**20
_LARGE_CHUNK_BYTES = 16 * 2**20
# Wanted rows this near each other are read with what lies between.
_GAP_BYTES = 2**18
_WRITE_IT = (
    "condrand reads AnnData of anndata 0.7 or later; write it with `adata.write_h5ad(...)` or "
    "`adata.write_zarr(...)`."
)


@dataclass(frozen=True)
class Matrix:
    """A cells x columns matrix inside an open file, read by whole rows.

    Attributes
    ----------
    where : str
        Path inside the file.
    shape : tuple of int
    kind : {"dense", "csr", "csc", "table"}
    columns : list of str or None
        Names the element itself carries (tables only).
    """

    element: Any
    where: str
    shape: tuple[int, int]
    kind: str
    columns: list[str] | None = None

    @property
    def dtype(self) -> np.dtype:
        """Type of the values of the rows that are read."""
        if self.kind == "table":
            return np.dtype(np.float64)
        with _reading(self.element):
            stored = (self.element if self.kind == "dense" else self.element["data"]).dtype
        # scipy has no sparse matrix of half precision.
        half = self.kind != "dense" and stored == np.float16
        return np.dtype(np.float32) if half else stored.newbyteorder("=")

    def pieces(self) -> Iterator[tuple[int, int, np.ndarray | sp.csr_matrix]]:
        """Yield ``(start, stop, rows)`` over all rows, in order.

        Rows are as those of :meth:`rows`.

        Raises
        ------
        InputError
            If the element is damaged.

        Notes
        -----
        Cost: one pass over the element, and pieces of some 64 MiB, more where the element is
        stored in larger chunks. A CSC matrix of more than 320 MiB takes a pass over its indices
        and one over all of it for every 320 MiB; a table is held whole.
        """
        with _reading(self.element):
            if self.kind == "csc":
                yield from self._csc_pieces()
                return
            bounds = self._bounds()
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            yield start, stop, self.rows(np.arange(start, stop))

    def rows(self, cells: np.ndarray) -> np.ndarray | sp.csr_matrix:
        """Some rows, in the order of the cells.

        Parameters
        ----------
        cells : int64, shape (n_wanted,)
            Rows to read, each once, sorted.

        Returns
        -------
        numpy.ndarray or scipy.sparse.csr_matrix, shape (n_wanted, n_columns)
            An array for a dense matrix and a table, float64 for the latter with NaN for a missing
            value. Of a sparse matrix, columns are sorted, entries that are stored twice are added
            up, and stored zeros stay.

        Raises
        ------
        InputError
            If the element is damaged.
        ValueError
            If the cells are not sorted, not distinct or not there.

        Notes
        -----
        Cost: the wanted rows and what lies in small gaps between them are read, in file order,
        and some 64 MiB are held beside the result. All columns are read of a CSC matrix, the
        indices twice.
        """
        cells = np.asarray(cells, np.int64)
        if cells.size and (cells[0] < 0 or cells[-1] >= self.shape[0]):
            raise ValueError(f"{self.where} has {self.shape[0]} rows: some wanted are not there")
        if np.any(cells[1:] <= cells[:-1]):
            raise ValueError("the wanted rows are not sorted, or not distinct")
        with _reading(self.element):
            return getattr(self, f"_{self.kind}_rows")(cells)

    def text_columns(self) -> list[str]:
        """Columns of a table that hold no numbers."""
        return [name for name in self.columns or [] if not _is_numeric(self.element[name])]

    @cached_property
    def _pointers(self) -> np.ndarray:
        """Where the rows (csr) or columns (csc) begin and end: int64, shape (n + 1,)."""
        n_lines = self.shape[0 if self.kind == "csr" else 1]
        indptr = self.element["indptr"][:]
        if indptr.dtype.kind not in "iu" or self.element["indices"].dtype.kind not in "iu":
            raise ValueError("its indices are no whole numbers")
        indptr = indptr.astype(np.int64)
        if indptr.shape != (n_lines + 1,):
            raise ValueError(f"indptr has shape {indptr.shape}, not ({n_lines + 1},)")
        if indptr[0] != 0 or np.any(indptr[1:] < indptr[:-1]):
            raise ValueError("indptr does not rise from 0")
        n_data, n_indices = self.element["data"].shape[0], self.element["indices"].shape[0]
        # Pointers that a copy of a Zarr has lost read as zeros.
        lost = n_data > 0 and indptr[-1] == 0
        if n_data != n_indices or indptr[-1] > n_data or lost:
            raise ValueError(
                f"{n_data} values, {n_indices} indices, and an indptr that ends at {indptr[-1]}"
            )
        return indptr

    def _bounds(self) -> list[int]:
        """Where pieces start and stop: n_pieces + 1 rows."""
        n_rows, n_columns = self.shape
        if self.kind == "table" or not n_rows:
            return [0, n_rows]
        if self.kind == "csr":
            indptr = self._pointers
            chunk = max(_chunk_bytes(self.element[name]) for name in ("data", "indices"))
            # A chunk on the border of two pieces is unpacked for both.
            held = min(4 * chunk, _HELD_BYTES) if chunk > _LARGE_CHUNK_BYTES else _PIECE_BYTES
            # Rows without entries are not free: each has a pointer.
            most, most_rows = held // self._entry_bytes(), max(1, held // 8)
            bounds = [0]
            while bounds[-1] < n_rows:
                stop = int(np.searchsorted(indptr, indptr[bounds[-1]] + most, "right")) - 1
                stop = min(stop, bounds[-1] + most_rows, n_rows)
                bounds.append(max(stop, bounds[-1] + 1))
            return bounds
        per_row = self.dtype.itemsize * max(1, n_columns)
        step = max(1, _PIECE_BYTES // per_row)
        high = self.element.chunks[0] if self.element.chunks else 1
        if high * per_row <= _HELD_BYTES:
            step = max(1, step // high) * high
        return [*range(0, n_rows, step), n_rows]

    def _entry_bytes(self) -> int:
        return self.dtype.itemsize + _index_type(max(self.shape)).itemsize

    def _dense_rows(self, cells: np.ndarray) -> np.ndarray:
        out = np.empty((cells.size, self.shape[1]), self.dtype)
        per_row = max(1, out.dtype.itemsize * self.shape[1])
        gap = max(_GAP_BYTES, _chunk_bytes(self.element)) // per_row
        flat = out.reshape(-1) if self.element.ndim == 1 else out
        for first, last in _spans(cells, cells + 1, gap, _PIECE_BYTES // per_row):
            low, high = int(cells[first]), int(cells[last - 1]) + 1
            if high - low == last - first:
                _read_into(self.element, low, high, flat[first:last])
                continue
            span = np.empty((high - low, *flat.shape[1:]), out.dtype)
            _read_into(self.element, low, high, span)
            np.take(span, cells[first:last] - low, axis=0, out=flat[first:last])
        return out

    def _csr_rows(self, cells: np.ndarray) -> sp.csr_matrix:
        low, high = self._pointers[cells], self._pointers[cells + 1]
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(high - low)])
        index_type = _index_type(max(indptr[-1], self.shape[1]))
        parts = []
        for name, dtype in (("data", self.dtype), ("indices", index_type)):
            array = self.element[name]
            out = np.empty(indptr[-1], dtype)
            gap = max(_GAP_BYTES, _chunk_bytes(array)) // dtype.itemsize
            for first, last in _spans(low, high, gap, _PIECE_BYTES // dtype.itemsize):
                start, stop = int(low[first]), int(high[last - 1])
                part = out[indptr[first] : indptr[last]]
                if stop - start == part.size:
                    _read_into(array, start, stop, part)
                    continue
                span = np.empty(stop - start, dtype)
                _read_into(array, start, stop, span)
                edges = np.stack([low[first:last], high[first:last]], axis=1).ravel()
                lengths = np.diff(edges)
                inside = np.repeat(np.arange(lengths.size) % 2 == 0, lengths)
                np.compress(inside, span, out=part)
            parts.append(out)
        return _canonical(*parts, indptr, (cells.size, self.shape[1]), sp.csr_matrix)

    def _table_rows(self, cells: np.ndarray) -> np.ndarray:
        out = np.empty((cells.size, self.shape[1]))
        for i, name in enumerate(self.columns):
            column = _read_element(self.element[name])
            if len(column) != self.shape[0]:
                raise ValueError(f"{name} has {len(column)} rows, not {self.shape[0]}")
            if not isinstance(column, np.ndarray):
                # Missing values of nullable columns become NaN.
                column = column.to_numpy(np.float64, na_value=np.nan)
            out[:, i] = column[cells]
        return out

    def _csc_rows(self, cells: np.ndarray) -> sp.csr_matrix:
        if len(self._column_bounds()) == 2:
            (block,) = self._column_blocks()
            return block.tocsr()[cells]
        return self._gathered(cells, self._row_counts()[cells])

    def _csc_pieces(self) -> Iterator[tuple[int, int, sp.csr_matrix]]:
        n_rows = self.shape[0]
        if len(self._column_bounds()) <= 2:
            counts, bounds = None, [0, n_rows]
        else:
            counts = self._row_counts()
            bounds = _cuts(counts, _HELD_BYTES // self._entry_bytes())
        if len(bounds) > 2:
            log.info(
                "%s is stored by columns: %d passes over it, to read it by rows",
                self.where,
                len(bounds) - 1,
            )
        for low, high in zip(bounds[:-1], bounds[1:], strict=True):
            cells = np.arange(low, high)
            held = (
                self._csc_rows(cells) if counts is None else self._gathered(cells, counts[cells])
            )
            inner = _cuts(np.diff(held.indptr), _PIECE_BYTES // self._entry_bytes())
            for start, stop in zip(inner[:-1], inner[1:], strict=True):
                # Copies, so that the reader's last piece does not keep what is held alive.
                yield low + start, low + stop, held[start:stop]
            del held

    def _column_bounds(self) -> np.ndarray:
        """Where blocks of columns start and stop that are read together."""
        most = _PIECE_BYTES // 4 // self._entry_bytes()
        return _cuts(np.diff(self._pointers), most)

    def _row_counts(self) -> np.ndarray:
        """Stored entries of every row: int64, shape (n_rows,)."""
        counts = np.zeros(self.shape[0], np.int64)
        bounds, indptr = self._column_bounds(), self._pointers
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            rows = np.empty(indptr[stop] - indptr[start], _index_type(self.shape[0]))
            _read_into(self.element["indices"], int(indptr[start]), int(indptr[stop]), rows)
            _check_indices(rows, self.shape[0])
            counts += np.bincount(rows, minlength=self.shape[0])
        return counts

    def _column_blocks(self) -> Iterator[sp.csc_matrix]:
        bounds, indptr = self._column_bounds(), self._pointers
        for start, stop in zip(bounds[:-1], bounds[1:], strict=True):
            low, high = int(indptr[start]), int(indptr[stop])
            data = np.empty(high - low, self.dtype)
            rows = np.empty(high - low, _index_type(max(self.shape[0], high - low)))
            _read_into(self.element["data"], low, high, data)
            _read_into(self.element["indices"], low, high, rows)
            shape = (self.shape[0], stop - start)
            yield _canonical(data, rows, indptr[start : stop + 1] - low, shape, sp.csc_matrix)

    def _gathered(self, cells: np.ndarray, counts: np.ndarray) -> sp.csr_matrix:
        """Rows of a CSC matrix, in one pass over it, given how many entries each has stored."""
        place = np.full(self.shape[0], -1, np.int64)
        place[cells] = np.arange(cells.size)
        indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(counts)])
        data = np.empty(indptr[-1], self.dtype)
        indices = np.empty(indptr[-1], _index_type(max(indptr[-1], self.shape[1])))
        end = indptr[:-1].copy()
        left = 0
        for block in self._column_blocks():
            n_columns = block.shape[1]
            row = place[block.indices]
            column = np.repeat(np.arange(n_columns, dtype=indices.dtype), np.diff(block.indptr))
            wanted = row >= 0
            entries = (block.data[wanted], (row[wanted], column[wanted]))
            rows = sp.coo_matrix(entries, shape=(cells.size, n_columns)).tocsr()
            n_new = np.diff(rows.indptr)
            to = np.repeat(end - rows.indptr[:-1], n_new) + np.arange(rows.nnz)
            data[to] = rows.data
            indices[to] = rows.indices + left
            end += n_new
            left += n_columns
        if np.any(end < indptr[1:]):
            # Entries stored twice have left room at the end of their rows.
            edges = np.concatenate([np.stack([indptr[:-1], end], axis=1).ravel(), indptr[-1:]])
            lengths = np.diff(edges)
            filled = np.repeat(np.arange(lengths.size) % 2 == 0, lengths)
            data, indices = data[filled], indices[filled]
            indptr = np.concatenate([np.zeros(1, np.int64), np.cumsum(end - indptr[:-1])])
        return _canonical(data, indices, indptr, (cells.size, self.shape[1]), sp.csr_matrix)


@contextmanager
def open_anndata(path: str | Path) -> Iterator[Group]:
    """Open a user's .h5ad, or folder of Zarr, for reading.

    Yields
    ------
    h5py.File or zarr.Group

    Raises
    ------
    InputError
        If the file is absent, neither HDF5 nor Zarr, truncated, or not laid out as AnnData.
    """
    is_folder = Path(path).is_dir()
    file = _open_zarr(path) if is_folder else _open_hdf5(path)
    try:
        _check_layout(path, file, is_folder)
        yield file
    finally:
        (file.store if is_folder else file).close()


def _refusal(path: str | Path, what: str, mend: str) -> InputError:
    return InputError(f"{path}: {what}\n      -> {mend}")


def _check_layout(path: str | Path, file: Group, is_folder: bool) -> None:
    kind, what = ("zarr", "a Zarr store") if is_folder else ("h5ad", "an HDF5 file")
    if file.attrs.get("encoding-type") == "MuData":
        mend = "write the modality to test by itself: `mdata['rna']`."
        if is_folder and "mod" in file:
            there = listed(sorted(f"{path}/mod/{name}" for name in file["mod"]))
            mend = f"name the modality to test in `path` of the screen: {there}."
        raise _refusal(path, f"this is a MuData {'store' if is_folder else 'file'}", mend)
    if "obs" not in file:
        raise _refusal(path, f"{what} without the group `obs`", _WRITE_IT)
    if is_array(file["obs"]) or "_index" not in file["obs"].attrs:
        mend = (
            f"read it with `anndata.read_{kind}(...)` and write it again with `write_{kind}(...)`."
        )
        raise _refusal(path, "`obs` is stored in the way of an anndata before 0.7", mend)


def _open_hdf5(path: str | Path) -> h5py.File:
    if not Path(path).is_file():
        raise _refusal(path, "there is no such file", "correct `path` of the screen.")
    if Path(path).stat().st_size == 0:
        raise _refusal(path, "the file is empty", "copy or download it again.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise _refusal(path, *_why_not_opened(error, path)) from error


def _open_zarr(path: str | Path) -> "zarr.Group":
    if not os.access(path, os.R_OK | os.X_OK):
        mend = f"ask its owner, or: chmod -R +rX {path}"
        raise _refusal(path, "you may not read this folder", mend)
    if not any((Path(path) / name).exists() for name in ("zarr.json", ".zgroup", ".zarray")):
        raise _refusal(
            path,
            "this is a folder, and no Zarr store: it has neither zarr.json nor .zgroup",
            f"name a file or a Zarr store in `path` of the screen; {_WRITE_IT}",
        )
    import zarr

    try:
        return zarr.open_group(path, mode="r")
    except zarr.errors.ContainsArrayError as error:
        raise _refusal(path, "this is a single Zarr array", _WRITE_IT) from error
    except Exception as error:
        text = str(error).split("\n")[0]
        what = f"the Zarr store cannot be opened ({text})"
        raise _refusal(path, what, "copy or download it again.") from error


def locate(file: Group, key: str) -> str | None:
    """Path inside `file` of the element a user calls `key`, or None.

    A key with a folder (``layers/counts``) or ``X`` is taken as it stands; a bare key is searched
    in obsm, layers, obsp, uns, obs.
    """
    key = key.strip("/")
    # Zarr refuses to look for some names: nothing bears them.
    if not key or {".", ".."} & set(key.split("/")):
        return None
    if (key == "X" or "/" in key) and key in file:
        return key
    return next((f"{folder}/{key}" for folder in SEARCHED if f"{folder}/{key}" in file), None)


def keys_there(file: Group) -> str:
    """The keys a user could have meant, by folder."""
    there = [
        # Zarr lists names as the file system does, in no order.
        f"{folder}: {listed(sorted(file[folder]), 20)}"
        for folder in SEARCHED
        if folder in file and not is_array(file[folder]) and len(file[folder])
    ]
    return "; ".join(["X", *there] if "X" in file else there)


def read(file: Group, where: str) -> Any:
    """One whole element as anndata reads it.

    Raises
    ------
    InputError
        If it is damaged, or in an encoding that anndata does not know.
    """
    with _reading(file, where):
        return _read_element(file[where])


def matrix(file: Group, where: str) -> Matrix | None:
    """The element at `where` as a matrix, or None if it is none."""
    element = file[where]
    kind, columns = "dense", None
    with _reading(element):
        if is_array(element):
            if element.ndim not in (1, 2) or not _is_numeric(element):
                return None
            shape = element.shape if element.ndim == 2 else (element.shape[0], 1)
        elif (kind := element.attrs.get("encoding-type", "")) in ("csr_matrix", "csc_matrix"):
            kind, shape = kind[:3], element.attrs["shape"]
        elif kind == "" and "h5sparse_format" in element.attrs:
            kind, shape = element.attrs["h5sparse_format"], element.attrs["h5sparse_shape"]
        elif kind == "dataframe":
            kind, columns = "table", [str(name) for name in element.attrs["column-order"]]
            shape = (_length(element[element.attrs["_index"]]), len(columns))
        else:
            return None
        found = Matrix(element, where, tuple(int(n) for n in shape), kind, columns)
        _warn_of_missing_chunks(found)
        return found


def _warn_of_missing_chunks(found: Matrix) -> None:
    """Zarr leaves out chunks of zeros, and those a copy has lost read as zeros too."""
    if isinstance(found.element, h5py.Group | h5py.Dataset) or found.kind == "table":
        return
    arrays = [found.element]
    if found.kind != "dense":
        # Where there is one column, all indices are 0.
        n_minor = found.shape[1 if found.kind == "csr" else 0]
        arrays = [found.element[name] for name in ("data", "indices")[: 2 if n_minor > 1 else 1]]
    for array in arrays:
        there, needed = array.nchunks_initialized, array.nchunks
        if there < needed:
            log.warning(
                "%s: %d of its %d chunks are not stored and read as zeros: is the copy whole?",
                array.name.strip("/"),
                needed - there,
                needed,
            )


def is_array(element: Any) -> bool:
    """Whether an element is an array of HDF5 or Zarr, and no group."""
    return hasattr(element, "shape")


def write_element(group: h5py.Group, key: str, value: Any) -> None:
    """Write one element in AnnData's encoding."""
    from anndata.io import write_elem

    write_elem(group, key, value)


def new_anndata(path: Path, cells: pd.Index, features: pd.Index) -> h5py.File:
    """A new AnnData file with its cell and feature names and no X, open for writing elements."""
    file = h5py.File(path, "w")
    file.attrs["encoding-type"] = "anndata"
    file.attrs["encoding-version"] = "0.1.0"
    write_element(file, "obs", pd.DataFrame(index=cells))
    write_element(file, "var", pd.DataFrame(index=features))
    for group in ("layers", "obsm", "obsp", "uns", "varm", "varp"):
        write_element(file, group, {})
    return file


def dense_rows(
    group: h5py.Group, key: str, shape: tuple[int, int], dtype: np.dtype | type
) -> h5py.Dataset:
    """A dense array in AnnData's encoding, to be filled by rows."""
    dataset = group.create_dataset(key, shape, dtype)
    dataset.attrs["encoding-type"] = "array"
    dataset.attrs["encoding-version"] = "0.2.0"
    return dataset


class SparseRows:
    """A CSR matrix in AnnData's encoding, appended row block by row block."""

    def __init__(self, group: h5py.Group, key: str, n_columns: int, dtype: np.dtype | type):
        self.group = group.create_group(key)
        self.group.attrs["encoding-type"] = "csr_matrix"
        self.group.attrs["encoding-version"] = "0.1.0"
        self.n_columns = n_columns
        self.indptr = [np.zeros(1, np.int64)]
        for name, kind in (("data", dtype), ("indices", np.int32)):
            self.group.create_dataset(name, (0,), kind, maxshape=(None,), chunks=(2**18,))

    def append(self, rows: sp.csr_matrix) -> None:
        """Add rows below those written so far."""
        for name in ("data", "indices"):
            dataset = self.group[name]
            old = dataset.shape[0]
            dataset.resize((old + rows.nnz,))
            dataset[old:] = getattr(rows, name)
        self.indptr.append(self.indptr[-1][-1] + rows.indptr[1:].astype(np.int64))

    def finish(self) -> None:
        """Write the row pointers and the shape."""
        indptr = np.concatenate(self.indptr)
        # scipy wants one integer type for both index arrays.
        if indptr[-1] < 2**31:
            indptr = indptr.astype(np.int32)
        self.group.create_dataset("indptr", data=indptr)
        self.group.attrs["shape"] = np.array([indptr.size - 1, self.n_columns], np.int64)


def write_copy_with_tables(
    source: str | Path, destination: str | Path, tables: dict[str, pd.DataFrame]
) -> None:
    """Copy an .h5ad and add tables to its uns; the copy's other contents are not touched.

    Raises
    ------
    OSError
        If the disk is full; nothing is left at `destination` then.
    """
    with replacing(destination) as temporary:
        shutil.copyfile(source, temporary)
        with h5py.File(temporary, "r+") as file:
            for name, table in tables.items():
                if f"uns/{name}" in file:
                    del file[f"uns/{name}"]
                write_element(file.require_group("uns"), name, table)


def _why_not_opened(error: OSError, path: str | Path) -> tuple[str, str]:
    """What is wrong with a file that h5py does not open, and the mend."""
    if error.errno in (errno.EACCES, errno.EPERM):
        return "you may not read this file", f"ask its owner, or: chmod +r {path}"
    if "truncated" in str(error):
        return "the file is truncated", "copy or download it again; its end is missing."
    if zipfile.is_zipfile(path):
        return "this is a zip archive", f"unpack it (unzip {path}) and name what was in it."
    if "signature not found" in str(error):
        return "this is no HDF5 file", _WRITE_IT
    if "unable to lock" in str(error):
        return (
            f"the file is locked ({error})",
            "close the program that writes it; if there is none, the file system has no locks: "
            "set HDF5_USE_FILE_LOCKING=FALSE in the environment.",
        )
    return f"the file cannot be opened ({error})", "copy or download it again."


@contextmanager
def _reading(element: Any, where: str | None = None) -> Iterator[None]:
    """Turn what goes wrong while `element` of a user's file is read into an InputError."""
    try:
        yield
    except (InputError, MemoryError):
        raise
    except Exception as error:
        text = str(error).split("\n")[0]
        mend = "the file is damaged; copy or download it again."
        if "No read method" in text:
            mend = "it was written by a newer anndata; write it again with the one condrand pins."
        elif "plugin" in text or "not registered" in text:
            mend = (
                "it is compressed by a filter that h5py does not have; write the file again with "
                '`adata.write_h5ad(..., compression="gzip")`.'
            )
        elif "codec not available" in text or "Unknown codec" in text:
            mend = "it is compressed by a codec that zarr does not have; write it with another."
        where = where or element.name.strip("/")
        is_hdf5 = isinstance(element, h5py.Group | h5py.Dataset)
        path = element.file.filename if is_hdf5 else element.store.root
        raise InputError(f"{path}: {where}: cannot be read ({text})\n      -> {mend}") from error


def _is_numeric(element: Any) -> bool:
    """Whether a stored array or column holds numbers; codes of categories are none."""
    if is_array(element):
        return element.dtype.kind in "biuf" and "categories" not in element.attrs
    kind = element.attrs.get("encoding-type", "")
    return kind in ("nullable-integer", "nullable-boolean")


def _length(column: Any) -> int:
    if is_array(column):
        return column.shape[0]
    return column["codes" if "codes" in column else "values"].shape[0]


def _read_element(element: Any) -> Any:
    plain = _read_plain(element)
    if plain is not None:
        return plain
    from anndata.io import read_elem

    value = read_elem(element)
    if is_array(element) and "categories" in element.attrs:
        # A categorical column as anndata 0.7 stored it: by itself it reads as its codes.
        categories = read_elem(_parent(element)[element.attrs["categories"]])
        return pd.Categorical.from_codes(value, categories)
    if isinstance(value, np.ndarray) and value.dtype.kind == "T":
        # Text of Zarr, in a type of numpy that pandas does not take.
        return value.astype(object)
    return value


def _read_plain(element: Any) -> np.ndarray | pd.Categorical | None:
    """Numbers, text and categories of HDF5, as anndata reads them but without importing it."""
    if isinstance(element, h5py.Dataset) and "categories" not in element.attrs:
        kind = element.attrs.get("encoding-type")
        if kind == "array" and element.dtype.kind in "biuf" and element.ndim:
            return element[()]
        if kind == "string-array" and h5py.check_string_dtype(element.dtype) is not None:
            return element.asstr()[()]
    elif isinstance(element, h5py.Group) and element.attrs.get("encoding-type") == "categorical":
        codes, categories = (_read_plain(element[name]) for name in ("codes", "categories"))
        if codes is not None and categories is not None:
            ordered = bool(element.attrs["ordered"])
            return pd.Categorical.from_codes(codes, categories, ordered=ordered)
    return None


def _parent(element: Any) -> Group:
    if isinstance(element, h5py.Dataset):
        return element.parent
    import zarr

    return zarr.open_group(element.store, path=element.path.rpartition("/")[0], mode="r")


def _index_type(highest: int) -> np.dtype:
    """The type scipy takes for indices up to `highest`."""
    return np.dtype(np.int32 if highest < 2**31 else np.int64)


def _chunk_bytes(array: Any) -> int:
    """Bytes of a chunk once it is unpacked; 0 if the array is stored in one run."""
    return math.prod(array.chunks) * array.dtype.itemsize if array.chunks else 0


def _cuts(sizes: np.ndarray, most: int) -> list[int]:
    """Bounds of runs of lines whose sizes add up to `most`; a longer line is a run of its own."""
    if not sizes.size:
        return [0, 0]
    ends = np.cumsum(sizes)
    bounds = [0]
    while bounds[-1] < sizes.size:
        before = ends[bounds[-1] - 1] if bounds[-1] else 0
        stop = int(np.searchsorted(ends, before + most, "right"))
        bounds.append(max(stop, bounds[-1] + 1))
    return bounds


def _spans(low: np.ndarray, high: np.ndarray, gap: int, most: int) -> Iterator[tuple[int, int]]:
    """Runs of the wanted ranges ``[low[i], high[i])`` that are read together.

    Ranges that touch are one run of any length. Runs that are `gap` or less apart are joined, up
    to `most` from end to end, because what lies between is read faster than skipped.

    Yields
    ------
    first, last : int
        The ranges ``first <= i < last``.
    """
    if not low.size:
        return
    touch = np.flatnonzero(low[1:] > high[:-1]) + 1
    first = np.concatenate([[0], touch])
    last = np.concatenate([touch, [low.size]])
    i = 0
    while i < first.size:
        j = i + 1
        while (
            j < first.size
            and low[first[j]] - high[last[j - 1] - 1] <= gap
            and high[last[j] - 1] - low[first[i]] <= most
        ):
            j += 1
        yield int(first[i]), int(last[j - 1])
        i = j


def _read_into(array: Any, low: int, high: int, out: np.ndarray) -> None:
    """Read ``array[low:high]`` into a contiguous array, without another of its size."""
    if not out.size:
        return
    if isinstance(array, h5py.Dataset):
        # HDF5 clips an index that does not fit, so that it is out of range here as well.
        array.read_direct(out, np.s_[low:high])
        return
    per_row = array.dtype.itemsize * math.prod(array.shape[1:])
    step = max(array.chunks[0], _PIECE_BYTES // per_row // array.chunks[0] * array.chunks[0])
    # Steps end where chunks do, so that none is unpacked twice.
    for start in range(low - low % step, high, step):
        start, stop = max(start, low), min(start + step, high)
        block = array[start:stop]
        if out.dtype.kind == "i" and block.dtype != out.dtype:
            limits = np.iinfo(out.dtype)
            if block.max() > limits.max or block.min() < limits.min:
                raise ValueError("an index is out of range")
        out[start - low : stop - low] = block


def _check_indices(indices: np.ndarray, n: int) -> None:
    # Seen without its sign, a negative index is too large as well.
    if indices.size and indices.view(f"u{indices.itemsize}").max() >= n:
        raise ValueError(f"an index is not between 0 and {n - 1}")


def _canonical(
    data: np.ndarray,
    indices: np.ndarray,
    indptr: np.ndarray,
    shape: tuple[int, int],
    form: type,
) -> Any:
    """A sparse matrix of these parts, checked, sorted, and with no entry stored twice."""
    _check_indices(indices, shape[1] if form is sp.csr_matrix else shape[0])
    made = form((data, indices, indptr.astype(indices.dtype)), shape=shape)
    # Does nothing more than look at a matrix that is in order.
    made.sum_duplicates()
    return made
