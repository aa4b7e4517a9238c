"""Files appear whole or not at all, and killed writers are cleaned up after."""

import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from condrand.io.atomic import replacing


def names(folder: Path) -> list[str]:
    """Everything in a folder, hidden files too."""
    return sorted(entry.name for entry in folder.iterdir())


def litter(path: Path, pid: int, host: str | None = None) -> Path:
    """A temporary file as a writer of that process would have left it."""
    left = path.with_name(f".{path.name}.{host or socket.gethostname()}.{pid}.tmp")
    left.write_text("half")
    return left


@pytest.fixture
def dead_pid() -> int:
    """The id of a process that has ended."""
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    return process.pid


def test_the_file_appears_when_the_block_ends_and_its_folder_is_made(tmp_path):
    path = tmp_path / "a" / "b" / "result.txt"
    with replacing(path) as temporary:
        temporary.write_text("whole")
        assert not path.exists() and temporary.parent == path.parent
    assert path.read_text() == "whole"
    assert names(path.parent) == ["result.txt"]


def test_an_old_file_stays_until_the_new_one_is_whole(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with replacing(str(path)) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"


def test_a_failed_block_leaves_the_old_file_and_no_litter(tmp_path):
    path = tmp_path / "result.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="midway"), replacing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("midway")
    assert path.read_text() == "old" and names(tmp_path) == ["result.txt"]


def test_a_block_that_writes_nothing_is_an_error(tmp_path):
    with pytest.raises(FileNotFoundError), replacing(tmp_path / "result.txt"):
        pass
    assert names(tmp_path) == []


@pytest.mark.parametrize("name", ["SIGKILL", "SIGTERM"])
def test_a_killed_writer_leaves_no_result_and_the_next_one_clears_its_litter(
    tmp_path, kill_midway, name
):
    path = tmp_path / "result.txt"
    code = (
        "import sys, time\n"
        "from condrand.io.atomic import replacing\n"
        "with replacing(sys.argv[1]) as temporary:\n"
        "    temporary.write_text('half')\n"
        "    print('written', flush=True)\n"
        "    time.sleep(60)\n"
    )
    kill_midway(code, path, "written", getattr(signal, name))
    assert not path.exists() and len(names(tmp_path)) == 1
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert names(tmp_path) == ["result.txt"] and path.read_text() == "whole"


def test_only_the_litter_of_dead_writers_of_this_file_on_this_host_is_cleared(tmp_path, dead_pid):
    path = tmp_path / "result.txt"
    dead = litter(path, dead_pid)
    kept = [
        litter(path, os.getppid()),
        litter(path, dead_pid, "another-host"),
        litter(tmp_path / "other.txt", dead_pid),
    ]
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert not dead.exists()
    assert all(left.exists() for left in kept)


def test_litter_is_cleared_for_names_with_brackets_too(tmp_path, dead_pid):
    path = tmp_path / "result[1].txt"
    dead = litter(path, dead_pid)
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert not dead.exists()


def test_a_host_whose_name_begins_with_ours_keeps_its_files(tmp_path, dead_pid):
    path = tmp_path / "result.txt"
    theirs = litter(path, dead_pid, f"{socket.gethostname()}.cluster")
    with replacing(path) as temporary:
        temporary.write_text("whole")
    assert theirs.exists()
