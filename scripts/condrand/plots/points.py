"""From a table of tests to the points of a figure: which rows, which values, how many."""

import re

import numpy as np
import pandas as pd
from scipy.special import betaincinv

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
# A fold change against nothing is as large as the pseudocount is small, and tells no more.
_ONE_SIDED = ("seen in target cells alone", "seen in control cells alone")
FOLD_CHANGE = "log₂ fold change"


def tested(table: pd.DataFrame, *more: str) -> pd.DataFrame:
    """Give the rows of an effects table that hold a p value.

    Parameters
    ----------
    table
        One row per target and feature, columns of the results contract; may be empty, even
        without columns.
    *more
        Columns wanted beside those of the contract, where the table has them.

    Returns
    -------
    pandas.DataFrame
        The columns that figures use, rows with a finite ``p_value``, in the order given.
    """
    if table.empty:
        return pd.DataFrame(columns=[*_COLUMNS, *more])
    finite = np.isfinite(table["p_value"].to_numpy(np.float64))
    return table.loc[finite, [*_COLUMNS, *(name for name in more if name in table.columns)]]


def beyond(table: pd.DataFrame, sizes: np.ndarray, scale: str) -> np.ndarray:
    """Tell which tests of features seen in one group alone lie farther out than all others.

    Parameters
    ----------
    table
        Column ``note``; without it, none does.
    sizes : float64 array, shape (n_tests,)
        Effects as they are drawn, finite.
    scale
        Of the effects. Only a fold change depends on a pseudocount; otherwise, none does.

    Returns
    -------
    bool array, shape (n_tests,)
        None where no feature was seen in both groups: then there is nothing to lie beyond.
    """
    if "note" not in table.columns or "fold change" not in scale:
        return np.zeros(sizes.size, dtype=bool)
    codes, notes = pd.factorize(table["note"])
    known = np.array([any(part in str(note) for part in _ONE_SIDED) for note in notes] + [False])
    one_sided = known[codes]
    if one_sided.all():
        return np.zeros(sizes.size, dtype=bool)
    return one_sided & (np.abs(sizes) > np.abs(sizes[~one_sided]).max())


def fold_changes(table: pd.DataFrame) -> tuple[np.ndarray, str]:
    """Give the log2 fold changes, or the effects where some of them have none.

    Parameters
    ----------
    table
        Columns ``effect``, ``effect_scale`` and ``log2_fold_change``.

    Returns
    -------
    values : float64 array, shape (n_tests,)
        Fold changes only if every row with an effect has one: values that may be negative have
        means without a log.
    scale : str
        What they are, for the label of an axis: ``FOLD_CHANGE`` or that of the effects.
    """
    effect = table["effect"].to_numpy(np.float64)
    values = table["log2_fold_change"].to_numpy(np.float64)
    if (np.isfinite(values) | ~np.isfinite(effect)).all():
        return values, FOLD_CHANGE
    return effect, effect_label(table)


def effect_label(table: pd.DataFrame) -> str:
    """Give the label of an axis of effects, with their scale."""
    scales = [str(scale) for scale in table["effect_scale"].dropna().unique()]
    return ", ".join(["Effect", *scales])


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


def titled(title: str, name: str, *, most: int = 44) -> str:
    """Give a heading and the name of what is drawn, on two lines where one would be too long.

    Parameters
    ----------
    title
        Heading of the figure; may be ''.
    name
        A contrast or a term; cut where it is too long for a line.
    most
        Characters of a line, as a narrow figure holds them.

    Returns
    -------
    str
    """
    joint = ": " if len(title) + len(name) + 2 <= most else "\n"
    return f"{title}{joint if title else ''}{shorten(name, most)}"


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


def qq_curve(observed: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Give the points of a quantile-quantile curve.

    Parameters
    ----------
    observed : float64 array, shape (m,)
        -log10 p, in any order.

    Returns
    -------
    expected, observed : float64 array
        The most significant first, the i-th at -log10((i - 0.5) / m); ranks as chosen by
        :func:`thin_ranks`.
    """
    ranks = thin_ranks(observed.size)
    return -np.log10((ranks - 0.5) / observed.size), np.sort(observed)[::-1][ranks - 1]


def uniform_band(n: int, confidence: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Give where the curve of independent uniform p values lies, point by point.

    Parameters
    ----------
    n
        Number of tests, at least 1.
    confidence
        Coverage, between 0 and 1.

    Returns
    -------
    expected, low, high : float64 array
        -log10 p, the most significant first, thinned: the i-th smallest of ``n`` uniform
        values has the law Beta(i, n - i + 1).
    """
    ranks = thin_ranks(n, keep=100, spread=200)
    tail = (1.0 - confidence) / 2.0
    low = -np.log10(betaincinv(ranks, n - ranks + 1, 1.0 - tail))
    high = -np.log10(betaincinv(ranks, n - ranks + 1, tail))
    return -np.log10((ranks - 0.5) / n), low, high


def shared_floor(p: np.ndarray) -> float | None:
    """Give -log10 of the smallest empirical p value when several tests share it.

    Parameters
    ----------
    p : float64 array, shape (n_tests,)
        Empirical p values, multiples of 1 / (B + 1).

    Returns
    -------
    float or None
        None where the smallest is no floor: only one test has it, or it is not the inverse of
        a whole number.
    """
    if p.size == 0 or np.count_nonzero(p == p.min()) < 2:
        return None
    # 1/(B+1) is the inverse of a whole number; 3/(B+1), shared by chance, mostly is not.
    inverse = 1.0 / p.min()
    return float(np.log10(inverse)) if abs(inverse - round(inverse)) < 1e-6 * inverse else None


def thin_grid(
    x: np.ndarray, y: np.ndarray, *, cells: int = 600, least: int = 20_000
) -> np.ndarray:
    """Choose points so that none is left out that would look different from those chosen.

    Parameters
    ----------
    x, y : float64 array, shape (n_points,)
        Finite coordinates.
    cells
        The range of either axis is cut into this many cells.
    least
        Fewer points than these are all drawn: so many opaque marks take a blink.

    Returns
    -------
    int64 array
        Increasing positions: the first point of every occupied cell, or all.
    """
    if x.size < least:
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
