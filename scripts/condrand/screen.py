"""The screen: read from the user's file once, checked whole, and stored in one plain form.

Everything that can be wrong with an input is found here and reported together; later stages
trust what :func:`load_screen` wrote.
"""

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.covariates import dependencies, encode, standardize
from condrand.errors import InputError, Problems, listed, nearest, quoted
from condrand.io.atomic import replacing
from condrand.io.h5ad import (
    SEARCHED,
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

# The schema's default of `program_names`; names under it may be absent.
_PROGRAM_NAMES = "program_names"


@dataclass(frozen=True)
class Guides:
    """Guide calls of a screen.

    Attributes
    ----------
    carried : scipy.sparse.csc_matrix of bool, shape (n_cells, n_guides), or None
        None where a problem has been noted.
    names : list of str
    target_of : dict of str to str
        Target gene, or NTC label, of each guide.
    """

    carried: sp.csc_matrix | None
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
        cells = _cell_names(file, problems)
        log.info("%s: %d cells", path, len(cells))
        guides = _read_guides(file, settings, cells, problems)
        wanted_units = guides and _wanted(guides, settings, wanted, needs_controls, problems)
        covariates = _read_covariates(file, settings["covariates"], cells, problems)
        with (
            replacing(screen) as temporary,
            new_anndata(temporary, cells, pd.Index([])) as out,
        ):
            for outcome in outcomes:
                _copy_outcome(file, outcome, settings, cells, out, problems)
            problems.report()
            units = [_unit(guides, *which) for which in wanted_units]
            write_element(out["obsm"], "covariates", covariates)
            _write_units(out, units, len(cells))
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


def _cell_names(file: h5py.File, problems: Problems) -> pd.Index:
    where = f"obs/{file['obs'].attrs['_index']}"
    cells = pd.Index(_texts(read(file, where)), dtype=object)
    if not len(cells):
        problems.add(where, "there are no cells", "check how the file was filtered.")
        problems.report()
    twice = cells[cells.duplicated()].unique()
    if len(twice):
        # Rows are matched by their order, so this changes no result.
        log.warning("%d cell names occur more than once: %s", len(twice), quoted(twice))
    return cells


def _texts(values: Any) -> list[str]:
    """Names as text, whatever array or bytes they are stored as; a missing name is empty."""
    return [
        value.decode() if isinstance(value, bytes) else "" if pd.isna(value) else str(value)
        for value in np.ravel(np.asarray(values, dtype=object))
    ]


def _find(file: h5py.File, key: str, setting: str, what: str, problems: Problems) -> str | None:
    where = locate(file, key)
    if where is None:
        there = [name for folder in SEARCHED for name in file.get(folder, ())]
        problems.add(
            key,
            f"there is no such key ({what})",
            f"set `{setting}` to the right one. {nearest(key, there)}"
            f"There are: {keys_there(file)}.",
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
        return None
    text = found.text_columns()
    if text:
        problems.add(
            where,
            f"has columns that are not numeric: {quoted(text)} ({what})",
            "leave them out of the table, or store them as numbers.",
        )
    if found.shape[0] != n_cells:
        problems.add(where, *_length_differs(found.shape, n_cells, what))
    return None if text or found.shape[0] != n_cells else found


def _length_differs(shape: tuple[int, ...], n_cells: int, what: str) -> tuple[str, str]:
    mend = "store one row per cell, in the order of obs."
    if len(shape) == 2 and shape[1] == n_cells:
        mend = "it looks transposed: store cells in rows."
    return f"has {shape[0]:,} rows, but obs has {n_cells:,} cells ({what})", mend


def _read_guides(
    file: h5py.File, settings: Mapping[str, Any], cells: pd.Index, problems: Problems
) -> Guides | None:
    what = "guide assignment"
    where = _find(file, settings["guide_assignment"], "guide_assignment", what, problems)
    found = where and _as_matrix(file, where, len(cells), what, problems)
    names = _guide_names(file, settings, found, problems) if found else None
    carried = _read_calls(found, cells, names, problems) if found else None
    target_of = _guide2gene(file, settings, problems)
    if names is None or target_of is None:
        return None
    _check_same_guides(names, target_of, settings["guide2gene"], where, problems)
    return Guides(carried, names, target_of)


def _check_same_guides(
    names: list[str], target_of: dict[str, str], key: str, where: str, problems: Problems
) -> None:
    known = set(names)
    missing = [name for name in names if name not in target_of]
    strangers = [name for name in target_of if name not in known]
    blanks = {name.strip() for name in missing} & {name.strip() for name in strangers}
    hint = f" Some differ in blanks alone: {quoted(sorted(blanks))}." if blanks else ""
    if missing:
        problems.add(
            key,
            f"lacks {len(missing)} of the {len(names)} guides: {quoted(missing)}",
            f"add their genes (or the NTC label), or leave their columns out.{hint}",
        )
    if strangers:
        problems.add(
            key,
            f"names {len(strangers)} guides that {where} does not have: {quoted(strangers)}",
            f"remove them, or correct the names.{hint}",
        )


def _read_calls(
    found: Matrix, cells: pd.Index, names: list[str] | None, problems: Problems
) -> sp.csc_matrix | None:
    faults = _Faults(may_be_negative=False)
    pieces = []
    for start, _stop, rows in found.pieces():
        faults.look(start, rows)
        # Stored values decide: an explicit zero is no guide.
        pieces.append(sp.csr_matrix(rows > 0))
    faults.report(
        found.where, cells, names, "store 0 for no guide, 1 or a count for one.", problems
    )
    carried = sp.vstack(pieces).tocsc()
    carried.eliminate_zeros()
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
        names = _texts(read(file, where))
        if len(names) != found.shape[1]:
            problems.add(
                where,
                f"has {len(names):,} names, but {found.where} has {found.shape[1]:,} columns",
                "give one name per column, in order.",
            )
            return None
    _check_unique(names, where, "guide", "make the names unique.", problems)
    return names


def _check_unique(names: list[str], where: str, what: str, mend: str, problems: Problems) -> None:
    values, counts = np.unique(np.array(names, dtype=object).astype(str), return_counts=True)
    twice = values[counts > 1]
    if twice.size:
        problems.add(
            where, f"{twice.size} {what} names occur more than once: {quoted(twice)}", mend
        )


def _guide2gene(
    file: h5py.File, settings: Mapping[str, Any], problems: Problems
) -> dict[str, str] | None:
    where = _find(file, settings["guide2gene"], "guide2gene", "guide to target gene", problems)
    if where is None:
        return None
    value = read(file, where)
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = pd.DataFrame(value)
    if isinstance(value, Mapping):
        pairs = list(value.items())
    elif isinstance(value, pd.DataFrame) and {"guide", "gene"} <= set(value.columns):
        pairs = list(zip(value["guide"], value["gene"], strict=True))
    elif isinstance(value, pd.DataFrame) and value.shape[1] == 1:
        pairs = list(zip(value.index, value.iloc[:, 0], strict=True))
    elif isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 2:
        pairs = list(value)
    else:
        what = type(value).__name__
        if isinstance(value, pd.DataFrame):
            what = f"a table with the columns {quoted(value.columns)}"
        elif isinstance(value, np.ndarray):
            what = f"an array of shape {value.shape}"
        problems.add(
            where,
            f"is {what}, which maps no guide to a gene",
            "store a dict {guide: gene}, or a table with columns `guide` and `gene`.",
        )
        return None
    nested = [guide for guide, gene in pairs if isinstance(gene, Mapping) or np.size(gene) != 1]
    if nested:
        problems.add(
            where,
            f"maps {len(nested)} guides to no single gene: {quoted(nested)}",
            "store one gene per guide; names with '/' need a table with columns `guide` and "
            "`gene` in place of a dict.",
        )
        return None
    guides = _texts([guide for guide, _ in pairs])
    genes = _texts([np.ravel(np.asarray(gene, dtype=object))[0] for _, gene in pairs])
    _check_unique(guides, where, "guide", "map each guide to one gene.", problems)
    nameless = [guide for guide, gene in zip(guides, genes, strict=True) if not gene.strip()]
    if nameless:
        problems.add(
            where,
            f"gives {len(nameless)} guides no gene: {quoted(nameless)}",
            "give each guide its gene or the NTC label.",
        )
    return dict(zip(guides, genes, strict=True))


def _wanted(
    guides: Guides,
    settings: Mapping[str, Any],
    wanted: list[str] | str,
    needs_controls: bool,
    problems: Problems,
) -> list[tuple[str, str, list[str]]]:
    """Name, kind and guides of each unit that is tested, sorted."""
    labels = set(settings["ntc_labels"])
    of_target: dict[str, list[str]] = {}
    for guide in guides.names:
        if guide in guides.target_of:
            of_target.setdefault(guides.target_of[guide], []).append(guide)
    controls = sorted(g for label in labels for g in of_target.get(label, []))
    there = sorted(set(of_target) - labels)
    _check_labels(settings["guide2gene"], labels, there, controls, needs_controls, problems)
    if wanted == "all":
        wanted = there
    strangers = [name for name in wanted if name not in there]
    if strangers:
        hints = "".join(
            f"{name}: it is an NTC label; `controls: guides` tests its guides. "
            if name in labels
            else f"{name}: {close}"
            for name in strangers[:5]
            if (close := nearest(name, there)) or name in labels
        )
        problems.add(
            "analyses: targets",
            f"{len(strangers)} have no guide in this screen: {quoted(strangers)}",
            f"correct the names. {hints}The targets there are: {quoted(there, 10)}.",
        )
    return [(name, TARGET, of_target[name]) for name in sorted(set(wanted) & set(there))] + [
        (guide, NTC_GUIDE, [guide]) for guide in controls
    ]


def _check_labels(
    key: str,
    labels: set[str],
    there: list[str],
    controls: list[str],
    needs_controls: bool,
    problems: Problems,
) -> None:
    if not controls and needs_controls:
        close = "".join(filter(None, [nearest(label, there) for label in sorted(labels)]))
        problems.add(
            key,
            f"no guide is labelled non-targeting control (looked for: {quoted(sorted(labels))})",
            "set `ntc_labels` of the screen to the label used here, or `controls: none` in the "
            f"analysis. {close}The labels there are: {quoted(there, 10)}.",
        )
    if not there:
        problems.add(
            key,
            "every guide is labelled as non-targeting control: there is no target to test",
            "correct `ntc_labels` of the screen.",
        )
    alike: dict[str, list[str]] = {}
    for name in [*there, *sorted(labels)]:
        alike.setdefault(name.strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1 and set(names) & set(there):
            problems.add(
                key,
                f"these genes differ in blanks alone: {quoted(names)}",
                "write each gene in one way.",
            )


def _unit(guides: Guides, name: str, kind: str, members: list[str]) -> Unit:
    column = {guide: i for i, guide in enumerate(guides.names)}
    columns = guides.carried[:, [column[guide] for guide in members]]
    return Unit(name, kind, members, np.unique(columns.indices).astype(np.int64))


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
    if "formula" in settings:
        where, table = "covariates.formula", None
        table = _covariates_by_formula(file, settings["formula"], cells, problems)
    elif "columns" in settings:
        where = "obs"
        table = _covariates_by_column(file, settings["columns"], cells, problems)
    else:
        table, where = _covariates_by_key(file, settings["key"], cells, problems)
    if table is None:
        return None
    # A slash in the name of a column would become a folder of the file.
    table.columns = [str(name).replace("/", "\N{DIVISION SIGN}") for name in table.columns]
    before = len(problems.found)
    _check_unique(list(table.columns), where, "covariate", "rename the columns.", problems)
    if len(problems.found) > before:
        return None
    whole = _check_finite(table, where, problems)
    threshold = settings["numeric_as_category_threshold"]
    _check_design(table[whole], where, threshold, settings["rank_deficient"], problems)
    return table


def _covariates_by_key(
    file: h5py.File, key: str, cells: pd.Index, problems: Problems
) -> tuple[pd.DataFrame | None, str]:
    where = _find(file, key, "covariates.key", "covariates", problems)
    if where is None:
        return None, key
    value = read(file, where)
    if sp.issparse(value):
        value = value.toarray()
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = pd.DataFrame(value)
    elif isinstance(value, np.ndarray) and where.startswith("obs/"):
        value = pd.DataFrame({key: value})
    elif isinstance(value, np.ndarray) and value.ndim in (1, 2):
        value = value.reshape(value.shape[0], -1)
        value = pd.DataFrame(value, columns=[f"covar_{i}" for i in range(value.shape[1])])
    elif isinstance(value, pd.api.extensions.ExtensionArray):
        value = pd.DataFrame({key: value})
    if not isinstance(value, pd.DataFrame):
        problems.add(where, "is no table or array (covariates)", "store cells x covariates.")
        return None, where
    if len(value) != len(cells):
        problems.add(where, *_length_differs(value.shape, len(cells), "covariates"))
        return None, where
    return value.set_axis(cells, axis=0), where


def _covariates_by_column(
    file: h5py.File, columns: list[Any], cells: pd.Index, problems: Problems
) -> pd.DataFrame | None:
    table = {}
    for item in columns:
        item = {"name": item} if isinstance(item, str) else item
        name, transform = item["name"], item.get("transform", "none")
        values = _obs_column(file, name, "covariates", "covariates.columns", cells, problems)
        if values is None:
            continue
        if transform == "none":
            table[name] = values
            continue
        if not pd.api.types.is_numeric_dtype(values):
            problems.add(
                f"obs/{name}",
                f"is not numeric ({quoted(values.unique(), 3)}), but {transform} is asked",
                "drop `transform`, or store the column as numbers.",
            )
            continue
        lowest = 0 if transform == "log" else -1
        low = values[(values <= lowest).fillna(False).astype(bool)]
        if len(low):
            problems.add(
                f"obs/{name}",
                f"{len(low):,} values are {lowest} or less ({listed(low.unique(), 3)}; "
                f"cells {quoted(low.index, 3)}), so {transform} is undefined",
                "use log1p, or remove those cells." if lowest == 0 else "remove those cells.",
            )
            continue
        table[f"{transform}({name})"] = (np.log if transform == "log" else np.log1p)(values)
    return pd.DataFrame(table, index=cells) if table else None


def _obs_column(
    file: h5py.File, name: str, what: str, setting: str, cells: pd.Index, problems: Problems
) -> pd.Series | None:
    there = _obs_columns(file)
    if name not in there:
        problems.add(
            f"obs/{name}",
            f"there is no such column ({what})",
            f"correct `{setting}`. {nearest(name, there)}There are: {listed(there, 20)}.",
        )
        return None
    values = read(file, f"obs/{name}")
    if len(values) != len(cells):
        problems.add(f"obs/{name}", *_length_differs((len(values),), len(cells), what))
        return None
    return pd.Series(values, index=cells)


def _obs_columns(file: h5py.File) -> list[str]:
    return [str(name) for name in file["obs"].attrs.get("column-order", ())]


def _covariates_by_formula(
    file: h5py.File, formula: str, cells: pd.Index, problems: Problems
) -> pd.DataFrame | None:
    from formulaic import Formula

    key = "covariates.formula"
    right = formula.strip().removeprefix("~").strip()
    there = _obs_columns(file)
    if "~" in right:
        problems.add(
            key, f"{formula!r} has a left-hand side", "give covariates only, on the right of `~`."
        )
        return None
    # formulaic does not name the variables inside bs() and its like.
    words = {quote or word for quote, word in re.findall(r"`([^`]+)`|([^\W\d][\w.]*)", right)}
    named = sorted(words & set(there))
    try:
        parsed = Formula(right)
        unknown = sorted(set(parsed.required_variables) - set(there))
        if unknown:
            close = "".join(nearest(name, there) for name in unknown)
            problems.add(
                key,
                f"{formula!r} names {quoted(unknown)}, which obs does not have",
                f"use columns of obs. {close}There are: {listed(there, 20)}.",
            )
            return None
        columns = [_obs_column(file, name, "covariates", key, cells, problems) for name in named]
        if any(column is None for column in columns):
            return None
        obs = pd.DataFrame(dict(zip(named, columns, strict=True)), index=cells)
        if len(_check_finite(obs, "obs", problems)) < len(named):
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            design = parsed.get_model_matrix(obs, na_action="ignore")
        design = pd.DataFrame(design).astype(np.float64)
    except InputError:
        raise
    except Exception as error:  # noqa: BLE001 - formulaic raises many kinds; all are the user's
        text = str(error).split("\n")[0]
        problems.add(
            key,
            f"{formula!r} cannot be read: {text}",
            'write R-style, for example "~ log(n_umis) + batch". The columns there are: '
            f"{listed(there, 20)}.",
        )
        return None
    if "Intercept" not in design:
        problems.add(
            key,
            f"{formula!r} leaves the intercept out",
            "remove `0 +` or `- 1`: every model has an intercept.",
        )
        return None
    return design.drop(columns="Intercept")


def _check_finite(table: pd.DataFrame, where: str, problems: Problems) -> list[str]:
    """Names of the columns without missing or infinite values; the others are noted."""
    whole = []
    for name in table.columns:
        column = table[name]
        missing = column.isna().to_numpy()
        infinite = np.zeros(len(column), bool)
        if pd.api.types.is_float_dtype(column):
            infinite = np.isinf(column.to_numpy(np.float64, na_value=np.nan))
        if not (missing | infinite).any():
            whole.append(name)
            continue
        kinds = [
            f"{count:,} {kind}"
            for count, kind in ((missing.sum(), "NaN"), (infinite.sum(), "infinite"))
            if count
        ]
        mend = "fill them in, remove those cells, or leave the covariate out."
        if where == "covariates.formula":
            mend = f"the logarithm of 0 or the root of a negative number? {mend}"
        cells = table.index[missing | infinite]
        problems.add(
            f"{where}/{name}", f"{' and '.join(kinds)} values (cells {quoted(cells, 3)})", mend
        )
    return whole


def _check_design(
    table: pd.DataFrame, where: str, threshold: int | None, rank_deficient: str, problems: Problems
) -> None:
    n_cells = len(table)
    levels = {
        name: table[name].nunique()
        for name in table.columns
        if not pd.api.types.is_numeric_dtype(table[name])
    }
    numbers = [
        name
        for name, count in levels.items()
        # Plates 1 to 96 as text are categories; a thousand different numbers are none.
        if count > max(20, n_cells / 10) and _reads_as_numbers(table[name])
    ]
    for name in numbers:
        problems.add(
            f"{where}/{name}",
            f"holds {levels[name]:,} different numbers stored as text "
            f"({quoted(table[name].unique(), 3)})",
            "store it as numbers: `adata.obs[column].astype(float)`.",
        )
    table = table.drop(columns=numbers)
    # Counted before they are made: a column of a million levels would fill the memory.
    n_columns = sum(max(1, levels.get(name, 2) - 1) for name in table.columns)
    if n_cells > n_columns + 1:
        encoded = encode(table, threshold)
        n_columns = encoded.shape[1]
    if n_cells <= n_columns + 1:
        most = sorted(levels.items(), key=lambda item: -item[1])[:3]
        named = "; ".join(f"{name} has {count:,} levels" for name, count in most)
        problems.add(
            where,
            f"{n_columns + 1:,} design columns, the intercept among them, for {n_cells:,} cells"
            + (f" ({named})" if named else ""),
            "leave covariates out, or join levels.",
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


def _reads_as_numbers(column: pd.Series) -> bool:
    return bool(pd.to_numeric(column.astype(str), errors="coerce").notna().all())


def _copy_outcome(
    file: h5py.File,
    outcome: Mapping[str, Any],
    settings: Mapping[str, Any],
    cells: pd.Index,
    out: h5py.File,
    problems: Problems,
) -> None:
    key = outcome["key"]
    where = _find(file, key, "outcome.key", "outcome", problems)
    found = where and _as_matrix(file, where, len(cells), "outcome", problems)
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
        names = _texts(read(file, where))
    else:
        key = settings["program_names"]
        where = locate(file, key)
        if where is None:
            if key != _PROGRAM_NAMES:
                _find(file, key, "program_names", "program names", problems)
            log.info("no names of the columns of %s: they are numbered", found.where)
            return [f"program_{k}" for k in range(found.shape[1])]
        names = _texts(read(file, where))
    if len(names) != found.shape[1]:
        problems.add(
            where,
            f"has {len(names):,} names, but {found.where} has {found.shape[1]:,} columns",
            "give one name per column, in order.",
        )
        return None
    if folder in ("X", "layers", "raw"):
        _check_unique(names, where, "feature", "use `adata.var_names_make_unique()`.", problems)
    else:
        _check_unique(names, where, "program", "make the names unique.", problems)
    return names


def _copy_library_size(
    file: h5py.File, column: str, cells: pd.Index, out: h5py.File, problems: Problems
) -> None:
    values = _obs_column(file, column, "library size", "outcome.library_size", cells, problems)
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


class _Faults:
    """Counts the entries of a matrix that cannot be, while its rows pass by."""

    def __init__(self, may_be_negative: bool):
        self.kinds = ("NaN or infinite",) if may_be_negative else ("NaN or infinite", "negative")
        self.count = dict.fromkeys(self.kinds, 0)
        self.first: dict[str, list[tuple[object, int, int]]] = {kind: [] for kind in self.kinds}

    def look(self, start: int, rows: np.ndarray | sp.csr_matrix) -> np.ndarray:
        """Which of the rows hold such entries: bool, shape (n_rows,)."""
        stored = rows.data if sp.issparse(rows) else rows
        has_fault = np.zeros(rows.shape[0], bool)
        for kind in self.kinds:
            bad = stored < 0 if kind == "negative" else ~np.isfinite(stored)
            # -inf is counted once.
            bad = bad & np.isfinite(stored) if kind == "negative" else bad
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


class _OutcomeChecks:
    """Counts what is wrong with an outcome while its rows pass by."""

    def __init__(self, transform: str, sums_matter: bool):
        self.faults = _Faults(may_be_negative=transform == "none")
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
