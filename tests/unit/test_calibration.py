"""Calibration rows: fractions with exact intervals and the distance from uniform."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.calibration import (
    calibration_row,
    calibration_table,
    flagged_controls,
    verdict,
    verdict_row,
)


def test_fractions_count_p_values_strictly_below_the_level():
    p = np.array([0.005, 0.01, 0.02, 0.05, 0.9, np.nan])
    row = calibration_row(p)
    assert row["n_tests"] == 5
    assert row["fraction_below_0.05"] == pytest.approx(3 / 5)
    assert row["fraction_below_0.01"] == pytest.approx(1 / 5)


@pytest.mark.parametrize(("count", "n"), [(0, 20), (3, 40), (40, 40)])
def test_intervals_are_those_of_clopper_and_pearson(count, n):
    p = np.r_[np.full(count, 0.001), np.full(n - count, 0.7)]
    row = calibration_row(p)
    # By their definition, quantiles of beta distributions; 0 and 1 at the ends.
    low = stats.beta.ppf(0.025, count, n - count + 1) if count else 0.0
    high = stats.beta.ppf(0.975, count + 1, n - count) if count < n else 1.0
    for level in ("0.05", "0.01"):
        assert row[f"fraction_below_{level}_low"] == pytest.approx(low, abs=1e-9)
        assert row[f"fraction_below_{level}_high"] == pytest.approx(high, abs=1e-9)


def test_the_distance_is_the_largest_gap_to_the_diagonal():
    # Steps of the empirical distribution at 0.1, 0.2, 0.3: the largest gap is 1 - 0.3.
    row = calibration_row(np.array([0.3, 0.1, 0.2]))
    assert row["ks_distance"] == pytest.approx(0.7, rel=1e-12)
    assert row["ks_p"] == pytest.approx(stats.kstest([0.1, 0.2, 0.3], "uniform").pvalue)


def test_uniform_p_values_look_uniform_and_squared_ones_do_not():
    p = (np.arange(2000) + 0.5) / 2000
    uniform, small = calibration_row(p), calibration_row(p**2)
    assert uniform["ks_p"] > 0.99 and small["ks_p"] < 1e-10
    assert uniform["fraction_below_0.05_low"] < 0.05 < uniform["fraction_below_0.05_high"]
    assert small["fraction_below_0.05_low"] > 0.05


@pytest.mark.parametrize("p", [[], [np.nan, np.nan]], ids=["empty", "all NaN"])
def test_without_tests_everything_is_nan(p):
    row = calibration_row(np.array(p, dtype=float))
    assert set(row) == set(calibration_row(np.array([0.5])))
    assert row.pop("n_tests") == 0
    assert row.pop("n_units") == 0
    assert row.pop("verdict") == "no_controls"
    assert all(np.isnan(value) for value in row.values())


def test_inflation_is_one_for_uniform_p_values_and_the_variance_for_wider_normal_ones():
    uniform = (np.arange(100_000) + 0.5) / 100_000
    row = calibration_row(uniform)
    assert row["inflation_median"] == pytest.approx(1.0, abs=1e-3)
    assert row["inflation_tail"] == pytest.approx(1.0, abs=1e-3)
    # z of variance 2: every quantile of z^2 doubles.
    wide = calibration_row(stats.chi2.sf(2.0 * stats.chi2.isf(uniform, 1), 1))
    assert wide["inflation_median"] == pytest.approx(2.0, abs=2e-3)
    assert wide["inflation_tail"] == pytest.approx(2.0, abs=2e-3)
    assert np.isnan(calibration_row(uniform[::2000])["inflation_tail"])


def null_p(rng, n_units, n_features, correlation):
    """Two-sided p values; those of one unit share a normal factor."""
    z = np.sqrt(correlation) * rng.normal(size=(n_units, 1))
    z = z + np.sqrt(1.0 - correlation) * rng.normal(size=(n_units, n_features))
    return (2.0 * stats.norm.sf(np.abs(z))).ravel()


def clopper_pearson(p, level):
    interval = stats.binomtest(int(np.sum(p < level)), p.size).proportion_ci(0.95)
    return interval.low, interval.high


def test_tests_of_one_unit_count_together_when_they_are_equal():
    # 20 copies of each of 200 tests tell as much as 200 tests.
    rng = np.random.default_rng(0)
    p = rng.random(200)
    units = np.repeat(np.arange(200), 20)
    row, single = calibration_row(np.repeat(p, 20), units), calibration_row(p)
    assert row["n_effective"] == pytest.approx(200, rel=0.01)
    assert row["fraction_below_0.05"] == single["fraction_below_0.05"]
    for end in ("low", "high"):
        name = f"fraction_below_0.05_{end}"
        assert row[name] == pytest.approx(single[name], abs=2e-3)
    assert row["ks_p"] == pytest.approx(single["ks_p"], rel=0.05)


@pytest.mark.parametrize("correlation", [0.0, 0.6])
def test_the_interval_is_never_narrower_than_that_of_independent_tests(correlation):
    rng = np.random.default_rng(1)
    for n_units in (2, 7, 50):
        p = null_p(rng, n_units, 10, correlation)
        row = calibration_row(p, np.repeat(np.arange(n_units), 10))
        for level in (0.05, 0.01):
            low, high = clopper_pearson(p, level)
            assert row[f"fraction_below_{level:g}_low"] <= low + 1e-12
            assert row[f"fraction_below_{level:g}_high"] >= high - 1e-12
        assert row["n_effective"] <= p.size


def test_the_interval_covers_the_truth_when_features_are_correlated():
    # 60 units of 20 features with correlation 0.5. Of 400 screens, 95 % covered within three
    # standard errors is 91.7 %; intervals of independent tests cover about 3 in 4.
    rng = np.random.default_rng(2)
    units = np.repeat(np.arange(60), 20)
    covered, independent, wrong = {0.05: 0, 0.01: 0}, {0.05: 0, 0.01: 0}, 0
    for _ in range(400):
        p = null_p(rng, 60, 20, 0.5)
        row = calibration_row(p, units)
        wrong += row["verdict"] in ("anticonservative", "conservative")
        for level in covered:
            name = f"fraction_below_{level:g}"
            covered[level] += row[f"{name}_low"] <= level <= row[f"{name}_high"]
            low, high = clopper_pearson(p, level)
            independent[level] += low <= level <= high
    print(covered, independent, wrong)
    assert min(covered.values()) >= 0.917 * 400
    assert independent[0.05] < 0.85 * 400
    # Two looks at 2.5 % each: at most 5 % of verdicts are wrong, within three errors 8.3 %.
    assert wrong <= 0.083 * 400


def test_replicates_of_groups_do_not_make_the_interval_narrower():
    rng = np.random.default_rng(3)
    p = null_p(rng, 40, 10, 0.3)
    units = np.repeat([f"g{i}" for i in range(40)], 10)
    one = calibration_row(p, units)
    again = np.concatenate([np.char.add(f"e{e}/", units) for e in range(5)])
    five = calibration_row(np.tile(p, 5), again, n_replicates=5)
    assert five["n_units"] == 200 and five["n_tests"] == 2000
    assert five["n_effective"] == pytest.approx(one["n_effective"], rel=0.02)
    for end in ("low", "high"):
        name = f"fraction_below_0.05_{end}"
        assert five[name] == pytest.approx(one[name], abs=2e-3)


def test_one_unit_alone_says_nothing():
    row = calibration_row(np.linspace(0.001, 1, 50), np.repeat("g", 50))
    assert (row["fraction_below_0.05_low"], row["fraction_below_0.05_high"]) == (0.0, 1.0)
    assert row["verdict"] == "too_few"


def table_of(names, p, n_features=1, empirical=None, source="skew_normal"):
    p = np.asarray(p, dtype=float)
    return pd.DataFrame(
        {
            "target": np.repeat(np.asarray(names, dtype=object), n_features),
            "feature": np.tile([f"P{k}" for k in range(n_features)], len(names)),
            "effect": np.arange(p.size) * 0.1,
            "p_value": p,
            "neg_log10_p": -np.log10(p),
            "p_source": source,
            "p_empirical": p if empirical is None else empirical,
        }
    )


def test_the_table_has_targets_and_guides_empirical_and_reported():
    effects = table_of(["a", "b"], [0.2, 0.3], empirical=[0.001, 0.5])
    controls = table_of(["x", "y", "z"], [0.7, 0.02, 0.03], empirical=[0.04, 0.5, 0.6])
    table = calibration_table(effects, controls)
    assert list(zip(table["tests"], table["p"], table["n_tests"], strict=True)) == [
        ("targets", "empirical", 2),
        ("targets", "reported", 2),
        ("ntc_guides", "empirical", 3),
        ("ntc_guides", "reported", 3),
    ]
    np.testing.assert_allclose(table["fraction_below_0.05"], [1 / 2, 0, 1 / 3, 2 / 3])
    assert table["verdict"].tolist()[:2] == ["", ""]


def test_groups_add_two_rows_with_their_replicates():
    effects = table_of("a", [0.2])
    groups = table_of([f"e{e}/ntc_{i}" for e in range(3) for i in range(4)], np.full(24, 0.5), 2)
    groups.loc[0, "p_value"] = np.nan
    table = calibration_table(effects, effects.iloc[:0], groups)
    rows = table[table["tests"] == "ntc_groups"].set_index("p")
    assert rows["n_tests"].tolist() == [24, 23]
    assert rows["n_units"].tolist() == [12, 12]
    assert rows["n_replicates"].tolist() == [3, 3]
    assert rows["n_features"].tolist() == [2, 2]
    empty = calibration_table(effects, effects.iloc[:0], groups.iloc[:0])
    assert empty["n_tests"].tolist() == [1, 1, 0, 0, 0, 0]


@pytest.mark.parametrize("nothing", [pd.DataFrame(), table_of("x", [0.5]).iloc[:0]])
def test_an_analysis_without_controls_still_has_its_rows(nothing):
    effects = table_of("a", [0.5])
    table = calibration_table(effects, nothing)
    assert table["n_tests"].tolist() == [1, 1, 0, 0]
    assert table["ks_distance"].isna().tolist() == [False, False, True, True]
    assert table["verdict"].tolist()[2:] == ["no_controls", "no_controls"]
    assert verdict_row(table) is None
    sentence = verdict(table, flagged_controls(nothing))
    assert sentence == "Calibration cannot be judged: no controls were tested."


def test_guides_are_flagged_by_bonferroni_over_features_and_bh_over_guides():
    rng = np.random.default_rng(4)
    p = rng.uniform(0.1, 1, (30, 5))
    p[3, 2], p[7, 4], p[8, 1] = 1e-9, 1e-4, 0.008
    p[9] = np.nan
    controls = table_of([f"NTC_{i}" for i in range(30)], p.ravel(), 5)
    flagged = flagged_controls(controls)
    assert flagged["guide"].tolist() == ["NTC_3", "NTC_7"]
    assert flagged["feature"].tolist() == ["P2", "P4"]
    np.testing.assert_allclose(flagged["effect"], [1.7, 3.9])
    np.testing.assert_allclose(flagged["p_guide"], [5e-9, 5e-4])
    # 29 guides were tested: the second is adjusted by 29 / 2.
    np.testing.assert_allclose(flagged["fdr"], [29 * 5e-9, 29 / 2 * 5e-4])
    assert not len(flagged_controls(controls, fdr=1e-9))


def test_null_guides_with_correlated_features_are_seldom_flagged():
    rng = np.random.default_rng(5)
    names = [f"NTC_{i}" for i in range(20)]
    any_flagged = sum(
        len(flagged_controls(table_of(names, null_p(rng, 20, 10, 0.5), 10))) > 0
        for _ in range(200)
    )
    assert any_flagged <= 0.05 * 200 + 3 * np.sqrt(200 * 0.05 * 0.95)


def test_underflowed_p_values_are_told_apart_by_their_logarithm():
    controls = table_of(["g"], [0.5, 0.5, 0.5], 3)
    controls["p_value"] = 0.0
    controls["neg_log10_p"] = [330.0, 400.0, 350.0]
    assert flagged_controls(controls)["feature"].tolist() == ["P1"]


def judged(p, n_features=1, groups=None, **kwargs):
    controls = table_of([f"NTC_{i}" for i in range(len(p) // n_features)], p, n_features)
    table = calibration_table(table_of("a", [0.5]), controls, groups, **kwargs)
    return table, flagged_controls(controls)


def grid(n, power=1.0):
    return ((np.arange(n) + 0.5) / n) ** power


def test_uniform_controls_are_calibrated():
    table, flagged = judged(grid(2000))
    assert verdict_row(table)["verdict"] == "calibrated"
    assert verdict(table, flagged) == (
        "Controls are calibrated: 5.0 % of 2,000 tests of 2,000 NTC guides have p < 0.05 "
        "(95 % interval 4.1 to 6.0 %), 1.0 % p < 0.01 (0.6 to 1.5 %); no NTC guide stands out."
    )


def test_too_many_small_p_values_are_anticonservative_and_suspects_named():
    p = grid(2000, 1.5)
    p[0] = 1e-9
    table, flagged = judged(p)
    assert verdict_row(table)["verdict"] == "anticonservative"
    sentence = verdict(table, flagged)
    assert sentence.startswith("Controls are NOT calibrated (too many small p values): 13.6 % of ")
    assert "do not trust the p values of targets" in sentence
    assert "; off-target suspects: NTC_0, NTC_1" in sentence


def test_an_excess_at_one_per_cent_alone_is_enough():
    # 5 % below 0.05, but half of them below 0.01.
    p = np.r_[np.full(50, 0.005), np.full(50, 0.03), np.linspace(0.06, 1, 1900)]
    table, _ = judged(p)
    assert verdict_row(table)["verdict"] == "anticonservative"


def test_too_few_small_p_values_are_conservative():
    table, flagged = judged(grid(2000, 0.5))
    assert verdict_row(table)["verdict"] == "conservative"
    assert verdict(table, flagged).startswith("Controls are conservative (too few small p")


def test_the_grid_of_few_resamples_is_not_taken_for_conservative():
    # All p values k / 99, 1,000 times: 4 of 99 are below 0.05, and none is below 0.01 ... as
    # it must be, so nothing is amiss.
    p = np.tile(np.arange(1, 100) / 99, 1000)
    assert calibration_row(p)["verdict"] == "conservative"
    assert calibration_row(p, p_floor=1 / 99)["verdict"] == "calibrated"


def test_few_controls_cannot_exclude_twice_too_many():
    table, flagged = judged(grid(40))
    assert verdict_row(table)["verdict"] == "too_few"
    sentence = verdict(table, flagged)
    assert sentence.startswith("Calibration cannot be judged: too few NTC guides (40) to exclude")
    some, flagged = judged(grid(300))
    assert verdict_row(some)["verdict"] == "calibrated"
    assert "too few tests to judge the level 0.01 alone" in verdict(some, flagged)


def test_groups_decide_where_there_are_any():
    groups = table_of([f"e0/ntc_{i}" for i in range(1000)], grid(1000, 2.0))
    table, flagged = judged(grid(2000), groups=groups)
    assert verdict_row(table)["tests"] == "ntc_groups"
    assert verdict(table, flagged).startswith("Controls are NOT calibrated")
    table, flagged = judged(grid(2000, 2.0), groups=groups.iloc[:0])
    assert verdict_row(table)["tests"] == "ntc_guides"


def test_guides_decide_where_groups_are_too_few():
    few = table_of([f"e0/ntc_{i}" for i in range(16)], grid(16))
    table, flagged = judged(grid(2000), groups=few)
    assert verdict_row(table)["tests"] == "ntc_guides"
    assert "(the 16 NTC groups alone are too few to judge)" in verdict(table, flagged)
    # Both are too few: the more numerous tell more.
    table, flagged = judged(grid(30), groups=few)
    assert verdict(table, flagged).startswith(
        "Calibration cannot be judged: too few NTC guides (30)"
    )


def test_a_floor_that_hides_single_guides_is_said():
    table, flagged = judged(grid(2000))
    sentence = verdict(table, flagged, p_floor=1 / 1024)
    assert sentence.endswith(
        "whether a single NTC guide stands out cannot be seen with p values of at least 0.001 "
        "(raise `resamples`)."
    )


def test_the_verdict_survives_a_file(tmp_path):
    table, flagged = judged(grid(2000))
    table.to_csv(tmp_path / "t.tsv", sep="\t", index=False)
    again = pd.read_csv(tmp_path / "t.tsv", sep="\t", keep_default_na=False, na_values=[""])
    assert verdict(again, flagged) == verdict(table, flagged)
