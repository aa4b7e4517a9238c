"""P values of tests that have several, one against the other: whether their sources agree."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from scipy.special import betaincinv

from condrand.plots import style
from condrand.plots.points import heading, log10_p, tested, thin_grid

# Okabe & Ito (2008): gid, name and colour of tests by their treated cells, the fewest drawn last.
_CLASSES = (
    ("above-50", "more than 50 treated cells", style.BLUE),
    ("12-to-50", "12 to 50", style.ORANGE),
    ("below-12", "fewer than 12", style.VERMILLION),
)
_FACTOR = 2.0
# The axis of factors reaches at least so far, and at most so far.
_LEAST_FACTOR, _MOST_FACTOR = 4.0, 100.0
_NORMAL_975 = 1.96
# With more points than these, error bars hide each other.
_MOST_BARS = 300
# -log10 p above this makes its axis logarithmic.
_TALL = 50.0
# Decades shown beyond the smallest p value that is counted.
_BEYOND = 1.0


@style.styled
def agreement(
    effects: pd.DataFrame, p_floor: float | None = None, *, confidence: float = 0.95
) -> Figure:
    """Draw reported p values against those of a saddlepoint, and of the resamples of all tests.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract, ``n_target``,
        ``p_empirical``, ``p_saddlepoint`` and ``p_relative_error``; those that are missing count
        as NaN.
    p_floor
        1 / (B + 1), the smallest p value counted in the resamples of all tests.
    confidence
        Coverage of the band of these counts, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        Two panels. Left: of tests refined by drawing, the reported p over that of a saddlepoint,
        by the latter. Right: of tests whose reported p is not the one counted in the resamples of
        all tests, the one against the other. Artists by gid in each: 'above-50', '12-to-50' and
        'below-12' (treated cells), each also with '-beyond' for triangles at the edge of the
        panel; 'identity'. Left also 'factor-2' and, of at most 300 tests, 'error' (95 % intervals
        of the reported p); right also 'noise' and 'floor'.

    Notes
    -----
    Left, a ratio and not a diagonal: where p is 1e-20, a factor 2 is no wider than a line.
    Points should lie within it; where they leave it, few cells carry the statistic. Right, the
    band at a count k of B resamples is the interval of Clopper and Pearson for the p value
    behind it, so that 95 % of the points should lie inside, also where tests were chosen by k;
    at the floor, where k is 0, it has no upper end. From 20,000 tests on, points that would lie on
    others are left out.
    """
    more = ("n_target", "p_empirical", "p_saddlepoint", "p_relative_error")
    table = tested(effects, *more)
    table = table.reindex(columns=list(dict.fromkeys([*table.columns, *more])))
    figure, axes = style.new_figure(style.PAGE, 3.9, n_columns=2)
    left, right = axes[0]
    left.set_xlabel(f"{style.LOG10_P} of the saddlepoint")
    left.set_ylabel("Reported p / p of the saddlepoint")
    right.set_xlabel(f"{style.LOG10_P} counted in the resamples of all tests")
    right.set_ylabel(f"Reported {style.LOG10_P}")
    _draw_saddlepoint(left, table)
    _draw_counted(right, table, p_floor, confidence)
    handles = {
        artist.get_gid(): artist
        for panel in (left, right)
        for artist in [*panel.lines, *panel.patches, *panel.collections]
        if not str(artist.get_label()).startswith("_")
    }
    if not handles:
        style.title_above(figure, heading(effects) or "Sources of p values")
        return figure
    # Down the columns: treated cells, then what is drawn behind the tests.
    order = [gid for gid, _, _ in _CLASSES]
    order += [gid for gid in handles if gid not in order]
    found = [handles[gid] for gid in order if gid in handles]
    names = [artist.get_label() for artist in found]
    style.legend_above(figure, found, names, heading(effects), 2)
    return figure


def _draw_saddlepoint(panel: Axes, table: pd.DataFrame) -> None:
    is_saddlepoint = (table["p_source"] == "saddlepoint").to_numpy(bool)
    p = table["p_saddlepoint"].to_numpy(np.float64)
    rows = table[(p > 0.0) & ~is_saddlepoint]
    if rows.empty:
        why = "no test drawn anew\nhas a saddlepoint's p value"
        if is_saddlepoint.any():
            why = "p values are those of the saddlepoint:\nnothing to compare them with"
        style.say_empty(panel, why)
        return
    x = -np.log10(rows["p_saddlepoint"].to_numpy(np.float64))
    # In decades, as both p values may be too small to be divided.
    ratio = x - log10_p(rows)
    half = np.zeros(x.size)
    if x.size <= _MOST_BARS:
        error = np.nan_to_num(rows["p_relative_error"].to_numpy(np.float64))
        half = _NORMAL_975 * error / np.log(10.0)
    reach = np.clip(np.max(np.abs(ratio) + half), np.log10(_LEAST_FACTOR), np.log10(_MOST_FACTOR))
    style.log_axis(panel, "y", 10.0**-reach, 10.0**reach)
    if x.max() > _TALL:
        style.log_axis(panel, "x", max(float(x.min()), 0.1), float(x.max()))
    else:
        margin = 0.05 * float(np.ptp(x)) + 0.1
        panel.set_xlim(max(float(x.min()) - margin, 0.0), float(x.max()) + margin)
    panel.axhspan(
        1.0 / _FACTOR,
        _FACTOR,
        color=style.BAND_COLOUR,
        linewidth=0,
        label="left: within a factor 2",
        gid="factor-2",
        zorder=1,
    )
    panel.axhline(1.0, color=style.GUIDE_COLOUR, gid="identity", zorder=2)
    beyond = np.abs(ratio) > reach
    if half.any():
        ends = np.clip(ratio + np.stack([-half, half]), -reach, reach)[:, ~beyond]
        panel.vlines(
            x[~beyond],
            *10.0**ends,
            color=style.OTHER_COLOUR,
            linewidth=style.LINE,
            label="left: 95 % interval of the reported p",
            gid="error",
            zorder=3,
        )
    cells = rows["n_target"].to_numpy(np.float64)
    title = f"{_counted(x.size)} refined by drawing"
    if beyond.any():
        title += f": {_n(beyond):,} beyond a factor {_MOST_FACTOR:g}"
    panel.set_title(title)
    _draw_tests(panel, x[~beyond], ratio[~beyond], cells[~beyond], decades=True)
    for side, marker in ((1.0, "^"), (-1.0, "v")):
        rest = beyond & (side * ratio > 0.0)
        edge = np.full(_n(rest), side * reach)
        _draw_tests(panel, x[rest], edge, cells[rest], decades=True, marker=marker)


def _draw_counted(
    panel: Axes, table: pd.DataFrame, p_floor: float | None, confidence: float
) -> None:
    empirical = table["p_empirical"].to_numpy(np.float64)
    other = (table["p_source"] != "empirical").to_numpy(bool)
    other |= table["p_value"].to_numpy(np.float64) != empirical
    rows = table[other & np.isfinite(empirical)]
    if rows.empty or p_floor is None:
        style.say_empty(
            panel,
            "every p value is the one\ncounted in the resamples of all tests"
            if len(table)
            else "no test has a p value",
        )
        return
    x, y = -np.log10(rows["p_empirical"].to_numpy(np.float64)), log10_p(rows)
    floor, n = -np.log10(p_floor), round(1.0 / p_floor) - 1
    ceiling = float(np.ceil(floor + _BEYOND))
    start = max(0.0, float(min(x.min(), y.min())) - 0.1)
    panel.set_xlim(max(0.0, float(x.min()) - 0.1), floor + 0.1)
    panel.set_ylim(start, ceiling)
    grid = np.linspace(panel.get_xlim()[0], floor, 300)
    low, high = _noise(grid, p_floor, confidence)
    panel.fill_between(
        grid,
        np.maximum(low, start),
        np.minimum(high, ceiling),
        color=style.BAND_COLOUR,
        linewidth=0,
        label=f"right: {confidence:.0%} noise of counts in {n:,} resamples",
        gid="noise",
        zorder=1,
    )
    panel.plot(grid, grid, "-", color=style.GUIDE_COLOUR, gid="identity", zorder=2)
    panel.axvline(floor, linestyle=":", color=style.GUIDE_COLOUR, gid="floor", zorder=2)
    panel.annotate(
        "floor 1/(B+1)",
        (floor, 0.0),
        xycoords=("data", "axes fraction"),
        xytext=(-2, 3),
        textcoords="offset points",
        ha="right",
        fontsize=style.SMALL_FONT,
        color=style.GUIDE_COLOUR,
    )
    cells = rows["n_target"].to_numpy(np.float64)
    above = y > ceiling
    title = f"{_counted(x.size)} with two p values"
    if above.any():
        title += f": {_n(above):,} above {ceiling:g}, largest {y.max():,.0f}"
    panel.set_title(title)
    _draw_tests(panel, x[~above], y[~above], cells[~above])
    _draw_tests(panel, x[above], np.full(_n(above), ceiling), cells[above], marker="^")


def _noise(x: np.ndarray, p_floor: float, confidence: float) -> tuple[np.ndarray, np.ndarray]:
    """Interval of -log10 p behind counted p values, given and returned as -log10 p."""
    n = round(1.0 / p_floor) - 1
    count = np.clip(10.0**-x / p_floor - 1.0, 0.0, n)
    tail = (1.0 - confidence) / 2.0
    largest, smallest = np.ones(x.size), np.zeros(x.size)
    some, most = count > 1e-9, count < n - 1e-9
    largest[most] = betaincinv(count[most] + 1.0, n - count[most], 1.0 - tail)
    smallest[some] = betaincinv(count[some], n - count[some] + 1.0, tail)
    with np.errstate(divide="ignore"):
        return -np.log10(largest), -np.log10(smallest)


def _draw_tests(
    panel: Axes,
    x: np.ndarray,
    y: np.ndarray,
    cells: np.ndarray,
    *,
    decades: bool = False,
    marker: str = "o",
) -> None:
    """Draw tests in the colours of their treated cells, as dots or as triangles at the edge.

    With ``decades``, y is the logarithm of what the panel's axis shows.
    """
    if not x.size:
        return
    is_dot = marker == "o"
    of_class = np.digitize(cells, [12, 51])[:, None] == [2, 1, 0]
    chosen = np.zeros(x.size, bool)
    chosen[thin_grid(x, y)] = True
    size = 2.5 if _n(chosen) <= style.MAX_VECTOR_POINTS else 1.5
    for i, (gid, name, colour) in enumerate(_CLASSES):
        rows = of_class[:, i] & chosen
        if not rows.any():
            continue
        panel.plot(
            x[rows],
            10.0 ** y[rows] if decades else y[rows],
            marker,
            color=colour,
            markersize=size if is_dot else size + 1.5,
            markeredgewidth=0,
            label=name if is_dot else f"_{name}",
            gid=gid if is_dot else f"{gid}-beyond",
            zorder=4 + i,
            clip_on=is_dot,
            rasterized=_n(rows) > style.MAX_VECTOR_POINTS,
        )


def _counted(n: int) -> str:
    return f"{n:,} test" if n == 1 else f"{n:,} tests"


def _n(rows: np.ndarray) -> int:
    return int(np.count_nonzero(rows))
