"""Philox4x32-10 against the published vectors and a second implementation in plain integers."""

import numpy as np
import pytest

from condrand.kernels.philox import philox4x32

MASK = 0xFFFFFFFF


def words(text: str) -> list[int]:
    """32-bit words written in hexadecimal."""
    return [int(word, 16) for word in text.split()]


def philox(counter: list[int], key: list[int]) -> list[int]:
    """Ten rounds as Salmon et al. 2011, section 3.3, state them: rolled, keys bumped between."""
    c0, c1, c2, c3 = counter
    k0, k1 = key
    for turn in range(10):
        if turn:
            k0, k1 = (k0 + 0x9E3779B9) & MASK, (k1 + 0xBB67AE85) & MASK
        low, high = 0xD2511F53 * c0, 0xCD9E8D57 * c2
        c0, c1, c2, c3 = (high >> 32) ^ c1 ^ k0, high & MASK, (low >> 32) ^ c3 ^ k1, low & MASK
    return [c0, c1, c2, c3]


def compiled(counter: list[int], key: list[int]) -> list[int]:
    """The package's kernel on Python integers."""
    return [int(word) for word in philox4x32(*map(np.uint64, [*counter, *key]))]


# Source: Random123 1.14, tests/kat_vectors, "philox4x32 10".
KNOWN = {
    "zeros": ("0 0 0 0", "0 0", "6627e8d5 e169c58d bc57ac4c 9b00dbd8"),
    "ones": (
        "ffffffff ffffffff ffffffff ffffffff",
        "ffffffff ffffffff",
        "408f276d 41c83b0e a20bc7c6 6d5451fd",
    ),
    "digits of pi": (
        "243f6a88 85a308d3 13198a2e 03707344",
        "a4093822 299f31d0",
        "d16cfe09 94fdcceb 5001e420 24126ea1",
    ),
}


@pytest.mark.parametrize("name", KNOWN)
def test_known_answers_of_random123_come_out(name):
    counter, key, answer = map(words, KNOWN[name])
    assert compiled(counter, key) == answer


@pytest.mark.parametrize("name", KNOWN)
def test_the_reference_of_these_tests_gives_the_known_answers_too(name):
    counter, key, answer = map(words, KNOWN[name])
    assert philox(counter, key) == answer


def test_random_counters_and_keys_equal_the_reference():
    inputs = np.random.default_rng(1).integers(0, 2**32, size=(500, 6)).tolist()
    # Words at the borders of 32 bits, where a lost carry would show.
    inputs += [[MASK if i == j else 0 for i in range(6)] for j in range(6)]
    inputs += [[0 if i == j else MASK for i in range(6)] for j in range(6)]
    for row in inputs:
        assert compiled(row[:4], row[4:]) == philox(row[:4], row[4:])


def test_every_word_stays_below_two_to_the_32():
    inputs = np.random.default_rng(2).integers(0, 2**32, size=(200, 6)).tolist()
    assert all(max(compiled(row[:4], row[4:])) <= MASK for row in inputs)


def test_one_flipped_bit_of_counter_or_key_changes_about_half_of_the_output():
    base = words("243f6a88 85a308d3 13198a2e 03707344 a4093822 299f31d0")
    plain = compiled(base[:4], base[4:])
    changed = []
    for position in range(6):
        for bit in range(32):
            other = list(base)
            other[position] ^= 1 << bit
            flipped = compiled(other[:4], other[4:])
            changed.append(sum((a ^ b).bit_count() for a, b in zip(plain, flipped, strict=True)))
    # Each count is Binomial(128, 1/2), sd 5.7: five sd of 64, over 192 counts one false alarm
    # in ten thousand choices of the base.
    assert max(abs(count - 64) for count in changed) <= 5 * np.sqrt(32)
