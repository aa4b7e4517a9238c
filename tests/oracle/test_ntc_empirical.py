"""The NTC empirical null against brute force, and its level on null data."""

from itertools import combinations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy import stats

from condrand.nulls.combine import fisher, stouffer, stouffer_one_sided
from condrand.nulls.ntc_empirical import (
    Against,
    Matching,
    Units,
    cells_of_units,
    compute_ntc_empirical_pvals_crossfit,
    compute_ntc_empirical_pvals_gene_agg_crossfit,
    compute_ols_denom,
    compute_ols_denom_reference,
    empirical_pvals_by_batch,
    empirical_pvals_vs_ntc,
    sample_ntc_pseudogenes_with_replacement,
    split_ntc_guides,
    split_ntc_units,
    unit_statistics,
)
from condrand.statistics import ols

N_CELLS = 400


def units_of(n_units: int, seed: int, n_features: int = 3, n_cells: int = 5000) -> Units:
    """Null effects of unequal precision, some tied, one unit that cannot be tested."""
    random = np.random.default_rng(seed)
    n1 = random.integers(5, 400, n_units)
    d = n1 * random.uniform(0.6, 1.0, n_units)
    beta = random.normal(size=(n_units, n_features)) / np.sqrt(d)[:, None]
    beta[0] = np.nan
    beta[1:4] = np.round(beta[1:4], 1)
    return Units(beta, n1, n_cells - n1, d, random.normal(-3, 1, n_units))


# Pseudo-genes


def test_pseudo_genes_are_sets_of_distinct_controls():
    names = [f"c{i}" for i in range(9)]
    units = sample_ntc_pseudogenes_with_replacement(names, 6, 500, seed=3)
    assert units.shape == (500, 6)
    assert all(len(set(row)) == 6 and list(row) == sorted(row) for row in units)
    assert set(units.ravel()) == set(names)


def test_every_set_is_drawn_about_equally_often():
    units = sample_ntc_pseudogenes_with_replacement(np.arange(6), 3, 20_000, seed=1)
    counts = [(units == each).all(axis=1).sum() for each in combinations(range(6), 3)]
    assert sum(counts) == 20_000
    assert stats.chisquare(counts).pvalue > 1e-3


def test_pseudo_genes_depend_on_the_seed_and_not_on_the_order():
    guides = np.array([7, 2, 11, 30, 4, 5, 6])
    draw = sample_ntc_pseudogenes_with_replacement
    np.testing.assert_array_equal(draw(guides, 6, 50, 1), draw(guides[::-1], 6, 50, 1))
    assert (draw(guides, 3, 50, 1) != draw(guides, 3, 50, 2)).any()
    # All there are: the one set possible.
    np.testing.assert_array_equal(draw(guides, 7, 2, 1), np.sort(guides)[None].repeat(2, axis=0))


def test_too_few_controls_are_refused():
    with pytest.raises(ValueError, match="6 guides cannot be drawn from 5 control guides"):
        sample_ntc_pseudogenes_with_replacement(list("abcde"))


def test_the_cells_of_a_unit_are_the_union_of_its_guides():
    cells = {"a": np.array([1, 5, 9]), "b": np.array([5, 6]), "c": np.array([0, 9])}
    found = list(cells_of_units([["a", "b"], ["c", "a"], ["b"]], cells))
    assert [f.tolist() for f in found] == [[1, 5, 6, 9], [0, 1, 5, 9], [5, 6]]


def test_halves_of_the_controls_share_no_guide():
    guides = [f"c{i}" for i in range(21)]
    for split in (split_ntc_guides, split_ntc_units):
        A, B = split(guides, 0.3, seed=2)
        assert len(A) == 6 and sorted([*A, *B]) == sorted(guides)
        for one, other in zip((A, B), split(guides[::-1], 0.3, seed=2), strict=True):
            np.testing.assert_array_equal(one, other)
        assert set(A) != set(split(guides, 0.3, seed=3)[0])
    with pytest.raises(ValueError, match="each needs at least one"):
        split_ntc_guides(guides, 0.0)


# Statistics


def design_and_outcome():
    """Covariates with intercept, and features of which one is a combination of them."""
    random = np.random.default_rng(5)
    design = np.column_stack([np.ones(N_CELLS), random.normal(size=(N_CELLS, 3))])
    values = design @ random.normal(size=(4, 4)) + random.normal(size=(N_CELLS, 4))
    outcome = np.maximum(values, 0.0)
    outcome[:, 2] = design[:, :2] @ [3.0, 0.5]
    return design, outcome


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix])
def test_statistics_are_those_of_least_squares(form):
    design, outcome = design_and_outcome()
    scores = ols.score(form(outcome), np.ascontiguousarray(np.linalg.qr(design)[0]))
    random = np.random.default_rng(6)
    lists = [np.sort(random.choice(N_CELLS, n, replace=False)) for n in (1, 7, 150)]
    lists += [np.array([], np.int64), np.arange(N_CELLS)]
    beta, n1, d = unit_statistics(scores, iter(lists))
    assert n1.tolist() == [1, 7, 150, 0, N_CELLS]
    for u, cells in enumerate(lists[:3]):
        x = np.isin(np.arange(N_CELLS), cells).astype(float)
        expected = np.linalg.lstsq(np.column_stack([design, x]), outcome, rcond=None)[0][-1]
        np.testing.assert_allclose(beta[u, [0, 1, 3]], expected[[0, 1, 3]], rtol=1e-9)
        assert d[u] == pytest.approx(compute_ols_denom_reference(design, x), rel=1e-10)
        assert d[u] == pytest.approx(compute_ols_denom(design, x), rel=1e-10)
        one = ols.coefficients(scores, scores.observed(cells))[0]
        np.testing.assert_array_equal(beta[u, [0, 1, 3]], one[[0, 1, 3]])
    # The covariates explain the feature, or the indicator of all cells; no cell has no effect.
    assert np.isnan(beta[:, 2]).all() and np.isnan(beta[3:]).all()
    assert d[3] == 0 and d[4] == pytest.approx(0, abs=1e-9)


def test_the_denominator_allows_for_collinear_covariates():
    design, _ = design_and_outcome()
    x = np.arange(N_CELLS) % 7 == 0
    twice = np.column_stack([design, design[:, 1] - 2 * design[:, 2], 1e6 * design[:, 3]])
    expected = compute_ols_denom_reference(design, x)
    assert compute_ols_denom(twice, x) == pytest.approx(expected, rel=1e-9)
    assert compute_ols_denom_reference(twice, x) == pytest.approx(expected, rel=1e-9)
    assert compute_ols_denom(np.column_stack([design, x]), x) == pytest.approx(0, abs=1e-9)


# Comparison


def naive_bin(values, n_bins, x):
    """Bin of x between the quantiles of values, by walking along them."""
    edges = sorted({np.quantile(values, i / n_bins) for i in range(n_bins + 1)})
    if len(edges) <= 2:
        return 0
    return min(max(sum(edge <= x for edge in edges) - 1, 0), len(edges) - 2)


def naive_p_values(
    units: Units, ntc: Units, matching: Matching, scale: str, genes: Units | None = None
):
    """Each unit alone: its bin (among the genes), the controls around it, and the counting."""
    genes = genes or units
    tested = ~np.isnan(genes.beta[:, 0])

    def place(of, u):
        found = [
            naive_bin(genes.n1[tested], matching.n_n1_bins, of.n1[u]),
            naive_bin(np.log(genes.d[tested]), matching.n_d_bins, np.log(of.d[u])),
        ]
        if matching.use_pbar:
            found.append(naive_bin(genes.pbar[tested], matching.n_pbar_bins, of.pbar[u]))
        return np.array(found)

    def extremity(of, u, k):
        return abs(of.beta[u, k]) * (np.sqrt(of.d[u]) if scale == "studentized" else 1)

    usable = [u for u in range(len(ntc.beta)) if not np.isnan(ntc.beta[u, 0])]
    places = {u: place(ntc, u) for u in usable}
    most = max(matching.n_n1_bins, matching.n_d_bins, matching.n_pbar_bins * matching.use_pbar)
    p, how = np.full(units.beta.shape, np.nan), {}
    for g in np.flatnonzero(~np.isnan(units.beta[:, 0])):
        here = place(units, g)
        for radius in range(most + 1):
            near = [u for u in usable if np.abs(places[u] - here).sum() <= radius]
            if len(near) >= matching.min_ntc_per_bin:
                key = f"radius_{radius}" if radius else "bin"
                break
        else:
            near, key = usable, "all"
        how[key] = how.get(key, 0) + 1
        for k in range(units.beta.shape[1]):
            as_far = sum(extremity(ntc, u, k) >= extremity(units, g, k) for u in near)
            p[g, k] = (1 + as_far) / (len(near) + 1)
    return p, how


MATCHINGS = [
    Matching(),
    Matching(n_n1_bins=3, n_d_bins=4, min_ntc_per_bin=5),
    Matching(n_n1_bins=3, n_d_bins=2, min_ntc_per_bin=20, use_pbar=True, n_pbar_bins=4),
    Matching(n_n1_bins=1, n_d_bins=1),
    Matching(n_n1_bins=2, n_d_bins=2, min_ntc_per_bin=10_000),
]


@pytest.mark.parametrize("scale", ["studentized", "raw"])
@pytest.mark.parametrize("matching", MATCHINGS)
def test_p_values_are_those_of_the_definition(matching, scale):
    genes, ntc = units_of(40, 1), units_of(300, 2)
    p, info = empirical_pvals_vs_ntc(
        *(genes.beta, genes.n1, genes.d, ntc.beta, ntc.n1, ntc.d, genes.pbar, ntc.pbar),
        matching=vars(matching),
        scale=scale,
    )
    expected, how = naive_p_values(genes, ntc, matching, scale)
    np.testing.assert_array_equal(p, expected)
    assert np.isnan(p[0]).all() and np.isfinite(p[1:]).all()
    assert info["fallback_counts"] == how
    assert sum(info["bin_sizes"].values()) == 299
    assert info["n_bins_n1"] == matching.n_n1_bins and info["n_bins_d"] == matching.n_d_bins
    assert info["use_pbar"] == matching.use_pbar


def test_every_way_of_finding_controls_occurs_in_these_tests():
    ways = set()
    for matching in MATCHINGS:
        ways |= set(naive_p_values(units_of(40, 1), units_of(300, 2), matching, "raw")[1])
    assert {"bin", "radius_1", "radius_2", "all"} <= ways


def test_ties_count_as_at_least_as_extreme():
    p, _ = empirical_pvals_vs_ntc(
        *(np.array([[2.0], [-1.0]]), np.array([9, 9]), np.array([4.0, 4.0])),
        *(np.array([[2.0], [-2.0], [1.0]]), np.full(3, 9), np.full(3, 4.0)),
    )
    np.testing.assert_array_equal(p[:, 0], [3 / 4, 4 / 4])


def test_a_feature_that_does_not_vary_has_no_p_value():
    genes, ntc = units_of(20, 1), units_of(100, 2)
    genes.beta[:, 1] = ntc.beta[:, 1] = np.nan
    p, _ = empirical_pvals_vs_ntc(*genes[:2], genes.d, *ntc[:2], ntc.d)
    assert np.isnan(p[:, 1]).all() and np.isfinite(p[1:, [0, 2]]).all()


def test_what_cannot_be_compared_is_refused():
    genes, ntc = units_of(20, 1), units_of(100, 2)
    given = (*genes[:2], genes.d, *ntc[:2], ntc.d)
    with pytest.raises(ValueError, match="mean logit propensity"):
        empirical_pvals_vs_ntc(*given, matching={"use_pbar": True})
    with pytest.raises(ValueError, match="matching has no n_bins"):
        empirical_pvals_vs_ntc(*given, matching={"n_bins": 3})
    with pytest.raises(ValueError, match="n_d_bins is 0"):
        empirical_pvals_vs_ntc(*given, matching={"n_d_bins": 0})
    with pytest.raises(ValueError, match="scale 't' is none of studentized, raw"):
        empirical_pvals_vs_ntc(*given, scale="t")
    with pytest.raises(ValueError, match="combine_method 'max'"):
        Against(combine_method="max")
    with pytest.raises(ValueError, match="no control unit"):
        empirical_pvals_vs_ntc(*given[:3], np.full_like(ntc.beta, np.nan), *given[4:])


# Batches


@pytest.fixture
def batches():
    """Genes and controls in three batches; gene 5 has few cells in all of them, gene 6 in one."""
    genes = {batch: units_of(30, i) for i, batch in enumerate("xyz")}
    ntc = {batch: units_of(200, 10 + i) for i, batch in enumerate("xyz")}
    for units in genes.values():
        units.n1[5:] = np.maximum(units.n1[5:], 10)
        units.n1[5] = 9
        units.beta[0] = 0.1
    genes["y"].n0[6] = 9
    return genes, ntc


@pytest.mark.parametrize("method", ["fisher", "stouffer"])
def test_batches_are_tested_apart_and_combined(batches, method):
    genes, ntc = batches
    against = Against(combine_method=method)
    p, info = empirical_pvals_by_batch(genes, ntc, against)
    apart = []
    for batch in "xyz":
        few = (genes[batch].n1 < 10) | (genes[batch].n0 < 10)
        of_genes = genes[batch]._replace(beta=np.where(few[:, None], np.nan, genes[batch].beta))
        few = (ntc[batch].n1 < 10) | (ntc[batch].n0 < 10)
        of_ntc = ntc[batch]._replace(beta=np.where(few[:, None], np.nan, ntc[batch].beta))
        expected, _ = naive_p_values(of_genes, of_ntc, Matching(), "studentized")
        np.testing.assert_array_equal(info["p_by_batch"][batch], expected)
        apart.append(expected)
    combined = fisher(np.stack(apart))
    if method == "stouffer":
        combined = stouffer(np.stack(apart), np.stack([genes[b].beta for b in "xyz"]))
    np.testing.assert_array_equal(p, combined)
    assert np.isnan(p[5]).all() and info["n_batches"][5] == 0
    assert np.isfinite(p[6]).all() and info["n_batches"][6] == 2
    assert list(info["matching"]) == ["x", "y", "z"]


def test_opposite_effects_cancel_in_signed_stouffer_alone(batches):
    genes, ntc = batches
    for batch, effect in zip("xyz", (5.0, -5.0, 1e-9), strict=True):
        genes[batch].beta[8] = effect
    alike = empirical_pvals_by_batch(genes, ntc, Against(combine_method="fisher"))[0][8]
    signed = empirical_pvals_by_batch(genes, ntc, Against(combine_method="stouffer"))[0][8]
    assert (alike < 0.05).all() and (signed > 0.3).all()


def test_plain_tuples_do_for_units(batches):
    plain = [{b: tuple(units)[:4] for b, units in side.items()} for side in batches]
    p, _ = empirical_pvals_by_batch(*plain)
    np.testing.assert_array_equal(p, empirical_pvals_by_batch(*batches)[0])


def test_a_batch_without_controls_is_not_used(batches):
    genes, ntc = batches
    ntc["y"].n1[:] = 3
    p, info = empirical_pvals_by_batch(genes, ntc)
    del genes["y"], ntc["y"]
    np.testing.assert_array_equal(p, empirical_pvals_by_batch(genes, ntc)[0])
    assert np.isnan(info["p_by_batch"]["y"]).all() and info["matching"]["y"] is None
    assert info["n_batches"].max() == 2


def test_batches_of_genes_and_controls_must_agree(batches):
    genes, ntc = batches
    del ntc["z"]
    with pytest.raises(ValueError, match=r"\['x', 'y', 'z'\].*\['x', 'y'\]"):
        empirical_pvals_by_batch(genes, ntc)
    with pytest.raises(ValueError, match="batches"):
        empirical_pvals_by_batch({}, {})


# Cross-fit


def test_the_pooled_cross_fit_compares_both_with_half_a():
    genes, A, B = units_of(40, 1), units_of(200, 2), units_of(150, 3)
    out = compute_ntc_empirical_pvals_crossfit(genes, A, B)
    expected, _ = naive_p_values(genes, A, Matching(), "studentized")
    np.testing.assert_array_equal(out["meta_p_real_vs_A"], expected)
    assert out["meta_p_ntcB_vs_A"].shape == (150, 3)
    assert out["batches"] == [] and out["p_real_vs_A_by_batch"] == {}
    assert out["p_ntcB_vs_A_by_batch"] == {} and set(out["matching_diagnostics"]) == {"pooled"}


def test_the_bins_of_the_cross_fit_are_those_of_the_genes():
    genes, A, B = units_of(40, 1), units_of(200, 2), units_of(60, 3)
    B.n1[:] = B.n1 // 4
    against = Against(Matching(min_ntc_per_bin=10))
    out = compute_ntc_empirical_pvals_crossfit(genes, A, B, against)
    expected, how = naive_p_values(B, A, against.matching, "studentized", genes)
    np.testing.assert_array_equal(out["meta_p_ntcB_vs_A"], expected)
    info = out["matching_diagnostics"]["pooled"]["ntcB_vs_A"]
    assert info["fallback_counts"] == how
    assert (expected != naive_p_values(B, A, against.matching, "studentized")[0]).any()


@pytest.mark.parametrize("method", ["fisher", "stouffer"])
def test_the_cross_fit_by_gene_takes_the_largest_effect(batches, method):
    genes, A = batches
    B = {batch: units_of(50, 20 + i) for i, batch in enumerate("xyz")}
    against = Against(combine_method=method)

    def largest(units):
        t = np.abs(units.beta) * np.sqrt(units.d)[:, None]
        few = (units.n1 < 10) | (units.n0 < 10)
        t[few] = np.nan
        return units._replace(beta=t.max(axis=1)[:, None])

    out = compute_ntc_empirical_pvals_gene_agg_crossfit(genes, A, B, against)
    assert out["batches"] == ["x", "y", "z"]
    apart = []
    for batch in "xyz":
        of_genes, of_A = largest(genes[batch]), largest(A[batch])
        expected, _ = naive_p_values(of_genes, of_A, Matching(), "raw")
        np.testing.assert_array_equal(out["p_real_gene_vs_A_by_batch"][batch], expected[:, 0])
        apart.append(expected[:, 0])
    combine = fisher if method == "fisher" else stouffer_one_sided
    np.testing.assert_array_equal(out["meta_p_real_gene_vs_A"], combine(np.stack(apart)))
    assert out["meta_p_ntcB_gene_vs_A"].shape == (50,)
    assert set(out["p_ntcB_gene_vs_A_by_batch"]) == set("xyz")


def test_the_cross_fit_by_batch_agrees_with_testing_by_batch(batches):
    genes, A = batches
    B = {batch: units_of(50, 20 + i) for i, batch in enumerate("xyz")}
    against = Against(combine_method="stouffer")
    out = compute_ntc_empirical_pvals_crossfit(genes, A, B, against)
    p, info = empirical_pvals_by_batch(genes, A, against)
    np.testing.assert_array_equal(out["meta_p_real_vs_A"], p)
    for batch in "xyz":
        np.testing.assert_array_equal(
            out["p_real_vs_A_by_batch"][batch], info["p_by_batch"][batch]
        )


# The level


@pytest.fixture(scope="module")
def null_screen():
    """Effects in 10,000 cells and 60 null features: genes, and pseudo-genes of two halves.

    Guides differ in frequency; those of genes have half the cells of the controls'.
    """
    random = np.random.default_rng(0)
    n_cells, n_features = 10_000, 60
    design = np.column_stack([np.ones(n_cells), random.normal(size=(n_cells, 3))])
    outcome = design @ random.normal(size=(4, n_features))
    outcome += random.normal(size=(n_cells, n_features))
    scores = ols.score(outcome, np.ascontiguousarray(np.linalg.qr(design)[0]))

    def draw(n_guides, mean):
        sizes = random.gamma(6, mean / 6, n_guides).astype(int) + 1
        return [np.sort(random.choice(n_cells, n, replace=False)) for n in sizes]

    def statistics(units, cells):
        beta, n1, d = unit_statistics(scores, cells_of_units(units, cells))
        return Units(beta, n1, n_cells - n1, d)

    controls, guides = draw(400, 40), draw(6 * 100, 20)
    halves = [
        statistics(sample_ntc_pseudogenes_with_replacement(half, 6, 1000, seed), controls)
        for seed, half in enumerate(split_ntc_guides(np.arange(400), seed=4))
    ]
    return statistics(np.arange(600).reshape(100, 6), guides), *halves


def shares_below(p, level=0.05):
    return np.mean(p <= level)


def test_held_out_controls_have_uniform_p_values(null_screen):
    _, A, B = null_screen
    for matching in (Matching(), Matching(n_n1_bins=1, n_d_bins=1)):
        against = Against(matching)
        p = compute_ntc_empirical_pvals_crossfit(B, A, B, against)["meta_p_ntcB_vs_A"]
        # 60 features of about 30 independent sets of guides each: standard error about .006.
        assert shares_below(p) == pytest.approx(0.05, abs=0.02)
        deciles = np.histogram(p, np.linspace(0, 1, 11))[0] / p.size
        np.testing.assert_allclose(deciles, 0.1, atol=0.025)


def test_genes_with_fewer_cells_keep_the_level_only_when_studentized(null_screen):
    genes, A, _ = null_screen
    share = {}
    for scale in ("studentized", "raw"):
        p, _ = empirical_pvals_vs_ntc(*genes[:2], genes.d, *A[:2], A.d, scale=scale)
        share[scale] = shares_below(p)
    # 100 genes by 60 features: standard error .003, more for what they share in A.
    assert share["studentized"] == pytest.approx(0.05, abs=0.015)
    # Half the variance of an effect in the controls: P(|N(0, 2)| > 1.96) = .17.
    assert share["raw"] == pytest.approx(0.17, abs=0.03)


def test_the_gene_level_p_values_of_held_out_controls_keep_the_level(null_screen):
    genes, A, B = null_screen
    out = compute_ntc_empirical_pvals_gene_agg_crossfit(genes, A, B)
    for name in ("meta_p_ntcB_gene_vs_A", "meta_p_real_gene_vs_A"):
        assert shares_below(out[name], 0.5) == pytest.approx(0.5, abs=0.15)
