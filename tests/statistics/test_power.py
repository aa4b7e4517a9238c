"""Planted effects: how many are found at a false discovery rate of 0.05, and the achieved rate."""

import numpy as np
import pandas as pd
import pytest

from condrand.fdr import benjamini_hochberg
from condrand.io.h5ad import open_anndata, read
from condrand.samplers import SAMPLERS
from condrand.statistics import STATISTICS

pytestmark = pytest.mark.slow

N_SCREENS = 8
FDR = 0.05
# Noise of a logit is 0.3: four standard errors in a target of 64 cells.
SCREEN = {
    "n_cells": 3000,
    "n_programs": 12,
    "n_targets": 100,
    "n_batches": 3,
    "causal_fraction": 0.2,
    "n_effect_programs": 2,
    "effect_size": 0.15,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
    "moi_dispersion": 0.7,
    "burden_effect": 1.0,
}
LEAST_POWER = 0.8


@pytest.fixture(scope="module")
def screens(simulate):
    made = []
    for seed in range(N_SCREENS):
        screen = simulate(**SCREEN, seed=1000 + seed)
        with open_anndata(screen.simulation) as file:
            truth = read(file, "uns/truth")
        made.append((screen, truth.astype(str)[["target", "program"]]))
    return made


@pytest.mark.parametrize("statistic", STATISTICS)
def test_effects_are_found_and_the_false_discovery_rate_holds(screens, tools, statistic):
    def of_screen(made):
        screen, truth = made
        table = tools.test_units(screen.outcome(statistic), screen.units(), SAMPLERS)
        table = table[table["p_value"].notna()]
        planted = pd.MultiIndex.from_frame(truth)
        shares = []
        for sampler in SAMPLERS:
            part = table[table["sampler"] == sampler]
            is_true = pd.MultiIndex.from_frame(part[["target", "feature"]]).isin(planted)
            found = benjamini_hochberg(part["p_value"].to_numpy()) <= FDR
            power = np.sum(found & is_true) / np.sum(is_true)
            shares.append((power, np.sum(found & ~is_true) / max(1, np.sum(found))))
        return shares

    shares = np.array(tools.of_each(of_screen, screens))
    mean, error = shares.mean(axis=0), shares.std(axis=0, ddof=1) / np.sqrt(N_SCREENS)
    for sampler, (power, false), (of_power, of_false) in zip(SAMPLERS, mean, error, strict=True):
        print(
            f"power {sampler} {statistic}: {power:.3f} +- {of_power:.3f}, "
            f"false discovery rate {false:.4f} +- {of_false:.4f}"
        )
        assert false <= FDR + 3 * of_false
        assert power > LEAST_POWER
