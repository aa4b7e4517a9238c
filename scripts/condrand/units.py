"""What is tested: targets, and NTC guides taken as pseudo-targets. Standard library only."""

import csv
import io
from pathlib import Path

TARGET, NTC_GUIDE, NTC_GROUP = "target", "ntc_guide", "ntc_group"

# Kinds of controls that an analysis tests.
CONTROLS = {
    "none": (),
    "guides": (NTC_GUIDE,),
    "groups": (NTC_GUIDE, NTC_GROUP),
}


def join_guides(guides: list[str]) -> str:
    """Guide names as one field of a table: commas between, names with commas in quotes."""
    line = io.StringIO()
    csv.writer(line, lineterminator="").writerow(guides)
    return line.getvalue()


def split_guides(text: str) -> list[str]:
    """The inverse of :func:`join_guides`."""
    return next(csv.reader(io.StringIO(text, newline="")), [])


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
    """

    def is_tested(row: dict[str, str]) -> bool:
        if row["batch"] != str(batch):
            return False
        if row["kind"] == TARGET:
            return wanted == "all" or row["target"] in wanted
        return row["kind"] in CONTROLS[controls]

    units = []
    for path in tables:
        with open(path, newline="") as lines:
            rows = csv.DictReader(lines, delimiter="\t")
            units += [
                (row["kind"], row["target"], split_guides(row["guides"]))
                for row in rows
                if is_tested(row)
            ]
    return units
