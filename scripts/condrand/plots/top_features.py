"""Heat maps of samples: the top features of a contrast, and significant features in clusters."""

from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.collections import LineCollection, QuadMesh
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import shorten
from condrand.plots.sample_groups import MAX_NAMES, Groups, name_samples

# Diverging, red is higher, as in the heat map of targets.
_COLOURS, _LIMIT = "RdBu_r", 2.0
_CLUSTER_COLOURS = "magma"
# Between these percentiles values keep their own colour; of many samples, few are far out.
_PERCENTILES = (1.0, 99.0)
# Heights in inches: of a row with a name, of all rows without, of the bar of groups, of a tree.
_ROW, _BODY, _STRIP, _TREE = 0.11, 4.5, 0.09, 0.5
_COLUMN, _NAME = 0.16, 1.1
_Z = "z score of log₂ expression"


@style.styled
def top_heatmap(
    z: np.ndarray,
    n_up: int,
    features: Sequence,
    samples: Sequence,
    groups: Sequence,
    *,
    title: str = "",
) -> Figure:
    """Draw the top features of a contrast in every sample.

    Parameters
    ----------
    z : float64 array, shape (m, n)
        z scores of features by samples, rows in the order drawn; NaN, grey, where missing.
    n_up
        The first so many rows go up; a line parts them from the others.
    features
        Names of the rows.
    samples, groups
        Name and group of each column. Columns are drawn by group, in each as given.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        A bar of groups, a panel and a colour bar that ends at ±2. Artists by gid: 'heatmap',
        'groups', 'parting' (a line).
    """
    z = np.asarray(z, np.float64)
    m, n = z.shape
    drawn = Groups.of(groups)
    order = drawn.order
    height = _body(m)
    figure, axes = style.new_figure(_width(n), height + 1.6, n_rows=2)
    strip, panel = axes.flat
    strip.get_gridspec().set_height_ratios([_STRIP, height])
    figure.get_layout_engine().set(hspace=0.0, h_pad=0.02)
    if not m:
        return _nothing(figure, axes, panel, "no feature has a test", title)
    drawn.strip(strip, order)
    mesh = _mesh(panel, z[:, order], _COLOURS, -_LIMIT, _LIMIT)
    if 0 < n_up < m:
        panel.axhline(n_up - 0.5, color=style.BLACK, linewidth=style.LINE, gid="parting")
    _name_features(panel, features)
    name_samples(panel, [samples[i] for i in order])
    _colour_bar(figure, panel, mesh, z, -_LIMIT, _LIMIT)
    drawn.legend(figure, title)
    return figure


@style.styled
def clustered_heatmap(
    z: np.ndarray,
    row_tree: np.ndarray,
    column_tree: np.ndarray,
    row_order: np.ndarray,
    column_order: np.ndarray,
    features: Sequence,
    samples: Sequence,
    groups: Sequence,
    *,
    n_left_out: int = 0,
    title: str = "",
) -> Figure:
    """Draw features and samples in the order of their clusters, with their trees.

    Parameters
    ----------
    z : float64 array, shape (m, n)
        z scores of features by samples.
    row_tree, column_tree : float64 array, shape (m - 1, 4) and (n - 1, 4)
        Merges as scipy's ``linkage`` gives them; empty where there is no tree.
    row_order, column_order : int64 array, shape (m,) and (n,)
        Rows and columns of `z` as they are drawn, the leaves of the trees.
    features
        Names of the rows of `z`.
    samples, groups
        Name and group of each column of `z`.
    n_left_out
        Features without z scores, because they are constant or have missing values; the title
        says how many.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        Artists by gid: 'heatmap', 'groups', 'row-tree', 'column-tree'. Up to 60 rows and columns
        are named. The colours end at the 1st and the 99th percentile of the z scores.
    """
    z = np.asarray(z, np.float64)
    m, n = z.shape
    drawn = Groups.of(groups)
    if n_left_out:
        # On a line of its own: the figure may be narrow.
        title = f"{title}\n{n_left_out:,} constant or incomplete features left out".lstrip()
    height = _body(m)
    figure, axes = style.new_figure(_width(n) + _TREE, height + _TREE + 1.6, n_rows=3, n_columns=2)
    grid = axes[0, 0].get_gridspec()
    grid.set_height_ratios([_TREE, _STRIP, height])
    grid.set_width_ratios([_TREE, _width(n) - 1.5])
    figure.get_layout_engine().set(hspace=0.0, wspace=0.0, h_pad=0.02, w_pad=0.02)
    (corner, above), (empty, strip), (left, panel) = axes
    if not m:
        return _nothing(figure, axes, panel, "no significant feature", title)
    corner.remove()
    empty.remove()
    drawn.strip(strip, column_order)
    shown = z[np.ix_(row_order, column_order)]
    low, high = (float(v) for v in np.percentile(shown, _PERCENTILES))
    mesh = _mesh(panel, shown, _CLUSTER_COLOURS, low, high)
    _draw_tree(above, column_tree, column_order, "column-tree", upright=True)
    _draw_tree(left, row_tree, row_order, "row-tree", upright=False)
    # A tree is on the left.
    panel.yaxis.tick_right()
    panel.yaxis.set_label_position("right")
    _name_features(panel, [features[i] for i in row_order])
    name_samples(panel, [samples[i] for i in column_order])
    if n > MAX_NAMES:
        panel.set_xlabel(f"Sample ({n:,}, by cluster)")
    _colour_bar(figure, panel, mesh, shown, low, high)
    drawn.legend(figure, title)
    return figure


def tree_segments(tree: np.ndarray, order: np.ndarray) -> np.ndarray:
    """Give the brackets of a tree.

    Parameters
    ----------
    tree : float64 array, shape (n - 1, 4)
        Merges as scipy's ``linkage`` gives them.
    order : int64 array, shape (n,)
        The leaves from the first to the last; leaf ``order[i]`` is at i.

    Returns
    -------
    float64 array, shape (n - 1, 4, 2)
        Four corners of the bracket of each merge: along the leaves, and height. A bracket is
        in the middle of its two branches.
    """
    n = order.size
    # Not scipy's dendrogram, which calls itself once per level: deep trees end it.
    at, heights = np.zeros((2, 2 * n - 1))
    at[order] = np.arange(n)
    segments = np.empty((len(tree), 4, 2))
    for i, (a, b, height, _) in enumerate(tree):
        one, other = sorted((int(a), int(b)), key=lambda branch: at[branch])
        segments[i, :, 0] = at[one], at[one], at[other], at[other]
        segments[i, :, 1] = heights[one], height, height, heights[other]
        at[n + i], heights[n + i] = (at[one] + at[other]) / 2.0, height
    return segments


def _draw_tree(
    panel: Axes, tree: np.ndarray, order: np.ndarray, gid: str, *, upright: bool
) -> None:
    """Draw a tree above columns, or to the left of rows whose first is at the top."""
    panel.set_axis_off()
    segments = tree_segments(tree, order)
    highest = 1.02 * float(segments[:, :, 1].max(initial=0.0)) or 1.0
    along = -0.5, order.size - 0.5
    if upright:
        panel.set_xlim(*along)
        panel.set_ylim(0.0, highest)
    else:
        segments = segments[:, :, ::-1]
        panel.set_ylim(*along[::-1])
        panel.set_xlim(highest, 0.0)
    lines = LineCollection(
        segments,
        colors=style.GUIDE_COLOUR,
        linewidths=0.4,
        capstyle="projecting",
        gid=gid,
        rasterized=len(segments) > style.MAX_VECTOR_POINTS,
    )
    panel.add_collection(lines, autolim=False)


def _body(m: int) -> float:
    return max(1.2, _ROW * m) if m <= MAX_NAMES else _BODY


def _width(n: int) -> float:
    return min(style.PAGE - _TREE, max(style.COLUMN, _NAME + 1.2 + _COLUMN * n))


def _nothing(figure: Figure, axes: np.ndarray, panel: Axes, text: str, title: str) -> Figure:
    for other in axes.flat:
        other.set_axis_off()
    style.say_empty(panel, text)
    if title:
        style.title_above(figure, title)
    return figure


def _mesh(panel: Axes, values: np.ndarray, colours: str, low: float, high: float) -> QuadMesh:
    m, n = values.shape
    mesh = panel.pcolormesh(
        np.arange(n + 1) - 0.5,
        np.arange(m + 1) - 0.5,
        values,
        cmap=colours,
        vmin=low,
        vmax=high,
        gid="heatmap",
        rasterized=values.size > style.MAX_VECTOR_POINTS,
    )
    # White is a value in one of the colour scales, and so cannot stand for a missing one.
    panel.set_facecolor(style.BAND_COLOUR)
    panel.set_xlim(-0.5, n - 0.5)
    # The first feature at the top.
    panel.set_ylim(m - 0.5, -0.5)
    panel.spines[:].set_visible(False)
    return mesh


def _name_features(panel: Axes, features: Sequence) -> None:
    if len(features) > MAX_NAMES:
        panel.set_yticks([])
        panel.set_ylabel(f"Feature ({len(features):,})")
        return
    size = style.SMALL_FONT - 0.5
    names = [fit(shorten(name, 26), 72.0 * _NAME - 10.0, size=size) for name in features]
    panel.set_yticks(range(len(names)), names)
    panel.tick_params(axis="y", labelsize=size, length=0)
    panel.set_ylabel("Feature")


def _colour_bar(
    figure: Figure,
    panel: Axes,
    mesh: ScalarMappable,
    values: np.ndarray,
    low: float,
    high: float,
) -> None:
    below, above = bool((values < low).any()), bool((values > high).any())
    extend = {(0, 0): "neither", (1, 0): "min", (0, 1): "max", (1, 1): "both"}[below, above]
    bar = figure.colorbar(
        mesh,
        ax=panel,
        extend=extend,
        # Ticks that do not depend on the length of the bar: the layout has measured their names.
        ticks=MaxNLocator(5, steps=[1, 2, 5, 10]),
        # As long as on a small figure, whatever the height.
        shrink=min(1.0, 1.6 / figure.get_figheight()),
        aspect=15,
        anchor=(0.0, 1.0),
        label=_Z,
    )
    bar.outline.set_visible(False)
    bar.ax.tick_params(labelsize=style.SMALL_FONT, width=style.LINE, length=2.5, pad=2)
