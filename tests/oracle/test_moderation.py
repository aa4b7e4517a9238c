"""Moderated t, F, log odds and treat against R limma 3.54.1, and by brute force."""

from dataclasses import replace

import numpy as np
import pytest
from scipy import stats
from scipy.integrate import quad
from scipy.special import polygamma

from condrand.linear.fit import Fit
from condrand.linear.moderation import (
    e_bayes,
    f_quantile,
    fit_f_dist,
    fit_f_dist_robustly,
    log_f,
    moderated_f,
    squeeze_var,
    treat,
    trigamma_inverse,
    winsorized_moments,
)
from condrand.twosample.p_values import log_student
from references import fit_of, read, within

PRIOR, T, LOG10_P, F = 1e-12, 1e-9, 1e-10, 1e-9
SIXGROUP = ["BvsL.virgin", "BvsL.preg", "BvsL.lact", "L.lactVsPreg", "L.pregVsVirgin"]
ADDITIVE = ["luminal", "pregVsVirgin", "virginVsLact", "mix"]


def scalars(path):
    table = read(path)
    return {(key, idx): value for key, idx, value in table.itertuples(index=False)}


def log10_p(fit):
    return fit.log_p[:, 0] / np.log(10)


def two_group(limma, name):
    table = read(limma / f"limma_ref_{name}_genes.csv.gz")
    return table, fit_of(table, table["logFC"], table["stdev_unscaled"])


def synthetic(G=400, p=1, d0=4.0, d=10.0, seed=1, **changes):
    random = np.random.default_rng(seed)
    df = np.broadcast_to(np.asarray(d, float), (G,)).copy()
    s02 = 0.5
    true = s02 * d0 / random.chisquare(d0, G) if np.isfinite(d0) else np.full(G, s02)
    sigma = np.sqrt(true * random.chisquare(np.maximum(df, 1)) / np.maximum(df, 1))
    sigma[df == 0] = np.nan
    su = np.full((G, p), 0.6)
    fit = Fit(
        coefficients=random.normal(size=(G, p)) * np.sqrt(true)[:, None] * 0.6,
        stdev_unscaled=su,
        sigma=sigma,
        df_residual=df,
        amean=random.normal(5, 2, G),
        cov_coefficients=np.eye(p),
        features=[f"g{i}" for i in range(G)],
        names=[f"c{k}" for k in range(p)],
        rank=p,
    )
    return replace(fit, **changes)


# Special functions


def test_trigamma_inverse_is_that_of_limma(limma):
    table = read(limma / "limma_ref_small_trigammainverse.csv")
    within(
        "trigamma_inverse",
        "small_trigammainverse",
        trigamma_inverse(table["x"].to_numpy()),
        table["y"],
        1e-12,
        relative=True,
    )


def test_trigamma_inverse_inverts_trigamma():
    y = np.geomspace(1e-2, 1e4, 200)
    np.testing.assert_allclose(trigamma_inverse(polygamma(1, y)), y, rtol=1e-12)
    np.testing.assert_array_equal(trigamma_inverse(np.array([0.0, np.inf])), [np.inf, 0.0])
    assert np.all(np.isnan(trigamma_inverse(np.array([-1.0, np.nan]))))


@pytest.mark.parametrize("df1", [1, 2, 7.5, 40])
@pytest.mark.parametrize("df2", [0.7, 3.6, 13.7, 200, 1e7, np.inf])
def test_log_f_is_that_of_scipy_and_f_quantile_inverts_it(df1, df2):
    f = np.geomspace(1e-3, 50, 60)
    scipy_log = stats.f.logsf(f, df1, df2) if np.isfinite(df2) else stats.chi2.logsf(f * df1, df1)
    ours = log_f(f, df1, df2)
    some = scipy_log > -600
    np.testing.assert_allclose(ours[some], scipy_log[some], rtol=1e-8, atol=1e-15)
    assert np.all(np.diff(ours) < 0)
    # Where the tail is nearly 1 its logarithm no longer tells one f from the next.
    steep = (ours < -1e-3) & (ours > -1e4)
    np.testing.assert_allclose(f_quantile(ours[steep], df1, df2), f[steep], rtol=1e-9)


def test_log_f_on_one_degree_of_freedom_is_log_student_far_out():
    t = np.geomspace(1, 1e6, 80)
    for df in (2.5, 14.0, 150.0):
        np.testing.assert_allclose(log_f(t**2, 1, df), log_student(t, np.full(80, df)), rtol=1e-11)
    assert log_f(np.array([1e8]), 1, 150.0)[0] < -1000


def test_log_f_far_out_follows_its_asymptote():
    """x**a (1 - x)**b / (a B(a, b)) (1 + (a + b) x/(a + 1) + ...), the series at small x."""
    from scipy.special import betaln

    a, b, f = 80.0, 2.0, np.array([1e5, 1e8])
    x = 1 / (1 + (b / a) * f)
    series = 1 + (a + b) * x / (a + 1) + (a + b) * (a + b + 1) * x**2 / ((a + 1) * (a + 2))
    log_p = a * np.log(x) + b * np.log1p(-x) - np.log(a) - betaln(a, b) + np.log(series)
    np.testing.assert_allclose(log_f(f, 2 * b, 2 * a), log_p, rtol=1e-10)
    # Four degrees of freedom: chi-squared has P = exp(-y) (1 + y).
    y = np.array([300.0, 5000.0])
    np.testing.assert_allclose(log_f(y / 2, 4, np.inf), -y + np.log1p(y), rtol=1e-13)


def test_log_f_at_its_ends():
    f = np.array([0.0, -1.0, np.inf, np.nan])
    np.testing.assert_array_equal(log_f(f, 3, 5), [0.0, 0.0, -np.inf, np.nan])
    assert np.isnan(log_f(np.array([1.0]), 3, np.nan)[0])


@pytest.mark.parametrize("df2", [2.2, 9.0, np.inf])
def test_winsorized_moments_are_integrals(df2):
    df1, tails = 6.0, (0.05, 0.1)
    law = stats.f(df1, df2) if np.isfinite(df2) else stats.chi2(df1, scale=1 / df1)
    low, high = law.ppf(tails[0]), law.isf(tails[1])
    ends = np.log([low, high])

    def moment(g):
        inner = quad(lambda f: g(np.log(f)) * law.pdf(f), low, high, epsabs=1e-13)[0]
        return inner + tails[0] * g(ends[0]) + tails[1] * g(ends[1])

    mean = moment(lambda z: z)
    expected = mean, moment(lambda z: (z - mean) ** 2)
    np.testing.assert_allclose(winsorized_moments(df1, df2, tails), expected, rtol=1e-9)


# gse60450


@pytest.mark.parametrize("name", ["seed", "v354"])
def test_two_groups_equal_limma(limma, name):
    table, fit = two_group(limma, name)
    known = scalars(limma / "limma_ref_scalars.csv")
    made = e_bayes(fit)
    file = f"{name}_genes"
    within("s2.prior", file, made.s2_prior, known[f"{name}.s2.prior", 1], PRIOR, True)
    within("df.prior", file, made.df_prior, known[f"{name}.df.prior", 1], PRIOR, True)
    within("var.prior", file, made.var_prior, known[f"{name}.var.prior", 1], 1e-11, True)
    within("s2.post", file, made.s2_post, table["s2_post"], 1e-11, True)
    within("df.total", file, made.df_total, table["df_total"], PRIOR, True)
    within("t", file, made.t[:, 0], table["t"], T)
    within("log10 p", file, log10_p(made), np.log10(table["p_value"]), LOG10_P)
    within("p", file, made.p_value[:, 0], table["p_value"], LOG10_P, True)
    within("B", file, made.lods[:, 0], table["B"], T)
    within("F", file, made.F, table["F"], F, True)
    within("log10 F p", file, made.F_log_p / np.log(10), np.log10(table["F_p_value"]), LOG10_P)
    assert made.F_df1 == 1


@pytest.mark.parametrize("name", ["seed", "v354"])
def test_trend_robust_and_treat_equal_limma(limma, name):
    _, fit = two_group(limma, name)
    table = read(limma / f"limma_ref_{name}_variants.csv.gz")
    known = scalars(limma / "limma_ref_scalars.csv")
    file = f"{name}_variants"

    made = e_bayes(fit, trend=True)
    within("trend df.prior", file, made.df_prior, known[f"{name}.trend.df.prior", 1], PRIOR, True)
    within("trend s2.prior", file, made.s2_prior, table["trend_s2_prior"], 1e-11, True)
    within("trend s2.post", file, made.s2_post, table["trend_s2_post"], 1e-11, True)
    within("trend t", file, made.t[:, 0], table["trend_t"], T)
    within("trend log10 p", file, log10_p(made), np.log10(table["trend_p"]), LOG10_P)
    within("trend B", file, made.lods[:, 0], table["trend_B"], T)
    within("trend var.prior", file, made.var_prior, known[f"{name}.trend.var.prior", 1], 1e-10, 1)

    made = e_bayes(fit, robust=True)
    within("robust s2.prior", file, made.s2_prior, known[f"{name}.robust.s2.prior", 1], PRIOR, 1)
    within("robust df.prior", file, made.df_prior, table["robust_df_prior"], PRIOR, True)
    within("robust df.total", file, made.df_total, table["robust_df_total"], 1e-11, True)
    within("robust s2.post", file, made.s2_post, table["robust_s2_post"], 1e-11, True)
    within("robust t", file, made.t[:, 0], table["robust_t"], T)
    within("robust log10 p", file, log10_p(made), np.log10(table["robust_p"]), LOG10_P)
    within("robust B", file, made.lods[:, 0], table["robust_B"], T)

    for key, how in (("lfc1", {"lfc": 1}), ("fc1.2", {"fc": 1.2})):
        made = treat(fit, **how)
        within(f"treat {key} t", file, made.t[:, 0], table[f"treat_{key}_t"], T)
        p = table[f"treat_{key}_p"]
        within(f"treat {key} log10 p", file, log10_p(made), np.log10(p), LOG10_P)


@pytest.mark.parametrize("name", ["seed", "v354"])
def test_trend_and_robust_together_equal_limma(limma, name):
    _, fit = two_group(limma, name)
    table = read(limma / f"limma_ref_{name}_variants.csv.gz")
    made = e_bayes(fit, trend=True, robust=True)
    file = f"{name}_variants"
    within("both s2.prior", file, made.s2_prior, table["trendrobust_s2_prior"], 1e-11, True)
    within("both df.prior", file, made.df_prior, table["trendrobust_df_prior"], PRIOR, True)
    within("both t", file, made.t[:, 0], table["trendrobust_t"], T)
    within("both log10 p", file, log10_p(made), np.log10(table["trendrobust_p"]), LOG10_P)


@pytest.mark.parametrize(("name", "names"), [("sixgroup", SIXGROUP), ("additive", ADDITIVE)])
def test_several_contrasts_equal_limma(limma, name, names):
    table = read(limma / f"limma_ref_{name}.csv.gz")
    cov = read(limma / f"limma_ref_{name}_covcoef.csv", index_col=0).to_numpy()
    known = scalars(limma / "limma_ref_scalars.csv")
    design = read(limma / f"limma_ref_{name}_design.csv", index_col=0)
    columns = {key: table[[f"{key}.{c}" for c in names]].to_numpy() for key in ("logFC", "su")}
    df = len(design) - np.linalg.matrix_rank(design.to_numpy(float))
    made = e_bayes(fit_of(table, columns["logFC"], columns["su"], df, cov, names))
    within("s2.prior", name, made.s2_prior, known[f"{name}.s2.prior", 1], PRIOR, True)
    within("df.prior", name, made.df_prior, known[f"{name}.df.prior", 1], PRIOR, True)
    for k in range(len(names)):
        expected = known[f"{name}.var.prior", k + 1]
        within(f"var.prior {k + 1}", name, made.var_prior[k], expected, 1e-10, True)
    within("t", name, made.t, table[[f"t.{c}" for c in names]], T)
    p = table[[f"p.{c}" for c in names]].to_numpy()
    within("log10 p", name, made.log_p / np.log(10), np.log10(p), LOG10_P)
    within("B", name, made.lods, table[[f"B.{c}" for c in names]], T)
    within("F", name, made.F, table["F"], F, True)
    within("log10 F p", name, made.F_log_p / np.log(10), np.log10(table["F_p_value"]), LOG10_P)


def test_limma_trend_equals_limma(limma):
    table = read(limma / "limma_ref_limmatrend.csv.gz")
    known = scalars(limma / "limma_ref_scalars.csv")
    # One fit of unweighted data, so su is the same for all genes; t gives it back.
    table["Amean"] = np.nan
    fit = fit_of(table, table["logFC"], np.ones(len(table)), 10)
    s2_post = e_bayes(fit).s2_post
    su = np.median(table["logFC"] / table["plain_t"] / np.sqrt(s2_post))
    fit = fit_of(table, table["logFC"], np.full(len(table), su), 10)
    made = e_bayes(fit)
    file = "limmatrend"
    within("s2.prior", file, made.s2_prior, known["limmatrend.plain.s2.prior", 1], PRIOR, True)
    within("df.prior", file, made.df_prior, known["limmatrend.plain.df.prior", 1], PRIOR, True)
    within("t", file, made.t[:, 0], table["plain_t"], T)
    within("log10 p", file, log10_p(made), np.log10(table["plain_p"]), LOG10_P)
    within("B", file, made.lods[:, 0], table["plain_B"], T)


# 300 genes


@pytest.mark.parametrize("name", ["adaptive", "half"])
def test_300_genes_equal_limma(limma, name):
    table = read(limma / f"limma_ref_small_{name}_genes.csv")
    known = scalars(limma / "limma_ref_small_scalars.csv")
    fit = fit_of(table, table["logFC"], table["su"], 10)
    file = f"small_{name}_genes"
    made = e_bayes(fit)
    within("s2.prior", file, made.s2_prior, known[f"{name}.s2.prior", 1], PRIOR, True)
    within("df.prior", file, made.df_prior, known[f"{name}.df.prior", 1], PRIOR, True)
    within("var.prior", file, made.var_prior, known[f"{name}.var.prior", 1], 1e-10, True)
    within("t", file, made.t[:, 0], table["t"], T)
    within("log10 p", file, log10_p(made), np.log10(table["p"]), LOG10_P)
    within("B", file, made.lods[:, 0], table["B"], T)
    made = e_bayes(fit, trend=True)
    within("trend df.prior", file, made.df_prior, known[f"{name}.trend.df.prior", 1], PRIOR, 1)
    within("trend s2.prior", file, made.s2_prior, table["trend_s2prior"], 1e-11, True)
    within("trend t", file, made.t[:, 0], table["trend_t"], T)
    within("trend log10 p", file, log10_p(made), np.log10(table["trend_p"]), LOG10_P)
    # Here d0 is the root of an equation, solved to 1e-8 in d0/(1 + d0) as limma does.
    made = e_bayes(fit, robust=True)
    within("robust s2.prior", file, made.s2_prior, known[f"{name}.robust.s2.prior", 1], PRIOR, 1)
    within("robust df.prior", file, made.df_prior, table["robust_dfprior"], PRIOR, True)
    within("robust t", file, made.t[:, 0], table["robust_t"], T)
    within("robust log10 p", file, log10_p(made), np.log10(table["robust_p"]), LOG10_P)
    within("robust B", file, made.lods[:, 0], table["robust_B"], T)
    made = treat(fit, lfc=1)
    within("treat lfc1 t", file, made.t[:, 0], table["treat1_t"], T)
    within("treat lfc1 log10 p", file, log10_p(made), np.log10(table["treat1_p"]), LOG10_P)


@pytest.mark.parametrize("name", ["adaptive", "half"])
def test_300_genes_with_trend_and_robust_equal_limma(limma, name):
    table = read(limma / f"limma_ref_small_{name}_genes.csv")
    fit = fit_of(table, table["logFC"], table["su"], 10)
    made = e_bayes(fit, trend=True, robust=True)
    file = f"small_{name}_genes"
    within("both s2.prior", file, made.s2_prior, table["tr_rob_s2prior"], 1e-11, True)
    within("both df.prior", file, made.df_prior, table["tr_rob_dfprior"], PRIOR, True)
    within("both t", file, made.t[:, 0], table["tr_rob_t"], T)


@pytest.mark.parametrize("name", ["na_unw", "na_wtd"])
def test_unequal_degrees_of_freedom_equal_limma(limma, name):
    table = read(limma / f"limma_ref_small_{name}.csv")
    known = scalars(limma / "limma_ref_small_scalars.csv")
    made = e_bayes(fit_of(table, table["logFC"], table["su"], table["df"]))
    assert table["df"].nunique() > 5
    file = f"small_{name}"
    within("s2.prior", file, made.s2_prior, known[f"{name}.s2.prior", 1], PRIOR, True)
    within("df.prior", file, made.df_prior, known[f"{name}.df.prior", 1], PRIOR, True)
    within("var.prior", file, made.var_prior, known[f"{name}.var.prior", 1], 1e-10, True)
    within("s2.post", file, made.s2_post, table["s2_post"], 1e-11, True)
    within("df.total", file, made.df_total, table["df_total"], PRIOR, True)
    within("t", file, made.t[:, 0], table["t"], T)
    within("log10 p", file, log10_p(made), np.log10(table["p"]), LOG10_P)
    within("B", file, made.lods[:, 0], table["B"], T)


def test_small_additive_contrasts_equal_limma(limma):
    table = read(limma / "limma_ref_small_additive.csv").assign(Amean=0.0)
    known = scalars(limma / "limma_ref_small_scalars.csv")
    design = read(limma / "limma_ref_small_additive_design.csv").to_numpy(float)
    contrasts = read(limma / "limma_ref_small_additive_contrasts.csv").to_numpy(float)
    cov = contrasts.T @ np.linalg.inv(design.T @ design) @ contrasts
    effect = table[["logFC1", "logFC2", "logFC3"]].to_numpy()
    su = table[["su1", "su2", "su3"]].to_numpy()
    made = e_bayes(fit_of(table, effect, su, 8, cov, list("abc")))
    file = "small_additive"
    # The third contrast is a sum of the first two.
    assert made.F_df1 == 2
    within("s2.prior", file, made.s2_prior, known["additive.s2.prior", 1], PRIOR, True)
    within("df.prior", file, made.df_prior, known["additive.df.prior", 1], PRIOR, True)
    within("t", file, made.t, table[["t1", "t2", "t3"]], T)
    p = table[["p1", "p2", "p3"]].to_numpy()
    within("log10 p", file, made.log_p / np.log(10), np.log10(p), LOG10_P)
    within("B", file, made.lods, table[["B1", "B2", "B3"]], T)
    within("F", file, made.F, table["F"], F, True)
    within("log10 F p", file, made.F_log_p / np.log(10), np.log10(table["Fp"]), LOG10_P)


# By definition


def test_moderated_t_is_its_definition():
    fit = synthetic(p=3)
    made = e_bayes(fit)
    post = (10 * fit.sigma**2 + made.df_prior * made.s2_prior) / (10 + made.df_prior)
    t = fit.coefficients / (0.6 * np.sqrt(post)[:, None])
    np.testing.assert_allclose(made.t, t, rtol=1e-13)
    p = 2 * stats.t.sf(np.abs(t), 10 + made.df_prior)
    np.testing.assert_allclose(made.p_value, p, rtol=1e-10)
    np.testing.assert_allclose(made.F, np.mean(t**2, axis=1), rtol=1e-12)
    np.testing.assert_allclose(
        made.F_p_value, stats.f.sf(made.F, 3, 10 + made.df_prior), rtol=1e-10
    )


def test_log_odds_compare_two_densities():
    """B is the log of prior odds times the densities of t with and without an effect."""
    fit = synthetic(d0=5.0)
    made = e_bayes(fit, proportion=0.05)
    r = 1 + made.var_prior[0] / 0.36
    t, df = made.t[:, 0], made.df_total
    effect = stats.t.logpdf(t, df, scale=np.sqrt(r))
    odds = np.log(0.05 / 0.95) + effect - stats.t.logpdf(t, df)
    np.testing.assert_allclose(made.lods[:, 0], odds, atol=1e-10)


def test_the_prior_is_found_again():
    random = np.random.default_rng(5)
    G, d, d0, s02 = 60_000, 8.0, 6.0, 1.7
    s2 = s02 * stats.f.rvs(d, d0, size=G, random_state=random)
    scale, df2 = fit_f_dist(s2, d)
    # Standard errors over 60,000 features are 0.4 % and 1.6 %.
    assert abs(scale / s02 - 1) < 0.02 and abs(df2 / d0 - 1) < 0.08
    robust = fit_f_dist_robustly(s2, d)
    assert abs(robust.df2 / d0 - 1) < 0.1 and abs(robust.scale / s02 - 1) < 0.03


def test_variances_alike_give_an_infinite_prior():
    random = np.random.default_rng(2)
    s2 = 2.0 + 0.01 * random.random(50)
    made = squeeze_var(s2, 4.0)
    assert made.df_prior == np.inf and made.var_prior == s2.mean()
    np.testing.assert_array_equal(made.var_post, s2.mean())
    fit = synthetic(G=50, sigma=np.sqrt(s2), df_residual=np.full(50, 4.0))
    tested = e_bayes(fit)
    np.testing.assert_array_equal(tested.df_total, 200.0)
    # F is not capped: on infinitely many degrees of freedom it is chi-squared.
    np.testing.assert_allclose(tested.F_p_value, stats.chi2.sf(tested.F, 1), rtol=1e-11)
    r = 1 + tested.var_prior[0] / 0.36
    normal = np.log(0.01 / 0.99) - np.log(r) / 2 + tested.t[:, 0] ** 2 * (1 - 1 / r) / 2
    np.testing.assert_allclose(tested.lods[:, 0], normal, rtol=1e-12)


def test_a_trend_is_least_squares_on_natural_cubic_splines():
    """With another basis: cubic interpolation of unit vectors at the four knots."""
    from scipy.interpolate import CubicSpline
    from scipy.special import digamma

    fit = synthetic(G=200, seed=3)
    s2 = fit.sigma**2 * np.exp(0.3 * np.sin(fit.amean))
    scale, df2 = fit_f_dist(s2, 10.0, fit.amean)
    knots = np.quantile(fit.amean, [0, 1 / 3, 2 / 3, 1])
    basis = CubicSpline(knots, np.eye(4), bc_type="natural")(fit.amean)
    e = np.log(s2) - digamma(5.0) + np.log(5.0)
    weights, rss, _, _ = np.linalg.lstsq(basis, e, rcond=None)
    half = trigamma_inverse(rss / 196 - polygamma(1, 5.0))[0]
    np.testing.assert_allclose(df2, 2 * half, rtol=1e-10)
    expected = np.exp(basis @ weights - np.log(half) + digamma(half))
    np.testing.assert_allclose(scale, expected, rtol=1e-10)


@pytest.mark.parametrize(("n", "size"), [(2, 1), (3, 2), (5, 2), (6, 3), (29, 3), (30, 4)])
def test_a_trend_has_as_many_parameters_as_the_features_allow(n, size):
    from condrand.linear.moderation import _Spline

    x = np.random.default_rng(n).normal(size=n)
    basis = _Spline(x).basis(x)
    assert basis.shape == (n, size) and np.linalg.matrix_rank(basis) == size
    beyond = np.array([x.max() + 1, x.max() + 2, x.max() + 3])
    for column in _Spline(x).basis(beyond).T:
        np.testing.assert_allclose(np.diff(column, 2), 0, atol=1e-9)


def test_a_trend_over_few_distinct_values_works():
    s2 = np.random.default_rng(0).chisquare(3, 60)
    for covariate in (np.repeat([1.0, 2.0], 30), np.full(60, 3.0), np.r_[np.zeros(50), 1:11.0]):
        scale, _ = fit_f_dist(s2, 3.0, covariate)
        assert np.all(np.isfinite(scale) & (scale > 0))
    np.testing.assert_allclose(
        fit_f_dist(s2, 3.0, np.full(60, 3.0))[0], fit_f_dist(s2, 3.0)[0], rtol=1e-12
    )


def test_features_without_degrees_of_freedom_get_the_prior():
    df = np.r_[np.full(99, 6.0), 0.0]
    fit = synthetic(G=100, d=df)
    for how in ({}, {"trend": True}, {"robust": True}, {"trend": True, "robust": True}):
        made = e_bayes(fit, **how)
        prior = np.broadcast_to(made.s2_prior, 100)
        d0 = np.broadcast_to(made.df_prior, 100)
        assert made.s2_post[99] == pytest.approx(prior[99], rel=1e-14)
        assert made.df_total[99] == d0[99] and np.isfinite(made.t[99, 0])
        np.testing.assert_allclose(
            e_bayes(replace(fit, sigma=np.r_[fit.sigma[:99], 7.0]), **how).t, made.t, rtol=1e-13
        )


def test_one_feature_is_not_moderated():
    made = squeeze_var(np.array([2.0, np.nan]), np.array([5.0, 0.0]))
    assert made.df_prior == 0.0 and made.var_post[0] == 2.0 and np.isnan(made.var_post[1])


def test_scaling_the_data_changes_no_test():
    fit = synthetic(p=2)
    scaled = replace(fit, sigma=fit.sigma * 1e3, coefficients=fit.coefficients * 1e3)
    for how in ({}, {"robust": True}):
        np.testing.assert_allclose(e_bayes(scaled, **how).t, e_bayes(fit, **how).t, rtol=1e-9)


def test_log_p_goes_on_where_p_is_0():
    fit = synthetic(d=100.0, d0=np.inf)
    effect = fit.coefficients.copy()
    effect[:3, 0] = [300.0, 500.0, 1e6]
    fit = replace(fit, coefficients=effect)
    for made in (e_bayes(fit), treat(fit)):
        assert np.all(made.p_value[:3] == 0) and np.all(np.isfinite(made.log_p[:3]))
        assert np.all(np.diff(made.log_p[:3, 0]) < -100)
    made = e_bayes(fit)
    assert np.all(np.isfinite(made.F_log_p)) and np.all(np.diff(made.F_log_p[:3]) < -100)


# Robust


def test_one_outlier_is_trusted_less_than_the_rest():
    fit = synthetic(G=500, d0=20.0, seed=9)
    sigma = fit.sigma.copy()
    sigma[7] *= 12
    made = fit_f_dist_robustly(sigma**2, 10.0)
    assert made.df2_shrunk[7] < made.df2 / 2 and made.p_not_outlier[7] < 1e-6
    assert np.median(made.df2_shrunk) == made.df2
    # A larger variance never has more prior degrees of freedom.
    order = np.argsort(-sigma)
    assert np.all(np.diff(made.df2_shrunk[order]) >= 0)
    plain = e_bayes(replace(fit, sigma=sigma))
    robust = e_bayes(replace(fit, sigma=sigma), robust=True)
    assert robust.s2_post[7] > plain.s2_post[7] and robust.df_total[7] < plain.df_total[7]


def test_the_robust_d0_solves_its_equation():
    s2 = synthetic(G=500, d0=8.0, seed=4).sigma ** 2
    s2[:10] *= 100
    made = fit_f_dist_robustly(s2, 10.0)
    assert made.df2 > fit_f_dist(s2, 10.0)[1]
    z = np.log(s2)
    z -= stats.trim_mean(z, 0.1)
    drawn = np.clip(z, *np.quantile(z, [0.05, 0.9]))
    mean, variance = winsorized_moments(10.0, made.df2)
    np.testing.assert_allclose(variance, drawn.var(ddof=1), rtol=1e-7)
    expected = np.exp(stats.trim_mean(np.log(s2), 0.1) + drawn.mean() - mean)
    np.testing.assert_allclose(made.scale, expected, rtol=1e-12)


def test_an_infinite_robust_prior_leaves_outliers_finite():
    random = np.random.default_rng(3)
    n, d = 400, 9.0
    s2 = random.chisquare(d, n) / d
    # Less spread than chance would have, but one outlier.
    s2 = np.exp(0.9 * np.log(s2))
    s2[11] = 40.0
    made = fit_f_dist_robustly(s2, d)
    assert made.df2 == np.inf
    outlier = np.isfinite(made.df2_shrunk)
    assert outlier[11] and np.count_nonzero(outlier) < 20
    log_p = stats.chi2.logsf(40.0 / made.scale * d, d)
    expected = np.exp(log_p - np.log(0.5 / n)) * n * d
    np.testing.assert_allclose(made.df2_shrunk[11], expected, rtol=1e-9)
    post = squeeze_var(s2, d, robust=True).var_post
    assert post[11] == pytest.approx(40.0, rel=1e-6)
    np.testing.assert_array_equal(post[~outlier], made.scale)


def test_robust_variances_on_unequal_df_are_mapped_by_their_tails():
    from condrand.linear.moderation import _to_equal_df

    s2, d = np.array([0.3, 1.1, 6.0, 2.0]), np.array([4.0, 4.0, 5.0, 8.0])
    mapped = _to_equal_df(s2, d, 8.0, np.full(4, 0.9), 7.0)
    expected = 0.9 * stats.f.isf(stats.f.sf(s2 / 0.9, d, 7.0), 8.0, 7.0)
    np.testing.assert_allclose(mapped, expected, rtol=1e-9)
    mapped = _to_equal_df(s2, d, 8.0, np.full(4, 0.9), np.inf)
    expected = 0.9 * stats.chi2.isf(stats.chi2.sf(s2 / 0.9 * d, d), 8) / 8
    np.testing.assert_allclose(mapped, expected, rtol=1e-9)
    # So extreme that the tail underflows, up and down.
    s2 = np.array([1e150, 1e-150])
    mapped = _to_equal_df(s2, np.array([4.0, 4.0]), 40.0, np.ones(2), 9.0)
    np.testing.assert_allclose(log_f(mapped[:1], 40.0, 9.0), log_f(s2[:1], 4.0, 9.0), rtol=1e-12)
    lower = [log_f(1 / v, 9.0, df1) for v, df1 in ((mapped[1:], 40.0), (s2[1:], 4.0))]
    np.testing.assert_allclose(*lower, rtol=1e-12)


def test_robust_on_unequal_df_finds_the_outlier():
    random = np.random.default_rng(8)
    df = random.integers(4, 11, 400).astype(float)
    fit = synthetic(d=df, d0=15.0)
    sigma = fit.sigma.copy()
    sigma[5] *= 15
    made = fit_f_dist_robustly(sigma**2, df)
    assert made.p_not_outlier[5] < 1e-3 and np.argmin(made.df2_shrunk) == 5


# Maximum likelihood


def test_maximum_likelihood_is_that_of_a_general_optimizer():
    from scipy.optimize import minimize

    random = np.random.default_rng(6)
    d = random.choice([1.0, 2.0, 4.0, 9.0], 800)
    s2 = 0.7 * stats.f.rvs(d, 5.0, random_state=random)
    scale, df2 = fit_f_dist(s2, d, legacy=False)

    def loss(at):
        return -np.sum(stats.f.logpdf(s2, d, np.exp(at[1]), scale=np.exp(at[0])))

    best = minimize(loss, [0.0, 1.0], method="Nelder-Mead", options={"xatol": 1e-9})
    np.testing.assert_allclose([np.log(scale), np.log(df2)], best.x, atol=1e-5)
    assert loss([np.log(scale), np.log(df2)]) <= best.fun + 1e-9
    moments = fit_f_dist(s2, d)
    assert loss(np.log(moments)) > best.fun


def test_maximum_likelihood_with_a_trend_beats_nothing_around_it():
    random = np.random.default_rng(7)
    d, x = random.choice([2.0, 6.0], 300), random.normal(size=300)
    s2 = np.exp(0.5 * x) * stats.f.rvs(d, 6.0, random_state=random)
    scale, df2 = fit_f_dist(s2, d, x, legacy=False)

    def likelihood(scale, df2):
        return np.sum(stats.f.logpdf(s2, d, df2, scale=scale))

    best = likelihood(scale, df2)
    for other in ((scale * 1.01, df2), (scale / 1.01, df2), (scale * np.exp(0.02 * x), df2)):
        assert likelihood(*other) < best
    assert likelihood(scale, df2 * 1.05) < best and likelihood(scale, df2 / 1.05) < best
    assert np.corrcoef(np.log(scale), x)[0, 1] > 0.95


def test_maximum_likelihood_is_used_for_unequal_df_alone():
    s2 = synthetic().sigma ** 2
    assert fit_f_dist(s2, 10.0, legacy=False) == fit_f_dist(s2, 10.0)
    df = np.r_[np.full(200, 10.0), np.full(200, 3.0)]
    assert fit_f_dist(s2, df, legacy=False) != fit_f_dist(s2, df)
    # Hardly any spread: no finite d0 is as likely as an infinite one.
    near = np.linspace(1.0, 1.001, 400)
    scale, df2 = fit_f_dist(near, df, legacy=False)
    assert df2 == np.inf and scale == pytest.approx(np.average(near, weights=df), rel=1e-12)


# F and treat


def test_f_is_the_quadratic_form_of_the_correlation():
    random = np.random.default_rng(0)
    design = random.normal(size=(9, 4))
    contrasts = random.normal(size=(4, 3))
    contrasts = np.column_stack([contrasts, contrasts[:, 0] - 2 * contrasts[:, 1]])
    cov = contrasts.T @ np.linalg.inv(design.T @ design) @ contrasts
    sd = np.sqrt(np.diag(cov))
    # t of dependent contrasts depend as the contrasts do.
    t = random.normal(size=(50, 4)) @ np.linalg.inv(design.T @ design) @ contrasts / sd
    f, df1, log_p = moderated_f(t, cov, np.full(50, 11.0))
    inverse = np.linalg.pinv(cov / np.outer(sd, sd), rcond=1e-10)
    np.testing.assert_allclose(f, np.einsum("gi,ij,gj->g", t, inverse, t) / 3, rtol=1e-9)
    assert df1 == 3
    np.testing.assert_allclose(np.exp(log_p), stats.f.sf(f, 3, 11.0), rtol=1e-11)


def test_a_contrast_nobody_can_estimate_is_left_out_of_f():
    random = np.random.default_rng(0)
    t = random.normal(size=(20, 3))
    expected = moderated_f(t[:, :2], np.eye(2), np.full(20, 5.0))
    t[:, 2] = np.nan
    made = moderated_f(t, np.diag([1.0, 1.0, np.nan]), np.full(20, 5.0))
    np.testing.assert_array_equal(made[0], expected[0])
    assert made[1] == 2


def test_treat_without_a_threshold_is_the_moderated_t_test():
    fit = synthetic(p=2)
    made, plain = treat(fit, lfc=0), e_bayes(fit)
    np.testing.assert_allclose(made.log_p, plain.log_p, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(made.t, plain.t, rtol=1e-14)
    assert made.lods is None and made.F is None and made.treat_lfc == 0


def test_a_larger_threshold_gives_larger_p():
    fit = synthetic()
    last = treat(fit, lfc=0).log_p
    for lfc in (0.1, 0.5, 1.0, 3.0):
        made = treat(fit, lfc=lfc)
        assert np.all(made.log_p >= last - 1e-14) and np.any(made.log_p > last + 0.01)
        inside = np.abs(fit.coefficients) <= lfc
        assert np.all(made.t[inside] == 0) and np.all(made.t[~inside] != 0)
        last = made.log_p
    np.testing.assert_array_equal(treat(fit, fc=2).p_value, treat(fit, lfc=1).p_value)


def test_treat_is_its_definition():
    fit = synthetic()
    made = treat(fit, lfc=0.4)
    se = 0.6 * np.sqrt(made.s2_post)
    size = np.abs(fit.coefficients[:, 0])
    upper = stats.t.sf((size - 0.4) / se, made.df_total)
    p = upper + stats.t.sf((size + 0.4) / se, made.df_total)
    np.testing.assert_allclose(made.p_value[:, 0], p, rtol=1e-10)


# Refusals


def test_what_cannot_be_moderated_is_refused():
    fit = synthetic(G=20)
    with pytest.raises(ValueError, match="half of the features"):
        e_bayes(replace(fit, sigma=np.where(np.arange(20) < 12, 0.0, 1.0)))
    with pytest.raises(ValueError, match="no degrees of freedom|degrees of freedom left"):
        e_bayes(replace(fit, df_residual=np.zeros(20)))
    with pytest.raises(ValueError, match="robust needs legacy"):
        e_bayes(fit, robust=True, legacy=False)
    with pytest.raises(ValueError, match="trend has shape"):
        e_bayes(fit, trend=np.ones(3))
    with pytest.raises(ValueError, match="proportion"):
        e_bayes(fit, proportion=0)
    with pytest.raises(ValueError, match="fc is"):
        treat(fit, fc=0)


def test_a_second_run_forgets_the_first():
    fit = synthetic()
    np.testing.assert_array_equal(e_bayes(treat(fit)).log_p, e_bayes(fit).log_p)
    assert e_bayes(treat(fit)).treat_lfc is None and treat(e_bayes(fit)).lods is None
    np.testing.assert_array_equal(e_bayes(fit, trend=fit.amean).t, e_bayes(fit, trend=True).t)
