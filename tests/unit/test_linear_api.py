"""Linear models under the names of R: the GSE60450 and HSPC analyses, names, refusals."""

import gzip
import warnings

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import condrand as cr
from condrand.linear.anova import CONSTANT
from condrand.linear.voom import voom as voom_of_arrays


@pytest.fixture(autouse=True)
def no_warning_passes():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield


@pytest.fixture(scope="module")
def limma(data_dir):
    """Read a table of the folder by its name; identifiers become the index."""
    folder = data_dir / "limma"
    if not folder.is_dir():
        pytest.skip(f"no references at {folder}")

    def read(name, index="EntrezGeneID"):
        return pd.read_csv(folder / name, float_precision="round_trip", index_col=index)

    return read


@pytest.fixture(scope="module")
def counts(limma):
    return limma("gse60450_counts.csv.gz")


@pytest.fixture(scope="module")
def targets(limma):
    return limma("gse60450_targets.csv", 0)


@pytest.fixture(scope="module")
def kept(counts, targets):
    return counts[cr.filter_by_cpm(counts, targets["immunophenotype"])]


@pytest.fixture(scope="module")
def design(targets):
    return cr.model_matrix("~ 0 + immunophenotype", targets, strip_prefix=True)


@pytest.fixture(scope="module")
def logged(kept, design):
    return cr.voom(kept, design)


@pytest.fixture(scope="module")
def contrast(logged):
    lines = cr.make_contrasts(LvsB="luminal - basal", levels=logged)
    return cr.contrasts_fit(cr.lm_fit(logged), lines)


@pytest.fixture(scope="module")
def moderated(contrast):
    return cr.e_bayes(contrast)


def near(found, expected, gate, relative=False):
    found, expected = np.asarray(found, float), np.asarray(expected, float)
    assert found.shape == expected.shape and found.size
    away = np.abs(found - expected) / (np.abs(expected) if relative else 1.0)
    assert np.max(away) <= gate


# GSE60450


def test_the_tutorial_from_counts_to_calls(counts, targets):
    keep = cr.filter_by_cpm(counts, targets["immunophenotype"])
    assert (keep.size, keep.sum()) == (27_179, 14_453)
    made = cr.voom(counts[keep], cr.model_matrix("~ 0 + immunophenotype", targets))
    assert list(made.design) == ["immunophenotypebasal", "immunophenotypeluminal"]
    lines = cr.make_contrasts("immunophenotypeluminal - immunophenotypebasal", levels=made)
    fit = cr.e_bayes(cr.contrasts_fit(cr.lm_fit(made), lines))
    assert round(float(fit.s2_prior), 4) == 0.7709
    assert round(float(fit.df_prior), 2) == 3.70
    table = cr.top_table(fit, number=None)
    assert len(table) == 14_453
    assert (table["adj.P.Val"] < 0.05).sum() == 6_503
    assert table.index[0] == 110308
    called = cr.decide_tests(fit)
    assert called.shape == (14_453, 1)
    assert called.iloc[:, 0].value_counts().to_dict() == {0: 7_950, -1: 4_503, 1: 2_000}
    assert called.index.equals(made.E.index)


def test_genes_are_those_of_limma(limma, logged, contrast, moderated):
    reference = limma("limma_ref_seed_genes.csv.gz")
    assert moderated.features == reference.index.tolist()
    near(logged.E, limma("limma_ref_seed_E.csv.gz")[logged.E.columns], 1e-13)
    # R wrote the weights without names of samples, in the order of the counts.
    near(logged.weights, limma("limma_ref_seed_weights.csv.gz"), 1e-11, relative=True)
    near(moderated.sigma, reference["sigma"], 1e-11, relative=True)
    near(moderated.s2_post, reference["s2_post"], 1e-11, relative=True)
    table = cr.top_table(moderated, "LvsB", number=None, sort_by="none")
    assert table.index.equals(reference.index)
    for name in ("logFC", "t", "B"):
        near(table[name], reference[name], 1e-9)
    near(table["neg_log10_p"], -np.log10(reference["p_value"]), 1e-10)
    scalars = limma("limma_ref_scalars.csv", "key")["value"]
    near(moderated.s2_prior, scalars["seed.s2.prior"], 1e-12, relative=True)
    near(moderated.df_prior, scalars["seed.df.prior"], 1e-12, relative=True)
    assert (cr.decide_tests(moderated)["LvsB"] == reference["decide"]).all()
    for threshold, key in (({"lfc": 1}, "lfc1"), ({"fc": 1.2}, "fc1.2")):
        treated = cr.treat(contrast, **threshold)
        found = cr.top_treat(treated, number=None)["adj.P.Val"] < 0.05
        assert found.sum() == scalars[f"seed.treat_{key}.n_sig"]
    for how in ("trend", "robust"):
        calls = cr.decide_tests(cr.e_bayes(contrast, **{how: True}))
        assert np.count_nonzero(calls) == scalars[f"seed.{how}.n_sig"]


def test_the_ten_genes_of_limma_with_their_names(limma, moderated):
    reference = limma("limma_ref_seed_top10.csv")
    table = cr.top_table(moderated, sort_by="P")
    assert list(table.index) == list(reference.index)
    for name in ("logFC", "AveExpr", "t", "B"):
        near(table[name], reference[name], 1e-9)
    near(table["adj.P.Val"], reference["adj.P.Val"], 1e-9, relative=True)


def test_filters_factors_and_mds_are_those_of_r(limma, counts, kept, targets):
    scalars = limma("limma_ref_scalars.csv", "key")["value"]
    by_group = cr.filter_by_expr(counts, targets["immunophenotype"][::-1])
    assert by_group.sum() == scalars["filterByExpr.kept"]
    factors = limma("limma_ref_normfactors.csv", "sample")
    for method in ("TMM", "RLE", "upperquartile"):
        found = cr.calc_norm_factors(kept.iloc[:, ::-1], method)
        near(found[factors.index], factors[method.lower()], 1e-11, relative=True)
    logs = cr.cpm(counts, log=True)
    assert logs.columns.equals(counts.columns) and logs.index.equals(counts.index)
    reference = limma("limma_ref_mds_lcpm.csv", "sample")
    made = cr.plot_mds(logs.loc[kept.index, reference.index])
    assert made.axis_label(0) == "Leading logFC dim 1 (67%)"
    found = made.coordinates[:, :3]
    near(np.abs(found), reference[["dim1", "dim2", "dim3"]].abs(), 1e-10)


def test_the_order_of_samples_and_rows_does_not_matter(kept, targets, moderated):
    random = np.random.default_rng(0)
    shuffled = kept[random.permutation(kept.columns)]
    table = targets.loc[random.permutation(targets.index)]
    assert list(shuffled) != list(table.index) != list(kept)
    made = cr.voom(shuffled, cr.model_matrix("~ 0 + immunophenotype", table, True))
    assert made.design.index.equals(shuffled.columns)
    found = cr.e_bayes(cr.contrasts_fit(cr.lm_fit(made), "luminal - basal"))
    np.testing.assert_allclose(found.t[:, 0], moderated.t[:, 0], atol=1e-9)
    labels = table["immunophenotype"]
    assert cr.filter_by_cpm(shuffled, labels).equals(cr.filter_by_cpm(kept, labels))


def test_an_anndata_gives_the_same_numbers(kept, targets, logged):
    table = targets[::-1]
    screen = ad.AnnData(
        sp.csr_matrix(kept[table.index].T.to_numpy(float)),
        obs=table,
        var=pd.DataFrame(index=kept.index.astype(str)),
    )
    screen.layers["twice"] = 2 * screen.X
    made = cr.voom(screen, "~ 0 + immunophenotype")
    assert list(made.E) == list(table.index) and list(made.E.index) == list(screen.var_names)
    np.testing.assert_allclose(made.E[logged.E.columns], logged.E, atol=1e-13)
    np.testing.assert_allclose(made.weights[logged.E.columns], logged.weights, rtol=1e-11)
    pd.testing.assert_frame_equal(made.design, cr.model_matrix("~0+immunophenotype", screen))
    kept_again = cr.filter_by_cpm(screen, "immunophenotype")
    assert kept_again.equals(cr.filter_by_cpm(kept.set_axis(screen.var_names), table.iloc[:, 0]))
    twice = cr.cpm(screen, layer="twice", lib_size=kept.sum())
    np.testing.assert_allclose(twice[kept.columns], 2e6 * kept / kept.sum(), rtol=1e-13)
    fit = cr.lm_fit(cr.cpm(screen, log=True), made.design)
    again = ad.AnnData(cr.cpm(screen, log=True).T, obs=table)
    np.testing.assert_array_equal(
        cr.lm_fit(again, "~0+immunophenotype").coefficients, fit.coefficients
    )
    means = cr.run_anova(again, "immunophenotype")[["mean_basal", "mean_luminal"]]
    np.testing.assert_allclose(means, fit.coefficients, atol=1e-12)


def test_quality_weights_carry_the_names_of_samples(limma, kept, logged, design):
    reference = limma("limma_ref_arrayweights.csv", "sample")
    found = cr.array_weights(logged.E.iloc[:, ::-1], design)
    assert list(found.index) == list(reference.index[::-1])
    near(found[reference.index], reference["arrayWeights_E"], 1e-11, relative=True)
    found = cr.voom_with_quality_weights(kept, design[::-1]).sample_weights
    near(found[reference.index], reference["sample_weight_voomqw"], 1e-11, relative=True)


# HSPC


@pytest.fixture(scope="module")
def hspc(data_dir):
    path = data_dir / "hspc.Mouse_HSPC_reduced.txt.gz"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    with gzip.open(path, "rt") as file:
        return pd.read_csv(file, sep="\t", index_col=0, float_precision="round_trip")


def test_the_anova_tutorial(hspc):
    groups = hspc.columns.str.replace(r"\..*", "", regex=True)
    table = cr.run_anova(hspc, groups)
    assert table.index.equals(hspc.index)
    assert list(table) == [
        *("pval", "pval_fdr", "significant_0_05", "F", "eta_squared"),
        *("mean_GMP", "mean_LTHSC", "mean_MEP", "note"),
    ]
    gene = table.loc["Kdm3a"]
    assert round(gene["F"], 6) == 1.500594 and round(gene["pval"], 8) == 0.22639342
    means = [round(gene[f"mean_{name}"], 3) for name in ("GMP", "LTHSC", "MEP")]
    assert means == [2.798, 2.379, 3.402]
    assert table["significant_0_05"].sum() == 2_398
    assert (table["pval_fdr"] < 0.01).sum() == 1_945
    by_name = pd.Series(groups, hspc.columns).sample(frac=1, random_state=0)
    pd.testing.assert_frame_equal(cr.run_anova(hspc, by_name), table)
    pd.testing.assert_frame_equal(cr.run_anova(hspc, by_name.to_dict()), table)


def test_anova_says_why_there_is_no_f():
    values = pd.DataFrame([[1.0] * 4, [1, 2, 4, 7]], ["flat", "varies"], list("wxyz"))
    table = cr.run_anova(values, pd.Categorical(list("bbaa"), ["b", "a"]))
    assert list(table.columns[-3:]) == ["mean_b", "mean_a", "note"]
    assert table["note"].tolist() == [CONSTANT, ""]
    assert np.isnan(table.loc["flat", "pval"]) and not table.loc["flat", "significant_0_05"]
    assert table.loc["varies", "pval_fdr"] == table.loc["varies", "pval"]


# Designs and contrasts

SAMPLES = pd.DataFrame(
    {
        "cell": ["T.b", "a:x", "T.b", "a:x", "B[1]"],
        "dose": [1.0, 2.0, 3.0, 5.0, 8.0],
        "old": [True, False, False, True, True],
        "day": pd.Categorical(list("qpqpp"), ["q", "p", "never"]),
    },
    index=list("vwxyz"),
)


@pytest.mark.parametrize(
    ("formula", "names", "stripped"),
    [
        ("~ 0 + cell", ["cellB[1]", "cellT.b", "cella:x"], ["B[1]", "T.b", "a:x"]),
        ("cell", ["(Intercept)", "cellT.b", "cella:x"], ["(Intercept)", "T.b", "a:x"]),
        ("~ day * dose", ["(Intercept)", "dayp", "dose", "dayp:dose"], None),
        ("~ 0 + old", ["oldFALSE", "oldTRUE"], ["FALSE", "TRUE"]),
        ("~ log(dose)", ["(Intercept)", "log(dose)"], ["(Intercept)", "log(dose)"]),
        ("~ 1", ["(Intercept)"], ["(Intercept)"]),
    ],
)
def test_columns_of_a_design_are_named_as_in_r(formula, names, stripped):
    made = cr.model_matrix(formula, SAMPLES)
    assert list(made) == names and made.index.equals(SAMPLES.index)
    if stripped:
        again = cr.model_matrix(formula, SAMPLES, strip_prefix=True)
        assert list(again) == stripped
        np.testing.assert_array_equal(again, made)


def test_columns_of_a_design_hold_what_their_names_say():
    made = cr.model_matrix("~ 0 + cell + dose", SAMPLES)
    np.testing.assert_array_equal(made["cellT.b"], SAMPLES["cell"] == "T.b")
    np.testing.assert_array_equal(made["dose"], SAMPLES["dose"])
    matrix = cr.model_matrix(made[::-1], SAMPLES)
    pd.testing.assert_frame_equal(matrix, made)


def test_contrasts_are_read_in_every_form(design):
    expected = pd.DataFrame({"d": [-1.0, 1.0]}, index=["basal", "luminal"])
    text = "luminal - basal"
    for made in (
        cr.make_contrasts(d=text, levels=design),
        cr.make_contrasts({"d": text}, levels=["basal", "luminal"]),
        cr.make_contrasts([text], levels=design).rename(columns={text: "d"}),
        cr.make_contrasts(text, levels=design).rename(columns={text: "d"}),
    ):
        pd.testing.assert_frame_equal(made, expected)


def test_rows_of_contrasts_go_by_name(logged, contrast):
    swapped = pd.DataFrame({"LvsB": [1.0, -1.0]}, index=["luminal", "basal"])
    found = cr.contrasts_fit(cr.lm_fit(logged), swapped)
    np.testing.assert_array_equal(found.coefficients, contrast.coefficients)
    assert found.names == ["LvsB"]


# A small case


def case(n_genes=40, groups="aaabbb"):
    random = np.random.default_rng(3)
    samples = [f"s{j}" for j in range(len(groups))]
    values = random.poisson(random.lognormal(4, 1, n_genes)[:, None], (n_genes, len(groups)))
    values = pd.DataFrame(values, [f"g{i}" for i in range(n_genes)], samples)
    return values, pd.DataFrame({"group": list(groups)}, index=samples)


@pytest.fixture
def small():
    values, table = case()
    return values, cr.model_matrix("~ 0 + group", table)


def test_weights_go_by_name(small):
    values, design = small
    logs = np.log2(values + 1)
    random = np.random.default_rng(4)
    each = pd.DataFrame(random.uniform(1, 2, values.shape), values.index, values.columns)
    expected = cr.lm_fit(logs, design, each)
    assert not np.array_equal(expected.coefficients, cr.lm_fit(logs, design).coefficients)
    found = cr.lm_fit(logs, design, each.sample(frac=1, random_state=0).iloc[:, ::-1])
    np.testing.assert_array_equal(found.coefficients, expected.coefficients)
    for one, whole in (
        (each["s0"], np.tile(each[["s0"]], 6)),
        (each.loc["g0"], np.tile(each.loc[["g0"]], (40, 1))),
    ):
        found = cr.lm_fit(logs, design, one[::-1])
        expected = cr.lm_fit(logs, design, pd.DataFrame(whole, each.index, each.columns))
        np.testing.assert_allclose(found.coefficients, expected.coefficients, rtol=1e-12)
        np.testing.assert_allclose(found.stdev_unscaled, expected.stdev_unscaled, rtol=1e-12)


def test_libraries_and_factors_go_by_name(small):
    values, design = small
    factors = pd.Series([0.5, 1, 1, 1, 1, 2.0], values.columns)
    sizes = values.sum() * 3
    made = cr.voom(values, design, sizes[::-1], factors.sample(frac=1, random_state=0))
    expected = voom_of_arrays(values.to_numpy(), design.to_numpy(), (sizes * factors).to_numpy())
    np.testing.assert_array_equal(made.E, expected.E)
    np.testing.assert_array_equal(made.weights, expected.weights)
    np.testing.assert_allclose(made.lib_size, sizes * factors)
    factored = cr.voom(values, design, norm_factors=factors).lib_size
    np.testing.assert_allclose(factored, values.sum() * factors)
    one = cr.calc_norm_factors(values, ref_column="s3")
    other = cr.calc_norm_factors(values.iloc[:, ::-1], ref_column="s3")
    np.testing.assert_allclose(one, other[one.index], rtol=1e-12)


def test_a_trend_by_feature_goes_by_name(small):
    values, design = small
    fit = cr.lm_fit(np.log2(values + 1), design)
    by = pd.Series(fit.amean, values.index)
    found = cr.e_bayes(fit, trend=by.sample(frac=1, random_state=0))
    np.testing.assert_array_equal(found.s2_post, cr.e_bayes(fit, trend=True).s2_post)
    with pytest.raises(ValueError, match="1 features are in the fit only: 'g0'"):
        cr.e_bayes(fit, trend=by[1:])
    with pytest.raises(ValueError, match="Series by feature"):
        cr.treat(fit, trend=by.to_numpy())


def test_quality_weights_are_part_of_the_weights(small):
    values, design = small
    made = cr.voom_with_quality_weights(values, design[::-1])
    assert made.sample_weights.index.equals(values.columns)
    alone = cr.voom(values, design)
    assert alone.sample_weights is None
    np.testing.assert_array_equal(made.E, alone.E)
    assert made.sample_weights.std() > 0.01
    # What is left of a row is close to what voom has without samples' quality.
    left = made.weights / made.sample_weights
    assert np.corrcoef(np.ravel(left), np.ravel(alone.weights))[0, 1] > 0.9


def test_several_contrasts_make_a_table_of_f(small):
    values, _ = small
    values, table = case(groups="aabbcc")
    made = cr.voom(values, cr.model_matrix("~ 0 + group", table, True))
    fit = cr.e_bayes(cr.contrasts_fit(cr.lm_fit(made), ["b - a", "c - a"]))
    assert list(cr.top_table(fit)) == [
        *("b - a", "c - a", "AveExpr", "F", "P.Value", "adj.P.Val", "neg_log10_p"),
    ]
    called = cr.decide_tests(fit, "nestedF", p_value=0.9)
    assert list(called) == fit.names and set(called.dtypes.astype(str)) == {"int8"}


# Warnings


def test_dependent_columns_are_left_out_with_a_warning(small):
    values, design = small
    logs = np.log2(values + 1)
    both = design.assign(all=1.0)
    assert cr.non_estimable(both) == ["all"] and cr.non_estimable(design) == []
    with pytest.warns(UserWarning, match="coefficients not estimable: 'all'") as caught:
        fit = cr.lm_fit(logs, both)
    assert [one.filename for one in caught] == [__file__]
    assert np.isnan(fit.coefficients[:, 2]).all()
    expected = cr.lm_fit(logs, design)
    np.testing.assert_array_equal(fit.coefficients[:, :2], expected.coefficients)
    cr.contrasts_fit(fit, "groupb - groupa")
    with pytest.raises(ValueError, match="2 problems") as raised:
        cr.contrasts_fit(fit, {"fine": "groupb - groupa", "one": "all", "two": "groupa - all"})
    assert "contrast 'one': the design cannot estimate 'all'" in str(raised.value)
    assert "contrast 'two': the design cannot estimate 'all'" in str(raised.value)
    assert "'fine'" not in str(raised.value)


def test_a_group_of_one_sample_is_named():
    values, table = case(groups="aaab")
    design = cr.model_matrix("~ 0 + group", table)
    with pytest.warns(UserWarning, match="sample 's3' is all there is of 'groupb'"):
        made = cr.voom(values, design)
    cr.lm_fit(made)
    for formula in ("~ group", "~ C(group, contr.treatment('b'))"):
        with pytest.warns(UserWarning, match="sample 's3' is"):
            cr.lm_fit(np.log2(values + 1), cr.model_matrix(formula, table))
    for call in (cr.run_anova, cr.filter_by_cpm, cr.filter_by_expr):
        with pytest.warns(UserWarning, match="groups of one sample: 'b'"):
            call(values, table["group"])


def test_features_that_lack_a_coefficient_are_counted(small):
    values, design = small
    logs = np.log2(values + 1.0)
    logs.iloc[2, :3] = np.nan
    logs.iloc[5, 0] = np.nan
    with pytest.warns(UserWarning, match="1 features undetermined: 'g2'"):
        fit = cr.lm_fit(logs, design)
    assert np.isnan(fit.coefficients).sum() == 1 and np.isnan(fit.coefficients[2, 0])


# Refusals


def spoiled(values, **cells):
    """Counts with one cell of a gene changed."""
    values = values.astype(float)
    for gene, value in cells.items():
        values.loc[gene, "s1"] = value
    return values


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (-1.0, r"1 values are negative \(g3 in s1: -1\)"),
        (0.5, r"1 values are fractional \(g3 in s1: 0.5\)"),
        (np.nan, r"1 values are missing \(g3 in s1: nan\)"),
        (np.inf, r"1 values are infinite \(g3 in s1: inf\)"),
    ],
)
def test_voom_refuses_what_is_no_count(small, value, says):
    values, design = small
    for call in (cr.voom, cr.voom_with_quality_weights):
        with pytest.raises(ValueError, match=says):
            call(spoiled(values, g3=value), design)
    if value == 0.5:
        cr.voom(spoiled(values, g3=value), design, allow_fractional=True)
        cr.cpm(spoiled(values, g3=value))
        return
    with pytest.raises(ValueError, match=says):
        cr.voom(spoiled(values, g3=value), design, allow_fractional=True)
    for call in (cr.cpm, cr.calc_norm_factors, cr.filter_by_expr):
        with pytest.raises(ValueError, match=says):
            call(spoiled(values, g3=value))


def test_all_that_is_wrong_is_said_at_once(small):
    values, design = small
    bad = spoiled(values, g3=-1.0, g4=0.5, g5=np.nan)
    bad["s2"] = 0
    bad = bad.rename(columns={"s5": "other"}, index={"g7": "g6"})
    with pytest.raises(ValueError, match="voom: 6 problems") as raised:
        cr.voom(bad, design)
    text = str(raised.value)
    for part in (
        "1 feature names occur more than once: 'g6'",
        "1 values are missing",
        "1 values are negative",
        "1 values are fractional",
        "samples without a count: 's2'",
        "1 samples are in the design only: 's5'; 1 samples are in the values only: 'other'",
    ):
        assert part in text
    assert text.count("->") == 6


@pytest.mark.parametrize(
    "call",
    [
        lambda values, table: cr.voom(values, cr.model_matrix("~ 0 + group", table)),
        lambda values, table: cr.lm_fit(values, cr.model_matrix("~ 0 + group", table)),
        lambda values, table: cr.filter_by_cpm(values, table["group"]),
        lambda values, table: cr.filter_by_expr(values, table["group"]),
        lambda values, table: cr.run_anova(values, table["group"]),
    ],
)
def test_samples_that_differ_are_listed(call):
    values, table = case()
    with pytest.raises(ValueError, match="2 samples are in .* only: 's4', 's5'"):
        call(values, table.iloc[:4])
    with pytest.raises(ValueError, match="1 samples are in the values only: 's0'|only: 's0'"):
        call(values.drop(columns="s0"), table)
    with pytest.raises(ValueError, match="set the names of the samples as the index"):
        call(values, table.reset_index(drop=True))
    numbered = values.set_axis([str(j) for j in range(6)], axis=1)
    with pytest.raises(ValueError, match="as text they agree"):
        call(numbered, table.set_axis(range(6)))
    twice = values.set_axis([*values.columns[:5], "s0"], axis=1)
    with pytest.raises(ValueError, match="1 sample names occur more than once: 's0'"):
        call(twice, table)
    with pytest.raises(ValueError, match="1 sample names occur more than once: 's0'"):
        call(values, table.set_axis([*table.index[:5], "s0"]))


def test_a_design_without_residuals_is_refused():
    values, table = case(groups="abcdef")
    design = cr.model_matrix("~ 0 + group", table)
    for call in (cr.voom, cr.voom_with_quality_weights, cr.lm_fit, cr.array_weights):
        with pytest.raises(ValueError, match="no residual degrees of freedom"):
            call(values, design)
    with pytest.raises(ValueError, match="no residual degrees of freedom"):
        cr.run_anova(values, table["group"])


VALUES, TABLE = case()
MATRIX = TABLE.assign(a=TABLE["group"] == "a", b=TABLE["group"] == "b").drop(columns="group")


@pytest.mark.parametrize(
    ("call", "says"),
    [
        (lambda: cr.model_matrix("~ grup", TABLE), "did you mean 'group'"),
        (lambda: cr.model_matrix("y ~ group", TABLE), "has a left-hand side"),
        (lambda: cr.model_matrix("~ group +", TABLE), "cannot be read"),
        (lambda: cr.model_matrix("~ group"), "samples: is missing"),
        (lambda: cr.model_matrix(3, TABLE), "is a int"),
        (lambda: cr.model_matrix("~ group", TABLE.to_dict()), "is a dict"),
        (lambda: cr.model_matrix("~ group", TABLE.replace("b", None)), "value: 's3', 's4', 's5'"),
        (lambda: cr.model_matrix(TABLE), "columns are not numbers: 'group'"),
        (lambda: cr.model_matrix(MATRIX, TABLE[1:]), "in the matrix only: 's0'"),
        (
            lambda: cr.model_matrix("~ 0 + x:y", TABLE.assign(x=1.0, y=np.nan)),
            "sample table, y: 6 samples have no finite value",
        ),
        (
            lambda: cr.model_matrix(
                "~ 0 + p + q", TABLE.assign(p=list("ababab"), q=list("abbbaa")), 1
            ),
            "several columns called",
        ),
        (lambda: cr.make_contrasts("a - c", "a + ", "a", levels=MATRIX), "2 problems"),
        (lambda: cr.make_contrasts("a - c", levels=MATRIX), "there is no coefficient 'c'"),
        (lambda: cr.make_contrasts("a", "a", levels=MATRIX), "contrast names occur more"),
        (lambda: cr.make_contrasts(levels=MATRIX), "are missing"),
        (lambda: cr.voom(VALUES, MATRIX.to_numpy()), "a ndarray"),
        (lambda: cr.voom(VALUES.to_numpy(), MATRIX), "has no names"),
        (lambda: cr.voom(VALUES, "~ group"), "a DataFrame has no obs"),
        (lambda: cr.voom(VALUES[:1], MATRIX), "there is one feature"),
        (lambda: cr.voom(VALUES[:0], MATRIX), "0 features and 6 samples"),
        (lambda: cr.voom(VALUES.assign(s3="x"), MATRIX), "columns are not numbers: 's3'"),
        (lambda: cr.voom(VALUES, MATRIX, VALUES.sum() * [0, 1, 1, 1, 1, 1]), "number: 's0'"),
        (lambda: cr.voom(VALUES, MATRIX, norm_factors=np.ones(6)), "norm_factors: is a ndarray"),
        (lambda: cr.voom(VALUES, MATRIX, layer="raw"), "a DataFrame has none"),
        (lambda: cr.lm_fit(VALUES), "design: is missing"),
        (lambda: cr.lm_fit(VALUES.where(VALUES != 0, 1) / 0, MATRIX), "240 values are infinite"),
        (lambda: cr.lm_fit(VALUES, MATRIX, np.ones(6)), "weights: are a ndarray"),
        (lambda: cr.lm_fit(VALUES, MATRIX, VALUES[1:]), "1 features are in the values only: 'g0'"),
        (lambda: cr.lm_fit(VALUES, MATRIX, VALUES["s0"][1:]), "features are in the values only"),
        (
            lambda: cr.lm_fit(VALUES, MATRIX, VALUES.loc["g0"][1:]),
            "samples are in the values only",
        ),
        (lambda: cr.plot_mds(VALUES.to_numpy()), "has no names"),
        (lambda: cr.calc_norm_factors(VALUES, "tmmm"), "it is TMM, RLE"),
        (lambda: cr.calc_norm_factors(VALUES, ref_column="s9"), "no sample 's9'"),
        (lambda: cr.filter_by_cpm(VALUES, list("aab")), "3 labels for 6 samples"),
        (lambda: cr.filter_by_cpm(VALUES, "group"), "a DataFrame has no obs"),
        (lambda: cr.filter_by_cpm(VALUES, TABLE), "is a DataFrame"),
        (lambda: cr.filter_by_cpm(VALUES, TABLE["group"].replace("a", None)), "without a group"),
        (lambda: cr.run_anova(VALUES, list("aaaaaa")), "holds one group, 'a'"),
        (lambda: cr.run_anova(VALUES * np.inf, TABLE["group"]), "values are infinite"),
        (lambda: cr.run_anova(ad.AnnData(VALUES.T.astype(float)), "x"), "no column of obs 'x'"),
        (lambda: cr.cpm(ad.AnnData(VALUES.T.astype(float)), layer="x"), "no layer 'x'"),
        (lambda: cr.cpm(ad.AnnData(obs=TABLE)), "X: is empty"),
        (lambda: cr.contrasts_fit(cr.lm_fit(VALUES, MATRIX), np.eye(2)), "without names"),
        (
            lambda: cr.contrasts_fit(cr.lm_fit(VALUES, MATRIX), pd.Series({"a": 1, "c": 0})),
            "1 coefficients are in the contrasts only: 'c'; 1 coefficients are in the fit only",
        ),
    ],
)
def test_a_refusal_says_what_is_wrong(call, says):
    with pytest.raises(ValueError, match=says) as raised:
        call()
    assert "->" in str(raised.value)


def test_what_is_given_is_not_changed(small):
    values, design = small
    before = values.copy(), design.copy()
    made = cr.voom(values, design)
    cr.lm_fit(made)
    cr.run_anova(values, list("aaabbb"))
    pd.testing.assert_frame_equal(values, before[0])
    pd.testing.assert_frame_equal(design, before[1])
