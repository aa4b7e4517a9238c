"""Calls and adjusted p values against R, and by brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from condrand.linear.calls import ADJUSTMENTS, METHODS, adjust_p, count_calls, decide_tests
from condrand.linear.moderation import e_bayes, treat
from references import fit_of, fit_with_effects, read, within


def no_mismatch(name, file, calls, expected):
    expected = np.asarray(expected)
    assert calls.dtype == np.int8 and calls.shape == expected.shape
    wrong = np.count_nonzero(calls != expected)
    print(f"| decideTests {name} | {file} | {wrong} of {expected.size} | 0 |")
    assert wrong == 0


@pytest.mark.parametrize("name", ["seed", "v354"])
def test_two_groups_are_called_as_limma_calls_them(limma, name):
    table = read(limma / f"limma_ref_{name}_genes.csv.gz")
    fit = e_bayes(fit_of(table, table["logFC"], table["stdev_unscaled"], 10))
    calls = decide_tests(fit)
    no_mismatch("separate", f"{name}_genes", calls, table[["decide"]])
    down, none, up = {"seed": (4503, 7950, 2000), "v354": (4508, 7944, 2001)}[name]
    assert count_calls(calls, ["x"]) == {"x": {"down": down, "not_significant": none, "up": up}}


@pytest.mark.parametrize("name", ["sixgroup", "additive"])
@pytest.mark.parametrize("method", METHODS)
def test_several_contrasts_are_called_as_limma_calls_them(limma, name, method):
    table = read(limma / f"limma_ref_{name}.csv.gz")
    cov = read(limma / f"limma_ref_{name}_covcoef.csv", index_col=0)
    names = list(cov.columns)
    effect, su = (table[[f"{key}.{c}" for c in names]] for key in ("logFC", "su"))
    df = 6 if name == "sixgroup" else 8
    fit = e_bayes(fit_of(table, effect, su, df, cov.to_numpy(), names))
    calls = decide_tests(fit, method)
    no_mismatch(method, name, calls, table[[f"{method}.{c}" for c in names]])
    known = read(limma / "limma_ref_scalars.csv").set_index("key")["value"]
    for name_of, counts in count_calls(calls, names).items():
        nonzero = counts["down"] + counts["up"]
        assert nonzero == known[f"{name}.n_nonzero.{method}.{name_of}"]


@pytest.mark.parametrize("method", METHODS)
def test_300_genes_are_called_as_limma_calls_them(limma, method):
    table = read(limma / "limma_ref_small_additive.csv").assign(Amean=0.0)
    design = read(limma / "limma_ref_small_additive_design.csv").to_numpy(float)
    contrasts = read(limma / "limma_ref_small_additive_contrasts.csv").to_numpy(float)
    cov = contrasts.T @ np.linalg.inv(design.T @ design) @ contrasts
    effect, su = (table[[f"{key}{k}" for k in (1, 2, 3)]] for key in ("logFC", "su"))
    fit = e_bayes(fit_of(table, effect, su, 8, cov, list("abc")))
    expected = table[[f"{method}{k}" for k in (1, 2, 3)]]
    no_mismatch(method, "small_additive", decide_tests(fit, method), expected)


@pytest.mark.parametrize("method", ["BH", "BY", "holm", "bonferroni"])
def test_adjusted_p_values_are_those_of_r(limma, method):
    table = read(limma / "limma_ref_small_padjust.csv")
    assert table["p"].isna().any()
    within(method, "small_padjust", adjust_p(table["p"].to_numpy(), method), table[method], 1e-15)


# By definition


def brute_force_adjust(p, method):
    """From the definitions, in loops over the p values that are there."""
    m = np.count_nonzero(~np.isnan(p))
    harmonic = sum(1 / i for i in range(1, m + 1))
    out = np.full(p.size, np.nan)
    for i in np.flatnonzero(~np.isnan(p)):
        if method == "none":
            out[i] = p[i]
        elif method == "bonferroni":
            out[i] = min(1, m * p[i])
        elif method == "holm":
            lower = p[p <= p[i]]
            out[i] = min(1, max((m - np.count_nonzero(p < q)) * q for q in lower))
        else:
            factor = harmonic if method == "BY" else 1
            upper = p[p >= p[i]]
            out[i] = min(1, min(factor * m * q / np.count_nonzero(p <= q) for q in upper))
    return out


@pytest.mark.parametrize("method", ADJUSTMENTS)
def test_adjusting_is_its_definition(method):
    random = np.random.default_rng(0)
    p = np.round(random.random(60) ** 3, 2)
    p[[4, 9]] = np.nan
    np.testing.assert_allclose(adjust_p(p, method), brute_force_adjust(p, method), rtol=1e-13)
    square = p.reshape(6, 10)
    np.testing.assert_array_equal(adjust_p(square, method).ravel(), adjust_p(p, method))
    assert np.all(np.isnan(adjust_p(np.full(3, np.nan), method)))


def test_adjustments_are_ordered():
    p = np.random.default_rng(1).random(200) ** 4
    none, bh, by, holm, whole = (
        adjust_p(p, m) for m in ("none", "BH", "BY", "holm", "bonferroni")
    )
    assert np.all(none <= bh) and np.all(bh <= holm) and np.all(holm <= whole) and np.all(bh <= by)
    assert np.any(bh < holm) and np.any(holm < whole)


def brute_force_nested(t, cov, threshold):
    """One feature: the classification in the words of the definition."""
    sd = np.sqrt(np.diag(cov))
    inverse = np.linalg.inv(cov / np.outer(sd, sd))
    x, calls = t.copy(), np.zeros(t.size, int)
    order = np.argsort(-np.abs(t))
    for j, k in enumerate(order):
        x[order[:j]] = np.sign(t[order[:j]]) * abs(t[k])
        if x @ inverse @ x / t.size <= threshold:
            break
        calls[k] = np.sign(t[k])
    return calls


def test_nested_f_and_hierarchical_are_their_definitions():
    fit = e_bayes(fit_with_effects(seed=4))
    p = fit.F_p_value
    selected = brute_force_adjust(p, "BH") < 0.05
    i, n = np.count_nonzero(selected), p.size
    assert 5 < i < n
    nested, within_feature = np.zeros((n, 3), int), np.zeros((n, 3), int)
    for g in np.flatnonzero(selected):
        threshold = stats.f.isf(0.05 * i / n, 3, fit.F_df2[g])
        nested[g] = brute_force_nested(fit.t[g], fit.cov_coefficients, threshold)
        p_g = 2 * stats.t.sf(np.abs(fit.t[g]), fit.F_df2[g])
        called = brute_force_adjust(p_g, "BH") < 0.05 * i / n
        within_feature[g] = np.sign(fit.t[g]) * called
    assert {0, 1, 2} <= set(np.count_nonzero(nested, axis=1))
    np.testing.assert_array_equal(decide_tests(fit, "nestedF"), nested)
    np.testing.assert_array_equal(decide_tests(fit, "hierarchical"), within_feature)


def test_an_infinite_prior_makes_within_feature_tests_normal():
    fit = replace(fit_with_effects(seed=2), sigma=np.ones(300))
    fit = e_bayes(fit)
    assert np.all(np.isinf(fit.F_df2))
    for method in ("hierarchical", "nestedF"):
        assert np.any(decide_tests(fit, method))


def test_the_level_is_strict():
    fit = e_bayes(fit_with_effects())
    p = fit.p_value[:, :1]
    fit = replace(fit, log_p=np.log(p), t=fit.t[:, :1], coefficients=fit.coefficients[:, :1])
    at = np.exp(fit.log_p).min()
    assert not np.any(decide_tests(fit, adjust="none", p_value=at))
    assert np.count_nonzero(decide_tests(fit, adjust="none", p_value=np.nextafter(at, 1))) == 1


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("adjust", ADJUSTMENTS)
def test_a_lower_level_or_a_threshold_calls_fewer(method, adjust):
    fit = e_bayes(fit_with_effects(seed=3))
    calls = decide_tests(fit, method, adjust)
    fewer = decide_tests(fit, method, adjust, p_value=0.001)
    assert np.all(np.abs(fewer) <= np.abs(calls))
    assert np.count_nonzero(fewer) < np.count_nonzero(calls)
    large = decide_tests(fit, method, adjust, lfc=1.0)
    np.testing.assert_array_equal(large, np.where(np.abs(fit.coefficients) > 1, calls, 0))
    np.testing.assert_array_equal(calls[calls != 0], np.sign(fit.coefficients)[calls != 0])


def test_what_has_no_test_is_not_called():
    fit = fit_with_effects()
    effect, su = fit.coefficients.copy(), fit.stdev_unscaled.copy()
    effect[:5], su[:5] = np.nan, np.nan
    effect[5] = 50.0
    fit = e_bayes(replace(fit, coefficients=effect, stdev_unscaled=su))
    for method in METHODS:
        calls = decide_tests(fit, method)
        assert not np.any(calls[:5]) and np.all(calls[5][[0]] == 1)


def test_a_contrast_nobody_can_estimate_changes_no_other_call():
    fit = fit_with_effects()
    two = replace(
        fit,
        coefficients=fit.coefficients[:, :2],
        stdev_unscaled=fit.stdev_unscaled[:, :2],
        cov_coefficients=fit.cov_coefficients[:2, :2],
        names=["a", "b"],
    )
    gone, su, cov = fit.coefficients.copy(), fit.stdev_unscaled.copy(), fit.cov_coefficients.copy()
    gone[:, 2] = su[:, 2] = cov[2] = cov[:, 2] = np.nan
    made = e_bayes(replace(fit, coefficients=gone, stdev_unscaled=su, cov_coefficients=cov))
    for method in METHODS:
        calls = decide_tests(made, method)
        np.testing.assert_array_equal(calls[:, :2], decide_tests(e_bayes(two), method))
        assert not np.any(calls[:, 2]) and np.any(calls)


def test_nothing_selected_calls_nothing():
    fit = fit_with_effects()
    fit = e_bayes(replace(fit, coefficients=fit.coefficients * 1e-6))
    for method in METHODS:
        assert not np.any(decide_tests(fit, method))


def test_what_makes_no_sense_is_refused():
    fit, treated = e_bayes(fit_with_effects()), treat(fit_with_effects())
    assert decide_tests(treated, "global").shape == (300, 3)
    for call, words in (
        (lambda: decide_tests(fit_with_effects()), "run e_bayes"),
        (lambda: decide_tests(treated, "nestedF"), "needs F"),
        (lambda: decide_tests(fit, "both"), "method is 'both'"),
        (lambda: decide_tests(fit, adjust="fdr"), "adjust is 'fdr'"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
