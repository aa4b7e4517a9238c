"""Quantile-quantile plots of a notebook."""

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib import pyplot as plt
from matplotlib.axes import Axes

from condrand.api.diagnostics import fit_skew_normal
from condrand.io.figures import save_figure
from condrand.nulls.leave_one_out import compute_null_pvals_from_null_stats, qq_expected_grid
from condrand.plots.points import uniform_band
from condrand.plots.qq_crossfit import qq_crossfit

_SMALLEST_P = 1e-300


def qq_plot_ntc_pvals(
    pvals_raw_df: pd.DataFrame | None,
    guide2gene: Mapping[str, str],
    ntc_genes: Iterable[str],
    *,
    pvals_skew_df: pd.DataFrame | None = None,
    null_pvals: Sequence[float] | np.ndarray | None = None,
    null_stats: Sequence[float] | np.ndarray | None = None,
    null_two_sided: bool = True,
    show_null_skew: bool = False,
    null_skew_samples: int | None = None,
    null_skew_seed: int | None = 0,
    expected_grid_raw: np.ndarray | None = None,
    expected_grid_all: np.ndarray | None = None,
    ntc_group_pvals_ens: Mapping[int, pd.DataFrame] | None = None,
    ntc_group_pvals_skew_ens: Mapping[int, pd.DataFrame] | None = None,
    show_ntc_ensemble_band: bool = False,
    ntc_band_quantiles: tuple[float, float] | None = None,
    ntc_band_alpha: float = 0.15,
    ax: Axes | None = None,
    title: str | None = None,
    label_ntc_raw: str = "NTC (raw)",
    label_skew: str = "NTC (skew)",
    label_null: str = "null",
    label_null_skew: str = "null (skew)",
    label_all: str = "All observed",
    color_ntc_raw: str = "#1f77b4",
    color_skew: str = "#ff7f0e",
    color_null: str = "#7f7f7f",
    color_null_skew: str = "#2ca02c",
    color_all: str = "#9467bd",
    all_marker: str = ".",
    all_marker_size: float = 12.0,
    all_alpha: float = 0.6,
    show_ref_line: bool = True,
    show_conf_band: bool = True,
    conf_alpha: float = 0.05,
    conf_color: str = "#d9d9d9",
    show_all_pvals: bool = True,
) -> Axes:
    """Draw p values of controls, of resamples and of all genes against uniform quantiles.

    Parameters
    ----------
    pvals_raw_df : pandas.DataFrame
        Genes x programs. NaN is left out.
    guide2gene : mapping of str to str
        NTC labels that are not among its genes are an error.
    ntc_genes : iterable of str
        Labels of the controls: rows of `pvals_raw_df`, drawn where there are no groups.
    pvals_skew_df : pandas.DataFrame, optional
        The same of the fitted skew-normal.
    null_pvals : float64, optional
        P values of resamples (:func:`condrand.api.compute_gene_null_pvals`).
    null_stats : float64, optional
        Resampled statistics: their leave-one-out p values stand for `null_pvals`.
    null_two_sided : bool
        How `null_stats` are compared; else by their right tail.
    show_null_skew : bool
        Draw, for samples from the skew-normal fitted to `null_stats`, their empirical p values
        among the resamples: on the diagonal where the fit is right.
    null_skew_samples : int, optional
        As many as there are resamples by default.
    null_skew_seed : int, optional
    expected_grid_raw, expected_grid_all : float64, optional
        Expected quantiles of the controls and of all genes, ``(i - 0.5)/m`` by default.
    ntc_group_pvals_ens, ntc_group_pvals_skew_ens : mapping of int to pandas.DataFrame, optional
        P values of groups by replicate; all together make the curve of the controls.
    show_ntc_ensemble_band : bool
        Draw the quantiles `ntc_band_quantiles` (quartiles by default) over replicates, in opacity
        `ntc_band_alpha`.
    ax : matplotlib.axes.Axes, optional
        A new one by default.
    title, label_ntc_raw, label_skew, label_null, label_null_skew, label_all, color_ntc_raw,
    color_skew, color_null, color_null_skew, color_all, all_marker, all_marker_size, all_alpha,
    conf_color
        Looks.
    show_ref_line, show_conf_band, show_all_pvals : bool
    conf_alpha : float
        The band holds a share of 1 - `conf_alpha` of as many independent uniform p values as the
        null has, point by point.

    Returns
    -------
    matplotlib.axes.Axes
        Artists by gid: 'all-tests', 'controls-empirical', 'controls-reported', 'crt-null',
        'null-skew', 'band', 'ensemble-band', 'identity'.

    Raises
    ------
    ValueError
        If there is no null, what is to be shown is not given, labels are absent, or a grid has
        another length than its curve.
    """
    if pvals_raw_df is None:
        raise ValueError("pvals_raw_df is needed")
    if null_pvals is None and null_stats is None:
        raise ValueError("give null_pvals or null_stats")
    if show_null_skew and null_stats is None:
        raise ValueError("show_null_skew needs null_stats")
    if ntc_group_pvals_ens and pvals_skew_df is not None and not ntc_group_pvals_skew_ens:
        raise ValueError("groups with pvals_skew_df need ntc_group_pvals_skew_ens")
    labels = list(dict.fromkeys(ntc_genes))
    if not labels or not set(labels) & set(guide2gene.values()):
        raise ValueError(f"no guide has one of the labels {labels}")
    if null_pvals is None:
        stats = np.asarray(null_stats, np.float64)
        null_pvals = compute_null_pvals_from_null_stats(stats, 0 if null_two_sided else 1)
    null = _sorted(null_pvals)
    raw = _controls(pvals_raw_df, labels, ntc_group_pvals_ens)
    grid = _grid(expected_grid_raw, raw, "expected_grid_raw")
    ax = plt.subplots(figsize=(4.5, 4.5))[1] if ax is None else ax
    if show_conf_band:
        expected, low, high = uniform_band(null.size, 1.0 - conf_alpha)
        ax.fill_between(expected, low, high, color=conf_color, linewidth=0, gid="band", zorder=0)
    if show_ntc_ensemble_band:
        if not ntc_group_pvals_ens:
            raise ValueError("show_ntc_ensemble_band needs ntc_group_pvals_ens")
        quantiles = ntc_band_quantiles or (0.25, 0.75)
        shares = np.linspace(0.01, 0.99, 200)
        curves = [np.quantile(_sorted(table), shares) for table in ntc_group_pvals_ens.values()]
        low, high = np.quantile(-np.log10(curves), quantiles, axis=0)
        ax.fill_between(
            -np.log10(shares),
            low,
            high,
            color=color_ntc_raw,
            alpha=ntc_band_alpha,
            linewidth=0,
            gid="ensemble-band",
        )
    if show_all_pvals:
        every = _sorted(pvals_raw_df)
        expected = _grid(expected_grid_all, every, "expected_grid_all")
        ax.scatter(
            -np.log10(expected),
            -np.log10(every),
            s=all_marker_size,
            c=color_all,
            alpha=all_alpha,
            marker=all_marker,
            linewidths=0,
            label=f"{label_all} (n = {every.size:,})",
            gid="all-tests",
        )

    def curve(p: np.ndarray, expected: np.ndarray, label: str, colour: str, gid: str, line: str):
        text = f"{label} (n = {p.size:,})"
        ax.plot(-np.log10(expected), -np.log10(p), line, color=colour, label=text, gid=gid)

    curve(raw, grid, label_ntc_raw, color_ntc_raw, "controls-empirical", "-")
    if pvals_skew_df is not None or ntc_group_pvals_skew_ens:
        skew = _controls(pvals_skew_df, labels, ntc_group_pvals_skew_ens)
        curve(skew, qq_expected_grid(skew), label_skew, color_skew, "controls-reported", "-")
    curve(null, qq_expected_grid(null), label_null, color_null, "crt-null", "--")
    if show_null_skew:
        stats = np.asarray(null_stats, np.float64).ravel()
        p = _sorted(_skew_samples(stats, null_skew_samples, null_skew_seed, null_two_sided))
        curve(p, qq_expected_grid(p), label_null_skew, color_null_skew, "null-skew", ":")
    if show_ref_line:
        end = -np.log10(0.5 / max(null.size, raw.size))
        ax.plot([0, end], [0, end], "-", color="black", linewidth=0.8, gid="identity")
    ax.set_xlabel("Expected −log₁₀ p")
    ax.set_ylabel("Observed −log₁₀ p")
    if title:
        ax.set_title(title)
    ax.legend(frameon=False)
    return ax


def make_ntc_empirical_qq_plots(
    out: Mapping[str, Any],
    out_dir: str | Path,
    programs_to_plot: str | Iterable[str] = "top_var",
    n_programs: int = 6,
    make_per_batch: bool = True,
    make_meta: bool = True,
    envelope_boot: int = 200,
    seed: int = 0,
) -> list[Path]:
    """Save quantile-quantile plots of genes and held-out control guides against the others.

    Parameters
    ----------
    out : mapping
        Of :func:`condrand.api.run_all_genes_union_crt` with ``null_method="ntc_empirical"`` and
        ``qq_crossfit=True``.
    out_dir : str or pathlib.Path
    programs_to_plot : "top_var" or iterable of str
        Those whose effects vary most over genes, or names.
    n_programs : int
        How many of those that vary most.
    make_per_batch, make_meta : bool
        Of every batch, of all batches together.
    envelope_boot, seed : int
        Bootstrap samples of the envelope of the held-out curve.

    Returns
    -------
    list of pathlib.Path
        ``qq_ntc_empirical_genelevel_meta.png``, ``qq_ntc_empirical_program_<name>_meta.png``,
        ``per_batch/<batch>/qq_ntc_empirical_genelevel.png`` and ``..._program_<name>.png``.
    """
    if out.get("ntc_crossfit") is None:
        raise ValueError("out has no ntc_crossfit: run with qq_crossfit=True")
    found, effects = out["ntc_crossfit"], out["betas_df"]
    if isinstance(programs_to_plot, str) and programs_to_plot == "top_var":
        programs = list(effects.var().sort_values(ascending=False).index[:n_programs])
    else:
        wanted = [programs_to_plot] if isinstance(programs_to_plot, str) else programs_to_plot
        programs = list(wanted)
        unknown = set(programs) - set(effects.columns)
        if unknown:
            raise ValueError(f"there are no programs {sorted(unknown)}")
    sets = []
    if make_meta:
        genes = (found["meta_p_real_gene_vs_A"], found["meta_p_ntcB_gene_vs_A"])
        every = (found["meta_p_real_vs_A"], found["meta_p_ntcB_vs_A"])
        sets.append((Path(out_dir), "_meta", "", genes, every))
    for batch in found["batches"] if make_per_batch else []:
        names = ("real_gene", "ntcB_gene", "real", "ntcB")
        p = [found[f"p_{name}_vs_A_by_batch"][batch] for name in names]
        folder = Path(out_dir) / "per_batch" / _as_file(batch)
        sets.append((folder, "", f"batch {batch}", p[:2], p[2:]))
    written = []
    for folder, ending, title, genes, every in sets:
        panels = {"genelevel": ("largest effect of each gene", genes)}
        for program in programs:
            k = effects.columns.get_loc(program)
            panels[f"program_{_as_file(program)}"] = (str(program), [p[:, k] for p in every])
        for name, (panel, pair) in panels.items():
            figure = qq_crossfit(
                {panel: tuple(pair)}, title=title, n_boot=envelope_boot, seed=seed
            )
            written.append(folder / f"qq_ntc_empirical_{name}{ending}.png")
            save_figure(figure, written[-1])
    return written


def _sorted(p: Any) -> np.ndarray:
    p = np.asarray(p, np.float64).ravel()
    return np.sort(np.clip(p[np.isfinite(p)], _SMALLEST_P, 1.0))


def _controls(
    table: pd.DataFrame | None, labels: list[str], ensemble: Mapping[int, pd.DataFrame] | None
) -> np.ndarray:
    if ensemble:
        return _sorted(np.concatenate([np.ravel(of) for of in ensemble.values()]))
    there = [label for label in labels if label in table.index]
    if not there:
        raise ValueError(f"no row of the p values is called {' or '.join(map(repr, labels))}")
    return _sorted(table.loc[there])


def _grid(given: np.ndarray | None, p: np.ndarray, name: str) -> np.ndarray:
    if given is None:
        return qq_expected_grid(p)
    if np.size(given) != p.size:
        raise ValueError(f"{name} has {np.size(given)} quantiles for {p.size} p values")
    return np.sort(np.asarray(given, np.float64))


def _skew_samples(
    stats: np.ndarray, n: int | None, seed: int | None, two_sided: bool
) -> np.ndarray:
    xi, omega, alpha, _, _ = fit_skew_normal(stats)
    delta = alpha / np.sqrt(1 + alpha**2)
    # Azzalini 1985: delta |u| + sqrt(1 - delta**2) v has shape alpha.
    u, v = np.random.default_rng(seed).normal(size=(2, n or stats.size))
    samples = xi + omega * (delta * np.abs(u) + np.sqrt(1 - delta**2) * v)
    extremity, far = (np.abs(stats), np.abs(samples)) if two_sided else (stats, samples)
    below = np.searchsorted(np.sort(extremity), far, side="left")
    return (1 + stats.size - below) / (stats.size + 1)


def _as_file(name: object) -> str:
    return "".join(c if c.isalnum() or c in "-_." else "_" for c in str(name))
