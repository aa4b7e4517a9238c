"""Groups of cells in a user's file: columns of obs, and the groups that analyses ask for."""

import logging
from collections.abc import Mapping, Sequence
from typing import Any

import h5py
import numpy as np
import pandas as pd

from condrand.errors import Problems, nearest, quoted
from condrand.inputs.elements import obs_column

log = logging.getLogger(__name__)


def read_groupings(
    file: h5py.File,
    groupings: Sequence[Mapping[str, Any]],
    ntc_labels: Sequence[str],
    cells: pd.Index,
    problems: Problems,
) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Columns of obs that group the cells, with every group found that is asked for.

    Parameters
    ----------
    file : h5py.File
    groupings : sequence of mapping
        ``groupby``, ``targets``, ``control`` and ``control_group`` of the analyses that group
        cells by a column.
    ntc_labels : sequence of str
    cells : pandas.Index
    problems : Problems
        Receives columns and groups that are not there.

    Returns
    -------
    dict of str to (codes, levels)
        By column: the group of each cell, int64 of shape (n_cells,), -1 for none; and the names
        of the groups, an object array of str, sorted.
    """
    found = {}
    for column in sorted({g["groupby"] for g in groupings if g["groupby"] is not None}):
        values = obs_column(file, column, "groups of cells", "groupby", cells, problems)
        if values is not None:
            found[column] = _coded(column, values, problems)
    for grouping in groupings:
        column = grouping["groupby"]
        if column in found:
            levels = list(found[column][1])
            _check_control(grouping, f"obs/{column}", levels, ntc_labels, problems)
            _check_targets(grouping, f"obs/{column}", levels, ntc_labels, problems)
    return found


def _coded(column: str, values: pd.Series, problems: Problems) -> tuple[np.ndarray, np.ndarray]:
    missing = values.isna().to_numpy()
    if missing.any():
        log.warning("obs/%s: %d cells belong to no group and are left out", column, missing.sum())
    names = values[~missing].astype(str).to_numpy()
    levels, codes_there = np.unique(names, return_inverse=True)
    if levels.size > 1 and levels.size > len(values) // 2:
        problems.add(
            f"obs/{column}",
            f"has {levels.size:,} values in {len(values):,} cells, which are no groups",
            "name the column of the groups with `groupby`.",
        )
    codes = np.full(len(values), -1, np.int64)
    codes[~missing] = codes_there
    return codes, levels.astype(object)


def _check_control(
    grouping: Mapping[str, Any],
    where: str,
    there: list[str],
    ntc_labels: Sequence[str],
    problems: Problems,
) -> None:
    control, name = grouping["control"], grouping["control_group"]
    if control == "group" and name not in there:
        problems.add(
            where,
            f"has no group {name!r}, the control",
            f"correct `control_group`. {nearest(name, there)}There are: {quoted(there, 10)}.",
        )
    if control == "ntc" and not set(there) & set(ntc_labels):
        close = "".join(filter(None, [nearest(label, there) for label in sorted(ntc_labels)]))
        problems.add(
            where,
            f"has no group of non-targeting controls (looked for: {quoted(sorted(ntc_labels))})",
            "set `ntc_labels` of the screen, or write `control: group` and `control_group`. "
            f"{close}There are: {quoted(there, 10)}.",
        )


def _check_targets(
    grouping: Mapping[str, Any],
    where: str,
    there: list[str],
    ntc_labels: Sequence[str],
    problems: Problems,
) -> None:
    if grouping["targets"] == "all":
        aside = set(ntc_labels) if grouping["control"] != "rest" else set()
        if not set(there) - aside - {grouping["control_group"]}:
            problems.add(
                where,
                f"has no group to test beside the controls: {quoted(there)}",
                "name the column of the groups with `groupby`.",
            )
        return
    labels = sorted(set(grouping["targets"]) & set(there) & set(ntc_labels))
    if labels and grouping["control"] == "ntc":
        problems.add(
            where,
            f"{quoted(labels)} are both targets and, as `ntc_labels`, the control",
            "leave them out of `targets`.",
        )
    strangers = [name for name in grouping["targets"] if name not in there]
    if strangers:
        hints = "".join(f"{n}: {close}" for n in strangers[:5] if (close := nearest(n, there)))
        problems.add(
            where,
            f"has no group {quoted(strangers, len(strangers))}",
            f"correct the names asked for. {hints}There are: {quoted(there, 10)}.",
        )
