"""The pins in pyproject.toml and the two files derived from them belong together."""

import importlib.util
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

ROOT = Path(__file__).resolve().parents[2]
LOCKED = re.compile(r"^(?P<name>[A-Za-z0-9._-]+)==(?P<version>[^\s;\\]+)", re.MULTILINE)


def load_derive() -> ModuleType:
    spec = importlib.util.spec_from_file_location("derive", ROOT / "envs" / "derive.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


derive = load_derive()


@pytest.fixture
def copy(tmp_path: Path) -> Path:
    """A checkout that holds only what derive.py reads."""
    (tmp_path / "envs").mkdir()
    for file in ("pyproject.toml", "envs/derive.py", derive.CONDA_FILE, derive.LOCK_FILE):
        shutil.copyfile(ROOT / file, tmp_path / file)
    return tmp_path


def change(root: Path, old: str, new: str) -> None:
    path = root / "pyproject.toml"
    text = path.read_text()
    assert text.count(old) == 1
    path.write_text(text.replace(old, new))


def check(root: Path) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "envs/derive.py", "--check"], cwd=root, capture_output=True, text=True
    )


def numpy_pin() -> str:
    return f"numpy=={derive.direct_pins(derive.read_project(ROOT))['numpy']}"


def test_conda_file_is_what_derive_makes():
    made = derive.conda_text(derive.read_project(ROOT))
    assert (ROOT / derive.CONDA_FILE).read_text() == made


def test_conda_file_holds_the_dependencies_and_no_extra():
    project = derive.read_project(ROOT)
    text = (ROOT / derive.CONDA_FILE).read_text()
    named = dict(re.findall(r"^  - ([a-z0-9-]+)=(\S+)$", text, re.MULTILINE))
    pins = dict(derive.split_pin(pin) for pin in project["project"]["dependencies"])
    pins["matplotlib-base"] = pins.pop("matplotlib")
    assert named == {"python": "3.11", **pins}


def test_every_direct_pin_is_locked_at_its_version():
    pins = derive.direct_pins(derive.read_project(ROOT))
    text = (ROOT / derive.LOCK_FILE).read_text()
    locked = {match["name"]: match["version"] for match in LOCKED.finditer(text)}
    assert {name: locked.get(name) for name in pins} == pins


def test_every_locked_package_has_a_hash():
    text = (ROOT / derive.LOCK_FILE).read_text()
    starts = [match.start() for match in LOCKED.finditer(text)]
    blocks = [text[a:b] for a, b in zip(starts, [*starts[1:], len(text)], strict=True)]
    assert len(blocks) > len(derive.direct_pins(derive.read_project(ROOT)))
    assert [block.split()[0] for block in blocks if "--hash=sha256:" not in block] == []


def test_lock_names_no_place_to_download_from():
    # A machine's own mirror must not become everybody's.
    assert re.findall(r"https?://\S+|^--\S+", (ROOT / derive.LOCK_FILE).read_text(), re.M) == []


def test_lock_carries_the_digest_of_the_pins():
    assert derive.first_line(ROOT / derive.LOCK_FILE) == derive.digest_line(
        derive.read_project(ROOT)
    )


def test_check_accepts_an_unchanged_copy(copy: Path):
    done = check(copy)
    assert (done.returncode, done.stdout) == (0, "")


def test_check_names_both_files_after_a_dependency_changed(copy: Path):
    change(copy, numpy_pin(), "numpy==2.0.0")
    done = check(copy)
    assert done.returncode == 1
    lines = done.stdout.splitlines()
    assert [line.split()[0] for line in lines] == [derive.CONDA_FILE, derive.LOCK_FILE]
    assert all("make lock" in line for line in lines)


def test_check_names_only_the_lock_after_an_extra_changed(copy: Path):
    ruff = derive.direct_pins(derive.read_project(copy))["ruff"]
    change(copy, f"ruff=={ruff}", "ruff==0.1.0")
    done = check(copy)
    assert done.returncode == 1
    assert [line.split()[0] for line in done.stdout.splitlines()] == [derive.LOCK_FILE]


def test_check_names_a_hand_edited_conda_file(copy: Path):
    path = copy / derive.CONDA_FILE
    path.write_text(path.read_text().replace("numpy=", "numpy>="))
    assert derive.drifted(copy) == [derive.CONDA_FILE]


@pytest.mark.parametrize("file", ["envs/condrand.yaml", "envs/requirements.lock"])
def test_check_names_a_missing_file(copy: Path, file: str):
    (copy / file).unlink()
    assert derive.drifted(copy) == [file]


def test_reordering_a_list_is_no_drift_of_the_lock(copy: Path):
    project = derive.read_project(copy)
    digest = derive.pins_digest(project)
    project["project"]["dependencies"].reverse()
    assert derive.pins_digest(project) == digest


def test_unpinned_dependency_is_refused(copy: Path):
    change(copy, f'"{numpy_pin()}"', '"numpy>=2"')
    with pytest.raises(ValueError, match="numpy>=2.*name==version"):
        derive.drifted(copy)
