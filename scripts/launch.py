"""Run the workflow with one config, then make its report and say where the results are.

    python scripts/launch.py --config FILE [--report FILE] [--cores N|all] [--profile DIR]
                             [-- further Snakemake arguments]

Why not call Snakemake directly? It can be (``README.md`` shows how); this adds what a person
otherwise does by hand:

* After a crash or ``kill -9`` Snakemake refuses to start until somebody unlocks the directory,
  because its lock files outlive it. Here a run also holds a kernel lock, which dies with it. So
  a lock file that a dead run left behind is known to be stale and is removed, and a run that is
  still alive is refused by name.
* The report is a second call of Snakemake, with the same config.
* Snakemake 9 starts scripts with the unquoted path of its own interpreter, which fails in a
  checkout whose path has a space.
"""

import argparse
import ctypes
import errno
import fcntl
import glob
import json
import os
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import FrameType
from typing import IO

import yaml

LOCK = Path(".snakemake/condrand.lock")
SNAKEMAKE_LOCKS = Path(".snakemake/locks")
DEFAULT_PROFILE = "profiles/default"
REFUSED = 2

# After kill -9 of the launcher alone, its Snakemake dies a moment later.
PATIENCE_S = 3.0

# With `python` as its interpreter's name Snakemake finds it by PATH. `multiprocessing` does not
# search PATH, so it is imported before, while the name is still a whole path.
UNQUOTED_SAFE = (
    "import multiprocessing.spawn, sys; sys.executable = 'python'; sys.argv[0] = 'snakemake'; "
    "from snakemake.cli import main; sys.exit(main())"
)


class RunningElsewhereError(Exception):
    """Another live run holds the directory."""


def snakemake_command(executable: str = sys.executable) -> list[str]:
    """Give the start of a command line that runs Snakemake in this environment.

    Notes
    -----
    Precondition: the command is run with `snakemake_environment`.
    """
    if shlex.quote(executable) == executable:
        return [executable, "-m", "snakemake"]
    return [executable, "-c", UNQUOTED_SAFE]


def snakemake_environment(executable: str = sys.executable) -> dict[str, str]:
    """Give the environment in which ``python`` is this interpreter."""
    path = os.pathsep.join([str(Path(executable).parent), os.environ.get("PATH", os.defpath)])
    return {**os.environ, "PATH": path}


def workflow_arguments(config: str, profile: str) -> list[str]:
    """Give the arguments that every call of Snakemake for this run shares.

    Notes
    -----
    The profile is given as the *workflow* profile: Snakemake reads ``profiles/default`` as
    workflow profile when none is named, and it would overrule what ``--profile`` names.
    """
    return ["--workflow-profile", profile, "--configfile", config]


def is_dry_run(extra: list[str]) -> bool:
    """Tell whether further Snakemake arguments ask for a dry run."""
    flags = set("nFfkpq")
    for argument in extra:
        if argument in {"--dry-run", "--dryrun"}:
            return True
        if argument.startswith("-") and set(argument[1:]) <= flags and "n" in argument:
            return True
    return False


def lock_files(directory: Path) -> list[Path]:
    """Give Snakemake's lock files in a working directory."""
    return sorted((directory / SNAKEMAKE_LOCKS).glob("*.lock"))


def locks_are_stale(directory: Path, last_run: str) -> bool:
    """Tell whether Snakemake's lock files in a directory belong to a dead run.

    Parameters
    ----------
    directory : Path
        The working directory, whose kernel lock the caller holds.
    last_run : str
        What the kernel lock's file said when it was taken: the run that wrote it, empty if that
        run saw its Snakemake end by itself.

    Notes
    -----
    A run that ended by itself leaves no lock files. If there are any nevertheless, somebody
    started Snakemake by hand, perhaps on another login node, and it may be alive: not ours
    to unlock.
    """
    return bool(last_run.strip()) and bool(lock_files(directory))


def describe(last_run: str) -> str:
    """Give the words for the run that holds the lock."""
    try:
        run = json.loads(last_run)
        return f"process {run['pid']} on {run['host']}, {run['config']}, since {run['since']}"
    except (ValueError, KeyError, TypeError):
        # It has the lock but has not written its name yet.
        return "a run that has just started"


def take(file: IO[str], patience_s: float) -> bool:
    """Take the kernel lock; tell whether this file system has such locks.

    Raises
    ------
    RunningElsewhereError
        If another process keeps the lock for ``patience_s`` seconds.
    """
    end = time.monotonic() + patience_s
    while True:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        except BlockingIOError:
            if time.monotonic() >= end:
                file.seek(0)
                raise RunningElsewhereError(describe(file.read())) from None
            time.sleep(0.1)
        except OSError as error:
            # Lustre and NFS may be mounted without locks.
            if error.errno in {errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP}:
                return False
            raise


class Run:
    """The kernel lock of a working directory, and the name of the run that holds it.

    Attributes
    ----------
    last_run : str
        What the previous holder left: its name if it was killed, else nothing. Also empty where
        the file system has no locks, so that nothing is ever unlocked there.
    """

    def __init__(self, file: IO[str], config: str, locked: bool):
        self._file = file
        self._config = config
        file.seek(0)
        self.last_run = file.read() if locked else ""

    @property
    def descriptor(self) -> int:
        """The open file; a child that inherits it holds the lock as well."""
        return self._file.fileno()

    def begin(self) -> None:
        """Write this run's name: from now on its lock files are stale once it is dead."""
        name = {
            "pid": os.getpid(),
            "host": socket.gethostname(),
            "config": self._config,
            "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        }
        self._write(json.dumps(name))

    def end(self) -> None:
        """Take the name off: Snakemake has ended by itself and unlocked."""
        self._write("")

    def _write(self, text: str) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._file.write(text)
        self._file.flush()


@contextmanager
def run_of(directory: Path, config: str, patience_s: float = PATIENCE_S) -> Iterator[Run]:
    """Hold the kernel lock of a working directory.

    Raises
    ------
    RunningElsewhereError
        If another live run holds it.
    """
    path = directory / LOCK
    path.parent.mkdir(exist_ok=True)
    with path.open("a+", encoding="utf-8") as file:
        locked = take(file, patience_s)
        yield Run(file, config, locked)


def die_with_parent() -> None:
    """Ask Linux to kill this process when the launcher dies; elsewhere do nothing.

    Without it Snakemake would go on unseen after ``kill -9`` of the launcher.
    """
    if sys.platform == "linux":
        set_parent_death_signal = 1
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)


def in_foreground() -> bool:
    """Tell whether this process belongs to the foreground of its terminal."""
    try:
        terminal = os.open(os.ctermid(), os.O_RDONLY)
    except OSError:
        return False
    try:
        return os.tcgetpgrp(terminal) == os.getpgrp()
    except OSError:
        return False
    finally:
        os.close(terminal)


def run_snakemake(arguments: list[str], run: Run) -> int:
    """Run Snakemake on the launcher's own terminal, hand signals on, give its exit code.

    Notes
    -----
    SIGINT stops Snakemake's jobs; SIGTERM lets the running ones finish and starts no more.
    """
    process: subprocess.Popen | None = None
    early: list[int] = []

    def forward(number: int, _frame: FrameType | None) -> None:
        # Ctrl-C reaches the whole foreground, Snakemake included; a second one would interrupt
        # its clean-up.
        if number == signal.SIGINT and in_foreground():
            return
        if process is None:
            early.append(number)
        else:
            process.send_signal(number)

    before = {number: signal.signal(number, forward) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        run.begin()
        process = subprocess.Popen(
            [*snakemake_command(), *arguments],
            env=snakemake_environment(),
            stdin=subprocess.DEVNULL,
            # Snakemake closes it in the jobs it starts, so a job that outlives kill -9 does not
            # hold up the next run. Such a job and its successor may write the same file; each
            # writes a temporary file of its own and renames it, so neither sees half of one.
            pass_fds=[run.descriptor],
            preexec_fn=die_with_parent,
        )
        for number in early:
            process.send_signal(number)
        code = process.wait()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
    if code < 0:
        # Killed: it had no chance to unlock, so this run's name stays in the lock file.
        return 128 - code
    run.end()
    return code


def run_captured(arguments: list[str], what: str) -> int:
    """Run Snakemake silently, show its output only if it fails, give its exit code."""
    done = subprocess.run(
        [*snakemake_command(), *arguments],
        env=snakemake_environment(),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    if done.returncode != 0:
        print(done.stdout, file=sys.stderr, end="")
        print(f"condrand: {what} failed, see above", file=sys.stderr, flush=True)
    return done.returncode


def effects_tables(config: dict, directory: Path) -> list[Path]:
    """Give the effects tables that exist for the screens and analyses of a config.

    Parameters
    ----------
    config : dict
        The run's config; analyses it does not name are defaults and match any folder.
    directory : Path
        The working directory.
    """
    analyses = [glob.escape(str(name)) for name in config.get("analyses") or {}] or ["*"]
    return sorted(
        table
        for screen in config.get("screens") or {}
        for analysis in analyses
        for table in (directory / "results" / str(screen)).glob(f"{analysis}/effects.tsv.gz")
    )


def print_results(config_file: str, report: str | None, directory: Path) -> None:
    """Say where report and effects tables are."""
    config = yaml.safe_load(Path(config_file).read_text(encoding="utf-8")) or {}
    print("\nDone.")
    if report is not None:
        print(f"  report   {report}")
    for table in effects_tables(config, directory):
        print(f"  effects  {table}")


def parse(arguments: list[str]) -> tuple[argparse.Namespace, list[str]]:
    """Split the command line into the launcher's options and Snakemake's."""
    extra: list[str] = []
    if "--" in arguments:
        at = arguments.index("--")
        arguments, extra = arguments[:at], arguments[at + 1 :]
    parser = argparse.ArgumentParser(
        description=__doc__.splitlines()[0], epilog="Arguments after -- go to Snakemake."
    )
    parser.add_argument("--config", required=True, metavar="FILE", help="config of the run")
    parser.add_argument("--report", metavar="FILE", help="HTML report to make when all is done")
    parser.add_argument("--cores", metavar="N|all", help="default: what the profile says")
    parser.add_argument("--profile", metavar="DIR", default=DEFAULT_PROFILE)
    return parser.parse_args(arguments), extra


def unlock(shared: list[str], run: Run) -> int:
    """Remove the lock files of a dead run, keep everybody else's; give an exit code."""
    directory = Path()
    if locks_are_stale(directory, run.last_run):
        print("condrand: the last run here was killed; removing its lock", flush=True)
        return run_captured([*shared, "--cores", "1", "--unlock"], "unlocking the directory")
    if lock_files(directory):
        command = shlex.join([*snakemake_command(), *shared, "--cores", "1", "--unlock"])
        print(
            "condrand: a Snakemake that was started by hand has locked this directory. "
            f"If it no longer runs, unlock with\n  {command}",
            file=sys.stderr,
            flush=True,
        )
    return 0


def main(arguments: list[str] | None = None) -> int:
    """Launch the workflow; give the exit code."""
    options, extra = parse(sys.argv[1:] if arguments is None else arguments)
    if not Path(options.config).is_file():
        print(f"condrand: there is no config file {options.config}", file=sys.stderr)
        return REFUSED
    elsewhere = {"-s", "--snakefile", "-d", "--directory"}
    if any(word.split("=")[0] in elsewhere for word in extra):
        print(
            "condrand: the launcher runs this checkout's Snakefile in the folder it is called in; "
            "for another one call Snakemake by hand",
            file=sys.stderr,
        )
        return REFUSED
    shared = workflow_arguments(options.config, options.profile)
    cores = [] if options.cores is None else ["--cores", options.cores]
    try:
        with run_of(Path(), options.config) as run:
            code = unlock(shared, run) or run_snakemake([*shared, *cores, *extra], run)
            if code != 0 or is_dry_run(extra):
                return code
            if options.report is not None:
                Path(options.report).parent.mkdir(parents=True, exist_ok=True)
                code = run_captured(
                    [*shared, "--cores", "1", "--report", options.report], "making the report"
                )
                if code != 0:
                    return code
            print_results(options.config, options.report, Path())
            return 0
    except RunningElsewhereError as other:
        print(
            f"condrand: another run is at work in this directory ({other}).\n"
            "Wait for it or stop it; two runs at a time need two working directories.",
            file=sys.stderr,
        )
        return REFUSED
    except KeyboardInterrupt:
        return 128 + signal.SIGINT


if __name__ == "__main__":
    sys.exit(main())
