"""A unit's comparison against building it by hand: least squares and logistic regression.

By hand, the cells of the comparison are taken, their covariates standardized anew and the burden
column written out, with the unit's own guides left out.
"""

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.comparison import Comparisons
from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.io.outcome import Outcome
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.statistics import STATISTICS, ols

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
        self.n_own = self.own[self.treated].astype(float)
        assert set(self.n_own) == {1.0, 2.0}
        self.n_guides = calls[:, :7].sum(axis=1).astype(float)
        self.is_ntc = (self.n_guides == 0) & calls[:, 7:].any(axis=1)
        self.ntc_guide = np.flatnonzero(calls[:, 8])
        weights = random.normal(size=(3, 4))
        values = self.columns @ weights + 0.5 * self.n_guides[:, None]
        self.values = np.maximum(values + 2 * random.normal(size=(N_CELLS, 4)), 0.0)

    def outcome(self, form="dense", control="complement", burden=False, statistic="ols", **more):
        values = more.pop("values", self.values)
        columns = more.pop("columns", self.columns)
        values = values if form == "dense" else sp.csr_matrix(values)
        design = standardize(columns.astype(float))
        scores = None
        if control == "complement":
            scores = STATISTICS[statistic].score(values, orthonormal_basis(design))
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
            self.n_guides if burden or more.pop("by_burden", False) else None,
            burden,
        )

    def cells(self, treated, control):
        if control == "complement":
            return np.arange(N_CELLS)
        return np.flatnonzero(self.is_ntc | np.isin(np.arange(N_CELLS), treated))

    def burden(self, own):
        return np.log1p(self.n_guides - own)


@pytest.fixture(scope="module")
def screen():
    return Screen()


def regressors_by_hand(screen, treated, own, control, burden) -> np.ndarray:
    """Standardized covariates of the cells compared."""
    columns = screen.columns.astype(float)
    if burden:
        columns = np.column_stack([columns, screen.burden(own)])
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
    comparison = Comparisons(shared).of(screen.treated, screen.n_own)
    cells = screen.cells(screen.treated, control)
    columns = regressors_by_hand(screen, screen.treated, screen.own, control, burden)
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
    batch = crt.prepare(
        shared, ["target"], ["A"], [screen.treated], inverse_penalty=0.7, n_own=[screen.n_own]
    )
    assert batch.notes == [""]
    cells = screen.cells(screen.treated, control)
    columns = regressors_by_hand(screen, screen.treated, screen.own, control, burden)
    x = np.isin(cells, screen.treated)
    assert batch.model.coefficients.shape == (1, 4 + burden)
    assert_minimizes(batch.model.coefficients[0], columns, x, 0.7)
    assert batch.diagnostics["n_target"][0] == screen.treated.size
    assert batch.diagnostics["n_control"][0] == cells.size - screen.treated.size
    assert batch.diagnostics["n_expected"][0] == pytest.approx(screen.treated.size, rel=1e-9)
    comparison = Comparisons(shared).of(screen.treated, screen.n_own)
    expected = 1 / (
        1 + np.exp(-columns @ batch.model.coefficients[0, 1:] - batch.model.coefficients[0, 0])
    )
    got = batch.model.predict(0, comparison.covariates, comparison.n_cells)
    np.testing.assert_allclose(got, expected, rtol=1e-12)


@pytest.mark.parametrize("statistic", ["ols_t", "rank", "welch"])
@pytest.mark.parametrize("form", FORMS)
def test_every_statistic_among_ntc_cells_sees_those_cells_alone(form, statistic, screen):
    shared = screen.outcome(form, "ntc", True, statistic)
    comparison = Comparisons(shared).of(screen.treated, screen.n_own)
    cells = screen.cells(screen.treated, "ntc")
    columns = regressors_by_hand(screen, screen.treated, screen.own, "ntc", True)
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
        own = [screen.n_own]
        batch = crt.prepare(shared, ["target"], ["A"], [screen.treated], n_own=own)
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
    batch = crt.prepare(shared, ["ntc_guide"], ["n1"], [guide], n_own=[np.zeros(guide.size)])
    cells = np.union1d(guide, np.flatnonzero(screen.is_ntc))
    assert batch.diagnostics["n_control"][0] == np.sum(screen.is_ntc) - np.sum(
        screen.is_ntc[guide]
    )
    columns = regressors_by_hand(screen, guide, 0, "ntc", True)
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


def test_only_the_units_own_guides_are_left_out_of_its_burden(screen):
    shared = screen.outcome("dense", "complement", True)
    comparisons = Comparisons(shared)
    others = np.zeros(screen.treated.size)
    given = [comparisons.of(screen.treated, n).burden for n in (screen.n_own, others)]
    np.testing.assert_allclose(given[0], np.log1p(screen.n_guides - screen.own), rtol=1e-15)
    np.testing.assert_allclose(given[1], np.log1p(screen.n_guides), rtol=1e-15)
    assert (given[0] != given[1]).sum() == screen.treated.size
    # The shared count is not worn down by use.
    again = comparisons.of(screen.treated, screen.n_own).burden
    np.testing.assert_array_equal(again, given[0])


def test_the_burden_of_the_strata_is_there_without_the_covariate(screen):
    for control in ("complement", "ntc"):
        shared = screen.outcome("dense", control, by_burden=True, batch=screen.batch)
        comparison = Comparisons(shared).of(screen.treated, screen.n_own)
        cells = screen.cells(screen.treated, control)
        # Ours and numpy's logarithm may differ in the last bit.
        expected = screen.burden(screen.own)[cells]
        np.testing.assert_allclose(comparison.burden, expected, rtol=4e-16)
        np.testing.assert_array_equal(comparison.batch, screen.batch[cells])
        assert comparison.covariates.shape[0] == 3


def test_units_share_scores_and_covariates_unless_burden_or_control_makes_them_differ(screen):
    shared = Comparisons(screen.outcome())
    assert shared.are_shared
    one = shared.of(screen.treated, screen.n_own)
    other = shared.of(screen.ntc_guide, np.zeros(screen.ntc_guide.size))
    assert one.scores is other.scores and one.covariates is other.covariates
    assert not Comparisons(screen.outcome(burden=True)).are_shared
    assert not Comparisons(screen.outcome(control="ntc")).are_shared


@pytest.mark.parametrize("form", FORMS)
def test_a_burden_that_does_not_vary_changes_no_coefficient(form, screen):
    class Flat(Screen):
        def __init__(self):
            super().__init__()
            self.n_guides = self.own.astype(float)

    flat = Flat()
    with_it, without = (flat.outcome(form, burden=burden) for burden in (True, False))
    found = [
        crt.prepare(shared, ["target"], ["A"], [flat.treated], n_own=[flat.n_own])
        for shared in (with_it, without)
    ]
    np.testing.assert_array_equal(found[0].observed, found[1].observed)
    np.testing.assert_array_equal(
        found[0].model.coefficients[0], [*found[1].model.coefficients[0], 0.0]
    )


# One covariate more


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("statistic", ["ols", "ols_t"])
def test_a_covariate_more_gives_the_scores_of_the_larger_design(form, statistic, screen):
    shared = screen.outcome(form, statistic=statistic)
    module = STATISTICS[statistic]
    column = standardize(screen.burden(screen.own)[:, None])
    got = module.without(shared.scores, column[:, 0])
    design = np.column_stack([shared.design, column])
    values = screen.values if form == "dense" else sp.csr_matrix(screen.values)
    expected = module.score(values, orthonormal_basis(design))
    assert got.rank == shared.scores.rank + 1 == expected.rank
    p = np.full(N_CELLS, 0.1)
    sampler = BernoulliSampler.of(0, "target", "A", p)
    np.testing.assert_allclose(
        module.values(got, sampler.set_sums(got, 0, 100)),
        module.values(expected, sampler.set_sums(expected, 0, 100)),
        rtol=1e-9,
        atol=1e-11,
    )
    for name in ("mean", "variance", "denominator"):
        np.testing.assert_allclose(
            getattr(got.moments(p), name), getattr(expected.moments(p), name), rtol=1e-9, atol=1e-9
        )


@pytest.mark.parametrize("form", FORMS)
def test_a_column_inside_the_span_changes_nothing(form, screen):
    scores = screen.outcome(form).scores
    design = screen.outcome(form).design
    inside = [np.zeros(N_CELLS), np.ones(N_CELLS), design @ np.array([1.0, -2.0, 0.5]) + 3.0]
    for column in inside:
        assert ols.without(scores, column) is scores
    outside = screen.burden(screen.own)
    more = ols.without(scores, outside)
    assert more is not scores
    assert ols.without(more, 2.0 * outside + design[:, 0]) is more


@pytest.mark.parametrize("form", FORMS)
def test_taking_a_covariate_out_leaves_the_shared_scores_alone(form, screen):
    shared = screen.outcome(form, burden=True)
    names = ("rows",) if form == "dense" else ("data", "basis", "projection")
    before = {name: getattr(shared.scores, name).copy() for name in names}
    Comparisons(shared).of(screen.treated, screen.n_own)
    for name, array in before.items():
        np.testing.assert_array_equal(getattr(shared.scores, name), array)


@pytest.mark.parametrize(
    "form",
    [
        "dense",
        "sparse",
    ],
)
def test_a_feature_that_the_burden_explains_is_not_tested(form, screen):
    # Own guides left out, the burden is exactly this feature.
    values = np.column_stack([screen.burden(screen.own), screen.values[:, 0]])
    shared = screen.outcome(form, burden=True, values=values)
    batch = crt.prepare(shared, ["target"], ["A"], [screen.treated], n_own=[screen.n_own])
    np.testing.assert_array_equal(batch.scale[0] > 0, [False, True])
