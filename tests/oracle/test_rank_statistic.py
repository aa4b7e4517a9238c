"""The rank-biserial correlation against scipy, dense against sparse, and by its definition."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu, rankdata

from condrand.plan import BLOCK
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.strata import STRATIFY, make_strata
from condrand.samplers.stratified import StratifiedSampler
from condrand.statistics import rank
from condrand.statistics.rank import average_ranks
from condrand.statistics.scores import DenseScores, SparseScores

N_CELLS = 301
FORMS = ["dense", "sparse"]
BASIS = np.ones((N_CELLS, 1)) / np.sqrt(N_CELLS)


def outcome_of(n_cells: int = N_CELLS) -> np.ndarray:
    """Columns: no ties; counts, half of them zero; with negative values; no zero at all, with
    ties; zero in all cells but one; and two values only."""
    random = np.random.default_rng(5)
    counts = random.poisson(0.7, n_cells)
    alone = np.zeros(n_cells)
    alone[17] = 3.0
    columns = [
        random.normal(size=n_cells),
        counts,
        random.integers(-2, 3, n_cells),
        random.integers(1, 5, n_cells),
        alone,
        random.random(n_cells) < 0.2,
    ]
    return np.column_stack(columns).astype(np.float64)


def scores_of(form: str, outcome: np.ndarray):
    scores = rank.score(outcome if form == "dense" else sp.csr_matrix(outcome), BASIS)
    assert isinstance(scores, DenseScores if form == "dense" else SparseScores)
    return scores


def by_scipy(outcome: np.ndarray, x: np.ndarray) -> list[float]:
    """``2 U / (n (N - n)) - 1`` of every feature, from scipy's U; 0 for none or all."""
    if not 0 < x.sum() < x.size:
        return [0.0] * outcome.shape[1]
    u = [mannwhitneyu(y[x], y[~x], method="asymptotic").statistic for y in outcome.T]
    return [2 * value / (x.sum() * (~x).sum()) - 1 for value in u]


@pytest.fixture(scope="module")
def p():
    """Propensities that follow the first two features."""
    outcome = outcome_of()
    return 0.2 / (1 + np.exp(-outcome[:, 0] - 0.3 * outcome[:, 1]))


@pytest.fixture(params=["bernoulli", "stratified"])
def sampler(request, p):
    if request.param == "bernoulli":
        return BernoulliSampler.of(0, "target", "A", p)
    treated = np.flatnonzero(np.random.default_rng(1).random(N_CELLS) < p)
    batch = np.arange(N_CELLS) % 3
    strata = make_strata(treated, p, batch, None, {**STRATIFY, "n_bins": 4})
    return StratifiedSampler.of(0, "target", "A", p, strata)


# Ranks


@pytest.mark.parametrize(
    "values",
    [
        [3.0, 1.0, 2.0],
        [2.0, 2.0, 1.0, 2.0, 5.0, 1.0],
        [-1.5, 0.0, -1.5, -7.0, 0.0, 2.0],
        [4.0] * 7,
        [-0.0, 0.0, 1e-300, -1e-300],
        [1.0],
        [],
    ],
)
def test_average_ranks_are_those_of_scipy(values):
    np.testing.assert_array_equal(average_ranks(np.array(values)), rankdata(values))


def test_average_ranks_of_many_ties_are_those_of_scipy():
    values = np.random.default_rng(0).integers(-3, 4, 10_000).astype(float)
    np.testing.assert_array_equal(average_ranks(values), rankdata(values))


# Values


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("size", [1, 2, 40, 150, 299, 300])
def test_the_observed_value_is_scipys(form, size):
    outcome = outcome_of()
    scores = scores_of(form, outcome)
    cells = np.sort(np.random.default_rng(size).choice(N_CELLS, size, replace=False))
    got = rank.values(scores, scores.observed(cells))[0]
    # Rank sums are exact; scipy's path subtracts 1 from a rounded ratio of at most 2.
    expected = by_scipy(outcome, np.isin(np.arange(N_CELLS), cells))
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-15)
    assert rank.untestable(scores, scores.observed(cells)) == ""


@pytest.mark.parametrize("form", FORMS)
def test_resampled_values_are_scipys_of_the_cells_drawn(form, sampler):
    outcome = outcome_of()
    scores = scores_of(form, outcome)
    got = rank.values(scores, sampler.set_sums(scores, 2, 40))
    expected = [by_scipy(outcome, x) for x in sampler.treated(2, 40)]
    np.testing.assert_allclose(got, expected, rtol=0, atol=1e-15)
    assert len(np.unique(got[:, 0])) > 30


def test_dense_and_sparse_have_the_same_bits(sampler):
    outcome = outcome_of()
    dense, sparse = (scores_of(form, outcome) for form in FORMS)
    got = [rank.values(scores, sampler.set_sums(scores, 0, BLOCK)) for scores in (dense, sparse)]
    np.testing.assert_array_equal(*got)
    cells = np.arange(0, N_CELLS, 4)
    observed = [rank.values(scores, scores.observed(cells)) for scores in (dense, sparse)]
    np.testing.assert_array_equal(*observed)


def test_explicit_zeros_are_zeros():
    outcome = outcome_of()
    rows, columns = np.indices(outcome.shape)
    explicit = sp.csr_matrix(
        (outcome.ravel(), (rows.ravel(), columns.ravel())), shape=outcome.shape
    )
    before = explicit.copy()
    assert explicit.nnz == outcome.size > np.count_nonzero(outcome)
    scores, plain = rank.score(explicit, BASIS), scores_of("sparse", outcome)
    assert scores.data.size == plain.data.size
    cells = np.arange(0, N_CELLS, 4)
    np.testing.assert_array_equal(
        rank.values(scores, scores.observed(cells)), rank.values(plain, plain.observed(cells))
    )
    # The outcome itself is left alone.
    np.testing.assert_array_equal(explicit.data, before.data)


@pytest.mark.parametrize("form", FORMS)
def test_complementary_sets_have_opposite_values(form):
    scores = scores_of(form, outcome_of())
    cells = np.arange(0, N_CELLS, 3)
    others = np.setdiff1d(np.arange(N_CELLS), cells)
    one, other = (rank.values(scores, scores.observed(which)) for which in (cells, others))
    np.testing.assert_array_equal(one, -other)


@pytest.mark.parametrize("form", FORMS)
def test_a_monotone_change_of_the_outcome_changes_no_bit(form):
    outcome = outcome_of()
    cells = np.arange(0, N_CELLS, 3)
    got = []
    # Odd, so that zeros stay zeros.
    for values in (outcome, np.sign(outcome) * np.expm1(np.abs(outcome))):
        scores = scores_of(form, values)
        got.append(rank.values(scores, scores.observed(cells)))
    np.testing.assert_array_equal(*got)


@pytest.mark.parametrize("form", FORMS)
def test_sets_of_no_or_all_cells_have_the_value_zero(form):
    scores = scores_of(form, outcome_of())
    for cells in (np.arange(0), np.arange(N_CELLS)):
        np.testing.assert_array_equal(rank.values(scores, scores.observed(cells)), 0.0)
    rare = BernoulliSampler.of(0, "target", "A", np.full(N_CELLS, 0.002))
    sums = rare.set_sums(scores, 0, 60)
    empty = sums.counts == 0
    assert empty.any() and not empty.all()
    got = rank.values(scores, sums)
    np.testing.assert_array_equal(got[empty], 0.0)
    assert (got[~empty, 0] != 0).all()


# Units


@pytest.mark.parametrize("form", FORMS)
def test_moments_of_the_rank_sum_are_those_of_the_definition(form, p):
    outcome = outcome_of()
    moments = scores_of(form, outcome).moments(p)
    centred = rankdata(outcome, axis=0) - (N_CELLS + 1) / 2
    # Sums of 301 terms; the sparse ones are differences of sums a few times their size.
    np.testing.assert_allclose(moments.mean, p @ centred, rtol=1e-11)
    np.testing.assert_allclose(moments.variance, (p * (1 - p)) @ centred**2, rtol=1e-11)


@pytest.mark.parametrize("form", FORMS)
def test_the_null_units_standardize_the_resampled_values(form, p):
    scores = scores_of(form, outcome_of())
    centre, scale = rank.null_units(scores, scores.moments(p))
    sampler = BernoulliSampler.of(0, "target", "A", p)
    blocks = [rank.values(scores, sampler.set_sums(scores, b, BLOCK)) for b in range(4)]
    z = (np.concatenate(blocks) - centre) / scale
    # 4,096 resamples: 1/64 and 1/90. The random number of treated cells (about 35 of 301) moves
    # the mean and widens the null by some percent; a lost factor would move them far more.
    assert np.abs(z.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.15)


@pytest.mark.parametrize("form", FORMS)
def test_a_constant_feature_has_scale_zero(form, p):
    outcome = np.column_stack([np.full(N_CELLS, 0.1), np.zeros(N_CELLS), outcome_of()[:, 0]])
    scores = scores_of(form, outcome)
    centre, scale = rank.null_units(scores, scores.moments(p))
    np.testing.assert_array_equal(scale > 0, [False, False, True])
    values = rank.values(scores, scores.observed(np.arange(0, N_CELLS, 5)))
    np.testing.assert_array_equal(values[0, :2], 0.0)
    assert np.isfinite(centre).all()


def test_the_effect_bears_the_scale_of_what_is_ranked():
    assert rank.effect_scale("as stored") == "rank-biserial correlation of as stored"
