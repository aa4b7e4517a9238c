"""Engine dex and its groups: scipy, brute force, and the same bits whichever way."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

from condrand.engines import dex
from condrand.fdr import fdr_per_target
from condrand.groups import Control, at_most
from condrand.tables import sort_effects
from condrand.twosample.control import ControlTables
from condrand.twosample.rows import Scaling

N_FEATURES = 300
SIZES = {"a": 60, "b": 40, "none": 0, "one": 1, "c": 49}
N_CONTROL = 50


def cells_of() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Counts of control and of targets, and where each target begins; 200 cells."""
    random = np.random.default_rng(3)
    n = N_CONTROL + sum(SIZES.values())
    values = random.poisson(random.gamma(0.7, 2.0, N_FEATURES), (n, N_FEATURES)).astype(float)
    values[:, 0] = 0.0
    values[:, 1] = 4.0
    values[:N_CONTROL, 2] = 0.0
    values[N_CONTROL:, 3] = 0.0
    ptr = np.concatenate([[0], np.cumsum(list(SIZES.values()))])
    return values[:N_CONTROL], values[N_CONTROL:], ptr


def sums_of(
    measure="log1p", within=None, columns=slice(None), units=slice(None), threads=1, needs=None
):
    control, target, ptr = cells_of()
    everyone = np.vstack([control, target])
    compared = control if within is None else everyone
    counts = {"counts": measure != "logged", "threads": threads, "needs": needs}
    tables = ControlTables.of(
        np.ascontiguousarray(compared[:, columns]), None, Scaling(measure), **counts
    )
    starts = np.arange(ptr.size - 1)[units]
    order = np.concatenate([np.arange(ptr[g], ptr[g + 1]) for g in starts])
    edges = np.concatenate([[0], np.cumsum(np.diff(ptr)[units])])
    flags = np.zeros(starts.size, bool) if within is None else np.asarray(within)[units]
    rows = np.ascontiguousarray(target[:, columns])
    return dex.sums(tables, rows, edges, flags, order=order, threads=threads)


def assert_same(one: dict, other: dict):
    assert one.keys() == other.keys()
    for name in one:
        np.testing.assert_array_equal(one[name], other[name], err_msg=name)


# Sums that a test needs


@pytest.mark.parametrize("geometric", [True, False])
@pytest.mark.parametrize("test", dex.TESTS)
@pytest.mark.parametrize("within", [None, [True] * len(SIZES)])
def test_the_sums_that_a_test_needs_give_the_results_of_all_sums(test, geometric, within):
    settings = dex.Settings(test, geometric_mean=geometric)
    whole = dex.results(sums_of(within=within), settings)
    some = sums_of(within=within, needs=settings.needs)
    stored = some.as_arrays()
    assert ("groups_two_u" in stored) == ("control_n_negative" in stored) == (test == "mwu")
    assert ("groups_squares" in stored) == (test == "welch")
    assert ("groups_natural" in stored) == (not geometric)
    halves = [some.of(np.arange(2)), some.of(np.arange(2, len(SIZES)))]
    for sums in (some, dex.Sums.from_arrays(stored), dex.Sums.of_units(halves)):
        found = dex.results(sums, settings)
        assert np.all(np.isnan(found["auroc"])) or test == "mwu"
        for name in found.keys() - ({"auroc"} if test == "welch" else set()):
            # Welch's sums of counts are added cell by cell, not count by count.
            np.testing.assert_allclose(
                found[name], whole[name], rtol=1e-9, atol=1e-12, err_msg=name
            )


# Against scipy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("measure", ["log1p", "logged", "plain"])
@pytest.mark.parametrize("test", ["mwu", "welch"])
@pytest.mark.parametrize("side", ["control", "rest"])
def test_every_p_is_that_of_scipy_and_every_mean_that_of_numpy(measure, test, side):
    control, target, ptr = cells_of()
    within = None if side == "control" else [True] * len(SIZES)
    settings = dex.Settings(test, measure)
    found = dex.results(sums_of(measure, within), settings)
    scale = np.log1p if measure == "log1p" else np.array
    natural = np.expm1 if measure == "logged" else np.array
    for g, n in enumerate(SIZES.values()):
        x = target[ptr[g] : ptr[g + 1]]
        y = control
        if within is not None:
            y = np.vstack([control, np.delete(target, np.arange(ptr[g], ptr[g + 1]), axis=0)])
        assert found["n_target"][g] == n and found["n_control"][g] == len(y)
        p, statistic = found["p_value"][g], found["statistic"][g]
        if n == 0 or (n == 1 and test == "welch"):
            assert np.isnan(p).all() and np.isnan(statistic).all()
            continue
        if test == "mwu":
            expected = mannwhitneyu(x, y, method="asymptotic")
            tested = np.ptp(np.vstack([x, y]), axis=0) > 0
        else:
            expected = ttest_ind(scale(x), scale(y), equal_var=False)
            tested = (np.ptp(x, axis=0) > 0) | (np.ptp(y, axis=0) > 0)
            np.testing.assert_allclose(found["df"][g, tested], expected.df[tested], rtol=1e-9)
        assert 200 < tested.sum() < N_FEATURES
        np.testing.assert_array_equal(~np.isnan(p), tested)
        np.testing.assert_allclose(
            statistic[tested], expected.statistic[tested], rtol=1e-10, atol=1e-11
        )
        log_p = np.log(expected.pvalue[tested])
        np.testing.assert_allclose(np.log(p[tested]), log_p, rtol=1e-10, atol=1e-11)
        np.testing.assert_allclose(
            found["neg_log10_p"][g, tested], -log_p / np.log(10), rtol=1e-10, atol=1e-11
        )
        for name, part in (("target", x), ("control", y)):
            mean = natural(part).mean(axis=0)
            if measure != "plain":
                mean = np.expm1(scale(part).mean(axis=0))
            np.testing.assert_allclose(found[f"{name}_mean"][g], mean, rtol=1e-11, atol=1e-14)
            np.testing.assert_array_equal(found[f"{name}_fraction"][g], (part > 0).mean(axis=0))
        u = mannwhitneyu(x, y).statistic
        np.testing.assert_allclose(found["auroc"][g], u / (n * len(y)), rtol=1e-14)


def test_arithmetic_means_are_means_of_natural_values():
    control, target, ptr = cells_of()
    found = dex.results(sums_of(), dex.Settings(geometric_mean=False))
    np.testing.assert_allclose(found["target_mean"][0], target[: ptr[1]].mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found["control_mean"][0], control.mean(axis=0), rtol=1e-12)
    logged = dex.results(sums_of("logged"), dex.Settings(measure="logged", geometric_mean=False))
    np.testing.assert_allclose(
        logged["target_mean"][0], np.expm1(target[: ptr[1]]).mean(axis=0), rtol=1e-12
    )


@pytest.mark.parametrize("epsilon", [1e-9, 0.5])
def test_changes_are_of_means_plus_epsilon(epsilon):
    found = dex.results(sums_of(), dex.Settings(epsilon=epsilon))
    t, c = found["target_mean"], found["control_mean"]
    with np.errstate(divide="ignore", invalid="ignore"):
        expected = np.log2((t + epsilon) / (c + epsilon))
    np.testing.assert_allclose(found["log2_fold_change"], expected, rtol=1e-12, atol=1e-14)
    np.testing.assert_allclose(found["percent_change"], (t - c) / (c + epsilon), rtol=1e-12)
    if epsilon == 1e-9:
        assert found["log2_fold_change"][0, 2] > 25 and found["log2_fold_change"][0, 3] < -25
    else:
        assert np.nanmax(np.abs(found["log2_fold_change"])) < 8


def test_negative_means_have_no_fold_change():
    random = np.random.default_rng(0)
    values = random.normal(-3.0, 1.0, (30, 4))
    tables = ControlTables.of(values[:10], None, Scaling("plain"))
    sums = dex.sums(tables, values[10:], np.array([0, 20]), np.zeros(1, bool))
    found = dex.results(sums, dex.Settings(measure="plain"))
    assert np.isnan(found["log2_fold_change"]).all() and np.isnan(found["percent_change"]).all()
    assert np.isfinite(found["p_value"]).all()


@pytest.mark.parametrize("most", [0, 19, 20, 1000])
def test_exact_p_is_that_of_scipy_where_groups_are_small_and_do_not_tie(most):
    random = np.random.default_rng(5)
    values = random.normal(size=(20, 8)) ** 2
    values[3, 0] = values[15, 0]
    tables = ControlTables.of(values[:12], None, Scaling("plain"))
    sums = dex.sums(tables, values[12:], np.array([0, 8]), np.zeros(1, bool))
    found = dex.results(sums, dex.Settings(measure="plain", exact_max_cells=most))
    how = "exact" if most >= 20 else "asymptotic"
    sources = np.array(dex.SOURCES)[found["p_source"][0]]
    assert sources[0] == "asymptotic" and set(sources[1:]) == {how}
    expected = mannwhitneyu(values[12:], values[:12], method=how).pvalue
    np.testing.assert_allclose(found["p_value"][0, 1:], expected[1:], rtol=1e-12)


def test_without_continuity_correction_p_is_that_of_scipy():
    control, target, ptr = cells_of()
    found = dex.results(sums_of(), dex.Settings(continuity=False))
    expected = mannwhitneyu(
        target[: ptr[1], 4:], control[:, 4:], method="asymptotic", use_continuity=False
    ).pvalue
    got = found["p_value"][0, 4:]
    known = ~np.isnan(got)
    assert known.sum() > 200
    np.testing.assert_allclose(got[known], expected[known], rtol=1e-10)


def test_p_that_underflows_is_still_ranked():
    control, target = np.zeros((4000, 2)), np.ones((4000, 2))
    target[0, 1] = 0.0
    tables = ControlTables.of(control)
    sums = dex.sums(tables, target, np.array([0, 4000]), np.zeros(1, bool))
    found = dex.results(sums, dex.Settings())
    np.testing.assert_array_equal(found["p_value"], 0.0)
    assert found["neg_log10_p"][0, 0] > found["neg_log10_p"][0, 1] > 1000


# Notes


def notes(found, unit):
    return [dex.NOTES[code] for code in found["note"][unit, :5]]


def test_every_row_says_why_it_is_not_tested_or_seen_on_one_side_only():
    seen = ["constant", "constant", "seen in target cells alone", "seen in control cells alone"]
    found = dex.results(sums_of(), dex.Settings())
    assert notes(found, 0) == [*seen, ""]
    assert set(notes(found, 2)) == {"no target cell"}
    # One cell: two values of a group of one and a constant control still differ.
    assert notes(found, 3)[0] == "constant"
    found = dex.results(sums_of(), dex.Settings("welch"))
    assert notes(found, 0) == [*seen, ""]
    assert set(notes(found, 3)) == {"fewer than two cells"}


def test_without_control_cells_nothing_is_tested():
    _, target, _ = cells_of()
    for rows, within in ((target[:0], False), (target[:60], True)):
        tables = ControlTables.of(rows)
        sums = dex.sums(tables, target, np.array([0, 60]), np.array([within]))
        for test in dex.TESTS:
            found = dex.results(sums, dex.Settings(test))
            assert np.isnan(found["p_value"]).all() and found["n_control"][0] == 0
            assert set(notes(found, 0)) == {"no control cell"}


def test_a_rest_without_a_value_has_mean_0_not_rounding():
    values = np.zeros((30, 1))
    values[:10, 0] = np.random.default_rng(0).gamma(2.0, 1e6, 10)
    tables = ControlTables.of(values, None, Scaling("log1p"))
    sums = dex.sums(tables, values[:10], np.array([0, 10]), np.array([True]))
    for mean in (True, False):
        found = dex.results(sums, dex.Settings(geometric_mean=mean))
        assert found["control_mean"][0, 0] == 0.0
        assert dex.NOTES[found["note"][0, 0]] == "seen in target cells alone"


# The same bits whichever way


@pytest.mark.parametrize("test", dex.TESTS)
@pytest.mark.parametrize("size", [1, 7, 128, N_FEATURES - 1])
def test_blocks_of_features_batches_of_units_and_files_do_not_change_the_bits(test, size):
    within = [True, False, True, True, False]
    settings = dex.Settings(test)
    whole = dex.results(sums_of(within=within), settings)
    blocks = []
    for start in range(0, N_FEATURES, size):
        columns = slice(start, start + size)
        halves = [
            sums_of(within=within, columns=columns, units=units)
            for units in (slice(0, 2), slice(2, None))
        ]
        arrays = dex.Sums.of_units(halves).as_arrays()
        blocks.append(dex.Sums.from_arrays({k: np.array(v) for k, v in arrays.items()}))
        if size == 1 and start == 20:
            break
    joined = dex.Sums.of_features(blocks)
    n = joined.shape[1]
    found = dex.results(joined, settings)
    assert_same(
        {k: v[:, :n] if v.ndim == 2 else v for k, v in whole.items()},
        found,
    )


def test_threads_and_steps_do_not_change_the_bits(monkeypatch):
    within = [True, False, True, False, True]
    whole = dex.results(sums_of(within=within), dex.Settings())
    monkeypatch.setattr(dex, "_TESTS_AT_A_TIME", 2 * N_FEATURES)
    assert_same(whole, dex.results(sums_of(within=within, threads=3), dex.Settings(), threads=3))
    monkeypatch.setattr(dex, "_TESTS_AT_A_TIME", 1)
    assert_same(whole, dex.results(sums_of(within=within), dex.Settings()))


def test_sums_of_other_cells_are_not_joined():
    one, other = sums_of(columns=slice(0, 5)), sums_of(columns=slice(5, 9), units=slice(0, 2))
    with pytest.raises(ValueError, match="not of the same cells"):
        dex.Sums.of_features([one, other])
    wrong = replace(one, control=replace(one.control, n_cells=7))
    with pytest.raises(ValueError, match="same control"):
        dex.Sums.of_units([one, wrong])
    with pytest.raises(ValueError, match="not of the same cells"):
        dex.Sums.of_features([one, wrong])


# Tables


def table(test="mwu", measure="log1p"):
    settings = dex.Settings(test, measure)
    features = [f"g{i}" for i in range(N_FEATURES)]
    units = ["b", "a", "none", "one", "c"]
    sums = sums_of(measure)
    made = dex.effects("s", "dex", units, features, sums, settings, "counts per 10,000")
    return made, dex.results(sums, settings), units, features


@pytest.mark.parametrize("test", dex.TESTS)
def test_the_table_keeps_the_contract_and_its_own_columns_in_order(test):
    made, found, units, features = table(test)
    assert list(made.columns[13:]) == [
        *("fdr_target", "log2_fold_change", "percent_change", "target_mean", "control_mean"),
        *("target_fraction", "control_fraction", "auroc", "df", "note"),
    ]
    assert made["target"].tolist() == list(np.repeat(units, N_FEATURES))
    assert made["feature"].tolist() == features * len(units)
    assert made["n_target"].tolist() == list(np.repeat(found["n_target"], N_FEATURES))
    for name in ("p_value", "statistic", "auroc", "target_fraction", "control_fraction"):
        np.testing.assert_array_equal(made[name], found[name].ravel())
    np.testing.assert_array_equal(made["effect"], found["log2_fold_change"].ravel())
    assert made["df"].isna().all() == (test == "mwu")
    scales = {"log2 fold change of geometric means, counts per 10,000"}
    assert set(made["effect_scale"]) == scales
    assert made["note"].tolist() == [dex.NOTES[code] for code in found["note"].ravel()]


def test_plain_values_have_differences_of_means():
    made, found, _, _ = table(measure="plain")
    difference = found["target_mean"] - found["control_mean"]
    np.testing.assert_array_equal(made["effect"], difference.ravel())
    assert set(made["effect_scale"]) == {"difference of means, counts per 10,000"}


def test_rows_of_categories_sort_as_those_of_text():
    made, _, units, features = table()
    shuffled = made.sample(frac=1, random_state=0, ignore_index=True)
    plain = shuffled.astype({"target": str, "feature": str})
    one, other = sort_effects(shuffled, features), sort_effects(plain, features)
    assert one["target"].tolist() == other["target"].tolist() == sorted(other["target"])
    assert one["feature"].tolist() == features * len(units)


def test_fdr_within_targets_is_that_of_scipy():
    made, _, _, _ = table()
    made = made.sample(frac=1, random_state=1, ignore_index=True)
    made["fdr_target"] = fdr_per_target(made["p_value"], made["target"])
    for target, rows in made.groupby("target", observed=True):
        p = rows["p_value"]
        if target == "none":
            assert rows["fdr_target"].isna().all()
            continue
        tested = p.notna()
        assert 0 < tested.sum() < N_FEATURES
        expected = false_discovery_control(p[tested])
        np.testing.assert_allclose(rows["fdr_target"][tested], expected, rtol=1e-12)
        assert rows["fdr_target"][~tested].isna().all()


def test_an_empty_table_has_no_fdr():
    empty = pd.DataFrame({"target": pd.Series([], dtype=str), "p_value": np.empty(0)})
    assert fdr_per_target(empty["p_value"], empty["target"]).shape == (0,)


# Groups


def test_a_sample_depends_on_seed_and_name_and_grows_by_adding_cells():
    cells = np.sort(np.random.default_rng(0).choice(5000, 400, replace=False))
    sample = at_most(cells, 50, 1, "a")
    assert sample.size == 50 and np.all(np.diff(sample) > 0) and np.isin(sample, cells).all()
    np.testing.assert_array_equal(at_most(cells, 50, 1, "a"), sample)
    assert np.isin(sample, at_most(cells, 51, 1, "a")).all()
    # A cell keeps its random word when others of the group go.
    np.testing.assert_array_equal(
        at_most(np.setdiff1d(cells, np.setdiff1d(cells, sample)[:100]), 50, 1, "a"), sample
    )
    assert not np.array_equal(at_most(cells, 50, 2, "a"), sample)
    assert not np.array_equal(at_most(cells, 50, 1, "b"), sample)
    for most in (None, 400, 401):
        np.testing.assert_array_equal(at_most(cells, most, 1, "a"), cells)


def test_samples_are_uniform():
    cells = np.arange(10, 30)
    times = np.zeros(30)
    for seed in range(2000):
        times[at_most(cells, 5, seed, "a")] += 1
    # Each is Binomial(2000, 1/4), standard deviation 19.4; 5 of those are rare enough.
    assert np.all(np.abs(times[10:] - 500) < 5 * 19.4)


GROUPS = {
    "A": np.arange(0, 10),
    "B": np.arange(10, 20),
    "NTC": np.arange(20, 30),
}
IS_NTC = np.isin(np.arange(40), GROUPS["NTC"])
IS_PERTURBED = np.arange(40) < 20


@pytest.mark.parametrize(
    ("name", "cells"),
    [("ntc", range(20, 30)), ("rest", range(40)), ("perturbed", range(20)), ("B", range(10, 20))],
)
def test_words_and_names_stand_for_cells(name, cells):
    control = Control.of(name, GROUPS, IS_NTC, IS_PERTURBED)
    np.testing.assert_array_equal(control.cells, cells)
    compared, within = control.compared("A", GROUPS["A"])
    np.testing.assert_array_equal(compared, GROUPS["A"])
    assert within == (name in ("rest", "perturbed"))


def test_a_group_named_like_a_word_comes_before_the_word():
    groups = {**GROUPS, "rest": np.array([3, 4]), "ntc": np.array([7])}
    for name in ("rest", "ntc"):
        control = Control.of(name, groups, IS_NTC, IS_PERTURBED)
        np.testing.assert_array_equal(control.cells, groups[name])


def test_cells_that_are_not_used_are_no_rest():
    control = Control.of("rest", GROUPS, IS_NTC, IS_PERTURBED, is_used=np.arange(40) % 2 == 0)
    np.testing.assert_array_equal(control.cells, np.arange(0, 40, 2))


def test_a_group_partly_within_the_control_and_an_unknown_control_are_refused():
    control = Control.of("B", GROUPS, IS_NTC, IS_PERTURBED)
    with pytest.raises(ValueError, match="2 of the 3 cells of 'X'"):
        control.compared("X", np.array([9, 10, 11]))
    with pytest.raises(ValueError, match="no group 'Z'"):
        Control.of("Z", GROUPS, IS_NTC, IS_PERTURBED)


def test_a_sampled_rest_has_no_cell_of_the_group_but_those_compared():
    groups = {**GROUPS, "AB": np.arange(5, 15)}
    control = Control.of("rest", groups, IS_NTC, IS_PERTURBED, most=4, seed=2)
    for name in ("A", "B", "NTC"):
        alone = at_most(groups[name], 4, 2, name)
        assert np.isin(alone, control.cells).all()
        compared, within = control.compared(name, groups[name])
        assert within and np.isin(alone, compared).all()
        np.testing.assert_array_equal(compared, np.intersect1d(control.cells, groups[name]))
    assert np.count_nonzero(control.cells >= 30) == 4
    assert control.cells.size < 24


def test_a_sampled_control_does_not_depend_on_other_groups():
    one = Control.of("B", GROUPS, IS_NTC, IS_PERTURBED, most=3, seed=1)
    other = Control.of("B", {"B": GROUPS["B"]}, IS_NTC, IS_PERTURBED, most=3, seed=1)
    np.testing.assert_array_equal(one.cells, other.cells)
    assert one.cells.size == 3
    np.testing.assert_array_equal(
        one.compared("A", GROUPS["A"])[0], at_most(GROUPS["A"], 3, 1, "A")
    )
