"""Benchmark of `dex` against illico, pdex and scanpy on the same files.

    make benchmark-dex     (or: python tests/benchmarks/dex.py [--sizes S] [--peers illico])

Every contender runs in processes of its own, one at a time and in turn, on the same .h5ad and
with the same threads. Files are in the page cache and compiled code is warm where a program keeps
it. "In memory" times the tests alone, from the matrix and the labels of its cells to p values and
fold changes. Of ours these are the kernels (rows grouped, tables of the control, sums, p values
and effects) and, by itself, the call `condrand.dex`, which also checks the values, adjusts p
values and makes the table. "From disk" is a whole process, from the interpreter's start to the
table. Machines are noisy: quote ratios (peer / ours), which are taken within a round; their
median, smallest and largest are printed.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
import tomllib
from importlib import import_module
from pathlib import Path

from peers import median, refuse_without, versions_of, with_peers

# The peers' interpreter runs this file too: what only one side has is imported by its functions.
ROOT = Path(__file__).resolve().parents[2]
CONTROL, LABEL = "non-targeting", "target"
SIZES = {"S": (20_000, 2_000, 50), "M": (100_000, 5_000, 200)}
CELLS_AT_A_TIME = 2_000
# Where there are so many tests, these run for a few targets; the seconds of the test are scaled.
SUBSETS, MANY_TESTS = {"scanpy": 10, "pdex": 40, "pdex backed": 40}, 500_000
# Calls are repeated within a process unless they took longer, and processes likewise.
CALLS, LONG_CALL, LONG_PROCESS = 9, 4, 20
FAR_OUT = 1e-290


# Both sides: one contender in one process


def read(path):
    """The whole AnnData."""
    import anndata

    return anndata.read_h5ad(path)


def read_backed(path):
    """The AnnData, its values left in the file."""
    import anndata

    return anndata.read_h5ad(path, backed="r")


def in_scanpy_order(adata, targets):
    """P values of scanpy's result, whose features are sorted by score."""
    import numpy as np

    found = adata.uns["rank_genes_groups"]
    p = np.empty((len(targets), adata.n_vars))
    for k, target in enumerate(targets):
        p[k, adata.var_names.get_indexer(found["names"][target])] = found["pvals"][target]
    return p


class Kernels:
    """Our kernels, on rows in memory."""

    def load(self, path):
        return read(path)

    def run(self, adata, job, targets, threads):
        import numpy as np

        from condrand.engines import dex
        from condrand.twosample.control import ControlTables
        from condrand.twosample.rows import Facts, Scaling

        codes = adata.obs[LABEL].cat.codes.to_numpy()
        order = np.argsort(codes, kind="stable")
        starts = np.concatenate([[0], np.cumsum(np.bincount(codes))])
        control, rest = order[: starts[1]], order[starts[1] :]
        rows, library = adata.X, None
        if job["kind"] == "normalized":
            library = Facts.of(rows, np.arange(rows.shape[0]), threads).totals
        measure = "logged" if job["kind"] == "logged" else "log1p"
        counts = job["kind"] == "counts"
        settings = dex.Settings(job["test"], measure)
        common = {"needs": settings.needs, "threads": threads}
        tables = ControlTables.of(
            rows, library, Scaling(measure), order=control, counts=counts, **common
        )
        ptr, within = starts[1:] - starts[1], np.zeros(len(starts) - 2, bool)
        sums = dex.sums(tables, rows, ptr, within, library, order=rest, threads=threads)
        return sums, settings, dex.results(sums, settings, threads)

    def p_values(self, result, adata, targets):
        return result[2]["p_value"]

    def p_without_continuity(self, result):
        from dataclasses import replace

        from condrand.engines import dex

        return dex.results(result[0], replace(result[1], continuity=False))["p_value"]


class Call:
    """Our call, on an AnnData in memory or on a file."""

    packages = ("condrand",)

    def __init__(self, from_file=False):
        self.from_file = from_file

    def load(self, path):
        return path if self.from_file else read(path)

    def run(self, adata, job, targets, threads):
        from condrand import dex

        transform = {"normalized": "log_normalize"}.get(job["kind"], job["kind"])
        test = {"welch": "ttest"}.get(job["test"], job["test"])
        return dex(adata, LABEL, control=CONTROL, test=test, threads=threads, transform=transform)

    def p_values(self, result, adata, targets):
        return result["p_value"].to_numpy().reshape(len(targets), -1)


class Illico:
    """illico's native or numba kernels, in memory or on a backed file."""

    packages = ("anndata", "illico")

    def __init__(self, native=True, backed=False):
        self.native, self.backed = native, backed

    def load(self, path):
        return read_backed(path) if self.backed else read(path)

    def run(self, adata, job, targets, threads):
        from illico import asymptotic_wilcoxon

        return asymptotic_wilcoxon(
            adata,
            is_log1p=job["kind"] == "logged",
            group_keys=LABEL,
            reference=CONTROL,
            n_threads=threads,
            use_rust=self.native,
        )

    def p_values(self, result, adata, targets):
        # Its targets are in the order of the labels, without the control.
        found = result["p_value"].unstack("feature")
        return found.loc[list(targets), list(adata.var_names)].to_numpy()


class Pdex:
    """pdex, in memory or on a backed file."""

    packages = ("anndata", "pdex")

    def __init__(self, backed=False):
        self.backed = backed

    def load(self, path):
        return read_backed(path) if self.backed else read(path)

    def run(self, adata, job, targets, threads):
        from pdex import pdex

        labels = adata.obs[LABEL]
        if len(targets) + 1 < len(labels.cat.categories):
            # It leaves out cells without a label.
            adata.obs[LABEL] = labels.cat.set_categories([CONTROL, *targets])
        return pdex(
            adata,
            LABEL,
            threads=threads,
            is_log1p=job["kind"] == "logged",
            reference=CONTROL,
            as_pandas=True,
        )

    def p_values(self, result, adata, targets):
        found = result.pivot(index="target", columns="feature", values="p_value")
        return found.loc[list(targets), list(adata.var_names)].to_numpy()


class Scanpy:
    """scanpy's rank_genes_groups, which takes all threads that numba has."""

    packages = ("anndata", "scanpy")

    def load(self, path):
        return read(path)

    def run(self, adata, job, targets, threads):
        import scanpy

        tie_correct = {"tie_correct": True} if job["test"] == "mwu" else {}
        scanpy.tl.rank_genes_groups(
            adata,
            LABEL,
            groups=list(targets),
            reference=CONTROL,
            method="wilcoxon" if job["test"] == "mwu" else "t-test",
            **tie_correct,
        )
        return scanpy.get.rank_genes_groups_df(adata, None)

    def p_values(self, result, adata, targets):
        return in_scanpy_order(adata, targets)


KERNELS, CALL, FILE = "condrand kernels", "condrand.dex", "condrand.dex(path)"
CONTENDERS = {
    KERNELS: Kernels(),
    CALL: Call(),
    FILE: Call(from_file=True),
    "illico": Illico(),
    "illico numba": Illico(native=False),
    "illico backed": Illico(backed=True),
    "pdex": Pdex(),
    "pdex backed": Pdex(backed=True),
    "scanpy": Scanpy(),
}


def time_in_memory(job):
    """CPU and wall seconds of the tests alone, by number of threads."""
    import warnings

    import numpy as np

    contender = CONTENDERS[job["contender"]]
    adata = contender.load(job["path"])
    names = list(adata.obs[LABEL].cat.categories)
    few, targets = names[:3], names[1 : 1 + job["targets"]]
    small = adata[adata.obs[LABEL].isin(few)].copy()
    small.obs[LABEL] = small.obs[LABEL].cat.remove_unused_categories()
    warnings.simplefilter("ignore")
    # scanpy's call does not say how many threads it takes.
    counts = sorted({1, job["threads"]} if job["contender"] != "scanpy" else {job["threads"]})
    for threads in counts:
        contender.run(small, job, few[1:], threads)
    del small
    seconds = {threads: [] for threads in counts}
    for _ in range(CALLS):
        for threads in counts:
            if sum(wall for _, wall in seconds[threads]) < LONG_CALL:
                began = time.process_time(), time.perf_counter()
                result = contender.run(adata, job, targets, threads)
                ended = time.process_time(), time.perf_counter()
                seconds[threads].append([b - a for a, b in zip(began, ended, strict=True)])
    if job["out"]:
        found = {"p": contender.p_values(result, adata, targets)}
        if isinstance(contender, Kernels) and job["test"] == "mwu":
            found["p_without_continuity"] = contender.p_without_continuity(result)
        np.savez(job["out"], **found)
    return {"seconds": seconds}


def time_from_disk(job):
    """CPU seconds and time of the table, and the largest resident set until then."""
    import warnings

    warnings.simplefilter("ignore")
    contender = CONTENDERS[job["contender"]]
    for package in contender.packages:
        module = import_module(package)
    if package == "condrand":
        # Its modules are imported when one of their names is asked for.
        module.dex  # noqa: B018
    started = time.process_time()
    adata = contender.load(job["path"])
    targets = []
    if job["contender"] in SUBSETS:
        targets = list(adata.obs[LABEL].cat.categories)[1 : 1 + job["targets"]]
    loaded = time.process_time(), time.time()
    result = contender.run(adata, job, targets, job["threads"])
    ended = time.process_time(), time.time()
    assert len(result)
    return {
        "start": started,
        "cpu": ended[0],
        "ended": ended[1],
        "test_cpu": ended[0] - loaded[0],
        "test_wall": ended[1] - loaded[1],
        "peak_mib": peak_kib() / 1024,
    }


def peak_kib():
    """Largest resident set of this process; getrusage may tell that of its parent."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    raise OSError("no VmHWM in /proc/self/status")


def work(job):
    """One job of a child process: its answer is the last line of the output."""
    sys.path.insert(0, str(ROOT / "scripts"))
    tasks = {"memory": time_in_memory, "disk": time_from_disk, "versions": versions_of}
    print(json.dumps(tasks[job["task"]](job)), flush=True)


# Ours: files, comparison, report


def peers_wanted():
    """Requirements of the peers' environment; what both sides have is pinned as ours."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    return [*project["dependency-groups"]["peers"], *project["project"]["dependencies"]]


def chunk_of_counts(chunk, labels, means, effects, sizes):
    """Negative binomial counts of some cells."""
    import numpy as np

    random = np.random.default_rng([7, chunk])
    rate = means * effects[labels] * sizes[:, None]
    return random.poisson(rate * random.gamma(2.0, 0.5, rate.shape)).astype(np.float32)


def write_files(folder, name, n_cells, n_features, n_targets):
    """Files of counts and of their log1p per 10,000, by kind; written once."""
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    from condrand.io.h5ad import SparseRows, new_anndata, write_element

    stem = f"{name}_{n_cells}x{n_features}x{n_targets}"
    paths = {kind: folder / f"{stem}_{kind}.h5ad" for kind in ("counts", "logged")}
    if all(path.exists() for path in paths.values()):
        return paths
    random = np.random.default_rng(7)
    means = np.minimum(np.exp(random.normal(-2.6, 1.4, n_features)), 30)
    sizes = np.exp(random.normal(0, 0.45, n_cells))
    # One gene in twenty responds to a target.
    effects = np.exp(random.normal(0, 0.7, (n_targets + 1, n_features)))
    effects[random.random(effects.shape) > 0.05] = 1
    effects[0] = 1
    weights = random.gamma(4.0, size=n_targets)
    labels = np.zeros(n_cells, np.int64)
    n_control = n_cells // 10
    labels[n_control:] = 1 + random.choice(
        n_targets, n_cells - n_control, p=weights / weights.sum()
    )
    random.shuffle(labels)
    names = [CONTROL, *(f"target{t:04d}" for t in range(n_targets))]
    cells = pd.Index([f"cell{i}" for i in range(n_cells)], dtype=object)
    features = pd.Index([f"gene{j}" for j in range(n_features)], dtype=object)
    unfinished = {kind: path.with_suffix(".part") for kind, path in paths.items()}
    files = {kind: new_anndata(path, cells, features) for kind, path in unfinished.items()}
    rows = {}
    for kind, file in files.items():
        label = pd.Categorical.from_codes(labels, np.array(names, dtype=object))
        del file["obs"]
        write_element(file, "obs", pd.DataFrame({LABEL: label}, index=cells))
        rows[kind] = SparseRows(file, "X", n_features, np.float32)
    for chunk, start in enumerate(range(0, n_cells, CELLS_AT_A_TIME)):
        part = slice(start, start + CELLS_AT_A_TIME)
        counts = sp.csr_matrix(chunk_of_counts(chunk, labels[part], means, effects, sizes[part]))
        rows["counts"].append(counts)
        total = np.maximum(np.asarray(counts.sum(axis=1, dtype=np.float64)).ravel(), 1)
        factor = np.repeat(1e4 / total, np.diff(counts.indptr))
        counts.data = np.log1p(counts.data * factor).astype(np.float32)
        rows["logged"].append(counts)
    for kind, file in files.items():
        rows[kind].finish()
        file.close()
        os.replace(unfinished[kind], paths[kind])
    return paths


def n_nonzero(path):
    """Stored values of a file."""
    import h5py

    with h5py.File(path) as file:
        return file["X/data"].size


class Runner:
    """Runs jobs in child processes."""

    def __init__(self, peers_python, folder, threads):
        self.peers_python, self.folder = peers_python, folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "NUMBA_NUM_THREADS": str(threads),
            "POLARS_MAX_THREADS": str(threads),
            "CONDRAND_CACHE": os.environ.get("CONDRAND_CACHE", str(ROOT / ".cache" / "condrand")),
        }
        # Threads of the tests are those asked for; none beside them.
        for name in ("OMP", "OPENBLAS", "MKL", "RAYON"):
            self.environment[f"{name}_NUM_THREADS"] = "1"

    def __call__(self, job):
        """The answer of a job, with the wall seconds since its process was started."""
        ours = job["contender"].startswith("condrand")
        python = sys.executable if ours else self.peers_python
        log = self.folder / "stderr.txt"
        with open(log, "w") as err:
            began = time.time()
            done = subprocess.run(
                [str(python), __file__, "--work", json.dumps(job)],
                env=self.environment,
                stdout=subprocess.PIPE,
                stderr=err,
                text=True,
            )
        if done.returncode:
            raise SystemExit(f"{job} failed:\n{log.read_text()[-3000:]}")
        answer = json.loads(done.stdout.splitlines()[-1])
        answer["wall"] = answer.get("ended", time.time()) - began
        return answer


def ratio_text(peer, ours):
    """Median ratio of two lists by round, with smallest and largest."""
    ratios = [a / b for a, b in zip(peer, ours, strict=False)]
    text = f"{median(ratios):.1f}"
    return text + (f" ({min(ratios):.1f}-{max(ratios):.1f})" if len(ratios) > 1 else "")


def n_tested(name, job, n_targets):
    """How many targets a contender is run for."""
    if job["whole"] or job["test"] != "mwu" or n_targets * job["n_features"] < MANY_TESTS:
        return n_targets
    return min(SUBSETS.get(name, n_targets), n_targets)


def in_memory(run, names, job, repeats, n_targets, folder):
    """CPU seconds on one thread and wall seconds by threads of each contender, by round."""
    found = {name: [] for name in names}
    for k in range(repeats):
        for name in names:
            if k and found[name][0]["process"] > LONG_PROCESS:
                continue
            used = n_tested(name, job, n_targets)
            out = str(folder / f"{name}.npz") if k == 0 else ""
            answer = run({**job, "task": "memory", "contender": name, "targets": used, "out": out})
            scale = n_targets / used
            seconds = {
                int(t): [[x * scale for x in pair] for pair in pairs]
                for t, pairs in answer["seconds"].items()
            }
            found[name].append({**seconds, "process": answer["wall"]})
    return found


def from_disk(run, names, job, repeats, n_targets):
    """CPU seconds, wall seconds and peak memory of whole processes, by round."""
    found = {name: [] for name in names}
    slow = set()
    # The first round fills the caches of compiled code.
    for k in range(repeats + 1):
        for name in names:
            if name in slow:
                continue
            used = n_tested(name, job, n_targets)
            answer = run({**job, "task": "disk", "contender": name, "targets": used})
            more = n_targets / used - 1
            figures = {
                "start": answer["start"],
                "cpu": answer["cpu"] + more * answer["test_cpu"],
                "wall": answer["wall"] + more * answer["test_wall"],
                "peak": answer["peak_mib"],
            }
            if answer["wall"] > LONG_PROCESS:
                slow.add(name)
            if k or name in slow:
                found[name].append(figures)
    return found


def report_memory(title, found, base, threads):
    """Print the table of one set of in-memory runs; give the ratios of CPU seconds."""
    width = f"{threads} threads" if threads > 1 else "1 thread"
    print(f"\n{title}")
    print(
        f"  {'':<20}{'CPU s, 1 thread':>16}{f'wall s, {width}':>18}{'scaling':>9}"
        f"   {'CPU ratio':<18}{'wall ratio':<18}"
    )
    cpu, wall, ratios = {}, {}, {}
    for name, rounds in found.items():
        # scanpy has no run on one thread.
        cpu[name] = [median([c for c, _ in r.get(1, r[threads])]) for r in rounds]
        wall[name] = [median([w for _, w in r[threads]]) for r in rounds]
        alone = [median([w for _, w in r.get(1, r[threads])]) for r in rounds]
        scaling = f"{median([a / b for a, b in zip(alone, wall[name], strict=True)]):.2f}"
        scaling = scaling if 1 in rounds[0] else "-"
        text = f"  {name:<20}{median(cpu[name]):>16.3f}{median(wall[name]):>18.3f}{scaling:>9}"
        if name != base:
            text += f"   {ratio_text(cpu[name], cpu[base]):<18}"
            text += f"{ratio_text(wall[name], wall[base]):<18}"
            ratios[name] = median([a / b for a, b in zip(cpu[name], cpu[base], strict=False)])
        print(text, flush=True)
    return ratios


def report_disk(title, found, base, threads):
    """Print the table of one set of runs from disk; give the ratios of wall and memory."""
    print(f"\n{title}")
    print(
        f"  {'':<20}{'imports, CPU s':>15}{'all, CPU s':>11}{'wall s':>8}{'peak MiB':>10}"
        f"   {'CPU ratio':<18}{'wall ratio':<18}{'peak ratio':<18}"
    )
    ratios = {}
    for name, rounds in found.items():
        figures = {key: [r[key] for r in rounds] for key in ("cpu", "wall", "peak")}
        cpu, wall, peak = (median(values) for values in figures.values())
        start = median([r["start"] for r in rounds])
        text = f"  {name:<20}{start:>15.2f}{cpu:>11.2f}{wall:>8.2f}{peak:>10.0f}"
        if name != base:
            own = {key: [r[key] for r in found[base]] for key in figures}
            texts = [ratio_text(figures[key], own[key]) for key in figures]
            text += "   " + "".join(f"{part:<18}" for part in texts)
            ratios[name] = (
                median([a / b for a, b in zip(figures["wall"], own["wall"], strict=False)]),
                median([a / b for a, b in zip(figures["peak"], own["peak"], strict=False)]),
            )
        print(text, flush=True)
    return ratios


# Of the Mann-Whitney test.
WHY = {
    "illico": "p < 1 where U is its mean",
    "scanpy": "no continuity correction: compared with ours without it",
}


def compared(name, ours, theirs, why):
    """How far two sets of p values are apart, in words."""
    import numpy as np

    ours = ours[: len(theirs)]
    both = np.isfinite(ours) & np.isfinite(theirs)
    text = f"  {name:<20}{both.sum():>9,} tests"
    tests = both & (np.minimum(ours, theirs) > FAR_OUT)
    apart = np.zeros(ours.shape)
    apart[tests] = np.abs(theirs[tests] / ours[tests] - 1)
    share = np.mean(apart[tests] <= 1e-6)
    text += f"; {100 * share:.4f} % within 1e-6; largest difference {apart.max():.1e}"
    centre = tests & (ours == 1)
    if apart[centre].max(initial=0) > 1e-12:
        text += f" ({apart[~centre].max():.1e} without {centre.sum():,} tests of our p = 1)"
    alone = np.isnan(ours) & ~np.isnan(theirs)
    if alone.any():
        values = np.unique(theirs[alone])
        text += f"; {alone.sum():,} constant ones, ours NaN, theirs {values[:3].tolist()}"
    if (both & ~tests).any():
        text += f"; {(both & ~tests).sum():,} below {FAR_OUT:g} left out"
    return text + (f"  [{why}]" if why else "")


def scipy_agreement(path, p, test, n_pairs=200):
    """Largest relative difference to scipy over random target-feature pairs, in words."""
    import warnings

    import numpy as np
    from scipy import stats

    adata = read(path)
    codes = adata.obs[LABEL].cat.codes.to_numpy()
    columns = adata.X.tocsc()
    random = np.random.default_rng(0)
    apart, n_constant = [], 0
    for _ in range(n_pairs):
        t, j = random.integers(p.shape[0]), random.integers(p.shape[1])
        values = columns[:, [j]].toarray().ravel().astype(np.float64)
        groups = values[codes == t + 1], values[codes == 0]
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            if test == "mwu":
                other = stats.mannwhitneyu(*groups, method="asymptotic").pvalue
            else:
                other = stats.ttest_ind(*groups, equal_var=False).pvalue
        if np.isnan(p[t, j]):
            n_constant += 1
        else:
            apart.append(abs(np.log(p[t, j]) - np.log(other)))
    return (
        f"  scipy, float64: log p of {len(apart)} random pairs at most {max(apart):.1e} apart"
        + (f" ({n_constant} constant)" if n_constant else "")
    )


def agreement(names, path, test, folder):
    """Print how far p values are from scipy's and each peer's from ours."""
    import numpy as np

    own = np.load(folder / f"{KERNELS}.npz")
    print(scipy_agreement(path, own["p"], test))
    for name in names:
        if name != KERNELS:
            other = np.load(folder / f"{name}.npz")["p"]
            key = "p_without_continuity" if name == "scanpy" and test == "mwu" else "p"
            why = WHY.get(name) if test == "mwu" else None
            print(compared(name, own[key], other, why), flush=True)


def verdict(text, value, aim):
    """Print one figure beside its aim, if it has one."""
    beside = f"   aim {aim:g}   {'met' if value >= aim else 'MISSED'}" if aim else ""
    print(f"  {text:<66}{value:>7.2f}{beside}")


def parse():
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", default="S,M", help="of S and M")
    parser.add_argument("--peers", default="illico,pdex,scanpy", help="some of them, or none")
    parser.add_argument("--threads", type=int, default=2, help="of the wall seconds")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--parts", default="memory,welch,disk", help="some of them")
    parser.add_argument("--whole", action="store_true", help="all targets, however slow a peer")
    parser.add_argument("--cells", type=int, help="instead of a size")
    parser.add_argument("--features", type=int, default=1000)
    parser.add_argument("--targets", type=int, default=20)
    parser.add_argument("--folder", type=Path, default=ROOT / ".cache" / "peers")
    parser.add_argument("--peers-wanted", action="store_true", help="print requirements, stop")
    return with_peers(parser)


def main():
    given = parse()
    if given.work:
        work(json.loads(given.work))
        return
    if given.peers_wanted:
        print(*peers_wanted(), sep="\n")
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    peers = [] if given.peers == "none" else given.peers.split(",")
    unknown = set(peers) - {"illico", "pdex", "scanpy"}
    if unknown:
        raise SystemExit(f"--peers: there is no {', '.join(sorted(unknown))}")
    if peers:
        refuse_without(given.python, "benchmark-dex")
    sizes = {name: SIZES[name] for name in given.sizes.split(",")} if not given.cells else {}
    if given.cells:
        sizes = {"own": (given.cells, given.features, given.targets)}
    given.folder.mkdir(parents=True, exist_ok=True)
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        run = Runner(given.python, folder, given.threads)
        if peers:
            names = [*peers, "numba-mwu", "numba", "numpy", "scipy"]
            job = {"task": "versions", "contender": "peers", "names": names}
            found = run(job)
            print(", ".join(f"{name} {found[name]}" for name in names))
        for size, shape in sizes.items():
            figures[size] = benchmark(size, shape, peers, given, run, folder)
        print("\nAims (ratio to the fastest peer; peak memory to the leanest)")
        for size, found in figures.items():
            judge(size, found, given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def benchmark(size, shape, peers, given, run, folder):
    """Run and print all of one size."""
    began = time.monotonic()
    paths = write_files(given.folder, size, *shape)
    n_cells, n_features, n_targets = shape
    stored = n_nonzero(paths["counts"])
    print(
        f"\n{size}: {n_cells:,} cells x {n_features:,} features, {n_targets} targets, a tenth "
        f"control, {100 * stored / n_cells / n_features:.0f} % nonzero; files ready after "
        f"{time.monotonic() - began:.0f} s"
    )
    common = {"threads": given.threads, "n_features": n_features, "whole": given.whole}
    for name in peers:
        used = n_tested(name, {**common, "test": "mwu"}, n_targets)
        if used < n_targets:
            print(
                f"{name}'s Mann-Whitney test is run for {used} targets, its seconds scaled by "
                f"{n_targets / used:g}"
            )
    parts = given.parts.split(",")
    in_ram = {"illico": ["illico", "illico numba"], "pdex": ["pdex"], "scanpy": ["scanpy"]}
    backed = {"illico": ["illico backed"], "pdex": ["pdex backed"]}
    figures = {}
    theirs = [name for peer in peers for name in in_ram[peer]]
    if "memory" in parts:
        for kind in ("logged", "counts"):
            names = [KERNELS, CALL, *theirs]
            job = {**common, "path": str(paths[kind]), "kind": kind, "test": "mwu"}
            found = in_memory(run, names, job, given.repeats, n_targets, folder)
            title = f"{size}, Mann-Whitney in memory, {kind}"
            report_memory(title, found, KERNELS, given.threads)
            agreement(names, paths[kind], "mwu", folder)
            figures[f"memory {kind}"] = found
        # Of peers the normalization is not timed: they have the logged file.
        job = {**common, "path": str(paths["counts"]), "kind": "normalized", "test": "mwu"}
        found = in_memory(run, [KERNELS, CALL], job, given.repeats, n_targets, folder)
        for name in theirs:
            found[name] = figures["memory logged"][name]
        title = f"{size}, Mann-Whitney in memory, ours from counts (normalization included)"
        report_memory(title, found, KERNELS, given.threads)
        figures["memory normalized"] = found
    if "welch" in parts:
        names = [KERNELS, CALL, *(["scanpy"] if "scanpy" in peers else [])]
        job = {**common, "path": str(paths["logged"]), "kind": "logged", "test": "welch"}
        found = in_memory(run, names, job, given.repeats, n_targets, folder)
        report_memory(f"{size}, Welch in memory, logged", found, KERNELS, given.threads)
        agreement(names, paths["logged"], "welch", folder)
        figures["welch logged"] = found
    if "disk" in parts:
        for kind in ("logged", "counts"):
            names = [FILE, *theirs]
            if kind == "logged":
                names += [name for peer in peers for name in backed.get(peer, [])]
            job = {**common, "path": str(paths[kind]), "kind": kind, "test": "mwu"}
            found = from_disk(run, names, job, given.repeats, n_targets)
            title = f"{size}, Mann-Whitney from disk, {kind}, {given.threads} threads"
            report_disk(title, found, FILE, given.threads)
            figures[f"disk {kind}"] = found
        job = {**common, "path": str(paths["counts"]), "kind": "normalized", "test": "mwu"}
        found = from_disk(run, [FILE], job, given.repeats, n_targets)
        for name in theirs:
            found[name] = figures["disk logged"][name]
        title = f"{size}, Mann-Whitney from disk, ours from counts (normalization included)"
        report_disk(title, found, FILE, given.threads)
        figures["disk normalized"] = found
    return figures


def judge(size, found, given):
    """Print the figures of one size that have an aim."""

    def by_round(part, name, value):
        return [value(r) for r in found[part][name]]

    def least(part, value):
        """Median ratio to the contender that needs least, leaving out those beside the base."""
        base = FILE if part.startswith("disk") else KERNELS
        own = by_round(part, base, value)
        rivals = [name for name in found[part] if not name.startswith("condrand")]
        ratios = {
            name: median([a / b for a, b in zip(by_round(part, name, value), own, strict=False)])
            for name in rivals
        }
        name = min(ratios, key=ratios.get, default=None)
        return name, ratios.get(name)

    def cpu(figures):
        return median([c for c, _ in figures.get(1, figures.get(given.threads))])

    aims = {"S": {"logged": 4, "counts": 3}, "M": {"logged": 6, "counts": 3}}.get(size, {})
    for kind in ("logged", "counts"):
        name, ratio = least(f"memory {kind}", cpu) if f"memory {kind}" in found else (None, None)
        if ratio:
            text = f"{size}: CPU of the tests, {kind}, in memory, to {name}"
            verdict(text, ratio, aims.get(kind))
    if given.threads > 1 and "memory logged" in found:
        for kind in ("logged", "counts"):
            scaling = median(
                [
                    median([w for _, w in r[1]]) / median([w for _, w in r[given.threads]])
                    for r in found[f"memory {kind}"][KERNELS]
                ]
            )
            text = f"{size}: wall on one thread / on {given.threads}, {kind}, kernels"
            verdict(text, scaling, 0.9 * given.threads if aims else None)
    for kind in ("logged", "counts"):
        if f"disk {kind}" in found:
            name, ratio = least(f"disk {kind}", lambda r: r["wall"])
            if ratio:
                verdict(f"{size}: wall from disk, {kind}, to {name}", ratio, 2 if aims else None)
                name, ratio = least(f"disk {kind}", lambda r: r["peak"])
                verdict(
                    f"{size}: peak memory from disk, {kind}, to {name}", ratio, 1 if aims else None
                )


if __name__ == "__main__":
    main()
