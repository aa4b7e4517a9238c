"""What earlier runs left that tells how long jobs take."""

import csv
import re
from collections.abc import Iterator
from pathlib import Path

_STARTS = re.compile(r"computing starts: (\d+) units")
_BLOCKS = re.compile(r"blocks (\d+) to (\d+)")
_TREATED = re.compile(r": (\d+) treated cells,")


def shard_times(logs: str | Path) -> Iterator[tuple[str, str, dict[str, float]]]:
    """Times and sizes of the shard jobs that ended well, from their logs and benchmark files.

    Parameters
    ----------
    logs : str or pathlib.Path
        The folder ``logs`` of a run.

    Yields
    ------
    screen, analysis : str
    job : dict of str to float
        ``seconds``, ``cpu_seconds``, ``n_units``, ``n_treated``, ``n_blocks``.
    """
    for path in sorted(Path(logs).glob("*/*/**/shard-*.benchmark.tsv")):
        log = path.with_name(path.name.replace(".benchmark.tsv", ".log"))
        screen, analysis = path.relative_to(logs).parts[:2]
        job = _shard(path, log)
        if job is not None:
            yield screen, analysis, job


def _shard(benchmark: Path, log: Path) -> dict[str, float] | None:
    """One job, or None where its files are not whole."""
    try:
        with open(benchmark, newline="") as lines:
            row = next(csv.DictReader(lines, delimiter="\t"))
        text = log.read_text(errors="replace")
        seconds = float(row["s"])
        cpu = row.get("cpu_time") or "NA"
        cpu_seconds = seconds if cpu == "NA" else float(cpu)
    except (OSError, StopIteration, KeyError, ValueError):
        return None
    blocks = _BLOCKS.search(text)
    if blocks is None:
        return None
    units = _STARTS.search(text)
    return {
        "seconds": seconds,
        "cpu_seconds": cpu_seconds,
        "n_units": int(units[1]) if units else 1,
        "n_treated": sum(map(int, _TREATED.findall(text))),
        "n_blocks": int(blocks[2]) - int(blocks[1]),
    }
