"""From a table of tests to the points of a figure: which rows, which values, how many."""

import re

import numpy as np
import pandas as pd

# -log10 of the smallest positive float64, for a p value known only to be below it.
_LARGEST_LOG10_P = 323.3
_COLUMNS = (
    "screen",
    "analysis",
    "target",
    "feature",
    "effect",
    "effect_scale",
    "p_value",
    "neg_log10_p",
    "fdr",
    "p_source",
)


def tested(table: pd.DataFrame) -> pd.DataFrame:
    """Give the rows of an effects table that hold a p value.

    Parameters
    ----------
    table
        One row per target and feature, columns of the results contract; may be empty, even
        without columns.

    Returns
    -------
    pandas.DataFrame
        The columns that figures use, rows with a finite ``p_value``, in the order given.
    """
    if table.empty:
        return pd.DataFrame(columns=list(_COLUMNS))
    finite = np.isfinite(table["p_value"].to_numpy(np.float64))
    return table.loc[finite, list(_COLUMNS)]


def log10_p(table: pd.DataFrame) -> np.ndarray:
    """Give -log10 p of tested rows.

    Parameters
    ----------
    table
        From :func:`tested`.

    Returns
    -------
    float64 array, shape (n_tests,)
        The column ``neg_log10_p``, which stays exact where ``p_value`` underflows. Where it
        is infinite: the smallest positive float64, or the smallest p known if that is less.
    """
    values = table["neg_log10_p"].to_numpy(np.float64)
    known = values[np.isfinite(values)]
    return np.minimum(values, max(_LARGEST_LOG10_P, known.max(initial=0.0)))


def heading(table: pd.DataFrame) -> str:
    """Give 'screen · analysis' of a table, or '' for one that does not tell.

    Parameters
    ----------
    table
        Columns ``screen`` and ``analysis``; may be empty or without them.

    Returns
    -------
    str
        Taken from the first row.
    """
    if table.empty or not {"screen", "analysis"} <= set(table.columns):
        return ""
    return f"{table['screen'].iloc[0]} · {table['analysis'].iloc[0]}"


def thin_ranks(n: int, *, keep: int = 2000, spread: int = 2000) -> np.ndarray:
    """Choose ranks of a sorted sample to draw: all extreme ones, the others log-spaced.

    Parameters
    ----------
    n
        Number of tests.
    keep
        The ranks 1 to ``keep`` are all chosen.
    spread
        At most this many of the ranks above.

    Returns
    -------
    int64 array, shape (at most keep + spread,)
        Increasing ranks, from 1; the last is ``n``.
    """
    if n <= keep + spread:
        return np.arange(1, n + 1)
    rest = np.rint(np.geomspace(keep + 1, n, spread)).astype(np.int64)
    return np.unique(np.concatenate([np.arange(1, keep + 1), rest]))


def thin_grid(x: np.ndarray, y: np.ndarray, *, cells: int = 600) -> np.ndarray:
    """Choose points so that none is left out that would look different from those chosen.

    Parameters
    ----------
    x, y : float64 array, shape (n_points,)
        Finite coordinates.
    cells
        The range of either axis is cut into this many cells.

    Returns
    -------
    int64 array
        Increasing positions: the first point of every occupied cell. All of them when the
        points are fewer than 20,000.
    """
    # As many opaque marks are drawn in a blink.
    if x.size < 20_000:
        return np.arange(x.size)
    cell = np.zeros(x.size, dtype=np.int64)
    for values in (x, y):
        low, high = values.min(), values.max()
        step = (high - low) / cells or 1.0
        cell = cell * (cells + 1) + np.floor((values - low) / step).astype(np.int64)
    return np.sort(np.unique(cell, return_index=True)[1])


def natural_key(name: str) -> tuple[tuple[int, int, str], ...]:
    """Give a sorting key under which 'program 2' comes before 'program 10'.

    Parameters
    ----------
    name
        A feature or target.

    Returns
    -------
    tuple
        Digits compare as numbers, everything else as text.
    """
    parts = re.split(r"(\d+)", str(name))
    return tuple((0, int(part), "") if part.isdecimal() else (1, 0, part) for part in parts)


def shorten(name: str, length: int) -> str:
    """Cut a long name in its middle.

    Parameters
    ----------
    name
        A feature or target.
    length
        Largest number of characters wanted.

    Returns
    -------
    str
        The name, or its two ends around an ellipsis.
    """
    name = str(name)
    if len(name) <= length:
        return name
    head = length // 2
    return f"{name[:head]}…{name[len(name) - (length - head - 1) :]}"
