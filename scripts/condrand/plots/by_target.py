"""Targets one by one: volcano plots and mean-difference plots."""

from collections.abc import Iterator

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import place_labels
from condrand.plots.points import (
    FOLD_CHANGE,
    beyond,
    fold_changes,
    heading,
    natural_key,
    shorten,
    tested,
)
from condrand.plots.volcano import (
    EMPTY,
    MARGIN,
    Kind,
    at_edge,
    draw_tests,
    largest,
    legend,
    most_significant,
    place_volcano,
    small_multiples,
    threshold,
    volcano_kind,
)

MAX_PAGES = 200
_MAX_TARGETS = 12
_N_PAGE_LABELS = 6
# The images of all pages are held in memory until the file is closed.
_MAX_PAGE_VECTOR = 20_000
# A panel of a page is some 250 points wide: of tests nearer to each other than one point, one.
_THINNED = {"cells": 250, "least": 1000}
# Added to a mean before its log: about one count in a thousand cells. A smaller constant would
# spread features that are hardly seen over most of the axis.
_ADDED = 0.001
_MD_COLUMNS = ("note", "log2_fold_change", "target_mean", "control_mean")


@style.styled
def volcano_by_target(
    effects: pd.DataFrame, ranked: pd.DataFrame, *, fdr: float, max_targets: int = _MAX_TARGETS
) -> Figure:
    """Draw one small volcano per target, of the targets with most effects.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract.
    ranked
        From :func:`condrand.ranking.ranked_targets`, of the same effects.
    fdr
        Largest false discovery rate over all tests called significant.
    max_targets
        Largest number of panels; the title says how many targets are not shown.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per target, in natural order, titled with its name and the numbers of its
        effects, down and up. All panels have the same axes. Gids as in
        :func:`.volcano.volcano`; the 5 most significant features are named.
    """
    shown = _shown(ranked, max_targets)
    table = place_volcano(_rows_of(effects, shown))
    return small_multiples(
        table,
        _titles(ranked, shown),
        fdr,
        volcano_kind(table, threshold(effects, fdr)),
        title=_heading(effects, ranked, shown),
        panel_of="target",
    )


@style.styled
def md_by_target(
    effects: pd.DataFrame, ranked: pd.DataFrame, *, fdr: float, max_targets: int = _MAX_TARGETS
) -> Figure:
    """Draw fold change against average expression, of the targets with most effects.

    Parameters
    ----------
    effects
        As for :func:`volcano_by_target`, with columns ``log2_fold_change``, ``target_mean`` and
        ``control_mean``.
    ranked, fdr, max_targets
        As for :func:`volcano_by_target`.

    Returns
    -------
    matplotlib.figure.Figure
        Panels and gids as in :func:`volcano_by_target`.

    Notes
    -----
    Where an effect has no fold change, because values may be negative, the axes are the mean of
    the two means and the effect.
    """
    shown = _shown(ranked, max_targets)
    table, kind = _place_md(_rows_of(effects, shown))
    return small_multiples(
        table,
        _titles(ranked, shown),
        fdr,
        kind,
        title=_heading(effects, ranked, shown),
        panel_of="target",
    )


def target_pages(effects: pd.DataFrame, ranked: pd.DataFrame, *, fdr: float) -> Iterator[Figure]:
    """Give one page per target: its volcano plot and its mean-difference plot.

    Parameters
    ----------
    effects, ranked, fdr
        As for :func:`md_by_target`.

    Yields
    ------
    matplotlib.figure.Figure
        In the order of ``ranked``, at most ``MAX_PAGES``; a page that says so if no target was
        tested. Gids as in :func:`volcano_by_target`.
    """
    shown = _shown(ranked, MAX_PAGES)
    rows = _rows_of(effects, shown)
    line = threshold(effects, fdr)
    codes = pd.Categorical(rows["target"], categories=shown).codes
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(len(shown) + 1))
    facts = ranked.set_index("target")
    for i, target in enumerate(shown):
        fact = facts.loc[target]
        title = (
            f"{heading(effects)} · {shorten(target, 40)}{_counts(fact)}\n"
            f"{fact['n_target']:,} cells against {fact['n_control']:,}"
        )
        yield _page(rows.iloc[order[ends[i] : ends[i + 1]]], title, fdr, line)
    if not shown:
        yield _page(rows, heading(effects), fdr, line)


@style.styled
def _page(rows: pd.DataFrame, title: str, fdr: float, line: float | None) -> Figure:
    figure, axes = style.new_figure(style.PAGE, 4.0, n_columns=2)
    scatter = place_volcano(rows)
    plots = ((scatter, volcano_kind(scatter, line)), _place_md(rows))
    drawn = []
    for panel, (table, kind) in zip(axes.flat, plots, strict=True):
        panel.set_xlabel(kind.labels[0])
        panel.set_ylabel(kind.labels[1])
        if table.empty:
            style.say_empty(panel, EMPTY)
            continue
        kind.frame(panel, table)
        drawn.append(
            (
                panel,
                table,
                kind,
                draw_tests(
                    panel, table, fdr, kind, size=2.5, max_vector=_MAX_PAGE_VECTOR, **_THINNED
                ),
            )
        )
    if not drawn:
        style.title_above(figure, title)
        return figure
    panel, table, kind, _ = drawn[0]
    legend(figure, panel, table, fdr, kind, title)
    style.freeze_layout(figure)
    for panel, table, _, obstacles in drawn:
        best = most_significant(table, fdr, _N_PAGE_LABELS)
        names = [shorten(name, 20) for name in best["feature"]]
        place_labels(panel, best["x"].to_numpy(), best["y"].to_numpy(), names, obstacles)
    return figure


def _shown(ranked: pd.DataFrame, n: int) -> list[str]:
    return ranked.loc[ranked["n_tested"] > 0, "target"].head(n).tolist()


def _rows_of(effects: pd.DataFrame, targets: list[str]) -> pd.DataFrame:
    """Give the tests of some targets; of a large table no more than these are copied."""
    if effects.empty:
        return tested(effects, *_MD_COLUMNS)
    return tested(effects.loc[effects["target"].isin(targets)], *_MD_COLUMNS)


def _titles(ranked: pd.DataFrame, shown: list[str]) -> dict[str, tuple[str, str]]:
    facts = ranked.set_index("target")
    return {
        target: (target, _counts(facts.loc[target])) for target in sorted(shown, key=natural_key)
    }


def _counts(fact: pd.Series) -> str:
    return f"  ↓{fact['n_down']:,} ↑{fact['n_up']:,}"


def _heading(effects: pd.DataFrame, ranked: pd.DataFrame, shown: list[str]) -> str:
    n_hidden = len(ranked) - len(shown)
    if not n_hidden:
        return heading(effects)
    return f"{heading(effects)}: {len(shown)} targets with most effects, {n_hidden:,} not shown"


def _place_md(rows: pd.DataFrame) -> tuple[pd.DataFrame, Kind]:
    """Give the tests of a mean-difference plot and where they are drawn."""
    change, scale = fold_changes(rows)
    means = rows[["target_mean", "control_mean"]].to_numpy(np.float64)
    if scale == FOLD_CHANGE:
        means = np.log2(means + _ADDED)
        label = f"Average of log₂(mean + {_ADDED:g}), target and control"
    else:
        label = "Average of the means of target and control"
    average = means.mean(axis=1)
    drawable = np.isfinite(change) & np.isfinite(average)
    rows, change, average = rows[drawable], change[drawable], average[drawable]
    outside = beyond(rows, change, scale)
    table = rows.assign(x=average, y=at_edge(change, outside), beyond=outside)
    return table, Kind((label, scale), frame_md, md_guides, ("v", "^"))


def frame_md(panel: Axes, table: pd.DataFrame) -> None:
    """Set the limits of a mean-difference plot, symmetric about 0.

    Parameters
    ----------
    panel
        Changed in place.
    table
        Columns ``x``, ``y`` and ``beyond``; those beyond do not widen it.
    """
    x, y = table["x"].to_numpy(np.float64), table["y"].to_numpy(np.float64)
    height = largest(y[~table["beyond"].to_numpy(bool)])
    panel.set_ylim(-MARGIN * height, MARGIN * height)
    low, high = float(x.min()), float(x.max())
    margin = 0.06 * (high - low) or 1.0
    panel.set_xlim(low - margin, high + margin)


def md_guides(panel: Axes) -> np.ndarray:
    """Draw the line of no difference, and give points on it, shape (60, 2).

    Parameters
    ----------
    panel
        Changed in place; its limits are final.
    """
    panel.axhline(0.0, color=style.GUIDE_COLOUR, linewidth=style.LINE / 2, zorder=1)
    along = np.linspace(*panel.get_xlim(), 60)
    return np.column_stack([along, np.zeros(along.size)])
