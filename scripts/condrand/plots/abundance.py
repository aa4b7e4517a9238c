"""Cells by the change of their abundance: its size against its certainty."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.cell_states import (
    NO_CELLS,
    abundance_label,
    direction_legend,
    directions,
    not_drawn,
)
from condrand.plots.volcano import MARGIN, draw_points, largest

_TAIL = "−log₁₀ posterior tail probability"
# As volcano plots of tests: heights above the first make the axis logarithmic from the second on.
_TALL, _LINEAR_TO = 50.0, 10.0


@style.styled
def abundance_volcano(
    log_fold_change: np.ndarray,
    neg_log10_ptp: np.ndarray,
    direction: np.ndarray,
    *,
    levels: tuple[str, str],
    threshold: float,
    ptp: float,
    title: str = "",
) -> Figure:
    """Draw the change of abundance of cells against how certain its sign is.

    Parameters
    ----------
    log_fold_change : float64 array, shape (n,)
        Change of the log density (natural log) from the first condition to the second.
    neg_log10_ptp : float64 array, shape (n,)
        -log10 of the posterior probability of the other sign.
    direction : int array, shape (n,)
        -1, 0 or 1.
    levels
        Names of the two conditions, the first one first.
    threshold, ptp
        Smallest change, and largest tail probability, with a direction.
    title
        Heading of the figure, which also says how many cells cannot be drawn.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'neutral', 'down', 'up' (points), 'threshold' (three lines).

    Notes
    -----
    From 20,000 cells of a direction on, points that would lie on others are left out; the numbers
    in the legend count all of them. If the tail probability is below 1e-50 anywhere, its axis is
    linear up to 10 and logarithmic above, and its label says so.
    """
    figure, axes = style.new_figure(style.WIDE, 4.0)
    panel = axes[0, 0]
    x, y = np.asarray(log_fold_change, np.float64), np.asarray(neg_log10_ptp, np.float64)
    drawable = np.isfinite(x) & np.isfinite(y)
    title += not_drawn(drawable)
    x, y, direction = x[drawable], y[drawable], np.asarray(direction)[drawable]
    tall = bool(y.max(initial=0.0) > _TALL)
    panel.set_xlabel(abundance_label(levels))
    panel.set_ylabel(_TAIL + (f" (compressed above {_LINEAR_TO:g})" if tall else ""))
    if not x.size:
        style.say_empty(panel, NO_CELLS)
        if title:
            style.title_above(figure, title)
        return figure
    _frame(panel, x, y, threshold, tall)
    lines = {"linestyle": "--", "color": style.GUIDE_COLOUR, "gid": "threshold", "zorder": 1}
    panel.axhline(-np.log10(ptp), **lines)
    for edge in (-threshold, threshold):
        panel.axvline(edge, **lines)
    size = float(np.clip(100.0 / np.sqrt(x.size), 1.0, 2.5))
    for gid, colour, rows in directions(direction):
        draw_points(panel, x, y, rows, color=colour, markersize=size, gid=gid, zorder=2)
    direction_legend(figure, direction, levels, title)
    return figure


def _frame(panel: Axes, x: np.ndarray, y: np.ndarray, threshold: float, tall: bool) -> None:
    """Set scale and limits: zero in the middle, both thresholds inside."""
    width = max(largest(x), threshold)
    panel.set_xlim(-MARGIN * width, MARGIN * width)
    highest = max(float(y.max()), 2.0)
    if tall:
        style.compressed_axis(panel, _LINEAR_TO, highest)
    # In proportion to the height on the page; below 0 a little, so that points there are whole.
    scale = panel.yaxis.get_transform()
    top = scale.transform(np.array([highest]))
    panel.set_ylim(*scale.inverted().transform(np.concatenate([-0.02 * top, 1.05 * top])))
