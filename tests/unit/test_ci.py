"""Where there can be no cluster its tests skip and say why; in CI they fail."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
CI = (ROOT / ".ci" / "run").read_text()
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


def test_ci_runs_the_tests_on_a_cluster():
    assert "test-cluster" in CI.split("for step in ")[1].split(";")[0].split()
