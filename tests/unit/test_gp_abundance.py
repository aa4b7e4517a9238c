"""Densities of cells and their change: dense definitions on few cells, guards, errors."""

import logging
import math

import numpy as np
import pytest
from scipy.special import gammaln
from scipy.stats import norm

from condrand.api.abundance import DifferentialAbundance
from condrand.gp import density as density_of
from condrand.gp.abundance import Abundance, change
from condrand.gp.density import Density, DensityPrior, log_densities
from condrand.gp.density_samples import DensitySamples, TooFewSamples
from condrand.gp.dimension import fractal_dimension, intrinsic_dimension

JITTER = 1e-6


def cloud(n=60, p=2, seed=0, shift=0.0):
    return np.random.default_rng(seed).normal(size=(n, p)) + shift


def matern(x, y, ls):
    away = np.sqrt(((x[:, None] - y[None]) ** 2).sum(axis=-1) + 1e-12)
    r = math.sqrt(5) * away / ls
    return (1 + r + r**2 / 3) * np.exp(-r)


def nearest_of(x):
    away = np.sqrt(((x[:, None] - x[None]) ** 2).sum(axis=-1))
    np.fill_diagonal(away, np.inf)
    return away.min(axis=1)


def volume_of_ball(d):
    return math.pi ** (d / 2) / math.gamma(d / 2 + 1)


# Densities by their dense definition


@pytest.mark.parametrize("n_landmarks", [12, 50, None])
def test_a_density_is_the_most_probable_one(n_landmarks):
    cells = cloud(40)
    points = cloud(9, seed=5)
    landmarks = None if n_landmarks is None else cloud(n_landmarks, seed=1)
    d, ls = 2.0, 1.5
    found = DensityPrior(landmarks, d=d, ls=ls).fit(cells)

    r = nearest_of(cells)
    alone = -np.log(volume_of_ball(d)) - d * np.log(r)
    mu = np.quantile(alone, 0.01) - 10
    assert found.mu == pytest.approx(mu, rel=1e-12)
    U = cells if landmarks is None else landmarks
    lower = np.linalg.cholesky(matern(U, U, ls) + JITTER * np.eye(len(U)))
    L = lower if landmarks is None else matern(cells, U, ls) @ np.linalg.inv(lower).T

    def loss(z):
        f = L @ z + mu
        # A Poisson process: no cell within r, one at r.
        expected = np.exp(f) * volume_of_ball(d) * r**d
        at_r = f + math.log(d * volume_of_ball(d)) + (d - 1) * np.log(r)
        return -norm.logpdf(z).sum() - (at_r - expected).sum()

    assert found.loss == pytest.approx(loss(found.z), rel=1e-11)
    rate = np.exp(L @ found.z + mu) * volume_of_ball(d) * r**d
    assert np.abs(found.z - L.T @ (1 - rate)).max() < 1e-8
    hessian = np.eye(len(U)) + L.T @ np.diag(rate) @ L
    np.testing.assert_allclose(found.z_std, np.diag(hessian) ** -0.5, rtol=1e-7)
    np.testing.assert_allclose(found.log_density, L @ found.z + mu, rtol=1e-8)

    k = matern(points, U, ls)
    np.testing.assert_allclose(
        found.predict(points, normalize=False), mu + k @ np.linalg.solve(lower.T, found.z)
    )
    np.testing.assert_allclose(
        found.predict(points), found.predict(points, normalize=False) - math.log(len(cells))
    )
    a = np.linalg.solve(lower, k.T)
    left = 1 - np.einsum("ij,ij->j", a, a)
    of_mean = np.einsum("ij,i,ij->j", a, found.z_std**2, a)
    np.testing.assert_allclose(found.uncertainty(points), left + of_mean, rtol=1e-7, atol=1e-9)


def test_newton_and_lbfgs_meet():
    cells, landmarks = cloud(200), cloud(15, seed=1)
    newton, lbfgs = (
        DensityPrior(landmarks, ls=2.0, optimizer=by).fit(cells) for by in ("newton", "lbfgs")
    )
    assert newton.loss <= lbfgs.loss + 1e-9
    np.testing.assert_allclose(newton.log_density, lbfgs.log_density, atol=5e-3)


def test_densities_at_the_same_points_share_the_covariance_and_keep_their_numbers(monkeypatch):
    prior = DensityPrior(cloud(10, seed=1), ls=2.0)
    densities = [prior.fit(cloud(50, seed=seed)) for seed in (2, 3)]
    assert densities[0].inducing is densities[1].inducing
    points = cloud(7, seed=4)
    alone = [density.predict(points) for density in densities]
    calls = []
    whole = density_of.Inducing.covariance
    monkeypatch.setattr(
        density_of.Inducing, "covariance", lambda self, x: calls.append(x) or whole(self, x)
    )
    np.testing.assert_allclose(log_densities(densities, points), alone, rtol=1e-13)
    assert len(calls) == 1


def test_points_a_few_at_a_time_give_the_same():
    found = Abundance.of((cloud(50), cloud(40, seed=1)), DensityPrior(cloud(8, seed=2)))
    points = cloud(23, seed=3)
    at_once, in_parts = (found.predict(points, batch_size=size) for size in (None, 5))
    for name in ("log_fold_change", "uncertainty", "z", "neg_log10_ptp"):
        np.testing.assert_allclose(getattr(in_parts, name), getattr(at_once, name), rtol=1e-11)


def test_many_cells_without_landmarks_get_landmarks(monkeypatch):
    monkeypatch.setattr(density_of, "FULL", 20)
    assert DensityPrior(d=2.0).fit(cloud(20)).inducing.m == 20
    assert DensityPrior(d=2.0).fit(cloud(60)).inducing.m == 20


def test_a_search_that_would_overflow_begins_elsewhere_or_says_why():
    def with_one_away(by):
        return np.vstack([cloud(200, 8), np.full((1, 8), by)])

    # Least squares alone would begin at a rate of 1e12 there, twice that of no density at all.
    cells = with_one_away(100.0)
    found = DensityPrior(cells[-30:], d=8.0, ls=500.0).fit(cells)
    assert found.iterations < 40
    assert np.abs(found.log_density).max() < 50
    for landmarks in (slice(None), slice(-30, None)):
        cells = with_one_away(1e4)
        with pytest.raises(ValueError, match="a cell lies too far from all others .* leave such"):
            DensityPrior(cells[landmarks], d=40.0, ls=5000.0).fit(cells)
    with pytest.raises(ValueError, match="overflows where the search begins: .*mu is too high"):
        DensityPrior(d=2.0, mu=1e5).fit(cloud())


def test_densities_refuse_what_they_cannot_use():
    cells = cloud()
    inducing = DensityPrior(cells[:10], ls=1.0).inducing
    near = nearest_of(cells)
    with pytest.raises(ValueError, match="59 nearest distances for 60 cells"):
        Density.of(cells, inducing, near[1:], 2.0)
    with pytest.raises(ValueError, match="missing, infinite or 0: use validate_nn"):
        Density.of(cells, inducing, np.where(near == near[0], 0.0, near), 2.0)
    with pytest.raises(ValueError, match="optimizer is 'newton' or 'lbfgs', not 'advi'"):
        Density.of(cells, inducing, near, 2.0, optimizer="advi")
    with pytest.raises(ValueError, match="mu is nan: give a finite number"):
        Density.of(cells, inducing, near, 2.0, mu=math.nan)
    with pytest.raises(ValueError, match="points of 3 features, densities of 2"):
        Density.of(cells, inducing, near, 2.0).predict(cloud(5, 3))
    with pytest.raises(ValueError, match="missing or infinite"):
        Density.of(cells, inducing, near, 2.0).predict(np.full((2, 2), np.nan))


# Dimension


def test_the_fractal_dimension_is_the_mean_slope_over_the_pairs_of_each_ball():
    cells = cloud(30, 3)
    slopes = []
    for cell in cells:
        ball = cells[np.argsort(((cells - cell) ** 2).sum(axis=1))[:10]]
        away = [np.linalg.norm(ball[i] - ball[j]) for i in range(10) for j in range(i)]
        slopes.append(np.polyfit(np.log(np.sort(away)), np.log(np.arange(1, 46)), 1)[0])
    assert fractal_dimension(cells) == pytest.approx(np.mean(slopes), rel=1e-12)


def test_the_fractal_dimension_tells_a_line_from_a_plane():
    at = np.random.default_rng(0).random((600, 2))
    line, plane = np.zeros((2, 600, 7))
    line[:, 3] = at[:, 0]
    plane[:, 2:4] = at
    assert fractal_dimension(line) == pytest.approx(1.0, abs=0.2)
    # A small ball at the edge of a square is half empty, and distances within it are noisy.
    assert 1.4 < fractal_dimension(plane) < 2.0


def test_the_dimension_can_be_the_number_of_features_or_given():
    assert intrinsic_dimension(cloud(5, 7), method="embedding") == 7.0
    assert intrinsic_dimension(cloud(5, 7), 2.5) == 2.5


def test_cells_at_one_place_do_not_spoil_the_dimension():
    cells = cloud(100, 3)
    twice = np.vstack([cells, cells[:1]])
    assert fractal_dimension(twice) == pytest.approx(fractal_dimension(cells), rel=0.02)


@pytest.mark.parametrize(
    ("cells", "options", "says"),
    [
        (cloud(2), {}, "3 cells or more, not .*: give d"),
        (np.zeros((20, 2)), {}, "lie at one place or distance: give d"),
        (np.full((20, 2), np.nan), {}, "missing or infinite"),
        (cloud(20, 60), {"method": "embedding"}, r"60 \(embedding\), too high .*at most 50"),
        (cloud(20), {"method": "pca"}, "'fractal' or 'embedding', or give d itself; not 'pca'"),
        (cloud(20), {"d": 0.0}, "a number above 0, not 0"),
        (cloud(20), {"d": math.nan}, "a number above 0, not nan"),
    ],
)
def test_a_dimension_that_cannot_be_is_an_error(cells, options, says):
    with pytest.raises(ValueError, match=says):
        intrinsic_dimension(cells, **options)


# Changes


def test_a_change_is_by_hand():
    found = change(
        np.array([0.0, 0.0, 0.0, 1.0]),
        np.array([2.0, 0.5, -3.0, 1.0]),
        np.array([1.0, 0.01, 1e9, 0.0]),
        threshold=1.0,
        ptp_threshold=0.05,
        eps=1e-12,
    )
    np.testing.assert_array_equal(found.log_fold_change, [2.0, 0.5, -3.0, 0.0])
    np.testing.assert_allclose(found.z, [2.0, 5.0, -3 / math.sqrt(1e9), 0.0], rtol=1e-9)
    tail = [norm.sf(2), norm.sf(5), norm.sf(3 / math.sqrt(1e9)), 0.5]
    np.testing.assert_allclose(found.neg_log10_ptp, -np.log10(tail), rtol=1e-9)
    # Too small a change, and too unsure a one, have no direction.
    assert found.direction.tolist() == ["up", "neutral", "neutral", "neutral"]
    assert found.direction.dtype == object


def test_the_two_sided_tail_is_twice_the_one_sided():
    zero, two = np.zeros(3), np.array([-2.0, 0.0, 40.0])
    one_sided, two_sided = (change(zero, two, zero + 1.0, ptp_sides=k) for k in (1, 2))
    np.testing.assert_allclose(
        one_sided.neg_log10_ptp - two_sided.neg_log10_ptp, math.log10(2.0), rtol=1e-12
    )
    assert two_sided.neg_log10_ptp[1] == pytest.approx(0.0, abs=1e-15)
    assert np.isfinite(two_sided.neg_log10_ptp).all()


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"threshold": -1.0}, "log_fold_change_threshold is 0 or more, not -1"),
        ({"threshold": math.nan}, "log_fold_change_threshold is 0 or more, not nan"),
        ({"ptp_threshold": 0.0}, "probability above 0"),
        ({"ptp_threshold": 1.5}, "probability above 0"),
        ({"ptp_sides": 3}, "1 or 2, not 3"),
        ({"eps": -1.0}, "eps is 0 or more"),
    ],
)
def test_options_of_a_change_have_their_ranges(options, says):
    with pytest.raises(ValueError, match=says):
        change(np.zeros(2), np.ones(2), np.ones(2), **options)


def test_a_change_refuses_numbers_that_are_missing_and_variances_of_nothing():
    with pytest.raises(ValueError, match="missing or infinite"):
        change(np.zeros(2), np.array([1.0, np.nan]), np.ones(2))
    with pytest.raises(ValueError, match="give an eps above 0"):
        change(np.zeros(2), np.ones(2), np.zeros(2), eps=0.0)


def test_conditions_in_the_other_order_change_the_other_way():
    cells = cloud(80), cloud(70, seed=1, shift=0.5)
    points = cloud(20, seed=2)
    prior = DensityPrior(cloud(10, seed=3))
    there = Abundance.of(cells, prior, synchronize=True).predict(points, threshold=0.2)
    back = Abundance.of(cells[::-1], prior, synchronize=True).predict(points, threshold=0.2)
    np.testing.assert_allclose(there.log_fold_change, -back.log_fold_change, atol=1e-9)
    np.testing.assert_allclose(there.uncertainty, back.uncertainty, rtol=1e-9)
    other = {"up": "down", "down": "up", "neutral": "neutral"}
    assert there.direction.tolist() == [other[word] for word in back.direction]


def test_synchronized_densities_have_one_dimension_mean_and_length_scale():
    first, second = cloud(80), cloud(70, seed=1)
    found = Abundance.of((first, second), DensityPrior(), synchronize=True).densities
    both = np.vstack([first, second])
    near = nearest_of(both)
    d = fractal_dimension(both)
    alone = gammaln(d / 2 + 1) - d / 2 * math.log(math.pi) - d * np.log(near)
    for density in found:
        assert density.d == d
        assert density.mu == pytest.approx(np.quantile(alone, 0.01) - 10, rel=1e-12)
        assert density.inducing.length_scale == pytest.approx(
            10 * math.exp(np.log(near).mean() + 3), rel=1e-12
        )
    assert (
        len({density.d for density in Abundance.of((first, second), DensityPrior()).densities}) > 1
    )


# Samples


def test_the_variance_over_samples_is_that_of_their_densities():
    cells, samples = cloud(90), np.repeat(["a", "b", "c"], 30)
    points = cloud(6, seed=1)
    found = DensitySamples.of(cells, samples, DensityPrior(cells[:8]))
    each = [DensityPrior(cells[:8]).fit(cells[samples == s]).predict(points) for s in "abc"]
    np.testing.assert_allclose(found.variance(points)[:, 0], np.var(each, axis=0, ddof=1))
    full = found.variance(points, diag=False)
    assert full.shape == (6, 6, 1)
    np.testing.assert_allclose(full[:, :, 0], np.cov(np.array(each).T), rtol=1e-9)


def test_the_variances_over_samples_add_to_the_uncertainty():
    cells = cloud(60), cloud(60, seed=1)
    samples = np.repeat([0, 1], 30)
    points = cloud(5, seed=2)
    prior = DensityPrior(cloud(8, seed=3), d=2.0)
    without = Abundance.of(cells, prior).predict(points).uncertainty
    both = Abundance.of(cells, prior, (samples, samples))
    added = sum(of.variance(points)[:, 0] for of in both.samples)
    np.testing.assert_allclose(both.predict(points).uncertainty, without + added)
    one = Abundance.of(cells, prior, (None, samples)).predict(points).uncertainty
    np.testing.assert_allclose(one, without + both.samples[1].variance(points)[:, 0])


def test_samples_can_have_a_length_scale_of_their_own():
    cells, samples = (cloud(60), cloud(60, seed=1)), np.repeat([0, 1], 30)
    found = Abundance.of(cells, DensityPrior(ls=3.0), (samples, None), sample_ls=2.0)
    assert [x.inducing.length_scale for x in found.densities] == [3.0, 3.0]
    assert [x.inducing.length_scale for x in found.samples[0].densities] == [2.0, 2.0]


def test_small_samples_are_left_out_with_a_warning(caplog):
    samples = np.repeat(["a", "b", "c"], [30, 30, 1])
    with caplog.at_level(logging.WARNING):
        found = DensitySamples.of(cloud(61), samples, DensityPrior())
    assert found.names == ["a", "b"]
    assert "samples of fewer than 2 cells are left out: c" in caplog.text


def test_samples_too_small_to_tell_their_dimension_are_refused_unless_it_is_known():
    cells, samples = cloud(65), np.repeat(["a", "b", "c"], [30, 30, 5])
    with pytest.raises(ValueError, match=r"fewer than 10 cells .* \(c\): set sync_parameters"):
        DensitySamples.of(cells, samples, DensityPrior())
    for prior in (DensityPrior(d=2.0), DensityPrior(d_method="embedding")):
        assert DensitySamples.of(cells, samples, prior).names == ["a", "b", "c"]
    assert DensitySamples.of(cells, samples, DensityPrior(), min_cells=10).names == ["a", "b"]
    synchronized = DensityPrior().synchronized(cells)
    assert DensitySamples.of(cells, samples, synchronized).names == ["a", "b", "c"]


def test_a_single_sample_is_an_error_or_takes_the_variance_of_the_other_condition(caplog):
    cells = cloud(40), cloud(40, seed=1)
    one, two = np.zeros(40, int), np.repeat([0, 1], 20)
    points = cloud(5, seed=2)
    prior = DensityPrior(d=2.0)
    with pytest.raises(TooFewSamples, match="condition 1: At least 2 groups .*single_condition"):
        Abundance.of(cells, prior, (one, two))
    found = Abundance.of(cells, prior, (one, two), share_variance=True)
    assert found.samples[0] is found.samples[1]
    assert "condition 1 has too few samples" in caplog.text
    without = Abundance.of(cells, prior).predict(points).uncertainty
    added = found.predict(points).uncertainty - without
    np.testing.assert_allclose(added, 2 * found.samples[1].variance(points)[:, 0], rtol=1e-9)
    with pytest.raises(TooFewSamples, match="neither condition has 2 samples"):
        Abundance.of(cells, prior, (one, one), share_variance=True)
    with pytest.raises(ValueError, match=r"shape \(39,\) for 40 cells"):
        Abundance.of(cells, prior, (two[1:], two))


# Under kompot's names


def fitted(**options):
    return DifferentialAbundance(n_landmarks=10).fit(cloud(60), cloud(50, seed=1), **options)


def test_predictions_are_returned_and_kept():
    model = fitted()
    found = model.predict(cloud(7, seed=2))
    assert set(found) == {
        *("log_density_condition1", "log_density_condition2", "log_fold_change"),
        *("log_fold_change_uncertainty", "log_fold_change_zscore"),
        *("neg_log10_fold_change_ptp", "log_fold_change_direction"),
    }
    for name, values in found.items():
        assert values.shape == (7,)
        assert getattr(model, name) is values


def test_thresholds_can_be_given_anew():
    model = fitted(ls=1.0)
    points = cloud(40, seed=2)
    model.eps = 1e3
    assert set(model.predict(points)["log_fold_change_direction"]) == {"neutral"}
    found = model.predict(points, log_fold_change_threshold=0.0, ptp_threshold=1.0)
    assert set(found["log_fold_change_direction"]) == {"up", "down"}
    assert model.log_fold_change_threshold == 1.0


def test_two_models_are_alike_and_what_was_given_is_unchanged():
    cells = cloud(60), cloud(50, seed=1)
    samples = np.repeat(["a", "b"], 30), np.repeat(["a", "b"], 25)
    before = [x.copy() for x in (*cells, *samples)]
    found = [
        DifferentialAbundance(n_landmarks=10)
        .fit(*cells, None, None, 10.0, True, *samples)
        .predict(cells[0])["log_fold_change_zscore"]
        for _ in range(2)
    ]
    np.testing.assert_array_equal(*found)
    for x, y in zip((*cells, *samples), before, strict=True):
        np.testing.assert_array_equal(x, y)


def test_as_many_landmarks_as_cells_are_the_cells():
    first, second = cloud(20), cloud(15, seed=1)
    model = DifferentialAbundance(n_landmarks=50).fit(first, second)
    np.testing.assert_array_equal(model.landmarks, np.vstack([first, second]))
    assert DifferentialAbundance(n_landmarks=0).fit(first, second).landmarks is None


def test_one_cell_twice_does_not_matter():
    first = np.vstack([cloud(60), cloud(60)[:1]])
    found = DifferentialAbundance().fit(first, cloud(50, seed=1)).predict(cloud(5, seed=2))
    assert np.isfinite(found["log_fold_change_zscore"]).all()


def test_sample_variance_is_used_where_samples_are_given_and_not_refused():
    cells, points = (cloud(60), cloud(60, seed=1)), cloud(5, seed=2)
    samples = dict.fromkeys(
        ("condition1_sample_indices", "condition2_sample_indices"), np.repeat([0, 1], 30)
    )
    name = "log_fold_change_uncertainty"
    without = DifferentialAbundance().fit(*cells).predict(points)[name]
    model = DifferentialAbundance().fit(*cells, **samples)
    assert (model.predict(points)[name] > without).all()
    ignored = DifferentialAbundance(use_sample_variance=False).fit(*cells, **samples)
    np.testing.assert_array_equal(ignored.predict(points)[name], without)
    assert ignored.variance_predictor1 is None
    # A later fit without samples forgets those of an earlier one.
    np.testing.assert_array_equal(model.fit(*cells).predict(points)[name], without)
    with pytest.raises(ValueError, match="use_sample_variance: is True without samples"):
        DifferentialAbundance(use_sample_variance=True).fit(*cells)


def test_predictors_already_learned_need_no_fit():
    samples = np.repeat([0, 1], 30)
    model = fitted(condition1_sample_indices=samples)
    points = cloud(5, seed=2)
    learned = {
        name: getattr(model, name)
        for name in ("density_predictor1", "density_predictor2", "variance_predictor1")
    }
    again = DifferentialAbundance(**learned)
    np.testing.assert_array_equal(
        again.predict(points)["log_fold_change_uncertainty"],
        model.predict(points)["log_fold_change_uncertainty"],
    )
    # A variance given alone is not dropped by the fit.
    fit = DifferentialAbundance(n_landmarks=10, variance_predictor1=model.variance_predictor1).fit(
        cloud(60), cloud(50, seed=1)
    )
    np.testing.assert_array_equal(
        fit.predict(points)["log_fold_change_uncertainty"],
        model.predict(points)["log_fold_change_uncertainty"],
    )
    with pytest.raises(ValueError, match="density_predictor1: is a function"):
        DifferentialAbundance(density_predictor1=lambda x: x)
    with pytest.raises(ValueError, match="needs condition1_sample_indices"):
        DifferentialAbundance(
            use_sample_variance=True,
            density_predictor1=model.density_predictor1,
            density_predictor2=model.density_predictor2,
        ).predict(points)


def test_samples_that_tell_their_own_dimension_are_warned_of(caplog):
    samples = np.repeat([0, 1], 30)
    fitted(condition1_sample_indices=samples, sync_parameters=True)
    assert "sync_parameters=True avoids it" not in caplog.text
    fitted(condition1_sample_indices=samples)
    assert "sync_parameters=True avoids it" in caplog.text


def test_predict_before_fit_is_an_error():
    with pytest.raises(ValueError, match=r"Model not fitted\. Call fit\(\) first\."):
        DifferentialAbundance().predict(cloud())


def test_every_fault_of_the_input_is_reported_at_once():
    bad = cloud(50, 3)
    bad[4, 1] = np.nan
    with pytest.raises(ValueError) as error:
        DifferentialAbundance().fit(
            cloud(60),
            bad,
            condition1_sample_indices=np.zeros(59),
            condition2_sample_indices=np.where(np.arange(50) == 3, None, "a"),
            optimizer="advi",
        )
    for says in (
        "5 problems",
        "X_condition2: has 3 features, X_condition1 2",
        "X_condition2: 1 cells have a missing or infinite value, first in row 4",
        "condition1_sample_indices: has shape (59,) for 60 cells",
        "condition2_sample_indices: 1 cells have no sample",
        "optimizer: is 'advi'",
    ):
        assert says in str(error.value)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"n_landmarks": 1}, "n_landmarks: is 1"),
        ({"n_landmarks": -5}, "n_landmarks: is -5"),
        ({"batch_size": -1}, "batch_size: is -1"),
    ],
)
def test_options_that_cannot_be_are_errors(options, says):
    with pytest.raises(ValueError, match=says):
        DifferentialAbundance(**options)


def test_unknown_keywords_are_errors():
    with pytest.raises(TypeError, match="gp_type"):
        fitted(gp_type="full")


def test_the_name_kompot_has_for_its_optimizer_is_understood():
    one, two = (fitted(optimizer=by).density_predictor1.z for by in ("L-BFGS-B", "lbfgs"))
    np.testing.assert_array_equal(one, two)
