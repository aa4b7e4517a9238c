"""condrand: calibrated, FDR-controlled effects from perturbation screens.

The workflow's entry scripts and a notebook call the same functions. Importing the package is
cheap; numba, anndata and pandas are imported by the modules that need them, and those of the
notebook (:mod:`condrand.api`) when one of its names is first asked for.
"""

from importlib import import_module

from condrand.version import __version__

# The names of condrand.api, written out so that listing them imports nothing.
_API = (
    "CRTGeneResult",
    "CRTInputs",
    "add_burden_covariate",
    "bernoulli_index_sampler",
    "bootstrap_qq_envelope",
    "build_ntc_group_inputs",
    "compute_bins",
    "compute_empirical_p_value",
    "compute_gene_null_pvals",
    "compute_guide_burden",
    "compute_guide_set_null_pvals",
    "compute_ntc_empirical_pvals_crossfit",
    "compute_ntc_empirical_pvals_gene_agg_crossfit",
    "compute_ntc_group_null_pvals_parallel",
    "compute_null_pvals_from_null_stats",
    "compute_ols_denom",
    "compute_ols_denom_reference",
    "compute_unit_diagnostics",
    "crt_null_pvals_from_null_stats_fast",
    "crt_null_pvals_from_null_stats_matrix",
    "crt_null_stats_for_test",
    "crt_pvals_for_guide_set",
    "crt_pvals_for_guide_set_skew",
    "crt_pvals_for_ntc_groups_ensemble",
    "crt_pvals_for_ntc_groups_ensemble_skew",
    "empirical_pvals_vs_ntc",
    "expected_quantiles",
    "fit_and_evaluate_skew_normal",
    "fit_propensity_logistic",
    "fit_skew_normal",
    "guide_frequency",
    "is_bh_adjusted_like",
    "limit_threading",
    "make_ntc_empirical_qq_plots",
    "make_ntc_groups_ensemble",
    "make_ntc_groups_matched_by_freq",
    "prepare_crt_inputs",
    "qq_coords",
    "qq_expected_grid",
    "qq_plot_ntc_pvals",
    "run_all_genes_union_crt",
    "run_one_gene_union_crt",
    "sample_ntc_pseudogenes_with_replacement",
    "split_ntc_guides",
    "split_ntc_units",
    "store_results_in_adata",
    "stratified_permutation_sampler",
)
__all__ = ["__version__", *_API]


def __getattr__(name: str) -> object:
    if name in _API:
        return getattr(import_module("condrand.api"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *_API})
