"""The launcher: whose lock is stale, who is refused, what is listed at the end."""

import json
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import launch

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
