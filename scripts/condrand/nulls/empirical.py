"""Empirical p values of a conditional randomization test."""

import numpy as np

TAILS = ("two_sided", "left", "right")


def p_values(exceed: np.ndarray, n_resamples: int, tail: str) -> np.ndarray:
    """``p = (1 + exceedances) / (B + 1)``.

    Parameters
    ----------
    exceed : int64, shape (3, n_features)
        Resamples >= observed, <= observed, and at least as far from zero.
    n_resamples : int
        B.
    tail : {"two_sided", "left", "right"}
        Two-sided counts ``|resampled| >= |observed|``, about zero.

    Returns
    -------
    float64, shape (n_features,)
        Valid for any B (Candes, Fan, Janson & Lv 2018, section 4.1; Phipson & Smyth 2010).

    Raises
    ------
    ValueError
        If `tail` is none of the three.
    """
    row = {"right": 0, "left": 1, "two_sided": 2}
    if tail not in row:
        raise ValueError(f"tail {tail!r} is none of {', '.join(TAILS)}")
    return (1 + exceed[row[tail]]) / (n_resamples + 1)
