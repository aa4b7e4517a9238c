"""The notebook's functions: an AnnData in memory in, tables out, over the workflow's own code.

A gene's numbers are those of the workflow for the same data, seed, B, sampler and statistic. Not
every default is: the workflow tests ``ols_t``, and its ranks are those of residuals.
"""

from importlib import import_module

# A module is imported when one of its names is first asked for: figures need matplotlib, one call
# of dex does not.
_NAMES = {
    "condrand.api.abundance": [
        "DifferentialAbundance",
    ],
    "condrand.api.burden": [
        "add_burden_covariate",
        "compute_guide_burden",
    ],
    "condrand.api.controls": [
        "build_ntc_group_inputs",
        "compute_guide_set_null_pvals",
        "compute_ntc_group_null_pvals_parallel",
        "crt_pvals_for_guide_set",
        "crt_pvals_for_guide_set_skew",
        "crt_pvals_for_ntc_groups_ensemble",
        "crt_pvals_for_ntc_groups_ensemble_skew",
    ],
    "condrand.api.expression": [
        "dex",
    ],
    "condrand.api.diagnostics": [
        "compute_empirical_p_value",
        "compute_unit_diagnostics",
        "fit_and_evaluate_skew_normal",
        "fit_skew_normal",
        "is_bh_adjusted_like",
    ],
    "condrand.api.draws": [
        "bernoulli_index_sampler",
        "stratified_permutation_sampler",
    ],
    "condrand.api.figures": [
        "make_ntc_empirical_qq_plots",
        "qq_plot_ntc_pvals",
    ],
    "condrand.api.inputs": [
        "CRTInputs",
        "limit_threading",
        "prepare_crt_inputs",
        "store_results_in_adata",
    ],
    "condrand.api.kompot": [
        "DifferentialExpression",
        "SampleVarianceEstimator",
        "compute_fdr",
    ],
    "condrand.api.linear": [
        "EList",
        "array_weights",
        "calc_norm_factors",
        "contrasts_fit",
        "cpm",
        "decide_tests",
        "e_bayes",
        "filter_by_cpm",
        "filter_by_expr",
        "lm_fit",
        "make_contrasts",
        "model_matrix",
        "non_estimable",
        "plot_mds",
        "pseudobulk",
        "run_anova",
        "treat",
        "voom",
        "voom_with_quality_weights",
    ],
    "condrand.api.propensities": [
        "fit_propensity_logistic",
    ],
    "condrand.api.targets": [
        "CRTGeneResult",
        "compute_gene_null_pvals",
        "crt_null_stats_for_test",
        "run_all_genes_union_crt",
        "run_one_gene_union_crt",
    ],
    "condrand.linear.tables": [
        "top_table",
        "top_treat",
    ],
    "condrand.nulls.leave_one_out": [
        "compute_null_pvals_from_null_stats",
        "crt_null_pvals_from_null_stats_fast",
        "crt_null_pvals_from_null_stats_matrix",
        "qq_expected_grid",
    ],
    "condrand.nulls.ntc_empirical": [
        "compute_ntc_empirical_pvals_crossfit",
        "compute_ntc_empirical_pvals_gene_agg_crossfit",
        "compute_ols_denom",
        "compute_ols_denom_reference",
        "empirical_pvals_vs_ntc",
        "sample_ntc_pseudogenes_with_replacement",
        "split_ntc_guides",
        "split_ntc_units",
    ],
    "condrand.nulls.ntc_groups": [
        "guide_frequency",
        "make_ntc_groups_ensemble",
        "make_ntc_groups_matched_by_freq",
    ],
    "condrand.plots.qq_crossfit": [
        "bootstrap_qq_envelope",
        "expected_quantiles",
        "qq_coords",
    ],
    "condrand.samplers.strata": [
        "compute_bins",
    ],
}
_MODULE_OF = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULE_OF)


def __getattr__(name: str) -> object:
    if name not in _MODULE_OF:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_MODULE_OF[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
