"""How many features each target changes."""

import numpy as np
import pandas as pd
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import shorten

MAX_BARS = 40
# Room for a name, in points.
_NAME = 90.0


@style.styled
def ranking(
    ranked: pd.DataFrame, *, fdr: float, title: str, max_targets: int = MAX_BARS
) -> Figure:
    """Draw the numbers of features that targets lower and raise, as bars.

    Parameters
    ----------
    ranked
        From :func:`condrand.ranking.ranked_targets`.
    fdr
        The false discovery rate that table was made with.
    title
        Heading of the figure; it is completed by how many targets are not shown.
    max_targets
        Largest number of bars.

    Returns
    -------
    matplotlib.figure.Figure
        One panel, the target with most effects at the top. Artists by gid: 'lower' and
        'higher' (bars), 'n-lower' and 'n-higher' (their numbers), 'n-cells'.
    """
    shown = ranked.head(max_targets)
    n = len(shown)
    n_hidden = len(ranked) - n
    if n_hidden:
        title += f": {n} targets with most effects, {n_hidden:,} not shown"
    figure, axes = style.new_figure(style.WIDE, 0.9 + 0.13 * max(n, 8), title=title)
    panel = axes[0, 0]
    panel.set_xlabel(f"Features lower (left) and higher (right), FDR ≤ {fdr:g}")
    if not n:
        panel.set_yticks([])
        style.say_empty(panel, "no target")
        return figure

    at = np.arange(n)
    down, up = shown["n_down"].to_numpy(), shown["n_up"].to_numpy()
    longest = float(max(down.max(), up.max(), 1))
    for counts, side, colour, name in (
        (down, -1, style.LOWER_COLOUR, "lower"),
        (up, 1, style.HIGHER_COLOUR, "higher"),
    ):
        for bar in panel.barh(at, side * counts, height=0.75, color=colour):
            bar.set_gid(name)
        for i in at:
            panel.annotate(
                f"{counts[i]:,}",
                (side * counts[i], i),
                xytext=(2.0 * side, 0.0),
                textcoords="offset points",
                ha="left" if side > 0 else "right",
                va="center_baseline",
                fontsize=style.SMALL_FONT - 0.5,
                color=style.GUIDE_COLOUR if counts[i] else style.OTHER_COLOUR,
                gid=f"n-{name}",
            )
    panel.axvline(0.0, color=style.GUIDE_COLOUR)
    # Beyond the longest bar there is room for its number.
    panel.set_xlim(-1.2 * longest, 1.2 * longest)
    panel.set_ylim(n - 0.4, -0.6)
    panel.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True))
    panel.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{abs(value):,.0f}"))
    # No more letters than that fit; measuring more of them takes long.
    names = [fit(shorten(name, 32), _NAME, size=style.SMALL_FONT) for name in shown["target"]]
    panel.set_yticks(at, names)
    panel.tick_params(axis="y", length=0)
    panel.spines["left"].set_visible(False)
    for i, n_cells in zip([-1.0, *at], ["cells", *shown["n_target"]], strict=True):
        panel.text(
            1.08,
            i,
            n_cells if isinstance(n_cells, str) else f"{n_cells:,}",
            transform=panel.get_yaxis_transform(),
            ha="right",
            va="center_baseline",
            fontsize=style.SMALL_FONT,
            gid="n-cells" if i >= 0 else None,
        )
    return figure
