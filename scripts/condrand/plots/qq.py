"""Quantile-quantile plot: are the p values of the controls uniform, and do targets exceed them."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.points import (
    heading,
    log10_p,
    qq_curve,
    shared_floor,
    tested,
    uniform_band,
)

# Height of a panel in multiples of the largest expected value: the diagonal ends at 2/5 of it.
HEIGHT = 2.5


@style.styled
def qq(effects: pd.DataFrame, controls: pd.DataFrame, *, confidence: float = 0.95) -> Figure:
    """Draw observed against expected -log10 p, for all tests and for the NTC guides.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract. Rows without a p
        value are not drawn.
    controls
        The same for the NTC guides taken as targets; may be empty.
    confidence
        Pointwise coverage of the band, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'all-tests', 'controls', 'band', 'identity', 'floor'; and
        'all-tests-above', 'controls-above' for the tests above the panel.

    Notes
    -----
    Definition: of m sorted p values the i-th is drawn at -log10((i - 0.5) / m). The band holds
    the i-th smallest of m independent uniform values, Beta(i, m - i + 1), and m is the number
    of control tests, or of all tests when there are no controls.

    The panel ends at 2.5 times the largest expected value, rounded up, or where the band or
    the floor needs more, so that diagonal and band stay readable beside strong effects. Tests
    above are triangles at its upper edge, and the legend gives their number and the largest
    value. Of more than 4,000 tests the less significant ones are thinned, the same each time.

    Precondition of the band: independent tests. Features of one target are correlated, so that
    a curve leaves the band more often than ``confidence`` says.

    Source: David & Nagaraja (2003), Order Statistics, 3rd ed., eq. 2.1.5, for the Beta law.
    """
    all_tests, control_tests = tested(effects), tested(controls)
    figure, axes = style.new_figure(style.COLUMN, 4.0)
    panel = axes[0, 0]
    panel.set_xlabel(f"Expected {style.LOG10_P}")
    panel.set_ylabel(f"Observed {style.LOG10_P}")

    n_band = len(control_tests) or len(all_tests)
    if n_band == 0:
        style.say_empty(panel, "no test has a p value")
        return figure

    expected, low, high = uniform_band(n_band, confidence)
    band_of = "NTC guides" if len(control_tests) else "all tests"
    panel.fill_between(
        expected,
        low,
        high,
        color=style.BAND_COLOUR,
        linewidth=0,
        label=f"{confidence:.0%} band under the null, {band_of}",
        gid="band",
        zorder=1,
    )
    tests, nulls = log10_p(all_tests), log10_p(control_tests)
    right = float(-np.log10(0.5 / max(tests.size, nulls.size)))
    floor = shared_floor(empirical_p(all_tests, control_tests))
    needed = max(HEIGHT * right, 1.05 * float(high.max()), 1.08 * (floor or 0.0))
    ceiling = float(np.ceil(needed))
    draw_curve(panel, tests, ceiling, "all tests", style.TARGET_COLOUR, "all-tests", 3)
    draw_curve(panel, nulls, ceiling, "NTC guides", style.CONTROL_COLOUR, "controls", 4)
    panel.plot([0, right], [0, right], "-", color=style.BLACK, gid="identity", zorder=2)
    panel.set_xlim(0, right * 1.04)
    highest = float(np.concatenate([tests, nulls]).max())
    panel.set_ylim(0.0, ceiling if highest > ceiling else None)

    if floor is not None:
        draw_floor(panel, floor)
    handles, names = panel.get_legend_handles_labels()
    # Down the columns: the sets of tests, the band, and what lies above the panel.
    rank = {"all-tests": 0, "controls": 1, "band": 2, "all-tests-above": 3, "controls-above": 4}
    order = sorted(range(len(names)), key=lambda i: rank[handles[i].get_gid()])
    style.legend_above(
        figure, [handles[i] for i in order], [names[i] for i in order], heading(effects), 2
    )
    return figure


def draw_curve(
    panel: Axes,
    values: np.ndarray,
    ceiling: float,
    name: str,
    colour: str,
    gid: str,
    zorder: float,
    *,
    size: float = 2.5,
) -> None:
    """Draw one set of tests: dots, and triangles at the ceiling for those above it.

    Parameters
    ----------
    panel
        Changed in place.
    values : float64 array, shape (n_tests,)
        -log10 p; of none, nothing is drawn.
    ceiling
        Upper edge of the panel.
    name, colour, gid, zorder
        Of the dots; the gid of the triangles is that and '-above'.
    size
        Of the dots, in points.
    """
    if values.size == 0:
        return
    expected, observed = qq_curve(values)
    above = observed > ceiling
    panel.plot(
        expected[~above],
        observed[~above],
        "o",
        color=colour,
        markersize=size,
        markeredgewidth=0,
        label=f"{name} (n = {values.size:,})",
        gid=gid,
        zorder=zorder,
        rasterized=np.count_nonzero(~above) > style.MAX_VECTOR_POINTS,
    )
    if not above.any():
        return
    largest = float(values.max())
    digits = 1 if largest < 100.0 else 0
    # Thinning leaves points out; the number counts all of them.
    count = np.count_nonzero(values > ceiling)
    panel.plot(
        expected[above],
        np.full(np.count_nonzero(above), ceiling),
        "^",
        color=colour,
        markersize=size + 1.5,
        markeredgewidth=0,
        label=f"{count:,} above {ceiling:g}, largest {largest:,.{digits}f}",
        gid=f"{gid}-above",
        zorder=zorder,
        clip_on=False,
        rasterized=np.count_nonzero(above) > style.MAX_VECTOR_POINTS,
    )


def draw_floor(panel: Axes, floor: float) -> None:
    """Draw the line below which no empirical p value can be, and make room for it.

    Parameters
    ----------
    panel
        Changed in place; its limits are set.
    floor
        -log10 of the smallest attainable p value.
    """
    panel.axhline(floor, linestyle=":", color=style.GUIDE_COLOUR, gid="floor", zorder=2)
    panel.annotate(
        "floor 1/(B+1)",
        (0.0, floor),
        xycoords=("axes fraction", "data"),
        xytext=(3, 2),
        textcoords="offset points",
        fontsize=style.SMALL_FONT,
        color=style.GUIDE_COLOUR,
    )
    panel.set_ylim(top=max(panel.get_ylim()[1], floor * 1.08))


def empirical_p(*tables: pd.DataFrame) -> np.ndarray:
    """Give the reported p values that are empirical.

    Parameters
    ----------
    *tables
        From :func:`condrand.plots.points.tested`.

    Returns
    -------
    float64 array
    """
    parts = [
        table.loc[(table["p_source"] == "empirical").to_numpy(bool), "p_value"] for table in tables
    ]
    return np.concatenate([part.to_numpy(np.float64) for part in parts])
