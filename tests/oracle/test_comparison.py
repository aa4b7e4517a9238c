"""A unit's comparison against building it by hand: least squares and logistic regression.

By hand, the cells of the comparison are taken, their covariates standardized anew and the burden
columns written out: all guides of each cell, the unit's own too.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.comparison import Comparisons
from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.io.outcome import Outcome
from condrand.normalize import OF_RESIDUALS
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.statistics import STATISTICS, ols
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET

FORMS = ["dense", "sparse"]
N_CELLS = 400


class Screen:
    """400 cells with one to four guides; the target is the guides 0 and 1, NTC are 7 to 9."""

    def __init__(self):
        random = np.random.default_rng(7)
        depth = random.normal(size=N_CELLS)
        self.batch = random.integers(0, 3, N_CELLS)
        self.columns = np.column_stack([depth, random.normal(size=N_CELLS), self.batch == 2])
        calls = random.random((N_CELLS, 10)) < 0.12 * np.exp(0.3 * depth)[:, None]
        # Every cell has a guide, and about a fifth NTC guides alone.
        calls[np.arange(0, N_CELLS, 5), :7] = False
        calls[np.arange(0, N_CELLS, 5), 7] = True
        calls[~calls.any(axis=1), 2] = True
        self.own = calls[:, :2].sum(axis=1)
        self.treated = np.flatnonzero(self.own)
        assert set(self.own[self.treated]) == {1, 2}
        self.n_guides = calls[:, :7].sum(axis=1).astype(float)
        self.n_ntc = calls[:, 7:].sum(axis=1).astype(float)
        self.is_ntc = (self.n_guides == 0) & (self.n_ntc > 0)
        self.ntc_guide = np.flatnonzero(calls[:, 8])
        weights = random.normal(size=(3, 4))
        values = self.columns @ weights + 0.5 * self.n_guides[:, None]
        self.values = np.maximum(values + 2 * random.normal(size=(N_CELLS, 4)), 0.0)

    def outcome(self, form="dense", control="complement", burden=False, statistic="ols", **more):
        values = more.pop("values", self.values)
        columns = more.pop("columns", self.columns)
        if burden:
            columns = np.column_stack([columns, self.burdens(control)])
        values = values if form == "dense" else sp.csr_matrix(values)
        design = standardize(columns.astype(float))
        scores = None
        if control == "complement":
            scores = STATISTICS[statistic].score(values, orthonormal_basis(design))
        burdens = self.burdens(control).T if more.pop("by_burden", False) else [None]
        return Outcome(
            scores,
            design,
            [f"f{k}" for k in range(values.shape[1])],
            "",
            "",
            statistic,
            control,
            values if control == "ntc" else None,
            self.is_ntc if control == "ntc" else None,
            more.pop("batch", None),
            *(burdens[0], burdens[-1], None, more.pop("residualize", False)),
        )

    def cells(self, treated, control):
        if control == "complement":
            return np.arange(N_CELLS)
        return np.flatnonzero(self.is_ntc | np.isin(np.arange(N_CELLS), treated))

    def burdens(self, control):
        """Columns of the design; NTC cells carry no others, so there all guides are one count."""
        if control == "ntc":
            return np.log1p(self.n_guides + self.n_ntc)[:, None]
        return np.log1p(np.column_stack([self.n_guides, self.n_ntc]))


@pytest.fixture(scope="module")
def screen():
    return Screen()


def regressors_by_hand(screen, treated, control, burden) -> np.ndarray:
    """Standardized covariates of the cells compared."""
    columns = screen.columns.astype(float)
    if burden:
        columns = np.column_stack([columns, screen.burdens(control)])
    cells = screen.cells(treated, control)
    columns = columns[cells]
    return (columns - columns.mean(axis=0)) / columns.std(axis=0)


def lstsq_coefficients(values, columns, x) -> np.ndarray:
    regressors = np.column_stack([np.ones(x.size), columns, x.astype(float)])
    return np.linalg.lstsq(regressors, values, rcond=None)[0][-1]


def assert_minimizes(coefficients, columns, x, inverse_penalty) -> None:
    """The gradient of the strictly convex penalized loss vanishes, so this is its minimum."""
    p = 1 / (1 + np.exp(-coefficients[0] - columns @ coefficients[1:]))
    # Newton stops at a decrement of 1e-18; the gradient is a sum over 400 cells.
    assert np.sum(x - p) == pytest.approx(0, abs=1e-7)
    gradient = columns.T @ (x - p) - coefficients[1:] / inverse_penalty
    np.testing.assert_allclose(gradient, 0, atol=1e-7)


COMBINATIONS = [
    (form, control, burden)
    for form in FORMS
    for control in ("complement", "ntc")
    for burden in (False, True)
]


# By hand


@pytest.mark.parametrize(("form", "control", "burden"), COMBINATIONS)
def test_coefficients_are_those_of_least_squares_on_the_cells_compared(
    form, control, burden, screen
):
    shared = screen.outcome(form, control, burden)
    comparison = Comparisons(shared).of(TARGET, screen.treated)
    cells = screen.cells(screen.treated, control)
    columns = regressors_by_hand(screen, screen.treated, control, burden)
    x = np.isin(cells, screen.treated)
    np.testing.assert_array_equal(np.flatnonzero(x), comparison.treated)
    got = ols.coefficients(comparison.scores, comparison.scores.observed(comparison.treated))[0]
    expected = lstsq_coefficients(screen.values[cells], columns, x)
    # About 1e-13 was reached.
    np.testing.assert_allclose(got, expected, rtol=1e-9)
    # And under resampling, of a propensity that differs between cells.
    sampler = BernoulliSampler.of(0, "target", "A", 0.1 + 0.2 * x)
    got = ols.coefficients(comparison.scores, sampler.set_sums(comparison.scores, 0, 30))
    drawn = sampler.treated(0, 30)
    expected = [lstsq_coefficients(screen.values[cells], columns, one) for one in drawn]
    np.testing.assert_allclose(got, expected, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize(("form", "control", "burden"), COMBINATIONS)
def test_the_propensity_is_fitted_on_the_cells_compared(form, control, burden, screen):
    shared = screen.outcome(form, control, burden)
    batch = crt.prepare(shared, ["target"], ["A"], [screen.treated], inverse_penalty=0.7)
    assert batch.notes == [""]
    cells = screen.cells(screen.treated, control)
    columns = regressors_by_hand(screen, screen.treated, control, burden)
    x = np.isin(cells, screen.treated)
    assert batch.model.coefficients.shape == (1, columns.shape[1] + 1)
    assert_minimizes(batch.model.coefficients[0], columns, x, 0.7)
    assert batch.diagnostics["n_target"][0] == screen.treated.size
    assert batch.diagnostics["n_control"][0] == cells.size - screen.treated.size
    assert batch.diagnostics["n_expected"][0] == pytest.approx(screen.treated.size, rel=1e-9)
    comparison = Comparisons(shared).of(TARGET, screen.treated)
    expected = 1 / (
        1 + np.exp(-columns @ batch.model.coefficients[0, 1:] - batch.model.coefficients[0, 0])
    )
    got = batch.model.predict(0, comparison.covariates, comparison.n_cells)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("statistic", ["ols_t", "rank", "welch"])
@pytest.mark.parametrize("form", FORMS)
def test_every_statistic_among_ntc_cells_sees_those_cells_alone(form, statistic, screen):
    shared = screen.outcome(form, "ntc", True, statistic)
    comparison = Comparisons(shared).of(TARGET, screen.treated)
    cells = screen.cells(screen.treated, "ntc")
    columns = regressors_by_hand(screen, screen.treated, "ntc", True)
    module = STATISTICS[statistic]
    alone = module.score(screen.values[cells], orthonormal_basis(columns))
    treated = np.searchsorted(cells, screen.treated)
    got = module.values(comparison.scores, comparison.scores.observed(comparison.treated))
    expected = module.values(alone, alone.observed(treated))
    np.testing.assert_allclose(got, expected, rtol=1e-9)


def test_a_dense_and_a_sparse_outcome_give_the_same_test_among_ntc_cells(screen):
    found = []
    for form in FORMS:
        shared = screen.outcome(form, "ntc", True)
        batch = crt.prepare(shared, ["target"], ["A"], [screen.treated])
        found.append((batch.observed, batch.centre, batch.scale, batch.model.coefficients))
    for dense, sparse in zip(*found, strict=True):
        np.testing.assert_allclose(dense, sparse, rtol=1e-9, atol=1e-12)


def test_a_batch_without_ntc_cells_is_left_out_of_the_outcome_model(screen):
    # In batch 2 no cell carries NTC guides alone, and none is treated: its indicator is constant.
    everywhere = screen.columns.copy()
    cells = screen.cells(screen.treated, "ntc")
    everywhere[:, 2] = True
    everywhere[np.setdiff1d(np.arange(N_CELLS), cells)[::2], 2] = False
    for form in FORMS:
        shared = screen.outcome(form, "ntc", columns=everywhere)
        assert np.ptp(shared.design[:, 2]) > 0
        batch = crt.prepare(shared, ["target"], ["A"], [screen.treated])
        assert batch.notes == [""]
        columns = standardize(everywhere[cells, :2].astype(float))
        x = np.isin(cells, screen.treated)
        expected = lstsq_coefficients(screen.values[cells], columns, x)
        np.testing.assert_allclose(batch.effect[0], expected, rtol=1e-9)
        # What does not vary has no part in the propensity either.
        assert batch.model.coefficients[0, 3] == 0.0
        assert_minimizes(batch.model.coefficients[0, :3], columns, x, 1.0)


def test_an_ntc_guide_is_compared_with_the_other_ntc_cells(screen):
    # Some of its cells carry other guides too: they are treated, but no controls of others.
    guide = screen.ntc_guide
    assert screen.is_ntc[guide].any() and not screen.is_ntc[guide].all()
    shared = screen.outcome("dense", "ntc", True)
    batch = crt.prepare(shared, ["ntc_guide"], ["n1"], [guide])
    cells = np.union1d(guide, np.flatnonzero(screen.is_ntc))
    assert batch.diagnostics["n_control"][0] == np.sum(screen.is_ntc) - np.sum(
        screen.is_ntc[guide]
    )
    columns = regressors_by_hand(screen, guide, "ntc", True)
    expected = lstsq_coefficients(screen.values[cells], columns, np.isin(cells, guide))
    np.testing.assert_allclose(batch.effect[0], expected, rtol=1e-9)


def test_a_unit_of_all_ntc_cells_has_none_to_compare(screen):
    everything = np.flatnonzero(screen.is_ntc)
    shared = screen.outcome("dense", "ntc")
    treated = [everything, np.append(everything, 2), everything[1:], np.zeros(0, np.int64)]
    treated[1] = np.unique(treated[1])
    batch = crt.prepare(shared, ["target"] * 4, list("ABCD"), treated)
    assert batch.notes[0] == batch.notes[1] == "no NTC cell to compare"
    assert batch.notes[2] != "no NTC cell to compare"
    assert batch.notes[3] == "no treated cell"
    assert batch.diagnostics["n_control"].tolist() == [0, 0, 1, everything.size]


# Burden


@pytest.mark.parametrize("control", ["complement", "ntc"])
def test_targets_and_ntc_units_have_strata_by_burdens_of_their_own(control, screen):
    shared = screen.outcome("dense", control, by_burden=True, batch=screen.batch)
    for kind, treated in (
        (TARGET, screen.treated),
        (NTC_GUIDE, screen.ntc_guide),
        (NTC_GROUP, screen.ntc_guide),
    ):
        comparison = Comparisons(shared).of(kind, treated)
        cells = screen.cells(treated, control)
        # The unit's own guides count: the same for every unit of its kind.
        counts = screen.n_guides if kind == TARGET else screen.n_ntc
        expected = np.log1p(counts if control == "complement" else screen.n_guides + screen.n_ntc)
        np.testing.assert_array_equal(comparison.burden, expected[cells])
        np.testing.assert_array_equal(comparison.batch, screen.batch[cells])
        # Strata by burden do not make it a covariate.
        assert comparison.covariates.shape[0] == 3
    without = Comparisons(screen.outcome("dense", control)).of(TARGET, screen.treated)
    assert without.burden is None and without.batch is None


def test_units_share_scores_and_covariates_unless_each_is_compared_with_ntc_cells(screen):
    for burden in (False, True):
        shared = Comparisons(screen.outcome(burden=burden, by_burden=True))
        assert shared.are_shared
        one, other = (
            shared.of(kind, cells)
            for kind, cells in ((TARGET, screen.treated), (NTC_GUIDE, screen.ntc_guide))
        )
        assert one.scores is other.scores and one.covariates is other.covariates
        assert one.burden is not other.burden
    assert not Comparisons(screen.outcome(control="ntc")).are_shared


@pytest.mark.parametrize("form", FORMS)
def test_a_feature_that_the_burden_explains_is_not_tested(form, screen):
    values = np.column_stack([np.log1p(screen.n_guides), screen.values[:, 0]])
    for burden, tested in ((True, [False, True]), (False, [True, True])):
        shared = screen.outcome(form, burden=burden, values=values)
        batch = crt.prepare(shared, [TARGET], ["A"], [screen.treated])
        np.testing.assert_array_equal(batch.scale[0] > 0, tested)


# Residuals


@pytest.mark.parametrize("burden", [False, True])
@pytest.mark.parametrize("statistic", OF_RESIDUALS)
def test_among_ntc_cells_rank_and_welch_take_the_residuals_of_the_cells_compared(
    statistic, burden, screen
):
    module = STATISTICS[statistic]
    shared = screen.outcome("dense", "ntc", burden, statistic, residualize=True)
    before = shared.tested.copy()
    for kind, treated in ((TARGET, screen.treated), (NTC_GUIDE, screen.ntc_guide)):
        comparison = Comparisons(shared).of(kind, treated)
        cells = screen.cells(treated, "ntc")
        columns = regressors_by_hand(screen, treated, "ntc", burden)
        regressors = np.column_stack([np.ones(cells.size), columns])
        values = screen.values[cells]
        residuals = values - regressors @ np.linalg.lstsq(regressors, values, rcond=None)[0]
        alone = module.score(residuals, orthonormal_basis(columns))
        x = np.isin(cells, treated)
        sampler = BernoulliSampler.of(0, kind, "A", 0.1 + 0.2 * x)
        for sums, expected in (
            (comparison.scores.observed(comparison.treated), alone.observed(np.flatnonzero(x))),
            (sampler.set_sums(comparison.scores, 0, 30), sampler.set_sums(alone, 0, 30)),
        ):
            got = module.values(comparison.scores, sums)
            np.testing.assert_allclose(got, module.values(alone, expected), rtol=1e-9, atol=1e-12)
        # Not those of the outcome, nor of a regression over the whole screen.
        raw = module.score(values, orthonormal_basis(columns))
        whole = np.column_stack([np.ones(N_CELLS), shared.design])
        whole = screen.values - whole @ np.linalg.lstsq(whole, screen.values, rcond=None)[0]
        elsewhere = module.score(whole[cells], orthonormal_basis(columns))
        got = module.values(comparison.scores, comparison.scores.observed(comparison.treated))
        for other in (raw, elsewhere):
            other = module.values(other, other.observed(np.flatnonzero(x)))
            assert (np.abs(got - other) > 1e-4).all()
    # What units share is not worn down by use.
    np.testing.assert_array_equal(shared.tested, before)
