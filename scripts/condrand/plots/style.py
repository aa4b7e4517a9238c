"""How every figure looks: colours, sizes, fonts, and the frame they are drawn in."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from typing import ParamSpec

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.layout_engine import ConstrainedLayoutEngine
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullFormatter

# Colours that colour-blind readers tell apart: Okabe & Ito (2008), "Color Universal Design".
BLACK = "#000000"
ORANGE = "#E69F00"
BLUE = "#0072B2"
VERMILLION = "#D55E00"

TARGET_COLOUR = BLUE
CONTROL_COLOUR = ORANGE
HIGHER_COLOUR = VERMILLION
LOWER_COLOUR = BLUE
OTHER_COLOUR = "#A0A0A0"
GUIDE_COLOUR = "#555555"
BAND_COLOUR = "#DDDDDD"

# Widths of a journal's column, one and a half columns and page, in inches (89, 120, 183 mm).
COLUMN = 3.5
WIDE = 4.75
PAGE = 7.2

FONT = 7.0
SMALL_FONT = 6.0
LINE = 0.6
# Above this many points an artist is embedded in SVG and PDF as an image: vector files with
# more marks than this are slow to open in a browser.
MAX_VECTOR_POINTS = 2000

LOG10_P = "−log₁₀ p"

_STYLE = {
    # DejaVu Sans comes with matplotlib, so that all machines draw the same bytes.
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": FONT,
    "axes.labelsize": FONT,
    "axes.titlesize": FONT,
    "axes.titlelocation": "left",
    "axes.linewidth": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "figure.titlesize": FONT + 1,
    "figure.labelsize": FONT,
    "legend.fontsize": SMALL_FONT,
    "legend.frameon": False,
    "legend.handlelength": 1.2,
    "legend.handletextpad": 0.4,
    "legend.columnspacing": 1.0,
    "legend.borderpad": 0.0,
    "legend.borderaxespad": 0.6,
    "legend.title_fontsize": FONT + 1,
    "lines.linewidth": LINE,
    # A dollar sign in the name of a gene or a screen is not a formula.
    "text.parse_math": False,
}

_Arguments = ParamSpec("_Arguments")


@contextmanager
def _house_style() -> Iterator[None]:
    with matplotlib.rc_context():
        # A user's matplotlibrc must not change a figure.
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def styled(draw: Callable[_Arguments, Figure]) -> Callable[_Arguments, Figure]:
    """Make a drawing function draw in the house style and fix the layout of its figure.

    Parameters
    ----------
    draw
        Function that returns a Figure made by :func:`new_figure`.

    Returns
    -------
    callable
        The same function; matplotlib's settings are as before when it has returned.
    """

    @wraps(draw)
    def draw_styled(*args: _Arguments.args, **kwargs: _Arguments.kwargs) -> Figure:
        with _house_style():
            figure = draw(*args, **kwargs)
            freeze_layout(figure)
        return figure

    return draw_styled


def new_figure(
    width: float,
    height: float,
    *,
    n_rows: int = 1,
    n_columns: int = 1,
    share: bool = False,
    title: str = "",
) -> tuple[Figure, np.ndarray]:
    """Give an empty figure with its panels, to be called inside a :func:`styled` function.

    Parameters
    ----------
    width, height
        Size in inches; see ``COLUMN``, ``WIDE`` and ``PAGE``.
    n_rows, n_columns
        Panels down and across.
    share
        Whether all panels have the same limits on both axes.
    title
        Heading of the figure.

    Returns
    -------
    figure : matplotlib.figure.Figure
        With constrained layout, until :func:`freeze_layout`.
    axes : object array of matplotlib.axes.Axes, shape (n_rows, n_columns)
        The panels.
    """
    figure = Figure(figsize=(width, height), layout="constrained")
    figure.get_layout_engine().set(w_pad=0.05, h_pad=0.05)
    axes = figure.subplots(n_rows, n_columns, squeeze=False, sharex=share, sharey=share)
    for panel in axes.flat:
        # Ticks are made when the figure is drawn, outside the house style: sizes are set here.
        panel.tick_params(labelsize=SMALL_FONT, width=LINE, length=2.5, pad=2)
        panel.tick_params(which="minor", width=LINE / 2, length=1.5)
    if title:
        title_above(figure, title)
    return figure, axes


def title_above(figure: Figure, title: str) -> None:
    """Put a heading above the panels, for a figure without a legend above them.

    Parameters
    ----------
    figure
        Changed in place.
    title
        Heading of the figure.
    """
    figure.suptitle(title, x=0.01, ha="left", fontweight="bold")


def legend_above(
    figure: Figure, handles: list, names: list[str], title: str, columns: int
) -> None:
    """Put a legend above the panels, headed by the title of the figure.

    Parameters
    ----------
    figure
        Changed in place.
    handles, names
        Artists and what they are called.
    title
        Heading of the figure; may be ''. Title and legend are one artist because matplotlib
        draws an outside legend over a suptitle.
    columns
        Columns of the legend.
    """
    figure.legend(
        handles,
        names,
        loc="outside upper left",
        ncols=columns,
        title=title or None,
        title_fontproperties={"weight": "bold", "size": FONT + 1},
        alignment="left",
    )


def freeze_layout(figure: Figure) -> None:
    """Compute the positions of the panels and keep them, whatever is added or saved later.

    Parameters
    ----------
    figure
        Changed in place.

    Notes
    -----
    Labels are placed after this step, in points; and a figure saved twice gives equal bytes.
    """
    if isinstance(figure.get_layout_engine(), ConstrainedLayoutEngine):
        figure.draw_without_rendering()
        figure.set_layout_engine("none")


def log_axis(axes: Axes, which: str, low: float, high: float) -> None:
    """Make an axis logarithmic, with plain numbers at its ticks.

    Parameters
    ----------
    axes
        Changed in place.
    which
        'x' or 'y'.
    low, high
        Smallest and largest positive value to be shown; a margin is added.
    """
    margin = max((high / low) ** 0.05, 1.05)
    low, high = low / margin, high * margin
    if which == "x":
        axes.set_xscale("log")
        axes.set_xlim(low, high)
        axis = axes.xaxis
    else:
        axes.set_yscale("log")
        axes.set_ylim(low, high)
        axis = axes.yaxis
    # Less than two decades would show one or two numbers only.
    subs = (1.0,) if high / low >= 100.0 else (1.0, 2.0, 5.0)
    axis.set_major_locator(LogLocator(subs=subs, numticks=8))
    axis.set_major_formatter(FuncFormatter(_plain))
    axis.set_minor_formatter(NullFormatter())


def compressed_axis(axes: Axes, threshold: float, top: float) -> None:
    """Make the vertical axis linear from 0 to a threshold and logarithmic above.

    Parameters
    ----------
    axes
        Changed in place, and with it the panels that share its axis.
    threshold
        A power of ten. The range below it is as high as the decade above it.
    top
        Largest value to be shown, above the threshold.

    Notes
    -----
    Ticks: 0, half the threshold, and from there on 1 and 3 times the powers of ten; small
    ones at every unit of a decade, which get narrower where the axis is compressed.
    """
    axes.set_yscale("symlog", base=10, linthresh=threshold, linscale=0.9)
    decades = threshold * 10.0 ** np.arange(np.ceil(np.log10(top / threshold)) + 1)
    major = np.concatenate([[0.0, threshold / 2], np.outer(decades, [1.0, 3.0]).ravel()])
    minor = np.outer([threshold / 10, *decades], np.arange(1.0, 10.0)).ravel()
    panels = [axes, *axes.get_shared_y_axes().get_siblings(axes)]
    for panel in panels:
        panel.yaxis.set_major_locator(FixedLocator(major))
        panel.yaxis.set_minor_locator(FixedLocator(np.setdiff1d(minor, major)))
        panel.yaxis.set_major_formatter(FuncFormatter(_plain))
        panel.yaxis.set_minor_formatter(NullFormatter())


def _plain(value: float, _position: int | None = None) -> str:
    if value >= 1.0 or value == 0.0:
        return f"{value:,.0f}"
    return f"{value:.6f}".rstrip("0") if value >= 1e-6 else f"{value:.0e}"


def say_empty(axes: Axes, text: str) -> None:
    """Write in the middle of a panel why nothing is drawn there.

    Parameters
    ----------
    axes
        Changed in place.
    text
        The reason.
    """
    axes.text(
        0.5,
        0.5,
        text,
        transform=axes.transAxes,
        ha="center",
        va="center",
        color=GUIDE_COLOUR,
    )
