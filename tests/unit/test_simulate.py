"""Synthetic screens: the file, its reproducibility, and the distributions it promises.

Statistical tests use fixed seeds, so they pass or fail for good. Their bound is five standard
errors: for another seed, one comparison fails with probability 6e-7.
"""

import inspect
import os
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pytest
import scipy.sparse as sp

import condrand
from condrand.simulate import CELLS_PER_BLOCK, GUIDES_PER_CELL, NTC_LABEL, simulate_screen

# Everything about a cell that is off by default.
BURDENED = {"moi_dispersion": 0.5, "burden_effect": 1.0, "n_batches": 5}


@pytest.fixture
def screen_of(tmp_path):
    """Simulate with the given arguments and read the file back."""

    def simulate(**settings) -> ad.AnnData:
        path = tmp_path / "screen.h5ad"
        simulate_screen(path, **settings)
        return ad.read_h5ad(path)

    return simulate


def carried_targets(screen: ad.AnnData) -> tuple[list[str], np.ndarray]:
    """Names of the targets, and bool (n_cells, n_targets): does the cell carry the target."""
    gene_of_guide = np.array([screen.uns["guide2gene"][g] for g in screen.uns["guide_names"]])
    targets = sorted(set(gene_of_guide) - {NTC_LABEL})
    of_target = sp.csr_array((gene_of_guide[:, None] == targets).astype(np.int64))
    return targets, (sp.csr_array(screen.obsm["guide_assignment"]) @ of_target).toarray() > 0


def burdens(screen: ad.AnnData) -> np.ndarray:
    """Log of one plus the cell's guides that are no controls: float64 (n_cells,)."""
    gene_of_guide = np.array([screen.uns["guide2gene"][g] for g in screen.uns["guide_names"]])
    return np.log1p(sp.csr_array(screen.obsm["guide_assignment"]) @ (gene_of_guide != NTC_LABEL))


def centred_log_ratios(screen: ad.AnnData) -> np.ndarray:
    """Log usage minus its mean over the programs of the cell: float64 (n_cells, n_programs)."""
    logs = np.log(screen.obsm["cnmf_usage"])
    return logs - logs.mean(axis=1, keepdims=True)


def mean_differences(values: np.ndarray, carried: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Mean of carriers minus mean of the others, and its standard error, per target × column."""
    differences, errors = [], []
    for treated in carried.T:
        a, b = values[treated], values[~treated]
        differences.append(a.mean(axis=0) - b.mean(axis=0))
        errors.append(np.sqrt(a.var(axis=0) / len(a) + b.var(axis=0) / len(b)))
    return np.array(differences), np.array(errors)


# The file


def test_anndata_reads_every_documented_element_with_its_shape_and_type(screen_of):
    screen = screen_of(n_cells=50, n_programs=4, n_targets=6, guides_per_target=2, n_covariates=3)

    assert screen.X is None
    assert list(screen.obs_names[[0, -1]]) == ["cell_0000001", "cell_0000050"]
    assert screen.obs_names.is_unique
    covariates = ["covariate_1", "covariate_2", "covariate_3"]
    assert list(screen.obs.columns) == ["batch", "n_umis", *covariates]
    assert screen.obs["batch"].dtype == "category"
    assert list(screen.obs["batch"].cat.categories) == ["batch_1", "batch_2", "batch_3"]
    assert screen.obs["n_umis"].dtype == np.int64
    assert screen.obs["n_umis"].min() > 0

    covar = screen.obsm["covar"]
    assert list(covar.columns) == ["batch", "log_n_umis", *covariates]
    np.testing.assert_array_equal(covar["log_n_umis"], np.log(screen.obs["n_umis"]))
    assert covar[["batch", *covariates]].equals(screen.obs[["batch", *covariates]])

    assert screen.obsm["cnmf_usage"].shape == (50, 4)
    assert screen.obsm["cnmf_usage"].dtype == np.float64
    assert list(screen.uns["program_names"]) == [f"program_{i}" for i in range(1, 5)]

    # 12 target guides and 2 controls: 2 / 14 is the share nearest to the default 15 %.
    guides = screen.obsm["guide_assignment"]
    assert guides.format == "csr"
    assert guides.shape == (50, 14)
    assert guides.dtype == np.int8
    assert set(guides.data) == {1}
    guides.check_format(full_check=True)
    assert guides.has_canonical_format


def test_a_screen_survives_being_written_and_read_by_anndata(screen_of, tmp_path):
    screen = screen_of(n_cells=30)
    screen.write_h5ad(tmp_path / "again.h5ad")
    again = ad.read_h5ad(tmp_path / "again.h5ad")
    assert again.obs.equals(screen.obs)
    assert (again.obsm["guide_assignment"] != screen.obsm["guide_assignment"]).nnz == 0
    assert again.uns["truth"].equals(screen.uns["truth"])


def test_guide2gene_names_every_guide_once_and_targets_have_their_guides(screen_of):
    screen = screen_of(n_cells=10, n_targets=3, guides_per_target=2, ntc_fraction=0.25)
    names = list(screen.uns["guide_names"])
    assert names == [
        *("GENE001_g1", "GENE001_g2", "GENE002_g1", "GENE002_g2", "GENE003_g1", "GENE003_g2"),
        *("NTC_001", "NTC_002"),
    ]
    expected = {name: name.split("_")[0] for name in names[:6]} | dict.fromkeys(
        names[6:], NTC_LABEL
    )
    assert screen.uns["guide2gene"] == expected


def test_usage_rows_are_positive_and_sum_to_one(screen_of):
    usage = screen_of(n_cells=2000).obsm["cnmf_usage"]
    assert usage.min() > 0
    # Sums of ten doubles that were divided by their sum: a few units in the last place.
    np.testing.assert_allclose(usage.sum(axis=1), 1, rtol=0, atol=1e-14)


def test_the_smallest_screen_has_no_guides_controls_or_truth(screen_of):
    screen = screen_of(
        n_cells=1,
        n_programs=2,
        n_targets=1,
        guides_per_target=1,
        ntc_fraction=0,
        moi_mean=0,
        causal_fraction=0,
        n_covariates=0,
    )
    assert list(screen.uns["guide_names"]) == ["GENE001_g1"]
    assert screen.obsm["guide_assignment"].nnz == 0
    assert list(screen.uns["truth"].columns) == ["target", "program", "effect"]
    assert len(screen.uns["truth"]) == 0


def test_a_failed_run_leaves_the_old_file_and_no_partial_one(tmp_path, monkeypatch):
    path = tmp_path / "screen.h5ad"
    path.write_bytes(b"old")

    def fail(*args, **kwargs):
        raise OSError("disk full")

    monkeypatch.setattr("condrand.simulate.write_elem", fail)
    with pytest.raises(OSError, match="disk full"):
        simulate_screen(path, n_cells=10)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


# The configuration


def test_the_schema_has_the_arguments_with_their_defaults_and_choices(schema):
    keys = schema["$defs"]["simulate"]["properties"]
    parameters = inspect.signature(simulate_screen).parameters
    defaults = {name: parameter.default for name, parameter in parameters.items()}
    # Where the file is and how it is written are no settings of a screen.
    assert {key: value["default"] for key, value in keys.items()} == {
        name: default for name, default in defaults.items() if name not in {"path", "chunk_cells"}
    }
    assert keys["guides_per_cell"]["enum"] == list(GUIDES_PER_CELL)


# Reproducibility


def test_numbers_are_those_of_the_first_release(screen_of):
    # Guides exactly; usage up to the last bits of a machine's exp and of its sums.
    screen = screen_of(n_cells=300, n_programs=3, n_targets=4)
    guides = screen.obsm["guide_assignment"]
    assert guides.shape == (300, 14)
    assert (guides.nnz, guides.indices.sum()) == (1205, 6660)
    assert guides.indices[:12].tolist() == [3, 5, 11, 4, 5, 8, 12, 13, 5, 9, 10, 11]
    assert screen.obs["n_umis"].iloc[:3].tolist() == [19862, 8433, 9740]
    np.testing.assert_allclose(
        screen.obsm["cnmf_usage"][[0, 299]],
        [
            [0.15527268305380376, 0.7321244411996193, 0.11260287574657697],
            [0.6854699185605136, 2.3792249353789612e-06, 0.31452770221455106],
        ],
        rtol=1e-12,
    )


def test_burden_and_dispersion_leave_the_other_draws_alone(screen_of):
    plain, dispersed = screen_of(n_cells=500), screen_of(n_cells=500, moi_dispersion=0.5)
    burdened = screen_of(n_cells=500, burden_effect=1.0)
    for screen in (dispersed, burdened):
        assert screen.obs.equals(plain.obs)
        assert screen.uns["truth"].equals(plain.uns["truth"])
    assert (dispersed.obsm["guide_assignment"] != plain.obsm["guide_assignment"]).nnz > 0
    assert (burdened.obsm["guide_assignment"] != plain.obsm["guide_assignment"]).nnz == 0
    assert not np.array_equal(burdened.obsm["cnmf_usage"], plain.obsm["cnmf_usage"])


def test_two_processes_write_the_same_bytes(tmp_path):
    # The other process starts in a later second, and with another string hash: neither may show.
    here, there = tmp_path / "here.h5ad", tmp_path / "there.h5ad"
    simulate_screen(here, n_cells=CELLS_PER_BLOCK + 100)
    code = (
        "import sys; from condrand.simulate import simulate_screen; "
        f"simulate_screen(sys.argv[1], n_cells={CELLS_PER_BLOCK + 100})"
    )
    package_folder = str(Path(condrand.__file__).parent.parent)
    subprocess.run(
        [sys.executable, "-c", code, str(there)],
        check=True,
        env=os.environ | {"PYTHONPATH": package_folder, "PYTHONHASHSEED": "12345"},
    )
    assert here.read_bytes() == there.read_bytes()


def datasets_of(path: Path) -> dict[str, np.ndarray]:
    """Read every dataset of an HDF5 file, by its path."""
    datasets = {}

    def keep(name, node):
        if isinstance(node, h5py.Dataset):
            datasets[name] = node[()]

    with h5py.File(path) as file:
        file.visititems(keep)
    return datasets


@pytest.mark.parametrize("chunk_cells", [1, CELLS_PER_BLOCK + 1, 10**9])
def test_the_chunk_size_of_writing_changes_no_value(chunk_cells, tmp_path):
    n_cells = 3 * CELLS_PER_BLOCK + 7
    paths = tmp_path / "default.h5ad", tmp_path / "other.h5ad"
    simulate_screen(paths[0], n_cells=n_cells, chunk_cells=2 * CELLS_PER_BLOCK)
    simulate_screen(paths[1], n_cells=n_cells, chunk_cells=chunk_cells)
    default, other = (datasets_of(path) for path in paths)
    assert {"obsm/cnmf_usage", "obsm/guide_assignment/indptr", "obs/n_umis"} <= set(default)
    assert list(default) == list(other)
    for name in default:
        np.testing.assert_array_equal(default[name], other[name], err_msg=name)


@pytest.mark.parametrize("settings", [{}, BURDENED, {"guides_per_cell": "one"}])
@pytest.mark.parametrize("n_cells", [10, CELLS_PER_BLOCK + 10])
def test_more_cells_only_append_cells(n_cells, settings, screen_of):
    few = screen_of(n_cells=n_cells, **settings)
    many = screen_of(n_cells=n_cells + 500, **settings)
    assert few.obs.equals(many.obs.iloc[:n_cells])
    np.testing.assert_array_equal(few.obsm["cnmf_usage"], many.obsm["cnmf_usage"][:n_cells])
    guides = many.obsm["guide_assignment"][:n_cells]
    assert (few.obsm["guide_assignment"] != guides).nnz == 0


def test_blocks_and_seeds_draw_different_cells(screen_of):
    first = screen_of(n_cells=2 * CELLS_PER_BLOCK)
    other = screen_of(n_cells=2 * CELLS_PER_BLOCK, seed=1)
    for column in ("n_umis", "covariate_1"):
        blocks = [
            screen.obs[column].to_numpy()[part]
            for screen in (first, other)
            for part in (slice(CELLS_PER_BLOCK), slice(CELLS_PER_BLOCK, None))
        ]
        # Independent columns of 4096 cells correlate by 1 / 64 (one standard error).
        correlations = np.corrcoef(blocks)[np.triu_indices(4, 1)]
        assert np.abs(correlations).max() < 5 / 64


# Truth


def test_truth_holds_the_effect_programs_of_the_causal_targets_only(screen_of):
    truth = screen_of(n_cells=10, n_targets=40, causal_fraction=0.2, effect_size=0.7).uns["truth"]
    assert truth["target"].nunique() == 8
    assert (truth.groupby("target").size() == 2).all()
    assert not truth.duplicated(["target", "program"]).any()
    assert set(truth["target"]) <= {f"GENE{i:03d}" for i in range(1, 41)}
    assert set(truth["program"]) <= {f"program_{i}" for i in range(1, 11)}
    assert set(truth["effect"]) == {-0.7, 0.7}
    assert (truth.groupby("target")["effect"].sum() == 0).all()


def test_a_causal_fraction_of_one_marks_every_target(screen_of):
    truth = screen_of(n_cells=10, n_targets=30, causal_fraction=1).uns["truth"]
    assert truth["target"].nunique() == 30


def test_a_positive_causal_fraction_marks_at_least_one_target(screen_of):
    truth = screen_of(n_cells=10, n_targets=5, causal_fraction=0.01).uns["truth"]
    assert truth["target"].nunique() == 1


@pytest.mark.parametrize("n_effect_programs", [1, 2])
def test_mean_log_ratios_differ_by_the_planted_effects_and_by_nothing_else(
    n_effect_programs, screen_of
):
    screen = screen_of(
        n_cells=8000,
        n_targets=15,
        causal_fraction=0.3,
        n_effect_programs=n_effect_programs,
        confounding=0,
        near_zero_fraction=0,
    )
    targets, carried = carried_targets(screen)
    truth = screen.uns["truth"].pivot(index="target", columns="program", values="effect")
    effects = truth.reindex(index=targets, columns=screen.uns["program_names"]).fillna(0)
    expected = effects.sub(effects.mean(axis=1), axis=0).to_numpy()

    observed, error = mean_differences(centred_log_ratios(screen), carried)
    assert error.max() < 0.6 / 10, "the screen is too small to see its effects"
    assert np.abs((observed - expected) / error).max() < 5


def test_a_null_screen_without_confounding_has_no_differences(screen_of):
    screen = screen_of(n_cells=8000, causal_fraction=0, confounding=0)
    _, carried = carried_targets(screen)
    observed, error = mean_differences(centred_log_ratios(screen), carried)
    z = observed / error
    assert np.abs(z).max() < 5
    # 40 targets × 10 programs, nine of them free: the standard error of the mean square is 0.075.
    assert abs(np.mean(z**2) - 1) < 5 * 0.075


# Marginals


def test_guides_per_cell_and_their_control_share_follow_the_arguments(screen_of):
    # With one target all 250 guides are equally likely: each is in a cell, independently, with
    # probability 1 - exp(-5 / 250).
    n_cells, n_guides = 8000, 250
    screen = screen_of(
        n_cells=n_cells, n_targets=1, guides_per_target=200, ntc_fraction=0.2, moi_mean=5.0
    )
    guides = screen.obsm["guide_assignment"]
    assert guides.shape[1] == n_guides
    p = -np.expm1(-5 / n_guides)

    per_cell = np.diff(guides.indptr)
    error = np.sqrt(n_guides * p * (1 - p) / n_cells)
    assert abs(per_cell.mean() - n_guides * p) < 5 * error
    assert abs(per_cell.mean() - 5) < 5 * error + 5**2 / (2 * n_guides)

    share = (guides.indices >= 200).mean()
    assert abs(share - 0.2) < 5 * np.sqrt(0.2 * 0.8 / guides.nnz)

    cells_of_guide = np.bincount(guides.indices, minlength=n_guides)
    z = (cells_of_guide - n_cells * p) / np.sqrt(n_cells * p * (1 - p))
    assert np.abs(z).max() < 5


@pytest.mark.parametrize("ntc_fraction", [0, 0.3])
def test_one_guide_per_cell_is_exactly_one(ntc_fraction, screen_of):
    n_cells = 8000
    screen = screen_of(
        n_cells=n_cells, guides_per_cell="one", ntc_fraction=ntc_fraction, moi_mean=40.0
    )
    guides = screen.obsm["guide_assignment"]
    assert (np.diff(guides.indptr) == 1).all()
    share = (guides.indices >= 40 * 3).mean()
    error = np.sqrt(ntc_fraction * (1 - ntc_fraction) / n_cells)
    assert abs(share - ntc_fraction) <= 5 * error


def test_one_guide_per_cell_carries_its_effects(screen_of):
    screen = screen_of(
        n_cells=12_000,
        n_targets=8,
        guides_per_cell="one",
        causal_fraction=0.5,
        confounding=0,
        near_zero_fraction=0,
    )
    targets, carried = carried_targets(screen)
    truth = screen.uns["truth"].pivot(index="target", columns="program", values="effect")
    effects = truth.reindex(index=targets, columns=screen.uns["program_names"]).fillna(0)
    ratios = centred_log_ratios(screen)
    # The other cells carry other targets, so that only the controls are a reference.
    control = ~carried.any(axis=1)
    for treated, effect in zip(carried.T, effects.to_numpy(), strict=True):
        used = treated | control
        observed, error = mean_differences(ratios[used], treated[used, None])
        assert error.max() < 0.6 / 10, "the screen is too small to see its effects"
        assert np.abs((observed - effect) / error).max() < 5


@pytest.mark.parametrize("dispersion", [0, 0.5])
def test_guides_per_cell_are_dispersed_as_asked_and_rise_with_depth(dispersion, screen_of):
    # So many equally likely guides that hardly any hits a cell twice.
    n_cells, n_guides, mean = 20_000, 2000, 5.0
    screen = screen_of(
        n_cells=n_cells,
        n_targets=1,
        guides_per_target=n_guides,
        ntc_fraction=0,
        moi_mean=mean,
        moi_dispersion=dispersion,
    )
    counts = np.diff(screen.obsm["guide_assignment"].indptr)
    twice = (counts.astype(float) ** 2).mean() / (2 * n_guides)
    assert abs(counts.mean() - mean) < 5 * counts.std() / np.sqrt(n_cells) + twice

    # Poisson around a mean of its own: the variances add up.
    squares = (counts - counts.mean()) ** 2
    expected = mean + (dispersion * mean) ** 2
    assert abs(squares.mean() - expected) < 5 * squares.std() / np.sqrt(n_cells)

    # Of a lognormal with mean 1 and its normal logarithm: the covariance is that with the log.
    depth = (screen.obsm["covar"]["log_n_umis"].to_numpy() - 10) / 0.35
    products = (counts - counts.mean()) * depth
    expected = mean * 0.5 * np.sqrt(np.log1p(dispersion**2))
    assert abs(products.mean() - expected) < 5 * products.std() / np.sqrt(n_cells)


def test_targets_are_unequally_frequent_and_their_guides_equally(screen_of):
    # At this multiplicity a cell almost never draws one guide twice, so that counts are Poisson.
    screen = screen_of(n_cells=20_000, ntc_fraction=0, moi_mean=1.0, confounding=0)
    counts = np.asarray(screen.obsm["guide_assignment"].sum(axis=0)).reshape(40, 3)
    totals = counts.sum(axis=1, keepdims=True)
    # Standard error of the standard deviation of 40 normals with standard deviation 0.6.
    assert abs(np.log(totals).std() - 0.6) < 5 * 0.6 / np.sqrt(2 * 40)
    chi_square = ((counts - totals / 3) ** 2 / (totals / 3)).sum()
    assert abs(chi_square - 80) < 5 * np.sqrt(2 * 80)


def mean_square_correlations(screen: ad.AnnData) -> dict[str, float]:
    """Mean over targets of n r², r the correlation with treatment: 1 if independent."""
    _, carried = carried_targets(screen)
    n_targets = carried.shape[1]
    covar = screen.obsm["covar"]
    columns = covar.drop(columns="batch")
    for batch in ("batch_2", "batch_3"):
        # Against the first batch only: all other cells together would mix in the third.
        columns[batch] = (covar["batch"] == batch).where(covar["batch"].isin(["batch_1", batch]))
    means = {}
    for name, column in columns.astype(float).items():
        used = column.notna().to_numpy()
        table = np.column_stack([carried[used], column[used]])
        r = np.corrcoef(table, rowvar=False)[n_targets, :n_targets]
        means[name] = used.sum() * np.mean(r**2)
    return means


def test_treatment_depends_on_every_covariate_only_with_confounding(screen_of):
    # A mean of 40 chi-squares with one degree of freedom has standard error sqrt(2 / 40).
    bound = 1 + 5 * np.sqrt(2 / 40)
    free = mean_square_correlations(screen_of(confounding=0))
    confounded = mean_square_correlations(screen_of(confounding=1))
    assert set(free) == {"batch_2", "batch_3", "log_n_umis", "covariate_1", "covariate_2"}
    for name in free:
        assert free[name] < bound, name
        assert confounded[name] > 5 * bound, name


def test_confounding_makes_a_null_screen_look_like_effects(screen_of):
    screen = screen_of(causal_fraction=0, confounding=1, near_zero_fraction=0)
    _, carried = carried_targets(screen)
    observed, error = mean_differences(centred_log_ratios(screen), carried)
    # One without confounding: 0.075 is the standard error of the null screen above.
    assert np.mean((observed / error) ** 2) > 1 + 20 * 0.075


def slopes_on(column: np.ndarray, screen: ad.AnnData) -> tuple[np.ndarray, np.ndarray]:
    """Per program: slope of the log ratio per standard deviation of a column, and its error."""
    column = (column - column.mean()) / column.std()
    ratios = centred_log_ratios(screen)
    ratios -= ratios.mean(axis=0)
    slopes = column @ ratios / len(column)
    residuals = ratios - np.outer(column, slopes)
    return slopes, residuals.std(axis=0) / np.sqrt(len(column))


@pytest.mark.parametrize("effect", [0, 1, 3])
def test_usage_depends_on_burden_as_strongly_as_asked_and_on_no_controls(effect, screen_of):
    n_programs = 400
    screen = screen_of(
        n_cells=4000,
        n_programs=n_programs,
        ntc_fraction=0.5,
        causal_fraction=0,
        burden_effect=effect,
        confounding=0,
        near_zero_fraction=0,
    )
    slopes, errors = slopes_on(burdens(screen), screen)
    # Slopes are normal with 0.25 times the effect, as those of a covariate are with 0.25; the
    # mean square of 399 free ones has a relative standard error of sqrt(2 / 399). Chance adds the
    # errors, which programs share as far as covariates move them.
    expected = (0.25 * effect) ** 2
    mean_square = np.sum(slopes**2) / (n_programs - 1)
    chance = np.mean(errors**2)
    assert abs(mean_square - expected) < 5 * (expected * np.sqrt(2 / (n_programs - 1)) + chance)

    # Controls are drawn independently of the other guides.
    n_guides = np.diff(screen.obsm["guide_assignment"].indptr)
    n_controls = n_guides - np.rint(np.expm1(burdens(screen)))
    slopes, errors = slopes_on(n_controls, screen)
    assert np.abs(slopes / errors).max() < 5


def test_burden_makes_a_null_screen_look_like_effects_unless_accounted_for(screen_of):
    screen = screen_of(
        n_cells=8000,
        n_targets=15,
        causal_fraction=0,
        confounding=0,
        moi_dispersion=0.7,
        burden_effect=2,
        near_zero_fraction=0,
    )
    _, carried = carried_targets(screen)
    ratios = centred_log_ratios(screen)
    # 15 targets × 10 programs, nine of them free.
    error = np.sqrt(2 / (15 * 9))
    differences, errors = mean_differences(ratios, carried)
    assert np.mean((differences / errors) ** 2) > 1 + 20 * error

    # Depth moves burden and usage both, so it is accounted for as well.
    burden, depth = burdens(screen), screen.obsm["covar"]["log_n_umis"]
    design = np.column_stack([np.ones(len(burden)), burden, depth])
    outcome, treatment = (
        values - design @ np.linalg.lstsq(design, values)[0]
        for values in (ratios, carried.astype(float))
    )
    r = (treatment / treatment.std(axis=0)).T @ (outcome / outcome.std(axis=0)) / len(burden)
    # Nine of ten programs are free, and each ratio is standardized on its own.
    assert abs(np.mean(len(burden) * r**2) - 1) < 5 * error


def test_a_single_batch_is_in_obs_but_is_no_covariate(screen_of):
    screen = screen_of(n_cells=50, n_batches=1)
    assert list(screen.obs["batch"].cat.categories) == ["batch_1"]
    assert (screen.obs["batch"] == "batch_1").all()
    assert list(screen.obsm["covar"].columns) == ["log_n_umis", "covariate_1", "covariate_2"]


@pytest.mark.parametrize("n_batches", [2, 5, 200])
def test_batches_are_equally_likely_and_each_moves_usage(n_batches, screen_of):
    n_cells = 10_000
    screen = screen_of(n_cells=n_cells, n_batches=n_batches, n_targets=2, near_zero_fraction=0)
    batch = screen.obsm["covar"]["batch"]
    assert list(batch.cat.categories) == [f"batch_{i}" for i in range(1, n_batches + 1)]
    counts = np.bincount(batch.cat.codes, minlength=n_batches)
    chi_square = ((counts - n_cells / n_batches) ** 2 / (n_cells / n_batches)).sum()
    assert abs(chi_square - (n_batches - 1)) < 5 * np.sqrt(2 * (n_batches - 1))
    if n_batches < 10:
        in_batch = batch.to_numpy()[:, None] == batch.cat.categories.to_numpy()
        differences, errors = mean_differences(centred_log_ratios(screen), in_batch)
        assert (np.abs(differences / errors).max(axis=1) > 5).all()


def test_the_given_share_of_entries_is_near_zero(screen_of):
    share = {}
    for fraction in (0, 0.15):
        usage = screen_of(n_cells=5000, near_zero_fraction=fraction).obsm["cnmf_usage"]
        # Between the two kinds lie six powers of ten.
        share[fraction] = (usage < 1e-4).mean()
    assert share[0] == 0
    assert abs(share[0.15] - 0.15) < 5 * np.sqrt(0.15 * 0.85 / 50_000)


# Refusals


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"n_cells": 0}, "n_cells is 0; expected an integer of at least 1"),
        ({"n_cells": 10.5}, "n_cells is 10.5"),
        ({"n_cells": True}, "n_cells is True"),
        ({"n_cells": "100"}, "n_cells is '100'"),
        ({"n_programs": 1}, "n_programs is 1; expected an integer of at least 2"),
        ({"n_targets": 0}, "n_targets is 0"),
        ({"guides_per_target": 0}, "guides_per_target is 0"),
        ({"n_effect_programs": 0}, "n_effect_programs is 0"),
        ({"n_effect_programs": 10}, "fewer than the 10 programs"),
        ({"n_batches": 0}, "n_batches is 0; expected an integer of at least 1"),
        ({"n_batches": 2.0}, "n_batches is 2.0"),
        ({"n_covariates": -1}, "n_covariates is -1"),
        ({"seed": -1}, "seed is -1"),
        ({"chunk_cells": 0}, "chunk_cells is 0"),
        ({"ntc_fraction": 1}, "ntc_fraction is 1; expected a fraction below 1"),
        ({"ntc_fraction": -0.1}, "ntc_fraction is -0.1"),
        ({"causal_fraction": 1.1}, "causal_fraction is 1.1"),
        ({"near_zero_fraction": 1.0}, "near_zero_fraction is 1.0"),
        ({"moi_mean": float("nan")}, "moi_mean is nan"),
        ({"moi_mean": "5"}, "moi_mean is '5'"),
        ({"n_cells": 10**9}, "make 5e[+]09 guide entries"),
        ({"n_cells": 2 * 10**9, "guides_per_cell": "one"}, "1 guides per cell.* make 2e[+]09"),
        ({"guides_per_cell": "two"}, "guides_per_cell is 'two'; expected one of poisson, one"),
        ({"guides_per_cell": 1}, "guides_per_cell is 1; expected one of"),
        ({"guides_per_cell": "one", "moi_dispersion": 0.5}, "moi_dispersion is 0.5; expected 0"),
        ({"guides_per_cell": "one", "burden_effect": 1}, "burden_effect is 1; expected 0 where"),
        ({"moi_dispersion": -0.1}, "moi_dispersion is -0.1"),
        ({"moi_dispersion": float("inf")}, "moi_dispersion is inf"),
        ({"burden_effect": -1}, "burden_effect is -1"),
        ({"burden_effect": True}, "burden_effect is True"),
        ({"burden_effect": 1, "moi_mean": 0}, "burden_effect is 1; expected 0 where cells do not"),
        ({"effect_size": float("inf")}, "effect_size is inf"),
        ({"effect_size": 0}, "effect_size is 0"),
        ({"confounding": -1}, "confounding is -1"),
    ],
)
def test_impossible_arguments_are_refused_by_name_before_anything_is_written(
    settings, message, tmp_path
):
    with pytest.raises(ValueError, match=message):
        simulate_screen(tmp_path / "screen.h5ad", **settings)
    assert list(tmp_path.iterdir()) == []
