"""Philox4x32-10: random numbers as a pure function of a key and a counter.

Source: Salmon, Moraes, Dror, Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011,
section 3.3. The rounds are written out because numba hands a rolled loop to LLVM too late for
it to be unrolled before the surrounding loop over cells is vectorized.
"""

import numpy as np
from numba import njit

from condrand.kernels import INLINE

LOW32 = np.uint64(0xFFFFFFFF)
SHIFT32 = np.uint64(32)
_MULTIPLIER = (np.uint64(0xD2511F53), np.uint64(0xCD9E8D57))
_WEYL = (0x9E3779B9, 0xBB67AE85)


def _bump(word: int, n: int) -> np.uint64:
    return np.uint64((_WEYL[word] * n) & 0xFFFFFFFF)


_M0, _M1 = _MULTIPLIER
_A1, _A2, _A3, _A4, _A5, _A6, _A7, _A8, _A9 = (_bump(0, n) for n in range(1, 10))
_B1, _B2, _B3, _B4, _B5, _B6, _B7, _B8, _B9 = (_bump(1, n) for n in range(1, 10))


@njit(**INLINE)
def _round(c0, c1, c2, c3, k0, k1):
    low = _M0 * c0
    high = _M1 * c2
    return (
        (high >> SHIFT32) ^ c1 ^ (k0 & LOW32),
        high & LOW32,
        (low >> SHIFT32) ^ c3 ^ (k1 & LOW32),
        low & LOW32,
    )


@njit(**INLINE)
def philox4x32(c0, c1, c2, c3, k0, k1):
    """Four random 32-bit words for a 128-bit counter and a 64-bit key.

    Parameters
    ----------
    c0, c1, c2, c3 : uint64
        Counter words; each must be below 2**32.
    k0, k1 : uint64
        Key words; each must be below 2**32.

    Returns
    -------
    tuple of four uint64
        Independent uniform words, each below 2**32.
    """
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0, k1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A1, k1 + _B1)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A2, k1 + _B2)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A3, k1 + _B3)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A4, k1 + _B4)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A5, k1 + _B5)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A6, k1 + _B6)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A7, k1 + _B7)
    c0, c1, c2, c3 = _round(c0, c1, c2, c3, k0 + _A8, k1 + _B8)
    return _round(c0, c1, c2, c3, k0 + _A9, k1 + _B9)
