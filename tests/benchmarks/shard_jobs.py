"""Many small shard jobs through a private SLURM: what a job costs, and whether any is lost.

    make benchmark-jobs   (or: python tests/benchmarks/shard_jobs.py [--shards 100] ...)

Needs root on Debian. Runs the small screen of the tests, with profiles/slurm as it stands, in
batches x shards jobs on four nodes; a share of all attempts is killed by dice: at their start, at
work, or when the shard is written. Then the same work in a tenth as many jobs, undisturbed.
Prints CPU and memory of a job beside its work, how fast jobs are submitted and how late their
ends are noticed, and what larger shards save. Ends with an error if a result is not that of a
local run, if a shard was ever written with other bytes, or if a job ran that the dice did not
ask for.
"""

import argparse
import itertools
import json
import re
import resource
import shutil
import statistics
import sys
import tempfile
import time
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT / "scripts"), str(ROOT / "tests")]

import yaml  # noqa: E402

from benchmarks import fates  # noqa: E402
from cluster.checkouts import (  # noqa: E402
    EFFECTS,
    RESULTS,
    Checkout,
    environment_of_runs,
    new_checkout,
    small_demo,
)
from cluster.slurm import OURS, Cluster, install_if_missing, private_cluster  # noqa: E402
from condrand.plan import BLOCK, number  # noqa: E402

SCRIPT = "scripts/crt_shard.py"
# As the profile has it.
RETRIES = 2


@dataclass
class Figures:
    """What was seen of the shard jobs of one run.

    Attributes
    ----------
    n_shards, n_jobs : int
        Shards, and the jobs they took.
    wall_s : float
        Of the run.
    leader_cpu_s : float
        Of the process that leads the run, with what it calls.
    job_cpu_s, snakemake_cpu_s : list of float
        Of each job until its script ends, and of Snakemake's processes in it.
    snakemake_mib, script_mib : list of float
        Peak memory of Snakemake's processes, one by one, and of the script.
    submitted_s : list of float
        When each job was submitted, after the first.
    late_s : list of float
        From the end of each good job until Snakemake says so.
    """

    n_shards: int
    n_jobs: int
    wall_s: float
    leader_cpu_s: float
    job_cpu_s: list[float]
    snakemake_cpu_s: list[float]
    snakemake_mib: list[float]
    script_mib: list[float]
    submitted_s: list[float]
    late_s: list[float]


def shards_of(batches: int, shards: int) -> list[str]:
    """Paths of all shards."""
    return [
        f"{RESULTS}/batch-{number(b)}/shard-{number(s)}.h5"
        for b in range(batches)
        for s in range(shards)
    ]


def configuration(batches: int, shards: int, blocks: int) -> dict:
    """The small screen, split."""
    config = small_demo()
    config["analyses"]["crt"]["resamples"] = blocks * BLOCK - 10
    config["scatter"] = {"batches": batches, "shards": shards}
    return config


def split_anew(reference: Checkout, to: Path, config: dict, share: float, seed: int) -> Checkout:
    """A copy of a finished run without shards and what follows, whose shards meet their fates."""
    checkout = reference.copy(to)
    (to / "config.yaml").write_text(yaml.safe_dump(config))
    for made in ("*.parquet", "*/null.h5", "*/shard-*.h5"):
        for path in to.glob(f"{RESULTS}/{made}"):
            path.unlink()
    shutil.copy(fates.__file__, to / "scripts" / "fates.py")
    entry = to / SCRIPT
    head, body = entry.read_text().split("from condrand.entry", 1)
    entry.write_text(
        f"{head}import fates\n\nfates.begin(snakemake.output.shard, {share}, {seed})\n\n"
        f"from condrand.entry{body}\nfates.end(snakemake.output.shard)\n"
    )
    return checkout


def failures_of(shard: str, share: float, seed: int) -> int:
    """How many attempts at a shard fail before one ends well."""
    return next(n for n in itertools.count() if not fates.fate_of(shard, n, share, seed)[0])


def merciful_seed(shards: list[str], share: float) -> int:
    """The first seed by which every shard ends well within its retries."""
    return next(
        seed
        for seed in itertools.count()
        if all(failures_of(shard, share, seed) <= RETRIES for shard in shards)
    )


def children_cpu_s() -> float:
    """CPU seconds of ended children, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def times_of_jobs(cluster: Cluster) -> dict[str, tuple[float, float]]:
    """Submission and end of every job, by number."""
    form = "JobID:|,SubmitTime:|,EndTime:|"
    text = cluster.ask("squeue", "--noheader", "--states=all", "--Format", form)
    rows = (line.split("|")[:3] for line in text.splitlines())
    return {row[0]: tuple(datetime.fromisoformat(x).timestamp() for x in row[1:]) for row in rows}


def noticed(text: str) -> dict[str, float]:
    """When a run said that a job of the cluster had ended well, by the cluster's number."""
    # Of a job that was tried again the last attempt counts.
    numbers = dict(re.findall(r"Job (\d+) has been submitted with SLURM jobid (\d+)", text))
    ends = re.findall(r"^\[(.+)\]\nFinished jobid: (\d+) ", text, re.MULTILINE)
    return {
        numbers[job]: datetime.strptime(when, "%a %b %d %H:%M:%S %Y").timestamp()
        for when, job in ends
        if job in numbers
    }


def run(
    cluster: Cluster, checkout: Checkout, shards: list[str], share: float, seed: int, haste: bool
) -> Figures:
    """Run to the end; say what is wrong, if anything is, and what it cost."""
    known = {job.number for job in cluster.jobs()}
    began = time.monotonic(), children_cpu_s()
    text = checkout.run(goal=EFFECTS, in_haste=haste)
    ended = time.monotonic(), children_cpu_s()
    jobs = [job for job in cluster.jobs("crt_shard") if job.number not in known]
    entries = check(checkout, shards, jobs, share, seed)
    good = [entry["processes"] for entry in entries if "processes" in entry]
    times, ends = times_of_jobs(cluster), noticed(text)
    submitted = sorted(times[job.number][0] for job in jobs)
    wall, leader = (after - before for before, after in zip(began, ended, strict=True))
    return Figures(
        n_shards=len(shards),
        n_jobs=len(jobs),
        wall_s=wall,
        leader_cpu_s=leader,
        job_cpu_s=[sum(p["cpu_s"] for p in job) for job in good],
        snakemake_cpu_s=[sum(p["cpu_s"] for p in job if p["is_snakemake"]) for job in good],
        snakemake_mib=[p["peak_mib"] for job in good for p in job if p["is_snakemake"]],
        script_mib=[p["peak_mib"] for job in good for p in job if p["is_script"]],
        submitted_s=[at - submitted[0] for at in submitted],
        late_s=[
            ends[job.number] - times[job.number][1] for job in jobs if job.state == "COMPLETED"
        ],
    )


def check(checkout: Checkout, shards: list[str], jobs: list, share: float, seed: int) -> list:
    """The ledger of a run, if it is as it must be: each shard tried as often as the dice ask."""
    by_shard: dict[str, list] = {shard: [] for shard in shards}
    for job in jobs:
        batch, shard = job.wildcards.split("_")[-2:]
        by_shard[f"{RESULTS}/batch-{batch}/shard-{shard}.h5"].append(job)
    everything = []
    for shard, tried in by_shard.items():
        wanted = ["FAILED"] * failures_of(shard, share, seed) + ["COMPLETED"]
        assert [job.state for job in tried] == wanted, (shard, tried)
        files = {
            path.stem: json.loads(path.read_text())
            for path in (checkout.path / fates.LEDGER / shard).iterdir()
        }
        assert set(files) == {job.number for job in tried}, shard
        written = {entry["sha256"] for entry in files.values() if "sha256" in entry}
        assert written == {sha256((checkout.path / shard).read_bytes()).hexdigest()}, shard
        everything += files.values()
    return everything


def assert_like(checkout: Checkout, reference: Checkout) -> None:
    """Every result but shards, of which there are others, has the bytes of the reference."""
    made, whole = (
        {path: data for path, data in each.contents().items() if "/shard-" not in path}
        for each in (checkout, reference)
    )
    assert made.keys() == whole.keys()
    assert [path for path in made if made[path] != whole[path]] == []


def words(figures: Figures) -> str:
    """The figures of a run, as they are printed."""

    def spread(values: list[float], unit: str) -> str:
        ordered = sorted(values)
        most = ordered[-1]
        nine_tenths = ordered[int(0.9 * (len(ordered) - 1))]
        return f"{statistics.median(values):.1f} {unit} (90 % {nine_tenths:.1f}, all {most:.1f})"

    first = figures.submitted_s[: min(100, len(figures.submitted_s))]
    return "\n".join(
        [
            f"{figures.n_shards} shards, {figures.n_jobs} jobs, {figures.wall_s:.0f} s",
            f"  CPU of a job            {spread(figures.job_cpu_s, 's')}",
            f"  of it Snakemake         {spread(figures.snakemake_cpu_s, 's')}",
            f"  memory of Snakemake     {spread(figures.snakemake_mib, 'MiB')}, each of two",
            f"  memory of the script    {spread(figures.script_mib, 'MiB')}",
            f"  an end is noticed after {spread(figures.late_s, 's')}",
            f"  the first {len(first)} submitted in {first[-1]:.0f} s",
            f"  CPU of the leader       {figures.leader_cpu_s:.1f} s",
        ]
    )


def benchmark(
    cluster: Cluster,
    folder: Path,
    batches: int,
    shards: int,
    fewer: int,
    share: float,
    haste: bool,
) -> None:
    """Many shards with failures, then few without; print both."""
    configs = {n: configuration(batches, n, max(shards, fewer)) for n in (shards, fewer)}
    environment = environment_of_runs(folder / "kernels")
    reference = new_checkout(folder, environment, configs[fewer])
    reference.run("--cores", "2", profile="profiles/default", goal=EFFECTS)
    seed = merciful_seed(shards_of(batches, shards), share)
    found = []
    for n, fails in ((shards, share), (fewer, 0.0)):
        checkout = split_anew(reference, folder / f"shards-{n}", configs[n], fails, seed)
        found.append(run(cluster, checkout, shards_of(batches, n), fails, seed, haste))
        assert_like(checkout, reference)
        print(words(found[-1]), flush=True)
    many, few = found
    costs = [sum(figures.job_cpu_s) + figures.leader_cpu_s for figures in found]
    per_job = (costs[0] - costs[1]) / (many.n_shards - few.n_shards)
    print(
        f"nothing lost, nothing different; {many.n_jobs - many.n_shards} attempts failed\n"
        f"a job costs {per_job:.1f} CPU s beside its work; {few.n_shards} shards instead of "
        f"{many.n_shards} cost {costs[1]:.0f} CPU s instead of {costs[0]:.0f}"
    )


def main() -> None:
    """Start the cluster, run, print."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--batches", type=int, default=5)
    parser.add_argument("--shards", type=int, default=100, help="of a batch")
    parser.add_argument("--fewer", type=int, default=10, help="the same work in so many")
    parser.add_argument("--fail", type=float, default=0.05, help="share of attempts that fail")
    given = parser.parse_args()
    install_if_missing()
    with (
        tempfile.TemporaryDirectory() as folder,
        tempfile.TemporaryDirectory(prefix=f"{OURS}-", dir="/tmp") as place,
        private_cluster(Path(place)) as cluster,
    ):
        benchmark(
            *(cluster, Path(folder), given.batches, given.shards, given.fewer, given.fail, False)
        )


if __name__ == "__main__":
    main()
