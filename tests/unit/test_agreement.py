"""Whether sources of p values agree: counts, the sentence and the figure."""

import numpy as np
import pandas as pd
import pytest
from scipy import stats

from condrand.agreement import agreement, verdict
from condrand.io.figures import save_figure
from condrand.plots.agreement import agreement as figure_of

B = 1023
FLOOR = 1 / (B + 1)


def table(p, count, source, error=0.08, saddlepoint=np.nan, cells=100, names=None):
    """Tests with true p values, counts of B resamples, and a source of what is reported."""
    p, count = np.asarray(p, float), np.asarray(count)
    counted = (count + 1) / (B + 1)
    source = np.broadcast_to(np.asarray(source, object), p.shape)
    reported = np.where((source == "empirical") & np.isnan(p), counted, p)
    with np.errstate(divide="ignore"):
        height = -np.log10(reported)
    return pd.DataFrame(
        {
            "screen": "demo",
            "analysis": "crt",
            "target": names or [f"T{i}" for i in range(p.size)],
            "feature": "P1",
            "effect": 0.0,
            "effect_scale": "CLR",
            "n_target": cells,
            "p_value": reported,
            "neg_log10_p": height,
            "fdr": 1.0,
            "p_source": source,
            "p_empirical": counted,
            "p_relative_error": error,
            "n_resamples": 2 * B,
            "p_saddlepoint": saddlepoint,
        }
    )


def screen(n=20_000, below=0.01, seed=0, cells=100):
    """A screen without effects, refined by importance resampling."""
    rng = np.random.default_rng(seed)
    p = rng.random(n)
    count = rng.binomial(B, p)
    refined = (count + 1) / (B + 1) <= below
    drawn = p * np.exp(0.08 * rng.normal(size=n))
    near = np.where(refined, p * np.exp(0.04 * rng.normal(size=n)), np.nan)
    source = np.where(refined, "importance", "empirical").astype(object)
    return table(np.where(refined, drawn, np.nan), count, source, 0.08, near, cells)


def test_a_screen_that_is_right_is_said_to_be():
    effects = screen()
    found = agreement(effects, FLOOR)
    n = int((effects["p_source"] == "importance").sum())
    assert found.refined == {"importance": n} and found.n_tests == 20_000
    assert found.error_median == found.error_largest == 0.08
    assert found.n_saddlepoint == n and found.share_near == 1.0
    # The interval at a given count holds, although tests were chosen by that count.
    assert found.n_counted == np.count_nonzero(
        (effects["p_empirical"] <= 0.01) & (effects["p_empirical"] * (B + 1) >= 5.99)
    )
    assert 0.9 < found.share_within <= 1.0
    assert found.n_doubtful == 0 and found.doubts == {}
    assert verdict(found) == (
        f"{n} of 20,000 tests refined by importance resampling; relative error 8 % (median; at "
        "most 8 %); saddlepoint within a factor 2 of them in 100 %; within the noise of the first "
        f"1,023 resamples in {np.floor(1000 * found.share_within) / 10:g} % of {found.n_counted} "
        "tests (95 % expected); none in doubt"
    )


def test_the_share_within_noise_is_as_promised_where_all_are_refined():
    found = agreement(screen(200_000, below=1.0), FLOOR)
    assert found.refined == {"importance": 200_000}
    assert found.n_counted > 8000
    assert found.share_within == pytest.approx(0.955, abs=0.01)
    assert verdict(found).startswith("all 200,000 tests refined by importance resampling;")
    # Reported p values of another null are found out.
    wrong = screen(200_000, below=1.0)
    wrong["p_value"] /= 2
    assert agreement(wrong, FLOOR).share_within < 0.75


def test_a_share_of_a_few_tests_is_not_told():
    found = agreement(table([0.01] * 19, [9] * 19, "importance"), FLOOR)
    assert found.n_counted == 19 and "noise" not in verdict(found)
    found = agreement(table([0.01] * 20, [9] * 20, "importance"), FLOOR)
    assert "within the noise of the first 1,023 resamples in 100 % of 20 tests" in verdict(found)


def test_the_worst_saddlepoint_is_named():
    effects = table([1e-6, 1e-6, 1e-6], [0, 0, 0], "importance", 0.3, [9e-7, 2.9e-6, 1e-6])
    found = agreement(effects, FLOOR)
    assert found.worst == "T1 / P1" and found.worst_factor == pytest.approx(2.9)
    assert found.share_near == pytest.approx(2 / 3)
    assert "in 66.6 % (at worst 2.9: T1 / P1)" in verdict(found)


def test_a_p_value_below_all_floats_is_compared_by_what_is_known():
    effects = table([0.0, 1e-250], [0, 0], "importance", 0.1, [0.0, 0.0])
    effects["neg_log10_p"] = [400.0, 250.0]
    found = agreement(effects, FLOOR)
    assert found.share_near == 0.5
    assert found.worst == "T1 / P1"
    assert found.doubts == {"with sources more than a factor 5 apart": 1}
    assert "at worst 1e+50" in verdict(found)


def test_each_doubt_is_counted_and_a_test_once():
    p = [1e-6, 1e-6, 1e-6, 0.004, 1e-6, 1e-6]
    error = [0.6, 0.05, 0.7, 0.05, 0.05, 0.9]
    # Uncertain; saddlepoint apart; apart within its error; count apart; no saddlepoint; none, and
    # uncertain.
    near = [1e-6, 1e-7, 9e-6, 0.004, np.nan, np.nan]
    effects = table(p, [0, 0, 0, 60, 0, 0], "importance", error, near)
    found = agreement(effects, FLOOR)
    assert found.doubts == {
        "with a relative error above 50 %": 3,
        "with sources more than a factor 5 apart": 2,
    }
    assert found.n_doubtful == 5 and found.n_without == 2
    assert "of 4 (at worst 10: T1 / P1); 2 without a saddlepoint, as too few" in verdict(found)
    assert verdict(found).endswith(
        "; 5 tests in doubt: 3 with a relative error above 50 %, 2 with sources more than a "
        "factor 5 apart"
    )
    one = agreement(effects.iloc[:1], FLOOR)
    assert verdict(one).endswith("; 1 test in doubt: with a relative error above 50 %")


@pytest.mark.parametrize(("p", "count", "far"), [(1e-5, 1, 0), (1e-5, 3, 1), (0.03, 0, 1)])
def test_a_count_is_far_by_its_own_law_and_not_the_normal_one(p, count, far):
    effects = table([p], [count], "importance", 0.01, [p])
    assert agreement(effects, FLOOR).n_doubtful == far
    chance = stats.binom.sf(count - 1, B, p) if count else stats.binom.cdf(count, B, p)
    assert (chance < stats.norm.sf(4)) == bool(far)


def test_a_stage_of_saddlepoints_says_how_many_were_drawn_for():
    p, near = [1e-5, np.nan, np.nan], [1e-5, np.nan, np.nan]
    effects = table(p, [0, 0, 500], ["saddlepoint", "empirical", "empirical"], 0.02, near)
    found = agreement(effects, FLOOR)
    assert found.refined == {"saddlepoint": 1}
    # Nothing to compare the saddlepoint with but the count.
    assert found.n_saddlepoint == found.n_without == found.n_doubtful == 0
    text = verdict(found)
    assert text.startswith("1 of 3 tests refined by a saddlepoint; estimated relative error 2 %")
    p[1] = 3e-4
    drawn = table(p, [0, 0, 500], ["saddlepoint", "importance", "empirical"], 0.02, near)
    text = verdict(agreement(drawn, FLOOR))
    assert text.startswith(
        "2 of 3 tests refined: 1 by importance resampling, 1 by a saddlepoint; relative error 2 %"
    )
    assert "1 without a saddlepoint, as too few cells carry them" in text


def test_fresh_resamples_are_told_by_their_p_and_are_coarse_at_their_end():
    p = [1 / 102_301, 41 / 102_301, np.nan]
    effects = table(p, [0, 1, 300], "empirical", [1.0, 0.16, 0.05])
    found = agreement(effects, FLOOR)
    assert found.refined == {"resamples": 2} and found.n_near_floor == 1
    assert found.n_doubtful == 0
    text = verdict(found)
    assert text.startswith("2 of 3 tests refined by fresh resamples; relative error 58 % (median")
    assert "1 near the smallest p that their resamples can tell: an upper bound" in text


def test_several_methods_are_listed():
    effects = table(
        [1e-5, 1e-4, 0.003], [0, 0, 2], ["importance", "saddlepoint", "empirical"], 0.1, 1e-5
    )
    text = verdict(agreement(effects, FLOOR))
    assert text.startswith("all 3 tests refined: 1 by importance resampling, 1 by a saddlepoint, ")
    assert ", 1 by fresh resamples; relative error 10 %" in text


def test_nothing_refined_is_said_plainly():
    effects = table([np.nan, np.nan], [0, 500], "empirical", 1.0)
    assert verdict(agreement(effects, FLOOR)) == (
        "no test was refined: all 2 p values are counted in 1,023 resamples, none below 0.00098"
    )
    assert verdict(agreement(effects, None)) == "no p value of 2 was refined"


def test_without_saddlepoints_the_draws_stand_alone():
    effects = screen().assign(p_saddlepoint=np.nan)
    found = agreement(effects, FLOOR)
    assert found.n_saddlepoint == found.n_doubtful == 0
    assert found.n_without == found.refined["importance"]
    text = verdict(found)
    assert f"; {found.n_without} without a saddlepoint, as too few cells carry them;" in text
    assert "factor 2" not in text
    # A table from before there were such columns.
    columns = ["p_saddlepoint", "p_relative_error", "n_resamples"]
    found = agreement(effects.drop(columns=columns), FLOOR)
    assert np.isnan(found.error_median) and found.n_without == 0
    assert "relative error" not in verdict(found) and "saddlepoint" not in verdict(found)


def test_a_fitted_tail_is_compared_with_its_counts():
    rng = np.random.default_rng(1)
    p = rng.random(50_000)
    effects = table(p, rng.binomial(B, p), "skew_normal", np.nan)
    found = agreement(effects, FLOOR)
    assert found.refined == {} and found.n_fitted == 50_000
    assert found.share_within == pytest.approx(0.96, abs=0.015)
    text = verdict(found)
    assert text.startswith("all 50,000 p values of a fitted skew-normal; within the noise of the")
    assert text.endswith("none in doubt")
    # A tail that is too light.
    light = table(p**1.5, rng.binomial(B, p), "skew_normal", np.nan)
    assert agreement(light, FLOOR).share_within < 0.5
    assert agreement(light, FLOOR).n_doubtful > 100


@pytest.mark.parametrize(
    "effects", [screen(50).assign(p_value=np.nan), screen(50).iloc[:0], pd.DataFrame()]
)
def test_without_any_p_value_there_is_nothing_to_compare(effects):
    found = agreement(effects, FLOOR)
    assert found.n_tests == found.n_doubtful == 0 and found.refined == {}
    assert verdict(found) == "no test has a p value"
    figure = figure_of(effects, FLOOR)
    assert len(figure.axes) == 2
    assert texts(figure.axes[1]) == ["no test has a p value"]


def test_names_and_sources_may_be_categories():
    effects = screen()
    columns = ["target", "feature", "p_source"]
    assert agreement(effects.astype(dict.fromkeys(columns, "category")), FLOOR) == agreement(
        effects, FLOOR
    )


# The figure


def artists(axes, gid):
    return axes.findobj(lambda artist: artist.get_gid() == gid)


def artist(axes, gid):
    (found,) = artists(axes, gid)
    return found


def texts(axes):
    return [text.get_text() for text in axes.texts]


MIXED = table(
    [1e-6, 2e-4, 1e-3, 0.004, np.nan],
    [0, 0, 2, 4, 300],
    [*["importance"] * 4, "empirical"],
    0.1,
    [1e-6, 1e-4, 1.1e-3, 0.004, np.nan],
    [200, 51, 50, 11, 80],
)


def test_refined_tests_are_drawn_in_the_colours_of_their_treated_cells():
    left, right = figure_of(MIXED, FLOOR).axes
    for gid, rows in (("above-50", [0, 1]), ("12-to-50", [2]), ("below-12", [3])):
        tests = MIXED.iloc[rows]
        x, y = artist(left, gid).get_data()
        np.testing.assert_allclose(x, -np.log10(tests["p_saddlepoint"]))
        np.testing.assert_allclose(y, tests["p_value"] / tests["p_saddlepoint"])
    colours = {artist(left, gid).get_color() for gid in ("above-50", "12-to-50", "below-12")}
    assert len(colours) == 3
    bars = artist(left, "error").get_segments()
    assert len(bars) == 4
    np.testing.assert_allclose(bars[0][:, 1], np.exp([-0.196, 0.196]))
    assert left.get_title(loc="left") == "4 tests refined by drawing"
    assert artists(left, "factor-2") and artists(left, "identity")
    # One in a million is above the panel of the counts.
    x, y = artist(right, "above-50").get_data()
    np.testing.assert_allclose(y, -np.log10([2e-4]))
    x, y = artist(right, "above-50-beyond").get_data()
    np.testing.assert_allclose(x, np.log10(B + 1))
    assert right.get_title(loc="left") == "4 tests with two p values: 1 above 5, largest 6"
    assert artist(right, "floor").get_xdata()[0] == pytest.approx(np.log10(B + 1))


def test_the_noise_of_a_count_is_that_of_clopper_and_pearson():
    wide = table([0.5, 0.001], [500, 4], "importance")
    _, right = figure_of(wide, FLOOR).axes
    (path,) = artist(right, "noise").get_paths()
    x, y = path.vertices[5:-5].T
    at = x[np.argmin(np.abs(x + np.log10(5 * FLOOR)))]
    count = 10.0**-at / FLOOR - 1
    assert count == pytest.approx(4, abs=0.1)
    limits = stats.beta.ppf([0.025, 0.975], [count, count + 1], [B - count + 1, B - count])
    np.testing.assert_allclose(np.sort(10.0 ** -y[x == at]), limits)
    # At the floor no count was made: any smaller p agrees.
    assert y[x == x.max()].max() == right.get_ylim()[1]


def test_a_saddlepoint_far_away_is_at_the_edge():
    effects = MIXED.assign(p_saddlepoint=[1e-3, 2e-4, 1e-3, 0.004, np.nan])
    left, _ = figure_of(effects, FLOOR).axes
    x, y = artist(left, "above-50-beyond").get_data()
    np.testing.assert_allclose((x[0], y[0]), (3.0, 0.01))
    assert left.get_title(loc="left") == "4 tests refined by drawing: 1 beyond a factor 100"


def test_what_cannot_be_compared_is_said():
    counted = table([np.nan, np.nan], [0, 500], "empirical")
    left, right = figure_of(counted, FLOOR).axes
    assert texts(left) == ["no test drawn anew\nhas a saddlepoint's p value"]
    assert texts(right) == ["every p value is the one\ncounted in the resamples of all tests"]
    by_saddlepoint = table([1e-4, 0.3], [0, 300], "saddlepoint", 0.01, [1e-4, 0.3])
    left, right = figure_of(by_saddlepoint, FLOOR).axes
    assert texts(left) == ["p values are those of the saddlepoint:\nnothing to compare them with"]
    assert artists(right, "above-50")
    fitted = table([1e-4, 0.3], [0, 300], "skew_normal", np.nan)
    left, right = figure_of(fitted, FLOOR).axes
    assert texts(left) == ["no test drawn anew\nhas a saddlepoint's p value"]
    np.testing.assert_allclose(artist(right, "above-50").get_ydata(), -np.log10([1e-4, 0.3]))


def test_many_tests_are_an_image_without_bars_and_files_are_stable(tmp_path):
    effects = screen(30_000, below=1.0, cells=np.tile([5, 20, 500], 10_000))
    for name in "ab":
        save_figure(figure_of(effects, FLOOR), tmp_path / f"{name}.png", tmp_path / f"{name}.svg")
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()
    assert (tmp_path / "a.png").stat().st_size > 10_000
    left, right = figure_of(effects, FLOOR).axes
    assert not artists(left, "error")
    assert artist(left, "below-12").get_rasterized()
    assert artist(right, "below-12").get_rasterized()
