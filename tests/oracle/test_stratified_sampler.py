"""The stratified sampler: its definition in plain Python, and the distribution it promises.

Statistical tests use fixed seeds, so they pass or fail for good. A bound of five standard errors
has a false-alarm rate of 5.7e-7 per comparison for another seed; with the number of comparisons
in each test that is stated beside it.
"""

import hashlib
from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from condrand.kernels.stratified import TOGETHER, _below
from condrand.plan import BLOCK
from condrand.samplers.strata import Strata, make_strata
from condrand.samplers.stratified import _HELD, StratifiedSampler
from condrand.statistics.scores import DenseScores, SparseScores

MASK = 0xFFFFFFFF
# Two-sided probability of five standard errors of a normal.
FIVE_SE = 2 * stats.norm.sf(5)

# (treated, size) of strata of every sort: one treated, none, all, few, most, many.
MIXED = ((1, 6), (0, 5), (4, 4), (7, 40), (3, 5), (140, 200), (1, 1), (2, 90))


def philox(c0: int, c1: int, c2: int, c3: int, k0: int, k1: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 in plain integers, held to the published vectors in test_philox."""
    for turn in range(10):
        if turn:
            k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & MASK, (low >> 32) ^ c3 ^ k1, low & MASK
    return c0, c1, c2, c3


def by_definition(seed, kind, unit, strata, block, n_resamples):
    """Who is treated: Floyd's algorithm, two draws from each counter."""
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{unit}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    treated = np.zeros((n_resamples, strata.cells.size), bool)
    for b in range(n_resamples):
        for s in range(strata.n_strata):
            cells = strata.cells[strata.indptr[s] : strata.indptr[s + 1]]
            n, m = len(cells), int(strata.n_treated[s])
            places: set[int] = set()
            for draw in range(m):
                words = philox(s, block, b, 1 + draw // 2, *key)
                high, low = words[2 * (draw % 2) : 2 * (draw % 2) + 2]
                j = n - m + draw
                place = (((high << 32) | low) * (j + 1)) >> 64
                places.add(j if place in places else place)
            treated[b, cells[list(places)]] = True
    return treated


def strata_of(*parts: tuple[int, int], seed: int = 0) -> Strata:
    """Strata of given (treated, size) whose cells lie in no order among each other."""
    stratum = np.repeat(np.arange(len(parts)), [size for _, size in parts])
    stratum = np.random.default_rng(seed).permutation(stratum)
    cells = np.argsort(stratum, kind="stable").astype(np.int32)
    indptr = np.concatenate([[0], np.cumsum(np.bincount(stratum))])
    return Strata(cells, indptr, np.array([m for m, _ in parts], np.int64), 0)


def sampler_of(strata: Strata, seed=3, kind="target", unit="GATA1") -> StratifiedSampler:
    return StratifiedSampler.of(seed, kind, unit, np.empty(0), strata)


def draws(strata: Strata, n_blocks: int) -> np.ndarray:
    """Whole blocks of resamples, one below the other, cells in order of stratum."""
    sampler = sampler_of(strata)
    return np.concatenate([sampler.treated(b, BLOCK)[:, strata.cells] for b in range(n_blocks)])


def scores_of(values: np.ndarray, sparse: bool) -> DenseScores | SparseScores:
    """Scores with the given columns; the last two are the basis."""
    if not sparse:
        rows = np.zeros((len(values), -(-values.shape[1] // 8) * 8))
        rows[:, : values.shape[1]] = values
        return DenseScores(rows, values.shape[1] - 2, 2)
    y, q = sp.csr_matrix(values[:, :-2]), np.ascontiguousarray(values[:, -2:])
    projection = np.ascontiguousarray(q.T @ values[:, :-2])
    indptr = y.indptr.astype(np.int64)
    return SparseScores(y.data, y.indices, indptr, q, projection, y.shape[1])


# The definition


@pytest.mark.parametrize("block", [0, 5, 2**32 - 1])
def test_the_draws_are_those_of_the_definition(block):
    strata = strata_of(*MIXED)
    expected = by_definition(3, "target", "GATA1", strata, block, 60)
    np.testing.assert_array_equal(sampler_of(strata).treated(block, 60), expected)


def test_a_stratum_with_more_draws_than_are_made_together_is_that_of_the_definition():
    strata = strata_of((2 * TOGETHER + 101, 900), (3, 7))
    expected = by_definition(3, "target", "GATA1", strata, 1, 5)
    np.testing.assert_array_equal(sampler_of(strata).treated(1, 5), expected)


@pytest.mark.parametrize("n", [1, 2, 3, 1000, 2**24, 2**32 - 1])
def test_a_draw_is_the_upper_half_of_the_product_with_64_bits(n):
    random = np.random.default_rng(0)
    words = [0, MASK, *random.integers(0, 2**32, 50).tolist()]
    for high in words:
        for low in words[:8]:
            drawn = int(_below(np.uint64(high), np.uint64(low), np.uint64(n)))
            assert drawn == (((high << 32) | low) * n) >> 64
            assert 0 <= drawn < n


def test_every_resample_keeps_the_number_of_treated_cells_of_every_stratum():
    strata = strata_of(*MIXED)
    treated = draws(strata, 1)
    counts = np.add.reduceat(treated, strata.indptr[:-1], axis=1)
    np.testing.assert_array_equal(counts, np.broadcast_to(strata.n_treated, counts.shape))


def test_a_stratum_wholly_treated_or_untreated_is_fixed():
    strata = strata_of(*MIXED)
    treated = draws(strata, 1)
    for s, (m, n) in enumerate(MIXED):
        part = treated[:, strata.indptr[s] : strata.indptr[s + 1]]
        if m in (0, n):
            assert np.all(part == (m == n))
        else:
            assert np.all(part.any(axis=0)) and not np.any(part.all(axis=0))


def test_fewer_resamples_are_a_prefix_of_more():
    sampler = sampler_of(strata_of(*MIXED))
    whole = sampler.treated(4, BLOCK)
    for n_resamples in (1, 2, 511, BLOCK - 1):
        np.testing.assert_array_equal(sampler.treated(4, n_resamples), whole[:n_resamples])


def test_a_stratum_draws_the_same_whatever_the_others_are():
    alone, others = strata_of((7, 40)), strata_of((7, 40), (20, 90))
    whole = sampler_of(others).treated(0, 200)[:, others.cells[:40]]
    np.testing.assert_array_equal(sampler_of(alone).treated(0, 200), whole)


# Sums


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
@pytest.mark.parametrize("block", [0, 6])
def test_sums_of_whole_numbers_are_the_matrix_product(sparse, block):
    strata = strata_of(*MIXED)
    n_cells = strata.cells.size
    values = np.random.default_rng(1).integers(-3, 4, (n_cells, 13)).astype(float)
    sampler = sampler_of(strata)
    sums = sampler.set_sums(scores_of(values, sparse), block, 700)
    treated = sampler.treated(block, 700)
    expected = treated.astype(float) @ values
    np.testing.assert_array_equal(sums.counts, treated.sum(axis=1))
    found = np.hstack([sums.rows, sums.basis]) if sparse else sums.rows[:, :13]
    np.testing.assert_array_equal(found, expected)
    if not sparse:
        assert not sums.rows[:, 13:].any()


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_equal_sets_give_the_bits_of_the_observed_sums(sparse):
    strata = strata_of(*MIXED)
    values = np.random.default_rng(2).normal(size=(strata.cells.size, 13))
    values[:, :5] *= 1e8
    scores = scores_of(np.where(values > 0, values, 0.0), sparse)
    sampler = sampler_of(strata)
    sums = sampler.set_sums(scores, 2, 90)
    for b, treated in enumerate(sampler.treated(2, 90)):
        observed = scores.observed(np.flatnonzero(treated))
        np.testing.assert_array_equal(sums.rows[b], observed.rows[0])
        assert sums.counts[b] == observed.counts[0]
        if sparse:
            np.testing.assert_array_equal(sums.basis[b], observed.basis[0])


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_where_nothing_can_move_the_sums_are_the_observed_ones(sparse):
    random = np.random.default_rng(3)
    # As many cells as bins of distinct propensities, each its own stratum.
    p = np.linspace(0.1, 0.9, 20)
    cells = np.sort(random.choice(20, 7, replace=False))
    settings = {"n_bins": 20, "min_stratum_size": 1}
    strata = make_strata(cells, p, None, None, settings)
    assert strata.n_strata == 20 and strata.free == 0
    scores = scores_of(random.normal(size=(20, 13)), sparse)
    sums, observed = sampler_of(strata).set_sums(scores, 0, 40), scores.observed(cells)
    np.testing.assert_array_equal(sums.rows, np.repeat(observed.rows, 40, axis=0))
    np.testing.assert_array_equal(sums.counts, 7)


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_the_length_of_the_runs_changes_no_bit(sparse):
    strata = strata_of(*MIXED)
    values = np.random.default_rng(4).normal(size=(strata.cells.size, 13))
    scores = scores_of(values, sparse)
    sampler = sampler_of(strata)
    whole = sampler.set_sums(scores, 0, 500)
    for run_length in (1, 7, 250, 499, 500, 10_000):
        parts = sampler._sums_in_runs(scores, 0, 500, run_length)
        np.testing.assert_array_equal(parts.rows, whole.rows)
        np.testing.assert_array_equal(parts.counts, whole.counts)
        if sparse:
            np.testing.assert_array_equal(parts.basis, whole.basis)


def test_few_hits_are_held_at_once_however_many_cells_are_treated():
    for n_treated in (1, 500, 50_000, 10**6, 10**8):
        strata = Strata(np.empty(0, np.int32), np.zeros(2, np.int64), np.array([n_treated]), 0)
        length = sampler_of(strata)._run_length()
        assert length == 1 or length * n_treated <= _HELD
        assert min(length, BLOCK) * n_treated > _HELD / 3 or length >= BLOCK or length == 1


@pytest.mark.parametrize("sparse", [False, True], ids=["dense", "sparse"])
def test_a_unit_without_treated_cells_has_sums_of_zero(sparse):
    scores = scores_of(np.ones((9, 5)), sparse)
    sums = sampler_of(strata_of((0, 4), (0, 5))).set_sums(scores, 0, 30)
    assert not sums.rows.any() and not sums.counts.any()


# The distribution


def tails(hits: np.ndarray, n: int, p: float) -> np.ndarray:
    """Smaller binomial tail of each count."""
    return np.minimum(stats.binom.cdf(hits, n, p), stats.binom.sf(hits - 1, n, p))


@pytest.fixture(scope="module")
def many():
    """Mixed strata, and 20 blocks of resamples with cells in order of stratum."""
    strata = strata_of(*MIXED)
    return strata, draws(strata, 20)


FREE = [s for s, (m, n) in enumerate(MIXED) if 0 < m < n]


@pytest.mark.parametrize("s", FREE)
def test_each_cell_of_a_stratum_is_treated_equally_often(many, s):
    strata, treated = many
    m, n = MIXED[s]
    part = treated[:, strata.indptr[s] : strata.indptr[s + 1]]
    # Exact binomial tails at five standard errors; 341 cells in all: 1.9e-4 false alarms.
    assert tails(part.sum(axis=0), len(part), m / n).min() > FIVE_SE / 2


@pytest.mark.parametrize("s", FREE)
def test_each_pair_of_cells_is_treated_together_equally_often(many, s):
    strata, treated = many
    m, n = MIXED[s]
    part = treated[:, strata.indptr[s] : strata.indptr[s + 1]].astype(np.float32)
    together = np.rint((part.T @ part)[np.triu_indices(n, 1)])
    # At most 19,900 pairs of a stratum, 25,000 in all: 1.4 % false alarms.
    p = m * (m - 1) / (n * (n - 1))
    assert tails(together, len(part), p).min() > FIVE_SE / 2


@pytest.mark.parametrize(("m", "n"), [(1, 4), (2, 5), (3, 6), (5, 7)])
def test_all_subsets_of_a_stratum_are_equally_likely(m, n):
    treated = draws(strata_of((m, n)), 10)
    codes = treated @ (1 << np.arange(n))
    subsets = [sum(1 << i for i in chosen) for chosen in combinations(range(n), m)]
    counts = np.bincount(codes, minlength=1 << n)
    assert counts[subsets].sum() == len(treated)
    # Four tests: 2.3e-6 false alarms.
    assert stats.chisquare(counts[subsets]).pvalue > FIVE_SE


def test_two_strata_are_independent():
    # Strata next to each other and apart; with one treated cell all counters but the first
    # word are the same.
    treated = draws(strata_of((1, 6), (1, 8), (1, 6)), 10)
    a, b, c = (part.argmax(axis=1) for part in np.split(treated, [6, 14], axis=1))
    for joint in (a * 8 + b, b * 6 + c, a * 6 + c):
        cells = 36 if joint.max() < 36 else 48
        # Three tests: 1.7e-6 false alarms.
        assert stats.chisquare(np.bincount(joint, minlength=cells)).pvalue > FIVE_SE


# Neighbours; the same place in the next block.
@pytest.mark.parametrize("distance", [1, 2, BLOCK])
def test_two_resamples_are_independent(distance):
    place = draws(strata_of((1, 6)), 20).argmax(axis=1)
    # Pairs that do not overlap, so that their table is multinomial.
    earlier = np.flatnonzero(np.arange(place.size) // distance % 2 == 0)
    joint = np.bincount(place[earlier] * 6 + place[earlier + distance], minlength=36)
    # Three tests: 1.7e-6 false alarms.
    assert stats.chisquare(joint).pvalue > FIVE_SE


@pytest.mark.parametrize(
    "other",
    [
        (4, "target", "GATA1", 0),
        (3, "ntc_guide", "GATA1", 0),
        (3, "target", "GATA2", 0),
        (3, "target", "GATA1", 1),
    ],
    ids=["seed", "kind", "unit", "block"],
)
def test_another_seed_kind_unit_or_block_draws_independently(other):
    strata, n, m = strata_of((200, 400)), 400, 200
    a = sampler_of(strata).treated(0, 500)
    seed, kind, unit, block = other
    b = sampler_of(strata, seed, kind, unit).treated(block, 500)
    # Cells in common are hypergeometric.
    common = np.sum(a & b, axis=1)
    distribution = stats.hypergeom(n, m, m)
    assert abs(common.mean() - distribution.mean()) < 5 * distribution.std() / np.sqrt(500)
