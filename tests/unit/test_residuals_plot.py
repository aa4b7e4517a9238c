"""Residuals against covariates: the numbers, the warnings, and what is drawn."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.plots.residuals import residual_trends
from condrand.residuals import residual_trends_table, trend_warnings

N = 4000
NAMES = ["depth", "mito", "batch"]
FEATURES = ["P1", "P2", "P3"]


@pytest.fixture(scope="module")
def screen():
    rng = np.random.default_rng(0)
    depth, mito = rng.normal(9.0, 0.5, N), rng.exponential(3.0, N)
    covariates = np.column_stack([depth, mito, rng.integers(0, 2, N)])
    outcome = rng.normal(size=(N, 3)) + 2.0 * depth[:, None]
    outcome[:, 1] += 1.2 * (depth - 9.0) ** 2
    design = np.column_stack([np.ones(N), covariates])
    return outcome - design @ np.linalg.lstsq(design, outcome, rcond=None)[0], covariates


@pytest.fixture(scope="module")
def table(screen):
    return residual_trends_table(*screen, NAMES, FEATURES)


def test_bins_hold_about_equally_many_cells_and_their_means(screen, table):
    residuals, covariates = screen
    rows = table[(table["covariate"] == "depth") & (table["feature"] == "P2")]
    assert rows["bin"].tolist() == list(range(20))
    assert rows["n_cells"].sum() == N and np.ptp(rows["n_cells"]) <= 2
    # The first bin, by hand.
    first = np.argsort(covariates[:, 0])[: rows["n_cells"].iloc[0]]
    row, values = rows.iloc[0], residuals[first, 1] - residuals[:, 1].mean()
    assert row["covariate_mean"] == pytest.approx(covariates[first, 0].mean())
    assert row["residual_mean"] == pytest.approx(values.mean())
    assert row["residual_se"] == pytest.approx(stats.sem(values))


def test_two_valued_covariates_are_left_out(table):
    assert table["covariate"].unique().tolist() == ["depth", "mito"]
    assert table.columns.tolist()[:3] == ["covariate", "feature", "bin"]


def test_the_trend_is_the_f_test_of_bins_beyond_the_line(screen, table):
    residuals, covariates = screen
    for j, k in ((0, 1), (1, 0)):
        rows = table[(table["covariate"] == NAMES[j]) & (table["feature"] == FEATURES[k])]
        x, y = covariates[:, j], residuals[:, k]
        order = np.argsort(x)
        bins = np.empty(N, int)
        bins[order] = np.repeat(np.arange(20), rows["n_cells"])
        line = np.column_stack([np.ones(N), x])
        full = np.column_stack([x, bins[:, None] == np.arange(20)])
        sse = [np.sum((y - d @ np.linalg.lstsq(d, y, rcond=None)[0]) ** 2) for d in (line, full)]
        f = (sse[0] - sse[1]) / 19 / (sse[1] / (N - 21))
        r2 = (sse[0] - sse[1]) / np.sum((y - y.mean()) ** 2)
        assert rows["trend_r2"].iloc[0] == pytest.approx(r2, rel=1e-8)
        assert rows["p_trend"].iloc[0] == pytest.approx(stats.f.sf(f, 19, N - 21), rel=1e-6)


def test_p_values_of_trends_are_uniform_without_one():
    rng = np.random.default_rng(1)
    found = residual_trends_table(
        rng.normal(size=(500, 400)), rng.normal(size=(500, 1)), ["x"], list(range(400)), 10
    )
    p = found.drop_duplicates("feature")["p_trend"]
    assert stats.kstest(p, "uniform").pvalue > 0.001


def test_counts_keep_their_ties_together_and_need_no_line_within_bins():
    rng = np.random.default_rng(2)
    x, y = rng.poisson(1.0, 300).astype(float), rng.normal(size=300)
    got = residual_trends_table(y[:, None], x[:, None], ["n"], ["P"])
    # Each bin is one count, but for the rare ones.
    assert got["covariate_mean"].iloc[:3].tolist() == [0.0, 1.0, 2.0]
    assert got["n_cells"].iloc[0] == np.sum(x == 0)
    three = np.minimum(x, 2.0)
    got = residual_trends_table(y[:, None], three[:, None], ["n"], ["P"])
    full = np.sum([np.sum((y[three == v] - y[three == v].mean()) ** 2) for v in range(3)])
    line = np.sum((y - np.polyval(np.polyfit(three, y, 1), three)) ** 2)
    expected = (line - full) / np.sum((y - y.mean()) ** 2)
    assert got["trend_r2"].iloc[0] == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_a_covariate_that_is_mostly_one_value_has_two_bins_or_more(sign):
    x = np.zeros(200)
    x[:3] = sign * np.array([1.0, 2.0, 3.0])
    got = residual_trends_table(np.arange(200.0)[:, None], x[:, None], ["x"], ["P"])
    assert sorted(got["n_cells"]) == [3, 197]


def test_constant_residuals_and_no_covariate_give_no_trend():
    x = np.arange(50.0)[:, None]
    got = residual_trends_table(np.ones((50, 1)), x, ["x"], ["P"])
    assert got["trend_r2"].isna().all() and trend_warnings(got) == []
    none = residual_trends_table(np.ones((50, 1)), np.empty((50, 0)), [], ["P"])
    assert not len(none) and trend_warnings(none) == []
    residual_trends(got)


def test_the_array_is_not_changed_and_may_be_float32(screen, table):
    residuals, covariates = screen
    single = residuals.astype(np.float32)
    before = single.copy()
    got = residual_trends_table(single, covariates, NAMES, FEATURES)
    np.testing.assert_array_equal(single, before)
    np.testing.assert_allclose(got["trend_r2"], table["trend_r2"], atol=1e-5)


def test_the_warning_names_covariate_feature_share_and_mend(table):
    (sentence,) = trend_warnings(table)
    share = 100 * table.loc[table["feature"] == "P2", "trend_r2"].max()
    assert sentence.startswith(
        f"The effect of covariate depth is not linear: its bins explain {share:.1f} % of the "
        "residual variance of P2, and 1 % or more of 1 of 3 features"
    )
    assert "`formula: ~ bs(depth, df=4)`" in sentence
    assert trend_warnings(table, r2=0.9) == []


@pytest.mark.parametrize(
    ("covariate", "term"),
    [
        ("log(n_umis)", "bs(log(n_umis), df=4)"),
        ("log1p(n_umis)", "bs(log(n_umis + 1), df=4)"),
        ("n umis", "bs(`n umis`, df=4)"),
    ],
)
def test_the_mend_is_a_formula_over_obs(covariate, term, table):
    renamed = table.assign(covariate=table["covariate"].replace("depth", covariate))
    assert f"`formula: ~ {term}`" in trend_warnings(renamed)[0]


def test_shares_by_chance_among_few_cells_are_no_warning():
    rng = np.random.default_rng(3)
    got = residual_trends_table(
        rng.normal(size=(100, 5)), rng.normal(size=(100, 1)), ["x"], list("abcde")
    )
    assert got["trend_r2"].max() > 0.1
    assert trend_warnings(got) == []


def test_panels_start_with_the_strongest_trend_and_name_its_feature(table):
    figure = residual_trends(table.assign(screen="s", analysis="a"))
    assert [panel.get_xlabel() for panel in figure.axes] == ["depth", "mito"]
    depth, mito = figure.axes
    (worst,) = (line for line in depth.lines if line.get_gid() == "worst")
    rows = table[(table["covariate"] == "depth") & (table["feature"] == "P2")]
    np.testing.assert_allclose(worst.get_xdata(), rows["covariate_mean"])
    np.testing.assert_allclose(worst.get_ydata(), rows["residual_mean"])
    assert len([line for line in depth.lines if line.get_gid() == "other"]) == 2
    (name,) = (text for text in depth.texts if text.get_gid() == "name")
    assert name.get_text() == f"P2: {100 * rows['trend_r2'].iloc[0]:.1f} %"
    (none,) = (text for text in mito.texts if text.get_gid() == "none")
    assert none.get_text().startswith("none above 1 % (largest")
    assert depth.get_ylim() == mito.get_ylim()
    assert figure.legends[0].get_title().get_text() == "s · a"


def test_many_covariates_are_cut_and_counted_and_none_is_said(table):
    one = table[table["covariate"] == "depth"]
    many = pd.concat([one.assign(covariate=f"c{i}") for i in range(14)], ignore_index=True)
    figure = residual_trends(many)
    assert len(figure.axes) == 12
    assert "2 not shown" in figure.legends[0].get_title().get_text()
    empty = residual_trends(table.iloc[:0])
    assert "no numeric covariate" in empty.axes[0].texts[0].get_text()
