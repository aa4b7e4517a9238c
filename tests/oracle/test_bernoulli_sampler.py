"""The Bernoulli sampler: its definition in plain Python, and the distribution it promises.

Statistical tests use fixed seeds, so they pass or fail for good. A bound of five standard errors
has a false-alarm rate of 5.7e-7 per comparison for another seed; with the number of comparisons
in each test that is stated beside it.
"""

import hashlib
import math
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from scipy import stats

import condrand
from condrand.kernels.resampling import CHUNK, _exponential
from condrand.plan import BLOCK
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.streams import stream_key

MASK = 0xFFFFFFFF
# Two-sided probability of five standard errors of a normal.
FIVE_SE = 2 * stats.norm.sf(5)


def philox(c0: int, c1: int, c2: int, k0: int, k1: int) -> tuple[int, int, int, int]:
    """Philox4x32-10 in plain integers, held to the published vectors in test_philox."""
    c3 = 0
    for turn in range(10):
        if turn:
            k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & MASK, (low >> 32) ^ c3 ^ k1, low & MASK
    return c0, c1, c2, c3


def exponentials(key: tuple[int, int], block: int, cell: int):
    """The standard exponentials of a cell in a block, two for each turn of the counter."""
    turn = 0
    while True:
        w0, w1, w2, w3 = philox(cell, block, turn, *key)
        for word in ((w0 << 32) | w1, (w2 << 32) | w3):
            yield -math.log(((word >> 12) + 0.5) * 2.0**-52)
        turn += 1


def by_definition(
    seed: int, kind: str, unit: str, p: np.ndarray, block: int, n_resamples: int
) -> np.ndarray:
    """Who is treated, from geometric gaps between the resamples that treat a cell."""
    digest = hashlib.blake2b(f"{seed}\0{kind}\0{unit}".encode(), digest_size=8).digest()
    key = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    treated = np.zeros((n_resamples, p.size), bool)
    for cell, probability in enumerate(p):
        at = 0
        for e in exponentials(key, block, cell):
            at += math.floor(e * (-1.0 / math.log1p(-probability)))
            if at >= n_resamples:
                break
            treated[at, cell] = True
            at += 1
    return treated


def mixed_propensities(n_cells: int, seed: int = 0) -> np.ndarray:
    """Propensities from rare to nearly certain, in no order."""
    random = np.random.default_rng(seed)
    return random.choice([1e-6, 0.003, 0.02, 0.1, 0.5, 0.9, 0.999], n_cells)


def draws(p: np.ndarray, n_blocks: int, seed: int = 1, unit: str = "GATA1") -> np.ndarray:
    """Whole blocks of resamples, one below the other: bool (n_blocks * BLOCK, n_cells)."""
    sampler = BernoulliSampler.of(seed, "target", unit, p)
    return np.concatenate([sampler.treated(block, BLOCK) for block in range(n_blocks)])


# The definition


# Below one chunk; exactly one; two and a short last one.
@pytest.mark.parametrize("n_cells", [7, CHUNK, 2 * CHUNK + 44])
@pytest.mark.parametrize("block", [0, 5, 2**32 - 1])
def test_the_draws_are_those_of_the_definition(n_cells, block):
    p = mixed_propensities(n_cells)
    sampler = BernoulliSampler.of(3, "target", "GATA1", p)
    expected = by_definition(3, "target", "GATA1", p, block, 150)
    assert expected.any() and not expected.all()
    np.testing.assert_array_equal(sampler.treated(block, 150), expected)


def test_a_whole_block_of_a_nearly_certain_cell_is_that_of_the_definition():
    # Some five hundred turns of the counter.
    p = np.array([0.999, 1 - 1e-6])
    sampler = BernoulliSampler.of(3, "target", "GATA1", p)
    expected = by_definition(3, "target", "GATA1", p, 2, BLOCK)
    np.testing.assert_array_equal(sampler.treated(2, BLOCK), expected)


def test_exponentials_of_the_extreme_words_are_positive_and_finite():
    # The smallest uniform is 2**-53 and the largest 1 - 2**-53; a uniform of 0 or 1 would give an
    # endless gap or none.
    lowest, highest = _exponential(np.uint64(2**64 - 1)), _exponential(np.uint64(0))
    assert lowest == pytest.approx(2.0**-53, rel=1e-12)
    assert highest == pytest.approx(53 * math.log(2), rel=1e-15)


def test_fewer_resamples_are_a_prefix_of_more():
    p = mixed_propensities(CHUNK + 50)
    sampler = BernoulliSampler.of(3, "ntc_guide", "NTC 1", p)
    whole = sampler.treated(4, BLOCK)
    for n_resamples in (1, 2, 511, BLOCK - 1):
        np.testing.assert_array_equal(sampler.treated(4, n_resamples), whole[:n_resamples])


def test_a_cell_draws_the_same_whatever_the_other_cells_are():
    p = mixed_propensities(3 * CHUNK)
    whole = BernoulliSampler.of(3, "target", "GATA1", p).treated(0, 200)
    fewer = BernoulliSampler.of(3, "target", "GATA1", p[: CHUNK + 9]).treated(0, 200)
    np.testing.assert_array_equal(fewer, whole[:, : CHUNK + 9])
    others = np.where(np.arange(p.size) == 200, p, 0.25)
    changed = BernoulliSampler.of(3, "target", "GATA1", others).treated(0, 200)
    np.testing.assert_array_equal(changed[:, 200], whole[:, 200])


def test_a_unit_draws_the_same_whatever_is_drawn_between():
    p = mixed_propensities(60)
    one = BernoulliSampler.of(3, "target", "GATA1", p)
    before = one.treated(7, 100)
    BernoulliSampler.of(3, "target", "MYC", p).treated(7, 100)
    one.treated(8, 100)
    np.testing.assert_array_equal(one.treated(7, 100), before)


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
    p = np.full(400, 0.5)
    a = BernoulliSampler.of(3, "target", "GATA1", p).treated(0, 500)
    seed, kind, unit, block = other
    b = BernoulliSampler.of(seed, kind, unit, p).treated(block, 500)
    # Equal entries are Binomial(200,000, 1/2): five standard errors.
    assert abs(np.mean(a == b) - 0.5) < 5 * 0.5 / np.sqrt(a.size)


# The keys


def test_the_key_of_a_stream_is_the_one_on_record():
    # A golden value: changing it changes every result. It is blake2b of "7\0target\0GATA1".
    digest = hashlib.blake2b(b"7\0target\0GATA1", digest_size=8).digest()
    expected = int.from_bytes(digest[:4], "little"), int.from_bytes(digest[4:], "little")
    assert tuple(map(int, stream_key(7, "target", "GATA1"))) == expected


def test_keys_of_many_units_do_not_meet():
    keys = {
        stream_key(seed, kind, f"unit {i}")
        for seed in range(3)
        for kind in ("target", "ntc_guide")
        for i in range(1000)
    }
    # 6,000 keys of 64 bits meet by chance once in 10**12 trials.
    assert len(keys) == 6000


def test_parts_of_a_key_cannot_be_shifted_into_each_other():
    assert stream_key(1, "target", "2") != stream_key(12, "target", "")
    assert stream_key(1, "a", "bc") != stream_key(1, "ab", "c")


def test_two_processes_with_other_hash_seeds_make_the_same_draws():
    code = (
        "import numpy as np\n"
        "from condrand.samplers.bernoulli import BernoulliSampler\n"
        "from condrand.samplers.streams import stream_key\n"
        "print(*stream_key(7, 'target', 'GATA1'))\n"
        "p = np.linspace(0.01, 0.6, 200)\n"
        "treated = BernoulliSampler.of(7, 'target', 'GATA1', p).treated(3, 90)\n"
        "print(np.packbits(treated).tobytes().hex())\n"
    )
    package = str(Path(condrand.__file__).parents[1])
    outputs = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONPATH": package, "PYTHONHASHSEED": hash_seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for hash_seed in ("1", "2")
    ]
    assert outputs[0] == outputs[1]
    assert outputs[0].split()[:2] == [str(word) for word in stream_key(7, "target", "GATA1")]


# The distribution


@pytest.fixture(scope="module")
def many():
    """Propensities of 300 cells from 0.01 to 0.99, and 20 blocks of resamples."""
    p = np.random.default_rng(5).permutation(np.linspace(0.01, 0.99, 300))
    return p, draws(p, 20)


def test_each_cell_is_treated_as_often_as_its_propensity_says(many):
    p, treated = many
    hits, n = treated.sum(axis=0), treated.shape[0]
    tail = np.minimum(stats.binom.cdf(hits, n, p), stats.binom.sf(hits - 1, n, p))
    # Exact binomial tails at five standard errors; 300 cells: 1.7e-4 false alarms.
    assert tail.min() > FIVE_SE / 2
    # All together: the squared deviations are chi-squared, mean 300, sd sqrt(600).
    z = (hits - n * p) / np.sqrt(n * p * (1 - p))
    assert abs(np.sum(z**2) - p.size) < 5 * np.sqrt(2 * p.size)
    # A bias common to all cells: the mean deviation is normal.
    assert abs(z.mean()) < 5 / np.sqrt(p.size)


def test_the_number_of_treated_cells_varies_as_a_sum_of_independent_draws(many):
    p, treated = many
    totals, n = treated.sum(axis=1), treated.shape[0]
    variance = np.sum(p * (1 - p))
    assert abs(totals.mean() - p.sum()) < 5 * np.sqrt(variance / n)
    # Standard error of the variance of a nearly normal total.
    assert abs(totals.var() - variance) < 5 * variance * np.sqrt(2 / n)


def standardized(many) -> np.ndarray:
    p, treated = many
    return (treated - p) / np.sqrt(p * (1 - p))


# Neighbours, the two sides of a chunk's border, cells a chunk apart.
@pytest.mark.parametrize("distance", [1, 2, 64, CHUNK, 2 * CHUNK])
def test_two_cells_are_independent(many, distance):
    z = standardized(many)
    n, n_cells = z.shape
    correlation = np.mean(z[:, distance:] * z[:, :-distance], axis=0)
    # n_cells - distance comparisons, at most 299: 1.7e-4 false alarms.
    assert np.abs(correlation).max() < 5 / np.sqrt(n)
    assert abs(correlation.mean()) < 5 / np.sqrt(n * (n_cells - distance))


# Neighbours, which a wrong gap would couple; the same place in the next block.
@pytest.mark.parametrize("distance", [1, 2, 3, BLOCK])
def test_two_resamples_are_independent(many, distance):
    z = standardized(many)
    n, n_cells = z.shape
    correlation = np.mean(z[distance:] * z[:-distance], axis=0)
    # 300 cells: 1.7e-4 false alarms.
    assert np.abs(correlation).max() < 5 / np.sqrt(n - distance)
    assert abs(correlation.mean()) < 5 / np.sqrt((n - distance) * n_cells)


def test_every_place_in_a_block_is_hit_equally_often(many):
    p, treated = many
    hits = treated.reshape(-1, BLOCK, p.size).sum(axis=(0, 2))
    mean, variance = 20 * p.sum(), 20 * np.sum(p * (1 - p))
    z = (hits - mean) / np.sqrt(variance)
    # 1,024 places: 6e-4 false alarms. The first and the last are where an off-by-one would show.
    assert np.abs(z).max() < 5


@pytest.mark.parametrize("limit", [1e-6, 1 - 1e-6], ids=["rare", "nearly certain"])
def test_propensities_at_the_clip_limits_are_drawn_exactly(limit):
    treated = draws(np.full(500, limit), 40)
    odd = treated if limit < 0.5 else ~treated
    # About 20 of 20 million draws; exact binomial tails at five standard errors.
    count = int(odd.sum())
    distribution = stats.binom(treated.size, 1e-6)
    assert min(distribution.cdf(count), distribution.sf(count - 1)) > FIVE_SE / 2
    assert count > 0


@pytest.mark.parametrize("p", [1e-15, 1e-19, 1e-300])
def test_a_propensity_next_to_zero_treats_no_cell(p):
    treated = BernoulliSampler.of(0, "target", "A", np.full(50, p)).treated(0, 100)
    assert not treated.any()
