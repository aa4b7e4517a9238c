"""Volcano plots: size of the effect against its significance."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import fit, place_labels
from condrand.plots.points import (
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
        One panel. Artists by gid: 'higher', 'lower', 'other', 'threshold', 'label'. The 12
        most significant pairs are named, of the significant ones only and where there is room.

    Notes
    -----
    The line is at the largest p value with ``fdr`` within the threshold; there is none without
    a significant test. From 20,000 tests on, points that would lie on others are left out; the
    numbers in the legend count all of them. If -log10 p exceeds 50 anywhere, its axis is
    linear up to 10 and logarithmic above, and its label says so.
    """
    table = _drawable(effects)
    figure, axes = style.new_figure(style.WIDE, 4.0)
    panel = axes[0, 0]
    panel.set_xlabel(_effect_label(table))
    panel.set_ylabel(_height_label(table))
    if table.empty:
        style.say_empty(panel, "no test has a p value and an effect")
        return figure

    _frame(panel, table)
    line = _threshold(table, fdr)
    drawn = _scatter(panel, table, fdr, line, size=2.5)
    style.legend_above(figure, *panel.get_legend_handles_labels(), heading(effects), 3)
    style.freeze_layout(figure)
    best = _most_significant(table, fdr, _N_LABELS)
    names = [
        f"{shorten(target, 16)} · {shorten(feature, 16)}"
        for target, feature in zip(best["target"], best["feature"], strict=True)
    ]
    place_labels(panel, best["effect"].to_numpy(np.float64), log10_p(best), names, drawn)
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
    n_columns = min(5, max(1, int(np.ceil(np.sqrt(n_shown)))))
    n_rows = max(1, -(-n_shown // n_columns))
    width = min(style.PAGE, 1.1 + 2.4 * n_columns)
    figure, axes = style.new_figure(
        width, 0.9 + 1.5 * n_rows, n_rows=n_rows, n_columns=n_columns, share=True
    )
    figure.supxlabel(_effect_label(table))
    shown = table.iloc[np.concatenate([np.arange(0), *rows_of_feature.values()])]
    figure.supylabel(_height_label(shown))
    panels = list(axes.flat)
    if not n_shown:
        style.say_empty(panels[0], "no test has a p value and an effect")
        return figure

    for panel in panels[n_shown:]:
        panel.remove()
    # The panel above a removed one is the lowest of its column.
    for panel in panels[max(0, n_shown - n_columns) : n_shown]:
        panel.tick_params(labelbottom=True)
    panels = panels[:n_shown]
    _frame(panels[0], shown)
    line = _threshold(table, fdr)
    drawn = [
        _scatter(panel, table.iloc[rows], fdr, line, size=2.0)
        for panel, rows in zip(panels, rows_of_feature.values(), strict=True)
    ]
    handles, _ = panels[0].get_legend_handles_labels()
    style.legend_above(figure, handles, _class_names(shown, fdr), title, 3)
    room = 72.0 * width / n_columns - 20.0
    for panel, feature in zip(panels, rows_of_feature, strict=True):
        panel.set_title(fit(feature, room, size=style.FONT), pad=3)
    style.freeze_layout(figure)
    for panel, rows, obstacles in zip(panels, rows_of_feature.values(), drawn, strict=True):
        best = _most_significant(table.iloc[rows], fdr, _N_PANEL_LABELS)
        names = [shorten(target, 14) for target in best["target"]]
        place_labels(
            panel, best["effect"].to_numpy(np.float64), log10_p(best), names, obstacles, size=5.5
        )
    return figure


def _drawable(effects: pd.DataFrame) -> pd.DataFrame:
    table = tested(effects)
    return table[np.isfinite(table["effect"].to_numpy(np.float64))]


def _effect_label(table: pd.DataFrame) -> str:
    scales = [str(scale) for scale in table["effect_scale"].dropna().unique()]
    return ", ".join(["Effect", *scales])


def _is_tall(table: pd.DataFrame) -> bool:
    return bool(log10_p(table).max(initial=0.0) > _TALL)


def _height_label(table: pd.DataFrame) -> str:
    compressed = f" (compressed above {_LINEAR_TO:g})" if _is_tall(table) else ""
    return style.LOG10_P + compressed


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


def _scatter(
    panel: Axes, table: pd.DataFrame, fdr: float, line: float | None, *, size: float
) -> np.ndarray:
    """Draw the tests by class and the lines; give what names must not hide, shape (n, 2)."""
    panel.axvline(0.0, color=style.GUIDE_COLOUR, linewidth=style.LINE / 2, zorder=1)
    drawn = []
    if line is not None:
        panel.axhline(line, linestyle="--", color=style.GUIDE_COLOUR, gid="threshold", zorder=1)
        along = np.linspace(*panel.get_xlim(), 60)
        drawn.append(np.column_stack([along, np.full(along.size, line)]))
    x, y = table["effect"].to_numpy(np.float64), log10_p(table)
    classes = zip(
        ("other", "lower", "higher"),
        _classes(table, fdr),
        (style.OTHER_COLOUR, style.LOWER_COLOUR, style.HIGHER_COLOUR),
        _class_names(table, fdr),
        strict=True,
    )
    for gid, rows, colour, name in classes:
        at = np.flatnonzero(rows)
        # Where points lie on the page decides which of them lie on others.
        at = at[thin_grid(*panel.transScale.transform(np.column_stack([x[at], y[at]])).T)]
        panel.plot(
            x[at],
            y[at],
            "o",
            color=colour,
            markersize=size,
            markeredgewidth=0,
            label=name,
            gid=gid,
            zorder=2 if gid == "other" else 3,
            rasterized=at.size > style.MAX_VECTOR_POINTS,
        )
        drawn.append(np.column_stack([x[at], y[at]]))
    return np.concatenate(drawn)


def _threshold(table: pd.DataFrame, fdr: float) -> float | None:
    """Give -log10 of the largest significant p, or None without a significant test."""
    significant = table["fdr"].to_numpy(np.float64) <= fdr
    return float(log10_p(table)[significant].min()) if significant.any() else None


def _frame(panel: Axes, table: pd.DataFrame) -> None:
    """Set scale and limits with room for names: zero in the middle, a margin above."""
    width = float(np.abs(table["effect"].to_numpy(np.float64)).max()) or 1.0
    panel.set_xlim(-1.25 * width, 1.25 * width)
    highest = float(log10_p(table).max()) or 1.0
    if _is_tall(table):
        style.compressed_axis(panel, _LINEAR_TO, highest)
    # In proportion to the height on the page; below 0 a little, so that p = 1 is whole.
    scale = panel.yaxis.get_transform()
    top = scale.transform(np.array([highest]))
    bottom, top = scale.inverted().transform(np.concatenate([-0.02 * top, 1.15 * top]))
    panel.set_ylim(bottom, top)


def _most_significant(table: pd.DataFrame, fdr: float, n: int) -> pd.DataFrame:
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
