"""The top features of the top targets, as a heat map and as dots."""

from dataclasses import dataclass

import matplotlib
import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import QuadMesh
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from scipy.cluster.hierarchy import leaves_list, linkage

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import (
    beyond,
    fold_changes,
    heading,
    log10_p,
    natural_key,
    shorten,
    tested,
)

MAX_FEATURES, MAX_TARGETS = 50, 60
MAX_DOT_FEATURES, MAX_DOT_TARGETS = 30, 30
# Diverging, light in the middle, and told apart by colour-blind readers; red is higher, as in
# the other figures.
_COLOURS = "RdBu_r"
_MISSING_COLOUR = "#E4E4E4"
# So many of the effects shown keep their own colour; the few largest share the last one.
_COLOUR_QUANTILE = 0.95
# Size of a cell of a heat map and of one with dots, and the room for names, in inches.
_CELL, _DOT_CELL = 0.11, 0.13
_NAME = 1.1
_CONTROL = "control"
_COLUMNS = ("note", "log2_fold_change", "target_fraction", "control_fraction")


@dataclass(frozen=True)
class _Grid:
    """Features by targets, both in the order of a clustering.

    ``values`` are what is coloured, NaN where there is none; ``limit`` is the end of the colours
    and ``scale`` their name; ``significant`` tells the effects; ``fractions`` of target cells and
    ``control`` of control cells, per feature, are those in which a feature was seen; ``hidden``
    says what is not shown, or ''.
    """

    features: list[str]
    targets: list[str]
    values: np.ndarray
    significant: np.ndarray
    fractions: np.ndarray
    control: np.ndarray
    limit: float
    scale: str
    hidden: str


@style.styled
def heatmap(
    effects: pd.DataFrame,
    ranked: pd.DataFrame,
    *,
    fdr: float,
    max_features: int = MAX_FEATURES,
    max_targets: int = MAX_TARGETS,
) -> Figure:
    """Draw the fold changes of the top features in the targets with most effects.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract and
        ``log2_fold_change``.
    ranked
        From :func:`condrand.ranking.ranked_targets`, of the same effects.
    fdr
        Largest false discovery rate over all tests called an effect.
    max_features, max_targets
        Largest numbers of rows and columns. Shown are targets with an effect, those with most
        first, and features changed by one of them: those changed by most of them first, then
        those with the smallest p values.

    Returns
    -------
    matplotlib.figure.Figure
        A panel and a colour bar. Artists by gid: 'heatmap', 'significant' (a dot on every
        effect).

    Notes
    -----
    Rows and columns are in the order of the leaves of a hierarchical clustering (average
    linkage, Euclidean distance between the colours, missing ones as 0, neighbouring leaves as
    near as possible); its input is in natural order of names, so that the order of the rows of
    ``effects`` plays no part. The colours end at the 95th percentile of the sizes of effects
    shown, rounded up. Tests of a feature seen in one group of cells alone that are not
    significant have no colour if their fold change is larger than all others.
    """
    grid = _grid(effects, ranked, fdr, max_features, max_targets)
    if grid is None:
        return _empty(effects, fdr)
    n_rows, n_columns = grid.values.shape
    figure, panel = _new_figure(n_rows, n_columns, _CELL)
    mesh = panel.pcolormesh(
        np.arange(n_columns + 1) - 0.5,
        np.arange(n_rows + 1) - 0.5,
        np.ma.masked_invalid(grid.values),
        cmap=_colours(),
        norm=Normalize(-grid.limit, grid.limit),
        edgecolors="white",
        linewidth=0.3,
        gid="heatmap",
    )
    row, column = np.nonzero(grid.significant)
    shade = np.abs(grid.values[row, column]) / grid.limit
    panel.scatter(
        column,
        row,
        s=2.5,
        # On the dark ends a black dot would be lost.
        c=np.where(shade > 0.65, "white", style.BLACK),
        linewidths=0,
        gid="significant",
    )
    _name_axes(panel, grid.features, grid.targets)
    _colour_bar(figure, panel, mesh, grid)
    dot = Line2D([], [], linestyle="none", marker="o", color=style.BLACK, markersize=1.8)
    missing = Line2D([], [], linestyle="none", marker="s", color=_MISSING_COLOUR, markersize=5)
    handles, names = [dot], [f"FDR ≤ {fdr:g}"]
    if np.isnan(grid.values).any():
        handles.append(missing)
        names.append("no test or no fold change")
    style.legend_above(figure, handles, names, heading(effects) + grid.hidden, 2)
    return figure


@style.styled
def dotplot(
    effects: pd.DataFrame,
    ranked: pd.DataFrame,
    *,
    fdr: float,
    max_features: int = MAX_DOT_FEATURES,
    max_targets: int = MAX_DOT_TARGETS,
) -> Figure:
    """Draw in how many cells the top features were seen, and their fold changes.

    Parameters
    ----------
    effects
        As for :func:`heatmap`, with columns ``target_fraction`` and ``control_fraction``.
    ranked, fdr, max_features, max_targets
        As for :func:`heatmap`.

    Returns
    -------
    matplotlib.figure.Figure
        A panel and a colour bar. Artists by gid: 'dots' (the area of a dot is proportional to
        the fraction of target cells), 'control' (the same for the control, in the first column;
        the median, where targets have different controls). Effects have a black rim.

    Notes
    -----
    Rows, columns and colours as in :func:`heatmap`.
    """
    grid = _grid(effects, ranked, fdr, max_features, max_targets)
    if grid is None:
        return _empty(effects, fdr)
    n_rows, n_columns = grid.values.shape
    figure, panel = _new_figure(n_rows, n_columns + 1, _DOT_CELL)
    largest = _largest_fraction(grid)
    row, column = np.nonzero(np.isfinite(grid.fractions))
    colours = _colours()
    norm = Normalize(-grid.limit, grid.limit)
    values = np.ma.masked_invalid(grid.values[row, column])
    panel.scatter(
        column + 1,
        row,
        s=_areas(grid.fractions[row, column], largest),
        c=colours(norm(values)),
        edgecolors=np.where(grid.significant[row, column], style.BLACK, style.OTHER_COLOUR),
        linewidths=np.where(grid.significant[row, column], 0.6, 0.2),
        gid="dots",
    )
    known = np.flatnonzero(np.isfinite(grid.control))
    panel.scatter(
        np.zeros(known.size),
        known,
        s=_areas(grid.control[known], largest),
        c=style.GUIDE_COLOUR,
        linewidths=0,
        gid="control",
    )
    panel.axvline(0.5, color=style.GUIDE_COLOUR, linewidth=style.LINE / 2, zorder=1)
    _name_axes(panel, grid.features, [_CONTROL, *grid.targets])
    _colour_bar(figure, panel, ScalarMappable(norm, colours), grid)
    handles, names = [], []
    for fraction in largest * np.array([0.25, 0.5, 1.0]):
        diameter = float(np.sqrt(_areas(fraction, largest)))
        handles.append(_dot(diameter, "white", style.GUIDE_COLOUR, 0.4))
        names.append(f"{100 * fraction:g}% of cells")
    handles.append(_dot(5.0, "white", style.BLACK, 0.9))
    names.append(f"FDR ≤ {fdr:g}")
    style.legend_above(figure, handles, names, heading(effects) + grid.hidden, 4)
    return figure


def _dot(diameter: float, face: str, edge: str, line: float) -> Line2D:
    return Line2D(
        [],
        [],
        linestyle="none",
        marker="o",
        markersize=diameter,
        markerfacecolor=face,
        markeredgecolor=edge,
        markeredgewidth=line,
    )


def _areas(fractions: np.ndarray, largest: float) -> np.ndarray:
    """Give the areas of dots in square points; the largest almost fills its cell."""
    return (0.9 * 72.0 * _DOT_CELL) ** 2 * fractions / largest


def _largest_fraction(grid: _Grid) -> float:
    """Give the fraction of the largest dot: features may all be seen in few cells."""
    seen = np.concatenate([grid.fractions.ravel(), grid.control])
    highest = seen[np.isfinite(seen)].max(initial=0.0)
    return next((step for step in (0.04, 0.1, 0.2, 0.4) if highest <= step), 1.0)


def _colours() -> matplotlib.colors.Colormap:
    return matplotlib.colormaps[_COLOURS].with_extremes(bad=_MISSING_COLOUR)


def _new_figure(n_rows: int, n_columns: int, cell: float) -> tuple[Figure, Axes]:
    # Names, colour bar and legend have their room whatever the number of cells.
    width = max(style.COLUMN, _NAME + 0.9 + cell * n_columns)
    height = max(2.6, _NAME + 0.6 + cell * n_rows)
    figure, axes = style.new_figure(width, height)
    return figure, axes[0, 0]


def _empty(effects: pd.DataFrame, fdr: float) -> Figure:
    figure, axes = style.new_figure(style.COLUMN, 2.6, title=heading(effects))
    style.say_empty(axes[0, 0], f"no target has an effect at FDR ≤ {fdr:g}")
    axes[0, 0].set_axis_off()
    return figure


def _name_axes(panel: Axes, features: list[str], targets: list[str]) -> None:
    size = style.SMALL_FONT - 0.5
    short_targets, short_features = (
        # No more letters than that fit; measuring more of them takes long.
        [fit(shorten(name, 26), 72.0 * _NAME - 10.0, size=size) for name in names]
        for names in (targets, features)
    )
    panel.set_xticks(range(len(targets)), short_targets, rotation=90)
    panel.set_yticks(range(len(features)), short_features)
    panel.tick_params(labelsize=size, length=0)
    panel.set_xlim(-0.5, len(targets) - 0.5)
    # The first feature at the top.
    panel.set_ylim(len(features) - 0.5, -0.5)
    panel.spines[:].set_visible(False)
    panel.set_xlabel("Target")
    panel.set_ylabel("Feature")


def _colour_bar(
    figure: Figure, panel: Axes, colours: QuadMesh | ScalarMappable, grid: _Grid
) -> None:
    sizes = np.abs(grid.values)
    clipped = bool((sizes[np.isfinite(sizes)] > grid.limit).any())
    bar = figure.colorbar(
        colours,
        ax=panel,
        extend="both" if clipped else "neither",
        # As long as on a small figure, whatever the height.
        shrink=min(1.0, 1.6 / figure.get_figheight()),
        aspect=15,
        anchor=(0.0, 1.0),
        label=grid.scale,
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=style.SMALL_FONT, width=style.LINE, length=2.5, pad=2)


def _grid(
    effects: pd.DataFrame, ranked: pd.DataFrame, fdr: float, max_features: int, max_targets: int
) -> _Grid | None:
    """Give what is drawn, or None if no target has an effect."""
    affected = ranked.loc[ranked["n_effects"] > 0, "target"]
    targets = sorted(affected.head(max_targets), key=natural_key)
    if not targets:
        return None
    table = tested(effects.loc[effects["target"].isin(targets)], *_COLUMNS)
    table = table.assign(target=table["target"].astype(str), feature=table["feature"].astype(str))
    significant = table["fdr"].to_numpy(np.float64) <= fdr
    features, n_features = _top_features(table[significant], max_features)
    change, scale = fold_changes(table)
    kept = np.isin(table["feature"].to_numpy(object), features)
    table, change, significant = table[kept], change[kept], significant[kept]
    row = pd.Categorical(table["feature"], categories=features).codes
    column = pd.Categorical(table["target"], categories=targets).codes

    def spread(values: np.ndarray, fill: float | bool) -> np.ndarray:
        cells = np.full((len(features), len(targets)), fill)
        cells[row, column] = values
        return cells

    finite = np.isfinite(change)
    outside = np.zeros(len(table), dtype=bool)
    outside[finite] = beyond(table[finite], change[finite], scale)
    limit = _colour_limit(change[finite & significant & ~outside])
    # In a few cells a feature is easily missed by chance; the colour would be the strongest.
    values = spread(np.where(outside & ~significant, np.nan, change), np.nan)
    clipped = np.clip(np.nan_to_num(values), -limit, limit)
    rows, columns = _leaves(clipped), _leaves(clipped.T)
    fractions = spread(_column(table, "target_fraction"), np.nan)
    controls = spread(_column(table, "control_fraction"), np.nan)
    hidden = [
        f"{shown} of {total:,} {name}"
        for shown, total, name in (
            (len(features), n_features, "features"),
            (len(targets), len(affected), "targets"),
        )
        if shown < total
    ]
    return _Grid(
        features=[features[i] for i in rows],
        targets=[targets[i] for i in columns],
        values=values[np.ix_(rows, columns)],
        significant=spread(significant, False)[np.ix_(rows, columns)],
        fractions=fractions[np.ix_(rows, columns)],
        control=pd.DataFrame(controls[rows]).median(axis=1).to_numpy(),
        limit=limit,
        scale=scale,
        hidden=f": {', '.join(hidden)} with effects" if hidden else "",
    )


def _column(table: pd.DataFrame, name: str) -> np.ndarray:
    return (
        table[name].to_numpy(np.float64) if name in table.columns else np.full(len(table), np.nan)
    )


def _top_features(effects: pd.DataFrame, n: int) -> tuple[list[str], int]:
    """Give the features with effects in most targets, in natural order, and how many have any."""
    heights = pd.Series(log10_p(effects), index=effects["feature"].to_numpy(object))
    best = heights.groupby(level=0).agg(["size", "max"])
    names = sorted(
        best.index,
        key=lambda name: (-best.at[name, "size"], -best.at[name, "max"], natural_key(name)),
    )
    return sorted(names[:n], key=natural_key), len(names)


def _colour_limit(changes: np.ndarray) -> float:
    sizes = np.abs(changes)
    largest = float(np.quantile(sizes, _COLOUR_QUANTILE)) if sizes.size else 1.0
    if not largest:
        return 1.0
    # A number with one digit, so that the bar ends at a tick.
    unit = 10.0 ** np.floor(np.log10(largest))
    return float(unit * np.ceil(largest / unit - 1e-9))


def _leaves(values: np.ndarray) -> np.ndarray:
    """Give the order of the rows by hierarchical clustering."""
    if len(values) < 3:
        return np.arange(len(values))
    return leaves_list(linkage(values, method="average", optimal_ordering=True))
