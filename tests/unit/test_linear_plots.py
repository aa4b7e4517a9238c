"""Figures of linear models: the numbers behind them, and what is drawn where."""

import time

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from condrand.io.figures import save_figure
from condrand.linear.densities import sample_densities
from condrand.linear.top_features import cluster, top_rows, z_scores
from condrand.plots import style
from condrand.plots.contrasts import md_by_contrast, volcano_by_contrast
from condrand.plots.counts import count_densities, library_sizes
from condrand.plots.mds import mds
from condrand.plots.mean_variance import sigma_amean, voom_trend
from condrand.plots.sample_groups import MAX_NAMES, Groups
from condrand.plots.top_features import clustered_heatmap, top_heatmap, tree_segments
from references import read

FDR = 0.05
SAMPLES = ["s1", "s2", "s3", "s4", "s5"]
GROUPS = ["b", "a10", "a2", "b", "a2"]
# The group of each sample has place 2, 1, 0, 2, 0: natural order is a2, a10, b.
BY_GROUP = [2, 4, 1, 0, 3]


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def artist(figure, gid):
    (found,) = artists(figure, gid)
    return found


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def heading(figure):
    return figure.legends[0].get_title().get_text() if figure.legends else figure.get_suptitle()


def names_along(axis):
    return [text.get_text() for text in axis.get_ticklabels()]


def heat_panel(figure):
    (panel,) = (p for p in figure.axes if any(a.get_gid() == "heatmap" for a in p.collections))
    return panel


def shown_cells(figure):
    return np.asarray(artist(figure, "heatmap").get_array())


# Densities


def direct_density(values, grid):
    """The definition, every kernel at every point."""
    g = len(values)
    curves = []
    for y in values.T:
        h = g ** (-1 / 5) * np.std(y, ddof=1)
        kernels = np.exp(-0.5 * ((grid[:, None] - y) / h) ** 2) / (h * np.sqrt(2 * np.pi))
        curves.append(kernels.mean(axis=1))
    return np.array(curves)


def density_cases():
    rng = np.random.default_rng(0)
    normal = rng.normal(3.0, 2.0, (4000, 3)) * [1.0, 0.3, 2.0]
    return {
        "normal": normal,
        "half at the lowest value": np.maximum(normal, 2.0),
        "two values": rng.integers(0, 2, (500, 2)).astype(float),
        "few features": rng.normal(0, 1, (5, 2)),
        "one sample far narrower": rng.normal(0, 1, (800, 2)) * [1.0, 1e-3],
        "one sample narrower than bins can be": rng.normal(0, 1, (800, 2)) * [1.0, 1e-6],
        "far from zero": normal + 1e6,
    }


@pytest.mark.parametrize("name", density_cases())
def test_densities_are_the_sum_of_kernels_within_the_tolerance_stated(name):
    values = density_cases()[name]
    made = sample_densities(values)
    assert made.grid.shape == (200,)
    assert (made.grid[0], made.grid[-1]) == (values.min(), values.max())
    bandwidth = len(values) ** (-1 / 5) * np.std(values, axis=0, ddof=1)
    np.testing.assert_allclose(made.bandwidth, bandwidth, rtol=1e-12)
    away = np.abs(made.density - direct_density(values, made.grid)).max(axis=1)
    assert np.all(away * bandwidth <= 2e-5), away * bandwidth


def test_densities_of_real_counts_are_within_the_tolerance(limma):
    counts = read(limma / "gse60450_counts.csv.gz", index_col=0).to_numpy(float)[:, :2]
    values = np.log2(1e6 * counts / counts.sum(axis=0) + 0.01)
    made = sample_densities(values)
    away = np.abs(made.density - direct_density(values, made.grid)).max(axis=1)
    assert np.all(away * made.bandwidth <= 2e-5)
    assert np.all(away <= 1e-3 * made.density.max(axis=1))


def test_samples_without_spread_have_no_density():
    values = np.column_stack([np.full(50, 0.1), np.linspace(0, 1, 50)])
    made = sample_densities(values)
    assert np.isnan(made.density[0]).all()
    assert np.isfinite(made.density[1]).all()
    assert np.isnan(sample_densities(np.ones((1, 3))).density).all()
    assert np.isnan(sample_densities(np.full((7, 2), 0.1)).density).all()


@pytest.mark.parametrize("values", [np.ones((2, 2)) * np.nan, [[1.0, np.inf]], [], np.ones(3)])
def test_densities_refuse_what_is_not_a_matrix_of_numbers(values):
    with pytest.raises(ValueError, match="value"):
        sample_densities(values)


# Top features


def test_top_rows_are_the_smallest_p_of_each_side_by_decreasing_t():
    t = np.array([3.0, -4.0, 1.0, 5.0, -0.5, np.nan, -6.0, 2.0, 0.0])
    log_p = np.array([-3.0, -4.0, -9.0, -5.0, -0.1, np.nan, -6.0, -2.0, -50.0])
    assert top_rows(t, log_p, 2).tolist() == [3, 2, 1, 6]
    assert top_rows(t, log_p, 25).tolist() == [3, 0, 7, 2, 4, 1, 6]
    tied = np.full(4, -1.0)
    assert top_rows(np.array([1.0, 1.0, -1.0, -1.0]), tied, 1).tolist() == [0, 2]
    with pytest.raises(ValueError, match="expected equal"):
        top_rows(t, log_p[:3])
    with pytest.raises(ValueError, match="n is 0"):
        top_rows(t, log_p, 0)


def test_top_features_of_limma_have_the_z_scores_of_the_reference(limma):
    expected = read(limma / "limma_ref_seed_heatmap50.csv", index_col=0)
    genes = read(limma / "limma_ref_seed_genes.csv.gz", index_col=0)
    E = read(limma / "limma_ref_seed_E.csv.gz", index_col=0)
    rows = top_rows(genes["t"].to_numpy(), np.log(genes["p_value"].to_numpy()))
    assert genes.index[rows].tolist() == expected.index.tolist()
    z = z_scores(E.to_numpy()[rows])
    np.testing.assert_allclose(z, expected[E.columns].to_numpy(), rtol=0, atol=1e-12)


def test_z_scores_have_the_standard_deviation_asked_for():
    values = np.array([[1.0, 2.0, 6.0], [4.0, 4.0, 4.0]])
    for ddof, root in ((0, 14 / 3), (1, 7)):
        expected = np.array([-2.0, -1.0, 3.0]) / (np.sqrt(root) + 1e-8)
        np.testing.assert_allclose(z_scores(values, ddof)[0], expected, rtol=1e-14)
    assert z_scores(values)[1].tolist() == [0.0, 0.0, 0.0]


# Clusters


def test_clusters_are_those_of_r(limma):
    E = read(limma / "limma_ref_small_E.csv", index_col=0).to_numpy()[:60]
    rows = read(limma / "limma_ref_small_ward_rows.csv")
    columns = read(limma / "limma_ref_small_ward_cols.csv")
    facts = read(limma / "limma_ref_small_scalars.csv")
    order = facts.loc[facts["key"] == "ward.row.order.1based", "value"].astype(float)
    made = cluster(E)
    assert (made.row_order + 1).tolist() == order.astype(int).tolist()
    np.testing.assert_allclose(made.row_tree[:, 2], rows["height"], rtol=1e-12)
    np.testing.assert_allclose(made.column_tree[:, 2], columns["height"], rtol=1e-12)
    # R counts leaves as -1, -2, ... and merges as 1, 2, ...
    merges = rows[["merge1", "merge2"]].to_numpy()
    merges = np.where(merges < 0, -merges - 1, merges + 59)
    np.testing.assert_array_equal(np.sort(made.row_tree[:, :2]), np.sort(merges))
    assert sorted(made.column_order) == list(range(12))


def test_rows_without_z_scores_are_left_out_and_counted():
    values = np.random.default_rng(0).normal(size=(8, 5))
    values[1], values[4] = 0.0, 5.1
    # Apart by the last bit.
    values[5] = np.where(np.arange(5) % 2, 5.1, np.nextafter(5.1, 6.0))
    values[6, 2] = np.nan
    made = cluster(values)
    assert made.kept.tolist() == [0, 2, 3, 7]
    assert (made.n_constant, made.n_missing) == (3, 1)
    np.testing.assert_allclose(made.z.std(axis=1, ddof=1), 1.0, rtol=1e-14)
    # A small spread is none of rounding.
    assert cluster(values * 1e-9 + 1.0).kept.tolist() == [0, 2, 3, 7]


@pytest.mark.parametrize("m", [0, 1, 2])
def test_few_rows_have_an_order_with_or_without_a_tree(m):
    made = cluster(np.random.default_rng(0).normal(size=(m, 4)))
    assert made.row_order.tolist() == list(range(m))
    assert made.row_tree.shape == (max(m - 1, 0), 4)
    assert made.column_tree.shape == (3 if m else 0, 4)
    assert sorted(made.column_order) == [0, 1, 2, 3]


def test_brackets_span_their_branches_at_their_heights():
    # Leaves 2 and 0 first, then 1 joins them.
    tree = np.array([[0.0, 2.0, 1.0, 2.0], [1.0, 3.0, 4.0, 3.0]])
    made = tree_segments(tree, np.array([1, 0, 2]))
    np.testing.assert_array_equal(made[0], [[1, 0], [1, 1], [2, 1], [2, 0]])
    np.testing.assert_array_equal(made[1], [[0, 0], [0, 4], [1.5, 4], [1.5, 1]])


# Groups


def test_groups_are_in_natural_order_and_have_colours_of_their_own():
    groups = Groups.of(GROUPS)
    assert groups.names == ["a2", "a10", "b"]
    assert groups.order.tolist() == BY_GROUP
    for n in (1, 8, 9, 30):
        colours = Groups.of([f"g{i}" for i in range(n)]).colours
        assert len(set(colours)) == n


# Samples


def test_bars_are_millions_by_group():
    sizes = np.array([1.0, 2.0, 3.0, 4.0, 6.0]) * 1e6
    figure = library_sizes(sizes, SAMPLES, GROUPS, title="demo")
    assert [bar.get_height() for bar in artists(figure, "library")] == [3, 6, 2, 1, 4]
    groups = Groups.of(GROUPS)
    colours = [to_hex(bar.get_facecolor()).upper() for bar in artists(figure, "library")]
    assert colours == [groups.colours[i].upper() for i in (0, 0, 1, 2, 2)]
    assert names_along(figure.axes[0].xaxis) == ["s3", "s5", "s2", "s1", "s4"]
    assert artist(figure, "median").get_ydata()[0] == 3.0
    assert legend_texts(figure) == ["a2", "a10", "b"]
    assert heading(figure) == "demo"
    assert "million" in figure.axes[0].get_ylabel()


def test_many_samples_are_counted_instead_of_named():
    n = MAX_NAMES + 1
    figure = library_sizes(np.ones(n), [f"s{i}" for i in range(n)], ["a"] * n)
    assert figure.axes[0].get_xlabel() == "Sample (61, by group)"
    assert not names_along(figure.axes[0].xaxis)


def test_densities_before_and_after_have_the_same_axes():
    before = np.arange(4.0), np.arange(20.0).reshape(5, 4), 1000
    after = np.arange(1.0, 3.0), np.ones((5, 2)), 10
    after[1][1] = np.nan
    figure = count_densities(before, after, GROUPS, title="demo")
    left, right = figure.axes
    assert left.get_title(loc="left") == "All features (1,000)"
    assert right.get_title(loc="left") == "Kept features (10)"
    assert left.get_xlim() == right.get_xlim()
    assert left.get_ylim() == right.get_ylim()
    assert left.get_ylim()[0] == 0.0
    groups = Groups.of(GROUPS)
    assert [line.get_color() for line in left.lines] == [groups.colour_of(i) for i in range(5)]
    np.testing.assert_array_equal(left.lines[2].get_ydata(), before[1][2])
    assert [line.get_color() for line in right.lines] == [
        groups.colour_of(i) for i in (0, 2, 3, 4)
    ]


def test_mds_names_samples_and_shares():
    coordinates = np.array([[-3.0, 1, 9], [2, 0.5, 8], [1, -2, 7], [-2, 2, 6], [2, -1, 5]])
    shares = [0.6715, 0.155, 0.1]
    figure = mds(coordinates, shares, SAMPLES, GROUPS, title="demo")
    panel = figure.axes[0]
    assert panel.get_xlabel() == "Leading logFC dim 1 (67 %)"
    assert panel.get_ylabel() == "Leading logFC dim 2 (16 %)"
    points = [line.get_xydata() for line in artists(figure, "samples")]
    for made, at in zip(points, ([2, 4], [1], [0, 3]), strict=True):
        np.testing.assert_array_equal(made, coordinates[at, :2])
    assert sorted(text.get_text() for text in artists(figure, "label")) == SAMPLES
    figure.draw_without_rendering()
    ends = panel.transData.transform([[0, 0], [1, 0], [0, 1]])
    assert ends[1, 0] - ends[0, 0] == pytest.approx(ends[2, 1] - ends[0, 1], rel=1e-6)
    third = mds(coordinates, shares, SAMPLES, GROUPS, dimensions=(2, 0)).axes[0]
    assert third.get_xlabel() == "Leading logFC dim 3 (10 %)"
    np.testing.assert_array_equal(third.lines[1].get_xydata(), [[8.0, 2.0]])


# Trends


def test_voom_trend_has_points_and_line():
    x, y = np.array([3.0, 1.0, 2.0]), np.array([0.5, 1.5, 1.0])
    figure = voom_trend(x, y, np.sort(x), np.array([1.4, 1.1, 0.6]), title="demo")
    np.testing.assert_array_equal(artist(figure, "features").get_xydata(), np.c_[x, y])
    np.testing.assert_array_equal(
        artist(figure, "trend").get_xydata(), [[1, 1.4], [2, 1.1], [3, 0.6]]
    )
    assert figure.axes[0].get_xlabel() == "log₂(count size + 0.5)"
    assert legend_texts(figure) == ["feature (3)", "trend"]
    empty = voom_trend(*[np.empty(0)] * 4, title="demo")
    assert "no replicates" in empty.axes[0].texts[0].get_text()
    assert heading(empty) == "demo"


def test_prior_is_on_the_axis_of_square_roots_of_standard_deviations():
    amean, sigma = np.array([5.0, 1.0, 3.0]), np.array([4.0, 9.0, np.nan])
    figure = sigma_amean(amean, sigma, 16.0)
    np.testing.assert_array_equal(artist(figure, "features").get_xydata(), [[5, 2], [1, 3]])
    np.testing.assert_array_equal(artist(figure, "prior").get_xydata(), [[1, 2], [5, 2]])
    trend = sigma_amean(amean, sigma, np.array([16.0, 81.0, 1.0]))
    np.testing.assert_allclose(artist(trend, "prior").get_xydata(), [[1, 3], [5, 2]])
    nothing = sigma_amean(amean, np.full(3, np.nan), 1.0)
    assert not artists(nothing, "features")


# Contrasts


def contrast(logfc, adjusted, average=None):
    logfc, adjusted = np.asarray(logfc, float), np.asarray(adjusted, float)
    p = adjusted / 10
    return pd.DataFrame(
        {
            "logFC": logfc,
            "AveExpr": np.arange(logfc.size, dtype=float) if average is None else average,
            "P.Value": p,
            "adj.P.Val": adjusted,
            "neg_log10_p": -np.log10(p),
        },
        index=[f"F{i + 1}" for i in range(logfc.size)],
    )


def test_tests_of_a_contrast_are_placed_coloured_and_counted():
    table = contrast([2.0, -3.0, 0.5, 1.0, -0.1], [0.01, 0.001, 0.5, FDR, np.nan])
    for draw, x, y in (
        (volcano_by_contrast, table["logFC"], table["neg_log10_p"]),
        (md_by_contrast, table["AveExpr"], table["logFC"]),
    ):
        figure = draw({"b - a": table}, fdr=FDR, title="demo")
        points = np.column_stack([x, y])
        for gid, at, colour in (
            ("higher", [0, 3], style.HIGHER_COLOUR),
            ("lower", [1], style.LOWER_COLOUR),
            ("other", [2], style.OTHER_COLOUR),
        ):
            line = artist(figure, gid)
            np.testing.assert_allclose(line.get_xydata(), points[at])
            assert line.get_color() == colour
        assert legend_texts(figure) == [
            "not significant (1)",
            "lower, FDR ≤ 0.05 (1)",
            "higher, FDR ≤ 0.05 (2)",
        ]
        assert heading(figure) == "demo: b - a"
        assert {text.get_text() for text in artists(figure, "label")} == {"F1", "F2", "F4"}
    assert len(artists(figure, "threshold")) == 0


def test_line_of_a_volcano_is_at_an_unadjusted_p():
    figure = volcano_by_contrast({"x": contrast([1.0, -1.0], [0.01, 0.9])}, fdr=FDR)
    assert artist(figure, "threshold").get_ydata()[0] == pytest.approx(-np.log10(0.05))
    assert "fold change" in figure.axes[0].get_xlabel()


@pytest.mark.parametrize("draw", [volcano_by_contrast, md_by_contrast])
def test_contrasts_have_panels_in_the_order_given_with_their_counts(draw):
    tables = {
        "z": contrast([1.0, -1.0, 2.0], [0.01, 0.02, FDR]),
        "a": contrast([1.0, -1.0, 2.0], [0.5, 0.02, 0.6]),
        "empty": contrast([1.0], [np.nan]),
    }
    figure = draw(tables, fdr=FDR, title="demo")
    assert [panel.get_title(loc="left") for panel in figure.axes] == [
        "z  ↓1 ↑2",
        "a  ↓1 ↑0",
        "empty  ↓0 ↑0",
    ]
    assert {panel.get_xlim() for panel in figure.axes} == {figure.axes[0].get_xlim()}
    assert legend_texts(figure)[1:] == ["lower, FDR ≤ 0.05 (2)", "higher, FDR ≤ 0.05 (2)"]
    many = draw({f"c{i}": tables["z"] for i in range(22)}, fdr=FDR, title="demo")
    assert len(many.axes) == 20
    assert heading(many) == "demo: 20 of 22 contrasts"


@pytest.mark.parametrize("draw", [volcano_by_contrast, md_by_contrast])
@pytest.mark.parametrize("tables", [{}, {"x": contrast([], [])}, {"x": contrast([1], [np.nan])}])
def test_contrasts_without_tests_say_so(draw, tables):
    figure = draw(tables, fdr=FDR, title="demo")
    assert figure.axes[0].texts[0].get_text() == "no test has a p value and an effect"


# Heat maps


def test_top_heatmap_has_columns_by_group_and_fixed_colours():
    z = np.arange(15.0).reshape(3, 5) / 5 - 1.0
    figure = top_heatmap(z, 2, ["x", "y", "w"], SAMPLES, GROUPS, title="demo")
    np.testing.assert_array_equal(shown_cells(figure), z[:, BY_GROUP])
    mesh, panel = artist(figure, "heatmap"), heat_panel(figure)
    assert (mesh.norm.vmin, mesh.norm.vmax) == (-2.0, 2.0)
    red, _, blue, _ = mesh.get_cmap()(mesh.norm(2.0))
    assert red > blue
    assert names_along(panel.yaxis) == ["x", "y", "w"]
    assert names_along(panel.xaxis) == [SAMPLES[i] for i in BY_GROUP]
    low, high = panel.get_ylim()
    assert low > high
    strip = artist(figure, "groups")
    np.testing.assert_array_equal(np.ravel(strip.get_array()), [0, 0, 1, 2, 2])
    colours = strip.get_cmap()(strip.norm(np.arange(3)))
    assert [to_hex(c).upper() for c in colours] == [c.upper() for c in Groups.of(GROUPS).colours]
    assert artist(figure, "parting").get_ydata()[0] == 1.5
    assert not artists(top_heatmap(z, 3, ["x", "y", "w"], SAMPLES, GROUPS), "parting")


def clustered(m, n, seed=0, **how):
    values = np.random.default_rng(seed).normal(size=(m, n))
    made = cluster(values)
    names = [f"gene{i}" for i in range(m)], [f"s{i}" for i in range(n)], ["a", "b"] * n
    figure = clustered_heatmap(
        made.z,
        made.row_tree,
        made.column_tree,
        made.row_order,
        made.column_order,
        *names[:2],
        names[2][:n],
        **how,
    )
    return figure, made


def test_clustered_heatmap_is_in_the_order_of_its_trees():
    figure, made = clustered(30, 8, title="demo", n_left_out=4)
    np.testing.assert_array_equal(
        shown_cells(figure), made.z[np.ix_(made.row_order, made.column_order)]
    )
    panel = heat_panel(figure)
    assert names_along(panel.yaxis) == [f"gene{i}" for i in made.row_order]
    assert names_along(panel.xaxis) == [f"s{i}" for i in made.column_order]
    mesh = artist(figure, "heatmap")
    assert mesh.get_cmap().name == "magma"
    assert (mesh.norm.vmin, mesh.norm.vmax) == tuple(np.percentile(made.z, [1, 99]))
    np.testing.assert_array_equal(
        np.ravel(artist(figure, "groups").get_array()), made.column_order % 2
    )
    assert heading(figure) == "demo\n4 constant or incomplete features left out"
    above, left = artist(figure, "column-tree"), artist(figure, "row-tree")
    np.testing.assert_array_equal(
        above.get_segments(), tree_segments(made.column_tree, made.column_order)
    )
    np.testing.assert_array_equal(
        left.get_segments(), tree_segments(made.row_tree, made.row_order)[:, :, ::-1]
    )
    # Leaves stand over their columns and beside their rows.
    assert above.axes.get_xlim() == panel.get_xlim()
    assert left.axes.get_ylim() == panel.get_ylim()
    box, over, beside = (p.get_window_extent() for p in (panel, above.axes, left.axes))
    np.testing.assert_allclose([over.x0, over.x1], [box.x0, box.x1])
    np.testing.assert_allclose([beside.y0, beside.y1], [box.y0, box.y1])
    assert beside.x1 < box.x0
    assert over.y0 > box.y1


def test_every_bracket_stands_over_leaves_beside_each_other():
    _, made = clustered(40, 6)
    segments = tree_segments(made.row_tree, made.row_order)
    place = np.argsort(made.row_order)
    under = [{int(i)} for i in place]
    for (a, b, height, size), segment in zip(made.row_tree, segments, strict=True):
        leaves = under[int(a)] | under[int(b)]
        under.append(leaves)
        assert len(leaves) == size == max(leaves) - min(leaves) + 1
        assert min(leaves) <= segment[0, 0] < segment[3, 0] <= max(leaves)
        assert segment[1, 1] == segment[2, 1] == height
        assert (segment[[0, 3], 1] <= height).all()


@pytest.mark.parametrize("m, n", [(0, 5), (1, 2), (2, 3), (30, 8), (61, 61), (300, 150)])
def test_heat_maps_stay_within_the_page(m, n):
    figure, made = clustered(m, n, title="demo")
    top = top_heatmap(made.z, m // 2, [f"gene{i}" for i in range(m)], range(n), ["a"] * n)
    for drawn in (figure, top):
        for panel in drawn.axes:
            if panel.axison:
                box = panel.get_tightbbox()
                assert box.x0 > -1.0
                assert box.x1 < drawn.bbox.width + 1.0
                assert box.y0 > -1.0
                assert box.y1 < drawn.bbox.height + 1.0
        assert drawn.get_figwidth() <= style.PAGE
    if not m:
        assert "no significant feature" in [t.get_text() for p in figure.axes for t in p.texts]
    if m > MAX_NAMES:
        assert heat_panel(figure).get_ylabel() == f"Feature ({m})"
        assert heat_panel(figure).get_xlabel() == f"Sample ({n}, by cluster)"
        assert artist(figure, "heatmap").get_rasterized()


# All of them


def all_figures():
    rng = np.random.default_rng(3)
    x = rng.normal(size=3000)
    table = contrast(x, rng.random(3000) ** 3)
    curves = np.linspace(0, 1, 50), rng.random((5, 50)), 3000
    z = rng.normal(size=(20, 5))
    odd = ["$a_{b$", "x" * 60, "ß→y", "é", "s"]
    return {
        "library_sizes": library_sizes(rng.random(5), odd, odd, title="$a_{b$"),
        "densities": count_densities(curves, curves, odd),
        "mds": mds(rng.normal(size=(5, 5)), np.full(5, 0.2), odd, odd),
        "voom_trend": voom_trend(x, x**2, np.sort(x), np.ones(3000)),
        "sa": sigma_amean(x, x**2, 1.0),
        "volcano": volcano_by_contrast({"a": table, "$b_{": table}, fdr=FDR),
        "md": md_by_contrast({"a": table}, fdr=FDR),
        "top": top_heatmap(z, 10, ["$g_{"] * 20, odd, odd),
        "clustered": clustered(20, 5)[0],
    }


def test_figures_have_equal_bytes_whatever_the_settings_and_the_day(tmp_path):
    def save(folder):
        for name, figure in all_figures().items():
            for suffix in ("png", "svg", "pdf"):
                save_figure(figure, tmp_path / folder / f"{name}.{suffix}")

    save("first")
    # Longer than the resolution of a time stamp inside a file.
    time.sleep(1.1)
    with matplotlib.rc_context({"font.size": 20, "axes.grid": True, "image.cmap": "jet"}):
        save("again")
    files = sorted((tmp_path / "first").iterdir())
    assert len(files) == 27
    for path in files:
        assert path.read_bytes() == (tmp_path / "again" / path.name).read_bytes(), path.name
