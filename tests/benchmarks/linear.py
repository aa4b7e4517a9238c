"""Benchmark of the linear models against limma, pylimma, scipy and statsmodels.

    make benchmark-linear     (or: python tests/benchmarks/linear.py [--peers pylimma])

From counts in memory: voom, lm_fit, contrasts_fit, e_bayes, and the whole top table of each
contrast; then an analysis of variance of every feature.

Every contender runs in processes of its own, one at a time and in turn, on one thread (ours also
on two), with compiled code warm; it loads its numbers, runs once, and is timed over some calls.
limma in R takes part where Rscript with limma is installed; its process times itself. Before 3.66
it has no adaptive span of the trend and is told the one that the others choose. Machines are
noisy: quote ratios (peer / ours), which are taken within a round; their median, smallest and
largest are printed.
"""

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from peers import median, refuse_without, versions_of, with_peers

# The peers' interpreter runs this file too: what only one side has is imported by its functions.
ROOT = Path(__file__).resolve().parents[2]
STEPS = ("voom", "lm_fit", "contrasts_fit", "e_bayes", "top_table")
# Calls are repeated within a process until there were so many, or so many seconds.
CALLS, LONG_CALL = 15, 4
FAR_OUT = 1e-290
# Of generated numbers that the aims are for.
FEATURES, SAMPLES = 20_000, 200
# Features that statsmodels is run for; its seconds are scaled.
FEW = 100

IN_R = """
given <- commandArgs(trailingOnly = TRUE)
n <- as.integer(given[1:4])
calls <- as.integer(given[5])
long <- as.numeric(given[6])
suppressPackageStartupMessages(library(limma))
numbers <- function(name, rows, columns)
    matrix(readBin(name, "double", rows * columns), rows, columns)
counts <- numbers("counts.bin", n[1], n[2])
design <- numbers("design.bin", n[2], n[3])
contrasts <- numbers("contrasts.bin", n[3], n[4])
rownames(counts) <- paste0("gene", seq_len(n[1]) - 1)
colnames(counts) <- paste0("sample", seq_len(n[2]) - 1)
colnames(design) <- rownames(contrasts) <- paste0("c", seq_len(n[3]))
colnames(contrasts) <- paste0("k", seq_len(n[4]))
has_adaptive_span <- "adaptive.span" %in% names(formals(voom))
span <- min(1, 0.3 + 0.7 * (50 / n[1])^(1 / 3))
run <- function(counts) {
    marks <- list(proc.time())
    v <- if (has_adaptive_span) voom(counts, design) else voom(counts, design, span = span)
    marks[[2]] <- proc.time()
    fit <- lmFit(v, design)
    marks[[3]] <- proc.time()
    fit <- contrasts.fit(fit, contrasts)
    marks[[4]] <- proc.time()
    fit <- eBayes(fit)
    marks[[5]] <- proc.time()
    for (k in seq_len(n[4])) table <- topTable(fit, coef = k, number = Inf)
    marks[[6]] <- proc.time()
    cpu <- sapply(marks, function(m) m[["user.self"]] + m[["sys.self"]])
    wall <- marks[[6]][["elapsed"]] - marks[[1]][["elapsed"]]
    list(fit = fit, seconds = c(cpu[6] - cpu[1], wall, diff(cpu)))
}
made <- run(counts)
spent <- 0
for (call in seq_len(calls)) {
    if (spent >= long) break
    made <- run(counts)
    spent <- spent + made$seconds[2]
    cat("seconds", sprintf("%.6f", made$seconds), "\\n")
}
status <- if (file.exists("/proc/self/status")) readLines("/proc/self/status") else character()
peak <- sub("\\\\D+(\\\\d+).*", "\\\\1", grep("^VmHWM", status, value = TRUE))
cat("peak", if (length(peak)) peak else "nan", "\\n")
writeBin(as.vector(made$fit$t), "t.bin")
writeBin(as.vector(made$fit$p.value), "p.bin")
"""
VERSION_IN_R = """
if (!requireNamespace("limma", quietly = TRUE)) quit(status = 1)
cat("R", as.character(getRversion()), "limma", as.character(packageVersion("limma")))
"""


# Both sides: one contender in one process


class Condrand:
    """Our functions of that name, on a table of counts."""

    package = "condrand"

    def load(self, data):
        import pandas as pd

        genes = [f"gene{i}" for i in range(data["counts"].shape[0])]
        samples = [f"sample{i}" for i in range(data["counts"].shape[1])]
        coefficients = [f"c{i}" for i in range(data["design"].shape[1])]
        names = [f"k{i}" for i in range(data["contrasts"].shape[1])]
        return (
            pd.DataFrame(data["counts"], genes, samples),
            pd.DataFrame(data["design"], samples, coefficients),
            pd.DataFrame(data["contrasts"], coefficients, names),
        )

    def run(self, given, threads, lap):
        import condrand as cr

        counts, design, contrasts = given
        logged = cr.voom(counts, design, threads=threads)
        lap()
        fit = cr.lm_fit(logged, threads=threads)
        lap()
        fit = cr.contrasts_fit(fit, contrasts, threads=threads)
        lap()
        fit = cr.e_bayes(fit)
        lap()
        for name in fit.names:
            cr.top_table(fit, coef=name, number=None)
        lap()
        return fit

    def results(self, fit):
        import numpy as np

        return {"t": fit.t, "log10_p": fit.log_p / np.log(10)}


class Pylimma:
    """pylimma, on arrays."""

    package = "pylimma"

    def load(self, data):
        return data["counts"], data["design"], data["contrasts"]

    def run(self, given, threads, lap):
        import numpy as np
        import pylimma

        counts, design, contrasts = given
        logged = pylimma.voom(counts, design)
        lap()
        fit = pylimma.lm_fit(logged["E"], design, weights=logged["weights"])
        lap()
        fit = pylimma.contrasts_fit(fit, contrasts=contrasts)
        lap()
        fit = pylimma.e_bayes(fit)
        lap()
        for k in range(contrasts.shape[1]):
            pylimma.top_table(fit, coef=k, number=np.inf)
        lap()
        return fit

    def results(self, fit):
        import numpy as np

        with np.errstate(divide="ignore"):
            return {"t": np.asarray(fit["t"]), "log10_p": np.log10(np.asarray(fit["p_value"]))}


class Anova:
    """Our analysis of variance of an array: F, p, effect sizes, means of groups."""

    package = "condrand"

    def load(self, data):
        return data["values"], data["groups"]

    def run(self, given, threads, lap):
        from condrand.linear.anova import anova

        return anova(*given)

    def results(self, made):
        import numpy as np

        return {"F": made.F, "log10_p": made.log_p / np.log(10)}


class RunAnova(Anova):
    """Our call on a table, which also checks it, adjusts p values and makes a table."""

    def load(self, data):
        import pandas as pd

        values = data["values"]
        return pd.DataFrame(values).rename(index="gene{}".format), data["groups"].astype(str)

    def run(self, given, threads, lap):
        import condrand as cr

        return cr.run_anova(*given)

    def results(self, table):
        return {"F": table["F"].to_numpy(), "log10_p": log10(table["pval"].to_numpy())}


class Oneway(Anova):
    """scipy.stats.f_oneway of the whole matrix: F and p."""

    package = "scipy"

    def run(self, given, threads, lap):
        import numpy as np
        from scipy import stats

        values, groups = given
        return stats.f_oneway(*(values[:, groups == k] for k in np.unique(groups)), axis=1)

    def results(self, made):
        return {"F": made.statistic, "log10_p": log10(made.pvalue)}


class Statsmodels(Anova):
    """A formula, a fit and its table per feature, for the first few of them."""

    package = "statsmodels"

    def run(self, given, threads, lap):
        import pandas as pd
        from statsmodels.formula.api import ols
        from statsmodels.stats.anova import anova_lm

        values, groups = given
        group, found = groups.astype(str), []
        for row in values[:FEW]:
            frame = pd.DataFrame({"expression": row, "group": group})
            table = anova_lm(ols("expression ~ group", data=frame).fit(), typ=2)
            found.append((table.loc["group", "F"], table.loc["group", "PR(>F)"]))
        return found

    def results(self, found):
        import numpy as np

        f, p = np.array(found).T
        return {"F": f, "log10_p": log10(p)}


OURS, TWO, LIMMA = "condrand", "condrand, 2 threads", "limma (R)"
ANOVA, CALL, ONEWAY = "condrand anova", "condrand.run_anova", "scipy f_oneway"
PYLIMMA, STATSMODELS = "pylimma", "statsmodels loop"
CONTENDERS = {
    OURS: Condrand(),
    TWO: Condrand(),
    PYLIMMA: Pylimma(),
    ANOVA: Anova(),
    CALL: RunAnova(),
    ONEWAY: Oneway(),
    STATSMODELS: Statsmodels(),
}


def log10(p):
    """Logarithm of p values, of which some are 0."""
    import numpy as np

    with np.errstate(divide="ignore"):
        return np.log10(p)


def time_calls(job):
    """CPU and wall seconds of calls, of their steps, and the largest resident set."""
    import warnings

    import numpy as np

    warnings.simplefilter("ignore")
    contender = CONTENDERS[job["contender"]]
    with np.load(job["path"]) as file:
        given = contender.load(dict(file))
    marks = []

    def lap():
        marks.append(time.process_time())

    contender.run(given, job["threads"], lap)
    seconds = []
    while len(seconds) < CALLS and sum(wall for _, wall, *_ in seconds) < LONG_CALL:
        marks.clear()
        began = time.process_time(), time.perf_counter()
        result = contender.run(given, job["threads"], lap)
        ended = time.process_time(), time.perf_counter()
        starts = [began[0], *marks[:-1]][: len(marks)]
        steps = [b - a for a, b in zip(starts, marks, strict=True)]
        seconds.append([ended[0] - began[0], ended[1] - began[1], *steps])
    np.savez(job["out"], **contender.results(result))
    return {"seconds": seconds, "peak_kib": peak_kib()}


def peak_kib():
    """Largest resident set of this process, NaN where the system does not tell."""
    status = Path("/proc/self/status")
    for line in status.read_text().splitlines() if status.exists() else ():
        if line.startswith("VmHWM"):
            return int(line.split()[1])
    return float("nan")


def work(job):
    """One job of a child process: its answer is the last line of the output."""
    sys.path.insert(0, str(ROOT / "scripts"))
    task = {"calls": time_calls, "versions": versions_of}[job["task"]]
    print(json.dumps(task(job)), flush=True)


# Ours: numbers, comparison, report


def data_folder():
    """The folder of real data, or None."""
    folder = ROOT / (os.environ.get("CONDRAND_DATA") or Path("..") / "shared" / "data")
    return folder if folder.is_dir() else None


def gse60450():
    """Counts, design and contrasts of basal and luminal samples, filtered; None without data."""
    import numpy as np
    import pandas as pd

    import condrand as cr

    folder = data_folder()
    if folder is None or not (folder / "limma" / "gse60450_counts.csv.gz").is_file():
        return None
    counts = pd.read_csv(folder / "limma" / "gse60450_counts.csv.gz", index_col=0)
    targets = pd.read_csv(folder / "limma" / "gse60450_targets.csv", index_col=0)
    kept = counts[cr.filter_by_cpm(counts, targets["immunophenotype"])]
    design = cr.model_matrix("~ 0 + immunophenotype", targets.loc[kept.columns])
    stages = pd.factorize(targets.loc[kept.columns, "group"], sort=True)[0]
    contrasts = np.array([[-1.0], [1.0]])
    return kept.to_numpy(np.float64), design.to_numpy(np.float64), contrasts, stages


def made_counts(n_features, group, batch, seed):
    """Negative binomial counts: a tenth of the features differ by group, all somewhat by batch."""
    import numpy as np

    random = np.random.default_rng(seed)
    mean = np.exp(random.normal(4, 1.5, n_features))[:, None]
    effects = random.normal(0, 0.5, (n_features, group.max() + 1))
    effects[random.random(n_features) > 0.1] = 0
    effects += random.normal(0, 0.1, effects.shape) * (effects != 0)
    by_batch = random.normal(0, 0.2, (n_features, batch.max() + 1))
    library = np.exp(random.normal(0, 0.3, group.size))
    rate = mean * library * np.exp(effects[:, group] + by_batch[:, batch])
    shape = 1 / (0.05 + 1 / mean)
    return random.poisson(rate * random.gamma(shape, 1 / shape, rate.shape)).astype(np.float64)


def indicators(codes):
    """Columns of zeros and ones for levels."""
    import numpy as np

    return (codes[:, None] == np.unique(codes)).astype(np.float64)


def two_groups(n_features, n):
    """Generated counts of two groups, cell means, one contrast."""
    import numpy as np

    group = np.arange(n) % 2
    counts = made_counts(n_features, group, np.zeros(n, np.int64), 1)
    return counts, indicators(group), np.array([[-1.0], [1.0]])


def with_batches(n_features, n):
    """Generated counts of three groups in three batches: ~ group + batch, three contrasts."""
    import numpy as np

    group, batch = np.arange(n) % 3, np.arange(n) // 3 % 3
    counts = made_counts(n_features, group, batch, 2)
    design = np.hstack([np.ones((n, 1)), indicators(group)[:, 1:], indicators(batch)[:, 1:]])
    contrasts = np.zeros((5, 3))
    contrasts[1, 0] = contrasts[2, 1] = contrasts[2, 2] = 1
    contrasts[1, 2] = -1
    return counts, design, contrasts


def hspc():
    """Log expression of 4,170 genes in 150 cells of three kinds; None without data."""
    import anndata
    import numpy as np
    import pandas as pd
    import scipy.sparse as sp

    folder = data_folder()
    if folder is None or not (folder / "hspc.h5ad").is_file():
        return None
    adata = anndata.read_h5ad(folder / "hspc.h5ad")
    values = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    groups = pd.factorize(adata.obs["group"], sort=True)[0]
    return np.ascontiguousarray(values.T, np.float64), groups


class Runner:
    """Runs jobs in child processes."""

    def __init__(self, peers_python, rscript, folder):
        self.peers_python, self.rscript, self.folder = peers_python, rscript, folder
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("PYTHON")},
            "CONDRAND_CACHE": os.environ.get("CONDRAND_CACHE", str(ROOT / ".cache" / "condrand")),
        }
        # No threads of linear algebra, on any side.
        for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
            self.environment[f"{name}_NUM_THREADS"] = "1"

    def call(self, command):
        """Lines that a process prints."""
        done = subprocess.run(
            [str(word) for word in command],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        if done.returncode:
            raise SystemExit(f"{command} failed:\n{done.stderr[-3000:]}")
        return done.stdout.splitlines()

    def __call__(self, job):
        """The answer of a job of Python."""
        theirs = job["contender"] in (PYLIMMA, STATSMODELS, "peers")
        python = self.peers_python if theirs else sys.executable
        return json.loads(self.call([python, __file__, "--work", json.dumps(job)])[-1])

    def timed(self, name, path, shape):
        """Seconds, peak memory and results of one process of a contender."""
        import numpy as np

        if name != LIMMA:
            out = str(self.folder / "out.npz")
            job = {"task": "calls", "contender": name, "path": str(path), "out": out}
            answer = self({**job, "threads": 2 if name == TWO else 1})
            with np.load(out) as file:
                return answer["seconds"], answer["peak_kib"], dict(file)
        (self.folder / "linear.R").write_text(IN_R)
        lines = self.call([self.rscript, "linear.R", *shape, CALLS, LONG_CALL])
        seconds = [[float(x) for x in s.split()[1:]] for s in lines if s.startswith("seconds")]
        peak = next(float(s.split()[1]) for s in lines if s.startswith("peak"))
        t, p = (np.fromfile(self.folder / f"{x}.bin").reshape(shape[3], -1).T for x in "tp")
        return seconds, peak, {"t": t, "log10_p": log10(p)}

    def version_of_limma(self):
        """Versions of R and limma, or None where there is no such R."""
        if shutil.which(self.rscript) is None:
            return None
        (self.folder / "version.R").write_text(VERSION_IN_R)
        done = subprocess.run(
            [self.rscript, "version.R"],
            cwd=self.folder,
            env=self.environment,
            capture_output=True,
            text=True,
        )
        return None if done.returncode else done.stdout.strip()


def ratios_of(theirs, ours, key):
    """Ratios of two contenders, by round."""
    return [a[key] / b[key] for a, b in zip(theirs, ours, strict=True)]


def ratio_text(ratios):
    """Median with smallest and largest."""
    digits = 1 if median(ratios) < 100 else 0
    text = f"{median(ratios):,.{digits}f}"
    if len(ratios) > 1:
        text += f" ({min(ratios):,.{digits}f}-{max(ratios):,.{digits}f})"
    return text


def rounds_of(run, names, path, repeats, shape=None, scale=None):
    """Seconds and memory of each contender by round, and the results of the last."""
    found, results = {name: [] for name in names}, {}
    for _ in range(repeats):
        for name in names:
            seconds, peak, results[name] = run.timed(name, path, shape)
            by = (scale or {}).get(name, 1)
            cpu, wall, *steps = (by * median(x) for x in zip(*seconds, strict=True))
            found[name].append({"cpu": cpu, "wall": wall, "steps": steps, "peak": peak / 1024})
    return found, results


def report(title, found, base):
    """Print the table of one set of runs."""
    print(f"\n{title}")
    print(
        f"  {'':<22}{'CPU s':>10}{'wall s':>10}{'peak MiB':>10}"
        f"   {'CPU ratio':<24}{'wall ratio':<24}"
    )
    for name, rounds in found.items():
        cpu, wall, peak = (median([r[key] for r in rounds]) for key in ("cpu", "wall", "peak"))
        text = f"  {name:<22}{cpu:>10.4f}{wall:>10.4f}{peak:>10.0f}"
        if name != base:
            texts = [ratio_text(ratios_of(rounds, found[base], key)) for key in ("cpu", "wall")]
            text += "   " + "".join(f"{part:<24}" for part in texts)
        print(text, flush=True)


def report_steps(found):
    """Print the CPU seconds of the steps."""
    print(f"  {'CPU s of steps':<22}" + "".join(f"{step:>15}" for step in STEPS))
    for name, rounds in found.items():
        steps = [median(x) for x in zip(*(r["steps"] for r in rounds), strict=True)]
        print(f"  {name:<22}" + "".join(f"{x:>15.4f}" for x in steps), flush=True)


def calls_of(results):
    """Signs of the tests with an adjusted p value below 0.05."""
    import numpy as np

    from condrand.fdr import benjamini_hochberg

    p = 10.0 ** results["log10_p"]
    below = np.column_stack([benjamini_hochberg(column) < 0.05 for column in p.T])
    return np.sign(results["t"]) * below


def agreement(results, base, statistic):
    """Print how far results are from ours."""
    import numpy as np

    for name, theirs in results.items():
        if name == base:
            continue
        n = len(theirs[statistic])
        own = {key: values[:n] for key, values in results[base].items()}
        if not np.array_equal(np.isnan(own[statistic]), np.isnan(theirs[statistic])):
            text = "NaN elsewhere; " if statistic == "t" else "other constant features; "
        else:
            text = ""
        both = np.isfinite(own[statistic]) & np.isfinite(theirs[statistic])
        apart = np.abs(theirs[statistic] - own[statistic])
        if statistic == "F":
            apart = apart / np.abs(own[statistic])
        text += f"{both.sum():,} tests; {statistic} at most {apart[both].max():.1e}"
        text += " apart, relatively" if statistic == "F" else " apart"
        with np.errstate(invalid="ignore"):
            near = both & (np.minimum(own["log10_p"], theirs["log10_p"]) > np.log10(FAR_OUT))
            apart = np.abs(theirs["log10_p"] - own["log10_p"])
        text += f", log10 p {apart[near].max():.1e}"
        if (both & ~near).any():
            text += f" ({(both & ~near).sum():,} below {FAR_OUT:g} left out)"
        if statistic == "t":
            ours, other = calls_of(own), calls_of(theirs)
            text += f"; {np.count_nonzero(ours):,} calls, {np.count_nonzero(ours != other)} differ"
        print(f"  {name:<22}{text}", flush=True)


def verdict(text, value, aim):
    """Print one figure beside its aim."""
    print(f"  {text:<62}{value:>9,.1f}   aim {aim:g}   {'met' if value >= aim else 'MISSED'}")


def benchmark_voom(title, data, names, given, run):
    """Run and print one pipeline from counts to top tables; give its figures."""
    import numpy as np

    counts, design, contrasts = data
    path = run.folder / "numbers.npz"
    arrays = {"counts": counts, "design": design, "contrasts": contrasts}
    np.savez(path, **arrays)
    for name, values in arrays.items():
        np.ravel(values, order="F").tofile(run.folder / f"{name}.bin")
    shape = (*counts.shape, *contrasts.shape)
    found, results = rounds_of(run, names, path, given.repeats, shape)
    report(
        f"{title}: {counts.shape[0]:,} x {counts.shape[1]}, {design.shape[1]} coefficients, "
        f"contrasts: {contrasts.shape[1]}",
        found,
        OURS,
    )
    report_steps(found)
    agreement(results, OURS, "t")
    return found


def benchmark_anova(title, data, names, given, run):
    """Run and print the analyses of variance of one matrix; give their figures."""
    import numpy as np

    values, groups = data
    path = run.folder / "numbers.npz"
    np.savez(path, values=values, groups=groups)
    scale = {STATSMODELS: len(values) / min(FEW, len(values))}
    found, results = rounds_of(run, names, path, given.repeats, scale=scale)
    title = f"{title}: {values.shape[0]:,} x {values.shape[1]}, {groups.max() + 1} groups"
    if STATSMODELS in names:
        title += f"; statsmodels run for {min(FEW, len(values))}, its seconds scaled"
    report(title, found, ANOVA)
    agreement(results, ANOVA, "F")
    return found


def parse():
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default="pylimma,statsmodels", help="some of them, or none")
    parser.add_argument("--rscript", default="Rscript", help="R's, with limma; none for no R")
    parser.add_argument("--features", type=int, default=FEATURES, help="of generated numbers")
    parser.add_argument("--samples", type=int, default=SAMPLES, help="of generated numbers")
    parser.add_argument("--repeats", type=int, default=5, help="rounds")
    parser.add_argument("--parts", default="voom,anova", help="of voom and anova")
    parser.add_argument("--generated-only", action="store_true", help="leave out real data")
    return with_peers(parser)


def main():
    given = parse()
    if given.work:
        work(json.loads(given.work))
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    peers = [] if given.peers == "none" else given.peers.split(",")
    unknown = set(peers) - {"pylimma", "statsmodels"}
    if unknown:
        raise SystemExit(f"--peers: there is no {', '.join(sorted(unknown))}")
    if peers:
        refuse_without(given.python, "benchmark-linear")
    figures = {}
    with tempfile.TemporaryDirectory() as temporary:
        run = Runner(given.python.absolute(), given.rscript, Path(temporary))
        limma = run.version_of_limma()
        if peers:
            names = [*peers, "numpy", "scipy"]
            versions = run({"task": "versions", "contender": "peers", "names": names})
            print(", ".join(f"{name} {versions[name]}" for name in names))
        print(limma or "limma is left out: there is no Rscript with limma.")
        if "voom" in given.parts.split(","):
            figures |= all_voom(given, peers, limma, run)
        if "anova" in given.parts.split(","):
            figures |= all_anova(given, peers, run)
        print("\nAims (wall ratio to ours on one thread)")
        judge(figures, given)
    if given.json:
        given.json.write_text(json.dumps(figures, indent=1))


def all_voom(given, peers, limma, run):
    """All pipelines from counts to top tables."""
    names = [OURS, TWO]
    names += [LIMMA] if limma else []
    names += [PYLIMMA] if "pylimma" in peers else []
    shape = given.features, given.samples
    found = {}
    real = None if given.generated_only else gse60450()
    if real is None and not given.generated_only:
        print("GSE60450 is left out: its files are not in the folder of data (CONDRAND_DATA).")
    if real is not None:
        found["GSE60450"] = benchmark_voom("GSE60450", real[:3], names, given, run)
    title = "generated, two groups"
    found[title] = benchmark_voom(title, two_groups(*shape), names, given, run)
    title = "generated, ~ group + batch"
    found[title] = benchmark_voom(title, with_batches(*shape), names, given, run)
    return found


def all_anova(given, peers, run):
    """All analyses of variance."""
    import numpy as np

    from condrand.linear.counts import log2_cpm

    names = [ANOVA, CALL, ONEWAY]
    names += [STATSMODELS] if "statsmodels" in peers else []
    found = {}
    if not given.generated_only:
        real = hspc()
        if real is None:
            print("HSPC is left out: hspc.h5ad is not in the folder of data (CONDRAND_DATA).")
        else:
            found["anova HSPC"] = benchmark_anova("anova, HSPC", real, names, given, run)
        real = gse60450()
        if real is not None:
            logged = log2_cpm(real[0], real[0].sum(axis=0)), real[3]
            found["anova GSE60450"] = benchmark_anova("anova, GSE60450", logged, names, given, run)
    group = np.arange(given.samples) % 4
    counts = made_counts(given.features, group, np.zeros(given.samples, np.int64), 3)
    logged = log2_cpm(counts, counts.sum(axis=0)), group
    found["anova generated"] = benchmark_anova("anova, generated", logged, names, given, run)
    return found


def judge(figures, given):
    """Print the figures that have an aim."""
    for title, found in figures.items():
        base = ANOVA if ANOVA in found else OURS
        large = title != "GSE60450"
        aims = {
            LIMMA: 4 if large else 10,
            PYLIMMA: 12 if large else 30,
            ONEWAY: 1,
            STATSMODELS: 500,
        }
        if "generated" in title and (given.features, given.samples) != (FEATURES, SAMPLES):
            continue
        for name, aim in aims.items():
            if name in found:
                ratio = median(ratios_of(found[name], found[base], "wall"))
                verdict(f"{title}: {name}", ratio, aim)


if __name__ == "__main__":
    main()
