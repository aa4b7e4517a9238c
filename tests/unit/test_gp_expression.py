"""Differential expression over cell states: by its definitions with dense inverses, and guards."""

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from condrand.api.kompot import DifferentialExpression, SampleVarianceEstimator, compute_fdr
from condrand.gp.covariance import JITTER, Inducing, distances, matern52
from condrand.gp.expression import ExpressionModel
from condrand.gp.function import FunctionEstimator
from condrand.gp.mahalanobis import SharedCovariance, neg_log10_tail
from condrand.gp.neighbours import landmarks, length_scale, nearest_distances, validate_nn
from condrand.gp.null_genes import NullGenes
from condrand.gp.sample_variance import Samples, SampleVariance
from condrand.local_fdr import local_fdr

LS = 2.0


@pytest.fixture
def rng():
    return np.random.default_rng(3)


@pytest.fixture
def data(rng):
    """Cells, expression and samples of two conditions; landmarks; new cells."""
    x = rng.normal(size=(60, 3)), rng.normal(size=(50, 3))
    y = tuple(
        np.tanh(cells @ rng.normal(size=(3, 4))) + rng.normal(size=(len(cells), 4)) * 0.3
        for cells in x
    )
    s = np.arange(60) % 3, np.array(["a", "b"])[np.arange(50) % 2]
    return x, y, s, rng.normal(size=(12, 3)), rng.normal(size=(9, 3))


@pytest.fixture
def arguments(data):
    (x1, x2), (y1, y2), *_, u, _ = data
    return {
        "X_condition1": x1,
        "y_condition1": y1,
        "X_condition2": x2,
        "y_condition2": y2,
        "ls": LS,
        "landmarks": u,
    }


def dense(x, y, u, new, sigma):
    """Mean and covariance by the inverse of the cells' own covariance (the same posterior)."""
    k_uu = matern52(u, u, LS) + JITTER * np.eye(len(u))
    k_xu, k_nu = matern52(x, u, LS), matern52(new, u, LS)
    q_xx = k_xu @ np.linalg.solve(k_uu, k_xu.T) + sigma**2 * np.eye(len(x))
    q_nx = k_nu @ np.linalg.solve(k_uu, k_xu.T)
    mean = q_nx @ np.linalg.solve(q_xx, y)
    return mean, matern52(new, new, LS) - q_nx @ np.linalg.solve(q_xx, q_nx.T)


# Numbers


def test_covariance_is_the_formula_of_distances(rng):
    x, y = rng.normal(size=(7, 3)), rng.normal(size=(5, 3))
    away = np.sqrt(((x[:, None] - y) ** 2).sum(axis=2) + 1e-12)
    np.testing.assert_allclose(distances(x, y), away, rtol=1e-13)
    r = np.sqrt(5) * away / LS
    np.testing.assert_allclose(matern52(x, y, LS), (1 + r + r**2 / 3) * np.exp(-r), rtol=1e-13)
    far = matern52(x, y + 1e4, LS)
    assert np.all(far >= 0) and far.max() < 1e-200


@pytest.mark.parametrize("sigma", [1.0, 0.3])
def test_function_is_the_posterior_by_dense_inverses(data, sigma):
    (x, _), (y, _), _, u, new = data
    made = FunctionEstimator.of(x, y, LS, sigma, u)
    mean, covariance = dense(x, y, u, new, sigma)
    np.testing.assert_allclose(made.mean(new), mean, atol=1e-9)
    np.testing.assert_allclose(made.covariance(new), covariance, atol=1e-9)
    np.testing.assert_allclose(made.variance(new), np.diag(covariance), atol=1e-9)
    np.testing.assert_allclose(made.covariance(u), dense(x, y, u, u, sigma)[1], atol=1e-9)


def test_full_process_is_the_posterior_by_dense_inverses(data):
    (x, _), (y, _), *_, new = data
    made = FunctionEstimator.of(x, y, LS, 0.5)
    inverse = np.linalg.inv(matern52(x, x, LS) + 0.25 * np.eye(len(x)))
    k = matern52(new, x, LS)
    np.testing.assert_allclose(made.mean(new), k @ inverse @ y, atol=1e-10)
    covariance = matern52(new, new, LS) - k @ inverse @ k.T
    np.testing.assert_allclose(made.covariance(new), covariance, atol=1e-10)
    # Between its own cells too, where the noise is no part of the function.
    k = matern52(x, x, LS)
    np.testing.assert_allclose(made.covariance(x), k - k @ inverse @ k, atol=1e-10)


@pytest.mark.parametrize("full", [False, True])
def test_squared_residuals_are_those_of_cells_left_out(data, full):
    (x, _), (y, _), _, u, _ = data
    made = FunctionEstimator.of(x, y, LS, 1.0, None if full else u)
    ((_, squares),) = made.squared_residuals(x, y)
    keep = np.arange(len(x)) != 7
    without = FunctionEstimator.of(x[keep], y[keep], LS, 1.0, None if full else u)
    # The leverages have a jitter of their own.
    np.testing.assert_allclose(squares[7], (y[7] - without.mean(x[7:8])[0]) ** 2, rtol=1e-3)


@pytest.mark.parametrize("shared", [True, False])
def test_variance_over_samples_is_that_of_their_means(data, shared):
    (x, _), (y, _), (s, _), u, new = data
    made = SampleVariance.of(x, y, Samples.of(s, len(x)), LS, 1.0, u if shared else None)
    assert (made.weights is None) is not shared
    means = np.stack(
        [
            FunctionEstimator.of(x[s == k], y[s == k], LS, 1.0, u if shared else None).mean(new)
            for k in range(3)
        ]
    )
    np.testing.assert_allclose(made.variance(new), means.var(axis=0, ddof=1), atol=1e-12)
    away = means - means.mean(axis=0)
    expected = np.einsum("sig,sjg->ijg", away, away) / 2
    np.testing.assert_allclose(made.covariance(new), expected, atol=1e-12)


def test_distances_are_those_of_dense_inverses_for_each_gene(data, rng):
    x, y, s, u, new = data
    groups = tuple(Samples.of(labels, len(labels)) for labels in s)
    for samples in ((None, None), groups, (groups[0], None)):
        model = ExpressionModel.of(x, y, LS, 1.0, u, samples)
        delta = model.functions[1].mean(new) - model.functions[0].mean(new)
        shared = sum(f.covariance(new) for f in model.functions)
        found = model.mahalanobis(new, eps=1e-8)
        halved = model.mahalanobis(new, eps=1e-8, combine="mean")
        for g in range(4):
            extra = sum(v.covariance(new)[:, :, g] for v in model.samples if v is not None)
            for by, distance in ((1.0, found[g]), (0.5, halved[g])):
                matrix = by * shared + extra + 1e-8 * np.eye(len(new))
                expected = np.sqrt(delta[:, g] @ np.linalg.solve(matrix, delta[:, g]))
                np.testing.assert_allclose(distance, expected, rtol=1e-8)


def test_distances_with_variances_of_their_own(rng):
    half = rng.normal(size=(8, 8))
    shared = SharedCovariance.of(half @ half.T + np.eye(8), 1e-8)
    delta, variances = rng.normal(size=(8, 3)), rng.random((8, 3))
    factors = [rng.normal(size=(8, 3)) for _ in range(2)]
    exact = shared.distances_exact(delta, factors, variances)
    close = shared.distances_by_coordinate(delta.copy(), variances)
    inverse = np.linalg.inv(np.linalg.cholesky(shared.matrix + 1e-8 * np.eye(8)))
    for g in range(3):
        matrix = shared.matrix + np.diag(variances[:, g]) + 1e-8 * np.eye(8)
        matrix = matrix + sum(np.outer(f[:, g], f[:, g]) for f in factors)
        expected = np.sqrt(delta[:, g] @ np.linalg.solve(matrix, delta[:, g]))
        np.testing.assert_allclose(exact[g], expected, rtol=1e-10)
        widened = 1 + np.diag(inverse @ np.diag(variances[:, g]) @ inverse.T)
        expected = np.sqrt(((inverse @ delta[:, g]) ** 2 / widened).sum())
        np.testing.assert_allclose(close[g], expected, rtol=1e-10)


def test_points_that_hardly_covary_take_the_short_way(rng):
    matrix = np.diag(rng.random(11) + 1) + 1e-4
    delta = rng.normal(size=(11, 3))
    expected = np.sqrt((delta**2 / np.diag(matrix)[:, None]).sum(axis=0))
    found = SharedCovariance.of(matrix).distances(delta.copy())
    np.testing.assert_allclose(found, expected, rtol=1e-14)
    # Ten points are too few for it.
    few = SharedCovariance.of(matrix[:10, :10].copy()).distances(delta[:10].copy())
    short = np.sqrt((delta[:10] ** 2 / np.diag(matrix)[:10, None]).sum(axis=0))
    assert np.all(np.abs(few / short - 1) > 1e-9)


def test_tail_probabilities_go_beyond_the_smallest_float():
    near = np.array([0.0, 1.0, 5.0, 20.0])
    expected = -stats.chi2.logsf(near**2, 10) / np.log(10)
    np.testing.assert_allclose(neg_log10_tail(near, 10), expected, atol=1e-12)
    # df = 2 has the closed form exp(-x/2); for 4 it is (1 + x/2) exp(-x/2).
    far = np.array([35.0, 40.0, 500.0])
    x = far**2 / 2
    np.testing.assert_allclose(neg_log10_tail(far, 2), x / np.log(10), rtol=1e-13)
    four = (x - np.log1p(x)) / np.log(10)
    np.testing.assert_allclose(neg_log10_tail(far, 4), four, rtol=1e-13)


def test_batches_disk_sparse_and_float32_do_not_change_the_numbers(data, arguments, tmp_path):
    *_, s, _, new = data
    given = {**arguments, "condition1_sample_indices": s[0], "condition2_sample_indices": s[1]}
    whole = DifferentialExpression(batch_size=0).fit(**given).predict(new, True)
    model = DifferentialExpression(batch_size=4, disk_storage_dir=tmp_path)
    parts = model.fit(**{**given, "y_condition1": sp.csc_matrix(given["y_condition1"])}).predict(
        new, True
    )
    assert isinstance(parts["fold_change"], np.memmap)
    assert len(list(tmp_path.glob("*/*.npy"))) == 6
    for name, values in whole.items():
        np.testing.assert_allclose(parts[name], values, atol=1e-12, err_msg=name)
        assert getattr(model, name) is parts[name]
    kept = parts["fold_change"][2:3]
    del parts, model
    assert np.isfinite(kept).all()
    rounded = {
        key: value.astype(np.float32) if key.startswith("y_") else value
        for key, value in given.items()
    }
    single = DifferentialExpression().fit(**rounded).predict(new)
    np.testing.assert_allclose(single["fold_change"], whole["fold_change"], atol=1e-5)


def test_files_go_with_their_arrays(arguments, data, tmp_path):
    model = DifferentialExpression(disk_storage_dir=tmp_path).fit(**arguments)
    found = model.predict(data[-1])
    (folder,) = tmp_path.iterdir()
    del model
    assert folder.is_dir()
    del found
    assert not folder.exists()


def test_arrays_that_are_not_wanted_are_not_made(arguments, data):
    model = DifferentialExpression().fit(**arguments)
    whole = model.predict(data[-1])
    found = model.predict(data[-1], outputs=("fold_change",))
    np.testing.assert_array_equal(found["fold_change"], whole["fold_change"])
    assert {"fold_change_zscores", "condition1_imputed"}.isdisjoint(found)
    assert model.fold_change_zscores is None
    assert whole["condition1_imputed"] is whole["condition1_smoothed"]


def test_fitted_parts_can_be_given(arguments, data):
    *_, s, _, new = data
    given = {**arguments, "condition1_sample_indices": s[0], "condition2_sample_indices": s[1]}
    fitted = DifferentialExpression().fit(**given)
    parts = {
        name: getattr(fitted, name)
        for kind in ("function", "variance")
        for name in (f"{kind}_predictor1", f"{kind}_predictor2")
    }
    again = DifferentialExpression(**parts).predict(new, True)
    for name, values in fitted.predict(new, True).items():
        np.testing.assert_array_equal(again[name], values)
    # Variances without functions count too, unlike in kompot 0.8.0.
    variances = {name: part for name, part in parts.items() if name.startswith("variance")}
    model = DifferentialExpression(**variances).fit(**arguments)
    np.testing.assert_array_equal(model.predict(new)["condition1_std"], again["condition1_std"])


def test_one_sample_borrows_the_variance_of_the_other_condition(arguments, data):
    *_, s, _, new = data
    one = {"condition1_sample_indices": np.zeros(60), "condition2_sample_indices": s[1]}
    with pytest.raises(ValueError, match="allow_single_condition_variance=True"):
        DifferentialExpression().fit(**arguments, **one)
    model = DifferentialExpression().fit(**arguments, **one, allow_single_condition_variance=True)
    assert model.variance_predictor1 is model.variance_predictor2 is not None
    with pytest.raises(ValueError, match="fewer than 2 samples"):
        DifferentialExpression().fit(
            **arguments,
            condition1_sample_indices=np.zeros(60),
            allow_single_condition_variance=True,
        )


def test_neighbours_and_landmarks(rng, caplog):
    x = rng.normal(size=(30, 2))
    brute = distances(x, x) + 1e9 * np.eye(30)
    np.testing.assert_allclose(nearest_distances(x), brute.min(axis=1), atol=1e-9)
    twice = np.vstack([x, x[:1]])
    nn = nearest_distances(twice)
    assert np.count_nonzero(nn == 0) == 2
    with caplog.at_level(logging.WARNING):
        assert length_scale(nn) > 0.1
    assert "2 of 31 cells have the same coordinates" in caplog.text
    assert length_scale(np.full(5, 2.0), 3.0) == pytest.approx(6 * np.e**3)
    with pytest.raises(ValueError, match="all cells lie on one point"):
        validate_nn(np.zeros(3))
    centres = landmarks(x, 5, 1)
    np.testing.assert_array_equal(centres, landmarks(x, 5, 1))
    # Every centre is the mean of its cells once the algorithm has ended.
    nearest = distances(x, centres).argmin(axis=1)
    means = [x[nearest == k].mean(axis=0) for k in range(5)]
    np.testing.assert_allclose(centres, means, atol=0.1)
    assert landmarks(x, 30) is not None and len(landmarks(np.repeat(x[:3], 9, 0), 20)) == 3
    with pytest.raises(ValueError, match="2 or more"):
        landmarks(x, 1)


def test_null_genes_are_dealt_over_both_conditions(data):
    _, (y1, y2), *_ = data
    drawn = NullGenes.of(4, 6)
    a, b = drawn.dealt(y1, y2)
    both = np.concatenate([y1, y2])[:, drawn.columns]
    np.testing.assert_array_equal(np.sort(np.concatenate([a, b]), 0), np.sort(both, 0))
    part, _ = drawn.dealt(sp.csr_matrix(y1), y2, slice(2, 4))
    np.testing.assert_array_equal(part, a[:, 2:4])


def test_fdr_of_null_genes_of_the_fit(arguments, data, rng):
    table = {
        key: pd.DataFrame(value, columns=list("abcd")) if key.startswith("y_") else value
        for key, value in arguments.items()
    }
    model = DifferentialExpression().fit(**table, n_null_genes=40)
    with pytest.raises(ValueError, match="compute_mahalanobis=True"):
        model.compute_fdr()
    model.predict(data[-1], compute_mahalanobis=True)
    found = model.compute_fdr()
    assert list(found.index) == list("abcd")
    assert found["pvalue"].between(0, 1).all() and model.null_mahalanobis_distances.shape == (40,)


def test_fdr_by_hand():
    real, null = np.array([0.5, 3.0, 9.0]), np.array([0.4, 0.5, 1.0, 3.5])
    found = local_fdr(real, null)
    np.testing.assert_array_equal(found.p_values, [0.75, 0.25, 0.25])
    assert np.all(np.diff(found.local_fdr) <= 0) and np.all(np.diff(found.tail_fdr) <= 0)
    one = compute_fdr(real[:1], null)
    assert one.loc[0, ["pvalue", "local_fdr", "tail_fdr"]].eq(1).all() and not one["is_de"][0]
    with pytest.raises(ValueError, match="missing"):
        local_fdr(np.array([np.nan, 1.0]), null)


# Guards


def test_nothing_before_the_fit(data):
    model = DifferentialExpression()
    with pytest.raises(ValueError, match=r"Model not fitted. Call fit\(\) first."):
        model.predict(data[-1])
    with pytest.raises(ValueError, match="not fitted"):
        model.compute_mahalanobis_distances(data[-1])
    with pytest.raises(RuntimeError, match="not fitted"):
        SampleVarianceEstimator().predict(data[-1])


def changed(arguments, **changes):
    return {**arguments, **changes}


def test_faults_of_the_input_are_named_together(arguments):
    x = arguments["X_condition1"].copy()
    x[4, 1] = np.nan
    bad = changed(arguments, X_condition1=x, y_condition2=arguments["y_condition2"][:9, :3])
    with pytest.raises(ValueError) as error:
        DifferentialExpression().fit(**bad)
    for part in ("first in row 4", "has 9 cells, their states 50", "has 3 genes"):
        assert part in str(error.value)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigma": 0.0}, "sigma.*above 0"),
        ({"sigma": np.ones(4)}, "one number"),
        ({"ls": -1.0}, "length scale"),
        ({"ls": None, "ls_factor": 0.0}, "factor"),
        ({"landmarks": np.zeros((3, 2))}, "2 features"),
        ({"condition1_sample_indices": np.zeros(3)}, "for 60 cells"),
        ({"condition1_sample_indices": np.full(60, None)}, "60 cells have no sample"),
        ({"condition1_sample_indices": np.arange(60)}, "fewer than 2 samples"),
        ({"y_condition1": np.zeros(60)}, "cells by genes"),
    ],
)
def test_values_that_cannot_be_used_are_refused(arguments, changes, message):
    with pytest.raises(ValueError, match=message):
        DifferentialExpression().fit(**changed(arguments, **changes))


def test_missing_expression_is_an_error_that_names_the_gene(arguments):
    y = arguments["y_condition2"].copy()
    y[3, 2] = np.nan
    with pytest.raises(ValueError, match=r"1 of 4 genes .* \(columns 2\)"):
        DifferentialExpression().fit(**changed(arguments, y_condition2=y))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_landmarks": 1}, "2 or more"),
        ({"batch_size": -1}, "1 or more"),
        ({"eps": 0.0}, "above 0"),
        ({"cov_combine": "max"}, "'sum' or 'mean'"),
        ({"function_predictor1": 3}, "fitted DifferentialExpression"),
        ({"variance_predictor1": SampleVarianceEstimator()}, "fitted SampleVarianceEstimator"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    with pytest.raises(ValueError, match=message):
        DifferentialExpression(**settings)


def test_sample_variance_needs_samples_and_can_be_switched_off(arguments, data):
    with pytest.raises(ValueError, match="condition1_sample_indices"):
        DifferentialExpression(use_sample_variance=True).fit(**arguments)
    *_, s, _, new = data
    off = DifferentialExpression(use_sample_variance=False)
    off.fit(**arguments, condition1_sample_indices=s[0], condition2_sample_indices=s[1])
    assert off.predict(new)["condition1_std"].shape == (9, 1)


def test_a_duplicated_cell_does_not_ruin_the_length_scale(arguments):
    x = arguments["X_condition1"].copy()
    x[1] = x[0]
    model = DifferentialExpression(n_landmarks=8)
    model.fit(**changed(arguments, X_condition1=x, ls=None, landmarks=None))
    assert model.ls > 1 and len(model.landmarks) == 8


def test_a_covariance_without_a_factor_is_an_error():
    with pytest.raises(ValueError, match="not positive definite"):
        SharedCovariance.of(-np.eye(3))
    with pytest.raises(ValueError, match="length scale"):
        Inducing.of(np.eye(3), 0.0)


def test_predicting_other_features_or_nonsense_is_refused(arguments, tmp_path):
    model = DifferentialExpression().fit(**arguments)
    with pytest.raises(ValueError, match="has 2 features"):
        model.predict(np.zeros((4, 2)))
    with pytest.raises(ValueError, match="did you mean 'fold_change'"):
        model.predict(np.zeros((4, 3)), outputs=("fold_changes",))
    with pytest.raises(ValueError, match="no folder"):
        DifferentialExpression(disk_storage_dir=tmp_path / "none").fit(**arguments).predict(
            np.zeros((4, 3))
        )
    full = DifferentialExpression().fit(**changed(arguments, landmarks=None))
    with pytest.raises(ValueError, match="give points"):
        full.compute_mahalanobis_distances()
    with pytest.raises(TypeError):
        model.fit(**arguments, typo=1)


def test_arguments_stay_as_they_were(arguments, data):
    *_, s, _, new = data
    before = {key: np.copy(value) for key, value in arguments.items()}
    model = DifferentialExpression(use_empirical_variance=True)
    model.fit(**arguments, condition1_sample_indices=s[0], condition2_sample_indices=s[1])
    model.predict(new, True, use_landmarks=False)
    for key, value in arguments.items():
        np.testing.assert_array_equal(value, before[key])
    settings = {"sigma": 1.0}
    SampleVarianceEstimator().fit(
        arguments["X_condition1"], arguments["y_condition1"], s[0], estimator_kwargs=settings
    )
    assert settings == {"sigma": 1.0}


def test_variance_estimator_refuses_what_it_cannot_use(data):
    (x, _), (y, _), (s, _), *_ = data
    one = {"sigma": 1.0}
    for arguments, message in (
        ((x, y, s), "without noise"),
        ((x, None, s, 2, 10.0, one), "needs the expression"),
        ((x, y, None, 2, 10.0, one), "grouping_vector"),
        ((x, y, s, 40, 10.0, one), "At least 2 groups"),
        ((x, y, s, 2, 10.0, {"sigma": 0.0}), "above 0"),
        ((x, y, s, 2, 10.0, {"sigma": 1.0, "lss": 2.0}), "did you mean 'ls'"),
    ):
        with pytest.raises(ValueError, match=message):
            SampleVarianceEstimator().fit(*arguments)
    with pytest.raises(ValueError, match="'function' or 'density'"):
        SampleVarianceEstimator(estimator_type="other")
    made = SampleVarianceEstimator().fit(x, y, s, estimator_kwargs=one)
    with pytest.raises(ValueError, match="give fewer"):
        made.predict(np.zeros((6000, 3)), diag=False)
