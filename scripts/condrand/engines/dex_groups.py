"""The step that says who is compared with whom: groups of cells, their control, their values."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from condrand.engines.stored_values import transform_of
from condrand.groups import Control
from condrand.guide_counts import GuideCounts
from condrand.io.blocks import block_matrices, open_screen, outcome_name
from condrand.io.comparisons import Comparisons, write_comparisons
from condrand.io.h5ad import read
from condrand.io.outcome import read_treated
from condrand.io.tables import write_tsv
from condrand.tables import units_table
from condrand.units import (
    CONTROLS,
    NTC_GROUP,
    NTC_GUIDE,
    TARGET,
    Unit,
    read_units,
    refuse_strangers,
)

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Grouping:
    """Groups that a screen's cells form.

    Attributes
    ----------
    units : list of Unit
        Those to test.
    groups : dict of str to int64
        Cells of every group that may be sampled, or be the control.
    is_ntc, is_perturbed : bool, shape (n_cells,)
        NTC cells, and cells that belong to some target.
    is_used : bool, shape (n_cells,)
        Cells that are not left out.
    """

    units: list[Unit]
    groups: dict[str, np.ndarray]
    is_ntc: np.ndarray
    is_perturbed: np.ndarray
    is_used: np.ndarray


def plan_groups(
    screen: str | Path,
    ntc_groups: str | Path | None,
    outcome: str | Path,
    groups: str | Path,
    blocks: str | Path,
    settings: Mapping[str, Any],
    seed: int,
    n_batches: int,
) -> None:
    """Step of rule dex_groups: who is compared with whom.

    Parameters
    ----------
    screen : str or pathlib.Path
        Of the load stage.
    ntc_groups : str or pathlib.Path or None
        Groups of NTC guides, where cells are grouped by guides.
    outcome : str or pathlib.Path
        File to write: a :class:`.Comparisons`.
    groups, blocks : str or pathlib.Path
        Tables to write: units with their sizes and batches; blocks of features with their sizes.
    settings : mapping
        The analysis.
    seed, n_batches : int
    """
    with open_screen(screen) as file:
        cells = read(file, "obs").index
        if settings["groupby"] is None:
            found = _by_guides(file, screen, ntc_groups, settings)
        else:
            found = _by_column(file, settings)
        library, words = _values(file, settings)
        features = [str(f) for f in read(file, f"uns/features.{outcome_name(words['key'])}")]
        sizes = _block_sizes(file, words["key"])
        words["digest"] = str(read(file, f"uns/digest.{outcome_name(words['key'])}"))
    control = _control(found, settings, seed)
    units, within = _compared(found.units, control)
    words |= {
        "control": settings["control"],
        "control_words": _control_words(settings, control.cells.size),
        "ties": settings["ties"],
    }
    table = units_table(units, n_batches, lambda size: "kept" if size else "no cell")
    where = {(row.kind, row.target): row.batch for row in table.itertuples()}
    batch = np.array([where[unit.kind, unit.name] for unit in units], np.int64)
    comparisons = Comparisons(
        [unit.kind for unit in units],
        [unit.name for unit in units],
        batch,
        [unit.cells for unit in units],
        within,
        control.cells,
        library,
        words,
    )
    write_comparisons(outcome, comparisons, cells, features)
    write_tsv(table, groups)
    write_tsv(sizes, blocks)
    log.info("compared with %s", words["control_words"])
    log.info("%d units, %d features in %d blocks", len(units), len(features), len(sizes))


def _by_guides(
    file: h5py.File, screen: str | Path, ntc_groups: str | Path | None, settings: Mapping[str, Any]
) -> Grouping:
    """Groups by guide calls."""
    names = zip(read(file, "uns/units/kind"), read(file, "uns/units/name"), strict=True)
    stored = [(str(kind), str(name)) for kind, name in names]
    carriers = dict(zip(stored, read_treated(screen, stored), strict=True))
    counts = GuideCounts(
        *(read(file, f"obsm/{name}").ravel() for name in ("n_guides", "n_ntc_guides"))
    )
    is_ntc = counts.is_ntc_cell
    several = read(file, "obsm/n_targets").ravel() > 1
    if several.any():
        log.info("%d cells carry guides of several targets", several.sum())
    is_used = np.ones(several.size, bool)
    if settings["multiple_guides"] == "exclude":
        is_used = ~several
        carriers = {key: cells[is_used[cells]] for key, cells in carriers.items()}
    # A cell with an NTC guide and another is no example of what NTC guides do.
    carriers = {
        key: cells[is_ntc[cells]] if key[0] == NTC_GUIDE else cells
        for key, cells in carriers.items()
    }
    of_target: dict[str, list[str]] = {}
    columns = (read(file, f"uns/guides/{column}") for column in ("name", "target"))
    for guide, target in zip(*columns, strict=True):
        of_target.setdefault(str(target), []).append(str(guide))
    groups = {name: cells for (kind, name), cells in carriers.items() if kind == TARGET}
    named = [] if settings["targets"] == "all" else settings["targets"]
    refuse_strangers("targets", named, groups)
    refuse_strangers("control_group", [n for n in [settings["control_group"]] if n], groups)
    wanted = groups if settings["targets"] == "all" else settings["targets"]
    units = [
        Unit(name, kind, of_target[name] if kind == TARGET else [name], cells)
        for (kind, name), cells in carriers.items()
        if (kind == TARGET and name != settings["control_group"] and name in wanted)
        or kind in CONTROLS[settings["controls"]]
    ]
    if NTC_GROUP in CONTROLS[settings["controls"]] and ntc_groups is not None:
        for kind, name, members in read_units([ntc_groups]):
            cells = [np.zeros(0, np.int64), *(carriers[NTC_GUIDE, guide] for guide in members)]
            units.append(Unit(name, kind, members, np.unique(np.concatenate(cells))))
    return Grouping(units, groups, is_ntc, counts.n_guides > 0, is_used)


def _by_column(file: h5py.File, settings: Mapping[str, Any]) -> Grouping:
    """Groups by a column of obs."""
    column = settings["groupby"]
    codes = read(file, f"obsm/groups.{column}").ravel()
    levels = [str(level) for level in read(file, f"uns/levels.groups.{column}")]
    labels = {str(label) for label in read(file, "uns/ntc_labels")}
    order = np.argsort(codes, kind="stable")
    ends = np.searchsorted(codes[order], np.arange(-1, len(levels)), side="right")
    everyone = {
        level: order[ends[code] : ends[code + 1]].astype(np.int64)
        for code, level in enumerate(levels)
    }
    is_ntc = np.zeros(codes.size, bool)
    for label in labels & set(levels):
        is_ntc[everyone[label]] = True
    wanted = settings["targets"]
    if wanted == "all":
        # Against all other cells the controls are a group as any.
        aside = labels if settings["control"] != "rest" else set()
        wanted = set(levels) - aside - {settings["control_group"]}
    units = [Unit(name, TARGET, [], everyone[name]) for name in sorted(wanted)]
    is_used = codes >= 0
    return Grouping(units, everyone, is_ntc, is_used & ~is_ntc, is_used)


def _control(found: Grouping, settings: Mapping[str, Any], seed: int) -> Control:
    most = settings["max_records"]
    if settings["control"] != "group":
        masks = (found.is_ntc, found.is_perturbed)
        return Control.of(settings["control"], found.groups, *masks, most, seed, found.is_used)
    # Not by its name, which may be that of another control.
    name = settings["control_group"]
    return Control.of_cells(name, found.groups[name], found.is_ntc.size, most, seed)


def _compared(units: list[Unit], control: Control) -> tuple[list[Unit], np.ndarray]:
    """Units with the cells that enter, and whether they are among the control cells."""
    entered, within = [], []
    for unit in units:
        cells = unit.cells
        inside = control.pool[cells]
        if inside.any() and not inside.all():
            # A cell that counts as control for all others is no example of this target either.
            log.warning("%s: %d of its cells are control cells, left out", unit.name, inside.sum())
            cells = cells[~inside]
        cells, is_within = control.compared(unit.name, cells)
        entered.append(replace(unit, cells=cells))
        within.append(is_within)
    return entered, np.array(within, bool)


def _control_words(settings: Mapping[str, Any], n_cells: int) -> str:
    words = {
        "ntc": f"{n_cells:,} NTC cells",
        "rest": f"all other cells of {n_cells:,}",
        "perturbed": f"all other perturbed cells of {n_cells:,}",
        "group": f"{n_cells:,} cells of {settings['control_group']}",
    }
    return words[settings["control"]]


def _values(file: h5py.File, settings: Mapping[str, Any]) -> tuple[np.ndarray, dict[str, Any]]:
    """Library sizes, and what the values are."""
    outcome = settings["outcome"]
    transform, library = transform_of(file, outcome)
    values = {
        "log_normalize": f"counts per {outcome['target_sum']:,g}",
        "logged": "expm1 of the stored values",
        "counts": "counts",
        "none": "as stored",
    }
    words = {
        "key": outcome["key"],
        "transform": transform,
        "target_sum": float(outcome["target_sum"]),
        "values": values[transform],
        "is_counts": bool(read(file, f"uns/is_counts.{outcome_name(outcome['key'])}")),
    }
    return library, words


def _block_sizes(file: h5py.File, key: str) -> pd.DataFrame:
    """Blocks of features, how many values they store, and their size in MiB."""
    rows, first = [], 0
    for b, block in enumerate(block_matrices(file, key)):
        element = block.element
        data = element["data"] if block.kind == "csr" else element
        per_value = data.dtype.itemsize + (4 if block.kind == "csr" else 0)
        mb = (data.size * per_value + 8 * block.shape[0]) / 2**20
        rows.append((b, first, block.shape[1], data.size, round(mb, 3)))
        first += block.shape[1]
    return pd.DataFrame(rows, columns=["block", "first_feature", "n_features", "n_stored", "mb"])
