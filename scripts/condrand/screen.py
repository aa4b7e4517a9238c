"""The screen: read from the user's file once, checked whole, and stored in one plain form.

Everything that can be wrong with an input is found here and reported together; later stages
trust what :func:`load_screen` wrote.
"""

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.covariates import dependencies, encode, standardize
from condrand.errors import InputError, Problems, listed
from condrand.io.atomic import replacing
from condrand.io.h5ad import (
    Matrix,
    SparseRows,
    dense_rows,
    keys_there,
    locate,
    matrix,
    new_anndata,
    open_h5ad,
    read,
    write_element,
)
from condrand.io.stages import outcome_name
from condrand.io.tables import write_tsv
from condrand.plan import deal
from condrand.units import NTC_GUIDE, TARGET

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Guides:
    """Guide calls of a screen.

    Attributes
    ----------
    carried : scipy.sparse.csc_matrix of bool, shape (n_cells, n_guides)
    names : list of str
    target_of : dict of str to str
        Target gene, or NTC label, of each guide.
    """

    carried: sp.csc_matrix
    names: list[str]
    target_of: dict[str, str]


@dataclass(frozen=True)
class Unit:
    """A set of guides that is tested together: all guides of a target, or one NTC guide.

    Attributes
    ----------
    name : str
    kind : {"target", "ntc_guide"}
    guides : list of str
    cells : int64[::1]
        Cells that carry any of them, sorted.
    """

    name: str
    kind: str
    guides: list[str]
    cells: np.ndarray


def load_screen(
    path: str | Path,
    settings: Mapping[str, Any],
    outcomes: list[Mapping[str, Any]],
    wanted: list[str] | str,
    needs_controls: bool,
    n_batches: int,
    screen: str | Path,
    targets: str | Path,
) -> None:
    """Check a user's .h5ad and write what the analyses need of it.

    Parameters
    ----------
    path : str or pathlib.Path
        The user's file, opened for reading only.
    settings : mapping
        The screen's section of the complete configuration.
    outcomes : list of mapping
        The outcome sections of the analyses of this screen.
    wanted : list of str or "all"
        Targets that any analysis tests.
    needs_controls : bool
        Whether any analysis tests NTC guides, so that a screen without any is an error.
    n_batches : int
        Batches the units are dealt to.
    screen, targets : str or pathlib.Path
        Files to write: the screen as .h5ad and the table of its units.

    Raises
    ------
    InputError
        Listing everything that is wrong with the file. Nothing is written then.
    """
    problems = Problems(str(path))
    with open_h5ad(path) as file:
        try:
            cells = _cell_names(file)
            log.info("%s: %d cells", path, len(cells))
            guides = _read_guides(file, settings, len(cells), problems)
            covariates = _read_covariates(file, settings["covariates"], cells, problems)
            with (
                replacing(screen) as temporary,
                new_anndata(temporary, cells, pd.Index([])) as out,
            ):
                for outcome in outcomes:
                    _copy_outcome(file, outcome, settings, len(cells), out, problems)
                units: list[Unit] = []
                if guides is not None:
                    units = _units(guides, settings, wanted, needs_controls, problems)
                problems.report()
                write_element(out["obsm"], "covariates", covariates)
                _write_units(out, units, len(cells))
        except OSError as error:
            raise InputError(
                f"{path}: reading stopped ({error})\n      -> the file is damaged; copy it again."
            ) from error
    table = targets_table(units, len(cells), n_batches)
    skipped = table[table["status"] != "kept"]
    for row in skipped.itertuples():
        log.warning("skipped %s: %s", row.target, row.status)
    write_tsv(table, targets)
    log.info(
        "%d targets and %d NTC guides in %d batches, %d skipped",
        sum(unit.kind == TARGET for unit in units),
        sum(unit.kind == NTC_GUIDE for unit in units),
        n_batches,
        len(skipped),
    )


def targets_table(units: list[Unit], n_cells: int, n_batches: int) -> pd.DataFrame:
    """The units, their sizes and batches, one row each, in order of batch and name."""
    batch = deal({f"{unit.kind}:{unit.name}": unit.cells.size for unit in units}, n_batches)
    rows = [
        {
            "target": unit.name,
            "kind": unit.kind,
            "guides": ",".join(unit.guides),
            "n_cells": unit.cells.size,
            "batch": batch[f"{unit.kind}:{unit.name}"],
            "status": _status(unit.cells.size, n_cells),
        }
        for unit in units
    ]
    columns = ["target", "kind", "guides", "n_cells", "batch", "status"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["batch", "kind", "target"], kind="stable", ignore_index=True)


def _status(n_treated: int, n_cells: int) -> str:
    if n_treated == 0:
        return "no cell carries its guides"
    if n_treated == n_cells:
        return "every cell carries its guides"
    return "kept"


def _cell_names(file: h5py.File) -> pd.Index:
    obs = file["obs"]
    return pd.Index(read(file, f"obs/{obs.attrs.get('_index', '_index')}"), dtype=object)


def _find(file: h5py.File, key: str, setting: str, what: str, problems: Problems) -> str | None:
    where = locate(file, key)
    if where is None:
        problems.add(
            key,
            f"there is no such key ({what})",
            f"set `{setting}` to the right one. There are: {keys_there(file)}.",
        )
    return where


def _as_matrix(
    file: h5py.File, where: str, n_cells: int, what: str, problems: Problems
) -> Matrix | None:
    found = matrix(file, where)
    if found is None:
        problems.add(
            where, f"is no numeric matrix or table ({what})", "store it as cells x columns."
        )
    elif found.shape[0] != n_cells:
        problems.add(
            where,
            f"has {found.shape[0]:,} rows, but obs has {n_cells:,} cells ({what})",
            "store one row per cell, in the order of obs.",
        )
        return None
    return found


def _read_guides(
    file: h5py.File, settings: Mapping[str, Any], n_cells: int, problems: Problems
) -> Guides | None:
    where = _find(
        file, settings["guide_assignment"], "guide_assignment", "guide assignment", problems
    )
    found = where and _as_matrix(file, where, n_cells, "guide assignment", problems)
    carried = found and _read_calls(found, problems)
    names = found and _guide_names(file, settings, found, problems)
    target_of = _guide2gene(file, settings, problems)
    if names is not None and target_of is not None:
        missing = [name for name in names if name not in target_of]
        if missing:
            problems.add(
                settings["guide2gene"],
                f"lacks {len(missing)} of the {len(names)} guides: {listed(missing)}",
                "add their genes (or the NTC label), or leave their columns out.",
            )
        known = set(names)
        strangers = [name for name in target_of if name not in known]
        if strangers:
            problems.add(
                settings["guide2gene"],
                f"names {len(strangers)} guides that {where} does not have: {listed(strangers)}",
                "remove them, or correct the names.",
            )
    if carried is None or names is None or target_of is None or carried.shape[1] != len(names):
        return None
    return Guides(carried, names, target_of)


def _read_calls(found: Matrix, problems: Problems) -> sp.csc_matrix | None:
    bad: dict[str, int] = {"NaN or infinite": 0, "negative": 0}
    pieces = []
    for _start, _stop, rows in found.pieces():
        stored = rows.data if sp.issparse(rows) else rows
        bad["NaN or infinite"] += int(np.sum(~np.isfinite(stored)))
        bad["negative"] += int(np.sum(stored < 0))
        # Stored values decide: an explicit zero is no guide.
        carried = sp.csr_matrix(rows > 0)
        pieces.append(carried)
    for what, count in bad.items():
        if count:
            problems.add(
                found.where,
                f"{count:,} {what} values",
                "store 0 for no guide, 1 or a count for one.",
            )
    carried = sp.vstack(pieces).tocsc() if pieces else sp.csc_matrix(found.shape, dtype=bool)
    carried.sort_indices()
    if carried.nnz == 0:
        problems.add(
            found.where,
            f"no cell carries a guide ({found.shape[0]:,} cells x {found.shape[1]:,} guides)",
            "check that guides were called and that `guide_assignment` names the right matrix.",
        )
        return None
    return carried


def _guide_names(
    file: h5py.File, settings: Mapping[str, Any], found: Matrix, problems: Problems
) -> list[str] | None:
    if found.columns is not None:
        names, where = found.columns, found.where
    else:
        where = _find(file, settings["guide_names"], "guide_names", "guide names", problems)
        if where is None:
            return None
        names = [str(name) for name in np.ravel(read(file, where))]
        if len(names) != found.shape[1]:
            problems.add(
                where,
                f"has {len(names):,} names, but {found.where} has {found.shape[1]:,} columns",
                "give one name per column, in order.",
            )
            return None
    _check_unique(names, where, "guide", problems)
    return names


def _check_unique(names: list[str], where: str, what: str, problems: Problems) -> None:
    values, counts = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
    twice = values[counts > 1]
    if twice.size:
        problems.add(
            where,
            f"{twice.size} {what} names occur more than once: {listed(twice)}",
            "make the names unique.",
        )


def _guide2gene(
    file: h5py.File, settings: Mapping[str, Any], problems: Problems
) -> dict[str, str] | None:
    where = _find(file, settings["guide2gene"], "guide2gene", "guide to target gene", problems)
    if where is None:
        return None
    value = read(file, where)
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, pd.DataFrame) and {"guide", "gene"} <= set(value.columns):
        pairs = list(zip(value["guide"], value["gene"], strict=True))
    elif isinstance(value, pd.DataFrame) and value.shape[1] == 1:
        pairs = list(zip(value.index, value.iloc[:, 0], strict=True))
    elif isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 2:
        pairs = list(value)
    else:
        problems.add(
            where,
            f"is {type(value).__name__}, which maps no guide to a gene",
            "store a dict {guide: gene}, or a table with columns `guide` and `gene`.",
        )
        return None
    _check_unique([str(guide) for guide, _ in pairs], where, "guide", problems)
    return {str(guide): str(gene) for guide, gene in pairs}


def _units(
    guides: Guides,
    settings: Mapping[str, Any],
    wanted: list[str] | str,
    needs_controls: bool,
    problems: Problems,
) -> list[Unit]:
    labels = set(settings["ntc_labels"])
    column = {name: i for i, name in enumerate(guides.names)}
    of_target: dict[str, list[str]] = {}
    for guide in guides.names:
        if guide in guides.target_of:
            of_target.setdefault(guides.target_of[guide], []).append(guide)
    controls = sorted(g for label in labels for g in of_target.get(label, []))
    there = sorted(set(of_target) - labels)
    if not controls and needs_controls:
        problems.add(
            settings["guide2gene"],
            f"no guide is labelled non-targeting control (looked for: {listed(sorted(labels))})",
            "set `ntc_labels` of the screen to the label used here, or `controls: none` in the "
            f"analysis. The labels there are: {listed(there, 10)}.",
        )
    if not there:
        problems.add(
            settings["guide2gene"],
            "every guide is labelled as non-targeting control: there is no target to test",
            "correct `ntc_labels` of the screen.",
        )
    if wanted == "all":
        wanted = there
    else:
        strangers = [name for name in wanted if name not in of_target]
        if strangers:
            problems.add(
                "analyses: targets",
                f"{len(strangers)} have no guide in this screen: {listed(strangers)}",
                f"correct the names. The targets there are: {listed(there, 10)}.",
            )
        wanted = sorted(set(wanted) & set(of_target))

    def unit(name: str, kind: str, members: list[str]) -> Unit:
        columns = guides.carried[:, [column[guide] for guide in members]]
        return Unit(name, kind, members, np.unique(columns.indices).astype(np.int64))

    return [unit(name, TARGET, of_target[name]) for name in wanted] + [
        unit(guide, NTC_GUIDE, [guide]) for guide in controls
    ]


def _write_units(out: h5py.File, units: list[Unit], n_cells: int) -> None:
    indptr = np.concatenate([[0], np.cumsum([unit.cells.size for unit in units])]).astype(np.int64)
    indices = np.concatenate([np.zeros(0, np.int64), *(unit.cells for unit in units)])
    data = np.ones(indices.size, bool)
    treated = sp.csc_matrix((data, indices, indptr), shape=(n_cells, len(units)))
    write_element(out["obsm"], "treated", treated)
    table = pd.DataFrame({"name": [u.name for u in units], "kind": [u.kind for u in units]})
    table.index = table.index.astype(str)
    write_element(out["uns"], "units", table)


def _read_covariates(
    file: h5py.File, settings: Mapping[str, Any], cells: pd.Index, problems: Problems
) -> pd.DataFrame | None:
    before = len(problems.found)
    if "formula" in settings:
        table = _covariates_by_formula(file, settings["formula"], problems)
        where = "covariates.formula"
    elif "columns" in settings:
        table = _covariates_by_column(file, settings["columns"], problems)
        where = "obs"
    else:
        table, where = _covariates_by_key(file, settings["key"], len(cells), problems)
    if table is None or len(problems.found) > before:
        return None
    table.index = cells
    table.columns = table.columns.astype(str)
    _check_unique(list(table.columns), where, "covariate", problems)
    _check_finite(table, where, problems)
    if len(problems.found) == before:
        threshold = settings["numeric_as_category_threshold"]
        _check_design(table, where, threshold, settings["rank_deficient"], problems)
    return table


def _covariates_by_key(
    file: h5py.File, key: str, n_cells: int, problems: Problems
) -> tuple[pd.DataFrame | None, str]:
    where = _find(file, key, "covariates.key", "covariates", problems)
    if where is None:
        return None, key
    value = read(file, where)
    if sp.issparse(value):
        value = value.toarray()
    if isinstance(value, np.ndarray):
        value = value.reshape(value.shape[0], -1)
        value = pd.DataFrame(value, columns=[f"covar_{i}" for i in range(value.shape[1])])
    elif isinstance(value, pd.Series | pd.Categorical):
        value = pd.DataFrame({key: value})
    if not isinstance(value, pd.DataFrame):
        problems.add(where, "is no table or array (covariates)", "store cells x covariates.")
        return None, where
    if len(value) != n_cells:
        problems.add(
            where,
            f"has {len(value):,} rows, but obs has {n_cells:,} cells (covariates)",
            "store one row per cell, in the order of obs.",
        )
        return None, where
    return value.copy(), where


def _covariates_by_column(
    file: h5py.File, columns: list[Any], problems: Problems
) -> pd.DataFrame | None:
    there = list(file["obs"].attrs["column-order"])
    table = {}
    for item in columns:
        item = {"name": item} if isinstance(item, str) else item
        name, transform = item["name"], item.get("transform", "none")
        if name not in there:
            problems.add(
                f"obs/{name}",
                "there is no such column (covariates)",
                f"set `covariates.columns` to columns of obs. There are: {listed(there, 20)}.",
            )
            continue
        values = pd.Series(read(file, f"obs/{name}"))
        if transform == "none":
            table[name] = values
            continue
        if not pd.api.types.is_numeric_dtype(values):
            problems.add(
                f"obs/{name}", f"is not numeric, but {transform} is asked", "drop `transform`."
            )
            continue
        lowest = 0 if transform == "log" else -1
        low = values[values <= lowest]
        if len(low):
            problems.add(
                f"obs/{name}",
                f"{len(low):,} values are {lowest} or less ({listed(low.unique(), 3)}), "
                f"so {transform} is undefined",
                "use log1p, or remove those cells." if lowest == 0 else "remove those cells.",
            )
            continue
        table[f"{transform}({name})"] = (np.log if transform == "log" else np.log1p)(values)
    return pd.DataFrame(table) if table else None


def _covariates_by_formula(
    file: h5py.File, formula: str, problems: Problems
) -> pd.DataFrame | None:
    from formulaic import Formula

    obs = read(file, "obs")
    right = formula.strip()
    if "~" in right and not right.startswith("~"):
        problems.add(
            "covariates.formula", f"{formula!r} has a left-hand side", "give covariates only."
        )
        return None
    try:
        parsed = Formula(right.removeprefix("~").strip())
        unknown = sorted(set(parsed.required_variables) - set(obs.columns))
        if unknown:
            problems.add(
                "covariates.formula",
                f"{formula!r} names {listed(unknown)}, which obs does not have",
                f"use columns of obs. There are: {listed(obs.columns, 20)}.",
            )
            return None
        design = parsed.get_model_matrix(obs, na_action="ignore")
    except Exception as error:  # noqa: BLE001 - formulaic raises many kinds; all are the user's
        problems.add(
            "covariates.formula",
            f"{formula!r} cannot be read: {error}",
            'write R-style, for example "~ log(n_umis) + batch".',
        )
        return None
    return pd.DataFrame(design).drop(columns="Intercept", errors="ignore").astype(np.float64)


def _check_finite(table: pd.DataFrame, where: str, problems: Problems) -> None:
    for name in table.columns:
        column = table[name]
        missing = int(column.isna().sum())
        infinite = 0
        if pd.api.types.is_float_dtype(column):
            infinite = int(np.isinf(column).sum())
        if missing or infinite:
            rows = np.flatnonzero(column.isna() | (np.isinf(column) if infinite else False))
            kinds = [f"{missing:,} NaN"] * bool(missing) + [f"{infinite:,} infinite"] * bool(
                infinite
            )
            problems.add(
                f"{where}/{name}",
                f"{' and '.join(kinds)} values (cells {listed(table.index[rows], 3)})",
                "fill them in, remove those cells, or leave the covariate out.",
            )


def _check_design(
    table: pd.DataFrame, where: str, threshold: int | None, rank_deficient: str, problems: Problems
) -> None:
    encoded = encode(table, threshold)
    n_cells, n_columns = encoded.shape
    if n_cells <= n_columns + 1:
        problems.add(
            where,
            f"{n_columns + 1} design columns for {n_cells} cells",
            "leave covariates out, or raise `numeric_as_category_threshold` with care.",
        )
        return
    dependent = dependencies(list(encoded.columns), standardize(encoded.to_numpy()))
    for dependency in dependent:
        if rank_deficient == "drop":
            log.warning("design column dropped: %s", dependency)
    if dependent and rank_deficient == "error":
        problems.add(
            where,
            f"these covariates add nothing to the others: {listed(dependent)}",
            "remove them, or set `covariates.rank_deficient: drop` to go on without them.",
        )


def _copy_outcome(
    file: h5py.File,
    outcome: Mapping[str, Any],
    settings: Mapping[str, Any],
    n_cells: int,
    out: h5py.File,
    problems: Problems,
) -> None:
    key = outcome["key"]
    where = _find(file, key, "outcome.key", "outcome", problems)
    found = where and _as_matrix(file, where, n_cells, "outcome", problems)
    if not found:
        return
    features = _feature_names(file, settings, found, problems)
    transform = outcome["transform"]
    library = outcome["library_size"] if transform == "log1p_cpm" else None
    if transform == "clr" and found.shape[1] < 2:
        problems.add(where, "has one column, and clr compares columns", "use `transform: none`.")
    if library is not None:
        _copy_library_size(file, library, out, problems)
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
    checks.report(where, features, problems)
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
    elif folder in ("X", "layers"):
        where = f"var/{file['var'].attrs.get('_index', '_index')}"
        names = [str(name) for name in read(file, where)]
    else:
        where = locate(file, settings["program_names"])
        if where is None:
            return [f"program_{k}" for k in range(found.shape[1])]
        names = [str(name) for name in np.ravel(read(file, where))]
    if len(names) != found.shape[1]:
        problems.add(
            where,
            f"has {len(names):,} names, but {found.where} has {found.shape[1]:,} columns",
            "give one name per column, in order.",
        )
        return None
    _check_unique(names, where, "program" if folder == "obsm" else "feature", problems)
    return names


def _copy_library_size(file: h5py.File, column: str, out: h5py.File, problems: Problems) -> None:
    if column not in file["obs"]:
        problems.add(
            f"obs/{column}",
            "there is no such column (library size)",
            f"correct `outcome.library_size`. There are: {listed(file['obs'], 20)}.",
        )
        return
    values = np.asarray(read(file, f"obs/{column}"))
    bad = values.dtype.kind not in "iuf" or np.sum(~(np.isfinite(values) & (values > 0)))
    if bad:
        problems.add(
            f"obs/{column}",
            "holds library sizes that are not positive numbers",
            "give each cell its total counts.",
        )
    elif f"library_size.{column}" not in out["obsm"]:
        write_element(out["obsm"], f"library_size.{column}", values.astype(np.float64)[:, None])


class _OutcomeChecks:
    """Counts what is wrong with an outcome while its rows pass by."""

    def __init__(self, transform: str, sums_matter: bool):
        self.may_be_negative = transform == "none"
        self.sums_matter = transform != "none" and sums_matter
        self.not_finite = self.negative = 0
        self.bad_columns: set[int] = set()
        self.bad_rows: list[int] = []
        self.empty_rows: list[int] = []

    def look(self, start: int, rows: np.ndarray | sp.csr_matrix) -> None:
        stored = rows.data if sp.issparse(rows) else rows
        not_finite = ~np.isfinite(stored)
        negative = np.zeros_like(not_finite) if self.may_be_negative else stored < 0
        bad = not_finite | negative
        if bad.any():
            self.not_finite += int(not_finite.sum())
            self.negative += int(negative.sum())
            if sp.issparse(rows):
                row_of = np.repeat(np.arange(rows.shape[0]), np.diff(rows.indptr))
                row, column = row_of[bad], rows.indices[bad]
            else:
                row, column = np.nonzero(bad)
            self.bad_columns.update(np.unique(column).tolist())
            self.bad_rows.extend((start + np.unique(row)).tolist())
        if self.sums_matter and not bad.any():
            sums = np.asarray(rows.sum(axis=1, dtype=np.float64)).ravel()
            self.empty_rows.extend((start + np.flatnonzero(sums <= 0)).tolist())

    def report(self, where: str, features: list[str] | None, problems: Problems) -> None:
        for count, what, mend in (
            (self.not_finite, "NaN or infinite", "remove those cells or fill the values in."),
            (
                self.negative,
                "negative",
                "usage and counts cannot be negative; use another matrix.",
            ),
        ):
            if count:
                columns = sorted(self.bad_columns)
                names = [features[c] for c in columns] if features else columns
                problems.add(
                    where,
                    f"{count:,} {what} values (columns {listed(names, 3)}; "
                    f"rows {listed(self.bad_rows, 3)}, counted from 0)",
                    mend,
                )
        if self.empty_rows:
            problems.add(
                where,
                f"{len(self.empty_rows):,} rows sum to zero "
                f"(rows {listed(self.empty_rows, 3)}, counted from 0)",
                "remove those cells: they have no usage or counts to compare.",
            )
