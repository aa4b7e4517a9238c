"""Differential expression against kompot 0.8.0: means, variances, distances, FDR.

Gates are relative to the largest value of each array. ``fixed`` and ``short`` give the length
scale; ``exact`` is kompot with exact distances to nearest cells; ``stock`` is kompot as it is,
whose approximate float32 distances are stored.
"""

import numpy as np
import pytest

from condrand.api.kompot import DifferentialExpression, SampleVarianceEstimator, compute_fdr
from condrand.gp.neighbours import length_scale, nearest_distances
from condrand.gp.null_genes import NullGenes
from references import near

EXACT, STOCK = 1e-9, 1e-5
# Arguments of the class, of fit and of predict, beside the usual length scale and landmarks.
CASES = {
    "fixed/de_lm": ({}, {}, {}),
    "fixed/de_lm_sv": ({}, {"samples": True}, {}),
    "fixed/de_lm_sv_ls2": ({}, {"samples": True, "sample_estimator_ls": 6.0}, {}),
    "fixed/de_lm_sigma05": ({}, {"sigma": 0.5}, {}),
    "fixed/de_full": ({}, {"landmarks": False}, {}),
    "fixed/de_lm_nolm": ({}, {}, {"use_landmarks": False}),
    "fixed/de_lm_override": ({}, {}, {"landmarks_override": 15}),
    "fixed/de_lm_emp": ({"use_empirical_variance": True}, {}, {}),
    "fixed/de_lm_emp_sv": ({"use_empirical_variance": True}, {"samples": True}, {}),
    "short/de_lm_sv": ({}, {"samples": True, "ls": 0.4}, {}),
    "exact/de_lm": ({}, {"ls": None}, {}),
    "exact/de_lm_sv": ({}, {"samples": True, "ls": None}, {}),
    "stock/de_lm": ({}, {"ls": "stock"}, {}),
    "stock/de_lm_sv": ({}, {"samples": True, "ls": "stock"}, {}),
}


def cells_of(ref, condition):
    """States, expression and samples of the cells of a condition."""
    here = ref["in/cond"] == condition
    return ref["in/X"][here], ref["in/Y"][here], ref["in/sample"][here]


@pytest.mark.parametrize("case", CASES)
def test_differential_expression_is_that_of_kompot(ref, case):
    init, fit, predict = (dict(part) for part in CASES[case])
    fit = {"ls": float(ref["in/ls_fixed"]), "landmarks": ref["in/landmarks"], **fit}
    if fit["landmarks"] is False:
        fit["landmarks"] = None
    if fit["ls"] == "stock":
        fit["ls"] = length_scale(ref["stock/da_lm/est0/nn_distances"])
    (x1, y1, s1), (x2, y2, s2) = (cells_of(ref, c) for c in (0, 1))
    if fit.pop("samples", False):
        fit |= {"condition1_sample_indices": s1, "condition2_sample_indices": s2}
    if "landmarks_override" in predict:
        predict["landmarks_override"] = ref["in/landmarks"][: predict["landmarks_override"]]
    # Batches that do not divide the cells.
    model = DifferentialExpression(batch_size=64, **init).fit(x1, y1, x2, y2, **fit)
    found = model.predict(ref["in/X_new"], compute_mahalanobis=True, **predict)
    gate = STOCK if case.startswith("stock") else EXACT
    names = [name.removeprefix(f"{case}/") for name in ref if name.startswith(f"{case}/")]
    assert {"condition1_std", "mahalanobis_distances", "neg_log10_ptp", "ls"} <= set(names)
    for name in names:
        actual = model.ls if name == "ls" else found[name]
        near(name, case, actual, ref[f"{case}/{name}"], gate)


def test_nearest_distances_are_exact_where_kompots_are(ref):
    near("nn", "exact", nearest_distances(ref["in/X"]), ref["exact/nn_all"], 1e-12)


def test_variance_over_samples_is_that_of_kompot(ref):
    x, y, samples = cells_of(ref, 0)
    given = {"sigma": 1.0, "ls": 3.0, "landmarks": ref["in/landmarks"]}
    made = SampleVarianceEstimator().fit(x, y, samples, estimator_kwargs=given)
    near("diag", "sve", made.predict(ref["in/X_new"]), ref["sve/function_diag"], EXACT)
    alone = made.predict(ref["in/X_new"][:50])
    near("standalone", "sve", alone, ref["sve/function_standalone_diag"], EXACT)
    few = SampleVarianceEstimator().fit(x, y[:, :5], samples, estimator_kwargs=given)
    full = few.predict(ref["in/landmarks"], diag=False)
    near("full", "sve", full, ref["sve/function_full_genes0_5"], EXACT)


def test_fdr_is_that_of_kompot(ref):
    found = compute_fdr(ref["fdr/real"], ref["fdr/null"])
    for name in ("mahalanobis", "pvalue", "local_fdr", "tail_fdr"):
        near(name, "fdr", found[name].to_numpy(), ref[f"fdr/{name}"], EXACT)
    np.testing.assert_array_equal(found["is_de"], ref["fdr/is_de"])


def test_null_genes_and_their_distances_are_those_of_kompot(ref):
    drawn = NullGenes.of(ref["in/Y"].shape[1], 80)
    np.testing.assert_array_equal(drawn.columns, ref["fdr/null_idx"])
    (x1, y1, _), (x2, y2, _) = (cells_of(ref, c) for c in (0, 1))
    model = DifferentialExpression()
    model.fit(x1, y1, x2, y2, ls=3.0, landmarks=ref["in/landmarks"], n_null_genes=80)
    near("real", "fdr", model.compute_mahalanobis_distances(), ref["fdr/real"], EXACT)
    near("null", "fdr", model.null_mahalanobis_distances, ref["fdr/null"], EXACT)
    found = model.compute_fdr()
    near("local_fdr", "fdr of fit", found["local_fdr"].to_numpy(), ref["fdr/local_fdr"], 1e-9)
    # The reference keeps the sums of the first 100 cells of condition 1.
    dealt, _ = drawn.dealt(y1, y2)
    near("sums", "fdr", dealt[:100].sum(axis=0), ref["fdr/null_expr1_colsum"], EXACT)
