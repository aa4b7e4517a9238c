"""Propensities against scikit-learn's logistic regression, and the AUC against its ranks."""

import numpy as np
import pytest
from scipy.special import logit
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from condrand.covariates import standardize
from condrand.kernels.logistic import LANES
from condrand.propensity import area_under_curve, fit_propensities, in_lanes

N_CELLS = 3000  # not a multiple of LANES
CLIP = 1e-6


@pytest.fixture(scope="module")
def design() -> np.ndarray:
    """Standardized covariates: normal, skewed, binary, and nearly a copy of the first."""
    random = np.random.default_rng(0)
    first = random.normal(size=N_CELLS)
    columns = [
        first,
        random.lognormal(sigma=1.0, size=N_CELLS),
        (random.random(N_CELLS) < 0.05).astype(float),
        first + 0.05 * random.normal(size=N_CELLS),
    ]
    return standardize(np.column_stack(columns))


def treated_of(design: np.ndarray, name: str) -> np.ndarray:
    """Treated cells of one kind of target, sorted."""
    random = np.random.default_rng(len(name))
    if name == "rare":
        return np.sort(random.choice(N_CELLS, 5, replace=False))
    if name == "all but five":
        return np.setdiff1d(np.arange(N_CELLS), random.choice(N_CELLS, 5, replace=False))
    if name == "separated":
        return np.flatnonzero(design[:, 0] > 1.0)
    if name == "all in one group":
        return np.flatnonzero(design[:, 2] > 0)[:40]
    eta = {"common": -1.0, "confounded": -3.0}[name] + design @ np.array([0.8, -0.3, 0.5, 0.2])
    return np.flatnonzero(random.random(N_CELLS) < 1 / (1 + np.exp(-eta)))


TARGETS = ["rare", "common", "confounded", "separated", "all in one group", "all but five"]


def sklearn_fit(design, cells, inverse_penalty=1.0) -> tuple[np.ndarray, np.ndarray]:
    """Coefficients, intercept first, and propensities."""
    y = np.isin(np.arange(design.shape[0]), cells)
    model = LogisticRegression(
        C=inverse_penalty, solver="newton-cholesky", tol=1e-13, max_iter=1000
    ).fit(design, y)
    return np.r_[model.intercept_, model.coef_[0]], model.predict_proba(design)[:, 1]


def gradient(design, cells, coefficients, inverse_penalty) -> np.ndarray:
    """Gradient of the penalized loss, written out: zero at its only minimum."""
    x = np.column_stack([np.ones(design.shape[0]), design])
    y = np.isin(np.arange(design.shape[0]), cells)
    penalty = np.r_[0.0, coefficients[1:]] / inverse_penalty
    return x.T @ (1 / (1 + np.exp(-x @ coefficients)) - y) + penalty


@pytest.mark.parametrize("name", TARGETS)
def test_fits_equal_scikit_learn(design, name):
    cells = treated_of(design, name)
    fit = fit_propensities(in_lanes(design), N_CELLS, [cells], clip=CLIP)
    coefficients, p = sklearn_fit(design, cells)
    assert fit.converged[0]
    # 1e-13 to 1e-11 was reached; scikit-learn's own stopping rule leaves up to about 1e-10.
    np.testing.assert_allclose(fit.coefficients[0], coefficients, rtol=1e-9, atol=1e-9)
    got = fit.predict(0, in_lanes(design), N_CELLS)
    np.testing.assert_allclose(got, np.clip(p, CLIP, 1 - CLIP), rtol=1e-9)


@pytest.mark.parametrize("name", TARGETS)
@pytest.mark.parametrize("inverse_penalty", [0.01, 1.0, 100.0])
def test_the_gradient_of_the_penalized_loss_vanishes(design, name, inverse_penalty):
    cells = treated_of(design, name)
    fit = fit_propensities(in_lanes(design), N_CELLS, [cells], inverse_penalty)
    assert fit.converged[0]
    slope = gradient(design, cells, fit.coefficients[0], inverse_penalty)
    # The sums have terms up to the number of treated cells; a lax fit leaves 1e-4 of it.
    size = min(cells.size, N_CELLS - cells.size)
    assert np.abs(slope).max() < 1e-9 * max(1, size)


@pytest.mark.parametrize("inverse_penalty", [0.01, 100.0])
def test_the_inverse_penalty_is_that_of_scikit_learn(design, inverse_penalty):
    cells = treated_of(design, "confounded")
    fit = fit_propensities(in_lanes(design), N_CELLS, [cells], inverse_penalty)
    coefficients, _ = sklearn_fit(design, cells, inverse_penalty)
    np.testing.assert_allclose(fit.coefficients[0], coefficients, rtol=1e-9, atol=1e-9)


def test_a_stronger_penalty_shrinks_the_slopes(design):
    cells = treated_of(design, "confounded")
    lengths = [
        np.linalg.norm(fit_propensities(in_lanes(design), N_CELLS, [cells], c).coefficients[0, 1:])
        for c in (1e-4, 1e-2, 1.0)
    ]
    assert lengths[0] < 0.5 * lengths[1] < 0.5 * lengths[2]


@pytest.mark.parametrize("name", TARGETS)
def test_propensities_add_up_to_the_number_of_treated_cells(design, name):
    # The intercept is not penalized, so its score equation holds exactly.
    cells = treated_of(design, name)
    fit = fit_propensities(in_lanes(design), N_CELLS, [cells], clip=1e-12)
    p = fit.predict(0, in_lanes(design), N_CELLS)
    # Clipping at 1e-12 moves the sum by less than 3000e-12.
    assert p.sum() == pytest.approx(cells.size, rel=1e-9)


def test_a_unit_is_fitted_to_the_same_bits_alone_and_in_any_company(design):
    covariates = in_lanes(design)
    cells = [treated_of(design, name) for name in TARGETS]
    alone = [fit_propensities(covariates, N_CELLS, [c]).coefficients[0] for c in cells]
    orders = [list(range(6)), list(range(5, -1, -1)), [3, 0], [0, 0, 4]]
    for order in orders:
        fit = fit_propensities(covariates, N_CELLS, [cells[g] for g in order])
        np.testing.assert_array_equal(fit.coefficients, [alone[g] for g in order])


# One lane, less than a vector of lanes, exactly one, one more.
@pytest.mark.parametrize("n_cells", [21, LANES, LANES + 1, 3 * LANES - 1])
def test_any_number_of_cells_is_fitted(n_cells, design):
    part = standardize(design[:n_cells, :2])
    covariates = in_lanes(part)
    assert covariates.shape == (2, -(-n_cells // LANES) * LANES)
    np.testing.assert_array_equal(covariates[:, n_cells:], 0.0)
    cells = np.arange(0, n_cells, 3)
    fit = fit_propensities(covariates, n_cells, [cells])
    coefficients, p = sklearn_fit(part, cells)
    np.testing.assert_allclose(fit.coefficients[0], coefficients, rtol=1e-9, atol=1e-10)
    np.testing.assert_allclose(fit.predict(0, covariates, n_cells), p, rtol=1e-9)


def test_without_covariates_every_cell_has_the_treated_share():
    covariates = in_lanes(np.empty((50, 0)))
    fit = fit_propensities(covariates, 50, [np.arange(10)])
    assert fit.converged[0]
    np.testing.assert_allclose(fit.predict(0, covariates, 50), 0.2, rtol=1e-14)


def test_a_constant_covariate_gets_no_weight(design):
    with_constant = np.column_stack([design, np.zeros(N_CELLS)])
    cells = treated_of(design, "common")
    fit = fit_propensities(in_lanes(with_constant), N_CELLS, [cells])
    assert fit.converged[0] and fit.coefficients[0, -1] == 0.0


def test_propensities_are_clipped_on_both_sides(design):
    cells = np.flatnonzero(design[:, 0] > 0)
    fit = fit_propensities(in_lanes(design), N_CELLS, [cells], inverse_penalty=1e6, clip=0.01)
    p = fit.predict(0, in_lanes(design), N_CELLS)
    np.testing.assert_array_equal([p.min(), p.max()], [0.01, 0.99])


# The area under the curve


@pytest.mark.parametrize("name", TARGETS)
def test_the_area_under_the_curve_is_that_of_scikit_learn_to_1e3(design, name):
    cells = treated_of(design, name)
    p = fit_propensities(in_lanes(design), N_CELLS, [cells]).predict(0, in_lanes(design), N_CELLS)
    expected = roc_auc_score(np.isin(np.arange(N_CELLS), cells), p)
    # The docstring's bound; 1e-4 was reached.
    assert area_under_curve(p, cells) == pytest.approx(expected, abs=1e-3)


def test_the_area_under_the_curve_counts_ties_half():
    p = np.array([0.1, 0.1, 0.4, 0.4, 0.4, 0.9])
    # Pairs of treated and other: (0.1, 0.4, 0.9) against (0.1, 0.4, 0.4).
    expected = (0.5 + 1 + 0.5 + 0.5 + 3) / 9
    assert area_under_curve(p, np.array([0, 2, 5])) == pytest.approx(expected, rel=1e-12)


def test_the_area_under_the_curve_is_a_half_for_equal_propensities():
    assert area_under_curve(np.full(10, 0.3), np.array([1, 2])) == 0.5


def test_one_remote_cell_does_not_spoil_the_area_under_the_curve():
    random = np.random.default_rng(0)
    eta = np.append(-3 + 0.05 * random.normal(size=2000), logit(1 - CLIP))
    p = 1 / (1 + np.exp(-eta))
    cells = np.sort(np.argsort(eta)[[900, 950, 1000, 1050, 1100]])
    expected = roc_auc_score(np.isin(np.arange(2001), cells), p)
    assert area_under_curve(p, cells) == pytest.approx(expected, abs=1e-3)
