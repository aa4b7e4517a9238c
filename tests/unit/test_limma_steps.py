"""The steps of engine limma: bad input, missing values, weights, shards and tables."""

import logging
import math

import numpy as np
import pandas as pd
import pytest

from analyses import LIMMA_TESTS, LimmaFolder
from condrand.engines.limma import moderation_table, row_groups, sample_weights
from condrand.errors import InputError, Problems
from condrand.io.samples import Samples, read_samples, write_samples
from condrand.io.shards import ShardError
from condrand.io.tables import read_tsv
from condrand.linear.counts import filter_by_expr, log_cpm
from condrand.linear.design import model_matrix
from condrand.linear.fit import contrasts_fit, lm_fit, make_contrasts
from condrand.linear.moderation import e_bayes
from condrand.linear.weights import array_weights, voom_with_quality_weights
from condrand.plan import FEATURES_PER_BLOCK
from condrand.tables import CONTRACT

N, N_FEATURES = 8, 2 * FEATURES_PER_BLOCK + 30
TABLE = pd.DataFrame(
    {
        "group": pd.Categorical(["b", "b", "a", "a", "b", "b", "a", "a"], ["b", "a"]),
        "batch": pd.Categorical(list("xyxyxyxy")),
        "copy": pd.Categorical(["two", "two", "one", "one", "two", "two", "one", "one"]),
        "age": [30.0, 41.0, 52.0, 38.0, 29.0, 61.0, 45.0, 33.0],
        "partly": [1.0, np.nan, 2.0, 3.0, 1.0, 5.0, 2.0, 1.0],
    },
    index=[f"s{i}" for i in range(N)],
)


def counts(n_features=N_FEATURES, seed=0):
    random = np.random.default_rng(seed)
    mean = random.gamma(1.0, 200.0, n_features)[:, None] * np.ones(N)
    mean[:10] = np.where(TABLE["group"] == "a", 1800.0, 300.0)
    return random.poisson(mean * random.gamma(20.0, 1 / 20.0, mean.shape)).astype(float)


def expression(n_features=N_FEATURES, missing=False):
    """Log expression; with values missing in the first block of features alone."""
    random = np.random.default_rng(1)
    values = random.normal(6.0, 1.0, (n_features, 1)) + random.normal(size=(n_features, N))
    if missing:
        of_a, of_b = np.flatnonzero(TABLE["group"] == "a"), np.flatnonzero(TABLE["group"] == "b")
        values[1, of_a] = np.nan
        values[2] = np.nan
        values[3, of_a[:2]] = np.nan
        values[4, [*of_a[1:], *of_b[1:]]] = np.nan
    return values


class Folder(LimmaFolder):
    """Files of one analysis of small samples."""

    def __init__(self, path):
        super().__init__(path, ("S", "A"), "~ 0 + group", {"a_vs_b": "a - b"})

    def samples(self, values, table=TABLE):
        names = [f"g{g}" for g in range(len(values))]
        words = {"source": "a table", "is_counts": True}
        write_samples(self["samples.h5ad"], Samples(values, names, table, {}, words))
        return self


@pytest.fixture
def folder(tmp_path):
    return Folder(tmp_path)


@pytest.fixture(scope="module")
def counted(tmp_path_factory):
    """A finished analysis of counts, which no test may change."""
    return Folder(tmp_path_factory.mktemp("counts")).samples(counts()).filter().voom().test()


def of_expression(folder, missing=False, n_features=N_FEATURES, **changes):
    folder.samples(expression(n_features, missing)).filter(transform="none")
    return folder.voom(transform="none", **changes)


def complaint(*words, of=InputError):
    """Expect an error that holds all these words."""
    pattern = "".join(f"(?=.*{word})" for word in words)
    return pytest.raises(of, match=f"(?s){pattern}")


# Counts per million


def test_log_counts_per_million_are_their_definition():
    values = counts(30)
    library = values.sum(axis=0) * np.linspace(0.5, 2.0, N)
    made = log_cpm(values, library, 3.0)
    for g in range(30):
        for i in range(N):
            prior = 3.0 * library[i] / (math.fsum(library) / N)
            expected = math.log2((values[g, i] + prior) / (library[i] + 2 * prior) * 1e6)
            assert made[g, i] == pytest.approx(expected, rel=1e-13)
    # Samples that differ in size alone have the same values.
    two = np.column_stack([values[:, 0], 4 * values[:, 0]])
    np.testing.assert_allclose(*log_cpm(two).T, rtol=1e-13)
    for prior in (0.0, -1.0, np.nan):
        with pytest.raises(ValueError, match="prior_count"):
            log_cpm(values, None, prior)


# Tables


def test_the_tables_keep_their_contract(counted):
    table = counted.effects
    own = ["fdr_target", "average_expression", "ci_low", "ci_high", "log_odds", "df", "call"]
    assert list(table) == [*CONTRACT, *own, "note"]
    assert (table[["screen", "analysis"]].drop_duplicates().to_numpy() == [["S", "A"]]).all()
    assert table["call"].dtype == np.int8
    assert set(table["effect_scale"]) == {"log2 fold change"}
    assert set(table["n_target"]) == set(table["n_control"]) == {4}
    assert (table["call"].iloc[:10] == 1).all()
    np.testing.assert_array_equal(table["call"] != 0, table["fdr"] < 0.05)
    calls = read_tsv(counted["calls.tsv"]).iloc[0]
    assert calls["up"] + calls["down"] + calls["not_significant"] == len(table)
    moderation = read_tsv(counted["moderation.tsv"]).set_index("name")["value"]
    assert moderation["n_features"] == len(table) and moderation["n_samples"] == N
    assert moderation["rank"] == 2 and moderation["df_residual"] == 6
    assert {"s2_prior", "df_prior", "df_total", "proportion", "span"} <= set(moderation.index)


def test_no_bit_depends_on_the_split(counted, folder):
    folder.samples(counts()).filter().voom(threads=2)
    assert folder["outcome.h5ad"].read_bytes() == counted["outcome.h5ad"].read_bytes()
    for n_shards, threads in ((1, 1), (1, 2), (3, 1), (7, 2)):
        folder.test(folder.fit(n_shards, threads), threads)
        assert folder.bits() == counted.bits()


def test_several_contrasts_share_the_fdr_and_keep_their_order(folder):
    folder.samples(counts()).filter().voom(design="~ 0 + group + batch")
    contrasts = {"second": "y", "first": "a - b"}
    folder.test(contrasts=contrasts)
    table = folder.effects
    assert list(dict.fromkeys(table["target"])) == ["second", "first"]
    assert table["target"].cat.categories.tolist() == ["second", "first"]
    features = read_samples(folder["outcome.h5ad"]).features
    assert table["feature"].tolist() == features * 2
    order = np.argsort(table["p_value"].to_numpy())
    m = len(table)
    scaled = table["p_value"].to_numpy()[order] * m / np.arange(1, m + 1)
    expected = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    np.testing.assert_allclose(table["fdr"].to_numpy()[order], expected, rtol=1e-12)
    assert set(table.loc[table["target"] == "first", "n_target"]) == {4}
    columns = read_tsv(folder["features.tsv.gz"]).columns.tolist()
    assert columns[-2:] == ["logFC.second", "logFC.first"]


def test_without_contrasts_every_coefficient_but_the_intercept_is_tested(folder):
    folder.samples(counts()).filter().voom(design="~ group + batch")
    folder.test(contrasts=None)
    plain = folder.effects
    assert list(dict.fromkeys(plain["target"])) == ["a", "y"]
    folder.test(contrasts=["a", "y"])
    named = folder.effects
    for column in ("effect", "statistic", "neg_log10_p", "n_target", "n_control"):
        np.testing.assert_allclose(plain[column], named[column], rtol=1e-12)
    np.testing.assert_array_equal(plain["call"], named["call"])


def test_a_design_of_the_intercept_alone_tests_it(folder):
    values = expression()
    folder.samples(values).filter(transform="none").voom(transform="none", design="~ 1")
    folder.test(contrasts=None)
    table = folder.effects
    assert set(table["target"]) == {"(Intercept)"} and set(table["n_control"]) == {0}
    np.testing.assert_allclose(table["effect"], values.mean(axis=1), rtol=1e-12)


def test_weights_of_samples_in_contrasts_are_those_of_the_estimate():
    random = np.random.default_rng(3)
    design = np.column_stack([np.ones(N), random.normal(size=(N, 2)), np.ones(N) * 2])
    contrast = np.array([[0.0, 1.0, -0.5, 0.0]]).T
    y = random.normal(size=N)
    fitted = np.linalg.lstsq(design[:, :3], y, rcond=None)[0]
    assert sample_weights(design, contrast)[:, 0] @ y == pytest.approx(fitted[1] - fitted[2] / 2)


def test_infinite_prior_degrees_of_freedom_have_a_median():
    fit = lm_fit(expression(20), np.ones((N, 1)), [f"g{i}" for i in range(20)], ["m"])
    fit = e_bayes(fit)
    object.__setattr__(fit, "df_prior", np.full(20, np.inf))
    table = moderation_table(fit, N, None, LIMMA_TESTS).set_index("name")["value"]
    assert table["df_prior"] == np.inf and "df_prior_min" not in table.index


# Missing values and weights


def test_missing_values_give_the_fit_of_what_is_there(folder):
    of_expression(folder, missing=True).test()
    values = expression(missing=True)
    design = model_matrix("~ 0 + group", TABLE, True, Problems("design"))
    names = list(design)
    fit = lm_fit(values, design.to_numpy(), [f"g{g}" for g in range(N_FEATURES)], names)
    fit = e_bayes(contrasts_fit(fit, make_contrasts(["a - b"], names)[0], ["x"]))
    table = folder.effects
    np.testing.assert_array_equal(table["effect"], fit.coefficients[:, 0])
    np.testing.assert_array_equal(table["statistic"], fit.t[:, 0])
    np.testing.assert_array_equal(table["log_odds"], fit.lods[:, 0])
    assert table["note"].iloc[:6].tolist() == [
        "",
        "not estimable with its missing values",
        "no value is observed",
        "",
        "no residual degrees of freedom of its own: the prior variance alone",
        "",
    ]
    assert table["n_target"].iloc[:5].tolist() == [4, 0, 0, 2, 1]
    assert table["n_control"].iloc[:5].tolist() == [4, 4, 0, 4, 1]
    assert table.loc[[1, 2], ["p_value", "fdr", "neg_log10_p"]].isna().all(axis=None)
    assert (table.loc[[1, 2], "p_source"] == "").all() and table["p_value"].iloc[4] > 0
    assert read_tsv(folder["calls.tsv"])["untested"].tolist() == [2]
    one = folder.bits()
    for n_shards in (1, 3):
        assert folder.test(folder.fit(n_shards)).bits() == one


def test_missing_values_in_one_shard_do_not_change_the_bits_of_another(folder):
    of_expression(folder, missing=True, array_weights=True)
    one = folder.test(folder.fit(1)).bits()
    assert folder.test(folder.fit(3)).bits() == one
    stored = read_samples(folder["outcome.h5ad"]).arrays
    np.testing.assert_array_equal(stored["weights"] == 0, np.isnan(expression(missing=True)))
    np.testing.assert_array_equal(stored["weights"][-1], stored["sample_weights"])


@pytest.mark.parametrize("n_features", [N, FEATURES_PER_BLOCK + 1, FEATURES_PER_BLOCK + N])
def test_weights_of_samples_serve_shards_of_any_size(folder, n_features):
    of_expression(folder, n_features=n_features, array_weights=True)
    folder.test(folder.fit(1))
    values, design = expression(n_features), model_matrix("~ 0 + group", TABLE, True, Problems(""))
    quality = array_weights(values, design.to_numpy())
    stored = read_samples(folder["outcome.h5ad"]).arrays
    np.testing.assert_array_equal(stored["weights"], quality)
    features = [f"g{g}" for g in range(n_features)]
    fit = lm_fit(values, design.to_numpy(), features, list(design), quality[None, :])
    fit = e_bayes(contrasts_fit(fit, make_contrasts(["a - b"], list(design))[0], ["x"]))
    np.testing.assert_array_equal(folder.effects["statistic"], fit.t[:, 0])
    one = folder.bits()
    assert folder.test(folder.fit(2)).bits() == one


def test_quality_weights_and_factors_are_those_of_the_library(folder):
    folder.samples(counts()).filter(normalization="rle").voom(transform="voom_quality_weights")
    before, after = (read_samples(folder[f"{name}.h5ad"]) for name in ("filtered", "outcome"))
    library = before.arrays["lib_size"] * before.arrays["norm_factors"]
    np.testing.assert_array_equal(after.arrays["lib_size"], library)
    assert before.arrays["norm_factors"].prod() == pytest.approx(1.0)
    design = model_matrix("~ 0 + group", TABLE, True, Problems("")).to_numpy()
    made = voom_with_quality_weights(before.values, design, library)
    np.testing.assert_array_equal(after.values, made.E)
    np.testing.assert_array_equal(after.arrays["weights"], made.weights)
    np.testing.assert_array_equal(after.arrays["sample_weights"], made.sample_weights)
    np.testing.assert_array_equal(after.arrays["line_y"], made.line_y)


def test_log_counts_per_million_have_no_weights_and_no_trend(folder):
    folder.samples(counts()).filter().voom(transform="log_cpm", prior_count=1.5)
    before, after = (read_samples(folder[f"{name}.h5ad"]) for name in ("filtered", "outcome"))
    library = before.arrays["lib_size"] * before.arrays["norm_factors"]
    np.testing.assert_array_equal(after.values, log_cpm(before.values, library, 1.5))
    assert "weights" not in after.arrays and after.arrays["line_x"].size == 0
    assert "span" not in after.words


def test_exact_contrasts_differ_where_weights_do(folder):
    folder.samples(counts()).filter().voom(design="~ group + batch")
    contrasts = ["a - y"]
    near = folder.test(contrasts=contrasts).effects
    exact = folder.test(contrasts=contrasts, exact_contrasts=True).effects
    np.testing.assert_array_equal(near["effect"], exact["effect"])
    assert (near["statistic"] != exact["statistic"]).any()


def test_log_expression_is_not_filtered(folder):
    folder.samples(expression(missing=True)).filter(transform="none", colour="batch")
    made = read_samples(folder["filtered.h5ad"])
    assert len(made.features) == made.words["n_before"] == N_FEATURES
    assert all(made.arrays[name].size == 0 for name in ("lib_size_all", "lib_size"))
    assert made.words["normalization"] == "none"
    assert made.arrays["mds_coordinates"].shape == (N, N)
    assert made.arrays["groups"].tolist() == TABLE["batch"].tolist()


def test_samples_too_few_for_coordinates_have_none(folder):
    folder.samples(expression()[:, :2], TABLE.iloc[:2]).filter(transform="none", design="~ 1")
    made = read_samples(folder["filtered.h5ad"])
    assert made.arrays["mds_coordinates"].size == made.arrays["mds_shares"].size == 0


# Groups and filters


def test_groups_are_samples_of_equal_rows_of_the_design():
    def groups(formula):
        design = model_matrix(formula, TABLE, True, Problems("design"))
        return row_groups(design, TABLE, formula).tolist()

    by_group = TABLE["group"].tolist()
    assert groups("~ 0 + group") == groups("~ group") == by_group
    both = [f"{g}.{b}" for g, b in zip(by_group, TABLE["batch"], strict=True)]
    assert groups("~ group + batch") == both
    assert len(set(groups("~ group + age"))) == N
    design = pd.DataFrame({"u": [0.5] * 4 + [-0.5] * 4, "v": 1.0}, index=TABLE.index)
    assert row_groups(design, TABLE, None).tolist() == ["group 1"] * 4 + ["group 2"] * 4


def test_the_filter_by_expression_is_edgers(folder):
    values = counts() // 40
    folder.samples(values).filter(filter={"method": "expr", "groups": "group"}, design=None)
    made = read_samples(folder["filtered.h5ad"])
    kept = filter_by_expr(values, TABLE["group"].astype(str))
    assert made.features == [f"g{g}" for g in np.flatnonzero(kept)]
    assert "filterByExpr" in made.words["filter"] and f"of {N_FEATURES:,}" in made.words["filter"]
    folder.filter(filter={"method": "none"})
    assert len(read_samples(folder["filtered.h5ad"]).features) == N_FEATURES


def test_a_group_of_one_sample_is_warned_of(folder, caplog):
    table = TABLE.assign(group=["b", "b", "a", "a", "b", "b", "a", "c"])
    with caplog.at_level(logging.WARNING):
        folder.samples(counts(), table).filter().voom().test(contrasts=["a - b"])
    notes = read_samples(folder["outcome.h5ad"]).words["notes"].split("\n")
    assert len(notes) == 2
    assert "'c'" in notes[0] and "filter" in notes[0]
    assert "'s7'" in notes[1] and "without a replicate" in notes[1]
    assert {record.getMessage() for record in caplog.records} >= set(notes)


# Bad input


def test_everything_wrong_with_values_columns_and_formula_is_said_at_once(folder):
    values = counts()
    values[3, 2] = np.nan
    values[5, 1] = -4.0
    folder.samples(values)
    words = ("'g3'", "missing", "negative", "'grup'", "did you mean 'group'", "'coluor'", "'bach'")
    words += ("did you mean 'batch'",)
    with complaint(*words):
        folder.filter(design="~ 0 + grup", colour="coluor", filter={"groups": "bach"})
    assert not folder["filtered.h5ad"].exists()


def test_a_sample_without_counts_and_a_column_with_gaps_are_refused(folder):
    values = counts()
    values[:, 4] = 0.0
    folder.samples(values)
    with complaint("without a count: 's4'", "exclude", "'partly'", "'s1'"):
        folder.filter(colour="partly")
    with complaint("partly", "'s1'", "no finite value"):
        folder.samples(counts()).filter(design="~ group + partly")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"filter": {"method": "expr"}}, ["filter.method", "needs counts"]),
        ({"normalization": "rle"}, ["normalization", "needs counts"]),
    ],
)
def test_what_needs_counts_is_refused_of_log_expression(folder, changes, words):
    folder.samples(expression())
    with complaint(*words):
        folder.filter(transform="none", **changes)


def test_infinite_values_are_refused(folder):
    values = expression()
    values[0, 0] = -np.inf
    with complaint("1 are infinite"):
        folder.samples(values).filter(transform="none")


def test_a_filter_that_keeps_nothing_is_refused(folder):
    with complaint("keeps 0 of 1,054 features", "min_count"):
        folder.samples(counts()).filter(filter={"min_count": 1e7})
    with complaint("keeps 1 of 1 features"):
        folder.samples(expression(1)).filter(transform="none")


def test_a_design_without_replicates_is_refused(folder):
    folder.samples(counts())
    table = TABLE.assign(own=pd.Categorical(TABLE.index))
    with complaint("no residual degrees of freedom", "replicates"):
        folder.samples(counts(), table).filter(design="~ 0 + own")
    # With groups named, the design may come with the weights only.
    folder.filter(design=None, filter={"groups": "group"})
    with complaint("no residual degrees of freedom"):
        folder.voom(design="~ 0 + own")


def test_a_collinear_design_is_warned_of_and_its_contrasts_are_refused(folder, caplog):
    with caplog.at_level(logging.WARNING):
        folder.samples(counts()).filter().voom(design="~ 0 + group + copy + batch")
    (note,) = read_samples(folder["outcome.h5ad"]).words["notes"].split("\n")
    assert "coefficients not estimable: 'two'" in note and note in caplog.messages
    shards = folder.fit()
    with complaint("'bad' uses 'two'", "cannot estimate", "take it out"):
        folder.test(shards, contrasts={"bad": "two - a", "good": "a - b"})
    folder.test(shards, contrasts=["a - b"])
    assert folder.effects["p_value"].notna().all()
    folder.test(shards, contrasts=None)
    assert list(dict.fromkeys(folder.effects["target"])) == ["b", "a", "y"]


def test_every_bad_contrast_is_named_before_a_shard_is_read(counted, folder):
    folder["outcome.h5ad"].write_bytes(counted["outcome.h5ad"].read_bytes())
    words = ["4 problems", "'aa'", "did you mean 'a'", "'2 \\* \\('", "'a \\+ 1'", "robust"]
    with complaint(*words):
        folder.test(
            ["no such shard"],
            contrasts={"one": "aa - b", "two": "2 * (", "three": "a + 1", "four": "a - b"},
            moderation=LIMMA_TESTS["moderation"] | {"robust": True, "legacy": False},
        )
    with complaint("hold twice", "needs an F test"):
        decide = LIMMA_TESTS["decide"] | {"method": "nestedF"}
        folder.test(["none"], contrasts=["a - b", "a - b"], treat=0.5, decide=decide)
    assert not folder["effects.parquet"].exists()


def test_a_design_of_other_samples_is_refused(folder):
    made = model_matrix("~ 0 + group", TABLE, True, Problems("design"))
    folder.samples(counts())
    made.iloc[::-1].to_csv(folder["design.csv"], index_label="sample")
    folder.filter(matrix=folder["design.csv"], design=None)
    folder.voom(matrix=folder["design.csv"], design=None)
    stored = read_samples(folder["outcome.h5ad"])
    np.testing.assert_array_equal(stored.arrays["design_matrix"], made)
    assert stored.words["design"] == "design.csv"
    made.rename(index={"s3": "S3"}).to_csv(folder["design.tsv"], sep="\t", index_label="sample")
    with complaint("no row for 1 of the samples: 's3'", "did you mean 'S3'", "do not have: 'S3'"):
        folder.filter(matrix=folder["design.tsv"], design=None)
    made.assign(text="x").to_csv(folder["design.csv"], index_label="sample")
    with complaint("not numbers: 'text'"):
        folder.filter(matrix=folder["design.csv"], design=None)


def test_too_few_samples_for_quality_weights_are_refused(folder):
    table = TABLE.iloc[:2]
    folder.samples(expression()[:, :2], table).filter(transform="none", design="~ 1")
    with complaint("too few for quality weights", "3 samples"):
        folder.voom(transform="none", design="~ 1", array_weights=True)


def test_features_that_do_not_vary_are_refused(folder):
    values = expression()
    values[: N_FEATURES - 100] = 5.0
    folder.samples(values).filter(transform="none").voom(transform="none")
    with complaint("half of the features", "filter"):
        folder.test()


def test_foreign_missing_and_overlapping_shards_are_refused(counted, folder):
    folder["outcome.h5ad"].write_bytes(counted["outcome.h5ad"].read_bytes())
    shards = folder.fit(2)
    with complaint("missing", of=ShardError):
        folder.test(shards[:1])
    with complaint("several shards", of=ShardError):
        folder.test([*shards, shards[0]])
    folder.samples(counts(seed=5)).filter().voom()
    with complaint("made for another outcome", of=ShardError):
        folder.test(shards)
