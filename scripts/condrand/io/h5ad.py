"""Reading parts of .h5ad files, and writing small ones, without loading X.

anndata does the reading of single elements; it is imported where it is used, because shard jobs
only need h5py and must start at once.
"""

import errno
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import InputError, listed
from condrand.io.atomic import replacing

# Where a bare key is looked for, in the order a user would expect.
SEARCHED = ("obsm", "layers", "obsp", "uns", "obs")
# Stored bytes of a matrix held in memory at once while it is checked and copied.
_PIECE_BYTES = 64 * 2**20
_WRITE_IT = (
    "condrand reads AnnData .h5ad files of anndata 0.7 or later; write one with "
    "`adata.write_h5ad(...)`."
)


@dataclass(frozen=True)
class Matrix:
    """A cells x columns matrix inside an open file, read in pieces of whole rows.

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

    def pieces(self) -> Iterator[tuple[int, int, np.ndarray | sp.csr_matrix]]:
        """Yield ``(start, stop, rows)`` over all rows, in order.

        A CSC matrix or a table is held whole while it is read; neither can be read by rows.
        Entries of a sparse matrix that are stored twice are added up.

        Raises
        ------
        InputError
            If the element is damaged.
        """
        n_rows, n_columns = self.shape
        with _reading(self.element):
            if self.kind in ("csc", "table"):
                whole = _read_element(self.element)
                if self.kind == "csc":
                    whole.check_format(full_check=True)
                    whole.sum_duplicates()
                    whole = whole.tocsr()
                else:
                    # Missing values of nullable columns become NaN.
                    whole = whole.to_numpy(np.float64, na_value=np.nan)
                    whole = np.ascontiguousarray(whole)
                yield 0, n_rows, whole
                return
            if self.kind == "csr":
                indptr = self.element["indptr"][:].astype(np.int64)
                per_row = 12 * max(1, int(indptr[-1]) // max(1, n_rows))
            else:
                per_row = self.element.dtype.itemsize * max(1, n_columns)
            step = max(1, _PIECE_BYTES // per_row)
            for start in range(0, n_rows, step):
                stop = min(start + step, n_rows)
                if self.kind == "dense":
                    block = self.element[start:stop]
                    yield start, stop, block.reshape(stop - start, n_columns)
                    continue
                low, high = indptr[start], indptr[stop]
                parts = (
                    self.element["data"][low:high],
                    self.element["indices"][low:high],
                    indptr[start : stop + 1] - low,
                )
                rows = sp.csr_matrix(parts, shape=(stop - start, n_columns))
                rows.check_format(full_check=True)
                rows.sum_duplicates()
                yield start, stop, rows

    def text_columns(self) -> list[str]:
        """Columns of a table that hold no numbers."""
        return [name for name in self.columns or [] if not _is_numeric(self.element[name])]


def open_h5ad(path: str | Path) -> h5py.File:
    """Open a user's .h5ad for reading.

    Raises
    ------
    InputError
        If the file is absent, no HDF5 file, truncated, or not laid out as AnnData.
    """

    def refuse(what: str, mend: str) -> InputError:
        return InputError(f"{path}: {what}\n      -> {mend}")

    if Path(path).is_dir():
        raise refuse("this is a folder", f"name a file in `path` of the screen; {_WRITE_IT}")
    if not Path(path).is_file():
        raise refuse("there is no such file", "correct `path` of the screen.")
    if Path(path).stat().st_size == 0:
        raise refuse("the file is empty", "copy or download it again.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise refuse(*_why_not_opened(error, path)) from error
    fault = None
    if file.attrs.get("encoding-type") == "MuData":
        fault = "this is a MuData file", "write the modality to test by itself: `mdata['rna']`."
    elif "obs" not in file:
        fault = "an HDF5 file without the group `obs`", _WRITE_IT
    elif not isinstance(file["obs"], h5py.Group) or "_index" not in file["obs"].attrs:
        fault = (
            "`obs` is stored in the way of an anndata before 0.7",
            "read it with `anndata.read_h5ad(...)` and write it again with `write_h5ad(...)`.",
        )
    if fault is not None:
        file.close()
        raise refuse(*fault)
    return file


def locate(file: h5py.File, key: str) -> str | None:
    """Path inside `file` of the element a user calls `key`, or None.

    A key with a folder (``layers/counts``) or ``X`` is taken as it stands; a bare key is searched
    in obsm, layers, obsp, uns, obs.
    """
    key = key.strip("/")
    if (key == "X" or "/" in key) and key in file:
        return key
    if not key:
        return None
    return next((f"{folder}/{key}" for folder in SEARCHED if f"{folder}/{key}" in file), None)


def keys_there(file: h5py.File) -> str:
    """The keys a user could have meant, by folder."""
    there = [
        f"{folder}: {listed(file[folder], 20)}"
        for folder in SEARCHED
        if isinstance(file.get(folder), h5py.Group) and len(file[folder])
    ]
    return "; ".join(["X", *there] if "X" in file else there)


def read(file: h5py.File, where: str) -> Any:
    """One whole element as anndata reads it.

    Raises
    ------
    InputError
        If it is damaged, or in an encoding that anndata does not know.
    """
    with _reading(file, where):
        return _read_element(file[where])


def matrix(file: h5py.File, where: str) -> Matrix | None:
    """The element at `where` as a matrix, or None if it is none."""
    element = file[where]
    if isinstance(element, h5py.Dataset):
        if element.ndim not in (1, 2) or not _is_numeric(element):
            return None
        shape = element.shape if element.ndim == 2 else (element.shape[0], 1)
        return Matrix(element, where, shape, "dense")
    kind = element.attrs.get("encoding-type", "")
    with _reading(element):
        if kind in ("csr_matrix", "csc_matrix"):
            shape = tuple(int(n) for n in element.attrs["shape"])
            return Matrix(element, where, shape, kind[:3])
        if kind == "" and "h5sparse_format" in element.attrs:
            shape = tuple(int(n) for n in element.attrs["h5sparse_shape"])
            return Matrix(element, where, shape, element.attrs["h5sparse_format"])
        if kind == "dataframe":
            columns = [str(name) for name in element.attrs["column-order"]]
            index = element[element.attrs["_index"]]
            n_rows = _length(index)
            return Matrix(element, where, (n_rows, len(columns)), "table", columns)
    return None


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
        where = where or element.name.strip("/")
        raise InputError(
            f"{element.file.filename}: {where}: cannot be read ({text})\n      -> {mend}"
        ) from error


def _is_numeric(element: Any) -> bool:
    """Whether a stored array or column holds numbers; codes of categories are none."""
    if isinstance(element, h5py.Dataset):
        return element.dtype.kind in "biuf" and "categories" not in element.attrs
    kind = element.attrs.get("encoding-type", "")
    return kind in ("nullable-integer", "nullable-boolean")


def _length(column: Any) -> int:
    if isinstance(column, h5py.Dataset):
        return column.shape[0]
    return column["codes" if "codes" in column else "values"].shape[0]


def _read_element(element: Any) -> Any:
    from anndata.io import read_elem

    value = read_elem(element)
    if isinstance(element, h5py.Dataset) and "categories" in element.attrs:
        # A categorical column as anndata 0.7 stored it: by itself it reads as its codes.
        categories = read_elem(element.parent[element.attrs["categories"]])
        return pd.Categorical.from_codes(value, categories)
    return value
