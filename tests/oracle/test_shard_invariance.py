"""The same bits however the work is split, for every sampler, statistic and control."""

from itertools import product

import numpy as np
import pytest
import scipy.sparse as sp

from condrand.covariates import orthonormal_basis, standardize
from condrand.engines import crt
from condrand.engines.crt_refine import Draws, Tests, costs, refine
from condrand.io.outcome import Outcome
from condrand.normalize import OF_RESIDUALS
from condrand.nulls.summary import NullSummary
from condrand.plan import BLOCK, even_run, n_blocks
from condrand.samplers import SAMPLERS
from condrand.samplers.strata import STRATIFY
from condrand.statistics import STATISTICS
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET

N_CELLS, N_FEATURES = 240, 3
RESAMPLES = 2 * BLOCK + 52  # three blocks, the last cut short
STRATA = {**STRATIFY, "n_bins": 3, "n_burden_bins": 2}
# With the form of the outcome: residuals are dense.
CONTROLS = {
    "complement, dense": ("complement", False, "dense"),
    "complement, sparse": ("complement", False, "sparse"),
    "ntc, dense": ("ntc", False, "dense"),
    "ntc, sparse": ("ntc", False, "sparse"),
    "ntc, residuals": ("ntc", True, "dense"),
}
COMBINATIONS = [
    (sampler, statistic, control)
    for sampler, statistic, control in product(SAMPLERS, STATISTICS, CONTROLS)
    if control != "ntc, residuals" or statistic in OF_RESIDUALS
]


class Screen:
    """240 cells of two batches; three targets, an NTC guide and two groups of NTC guides."""

    def __init__(self):
        random = np.random.default_rng(9)
        self.batch = random.integers(0, 2, N_CELLS)
        self.design = standardize(np.column_stack([random.normal(size=N_CELLS), self.batch]))
        self.values = np.maximum(random.normal(size=(N_CELLS, N_FEATURES)) + 0.2, 0.0)
        self.is_ntc = np.arange(N_CELLS) % 3 == 0
        self.burden = np.log1p(np.where(self.is_ntc, 0, random.integers(1, 4, N_CELLS)))
        self.ntc_burden = np.log1p(self.is_ntc * random.integers(1, 4, N_CELLS))
        targets = [
            random.choice(np.flatnonzero(~self.is_ntc), n, replace=False) for n in (30, 9, 5)
        ]
        guides = [
            random.choice(np.flatnonzero(self.is_ntc), n, replace=False) for n in (8, 16, 25)
        ]
        self.treated = [np.sort(cells) for cells in (*targets, *guides)]
        self.kinds = [TARGET, TARGET, TARGET, NTC_GUIDE, NTC_GROUP, NTC_GROUP]
        self.names = ["A", "B", "C", "n1", "e0/ntc_0", "e0/ntc_1"]

    def outcome(self, statistic: str, control: str, residualize: bool, form: str) -> Outcome:
        values = self.values if form == "dense" else sp.csr_matrix(self.values)
        scores = None
        if control == "complement":
            scores = STATISTICS[statistic].score(values, orthonormal_basis(self.design))
        return Outcome(
            scores,
            self.design,
            [f"f{k}" for k in range(N_FEATURES)],
            "",
            "",
            statistic,
            control,
            values if control == "ntc" else None,
            self.is_ntc if control == "ntc" else None,
            self.batch,
            self.burden,
            self.ntc_burden,
            None,
            residualize,
        )


@pytest.fixture(scope="module")
def screen():
    return Screen()


def run(screen, shared, sampler, order, cuts, threads, seed=6):
    """Prepared arrays and summary of each unit, and the counts of the groups' null p values."""
    batch = crt.prepare(
        shared,
        [screen.kinds[g] for g in order],
        [screen.names[g] for g in order],
        [screen.treated[g] for g in order],
        sampler=sampler,
        stratify=STRATA,
    )
    assert batch.notes == [""] * len(order)
    total = [NullSummary.empty(N_FEATURES) for _ in order]
    counts = np.zeros(BLOCK, np.int64)
    for first, end in zip(cuts, cuts[1:], strict=False):
        blocks = range(first, end)
        parts = crt.resample(
            shared, batch, blocks, RESAMPLES, seed, threads, sampler, STRATA, counts
        )
        for whole, part in zip(total, parts, strict=True):
            whole += part
    units = {}
    for i, name in enumerate(batch.names):
        units[name] = {
            "coefficients": batch.model.coefficients[i],
            **{key: getattr(batch, key)[i] for key in ("effect", "observed", "centre", "scale")},
            **{key: values[i] for key, values in batch.diagnostics.items()},
            **vars(total[i]),
        }
    return units, counts


@pytest.mark.parametrize(("sampler", "statistic", "control"), COMBINATIONS)
def test_shards_threads_and_company_change_no_bit(sampler, statistic, control, screen):
    shared = screen.outcome(statistic, *CONTROLS[control])
    everything, end = [0, 1, 2, 3, 4, 5], n_blocks(RESAMPLES)
    assert end == 3
    plain, plain_counts = run(screen, shared, sampler, everything, [0, end], 1)
    assert all(unit["n"][0] == RESAMPLES for unit in plain.values())
    # Two groups, every resample of the first block, every feature.
    assert plain_counts.sum() == 2 * BLOCK * N_FEATURES
    splits = {
        "shards": (everything, [0, 1, 2, 3], 1),
        "uneven shards, threads": (everything, [0, 2, 3], 2),
        "another order": ([5, 3, 0, 4, 2, 1], [0, end], 2),
        # Fewer units than threads: their blocks are split too.
        "one target": ([1], [0, end], 2),
        "a group and a target": ([4, 2], [0, end], 3),
    }
    counts = {}
    for name, (order, cuts, threads) in splits.items():
        units, counts[name] = run(screen, shared, sampler, order, cuts, threads)
        assert len(units) == len(order)
        for unit, arrays in units.items():
            for key, array in arrays.items():
                np.testing.assert_array_equal(array, plain[unit][key], f"{name}: {key} of {unit}")
    for name in ("shards", "uneven shards, threads", "another order"):
        np.testing.assert_array_equal(counts[name], plain_counts)
    assert counts["one target"].sum() == 0
    assert counts["a group and a target"].sum() == BLOCK * N_FEATURES
    _, rest = run(screen, shared, sampler, [5], [0, end], 1)
    np.testing.assert_array_equal(counts["a group and a target"] + rest, plain_counts)


STAGES = {
    "importance": {"method": "importance", "resamples": 150},
    "saddlepoint": {"method": "saddlepoint", "resamples": 255},
    # Three blocks, the last cut short.
    "resamples": {"method": "resamples", "resamples": RESAMPLES},
}


def refined(screen, shared, sampler, order, stage, n_shards, threads):
    """What a stage finds of each unit and feature, all of which go on to it."""
    which = [[getattr(screen, key)[g] for g in order] for key in ("kinds", "names", "treated")]
    batch = crt.prepare(shared, *which, sampler=sampler, stratify=STRATA)
    tests = Tests.at_most(1.0, np.where(batch.scale > 0, 0.5, np.nan))
    assert tests.size == len(order) * N_FEATURES
    cost = costs(batch, tests, stage).tolist()
    draws = Draws(6, "two_sided", sampler, STRATA)
    parts = [
        refine(shared, batch, tests, range(*run), stage, 1, draws, threads)
        for run in (even_run(cost, n_shards, shard) for shard in range(n_shards))
        if run[0] < run[1]
    ]
    join = sum if stage["method"] == "resamples" else np.concatenate
    return {
        name: {
            key: join([part[key] for part in parts])[tests.unit == i].tobytes() for key in parts[0]
        }
        for i, name in enumerate(batch.names)
    }


@pytest.mark.parametrize(
    ("sampler", "statistic", "control", "method"),
    [
        (sampler, statistic, control, method)
        for (sampler, statistic, control), method in product(COMBINATIONS, STAGES)
        if method == "resamples" or (sampler == "bernoulli_index" and statistic != "welch")
    ],
)
def test_shards_threads_and_company_change_no_bit_of_what_is_refined(
    sampler, statistic, control, method, screen
):
    given = (screen, screen.outcome(statistic, *CONTROLS[control]), sampler)
    stage, everything = STAGES[method], [0, 1, 2, 3, 4, 5]
    plain = refined(*given, everything, stage, 1, 1)
    splits = ((everything, 2, 1), (everything, 7, 2), ([5, 3, 0, 4, 2, 1], 3, 2), ([1], 1, 4))
    for order, n_shards, threads in splits:
        found = refined(*given, order, stage, n_shards, threads)
        assert found == {name: plain[name] for name in found}
        assert len(found) == len(order)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_another_seed_or_sampler_draws_other_resamples(sampler, screen):
    # Were the bits above equal for want of randomness, they would be equal here.
    shared = screen.outcome("ols", "complement", False, "dense")
    one, two = (run(screen, shared, sampler, [0, 1], [0, 1], 1, seed)[0] for seed in (6, 7))
    (other,) = (name for name in SAMPLERS if name != sampler)
    three, _ = run(screen, shared, other, [0, 1], [0, 1], 1)
    for name in ("A", "B"):
        np.testing.assert_array_equal(one[name]["observed"], two[name]["observed"])
        assert (one[name]["powers"] != two[name]["powers"]).all()
        assert (one[name]["powers"] != three[name]["powers"]).all()
