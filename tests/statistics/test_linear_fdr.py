"""voom to decided tests on negative binomial counts of known truth, and analysis of variance.

Counts are as in the paper on voom (Law 2014): libraries of unequal size, a biological coefficient
of variation that falls with the mean to 0.2, and a scatter of the dispersions about that trend as
of 40 degrees of freedom. Three samples against three. voom's trend stands for both, so that its p
values are close to uniform, but not exactly.
"""

from dataclasses import dataclass

import numpy as np
import pandas as pd
import pytest
from scipy import stats

import condrand as cr
from condrand.fdr import benjamini_hochberg

pytestmark = pytest.mark.slow

N_SETS, N_GENES, FDR = 50, 5_000, 0.05
GROUPS = pd.Series(list("aaabbb"), [f"s{i}" for i in range(6)], name="group")
# Smallest and largest library of a data set.
LIBRARIES = {"fourfold": (2e6, 8e6), "twentyfold": (1e6, 2e7)}


@dataclass(frozen=True)
class DataSet:
    """One data set: p values, calls and the true signs of the features that the filter left.

    `plain` is the same way without moderation.
    """

    p: np.ndarray
    calls: np.ndarray
    plain: np.ndarray
    truth: np.ndarray

    @property
    def false(self):
        """Share of the discoveries that are none, or of the wrong sign."""
        found = self.calls != 0
        return np.sum(found & (self.calls != self.truth)) / max(1, found.sum())

    def power(self, calls):
        """Share of the effects, among features that the filter left, called with their sign."""
        return np.mean(calls[self.truth != 0] == self.truth[self.truth != 0])


def simulated(seed, share, libraries):
    """Counts and the sign of each gene's log fold change; `share` of the genes have one."""
    random = np.random.default_rng([9, seed])
    base = np.exp(random.normal(0, 2, N_GENES))
    size = np.exp(random.normal(0, 0.4, N_GENES))  # of log2 fold changes, with a median of 1
    truth = np.zeros(N_GENES, np.int64)
    changed = random.choice(N_GENES, round(share * N_GENES), replace=False)
    truth[changed] = random.choice([-1, 1], changed.size)
    smallest, largest = np.log(LIBRARIES[libraries])
    # The extremes are in every data set, in any of the groups.
    between = random.uniform(smallest, largest, GROUPS.size - 2)
    library = np.exp(random.permutation([smallest, largest, *between]))
    fold = np.exp2(truth[:, None] * size[:, None] * (GROUPS == "b").to_numpy())
    rate = base[:, None] * fold
    rate = rate / rate.sum(axis=0) * library
    variation = 0.2 + 1 / np.sqrt(rate)
    scatter = 40 / random.chisquare(40, (N_GENES, 1))
    shape = 1 / (variation**2 * scatter)
    counts = random.poisson(rate * random.gamma(shape, 1 / shape))
    return pd.DataFrame(counts, [f"g{i}" for i in range(N_GENES)], GROUPS.index), truth


def analysed(seed, share, libraries, filtering):
    """The whole way from counts to calls."""
    counts, truth = simulated(seed, share, libraries)
    kept = filtering(counts, GROUPS)
    counts, truth = counts[kept], truth[kept.to_numpy()]
    factors = cr.calc_norm_factors(counts)
    design = cr.model_matrix("~ 0 + group", GROUPS.to_frame(), strip_prefix=True)
    fit = cr.lm_fit(cr.voom(counts, design, norm_factors=factors, threads=1), threads=1)
    fit = cr.e_bayes(cr.contrasts_fit(fit, {"b_a": "b - a"}, threads=1))
    calls = cr.decide_tests(fit, p_value=FDR)["b_a"].to_numpy()
    t = fit.coefficients[:, 0] / fit.stdev_unscaled[:, 0] / fit.sigma
    p = 2 * stats.t.sf(np.abs(t), fit.df_residual)
    plain = np.sign(t) * (benjamini_hochberg(p) < FDR)
    return DataSet(np.exp(fit.log_p[:, 0]), calls, plain, truth)


def mean_and_error(values):
    values = np.asarray(values, float)
    return values.mean(), values.std(ddof=1) / np.sqrt(values.size)


@pytest.mark.parametrize(
    ("libraries", "filtering"),
    [("fourfold", cr.filter_by_expr), ("twentyfold", cr.filter_by_cpm)],
)
def test_the_false_discovery_rate_of_voom_holds_and_effects_are_found(tools, libraries, filtering):
    made = tools.of_each(lambda seed: analysed(seed, 0.1, libraries, filtering), range(N_SETS))
    false, of_false = mean_and_error([one.false for one in made])
    power, of_power = mean_and_error([one.power(one.calls) for one in made])
    plain, of_plain = mean_and_error([one.power(one.plain) for one in made])
    kept = np.mean([one.p.size for one in made])
    print(
        f"\nvoom, 3 against 3, libraries {libraries}, {N_SETS} sets, {kept:.0f} features left: "
        f"false discovery rate {false:.4f} +- {of_false:.4f} "
        f"(95 % {false - 1.96 * of_false:.4f} to {false + 1.96 * of_false:.4f}), "
        f"power {power:.3f} +- {of_power:.3f} (without moderation {plain:.3f} +- {of_plain:.3f}), "
        f"calls {np.mean([np.count_nonzero(one.calls) for one in made]):.0f}"
    )
    assert false - 2 * of_false <= FDR
    # What moderation is for.
    assert power > 2 * plain
    assert power > 0.25


@pytest.mark.parametrize("libraries", LIBRARIES)
def test_without_effects_voom_finds_little_and_rejects_at_its_level(tools, libraries):
    made = tools.of_each(
        lambda seed: analysed(1_000 + seed, 0.0, libraries, cr.filter_by_expr), range(N_SETS)
    )
    any_call = sum(np.any(one.calls) for one in made)
    print(f"\nvoom, no effects, libraries {libraries}, {N_SETS} sets: {any_call} with a discovery")
    for level in (0.05, 0.01, 0.001):
        rate, error = mean_and_error([np.mean(one.p < level) for one in made])
        print(f"p < {level}: {rate:.5f} +- {error:.5f} ({rate / level:.3f} of nominal)")
        if level == 0.01:
            assert 0.8 * level - 2 * error <= rate <= 1.2 * level + 2 * error
    # Without effects the false discovery rate is the share of sets with any discovery.
    assert stats.binomtest(int(any_call), N_SETS, FDR, alternative="greater").pvalue > 0.01


@pytest.mark.parametrize("sizes", [(4, 4, 4), (3, 9), (5, 2, 7, 10)])
def test_p_values_of_analysis_of_variance_are_uniform_for_normal_values(sizes):
    n_features = 200_000
    random = np.random.default_rng(sizes)
    scale = np.exp(random.normal(0, 2, (n_features, 1)))
    values = random.normal(random.normal(0, 5, (n_features, 1)), scale, (n_features, sum(sizes)))
    groups = np.repeat([f"group{k}" for k in range(len(sizes))], sizes)
    p = cr.run_anova(pd.DataFrame(values), groups)["pval"].to_numpy()
    distance = stats.kstest(p, "uniform")
    print(
        f"\nanova of {sizes}: Kolmogorov-Smirnov {distance.statistic:.5f}, {distance.pvalue:.3f}"
    )
    assert distance.pvalue > 0.001
    for level in (0.05, 0.01, 0.001, 1e-4):
        assert stats.binomtest(int(np.sum(p < level)), p.size, level).pvalue > 0.001
