"""The steps of the limma engine, from counts to tables, against R limma on 12 samples."""

from functools import partial

import numpy as np
import pandas as pd
import pytest

from analyses import LIMMA_TESTS, LimmaFolder
from condrand.io.samples import Samples, read_samples, write_samples
from condrand.io.shards import read_arrays
from condrand.io.tables import read_tsv
from references import read, within

# Section 5 of the specification of linear models.
E, WEIGHTS, SIGMA, T, LOG10_P, PRIOR, MDS = 1e-13, 1e-11, 1e-11, 1e-9, 1e-10, 1e-12, 1e-10
Folder = partial(
    LimmaFolder,
    labels=("B", "L"),
    design="~ 0 + immunophenotype",
    contrasts=["luminal - basal"],
    groups="immunophenotype",
    normalization="none",
)


@pytest.fixture(scope="module")
def samples(limma, tmp_path_factory):
    """Counts of 27,179 genes in 12 samples, as the load stage writes them."""
    counts = read(limma / "gse60450_counts.csv.gz", index_col=0)
    table = read(limma / "gse60450_targets.csv", index_col=0).astype("category")
    words = {"source": "27,179 features x 12 samples of a table", "is_counts": True}
    path = tmp_path_factory.mktemp("gse60450") / "samples.h5ad"
    features = counts.index.astype(str).tolist()
    write_samples(path, Samples(counts.to_numpy(float), features, table, {}, words))
    return path


@pytest.fixture(scope="module")
def filtered(samples, tmp_path_factory):
    return Folder(tmp_path_factory.mktemp("filtered")).filter(samples)["filtered.h5ad"]


@pytest.fixture(scope="module")
def two_groups(filtered, tmp_path_factory):
    folder = Folder(tmp_path_factory.mktemp("two_groups")).voom(filtered)
    return folder.test(folder.fit(3))


def log10(p):
    return -np.log10(np.asarray(p, float))


def test_the_filter_keeps_what_limma_was_given(limma, filtered):
    made = read_samples(filtered)
    expected = read(limma / "limma_ref_seed_genes.csv.gz")["EntrezGeneID"].astype(str)
    assert made.features == expected.tolist() and len(made.features) == 14_453
    assert made.words["filter"] == (
        "14,453 of 27,179 features have more than 0.452 counts per million in at least 6 samples"
    )
    assert made.words["n_before"] == 27_179 and made.words["notes"] == ""
    assert made.arrays["groups"].tolist() == ["basal"] * 6 + ["luminal"] * 6
    assert made.arrays["lib_size_all"].max() == 24_723_827
    assert (made.arrays["norm_factors"] == 1).all()
    assert made.arrays["before_density"].shape == made.arrays["after_density"].shape == (12, 200)


def test_coordinates_of_the_samples_are_those_of_limma(limma, filtered):
    made = read_samples(filtered)
    expected = read(limma / "limma_ref_mds_lcpm.csv")
    for d in (1, 2):
        (column,) = (name for name in expected if name == f"dim{d}")
        ours = np.abs(made.arrays["mds_coordinates"][:, d - 1])
        within("|coordinates|", "mds_lcpm", ours, expected[column].abs(), MDS)
    np.testing.assert_array_equal(np.round(100 * made.arrays["mds_shares"][:2]), [67, 16])


def test_log_counts_weights_and_trend_are_those_of_limma(limma, two_groups):
    made = read_samples(two_groups["outcome.h5ad"])
    for name, ours, gate, relative in (
        ("E", made.values, E, False),
        ("weights", made.arrays["weights"], WEIGHTS, True),
    ):
        expected = read(limma / f"limma_ref_seed_{name}.csv.gz")
        expected = expected.drop(columns="EntrezGeneID").to_numpy(float)
        within(name, f"seed_{name}", ours, expected, gate, relative)
    line = read(limma / "limma_ref_seed_voom_line.csv.gz").to_numpy(float)
    within("voom line", "seed_voom_line", made.arrays["line_y"], line[:, -1], WEIGHTS, True)
    assert made.words["span"] == pytest.approx(0.405868974726135, rel=1e-15)
    assert made.words["design"] == "~ 0 + immunophenotype"


def test_the_fits_of_the_shards_are_those_of_limma(limma, two_groups):
    table = read(limma / "limma_ref_seed_genes.csv.gz")
    shards = [read_arrays(two_groups[f"shard-3-{s}.h5"])[1] for s in range(3)]
    joined = {name: np.concatenate([shard[name] for shard in shards]) for name in shards[0]}
    within("sigma", "seed_genes", joined["sigma"], table["sigma"], SIGMA, True)
    for k, name in enumerate(["basal", "luminal"]):
        su = joined["stdev_unscaled"][:, k]
        within(f"stdev_unscaled {name}", "seed_genes", su, table[f"su_{name}"], SIGMA, True)
        coefficient = joined["coefficients"][:, k]
        within(f"coefficient {name}", "seed_genes", coefficient, table[f"coef_{name}"], T)


def test_the_tables_of_two_groups_are_limmas(limma, two_groups):
    table = read(limma / "limma_ref_seed_genes.csv.gz")
    ours, source = two_groups.effects, "seed_genes"
    assert ours["feature"].tolist() == table["EntrezGeneID"].astype(str).tolist()
    assert set(ours["target"]) == {"luminal - basal"}
    within("logFC", source, ours["effect"], table["logFC"], T)
    within("t", source, ours["statistic"], table["t"], T)
    within("log10 p", source, ours["neg_log10_p"], log10(table["p_value"]), LOG10_P)
    within("log10 fdr", source, log10(ours["fdr"]), log10(table["adj_p_value"]), LOG10_P)
    within("B", source, ours["log_odds"], table["B"], T)
    within("df", source, ours["df"], table["df_total"], 1e-11)
    within("mean", source, ours["average_expression"], table["Amean"], 1e-12)
    np.testing.assert_array_equal(ours["call"], table["decide"])
    np.testing.assert_array_equal(ours["fdr"], ours["fdr_target"])
    assert (ours["n_target"] == 6).all() and (ours["n_control"] == 6).all()
    assert (ours["note"] == "").all() and set(ours["p_source"]) == {"t"}

    features = read_tsv(two_groups["features.tsv.gz"])
    within("sigma", source, features["sigma"], table["sigma"], 1e-9, True)  # 10 digits
    within("s2 post", source, features["s2_post"], table["s2_post"], 1e-9, True)
    within("F", source, features["F"], table["F"], 1e-8, True)
    within("log10 F p", source, features["neg_log10_p"], log10(table["F_p_value"]), 1e-8)


def test_the_numbers_of_the_tutorial_come_out(limma, two_groups):
    counted = read_tsv(two_groups["calls.tsv"]).iloc[0]
    assert counted.to_dict() == {
        "contrast": "luminal - basal",
        **{"up": 2000, "down": 4503, "not_significant": 7950, "untested": 0},
    }
    assert (two_groups.effects["fdr"] < 0.05).sum() == 6503
    assert round(two_groups.prior["s2_prior"], 4) == 0.7709
    assert round(two_groups.prior["df_prior"], 2) == 3.70
    known = read(limma / "limma_ref_scalars.csv").set_index("key")["value"]
    within("s2.prior", "seed", two_groups.prior["s2_prior"], known["seed.s2.prior"], PRIOR, True)
    within("df.prior", "seed", two_groups.prior["df_prior"], known["seed.df.prior"], PRIOR, True)
    first = read_tsv(two_groups["effects.tsv.gz"])
    assert str(first["feature"].iloc[0]) == "110308"
    assert first["neg_log10_p"].is_monotonic_decreasing
    top = read(limma / "limma_ref_seed_top10_confint.csv").set_index("EntrezGeneID")
    ours = two_groups.effects.set_index(two_groups.effects["feature"].astype(int)).loc[top.index]
    for name, theirs in {"ci_low": "CI.L", "ci_high": "CI.R"}.items():
        within(name, "seed_top10_confint", ours[name], top[theirs], T)


@pytest.mark.parametrize("method", ["separate", "global", "hierarchical", "nestedF"])
@pytest.mark.parametrize("name", ["sixgroup", "additive"])
def test_several_contrasts_are_limmas(limma, filtered, tmp_path, name, method):
    table = read(limma / f"limma_ref_{name}.csv.gz")
    weights = read(limma / f"limma_ref_{name}_contrasts.csv", index_col=0)
    known = read(limma / "limma_ref_scalars.csv").set_index("key")["value"]
    matrix = limma / f"limma_ref_{name}_design.csv"
    contrasts = {
        label: " + ".join(f"({w!r}) * {c}" for c, w in column.items() if w)
        for label, column in weights.items()
    }
    folder = Folder(tmp_path).voom(filtered, matrix=matrix, design=None)
    folder.test(contrasts=contrasts, decide={"method": method, "adjust": "BH", "lfc": 0.0})
    effects, features = folder.effects, read_tsv(folder["features.tsv.gz"])
    assert list(dict.fromkeys(effects["target"])) == list(weights)
    for label, ours in effects.groupby("target", observed=True):
        within("logFC", label, ours["effect"], table[f"logFC.{label}"], T)
        within("t", label, ours["statistic"], table[f"t.{label}"], T)
        within("log10 p", label, ours["neg_log10_p"], log10(table[f"p.{label}"]), LOG10_P)
        within("B", label, ours["log_odds"], table[f"B.{label}"], T)
        np.testing.assert_array_equal(ours["call"], table[f"{method}.{label}"])
        called = known[f"{name}.n_nonzero.{method}.{label}"]
        assert np.count_nonzero(ours["call"]) == called
    within("F", name, features["F"], table["F"], 1e-8, True)
    within("s2.prior", name, folder.prior["s2_prior"], known[f"{name}.s2.prior"], PRIOR, True)
    within("df.prior", name, folder.prior["df_prior"], known[f"{name}.df.prior"], PRIOR, True)
    assert (features["fdr"] < 0.05).sum() == known[f"{name}.nF05"]


def test_the_six_groups_by_formula_are_those_by_table(limma, filtered, tmp_path):
    contrasts = ["luminal.virgin - basal.virgin"]
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    made = Folder(tmp_path / "a").voom(filtered, design="~ 0 + group").test(contrasts=contrasts)
    matrix = limma / "limma_ref_sixgroup_design.csv"
    other = Folder(tmp_path / "b").voom(filtered, matrix=matrix, design=None)
    other.test(contrasts=contrasts)
    pd.testing.assert_frame_equal(made.effects, other.effects)
    assert set(made.effects["n_target"]) == set(made.effects["n_control"]) == {2}


@pytest.mark.parametrize(
    ("variant", "changes"),
    [
        ("trend", {"trend": True}),
        ("robust", {"robust": True}),
        ("treat_lfc1", {"treat": 1.0}),
        ("treat_fc1.2", {"treat": np.log2(1.2)}),
    ],
)
def test_other_moderation_is_limmas(limma, two_groups, tmp_path, variant, changes):
    known = read(limma / "limma_ref_scalars.csv").set_index("key")["value"]
    folder = Folder(tmp_path)
    folder["outcome.h5ad"].write_bytes(two_groups["outcome.h5ad"].read_bytes())
    if "treat" not in changes:
        changes = {"moderation": LIMMA_TESTS["moderation"] | changes}
    folder.test(**changes)
    effects = folder.effects
    assert np.count_nonzero(effects["call"]) == known[f"seed.{variant}.n_sig"]
    if variant == "robust":
        assert folder.prior["n_held_back"] == known["seed.robust.n.outlier"]
        lowest = known["seed.robust.df.prior.min"]
        assert folder.prior["df_prior_min"] == pytest.approx(lowest, rel=1e-9)
    if variant.startswith("treat"):
        assert set(effects["p_source"]) == {"treat"} and effects["log_odds"].isna().all()
        assert read_tsv(folder["features.tsv.gz"])["F"].isna().all()


def test_log_counts_per_million_and_their_tests_are_those_of_edger_and_limma(
    limma, filtered, tmp_path
):
    table = read(limma / "limma_ref_limmatrend.csv.gz")
    folder = Folder(tmp_path).voom(filtered, transform="log_cpm", prior_count=3.0).test()
    ours, source = folder.effects, "limmatrend"
    within("logFC", source, ours["effect"], table["logFC"], T)
    within("t", source, ours["statistic"], table["plain_t"], T)
    within("log10 p", source, ours["neg_log10_p"], log10(table["plain_p"]), LOG10_P)
    within("B", source, ours["log_odds"], table["plain_B"], T)
    folder.test(moderation=LIMMA_TESTS["moderation"] | {"trend": True, "robust": True})
    ours = folder.effects
    within("t", f"{source}, robust", ours["statistic"], table["t"], T)
    within("log10 p", f"{source}, robust", ours["neg_log10_p"], log10(table["p_value"]), LOG10_P)
    within("B", f"{source}, robust", ours["log_odds"], table["B"], T)


def test_factors_of_the_libraries_are_those_of_edger(limma, samples, tmp_path):
    expected = read(limma / "limma_ref_normfactors.csv")
    made = read_samples(Folder(tmp_path).filter(samples, normalization="tmm")["filtered.h5ad"])
    (column,) = (name for name in expected if name == "tmm")
    within("TMM", "normfactors", made.arrays["norm_factors"], expected[column], 1e-12, True)


@pytest.mark.parametrize(("n_shards", "threads"), [(1, 1), (1, 2), (3, 2), (40, 1)])
def test_no_bit_depends_on_shards_or_threads(two_groups, filtered, tmp_path, n_shards, threads):
    made = Folder(tmp_path).voom(filtered, threads=threads)
    made.test(made.fit(n_shards, threads), threads)
    assert made["outcome.h5ad"].read_bytes() == two_groups["outcome.h5ad"].read_bytes()
    assert made.bits() == two_groups.bits()
