"""The notebook's functions: an AnnData in memory in, tables out, over the workflow's own code.

A gene's numbers are those of the workflow for the same data, seed, B, sampler and statistic. Not
every default is: the workflow tests ``ols_t``, and its ranks are those of residuals.
"""

from condrand.api.burden import add_burden_covariate, compute_guide_burden
from condrand.api.controls import (
    build_ntc_group_inputs,
    compute_guide_set_null_pvals,
    compute_ntc_group_null_pvals_parallel,
    crt_pvals_for_guide_set,
    crt_pvals_for_guide_set_skew,
    crt_pvals_for_ntc_groups_ensemble,
    crt_pvals_for_ntc_groups_ensemble_skew,
)
from condrand.api.dex import dex
from condrand.api.diagnostics import (
    compute_empirical_p_value,
    compute_unit_diagnostics,
    fit_and_evaluate_skew_normal,
    fit_skew_normal,
    is_bh_adjusted_like,
)
from condrand.api.draws import bernoulli_index_sampler, stratified_permutation_sampler
from condrand.api.figures import make_ntc_empirical_qq_plots, qq_plot_ntc_pvals
from condrand.api.inputs import (
    CRTInputs,
    limit_threading,
    prepare_crt_inputs,
    store_results_in_adata,
)
from condrand.api.propensities import fit_propensity_logistic
from condrand.api.targets import (
    CRTGeneResult,
    compute_gene_null_pvals,
    crt_null_stats_for_test,
    run_all_genes_union_crt,
    run_one_gene_union_crt,
)
from condrand.nulls.leave_one_out import (
    compute_null_pvals_from_null_stats,
    crt_null_pvals_from_null_stats_fast,
    crt_null_pvals_from_null_stats_matrix,
    qq_expected_grid,
)
from condrand.nulls.ntc_empirical import (
    compute_ntc_empirical_pvals_crossfit,
    compute_ntc_empirical_pvals_gene_agg_crossfit,
    compute_ols_denom,
    compute_ols_denom_reference,
    empirical_pvals_vs_ntc,
    sample_ntc_pseudogenes_with_replacement,
    split_ntc_guides,
    split_ntc_units,
)
from condrand.nulls.ntc_groups import (
    guide_frequency,
    make_ntc_groups_ensemble,
    make_ntc_groups_matched_by_freq,
)
from condrand.plots.qq_crossfit import bootstrap_qq_envelope, expected_quantiles, qq_coords
from condrand.samplers.strata import compute_bins

__all__ = [
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
    "dex",
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
]
