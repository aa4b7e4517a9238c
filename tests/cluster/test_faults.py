"""One run to which nearly everything happens that happens on a cluster, and the run after it.

Each shard of the run has a fate of its own. The tests say what became of it, then that the same
command makes exactly what is missing and ends with the bytes of a run that nobody disturbed.
"""

import os
import shutil
import signal
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass

import pytest

from cluster.checkouts import EFFECTS, SHARDS, Checkout, merged, shard_file, table
from cluster.slurm import Cluster, Job, processes_of

pytestmark = pytest.mark.cluster

LATE, LARGE, CANCELLED, KILLED = (0, 0), (0, 1), (0, 2), (0, 3)
LOST, BROKEN, QUIET, QUIET_TOO = (1, 0), (1, 1), (1, 2), (1, 3)
ATTEMPTS = 3
# Less than Python and its libraries need; the double is more.
TOO_LITTLE_MB = 230
AFTER_SHARDS = {f"results/demo/crt/{name}" for name in ("crt_null.tsv", "effects.parquet")}


@dataclass
class Night:
    """What is left of a run: its words, its jobs, its files.

    Attributes
    ----------
    checkout : Checkout
    text : str
        What the run printed.
    jobs : dict
        Jobs of each shard, in order of submission.
    made : dict of str to bytes
        Results after the run.
    written : dict of str to int
        When each finished shard was written.
    """

    checkout: Checkout
    text: str
    jobs: dict[tuple[int, int], list[Job]]
    made: dict[str, bytes]
    written: dict[str, int]


def jobs_by_shard(cluster: Cluster, known: set[str]) -> dict[tuple[int, int], list[Job]]:
    """The jobs of each shard but those known before, in order of submission."""
    found: dict[tuple[int, int], list[Job]] = {shard: [] for shard in SHARDS.values()}
    for job in cluster.jobs("crt_shard"):
        batch, shard = job.wildcards.split("_")[-2:]
        if job.number not in known:
            found[int(batch), int(shard)].append(job)
    return found


def written(checkout: Checkout) -> dict[str, int]:
    """When each shard was written that is there."""
    paths = {path: checkout.path / path for path in SHARDS}
    return {path: file.stat().st_mtime_ns for path, file in paths.items() if file.exists()}


def strike(cluster: Cluster, fate: tuple[int, int], job: Job) -> bool:
    """Let a running job meet its fate; tell whether it could be done."""
    if fate == CANCELLED:
        cluster.ask("scancel", job.number)
        return True
    if fate == LOST:
        cluster.lose_node(job.node)
        return True
    workers = processes_of(job.number, ".crt_shard.py")
    if not workers:
        return False
    if fate == KILLED:
        os.kill(workers[0], signal.SIGKILL)
    if fate == LATE:
        # It would be done in a moment; now it never will, and a minute is the shortest limit.
        for process in processes_of(job.number):
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGSTOP)
        cluster.ask("scontrol", "update", f"JobId={job.number}", "TimeLimit=1")
    return True


def where(shard: tuple[int, int]) -> str:
    """Condition on the wildcards of a shard, as a resource may ask."""
    return f"(wildcards.batch, wildcards.shard) == ('{shard[0]:04d}', '{shard[1]:04d}')"


@pytest.fixture(scope="module")
def night(cluster: Cluster, copies, tmp_path_factory) -> Iterator[Night]:
    """A run with ``keep-going`` and ``retries`` as the profile has them, and with bad luck."""
    checkout = copies(tmp_path_factory.mktemp("night") / "checkout")
    checkout.remove_shards(0, 1)
    log = checkout.path / "logs/demo/crt/batch-0001/shard-0001.log"
    log.unlink()
    # No job can write its log there, however often it is tried.
    (log / "in-the-way").mkdir(parents=True)
    last = cluster.nodes[-1]
    known = {job.number for job in cluster.jobs()}
    process = checkout.start(
        "--set-resources",
        f"crt_shard:mem_mb=attempt * ({TOO_LITTLE_MB} if {where(LARGE)} else 500)",
        # One of them alone on the node that will be lost.
        f"crt_shard:slurm_extra='' if {where(LOST)} else '--exclude={last}'",
        goal=EFFECTS,
    )
    fates = {LATE, CANCELLED, KILLED, LOST}
    while fates and process.poll() is None:
        for shard, jobs in jobs_by_shard(cluster, known).items():
            if shard in fates and jobs and jobs[0].state == "RUNNING":
                if strike(cluster, shard, jobs[0]):
                    fates.remove(shard)
        time.sleep(0.1)
    process.wait()
    text = checkout.said()
    assert not fates, f"{fates} ended too early: {text}"
    assert process.returncode == 1, text
    jobs = jobs_by_shard(cluster, known)
    yield Night(checkout, text, jobs, checkout.contents(), written(checkout))
    cluster.start_node(last)
    cluster.wait_for_nodes()


def states(night: Night, shard: tuple[int, int]) -> list[str]:
    return [job.state for job in night.jobs[shard]]


def test_a_shard_that_nothing_happens_to_runs_once(night):
    for shard in (QUIET, QUIET_TOO):
        assert states(night, shard) == ["COMPLETED"]


def test_a_shard_that_dies_of_itself_is_tried_again(night):
    assert states(night, KILLED) == ["FAILED", "COMPLETED"]


def test_a_shard_over_its_time_limit_is_tried_again_with_twice_the_time(night):
    first, second = night.jobs[LATE]
    assert (first.state, second.state) == ("TIMEOUT", "COMPLETED")
    # The first one's limit was cut; its neighbours have the one it had.
    assert second.minutes == 2 * night.jobs[QUIET][0].minutes


def test_a_shard_over_its_memory_is_tried_again_with_twice_the_memory(night):
    first, *_, last = night.jobs[LARGE]
    assert first.state in ("FAILED", "OUT_OF_MEMORY")
    assert last.state == "COMPLETED"
    assert [job.memory_mb for job in night.jobs[LARGE]] == [
        attempt * TOO_LITTLE_MB for attempt in range(1, len(night.jobs[LARGE]) + 1)
    ]


def test_a_cancelled_shard_is_tried_again(night):
    assert states(night, CANCELLED) == ["CANCELLED", "COMPLETED"]


def test_the_shard_of_a_lost_node_is_started_elsewhere_by_the_cluster_itself(night):
    (job,) = night.jobs[LOST]
    assert (job.state, job.restarts) == ("COMPLETED", 1)


def test_a_shard_that_always_fails_is_tried_as_often_as_the_profile_says_and_named(night):
    assert states(night, BROKEN) == ["FAILED"] * ATTEMPTS
    # Its log is where it has to be looked for.
    assert "logs/demo/crt/batch-0001/shard-0001.log" in night.text


def test_what_does_not_depend_on_the_failed_shard_is_made_all_the_same(night, local):
    broken = shard_file(*BROKEN)
    assert set(night.written) == set(SHARDS) - {broken}
    assert merged(0) in night.made
    assert not {broken, merged(1), table(1), *AFTER_SHARDS} & set(night.made)
    whole = local.contents()
    assert {path: whole[path] for path in night.made} == night.made


def test_the_same_command_makes_what_is_missing_and_nothing_else(night, cluster, local):
    checkout = night.checkout
    shutil.rmtree(checkout.path / "logs/demo/crt/batch-0001/shard-0001.log")
    missing = {shard_file(*BROKEN), merged(1), table(1), EFFECTS}
    assert set(checkout.planned(EFFECTS)) == missing
    known = {job.number for job in cluster.jobs()}
    checkout.run(goal=EFFECTS)
    new = [job for job in cluster.jobs() if job.number not in known]
    rules = ["crt_effects", "crt_merge", "crt_shard", "merge_effects"]
    assert sorted(job.rule for job in new) == rules
    times = written(checkout)
    assert {path: times[path] for path in night.written} == night.written
    made, whole = checkout.contents(), local.contents()
    assert made == {path: whole[path] for path in made}
    assert missing <= set(made)
