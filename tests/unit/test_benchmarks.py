"""Benchmarks run to their end: their figures are looked at by people, rarely."""

import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.mark.slow
def test_the_benchmark_of_crt_runs_on_a_small_screen():
    small = ["--cells", "3000", "--programs", "4", "--covariates", "2", "--targets", "2"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "crt.py", *small], capture_output=True, text=True, check=True
    )
    for words in ("bernoulli_index ols", "stratified_perm rank", "NTC null", "agreement over 8"):
        assert words in done.stdout
