"""Differential abundance against kompot 0.8.0: densities, changes, variances over samples.

Gates are relative to the largest value of each array. ``exact`` is kompot with exact distances to
nearest cells; ``stock`` is kompot as it is, whose approximate float32 distances are stored.
"""

import numpy as np
import pytest

from condrand.api.abundance import DifferentialAbundance
from condrand.gp.abundance import Abundance
from condrand.gp.density import Density, DensityPrior
from condrand.gp.density_samples import DensitySamples
from condrand.gp.dimension import chosen_rows, fractal_dimension
from condrand.gp.neighbours import nearest_distances
from references import near

EXACT, STOCK = 1e-9, 1e-5
OUTPUTS = (
    "log_density_condition1",
    "log_density_condition2",
    "log_fold_change",
    "log_fold_change_uncertainty",
    "log_fold_change_zscore",
    "neg_log10_fold_change_ptp",
)
# Whether landmarks are given; the length scale; sample variance; synchronized; thresholds.
CASES = {
    "da_full": (False, None, False, False, 1.0, 0.05),
    "da_lm": (True, None, False, False, 1.0, 0.05),
    "da_lm_sv": (True, None, True, False, 1.0, 0.05),
    "da_lm_sv_sync": (True, None, True, True, 1.0, 0.05),
    "da_ls1_sv": (True, 1.0, True, True, 0.5, 0.2),
}


def conditions(ref):
    return [ref["in/cond"] == c for c in (0, 1)]


def groups_of_cells(ref):
    """Cells of each density, in the order in which kompot fits them."""
    names = [f"c{c}s{s}" for c in (0, 1) for s in (0, 1, 2)]
    return [*conditions(ref), *(ref["in/sample"] == name for name in names)]


def arguments(ref, case):
    """Cells of both conditions, and keywords of fit."""
    at_landmarks, ls, sampled, sync, *_ = CASES[case]
    one, two = conditions(ref)
    keywords = {"ls": ls, "sync_parameters": sync, "optimizer": "lbfgs"}
    if at_landmarks:
        keywords["landmarks"] = ref["in/landmarks"]
    if sampled:
        keywords["condition1_sample_indices"] = ref["in/sample"][one]
        keywords["condition2_sample_indices"] = ref["in/sample"][two]
    return ref["in/X"][one], ref["in/X"][two], keywords


def fitted(ref, case, **changes):
    first, second, keywords = arguments(ref, case)
    threshold, ptp_threshold = CASES[case][4:]
    model = DifferentialAbundance(threshold, ptp_threshold)
    return model.fit(first, second, **{**keywords, **changes})


def densities_of(model) -> list[Density]:
    """In the order in which kompot fits them."""
    found = [model.density_predictor1, model.density_predictor2]
    for samples in (model.variance_predictor1, model.variance_predictor2):
        found += [] if samples is None else samples.densities
    return found


def check_densities(ref, group, densities, gate):
    for i, density in enumerate(densities):
        est = f"{group}/est{i}"
        assert density.iterations == ref[f"{est}/nit"]
        for name, actual in {
            "d": density.d,
            "mu": density.mu,
            "ls": density.inducing.length_scale,
            "loss": density.loss,
            "z": density.z,
            "z_std": density.z_std,
            "initial_value": density.start,
            "log_density_x": density.log_density,
        }.items():
            if f"{est}/{name}" in ref:
                near(name, est, actual, ref[f"{est}/{name}"], gate)


@pytest.mark.parametrize("case", CASES)
def test_changes_are_kompots_where_its_neighbours_are_exact(ref, case):
    found = fitted(ref, case).predict(ref["in/X_new"])
    for name in OUTPUTS:
        near(name, f"exact/{case}", found[name], ref[f"exact/{case}/{name}"], EXACT)
    expected = ref[f"exact/{case}/log_fold_change_direction"]
    assert found["log_fold_change_direction"].tolist() == expected.tolist()


def test_all_outputs_and_all_densities_of_the_reference_are_compared(ref):
    stored = {key.split("/")[2] for key in ref if key.startswith(("exact/da", "stock/da"))}
    assert {name for name in stored if not name.startswith("est")} == {
        *OUTPUTS,
        "log_fold_change_direction",
    }
    cases = {key.split("/")[1] for key in ref if key.startswith(("exact/da", "stock/da"))}
    assert cases == set(CASES)
    inside = {key.split("/")[3] for key in ref if "/da" in key and "/est" in key}
    assert inside == {
        *("nn_distances", "d", "mu", "ls", "loss", "nit"),
        *("z", "z_std", "initial_value", "log_density_x"),
    }


@pytest.mark.parametrize("case", CASES)
def test_every_density_is_kompots_to_the_number_of_its_iterations(ref, case):
    model = fitted(ref, case)
    expected = 8 if CASES[case][2] else 2
    assert len(densities_of(model)) == expected
    assert f"exact/{case}/est{expected}/nit" not in ref
    for i, at in enumerate(groups_of_cells(ref)[:expected]):
        est = f"exact/{case}/est{i}"
        near("nn", est, nearest_distances(ref["in/X"][at]), ref[f"{est}/nn_distances"], 1e-12)
    check_densities(ref, f"exact/{case}", densities_of(model), EXACT)


@pytest.mark.parametrize("case", ["da_lm", "da_lm_sv", "da_lm_sv_sync"])
def test_changes_are_those_of_stock_kompot_given_its_neighbours(ref, case):
    _, ls, sampled, sync, threshold, ptp_threshold = CASES[case]
    prior = DensityPrior(ref["in/landmarks"], ls=ls, optimizer="lbfgs")
    if sync:
        prior = prior.synchronized(ref["in/X"], ref["stock/nn_all"])
    rows = groups_of_cells(ref)[: 8 if sampled else 2]
    made = [
        prior.fit(ref["in/X"][at], ref[f"stock/{case}/est{i}/nn_distances"])
        for i, at in enumerate(rows)
    ]
    check_densities(ref, f"stock/{case}", made, STOCK)
    samples = (None, None)
    if sampled:
        samples = tuple(DensitySamples(list("abc"), made[i : i + 3]) for i in (2, 5))
    found = Abundance(tuple(made[:2]), samples).predict(
        ref["in/X_new"], threshold=threshold, ptp_threshold=ptp_threshold
    )
    values = (found.log_density1, found.log_density2, found.log_fold_change)
    values += (found.uncertainty, found.z, found.neg_log10_ptp)
    for name, value in zip(OUTPUTS, values, strict=True):
        near(name, f"stock/{case}", value, ref[f"stock/{case}/{name}"], STOCK)
    expected = ref[f"stock/{case}/log_fold_change_direction"]
    assert found.direction.tolist() == expected.tolist()


@pytest.mark.parametrize("case", CASES)
def test_newton_goes_beyond_kompot_and_stays_where_kompot_was_heading(ref, case):
    model = fitted(ref, case, optimizer="newton")
    for i, density in enumerate(densities_of(model)):
        stopped = ref[f"exact/{case}/est{i}/loss"]
        # kompot stops where a step gains 2e-9 of the loss; that many steps were left.
        assert stopped - 1e-4 < density.loss < stopped + 1e-9
        assert density.iterations <= 7
    found = model.predict(ref["in/X_new"])
    for name in OUTPUTS:
        near(name, f"newton/{case}", found[name], ref[f"exact/{case}/{name}"], 2e-3)
    expected = ref[f"exact/{case}/log_fold_change_direction"]
    assert found["log_fold_change_direction"].tolist() == expected.tolist()


def test_variances_over_samples_are_kompots(ref):
    one, _ = conditions(ref)
    prior = DensityPrior(ref["in/landmarks"], optimizer="lbfgs")
    found = DensitySamples.of(ref["in/X"][one], ref["in/sample"][one], prior)
    diag, full = ref["sve/density_diag"], ref["sve/density_full"]
    near("density_diag", "sve", found.variance(ref["in/X_new"]), diag, EXACT)
    near("density_full", "sve", found.variance(ref["in/landmarks"], False), full, EXACT)


def test_fractal_dimensions_are_kompots_with_the_cells_that_jax_draws(ref):
    one, two = (ref["in/X"][at] for at in conditions(ref))
    found = [fractal_dimension(cells) for cells in (one, two, ref["in/X"])]
    for group in ("exact", "stock"):
        near("d", group, found, ref[f"{group}/d_fractal"], 1e-14)


def test_rows_drawn_by_threefry_are_distinct_and_depend_on_the_seed():
    drawn = chosen_rows(10_000, 500, 432)
    assert np.unique(drawn).size == 500
    assert (0 <= drawn.min()) & (drawn.max() < 10_000)
    assert np.array_equal(drawn, chosen_rows(10_000, 500, 432))
    assert not np.array_equal(drawn, chosen_rows(10_000, 500, 433))
