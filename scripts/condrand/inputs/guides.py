"""Guide calls and targets of a user's file: read, and checked against each other."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, nearest, quoted
from condrand.inputs.elements import Faults, as_matrix, check_unique, find, names_fit, texts
from condrand.io.h5ad import (
    Group,
    Matrix,
    read,
)
from condrand.units import NTC_GUIDE, TARGET


@dataclass(frozen=True)
class Guides:
    """Guide calls of a screen.

    Attributes
    ----------
    carried : scipy.sparse.csc_matrix of bool, shape (n_cells, n_guides), or None
        None where a problem has been noted.
    names : list of str
    target_of : dict of str to str
        Target gene, or NTC label, of each guide.
    """

    carried: sp.csc_matrix | None
    names: list[str]
    target_of: dict[str, str]


def read_guides(
    file: Group, settings: Mapping[str, Any], cells: pd.Index, problems: Problems
) -> Guides | None:
    """Guide calls with the target of each guide, or None where `problems` got an entry."""
    what = "guide assignment"
    where = find(file, settings["guide_assignment"], "guide_assignment", what, problems)
    found = where and as_matrix(file, where, len(cells), what, problems)
    names = _guide_names(file, settings, found, problems) if found else None
    carried = _read_calls(found, cells, names, problems) if found else None
    target_of = read_guide2gene(file, settings, problems)
    if names is None or target_of is None:
        return None
    _check_same_guides(names, target_of, settings["guide2gene"], where, problems)
    return Guides(carried, names, target_of)


def _check_same_guides(
    names: list[str], target_of: dict[str, str], key: str, where: str, problems: Problems
) -> None:
    known = set(names)
    missing = [name for name in names if name not in target_of]
    strangers = [name for name in target_of if name not in known]
    blanks = {name.strip() for name in missing} & {name.strip() for name in strangers}
    hint = f" Some differ in blanks alone: {quoted(sorted(blanks))}." if blanks else ""
    if missing:
        problems.add(
            key,
            f"lacks {len(missing)} of the {len(names)} guides: {quoted(missing)}",
            f"add their genes (or the NTC label), or leave their columns out.{hint}",
        )
    if strangers:
        problems.add(
            key,
            f"names {len(strangers)} guides that {where} does not have: {quoted(strangers)}",
            f"remove them, or correct the names.{hint}",
        )


def _read_calls(
    found: Matrix, cells: pd.Index, names: list[str] | None, problems: Problems
) -> sp.csc_matrix | None:
    faults = Faults(may_be_negative=False)
    pieces = []
    for start, _stop, rows in found.pieces():
        faults.look(start, rows)
        # Stored values decide: an explicit zero is no guide.
        pieces.append(sp.csr_matrix(rows > 0))
    faults.report(
        found.where, cells, names, "store 0 for no guide, 1 or a count for one.", problems
    )
    carried = sp.vstack(pieces).tocsc()
    carried.eliminate_zeros()
    carried.sort_indices()
    if carried.nnz == 0:
        problems.add(
            found.where,
            f"no cell carries a guide ({found.shape[0]:,} cells x {found.shape[1]:,} guides)",
            "check that guides were called and that `guide_assignment` names the right matrix.",
        )
        return None
    return carried


def _guide_names(
    file: Group, settings: Mapping[str, Any], found: Matrix, problems: Problems
) -> list[str] | None:
    if found.columns is not None:
        names, where = found.columns, found.where
    else:
        where = find(file, settings["guide_names"], "guide_names", "guide names", problems)
        if where is None:
            return None
        names = texts(read(file, where))
    mend = "make the names unique."
    return names if names_fit(names, where, found, "guide", mend, problems) else None


def read_guide2gene(
    file: Group, settings: Mapping[str, Any], problems: Problems
) -> dict[str, str] | None:
    """Target of each guide, or None and a problem."""
    where = find(file, settings["guide2gene"], "guide2gene", "guide to target gene", problems)
    if where is None:
        return None
    value = read(file, where)
    if isinstance(value, np.ndarray) and value.dtype.names:
        value = pd.DataFrame(value)
    if isinstance(value, Mapping):
        # Zarr lists names in no order.
        pairs = sorted(value.items(), key=lambda pair: pair[0])
    elif isinstance(value, pd.DataFrame) and {"guide", "gene"} <= set(value.columns):
        pairs = list(zip(value["guide"], value["gene"], strict=True))
    elif isinstance(value, pd.DataFrame) and value.shape[1] == 1:
        pairs = list(zip(value.index, value.iloc[:, 0], strict=True))
    elif isinstance(value, np.ndarray) and value.ndim == 2 and value.shape[1] == 2:
        pairs = list(value)
    else:
        what = type(value).__name__
        if isinstance(value, pd.DataFrame):
            what = f"a table with the columns {quoted(value.columns)}"
        elif isinstance(value, np.ndarray):
            what = f"an array of shape {value.shape}"
        problems.add(
            where,
            f"is {what}, which maps no guide to a gene",
            "store a dict {guide: gene}, or a table with columns `guide` and `gene`.",
        )
        return None
    nested = [guide for guide, gene in pairs if isinstance(gene, Mapping) or np.size(gene) != 1]
    if nested:
        problems.add(
            where,
            f"maps {len(nested)} guides to no single gene: {quoted(nested)}",
            "store one gene per guide; names with '/' need a table with columns `guide` and "
            "`gene` in place of a dict.",
        )
        return None
    guides = texts([guide for guide, _ in pairs])
    genes = texts([np.ravel(np.asarray(gene, dtype=object))[0] for _, gene in pairs])
    check_unique(guides, where, "guide", "map each guide to one gene.", problems)
    nameless = [guide for guide, gene in zip(guides, genes, strict=True) if not gene.strip()]
    if nameless:
        problems.add(
            where,
            f"gives {len(nameless)} guides no gene: {quoted(nameless)}",
            "give each guide its gene or the NTC label.",
        )
    return dict(zip(guides, genes, strict=True))


def wanted_units(
    guides: Guides,
    settings: Mapping[str, Any],
    needs: Mapping[str, Any],
    problems: Problems,
) -> list[tuple[str, str, list[str]]]:
    """Name, kind and guides of each unit that is tested, sorted."""
    wanted, needs_controls = needs["targets"], needs["controls"]
    labels = set(settings["ntc_labels"])
    of_target: dict[str, list[str]] = {}
    for guide in guides.names:
        if guide in guides.target_of:
            of_target.setdefault(guides.target_of[guide], []).append(guide)
    controls = sorted(g for label in labels for g in of_target.get(label, []))
    there = sorted(set(of_target) - labels)
    _check_labels(settings["guide2gene"], labels, there, controls, needs_controls, problems)
    if wanted == "all":
        wanted = there
    strangers = [name for name in wanted if name not in there]
    if strangers:
        hints = "".join(
            f"{name}: it is an NTC label; `controls: guides` tests its guides, `control: ntc` "
            "compares with its cells. "
            if name in labels
            else f"{name}: {close}"
            for name in strangers[:5]
            if (close := nearest(name, there)) or name in labels
        )
        problems.add(
            "analyses: targets",
            f"{len(strangers)} have no guide in this screen: {quoted(strangers)}",
            f"correct the names. {hints}The targets there are: {quoted(there, 10)}.",
        )
    return [(name, TARGET, of_target[name]) for name in sorted(set(wanted) & set(there))] + [
        (guide, NTC_GUIDE, [guide]) for guide in controls
    ]


def _check_labels(
    key: str,
    labels: set[str],
    there: list[str],
    controls: list[str],
    needs_controls: bool,
    problems: Problems,
) -> None:
    if not controls and needs_controls:
        close = "".join(filter(None, [nearest(label, there) for label in sorted(labels)]))
        problems.add(
            key,
            f"no guide is labelled non-targeting control (looked for: {quoted(sorted(labels))})",
            "set `ntc_labels` of the screen to the label used here, or `controls: none` in the "
            f"analysis. {close}The labels there are: {quoted(there, 10)}.",
        )
    if not there:
        problems.add(
            key,
            "every guide is labelled as non-targeting control: there is no target to test",
            "correct `ntc_labels` of the screen.",
        )
    alike: dict[str, list[str]] = {}
    for name in [*there, *sorted(labels)]:
        alike.setdefault(name.strip(), []).append(name)
    for names in alike.values():
        if len(names) > 1 and set(names) & set(there):
            problems.add(
                key,
                f"these genes differ in blanks alone: {quoted(names)}",
                "write each gene in one way.",
            )
