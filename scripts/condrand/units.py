"""What is tested: targets, and NTC guides taken as pseudo-targets. Standard library only."""

import csv
from pathlib import Path

TARGET, NTC_GUIDE = "target", "ntc_guide"


def units_of_batch(
    targets: str | Path, batch: int, wanted: list[str] | str, controls: str
) -> list[tuple[str, str]]:
    """Kind and name of the units of a batch that an analysis tests.

    Parameters
    ----------
    targets : str or pathlib.Path
        ``targets.tsv`` of the load stage.
    batch : int
    wanted : list of str or "all"
        Targets of the analysis.
    controls : {"guides", "none"}
        Whether NTC guides are tested as pseudo-targets.
    """

    def is_tested(row: dict[str, str]) -> bool:
        if row["batch"] != str(batch):
            return False
        if row["kind"] == NTC_GUIDE:
            return controls == "guides"
        return wanted == "all" or row["target"] in wanted

    with open(targets, newline="") as lines:
        rows = csv.DictReader(lines, delimiter="\t")
        return [(row["kind"], row["target"]) for row in rows if is_tested(row)]
