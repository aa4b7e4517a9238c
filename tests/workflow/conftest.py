"""Runs of the workflow, each in a folder of its own."""

import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml

import launch

ROOT = Path(__file__).resolve().parents[2]
PARTS = ("Snakefile", "workflow", "scripts", "profiles", "envs")

JOB = re.compile(r"^(?:local)?rule (\w+):\n((?: {4}.*\n)*)", re.MULTILINE)
OUTPUT = re.compile(r"^ {4}output: ([^,\n]+)", re.MULTILINE)


def jobs_in(text: str) -> dict[str, str]:
    """The jobs Snakemake names in its output: rule by first output file (`all` has none)."""
    jobs = {}
    for rule, block in JOB.findall(text):
        output = OUTPUT.search(block)
        jobs[output[1] if output else rule] = rule
    return jobs


@dataclass(frozen=True)
class Folder:
    """A working directory with one config file.

    Attributes
    ----------
    path : pathlib.Path
    checkout : pathlib.Path
        Where the Snakefile is.
    environment : dict of str to str
    """

    path: Path
    checkout: Path
    environment: dict[str, str] = field(repr=False)

    @property
    def config_file(self) -> Path:
        """The config of every run here."""
        return self.path / "config.yaml"

    def configure(self, config: dict[str, Any]) -> None:
        """Write the config file."""
        self.config_file.write_text(yaml.safe_dump(config, sort_keys=False))

    def change(self, *path_and_value: Any) -> None:
        """Set one value of the config: keys, then the value."""
        config = yaml.safe_load(self.config_file.read_text())
        *keys, last, value = path_and_value
        section = config
        for key in keys:
            section = section.setdefault(key, {})
        section[last] = value
        self.configure(config)

    def command(self, *arguments: str) -> list[str]:
        """The command line of Snakemake here."""
        return [
            *launch.snakemake_command(),
            *("--snakefile", str(self.checkout / "Snakefile")),
            *("--directory", str(self.path)),
            *("--workflow-profile", str(self.checkout / "profiles" / "default")),
            *("--configfile", str(self.config_file)),
            *("--cores", "2"),
            *arguments,
        ]

    def snakemake(self, *arguments: str, fails: bool = False) -> str:
        """Run Snakemake, expect it to succeed (or to fail), give what it printed."""
        done = subprocess.run(
            self.command(*arguments),
            env=self.environment,
            cwd=self.path,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert (done.returncode != 0) == fails, done.stdout
        return done.stdout

    def planned(self, *arguments: str) -> dict[str, str]:
        """The jobs of a dry run: rule by first output file, without `all`."""
        text = self.snakemake("--dry-run", *arguments)
        jobs = jobs_in(text)
        nothing = "Nothing to be done" in text
        assert nothing != bool(jobs), text
        jobs.pop("all", None)
        return jobs

    def copy(self, to: Path, checkout: Path | None = None) -> "Folder":
        """The same state in another place: times of files and Snakemake's records included."""
        shutil.copytree(self.path, to, dirs_exist_ok=True)
        return Folder(to, checkout or self.checkout, self.environment)

    def contents(self, below: str = "results") -> dict[str, bytes]:
        """The bytes of every file, by path."""
        files = (path for path in (self.path / below).rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}

    def write(self, path: str, contents: bytes = b"") -> Path:
        """Put a file in place."""
        whole = self.path / path
        whole.parent.mkdir(parents=True, exist_ok=True)
        whole.write_bytes(contents)
        return whole


def tiny_config(**screen: Any) -> dict[str, Any]:
    """One screen S of 500 cells, 6 targets and 3 programs; one analysis A."""
    return {
        "seed": 123,
        "screens": {
            "S": screen or {"simulate": {"n_cells": 500, "n_programs": 3, "n_targets": 6}}
        },
        "analyses": {"A": {"engine": "crt", "resamples": 2048}},
        "scatter": {"batches": 2, "shards": 2},
    }


@pytest.fixture(scope="session")
def tiny():
    """Make the smallest config there is, to be changed."""
    return tiny_config


@pytest.fixture(scope="session")
def workflow_environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of every run; kernels are compiled once for all of them."""
    environment = launch.snakemake_environment()
    # `make test` has a cache that outlives the session, named by the kernels' own digest.
    environment.setdefault("CONDRAND_CACHE", str(tmp_path_factory.mktemp("kernels")))
    # A personal default profile must not change the runs.
    environment.pop("SNAKEMAKE_PROFILE", None)
    return environment


@pytest.fixture(scope="session")
def folder_at(workflow_environment: dict[str, str]):
    """Make a working directory at a path, which several tests may share."""

    def make(path: Path, config: dict[str, Any]) -> Folder:
        folder = Folder(path, ROOT, dict(workflow_environment))
        folder.path.mkdir(parents=True, exist_ok=True)
        folder.configure(config)
        return folder

    return make


@pytest.fixture
def new_folder(tmp_path: Path, workflow_environment: dict[str, str]):
    """Make a working directory below tmp_path."""

    def make(config: dict[str, Any], name: str = "run", checkout: Path = ROOT) -> Folder:
        folder = Folder(tmp_path / name, checkout, dict(workflow_environment))
        folder.path.mkdir()
        folder.configure(config)
        return folder

    return make


@pytest.fixture(scope="session")
def finished(tmp_path_factory: pytest.TempPathFactory, workflow_environment) -> Folder:
    """A complete run, which no test may change: 2 batches x 2 shards of one block each."""
    folder = Folder(tmp_path_factory.mktemp("finished"), ROOT, workflow_environment)
    folder.configure(tiny_config())
    folder.snakemake()
    return folder


@pytest.fixture
def copy_of_finished(finished: Folder, tmp_path: Path) -> Folder:
    """A complete run that a test may change."""
    return finished.copy(tmp_path / "run")


@pytest.fixture
def copy_of_done(done: Folder, tmp_path: Path) -> Folder:
    """The complete run `done` of a file of tests, to be changed."""
    return done.copy(tmp_path / "run")


def copy_checkout(folder: Path) -> Path:
    """A checkout of its own below a folder, under a path with a space."""
    place = folder / "a checkout"
    place.mkdir()
    for part in PARTS:
        if (ROOT / part).is_dir():
            shutil.copytree(ROOT / part, place / part)
        else:
            shutil.copy2(ROOT / part, place / part)
    return place


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """A checkout that a test may change."""
    return copy_checkout(tmp_path)


@pytest.fixture(scope="module")
def launched(tmp_path_factory: pytest.TempPathFactory, workflow_environment) -> Folder:
    """A checkout, not yet configured, that is its own working directory, as the launcher's is."""
    place = copy_checkout(tmp_path_factory.mktemp("launched"))
    return Folder(place, place, dict(workflow_environment))
