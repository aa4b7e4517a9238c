"""Calibration rows: fractions with exact intervals and the distance from uniform."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.calibration import calibration_row, calibration_table


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
    assert row.pop("n_tests") == 0
    assert set(row) == set(calibration_row(np.array([0.5]))) - {"n_tests"}
    assert all(np.isnan(value) for value in row.values())


def test_the_table_has_targets_and_guides_empirical_and_reported():
    effects = pd.DataFrame({"p_empirical": [0.001, 0.5], "p_value": [0.2, 0.3]})
    controls = pd.DataFrame({"p_empirical": [0.04, 0.5, 0.6], "p_value": [0.7, 0.02, 0.03]})
    table = calibration_table(effects, controls)
    assert list(zip(table["tests"], table["p"], table["n_tests"], strict=True)) == [
        ("targets", "empirical", 2),
        ("targets", "reported", 2),
        ("ntc_guides", "empirical", 3),
        ("ntc_guides", "reported", 3),
    ]
    np.testing.assert_allclose(table["fraction_below_0.05"], [1 / 2, 0, 1 / 3, 2 / 3])


def test_an_analysis_without_controls_still_has_its_rows():
    effects = pd.DataFrame({"p_empirical": [0.5], "p_value": [0.5]})
    table = calibration_table(effects, effects.iloc[:0])
    assert table["n_tests"].tolist() == [1, 1, 0, 0]
    assert table["ks_distance"].isna().tolist() == [False, False, True, True]
