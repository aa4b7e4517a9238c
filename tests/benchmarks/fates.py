"""What befalls shard jobs of the benchmark, and their ledger.

Copied beside the entry scripts of a checkout, of which that of the shards calls `begin` before
all else and `end` after all else. Standard library only.
"""

import hashlib
import json
import os
import signal
import threading
from pathlib import Path

LEDGER = Path("ledger")
# Killed at once, in the middle, or with the result in place and nobody told yet.
WAYS = ("at its start", "at work", "when written")
# A job of the benchmark works for about so long, seconds.
_WORK_S = 1.0


def fate_of(shard: str, attempt: int, share: float, seed: int) -> tuple[str, float]:
    """How an attempt at a shard ends, and when between 0 and 1: a function of its name alone.

    Parameters
    ----------
    shard : str
    attempt : int
        From 0.
    share : float
        Of attempts that fail.
    seed : int

    Returns
    -------
    str
        One of `WAYS`; empty where it ends well.
    float
    """
    dice = hashlib.sha256(f"{seed} {shard} {attempt}".encode()).digest()
    if int.from_bytes(dice[:4]) >= share * 2**32:
        return "", 1.0
    return WAYS[dice[4] % len(WAYS)], dice[5] / 256


def _die() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def begin(shard: str, share: float, seed: int) -> None:
    """Enter the job in the ledger; perhaps die, now or soon."""
    folder = LEDGER / shard
    folder.mkdir(parents=True, exist_ok=True)
    entry = folder / f"{os.environ['SLURM_JOB_ID']}.json"
    attempt = sum(other != entry for other in folder.iterdir())
    way, when = fate_of(shard, attempt, share, seed)
    entry.write_text(json.dumps({"attempt": attempt, "fate": way}))
    if way == "at its start":
        _die()
    if way == "at work":
        timer = threading.Timer(when * _WORK_S, _die)
        timer.daemon = True
        timer.start()


def end(shard: str) -> None:
    """Enter what was written and what it cost; perhaps die."""
    entry = LEDGER / shard / f"{os.environ['SLURM_JOB_ID']}.json"
    found = json.loads(entry.read_text())
    if found["fate"] == "at work":
        _die()
    found["sha256"] = hashlib.sha256(Path(shard).read_bytes()).hexdigest()
    found["processes"] = costs(os.environ["SLURM_JOB_ID"])
    entry.write_text(json.dumps(found))
    if found["fate"]:
        _die()


def costs(job: str) -> list[dict]:
    """CPU seconds (with those of ended children) and peak memory of each process of a job."""
    wanted = f"SLURM_JOB_ID={job}".encode()
    tick = os.sysconf("SC_CLK_TCK")
    found = []
    for folder in Path("/proc").iterdir():
        if not folder.name.isdecimal():
            continue
        try:
            if wanted not in (folder / "environ").read_bytes().split(b"\0"):
                continue
            words = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            ticks = (folder / "stat").read_text().rpartition(")")[2].split()[11:15]
            status = dict(
                line.split(":", 1) for line in (folder / "status").read_text().splitlines()
            )
        except OSError:
            continue
        if "VmHWM" in status:
            found.append(
                {
                    "pid": int(folder.name),
                    "is_script": int(folder.name) == os.getpid(),
                    "is_snakemake": "-m snakemake" in words and "srun" not in words,
                    "cpu_s": sum(map(int, ticks)) / tick,
                    "peak_mib": int(status["VmHWM"].split()[0]) / 1024,
                }
            )
    return found
