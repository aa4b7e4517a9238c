"""The outcome of a user's file: checked and copied piece by piece."""

import logging
from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, listed, quoted
from condrand.inputs.elements import (
    Faults,
    as_matrix,
    find,
    names_fit,
    obs_column,
    texts,
)
from condrand.io.h5ad import (
    Matrix,
    SparseRows,
    dense_rows,
    locate,
    read,
    write_element,
)
from condrand.io.stages import outcome_name

log = logging.getLogger(__name__)

# The schema's default of `program_names`; names under it may be absent.
_PROGRAM_NAMES = "program_names"


def copy_outcome(
    file: h5py.File,
    outcome: Mapping[str, Any],
    settings: Mapping[str, Any],
    cells: pd.Index,
    out: h5py.File,
    problems: Problems,
) -> None:
    """Check an outcome and copy it into the stored screen, a piece of rows at a time."""
    key = outcome["key"]
    where = find(file, key, "outcome.key", "outcome", problems)
    found = where and as_matrix(file, where, len(cells), "outcome", problems)
    if not found:
        return
    features = _feature_names(file, settings, found, problems)
    transform = outcome["transform"]
    library = outcome["library_size"] if transform == "log1p_cpm" else None
    if transform == "clr" and found.shape[1] < 2:
        problems.add(where, "has one column, and clr compares columns", "use `transform: none`.")
    if library is not None:
        _copy_library_size(file, library, cells, out, problems)
    store = None if outcome_name(key) in out["obsm"] else _new_rows(found, out["obsm"], key)
    checks = _OutcomeChecks(transform, sums_matter=transform == "clr" or library is None)
    for start, stop, rows in found.pieces():
        checks.look(start, rows)
        if isinstance(store, SparseRows):
            store.append(rows)
        elif store is not None:
            store[start:stop] = rows.toarray() if sp.issparse(rows) else rows
    if isinstance(store, SparseRows):
        store.finish()
    checks.report(where, cells, features, problems)
    if features is not None and store is not None:
        write_element(
            out["uns"], f"features.{outcome_name(key)}", np.array(features, dtype=object)
        )


def _new_rows(found: Matrix, group: h5py.Group, key: str) -> SparseRows | h5py.Dataset:
    if found.kind in ("csr", "csc"):
        return SparseRows(group, outcome_name(key), found.shape[1], found.element["data"].dtype)
    dtype = np.float64 if found.kind == "table" else found.element.dtype
    return dense_rows(group, outcome_name(key), found.shape, dtype)


def _feature_names(
    file: h5py.File, settings: Mapping[str, Any], found: Matrix, problems: Problems
) -> list[str] | None:
    folder = found.where.split("/")[0]
    if found.columns is not None:
        names, where = found.columns, found.where
    elif folder in ("X", "layers", "raw"):
        var = "raw/var" if folder == "raw" else "var"
        where = f"{var}/{file[var].attrs.get('_index', '_index')}"
        names = texts(read(file, where))
    else:
        key = settings["program_names"]
        where = locate(file, key)
        if where is None:
            if key != _PROGRAM_NAMES:
                find(file, key, "program_names", "program names", problems)
            log.info("no names of the columns of %s: they are numbered", found.where)
            return [f"program_{k}" for k in range(found.shape[1])]
        names = texts(read(file, where))
    what, mend = "program", "make the names unique."
    if folder in ("X", "layers", "raw"):
        what, mend = "feature", "use `adata.var_names_make_unique()`."
    return names if names_fit(names, where, found, what, mend, problems) else None


def _copy_library_size(
    file: h5py.File, column: str, cells: pd.Index, out: h5py.File, problems: Problems
) -> None:
    values = obs_column(file, column, "library size", "outcome.library_size", cells, problems)
    if values is None:
        return
    where, mend = f"obs/{column}", "give each cell its total counts."
    if not pd.api.types.is_numeric_dtype(values) or pd.api.types.is_bool_dtype(values):
        found = f"holds no numbers ({quoted(values.unique(), 3)}; library size)"
        problems.add(where, found, mend)
        return
    sizes = values.to_numpy(np.float64, na_value=np.nan)
    bad = values[~(np.isfinite(sizes) & (sizes > 0))]
    if len(bad):
        problems.add(
            where,
            f"{len(bad):,} library sizes are not positive ({listed(bad.unique(), 3)}; "
            f"cells {quoted(bad.index, 3)})",
            mend,
        )
    elif f"library_size.{column}" not in out["obsm"]:
        write_element(out["obsm"], f"library_size.{column}", sizes[:, None])


class _OutcomeChecks:
    """Counts what is wrong with an outcome while its rows pass by."""

    def __init__(self, transform: str, sums_matter: bool):
        self.faults = Faults(may_be_negative=transform == "none")
        self.sums_matter = transform != "none" and sums_matter
        self.empty_rows: list[int] = []

    def look(self, start: int, rows: np.ndarray | sp.csr_matrix) -> None:
        has_fault = self.faults.look(start, rows)
        if self.sums_matter:
            with np.errstate(invalid="ignore"):
                sums = np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()
                self.empty_rows += (start + np.flatnonzero((sums <= 0) & ~has_fault)).tolist()

    def report(
        self, where: str, cells: pd.Index, features: list[str] | None, problems: Problems
    ) -> None:
        mend = "remove those cells or fill the values in; counts and usage cannot be negative."
        self.faults.report(where, cells, features, mend, problems)
        if self.empty_rows:
            problems.add(
                where,
                f"{len(self.empty_rows):,} rows sum to zero "
                f"(cells {quoted(cells[self.empty_rows], 3)})",
                "remove those cells: they have no usage or counts to compare.",
            )
