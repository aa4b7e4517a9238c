"""Empirical p values of a conditional randomization test."""

import numpy as np

# Row of the counts that each tail reads.
_ROW = {"right": 0, "left": 1, "two_sided": 2, "two_sided_centred": 3}
TAILS = tuple(_ROW)


def as_extreme(
    values: np.ndarray, observed: np.ndarray | float, centre: np.ndarray | float, tail: str
) -> np.ndarray:
    """Which resampled statistics are at least as extreme as the observed one.

    What :func:`condrand.kernels.null_summary.add_block` counts; arrays broadcast.
    """
    if tail == "right":
        return values >= observed
    if tail == "left":
        return values <= observed
    about = centre if tail == "two_sided_centred" else 0.0
    return np.abs(values - about) >= np.abs(observed - about)


def p_values(exceed: np.ndarray, n_resamples: int, tail: str) -> np.ndarray:
    """``p = (1 + exceedances) / (B + 1)``.

    Parameters
    ----------
    exceed : int64, shape (4, n_features)
        Resamples >= observed, <= observed, and at least as far from zero, and from the centre.
    n_resamples : int
        B.
    tail : {"two_sided", "two_sided_centred", "left", "right"}
        Two-sided counts ``|resampled| >= |observed|``, about zero; ``two_sided_centred`` about
        the mean of the statistic that the propensities imply.

    Returns
    -------
    float64, shape (n_features,)
        Valid for any B (Candes, Fan, Janson & Lv 2018, section 4.1; Phipson & Smyth 2010).

    Raises
    ------
    ValueError
        If `tail` is none of these.
    """
    if tail not in _ROW:
        raise ValueError(f"tail {tail!r} is none of {', '.join(TAILS)}")
    return (1 + exceed[_ROW[tail]]) / (n_resamples + 1)
