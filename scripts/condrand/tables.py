"""The results contract: one row per target and feature, the same columns for every engine."""

import numpy as np
import pandas as pd

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


def sort_effects(table: pd.DataFrame, features: list[str]) -> pd.DataFrame:
    """Rows by target name, then by the features' own order: whatever batch they came from."""
    rank = {feature: i for i, feature in enumerate(features)}
    order = table["feature"].map(rank)
    return (
        table.assign(_order=order)
        .sort_values(["target", "_order"], kind="stable", ignore_index=True)
        .drop(columns="_order")
    )
