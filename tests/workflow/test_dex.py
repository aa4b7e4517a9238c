"""Analyses of engine dex as Snakemake runs them: what is made, and what is made again.

The finished run has a crt analysis A, a dex analysis D by guides and one, G, by a column of obs,
of the same screen, in 2 batches x 2 shards. Jobs are named by their (first) output.
"""

from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import mannwhitneyu, ttest_ind

from condrand.io.tables import read_parquet
from condrand.plan import FEATURES_PER_BLOCK
from condrand.simulate import simulate_screen

S, D, G = "results/S", "results/S/D", "results/S/G"
SHARD = f"{D}/batch-0000/shard-0001.h5"
N_GENES = FEATURES_PER_BLOCK + 38
# GENE001's cells lack it; the control's do not.
OWN = "RNA7"


def shards_of(analysis):
    return {f"{analysis}/batch-{b:04d}/shard-{s:04d}.h5" for b in range(2) for s in range(2)}


def merges_of(analysis):
    return {f"{analysis}/batch-{b:04d}.parquet" for b in range(2)}


def after_merges_of(analysis):
    files = ("effects.parquet", "summary.txt", "plots/qq.png", "plots/volcano_by_target.png")
    return {f"{analysis}/{file}" for file in files}


def dex(**keys):
    return {"engine": "dex", **keys}


def small_screen(path):
    """A simulated screen with counts of 550 genes, and a column of each cell's first target."""
    usage = path.parent / "usage.h5ad"
    simulate_screen(usage, n_cells=500, n_programs=3, n_targets=6)
    simulated = ad.read_h5ad(usage)
    assert simulated.X is None
    random = np.random.default_rng(0)
    counts = random.poisson(random.gamma(0.7, 1.0, N_GENES), (500, N_GENES)).astype(np.float32)
    carried = simulated.obsm["guide_assignment"].toarray() > 0
    target_of = simulated.uns["guide2gene"]
    genes = np.array([target_of[name] for name in simulated.uns["guide_names"]])
    counts[:, 7] = random.poisson(6, 500)
    has = carried[:, genes == "GENE001"].any(axis=1)
    counts[has, 7] = random.poisson(2, has.sum())
    first = np.where(carried.any(axis=1), genes[carried.argmax(axis=1)], "none")
    data = ad.AnnData(
        sp.csr_matrix(counts),
        obs=simulated.obs.assign(first=pd.Categorical(first)),
        var=pd.DataFrame(index=[f"RNA{j}" for j in range(N_GENES)]),
        obsm=dict(simulated.obsm),
        uns=dict(simulated.uns),
    )
    data.write_h5ad(path)
    return path


@pytest.fixture(scope="session")
def screen(tmp_path_factory):
    return small_screen(tmp_path_factory.mktemp("counts") / "counts.h5ad")


def config_of(path, analyses, batches=2, shards=2):
    return {
        "seed": 123,
        "screens": {"S": {"path": str(path)}},
        "analyses": analyses,
        "scatter": {"batches": batches, "shards": shards},
    }


ANALYSES = {
    "A": {"engine": "crt", "resamples": 2048},
    "D": dex(max_records=150, control="rest"),
    "G": dex(groupby="first", test="welch"),
}


@pytest.fixture(scope="session")
def done(screen, tmp_path_factory, folder_at):
    """The complete run, which no test may change."""
    folder = folder_at(tmp_path_factory.mktemp("dex") / "run", config_of(screen, ANALYSES))
    folder.snakemake()
    return folder


# What is planned and made


def test_the_jobs_of_a_dex_analysis_are_planned_without_opening_the_screen(new_folder):
    folder = new_folder(config_of("screen.h5ad", {"D": dex()}))
    folder.write("screen.h5ad", b"This is no screen.\n")
    expected = {
        "load_screen": 1,
        "ntc_groups": 1,
        "dex_groups": 1,
        "warm_kernels": 1,
        "dex_shard": 4,
        "dex_merge": 2,
        "merge_effects": 1,
        "dex_summary": 1,
        "plot_effects": 1,
        "plot_targets": 1,
    }
    assert Counter(folder.planned().values()) == expected
    # A column of obs names no guides.
    folder.change("analyses", "D", "groupby", "gene")
    expected.pop("ntc_groups")
    assert Counter(folder.planned().values()) == expected


def test_a_finished_run_of_both_engines_plans_nothing(done):
    assert done.planned() == {}


def test_both_engines_give_their_tables_side_by_side(done):
    effects = {name: read_parquet(done.path / S / name / "effects.parquet") for name in "ADG"}
    assert {name: table["feature"].nunique() for name, table in effects.items()} == {
        "A": 3,
        "D": N_GENES,
        "G": N_GENES,
    }
    assert set(effects["A"]["p_source"]) == {"empirical", "importance"}
    assert set(effects["D"]["p_source"]) <= {"asymptotic", ""}
    assert set(effects["G"]["p_source"]) <= {"t", ""}
    assert set(effects["D"]["target"]) == {f"GENE{i:03d}" for i in range(1, 7)}
    rows = {name: table.set_index(["target", "feature"]) for name, table in effects.items()}
    assert rows["D"].loc[("GENE001", OWN), "effect"] < -0.5
    assert rows["G"].loc[("GENE001", OWN), "effect"] < -0.5
    for name in "DG":
        assert rows[name].loc[("GENE001", OWN), "fdr"] < 0.05


def test_p_values_of_the_workflow_are_scipys(done, screen):
    data = ad.read_h5ad(screen)
    values = data.X.toarray().astype(np.float64)
    values = np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))
    first = data.obs["first"].to_numpy().astype(str)
    sides = [values[first == name] for name in ("GENE001", "non-targeting")]
    table = read_parquet(done.path / G / "effects.parquet")
    table = table[table["target"] == "GENE001"]
    assert table["feature"].tolist() == data.var_names.tolist()
    assert [set(table[n]) for n in ("n_target", "n_control")] == [{len(side)} for side in sides]
    expected = ttest_ind(*sides, equal_var=False)
    tested = table["p_value"].notna().to_numpy()
    assert tested.sum() > 500
    np.testing.assert_allclose(table["p_value"][tested], expected.pvalue[tested], rtol=1e-8)
    np.testing.assert_allclose(table["statistic"][tested], expected.statistic[tested], rtol=1e-8)


def test_each_analysis_has_the_figures_and_tables_of_its_engine(done):
    made = set(done.contents())
    of_dex = ["groups.tsv", "blocks.tsv", "ranked_targets.tsv", "plots/targets.pdf"]
    of_dex += ["plots/heatmap.png", "plots/dotplot.svg", "plots/md_by_target.png"]
    for file in of_dex:
        assert f"{D}/{file}" in made and f"{G}/{file}" in made
        assert f"{S}/A/{file}" not in made
    for file in ("units.tsv", "residual_trends.tsv", "plots/propensity.png"):
        assert f"{S}/A/{file}" in made and f"{D}/{file}" not in made
    assert f"{D}/ntc_groups.tsv" in made and f"{G}/ntc_groups.tsv" not in made
    for analysis, words in ((D, "all other cells"), (G, "NTC cells")):
        summary = (done.path / analysis / "summary.txt").read_text()
        assert words in summary and "discoveries" in summary


# What is made again


def test_a_deleted_shard_is_missed_and_only_what_follows_it_is_made_again(done, copy_of_done):
    (copy_of_done.path / SHARD).unlink()
    expected = {SHARD, f"{D}/batch-0000.parquet"} | after_merges_of(D)
    assert set(copy_of_done.planned()) == expected
    copy_of_done.snakemake()
    assert copy_of_done.contents() == done.contents()
    assert copy_of_done.planned() == {}


@pytest.mark.parametrize(
    "change",
    [("geometric_mean", False), ("pseudocount", 1.0), ("continuity", False)],
    ids=lambda change: change[0],
)
def test_other_means_or_p_values_plan_merges_but_no_shard(copy_of_done, change):
    copy_of_done.change("analyses", "D", *change)
    assert set(copy_of_done.planned()) == merges_of(D) | after_merges_of(D)


def test_another_test_plans_shards_but_not_who_is_compared(copy_of_done):
    copy_of_done.change("analyses", "D", "test", "welch")
    expected = shards_of(D) | merges_of(D) | after_merges_of(D)
    assert set(copy_of_done.planned()) == expected


@pytest.mark.parametrize(
    "change",
    [("max_records", 100), ("ties", "rounded"), ("targets", ["GENE002"])],
    ids=lambda change: change[0],
)
def test_another_choice_of_cells_or_values_plans_shards_but_not_the_screen(copy_of_done, change):
    copy_of_done.change("analyses", "D", *change)
    expected = {f"{D}/outcome.h5ad"} | shards_of(D) | merges_of(D) | after_merges_of(D)
    assert set(copy_of_done.planned()) == expected


def test_another_fdr_plans_summaries_and_figures_of_both_engines_only(copy_of_done):
    copy_of_done.change("fdr", 0.1)
    figures = {"plots/qq.png", "summary.txt"}
    expected = {f"{S}/{name}/{file}" for name in "ADG" for file in figures}
    expected |= {f"{a}/plots/volcano_by_target.png" for a in (D, G)}
    assert set(copy_of_done.planned()) == expected


def test_another_analysis_of_the_same_values_leaves_the_others_alone(copy_of_done):
    copy_of_done.change("analyses", "E", dex(control="rest", test="welch"))
    planned = copy_of_done.planned()
    assert f"{S}/E/effects.parquet" in planned
    assert [path for path in planned if not path.startswith(f"{S}/E/")] == []


def test_tables_and_figures_do_not_depend_on_how_the_work_is_split(done, screen, new_folder):
    folder = new_folder(config_of(screen, {"D": ANALYSES["D"]}, batches=3, shards=1))
    folder.change("scatter", "threads", 2)
    folder.snakemake()
    # These say where the work is done.
    scattered = ("batch-", "groups.tsv", "ntc_groups.tsv", "outcome.h5ad")

    def compared(contents):
        return {
            path: contents[path]
            for path in contents
            if path.startswith(f"{D}/") and not path.removeprefix(f"{D}/").startswith(scattered)
        }

    before, after = compared(done.contents()), compared(folder.contents())
    assert f"{D}/effects.parquet" in before and f"{D}/plots/targets.pdf" in before
    assert set(before) == set(after)
    assert [path for path in before if before[path] != after[path]] == []


# Other inputs


def test_a_column_of_groups_needs_neither_guides_nor_covariates(screen, new_folder, tmp_path):
    data = ad.read_h5ad(screen)
    bare = ad.AnnData(data.X[:, :20], obs=data.obs[["first"]], var=data.var[:20])
    bare.write_h5ad(tmp_path / "bare.h5ad")
    analysis = dex(groupby="first", control="group", control_group="GENE002")
    folder = new_folder(config_of(tmp_path / "bare.h5ad", {"D": analysis}, 1, 1))
    folder.snakemake()
    table = read_parquet(folder.path / D / "effects.parquet")
    assert "GENE002" not in set(table["target"]) and len(table) >= 5 * 20
    values = bare.X.toarray().astype(np.float64)
    values /= np.maximum(values.sum(axis=1, keepdims=True), 1)
    first = data.obs["first"].to_numpy().astype(str)
    row = table.set_index(["target", "feature"]).loc[("GENE001", OWN)]
    sides = [values[first == name, 7] for name in ("GENE001", "GENE002")]
    expected = mannwhitneyu(*sides, method="asymptotic")
    assert row["p_value"] == pytest.approx(expected.pvalue, rel=1e-9)
    assert row["statistic"] == expected.statistic
    assert folder.planned() == {}


def test_a_zarr_screen_gives_the_tables_of_the_h5ad(done, screen, new_folder, tmp_path):
    data = ad.read_h5ad(screen)
    data.write_zarr(tmp_path / "counts.zarr")
    folder = new_folder(config_of(tmp_path / "counts.zarr", {"D": ANALYSES["D"]}))
    folder.snakemake()
    assert folder.planned() == {}
    name = "effects.parquet"
    made = (folder.path / D / name).read_bytes()
    assert made == (done.path / D / name).read_bytes()


def test_a_simulated_screen_has_usage_that_can_be_compared(new_folder):
    simulate = {"simulate": {"n_cells": 500, "n_programs": 3, "n_targets": 6}}
    analyses = {"D": dex(outcome={"key": "cnmf_usage"}, test="welch")}
    folder = new_folder({"screens": {"S": simulate}, "analyses": analyses})
    folder.snakemake()
    table = read_parquet(folder.path / D / "effects.parquet")
    assert len(table) == 6 * 3 and table["p_value"].notna().all()
    assert set(table["effect_scale"]) == {"difference of means, as stored"}


def test_a_copy_with_effects_is_made_if_asked(screen, new_folder):
    analysis = dex(write_h5ad=True, targets=["GENE001"], controls="none")
    folder = new_folder(config_of(screen, {"D": analysis}, 1, 1))
    folder.snakemake("results/S/D/annotated.h5ad")
    made = ad.read_h5ad(folder.path / D / "annotated.h5ad")
    assert len(made.uns["condrand_D_effects"]) == N_GENES


# What is refused


@pytest.mark.parametrize(
    ("keys", "says"),
    [
        ({"control": "group"}, "analyses.D.control_group: is missing"),
        ({"control_group": "A"}, "analyses.D.control_group: is 'A', and control is 'ntc'"),
        (
            {"control": "group", "control_group": "A", "targets": ["A", "B"]},
            "analyses.D.targets: name the control group 'A'",
        ),
        ({"control": "complement"}, "analyses.D.control: is 'complement'"),
        ({"test": "wilcoxon"}, "analyses.D.test: is 'wilcoxon'"),
        ({"resamples": 100}, "analyses.D.resamples: is no key of this section"),
        ({"outcome": {"transform": "clr"}}, "analyses.D.outcome.transform: is 'clr'"),
    ],
)
def test_a_bad_configuration_is_refused_before_anything_runs(new_folder, keys, says):
    folder = new_folder(config_of("screen.h5ad", {"D": dex(**keys)}))
    folder.write("screen.h5ad")
    assert says in folder.snakemake("--dry-run", fails=True)


def test_a_target_that_the_screen_lacks_stops_the_run_with_its_name(copy_of_done):
    # Another analysis asks for all targets, so the screen is not read again.
    copy_of_done.change("analyses", "D", "targets", ["GENE001", "GENE01"])
    text = copy_of_done.snakemake(fails=True)
    assert "targets: 1 have no guide in this screen: 'GENE01'" in text
    assert "did you mean 'GENE001'?" in text
    assert "Traceback" not in text
