"""The steps of engine kompot, from a file to its tables, against the notebook classes."""

import math
from itertools import pairwise
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from analyses import STATES, load_conditions
from condrand.api.kompot import DifferentialAbundance, DifferentialExpression
from condrand.engines.kompot import exchanges, n_exchanges, units_of_samples
from condrand.engines.kompot_states import place_cells
from condrand.engines.kompot_steps import (
    change_abundance,
    fit_shard,
    null_shard,
    smooth_top_genes,
    write_cells,
)
from condrand.engines.kompot_steps import test_genes as compare_genes
from condrand.errors import InputError
from condrand.fdr import benjamini_hochberg
from condrand.io.shards import ShardError, read_arrays
from condrand.io.states import read_states
from condrand.io.tables import read_tsv
from condrand.local_fdr import local_fdr
from condrand.outcomes.expression import log1p_cpm
from condrand.plan import FEATURES_PER_BLOCK
from condrand.tables import CONTRACT

N_CELLS, N_GENES = 190, FEATURES_PER_BLOCK + 28
CONSTANT, CHANGED = [3, FEATURES_PER_BLOCK + 4], [10, FEATURES_PER_BLOCK + 7]
SEED = 7
WRITTEN = {
    **{"effects": "effects.parquet", "effects_tsv": "effects.tsv.gz"},
    **{"null_distances": "null_distances.tsv.gz", "fdr": "fdr.tsv"},
}
SETTINGS = {
    **STATES,
    "embedding": {**STATES["embedding"], "n_components": 4},
    "n_landmarks": 24,
    "sigma": 1.0,
    "empirical_variance": False,
    "cov_combine": "sum",
    "abundance": {"threshold": 0.3, "ptp": 0.2, "synchronize": True},
    "null": {"kind": "genes", "count": 600, "threshold": 0.05},
    "panels": 3,
}


def make_screen():
    """190 cells of which 180 are compared, 540 genes in two blocks, 6 samples."""
    random = np.random.default_rng(11)
    treatment = np.array(["ctrl", "stim", "other"], object)[
        np.repeat([0, 1, 2], [85, 95, 10])[random.permutation(N_CELLS)]
    ]
    donor = np.array(["d1", "d2", "d3"], object)[np.arange(N_CELLS) % 3]
    state = random.uniform(size=N_CELLS)
    rate = 0.3 + random.gamma(0.8, 1.0, N_GENES)
    mean = rate * (1.0 + np.outer(state, np.arange(N_GENES) % 4))
    mean[np.ix_(treatment == "stim", CHANGED)] += 15.0
    counts = random.poisson(mean).astype(np.float32)
    counts[:, CONSTANT] = 0
    obs = pd.DataFrame(
        {"treatment": pd.Categorical(treatment), "donor": pd.Categorical(donor)},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    umap = np.column_stack([state, random.normal(size=N_CELLS)])
    return ad.AnnData(
        sp.csr_matrix(counts),
        obs=obs,
        var=pd.DataFrame(index=[f"G{(7 * j) % N_GENES}" for j in range(N_GENES)]),
        obsm={"X_umap": umap},
    )


SCREEN = make_screen()


class Steps:
    """Does what the rules from load_screen to kompot_cells do."""

    def __init__(self, screen: Path, folder: Path, n_shards=1, **settings):
        self.screen, self.folder, self.n_shards = screen, folder, n_shards
        folder.mkdir(exist_ok=True)
        self.settings = {**SETTINGS, **settings}
        self.states = folder / "states.h5ad"
        self.shards, self.nulls = (
            [folder / f"{kind}-{i}.h5" for i in range(n_shards)] for kind in ("shard", "null")
        )
        self.written = {name: folder / file for name, file in WRITTEN.items()}

    def place(self):
        place_cells(self.screen, self.states, self.folder / "sizes.tsv", self.settings, SEED)
        return read_states(self.states)

    def fit(self):
        for i, shard in enumerate(self.shards):
            run = (i, self.n_shards)
            fit_shard(self.screen, self.states, shard, run, self.settings)

    def null(self):
        for i, shard in enumerate(self.nulls):
            run = (i, self.n_shards)
            null_shard(self.screen, self.states, shard, run, self.settings, SEED)

    def test(self):
        nulls = self.nulls if self.settings["null"]["count"] else []
        labels = ("s", "a")
        compare_genes(
            *(self.states, self.shards, nulls, labels, self.settings, SEED, self.written)
        )
        return pd.read_parquet(self.written["effects"])

    def all(self):
        self.place()
        self.fit()
        if self.settings["null"]["count"]:
            self.null()
        return self.test()


@pytest.fixture(scope="module")
def screen(tmp_path_factory):
    folder = tmp_path_factory.mktemp("kompot")
    SCREEN.write_h5ad(folder / "user.h5ad")
    stored = folder / "screen.h5ad"
    load_conditions(folder / "user.h5ad", stored, SETTINGS["outcome"], ["X_umap"])
    return stored


def expression():
    """Of the cells of both conditions, dense."""
    counts = SCREEN.X.astype(np.float64)
    kept = (SCREEN.obs["treatment"] != "other").to_numpy()
    return np.asarray(log1p_cpm(counts, None, 1e4)[kept].todense())


def notebook(states, y, how, labels=None, **more):
    """The notebook class, fitted to the same states, landmarks and length scale."""
    sides = ~states.second, states.second
    samples = {}
    if labels is not None:
        samples = {f"condition{c}_sample_indices": labels[at] for c, at in enumerate(sides, 1)}
    model = DifferentialExpression(
        use_empirical_variance=how["empirical_variance"],
        cov_combine=how["cov_combine"],
    )
    first, second = sides
    return model.fit(
        *(states.x[first], y[first], states.x[second], y[second]),
        sigma=how["sigma"],
        ls=states.words["length_scale"],
        landmarks=states.landmarks,
        min_cells=how["min_cells"],
        **samples,
        **more,
    )


def close(found, wanted, gate=1e-10):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=gate * np.abs(wanted).max())


# States


def test_cells_of_both_conditions_are_placed_in_the_order_of_the_screen(screen, tmp_path):
    steps = Steps(screen, tmp_path, sample="donor", plot_embedding="X_umap")
    states = steps.place()
    kept = np.flatnonzero(SCREEN.obs["treatment"] != "other")
    assert states.cells.tolist() == kept.tolist()
    assert states.names == [f"cell{i}" for i in kept]
    assert states.second.tolist() == (SCREEN.obs["treatment"].iloc[kept] == "stim").tolist()
    donor = np.array(states.sample_levels)[states.samples]
    assert donor.tolist() == SCREEN.obs["donor"].iloc[kept].tolist()
    np.testing.assert_array_equal(states.plotted, SCREEN.obsm["X_umap"][kept])
    assert np.flatnonzero(states.constant).tolist() == CONSTANT
    assert states.words["uses_samples"] is True
    assert "separate samples" in states.words["notes"]
    sizes = read_tsv(tmp_path / "sizes.tsv").set_index("what")["number"].to_dict()
    assert sizes == {"n_cells": 180, "n_landmarks": 24, "n_samples": 6, "n_features": N_GENES}
    stored = ad.read_h5ad(tmp_path / "states.h5ad")
    assert stored.shape == (180, N_GENES)
    assert list(stored.obs) == ["condition", "sample"]


def test_computed_states_are_principal_components(screen, tmp_path):
    states = Steps(screen, tmp_path).place()
    y = expression()
    chosen = np.sort(np.argsort(-y.var(axis=0, ddof=1), kind="stable")[:100])
    away = y[:, chosen] - y[:, chosen].mean(axis=0)
    u, s, _ = np.linalg.svd(away, full_matrices=False)
    close(np.abs(states.x), np.abs(u[:, :4] * s[:4]), 1e-9)


def test_without_a_sample_column_samples_do_not_count(screen, tmp_path):
    states = Steps(screen, tmp_path).place()
    assert states.samples is None
    assert states.words["uses_samples"] is False
    turned = Steps(screen, tmp_path / "off", sample="donor", sample_variance=False).place()
    assert turned.samples is not None
    assert turned.words["uses_samples"] is False


# Numbers

HOWS = [
    {},
    {"sample": "donor"},
    {"empirical_variance": True, "sigma": 0.7},
    {"sample": "donor", "empirical_variance": True, "cov_combine": "mean"},
]


@pytest.mark.parametrize("more", HOWS)
def test_genes_have_the_numbers_of_the_notebook_class(screen, tmp_path, more):
    steps = Steps(screen, tmp_path, 2, **more)
    states = steps.place()
    steps.fit()
    y = expression()
    labels = states.samples if "sample" in more else None
    whole = notebook(states, y, steps.settings, labels)
    found = [read_arrays(path)[1] for path in steps.shards]
    kept = np.flatnonzero(~states.constant)
    joined = {name: np.concatenate([part[name] for part in found]) for name in found[0]}
    assert np.isnan(np.stack(list(joined.values()))[:, CONSTANT]).all()
    wanted = whole.predict(states.x, compute_mahalanobis=True)
    close(joined["mahalanobis"][kept], wanted["mahalanobis_distances"][kept])
    close(joined["mean_log_fold_change"][kept], wanted["mean_log_fold_change"][kept])
    for c in (1, 2):
        smoothed = wanted[f"condition{c}_smoothed"].mean(axis=0)
        close(joined[f"mean_condition{c}"][kept], smoothed[kept])
    # Of the same blocks, the same bits.
    for part, (start, stop) in zip(found, pairwise((0, 512, N_GENES)), strict=True):
        model = notebook(states, y[:, start:stop], steps.settings, labels)
        distances = model.compute_mahalanobis_distances()
        at = ~states.constant[start:stop]
        np.testing.assert_array_equal(part["mahalanobis"][at], distances[at])


@pytest.mark.parametrize("more", [{}, {"sample": "donor"}])
def test_abundance_has_the_numbers_of_the_notebook_class(screen, tmp_path, more):
    steps = Steps(screen, tmp_path, **more)
    states = steps.place()
    change_abundance(states=steps.states, abundance=tmp_path / "a.h5", settings=steps.settings)
    key, found = read_arrays(tmp_path / "a.h5")
    model = DifferentialAbundance(log_fold_change_threshold=0.3, ptp_threshold=0.2)
    first, second = ~states.second, states.second
    labels = {}
    if more:
        labels = {
            "condition1_sample_indices": states.samples[first],
            "condition2_sample_indices": states.samples[second],
        }
    x = states.x[first], states.x[second]
    model.fit(*x, landmarks=states.landmarks, sync_parameters=True, min_cells=10, **labels)
    wanted = model.predict(states.x)
    for name in ("log_density_condition1", "log_density_condition2", "log_fold_change"):
        np.testing.assert_array_equal(found[name], wanted[name])
    for name, theirs in (("uncertainty", "uncertainty"), ("zscore", "zscore")):
        np.testing.assert_array_equal(found[name], wanted[f"log_fold_change_{theirs}"])
    np.testing.assert_array_equal(found["neg_log10_ptp"], wanted["neg_log10_fold_change_ptp"])
    words = np.array(["down", "neutral", "up"], object)[found["direction"] + 1]
    assert words.tolist() == wanted["log_fold_change_direction"].tolist()
    assert key["states"] == states.words["digest"]
    assert key["n_samples"] == ([3, 3] if more else [0, 0])


def test_null_genes_are_those_of_the_notebook_class_among_genes_that_vary(screen, tmp_path):
    steps = Steps(screen, tmp_path)
    states = steps.place()
    steps.null()
    found = read_arrays(steps.nulls[0])[1]
    assert found["mahalanobis"].shape == (600,)
    varying = np.flatnonzero(~states.constant)
    y = expression()[:, varying]
    model = notebook(states, y, steps.settings, n_null_genes=600, null_seed=SEED)
    model.compute_mahalanobis_distances()
    close(found["mahalanobis"], model.null_mahalanobis_distances)
    random = np.random.RandomState(SEED)
    # More are wanted than there are: some come twice.
    drawn = random.choice(varying.size, 600, replace=True)
    assert found["gene"].tolist() == varying[drawn].tolist()


@pytest.mark.parametrize("uses", ["auto", False])
def test_exchanged_samples_have_the_numbers_of_the_notebook_class(screen, tmp_path, uses):
    null = {"kind": "samples", "count": 4, "threshold": 0.05}
    steps = Steps(screen, tmp_path, sample="donor", sample_variance=uses, null=null)
    states = steps.place()
    steps.null()
    found = read_arrays(steps.nulls[0])[1]
    varying = np.flatnonzero(~states.constant)
    distances = found["mahalanobis"].reshape(4, -1)
    assert found["gene"].reshape(4, -1).tolist() == [varying.tolist()] * 4
    unit, *_ = units_of_samples(states.second, states.samples, 10)
    y = expression()
    for way, of_way in zip(exchanges(3, 3, 4, SEED), distances, strict=True):
        after = States(states, way[unit])
        labels = unit if uses == "auto" else None
        model = notebook(after, y, steps.settings, labels)
        close(of_way, model.compute_mahalanobis_distances()[varying])


class States:
    """The same states, of other conditions."""

    def __init__(self, states, second):
        self.second = second
        self.x, self.words, self.landmarks = states.x, states.words, states.landmarks


# Exchanges


@pytest.mark.parametrize(("n_first", "n_second"), [(3, 3), (2, 4), (2, 2), (4, 3)])
def test_exchanges_are_all_distinct_and_none_is_the_truth_or_its_mirror(n_first, n_second):
    n = n_first + n_second
    found = exchanges(n_first, n_second, 10**6, 3)
    assert len(found) == n_exchanges(n_first, n_second)
    assert (found.sum(axis=1) == n_second).all()
    truth = np.arange(n) >= n_first
    mirrored = {tuple(~row) for row in found} if n_first == n_second else set()
    every = {tuple(row) for row in found}
    assert len(every) == len(found)
    assert not every & mirrored
    assert tuple(truth) not in every | mirrored
    ways = math.comb(n, n_first)
    assert len(every | mirrored) == ways - (2 if n_first == n_second else 1)


def test_exchanges_of_a_smaller_count_come_first_in_a_larger():
    for sizes in ((4, 4), (12, 12), (11, 9)):
        many = exchanges(*sizes, 30, 5)
        assert len(np.unique(many, axis=0)) == min(30, n_exchanges(*sizes))
        np.testing.assert_array_equal(exchanges(*sizes, 12, 5), many[:12])
        assert not np.array_equal(exchanges(*sizes, 30, 6), many)


def test_small_samples_have_no_number():
    second = np.repeat([False, True], [6, 7])
    samples = np.array([0, 0, 1, 1, 1, 2, 0, 0, 0, 1, 2, 2, 2])
    unit, n_first, n_second = units_of_samples(second, samples, 2)
    assert unit.tolist() == [0, 0, 1, 1, 1, -1, 2, 2, 2, -1, 3, 3, 3]
    assert (n_first, n_second) == (2, 2)


# Tables


def test_the_table_keeps_the_contract_and_a_constant_gene_has_a_note(screen, tmp_path):
    steps = Steps(screen, tmp_path)
    table = steps.all()
    assert list(table)[: len(CONTRACT)] == list(CONTRACT)
    assert table["feature"].tolist() == SCREEN.var_names.tolist()
    assert set(table["target"]) == {"stim_vs_ctrl"}
    assert set(table["n_target"]) == {(SCREEN.obs["treatment"] == "stim").sum()}
    assert set(table["effect_scale"]) == {"difference of log1p CP10k (natural log)"}
    assert np.flatnonzero(table["note"] == "constant").tolist() == CONSTANT
    numbers = ["effect", "statistic", "p_value", "fdr", "local_fdr", "mean_condition1"]
    assert table.loc[CONSTANT, numbers].isna().all(axis=None)
    assert not table.loc[CONSTANT, "is_de"].any()
    tested = table.drop(index=CONSTANT)
    assert tested[numbers].notna().all(axis=None)
    null = read_arrays(steps.nulls[0])[1]["mahalanobis"]
    rates = local_fdr(tested["statistic"].to_numpy(), null, 0.05)
    np.testing.assert_array_equal(tested["p_value"], rates.p_values)
    np.testing.assert_array_equal(tested["fdr"], rates.tail_fdr)
    np.testing.assert_array_equal(tested["is_de"], rates.is_de)
    np.testing.assert_allclose(10.0 ** -tested["neg_log10_p"], tested["p_value"], rtol=1e-12)
    assert set(tested["p_source"]) == {"null_genes"}
    farthest = tested.sort_values("statistic", ascending=False).index[:2]
    assert sorted(farthest) == CHANGED
    assert tested.loc[CHANGED, "is_de"].all()
    assert (tested.loc[CHANGED, "effect"] > 0).all()
    listed = read_tsv(steps.written["effects_tsv"])
    assert listed["statistic"].head(len(tested)).is_monotonic_decreasing
    nulls = read_tsv(steps.written["null_distances"])
    assert list(nulls) == ["gene", "distance"]
    assert len(nulls) == 600
    rates = read_tsv(steps.written["fdr"]).set_index("what")["value"]
    assert rates["n_null"] == 600
    assert rates["n_tested"] == N_GENES - 2
    assert rates["n_de"] == tested["is_de"].sum()


def test_without_a_null_p_values_are_tails_of_chi_squared(screen, tmp_path):
    null = {"kind": "genes", "count": 0, "threshold": 0.05}
    table = Steps(screen, tmp_path, null=null).all().drop(index=CONSTANT)
    assert set(table["p_source"]) == {"chi2"}
    assert (table["p_value"] > 0).all()
    np.testing.assert_array_equal(table["neg_log10_p"], table["neg_log10_ptp"])
    np.testing.assert_array_equal(table["fdr"], benjamini_hochberg(table["p_value"].to_numpy()))
    assert table["local_fdr"].isna().all()
    assert not table["is_de"].any()
    assert len(read_tsv(tmp_path / "null_distances.tsv.gz")) == 0


@pytest.mark.parametrize(
    "more",
    [
        {"null": {"kind": "genes", "count": 1100, "threshold": 0.05}},
        {
            "sample": "donor",
            "null": {"kind": "samples", "count": 3, "threshold": 0.05},
        },
    ],
)
def test_any_number_of_shards_gives_the_same_bytes(screen, tmp_path, more):
    files = []
    for n_shards in (1, 2, 5):
        steps = Steps(screen, tmp_path / str(n_shards), n_shards, **more)
        steps.all()
        files.append([path.read_bytes() for path in steps.written.values()])
    assert files[0] == files[1] == files[2]


def test_shards_of_another_run_are_refused(screen, tmp_path):
    steps = Steps(screen, tmp_path, 2)
    steps.all()
    steps.settings = {**steps.settings, "sigma": 2.0}
    with pytest.raises(ShardError, match="made for another settings"):
        steps.test()
    steps.settings = {**SETTINGS, "null": {"kind": "genes", "count": 700, "threshold": 0.05}}
    with pytest.raises(ShardError, match="made for another null"):
        steps.test()
    steps.settings = SETTINGS
    steps.shards[1] = steps.shards[0]
    with pytest.raises(ShardError, match="a shard is missing"):
        steps.test()


def test_exchanges_are_refused_without_samples(screen, tmp_path):
    steps = Steps(screen, tmp_path)
    steps.place()
    steps.settings["null"] = {"kind": "samples", "count": 3, "threshold": 0.05}
    with pytest.raises(InputError, match="there is no `sample`"):
        steps.null()


# Cells


@pytest.mark.parametrize("n_panels", [3, 0])
def test_results_by_cell_open_in_anndata(screen, tmp_path, n_panels):
    steps = Steps(screen, tmp_path, sample="donor", panels=n_panels)
    table = steps.all()
    states = read_states(steps.states)
    abundance, panels, cells = (tmp_path / name for name in ("a.h5", "p.h5", "cells.h5ad"))
    change_abundance(steps.states, abundance, steps.settings)
    smooth_top_genes(screen, steps.states, steps.written["effects"], panels, steps.settings)
    write_cells(steps.states, abundance, panels, cells)
    key, of_genes = read_arrays(panels)
    top = table["statistic"].sort_values(ascending=False, kind="stable").index[:n_panels]
    assert key["genes"] == table["feature"][top].tolist()
    found = ad.read_h5ad(cells)
    assert found.shape == (180, n_panels)
    assert found.obs_names.tolist() == states.names
    assert set(found.obs["direction"]) <= {"down", "neutral", "up"}
    np.testing.assert_array_equal(found.obsm["state"], states.x)
    for name, values in of_genes.items():
        np.testing.assert_array_equal(found.layers[name], values)
    by_cell = read_arrays(abundance)[1]
    np.testing.assert_array_equal(found.obs["zscore"], by_cell["zscore"])
    if n_panels:
        model = notebook(states, expression()[:, top], steps.settings, states.samples)
        wanted = model.predict(states.x)
        np.testing.assert_array_equal(of_genes["condition1"], wanted["condition1_smoothed"])
        np.testing.assert_array_equal(of_genes["fold_change"], wanted["fold_change"])


def test_results_of_other_cells_are_not_joined(screen, tmp_path):
    steps = Steps(screen, tmp_path)
    steps.all()
    change_abundance(steps.states, tmp_path / "a.h5", steps.settings)
    smooth_top_genes(
        *(screen, steps.states, steps.written["effects"], tmp_path / "p.h5", steps.settings)
    )
    steps.settings = {**SETTINGS, "n_landmarks": 20}
    steps.place()
    with pytest.raises(InputError, match="made for other cells"):
        write_cells(steps.states, tmp_path / "a.h5", tmp_path / "p.h5", tmp_path / "c.h5ad")
