"""Files that a run cannot use, and a disk on which nothing fits any more."""

import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from cluster.checkouts import BATCHES, EFFECTS, SHARDS, Checkout, merged, shard_file

pytestmark = pytest.mark.cluster

LAST = BATCHES - 1


@pytest.mark.parametrize("damage", ["truncated", "one bit"])
def test_a_damaged_shard_is_named_at_the_merge_and_made_again_once_it_is_removed(
    damage, before_last_batch, cluster, local
):
    checkout = before_last_batch
    whole = local.contents()
    for path, (batch, _) in SHARDS.items():
        if batch == LAST:
            (checkout.path / path).write_bytes(whole[path])
    damaged = shard_file(LAST, 2)
    contents = whole[damaged]
    at = len(contents) // 2
    (checkout.path / damaged).write_bytes(
        contents[:at] if damage == "truncated" else flip(contents, at)
    )
    text = checkout.run("--retries", "0", goal=EFFECTS, fails=True)
    assert "Error in rule crt_merge" in text
    assert damaged in error_of(text)
    assert not (checkout.path / merged(LAST)).exists()
    if damage != "truncated":
        return  # What follows is the same.

    checkout.remove(damaged)
    known = {job.number for job in cluster.jobs()}
    checkout.run(goal=EFFECTS)
    new = [job.rule for job in cluster.jobs() if job.number not in known]
    assert sorted(new) == ["crt_effects", "crt_merge", "crt_shard", "merge_effects"]
    made = checkout.contents()
    assert made == {path: whole[path] for path in made}
    assert EFFECTS in made


def flip(contents: bytes, at: int) -> bytes:
    return contents[:at] + bytes([contents[at] ^ 1]) + contents[at + 1 :]


def error_of(text: str) -> str:
    """What a run prints of the logs of its failed jobs, from the first error on."""
    return text[re.search(r"^Error in rule ", text, re.MULTILINE).start() :]


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of its own, of 64 MiB."""
    place = tmp_path / "disk"
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64m", "private-disk", str(place)]
    done = subprocess.run(mount, capture_output=True, text=True)
    if done.returncode != 0:
        pytest.skip(f"no file system can be mounted here: {done.stderr}")
    yield place
    subprocess.run(["umount", "--lazy", str(place)], check=True)


def test_a_full_disk_fails_the_run_by_its_name_and_it_goes_on_when_there_is_room(
    cluster, copies, small_disk, local, tmp_path
):
    checkout: Checkout = copies(small_disk / "checkout")
    # As a terminal, which needs no disk.
    checkout.output = tmp_path / "said.txt"
    checkout.remove_shards(LAST)
    filler = small_disk / "filler"
    fill(filler)
    text = checkout.run("--retries", "0", goal=EFFECTS, fails=True)
    assert "No space left on device" in text
    assert not (checkout.path / EFFECTS).exists()

    filler.unlink()
    checkout.run(goal=EFFECTS)
    made, whole = checkout.contents(), local.contents()
    assert made == {path: whole[path] for path in made}
    assert EFFECTS in made


def fill(filler: Path) -> None:
    """Write until nothing fits; then give back what the beginnings of logs need."""
    with filler.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(2**16))
        except OSError:
            file.truncate(file.tell() - 2**16)
