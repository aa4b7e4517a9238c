"""Coordinates of MDS plots against limma, and by definition."""

import numpy as np
import pytest

from condrand.linear.mds import plot_mds
from references import read, within


def lcpm(limma):
    counts = read(limma / "gse60450_counts.csv.gz", index_col=0)
    targets = read(limma / "gse60450_targets.csv", index_col=0)
    counts = counts[targets.index].to_numpy(float)
    library = counts.sum(axis=0)
    # The filter of the tutorial: above 10 counts of the median library in six samples.
    kept = np.sum(1e6 * counts / library > 10 / (np.median(library) / 1e6), axis=1) >= 6
    assert np.count_nonzero(kept) == 14_453
    return np.log2(1e6 * counts[kept] / library + 0.01), list(targets.index)


def same_as(made, expected, file, dimensions):
    for d in range(1, dimensions + 1):
        actual, wanted = made.coordinates[:, d - 1], expected[f"dim{d}"]
        # The side of a dimension is arbitrary: compare after turning limma's to ours.
        turn = np.sign(actual @ wanted)
        within(f"MDS dim {d}", file, actual, turn * wanted, 1e-10)
    within("variance explained", file, made.variance_explained, expected["var_explained"], 1e-12)
    if "eigen_value" in expected:
        within("eigenvalues", file, made.eigenvalues, expected["eigen_value"], 1e-10)


@pytest.mark.parametrize("which", ["mds_lcpm", "mds_voomE"])
def test_coordinates_are_those_of_limma(limma, which):
    expected = read(limma / f"limma_ref_{which}.csv", index_col="sample")
    if which == "mds_lcpm":
        values, samples = lcpm(limma)
    else:
        table = read(limma / "limma_ref_seed_E.csv.gz", index_col=0)
        values, samples = table.to_numpy(), list(table.columns)
    made = plot_mds(values)
    same_as(made, expected.loc[samples], which, 3)
    shares = {"mds_lcpm": (67, 16), "mds_voomE": (68, 16)}[which]
    labels = [f"Leading logFC dim {d + 1} ({share}%)" for d, share in enumerate(shares)]
    assert [made.axis_label(0), made.axis_label(1)] == labels


def test_common_genes_give_the_coordinates_of_limma(limma):
    values, samples = lcpm(limma)
    expected = read(limma / "limma_ref_mds_lcpm_common.csv", index_col="sample").loc[samples]
    made = plot_mds(values, gene_selection="common")
    same_as(made, expected, "mds_lcpm_common", 2)


# By definition


def test_distances_are_the_leading_fold_changes():
    values = np.random.default_rng(0).normal(size=(80, 6))
    made = plot_mds(values, top=15)
    for i in range(6):
        for j in range(6):
            leading = np.sort((values[:, i] - values[:, j]) ** 2)[-15:]
            expected = leading.mean()
            assert made.squared_distances[i, j] == pytest.approx(expected, rel=1e-13)


@pytest.mark.parametrize("top", [40, 500])
def test_with_all_features_it_is_a_principal_component_analysis(top):
    values = np.random.default_rng(1).normal(size=(40, 7))
    centred = values - values.mean(axis=1, keepdims=True)
    s = np.linalg.svd(centred / np.sqrt(40), compute_uv=False)
    for selection in ("pairwise", "common"):
        made = plot_mds(values, top, selection)
        assert made.top == 40
        np.testing.assert_allclose(made.eigenvalues[:6], s[:6] ** 2, rtol=1e-10)
        explained = s**2 / np.sum(s**2)
        np.testing.assert_allclose(made.variance_explained, explained, atol=1e-13)
        between = made.coordinates[:, None] - made.coordinates[None, :]
        np.testing.assert_allclose(np.sum(between**2, -1), made.squared_distances, atol=1e-12)


def test_shares_sum_to_one_and_negative_eigenvalues_count_for_nothing():
    values = np.random.default_rng(2).random((6, 40))
    made = plot_mds(values, top=1)
    assert made.eigenvalues.min() < -0.01 and np.all(np.diff(made.eigenvalues) <= 0)
    assert made.variance_explained.sum() == pytest.approx(1)
    negative = made.eigenvalues < 0
    assert not np.any(made.coordinates[:, negative]) and not np.any(
        made.variance_explained[negative]
    )


def test_neither_features_nor_noise_turn_the_sides():
    random = np.random.default_rng(3)
    values = random.normal(size=(200, 8)) + np.repeat([0, 3], 4) * (random.random((200, 1)) < 0.3)
    made = plot_mds(values, top=50)
    for other in (values[::-1], values + 1e-9 * random.normal(size=values.shape), -values):
        again = plot_mds(other, top=50)
        np.testing.assert_allclose(again.coordinates[:, :3], made.coordinates[:, :3], atol=1e-6)
    assert made.coordinates[0, 0] > 0


def test_features_with_missing_values_are_left_out():
    values = np.random.default_rng(4).normal(size=(60, 5))
    gaps = np.vstack([values, values[:2]])
    gaps[60, 2], gaps[61, 0] = np.nan, np.inf
    np.testing.assert_array_equal(plot_mds(gaps).coordinates, plot_mds(values).coordinates)


def test_samples_alike_lie_on_one_point():
    made = plot_mds(np.tile(np.arange(20.0)[:, None], 4))
    assert not np.any(made.coordinates) and not np.any(made.variance_explained)


def test_what_cannot_be_drawn_is_refused():
    for values, how, words in (
        (np.ones((5, 2)), {}, "2 samples, expected at least 3"),
        (np.full((5, 4), np.nan), {}, "no feature has finite values"),
        (np.ones((5, 4)), {"top": 0}, "top is 0"),
        (np.ones((5, 4)), {"gene_selection": "all"}, "gene_selection is 'all'"),
    ):
        with pytest.raises(ValueError, match=words):
            plot_mds(values, **how)
