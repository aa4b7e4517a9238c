"""Figures and summaries of linear models: from the files of their stages to files, all there."""

import re

import numpy as np
import pandas as pd
import pytest

from condrand import figures
from condrand.engines.anova_steps import anova_effects, anova_shard
from condrand.figures import draw_anova, draw_contrasts, draw_samples, draw_trend
from condrand.io.samples import Samples, write_samples
from condrand.io.tables import write_parquet, write_tsv
from condrand.linear.densities import sample_densities
from condrand.linear.mds import plot_mds
from condrand.merge import linear_cautions, write_contrasts_summary
from condrand.plots.p_histogram import p_histogram_by_target
from condrand.plots.points import titled
from condrand.plots.top_features import top_heatmap
from condrand.tables import effects_table

LABELS = ("screen", "analysis")
FEATURES = [f"g{i}" for i in range(120)]
CONTRASTS = ["b vs a", "(b + c)/2 - a, a contrast of a very long name indeed", "c vs a"]
TABLE = pd.DataFrame(
    {"group": pd.Categorical(list("aabbcc")), "day": [1.0, 2.0, 1.0, 2.0, 1.0, 2.0]},
    index=[f"sample {i}" for i in range(6)],
)


def log_values(seed=0):
    values = np.random.default_rng(seed).normal(5.0, 1.0, (len(FEATURES), 6))
    # So much that three residual degrees of freedom suffice.
    values[:20, 2:4] += 50.0
    return values


@pytest.fixture
def paths(tmp_path):
    """Names of figure files by what they hold."""

    def make(*names, **more):
        made = {
            f"{name}_{kind}": tmp_path / "plots" / f"{name}.{kind}"
            for name in names
            for kind in ("png", "svg")
        }
        return made | {name: tmp_path / "plots" / file for name, file in more.items()}

    return make


@pytest.fixture
def drawn(monkeypatch):
    """The figures of the stage by name, as they are saved."""
    seen = {}
    save = figures._save

    def noting(made, files):
        seen.update(made)
        save(made, files)

    monkeypatch.setattr(figures, "_save", noting)
    return seen


def all_written(files):
    assert files
    for path in files.values():
        assert path.stat().st_size > 1000, path
    return True


def gids(figure):
    return {artist.get_gid() for artist in figure.findobj()} - {None}


def said(figure):
    return " ".join(text.get_text() for text in figure.findobj(lambda a: hasattr(a, "get_text")))


def write_filtered(path, *, counts=True, n=6):
    values = log_values()[:, :n]
    made = sample_densities(values)
    arrays = {
        "lib_size_all": values.sum(axis=0) * 1e6 if counts else np.empty(0),
        "groups": TABLE["group"].astype(str).to_numpy(object)[:n],
        "mds_coordinates": np.zeros((0, 0)),
        "mds_shares": np.zeros(0),
    }
    for when in ("before", "after"):
        arrays |= {f"{when}_grid": made.grid, f"{when}_density": made.density}
    if n > 2:
        found = plot_mds(values)
        arrays |= {"mds_coordinates": found.coordinates}
        arrays |= {"mds_shares": found.variance_explained}
    words = {"source": "200 features x 6 samples of counts.csv", "n_before": 200}
    words |= {"filter": "120 of 200 features are kept", "normalization": "tmm"}
    write_samples(path, Samples(values, FEATURES, TABLE.iloc[:n], arrays, words))
    return path


def write_outcome(path, values=None, transform="voom", trend=True, notes=""):
    x = np.linspace(0.0, 10.0, 120) if trend else np.empty(0)
    arrays = {"points_x": x, "points_y": 1.0 / (1.0 + x), "line_x": x, "line_y": 1.0 / (1.0 + x)}
    arrays |= {"groups": TABLE["group"].astype(str).to_numpy(object)}
    arrays |= {"coefficients": np.array(["a", "b", "c"], dtype=object)}
    words = {"transform": transform, "design": "~ 0 + group", "notes": notes}
    values = log_values() if values is None else values
    write_samples(path, Samples(values, FEATURES, TABLE, arrays, words))
    return path


def contrast_effects(names=CONTRASTS, seed=1):
    rng = np.random.default_rng(seed)
    n = len(names) * len(FEATURES)
    t = rng.normal(0.0, 3.0, n)
    p = np.exp(-0.7 * np.abs(t))
    p[:5] = np.nan
    columns = {
        "screen": "screen",
        "analysis": "analysis",
        "target": np.repeat(names, len(FEATURES)),
        "feature": np.tile(FEATURES, len(names)),
        "n_target": 2,
        "n_control": 2,
        "effect": t / 2,
        "effect_scale": "log2 fold change",
        "statistic": t,
        "p_value": p,
        "neg_log10_p": -np.log10(p),
        "p_source": np.where(np.isnan(p), "", "t"),
    }
    own = {"fdr_target": p * 2, "average_expression": rng.normal(5.0, 2.0, n)}
    return effects_table(columns, own, np.where(np.isnan(p), "not estimable", ""))


def write_tables(folder, effects):
    rng = np.random.default_rng(2)
    write_parquet(effects, folder / "effects.parquet")
    features = pd.DataFrame({"feature": FEATURES, "average_expression": rng.normal(5, 2, 120)})
    features = features.assign(sigma=rng.gamma(2.0, 0.5, 120), s2_prior=0.8)
    write_tsv(features, folder / "features.tsv.gz")
    return folder / "effects.parquet", folder / "features.tsv.gz"


OF_SAMPLES = ("library_sizes", "densities", "mds")
OF_CONTRASTS = ("md_by_contrast", "volcano_by_contrast", "sa", "top_heatmap", "p_histogram")


def test_figures_of_samples_are_written(tmp_path, paths, drawn):
    files = paths(*OF_SAMPLES)
    draw_samples(write_filtered(tmp_path / "filtered.h5ad"), LABELS, files)
    assert all_written(files)
    assert "library" in gids(drawn["library_sizes"])
    assert "density" in gids(drawn["densities"])
    assert "samples" in gids(drawn["mds"])
    assert all("screen · analysis" in said(figure) for figure in drawn.values())
    assert "All features (200)" in said(drawn["densities"])
    assert "Kept features (120)" in said(drawn["densities"])


def test_figures_say_why_there_is_nothing_to_draw(tmp_path, paths, drawn):
    files = paths(*OF_SAMPLES)
    draw_samples(write_filtered(tmp_path / "filtered.h5ad", counts=False, n=2), LABELS, files)
    assert all_written(files)
    assert "values are no counts" in said(drawn["library_sizes"])
    assert "fewer than 3 samples" in said(drawn["mds"])
    assert "log₂ expression" in said(drawn["densities"])
    assert "per million" not in said(drawn["densities"])
    assert all("screen · analysis" in said(figure) for figure in drawn.values())


@pytest.mark.parametrize(
    ("transform", "trend", "text"),
    [
        ("voom", True, "trend"),
        ("voom", False, "no replicates"),
        ("log_cpm", False, "the transform log_cpm gives no weights"),
    ],
)
def test_the_trend_is_drawn_or_the_figure_says_why_not(
    tmp_path, paths, drawn, transform, trend, text
):
    files = paths("voom_trend")
    outcome = write_outcome(tmp_path / "outcome.h5ad", transform=transform, trend=trend)
    draw_trend(outcome, LABELS, files)
    assert all_written(files)
    assert text in said(drawn["voom_trend"])
    assert ("trend" in gids(drawn["voom_trend"])) == trend


def test_figures_of_contrasts_are_written(tmp_path, paths, drawn):
    effects, features = write_tables(tmp_path, contrast_effects())
    outcome = write_outcome(tmp_path / "outcome.h5ad")
    files = paths(*OF_CONTRASTS, top_heatmaps_pdf="top_heatmaps.pdf")
    draw_contrasts(effects, features, outcome, 0.05, files)
    assert all_written(files)
    pages = re.findall(rb"/Type /Page\b", files["top_heatmaps_pdf"].read_bytes())
    assert len(pages) == len(CONTRASTS)
    assert {"higher", "lower", "other"} <= gids(drawn["md_by_contrast"])
    assert "threshold" in gids(drawn["volcano_by_contrast"])
    assert {"features", "prior"} <= gids(drawn["sa"])
    assert {"heatmap", "groups", "parting"} <= gids(drawn["top_heatmap"])
    assert "screen · analysis: b vs a" in said(drawn["top_heatmap"])
    assert "uniform" in gids(drawn["p_histogram"])
    assert len(drawn["p_histogram"].axes) == len(CONTRASTS)
    # Rows are looked up by name: those of the figure are the smallest p of either side.
    best = contrast_effects()[5:120].sort_values("p_value")["feature"].iloc[0]
    assert best in said(drawn["top_heatmap"])


def test_the_figures_of_the_same_files_have_the_same_bytes(tmp_path, paths):
    effects, features = write_tables(tmp_path, contrast_effects())
    outcome = write_outcome(tmp_path / "outcome.h5ad")
    files = paths(*OF_CONTRASTS, top_heatmaps_pdf="top_heatmaps.pdf")
    made = []
    for _ in range(2):
        draw_contrasts(effects, features, outcome, 0.05, files)
        made.append([path.read_bytes() for path in files.values()])
    assert made[0] == made[1]


def test_contrasts_without_a_test_are_drawn_empty(tmp_path, paths, drawn):
    table = contrast_effects().assign(p_value=np.nan, neg_log10_p=np.nan, fdr_target=np.nan)
    effects, features = write_tables(tmp_path, table.assign(statistic=np.nan))
    files = paths(*OF_CONTRASTS, top_heatmaps_pdf="top_heatmaps.pdf")
    draw_contrasts(effects, features, write_outcome(tmp_path / "o.h5ad"), 0.05, files)
    assert all_written(files)
    assert "no test has a p value" in said(drawn["p_histogram"])
    assert "no feature has a test" in said(drawn["top_heatmap"])


def test_missing_values_are_grey_in_the_heat_map_and_change_no_other_cell():
    z = np.array([[1.0, -1.0, np.nan], [0.0, 1.0, -1.0]])
    figure = top_heatmap(z, 1, ["a", "b"], ["x", "y", "z"], ["g", "g", "h"])
    (panel,) = (p for p in figure.axes if any(a.get_gid() == "heatmap" for a in p.collections))
    assert panel.get_facecolor()[0] < 0.9
    (mesh,) = (a for a in panel.collections if a.get_gid() == "heatmap")
    assert np.asarray(mesh.get_array().mask).sum() == 1


def test_features_with_missing_values_keep_their_rows(tmp_path, paths, drawn):
    values = log_values()
    values[:, 0] = np.nan
    effects, features = write_tables(tmp_path, contrast_effects())
    outcome = write_outcome(tmp_path / "outcome.h5ad", values)
    files = paths(*OF_CONTRASTS, top_heatmaps_pdf="top_heatmaps.pdf")
    draw_contrasts(effects, features, outcome, 0.05, files)
    (mesh,) = drawn["top_heatmap"].findobj(lambda artist: artist.get_gid() == "heatmap")
    missing = np.ma.getmaskarray(mesh.get_array())
    assert missing.shape == (50, 6)
    assert missing[:, 0].all()
    assert not missing[:, 1:].any()


def test_titles_too_long_for_a_line_are_broken_and_cut():
    assert titled("s · a", "b - a") == "s · a: b - a"
    assert titled("", "b - a") == "b - a"
    long = titled("screen · analysis", "x" * 90)
    assert [len(line) for line in long.split("\n")] == [17, 44]


# Analysis of variance


@pytest.fixture
def analysed(tmp_path):
    """Run an analysis of variance; give its samples, its effects, and settings of figures."""

    def run(formula="~ group", values=None, significant=None, colour=None):
        samples, shard = tmp_path / "samples.h5ad", tmp_path / "shard.h5"
        write_samples(
            samples, Samples(log_values() if values is None else values, FEATURES, TABLE)
        )
        settings = {"formula": formula, "transform": "none", "prior_count": 2.0}
        anova_shard(samples, shard, (0, 1), settings)
        settings |= {"significant": significant or {"fdr": None, "count": None}}
        written = {name: tmp_path / f"{name}.tsv" for name in ("effects_tsv", "significant")}
        written |= {"terms": tmp_path / "terms.tsv", "effects": tmp_path / "effects.parquet"}
        anova_effects(samples, [shard], LABELS, settings, 0.05, written)
        return samples, written["effects"], settings | {"colour": colour}

    return run


OF_ANOVA = ("clustered_heatmap", "p_histogram")


def test_figures_of_an_analysis_of_variance_are_written(analysed, paths, drawn):
    samples, effects, settings = analysed()
    files = paths(*OF_ANOVA)
    draw_anova(samples, effects, 0.05, settings, files)
    assert all_written(files)
    assert {"heatmap", "groups", "row-tree", "column-tree"} <= gids(drawn["clustered_heatmap"])
    assert "screen · analysis: group" in said(drawn["clustered_heatmap"])
    legend = [text.get_text() for text in drawn["clustered_heatmap"].legends[0].get_texts()]
    assert legend == ["a", "b", "c"]
    assert "uniform" in gids(drawn["p_histogram"])


def test_too_many_features_are_capped_by_p_and_the_title_says_so(
    analysed, paths, drawn, monkeypatch
):
    monkeypatch.setattr(figures, "MAX_CLUSTERED", 8)
    samples, effects, settings = analysed(significant={"fdr": None, "count": 30})
    draw_anova(samples, effects, 0.05, settings, paths(*OF_ANOVA))
    heat_map = drawn["clustered_heatmap"]
    assert "8 of 30 features, those with the smallest p" in said(heat_map)
    (mesh,) = heat_map.findobj(lambda artist: artist.get_gid() == "heatmap")
    assert mesh.get_array().shape == (8, 6)


def test_nothing_significant_is_said_and_a_column_may_colour(analysed, paths, drawn):
    noise = np.random.default_rng(5).normal(5.0, 1.0, (120, 6))
    samples, effects, settings = analysed("~ day", noise, {"fdr": 1e-12, "count": None})
    draw_anova(samples, effects, 0.05, settings, paths(*OF_ANOVA))
    assert "no significant feature" in said(drawn["clustered_heatmap"])
    samples, effects, settings = analysed(colour="day")
    draw_anova(samples, effects, 0.05, settings, paths(*OF_ANOVA))
    legend = [text.get_text() for text in drawn["clustered_heatmap"].legends[0].get_texts()]
    assert legend == ["1.0", "2.0"]


def test_a_model_of_numbers_alone_has_one_colour(analysed, paths, drawn):
    samples, effects, settings = analysed("~ day", significant={"fdr": None, "count": 5})
    draw_anova(samples, effects, 0.05, settings, paths(*OF_ANOVA))
    assert len(drawn["clustered_heatmap"].legends[0].get_texts()) == 1


# Histograms by contrast


def test_each_contrast_has_a_histogram_with_its_own_fractions():
    table = pd.DataFrame({"target": ["a"] * 100 + ["b"] * 100, "p_value": 0.0})
    table.loc[:99, "p_value"] = (np.arange(100) + 0.5) / 100
    table.loc[100:, "p_value"] = 0.001
    table.loc[150:, "p_value"] = np.nan
    figure = p_histogram_by_target(table, what="contrasts", title="demo")
    one, other = figure.axes
    assert one.get_title(loc="left") == "a\np < 0.05: 0.050, < 0.01: 0.010 of 100"
    assert other.get_title(loc="left") == "b\np < 0.05: 1.000, < 0.01: 1.000 of 50"
    np.testing.assert_allclose([bar.get_height() for bar in one.patches], 1.0)
    assert other.patches[0].get_height() == 20.0
    assert one.get_ylim()[1] < other.get_ylim()[1]


def test_more_contrasts_than_panels_are_counted_in_the_title():
    names = np.repeat([f"c{i}" for i in range(25)], 3)
    table = pd.DataFrame({"target": names, "p_value": 0.5})
    figure = p_histogram_by_target(table, what="contrasts", title="demo")
    assert len(figure.axes) == 20
    assert figure.get_suptitle() == "demo: 20 of 25 contrasts"


# Summaries


def test_the_summary_of_contrasts_says_what_was_kept_tested_and_found(tmp_path):
    effects, _ = write_tables(tmp_path, contrast_effects())
    calls = pd.DataFrame({"contrast": CONTRASTS, "up": 3, "down": 1200, "untested": [5, 0, 0]})
    write_tsv(calls.assign(not_significant=9), tmp_path / "calls.tsv")
    moderation = pd.DataFrame({"name": ["s2_prior", "df_prior"], "value": [0.7834, np.inf]})
    write_tsv(moderation, tmp_path / "moderation.tsv")
    outcome = write_outcome(tmp_path / "o.h5ad", transform="log_cpm", notes="sample 1 is alone")
    summary = tmp_path / "summary.txt"
    write_contrasts_summary(
        effects,
        outcome,
        write_filtered(tmp_path / "f.h5ad"),
        tmp_path / "calls.tsv",
        tmp_path / "moderation.tsv",
        summary,
        0.05,
    )
    text = summary.read_text()
    for line in (
        "screen / analysis\n",
        "  samples      200 features x 6 samples of counts.csv\n",
        "  filter       120 of 200 features are kept\n",
        "  weights      log_cpm, normalization factors tmm\n",
        "  design       ~ 0 + group: a, b, c\n",
        "  tests        355 (3 contrasts x 120 features; 5 rows untested)\n",
        "  discoveries  b vs a: 3 up, 1,200 down at FDR 0.05, 5 untested\n",
        "  discoveries  c vs a: 3 up, 1,200 down at FDR 0.05\n",
        "  p values     355 t; prior variance 0.783, worth inf degrees of freedom\n",
        "  warning      sample 1 is alone\n",
        "use `moderation.trend: true`",
        "  figures      ",
    ):
        assert line in text, line


def test_p_values_that_are_too_large_or_all_small_are_warned_of():
    def tests(p):
        return pd.DataFrame({"target": "b vs a", "p_value": p})

    uniform = (np.arange(1000) + 0.5) / 1000
    assert linear_cautions(tests(uniform)) == []
    (large,) = linear_cautions(tests(0.2 + 0.8 * uniform))
    assert "0.0 % of the p values are below 0.05" in large
    (small,) = linear_cautions(tests(uniform**12))
    assert "look at the normalization" in small
    assert linear_cautions(tests(np.full(100, 0.5))) == []
    (none,) = linear_cautions(tests(np.full(100, np.nan)))
    assert "no feature could be tested" in none
