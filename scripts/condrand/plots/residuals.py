"""Residuals of the outcome against the covariates: effects that a straight line leaves out."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import heading, natural_key, shorten

_MAX_PANELS = 12
_NAMED = 3
# Okabe & Ito (2008), for the features named in a panel, the worst first.
_COLOURS = (style.VERMILLION, style.BLUE, "#009E73")
_OTHER_COLOUR = "#C4C4C4"
_NORMAL_975 = 1.96


@style.styled
def residual_trends(
    table: pd.DataFrame, *, r2: float = 0.01, outcome_scale: str = "CLR, natural log"
) -> Figure:
    """Draw the mean residual of each feature in bins of each numeric covariate.

    Parameters
    ----------
    table
        One row per ``covariate``, ``feature`` and ``bin``: ``covariate_mean``,
        ``residual_mean``, ``residual_se``, ``n_cells``, ``trend_r2``. The figure is headed by
        ``screen`` and ``analysis`` if there are such columns.
    r2
        ``trend_r2`` from which a feature is coloured and named, at most three per panel.
    outcome_scale
        Unit of the residuals.

    Returns
    -------
    matplotlib.figure.Figure
        At most 12 panels, one per covariate, those with the largest ``trend_r2`` first, all
        with the same vertical axis; the title says how many are left out. Artists by gid in
        each: 'other' (one line per feature not named), 'worst' (the features named, each with
        its ``trend_r2`` in the panel), 'error' (their 95 % intervals), 'zero', 'none'.

    Notes
    -----
    How to read it: residuals are what the design left over, so all lines should lie on zero
    within their error. A bend is an effect that the design does not hold; a spline of that
    covariate in ``formula`` mends it. A slope cannot be seen, as the design has the line.
    """
    worst = table.groupby("covariate", sort=False)["trend_r2"].max() if len(table) else {}
    names = sorted(worst.keys(), key=lambda name: (-_or_zero(worst[name]), natural_key(name)))
    shown, n_hidden = names[:_MAX_PANELS], len(names) - _MAX_PANELS
    title = heading(table) or "Residuals against covariates"
    if n_hidden > 0:
        title += f": the {len(shown)} covariates with the strongest trend, {n_hidden:,} not shown"
    # Four are a square, and no panel stands alone.
    n_columns = 2 if len(shown) == 4 else min(3, max(1, len(shown)))
    n_rows = max(1, -(-len(shown) // n_columns))
    width = min(style.PAGE, 1.2 + 2.3 * n_columns)
    figure, axes = style.new_figure(width, 0.7 + 2.1 * n_rows, n_rows=n_rows, n_columns=n_columns)
    figure.supylabel(f"Mean residual of the outcome\n({outcome_scale})", multialignment="center")
    panels = list(axes.flat)
    for panel in panels[max(1, len(shown)) :]:
        panel.remove()
    if not shown:
        style.say_empty(panels[0], "no numeric covariate with more than two values")
        style.title_above(figure, title)
        return figure

    handles: dict[str, object] = {}
    limits = [(0.0, 0.0)]
    for panel, covariate in zip(panels, shown, strict=False):
        panel.set_xlabel(fit(covariate, 72.0 * width / n_columns - 20.0, size=style.FONT))
        rows = table[table["covariate"] == covariate]
        limits.append(_draw_panel(panel, rows, r2))
        for artist in [*panel.lines, *panel.collections]:
            handles.setdefault(artist.get_gid(), artist)
    low, high = min(low for low, _ in limits), max(high for _, high in limits)
    span = (high - low) or 1.0
    for i, panel in enumerate(panels[: len(shown)]):
        # Above the lines, where the names are.
        panel.set_ylim(low - 0.05 * span, high + 0.35 * span)
        panel.tick_params(labelleft=i % n_columns == 0)
    legend = (
        ("other", "other features" if "worst" in handles else "features"),
        ("worst", "feature named, with the share of its residual variance that the bins explain"),
        ("error", "95 % interval of the mean"),
    )
    drawn = [(handles[gid], name) for gid, name in legend if gid in handles]
    style.legend_above(figure, *map(list, zip(*drawn, strict=True)), title, len(drawn))
    return figure


def _draw_panel(panel: Axes, rows: pd.DataFrame, r2: float) -> tuple[float, float]:
    """Draw a covariate; give the lowest and the highest mean."""
    trends = rows.drop_duplicates("feature").sort_values(
        "trend_r2", ascending=False, kind="stable"
    )
    named = trends.loc[trends["trend_r2"] >= r2, "feature"].tolist()[:_NAMED]
    lines = {name: part.sort_values("bin") for name, part in rows.groupby("feature", sort=False)}
    panel.axhline(0.0, color=style.BLACK, gid="zero", zorder=2)
    many = len(lines) > style.MAX_VECTOR_POINTS // 20
    for name, part in lines.items():
        x, y = part["covariate_mean"].to_numpy(), part["residual_mean"].to_numpy()
        if name not in named:
            panel.plot(
                x, y, "-", color=_OTHER_COLOUR, gid="other", zorder=1, rasterized=many, alpha=0.8
            )
    for i, name in enumerate(named):
        part = lines[name]
        x, y = part["covariate_mean"].to_numpy(), part["residual_mean"].to_numpy()
        # The interval of a bin of one cell is not known.
        half = np.nan_to_num(_NORMAL_975 * part["residual_se"].to_numpy(np.float64))
        panel.fill_between(
            x, y - half, y + half, color=_COLOURS[i], alpha=0.2, linewidth=0, gid="error", zorder=3
        )
        panel.plot(
            x, y, "-o", color=_COLOURS[i], linewidth=1.0, markersize=2.0, gid="worst", zorder=4
        )
        share = 100.0 * trends.loc[trends["feature"] == name, "trend_r2"].iloc[0]
        panel.annotate(
            f"{shorten(name, 28)}: {share:.1f} %",
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(4, -2 - 8.0 * i),
            textcoords="offset points",
            va="top",
            color=_COLOURS[i],
            fontsize=style.SMALL_FONT,
            gid="name",
        )
    if not named:
        highest = _or_zero(trends["trend_r2"].max())
        panel.annotate(
            f"none above {100 * r2:g} % (largest {100 * highest:.2g} %, "
            f"{shorten(trends['feature'].iloc[0], 16)})",
            (0.0, 1.0),
            xycoords="axes fraction",
            xytext=(4, -2),
            textcoords="offset points",
            va="top",
            color=style.GUIDE_COLOUR,
            fontsize=style.SMALL_FONT,
            gid="none",
        )
    means = rows["residual_mean"].to_numpy(np.float64)
    return float(means.min()), float(means.max())


def _or_zero(value: float) -> float:
    return float(value) if np.isfinite(value) else 0.0
