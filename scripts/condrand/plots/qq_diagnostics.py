"""Quantile-quantile plots that tell why an analysis is calibrated or not."""

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import (
    heading,
    log10_p,
    natural_key,
    shared_floor,
    tested,
    thin_ranks,
    uniform_band,
)
from condrand.plots.qq import HEIGHT, draw_curve, draw_floor, empirical_p

# Of the palette that style takes its colours from (Okabe & Ito 2008).
REPORTED_COLOUR = "#009E73"
_ENSEMBLE_COLOUR = "#8F5F00"
_MAX_PANELS = 20
_SIGNIFICANT = 0.05
# Points of the curve of an ensemble, of its median and of its quartiles.
_ENSEMBLE_GRID = 200
_ORDER = (
    "all-tests",
    "controls-empirical",
    "controls-reported",
    "crt-null",
    "ensemble-median",
    "ensemble-band",
    "band",
    "all-tests-above",
    "controls-empirical-above",
    "controls-reported-above",
)


@style.styled
def qq_diagnostics(
    effects: pd.DataFrame,
    controls: pd.DataFrame | None = None,
    groups: pd.DataFrame | None = None,
    null_counts: np.ndarray | None = None,
    *,
    confidence: float = 0.95,
) -> Figure:
    """Draw all tests, the controls under either p value, the resamples and the replicates.

    Parameters
    ----------
    effects
        One row per target and feature, columns of the results contract and ``p_empirical``.
    controls
        The same for the NTC guides taken as targets. Drawn where there are no groups.
    groups
        The same for NTC groups; ``target`` is ``replicate/group``. All replicates together
        make the curves of the controls.
    null_counts : int64 array, shape (B,)
        How many leave-one-out p values of resamples are 1/B, 2/B, ... 1.
    confidence
        Pointwise coverage of the band, between 0 and 1.

    Returns
    -------
    matplotlib.figure.Figure
        One panel. Artists by gid: 'all-tests' (reported p values), 'controls-empirical',
        'controls-reported' (where a control reports another p value than that), each also with
        '-above' for the tests above the panel; 'crt-null'; 'ensemble-median' and
        'ensemble-band' (with two replicates or more); 'band', 'identity', 'floor'. What has no
        tests is left out.

    Notes
    -----
    Each curve has its own number of tests m and is drawn at -log10((i - 0.5) / m). How to read
    it: controls above the diagonal while the CRT null lies on it: the covariates do not explain
    who is treated, or the outcome's model is wrong. The CRT null itself off the diagonal: many
    resamples tie. Reported controls leaving the empirical ones before their floor: the
    fitted, or refined, tail is wrong. A wide ensemble: a few guides make the difference, see
    the guides that stand out.

    The ensemble holds the median and the quartiles, over replicates, of each replicate's
    quantiles. Of the resamples, which share few values, each value is drawn once, at the last
    of its ranks: on the diagonal if a share p of them is at most p. The band is that of as
    many independent tests as the controls have (all tests without controls); tests of one unit
    and groups that share guides are not independent, so that curves leave it more often. The
    panel's height, thinning and triangles are as in :func:`condrand.plots.qq.qq`.
    """
    nulls, name = (groups, "NTC groups") if _any(groups) else (controls, "NTC guides")
    all_tests, reported = tested(effects), tested(_table(nulls), "p_empirical")
    values = log10_p(all_tests)
    resampled = _empirical(_table(nulls))
    raw = -np.log10(resampled)
    fitted = np.empty(0)
    if not raw.size or (reported["p_value"] != reported["p_empirical"]).any():
        fitted = log10_p(reported)
    counts = np.zeros(0, np.int64) if null_counts is None else np.asarray(null_counts, np.int64)

    figure, axes = style.new_figure(style.WIDE, 4.9)
    panel = axes[0, 0]
    panel.set_xlabel(f"Expected {style.LOG10_P}")
    panel.set_ylabel(f"Observed {style.LOG10_P}")
    n_band = max(raw.size, fitted.size) or values.size
    if n_band == 0 and not counts.any():
        style.say_empty(panel, "no test has a p value")
        return figure

    tops = [0.0]
    ends = [-np.log10(0.5 / m) for m in (values.size, raw.size, fitted.size) if m]
    if n_band:
        of = name if max(raw.size, fitted.size) else "all tests"
        tops.append(_draw_band(panel, n_band, confidence, of))
    if counts.any():
        ends.append(_draw_crt_null(panel, counts))
    if _any(groups):
        _draw_ensemble(panel, groups)
    floor = shared_floor(np.concatenate([resampled, empirical_p(all_tests, reported)]))
    right = max(ends)
    ceiling = float(np.ceil(max(HEIGHT * right, 1.05 * max(tops), 1.08 * (floor or 0.0))))
    draw_curve(panel, values, ceiling, "all tests", style.TARGET_COLOUR, "all-tests", 3)
    empirical = f"{name}, empirical p" if fitted.size else name
    draw_curve(
        panel, raw, ceiling, empirical, style.CONTROL_COLOUR, "controls-empirical", 4, size=3.0
    )
    draw_curve(
        panel, fitted, ceiling, f"{name}, reported p", REPORTED_COLOUR, "controls-reported", 5
    )
    panel.plot([0, right], [0, right], "-", color=style.GUIDE_COLOUR, gid="identity", zorder=2)
    panel.set_xlim(0, right * 1.04)
    highest = float(np.concatenate([values, raw, fitted]).max(initial=0.0))
    panel.set_ylim(0.0, ceiling if highest > ceiling else None)
    if floor is not None:
        draw_floor(panel, floor)
    handles, names = panel.get_legend_handles_labels()
    order = sorted(range(len(names)), key=lambda i: _ORDER.index(handles[i].get_gid()))
    style.legend_above(
        figure, [handles[i] for i in order], [names[i] for i in order], heading(effects), 2
    )
    return figure


@style.styled
def qq_by_feature(
    effects: pd.DataFrame,
    controls: pd.DataFrame | None = None,
    groups: pd.DataFrame | None = None,
    *,
    confidence: float = 0.95,
) -> Figure:
    """Draw a small quantile-quantile plot per feature: targets, NTC guides and NTC groups.

    Parameters
    ----------
    effects, controls, groups, confidence
        As for :func:`qq_diagnostics`.

    Returns
    -------
    matplotlib.figure.Figure
        At most 20 panels with the same axes, titled with their feature: those with most tests
        at a false discovery rate of 5 % first, then by their smallest p value; the title says
        how many features are left out. Artists by gid in each panel: 'all-tests', 'controls',
        'groups' (reported p values), each also with '-above', 'band' and 'identity'.

    Notes
    -----
    A feature whose controls leave the diagonal where those of other features do not has an
    outcome that the covariates describe badly. The band is that of the panel's groups, or
    guides, or targets, whichever is there first.
    """
    curves = (
        (tested(effects), "targets", style.TARGET_COLOUR, "all-tests"),
        (tested(_table(controls)), "NTC guides", style.CONTROL_COLOUR, "controls"),
        (tested(_table(groups)), "NTC groups", REPORTED_COLOUR, "groups"),
    )
    features = _features(curves[0][0], *(curve[0] for curve in curves[1:]))
    shown, n_hidden = features[:_MAX_PANELS], len(features) - _MAX_PANELS
    title = heading(effects)
    if n_hidden > 0:
        title += f": the {len(shown)} features with most discoveries, {n_hidden:,} not shown"
    n_columns = min(5, max(1, int(np.ceil(np.sqrt(len(shown))))))
    n_rows = max(1, -(-len(shown) // n_columns))
    width = min(style.PAGE, 1.1 + 2.4 * n_columns)
    figure, axes = style.new_figure(
        width, 0.9 + 1.5 * n_rows, n_rows=n_rows, n_columns=n_columns, share=True
    )
    figure.supxlabel(f"Expected {style.LOG10_P}")
    figure.supylabel(f"Observed {style.LOG10_P}")
    panels = list(axes.flat)
    if not shown:
        style.say_empty(panels[0], "no test has a p value")
        return figure

    for panel in panels[len(shown) :]:
        panel.remove()
    # The panel above a removed one is the lowest of its column.
    for panel in panels[max(0, len(shown) - n_columns) : len(shown)]:
        panel.tick_params(labelbottom=True)
    values = [
        {name: log10_p(rows) for name, rows in table.groupby("feature", observed=True)}
        for table, _, _, _ in curves
    ]
    none = np.empty(0)
    sizes = [of.get(name, none).size for of in values for name in shown]
    right = float(-np.log10(0.5 / max(sizes)))
    n_bands = [next(n for of in values[::-1] if (n := of.get(f, none).size)) for f in shown]
    top = max(uniform_band(n, confidence)[2].max() for n in set(n_bands))
    ceiling = float(np.ceil(max(HEIGHT * right, 1.05 * top)))
    highest = max(of[name].max() for of in values for name in shown if name in of)
    handles: dict[str, object] = {}
    for panel, feature, n_band in zip(panels, shown, n_bands, strict=False):
        _draw_band(panel, n_band, confidence, "")
        for (_, _, colour, gid), of, zorder in zip(curves, values, (3, 4, 5), strict=True):
            draw_curve(panel, of.get(feature, none), ceiling, gid, colour, gid, zorder, size=2.0)
        for artist in panel.lines:
            handles.setdefault(artist.get_gid(), artist)
        panel.plot([0, right], [0, right], "-", color=style.GUIDE_COLOUR, gid="identity", zorder=2)
        panel.set_title(fit(feature, 72.0 * width / n_columns - 20.0, size=style.FONT), pad=3)
    panels[0].set_xlim(0.0, right * 1.04)
    panels[0].set_ylim(0.0, ceiling if highest > ceiling else None)
    drawn = [(handles[gid], name) for _, name, _, gid in curves if gid in handles]
    above = next((handles[gid] for gid in handles if gid.endswith("-above")), None)
    if above is not None:
        drawn.append((above, f"above {ceiling:g}"))
    drawn.append((panels[0].collections[0], f"{confidence:.0%} band under the null"))
    style.legend_above(figure, *map(list, zip(*drawn, strict=True)), title, len(drawn))
    return figure


def _any(table: pd.DataFrame | None) -> bool:
    return table is not None and len(tested(table)) > 0


def _table(table: pd.DataFrame | None) -> pd.DataFrame:
    return pd.DataFrame() if table is None else table


def _empirical(table: pd.DataFrame) -> np.ndarray:
    """Give the empirical p values."""
    if table.empty or "p_empirical" not in table:
        return np.empty(0)
    p = table["p_empirical"].to_numpy(np.float64)
    return p[np.isfinite(p)]


def _features(effects: pd.DataFrame, *others: pd.DataFrame) -> list[str]:
    """Give the features, those with most discoveries first, then by their smallest p value."""
    found = effects.assign(
        found=effects["fdr"].to_numpy(np.float64) <= _SIGNIFICANT, log=log10_p(effects)
    )
    by = found.groupby("feature", observed=True).agg(found=("found", "sum"), log=("log", "max"))
    rank = {name: (-row.found, -row.log) for name, row in by.iterrows()}
    names = set(rank) | {name for table in others for name in table["feature"].unique()}
    return sorted(names, key=lambda name: (rank.get(name, (0, 0.0)), natural_key(name)))


def _draw_band(panel: Axes, n: int, confidence: float, of: str) -> float:
    expected, low, high = uniform_band(n, confidence)
    panel.fill_between(
        expected,
        low,
        high,
        color=style.BAND_COLOUR,
        linewidth=0,
        label=f"{confidence:.0%} band, {n:,} independent tests" if of else None,
        gid="band",
        zorder=1,
    )
    return float(high.max())


def _draw_crt_null(panel: Axes, counts: np.ndarray) -> float:
    """Draw the p values of resamples, each value at its last rank; give where they end."""
    n, last = int(counts.sum()), np.cumsum(counts)
    values = np.flatnonzero(counts)
    values = values[thin_ranks(values.size, keep=200, spread=200) - 1]
    expected = -np.log10((last[values] - 0.5) / n)
    panel.plot(
        expected,
        -np.log10((values + 1.0) / counts.size),
        "--",
        color=style.BLACK,
        linewidth=1.0,
        label=f"CRT null, resamples as tests (n = {n:,})",
        gid="crt-null",
        zorder=6,
    )
    return float(expected.max())


def _draw_ensemble(panel: Axes, groups: pd.DataFrame) -> None:
    """Draw the median and the quartiles over replicates."""
    p = groups["p_empirical"] if "p_empirical" in groups else groups["p_value"]
    made = np.isfinite(p.to_numpy(np.float64))
    replicate = groups["target"].astype(str).str.partition("/")[0][made]
    parts = [part.to_numpy(np.float64) for _, part in p[made].groupby(replicate)]
    if len(parts) < 2:
        return
    smallest = 0.5 / min(part.size for part in parts)
    grid = np.geomspace(smallest, 1.0 - smallest, _ENSEMBLE_GRID)
    # Hazen's quantiles are those at (i - 0.5) / m.
    curves = -np.log10([np.quantile(part, grid, method="hazen") for part in parts])
    low, middle, high = np.quantile(curves, [0.25, 0.5, 0.75], axis=0)
    expected = -np.log10(grid)
    panel.fill_between(
        expected,
        low,
        high,
        color=_ENSEMBLE_COLOUR,
        alpha=0.35,
        linewidth=0,
        label="quartiles over replicates",
        gid="ensemble-band",
        zorder=4.5,
    )
    panel.plot(
        expected,
        middle,
        color=_ENSEMBLE_COLOUR,
        linewidth=1.0,
        label=f"median of {len(parts)} replicates",
        gid="ensemble-median",
        zorder=5.5,
    )
