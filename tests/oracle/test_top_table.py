"""Tables of top features against limma's topTable, and by definition."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.linear.calls import adjust_p
from condrand.linear.moderation import e_bayes, treat
from condrand.linear.tables import top_table, top_treat
from references import fit_of, fit_with_effects, read, within

GATES = {"P.Value": 1e-10, "adj.P.Val": 1e-10}


def same_table(made, expected, file):
    assert list(made.index) == [str(name) for name in expected.index]
    assert list(made.columns) == [*expected.columns, "neg_log10_p"]
    for name in expected.columns:
        relative = name in GATES or name == "F"
        within(name, file, made[name], expected[name], GATES.get(name, 1e-9), relative)
    np.testing.assert_allclose(made["neg_log10_p"], -np.log10(made["P.Value"]), rtol=1e-12)


@pytest.mark.parametrize("name", ["seed", "v354"])
def test_the_top_ten_are_those_of_limma(limma, name):
    table = read(limma / f"limma_ref_{name}_genes.csv.gz")
    fit = e_bayes(fit_of(table, table["logFC"], table["stdev_unscaled"], 10))
    for what, how in (("top10", {}), ("top10_confint", {"confint": True})):
        expected = read(limma / f"limma_ref_{name}_{what}.csv", index_col=0)
        # The references are sorted by p.
        same_table(top_table(fit, sort_by="P", **how), expected, f"{name}_{what}")
    every = top_table(fit, number=None, sort_by="none")
    file = f"{name}_genes"
    within("adj.P.Val", file, every["adj.P.Val"], table["adj_p_value"], 1e-10, True)
    called = top_table(fit, number=None, p_value=0.05)
    assert len(called) == {"seed": 6503, "v354": 6509}[name]
    assert np.count_nonzero(called["logFC"] > 0) == {"seed": 2000, "v354": 2001}[name]


@pytest.mark.parametrize(
    ("name", "lfc", "fc", "n"),
    [
        ("seed", 1, None, 2726),
        ("seed", None, 1.2, 5442),
        ("v354", 1, None, 2730),
        ("v354", None, 1.2, 5452),
    ],
)
def test_treat_keeps_as_many_features_as_limma(limma, name, lfc, fc, n):
    table = read(limma / f"limma_ref_{name}_genes.csv.gz")
    fit = fit_of(table, table["logFC"], table["stdev_unscaled"], 10)
    made = treat(fit, lfc=lfc) if fc is None else treat(fit, fc=fc)
    assert len(top_treat(made, number=None, p_value=0.05)) == n
    print(f"| treat calls | {name} lfc {lfc} fc {fc} | 0 of {n} | 0 |")


@pytest.mark.parametrize("name", ["sixgroup", "additive"])
def test_the_f_table_is_that_of_limma(limma, name):
    table = read(limma / f"limma_ref_{name}.csv.gz")
    cov = read(limma / f"limma_ref_{name}_covcoef.csv", index_col=0)
    names = list(cov.columns)
    effect, su = (table[[f"{key}.{c}" for c in names]] for key in ("logFC", "su"))
    df = 6 if name == "sixgroup" else 8
    fit = e_bayes(fit_of(table, effect, su, df, cov.to_numpy(), names))
    expected = read(limma / f"limma_ref_{name}_topF10.csv", index_col=0)
    same_table(top_table(fit), expected, f"{name}_topF10")
    within("F adj p", name, adjust_p(fit.F_p_value), table["F_adj_p"], 1e-10, True)


# By definition


def test_rows_carry_the_names_and_values_of_their_features():
    fit = e_bayes(fit_with_effects())
    table = top_table(fit, "b", number=None, confint=0.9)
    assert sorted(table.index) == sorted(fit.features)
    rows = [fit.features.index(name) for name in table.index]
    np.testing.assert_array_equal(table["logFC"], fit.coefficients[rows, 1])
    np.testing.assert_array_equal(table["t"], fit.t[rows, 1])
    np.testing.assert_array_equal(table["B"], fit.lods[rows, 1])
    margin = stats.t.isf(0.05, fit.df_total) * 0.5 * np.sqrt(fit.s2_post)
    np.testing.assert_allclose(table["CI.R"] - table["logFC"], margin[rows], rtol=1e-10)
    np.testing.assert_allclose(table["logFC"] - table["CI.L"], margin[rows], rtol=1e-10)


def test_a_confidence_interval_leaves_out_0_where_p_is_small():
    fit = e_bayes(fit_with_effects())
    table = top_table(fit, 0, number=None, confint=True)
    outside = (table["CI.L"] > 0) | (table["CI.R"] < 0)
    assert 0 < np.count_nonzero(outside) < len(table)
    np.testing.assert_array_equal(outside, table["P.Value"] < 0.05)


@pytest.mark.parametrize(
    ("sort_by", "column", "sign"),
    [
        ("B", "B", -1),
        ("P", "P.Value", 1),
        ("t", "t", 0),
        ("logFC", "logFC", 0),
        ("AveExpr", "AveExpr", -1),
    ],
)
def test_sorting(sort_by, column, sign):
    table = top_table(e_bayes(fit_with_effects()), "a", number=None, sort_by=sort_by)
    values = sign * table[column] if sign else -np.abs(table[column])
    assert np.all(np.diff(values) >= 0) and np.ptp(values) > 0


def test_ties_keep_the_order_of_the_features_and_nan_comes_last():
    fit = fit_with_effects(G=40, p=1)
    effect = fit.coefficients.copy()
    effect[:] = 1.0
    effect[3] = np.nan
    fit = e_bayes(replace(fit, coefficients=effect, sigma=np.ones(40)))
    for sort_by in ("B", "P", "t", "logFC"):
        names = list(top_table(fit, number=None, sort_by=sort_by).index)
        assert names == [f"g{i}" for i in range(40) if i != 3] + ["g3"]
    assert "g3" not in top_table(fit, number=None, p_value=0.999).index


def test_features_whose_p_underflows_are_still_ranked():
    fit = fit_with_effects(G=200, p=1)
    effect = fit.coefficients.copy()
    # The prior holds all variances near one, so t grows with the effect.
    effect[[7, 9, 8], 0] = [2e3, 4e3, 8e3]
    fit = replace(fit, coefficients=effect, sigma=np.ones(200), df_residual=np.full(200, 200.0))
    table = top_table(e_bayes(fit), number=3, sort_by="P")
    assert list(table.index) == ["g8", "g9", "g7"] and np.all(table["P.Value"] == 0)
    assert np.all(np.isfinite(table["neg_log10_p"])) and table["neg_log10_p"].iloc[2] > 308


def test_cuts_are_inclusive_and_adjusting_comes_before_them():
    fit = e_bayes(fit_with_effects())
    whole = top_table(fit, "a", number=None, sort_by="P")
    level, lfc = whole["adj.P.Val"].iloc[20], abs(whole["logFC"].iloc[5])
    cut = top_table(fit, "a", number=None, sort_by="P", p_value=level, lfc=lfc)
    expected = whole[(whole["adj.P.Val"] <= level) & (whole["logFC"].abs() >= lfc)]
    pd.testing.assert_frame_equal(cut, expected)
    assert whole.index[5] in cut.index and 1 < len(cut) < 22
    assert len(top_table(fit, "a", number=7)) == 7
    np.testing.assert_array_equal(whole["adj.P.Val"], adjust_p(whole["P.Value"].to_numpy(), "BH"))


def test_an_intercept_is_left_out_unless_named():
    fit = e_bayes(replace(fit_with_effects(), names=["(Intercept)", "b", "c"]))
    table = top_table(fit)
    assert list(table.columns) == ["b", "c", "AveExpr", "F", "P.Value", "adj.P.Val", "neg_log10_p"]
    sub = fit.cov_coefficients[1:, 1:]
    sd = np.sqrt(np.diag(sub))
    inverse = np.linalg.inv(sub / np.outer(sd, sd))
    rows = [fit.features.index(name) for name in table.index]
    t = fit.t[rows, 1:]
    np.testing.assert_allclose(table["F"], np.einsum("gi,ij,gj->g", t, inverse, t) / 2, rtol=1e-10)
    assert "B" in top_table(fit, "(Intercept)").columns


def test_the_f_table_keeps_a_feature_for_any_large_effect():
    fit = e_bayes(fit_with_effects())
    table = top_table(fit, number=None, lfc=1.5)
    large = np.any(np.abs(fit.coefficients) > 1.5, axis=1)
    assert 0 < len(table) == np.count_nonzero(large) < len(large)
    plain = top_table(fit, number=None, sort_by="none")
    assert list(plain.index) == fit.features
    assert np.all(np.diff(top_table(fit, number=None)["P.Value"]) >= 0)


def test_a_treat_table_has_no_log_odds():
    fit = treat(fit_with_effects(), lfc=0.3)
    table = top_treat(fit, "b", number=None)
    columns = ["logFC", "AveExpr", "t", "P.Value", "adj.P.Val", "neg_log10_p"]
    assert list(table.columns) == columns and np.all(np.diff(table["P.Value"]) >= 0)


def test_what_makes_no_sense_is_refused():
    bare, fit, treated = fit_with_effects(), e_bayes(fit_with_effects()), treat(fit_with_effects())
    for call, words in (
        (lambda: top_table(bare), "run e_bayes"),
        (lambda: top_table(treated), "use top_treat"),
        (lambda: top_treat(fit), "use top_table"),
        (lambda: top_table(fit, "d"), "'d' is not in the fit: it has a, b, c"),
        (lambda: top_table(fit, 3), "coef 3 is out of range"),
        (lambda: top_table(fit, []), "coef is empty"),
        (lambda: top_table(fit, "a", sort_by="p"), "sort_by is 'p'"),
        (lambda: top_table(fit, sort_by="B"), "sort_by is 'B'"),
        (lambda: top_table(fit, confint=True), "confint needs one contrast"),
        (lambda: top_table(fit, "a", confint=2), "confint is 2"),
        (lambda: top_table(fit, "a", adjust="fdr"), "adjust is 'fdr'"),
        (lambda: top_treat(treated, sort_by="B"), "no log odds"),
    ):
        with pytest.raises(ValueError, match=words):
            call()
