"""The normalize stage: comparison cells chosen, and what is written for each of them."""

import logging

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand.covariates import encode, orthonormal_basis, standardize
from condrand.errors import InputError
from condrand.io.outcome import read_header, read_outcome
from condrand.io.tables import read_tsv
from condrand.normalize import (
    OF_RESIDUALS,
    choose_control,
    make_design,
    normalize,
    transform_outcome,
)
from condrand.outcomes.clr import clr, usage_floor
from condrand.statistics import STATISTICS
from condrand.statistics.scores import DenseScores, SparseScores

LOW_MOI = {"mean": 1.1, "none": 0.05, "one": 0.6, "several": 0.35}
HIGH_MOI = {"mean": 3.2, "none": 0.2, "one": 0.5, "several": 0.3}
CLR = {
    "key": "cnmf_usage",
    "transform": "clr",
    "floor_quantile": 1e-4,
    "floor_epsilon": None,
    "library_size": None,
    "target_sum": 1e6,
}
USAGE = {**CLR, "transform": "usage"}
COUNTS = {**CLR, "key": "X", "transform": "none"}
BURDEN = {"covariates": {"burden": True}}


# Comparison cells


@pytest.mark.parametrize("control", ["complement", "ntc"])
@pytest.mark.parametrize("moi", [LOW_MOI, HIGH_MOI])
def test_configured_comparison_cells_are_taken_whatever_the_moi(control, moi):
    assert choose_control(control, moi, 0) == (control, "as configured")


def test_most_cells_with_one_guide_are_compared_with_ntc_cells():
    control, reason = choose_control("auto", LOW_MOI, 1234)
    assert control == "ntc"
    assert "60.0 % of the cells carry exactly one guide" in reason
    assert "1,234 cells carry NTC guides alone" in reason


def test_half_the_cells_with_one_guide_are_not_most():
    control, reason = choose_control("auto", HIGH_MOI, 1234)
    assert control == "complement"
    assert "50.0 % of the cells carry exactly one guide, 3.20 guides per cell" in reason


def test_without_ntc_cells_the_others_are_taken_and_it_is_said():
    control, reason = choose_control("auto", LOW_MOI, 0)
    assert control == "complement"
    assert "60.0 %" in reason and "no cell carries NTC guides alone" in reason


# What is written


@pytest.fixture
def written(load, write_screen, tmp_path):
    """Load and normalize; give the outcome as the batches read it, and its file."""

    def run(settings=CLR, statistic="ols", control="complement", batch_key=None, **more):
        screen_settings = more.pop("screen", None)
        changes = more.pop("changes", {})
        analysis = {"outcome": {k: v for k, v in settings.items() if v is not None}}
        if batch_key:
            analysis |= {"sampler": "stratified_perm", "batch_key": batch_key}
        folder = load(write_screen(**changes), screen_settings, **analysis)
        path = tmp_path / "outcome.h5ad"
        more |= {"statistic": statistic, "control": control, "batch_key": batch_key}
        normalize(folder / "screen.h5ad", path, settings, **more)
        return read_outcome(path), path

    return run


def design_of(parts) -> np.ndarray:
    return standardize(encode(parts["covar"], 20).to_numpy())


def clr_of(parts) -> np.ndarray:
    usage = parts["cnmf_usage"] / parts["cnmf_usage"].sum(axis=1, keepdims=True)
    return clr(usage, usage_floor(usage, 1e-4, None))


def guides_per_cell(parts) -> tuple[np.ndarray, np.ndarray]:
    """Guides but NTC guides, and NTC guides."""
    calls = parts["guide_assignment"].toarray() > 0
    return calls[:, :3].sum(axis=1), calls[:, 3:].sum(axis=1)


def assert_same_scores(got, expected):
    assert type(got) is type(expected)
    for name, value in vars(expected).items():
        np.testing.assert_array_equal(getattr(got, name), value, name)


@pytest.mark.parametrize("statistic", STATISTICS)
def test_all_other_cells_share_the_scores_of_the_statistic(written, parts, statistic):
    outcome, path = written(statistic=statistic)
    assert outcome.control == "complement" and outcome.statistic == statistic
    np.testing.assert_array_equal(outcome.design, design_of(parts))
    basis = orthonormal_basis(design_of(parts))
    assert isinstance(outcome.scores, DenseScores)
    assert_same_scores(outcome.scores, STATISTICS[statistic].score(clr_of(parts), basis))
    assert outcome.tested is outcome.is_ntc_cell is outcome.batch is None
    assert outcome.burden is outcome.ntc_burden is None
    assert outcome.residualize is False and outcome.features == ["P1", "P2", "P3"]
    header = read_header(path)
    assert (header.n_cells, header.control_reason) == (60, "as configured")
    assert header.outcome_scale == "CLR (natural log)"
    assert header.effect_scale == STATISTICS[statistic].effect_scale("CLR (natural log)")
    assert header.digest == outcome.digest
    assert header.residualize is False
    # Every fourth cell carries a second guide.
    assert header.moi_one == 0.75


@pytest.mark.parametrize("statistic", STATISTICS)
def test_a_sparse_outcome_is_written_sparse(written, parts, statistic):
    outcome, _ = written(COUNTS, statistic)
    values = parts["X"].astype(np.float64)
    expected = STATISTICS[statistic].score(values, orthonormal_basis(design_of(parts)))
    assert isinstance(outcome.scores, SparseScores)
    assert_same_scores(outcome.scores, expected)


@pytest.mark.parametrize("settings", [CLR, COUNTS], ids=["dense", "sparse"])
def test_for_ntc_cells_the_outcome_itself_is_written_and_who_they_are(written, parts, settings):
    outcome, path = written(settings, control="ntc")
    assert outcome.control == "ntc" and outcome.scores is None
    if settings is CLR:
        np.testing.assert_array_equal(outcome.tested, clr_of(parts))
    else:
        assert sp.issparse(outcome.tested)
        np.testing.assert_array_equal(outcome.tested.toarray(), parts["X"].toarray())
    calls = parts["guide_assignment"].toarray() > 0
    is_ntc = calls[:, 3:].any(axis=1) & ~calls[:, :3].any(axis=1)
    np.testing.assert_array_equal(outcome.is_ntc_cell, is_ntc)
    assert 0 < is_ntc.sum() < 60


def test_the_choice_of_cells_is_written_with_its_reason(written, parts, caplog):
    # Three cells of four carry one guide.
    with caplog.at_level(logging.INFO):
        outcome, path = written(control="auto")
    assert outcome.control == "ntc"
    reason = read_header(path).control_reason
    assert "75.0 % of the cells carry exactly one guide (low MOI)" in reason
    assert reason in caplog.text
    several = parts["guide_assignment"].toarray()
    several[np.arange(60), (np.arange(60) + 1) % 5] = 1
    outcome, path = written(control="auto", changes={"guide_assignment": several})
    assert outcome.control == "complement"
    assert "0.0 % of the cells carry exactly one guide, 2.00" in read_header(path).control_reason


def test_batches_and_burden_are_written_where_they_are_asked_for(written, parts):
    outcome, _ = written(batch_key="batch", by_burden=True)
    levels = sorted(set(parts["obs"]["batch"]))
    assert [levels[code] for code in outcome.batch] == parts["obs"]["batch"].tolist()
    assert outcome.batch.dtype == np.int64
    n_guides, n_ntc = guides_per_cell(parts)
    np.testing.assert_array_equal(outcome.burden, np.log1p(n_guides))
    np.testing.assert_array_equal(outcome.ntc_burden, np.log1p(n_ntc))
    # Strata by burden do not make it a covariate.
    np.testing.assert_array_equal(outcome.design, design_of(parts))
    # Among NTC cells, which carry no others, all guides are one count.
    outcome, _ = written(control="ntc", by_burden=True)
    for burden in (outcome.burden, outcome.ntc_burden):
        np.testing.assert_array_equal(burden, np.log1p(n_guides + n_ntc))
    # And the covariate makes no strata.
    outcome, _ = written(screen=BURDEN)
    assert outcome.burden is outcome.ntc_burden is outcome.batch is None


# Burden


def design_names(path) -> list[str]:
    with h5py.File(path) as file:
        return [name.decode() for name in file["uns/design_names"][:]]


def test_the_burdens_are_columns_of_the_design_where_they_are_asked_for(written, parts):
    burdens = np.log1p(np.column_stack(guides_per_cell(parts)))
    outcome, path = written(screen=BURDEN)
    assert design_names(path)[-2:] == ["log1p_guides", "log1p_ntc_guides"]
    expected = np.column_stack([design_of(parts), standardize(burdens)])
    # Alone, the columns are summed in another order.
    np.testing.assert_allclose(outcome.design, expected, rtol=1e-13)
    # No column is a combination of the others, and all are projected out.
    assert outcome.scores.rank == expected.shape[1] + 1
    residuals = outcome.scores.rows[:, :3]
    np.testing.assert_allclose(burdens.T @ residuals, 0, atol=1e-12)
    _, path = written()
    assert not {"log1p_guides", "log1p_ntc_guides"} & set(design_names(path))


def test_among_ntc_cells_the_burden_is_one_column_of_all_guides(written, parts):
    outcome, path = written(control="ntc", screen=BURDEN)
    assert design_names(path)[-1] == "log1p_guides"
    total = np.log1p(sum(guides_per_cell(parts)))
    expected = np.column_stack([design_of(parts), standardize(total[:, None])])
    np.testing.assert_array_equal(outcome.design, expected)


def test_a_burden_of_one_value_is_no_column_and_no_problem(written, caplog):
    # Every cell carries one NTC guide, and one or two others.
    calls = np.zeros((60, 5))
    calls[np.arange(60), np.arange(60) % 3] = calls[np.arange(60), 3 + np.arange(60) % 2] = 1
    calls[::4, 2] = 1
    with caplog.at_level(logging.WARNING):
        _, path = written(changes={"guide_assignment": calls}, screen=BURDEN)
    assert design_names(path)[-1] == "log1p_guides"
    assert "design column dropped" not in caplog.text


def test_a_burden_is_a_number_however_few_values_it_has(parts):
    table, burden = parts["covar"], pd.DataFrame({"log1p_guides": np.log1p(np.arange(60) % 3)})
    design = make_design(table, 20, burden)
    assert design.names == ["p_mito", "batch[three]", "batch[two]", "log1p_guides"]
    np.testing.assert_array_equal(design.columns[:, -1:], standardize(burden.to_numpy()))


# Residuals


@pytest.mark.parametrize("screen", [None, BURDEN], ids=["covariates", "and burden"])
@pytest.mark.parametrize("statistic", OF_RESIDUALS)
def test_rank_and_welch_take_the_residuals_of_the_design(written, parts, statistic, screen):
    outcome, path = written(statistic=statistic, residualize=True, screen=screen)
    regressors = np.column_stack([np.ones(60), design_of(parts)])
    if screen:
        burdens = np.log1p(np.column_stack(guides_per_cell(parts)))
        regressors = np.column_stack([regressors, burdens])
    values = clr_of(parts)
    residuals = values - regressors @ np.linalg.lstsq(regressors, values, rcond=None)[0]
    module = STATISTICS[statistic]
    expected = module.score(residuals, orthonormal_basis(outcome.design))
    raw = module.score(values, orthonormal_basis(outcome.design))
    for size in (5, 30):
        cells = np.sort(np.random.default_rng(size).choice(60, size, replace=False))
        got, by_hand, without = (
            module.values(scores, scores.observed(cells))
            for scores in (outcome.scores, expected, raw)
        )
        np.testing.assert_allclose(got, by_hand, rtol=1e-9, atol=1e-12)
        assert (np.abs(got - without) > 1e-4).any()
    assert outcome.residualize is True
    header = read_header(path)
    assert header.residualize is True
    assert header.outcome_scale == "residual of CLR (natural log)"
    assert header.effect_scale == module.effect_scale("residual of CLR (natural log)")


@pytest.mark.parametrize("statistic", ["ols", "ols_t"])
@pytest.mark.parametrize("settings", [CLR, COUNTS], ids=["dense", "sparse"])
def test_ols_needs_no_residuals_as_it_projects(written, settings, statistic):
    plain, asked = (
        written(settings, statistic, residualize=residualize)[0] for residualize in (False, True)
    )
    assert plain.digest == asked.digest and asked.residualize is False


@pytest.mark.parametrize("statistic", OF_RESIDUALS)
def test_among_ntc_cells_the_regression_is_left_to_each_unit(written, parts, statistic):
    outcome, path = written(statistic=statistic, control="ntc", residualize=True)
    np.testing.assert_array_equal(outcome.tested, clr_of(parts))
    assert outcome.residualize is True and read_header(path).residualize is True


@pytest.mark.parametrize("control", ["complement", "ntc"])
@pytest.mark.parametrize("statistic", OF_RESIDUALS)
def test_residuals_of_a_sparse_outcome_are_refused(written, tmp_path, statistic, control):
    with pytest.raises(InputError) as error:
        written(COUNTS, statistic, control, residualize=True)
    message = str(error.value)
    assert message.startswith(f"X: is sparse, and its residuals, which the statistic {statistic}")
    for way in ("Store it dense", "`residualize: false`", "`statistic: ols_t`"):
        assert way in message
    assert not (tmp_path / "outcome.h5ad").exists()


def test_the_digest_tells_outcomes_apart(written):
    ways = [
        {},
        {"statistic": "ols_t"},
        {"statistic": "rank"},
        {"statistic": "rank", "residualize": True},
        {"control": "ntc", "statistic": "rank"},
        {"control": "ntc", "statistic": "rank", "residualize": True},
        {"control": "ntc"},
        {"settings": USAGE},
        {"batch_key": "batch"},
        {"by_burden": True},
        {"screen": BURDEN},
        {"screen": {"covariates": {"columns": ["p_mito"]}}},
    ]
    digests = [written(**way)[0].digest for way in ways]
    assert len(set(digests)) == len(ways)
    assert written()[0].digest == digests[0]


def test_dropped_design_columns_are_written_with_the_reason(written, parts):
    covar = parts["covar"].assign(flat=5.0, twice=2 * parts["covar"]["p_mito"])
    outcome, path = written(
        changes={"covar": covar},
        screen={"covariates": {"rank_deficient": "drop"}},
    )
    assert outcome.design.shape == (60, 3)
    with h5py.File(path) as file:
        names = [name.decode() for name in file["uns/design_names"][:]]
        dropped = [text.decode() for text in file["uns/design_dropped"][:]]
    assert names == ["p_mito", "batch[three]", "batch[two]"]
    assert dropped == ["flat (constant)", "twice (a combination of p_mito)"]


# Usage


def test_usage_is_floored_and_rows_sum_to_one(parts):
    usage = parts["cnmf_usage"].copy()
    usage[3] = [0.0, 0.0, 5.0]
    before = usage.copy()
    got, scale = transform_outcome(usage, {**USAGE, "floor_epsilon": 0.01})
    shares = np.maximum(before / before.sum(axis=1, keepdims=True), 0.01)
    np.testing.assert_allclose(got, shares / shares.sum(axis=1, keepdims=True), rtol=1e-15)
    np.testing.assert_allclose(got[3], [0.01 / 1.02, 0.01 / 1.02, 1 / 1.02], rtol=1e-15)
    assert scale == "share of usage"
    np.testing.assert_array_equal(usage, before)


def test_usage_stored_sparse_is_the_same_usage(parts):
    usage = parts["cnmf_usage"].copy()
    usage[3] = [0.0, 0.0, 5.0]
    for settings in (USAGE, CLR):
        dense, sparse = (
            transform_outcome(form(usage), settings)[0] for form in (np.asarray, sp.csr_matrix)
        )
        np.testing.assert_array_equal(dense, sparse)


def test_the_effects_of_usage_bear_its_scale(written):
    outcome, _ = written(USAGE)
    assert outcome.effect_scale == "share of usage"
    outcome, _ = written(USAGE, "rank")
    assert outcome.effect_scale == "rank-biserial correlation of share of usage"


# Trends


@pytest.mark.parametrize("settings", [CLR, COUNTS], ids=["dense", "sparse"])
def test_trends_have_every_numeric_covariate_and_feature(written, parts, tmp_path, settings):
    trends = tmp_path / "trends.tsv"
    covar = parts["covar"].assign(n_umis=parts["obs"]["n_umis"])
    outcome, _ = written(settings, trends=trends, changes={"covar": covar})
    table = read_tsv(trends)
    assert set(table["covariate"]) == {"p_mito", "n_umis"}
    assert table["feature"].unique().tolist() == outcome.features
    assert (table.groupby(["covariate", "feature"])["n_cells"].sum() == 60).all()
    # Residuals are of the design, which has an intercept: bins weighted by cells cancel.
    mean = (
        (table["residual_mean"] * table["n_cells"])
        .groupby([table["covariate"], table["feature"]])
        .sum()
    )
    np.testing.assert_allclose(mean, 0, atol=1e-7)


def test_a_quadratic_trend_is_written_and_warned_of(written, parts, tmp_path, caplog):
    # 60 cells are few, so the trend is made plain.
    depth = np.linspace(-1, 1, 60)
    usage = np.exp(np.column_stack([3 * depth**2, 0 * depth, 0 * depth]))
    usage *= np.exp(0.05 * np.random.default_rng(0).normal(size=usage.shape))
    covar = pd.DataFrame({"depth": depth}, index=parts["obs"].index)
    trends = tmp_path / "trends.tsv"
    with caplog.at_level(logging.WARNING):
        outcome, _ = written(trends=trends, changes={"cnmf_usage": usage, "covar": covar})
    table = read_tsv(trends)
    assert (table.loc[table["feature"] == "P1", "trend_r2"] > 0.9).all()
    assert any("depth" in record.message for record in caplog.records)
    # What is tested does not depend on whether trends are looked at.
    plain, _ = written(changes={"cnmf_usage": usage, "covar": covar})
    assert plain.digest == outcome.digest


def test_without_numeric_covariate_the_table_of_trends_is_empty(written, parts, tmp_path):
    trends = tmp_path / "trends.tsv"
    written(trends=trends, screen={"covariates": {"columns": ["batch"]}})
    table = read_tsv(trends)
    assert len(table) == 0 and "trend_r2" in table
