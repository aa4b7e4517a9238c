"""The screen: read from the user's file once, checked whole, and stored in one plain form.

Everything that can be wrong with an input is found here and reported together; later stages
trust what :func:`load_screen` wrote.
"""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, quoted
from condrand.guide_counts import GuideCounts, targets_per_cell
from condrand.inputs.covariates import read_batch, read_covariates
from condrand.inputs.elements import texts
from condrand.inputs.embeddings import read_embeddings
from condrand.inputs.groups import read_groupings
from condrand.inputs.guides import Guides, read_guides, wanted_units
from condrand.inputs.outcome import copy_outcome
from condrand.io.atomic import replacing
from condrand.io.h5ad import (
    new_anndata,
    open_anndata,
    read,
    write_element,
)
from condrand.io.states import embedding_name
from condrand.io.tables import write_tsv
from condrand.tables import units_table
from condrand.units import NTC_GUIDE, TARGET, Unit

log = logging.getLogger(__name__)


def load_screen(
    path: str | Path,
    settings: Mapping[str, Any],
    outcomes: list[Mapping[str, Any]],
    needs: Mapping[str, Any],
    n_batches: int,
    screen: str | Path,
    targets: str | Path,
) -> None:
    """Check a user's file and write what the analyses need of it.

    Parameters
    ----------
    path : str or pathlib.Path
        The user's .h5ad or Zarr, opened for reading only.
    settings : mapping
        The screen's section of the complete configuration.
    outcomes : list of mapping
        The outcome sections of the analyses of this screen.
    needs : mapping
        What else the analyses need: see :func:`condrand.config.needs_of`.
    n_batches : int
        Batches the units are dealt to.
    screen, targets : str or pathlib.Path
        Files to write: the screen as .h5ad and the table of its units.

    Raises
    ------
    InputError
        Listing everything that is wrong with the file. Nothing is written then.
    """
    problems = Problems(str(path))
    labels = settings["ntc_labels"]
    with open_anndata(path) as file:
        cells = _cell_names(file, problems)
        log.info("%s: %d cells", path, len(cells))
        guides = read_guides(file, settings, cells, problems) if needs["guides"] else None
        chosen: list[tuple[str, str, list[str]]] = []
        if guides:
            chosen = wanted_units(guides, settings, needs, problems)
        covariates, threshold = None, None
        if needs["covariates"]:
            covariates, threshold = read_covariates(file, settings["covariates"], cells, problems)
        batches = {
            key: read_batch(file, key, covariates, cells, problems) for key in needs["batch_keys"]
        }
        groupings = read_groupings(file, needs["groupings"], labels, cells, problems)
        embeddings = read_embeddings(file, needs.get("embeddings", []), cells, problems)
        if guides and guides.carried is not None:
            counts = _counts(guides, settings, needs, problems)
        with (
            replacing(screen) as temporary,
            new_anndata(temporary, cells, pd.Index([])) as out,
        ):
            for outcome in outcomes:
                copy_outcome(file, outcome, settings, cells, out, problems)
            problems.report()
            units = []
            if guides:
                column = {guide: i for i, guide in enumerate(guides.names)}
                units = [_unit(guides.carried, column, *which) for which in chosen]
                _write_guides(out, guides, counts, labels)
                _write_units(out, units, len(cells))
            if needs["covariates"]:
                write_element(out["obsm"], "covariates", covariates)
                if threshold is not None:
                    write_element(out["uns"], "numeric_as_category_threshold", threshold)
                write_element(out["uns"], "burden", bool(settings["covariates"]["burden"]))
            coded = {f"batch.{key}": of_cells for key, of_cells in batches.items()}
            coded |= {f"groups.{key}": of_cells for key, of_cells in groupings.items()}
            for key, (codes, levels) in coded.items():
                write_element(out["obsm"], key, codes[:, None])
                write_element(out["uns"], f"levels.{key}", levels)
            for key, states in embeddings.items():
                write_element(out["obsm"], embedding_name(key), states)
            write_element(out["uns"], "ntc_labels", np.array(labels, dtype=object))
    table = units_table(units, n_batches, lambda size: _status(size, len(cells)))
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


def _counts(
    guides: Guides, settings: Mapping[str, Any], needs: Mapping[str, Any], problems: Problems
) -> GuideCounts:
    """Guides of each cell, and whether there are NTC cells, and a burden, where asked for."""
    ntc_labels = settings["ntc_labels"]
    is_ntc = np.array([guides.target_of.get(name) in ntc_labels for name in guides.names])
    counts = GuideCounts.of(guides.carried, is_ntc)
    key = settings["guide_assignment"]
    if needs["ntc_cells"] and not counts.is_ntc_cell.any():
        problems.add(
            key,
            "no cell carries NTC guides and no others, so `control: ntc` has none to compare with",
            "use `control: complement` (dex: `control: rest`), or correct `ntc_labels` of the "
            "screen.",
        )
    total = counts.total
    needs_burden = needs["covariates"] and settings["covariates"]["burden"]
    if needs_burden and total.min() == total.max():
        problems.add(
            key,
            f"every cell carries {total[0]} guides, so there is no burden to adjust for",
            "leave `covariates.burden` out.",
        )
    return counts


def _write_guides(
    out: h5py.File, guides: Guides, counts: GuideCounts, ntc_labels: list[str]
) -> None:
    """What control cells, the burden and NTC groups need to know of the guides."""
    write_element(out["obsm"], "n_guides", counts.n_guides[:, None])
    write_element(out["obsm"], "n_ntc_guides", counts.n_ntc_guides[:, None])
    of_guide = [guides.target_of[name] for name in guides.names]
    n_targets = targets_per_cell(guides.carried, of_guide, ntc_labels)
    write_element(out["obsm"], "n_targets", n_targets[:, None])
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
