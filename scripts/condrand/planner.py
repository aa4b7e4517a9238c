"""How to split the work of a configuration over jobs: proposed before anything is computed.

Nothing here opens a file: what the screens hold and what earlier jobs took is given. How the work
is split changes no number, so a proposal may be taken, changed or left.
"""

import math
import textwrap
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from condrand import plan
from condrand.config import OF_SAMPLES, analyses_of, refine_stages

# Seconds of a job beyond its work: on a cluster Snakemake starts twice in each, then the script.
START_S = 4.0
# Of the same job on one machine, where Snakemake runs already.
LOCAL_START_S = 2.0
# Reading of what all shards share, MiB a second from a busy disk.
READ_MB_S = 100
# A run of more jobs takes minutes to plan, and longer to watch than to compute.
MOST_JOBS = 2000
# More shards than this are many to look after; longer ones serve as well.
MANY_JOBS = 1000
# Batches of fewer units than this are uneven.
UNITS_OF_BATCH = 4
# Jobs of a run that are not split: loading, normalizing, merging, tables, figures.
SINGLE_JOBS = 15
# Measured jobs that were shorter say more about starting than about working.
TELLING_S = 10.0

# Bytes on disk: of one unit and feature in a shard of resamples, of comparisons, in all tables
# together. Measured: 158, 38 and some 350.
_SHARD_BYTES = {"crt": 200, "dex": 50}
_TABLE_BYTES = 400
_WIDTH = 99
# Options and paths are whole words.
_LIST_ITEM = {"subsequent_indent": "  ", "break_on_hyphens": False, "break_long_words": False}
_LEGEND = (
    "minutes: expected, of the longest shard job. mem_mb, runtime (minutes): what it asks for; "
    f"the time has a margin of {plan.MARGIN}. units: targets and controls, shared out by batches. "
    f"blocks: of {plan.BLOCK:,} resamples (crt) or {plan.FEATURES_PER_BLOCK} features, shared out "
    "by shards."
)

# Seconds of one value in a linear model: fits of all features of a thousand samples take seconds.
_LINEAR_S = 1e-6


@dataclass(frozen=True)
class Values:
    """The head of a matrix: how large it is, and how it is stored.

    Attributes
    ----------
    n_features : int
    n_stored : int
        Values that are stored: all of a dense matrix, the filled ones of a sparse one.
    mb : float
        Their size in memory, MiB.
    is_sparse : bool
    """

    n_features: int
    n_stored: int
    mb: float
    is_sparse: bool = False


@dataclass(frozen=True)
class Shape:
    """What the head of a screen's file says.

    Attributes
    ----------
    n_cells : int
        Rows: cells, or samples of a count table.
    mb : float
        Size of the file, MiB.
    values : dict of str to Values
        By the key of the outcome.
    n_targets, n_ntc_guides, n_guides : int
    n_calls : int
        Guides that cells carry, all together.
    n_covariates : int
    levels : dict of str to int
        Distinct values of the columns of obs by which cells are grouped.
    estimated : list of str
        What was not read but guessed, in words.
    """

    n_cells: int
    mb: float
    values: dict[str, Values]
    n_targets: int = 0
    n_ntc_guides: int = 0
    n_guides: int = 0
    n_calls: int = 0
    n_covariates: int = 0
    levels: dict[str, int] = field(default_factory=dict)
    estimated: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Measured:
    """A shard job of an earlier run.

    Attributes
    ----------
    seconds : float
        Wall time; `cpu_seconds` of all its threads.
    cpu_seconds : float
    n_units, n_treated : int
        Units it worked on, and their treated cells.
    n_blocks : int
        Blocks of resamples, or of features.
    """

    seconds: float
    cpu_seconds: float
    n_units: int
    n_treated: int
    n_blocks: int


@dataclass(frozen=True)
class Scatter:
    """How the work is split."""

    batches: int = 1
    shards: int = 1
    threads: int = 1


@dataclass(frozen=True)
class Work:
    """What one analysis of one screen costs, whatever the split.

    Attributes
    ----------
    screen, analysis, engine : str
    n_units : int
        What batches share out; 1 where nothing is split so.
    n_blocks : int
        What shards share out.
    size : dict of str to float
        What the figures of :mod:`condrand.plan` want to know.
    ratio : float
        Measured over expected time of earlier shards; 1 where there are none that tell.
    n_measured : int
        Earlier shards behind the ratio.
    """

    screen: str
    analysis: str
    engine: str
    n_units: int
    n_blocks: int
    size: Mapping[str, Any]
    ratio: float = 1.0
    n_measured: int = 0

    def seconds(self, n_units: float, n_treated: float, n_blocks: float) -> float:
        """Expected work of so many units and blocks, seconds of one core, as the figures say."""
        size = self.size
        if self.engine == "crt":
            return plan.shard_seconds(size["outcome_mb"], n_units, n_treated, n_blocks)
        if self.engine == "dex":
            return plan.dex_shard_seconds([size["mb"] * n_blocks / self.n_blocks], 1)
        if self.engine == "kompot":
            null = size["null_blocks"] / self.n_blocks
            return plan.kompot_seconds(size, math.ceil(n_blocks * (1 + null)))
        return _LINEAR_S * size["n_values"] * n_blocks / self.n_blocks

    def job(self, scatter: Scatter) -> "Job":
        """The largest shard job of a split, and how many there are."""
        has_batches = self.engine in ("crt", "dex")
        batches = scatter.batches if has_batches else 1
        units = math.ceil(self.n_units / batches)
        treated = self.size.get("n_treated", 0) * min(1.0, units / self.n_units)
        blocks = math.ceil(self.n_blocks / scatter.shards)
        work = self.ratio * self.seconds(units, treated, blocks)
        once = START_S + self.size["read_mb"] / READ_MB_S
        propensity, stages = 0.0, []
        if self.engine == "crt":
            propensity = plan.propensity_seconds(self.size["outcome_mb"], units)
            stages = self._refine_seconds(units, treated, scatter.shards)
        refined = sum(n_shards * once + seconds for n_shards, seconds in stages)
        after = [once + seconds / n_shards / scatter.threads for n_shards, seconds in stages]
        return Job(
            n_jobs=batches * scatter.shards,
            seconds=once + work / scatter.threads,
            cpu_seconds=batches * (propensity + scatter.shards * (once + work) + refined),
            before=once + propensity,
            n_refine_jobs=batches * sum(n_shards for n_shards, _ in stages),
            after=max(after, default=0.0),
            mem_mb=self._mem_mb(units, blocks, scatter.threads),
            runtime_min=self._runtime_min(units, treated, blocks, scatter),
            disk_mb=self._disk_mb(scatter.shards),
        )

    def _refine_seconds(
        self, units: float, treated: float, shards: int
    ) -> list[tuple[int, float]]:
        """Shards of each stage of refining a batch, and its work in seconds of one core."""
        size = self.size
        tests = units * size["n_features"]
        return [
            (
                plan.refine_shards(shards, size["resamples"], stage),
                plan.refine_seconds(size["outcome_mb"], tests, units, treated, stage),
            )
            for stage in size["stages"]
        ]

    def _mem_mb(self, units: int, blocks: int, threads: int) -> int:
        size = self.size
        if self.engine == "crt":
            return plan.shard_mem_mb(size["outcome_mb"], threads)
        if self.engine == "dex":
            tests = units * blocks * plan.FEATURES_PER_BLOCK
            return plan.dex_shard_mem_mb([size["mb"] / self.n_blocks], tests)
        if self.engine == "kompot":
            return plan.kompot_mem_mb(size)
        return plan.linear_mem_mb(8 * size["n_values"] / 2**20 * blocks / self.n_blocks)

    def _runtime_min(self, units: int, treated: float, blocks: int, scatter: Scatter) -> int:
        size = self.size
        if self.engine == "crt":
            return plan.shard_runtime_min(
                size["outcome_mb"], units, round(treated), blocks, scatter.threads
            )
        if self.engine == "dex":
            return plan.dex_shard_runtime_min([size["mb"]], scatter.shards)
        if self.engine == "kompot":
            return plan.kompot_runtime_min(size, blocks)
        return 20

    def _disk_mb(self, shards: int) -> float:
        tests = self.n_units * self.size["n_features"]
        of_shard = _SHARD_BYTES.get(self.engine, 0)
        # Each shard of resamples has all features, and so has what they are merged to; shards of
        # features share them.
        times = shards + 1 if self.engine == "crt" else 1
        return self.size["stored_mb"] + tests * (of_shard * times + _TABLE_BYTES) / 2**20


@dataclass(frozen=True)
class Job:
    """The shard jobs of an analysis: the largest one, and all together.

    Attributes
    ----------
    n_jobs : int
    seconds : float
        Expected wall time of the largest.
    cpu_seconds : float
        Of all of them, and of the fits of propensities before them.
    before : float
        Expected wall time of the job before a batch's shards.
    n_refine_jobs : int
        Of all stages that find small p values anew.
    after : float
        Expected wall time of the longest of them; 0 where there is none.
    mem_mb, runtime_min : int
        What the rule asks for, for the largest job at its first attempt.
    disk_mb : float
        Of all results of the analysis.
    """

    n_jobs: int
    seconds: float
    cpu_seconds: float
    before: float
    n_refine_jobs: int
    after: float
    mem_mb: int
    runtime_min: int
    disk_mb: float

    @property
    def longest(self) -> float:
        """Expected wall time of the longest job of a batch, seconds."""
        return max(self.seconds, self.before, self.after)


@dataclass(frozen=True)
class Plan:
    """A proposal.

    Attributes
    ----------
    scatter : Scatter
    works : list of Work
    jobs : list of Job
        One for each of `works`.
    minutes : float
        Wanted length of a shard job.
    is_small : bool
        Whether everything fits in one such job.
    disk_mb : float
    estimated : list of str
    """

    scatter: Scatter
    works: list[Work]
    jobs: list[Job]
    minutes: float
    is_small: bool
    disk_mb: float
    estimated: list[str]

    @property
    def n_jobs(self) -> int:
        """Shard jobs of the run."""
        return sum(job.n_jobs for job in self.jobs)

    @property
    def n_all_jobs(self) -> int:
        """About how many jobs the run has."""
        batches = self.scatter.batches
        of_batches = sum({"crt": 3, "dex": 1}.get(work.engine, 0) * batches for work in self.works)
        refining = sum(job.n_refine_jobs for job in self.jobs)
        return self.n_jobs + refining + of_batches + SINGLE_JOBS * len(self.works)

    @property
    def cpu_hours(self) -> float:
        """Of all shard jobs, and of those that are not split."""
        single = SINGLE_JOBS * len(self.works) * 2 * START_S
        return (sum(job.cpu_seconds for job in self.jobs) + single) / 3600

    @property
    def longest_s(self) -> float:
        """Expected wall time of the longest job of a batch."""
        return max((job.longest for job in self.jobs), default=0.0)


def ratio_of(work: Work, measured: Iterable[Measured]) -> tuple[float, int]:
    """How much longer earlier shards took than expected, and how many of them tell.

    Sums over sums: long shards, which tell most, weigh most. Those that did little beyond
    starting are left out.
    """
    taken = expected = 0.0
    n = 0
    for job in measured:
        # Of one thread the time on the clock, which waits for the disk and for others too, and is
        # sampled to its end. Of several, what they computed together.
        seconds = max(job.seconds, job.cpu_seconds)
        if seconds < TELLING_S:
            continue
        taken += seconds - LOCAL_START_S
        expected += work.seconds(job.n_units, job.n_treated, job.n_blocks)
        n += 1
    return (taken / expected, n) if expected > 0 else (1.0, 0)


def works_of(
    config: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    measured: Mapping[tuple[str, str], list[Measured]] | None = None,
) -> list[Work]:
    """The work of every analysis of every screen whose jobs are split.

    Parameters
    ----------
    config : mapping
        Complete configuration.
    shapes : mapping of str to Shape
        By screen.
    measured : mapping of (screen, analysis) to list of Measured
        Shard jobs of earlier runs.
    """
    works = []
    for screen, name in analyses_of(config):
        analysis = config["analyses"][name]
        # Pseudo-genes of NTC guides are compared in one job.
        if analysis.get("null_method") == "ntc_empirical":
            continue
        size, n_units, n_blocks = _size(analysis, shapes[screen])
        work = Work(screen, name, analysis["engine"], n_units, n_blocks, size)
        ratio, n = ratio_of(work, (measured or {}).get((screen, name), []))
        works.append(replace(work, ratio=ratio, n_measured=n))
    return works


def _size(analysis: Mapping[str, Any], shape: Shape) -> tuple[dict[str, Any], int, int]:
    """What the figures want to know of an analysis, its units and its blocks."""
    engine = analysis["engine"]
    values = shape.values[analysis["outcome"]["key"]]
    size: dict[str, Any] = {"n_features": values.n_features, "stored_mb": values.mb, "read_mb": 0}
    if engine in OF_SAMPLES:
        samples = _n_samples(analysis, shape)
        size["n_values"] = samples * values.n_features
        return size, 1, plan.n_feature_blocks(values.n_features)
    if engine == "kompot":
        null = analysis["null_distances"]
        blocks = plan.n_feature_blocks(values.n_features)
        size["n_cells"] = shape.n_cells
        size["n_landmarks"] = min(analysis["n_landmarks"], shape.n_cells)
        size["n_samples"] = shape.levels.get(analysis["sample"] or "", 0)
        size["null_blocks"] = plan.n_feature_blocks(null["count"]) if null["count"] else 0
        if null["kind"] == "samples":
            size["null_blocks"] = null["count"] * blocks
        return size, 1, blocks
    n_units, n_treated = _units(analysis, shape)
    if engine == "dex":
        size["mb"] = values.mb
        return size, n_units, plan.n_feature_blocks(values.n_features)
    # Scores, the basis of the design, and the design.
    per_cell = 2 * shape.n_covariates + 2 + (0 if values.is_sparse else values.n_features)
    outcome_mb = 8 * shape.n_cells * per_cell / 2**20
    outcome_mb += 12 * values.n_stored / 2**20 if values.is_sparse else 0
    size |= {"outcome_mb": outcome_mb, "read_mb": outcome_mb, "n_treated": n_treated}
    size |= {"stored_mb": values.mb + outcome_mb, "stages": refine_stages(analysis)}
    size["resamples"] = analysis["resamples"]
    return size, n_units, plan.n_blocks(analysis["resamples"])


def _units(analysis: Mapping[str, Any], shape: Shape) -> tuple[int, int]:
    """Units of an analysis, and their treated cells: targets, NTC guides, groups of these."""
    column = analysis.get("groupby")
    wanted = analysis["targets"]
    if column is not None:
        n_all = max(1, shape.levels[column])
        n = n_all if wanted == "all" else len(wanted)
        return n, shape.n_cells
    n_targets = shape.n_targets if wanted == "all" else len(wanted)
    # Guides are taken to be equally frequent.
    per_guide = shape.n_calls / max(1, shape.n_guides)
    per_target = (shape.n_guides - shape.n_ntc_guides) / max(1, shape.n_targets)
    units, treated = n_targets, n_targets * per_target * per_guide
    if analysis["controls"] != "none":
        units += shape.n_ntc_guides
        treated += shape.n_ntc_guides * per_guide
    if analysis["controls"] == "groups" and shape.n_ntc_guides:
        groups = analysis["ntc_groups"]
        size = groups["group_size"]
        size = size or max(1, min(round(per_target), shape.n_ntc_guides // 2))
        n = shape.n_ntc_guides // size
        n = min(n, groups["max_groups"] or n) * groups["n_ensemble"]
        units += n
        treated += n * size * per_guide
    return max(1, units), round(treated)


def _n_samples(analysis: Mapping[str, Any], shape: Shape) -> int:
    by = analysis["pseudobulk"]["by"]
    if not by and not analysis["pseudobulk"]["targets"]:
        return shape.n_cells
    samples = math.prod(shape.levels.get(column, 1) for column in by)
    if analysis["pseudobulk"]["targets"]:
        samples *= shape.n_targets + 1
    return min(samples, shape.n_cells)


def propose(
    config: Mapping[str, Any],
    shapes: Mapping[str, Shape],
    measured: Mapping[tuple[str, str], list[Measured]] | None = None,
    minutes: float = 30,
    threads: int | None = None,
) -> Plan:
    """Split the work into shard jobs of about a wanted length.

    Parameters
    ----------
    config : mapping
        Complete configuration.
    shapes : mapping of str to Shape
        By screen.
    measured : mapping of (screen, analysis) to list of Measured
        Shard jobs of earlier runs.
    minutes : float
        Wanted length of a shard job.
    threads : int or None
        Of a shard job; None takes the configuration's.

    Returns
    -------
    Plan
        Of the splits whose longest job is no longer than wanted, and that have at most 2,000
        jobs, the cheapest. Where there is none, the one with the shortest longest job.
    """
    works = works_of(config, shapes, measured)
    threads = threads or config["scatter"]["threads"]
    wanted_s = 60 * minutes
    whole = [work.job(Scatter(threads=threads)) for work in works]
    one = sum(work.ratio * work.seconds(*_all_of(work)) for work in works)
    one += sum(job.before + threads * job.after for job in whole)
    is_small = one <= wanted_s
    scatter = Scatter(threads=threads) if is_small else _cheapest(works, wanted_s, threads)
    jobs = [work.job(scatter) for work in works]
    disk_mb = sum(job.disk_mb for job in jobs) + sum(shape.mb for shape in shapes.values())
    estimated = [
        f"{screen}: {what}" for screen, shape in shapes.items() for what in shape.estimated
    ]
    return Plan(scatter, works, jobs, minutes, is_small, disk_mb, estimated)


def _all_of(work: Work) -> tuple[float, float, float]:
    return work.n_units, work.size.get("n_treated", 0), work.n_blocks


def _cheapest(works: list[Work], wanted_s: float, threads: int) -> Scatter:
    units = max((w.n_units for w in works if w.engine in ("crt", "dex")), default=1)
    best: tuple[Any, ...] = ()
    for batches in _steps(max(1, units // UNITS_OF_BATCH)):
        for shards in _steps(max(work.n_blocks for work in works)):
            scatter = Scatter(batches, shards, threads)
            jobs = [work.job(scatter) for work in works]
            longest = max(job.longest for job in jobs)
            if sum(job.n_jobs for job in jobs) > MOST_JOBS and (batches, shards) != (1, 1):
                continue
            # What is written costs time as well.
            cost = sum(job.cpu_seconds + job.disk_mb / READ_MB_S for job in jobs)
            is_long = longest > wanted_s
            rank = (is_long, longest if is_long else cost, cost, batches * shards, shards)
            if not best or rank < best[0]:
                best = (rank, scatter)
    return best[1]


def _steps(most: int) -> list[int]:
    """Numbers from 1 to `most`, at most a quarter apart, and round ones where they are large."""
    most = min(most, MOST_JOBS)
    steps, step = [], 1
    while step < most:
        steps.append(step)
        larger = max(step + 1, math.floor(step * 1.25))
        digits = 10 ** max(0, len(str(larger)) - 2)
        step = larger // digits * digits
    return [*steps, most]


def plan_text(plan_: Plan, config_name: str) -> str:
    """A proposal as it is printed: a table, the reasons, and the line for the configuration."""
    scatter = plan_.scatter
    lines = [f"{config_name}: shard jobs of about {plan_.minutes:g} minutes", ""]
    head = ("screen/analysis", "engine", "units", "blocks", "jobs", "minutes", "mem_mb")
    rows = [(*head, "runtime", "CPU h")]
    for work, job in zip(plan_.works, plan_.jobs, strict=True):
        rows.append(
            (
                *(f"{work.screen}/{work.analysis}", work.engine, f"{work.n_units:,}"),
                *(f"{work.n_blocks:,}", f"{job.n_jobs:,}", _minutes(job.seconds)),
                *(f"{job.mem_mb:,}", f"{job.runtime_min:,}", f"{job.cpu_seconds / 3600:.2f}"),
            )
        )
    lines += _aligned(rows)
    lines += [
        "",
        *textwrap.wrap(_LEGEND, _WIDTH),
        "",
        *(
            line
            for reason in _reasons(plan_)
            for line in textwrap.wrap(f"- {reason}", _WIDTH, **_LIST_ITEM)
        ),
        "",
        "For the configuration (changes no result):",
        "",
        f"scatter: {{batches: {scatter.batches}, shards: {scatter.shards}, "
        f"threads: {scatter.threads}}}",
    ]
    return "\n".join(lines) + "\n"


def _minutes(seconds: float) -> str:
    return f"{seconds / 60:.1f}" if seconds < 600 else f"{seconds / 60:,.0f}"


def _aligned(rows: list[tuple[str, ...]]) -> list[str]:
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i < 2 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]


def _reasons(plan_: Plan) -> list[str]:
    longest = plan_.longest_s
    reasons = []
    if not plan_.works:
        reasons.append("No analysis here is split over shards.")
    elif plan_.is_small:
        reasons.append(
            f"Everything together fits in {plan_.minutes:g} minutes of one core: run it locally. "
            "On a cluster it would wait longer than it computes."
        )
    else:
        reasons.append(
            f"{plan_.n_jobs:,} shard jobs, some {plan_.n_all_jobs:,} jobs in all; "
            f"{plan_.cpu_hours:.1f} CPU hours. Starting shard jobs and reading take "
            f"{_overhead(plan_):.0%} of theirs."
        )
        if longest > 60 * plan_.minutes:
            reasons.append(
                f"The longest job needs {_minutes(longest)} minutes, more than asked: a run "
                f"should have at most {MOST_JOBS:,} shard jobs, and a batch some units, a shard "
                "a block. Ask for longer jobs (MINUTES), or more threads in each (THREADS)."
            )
        if plan_.n_jobs > MANY_JOBS:
            reasons.append(f"Over {MANY_JOBS:,} shards: MINUTES=60 would need about half.")
    if plan_.minutes < 15:
        reasons.append("Jobs under 15 minutes mostly wait in the queue and start.")
    if plan_.minutes > 60:
        reasons.append("A shard is what is lost when a job fails: over an hour is much to lose.")
    for work, job in zip(plan_.works, plan_.jobs, strict=True):
        reasons += _of_work(work, job)
    reasons.append(f"About {_size_words(plan_.disk_mb)} on disk under results/, the screens too.")
    if plan_.estimated:
        reasons.append(f"Not read, but estimated: {'; '.join(plan_.estimated)}.")
    return reasons


def _of_work(work: Work, job: Job) -> list[str]:
    name = f"{work.screen}/{work.analysis}"
    if not work.n_measured:
        return [f"{name}: times by the model; no earlier shard of 10 s or more to learn from."]
    found = [
        f"{name}: times as measured: earlier shards ({work.n_measured}) took {work.ratio:.2g} "
        "times those of the model."
    ]
    if job.seconds > 60 * job.runtime_min:
        found.append(
            f"{name}: the run time that its jobs ask for is too short; the first attempt would "
            f"be lost. Add --set-resources {work.engine}_shard:runtime="
            f"{math.ceil(2 * job.seconds / 60)}"
        )
    return found


def _overhead(plan_: Plan) -> float:
    """Share of the CPU time of the shard jobs that is not work."""
    total = sum(job.cpu_seconds for job in plan_.jobs)
    once = sum(
        job.n_jobs * (START_S + work.size["read_mb"] / READ_MB_S)
        for work, job in zip(plan_.works, plan_.jobs, strict=True)
    )
    return once / total


def _size_words(mb: float) -> str:
    return f"{mb / 1024:.1f} GiB" if mb >= 1024 else f"{max(1, round(mb))} MiB"
