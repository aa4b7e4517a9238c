"""Checkouts whose runs go through a cluster, and the names of what they make."""

import os
import shutil
import signal
import subprocess
import sys
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

import launch
from workflow.conftest import PARTS, jobs_in

ROOT = Path(__file__).resolve().parents[2]
RESULTS = "results/demo/crt"
EFFECTS = f"{RESULTS}/effects.parquet"
BATCHES = 2
SHARDS_PER_BATCH = 4
# What a profile for a real cluster says too long for jobs of seconds.
HASTE = {
    "profiles/slurm": ["--slurm-init-seconds-before-status-checks", "2"],
    "profiles/generic": ["--seconds-between-status-checks", "1"],
}


def shard_file(batch: int, shard: int) -> str:
    """Path of a shard."""
    return f"{RESULTS}/batch-{batch:04d}/shard-{shard:04d}.h5"


def merged(batch: int) -> str:
    """Path of what is merged of a batch's shards."""
    return f"{RESULTS}/batch-{batch:04d}/null.h5"


def table(batch: int) -> str:
    """Path of what a batch's merged shards become."""
    return f"{RESULTS}/batch-{batch:04d}.parquet"


SHARDS = {shard_file(b, s): (b, s) for b in range(BATCHES) for s in range(SHARDS_PER_BATCH)}


@dataclass
class Checkout:
    """A checkout that is its own working directory, as the launcher's is.

    Attributes
    ----------
    path : pathlib.Path
    environment : dict of str to str
    output : pathlib.Path
        File of what the run that was started last prints.
    started : list of subprocess.Popen
        Runs that were started here.
    """

    path: Path
    environment: dict[str, str] = field(repr=False)
    output: Path
    started: list[subprocess.Popen] = field(default_factory=list, repr=False)

    def start(
        self,
        *arguments: str,
        profile: str = "profiles/slurm",
        goal: str = "all",
        in_haste: bool = True,
    ) -> subprocess.Popen:
        """Start a run, by the command that ``make run`` gives; its words go to `said`."""
        launcher = [sys.executable, "scripts/launch.py", "--config", "config.yaml"]
        haste = [*HASTE.get(profile, []), "--latency-wait", "20"] if in_haste else []
        with self.output.open("w") as output:
            process = subprocess.Popen(
                [*launcher, "--profile", profile, "--", *arguments, *haste, "--", goal],
                cwd=self.path,
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
            )
        self.started.append(process)
        return process

    def said(self) -> str:
        """What the run that was started last has printed."""
        return self.output.read_text()

    def run(self, *arguments: str, fails: bool = False, **how: Any) -> str:
        """Run as `start` does, expect it to succeed (or to fail), give what it printed."""
        code = self.start(*arguments, **how).wait()
        text = self.said()
        assert (code != 0) == fails, text
        return text

    def planned(self, goal: str = "all") -> dict[str, str]:
        """The jobs of a dry run: rule by first output file."""
        text = self.run("--dry-run", profile="profiles/default", goal=goal)
        jobs = jobs_in(text)
        assert ("Nothing to be done" in text) != bool(jobs), text
        jobs.pop("all", None)
        return jobs

    def remove(self, *paths: str) -> None:
        """Remove results, as if they had not been made yet."""
        for path in paths:
            (self.path / path).unlink()

    def remove_shards(self, *batches: int) -> None:
        """Remove shards of some batches, and all that is made from shards."""
        kept = {f"{RESULTS}/{name}" for name in ("outcome.h5ad", "ntc_groups.tsv", "units.tsv")}
        kept |= {path for path, (batch, _) in SHARDS.items() if batch not in batches}
        for b in set(range(BATCHES)) - set(batches):
            kept |= {merged(b), table(b), f"{RESULTS}/batch-{b:04d}.crt_null.tsv"}
        for path in (self.path / RESULTS).rglob("*"):
            if path.is_file() and path.name != "propensity.h5":
                if str(path.relative_to(self.path)) not in kept:
                    path.unlink()

    def contents(self) -> dict[str, bytes]:
        """The bytes of every result, by path."""
        files = (path for path in (self.path / "results").rglob("*") if path.is_file())
        return {str(path.relative_to(self.path)): path.read_bytes() for path in files}

    def copy(self, to: Path) -> "Checkout":
        """The same state in another place, times of files and Snakemake's records included."""
        shutil.copytree(self.path, to)
        return Checkout(to, self.environment, to.with_suffix(".txt"))

    def stop(self) -> None:
        """End what runs here."""
        for process in self.started:
            if process.poll() is None:
                with suppress(ProcessLookupError):
                    os.kill(process.pid, signal.SIGKILL)
                process.wait()


def small_demo() -> dict:
    """The demo with fewer cells, targets and resamples, and more shards."""
    config = yaml.safe_load((ROOT / "config" / "config.yaml").read_text())
    config["screens"]["demo"]["simulate"] |= {"n_cells": 1500, "n_programs": 4, "n_targets": 10}
    # Without refinement, which takes two more rounds of jobs.
    config["analyses"]["crt"]["calibration"] = "skew_normal"
    # A block short of two for every shard, the last block cut short.
    config["analyses"]["crt"]["resamples"] = (2 * SHARDS_PER_BATCH - 1) * 1024 - 10
    config["scatter"] = {"batches": BATCHES, "shards": SHARDS_PER_BATCH}
    return config


def new_checkout(folder: Path, environment: dict[str, str], config: dict) -> Checkout:
    """A checkout below a folder, configured, in which nothing has run."""
    place = folder / "checkout"
    place.mkdir()
    for part in PARTS:
        copy = shutil.copytree if (ROOT / part).is_dir() else shutil.copy2
        copy(ROOT / part, place / part)
    (place / "config.yaml").write_text(yaml.safe_dump(config))
    return Checkout(place, environment, place.with_suffix(".txt"))


def environment_of_runs(kernels: Path) -> dict[str, str]:
    """The environment of runs, and where kernels are compiled to unless it says so itself."""
    made = launch.snakemake_environment()
    made.setdefault("CONDRAND_CACHE", str(kernels))
    made.pop("SNAKEMAKE_PROFILE", None)
    # Without bytecode each of a job's three starts compiles all it imports.
    made.pop("PYTHONDONTWRITEBYTECODE", None)
    return made
