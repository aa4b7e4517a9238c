"""Killed runs: the same command again finishes with the bytes of a run that nobody disturbed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from base64 import urlsafe_b64encode
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCREEN, BATCH = "results/S", "results/S/A/batch-0000"
SHARDS = [f"{BATCH}/shard-{shard:04d}.h5" for shard in range(4)]
# Seconds of work, not moments: 60 blocks of 1,024 resamples in each of 4 shards.
BLOCKS = 60
RESAMPLES = 4 * BLOCKS * 1024
COMMAND = [sys.executable, "scripts/launch.py", "--config", "config.yaml", "--cores", "2"]


def processes_of(folder: Path, script: str = "") -> list[int]:
    """Processes that work in a folder and run a script whose name ends so."""
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdecimal():
            continue
        try:
            if Path(os.readlink(entry / "cwd")) != folder:
                continue
            words = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue  # ended meanwhile
        if any(word.decode().endswith(script) for word in words if word):
            found.append(int(entry.name))
    return found


def wait_for(what: Callable[[], Any], seconds: float = 120) -> Any:
    """What a function gives as soon as it gives something."""
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, f"{what} gave nothing in {seconds} s"
        time.sleep(0.05)
    return result


def children_of(parent: int) -> list[int]:
    found = []
    for children in Path(f"/proc/{parent}/task").glob("*/children"):
        found += map(int, children.read_text().split())
    return found


def shard_at_work(folder: Path) -> int | None:
    """A process that has resampled some of its shard's units, but not all."""
    for process in processes_of(folder, ".crt_shard.py"):
        try:
            files = [os.readlink(f) for f in Path(f"/proc/{process}/fd").iterdir()]
        except OSError:
            continue
        for log in files:
            if "/shard-" in log and log.endswith(".log"):
                text = Path(log).read_text()
                if re.search(r" 2/\d+ ", text):
                    return process
    return None


def start(folder) -> subprocess.Popen:
    """Launch a run whose output goes to `output_of`."""
    with output_file(folder).open("w") as output:
        return subprocess.Popen(
            COMMAND,
            cwd=folder.path,
            env=folder.environment,
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=subprocess.STDOUT,
        )


def output_file(folder) -> Path:
    return folder.path.parent / f"{folder.path.name}.txt"


def output_of(folder) -> str:
    return output_file(folder).read_text()


def run(folder) -> tuple[int, str]:
    code = start(folder).wait()
    return code, output_of(folder)


def times(folder) -> dict[str, int]:
    """When each finished shard was written."""
    paths = {shard: folder.path / shard for shard in SHARDS}
    return {shard: p.stat().st_mtime_ns for shard, p in paths.items() if p.exists()}


def remove_results_of_shards(folder) -> None:
    for path in (folder.path / SCREEN / "A").rglob("*"):
        if path.is_file() and path.name not in {"outcome.h5ad", "propensity.h5"}:
            path.unlink()


@pytest.fixture(scope="module")
def undisturbed(launched, tiny):
    """A checkout in which a run went well."""
    config = tiny()
    config["analyses"]["A"]["resamples"] = RESAMPLES
    config["scatter"] = {"batches": 1, "shards": len(SHARDS)}
    launched.configure(config)
    code, text = run(launched)
    assert code == 0, text
    return launched


@pytest.fixture
def before_shards(undisturbed, tmp_path) -> Iterator:
    """The same checkout when everything is made but the shards and what follows."""
    place = tmp_path / "a checkout"
    folder = undisturbed.copy(place, place)
    remove_results_of_shards(folder)
    yield folder
    for process in processes_of(place):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)


def assert_finishes_like(undisturbed, folder) -> None:
    # A shard that outlived its Snakemake writes the same bytes once more.
    wait_for(lambda: not processes_of(folder.path))
    assert folder.contents() == undisturbed.contents()
    assert [path.name for path in folder.path.rglob("*.tmp")] == []


def finished_shards(folder) -> int:
    """Shards whose end Snakemake has printed."""
    return output_of(folder).count("(Rule: crt_shard)")


def is_noted(folder, shard: str) -> bool:
    """Whether Snakemake has taken note of a shard that is there; it prints the end before that."""
    marker = urlsafe_b64encode(shard.encode()).decode()
    return not (folder.path / ".snakemake/incomplete" / marker).exists()


@pytest.mark.parametrize("victim", ["launcher", "snakemake"])
def test_a_run_killed_amid_its_shards_is_finished_by_the_same_command(
    victim, before_shards, undisturbed
):
    launcher = start(before_shards)
    # One shard is done, another one is under way.
    made = wait_for(lambda: times(before_shards))
    wait_for(lambda: all(is_noted(before_shards, shard) for shard in made))
    # Snakemake touches what a job has made, before it takes note.
    done = {shard: time for shard, time in times(before_shards).items() if shard in made}
    orphan = wait_for(lambda: shard_at_work(before_shards.path))
    if victim == "launcher":
        launcher.kill()
    else:
        (snakemake,) = children_of(launcher.pid)
        os.kill(snakemake, signal.SIGKILL)
    # A job outlives the kill, and the next run does not wait for it.
    assert orphan in processes_of(before_shards.path, ".crt_shard.py")
    assert launcher.wait(10) == (-signal.SIGKILL if victim == "launcher" else 128 + 9)

    code, text = run(before_shards)
    assert code == 0, text
    assert "the last run here was killed; removing its lock" in text
    assert {shard: times(before_shards)[shard] for shard in done} == done
    assert_finishes_like(undisturbed, before_shards)


def test_a_killed_shard_fails_the_run_and_the_same_command_finishes_it(before_shards, undisturbed):
    launcher = start(before_shards)
    os.kill(wait_for(lambda: shard_at_work(before_shards.path)), signal.SIGKILL)
    assert launcher.wait() == 1
    assert output_of(before_shards).count("Error in rule crt_shard") == 1
    done = times(before_shards)
    assert len(done) == finished_shards(before_shards) < len(SHARDS)
    assert not (before_shards.path / SCREEN / "A" / "effects.parquet").exists()

    code, text = run(before_shards)
    assert code == 0, text
    assert {shard: times(before_shards)[shard] for shard in done} == done
    assert_finishes_like(undisturbed, before_shards)


def test_a_whole_process_group_killed_is_finished_by_the_same_command(before_shards, undisturbed):
    """As when a laptop's battery dies or a session is closed hard."""
    launcher = start(before_shards)
    wait_for(lambda: shard_at_work(before_shards.path))
    for process in processes_of(before_shards.path):
        with suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
    launcher.wait()
    wait_for(lambda: not processes_of(before_shards.path))
    code, text = run(before_shards)
    assert code == 0, text
    assert_finishes_like(undisturbed, before_shards)


@pytest.mark.parametrize("damage", ["truncated", "one bit", "another shard"])
def test_a_damaged_shard_is_refused_by_name_and_the_named_command_mends_it(
    damage, undisturbed, tmp_path
):
    place = tmp_path / "a checkout"
    folder = undisturbed.copy(place, place)
    shard = place / SHARDS[1]
    whole = shard.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "one bit": with_a_flipped_bit(whole),
        "another shard": (place / SHARDS[2]).read_bytes(),
    }
    shard.write_bytes(damaged[damage])
    for made in ("batch-0000/null.h5", "batch-0000.parquet", "effects.parquet"):
        (place / SCREEN / "A" / made).unlink()

    code, text = run(folder)
    assert code == 1
    assert "Error in rule crt_merge" in text
    assert "crt_shard" not in text
    if damage == "another shard":
        assert f"no shard holds block {BLOCKS}" in text
    else:
        assert SHARDS[1] in text
    assert not (place / SCREEN / "A" / "batch-0000" / "null.h5").exists()

    folder.snakemake("--forcerun", SHARDS[1])
    assert folder.contents() == undisturbed.contents()


def with_a_flipped_bit(contents: bytes) -> bytes:
    at = len(contents) // 2
    return contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :]


def test_a_half_written_file_of_a_killed_writer_is_never_read_and_is_cleared(
    before_shards, undisturbed
):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = f"{BATCH}/.shard-0001.h5.{socket.gethostname()}.{dead.pid}.tmp"
    before_shards.write(left, b"\x89HDF\r\n\x1a\n half a file")
    text = before_shards.snakemake("--dry-run", left, fails=True)
    # No rule makes a file of that name.
    assert "MissingRuleException" in text
    code, text = run(before_shards)
    assert code == 0, text
    assert_finishes_like(undisturbed, before_shards)
