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
    OF_FEATURES,
    Faults,
    as_matrix,
    column_names,
    find,
    names_fit,
    obs_column,
    texts,
)
from condrand.io.blocks import OutcomeWriter, is_stored, row_sums
from condrand.io.h5ad import (
    Group,
    Matrix,
    locate,
    read,
    write_element,
)
from condrand.outcomes.expression import automatic

log = logging.getLogger(__name__)

# Transforms that divide by the cell's total, and those that sum the matrix where it is not given.
OF_LIBRARY = ("log1p_cpm", "log_normalize")
SUMMED = ("clr", "usage", *OF_LIBRARY)
# The schema's default of `program_names`; names under it may be absent.
_PROGRAM_NAMES = "program_names"


def copy_outcome(
    file: Group,
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
    is_sparse = found.kind in ("csr", "csc")
    transform = outcome["transform"]
    transform = automatic(is_sparse) if transform == "auto" else transform
    library = outcome["library_size"] if transform in OF_LIBRARY else None
    if transform == "clr" and found.shape[1] < 2:
        problems.add(where, "has one column, and clr compares columns", "use `transform: none`.")
    if library is not None:
        _copy_library_size(file, library, cells, out, problems)
    store = None
    if not is_stored(out, key):
        store = OutcomeWriter(out, key, found.shape, found.dtype, is_sparse)
    checks = _OutcomeChecks(transform, sums_matter=transform == "clr" or library is None)
    for start, _stop, rows in found.pieces():
        sums = row_sums(rows)
        checks.look(start, rows, sums)
        if store is not None:
            store.append(start, rows, sums)
    if store is not None:
        store.finish(features)
    checks.report(where, cells, features, problems)


def _feature_names(
    file: Group, settings: Mapping[str, Any], found: Matrix, problems: Problems
) -> list[str] | None:
    names, where = column_names(file, found)
    if names is None:
        key = settings["program_names"]
        where = locate(file, key)
        if where is None:
            if key != _PROGRAM_NAMES:
                find(file, key, "program_names", "program names", problems)
            log.info("no names of the columns of %s: they are numbered", found.where)
            return [f"program_{k}" for k in range(found.shape[1])]
        names = texts(read(file, where))
    what, mend = "program", "make the names unique."
    if found.where.split("/")[0] in OF_FEATURES:
        what, mend = "feature", "use `adata.var_names_make_unique()`."
    return names if names_fit(names, where, found, what, mend, problems) else None


def _copy_library_size(
    file: Group, column: str, cells: pd.Index, out: h5py.File, problems: Problems
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
        may_be_negative = transform in ("none", "logged")
        self.transform = transform
        self.faults = Faults(may_be_negative, whole=transform == "counts")
        self.sums_matter = transform in SUMMED and sums_matter
        self.empty_rows: list[int] = []
        self.largest = 0.0
        self.whole = True

    def look(self, start: int, rows: np.ndarray | sp.csr_matrix, sums: np.ndarray) -> None:
        has_fault = self.faults.look(start, rows)
        if self.sums_matter:
            self.empty_rows += (start + np.flatnonzero((sums <= 0) & ~has_fault)).tolist()
        stored = rows.data if sp.issparse(rows) else rows
        if self.transform == "log_normalize" and stored.dtype.kind == "f" and stored.size:
            self.largest = max(self.largest, float(stored.max()))
            self.whole = self.whole and bool(np.all(stored == np.floor(stored)))

    def report(
        self, where: str, cells: pd.Index, features: list[str] | None, problems: Problems
    ) -> None:
        mend = "remove those cells or fill the values in; counts and usage cannot be negative."
        if self.faults.count.get("fractional"):
            mend = "name the matrix that holds the counts, or use another `transform`."
        self.faults.report(where, cells, features, mend, problems)
        if self.empty_rows and self.transform == "log_normalize":
            log.warning(
                "%s: %d cells have no counts and enter as zeros: %s",
                where,
                len(self.empty_rows),
                quoted(cells[self.empty_rows], 3),
            )
        elif self.empty_rows:
            problems.add(
                where,
                f"{len(self.empty_rows):,} rows sum to zero "
                f"(cells {quoted(cells[self.empty_rows], 3)})",
                "remove those cells: they have no usage or counts to compare.",
            )
        if not self.whole:
            log.warning(
                "%s: holds no whole numbers; the largest is %.4g. If it is normalized already, "
                "`transform: logged` takes logarithms as they are, `transform: none` all else",
                where,
                self.largest,
            )
