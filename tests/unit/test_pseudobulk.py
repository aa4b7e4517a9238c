"""Cells summed to samples: against sums cell by cell, in a notebook and as a stage."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import condrand as cr
from condrand.errors import InputError
from condrand.outcomes.pseudobulk import add_rows, constant_codes, group_cells, sample_names


def cells(n=300, n_features=17, kind=np.asarray, seed=0):
    """Counts of cells of 3 donors under 2 conditions."""
    random = np.random.default_rng(seed)
    counts = random.poisson(0.7, (n, n_features)).astype(np.float32)
    obs = pd.DataFrame(
        {
            "donor": random.choice(["d2", "d10", "d1"], n),
            "condition": pd.Categorical(
                random.choice(["stim", "ctrl"], n), categories=["stim", "ctrl", "never"]
            ),
        },
        index=[f"c{i}" for i in range(n)],
    )
    obs["sex"] = obs["donor"].map({"d2": "f", "d10": "m", "d1": "f"})
    obs["age"] = obs["donor"].map({"d2": 30, "d10": 41, "d1": 52})
    obs["n_umis"] = counts.sum(axis=1)
    return ad.AnnData(kind(counts), obs, pd.DataFrame(index=[f"g{j}" for j in range(n_features)]))


def by_hand(adata, by):
    """Sums by a dict, one cell after the other."""
    sums = {}
    X = adata.X.toarray() if sp.issparse(adata.X) else adata.X
    for i in range(adata.n_obs):
        key = ".".join(str(adata.obs[name].iloc[i]) for name in by)
        sums[key] = sums.get(key, 0.0) + X[i].astype(np.float64)
    return sums


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_sums_are_those_of_a_loop_over_the_cells(kind):
    adata = cells(kind=kind)
    made = cr.pseudobulk(adata, ["donor", "condition"], min_cells=1)
    expected = by_hand(adata, ["donor", "condition"])
    assert set(made.obs_names) == set(expected)
    for name in made.obs_names:
        assert np.array_equal(made[name].X.ravel(), expected[name])
    assert made.obs["n_cells"].sum() == adata.n_obs
    assert list(made.var_names) == list(adata.var_names)


def test_samples_are_sorted_by_level_in_the_order_of_the_categories():
    made = cr.pseudobulk(cells(), ["donor", "condition"])
    expected = [f"{d}.{c}" for d in ("d1", "d10", "d2") for c in ("stim", "ctrl")]
    assert list(made.obs_names) == expected
    assert list(made.obs["condition"].cat.categories) == ["stim", "ctrl"]


def test_columns_that_are_constant_within_samples_are_carried_over():
    made = cr.pseudobulk(cells(), "donor")
    assert list(made.obs) == ["donor", "n_cells", "sex", "age"]
    assert made.obs["sex"].tolist() == ["f", "m", "f"]
    assert made.obs["age"].tolist() == [52, 41, 30]
    assert made.obs["age"].dtype == np.int64


def test_a_column_is_carried_over_where_all_cells_of_a_sample_lack_it():
    adata = cells()
    adata.obs["sex"] = adata.obs["sex"].where(adata.obs["donor"] != "d2", None)
    adata.obs["age"] = adata.obs["age"].where(adata.obs["donor"] != "d1")
    made = cr.pseudobulk(adata, "donor").obs
    assert made["sex"].isna().tolist() == [False, False, True]
    np.testing.assert_array_equal(made["age"], [np.nan, 41.0, 30.0])
    adata.obs.loc[adata.obs_names[0], "sex"] = "x"
    assert "sex" not in cr.pseudobulk(adata, "donor").obs


def test_cells_without_a_label_and_small_samples_are_left_out_with_a_warning():
    adata = cells()
    adata.obs["donor"] = adata.obs["donor"].astype(object)
    adata.obs.iloc[:7, 0] = None
    adata.obs.iloc[7:10, 0] = "few"
    with pytest.warns(UserWarning) as warned:
        made = cr.pseudobulk(adata, "donor")
    said = [str(w.message) for w in warned]
    assert said == [
        "7 cells without 'donor' are left out",
        "1 samples of fewer than 10 cells are left out: 'few' (3)",
    ]
    assert made.obs["n_cells"].sum() == adata.n_obs - 10
    assert "few" not in list(made.obs["donor"].cat.categories)
    expected = by_hand(adata[10:], ["donor"])
    for name in made.obs_names:
        assert np.array_equal(made[name].X.ravel(), expected[name])


def test_a_layer_can_be_summed_and_the_data_stay_as_they_are():
    adata = cells(kind=sp.csr_matrix)
    adata.layers["double"] = adata.X * 2
    before = adata.copy()
    made = cr.pseudobulk(adata, "donor", layer="double")
    assert np.array_equal(made.X, 2 * cr.pseudobulk(adata, "donor").X)
    assert (adata.X != before.X).nnz == 0
    pd.testing.assert_frame_equal(adata.obs, before.obs)


def test_sums_of_a_backed_file_are_those_in_memory(tmp_path):
    for kind in (np.asarray, sp.csr_matrix):
        adata = cells(kind=kind)
        adata.write_h5ad(tmp_path / "cells.h5ad")
        backed = ad.read_h5ad(tmp_path / "cells.h5ad", backed="r")
        assert np.array_equal(cr.pseudobulk(backed, "donor").X, cr.pseudobulk(adata, "donor").X)
        backed.file.close()


def test_numbers_and_flags_group_cells_and_keep_their_order():
    adata = cells()
    adata.obs["hours"] = np.arange(adata.n_obs) % 3 * 12
    adata.obs["dose"] = np.arange(adata.n_obs) % 2 / 2
    adata.obs["old"] = adata.obs["age"] > 40
    assert list(cr.pseudobulk(adata, "hours").obs_names) == ["0", "12", "24"]
    assert cr.pseudobulk(adata, "hours").obs["hours"].dtype == np.int64
    assert list(cr.pseudobulk(adata, "dose").obs_names) == ["0.0", "0.5"]
    assert list(cr.pseudobulk(adata, "old").obs_names) == ["FALSE", "TRUE"]


@pytest.mark.parametrize(
    ("change", "arguments", "words"),
    [
        (None, {"by": ["doner"]}, ["there is no column of obs 'doner'", "'donor'"]),
        (None, {"by": []}, ["name at least one"]),
        (None, {"by": ["n_cells"]}, ["by: names the column 'n_cells'", "rename"]),
        (None, {"by": "donor", "layer": "counts"}, ["there is no layer 'counts'"]),
        (None, {"by": "donor", "min_cells": 1000}, ["no sample has 1,000 cells", "in 'd"]),
        (-1.0, {"by": "donor"}, ["1 values are negative", "-1 in cell 'c0', feature 'g0'"]),
        (np.nan, {"by": "donor"}, ["1 values are missing"]),
        ("log", {"by": "donor"}, ["look log-transformed", "layer"]),
    ],
)
def test_what_cannot_be_summed_is_refused(change, arguments, words):
    adata = cells()
    adata.obs["n_cells"] = 1
    if change == "log":
        adata.X = np.log1p(adata.X)
    elif change is not None:
        adata.X[0, 0] = change
    with pytest.raises(InputError) as error:
        cr.pseudobulk(adata, **arguments)
    assert all(word in str(error.value) for word in words)


def test_real_cells_sum_to_their_donors_and_conditions(data_dir):
    adata = ad.read_h5ad(data_dir / "kang_muscat.h5ad")
    made = cr.pseudobulk(adata, ["donor", "condition"])
    assert list(made.obs_names) == ["101.ctrl", "101.stim", "107.ctrl", "107.stim"]
    for name in made.obs_names:
        donor, condition = name.split(".")
        own = (adata.obs["donor"] == donor) & (adata.obs["condition"] == condition)
        expected = np.asarray(adata.X[own.to_numpy()].sum(axis=0)).ravel()
        assert np.array_equal(made[name].X.ravel(), expected)


# The arrays below it


def test_sums_have_the_same_bits_however_rows_are_cut_and_stored():
    random = np.random.default_rng(1)
    rows = random.random((200, 9)) * (random.random((200, 9)) < 0.4)
    samples = random.integers(-1, 4, 200)

    def summed(pieces, kind):
        sums = np.zeros((4, 9))
        for low, high in pieces:
            add_rows(sums, kind(rows[low:high]), samples[low:high])
        return sums

    expected = np.zeros((4, 9))
    for i, sample in enumerate(samples):
        if sample >= 0:
            expected[sample] += rows[i]
    for kind in (np.asarray, sp.csr_matrix):
        for pieces in ([(0, 200)], [(0, 1), (1, 150), (150, 200)], [(0, 50), (50, 50), (50, 200)]):
            assert np.array_equal(summed(pieces, kind), expected)


def test_cells_are_grouped_by_all_their_levels():
    samples, levels = group_cells([np.array([1, 0, 1, -1, 0]), np.array([0, 2, 0, 1, -1])])
    assert samples.tolist() == [1, 0, 1, -1, -1]
    assert levels.tolist() == [[0, 2], [1, 0]]
    samples, levels = group_cells([np.array([-1, -1])])
    assert samples.tolist() == [-1, -1]
    assert levels.shape == (0, 1)


def test_a_column_is_constant_if_every_sample_has_one_value():
    samples = np.array([0, 0, 1, -1])
    assert constant_codes(samples, np.array([4, 4, -1, 9]), 2).tolist() == [4, -1]
    assert constant_codes(samples, np.array([4, 5, 0, 0]), 2) is None
    assert constant_codes(samples, np.array([-1, 5, 0, 0]), 2) is None


def test_names_are_joined_by_dots_unless_two_samples_would_be_alike():
    assert sample_names([["a", "b"], ["a", "c"]]) == ["a.b", "a.c"]
    assert sample_names([["a.b", "c"], ["a", "b.c"]]) == ["a.b|c", "a|b.c"]
    assert sample_names([["a.b", "c"], ["a", "b.c"], ["x|y", "z"], ["x", "y|z"]])[0] == "a.b||c"
