"""Samples by their distances: multidimensional scaling."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import place_labels
from condrand.plots.points import shorten
from condrand.plots.sample_groups import MAX_NAMES, Groups


@style.styled
def mds(
    coordinates: np.ndarray,
    shares: np.ndarray,
    samples: Sequence,
    groups: Sequence,
    *,
    dimensions: tuple[int, int] = (0, 1),
    title: str = "",
) -> Figure:
    """Draw samples so that their distances are about their leading log fold changes.

    Parameters
    ----------
    coordinates : float64 array, shape (n, n_dimensions)
        In log2 units; empty where there are too few samples.
    shares : float64 array, shape (n_dimensions,)
        Share of the variance that each dimension explains.
    samples, groups
        Name and group of each.
    dimensions
        Positions of those drawn across and up; 0 is the first.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        One panel with equal units on both axes. Artists by gid: 'samples' (the points of each
        group), 'label'. Up to 60 samples are named, where there is room.
    """
    drawn = Groups.of(groups)
    figure, axes = style.new_figure(style.WIDE, 4.2)
    panel = axes[0, 0]
    if not np.size(coordinates):
        style.say_empty(panel, "distances of fewer than 3 samples show nothing")
        if title:
            style.title_above(figure, title)
        return figure
    for d, write in zip(dimensions, (panel.set_xlabel, panel.set_ylabel), strict=True):
        write(f"Leading logFC dim {d + 1} ({100 * float(shares[d]):.0f} %)")
    points = np.asarray(coordinates, np.float64)[:, list(dimensions)]
    for code, colour in enumerate(drawn.colours):
        at = drawn.codes == code
        panel.plot(
            *points[at].T,
            "o",
            color=colour,
            markersize=4.5,
            markeredgewidth=0.3,
            markeredgecolor="white",
            gid="samples",
        )
    panel.margins(0.15)
    # A distance on the page must not depend on its direction.
    panel.set_aspect("equal", adjustable="datalim")
    drawn.legend(figure, title)
    style.freeze_layout(figure)
    if len(samples) <= MAX_NAMES:
        names = [shorten(name, 20) for name in samples]
        place_labels(panel, *points.T, names, points)
    return figure
