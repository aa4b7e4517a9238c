"""Who is treated in resample b: a function of (seed, unit, block, cell), never of scheduling.

A sampler is a class with ``of(seed, kind, unit, p)`` and ``set_sums(scores, block, n_resamples)``.
"""

from condrand.samplers.bernoulli import BernoulliSampler

SAMPLERS = {"bernoulli_index": BernoulliSampler}
