"""Adding resampled statistics to the mergeable summary of a null distribution."""

import numpy as np
from numba import njit

from condrand.kernels import KERNEL

# The histogram covers the standardized null from -8 to 8 in eighths; beyond, the end bins.
BINS_PER_UNIT = 8
HALF_RANGE = 8
N_BINS = 2 * HALF_RANGE * BINS_PER_UNIT
# Standardized values are clamped here before their powers are summed. At the clamp each power
# adds 2**42 a resample, so 2**21 such resamples would fill 64 bits; of a null with standard
# deviation 1, 2**26 add up to less than a thousandth of that. The extremes are kept unclamped.
CLAMP = 64.0
# Fixed-point scale of the power sums: exact integer sums do not depend on the order of merging.
POWER_SCALE = (2.0**36, 2.0**30, 2.0**24)


@njit(**KERNEL)
def add_block(null, observed, centre, scale, exceed, powers, extremes, histogram):
    """Add one block of resamples, in place.

    Parameters
    ----------
    null : float64[:, ::1], shape (n_resamples, n_features)
        The statistic under resampling.
    observed : float64[::1], shape (n_features,)
        The statistic under the observed treatment.
    centre, scale : float64[::1], shape (n_features,)
        Units of the standardized null, fixed for the target whatever the shard. A scale of 0
        leaves the standardized parts of that feature untouched.
    exceed : int64[:, ::1], shape (4, n_features)
        Resamples with ``null >= observed``, ``null <= observed``, ``|null| >= |observed|``, and
        ``|null - centre| >= |observed - centre|``.
    powers : int64[:, ::1], shape (3, n_features)
        Sums of z, z**2, z**3 in units of ``1 / POWER_SCALE``, rounded once per block.
    extremes : float64[:, ::1], shape (2, n_features)
        Smallest and largest z.
    histogram : int32[:, ::1], shape (n_features, N_BINS)
        Counts of z.

    Notes
    -----
    Precondition: no NaN. Error: the counts are exact; the powers carry the rounding of one
    float64 sum per block and 1 / POWER_SCALE.
    """
    n_features = observed.size
    first = np.zeros(n_features)
    second = np.zeros(n_features)
    third = np.zeros(n_features)
    for b in range(null.shape[0]):
        for k in range(n_features):
            value = null[b, k]
            exceed[0, k] += value >= observed[k]
            exceed[1, k] += value <= observed[k]
            exceed[2, k] += abs(value) >= abs(observed[k])
            exceed[3, k] += abs(value - centre[k]) >= abs(observed[k] - centre[k])
            if scale[k] > 0.0:
                z = (value - centre[k]) / scale[k]
                extremes[0, k] = min(extremes[0, k], z)
                extremes[1, k] = max(extremes[1, k], z)
                at = int(np.floor((z + HALF_RANGE) * BINS_PER_UNIT)) if abs(z) < CLAMP else 0
                if z >= CLAMP:
                    at = N_BINS - 1
                histogram[k, min(max(at, 0), N_BINS - 1)] += 1
                z = min(max(z, -CLAMP), CLAMP)
                first[k] += z
                second[k] += z * z
                third[k] += z * z * z
    for k in range(n_features):
        powers[0, k] += np.int64(np.rint(first[k] * POWER_SCALE[0]))
        powers[1, k] += np.int64(np.rint(second[k] * POWER_SCALE[1]))
        powers[2, k] += np.int64(np.rint(third[k] * POWER_SCALE[2]))
