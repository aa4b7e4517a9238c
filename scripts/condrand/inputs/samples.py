"""Samples of a user: a count table and its sample table, the rows of a file, or sums of cells."""

import logging
import re
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import InputError, Problems, listed, nearest, quoted
from condrand.guide_counts import targets_per_cell
from condrand.inputs.cell_groups import categorical, group_by, tidy_column, used_levels
from condrand.inputs.elements import as_matrix, column_names, find, obs_column, obs_columns, texts
from condrand.inputs.guides import read_guides
from condrand.inputs.sample_values import ValueChecks
from condrand.io.h5ad import Group, Matrix, read
from condrand.io.samples import Samples
from condrand.io.tables import read_table
from condrand.outcomes.pseudobulk import add_rows

log = logging.getLogger(__name__)

# What the target of a cell with NTC guides alone is called.
NTC = "NTC"
# Values of samples that are held whole, in bytes.
_LARGEST = 8 * 2**30
# Samples that are made dense, or checked, at once.
_AT_ONCE = 64
# What to do about values that cannot be, and what else where they are of cells.
_MENDS = {
    "missing": "leave these features out, or fill in what is known to be 0; log expression with "
    "missing values needs `transform: none`.",
    "infinite": "correct them: the logarithm of 0? Give counts, or NaN where missing.",
    "negative": "give counts; are these log values? Then use `transform: none`.",
    "logged": "use `transform: none`, or name the matrix of the counts.",
}
_OF_CELLS = {
    "missing": "a sum needs all its cells: leave these features out, or fill the values in.",
    "infinite": "correct them: the logarithm of 0? Give counts.",
    "negative": "name the matrix of the counts of the cells: `outcome.key`.",
    "logged": "name the matrix of the counts of the cells: `outcome.key`.",
}


def read_count_table(
    path: str | Path,
    table: str | Path,
    annotation_columns: Sequence[str],
    settings: Mapping[str, Any],
    problems: Problems,
) -> Samples | None:
    """Counts, or log expression, of a table of features x samples, and the table of its samples.

    Parameters
    ----------
    path, table : str or pathlib.Path
    annotation_columns : sequence of str
        Columns of the count table that are no samples.
    settings : mapping
        See :func:`condrand.samples.load_samples`.
    problems : Problems

    Returns
    -------
    Samples or None
        Samples in the order of the count table; None where `problems` got an entry.
    """
    counts, described = _read_table(path, problems), _read_table(table, problems)
    if counts is None or described is None:
        return None
    of_table = Path(table).name
    columns = counts.columns
    strangers = [name for name in annotation_columns if name not in columns]
    if strangers:
        close = "".join(nearest(name, columns) for name in strangers)
        problems.add(
            "annotation_columns",
            f"the count table has no column {quoted(strangers)}",
            f"correct `annotation_columns` of the screen. {close}There are: "
            f"{quoted(columns, 20)}.",
        )
    counts = counts.iloc[:, ~columns.isin(annotation_columns)]
    names, features = counts.columns, counts.index
    _check_names(features, "first column", "feature", problems)
    unique = [
        _check_names(names, "header", "sample", problems),
        _check_names(described.index, f"{of_table}: first column", "sample", problems),
    ]
    excluded = settings["exclude"]
    _check_excluded(excluded, names.append(described.index).unique(), problems)
    wanted = ~names.isin(excluded)
    text = np.array([not _is_numeric(dtype) for dtype in counts.dtypes], bool)
    if all(unique):
        _check_same_samples(counts, described, of_table, wanted, text.copy(), excluded, problems)
        wanted &= names.isin(described.index)
    chosen = np.flatnonzero(wanted)
    _check_text(counts, chosen[text[chosen]], problems)
    described = _tidy(described, of_table, problems)
    _check_columns(described.columns, settings["columns"], of_table, problems)
    numbers = chosen[~text[chosen]]
    values = np.empty((len(features), numbers.size))
    for j, at in enumerate(numbers):
        values[:, j] = counts.iloc[:, at].to_numpy(np.float64)
    checks = ValueChecks(settings["counts"])
    for start in range(0, numbers.size, _AT_ONCE):
        some = slice(start, start + _AT_ONCE)
        checks.look(names[numbers[some]], values[:, some].T)
    checks.report("values", features, _MENDS, problems)
    _check_size(values, names[numbers], settings["counts"], problems)
    if problems.found:
        return None
    kept = described.loc[names[numbers]]
    return _samples(values, list(features), kept, f"of {Path(path).name}")


def read_rows(
    file: Group, path: str | Path, settings: Mapping[str, Any], problems: Problems
) -> Samples | None:
    """Samples that are the rows of an AnnData, with its obs; None where `problems` got an entry.

    Parameters
    ----------
    file : open file
    path : str or pathlib.Path
    settings : mapping
        See :func:`condrand.samples.load_samples`.
    problems : Problems
    """
    names = _row_names(file)
    _check_names(names, "obs", "sample", problems)
    _check_excluded(settings["exclude"], names, problems)
    _check_columns(obs_columns(file), settings["columns"], "obs", problems)
    found, features = _matrix(file, settings["key"], len(names), "samples", problems)
    if found is None:
        return None
    kept = ~names.isin(settings["exclude"])
    place = np.cumsum(kept) - 1
    n_bytes = 8 * found.shape[1] * int(kept.sum())
    if n_bytes > _LARGEST:
        problems.add(
            found.where,
            f"has {found.shape[0]:,} rows and {found.shape[1]:,} columns, which as samples would "
            f"take {n_bytes / 2**30:.0f} GiB",
            "if the rows are cells, sum them to samples: `pseudobulk: {by: [donor, condition]}`.",
        )
        return None
    values = np.zeros((found.shape[1], int(kept.sum())))
    checks = ValueChecks(settings["counts"])
    for start, stop, rows in found.pieces():
        for low in range(start, stop, _AT_ONCE):
            inside = np.flatnonzero(kept[low : min(low + _AT_ONCE, stop)])
            some = rows[low - start : low - start + _AT_ONCE][inside]
            checks.look(names[low + inside], some)
            dense = some.toarray() if sp.issparse(some) else some
            values[:, place[low + inside]] = dense.T
    checks.report(found.where, features, _MENDS, problems)
    _check_size(values, names[kept], settings["counts"], problems)
    table = pd.DataFrame(
        {
            name: obs_column(file, name, "obs", "obs", names, problems)
            for name in obs_columns(file)
        },
        index=names,
    )
    if problems.found:
        return None
    table = _tidy(table[kept], "obs", problems)
    return _samples(values, list(features), table, f"of {Path(path).name}")


def read_sums(
    file: Group,
    path: str | Path,
    screen: Mapping[str, Any],
    settings: Mapping[str, Any],
    problems: Problems,
) -> Samples | None:
    """Samples that are sums of the cells of an AnnData; None where `problems` got an entry.

    Parameters
    ----------
    file : open file
    path : str or pathlib.Path
    screen : mapping
        The screen's section, for its guide calls.
    settings : mapping
        See :func:`condrand.samples.load_samples`.
    problems : Problems
    """
    pseudobulk = settings["pseudobulk"]
    cells = _row_names(file)
    by = {
        name: obs_column(file, name, "pseudobulk", "pseudobulk.by", cells, problems)
        for name in dict.fromkeys(pseudobulk["by"])
    }
    if pseudobulk["targets"]:
        if "target" in by:
            problems.add(
                "pseudobulk.by",
                "names the column 'target', and `targets: true` makes one of this name",
                "rename the column of obs, or leave one of the two out.",
            )
        by["target"] = _targets(file, screen, cells, problems)
    found, features = _matrix(file, settings["key"], len(cells), "cells", problems)
    if problems.found or found is None:
        return None
    grouped = group_by(by, pseudobulk["min_cells"], problems)
    if grouped is None:
        return None
    for note in grouped.notes:
        log.warning("%s", note)
    _check_excluded(settings["exclude"], pd.Index(grouped.names_before), problems)
    grouped = grouped.without(settings["exclude"])
    for name in obs_columns(file):
        if name not in grouped.table and _may_be_column(name, "obs"):
            values = obs_column(file, name, "obs", "obs", cells, problems)
            if values is not None:
                grouped.carry(name, values)
    _check_columns(grouped.table.columns, settings["columns"], "sample table", problems)
    sums = np.zeros((len(grouped.table), found.shape[1]))
    checks = ValueChecks(settings["counts"], of_cells=True)
    for start, stop, rows in found.pieces():
        of_rows = grouped.samples[start:stop]
        inside = np.flatnonzero(of_rows >= 0)
        if inside.size < stop - start:
            rows, of_rows = rows[inside], of_rows[inside]
        checks.look(cells[start + inside], rows)
        add_rows(sums, rows, of_rows)
    checks.report(found.where, features, _MENDS | _OF_CELLS, problems)
    values = np.ascontiguousarray(sums.T)
    _check_size(values, grouped.table.index, settings["counts"], problems)
    if problems.found:
        return None
    if not settings["counts"]:
        log.warning(
            "%s: sums of cells are taken as they are, though samples differ in their number of "
            "cells; `transform: log_cpm` makes them comparable",
            found.where,
        )
    n_cells = int(grouped.table["n_cells"].sum())
    source = f"of {Path(path).name}, sums of {n_cells:,} cells"
    return _samples(values, list(features), grouped.table, source)


def _targets(
    file: Group, screen: Mapping[str, Any], cells: pd.Index, problems: Problems
) -> pd.Series | None:
    """Target of the guides of each cell; missing for cells of none, or of several."""
    before = len(problems.found)
    guides = read_guides(file, screen, cells, problems)
    if guides is None or guides.carried is None or len(problems.found) > before:
        return None
    labels = set(screen["ntc_labels"])
    of_guide = [guides.target_of[name] for name in guides.names]
    if NTC in of_guide and NTC not in labels:
        problems.add(
            screen["guide2gene"],
            f"has the target {NTC!r}, as cells of NTC guides are called, which is no NTC label",
            f"add it to `ntc_labels` of the screen, which are {quoted(sorted(labels))}.",
        )
        return None
    names = np.array([NTC if target in labels else target for target in of_guide], object)
    n_targets = targets_per_cell(guides.carried, of_guide, labels)
    calls = guides.carried.tocoo()
    target = np.full(len(cells), "", object)
    target[calls.row] = names[calls.col]
    target[n_targets != 1] = ""
    log.info(
        "%d cells carry no guide, %d guides of several targets",
        (n_targets == 0).sum(),
        (n_targets > 1).sum(),
    )
    # NTC comes first: the first level is what a formula compares with.
    order = [NTC, *sorted(set(names.tolist()) - {NTC})]
    return categorical(target, order).set_axis(cells)


# What is read


def _read_table(path: str | Path, problems: Problems) -> pd.DataFrame | None:
    try:
        return read_table(path)
    except InputError as error:
        problems.found.append(str(error))
        return None


def _row_names(file: Group) -> pd.Index:
    return pd.Index(texts(read(file, f"obs/{file['obs'].attrs['_index']}")), dtype=object)


def _matrix(
    file: Group, key: str, n_rows: int, what: str, problems: Problems
) -> tuple[Matrix | None, pd.Index]:
    """A matrix of the rows, and the names of its columns."""
    where = find(file, key, "outcome.key", what, problems)
    found = where and as_matrix(file, where, n_rows, what, problems)
    if not found:
        return None, pd.Index([])
    names, where = column_names(file, found)
    if names is None:
        log.info("no names of the columns of %s: they are numbered", where)
        names = [f"{where.split('/')[-1]}_{k}" for k in range(found.shape[1])]
    features = pd.Index(names, dtype=object)
    if len(features) != found.shape[1]:
        problems.add(
            where,
            f"has {len(features):,} names, but {found.where} has {found.shape[1]:,} columns",
            "give one name per column, in order.",
        )
        return None, features
    _check_names(features, where, "feature", problems)
    return found, features


def _samples(values: np.ndarray, features: list[str], table: pd.DataFrame, of: str) -> Samples:
    source = f"{len(features):,} features x {len(table):,} samples {of}"
    is_counts = all(
        bool(np.all((rows >= 0) & (rows == np.floor(rows)) & np.isfinite(rows)))
        for rows in np.array_split(values, 1 + values.size // 2**20)
    )
    table = used_levels(table).rename_axis(None)
    words = {"source": source, "is_counts": is_counts}
    return Samples(values, features, table, {}, words)


def _is_numeric(dtype: Any) -> bool:
    return pd.api.types.is_numeric_dtype(dtype) and not pd.api.types.is_bool_dtype(dtype)


def _may_be_column(name: str, where: str) -> bool:
    if "/" in name or name == "_index":
        log.warning("%s: the column %r is left out: no file can hold its name", where, name)
        return False
    return True


def _tidy(table: pd.DataFrame, where: str, problems: Problems) -> pd.DataFrame:
    """A sample table with columns of four kinds; names that repeat or are blank are noted."""
    names = table.columns
    if not _check_names(names, f"{where}: header", "column", problems):
        return table.iloc[:, :0]
    columns = {
        name: tidy_column(table[name]).set_axis(table.index)
        for name in names
        if _may_be_column(name, where)
    }
    return pd.DataFrame(columns, index=table.index)


# What is checked


def _check_names(names: pd.Index, where: str, what: str, problems: Problems) -> bool:
    """Whether names are there and unique; noted if not."""
    blank = np.array([not str(name).strip() for name in names], bool)
    if blank.any():
        at = listed(np.flatnonzero(blank) + 1)
        problems.add(
            where, f"{blank.sum():,} {what} names are empty (number {at})", "fill them in."
        )
    filled = names[~blank]
    twice = filled[filled.duplicated()].unique()
    if len(twice):
        mend = "make them unique."
        if what == "feature":
            mend = "make them unique, or add their rows up."
        problems.add(
            where, f"{len(twice):,} {what} names occur more than once: {quoted(twice)}", mend
        )
    return not blank.any() and not len(twice)


def _check_excluded(excluded: Sequence[str], there: pd.Index, problems: Problems) -> None:
    strangers = [name for name in excluded if name not in there]
    if strangers:
        close = "".join(nearest(name, there) for name in strangers)
        problems.add(
            "exclude",
            f"there is no sample {quoted(strangers)}",
            f"correct `exclude`. {close}There are: {quoted(there, 20)}.",
        )


def _check_columns(
    there: Iterable[str], wanted: Sequence[str], where: str, problems: Problems
) -> None:
    there = list(there)
    for name in wanted:
        if name not in there:
            problems.add(
                where,
                f"there is no column {name!r}, which the analysis names (`colour`, "
                "`filter.groups`)",
                f"correct the name. {nearest(name, there)}There are: {listed(there, 20)}.",
            )


def _check_size(values: np.ndarray, names: pd.Index, libraries: bool, problems: Problems) -> None:
    """Note that there is nothing to compare; and samples without counts where that matters."""
    if not values.shape[0]:
        problems.add("features", "there are none", "check how the file was filtered.")
    elif libraries:
        empty = ~values.any(axis=0)
        if empty.any():
            problems.add(
                "values",
                f"{empty.sum():,} samples have no counts: {quoted(names[empty])}",
                f"leave them out: `exclude: [{listed(names[empty], 20)}]`.",
            )
    if len(names) < 2 and not problems.found:
        what = f"one, {names[0]!r}" if len(names) else "none"
        problems.add("samples", f"there is {what}", "give two or more to compare.")


def _check_text(counts: pd.DataFrame, columns: np.ndarray, problems: Problems) -> None:
    """Note columns of a count table that hold text, or text in some of their cells."""
    whole, cells, n_cells = [], [], 0
    for at in columns:
        column = counts.iloc[:, at]
        bad = _is_text(column)
        if bad.sum() == column.count():
            whole.append(counts.columns[at])
            continue
        n_cells += int(bad.sum())
        cells += [
            f"{column.iloc[i]!r} in row {counts.index[i]!r}, column {counts.columns[at]!r}"
            for i in np.flatnonzero(bad)[: 3 - len(cells)]
        ]
    if whole:
        _text_columns(whole, problems)
    if cells:
        more = f" and {n_cells - len(cells):,} more" if n_cells > len(cells) else ""
        problems.add(
            "values",
            f"{n_cells:,} cells are no numbers ({'; '.join(cells)}{more})",
            "correct them; leave a cell empty, or NA, where a value is missing. A column that is "
            "no sample belongs into `annotation_columns` of the screen.",
        )


def _is_text(column: pd.Series) -> np.ndarray:
    """Cells of a column that hold something, and no number."""
    given = column.notna().to_numpy()
    if pd.api.types.is_bool_dtype(column):
        return given
    return given & pd.to_numeric(column, errors="coerce").isna().to_numpy()


def _text_columns(names: Sequence[str], problems: Problems) -> None:
    problems.add(
        "values",
        f"{len(names):,} columns hold text: {quoted(names)}",
        f"if they are no samples: `annotation_columns: [{listed(names, 20)}]` in the screen.",
    )


def _check_same_samples(
    counts: pd.DataFrame,
    described: pd.DataFrame,
    of_table: str,
    wanted: np.ndarray,
    text: np.ndarray,
    excluded: Sequence[str],
    problems: Problems,
) -> None:
    """Note samples that are in the count table or in the sample table alone."""
    names = counts.columns
    alone = wanted & ~names.isin(described.index)
    # One cell of text among numbers makes no annotation of a sample.
    for j in np.flatnonzero(alone & text):
        text[j] = _is_text(counts.iloc[:, j]).sum() == counts.iloc[:, j].count()
    only_counts = names[alone & ~text]
    only_table = described.index[~described.index.isin(names) & ~described.index.isin(excluded)]
    words = names[alone & text]
    if len(words):
        _text_columns(list(words), problems)
    hint = _renamed(only_counts, only_table)
    if wanted.any() and not (wanted & ~alone).any():
        hint = _no_sample_in_common(counts, described, of_table, hint)
    if len(only_counts):
        close = "".join(f"{n}: {m}" for n in only_counts[:5] if (m := nearest(n, only_table)))
        problems.add(
            "header",
            f"{len(only_counts):,} samples have no row in {of_table}: {quoted(only_counts, 12)}",
            f"add them to {of_table}, or name them in `exclude`; columns that are no samples "
            f"belong into `annotation_columns` of the screen. {hint or close}".rstrip(),
        )
    if len(only_table):
        close = "".join(f"{n}: {m}" for n in only_table[:5] if (m := nearest(n, only_counts)))
        problems.add(
            f"{of_table}: first column",
            f"{len(only_table):,} samples have no column in the count table: "
            f"{quoted(only_table, 12)}",
            f"correct the names, take out these rows, or name them in `exclude`. "
            f"{hint or close}".rstrip(),
        )


def _no_sample_in_common(
    counts: pd.DataFrame, described: pd.DataFrame, of_table: str, hint: str
) -> str:
    names = set(described.index)
    if names & set(counts.index):
        return "The count table looks transposed: give features in rows, samples in columns."
    for j, column in enumerate(described.columns):
        if set(described.iloc[:, j].dropna().astype(str)) >= set(counts.columns):
            return f"The names are in the column {column!r} of {of_table}: make it the first. "
    return hint


def _renamed(only_counts: pd.Index, only_table: pd.Index) -> str:
    """What R's read.table has done to names, if it has."""
    for here, there, where in (
        (only_counts, only_table, "count table"),
        (only_table, only_counts, "sample table"),
    ):
        mangled = {_as_in_r(name): name for name in there}
        for name in here:
            if name in mangled:
                return (
                    f"R seems to have renamed {mangled[name]!r} to {name!r}: read the {where} "
                    "with `check.names = FALSE` and write it again."
                )
    return ""


def _as_in_r(name: str) -> str:
    """A name as R's make.names writes it."""
    made = re.sub(r"[^\w.]", ".", name)
    return made if re.match(r"[^\W\d_]|\.(?!\d)", made) else f"X{made}"
