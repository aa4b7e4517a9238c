"""What is tested: targets, and NTC guides taken as pseudo-targets. Standard library only."""

import csv
import io
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from condrand.errors import Problems, nearest, quoted

if TYPE_CHECKING:
    import numpy as np

TARGET, NTC_GUIDE, NTC_GROUP = "target", "ntc_guide", "ntc_group"

# Targets by which guides are known for controls, unless a user says otherwise.
NTC_LABELS = ("SAFE", "non-targeting", "NTC", "safe-targeting")

# Kinds of controls that an analysis tests.
CONTROLS = {
    "none": (),
    "guides": (NTC_GUIDE,),
    "groups": (NTC_GUIDE, NTC_GROUP),
}


@dataclass(frozen=True)
class Unit:
    """Cells that are tested together: of all guides of a target, of an NTC guide, of a group.

    Attributes
    ----------
    name : str
    kind : {"target", "ntc_guide", "ntc_group"}
    guides : list of str
        Empty where cells are grouped by a column of obs.
    cells : int64[::1]
        Cells that carry any of them, sorted.
    """

    name: str
    kind: str
    guides: list[str]
    cells: "np.ndarray"


def join_guides(guides: list[str]) -> str:
    """Guide names as one field of a table: commas between, names with commas in quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(guides)
    return line.getvalue()


def split_guides(text: str) -> list[str]:
    """The inverse of :func:`join_guides`."""
    return next(csv.reader(io.StringIO(text, newline="")), [])


def refuse_strangers(key: str, names: Iterable[str], targets: Collection[str]) -> None:
    """Refuse targets that a stored screen lacks: another analysis may have asked for all.

    Raises
    ------
    InputError
        Listing them.
    """
    problems = Problems("the screen")
    strangers = [name for name in names if name not in targets]
    if strangers:
        hints = "".join(f"{n}: {close}" for n in strangers if (close := nearest(n, targets)))
        problems.add(
            key,
            f"{len(strangers)} have no guide in this screen: {quoted(strangers, len(strangers))}",
            f"correct the names. {hints}The targets there are: {quoted(sorted(targets), 10)}.",
        )
    problems.report()


def units_of_batch(
    tables: list[str | Path], batch: int, wanted: list[str] | str, controls: str
) -> list[tuple[str, str, list[str]]]:
    """Kind, name and guides of the units of a batch that an analysis tests.

    Parameters
    ----------
    tables : list of str or pathlib.Path
        ``targets.tsv`` of the load stage, ``ntc_groups.tsv`` of the analysis.
    batch : int
    wanted : list of str or "all"
        Targets of the analysis.
    controls : {"groups", "guides", "none"}
        Which NTC guides are tested as pseudo-targets: in groups and one by one, one by one, none.

    Raises
    ------
    InputError
        If the tables lack a target.
    """
    rows = list(_rows(tables))
    targets = {name for kind, name, _, _ in rows if kind == TARGET}
    refuse_strangers("targets", [] if wanted == "all" else wanted, targets)
    return [
        (kind, name, guides)
        for kind, name, guides, of_batch in rows
        if of_batch == batch
        and (kind in CONTROLS[controls] if kind != TARGET else wanted == "all" or name in wanted)
    ]


def read_units(tables: list[str | Path]) -> list[tuple[str, str, list[str]]]:
    """Kind, name and guides of all units of some tables."""
    return [(kind, name, guides) for kind, name, guides, _ in _rows(tables)]


def _rows(tables: list[str | Path]) -> Iterator[tuple[str, str, list[str], int]]:
    for path in tables:
        with open(path, newline="") as lines:
            for row in csv.DictReader(lines, delimiter="\t"):
                guides = split_guides(row["guides"])
                yield row["kind"], row["target"], guides, int(row["batch"])
