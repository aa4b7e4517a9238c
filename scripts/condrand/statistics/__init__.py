"""What is computed from a treated set: per-cell scores and a finalizer on their sums.

A statistic is a module with

``score(outcome, basis)``
    the scores, computed once for all treated sets;
``values(scores, sums)``
    the tested statistic of each set, finite for every set;
``effects(scores, sums)``, ``effect_scale(outcome_scale)``
    what a reader is told, and its unit;
``untestable(scores, sums)``
    why the first set cannot be tested, or nothing;
``null_units(scores, moments)``
    about where the resampled statistic lies, and how widely;
``linear_form(scores, p)``
    the event that the statistic reaches a level as a sum over the cells, for the saddlepoint;
    a statistic without one has no such function.
"""

from condrand.statistics import ols, ols_t, rank, welch

STATISTICS = {"ols": ols, "ols_t": ols_t, "rank": rank, "welch": welch}
