"""The screen: read from the user's file once, checked whole, and stored in one plain form.

Everything that can be wrong with an input is found here and reported together; later stages
trust what :func:`load_screen` wrote.
"""

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, quoted
from condrand.guide_counts import GuideCounts
from condrand.inputs.covariates import read_batch, read_covariates
from condrand.inputs.elements import texts
from condrand.inputs.guides import Guides, read_guides, wanted_units
from condrand.inputs.outcome import copy_outcome
from condrand.io.atomic import replacing
from condrand.io.h5ad import (
    new_anndata,
    open_h5ad,
    read,
    write_element,
)
from condrand.io.tables import write_tsv
from condrand.plan import deal
from condrand.units import NTC_GUIDE, TARGET, join_guides

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """A set of guides that is tested together: all guides of a target, or one NTC guide.

    Attributes
    ----------
    name : str
    kind : {"target", "ntc_guide"}
    guides : list of str
    cells : int64[::1]
        Cells that carry any of them, sorted.
    """

    name: str
    kind: str
    guides: list[str]
    cells: np.ndarray


def load_screen(
    path: str | Path,
    settings: Mapping[str, Any],
    outcomes: list[Mapping[str, Any]],
    wanted: list[str] | str,
    needs_controls: bool,
    n_batches: int,
    screen: str | Path,
    targets: str | Path,
    batch_keys: Sequence[str] = (),
    needs_ntc_cells: bool = False,
) -> None:
    """Check a user's .h5ad and write what the analyses need of it.

    Parameters
    ----------
    path : str or pathlib.Path
        The user's file, opened for reading only.
    settings : mapping
        The screen's section of the complete configuration.
    outcomes : list of mapping
        The outcome sections of the analyses of this screen.
    wanted : list of str or "all"
        Targets that any analysis tests.
    needs_controls : bool
        Whether any analysis tests NTC guides, so that a screen without any is an error.
    n_batches : int
        Batches the units are dealt to.
    screen, targets : str or pathlib.Path
        Files to write: the screen as .h5ad and the table of its units.
    batch_keys : sequence of str
        Columns of the covariates or of obs that analyses take for the batch.
    needs_ntc_cells : bool
        Whether an analysis compares with NTC cells, so that a screen without any is an error.

    Raises
    ------
    InputError
        Listing everything that is wrong with the file. Nothing is written then.
    """
    problems = Problems(str(path))
    with open_h5ad(path) as file:
        cells = _cell_names(file, problems)
        log.info("%s: %d cells", path, len(cells))
        guides = read_guides(file, settings, cells, problems)
        chosen = guides and wanted_units(guides, settings, wanted, needs_controls, problems)
        covariates, threshold = read_covariates(file, settings["covariates"], cells, problems)
        batches = {key: read_batch(file, key, covariates, cells, problems) for key in batch_keys}
        if guides and guides.carried is not None:
            _check_counts(guides, settings, needs_ntc_cells, problems)
        with (
            replacing(screen) as temporary,
            new_anndata(temporary, cells, pd.Index([])) as out,
        ):
            for outcome in outcomes:
                copy_outcome(file, outcome, settings, cells, out, problems)
            problems.report()
            column = {guide: i for i, guide in enumerate(guides.names)}
            units = [_unit(guides.carried, column, *which) for which in chosen]
            write_element(out["obsm"], "covariates", covariates)
            if threshold is not None:
                write_element(out["uns"], "numeric_as_category_threshold", threshold)
            write_element(out["uns"], "burden", bool(settings["covariates"]["burden"]))
            for key, (codes, levels) in batches.items():
                write_element(out["obsm"], f"batch.{key}", codes[:, None])
                write_element(out["uns"], f"levels.batch.{key}", levels)
            _write_guides(out, guides, settings["ntc_labels"])
            _write_units(out, units, len(cells))
    table = targets_table(units, len(cells), n_batches)
    skipped = table[table["status"] != "kept"]
    for row in skipped.itertuples():
        log.warning("skipped %s: %s", row.target, row.status)
    write_tsv(table, targets)
    log.info(
        "%d targets and %d NTC guides in %d batches, %d skipped",
        sum(unit.kind == TARGET for unit in units),
        sum(unit.kind == NTC_GUIDE for unit in units),
        n_batches,
        len(skipped),
    )


def targets_table(units: list[Unit], n_cells: int, n_batches: int) -> pd.DataFrame:
    """The units, their sizes and batches, one row each, in order of batch and name."""
    batch = deal({f"{unit.kind}:{unit.name}": unit.cells.size for unit in units}, n_batches)
    rows = [
        {
            "target": unit.name,
            "kind": unit.kind,
            "guides": join_guides(unit.guides),
            "n_cells": unit.cells.size,
            "batch": batch[f"{unit.kind}:{unit.name}"],
            "status": _status(unit.cells.size, n_cells),
        }
        for unit in units
    ]
    columns = ["target", "kind", "guides", "n_cells", "batch", "status"]
    table = pd.DataFrame(rows, columns=columns)
    return table.sort_values(["batch", "kind", "target"], kind="stable", ignore_index=True)


def _status(n_treated: int, n_cells: int) -> str:
    if n_treated == 0:
        return "no cell carries its guides"
    if n_treated == n_cells:
        return "every cell carries its guides"
    return "kept"


def _cell_names(file: h5py.File, problems: Problems) -> pd.Index:
    where = f"obs/{file['obs'].attrs['_index']}"
    cells = pd.Index(texts(read(file, where)), dtype=object)
    if not len(cells):
        problems.add(where, "there are no cells", "check how the file was filtered.")
        problems.report()
    twice = cells[cells.duplicated()].unique()
    if len(twice):
        # Rows are matched by their order, so this changes no result.
        log.warning("%d cell names occur more than once: %s", len(twice), quoted(twice))
    return cells


def _unit(
    carried: sp.csc_matrix, column: Mapping[str, int], name: str, kind: str, members: list[str]
) -> Unit:
    columns = carried[:, [column[guide] for guide in members]]
    return Unit(name, kind, members, np.unique(columns.indices).astype(np.int64))


def _counts(guides: Guides, ntc_labels: list[str]) -> GuideCounts:
    is_ntc = np.array([guides.target_of.get(name) in ntc_labels for name in guides.names])
    return GuideCounts.of(guides.carried, is_ntc)


def _check_counts(
    guides: Guides, settings: Mapping[str, Any], needs_ntc_cells: bool, problems: Problems
) -> None:
    """Whether there are NTC cells, and a burden, where they are asked for."""
    counts = _counts(guides, settings["ntc_labels"])
    key = settings["guide_assignment"]
    if needs_ntc_cells and not counts.is_ntc_cell.any():
        problems.add(
            key,
            "no cell carries NTC guides and no others, so `control: ntc` has none to compare with",
            "use `control: complement`, or correct `ntc_labels` of the screen.",
        )
    total = counts.total
    if settings["covariates"]["burden"] and total.min() == total.max():
        problems.add(
            key,
            f"every cell carries {total[0]} guides, so there is no burden to adjust for",
            "leave `covariates.burden` out.",
        )


def _write_guides(out: h5py.File, guides: Guides, ntc_labels: list[str]) -> None:
    """What control cells, the burden and NTC groups need to know of the guides."""
    counts = _counts(guides, ntc_labels)
    write_element(out["obsm"], "n_guides", counts.n_guides[:, None])
    write_element(out["obsm"], "n_ntc_guides", counts.n_ntc_guides[:, None])
    table = pd.DataFrame(
        {
            "name": guides.names,
            "target": [guides.target_of[name] for name in guides.names],
            "is_ntc": [guides.target_of[name] in ntc_labels for name in guides.names],
            "n_cells": np.diff(guides.carried.indptr),
        }
    )
    table.index = table.index.astype(str)
    write_element(out["uns"], "guides", table)
    moi = counts.moi
    log.info(
        "%.2f guides per cell: %.1f %% of the cells carry none, %.1f %% one, %.1f %% several",
        moi["mean"],
        *(100 * moi[share] for share in ("none", "one", "several")),
    )


def _write_units(out: h5py.File, units: list[Unit], n_cells: int) -> None:
    indptr = np.concatenate([[0], np.cumsum([unit.cells.size for unit in units])]).astype(np.int64)
    indices = np.concatenate([np.zeros(0, np.int64), *(unit.cells for unit in units)])
    data = np.ones(indices.size, bool)
    treated = sp.csc_matrix((data, indices, indptr), shape=(n_cells, len(units)))
    write_element(out["obsm"], "treated", treated)
    table = pd.DataFrame({"name": [u.name for u in units], "kind": [u.kind for u in units]})
    table.index = table.index.astype(str)
    write_element(out["uns"], "units", table)
