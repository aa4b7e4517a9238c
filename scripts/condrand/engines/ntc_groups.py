"""The step that forms NTC groups: control guides taken together as if they had one target."""

import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from condrand.io.outcome import read_treated
from condrand.io.stages import read_guides_table
from condrand.io.tables import write_tsv
from condrand.nulls.ntc_groups import build_ntc_group_inputs, make_ntc_groups_matched_by_freq
from condrand.plan import deal
from condrand.units import NTC_GROUP, NTC_GUIDE, join_guides

log = logging.getLogger(__name__)

# Guides by which each frequency bin should exceed a group, where the number of bins is free.
_GROUPS_PER_BIN = 2
_COLUMNS = ["target", "kind", "guides", "n_cells", "batch", "status"]


def group_size_of(guides: pd.DataFrame, wanted: int | None) -> int:
    """Guides of a group: as configured, else the median guides of a target.

    Parameters
    ----------
    guides : pandas.DataFrame
        Columns name, target, is_ntc, n_cells.
    wanted : int or None

    Returns
    -------
    int
        At most half the NTC guides where it is free, so that groups can be disjoint.
    """
    if wanted is not None:
        return wanted
    per_target = guides.loc[~guides["is_ntc"], "target"].value_counts()
    half = int(guides["is_ntc"].sum()) // 2
    return max(1, min(int(per_target.median()), half))


def form_groups(guides: pd.DataFrame, settings: Mapping[str, Any]) -> dict[str, list[str]]:
    """Guides of each group, by ``replicate/group`` as in ``e0/ntc_3``.

    Parameters
    ----------
    guides : pandas.DataFrame
        Columns name, target, is_ntc, n_cells.
    settings : mapping
        ``group_size``, ``n_bins``, ``n_ensemble``, ``max_groups``, ``seed`` of the analysis.

    Returns
    -------
    dict of str to list of str
        May be empty: too few NTC guides, or none that match.
    """
    n_ntc = int(guides["is_ntc"].sum())
    size = group_size_of(guides, settings["group_size"])
    if n_ntc < size:
        log.warning("no NTC groups: %d NTC guides, and a group has %d", n_ntc, size)
        return {}
    n_bins = settings["n_bins"]
    if n_bins is None:
        n_bins = max(1, min(20, n_ntc // (_GROUPS_PER_BIN * size)))
    label = "\0ntc"
    target_of = {
        row.name: label if row.is_ntc else row.target for row in guides.itertuples(index=False)
    }
    # Counts stand for shares: only their order matters.
    frequency = dict(zip(guides["name"], guides["n_cells"].astype(float), strict=True))
    try:
        ntc_guides, frequency, bin_of, signatures = build_ntc_group_inputs(
            list(guides["name"]), target_of, frequency, label, size, n_bins
        )
    except ValueError as error:
        log.warning("no NTC groups: %s", error)
        return {}
    groups: dict[str, list[str]] = {}
    for e in range(settings["n_ensemble"]):
        replicate = make_ntc_groups_matched_by_freq(
            ntc_guides,
            frequency,
            signatures,
            bin_of,
            group_size=size,
            seed=settings["seed"] + e,
            max_groups=settings["max_groups"],
        )
        groups |= {f"e{e}/{name}": members for name, members in replicate.items()}
    log.info(
        "%d groups of %d of the %d NTC guides in %d replicates, matched in %d frequency bins",
        len(groups),
        size,
        n_ntc,
        settings["n_ensemble"],
        n_bins,
    )
    if not groups:
        there = Counter(bin_of[guide] for guide in ntc_guides)
        log.warning(
            "no NTC group matches the guide frequencies of any target: NTC guides per bin %s. "
            "Set `ntc_groups: {n_bins: 1}`, or a smaller group_size",
            dict(sorted(there.items())),
        )
    return groups


def write_ntc_groups(
    screen: str | Path,
    table: str | Path,
    controls: str,
    settings: Mapping[str, Any],
    n_batches: int,
) -> None:
    """Step of rule ntc_groups: see :func:`form_groups`.

    Parameters
    ----------
    screen : str or pathlib.Path
        Stored screen.
    table : str or pathlib.Path
        TSV to write, with the columns of ``targets.tsv``.
    controls : {"groups", "guides", "none"}
        The table is empty unless ``groups``.
    settings : mapping
        The section ``ntc_groups`` of the analysis.
    n_batches : int
    """
    groups = {}
    if controls == "groups":
        groups = form_groups(read_guides_table(screen), settings)
    members = sorted({guide for guides in groups.values() for guide in guides})
    cells = dict(
        zip(members, read_treated(screen, [(NTC_GUIDE, g) for g in members]), strict=True)
    )
    sizes = {
        name: np.unique(np.concatenate([cells[guide] for guide in guides])).size
        for name, guides in groups.items()
    }
    batch = deal(sizes, n_batches)
    rows = [
        {
            "target": name,
            "kind": NTC_GROUP,
            "guides": join_guides(guides),
            "n_cells": sizes[name],
            "batch": batch[name],
            "status": "kept" if sizes[name] else "no cell carries its guides",
        }
        for name, guides in groups.items()
    ]
    found = pd.DataFrame(rows, columns=_COLUMNS)
    write_tsv(found.sort_values(["batch", "target"], kind="stable", ignore_index=True), table)
