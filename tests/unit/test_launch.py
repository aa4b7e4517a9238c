"""The launcher: whose lock is stale, who is refused, what is listed at the end."""

import argparse
import csv
import json
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch
from condrand.io.shards import ShardError, read_arrays

SCRIPTS = Path(launch.__file__).parent

HOLD = """
import sys, time
from pathlib import Path
import launch
with launch.run_of(Path(sys.argv[1]), "config/held.yaml") as run:
    run.begin()
    print("holding", flush=True)
    time.sleep(600)
"""

# Stands in for Snakemake: what it gets and how it ends is said by the arguments.
STAND_IN = "import os, sys, time; exec(sys.argv[1])"


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(tmp_path)],
        cwd=SCRIPTS,
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout.readline() == "holding\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def leave_snakemake_locks(directory: Path) -> None:
    locks = directory / launch.SNAKEMAKE_LOCKS
    locks.mkdir(parents=True)
    (locks / "0.input.lock").write_text("a\n")
    (locks / "0.output.lock").write_text("b\n")


def make_table(directory: Path, screen: str, analysis: str) -> Path:
    path = directory / "results" / screen / analysis / "effects.tsv.gz"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def run_stand_in(monkeypatch: pytest.MonkeyPatch, directory: Path, program: str) -> int:
    monkeypatch.setattr(launch, "snakemake_command", lambda: [sys.executable, "-c", STAND_IN])
    with launch.run_of(directory, "config/x.yaml", patience_s=0) as run:
        return launch.run_snakemake([program], run)


def test_live_run_in_the_same_directory_is_refused_by_name(tmp_path: Path, holder):
    with (
        pytest.raises(launch.RunningElsewhereError) as refusal,
        launch.run_of(tmp_path, "config/other.yaml", patience_s=0.2),
    ):
        pass
    assert f"process {holder.pid} on " in str(refusal.value)
    assert "config/held.yaml" in str(refusal.value)


def test_main_refuses_with_a_message_and_exit_code_2(
    tmp_path: Path, holder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "run_snakemake", lambda *_: pytest.fail("was started"))
    Path("x.yaml").write_text("screens: {}\n")
    assert launch.main(["--config", "x.yaml"]) == 2
    assert "another run is at work" in capsys.readouterr().err


def test_run_in_another_directory_is_not_refused(tmp_path: Path, holder):
    (tmp_path / "other").mkdir()
    with launch.run_of(tmp_path / "other", "config/other.yaml", patience_s=0) as run:
        assert run.last_run == ""


def test_kill_9_frees_the_directory_and_leaves_the_name(tmp_path: Path, holder):
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with launch.run_of(tmp_path, "config/next.yaml", patience_s=0) as run:
        assert json.loads(run.last_run)["pid"] == holder.pid


def test_locks_of_a_killed_run_are_stale(tmp_path: Path):
    leave_snakemake_locks(tmp_path)
    assert launch.locks_are_stale(tmp_path, '{"pid": 1}')


def test_locks_of_a_snakemake_started_by_hand_are_not_stale(tmp_path: Path):
    leave_snakemake_locks(tmp_path)
    assert not launch.locks_are_stale(tmp_path, "")


def test_nothing_is_stale_without_lock_files(tmp_path: Path):
    assert not launch.locks_are_stale(tmp_path, '{"pid": 1}')
    (tmp_path / launch.SNAKEMAKE_LOCKS).mkdir(parents=True)
    assert not launch.locks_are_stale(tmp_path, '{"pid": 1}')


@pytest.mark.parametrize("code", [0, 1, 3])
def test_exit_code_is_handed_on_and_the_name_taken_off(tmp_path: Path, monkeypatch, code: int):
    assert run_stand_in(monkeypatch, tmp_path, f"sys.exit({code})") == code
    assert (tmp_path / launch.LOCK).read_text() == ""


def test_name_stays_when_snakemake_itself_was_killed(tmp_path: Path, monkeypatch):
    assert run_stand_in(monkeypatch, tmp_path, "os.kill(os.getpid(), 9)") == 137
    assert json.loads((tmp_path / launch.LOCK).read_text())["config"] == "config/x.yaml"


@pytest.mark.parametrize("name", ["SIGTERM", "SIGINT"])
def test_signal_reaches_snakemake(tmp_path: Path, monkeypatch, name: str):
    monkeypatch.setattr(launch, "in_foreground", lambda: False)
    program = (
        f"import signal; signal.signal(signal.{name}, lambda *_: sys.exit(7)); "
        f"os.kill(os.getppid(), signal.{name}); time.sleep(60)"
    )
    assert run_stand_in(monkeypatch, tmp_path, program) == 7


def test_signal_handlers_are_restored(tmp_path: Path, monkeypatch):
    before = signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)
    run_stand_in(monkeypatch, tmp_path, "sys.exit(0)")
    assert (signal.getsignal(signal.SIGINT), signal.getsignal(signal.SIGTERM)) == before


def test_effects_tables_of_the_config_are_listed_and_no_others(tmp_path: Path):
    config = {"screens": {"b": {}, "a": {}, "unfinished": {}}, "analyses": {"crt": {}, "dex": {}}}
    mine = [make_table(tmp_path, *at) for at in [("a", "crt"), ("a", "dex"), ("b", "crt")]]
    make_table(tmp_path, "a", "limma")
    make_table(tmp_path, "old", "crt")
    assert launch.effects_tables(config, tmp_path) == mine


def test_all_analyses_are_listed_when_the_config_names_none(tmp_path: Path):
    mine = [make_table(tmp_path, "a", analysis) for analysis in ("crt", "dex")]
    assert launch.effects_tables({"screens": {"a": {}}}, tmp_path) == mine


def test_analysis_name_is_no_pattern(tmp_path: Path):
    make_table(tmp_path, "a", "crt")
    assert launch.effects_tables({"screens": {"a": {}}, "analyses": {"c*": {}}}, tmp_path) == []


def test_empty_config_lists_nothing(tmp_path: Path):
    assert launch.effects_tables({}, tmp_path) == []
    assert launch.effects_tables({"screens": None, "analyses": None}, tmp_path) == []


@pytest.mark.parametrize("extra", [["-n"], ["-np"], ["-qn"], ["--dry-run"], ["a", "--dryrun"]])
def test_dry_runs_are_known(extra: list[str]):
    assert launch.is_dry_run(extra)


@pytest.mark.parametrize("extra", [[], ["-F"], ["-p"], ["--nolock"], ["results/n"], ["-j", "4"]])
def test_other_arguments_are_no_dry_run(extra: list[str]):
    assert not launch.is_dry_run(extra)


def test_arguments_after_two_dashes_go_to_snakemake():
    options, extra = launch.parse(["--config", "x.yaml", "--", "-n", "--config", "seed=1"])
    assert options.config == "x.yaml"
    assert options.profile == launch.DEFAULT_PROFILE
    assert extra == ["-n", "--config", "seed=1"]


def test_interpreter_is_never_a_path_with_a_space():
    assert launch.snakemake_command("/a/b/python") == ["/a/b/python", "-m", "snakemake"]
    command = launch.snakemake_command("/a b/python")
    assert command == ["/a b/python", "-c", launch.UNQUOTED_SAFE]
    assert launch.snakemake_environment("/a b/python")["PATH"].startswith("/a b:")


def test_scripts_run_in_a_checkout_whose_path_has_a_space(tmp_path: Path):
    bin_ = tmp_path / "with space" / "bin"
    bin_.mkdir(parents=True)
    # A link into a venv finds its packages only beside the venv's own pyvenv.cfg.
    (bin_.parent / "pyvenv.cfg").write_text((Path(sys.prefix) / "pyvenv.cfg").read_text())
    (bin_.parent / "lib").symlink_to(Path(sys.prefix) / "lib")
    python = bin_ / "python"
    python.symlink_to(Path(sys.executable).resolve())
    (tmp_path / "Snakefile").write_text('rule all:\n    output: "x"\n    script: "x.py"\n')
    (tmp_path / "x.py").write_text("import sys\nopen('x', 'w').write(sys.executable)\n")
    done = subprocess.run(
        [*launch.snakemake_command(str(python)), "--cores", "1"],
        env=launch.snakemake_environment(str(python)),
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, shlex.join(done.args) + done.stderr
    assert (tmp_path / "x").read_text() == str(python)


@pytest.mark.parametrize("option", ["-s", "--directory", "--snakefile=other"])
def test_another_snakefile_or_folder_is_refused(tmp_path: Path, monkeypatch, capsys, option: str):
    monkeypatch.chdir(tmp_path)
    Path("mine.yaml").write_text("{}")
    monkeypatch.setattr(launch, "run_snakemake", lambda *_: pytest.fail("was started"))
    assert launch.main(["--config", "mine.yaml", "--", option, "x"]) == launch.REFUSED
    assert "by hand" in capsys.readouterr().err


# After a failure

FAILING = """
rule all:
    input: expand("results/x-{i}.h5", i=range(6))

rule shard:
    output: "results/x-{i}.h5"
    log: "logs/x-{i}.log"
    params: i=lambda wildcards: wildcards.i
    shell:
        '''
        echo "2026-01-01 00:00:00 INFO x: computing starts" > {log}
        case {params.i} in
        1) echo "Traceback (most recent call last):" >> {log}
           echo "ValueError: no luck" >> {log}
           echo half > {output}; exit 3 ;;
        2) if [ ! -e once ]; then touch once; exit 1; fi ;;
        3) kill -9 $$ ;;
        4) echo "Bad input. s.h5ad: 1 problem" >> {log}
           echo "  1. X: is odd" >> {log}
           echo "      -> mend it" >> {log}
           echo "" >> {log}
           exit 1 ;;
        5) if [ ! -e mended ]; then exit 1; fi ;;
        esac
        touch {output}
        '''
"""
PROFILE = "cores: 2\nretries: 1\nkeep-going: true\nquiet: [host, reason]\n"


@pytest.fixture(scope="module")
def failed(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """A folder where a run failed, and what the launcher said at the end."""
    folder = tmp_path_factory.mktemp("failed")
    (folder / "Snakefile").write_text(FAILING)
    (folder / "profile").mkdir()
    (folder / "profile/config.yaml").write_text(PROFILE)
    (folder / "c.yaml").write_text("{}")
    # Of a run that has nothing to do with this one.
    (folder / launch.SNAKEMAKE_LOGS).mkdir(parents=True)
    old = "Error in rule old:\n    message: None\n    jobid: 1\n    output: results/old.h5\n"
    (folder / launch.SNAKEMAKE_LOGS / "2020-01-01T000000.0.snakemake.log").write_text(old)
    code, text = run_launcher(folder, "--by-make")
    assert code == 1
    return folder, text.split("condrand: ", 1)[1]


def run_launcher(folder: Path, *arguments: str) -> tuple[int, str]:
    done = subprocess.run(
        [sys.executable, str(SCRIPTS / "launch.py"), "--config", "c.yaml"]
        + ["--profile", "profile", *arguments],
        cwd=folder,
        env={k: v for k, v in launch.snakemake_environment().items() if k != "SNAKEMAKE_PROFILE"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    return done.returncode, done.stdout


def table_of(folder: Path) -> dict[str, dict[str, str]]:
    with (folder / launch.FAILED_JOBS).open(newline="") as lines:
        return {row["output"]: row for row in csv.DictReader(lines, delimiter="\t")}


def test_each_failed_job_is_listed_and_no_other(failed):
    folder, text = failed
    assert text.startswith("4 jobs failed")
    assert sorted(table_of(folder)) == [f"results/x-{i}.h5" for i in (1, 3, 4, 5)]
    for i, row in ((i, table_of(folder)[f"results/x-{i}.h5"]) for i in (1, 3, 4, 5)):
        assert (row["rule"], row["log"], row["attempts"]) == ("shard", f"logs/x-{i}.log", "2")
        assert row["command"] == f"make run CONFIG=c.yaml PROFILE=profile JOB=results/x-{i}.h5"
        for part in (row["output"], row["log"], row["command"]):
            assert part in text
    # One failed only once, one is of another run.
    assert "x-2.h5" not in text and "old.h5" not in text
    assert text.rstrip().endswith("make run CONFIG=c.yaml PROFILE=profile")


def test_the_reason_is_the_end_of_the_log_unless_it_tells_of_progress(failed):
    reasons = {output: row["reason"] for output, row in table_of(failed[0]).items()}
    assert reasons["results/x-1.h5"] == "ValueError: no luck"
    assert reasons["results/x-4.h5"] == "Bad input. s.h5ad: 1 problem 1. X: is odd -> mend it"
    assert "killed" in reasons["results/x-3.h5"]
    assert "ValueError: no luck" in failed[1]


def test_the_command_of_a_failed_job_makes_it_alone_and_the_table_goes(failed, tmp_path):
    folder = shutil.copytree(failed[0], tmp_path / "run")
    (folder / "mended").touch()
    words = shlex.split(table_of(folder)["results/x-5.h5"]["command"])
    (job,) = [word.removeprefix("JOB=") for word in words if word.startswith("JOB=")]
    assert not (folder / job).exists()
    code, text = run_launcher(folder, "--job", job)
    assert code == 0, text
    assert (folder / job).exists() and not (folder / "results/x-1.h5").exists()
    assert not (folder / launch.FAILED_JOBS).exists()


def test_a_goal_right_after_the_two_dashes_is_no_config_file(failed, tmp_path):
    folder = shutil.copytree(failed[0], tmp_path / "run")
    (folder / "results/x-0.h5").unlink()
    code, text = run_launcher(folder, "--", "results/x-0.h5")
    assert code == 0, text
    assert (folder / "results/x-0.h5").exists() and not (folder / "results/x-1.h5").exists()


def test_make_runs_the_command_of_a_failed_job():
    done = subprocess.run(
        ["make", "-n", "run", "CONFIG=config/config.yaml", "PROFILE=profiles/slurm", "JOB=a.h5"],
        cwd=SCRIPTS.parent,
        capture_output=True,
        text=True,
    )
    (line,) = [line for line in done.stdout.splitlines() if "scripts/launch.py" in line]
    options, _ = launch.parse(shlex.split(line)[2:])
    assert (options.config, options.profile) == ("config/config.yaml", "profiles/slurm")
    assert (options.job, options.report, options.by_make) == (["a.h5"], None, True)
    assert launch.rerun_command(options, "a.h5") == shlex.join(done.args).replace(" -n", "")


def test_without_make_the_command_is_the_launchers():
    options, _ = launch.parse(["--config", "my screen.yaml", "--cores", "4"])
    words = shlex.split(launch.rerun_command(options, "results/a.h5"))
    assert words[:2] == ["python", "scripts/launch.py"]
    again, _ = launch.parse(words[2:])
    assert (again.config, again.cores, again.job) == ("my screen.yaml", "4", ["results/a.h5"])


# As the executor for clusters has it: a message, a log of its own, the job's number there.
ON_A_CLUSTER = """
[Sat Jan  3 00:00:00 2026]
Error in rule crt_shard:
    message: {message}For further error details see the cluster/cloud log and the log files of the involved rule(s).
    jobid: 7
    input: results/S/A/outcome.h5ad, results/S/A/batch-0000/propensity.h5
    output: results/S/A/batch-0000/shard-0003.h5
    log: logs/S/A/batch-0000/shard-0003.log, /x/.snakemake/logs/48.log (check log file(s) for error details)
    external_jobid: 48
Logfile logs/S/A/batch-0000/shard-0003.log:
=======================================
2026-01-01 00:00:00 INFO x: computing starts
=======================================
Logfile /x/.snakemake/logs/48.log:
===========================================
SNAKEMAKE
=========
Error in rule crt_shard:
    message: None
    jobid: 0
    output: results/S/A/batch-0000/shard-0003.h5
Finished jobid: 7 (Rule: crt_shard)
===========================================
Trying to restart job 7.
"""  # noqa: E501
ENDED = (
    "[Sat Jan  3 00:00:00 2026]\nFinished jobid: {} (Rule: crt_shard)\n1 of 9 steps (11%) done\n"
)


def test_attempts_on_a_cluster_are_counted_and_its_message_kept(tmp_path: Path):
    states = [f"job 48 failed, status {state}. " for state in ("OUT_OF_MEMORY", "TIMEOUT")]
    unsaid = "Detailed failure reason unavailable (not asked)."
    errors = [ON_A_CLUSTER.format(message=state + unsaid) for state in states]
    (job,) = launch.failed_jobs("".join(errors))
    assert job == launch.FailedJob(
        *("crt_shard", "results/S/A/batch-0000/shard-0003.h5"),
        *("logs/S/A/batch-0000/shard-0003.log", 2, "job 48 failed, status TIMEOUT."),
    )
    assert launch.reason_of(job, tmp_path).startswith("job 48 failed, status TIMEOUT. (its log")
    log = tmp_path / job.log
    log.parent.mkdir(parents=True)
    log.write_text("2026-01-01 00:00:00 INFO x: 3/9 g: 300 treated cells\n")
    assert launch.reason_of(job, tmp_path).startswith("job 48 failed, status TIMEOUT. (its log")
    log.write_text("OSError: [Errno 28] No space left on device\n\n")
    assert launch.reason_of(job, tmp_path) == "OSError: [Errno 28] No space left on device"


def test_a_full_disk_is_named_where_no_log_could_be_written(tmp_path, monkeypatch, capsys):
    log = tmp_path / launch.SNAKEMAKE_LOGS / "2026-01-01T000000.0.snakemake.log"
    log.parent.mkdir(parents=True)
    log.write_text("Error in rule shard:\n    message: None\n    jobid: 1\n    output: a.h5\n")
    # A disk of which nothing is left, and a table that cannot be written either.
    monkeypatch.setattr(launch, "LEAST_ROOM", 2**62)
    (tmp_path / launch.FAILED_JOBS).mkdir(parents=True)
    options = argparse.Namespace(config="c.yaml", profile="p", cores=None, by_make=True)
    launch.report_failures(options, tmp_path, set())
    said = capsys.readouterr().err
    assert f"why    No space left on device where {tmp_path} is: make room\n" in said
    assert "again  make run CONFIG=c.yaml PROFILE=p JOB=a.h5" in said
    assert f"{launch.FAILED_JOBS} could not be written: Is a directory. What they would" in said


def test_a_damaged_shard_is_removed_by_the_command_that_merges_again(tmp_path: Path, capsys):
    log = tmp_path / launch.SNAKEMAKE_LOGS / "2026-01-01T000000.0.snakemake.log"
    log.parent.mkdir(parents=True)
    log.write_text(
        "Error in rule crt_merge:\n    message: None\n    jobid: 1\n"
        "    output: results/b.parquet, results/b.tsv\n"
        "    log: b.log (check log file(s) for error details)\n"
    )
    with pytest.raises(ShardError) as error:
        read_arrays(tmp_path / "shard.h5")
    (tmp_path / "b.log").write_text(f"ShardError: {error.value}\n")
    options = argparse.Namespace(config="c.yaml", profile="p", cores=None, by_make=True)
    launch.report_failures(options, tmp_path, set())
    command = table_of(tmp_path)["results/b.parquet"]["command"]
    again = "make run CONFIG=c.yaml PROFILE=p JOB=results/b.parquet"
    assert command == f"rm '{tmp_path / 'shard.h5'}' && {again}"
    assert f"again  {command}" in capsys.readouterr().err


def test_a_job_whose_last_attempt_ended_well_has_not_failed():
    error = ON_A_CLUSTER.format(message="")
    assert launch.failed_jobs(error + ENDED.format(7)) == []
    assert launch.failed_jobs(error + ENDED.format(77)) != []
    assert launch.failed_jobs(ENDED.format(7) + error) != []


def test_of_many_failed_jobs_a_few_are_shown_and_all_are_in_the_table(tmp_path, capsys):
    log = tmp_path / launch.SNAKEMAKE_LOGS / "2026-01-01T000000.0.snakemake.log"
    log.parent.mkdir(parents=True)
    errors = [
        f"Error in rule shard:\n    message: None\n    jobid: {i}\n    output: results/{i}.h5\n"
        for i in range(300)
    ]
    log.write_text("".join(errors))
    options = argparse.Namespace(config="c.yaml", profile="p", cores=None, by_make=True)
    launch.report_failures(options, tmp_path, set())
    said = capsys.readouterr().err
    assert said.count("again") == launch.MOST_SHOWN and "and 290 more" in said
    assert len(table_of(tmp_path)) == 300


def test_a_run_that_failed_before_any_job_lists_none(tmp_path, capsys):
    launch.report_failures(argparse.Namespace(), tmp_path, set())
    assert capsys.readouterr().err == ""
    assert not (tmp_path / launch.FAILED_JOBS).exists()
