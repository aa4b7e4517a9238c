"""Joining batches, the FDR over the targets alone, the summary, and the annotated copy."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control

from condrand.io.h5ad import new_anndata
from condrand.io.outcome import OutcomeHeader
from condrand.io.tables import read_parquet, read_tsv, write_parquet
from condrand.merge import annotate, cautions, merge_analysis, summarize
from condrand.tables import effects_table

FEATURES = ["P10", "P2"]
TABLES = ("effects", "controls", "ntc_groups")


def rows(kind, names, p, note=""):
    """Rows of a merged batch: each name on both features."""
    p = np.asarray(p, dtype=float)
    n = 2 * len(names)
    source = np.where(np.isnan(p), "", "empirical").astype(object)
    contract = {
        "screen": "S",
        "analysis": "A",
        "target": np.repeat(names, 2),
        "feature": np.tile(FEATURES, len(names)),
        "n_target": 10,
        "n_control": 90,
        "effect": np.linspace(-1, 1, n),
        "effect_scale": "CLR (natural log)",
        "statistic": 0.0,
        "p_value": p,
        "neg_log10_p": -np.log10(p),
        "p_source": source,
    }
    notes = np.where(np.isnan(p), "no treated cell", note).astype(object)
    table = effects_table(contract, {"p_empirical": p}, notes)
    table.insert(0, "kind", kind)
    return table


@pytest.fixture
def merge_tables(tmp_path):
    """Merge batches as the workflow does; give the three tables."""

    def merge(batches):
        paths = [tmp_path / f"batch-{b:04d}.parquet" for b in range(len(batches))]
        for batch, path in zip(batches, paths, strict=True):
            write_parquet(batch, path)
        new_anndata(tmp_path / "outcome.h5ad", pd.Index(["c"]), pd.Index(FEATURES)).close()
        tables = {name: tmp_path / f"{name}.parquet" for name in TABLES}
        texts = ("effects_tsv", "controls_tsv", "calibration", "flagged_controls", "verdict")
        written = {**tables, **{name: tmp_path / f"{name}.tsv" for name in texts}}
        merge_analysis(paths, tmp_path / "outcome.h5ad", (None, None), written)
        return {name: read_parquet(path) for name, path in tables.items()}

    return merge


@pytest.fixture
def batches():
    first = pd.concat(
        [
            rows("target", ["B", "EMPTY"], [0.001, 0.5, np.nan, np.nan]),
            rows("ntc_guide", ["g1"], [1e-9, 0.3]),
        ]
    )
    return [first, rows("target", ["A"], [0.02, 0.03])]


def test_rows_are_in_order_of_target_and_feature_whatever_the_batches(batches, merge_tables):
    tables = merge_tables(batches)
    again = merge_tables(batches[::-1])
    order = [(t, f) for t in ("A", "B", "EMPTY") for f in FEATURES]
    assert list(zip(*(tables["effects"][c] for c in ("target", "feature")), strict=True)) == order
    pd.testing.assert_frame_equal(tables["effects"], again["effects"], check_exact=True)


def test_the_fdr_is_over_the_tests_of_targets_alone(batches, merge_tables):
    tables = merge_tables(batches)
    made = tables["effects"].dropna(subset="p_value")
    np.testing.assert_allclose(made["fdr"], false_discovery_control(made["p_value"]), rtol=1e-15)
    assert tables["effects"].loc[tables["effects"]["target"] == "EMPTY", "fdr"].isna().all()
    assert tables["controls"]["fdr"].isna().all()
    assert tables["controls"]["target"].unique().tolist() == ["g1"]


def test_an_empty_batch_changes_nothing(batches, merge_tables):
    empty = batches[0].iloc[:0]
    expected = merge_tables(batches)["effects"]
    got = merge_tables([empty, *batches])["effects"]
    pd.testing.assert_frame_equal(got, expected, check_exact=True)


def test_a_row_group_of_several_units_or_a_part_of_one_changes_nothing(
    batches, merge_tables, tmp_path
):
    expected = merge_tables(batches)
    for path in tmp_path.glob("batch-*.parquet"):
        read_parquet(path).to_parquet(path, index=False, row_group_size=3)
    tables = {name: tmp_path / f"{name}.parquet" for name in TABLES}
    texts = ("effects_tsv", "controls_tsv", "calibration", "flagged_controls", "verdict")
    written = {**tables, **{name: tmp_path / f"{name}.tsv" for name in texts}}
    merge_analysis(
        sorted(tmp_path.glob("batch-*.parquet")), tmp_path / "outcome.h5ad", (None, None), written
    )
    for name, path in tables.items():
        pd.testing.assert_frame_equal(read_parquet(path), expected[name], check_exact=True)


def test_rows_are_written_a_few_units_at_a_time_with_the_same_result(
    batches, merge_tables, monkeypatch
):
    expected = merge_tables(batches)
    monkeypatch.setattr("condrand.merge._ROWS_AT_A_TIME", 1)
    for name, table in merge_tables(batches).items():
        pd.testing.assert_frame_equal(table, expected[name], check_exact=True)


def test_the_readable_copy_holds_the_most_significant_rows(
    batches, merge_tables, monkeypatch, tmp_path
):
    monkeypatch.setattr("condrand.merge.TSV_ROWS", 2)
    merge_tables(batches)
    copy = read_tsv(tmp_path / "effects_tsv.tsv")
    assert list(zip(copy["target"], copy["feature"], strict=True)) == [("B", "P10"), ("A", "P10")]


def test_the_summary_counts_tests_discoveries_and_skipped_targets(batches, merge_tables):
    effects = merge_tables(batches)["effects"]
    places = {"effects": "results/e.tsv.gz"}
    text = summarize(effects, "all other cells: x", "Controls: y.", ["mind z"], 0.05, places)
    assert "tests        4 (3 targets x 2 features; 2 rows untested)" in text
    assert "against      all other cells: x" in text
    assert "discoveries  3 at FDR 0.05, in 2 targets" in text
    assert "skipped      EMPTY: no treated cell" in text
    assert "controls     Controls: y." in text
    assert "tails" not in text
    told = summarize(effects, "", "", [], 0.05, places, "none in doubt")
    assert "\n  tails        none in doubt\n  controls" in told
    assert "warning      mind z" in text
    assert "results/e.tsv.gz" in text


def header(**changes):
    """What an outcome says of itself, where there is nothing to mind."""
    fine = {
        **{"n_cells": 100, "features": FEATURES, "effect_scale": "", "digest": ""},
        **{"statistic": "ols_t", "control": "complement", "control_reason": ""},
        **{"outcome_scale": "", "moi_one": 0.5, "residualize": False},
    }
    return OutcomeHeader(**{**fine, **changes})


@pytest.fixture
def effects(batches, merge_tables):
    return merge_tables(batches)["effects"]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"statistic": "rank", "residualize": True},
        {"statistic": "welch", "residualize": True},
        {"control": "ntc", "moi_one": 1.0},
    ],
    ids=str,
)
def test_where_all_is_well_nothing_is_said(effects, changes):
    assert cautions(effects, header(**changes), 0.05, (1e-9, 1e-9)) == []


def test_a_floor_that_no_lone_test_can_pass_is_said(effects):
    (said,) = cautions(effects, header(), 0.05, (1 / 20, 1 / 20))
    assert "no p value is below 0.05" in said
    assert "raise `resamples` to 80, or use `calibration: adaptive`" in said
    # Refined by plain resamples: those of the last stage are too few.
    (said,) = cautions(effects, header(), 0.05, (1 / 4, 1 / 20))
    assert "no p value is below 0.05" in said
    assert "give the last stage of `refine` 80 `resamples`" in said
    # 4 tests at FDR 0.05 need a p of 0.0125.
    assert cautions(effects, header(), 0.05, (0.0125, 0.0125)) == []
    assert cautions(effects, header(), 0.05, (1 / 20, None)) == []
    # A fitted tail has no floor.
    effects.loc[effects["target"] == "A", "p_source"] = "skew_normal"
    assert cautions(effects, header(), 0.05, (1 / 20, 1 / 20)) == []


def test_few_treated_cells_are_said_where_the_coefficient_itself_is_the_statistic(effects):
    # A target that is not tested is not counted.
    effects["n_target"] = effects["target"].map({"A": 49, "B": 50, "EMPTY": 0})
    (said,) = cautions(effects, header(statistic="ols"), 0.05, (1e-9, 1e-9))
    assert said.startswith("1 targets have fewer than 50 treated cells")
    assert "`statistic: ols_t` is not" in said
    assert cautions(effects, header(statistic="ols_t"), 0.05, (1e-9, 1e-9)) == []
    effects["n_target"] = 50
    assert cautions(effects, header(statistic="ols"), 0.05, (1e-9, 1e-9)) == []


def test_cells_of_one_guide_that_are_compared_with_all_others_are_said(effects):
    (said,) = cautions(effects, header(moi_one=0.83), 0.05, (1e-9, 1e-9))
    assert said.startswith("83 % of the cells carry exactly one guide")
    assert "Use `control: ntc`" in said
    for changes in ({"moi_one": 0.5}, {"moi_one": 0.83, "control": "ntc"}):
        assert cautions(effects, header(**changes), 0.05, (1e-9, 1e-9)) == []


def test_few_treated_cells_are_said_where_the_tail_of_welch_is_fitted(effects):
    given = header(statistic="welch", residualize=True)
    effects["n_target"] = effects["target"].map({"A": 99, "B": 50, "EMPTY": 0})
    effects.loc[effects["target"] == "A", "p_source"] = "skew_normal"
    (said,) = cautions(effects, given, 0.05, (1e-9, 1e-9))
    # B's p values are empirical.
    assert said.startswith("1 targets have fewer than 100 treated cells")
    effects["n_target"] = 100
    assert cautions(effects, given, 0.05, (1e-9, 1e-9)) == []


@pytest.mark.parametrize("statistic", ["rank", "welch"])
def test_a_statistic_that_does_not_see_the_covariates_is_said(effects, statistic):
    for control in ("complement", "ntc"):
        given = header(statistic=statistic, residualize=False, control=control)
        (said,) = cautions(effects, given, 0.05, (1e-9, 1e-9))
        assert said.startswith(f"the statistic {statistic} does not see the covariates")
        assert "Use `residualize: true`" in said


def test_all_that_should_be_known_is_said_together(effects):
    for statistic in ("ols", "welch"):
        given = header(statistic=statistic, moi_one=0.9)
        assert len(set(cautions(effects, given, 0.05, (1 / 20, 1 / 20)))) == 3


def test_the_annotated_copy_holds_the_tables_and_is_otherwise_the_input(
    merge_tables, batches, tmp_path, write_screen
):
    source = write_screen()
    tables = merge_tables(batches)
    for name, table in tables.items():
        write_parquet(table, tmp_path / f"{name}.parquet")
    paths = [tmp_path / f"{name}.parquet" for name in ("effects", "controls")]
    before = source.read_bytes()
    annotate(source, *paths, "A", tmp_path / "annotated.h5ad")
    assert source.read_bytes() == before
    given, made = ad.read_h5ad(source), ad.read_h5ad(tmp_path / "annotated.h5ad")
    assert (given.X != made.X).nnz == 0
    assert set(made.uns) - set(given.uns) == {"condrand_A_effects", "condrand_A_controls"}
    effects = made.uns["condrand_A_effects"]
    np.testing.assert_array_equal(effects["p_value"], tables["effects"]["p_value"])
    assert effects["target"].astype(str).tolist() == tables["effects"]["target"].tolist()
