"""The figures of targets: which are shown, where tests are drawn, and in what colour."""

import re
import time

import matplotlib
import numpy as np
import pandas as pd
import pytest

from condrand.figures import draw_targets
from condrand.io.figures import save_pages
from condrand.plots import by_target, style
from condrand.plots.by_target import md_by_target, target_pages, volcano_by_target
from condrand.plots.heatmap import dotplot, heatmap
from condrand.plots.ranking import ranking
from condrand.plots.volcano import EDGE, MARGIN, volcano, volcano_by_feature
from condrand.ranking import ranked_targets

FDR = 0.05
ONE_SIDED = "seen in target cells alone", "seen in control cells alone"
TEXT = ("target", "feature", "effect_scale", "note")


def effects_table(fold_change, fdr, *, p=None, note=None, targets=None, features=None):
    """Rows of targets by features from arrays of that shape; NaN in fdr is an untested row."""
    fold_change, fdr = np.atleast_2d(fold_change).astype(float), np.atleast_2d(fdr).astype(float)
    n_targets, n_features = fold_change.shape
    p = np.ravel(fdr / 10 if p is None else p).astype(float)
    p = np.where(np.isnan(fdr.ravel()), np.nan, p)
    targets = targets or [f"T{i + 1}" for i in range(n_targets)]
    features = features or [f"F{i + 1}" for i in range(n_features)]
    control = 4.0
    table = pd.DataFrame(
        {
            "screen": "demo",
            "analysis": "dex",
            "target": np.repeat(targets, n_features),
            "feature": np.tile(features, n_targets),
            "n_target": np.repeat(np.arange(n_targets) + 1, n_features),
            "n_control": 1000,
            "effect": fold_change.ravel(),
            "effect_scale": "log2 fold change of geometric means, counts",
            "statistic": 0.0,
            "p_value": p,
            "neg_log10_p": -np.log10(p),
            "fdr": fdr.ravel(),
            "p_source": "asymptotic",
            "fdr_target": fdr.ravel() / 2,
            "log2_fold_change": fold_change.ravel(),
            "percent_change": 0.0,
            "target_mean": control * 2.0 ** fold_change.ravel(),
            "control_mean": control,
            "target_fraction": np.linspace(0.1, 1.0, p.size),
            "control_fraction": np.tile(np.linspace(0.2, 0.8, n_features), n_targets),
            "auroc": 0.5,
            "df": np.nan,
            "note": "" if note is None else np.ravel(note),
        }
    )
    return table.astype(dict.fromkeys(TEXT, "category"))


def random_table(n_targets=5, n_features=30, seed=0):
    rng = np.random.default_rng(seed)
    shape = n_targets, n_features
    fdr = np.where(rng.random(shape) < 0.2, 10.0 ** -rng.uniform(2, 9, shape), 0.5)
    return effects_table(rng.normal(0, 2, shape), fdr)


def drawings(effects, fdr=FDR):
    ranked = ranked_targets(effects, fdr)
    return {
        "volcano_by_target": volcano_by_target(effects, ranked, fdr=fdr),
        "md_by_target": md_by_target(effects, ranked, fdr=fdr),
        "heatmap": heatmap(effects, ranked, fdr=fdr),
        "dotplot": dotplot(effects, ranked, fdr=fdr),
        "ranking": ranking(ranked, fdr=fdr, title="demo · dex"),
    }


def files(folder):
    names = ("volcano_by_target", "md_by_target", "heatmap", "dotplot", "ranking")
    paths = {f"{name}_{x}": str(folder / f"{name}.{x}") for name in names for x in ("png", "svg")}
    return paths | {
        "targets_pdf": str(folder / "targets.pdf"),
        "ranked": str(folder / "ranked_targets.tsv"),
    }


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def artist(figure, gid):
    (found,) = artists(figure, gid)
    return found


def panel_points(panel, gid):
    found = [line.get_xydata() for line in panel.lines if line.get_gid() == gid]
    return np.concatenate(found) if found else np.empty((0, 2))


def titles(figure):
    return [panel.get_title(loc="left") for panel in figure.axes]


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def heading(figure):
    return figure.legends[0].get_title().get_text() if figure.legends else figure.get_suptitle()


def tick_names(figure):
    panel = figure.axes[0]
    return tuple(
        [text.get_text() for text in axis.get_ticklabels()] for axis in (panel.xaxis, panel.yaxis)
    )


# The table of ranked targets


def test_targets_are_counted_and_ranked_by_hand():
    effects = effects_table(
        [[1.0, -2.0, 0.5], [3.0, 1.0, -1.0], [-1.0, 2.0, 0.1], [np.nan] * 3],
        [[0.01, 0.02, 0.5], [0.001, 0.08, 0.2], [0.9, 0.6, 0.7], [np.nan] * 3],
        note=[[""] * 3, [""] * 3, [""] * 3, ["constant"] * 3],
    )
    ranked = ranked_targets(effects, FDR)
    assert ranked["target"].tolist() == ["T1", "T2", "T3", "T4"]
    assert ranked["n_target"].tolist() == [1, 2, 3, 4]
    assert ranked["n_control"].tolist() == [1000] * 4
    assert ranked["n_tested"].tolist() == [3, 3, 3, 0]
    assert ranked["n_effects"].tolist() == [2, 1, 0, 0]
    # 0.08 over all tests is 0.04 within the target.
    assert ranked["n_effects_target_fdr"].tolist() == [2, 2, 0, 0]
    assert ranked["n_up"].tolist() == [1, 1, 0, 0]
    assert ranked["n_down"].tolist() == [1, 0, 0, 0]
    assert ranked["top_feature"].tolist() == ["F1", "F1", "F2", ""]
    np.testing.assert_allclose(ranked["top_effect"], [1, 3, 2, np.nan])
    np.testing.assert_allclose(ranked["top_neg_log10_p"][:3], -np.log10([0.001, 0.0001, 0.06]))


def test_ranking_does_not_depend_on_the_order_of_rows_and_breaks_ties_by_effect_and_name():
    effects = effects_table(
        [[1.0, -2.0, 2.0], [1.0, -2.0, 2.0], [0.1, 0.2, 0.3]], np.full((3, 3), 0.01)
    )
    ranked = ranked_targets(effects, FDR)
    assert ranked["target"].tolist() == ["T1", "T2", "T3"]
    assert ranked["top_feature"].tolist() == ["F2", "F2", "F3"]
    shuffled = effects.sample(frac=1, random_state=3)
    pd.testing.assert_frame_equal(ranked_targets(shuffled, FDR), ranked)


def test_equally_many_effects_are_ranked_by_the_most_significant():
    effects = effects_table(np.ones((3, 2)), [[0.01, 0.5], [0.001, 0.5], [0.6, 0.7]])
    assert ranked_targets(effects, FDR)["target"].tolist() == ["T2", "T1", "T3"]


# Volcano and mean-difference plots


def one_sided_table():
    return effects_table(
        [[1.0, -2.0, 28.0, -30.0, -25.0]],
        [[0.01, 0.2, 0.02, 0.03, 0.6]],
        note=[["", "", ONE_SIDED[0], ONE_SIDED[1], ONE_SIDED[1]]],
    )


@pytest.mark.parametrize("draw", [volcano, volcano_by_target])
def test_one_sided_tests_are_triangles_at_the_edge_of_the_volcano(draw):
    effects = one_sided_table()
    more = (ranked_targets(effects, FDR),) if draw is volcano_by_target else ()
    figure = draw(effects, *more, fdr=FDR)
    assert figure.axes[0].get_xlim() == (-2.0 * MARGIN, 2.0 * MARGIN)
    np.testing.assert_array_equal(artist(figure, "higher").get_xdata(), [1.0])
    np.testing.assert_array_equal(artist(figure, "other").get_xdata(), [-2.0])
    assert artist(figure, "lower").get_xdata().size == 0
    for gid, x, height, marker, colour in (
        ("higher-beyond", 2.0, 0.002, ">", style.HIGHER_COLOUR),
        ("lower-beyond", -2.0, 0.003, "<", style.LOWER_COLOUR),
        ("other-beyond", -2.0, 0.06, "<", style.OTHER_COLOUR),
    ):
        line = artist(figure, gid)
        np.testing.assert_allclose(line.get_xydata(), [[EDGE * x, -np.log10(height)]])
        assert (line.get_marker(), line.get_color()) == (marker, colour)
    assert "seen in one group alone, off the axis (3)" in legend_texts(figure)


def test_one_sided_tests_within_the_range_of_the_others_are_ordinary_points():
    effects = effects_table([[3.0, -2.0, 2.5]], [[0.01, 0.2, 0.02]], note=[["", "", ONE_SIDED[0]]])
    figure = volcano(effects, fdr=FDR)
    np.testing.assert_array_equal(artist(figure, "higher").get_xdata(), [3.0, 2.5])
    assert not artists(figure, "higher-beyond")
    assert len(legend_texts(figure)) == 3


def test_only_fold_changes_depend_on_a_pseudocount():
    effects = one_sided_table().assign(effect_scale="difference of means, counts")
    figure = volcano(effects, fdr=FDR)
    assert figure.axes[0].get_xlim()[1] == 30.0 * MARGIN
    assert not artists(figure, "lower-beyond")


def test_where_all_tests_are_one_sided_the_axis_holds_them():
    effects = effects_table([[20.0, -25.0]], [[0.01, 0.02]], note=[ONE_SIDED])
    figure = volcano(effects, fdr=FDR)
    np.testing.assert_array_equal(artist(figure, "lower").get_xdata(), [-25.0])
    assert figure.axes[0].get_xlim()[1] == 25.0 * MARGIN


def test_volcano_by_feature_has_its_triangles_in_the_panel_of_the_feature():
    figure = volcano_by_feature(one_sided_table(), fdr=FDR)
    assert [panel_points(panel, "lower-beyond").size for panel in figure.axes] == [0, 0, 0, 2, 0]


@pytest.mark.parametrize("draw", [volcano_by_target, md_by_target])
def test_targets_with_most_effects_have_panels_in_natural_order(draw):
    fdr = np.full((12, 4), 0.5)
    fdr[1, :2], fdr[9, :3], fdr[4, 0] = 0.01, 0.01, 0.01
    effects = effects_table(np.tile([1.0, -1.0, 2.0, 0.3], (12, 1)), fdr)
    figure = draw(effects, ranked_targets(effects, FDR), fdr=FDR, max_targets=3)
    assert titles(figure) == ["T2  ↓1 ↑1", "T5  ↓0 ↑1", "T10  ↓1 ↑2"]
    assert heading(figure) == "demo · dex: 3 targets with most effects, 9 not shown"
    shown = [panel_points(panel, "higher") for panel in figure.axes]
    assert [len(points) for points in shown] == [1, 1, 2]
    assert {len({panel.get_xlim() for panel in figure.axes}), len(figure.axes)} == {1, 3}
    assert legend_texts(figure)[1:3] == ["lower, FDR ≤ 0.05 (2)", "higher, FDR ≤ 0.05 (4)"]


def test_threshold_by_target_is_that_of_the_whole_analysis():
    effects = effects_table(
        [[1.0, 1.0, 1.0], [1.0, 1.0, 1.0]], [[0.001, 0.001, 0.5], [0.04, 0.6, 0.7]]
    )
    figure = volcano_by_target(effects, ranked_targets(effects, FDR), fdr=FDR, max_targets=1)
    assert titles(figure) == ["T1  ↓0 ↑2"]
    assert artist(figure, "threshold").get_ydata()[0] == pytest.approx(-np.log10(0.004))


def test_md_has_the_average_of_the_logs_against_the_fold_change():
    effects = one_sided_table()
    figure = md_by_target(effects, ranked_targets(effects, FDR), fdr=FDR)
    (panel,) = figure.axes
    ((x, y),) = panel_points(panel, "higher")
    assert y == 1.0
    assert x == pytest.approx((np.log2(8.001) + np.log2(4.001)) / 2)
    np.testing.assert_allclose(panel_points(panel, "higher-beyond")[:, 1], [2.0 * EDGE])
    np.testing.assert_allclose(panel_points(panel, "lower-beyond")[:, 1], [-2.0 * EDGE])
    assert artist(figure, "lower-beyond").get_marker() == "v"
    assert panel.get_ylim() == (-2.0 * MARGIN, 2.0 * MARGIN)
    assert "0.001" in figure.get_supxlabel()
    assert figure.get_supylabel() == "log₂ fold change"


def test_md_of_values_that_may_be_negative_is_the_difference_against_the_mean():
    effects = effects_table([[1.5, -0.5]], [[0.01, 0.5]]).assign(
        effect_scale="difference of means, scores",
        log2_fold_change=[np.nan, 0.2],
        target_mean=[1.0, 2.0],
        control_mean=[-0.5, 2.5],
    )
    figure = md_by_target(effects, ranked_targets(effects, FDR), fdr=FDR)
    np.testing.assert_allclose(panel_points(figure.axes[0], "higher"), [[0.25, 1.5]])
    np.testing.assert_allclose(panel_points(figure.axes[0], "other"), [[2.25, -0.5]])
    assert figure.get_supylabel() == "Effect, difference of means, scores"
    assert "log" not in figure.get_supxlabel()


def test_pages_come_in_the_order_of_effects_and_end_at_the_limit(monkeypatch):
    fdr = np.full((5, 3), 0.5)
    fdr[3], fdr[1, :2] = 0.01, 0.01
    effects = effects_table(np.ones((5, 3)), fdr, p=np.arange(1, 16) / 1000)
    ranked = ranked_targets(effects, FDR)
    monkeypatch.setattr(by_target, "MAX_PAGES", 3)
    pages = list(target_pages(effects, ranked, fdr=FDR))
    assert [heading(page).split("\n")[0] for page in pages] == [
        "demo · dex · T4  ↓0 ↑3",
        "demo · dex · T2  ↓0 ↑2",
        "demo · dex · T1  ↓0 ↑0",
    ]
    assert heading(pages[0]).split("\n")[1] == "4 cells against 1,000"
    left, right = pages[1].axes
    np.testing.assert_allclose(panel_points(left, "other")[:, 1], [-np.log10(0.006)])
    np.testing.assert_allclose(panel_points(right, "higher")[:, 1], [1.0, 1.0])


# Heat map and dots


def cells(figure):
    """Colours of the heat map by (feature, target)."""
    targets, features = tick_names(figure)
    values = artist(figure, "heatmap").get_array().reshape(len(features), len(targets))
    return pd.DataFrame(np.ma.filled(values.astype(float), np.nan), features, targets)


def test_heatmap_shows_the_fold_changes_of_affected_targets_and_marks_the_effects():
    fdr = [[0.01, 0.5, 0.02, 0.5], [0.5, 0.01, 0.5, 0.6], [0.5] * 4, [0.01, 0.5, 0.5, 0.5]]
    change = np.arange(16).reshape(4, 4) / 4 - 2.0
    effects = effects_table(change, fdr)
    figure = heatmap(effects, ranked_targets(effects, FDR), fdr=FDR)
    shown = cells(figure)
    assert set(shown.columns) == {"T1", "T2", "T4"}
    assert set(shown.index) == {"F1", "F2", "F3"}
    fold_change = effects.astype({"target": str, "feature": str}).set_index(["feature", "target"])
    for name, value in shown.stack().items():
        assert value == fold_change.at[name, "effect"]
    dots = artist(figure, "significant").get_offsets().astype(int)
    assert {(shown.index[y], shown.columns[x]) for x, y in dots} == {
        *(("F1", "T1"), ("F3", "T1"), ("F2", "T2"), ("F1", "T4"))
    }


def test_heatmap_prefers_features_of_many_targets_then_small_p_values():
    fdr = np.full((4, 5), 0.5)
    fdr[:, 2], fdr[:2, 0], fdr[0, 1], fdr[1, 4] = 0.04, 0.03, 1e-9, 1e-5
    effects = effects_table(np.ones((4, 5)), fdr)
    ranked = ranked_targets(effects, FDR)
    for n, features in ((1, {"F3"}), (2, {"F3", "F1"}), (3, {"F3", "F1", "F2"})):
        figure = heatmap(effects, ranked, fdr=FDR, max_features=n)
        assert set(cells(figure).index) == features
        assert heading(figure) == f"demo · dex: {n} of 4 features with effects"
    figure = heatmap(effects, ranked, fdr=FDR, max_targets=2)
    assert set(cells(figure).columns) == {"T1", "T2"}
    assert heading(figure) == "demo · dex: 2 of 4 targets with effects"


def test_heatmap_clusters_rows_and_columns_whatever_the_order_given():
    rng = np.random.default_rng(0)
    pattern = rng.normal(0, 2, (2, 8))
    change = pattern[[0, 1, 0, 1, 0, 1]] + rng.normal(0, 0.05, (6, 8))
    effects = effects_table(change, np.full((6, 8), 0.01))
    figure = heatmap(effects, ranked_targets(effects, FDR), fdr=FDR)
    group = [int(name[1:]) % 2 for name in cells(figure).columns]
    assert np.count_nonzero(np.diff(group)) == 1
    shuffled = effects.sample(frac=1, random_state=1)
    again = heatmap(shuffled, ranked_targets(shuffled, FDR), fdr=FDR)
    pd.testing.assert_frame_equal(cells(figure), cells(again))


def test_colours_are_symmetric_and_one_sided_tests_do_not_stretch_them():
    change = [[1.1, -0.4, 28.0, -29.0], [-1.3, 0.5, 0.2, 0.1]]
    note = [["", "", *ONE_SIDED], ["", "", "", ""]]
    effects = effects_table(change, [[0.01, 0.5, 0.01, 0.5], [0.01, 0.01, 0.5, 0.02]], note=note)
    figure = heatmap(effects, ranked_targets(effects, FDR), fdr=FDR)
    mesh = artist(figure, "heatmap")
    # The 95th percentile of 1.1, 1.3, 0.5 and 0.1 is 1.27.
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-2.0, 2.0)
    red, _, blue, _ = mesh.get_cmap()(mesh.norm(2.0))
    assert red > blue
    red, _, blue, _ = mesh.get_cmap()(mesh.norm(-2.0))
    assert blue > red
    shown = cells(figure)
    assert shown.at["F3", "T1"] == 28.0
    # Not significant, and as large as the pseudocount is small.
    assert np.isnan(shown.at["F4", "T1"])
    assert figure.axes[1].get_ylabel() == "log₂ fold change"
    assert "no test or no fold change" in legend_texts(figure)


def test_dots_have_areas_as_fractions_and_colours_as_fold_changes():
    effects = effects_table([[2.0, -1.0], [0.5, 1.5]], [[0.01, 0.5], [0.5, 0.01]])
    figure = dotplot(effects, ranked_targets(effects, FDR), fdr=FDR)
    targets, features = tick_names(figure)
    assert targets[0] == "control"
    dots = artist(figure, "dots")
    by_name = effects.set_index(["target", "feature"])
    limit = figure.axes[1].get_ylim()[1]
    rims = dots.get_edgecolors()
    for i, (x, y) in enumerate(dots.get_offsets().astype(int)):
        row = by_name.loc[(targets[x], features[y])]
        assert dots.get_sizes()[i] / dots.get_sizes().max() == pytest.approx(
            row["target_fraction"]
        )
        colour = matplotlib.colormaps["RdBu_r"]((row["effect"] / limit + 1) / 2)
        np.testing.assert_allclose(dots.get_facecolors()[i], colour, atol=0.02)
        assert (tuple(rims[i][:3]) == (0, 0, 0)) == (row["fdr"] <= FDR)
    control = artist(figure, "control")
    np.testing.assert_array_equal(control.get_offsets()[:, 0], 0.0)
    fractions = dict(zip(["F1", "F2"], [0.2, 0.8], strict=True))
    np.testing.assert_allclose(
        control.get_sizes() / dots.get_sizes().max(), [fractions[name] for name in features]
    )
    assert legend_texts(figure)[:3] == ["25% of cells", "50% of cells", "100% of cells"]


def test_sizes_of_dots_are_relative_to_a_scale_that_fits_rare_features():
    effects = effects_table([[2.0, 1.0]], [[0.01, 0.01]]).assign(
        target_fraction=[0.01, 0.03], control_fraction=0.02
    )
    figure = dotplot(effects, ranked_targets(effects, FDR), fdr=FDR)
    assert legend_texts(figure)[:3] == ["1% of cells", "2% of cells", "4% of cells"]
    sizes = artist(figure, "dots").get_sizes()
    assert max(sizes) / min(sizes) == pytest.approx(3.0)


# Bars


def test_bars_go_down_to_the_left_and_up_to_the_right_the_longest_first():
    change = [[1, 1, 1, -1], [-1, -1, 1, 1], [1, 1, 1, 1]]
    effects = effects_table(change, [[0.01] * 4, [0.01, 0.01, 0.5, 0.5], [0.5] * 4])
    figure = ranking(ranked_targets(effects, FDR), fdr=FDR, title="demo", max_targets=2)
    assert [bar.get_width() for bar in artists(figure, "lower")] == [-1, -2]
    assert [bar.get_width() for bar in artists(figure, "higher")] == [3, 0]
    assert tick_names(figure)[1] == ["T1", "T2"]
    low, high = figure.axes[0].get_ylim()
    assert low > high
    assert [text.get_text() for text in artists(figure, "n-cells")] == ["1", "2"]
    assert [text.get_text() for text in artists(figure, "n-higher")] == ["3", "0"]
    assert figure.get_suptitle() == "demo: 2 targets with most effects, 1 not shown"


# All of them


def edge_cases():
    table = random_table()
    return {
        "no effects": effects_table(np.ones((3, 4)), np.full((3, 4), 0.9)),
        "one target": random_table(1, 12),
        "one feature": effects_table([[1.0], [-1.0]], [[0.01], [0.02]]),
        "one test": effects_table([[1.0]], [[0.01]]),
        "no rows": table.iloc[:0],
        "nothing tested": table.assign(p_value=np.nan, neg_log10_p=np.nan, fdr=np.nan),
        "no fold changes": table.assign(
            log2_fold_change=np.nan, effect_scale="difference of means, scores"
        ),
        "no effects known": table.assign(effect=np.nan, log2_fold_change=np.nan),
        "no fractions": table.assign(target_fraction=np.nan, control_fraction=np.nan),
        "zero effects": table.assign(effect=0.0, log2_fold_change=0.0),
        "underflow": table.assign(p_value=0.0, neg_log10_p=np.inf, fdr=0.0, fdr_target=0.0),
        "one cell": table.assign(n_target=1, n_control=1),
        "strange names": effects_table(
            [[1.0, -1.0, 2.0]] * 2,
            [[0.01, 0.02, 0.5]] * 2,
            targets=["$a_{b$" * 10, "HALLMARK_OXIDATIVE_PHOSPHORYLATION" * 2],
            features=["x" * 80, "ß→y", " "],
        ),
    }


@pytest.mark.parametrize("name", edge_cases())
def test_every_file_is_written_for_every_table(name, tmp_path):
    effects = edge_cases()[name]
    effects.to_parquet(tmp_path / "effects.parquet")
    figures = files(tmp_path / "plots")
    draw_targets(tmp_path / "effects.parquet", FDR, figures)
    for path in figures.values():
        assert (tmp_path / "plots" / path).stat().st_size > 0


def test_long_names_leave_room_for_the_panels():
    effects = edge_cases()["strange names"]
    for name, figure in drawings(effects).items():
        width = figure.bbox.width
        boxes = [panel.get_window_extent() for panel in figure.axes]
        assert max(box.width for box in boxes) > 0.3 * width, name
        for panel in figure.axes:
            tight = panel.get_tightbbox()
            assert tight.x0 > -1.0, name
            assert tight.x1 < width + 1.0, name


def test_figures_and_tables_have_equal_bytes_on_another_day(tmp_path):
    random_table().to_parquet(tmp_path / "effects.parquet")
    first, again = files(tmp_path / "first"), files(tmp_path / "again")
    draw_targets(tmp_path / "effects.parquet", FDR, first)
    # Longer than the resolution of a time stamp inside a file.
    time.sleep(1.1)
    draw_targets(tmp_path / "effects.parquet", FDR, again)
    for name, path in first.items():
        with open(path, "rb") as one, open(again[name], "rb") as other:
            assert one.read() == other.read(), name
    ranked = pd.read_csv(first["ranked"], sep="\t")
    expected = ranked_targets(random_table(), FDR)
    assert ranked.columns.tolist() == expected.columns.tolist()
    assert ranked["n_effects"].tolist() == expected["n_effects"].tolist()


def test_pages_are_one_file_complete_or_absent(tmp_path):
    effects = random_table(4)
    pages = list(target_pages(effects, ranked_targets(effects, FDR), fdr=FDR))
    save_pages(pages, tmp_path / "new" / "a.pdf")
    content = (tmp_path / "new" / "a.pdf").read_bytes()
    assert len(re.findall(rb"/Type /Page\b", content)) == 4
    assert b"CreationDate" not in content

    def broken():
        yield pages[0]
        raise RuntimeError("no second page")

    with pytest.raises(RuntimeError):
        save_pages(broken(), tmp_path / "b.pdf")
    with pytest.raises(ValueError, match="no figure"):
        save_pages([], tmp_path / "c.pdf")
    with pytest.raises(ValueError, match=r"expected \.pdf"):
        save_pages(pages, tmp_path / "d.png")
    assert [path.name for path in tmp_path.iterdir()] == ["new"]
