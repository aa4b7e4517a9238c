"""The cross-fitted QQ plot: coordinates, the envelope against its law, the panels."""

import numpy as np
import pytest
from scipy.stats import beta

from condrand.plots.qq_crossfit import (
    bootstrap_qq_envelope,
    expected_quantiles,
    qq_coords,
    qq_crossfit,
)

RNG = np.random.default_rng(0)
GENES, HOLDOUT = RNG.random(60) ** 3, RNG.random(400)


def lines(panel):
    return {line.get_gid(): line for line in panel.lines}


def test_expected_quantiles_are_the_middles_of_equal_parts():
    np.testing.assert_allclose(expected_quantiles(4), [0.125, 0.375, 0.625, 0.875])
    with pytest.raises(ValueError, match="m = 0"):
        expected_quantiles(0)


def test_coordinates_start_with_the_smallest_p_value_and_ignore_nan():
    x, y = qq_coords(np.array([0.5, np.nan, 0.0, 0.01]))
    np.testing.assert_allclose(x, -np.log10([1 / 6, 3 / 6, 5 / 6]))
    np.testing.assert_allclose(y, [300, 2, -np.log10(0.5)])
    with pytest.raises(ValueError, match="no p value is finite"):
        qq_coords(np.array([np.nan]))


def test_the_envelope_has_the_law_of_bootstrap_order_statistics():
    # The i-th of m draws from m values is at most the j-th value with the probability that a
    # Beta(i, m - i + 1) variable is at most j / m: the ideal envelope, of endless samples.
    p = np.sort(RNG.random(200))
    x, low, high = bootstrap_qq_envelope(p, n_boot=4000, alpha=0.10, seed=1)
    ranks = np.arange(1, 201)
    np.testing.assert_allclose(x, -np.log10((ranks - 0.5) / 200))
    for got, q in ((low, 0.95), (high, 0.05)):
        at = np.ceil(200 * beta.ppf(q, ranks, 201 - ranks)).astype(int)
        # Within two neighbours of the ideal one: 4,000 samples have errors of their own.
        least, most = -np.log10(p[np.minimum(at + 1, 199)]), -np.log10(p[np.maximum(at - 3, 0)])
        assert np.all((least - 1e-12 <= got) & (got <= most + 1e-12))


def test_the_envelope_depends_on_the_seed_alone_and_refuses_no_samples():
    first, again = (bootstrap_qq_envelope(HOLDOUT, seed=3) for _ in range(2))
    np.testing.assert_array_equal(first, again)
    assert not np.array_equal(first[1], bootstrap_qq_envelope(HOLDOUT, seed=4)[1])
    _, y = qq_coords(HOLDOUT)
    assert np.mean((first[1] <= y) & (y <= first[2])) > 0.95
    with pytest.raises(ValueError, match="n_boot = 0"):
        bootstrap_qq_envelope(HOLDOUT, n_boot=0)


def test_each_panel_draws_genes_holdout_and_the_envelope_of_the_holdout():
    figure = qq_crossfit({"all genes": (GENES, HOLDOUT), "P4": (GENES[:50], HOLDOUT)}, title="t")
    titles = [panel.get_title(loc="left").split("\n") for panel in figure.axes]
    assert [title[0] for title in titles] == ["all genes", "P4"]
    share = 100 * np.mean(GENES < 0.05)
    assert titles[0][1].startswith(f"p < 0.05: genes {share:.1f} %, B ")
    drawn = lines(figure.axes[0])
    for gid, p in (("real", GENES), ("holdout", HOLDOUT)):
        x, y = qq_coords(p)
        np.testing.assert_allclose(drawn[gid].get_xdata()[-1], x[-1])
        np.testing.assert_allclose(drawn[gid].get_ydata(), y[y <= figure.axes[0].get_ylim()[1]])
    (envelope,) = (c for c in figure.axes[0].collections if c.get_gid() == "envelope")
    top = envelope.get_paths()[0].vertices[:, 1].max()
    assert top == pytest.approx(bootstrap_qq_envelope(HOLDOUT)[2].max())
    texts = [text.get_text() for text in figure.legends[0].get_texts()]
    assert texts[0] == "genes against A (n = 50 to 60)"
    assert "held-out NTC units B against A (n = 400)" in texts
    assert "90% bootstrap envelope of B" in texts


def test_drawing_twice_is_drawing_the_same():
    first, again = (qq_crossfit({"P": (GENES, HOLDOUT)}) for _ in range(2))
    paths = [f.axes[0].collections[0].get_paths()[0].vertices for f in (first, again)]
    np.testing.assert_array_equal(*paths)


@pytest.mark.parametrize(
    "panels",
    [{}, {"P": ([], [])}, {"P": (GENES, [])}, {"P": ([], HOLDOUT), "Q": ([np.nan], HOLDOUT)}],
    ids=["none", "empty", "no holdout", "no genes"],
)
def test_missing_sides_are_left_out(panels):
    figure = qq_crossfit(panels, title="screen · analysis")
    gids = {line.get_gid() for panel in figure.axes for line in panel.lines}
    assert ("real" in gids) == any(np.isfinite(p).any() for p, _ in panels.values() if len(p))
    written = [
        figure.get_suptitle(),
        *(legend.get_title().get_text() for legend in figure.legends),
    ]
    assert "screen · analysis" in written


def test_many_programs_are_drawn_in_reasonable_time_with_thinned_envelopes():
    figure = qq_crossfit({"P": (RNG.random(5000), RNG.random(50_000))}, n_boot=50)
    assert lines(figure.axes[0])["holdout"].get_xdata().size <= 4000
