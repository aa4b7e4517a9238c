"""A notebook gives the workflow's numbers for the same data, seed, B, sampler and statistic."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

import condrand
from condrand.config import normalize_settings, refine_stages
from condrand.engines import crt, crt_refine_steps, crt_steps
from condrand.engines.ntc_null import write_ntc_null
from condrand.io.outcome import read_outcome
from condrand.normalize import normalize
from condrand.plan import n_blocks
from condrand.simulate import simulate_screen
from condrand.units import NTC_GROUP

SEED, B = 7, 1500
SCREEN = {"n_cells": 900, "n_programs": 4, "n_targets": 6, "ntc_fraction": 0.3, "seed": 5}
BURDEN = "log1p_non_ntc_guides_per_cell"
BY_BURDEN = {"sampler": "stratified_perm"}
WITHOUT_BURDEN = {"sampler": "stratified_perm", "stratify": {"stratify_by_burden": False}}
OF_RESIDUALS = {"test_stat_kwargs": {"residualize": True}}


@pytest.fixture(scope="module")
def path(tmp_path_factory):
    path = tmp_path_factory.mktemp("screen") / "screen.h5ad"
    simulate_screen(path, **SCREEN)
    return path


@pytest.fixture(scope="module")
def path_of_low_moi(tmp_path_factory):
    """A screen where a fifth of the cells carry NTC guides and no others."""
    path = tmp_path_factory.mktemp("screen") / "low.h5ad"
    simulate_screen(path, moi_mean=1.0, **SCREEN)
    return path


@pytest.fixture(scope="module")
def inputs(path):
    return condrand.prepare_crt_inputs(ad.read_h5ad(path))


@pytest.fixture
def stages(path, load, complete):
    """Load and normalize; give the folder and the complete analysis."""

    def run(path=path, **analysis):
        given = {"resamples": B, **analysis}
        folder = load(path, **given)
        settings = complete(**given)["analyses"]["crt"]
        outcome = folder / "outcome.h5ad"
        normalize(folder / "screen.h5ad", outcome, **normalize_settings(settings))
        return folder, settings

    return run


@pytest.fixture
def workflow(stages):
    """Run an analysis as the workflow does, in two shards; give its table."""

    def run(*path, **analysis):
        folder, settings = stages(*path, **analysis)
        screen, outcome = folder / "screen.h5ad", folder / "outcome.h5ad"
        propensity, merged = folder / "propensity.npz", folder / "effects.parquet"
        which = ("all", settings["controls"])
        tables = [folder / "targets.tsv"]
        crt_steps.prepare_batch(screen, tables, outcome, propensity, 0, *which, settings)
        shards = [folder / "0.npz", folder / "1.npz"]
        for shard, blocks in zip(shards, [(0, 1), (1, n_blocks(B))], strict=True):
            crt_steps.resample_shard(outcome, propensity, shard, blocks, B, SEED, 1, settings)
        null, refinement = folder / "null.h5", refine_stages(settings)
        crt_steps.merge_batch(outcome, propensity, shards, null, folder / "n.tsv", settings, SEED)
        parts = []
        for number in range(1, 1 + len(refinement)):
            given = {**settings, "stages": refinement[:number]}
            before = list(parts)
            for s in (0, 1):
                parts.append(folder / f"stage-{number}" / f"{s}.h5")
                crt_refine_steps.refine_shard(
                    *(outcome, propensity, null, before, parts[-1], (s, 2), given, SEED, 1)
                )
        given = {**settings, "stages": refinement}
        crt_refine_steps.write_effects(
            outcome, propensity, null, parts, merged, ("s", "a"), given, SEED
        )
        table = pd.read_parquet(merged)
        return table[table["kind"] == "target"]

    return run


ADAPTIVE = {"calibration": "adaptive"}


@pytest.mark.parametrize(
    ("analysis", "call"),
    [
        (ADAPTIVE, {**ADAPTIVE, "test_stat": "ols_t"}),
        ({"calibration": "importance", "statistic": "ols"}, {"calibration": "importance"}),
        ({"calibration": "saddlepoint", "statistic": "ols"}, {"calibration": "saddlepoint"}),
        (
            {**ADAPTIVE, **WITHOUT_BURDEN, "statistic": "ols"},
            {**ADAPTIVE, "resampling_method": "stratified_perm"},
        ),
    ],
    ids=["adaptive", "importance", "saddlepoint", "adaptive, stratified"],
)
def test_refined_p_values_of_a_notebook_are_those_of_the_workflow(
    workflow, inputs, analysis, call
):
    table = workflow(controls="none", **analysis)
    expected = wide(table, "p_value")
    out = condrand.run_all_genes_union_crt(
        inputs, list(expected.index), B=B, n_jobs=2, base_seed=SEED, **call
    )
    np.testing.assert_allclose(out["pvals_df"][list(expected)], expected, rtol=1e-9)
    source = table.pivot(index="target", columns="feature", values="p_source")[list(expected)]
    np.testing.assert_array_equal(out["p_source_df"][list(expected)], source)
    if analysis["calibration"] != "adaptive":
        assert (source == analysis["calibration"]).all(axis=None)


def wide(table, column):
    return table.pivot(index="target", columns="feature", values=column).astype(float)


@pytest.mark.parametrize(
    ("analysis", "call"),
    [
        ({}, {}),
        ({"statistic": "ols_t"}, {"test_stat": "ols_t"}),
        ({"statistic": "rank", "residualize": False}, {"test_stat": "utest"}),
        ({"statistic": "welch", "residualize": False}, {"test_stat": "welch"}),
        ({"statistic": "rank"}, {"test_stat": "utest", **OF_RESIDUALS}),
        ({"statistic": "welch"}, {"test_stat": "welch", **OF_RESIDUALS}),
        (WITHOUT_BURDEN, {"resampling_method": "stratified_perm"}),
        (
            BY_BURDEN,
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"burden_key": BURDEN}},
        ),
    ],
    ids=[
        *("ols", "ols_t", "rank", "welch", "rank of residuals", "welch of residuals"),
        *("stratified", "stratified by burden"),
    ],
)
def test_p_values_of_a_notebook_are_those_of_the_workflow(workflow, inputs, analysis, call):
    table = workflow(
        **{"calibration": "skew_normal", "statistic": "ols", "controls": "none", **analysis}
    )
    genes = sorted(table["target"].unique())
    assert len(genes) == 6
    out = condrand.run_all_genes_union_crt(
        inputs,
        genes,
        B=B,
        n_jobs=2,
        base_seed=SEED,
        calibrate_skew_normal=True,
        return_raw_pvals=True,
        **call,
    )
    columns = list(out["pvals_df"])
    raw = wide(table, "p_empirical")[columns]
    np.testing.assert_array_equal(out["pvals_raw_df"].to_numpy(), raw.to_numpy())
    np.testing.assert_allclose(out["pvals_df"], wide(table, "p_value")[columns], rtol=1e-9)
    np.testing.assert_allclose(out["betas_df"], wide(table, "effect")[columns], rtol=1e-12)
    source = table.pivot(index="target", columns="feature", values="p_source")[columns]
    np.testing.assert_array_equal(out["p_source_df"].to_numpy(), source.to_numpy())
    sizes = table.groupby("target")["n_target"].first()
    assert out["treated_df"].to_dict() == sizes.to_dict()


@pytest.mark.parametrize(
    ("analysis", "call"),
    [
        ({"statistic": "ols"}, {}),
        ({}, {"test_stat": "ols_t"}),
        ({"statistic": "rank"}, {"test_stat": "utest", **OF_RESIDUALS}),
        ({"statistic": "welch", "residualize": False}, {"test_stat": "welch"}),
        (
            {"statistic": "ols", **BY_BURDEN},
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"burden_key": BURDEN}},
        ),
    ],
    ids=["ols", "ols_t", "rank of residuals", "welch", "stratified by burden"],
)
def test_compared_with_ntc_cells_they_are_the_workflows_too(
    workflow, path_of_low_moi, analysis, call
):
    table = workflow(path_of_low_moi, control="ntc", controls="none", **analysis)
    expected = wide(table, "p_empirical")
    assert expected.notna().all(axis=None) and table["n_control"].max() < 300
    out = condrand.run_all_genes_union_crt(
        condrand.prepare_crt_inputs(ad.read_h5ad(path_of_low_moi)),
        list(expected.index),
        B=B,
        n_jobs=2,
        base_seed=SEED,
        control="ntc",
        **call,
    )
    np.testing.assert_array_equal(out["pvals_df"][list(expected)], expected)
    np.testing.assert_allclose(out["betas_df"][list(expected)], wide(table, "effect"), rtol=1e-12)


@pytest.mark.parametrize(
    ("analysis", "call"),
    [
        ({"sampler": "bernoulli_index"}, {}),
        (
            BY_BURDEN,
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"burden_key": BURDEN}},
        ),
    ],
    ids=["bernoulli", "stratified by burden"],
)
def test_a_group_draws_as_the_workflows_unit_of_its_name(path, stages, inputs, analysis, call):
    groups = {"ntc_0": inputs.guide_names[-3:]}
    (table,) = condrand.crt_pvals_for_ntc_groups_ensemble(
        inputs, [groups], B, SEED, expected_group_size=3, **call
    ).values()
    folder, settings = stages(statistic="ols", **analysis)
    outcome = read_outcome(folder / "outcome.h5ad")
    how = {name: settings[name] for name in ("sampler", "stratify")}
    carried = ad.read_h5ad(path).obsm["guide_assignment"].toarray()[:, -3:]
    cells = np.flatnonzero(carried.any(axis=1))
    batch = crt.prepare(outcome, [NTC_GROUP], ["e0/ntc_0"], [cells], **how)
    summaries = crt.resample(outcome, batch, range(n_blocks(B)), B, SEED, **how)
    rows = crt.batch_table(outcome, batch, summaries, ("", ""), settings)
    np.testing.assert_array_equal(table.loc["ntc_0"], rows["p_empirical"])


@pytest.mark.parametrize("mode", ["meta", "pooled"])
def test_the_null_of_controls_is_that_of_the_workflow(stages, inputs, mode):
    section = {"guides_per_unit": 2, "n_ntc_units": 300, "batch_mode": mode}
    folder, settings = stages(
        statistic="ols", controls="none", null_method="ntc_empirical", ntc_empirical=section
    )
    table, rest = folder / "effects.parquet", [folder / "m.tsv", folder / "crossfit.parquet"]
    write_ntc_null(
        folder / "screen.h5ad",
        [folder / "targets.tsv"],
        folder / "outcome.h5ad",
        table,
        *rest,
        ("s", "a"),
        "all",
        "none",
        settings["ntc_empirical"],
        SEED,
        1,
    )
    expected = wide(pd.read_parquet(table), "p_value")
    out = condrand.run_all_genes_union_crt(
        inputs,
        list(expected.index),
        base_seed=SEED,
        null_method="ntc_empirical",
        null_kwargs=section,
        qq_crossfit=True,
    )
    got = out["pvals_df"][list(expected)]
    np.testing.assert_array_equal(got.isna(), expected.isna())
    # A tie in the last bits of a projection moves a count by one.
    np.testing.assert_allclose(got, expected, atol=1.01 / 51)
    assert np.mean(np.isclose(got, expected, rtol=1e-12)) > 0.95
    crossed = out["ntc_crossfit"]
    assert crossed["batches"] == ([] if mode == "pooled" else ["batch_1", "batch_2", "batch_3"])
    assert crossed["meta_p_real_vs_A"].shape == expected.shape
    assert crossed["meta_p_ntcB_gene_vs_A"].shape == (150,)
