"""dex() of a notebook: scipy, every form of input, every message."""

import sys
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

import condrand
from condrand.api import dex as dex_function
from condrand.groups import at_most

N_CELLS, N_FEATURES = 200, 300
COLUMNS = [
    *("feature", "target_mean", "ref_mean", "target_n", "ref_n", "fold_change"),
    *("percent_change", "p_value", "statistic", "fdr", "target"),
    *("neg_log10_p", "fdr_all", "auroc", "target_fraction", "ref_fraction", "p_source", "note"),
]
LABELS = np.random.default_rng(0).permutation(
    np.repeat(["NTC", "A", "B", "C", "one", ""], [50, 60, 40, 39, 1, 10])
)


def counts_of(dtype=np.float32) -> np.ndarray:
    random = np.random.default_rng(1)
    values = random.poisson(random.gamma(0.7, 2.0, N_FEATURES), (N_CELLS, N_FEATURES))
    values[:, 0] = 0
    values[LABELS == "NTC", 1] = 0
    return values.astype(dtype)


def screen(matrix=None, **parts) -> ad.AnnData:
    group = pd.Categorical(np.where(LABELS == "", None, LABELS))
    cells = [f"cell{i}" for i in range(N_CELLS)]
    matrix = sp.csr_matrix(counts_of()) if matrix is None else matrix
    return ad.AnnData(
        matrix,
        obs=pd.DataFrame({"group": group, "size": np.arange(N_CELLS) + 500.0}, index=cells),
        var=pd.DataFrame(index=[f"g{i}" for i in range(matrix.shape[1])]),
        **parts,
    )


def assert_same(one: pd.DataFrame, other: pd.DataFrame) -> None:
    pd.testing.assert_frame_equal(one, other, check_exact=True)


def control_mask(control: str, target: str) -> np.ndarray:
    return {
        "ntc": LABELS == "NTC",
        "A": LABELS == "A",
        "rest": LABELS != target,
        "perturbed": (LABELS != target) & ~np.isin(LABELS, ["NTC", ""]),
    }[control]


def check_p(rows: pd.DataFrame, expected, rtol=1e-10) -> None:
    tested = rows["p_value"].notna().to_numpy()
    assert tested.sum() > 0.6 * len(rows)
    np.testing.assert_allclose(
        rows["statistic"][tested], expected.statistic[tested], rtol=rtol, atol=1e-11
    )
    log_p = np.log(expected.pvalue[tested])
    np.testing.assert_allclose(np.log(rows["p_value"][tested]), log_p, rtol=rtol, atol=1e-11)


# Against scipy


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("test", ["mwu", "ttest"])
@pytest.mark.parametrize("control", ["ntc", "A", "rest", "perturbed"])
def test_every_p_is_that_of_scipy_on_normalized_counts(control, test):
    found = condrand.dex(screen(), "group", control=control, test=test, target=["C", "B", "one"])
    assert list(found.columns) == COLUMNS
    assert found["target"].tolist() == list(np.repeat(["C", "B", "one"], N_FEATURES))
    assert found["feature"].tolist() == [f"g{i}" for i in range(N_FEATURES)] * 3
    fractions = counts_of(float) / counts_of(float).sum(axis=1, keepdims=True)
    logged = np.log1p(fractions * 1e4)
    for target in ["C", "B"] + ["one"] * (test == "mwu"):
        rows = found[found["target"] == target]
        x, y = LABELS == target, control_mask(control, target)
        if test == "mwu":
            expected = mannwhitneyu(fractions[x], fractions[y], method="asymptotic")
        else:
            expected = ttest_ind(logged[x], logged[y], equal_var=False)
        check_p(rows, expected)
        assert set(rows["target_n"]) == {x.sum()} and set(rows["ref_n"]) == {y.sum()}
        for name, of in (("target", x), ("ref", y)):
            mean = np.expm1(logged[of].mean(axis=0))
            np.testing.assert_allclose(rows[f"{name}_mean"], mean, rtol=1e-11, atol=1e-12)
            np.testing.assert_array_equal(rows[f"{name}_fraction"], (logged[of] > 0).mean(axis=0))
    if test == "ttest":
        assert set(found.loc[found["target"] == "one", "note"]) == {"fewer than two cells"}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("transform", ["logged", "counts", "none"])
def test_other_transforms_take_values_as_they_are(transform):
    found = condrand.dex(
        screen(), "group", "A", transform=transform, test="ttest", geometric_mean=False
    )
    values = counts_of(float)
    scaled = np.log1p(values) if transform == "counts" else values
    natural = np.expm1(values) if transform == "logged" else values
    check_p(found, ttest_ind(scaled[LABELS == "A"], scaled[LABELS == "NTC"], equal_var=False))
    np.testing.assert_allclose(
        found["target_mean"], natural[LABELS == "A"].mean(axis=0), rtol=1e-11
    )


def test_dense_values_are_taken_as_they_are_and_sparse_ones_normalized():
    dense = screen(counts_of())
    assert_same(condrand.dex(dense, "group"), condrand.dex(dense, "group", transform="none"))
    sparse = screen()
    assert_same(
        condrand.dex(sparse, "group"), condrand.dex(sparse, "group", transform="log_normalize")
    )
    assert_same(
        condrand.dex(sparse, "group"), condrand.dex(dense, "group", transform="log_normalize")
    )


def test_fdr_is_within_targets_and_over_all():
    found = condrand.dex(screen(), "group", transform="counts")
    assert list(found["target"].cat.categories) == ["A", "B", "C", "one"]
    tested = found["p_value"].notna()
    assert found.loc[~tested, ["fdr", "fdr_all"]].isna().all(axis=None)
    for _, rows in found[tested].groupby("target", observed=True):
        expected = false_discovery_control(rows["p_value"])
        np.testing.assert_allclose(rows["fdr"], expected, rtol=1e-12)
    expected = false_discovery_control(found.loc[tested, "p_value"])
    np.testing.assert_allclose(found.loc[tested, "fdr_all"], expected, rtol=1e-12)


def test_a_feature_without_control_counts_is_marked():
    found = condrand.dex(screen(), "group", "A").iloc[:2]
    assert found["note"].tolist() == ["constant", "seen in target cells alone"]
    assert found["fold_change"].iloc[1] > 25


def test_true_ties_are_kept_unless_rounded_as_peers_do():
    # 1/3 of one library and 2/6 of another are the same fraction.
    random = np.random.default_rng(2)
    values = random.integers(0, 3, (N_CELLS, 40)).astype(np.float32)
    factor = random.integers(1, 500, N_CELLS)
    values *= factor[:, None]
    library = 311.0 * factor
    adata = screen(sp.csr_matrix(values))
    # So small a sum that the logarithm does not round the breaks away again.
    common = {"control": "ntc", "library_size": library, "target_sum": 10.0}
    exact = condrand.dex(adata, "group", "A", **common)
    rounded = condrand.dex(adata, "group", "A", ties="rounded", **common)
    a, ntc = LABELS == "A", LABELS == "NTC"
    plain = values / factor[:, None]
    check_p(exact, mannwhitneyu(plain[a], plain[ntc], method="asymptotic"))
    peers = np.log1p(values.astype(float) * (10.0 / library)[:, None])
    check_p(rounded, mannwhitneyu(peers[a], peers[ntc], method="asymptotic"))
    assert (exact["statistic"] != rounded["statistic"]).any()
    np.testing.assert_allclose(exact["target_mean"], rounded["target_mean"], rtol=1e-10)


def test_libraries_may_be_a_column_or_an_array():
    one = condrand.dex(screen(), "group", library_size="size")
    assert_same(one, condrand.dex(screen(), "group", library_size=np.arange(N_CELLS) + 500.0))
    assert not one["target_mean"].equals(condrand.dex(screen(), "group")["target_mean"])


def test_small_groups_have_exact_p_on_demand():
    values = np.random.default_rng(0).normal(size=(N_CELLS, 6))
    found = condrand.dex(screen(values), "group", "A", exact_max_cells=110)
    assert set(found["p_source"]) == {"exact"}
    expected = mannwhitneyu(values[LABELS == "A"], values[LABELS == "NTC"], method="exact")
    np.testing.assert_allclose(found["p_value"], expected.pvalue, rtol=1e-9)


# Every form of input


@pytest.mark.parametrize("transform", ["log_normalize", "counts", "logged"])
def test_form_type_and_explicit_zeros_do_not_change_the_bits(transform):
    expected = condrand.dex(screen(), "group", transform=transform)
    values = counts_of()
    zeros = sp.csr_matrix(np.ones_like(values))
    zeros.data[:] = values.ravel()
    assert zeros.nnz == values.size
    twice = sp.csr_matrix(values)
    halves = sp.csr_matrix(
        (
            np.repeat(twice.data / 2, 2),
            np.repeat(twice.indices, 2),
            twice.indptr * 2,
        ),
        shape=twice.shape,
    )
    forms = [values, sp.csc_matrix(values), zeros, halves, np.asfortranarray(values)]
    forms += [sp.csr_matrix(values.astype(t)) for t in (np.float64, np.int32, np.int64, np.uint8)]
    for form in forms:
        assert_same(condrand.dex(screen(form), "group", transform=transform), expected)
    assert halves.nnz == 2 * twice.nnz


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("control", ["ntc", "rest"])
@pytest.mark.parametrize("transform", ["log_normalize", "none"])
def test_a_file_gives_the_bits_of_memory_in_any_memory(tmp_path, form, control, transform):
    adata = screen(form(counts_of()), layers={"other": sp.csr_matrix(counts_of() * 2)})
    common = {"control": control, "transform": transform}
    expected = condrand.dex(adata, "group", **common)
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    backed = ad.read_h5ad(path, backed="r")
    for memory in (2**31, 200_000, 50_000, 1_000):
        assert_same(condrand.dex(path, "group", memory=memory, **common), expected)
        assert_same(condrand.dex(backed, "group", memory=memory, **common), expected)
        assert_same(condrand.dex(adata, "group", memory=memory, **common), expected)
    other = condrand.dex(adata, "group", feature_space="other", **common)
    assert_same(condrand.dex(path, "group", feature_space="layers/other", **common), other)


@pytest.mark.parametrize("transform", ["log_normalize", "counts"])
def test_threads_do_not_change_the_bits(transform):
    one = condrand.dex(screen(), "group", threads=1, transform=transform)
    assert_same(condrand.dex(screen(), "group", threads=2, transform=transform), one)
    assert_same(condrand.dex(screen(), "group", threads=0, transform=transform), one)


@pytest.mark.parametrize("ties", ["exact", "rounded"])
def test_batches_of_targets_do_not_change_the_bits(ties, monkeypatch):
    whole = condrand.dex(screen(), "group", ties=ties)
    monkeypatch.setattr(sys.modules["condrand.api.expression"], "_TESTS_AT_A_TIME", 1)
    assert_same(condrand.dex(screen(), "group", ties=ties), whole)


def test_a_target_does_not_depend_on_the_others():
    whole = condrand.dex(screen(), "group")
    alone = condrand.dex(screen(), "group", "B")
    rows = whole[whole["target"] == "B"].reset_index(drop=True)
    for name in set(COLUMNS) - {"target", "fdr_all"}:
        pd.testing.assert_series_equal(rows[name], alone[name], check_exact=True)


def test_raw_obsm_and_layers_are_feature_spaces(tmp_path):
    usage = np.random.default_rng(0).random((N_CELLS, 3))
    table = pd.DataFrame(usage, columns=["p", "q", "r"], index=screen().obs_names)
    adata = screen(obsm={"usage": usage, "named": table}, layers={"twice": counts_of() * 2})
    adata.raw = screen(sp.csr_matrix(counts_of()[:, :7]))
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    for key, features in [
        ("usage", ["usage_0", "usage_1", "usage_2"]),
        ("obsm/named", ["p", "q", "r"]),
        ("raw", [f"g{i}" for i in range(7)]),
        ("twice", [f"g{i}" for i in range(N_FEATURES)]),
    ]:
        found = condrand.dex(adata, "group", "A", feature_space=key)
        assert found["feature"].tolist() == features
        assert_same(condrand.dex(path, "group", "A", feature_space=key), found)
    expected = mannwhitneyu(usage[LABELS == "A"], usage[LABELS == "NTC"], method="asymptotic")
    check_p(condrand.dex(adata, "group", "A", feature_space="usage"), expected)


def test_the_input_is_left_alone():
    adata = screen()
    before = adata.copy()
    for control in ("ntc", "rest"):
        for ties in ("exact", "rounded"):
            condrand.dex(adata, "group", control=control, ties=ties, max_records=20)
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)


# Samples


def test_a_sample_is_that_of_groups_and_does_not_depend_on_other_targets():
    common = {"max_records": 20, "seed": 4, "transform": "none"}
    whole = condrand.dex(screen(), "group", **common)
    assert_same(condrand.dex(screen(), "group", **common), whole)
    alone = condrand.dex(screen(), "group", ["B"], **common)
    rows = whole[whole["target"] == "B"].reset_index(drop=True)
    np.testing.assert_array_equal(rows["p_value"], alone["p_value"])
    assert set(alone["target_n"]) == {20} and set(alone["ref_n"]) == {20}
    cells = at_most(np.flatnonzero(LABELS == "B"), 20, 4, "B")
    np.testing.assert_allclose(alone["target_mean"], counts_of(float)[cells].mean(axis=0))
    other = condrand.dex(screen(), "group", ["B"], **{**common, "seed": 5})
    assert not np.array_equal(other["target_mean"], alone["target_mean"])
    rest = condrand.dex(screen(), "group", ["B"], control="rest", **common)
    # 20 of NTC, A and C, the one, the 10 without a group.
    assert set(rest["target_n"]) == {20} and set(rest["ref_n"]) == {71}


# Guide calls


def guides() -> ad.AnnData:
    calls = np.zeros((N_CELLS, 5))
    for k, label in enumerate(["A", "A", "B", "NTC", "NTC"]):
        of = np.flatnonzero(LABELS == label)
        calls[of[k % 2 :: 2] if label in ("A", "NTC") else of, k] = 1
    both = np.flatnonzero(LABELS == "A")[:6]
    calls[both, 2] = 1
    calls[np.flatnonzero(LABELS == "B")[:4], 3] = 2
    return screen(
        obsm={"guide_assignment": sp.csr_matrix(calls)},
        uns={
            "guide_names": np.array(["a1", "a2", "b1", "n1", "n2"], dtype=object),
            "guide2gene": {"a1": "A", "a2": "A", "b1": "B", "n1": "NTC", "n2": "NTC"},
        },
    )


def test_guide_calls_make_groups_of_cells_with_any_guide(tmp_path):
    adata = guides()
    path = tmp_path / "a.h5ad"
    adata.write_h5ad(path)
    found = condrand.dex(adata, transform="none")
    assert_same(condrand.dex(path, transform="none"), found)
    n = found.groupby("target", observed=True)[["target_n", "ref_n"]].first()
    assert n.loc["A"].tolist() == [60, 50] and n.loc["B"].tolist() == [46, 50]
    values = counts_of(float)
    in_b = (LABELS == "B") | np.isin(np.arange(N_CELLS), np.flatnonzero(LABELS == "A")[:6])
    np.testing.assert_allclose(
        found.loc[found["target"] == "B", "target_mean"], values[in_b].mean(axis=0)
    )
    alone = condrand.dex(adata, transform="none", multiple_guides="exclude")
    n = alone.groupby("target", observed=True)[["target_n", "ref_n"]].first()
    assert n.loc["A"].tolist() == [54, 50] and n.loc["B"].tolist() == [36, 50]
    for control, n_ref in (("perturbed", 36), ("rest", 36 + 50 + 50)):
        rows = condrand.dex(adata, target="A", control=control, multiple_guides="exclude")
        assert set(rows["ref_n"]) == {n_ref}
    with pytest.raises(ValueError, match='6 of the 60 cells of .A.*\n.*multiple_guides="exclude"'):
        condrand.dex(adata, target="A", control="B")


# What is refused, all at once


def refused(*args, **key) -> str:
    with pytest.raises(ValueError) as caught:
        condrand.dex(*args, **key)
    return str(caught.value)


def test_words_that_mean_nothing_are_listed_together():
    text = refused(
        screen(), "group", test="u", transform="log", ties="no", multiple_guides="x",
        target_sum=0, epsilon=-1, max_records=0, memory=0,
    )  # fmt: skip
    assert "8 problems" in text
    for key in ("test", "transform", "ties", "multiple_guides", "target_sum", "max_records"):
        assert f" {key}: is " in text


@pytest.mark.parametrize("from_file", [False, True])
def test_all_that_is_wrong_with_names_is_listed_together(tmp_path, from_file):
    adata = screen()
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    source = adata
    if from_file:
        source = tmp_path / "a.h5ad"
        adata.write_h5ad(source)
    targets = ["A", "a", *(f"no{i}" for i in range(20))]
    text = refused(source, "group", targets, "rset", library_size="sise")
    assert "4 problems" in text
    for part in ("no group 'rset'", "did you mean 'A'", "'no19'", "g0", "did you mean 'size'"):
        assert part in text
    text = refused(source, "groop", feature_space="lyaer")
    assert "2 problems" in text and "did you mean 'group'" in text
    assert "there is no such feature space" in text and "'group'" in text


def test_a_control_that_is_tested_and_one_without_cells_are_refused():
    assert "'A' is the control" in refused(screen(), "group", ["A", "B"], "A")
    assert "no cell is an NTC cell" in refused(screen(), "group", ntc_labels=["safe"])
    assert "no group to test" in refused(screen(), "group", [])


def test_without_groups_or_guide_calls_one_is_asked_for():
    assert "give `groupby`" in refused(screen())


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray])
def test_values_that_cannot_be_are_named_with_what_else_is_wrong(form):
    values = counts_of()
    values[3, 5], values[4, 6], values[7, 8] = np.nan, -1.0, 0.5
    adata = screen(form(values))
    text = refused(adata, "group", ["Z"], control="rest", transform="counts")
    for part in (
        "4 problems",
        "1 NaN or infinite values (nan in cell 'cell3', column 'g5')",
        "1 negative values (-1.0 in cell 'cell4', column 'g6')",
        "1 values are no integers",
        "'Z'",
    ):
        assert part in text
    values[3, 5] = 1.0
    text = refused(screen(form(values)), "group", control="rest", transform="log_normalize")
    assert "1 problem\n" in text and "cell4" in text
    found = condrand.dex(screen(form(values)), "group", control="rest", transform="none")
    assert found["p_value"].notna().sum() > 500


def test_wrong_values_of_a_file_are_named_by_cell(tmp_path):
    values = counts_of()
    bad = int(np.flatnonzero(LABELS == "B")[7])
    values[bad, 5] = np.inf
    path = tmp_path / "a.h5ad"
    screen(sp.csr_matrix(values)).write_h5ad(path)
    for memory in (2**31, 50_000):
        text = refused(path, "group", memory=memory)
        assert f"inf in cell 'cell{bad}', column 'g5'" in text
    # Cells that are not compared are not looked at.
    assert len(condrand.dex(path, "group", "A")) == N_FEATURES


@pytest.mark.parametrize("wrong", [0.0, -1.0, np.nan, np.inf])
def test_libraries_must_be_positive(wrong):
    sizes = np.full(N_CELLS, 100.0)
    sizes[3] = wrong
    assert "1 are not positive numbers" in refused(screen(), "group", library_size=sizes)
    assert "number per cell" in refused(screen(), "group", library_size=sizes[1:])


def test_what_is_no_matrix_of_numbers_is_refused():
    adata = screen(obsm={"text": pd.DataFrame({"x": ["a"] * N_CELLS}, index=screen().obs_names)})
    assert "no numeric matrix" in refused(adata, "group", feature_space="text")


def test_a_view_of_a_file_is_refused(tmp_path):
    screen().write_h5ad(tmp_path / "a.h5ad")
    backed = ad.read_h5ad(tmp_path / "a.h5ad", backed="r")
    assert "view of a file" in refused(backed[:100], "group")
    whole = screen()
    pd.testing.assert_frame_equal(
        condrand.dex(whole[:100], "group", "A"), condrand.dex(whole[:100].copy(), "group", "A")
    )


# Warnings


def test_values_that_look_normalized_are_warned_of():
    logged = sp.csr_matrix(np.log1p(counts_of()))
    with pytest.warns(UserWarning, match='looks normalized already.*transform="logged"'):
        condrand.dex(screen(logged), "group")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        condrand.dex(screen(logged), "group", transform="logged")
        condrand.dex(screen(logged * 100), "group")
        condrand.dex(screen(), "group")


def test_cells_without_counts_enter_as_zeros_with_a_warning():
    values = counts_of()
    empty = np.flatnonzero(LABELS == "A")[:3]
    values[empty] = 0
    with pytest.warns(UserWarning, match="3 compared cells have no counts"):
        found = condrand.dex(screen(sp.csr_matrix(values)), "group", "A")
    library = values.sum(axis=1, dtype=float)
    library[empty] = 1.0
    fractions = values / library[:, None]
    a, ntc = LABELS == "A", LABELS == "NTC"
    check_p(found, mannwhitneyu(fractions[a], fractions[ntc], method="asymptotic"))
    assert set(found["target_n"]) == {60}


# Real screens


@pytest.mark.parametrize("name", ["papalexi_thp1", "gasperini_k562"])
def test_pairs_of_real_screens_are_those_of_scipy(data_dir, name):
    path = data_dir / f"{name}.h5ad"
    adata = ad.read_h5ad(path)
    label = str(adata.uns["nt_label"])
    control = "ntc" if name.startswith("papalexi") else "rest"
    found = condrand.dex(path, control=control, ntc_labels=[label])
    values = adata.X.toarray().astype(np.float64)
    fractions = values / values.sum(axis=1, keepdims=True)
    carried = sp.csc_matrix(adata.obsm["guide_assignment"]) > 0
    genes = adata.uns["guide2gene"]
    of_guide = np.array([genes[guide] for guide in adata.uns["guide_names"]])
    calls = carried.toarray()
    is_ntc = calls[:, of_guide == label].any(axis=1) & ~calls[:, of_guide != label].any(axis=1)
    random = np.random.default_rng(0)
    tested = found[found["p_value"].notna()].reset_index(drop=True)
    for i in random.choice(len(tested), 50, replace=False):
        row = tested.iloc[i]
        x = calls[:, of_guide == row["target"]].any(axis=1)
        y = is_ntc if control == "ntc" else ~x
        column = fractions[:, adata.var_names.get_loc(row["feature"])]
        expected = mannwhitneyu(column[x], column[y], method="asymptotic")
        assert row["statistic"] == expected.statistic
        assert (row["target_n"], row["ref_n"]) == (x.sum(), y.sum())
        log_p = np.log(expected.pvalue)
        assert abs(-row["neg_log10_p"] * np.log(10) - log_p) <= 1e-10 * abs(log_p) + 1e-12


def test_the_notebook_has_it_by_name():
    assert condrand.dex is dex_function
