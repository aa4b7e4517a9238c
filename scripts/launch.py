"""Run the workflow with one config, then make its report and say where the results are.

    python scripts/launch.py --config FILE [--report FILE] [--cores N|all] [--profile DIR]
                             [--job FILE ...] [-- further Snakemake arguments]
    python scripts/launch.py --config FILE --plan [--minutes N] [--threads N]

Why not call Snakemake directly? It can be (``README.md`` shows how); this adds what a person
otherwise does by hand:

* After a crash or ``kill -9`` Snakemake refuses to start until somebody unlocks the directory,
  because its lock files outlive it. Here a run also holds a kernel lock, which dies with it. So
  a lock file that a dead run left behind is known to be stale and is removed, and a run that is
  still alive is refused by name.
* The report is a second call of Snakemake, with the same config.
* After a failure, each failed job is listed with its reason, its log and the command that runs it
  again. Snakemake names them too, among thousands of lines.
* ``--plan`` proposes how to split the work over jobs, and runs nothing.
* Snakemake 9 starts scripts with the unquoted path of its own interpreter, which fails in a
  checkout whose path has a space.
"""

import argparse
import csv
import ctypes
import errno
import fcntl
import glob
import io
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from types import FrameType
from typing import IO

import yaml

LOCK = Path(".snakemake/condrand.lock")
SNAKEMAKE_LOCKS = Path(".snakemake/locks")
SNAKEMAKE_LOGS = Path(".snakemake/log")
FAILED_JOBS = Path("logs/failed.tsv")
DEFAULT_PROFILE = "profiles/default"
REFUSED = 2

# Failed jobs that are shown; the table has all of them.
MOST_SHOWN = 10

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

    Options that take any number of words come first: a word that follows is no config file.
    """
    return ["--configfile", config, "--workflow-profile", profile]


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


@dataclass(frozen=True)
class FailedJob:
    """A job that did not end well, as Snakemake's log has it.

    Attributes
    ----------
    rule : str
    output : str
        Its first file.
    log : str
        Its own log; empty where it has none.
    attempts : int
        How often it failed.
    message : str
        What the executor says of it, such as the state a cluster gave it.
    """

    rule: str
    output: str
    log: str
    attempts: int
    message: str


# A job's error as Snakemake logs it: a line that is not indented, and indented ones. Its number
# is the only name that the lines on its restart and end have in common with it.
JOB_ERROR = re.compile(r"^Error in rule (?P<rule>\S+):\n(?P<facts>(?: {4}.*\n)+)", re.MULTILINE)
JOB_ENDED = re.compile(r"^Finished jobid: (?P<job>\d+) ", re.MULTILINE)
# Logs that Snakemake shows of a failed job. On a cluster they are of a Snakemake too.
SHOWN_LOG = re.compile(r"^Logfile .+:\n(=+)\n(?:.*\n)*?\1\n", re.MULTILINE)
# What executors add to each message and that says nothing of the job.
EMPTY_WORDS = re.compile(r"(Detailed failure reason unavailable|For further error details).*")
FACT = re.compile(r"^ {4}(message|jobid|output|log): (.*)$", re.MULTILINE)
# What a merge says of a damaged shard.
REMOVAL = re.compile(r"rm '[^']+'")
# Bytes that a log and what a job makes need at least.
LEAST_ROOM = 2**20
# Lines of a log that tell of progress, not of an error.
PROGRESS = re.compile(r"^\d{4}-\d\d-\d\d \d\d:\d\d:\d\d (INFO|WARNING) ")


def failed_jobs(text: str) -> list[FailedJob]:
    """Jobs that failed and did not succeed later, in the order of their first failure.

    Parameters
    ----------
    text : str
        Snakemake's own log of a run.
    """
    text = SHOWN_LOG.sub("", text)
    failed: dict[str, tuple[int, FailedJob]] = {}
    for error in JOB_ERROR.finditer(text):
        facts = dict(FACT.findall(error["facts"]))
        number = facts["jobid"]
        before = failed[number][1].attempts if number in failed else 0
        message = EMPTY_WORDS.sub("", facts.get("message", "None")).strip()
        job = FailedJob(
            rule=error["rule"],
            output=facts.get("output", "").split(", ")[0],
            log=facts.get("log", "").removesuffix(" (check log file(s) for error details)"),
            attempts=before + 1,
            message="" if message == "None" else message,
        )
        # A cluster adds the log of its own.
        failed[number] = error.start(), replace(job, log=job.log.split(", ")[0])
    for end in JOB_ENDED.finditer(text):
        if end["job"] in failed and failed[end["job"]][0] < end.start():
            del failed[end["job"]]
    return [job for _, job in failed.values()]


def reason_of(job: FailedJob, directory: Path) -> str:
    """Why a job failed: the end of its log, unless that tells of progress; else its message."""
    log = directory / job.log
    lines: list[str] = []
    if job.log and log.is_file():
        with log.open("rb") as file:
            # Enough for any message; the log itself may be long.
            file.seek(max(0, log.stat().st_size - 20_000))
            lines = file.read().decode(errors="replace").splitlines()
    lines = [line for line in lines if line.strip()]
    at = max((i for i, line in enumerate(lines) if line.startswith("Bad input. ")), default=None)
    if at is not None:
        return " ".join(line.strip() for line in lines[at:])
    if lines and not PROGRESS.match(lines[-1]):
        return lines[-1].strip()
    silent = "its log names no error, as when it is killed: out of memory?"
    if is_full(directory):
        # Where nothing fits, no log does.
        silent = f"{os.strerror(errno.ENOSPC)} where {directory} is: make room"
    return f"{job.message} ({silent})" if job.message else silent


def is_full(directory: Path) -> bool:
    """Whether hardly anything fits on the disk of a folder."""
    try:
        return shutil.disk_usage(directory).free < LEAST_ROOM
    except OSError:
        return False


def rerun_command(options: argparse.Namespace, output: str | None = None) -> str:
    """The command that makes one file, or everything that is missing, in the user's way."""
    if options.by_make:
        words = {"CONFIG": options.config}
        if options.profile != DEFAULT_PROFILE:
            words["PROFILE"] = options.profile
        elif options.cores != "all":
            words["CORES"] = options.cores
        if output is not None:
            words["JOB"] = output
        return "make run " + " ".join(
            f"{name}={shlex.quote(word)}" for name, word in words.items()
        )
    command = ["python", "scripts/launch.py", "--config", options.config]
    if options.profile != DEFAULT_PROFILE:
        command += ["--profile", options.profile]
    if options.cores is not None:
        command += ["--cores", options.cores]
    if output is not None:
        command += ["--job", output]
    return shlex.join(command)


def mending_command(options: argparse.Namespace, job: FailedJob, reason: str) -> str:
    """As :func:`rerun_command`, for one job: what its reason says to remove goes first."""
    return " && ".join([*REMOVAL.findall(reason), rerun_command(options, job.output)])


def report_failures(options: argparse.Namespace, directory: Path, earlier: set[Path]) -> None:
    """Say which jobs of the run that has just ended failed, why, and how to run them again.

    Parameters
    ----------
    options : argparse.Namespace
        Of this run.
    directory : Path
        The working directory. All failed jobs go into its ``logs/failed.tsv``.
    earlier : set of Path
        Snakemake's logs before the run.
    """
    new = sorted(snakemake_logs(directory) - earlier)
    # Jobs of a cluster are calls of Snakemake as well, and start later.
    jobs = failed_jobs(new[0].read_text(encoding="utf-8", errors="replace")) if new else []
    if not jobs:
        return
    reasons = [reason_of(job, directory) for job in jobs]
    commands = [mending_command(options, *of) for of in zip(jobs, reasons, strict=True)]
    failed = list(zip(jobs, reasons, commands, strict=True))
    table = io.StringIO()
    writer = csv.writer(table, delimiter="\t", lineterminator="\n")
    writer.writerow(["rule", "output", "log", "attempts", "reason", "message", "command"])
    for job, reason, command in failed:
        writer.writerow(
            [job.rule, job.output, job.log, job.attempts, reason, job.message, command]
        )
    where = f"All of them are in {FAILED_JOBS}."
    try:
        (directory / FAILED_JOBS).parent.mkdir(exist_ok=True)
        (directory / FAILED_JOBS).write_text(table.getvalue(), encoding="utf-8")
    except OSError as error:
        where = f"{FAILED_JOBS} could not be written: {error.strerror}."
    count = "1 job" if len(jobs) == 1 else f"{len(jobs)} jobs"
    lines = [f"\ncondrand: {count} failed"]
    for job, reason, command in failed[:MOST_SHOWN]:
        times = f", {job.attempts} attempts" if job.attempts > 1 else ""
        lines += [
            f"\n  {job.output} ({job.rule}{times})",
            f"    why    {shortened(reason)}",
            f"    log    {job.log}",
            f"    again  {command}",
        ]
    if len(jobs) > MOST_SHOWN:
        lines.append(f"\n  and {len(jobs) - MOST_SHOWN} more")
    lines += [
        f"\n{where} What they would have made, and all that is missing,",
        f"is made by\n  {rerun_command(options)}",
    ]
    print("\n".join(lines), file=sys.stderr, flush=True)


def shortened(text: str, most: int = 300) -> str:
    """`text`, cut off where it is long."""
    return text if len(text) <= most else f"{text[:most]} …"


def snakemake_logs(directory: Path) -> set[Path]:
    """Snakemake's logs of all runs in a working directory."""
    return set((directory / SNAKEMAKE_LOGS).glob("*.snakemake.log"))


def print_plan(config_file: str, minutes: float, threads: int | None) -> int:
    """Propose how to split the work of a config; give the exit code."""
    # Only here: a run must start at once, and needs none of them.
    from condrand.config import check_files, complete_config
    from condrand.errors import InputError
    from condrand.inputs.headers import read_shape
    from condrand.io.past_runs import shard_times
    from condrand.planner import Measured, plan_text, propose

    schema = Path(__file__).resolve().parents[1] / "workflow/schemas/config.schema.yaml"
    try:
        config = complete_config(
            yaml.safe_load(Path(config_file).read_text(encoding="utf-8")) or {},
            yaml.safe_load(schema.read_text(encoding="utf-8")),
            config_file,
        )
        check_files(config, config_file, config["screens"])
        shapes = {screen: read_shape(config, screen) for screen in config["screens"]}
    except InputError as error:
        print(f"Bad configuration. {error}", file=sys.stderr)
        return REFUSED
    measured: dict[tuple[str, str], list[Measured]] = {}
    for screen, analysis, job in shard_times("logs"):
        measured.setdefault((screen, analysis), []).append(Measured(**job))
    print(plan_text(propose(config, shapes, measured, minutes, threads), config_file), end="")
    return 0


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
    parser.add_argument(
        "--job", metavar="FILE", nargs="+", default=[], help="make these files alone, no report"
    )
    parser.add_argument(
        "--plan", action="store_true", help="propose how to split the work over jobs, run nothing"
    )
    parser.add_argument(
        "--minutes", metavar="N", type=float, default=30.0, help="--plan: length of a shard job"
    )
    parser.add_argument(
        "--threads", metavar="N", type=int, help="--plan: of a shard job; default: the config's"
    )
    # Commands are then named in its words.
    parser.add_argument("--by-make", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.minutes <= 0 or (options.threads is not None and options.threads < 1):
        parser.error("--minutes and --threads must be positive")
    return options, extra


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
    if options.plan:
        return print_plan(options.config, options.minutes, options.threads)
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
    # Two dashes: options before may take any number of words.
    wanted = ["--", *options.job] if options.job else []
    try:
        with run_of(Path(), options.config) as run:
            earlier = snakemake_logs(Path())
            code = unlock(shared, run) or run_snakemake([*shared, *cores, *extra, *wanted], run)
            if is_dry_run(extra):
                return code
            # What it says of an earlier run holds no more.
            FAILED_JOBS.unlink(missing_ok=True)
            if code != 0:
                report_failures(options, Path(), earlier)
                return code
            if options.job:
                return 0
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
