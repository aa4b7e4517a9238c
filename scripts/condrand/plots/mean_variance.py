"""Variance against expression: the trend of voom, and the prior of moderated tests."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.points import thin_grid

_SPREAD = "Square root of standard deviation, log₂"


@style.styled
def voom_trend(
    points_x: np.ndarray,
    points_y: np.ndarray,
    line_x: np.ndarray,
    line_y: np.ndarray,
    *,
    title: str = "",
    empty: str = "the design leaves no replicates: there is no trend",
) -> Figure:
    """Draw the mean-variance trend that gives counts their weights.

    Parameters
    ----------
    points_x, points_y : float64 array, shape (n_features,)
        Mean log2 count size, and square root of the residual standard deviation.
    line_x, line_y : float64 array, shape (n_points,)
        The trend, x ascending; empty where there is none.
    title
        Heading of the figure.
    empty
        What to say where there is none.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'features' (points), 'trend' (a line).
    """
    figure, axes = style.new_figure(style.WIDE, 3.4)
    panel = axes[0, 0]
    panel.set_xlabel("log₂(count size + 0.5)")
    panel.set_ylabel(_SPREAD)
    if not np.size(line_x):
        style.say_empty(panel, empty)
    else:
        points = _cloud(panel, points_x, points_y)
        (line,) = panel.plot(
            line_x, line_y, color=style.VERMILLION, linewidth=1.5, gid="trend", zorder=3
        )
        names = [f"feature ({np.size(points_x):,})", "trend"]
        style.legend_above(figure, [points, line], names, title, 2)
        return figure
    if title:
        style.title_above(figure, title)
    return figure


@style.styled
def sigma_amean(
    amean: np.ndarray, sigma: np.ndarray, s2_prior: np.ndarray | float, *, title: str = ""
) -> Figure:
    """Draw residual standard deviations against expression, and the prior they shrink to.

    Parameters
    ----------
    amean : float64 array, shape (n_features,)
        Average log2 expression.
    sigma : float64 array, shape (n_features,)
        Residual standard deviations; features without one (NaN) are not drawn.
    s2_prior : float or float64 array, shape (n_features,)
        Prior variance: one, or a trend over `amean`.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'features' (points), 'prior' (a line).
    """
    figure, axes = style.new_figure(style.WIDE, 3.4)
    panel = axes[0, 0]
    panel.set_xlabel("Average log₂ expression")
    panel.set_ylabel(_SPREAD)
    amean, sigma = np.asarray(amean, np.float64), np.asarray(sigma, np.float64)
    prior = np.broadcast_to(np.asarray(s2_prior, np.float64), amean.shape)
    known = np.isfinite(amean) & np.isfinite(sigma)
    if not known.any():
        if title:
            style.title_above(figure, title)
        style.say_empty(panel, "no feature has a residual standard deviation")
        return figure
    points = _cloud(panel, amean[known], np.sqrt(sigma[known]))
    order = np.argsort(amean[known], kind="stable")
    (line,) = panel.plot(
        amean[known][order],
        # On the axis of square roots of standard deviations: a fourth root.
        prior[known][order] ** 0.25,
        color=style.VERMILLION,
        linewidth=1.5,
        gid="prior",
        zorder=3,
    )
    names = [f"feature ({np.count_nonzero(known):,})", "prior"]
    style.legend_above(figure, [points, line], names, title, 2)
    return figure


def _cloud(panel: Axes, x: np.ndarray, y: np.ndarray) -> object:
    """Draw features as points; give their artist."""
    x, y = np.asarray(x, np.float64), np.asarray(y, np.float64)
    at = thin_grid(x, y)
    (points,) = panel.plot(
        x[at],
        y[at],
        "o",
        color=style.OTHER_COLOUR,
        markersize=1.6,
        markeredgewidth=0,
        gid="features",
        zorder=2,
        rasterized=at.size > style.MAX_VECTOR_POINTS,
    )
    panel.set_ylim(bottom=0.0)
    return points
