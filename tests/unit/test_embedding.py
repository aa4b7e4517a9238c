"""States of cells from their expression, against definitions by brute force."""

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.outcomes.embedding import (
    diffusion_components,
    moments,
    most_variable,
    neighbour_graph,
    principal_components,
    signed,
)


def expression(n=90, n_features=25, seed=0):
    random = np.random.default_rng(seed)
    hidden = random.normal(size=(n, 3)) * [5.0, 3.0, 2.0]
    return hidden @ random.normal(size=(3, n_features)) + random.normal(size=(n, n_features))


def pieces_of(y, size):
    return lambda: (y[start : start + size] for start in range(0, len(y), size))


def brute_graph(x, k):
    """The dense graph, cell by cell."""
    n = len(x)
    away = np.linalg.norm(x[:, None] - x[None], axis=2)
    order = np.argsort(away, axis=1, kind="stable")
    scale = np.array([away[i, order[i, -(-k // 3)]] for i in range(n)])
    graph = np.eye(n)
    for i in range(n):
        for j in order[i, 1 : k + 1]:
            graph[i, j] = graph[j, i] = np.exp(-(away[i, j] ** 2) / (scale[i] * scale[j]))
    return graph


def brute_diffusion(x, n_components, k):
    """Right eigenvectors of the Markov matrix, each of variance 1."""
    graph = brute_graph(x, k)
    q = graph.sum(axis=1)
    freed = graph / np.outer(q, q)
    markov = freed / freed.sum(axis=1)[:, None]
    values, vectors = np.linalg.eig(markov)
    order = np.argsort(-values.real)[1 : n_components + 1]
    values, vectors = values.real[order], vectors.real[:, order]
    stationary = freed.sum(axis=1) / freed.sum()
    vectors = vectors / np.sqrt((stationary[:, None] * vectors**2).sum(axis=0))
    return signed(vectors * values / (1 - values))


@pytest.mark.parametrize("is_sparse", [True, False])
def test_moments_are_those_of_numpy(is_sparse):
    y = np.random.default_rng(3).poisson(0.7, (60, 12)).astype(float)
    y[:, 4] = 0.0
    mean, variance = moments(sp.csr_matrix(y) if is_sparse else y)
    np.testing.assert_allclose(mean, y.mean(axis=0), rtol=1e-14)
    np.testing.assert_allclose(variance, y.var(axis=0, ddof=1), rtol=1e-13)


def test_features_that_vary_most_are_chosen_and_the_first_of_equal_ones():
    variances = np.array([0.0, 2.0, 1.0, 2.0, 3.0, 1.0])
    assert most_variable(variances, 3).tolist() == [1, 3, 4]
    assert most_variable(variances, 4).tolist() == [1, 2, 3, 4]
    assert most_variable(variances, 50).tolist() == [1, 2, 3, 4, 5]


@pytest.mark.parametrize("size", [90, 17])
def test_principal_components_are_those_of_a_singular_value_decomposition(size):
    y = expression()
    found = principal_components(pieces_of(y, size), y.mean(axis=0), 5)
    u, s, vt = np.linalg.svd(y - y.mean(axis=0), full_matrices=False)
    loadings = signed(vt[:5].T)
    turn = np.sign((loadings * vt[:5].T).sum(axis=0))
    np.testing.assert_allclose(found.loadings, loadings, atol=1e-10)
    np.testing.assert_allclose(found.scores, u[:, :5] * s[:5] * turn, atol=1e-9)
    np.testing.assert_allclose(found.variance, s[:5] ** 2 / 89, rtol=1e-10)
    np.testing.assert_allclose(found.share, s[:5] ** 2 / (s**2).sum(), rtol=1e-10)
    largest = np.abs(found.loadings).argmax(axis=0)
    assert (found.loadings[largest, np.arange(5)] > 0).all()


def test_components_that_do_not_vary_are_not_given():
    random = np.random.default_rng(1)
    y = random.normal(size=(50, 2)) @ random.normal(size=(2, 9))
    assert principal_components(pieces_of(y, 20), y.mean(axis=0), 6).scores.shape == (50, 2)
    few = expression(5)
    assert principal_components(pieces_of(few, 9), few.mean(axis=0), 10).scores.shape == (5, 4)


def test_the_neighbour_graph_is_that_of_all_distances():
    x = expression(60, 4)
    graph = neighbour_graph(x, 7)
    np.testing.assert_allclose(graph.toarray(), brute_graph(x, 7), atol=1e-12)
    assert (graph != graph.T).nnz == 0
    # No more neighbours than there are other cells.
    np.testing.assert_allclose(
        neighbour_graph(x[:6], 40).toarray(), brute_graph(x[:6], 5), atol=1e-12
    )


@pytest.mark.parametrize("n", [80, 500])
def test_diffusion_components_are_those_of_the_dense_markov_matrix(n):
    x = np.random.default_rng(4).normal(size=(n, 3)) * [6.0, 2.0, 1.0]
    found = diffusion_components(x, 4, 20)
    wanted = brute_diffusion(x, 4, 20)
    np.testing.assert_allclose(found, wanted, atol=1e-7 * np.abs(wanted).max())
    np.testing.assert_array_equal(found, diffusion_components(x, 4, 20))


def test_cells_that_coincide_have_components():
    x = np.random.default_rng(5).normal(size=(60, 3))
    x[:20] = x[20]
    assert np.isfinite(diffusion_components(x, 3, 12)).all()


def test_a_graph_in_parts_is_refused():
    x = np.random.default_rng(6).normal(size=(60, 3))
    x[:25] += 1000.0
    with pytest.raises(ValueError, match=r"falls into 2 parts of 35, 25 cells"):
        diffusion_components(x, 3, 8)
    with pytest.raises(ValueError, match="too few places"):
        diffusion_components(np.ones((30, 3)), 3, 8)
