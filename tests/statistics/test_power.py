"""Planted effects: how many are found at a false discovery rate of 0.05, and the achieved rate."""

import numpy as np
import pandas as pd
import pytest

from condrand.fdr import benjamini_hochberg
from condrand.io.h5ad import open_h5ad, read

pytestmark = [
    pytest.mark.slow,
    # Fitted tail probabilities of 0 where no resample is: such ratios are masked afterwards.
    pytest.mark.filterwarnings("ignore:.*in divide:RuntimeWarning:condrand.nulls.skew_normal"),
]

N_SCREENS = 6
FDR = 0.05
# Noise of a logit is 0.3: four standard errors in a target of 64 cells.
SCREEN = {
    "n_cells": 6000,
    "n_programs": 12,
    "n_targets": 200,
    "n_batches": 3,
    "causal_fraction": 0.2,
    "n_effect_programs": 2,
    "effect_size": 0.15,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
    "moi_dispersion": 0.7,
    "burden_effect": 1.0,
}
# Statistics that do not project out the covariates have twice the noise here (see
# test_null_calibration.py): a known loss, hence the upper bounds.
POWER = {
    ("bernoulli_index", "ols"): (0.75, 1.0),
    ("bernoulli_index", "ols_t"): (0.75, 1.0),
    ("bernoulli_index", "rank"): (0.02, 0.25),
    ("bernoulli_index", "welch"): (0.02, 0.25),
    ("stratified_perm", "ols"): (0.75, 1.0),
    ("stratified_perm", "ols_t"): (0.75, 1.0),
    ("stratified_perm", "rank"): (0.2, 0.45),
    ("stratified_perm", "welch"): (0.2, 0.45),
}


@pytest.fixture(scope="module")
def screens(simulate):
    made = []
    for seed in range(N_SCREENS):
        screen = simulate(**SCREEN, seed=1000 + seed)
        with open_h5ad(screen.simulation) as file:
            truth = read(file, "uns/truth")
        made.append((screen, truth.astype(str)[["target", "program"]]))
    return made


@pytest.mark.parametrize(("sampler", "statistic"), POWER)
def test_effects_are_found_and_the_false_discovery_rate_holds(screens, tools, sampler, statistic):
    def of_screen(made):
        screen, truth = made
        units = screen.units().with_whole_burden()
        table = tools.test_units(screen.outcome(statistic), units, sampler)
        table = table[table["p_value"].notna()]
        planted = pd.MultiIndex.from_frame(truth)
        is_true = pd.MultiIndex.from_frame(table[["target", "feature"]]).isin(planted)
        found = benjamini_hochberg(table["p_value"].to_numpy()) <= FDR
        power = np.sum(found & is_true) / np.sum(is_true)
        return power, np.sum(found & ~is_true) / max(1, np.sum(found))

    power, false = zip(*tools.of_each(of_screen, screens), strict=True)
    error = np.std(false, ddof=1) / np.sqrt(N_SCREENS)
    print(
        f"power {sampler} {statistic}: {np.mean(power):.3f} "
        f"+- {np.std(power, ddof=1) / np.sqrt(N_SCREENS):.3f}, "
        f"false discovery rate {np.mean(false):.4f} +- {error:.4f}"
    )
    assert np.mean(false) <= FDR + 3 * error
    low, high = POWER[sampler, statistic]
    assert low < np.mean(power) <= high
