"""Contrasts of a linear model: volcano plots and mean-difference plots."""

from collections.abc import Mapping

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.by_target import frame_md, md_guides
from condrand.plots.labels import place_labels
from condrand.plots.points import FOLD_CHANGE, shorten, tested, titled
from condrand.plots.volcano import (
    EMPTY,
    Kind,
    draw_tests,
    legend,
    most_significant,
    place_volcano,
    small_multiples,
    volcano_kind,
)

MAX_CONTRASTS = 20
_N_LABELS = 12
# The dashed line of a volcano plot: p values below it would be significant for one test alone.
_SINGLE_P = 0.05


@style.styled
def volcano_by_contrast(
    tables: Mapping[str, pd.DataFrame], *, fdr: float, title: str = ""
) -> Figure:
    """Draw fold change against -log10 p of each contrast.

    Parameters
    ----------
    tables
        All features of each contrast by its name: columns ``logFC``, ``AveExpr``, ``P.Value``,
        ``adj.P.Val`` and ``neg_log10_p``, names of features as index
        (:func:`condrand.linear.tables.top_table`, ``number=None``). Rows with NaN are not
        drawn.
    fdr
        Largest adjusted p value called significant.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per contrast, in the order given; the first 20. Artists by gid: 'higher',
        'lower', 'other', 'threshold' (a line at p = 0.05, not adjusted), 'label'. The 12 most
        significant features of a single contrast are named, 5 in each panel of several.
    """
    rows = place_volcano(_effects(tables))
    return _draw(tables, rows, volcano_kind(rows, -np.log10(_SINGLE_P)), fdr, title)


@style.styled
def md_by_contrast(tables: Mapping[str, pd.DataFrame], *, fdr: float, title: str = "") -> Figure:
    """Draw fold change against average expression of each contrast.

    Parameters
    ----------
    tables, fdr, title
        As for :func:`volcano_by_contrast`.

    Returns
    -------
    matplotlib.figure.Figure
        Panels and gids as in :func:`volcano_by_contrast`, without 'threshold'.
    """
    rows = tested(_effects(tables), "average")
    rows = rows[np.isfinite(rows[["effect", "average"]].to_numpy(np.float64)).all(axis=1)]
    rows = rows.assign(x=rows["average"], y=rows["effect"], beyond=False)
    labels = "Average log₂ expression", FOLD_CHANGE
    return _draw(tables, rows, Kind(labels, frame_md, md_guides, ("v", "^")), fdr, title)


def _effects(tables: Mapping[str, pd.DataFrame]) -> pd.DataFrame:
    """Give the tests of contrasts as rows of the table that other figures draw."""
    parts = [
        pd.DataFrame(
            {
                "screen": "",
                "analysis": "",
                "target": str(name),
                "feature": table.index.astype(str),
                "effect": table["logFC"].to_numpy(np.float64),
                "effect_scale": FOLD_CHANGE,
                "p_value": table["P.Value"].to_numpy(np.float64),
                "neg_log10_p": table["neg_log10_p"].to_numpy(np.float64),
                "fdr": table["adj.P.Val"].to_numpy(np.float64),
                "p_source": "",
                "average": table["AveExpr"].to_numpy(np.float64),
            }
        )
        for name, table in list(tables.items())[:MAX_CONTRASTS]
    ]
    return pd.concat(parts, ignore_index=True) if parts else pd.DataFrame()


def _draw(
    tables: Mapping[str, pd.DataFrame], rows: pd.DataFrame, kind: Kind, fdr: float, title: str
) -> Figure:
    names = [str(name) for name in tables][:MAX_CONTRASTS]
    if len(names) == 1:
        return _single(rows, kind, fdr, titled(title, names[0], most=60))
    if len(tables) > MAX_CONTRASTS:
        title += f": {MAX_CONTRASTS} of {len(tables):,} contrasts"
    titles = {name: (name, _counts(rows[rows["target"] == name], fdr)) for name in names}
    return small_multiples(rows, titles, fdr, kind, title=title, panel_of="target")


def _single(rows: pd.DataFrame, kind: Kind, fdr: float, title: str) -> Figure:
    figure, axes = style.new_figure(style.WIDE, 4.0)
    panel = axes[0, 0]
    panel.set_xlabel(kind.labels[0])
    panel.set_ylabel(kind.labels[1])
    if rows.empty:
        style.title_above(figure, title)
        style.say_empty(panel, EMPTY)
        return figure
    kind.frame(panel, rows)
    drawn = draw_tests(panel, rows, fdr, kind, size=2.5)
    legend(figure, panel, rows, fdr, kind, title)
    style.freeze_layout(figure)
    best = most_significant(rows, fdr, _N_LABELS)
    names = [shorten(name, 20) for name in best["feature"]]
    place_labels(panel, best["x"].to_numpy(), best["y"].to_numpy(), names, drawn)
    return figure


def _counts(rows: pd.DataFrame, fdr: float) -> str:
    significant = rows["effect"].to_numpy(np.float64)[rows["fdr"].to_numpy(np.float64) <= fdr]
    n_down = np.count_nonzero(significant < 0.0)
    return f"  ↓{n_down:,} ↑{significant.size - n_down:,}"
