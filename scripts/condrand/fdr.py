"""False discovery rate."""

import numpy as np
import pandas as pd


def benjamini_hochberg(p_values: np.ndarray) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values.

    Parameters
    ----------
    p_values : float64, shape (n_tests,)
        NaN for a test that was not made; it counts as no test and stays NaN.

    Returns
    -------
    float64, shape (n_tests,)
        ``min over j >= i of p_(j) m / j``, at most 1.

    Notes
    -----
    Source: Benjamini & Hochberg 1995, section 3.1. Controls the FDR under independence and
    positive regression dependence (Benjamini & Yekutieli 2001).
    """
    adjusted = np.full(p_values.shape, np.nan)
    made = np.flatnonzero(~np.isnan(p_values))
    if not made.size:
        return adjusted
    order = made[np.argsort(p_values[made], kind="stable")]
    m = order.size
    scaled = p_values[order] * (m / np.arange(1, m + 1))
    adjusted[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    return adjusted


def fdr_per_target(p_values: pd.Series, targets: pd.Series) -> np.ndarray:
    """Benjamini-Hochberg adjusted p values, the tests of each target by themselves.

    Parameters
    ----------
    p_values : float64 Series, shape (n_tests,)
        NaN for a test that was not made.
    targets : Series of str, shape (n_tests,)
        Rows of a target may lie anywhere.

    Returns
    -------
    float64, shape (n_tests,)
    """
    adjusted = np.empty(len(p_values))
    codes, names = pd.factorize(targets)
    order = np.argsort(codes, kind="stable")
    ends = np.cumsum(np.bincount(codes, minlength=len(names)))
    values = p_values.to_numpy()
    for rows in np.split(order, ends[:-1]):
        adjusted[rows] = benjamini_hochberg(values[rows])
    return adjusted
