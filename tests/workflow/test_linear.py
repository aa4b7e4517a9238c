"""Analyses of engines limma and anova as Snakemake runs them: what is made, and made again.

The finished run has a count table B with a limma analysis L, and cells C with an analysis P of
their pseudobulk and V, an analysis of variance, in 3 shards of features. Jobs are named by their
(first) output.
"""

from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import f_oneway

from condrand import (
    calc_norm_factors,
    contrasts_fit,
    decide_tests,
    e_bayes,
    filter_by_cpm,
    lm_fit,
    model_matrix,
    pseudobulk,
    top_table,
    voom,
)
from condrand.io.tables import read_parquet
from condrand.plan import FEATURES_PER_BLOCK

L, P, V = "results/B/L", "results/C/P", "results/C/V"
N_GENES = 2 * FEATURES_PER_BLOCK + 76
SHIFTED = ["G0", "G1", "G2", "G3", "G4"]
SHARDS = [f"shard-{s:04d}.h5" for s in range(3)]
CONTRAST_FIGURES = ["plots/md_by_contrast.png"]
LIMMA_FIGURES = ["plots/library_sizes.png", "plots/voom_trend.png", *CONTRAST_FIGURES]


def bulk(folder):
    """Counts of 9 samples of 3 groups; 5 genes are 8 times as high in group b."""
    random = np.random.default_rng(0)
    groups = np.repeat(["a", "b", "c"], 3)
    mean = random.gamma(1.0, 300.0, N_GENES)[:, None] * np.where(groups == "b", 1.3, 1.0)
    mean[:5] = 400.0 * np.where(groups == "b", 8.0, 1.0)
    counts = random.poisson(mean * random.gamma(20.0, 1 / 20.0, mean.shape))
    samples = [f"s{i}" for i in range(9)]
    table = pd.DataFrame(counts, [f"G{g}" for g in range(N_GENES)], samples)
    table.insert(0, "Length", 1000)
    table.to_csv(folder / "counts.tsv.gz", sep="\t", index_label="gene")
    described = pd.DataFrame({"group": groups, "batch": ["x", "y", "z"] * 3}, samples)
    # In another order: samples are matched by name.
    described.iloc[::-1].to_csv(folder / "samples.csv", index_label="sample")


def cells(path):
    """400 cells of 2 conditions x 4 donors; 5 genes are higher in one condition."""
    random = np.random.default_rng(1)
    obs = pd.DataFrame(
        {
            "condition": random.choice(["ctrl", "stim"], 400),
            "donor": random.choice(["d1", "d2", "d3", "d4"], 400),
        },
        index=[f"c{i}" for i in range(400)],
    )
    obs["age"] = obs["donor"].map({"d1": 31.0, "d2": 40.0, "d3": 58.0, "d4": 44.0})
    mean = np.tile(random.gamma(1.0, 1.5, N_GENES), (400, 1))
    mean[:, :5] = np.where(obs["condition"] == "stim", 6.0, 2.0)[:, None]
    counts = sp.csr_matrix(random.poisson(mean).astype(np.float32))
    var = pd.DataFrame(index=[f"G{g}" for g in range(N_GENES)])
    ad.AnnData(counts, obs=obs.astype({"condition": "category"}), var=var).write_h5ad(path)


@pytest.fixture(scope="session")
def inputs(tmp_path_factory):
    """A folder with a count table, the table of its samples, and a screen of cells."""
    folder = tmp_path_factory.mktemp("inputs")
    bulk(folder)
    cells(folder / "cells.h5ad")
    return folder


def config_of(folder, shards=3):
    return {
        "screens": {
            "B": {
                "path": str(folder / "counts.tsv.gz"),
                "samples": str(folder / "samples.csv"),
                "annotation_columns": ["Length"],
            },
            "C": {"path": str(folder / "cells.h5ad")},
        },
        "analyses": {
            "L": {
                "engine": "limma",
                "screens": ["B"],
                "filter": {"groups": "group"},
                "design": "~ 0 + group",
                "contrasts": {"b_vs_a": "b - a", "c_vs_a": "c - a"},
            },
            "P": {
                "engine": "limma",
                "screens": ["C"],
                "pseudobulk": {"by": ["condition", "donor"]},
                "design": "~ 0 + condition + donor",
                "contrasts": ["stim - ctrl"],
            },
            "V": {
                "engine": "anova",
                "screens": ["C"],
                "outcome": {"transform": "log_cpm"},
                "pseudobulk": {"by": ["condition", "donor"]},
                "formula": "~ condition",
            },
        },
        "scatter": {"shards": shards},
    }


@pytest.fixture(scope="session")
def done(inputs, tmp_path_factory, folder_at):
    """The complete run, which no test may change."""
    folder = folder_at(tmp_path_factory.mktemp("linear") / "run", config_of(inputs))
    folder.snakemake()
    return folder


def below(analysis, *files):
    return {f"{analysis}/{file}" for file in files}


def after_fit(analysis):
    return below(analysis, "effects.parquet", "summary.txt", *CONTRAST_FIGURES)


# What is planned and made


def test_the_jobs_of_linear_models_are_planned_without_opening_a_file(new_folder, tmp_path):
    folder = new_folder(config_of(tmp_path))
    for name in ("counts.tsv.gz", "samples.csv", "cells.h5ad"):
        (tmp_path / name).write_text("This is no data.\n")
    expected = {
        "load_samples": 3,
        "warm_kernels": 1,
        "limma_filter": 2,
        "limma_voom": 2,
        "limma_shard": 6,
        "limma_effects": 2,
        "limma_summary": 2,
        "plot_samples": 2,
        "plot_trend": 2,
        "plot_contrasts": 2,
        "anova_shard": 3,
        "anova_effects": 1,
        "anova_summary": 1,
        "plot_anova": 1,
    }
    assert Counter(folder.planned().values()) == expected


def test_a_finished_run_of_linear_models_plans_nothing(done):
    assert done.planned() == {}


def test_effects_of_a_count_table_are_those_of_the_notebook_functions(done, inputs):
    counts = pd.read_csv(inputs / "counts.tsv.gz", sep="\t", index_col=0).drop(columns="Length")
    samples = pd.read_csv(inputs / "samples.csv", index_col=0).loc[counts.columns]
    kept = counts[filter_by_cpm(counts, samples["group"])]
    design = model_matrix("~ 0 + group", samples, strip_prefix=True)
    weighted = voom(kept, design, norm_factors=calc_norm_factors(kept))
    fit = e_bayes(contrasts_fit(lm_fit(weighted), {"b_vs_a": "b - a", "c_vs_a": "c - a"}))
    effects = read_parquet(done.path / L / "effects.parquet")
    assert list(dict.fromkeys(effects["target"])) == ["b_vs_a", "c_vs_a"]
    for name, rows in effects.groupby("target", observed=True):
        expected = top_table(fit, name, number=None, sort_by="none", confint=True)
        assert rows["feature"].tolist() == expected.index.tolist()
        for ours, theirs in {
            "effect": "logFC",
            "statistic": "t",
            "neg_log10_p": "neg_log10_p",
            "fdr_target": "adj.P.Val",
            "average_expression": "AveExpr",
            "ci_low": "CI.L",
            "ci_high": "CI.R",
            "log_odds": "B",
        }.items():
            np.testing.assert_array_equal(rows[ours], expected[theirs], err_msg=ours)
        assert rows["call"].tolist() == decide_tests(fit)[name].tolist()
        assert set(rows["n_target"]) == set(rows["n_control"]) == {3}
    first = effects[effects["target"] == "b_vs_a"].set_index("feature")
    assert (first.loc[SHIFTED, "effect"] > 2).all() and (first.loc[SHIFTED, "fdr"] < 0.01).all()


def test_effects_of_cells_are_those_of_their_sums(done, inputs):
    adata = ad.read_h5ad(inputs / "cells.h5ad")
    summed = pseudobulk(adata, ["condition", "donor"])
    assert summed.n_obs == 8 and summed.X.sum() == adata.X.sum()
    assert summed.obs["age"].notna().all()
    stored = ad.read_h5ad(done.path / P / "samples.h5ad")
    assert stored.obs_names.tolist() == summed.obs_names.tolist()
    np.testing.assert_array_equal(stored.X, summed.X)
    effects = read_parquet(done.path / P / "effects.parquet").set_index("feature")
    assert (effects.loc[SHIFTED, "effect"] > 1).all()
    assert (effects.loc[SHIFTED, "fdr"] < 0.05).all()


def test_an_analysis_of_variance_is_scipys(done):
    stored = ad.read_h5ad(done.path / V / "samples.h5ad")
    counts, library = np.asarray(stored.X), np.asarray(stored.X).sum(axis=1, keepdims=True)
    prior = 2.0 * library / library.mean()
    values = np.log2((counts + prior) / (library + 2 * prior) * 1e6)
    of = stored.obs["condition"].to_numpy().astype(str)
    expected = f_oneway(values[of == "ctrl"], values[of == "stim"])
    effects = read_parquet(done.path / V / "effects.parquet")
    assert effects["feature"].tolist() == stored.var_names.tolist()
    assert set(effects["target"]) == {"condition"}
    np.testing.assert_allclose(effects["statistic"], expected.statistic, rtol=1e-8)
    np.testing.assert_allclose(effects["p_value"], expected.pvalue, rtol=1e-8)
    assert (effects.set_index("feature").loc[SHIFTED, "fdr"] < 0.05).all()


def test_each_analysis_has_its_tables_figures_and_summary(done):
    made = set(done.contents())
    of_limma = ["features.tsv.gz", "calls.tsv", "moderation.tsv", "plots/top_heatmaps.pdf"]
    of_limma += [f"plots/{name}.svg" for name in ("mds", "sa", "densities", "volcano_by_contrast")]
    assert below(L, *of_limma) | below(P, *of_limma) <= made
    assert below(V, "significant.tsv", "terms.tsv", "plots/clustered_heatmap.png") <= made
    assert "results/B/screen.h5ad" not in made and "results/C/screen.h5ad" not in made
    for analysis, words in ((L, "b_vs_a"), (P, "stim - ctrl"), (V, "condition")):
        assert words in (done.path / analysis / "summary.txt").read_text()


# What is made again


def test_other_contrasts_plan_tests_and_their_figures_alone(copy_of_done):
    copy_of_done.change("analyses", "L", "contrasts", {"c_vs_b": "c - b"})
    assert set(copy_of_done.planned()) == after_fit(L)
    copy_of_done.snakemake()
    effects = read_parquet(copy_of_done.path / L / "effects.parquet")
    assert set(effects["target"]) == {"c_vs_b"}


@pytest.mark.parametrize(
    "change",
    [
        ("treat", 0.5),
        ("exact_contrasts", True),
        ("moderation", {"robust": True}),
        ("decide", {"method": "global"}),
    ],
    ids=lambda change: change[0],
)
def test_other_moderation_or_calls_plan_no_fit(copy_of_done, change):
    copy_of_done.change("analyses", "L", *change)
    assert set(copy_of_done.planned()) == after_fit(L)


def test_another_design_plans_weights_and_fits_but_not_the_filter_by_groups(copy_of_done):
    copy_of_done.change("analyses", "L", "design", "~ 0 + group + batch")
    expected = below(L, "outcome.h5ad", "plots/voom_trend.png", *SHARDS) | after_fit(L)
    assert set(copy_of_done.planned()) == expected


def test_another_filter_plans_all_but_reading(copy_of_done):
    copy_of_done.change("analyses", "L", "normalization", "none")
    expected = below(L, "filtered.h5ad", "outcome.h5ad", *LIMMA_FIGURES, *SHARDS) | after_fit(L)
    assert set(copy_of_done.planned()) == expected


def test_a_deleted_shard_of_features_is_made_again_with_what_follows(done, copy_of_done):
    (copy_of_done.path / L / SHARDS[1]).unlink()
    (copy_of_done.path / V / SHARDS[2]).unlink()
    expected = below(L, SHARDS[1]) | after_fit(L)
    expected |= below(
        V, SHARDS[2], "effects.parquet", "summary.txt", "plots/clustered_heatmap.png"
    )
    assert set(copy_of_done.planned()) == expected
    copy_of_done.snakemake()
    assert copy_of_done.contents() == done.contents()


def test_linear_models_do_not_depend_on_how_the_features_are_split(done, inputs, new_folder):
    folder = new_folder(config_of(inputs, shards=1))
    folder.change("scatter", "threads", 2)
    folder.snakemake()

    def compared(contents):
        return {path: data for path, data in contents.items() if "/shard-" not in path}

    before, after = compared(done.contents()), compared(folder.contents())
    assert set(before) == set(after)
    assert [path for path in before if before[path] != after[path]] == []


# Bad input


def bad(folder, **keys):
    """One analysis of the count table, changed."""
    config = config_of(folder)
    config["analyses"] = {"L": config["analyses"]["L"] | keys}
    return config


def test_a_bad_count_table_stops_the_run_with_all_its_problems(inputs, new_folder, tmp_path):
    counts = pd.read_csv(inputs / "counts.tsv.gz", sep="\t", index_col=0)
    counts = counts.astype({"s1": float, "s2": float})
    counts.loc["G7", "s1"], counts.loc["G8", "s2"] = -3, np.nan
    counts["s3"] = 0
    counts = counts.rename(index={"G9": "G10"}).rename(columns={"s8": "s9"})
    counts.to_csv(tmp_path / "counts.tsv.gz", sep="\t", index_label="gene")
    (tmp_path / "samples.csv").write_bytes((inputs / "samples.csv").read_bytes())
    folder = new_folder(bad(tmp_path))
    terminal = folder.snakemake(fails=True)
    for words in ("negative", "'s9'", "'s8'", "'G10'", "'s3'", "G7", "G8"):
        assert words in terminal, words
    assert "Traceback" not in terminal
    assert not list((folder.path / "results" / "B").rglob("*.h5ad"))


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ({"design": "~ 0 + grup"}, ["'grup'", "did you mean 'group'?"]),
        ({"contrasts": ["b - d"]}, ["there is no coefficient 'd'"]),
        ({"design": "~ 0 + group + batch + group:batch"}, ["no residual degrees of freedom"]),
    ],
    ids=["formula", "contrast", "saturated"],
)
def test_a_bad_model_stops_the_run_with_its_mend(inputs, new_folder, keys, words):
    folder = new_folder(bad(inputs, **keys))
    terminal = folder.snakemake(fails=True)
    for word in words:
        assert word in terminal, terminal
    assert "Traceback" not in terminal
    assert not (folder.path / L / "effects.parquet").exists()
