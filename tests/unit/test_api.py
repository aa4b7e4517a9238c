"""The notebook's functions: their vocabulary, their tables, their refusals."""

import inspect
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

import condrand
from condrand import api

PACKAGE = str(Path(condrand.__file__).parents[1])
MODEL = api.fit_propensity_logistic
BURDEN = "log1p_non_ntc_guides_per_cell"
REQUIRED = inspect.Parameter.empty

# Names and defaults of the established vocabulary, in order.
COMMON = {
    "propensity_model": MODEL,
    "resampling_method": "bernoulli_index",
    "resampling_kwargs": None,
}
STATISTIC = {"test_stat": "ols", "test_stat_kwargs": None}
# Ours, after those of the vocabulary.
COMPARED = {
    "control": "complement",
    "ntc_labels": ("SAFE", "non-targeting", "NTC", "safe-targeting"),
}
SIGNATURES = {
    "prepare_crt_inputs": {
        "adata": REQUIRED,
        "usage_key": "cnmf_usage",
        "covar_key": "covar",
        "guide_assignment_key": "guide_assignment",
        "guide_names_key": "guide_names",
        "guide2gene_key": "guide2gene",
        "eps_quantile": 1e-4,
        "add_intercept": True,
        "standardize": True,
        "numeric_as_category_threshold": 20,
        "batch_key": "batch",
        "clamp_threads": True,
    },
    "limit_threading": {"n_threads": 1},
    "fit_propensity_logistic": {
        "C": REQUIRED,
        "y01": REQUIRED,
        "penalty": "l2",
        "C_value": 1.0,
        "max_iter": 200,
        "n_jobs": 1,
        "kw": REQUIRED,
    },
    "run_one_gene_union_crt": {
        "gene": REQUIRED,
        "inputs": REQUIRED,
        "B": 1023,
        "base_seed": 123,
        **COMMON,
        "null_method": "crt",
        "null_kwargs": None,
        "calibrate_skew_normal": False,
        "skew_normal_side_code": 0,
        **STATISTIC,
        **COMPARED,
        "calibration": None,
    },
    "run_all_genes_union_crt": {
        "inputs": REQUIRED,
        "genes": None,
        "B": 1023,
        "n_jobs": 8,
        "base_seed": 123,
        "propensity_model": MODEL,
        "backend": "loky",
        "resampling_method": "bernoulli_index",
        "resampling_kwargs": None,
        "null_method": "crt",
        "null_kwargs": None,
        "qq_crossfit": False,
        "calibrate_skew_normal": False,
        "skew_normal_side_code": 0,
        "return_skew_normal": False,
        "return_raw_pvals": False,
        "return_format": "dict",
        **STATISTIC,
        **COMPARED,
        "calibration": None,
    },
    "store_results_in_adata": {
        "adata": REQUIRED,
        "pvals_df": REQUIRED,
        "betas_df": REQUIRED,
        "treated_df": REQUIRED,
        "prefix": "crt_union_gene_program",
        "pvals_skew_df": None,
        "skew_params": None,
    },
    "compute_gene_null_pvals": {
        "gene": REQUIRED,
        "inputs": REQUIRED,
        "B": 1023,
        "base_seed": 123,
        **COMMON,
        "side_code": 0,
        **STATISTIC,
    },
    "compute_guide_set_null_pvals": {
        "guide_idx": REQUIRED,
        "inputs": REQUIRED,
        "B": 1023,
        "base_seed": 123,
        **COMMON,
        "side_code": 0,
        **STATISTIC,
    },
    "crt_null_stats_for_test": {
        "gene": REQUIRED,
        "program_index": REQUIRED,
        "inputs": REQUIRED,
        "B": 1023,
        "base_seed": 123,
        "propensity_model": MODEL,
    },
    "compute_null_pvals_from_null_stats": {"null_stats": REQUIRED, "side_code": 0},
    "crt_null_pvals_from_null_stats_fast": {"T_null": REQUIRED, "two_sided": True},
    "crt_null_pvals_from_null_stats_matrix": {"beta_null_bk": REQUIRED, "two_sided": True},
    "guide_frequency": {"G": REQUIRED, "guide_names": REQUIRED},
    "build_ntc_group_inputs": {
        "inputs": REQUIRED,
        "ntc_label": "NTC",
        "group_size": 6,
        "n_bins": 20,
    },
    "make_ntc_groups_matched_by_freq": {
        "ntc_guides": REQUIRED,
        "ntc_freq": REQUIRED,
        "real_gene_bin_sigs": REQUIRED,
        "guide_to_bin": REQUIRED,
        "group_size": 6,
        "seed": 0,
        "max_groups": None,
        "drop_remainder": True,
        "max_attempts": 100,
    },
    "crt_pvals_for_guide_set": {
        "inputs": REQUIRED,
        "guide_idx": REQUIRED,
        "B": REQUIRED,
        "seed": REQUIRED,
        **COMMON,
        **STATISTIC,
    },
    "crt_pvals_for_guide_set_skew": {
        "inputs": REQUIRED,
        "guide_idx": REQUIRED,
        "B": REQUIRED,
        "seed": REQUIRED,
        **COMMON,
        "side_code": 0,
        **STATISTIC,
    },
    "crt_pvals_for_ntc_groups_ensemble": {
        "inputs": REQUIRED,
        "ntc_groups_ens": REQUIRED,
        "B": REQUIRED,
        "seed0": REQUIRED,
        **COMMON,
        "expected_group_size": 6,
        **STATISTIC,
    },
    "compute_guide_burden": {
        "G": REQUIRED,
        "guide_names": REQUIRED,
        "guide2gene": REQUIRED,
        "ntc_labels": REQUIRED,
        "include_ntc": True,
        "count_nonzero": True,
        "use_log1p": True,
    },
    "add_burden_covariate": {
        "adata": REQUIRED,
        "guide_assignment_key": "guide_assignment",
        "covar_key": "covar",
        "guide_names_key": "guide_names",
        "guide2gene_key": "guide2gene",
        "burden_key": BURDEN,
        "ntc_labels": ("non-targeting", "safe-targeting", "NTC"),
        "include_ntc": False,
        "count_nonzero": True,
        "use_log1p": True,
    },
    "compute_bins": {
        "values": REQUIRED,
        "n_bins": REQUIRED,
        "method": "quantile",
        "clip_quantiles": (0.0, 1.0),
    },
    "make_ntc_empirical_qq_plots": {
        "out": REQUIRED,
        "out_dir": REQUIRED,
        "programs_to_plot": "top_var",
        "n_programs": 6,
        "make_per_batch": True,
        "make_meta": True,
        "envelope_boot": 200,
        "seed": 0,
    },
    "bootstrap_qq_envelope": {"p": REQUIRED, "n_boot": 200, "alpha": 0.10, "seed": 0},
    "expected_quantiles": {"m": REQUIRED},
    "qq_coords": {"p": REQUIRED},
    "compute_ols_denom": {"C": REQUIRED, "x": REQUIRED},
}
# The vocabulary names the first parameters; ours may follow.
BEGINNINGS = {
    "stratified_permutation_sampler": {
        "x_obs": REQUIRED,
        "p_hat": REQUIRED,
        "B": REQUIRED,
        "seed": REQUIRED,
        "batch_raw": None,
        "n_bins": 20,
        "stratify_by_batch": True,
        "min_stratum_size": 2,
        "burden_values": None,
        "n_burden_bins": 8,
        "burden_bin_method": "quantile",
        "burden_clip_quantiles": (0.0, 1.0),
    },
    "compute_ntc_group_null_pvals_parallel": {
        "inputs": REQUIRED,
        "ntc_groups_ens": REQUIRED,
        "B": 1023,
        "base_seed": 123,
        "n_jobs": 8,
        "backend": "threading",
    },
    "qq_plot_ntc_pvals": {
        "pvals_raw_df": REQUIRED,
        "guide2gene": REQUIRED,
        "ntc_genes": REQUIRED,
        "pvals_skew_df": None,
        "null_pvals": None,
        "null_stats": None,
        "null_two_sided": True,
        "show_null_skew": False,
        "null_skew_samples": None,
        "null_skew_seed": 0,
        "expected_grid_raw": None,
        "expected_grid_all": None,
        "ntc_group_pvals_ens": None,
        "ntc_group_pvals_skew_ens": None,
        "show_ntc_ensemble_band": False,
        "ntc_band_quantiles": None,
        "ntc_band_alpha": 0.15,
        "ax": None,
        "title": None,
    },
}

N_CELLS, N_GUIDES, PROGRAMS = 400, 12, ["P1", "P2", "P3"]
GENE_OF = dict(
    zip(
        [f"g{i}" for i in range(N_GUIDES)],
        ["A", "A", "B", "B", "C", "C", *["NTC"] * 6],
        strict=True,
    )
)


def make_screen(seed=0):
    rng = np.random.default_rng(seed)
    obs = pd.DataFrame(index=[f"cell{i}" for i in range(N_CELLS)])
    covar = pd.DataFrame(
        {"depth": rng.normal(size=N_CELLS), "batch": rng.choice(["x", "y"], N_CELLS)},
        index=obs.index,
    )
    calls = (rng.random((N_CELLS, N_GUIDES)) < 0.08).astype(np.float64)
    return ad.AnnData(
        obs=obs,
        obsm={
            "covar": covar,
            "cnmf_usage": rng.dirichlet(np.ones(3), N_CELLS),
            "guide_assignment": sp.csr_matrix(calls),
        },
        uns={
            "guide_names": np.array(list(GENE_OF), dtype=object),
            "guide2gene": dict(GENE_OF),
            "program_names": np.array(PROGRAMS, dtype=object),
        },
    )


@pytest.fixture
def screen():
    return make_screen()


@pytest.fixture(scope="module")
def inputs():
    return api.prepare_crt_inputs(make_screen())


# Vocabulary


def parameters(name):
    found = inspect.signature(getattr(condrand, name)).parameters
    return {name: parameter.default for name, parameter in found.items()}


@pytest.mark.parametrize("name", SIGNATURES)
def test_names_order_and_defaults_are_those_of_the_vocabulary(name):
    assert list(parameters(name).items()) == list(SIGNATURES[name].items())


@pytest.mark.parametrize("name", BEGINNINGS)
def test_signatures_begin_as_the_vocabulary_does(name):
    expected = list(BEGINNINGS[name].items())
    assert list(parameters(name).items())[: len(expected)] == expected


def test_results_have_the_fields_of_the_vocabulary():
    names = [f.name for f in fields(api.CRTInputs)]
    assert names[:17] == [
        *("C", "Y", "A", "CTY", "G", "guide_names", "guide2gene", "gene_to_cols"),
        *("program_names", "U", "R", "rank_info", "usage_eps_quantile", "covar_cols"),
        *("covar_df_raw", "batch_raw", "_outcomes"),
    ]
    assert [f.name for f in fields(api.CRTGeneResult)][:7] == [
        *("gene", "pvals", "betas", "n_treated", "pvals_sn", "skew_params", "pvals_raw"),
    ]


def test_the_package_names_what_the_api_names_and_imports_it_late():
    assert condrand.__all__ == api.__all__
    assert set(condrand.__all__) <= set(dir(condrand))
    assert all(getattr(condrand, name) is getattr(api, name) for name in api.__all__)
    with pytest.raises(AttributeError, match="no_such_name"):
        condrand.no_such_name  # noqa: B018
    code = (
        "import sys, condrand\n"
        "heavy = {'numpy', 'pandas', 'numba', 'scipy', 'anndata', 'matplotlib'} & set(sys.modules)"
        "\nassert not heavy, heavy\n"
        "from condrand import prepare_crt_inputs\n"
        "assert 'numba' in sys.modules\n"
    )
    environment = {"PYTHONPATH": PACKAGE, "PATH": ""}
    subprocess.run([sys.executable, "-c", code], check=True, env=environment)


# Inputs


def test_inputs_hold_the_documented_arrays(screen):
    made = api.prepare_crt_inputs(screen)
    assert made.covar_cols == ["intercept", "depth", "batch[y]"]
    assert made.C.shape == (N_CELLS, 3) and made.C.dtype == np.float64
    np.testing.assert_allclose(made.C[:, 0], 1)
    np.testing.assert_allclose(made.C[:, 1:].std(axis=0), 1)
    np.testing.assert_allclose(made.A, np.linalg.inv(made.C.T @ made.C), rtol=1e-10, atol=1e-15)
    np.testing.assert_allclose(made.CTY, made.C.T @ made.Y)
    usage = screen.obsm["cnmf_usage"]
    floored = np.maximum(usage, np.quantile(usage, 1e-4))
    logs = np.log(floored / floored.sum(axis=1, keepdims=True))
    np.testing.assert_allclose(made.Y, logs - logs.mean(axis=1, keepdims=True), atol=1e-12)
    assert made.U.dtype == np.float32 and made.R is None
    assert sp.issparse(made.G) and made.G.format == "csc"
    assert made.gene_to_cols == {"A": [0, 1], "B": [2, 3], "C": [4, 5], "NTC": [*range(6, 12)]}
    assert made.program_names == PROGRAMS
    assert made.guide_names == list(GENE_OF) and made.guide2gene == GENE_OF
    pd.testing.assert_frame_equal(made.covar_df_raw, screen.obsm["covar"])
    assert made.batch_raw.tolist() == screen.obsm["covar"]["batch"].tolist()


def test_a_stored_zero_is_no_guide(screen):
    calls = screen.obsm["guide_assignment"]
    rows, columns = np.indices(calls.shape)
    zeros = sp.csr_matrix((calls.toarray().ravel(), (rows.ravel(), columns.ravel())))
    assert zeros.nnz == calls.shape[0] * calls.shape[1]
    screen.obsm["guide_assignment"] = zeros
    made = api.prepare_crt_inputs(screen)
    assert made.G.nnz == calls.nnz
    assert zeros.nnz == calls.shape[0] * calls.shape[1]
    found = api.run_one_gene_union_crt("A", made, B=10)
    assert found.n_treated == np.count_nonzero(calls.toarray()[:, :2].any(axis=1))


def test_columns_of_tables_name_programs_and_guides(screen):
    cells = screen.obs_names
    screen.obsm["cnmf_usage"] = pd.DataFrame(
        screen.obsm["cnmf_usage"], index=cells, columns=["u", "v", "w"]
    )
    backwards = list(GENE_OF)[::-1]
    calls = screen.obsm["guide_assignment"].toarray()[:, ::-1]
    screen.obsm["guide_assignment"] = pd.DataFrame(calls, index=cells, columns=backwards)
    del screen.uns["guide_names"]
    made = api.prepare_crt_inputs(screen)
    assert made.program_names == ["u", "v", "w"]
    assert made.gene_to_cols["A"] == [10, 11]


def test_programs_without_names_are_numbered_and_guides_without_are_refused(screen):
    del screen.uns["program_names"]
    made = api.prepare_crt_inputs(screen)
    assert made.program_names == ["program_0", "program_1", "program_2"]
    del screen.uns["guide_names"]
    with pytest.raises(ValueError, match="guides have no names"):
        api.prepare_crt_inputs(screen)


def test_dependent_covariates_are_left_out_and_named(screen, caplog):
    covar = screen.obsm["covar"]
    covar["twice"], covar["one"] = 2 * covar["depth"] + 1, 1.0
    made = api.prepare_crt_inputs(screen)
    assert made.covar_cols == ["intercept", "depth", "batch[y]"]
    assert "twice (a combination of depth)" in caplog.text
    assert "one (constant)" in caplog.text


def test_arrays_of_covariates_are_taken_as_they_are(screen):
    screen.obs["batch"] = screen.obsm["covar"]["batch"].to_numpy()
    screen.obsm["covar"] = np.random.default_rng(1).integers(0, 2, (N_CELLS, 2))
    made = api.prepare_crt_inputs(screen, standardize=False, add_intercept=False)
    assert made.covar_cols == ["covar_0", "covar_1"]
    np.testing.assert_array_equal(made.C, screen.obsm["covar"])
    assert made.covar_df_raw is None
    assert made.batch_raw.tolist() == screen.obs["batch"].tolist()


def test_scale_of_the_covariates_changes_no_p_value(screen, inputs):
    raw = api.prepare_crt_inputs(screen, standardize=False)
    assert raw.C[:, 1].std() != pytest.approx(1, abs=1e-6)
    a, b = (api.run_one_gene_union_crt("A", x, B=300) for x in (inputs, raw))
    np.testing.assert_allclose(a.betas, b.betas, rtol=1e-9)
    np.testing.assert_array_equal(a.pvals, b.pvals)


def test_without_intercept_effects_are_those_of_regression_through_the_origin(screen):
    made = api.prepare_crt_inputs(screen, add_intercept=False)
    x = made.G[:, [0, 1]].toarray().any(axis=1).astype(float)
    design = np.column_stack([x, made.C])
    expected = np.linalg.lstsq(design, made.Y, rcond=None)[0][0]
    np.testing.assert_allclose(api.run_one_gene_union_crt("A", made, B=9).betas, expected)


def negative_usage(screen):
    screen.obsm["cnmf_usage"][3, 1] = -0.1


def nan_usage(screen):
    screen.obsm["cnmf_usage"][3, 1] = np.nan


def empty_row(screen):
    screen.obsm["cnmf_usage"][3] = 0.0


def negative_calls(screen):
    screen.obsm["guide_assignment"].data[0] = -1


def missing_covariate(screen):
    screen.obsm["covar"].iloc[0, 0] = np.nan


def no_known_guide(screen):
    screen.uns["guide2gene"] = {"stranger": "A"}


def too_few_names(screen):
    screen.uns["guide_names"] = screen.uns["guide_names"][:-1]


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (negative_usage, r"cnmf_usage: 1 negative values .*cell3.*'P2'"),
        (nan_usage, "cnmf_usage: 1 NaN or infinite"),
        (empty_row, "1 rows sum to zero .*cell3"),
        (negative_calls, "guide_assignment: 1 negative"),
        (missing_covariate, "missing or infinite values in: 'depth'"),
        (no_known_guide, "names no guide of guide_assignment"),
        (too_few_names, "11 guide names"),
    ],
)
def test_what_cannot_be_is_refused(screen, spoil, says):
    spoil(screen)
    with pytest.raises(ValueError, match=says):
        api.prepare_crt_inputs(screen)


def test_a_key_that_is_not_there_is_named(screen):
    with pytest.raises(KeyError, match="nowhere.*cnmf_usage"):
        api.prepare_crt_inputs(screen, usage_key="nowhere")


# Genes


def test_tables_have_the_documented_shapes(inputs):
    out = api.run_all_genes_union_crt(
        inputs,
        B=99,
        n_jobs=1,
        calibrate_skew_normal=True,
        return_skew_normal=True,
        return_raw_pvals=True,
    )
    genes = ["A", "B", "C", "NTC"]
    for name in ("pvals_df", "betas_df", "pvals_raw_df", "pvals_skew_df"):
        assert out[name].index.tolist() == genes
        assert out[name].columns.tolist() == PROGRAMS
        assert (out[name].dtypes == np.float64).all()
    pd.testing.assert_frame_equal(out["pvals_df"], out["pvals_skew_df"])
    assert out["treated_df"].name == "n_union_positive_cells"
    assert out["treated_df"].dtype == np.int64
    assert out["skew_params"].shape == (4, 3, 3) and out["skew_params"].dtype == np.float64
    assert out["stat_name"] == "beta" and "stats_df" not in out
    assert (out["notes"] == "").all()
    assert [result.gene for result in out["results"]] == genes
    assert set(out["p_source_df"].to_numpy().ravel()) <= {"empirical", "skew_normal"}


def test_tuples_are_in_the_documented_order(inputs):
    call = {"B": 20, "n_jobs": 1, "calibrate_skew_normal": True}
    out = api.run_all_genes_union_crt(inputs, **call)
    as_tuple = api.run_all_genes_union_crt(
        inputs, **call, return_raw_pvals=True, return_skew_normal=True, return_format="tuple"
    )
    p, betas, treated, results, raw, skew, parameters = as_tuple
    pd.testing.assert_frame_equal(p, out["pvals_df"])
    pd.testing.assert_frame_equal(betas, out["betas_df"])
    pd.testing.assert_series_equal(treated, out["treated_df"])
    assert len(results) == 4
    np.testing.assert_array_equal(raw.loc["A"], out["results"][0].pvals_raw)
    pd.testing.assert_frame_equal(skew, p)
    assert parameters.shape == (4, 3, 3)
    assert len(api.run_all_genes_union_crt(inputs, **call, return_format="tuple")) == 4


def test_effects_are_least_squares_and_p_values_count_the_resamples(inputs):
    result = api.run_one_gene_union_crt("B", inputs, B=200, base_seed=4)
    x = inputs.G[:, [2, 3]].toarray().any(axis=1).astype(float)
    design = np.column_stack([x, inputs.C])
    expected = np.linalg.lstsq(design, inputs.Y, rcond=None)[0][0]
    np.testing.assert_allclose(result.betas, expected, rtol=1e-9)
    assert result.n_treated == x.sum()
    for k in range(3):
        null = api.crt_null_stats_for_test("B", k, inputs, B=200, base_seed=4)
        counted = (1 + np.sum(np.abs(null) >= abs(result.betas[k]))) / 201
        assert result.pvals[k] == counted
        assert api.compute_empirical_p_value(null, result.betas[k]) == counted


def test_resamples_are_those_the_sampler_writes_out(inputs):
    x = inputs.G[:, [0, 1]].toarray().any(axis=1)
    p, model = api.fit_propensity_logistic(inputs.C, x)
    assert model.converged.all()
    # The penalized likelihood's slope in the unpenalized intercept.
    assert p.sum() == pytest.approx(x.sum(), rel=1e-6)
    indptr, cells = api.bernoulli_index_sampler(p, 1100, 123, unit="A")
    assert indptr.dtype == np.int64 and cells.dtype == np.int32 and indptr.shape == (1101,)
    null = api.crt_null_stats_for_test("A", 0, inputs, B=1100)
    for b in (0, 500, 1099):
        y = np.zeros(N_CELLS)
        y[cells[indptr[b] : indptr[b + 1]]] = 1
        design = np.column_stack([y, inputs.C])
        beta = np.linalg.lstsq(design, inputs.Y[:, 0], rcond=None)[0][0]
        assert null[b] == pytest.approx(beta, rel=1e-9)


def test_permuted_treatments_keep_the_counts_of_each_batch(inputs):
    x = inputs.G[:, [0, 1]].toarray().any(axis=1)
    batch = inputs.batch_raw.to_numpy()
    draws = api.stratified_permutation_sampler(x, np.full(N_CELLS, 0.1), 50, 1, batch, n_bins=1)
    for b in range(50):
        cells = draws[1][draws[0][b] : draws[0][b + 1]]
        assert np.sum(batch[cells] == "x") == np.sum(batch[x] == "x")
        assert cells.size == x.sum()
    none = api.stratified_permutation_sampler(np.zeros(N_CELLS), np.full(N_CELLS, 0.1), 5, 1)
    assert none[0].tolist() == [0] * 6 and none[1].size == 0
    with pytest.raises(ValueError, match="B is 0"):
        api.stratified_permutation_sampler(x, np.full(N_CELLS, 0.1), 0, 1)
    with pytest.raises(ValueError, match="shape"):
        api.stratified_permutation_sampler(x[1:], np.full(N_CELLS, 0.1), 5, 1)


def test_numbers_depend_on_neither_threads_nor_other_genes(inputs):
    def p(**call):
        return api.run_all_genes_union_crt(inputs, B=2100, **call)["pvals_df"]

    one = p(n_jobs=1)
    pd.testing.assert_frame_equal(one, p(n_jobs=3, backend="threading"))
    pd.testing.assert_frame_equal(one.loc[["C", "A"]], p(genes=["C", "A"], n_jobs=2))
    np.testing.assert_array_equal(
        one.loc["B"], api.run_one_gene_union_crt("B", inputs, B=2100).pvals
    )
    assert not np.array_equal(one, p(n_jobs=1, base_seed=5))


@pytest.mark.parametrize("cells", ["none", "all"])
def test_a_gene_that_cannot_be_tested_is_nan_with_a_note(screen, cells):
    calls = screen.obsm["guide_assignment"].toarray()
    calls[:, :2] = cells == "all"
    screen.obsm["guide_assignment"] = calls
    made = api.prepare_crt_inputs(screen)
    for call in ({}, {"propensity_model": lambda C, y: np.full(len(y), 0.5)}):
        out = api.run_all_genes_union_crt(
            made, B=20, n_jobs=1, calibrate_skew_normal=True, return_skew_normal=True, **call
        )
        assert out["pvals_df"].loc["A"].isna().all() and out["betas_df"].loc["A"].isna().all()
        assert np.isnan(out["skew_params"][0]).all()
        assert out["treated_df"]["A"] == (N_CELLS if cells == "all" else 0)
        assert out["notes"]["A"] != ""
        assert out["pvals_df"].loc["B"].notna().all()
    with pytest.raises(ValueError, match="A cannot be tested"):
        api.compute_gene_null_pvals("A", made, B=20)


def test_a_callers_model_of_the_propensity_is_used(inputs):
    seen = []

    def model(C, y01):
        seen.append((C, y01))
        return MODEL(C, y01)

    for call in (
        {},
        {"test_stat": "rank"},
        {"resampling_method": "stratified_perm", "resampling_kwargs": {"burden_key": BURDEN}},
    ):
        ours = api.run_all_genes_union_crt(inputs, B=200, n_jobs=1, **call)["pvals_df"]
        theirs = api.run_all_genes_union_crt(
            inputs, B=200, n_jobs=2, propensity_model=model, **call
        )["pvals_df"]
        pd.testing.assert_frame_equal(ours, theirs)
    assert seen[0][0] is inputs.C
    np.testing.assert_array_equal(seen[0][1], inputs.G[:, [0, 1]].toarray().any(axis=1))
    flat = api.run_one_gene_union_crt(
        "A", inputs, B=200, propensity_model=lambda C, y: np.full(len(y), y.mean())
    )
    assert not np.array_equal(flat.pvals, ours.loc["A"])
    for bad in (lambda C, y: y[1:], lambda C, y: y - 0.5, lambda C, y: y / 0.0 * 0.0):
        with np.errstate(all="ignore"), pytest.raises(ValueError, match="propensity_model"):
            api.run_one_gene_union_crt("A", inputs, B=20, propensity_model=bad)


def test_parameters_of_the_fit_are_those_of_the_standardized_null(inputs):
    result = api.run_one_gene_union_crt("C", inputs, B=1023, calibrate_skew_normal=True)
    for k in range(3):
        null = api.crt_null_stats_for_test("C", k, inputs, B=1023)
        z = (null - null.mean()) / null.std()
        # The summary adds in fixed point.
        np.testing.assert_allclose(
            result.skew_params[k], api.fit_skew_normal(z)[:3], rtol=1e-4, atol=1e-4
        )
        xi, omega, alpha, p = api.fit_and_evaluate_skew_normal(result.betas[k], null)
        law = stats.skewnorm(alpha, xi, omega)
        far = abs(result.betas[k])
        if p > 0:
            assert p == pytest.approx(law.sf(far) + law.cdf(-far), rel=1e-6)
            assert p == pytest.approx(result.pvals_sn[k], rel=1e-3)
        else:
            assert result.pvals_sn[k] == result.pvals_raw[k]


@pytest.mark.parametrize("calibrate", [False, True])
def test_tails_of_one_gene_add_up(inputs, calibrate):
    right, left = (
        api.run_one_gene_union_crt(
            "A", inputs, B=400, calibrate_skew_normal=calibrate, skew_normal_side_code=side
        )
        for side in (1, -1)
    )
    np.testing.assert_allclose(right.pvals_raw + left.pvals_raw, 402 / 401)
    if calibrate:
        both = (right.p_source == "skew_normal") & (left.p_source == "skew_normal")
        np.testing.assert_allclose((right.pvals_sn + left.pvals_sn)[both], 1)


@pytest.mark.parametrize("name", ["utest", "wilcoxon", "mannwhitney", "mannwhitneyu", "rank"])
def test_rank_tests_report_the_rank_biserial_correlation(inputs, name):
    made = replace(inputs)
    out = api.run_all_genes_union_crt(made, ["A"], B=50, n_jobs=1, test_stat=name)
    x = made.G[:, [0, 1]].toarray().any(axis=1)
    u = [stats.mannwhitneyu(made.Y[x, k], made.Y[~x, k]).statistic for k in range(3)]
    np.testing.assert_allclose(
        out["betas_df"].loc["A"], 2 * np.array(u) / (x.sum() * (~x).sum()) - 1, atol=1e-12
    )
    assert out["stat_name"] == "rank_biserial"
    assert out["stats_df"] is out["betas_df"]
    np.testing.assert_array_equal(made.R, stats.rankdata(made.Y, axis=0).astype(np.float32))
    assert made.rank_info["use"] == "clr"


def test_usage_itself_can_be_ranked(inputs):
    use = {"use": "usage", "rank_method": "average", "rank_dtype": "float32"}
    result = api.run_one_gene_union_crt("A", inputs, B=50, test_stat="utest", test_stat_kwargs=use)
    x = inputs.G[:, [0, 1]].toarray().any(axis=1)
    u = stats.mannwhitneyu(inputs.U[x, 0], inputs.U[~x, 0]).statistic
    assert result.betas[0] == pytest.approx(2 * u / (x.sum() * (~x).sum()) - 1, abs=1e-3)


@pytest.mark.parametrize("name", ["rank", "welch"])
def test_residuals_can_be_tested_in_place_of_the_outcome(inputs, name):
    made = replace(inputs)
    call = {"B": 300, "test_stat": name}
    plain, of_residuals = (
        api.run_one_gene_union_crt("A", made, test_stat_kwargs={"residualize": yes}, **call)
        for yes in (False, True)
    )
    np.testing.assert_array_equal(plain.betas, api.run_one_gene_union_crt("A", made, **call).betas)
    x = made.G[:, [0, 1]].toarray().any(axis=1)
    residuals = made.Y - made.C @ np.linalg.lstsq(made.C, made.Y, rcond=None)[0]
    if name == "welch":
        expected = residuals[x].mean(axis=0) - residuals[~x].mean(axis=0)
    else:
        u = stats.mannwhitneyu(residuals[x], residuals[~x]).statistic
        expected = 2 * u / (x.sum() * (~x).sum()) - 1
        assert made.rank_info["residualize"]
    np.testing.assert_allclose(of_residuals.betas, expected, atol=1e-12)
    assert not np.allclose(plain.betas, expected, atol=1e-6)


def test_a_covariate_that_drowns_the_effect_is_taken_out_by_residualizing(screen):
    rng = np.random.default_rng(3)
    treated = screen.obsm["guide_assignment"].toarray()[:, :2].any(axis=1)
    logs = rng.normal(size=(N_CELLS, 3)) * 0.3
    logs[:, 0] += 3 * screen.obsm["covar"]["depth"] + 0.4 * treated
    screen.obsm["cnmf_usage"] = np.exp(logs)
    made = api.prepare_crt_inputs(screen)
    plain, of_residuals = (
        api.run_one_gene_union_crt(
            "A", made, test_stat="utest", test_stat_kwargs={"residualize": yes}
        ).pvals[0]
        for yes in (False, True)
    )
    assert of_residuals == 1 / 1024 and plain > 0.01


def test_a_regression_needs_no_residuals(inputs):
    a, b = (
        api.run_one_gene_union_crt("A", inputs, B=50, test_stat_kwargs={"residualize": yes})
        for yes in (False, True)
    )
    np.testing.assert_array_equal(a.pvals, b.pvals)


def by_burden(inputs, **more):
    options = {"burden_key": BURDEN, "stratify_by_batch": False, **more}
    return api.resampling.Tests(inputs, None, "stratified_perm", options)


def burden_of(tests, unit):
    batch = tests.prepare([unit])
    compared = api.resampling.Comparisons(tests.outcome)
    return compared.of(batch.kinds[0], batch.treated[0]).burden


def test_burden_counts_all_guides_of_the_units_kind_its_own_too(inputs):
    calls = inputs.G.toarray()
    tests = by_burden(inputs)
    of_genes, of_controls = (np.log1p(calls[:, a:b].sum(axis=1)) for a, b in ((0, 6), (6, 12)))
    gene = api.resampling.gene_of(inputs, "A")
    np.testing.assert_allclose(burden_of(tests, gene), of_genes)
    for columns, expected in (([6, 7], of_controls), ([0, 3], of_genes)):
        unit = api.resampling.guide_set_of(inputs, columns)
        np.testing.assert_allclose(burden_of(tests, unit), expected)
    # Their own labels may be told.
    other = by_burden(inputs, ntc_labels="A")
    np.testing.assert_allclose(burden_of(other, gene), np.log1p(calls[:, :2].sum(axis=1)))


def test_what_the_number_of_guides_determines_is_not_tested_given_it(inputs):
    call = {
        "resampling_method": "stratified_perm",
        "resampling_kwargs": {"burden_key": BURDEN},
        "B": 99,
    }
    all_controls = api.run_one_gene_union_crt("NTC", inputs, **call)
    assert "no stratum" in all_controls.note and np.isnan(all_controls.pvals).all()
    assert np.isfinite(api.run_one_gene_union_crt("A", inputs, **call).pvals).all()
    some = {name: call[name] for name in ("resampling_method", "resampling_kwargs")}
    assert np.isfinite(api.crt_pvals_for_guide_set(inputs, [6, 7], 99, 5, **some)).all()
    with pytest.raises(ValueError, match="g0,g6 has NTC guides and others"):
        api.crt_pvals_for_guide_set(inputs, [0, 6], 99, 5, **some)


def test_a_named_covariate_is_the_burden_as_it_is(inputs):
    tests = by_burden(inputs, burden_key="depth")
    for unit in (
        api.resampling.gene_of(inputs, "A"),
        api.resampling.guide_set_of(inputs, [6, 7]),
    ):
        np.testing.assert_array_equal(burden_of(tests, unit), inputs.covar_df_raw["depth"])


def ntc_cells(inputs):
    calls = inputs.G.toarray()
    return calls[:, 6:].any(axis=1) & ~calls[:, :6].any(axis=1)


def test_genes_can_be_compared_with_the_cells_of_controls(inputs):
    treated = inputs.G[:, [0, 1]].toarray().any(axis=1)
    cells = treated | ntc_cells(inputs)
    assert cells.sum() < 300
    design = np.column_stack([treated[cells], inputs.C[cells]]).astype(float)
    expected = np.linalg.lstsq(design, inputs.Y[cells], rcond=None)[0][0]
    call = {"B": 300, "control": "ntc"}
    found = api.run_one_gene_union_crt("A", inputs, **call)
    np.testing.assert_allclose(found.betas, expected, rtol=1e-9)
    assert found.n_treated == treated.sum() and np.isfinite(found.pvals).all()
    out = api.run_all_genes_union_crt(inputs, n_jobs=2, **call)
    np.testing.assert_array_equal(out["pvals_df"].loc["A"], found.pvals)
    # Controls cannot be compared with themselves.
    assert out["notes"]["NTC"] == "no NTC cell to compare"
    with pytest.raises(ValueError, match="no cell carries NTC guides and no others"):
        api.run_one_gene_union_crt("A", inputs, ntc_labels=("scrambled",), **call)
    named = replace(inputs, gene_to_cols={**inputs.gene_to_cols, "mine": [*range(6, 12)]})
    again = api.run_one_gene_union_crt("A", named, ntc_labels=["mine"], **call)
    np.testing.assert_array_equal(again.pvals, found.pvals)


def test_where_most_cells_carry_one_guide_auto_takes_the_cells_of_controls(screen):
    call = {"B": 99, "test_stat": "utest"}

    def p(control):
        made = api.prepare_crt_inputs(screen)
        return api.run_one_gene_union_crt("A", made, control=control, **call).pvals

    np.testing.assert_array_equal(p("auto"), p("complement"))
    screen.obsm["guide_assignment"] = np.eye(N_GUIDES)[np.arange(N_CELLS) % N_GUIDES]
    np.testing.assert_array_equal(p("auto"), p("ntc"))
    assert not np.array_equal(p("auto"), p("complement"))


def test_a_callers_model_sees_the_cells_compared(inputs):
    seen = []

    def model(C, y01):
        seen.append((len(C), y01.sum()))
        return MODEL(C, y01)

    call = {"B": 99, "control": "ntc", "resampling_method": "stratified_perm"}
    ours = api.run_one_gene_union_crt("A", inputs, **call)
    theirs = api.run_one_gene_union_crt("A", inputs, propensity_model=model, **call)
    np.testing.assert_array_equal(ours.pvals, theirs.pvals)
    treated = inputs.G[:, [0, 1]].toarray().any(axis=1)
    assert seen == [((treated | ntc_cells(inputs)).sum(), treated.sum())]


def test_a_covariate_is_binned_alike_whatever_its_scale(inputs):
    made = replace(inputs, covar_df_raw=inputs.covar_df_raw.assign(umis=1e6))
    made.covar_df_raw["umis"] += 1e5 * made.covar_df_raw["depth"]
    call = {"resampling_method": "stratified_perm", "B": 100}
    found = [
        api.run_one_gene_union_crt("A", made, resampling_kwargs={"burden_key": key}, **call).pvals
        for key in ("depth", "umis")
    ]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(
    ("call", "says"),
    [
        ({"resampling_method": "shuffle"}, "none of"),
        ({"resampling_kwargs": {"n_bins": 3}}, "takes no resampling_kwargs"),
        (
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"n_bin": 3}},
            "resampling_kwargs has no n_bin",
        ),
        (
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"batch_key": "lane"}},
            "no batch column 'lane'",
        ),
        (
            {"resampling_method": "stratified_perm", "resampling_kwargs": {"burden_key": "moi"}},
            "no covariate 'moi'",
        ),
        ({"test_stat": "t"}, "test_stat 't'"),
        ({"test_stat": "rank", "test_stat_kwargs": {"usage": True}}, "has no usage"),
        ({"test_stat_kwargs": {"use": "counts"}}, "'counts'"),
        ({"null_method": "permutation"}, "null_method"),
        ({"null_kwargs": {"min_treated": 3}}, "takes no null_kwargs"),
        ({"skew_normal_side_code": 2}, "side code 2"),
        ({"B": 0}, "B is 0"),
        ({"control": "other"}, "control 'other' is none of auto, complement, ntc"),
        ({"null_method": "ntc_empirical", "control": "ntc"}, "all other cells"),
        ({"null_method": "ntc_empirical", "control": "other"}, "none of auto"),
        ({"null_method": "ntc_empirical", "test_stat": "rank"}, "OLS"),
        ({"null_method": "ntc_empirical", "calibrate_skew_normal": True}, "skew-normal"),
        ({"null_method": "ntc_empirical", "null_kwargs": {"units": 3}}, "has no units"),
        ({"null_method": "ntc_empirical", "null_kwargs": {"guides_per_unit": 7}}, "7 guides"),
    ],
)
def test_options_that_cannot_be_honoured_are_refused(inputs, call, says):
    with pytest.raises(ValueError, match=says):
        api.run_one_gene_union_crt("A", inputs, **{"B": 20, **call})


def test_more_refusals(inputs):
    with pytest.raises(KeyError, match="'Z'"):
        api.run_one_gene_union_crt("Z", inputs)
    with pytest.raises(ValueError, match="return_format"):
        api.run_all_genes_union_crt(inputs, return_format="list")
    with pytest.raises(ValueError, match="calibrate_skew_normal=True"):
        api.run_all_genes_union_crt(inputs, return_raw_pvals=True)
    with pytest.raises(ValueError, match="qq_crossfit"):
        api.run_all_genes_union_crt(inputs, qq_crossfit=True)
    with pytest.raises(ValueError, match="penalty"):
        api.fit_propensity_logistic(inputs.C, np.arange(N_CELLS) < 9, penalty="l1")
    with pytest.raises(ValueError, match="there is no solver"):
        api.fit_propensity_logistic(inputs.C, np.arange(N_CELLS) < 9, solver="lbfgs")
    with pytest.raises(ValueError, match="0 of 400 cells"):
        api.fit_propensity_logistic(inputs.C, np.zeros(N_CELLS))
    without = replace(inputs, batch_raw=None, covar_df_raw=None)
    with pytest.raises(ValueError, match="stratify_by_batch=False"):
        api.run_one_gene_union_crt("A", without, resampling_method="stratified_perm")


def test_results_are_stored_under_the_documented_names(screen, inputs):
    out = api.run_all_genes_union_crt(
        inputs, B=20, n_jobs=1, calibrate_skew_normal=True, return_skew_normal=True
    )
    names = ("pvals_df", "betas_df", "treated_df")
    api.store_results_in_adata(screen, *(out[name] for name in names), prefix="x")
    assert {"x_pvals", "x_betas", "x_n_positive"} <= set(screen.uns)
    assert "x_skew_params" not in screen.uns
    more = {name: out[name] for name in ("pvals_skew_df", "skew_params")}
    api.store_results_in_adata(screen, *(out[name] for name in names), **more)
    assert screen.uns["crt_union_gene_program_skew_params"] is out["skew_params"]


# Controls


@pytest.fixture(scope="module")
def ensemble(inputs):
    ntc, frequency, bins, signatures = api.build_ntc_group_inputs(inputs, "NTC", 2, 1)
    assert ntc == [f"g{i}" for i in (10, 11, 6, 7, 8, 9)]
    return api.make_ntc_groups_ensemble(
        ntc, frequency, signatures, bins, n_ensemble=2, seed0=3, group_size=2
    )


def test_groups_are_tested_by_replicate(inputs, ensemble):
    raw = api.crt_pvals_for_ntc_groups_ensemble(inputs, ensemble, 99, 5, expected_group_size=2)
    skew = api.crt_pvals_for_ntc_groups_ensemble_skew(
        inputs, ensemble, 99, 5, expected_group_size=2
    )
    assert set(raw) == set(skew) == {0, 1}
    assert raw[0].index.tolist() == ["ntc_0", "ntc_1", "ntc_2"]
    assert raw[0].columns.tolist() == skew[0].columns.tolist() == PROGRAMS
    assert not raw[0].equals(skew[0])
    null = api.compute_ntc_group_null_pvals_parallel(inputs, ensemble, 99, n_jobs=2)
    assert null.shape == (6 * 99 * 3,)
    np.testing.assert_array_equal(
        null, api.compute_ntc_group_null_pvals_parallel(inputs, ensemble, 99, n_jobs=1)
    )
    with pytest.raises(ValueError, match="expected_group_size=6"):
        api.crt_pvals_for_ntc_groups_ensemble(inputs, ensemble, 99, 5)
    with pytest.raises(ValueError, match="replicate 1 .* is empty"):
        api.crt_pvals_for_ntc_groups_ensemble(
            inputs, [ensemble[0], {}], 99, 5, expected_group_size=2
        )


def test_a_set_of_guides_has_no_order(inputs):
    a = api.crt_pvals_for_guide_set(inputs, [7, 6], 99, 5)
    np.testing.assert_array_equal(a, api.crt_pvals_for_guide_set(inputs, [6, 7, 7], 99, 5))
    assert a.shape == (3,)
    skew, raw = api.crt_pvals_for_guide_set_skew(inputs, [6, 7], 99, 5)
    np.testing.assert_array_equal(raw, a)
    assert skew.shape == (3,)
    p = api.compute_guide_set_null_pvals([6, 7], inputs, B=99)
    assert p.shape == (99, 3) and p.min() == pytest.approx(1 / 99) and p.max() <= 1
    with pytest.raises(ValueError, match="not columns"):
        api.crt_pvals_for_guide_set(inputs, [12], 99, 5)


@pytest.mark.parametrize("mode", ["meta", "pooled"])
def test_genes_are_compared_with_control_guides(inputs, mode, tmp_path):
    options = {
        "guides_per_unit": 2,
        "n_ntc_units": 60,
        "batch_mode": mode,
        "matching": {"min_ntc_per_bin": 20, "use_pbar": True},
    }
    call = {"null_method": "ntc_empirical", "null_kwargs": options}
    out = api.run_all_genes_union_crt(inputs, **call, qq_crossfit=True)
    assert out["null_method"] == "ntc_empirical"
    assert out["pvals_df"].shape == (4, 3) and out["pvals_df"].notna().all(axis=None)
    infos = [out["ntc_matching_info"]] if mode == "pooled" else out["ntc_matching_info"]
    assert len(infos) == (1 if mode == "pooled" else 2)
    assert {"fallback_counts", "bin_sizes", "n_bins_n1", "use_pbar"} <= set(infos[0])
    crossed = out["ntc_crossfit"]
    assert {
        *("batches", "matching_diagnostics"),
        *(f"p_{x}_vs_A_by_batch" for x in ("real", "ntcB", "real_gene", "ntcB_gene")),
        *(f"meta_p_{x}_vs_A" for x in ("real", "ntcB", "real_gene", "ntcB_gene")),
    } <= set(crossed)
    one = api.run_one_gene_union_crt("B", inputs, **call)
    np.testing.assert_array_equal(one.pvals, out["pvals_df"].loc["B"])
    np.testing.assert_allclose(
        one.betas, api.run_one_gene_union_crt("B", inputs, B=9).betas, rtol=1e-12
    )
    written = api.make_ntc_empirical_qq_plots(out, tmp_path, n_programs=1, envelope_boot=5)
    found = {str(path.relative_to(tmp_path)) for path in written}
    assert "qq_ntc_empirical_genelevel_meta.png" in found
    assert ("per_batch/x/qq_ntc_empirical_genelevel.png" in found) == (mode == "meta")
    assert all(path.is_file() for path in written)


def test_a_callers_model_can_match_the_controls(inputs):
    options = {"guides_per_unit": 2, "n_ntc_units": 30, "batch_mode": "pooled"}
    options["matching"] = {"min_ntc_per_bin": 5, "use_pbar": True}
    ours, theirs = (
        api.run_all_genes_union_crt(
            inputs,
            null_method="ntc_empirical",
            null_kwargs={**options, "pbar_propensity_model": model},
        )["pvals_df"]
        for model in (None, MODEL)
    )
    pd.testing.assert_frame_equal(ours, theirs)


def test_burden_counts_guides_and_becomes_a_covariate(screen):
    calls = screen.obsm["guide_assignment"].toarray()
    names = {"guide_names": list(GENE_OF), "guide2gene": GENE_OF, "ntc_labels": ["NTC"]}
    for form in (calls, sp.csr_matrix(calls), pd.DataFrame(calls)):
        np.testing.assert_allclose(
            api.compute_guide_burden(form, **names), np.log1p(calls.sum(axis=1))
        )
    twice = api.compute_guide_burden(
        2 * calls, **names, include_ntc=False, count_nonzero=False, use_log1p=False
    )
    np.testing.assert_array_equal(twice, 2 * calls[:, :6].sum(axis=1))
    with pytest.raises(ValueError, match="ntc_labels"):
        api.compute_guide_burden(
            calls, guide_names=list(GENE_OF), guide2gene={}, ntc_labels=None, include_ntc=False
        )
    table = api.add_burden_covariate(screen)
    assert list(table) == ["depth", "batch", BURDEN]
    np.testing.assert_allclose(screen.obsm["covar"][BURDEN], np.log1p(calls[:, :6].sum(axis=1)))
    screen.obsm["covar"] = np.ones((N_CELLS, 1))
    assert list(api.add_burden_covariate(screen)) == ["covar_0", BURDEN]


# Diagnostics


def test_adjusted_p_values_are_recognized():
    rng = np.random.default_rng(0)
    assert not api.is_bh_adjusted_like(rng.random(500))
    assert api.is_bh_adjusted_like(np.r_[rng.random(300), np.ones(200)])
    assert api.is_bh_adjusted_like(rng.choice([0.7, 0.8, 0.9], 500))
    assert not api.is_bh_adjusted_like(np.array([np.nan]))


def test_a_fit_has_the_moments_of_its_sample():
    y = np.random.default_rng(2).gamma(8.0, size=5000)
    xi, omega, alpha, mean, sd = api.fit_skew_normal(y)
    law = stats.skewnorm(alpha, xi, omega)
    assert (mean, sd) == (y.mean(), y.std())
    assert law.mean() == pytest.approx(mean) and law.std() == pytest.approx(sd)
    assert law.stats("s") == pytest.approx(stats.skew(y))
    constant = api.fit_and_evaluate_skew_normal(1.0, np.ones(50))
    assert np.isnan(constant[:3]).all() and constant[3] == -1
    # A far outlier forbids the fit to speak.
    assert api.fit_and_evaluate_skew_normal(1.0, np.r_[y - 8, 900.0])[3] == -1


def gids(ax):
    return {artist.get_gid() for artist in ax.get_children()} - {None}


def test_quantile_plots_draw_each_curve_asked_for(inputs, ensemble):
    out = api.run_all_genes_union_crt(
        inputs, B=99, n_jobs=1, calibrate_skew_normal=True, return_raw_pvals=True
    )
    null = api.crt_null_stats_for_test("A", 0, inputs, B=99)
    raw, skew = out["pvals_raw_df"], out["pvals_df"]
    groups = api.crt_pvals_for_ntc_groups_ensemble(inputs, ensemble, 99, 5, expected_group_size=2)
    where = (raw, inputs.guide2gene, ["NTC"])
    ax = api.qq_plot_ntc_pvals(*where, null_stats=null, title="t")
    assert ax.get_title() == "t"
    assert gids(ax) == {"all-tests", "controls-empirical", "crt-null", "band", "identity"}
    (line,) = [x for x in ax.lines if x.get_gid() == "controls-empirical"]
    np.testing.assert_allclose(line.get_ydata(), -np.log10(np.sort(raw.loc["NTC"])))
    np.testing.assert_allclose(line.get_xdata(), -np.log10([1 / 6, 3 / 6, 5 / 6]))
    (line,) = [x for x in ax.lines if x.get_gid() == "crt-null"]
    expected = api.compute_null_pvals_from_null_stats(null)
    np.testing.assert_allclose(line.get_ydata(), -np.log10(np.sort(expected)))
    other = api.qq_plot_ntc_pvals(
        *where,
        pvals_skew_df=skew,
        null_stats=null,
        show_null_skew=True,
        ntc_group_pvals_ens=groups,
        ntc_group_pvals_skew_ens=groups,
        show_ntc_ensemble_band=True,
        show_all_pvals=False,
        show_ref_line=False,
        show_conf_band=False,
        ax=ax.figure.add_subplot(),
    )
    assert gids(other) == {
        *("controls-empirical", "controls-reported", "crt-null", "null-skew", "ensemble-band")
    }
    for call, says in (
        ({}, "null_pvals or null_stats"),
        ({"null_pvals": [0.5], "show_null_skew": True}, "needs null_stats"),
        ({"null_pvals": [0.5], "expected_grid_raw": [0.5]}, "1 quantiles for 3"),
        (
            {"null_pvals": [0.5], "pvals_skew_df": skew, "ntc_group_pvals_ens": groups},
            "ntc_group_pvals_skew_ens",
        ),
        ({"null_pvals": [0.5], "show_ntc_ensemble_band": True}, "ntc_group_pvals_ens"),
    ):
        with pytest.raises(ValueError, match=says):
            api.qq_plot_ntc_pvals(*where, **call)
    with pytest.raises(ValueError, match="SAFE"):
        api.qq_plot_ntc_pvals(raw, inputs.guide2gene, ["SAFE"], null_stats=null)


def test_diagnostics_of_a_unit_tell_its_propensity_and_its_null(inputs):
    found = api.compute_unit_diagnostics(inputs=inputs, unit_id="A", B=200)
    null = api.crt_null_stats_for_test("A", 0, inputs, B=200)
    assert found["null_mean"] == pytest.approx(null.mean(), rel=1e-4, abs=1e-6)
    assert found["null_sd"] == pytest.approx(null.std(), rel=1e-4)
    assert found["p_hat_mean"] == pytest.approx(found["x_mean"], rel=1e-6)
    assert found["guide_count"] == 2 and not found["separation"] and 0 < found["auc"] < 1
    whole = api.compute_unit_diagnostics(
        inputs=inputs, unit_id="set", unit_type="guide_set", guide_idx=[6, 7], B=20
    )
    assert set(whole) == set(found)
    given = api.compute_unit_diagnostics(
        inputs=inputs, unit_id="A", B=20, propensity_model=lambda C, y: np.full(len(y), 0.2)
    )
    assert given["p_hat_mean"] == pytest.approx(0.2) and np.isnan(given["auc"])
