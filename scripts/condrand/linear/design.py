"""Model matrices: from a table of samples by formula, or given as numbers."""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from condrand.errors import Problems, listed, quoted
from condrand.formulas import note_strangers, right_side, words_of
from condrand.linear.fit import Basis
from condrand.linear.tables import INTERCEPT

if TYPE_CHECKING:  # formulaic is imported when a formula is read
    from formulaic import ModelMatrix

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
    before = len(problems.found)
    read = _evaluated(formula, table, problems)
    if read is None:
        return None
    made, _ = read
    factors = {str(factor) for factor in made.model_spec.factor_contrasts}
    design = pd.DataFrame(made, index=table.index).astype(np.float64)
    design.columns = [_name(column, factors if strip_prefix else set()) for column in design]
    twice = sorted(set(design.columns[design.columns.duplicated()]))
    if twice:
        problems.add(
            "formula",
            f"{formula!r} makes several columns called {quoted(twice)}",
            "rename the levels, or leave `strip_prefix` out.",
        )
    return explicit_matrix(design, problems) if len(problems.found) == before else None


@dataclass(frozen=True)
class Term:
    """What a formula adds up, such as ``group`` or ``group:batch``.

    Attributes
    ----------
    name : str
    factors : frozenset of str
        What it is the product of.
    columns : float64, shape (n, width)
    groups : pandas.Categorical or None
        Level of each sample, of a term that is one factor.
    is_column : bool
        Whether it is a column of numbers as the table has it.
    """

    name: str
    factors: frozenset[str]
    columns: np.ndarray
    groups: pd.Categorical | None
    is_column: bool


def model_terms(formula: str, table: pd.DataFrame, problems: Problems) -> list[Term] | None:
    """The terms of a formula but the intercept; None where `problems` got an entry.

    Parameters
    ----------
    formula, table, problems
        As in :func:`model_matrix`. A formula without an intercept, and what does not differ
        between the samples, are problems.
    """
    from formulaic import Formula

    before = len(problems.found)
    read = _evaluated(formula, table, problems)
    if read is None:
        return None
    made, used = read
    spec = made.model_spec
    matrix = np.asarray(made, np.float64)
    levels = {str(factor): state.levels for factor, state in spec.factor_contrasts.items()}
    _check_varied(formula, levels, problems)
    terms, has_intercept = [], False
    for term, at in spec.term_indices.items():
        if str(term) == "1":
            has_intercept = True
            continue
        factors = [str(factor) for factor in term.factors]
        name, columns = str(term).replace("`", ""), matrix[:, at]
        if any(len(levels.get(factor, "ab")) < 2 for factor in factors):
            continue
        if not np.isfinite(columns).all():
            problems.add(
                "formula",
                f"{name!r} has no finite value in {(~np.isfinite(columns).all(axis=1)).sum()} "
                "samples",
                "leave those samples out, or the term.",
            )
            continue
        if not np.ptp(columns, axis=0).any():
            problems.add(
                "formula", f"{name!r} is the same in all samples", "leave it out of the formula."
            )
            continue
        groups = None
        if len(factors) == 1 and factors[0] in levels:
            # Alone, without an intercept, a factor has a column for each of its levels.
            own = np.asarray(Formula([term]).get_model_matrix(used), np.float64)
            names = [str(level).translate(_ORIGINALS) for level in levels[factors[0]]]
            groups = pd.Categorical.from_codes(own.argmax(axis=1), names)
        terms.append(Term(name, frozenset(factors), columns, groups, name in used.columns))
    if not has_intercept:
        problems.add(
            "formula",
            f"{formula!r} has no intercept: its tests would ask whether means are 0",
            "leave out `0 +` and `- 1`; groups are compared with each other then.",
        )
    if not terms and len(problems.found) == before:
        problems.add("formula", f"{formula!r} names nothing to test", "give a factor: `~ group`.")
    return terms if len(problems.found) == before else None


def _check_varied(formula: str, levels: dict[str, list], problems: Problems) -> None:
    for factor, there in levels.items():
        if len(there) < 2:
            one = quoted(str(level).translate(_ORIGINALS) for level in there)
            problems.add(
                "formula",
                f"{formula!r}: {factor!r} has one level, {one}",
                "leave it out, or take samples of other levels too.",
            )


def _evaluated(
    formula: str, table: pd.DataFrame, problems: Problems
) -> tuple["ModelMatrix", pd.DataFrame] | None:
    """The columns as formulaic makes and names them, and the variables as it saw them."""
    from formulaic import Formula

    before = len(problems.found)
    check_names(table.index, "the sample table", "sample", problems)
    check_names(table.columns, "the sample table", "column", problems)
    right = right_side(formula)
    there = [str(name) for name in table.columns]
    table = table.set_axis(there, axis=1)
    if "~" in right:
        problems.add("formula", f"{formula!r} has a left-hand side", "leave it out: `~ group`.")
        right = right.partition("~")[2].strip()
    words = words_of(right)
    try:
        parsed = Formula(right)
        holder = "the sample table"
        note_strangers("formula", formula, parsed, there, holder, "use its columns.", problems)
        if table.columns.has_duplicates:
            return None
        used = pd.DataFrame(
            {name: _levels(table[name]) for name in there if name in words}, index=table.index
        )
        _check_whole(used, "the sample table", problems)
        if len(problems.found) > before:
            return None
        with np.errstate(divide="ignore", invalid="ignore"):
            return parsed.get_model_matrix(used, na_action="ignore"), used
    except Exception as error:  # noqa: BLE001 - formulaic raises many kinds; all are the user's
        text = str(error).split("\n")[0].translate(_ORIGINALS)
        problems.add(
            "formula",
            f"{formula!r} cannot be read: {text}",
            f'write R-style, for example "~ 0 + group". The columns there are: '
            f"{listed(there, 20)}.",
        )
        return None


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
