"""Where there can be no cluster its tests skip and say why; in CI they fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = (ROOT / ".ci" / "run").read_text()
STEPS = ["lint", "test", "test-slow", "test-cluster"]
TEST = "tests/cluster/test_leftovers.py::test_the_readmes_other_command_ends_the_jobs_of_all_runs"


@pytest.mark.parametrize("in_ci", [False, True])
def test_without_a_cluster_its_tests_skip_with_the_reason_and_fail_in_ci(in_ci):
    variable = "CONDRAND_NEEDS_CLUSTER"
    assert f"export {variable}=1" in CI
    # No program is found: neither those of a cluster nor what could install them.
    environment = {**os.environ, "PATH": "", variable: "1" if in_ci else ""}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-rs", "-m", "cluster", f"{TEST}_and_nobody_elses"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == int(in_ci), done.stdout
    assert ("1 error" if in_ci else "1 skipped") in done.stdout
    assert "a private cluster needs " in done.stdout


@pytest.mark.parametrize("failing", ["", *STEPS])
def test_ci_makes_every_step_and_fails_with_any_of_them(failing, tmp_path):
    made = tmp_path / "made"
    (tmp_path / "make").write_text(
        f'#!/bin/sh\necho "$1" >>"{made}"\necho "output of $1"\n[ "$1" != "{failing}" ]\n'
    )
    (tmp_path / "gcc").write_text("#!/bin/sh\n")
    for program in ("make", "gcc"):
        (tmp_path / program).chmod(0o755)
    done = subprocess.run(
        ["bash", ROOT / ".ci" / "run"],
        env={**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"},
        capture_output=True,
        text=True,
    )
    assert sorted(made.read_text().split()) == sorted(["env", *STEPS])
    assert all(f"output of {step}\n" in done.stdout for step in STEPS)
    assert done.returncode == bool(failing), done.stderr
    ending = f"failed: {failing}" if failing else "all steps passed"
    assert done.stdout.endswith(f"{ending}\n")
