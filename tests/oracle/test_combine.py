"""Combined p values against scipy, and what the signs are for."""

import numpy as np
import pytest
from scipy import stats

from condrand.nulls.combine import fisher, stouffer, stouffer_one_sided


@pytest.fixture
def p_values():
    """Four tests of 50 features, one of them tiny."""
    p = np.random.default_rng(0).random((4, 50))
    p[1, 3] = 1e-200
    return p


def signed_by_scipy(p, sign, weights=None):
    """One-sided p values of each effect's direction, combined by scipy, then doubled."""
    one_sided = np.where(sign > 0, p / 2, 1 - p / 2)
    up = stats.combine_pvalues(one_sided, "stouffer", weights).pvalue
    down = stats.combine_pvalues(1 - one_sided, "stouffer", weights).pvalue
    return 2 * min(up, down)


def test_fisher_is_that_of_scipy(p_values):
    expected = [stats.combine_pvalues(column, "fisher").pvalue for column in p_values.T]
    np.testing.assert_allclose(fisher(p_values), expected, rtol=1e-12)
    np.testing.assert_allclose(fisher(p_values.T, axis=1), expected, rtol=1e-12)


@pytest.mark.parametrize("weights", [None, np.array([1.0, 2.0, 0.5, 3.0])])
def test_stouffer_of_signed_z_is_that_of_scipy(p_values, weights):
    p_values[1, 3] = 1e-9  # scipy's 1 - p/2 loses what is smaller
    sign = np.random.default_rng(1).choice([-1.0, 1.0], p_values.shape)
    got = stouffer(p_values, sign, weights=weights)
    expected = [signed_by_scipy(*c, weights) for c in zip(p_values.T, sign.T, strict=True)]
    np.testing.assert_allclose(got, expected, rtol=1e-6)
    by_row = stouffer(p_values.T, sign.T, axis=-1, weights=weights)
    np.testing.assert_array_equal(by_row, got)


def test_stouffer_one_sided_is_that_of_scipy(p_values):
    weights = np.array([1.0, 2.0, 0.5, 3.0])
    for given in (None, weights):
        expected = [stats.combine_pvalues(c, "stouffer", given).pvalue for c in p_values.T]
        np.testing.assert_allclose(stouffer_one_sided(p_values, 0, given), expected, rtol=1e-10)


@pytest.mark.parametrize("combine", [fisher, stouffer_one_sided, lambda p: stouffer(p, p - 0.5)])
def test_a_test_not_made_is_left_out(combine):
    p = np.array([[0.01, np.nan], [np.nan, np.nan], [0.2, np.nan]])
    got = combine(p)
    np.testing.assert_array_equal(got, combine(p[[0, 2]]))
    assert np.isfinite(got[0]) and np.isnan(got[1])


def test_one_test_combined_is_itself(p_values):
    for row in p_values:
        np.testing.assert_allclose(fisher(row[None]), row, rtol=1e-12)
        np.testing.assert_allclose(stouffer(row[None], -np.ones((1, 50))), row, rtol=1e-10)
        np.testing.assert_allclose(stouffer_one_sided(row[None]), row, rtol=1e-10)


def test_extreme_p_values_keep_their_sense():
    zero_and_half = np.array([0.0, 0.5])
    assert fisher(zero_and_half) == 0
    assert stouffer(zero_and_half, np.array([1, -1])) == 0
    assert stouffer(np.ones(3), np.array([1, -1, 1])) == 1
    assert np.isnan(stouffer(np.zeros(2), np.array([1, -1])))
    assert stouffer(np.array([1e-9, 1e-9]), np.array([1, -1])) == 1
    # An effect of exactly zero is no evidence, whatever its p value says.
    assert stouffer(np.array([0.0, 0.3]), np.zeros(2)) == 1
    # An effect that is not known is no test.
    assert stouffer(np.array([0.01, 0.3]), np.array([np.nan, 1])) == pytest.approx(0.3)


def test_p_values_outside_the_unit_interval_are_refused():
    for bad in (-0.1, 1.1):
        with pytest.raises(ValueError, match="outside"):
            fisher(np.array([0.5, bad]))
    with pytest.raises(ValueError, match="shape"):
        stouffer(np.ones((2, 3)), np.ones(2))


def test_four_batches_without_effect_keep_the_level_only_with_signs():
    z = np.random.default_rng(2).normal(size=(4, 100_000))
    p = 2 * stats.norm.sf(np.abs(z))
    # Standard error of a share of .05 in 100,000: .0007.
    assert np.mean(stouffer(p, z) < 0.05) == pytest.approx(0.05, abs=0.003)
    assert np.mean(fisher(p) < 0.05) == pytest.approx(0.05, abs=0.003)
    # All signs alike: the unsigned method, sum(Phi^-1(1 - p/2)) / sqrt(m), then two-sided.
    unsigned = stouffer(p, np.ones_like(z))
    np.testing.assert_allclose(unsigned, 2 * stats.norm.sf(np.abs(z).sum(axis=0) / 2), rtol=1e-9)
    assert np.mean(unsigned < 0.05) == pytest.approx(0.26, abs=0.03)
