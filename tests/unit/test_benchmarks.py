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


@pytest.mark.slow
def test_the_benchmark_of_tails_runs_on_a_few_tests(monkeypatch):
    monkeypatch.delenv("CONDRAND_DATA", raising=False)
    small = ["--draws", "102400", "--tilted", "2000", "--observed", "20480", "--replicates", "1"]
    small += ["--statistics", "ols", "--cells", "800", "--treated", "25", "--tests", "20000"]
    small += ["--screens", "1"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "tails.py", "accuracy", "null", *small],
        capture_output=True,
        text=True,
        check=True,
    )
    for words in (
        *("Plain resamples beyond the observed value against tilted draws", "Error by decade"),
        *("Rejection rate over nominal, ols", "adaptive", "skew_normal", "saddlepoint"),
    ):
        assert words in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_dex_runs_on_a_small_screen_without_peers(tmp_path):
    small = ["--peers", "none", "--cells", "1500", "--features", "200", "--targets", "8"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "dex.py", *small, "--repeats", "1", "--folder", tmp_path],
        capture_output=True,
        text=True,
        check=True,
    )
    for words in (
        *("Mann-Whitney in memory, logged", "Mann-Whitney in memory, counts", "Welch in memory"),
        *("from disk, logged", "from disk, counts", "scipy, float64: log p of"),
        *(
            "condrand kernels",
            "condrand.dex(path)",
            "100.0000 % within 1e-6",
            "wall on one thread",
        ),
    ):
        assert words in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_linear_models_runs_on_few_features_without_peers():
    small = ["--features", "300", "--samples", "12", "--repeats", "1", "--generated-only"]
    alone = ["--peers", "none", "--rscript", "none"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "linear.py", *small, *alone],
        capture_output=True,
        text=True,
        check=True,
    )
    for words in (
        *("generated, two groups: 300 x 12", "~ group + batch: 300 x 12, 5 coefficients"),
        *("CPU s of steps", "t at most 0.0e+00 apart, log10 p 0.0e+00", "0 differ"),
        *("anova, generated: 300 x 12, 4 groups", "condrand.run_anova", "scipy f_oneway"),
        "limma is left out: there is no Rscript with limma.",
    ):
        assert words in done.stdout


@pytest.mark.slow
def test_the_benchmark_of_kompot_runs_on_few_cells_without_it():
    small = ["--cells", "300", "--genes", "40", "--landmarks", "60", "--few-landmarks", "30"]
    done = subprocess.run(
        [sys.executable, BENCHMARKS / "kompot.py", *small, "--threads", "1", "--peers", "none"],
        capture_output=True,
        text=True,
        check=True,
    )
    for words in (
        *("2 x 300 cells, 10 dimensions, 40 genes", "first wall", "warm CPU", "peak MiB"),
        *("expression, 2 x 300 cells, 60 landmarks", "expression with sample variance, 2 x 300"),
        *("abundance, 2 x 300 cells, 60 landmarks, one core", "abundance with sample variance"),
    ):
        assert words in done.stdout
