"""Planning: from the configuration and the names of files alone."""

import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

SCRIPTS = Path(__file__).resolve().parents[2] / "scripts"

# What the Snakefile may import must be instant; these take seconds, times ten thousand jobs.
SLOW = {"anndata", "h5py", "matplotlib", "numba", "numpy", "pandas", "scipy"}

# Runs a command and prints its wall seconds and its largest resident set, in KiB.
MEASURE = """
import resource, subprocess, sys, time
began = time.monotonic()
code = subprocess.run(sys.argv[1:]).returncode
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(f"MEASURED {time.monotonic() - began} {used.ru_maxrss}")
sys.exit(code)
"""


def test_planning_does_not_read_the_screen(new_folder, tiny):
    folder = new_folder(tiny(path="screen.h5ad"))
    folder.write("screen.h5ad", b"This is no screen.\n")
    assert Counter(folder.planned().values()) == {
        "load_screen": 1,
        "normalize": 1,
        "warm_kernels": 1,
        "crt_propensity": 2,
        "crt_shard": 4,
        "crt_merge": 2,
        "crt_refine": 4,
        "crt_effects": 2,
        "ntc_groups": 1,
        "crt_units": 1,
        "crt_null": 1,
        "merge_effects": 1,
        "summarize": 1,
        "plot_effects": 1,
        "plot_diagnostics": 1,
        "plot_propensity": 1,
        "plot_residuals": 1,
    }


@pytest.mark.parametrize(
    ("settings", "n_stages"),
    [
        ({"calibration": "empirical"}, 0),
        ({"calibration": "skew_normal"}, 0),
        ({"calibration": "saddlepoint"}, 1),
        ({"statistic": "welch"}, 1),
        ({"refine": [{"below": 0.1, "method": "resamples"}]}, 1),
        (
            {
                "refine": [
                    {"below": 0.1, "method": "importance"},
                    {"below": 0.001, "method": "resamples", "resamples": 5000},
                ]
            },
            2,
        ),
    ],
    ids=["empirical", "skew-normal", "saddlepoint", "welch", "one stage", "two stages"],
)
def test_jobs_of_all_stages_are_known_before_any_p_value_is(settings, n_stages, new_folder, tiny):
    config = tiny()
    config["analyses"]["A"] |= settings
    jobs = Counter(new_folder(config).planned().values())
    assert jobs["crt_refine"] == 4 * n_stages
    assert (jobs["crt_merge"], jobs["crt_effects"]) == (2, 2)


def test_planning_leaves_no_results_or_logs(new_folder, tiny):
    folder = new_folder(tiny())
    assert "simulate_screen" in folder.planned().values()
    assert {path.name for path in folder.path.iterdir()} <= {"config.yaml", ".snakemake"}


def test_a_missing_screen_is_refused_when_planning_by_its_path(new_folder, tiny):
    text = new_folder(tiny(path="absent.h5ad")).snakemake("--dry-run", fails=True)
    assert "absent.h5ad" in text


def test_asked_for_copies_with_effects_are_planned(new_folder, tiny):
    config = tiny(path="screen.h5ad")
    config["analyses"]["A"]["write_h5ad"] = True
    folder = new_folder(config)
    folder.write("screen.h5ad")
    assert folder.planned()["results/S/A/annotated.h5ad"] == "annotate_h5ad"


def test_each_screen_gets_the_analyses_that_name_it_and_those_that_name_none(new_folder, tiny):
    config = tiny()
    config["screens"]["T"] = {"simulate": {}}
    config["analyses"]["B"] = {"engine": "crt", "screens": ["T"]}
    planned = new_folder(config).planned()
    tables = {path for path, rule in planned.items() if rule == "merge_effects"}
    assert tables == {f"results/{place}/effects.parquet" for place in ("S/A", "T/A", "T/B")}


def test_a_screen_that_no_analysis_names_is_left_alone(new_folder, tiny):
    config = tiny()
    config["screens"]["T"] = {"simulate": {}}
    config["analyses"]["A"]["screens"] = ["S"]
    planned = new_folder(config).planned()
    assert "results/S/A/effects.parquet" in planned
    assert [path for path in planned if path.startswith("results/T/")] == []


def test_what_the_snakefile_imports_pulls_in_nothing_slow():
    program = (
        "import sys; sys.path.insert(0, sys.argv[1]); before = set(sys.modules)\n"
        "import condrand.config, condrand.errors, condrand.plan, condrand.version\n"
        "print(*{name.partition('.')[0] for name in set(sys.modules) - before})"
    )
    done = subprocess.run(
        [sys.executable, "-c", program, str(SCRIPTS)], capture_output=True, text=True, check=True
    )
    imported = set(done.stdout.split())
    assert "condrand" in imported
    assert imported & SLOW == set()


@pytest.mark.slow
def test_ten_thousand_shards_and_a_stage_are_planned_within_two_gibibytes(
    new_folder, tiny, capsys
):
    config = tiny(simulate={"n_cells": 3000, "n_targets": 2000, "moi_mean": 20.0})
    config["analyses"]["A"]["resamples"] = 102_300
    config["scatter"] = {"batches": 200, "shards": 50}
    folder = new_folder(config)
    expected = {
        "crt_propensity": 200,
        "crt_shard": 200 * 50,
        "crt_merge": 200,
        # As much work as one block in a hundred.
        "crt_refine": 200,
        "crt_effects": 200,
        "ntc_groups": 1,
        "crt_units": 1,
        "crt_null": 1,
        "merge_effects": 1,
        "summarize": 1,
        "plot_effects": 1,
        "plot_diagnostics": 1,
        "plot_propensity": 1,
        "plot_residuals": 1,
    }
    first = {"simulate_screen": 1, "load_screen": 1, "normalize": 1, "warm_kernels": 1}
    for state, more in (("empty folder", first), ("loaded", {})):
        if state == "loaded":
            # Now targets.tsv is there, and every job's resources are reckoned from it.
            folder.snakemake("--until", "normalize", "warm_kernels")
        done = subprocess.run(
            [sys.executable, "-c", MEASURE, *folder.command("--dry-run", "--quiet", "rules")],
            env=folder.environment,
            cwd=folder.path,
            capture_output=True,
            text=True,
            check=True,
        )
        counts = dict(line.split() for line in done.stdout.splitlines() if len(line.split()) == 2)
        planned = {name: int(n) for name, n in counts.items() if n.isdecimal()}
        total = sum((expected | more).values()) + 1
        assert planned == expected | more | {"all": 1, "total": total}
        seconds, kibibytes = done.stdout.partition("MEASURED ")[2].split()
        with capsys.disabled():
            print(f"\nplanning {total:,} jobs, {state}: ", end="")
            print(f"{float(seconds):.1f} s, {int(kibibytes) / 1024:.0f} MiB")
        assert int(kibibytes) < 2 * 2**20
