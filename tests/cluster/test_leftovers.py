"""The process that leads a run dies while its jobs run on."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from cluster.checkouts import BATCHES, EFFECTS, ROOT, SHARDS, Checkout, merged
from cluster.slurm import Cluster, Job, is_alive, processes_of, wait_for

pytestmark = pytest.mark.cluster

LAST = [path for path, (batch, _) in SHARDS.items() if batch == BATCHES - 1]
SHARD_SCRIPT = ".crt_shard.py"


def send(signal_: int, jobs: list[Job]) -> None:
    """Send a signal to all processes of some jobs."""
    for job in jobs:
        for process in processes_of(job.number):
            with suppress(ProcessLookupError):
                os.kill(process, signal_)


def halted(checkout: Checkout, cluster: Cluster) -> tuple[subprocess.Popen, list[Job]]:
    """A run whose shards are all at work, and held there; they do not end before they may."""
    known = {job.number for job in cluster.jobs()}
    process = checkout.start(goal=EFFECTS)
    held: dict[str, Job] = {}

    def all_held() -> bool:
        assert process.poll() is None, checkout.said()
        for job in cluster.jobs("crt_shard"):
            if job.number not in known | set(held) and processes_of(job.number, SHARD_SCRIPT):
                send(signal.SIGSTOP, [job])
                held[job.number] = job
        return len(held) == len(LAST)

    wait_for(all_held, why="all shards to be at work")
    return process, list(held.values())


def kill_leader(process: subprocess.Popen) -> None:
    """Kill the process that leads a run; what it leads on this machine dies with it."""
    (snakemake,) = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    process.kill()
    process.wait()
    wait_for(lambda: not is_alive(int(snakemake)), why="Snakemake to die")


def of_number(cluster: Cluster, jobs: list[Job]) -> list[Job]:
    """The present state of jobs."""
    numbers = {job.number for job in jobs}
    return [job for job in cluster.jobs() if job.number in numbers]


def is_over(cluster: Cluster, jobs: list[Job]) -> Callable[[], bool]:
    return lambda: all(job.is_over for job in of_number(cluster, jobs))


def assert_like(checkout: Checkout, local: Checkout) -> None:
    """All that is there is as in a run that nobody disturbed, and the table is there."""
    made, whole = checkout.contents(), local.contents()
    assert {EFFECTS, merged(BATCHES - 1), *LAST} <= set(made)
    assert made == {path: whole[path] for path in made}


def test_a_second_run_is_refused_by_name_and_disturbs_no_job(before_last_batch, cluster):
    checkout = before_last_batch
    process, jobs = halted(checkout, cluster)
    refused = subprocess.run(
        [sys.executable, *process.args[1:]],
        cwd=checkout.path,
        env=checkout.environment,
        capture_output=True,
        text=True,
    )
    assert refused.returncode == 2
    assert re.search(
        rf"another run is at work in this directory \(process {process.pid} on \S+, config\.yaml, "
        r"since [\d: -]+\)",
        refused.stderr,
    )
    assert process.poll() is None
    assert [job.state for job in of_number(cluster, jobs)] == ["RUNNING"] * len(LAST)


def test_a_run_resumed_while_the_jobs_of_the_dead_one_still_run_gives_the_same_bytes(
    before_last_batch, cluster, local
):
    checkout = before_last_batch
    process, old = halted(checkout, cluster)
    kill_leader(process)
    assert [job.state for job in of_number(cluster, old)] == ["RUNNING"] * len(LAST)

    process, new = halted(checkout, cluster)
    assert "the last run here was killed; removing its lock" in checkout.said()
    # Now each shard is made twice, at the same time.
    send(signal.SIGCONT, old + new)
    assert process.wait() == 0, checkout.said()
    wait_for(is_over(cluster, old + new), why="all jobs to end")
    assert {job.state for job in of_number(cluster, old + new)} == {"COMPLETED"}
    assert_like(checkout, local)
    assert checkout.planned(EFFECTS) == {}


def commands_of_readme() -> list[str]:
    """The commands of profiles/README.md that end jobs: those of one run, those of all runs."""
    text = (ROOT / "profiles" / "README.md").read_text()
    blocks = re.findall(r"^```\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    return [block for block in blocks if "scancel" in block]


def shell(command: str) -> None:
    subprocess.run(["bash", "-euo", "pipefail", "-c", command], check=True)


def test_the_readmes_command_ends_what_a_dead_run_left_and_the_rest_is_made(
    before_last_batch, cluster, local
):
    checkout = before_last_batch
    process, old = halted(checkout, cluster)
    run = re.search(r"SLURM run ID: (condrand_\S+)", checkout.said())[1]
    kill_leader(process)
    command, _ = commands_of_readme()
    shell(command.replace("RUN_ID", run))
    wait_for(is_over(cluster, old), why="jobs to end")
    assert {job.state for job in of_number(cluster, old)} == {"CANCELLED"}
    assert not any((checkout.path / shard).exists() for shard in LAST)

    known = {job.number for job in cluster.jobs()}
    checkout.run(goal=EFFECTS)
    new = [job.rule for job in cluster.jobs() if job.number not in known]
    assert sorted(new) == [
        *("crt_effects", "crt_merge", *["crt_shard"] * len(LAST), "merge_effects")
    ]
    assert_like(checkout, local)


def test_ending_old_jobs_after_resuming_takes_no_finished_shard_away(
    before_last_batch, cluster, local
):
    checkout = before_last_batch
    process, old = halted(checkout, cluster)
    kill_leader(process)
    process, new = halted(checkout, cluster)
    send(signal.SIGCONT, new)
    assert process.wait() == 0, checkout.said()
    cluster.ask("scancel", *(job.number for job in old))
    wait_for(is_over(cluster, old), why="the old jobs to end")
    assert {job.state for job in of_number(cluster, old)} == {"CANCELLED"}
    assert_like(checkout, local)
    assert checkout.planned(EFFECTS) == {}


def test_an_old_job_that_starts_when_all_is_made_leaves_nothing_to_do(
    before_last_batch, cluster, local
):
    checkout = before_last_batch
    known = {job.number for job in cluster.jobs()}

    def waiting() -> list[str]:
        assert process.poll() is None, checkout.said()
        jobs = [job for job in cluster.jobs("crt_shard") if job.number not in known]
        return [job.number for job in jobs] if len(jobs) == len(LAST) else []

    cluster.ask("scontrol", "update", "PartitionName=all", "State=DOWN")
    try:
        process = checkout.start(goal=EFFECTS)
        old = ",".join(wait_for(waiting, why="all shards to be queued"))
        kill_leader(process)
        cluster.ask("scontrol", "hold", old)
    finally:
        cluster.ask("scontrol", "update", "PartitionName=all", "State=UP")
    checkout.run(goal=EFFECTS)
    cluster.ask("scontrol", "release", old)
    late = [job for job in cluster.jobs() if job.number in old.split(",")]
    wait_for(is_over(cluster, late), why="the old jobs to end")
    assert_like(checkout, local)
    assert checkout.planned(EFFECTS) == {}


def test_the_readmes_other_command_ends_the_jobs_of_all_runs_and_nobody_elses(cluster):
    wanted = {"condrand_1": "CANCELLED", "condrand_2": "CANCELLED", "mycondrand_3": "RUNNING"}
    numbers = {
        cluster.ask(
            *("sbatch", "--parsable", "--output=/dev/null", f"--job-name={name}"),
            "--wrap=sleep 600",
        ).strip()
        for name in wanted
    }

    def states() -> dict[str, str]:
        return {job.name: job.state for job in cluster.jobs() if job.number in numbers}

    wait_for(lambda: set(states().values()) == {"RUNNING"}, why="jobs to start")
    _, command = commands_of_readme()
    shell(command)
    wait_for(lambda: states() == wanted, 30, "jobs to end")
    # With nothing to end it ends nothing, and does not fail.
    shell(command)
    cluster.cancel_all()
