"""The figures: the data drawn, not the pixels; and the files they are saved to."""

import time

import matplotlib
import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from condrand.io.figures import save_figure
from condrand.plots import labels, points
from condrand.plots.p_histogram import p_histogram
from condrand.plots.propensity import propensity
from condrand.plots.qq import qq
from condrand.plots.volcano import volcano, volcano_by_feature

N_RESAMPLES = 1023


def effects_table(p_values, *, n_features=1, effect=None, fdr=None, source="empirical"):
    p = np.asarray(p_values, dtype=float)
    target = [f"T{i // n_features}" for i in range(p.size)]
    feature = [f"program_{i % n_features + 1}" for i in range(p.size)]
    return pd.DataFrame(
        {
            "screen": "demo",
            "analysis": "crt",
            "target": target,
            "feature": feature,
            "n_target": 100,
            "n_control": 1000,
            "effect": np.linspace(-1, 1, p.size) if effect is None else effect,
            "effect_scale": "CLR (natural log)",
            "statistic": 0.0,
            "p_value": p,
            "neg_log10_p": -np.log10(p),
            "fdr": p if fdr is None else fdr,
            "p_source": source,
            "note": "",
        }
    )


def null_table(n, *, n_features=1, seed=0):
    rng = np.random.default_rng(seed)
    p = rng.integers(1, N_RESAMPLES + 2, n) / (N_RESAMPLES + 1)
    return effects_table(p, n_features=n_features)


def units_table(n_targets, n_controls):
    n = n_targets + n_controls
    rng = np.random.default_rng(0)
    cells = rng.integers(5, 2000, n)
    median = cells / 1e5
    return pd.DataFrame(
        {
            "unit": [f"u{i}" for i in range(n)],
            "kind": ["target"] * n_targets + ["ntc_guide"] * n_controls,
            "n_target": cells,
            "n_expected": cells * 1.01,
            "p_q01": median / 3,
            "p_median": median,
            "p_q99": median * 3,
            "auc": rng.uniform(0.5, 0.8, n),
            "note": "",
        }
    )


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def artist(figure, gid):
    (found,) = artists(figure, gid)
    return found


def names_written(figure):
    return {text.get_text() for text in artists(figure, "label")}


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def drawings(effects, controls):
    return {
        "qq": qq(effects, controls),
        "volcano": volcano(effects, fdr=0.05),
        "volcano_by_feature": volcano_by_feature(effects, fdr=0.05),
        "p_histogram": p_histogram(effects, controls),
    }


def test_qq_draws_the_sorted_p_values_against_their_expectation():
    effects, controls = null_table(50), effects_table([0.5, 0.04, 0.9])
    figure = qq(effects, controls)
    x, y = artist(figure, "all-tests").get_data()
    np.testing.assert_array_equal(y, np.sort(effects["neg_log10_p"])[::-1])
    np.testing.assert_allclose(x, -np.log10((np.arange(1, 51) - 0.5) / 50))
    x, y = artist(figure, "controls").get_data()
    np.testing.assert_allclose(y, -np.log10([0.04, 0.5, 0.9]))
    np.testing.assert_allclose(x, -np.log10([0.5 / 3, 1.5 / 3, 2.5 / 3]))
    assert "all tests (n = 50)" in legend_texts(figure)
    assert "NTC guides (n = 3)" in legend_texts(figure)


@pytest.mark.parametrize("n_controls", [0, 30])
def test_qq_band_is_that_of_the_controls_or_else_of_all_tests(n_controls):
    figure = qq(null_table(200), null_table(n_controls), confidence=0.9)
    m = n_controls or 200
    (path,) = artist(figure, "band").get_paths()
    expected = -np.log10(0.5 / m)
    edges = path.vertices[np.isclose(path.vertices[:, 0], expected), 1]
    np.testing.assert_allclose(edges.min(), -np.log10(beta.ppf(0.95, 1, m)))
    np.testing.assert_allclose(edges.max(), -np.log10(beta.ppf(0.05, 1, m)))


def test_qq_of_many_tests_keeps_all_extreme_points_and_is_deterministic():
    effects = null_table(300_000)
    x, y = artist(qq(effects, null_table(0)), "all-tests").get_data()
    assert x.size <= 4000
    np.testing.assert_array_equal(y[:2000], np.sort(effects["neg_log10_p"])[::-1][:2000])
    assert x[-1] == -np.log10((300_000 - 0.5) / 300_000)
    again, _ = artist(qq(effects, null_table(0)), "all-tests").get_data()
    np.testing.assert_array_equal(x, again)


def test_qq_shows_the_floor_only_when_several_empirical_p_values_share_it():
    floor = 1 / (N_RESAMPLES + 1)
    nothing = null_table(0)
    shared = qq(effects_table([floor, floor, 0.3]), nothing)
    assert artist(shared, "floor").get_ydata()[0] == pytest.approx(np.log10(N_RESAMPLES + 1))
    assert not artists(qq(effects_table([floor, 0.2, 0.3]), nothing), "floor")
    # 3/(B+1) twice is a coincidence, not the floor.
    assert not artists(qq(effects_table([3 * floor, 3 * floor, 0.3]), nothing), "floor")
    fitted = effects_table([floor, floor, 0.3], source="skew_normal")
    assert not artists(qq(fitted, nothing), "floor")
    across = qq(effects_table([floor, 0.3]), effects_table([floor, 0.4]))
    assert len(artists(across, "floor")) == 1


def test_qq_ends_above_the_diagonal_and_marks_the_tests_beyond():
    p = np.concatenate([[1e-200, 1e-40], np.arange(1, 99) / 99])
    effects, controls = effects_table(p), effects_table([1e-12, 0.3, 0.6])
    figure = qq(effects, controls)
    panel = figure.axes[0]
    # 2.5 times -log10(0.5 / 100) is 5.75.
    assert panel.get_ylim() == (0.0, 6.0)
    x, y = artist(figure, "all-tests-above").get_data()
    np.testing.assert_allclose(x, -np.log10([0.5 / 100, 1.5 / 100]))
    np.testing.assert_array_equal(y, 6.0)
    assert artist(figure, "all-tests").get_xdata().size == 98
    assert artist(figure, "controls-above").get_xdata().size == 1
    assert artist(figure, "controls").get_xdata().size == 2
    assert legend_texts(figure)[-2:] == ["2 above 6, largest 200", "1 above 6, largest 12.0"]
    diagonal = artist(figure, "identity").get_path().vertices
    rise, run = np.ptp(panel.transData.transform(diagonal), axis=0)[::-1]
    assert rise > 0.3 * run


def test_qq_of_weak_effects_has_nothing_above_the_panel():
    figure = qq(null_table(50), null_table(20))
    assert not artists(figure, "all-tests-above")
    assert not artists(figure, "controls-above")
    assert artist(figure, "all-tests").get_ydata().max() <= figure.axes[0].get_ylim()[1]


def test_qq_counts_the_tests_above_the_panel_before_thinning():
    p = np.concatenate([np.full(3000, 1e-100), np.random.default_rng(0).random(7000)])
    figure = qq(effects_table(p, source="skew_normal"), null_table(0))
    assert artist(figure, "all-tests-above").get_xdata().size < 3000
    assert "3,000 above 11, largest 100" in legend_texts(figure)


def test_qq_panel_holds_band_and_floor_beside_strong_effects():
    floor = 1 / 10_000_000
    p = [floor, floor, 0.5]
    effects = pd.concat([effects_table(p), effects_table([1e-90], source="skew_normal")])
    figure = qq(effects, null_table(0))
    top = figure.axes[0].get_ylim()[1]
    assert artist(figure, "floor").get_ydata()[0] < top
    (path,) = artist(figure, "band").get_paths()
    assert path.vertices[:, 1].max() < top


def test_volcano_colours_by_sign_and_significance_and_draws_the_threshold():
    effects = effects_table(
        [0.001, 0.002, 0.003, 0.2, 0.5, np.nan],
        effect=[1.0, -2.0, 0.5, 0.1, -0.1, np.nan],
        fdr=[0.01, 0.02, 0.05, 0.3, 0.6, np.nan],
    )
    figure = volcano(effects, fdr=0.05)
    np.testing.assert_array_equal(artist(figure, "higher").get_xdata(), [1.0, 0.5])
    np.testing.assert_array_equal(artist(figure, "lower").get_xdata(), [-2.0])
    np.testing.assert_array_equal(artist(figure, "other").get_xdata(), [0.1, -0.1])
    assert artist(figure, "threshold").get_ydata()[0] == pytest.approx(-np.log10(0.003))
    assert names_written(figure) == {"T0 · program_1", "T1 · program_1", "T2 · program_1"}
    assert figure.axes[0].get_xlabel() == "Effect, CLR (natural log)"


@pytest.mark.parametrize("draw", [volcano, volcano_by_feature])
def test_tall_volcano_compresses_its_axis_and_says_so(draw):
    p = [1e-300, 1e-60, 1e-5, 0.01, 0.2, 0.4, 0.6, 0.8, 1.0]
    figure = draw(effects_table(p, n_features=3), fdr=0.05)
    label = figure.axes[0].get_ylabel() or figure.get_supylabel()
    assert label == "−log₁₀ p (compressed above 10)"
    heights = []
    for panel in figure.axes:
        assert panel.get_yscale() == "symlog"
        low, high = panel.get_ylim()
        ticks = [tick for tick in panel.get_yticks() if low <= tick <= high]
        assert ticks[:5] == [0, 5, 10, 30, 100]
        for line in panel.lines:
            if line.get_gid() in ("other", "lower", "higher"):
                inside = panel.transAxes.inverted().transform(
                    panel.transData.transform(line.get_xydata())
                )
                heights.extend(inside[:, 1])
    assert len(heights) == 9
    assert 0.0 < min(heights)
    assert max(heights) < 0.95
    # 0.01 to 1e-5 is 1% of the data's range, and a tenth of the panel.
    assert np.sort(heights)[6] - np.sort(heights)[5] > 0.1


@pytest.mark.parametrize("draw", [volcano, volcano_by_feature])
def test_volcano_of_ordinary_heights_is_in_proportion(draw):
    figure = draw(effects_table([1e-49, 1e-5, 0.2]), fdr=0.05)
    assert figure.axes[0].get_yscale() == "linear"
    assert (figure.axes[0].get_ylabel() or figure.get_supylabel()) == "−log₁₀ p"


def test_thinning_of_a_tall_volcano_keeps_the_points_of_its_stretched_part():
    rng = np.random.default_rng(0)
    log10_p = np.concatenate([[300.0], rng.uniform(2, 8, 40_000)])
    effects = effects_table(10.0**-log10_p, effect=np.full(40_001, 1.0), fdr=0.01)
    y = artist(volcano(effects, fdr=0.05), "higher").get_ydata()
    # In steps of 300 / 600 there would be 12 of them.
    assert y.size > 100
    assert y.max() == pytest.approx(300)


def test_volcano_without_significant_tests_has_no_threshold_and_no_names():
    figure = volcano(effects_table([0.2, 0.5]), fdr=0.05)
    assert not artists(figure, "threshold")
    assert not names_written(figure)


def test_volcano_counts_all_tests_in_the_legend_when_points_are_thinned():
    effects = null_table(60_000)
    effects["fdr"] = 1.0
    figure = volcano(effects, fdr=0.05)
    assert artist(figure, "other").get_xdata().size < 60_000
    assert "not significant (60,000)" in legend_texts(figure)


def test_names_in_a_volcano_do_not_overlap_and_stay_in_the_panel():
    rng = np.random.default_rng(1)
    p = 10.0 ** -rng.uniform(3, 4, 40)
    figure = volcano(effects_table(p, effect=rng.normal(0, 0.2, 40)), fdr=0.05)
    texts = artists(figure, "label")
    assert len(texts) >= 6
    boxes = [text.get_window_extent() for text in texts]
    frame = figure.axes[0].get_window_extent()
    for i, box in enumerate(boxes):
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        # The full height of a line of text includes the leading, which may touch.
        for other in boxes[:i]:
            apart = max(box.x0 - other.x1, other.x0 - box.x1)
            assert apart > 0 or abs(box.y0 - other.y0) > 0.7 * box.height


def test_volcano_by_feature_has_a_panel_per_feature_in_natural_order():
    effects = null_table(120, n_features=12)
    figure = volcano_by_feature(effects, fdr=0.05)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == [f"program_{i}" for i in range(1, 13)]
    assert sum(line.get_xdata().size for line in artists(figure, "other")) == sum(
        effects["fdr"] > 0.05
    )
    assert len({panel.get_ylim() for panel in figure.axes}) == 1


def test_volcano_by_feature_keeps_the_smallest_p_values_and_says_what_is_missing():
    effects = effects_table([0.5, 0.01, 0.4, 0.3, 0.02, 0.6], n_features=6)
    figure = volcano_by_feature(effects, fdr=0.05, max_features=2)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles == ["program_2", "program_5"]
    assert "4 not shown" in figure.legends[0].get_title().get_text()
    assert names_written(figure) == {"T0"}


def test_volcano_by_feature_names_at_most_five_targets_per_panel():
    effects = effects_table(10.0 ** -np.arange(3, 23), fdr=1e-3)
    assert len(names_written(volcano_by_feature(effects, fdr=0.05))) <= 5


def test_p_histogram_is_a_density_with_the_fractions_written():
    effects = effects_table([0.001, 0.02, 0.3, 0.7, np.nan])
    figure = p_histogram(effects, null_table(0))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    assert len(heights) == 20
    assert heights[0] == pytest.approx(10.0)
    assert np.mean(heights) == pytest.approx(1.0)
    title = figure.axes[0].get_title(loc="left")
    assert "n = 4" in title
    assert "p < 0.05: 0.500, p < 0.01: 0.250" in title
    assert not figure.axes[1].patches


def test_p_histogram_is_flat_for_all_possible_empirical_p_values():
    figure = p_histogram(effects_table(np.arange(1, 101) / 100), null_table(0))
    heights = [bar.get_height() for bar in figure.axes[0].patches]
    np.testing.assert_allclose(heights, 1.0)


def test_propensity_draws_every_unit_and_ignores_those_without_a_fit():
    units = units_table(40, 10)
    units.loc[3, ["n_expected", "p_q01", "p_median", "p_q99", "auc"]] = np.nan
    figure = propensity(units)
    expected, intervals, auc = figure.axes
    for panel in (expected, intervals, auc):
        by_gid = {line.get_gid(): line for line in panel.lines}
        assert by_gid["target"].get_xdata().size == 39
        assert by_gid["ntc_guide"].get_xdata().size == 10
    by_gid = {line.get_gid(): line for line in expected.lines}
    fitted = units.dropna().query("kind == 'target'")
    assert set(by_gid["target"].get_xdata()) == set(fitted["n_target"])
    assert len(artist(figure, "interval-target").get_segments()) == 39
    medians = {line.get_gid(): line for line in intervals.lines}
    ranks = np.concatenate([medians[kind].get_xdata() for kind in ("target", "ntc_guide")])
    np.testing.assert_array_equal(np.sort(ranks), np.arange(1, 50))


def test_propensity_is_headed_by_screen_and_analysis_where_the_table_tells():
    units = units_table(5, 2)
    assert propensity(units).legends[0].get_title().get_text() == ""
    named = units.assign(screen="papa", analysis="crt")
    assert propensity(named).legends[0].get_title().get_text() == "papa · crt"
    unfitted = named.assign(n_expected=np.nan)
    assert propensity(unfitted).get_suptitle() == "papa · crt"


def test_propensity_works_without_controls_with_zeros_and_without_any_fit():
    units = units_table(5, 0)
    units.loc[0, "n_target"] = 0
    units.loc[1, "p_q01"] = 0.0
    assert propensity(units).axes[0].lines
    unfitted = units.assign(n_expected=np.nan, p_median=np.nan, auc=np.nan)
    assert len(propensity(unfitted).axes) == 3
    assert len(propensity(units.iloc[:0]).axes) == 3


@pytest.mark.parametrize("controls", [pd.DataFrame(), null_table(4).iloc[:0]])
@pytest.mark.parametrize("kind", ["tests", "all-nan", "no-rows"])
def test_every_figure_works_without_controls_and_without_tests(controls, kind, tmp_path):
    effects = null_table(40, n_features=4)
    if kind == "all-nan":
        effects[["p_value", "neg_log10_p", "fdr", "effect"]] = np.nan
    if kind == "no-rows":
        effects = effects.iloc[:0]
    for name, figure in drawings(effects, controls).items():
        save_figure(figure, tmp_path / f"{name}.svg")


def test_untested_rows_change_nothing(tmp_path):
    effects, controls = null_table(60, n_features=3), null_table(12, n_features=3, seed=1)
    untested = effects.iloc[:6].assign(
        p_value=np.nan, neg_log10_p=np.nan, fdr=np.nan, effect=np.nan, note="too few cells"
    )
    more = pd.concat([effects, untested], ignore_index=True)
    less, full = drawings(effects, controls), drawings(more, controls)
    for name in less:
        save_figure(less[name], tmp_path / "less.svg")
        save_figure(full[name], tmp_path / "full.svg")
        assert (tmp_path / "less.svg").read_bytes() == (tmp_path / "full.svg").read_bytes()


def test_categorical_names_and_underflown_p_values_are_drawn():
    effects = effects_table([1e-200, 0.2, 0.4], n_features=3).astype(
        {"target": "category", "feature": "category", "effect_scale": "category"}
    )
    effects.loc[0, ["p_value", "neg_log10_p"]] = [0.0, np.inf]
    assert "1 above 3, largest 323" in legend_texts(qq(effects, null_table(0)))
    assert len(volcano_by_feature(effects, fdr=0.05).axes) == 3


def test_underflown_p_values_keep_their_logarithm():
    table = effects_table([1e-200, 0.2, 0.4]).assign(p_value=0.0)
    table["neg_log10_p"] = [574.7, np.inf, 2.0]
    np.testing.assert_array_equal(points.log10_p(table), [574.7, 574.7, 2.0])
    table["neg_log10_p"] = [200.0, np.inf, 2.0]
    np.testing.assert_array_equal(points.log10_p(table), [200.0, 323.3, 2.0])


def test_names_with_dollar_signs_are_not_formulas(tmp_path):
    effects = effects_table([1e-6, 0.3]).replace({"target": {"T0": "$a_{b$"}})
    figure = volcano(effects, fdr=0.05)
    save_figure(figure, tmp_path / "a.svg")
    assert "$a_{b$ · program_1" in (tmp_path / "a.svg").read_text(encoding="utf-8")


def test_drawing_leaves_the_settings_of_matplotlib_alone():
    before = dict(matplotlib.rcParams)
    volcano(null_table(20), fdr=0.05)
    assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("suffix", [".png", ".svg", ".pdf"])
def test_saved_files_are_byte_stable_and_complete(tmp_path, suffix):
    first, again, redrawn = (tmp_path / "new" / f"{name}{suffix}" for name in "abc")
    effects = null_table(3000, n_features=3)
    figure = volcano(effects, fdr=0.05)
    save_figure(figure, first)
    # Longer than the resolution of a time stamp inside a file.
    time.sleep(1.1)
    save_figure(figure, again)
    save_figure(volcano(effects, fdr=0.05), redrawn)
    assert first.read_bytes() == again.read_bytes() == redrawn.read_bytes()
    assert sorted(path.name for path in first.parent.iterdir()) == [
        f"{name}{suffix}" for name in "abc"
    ]


def test_a_saved_svg_keeps_text_as_text(tmp_path):
    save_figure(qq(null_table(50), null_table(10)), tmp_path / "qq.svg", tmp_path / "qq.png")
    text = (tmp_path / "qq.svg").read_text(encoding="utf-8")
    assert "NTC guides (n = 10)" in text
    assert (tmp_path / "qq.png").stat().st_size > 0


def test_an_unknown_suffix_is_refused_before_anything_is_written(tmp_path):
    figure = qq(null_table(5), null_table(0))
    with pytest.raises(ValueError, match=r"'\.jpg', expected one of \.png, \.svg, \.pdf"):
        save_figure(figure, tmp_path / "a.png", tmp_path / "a.jpg")
    assert not list(tmp_path.iterdir())


def test_thinning_keeps_one_point_of_every_occupied_cell():
    rng = np.random.default_rng(0)
    x, y = rng.random(50_000), np.zeros(50_000)
    kept = points.thin_grid(x, y, cells=100)
    assert set(np.floor((x[kept] - x.min()) / np.ptp(x) * 100)) == set(range(101))
    np.testing.assert_array_equal(points.thin_grid(x[:10], y[:10]), np.arange(10))


def test_names_sort_naturally_and_are_cut_in_their_middle():
    names = ["p10", "p2", "q", "p1b", "p1"]
    assert sorted(names, key=points.natural_key) == ["p1", "p1b", "p2", "p10", "q"]
    assert points.shorten("abcdefghij", 5) == "ab…ij"
    assert points.shorten("abc", 5) == "abc"
    cut = labels.fit("HALLMARK_" * 5, 60.0, size=7.0)
    assert "…" in cut
    assert cut.startswith("HALL")
