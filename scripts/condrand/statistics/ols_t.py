"""Studentized OLS: the coefficient times the square root of its denominator.

``t = beta sqrt(d)`` with ``d = x'M x``. The standard error of beta is ``sigma / sqrt(d)``, and
resampled sets differ in d when few cells are treated: beta is then a mixture of scales with heavy
tails, and t is not.
"""

import numpy as np

from condrand.statistics.ols import (
    coefficients,
    denominators,
    effect_scale,
    effects,
    score,
    untestable,
)
from condrand.statistics.scores import Moments, Scores, SetSums

__all__ = [
    "effect_scale",
    "effects",
    "null_units",
    "score",
    "untestable",
    "values",
]


def values(scores: Scores, sums: SetSums) -> np.ndarray:
    """``beta sqrt(d)`` of every set and feature: float64, shape (n_sets, n_features).

    0 for a set whose indicator the covariates explain, as its coefficient is.
    """
    out = coefficients(scores, sums)
    out *= np.sqrt(np.maximum(denominators(scores, sums), 0.0))[:, None]
    return out


def null_units(scores: Scores, moments: Moments) -> tuple[np.ndarray, np.ndarray]:
    """Approximate mean and standard deviation under resampling; see :mod:`.ols`."""
    root = np.sqrt(moments.denominator)
    return moments.mean / root, np.sqrt(moments.variance) / root
