"""p values of screens without any effect, whose covariates move treatment and outcome alike.

Batch, depth, further covariates and the number of guides move both. Two models of the analysis
are right and one is not: the outcome is linear in the covariates, given which the number of
guides makes treatment independent of uptake; but targets compete for a cell's guides, so that
their log odds fall with the square of the covariates, and the logistic propensity is linear.
"""

from dataclasses import replace
from functools import cache

import numpy as np
import pytest

from condrand.covariates import orthonormal_basis, standardize
from condrand.io.h5ad import open_h5ad, read
from condrand.io.outcome import Outcome
from condrand.normalize import transform_outcome
from condrand.samplers import SAMPLERS
from condrand.statistics import STATISTICS

pytestmark = [
    pytest.mark.slow,
    # Fitted tail probabilities of 0 where no resample is: such ratios are masked afterwards.
    pytest.mark.filterwarnings("ignore:.*in divide:RuntimeWarning:condrand.nulls.skew_normal"),
]

N_SCREENS = 15
NULL = {
    "n_cells": 6000,
    "n_programs": 12,
    "n_targets": 280,
    "n_batches": 3,
    "causal_fraction": 0.0,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
    "moi_dispersion": 0.7,
    "burden_effect": 1.0,
}
PROJECTING, RAW = ("ols", "ols_t"), ("rank", "welch")
COLUMNS = ("p_empirical", "p_value")


@pytest.fixture(scope="module")
def screens(simulate):
    return [simulate(**NULL, seed=seed) for seed in range(N_SCREENS)]


@pytest.fixture(scope="module")
def null_rates(screens, tools):
    """Rejection rates by statistic and sampler, of whole units or of pieces of some size."""

    @cache
    def table(statistic, sampler, size=None):
        def of_screen(seed):
            units = screens[seed].units().with_whole_burden()
            if size is not None:
                units = units.pieces(size, seed).first(NULL["n_targets"])
            return tools.test_units(screens[seed].outcome(statistic), units, sampler)

        return tools.joined(tools.of_each(of_screen, range(N_SCREENS)))

    def rates(statistic, sampler, column, size=None):
        found = tools.rejections(table(statistic, sampler, size), column)
        cells = "all" if size is None else size
        tools.report(f"null {cells} {sampler} {statistic} {column}", found)
        return found

    return rates


def attainable(level, column):
    """The largest multiple of 1 / 1024 below a level, where p is one."""
    return np.floor(np.nextafter(level * 1024, 0)) / 1024 if column == "p_empirical" else level


def excess(rates, level, column):
    """Standard errors by which the rejection rate passes the nominal one."""
    row = rates.loc[level]
    return (row["rate"] - attainable(level, column)) / row["se"]


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("statistic", PROJECTING)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_null_p_values_are_uniform_under_confounding(null_rates, sampler, statistic, column):
    rates = null_rates(statistic, sampler, column)
    assert rates["n"].iloc[0] >= 50_000
    # Three standard errors: 0.27 % false alarms.
    for level in (0.05, 0.01):
        assert abs(excess(rates, level, column)) < 3


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("statistic", RAW)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_statistics_that_do_not_project_are_conservative(null_rates, sampler, statistic, column):
    # The fitted propensity reproduces the treated cells' covariate sums, whatever they were; in
    # resamples these sums vary. The null distribution of a statistic that holds them is wider
    # than the statistic by 1/sqrt(1 - R2), R2 the covariates' share of the outcome: 0.74 here.
    rates = null_rates(statistic, sampler, column)
    assert rates["n"].iloc[0] >= 50_000
    # Strata take out a part of the covariates' share.
    low, high = (0.0, 0.3) if sampler == "bernoulli_index" else (0.5, 0.95)
    for level in (0.05, 0.01):
        assert low <= rates["ratio"][level] < high


@pytest.mark.parametrize("statistic", RAW)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_on_residuals_they_are_calibrated(screens, tools, sampler, statistic):
    # Shows the reason given above: without the covariates' share the width is right.
    def of_screen(screen):
        stored, outcome = screen.stored(), screen.outcome(statistic)
        values, _ = transform_outcome(stored.values, screen.section)
        burden = standardize(np.log1p(stored.n_guides)[:, None])
        basis = orthonormal_basis(np.column_stack([outcome.design, burden]))
        residuals = values - basis @ (basis.T @ values)
        scores = STATISTICS[statistic].score(residuals, basis)
        units = screen.units().with_whole_burden()
        return tools.test_units(replace(outcome, scores=scores), units, sampler)

    tables = tools.of_each(of_screen, screens[:4])
    rates = tools.rejections(tools.joined(tables), "p_empirical")
    tools.report(f"null of residuals {sampler} {statistic}", rates)
    assert abs(excess(rates, 0.05, "p_empirical")) < 3
    assert abs(excess(rates, 0.01, "p_empirical")) < 3


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_a_burden_without_the_targets_own_guides_confounds(screens, tools, sampler):
    # Given all guides of a cell, which targets they hit says nothing of its uptake (a Poisson
    # number of guides, split at random). Given the other guides alone, a cell with a guide more
    # has the higher uptake, and the higher burden: so the workflow's burden leaves bias. If it
    # came to count a target's own guides, this would fail.
    tables = [
        tools.test_units(screen.outcome("ols"), screen.units(), sampler) for screen in screens[:2]
    ]
    rates = tools.rejections(tools.joined(tables), "p_empirical")
    tools.report(f"null, own guides left out, {sampler} ols", rates)
    assert 0.3 < rates["rate"][0.05] < 0.45


def test_the_null_screens_are_confounded(screens, tools):
    # Otherwise the tests above would show nothing about confounding.
    units = screens[0].units().with_whole_burden()
    table = tools.test_units(screens[0].outcome("ols"), units, resamples=19)
    assert np.median(table["auc"]) > 0.65


@pytest.mark.parametrize("statistic", STATISTICS)
def test_without_covariates_the_same_screens_are_not_calibrated(screens, tools, statistic):
    screen = screens[0]
    values, _ = transform_outcome(screen.stored().values, screen.section)
    none = np.zeros((values.shape[0], 0))
    scores = STATISTICS[statistic].score(values, orthonormal_basis(none))
    features = screen.outcome().features
    outcome = Outcome(scores, none, features, "", "", statistic)
    table = tools.test_units(outcome, screen.units())
    rates = tools.rejections(table, "p_empirical", ("target",))
    tools.report(f"null without covariates {statistic}", rates)
    assert rates["rate"][0.05] > 0.2


def test_without_the_burden_the_same_screens_are_not_calibrated(screens, tools):
    outcome = replace(screens[0].outcome("ols"), burden=False)
    table = tools.test_units(outcome, screens[0].units())
    rates = tools.rejections(table, "p_empirical", ("target",))
    tools.report("null without burden ols", rates)
    assert rates["rate"][0.05] > 0.2


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_fifty_treated_cells_ols_t_is_calibrated(null_rates, sampler, column):
    rates = null_rates("ols_t", sampler, column, size=50)
    assert rates["n"].iloc[0] >= 50_000
    for level in (0.05, 0.01):
        assert abs(excess(rates, level, column)) < 3
    for level in (1e-3, 1e-4) if column == "p_value" else (1e-3,):
        assert excess(rates, level, column) < 3


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_fifty_treated_cells_ols_is_conservative(null_rates, sampler, column):
    # The fitted propensity expects the number of cells that were observed, while Bernoulli
    # resamples differ in it: their coefficients are a mixture of scales, wider than the observed
    # one. Permutations keep the number, and are calibrated.
    rates = null_rates("ols", sampler, column, size=50)
    assert rates["n"].iloc[0] >= 50_000
    low = 0.85 if sampler == "bernoulli_index" else 0.94
    assert low < rates["ratio"][0.05] < 1.06
    for level in (0.05, 0.01, 1e-3):
        assert excess(rates, level, column) < 3


@pytest.mark.parametrize("column", COLUMNS)
@pytest.mark.parametrize("sampler", SAMPLERS)
def test_with_fifty_treated_cells_rank_is_conservative(null_rates, sampler, column):
    rates = null_rates("rank", sampler, column, size=50)
    assert rates["n"].iloc[0] >= 50_000
    low, high = (0.0, 0.3) if sampler == "bernoulli_index" else (0.4, 0.95)
    for level in (0.05, 0.01):
        assert low <= rates["ratio"][level] < high


LOW_MOI = {
    "n_cells": 6000,
    "n_programs": 12,
    "n_targets": 40,
    "n_batches": 3,
    "guides_per_cell": "one",
    "causal_fraction": 0.5,
    "effect_size": 1.5,
    "confounding": 1.0,
    "near_zero_fraction": 0.0,
}


@pytest.fixture(scope="module")
def low_moi(simulate):
    """Screens with one guide per cell, half of whose targets have a strong effect."""
    made = []
    for seed in range(16):
        screen = simulate(burden=False, **LOW_MOI, seed=seed)
        with open_h5ad(screen.simulation) as file:
            causal = set(read(file, "uns/truth")["target"].astype(str))
        made.append((screen, causal))
    return made


def low_moi_rates(low_moi, tools, control, statistic="ols_t"):
    """Rejection rates of NTC guides and of targets without effect. Screens are the clusters:
    tests of a screen share the cells they are compared with."""

    def of_screen(made):
        screen, causal = made
        table = tools.test_units(screen.outcome(statistic, control), screen.units("guides"))
        return table[~table["target"].isin(causal)]

    table = tools.joined(tools.of_each(of_screen, low_moi))
    found = {}
    for kind, part in table.groupby("kind"):
        found[kind] = tools.rejections(part, "p_value", ("screen",))
        tools.report(f"low MOI, {control}, {kind} {statistic}", found[kind])
    return found


def test_at_low_moi_a_comparison_with_ntc_cells_is_calibrated(low_moi, tools):
    found = low_moi_rates(low_moi, tools, "ntc")
    for rates in found.values():
        for level in (0.05, 0.01):
            assert abs(excess(rates, level, "p_value")) < 3


def test_at_low_moi_a_comparison_with_all_other_cells_finds_what_is_not_there(low_moi, tools):
    # The other cells carry the effects of the causal targets: they differ from any guide's cells.
    found = low_moi_rates(low_moi, tools, "complement")
    assert found["target"]["rate"][0.05] > 0.1
