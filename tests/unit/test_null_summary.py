"""The mergeable summary of a null: exact counts, order-free sums, moments of known error."""

import copy
from dataclasses import fields

import numpy as np
import pytest

from condrand.kernels.null_summary import CLAMP, N_BINS, POWER_SCALE
from condrand.nulls.summary import EDGES, NullSummary

N_FEATURES = 5
BLOCK_SIZES = [64, 64, 64, 64, 64, 17]  # the last block is partly used


@pytest.fixture(scope="module")
def data():
    """(blocks of resamples, observed, centre, scale)."""
    random = np.random.default_rng(0)
    centre, scale = random.normal(size=N_FEATURES), random.lognormal(size=N_FEATURES)
    blocks = [
        centre + scale * random.gamma(2.0, size=(n, N_FEATURES)) - 2 * scale for n in BLOCK_SIZES
    ]
    observed = centre + scale * np.array([0.0, 1.0, -1.0, 30.0, 0.3])
    observed[4] = blocks[1][3, 4]  # a tie
    return blocks, observed, centre, scale


def summary_of(blocks, observed, centre, scale) -> NullSummary:
    """Summary of some blocks, added one after the other."""
    summary = NullSummary.empty(observed.size)
    for block in blocks:
        summary.add_resamples(block, observed, centre, scale)
    return summary


def assert_same_bits(a: NullSummary, b: NullSummary) -> None:
    """All arrays equal, with their types."""
    for field in fields(NullSummary):
        left, right = getattr(a, field.name), getattr(b, field.name)
        assert left.dtype == right.dtype, field.name
        np.testing.assert_array_equal(left, right, err_msg=field.name)


# Merging


def test_any_split_and_order_of_blocks_gives_the_same_bits(data):
    blocks, *units = data
    whole = summary_of(blocks, *units)
    random = np.random.default_rng(1)
    for _ in range(20):
        order = random.permutation(len(blocks))
        parts = np.split(order, np.sort(random.choice(np.arange(1, 6), 3, replace=False)))
        total = NullSummary.empty(N_FEATURES)
        for part in parts:
            total += summary_of([blocks[i] for i in part], *units)
        assert_same_bits(total, whole)


def test_the_empty_summary_is_neutral_on_both_sides(data):
    blocks, *units = data
    left, right = summary_of(blocks, *units), NullSummary.empty(N_FEATURES)
    right += left
    left += NullSummary.empty(N_FEATURES)
    assert_same_bits(left, summary_of(blocks, *units))
    assert_same_bits(right, summary_of(blocks, *units))


def test_adding_leaves_the_other_summary_alone(data):
    blocks, *units = data
    one, other = summary_of(blocks[:2], *units), summary_of(blocks[2:], *units)
    before = copy.deepcopy(other)
    one += other
    one += other
    assert_same_bits(other, before)


# Counts


def test_exceedances_are_those_of_the_definition_ties_on_both_sides(data):
    blocks, observed, centre, scale = data
    null = np.concatenate(blocks)
    summary = summary_of(blocks, observed, centre, scale)
    expected = [
        np.sum(null >= observed, axis=0),
        np.sum(null <= observed, axis=0),
        np.sum(np.abs(null) >= np.abs(observed), axis=0),
        np.sum(np.abs(null - centre) >= np.abs(observed - centre), axis=0),
    ]
    np.testing.assert_array_equal(summary.exceed, expected)
    assert summary.exceed[0, 4] + summary.exceed[1, 4] == null.shape[0] + 1
    assert summary.n.tolist() == [null.shape[0]]


def test_the_histogram_is_that_of_numpy_and_totals_n(data):
    blocks, observed, centre, scale = data
    summary = summary_of(blocks, observed, centre, scale)
    z = (np.concatenate(blocks) - centre) / scale
    for k in range(N_FEATURES):
        np.testing.assert_array_equal(summary.histogram[k], np.histogram(z[:, k], EDGES)[0])
    np.testing.assert_array_equal(summary.histogram.sum(axis=1), summary.n[0])


def test_values_on_an_edge_count_above_it_and_far_ones_in_the_end_bins():
    z = np.array([0.0, 0.125, -0.125, 7.999, 8.0, -8.0, -8.001, 63.0, 64.0, 1e9, -64.0, -1e300])
    summary = summary_of([z[:, None]], np.zeros(1), np.zeros(1), np.ones(1))
    expected = np.zeros(N_BINS, int)
    for value in z:
        expected[np.clip(np.searchsorted(EDGES, value, side="right") - 1, 0, N_BINS - 1)] += 1
    np.testing.assert_array_equal(summary.histogram[0], expected)
    assert summary.histogram[0].sum() == z.size
    assert (summary.histogram[0, 0], summary.histogram[0, -1]) == (4, 5)


def test_a_feature_without_scale_keeps_its_counts_and_nothing_else(data):
    blocks, observed, centre, scale = data
    scale = scale.copy()
    scale[2] = 0.0
    summary = summary_of(blocks, observed, centre, scale)
    full = summary_of(*data)
    np.testing.assert_array_equal(summary.exceed, full.exceed)
    assert not summary.powers[:, 2].any() and not summary.histogram[2].any()
    assert summary.extremes[:, 2].tolist() == [np.inf, -np.inf]
    np.testing.assert_array_equal(summary.powers[:, 3], full.powers[:, 3])


# Moments


def test_moments_are_those_of_numpy(data):
    blocks, observed, centre, scale = data
    z = (np.concatenate(blocks) - centre) / scale
    mean, sd, skewness = summary_of(*data).moments()
    # Each block rounds a power sum to half a unit of 2**-36, 2**-30, 2**-24.
    half_units = 0.5 * len(blocks) / z.shape[0] / np.array(POWER_SCALE)
    slack = 1e-13  # rounding of the float64 sums themselves
    assert np.abs(mean - z.mean(axis=0)).max() < half_units[0] + slack
    second = sd**2 + mean**2
    assert np.abs(second - np.mean(z**2, axis=0)).max() < half_units[1] + slack
    centred = z - z.mean(axis=0)
    true = np.mean(centred**3, axis=0) / z.std(axis=0) ** 3
    # Errors of all three powers, for sd near 1.4 and means near 0.
    assert np.abs(skewness - true).max() < 8 * half_units[2]


def test_extremes_are_kept_exactly(data):
    blocks, observed, centre, scale = data
    z = (np.concatenate(blocks) - centre) / scale
    np.testing.assert_array_equal(summary_of(*data).extremes, [z.min(axis=0), z.max(axis=0)])


def test_a_null_that_does_not_vary_has_no_skewness():
    summary = summary_of([np.full((100, 1), 0.5)], np.zeros(1), np.zeros(1), np.ones(1))
    mean, sd, skewness = summary.moments()
    np.testing.assert_array_equal(np.concatenate([mean, sd, skewness]), [0.5, 0.0, np.nan])


def test_values_beyond_the_clamp_enter_the_powers_clamped_and_the_extremes_whole():
    z = np.array([1.0, 2.0, 1000.0, -70.0])
    summary = summary_of([z[:, None]], np.zeros(1), np.zeros(1), np.ones(1))
    clamped = np.clip(z, -CLAMP, CLAMP)
    expected = [np.sum(clamped**i) * scale for i, scale in enumerate(POWER_SCALE, 1)]
    np.testing.assert_array_equal(summary.powers[:, 0], expected)
    # What diagnose() sees: an extreme no moment explains.
    np.testing.assert_array_equal(summary.extremes[:, 0], [-70.0, 1000.0])


def test_infinite_values_are_counted_and_spoil_no_integer():
    null = np.array([[np.inf], [-np.inf], [0.0]])
    summary = summary_of([null], np.array([1.0]), np.zeros(1), np.ones(1))
    assert summary.exceed[:, 0].tolist() == [1, 2, 2, 2]
    assert summary.histogram[0].sum() == 3
    assert summary.powers[:, 0].tolist() == [0, 2 * int(CLAMP**2 * POWER_SCALE[1]), 0]


def test_a_million_clamped_resamples_do_not_overflow():
    summary = summary_of([np.full((1024, 1), 1e6)], np.zeros(1), np.zeros(1), np.ones(1))
    for _ in range(10):  # doubled ten times: 2**20 resamples
        summary += copy.deepcopy(summary)
    assert summary.n[0] == 2**20
    np.testing.assert_allclose(summary.moments()[0], CLAMP, rtol=1e-15)


# Shapes


def test_stacked_and_unstacked_are_inverse(data):
    blocks, *units = data
    summaries = [summary_of(blocks[:i], *units) for i in range(4)]
    arrays = NullSummary.stacked(summaries, N_FEATURES)
    assert {name: array.shape for name, array in arrays.items()} == {
        "n": (4, 1),
        "exceed": (4, 4, N_FEATURES),
        "powers": (4, 3, N_FEATURES),
        "extremes": (4, 2, N_FEATURES),
        "histogram": (4, N_FEATURES, N_BINS),
    }
    for back, summary in zip(NullSummary.unstacked(arrays), summaries, strict=True):
        assert_same_bits(back, summary)


def test_a_batch_without_units_stacks_to_arrays_of_the_right_shape():
    arrays = NullSummary.stacked([], N_FEATURES)
    filled = NullSummary.stacked([NullSummary.empty(N_FEATURES)], N_FEATURES)
    for name, array in arrays.items():
        assert array.shape == (0, *filled[name].shape[1:])
        assert array.dtype == filled[name].dtype
    assert NullSummary.unstacked(arrays) == []


def test_joined_puts_features_side_by_side(data):
    blocks, observed, centre, scale = data
    columns = [[0, 1], [2], [3, 4]]
    parts = [
        summary_of(
            [np.ascontiguousarray(b[:, c]) for b in blocks], observed[c], centre[c], scale[c]
        )
        for c in columns
    ]
    assert_same_bits(NullSummary.joined(parts), summary_of(*data))


def test_joining_nothing_gives_no_features():
    joined = NullSummary.joined([])
    assert joined.exceed.shape == (4, 0) and joined.n.tolist() == [0]


def test_summaries_of_different_numbers_of_resamples_are_not_joined(data):
    blocks, *units = data
    parts = [summary_of(blocks[:1], *units), summary_of(blocks[:2], *units)]
    with pytest.raises(ValueError, match=r"different numbers of resamples: \[64, 128\]"):
        NullSummary.joined(parts)


def test_adding_to_a_joined_summary_leaves_its_parts_alone(data):
    part = summary_of(*data)
    before = copy.deepcopy(part)
    joined = NullSummary.joined([part, copy.deepcopy(part)])
    joined += copy.deepcopy(joined)
    assert_same_bits(part, before)
