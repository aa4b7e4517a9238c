"""Outcomes: centred log-ratios with their floor, log1p of scaled counts."""

import logging

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.outcomes.clr import clr, floored, usage_floor
from condrand.outcomes.expression import effect_scale, log1p_cpm


@pytest.fixture
def usage() -> np.ndarray:
    """Compositions of 40 cells in 6 programs, a fifth of the entries exactly zero."""
    random = np.random.default_rng(0)
    values = random.gamma(0.7, size=(40, 6)) * (random.random((40, 6)) > 0.2)
    values[:, 0] += 0.01
    return values / values.sum(axis=1, keepdims=True)


# Centred log-ratios


def test_clr_is_the_log_over_the_geometric_mean_of_floored_renormalized_rows(usage):
    floor = 1e-3
    raised = np.maximum(usage, floor)
    raised /= raised.sum(axis=1, keepdims=True)
    expected = np.log(raised / np.exp(np.log(raised).mean(axis=1, keepdims=True)))
    # Two logarithms of numbers down to 1e-3: a few rounding errors of 1e-15.
    np.testing.assert_allclose(clr(usage.copy(), floor), expected, atol=1e-13)


def test_rows_of_clr_sum_to_zero_and_ignore_the_scale_of_a_row(usage):
    values = clr(usage + 0.01, 1e-3)
    np.testing.assert_allclose(values.sum(axis=1), 0.0, atol=1e-13)
    np.testing.assert_allclose(clr(7 * (usage + 0.01), 1e-3), values, atol=1e-13)


def test_clr_works_in_place():
    # A million cells are not held twice.
    usage = np.array([[0.5, 0.5], [0.0, 1.0]])
    assert clr(usage, 0.1) is usage
    assert floored(np.array([[0.5, 0.5], [0.0, 1.0]]), 0.25).tolist() == [[0.5, 0.5], [0.2, 0.8]]


def test_the_floor_is_the_quantile_of_all_entries(usage):
    positive = usage + 0.01
    for quantile in (0.0, 1e-4, 0.1, 1.0):
        assert usage_floor(positive, quantile, None) == np.quantile(positive, quantile)


def test_a_given_epsilon_replaces_the_quantile(usage):
    assert usage_floor(usage, 0.5, 1e-5) == 1e-5


def test_a_quantile_of_zero_gives_the_smallest_positive_entry_and_says_so(usage, caplog):
    with caplog.at_level(logging.WARNING):
        floor = usage_floor(usage, 0.05, None)
    assert floor == usage[usage > 0].min() > 0
    assert np.isfinite(clr(usage.copy(), floor)).all()
    share = 100 * np.mean(usage == 0)
    assert "0.05 quantile" in caplog.text and f"{share:.2f} %" in caplog.text


def test_a_positive_quantile_is_no_cause_for_a_warning(usage, caplog):
    usage_floor(usage + 0.01, 0.05, None)
    assert caplog.text == ""


# Expression


@pytest.fixture
def counts() -> np.ndarray:
    """Counts of 30 cells in 8 genes, no cell empty."""
    values = np.random.default_rng(1).poisson(0.8, size=(30, 8)).astype(float)
    values[:, 0] += 1
    return values


@pytest.mark.parametrize("own_library", [False, True])
def test_log1p_cpm_is_its_definition(counts, own_library):
    library = np.linspace(50, 5000, 30) if own_library else None
    total = library if own_library else counts.sum(axis=1)
    expected = np.log(1 + counts * 1e4 / total[:, None])
    np.testing.assert_allclose(log1p_cpm(counts, library, 1e4), expected, rtol=1e-13)


@pytest.mark.parametrize("own_library", [False, True])
def test_sparse_counts_give_the_bits_of_dense_ones(counts, own_library):
    library = np.linspace(50, 5000, 30) if own_library else None
    dense = log1p_cpm(counts, library, 1e6)
    sparse = log1p_cpm(sp.csr_matrix(counts), library, 1e6)
    assert sp.issparse(sparse) and sparse.nnz == np.count_nonzero(counts)
    np.testing.assert_array_equal(sparse.toarray(), dense)


def test_explicit_zeros_stay_zeros_and_rows_may_be_empty():
    matrix = sp.csr_matrix(
        (np.array([0.0, 3.0]), np.array([1, 2]), np.array([0, 1, 1, 2])), shape=(3, 4)
    )
    out = log1p_cpm(matrix, np.array([10.0, 10.0, 6.0]), 2.0)
    np.testing.assert_allclose(out.toarray()[2], [0, 0, np.log(2), 0], rtol=1e-15)
    assert not out.toarray()[:2].any()


@pytest.mark.parametrize("dtype", [np.float64, np.float32, np.int32])
def test_counts_are_not_changed_and_come_out_as_float64(counts, dtype):
    for matrix in (counts.astype(dtype), sp.csr_matrix(counts.astype(dtype))):
        out = log1p_cpm(matrix, None, 1e6)
        assert out.dtype == np.float64
        kept = matrix.toarray() if sp.issparse(matrix) else matrix
        np.testing.assert_array_equal(kept, counts)


@pytest.mark.parametrize(
    ("target_sum", "words"),
    [(1e6, "CPM"), (1e4, "CP10k"), (5000.0, "counts per 5000")],
)
def test_the_scale_of_effects_names_the_target_sum(target_sum, words):
    assert effect_scale(target_sum) == f"log1p {words} (natural log)"
