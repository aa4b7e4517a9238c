"""The results contract: one row per target and feature, the same columns for every engine."""

from collections.abc import Callable

import numpy as np
import pandas as pd

from condrand.plan import deal
from condrand.units import Unit, join_guides

# Every engine's table starts with these, in this order; its own columns follow, `note` is last.
CONTRACT = (
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
NOTE = "note"


def effects_table(
    columns: dict[str, object], own: dict[str, object], note: object
) -> pd.DataFrame:
    """Assemble a table that keeps the contract.

    Parameters
    ----------
    columns : dict
        The contract's columns but ``fdr``, which only the merge of all batches can know.
    own : dict
        The engine's own columns, in order.
    note : sequence of str
        Why a row could not be tested, or what to know about it; empty otherwise.

    Raises
    ------
    ValueError
        If a column of the contract is missing, unknown, or holds a p value without its source.
    """
    columns = {**columns, "fdr": np.nan}
    if set(columns) != set(CONTRACT):
        wrong = sorted(set(columns) ^ set(CONTRACT))
        raise ValueError(f"columns missing from or unknown to the contract: {wrong}")
    table = pd.DataFrame({**columns, **own, NOTE: note})[[*CONTRACT, *own, NOTE]]
    tested = table["p_value"].notna()
    if (table.loc[tested, "p_source"] == "").any():
        raise ValueError("a p value has no source")
    if not ((table.loc[tested, "p_value"] > 0) | (table.loc[tested, "neg_log10_p"] > 0)).all():
        raise ValueError("a p value is 0 without its logarithm")
    if (table.loc[~tested, NOTE] == "").any():
        raise ValueError("an untested row has no note")
    return table


def one_text(text: str, n_rows: int) -> pd.Categorical:
    """A column that holds one text in all its rows, at a byte for each."""
    return pd.Categorical.from_codes(np.zeros(n_rows, np.int8), [text])


def units_table(units: list[Unit], n_batches: int, status: Callable[[int], str]) -> pd.DataFrame:
    """Units, their sizes and batches, one row each, in order of batch, kind and name.

    Parameters
    ----------
    units : list of Unit
    n_batches : int
    status : callable
        From the cells of a unit to "kept", or why it is not.
    """
    batch = deal({f"{unit.kind}:{unit.name}": unit.cells.size for unit in units}, n_batches)
    rows = [
        {
            "target": unit.name,
            "kind": unit.kind,
            "guides": join_guides(unit.guides),
            "n_cells": unit.cells.size,
            "batch": batch[f"{unit.kind}:{unit.name}"],
            "status": status(unit.cells.size),
        }
        for unit in units
    ]
    columns = ["target", "kind", "guides", "n_cells", "batch", "status"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["batch", "kind", "target"], kind="stable", ignore_index=True)


def stack(tables: list[pd.DataFrame]) -> pd.DataFrame:
    """Tables of the same columns below each other, categories kept.

    Texts that are categories in every table stay so, of sorted categories; elsewhere a table of
    a hundred million rows would hold as many strings.
    """
    common = {
        name: sorted(set().union(*(table[name].cat.categories for table in tables)))
        for name in tables[0]
        if all(isinstance(table[name].dtype, pd.CategoricalDtype) for table in tables)
    }
    alike = [
        table.assign(**{n: table[n].cat.set_categories(c) for n, c in common.items()})
        for table in tables
    ]
    return pd.concat(alike, ignore_index=True)


def sort_effects(table: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    """Rows by target name, then by the features' own order: whatever batch they came from."""
    target, feature = pd.Categorical(table["target"]), pd.Categorical(table["feature"])
    by_name = np.argsort(np.argsort(np.array(target.categories, dtype=object)))
    rank = {name: i for i, name in enumerate(features)}
    in_screen = np.array([rank[name] for name in feature.categories], np.int64)
    order = np.lexsort((in_screen[feature.codes], by_name[target.codes]))
    return table.take(order).reset_index(drop=True)
