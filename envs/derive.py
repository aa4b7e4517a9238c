"""Derive the conda file and the pip lock from the pins in pyproject.toml.

A version is written in one place only, ``pyproject.toml``; what other tools want to read is
made from it:

* ``condrand.yaml``: environment of the rules' ``conda:`` directive (``dependencies`` only),
* ``requirements.lock``: every package pip installs, with hashes (all extras).

``python envs/derive.py`` writes both, ``python envs/derive.py --check`` says which of them no
longer belongs to the pins. The check needs no network: the lock's first line holds a digest of
the lists it was made from.
"""

import argparse
import filecmp
import hashlib
import importlib.util
import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CONDA_FILE = "envs/condrand.yaml"
LOCK_FILE = "envs/requirements.lock"
DIGEST_PREFIX = "# pins blake2b "

# conda-forge's `matplotlib` adds Qt, which no batch job needs.
CONDA_NAMES = {"matplotlib": "matplotlib-base"}

PIN = re.compile(r"(?P<name>[A-Za-z0-9._-]+)==(?P<version>[A-Za-z0-9.+!]+)")
MINIMUM_PYTHON = re.compile(r">=(?P<version>3\.\d+)")


def read_project(root: Path) -> dict:
    """Give the tables of ``pyproject.toml``."""
    return tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))


def split_pin(requirement: str) -> tuple[str, str]:
    """Give name and version of a requirement ``name==version``."""
    match = PIN.fullmatch(requirement)
    if match is None:
        raise ValueError(
            f"pyproject.toml: {requirement!r} is not of the form name==version; "
            "every direct dependency is pinned to one version"
        )
    return match["name"], match["version"]


def direct_pins(project: dict) -> dict[str, str]:
    """Give version by name for the dependencies and all extras."""
    table = project["project"]
    requirements = list(table["dependencies"])
    for extra in table["optional-dependencies"].values():
        requirements += extra
    return dict(split_pin(requirement) for requirement in requirements)


def pins_digest(project: dict) -> str:
    """Give the digest of all lists the lock is made from.

    Notes
    -----
    Definition: blake2b of the canonical JSON of ``requires-python``, ``dependencies`` and
    ``optional-dependencies``, the lists sorted, so that reordering a list is no drift.
    """
    table = project["project"]
    pinned = {
        "requires-python": table["requires-python"],
        "dependencies": sorted(table["dependencies"]),
        "optional-dependencies": {
            extra: sorted(requirements)
            for extra, requirements in table["optional-dependencies"].items()
        },
    }
    text = json.dumps(pinned, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def conda_text(project: dict) -> str:
    """Give the text of the conda environment file."""
    table = project["project"]
    minimum = MINIMUM_PYTHON.fullmatch(table["requires-python"])
    if minimum is None:
        raise ValueError(
            f"pyproject.toml: requires-python = {table['requires-python']!r}, expected '>=3.N'"
        )
    lines = [
        "# Derived from pyproject.toml by `make lock`; edit the versions there.",
        "channels:",
        "  - conda-forge",
        "  - bioconda",
        "  - nodefaults",
        "dependencies:",
        f"  - python={minimum['version']}",
    ]
    for requirement in table["dependencies"]:
        name, version = split_pin(requirement)
        lines.append(f"  - {CONDA_NAMES.get(name, name)}={version}")
    return "\n".join(lines) + "\n"


def digest_line(project: dict) -> str:
    """Give the first line of the lock."""
    return f"{DIGEST_PREFIX}{pins_digest(project)} (of the lists in pyproject.toml; make lock)\n"


def first_line(path: Path) -> str:
    """Give the first line of a file, empty if there is no such file."""
    if not path.is_file():
        return ""
    with path.open(encoding="utf-8") as lines:
        return lines.readline()


def drifted(root: Path) -> list[str]:
    """Give the derived files under ``root`` that do not belong to its pins."""
    project = read_project(root)
    files = []
    conda = root / CONDA_FILE
    if not conda.is_file() or conda.read_text(encoding="utf-8") != conda_text(project):
        files.append(CONDA_FILE)
    if first_line(root / LOCK_FILE) != digest_line(project):
        files.append(LOCK_FILE)
    return files


def resolve(root: Path, output: Path) -> None:
    """Let uv resolve all extras of ``pyproject.toml`` into ``output``."""
    if importlib.util.find_spec("uv") is None:
        uv = read_project(root)["dependency-groups"]["lock"]
        subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", *uv], check=True)
    command = [sys.executable, "-m", "uv", "pip", "compile", "pyproject.toml", "--quiet"]
    command += ["--all-extras", "--universal", "--generate-hashes"]
    command += ["--no-emit-index-url", "--no-header", "--output-file", str(output)]
    # With --quiet uv still repeats the result on standard output.
    subprocess.run(command, cwd=root, check=True, stdout=subprocess.DEVNULL)


def derive(root: Path) -> None:
    """Write both files under ``root``."""
    project = read_project(root)
    lock = root / LOCK_FILE
    partial = lock.with_name(f".{lock.name}.partial")
    # uv keeps the versions it finds in its output file, so a changed pin moves only what it must.
    if lock.is_file():
        shutil.copyfile(lock, partial)
    try:
        resolve(root, partial)
        # Of what it was seeded with uv keeps the pins, not the comments.
        partial.write_text(digest_line(project) + partial.read_text(encoding="utf-8"))
        # `make env` starts anew from a newer lock, so an equal one stays as old as it is.
        if not lock.is_file() or not filecmp.cmp(partial, lock, shallow=False):
            os.replace(partial, lock)
    finally:
        partial.unlink(missing_ok=True)
    (root / CONDA_FILE).write_text(conda_text(project), encoding="utf-8")


def main(arguments: list[str] | None = None) -> int:
    """Derive or check; give the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--check", action="store_true", help="write nothing; exit 1 if a file has drifted"
    )
    options = parser.parse_args(arguments)
    if not options.check:
        derive(ROOT)
        return 0
    files = drifted(ROOT)
    for file in files:
        print(f"{file} does not belong to the pins in pyproject.toml: run `make lock`")
    return 1 if files else 0


if __name__ == "__main__":
    sys.exit(main())
