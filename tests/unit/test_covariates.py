"""Covariates: encoding rules, named dependencies, standardization, orthonormal basis."""

import numpy as np
import pandas as pd
import pytest

from condrand.covariates import (
    dependencies,
    encode,
    full_rank,
    orthonormal_basis,
    standardize,
)

N = 60


def many(seed: int = 0) -> np.ndarray:
    """Numbers that are all distinct."""
    return np.random.default_rng(seed).normal(size=N)


# Encoding


def test_numeric_columns_stay_as_they_are():
    table = pd.DataFrame(
        {"depth": many(), "count": np.arange(N)}, index=[f"c{i}" for i in range(N)]
    )
    encoded = encode(table, 20)
    pd.testing.assert_frame_equal(encoded, table.astype(float))


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical(list("bac") * 20, categories=["c", "b", "a", "unused"]),
        np.array(list("bac") * 20, dtype=object),
        pd.array(list("bac") * 20, dtype="string"),
    ],
    ids=["categorical", "object", "string"],
)
def test_text_and_categories_become_indicators_of_all_levels_but_the_first(column):
    encoded = encode(pd.DataFrame({"batch": column}), 20)
    assert encoded.columns.tolist() == ["batch[b]", "batch[c]"]
    np.testing.assert_array_equal(encoded["batch[b]"], [1.0, 0.0, 0.0] * 20)
    np.testing.assert_array_equal(encoded["batch[c]"], [0.0, 0.0, 1.0] * 20)
    assert (encoded.dtypes == np.float64).all()


@pytest.mark.parametrize("dtype", [bool, "boolean", object])
def test_booleans_become_one_indicator(dtype):
    column = pd.Series([True, False, False] * 20).astype(dtype)
    encoded = encode(pd.DataFrame({"cycling": column}), None)
    assert encoded.columns.tolist() == ["cycling[True]"]
    np.testing.assert_array_equal(encoded["cycling[True]"], [1.0, 0.0, 0.0] * 20)


def test_mixed_columns_are_categories_of_their_text():
    encoded = encode(pd.DataFrame({"lane": [1, "two", 3.5] * 20}), 20)
    assert encoded.columns.tolist() == ["lane[3.5]", "lane[two]"]
    assert encoded.sum().tolist() == [20.0, 20.0]


@pytest.mark.parametrize(("threshold", "is_category"), [(3, True), (2, False), (None, False)])
def test_numbers_with_few_values_are_categories_up_to_the_threshold(threshold, is_category):
    encoded = encode(pd.DataFrame({"lane": [10, 2, 30] * 20}), threshold)
    # Levels in numeric order: 2 is the first, not "10".
    expected = ["lane[10]", "lane[30]"] if is_category else ["lane"]
    assert encoded.columns.tolist() == expected


@pytest.mark.parametrize("values", [[1.5] * N, ["x"] * N, [True] * N], ids=str)
def test_constant_columns_stay_and_keep_their_name(values):
    encoded = encode(pd.DataFrame({"site": values, "depth": many()}), 20)
    assert encoded.columns.tolist() == ["site", "depth"]
    assert encoded["site"].nunique() == 1
    assert [str(d) for d in dependencies(list(encoded), standardize(encoded.to_numpy()))] == [
        "site (constant)"
    ]


def test_numeric_columns_come_before_indicators_in_the_order_of_the_table():
    table = pd.DataFrame(
        {"batch": list("ab") * 30, "depth": many(), "lane": [1, 2, 3] * 20, "mito": many(1)}
    )
    assert encode(table, 20).columns.tolist() == [
        "depth",
        "mito",
        "batch[b]",
        "lane[2]",
        "lane[3]",
    ]


@pytest.mark.parametrize(
    "table",
    [
        pd.DataFrame({1: many(), "1": many(1)}),
        pd.DataFrame({"lane[b]": many(), "lane": list("ab") * 30}),
    ],
    ids=["number and text", "number and level"],
)
def test_no_column_is_lost_to_another_of_the_same_name(table):
    try:
        encoded = encode(table, 2)
    except ValueError:
        return  # refused: nothing is lost in silence
    assert encoded.shape[1] == 2


# Standardization


def test_standardized_columns_have_mean_zero_and_population_sd_one():
    columns = np.column_stack([many() * 1e-3 + 1e3, many(1) * 1e6, np.arange(N) % 2])
    z = standardize(columns)
    # 1e-3 beside 1e3: six of sixteen digits of the differences are gone in the numbers themselves.
    np.testing.assert_allclose(z.mean(axis=0), 0.0, atol=1e-9)
    np.testing.assert_allclose(z.std(axis=0), 1.0, rtol=1e-12)
    expected = (columns - columns.mean(axis=0)) / columns.std(axis=0)
    np.testing.assert_allclose(z, expected, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("value", [0.0, 1.0, 0.1, -1e12, 1e-300])
def test_a_constant_column_becomes_exactly_zero(value):
    z = standardize(np.column_stack([np.full(N, value), many()]))
    np.testing.assert_array_equal(z[:, 0], 0.0)
    assert z[:, 1].any()


def test_no_columns_give_no_columns():
    assert standardize(np.empty((N, 0))).shape == (N, 0)
    assert dependencies([], np.empty((N, 0))) == []


# Dependencies


def named(**columns: np.ndarray) -> dict[str, list[str]]:
    """Dependent columns and what explains them."""
    standardized = standardize(np.column_stack(list(columns.values())))
    return {d.column: d.explained_by for d in dependencies(list(columns), standardized)}


def test_independent_columns_are_not_named():
    assert named(a=many(0), b=many(1), c=many(2)) == {}


def test_a_duplicate_names_its_original():
    assert named(a=many(0), b=many(1), c=many(0)) == {"c": ["a"]}
    assert named(a=many(0), b=-3 * many(0) + 7) == {"b": ["a"]}


def test_a_linear_combination_names_its_parts_only():
    a, b, c = many(0), many(1), many(2)
    assert named(a=a, b=b, c=c, d=2 * a - c + 5) == {"d": ["a", "c"]}


def test_several_dependencies_are_named_in_order_and_never_by_each_other():
    a, b = many(0), many(1)
    assert named(a=a, constant=np.ones(N), copy=a, b=b, sum=a + b) == {
        "constant": [],
        "copy": ["a"],
        "sum": ["a", "b"],
    }


def test_dummies_of_nested_batches_are_found():
    table = pd.DataFrame({"lane": list("abcd") * 15, "site": ["x", "x", "y", "y"] * 15})
    encoded = encode(table, None)
    found = dependencies(list(encoded), standardize(encoded.to_numpy()))
    assert [d.column for d in found] == ["site[y]"]
    assert found[0].explained_by == ["lane[c]", "lane[d]"]


def test_nearly_dependent_columns_are_kept_down_to_the_tolerance():
    a, noise = many(0), many(1)
    assert named(a=a, b=a + 1e-7 * noise) == {}
    assert named(a=a, b=a + 1e-11 * noise) == {"b": ["a"]}


def test_more_columns_than_cells_leave_what_does_not_fit():
    random = np.random.default_rng(0)
    columns = {f"v{i}": random.normal(size=4) for i in range(6)}
    # Four centred cells span three dimensions.
    assert list(named(**columns)) == ["v3", "v4", "v5"]


def test_a_dependency_reads_as_a_sentence():
    standardized = standardize(np.column_stack([many(0), np.ones(N), many(1), many(0) + many(1)]))
    found = dependencies(["a", "one", "b", "sum"], standardized)
    assert [str(d) for d in found] == ["one (constant)", "sum (a combination of a, b)"]
    np.testing.assert_array_equal(full_rank(standardized), standardized[:, [0, 2]])


# Basis


def test_the_basis_is_orthonormal_and_spans_intercept_and_columns():
    design = standardize(np.column_stack([many(0), many(1), many(0) + 1e-4 * many(2)]))
    basis = orthonormal_basis(design)
    assert basis.shape == (N, 4) and basis.flags.c_contiguous
    # Householder: orthonormal to rounding even where columns are nearly dependent.
    np.testing.assert_allclose(basis.T @ basis, np.eye(4), atol=1e-14)
    np.testing.assert_allclose(np.abs(basis[:, 0]), 1 / np.sqrt(N), rtol=1e-13)
    full = np.column_stack([np.ones(N), design])
    np.testing.assert_allclose(basis @ (basis.T @ full), full, atol=1e-13)


def test_without_covariates_the_basis_is_the_intercept():
    basis = orthonormal_basis(np.empty((N, 0)))
    np.testing.assert_allclose(np.abs(basis), 1 / np.sqrt(N), rtol=1e-14)
