"""Cross-fitted quantile-quantile plot: genes and held-out NTC units against other NTC units."""

from collections.abc import Mapping

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from condrand.plots import style
from condrand.plots.labels import fit
from condrand.plots.points import thin_ranks
from condrand.plots.qq import HEIGHT, draw_curve

_SMALLEST_P = 1e-300
_KINDS = (
    ("real", "genes against A", style.TARGET_COLOUR, 4),
    ("holdout", "held-out NTC units B against A", style.CONTROL_COLOUR, 3),
)


def expected_quantiles(m: int) -> np.ndarray:
    """Where sorted p values are expected.

    Parameters
    ----------
    m
        Number of tests, at least 1.

    Returns
    -------
    float64 array, shape (m,)
        (i - 0.5) / m for i = 1 .. m.

    Raises
    ------
    ValueError
        If there is no test.
    """
    if m < 1:
        raise ValueError(f"expected_quantiles: m = {m}, but it must be at least 1")
    return (np.arange(1, m + 1) - 0.5) / m


def qq_coords(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The curve of a set of p values.

    Parameters
    ----------
    p : float64
        NaN is ignored; values below 1e-300 are drawn there.

    Returns
    -------
    x, y : float64 array, shape (m,)
        Expected and observed -log10 p, the most significant first.

    Raises
    ------
    ValueError
        If no p value is finite.
    """
    values = np.sort(_finite(p))
    return -np.log10(expected_quantiles(values.size)), -np.log10(values)


def bootstrap_qq_envelope(
    p: np.ndarray, n_boot: int = 200, alpha: float = 0.10, seed: int = 0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """How far the curve of a set of p values would move if its tests were drawn anew.

    Parameters
    ----------
    p : float64
        NaN is ignored.
    n_boot
        Number of bootstrap samples, at least 1.
    alpha
        The envelope holds a share of 1 - ``alpha`` of them, point by point.
    seed
        Equal seeds give equal envelopes.

    Returns
    -------
    x, low, high : float64 array, shape (m,)
        Expected -log10 p, the most significant first, and the quantiles ``alpha / 2`` and
        ``1 - alpha / 2`` of the bootstrap samples' order statistics in -log10 p.

    Raises
    ------
    ValueError
        If no p value is finite, or there is no bootstrap sample.

    Notes
    -----
    Tests are drawn independently. NTC units that share guides, and programs of one unit, are
    not independent: the envelope is then too narrow. Its ends are rough, as always for the
    bootstrap of extremes: no sample holds a p value smaller than the smallest.
    """
    values = np.sort(_finite(p))
    ranks = np.arange(1, values.size + 1)
    low, high = _envelope(values, ranks, n_boot, alpha, seed)
    return -np.log10(expected_quantiles(values.size)), low, high


@style.styled
def qq_crossfit(
    panels: Mapping[str, tuple[np.ndarray, np.ndarray]],
    *,
    title: str = "",
    n_boot: int = 200,
    alpha: float = 0.10,
    seed: int = 0,
) -> Figure:
    """Draw genes and held-out NTC units, both compared with the other NTC units.

    Parameters
    ----------
    panels
        By name of the panel, in order: p values of the genes against the NTC units A, and of
        the held-out units B against A. NaN is ignored; either may be empty.
    title
        Heading of the figure.
    n_boot, alpha, seed
        Of the envelope of the held-out curve: :func:`bootstrap_qq_envelope`.

    Returns
    -------
    matplotlib.figure.Figure
        One panel per name, the first one alone in a figure of one, all with the same axes.
        Artists by gid in each: 'real' and 'holdout', each also with '-above', 'envelope' and
        'identity'. Above each panel: the shares with p < 0.05; in the legend: how many tests.

    Notes
    -----
    The held-out units have no effect and took no part in the null: their curve lies on the
    diagonal if the comparison with A is calibrated, and the diagonal then lies in the envelope.
    Genes above the envelope have effects; genes and held-out units above the diagonal alike
    mean that A is no null for either. The panels' height is as in
    :func:`condrand.plots.qq.qq`.
    """
    n = max(1, len(panels))
    n_columns = min(3, max(1, int(np.ceil(np.sqrt(n)))))
    n_rows = -(-n // n_columns)
    width = style.COLUMN if n == 1 else min(style.PAGE, 1.1 + 2.4 * n_columns)
    height = 3.9 if n == 1 else 0.8 + 2.0 * n_rows
    figure, axes = style.new_figure(width, height, n_rows=n_rows, n_columns=n_columns, share=True)
    figure.supxlabel(f"Expected {style.LOG10_P}")
    figure.supylabel(f"Observed {style.LOG10_P}")
    shown = list(axes.flat)
    for panel in shown[n:]:
        panel.remove()
    # The panel above a removed one is the lowest of its column.
    for panel in shown[max(0, n - n_columns) : n]:
        panel.tick_params(labelbottom=True)
    data = {name: tuple(_finite(p, least=0) for p in pair) for name, pair in panels.items()}
    largest = max((p.size for pair in data.values() for p in pair), default=0)
    if not largest:
        style.say_empty(shown[0], "no test has a p value")
        if title:
            style.title_above(figure, title)
        return figure

    right = float(-np.log10(0.5 / largest))
    ceiling = float(np.ceil(HEIGHT * right))
    handles: dict[str, object] = {}
    room = 72.0 * width / n_columns - 20.0
    for panel, (name, pair) in zip(shown, data.items(), strict=False):
        _draw_panel(panel, pair, ceiling, (n_boot, alpha, seed))
        panel.plot([0, right], [0, right], "-", color=style.GUIDE_COLOUR, gid="identity", zorder=2)
        for artist in [*panel.lines, *panel.collections]:
            handles.setdefault(artist.get_gid(), artist)
        panel.set_title(f"{fit(name, room, size=style.FONT)}\n{_shares(*pair)}", pad=3)
    highest = max(-np.log10(p.min()) for pair in data.values() for p in pair if p.size)
    shown[0].set_xlim(0.0, right * 1.04)
    shown[0].set_ylim(0.0, ceiling if highest > ceiling else None)
    counts = [sorted({pair[i].size for pair in data.values()}) for i in range(len(_KINDS))]
    named = [
        (gid, f"{name} (n = {' to '.join(f'{n:,}' for n in sorted({of[0], of[-1]}))})")
        for (gid, name, _, _), of in zip(_KINDS, counts, strict=True)
    ]
    named += [("envelope", f"{1 - alpha:.0%} bootstrap envelope of B")]
    named += [(f"{gid}-above", f"above {ceiling:g}") for gid, *_ in _KINDS]
    drawn = [(handles[gid], name) for gid, name in named if gid in handles]
    columns = 1 if n == 1 else min(len(drawn), 2 * n_columns)
    style.legend_above(figure, *map(list, zip(*drawn, strict=True)), title, columns)
    return figure


def _draw_panel(
    panel: Axes,
    pair: tuple[np.ndarray, np.ndarray],
    ceiling: float,
    bootstrap: tuple[int, float, int],
) -> None:
    holdout = np.sort(pair[1])
    if holdout.size:
        ranks = thin_ranks(holdout.size, keep=200, spread=300)
        low, high = _envelope(holdout, ranks, *bootstrap)
        panel.fill_between(
            -np.log10((ranks - 0.5) / holdout.size),
            low,
            high,
            color=style.CONTROL_COLOUR,
            alpha=0.3,
            linewidth=0,
            gid="envelope",
            zorder=1,
        )
    else:
        style.say_empty(panel, "no held-out NTC unit")
    for p, (gid, name, colour, zorder) in zip(pair, _KINDS, strict=True):
        draw_curve(panel, -np.log10(p), ceiling, name, colour, gid, zorder, size=2.0)


def _shares(real: np.ndarray, holdout: np.ndarray) -> str:
    shares = [
        f"{name} {100 * np.mean(p < 0.05):.1f} %"
        for name, p in (("genes", real), ("B", holdout))
        if p.size
    ]
    return f"p < 0.05: {', '.join(shares)}" if shares else "no tests"


def _envelope(
    values: np.ndarray, ranks: np.ndarray, n_boot: int, alpha: float, seed: int
) -> tuple[np.ndarray, np.ndarray]:
    """Give the envelope at some ranks of sorted p values."""
    if n_boot < 1:
        raise ValueError(f"bootstrap_qq_envelope: n_boot = {n_boot}, but it must be at least 1")
    rng = np.random.default_rng(seed)
    samples = np.empty((n_boot, ranks.size))
    for sample in samples:
        # Positions sort as their values do.
        drawn = np.sort(rng.integers(0, values.size, values.size))
        sample[:] = -np.log10(values[drawn[ranks - 1]])
    low, high = np.quantile(samples, [alpha / 2.0, 1.0 - alpha / 2.0], axis=0)
    return low, high


def _finite(p: np.ndarray, *, least: int = 1) -> np.ndarray:
    values = np.asarray(p, dtype=np.float64).ravel()
    values = values[np.isfinite(values)]
    if values.size < least:
        raise ValueError("no p value is finite: there is no curve to draw")
    return np.clip(values, _SMALLEST_P, 1.0)
