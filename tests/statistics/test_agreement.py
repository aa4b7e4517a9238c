"""The skew-normal p of 1,023 resamples against the raw p of a hundred times as many."""

import numpy as np
import pytest

pytestmark = pytest.mark.slow

MANY = 102_400
SCREEN = {
    "n_cells": 3000,
    "n_programs": 12,
    "n_targets": 100,
    "n_batches": 3,
    "causal_fraction": 1.0,
    "effect_size": 0.1,
    "n_effect_programs": 6,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
    "moi_dispersion": 0.7,
    "burden_effect": 1.0,
    "seed": 2000,
}
N_TARGETS = 48


@pytest.mark.parametrize(
    ("sampler", "statistic"),
    [
        ("bernoulli_index", "ols_t"),
        ("bernoulli_index", "rank"),
        ("stratified_perm", "ols_t"),
    ],
)
def test_the_skew_normal_agrees_with_many_resamples(simulate, tools, sampler, statistic):
    screen = simulate(**SCREEN)
    units, outcome = screen.units().some(N_TARGETS), screen.outcome(statistic)
    few = tools.test_units(outcome, units, [sampler], resamples=1023)
    many = tools.test_units(outcome, units, [sampler], resamples=MANY, threads=2)
    p, exact = few["p_skew_normal"].to_numpy(), many["p_empirical"].to_numpy()
    # The raw p of 1e-4 rests on ten resamples: its own error is a third.
    for low, high in ((1e-4, 1.0), (1e-4, 1e-3), (1e-3, 1e-2), (1e-2, 1.0)):
        here = (exact > low) & (exact <= high)
        ratio = p[here] / exact[here]
        within = np.mean((ratio > 0.5) & (ratio < 2))
        print(
            f"agreement {sampler} {statistic} {low:g} < p <= {high:g}: {here.sum()} tests, "
            f"within a factor 2: {within:.3f}, median ratio {np.median(ratio):.3f}, "
            f"{np.quantile(ratio, 0.05):.3f} to {np.quantile(ratio, 0.95):.3f}"
        )
        if low == 1e-4 and high == 1.0:
            assert here.sum() > 400
            assert within > 0.97
