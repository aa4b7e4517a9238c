"""Strata of the permutation sampler: bins of covariates, and the merging of small strata."""

from collections import Counter

import numpy as np
import pytest

from condrand.samplers.strata import Strata, compute_bins, make_strata

SETTINGS = {
    "n_bins": 20,
    "min_stratum_size": 2,
    "n_burden_bins": 8,
    "burden_bin_method": "quantile",
    "burden_clip_quantiles": [0.0, 1.0],
}


def bins_by_definition(values, n_bins, method, clip_quantiles):
    values = np.clip(values, *np.quantile(values, clip_quantiles))
    if n_bins <= 1:
        return np.zeros(values.size, int), 1
    if method == "quantile":
        edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    else:
        edges = np.unique(np.linspace(values.min(), values.max(), n_bins + 1))
    if edges.size <= 2:
        return np.zeros(values.size, int), 1
    n_eff = edges.size - 1
    return np.clip(np.searchsorted(edges, values, side="right") - 1, 0, n_eff - 1), n_eff


VALUES = {
    "smooth": np.random.default_rng(0).normal(size=997),
    "counts": np.random.default_rng(1).poisson(2.0, 500).astype(float),
    "mostly zero": np.where(np.arange(300) % 10, 0.0, np.arange(300.0)),
    "few": np.array([3.0, 1.0, 2.0]),
    "one": np.array([4.0]),
    "equal": np.full(50, 0.25),
    "two values": np.arange(50.0) % 2,
    "whole numbers": np.arange(40),
}


@pytest.mark.parametrize("name", VALUES)
@pytest.mark.parametrize("method", ["quantile", "uniform"])
@pytest.mark.parametrize("clip_quantiles", [(0.0, 1.0), (0.05, 0.9)])
@pytest.mark.parametrize("n_bins", [0, 1, 2, 7, 40])
def test_bins_are_those_of_the_definition(name, method, clip_quantiles, n_bins):
    expected, n_expected = bins_by_definition(VALUES[name], n_bins, method, clip_quantiles)
    bin_id, n_eff, edges = compute_bins(VALUES[name], n_bins, method, clip_quantiles)
    np.testing.assert_array_equal(bin_id, expected)
    assert bin_id.dtype == np.int32
    assert n_eff == n_expected
    assert n_eff == max(edges.size - 1, 1)
    assert np.all(np.diff(edges) > 0)


def test_quantile_bins_of_smooth_values_are_equally_full():
    bin_id, n_eff, _ = compute_bins(np.random.default_rng(2).normal(size=1000), 20)
    assert n_eff == 20
    assert set(np.bincount(bin_id)) <= {49, 50, 51}


def test_a_value_on_an_edge_belongs_to_the_bin_above_and_the_last_bin_is_closed():
    bin_id, n_eff, edges = compute_bins(np.array([0.0, 1.0, 2.0, 3.0]), 3, "uniform")
    np.testing.assert_array_equal(edges, [0, 1, 2, 3])
    np.testing.assert_array_equal(bin_id, [0, 1, 2, 2])
    assert n_eff == 3


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_values_that_are_not_finite_are_refused(bad):
    with pytest.raises(ValueError, match="not all finite"):
        compute_bins(np.array([1.0, bad, 2.0]), 3)


@pytest.mark.parametrize("values", [np.empty(0), np.ones((2, 2))])
def test_values_of_another_shape_are_refused(values):
    with pytest.raises(ValueError, match="shape"):
        compute_bins(values, 3)


def test_an_unknown_method_is_refused():
    with pytest.raises(ValueError, match="'kmeans'"):
        compute_bins(np.arange(5.0), 3, "kmeans")


@pytest.mark.parametrize("clip", [(0.5, 0.5), (0.9, 0.1), (-0.1, 1.0), (0.0, 1.1), (np.nan, 1)])
def test_bad_clip_quantiles_are_refused(clip):
    with pytest.raises(ValueError, match="clip_quantiles"):
        compute_bins(np.arange(5.0), 3, clip_quantiles=clip)


# Strata


def enough(parts: list[list[int]], least: int) -> list[list[int]]:
    """Consecutive parts joined until each has `least` members; what is left joins the last."""
    joined: list[list[int]] = []
    left: list[int] = []
    for part in parts:
        left = left + part
        if len(left) >= least:
            joined.append(left)
            left = []
    if left and joined:
        joined[-1] = joined[-1] + left
    elif left:
        joined.append(left)
    return joined


def raw_strata(p, batch, burden, settings) -> list[tuple[int, int, int]]:
    """Batch, bin of burden and bin of propensity of each cell."""
    p_bin = bins_by_definition(p, settings["n_bins"], "quantile", (0, 1))[0]
    burden_bin = burden
    if settings["n_burden_bins"] is not None:
        burden_bin = bins_by_definition(
            burden,
            settings["n_burden_bins"],
            settings["burden_bin_method"],
            settings["burden_clip_quantiles"],
        )[0]
    return [*zip(batch.tolist(), burden_bin.tolist(), p_bin.tolist(), strict=True)]


def groups_by_definition(p, batch, burden, settings) -> tuple[list[list[int]], int]:
    """Cells of each stratum in the order of the strata, and how many were merged."""
    least = settings["min_stratum_size"]
    screen: dict[int, dict[int, dict[int, list[int]]]] = {}
    for cell, (b, u, k) in enumerate(raw_strata(p, batch, burden, settings)):
        screen.setdefault(b, {}).setdefault(u, {}).setdefault(k, []).append(cell)
    of_screen, n_small = [], 0
    for b in sorted(screen):
        of_batch = []
        for u in sorted(screen[b]):
            bins = [screen[b][u][k] for k in sorted(screen[b][u])]
            n_small += sum(len(cells) < least for cells in bins)
            of_batch += enough(bins, least)
        of_screen += enough(of_batch, least)
    return [sorted(cells) for cells in enough(of_screen, least)], n_small


def test_each_burden_is_a_bin_of_its_own_unless_bins_are_asked_for():
    # Of eight quantile bins the rare high counts would share one, and 0 and 1 here all.
    burden = np.log1p(np.repeat([0.0, 1.0, 2.0, 5.0], [900, 60, 30, 10]))
    p = np.full(1000, 0.1)
    treated = np.arange(890, 1000)
    strata = make_strata(treated, p, None, burden, {**SETTINGS, "n_burden_bins": None})
    assert np.diff(strata.indptr).tolist() == [900, 60, 30, 10]
    assert strata.n_treated.tolist() == [10, 60, 30, 10]
    assert make_strata(treated, p, None, burden, SETTINGS).n_strata == 1
    burden[3] = np.nan
    with pytest.raises(ValueError, match="not finite"):
        make_strata(treated, p, None, burden, {**SETTINGS, "n_burden_bins": None})


def random_screen(n_cells: int, seed: int):
    random = np.random.default_rng(seed)
    p = random.beta(1, 20, n_cells)
    # Batches from large to a single cell.
    batch = np.minimum(random.geometric(0.5, n_cells) - 1, 7).astype(np.int32)
    burden = random.poisson(3.0, n_cells).astype(float)
    treated = np.flatnonzero(random.random(n_cells) < 0.1)
    return treated, p, batch, burden


def burden_settings(seed: int) -> dict:
    """Each burden a bin of its own, or bins at quantiles, or equally spaced bins."""
    return {
        "n_burden_bins": [None, 3, 3][seed % 3],
        "burden_bin_method": ["quantile", "uniform"][seed % 2],
        "burden_clip_quantiles": [0.0, 0.95],
    }


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("least", [1, 2, 5, 40, 100])
@pytest.mark.parametrize("n_cells", [60, 700])
def test_strata_are_those_of_the_definition(n_cells, least, seed):
    treated, p, batch, burden = random_screen(n_cells, seed)
    settings = {**SETTINGS, "n_bins": 5, "min_stratum_size": least, **burden_settings(seed)}
    strata = make_strata(treated, p, batch, burden, settings)
    groups, n_merged = groups_by_definition(p, batch, burden, settings)
    assert strata.n_strata == len(groups)
    assert strata.n_merged == n_merged
    np.testing.assert_array_equal(strata.cells, np.concatenate(groups))
    np.testing.assert_array_equal(strata.indptr, np.cumsum([0, *map(len, groups)]))
    n_treated = [np.isin(cells, treated).sum() for cells in groups]
    np.testing.assert_array_equal(strata.n_treated, n_treated)
    sizes = list(map(len, groups))
    movable = [m for m, n in zip(n_treated, sizes, strict=True) if 0 < m < n]
    assert strata.free == sum(movable)


@pytest.mark.parametrize("n_bins", [1, 20, 400])
@pytest.mark.parametrize("least", [1, 2, 5, 40, 600, 1000])
@pytest.mark.parametrize("seed", range(6))
def test_strata_are_large_enough_and_consecutive(seed, least, n_bins):
    treated, p, batch, burden = random_screen(700, 20 + seed)
    settings = {**SETTINGS, "n_bins": n_bins, "min_stratum_size": least, **burden_settings(seed)}
    strata = make_strata(treated, p, batch, burden, settings)
    assert np.diff(strata.indptr).min() >= min(least, 700)
    assert sorted(strata.cells.tolist()) == list(range(700))
    # A stratum holds all cells from its first batch, burden and propensity to its last ones.
    raw = raw_strata(p, batch, burden, settings)
    keys = [{raw[cell] for cell in cells} for cells in members(strata)]
    assert all(max(one) < min(other) for one, other in zip(keys, keys[1:], strict=False))


def screen_of(sizes: list[list[list[int]]]):
    """A screen with so many cells of each batch, burden and propensity, in this order."""
    cells = [
        (b, u, k)
        for b, burdens in enumerate(sizes)
        for u, bins in enumerate(burdens)
        for k, size in enumerate(bins)
        for _ in range(size)
    ]
    batch, burden, p = np.array(cells).T
    return p.astype(float), batch.astype(np.int32), burden.astype(float)


# More bins than any case has cells: each propensity is one of its own.
OF_EACH = {**SETTINGS, "n_bins": 1000, "n_burden_bins": None, "min_stratum_size": 3}


@pytest.mark.parametrize(
    ("sizes", "expected", "n_merged"),
    [
        ([[[5, 3], [4]], [[3]]], [5, 3, 4, 3], 0),
        ([[[4, 2, 5]]], [4, 7], 1),
        ([[[4, 2, 0, 5]]], [4, 7], 1),
        ([[[1, 1, 1, 4]]], [3, 4], 3),
        ([[[1, 1, 5, 4]]], [7, 4], 2),
        ([[[4, 5, 2]]], [4, 7], 1),
        ([[[4, 5, 1, 1]]], [4, 7], 2),
        ([[[4, 1, 2, 1]]], [4, 4], 3),
        ([[[4, 1], [5]]], [5, 5], 1),
        ([[[4], [1, 5]]], [4, 6], 1),
        ([[[1, 2], [4]]], [3, 4], 2),
        ([[[1, 1], [4, 5]]], [6, 5], 2),
        ([[[1], [2], [4]]], [3, 4], 2),
        ([[[4], [2], [1, 2, 5]]], [4, 5, 5], 3),
        ([[[4, 5], [1, 1]]], [4, 7], 2),
        ([[[4, 5], [1], [1]]], [4, 7], 2),
        ([[[4], [2]], [[5]]], [6, 5], 1),
        ([[[4]], [[2], [5]]], [4, 7], 1),
        ([[[1], [2]], [[4]]], [3, 4], 2),
        ([[[1], [1]], [[4], [5]]], [6, 5], 2),
        ([[[1]], [[2]], [[4]]], [3, 4], 2),
        ([[[4], [5]], [[1], [1]]], [4, 7], 2),
        ([[[1]], [[1]]], [2], 2),
        ([[[1]]], [1], 0),
    ],
    ids=[
        "nothing small",
        "a small bin joins the next",
        "the next that has cells",
        "small bins make one",
        "small bins join the next until they are enough",
        "the last bin joins the one before",
        "the last bins join the one before",
        "the last bin joins what was joined before",
        "the last bin of a large burden stays in it",
        "the first bin of a large burden stays in it",
        "the bins of a burden are enough together",
        "a small burden joins the lowest propensities of the next",
        "small burdens make one",
        "a small burden joins what was joined in the next",
        "the last burden joins the highest propensities of the one before",
        "the last burdens join the one before",
        "the last burden of a large batch stays in it",
        "the first burden of a large batch stays in it",
        "the burdens of a batch are enough together",
        "a small batch joins the first stratum of the next",
        "small batches make one",
        "the last batch joins the last stratum of the one before",
        "a screen that is too small is one stratum",
        "a single stratum stays",
    ],
)
def test_small_strata_are_merged_by_the_rules(sizes, expected, n_merged):
    strata = make_strata(np.empty(0, np.int64), *screen_of(sizes), OF_EACH)
    assert np.diff(strata.indptr).tolist() == expected
    np.testing.assert_array_equal(strata.cells, np.arange(sum(expected)))
    assert strata.n_merged == n_merged


def test_without_merging_the_strata_are_in_order_of_batch_burden_and_propensity():
    p, batch, burden = screen_of([[[2, 3], [1]], [[4], [0, 2]]])
    order = np.random.default_rng(0).permutation(p.size)
    settings = {**OF_EACH, "min_stratum_size": 1}
    none = np.empty(0, np.int64)
    strata = make_strata(none, p[order], batch[order], burden[order], settings)
    expected = np.split(np.arange(12), [2, 5, 6, 10])
    assert [sorted(order[part].tolist()) for part in members(strata)] == [
        part.tolist() for part in expected
    ]
    assert strata.n_merged == 0


def test_no_stratum_spans_batches_while_every_batch_is_large_enough():
    treated, p, _, burden = random_screen(900, 3)
    batch = (np.arange(900) % 3).astype(np.int32)
    strata = make_strata(treated, p, batch, burden, {**SETTINGS, "min_stratum_size": 20})
    assert strata.n_merged > 0
    for low, high in zip(strata.indptr, strata.indptr[1:], strict=False):
        assert len(set(batch[strata.cells[low:high]])) == 1


def members(strata: Strata) -> list[list[int]]:
    return [part.tolist() for part in np.split(strata.cells, strata.indptr[1:-1])]


def test_without_batch_and_burden_the_strata_are_bins_of_the_propensity():
    treated, p, _, _ = random_screen(700, 4)
    strata = make_strata(treated, p, None, None, SETTINGS)
    bin_id, n_eff, _ = compute_bins(p, 20)
    assert members(strata) == [np.flatnonzero(bin_id == b).tolist() for b in range(n_eff)]


def test_batch_alone_and_burden_alone_stratify():
    treated, _, _, burden = random_screen(700, 5)
    batch = (np.arange(700) % 3).astype(np.int32)
    p = np.full(700, 0.1)
    by_batch = make_strata(treated, p, batch, None, SETTINGS)
    assert members(by_batch) == [list(range(b, 700, 3)) for b in range(3)]
    by_burden = make_strata(treated, p, None, burden, SETTINGS)
    bin_id, _, _ = compute_bins(burden, 8)
    assert Counter(map(tuple, members(by_burden))) == Counter(
        tuple(np.flatnonzero(bin_id == b).tolist()) for b in set(bin_id.tolist())
    )


def test_batch_codes_that_no_cell_has_do_not_matter():
    treated, p, batch, burden = random_screen(300, 6)
    dense = make_strata(treated, p, batch, burden, SETTINGS)
    gaps = make_strata(treated, p, batch * 3 + 2, burden, SETTINGS)
    assert members(dense) == members(gaps)


def test_strata_do_not_depend_on_the_order_of_cells():
    treated, p, batch, burden = random_screen(700, 7)
    order = np.random.default_rng(8).permutation(700)
    place = np.argsort(order)
    one = make_strata(treated, p, batch, burden, SETTINGS)
    other = make_strata(np.sort(place[treated]), p[order], batch[order], burden[order], SETTINGS)
    assert members(one) == [sorted(order[part].tolist()) for part in members(other)]
    np.testing.assert_array_equal(one.n_treated, other.n_treated)


def test_arrays_have_the_types_that_the_kernels_were_compiled_for():
    strata = make_strata(*random_screen(200, 9), SETTINGS)
    assert strata.cells.dtype == np.int32
    assert strata.indptr.dtype == strata.n_treated.dtype == np.int64
    assert strata.cells.flags.c_contiguous and strata.indptr.flags.c_contiguous


def test_only_treated_cells_beside_untreated_ones_are_free():
    strata = Strata(np.arange(9, dtype=np.int32), np.array([0, 2, 5, 9]), np.array([2, 0, 3]), 0)
    assert strata.n_strata == 3
    assert strata.free == 3


def test_a_unit_without_treated_cells_has_nothing_to_move():
    _, p, batch, burden = random_screen(100, 10)
    strata = make_strata(np.empty(0, np.int64), p, batch, burden, SETTINGS)
    assert strata.n_treated.sum() == strata.free == 0


def test_what_cannot_be_stratified_is_refused():
    treated, p, batch, burden = random_screen(100, 11)
    with pytest.raises(ValueError, match="batch has shape"):
        make_strata(treated, p, batch[:-1], burden, SETTINGS)
    with pytest.raises(ValueError, match="burden has shape"):
        make_strata(treated, p, batch, burden[:-1], SETTINGS)
    with pytest.raises(ValueError, match="without a batch"):
        make_strata(treated, p, np.where(batch == 1, -1, batch), burden, SETTINGS)
    with pytest.raises(ValueError, match="not all finite"):
        make_strata(treated, p, batch, np.where(burden == 1, np.nan, burden), SETTINGS)
