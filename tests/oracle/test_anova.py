"""Analysis of variance against R, scipy, the HSPC data, and nested least squares."""

import gzip
from time import perf_counter

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.fdr import benjamini_hochberg
from condrand.linear.anova import CONSTANT, NO_RESIDUAL, TOO_FEW, anova, anova_type_two
from references import read, within


@pytest.fixture(scope="module")
def hspc(data_dir):
    """Genes, values, and groups of the HSPC data."""
    path = data_dir / "hspc.Mouse_HSPC_reduced.txt.gz"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    with gzip.open(path, "rt") as file:
        table = pd.read_csv(file, sep="\t", index_col=0, float_precision="round_trip")
    groups = table.columns.str.replace(r"\..*", "", regex=True)
    return list(table.index), table.to_numpy(float), groups.to_numpy(str)


def nested_rss(y, *blocks):
    """Residual sum of squares of one feature on an intercept and blocks of columns, and rank."""
    design = np.hstack([np.ones((y.size, 1)), *blocks])
    weights, _, rank, _ = np.linalg.lstsq(design, y, rcond=1e-12)
    return np.sum((y - design @ weights) ** 2), rank


def by_definition(y, terms):
    """Type II F, p, sums of squares and df of every term, by differences of nested models."""
    full, rank = nested_rss(y, *terms.values())
    out = []
    for name in terms:
        own = set(name.split(":"))
        others = [terms[o] for o in terms if o != name and not own < set(o.split(":"))]
        without, rank_without = nested_rss(y, *others)
        with_it, rank_with = nested_rss(y, *others, terms[name])
        df = rank_with - rank_without
        f = (without - with_it) / df / (full / (y.size - rank))
        out.append((f, stats.f.sf(f, df, y.size - rank), without - with_it, df))
    return np.array(out).T


def dummies(labels):
    return (np.asarray(labels)[:, None] == np.unique(labels)[None, 1:]).astype(float)


# References


@pytest.mark.parametrize("name", ["stage3", "six", "unbalanced", "na"])
def test_one_factor_equals_r(limma, name):
    expected = read(limma / f"limma_ref_small_anova_{name}.csv")
    targets = read(limma / "gse60450_targets.csv", index_col=0)
    file = "limma_ref_small_E_na.csv" if name == "na" else "limma_ref_small_E.csv"
    values = read(limma / file, index_col=0)[targets.index].to_numpy()
    groups = targets["group" if name == "six" else "developmental_stage"].to_numpy(str)
    if name == "unbalanced":
        known = read(limma / "limma_ref_small_scalars.csv")
        kept = known.loc[known["key"] == "unbalanced.samples.1based", "value"].to_numpy(int) - 1
        values, groups = values[:, kept], groups[kept]
    made = anova(values, groups)
    two = anova_type_two(values, {"group": dummies(groups)})
    file = f"small_anova_{name}"
    pairs = (
        ("F", "F", two.F[:, 0]),
        ("p_value", "p", two.p_value[:, 0]),
        ("ss_group", "ss_group", two.sum_sq[:, 0]),
        ("ss_residual", "ss_resid", two.ss_residual),
        ("df_residual", "df_resid", two.df_residual),
    )
    for attribute, column, general in pairs:
        within(attribute, file, getattr(made, attribute), expected[column], 1e-11, True)
        within(f"{attribute}, type II", file, general, expected[column], 1e-11, True)
    within("df_group", file, made.df_group, expected["df_group"], 0)
    within("BH", file, benjamini_hochberg(made.p_value), expected["bh"], 1e-11, True)


def test_the_hspc_genes_have_the_published_f(hspc, data_dir):
    genes, values, groups = hspc
    made = anova(values, groups)
    expected = read(data_dir / "hspc.f_oneway_computed_here.tsv.gz", sep="\t", index_col="gene")
    expected = expected.loc[genes]
    within("F", "hspc.f_oneway", made.F, expected["F"], 1e-11, True)
    some = expected["p"] > 0
    within("log10 p", "hspc", made.log_p[some] / np.log(10), np.log10(expected["p"][some]), 1e-10)
    q = benjamini_hochberg(made.p_value)
    within("BH q", "hspc.f_oneway", q, expected["q_bh"], 1e-10, True)
    counts = [int(np.count_nonzero(q < level)) for level in (0.05, 0.01, 0.001)]
    print(f"| genes at BH 0.05, 0.01, 0.001 | hspc.md | {counts} | equal |")
    assert counts == [2398, 1945, 1533]
    one = genes.index("Kdm3a")
    printed = [26.442809, 1295.184848, 1.500594, 0.22639342]
    found = [made.ss_group[one], made.ss_residual[one], made.F[one], made.p_value[one]]
    np.testing.assert_allclose(found, printed, rtol=3e-7)
    assert (made.df_group[one], made.df_residual[one]) == (2, 147)
    means = dict(zip(made.levels, made.group_means[one], strict=True))
    assert {k: round(v, 3) for k, v in means.items()} == {
        "GMP": 2.798,
        "LTHSC": 2.379,
        "MEP": 3.402,
    }


def test_hspc_type_two_tables_are_nested_least_squares(hspc):
    """On 200 genes, with a second factor that the groups are not balanced over."""
    _, values, groups = hspc
    random = np.random.default_rng(0)
    rows = random.choice(len(values), 200, replace=False)
    batch = np.where(random.random(150) < np.where(groups == "MEP", 0.7, 0.3), "x", "y")
    a, b = dummies(groups), dummies(batch)
    terms = {"group": a, "batch": b, "group:batch": a * b}
    made = anova_type_two(values[rows], terms)
    expected = np.array([by_definition(y, terms) for y in values[rows]])
    within("type II F", "nested least squares, 200 genes", made.F, expected[:, 0], 1e-9)
    within("type II p", "nested least squares, 200 genes", made.p_value, expected[:, 1], 1e-9)
    within("type II SS", "nested least squares, 200 genes", made.sum_sq, expected[:, 2], 1e-8)
    np.testing.assert_array_equal(made.df, expected[:, 3])


# By definition


@pytest.mark.parametrize("sizes", [(5, 5), (3, 8, 20), (2, 2, 2, 2), (1, 9)])
def test_f_and_p_are_those_of_scipy(sizes):
    random = np.random.default_rng(sum(sizes))
    values = random.normal(size=(500, sum(sizes))) + 3
    groups = np.repeat(np.arange(len(sizes)), sizes)
    shuffled = random.permutation(groups.size)
    values, groups = values[:, shuffled], groups[shuffled]
    made = anova(values, groups)
    expected = stats.f_oneway(*(values[:, groups == j] for j in range(len(sizes))), axis=1)
    np.testing.assert_allclose(made.F, expected.statistic, rtol=1e-11)
    np.testing.assert_allclose(made.p_value, expected.pvalue, rtol=1e-10)
    np.testing.assert_allclose(made.log_p, np.log(expected.pvalue), rtol=1e-10, atol=1e-14)


def test_means_counts_and_shares_are_those_of_the_groups():
    random = np.random.default_rng(1)
    values = random.normal(size=(100, 12))
    values[random.random(values.shape) < 0.1] = np.nan
    groups = np.array(list("bbbaaaacccca"))
    made = anova(values, groups)
    assert made.levels == ["a", "b", "c"]
    for j, level in enumerate(made.levels):
        mine = values[:, groups == level]
        np.testing.assert_array_equal(made.group_counts[:, j], np.sum(~np.isnan(mine), axis=1))
        there = made.group_counts[:, j] > 0
        np.testing.assert_allclose(made.group_means[there, j], np.nanmean(mine[there], axis=1))
        assert np.all(np.isnan(made.group_means[~there, j]))
    tested = made.note == ""
    squares = np.nansum((values - np.nanmean(values, axis=1, keepdims=True)) ** 2, axis=1)
    total = made.ss_group + made.ss_residual
    np.testing.assert_allclose(total[tested], squares[tested], rtol=1e-12)
    np.testing.assert_allclose(made.eta_squared[tested], (made.ss_group / total)[tested])


def test_missing_values_are_as_if_the_samples_were_not_there():
    random = np.random.default_rng(2)
    values = random.normal(size=(300, 15))
    values[random.random(values.shape) < 0.2] = np.nan
    groups = np.repeat([0, 1, 2, 3], [2, 3, 4, 6])
    made = anova(values, groups)
    two = anova_type_two(values, {"g": dummies(groups)})
    fewer_groups = 0
    for i, y in enumerate(values):
        there = ~np.isnan(y)
        alone = anova(y[None, there], groups[there])
        fewer_groups += len(alone.levels) < 4
        for name in ("F", "log_p", "df_group", "df_residual", "ss_group", "eta_squared"):
            assert getattr(made, name)[i] == pytest.approx(getattr(alone, name)[0], rel=1e-12)
        assert made.F[i] == pytest.approx(two.F[i, 0], rel=1e-10)
        assert made.df_group[i] == two.df[i, 0] and made.df_residual[i] == two.df_residual[i]
    assert fewer_groups > 5


def test_blocks_do_not_show(monkeypatch):
    random = np.random.default_rng(3)
    values = random.normal(size=(133, 9))
    values[random.random(values.shape) < 0.02] = np.nan
    groups = np.arange(9) % 3
    terms = {"g": dummies(groups), "x": random.normal(size=9)}
    whole, two = anova(values, groups), anova_type_two(values, terms)
    monkeypatch.setattr("condrand.linear.anova._BLOCK", 1)
    cut, two_cut = anova(values, groups), anova_type_two(values, terms)
    np.testing.assert_allclose(cut.F, whole.F, rtol=1e-12)
    np.testing.assert_allclose(two_cut.F, two.F, rtol=1e-11)


@pytest.mark.parametrize("dtype", [np.float32, np.int64, np.uint8, bool])
def test_numbers_of_any_type_and_order_are_taken(dtype):
    values = np.random.default_rng(4).integers(0, 2 if dtype is bool else 50, (40, 12))
    groups = np.arange(12) % 3
    expected = anova(values.astype(float), groups)
    for given in (values.astype(dtype), np.asfortranarray(values.astype(dtype))):
        np.testing.assert_allclose(anova(given, groups).F, expected.F, rtol=1e-11)
    assert np.all(
        values == np.random.default_rng(4).integers(0, 2 if dtype is bool else 50, (40, 12))
    )


def test_f_ignores_shift_scale_and_the_names_of_groups():
    random = np.random.default_rng(5)
    values, groups = random.normal(size=(50, 20)), np.arange(20) % 4
    f = anova(values, groups).F
    np.testing.assert_allclose(anova(values * 1e-150, groups).F, f, rtol=1e-10)
    np.testing.assert_allclose(anova(values + 1e6, groups).F, f, rtol=1e-7)
    np.testing.assert_allclose(anova(values, np.array(list("dbca"))[groups]).F, f, rtol=1e-12)


def test_groups_further_apart_have_smaller_p():
    noise = np.random.default_rng(6).normal(size=30)
    noise -= noise.reshape(3, 10).mean(axis=1).repeat(10)
    shift = np.repeat([-1.0, 0.0, 1.0], 10)
    values = noise + np.arange(0, 200, 5)[:, None] * shift
    made = anova(values, np.repeat(list("abc"), 10))
    assert np.all(np.diff(made.log_p) < 0) and np.all(np.diff(made.eta_squared) > 0)
    assert made.log_p[0] == pytest.approx(0, abs=1e-12)


def test_log_p_goes_on_where_p_is_0():
    noise = np.random.default_rng(7).normal(size=400)
    values = noise + np.array([[1e3], [1e5], [1e7]]) * np.repeat([0.0, 1.0], 200)
    made = anova(values, np.repeat([0, 1], 200))
    assert np.all(made.p_value == 0) and np.all(np.isfinite(made.log_p))
    assert np.all(made.note == "")
    # For large F the tail falls as F**(-df/2): by log(1e4) * 199 each time F grows 1e4 fold.
    np.testing.assert_allclose(np.diff(made.log_p), -199 * np.log(1e4), rtol=1e-3)


# Degenerate features


def test_degenerate_features_follow_the_rule():
    groups = np.repeat([0, 1, 2], 3)
    values = np.array(
        [
            [5.1] * 9,
            [0.0] * 9,
            [1e100] * 9,
            [0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.3, 0.3, 0.3],
            [0.1, 0.1, 0.1, 0.7, 0.7, 0.7, 0.3, 0.3, 0.3 + 1e-9],
            [1.0, 2.0, 3.0, 1.0, 2.0, 3.0, 1.0, 2.0, 3.0],
            [np.nan] * 9,
            [1.0, 2.0, 3.0] + [np.nan] * 6,
            [1.0, np.nan, np.nan, 2.0, np.nan, np.nan, 3.0, np.nan, np.nan],
            [5.1, 5.1, np.nan] + [5.1] * 6,
            [0.1, 0.1, np.nan, 0.7, 0.7, 0.7, 0.3, 0.3, 0.3],
        ]
    )
    made = anova(values, groups)
    two = anova_type_two(values, {"g": dummies(groups)})
    notes = [CONSTANT] * 3 + [NO_RESIDUAL, "", ""] + [TOO_FEW] * 3 + [CONSTANT, NO_RESIDUAL]
    assert list(made.note) == notes == list(two.note)
    for f, p, log_p in (
        (made.F, made.p_value, made.log_p),
        (two.F[:, 0], two.p_value[:, 0], two.log_p[:, 0]),
    ):
        for i, note in enumerate(notes):
            if note in (CONSTANT, TOO_FEW):
                assert np.isnan(f[i]) and np.isnan(p[i]) and np.isnan(log_p[i])
            elif note == NO_RESIDUAL:
                assert f[i] == np.inf and p[i] == 0 and log_p[i] == -np.inf
        assert 0 < f[4] < np.inf and log_p[4] > -np.inf
        assert f[5] < 1e-20 and p[5] == pytest.approx(1)
    # A constant feature is no test: it does not make others pay.
    q = benjamini_hochberg(made.p_value)
    assert q[3] == 0 and np.isnan(q[0])
    np.testing.assert_allclose(q[4], made.p_value[4] * 4 / 3, rtol=1e-12)


def test_random_constants_are_never_tested():
    random = np.random.default_rng(8)
    for n in (4, 9, 150):
        constant = np.repeat(random.normal(size=(2000, 1)) * 1e5, n, axis=1)
        groups = np.arange(n) % 2
        assert np.all(anova(constant, groups).note == CONSTANT)
        two_values = np.where(groups == 0, constant, constant * random.random((2000, 1)))
        assert np.all(anova(two_values, groups).note == NO_RESIDUAL)
        moved = constant * (1 + 1e-9 * random.normal(size=(2000, n)))
        assert np.all(anova(moved, groups).note == "")


# Several terms


def two_factors(n=40, seed=0):
    random = np.random.default_rng(seed)
    a, b = random.integers(0, 3, n), random.integers(0, 2, n)
    x = random.normal(size=n) + a
    da, db = dummies(a), dummies(b)
    both = np.hstack([da * db])
    return {"a": da, "b": db, "x": x[:, None], "a:b": both}


@pytest.mark.parametrize("without", [(), ("a:b",), ("x", "a:b")])
def test_several_terms_are_nested_least_squares(without):
    terms = {k: v for k, v in two_factors().items() if k not in without}
    values = np.random.default_rng(1).normal(size=(60, 40)) + 2 * terms["b"].T
    made = anova_type_two(values, terms)
    expected = np.array([by_definition(y, terms) for y in values])
    assert made.terms == list(terms)
    for column, name in enumerate(("F", "p_value", "sum_sq", "df")):
        np.testing.assert_allclose(getattr(made, name), expected[:, column], rtol=1e-8, atol=1e-12)
    error = expected[:, 2] / (expected[:, 2] + made.ss_residual[:, None])
    np.testing.assert_allclose(made.partial_eta_squared, error, rtol=1e-8, atol=1e-12)


def test_several_terms_with_missing_values_are_nested_least_squares():
    terms = two_factors(seed=3)
    random = np.random.default_rng(2)
    values = random.normal(size=(60, 40))
    values[20:, :][random.random((40, 40)) < 0.15] = np.nan
    # Rows that share a pattern, and one with nothing.
    values[30:40][:, np.isnan(values[30])] = np.nan
    values[59] = np.nan
    made = anova_type_two(values, terms)
    for i, y in enumerate(values[:59]):
        there = ~np.isnan(y)
        expected = by_definition(y[there], {k: v[there] for k, v in terms.items()})
        np.testing.assert_allclose(made.F[i], expected[0], rtol=1e-8)
        np.testing.assert_allclose(made.df[i], expected[3])
    assert np.all(np.isnan(made.F[59])) and made.note[59] == TOO_FEW


def test_an_interaction_does_not_count_against_its_factors():
    terms = two_factors()
    values = np.random.default_rng(1).normal(size=(5, 40))
    whole = anova_type_two(values, terms)
    less = anova_type_two(values, {k: v for k, v in terms.items() if k != "a:b"})
    np.testing.assert_allclose(whole.sum_sq[:, :2], less.sum_sq[:, :2], rtol=1e-11)
    # Nothing contains the covariate, so the interaction counts against it.
    assert np.all(np.abs(whole.sum_sq[:, 2] / less.sum_sq[:, 2] - 1) > 1e-6)


def test_redundant_columns_add_no_degree_of_freedom():
    terms = two_factors()
    values = np.random.default_rng(5).normal(size=(20, 40))
    expected = anova_type_two(values, terms)
    redundant = dict(terms)
    redundant["a"] = np.hstack([terms["a"], 1 - terms["a"].sum(axis=1, keepdims=True)])
    redundant["x"] = np.hstack([terms["x"] * 1e6 + 1e7, np.full((40, 1), 3.0)])
    made = anova_type_two(values, redundant)
    np.testing.assert_array_equal(made.df, expected.df)
    np.testing.assert_allclose(made.F, expected.F, rtol=1e-7)
    again = anova_type_two(values, {**terms, "copy": terms["x"] - 2})
    assert np.all(again.df[:, [2, 4]] == 0) and np.all(np.isnan(again.F[:, [2, 4]]))


def test_what_cannot_be_analysed_is_refused():
    values, groups = np.random.default_rng(0).normal(size=(4, 6)), list("aabbcc")
    infinite = values.copy()
    infinite[2, 1] = np.inf
    for call, words in (
        (lambda: anova(values[0], groups), "1 dimensions"),
        (lambda: anova(values.astype(str), groups), "expected numbers"),
        (lambda: anova(values, groups[:5]), "groups has 5 labels"),
        (lambda: anova(values, ["a"] * 6), "1 group, expected at least 2"),
        (lambda: anova(values, [1.0, 2, 1, 2, np.nan, 1]), "missing labels"),
        (lambda: anova(infinite, groups), "feature 2 has infinite or too"),
        (lambda: anova_type_two(infinite, {"g": dummies(groups)}), "feature 2 has infinite"),
        (lambda: anova(values * 1e200, groups), "feature 0 has values too large"),
        (lambda: anova_type_two(values * 1e200, {"g": dummies(groups)}), "too large to square"),
        (lambda: anova_type_two(values, {}), "no terms"),
        (lambda: anova_type_two(values, {"g": np.ones(5)}), "'g' has 5 rows, expected 6"),
        (lambda: anova_type_two(values, {"g": np.full(6, np.nan)}), "'g' has missing"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


@pytest.mark.slow
@pytest.mark.parametrize(("g", "n", "k"), [(4170, 150, 3), (20_000, 200, 4)])
def test_it_is_faster_than_scipy(g, n, k):
    values, groups = np.random.default_rng(0).normal(size=(g, n)), np.arange(n) % k

    def best(call):
        times = []
        for _ in range(5):
            start = perf_counter()
            call()
            times.append(perf_counter() - start)
        return min(times)

    ours = best(lambda: anova(values, groups))
    scipy_time = best(lambda: stats.f_oneway(*(values[:, groups == j] for j in range(k)), axis=1))
    print(f"| {g} x {n} | ours {ours * 1e3:.1f} ms | f_oneway {scipy_time * 1e3:.1f} ms |")
    assert ours < scipy_time
