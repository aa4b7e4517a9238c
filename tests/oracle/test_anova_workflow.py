"""The anova steps on the HSPC data: published numbers, statsmodels, and any number of shards."""

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from condrand.engines.anova_steps import anova_effects, anova_shard
from condrand.io.samples import Samples, write_samples
from condrand.io.tables import read_parquet, read_tsv
from references import read, within

SETTINGS = {"formula": "~ group", "transform": "none", "prior_count": 2.0}


@pytest.fixture(scope="module")
def hspc(data_dir):
    """The HSPC data as samples, with a second factor that the groups are not balanced over."""
    path = data_dir / "hspc.h5ad"
    if not path.is_file():
        pytest.skip(f"no data at {path}")
    data = ad.read_h5ad(path)
    values = np.ascontiguousarray(data.X.toarray().T, np.float64)
    rng = np.random.default_rng(0)
    skewed = rng.random(150) < np.where(data.obs["group"] == "MEP", 0.7, 0.3)
    table = data.obs[["group"]].assign(batch=pd.Categorical(np.where(skewed, "x", "y")))
    return Samples(values, list(data.var_names), table.assign(age=rng.normal(size=150)))


@pytest.fixture(scope="module")
def run(hspc, tmp_path_factory):
    """Run all steps over some shards; give the files written."""

    def steps(n_shards=1, significant=None, **changed):
        folder = tmp_path_factory.mktemp("anova")
        samples, settings = folder / "samples.h5ad", {**SETTINGS, **changed}
        write_samples(samples, hspc)
        shards = [folder / f"shard-{i:04d}.h5" for i in range(n_shards)]
        for i, shard in enumerate(shards):
            anova_shard(samples, shard, (i, n_shards), settings)
        written = {
            name: folder / f"{name}.tsv" for name in ("effects_tsv", "significant", "terms")
        }
        written["effects"] = folder / "effects.parquet"
        settings["significant"] = significant or {"fdr": None, "count": None}
        anova_effects(samples, shards, ("hspc", "anova"), settings, 0.05, written)
        return written

    return steps


@pytest.fixture(scope="module")
def one_factor(run):
    return run()


def test_every_gene_has_the_published_f_and_p(one_factor, data_dir):
    table = read_parquet(one_factor["effects"]).set_index("feature")
    expected = read(data_dir / "hspc.f_oneway_computed_here.tsv.gz", sep="\t", index_col="gene")
    expected = expected.loc[table.index]
    # Values are stored as float32; the reference was computed of the text they were read from.
    within("F", "hspc.f_oneway", table["statistic"], expected["F"], 5e-6, True)
    some = (expected["p"] > 0).to_numpy()
    log_p = np.log10(expected["p"][some])
    within("log10 p", "hspc.f_oneway", -table["neg_log10_p"][some], log_p, 5e-6)
    assert int(np.count_nonzero(table["fdr"] < 0.05)) == 2398
    gene = table.loc["Kdm3a"]
    np.testing.assert_allclose(
        [gene["statistic"], gene["p_value"]], [1.500594, 0.22639342], rtol=1e-6
    )
    assert (gene["df_term"], gene["df_residual"], gene["n_target"]) == (2, 147, 150)
    means = gene[["mean.GMP", "mean.LTHSC", "mean.MEP"]].astype(float).round(3)
    assert means.tolist() == [2.798, 2.379, 3.402]


def test_the_terms_and_significant_genes_are_counted(run, one_factor):
    terms = read_tsv(one_factor["terms"]).iloc[0]
    assert (terms["term"], terms["tested"], terms["significant"]) == ("group", 4170, 2398)
    assert terms["levels"] == "GMP (50), LTHSC (50), MEP (50)"
    assert len(read_tsv(one_factor["significant"])) == 2398
    chosen = read_tsv(run(2, significant={"fdr": None, "count": 500})["significant"])
    table = read_parquet(one_factor["effects"])
    assert len(chosen) == 500
    assert chosen["fdr"].max() == pytest.approx(np.sort(table["fdr"])[499], rel=1e-9)


@pytest.mark.parametrize("formula", ["~ group", "~ group * batch + age"])
def test_1_3_and_50_shards_give_the_same_bits(run, formula):
    made = [run(n, formula=formula) for n in (1, 3, 50)]
    for name in made[0]:
        assert len({written[name].read_bytes() for written in made}) == 1, name


def test_terms_are_those_of_statsmodels_by_type_two(run, hspc):
    reason = "statsmodels is not installed: it is no dependency, and a reference here alone"
    smf = pytest.importorskip("statsmodels.formula.api", reason=reason)
    anova_lm = pytest.importorskip("statsmodels.stats.anova", reason=reason).anova_lm
    table = read_parquet(run(3, formula="~ group * batch + age")["effects"])
    rows = np.sort(np.random.default_rng(1).choice(len(hspc.features), 200, replace=False))
    expected = []
    for row in rows:
        data = hspc.table.assign(y=hspc.values[row])
        fitted = smf.ols("y ~ group * batch + age", data).fit()
        made = anova_lm(fitted, typ=2).loc[["group", "batch", "age", "group:batch"]]
        expected.append(made[["F", "PR(>F)", "sum_sq", "df"]].to_numpy())
    expected = np.array(expected)
    by_term = {
        name: table[name].to_numpy().reshape(4, -1)[:, rows].T
        for name in ("statistic", "p_value", "sum_sq", "df_term")
    }
    assert list(dict.fromkeys(table["target"])) == ["group", "batch", "age", "group:batch"]
    columns = zip(by_term.items(), (1e-9, 1e-9, 1e-9, 0.0), strict=True)
    for j, ((name, found), gate) in enumerate(columns):
        within(name, "anova_lm typ=2, 200 genes", found, expected[:, :, j], gate, j == 2)
