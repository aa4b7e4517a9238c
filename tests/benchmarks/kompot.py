"""Benchmark of differential expression and abundance over cell states against kompot, on the CPU.

    make benchmark-kompot     (or: python tests/benchmarks/kompot.py [--large] [--threads 1])

From arrays in memory: fit both conditions, then predict at all cells. Expression with Mahalanobis
distances, and with the variance over three samples of each condition; abundance, and the same.
Both sides are given the same landmarks, and make all that kompot makes by default; of expression a
further line shows ours without the arrays of cells by genes.

Every run has a process of its own, on one core or two. Its first call counts with all that comes
before: the interpreter, imports, and compilation, for which ours finds an empty cache; only the
loading of the numbers does not count. Then calls are repeated: warm. Peak memory is that of the
process after its first call, with the numbers themselves. Machines are noisy: seconds of the CPU
stand beside those of the wall; ratios are kompot's / ours.

kompot finds nearest neighbours approximately, so that its length scale differs from ours from the
fourth digit on, and so do all results. Differences are relative to the largest value.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from linear import peak_kib
from peers import median, refuse_without, versions_of, with_peers

# kompot's interpreter runs this file too: what only one side has is imported by its functions.
ROOT = Path(__file__).resolve().parents[2]
OURS, KOMPOT = "condrand", "kompot"
# Without arrays of cells by genes, which kompot always makes: means and distances alone.
SPARING = "condrand, outputs=()"
# Of each condition.
CELLS, MANY_CELLS, GENES, LANDMARKS, FEW_LANDMARKS, SAMPLES = 5_000, 20_000, 2_000, 500, 200, 3
# Warm calls are repeated until there were so many, or so many seconds.
CALLS, LONG_CALL = 3, 10
# Cells whose results are compared.
COMPARED = 500
TITLES = {
    "expression": "differential expression",
    "expression-samples": "differential expression with sample variance",
    "abundance": "differential abundance",
    "abundance-samples": "differential abundance with sample variance",
}
AIMS = {"first": 3.0, "warm": 1.5, "peak": 2.0}


# Both sides: one contender in one process


def classes_of(contender):
    """The two classes of a package, which is imported."""
    if contender == KOMPOT:
        # This file has the same name.
        sys.path[:] = [folder for folder in sys.path if Path(folder) != Path(__file__).parent]
        import kompot as package
    else:
        import condrand.api.kompot as package
    return package.DifferentialExpression, package.DifferentialAbundance


def run(classes, contender, task, data):
    """Results of one task by name."""
    import numpy as np

    quiet = {"progress": False} if contender == KOMPOT else {}
    few = {"outputs": ()} if contender == SPARING else {}
    kind, _, with_samples = task.partition("-")
    landmarks, samples = data["landmarks"], {}
    if with_samples:
        samples = {f"condition{c}_sample_indices": data["samples"] for c in (1, 2)}
        if kind == "expression":
            landmarks = data["few_landmarks"]
    x1, x2, everywhere = data["x1"], data["x2"], data["x"]
    if kind == "expression":
        model = classes[0]()
        model.fit(x1, data["y1"], x2, data["y2"], landmarks=landmarks, **samples)
        found = model.predict(everywhere, compute_mahalanobis=True, **quiet, **few)
    else:
        model = classes[1]()
        model.fit(x1, x2, landmarks=landmarks, sync_parameters=True, **samples)
        found = model.predict(everywhere, **quiet)
    # Nothing is left for later.
    return {name: np.asarray(values) for name, values in found.items()}


def time_calls(job):
    """Seconds of the CPU and the wall of start-up, first call and warm calls; peak memory."""
    import warnings

    warnings.simplefilter("ignore")
    contender = job["contender"]
    classes = classes_of(contender)
    start = [time.process_time(), time.time() - job["began"]]

    import numpy as np

    with np.load(job["path"]) as file:
        data = dict(file)
    seconds, result, peak = [], None, None
    while len(seconds) <= CALLS and (
        len(seconds) < 2 or sum(wall for _, wall in seconds[1:]) < LONG_CALL
    ):
        result = None
        began = time.process_time(), time.perf_counter()
        result = run(classes, contender, job["task"], data)
        seconds.append([time.process_time() - began[0], time.perf_counter() - began[1]])
        peak = peak or peak_kib()
    step = max(1, len(data["x"]) // COMPARED)
    kept = {name: values for name, values in result.items() if values.dtype.kind == "f"}
    of_cells = len(data["x"])
    np.savez(job["out"], **{n: v[::step] if len(v) == of_cells else v for n, v in kept.items()})
    return {"start": start, "first": seconds[0], "warm": seconds[1:], "peak_kib": peak}


def work(job):
    """One job of a child process: its answer is the last line of the output."""
    sys.path.insert(0, str(ROOT / "scripts"))
    done = versions_of(job) if "names" in job else time_calls(job)
    print(json.dumps(done), flush=True)


# Ours: numbers, comparison, report


def generated(n, n_genes, n_landmarks, n_few):
    """States on a bent sheet in ten dimensions, log expression, landmarks, and samples."""
    import numpy as np

    from condrand.gp.neighbours import landmarks

    random = np.random.default_rng(11)
    place = random.uniform(0, 1, (2 * n, 3))
    bends = np.sin(3 * place @ random.normal(size=(3, 7)) + random.uniform(0, 6, 7))
    x = np.hstack([3 * place, bends]) + random.normal(0, 0.05, (2 * n, 10))
    samples = np.arange(n) % SAMPLES
    y = np.empty((2 * n, n_genes))
    for g in range(n_genes):
        wave = np.cos(place @ random.normal(0, 3, 3) + random.uniform(0, 6))
        rate = np.exp(random.normal(-0.5, 1) + 0.5 * wave)
        rate[n:] *= np.exp((g % 10 == 0) * np.exp(-8 * np.square(place[n:] - 0.5).sum(axis=1)))
        y[:, g] = np.log1p(random.poisson(rate * random.gamma(2, 0.5, 2 * n)))
    return {
        "x": x,
        "x1": x[:n],
        "x2": x[n:],
        "y1": y[:n],
        "y2": y[n:],
        "samples": samples,
        "landmarks": landmarks(x, n_landmarks),
        "few_landmarks": landmarks(x, n_few),
    }


def of_process(command, environment, threads):
    """The answer of a child process, on as many cores as it has threads."""
    environment = {k: v for k, v in environment.items() if not k.startswith("PYTHON")}
    for name in ("OMP", "OPENBLAS", "MKL", "NUMBA"):
        environment[f"{name}_NUM_THREADS"] = str(threads)

    def keep_to_cores():
        # XLA has no limit of its own that holds.
        if hasattr(os, "sched_setaffinity"):
            os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])

    done = subprocess.run(
        command, env=environment, preexec_fn=keep_to_cores, capture_output=True, text=True
    )
    if done.returncode:
        raise SystemExit(f"{command} failed:\n{done.stderr[-3000:]}")
    return json.loads(done.stdout.splitlines()[-1])


class Runner:
    """Runs jobs in child processes."""

    def __init__(self, kompots_python, folder):
        self.pythons = {
            OURS: sys.executable,
            SPARING: sys.executable,
            KOMPOT: str(kompots_python),
        }
        self.folder = folder

    def __call__(self, contender, threads, **job):
        """The answer of a job."""
        with tempfile.TemporaryDirectory(dir=self.folder) as empty:
            environment = {**os.environ, "CONDRAND_CACHE": empty, "JAX_PLATFORMS": "cpu"}
            job = json.dumps({"contender": contender, "began": time.time(), **job})
            command = [self.pythons[contender], __file__, "--work", job]
            return of_process(command, environment, threads)

    def timed(self, contender, threads, task, path):
        """Figures of a contender, and its results."""
        import numpy as np

        out = str(self.folder / "out.npz")
        answer = self(contender, threads, task=task, path=str(path), out=out)
        start, first = answer["start"], answer["first"]
        warm = [median(seconds) for seconds in zip(*answer["warm"], strict=True)]
        with np.load(out) as file:
            results = dict(file)
        return {
            "start": dict(zip(("CPU", "wall"), start, strict=True)),
            "first": {
                name: a + b for name, a, b in zip(("CPU", "wall"), start, first, strict=True)
            },
            "warm": dict(zip(("CPU", "wall"), warm, strict=True)),
            "peak": answer["peak_kib"] / 1024,
        }, results


def report(found):
    """Print the seconds and memory of the contenders, and ratios."""
    columns = [(part, clock) for part in ("start", "first", "warm") for clock in ("CPU", "wall")]
    heads = [f"{part} {clock}" for part, clock in columns]
    print(f"  {'':<21}" + "".join(f"{head:>12}" for head in heads) + f"{'peak MiB':>12}")
    for name, row in found.items():
        seconds = [f"{row[part][clock]:>12.2f}" for part, clock in columns]
        print(f"  {name:<21}{''.join(seconds)}{row['peak']:>12.0f}", flush=True)
    if KOMPOT in found:
        ratios = [ratio(found, part, clock) for part, clock in columns]
        cells = [f"{x:>12.1f}" for x in [*ratios, ratio(found, "peak")]]
        print(f"  {'ratio':<21}{''.join(cells)}", flush=True)


def ratio(found, part, clock=None):
    """kompot's figure over ours."""
    theirs, ours = found[KOMPOT][part], found[OURS][part]
    return theirs / ours if clock is None else theirs[clock] / ours[clock]


def agreement(ours, theirs):
    """Print the largest difference of each result, relative to its largest value."""
    import numpy as np

    texts = []
    for name in sorted(ours.keys() & theirs.keys()):
        largest = np.abs(theirs[name]).max()
        apart = np.abs(ours[name] - theirs[name].reshape(ours[name].shape)).max() / largest
        texts.append(f"{name} {apart:.1e}")
    print("  differences: " + ", ".join(texts), flush=True)


def benchmark(shape, tasks, names, threads, runner):
    """Run and print all tasks on cells of one number; give their figures."""
    import numpy as np

    path = runner.folder / "numbers.npz"
    data = generated(*shape)
    np.savez(path, **data)
    print(f"\n2 x {shape[0]:,} cells, {data['x'].shape[1]} dimensions, {shape[1]:,} genes")
    found = {}
    for task in tasks:
        few = task == "expression-samples"
        of_task = len(data["few_landmarks" if few else "landmarks"])
        for n_threads in threads:
            cores = "one core" if n_threads == 1 else f"{n_threads} cores"
            title = f"{TITLES[task]}, 2 x {shape[0]:,} cells, {of_task} landmarks, {cores}"
            print(f"\n{title}", flush=True)
            figures, results = {}, {}
            sparing = [SPARING] if task.startswith("expression") else []
            for name in names + sparing:
                figures[name], results[name] = runner.timed(name, n_threads, task, path)
            report(figures)
            if KOMPOT in names:
                agreement(results[OURS], results[KOMPOT])
            found[title] = figures
    return found


def judge(found):
    """Print the ratios that have an aim."""
    print("\nAims (kompot / condrand); of seconds, both those of the wall and of the CPU reach it")
    words = {"first": "first call with start-up", "warm": "warm call", "peak": "peak memory"}
    for title, figures in found.items():
        print(f"  {title}")
        for part, aim in AIMS.items():
            if part == "peak":
                ratios = {"": ratio(figures, part)}
            else:
                ratios = {clock: ratio(figures, part, clock) for clock in ("wall", "CPU")}
            text = ", ".join(f"{clock} {value:.1f}".strip() for clock, value in ratios.items())
            met = "met" if min(ratios.values()) >= aim else "MISSED"
            print(f"    {words[part]:<28}{text:<26}aim {aim:<5g}{met}")


def parse():
    """The command's options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--peers", default=KOMPOT, choices=[KOMPOT, "none"])
    parser.add_argument("--cells", type=int, default=CELLS, help="of each condition")
    parser.add_argument("--genes", type=int, default=GENES)
    parser.add_argument("--landmarks", type=int, default=LANDMARKS)
    parser.add_argument("--few-landmarks", type=int, default=FEW_LANDMARKS, help="with samples")
    parser.add_argument("--tasks", default=",".join(TITLES), help="some of them")
    parser.add_argument("--threads", default="1,2", help="numbers of cores")
    parser.add_argument("--large", action="store_true", help=f"also 2 x {MANY_CELLS:,} cells")
    return with_peers(parser)


def main():
    given = parse()
    if given.work:
        work(json.loads(given.work))
        return
    sys.path.insert(0, str(ROOT / "scripts"))
    tasks = given.tasks.split(",")
    unknown = set(tasks) - TITLES.keys()
    if unknown:
        raise SystemExit(f"--tasks: there is no {', '.join(sorted(unknown))}")
    if given.peers == KOMPOT:
        refuse_without(given.python, "benchmark-kompot")
    names = [OURS] if given.peers == "none" else [OURS, KOMPOT]
    threads = [int(n) for n in given.threads.split(",")]
    found = {}
    with tempfile.TemporaryDirectory() as folder:
        runner = Runner(given.python.absolute(), Path(folder))
        if KOMPOT in names:
            packages = [KOMPOT, "mellon", "jax", "numpy"]
            versions = runner(KOMPOT, 1, names=packages)
            print(", ".join(f"{name} {versions[name]}" for name in packages))
        for cells in [given.cells] + [MANY_CELLS] * given.large:
            shape = cells, given.genes, given.landmarks, given.few_landmarks
            found |= benchmark(shape, tasks, names, threads, runner)
    if KOMPOT in names:
        judge(found)
    if given.json:
        given.json.write_text(json.dumps(found, indent=1))


if __name__ == "__main__":
    main()
