"""Refining small p values: who goes on, how work is dealt, what is refused and reported."""

import itertools
import shutil

import numpy as np
import pandas as pd
import pytest

from condrand.config import normalize_settings, p_floors, refine_stages
from condrand.engines import crt_refine_steps as steps
from condrand.engines.crt import null_blocks
from condrand.engines.crt_refine import (
    Comparisons,
    Draws,
    Tests,
    costs,
    first_p_values,
    refine,
    refined_p_values,
    take,
)
from condrand.engines.crt_steps import merge_batch, prepare_batch, read_batch, resample_shard
from condrand.io.outcome import read_outcome
from condrand.io.shards import ShardError, read_arrays
from condrand.normalize import normalize
from condrand.nulls.p_values import PValues
from condrand.nulls.summary import NullSummary
from condrand.plan import BLOCK, even_run
from condrand.samplers.streams import stream_key

SEED, B = 3, 199
IMPORTANCE = {"below": 1.0, "method": "importance", "resamples": 99}
SADDLEPOINT = {"below": 1.0, "method": "saddlepoint", "resamples": 255}
PLAIN = {"below": 1.0, "method": "resamples", "resamples": 2 * BLOCK + 5}


# Dealing


@pytest.mark.parametrize("n_shards", [1, 2, 3, 7, 40])
@pytest.mark.parametrize("n_items", [0, 1, 5, 100])
def test_every_item_is_in_one_shard_in_order(n_items, n_shards):
    weights = np.random.default_rng(n_items).integers(1, 1000, n_items).tolist()
    runs = [even_run(weights, n_shards, shard) for shard in range(n_shards)]
    covered = list(itertools.chain.from_iterable(range(*run) for run in runs))
    assert covered == list(range(n_items))


def test_shards_cost_about_the_same():
    weights = np.random.default_rng(0).integers(1, 1000, 5000).tolist()
    loads = [sum(weights[slice(*even_run(weights, 16, shard))]) for shard in range(16)]
    assert max(loads) - min(loads) < 2 * max(weights)
    # One heavy item takes the shards of its share; none of the others is lost.
    heavy = [even_run([1, 1000, 1, 1], 4, shard) for shard in range(4)]
    assert heavy == [(0, 2), (2, 2), (2, 2), (2, 4)]


@pytest.mark.parametrize("shard", [-1, 3])
def test_a_shard_that_does_not_exist_is_refused(shard):
    with pytest.raises(ValueError, match=f"shard {shard} is not one of 3"):
        even_run([1, 2], 3, shard)


# Stages and floors


def analysis(**changes):
    given = {"null_method": "crt", "calibration": "adaptive", "refine": "auto", "resamples": 1023}
    return {**given, "sampler": "bernoulli_index", "statistic": "ols_t", **changes}


def test_the_stages_follow_from_the_calibration():
    first = {"below": 0.01, "method": "importance", "resamples": 255}
    for statistic in ("ols", "ols_t", "rank"):
        assert refine_stages(analysis(statistic=statistic)) == [first]
    plain = {"below": 0.005, "method": "resamples", "resamples": 102_300}
    for changes in ({"statistic": "welch"}, {"sampler": "stratified_perm"}):
        assert refine_stages(analysis(**changes)) == [plain]
    for changes in (
        {"calibration": "empirical"},
        {"calibration": "skew_normal"},
        {"null_method": "ntc_empirical"},
    ):
        assert refine_stages(analysis(**changes)) == []
    assert refine_stages(analysis(calibration="saddlepoint")) == [SADDLEPOINT]
    found = refine_stages(analysis(calibration="importance", resamples=511))
    assert found == [{"below": 1.0, "method": "importance", "resamples": 511}]
    two = [{"below": 1, "method": "saddlepoint"}, {"below": 1e-3, "method": "resamples"}]
    assert refine_stages(analysis(refine=two)) == [
        SADDLEPOINT,
        {"below": 0.001, "method": "resamples", "resamples": 102_300},
    ]


def test_the_smallest_p_values_are_those_of_the_last_stage():
    assert p_floors(analysis()) == (1 / 1024, None)
    assert p_floors(analysis(statistic="welch")) == (1 / 1024, 1 / 102_301)
    assert p_floors(analysis(calibration="empirical")) == (1 / 1024, 1 / 1024)
    assert p_floors({"null_method": "ntc_empirical"}) == (None, None)


# Who goes on, and what is reported


def test_tests_at_or_below_the_threshold_go_on():
    p = np.array([[0.01, 0.02, np.nan], [0.5, 0.0, 0.010000001]])
    tests = Tests.at_most(0.01, p)
    assert list(zip(tests.unit, tests.feature, strict=True)) == [(0, 0), (1, 1)]
    assert Tests.at_most(1.0, p).size == 5
    assert Tests.at_most(0.01, p).digest == tests.digest != Tests.at_most(0.02, p).digest


def test_a_test_that_goes_on_reports_the_stage_alone_and_the_others_what_they_had():
    found = PValues.none((2, 2))
    found.set_empirical(([0, 0, 1, 1], [0, 1, 0, 1]), np.array([0.005, 0.3, 0.01, 0.2]), 199)
    tests = Tests.at_most(0.01, found.p_value)
    arrays = {
        "log_p": np.array([-100.0, np.log(0.04)]),
        "relative_error": np.array([0.1, 0.05]),
        "n_resamples": np.array([198.0, 198.0]),
        "log_p_saddlepoint": np.array([-101.0, np.nan]),
    }
    take(found, tests, IMPORTANCE, arrays)
    # Larger than before too: the first p value is not looked at again.
    np.testing.assert_allclose(found.p_value, [[np.exp(-100), 0.3], [0.04, 0.2]])
    np.testing.assert_allclose(found.neg_log10_p[0], [100 / np.log(10), -np.log10(0.3)])
    assert found.p_source.tolist() == [["importance", "empirical"], ["importance", "empirical"]]
    np.testing.assert_array_equal(found.n_resamples, [[198, 199], [198, 199]])
    np.testing.assert_allclose(found.p_relative_error[:, 0], [0.1, 0.05])
    np.testing.assert_allclose(found.p_relative_error[0, 1], np.sqrt(0.7 / 0.3 / 199))
    np.testing.assert_allclose(found.p_saddlepoint[0], [np.exp(-101), np.nan])


def test_a_saddlepoint_that_may_not_speak_leaves_the_word_to_draws():
    found = PValues.none((1, 2))
    found.set_empirical(([0, 0], [0, 1]), np.array([0.005, 0.01]), 199)
    arrays = {"log_p": np.array([-8.0, -9.0]), "relative_error": np.array([0.1, 0.01])}
    arrays |= {"n_resamples": np.array([510, 0]), "log_p_saddlepoint": np.array([np.nan, -9.0])}
    take(found, Tests.at_most(0.01, found.p_value), SADDLEPOINT, arrays)
    assert found.p_source.tolist() == [["importance", "saddlepoint"]]
    np.testing.assert_allclose(found.p_value, np.exp([[-8, -9]]))
    np.testing.assert_array_equal(found.n_resamples, [[510, 0]])
    np.testing.assert_allclose(found.p_saddlepoint, [[np.nan, np.exp(-9)]])


def test_a_stage_of_saddlepoints_draws_as_importance_does_for_the_others(made):
    folder, _ = made()
    loaded_files = loaded(folder)
    by_formula, by_draws = (
        refined_p_values(*loaded_files, [{**SADDLEPOINT, "method": method}], Draws(SEED, "left"))
        for method in ("saddlepoint", "importance")
    )
    drawn = by_formula.p_source == "importance"
    assert drawn.any() and not drawn.all()
    for name in ("p_value", "p_relative_error", "n_resamples"):
        np.testing.assert_array_equal(
            getattr(by_formula, name)[drawn], getattr(by_draws, name)[drawn]
        )
    spoken = by_formula.p_source == "saddlepoint"
    np.testing.assert_array_equal(np.isfinite(by_formula.p_saddlepoint), spoken)
    np.testing.assert_array_equal(by_formula.p_saddlepoint[spoken], by_formula.p_value[spoken])
    np.testing.assert_array_equal(by_formula.p_saddlepoint, by_draws.p_saddlepoint)
    np.testing.assert_allclose(by_formula.p_value[spoken], by_draws.p_value[spoken], rtol=0.5)


def test_streams_of_a_unit_are_told_apart_by_stage_feature_and_tail():
    parts = [(), ("1",), ("2",), *itertools.product("12", ("f", "g"), ("upper", "lower"))]
    keys = {stream_key(1, "target", "A", part) for part in parts}
    assert len(keys) == len(parts)
    assert stream_key(1, "target", "A", ()) == stream_key(1, "target", "A")


# In memory


@pytest.fixture
def made(write_screen, load, complete, tmp_path):
    """A folder with a batch of 4 units x 3 programs, resampled and merged; and its settings."""

    def make(**changes):
        given = {"resamples": B, "controls": "guides", **changes}
        folder = load(write_screen(), **given)
        settings = complete(**given)["analyses"]["crt"]
        outcome, propensity = folder / "outcome.h5ad", folder / "propensity.h5"
        normalize(folder / "screen.h5ad", outcome, **normalize_settings(settings))
        tables = [folder / "targets.tsv"]
        wanted = ("all", settings["controls"], settings)
        prepare_batch(folder / "screen.h5ad", tables, outcome, propensity, 0, *wanted)
        shard = folder / "shard.h5"
        resample_shard(outcome, propensity, shard, (0, 1), B, SEED, 1, settings)
        null, counts = folder / "null.h5", folder / "n.tsv"
        merge_batch(outcome, propensity, [shard], null, counts, settings, SEED)
        return folder, {**settings, "stages": refine_stages(settings)}

    return make


def loaded(folder):
    outcome = read_outcome(folder / "outcome.h5ad")
    batch, _ = read_batch(folder / "propensity.h5")
    _, arrays = read_arrays(folder / "null.h5")
    return outcome, batch, NullSummary.unstacked(arrays)


def all_tests(batch):
    return Tests.at_most(1.0, np.where(batch.scale > 0, 0.5, np.nan))


@pytest.mark.parametrize(
    ("sampler", "statistic"),
    [("bernoulli_index", "welch"), ("stratified_perm", "ols_t"), ("bernoulli_index", "rank")],
)
def test_plain_resamples_of_some_features_are_counted_as_those_of_all(made, sampler, statistic):
    folder, settings = made(sampler=sampler, statistic=statistic, residualize=False)
    outcome, batch, _ = loaded(folder)
    tests = Tests(np.array([1, 1, 3]), np.array([0, 2, 1]))
    draws = Draws(SEED, "two_sided", sampler, settings["stratify"])
    found = refine(outcome, batch, tests, range(6), PLAIN, 2, draws)
    assert (found["n"] == PLAIN["resamples"]).all()
    for unit, feature, exceed in zip(tests.unit, tests.feature, found["exceed"], strict=True):
        how = (SEED, sampler, settings["stratify"], None, ("2",))
        blocks = null_blocks(
            Comparisons(outcome), batch, int(unit), range(3), PLAIN["resamples"], *how
        )
        null = np.concatenate([null[:, feature] for _, null in blocks])
        assert exceed == np.count_nonzero(np.abs(null) >= abs(batch.observed[unit, feature]))


@pytest.mark.parametrize("tail", ["two_sided", "two_sided_centred", "left", "right"])
def test_plain_resamples_of_the_first_stream_would_count_as_the_summary_does(made, tail):
    folder, settings = made()
    _, batch, summaries = loaded(folder)
    first = first_p_values(batch, summaries, tail)
    row = ["right", "left", "two_sided", "two_sided_centred"].index(tail)
    exceed = np.array([summary.exceed[row] for summary in summaries])
    np.testing.assert_array_equal(first.p_value, (1 + exceed) / (B + 1))


def test_every_stage_draws_afresh(made):
    folder, settings = made()
    outcome, batch, summaries = loaded(folder)
    tests = all_tests(batch)
    assert tests.size == 12
    draws = Draws(SEED, "two_sided")
    counted = []
    stage = {"method": "resamples", "resamples": B}
    for number in (1, 2):
        counted.append(
            refine(outcome, batch, tests, range(4), stage, number, draws)["exceed"].reshape(4, 3)
        )
    first = np.array([summary.exceed[2] for summary in summaries])
    for one, other in itertools.combinations([first, *counted], 2):
        assert (one != other).any(axis=1).all()
    drawn = [
        refine(outcome, batch, tests, range(12), IMPORTANCE, number, draws)["log_p"]
        for number in (1, 2)
    ]
    below_1 = drawn[0] < 0
    assert below_1.sum() > 8 and (drawn[0] != drawn[1])[below_1].all()


@pytest.mark.parametrize(
    "stages",
    [
        [IMPORTANCE],
        [SADDLEPOINT],
        [PLAIN],
        [{**PLAIN, "below": 0.6}, {**IMPORTANCE, "below": 0.3}],
        [{**IMPORTANCE, "below": 0.6}, {**SADDLEPOINT, "below": 0.4}, {**PLAIN, "below": 0.3}],
    ],
    ids=lambda stages: " ".join(stage["method"] for stage in stages),
)
def test_shards_and_threads_of_any_number_write_the_same_effects(made, stages):
    folder, settings = made()
    outcome, batch, summaries = loaded(folder)
    whole = refined_p_values(outcome, batch, summaries, stages, Draws(SEED, "two_sided"))
    tables = []
    for n_shards, threads in ((1, 1), (2, 2), (7, 1)):
        paths = run_stages(folder, settings, stages, n_shards, threads)
        table = folder / f"{n_shards}.parquet"
        steps.write_effects(
            *files(folder), paths, table, ("s", "a"), with_stages(settings, stages), SEED
        )
        tables.append(table.read_bytes())
        rows = pd.read_parquet(table)
        np.testing.assert_array_equal(rows["p_value"], whole.p_value.ravel())
        np.testing.assert_array_equal(rows["p_source"], whole.p_source.ravel())
    assert tables[0] == tables[1] == tables[2]
    sources = {"resamples": "empirical"}
    expected = {sources.get(stage["method"], stage["method"]) for stage in stages}
    # With 60 cells few saddlepoints may speak, of the smaller p values perhaps none.
    expected -= {"saddlepoint"} if len(stages) > 1 else set()
    assert expected <= set(whole.p_source.ravel())


def with_stages(settings, stages):
    return {**settings, "stages": stages}


def files(folder):
    return folder / "outcome.h5ad", folder / "propensity.h5", folder / "null.h5"


def run_stages(folder, settings, stages, n_shards=2, threads=1):
    """Run all shards of all stages; give their paths."""
    paths = []
    for number in range(1, 1 + len(stages)):
        before, given = list(paths), with_stages(settings, stages[:number])
        for shard in range(n_shards):
            paths.append(folder / f"{n_shards}" / f"stage-{number}" / f"{shard}.h5")
            steps.refine_shard(
                *files(folder), before, paths[-1], (shard, n_shards), given, SEED, threads
            )
    return paths


def test_the_table_says_where_each_p_value_is_from(made):
    folder, settings = made()
    stages = [{**IMPORTANCE, "below": 0.5}]
    paths = run_stages(folder, settings, stages)
    table = folder / "effects.parquet"
    given = with_stages(settings, stages)
    steps.write_effects(*files(folder), paths, table, ("s", "a"), given, SEED)
    rows = pd.read_parquet(table)
    refined = rows["p_empirical"] <= 0.5
    assert refined.any() and not refined.all()
    assert (rows["p_source"] == np.where(refined, "importance", "empirical")).all()
    assert (rows.loc[~refined, "p_value"] == rows.loc[~refined, "p_empirical"]).all()
    assert (rows["n_resamples"] == np.where(refined, 2 * 99, B)).all()
    assert rows.loc[~refined, "p_saddlepoint"].isna().all()
    # With 60 cells a saddlepoint may speak for none.
    known = rows[rows["p_saddlepoint"].notna()]
    np.testing.assert_allclose(known["p_saddlepoint"], known["p_value"], rtol=0.5)
    assert (rows["p_relative_error"] > 0).all()
    assert rows["p_skew_normal"].isna().all()


def test_a_shard_without_work_is_small_and_does_not_read_the_outcome(made, monkeypatch):
    folder, settings = made()
    monkeypatch.setattr(steps, "read_outcome", lambda path: pytest.fail("it was read"))
    stages = [{**IMPORTANCE, "below": 1e-9}]
    paths = run_stages(folder, settings, stages)
    assert all(path.stat().st_size < 10_000 for path in paths)
    table = folder / "effects.parquet"
    given = with_stages(settings, stages)
    steps.write_effects(*files(folder), paths, table, ("s", "a"), given, SEED)
    rows = pd.read_parquet(table)
    assert (rows["p_source"] == "empirical").all()


# What is refused


@pytest.fixture
def staged(made):
    """A batch whose stage of importance is made in two shards."""
    folder, settings = made()
    return folder, settings, run_stages(folder, settings, [IMPORTANCE])


def refused(folder, settings, paths, stages=(IMPORTANCE,), seed=SEED):
    given = with_stages(settings, list(stages))
    table = folder / "effects.parquet"
    with pytest.raises(ShardError) as caught:
        steps.write_effects(*files(folder), paths, table, ("s", "a"), given, seed)
    assert not table.exists()
    return str(caught.value)


def test_a_truncated_shard_is_refused_by_name(staged):
    folder, settings, paths = staged
    raw = paths[1].read_bytes()
    paths[1].write_bytes(raw[: len(raw) // 2])
    said = refused(folder, settings, paths)
    assert "truncated" in said and str(paths[1]) in said and "rm '" in said


def test_shards_that_overlap_or_are_missing_are_refused(staged):
    folder, settings, paths = staged
    assert "several shards hold item 0, " in refused(folder, settings, [paths[0], *paths])
    assert "no shard holds item 0, " in refused(folder, settings, paths[1:])


@pytest.mark.parametrize(
    ("stage", "what"),
    [
        ({**IMPORTANCE, "resamples": 100}, "stages"),
        ({**IMPORTANCE, "below": 0.5}, "stages and tests"),
    ],
    ids=["resamples", "below"],
)
def test_shards_of_another_stage_are_refused(staged, stage, what):
    folder, settings, paths = staged
    said = refused(folder, settings, paths, [stage])
    assert f"{paths[0]}: made for another {what}" in said


def test_shards_of_another_tail_seed_or_null_are_refused(staged):
    folder, settings, paths = staged
    said = refused(folder, {**settings, "tail": "left"}, paths)
    assert "made for another tail" in said
    assert "null.h5: made for another seed" in refused(folder, settings, paths, seed=SEED + 1)
    # As many resamples of another seed: everything else is the same.
    shutil.copy(folder / "null.h5", folder / "old.h5")
    outcome, propensity, null = files(folder)
    shard = folder / "other.h5"
    resample_shard(outcome, propensity, shard, (0, 1), B, SEED + 1, 1, settings)
    merge_batch(outcome, propensity, [shard], null, folder / "n.tsv", settings, SEED + 1)
    assert "made for another null" in refused(folder, settings, paths, seed=SEED + 1)


def test_a_statistic_without_a_linear_form_is_refused(made):
    folder, settings = made(statistic="welch", residualize=False)
    outcome, batch, _ = loaded(folder)
    tests = all_tests(batch)
    with pytest.raises(ValueError, match="a statistic with a linear form"):
        refine(outcome, batch, tests, range(1), IMPORTANCE, 1, Draws(SEED, "left"))


def test_costs_grow_with_treated_cells_and_draws(made):
    folder, _ = made()
    _, batch, _ = loaded(folder)
    tests = all_tests(batch)
    few, many = (costs(batch, tests, {"method": "importance", "resamples": n}) for n in (99, 9900))
    assert few.size == many.size == tests.size and (few < many).all() and (few > 0).all()
    assert costs(batch, tests, SADDLEPOINT).max() < few.min()
    assert costs(batch, tests, PLAIN).size == 4 * 3
