"""p values after the adaptive stages: without effects, and with few that are strong.

Numbers of tests here show gross faults in minutes; ``make benchmark-tails`` has ten million.
"""

import numpy as np
import pytest

from condrand.engines import crt, crt_refine
from condrand.fdr import benjamini_hochberg
from condrand.io.h5ad import open_anndata, read

pytestmark = pytest.mark.slow

B, SEED = 1023, 5
LEVELS = np.array([0.05, 0.01, 1e-3, 1e-4])
NULL = {
    "n_cells": 3000,
    "n_programs": 40,
    "n_targets": 140,
    "n_batches": 3,
    "causal_fraction": 0.0,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
    "moi_dispersion": 0.7,
    "burden_effect": 1.0,
}
FEW_EFFECTS = {
    **NULL,
    "n_cells": 4000,
    "n_programs": 30,
    "n_targets": 100,
    "causal_fraction": 0.04,
    "n_effect_programs": 1,
    "effect_size": 0.25,
}
BY_IMPORTANCE = [{"below": 0.01, "method": "importance", "resamples": 1023}]
STAGES = {
    "importance": BY_IMPORTANCE,
    "saddlepoint": [{"below": 0.01, "method": "saddlepoint", "resamples": 255}],
    "resamples": [
        {"below": 0.02, "method": "resamples", "resamples": 20_000},
        {"below": 1e-3, "method": "resamples", "resamples": 100_000},
    ],
}


def refined(screen, statistic, stages, sampler="bernoulli_index"):
    """P values of all tests of a screen, as reported after some stages and as counted first."""
    outcome, units = screen.outcome(statistic), screen.units()
    which = {"sampler": sampler}
    batch = crt.prepare(outcome, units.kinds, units.names, units.treated, **which)
    summaries = crt.resample(outcome, batch, range(1), B, SEED, 2, **which)
    draws = crt_refine.Draws(SEED, "two_sided", sampler)
    first = crt_refine.first_p_values(batch, summaries, "two_sided").p_value
    last = crt_refine.refined_p_values(outcome, batch, summaries, stages, draws, 2)
    return last, first


@pytest.fixture(scope="module")
def null_screens(simulate):
    return [simulate(**NULL, seed=300 + seed) for seed in range(6)]


@pytest.mark.parametrize(
    ("statistic", "method", "sampler"),
    [
        ("ols", "importance", "bernoulli_index"),
        ("ols_t", "importance", "bernoulli_index"),
        ("rank", "importance", "bernoulli_index"),
        ("ols", "saddlepoint", "bernoulli_index"),
        ("ols", "resamples", "bernoulli_index"),
        ("ols", "resamples", "stratified_perm"),
    ],
)
def test_small_p_values_are_not_too_frequent_without_effects(
    null_screens, statistic, method, sampler
):
    below = []
    for screen in null_screens:
        p = refined(screen, statistic, STAGES[method], sampler)[0].p_value
        p = p[np.isfinite(p).all(axis=1)]
        below.append((p[:, :, None] <= LEVELS).sum(axis=1))
    below = np.concatenate(below).astype(float)
    n = len(below) * NULL["n_programs"]
    rate = below.sum(axis=0) / n
    # Tests of a target share its treated cells.
    error = np.maximum(np.sqrt(len(below)) * below.std(axis=0) / n, np.sqrt(LEVELS / n))
    print(statistic, method, sampler, n, rate / LEVELS, error / LEVELS)
    assert np.all(rate <= LEVELS + 3 * error)
    assert rate[0] > 0.6 * LEVELS[0]


def test_few_strong_effects_are_found_where_resamples_alone_find_none(simulate):
    screen = simulate(**FEW_EFFECTS, seed=77)
    with open_anndata(screen.simulation) as file:
        truth = read(file, "uns/truth").astype(str)
    units, features = screen.units(), screen.outcome().features
    is_true = np.zeros((len(units.names), len(features)), bool)
    for target, program in truth[["target", "program"]].itertuples(index=False):
        is_true[units.names.index(target), features.index(program)] = True
    last, first = refined(screen, "ols", BY_IMPORTANCE)

    def found(p):
        tested = np.isfinite(p)
        called = np.zeros(p.shape, bool)
        called[tested] = benjamini_hochberg(p[tested]) <= 0.05
        return called

    called = found(last.p_value)
    # Three tests at 1 / (B + 1) among three thousand do not pass.
    assert not found(first).any()
    assert (called & is_true).sum() >= 0.75 * is_true.sum() >= 2
    assert (called & ~is_true).sum() <= 1
    assert set(last.p_source[called]) == {"importance"}
    assert np.all(last.p_relative_error[called] < 0.5)
