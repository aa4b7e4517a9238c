"""Propensities: how well the covariates predict which cells carry a guide."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.points import heading

_KINDS = (
    ("target", "targets", style.TARGET_COLOUR),
    ("ntc_guide", "NTC guides", style.CONTROL_COLOUR),
)
# Markers in points: of a few units, and of so many that larger ones would merge.
_SIZE, _SIZE_OF_MANY, _MANY = 2.5, 1.5, 1000


@style.styled
def propensity(units: pd.DataFrame) -> Figure:
    """Draw the fitted propensities of all targets and NTC guides.

    Parameters
    ----------
    units
        One row per target and NTC guide: ``unit``, ``kind`` ('target' or 'ntc_guide'),
        ``n_target`` (treated cells), ``n_expected`` (sum of the propensities, cells),
        ``p_q01``, ``p_median``, ``p_q99`` (quantiles of the propensity over cells), ``auc``
        (of the propensity for being treated), ``note``. Missing values are not drawn. The
        figure is headed by ``screen`` and ``analysis`` if there are such columns.

    Returns
    -------
    matplotlib.figure.Figure
        Panel a: expected against observed treated cells. Panel b: the 1% to 99% interval and
        the median of each unit's propensity, units sorted by treated cells. Panel c: AUC
        against treated cells. Artists by gid: the kind, and 'interval-' before it.
    """
    figure, axes = style.new_figure(style.PAGE, 2.7, n_columns=3)
    expected, intervals, auc = axes.flat
    for panel, letter in zip(axes.flat, "abc", strict=True):
        panel.set_title(letter, fontweight="bold", fontsize=style.FONT + 1)
    # Sorted here, so that the rank of a unit is its position.
    units = units.sort_values(["n_target", "unit"], kind="stable").reset_index(drop=True)
    _draw_expected(expected, units)
    _draw_intervals(intervals, units)
    _draw_auc(auc, units)
    handles, names = expected.get_legend_handles_labels()
    title = heading(units)
    if handles:
        style.legend_above(figure, handles, names, title, 2)
    elif title:
        style.title_above(figure, title)
    return figure


def _draw_expected(panel: Axes, units: pd.DataFrame) -> None:
    panel.set_xlabel("Observed treated cells")
    panel.set_ylabel("Expected treated cells")
    shown = _positive(units, "n_target", "n_expected")
    if shown.empty:
        style.say_empty(panel, "no propensity fitted")
        return
    values = shown[["n_target", "n_expected"]].to_numpy(np.float64)
    low, high = float(values.min()), float(values.max())
    style.log_axis(panel, "x", low, high)
    style.log_axis(panel, "y", low, high)
    panel.axline((low, low), (high * 2, high * 2), color=style.BLACK, gid="identity", zorder=1)
    _dots(panel, shown, shown["n_target"], "n_expected")


def _draw_intervals(panel: Axes, units: pd.DataFrame) -> None:
    panel.set_xlabel("Rank by treated cells")
    panel.set_ylabel("Propensity (median, 1% to 99%)")
    shown = _positive(units, "p_median", "p_q99")
    if shown.empty:
        style.say_empty(panel, "no propensity fitted")
        return
    quantiles = shown[["p_q01", "p_median", "p_q99"]].to_numpy(np.float64)
    low, high = quantiles[quantiles > 0.0].min(), quantiles.max()
    style.log_axis(panel, "y", float(low), float(high))
    panel.set_xlim(0, len(shown) + 1)
    ranks = pd.Series(np.arange(1, len(shown) + 1), index=shown.index)
    # In inches: the panel is about 1.6 wide; a line fills its share of it, within what is seen.
    thickness = float(np.clip(1.6 * 72 * 0.6 / len(shown), 0.15, 2.0))
    for kind, _, colour in _KINDS:
        rows = (shown["kind"] == kind).to_numpy(bool)
        panel.vlines(
            ranks[rows],
            # A quantile of 0 has no place on a logarithmic axis: drawn from its lower end.
            np.maximum(quantiles[rows, 0], low),
            quantiles[rows, 2],
            color=colour,
            alpha=0.35,
            linewidth=thickness,
            gid=f"interval-{kind}",
            zorder=2,
            rasterized=len(shown) > style.MAX_VECTOR_POINTS,
        )
    _dots(panel, shown, ranks, "p_median", scale=0.6)


def _draw_auc(panel: Axes, units: pd.DataFrame) -> None:
    panel.set_xlabel("Observed treated cells")
    panel.set_ylabel("AUC of the propensity")
    panel.axhline(0.5, linestyle="--", color=style.BLACK, gid="chance", zorder=1)
    shown = _positive(units, "n_target", "auc")
    if shown.empty:
        panel.set_ylim(0.4, 1.0)
        style.say_empty(panel, "no propensity fitted")
        return
    cells = shown["n_target"].to_numpy(np.float64)
    style.log_axis(panel, "x", float(cells.min()), float(cells.max()))
    values = shown["auc"].to_numpy(np.float64)
    margin = 0.05 * max(values.max() - min(values.min(), 0.5), 0.1)
    panel.set_ylim(min(values.min(), 0.5) - margin, max(values.max(), 0.6) + margin)
    _dots(panel, shown, shown["n_target"], "auc")


def _positive(units: pd.DataFrame, *columns: str) -> pd.DataFrame:
    """Give the rows where all these columns are finite and above 0."""
    values = units[list(columns)].to_numpy(np.float64)
    return units[np.all(np.isfinite(values) & (values > 0.0), axis=1)]


def _dots(
    panel: Axes, units: pd.DataFrame, x: pd.Series, column: str, *, scale: float = 1.0
) -> None:
    size = _SIZE if len(units) <= _MANY else _SIZE_OF_MANY
    for kind, name, colour in _KINDS:
        rows = (units["kind"] == kind).to_numpy(bool)
        panel.plot(
            x[rows],
            units.loc[rows, column],
            "o",
            color=colour,
            markersize=size * scale,
            markeredgewidth=0,
            label=f"{name} ({int(rows.sum()):,})",
            gid=kind,
            zorder=3 if kind == "target" else 4,
            rasterized=len(units) > style.MAX_VECTOR_POINTS,
        )
