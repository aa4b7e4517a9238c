"""Benchmark of the crt engine against the same test written plainly with scientific libraries.

    make benchmark            (or: python tests/benchmarks/crt.py [--cells 100000] [--targets 8])

Both sides read one simulated file, in one process, on one core, with compiled code warm. Times
are CPU seconds per target; machines are noisy, so quote the ratios. The peer is the textbook
recipe: scikit-learn's logistic regression; independent Bernoulli draws by binomial counts and
distinct indices, or numpy's choice without replacement in each stratum; statistics from
sparse-matrix sums; one skew-normal fit per program. Last, the null of NTC pseudo-genes.
"""

import argparse
import json
import logging
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
for variable in (
    "OMP_NUM_THREADS",
    "OPENBLAS_NUM_THREADS",
    "MKL_NUM_THREADS",
    "NUMBA_NUM_THREADS",
):
    os.environ[variable] = "1"

import h5py  # noqa: E402 - threads are capped first
import numpy as np  # noqa: E402
import scipy.sparse as sp  # noqa: E402
from anndata.io import read_elem  # noqa: E402
from scipy import stats  # noqa: E402
from sklearn.linear_model import LogisticRegression  # noqa: E402

from condrand.config import complete_config, needs_of, outcomes_of  # noqa: E402
from condrand.engines import crt_steps  # noqa: E402
from condrand.io.outcome import read_outcome, read_treated  # noqa: E402
from condrand.normalize import normalize  # noqa: E402
from condrand.nulls import ntc_empirical  # noqa: E402
from condrand.nulls.calibrate import calibrate  # noqa: E402
from condrand.nulls.summary import NullSummary  # noqa: E402
from condrand.propensity import fit_propensities, in_lanes  # noqa: E402
from condrand.samplers import SAMPLERS  # noqa: E402
from condrand.samplers.strata import STRATIFY, make_strata  # noqa: E402
from condrand.screen import load_screen  # noqa: E402
from condrand.simulate import simulate_screen  # noqa: E402
from condrand.statistics import STATISTICS, rank  # noqa: E402
from condrand.units import TARGET  # noqa: E402
from condrand.warm import warm  # noqa: E402

# What a shard job does between its process start and its first resample.
START_OF_A_SHARD = """
import logging, sys, time
sys.path.insert(0, sys.argv[1])
from condrand.engines import crt_steps
from condrand.samplers.strata import STRATIFY
class Clock(logging.Handler):
    def emit(self, record):
        if "computing starts" in record.msg:
            print(time.time(), flush=True)
            sys.exit()
crt_steps.log.addHandler(Clock())
crt_steps.log.setLevel(logging.INFO)
draws = {"sampler": "bernoulli_index", "stratify": dict(STRATIFY)}
crt_steps.resample_shard(*sys.argv[2:5], (0, 1), 1023, 1, 1, draws)
"""


class Stopwatch:
    """CPU seconds by stage, summed over targets."""

    def __init__(self):
        self.seconds: dict[str, float] = {}

    def __call__(self, stage, work, *args):
        began = time.process_time()
        result = work(*args)
        self.seconds[stage] = self.seconds.get(stage, 0.0) + time.process_time() - began
        return result


def make_input(folder, n_cells, n_programs, n_covariates):
    """A simulated screen whose targets are carried by about 0.5 % of the cells each."""
    path = folder / "screen_as_given.h5ad"
    simulate_screen(
        path,
        n_cells=n_cells,
        n_programs=n_programs,
        n_targets=850,
        guides_per_target=1,
        n_covariates=n_covariates,
        near_zero_fraction=0.0,
        seed=1,
    )
    import yaml

    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    config = complete_config(
        {"screens": {"s": {"path": str(path)}}, "analyses": {"crt": {"engine": "crt"}}},
        schema,
        "benchmark",
    )
    screen, outcome = folder / "screen.h5ad", folder / "outcome.h5ad"
    settings = config["screens"]["s"]
    targets = folder / "targets.tsv"
    outcomes = outcomes_of(config, "s")
    needs = {**needs_of(config, "s"), "batch_keys": ["batch"]}
    load_screen(path, settings, outcomes, needs, 1, screen, targets)
    section = config["analyses"]["crt"]["outcome"]
    normalize(screen, outcome, section, batch_key="batch", by_burden=True)
    return screen, outcome


def near_half_percent(screen, n_cells, n_targets):
    """Names of the targets whose number of treated cells is closest to 0.5 % of all."""
    with h5py.File(screen) as file:
        units = read_elem(file["uns/units"])
        sizes = np.diff(file["obsm/treated/indptr"][:])
    order = np.argsort(np.abs(sizes - 0.005 * n_cells), kind="stable")
    return [units["name"].iloc[i] for i in order if units["kind"].iloc[i] == TARGET][:n_targets]


def ours(outcome, scores, names, treated, resamples, sampler, statistic, watch):
    """p values (raw, skew-normal) of our engine, stage by stage."""
    finalize = STATISTICS[statistic]
    covariates = in_lanes(outcome.design)
    model = watch("propensity", fit_propensities, covariates, outcome.n_cells, treated)
    raw, smooth = [], []

    def resampled(g, cells):
        p = model.predict(g, covariates, outcome.n_cells)
        observed = finalize.values(scores, scores.observed(cells))[0]
        centre, scale = finalize.null_units(scores, scores.moments(p))
        strata = None
        if SAMPLERS[sampler].needs_strata:
            strata = make_strata(cells, p, outcome.batch, outcome.burden, STRATIFY)
        draw = SAMPLERS[sampler].of(1, TARGET, names[g], p, strata)
        summary = NullSummary.empty(len(outcome.features))
        null = finalize.values(scores, draw.set_sums(scores, 0, resamples))
        summary.add_resamples(null, observed, centre, scale)
        return summary, observed, centre, scale

    for g, cells in enumerate(treated):
        parts = watch("resampling", resampled, g, cells)
        columns = watch("skew-normal", calibrate, *parts, "two_sided", "skew_normal")
        raw.append(columns["p_empirical"])
        smooth.append(columns["p_skew_normal"])
    return np.array(raw), np.array(smooth)


def peer(outcome, tested, ranks, treated, resamples, sampler, statistic, watch):
    """The same from the textbook recipe."""
    design, n_cells = outcome.design, outcome.n_cells
    with_one = np.column_stack([np.ones(n_cells), design])
    inverse = np.linalg.inv(with_one.T @ with_one)
    cross = with_one.T @ tested
    random = np.random.default_rng(7)
    burden = outcome.burden
    raw, smooth = [], []

    def fit(cells):
        x = np.zeros(n_cells)
        x[cells] = 1
        return LogisticRegression(C=1.0, max_iter=200).fit(design, x).predict_proba(design)[:, 1]

    def sample_bernoulli(p, cells):
        counts = random.binomial(resamples, p)
        rows = np.repeat(np.arange(n_cells), counts)
        drawn = [random.choice(resamples, m, replace=False) for m in counts if m]
        ones = np.ones(rows.size)
        return sp.csr_matrix((ones, (np.concatenate(drawn), rows)), shape=(resamples, n_cells))

    def bins(values, n):
        edges = np.unique(np.quantile(values, np.linspace(0, 1, n + 1)))
        return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, max(0, edges.size - 2))

    def sample_strata(p, cells):
        code = (outcome.batch * 20 + bins(p, 20)) * 1000 + np.unique(burden, return_inverse=True)[
            1
        ]
        order = np.argsort(code, kind="stable")
        x = np.zeros(n_cells, bool)
        x[cells] = True
        rows, columns = [], []
        for members in np.split(order, np.flatnonzero(np.diff(code[order])) + 1):
            m = int(x[members].sum())
            for b in range(resamples if m else 0):
                rows.append(np.full(m, b))
                columns.append(random.choice(members, m, replace=False))
        at = (np.concatenate(rows), np.concatenate(columns))
        return sp.csr_matrix((np.ones(at[0].size), at), shape=(resamples, n_cells))

    def coefficients(x):
        v, s, n = x @ with_one, x @ tested, np.asarray(x.sum(axis=1))
        t = v @ inverse
        return (s - t @ cross) / (n - np.sum(t * v, axis=1, keepdims=True))

    def rank_biserial(x):
        n = np.asarray(x.sum(axis=1))
        u = x @ ranks - n * (n + 1) / 2
        return 2 * u / (n * (n_cells - n)) - 1

    def skew_normal(null, observed):
        p = []
        for k in range(null.shape[1]):
            z, at = null[:, k], observed[k]
            g = np.clip(stats.skew(z), -0.99, 0.99)
            r = np.sign(g) * (2 * abs(g) / (4 - np.pi)) ** (1 / 3)
            d = r / np.sqrt(2 / np.pi) / np.sqrt(1 + r**2)
            w = z.std() / np.sqrt(1 - 2 * d**2 / np.pi)
            curve = stats.skewnorm(d / np.sqrt(1 - d**2), z.mean() - w * d * np.sqrt(2 / np.pi), w)
            p.append(curve.sf(abs(at)) + curve.cdf(-abs(at)))
        return np.array(p)

    sample = sample_strata if sampler == "stratified_perm" else sample_bernoulli
    statistics = rank_biserial if statistic == "rank" else coefficients
    for cells in treated:
        p = watch("propensity", fit, cells)
        x = watch("resampling", sample, p, cells)
        null = watch("resampling", statistics, x)
        ones = np.ones(cells.size)
        indicator = sp.csr_matrix((ones, (np.zeros(cells.size, int), cells)), shape=(1, n_cells))
        observed = statistics(indicator)[0]
        raw.append((1 + np.sum(np.abs(null) >= np.abs(observed), axis=0)) / (resamples + 1))
        smooth.append(watch("skew-normal", skew_normal, null, observed))
    return np.array(raw), np.array(smooth)


def ntc_null_seconds(outcome, screen, n_units):
    """CPU seconds of the null of NTC pseudo-genes for every target of the screen."""
    with h5py.File(screen) as file:
        units = read_elem(file["uns/units"])
    pairs = list(zip(units["kind"], units["name"], strict=True))
    carriers = dict(zip(pairs, read_treated(screen, pairs), strict=True))
    guides = [name for kind, name in pairs if kind != TARGET]
    began = time.process_time()
    drawn = ntc_empirical.sample_ntc_pseudogenes_with_replacement(guides, 6, n_units, 0)
    cells = {name: carriers[kind, name] for kind, name in pairs if kind != TARGET}
    null = ntc_empirical.unit_statistics(
        outcome.scores, ntc_empirical.cells_of_units(drawn, cells)
    )
    genes = ntc_empirical.unit_statistics(
        outcome.scores, [carriers[pair] for pair in pairs if pair[0] == TARGET]
    )
    ntc_empirical.empirical_pvals_vs_ntc(*genes, *null)
    return time.process_time() - began, len(genes[0])


def seconds_to_first_resample(folder, screen, outcome, names):
    """Wall seconds from the start of a shard's process to its first resample, cache warm."""
    propensity = folder / "propensity.h5"
    settings = {
        "propensity": {"inverse_penalty": 1.0, "clip": 1e-6},
        "sampler": "bernoulli_index",
        "stratify": dict(STRATIFY),
    }
    targets = folder / "targets.tsv"
    crt_steps.prepare_batch(screen, [targets], outcome, propensity, 0, names, "none", settings)
    command = [sys.executable, "-c", START_OF_A_SHARD, ROOT / "scripts", outcome, propensity]
    took = []
    for _ in range(3):
        began = time.time()
        done = subprocess.run(
            [str(word) for word in [*command, folder / "shard.h5"]],
            capture_output=True,
            text=True,
            check=False,
        )
        took.append(float(done.stdout) - began)
    return min(took)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cells", type=int, default=100_000)
    parser.add_argument("--programs", type=int, default=70)
    parser.add_argument("--covariates", type=int, default=12)
    parser.add_argument("--targets", type=int, default=8)
    parser.add_argument("--resamples", type=int, default=1023)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        warm(folder / "kernels.txt")
        screen, path = make_input(folder, options.cells, options.programs, options.covariates)
        outcome = read_outcome(path)
        names = near_half_percent(screen, options.cells, options.targets)
        treated = read_treated(screen, [(TARGET, name) for name in names])
        # The CLR less its regression: the same OLS, and as good a thing to rank.
        tested = outcome.scores.rows[:, : len(outcome.features)].copy()
        began = time.process_time()
        ranked = rank.score(tested, None)
        rank_seconds = time.process_time() - began
        ranks = stats.rankdata(tested, axis=0)
        start = seconds_to_first_resample(folder, screen, path, names)
        null_seconds, n_genes = ntc_null_seconds(outcome, screen, 5000)
        sizes = [cells.size for cells in treated]
        print(
            f"{options.cells:,} cells x {options.programs} programs x {outcome.design.shape[1]} "
            f"covariates; {len(names)} targets of {min(sizes)} to {max(sizes)} cells; "
            f"B = {options.resamples:,}; one core; CPU ms per target"
        )
        figures = {}
        for sampler in SAMPLERS:
            for statistic, scores in (("ols", outcome.scores), ("rank", ranked)):
                path_name = f"{sampler} {statistic}"
                mine, theirs = Stopwatch(), Stopwatch()
                choice = (treated, options.resamples, sampler, statistic)
                our = ours(outcome, scores, names, *choice, mine)
                other = peer(outcome, tested, ranks, *choice, theirs)
                figures[path_name] = report(path_name, mine, theirs, len(names))
                print(agreement(*our, *other, options.resamples))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    print(f"\nranks of all cells, once: {rank_seconds:.2f} s")
    print(f"NTC null, 5,000 pseudo-genes, {n_genes} targets: {null_seconds:.2f} s in all")
    print(f"process peak {peak:.0f} MiB, both sides")
    print(f"shard job: {start:.2f} s from process start to its first resample (cache warm)")
    if options.json:
        options.json.write_text(json.dumps(figures, indent=1))


def report(name, mine, theirs, n_targets):
    """Print the stages of one path side by side; give them in milliseconds per target."""
    print(f"\n{name:<30}{'condrand':>10}{'plain':>10}{'ratio':>8}")
    figures = {}
    for stage in [*mine.seconds, "all"]:
        a, b = (
            1000
            * (sum(watch.seconds.values()) if stage == "all" else watch.seconds[stage])
            / n_targets
            for watch in (mine, theirs)
        )
        figures[stage] = {"condrand_ms": a, "plain_ms": b}
        print(f"  {stage:<28}{a:>10.1f}{b:>10.1f}{b / a:>7.0f}x")
    return figures


def agreement(our_raw, our_smooth, peer_raw, peer_smooth, resamples):
    """How far the p values of the two sides are apart, in words."""
    se = np.sqrt(2 * our_raw * (1 - our_raw) / resamples)
    far = np.abs(our_raw - peer_raw) / np.maximum(se, 1 / resamples)
    both = (our_smooth > 1e-4) & (our_smooth < 0.5)
    ratio = np.exp(np.abs(np.log(our_smooth[both] / peer_smooth[both])))
    return (
        f"  agreement over {far.size} tests: raw p differ by {far.mean():.2f} standard errors of "
        f"their resampling noise on average (0.80 expected), at most {far.max():.1f}; skew-normal "
        f"p by a factor {np.median(ratio):.2f} (median), {ratio.max():.2f} (largest)"
    )


if __name__ == "__main__":
    main()
