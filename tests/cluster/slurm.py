"""A private SLURM cluster on this machine: several nodes of made-up size, started and stopped.

Debian's build lets several node daemons share a host (each with a name and a port of its own), so
no container, no systemd and no database is needed: munge for identities, slurmctld for the queue,
a slurmd per node. Everything lies below one folder, except a link in ``/etc/slurm``: jobs lose
``SLURM_CONF`` on their way to the program that looks for its settings, and find them only there.
So there is one such cluster at a time.
"""

import os
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

PROGRAMS = ("munged", "munge", "slurmctld", "slurmd", "sbatch", "squeue", "scancel", "scontrol")
PACKAGES = ("slurm-wlm", "munge")
# Where the programs were told to look when they were compiled.
ETC = Path("/etc/slurm")
PLACE = ETC / "slurm.conf"
# The process that started a cluster.
OWNER = "owner.pid"
# Part of the name of every folder of ours: tells our links from anybody's settings.
OURS = "private-cluster"
UNFINISHED = ("PENDING", "CONFIGURING", "RUNNING", "SUSPENDED", "COMPLETING", "REQUEUED")

SETTINGS = """\
ClusterName=private
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={controller_port}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
# A job that starts again elsewhere waits for the end of its first credential, else two minutes.
AuthInfo=socket={folder}/munge.socket,cred_expire=15
CredType=cred/munge
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool/%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/log/slurmctld.log
SlurmdLogFile={folder}/log/slurmd.%n.log
MpiDefault=none
SwitchType=switch/none
LaunchParameters=enable_nss_slurm
AccountingStorageType=accounting_storage/none

# Finished jobs stay visible for longer than a test lasts.
MinJobAge=3600
MaxJobCount=20000
# A node is given up soon after it stops answering, and its jobs start again elsewhere.
SlurmdTimeout=5
JobRequeue=1
ReturnToService=2
KillWait=2
InactiveLimit=0

# Nodes may be larger than the host, and cores and memory are what jobs are fitted into.
SlurmdParameters=config_overrides
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SchedulerParameters=sched_interval=1,bf_interval=2,defer,batch_sched_delay=1
SchedulerType=sched/backfill
EnforcePartLimits=ALL
DefMemPerCPU=100

# Without control groups, which a container may not have: memory is looked at every second, and
# a step above what its job asked for is ended.
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/linux
JobAcctGatherParams=OverMemoryKill
JobAcctGatherFrequency=task=1

{nodes}
PartitionName=all Nodes={names} Default=YES MaxTime=600 DefaultTime=5 State=UP OverTimeLimit=0
"""


class CannotStartError(Exception):
    """What keeps a cluster from being started here."""


def wait_for(what: Callable[[], Any], seconds: float = 120, why: str = "") -> Any:
    """What a function gives as soon as it gives something.

    Parameters
    ----------
    what : callable
    seconds : float
        After these the wait fails.
    why : str
        What is waited for, in words.
    """
    end = time.monotonic() + seconds
    while not (result := what()):
        assert time.monotonic() < end, f"waited {seconds} s in vain for {why or what}"
        time.sleep(0.1)
    return result


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that only waits for its parent does not."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return False
    return status.rpartition(")")[2].split()[0] not in "ZX"


def pid_in(file: Path) -> int | None:
    """The process a pid file names, if it lives."""
    with suppress(OSError, ValueError):
        pid = int(file.read_text())
        return pid if is_alive(pid) else None
    return None


def install_if_missing() -> None:
    """Have the programs, from the distribution's packages where we may install them.

    Raises
    ------
    CannotStartError
        If they are missing and cannot be installed.
    """
    if os.geteuid() != 0:
        raise CannotStartError("a private cluster needs root")
    if all(map(shutil.which, PROGRAMS)):
        return
    if not shutil.which("apt-get"):
        raise CannotStartError(f"a private cluster needs {' and '.join(PACKAGES)}, and no apt-get")
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", *PACKAGES]):
        done = subprocess.run(
            ["apt-get", "--quiet", *command],
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Stale lists may do; what counts is whether the programs are there afterwards.
        if done.returncode != 0 and command[0] == "install":
            raise CannotStartError(f"apt-get could not install them: {done.stdout[-500:]}")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise CannotStartError(f"{' and '.join(PACKAGES)} lack {', '.join(missing)}")


def free_ports(count: int) -> list[int]:
    """Ports nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(closing(socket.socket())) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


@dataclass(frozen=True)
class Job:
    """A job as the queue shows it; it is shown for a while after its end."""

    number: str
    name: str
    state: str
    rule: str
    wildcards: str
    node: str
    minutes: int
    memory_mb: int
    restarts: int

    @property
    def is_over(self) -> bool:
        """Whether it will run no more."""
        return self.state not in UNFINISHED


class Cluster:
    """Some nodes and their queue.

    Parameters
    ----------
    folder : Path
        Where everything lies; its name contains `OURS`.
    nodes, cpus, memory_mb : int
        How many nodes, and the size of each.

    Notes
    -----
    The last node is filled first: a job that may run anywhere starts there.
    """

    def __init__(self, folder: Path, nodes: int = 4, cpus: int = 4, memory_mb: int = 4000):
        assert OURS in folder.name
        self.folder = folder
        self.nodes = [f"n{i + 1}" for i in range(nodes)]
        self.cpus = cpus
        self.memory_mb = memory_mb

    # Start and stop

    def start(self) -> None:
        """Start everything, wait until all nodes are idle.

        Raises
        ------
        CannotStartError
            If the place in ``/etc/slurm`` is somebody else's, or a daemon does not start.
        """
        for part in ("log", "state", *(f"spool/{node}" for node in self.nodes)):
            (self.folder / part).mkdir(parents=True, exist_ok=True)
        self.folder.chmod(0o755)
        self._write_settings()
        self._link_settings()
        try:
            self._start_munge()
            self._run("slurmctld")
            wait_for(lambda: self._answers("scontrol", "ping"), 30, "the queue to answer")
            for node in self.nodes:
                self.start_node(node)
            self.wait_for_nodes()
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """End jobs and daemons, each by its own number, and take the link away."""
        numbers = []
        if pid_in(self.folder / "slurmctld.pid"):
            numbers = [job.number for job in self.jobs()]
            self.cancel_all()
        for file in self.folder.glob("slurmd.*.pid"):
            self._end(file)
        # A Snakemake may hang over the signal that ends it, with nobody left to end it for good.
        hung = [pid for number in numbers for pid in processes_of(number)]
        for pid in self._step_daemons() + hung:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self._end(self.folder / "slurmctld.pid")
        self._end(self.folder / "munged.pid")
        if PLACE.is_symlink() and PLACE.readlink() == self.folder / PLACE.name:
            PLACE.unlink()

    def _write_settings(self) -> None:
        controller, *ports = free_ports(1 + len(self.nodes))
        host = socket.gethostname().split(".")[0]
        lines = [
            f"NodeName={node} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={self.cpus} "
            f"RealMemory={self.memory_mb} Weight={10 - (node == self.nodes[-1])} State=UNKNOWN"
            for node, port in zip(self.nodes, ports, strict=True)
        ]
        text = SETTINGS.format(
            host=host,
            controller_port=controller,
            folder=self.folder,
            nodes="\n".join(lines),
            names=",".join(self.nodes),
        )
        (self.folder / "slurm.conf").write_text(text)
        key = self.folder / "munge.key"
        if not key.exists():
            key.touch(mode=0o600)
            key.write_bytes(os.urandom(1024))

    def _link_settings(self) -> None:
        """Take the one place on this machine, from no one who is at work there."""
        (self.folder / OWNER).write_text(str(os.getpid()))
        ETC.mkdir(exist_ok=True)

        def taken() -> bool:
            try:
                PLACE.symlink_to(self.folder / PLACE.name)
                return True
            except FileExistsError:
                pass
            if not PLACE.is_symlink() or OURS not in str(PLACE.readlink()):
                raise CannotStartError(f"there is a {PLACE} of somebody else's")
            other = PLACE.readlink().parent
            if not pid_in(other / OWNER):
                # Left behind by tests that were killed.
                Cluster(other).stop()
            return False

        wait_for(taken, 1800, f"the end of other tests, at work in {PLACE.resolve().parent}")

    def _start_munge(self) -> None:
        socket_ = self.folder / "munge.socket"
        self._run(
            "munged",
            # Root may, and the folder lies below one that anybody may write to.
            "--force",
            f"--key-file={self.folder / 'munge.key'}",
            f"--socket={socket_}",
            f"--pid-file={self.folder / 'munged.pid'}",
            f"--log-file={self.folder / 'log/munged.log'}",
            f"--seed-file={self.folder / 'munged.seed'}",
            "--num-threads=2",
        )
        wait_for(lambda: self._answers("munge", "-n", "-S", str(socket_)), 30, "munge")

    def _environment(self) -> dict[str, str]:
        """Ours without what would lead to another cluster."""
        return {k: v for k, v in os.environ.items() if not k.startswith(("SLURM_", "MUNGE_"))}

    def _run(self, *command: str) -> str:
        # Daemons keep what they inherit: a pipe would never end, so a file takes their words.
        said = self.folder / "log" / f"{command[0]}.said"
        with said.open("w+") as output:
            done = subprocess.run(
                command,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.folder,
            )
            output.seek(0)
            text = output.read()
        if done.returncode != 0:
            raise CannotStartError(f"{command[0]}: {text}")
        return text

    def _answers(self, *command: str) -> bool:
        done = subprocess.run(command, env=self._environment(), capture_output=True, timeout=30)
        return done.returncode == 0

    def _end(self, file: Path, seconds: float = 20) -> None:
        """End the process a pid file names: gently, and after a while by force."""
        pid = pid_in(file)
        if pid is None:
            return
        os.kill(pid, signal.SIGTERM)
        end = time.monotonic() + seconds
        while is_alive(pid) and time.monotonic() < end:
            time.sleep(0.05)
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)

    # Nodes

    def start_node(self, node: str) -> None:
        """Start a node; one that was lost comes back."""
        self._run("slurmd", "-N", node)

    def lose_node(self, node: str) -> None:
        """End a node and all that runs on it at once, as a power failure does."""
        pid = pid_in(self.folder / f"slurmd.{node}.pid")
        assert pid, f"{node} does not run"
        lost = [pid]
        # First those who would tell the queue of it.
        for number in {job.number for job in self.jobs() if job.node == node and not job.is_over}:
            lost += [p for p in self._step_daemons() if f"[{number}." in command_of(p)]
            lost += processes_of(number)
        for process in lost:
            with suppress(ProcessLookupError):
                os.kill(process, signal.SIGKILL)
        # A node that starts again would look for the steps it had.
        shutil.rmtree(self.folder / "spool" / node)
        (self.folder / "spool" / node).mkdir()

    def wait_for_nodes(self) -> None:
        """Wait until all nodes take jobs."""

        def ready() -> bool:
            states = self.ask("sinfo", "--noheader", "--Node", "--format=%N|%t").splitlines()
            up = {line.split("|")[0] for line in states if line.split("|")[1] in UP}
            return up == set(self.nodes)

        wait_for(ready, 60, "all nodes")

    def _step_daemons(self) -> list[int]:
        """Those that watch over a job each; of ours, not of another cluster's."""
        return [
            pid
            for pid in all_processes()
            if command_of(pid).startswith("slurmstepd: ") and self._is_ours(pid)
        ]

    def _is_ours(self, pid: int) -> bool:
        with suppress(OSError):
            files = [os.readlink(file) for file in Path(f"/proc/{pid}/fd").iterdir()]
            return any(file.startswith(f"{self.folder}/") for file in files)
        return False

    # Jobs

    def ask(self, *command: str) -> str:
        """What a command of the cluster says."""
        done = subprocess.run(
            command, env=self._environment(), capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, f"{command}: {done.stderr}"
        return done.stdout

    def jobs(self, rule: str = "") -> list[Job]:
        """All jobs the queue knows, in the order of their submission; perhaps of one rule."""
        fields = "JobID,Name,State,Comment,NodeList,TimeLimit,MinMemory,RestartCnt".split(",")
        form = ",".join(f"{field}:|" for field in fields)
        found = []
        for line in self.ask(
            "squeue", "--noheader", "--states=all", "--Format", form
        ).splitlines():
            number, name, state, comment, node, limit, memory, restarts = line.split("|")[:-1]
            known_as, _, wildcards = comment.removeprefix("rule_").partition("_wildcards_")
            found.append(
                Job(
                    number,
                    name,
                    state,
                    known_as,
                    wildcards,
                    node,
                    minutes_of(limit),
                    megabytes_of(memory),
                    int(restarts),
                )
            )
        found.sort(key=lambda job: int(job.number))
        return [job for job in found if rule in ("", job.rule)]

    def cancel_all(self) -> None:
        """Cancel whatever is not over, and wait until it is."""
        numbers = [job.number for job in self.jobs() if not job.is_over]
        if numbers:
            self.ask("scancel", *numbers)
            wait_for(lambda: all(job.is_over for job in self.jobs()), 60, "jobs to end")


UP = ("idle", "mix", "alloc", "comp")


def minutes_of(limit: str) -> int:
    """Minutes of a time limit: ``minutes:seconds``, or with hours and days before."""
    days, _, clock = limit.rpartition("-")
    parts = [int(part) for part in clock.split(":")]
    hours = parts[-3] if len(parts) == 3 else 0
    return int(days or 0) * 1440 + hours * 60 + parts[-2]


def megabytes_of(memory: str) -> int:
    """Mebibytes of ``500M`` or ``1G``."""
    units = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024**2}
    if memory[-1] in units:
        return round(float(memory[:-1]) * units[memory[-1]])
    return int(memory)


def all_processes() -> list[int]:
    """Every process there is."""
    return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdecimal()]


def command_of(pid: int) -> str:
    """The words a process was started with, or shows."""
    with suppress(OSError):
        words = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        return " ".join(word.decode(errors="replace") for word in words).strip()
    return ""


def processes_of(job: str, script: str = "") -> list[int]:
    """Processes of a job, from what they were told at their start; perhaps of one script."""
    wanted = f"SLURM_JOB_ID={job}".encode()
    found = []
    for pid in all_processes():
        with suppress(OSError):
            told = Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
            if wanted in told and script in command_of(pid):
                found.append(pid)
    return found


@contextmanager
def private_cluster(folder: Path, **size: int) -> Iterator[Cluster]:
    """A cluster for as long as the block lasts."""
    cluster = Cluster(folder, **size)
    cluster.start()
    try:
        yield cluster
    finally:
        cluster.stop()
