"""Histograms of the p values: flat for controls, flat with a peak near 0 for targets."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.points import heading, tested

N_BINS = 20
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
    edges = np.linspace(0.0, 1.0, N_BINS + 1)
    for panel, (table, name, colour, empty) in zip(axes.flat, sets, strict=True):
        p = tested(table)["p_value"].to_numpy(np.float64)
        panel.set_xlabel("p value")
        panel.axhline(1.0, linestyle="--", color=style.BLACK, gid="uniform")
        if p.size == 0:
            panel.set_title(f"{name} (n = 0)\n")
            style.say_empty(panel, empty)
            continue
        fractions = ", ".join(f"p < {level}: {np.mean(p < level):.3f}" for level in _LEVELS)
        panel.set_title(f"{name} (n = {p.size:,})\nfraction {fractions}")
        panel.bar(
            edges[:-1],
            _density(p),
            width=1.0 / N_BINS,
            align="edge",
            color=colour,
            edgecolor="white",
            linewidth=style.LINE / 2,
            zorder=0,
        )
    axes[0, 0].set_ylabel("Density (uniform = 1)")
    axes[0, 0].set_xlim(0.0, 1.0)
    axes[0, 0].set_ylim(0.0, max(1.25, axes[0, 0].get_ylim()[1]))
    return figure


def _density(p: np.ndarray) -> np.ndarray:
    """Give the density in the bins (k/20, (k+1)/20], shape (N_BINS,)."""
    # A p value that is an edge up to rounding belongs to the bin below.
    bins = np.ceil(p * N_BINS - 1e-9).astype(np.int64) - 1
    counts = np.bincount(np.clip(bins, 0, N_BINS - 1), minlength=N_BINS)
    return counts * N_BINS / p.size
