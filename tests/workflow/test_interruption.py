"""Killed runs: the same command again finishes with the bytes of a run that nobody disturbed."""

import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.slow

SCREEN, BATCH = "results/S", "results/S/A/batch-0000"
SHARDS = [f"{BATCH}/shard-{shard:04d}.h5" for shard in range(4)]
# Seconds of work, not moments: 72 blocks of 1,024 resamples in each of 4 shards.
RESAMPLES = 4 * 72 * 1024
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
    return subprocess.Popen(
        COMMAND,
        cwd=folder.path,
        env=folder.environment,
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def run(folder) -> tuple[int, str]:
    process = start(folder)
    text, _ = process.communicate()
    return process.returncode, text


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
        os.kill(process, signal.SIGKILL)


def assert_finishes_like(undisturbed, folder) -> None:
    # A shard that outlived its Snakemake writes the same bytes once more.
    wait_for(lambda: not processes_of(folder.path))
    assert folder.contents() == undisturbed.contents()
    assert [path.name for path in folder.path.rglob("*.tmp")] == []


@pytest.mark.parametrize("victim", ["launcher", "snakemake"])
def test_a_run_killed_amid_its_shards_is_finished_by_the_same_command(
    victim, before_shards, undisturbed
):
    launcher = start(before_shards)
    # One shard is done, another one is under way.
    wait_for(lambda: times(before_shards))
    orphan = wait_for(lambda: shard_at_work(before_shards.path))
    if victim == "launcher":
        launcher.kill()
    else:
        others = set(processes_of(before_shards.path, "snakemake")) - {launcher.pid}
        (snakemake,) = others
        os.kill(snakemake, signal.SIGKILL)
    assert launcher.wait(10) == (-signal.SIGKILL if victim == "launcher" else 128 + 9)
    launcher.stdout.close()
    done = times(before_shards)
    assert 0 < len(done) < len(SHARDS)
    # The job outlives the kill; the second run does not wait for it.
    assert orphan in processes_of(before_shards.path)

    code, text = run(before_shards)
    assert code == 0, text
    assert "the last run here was killed; removing its lock" in text
    assert {shard: times(before_shards)[shard] for shard in done} == done
    assert_finishes_like(undisturbed, before_shards)


def test_a_killed_shard_fails_the_run_and_the_same_command_finishes_it(before_shards, undisturbed):
    launcher = start(before_shards)
    os.kill(wait_for(lambda: shard_at_work(before_shards.path)), signal.SIGKILL)
    text, _ = launcher.communicate()
    assert launcher.returncode == 1
    assert text.count("Error in rule crt_shard") == 1
    done = times(before_shards)
    assert len(done) < len(SHARDS)
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
        os.kill(process, signal.SIGKILL)
    launcher.communicate()
    wait_for(lambda: not processes_of(before_shards.path))
    code, text = run(before_shards)
    assert code == 0, text
    assert_finishes_like(undisturbed, before_shards)


@pytest.mark.parametrize("damage", ["truncated", "empty", "one bit", "another shard"])
def test_a_damaged_shard_is_refused_by_name_and_the_named_command_mends_it(
    damage, undisturbed, tmp_path
):
    place = tmp_path / "a checkout"
    folder = undisturbed.copy(place, place)
    shard = place / SHARDS[1]
    whole = shard.read_bytes()
    damaged = {
        "truncated": whole[: len(whole) // 2],
        "empty": b"",
        "one bit": flip_a_bit_of_a_number(whole),
        "another shard": (place / SHARDS[2]).read_bytes(),
    }
    shard.write_bytes(damaged[damage])
    (place / SCREEN / "A" / "batch-0000.parquet").unlink()
    (place / SCREEN / "A" / "effects.parquet").unlink()

    code, text = run(folder)
    assert code == 1
    assert "Error in rule crt_merge" in text
    assert "crt_shard" not in text
    if damage == "another shard":
        assert "no shard holds block 72" in text
    else:
        assert SHARDS[1] in text
    assert not (place / SCREEN / "A" / "batch-0000.parquet").exists()

    folder.snakemake("--forcerun", SHARDS[1])
    assert folder.contents() == undisturbed.contents()


def flip_a_bit_of_a_number(shard: bytes) -> bytes:
    # Somewhere in a compressed dataset; HDF5 itself may notice, or only the checksum.
    at = len(shard) // 2
    return shard[:at] + bytes([shard[at] ^ 1]) + shard[at + 1 :]


def test_a_half_written_file_of_a_killed_writer_is_never_read_and_is_cleared(
    before_shards, undisturbed
):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    left = f"{BATCH}/.shard-0001.h5.{socket.gethostname()}.{dead.pid}.tmp"
    before_shards.write(left, b"\x89HDF\r\n\x1a\n half a file")
    text = before_shards.snakemake("--dry-run", left, fails=True)
    # The file is there and no rule makes it: as a target it is left as it is, or is unknown.
    assert "MissingRuleException" in text
    code, text = run(before_shards)
    assert code == 0, text
    assert_finishes_like(undisturbed, before_shards)
