"""Diagnostic QQ plots: the data drawn, and what is left out where there is none."""

import numpy as np
import pandas as pd
import pytest
from scipy.stats import beta

from condrand.io.figures import save_figure
from condrand.plots.qq_diagnostics import qq_by_feature, qq_diagnostics

B = 199


def table(names, n_features=4, seed=0, source="empirical"):
    rng = np.random.default_rng(seed)
    n = len(names) * n_features
    empirical = rng.integers(1, B + 2, n) / (B + 1)
    p = empirical if source == "empirical" else rng.random(n)
    return pd.DataFrame(
        {
            "screen": "demo",
            "analysis": "crt",
            "target": np.repeat(np.asarray(names, dtype=object), n_features),
            "feature": np.tile([f"P{k + 1}" for k in range(n_features)], len(names)),
            "effect": rng.normal(size=n),
            "effect_scale": "CLR (natural log)",
            "p_value": p,
            "neg_log10_p": -np.log10(p),
            "fdr": 1.0,
            "p_source": source,
            "p_empirical": empirical,
        }
    )


EFFECTS = table([f"T{i}" for i in range(50)], seed=1)
GUIDES = table([f"NTC_{i}" for i in range(20)], seed=2)
GROUPS = table([f"e{e}/ntc_{i}" for e in range(6) for i in range(8)], seed=3)
COUNTS = np.random.default_rng(0).multinomial(100_000, np.full(B, 1 / B))


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def artist(figure, gid):
    (found,) = artists(figure, gid)
    return found


def legend_texts(figure):
    return [text.get_text() for legend in figure.legends for text in legend.get_texts()]


def test_every_curve_has_its_own_grid():
    figure = qq_diagnostics(EFFECTS, GUIDES, GROUPS, COUNTS)
    for gid, values in (("all-tests", EFFECTS), ("controls-empirical", GROUPS)):
        x, y = artist(figure, gid).get_data()
        m = len(values)
        np.testing.assert_allclose(x, -np.log10((np.arange(1, m + 1) - 0.5) / m))
        np.testing.assert_allclose(y, -np.log10(np.sort(values["p_empirical"])))
    assert "NTC groups (n = 192)" in legend_texts(figure)
    assert not artists(figure, "controls-reported")


def test_reported_controls_are_drawn_where_a_tail_was_fitted():
    groups = table(["e0/a", "e0/b", "e1/a"], seed=3, source="skew_normal")
    figure = qq_diagnostics(EFFECTS, GUIDES, groups)
    y = artist(figure, "controls-reported").get_ydata()
    np.testing.assert_allclose(y, np.sort(groups["neg_log10_p"])[::-1])
    y = artist(figure, "controls-empirical").get_ydata()
    np.testing.assert_allclose(y, -np.log10(np.sort(groups["p_empirical"])))
    # Refined by fresh resamples, they are empirical too.
    figure = qq_diagnostics(EFFECTS, groups.assign(p_source="empirical"))
    assert artists(figure, "controls-reported")
    # An engine without resamples has no empirical p values.
    figure = qq_diagnostics(EFFECTS, groups.assign(p_empirical=np.nan))
    assert artists(figure, "controls-reported")
    assert not artists(figure, "controls-empirical")


def test_the_crt_null_lies_on_the_diagonal_if_its_counts_are_even():
    figure = qq_diagnostics(EFFECTS, None, None, np.full(B, 1000))
    x, y = artist(figure, "crt-null").get_data()
    # 0.5 of a test in 199,000.
    np.testing.assert_allclose(10.0**-x, 10.0**-y, atol=1e-5)
    assert y.max() == pytest.approx(np.log10(B))
    assert "CRT null, resamples as tests (n = 199,000)" in legend_texts(figure)


def test_the_crt_null_skips_values_that_no_resample_has():
    figure = qq_diagnostics(EFFECTS, None, None, np.array([0, 3, 0, 1]))
    x, y = artist(figure, "crt-null").get_data()
    np.testing.assert_allclose(y, -np.log10([2 / 4, 4 / 4]))
    np.testing.assert_allclose(x, -np.log10([2.5 / 4, 3.5 / 4]))


def test_the_ensemble_is_over_replicates():
    figure = qq_diagnostics(EFFECTS, GUIDES, GROUPS, COUNTS)
    x, y = artist(figure, "ensemble-median").get_data()
    replicate = GROUPS["target"].str[:2]
    at = -np.log10((np.arange(1, 33) - 0.5) / 32)
    sorted_p = np.array([np.sort(p) for _, p in GROUPS["p_empirical"].groupby(replicate)])
    # At its own grid a replicate's quantiles are its sorted p values.
    expected = np.median(-np.log10(sorted_p), axis=0)
    assert y[0] == pytest.approx(expected[0]) and x[0] == pytest.approx(at[0])
    inside = np.interp(at[1:-1], x[::-1], y[::-1])
    np.testing.assert_allclose(inside, expected[1:-1], atol=0.03)
    assert artists(figure, "ensemble-band")
    assert "median of 6 replicates" in legend_texts(figure)
    one = GROUPS[GROUPS["target"].str.startswith("e0/")]
    assert not artists(qq_diagnostics(EFFECTS, GUIDES, one), "ensemble-median")


@pytest.mark.parametrize(
    ("controls", "groups", "m"), [(GUIDES, GROUPS, 192), (GUIDES, None, 80), (None, None, 200)]
)
def test_the_band_is_that_of_groups_else_guides_else_all_tests(controls, groups, m):
    figure = qq_diagnostics(EFFECTS, controls, groups, confidence=0.9)
    (path,) = artist(figure, "band").get_paths()
    edges = path.vertices[np.isclose(path.vertices[:, 0], -np.log10(0.5 / m)), 1]
    np.testing.assert_allclose(edges.max(), -np.log10(beta.ppf(0.05, 1, m)))
    np.testing.assert_allclose(edges.min(), -np.log10(beta.ppf(0.95, 1, m)))


@pytest.mark.parametrize("effects", [EFFECTS, EFFECTS.iloc[:0], EFFECTS.assign(p_value=np.nan)])
@pytest.mark.parametrize("controls", [GUIDES, None, pd.DataFrame()])
@pytest.mark.parametrize("groups", [GROUPS, None, GROUPS.iloc[:0]])
@pytest.mark.parametrize("counts", [COUNTS, None, np.zeros(0, np.int64)])
def test_whatever_is_missing_is_left_out(effects, controls, groups, counts, tmp_path):
    figure = qq_diagnostics(effects, controls, groups, counts)
    assert bool(artists(figure, "crt-null")) == (counts is COUNTS)
    assert len(qq_by_feature(effects, controls, groups).axes) >= 1


def test_strong_effects_are_triangles_at_the_edge_and_files_are_stable(tmp_path):
    effects = EFFECTS.copy()
    effects.loc[:2, ["p_value", "neg_log10_p"]] = [1e-80, 80.0]
    effects.loc[:2, "p_source"] = "skew_normal"
    for name in "ab":
        save_figure(qq_diagnostics(effects, GUIDES, GROUPS, COUNTS), tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    figure = qq_diagnostics(effects, GUIDES, GROUPS, COUNTS)
    assert artist(figure, "all-tests-above").get_xdata().size == 3
    assert artist(figure, "floor").get_ydata()[0] == pytest.approx(np.log10(B + 1))


def test_panels_are_the_features_with_most_discoveries_first():
    effects = EFFECTS.copy()
    effects.loc[effects["feature"] == "P3", "fdr"] = 0.01
    effects.loc[effects.index[effects["feature"] == "P2"][:5], "fdr"] = 0.01
    figure = qq_by_feature(effects, GUIDES, GROUPS)
    titles = [panel.get_title(loc="left") for panel in figure.axes]
    assert titles[:2] == ["P3", "P2"] and set(titles) == {"P1", "P2", "P3", "P4"}
    first = {line.get_gid(): line for line in figure.axes[0].lines}
    for gid, rows in (("all-tests", effects), ("controls", GUIDES), ("groups", GROUPS)):
        p = rows.loc[rows["feature"] == "P3", "neg_log10_p"]
        np.testing.assert_allclose(first[gid].get_ydata(), np.sort(p)[::-1])
    assert legend_texts(figure)[:3] == ["targets", "NTC guides", "NTC groups"]


def test_at_most_twenty_panels_and_the_others_counted():
    figure = qq_by_feature(table(["a", "b"], n_features=23))
    assert len(figure.axes) == 20
    assert "3 not shown" in figure.legends[0].get_title().get_text()
