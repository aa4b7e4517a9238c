"""Model matrices: from a table of samples by formula, or given as numbers."""

import re

import numpy as np
import pandas as pd

from condrand.errors import Problems, listed, nearest, quoted
from condrand.linear.fit import Basis
from condrand.linear.tables import INTERCEPT

# Leverage this close to 1: a sample's residual is rounding.
_ALONE = 1e-8
# What formulaic puts around a level, `[a]` or `[T.a]`; the levels themselves hold no bracket.
_LEVEL = re.compile(r"\[(?:[A-Z]\.)?([^\[\]]*)\]")
# Signs by which a level would be mistaken for the frame around it, and what stands in for them.
_ESCAPES = str.maketrans("[]:", "\ue000\ue001\ue002")
_ORIGINALS = str.maketrans("\ue000\ue001\ue002", "[]:", "\ue003")


def model_matrix(
    formula: str, table: pd.DataFrame, strip_prefix: bool, problems: Problems
) -> pd.DataFrame | None:
    """The columns of a formula, named as R names them; None where `problems` got an entry.

    Parameters
    ----------
    formula : str
        R-style, such as ``~ 0 + group``; read by formulaic.
    table : pandas.DataFrame
        One row per sample.
    strip_prefix : bool
        Name a column of levels ``basal``, not ``groupbasal``.
    problems : Problems

    Returns
    -------
    pandas.DataFrame of float64
        Index: as of the table.

    Notes
    -----
    Levels are those that occur, in sorted order or in that of a Categorical; the first is the
    reference. Ordered categoricals are no exception, unlike in R. Booleans have the levels
    FALSE and TRUE.
    """
    from formulaic import Formula

    before = len(problems.found)
    check_names(table.index, "the sample table", "sample", problems)
    check_names(table.columns, "the sample table", "column", problems)
    right = formula.strip().removeprefix("~").strip()
    there = [str(name) for name in table.columns]
    table = table.set_axis(there, axis=1)
    if "~" in right:
        problems.add("formula", f"{formula!r} has a left-hand side", "leave it out: `~ group`.")
    if len(problems.found) > before:
        return None
    # formulaic does not name the variables inside bs() and its like.
    words = {quote or word for quote, word in re.findall(r"`([^`]+)`|([^\W\d][\w.]*)", right)}
    try:
        parsed = Formula(right)
        unknown = sorted(set(parsed.required_variables) - set(there))
        if unknown:
            close = "".join(nearest(name, there) for name in unknown)
            problems.add(
                "formula",
                f"{formula!r} names {quoted(unknown)}, which the sample table does not have",
                f"use its columns. {close}There are: {listed(there, 20)}.",
            )
            return None
        used = pd.DataFrame(
            {name: _levels(table[name]) for name in there if name in words}, index=table.index
        )
        _check_whole(used, "the sample table", problems)
        if len(problems.found) > before:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            made = parsed.get_model_matrix(used, na_action="ignore")
        factors = {str(factor) for factor in made.model_spec.factor_contrasts}
        design = pd.DataFrame(made, index=table.index).astype(np.float64)
    except Exception as error:  # noqa: BLE001 - formulaic raises many kinds; all are the user's
        text = str(error).split("\n")[0].translate(_ORIGINALS)
        problems.add(
            "formula",
            f"{formula!r} cannot be read: {text}",
            f'write R-style, for example "~ 0 + group". The columns there are: '
            f"{listed(there, 20)}.",
        )
        return None
    design.columns = [_name(column, factors if strip_prefix else set()) for column in design]
    twice = sorted(set(design.columns[design.columns.duplicated()]))
    if twice:
        problems.add(
            "formula",
            f"{formula!r} makes several columns called {quoted(twice)}",
            "rename the levels, or leave `strip_prefix` out.",
        )
    return explicit_matrix(design, problems) if len(problems.found) == before else None


def explicit_matrix(design: pd.DataFrame, problems: Problems) -> pd.DataFrame | None:
    """A design given as numbers, as float64; None where `problems` got an entry."""
    before = len(problems.found)
    check_names(design.index, "design", "sample", problems)
    check_names(design.columns, "design", "column", problems)
    text = [
        name
        for name, dtype in zip(design.columns, design.dtypes, strict=True)
        if not pd.api.types.is_numeric_dtype(dtype)
    ]
    if text:
        problems.add(
            "design",
            f"columns are not numbers: {quoted(text)}",
            'make the matrix of a sample table with model_matrix("~ 0 + group", samples).',
        )
    if not design.shape[1]:
        problems.add("design", "has no columns", "name at least one variable, or `~ 1`.")
    if len(problems.found) > before:
        return None
    _check_whole(design, "design", problems)
    if len(problems.found) > before:
        return None
    return design.astype(np.float64).set_axis([str(name) for name in design.columns], axis=1)


def replication(design: pd.DataFrame, problems: Problems) -> list[str]:
    """What a user should know of a design: dropped columns, and samples without a replicate.

    A design that leaves no residual degrees of freedom is a problem.
    """
    matrix, names = design.to_numpy(np.float64), list(design.columns)
    basis = Basis.of(matrix)
    rank, n = len(basis.kept), len(design)
    notes = []
    lost = [name for j, name in enumerate(names) if j not in basis.kept]
    if lost:
        notes.append(
            f"coefficients not estimable: {quoted(lost, 20)}; these columns of the design are "
            "combinations of those before them, and are left out"
        )
    if rank >= n:
        problems.add(
            "design",
            f"{n} samples and {rank} independent columns leave no residual degrees of freedom",
            "every group has one sample, or there are too many covariates: add replicates or "
            "leave columns out.",
        )
        return notes
    leverage = np.sum(basis.q**2, axis=1)
    for i in np.flatnonzero(leverage > 1.0 - _ALONE):
        own = (matrix[i] != 0) & ~np.any(np.delete(matrix, i, axis=0) != 0, axis=0)
        what = (
            f"all there is of {quoted(np.array(names)[own])}" if own.any() else "a group by itself"
        )
        notes.append(
            f"sample {str(design.index[i])!r} is {what}: without a replicate it tells "
            "nothing of the variance"
        )
    return notes


def check_names(names: pd.Index, where: str, what: str, problems: Problems) -> None:
    """Note names that occur more than once or are missing; text and number alike."""
    if names.hasnans:
        problems.add(where, f"a {what} has no name", "fill it in, or leave it out.")
    texts = pd.Index([str(name) for name in names.dropna()])
    twice = texts[texts.duplicated()].unique()
    if twice.size:
        mend = "make them unique."
        if what == "feature":
            mend = "make them unique, or add them up: counts.groupby(level=0).sum()."
        problems.add(
            where, f"{twice.size} {what} names occur more than once: {quoted(twice)}", mend
        )


def _levels(column: pd.Series) -> pd.Series:
    """A column as formulaic should see it: levels that occur, and that read unambiguously."""
    if pd.api.types.is_bool_dtype(column):
        text = column.map({True: "TRUE", False: "FALSE"})
        return text.astype(pd.CategoricalDtype(["FALSE", "TRUE"])).cat.remove_unused_categories()
    if pd.api.types.is_numeric_dtype(column):
        return column
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    column = column.cat.remove_unused_categories().cat.as_unordered()
    return column.cat.rename_categories([_escaped(str(level)) for level in column.cat.categories])


def _escaped(level: str) -> str:
    # `T.b` would read as level b in treatment coding.
    guard = "\ue003" if re.match(r"[A-Z]\.", level) else ""
    return guard + level.translate(_ESCAPES)


def _name(column: str, stripped: set[str]) -> str:
    """R's name of a column of formulaic; without the names of the factors in `stripped`."""
    if column == "Intercept":
        return INTERCEPT
    parts = []
    for part in column.split(":"):
        level = _LEVEL.search(part)
        if level and part[: level.start()] in stripped and level.end() == len(part):
            parts.append(level[1])
        else:
            parts.append(_LEVEL.sub(r"\1", part))
    return ":".join(parts).translate(_ORIGINALS)


def _check_whole(table: pd.DataFrame, where: str, problems: Problems) -> None:
    for name in table.columns:
        column = table[name]
        bad = column.isna().to_numpy()
        if pd.api.types.is_float_dtype(column):
            bad = bad | np.isinf(column.to_numpy(np.float64, na_value=np.nan))
        if bad.any():
            problems.add(
                f"{where}, {name}",
                f"{bad.sum()} samples have no finite value: {quoted(table.index[bad])}",
                "fill it in, or leave out those samples (from counts and table).",
            )
