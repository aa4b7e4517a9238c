"""Counts before the model: how deep samples were read, and what the filter leaves."""

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.sample_groups import MAX_NAMES, Groups, name_samples


@style.styled
def library_sizes(
    lib_size: np.ndarray,
    samples: Sequence,
    groups: Sequence,
    *,
    title: str = "",
    empty: str = "there are no samples",
) -> Figure:
    """Draw the number of counts of each sample.

    Parameters
    ----------
    lib_size : numbers, shape (n,)
        Sums of counts; none where values are no counts.
    samples, groups
        Name and group of each.
    title
        Heading of the figure.
    empty
        What to say where there is no library size.

    Returns
    -------
    matplotlib.figure.Figure
        One bar per sample, by group and in each as given, in millions of counts. Artists by
        gid: 'library' (each bar), 'median' (a line).
    """
    lib_size = np.asarray(lib_size, np.float64) / 1e6
    drawn = Groups.of(groups)
    wide = min(style.PAGE, max(style.COLUMN, 0.9 + 0.16 * lib_size.size))
    figure, axes = style.new_figure(wide, 2.8)
    panel = axes[0, 0]
    panel.set_ylabel("Library size, million counts")
    if not lib_size.size:
        style.say_empty(panel, empty)
        if title:
            style.title_above(figure, title)
        return figure
    order = drawn.order
    bars = panel.bar(
        np.arange(order.size),
        lib_size[order],
        # Narrow gaps between many bars would flicker.
        width=0.8 if order.size <= MAX_NAMES else 1.0,
        color=[drawn.colour_of(i) for i in order],
        linewidth=0,
    )
    for bar in bars:
        bar.set_gid("library")
    panel.axhline(
        float(np.median(lib_size)), linestyle="--", color=style.GUIDE_COLOUR, gid="median"
    )
    panel.set_xlim(-0.6, order.size - 0.4)
    panel.set_ylim(0.0, 1.05 * float(lib_size.max()) or 1.0)
    name_samples(panel, [samples[i] for i in order])
    drawn.legend(figure, title)
    return figure


@style.styled
def count_densities(
    before: tuple[np.ndarray, np.ndarray, int],
    after: tuple[np.ndarray, np.ndarray, int],
    groups: Sequence,
    *,
    title: str = "",
    scale: str = "log₂ counts per million",
) -> Figure:
    """Draw the distribution of log counts of each sample, before and after the filter.

    Parameters
    ----------
    before, after
        Grid of log2 counts per million, shape (n_points,); densities, shape (n, n_points), NaN
        for a sample without one; number of features.
    groups
        Group of each sample.
    title
        Heading of the figure.
    scale
        What the grid is of.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels with the same axes. Artists by gid: 'density', one line per sample.
    """
    drawn = Groups.of(groups)
    figure, axes = style.new_figure(style.PAGE, 3.0, n_columns=2, share=True)
    parts = (("All features", before), ("Kept features", after))
    for panel, (name, (grid, density, n_features)) in zip(axes.flat, parts, strict=True):
        panel.set_title(f"{name} ({n_features:,})", pad=3)
        panel.set_xlabel(scale)
        for i, line in enumerate(density):
            if line.size and np.isfinite(line).all():
                panel.plot(grid, line, color=drawn.colour_of(i), linewidth=0.9, gid="density")
        if not panel.lines:
            style.say_empty(panel, "no sample has values that differ")
    axes[0, 0].set_ylabel("Density, per unit of log₂")
    axes[0, 0].set_ylim(bottom=0.0)
    drawn.legend(figure, title)
    return figure
