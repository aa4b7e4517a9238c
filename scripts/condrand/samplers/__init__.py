"""Who is treated in resample b: a function of (seed, unit, block, cell), never of scheduling.

A sampler is a class with ``needs_strata``, ``of(seed, kind, unit, p, strata, stream)`` and
``set_sums(scores, block, n_resamples)``.
"""

from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.stratified import StratifiedSampler

SAMPLERS = {"bernoulli_index": BernoulliSampler, "stratified_perm": StratifiedSampler}
