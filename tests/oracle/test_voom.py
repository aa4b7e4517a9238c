"""voom, and quality weights of samples, against limma and by hand."""

import logging

import numpy as np
import pytest

from condrand.linear.fit import lm_fit
from condrand.linear.lowess import lowess
from condrand.linear.voom import adaptive_span, voom
from condrand.linear.weights import array_weights, voom_with_quality_weights
from references import gate

EXACT = 1e-11  # relative: the gate of weights


@pytest.fixture(scope="module")
def kept(limma_table):
    """Counts of the 14,453 genes that pass the filter."""
    genes = limma_table("limma_ref_seed_genes.csv.gz").index
    return limma_table("gse60450_counts.csv.gz").loc[genes].to_numpy()


def case(n_genes=300, n=9, seed=0):
    """Counts with more variance than Poisson, three of them without any, and a design."""
    random = np.random.default_rng(seed)
    mean = random.lognormal(3, 2, n_genes)[:, None] * random.lognormal(0, 0.3, n)
    counts = random.poisson(mean * random.gamma(5, 0.2, (n_genes, n)))
    counts[:, 0] = np.maximum(counts[:, 0], 1)
    counts[[3, 10, -3]] = 0
    design = np.column_stack([np.ones(n), np.arange(n) % 3 == 0, random.normal(size=n)])
    return counts, design.astype(float)


def slow_voom(counts, design, library, span):
    """voom as its definition reads."""
    E = np.log2((counts + 0.5) / (library + 1) * 1e6)
    B = np.linalg.lstsq(design, E.T, rcond=None)[0]
    df = design.shape[0] - np.linalg.matrix_rank(design)
    sigma = np.sqrt(np.sum((E - (design @ B).T) ** 2, axis=1) / df)
    some = counts.sum(axis=1) > 0
    x = (E.mean(axis=1) + np.mean(np.log2(library + 1)) - np.log2(1e6))[some]
    x, y = lowess(x, np.sqrt(sigma)[some], span)
    fitted = np.log2(1e-6 * 2 ** (design @ B).T * (library + 1))
    return E, np.interp(fitted, x, y) ** -4, x, y


# Against limma


@pytest.mark.parametrize("tag", ["seed", "v354"])
def test_voom_is_that_of_limma(limma_table, groups, kept, tag):
    name = f"limma_ref_{tag}_{{}}.csv.gz"
    scalars = limma_table("limma_ref_scalars.csv").set_index("key").value
    made = voom(kept, groups, span=None if tag == "seed" else 0.5)
    gate("span", "scalars", made.span, scalars[f"{tag}.span"], 1e-15)
    assert np.array_equal(made.lib_size, kept.sum(axis=0))
    gate("E", name.format("E"), made.E, limma_table(name.format("E")), 1e-13)
    weights = limma_table(name.format("weights"))
    gate("weights, rel", name.format("weights"), made.weights, weights, EXACT, True)
    points, line = limma_table(name.format("voom_xy")), limma_table(name.format("voom_line"))
    gate("points x", name.format("voom_xy"), made.points_x, points.x, 1e-13)
    gate("points y, rel", name.format("voom_xy"), made.points_y, points.y, EXACT, True)
    gate("line x", name.format("voom_line"), made.line_x, line.x, 1e-13)
    gate("line y, rel", name.format("voom_line"), made.line_y, line.y, EXACT, True)


@pytest.mark.parametrize("tag", ["adaptive", "half"])
def test_voom_of_300_genes_is_that_of_limma(limma_table, groups, tag):
    counts = limma_table("limma_ref_small_counts.csv").to_numpy()
    scalars = limma_table("limma_ref_small_scalars.csv").set_index("key").value
    made = voom(counts, groups, span=None if tag == "adaptive" else 0.5)
    gate("span", "small_scalars", made.span, float(scalars[f"{tag}.span"]), 1e-15)
    gate("E", "limma_ref_small_E.csv", made.E, limma_table("limma_ref_small_E.csv"), 1e-13)
    source = f"limma_ref_small_{tag}_weights.csv"
    gate("weights, rel", source, made.weights, limma_table(source), EXACT, True)
    source = f"limma_ref_small_{tag}_voomline.csv"
    gate("line x", source, made.line_x, limma_table(source).x, 1e-13)
    gate("line y, rel", source, made.line_y, limma_table(source).y, EXACT, True)
    source = f"limma_ref_small_{tag}_genes.csv"
    gate("points x", source, made.points_x, limma_table(source).sx, 1e-13)
    gate("points y, rel", source, made.points_y, limma_table(source).sy, EXACT, True)


def test_sample_weights_are_those_of_limma(limma_table, groups, kept):
    source = "limma_ref_arrayweights.csv"
    expected = limma_table(source)
    made = voom_with_quality_weights(kept, groups)
    words = "voom with quality weights, rel"
    gate(words, source, made.sample_weights, expected.sample_weight_voomqw, EXACT, True)
    found = array_weights(made.E, groups)
    gate("array weights, rel", source, found, expected.arrayWeights_E, EXACT, True)


# By hand


@pytest.mark.parametrize("span", [None, 0.5])
@pytest.mark.parametrize("given", [False, True])
def test_voom_is_its_definition(span, given):
    counts, design = case()
    library = np.linspace(1e4, 3e5, 9) if given else counts.sum(axis=0)
    made = voom(counts, design, library if given else None, span)
    said = adaptive_span(300) if span is None else span
    E, weights, x, y = slow_voom(counts, design, library, said)
    assert made.points_x.size == 297
    np.testing.assert_allclose(made.E, E, atol=1e-13)
    np.testing.assert_allclose(made.line_x, x, atol=1e-12)
    np.testing.assert_allclose(made.line_y, y, rtol=1e-11)
    np.testing.assert_allclose(made.weights, weights, rtol=1e-10)
    # Fitted values outside the range of the line get its ends.
    ends = np.array([made.line_y[0], made.line_y[-1]]) ** -4
    assert [np.isclose(made.weights, end, rtol=1e-14).any() for end in ends] == [True, True]


def test_the_adaptive_span_narrows_with_the_features():
    assert adaptive_span(14453) == pytest.approx(0.40586897472613503, rel=1e-15)
    assert adaptive_span(50) == adaptive_span(2) == 1.0


def test_equal_x_of_the_line_are_averaged():
    counts, design = case(40)
    counts[5:8] = counts[4]  # one x, one fit
    made = voom(counts, design)
    assert (np.diff(made.line_x) == 0).sum() >= 3
    weights = slow_voom(counts, design, counts.sum(axis=0), adaptive_span(40))[1]
    np.testing.assert_allclose(made.weights, weights, rtol=1e-10)


def test_a_design_column_too_many_does_not_matter():
    counts, design = case()
    one = voom(counts, np.column_stack([design, design[:, 0] - design[:, 1]]))
    two = voom(counts, design)
    assert np.array_equal(one.weights, two.weights)


def test_weights_serve_the_fit_of_the_trend_only():
    counts, design = case()
    w = np.random.default_rng(1).random(9) + 0.2
    made, plain = voom(counts, design, weights=w), voom(counts, design)
    assert np.array_equal(made.E, plain.E)
    fit = lm_fit(plain.E, design, [""] * 300, ["a", "b", "c"], w)
    some = counts.any(axis=1)
    assert np.array_equal(made.points_y, np.sqrt(fit.sigma)[some])
    fitted = fit.coefficients @ design.T + np.log2(made.lib_size + 1) - np.log2(1e6)
    expected = np.interp(fitted, made.line_x, made.line_y) ** -4
    np.testing.assert_allclose(made.weights, expected, rtol=1e-10)
    assert np.abs(made.weights / plain.weights - 1).max() > 0.01


def test_without_replicates_weights_are_one(caplog):
    counts, _ = case(20, 4)
    with caplog.at_level(logging.WARNING):
        made = voom(counts, np.eye(4))
    assert "no replicates" in caplog.text
    assert (made.weights == 1).all()
    assert made.line_x.size == made.points_y.size == 0
    np.testing.assert_allclose(made.E, np.log2((counts + 0.5) / (made.lib_size + 1) * 1e6))


def test_fractions_and_any_number_type_are_counts():
    counts, design = case()
    made = voom(counts, design)
    for dtype in (np.int32, np.uint16, np.float32):
        assert np.array_equal(voom(counts.astype(dtype), design).weights, made.weights)
    assert np.array_equal(voom(np.asfortranarray(counts), design).weights, made.weights)
    halves = voom(counts / 2, design)
    np.testing.assert_allclose(halves.E, np.log2((counts + 1) / (made.lib_size + 2) * 1e6))


@pytest.mark.parametrize("weighted", [False, True])
def test_bits_do_not_depend_on_threads(weighted):
    counts, design = case(500)
    w = np.random.default_rng(1).random(counts.shape) if weighted else None
    one = voom(counts, design, weights=w)
    for threads in (2, 3):
        two = voom(counts, design, weights=w, threads=threads)
        for field in ("E", "weights", "line_x", "line_y", "points_x", "points_y"):
            assert np.array_equal(getattr(one, field), getattr(two, field))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"counts": np.ones((1, 9))}, "2 features or more"),
        ({"counts": np.full((5, 9), np.nan)}, "missing"),
        ({"counts": np.full((5, 9), np.inf)}, "infinite"),
        ({"counts": -np.ones((5, 9))}, "negative"),
        ({"counts": np.zeros((5, 9))}, "every count is zero"),
        ({"design": np.ones((8, 1))}, "8 rows, the counts 9"),
        ({"lib_size": np.ones(8)}, "for 9 samples"),
        ({"lib_size": np.full(9, np.nan)}, "library size is missing"),
        ({"span": 0.0}, "span is a share"),
        ({"span": 1.5}, "span is a share"),
        ({"weights": np.ones(5)}, "weights of shape"),
    ],
)
def test_what_voom_cannot_use_is_refused(changes, words):
    counts, design = case()
    with pytest.raises(ValueError, match=words):
        voom(**{"counts": counts, "design": design, **changes})


# Quality weights


def noisy(n_genes=2000, n=10, seed=0):
    """Values whose last two samples have four times the variance of the others."""
    random = np.random.default_rng(seed)
    spread = np.where(np.arange(n) >= n - 2, 2.0, 1.0)
    E = random.normal(size=(n_genes, 1)) * 3 + random.normal(size=(n_genes, n)) * spread
    design = np.column_stack([np.ones(n), np.arange(n) % 2]).astype(float)
    return E, design, spread**-2 / np.exp(np.mean(np.log(spread**-2.0)))


def slow_quality(E, design, weights, prior):
    """One scoring step a gene, with general matrices."""
    n = E.shape[1]
    Z2 = np.vstack([np.eye(n - 1), -np.ones(n - 1)])
    information, gamma = prior * Z2.T @ Z2, np.zeros(n - 1)
    Z = np.column_stack([np.ones(n), Z2])
    for y, own in zip(E, weights, strict=True):
        w = own * np.exp(-Z2 @ gamma)
        seen = np.isfinite(y) & (w > 0)
        d, h = np.zeros(n), np.ones(n)
        root = np.sqrt(w[seen])
        q = np.linalg.qr(design[seen] * root[:, None])[0]
        z = root * y[seen]
        d[seen] = (z - q @ (q.T @ z)) ** 2
        h[seen] = np.sum(q**2, axis=1)
        A = Z.T @ ((1 - h)[:, None] * Z)
        information = information + A[1:, 1:] - np.outer(A[1:, 0], A[0, 1:]) / A[0, 0]
        s2 = d.sum() / (seen.sum() - design.shape[1])
        gamma = gamma + np.linalg.solve(information, Z2.T @ (d / s2 - (1 - h)))
    return np.exp(-Z2 @ gamma)


@pytest.mark.parametrize("method", ["reml", "gene_by_gene"])
def test_quality_weights_find_the_noisy_samples(method):
    E, design, truth = noisy()
    found = array_weights(E, design, method=method)
    assert np.exp(np.mean(np.log(found))) == pytest.approx(1.0)
    # The log of a variance from about 2000 x 0.8 values has a standard error of 0.035.
    assert np.abs(np.log(found / truth)).max() < 0.035 * 4
    strong = array_weights(E, design, method=method, prior_n=1e6)
    assert np.abs(strong - 1).max() < 0.01


def test_gene_by_gene_is_its_definition():
    E, design, _ = noisy(60)
    weights = np.random.default_rng(1).random(E.shape) + 0.3
    for prior in (10.0, 1.0):
        found = array_weights(E, design, weights, prior_n=prior)
        np.testing.assert_allclose(found, slow_quality(E, design, weights, prior), rtol=1e-10)
    E[np.random.default_rng(2).random(E.shape) < 0.2] = np.nan
    found = array_weights(E, design)
    np.testing.assert_allclose(found, slow_quality(E, design, np.ones(E.shape), 10), rtol=1e-10)


def test_features_that_say_nothing_are_passed_over():
    E, design, _ = noisy(50)
    silent = np.vstack([E, np.ones((1, 10)), np.full((1, 10), np.nan)])
    silent[-1, :2] = [1.0, 2.0]  # two samples, two coefficients
    found = array_weights(silent, design, method="gene_by_gene")
    assert np.array_equal(found, array_weights(E, design, method="gene_by_gene"))
    np.testing.assert_allclose(array_weights(silent[:-1], design), array_weights(E, design))


def test_converged_reml_weights_are_where_the_score_vanishes():
    E, design, _ = noisy(300)
    a = array_weights(E, design, tolerance=1e-26, max_iterations=500)
    root = np.sqrt(a)
    q = np.linalg.qr(design * root[:, None])[0]
    square = (E * root - (E * root) @ q @ q.T) ** 2
    share = square / square.mean(axis=1, keepdims=True) / (10 / 8)
    score = share.sum(axis=0) - 300 * (1 - np.sum(q**2, axis=1)) + 10 * (a - 1)
    # Log variances sum to 0, so that the scores need only be equal.
    assert np.ptp(score) < 1e-8


def test_quality_weights_multiply_those_of_voom():
    counts, design = case()
    made = voom_with_quality_weights(counts, design)
    plain = voom(counts, design)
    first = array_weights(plain.E, design, plain.weights)
    second = voom(counts, design, weights=first)
    a = array_weights(second.E, design, second.weights)
    assert np.array_equal(made.sample_weights, a)
    assert np.array_equal(made.weights, second.weights * a)
    assert plain.sample_weights is None
    square = voom_with_quality_weights(counts[:9], design[:, :2], span=1.0)
    assert np.isfinite(square.weights).all()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"method": "best"}, "method 'best'"),
        ({"method": "reml", "weights": np.ones(10)}, "reml takes neither"),
        ({"prior_n": 0.0}, "prior_n is 0.0"),
        ({"design": np.eye(10)}, "too few"),
        ({"design": np.ones((9, 1))}, "9 rows, E has 10"),
    ],
)
def test_what_quality_weights_cannot_use_is_refused(changes, words):
    E, design, _ = noisy(20)
    with pytest.raises(ValueError, match=words):
        array_weights(**{"E": E, "design": design, **changes})
