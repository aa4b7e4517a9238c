"""Analysis of variance in the workflow: formulas, shards, tables, and what is refused."""

import itertools

import numpy as np
import pandas as pd
import pytest

from condrand.engines import anova_steps
from condrand.engines.anova import (
    GAPS,
    block_tests,
    effects,
    model_of,
    significant_features,
)
from condrand.engines.anova_steps import anova_effects, anova_shard
from condrand.errors import InputError, Problems
from condrand.fdr import benjamini_hochberg
from condrand.io.samples import Samples, read_samples, write_samples
from condrand.io.shards import ShardError
from condrand.io.tables import read_parquet, read_tsv
from condrand.linear.anova import CONSTANT, NO_RESIDUAL, TOO_FEW, anova, anova_type_two
from condrand.linear.counts import log_cpm
from condrand.merge import write_terms_summary
from condrand.tables import CONTRACT

N = 12
LEVELS = ["high", "low", "none"]
SETTINGS = {"formula": "~ group", "transform": "none", "prior_count": 2.0}
SIGNIFICANT = {"fdr": None, "count": None}


def sample_table():
    return pd.DataFrame(
        {
            # An order of its own, and a level that no sample has.
            "group": pd.Categorical(["none", "low", "high"] * 4, ["none", "low", "high", "gone"]),
            "batch": pd.Categorical(list("xxyyxyxyyyxx")),
            "dose": np.arange(N) / 4 + 0.1,
            "plate": np.array([1, 2, 3] * 4),
            "one": pd.Categorical(["a"] * N),
            "each": pd.Categorical([f"e{i:02d}" for i in range(N)]),
            "gap": pd.Categorical([None, *"bcbcbcbcbcb"]),
            "my col: [odd]": pd.Categorical(list("ppqqppqqppqq")),
            "same": np.full(N, 3.0),
        },
        index=[f"s{i}" for i in range(N)],
    )


def values_of(G=1300, seed=0):
    rng = np.random.default_rng(seed)
    values = rng.normal(5.0, 1.0, (G, N))
    # Every third sample is of the first group.
    values[::7, ::3] += 4.0
    values[5, :4] = np.nan
    values[6] = 1.25
    return values


@pytest.fixture
def stored(tmp_path):
    """Write samples; give the path."""

    def write(values=None, table=None):
        values = values_of() if values is None else values
        path = tmp_path / "samples.h5ad"
        table = sample_table() if table is None else table
        features = [f"g{i}" for i in range(len(values))]
        words = {"source": "1,300 features x 12 samples of mine.h5ad", "is_counts": False}
        write_samples(path, Samples(values, features, table, {}, words))
        return path

    return write


@pytest.fixture
def run(tmp_path):
    """Run all steps over some shards; give the files written."""

    def steps(samples, n_shards=1, significant=SIGNIFICANT, fdr=0.05, **changed):
        settings = {**SETTINGS, **changed}
        shards = [tmp_path / f"of-{n_shards}" / f"shard-{i}.h5" for i in range(n_shards)]
        for i, shard in enumerate(shards):
            anova_shard(samples, shard, (i, n_shards), settings)
        folder = tmp_path / f"made-{n_shards}"
        names = {"effects": "parquet", "effects_tsv": "tsv.gz"}
        written = {
            name: folder / f"{name}.{names.get(name, 'tsv')}"
            for name in ("effects", "effects_tsv", "significant", "terms")
        }
        settings |= {"significant": significant}
        anova_effects(samples, shards, ("S", "A"), settings, fdr, written)
        return written

    return steps


def refusal(samples, tmp_path, formula):
    with pytest.raises(InputError) as caught:
        settings = {**SETTINGS, "formula": formula}
        anova_shard(samples, tmp_path / "refused.h5", (0, 1), settings)
    assert not (tmp_path / "refused.h5").exists()
    return str(caught.value)


# Results


def test_one_factor_keeps_the_contract_with_the_means_of_its_groups(stored, run):
    table = read_parquet(run(stored())["effects"])
    own = ["fdr_target", "df_term", "df_residual", "sum_sq", "residual_sum_sq"]
    means = ["mean.none", "mean.low", "mean.high"]
    assert list(table) == [*CONTRACT, *own, *means, "note"]
    assert table["feature"].tolist() == [f"g{i}" for i in range(1300)]
    values, groups = values_of(), sample_table()["group"].cat.codes.to_numpy()
    made = anova(values[:512], groups)
    first = table.iloc[:512]
    np.testing.assert_array_equal(first["statistic"], made.F)
    np.testing.assert_array_equal(first["p_value"], made.p_value)
    np.testing.assert_array_equal(first["effect"], made.eta_squared)
    np.testing.assert_array_equal(first[means], made.group_means)
    assert set(table["effect_scale"]) == {"eta squared"}
    assert table["n_target"].tolist()[4:7] == [12, 8, 12]
    assert not table["n_control"].any()
    constant = table.iloc[6]
    assert constant["note"] == CONSTANT
    assert np.isnan(constant["p_value"])
    assert constant["p_source"] == ""
    assert set(table["p_source"]) == {"F", ""}
    pd.testing.assert_series_equal(table["fdr"], table["fdr_target"], check_names=False)


def test_several_terms_follow_each_other_with_an_fdr_over_all_and_one_of_their_own(stored, run):
    written = run(stored(), formula="~ group * batch + dose")
    table = read_parquet(written["effects"])
    assert list(dict.fromkeys(table["target"])) == ["group", "batch", "dose", "group:batch"]
    assert set(table["effect_scale"]) == {"partial eta squared"}
    assert "mean.none" not in table
    sample = sample_table()
    a = pd.get_dummies(sample["group"]).to_numpy(float)[:, 1:3]
    b = pd.get_dummies(sample["batch"]).to_numpy(float)[:, 1:]
    terms = {"group": a, "batch": b, "dose": sample["dose"].to_numpy(), "group:batch": a * b}
    made = anova_type_two(values_of(), terms)
    by_term = table["statistic"].to_numpy().reshape(4, -1).T
    np.testing.assert_allclose(by_term, made.F, rtol=1e-9)
    np.testing.assert_array_equal(table["fdr"], benjamini_hochberg(table["p_value"].to_numpy()))
    for _, rows in table.groupby("target"):
        own = benjamini_hochberg(rows["p_value"].to_numpy())
        np.testing.assert_array_equal(rows["fdr_target"], own)
    assert read_tsv(written["terms"])["df"].tolist() == [2, 1, 1, 2]


@pytest.mark.parametrize("formula", ["~ group", "~ group * batch + dose"])
@pytest.mark.parametrize("transform", ["none", "log_cpm"])
def test_the_bits_do_not_depend_on_the_number_of_shards(stored, run, formula, transform):
    values = values_of()
    if transform == "log_cpm":
        values = np.random.default_rng(1).poisson(20.0, values.shape) + 0.25
    samples = stored(values)
    made = [run(samples, n, formula=formula, transform=transform) for n in (1, 2, 3, 9)]
    for name in made[0]:
        assert len({written[name].read_bytes() for written in made}) == 1, name


def test_a_shard_reads_no_values_but_its_own(stored, tmp_path, monkeypatch):
    samples, seen = stored(), []

    def noting(path, features=None):
        seen.append(features)
        return read_samples(path, features)

    monkeypatch.setattr(anova_steps, "read_samples", noting)
    anova_shard(samples, tmp_path / "shard.h5", (1, 3), SETTINGS)
    assert seen == [slice(0, 0), slice(512, 1024)]


def test_log_cpm_takes_the_libraries_of_all_features(stored, run):
    counts = np.random.default_rng(2).poisson(30.0, (700, N)).astype(float)
    table = read_parquet(run(stored(counts), 2, transform="log_cpm", prior_count=1.5)["effects"])
    groups = sample_table()["group"].cat.codes.to_numpy()
    made = anova(log_cpm(counts, counts.sum(axis=0), 1.5), groups)
    np.testing.assert_allclose(table["statistic"], made.F, rtol=1e-10)


def test_one_covariate_and_an_interaction_alone_are_terms(stored, run):
    table = read_parquet(run(stored(), formula="~ dose")["effects"])
    assert set(table["target"]) == {"dose"}
    assert set(table["effect_scale"]) == {"eta squared"}
    assert (table["df_term"].dropna() == 1).all()
    terms = read_tsv(run(stored(), 2, formula="~ group:batch")["terms"])
    assert terms["term"].tolist() == ["group:batch"]
    assert terms["df"].tolist() == [5]


def test_names_with_signs_of_formulas_are_told_apart(stored, run):
    written = run(stored(), formula="~ `my col: [odd]` * group")
    terms = read_tsv(written["terms"])
    assert terms["term"].tolist() == ["my col: [odd]", "group", "my col: [odd]:group"]
    assert terms["levels"].tolist() == ["p (6), q (6)", "none (4), low (4), high (4)", ""]
    plain = sample_table().rename(columns={"my col: [odd]": "odd"})
    expected = read_parquet(run(stored(table=plain), 2, formula="~ odd * group")["effects"])
    found = read_parquet(written["effects"])
    np.testing.assert_array_equal(found["p_value"], expected["p_value"])


def test_levels_of_a_written_factor_keep_the_names_of_their_values(stored, run):
    table = read_parquet(run(stored(), formula="~ C(plate)")["effects"])
    assert [name for name in table if name.startswith("mean.")] == ["mean.1", "mean.2", "mean.3"]
    by_group = read_parquet(run(stored(), 2)["effects"])
    np.testing.assert_array_equal(table["p_value"], by_group["p_value"])


def test_features_that_cannot_be_tested_have_a_note(stored, run):
    values = values_of(9)[:5]
    values[0] = np.tile([1.0, 2.0, 3.0], 4)
    values[1] = np.nan
    values[2, 3:] = np.nan
    values[3, sample_table()["batch"] == "x"] = np.nan
    one = read_parquet(run(stored(values))["effects"])
    assert one["note"].tolist() == [NO_RESIDUAL, TOO_FEW, TOO_FEW, "", ""]
    assert one["statistic"][0] == np.inf
    assert (one["p_value"][0], one["neg_log10_p"][0], one["effect"][0]) == (0.0, np.inf, 1.0)
    assert one["n_target"].tolist() == [12, 0, 3, 6, 12]
    two = read_parquet(run(stored(values), 2, formula="~ group + batch")["effects"])
    batch = two[two["target"] == "batch"]["note"].tolist()
    assert batch[1:4] == [TOO_FEW, TOO_FEW, GAPS]
    assert two[two["target"] == "group"]["note"].tolist()[3] == ""


# Significant features, terms, summary


def test_significant_features_are_those_of_the_first_term_by_p(stored, run):
    written = run(stored(), formula="~ group + batch", fdr=0.2)
    table, listed = read_parquet(written["effects"]), read_tsv(written["significant"])
    first = table[(table["target"] == "group") & (table["fdr"] <= 0.2)]
    assert len(listed) == len(first) > 10
    assert set(listed["feature"]) == set(first["feature"])
    assert (np.diff(listed["neg_log10_p"]) <= 0).all()
    assert read_tsv(written["terms"])["significant"].tolist()[0] == len(first)


def test_a_number_of_features_or_another_threshold_can_be_asked_for(stored, run):
    table = read_parquet(run(stored())["effects"])
    every = table.sort_values("neg_log10_p", ascending=False, kind="stable")["feature"].tolist()

    def names(fdr, count):
        chosen = significant_features(table, {"fdr": fdr, "count": count}, 0.05)
        return chosen["feature"].tolist()

    assert names(None, 500) == every[:500]
    strict = names(1e-2, None)
    assert 3 < len(strict) < len(names(None, None))
    assert names(1e-2, 500) == strict
    assert names(1e-2, 3) == every[:3]


def test_the_readable_table_is_sorted_by_p(stored, run):
    written = run(stored())
    heights = read_tsv(written["effects_tsv"])["neg_log10_p"].dropna().to_numpy()
    assert heights.size > 1000
    assert (np.diff(heights) <= 0).all()


def test_the_summary_says_what_was_tested_found_and_feared(stored, run, tmp_path):
    samples = stored()
    written = run(samples, formula="~ plate + batch")
    summary = tmp_path / "summary.txt"
    write_terms_summary(written["effects"], samples, written["terms"], summary, 0.05)
    text = summary.read_text()
    assert text.startswith("S / A\n  samples      1,300 features x 12 samples of mine.h5ad\n")
    assert "~ plate + batch (sums of squares of type II)" in text
    assert "2,600 " not in text  # the constant feature has no tests
    assert "2,598 (2 terms x 1,300 features; 2 rows untested)" in text
    assert "between x (6), y (6)" in text
    assert "`C(plate)` makes it a factor" in text


# What is refused


def test_a_group_of_numbers_is_a_covariate_with_a_warning(stored, run, caplog):
    written = run(stored(), formula="~ plate")
    terms = read_tsv(written["terms"])
    assert terms["df"].tolist() == [1]
    assert "plate has 3 values and is taken as a number" in terms["note"][0]
    assert "`C(plate)` makes it a factor" in caplog.text
    caplog.clear()
    run(stored(), 2, formula="~ dose")
    assert "makes it a factor" not in caplog.text


@pytest.mark.parametrize(
    ("formula", "said"),
    [
        ("expression ~ group", "left-hand side"),
        ("~ gruop", "did you mean 'group'?"),
        ("~ one", "'one' has one level, 'a'"),
        ("~ group + one", "'one' has one level, 'a'"),
        ("~ gap", "1 samples have no finite value: 's0'"),
        ("~ each", "every group has one sample"),
        ("~ group + each", "cannot be told apart"),
        ("~ group + C(plate)", "cannot be told apart"),
        ("~ group * batch + poly(dose, 6)", "no residual degrees of freedom"),
        ("~ 0 + group", "has no intercept"),
        ("~ group - 1", "has no intercept"),
        ("~ 1", "names nothing to test"),
        ("~ same", "'same' is the same in all samples"),
        ("~ np.log(dose - 1)", "has no finite value in"),
        ("~ group +", "cannot be read"),
    ],
)
def test_formulas_that_cannot_be_tested_are_refused(stored, tmp_path, formula, said):
    text = refusal(stored(), tmp_path, formula)
    assert said in text
    assert "samples.h5ad: " in text
    assert "      -> " in text


def test_all_problems_are_listed_at_once(stored, tmp_path):
    text = refusal(stored(), tmp_path, "y ~ gruop + gap")
    assert "3 problems" in text
    for said in ("left-hand side", "'gruop'", "'s0'"):
        assert said in text
    text = refusal(stored(), tmp_path, "~ 0 + one + same")
    assert "3 problems" in text


def test_less_than_full_degrees_of_freedom_are_told(stored, run):
    table = sample_table()
    # Plates lie within groups, but for one that is in two of them.
    table["well"] = pd.Categorical([f"{g}{i % 2}" for i, g in enumerate(table["group"])])
    table.loc["s0", "well"] = "low1"
    table["well"] = table["well"].cat.remove_unused_categories()
    terms = read_tsv(run(stored(table=table), formula="~ group + well")["terms"])
    assert "degrees of freedom of 5" in terms["note"][1]


def test_shards_of_another_formula_or_of_other_samples_are_refused(stored, run, tmp_path):
    samples = stored()
    run(samples)
    shard = [tmp_path / "of-1" / "shard-0.h5"]
    written = dict.fromkeys(("effects", "effects_tsv", "significant", "terms"), tmp_path / "no")
    with pytest.raises(ShardError, match="made for another formula"):
        settings = {**SETTINGS, "formula": "~ batch", "significant": SIGNIFICANT}
        anova_effects(samples, shard, ("S", "A"), settings, 0.05, written)
    other = stored(values_of(seed=3))
    with pytest.raises(ShardError, match="made for another samples"):
        settings = {**SETTINGS, "significant": SIGNIFICANT}
        anova_effects(other, shard, ("S", "A"), settings, 0.05, written)
    assert not (tmp_path / "no").exists()


def test_the_table_of_effects_does_not_depend_on_the_order_of_the_samples():
    table, values = sample_table(), values_of(60)
    names = [f"g{i}" for i in range(60)]
    shuffled = np.random.default_rng(4).permutation(N)
    found = []
    for order in (np.arange(N), shuffled):
        model = model_of("~ group * batch", table.iloc[order], Problems("x"))
        tests = block_tests(np.ascontiguousarray(values[:, order]), model)
        found.append(effects(("S", "A"), names, tests, model))
    for name, (one, other) in itertools.product(
        ("statistic", "p_value", "effect"), [tuple(found)]
    ):
        np.testing.assert_allclose(one[name], other[name], rtol=1e-8, atol=1e-12)
