"""Genes along the cell states: smoothed expression of both conditions, and its change."""

from collections.abc import Sequence

import matplotlib
import numpy as np
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.cell_states import (
    CHANGES,
    NO_CELLS,
    Places,
    change_norm,
    colour_bar,
    frame_places,
    not_drawn,
)
from condrand.plots.labels import fit
from condrand.plots.points import shorten

# Rows of a figure that is still looked at.
MAX_GENES = 20
_LEVELS = "viridis"
# Of a row, in inches; of the name of a gene, and of the title of a panel, in points.
_HEIGHT, _NAME, _TITLE = 1.55, 80.0, 135.0


@style.styled
def smoothed_panels(
    places: np.ndarray,
    first: np.ndarray,
    second: np.ndarray,
    genes: Sequence[str],
    *,
    levels: tuple[str, str],
    place_name: str,
    scale: str,
    title: str = "",
) -> Figure:
    """Draw the expression of genes that both conditions would have in every cell, and its change.

    Parameters
    ----------
    places : float64 array, shape (n, 2)
        Where cells are drawn.
    first, second : float64 array, shape (n, n_genes)
        Smoothed expression of the two conditions.
    genes
        Their names; the first 20 are drawn.
    levels
        Names of the two conditions, the first one first.
    place_name
        What the coordinates are.
    scale
        Of the expression.
    title
        Heading of the figure, which also says how many cells cannot be drawn.

    Returns
    -------
    matplotlib.figure.Figure
        A row of three panels per gene, the two conditions with the same colours. Artists by gid:
        'first', 'second', 'change', the points of the panels.
    """
    n_genes = min(len(genes), MAX_GENES)
    figure, axes = style.new_figure(
        style.PAGE, 0.7 + _HEIGHT * max(1, n_genes), n_rows=max(1, n_genes), n_columns=3
    )
    places = np.asarray(places, np.float64)
    values = np.stack([np.asarray(part, np.float64)[:, :n_genes] for part in (first, second)])
    drawable = np.isfinite(places).all(axis=1) & np.isfinite(values).all(axis=(0, 2))
    title += not_drawn(drawable)
    if n_genes < len(genes):
        title += f": {n_genes} of {len(genes):,} genes"
    lines = [title, f"Expression: {shorten(scale, 90)}" if scale else ""]
    if any(lines):
        style.title_above(figure, "\n".join(line for line in lines if line))
    for panel in axes.flat:
        frame_places(panel, "")
    if not n_genes or not drawable.any():
        for panel in axes.flat[1:]:
            panel.remove()
        style.say_empty(axes[0, 0], "there is no gene to draw" if not n_genes else NO_CELLS)
        return figure
    if place_name:
        figure.supxlabel(f"{shorten(place_name, 40)} 1")
        figure.supylabel(f"{shorten(place_name, 40)} 2")
    drawn = Places.of(places, drawable, 1.6, 3 * n_genes)
    ends = [shorten(level, 12) for level in levels]
    for g, (row, gene) in enumerate(zip(axes, genes[:n_genes], strict=True)):
        one, two = values[:, :, g]
        both = values[:, drawable, g]
        levels_norm = _level_norm(both)
        colours = matplotlib.colormaps[_LEVELS]
        drawn.draw(row[0], one, colours, levels_norm, gid="first")
        points = drawn.draw(row[1], two, colours, levels_norm, gid="second")
        colour_bar(figure, [row[1]], points, "Smoothed expression", both)
        change = both[1] - both[0]
        points = drawn.draw(
            row[2], two - one, matplotlib.colormaps[CHANGES], change_norm(change), gid="change"
        )
        colour_bar(figure, [row[2]], points, "Difference", change)
        name = fit(gene, _NAME, size=style.FONT)
        for panel, what in zip(row, (*ends, f"{ends[1]} − {ends[0]}"), strict=True):
            panel.set_title(fit(f"{name} · {what}", _TITLE, size=style.FONT), pad=3)
    return figure


def _level_norm(values: np.ndarray) -> Normalize:
    """Give the colours of both conditions, all but the last percent inside."""
    low, high = (float(q) for q in np.quantile(values, (0.01, 0.99)))
    if low == high:
        low, high = float(values.min()), float(values.max())
    if low == high:
        # One value everywhere: in the middle of the colours.
        margin = 0.5 * max(abs(low), 1.0)
        low, high = low - margin, high + margin
    return Normalize(low, high)
