"""What is computed from a treated set: a per-cell score and a finalizer on its sums.

A statistic is a module with ``score``, ``coefficients``, ``is_singular`` and ``null_units``.
"""

from condrand.statistics import ols

STATISTICS = {"ols": ols}
