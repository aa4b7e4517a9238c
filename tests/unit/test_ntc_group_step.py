"""The step that forms NTC groups: sizes, settings, what cannot be formed, and the table."""

import csv
import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand.engines.crt_steps import prepare_batch, read_batch
from condrand.engines.ntc_groups import form_groups, group_size_of, write_ntc_groups
from condrand.io.outcome import read_treated
from condrand.io.tables import read_tsv
from condrand.normalize import normalize
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET, split_guides

FREE = {"group_size": None, "n_bins": None, "n_ensemble": 2, "max_groups": None, "seed": 0}


def guides_table(per_target, n_ntc, cells=None, ntc_cells=None) -> pd.DataFrame:
    """Guides of targets T0, T1, ... with so many guides each, and NTC guides."""
    rows = [(f"T{t}_{i}", f"T{t}", False) for t, n in enumerate(per_target) for i in range(n)]
    n_real = len(rows)
    rows += [(f"ntc{i:02d}", "non-targeting", True) for i in range(n_ntc)]
    table = pd.DataFrame(rows, columns=["name", "target", "is_ntc"])
    random = np.random.default_rng(0)
    table["n_cells"] = random.integers(20, 200, len(table))
    if cells is not None:
        table.loc[: n_real - 1, "n_cells"] = cells
    if ntc_cells is not None:
        table.loc[n_real:, "n_cells"] = ntc_cells
    return table


# Sizes


@pytest.mark.parametrize(
    ("per_target", "n_ntc", "size"),
    [
        ([3, 3, 3], 20, 3),
        ([1, 3, 8], 20, 3),  # the median, not the mean
        ([2, 3], 20, 2),  # a half is cut
        ([6, 6, 6], 8, 4),  # half of the NTC guides at most
        ([6, 6, 6], 9, 4),
        ([6, 6, 6], 1, 1),
        ([6, 6, 6], 0, 1),
        ([1, 1], 20, 1),
    ],
)
def test_a_group_is_as_large_as_the_median_target_but_half_the_ntc_guides(per_target, n_ntc, size):
    assert group_size_of(guides_table(per_target, n_ntc), None) == size


def test_a_configured_size_is_taken_as_it_is():
    assert group_size_of(guides_table([3, 3, 3], 4), 7) == 7


# Groups


@pytest.mark.parametrize("n_ntc", [2, 5, 12, 40])
def test_groups_of_free_settings_are_disjoint_within_a_replicate(n_ntc):
    # 12 targets of 3 guides, as frequent as the NTC guides.
    guides = guides_table([3] * 12, n_ntc)
    groups = form_groups(guides, FREE)
    assert groups
    size = group_size_of(guides, None)
    ntc = set(guides.loc[guides["is_ntc"], "name"])
    for e in range(2):
        replicate = {name: g for name, g in groups.items() if name.startswith(f"e{e}/")}
        assert list(replicate) == [f"e{e}/ntc_{i}" for i in range(len(replicate))]
        members = [guide for group in replicate.values() for guide in group]
        assert len(members) == len(set(members)) == size * len(replicate)
        assert set(members) <= ntc
    if n_ntc == 40:
        # Another partition, and most guides are used.
        assert {tuple(g) for g in replicate.values()} != {
            tuple(g) for name, g in groups.items() if name.startswith("e0/")
        }
        assert len(members) > 20


def test_frequency_bins_are_as_many_as_the_ntc_guides_allow(caplog):
    for n_ntc, n_bins in ((5, 1), (12, 2), (40, 6), (300, 20)):
        with caplog.at_level(logging.INFO):
            caplog.clear()
            form_groups(guides_table([3] * 12, n_ntc), FREE)
        assert f"matched in {n_bins} frequency bins" in caplog.text


def test_groups_have_the_frequency_bins_of_a_target():
    # Guides are rare or common; a target has one rare and two common ones.
    guides = guides_table([3] * 10, 24, cells=[5, 100, 100] * 10, ntc_cells=[6, 90] * 12)
    groups = form_groups(guides, {**FREE, "n_bins": 3})
    assert len(groups) == 2 * 6
    cells = dict(zip(guides["name"], guides["n_cells"], strict=True))
    for group in groups.values():
        assert sorted(cells[guide] for guide in group) == [6, 90, 90]


def test_at_most_so_many_groups_are_formed_a_replicate():
    settings = {**FREE, "n_ensemble": 3, "max_groups": 2, "n_bins": 1}
    groups = form_groups(guides_table([3] * 12, 40), settings)
    assert list(groups) == [f"e{e}/ntc_{i}" for e in range(3) for i in range(2)]


def test_groups_depend_on_their_seed_and_not_on_the_order_of_the_guides():
    guides = guides_table([3] * 12, 40)
    groups = form_groups(guides, FREE)
    assert form_groups(guides.sample(frac=1, random_state=1), FREE) == groups
    other = form_groups(guides, {**FREE, "seed": 100})
    assert other != groups
    # Replicate e of seed s is replicate 0 of seed s + e.
    later = form_groups(guides, {**FREE, "seed": 1, "n_ensemble": 1})
    assert list(later.values()) == [g for name, g in groups.items() if name.startswith("e1/")]


# What cannot be formed


def test_fewer_ntc_guides_than_a_group_give_none_and_a_warning(caplog):
    with caplog.at_level(logging.WARNING):
        assert form_groups(guides_table([3] * 5, 4), {**FREE, "group_size": 5}) == {}
    assert "no NTC groups: 4 NTC guides, and a group has 5" in caplog.text
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        assert form_groups(guides_table([3] * 5, 0), FREE) == {}
    assert "no NTC groups: 0 NTC guides, and a group has 1" in caplog.text


def test_groups_larger_than_every_target_give_none_and_the_size_that_would_do(caplog):
    with caplog.at_level(logging.WARNING):
        assert form_groups(guides_table([3, 2], 20), {**FREE, "group_size": 4}) == {}
    assert "no NTC groups: no gene has 4 guides" in caplog.text
    assert "set group_size to 3 or less" in caplog.text


def test_ntc_guides_unlike_those_of_any_target_give_none_and_a_hint(caplog):
    # Every target has a rare guide; no NTC guide is rare.
    guides = guides_table([2] * 10, 20, cells=[5, 100] * 10, ntc_cells=100)
    with caplog.at_level(logging.WARNING):
        assert form_groups(guides, {**FREE, "n_bins": 2}) == {}
    assert "no NTC group matches the guide frequencies of any target" in caplog.text
    assert "Set `ntc_groups: {n_bins: 1}`" in caplog.text
    # The hint helps.
    assert form_groups(guides, {**FREE, "n_bins": 1})


# The table


N_CELLS = 200


@pytest.fixture
def stored(write_screen, load, parts):
    """A stored screen of 4 targets of 2 guides and 12 NTC guides, and its outcome."""
    random = np.random.default_rng(2)
    names = [f"T{t}_{i}" for t in range(4) for i in range(2)] + [f"n,{i}" for i in range(12)]
    targets = [name[:2] if name.startswith("T") else "NTC" for name in names]
    calls = random.random((N_CELLS, len(names))) < 0.06
    calls[:, -1] = False
    cells = [f"cell{i}" for i in range(N_CELLS)]
    obs = pd.DataFrame(
        {
            "p_mito": random.random(N_CELLS),
            "batch": pd.Categorical(random.choice(["x", "y"], N_CELLS)),
        },
        index=cells,
    )
    path = write_screen(
        X=sp.csr_matrix(np.ones((N_CELLS, 4))),
        obs=obs,
        guide_assignment=sp.csr_matrix(calls.astype(float)),
        cnmf_usage=random.dirichlet(np.ones(3), N_CELLS),
        covar=obs,
        guide_names=np.array(names, dtype=object),
        guide2gene=dict(zip(names, targets, strict=True)),
    )
    return load(path), dict(zip(names, calls.T, strict=True))


def rows_of(path) -> list[dict[str, str]]:
    with open(path, newline="") as lines:
        return list(csv.DictReader(lines, delimiter="\t"))


def test_the_table_has_the_columns_of_the_targets_and_the_cells_of_the_union(stored):
    folder, calls = stored
    table = folder / "ntc_groups.tsv"
    write_ntc_groups(folder / "screen.h5ad", table, "groups", {**FREE, "n_bins": 1}, 3)
    found, targets = read_tsv(table), read_tsv(folder / "targets.tsv")
    assert list(found) == list(targets)
    assert set(found["kind"]) == {NTC_GROUP} and len(found) == 2 * 6
    for row in rows_of(table):
        guides = split_guides(row["guides"])
        assert len(guides) == 2 and all(guide.startswith("n,") for guide in guides)
        carried = np.any([calls[guide] for guide in guides], axis=0)
        assert int(row["n_cells"]) == carried.sum() > 0
        assert row["status"] == "kept"
    assert found.equals(found.sort_values(["batch", "target"], kind="stable", ignore_index=True))


def test_groups_are_dealt_to_all_batches_evenly(stored):
    folder, _ = stored
    table = folder / "ntc_groups.tsv"
    for n_batches in (1, 3, 20):
        write_ntc_groups(folder / "screen.h5ad", table, "groups", {**FREE, "n_bins": 1}, n_batches)
        cells = read_tsv(table).groupby("batch")["n_cells"].sum()
        assert set(cells.index) == set(range(min(n_batches, 12)))
        # Greedy dealing: no batch exceeds another by more than one group.
        assert cells.max() - cells.min() <= read_tsv(table)["n_cells"].max() + 1


def test_the_table_is_the_same_every_time(stored):
    folder, _ = stored
    written = []
    for name in ("one.tsv", "two.tsv"):
        write_ntc_groups(folder / "screen.h5ad", folder / name, "groups", FREE, 2)
        written.append((folder / name).read_bytes())
    assert written[0] == written[1]


@pytest.mark.parametrize("controls", ["guides", "none"])
def test_without_groups_the_table_has_columns_alone(stored, controls):
    folder, _ = stored
    table = folder / "ntc_groups.tsv"
    write_ntc_groups(folder / "screen.h5ad", table, controls, FREE, 2)
    assert table.read_text() == "target\tkind\tguides\tn_cells\tbatch\tstatus\n"


def test_a_group_that_no_cell_carries_says_so(stored):
    folder, calls = stored
    assert not calls["n,11"].any()
    table = folder / "ntc_groups.tsv"
    settings = {**FREE, "group_size": 1, "n_bins": 1, "n_ensemble": 1}
    write_ntc_groups(folder / "screen.h5ad", table, "groups", settings, 1)
    status = {split_guides(row["guides"])[0]: row["status"] for row in rows_of(table)}
    assert len(status) == 12
    assert status.pop("n,11") == "no cell carries its guides"
    assert set(status.values()) == {"kept"}


def test_a_batch_is_prepared_with_the_union_of_a_groups_cells(stored):
    folder, calls = stored
    screen, outcome = folder / "screen.h5ad", folder / "outcome.h5ad"
    table, propensity = folder / "ntc_groups.tsv", folder / "propensity.h5"
    write_ntc_groups(screen, table, "groups", {**FREE, "n_bins": 1}, 1)
    section = {"key": "cnmf_usage", "transform": "none", "library_size": None}
    normalize(screen, outcome, section)
    settings = {
        "propensity": {"inverse_penalty": 1.0, "clip": 1e-6},
        "sampler": "bernoulli_index",
        "stratify": {},
    }
    units = [folder / "targets.tsv", table]
    prepare_batch(screen, units, outcome, propensity, 0, "all", "groups", settings)
    batch, _ = read_batch(propensity)
    assert sorted(batch.kinds) == [NTC_GROUP] * 12 + [NTC_GUIDE] * 12 + [TARGET] * 4
    members = {row["target"]: split_guides(row["guides"]) for row in rows_of(table)}
    overlap = 0
    for kind, name, cells in zip(batch.kinds, batch.names, batch.treated, strict=True):
        if kind == NTC_GROUP:
            carried = np.array([calls[guide] for guide in members[name]])
            np.testing.assert_array_equal(cells, np.flatnonzero(carried.any(axis=0)))
            overlap += int((carried.sum(axis=0) > 1).sum())
        else:
            np.testing.assert_array_equal(cells, read_treated(screen, [(kind, name)])[0])
        if kind == TARGET:
            own = calls[f"{name}_0"] | calls[f"{name}_1"]
            np.testing.assert_array_equal(cells, np.flatnonzero(own))
    # Cells with both guides of a group count once, and there are some.
    assert overlap > 0
