"""The profile for any queueing system, with its blanks filled in as profiles/README.md does."""

import re

import pytest
import yaml

from cluster.checkouts import BATCHES, EFFECTS, ROOT, SHARDS, merged
from cluster.slurm import wait_for

pytestmark = pytest.mark.cluster

PROFILE = "profiles/generic"
README = (ROOT / "profiles" / "README.md").read_text()


def block(language: str) -> str:
    """The one example in a language that the README has."""
    (text,) = re.findall(rf"^```{language}\n(.*?)^```$", README, re.MULTILINE | re.DOTALL)
    return text


def test_the_profile_with_its_blanks_filled_in_runs_jobs_and_repeats_a_cancelled_one(
    before_last_batch, cluster, local
):
    checkout = before_last_batch
    file = checkout.path / PROFILE / "config.yaml"
    profile = yaml.safe_load(file.read_text())
    blanks = {key for key, value in profile.items() if "FILL-IN" in str(value)}
    filled = yaml.safe_load(block("yaml"))
    assert set(filled) == blanks
    file.write_text(yaml.safe_dump({**profile, **filled}))
    (file.parent / "status.sh").write_text(block("bash"))
    known = {job.number for job in cluster.jobs()}

    process = checkout.start(profile=PROFILE, goal=EFFECTS)
    victim = wait_for(
        lambda: [
            job
            for job in cluster.jobs("crt_shard")
            if job.number not in known and job.state == "RUNNING"
        ],
        why="a shard at work",
    )[0]
    cluster.ask("scancel", victim.number)
    assert process.wait() == 0, checkout.said()
    made, whole = checkout.contents(), local.contents()
    assert made == {path: whole[path] for path in made}
    assert {EFFECTS, merged(BATCHES - 1)} <= set(made)

    new = [job for job in cluster.jobs() if job.number not in known]
    states = {job.number: job.state for job in new}
    assert states.pop(victim.number) == "CANCELLED"
    assert set(states.values()) == {"COMPLETED"}
    shards = [job for job in new if job.rule == "crt_shard"]
    assert len(shards) == len(SHARDS) // BATCHES + 1
    assert {job.name for job in new} == {"condrand"}
    # The second attempt asked for twice the memory and time.
    assert (shards[-1].minutes, shards[-1].memory_mb) == (2 * victim.minutes, 2 * victim.memory_mb)


def test_the_blanks_of_the_profile_are_refused_as_they_stand(before_last_batch):
    text = before_last_batch.run("--retries", "0", profile=PROFILE, goal=EFFECTS, fails=True)
    assert "FILL-IN-SUBMIT: " in text
    assert "Error submitting jobscript" in text
