"""How right p values are in the tail, by method, and what they cost.

    make benchmark-tails      (or: python tests/benchmarks/tails.py accuracy null power cost)

accuracy
    Multiplicative error of a p value, ``exp|log(p / p_true)|``, of the empirical p and the
    skew-normal fit of 1,023 resamples, the saddlepoint, and importance resampling with 255
    draws of each tail. True p values are those of 10,000,000 plain resamples, and where fewer
    than 2,500 of these reach the observed value, of 20,000 tilted draws, whose agreement with
    the plain ones is shown. Observed treated sets are resamples too, picked by their p value.
null
    Rejection rate over nominal of screens without effects, under confounding, by the default.
power
    Discoveries and realized FDR where resamples alone find nothing.
cost
    CPU seconds of a target with 100,000 cells x 70 features, on one core.

Real screens are read where ``CONDRAND_DATA`` holds them.
"""

import argparse
import os
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "scripts"))
for variable in ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"):
    os.environ.setdefault(variable, "1")

import numpy as np  # noqa: E402 - threads are capped first
import pandas as pd  # noqa: E402
import yaml  # noqa: E402

from condrand.comparison import Comparisons  # noqa: E402
from condrand.config import complete_config, needs_of, outcomes_of, refine_stages  # noqa: E402
from condrand.covariates import orthonormal_basis, standardize  # noqa: E402
from condrand.engines import crt, crt_refine  # noqa: E402
from condrand.fdr import benjamini_hochberg  # noqa: E402
from condrand.io.outcome import Outcome, read_outcome, read_treated  # noqa: E402
from condrand.normalize import normalize  # noqa: E402
from condrand.nulls import importance, saddlepoint  # noqa: E402
from condrand.nulls.calibrate import calibrate  # noqa: E402
from condrand.nulls.summary import NullSummary  # noqa: E402
from condrand.propensity import fit_propensities, in_lanes  # noqa: E402
from condrand.samplers.bernoulli import BernoulliSampler  # noqa: E402
from condrand.screen import load_screen  # noqa: E402
from condrand.statistics import STATISTICS  # noqa: E402

TREATED = (5, 12, 25, 50, 500)
DECADES = (-1, -2, -3, -4, -5, -6)
TAIL = "two_sided"
BLOCK, B, TILTED = 1024, 1023, 255
# Streams: of the true p values, of what is observed, and of each method.
TRUTH, OBSERVED, METHOD = 1, 2, 3
# Plain resamples beyond the observed value that make a true p value.
ENOUGH = 2_500
METHODS = ("empirical", "skew_normal", "saddlepoint", "importance")


@dataclass(frozen=True)
class Null:
    """One unit's null: who may be treated, and of which features."""

    screen: str
    statistic: str
    scores: object
    p: np.ndarray
    unit: str
    expected: int
    features: list[str]
    skewness: np.ndarray

    def values(self, seed, block):
        """Resampled statistics of a block."""
        draw = BernoulliSampler.of(seed, "target", self.unit, self.p)
        return STATISTICS[self.statistic].values(
            self.scores, draw.set_sums(self.scores, block, BLOCK)
        )

    def treated(self, seed, at):
        """Treated cells of a resample."""
        draw = BernoulliSampler.of(seed, "target", self.unit, self.p)
        return np.flatnonzero(draw.treated(at // BLOCK, BLOCK)[at % BLOCK])


# Screens


def confounded(n_cells, seed):
    """Covariates, names of features, and outcomes of several shapes that depend on the first."""
    random = np.random.default_rng(seed)
    covariates = random.normal(size=(n_cells, 2))
    batch = random.integers(0, 3, n_cells)
    design = np.column_stack([covariates, batch[:, None] == [1, 2]]).astype(float)
    shift = covariates @ [0.5, -0.3] + 0.3 * (batch == 1)
    noise = {
        "normal": random.normal(size=n_cells),
        "exponential": random.exponential(size=n_cells),
        "lognormal": random.lognormal(0.0, 1.0, n_cells),
        "rare": (random.random(n_cells) < 0.03) * random.exponential(3.0, n_cells),
    }
    outcome = np.column_stack([shift + part for part in noise.values()])
    counts = random.poisson(0.05 * np.exp(shift))
    values = np.column_stack([outcome, np.log1p(counts)])
    return design, list(noise) + ["log counts"], values


def propensities(design, expected, strength=1.0):
    """Logistic in the covariates, with so many treated cells expected."""
    score = strength * (design[:, 0] * 0.7 + design[:, 1] * 0.5 + design[:, 2] * 0.4)
    low, high = -30.0, 10.0
    for _ in range(80):
        middle = 0.5 * (low + high)
        low, high = (
            (middle, high)
            if np.sum(1 / (1 + np.exp(-score - middle))) < expected
            else (low, middle)
        )
    return np.clip(1 / (1 + np.exp(-score - low)), 1e-6, 1 - 1e-6)


def scored(design, values, statistic):
    """Scores of an outcome, and the skewness of its residuals."""
    basis = orthonormal_basis(standardize(design))
    residual = values - basis @ (basis.T @ values)
    residual -= residual.mean(axis=0)
    skewness = np.mean(residual**3, axis=0) / np.mean(residual**2, axis=0) ** 1.5
    tested = residual if statistic == "rank" else values
    return STATISTICS[statistic].score(tested, basis), skewness


def simulated_nulls(statistic, n_cells, seeds):
    for seed in seeds:
        design, features, values = confounded(n_cells, seed)
        scores, skewness = scored(design, values, statistic)
        for expected in TREATED:
            p = propensities(design, expected)
            yield Null(
                f"simulated, {n_cells:,} cells",
                statistic,
                scores,
                p,
                f"{seed}/{expected}",
                expected,
                features,
                skewness,
            )


def stored(example, folder):
    """The outcome of an example's screen, and its targets' treated cells."""
    schema = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
    given = yaml.safe_load((ROOT / f"config/examples/{example}.yaml").read_text())
    config = complete_config(given, schema, example)
    (screen,) = config["screens"]
    section = config["analyses"]["crt"]["outcome"]
    path, targets = folder / f"{screen}.h5ad", folder / f"{screen}.tsv"
    settings, needs = config["screens"][screen], needs_of(config, screen)
    load_screen(settings["path"], settings, outcomes_of(config, screen), needs, 1, path, targets)
    outcome = folder / f"{screen}.outcome.h5ad"
    normalize(path, outcome, section)
    names = pd.read_csv(targets, sep="\t").query("kind == 'target' and status == 'kept'")
    names = names["target"].tolist()
    treated = read_treated(path, [("target", name) for name in names])
    return read_outcome(outcome), dict(zip(names, treated, strict=True))


def real_nulls(example, folder, n_targets, n_features):
    """Some targets and features of an example, evenly spread over their sizes."""
    outcome, treated = stored(example, folder)
    by_size = sorted(
        (name for name in treated if treated[name].size), key=lambda n: treated[n].size
    )
    names = [by_size[i] for i in np.linspace(0, len(by_size) - 1, n_targets).astype(int)]
    lanes = in_lanes(outcome.design)
    model = fit_propensities(lanes, outcome.n_cells, [treated[name] for name in names])
    basis = orthonormal_basis(outcome.design)
    step = max(1, len(outcome.features) // n_features)
    at = np.arange(len(outcome.features))[::step][:n_features]
    residuals = np.ascontiguousarray(outcome.scores.residuals(at).T)
    scores = STATISTICS["ols"].score(residuals, basis)
    skewness = np.mean(residuals**3, axis=0) / np.mean(residuals**2, axis=0) ** 1.5
    for g, name in enumerate(names):
        p = model.predict(g, lanes, outcome.n_cells)
        yield Null(
            example,
            "ols",
            scores,
            p,
            name,
            round(float(p.sum())),
            [outcome.features[i] for i in at],
            skewness,
        )


# Accuracy


def picked(null, n_draws):
    """Resamples of each feature whose p values are about those of the decades: (feature, at)."""
    values = np.concatenate(
        [np.abs(null.values(OBSERVED, block)) for block in range(n_draws // BLOCK)]
    )
    found = []
    for k in range(values.shape[1]):
        order = np.argsort(-values[:, k], kind="stable")
        ranks = {int(len(order) * 10.0**d * f) for d in DECADES for f in (0.8, 1.3)}
        found += [(k, int(order[rank])) for rank in sorted(ranks | {0, 1}) if rank < len(order)]
    return found


def counted(null, levels, n_draws):
    """Plain resamples at least as far from zero as each level: levels by (feature, number)."""
    counts = np.zeros(len(levels), np.int64)
    by_feature = {}
    for i, (k, level) in enumerate(levels):
        by_feature.setdefault(k, []).append((level, i))
    for block in range(n_draws // BLOCK):
        values = np.abs(null.values(TRUTH, block))
        for k, those in by_feature.items():
            # What is far below every level needs no sorting.
            column = values[:, k]
            for level, i in those:
                counts[i] += np.count_nonzero(column >= level)
    return counts


def tests_of(null, n_draws, n_observed, n_tilted):
    """One row per picked resample: its p value by every method."""
    statistic, scores, p = STATISTICS[null.statistic], null.scores, null.p
    form = statistic.linear_form(scores, p)
    centre, scale = statistic.null_units(scores, scores.moments(p))
    chosen = picked(null, n_observed)
    sets = {at: null.treated(OBSERVED, at) for _, at in chosen}
    observed = {
        at: statistic.values(scores, scores.observed(cells))[0] for at, cells in sets.items()
    }
    levels = [(k, abs(observed[at][k])) for k, at in chosen]
    counts = counted(null, levels, n_draws)
    resampled = null.values(METHOD, 0)[:B]
    narrow = importance.NarrowRows()
    rows = []
    for (k, at), count in zip(chosen, counts, strict=True):
        everything = observed[at]
        own = everything[[k]]
        summary = NullSummary.empty(1)
        column = np.ascontiguousarray(resampled[:, [k]])
        summary.add_resamples(column, own, centre[[k]], scale[[k]])
        fitted = calibrate(summary, own, centre[[k]], scale[[k]], TAIL, "skew_normal")
        tails = saddlepoint.tail_levels(own, centre[[k]], TAIL)
        points = saddlepoint.tail_points(
            scores, form, p, np.array([k]), tails, statistic.linear_form
        )
        log_p, log_error = saddlepoint.p_values(points, own)

        def tilted(seed, n, k=k, at=at, tails=tails, points=points):
            one, gap = narrow.of(scores, scores.residuals(np.array([k]))[0])
            return importance.estimate(
                one,
                gap,
                statistic,
                form.h,
                p,
                sets[at],
                float(centre[k]),
                TAIL,
                tails[0],
                points.tilt[0],
                (seed, "target", null.unit, ("tails", str(k), str(at))),
                n,
            )

        truth, few = tilted(TRUTH, n_tilted), tilted(METHOD, TILTED)
        plain = count >= ENOUGH
        rows.append(
            {
                "screen": null.screen,
                "statistic": null.statistic,
                "unit": null.unit,
                "expected": null.expected,
                "feature": null.features[k],
                "skewness": null.skewness[k],
                "log_true": np.log(count / n_draws) if plain else truth.log_p,
                "count": count,
                "expected_count": n_draws * np.exp(truth.log_p),
                "error_of_expected": truth.relative_error,
                "empirical": np.log(float(fitted["p_empirical"][0])),
                "skew_normal": -np.log(10) * float(fitted["neg_log10_p"][0]),
                "saddlepoint": log_p[0],
                "saddlepoint_error": log_error[0],
                "doubt": saddlepoint.diagnose(points, own)[0],
                "importance": few.log_p,
                "importance_error": few.relative_error,
            }
        )
    return rows


def accuracy(arguments, folder):
    nulls = []
    for statistic in arguments.statistics:
        seeds = range(arguments.replicates if statistic == "ols" else 1)
        nulls += [simulated_nulls(statistic, n, seeds) for n in arguments.cells]
    if os.environ.get("CONDRAND_DATA"):
        nulls += [
            real_nulls("papalexi_programs", folder, arguments.targets, 10),
            real_nulls("gasperini_expression", folder, arguments.targets, 12),
        ]
    rows = []
    for null in (null for part in nulls for null in part):
        began = time.monotonic()
        rows += tests_of(null, arguments.draws, arguments.observed, arguments.tilted)
        print(
            f"  {null.screen}, {null.statistic}, {null.unit}: {time.monotonic() - began:.0f} s",
            file=sys.stderr,
            flush=True,
        )
    table = pd.DataFrame(rows)
    if arguments.table:
        table.to_csv(arguments.table, sep="\t", index=False)
    report_accuracy(table)


def report_accuracy(table):
    table = table.copy()
    for doubt, part in table[table["doubt"] != ""].groupby("doubt"):
        found = multiplicative(part, "saddlepoint")
        print(
            f"The saddlepoint is not used in {len(part):,} of {len(table):,} tests ({doubt}): "
            f"error there {found.median():.3g} (median), {found.quantile(0.99):.3g} (99 %)"
        )
    table.loc[table["doubt"] != "", "saddlepoint"] = np.nan
    table["decade"] = np.clip(np.round(table["log_true"] / np.log(10)), -7, -1).astype(int)
    table["skew"] = pd.cut(
        table["skewness"].abs(), [-1, 0.5, 3, 100], labels=["< 0.5", "0.5 to 3", "> 3"]
    )
    table["treated"] = pd.cut(
        table["expected"], [0, 8, 18, 35, 120, 1e9], labels=["5", "12", "25", "50", "500"]
    )
    both = table[(table["count"] >= 25) & (table["expected_count"] > 0)]
    spread = np.sqrt(
        both["expected_count"] + (both["expected_count"] * both["error_of_expected"]) ** 2
    )
    z = (both["count"] - both["expected_count"]) / spread
    print(
        f"\nPlain resamples beyond the observed value against tilted draws: {len(z):,} tests, "
        f"standardized differences {z.mean():+.2f} (mean), {z.std():.2f} (sd), "
        f"{np.abs(z).max():.1f} (largest)"
    )
    for keys in (
        ["decade"],
        ["treated", "decade"],
        ["skew", "decade"],
        ["screen", "decade"],
        ["statistic", "decade"],
    ):
        print(f"\nError by {' and '.join(keys)}: median (99 % quantile, largest)")
        print(errors_by(table, keys).to_string())
    small = table[table["decade"] <= -2]
    lines = []
    for method in METHODS:
        found = multiplicative(small, method)
        lines.append(
            f"  {method:12s} median {found.median():.3g}, 99 % {found.quantile(0.99):.3g}, "
            f"within 2: {100 * (found <= 2).mean():.2f} %, largest {found.max():.3g}, "
            f"none: {small[method].isna().sum()}"
        )
    print(f"\nAll {len(small):,} tests with p of 0.03 and less\n" + "\n".join(lines))


def multiplicative(table, method):
    return np.exp(np.abs(table[method] - table["log_true"]).clip(upper=700.0))


def errors_by(table, keys):
    out = {}
    for at, part in table.groupby(keys, observed=True):
        cells = {"tests": len(part)}
        for method in METHODS:
            found = multiplicative(part, method).dropna()
            if found.empty:
                continue
            cells[method] = f"{found.median():.3g} ({found.quantile(0.99):.3g}, {found.max():.3g})"
        out[at if isinstance(at, tuple) else (at,)] = cells
    found = pd.DataFrame(out).T
    found.index.names = keys
    return found


# Screens without effects, and with some


def many_features(design, n_features, seed):
    """Outcomes of several shapes that depend on the covariates: float64, (n_cells, n_features)."""
    random = np.random.default_rng(seed)
    n_cells = len(design)
    shift = design @ random.normal(0, 0.4, (design.shape[1], n_features))
    shapes = [
        lambda: random.normal(size=n_cells),
        lambda: random.exponential(size=n_cells),
        lambda: random.lognormal(0.0, 1.0, n_cells),
        lambda: (random.random(n_cells) < 0.05) * random.exponential(3.0, n_cells),
    ]
    return np.column_stack([shift[:, k] + shapes[k % 4]() for k in range(n_features)])


def outcome_of(design, values, statistic="ols"):
    """An outcome as the normalize stage makes it."""
    design = standardize(design)
    scores, _ = scored(design, values, statistic)
    features = [f"program {k}" for k in range(values.shape[1])]
    return Outcome(scores, design, features, "log", "none", statistic)


def drawn_targets(design, expected, n_targets, random):
    """Treated cells of targets that the covariates move, some more than others."""
    treated = []
    for _ in range(n_targets):
        p = propensities(design, expected, random.uniform(0.5, 1.5))
        treated.append(np.flatnonzero(random.random(len(p)) < p))
    return treated


def tested_targets(outcome, treated, calibration, first, threads=1):
    """P values of targets, (n_targets, n_features): as reported, empirical, and their batch."""
    names = [str(first + g) for g in range(len(treated))]
    batch = crt.prepare(outcome, ["target"] * len(names), names, treated)
    summaries = crt.resample(outcome, batch, range(1), B, METHOD, threads)
    return refined(outcome, batch, summaries, calibration, threads), batch, summaries


def refined(outcome, batch, summaries, calibration, threads=1):
    """What tests report by a calibration, as it is by default."""
    analysis = {"null_method": "crt", "calibration": calibration, "refine": "auto"}
    analysis |= {"resamples": B, "sampler": "bernoulli_index", "statistic": outcome.statistic}
    stages, draws = refine_stages(analysis), crt_refine.Draws(METHOD, TAIL)
    return crt_refine.refined_p_values(outcome, batch, summaries, stages, draws, threads)


def smoothed(outcome, batch, summaries):
    """P values of the skew-normal fit where it passes its diagnostics, empirical elsewhere."""
    out = np.full((len(batch.names), len(outcome.features)), np.nan)
    for g, summary in enumerate(summaries):
        if not batch.notes[g]:
            columns = calibrate(
                summary, batch.observed[g], batch.centre[g], batch.scale[g], TAIL, "skew_normal"
            )
            out[g] = columns["p_value"]
    return out


def null(arguments, folder):
    levels = np.array([1e-2, 1e-3, 1e-4, 1e-5])
    rows = []
    for expected in arguments.treated:
        of_targets = {}
        began = time.monotonic()
        n_targets = -(-arguments.tests // (len(arguments.treated) * arguments.screens * 70))
        for screen in range(arguments.screens):
            random = np.random.default_rng((screen, expected))
            design, _, _ = confounded(arguments.cells[0], 100 + screen)
            values = many_features(design, 70, 200 + screen)
            outcome = outcome_of(design, values, arguments.statistics[0])
            for first in range(0, n_targets, 64):
                treated = drawn_targets(design, expected, min(64, n_targets - first), random)
                found, batch, summaries = tested_targets(
                    outcome, treated, "adaptive", first + 1_000_000 * screen
                )
                p_values = {"adaptive": found.p_value}
                if screen < arguments.compared:
                    p_values["skew_normal"] = smoothed(outcome, batch, summaries)
                    p_values["saddlepoint"] = tested_targets(
                        outcome, treated, "saddlepoint", first + 1_000_000 * screen
                    )[0].p_value
                for name, p in p_values.items():
                    tested = np.isfinite(p).all(axis=1)
                    below = (p[tested][:, :, None] <= levels).sum(axis=1)
                    of_targets.setdefault(name, []).append(below)
            print(
                f"  {expected} treated, screen {screen}: {time.monotonic() - began:.0f} s",
                file=sys.stderr,
                flush=True,
            )
        for name, parts in of_targets.items():
            below = np.concatenate(parts).astype(float)
            n = below.shape[0] * 70
            rate = below.sum(axis=0) / n
            # Tests of a target share its treated cells.
            error = np.sqrt(below.shape[0] * below.var(axis=0)) / n
            error = np.maximum(error, np.sqrt(levels / n))
            rows += [
                (expected, name, n, level, r / level, e / level, (r - level) / e)
                for level, r, e in zip(levels, rate, error, strict=True)
            ]
    table = pd.DataFrame(
        rows, columns=["treated", "method", "tests", "level", "ratio", "se", "excess_se"]
    )
    if arguments.table:
        table.to_csv(arguments.table, sep="\t", index=False)
    print(f"\nRejection rate over nominal, {arguments.statistics[0]}, standard errors by target")
    for (method, expected), part in table.groupby(["method", "treated"], sort=False):
        cells = "  ".join(
            f"{row.level:.0e}: {row.ratio:6.3f} +- {row.se:.3f} ({row.excess_se:+.1f})"
            for row in part.itertuples()
        )
        print(f"  {method:12s} {expected:4d} treated, {part['tests'].iloc[0]:,} tests   {cells}")
    default = table[(table["method"] == "adaptive") & (table["level"] == levels[0])]
    print(f"tests of the default in all: {default['tests'].sum():,}")


def power(arguments, folder):
    random = np.random.default_rng(7)
    n_cells, n_features, n_targets, n_true = 40_000, 70, 2_000, 500
    design, _, _ = confounded(n_cells, 300)
    values = many_features(design, n_features, 301)
    treated = drawn_targets(design, 40, n_targets, random)
    true = np.zeros((n_targets, n_features), bool)
    true.flat[random.choice(true.size, n_true, replace=False)] = True
    scale = values.std(axis=0)
    for g, k in zip(*np.nonzero(true), strict=True):
        # Four to seven standard errors of a mean over the treated cells.
        size = random.uniform(4, 7) * scale[k] / np.sqrt(treated[g].size)
        values[treated[g], k] += random.choice([-1, 1]) * size
    outcome = outcome_of(design, values)
    p_values = {}
    for first in range(0, n_targets, 100):
        some = treated[first : first + 100]
        found, batch, summaries = tested_targets(outcome, some, "adaptive", first, 2)
        empirical = np.stack([(1 + s.exceed[2]) / (B + 1) for s in summaries])
        p_values.setdefault("empirical, B = 1,023", []).append(empirical)
        smooth = smoothed(outcome, batch, summaries)
        p_values.setdefault("skew_normal", []).append(smooth)
        direct = tested_targets(outcome, some, "saddlepoint", first, 2)[0].p_value
        p_values.setdefault("saddlepoint", []).append(direct)
        p_values.setdefault("adaptive", []).append(found.p_value)
        print(f"  {first + len(some)} targets", file=sys.stderr, flush=True)
    print(f"\n{n_targets:,} targets x {n_features} features, {n_true} with an effect")
    for name, parts in p_values.items():
        p = np.concatenate(parts)
        q = benjamini_hochberg(p.ravel()).reshape(p.shape)
        for level in (0.05, 0.1):
            called = q <= level
            false = int((called & ~true).sum())
            share = false / max(1, called.sum())
            print(
                f"  {name:22s} FDR {level:.2f}: {called.sum():4d} discoveries, realized FDR "
                f"{share:.3f}, power {(called & true).sum() / n_true:.3f}"
            )


def saddlepoints(outcome, batch):
    """The formula alone, of all features of all targets."""
    comparisons, statistic = Comparisons(outcome), STATISTICS[outcome.statistic]
    features = np.arange(len(outcome.features))
    for g, cells in enumerate(batch.treated):
        comparison = comparisons.of(batch.kinds[g], cells)
        p = batch.model.predict(g, comparison.covariates, comparison.n_cells)
        levels = saddlepoint.tail_levels(batch.observed[g], batch.centre[g], TAIL)
        form = statistic.linear_form(comparison.scores, p)
        again = statistic.linear_form
        points = saddlepoint.tail_points(comparison.scores, form, p, features, levels, again)
        saddlepoint.p_values(points, batch.observed[g])


def cost(arguments, folder):
    random = np.random.default_rng(5)
    n_cells, n_features, n_targets = 100_000, 70, arguments.timed
    design = np.column_stack(
        [random.normal(size=(n_cells, 12)), np.eye(4)[:, 1:][random.integers(0, 4, n_cells)]]
    )
    values = many_features(design, n_features, 6)
    treated = drawn_targets(design, 500, n_targets, random)
    scale = values.std(axis=0)
    for cells in treated:
        for k in random.choice(n_features, round(0.05 * n_features), replace=False):
            values[cells, k] += 6 * scale[k] / np.sqrt(cells.size)
    outcome = outcome_of(design, values)
    names = [str(g) for g in range(n_targets)]
    kinds = ["target"] * n_targets

    def timed(work, *given):
        began = time.process_time()
        made = work(*given)
        return made, 1000 * (time.process_time() - began) / n_targets

    rounds = []
    for turn in range(arguments.rounds + 1):
        batch, fitting = timed(crt.prepare, outcome, kinds, names, treated)
        summaries, plain = timed(crt.resample, outcome, batch, range(1), B, METHOD)
        adaptive, refining = timed(refined, outcome, batch, summaries, "adaptive")
        _, formula = timed(saddlepoints, outcome, batch)
        either, both = timed(refined, outcome, batch, summaries, "saddlepoint")
        if turn:  # the first compiles
            rounds.append((fitting, plain, refining, formula, both))
    many = range(100)
    one = crt.prepare(outcome, kinds[:1], names[:1], treated[:1])
    began = time.process_time()
    crt.resample(outcome, one, many, 102_300, METHOD)
    long = 1000 * (time.process_time() - began)
    fitting, plain, refining, formula, both = np.median(rounds, axis=0)
    n_refined, n_drawn = (
        (found.p_source == "importance").sum() / n_targets for found in (adaptive, either)
    )
    print(
        f"\n{n_cells:,} cells x {n_features} features, 15 covariates, {n_targets} targets of "
        f"about 500 cells, {arguments.rounds} rounds, CPU ms of a target on one core (median)"
    )
    print(f"  propensity                        {fitting:8.1f}")
    print(f"  B = 1,023 resamples               {plain:8.1f}   1")
    print(f"  B = 102,300 resamples             {long:8.1f}   {long / plain:.2f}")
    print(f"  saddlepoint of all features       {formula:8.1f}   {formula / plain:.2f}")
    print(f"  and draws for {n_drawn:4.1f} of them         {both:8.1f}   {both / plain:.2f}")
    print(
        f"  refining {n_refined:4.1f} tests             {refining:8.1f}   {refining / plain:.2f}"
    )
    print(
        f"  adaptive in all, resamples and refining, over B = 1,023: "
        f"{(plain + refining) / plain:.2f}; with the propensity "
        f"{(fitting + plain + refining) / (fitting + plain):.2f}"
    )


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("tasks", nargs="*", default=["accuracy"], choices=list(TASKS))
    parser.add_argument("--draws", type=int, default=10_000_000, help="plain resamples")
    parser.add_argument("--tilted", type=int, default=20_000, help="tilted draws of the truth")
    parser.add_argument("--observed", type=int, default=1_000_000, help="resamples to pick from")
    parser.add_argument("--replicates", type=int, default=2)
    parser.add_argument("--cells", type=int, nargs="+", default=[5_000])
    parser.add_argument("--targets", type=int, default=4, help="of each real screen")
    parser.add_argument("--statistics", nargs="+", default=["ols", "ols_t", "rank"])
    parser.add_argument("--table", help="also write every test here, as TSV")
    parser.add_argument("--treated", type=int, nargs="+", default=[12, 25, 50, 500])
    parser.add_argument("--tests", type=int, default=10_000_000, help="null tests of the default")
    parser.add_argument("--screens", type=int, default=8, help="null screens of each size")
    parser.add_argument("--compared", type=int, default=1, help="screens by other methods too")
    parser.add_argument("--timed", type=int, default=8, help="targets whose cost is measured")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for task in arguments.tasks:
            TASKS[task](arguments, Path(folder))


TASKS = {"accuracy": accuracy, "null": null, "power": power, "cost": cost}

if __name__ == "__main__":
    main()
