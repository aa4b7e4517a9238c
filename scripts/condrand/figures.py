"""The plot stage: tables in, figure files out."""

from pathlib import Path

from matplotlib.figure import Figure

from condrand.io.figures import save_figure, save_pages
from condrand.io.outcome import read_header
from condrand.io.tables import read_parquet, read_tsv, write_tsv
from condrand.plots.by_target import md_by_target, target_pages, volcano_by_target
from condrand.plots.heatmap import dotplot, heatmap
from condrand.plots.p_histogram import p_histogram
from condrand.plots.points import heading
from condrand.plots.qq import qq
from condrand.plots.qq_crossfit import qq_crossfit
from condrand.plots.qq_diagnostics import qq_by_feature, qq_diagnostics
from condrand.plots.ranking import ranking
from condrand.plots.residuals import residual_trends
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
    figures: dict[str, str],
) -> None:
    """Step of rule plot_diagnostics: quantile-quantile plots of every kind of control.

    Parameters
    ----------
    effects, controls, groups, null_counts : str or pathlib.Path
        Tables of the merge stage.
    figures : dict of str to str
        Files to write, named ``{figure}_png`` and ``{figure}_svg``.
    """
    tables = [read_parquet(path) for path in (effects, controls, groups)]
    counts = read_tsv(null_counts)["n_at_p_of_rank"].to_numpy()
    drawn = {
        "qq_diagnostics": qq_diagnostics(*tables, counts),
        "qq_by_feature": qq_by_feature(*tables),
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


def _save(drawn: dict[str, Figure], figures: dict[str, str]) -> None:
    for name, figure in drawn.items():
        save_figure(figure, figures[f"{name}_png"], figures[f"{name}_svg"])
