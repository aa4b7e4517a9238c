"""Importance resampling against exact tail probabilities, and against plain resamples."""

from dataclasses import dataclass, replace

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.engines.crt_refine import Draws, Tests, costs, refine
from condrand.io.outcome import Outcome
from condrand.kernels.tilting import LARGEST, tilt_cells
from condrand.nulls import importance
from condrand.nulls.saddlepoint import tail_levels, tail_points
from condrand.statistics import STATISTICS
from condrand.statistics.scores import DenseScores, SetSums

LINEAR = ("ols", "ols_t", "rank")
TAILS = ("two_sided", "two_sided_centred", "left", "right")
# Standard errors within which an estimate has to lie.
FAR = 4.0


@dataclass
class Test:
    """One feature's test of one unit, ready to be estimated."""

    __test__ = False

    statistic: str
    scores: object
    p: np.ndarray
    cells: np.ndarray
    feature: int
    tail: str

    def __post_init__(self):
        self.module = STATISTICS[self.statistic]
        self.form = self.module.linear_form(self.scores, self.p)
        moments = self.scores.moments(self.p)
        self.centre = self.module.null_units(self.scores, moments)[0][self.feature]
        self.narrow = importance.NarrowRows()
        residual = self.scores.residuals(np.array([self.feature]))[0]
        self.rows, self.gap = self.narrow.of(self.scores, residual)
        self.rows.rows[:, -1] = 0.0
        sums = self.rows.observed(self.cells)
        self.observed = float(self.module.values(self.rows, sums)[0, 0])
        self.levels = tail_levels(np.array([self.observed]), np.array([self.centre]), self.tail)
        points = tail_points(self.scores, self.form, self.p, np.array([self.feature]), self.levels)
        self.tilts = np.nan_to_num(points.tilt[0])

    def estimate(self, resamples, seed=1, tilts=None):
        return importance.estimate(
            *(self.rows, self.gap, self.module, self.form.h, self.p, self.cells),
            *(self.centre, self.tail, self.levels[0], self.tilts if tilts is None else tilts),
            *((seed, "target", "A", ("1", "f")), resamples),
        )

    def is_extreme(self, values):
        sides = (self.tail != "left", self.tail != "right")
        where = (self.observed, self.centre, self.tail)
        found = [importance.in_tail(values, *where, t == 0) for t in (0, 1) if sides[t]]
        return np.logical_or.reduce(found)


def log_weight(test, tail):
    """Log likelihood ratio of the observed set to the tilted law of a tail, written out."""
    logit = np.log(test.p / (1 - test.p))
    r = test.rows.rows[:, 0] - test.levels[0, tail] * test.form.h
    tilted = 1 / (1 + np.exp(-(logit + test.tilts[tail] * r)))
    x = np.zeros(test.p.size)
    x[test.cells] = 1
    return float(
        np.sum(np.where(x > 0, np.log(test.p / tilted), np.log((1 - test.p) / (1 - tilted))))
    )


def small(statistic, form, tail, seed, n_cells=13):
    """A test of so few cells that all treated sets can be looked at."""
    random = np.random.default_rng(seed)
    design = standardize(random.normal(size=(n_cells, 1)))
    values = np.maximum(random.normal(size=(n_cells, 2)) + 0.3, 0.0)
    values = values if form == "dense" else sp.csr_matrix(values)
    scores = STATISTICS[statistic].score(values, orthonormal_basis(design))
    p = 1 / (1 + np.exp(0.7 + 0.5 * design[:, 0]))
    cells = np.sort(random.choice(n_cells, 4, replace=False))
    return Test(statistic, scores, p, cells, 1, tail)


def enumerated(test):
    """Probability of a set at least as extreme as the observed one, over all sets."""
    n = test.p.size
    treated = (np.arange(2**n)[:, None] >> np.arange(n)) & 1 == 1
    sums = SetSums(np.zeros((2**n, test.rows.rows.shape[1])), treated.sum(axis=1))
    # Cell by cell, as every kernel adds: ties with the observed set are ties here too.
    for i in range(n):
        sums.rows[treated[:, i]] += test.rows.rows[i]
    values = test.module.values(test.rows, sums)[:, 0]
    probability = np.prod(np.where(treated, test.p, 1 - test.p), axis=1)
    return float(probability[test.is_extreme(values)].sum())


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("statistic", LINEAR)
def test_estimates_are_the_probabilities_over_all_treated_sets(statistic, form, tail):
    far = []
    for seed in range(12):
        test = small(statistic, form, tail, seed)
        exact = enumerated(test)
        found = test.estimate(8 * 1024)
        p = np.exp(found.log_p)
        # The observed set counts once more among the draws.
        slack = np.exp(max(log_weight(test, t) for t in (0, 1) if np.isfinite(test.levels[0, t])))
        error = max(found.relative_error * p, 1e-12)
        if not test.tilts.any():
            # Of plain draws it is known, also where hardly one of them lies outside the tail.
            error = np.sqrt(exact * (1 - exact) / 8192)
        far.append(max(abs(p - exact) - slack / 8193, 0.0) / error)
    print(statistic, form, tail, np.round(far, 2))
    assert max(far) < FAR


@pytest.mark.parametrize("tilts", ["found", "none", "wrong"])
def test_they_are_unbiased_but_for_the_observed_set_and_know_their_error(tilts):
    test = small("ols_t", "dense", "right", 3)
    test.tilts = {"found": test.tilts, "none": np.zeros(2), "wrong": test.tilts * 0.3}[tilts]
    exact, n = enumerated(test), 127
    found = [test.estimate(n, seed) for seed in range(2000)]
    p = np.exp([f.log_p for f in found])
    # Harrison's p value counts the observed set as one draw more.
    expected = (np.exp(log_weight(test, 0)) + n * exact) / (n + 1)
    error = p.std(ddof=1) / np.sqrt(p.size)
    assert abs(p.mean() - expected) < FAR * error
    assert p.min() > 0
    reported = np.sqrt(np.mean([(f.relative_error * np.exp(f.log_p)) ** 2 for f in found]))
    print(exact, p.mean(), expected, error, reported / p.std())
    assert reported == pytest.approx(p.std(), rel=0.1)
    assert found[0].n_resamples == n


def test_without_a_tilt_it_is_the_empirical_p_value():
    test = small("ols", "dense", "right", 5)
    found = test.estimate(999, tilts=np.zeros(2))
    p = np.exp(found.log_p)
    assert 1000 * p == pytest.approx(round(1000 * p), abs=1e-9)
    assert found.relative_error == pytest.approx(np.sqrt((1 - p) / p / 1000), rel=1e-2)
    both = small("ols", "dense", "two_sided", 5).estimate(999, tilts=np.zeros(2))
    assert both.n_resamples == 2 * found.n_resamples == 2 * 999


# Deep tails


def convolved(statistic, scores, p, observed, is_extreme):
    """The exact probability where the statistic is a function of treated cells and whole sums.

    The joint law of both is built cell by cell: 0 or 1 treated cell more, its score more.
    """
    y = scores.rows[:, 0].astype(int)
    low, high = y[y < 0].sum(), y[y > 0].sum()
    law = np.zeros((y.size + 1, high - low + 1))
    law[0, -low] = 1.0
    for i in range(y.size):
        moved = np.roll(law, (1, y[i]), axis=(0, 1))
        law = (1 - p[i]) * law + p[i] * moved
    n, at = np.nonzero(law)
    in_order = np.concatenate([[0.0], np.cumsum(scores.rows[:, 1])])
    rows = np.zeros((n.size, scores.rows.shape[1]))
    rows[:, 0], rows[:, 1] = at + low, in_order[n]
    values = STATISTICS[statistic].values(scores, SetSums(rows, n))[:, 0]
    return float(law[n, at][is_extreme(values)].sum())


@pytest.mark.parametrize("tail", TAILS)
@pytest.mark.parametrize("statistic", ["ols", "ols_t"])
def test_tails_of_1e_12_are_those_of_exact_convolution(statistic, tail):
    random = np.random.default_rng(8)
    n_cells = 500
    half = random.integers(1, 7, n_cells // 2)
    # Scores that sum to zero exactly: a residual that needs no rounding.
    y = random.permutation(np.concatenate([half, -half])).astype(float)
    rows = np.zeros((n_cells, 8))
    rows[:, 0], rows[:, 1] = y, 1 / np.sqrt(n_cells)
    scores = DenseScores(rows, 1, 1)
    smallest = 1.0
    for strength in (0.1, 0.2, 0.25, 0.3):
        p = random.uniform(0.02, 0.2, n_cells)
        # Cells are treated the more, the higher they score.
        odds = p / (1 - p) * np.exp((-strength if tail == "left" else strength) * y)
        cells = np.flatnonzero(random.random(n_cells) < odds / (1 + odds))
        # A fit with an intercept expects as many treated cells as there are.
        p *= cells.size / p.sum()
        test = Test(statistic, scores, p, cells, 0, tail)
        exact = convolved(statistic, scores, p, test.observed, test.is_extreme)
        smallest = min(smallest, exact)
        for resamples in (1023, 20_000):
            found = test.estimate(resamples, seed=7)
            away = np.exp(found.log_p) / exact - 1
            print(statistic, tail, strength, resamples, exact, away, found.relative_error)
            assert abs(away) < FAR * found.relative_error
            assert found.relative_error < (0.2 if resamples == 1023 else 0.05)
    assert smallest < 1e-12


def test_a_p_value_beyond_the_smallest_float_has_its_logarithm():
    random = np.random.default_rng(2)
    n_cells = 20_000
    y = random.normal(size=(n_cells, 1))
    scores = STATISTICS["ols_t"].score(y, np.full((n_cells, 1), n_cells**-0.5))
    cells = np.flatnonzero(random.random(n_cells) < 0.1 * np.exp(0.9 * y[:, 0] - 0.4))
    p = np.full(n_cells, cells.size / n_cells)
    test = Test("ols_t", scores, p, cells, 0, "two_sided")
    one, other = test.estimate(1023, 1), test.estimate(1023, 2)
    assert -np.inf < one.log_p < -750
    assert np.exp(one.log_p) == 0.0
    assert abs(one.log_p - other.log_p) < FAR * np.hypot(one.relative_error, other.relative_error)
    points = tail_points(scores, test.form, test.p, np.array([0]), test.levels)
    assert one.log_p == pytest.approx(np.nanmax(points.log_p), abs=0.5)


def test_where_no_draw_reaches_the_tail_the_observed_set_alone_speaks():
    test = small("ols_t", "dense", "right", 3, n_cells=60)
    order = np.argsort(-test.rows.rows[:, 0])
    test = replace(test, cells=np.sort(order[:12]))
    found = test.estimate(19, tilts=np.zeros(2))
    assert np.exp(found.log_p) == pytest.approx(1 / 20)
    assert found.relative_error == pytest.approx(1.0, rel=0.05)


# Tilted propensities


def test_gaps_are_right_however_near_the_tilted_propensity_is_to_0_or_1():
    random = np.random.default_rng(0)
    n_cells = 1000
    p = random.uniform(1e-6, 1 - 1e-6, n_cells)
    p[:4] = 1e-6, 1 - 1e-6, 1e-12, 1 - 1e-12
    rows = np.zeros((n_cells, 8))
    rows[:, 0] = random.normal(size=n_cells) * 40
    rows[:6, 0] = 300, 300, 300, -300, 5000, -5000
    h, gap = random.normal(size=n_cells), np.empty(n_cells)
    total = tilt_cells(p, rows, h, 0.5, 1.5, 7, gap)
    wide = np.longdouble
    moved = np.clip(wide(1.5) * (rows[:, 0].astype(wide) - wide(0.5) * h), -LARGEST, LARGEST)
    np.testing.assert_allclose(rows[:, 7], moved.astype(float), rtol=1e-14)
    odds = p.astype(wide) / (1 - p.astype(wide))
    expected = 1 / np.log1p(odds * np.exp(rows[:, 7].astype(wide)))
    assert np.isfinite(gap).all() and (gap > 0).all()
    np.testing.assert_allclose(gap, expected.astype(float), rtol=1e-13)
    k = np.sum(np.log1p(p.astype(wide) * np.expm1(rows[:, 7].astype(wide))))
    assert total == pytest.approx(float(k), rel=1e-12)


def test_no_tilt_leaves_the_law_as_it_is():
    p = np.array([1e-6, 0.2, 0.5, 1 - 1e-6])
    rows, gap = np.zeros((4, 8)), np.empty(4)
    rows[:, 0] = 1e9, -1e9, 3.0, 0.0
    assert tilt_cells(p, rows, np.ones(4), 2.0, 0.0, 7, gap) == 0.0
    np.testing.assert_allclose(gap, -1 / np.log1p(-p), rtol=1e-14)


# Against plain resamples

N_CELLS = 400


@pytest.fixture(scope="module")
def screen():
    random = np.random.default_rng(4)
    design = standardize(random.normal(size=(N_CELLS, 3)))
    values = np.maximum(random.normal(size=(N_CELLS, 4)) + 0.5 * design[:, :1], -0.2) + 0.2
    treated = [np.sort(random.choice(N_CELLS, n, replace=False)) for n in (12, 40)]
    # Something to find, in one feature of each.
    for cells in treated:
        values[cells, 0] += 0.8
    return design, values, treated


@pytest.mark.parametrize("control", ["complement", "ntc"])
@pytest.mark.parametrize("form", ["dense", "sparse"])
@pytest.mark.parametrize("statistic", LINEAR)
def test_they_agree_with_many_plain_resamples(statistic, form, control, screen):
    design, values, treated = screen
    values = values if form == "dense" else sp.csr_matrix(values)
    is_ntc = np.arange(N_CELLS) % 2 == 0
    shared = Outcome(
        STATISTICS[statistic].score(values, orthonormal_basis(design)),
        *(design, list("abcd"), "", "", statistic),
    )
    if control == "ntc":
        shared = replace(shared, scores=None, control="ntc", tested=values, is_ntc_cell=is_ntc)
    batch = crt.prepare(shared, ["target"] * 2, ["A", "B"], treated)
    tests = Tests.at_most(1.0, np.where(batch.scale > 0, 0.5, np.nan))
    draws = Draws(3, "two_sided_centred")
    found = {}
    for method, resamples in (("importance", 2046), ("resamples", 102_300)):
        stage = {"method": method, "resamples": resamples}
        items = range(costs(batch, tests, stage).size)
        found[method] = refine(shared, batch, tests, items, stage, 1, draws)
    plain = (1 + found["resamples"]["exceed"]) / 102_301
    error = np.hypot(
        np.exp(found["importance"]["log_p"]) * found["importance"]["relative_error"],
        np.sqrt(plain * (1 - plain) / 102_300),
    )
    far = (np.exp(found["importance"]["log_p"]) - plain) / error
    print(statistic, form, control, np.round(plain, 5), np.round(far, 2))
    assert np.abs(far).max() < FAR
