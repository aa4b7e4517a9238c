"""The OLS statistic, its known moments and a whole test against brute force.

Brute force draws the same treated sets densely (``BernoulliSampler.treated``) and solves least
squares of the outcome on intercept, covariates and indicator anew for each of them.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.io.outcome import Outcome
from condrand.nulls.calibrate import calibrate
from condrand.nulls.summary import NullSummary
from condrand.plan import BLOCK, n_blocks, resamples_of_block
from condrand.propensity import in_lanes
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.statistics import ols
from condrand.statistics.scores import DenseScores, SparseScores

KINDS = ["dense", "sparse"]


def covariates_of(n_cells: int, n_columns: int = 3, seed: int = 0) -> np.ndarray:
    """Standardized covariates, one of them binary."""
    random = np.random.default_rng(seed)
    columns = random.normal(size=(n_cells, n_columns))
    columns[:, -1] = columns[:, -1] > 0.3
    return standardize(columns)


def outcome_of(design: np.ndarray, n_features: int = 5, seed: int = 1) -> np.ndarray:
    """Features that follow the covariates, about half of their entries zero."""
    random = np.random.default_rng(seed)
    weights = random.normal(size=(design.shape[1], n_features))
    values = design @ weights + 2 * random.normal(size=(design.shape[0], n_features))
    return np.maximum(values, 0.0)


def scores_of(kind: str, outcome: np.ndarray, design: np.ndarray):
    """Scores of the same matrix, dense or sparse."""
    matrix = outcome if kind == "dense" else sp.csr_matrix(outcome)
    scores = ols.score(matrix, orthonormal_basis(design))
    assert isinstance(scores, DenseScores if kind == "dense" else SparseScores)
    return scores


def lstsq_coefficients(outcome: np.ndarray, design: np.ndarray, x: np.ndarray) -> np.ndarray:
    """Coefficient of x in outcome ~ 1 + design + x; 0 where x is empty."""
    regressors = np.column_stack([np.ones(x.size), design, x.astype(float)])
    return np.linalg.lstsq(regressors, outcome, rcond=None)[0][-1]


def certain(cells: np.ndarray, n_cells: int) -> np.ndarray:
    """Propensities under which every resample treats exactly the given cells."""
    # Any other outcome has a probability of about 1e-9.
    p = np.full(n_cells, 1e-12)
    p[cells] = np.nextafter(1.0, 0.0)
    return p


@pytest.fixture(scope="module")
def screen():
    """(design, outcome, propensities) of 300 cells, more than two chunks."""
    design = covariates_of(300)
    p = 0.2 / (1 + np.exp(-design[:, 0]))
    return design, outcome_of(design), p


# Coefficients


@pytest.mark.parametrize("kind", KINDS)
def test_set_sums_are_the_sums_over_the_cells_each_resample_treats(kind, screen):
    design, outcome, p = screen
    scores = scores_of(kind, outcome, design)
    sampler = BernoulliSampler.of(0, "target", "A", p)
    sums, treated = sampler.set_sums(scores, 3, 70), sampler.treated(3, 70)
    np.testing.assert_array_equal(sums.counts, treated.sum(axis=1))
    rows = scores.rows if kind == "dense" else outcome
    # Sums of about 30 numbers of size 1: rounding stays below 1e-14.
    np.testing.assert_allclose(sums.rows, treated @ rows, rtol=1e-13, atol=1e-13)
    if kind == "sparse":
        np.testing.assert_allclose(sums.basis, treated @ scores.basis, rtol=1e-13, atol=1e-13)


@pytest.mark.parametrize("kind", KINDS)
def test_resampled_coefficients_are_those_of_least_squares(kind, screen):
    design, outcome, p = screen
    scores = scores_of(kind, outcome, design)
    sampler = BernoulliSampler.of(0, "target", "A", p)
    got = ols.coefficients(scores, sampler.set_sums(scores, 1, 200))
    expected = [lstsq_coefficients(outcome, design, x) for x in sampler.treated(1, 200)]
    # 1e-10 of the size of a coefficient; about 1e-13 was reached. A coefficient may cancel to
    # nearly 0, hence the absolute part.
    np.testing.assert_allclose(got, expected, rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("kind", KINDS)
def test_the_observed_coefficient_is_that_of_least_squares(kind, screen):
    design, outcome, _ = screen
    scores = scores_of(kind, outcome, design)
    for seed, size in enumerate((1, 2, 30, 290)):
        cells = np.sort(np.random.default_rng(seed).choice(300, size, replace=False))
        got = ols.coefficients(scores, scores.observed(cells))[0]
        x = np.isin(np.arange(300), cells)
        np.testing.assert_allclose(got, lstsq_coefficients(outcome, design, x), rtol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_an_observed_and_a_resampled_set_of_the_same_cells_have_the_same_bits(kind, screen):
    design, outcome, _ = screen
    scores = scores_of(kind, outcome, design)
    cells = np.sort(np.random.default_rng(8).choice(300, 120, replace=False))
    sampler = BernoulliSampler.of(0, "target", "A", certain(cells, 300))
    assert (sampler.treated(0, 9).sum(axis=1) == 120).all()
    resampled, observed = sampler.set_sums(scores, 0, 9), scores.observed(cells)
    for b in range(9):
        np.testing.assert_array_equal(resampled.rows[b], observed.rows[0])
        if kind == "sparse":
            np.testing.assert_array_equal(resampled.basis[b], observed.basis[0])
    got, expected = ols.coefficients(scores, resampled), ols.coefficients(scores, observed)
    np.testing.assert_array_equal(got, np.repeat(expected, 9, axis=0))


@pytest.mark.parametrize("kind", KINDS)
def test_the_sums_of_a_resample_do_not_depend_on_how_many_are_drawn(kind, screen):
    design, outcome, p = screen
    scores = scores_of(kind, outcome, design)
    sampler = BernoulliSampler.of(0, "target", "A", p)
    few, many = sampler.set_sums(scores, 2, 17), sampler.set_sums(scores, 2, BLOCK)
    np.testing.assert_array_equal(few.rows, many.rows[:17])
    np.testing.assert_array_equal(few.counts, many.counts[:17])


@pytest.mark.parametrize("kind", KINDS)
def test_a_resample_without_treated_cell_has_coefficient_zero(kind, screen):
    design, outcome, _ = screen
    scores = scores_of(kind, outcome, design)
    sampler = BernoulliSampler.of(0, "target", "A", np.full(300, 0.002))
    sums = sampler.set_sums(scores, 0, 50)
    got = ols.coefficients(scores, sums)
    empty = sums.counts == 0
    assert empty.any() and not empty.all()
    np.testing.assert_array_equal(got[empty], 0.0)
    assert (got[~empty] != 0).all()


@pytest.mark.parametrize("kind", KINDS)
def test_a_resample_of_every_cell_has_coefficient_zero(kind, screen):
    design, outcome, _ = screen
    scores = scores_of(kind, outcome, design)
    sums = scores.observed(np.arange(300))
    assert ols.untestable(scores, sums) == "covariates determine the treatment"
    np.testing.assert_array_equal(ols.coefficients(scores, sums), 0.0)


# Moments


def brute_moments(outcome, design, p):
    """Mean and variance of the sum of residuals, and the expected denominator, written out."""
    basis = orthonormal_basis(design)
    projector = np.eye(p.size) - basis @ basis.T
    residual = projector @ outcome
    spread = p * (1 - p)
    # E[x'Mx] = sum_ij M_ij E[x_i x_j], and x_i x_i = x_i.
    expected = np.outer(p, p) + np.diag(spread)
    return p @ residual, spread @ residual**2, np.sum(projector * expected)


@pytest.mark.parametrize("kind", KINDS)
def test_moments_are_those_of_the_definition(kind, screen):
    design, outcome, p = screen
    moments = scores_of(kind, outcome, design).moments(p)
    mean, variance, denominator = brute_moments(outcome, design, p)
    # Sums of 300 terms; the sparse variance is a difference of sums a few times its size.
    np.testing.assert_allclose(moments.mean, mean, rtol=1e-11, atol=1e-12)
    np.testing.assert_allclose(moments.variance, variance, rtol=1e-12)
    assert moments.denominator == pytest.approx(denominator, rel=1e-12)
    assert moments.count == pytest.approx(p.sum(), rel=1e-14)


@pytest.mark.parametrize("kind", KINDS)
def test_the_null_units_standardize_the_resampled_coefficients(kind, screen):
    design, outcome, p = screen
    scores = scores_of(kind, outcome, design)
    centre, scale = ols.null_units(scores, scores.moments(p))
    sampler = BernoulliSampler.of(0, "target", "A", p)
    blocks = [ols.coefficients(scores, sampler.set_sums(scores, b, BLOCK)) for b in range(4)]
    z = (np.concatenate(blocks) - centre) / scale
    # Only units: the random denominator (30 treated of 300) moves the mean and widens the null
    # by some percent. The bound tells a wrong formula (2n, a lost 1 - p) from that.
    assert np.abs(z.mean(axis=0)).max() < 0.15
    np.testing.assert_allclose(z.std(axis=0), 1.0, atol=0.15)


# What cannot be tested


def screen_with_dull_features(n_cells: int = 300):
    """Features: real, constant, zero, a combination of the covariates, real."""
    design = covariates_of(n_cells)
    real = outcome_of(design, 2)
    combination = 3.0 + design @ np.array([1.0, -2.0, 0.5])
    columns = [real[:, 0], np.full(n_cells, 2.5), np.zeros(n_cells), combination, real[:, 1]]
    return design, np.column_stack(columns)


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_the_covariates_explain_has_scale_zero(kind):
    design, outcome = screen_with_dull_features()
    p = 0.2 / (1 + np.exp(-design[:, 0]))
    scores = scores_of(kind, outcome, design)
    _, scale = ols.null_units(scores, scores.moments(p))
    np.testing.assert_array_equal(scale > 0, [True, False, False, False, True])


@pytest.mark.parametrize("kind", KINDS)
def test_a_feature_the_covariates_explain_gets_no_p_value_but_a_note(kind):
    design, outcome = screen_with_dull_features()
    shared = Outcome(scores_of(kind, outcome, design), design, list("abcde"), "", "")
    cells = np.sort(np.random.default_rng(3).choice(300, 40, replace=False))
    batch = crt.prepare(shared, ["target"], ["A"], [cells])
    summaries = crt.resample(shared, batch, range(1), resamples=99, seed=0)
    settings = {"tail": "two_sided", "calibration": "empirical"}
    table = crt.batch_table(shared, batch, summaries, ("s", "a"), settings)
    assert table["p_value"].isna().tolist() == [False, True, True, True, False]
    assert (table["note"] != "").tolist() == [False, True, True, True, False]
    np.testing.assert_array_equal(table["effect"][[2]], 0.0)


@pytest.mark.parametrize("kind", KINDS)
def test_a_small_but_real_variation_is_tested_whatever_the_storage(kind):
    # One part in 10**10 of the feature's own size: sparse draws the line at 10**-12, dense at
    # 10**-20, where each arithmetic loses sight of it.
    design = covariates_of(300)
    noise = np.random.default_rng(2).normal(size=300)
    outcome = np.column_stack([1.0 + 1e-5 * noise, noise])
    scores = scores_of(kind, outcome, design)
    _, scale = ols.null_units(scores, scores.moments(np.full(300, 0.1)))
    assert scale[0] == pytest.approx(1e-5 * scale[1], rel=1e-5)


@pytest.mark.parametrize("kind", KINDS)
def test_a_treatment_the_covariates_determine_is_noted_and_left_out(kind):
    n_cells = 300
    cells = np.arange(0, n_cells, 6)
    indicator = np.isin(np.arange(n_cells), cells)
    design = standardize(np.column_stack([covariates_of(n_cells), indicator]))
    outcome = outcome_of(design, 2)
    shared = Outcome(scores_of(kind, outcome, design), design, ["a", "b"], "", "")
    others = np.arange(1, n_cells, 7)
    batch = crt.prepare(shared, ["target"] * 2, ["A", "B"], [cells, others])
    assert batch.notes == ["covariates determine the treatment", ""]
    assert np.isnan(batch.observed[0]).all() and np.isfinite(batch.observed[1]).all()
    summaries = crt.resample(shared, batch, range(1), resamples=50, seed=0)
    assert [int(summary.n[0]) for summary in summaries] == [0, 50]


def test_a_unit_without_or_with_every_cell_is_noted_and_left_out():
    design = covariates_of(100)
    shared = Outcome(scores_of("dense", outcome_of(design, 2), design), design, ["a", "b"], "", "")
    treated = [np.array([], np.int64), np.arange(100), np.arange(0, 100, 5)]
    batch = crt.prepare(shared, ["target"] * 3, ["A", "B", "C"], treated)
    assert batch.notes == ["no treated cell", "every cell is treated", ""]
    assert batch.diagnostics["n_target"].tolist() == [0, 100, 20]


# The whole test

RESAMPLES = BLOCK + 300  # the last block is a partial one
# One treated cell is drawn again in about one resample of a hundred: ties with the observed set.
UNITS = {"one cell": 1, "few cells": 4, "a third": 14}


@pytest.fixture(scope="module", params=KINDS)
def tested(request):
    """Batch, merged summaries and brute-force null of a small screen."""
    n_cells = 40
    design = covariates_of(n_cells, 2)
    outcome = outcome_of(design, 3)
    shared = Outcome(scores_of(request.param, outcome, design), design, list("abc"), "", "")
    treated = [
        np.sort(np.random.default_rng(i).choice(n_cells, size, replace=False))
        for i, size in enumerate(UNITS.values())
    ]
    batch = crt.prepare(shared, ["target"] * len(UNITS), list(UNITS), treated)
    blocks = range(n_blocks(RESAMPLES))
    summaries = crt.resample(shared, batch, blocks, resamples=RESAMPLES, seed=6)
    brute = []
    for g, name in enumerate(UNITS):
        p = batch.model.predict(g, in_lanes(design), n_cells)
        sampler = BernoulliSampler.of(6, "target", name, p)
        sets = np.concatenate(
            [sampler.treated(b, resamples_of_block(RESAMPLES, b)) for b in blocks]
        )
        x = np.isin(np.arange(n_cells), treated[g])
        null = np.array([lstsq_coefficients(outcome, design, one) for one in sets])
        brute.append((lstsq_coefficients(outcome, design, x), null, (sets == x).all(axis=1)))
    return batch, summaries, brute


def count_exceedances(observed, null, tail) -> np.ndarray:
    """Resamples as extreme as observed. Equal sets tie: least squares repeats to about 1e-13."""
    slack = 1e-9
    if tail == "right":
        return np.sum(null >= observed - slack, axis=0)
    if tail == "left":
        return np.sum(null <= observed + slack, axis=0)
    return np.sum(np.abs(null) >= np.abs(observed) - slack, axis=0)


@pytest.mark.parametrize("tail", ["two_sided", "left", "right"])
def test_p_values_of_a_whole_test_equal_brute_force(tested, tail):
    batch, summaries, brute = tested
    assert batch.notes == [""] * len(UNITS)
    for g, (observed, null, _) in enumerate(brute):
        assert null.shape[0] == RESAMPLES == summaries[g].n[0]
        got = calibrate(
            summaries[g], batch.observed[g], batch.centre[g], batch.scale[g], tail, "empirical"
        )
        expected = (1 + count_exceedances(observed, null, tail)) / (RESAMPLES + 1)
        # The same integers over the same integers: bits are meant.
        np.testing.assert_array_equal(got["p_value"], expected)
        assert set(got["p_source"]) == {"empirical"}


def test_resamples_equal_to_the_observed_set_are_counted_as_ties(tested):
    batch, summaries, brute = tested
    observed, null, equal = brute[0]
    assert equal.sum() > 3
    # >= and <= both count a tie: without it they would add up to the resamples exactly.
    both = summaries[0].exceed[0] + summaries[0].exceed[1] - RESAMPLES
    np.testing.assert_array_equal(both, np.sum(np.abs(null - observed) <= 1e-9, axis=0))
    assert (both >= equal.sum()).all()


def test_the_moments_of_the_null_equal_brute_force(tested):
    batch, summaries, brute = tested
    for g, (observed, null, _) in enumerate(brute):
        got = calibrate(
            summaries[g], batch.observed[g], batch.centre[g], batch.scale[g], "left", "empirical"
        )
        # Fixed point: 2**-36 per block for the mean, 2**-30 for the square.
        np.testing.assert_allclose(got["null_mean"], null.mean(axis=0), atol=1e-9)
        np.testing.assert_allclose(got["null_sd"], null.std(axis=0), rtol=1e-8)
        z = (observed - null.mean(axis=0)) / null.std(axis=0)
        np.testing.assert_allclose(got["statistic"], z, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("kind", KINDS)
def test_shards_threads_and_company_change_no_bit(kind):
    design = covariates_of(90, 2)
    shared = Outcome(scores_of(kind, outcome_of(design, 3), design), design, list("abc"), "", "")
    random = np.random.default_rng(4)
    names = ["A", "B", "C"]
    treated = [np.sort(random.choice(90, size, replace=False)) for size in (9, 20, 3)]
    resamples = 2 * BLOCK + 100

    def run(order: list[int], cuts: list[int], threads: int) -> dict[str, NullSummary]:
        batch = crt.prepare(
            shared,
            ["target"] * len(order),
            [names[g] for g in order],
            [treated[g] for g in order],
        )
        total = [NullSummary.empty(3) for _ in order]
        for first, end in zip(cuts, cuts[1:], strict=False):
            parts = crt.resample(shared, batch, range(first, end), resamples, 6, threads)
            for whole, part in zip(total, parts, strict=True):
                whole += part
        return dict(zip(batch.names, total, strict=True))

    plain = run([0, 1, 2], [0, 3], 1)
    for other in (run([0, 1, 2], [0, 1, 2, 3], 1), run([2, 1, 0], [0, 3], 4), run([1], [0, 3], 8)):
        for name, summary in other.items():
            for field, array in vars(summary).items():
                np.testing.assert_array_equal(array, getattr(plain[name], field))
