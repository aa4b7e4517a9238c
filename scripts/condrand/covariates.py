"""Covariates: from a table of what was measured to an orthonormal basis of the design."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:  # pandas would delay the start of every shard job
    import pandas as pd

# A column whose part outside the span of those before it is smaller than this share of its
# length is a combination of them; float64 elimination leaves about 1e-14.
RANK_TOLERANCE = 1e-9


@dataclass(frozen=True)
class Dependency:
    """A design column that adds nothing to those before it.

    Attributes
    ----------
    column : str
    explained_by : list of str
        The columns it is a combination of; empty if it is constant.
    """

    column: str
    explained_by: list[str]

    def __str__(self) -> str:
        if not self.explained_by:
            return f"{self.column} (constant)"
        return f"{self.column} (a combination of {', '.join(self.explained_by)})"


def encode(table: "pd.DataFrame", numeric_as_category_threshold: int | None) -> "pd.DataFrame":
    """Turn a covariate table into numeric columns.

    Parameters
    ----------
    table : pandas.DataFrame, shape (n_cells, n_columns)
        No missing values.
    numeric_as_category_threshold : int or None
        Numeric columns with at most this many distinct values count as categories.

    Returns
    -------
    pandas.DataFrame of float64
        Numeric columns first, then one indicator per level but the first of each categorical,
        boolean, string or mixed column, named ``column[level]``.

    Raises
    ------
    ValueError
        If two columns would have the same name.
    """
    import pandas as pd

    numeric: dict[str, np.ndarray] = {}
    indicators: dict[str, np.ndarray] = {}

    def put(columns: dict[str, np.ndarray], name: str, values: np.ndarray) -> None:
        if name in numeric or name in indicators:
            raise ValueError(f"two covariates are called {name!r}; rename one")
        columns[name] = values

    for name in table.columns:
        column = table[name]
        is_number = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(
            column
        )
        few = (
            numeric_as_category_threshold is not None
            and column.nunique() <= numeric_as_category_threshold
        )
        # A constant numeric column stays numeric: as a category it would vanish unnamed.
        if is_number and (not few or column.nunique() < 2):
            put(numeric, str(name), column.to_numpy(np.float64))
            continue
        values = column.to_numpy() if is_number else column.astype(str).to_numpy()
        levels = np.unique(values)
        if levels.size < 2:
            put(numeric, str(name), np.zeros(len(column)))
        for level in levels[1:]:
            put(indicators, f"{name}[{level}]", (values == level).astype(np.float64))
    return pd.DataFrame({**numeric, **indicators}, index=table.index)


def standardize(columns: np.ndarray) -> np.ndarray:
    """Centre each column and divide it by its population standard deviation.

    A constant column becomes exactly zero.
    """
    centred = columns - columns.mean(axis=0)
    sd = np.sqrt(np.mean(centred**2, axis=0))
    scale = np.abs(columns).max(axis=0, initial=0.0)
    constant = sd <= RANK_TOLERANCE * scale
    return np.where(constant, 0.0, centred / np.where(constant, 1.0, sd))


def dependencies(names: list[str], standardized: np.ndarray) -> list[Dependency]:
    """Columns that are constant or combinations of the columns before them, in order.

    Parameters
    ----------
    names : list of str
    standardized : float64, shape (n_cells, n_columns)
        From :func:`standardize`; the intercept is implied, since these columns are centred.
    """
    found: list[Dependency] = []
    kept: list[int] = []
    # Distances between columns are those between the columns of the triangular factor, which is
    # small; the Gram matrix would square the condition number.
    factor = np.linalg.qr(standardized, mode="r")
    root_n = np.sqrt(max(1, standardized.shape[0]))
    for j, name in enumerate(names):
        column = factor[:, j]
        length = np.linalg.norm(column)
        if length <= RANK_TOLERANCE * root_n:
            found.append(Dependency(name, []))
            continue
        if kept:
            weights = np.linalg.lstsq(factor[:, kept], column, rcond=None)[0]
            if np.linalg.norm(column - factor[:, kept] @ weights) <= RANK_TOLERANCE * length:
                parts = [names[kept[i]] for i in np.flatnonzero(np.abs(weights) > 1e-6)]
                found.append(Dependency(name, parts))
                continue
        kept.append(j)
    return found


def full_rank(standardized: np.ndarray) -> np.ndarray:
    """The columns without their :func:`dependencies`: float64, shape (n_cells, n_independent).

    What varies over a screen may be constant in some of its cells.
    """
    numbers = [str(j) for j in range(standardized.shape[1])]
    dependent = [int(found.column) for found in dependencies(numbers, standardized)]
    return np.delete(standardized, dependent, axis=1)


def orthonormal_basis(standardized: np.ndarray) -> np.ndarray:
    """Orthonormal basis of the intercept and the columns.

    Parameters
    ----------
    standardized : float64, shape (n_cells, n_columns)
        Full rank, centred.

    Returns
    -------
    float64[:, ::1], shape (n_cells, n_columns + 1)
        The first column is constant.
    """
    from scipy.linalg import qr

    n_cells = standardized.shape[0]
    design = np.column_stack([np.ones(n_cells), standardized])
    return np.ascontiguousarray(qr(design, mode="economic")[0])
