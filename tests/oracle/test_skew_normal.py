"""Skew-normal calibration against scipy and against quadrature of the density."""

import numpy as np
import pytest
from scipy import stats
from scipy.special import erfcx, ndtr

from condrand.nulls import skew_normal
from condrand.nulls.calibrate import calibrate
from condrand.nulls.skew_normal import SkewNormal, diagnose, fit_moments, log_cdf, log_sf
from condrand.nulls.summary import NullSummary

SHAPES = [-20, -10, -5, -2, -1, -0.5, -0.1, -0.01, 0, 0.01, 0.1, 0.5, 1, 2, 5, 10, 20]
PLACES = np.r_[np.arange(-40, 41, 1.0), np.linspace(-3, 3, 61), np.linspace(29, 38, 19)]
_NODES, _WEIGHTS = np.polynomial.legendre.leggauss(40)


def standard(shape: float) -> SkewNormal:
    """Location 0, scale 1."""
    return SkewNormal(np.zeros(1), np.ones(1), np.array([float(shape)]))


def upper_tail(t: float, a: float) -> float:
    """log of the integral of ``2 phi(s) Phi(a s)`` over s > t >= 0, by Gauss-Legendre.

    With s = t + u the exponent is taken relative to its value at t, exactly: nothing cancels,
    nothing underflows. 60 panels of 40 nodes up to where the integrand has fallen by e**-45.
    """
    c = 1 + (a * a if a < 0 else 0.0)
    edges = np.linspace(0.0, np.sqrt(t * t + 90 / c) - t, 61)
    half = 0.5 * np.diff(edges)[:, None]
    u = (0.5 * (edges[1:] + edges[:-1])[:, None] + half * _NODES).ravel()
    s = t + u
    slow = 0.5 * erfcx(-a * s / np.sqrt(2)) if a < 0 else ndtr(a * s)
    integral = np.sum((half * _WEIGHTS).ravel() * np.exp(-0.5 * c * u * (s + t)) * slow)
    return -0.5 * c * t * t + np.log(2 * integral / np.sqrt(2 * np.pi))


def true_log_sf(t: np.ndarray, a: float) -> np.ndarray:
    """log of the upper tail at each place; below zero from the mirrored lower tail."""
    return np.array(
        [upper_tail(x, a) if x >= 0 else np.log1p(-np.exp(upper_tail(-x, -a))) for x in t]
    )


# Fitting


@pytest.mark.parametrize("shape", [-20, -3, -1, -0.2, 0, 0.2, 1, 3, 20])
def test_fitting_the_moments_of_a_skew_normal_gives_it_back(shape):
    mean, variance, skewness = stats.skewnorm.stats(shape, loc=1.5, scale=2.5, moments="mvs")
    fit = fit_moments(*(np.array([float(m)]) for m in (mean, np.sqrt(variance), skewness)))
    # The cube root of the skewness costs digits near shape 0, its saturation near shape 20.
    np.testing.assert_allclose(fit.location, 1.5, rtol=1e-8)
    np.testing.assert_allclose(fit.scale, 2.5, rtol=1e-8)
    np.testing.assert_allclose(fit.shape, shape, rtol=1e-7, atol=1e-4)


def test_the_fitted_moments_are_those_asked_for():
    random = np.random.default_rng(0)
    mean, sd = random.normal(size=50), random.lognormal(size=50)
    skewness = random.uniform(-0.99, 0.99, 50)
    fit = fit_moments(mean, sd, skewness)
    m, v, s = stats.skewnorm.stats(fit.shape, fit.location, fit.scale, moments="mvs")
    np.testing.assert_allclose(m, mean, rtol=1e-10, atol=1e-12)
    np.testing.assert_allclose(v, sd**2, rtol=1e-10)
    np.testing.assert_allclose(s, skewness, rtol=1e-9, atol=1e-12)


def test_a_skewness_no_skew_normal_has_is_pulled_back():
    fit = fit_moments(np.zeros(4), np.ones(4), np.array([0.996, 5.0, -0.996, -5.0]))
    skewness = stats.skewnorm.stats(fit.shape, fit.location, fit.scale, moments="s")
    np.testing.assert_allclose(skewness, 0.8955 * np.array([1, 1, -1, -1]), rtol=1e-9)


# Tail probabilities


@pytest.mark.parametrize("shape", SHAPES)
def test_log_tails_equal_quadrature_up_to_thirty_scales(shape):
    t = PLACES[PLACES <= 30]
    true, got = true_log_sf(t, shape), log_sf(t, standard(shape))
    # Absolute in the logarithm = relative in the probability. 1.4e-12 was reached, where Owen's
    # T cancels down to exp(-4) on the light side; beyond, the logarithm's own rounding.
    assert np.max(np.abs(got - true) - 4.5e-16 * np.abs(true)) < 1e-11
    mirrored = log_cdf(-t, standard(-shape))
    np.testing.assert_array_equal(mirrored, got)


@pytest.mark.parametrize("shape", SHAPES)
def test_log_tails_equal_quadrature_beyond_thirty_scales(shape):
    t = PLACES[PLACES > 30]
    true, got = true_log_sf(t, shape), log_sf(t, standard(shape))
    assert np.max(np.abs(got - true) - 4.5e-16 * np.abs(true)) < 1e-11


@pytest.mark.parametrize("shape", SHAPES)
def test_tails_equal_scipy_where_scipy_is_accurate(shape):
    t = np.linspace(-3, 3, 61)
    # scipy integrates the density and cancels on the light side: absolute, not relative.
    np.testing.assert_allclose(
        np.exp(log_sf(t, standard(shape))), stats.skewnorm.sf(t, shape), atol=1e-9
    )
    np.testing.assert_allclose(
        np.exp(log_cdf(t, standard(shape))), stats.skewnorm.cdf(t, shape), atol=1e-9
    )


def test_the_switch_to_quadrature_leaves_no_step():
    for shape in (-0.01, -0.1, -1.0, -3.0, -20.0):
        t = np.sqrt(8 / (1 + shape**2)) * np.linspace(0.8, 1.2, 41)
        np.testing.assert_allclose(
            log_sf(t, standard(shape)), true_log_sf(t, shape), rtol=0, atol=1e-11
        )


@pytest.mark.parametrize("shape", SHAPES)
def test_tails_fall_monotonically_and_are_never_nan(shape):
    t = np.linspace(-40, 40, 4001)
    values = log_sf(t, standard(shape))
    assert np.isfinite(values).all()
    # Where the tail is nearly 1 neighbours may tie, up to rounding.
    assert np.diff(values).max() < 1e-14
    assert values.max() < 1e-14


def test_location_and_scale_shift_and_stretch():
    fit = SkewNormal(np.array([3.0]), np.array([0.25]), np.array([-2.0]))
    t = np.linspace(-4, 6, 21)
    np.testing.assert_allclose(
        log_sf(3.0 + 0.25 * t, fit), log_sf(t, standard(-2.0)), rtol=1e-12, atol=1e-15
    )


def test_features_are_computed_one_by_one():
    x = np.array([0.5, 2.0, -1.0])
    fit = SkewNormal(np.array([0.0, 1.0, -1.0]), np.array([1.0, 0.3, 2.0]), np.array([3, -2, 0.0]))
    expected = [
        log_sf(x[k], SkewNormal(fit.location[[k]], fit.scale[[k]], fit.shape[[k]]))[0]
        for k in range(3)
    ]
    np.testing.assert_allclose(log_sf(x, fit), expected, rtol=1e-15)


# P values


@pytest.mark.parametrize("shape", [-5.0, 0.0, 1.0])
def test_two_sided_is_the_sum_of_both_tails_about_zero(shape):
    fit = SkewNormal(np.full(9, 0.3), np.full(9, 1.2), np.full(9, shape))
    x = np.array([-8, -2, -0.5, -1e-9, 0, 1e-9, 0.5, 2, 8])
    got = np.exp(skew_normal.log_p_values(x, fit, "two_sided"))
    high = stats.skewnorm.sf(np.abs(x), shape, 0.3, 1.2)
    low = stats.skewnorm.cdf(-np.abs(x), shape, 0.3, 1.2)
    np.testing.assert_allclose(got, high + low, rtol=1e-6)
    assert (got <= 1.0).all() and got[4] == pytest.approx(1.0, abs=1e-14)


def test_one_sided_p_values_are_the_tails():
    fit = SkewNormal(np.full(3, 0.3), np.full(3, 1.2), np.full(3, 2.0))
    x = np.array([-1.0, 0.5, 3.0])
    right = skew_normal.log_p_values(x, fit, "right")
    left = skew_normal.log_p_values(x, fit, "left")
    np.testing.assert_array_equal(right, log_sf(x, fit))
    np.testing.assert_array_equal(left, log_cdf(x, fit))
    np.testing.assert_allclose(np.exp(right) + np.exp(left), 1.0, rtol=1e-14)


# Diagnostics


def summary_of(null: np.ndarray, observed=None, centre=None, scale=None) -> NullSummary:
    """Summary of resamples given as columns, added as one block."""
    n_features = null.shape[1]
    zeros, ones = np.zeros(n_features), np.ones(n_features)
    summary = NullSummary.empty(n_features)
    summary.add_resamples(
        np.ascontiguousarray(null),
        zeros if observed is None else observed,
        zeros if centre is None else centre,
        ones if scale is None else scale,
    )
    return summary


def verdicts(null: np.ndarray) -> list[str]:
    """What `diagnose` says of nulls given as columns."""
    summary = summary_of(null)
    mean, sd, skewness = summary.moments()
    return diagnose(summary, fit_moments(mean, sd, np.nan_to_num(skewness))).tolist()


def quantiles(distribution, n: int = 4096) -> np.ndarray:
    """A sample without luck: the quantiles of a distribution, standardized."""
    x = distribution.ppf((np.arange(n) + 0.5) / n)
    return (x - x.mean()) / x.std()


def test_normal_and_mildly_skew_nulls_pass():
    nulls = [stats.norm(), stats.gamma(20), stats.skewnorm(3), stats.skewnorm(-3)]
    assert verdicts(np.column_stack([quantiles(null) for null in nulls])) == [""] * 4


def test_random_normal_nulls_pass():
    # Fixed seed. The extremes of 4,096 normals pass 1.5 sqrt(2 log 4096) = 6.1 sd once in 10**5.
    null = np.random.default_rng(0).normal(size=(4096, 200))
    assert verdicts(null) == [""] * 200


def test_one_extreme_resample_on_either_side_is_an_outlier():
    null = np.tile(quantiles(stats.norm())[:, None], 3)
    # A null of 4,096 may reach 1.5 sqrt(2 log 4096) = 6.12 sd.
    null[-1, 0], null[0, 1], null[-1, 2] = 6.5, -6.5, 5.9
    assert verdicts(null) == ["outlier", "outlier", ""]


def test_a_heavy_tail_is_flagged():
    # Extremes trimmed so that the tail speaks, not the outlier: in 65,536 resamples a null may
    # reach 7.1 sd.
    heavy = np.clip(quantiles(stats.t(3), 65536), -6.5, 6.5)
    shoulder = np.r_[quantiles(stats.norm(), 60000), np.full(3000, 5.0)]
    assert verdicts(quantiles(stats.t(3))[:, None]) == ["outlier"]
    assert verdicts(heavy[:, None]) == ["tail"]
    assert verdicts(((shoulder - shoulder.mean()) / shoulder.std())[:, None]) == ["tail"]
    assert verdicts((-(shoulder - shoulder.mean()) / shoulder.std())[:, None]) == ["tail"]


@pytest.mark.parametrize("value", [0.0, 0.5, 3.0])
def test_a_null_that_does_not_vary_is_degenerate(value):
    null = np.full((512, 1), value)
    assert verdicts(null) == ["degenerate"]


@pytest.mark.parametrize("value", [1e-3, 0.0123, 0.3, 1 / 7])
@pytest.mark.parametrize("n", [512, 513])
def test_a_null_that_does_not_vary_is_degenerate_whatever_its_value(value, n):
    null = np.full((n, 1), value)
    assert verdicts(null) == ["degenerate"]


def test_a_null_whose_values_were_clamped_does_not_pass():
    null = np.repeat([-150.0, 150.0], 2048)[:, None]
    assert verdicts(null)[0] != ""


@pytest.mark.filterwarnings("error")
def test_a_feature_that_does_not_vary_disturbs_no_other():
    varying = quantiles(stats.norm())
    assert verdicts(np.column_stack([varying, np.zeros(4096), varying])) == ["", "degenerate", ""]


# Calibration


def calibrated(null, observed, calibration="skew_normal", tail="two_sided", scale=None):
    """Result of `calibrate` in units of the null itself."""
    n_features = null.shape[1]
    observed = np.asarray(observed, float)
    centre, scale = np.zeros(n_features), np.ones(n_features) if scale is None else scale
    summary = summary_of(null, observed, centre, scale)
    return calibrate(summary, observed, centre, scale, tail, calibration)


def test_a_passing_fit_gives_the_p_value_and_says_so():
    null = np.tile(quantiles(stats.norm())[:, None], 3)
    got = calibrated(null, [0.0, 3.0, -9.0])
    assert set(got["p_source"]) == {"skew_normal"} and set(got["calibration"]) == {"passed"}
    np.testing.assert_array_equal(got["p_value"], got["p_skew_normal"])
    # The fitted skew-normal of quantiles is the normal, but for a skewness of rounding, which the
    # cube root makes 1e-3 of shape, and an sd that the missing extremes shrink.
    np.testing.assert_allclose(got["p_value"][:2], 2 * stats.norm.sf([0, 3.0]), rtol=0.02)
    np.testing.assert_allclose(10 ** -got["neg_log10_p"], got["p_value"], rtol=1e-12)
    np.testing.assert_allclose(got["p_empirical"], [1, 12 / 4097, 1 / 4097], rtol=0.3)


def test_where_the_fit_fails_the_empirical_p_value_stands_and_is_named():
    normal = quantiles(stats.norm())
    spoiled = normal.copy()
    spoiled[-1] = 8.0
    got = calibrated(np.column_stack([normal, spoiled]), [2.0, 2.0])
    assert got["p_source"].tolist() == ["skew_normal", "empirical"]
    assert got["calibration"].tolist() == ["passed", "outlier"]
    assert got["p_value"][1] == got["p_empirical"][1] == (1 + np.sum(abs(spoiled) >= 2)) / 4097
    assert np.isfinite(got["p_skew_normal"][1])  # for comparison


@pytest.mark.parametrize("tail", ["two_sided", "left", "right"])
def test_asked_for_empirical_nothing_is_fitted(tail):
    null = np.random.default_rng(1).normal(size=(999, 2))
    got = calibrated(null, [1.0, -1.0], "empirical", tail)
    counts = {
        "right": np.sum(null >= [1.0, -1.0], axis=0),
        "left": np.sum(null <= [1.0, -1.0], axis=0),
        "two_sided": np.sum(np.abs(null) >= 1.0, axis=0),
    }[tail]
    np.testing.assert_array_equal(got["p_value"], (1 + counts) / 1000)
    assert set(got["p_source"]) == {"empirical"} and set(got["calibration"]) == {""}
    assert np.isnan(got["p_skew_normal"]).all()


def test_a_feature_without_scale_is_nan_with_a_note():
    null = np.column_stack([quantiles(stats.norm()), np.zeros(4096)])
    got = calibrated(null, [1.0, 0.0], "empirical", scale=np.array([1.0, 0.0]))
    for name, column in got.items():
        if column.dtype.kind == "f":
            assert np.isnan(column[1]), name
    assert got["note"][0] == "" and got["note"][1] != ""
    assert got["p_source"].tolist() == ["empirical", ""]


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_nan_never_leaks_into_a_p_value():
    normal = quantiles(stats.norm())
    nulls = [
        normal,
        quantiles(stats.t(3)),
        quantiles(stats.expon()),
        np.zeros(4096),
        np.full(4096, 0.5),
        np.r_[np.zeros(4095), 1.0],
        np.r_[np.zeros(4095), 1e6],
        np.sign(normal),
        1e5 * normal,
        1e-5 * normal,
    ]
    null = np.column_stack(nulls)
    for tail in ("two_sided", "left", "right"):
        for place in (0.0, 0.5, -1.0, 30.0, -1e4, 1e300):
            got = calibrated(null, np.full(len(nulls), place), tail=tail)
            assert np.isfinite(got["p_value"]).all()
            assert (got["p_value"] <= 1).all()
            assert ((got["p_value"] > 0) | (got["neg_log10_p"] > 300)).all()
            assert np.isfinite(got["neg_log10_p"]).all() and (got["neg_log10_p"] >= -1e-15).all()
            assert set(got["p_source"]) <= {"skew_normal", "empirical"}


def test_a_p_value_below_the_smallest_float_keeps_its_logarithm():
    got = calibrated(quantiles(stats.norm())[:, None], [60.0])
    # -log10 of 2 Phi(-60); the fitted scale is not exactly 1.
    assert got["p_value"][0] == 0.0
    assert got["neg_log10_p"][0] == pytest.approx(782.9, rel=0.05)


def test_an_unknown_tail_is_refused():
    words = "tail 'both' is none of right, left, two_sided, two_sided_centred"
    with pytest.raises(ValueError, match=words):
        calibrated(quantiles(stats.norm())[:, None], [1.0], "empirical", "both")
