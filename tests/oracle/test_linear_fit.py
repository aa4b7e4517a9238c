"""Least squares and contrasts of many features, against limma and against numpy's lstsq.

The weights that limma's fits used are those of its own voom where a file holds them, so that a
difference here is one of the fit alone; `test_voom.py` holds the weights themselves.
"""

import logging
from dataclasses import replace

import numpy as np
import pytest

from condrand.kernels.linear import LANES
from condrand.linear.fit import Basis, contrasts_fit, lm_fit, make_contrasts, non_estimable
from condrand.linear.voom import voom
from references import gate

EXACT = 1e-11  # relative: the gate of sigma and standard errors
ABSOLUTE = 1e-9  # the gate of coefficients, which may be near 0


def names_of(n, letter="g"):
    return [f"{letter}{i}" for i in range(n)]


def fitted(E, design, weights=None, **options):
    """A fit whose names do not matter."""
    names = names_of(design.shape[1], "c")
    return lm_fit(E, design, names_of(len(E)), names, weights, **options)


def assert_same_bits(one, other, rows=slice(None)):
    """`one` holds what `other` holds in some rows."""
    for field in ("coefficients", "stdev_unscaled", "sigma", "df_residual", "amean"):
        assert np.array_equal(getattr(one, field), getattr(other, field)[rows], equal_nan=True)


# Against limma


@pytest.mark.parametrize("tag", ["seed", "v354"])
def test_two_groups_are_those_of_limma(limma_table, groups, tag):
    E, weights = (
        limma_table(f"limma_ref_{tag}_E.csv.gz"),
        limma_table(f"limma_ref_{tag}_weights.csv.gz"),
    )
    source = f"limma_ref_{tag}_genes.csv.gz"
    genes = limma_table(source)
    fit = lm_fit(E.to_numpy(), groups, list(E.index), ["basal", "luminal"], weights.to_numpy())
    assert (fit.df_residual == genes.df_residual).all()
    gate("Amean", source, fit.amean, genes.Amean, 1e-13)
    gate("sigma, rel", source, fit.sigma, genes.sigma, EXACT, True)
    columns = ["basal", "luminal"]
    expected = genes[[f"coef_{name}" for name in columns]]
    gate("coefficients", source, fit.coefficients, expected, ABSOLUTE)
    expected = genes[[f"su_{name}" for name in columns]]
    gate("stdev.unscaled, rel", source, fit.stdev_unscaled, expected, EXACT, True)
    contrast = contrasts_fit(fit, *make_contrasts({"d": "luminal - basal"}, columns))
    gate("logFC", source, contrast.coefficients[:, 0], genes.logFC, ABSOLUTE)
    gate(
        *("contrast stdev, rel", source, contrast.stdev_unscaled[:, 0]),
        *(genes.stdev_unscaled, EXACT, True),
    )


@pytest.mark.parametrize("model", ["sixgroup", "additive"])
def test_several_contrasts_are_those_of_limma(limma_table, model):
    counts = limma_table("gse60450_counts.csv.gz")
    design = limma_table(f"limma_ref_{model}_design.csv", "sample")
    contrasts = limma_table(f"limma_ref_{model}_contrasts.csv", "coef")
    covariance = limma_table(f"limma_ref_{model}_covcoef.csv", "contrast")
    source = f"limma_ref_{model}.csv.gz"
    genes = limma_table(source)
    kept = counts.loc[genes.index]
    assert len(kept) == len(genes) == 14453
    made = voom(kept.to_numpy(), design.to_numpy())
    fit = lm_fit(made.E, design.to_numpy(), list(kept.index), list(design.columns), made.weights)
    found = contrasts_fit(fit, contrasts.to_numpy(), list(contrasts.columns))
    gate("sigma, rel", source, found.sigma, genes.sigma, EXACT, True)
    gate("Amean", source, found.amean, genes.Amean, 1e-13)
    logs = genes[[f"logFC.{name}" for name in contrasts]]
    gate("logFC", source, found.coefficients, logs, ABSOLUTE)
    stdev = genes[[f"su.{name}" for name in contrasts]]
    gate("contrast stdev, rel", source, found.stdev_unscaled, stdev, EXACT, True)
    gate("covariance", f"{model}_covcoef", found.cov_coefficients, covariance, 1e-14)
    exact = contrasts_fit(fit, contrasts.to_numpy(), list(contrasts.columns), exact=True)
    ratio = found.stdev_unscaled / exact.stdev_unscaled
    if model == "sixgroup":  # cell means: the default is exact
        np.testing.assert_allclose(ratio, 1.0, rtol=1e-12)
    else:
        assert ratio[:, 1].min() == pytest.approx(0.80, abs=0.005)
        assert ratio[:, 1].max() == pytest.approx(1.67, abs=0.005)
        assert np.median(ratio) == pytest.approx(1.0, abs=0.005)


@pytest.mark.parametrize("tag", ["adaptive", "half"])
def test_the_small_fits_are_those_of_limma(limma_table, groups, tag):
    source = f"limma_ref_small_{tag}_genes.csv"
    genes, weights = (
        limma_table(source),
        limma_table(f"limma_ref_small_{tag}_weights.csv").to_numpy(),
    )
    fit = fitted(limma_table("limma_ref_small_E.csv").to_numpy(), groups, weights)
    found = contrasts_fit(fit, [-1, 1], ["d"])
    gate("sigma, rel", source, found.sigma, genes.sigma, EXACT, True)
    gate("contrast stdev, rel", source, found.stdev_unscaled[:, 0], genes.su, EXACT, True)
    gate("logFC", source, found.coefficients[:, 0], genes.logFC, ABSOLUTE)


def test_the_small_additive_fit_is_that_of_limma(limma_table):
    source = "limma_ref_small_additive.csv"
    genes = limma_table(source)
    design = limma_table("limma_ref_small_additive_design.csv")
    # The weights are those of the two-group voom.
    E, weights = (
        limma_table("limma_ref_small_E.csv"),
        limma_table("limma_ref_small_adaptive_weights.csv"),
    )
    names = list(design.columns)
    fit = lm_fit(E.to_numpy(), design.to_numpy(), list(E.index), names, weights.to_numpy())
    expected = limma_table("limma_ref_small_additive_contrasts.csv")
    contrasts, names = make_contrasts(list(expected.columns), list(design.columns))
    assert np.array_equal(contrasts, expected)
    found = contrasts_fit(fit, contrasts, names)
    gate("sigma, rel", source, found.sigma, genes.sigma, EXACT, True)
    logs, stdev = (genes[[f"{word}{k}" for k in (1, 2, 3)]] for word in ("logFC", "su"))
    gate("logFC", source, found.coefficients, logs, ABSOLUTE)
    gate("contrast stdev, rel", source, found.stdev_unscaled, stdev, EXACT, True)


@pytest.mark.parametrize("weighted", [False, True])
def test_missing_values_are_treated_as_by_limma(limma_table, groups, weighted):
    source = f"limma_ref_small_na_{'wtd' if weighted else 'unw'}.csv"
    genes, E = limma_table(source), limma_table("limma_ref_small_E_na.csv").to_numpy()
    weights = limma_table("limma_ref_small_adaptive_weights.csv").to_numpy() if weighted else None
    found = contrasts_fit(fitted(E, groups, weights), [-1, 1], ["d"])
    assert {0, 4, 10} < set(genes.df)
    gate("df", source, found.df_residual, genes.df, 0.0)
    gate("Amean", source, found.amean, genes.Amean, 1e-13)
    gate("sigma, rel", source, found.sigma, genes.sigma, EXACT, True)
    gate("contrast stdev, rel", source, found.stdev_unscaled[:, 0], genes.su, EXACT, True)
    gate("logFC", source, found.coefficients[:, 0], genes.logFC, ABSOLUTE)


def test_a_column_too_many_is_dropped_as_by_limma(limma_table, groups, caplog):
    scalars = limma_table("limma_ref_small_scalars.csv").set_index(["key", "idx"]).value
    expected = scalars["rankdef.first_row_coef"].to_numpy(float)
    E = limma_table("limma_ref_small_E.csv").to_numpy()
    design = np.column_stack([np.ones(12), groups])
    with caplog.at_level(logging.WARNING):
        fit = lm_fit(E, design, names_of(len(E)), ["Intercept", "basal", "luminal"])
    assert "not estimable: luminal" in caplog.text
    assert fit.rank == scalars["rankdef.rank", 1]
    gate("coefficients", "rankdef", fit.coefficients[0], expected, 1e-13)


# Against lstsq


def slow_fit(y, design, w):
    """Coefficients, standard errors, covariance, sigma and df of one feature."""
    used = np.isfinite(y) & np.isfinite(w) & (w > 0)
    root = np.sqrt(w[used])
    X, z = design[used] * root[:, None], y[used] * root
    kept = []
    for j in range(X.shape[1]):
        if np.linalg.matrix_rank(X[:, [*kept, j]], tol=1e-9) == len(kept) + 1:
            kept.append(j)
    b, se = np.full((2, X.shape[1]), np.nan)
    df, covariance = used.sum() - len(kept), np.full((X.shape[1],) * 2, np.nan)
    sigma = np.nan
    if kept:
        b[kept] = np.linalg.lstsq(X[:, kept], z, rcond=None)[0]
        covariance[np.ix_(kept, kept)] = np.linalg.inv(X[:, kept].T @ X[:, kept])
        se = np.sqrt(np.diag(covariance))
    if df > 0:
        sigma = np.sqrt(np.sum((z - X[:, kept] @ b[kept]) ** 2) / df)
    return b, se, covariance, sigma, df


def case(n_genes, n, p, seed=0, missing=0.0, spread=1.0):
    """Values, a design with an intercept, groups and numbers, and weights."""
    random = np.random.default_rng(seed)
    design = random.normal(size=(n, p))
    design[:, 0] = 1.0
    if p > 2:
        design[:, 1] = np.arange(n) % 3 == 0
    E = random.normal(5, 2, size=(n_genes, 1)) + random.normal(size=(n_genes, n))
    E[random.random(E.shape) < missing] = np.nan
    return E, design, np.exp(spread * random.normal(size=E.shape))


def assert_is_lstsq(fit, E, design, weights, rtol=1e-10):
    for g in range(len(E)):
        b, se, _, sigma, df = slow_fit(E[g], design, weights[g])
        assert fit.df_residual[g] == df
        np.testing.assert_allclose(fit.coefficients[g], b, rtol=rtol, atol=1e-11)
        np.testing.assert_allclose(fit.stdev_unscaled[g], se, rtol=rtol)
        np.testing.assert_allclose(fit.sigma[g], sigma, rtol=rtol)


@pytest.mark.parametrize(("n", "p"), [(3, 1), (6, 2), (12, 6), (40, 5), (4, 4)])
def test_a_fit_without_weights_is_lstsq(n, p):
    E, design, weights = case(2 * LANES + 3, n, p)
    fit = fitted(E, design)
    assert_is_lstsq(fit, E, design, np.ones_like(weights))
    np.testing.assert_allclose(fit.cov_coefficients, np.linalg.inv(design.T @ design), rtol=1e-9)
    np.testing.assert_allclose(fit.amean, E.mean(axis=1), rtol=1e-14)


@pytest.mark.parametrize("missing", [0.0, 0.3, 0.8])
@pytest.mark.parametrize(("n", "p"), [(3, 1), (6, 2), (12, 6), (40, 5)])
def test_a_fit_with_weights_is_lstsq(n, p, missing):
    E, design, weights = case(2 * LANES + 3, n, p, missing=missing)
    weights[3, 0], weights[4, 1], weights[5, 2] = 0.0, -1.0, np.nan
    fit = fitted(E, design, weights)
    # Few samples may leave numbers nearly collinear: lstsq itself is then off by more.
    assert_is_lstsq(fit, E, design, weights, rtol=1e-7 if missing > 0.5 else 1e-10)
    np.testing.assert_allclose(fit.cov_coefficients, np.linalg.inv(design.T @ design), rtol=1e-9)
    present = [row[~np.isnan(row)] for row in E]
    means = [row.mean() if row.size else np.nan for row in present]
    np.testing.assert_allclose(fit.amean, means, rtol=1e-14)


def test_groups_lost_to_missing_values_lose_their_coefficients(caplog):
    E, _, weights = case(20, 9, 2)
    design = np.column_stack([np.ones(9), np.repeat([0, 1, 0], 3), np.repeat([0, 0, 1], 3)])
    E[0, 3:6] = np.nan  # no second group
    E[1, :3] = np.nan  # no first group: the third column is the intercept less the second
    E[2] = np.nan
    E[3, 1:] = np.nan
    for w in (None, weights):
        with caplog.at_level(logging.WARNING):
            fit = fitted(E, design, w)
        assert "some coefficients of 3 features" in caplog.text
        caplog.clear()
        missing = np.isnan(fit.coefficients[:5])
        lost = [[0, 1, 0], [0, 0, 1], [1, 1, 1], [0, 1, 1], [0, 0, 0]]
        assert np.array_equal(missing, np.array(lost, bool))
        assert fit.df_residual[:5].tolist() == [4, 4, 0, 0, 6]
        assert np.isnan(fit.sigma[:5]).tolist() == [False, False, True, True, False]
        assert_is_lstsq(fit, E, design, np.ones_like(weights) if w is None else w)


def test_weights_that_span_sixteen_orders_keep_their_digits():
    E, design, weights = case(200, 30, 4, spread=9.0)
    assert weights.max() / weights.min() > 1e20
    fit = fitted(E, design, weights)
    for g in range(len(E)):
        # Householder on rows sorted by weight is stable for weights of any size.
        order = np.argsort(-weights[g])
        root = np.sqrt(weights[g, order])
        q, r = np.linalg.qr(design[order] * root[:, None])
        se = np.sqrt(np.sum(np.linalg.inv(r) ** 2, axis=1))
        np.testing.assert_allclose(fit.stdev_unscaled[g], se, rtol=1e-8)
        b = np.linalg.solve(r, q.T @ (root * E[g, order]))
        np.testing.assert_allclose(fit.coefficients[g], b, rtol=1e-5, atol=1e-6)


def test_a_nearly_collinear_design_keeps_its_digits():
    E, design, weights = case(50, 20, 3)
    design[:, 2] = design[:, 1] + 1e-5 * design[:, 2]
    # In a basis of its own the same space is well conditioned: the fits must agree.
    good = design.copy()
    good[:, 2] = (design[:, 2] - design[:, 1]) / 1e-5
    for w in (None, weights):
        fit, other = fitted(E, design, w), fitted(E, good, w)
        np.testing.assert_allclose(fit.sigma, other.sigma, rtol=1e-12)
        np.testing.assert_allclose(
            fit.coefficients[:, 2], other.coefficients[:, 2] / 1e-5, rtol=1e-8, atol=1e-4
        )


def test_the_basis_of_a_nearly_collinear_design_is_orthonormal():
    design = case(1, 20, 3)[1]
    design[:, 2] = design[:, 1] + 1e-6 * design[:, 2]
    basis = Basis.of(design)
    assert basis.kept == [0, 1, 2]
    np.testing.assert_allclose(basis.q.T @ basis.q, np.eye(3), atol=1e-15 * 3)
    np.testing.assert_allclose(basis.q @ basis.r, design, atol=1e-14)


def test_a_high_level_does_not_cost_the_digits_of_an_effect():
    E, design, weights = case(200, 30, 2, spread=1.5)
    low, high = fitted(E, design, weights), fitted(E + 2.0**30, design, weights)
    exact = fitted((E + 2.0**30) - 2.0**30, design, weights)  # what is left of E up there
    assert np.abs(low.coefficients[:, 1] - exact.coefficients[:, 1]).max() > 1e-9
    found = np.abs(high.coefficients[:, 1] - exact.coefficients[:, 1]).max()
    assert found < 1e-7 * 4  # one rounding of 2**30 is 1e-7


def test_weights_can_make_a_column_a_combination_of_others():
    E, design, weights = case(2, 20, 3)
    design[:, 2] = design[:, 1] + 4e-7 * (np.arange(20) % 2) * np.sign(design[:, 2])
    weights[:] = 1.0
    weights[1, 1::2] = 0.003  # the only samples in which the two columns differ
    fit = fitted(E, design, weights)
    assert np.isnan(fit.coefficients).tolist() == [[False] * 3, [False, False, True]]
    assert fit.df_residual.tolist() == [17, 18]


@pytest.mark.parametrize("shape", ["vector", "row"])
def test_sample_weights_are_the_same_weights_in_every_row(shape):
    E, design, _ = case(50, 12, 3)
    w = np.random.default_rng(1).random(12) + 0.1
    fit = fitted(E, design, w if shape == "vector" else w[None])
    assert_is_lstsq(fit, E, design, np.tile(w, (50, 1)))
    covariance = np.linalg.inv(design.T @ (w[:, None] * design))
    np.testing.assert_allclose(fit.cov_coefficients, covariance, rtol=1e-11)


@pytest.mark.parametrize("shape", ["vector", "column"])
def test_feature_weights_are_the_same_weights_in_every_column(shape):
    E, design, _ = case(50, 12, 3)
    w = np.random.default_rng(1).random(50) + 0.1
    fit = fitted(E, design, w if shape == "vector" else w[:, None])
    assert_is_lstsq(fit, E, design, np.tile(w[:, None], (1, 12)))


def test_sample_and_feature_weights_go_with_missing_values():
    E, design, _ = case(50, 12, 3, missing=0.2)
    random = np.random.default_rng(1)
    for w in (random.random((1, 12)), random.random((50, 1))):
        w[0, 0] = 0.0
        assert_is_lstsq(fitted(E, design, w), E, design, np.broadcast_to(w, E.shape))


def test_a_design_column_too_many_is_named_and_changes_nothing_else(caplog):
    E, design, weights = case(50, 12, 3)
    wide = np.column_stack([design[:, :2], design[:, 0] - design[:, 1], design[:, 2]])
    names = ["one", "two", "both", "three"]
    assert non_estimable(wide, names) == ["both"]
    assert non_estimable(design, names[:3]) == []
    assert non_estimable(np.zeros((4, 1)), ["nothing"]) == ["nothing"]
    for w in (None, weights, weights[0]):
        with caplog.at_level(logging.WARNING):
            fit = lm_fit(E, wide, names_of(50), names, w)
        assert caplog.messages == ["coefficients not estimable: both"]
        caplog.clear()
        plain = fitted(E, design, w)
        assert fit.rank == 3
        kept = [0, 1, 3]
        assert np.isnan(fit.coefficients[:, 2]).all()
        assert np.isnan(fit.cov_coefficients[2]).all()
        assert np.array_equal(fit.coefficients[:, kept], plain.coefficients)
        assert np.array_equal(fit.sigma, plain.sigma)
        with pytest.raises(ValueError, match="contrast x: the design cannot estimate both"):
            contrasts_fit(fit, [0, 1, 1, 0], ["x"])
        found = contrasts_fit(fit, [0, 1, 0, -1], ["x"], exact=True)
        expected = contrasts_fit(plain, [0, 1, -1], ["x"], exact=True)
        np.testing.assert_allclose(found.stdev_unscaled, expected.stdev_unscaled, rtol=1e-14)


# Bits


@pytest.mark.parametrize("kind", ["plain", "weighted", "missing", "samples"])
def test_bits_depend_on_nothing_but_the_row(kind):
    E, design, weights = case(5 * LANES + 7, 14, 4, missing=0.3 if kind == "missing" else 0.0)
    weights = {"weighted": weights, "samples": weights[0]}.get(kind)
    whole = fitted(E, design, weights)
    for threads in (2, 3):
        assert_same_bits(fitted(E, design, weights, threads=threads), whole)
    for rows in (slice(0, 1), slice(1, 40), slice(LANES - 1, LANES + 2), slice(100, None)):
        some = weights[rows] if kind == "weighted" else weights
        assert_same_bits(fitted(E[rows], design, some), whole, rows)
    backwards = fitted(E[::-1], design, weights[::-1] if kind == "weighted" else weights)
    assert_same_bits(backwards, whole, slice(None, None, -1))
    contrasts = np.array([[1, 0, -1, 0], [0.5, -0.5, 1, 0]]).T
    for exact in (False, True):
        one = contrasts_fit(whole, contrasts, ["a", "b"], exact)
        two = contrasts_fit(whole, contrasts, ["a", "b"], exact, threads=2)
        assert_same_bits(one, two)
        part = fitted(E[9:50], design, weights[9:50] if kind == "weighted" else weights)
        assert_same_bits(contrasts_fit(part, contrasts, ["a", "b"], exact), one, slice(9, 50))


def test_nothing_given_is_changed():
    E, design, weights = case(40, 9, 3, missing=0.1)
    copies = E.copy(), design.copy(), weights.copy()
    contrasts_fit(fitted(E, design, weights), np.eye(3), list("abc"), exact=True)
    for given, copy in zip((E, design, weights), copies, strict=True):
        assert np.array_equal(given, copy, equal_nan=True)


# Contrasts


@pytest.mark.parametrize("missing", [0.0, 0.3])
def test_exact_standard_errors_are_those_of_the_weighted_fit(missing):
    E, design, weights = case(70, 15, 4, missing=missing)
    design[:, 2] = np.arange(15) % 5 == 0  # some features lose it
    contrasts = np.array([[0, 1, -1, 0], [0, 0.5, 0.5, -1], [1, 0, 0, 0]]).T
    fit = fitted(E, design, weights)
    exact = contrasts_fit(fit, contrasts, list("abc"), exact=True)
    plain = contrasts_fit(fit, contrasts, list("abc"))
    for g in range(len(E)):
        b, _, covariance, _, _ = slow_fit(E[g], design, weights[g])
        for k, c in enumerate(contrasts.T):
            used = c != 0
            expected = c[used] @ covariance[np.ix_(used, used)] @ c[used]
            np.testing.assert_allclose(exact.stdev_unscaled[g, k] ** 2, expected, rtol=1e-9)
            np.testing.assert_allclose(
                exact.coefficients[g, k], c[used] @ b[used], rtol=1e-9, atol=1e-11
            )
    assert np.array_equal(exact.coefficients, plain.coefficients, equal_nan=True)
    assert np.nanmax(np.abs(plain.stdev_unscaled / exact.stdev_unscaled - 1)) > 0.05
    if missing:
        assert np.isnan(exact.stdev_unscaled[:, 0]).sum() > 0
        # The intercept alone is there in every feature that has a sample.
        assert np.isfinite(exact.stdev_unscaled[:, 2]).all()


def test_the_default_standard_error_is_its_formula():
    E, design, weights = case(30, 15, 3)
    fit = fitted(E, design, weights)
    contrasts = np.array([[1, -1, 0], [0.3, 2, -1]]).T
    found = contrasts_fit(fit, contrasts, ["a", "b"])
    covariance = np.linalg.inv(design.T @ design)
    scale = np.sqrt(np.diag(covariance))
    R = covariance / np.outer(scale, scale)
    for g in range(30):
        for k in range(2):
            v = fit.stdev_unscaled[g] * contrasts[:, k]
            np.testing.assert_allclose(found.stdev_unscaled[g, k] ** 2, v @ R @ v, rtol=1e-11)
    np.testing.assert_allclose(found.cov_coefficients, contrasts.T @ covariance @ contrasts)
    assert found.names == ["a", "b"]
    assert np.array_equal(found.contrasts, contrasts)


@pytest.mark.parametrize("kind", ["none", "samples", "features"])
def test_without_weights_of_both_kinds_the_default_is_exact(kind):
    E, design, weights = case(30, 15, 3)
    weights = {"none": None, "samples": weights[0], "features": weights[:, :1]}[kind]
    fit = fitted(E, design, weights)
    c = np.array([1, -2, 0.5])
    found = contrasts_fit(fit, c, ["a"])
    each = np.ones(E.shape) if weights is None else np.broadcast_to(weights, E.shape)
    for g in range(30):
        covariance = slow_fit(E[g], design, each[g])[2]
        np.testing.assert_allclose(found.stdev_unscaled[g, 0] ** 2, c @ covariance @ c, rtol=1e-11)
    exact = contrasts_fit(fit, c, ["a"], exact=True)
    assert np.array_equal(exact.stdev_unscaled, found.stdev_unscaled)


def test_contrasts_of_contrasts_are_contrasts_of_the_coefficients():
    E, design, weights = case(30, 15, 3)
    fit = fitted(E, design, weights)
    first, second = np.array([[1, -1, 0], [0, 1, -1]]).T, np.array([[1.0], [1.0]])
    for exact in (False, True):
        twice = contrasts_fit(contrasts_fit(fit, first, ["a", "b"], exact), second, ["c"], exact)
        once = contrasts_fit(fit, first @ second, ["c"], exact)
        assert np.array_equal(twice.contrasts, once.contrasts)
        np.testing.assert_allclose(twice.coefficients, once.coefficients, atol=1e-12)
    np.testing.assert_allclose(twice.stdev_unscaled, once.stdev_unscaled, rtol=1e-12)


@pytest.mark.parametrize(
    ("expression", "weights"),
    [
        ("luminal - basal", [-1, 1, 0, 0]),
        ("-luminal", [0, -1, 0, 0]),
        ("(luminal + basal)/2 - stage.virgin", [0.5, 0.5, -1, 0]),
        ("2*(luminal - 0.5*basal) - .5e0*luminal*2", [-1, 1, 0, 0]),
        ("luminal*(3-1)/4", [0, 0.5, 0, 0]),
        ("`a b (c)`- luminal:late", [0, 0, 0, 0, 1, -1]),
        ("a b (c)", [0, 0, 0, 0, 1, 0]),
        ("stage.virgin", [0, 0, 1, 0]),
        (" + (basal)", [1, 0, 0, 0]),
        ("Intercept", [0, 0, 0, 1]),
        ("basal - (Intercept)", [1, 0, 0, -1]),
    ],
)
def test_expressions_become_contrasts(expression, weights):
    names = ["basal", "luminal", "stage.virgin", "(Intercept)", "a b (c)", "luminal:late"]
    found, labels = make_contrasts([expression], names)
    assert labels == [expression]
    assert found[:, 0].tolist() == weights + [0] * (6 - len(weights))
    assert not np.signbit(found[found == 0]).any()
    named, labels = make_contrasts({"mine": expression, "b": "basal"}, names)
    assert labels == ["mine", "b"]
    assert np.array_equal(named[:, :1], found)


@pytest.mark.parametrize(
    ("expression", "words"),
    [
        ("luminl - basal", "no coefficient 'luminl'; did you mean 'luminal'"),
        ("luminal - basal +", "not an expression"),
        ("luminal basal", "not an expression"),
        ("(luminal", "not an expression"),
        ("", "not an expression"),
        ("luminal ** 2", "not an expression"),
        ("luminal * basal", "not linear"),
        ("1 / luminal", "not linear"),
        ("luminal(basal)", "not linear"),
        ("luminal / 0", "divides by zero"),
        ("luminal + 1", "adds the number 1"),
        ("1", "adds the number 1"),
        ("luminal - luminal", "zero whatever"),
        ("luminal & basal", "cannot read '& basal'"),
        ("2luminal", "cannot read '2luminal'"),
        ("`luminal", "cannot read '`luminal'"),
        ("__import__", "no coefficient '__import__'"),
    ],
)
def test_what_is_no_contrast_is_refused_by_name(expression, words):
    with pytest.raises(ValueError) as refusal:
        make_contrasts({"mine": expression}, ["basal", "luminal"])
    assert words in str(refusal.value) and "mine" in str(refusal.value)


def test_contrasts_that_do_not_fit_are_refused():
    fit = fitted(*case(10, 6, 2)[:2])
    with pytest.raises(ValueError, match="2 coefficients and 1 names"):
        contrasts_fit(fit, np.ones(3), ["a"])
    with pytest.raises(ValueError, match="2 coefficients and 2 names"):
        contrasts_fit(fit, np.ones(2), ["a", "b"])
    with pytest.raises(ValueError, match="not finite"):
        contrasts_fit(fit, [np.nan, 1], ["a"])
    with pytest.raises(ValueError, match="already moderated"):
        contrasts_fit(replace(fit, s2_post=np.ones(10)), np.ones(2), ["a"])
    weighted = fitted(*case(10, 6, 2))
    with pytest.raises(ValueError, match="does not carry"):
        contrasts_fit(replace(weighted, design=None), np.ones(2), ["a"], exact=True)
    with pytest.raises(ValueError, match="twice"):
        make_contrasts(["a", "a"], ["a"])
    with pytest.raises(ValueError, match="no contrast"):
        make_contrasts([], ["a"])


# What cannot be fitted


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"E": np.zeros((0, 6))}, "at least one"),
        ({"E": np.full((10, 6), np.inf)}, "infinite values"),
        ({"E": np.full((10, 6), -np.inf)}, "infinite values"),
        ({"design": np.ones((5, 2))}, "5 rows, E has 6"),
        ({"design": np.ones(6)}, "samples by coefficients"),
        ({"design": np.full((6, 2), np.nan)}, "column a of the design"),
        ({"names": ["a"]}, "1 names for 2 columns"),
        ({"names": ["a", "a"]}, "share a name: a"),
        ({"features": ["a"]}, "1 names of features for 10"),
        ({"weights": np.ones(7)}, "weights of shape"),
        ({"weights": np.ones((6, 10))}, "weights of shape"),
    ],
)
def test_what_does_not_fit_together_is_refused(changes, words):
    E, design, _ = case(10, 6, 2)
    given = {"E": E, "design": design, "features": names_of(10), "names": ["a", "b"], **changes}
    with pytest.raises(ValueError, match=words):
        lm_fit(**given)


def test_as_many_features_as_samples_need_weights_with_a_shape():
    E, design, _ = case(6, 6, 2)
    w = np.arange(1.0, 7.0)
    with pytest.raises(ValueError, match=r"shape \(1, 6\) for samples or \(6, 1\)"):
        fitted(E, design, w)
    assert_is_lstsq(fitted(E, design, w[None]), E, design, np.tile(w, (6, 1)))
    assert_is_lstsq(fitted(E, design, w[:, None]), E, design, np.tile(w[:, None], (1, 6)))
