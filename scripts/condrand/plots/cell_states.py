"""Cells where they lie: coloured by a change of abundance, and by its direction."""

from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import Colormap, Normalize
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from condrand.plots import style
from condrand.plots.points import shorten, thin_grid

# Told apart by colour-blind readers, red higher as in the other figures; grey in the middle: cells
# without a change must be seen on white paper.
CHANGES = "coolwarm"
NO_CELLS = "no cell has a place and a value"
# So many of the cells keep their own colour; the few largest changes share the last one.
_COLOUR_QUANTILE = 0.98
# Cells of the grid in which one point is drawn, by point (1/72 inch) of the panel's width.
_GRID_PER_POINT = 1.5
# By code, in the order drawn: the few cells with a change must not lie beneath the others.
_DIRECTIONS = (
    (0, "neutral", style.OTHER_COLOUR),
    (-1, "down", style.LOWER_COLOUR),
    (1, "up", style.HIGHER_COLOUR),
)


@dataclass(frozen=True)
class Places:
    """Cells that are drawn, and how.

    Attributes
    ----------
    rows : int64 array, shape (n_drawn,)
        Cells in the order they are drawn in.
    x, y : float64 array, shape (n_drawn,)
        Where they lie.
    size : float
        Diameter of a point, in points.
    rasterized : bool
        Whether vector files hold the points as an image.
    """

    rows: np.ndarray
    x: np.ndarray
    y: np.ndarray
    size: float
    rasterized: bool

    @classmethod
    def of(cls, places: np.ndarray, drawable: np.ndarray, width: float, n_panels: int) -> "Places":
        """Choose the cells to draw.

        Parameters
        ----------
        places : float64 array, shape (n, 2)
        drawable : bool array, shape (n,)
            Cells that may be drawn.
        width
            Of a panel, in inches.
        n_panels
            In how many of them the cells are drawn.

        Returns
        -------
        Places
            In an order dealt by chance, the same each time: cells of a file are mostly sorted by
            sample, and the last sample would hide the others. Of many cells at one spot the first
            is drawn.
        """
        rows = np.flatnonzero(drawable)
        rows = rows[np.random.default_rng(0).permutation(rows.size)]
        points = 72.0 * width
        x, y = np.asarray(places, np.float64)[rows].T.reshape(2, -1)
        at = thin_grid(x, y, cells=int(_GRID_PER_POINT * points))
        # Points that together would cover about a fifth of the panel.
        size = float(np.clip(0.5 * points / np.sqrt(max(at.size, 1)), 0.8, 4.0))
        rasterized = n_panels * at.size > style.MAX_VECTOR_POINTS
        return cls(rows[at], x[at], y[at], size, rasterized)

    def draw(
        self, panel: Axes, values: np.ndarray, colours: Colormap, norm: Normalize, gid: str
    ) -> PathCollection:
        """Draw cells as points, coloured by a value.

        Parameters
        ----------
        panel
            Changed in place.
        values : float64 array, shape (n,)
            Of all cells.
        colours, norm
            From values to colours.
        gid
            Of the artist.
        """
        return panel.scatter(
            self.x,
            self.y,
            s=self.size**2,
            c=np.asarray(values, np.float64)[self.rows],
            cmap=colours,
            norm=norm,
            linewidths=0,
            gid=gid,
            rasterized=self.rasterized,
        )


@style.styled
def abundance_embedding(
    places: np.ndarray,
    log_fold_change: np.ndarray,
    direction: np.ndarray,
    *,
    levels: tuple[str, str],
    place_name: str,
    title: str = "",
) -> Figure:
    """Draw where among the cell states a condition has more cells, or fewer.

    Parameters
    ----------
    places : float64 array, shape (n, 2)
        Where cells are drawn.
    log_fold_change : float64 array, shape (n,)
        Change of the log density (natural log) from the first condition to the second.
    direction : int array, shape (n,)
        -1, 0 or 1.
    levels
        Names of the two conditions, the first one first.
    place_name
        What the coordinates are.
    title
        Heading of the figure, which also says how many cells cannot be drawn.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels with equal units on both axes, and a colour bar. Artists by gid: 'change' and
        'direction', the points of either panel.
    """
    figure, axes = style.new_figure(style.PAGE, 3.6, n_columns=2)
    left, right = axes[0]
    drawable = np.isfinite(places).all(axis=1) & np.isfinite(log_fold_change)
    title += not_drawn(drawable)
    left.set_title("Change of abundance", pad=3)
    right.set_title("Direction", pad=3)
    for panel in axes[0]:
        frame_places(panel, place_name)
    if not drawable.any():
        for panel in axes[0]:
            style.say_empty(panel, NO_CELLS)
        if title:
            style.title_above(figure, title)
        return figure
    drawn = Places.of(places, drawable, 3.0, 2)
    changes = change_norm(log_fold_change[drawable])
    points = drawn.draw(
        left, log_fold_change, matplotlib.colormaps[CHANGES], changes, gid="change"
    )
    # On two lines, so that long names of conditions have room along the bar.
    label = abundance_label(levels).replace(", ", "\n", 1)
    colour_bar(figure, [left], points, label, log_fold_change[drawable])
    colours = matplotlib.colors.ListedColormap(
        [style.LOWER_COLOUR, style.OTHER_COLOUR, style.HIGHER_COLOUR]
    )
    drawn.draw(right, direction, colours, Normalize(-1.0, 1.0), gid="direction")
    direction_legend(figure, direction[drawable], levels, title)
    return figure


def frame_places(panel: Axes, place_name: str) -> None:
    """Name the axes of a panel of cells.

    Parameters
    ----------
    panel
        Changed in place. It has no numbers: units of an embedding mean nothing.
    place_name
        What the coordinates are; '' for no names.
    """
    panel.set_xticks([])
    panel.set_yticks([])
    # A distance on the page must not depend on its direction.
    panel.set_aspect("equal", adjustable="datalim")
    panel.margins(0.04)
    if place_name:
        panel.set_xlabel(f"{shorten(place_name, 40)} 1")
        panel.set_ylabel(f"{shorten(place_name, 40)} 2")


def not_drawn(drawable: np.ndarray) -> str:
    """Give what a title says of cells without a place or a value, '' if there are none."""
    n = np.count_nonzero(~np.asarray(drawable))
    return f"  ({n:,} {'cell' if n == 1 else 'cells'} without a value not drawn)" if n else ""


def abundance_label(levels: tuple[str, str]) -> str:
    """Give the label of a change of abundance between two conditions, with its unit."""
    first, second = (shorten(level, 16) for level in levels)
    return f"Log fold change of density, {second} / {first} (natural log)"


def change_norm(values: np.ndarray) -> Normalize:
    """Give colours symmetric about 0.

    Parameters
    ----------
    values : float64 array
        Finite.

    Returns
    -------
    matplotlib.colors.Normalize
        All but a few of the values lie inside.
    """
    sizes = np.abs(values)
    limit = float(np.quantile(sizes, _COLOUR_QUANTILE)) if sizes.size else 0.0
    # Of a gene that changes in fewer cells than those the quantile leaves out.
    limit = limit or float(sizes.max(initial=0.0)) or 1.0
    return Normalize(-limit, limit)


def colour_bar(
    figure: Figure, panels: list[Axes], points: PathCollection, label: str, values: np.ndarray
) -> None:
    """Put a colour bar beside panels.

    Parameters
    ----------
    figure
        Changed in place.
    panels
        Those that the bar belongs to.
    points
        Drawn with the colours.
    label
        What the colours mean, with the unit.
    values : float64 array
        Finite; where some are beyond the colours, the bar has pointed ends.
    """
    low, high = values.min() < points.norm.vmin, values.max() > points.norm.vmax
    bar = figure.colorbar(
        points,
        ax=panels,
        extend=("neither", "min", "max", "both")[int(low) + 2 * int(high)],
        shrink=0.9,
        aspect=18,
        pad=0.02,
        label=label,
    )
    bar.outline.set_visible(False)
    bar.solids.set_rasterized(False)
    bar.ax.tick_params(labelsize=style.SMALL_FONT, width=style.LINE, length=2.5, pad=2)


def direction_legend(
    figure: Figure, direction: np.ndarray, levels: tuple[str, str], title: str
) -> None:
    """Put a legend of directions above the panels, with the number of cells of each.

    Parameters
    ----------
    figure
        Changed in place.
    direction : int array
        -1, 0 or 1, of the cells drawn.
    levels
        Names of the two conditions.
    title
        Heading of the figure.
    """
    second = shorten(levels[1], 20)
    words = {0: "neutral", -1: f"down in {second}", 1: f"up in {second}"}
    # Marks of their own: those of the panel may be too small to tell their colour.
    handles = [
        Line2D([], [], linestyle="none", marker="o", color=colour, markersize=4, markeredgewidth=0)
        for _, _, colour in _DIRECTIONS
    ]
    names = [
        f"{words[code]} ({np.count_nonzero(direction == code):,} cells)"
        for code, _, _ in _DIRECTIONS
    ]
    style.legend_above(figure, handles, names, title, 3)


def directions(direction: np.ndarray) -> list[tuple[str, str, np.ndarray]]:
    """Give gid, colour and cells of each direction, those below the others first.

    Parameters
    ----------
    direction : int array, shape (n,)
        -1, 0 or 1.
    """
    return [(gid, colour, np.flatnonzero(direction == code)) for code, gid, colour in _DIRECTIONS]
