"""Leave-one-out p values of resamples against their quadratic definition."""

import numpy as np
import pytest

from condrand.nulls.leave_one_out import (
    compute_null_pvals_from_null_stats,
    crt_null_pvals_from_null_stats_fast,
    crt_null_pvals_from_null_stats_matrix,
    qq_expected_grid,
    rank_counts,
)

SIDES = [0, 1, -1]


def naive(null: np.ndarray, side: int) -> np.ndarray:
    """``(1 + #{b' != b: at least as extreme}) / B``, one pair after the other."""
    extremity = np.abs(null) if side == 0 else side * null
    n = len(null)
    p = np.empty(null.shape)
    for k in range(null.shape[1]):
        for b in range(n):
            others = sum(extremity[c, k] >= extremity[b, k] for c in range(n) if c != b)
            p[b, k] = (1 + others) / n
    return p


@pytest.fixture(params=["no ties", "ties"])
def null(request):
    """61 resamples of 4 features; in one of them all resamples agree."""
    values = np.random.default_rng(0).normal(0.3, 1.0, size=(61, 4))
    if request.param == "ties":
        values = np.round(values, 0)
        values[:, 2] = -1.5
    return values


@pytest.mark.parametrize("side", SIDES)
def test_p_values_are_those_of_the_definition(null, side):
    got = compute_null_pvals_from_null_stats(null, side)
    np.testing.assert_array_equal(got, naive(null, side))
    for k in range(4):
        alone = compute_null_pvals_from_null_stats(null[:, k], side)
        np.testing.assert_array_equal(alone, got[:, k])
    assert got.min() >= 1 / 61 and got.max() <= 1


def test_the_fast_and_the_matrix_form_agree_with_the_general_one(null):
    for two_sided, side in ((True, 0), (False, 1)):
        expected = compute_null_pvals_from_null_stats(null, side)
        matrix = crt_null_pvals_from_null_stats_matrix(null, two_sided=two_sided)
        np.testing.assert_array_equal(matrix, expected)
        fast = crt_null_pvals_from_null_stats_fast(null[:, 1], two_sided=two_sided)
        np.testing.assert_array_equal(fast, expected[:, 1])


@pytest.mark.parametrize("side", SIDES)
def test_rank_counts_count_the_p_values(null, side):
    p = compute_null_pvals_from_null_stats(null, side)
    expected = [np.sum(np.isclose(p, j / 61)) for j in range(1, 62)]
    got = rank_counts(null, side)
    assert got.dtype == np.int64 and got.sum() == null.size
    np.testing.assert_array_equal(got, expected)


def test_without_ties_every_p_value_occurs_once_per_feature():
    null = np.random.default_rng(1).normal(size=(200, 7))
    np.testing.assert_array_equal(rank_counts(null), np.full(200, 7))


def test_the_input_is_not_changed(null):
    before = null.copy()
    compute_null_pvals_from_null_stats(null)
    rank_counts(null, -1)
    np.testing.assert_array_equal(null, before)


def test_one_resample_has_p_one():
    assert compute_null_pvals_from_null_stats(np.array([3.0])).tolist() == [1.0]


@pytest.mark.parametrize(
    "null, side, told",
    [
        (np.ones(3), 2, "side_code"),
        (np.empty((0, 2)), 0, "shape"),
        (np.ones((2, 2, 2)), 0, "shape"),
        (np.array([1.0, np.nan]), 0, "NaN"),
    ],
)
def test_what_has_no_rank_is_refused(null, side, told):
    with pytest.raises(ValueError, match=told):
        compute_null_pvals_from_null_stats(null, side)
    with pytest.raises(ValueError, match=told):
        rank_counts(null, side)


def test_the_expected_grid_has_half_a_step_at_its_ends():
    np.testing.assert_allclose(qq_expected_grid(np.ones((2, 2))), [0.125, 0.375, 0.625, 0.875])
    assert qq_expected_grid([]).size == 0
