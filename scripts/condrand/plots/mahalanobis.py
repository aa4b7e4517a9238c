"""Genes by how far their expression differs over all cell states."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from condrand.plots import style
from condrand.plots.labels import place_labels
from condrand.plots.points import effect_label, heading, shorten, tested
from condrand.plots.volcano import (
    EMPTY,
    MARGIN,
    Kind,
    draw_tests,
    largest,
    legend,
    line_guides,
    place_volcano,
    threshold,
    volcano_kind,
)

_DISTANCE = "Mahalanobis distance"
_N_LABELS = 10
_N_BINS = 40
# Above a row of genes with the smallest p that the null can give, their names have their place.
_ROOM = 1.4
# Share of the null below the line.
_NULL_SHARE = 0.95


@style.styled
def expression_volcano(effects: pd.DataFrame, *, fdr: float) -> Figure:
    """Draw the mean log fold change of genes against -log10 p.

    Parameters
    ----------
    effects
        One row per gene, columns of the results contract; ``statistic`` is the distance. Rows
        without a p value or without an effect are not drawn.
    fdr
        Largest false discovery rate called significant, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Gids as in :func:`.volcano.volcano`. The 10 significant genes of the largest
        distances are named, where there is room.
    """
    table = place_volcano(effects)
    if len(table):
        table = table.assign(statistic=effects.loc[table.index, "statistic"])
    figure, axes = style.new_figure(style.WIDE, 4.0)
    kind = volcano_kind(table, threshold(table, fdr))
    kind = replace(kind, frame=partial(_frame_tests, frame=kind.frame))
    _draw_genes(figure, axes[0, 0], table, kind, fdr, heading(effects))
    return figure


@style.styled
def mahalanobis(effects: pd.DataFrame, null: np.ndarray, *, fdr: float) -> Figure:
    """Draw the mean log fold change of genes against their distance, beside those of the null.

    Parameters
    ----------
    effects
        As for :func:`expression_volcano`; rows without a distance are not drawn either.
    null : float64 array, shape (n_null,)
        Distances without an effect; may be empty.
    fdr
        Largest false discovery rate called significant, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels with one logarithmic axis of distances. Artists by gid: 'higher', 'lower',
        'other', 'label' as in :func:`expression_volcano`; 'threshold' (below it are 95 % of the
        null), 'null' and 'genes' (histograms).

    Notes
    -----
    A distance of 0 is drawn at the smallest one above 0.
    """
    null = np.asarray(null, np.float64)
    null = null[np.isfinite(null)]
    table = tested(effects, "statistic")
    distances = table["statistic"].to_numpy(np.float64) if len(table) else np.empty(0)
    known = np.isfinite(distances) & np.isfinite(table["effect"].to_numpy(np.float64))
    positive = np.concatenate([distances[known], null])
    positive = positive[positive > 0.0]
    low, high = (positive.min(), positive.max()) if positive.size else (1.0, 1.0)
    table, distances = table[known], np.maximum(distances[known], low)
    table = table.assign(x=table["effect"], y=distances, beyond=False)

    figure, axes = style.new_figure(style.PAGE, 4.5, n_columns=2)
    left, right = axes[0]
    left.get_gridspec().set_width_ratios((3.0, 1.0))
    line = float(np.quantile(null, _NULL_SHARE)) if null.size else None
    kind = Kind(
        (effect_label(table), _DISTANCE),
        partial(_frame_distances, low=low, high=high),
        partial(line_guides, line=line),
        ("<", ">"),
    )
    if table.empty:
        right.remove()
    else:
        style.log_axis(right, "y", low, high)
        _histograms(right, distances, null, line)
    _draw_genes(figure, left, table, kind, fdr, heading(effects))
    return figure


def _draw_genes(
    figure: Figure, panel: Axes, table: pd.DataFrame, kind: Kind, fdr: float, title: str
) -> None:
    """Draw genes as points, with a legend above, and name those that differ most."""
    panel.set_xlabel(kind.labels[0])
    panel.set_ylabel(kind.labels[1])
    if table.empty:
        style.say_empty(panel, EMPTY)
        if title:
            style.title_above(figure, title)
        return
    kind.frame(panel, table)
    drawn = draw_tests(panel, table, fdr, kind, size=2.5)
    legend(figure, panel, table, fdr, kind, title)
    style.freeze_layout(figure)
    rows = table[table["fdr"].to_numpy(np.float64) <= fdr]
    # By distance: p values counted from a null are often equal.
    order = np.argsort(-rows["statistic"].to_numpy(np.float64), kind="stable")
    best = rows.iloc[order[:_N_LABELS]]
    names = [shorten(name, 20) for name in best["feature"]]
    place_labels(panel, best["x"].to_numpy(), best["y"].to_numpy(), names, drawn)


def _frame_tests(panel: Axes, table: pd.DataFrame, *, frame: Callable) -> None:
    """Set the limits of a volcano plot, with room above a row of equal p values."""
    frame(panel, table)
    y = table["y"].to_numpy(np.float64)
    if panel.get_yscale() == "linear" and np.count_nonzero(y == y.max()) > 1:
        panel.set_ylim(top=_ROOM * float(y.max()) or 1.0)


def _frame_distances(panel: Axes, table: pd.DataFrame, *, low: float, high: float) -> None:
    width = largest(table["x"].to_numpy(np.float64))
    panel.set_xlim(-MARGIN * width, MARGIN * width)
    style.log_axis(panel, "y", low, high)


def _histograms(panel: Axes, distances: np.ndarray, null: np.ndarray, line: float | None) -> None:
    """Draw what share of the genes, and of the null, lies in each range of distances."""
    panel.set_xlabel("Share of genes")
    edges = np.geomspace(*panel.get_ylim(), _N_BINS + 1)
    handles, names = [], []
    if null.size:
        shares = np.histogram(np.clip(null, edges[0], edges[-1]), edges)[0] / null.size
        panel.stairs(
            shares, edges, orientation="horizontal", fill=True, color="#BBBBBB", gid="null"
        )
        handles.append(Patch(color="#BBBBBB", linewidth=0))
        names.append(f"null ({null.size:,})")
    shares = np.histogram(distances, edges)[0] / distances.size
    panel.stairs(
        shares, edges, orientation="horizontal", color=style.BLACK, linewidth=1.0, gid="genes"
    )
    handles.append(Line2D([], [], color=style.BLACK, linewidth=1.0))
    names.append(f"genes ({distances.size:,})")
    if line is not None:
        panel.axhline(line, linestyle="--", color=style.GUIDE_COLOUR, gid="threshold", zorder=3)
        handles.append(Line2D([], [], linestyle="--", color=style.GUIDE_COLOUR))
        names.append(f"{100 * _NULL_SHARE:g} % of the null\nlie below")
    panel.set_xlim(left=0.0)
    panel.xaxis.set_major_locator(MaxNLocator(4))
    # Above the panel: inside it would lie over the bars of a few far genes.
    panel.legend(handles, names, loc="lower left", bbox_to_anchor=(0.0, 1.0))
