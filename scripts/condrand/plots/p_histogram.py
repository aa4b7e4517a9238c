"""Histograms of the p values: flat without effects, flat with a peak near 0 with them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import heading, tested

N_BINS = 20
MAX_PANELS = 20
_LEVELS = (0.05, 0.01)


@style.styled
def p_histogram(effects: pd.DataFrame, controls: pd.DataFrame) -> Figure:
    """Draw the density of the p values of all tests and of the NTC guides.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract. Rows without a p
        value are not counted.
    controls
        The same for the NTC guides taken as targets; may be empty.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels with the same axes; above each the number of tests and the fractions with
        p < 0.05 and p < 0.01.

    Notes
    -----
    The 20 bins are open at their lower and closed at their upper edge: the empirical p values
    k / (B + 1), k = 1 .. B + 1, then fill all bins alike when 20 divides B + 1.
    """
    figure, axes = style.new_figure(
        style.WIDE, 2.4, n_columns=2, share=True, title=heading(effects)
    )
    sets = (
        (effects, "All tests", style.TARGET_COLOUR, "no test has a p value"),
        (controls, "NTC guides", style.CONTROL_COLOUR, "no control tests in this analysis"),
    )
    for panel, (table, name, colour, empty) in zip(axes.flat, sets, strict=True):
        p = tested(table)["p_value"].to_numpy(np.float64)
        panel.set_xlabel("p value")
        if p.size == 0:
            panel.set_title(f"{name} (n = 0)\n")
            _uniform(panel)
            style.say_empty(panel, empty)
            continue
        panel.set_title(f"{name} (n = {p.size:,})\nfraction {_fractions(p)}")
        _bars(panel, p, colour)
    axes[0, 0].set_ylabel("Density (uniform = 1)")
    _frame(axes[0, 0])
    return figure


@style.styled
def p_histogram_by_target(effects: pd.DataFrame, *, what: str, title: str = "") -> Figure:
    """Draw the density of the p values of each contrast, or of each term.

    Parameters
    ----------
    effects
        One row per target and feature: columns ``target``, a contrast or a term, and ``p_value``.
        Rows without a p value are not counted.
    what
        What a target is, in the plural.
    title
        Heading of the figure.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per target in the order given, the first 20, each of its own height; above it
        the number of tests and the fractions with p < 0.05 and p < 0.01. Bins as in
        :func:`p_histogram`.
    """
    targets = list(dict.fromkeys(effects["target"].astype(str)))
    if len(targets) > MAX_PANELS:
        title += f": {MAX_PANELS} of {len(targets):,} {what}"
        targets = targets[:MAX_PANELS]
    n_columns = min(3, max(1, len(targets)))
    n_rows = max(1, -(-len(targets) // n_columns))
    width = min(style.PAGE, 0.4 + 2.4 * n_columns) if n_columns > 1 else style.COLUMN
    figure, axes = style.new_figure(
        width, 0.7 + 1.7 * n_rows, n_rows=n_rows, n_columns=n_columns, title=title
    )
    panels = list(axes.flat)
    for panel in panels[len(targets) :]:
        panel.remove()
    room = 72.0 * width / n_columns - 30.0
    names = effects["target"].astype(str).to_numpy()
    every_p = effects["p_value"].to_numpy(np.float64)
    for panel, name in zip(panels, targets, strict=False):
        p = every_p[(names == name) & np.isfinite(every_p)]
        short = fit(name, room, size=style.FONT)
        if p.size == 0:
            panel.set_title(f"{short}\n", pad=3)
            _uniform(panel)
            style.say_empty(panel, "no test has a p value")
        else:
            low, lower = (f"< {level}: {np.mean(p < level):.3f}" for level in _LEVELS)
            panel.set_title(f"{short}\np {low}, {lower} of {p.size:,}", pad=3)
            _bars(panel, p, style.TARGET_COLOUR)
        # Each of its own height: beside a tall peak the flat part of another would not be seen.
        _frame(panel)
    figure.supxlabel("p value")
    figure.supylabel("Density (uniform = 1)")
    return figure


def _fractions(p: np.ndarray) -> str:
    return ", ".join(f"p < {level}: {np.mean(p < level):.3f}" for level in _LEVELS)


def _uniform(panel: Axes) -> None:
    panel.axhline(1.0, linestyle="--", color=style.BLACK, gid="uniform")


def _bars(panel: Axes, p: np.ndarray, colour: str) -> None:
    _uniform(panel)
    panel.bar(
        np.linspace(0.0, 1.0, N_BINS + 1)[:-1],
        _density(p),
        width=1.0 / N_BINS,
        align="edge",
        color=colour,
        edgecolor="white",
        linewidth=style.LINE / 2,
        zorder=0,
    )


def _frame(panel: Axes) -> None:
    panel.set_xlim(0.0, 1.0)
    panel.set_ylim(0.0, max(1.25, panel.get_ylim()[1]))


def _density(p: np.ndarray) -> np.ndarray:
    """Give the density in the bins (k/20, (k+1)/20], shape (N_BINS,)."""
    # A p value that is an edge up to rounding belongs to the bin below.
    bins = np.ceil(p * N_BINS - 1e-9).astype(np.int64) - 1
    counts = np.bincount(np.clip(bins, 0, N_BINS - 1), minlength=N_BINS)
    return counts * N_BINS / p.size
