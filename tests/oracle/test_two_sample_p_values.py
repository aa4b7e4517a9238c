"""Log p of the Mann-Whitney and Welch tests against scipy, far tails against series."""

from itertools import combinations
from math import comb

import numpy as np
import pytest
from scipy.stats import mannwhitneyu, norm, ttest_ind
from scipy.stats import t as student

from condrand.twosample.p_values import (
    auroc,
    log_student,
    mann_whitney,
    mann_whitney_exact,
    rank_biserial,
    welch,
)


def u_and_ties(x, y):
    two_u = sum(2 * np.count_nonzero(y < v) + np.count_nonzero(y == v) for v in x)
    t = np.unique(np.concatenate([x, y]), return_counts=True)[1].astype(float)
    return np.array([two_u]), np.array([np.sum(t**3 - t)])


def test_far_out_values_do_not_depend_on_those_beside_them():
    random = np.random.default_rng(0)
    t, df = 10.0 ** random.uniform(1.5, 150, 3000), 10.0 ** random.uniform(0.5, 6, 3000)
    together = log_student(t, df)
    alone = [log_student(t[k : k + 1], df[k : k + 1])[0] for k in range(t.size)]
    assert (together < np.log(1e-100)).sum() > 1000
    np.testing.assert_array_equal(together, alone)


# Mann-Whitney


@pytest.mark.parametrize("continuity", [True, False])
@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 9), (7, 7), (30, 400)])
def test_asymptotic_p_is_that_of_scipy(n, m, continuity):
    random = np.random.default_rng(n + m)
    for values in (random.normal(size=n + m), random.integers(0, 3, n + m).astype(float)):
        x, y = values[:n], values[n:]
        if np.ptp(values) == 0:
            continue
        _, log_p = mann_whitney(*u_and_ties(x, y), n, m, continuity)
        expected = mannwhitneyu(x, y, method="asymptotic", use_continuity=continuity).pvalue
        np.testing.assert_allclose(np.exp(log_p), expected, rtol=1e-12)


def test_u_at_its_mean_has_p_1():
    z, log_p = mann_whitney(np.array([10, 11, 9]), np.zeros(3), 2, 5)
    np.testing.assert_array_equal(z, 0.0)
    np.testing.assert_array_equal(log_p, 0.0)


def test_log_p_goes_on_where_p_is_0():
    n, m = 20_000, 300_000
    two_u = (np.array([1.05, 1.5, 1.9, 2.0]) * n * m).astype(np.int64)
    z, log_p = mann_whitney(two_u, np.zeros(4), n, m)
    np.testing.assert_allclose(log_p, np.log(2) + norm.logsf(z), rtol=1e-14)
    assert log_p[-1] < -5000
    # log erfc(x) = -x**2 - log(x sqrt(pi)) + log(1 - 1/(2 x**2) + 3/(4 x**4) - ...)
    x = z[1:] / np.sqrt(2)
    series = -(x**2) - np.log(x * np.sqrt(np.pi)) + np.log1p(-1 / (2 * x**2) + 3 / (4 * x**4))
    np.testing.assert_allclose(log_p[1:], series, rtol=1e-10)
    np.testing.assert_array_equal(mann_whitney(2 * n * m - two_u, np.zeros(4), n, m)[1], log_p)


@pytest.mark.parametrize("cells", [2, 320, 3_000_000, 40_000_000])
def test_equal_values_have_no_p_and_one_different_value_has(cells):
    """Sums of cubes of more than 2.1 million cells overflow int64."""
    m = cells - max(cells // 10, 1)
    n = cells - m
    ties = (cells - 1.0) * cells * (cells + 1.0)
    assert np.all(np.isnan(mann_whitney(np.array([n * m]), np.array([ties]), n, m)))
    one_less = (cells - 2.0) * (cells - 1.0) * cells
    z, _ = mann_whitney(np.array([n * m + m]), np.array([one_less]), n, m, continuity=False)
    # One target cell above all others: U - n m/2 = m/2, variance n m / 4 ... by the definition.
    np.testing.assert_allclose(z, np.sqrt(m / n), rtol=1e-9)


def test_an_empty_group_has_no_p():
    for n, m in ((0, 5), (5, 0), (0, 0)):
        assert np.all(np.isnan(mann_whitney(np.array([0]), np.array([0.0]), n, m)))
        assert np.isnan(auroc(np.array([0]), n, m)) and np.isnan(
            rank_biserial(np.array([0]), n, m)
        )
        assert np.isnan(mann_whitney_exact(np.array([0]), np.array([0.0]), n, m))


def test_effects_are_shares_of_pairs():
    two_u = np.array([0, 12, 24, 9])
    np.testing.assert_allclose(auroc(two_u, 3, 4), [0, 0.5, 1, 0.375])
    np.testing.assert_allclose(rank_biserial(two_u, 3, 4), [-1, 0, 1, -0.25])


@pytest.mark.parametrize(("n", "m"), [(1, 1), (1, 6), (4, 4), (3, 5), (8, 3), (9, 30)])
def test_exact_p_is_that_of_scipy(n, m):
    two_u = 2 * np.arange(n * m + 1)
    got = np.exp(mann_whitney_exact(two_u, np.zeros(two_u.size), n, m))
    random = np.random.default_rng(0)
    for _ in range(20):
        order = random.permutation(n + m).astype(float)
        by_scipy = mannwhitneyu(order[:n], order[n:], method="exact")
        np.testing.assert_allclose(got[int(by_scipy.statistic)], by_scipy.pvalue, rtol=1e-12)


def test_exact_p_is_that_of_all_arrangements():
    n, m = 3, 5
    us = [sum(x) - n * (n - 1) // 2 for x in combinations(range(n + m), n)]
    expected = [
        min(1, 2 * sum(u >= max(v, n * m - v) for u in us) / comb(n + m, n))
        for v in range(n * m + 1)
    ]
    two_u = 2 * np.arange(n * m + 1)
    got = np.exp(mann_whitney_exact(two_u, np.zeros(two_u.size), n, m))
    np.testing.assert_allclose(got, expected, rtol=1e-14)


def test_ties_have_no_exact_p():
    got = mann_whitney_exact(np.array([3, 4]), np.array([6.0, 0.0]), 3, 3)
    assert np.isnan(got[0]) and np.isfinite(got[1])


# Welch


def sums(x):
    return np.array([x.sum()]), np.array([((x - x.mean()) ** 2).sum()]), x.size


@pytest.mark.parametrize(("n", "m"), [(2, 2), (2, 50), (40, 7), (300, 3000)])
@pytest.mark.parametrize("shift", [0.0, 1.0, 30.0])
def test_welch_is_that_of_scipy(n, m, shift):
    random = np.random.default_rng(n)
    x, y = random.normal(shift, 2.0, n), random.normal(size=m)
    t, df, log_p = welch(*sums(x), *sums(y))
    by_scipy = ttest_ind(x, y, equal_var=False)
    np.testing.assert_allclose([t[0], df[0]], [by_scipy.statistic, by_scipy.df], rtol=1e-12)
    if by_scipy.pvalue > 1e-300:
        np.testing.assert_allclose(log_p, np.log(by_scipy.pvalue), rtol=1e-10)


def test_groups_of_one_and_groups_that_do_not_vary_have_no_t():
    one, two, three = np.array([3.1]), np.array([3.1, 4.0]), np.array([0.1, 0.1, 0.1])
    for x, y in ((one, two), (two, one), (three, three + 1), (three, three)):
        assert np.all(np.isnan(welch(*sums(x), *sums(y))))
    assert np.all(np.isfinite(welch(*sums(two), *sums(three))))


@pytest.mark.parametrize("df", [1.0, 1.7, 8.0, 100.0, 1e4, 1e6])
def test_students_tail_joins_where_the_ways_of_computing_it_change(df):
    t = np.concatenate([np.linspace(0, 50, 200), np.geomspace(51, 1e6, 100)])
    got = log_student(t, np.full(t.size, df))
    with np.errstate(divide="ignore"):
        p = 2 * student.sf(t, df)
    seen = p > 1e-290
    np.testing.assert_allclose(got[seen], np.log(np.minimum(p[seen], 1)), rtol=1e-10, atol=1e-13)
    assert np.all(np.diff(got) < 0) and np.all(np.isfinite(got))


def test_students_far_tail_is_its_series_in_60_digits():
    """``I_x(a, 1/2) = x**a (1 - x)**(1/2) / (a B(a, 1/2)) 2F1(a + 1/2, 1; a + 1; x)``."""
    by_mpmath = [
        (5, 1e90, -1033.2198884309471),
        (30, 1e20, -1332.4678169071451),
        (1000, 80, -1004.3474839697576),
        (100000.0, 60, -1772.6599242871112),
        (1000000.0, 45, -1015.5081614466292),
    ]
    for df, t, log_p in by_mpmath:
        got = log_student(np.array([t]), np.array([df]))
        np.testing.assert_allclose(got, log_p, rtol=1e-10)


def test_nan_stays_nan():
    assert np.all(np.isnan(log_student(np.array([np.nan, 1.0]), np.array([3.0, np.nan]))))
