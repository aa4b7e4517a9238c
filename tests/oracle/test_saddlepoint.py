"""The saddlepoint's tails against all treated sets, extended precision and tilted draws."""

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.special import log_ndtr
from scipy.stats import binom

from condrand.covariates import orthonormal_basis, standardize
from condrand.kernels.saddlepoint import cumulants, tilted_cumulants
from condrand.nulls import importance, saddlepoint
from condrand.nulls.saddlepoint import TailPoint, diagnose, p_values, tail_levels, tail_points
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.statistics import STATISTICS, ols, ols_t, rank, welch
from condrand.statistics.scores import DenseScores, LinearForm, padded

LINEAR = [ols, ols_t, rank]
UPPER, LOWER = 0, 1


def screen(
    n_cells: int, n_treated: float, n_features: int = 3, seed: int = 0, spread: float = 0.3
):
    """Skewed outcomes, a basis of four covariates, and propensities that depend on them."""
    random = np.random.default_rng(seed)
    covariates = random.normal(size=(n_cells, 4))
    basis = orthonormal_basis(standardize(covariates))
    odds = np.exp(covariates @ np.full(4, 0.3))
    p = np.clip(n_treated * odds / odds.sum(), 1e-6, 0.9)
    return random.gamma(1.0, size=(n_cells, n_features)), basis, p


def plain(terms: np.ndarray) -> tuple[DenseScores, LinearForm]:
    """Scores whose sums are those of the given terms, whatever the level: h is 1 and unused."""
    rows = np.zeros((len(terms), padded(terms.shape[1])))
    rows[:, : terms.shape[1]] = terms
    return DenseScores(rows, terms.shape[1], 0), LinearForm(np.zeros(len(terms)), 1.0)


def all_sets(p: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Every treated set of a few cells, and its probability."""
    sets = (np.arange(2**p.size)[:, None] >> np.arange(p.size)) & 1
    return sets.astype(np.float64), np.prod(np.where(sets > 0, p, 1.0 - p), axis=1)


def one_tail(scores, form, p, level, tail) -> TailPoint:
    """The point of the first feature's upper or lower tail at a level."""
    levels = np.full((1, 2), np.nan)
    levels[0, tail] = level
    return tail_points(scores, form, p, np.array([0]), levels)


# Linear forms


@pytest.mark.parametrize("statistic", LINEAR, ids=lambda m: m.__name__)
@pytest.mark.parametrize("sparse", [False, True])
def test_the_linear_form_drops_what_it_says_and_no_more(statistic, sparse):
    outcome, basis, p = screen(80, 15)
    outcome = np.where(outcome > 0.7, outcome, 0.0)
    scores = statistic.score(sp.csr_matrix(outcome) if sparse else outcome, basis)
    form = statistic.linear_form(scores, p)
    x = (np.random.default_rng(1).random((200, 80)) < p).astype(np.float64)
    count = x.sum(axis=1)
    squares = p * (1 - p) * np.sum(basis**2, axis=1)
    d = count - np.sum((x @ basis) ** 2, axis=1)
    d_linear = d + np.sum(((x - p) @ basis) ** 2, axis=1) - squares.sum()
    if statistic is ols:
        wanted = d_linear
    elif statistic is ols_t:
        q = p @ basis
        mean = p.sum() - q @ q - squares.sum()
        variance = np.sum(p * (1 - p) * (1 - 2 * basis @ q) ** 2)
        wanted = np.sqrt(mean) + (d_linear - mean) / (2 * np.sqrt(mean)) - variance / 8 / mean**1.5
    else:
        dropped = (count - p.sum()) ** 2 - np.sum(p * (1 - p))
        wanted = (count * (80 - count) + dropped) / 2
    np.testing.assert_allclose(x @ form.h + form.offset, wanted, rtol=1e-11)


@pytest.mark.parametrize("statistic", LINEAR, ids=lambda m: m.__name__)
@pytest.mark.parametrize("sparse", [False, True])
def test_scores_of_one_feature_give_its_statistic(statistic, sparse):
    outcome, basis, _ = screen(60, 15)
    outcome = np.where(outcome > 0.7, outcome, 0.0)
    scores = statistic.score(sp.csr_matrix(outcome) if sparse else outcome, basis)
    cells = np.arange(3, 60, 4)
    whole = statistic.values(scores, scores.observed(cells))[0]
    narrow = importance.NarrowRows()
    for k in (2, 0, 1):
        rows, _ = narrow.of(scores, scores.residuals(np.array([k]))[0])
        one = statistic.values(rows, rows.observed(cells))[0]
        assert one.shape == (1,)
        if sparse:
            np.testing.assert_allclose(one[0], whole[k], rtol=1e-10)
        else:
            assert one[0] == whole[k]


def test_welch_has_no_linear_form():
    assert [m for m in STATISTICS.values() if not hasattr(m, "linear_form")] == [welch]


# Cumulants, saddlepoints and probabilities in extended precision


def extended(terms: np.ndarray, p: np.ndarray, target: float) -> tuple[float, ...]:
    """s, K(s) and three derivatives at the saddlepoint, by bisection in long double."""
    r, p = terms.astype(np.longdouble), p.astype(np.longdouble)

    def derivatives(s):
        e = p * np.exp(s * r)
        pi = e / (1 - p + e)
        v = pi * (1 - pi)
        return (
            np.sum(np.log1p(p * np.expm1(s * r))),
            np.sum(r * pi),
            np.sum(r**2 * v),
            np.sum(r**3 * v * (1 - 2 * pi)),
            np.sum(r**4 * v * (1 - 6 * v)),
        )

    low, high = np.longdouble(-10), np.longdouble(10)
    for _ in range(80):
        middle = (low + high) / 2
        low, high = (middle, high) if derivatives(middle)[1] < target else (low, middle)
    return (low, *derivatives(low))


def second_order(s, k0, k2, k3, k4, target) -> float:
    """log of the tail beyond the mean by the formula as printed."""
    side = np.sign(s)
    w, u = np.sqrt(2 * (s * target - k0)), side * s * np.sqrt(k2)
    a, b = side * k3 / k2**1.5, k4 / k2**2
    more = 1 / u - 1 / w + (b / 8 - 5 * a**2 / 24) / u - a / (2 * u**2) - 1 / u**3 + 1 / w**3
    log_density = -(w**2) / 2 - np.log(2 * np.pi) / 2
    return float(log_density + np.log(np.exp(log_ndtr(-float(w)) - log_density) + more))


@pytest.mark.parametrize("seed", range(3))
def test_saddlepoints_and_probabilities_are_those_of_extended_precision(seed, monkeypatch):
    outcome, basis, p = screen(3000, 60, seed=seed)
    scores, form = plain(outcome - 1.0)
    sd = np.sqrt(p * (1 - p) @ scores.rows**2)[0]
    mean = (p @ scores.rows)[0]
    for z in (-6, -2, -0.3, 0.3, 1, 4, 8, 12):
        target = mean + z * sd
        s, k0, _, k2, k3, k4 = extended(scores.rows[:, 0], p, target)
        wanted = second_order(s, k0, k2, k3, k4, target)
        for close, tolerance in ((saddlepoint._CLOSE, 1e-6), (1e-5, 1e-10)):
            monkeypatch.setattr(saddlepoint, "_CLOSE", close)
            point = one_tail(scores, form, p, target, UPPER if z > 0 else LOWER)
            column = UPPER if z > 0 else LOWER
            assert point.tilt[0, column] == np.float32(s)
            np.testing.assert_allclose(point.log_p[0, column], wanted, rtol=tolerance, atol=1e-11)


@pytest.mark.parametrize("n_cells", [5, 16, 250, 256, 257, 272, 3000])
def test_cumulants_are_those_of_extended_precision(n_cells):
    outcome, _, p = screen(3000, 60)
    p = np.ascontiguousarray(p[:n_cells])
    h = np.random.default_rng(3).normal(1.0, 0.1, n_cells)
    rows = np.ascontiguousarray(outcome[:n_cells].T)
    n_sums = 16
    row_of = np.resize(np.arange(3), n_sums)
    levels = np.linspace(-1.0, 1.0, n_sums)
    tilts = np.linspace(-2.0, 1.5, n_sums)
    tilts[5] = 0.0
    at_zero, tilted = np.empty((6, n_sums)), np.empty((7, n_sums))
    cumulants(rows, row_of, levels, h, p, at_zero)
    tilted_cumulants(rows, row_of, levels, tilts, h, p, tilted)
    q = p.astype(np.longdouble)
    for at in range(n_sums):
        r = rows[row_of[at]].astype(np.longdouble) - np.longdouble(levels[at]) * h
        for s, found in ((tilts[at], tilted[1:, at]), (0.0, at_zero[:4, at])):
            pi = q * np.exp(s * r) / (1 - q + q * np.exp(s * r))
            v = pi * (1 - pi)
            wanted = [
                np.sum(r * pi),
                np.sum(v * r**2),
                np.sum(v * (1 - 2 * pi) * r**3),
                np.sum(v * (1 - 6 * v) * r**4),
                np.sum(v * (1 - 2 * pi) * (1 - 12 * v) * r**5),
                np.sum(v * r**4),
            ][: found.size]
            size = np.sum(np.abs(r) * pi)
            np.testing.assert_allclose(
                found, np.array(wanted, float), rtol=1e-9, atol=1e-13 * size
            )
        ends = np.sum(np.minimum(r, 0)), np.sum(np.maximum(r, 0))
        np.testing.assert_allclose(at_zero[4:, at], np.array(ends, float), rtol=1e-13)
        k = np.sum(np.log1p(q * np.expm1(np.longdouble(tilts[at]) * r)))
        np.testing.assert_allclose(tilted[0, at], float(k), rtol=1e-11, atol=1e-12)


def test_exponents_beyond_float64_do_not_overflow():
    """A cell of enormous weight among others, at levels which it decides."""
    random = np.random.default_rng(5)
    terms = np.append(random.normal(size=400), 1e6)[:, None]
    p = np.full(401, 0.1)
    scores, form = plain(terms)
    for level in (60.0, 1e6 + 5.0, 1e6 + 60.0):
        tail = UPPER if level > 1e5 else LOWER
        point = one_tail(scores, form, p, level, tail)
        s = point.tilt[0, tail]
        assert np.isfinite(point.log_p[0, tail])
        with np.errstate(over="ignore"):
            pi = p / (p + (1 - p) * np.exp(-s * terms[:, 0]))
        np.testing.assert_allclose(pi @ terms[:, 0], level, rtol=1e-5)


# Probabilities


# Largest factor by which a tail of a sum over 18 cells may be off, from a probability on.
FACTORS = ((1e-1, 1.03), (1e-2, 1.06), (1e-3, 1.15), (1e-4, 1.35), (1e-5, 1.8))


@pytest.mark.parametrize("seed", range(4))
def test_tails_are_those_of_all_treated_sets(seed):
    random = np.random.default_rng(seed)
    terms, p = random.uniform(-2, 2, (18, 1)), random.uniform(0.3, 0.7, 18)
    scores, form = plain(terms)
    sets, probabilities = all_sets(p)
    sums = sets @ terms[:, 0]
    low, high = terms[terms < 0].sum(), terms[terms > 0].sum()
    compared = 0
    for level in np.linspace(low, high, 61)[1:-1]:
        for tail, inside in ((UPPER, sums >= level), (LOWER, sums <= level)):
            exact = probabilities[inside].sum()
            point = one_tail(scores, form, p, level, tail)
            factor = np.exp(abs(point.log_p[0, tail] - np.log(exact)))
            bounds = [bound for smallest, bound in FACTORS if exact >= smallest]
            assert not bounds or factor < bounds[0]
            compared += bool(bounds)
    assert compared > 90


def test_the_two_tails_at_one_level_hold_everything():
    outcome, _, p = screen(500, 50)
    scores, form = plain(outcome)
    for level in np.quantile(outcome[:, 0], 0.6) * np.linspace(0.2, 120, 41):
        both = [one_tail(scores, form, p, level, t).log_p[0, t] for t in (UPPER, LOWER)]
        np.testing.assert_allclose(np.exp(both).sum(), 1.0, rtol=1e-12)


def test_about_the_mean_the_tail_is_half_less_the_skewness():
    outcome, _, p = screen(2000, 100)
    scores, form = plain(outcome)
    mean = float(p @ outcome[:, 0])
    v = p * (1 - p)
    sd = np.sqrt(v @ outcome[:, 0] ** 2)
    skewness = v * (1 - 2 * p) @ outcome[:, 0] ** 3 / sd**3
    half = 0.5 - skewness / 6 / np.sqrt(2 * np.pi)
    near = np.array([-1e-1, -6e-3, -1e-3, -1e-6, -1e-12, 0.0, 1e-12, 1e-6, 1e-3, 6e-3, 1e-1])
    found = [np.exp(one_tail(scores, form, p, mean + z * sd, UPPER).log_p[0, UPPER]) for z in near]
    np.testing.assert_allclose(found[5], half, rtol=1e-6)
    # The density is that of a normal law, nearly; nothing jumps where formulas meet.
    density = -np.diff(found) / np.diff(near)
    np.testing.assert_allclose(density[[0, 1, -2, -1]], 1 / np.sqrt(2 * np.pi), rtol=0.05)
    assert np.all(np.diff(found) <= 1e-9)
    for z in (saddlepoint._CENTRE, saddlepoint._NEAR):
        sides = [one_tail(scores, form, p, mean + z * f * sd, UPPER) for f in (0.999, 1.001)]
        jump = sides[0].log_p[0, UPPER] - sides[1].log_p[0, UPPER]
        assert abs(jump - 0.002 * z * density[5] / half) < 3e-4


def test_levels_that_no_set_reaches_have_no_probability_but_a_safe_tilt():
    outcome, _, p = screen(200, 20)
    terms = outcome[:, :1] - 0.5
    scores, form = plain(terms)
    high, low = terms[terms > 0].sum(), terms[terms < 0].sum()
    for level, tail in ((high * 1.01, UPPER), (high, UPPER), (low * 1.01, LOWER)):
        point = one_tail(scores, form, p, level, tail)
        tilt = point.tilt[0, tail]
        assert point.log_p[0, tail] == -np.inf
        assert point.n_effective[0, tail] == 0
        assert np.sign(tilt) == (1 if tail == UPPER else -1)
        assert np.max(np.abs(tilt * terms)) <= 10.0 + 1e-12
        assert one_tail(scores, form, p, level, 1 - tail).log_p[0, 1 - tail] == 0.0
    just_inside = one_tail(scores, form, p, high * 0.999, UPPER)
    assert np.isfinite(just_inside.log_p[0, UPPER])
    assert just_inside.log_p[0, UPPER] < -100


def test_equal_scores_count_treated_cells():
    """The coarsest lattice: within half a step of the level the smooth tail is the exact one."""
    n_cells = 400
    p = np.full(n_cells, 0.1)
    scores, form = plain(np.ones((n_cells, 1)))
    for level in (45, 55, 65, 80):
        found = np.exp(one_tail(scores, form, p, level - 0.5, UPPER).log_p[0, UPPER])
        np.testing.assert_allclose(found, binom.sf(level - 1, n_cells, 0.1), rtol=0.03)


def test_a_feature_that_does_not_vary_has_no_tail():
    scores, form = plain(np.zeros((50, 2)))
    levels = np.array([[1.0, -1.0], [np.nan, -1.0]])
    points = tail_points(scores, form, np.full(50, 0.2), np.arange(2), levels)
    for values in (points.tilt, points.log_p, points.log_error):
        assert np.isnan(values).all()


# Tests of two tails


def test_the_levels_of_a_test():
    observed, centre = np.array([2.0, -3.0]), np.array([0.5, -1.0])
    nan = np.nan
    for tail, wanted in (
        ("right", [[2.0, nan], [-3.0, nan]]),
        ("left", [[nan, 2.0], [nan, -3.0]]),
        ("two_sided", [[2.0, -2.0], [3.0, -3.0]]),
        ("two_sided_centred", [[2.0, -1.0], [1.0, -3.0]]),
    ):
        np.testing.assert_array_equal(tail_levels(observed, centre, tail), wanted)


def test_p_values_add_tails_and_ask_for_the_observed_one():
    log_p = np.log([[0.01, 0.03], [1e-300, 1e-310], [0.6, 0.7]])
    log_p = np.vstack([log_p, [[-np.inf, np.log(0.2)], [np.log(0.2), -np.inf], [np.nan, np.nan]]])
    level = np.array([[1.0, -1.0]] * 6)
    error = np.full((6, 2), 0.1)
    observed = np.array([1.0, -1.0, 1.0, 1.0, 1.0, 1.0])
    points = TailPoint(np.zeros((6, 2)), log_p, error, np.full((6, 2), 50.0), level)
    found, found_error = p_values(points, observed)
    np.testing.assert_allclose(found[:3], [np.log(0.04), -690.7755278, 0.0], rtol=1e-9)
    np.testing.assert_allclose(found[4], np.log(0.2))
    assert np.isnan(found[[3, 5]]).all()
    np.testing.assert_allclose(found_error[[0, 1, 2, 4]], 0.1)


def test_a_saddlepoint_says_where_it_may_not_speak():
    log_p = np.log([[1e-3, 1e-3], [1e-3, 1e-3], [1e-3, 1e-3], [1e-3, 1e-6], [1e-3, 1e-3]])
    log_p[2, UPPER] = -np.inf
    n_effective = np.array([[50.0, 50], [50, 3], [0, 50], [50, 2], [50, 50]])
    error = np.array([[0.1, 0.1], [0.3, 0.1], [0.0, 0.1], [0.1, 0.9], [0.1, 0.3]])
    levels = np.array([[1.0, -1.0]] * 5)
    points = TailPoint(np.zeros((5, 2)), log_p, error, n_effective, levels)
    assert list(diagnose(points, np.ones(5))) == ["", "few cells", "support", "", "orders"]


def test_an_outlying_cell_and_a_coarse_lattice_are_noticed():
    random = np.random.default_rng(7)
    outlier = np.append(random.normal(size=300), 300.0)
    few = np.where(np.arange(301) < 10, 1.0, 1e-3 * random.normal(size=301))
    scores, form = plain(np.stack([outlier, few, random.normal(size=301)], axis=1))
    p = np.full(301, 0.1)
    # Only with the outlying cell, four of ten cells, three standard deviations.
    observed = np.array([150.0, 4.0, 3.0 * np.sqrt(27.0)])
    levels = tail_levels(observed, np.zeros(3), "right")
    points = tail_points(scores, form, p, np.arange(3), levels)
    assert list(diagnose(points, observed)) == ["few cells", "few cells", ""]


@pytest.mark.parametrize("statistic", LINEAR, ids=lambda m: m.__name__)
def test_p_values_are_those_of_many_draws(statistic):
    """The whole way at 500 cells, the smallest where a far tail is compared, by two referees."""
    outcome, basis, p = screen(500, 40, n_features=2, seed=4)
    scores = statistic.score(outcome, basis)
    form = statistic.linear_form(scores, p)
    centre, scale = statistic.null_units(scores, scores.moments(p))
    draws = BernoulliSampler.of(1, "target", "A", p)
    sums = [draws.set_sums(scores, block, 1023) for block in range(60)]
    null = np.vstack([statistic.values(scores, s) for s in sums])
    for tail in ("two_sided", "two_sided_centred", "left", "right"):
        observed = centre + (-1.6 if tail == "left" else 1.8) * scale
        levels = tail_levels(observed, centre, tail)
        features = np.arange(2)
        points = tail_points(scores, form, p, features, levels, statistic.linear_form)
        log_p, log_error = p_values(points, observed)
        beyond = (null >= levels[:, 0]) | (null <= levels[:, 1])
        np.testing.assert_allclose(np.exp(log_p), beyond.mean(axis=0), rtol=0.05)
        assert np.all(log_error < 0.01)


@pytest.mark.parametrize("statistic", LINEAR, ids=lambda m: m.__name__)
@pytest.mark.parametrize("z", [-5.0, 5.0, 6.5])
def test_far_tails_are_those_of_tilted_draws(statistic, z):
    outcome, basis, p = screen(500, 60, n_features=1, seed=6)
    scores = statistic.score(outcome, basis)
    form = statistic.linear_form(scores, p)
    centre, scale = statistic.null_units(scores, scores.moments(p))
    level, tail = float(centre[0] + z * scale[0]), UPPER if z > 0 else LOWER
    levels = tail_levels(np.array([level]), centre, "right" if z > 0 else "left")
    some = (scores, form, p, np.array([0]), levels)
    point = tail_points(*some, statistic.linear_form)
    # The same tilt, whether the form was expanded anew or not: draws are weighted by it.
    assert point.tilt[0, tail] == tail_points(*some).tilt[0, tail]
    terms = scores.rows[:, 0] - level * form.h
    x = point.tilt[0, tail] * terms
    k = np.sum(np.log1p(p * np.expm1(x)))
    tilted = p * np.exp(x) / (1 + p * np.expm1(x))
    draw = BernoulliSampler.of(2, "target", "A", tilted)
    total, n_draws = 0.0, 0
    for block in range(20):
        sets = draw.treated(block, 1023)
        sums = [scores.observed(np.flatnonzero(chosen)) for chosen in sets[:250]]
        values = np.array([statistic.values(scores, s)[0, 0] for s in sums])
        inside = values >= level if z > 0 else values <= level
        total += np.sum(np.exp(k - sets[:250] @ x)[inside])
        n_draws += 250
    assert list(diagnose(point, np.array([level]))) == [""]
    np.testing.assert_allclose(np.exp(point.log_p[0, tail]), total / n_draws, rtol=0.12)


# Bits


def test_sparse_scores_give_the_probabilities_of_dense_ones():
    outcome, basis, p = screen(800, 60, n_features=40)
    outcome = np.where(outcome > 1.0, outcome, 0.0)
    points = []
    for matrix in (outcome, sp.csr_matrix(outcome)):
        for statistic in (ols, rank):
            scores = statistic.score(matrix, basis)
            form = statistic.linear_form(scores, p)
            centre, scale = statistic.null_units(scores, scores.moments(p))
            levels = tail_levels(centre + 3.0 * scale, centre, "two_sided")
            points.append(tail_points(scores, form, p, np.arange(40), levels))
    for dense, sparse in ((points[0], points[2]), (points[1], points[3])):
        np.testing.assert_allclose(dense.log_p, sparse.log_p, rtol=1e-9)
        np.testing.assert_allclose(dense.tilt, sparse.tilt, rtol=2e-7)


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("anew", [False, True])
def test_a_feature_has_the_same_bits_in_any_company(sparse, anew):
    outcome, basis, p = screen(700, 40, n_features=45)
    outcome = np.where(outcome > 1.0, outcome, 0.0)
    scores = ols.score(sp.csr_matrix(outcome) if sparse else outcome, basis)
    form = ols.linear_form(scores, p)
    centre, scale = ols.null_units(scores, scores.moments(p))
    observed = centre + np.linspace(-6, 7, 45) * scale
    levels = tail_levels(observed, centre, "two_sided_centred")
    anew = ols.linear_form if anew else None
    whole = tail_points(scores, form, p, np.arange(45), levels, anew)
    upper = levels.copy()
    upper[:, LOWER] = np.nan
    for some in (np.arange(1), np.array([44]), np.array([30, 2, 17]), np.arange(33)):
        part = tail_points(scores, form, p, some, levels[some], anew)
        one_side = tail_points(scores, form, p, some, upper[some], anew)
        for name in ("tilt", "log_p", "log_error", "n_effective", "level"):
            wanted = getattr(whole, name)[some]
            np.testing.assert_array_equal(getattr(part, name), wanted)
            np.testing.assert_array_equal(getattr(one_side, name)[:, UPPER], wanted[:, UPPER])
