"""The results contract: its columns in order, what is refused, how rows are sorted."""

import numpy as np
import pandas as pd
import pytest

from condrand.tables import CONTRACT, effects_table, sort_effects

N = 4


def columns(**changes) -> dict[str, object]:
    """The contract's columns of four rows, in no particular order."""
    values = {
        "p_source": ["empirical"] * N,
        "neg_log10_p": -np.log10([0.1, 0.2, 0.3, 0.4]),
        "p_value": np.array([0.1, 0.2, 0.3, 0.4]),
        "statistic": np.arange(N) * 1.5,
        "effect_scale": "CLR (natural log)",
        "effect": np.arange(N) - 1.0,
        "n_control": np.full(N, 90),
        "n_target": np.full(N, 10),
        "feature": list("xyxy"),
        "target": list("AABB"),
        "analysis": "main",
        "screen": "toy",
    }
    return {**values, **changes}


def untested(row: int) -> dict[str, object]:
    """Columns of which one row has no p value."""
    p = np.array([0.1, 0.2, 0.3, 0.4])
    p[row] = np.nan
    return columns(p_value=p, neg_log10_p=-np.log10(p))


def test_the_contract_comes_first_then_the_engines_columns_then_the_note():
    table = effects_table(columns(), {"null_sd": np.ones(N), "auc": np.zeros(N)}, [""] * N)
    assert tuple(table.columns) == (*CONTRACT, "null_sd", "auc", "note")


def test_the_contract_is_the_published_one():
    assert CONTRACT == (
        "screen",
        "analysis",
        "target",
        "feature",
        "n_target",
        "n_control",
        "effect",
        "effect_scale",
        "statistic",
        "p_value",
        "neg_log10_p",
        "fdr",
        "p_source",
    )


def test_values_arrive_unchanged_and_the_fdr_is_still_unknown():
    given = columns()
    table = effects_table(given, {}, [""] * N)
    for name, value in given.items():
        np.testing.assert_array_equal(table[name], value if np.ndim(value) else [value] * N)
    assert table["fdr"].isna().all() and table["fdr"].dtype == np.float64


def test_an_untested_row_needs_a_note():
    assert effects_table(untested(2), {}, ["", "", "no treated cell", ""])["p_value"].isna()[2]
    with pytest.raises(ValueError, match="an untested row has no note"):
        effects_table(untested(2), {}, ["", "", "", "a note elsewhere"])


def test_a_p_value_of_zero_needs_its_logarithm():
    p = np.array([0.0, 0.2, 0.3, 0.4])
    logs = np.array([400.0, 0.7, 0.5, 0.4])
    assert effects_table(columns(p_value=p, neg_log10_p=logs), {}, [""] * N)["p_value"][0] == 0
    for missing in (np.nan, 0.0):
        logs[0] = missing
        with pytest.raises(ValueError, match="a p value is 0 without its logarithm"):
            effects_table(columns(p_value=p, neg_log10_p=logs), {}, [""] * N)


def test_a_missing_column_is_refused_by_name():
    given = columns()
    del given["effect_scale"]
    with pytest.raises(ValueError, match="effect_scale"):
        effects_table(given, {}, [""] * N)


def test_an_unknown_column_is_refused_by_name():
    with pytest.raises(ValueError, match="p_values"):
        effects_table(columns(p_values=np.ones(N)), {}, [""] * N)


@pytest.mark.parametrize("source", ["", None])
def test_a_p_value_without_its_source_is_refused(source):
    with pytest.raises(ValueError, match="source"):
        effects_table(columns(p_source=["empirical", source, "empirical", ""]), {}, [""] * N)


# Sorting


def test_rows_are_sorted_by_target_then_by_the_order_of_the_features():
    features = ["x10", "x9", "x1"]
    rows = [(t, f) for f in features for t in ("B", "a", "A")]
    expected = [(t, f) for t in ("A", "B", "a") for f in features]
    random = np.random.default_rng(0)
    for _ in range(5):
        shuffled = [rows[i] for i in random.permutation(len(rows))]
        table = pd.DataFrame(shuffled, columns=["target", "feature"])
        got = sort_effects(table, features)
        assert list(got.itertuples(index=False, name=None)) == expected
        assert got.index.tolist() == list(range(len(rows)))
        assert got.columns.tolist() == ["target", "feature"]
