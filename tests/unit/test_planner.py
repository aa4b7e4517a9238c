"""The planner: what it reads of a screen, what it proposes, what it learns from earlier runs."""

import gzip
import itertools
import logging
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml
from anndata.io import write_elem

import launch
from condrand import plan, planner
from condrand.config import complete_config
from condrand.engines import crt
from condrand.errors import InputError
from condrand.inputs.headers import read_shape
from condrand.io.outcome import Outcome
from condrand.io.past_runs import shard_times
from condrand.io.tables import count_table_size
from condrand.planner import MOST_JOBS, Measured, Scatter, Shape, Values, propose
from condrand.statistics import ols

ROOT = Path(__file__).resolve().parents[2]
SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
CRT = {"engine": "crt", "resamples": 102_300}
EMPIRICAL = {"calibration": "empirical"}


def complete(analyses: dict, **screen) -> dict:
    """A complete configuration of one screen S."""
    screens = {"S": screen or {"path": "s.h5ad"}}
    return complete_config({"screens": screens, "analyses": analyses}, SCHEMA, "test")


def shape(n_cells: int = 100_000, n_targets: int = 2000, n_features: int = 70) -> Shape:
    """A screen of three guides a target, 600 NTC guides and five guides a cell."""
    n = n_cells * n_features
    return Shape(
        n_cells,
        mb=500,
        values={"cnmf_usage": Values(n_features, n, 8 * n / 2**20)},
        n_targets=n_targets,
        n_ntc_guides=600,
        n_guides=3 * n_targets + 600,
        n_calls=5 * n_cells,
        n_covariates=9,
    )


def expression(n_cells: int, n_features: int, density: float = 0.1) -> Shape:
    n = round(n_cells * n_features * density)
    values = Values(n_features, n, 8 * n / 2**20, is_sparse=True)
    return replace(shape(n_cells), values={"X": values})


def brief(scatter: Scatter) -> tuple[int, int, int]:
    return scatter.batches, scatter.shards, scatter.threads


# What is proposed


@pytest.mark.parametrize("minutes", [10, 15, 30, 60])
@pytest.mark.parametrize("cells, targets, resamples", [
    (100_000, 2000, 102_300), (1_000_000, 10_000, 20_480), (1_000_000, 300, 204_800)
])  # fmt: skip
def test_shard_jobs_are_no_longer_than_asked_and_not_much_shorter(
    minutes, cells, targets, resamples
):
    config = complete({"A": {**CRT, "resamples": resamples}})
    found = propose(config, {"S": shape(cells, targets)}, minutes=minutes)
    assert not found.is_small
    assert found.n_jobs <= MOST_JOBS
    assert 0.5 * 60 * minutes < found.longest_s <= 60 * minutes


def test_the_minutes_of_a_job_are_those_of_the_model_of_the_rules():
    config = complete({"A": CRT})
    found = propose(config, {"S": shape()})
    (work,), (job,) = found.works, found.jobs
    batches, shards, _ = brief(found.scatter)
    units, blocks = -(-work.n_units // batches), -(-work.n_blocks // shards)
    treated = work.size["n_treated"] * units / work.n_units
    model = plan.shard_seconds(work.size["outcome_mb"], units, treated, blocks)
    assert model < job.seconds < model + 10
    asked = plan.shard_runtime_min(work.size["outcome_mb"], units, round(treated), blocks, 1)
    assert job.runtime_min == asked >= plan.MARGIN * model / 60
    assert job.mem_mb == plan.shard_mem_mb(work.size["outcome_mb"], 1)


def test_units_are_targets_guides_and_groups_of_them_as_configured():
    sizes = {}
    for controls in ("none", "guides", "groups"):
        (work,) = planner.works_of(complete({"A": {**CRT, "controls": controls}}), {"S": shape()})
        sizes[controls] = work.n_units, work.size["n_treated"]
    per_guide = 500_000 / 6600
    assert sizes["none"] == (2000, round(6000 * per_guide))
    assert sizes["guides"] == (2600, 500_000)
    # Five partitions of 600 guides into groups of three.
    assert sizes["groups"] == (3600, round(500_000 + 5 * 600 * per_guide))
    (work,) = planner.works_of(
        complete({"A": {**CRT, "controls": "none", "targets": ["a", "b"]}}), {"S": shape()}
    )
    assert (work.n_units, work.size["n_treated"]) == (2, round(6 * per_guide))


def test_jobs_that_refine_small_p_values_are_counted():
    shapes, scatter = {"S": shape()}, Scatter(10, 4)
    stages = [{"below": 0.01, "method": "importance"}, {"below": 1e-4, "method": "saddlepoint"}]
    found = {}
    for name, given in (
        ("none", EMPIRICAL),
        ("one", {}),
        ("two", {"refine": stages}),
        ("all", {"calibration": "importance"}),
    ):
        (work,) = planner.works_of(complete({"A": {**CRT, "resamples": 1023, **given}}), shapes)
        found[name] = work.job(scatter)
    assert [job.n_refine_jobs for job in found.values()] == [0, 40, 80, 40]
    assert found["none"].cpu_seconds < found["one"].cpu_seconds < found["all"].cpu_seconds
    # Every test by importance costs more than the resamples before it.
    assert found["all"].after > found["all"].seconds
    assert found["all"].longest >= found["all"].after
    assert found["none"].longest == max(found["none"].seconds, found["none"].before)


def test_twice_the_resamples_are_twice_the_work():
    hours = [
        propose(complete({"A": {**CRT, **EMPIRICAL, "resamples": n * 1024}}), {"S": shape()})
        for n in (100, 200)
    ]
    hours = [found.jobs[0] for found in hours]
    assert hours[1].cpu_seconds == pytest.approx(2 * hours[0].cpu_seconds, rel=0.1)


def test_a_small_screen_is_not_split_and_is_run_locally():
    config = yaml.safe_load((ROOT / "config/config.yaml").read_text())
    config = complete_config(config, SCHEMA, "demo")
    found = propose(config, {"demo": read_shape(config, "demo")})
    assert found.is_small
    assert brief(found.scatter) == (1, 1, 1)
    assert "run it locally" in planner.plan_text(found, "demo")
    # Of the same screen a thousand times the resamples.
    config["analyses"]["crt"]["resamples"] *= 1000
    found = propose(config, {"demo": read_shape(config, "demo")})
    assert not found.is_small and found.n_jobs > 1
    assert "run it locally" not in planner.plan_text(found, "demo")


def test_comparisons_are_split_by_features_because_a_batch_reads_all_of_them_again():
    config = complete({"A": {"engine": "dex", "outcome": {"key": "X"}}})
    found = propose(config, {"S": expression(10_000_000, 30_000)})
    assert found.scatter.batches == 1
    assert found.scatter.shards > 1
    assert found.longest_s <= 30 * 60


def test_states_and_samples_have_no_batches():
    kompot = {"engine": "kompot", "condition": "c", "levels": ["a", "b"], "n_landmarks": 5000}
    found = propose(complete({"A": kompot}), {"S": expression(100_000, 30_000)})
    assert found.scatter.batches == 1 and found.scatter.shards > 1
    assert found.jobs[0].n_jobs == found.scatter.shards
    limma = {"engine": "limma", "design": "~ g"}
    counts = Shape(12, 5, {"X": Values(25_000, 300_000, 2.3)})
    assert propose(complete({"A": limma}, path="c.csv", samples="s.csv"), {"S": counts}).is_small


def test_batches_that_another_analysis_needs_do_not_multiply_jobs_without_units():
    limma = {"engine": "limma", "design": "~ g"}
    both = replace(shape(), values={**shape().values, "X": Values(2000, 10**6, 8)})
    found = propose(complete({"A": CRT, "B": limma}), {"S": both})
    of_cells, of_samples = found.jobs
    assert found.scatter.batches > 1
    assert of_cells.n_jobs == found.scatter.batches * found.scatter.shards
    assert of_samples.n_jobs == found.scatter.shards


def test_the_null_of_ntc_guides_is_one_job_and_no_shard():
    found = propose(complete({"A": {**CRT, "null_method": "ntc_empirical"}}), {"S": shape()})
    assert found.works == [] and found.n_jobs == 0
    assert "No analysis here is split" in planner.plan_text(found, "x")


def test_threads_shorten_a_job_and_need_memory():
    config = complete({"A": CRT})
    one, four = (propose(config, {"S": shape()}, threads=t) for t in (1, 4))
    assert (one.scatter.threads, four.scatter.threads) == (1, 4)
    assert four.n_jobs < one.n_jobs
    assert four.jobs[0].mem_mb > one.jobs[0].mem_mb
    config["scatter"]["threads"] = 2
    assert propose(config, {"S": shape()}).scatter.threads == 2


def test_a_run_that_needs_more_jobs_than_is_good_has_longer_ones_and_says_so():
    config = complete({"A": {**CRT, "resamples": 10_230_000}})
    found = propose(config, {"S": shape(1_000_000, 20_000)}, minutes=15)
    assert 0.9 * MOST_JOBS < found.n_jobs <= MOST_JOBS
    assert found.longest_s > 15 * 60
    assert "more than asked" in planner.plan_text(found, "x")


def test_a_shard_has_a_block_and_a_batch_some_units_however_short_jobs_are_to_be():
    config = complete({"A": {**CRT, "resamples": 3000, "controls": "none"}})
    found = propose(config, {"S": shape(10_000_000, 9)}, minutes=0.1)
    assert found.scatter.shards <= plan.n_blocks(3000)
    assert found.scatter.batches <= 9 // planner.UNITS_OF_BATCH


def test_all_analyses_share_one_split_and_each_has_its_row():
    config = complete({"A": CRT, "B": {**CRT, "resamples": 10_230}})
    found = propose(config, {"S": shape()})
    big, little = found.jobs
    assert big.n_jobs == little.n_jobs
    assert little.seconds < big.seconds == found.longest_s
    text = planner.plan_text(found, "my.yaml")
    assert [line.split()[0] for line in text.splitlines() if line.startswith("S/")] == [
        "S/A",
        "S/B",
    ]


def test_the_last_line_is_a_valid_scatter_section():
    config = complete({"A": CRT})
    found = propose(config, {"S": shape()}, threads=3)
    pasted = yaml.safe_load(planner.plan_text(found, "x").splitlines()[-1])
    assert tuple(pasted["scatter"].values()) == brief(found.scatter)
    again = complete_config(
        {"screens": {"S": {"path": "s.h5ad"}}, "analyses": {"A": CRT}, **pasted}, SCHEMA, "again"
    )
    assert again["scatter"] == pasted["scatter"]


def test_lines_fit_on_a_terminal():
    text = planner.plan_text(propose(complete({"A": CRT}), {"S": shape()}), "x")
    assert max(map(len, text.splitlines())) <= 99


@pytest.mark.parametrize("most", [1, 2, 7, 100, 999, 5000])
def test_steps_rise_from_one_to_the_most_by_a_quarter_at_most(most):
    steps = planner._steps(most)
    assert steps[0] == 1 and steps[-1] == min(most, MOST_JOBS)
    assert all(a < b <= max(a + 1, 1.25 * a + 1) for a, b in itertools.pairwise(steps))


# What is learned


def test_earlier_shards_scale_the_model_and_the_text_says_so():
    config, shapes = complete({"A": CRT}), {"S": shape()}
    before = propose(config, shapes)
    (work,) = before.works
    expected = work.seconds(100, 10_000, 50)
    took = 3 * expected + planner.LOCAL_START_S
    jobs = [
        Measured(took / 4, took, 100, 10_000, 50),
        Measured(took, took / 2, 100, 10_000, 50),
    ] * 2
    after = propose(config, shapes, {("S", "A"): jobs})
    assert after.works[0].ratio == pytest.approx(3)
    assert after.n_jobs >= 2.5 * before.n_jobs
    assert after.longest_s <= 30 * 60
    assert "earlier shards (4) took 3 times" in " ".join(planner.plan_text(after, "x").split())
    # Another analysis learns nothing from them.
    assert propose(config, shapes, {("S", "B"): jobs}) == before


def test_shards_that_did_little_but_start_tell_nothing():
    config, shapes = complete({"A": CRT}), {"S": shape()}
    short = [Measured(3.0, 2.5, 1, 10, 1)] * 50
    found = propose(config, shapes, {("S", "A"): short})
    assert found == propose(config, shapes)
    assert "no earlier shard of 10 s" in " ".join(planner.plan_text(found, "x").split())


def test_jobs_that_would_outlast_the_time_they_ask_for_are_told_of():
    config, shapes = complete({"A": CRT}), {"S": shape()}
    (work,) = propose(config, shapes).works
    slow = 9 * work.seconds(100, 10_000, 50)
    found = propose(config, shapes, {("S", "A"): [Measured(slow, slow, 100, 10_000, 50)]})
    assert "--set-resources crt_shard:runtime=" in planner.plan_text(found, "x")


@pytest.fixture
def logs(tmp_path: Path) -> Path:
    """Logs of a shard, a broken one, and a job that is no shard."""
    folder = tmp_path / "logs/S/A/batch-0000"
    folder.mkdir(parents=True)
    head = "s\th:m:s\tcpu_time\n"
    (folder / "shard-0003.benchmark.tsv").write_text(f"{head}40.5\t0:00:40\t38.0\n")
    (folder / "shard-0003.log").write_text(
        "2026-01-01 00:00:00 INFO x: computing starts: 2 units, blocks 10 to 25\n"
        "2026-01-01 00:00:00 INFO x: 1/2 g: 300 treated cells, 5 resamples, 0.70 s\n"
        "2026-01-01 00:00:00 INFO x: 2/2 h: 21 treated cells, 5 resamples, 0.70 s\n"
    )
    (folder / "shard-0004.benchmark.tsv").write_text(head)
    (folder / "shard-0004.log").write_text("computing starts: 2 units, blocks 25 to 30\n")
    (folder / "shard-0005.benchmark.tsv").write_text(f"{head}1\t0:00:01\tNA\n")
    (folder / "propensity.benchmark.tsv").write_text(f"{head}9\t0:00:09\t9\n")
    return tmp_path / "logs"


def test_times_of_earlier_shards_are_read_and_what_is_not_whole_is_left_out(logs: Path):
    ((screen, analysis, job),) = shard_times(logs)
    assert (screen, analysis) == ("S", "A")
    assert Measured(**job) == Measured(40.5, 38.0, 2, 321, 15)
    assert list(shard_times(logs / "nothing")) == []


def test_the_log_of_a_shard_says_what_is_read_there(tmp_path: Path, caplog):
    rng = np.random.default_rng(0)
    design = np.ones((50, 1)) / np.sqrt(50)
    shared = Outcome(
        ols.score(rng.normal(size=(50, 2)), design), design[:, :0], ["a", "b"], "", ""
    )
    cells = [np.arange(10), np.arange(5, 30)]
    batch = crt.prepare(shared, ["target"] * 2, ["A", "B"], cells)
    with caplog.at_level(logging.INFO, "condrand"):
        crt.resample(shared, batch, range(2), resamples=2048, seed=0)
    folder = tmp_path / "S" / "A"
    folder.mkdir(parents=True)
    # The first line is written by the step around it.
    steps = (ROOT / "scripts/condrand/engines/crt_steps.py").read_text()
    assert '"computing starts: %d units, blocks %d to %d"' in steps
    lines = ["computing starts: 2 units, blocks 0 to 2", *caplog.messages]
    (folder / "shard-0000.log").write_text("\n".join(lines))
    (folder / "shard-0000.benchmark.tsv").write_text("s\tcpu_time\n12\t11\n")
    ((_, _, job),) = shard_times(tmp_path)
    assert Measured(**job) == Measured(12, 11, 2, 35, 2)


# What is read of a screen


def guides_as(form: str, parts: dict) -> object:
    dense = parts["guide_assignment"].toarray()
    table = pd.DataFrame(dense, index=parts["obs"].index, columns=list(parts["guide_names"]))
    return {"csr": sp.csr_matrix, "csc": sp.csc_matrix, "dense": np.array}.get(
        form, lambda _: table
    )(dense)


@pytest.mark.parametrize("form", ["csr", "csc", "dense", "table"])
def test_the_shape_of_a_screen_is_read_whatever_its_guides_are_stored_as(
    form, parts, write_screen
):
    path = write_screen(guide_assignment=guides_as(form, parts))
    config = complete({"A": CRT, "B": {"engine": "dex", "outcome": {"key": "X"}}}, path=str(path))
    found = read_shape(config, "S")
    assert (found.n_cells, found.n_targets, found.n_ntc_guides, found.n_guides) == (60, 2, 2, 5)
    assert found.n_calls == parts["guide_assignment"].nnz
    assert found.n_covariates == 1 + 2
    assert found.values["cnmf_usage"] == Values(3, 180, 8 * 180 / 2**20)
    assert found.values["X"].is_sparse and found.values["X"].n_features == 4
    assert found.values["X"].n_stored == parts["X"].nnz
    assert found.estimated == []


def test_groups_in_a_column_are_counted(parts, write_screen):
    obs = parts["obs"].assign(plain=np.arange(60))
    path = str(write_screen(obs=obs))
    dex = {"engine": "dex", "outcome": {"key": "X"}, "control": "rest"}
    found = read_shape(complete({"A": {**dex, "groupby": "batch"}}, path=path), "S")
    assert found.levels == {"batch": 3} and found.n_guides == 0
    found = read_shape(complete({"A": {**dex, "groupby": "plain"}}, path=path), "S")
    assert found.levels == {"plain": 60} and "no category" in found.estimated[0]


def test_no_value_is_read_of_a_large_matrix(tmp_path: Path):
    """Its values are not in the file: who reads them gets zeros, and takes long."""
    path, n = tmp_path / "s.h5ad", 10**9
    with h5py.File(path, "w") as file:
        file.attrs["encoding-type"] = "anndata"
        write_elem(file, "obs", pd.DataFrame(index=pd.RangeIndex(3).astype(str)))
        x = file.create_group("X")
        x.attrs["encoding-type"], x.attrs["shape"] = "csr_matrix", (3, n)
        for name, size in (("data", 2 * n), ("indices", 2 * n), ("indptr", 4)):
            x.create_dataset(name, (size,), "i4", chunks=(10**6,) if size > 4 else None)
    limma = {"engine": "limma", "design": "~ 1"}
    found = read_shape(complete({"A": limma}, path=str(path)), "S")
    assert found.values["X"].n_stored == 2 * n


def test_a_key_that_is_not_there_is_named(write_screen):
    config = complete({"A": {**CRT, "outcome": {"key": "usages"}}}, path=str(write_screen()))
    with pytest.raises(InputError, match="usages: there is no such key"):
        read_shape(config, "S")


@pytest.mark.parametrize("suffix", [".csv", ".tsv.gz"])
@pytest.mark.parametrize("rows", [3, 20_000])
def test_the_size_of_a_count_table_is_told_from_its_first_lines(tmp_path: Path, suffix, rows):
    path = tmp_path / f"counts{suffix}"
    separator = "," if suffix == ".csv" else "\t"
    rng = np.random.default_rng(0)
    lines = [separator.join(["gene", *(f"s{i}" for i in range(12))])]
    lines += [
        separator.join([f"gene{i}", *map(str, values)])
        for i, values in enumerate(rng.poisson(50, (rows, 12)))
    ]
    text = ("\n".join(lines) + "\n").encode()
    path.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    found, columns = count_table_size(path)
    assert columns == 12
    assert found == pytest.approx(rows, rel=0.2 if suffix.endswith("gz") else 0.05)


def test_a_simulated_screen_has_the_shape_it_will_get():
    config = complete({"A": CRT}, simulate={"n_cells": 5000, "n_programs": 7, "n_targets": 20})
    found = read_shape(config, "S")
    assert (found.n_cells, found.values["cnmf_usage"].n_features) == (5000, 7)
    assert (found.n_targets, found.n_guides, found.n_ntc_guides) == (20, 71, 11)
    assert found.n_calls == 25_000


# By way of the launcher


def test_the_launcher_prints_a_plan_and_writes_nothing(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run_snakemake", lambda *_: pytest.fail("was started"))
    text = (ROOT / "config/config.yaml").read_text()
    Path("mine.yaml").write_text(text)
    assert launch.main(["--config", "mine.yaml", "--plan", "--minutes", "20"]) == 0
    printed = capsys.readouterr().out
    assert "shard jobs of about 20 minutes" in printed and "demo/crt" in printed
    assert [path.name for path in tmp_path.iterdir()] == ["mine.yaml"]
    assert Path("mine.yaml").read_text() == text


def test_the_launcher_learns_from_the_logs_beside_the_configuration(
    tmp_path, monkeypatch, capsys, logs
):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(
        yaml.safe_dump({"screens": {"S": {"simulate": {}}}, "analyses": {"A": CRT}})
    )
    assert launch.main(["--config", "mine.yaml", "--plan"]) == 0
    assert "earlier shards (1) took" in capsys.readouterr().out


@pytest.mark.parametrize(
    "config, said",
    [
        ({"screens": {"S": {"path": "no.h5ad"}}, "analyses": {"A": CRT}}, "there is no file"),
        ({"screens": {"S": {"simulate": {}}}, "analyses": {"A": {"engine": "crtt"}}}, "crtt"),
    ],
)
def test_a_bad_configuration_is_refused_before_any_plan(
    tmp_path, monkeypatch, capsys, config, said
):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text(yaml.safe_dump(config))
    assert launch.main(["--config", "mine.yaml", "--plan"]) == launch.REFUSED
    assert said in capsys.readouterr().err


@pytest.mark.parametrize("option", [["--minutes", "0"], ["--threads", "0"]])
def test_minutes_and_threads_are_positive(option):
    with pytest.raises(SystemExit):
        launch.parse(["--config", "x.yaml", "--plan", *option])
