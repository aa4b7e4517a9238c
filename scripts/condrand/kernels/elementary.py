"""exp and log as plain arithmetic, so that loops over them vectorize and repeat bit for bit.

libm's versions are scalar calls whose last bit may differ between machines; these contain only
additions, multiplications, one division and bit operations.
"""

import llvmlite.ir as ir
import numpy as np
from numba import float64, njit, uint64
from numba.extending import intrinsic

from condrand.kernels import INLINE

_LN2_HIGH = 6.93147180369123816490e-01
_LN2_LOW = 1.90821492927058770002e-10
_EXPONENT_SHIFT = np.uint64(52)
_MANTISSA = np.uint64(0x000FFFFFFFFFFFFF)
# Adding this carries mantissas above sqrt(2) into the next exponent.
_SQRT2_CARRY = np.uint64(0x00095F6200000000)
_SQRT_HALF_BITS = np.uint64(0x3FE6A09E00000000)
# 2**52 as bits: OR-ing a small integer into it and subtracting converts it to float64 without
# an integer conversion instruction, which AVX2 lacks.
_TWO52_BITS = np.uint64(0x4330000000000000)
_TWO52 = 4503599627370496.0
_ROUND = 6755399441055744.0  # 1.5 * 2**52: adding and subtracting it rounds to an integer
_INV_FACTORIAL = tuple(1.0 / float(np.prod(np.arange(1.0, n + 1))) for n in range(14))


@intrinsic
def bits_of(typingctx, x):
    """The 64 bits of a float64, as uint64."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.IntType(64))

    return uint64(float64), codegen


@intrinsic
def float_of(typingctx, bits):
    """The float64 with the given 64 bits."""

    def codegen(context, builder, signature, args):
        return builder.bitcast(args[0], ir.DoubleType())

    return float64(uint64), codegen


@njit(**INLINE)
def log(x):
    """Natural logarithm of a positive normal float64; error under 1 ulp.

    Notes
    -----
    Precondition: ``2**-1022 <= x < inf``. Reduction ``x = 2**k m`` with ``m`` in
    ``[sqrt(1/2), sqrt(2))``, then the odd series in ``s = (m - 1)/(m + 1)`` with the minimax
    coefficients of Ng (Sun Microsystems 1993, fdlibm ``e_log``).
    """
    shifted = bits_of(x) + _SQRT2_CARRY
    k = float_of((shifted >> _EXPONENT_SHIFT) | _TWO52_BITS) - (_TWO52 + 1023.0)
    f = float_of((shifted & _MANTISSA) + _SQRT_HALF_BITS) - 1.0
    s = f / (2.0 + f)
    z = s * s
    w = z * z
    even = w * (0.3999999999940941908 + w * (0.2222219843214978396 + w * 0.1531383769920937332))
    odd = z * (
        0.6666666666666735130
        + w * (0.2857142874366239149 + w * (0.1818357216161805012 + w * 0.1479819860511658591))
    )
    half = 0.5 * f * f
    return k * _LN2_HIGH - ((half - (s * (half + even + odd) + k * _LN2_LOW)) - f)


@njit(**INLINE)
def exp(x):
    """Exponential of a float64 in [-700, 700] (clamped there); relative error under 4e-16.

    Notes
    -----
    ``x = k log 2 + r`` with ``|r| <= log(2)/2``, then the Taylor series to ``r**13`` (remainder
    4e-18), scaled by ``2**k`` in the exponent bits.
    """
    x = min(max(x, -700.0), 700.0)
    shifted = x * 1.4426950408889634 + _ROUND
    k = shifted - _ROUND
    r = (x - k * _LN2_HIGH) - k * _LN2_LOW
    y = _INV_FACTORIAL[13]
    y = y * r + _INV_FACTORIAL[12]
    y = y * r + _INV_FACTORIAL[11]
    y = y * r + _INV_FACTORIAL[10]
    y = y * r + _INV_FACTORIAL[9]
    y = y * r + _INV_FACTORIAL[8]
    y = y * r + _INV_FACTORIAL[7]
    y = y * r + _INV_FACTORIAL[6]
    y = y * r + _INV_FACTORIAL[5]
    y = y * r + _INV_FACTORIAL[4]
    y = y * r + _INV_FACTORIAL[3]
    y = y * r + _INV_FACTORIAL[2]
    y = y * r + 1.0
    y = y * r + 1.0
    # The low bits of `shifted` hold k as an integer; the exponent field takes it as it is.
    return y * float_of((bits_of(shifted) << _EXPONENT_SHIFT) + np.uint64(0x3FF0000000000000))


@njit(**INLINE)
def log1p(x):
    """``log(1 + x)`` for x > -1, accurate for small x.

    Notes
    -----
    ``log(u) x / (u - 1)`` with ``u = 1 + x`` rounded cancels the rounding of the sum
    (Goldberg 1991, theorem 4).
    """
    u = 1.0 + x
    rounded = u - 1.0
    safe = rounded if rounded != 0.0 else 1.0
    return log(u) * x / safe if rounded != 0.0 else x
