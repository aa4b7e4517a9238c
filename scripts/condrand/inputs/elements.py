"""Finding and checking single elements of a user's file."""

from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, listed, nearest, quoted
from condrand.io.h5ad import (
    SEARCHED,
    Group,
    Matrix,
    keys_there,
    locate,
    matrix,
    read,
)

# Folders whose matrices have the features of `var`.
OF_FEATURES = ("X", "layers", "raw")


def texts(values: Any) -> list[str]:
    """Names as text, whatever array or bytes they are stored as; a missing name is empty."""
    return [
        value.decode() if isinstance(value, bytes) else "" if pd.isna(value) else str(value)
        for value in np.ravel(np.asarray(values, dtype=object))
    ]


def find(file: Group, key: str, setting: str, what: str, problems: Problems) -> str | None:
    """Path of the element a user calls `key`, or None and a problem that lists the keys."""
    where = locate(file, key)
    if where is None:
        there = [name for folder in SEARCHED for name in sorted(file.get(folder, ()))]
        problems.add(
            key,
            f"there is no such key ({what})",
            f"set `{setting}` to the right one. {nearest(key, there)}"
            f"There are: {keys_there(file)}.",
        )
    return where


def as_matrix(
    file: Group, where: str, n_cells: int, what: str, problems: Problems
) -> Matrix | None:
    """The element as a numeric matrix of the cells, or None and a problem."""
    found = matrix(file, where)
    if found is None:
        problems.add(
            where, f"is no numeric matrix or table ({what})", "store it as cells x columns."
        )
        return None
    text = found.text_columns()
    if text:
        problems.add(
            where,
            f"has columns that are not numeric: {quoted(text)} ({what})",
            "leave them out of the table, or store them as numbers.",
        )
    if found.shape[0] != n_cells:
        problems.add(where, *length_differs(found.shape, n_cells, what))
    return None if text or found.shape[0] != n_cells else found


def length_differs(shape: tuple[int, ...], n_cells: int, what: str) -> tuple[str, str]:
    """What is wrong with an element of this shape, and the mend."""
    mend = "store one row per cell, in the order of obs."
    if len(shape) == 2 and shape[1] == n_cells:
        mend = "it looks transposed: store cells in rows."
    return f"has {shape[0]:,} rows, but obs has {n_cells:,} cells ({what})", mend


def check_unique(names: list[str], where: str, what: str, mend: str, problems: Problems) -> None:
    """Note names that occur more than once."""
    values, counts = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
    twice = values[counts > 1]
    if twice.size:
        problems.add(
            where, f"{twice.size} {what} names occur more than once: {quoted(twice)}", mend
        )


def column_names(file: Group, found: Matrix) -> tuple[list[str] | None, str]:
    """Names that the columns of a matrix have, None for none, and where they are."""
    if found.columns is not None:
        return found.columns, found.where
    folder = found.where.split("/")[0]
    if folder not in OF_FEATURES:
        return None, found.where
    var = "raw/var" if folder == "raw" else "var"
    where = f"{var}/{file[var].attrs.get('_index', '_index')}"
    return texts(read(file, where)), where


def names_fit(
    names: list[str], where: str, found: Matrix, what: str, mend: str, problems: Problems
) -> bool:
    """Whether there is one name per column of a matrix; note it if not, or names that repeat."""
    if len(names) != found.shape[1]:
        problems.add(
            where,
            f"has {len(names):,} names, but {found.where} has {found.shape[1]:,} columns",
            "give one name per column, in order.",
        )
        return False
    check_unique(names, where, what, mend, problems)
    return True


def obs_columns(file: Group) -> list[str]:
    """Names of the columns of obs."""
    return [str(name) for name in file["obs"].attrs.get("column-order", ())]


def obs_column(
    file: Group, name: str, what: str, setting: str, cells: pd.Index, problems: Problems
) -> pd.Series | None:
    """A column of obs, or None and a problem that lists the columns."""
    there = obs_columns(file)
    if name not in there:
        problems.add(
            f"obs/{name}",
            f"there is no such column ({what})",
            f"correct `{setting}`. {nearest(name, there)}There are: {listed(there, 20)}.",
        )
        return None
    values = read(file, f"obs/{name}")
    if len(values) != len(cells):
        problems.add(f"obs/{name}", *length_differs((len(values),), len(cells), what))
        return None
    return pd.Series(values, index=cells)


class Faults:
    """Counts the entries of a matrix that cannot be, while its rows pass by."""

    def __init__(self, may_be_negative: bool, whole: bool = False):
        self.kinds = ("NaN or infinite",) if may_be_negative else ("NaN or infinite", "negative")
        self.kinds += ("fractional",) if whole else ()
        self.count = dict.fromkeys(self.kinds, 0)
        self.first: dict[str, list[tuple[object, int, int]]] = {kind: [] for kind in self.kinds}

    def look(self, start: int, rows: np.ndarray | sp.csr_matrix) -> np.ndarray:
        """Which of the rows hold such entries: bool, shape (n_rows,)."""
        stored = rows.data if sp.issparse(rows) else rows
        has_fault = np.zeros(rows.shape[0], bool)
        for kind in self.kinds:
            bad = ~np.isfinite(stored)
            if kind != "NaN or infinite":
                # -inf is counted once.
                bad = ~bad & (stored < 0 if kind == "negative" else stored != np.floor(stored))
            if not bad.any():
                continue
            if sp.issparse(rows):
                row = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))[bad]
                column = rows.indices[bad]
            else:
                row, column = np.nonzero(bad)
            self.count[kind] += row.size
            few = slice(3 - len(self.first[kind]))
            self.first[kind] += zip(
                stored[bad][few].tolist(),
                (start + row[few]).tolist(),
                column[few].tolist(),
                strict=True,
            )
            has_fault[row] = True
        return has_fault

    def report(
        self, where: str, cells: pd.Index, names: list[str] | None, mend: str, problems: Problems
    ) -> None:
        """Note what was found, naming the first cells, columns and values."""
        for kind, count in self.count.items():
            if not count:
                continue
            places = [
                f"{value} in cell {cells[row]!r}, column "
                + (repr(names[column]) if names else f"{column} counted from 0")
                for value, row, column in self.first[kind]
            ]
            more = f" and {count - len(places):,} more" if count > len(places) else ""
            problems.add(where, f"{count:,} {kind} values ({'; '.join(places)}{more})", mend)
