"""Figures of conditions compared over cell states: what is drawn, and said, for which numbers."""

import time

import matplotlib
import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from condrand.figures import draw_abundance, draw_genes
from condrand.io.figures import save_figure
from condrand.io.shards import write_arrays
from condrand.io.states import States, write_states
from condrand.io.tables import read_text, write_parquet, write_tsv
from condrand.merge import states_cautions, write_states_summary
from condrand.plots import style
from condrand.plots.abundance import abundance_volcano
from condrand.plots.cell_states import abundance_embedding
from condrand.plots.mahalanobis import expression_volcano, mahalanobis
from condrand.plots.smoothed import MAX_GENES, smoothed_panels

LEVELS = ("ctrl", "stim")
CHANGE = "Log fold change of density, stim / ctrl (natural log)"
N_MANY = 100_000


def artists(figure, gid):
    return figure.findobj(lambda artist: artist.get_gid() == gid)


def artist(figure, gid):
    (found,) = artists(figure, gid)
    return found


def texts(figure):
    figure.draw_without_rendering()
    return [t.get_text() for t in figure.findobj(matplotlib.text.Text) if t.get_text()]


def legend_texts(figure):
    return [text.get_text() for text in figure.legends[0].get_texts()]


def cells_like(n, seed=0):
    rng = np.random.default_rng(seed)
    places = rng.normal(size=(n, 2)) * [3.0, 1.0]
    change = places[:, 0] + 0.1 * rng.normal(size=n)
    tail = 0.3 + 0.3 * change**2
    direction = np.where(np.abs(change) > 1.0, np.sign(change), 0).astype(np.int8)
    return places, change, tail, direction


def embedding_of(places, change, direction, **more):
    settings = {"levels": LEVELS, "place_name": "umap", "title": "screen · kompot"}
    return abundance_embedding(places, change, direction, **{**settings, **more})


def volcano_of(change, tail, direction, **more):
    settings = {"levels": LEVELS, "threshold": 1.0, "ptp": 0.05, "title": "screen · kompot"}
    return abundance_volcano(change, tail, direction, **{**settings, **more})


def panels_of(places, first, second, genes, **more):
    settings = {"levels": LEVELS, "place_name": "umap", "scale": "log", "title": "t"}
    return smoothed_panels(places, first, second, genes, **{**settings, **more})


def genes_like(n=300, seed=1, n_null=500):
    rng = np.random.default_rng(seed)
    null = rng.gamma(4.0, 0.4, n_null)
    distances = np.sort(rng.gamma(4.0, 0.4, n) * np.where(np.arange(n) < 20, 12.0, 1.0))[::-1]
    larger = (null[:, None] >= distances).sum(axis=0)
    p = np.maximum(larger, 1) / n_null
    table = pd.DataFrame(
        {
            "screen": "screen",
            "analysis": "kompot",
            "target": "stim_vs_ctrl",
            "feature": [f"gene{i}" for i in range(n)],
            "n_target": 40,
            "n_control": 60,
            "effect": distances * np.where(np.arange(n) % 3 == 0, -0.05, 0.05),
            "effect_scale": "difference of log(1 + counts per 10,000)",
            "statistic": distances,
            "p_value": p,
            "neg_log10_p": -np.log10(p),
            "fdr": np.where(distances > 5.0, 0.01, 0.6),
            "p_source": "null_genes",
            "is_de": distances > 6.0,
            "note": "",
        }
    )
    return table, null


# Cells


def test_the_embedding_has_both_panels_in_colours_that_mean_something():
    places, change, _, direction = cells_like(500)
    figure = embedding_of(places, change, direction)
    points = artist(figure, "change")
    assert points.norm.vmin == -points.norm.vmax
    sizes = np.abs(change)
    assert np.mean(sizes <= points.norm.vmax) == pytest.approx(0.98, abs=0.01)
    # The same cells in both panels, every one of them, each in the colour of its direction.
    both = artist(figure, "direction")
    np.testing.assert_array_equal(points.get_offsets(), both.get_offsets())
    order = np.lexsort(np.asarray(both.get_offsets()).T)
    expected = np.lexsort(places.T)
    np.testing.assert_array_equal(np.asarray(both.get_offsets())[order], places[expected])
    figure.draw_without_rendering()
    colours = {-1: style.LOWER_COLOUR, 0: style.OTHER_COLOUR, 1: style.HIGHER_COLOUR}
    shown = [to_hex(c).upper() for c in both.get_facecolors()[order]]
    assert shown == [colours[d] for d in direction[expected]]
    assert CHANGE.replace(", ", "\n") in texts(figure)
    assert {"umap 1", "umap 2", "Change of abundance", "Direction"} <= set(texts(figure))
    assert all(panel.get_aspect() == 1.0 for panel in figure.axes[:2])


def test_the_legend_counts_the_cells_of_each_direction_with_marks_of_its_own():
    places, change, tail, direction = cells_like(500)
    n = [int((direction == side).sum()) for side in (0, -1, 1)]
    expected = [
        f"neutral ({n[0]:,} cells)",
        f"down in stim ({n[1]:,} cells)",
        f"up in stim ({n[2]:,} cells)",
    ]
    for figure in (embedding_of(places, change, direction), volcano_of(change, tail, direction)):
        assert legend_texts(figure) == expected
        (legend,) = figure.legends
        assert legend.get_title().get_text() == "screen · kompot"
        marks = legend.legend_handles
        assert len({mark.get_color() for mark in marks}) == 3
        assert {mark.get_markersize() for mark in marks} == {4}
    none = volcano_of(change, tail, np.zeros(500, np.int8))
    assert legend_texts(none)[1:] == ["down in stim (0 cells)", "up in stim (0 cells)"]


def test_the_volcano_of_cells_draws_every_cell_and_its_thresholds():
    _, change, tail, direction = cells_like(500)
    figure = volcano_of(change, tail, direction, threshold=1.5, ptp=0.01)
    for gid, side in (("neutral", 0), ("down", -1), ("up", 1)):
        at = direction == side
        np.testing.assert_array_equal(artist(figure, gid).get_xdata(), change[at])
        np.testing.assert_array_equal(artist(figure, gid).get_ydata(), tail[at])
    level, low, high = artists(figure, "threshold")
    assert level.get_ydata()[0] == pytest.approx(2.0)
    assert (low.get_xdata()[0], high.get_xdata()[0]) == (-1.5, 1.5)
    panel = figure.axes[0]
    assert panel.get_xlabel() == CHANGE
    assert panel.get_ylabel() == "−log₁₀ posterior tail probability"
    left, right = panel.get_xlim()
    assert left == -right
    assert right > np.abs(change).max()


def test_very_certain_cells_make_the_axis_compressed_and_its_label_say_so():
    _, change, tail, direction = cells_like(300)
    panel = volcano_of(change, 40 * tail, direction).axes[0]
    assert panel.get_yscale() == "symlog"
    assert panel.get_ylabel().endswith("(compressed above 10)")
    assert panel.get_ylim()[1] > 40 * tail.max()


def test_cells_without_a_value_are_left_out_and_said_to_be():
    places, change, tail, direction = cells_like(50)
    change[3], places[5, 1] = np.nan, np.inf
    figure = embedding_of(places, change, direction)
    assert len(artist(figure, "change").get_offsets()) == 48
    said = "screen · kompot  (2 cells without a value not drawn)"
    assert figure.legends[0].get_title().get_text() == said
    figure = volcano_of(change, tail, direction)
    title = figure.legends[0].get_title().get_text()
    assert title.endswith("(1 cell without a value not drawn)")
    panels = panels_of(places, change[:, None], tail[:, None], ["g"])
    assert "2 cells without a value not drawn" in panels.get_suptitle()


def test_long_names_stay_on_the_page():
    places, change, tail, direction = cells_like(60)
    long = {
        "levels": ("a very long name of a condition", "an even longer name of another one"),
        "title": "a_screen_of_a_long_name · an_analysis",
    }
    where = {"place_name": "X_a_long_key_of_an_embedding_in_the_file"}
    for figure in (
        embedding_of(places, change, direction, **long, **where),
        volcano_of(change, tail, direction, **long),
        panels_of(places, places, 2 * places, ["ABCDEFGHIJKLMNOPQRSTUVWXYZ" * 2, "G"], **long),
    ):
        figure.draw_without_rendering()
        page = figure.bbox
        for text in figure.findobj(matplotlib.text.Text):
            # Ticks beyond the limits are there too, and not drawn.
            if text.get_text().strip("−0123456789.,"):
                box = text.get_window_extent()
                assert page.x0 <= box.x0, text
                assert box.x1 <= page.x1, text
                assert page.y0 <= box.y0, text
                assert box.y1 <= page.y1, text


def test_figures_of_no_cell_say_so():
    nothing = np.empty((0, 2)), np.empty(0), np.empty(0, np.int8)
    figures = [
        embedding_of(*nothing),
        volcano_of(np.empty(0), np.empty(0), nothing[2]),
        panels_of(nothing[0], np.empty((0, 1)), np.empty((0, 1)), ["gene"]),
    ]
    for figure in figures:
        assert "no cell has a place and a value" in texts(figure)
    places = cells_like(5)[0]
    figure = panels_of(places, np.empty((5, 0)), np.empty((5, 0)), [])
    assert "there is no gene to draw" in texts(figure)


@pytest.mark.parametrize("n", [1, 2, 40])
def test_one_cell_and_equal_values_are_drawn(n, tmp_path):
    places, value = np.full((n, 2), 3.0), np.zeros(n)
    direction = np.zeros(n, np.int8)
    drawn = {
        "embedding": embedding_of(places, value, direction),
        "volcano": volcano_of(value, value, direction),
        "panels": panels_of(places, value[:, None] + 7.0, value[:, None] + 7.0, ["gene"]),
    }
    assert artist(drawn["embedding"], "change").norm.vmax == 1.0
    norm = artist(drawn["panels"], "first").norm
    assert norm.vmin < 7.0 < norm.vmax
    for name, figure in drawn.items():
        save_figure(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")


# Genes


def test_panels_share_the_colours_of_both_conditions_and_label_every_bar():
    places = cells_like(200)[0]
    first = np.column_stack([places[:, 0], np.zeros(200)])
    second = first + [[1.0, 2.0]]
    figure = panels_of(places, first, second, ["A", "B"])
    one, two, change = (artists(figure, gid) for gid in ("first", "second", "change"))
    assert len(one) == len(two) == len(change) == 2
    for a, b, c in zip(one, two, change, strict=True):
        assert (a.norm.vmin, a.norm.vmax) == (b.norm.vmin, b.norm.vmax)
        assert c.norm.vmin == -c.norm.vmax
    np.testing.assert_allclose(np.asarray(change[1].get_array()), 2.0)
    said = texts(figure)
    assert {"A · ctrl", "A · stim", "A · stim − ctrl", "B · ctrl", "umap 1", "umap 2"} <= set(said)
    assert said.count("Smoothed expression") == said.count("Difference") == 2
    assert figure.get_suptitle() == "t\nExpression: log"
    # Numbers of an embedding mean nothing; those of the bars do.
    assert not figure.axes[0].get_xticks().size


def test_more_genes_than_a_page_holds_are_cut_and_counted():
    places = cells_like(20)[0]
    values = np.random.default_rng(0).normal(size=(20, MAX_GENES + 3))
    names = [f"g{i}" for i in range(MAX_GENES + 3)]
    figure = panels_of(places, values, values, names)
    assert len(artists(figure, "first")) == MAX_GENES
    assert f"t: {MAX_GENES} of {MAX_GENES + 3} genes" in figure.get_suptitle()


def test_the_distances_of_genes_lie_beside_those_of_the_null():
    table, null = genes_like()
    figure = mahalanobis(table, null, fdr=0.05)
    left, right = figure.axes
    assert left.get_xlabel() == "Effect, difference of log(1 + counts per 10,000)"
    assert left.get_ylabel() == "Mahalanobis distance"
    assert left.get_yscale() == right.get_yscale() == "log"
    assert left.get_ylim() == right.get_ylim()
    lines = artists(figure, "threshold")
    assert [line.get_ydata()[0] for line in lines] == [np.quantile(null, 0.95)] * 2
    n = sum(artist(figure, gid).get_xdata().size for gid in ("other", "lower", "higher"))
    assert n == len(table)
    for gid in ("null", "genes"):
        assert artist(figure, gid).get_data().values.sum() == pytest.approx(1.0)
    assert [text.get_text() for text in right.get_legend().get_texts()] == [
        "null (500)",
        "genes (300)",
        "95 % of the null\nlie below",
    ]
    named = {text.get_text() for text in artists(figure, "label")}
    farthest = set(table["feature"].head(10))
    assert named
    assert named <= farthest


def test_without_a_null_there_is_no_line():
    table, _ = genes_like()
    figure = mahalanobis(table, np.empty(0), fdr=0.05)
    assert artists(figure, "threshold") == artists(figure, "null") == []
    assert artist(figure, "genes")


def test_the_volcano_of_genes_names_the_farthest_of_equal_p():
    table, _ = genes_like()
    figure = expression_volcano(table, fdr=0.05)
    named = {text.get_text() for text in artists(figure, "label")}
    assert len(named) >= 6
    assert named <= set(table["feature"].head(10))
    panel = figure.axes[0]
    # Names have their place above the row of the smallest p.
    assert panel.get_ylim()[1] == pytest.approx(1.4 * table["neg_log10_p"].max())
    assert panel.get_ylabel() == "−log₁₀ p"
    assert legend_texts(figure)[0] == "not significant (280)"


@pytest.mark.parametrize("what", ["no row", "no test", "one gene", "equal", "zero"])
def test_tables_of_genes_with_little_in_them_are_drawn(what, tmp_path):
    table, null = genes_like(30)
    if what == "no row":
        table = table.iloc[:0]
    elif what == "no test":
        table[["p_value", "neg_log10_p", "fdr", "effect", "statistic"]] = np.nan
    elif what == "one gene":
        table = table.iloc[:1]
    elif what == "equal":
        table = table.assign(effect=0.0, statistic=2.0, p_value=1.0, neg_log10_p=0.0)
    else:
        table, null = table.assign(effect=0.0, statistic=0.0), np.zeros(4)
    for name, figure in (
        ("volcano", expression_volcano(table, fdr=0.05)),
        ("mahalanobis", mahalanobis(table, null, fdr=0.05)),
    ):
        save_figure(figure, tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
        if what in ("no row", "no test"):
            assert "no test has a p value and an effect" in texts(figure)


# Size


def test_many_cells_are_drawn_fast_into_files_of_bounded_size(tmp_path):
    places, change, tail, direction = cells_like(N_MANY)
    values = np.column_stack([np.sin(places[:, 0] * k) for k in range(1, 7)])
    began = time.monotonic()
    drawn = {
        "embedding": embedding_of(places, change, direction),
        "volcano": volcano_of(change, tail, direction),
        "panels": panels_of(places, values, 2 * values, [f"g{k}" for k in range(6)]),
    }
    sizes = {}
    for name, figure in drawn.items():
        paths = tmp_path / f"{name}.png", tmp_path / f"{name}.svg"
        save_figure(figure, *paths)
        sizes[name] = [path.stat().st_size for path in paths]
    assert time.monotonic() - began < 60
    assert artist(drawn["embedding"], "change").get_rasterized()
    assert all(points.get_rasterized() for points in artists(drawn["panels"], "change"))
    assert max(sizes["embedding"] + sizes["volcano"]) < 3e6
    assert max(sizes["panels"]) < 12e6
    assert f"({(direction == 1).sum():,} cells)" in legend_texts(drawn["embedding"])[2]


def test_equal_figures_give_equal_files_whatever_the_order_of_drawing(tmp_path):
    places, change, _, direction = cells_like(3000)
    paths = [tmp_path / f"{name}.svg" for name in "ab"]
    for path in paths:
        save_figure(embedding_of(places, change, direction), path)
    assert paths[0].read_bytes() == paths[1].read_bytes()


# Steps


@pytest.fixture
def analysis(tmp_path):
    """Files of a small analysis, as its steps leave them."""
    places, change, tail, direction = cells_like(100)
    second = change > 0.0
    words = {
        "levels": list(LEVELS),
        "condition": "condition",
        "sample": "",
        "length_scale": 2.0,
        "transform": "log_normalize",
        "target_sum": 1e4,
        "values": "log(1 + counts per 10,000)",
        "effect_scale": "difference of log(1 + counts per 10,000)",
        "state": "2 principal components of 10 features",
        "plotted": "first two components, 2 principal components of 10 features",
        "key": "X",
        "seed": 0,
        "uses_samples": False,
        "notes": "a note of the states",
    }
    states = States(
        cells=np.arange(100),
        names=[f"cell{i}" for i in range(100)],
        x=places,
        second=second,
        samples=None,
        sample_levels=[],
        landmarks=places[:10],
        library=np.ones(100),
        plotted=places,
        features=["gene0", "gene1"],
        constant=np.zeros(2, bool),
        words=words,
    )
    table, null = genes_like()
    write_states(tmp_path / "states.h5ad", states)
    arrays = {"log_fold_change": change, "neg_log10_ptp": tail, "direction": direction}
    key = {"threshold": 1.0, "ptp": 0.05, "notes": "a note of abundance"}
    write_arrays(tmp_path / "abundance.h5", key, arrays)
    smooth = {"condition1": places, "condition2": 2 * places, "fold_change": places}
    write_arrays(tmp_path / "panels.h5", {"genes": ["gene0", "gene1"]}, smooth)
    write_parquet(table, tmp_path / "effects.parquet")
    nulls = pd.DataFrame({"gene": [f"gene{i % 300}" for i in range(500)], "distance": null})
    write_tsv(nulls, tmp_path / "null_distances.tsv.gz")
    rates = pd.DataFrame({"what": ["n_null", "n_de"], "value": [500.0, 20.0]})
    write_tsv(rates, tmp_path / "fdr.tsv")
    return tmp_path, states, table


def places_of(folder, *names):
    return {
        f"{n}_{kind}": folder / "plots" / f"{n}.{kind}" for n in names for kind in ("png", "svg")
    }


def genes_drawn(folder):
    """Do the step of the genes; give the figures."""
    genes = places_of(folder, "expression_volcano", "mahalanobis", "panels", "p_histogram")
    draw_genes(
        folder / "effects.parquet",
        folder / "null_distances.tsv.gz",
        folder / "panels.h5",
        folder / "states.h5ad",
        0.05,
        genes,
    )
    return genes


def test_the_steps_write_every_figure(analysis):
    folder, _, _ = analysis
    files = places_of(folder, "abundance_volcano", "abundance_embedding")
    draw_abundance(folder / "states.h5ad", folder / "abundance.h5", ("screen", "kompot"), files)
    genes = genes_drawn(folder)
    for path in (*files.values(), *genes.values()):
        assert path.stat().st_size > 1000
    assert "Component 1" in read_text(files["abundance_embedding_svg"])


def test_the_steps_take_an_analysis_without_a_null(analysis):
    folder, _, _ = analysis
    nothing = pd.DataFrame({"gene": [], "distance": []})
    write_tsv(nothing, folder / "null_distances.tsv.gz")
    write_arrays(
        folder / "panels.h5",
        {"genes": []},
        {"condition1": np.empty((100, 0)), "condition2": np.empty((100, 0))},
    )
    genes = genes_drawn(folder)
    assert "there is no gene to draw" in read_text(genes["panels_svg"])


def test_the_summary_says_what_was_compared_and_found(analysis):
    folder, states, table = analysis
    write_states_summary(
        folder / "effects.parquet",
        folder / "states.h5ad",
        folder / "abundance.h5",
        folder / "fdr.tsv",
        folder / "summary.txt",
        0.05,
    )
    text = read_text(folder / "summary.txt")
    n = int(states.second.sum())
    assert text.startswith("screen / kompot\n")
    assert f"{n} of stim against {100 - n} of ctrl" in text
    assert "10 landmarks" in text
    called = table["fdr"] <= 0.05
    higher = int((called & (table["effect"] > 0)).sum())
    assert f"{higher} genes higher in stim, {called.sum() - higher} lower at FDR 0.05" in text
    assert "300 null_genes; 500 null distances" in text
    assert "warning      a note of the states" in text
    assert "warning      a note of abundance" in text
    assert "no independent replicates" in text


def test_cautions_name_what_cannot_be(analysis):
    _, states, table = analysis
    change = np.where(states.second, 1.0, -1.0)
    assert not any("too smooth" in text for text in states_cautions(table, states, change))
    (said,) = (t for t in states_cautions(table, states, change - 2.0) if "too smooth" in t)
    assert "-1 on average in cells of stim and -3 in those of ctrl" in said
    assert any(
        "chi-squared" in t for t in states_cautions(table.assign(p_source="chi2"), states, change)
    )
    untested = table.assign(p_value=np.nan)
    assert any("no gene could be tested" in t for t in states_cautions(untested, states, change))
