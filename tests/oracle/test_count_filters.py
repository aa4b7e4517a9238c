"""Counts per million, filters and normalization factors, against edgeR and by hand."""

import numpy as np
import pandas as pd
import pytest

from condrand.linear.counts import cpm, filter_by_cpm, filter_by_expr, log2_cpm, norm_factors

METHODS = {"tmm": "tmm", "rle": "rle", "upper_quartile": "upperquartile"}


def gate(quantity: str, source: str, difference: float, limit: float) -> None:
    """Print one row of the table of differences (pytest -s), and hold it to its limit."""
    print(f"\n{quantity} | {source} | {difference:.1e} | {limit:.0e}", end="")
    assert difference <= limit


@pytest.fixture(scope="module")
def mammary(data_dir):
    """Counts of 27,179 genes in 12 samples, and their targets."""
    folder = data_dir / "limma"
    counts = pd.read_csv(folder / "gse60450_counts.csv.gz", index_col=0)
    targets = pd.read_csv(folder / "gse60450_targets.csv", index_col=0)
    assert list(counts.columns) == list(targets.index)
    return counts.to_numpy(), targets, folder


def counts_of(n_genes=400, n=7, seed=0):
    """Counts of libraries that differ in size and composition, some genes without any."""
    random = np.random.default_rng(seed)
    mean = random.lognormal(2, 2, n_genes)[:, None] * random.lognormal(0, 0.4, n)
    mean[: n_genes // 10, 0] *= 30
    counts = random.poisson(mean)
    counts[-5:] = 0
    return counts


def test_both_filters_keep_the_genes_that_limma_kept(mammary):
    counts, targets, folder = mammary
    path = folder / "limma_ref_seed_genes.csv.gz"
    expected = pd.read_csv(path).EntrezGeneID.to_numpy()
    genes = pd.read_csv(folder / "gse60450_counts.csv.gz").EntrezGeneID.to_numpy()
    kept = filter_by_cpm(counts, targets.immunophenotype)
    assert np.array_equal(genes[kept], expected)
    assert np.array_equal(filter_by_expr(counts, targets.immunophenotype), kept)
    assert kept.sum() == 14453
    luminal = (targets.immunophenotype == "luminal").to_numpy(float)
    design = np.column_stack([1 - luminal, luminal])
    assert np.array_equal(filter_by_expr(counts, design=design), kept)
    assert filter_by_cpm(counts, targets.group).sum() == 15969


@pytest.mark.parametrize("method", METHODS)
def test_factors_are_those_of_edger(mammary, method):
    counts, targets, folder = mammary
    path = folder / "limma_ref_normfactors.csv"
    expected = pd.read_csv(path, float_precision="round_trip")
    kept = counts[filter_by_cpm(counts, targets.immunophenotype)]
    assert np.array_equal(kept.sum(axis=0), expected.lib_size_filtered)
    factors = norm_factors(kept, method)
    difference = np.abs(factors / expected[METHODS[method]] - 1).max()
    gate(f"factors {method}, rel", path.name, difference, 1e-13)


def test_counts_per_million_by_hand():
    counts = np.array([[1, 0], [3, 10]])
    assert np.array_equal(cpm(counts), [[250_000, 0], [750_000, 1_000_000]])
    assert np.array_equal(cpm(counts, np.array([8.0, 20.0])), [[125_000, 0], [375_000, 500_000]])
    np.testing.assert_allclose(log2_cpm(counts)[0], np.log2([250_000.01, 0.01]))
    np.testing.assert_allclose(log2_cpm(counts, offset=2.0)[0], [np.log2(250_002), 1.0])


def test_the_cpm_filter_is_strict_and_counts_the_smallest_group():
    counts = np.array([[10, 10, 0, 0], [11, 11, 0, 0], [11, 0, 0, 0], [0, 11, 11, 11]])
    library = np.full(4, 1e6)  # so that the cutoff is 10 counts per million
    assert filter_by_cpm(counts, list("aabb"), library).tolist() == [False, True, False, True]
    assert filter_by_cpm(counts, list("abbb"), library).tolist() == [False, True, True, True]
    assert filter_by_cpm(counts, list("aabb"), library, min_count=9).tolist()[0]


def test_filter_by_expr_by_hand():
    library = np.full(20, 1e6)

    def reached(n, count=10):
        return [count] * n + [0] * (20 - n)

    counts = np.array([reached(6), reached(5), reached(12), reached(13), reached(1, 1000)])
    # Smallest group of 6: at least 6 samples with at least 10 counts.
    small = filter_by_expr(counts, ["a"] * 6 + ["b"] * 14, lib_size=library)
    assert small.tolist() == [True, False, True, True, False]
    # All 20 alike: 10 + 0.7 (20 - 10) = 17 samples, or with 0.2: 12.
    assert not filter_by_expr(counts, lib_size=library).any()
    some = filter_by_expr(counts, lib_size=library, min_prop=0.2)
    assert some.tolist() == [False, False, True, True, False]
    # Leverage: two groups of 6 and 14 have at most 1/6.
    design = np.column_stack([np.ones(20), np.arange(20) < 6]).astype(float)
    assert np.array_equal(filter_by_expr(counts, design=design, lib_size=library), small)
    repeated = np.column_stack([design, design])
    assert np.array_equal(filter_by_expr(counts, design=repeated, lib_size=library), small)
    # One sample is a group: the total decides.
    low = np.array([[14] + [0] * 19, [15] + [0] * 19])
    groups = ["a"] + ["b"] * 19
    assert filter_by_expr(low, groups, lib_size=library).tolist() == [False, True]


def test_tmm_by_hand():
    counts = counts_of().astype(float)
    library = counts.sum(axis=0)
    counts = counts[counts.sum(axis=1) > 0]
    quartile = np.percentile(counts, 75, axis=0) / library
    ref = np.argmin(np.abs(quartile - quartile.mean()))
    expected = []
    for i in range(counts.shape[1]):
        rows = []
        for c, r in zip(counts[:, i], counts[:, ref], strict=True):
            if c and r:
                p, q = c / library[i], r / library[ref]
                rows.append((np.log2(p / q), np.log2(p * q) / 2, (1 - p) / c + (1 - q) / r))
        m, a, v = np.array(rows).T
        if i == ref:
            expected.append(1.0)
            continue
        rank = pd.DataFrame({"m": m, "a": a.round(12)}).rank()
        low_m, low_a = np.floor(m.size * 0.3) + 1, np.floor(m.size * 0.05) + 1
        keep = rank.m.between(low_m, m.size + 1 - low_m)
        keep &= rank.a.between(low_a, m.size + 1 - low_a)
        expected.append(2 ** np.average(m[keep], weights=1 / v[keep]))
    expected = np.array(expected) / np.exp(np.mean(np.log(expected)))
    found = norm_factors(counts)
    np.testing.assert_allclose(found, expected, rtol=1e-12)
    assert found.max() / found.min() > 1.05


@pytest.mark.parametrize("method", METHODS)
def test_factors_multiply_to_one_and_undo_composition(method):
    counts = counts_of()
    factors = norm_factors(counts, method)
    assert np.isclose(np.prod(factors), 1.0)
    # The tenth of genes that is 30 times up in the first sample takes from all others.
    assert np.argmin(factors) == 0


def test_no_method_and_no_choice_give_ones():
    assert norm_factors(counts_of(), "none").tolist() == [1.0] * 7
    assert norm_factors(counts_of()[:, :1]).tolist() == [1.0]
    same = np.repeat(counts_of()[:, :1], 3, axis=1)
    np.testing.assert_allclose(norm_factors(same * [1, 2, 3]), 1.0, rtol=1e-15)


def test_a_reference_can_be_chosen():
    counts = counts_of()
    assert not np.allclose(norm_factors(counts, reference=0), norm_factors(counts, reference=1))
    with pytest.raises(ValueError, match="reference sample 7 of 7"):
        norm_factors(counts, reference=7)


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: cpm(np.array([[1.0, -1.0]])), "negative"),
        (lambda: cpm(np.array([[1.0, np.nan]])), "missing"),
        (lambda: cpm(np.array([[1.0, 0.0]])), "library without counts"),
        (lambda: cpm(np.ones((2, 2)), np.ones(3)), "library sizes of shape"),
        (lambda: cpm(np.ones((2, 2)), np.array([1.0, np.nan])), "library size is missing"),
        (lambda: filter_by_cpm(np.ones((2, 2)), ["a"]), "labels"),
        (lambda: filter_by_expr(np.ones((2, 2)), design=np.ones((3, 1))), "2 rows"),
        (lambda: norm_factors(np.ones((2, 2)), "median"), "method 'median'"),
        (lambda: norm_factors(np.eye(2), "rle"), "every sample"),
        (lambda: norm_factors(np.eye(2), "tmm"), "share no feature"),
    ],
)
def test_what_cannot_be_used_is_refused(call, words):
    with pytest.raises(ValueError, match=words):
        call()
