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
    linear_denominator,
    score,
    untestable,
)
from condrand.statistics.scores import LinearForm, Moments, Scores, SetSums

__all__ = [
    "effect_scale",
    "effects",
    "linear_form",
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


def linear_form(scores: Scores, p: np.ndarray) -> LinearForm:
    """The event ``beta sqrt(d) >= t`` as a sum over the cells.

    ``sqrt(d)`` is expanded about the mean m of the linear form of d:
    ``(m + d) / (2 sqrt(m)) - var(d) / (8 m**(3/2))``, the last part a mean.
    """
    form, mean, variance = linear_denominator(scores, p)
    half = 0.5 / np.sqrt(mean)
    offset = half * (form.offset + mean - variance / (4.0 * mean))
    return LinearForm(half * form.h, float(offset))
