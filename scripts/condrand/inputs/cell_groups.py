"""Columns of samples, and cells that are alike in some of them made one sample."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from condrand.errors import Problems, listed
from condrand.inputs.elements import texts
from condrand.outcomes.pseudobulk import constant_codes, group_cells, sample_names


@dataclass
class CellGroups:
    """Which cells are summed to which sample.

    Attributes
    ----------
    samples : int64, shape (n_cells,)
        Number of the sample of each cell, -1 for none.
    table : pandas.DataFrame
        One row per sample, by name: what its cells share, and ``n_cells``.
    names_before : list of str
        Samples before those of few cells were dropped.
    notes : list of str
        What to warn of.
    """

    samples: np.ndarray
    table: pd.DataFrame
    names_before: list[str]
    notes: list[str]

    def without(self, names: Iterable[str]) -> "CellGroups":
        """Leave some samples out."""
        return self._keep(~self.table.index.isin(list(names)))

    def _keep(self, kept: np.ndarray) -> "CellGroups":
        place = np.where(kept, np.cumsum(kept) - 1, -1)
        # The last place is that of cells without a sample.
        samples = np.append(place, -1)[self.samples]
        table = used_levels(self.table[kept])
        return CellGroups(samples, table, self.names_before, self.notes)

    def carry(self, name: str, values: pd.Series) -> None:
        """Add a column of the cells to the table, if all cells of each sample agree in it."""
        codes, levels, _ = _factor(tidy_column(values))
        of_sample = constant_codes(self.samples, codes, len(self.table))
        if of_sample is not None and (of_sample >= 0).any():
            self.table[name] = _column_of(of_sample, levels)


def group_by(
    by: Mapping[str, pd.Series], min_cells: int, problems: Problems, key: str = "pseudobulk."
) -> CellGroups | None:
    """Make samples of the cells that are alike in some columns.

    Parameters
    ----------
    by : mapping of str to pandas.Series
        At least one column, by name.
    min_cells : int
        Samples of fewer cells are dropped.
    problems : Problems
    key : str
        What stands before the names of the settings.

    Returns
    -------
    CellGroups or None
        Samples in the order of their levels; None where `problems` got an entry.
    """
    if "n_cells" in by:
        made = "names the column 'n_cells', which holds the number of cells of a sample"
        problems.add(f"{key}by", made, "rename the column of obs.")
        return None
    notes = []
    factors = {name: _factor(tidy_column(values)) for name, values in by.items()}
    for name, (codes, _, _) in factors.items():
        if (codes < 0).any():
            n_missing = int((codes < 0).sum())
            notes.append(f"{n_missing:,} cells without {name!r} are left out")
    samples, levels = group_cells([codes for codes, _, _ in factors.values()])
    labels = [
        [factor[2][code] for factor, code in zip(factors.values(), row, strict=True)]
        for row in levels
    ]
    n_cells = np.bincount(samples[samples >= 0], minlength=len(levels))
    names = sample_names(labels)
    table = pd.DataFrame(
        {
            name: _column_of(levels[:, j], there)
            for j, (name, (_, there, _)) in enumerate(factors.items())
        },
        index=pd.Index(names, dtype=object),
    )
    table["n_cells"] = n_cells.astype(np.int64)
    few = n_cells < min_cells
    if few.all():
        largest = sorted(zip(-n_cells, names, strict=True))[:3]
        shown = listed(f"{-size} in {name!r}" for size, name in largest) or "no cell has a label"
        problems.add(
            f"{key}min_cells",
            f"no sample has {min_cells:,} cells (the most: {shown})",
            "lower `min_cells`, or sum by fewer columns.",
        )
        return None
    if few.any():
        dropped = [
            f"{name!r} ({n})" for name, n in zip(names, n_cells, strict=True) if n < min_cells
        ]
        notes.append(
            f"{len(dropped):,} samples of fewer than {min_cells:,} cells are left out: "
            f"{listed(dropped, 20)}"
        )
    return CellGroups(samples, table, names, notes)._keep(~few)


def tidy_column(values: pd.Series) -> pd.Series:
    """A column of a sample table in one of four kinds.

    Returns
    -------
    pandas.Series
        bool, int64, float64 with NaN, or Categorical of text: its levels sorted, or, where it was
        one, in the order they had. Levels that do not occur are gone.
    """
    values = values.reset_index(drop=True)
    if isinstance(values.dtype, pd.CategoricalDtype):
        names = texts(values.cat.categories)
        if len(set(names)) == len(names):
            # The last is that of missing values.
            of_code = np.array([*names, ""], object)
            return categorical(of_code[values.cat.codes.to_numpy()], names)
        values = values.astype(object)
    missing = values.isna().to_numpy()
    if pd.api.types.is_bool_dtype(values) and not missing.any():
        return values.astype(bool)
    if pd.api.types.is_numeric_dtype(values) and not pd.api.types.is_bool_dtype(values):
        numbers = values.to_numpy(np.float64, na_value=np.nan)
        whole = pd.api.types.is_integer_dtype(values) and not missing.any()
        return values.astype(np.int64) if whole else pd.Series(numbers)
    flags = {True: "TRUE", False: "FALSE"}
    names = [
        flags.get(value, value) if isinstance(value, bool | np.bool_) else value
        for value in values
    ]
    return categorical(np.array(texts(names), object), None)


def categorical(names: np.ndarray, order: list[str] | None) -> pd.Series:
    """Text, blanks missing, as a Categorical of the levels that occur."""
    there = {name for name in names if name.strip()}
    levels = sorted(there) if order is None else [name for name in order if name in there]
    return pd.Series(pd.Categorical(names, pd.Index(levels, dtype=object)))


def _factor(values: pd.Series) -> tuple[np.ndarray, Any, list[str]]:
    """Codes of a tidy column, -1 where missing; its levels in order; these as text."""
    if isinstance(values.dtype, pd.CategoricalDtype):
        levels = values.cat.categories
        return values.cat.codes.to_numpy(np.int64), levels, list(levels)
    codes, levels = pd.factorize(values.to_numpy(), sort=True)
    if levels.dtype == bool:
        names = [str(level).upper() for level in levels]
    elif levels.dtype.kind == "f" and np.all(levels == np.floor(levels)):
        names = [f"{level:.0f}" for level in levels]
    else:
        names = [str(level) for level in levels]
    return codes.astype(np.int64), levels, names


def _column_of(codes: np.ndarray, levels: Any) -> Any:
    """A column of these levels; what :func:`_factor` has taken apart."""
    if isinstance(levels, pd.Index):
        return pd.Categorical.from_codes(codes, levels).remove_unused_categories()
    if (codes >= 0).all():
        return levels[codes]
    return np.append(levels.astype(np.float64), np.nan)[codes]


def used_levels(table: pd.DataFrame) -> pd.DataFrame:
    """A table of samples without levels that do not occur."""
    table = table.copy()
    for name in table.columns:
        if isinstance(table[name].dtype, pd.CategoricalDtype):
            table[name] = table[name].cat.remove_unused_categories()
    return table
