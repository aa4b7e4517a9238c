"""Volcano plots: size of the effect against its significance."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from condrand.plots import style
from condrand.plots.labels import fit, place_labels
from condrand.plots.points import (
    beyond,
    effect_label,
    heading,
    log10_p,
    natural_key,
    shorten,
    tested,
    thin_grid,
)

_N_LABELS = 12
_N_PANEL_LABELS = 5
# Heights above the first make the axis logarithmic from the second on: drawn in proportion,
# all that is not among the strongest effects would lie on the floor.
_TALL, _LINEAR_TO = 50.0, 10.0
# In units of the largest effect: where the axis ends, and where tests beyond it are drawn.
MARGIN, EDGE = 1.25, 1.2
EMPTY = "no test has a p value and an effect"


@dataclass(frozen=True)
class Kind:
    """What plots of tests have of their own.

    Attributes
    ----------
    labels : (str, str)
        Of the two axes.
    frame : callable
        Sets scale and limits of a panel, and of those that share its axes, for rows placed:
        with columns ``x``, ``y`` and ``beyond``.
    guides : callable
        Draws the lines of a panel and gives the points along them that names must not hide,
        shape (n, 2).
    markers : (str, str)
        Of tests at the lower and at the upper edge of the axis of effects.
    """

    labels: tuple[str, str]
    frame: Callable[[Axes, pd.DataFrame], None]
    guides: Callable[[Axes], np.ndarray]
    markers: tuple[str, str]


@style.styled
def volcano(effects: pd.DataFrame, *, fdr: float) -> Figure:
    """Draw effect against -log10 p for all tests of an analysis.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract. Rows without a p
        value or without an effect are not drawn.
    fdr
        Largest false discovery rate called significant, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'higher', 'lower', 'other', each also with '-beyond' for
        triangles at the edge; 'threshold', 'label'. The 12 most significant pairs are named,
        of the significant ones only and where there is room.

    Notes
    -----
    The line is at the largest p value with ``fdr`` within the threshold; there is none without
    a significant test. From 20,000 tests on, points that would lie on others are left out; the
    numbers in the legend count all of them. If -log10 p exceeds 50 anywhere, its axis is
    linear up to 10 and logarithmic above, and its label says so. Features seen in one group of
    cells alone, according to ``note``, are drawn at the edge if their effects are larger than
    all others: those depend on a pseudocount.
    """
    table = place_volcano(effects)
    figure, axes = style.new_figure(style.WIDE, 4.0)
    panel = axes[0, 0]
    kind = volcano_kind(table, threshold(table, fdr))
    panel.set_xlabel(kind.labels[0])
    panel.set_ylabel(kind.labels[1])
    if table.empty:
        style.say_empty(panel, EMPTY)
        return figure

    kind.frame(panel, table)
    drawn = draw_tests(panel, table, fdr, kind, size=2.5)
    legend(figure, panel, table, fdr, kind, heading(effects))
    style.freeze_layout(figure)
    best = most_significant(table, fdr, _N_LABELS)
    names = [
        f"{shorten(target, 16)} · {shorten(feature, 16)}"
        for target, feature in zip(best["target"], best["feature"], strict=True)
    ]
    place_labels(panel, best["x"].to_numpy(), best["y"].to_numpy(), names, drawn)
    return figure


@style.styled
def volcano_by_feature(effects: pd.DataFrame, *, fdr: float, max_features: int = 30) -> Figure:
    """Draw one small volcano per feature, all with the same axes.

    Parameters
    ----------
    effects
        As for :func:`volcano`.
    fdr
        Largest false discovery rate called significant, between 0 and 1; the false discovery
        rate is that over the analysis, so that the line is the same in all panels.
    max_features
        Largest number of panels. Of more features, those with the smallest p values are
        shown, and the title says how many are not.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per feature, in natural order, titled with its name. Gids as in
        :func:`volcano`; the 5 most significant targets are named likewise, and the axis of
        -log10 p is compressed likewise.
    """
    table = _drawable(effects)
    rows_of_feature = _rows_of_shown_features(table, max_features)
    n_shown = len(rows_of_feature)
    n_hidden = table["feature"].nunique() - n_shown
    title = heading(effects)
    if n_hidden:
        title += f": {n_shown} features with the smallest p values, {n_hidden:,} not shown"
    shown = table.iloc[np.concatenate([np.arange(0), *rows_of_feature.values()])]
    return small_multiples(
        _placed(shown),
        {feature: (feature, "") for feature in rows_of_feature},
        fdr,
        volcano_kind(shown, threshold(table, fdr)),
        title=title,
        panel_of="feature",
    )


def small_multiples(
    table: pd.DataFrame,
    titles: dict[str, tuple[str, str]],
    fdr: float,
    kind: Kind,
    *,
    title: str,
    panel_of: str,
) -> Figure:
    """Draw one panel of tests per feature or per target, all with the same axes.

    Parameters
    ----------
    table
        Rows of all panels, placed: columns ``x``, ``y`` and ``beyond``.
    titles
        Features or targets in the order of their panels, each with the two parts of its
        title: a name, which is cut where it is too long, and what follows it.
    fdr
        Largest false discovery rate called significant.
    kind
        Of the plot.
    title
        Heading of the figure.
    panel_of
        'feature' or 'target': what has a panel; the other one is named inside.

    Returns
    -------
    matplotlib.figure.Figure
        To be drawn inside a :func:`.style.styled` function.
    """
    n_shown = len(titles)
    n_columns = min(5, max(1, int(np.ceil(np.sqrt(n_shown)))))
    n_rows = max(1, -(-n_shown // n_columns))
    width = min(style.PAGE, 1.1 + 2.4 * n_columns)
    figure, axes = style.new_figure(
        width, 0.9 + 1.5 * n_rows, n_rows=n_rows, n_columns=n_columns, share=True
    )
    figure.supxlabel(kind.labels[0])
    figure.supylabel(kind.labels[1])
    panels = list(axes.flat)
    if table.empty:
        for panel in panels[1:]:
            panel.remove()
        style.say_empty(panels[0], EMPTY)
        if title:
            style.title_above(figure, title)
        return figure

    for panel in panels[n_shown:]:
        panel.remove()
    # The panel above a removed one is the lowest of its column.
    for panel in panels[max(0, n_shown - n_columns) : n_shown]:
        panel.tick_params(labelbottom=True)
    panels = panels[:n_shown]
    kind.frame(panels[0], table)
    names_of_rows = table[panel_of].astype(str).to_numpy()
    parts = [table[names_of_rows == name] for name in titles]
    drawn = [
        draw_tests(panel, rows, fdr, kind, size=2.0)
        for panel, rows in zip(panels, parts, strict=True)
    ]
    legend(figure, panels[0], table, fdr, kind, title)
    room = 72.0 * width / n_columns - 20.0
    for panel, (name, more) in zip(panels, titles.values(), strict=True):
        # Digits, arrows and blanks together are 0.6 times as wide as the font is high.
        left = room - 0.6 * style.FONT * len(more)
        panel.set_title(fit(name, left, size=style.FONT) + more, pad=3)
    style.freeze_layout(figure)
    for panel, rows, obstacles in zip(panels, parts, drawn, strict=True):
        best = most_significant(rows, fdr, _N_PANEL_LABELS)
        names = [
            shorten(name, 14) for name in best["target" if panel_of == "feature" else "feature"]
        ]
        place_labels(panel, best["x"].to_numpy(), best["y"].to_numpy(), names, obstacles, size=5.5)
    return figure


def place_volcano(effects: pd.DataFrame) -> pd.DataFrame:
    """Give the tests of a volcano plot and where they are drawn.

    Parameters
    ----------
    effects
        As for :func:`volcano`.

    Returns
    -------
    pandas.DataFrame
        Rows with a p value and an effect; ``x`` and ``y`` in units of the axes, and ``beyond``:
        whether ``x`` is the edge instead of the effect.
    """
    return _placed(_drawable(effects))


def _drawable(effects: pd.DataFrame) -> pd.DataFrame:
    table = tested(effects, "note")
    return table[np.isfinite(table["effect"].to_numpy(np.float64))]


def _placed(table: pd.DataFrame) -> pd.DataFrame:
    effect = table["effect"].to_numpy(np.float64)
    outside = beyond(table, effect, effect_label(table))
    return table.assign(x=at_edge(effect, outside), y=log10_p(table), beyond=outside)


def at_edge(sizes: np.ndarray, outside: np.ndarray) -> np.ndarray:
    """Give where effects are drawn: as they are, or at the edge on their side of zero.

    Parameters
    ----------
    sizes : float64 array, shape (n_tests,)
        Effects.
    outside : bool array, shape (n_tests,)
        From :func:`.beyond`.

    Returns
    -------
    float64 array, shape (n_tests,)
        ``EDGE`` times the largest effect inside, for those outside.
    """
    return np.where(outside, np.sign(sizes) * EDGE * largest(sizes[~outside]), sizes)


def largest(sizes: np.ndarray) -> float:
    """Give the largest absolute value, or 1 if all are 0."""
    return float(np.abs(sizes).max(initial=0.0)) or 1.0


def volcano_kind(table: pd.DataFrame, line: float | None) -> Kind:
    """Give what makes a plot of tests a volcano plot.

    Parameters
    ----------
    table
        Rows of all panels.
    line
        From :func:`threshold`.

    Returns
    -------
    Kind
        Its label of the vertical axis says whether that is compressed.
    """
    compressed = f" (compressed above {_LINEAR_TO:g})" if _is_tall(table) else ""
    return Kind(
        (effect_label(table), style.LOG10_P + compressed),
        _frame_volcano,
        partial(line_guides, line=line),
        ("<", ">"),
    )


def _is_tall(table: pd.DataFrame) -> bool:
    return bool(log10_p(table).max(initial=0.0) > _TALL)


def _classes(table: pd.DataFrame, fdr: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    significant = table["fdr"].to_numpy(np.float64) <= fdr
    positive = table["effect"].to_numpy(np.float64) >= 0.0
    return ~significant, significant & ~positive, significant & positive


def _class_names(table: pd.DataFrame, fdr: float) -> list[str]:
    other, lower, higher = (int(rows.sum()) for rows in _classes(table, fdr))
    return [
        f"not significant ({other:,})",
        f"lower, FDR ≤ {fdr:g} ({lower:,})",
        f"higher, FDR ≤ {fdr:g} ({higher:,})",
    ]


def draw_tests(
    panel: Axes,
    table: pd.DataFrame,
    fdr: float,
    kind: Kind,
    *,
    size: float,
    max_vector: int = style.MAX_VECTOR_POINTS,
    **thinned: int,
) -> np.ndarray:
    """Draw tests as points coloured by sign and significance, and the lines beneath them.

    Parameters
    ----------
    panel
        Changed in place; its limits are final.
    table
        Rows of the panel, placed: columns ``x``, ``y`` and ``beyond``.
    fdr
        Largest false discovery rate called significant.
    kind
        Of the plot.
    size
        Diameter of a point, in points.
    max_vector
        More points of a class than these are embedded in a vector file as an image.
    **thinned
        Of :func:`thin_grid`.

    Returns
    -------
    float64 array, shape (n, 2)
        What names must not hide, in data coordinates.
    """
    drawn = [kind.guides(panel)]
    x, y = table["x"].to_numpy(np.float64), table["y"].to_numpy(np.float64)
    outside = table["beyond"].to_numpy(bool)
    lower = table["effect"].to_numpy(np.float64) < 0.0

    classes = zip(
        ("other", "lower", "higher"),
        _classes(table, fdr),
        (style.OTHER_COLOUR, style.LOWER_COLOUR, style.HIGHER_COLOUR),
        strict=True,
    )
    for gid, rows, colour in classes:
        look = {"color": colour, "zorder": 2 if gid == "other" else 3, "max_vector": max_vector}
        at = np.flatnonzero(rows & ~outside)
        at = draw_points(panel, x, y, at, thinned, markersize=size, gid=gid, **look)
        drawn.append(np.column_stack([x[at], y[at]]))
        look |= {"markersize": 1.4 * size, "gid": f"{gid}-beyond"}
        for marker, side in zip(kind.markers, (lower, ~lower), strict=True):
            at = np.flatnonzero(rows & outside & side)
            if not at.size:
                continue
            at = draw_points(panel, x, y, at, thinned, marker=marker, **look)
            drawn.append(np.column_stack([x[at], y[at]]))
    return np.concatenate(drawn)


def draw_points(
    panel: Axes,
    x: np.ndarray,
    y: np.ndarray,
    at: np.ndarray,
    thinned: Mapping[str, int] | None = None,
    *,
    max_vector: int = style.MAX_VECTOR_POINTS,
    marker: str = "o",
    **look: object,
) -> np.ndarray:
    """Draw some points, but for those that would lie on others.

    Parameters
    ----------
    panel
        Changed in place; its limits are final.
    x, y : float64 array, shape (n_points,)
        Coordinates of all points.
    at : int array
        Those to draw.
    thinned
        Arguments of :func:`thin_grid`.
    max_vector
        More points than these are embedded in a vector file as an image.
    marker, **look
        As of :meth:`matplotlib.axes.Axes.plot`.

    Returns
    -------
    int array
        The points drawn.
    """
    if at.size:
        # Where points lie on the page decides which of them lie on others.
        places = panel.transScale.transform(np.column_stack([x[at], y[at]]))
        at = at[thin_grid(*places.T, **(thinned or {}))]
    rasterized = at.size > max_vector
    panel.plot(x[at], y[at], marker, markeredgewidth=0, rasterized=rasterized, **look)
    return at


def legend(
    figure: Figure,
    panel: Axes,
    table: pd.DataFrame,
    fdr: float,
    kind: Kind,
    title: str,
) -> None:
    """Put a legend above the panels, with the numbers of tests of each kind.

    Parameters
    ----------
    figure
        Changed in place.
    panel
        Any panel drawn by :func:`draw_tests`.
    table
        Rows of all panels.
    fdr
        Largest false discovery rate called significant.
    kind
        Of the plot.
    title
        Heading of the figure.
    """
    by_gid = {line.get_gid(): line for line in panel.lines}
    handles = [by_gid[gid] for gid in ("other", "lower", "higher")]
    names, columns = _class_names(table, fdr), 3
    n_beyond = int(table["beyond"].sum())
    if n_beyond:
        handles.append(
            Line2D(
                [],
                [],
                linestyle="none",
                marker=kind.markers[1],
                color=style.GUIDE_COLOUR,
                markersize=1.4 * handles[0].get_markersize(),
                markeredgewidth=0,
            )
        )
        names.append(f"seen in one group alone, off the axis ({n_beyond:,})")
        columns = 2
    style.legend_above(figure, handles, names, title, columns)


def line_guides(panel: Axes, *, line: float | None) -> np.ndarray:
    """Draw the guides of a panel, and give points on the line, shape (n, 2)."""
    panel.axvline(0.0, color=style.GUIDE_COLOUR, linewidth=style.LINE / 2, zorder=1)
    if line is None:
        return np.empty((0, 2))
    panel.axhline(line, linestyle="--", color=style.GUIDE_COLOUR, gid="threshold", zorder=1)
    along = np.linspace(*panel.get_xlim(), 60)
    return np.column_stack([along, np.full(along.size, line)])


def threshold(table: pd.DataFrame, fdr: float) -> float | None:
    """Give -log10 of the largest significant p, or None without a significant test."""
    if table.empty:
        return None
    significant = table["fdr"].to_numpy(np.float64) <= fdr
    if not significant.any():
        return None
    return float(log10_p(table.loc[significant, ["neg_log10_p"]]).min())


def _frame_volcano(panel: Axes, table: pd.DataFrame) -> None:
    """Set scale and limits with room for names: zero in the middle, a margin above."""
    inside = ~table["beyond"].to_numpy(bool)
    width = largest(table["x"].to_numpy(np.float64)[inside])
    panel.set_xlim(-MARGIN * width, MARGIN * width)
    highest = float(table["y"].max()) or 1.0
    if _is_tall(table):
        style.compressed_axis(panel, _LINEAR_TO, highest)
    # In proportion to the height on the page; below 0 a little, so that p = 1 is whole.
    scale = panel.yaxis.get_transform()
    top = scale.transform(np.array([highest]))
    bottom, top = scale.inverted().transform(np.concatenate([-0.02 * top, 1.15 * top]))
    panel.set_ylim(bottom, top)


def most_significant(table: pd.DataFrame, fdr: float, n: int) -> pd.DataFrame:
    """Give the first n significant rows by p, then by size of the effect."""
    rows = table[table["fdr"].to_numpy(np.float64) <= fdr]
    size = np.abs(rows["effect"].to_numpy(np.float64))
    return rows.iloc[np.lexsort((-size, -log10_p(rows)))[:n]]


def _rows_of_shown_features(table: pd.DataFrame, max_features: int) -> dict[str, np.ndarray]:
    """Give the row positions of the features with the smallest p, in natural order of names."""
    codes, names = pd.factorize(table["feature"])
    best = pd.Series(log10_p(table)).groupby(codes).max()
    # The name decides between equal p values, so that the choice does not depend on row order.
    ranked = sorted(range(len(names)), key=lambda code: (-best[code], natural_key(names[code])))
    shown = sorted(ranked[:max_features], key=lambda code: natural_key(names[code]))
    return {str(names[code]): np.flatnonzero(codes == code) for code in shown}
