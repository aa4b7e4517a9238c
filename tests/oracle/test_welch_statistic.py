"""Welch's t against scipy, dense and sparse, and by its definition under resampling."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import ttest_ind

from condrand.plan import BLOCK
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.strata import STRATIFY, make_strata
from condrand.samplers.stratified import StratifiedSampler
from condrand.statistics import welch
from condrand.statistics.scores import DenseScores, SparseScores

N_CELLS = 300
FORMS = ["dense", "sparse"]
BASIS = np.ones((N_CELLS, 1)) / np.sqrt(N_CELLS)


def outcome_of() -> np.ndarray:
    """Columns: normal; counts, half of them zero; skew and positive, with a few negative."""
    random = np.random.default_rng(5)
    skew = random.exponential(size=N_CELLS) - 0.1
    columns = [random.normal(size=N_CELLS), random.poisson(0.7, N_CELLS), skew]
    return np.column_stack(columns).astype(np.float64)


def scores_of(form: str, outcome: np.ndarray):
    scores = welch.score(outcome if form == "dense" else sp.csr_matrix(outcome), BASIS)
    assert isinstance(scores, DenseScores if form == "dense" else SparseScores)
    return scores


def by_scipy(outcome: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Scipy's t of every feature; 0 where a group has fewer than two cells."""
    if min(x.sum(), (~x).sum()) < 2:
        return np.zeros(outcome.shape[1])
    return ttest_ind(outcome[x], outcome[~x], equal_var=False).statistic


def random_cells(size: int) -> np.ndarray:
    return np.sort(np.random.default_rng(size).choice(N_CELLS, size, replace=False))


@pytest.fixture(scope="module")
def p():
    """Propensities that follow the first two features."""
    outcome = outcome_of()
    return 0.25 / (1 + np.exp(-outcome[:, 0] - 0.3 * outcome[:, 1]))


@pytest.fixture(params=["bernoulli", "stratified"])
def sampler(request, p):
    if request.param == "bernoulli":
        return BernoulliSampler.of(0, "target", "A", p)
    treated = np.flatnonzero(np.random.default_rng(1).random(N_CELLS) < p)
    batch = np.arange(N_CELLS) % 3
    strata = make_strata(treated, p, batch, None, {**STRATIFY, "n_bins": 4})
    return StratifiedSampler.of(0, "target", "A", p, strata)


# Values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [5, 40, 150, 290])
def test_the_observed_value_is_scipys(form, size):
    outcome = outcome_of()
    scores, cells = scores_of(form, outcome), random_cells(size)
    got = welch.values(scores, scores.observed(cells))[0]
    expected = by_scipy(outcome, np.isin(np.arange(N_CELLS), cells))
    # Differences of sums a few times their size: about 1e-14 was reached.
    np.testing.assert_allclose(got, expected, rtol=1e-10)


@pytest.mark.parametrize("form", FORMS)
def test_resampled_values_are_scipys_of_the_cells_drawn(form, sampler):
    outcome = outcome_of()
    scores = scores_of(form, outcome)
    got = welch.values(scores, sampler.set_sums(scores, 2, 60))
    expected = [by_scipy(outcome, x) for x in sampler.treated(2, 60)]
    # A t may cancel to nearly 0, hence the absolute part.
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-12)
    assert len(np.unique(got[:, 0])) == 60


@pytest.mark.parametrize("form", FORMS)
def test_effects_are_differences_of_means(form, sampler):
    outcome = outcome_of()
    scores = scores_of(form, outcome)
    got = welch.effects(scores, sampler.set_sums(scores, 0, 30))
    drawn = sampler.treated(0, 30)
    expected = [outcome[x].mean(axis=0) - outcome[~x].mean(axis=0) for x in drawn]
    np.testing.assert_allclose(got, expected, rtol=1e-11, atol=1e-13)
    assert welch.effect_scale("as stored") == "as stored"


def test_a_large_offset_costs_no_accuracy_where_the_scores_are_centred():
    # Of 1e6 + y, float64 keeps y to 1e-10; the comparison is with what it keeps.
    outcome = 1e6 + outcome_of()[:, :1]
    scores, cells = scores_of("dense", outcome), random_cells(40)
    got = welch.values(scores, scores.observed(cells))[0]
    kept = outcome - 1e6
    np.testing.assert_allclose(got, by_scipy(kept, np.isin(np.arange(N_CELLS), cells)), rtol=1e-8)


# What has no t


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [0, 1, 2, 298, 299, 300])
def test_fewer_than_two_cells_on_a_side_give_zero_and_a_reason(form, size):
    outcome = outcome_of()
    scores, cells = scores_of(form, outcome), random_cells(size)
    sums = scores.observed(cells)
    with np.errstate(all="raise", under="ignore", divide="ignore", invalid="ignore"):
        values, effects = welch.values(scores, sums)[0], welch.effects(scores, sums)[0]
    if size in (2, 298):
        assert welch.untestable(scores, sums) == "" and (values[[0, 2]] != 0).all()
    else:
        assert welch.untestable(scores, sums) == "fewer than two cells in a group"
        np.testing.assert_array_equal(values, 0.0)
    x = np.isin(np.arange(N_CELLS), cells)
    if size in (0, 300):
        np.testing.assert_array_equal(effects, 0.0)
    else:
        expected = outcome[x].mean(axis=0) - outcome[~x].mean(axis=0)
        np.testing.assert_allclose(effects, expected, rtol=1e-11)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("value", [1.0, 0.1, 1 / 3])
def test_a_feature_that_varies_in_neither_group_has_the_value_zero(form, value):
    cells = random_cells(40)
    x = np.isin(np.arange(N_CELLS), cells)
    scores = scores_of(form, value * x[:, None])
    np.testing.assert_array_equal(welch.values(scores, scores.observed(cells)), 0.0)
    # One cell more, and one group varies.
    more = np.sort(np.append(cells, np.flatnonzero(~x)[0]))
    assert welch.values(scores, scores.observed(more))[0, 0] > 10


CONSTANTS = [0.0, 1.0, 0.1, 1 / 3, 0.7, 1e-3, 123.456, np.pi]


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_feature_has_scale_and_value_zero(form, p):
    # Whether N c**2 less the sum of c**2 is rounded up, down or to zero depends on c.
    outcome = np.column_stack([np.full(N_CELLS, c) for c in CONSTANTS] + [outcome_of()[:, 0]])
    scores = scores_of(form, outcome)
    with np.errstate(all="raise", under="ignore"):
        centre, scale = welch.null_units(scores, scores.moments(p))
    np.testing.assert_array_equal(scale > 0, [False] * len(CONSTANTS) + [True])
    assert np.isfinite(centre).all()
    sampler = BernoulliSampler.of(0, "target", "A", p)
    values = welch.values(scores, sampler.set_sums(scores, 0, 50))
    np.testing.assert_array_equal(values[:, :-1], 0.0)
    assert (values[:, -1] != 0).all()


def test_a_small_but_real_variation_is_tested_whatever_the_storage(p):
    # One part in 10**10 of the feature's own squares: sparse draws the line at 10**-12.
    noise = np.random.default_rng(2).normal(size=N_CELLS)
    outcome = np.column_stack([1.0 + 1e-5 * noise, noise])
    for form in FORMS:
        scores = scores_of(form, outcome)
        centre, scale = welch.null_units(scores, scores.moments(p))
        # t has no unit; half the digits of the squares are left.
        np.testing.assert_allclose(centre[0], centre[1], rtol=1e-4)
        np.testing.assert_allclose(scale[0], scale[1], rtol=1e-4)
        cells = random_cells(40)
        values = welch.values(scores, scores.observed(cells))[0]
        np.testing.assert_allclose(values[0], values[1], rtol=1e-4)


# Units


@pytest.mark.parametrize("form", FORMS)
def test_the_null_units_standardize_the_resampled_values(form, p):
    scores, p = scores_of(form, outcome_of()), 0.1 + 0.2 * p
    centre, scale = welch.null_units(scores, scores.moments(p))
    sampler = BernoulliSampler.of(0, "target", "A", p)
    blocks = [welch.values(scores, sampler.set_sums(scores, b, BLOCK)) for b in range(4)]
    z = (np.concatenate(blocks) - centre) / scale
    # 4,096 resamples: 1/64 and 1/90. The variance of about 40 treated cells is itself random,
    # and taken as that of all cells: some percent. A lost factor would move both far more.
    assert np.abs(z.mean(axis=0)).max() < 0.2
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.15)
