"""Benjamini-Hochberg against scipy and by hand."""

import numpy as np
import pytest
from scipy.stats import false_discovery_control

from condrand.fdr import benjamini_hochberg


@pytest.mark.parametrize("m", [1, 2, 7, 500])
@pytest.mark.parametrize("ties", [False, True], ids=["distinct", "ties"])
def test_adjusted_p_values_equal_scipy(m, ties):
    p = np.random.default_rng(m).beta(0.5, 1.0, m)
    if ties:
        p = np.ceil(p * 20) / 20
    # The same products and minima; one rounding apart at most.
    np.testing.assert_allclose(benjamini_hochberg(p), false_discovery_control(p), rtol=1e-15)


def test_an_example_by_hand():
    p = np.array([0.04, 0.01, 0.03, 0.5])
    # Sorted 0.01, 0.03, 0.04, 0.5 times 4, 2, 4/3, 1: 0.04, 0.06, 0.0533, 0.5, then minima.
    expected = [0.16 / 3, 0.04, 0.16 / 3, 0.5]
    np.testing.assert_allclose(benjamini_hochberg(p), expected, rtol=1e-15)


def test_nan_stays_and_counts_as_no_test():
    p = np.array([np.nan, 0.01, np.nan, 0.04, 0.9])
    adjusted = benjamini_hochberg(p)
    made = ~np.isnan(p)
    np.testing.assert_array_equal(np.isnan(adjusted), ~made)
    np.testing.assert_allclose(adjusted[made], false_discovery_control(p[made]), rtol=1e-15)


@pytest.mark.parametrize("n", [0, 3])
def test_without_a_test_everything_is_nan(n):
    adjusted = benjamini_hochberg(np.full(n, np.nan))
    assert adjusted.shape == (n,) and np.isnan(adjusted).all()


def test_ties_get_equal_values_and_order_does_not_matter():
    random = np.random.default_rng(0)
    p = random.integers(1, 10, 200) / 10
    adjusted = benjamini_hochberg(p)
    for value in np.unique(p):
        assert np.unique(adjusted[p == value]).size == 1
    order = random.permutation(200)
    np.testing.assert_array_equal(benjamini_hochberg(p[order]), adjusted[order])


def test_adjusted_p_values_are_never_smaller_and_at_most_one():
    p = np.random.default_rng(1).random(300)
    adjusted = benjamini_hochberg(p)
    assert (adjusted >= p).all() and (adjusted <= 1).all()
    assert (np.diff(adjusted[np.argsort(p)]) >= 0).all()


def test_zero_and_one_are_allowed_and_the_input_is_not_changed():
    p = np.array([0.0, 1.0, 1.0])
    np.testing.assert_array_equal(benjamini_hochberg(p), [0.0, 1.0, 1.0])
    np.testing.assert_array_equal(p, [0.0, 1.0, 1.0])
