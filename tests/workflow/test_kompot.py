"""Analyses of engine kompot as Snakemake runs them: what is made, and made again.

The finished run has cells C of two conditions with three samples each, an analysis K with the
variance of samples, in 2 shards. Jobs are named by their (first) output.
"""

from collections import Counter

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand import DifferentialAbundance, DifferentialExpression
from condrand.io.tables import read_parquet
from condrand.plan import FEATURES_PER_BLOCK

K = "results/C/K"
N_GENES = FEATURES_PER_BLOCK + 40
CHANGED = ["G0", "G1", "G2"]
SHARDS = [f"shard-{s:04d}.h5" for s in range(2)]
NULLS = [f"null-{s:04d}.h5" for s in range(2)]
GENE_FIGURES = "plots/expression_volcano.png"


def cells(path):
    """600 cells on a plane; 3 genes rise at one end of it in the second condition."""
    random = np.random.default_rng(0)
    n = 600
    second = random.random(n) < 0.5
    sample = random.integers(0, 3, n)
    state = random.normal(size=(n, 3)) * [3.0, 1.5, 0.3]
    # Fewer cells at one end of the second condition.
    keep = ~(second & (state[:, 0] > 2.0) & (random.random(n) < 0.7))
    second, sample, state = second[keep], sample[keep], state[keep]
    n = len(second)
    mean = np.exp(random.normal(0.0, 0.7, N_GENES) + 0.2 * np.sin(state[:, :1]))
    mean[:, :3] *= np.where(second & (state[:, 0] < 0), 6.0, 1.0)[:, None]
    names = [f"c{i}" for i in range(n)]
    obs = pd.DataFrame(
        {
            "condition": np.where(second, "stim", "ctrl"),
            "sample": [f"{'s' if b else 'c'}{i}" for b, i in zip(second, sample, strict=True)],
        },
        index=names,
    )
    var = pd.DataFrame(index=[f"G{g}" for g in range(N_GENES)])
    counts = sp.csr_matrix(random.poisson(mean).astype(np.float32))
    ad.AnnData(counts, obs=obs, var=var, obsm={"X_state": state}).write_h5ad(path)


@pytest.fixture(scope="session")
def screen(tmp_path_factory):
    """The file of the cells."""
    path = tmp_path_factory.mktemp("states") / "cells.h5ad"
    cells(path)
    return path


def config_of(path, shards=2):
    return {
        "screens": {"C": {"path": str(path)}},
        "analyses": {
            "K": {
                "engine": "kompot",
                "condition": "condition",
                "levels": ["ctrl", "stim"],
                "sample": "sample",
                "embedding": {"key": "X_state"},
                "n_landmarks": 60,
                "null_distances": {"count": 600},
                "panels": 3,
            }
        },
        "scatter": {"shards": shards},
    }


@pytest.fixture(scope="session")
def done(screen, tmp_path_factory, folder_at):
    """The complete run, which no test may change."""
    folder = folder_at(tmp_path_factory.mktemp("kompot") / "run", config_of(screen))
    folder.snakemake()
    return folder


def below(*files):
    return {f"{K}/{file}" for file in files}


AFTER_GENES = below("effects.parquet", "panels.h5", "cells.h5ad", "summary.txt", GENE_FIGURES)


def test_the_jobs_of_two_conditions_are_planned_without_opening_the_screen(new_folder):
    folder = new_folder(config_of("cells.h5ad"))
    folder.write("cells.h5ad", b"This is no screen.\n")
    expected = {
        "load_screen": 1,
        "warm_kernels": 1,
        "kompot_states": 1,
        "kompot_abundance": 1,
        "kompot_shard": 2,
        "kompot_null": 2,
        "kompot_effects": 1,
        "kompot_panels": 1,
        "kompot_cells": 1,
        "kompot_summary": 1,
        "plot_kompot_cells": 1,
        "plot_kompot_genes": 1,
    }
    assert Counter(folder.planned().values()) == expected
    folder.change("analyses", "K", "null_distances", {"count": 0})
    expected.pop("kompot_null")
    assert Counter(folder.planned().values()) == expected


def test_a_finished_run_of_two_conditions_plans_nothing(done):
    assert done.planned() == {}


def test_genes_that_change_in_a_part_of_the_states_are_found(done):
    effects = read_parquet(done.path / K / "effects.parquet")
    assert len(effects) == N_GENES and set(effects["target"]) == {"stim_vs_ctrl"}
    rows = effects.set_index("feature")
    assert (rows.loc[CHANGED, "effect"] > 0).all()
    assert rows.loc[CHANGED, "is_de"].all()
    assert set(rows["statistic"].nlargest(3).index) == set(CHANGED)
    others = rows.drop(index=CHANGED)
    assert others["is_de"].sum() <= 10


def test_numbers_of_the_workflow_are_those_of_the_notebook_classes(done, screen):
    adata = ad.read_h5ad(screen)
    states = ad.read_h5ad(done.path / K / "states.h5ad")
    second = (adata.obs["condition"] == "stim").to_numpy()
    values = adata.X.toarray().astype(np.float64)
    values = np.log1p(1e4 * values / values.sum(axis=1, keepdims=True))
    x, samples = adata.obsm["X_state"], adata.obs["sample"].to_numpy().astype(str)
    landmarks = np.asarray(states.uns["landmarks"])
    model = DifferentialExpression().fit(
        x[~second],
        values[~second],
        x[second],
        values[second],
        landmarks=landmarks,
        ls=float(states.uns["length_scale"]),
        condition1_sample_indices=samples[~second],
        condition2_sample_indices=samples[second],
        min_cells=10,
    )
    made = model.predict(x, compute_mahalanobis=True)
    effects = read_parquet(done.path / K / "effects.parquet")
    np.testing.assert_allclose(effects["statistic"], made["mahalanobis_distances"], rtol=1e-8)
    np.testing.assert_allclose(
        effects["effect"], made["mean_log_fold_change"], rtol=1e-8, atol=1e-12
    )
    density = DifferentialAbundance().fit(
        x[~second],
        x[second],
        landmarks=landmarks,
        sync_parameters=True,
        condition1_sample_indices=samples[~second],
        condition2_sample_indices=samples[second],
        min_cells=10,
    )
    change = density.predict(x)
    cells_of_run = ad.read_h5ad(done.path / K / "cells.h5ad")
    assert cells_of_run.obs_names.tolist() == adata.obs_names.tolist()
    np.testing.assert_allclose(
        cells_of_run.obs["log_fold_change"], change["log_fold_change"], rtol=1e-6, atol=1e-8
    )


def test_two_conditions_have_their_tables_figures_and_summary(done):
    made = set(done.contents())
    files = ["states.h5ad", "null_distances.tsv.gz", "fdr.tsv", "cells.h5ad"]
    files += [f"plots/{name}.svg" for name in ("abundance_volcano", "abundance_embedding")]
    files += [f"plots/{name}.png" for name in ("mahalanobis", "panels", "p_histogram")]
    assert below(*files) <= made
    summary = (done.path / K / "summary.txt").read_text()
    assert "stim" in summary and "ctrl" in summary


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("null_distances", {"count": 600, "threshold": 0.1}), AFTER_GENES),
        (("null_distances", {"count": 700}), AFTER_GENES | below(*NULLS)),
        (
            ("abundance", {"threshold": 0.5}),
            below("abundance.h5", "cells.h5ad", "summary.txt", "plots/abundance_volcano.png"),
        ),
        (("panels", 2), below("panels.h5", "cells.h5ad", GENE_FIGURES)),
        (("sigma", 0.5), AFTER_GENES | below(*NULLS, *SHARDS)),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) else "",
)
def test_a_changed_step_plans_what_follows_it(copy_of_done, change, expected):
    copy_of_done.change("analyses", "K", *change)
    assert set(copy_of_done.planned()) == expected


def test_a_deleted_block_of_genes_is_made_again_with_the_same_bytes(done, copy_of_done):
    (copy_of_done.path / K / SHARDS[1]).unlink()
    (copy_of_done.path / K / NULLS[0]).unlink()
    assert set(copy_of_done.planned()) == AFTER_GENES | below(SHARDS[1], NULLS[0])
    copy_of_done.snakemake()
    assert copy_of_done.contents() == done.contents()


def test_distances_do_not_depend_on_how_the_genes_are_split(done, screen, new_folder):
    folder = new_folder(config_of(screen, shards=3))
    folder.change("scatter", "threads", 2)
    folder.snakemake()

    def compared(contents):
        return {
            path: data
            for path, data in contents.items()
            if "/shard-" not in path and "/null-0" not in path
        }

    before, after = compared(done.contents()), compared(folder.contents())
    assert set(before) == set(after)
    assert [path for path in before if before[path] != after[path]] == []


def test_what_the_file_does_not_have_stops_the_run_with_all_its_problems(screen, new_folder):
    folder = new_folder(config_of(screen))
    folder.change("analyses", "K", "levels", ["ctrl", "stimm"])
    folder.change("analyses", "K", "embedding", {"key": "X_stat"})
    terminal = folder.snakemake(fails=True)
    for words in ("2 problems", "has no group 'stimm'", "X_stat", "did you mean 'X_state'?"):
        assert words in terminal, words
    assert "Traceback" not in terminal
    assert not list((folder.path / "results").rglob("*.h5ad"))


def test_a_cell_without_a_state_stops_the_run_and_is_named(screen, new_folder, tmp_path):
    adata = ad.read_h5ad(screen)
    state = adata.obsm["X_state"].copy()
    state[7, 1] = np.nan
    adata.obsm["X_state"] = state
    adata.write_h5ad(tmp_path / "bad.h5ad")
    terminal = new_folder(config_of(tmp_path / "bad.h5ad")).snakemake(fails=True)
    assert "X_state" in terminal and "'c7'" in terminal
    assert "Traceback" not in terminal
