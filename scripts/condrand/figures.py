"""The plot stage: tables in, figure files out."""

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

from condrand.engines.anova import expression, model_of, significant_features
from condrand.errors import Problems
from condrand.io.figures import save_figure, save_pages
from condrand.io.outcome import read_header
from condrand.io.samples import Samples, read_samples
from condrand.io.shards import read_arrays
from condrand.io.states import States, read_states
from condrand.io.tables import read_parquet, read_tsv, write_tsv
from condrand.linear.top_features import cluster, top_rows, z_scores
from condrand.plots.abundance import abundance_volcano
from condrand.plots.agreement import agreement
from condrand.plots.by_target import md_by_target, target_pages, volcano_by_target
from condrand.plots.cell_states import abundance_embedding
from condrand.plots.contrasts import md_by_contrast, volcano_by_contrast
from condrand.plots.counts import count_densities, library_sizes
from condrand.plots.heatmap import dotplot, heatmap
from condrand.plots.mahalanobis import expression_volcano, mahalanobis
from condrand.plots.mds import mds
from condrand.plots.mean_variance import sigma_amean, voom_trend
from condrand.plots.p_histogram import p_histogram, p_histogram_by_target
from condrand.plots.points import heading, titled
from condrand.plots.qq import qq
from condrand.plots.qq_crossfit import qq_crossfit
from condrand.plots.qq_diagnostics import qq_by_feature, qq_diagnostics
from condrand.plots.ranking import ranking
from condrand.plots.residuals import residual_trends
from condrand.plots.smoothed import smoothed_panels
from condrand.plots.top_features import clustered_heatmap, top_heatmap
from condrand.plots.volcano import volcano, volcano_by_feature
from condrand.ranking import ranked_targets

# What figures of effects, and of targets, show of a table that may have 1e8 rows.
_OF_EFFECTS = [
    *("screen", "analysis", "target", "feature", "effect", "effect_scale", "p_value"),
    *("neg_log10_p", "fdr", "p_source", "log2_fold_change", "note"),
]
_OF_TARGETS = [
    *_OF_EFFECTS,
    *("n_target", "n_control", "fdr_target", "target_mean", "control_mean"),
    *("target_fraction", "control_fraction"),
]
_OF_CONTRASTS = [
    *("screen", "analysis", "target", "feature", "effect", "statistic", "p_value"),
    *("neg_log10_p", "fdr_target", "average_expression"),
]
_OF_TERMS = ["screen", "analysis", "target", "feature", "p_value", "neg_log10_p", "fdr"]
_OF_GENES = [
    *("screen", "analysis", "target", "feature", "effect", "effect_scale", "statistic"),
    *("p_value", "neg_log10_p", "fdr", "p_source", "note"),
]
# Rows of a clustered heat map: trees of more take long, and no screen has more lines.
MAX_CLUSTERED = 2000
_CROSSFIT_KINDS = ("target", "holdout")
_CROSSFIT_PROGRAMS = 5


def draw_effects(
    effects: str | Path, controls: str | Path, fdr: float, figures: dict[str, str]
) -> None:
    """Step of rule plot_effects: every figure made from the tables of effects.

    Parameters
    ----------
    effects, controls : str or pathlib.Path
        Tables of the merge stage.
    fdr : float
        Threshold of a discovery.
    figures : dict of str to str
        Files to write, named ``{figure}_png`` and ``{figure}_svg``.
    """
    table, null = read_parquet(effects, _OF_EFFECTS), read_parquet(controls, _OF_EFFECTS)
    drawn = {
        "qq": qq(table, null),
        "volcano": volcano(table, fdr=fdr),
        "volcano_by_feature": volcano_by_feature(table, fdr=fdr),
        "p_histogram": p_histogram(table, null),
    }
    _save(drawn, figures)


def draw_targets(effects: str | Path, fdr: float, figures: dict[str, str]) -> None:
    """Step of rule plot_targets: every target by itself, and targets beside each other.

    Parameters
    ----------
    effects : str or pathlib.Path
        Table of the dex engine.
    fdr : float
        Threshold of a discovery.
    figures : dict of str to str
        Files to write, named ``{figure}_png`` and ``{figure}_svg``, ``targets_pdf`` and
        ``ranked``, a table.
    """
    table = read_parquet(effects, _OF_TARGETS)
    ranked = ranked_targets(table, fdr)
    write_tsv(ranked, figures["ranked"])
    drawn = {
        "volcano_by_target": volcano_by_target(table, ranked, fdr=fdr),
        "md_by_target": md_by_target(table, ranked, fdr=fdr),
        "heatmap": heatmap(table, ranked, fdr=fdr),
        "dotplot": dotplot(table, ranked, fdr=fdr),
        "ranking": ranking(ranked, fdr=fdr, title=heading(table)),
    }
    _save(drawn, figures)
    save_pages(target_pages(table, ranked, fdr=fdr), figures["targets_pdf"])


def draw_diagnostics(
    effects: str | Path,
    controls: str | Path,
    groups: str | Path,
    null_counts: str | Path,
    p_floor: float | None,
    figures: dict[str, str],
) -> None:
    """Step of rule plot_diagnostics: controls of every kind, and sources of p values.

    Parameters
    ----------
    effects, controls, groups, null_counts : str or pathlib.Path
        Tables of the merge stage.
    p_floor : float or None
        Smallest p value that can be counted in the resamples of all tests.
    figures : dict of str to str
        Files to write, named ``{figure}_png`` and ``{figure}_svg``.
    """
    tables = [read_parquet(path) for path in (effects, controls, groups)]
    counts = read_tsv(null_counts)["n_at_p_of_rank"].to_numpy()
    drawn = {
        "qq_diagnostics": qq_diagnostics(*tables, counts),
        "qq_by_feature": qq_by_feature(*tables),
        "agreement": agreement(tables[0], p_floor),
    }
    _save(drawn, figures)


def draw_residuals(
    trends: str | Path,
    outcome: str | Path,
    labels: tuple[str, str],
    png: str | Path,
    svg: str | Path,
) -> None:
    """Step of rule plot_residuals.

    Parameters
    ----------
    trends, outcome : str or pathlib.Path
        Of the normalize stage.
    labels : (str, str)
        Screen and analysis.
    png, svg : str or pathlib.Path
        Files to write.
    """
    scale = read_header(outcome).outcome_scale
    table = read_tsv(trends).assign(screen=labels[0], analysis=labels[1])
    save_figure(residual_trends(table, outcome_scale=scale), png, svg)


def draw_crossfit(crossfit: str | Path, png: str | Path, svg: str | Path) -> None:
    """Step of rule plot_crossfit: by gene, then the programs that vary most.

    Programs are not chosen by their p values: those would be the worst calibrated ones.

    Parameters
    ----------
    crossfit : str or pathlib.Path
        Table of the engine.
    png, svg : str or pathlib.Path
        Files to write.
    """
    table = read_parquet(crossfit)
    if table.empty:
        save_figure(qq_crossfit({}, title="No cross-fit: too few NTC guides"), png, svg)
        return
    whole = table[table["batch"] == "meta"]
    panels = {"gene: largest effect": whole[whole["level"] == "gene"]}
    by_feature = whole[whole["level"] == "program"]
    for feature in by_feature["feature"].unique()[:_CROSSFIT_PROGRAMS]:
        panels[feature] = by_feature[by_feature["feature"] == feature]
    drawn = {
        name: tuple(rows.loc[rows["kind"] == kind, "p"].to_numpy() for kind in _CROSSFIT_KINDS)
        for name, rows in panels.items()
    }
    save_figure(qq_crossfit(drawn), png, svg)


def draw_samples(
    filtered: str | Path, labels: tuple[str, str], figures: Mapping[str, str | Path]
) -> None:
    """Step of rule plot_samples: libraries, densities and distances of samples.

    Parameters
    ----------
    filtered : str or pathlib.Path
        Samples after the filter.
    labels : (str, str)
        Screen and analysis.
    figures : mapping
        Files to write, ``{figure}_png`` and ``{figure}_svg`` of ``library_sizes``, ``densities``
        and ``mds``.
    """
    found = read_samples(filtered)
    arrays, names, groups = found.arrays, list(found.table.index), found.arrays["groups"]
    title = " · ".join(labels)
    are_counts = arrays["lib_size_all"].size > 0
    n_features = int(found.words["n_before"]), len(found.features)
    before, after = (
        (arrays[f"{when}_grid"], arrays[f"{when}_density"], n)
        for when, n in zip(("before", "after"), n_features, strict=True)
    )
    scale = "log₂ counts per million" if are_counts else "log₂ expression"
    none = "values are no counts: there are no libraries"
    drawn = {
        "library_sizes": library_sizes(
            arrays["lib_size_all"], names, groups, title=title, empty=none
        ),
        "densities": count_densities(before, after, groups, title=title, scale=scale),
        "mds": mds(arrays["mds_coordinates"], arrays["mds_shares"], names, groups, title=title),
    }
    _save(drawn, figures)


def draw_trend(
    outcome: str | Path, labels: tuple[str, str], figures: Mapping[str, str | Path]
) -> None:
    """Step of rule plot_trend: the mean-variance trend of voom, or why there is none.

    Parameters
    ----------
    outcome : str or pathlib.Path
        Log expression and weights.
    labels : (str, str)
        Screen and analysis.
    figures : mapping
        Files to write, ``voom_trend_png`` and ``voom_trend_svg``.
    """
    found = read_samples(outcome, slice(0, 0))
    names = ("points_x", "points_y", "line_x", "line_y")
    arrays = [found.arrays.get(name, np.empty(0)) for name in names]
    transform, why = found.words["transform"], {}
    if not transform.startswith("voom"):
        why = {"empty": f"the transform {transform} gives no weights by a trend"}
    _save({"voom_trend": voom_trend(*arrays, title=" · ".join(labels), **why)}, figures)


def draw_contrasts(
    effects: str | Path,
    features: str | Path,
    outcome: str | Path,
    fdr: float,
    figures: Mapping[str, str | Path],
) -> None:
    """Step of rule plot_contrasts: every figure of the tests of contrasts.

    Parameters
    ----------
    effects, features : str or pathlib.Path
        Tables of contrasts and features, and of features.
    outcome : str or pathlib.Path
        Log expression.
    fdr : float
        Threshold of a discovery, in each contrast by itself.
    figures : mapping
        Files to write, ``{figure}_png`` and ``{figure}_svg`` of ``md_by_contrast``,
        ``volcano_by_contrast``, ``sa``, ``top_heatmap`` (of the first contrast) and
        ``p_histogram``; ``top_heatmaps_pdf`` with a page for every contrast.
    """
    table = read_parquet(effects, _OF_CONTRASTS)
    of_features, found = read_tsv(features), read_samples(outcome)
    title = heading(table)
    names = table["target"].astype(str)
    contrasts = {name: table[names == name] for name in names.unique()}
    as_in_r = {name: _as_in_r(rows) for name, rows in contrasts.items()}
    columns = (of_features[name] for name in ("average_expression", "sigma", "s2_prior"))

    def heat_maps() -> Iterator[Figure]:
        for name, rows in contrasts.items():
            yield _top_heatmap(rows, found, titled(title, name))

    drawn = {
        "md_by_contrast": md_by_contrast(as_in_r, fdr=fdr, title=title),
        "volcano_by_contrast": volcano_by_contrast(as_in_r, fdr=fdr, title=title),
        "sa": sigma_amean(*(column.to_numpy(np.float64) for column in columns), title=title),
        "top_heatmap": next(heat_maps()),
        "p_histogram": p_histogram_by_target(table, what="contrasts", title=title),
    }
    _save(drawn, figures)
    save_pages(heat_maps(), figures["top_heatmaps_pdf"])


def _as_in_r(rows: pd.DataFrame) -> pd.DataFrame:
    """Tests of a contrast under the names of R, as figures of contrasts take them."""
    columns = {
        "effect": "logFC",
        "average_expression": "AveExpr",
        "p_value": "P.Value",
        "fdr_target": "adj.P.Val",
        "neg_log10_p": "neg_log10_p",
    }
    return rows.set_index("feature")[list(columns)].rename(columns=columns)


def _top_heatmap(rows: pd.DataFrame, found: Samples, title: str) -> Figure:
    """The features of a contrast that go up and down most certainly, in all samples."""
    t = rows["statistic"].to_numpy(np.float64)
    top = top_rows(t, -math.log(10) * rows["neg_log10_p"].to_numpy(np.float64))
    names = rows["feature"].astype(str).iloc[top].tolist()
    at = pd.Index(found.features).get_indexer(names)
    n_up = int(np.count_nonzero(t[top] > 0.0))
    samples, groups = list(found.table.index), found.arrays["groups"]
    return top_heatmap(z_scores(found.values[at]), n_up, names, samples, groups, title=title)


def draw_anova(
    samples: str | Path,
    effects: str | Path,
    fdr: float,
    settings: Mapping[str, Any],
    figures: Mapping[str, str | Path],
) -> None:
    """Step of rule plot_anova: significant features in clusters, and p values by term.

    Parameters
    ----------
    samples, effects : str or pathlib.Path
    fdr : float
        Threshold of a discovery.
    settings : mapping
        ``formula``, ``transform``, ``prior_count``, ``significant`` and ``colour``.
    figures : mapping
        Files to write, ``{figure}_png`` and ``{figure}_svg`` of ``clustered_heatmap`` and
        ``p_histogram``.
    """
    table, found = read_parquet(effects, _OF_TERMS), read_samples(samples)
    title = heading(table)
    best = significant_features(table, settings["significant"], fdr)
    top = best.head(MAX_CLUSTERED)
    what = titled(title, str(table["target"].iloc[0]))
    if len(best) > MAX_CLUSTERED:
        what += f"\n{MAX_CLUSTERED:,} of {len(best):,} features, those with the smallest p"
    # In the order of the file: which of two equal branches comes first must not hang on ties of p.
    at = np.sort(pd.Index(found.features).get_indexer(top["feature"].astype(str)))
    made = cluster(expression(found.values[at], found.values.sum(axis=0), settings))
    drawn = {
        "clustered_heatmap": clustered_heatmap(
            made.z,
            made.row_tree,
            made.column_tree,
            made.row_order,
            made.column_order,
            [found.features[at[i]] for i in made.kept],
            list(found.table.index),
            _colours(found, settings),
            n_left_out=made.n_constant + made.n_missing,
            title=what,
        ),
        "p_histogram": p_histogram_by_target(table, what="terms", title=title),
    }
    _save(drawn, figures)


def _colours(found: Samples, settings: Mapping[str, Any]) -> list[str]:
    """What colours samples: a column, or the first factor of the formula."""
    if settings["colour"] is not None:
        return found.table[settings["colour"]].astype(str).tolist()
    model = model_of(settings["formula"], found.table, Problems("samples"))
    factors = [term.groups for term in model.terms if term.groups is not None]
    return list(factors[0]) if factors else ["sample"] * len(found.table)


def draw_abundance(
    states: str | Path,
    abundance: str | Path,
    labels: tuple[str, str],
    figures: Mapping[str, str | Path],
) -> None:
    """Step of rule plot_kompot_cells: where a condition has more cells, or fewer.

    Parameters
    ----------
    states, abundance : str or pathlib.Path
        Cells, and the change of their density.
    labels : (str, str)
        Screen and analysis.
    figures : mapping
        Files to write, ``{figure}_png`` and ``{figure}_svg`` of ``abundance_volcano`` and
        ``abundance_embedding``.
    """
    found = read_states(states)
    key, arrays = read_arrays(abundance)
    change, direction = arrays["log_fold_change"], arrays["direction"]
    levels, title = tuple(found.words["levels"]), " · ".join(labels)
    drawn = {
        "abundance_volcano": abundance_volcano(
            change,
            arrays["neg_log10_ptp"],
            direction,
            levels=levels,
            threshold=key["threshold"],
            ptp=key["ptp"],
            title=title,
        ),
        "abundance_embedding": abundance_embedding(
            found.plotted,
            change,
            direction,
            levels=levels,
            place_name=_place_name(found),
            title=title,
        ),
    }
    _save(drawn, figures)


def draw_genes(
    effects: str | Path,
    null_distances: str | Path,
    panels: str | Path,
    states: str | Path,
    fdr: float,
    figures: Mapping[str, str | Path],
) -> None:
    """Step of rule plot_kompot_genes: which genes differ, and in which cells.

    Parameters
    ----------
    effects, null_distances : str or pathlib.Path
        Tables of genes, and of null genes.
    panels, states : str or pathlib.Path
        Smoothed expression of the top genes, and the cells it is of.
    fdr : float
        Threshold of a discovery.
    figures : mapping
        Files to write, ``{figure}_png`` and ``{figure}_svg`` of ``expression_volcano``,
        ``mahalanobis``, ``panels`` and ``p_histogram``.
    """
    table, found = read_parquet(effects, _OF_GENES), read_states(states)
    null = read_tsv(null_distances)["distance"].to_numpy(np.float64)
    key, arrays = read_arrays(panels)
    title = heading(table)
    drawn = {
        "expression_volcano": expression_volcano(table, fdr=fdr),
        "mahalanobis": mahalanobis(table, null, fdr=fdr),
        "panels": smoothed_panels(
            found.plotted,
            arrays["condition1"],
            arrays["condition2"],
            key["genes"],
            levels=tuple(found.words["levels"]),
            place_name=_place_name(found),
            scale=found.words["values"],
            title=title,
        ),
        "p_histogram": p_histogram_by_target(table, what="comparisons", title=title),
    }
    _save(drawn, figures)


def _place_name(states: States) -> str:
    """What an axis of places is: of an embedding by its key, or a component of the states."""
    key, _, computed = states.words["plotted"].partition(", ")
    return "Component" if computed else key.removeprefix("X_")


def _save(drawn: dict[str, Figure], figures: Mapping[str, str | Path]) -> None:
    for name, figure in drawn.items():
        save_figure(figure, figures[f"{name}_png"], figures[f"{name}_svg"])
