"""The configuration: defaults, and every message about a bad one."""

import copy
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from condrand.config import (
    OF_CELLS,
    OF_SAMPLES,
    analyses_of,
    batch_key_of,
    check_files,
    complete_config,
    needs_of,
    normalize_settings,
    outcomes_of,
    refine_stages,
)
from condrand.errors import InputError
from condrand.samplers.strata import STRATIFY

ROOT = Path(__file__).parents[2]
SOURCE = "config/mine.yaml"
GOOD = """
screens:
  mine: {path: mine.h5ad}
analyses:
  crt: {engine: crt}
"""


@pytest.fixture
def refusal(schema):
    """Complete a bad configuration, given as YAML; give the message."""

    def run(text: str) -> str:
        with pytest.raises(InputError) as error:
            complete_config(yaml.safe_load(text) or {}, schema, SOURCE)
        message = str(error.value)
        assert message.startswith(f"{SOURCE}: ")
        assert "\n      -> " in message
        return message

    return run


def says(message: str, *words: str) -> None:
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"


def with_analysis(keys: str) -> str:
    return GOOD.replace("{engine: crt}", "{engine: crt, " + keys + "}")


def with_screen(keys: str) -> str:
    return GOOD.replace("{path: mine.h5ad}", "{path: mine.h5ad, " + keys + "}")


def all_sections(schema: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every object of the schema with its own keys, and where it is."""
    waiting = [("", schema)]
    while waiting:
        where, section = waiting.pop()
        if isinstance(section, dict):
            if isinstance(section.get("properties"), dict):
                yield where or "(top level)", section
            waiting += [(f"{where}/{key}", item) for key, item in section.items()]
        elif isinstance(section, list):
            waiting += [(f"{where}/{i}", item) for i, item in enumerate(section)]


# Good configurations


def test_configuration_of_required_keys_alone_is_completed(schema):
    complete = complete_config(yaml.safe_load(GOOD), schema, SOURCE)
    assert complete["seed"] == 123
    assert complete["scatter"] == {"batches": 1, "shards": 1, "threads": 1}
    assert complete["screens"]["mine"]["covariates"]["key"] == "covar"
    assert complete["analyses"]["crt"]["propensity"]["clip"] == 1e-6
    assert complete["analyses"]["crt"]["targets"] == "all"


def test_completing_changes_nothing_that_was_given(schema):
    config = yaml.safe_load(with_analysis("resamples: 10230, tail: left"))
    before = copy.deepcopy(config)
    complete = complete_config(config, schema, SOURCE)
    assert config == before
    assert complete["analyses"]["crt"]["resamples"] == 10230
    assert complete["analyses"]["crt"]["tail"] == "left"


def test_completing_twice_is_completing_once(schema):
    once = complete_config(yaml.safe_load(GOOD), schema, SOURCE)
    assert complete_config(once, schema, SOURCE) == once


def test_section_whose_keys_are_all_commented_out_has_its_defaults(schema):
    config = yaml.safe_load("screens: {a: {simulate: }}\nanalyses: {crt: {engine: crt}}\nscatter:")
    complete = complete_config(config, schema, SOURCE)
    assert complete["scatter"]["batches"] == 1
    assert complete["screens"]["a"]["simulate"]["n_cells"] == 5000


def test_whole_number_written_with_a_point_is_a_whole_number(schema):
    config = yaml.safe_load(with_analysis("resamples: 1.0e+4"))
    resamples = complete_config(config, schema, SOURCE)["analyses"]["crt"]["resamples"]
    assert resamples == 10000
    assert isinstance(resamples, int)


def test_variables_and_the_home_folder_in_paths_are_replaced(schema, monkeypatch, tmp_path):
    monkeypatch.setenv("CONDRAND_DATA", str(tmp_path))
    monkeypatch.setenv("HOME", "/home/me")
    for given, meant in (("${CONDRAND_DATA}/x", f"{tmp_path}/x"), ("~/x", "/home/me/x")):
        config = yaml.safe_load(GOOD.replace("mine.h5ad", f"'{given}'"))
        assert complete_config(config, schema, SOURCE)["screens"]["mine"]["path"] == meant


def test_formula_turns_the_category_rule_off(schema):
    config = yaml.safe_load(with_screen("covariates: {formula: ~ log(n)}"))
    covariates = complete_config(config, schema, SOURCE)["screens"]["mine"]["covariates"]
    assert covariates["numeric_as_category_threshold"] is None
    assert "key" not in covariates


def test_every_analysis_is_computed_for_every_screen_it_does_not_leave_out(schema):
    text = """
screens: {a: {path: a}, b: {path: b}}
analyses: {one: {engine: crt}, two: {engine: crt, screens: [b], outcome: {key: X}}}
"""
    complete = complete_config(yaml.safe_load(text), schema, SOURCE)
    assert analyses_of(complete) == [("a", "one"), ("b", "one"), ("b", "two")]
    assert [outcome["key"] for outcome in outcomes_of(complete, "a")] == ["cnmf_usage"]
    assert sorted(outcome["key"] for outcome in outcomes_of(complete, "b")) == ["X", "cnmf_usage"]


@pytest.mark.parametrize(
    "path",
    [ROOT / "config" / "config.yaml", *sorted((ROOT / "config" / "examples").glob("*.yaml"))],
    ids=lambda path: path.name,
)
def test_configurations_of_the_repository_are_good(schema, path, monkeypatch):
    monkeypatch.setenv("CONDRAND_DATA", "/data")
    assert analyses_of(complete_config(yaml.safe_load(path.read_text()), schema, str(path)))


# The schema itself


def test_every_key_of_the_schema_has_a_description(schema):
    nameless = [
        f"{where}: {key}"
        for where, section in all_sections(schema)
        for key, item in section["properties"].items()
        if len(_resolved(item, schema).get("description", "")) < 5
    ]
    assert nameless == []


def test_every_section_of_the_schema_is_closed(schema):
    # `analysis` only tells the engines apart; the engine's own section is closed.
    is_open = [
        where
        for where, section in all_sections(schema)
        if section.get("additionalProperties") is not False and where != "/$defs/analysis"
    ]
    assert is_open == []


def test_every_default_of_the_schema_is_valid(schema):
    for simulate in ("path: x", "simulate: {}"):
        text = GOOD.replace("path: mine.h5ad", simulate)
        complete_config(yaml.safe_load(text), schema, SOURCE)


def test_every_engine_of_the_schema_has_a_section(schema):
    for engine in schema["$defs"]["analysis"]["properties"]["engine"]["enum"]:
        assert schema["$defs"][engine]["properties"]["engine"]["const"] == engine


def _resolved(item: dict[str, Any], schema: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in item:
        return item
    return {**schema["$defs"][item["$ref"].rsplit("/", 1)[1]], **item}


# Bad configurations


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", ["screens: is missing", "analyses: is missing"]),
        ("screens:\nanalyses:\n", ["screens: is empty", "analyses: is empty", "one entry"]),
        (GOOD + "sed: 5\n", ["sed: is no key", "did you mean 'seed'?"]),
        (GOOD + "scatter: {shard: 5}\n", ["scatter.shard: is no key", "'shards'?"]),
        (GOOD + "scatter: 5\n", ["scatter: is 5, which is a number", "`key: value` lines"]),
        (GOOD + "seed: '123'\n", ["seed: is '123', which is text", "whole number; write 123."]),
        (GOOD + "seed: many\n", ["seed: is 'many', which is text", "it must be a whole number."]),
        (GOOD + "seed: 1.5\n", ["seed: is 1.5, which is a number", "a whole number"]),
        (GOOD + "seed: true\n", ["seed: is True, which is true/false", "a whole number"]),
        (GOOD + "seed:\n", ["seed: is empty", "it must be a whole number"]),
        (GOOD + "seed: -1\n", ["seed: -1 is less than the minimum of 0", "Seed of every"]),
        (GOOD + "fdr: 1e-2\n", ["fdr: is '1e-2', which is text", "a number; write 0.01."]),
        (GOOD + "fdr: 1e-20\n", ["fdr: is '1e-20', which is text", "a number; write 1.0e-20."]),
        (GOOD + "fdr: .nan\n", ["fdr: is nan", "finite number"]),
        (GOOD + "fdr: 5\n", ["fdr: 5 is greater than or equal to the maximum of 1", "FDR"]),
    ],
)
def test_bad_top_level_is_named(refusal, text, words):
    says(refusal(text), *words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("screens: {1: {path: x}}", ["screens.1: 1 is a number", "in quotes: '1'"]),
        ("screens: {a b: {path: x}}", ["screens.a b: 'a b' cannot be a folder name", "letters"]),
        ("screens: {a/b: {path: x}}", ["'a/b' cannot be a folder name"]),
        ('screens: {"a\\n": {path: x}}', ["cannot be a folder name"]),
        ("screens: {a: mine.h5ad}", ["screens.a: is 'mine.h5ad', which is text", "`key: value`"]),
        ("screens: {a: }", ["screens.a: has neither path nor simulate", "exactly one"]),
        ("screens: {a: {path: x, simulate: }}", ["screens.a: has both path and simulate"]),
        ("screens: {a: {path: }}", ["screens.a.path: is empty", "it must be text"]),
        ("screens: {a: {path: 5}}", ["screens.a.path: is 5", "write it in quotes, '5'"]),
        ("screens: {a: {path: /}}", ["screens.a.path: '/' is a folder", "name the .h5ad file"]),
        (
            "screens: {a: {path: $NO_SUCH_VARIABLE/x}}",
            ["a.path: '$NO_SUCH_VARIABLE/x' names the unset variable NO_SUCH_VARIABLE", "set it"],
        ),
        (
            "screens: {a: {path: x, ntc_labels: NTC}}",
            ["screens.a.ntc_labels: is 'NTC', which is text", "a list", "write [NTC]"],
        ),
        (
            "screens: {a: {path: x, ntc_labels: [NTC, no]}}",
            ["screens.a.ntc_labels[1]: is False, which is true/false", "write it in quotes"],
        ),
        (
            "screens: {a: {path: x, guide_asignment: g}}",
            ["screens.a.guide_asignment: is no key", "did you mean 'guide_assignment'?"],
        ),
        (
            "screens: {a: {simulate: {n_cell: 5}}}",
            ["screens.a.simulate.n_cell: is no key", "did you mean 'n_cells'?"],
        ),
        (
            "screens: {a: {simulate: {effect_size: .inf}}}",
            ["screens.a.simulate.effect_size: is inf", "finite number"],
        ),
        ("screens: {2024-01-01: {path: x}}", ["datetime.date(2024, 1, 1) is a date", "quotes"]),
    ],
)
def test_bad_screen_is_named(refusal, text, words):
    says(refusal(f"{text}\nanalyses: {{crt: {{engine: crt}}}}\n"), *words)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("key: a, formula: b", ["mine.covariates: has key and formula", "one of key, columns"]),
        ("columns: n_umis", ["covariates.columns: is 'n_umis', which is text", "write [n_umis]"]),
        ("columns: [a, b, a]", ["covariates.columns: names twice: 'a'", "once"]),
        ("columns: [3]", ["covariates.columns[0]: is 3, which is a number", "text"]),
        (
            "columns: [a, {name: b, transform: lgo}]",
            ["covariates.columns[1].transform: is 'lgo'", "did you mean 'log'?"],
        ),
        (
            "columns: [{nam: b}]",
            ["covariates.columns[0]: has the unknown key 'nam'", "did you mean 'name'?"],
        ),
        ("rank_deficient: dorp", ["is 'dorp', which is no known choice", "did you mean 'drop'?"]),
        ("numeric_as_category_threshold: no", ["is False", "a whole number or null"]),
    ],
)
def test_bad_covariates_are_named(refusal, keys, words):
    says(refusal(with_screen(f"covariates: {{{keys}}}")), "screens.mine.covariates", *words)


def test_column_may_be_given_as_it_is_and_transformed(schema):
    text = with_screen("covariates: {columns: [a, {name: a, transform: log}]}")
    complete_config(yaml.safe_load(text), schema, SOURCE)


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("targets: ATF2", ["crt.targets: is 'ATF2', which is text", "a list", "write [ATF2]"]),
        ("targets: [ATF2, 5]", ["crt.targets[1]: is 5, which is a number", "in quotes, '5'"]),
        ("targets: []", ["crt.targets: [] should be non-empty", "The targets to test"]),
        ("targets: [A, B, A]", ["crt.targets: names twice: 'A'", "once"]),
        ("targets: [all]", ["crt.targets: holds 'all' in a list", "`targets: all`"]),
        ("outcome: {transform: crl}", ["outcome.transform: is 'crl'", "did you mean 'clr'?"]),
        ("calibration: skewnormal", ["crt.calibration: is 'skewnormal'", "'skew_normal'?"]),
        ("tail: Two_Sided", ["crt.tail: is 'Two_Sided'", "did you mean 'two_sided'?"]),
        ("controls: ", ["crt.controls: is empty", "choices there are: groups, guides, none"]),
        ("resamples: 5", ["crt.resamples: 5 is less than the minimum of 19", "B, the resamples"]),
        ("resamples: 1e4", ["crt.resamples: is '1e4', which is text", "write 10000."]),
        ("propensity: {clip: 0.5}", ["propensity.clip: 0.5 is greater", "maximum of 0.5"]),
        ("propensity: {clip: 1e-6}", ["propensity.clip: is '1e-6'", "write 1.0e-06."]),
        ("screens: [mien]", ["crt.screens: 'mien' is no screen", "did you mean 'mine'?"]),
        ("screens: mine", ["crt.screens: is 'mine', which is text", "write [mine]"]),
        ("write_h5ad: 1", ["crt.write_h5ad: is 1, which is a number", "true or false"]),
    ],
)
def test_bad_analysis_is_named(refusal, keys, words):
    says(refusal(with_analysis(keys)), "analyses.crt", *words)


@pytest.mark.parametrize(
    ("section", "words"),
    [
        ("", ["analyses.crt.engine: is missing", "name one of: crt"]),
        ("{engine: crtt}", ["analyses.crt.engine: is 'crtt'", "did you mean 'crt'?"]),
        ("{engine: screen}", ["analyses.crt.engine: is 'screen', which is no known choice"]),
        ("{engine: [crt]}", ["analyses.crt.engine: is ['crt'], which is no known choice"]),
        ("[engine, crt]", ["analyses.crt: is ['engine', 'crt'], which is a list"]),
    ],
)
def test_bad_engine_is_named_and_nothing_is_guessed(refusal, section, words):
    message = refusal(GOOD.replace("{engine: crt}", section))
    says(message, *words, "1 problem\n")


def test_all_problems_are_listed_together(refusal):
    message = refusal("""
sed: 1
fdr: 2
screens:
  a: {path: x, guide_names: 5}
  b c: {simulate: {n_cells: 1}}
analyses:
  crt: {engine: crt, tail: up, resamples: ten}
""")
    found = re.findall(r"^  \d+\. ([^:]+):", message, re.MULTILINE)
    assert sorted(found) == [
        "analyses.crt.resamples",
        "analyses.crt.tail",
        "fdr",
        "screens.a.guide_names",
        "screens.b c",
        "screens.b c.simulate.n_cells",
        "sed",
    ]
    says(message, "7 problems")


def test_contradictions_of_all_sections_are_listed_together(refusal):
    message = refusal("""
screens: {a: {}, b: {path: x, covariates: {key: a, formula: b}}}
analyses: {one: {engine: crt, screens: [c]}, two: {engine: crt, targets: [A, A]}}
""")
    says(message, "screens.a:", "screens.b.covariates:", "analyses.one.screens:", "4 problems")
    says(message, "analyses.two.targets:")


# What stages need of an analysis


EMPIRICAL = "null_method: ntc_empirical"
BY_STRATA = "sampler: stratified_perm"


@pytest.mark.parametrize(
    ("keys", "needed"),
    [
        ("", False),
        (BY_STRATA, True),
        (f"{BY_STRATA}, stratify: {{stratify_by_batch: false}}", False),
        ("stratify: {stratify_by_batch: true}", False),
        (EMPIRICAL, True),
        (f"{EMPIRICAL}, ntc_empirical: {{batch_mode: pooled}}", False),
        # The sampler has no part in that null.
        (f"{EMPIRICAL}, ntc_empirical: {{batch_mode: pooled}}, {BY_STRATA}", False),
    ],
)
def test_a_batch_column_is_needed_by_strata_and_by_batchwise_nulls_alone(schema, keys, needed):
    for batch_key in ("batch", "lane"):
        config = yaml.safe_load(with_analysis(f"batch_key: {batch_key}, {keys}"))
        analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
        found = batch_key if needed else None
        assert batch_key_of(analysis) == found
        assert normalize_settings(analysis)["batch_key"] == found


@pytest.mark.parametrize(
    ("keys", "control", "by_burden"),
    [
        ("", "auto", False),
        ("control: ntc", "ntc", False),
        (BY_STRATA, "auto", True),
        (f"{BY_STRATA}, stratify: {{stratify_by_burden: false}}", "auto", False),
        ("stratify: {stratify_by_burden: true}", "auto", False),
        (EMPIRICAL, "complement", False),
        (f"{EMPIRICAL}, {BY_STRATA}", "complement", False),
    ],
)
def test_normalize_gets_control_and_burden_as_the_null_needs_them(
    schema, keys, control, by_burden
):
    config = yaml.safe_load(with_analysis(keys) if keys else GOOD)
    analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
    settings = normalize_settings(analysis)
    assert settings["control"] == control
    assert settings["by_burden"] is by_burden
    assert settings["settings"] == analysis["outcome"]
    assert settings["statistic"] == "ols_t"


def test_sections_of_the_null_and_the_strata_have_their_defaults(schema):
    analysis = complete_config(yaml.safe_load(GOOD), schema, SOURCE)["analyses"]["crt"]
    assert (analysis["statistic"], analysis["tail"]) == ("ols_t", "two_sided")
    assert analysis["residualize"] is True
    assert (analysis["sampler"], analysis["null_method"]) == ("bernoulli_index", "crt")
    assert (analysis["control"], analysis["controls"]) == ("auto", "groups")
    assert analysis["stratify"] == {**STRATIFY, "burden_clip_quantiles": [0.0, 1.0]}
    assert analysis["ntc_groups"]["group_size"] is analysis["ntc_groups"]["n_bins"] is None
    assert analysis["ntc_empirical"]["guides_per_unit"] is None


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("statistic: rank", ["crt.statistic: is 'rank', and null_method", "use 'ols', or"]),
        ("statistic: welch", ["crt.statistic: is 'welch'", "it compares OLS coefficients"]),
        ("tail: right", ["crt.tail: is 'right'", "it is two-sided", "`null_method: crt`"]),
        ("tail: two_sided_centred", ["crt.tail: is 'two_sided_centred'", "use 'two_sided'"]),
        ("calibration: skew_normal", ["crt.calibration: is 'skew_normal'", "nothing is fitted"]),
        ("control: ntc", ["crt.control: is 'ntc'", "all other cells", "`complement`"]),
    ],
)
def test_what_the_null_of_ntc_guides_cannot_do_is_named(refusal, schema, keys, words):
    says(refusal(with_analysis(f"{EMPIRICAL}, {keys}")), "ntc_empirical", *words, "1 problem\n")
    # By itself it is fine.
    complete_config(yaml.safe_load(with_analysis(keys)), schema, SOURCE)


def test_the_null_of_ntc_guides_takes_the_default_calibration_and_reads_no_stages(schema, refusal):
    for keys in ("", ", calibration: empirical", ", calibration: adaptive"):
        config = yaml.safe_load(with_analysis(f"{EMPIRICAL}{keys}"))
        analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
        assert refine_stages(analysis) == []
    message = refusal(with_analysis(f"{EMPIRICAL}, refine: [{{below: 0.1, method: resamples}}]"))
    says(message, "crt.refine: is", "nothing is refined", "1 problem\n")


STAGE = "{below: 0.01, method: importance}"


def test_small_p_values_are_refined_by_default_and_stages_are_completed(schema):
    config = yaml.safe_load(GOOD)
    analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
    assert (analysis["calibration"], analysis["refine"]) == ("adaptive", "auto")
    keys = f"refine: [{STAGE}, {{below: 1.0e-4, method: resamples, resamples: 1.0e+6}}]"
    analysis = complete_config(yaml.safe_load(with_analysis(keys)), schema, SOURCE)
    assert refine_stages(analysis["analyses"]["crt"]) == [
        {"below": 0.01, "method": "importance", "resamples": 255},
        {"below": 0.0001, "method": "resamples", "resamples": 1_000_000},
    ]


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("refine: [{below: 0, method: importance}]", ["refine[0].below", "0 is less than or"]),
        ("refine: [{below: 2, method: importance}]", ["refine[0].below", "2 is greater than"]),
        ("refine: [{method: importance}]", ["refine[0]", "'below' is a required property"]),
        ("refine: [{below: 0.1, method: importanc}]", ["method: is 'importanc'", "'importance'?"]),
        (
            "refine: [{below: 0.1, method: resamples, resample: 9}]",
            ["unknown key", "'resamples'?"],
        ),
        ("refine: []", ["crt.refine: "]),
        ("refine: always", ["crt.refine: is 'always'"]),
        (
            "refine: [{below: 0.01, method: resamples}, {below: 0.01, method: importance}]",
            ["crt.refine: has stages below 0.01, 0.01", "let `below` fall"],
        ),
        (
            f"calibration: skew_normal, refine: [{STAGE}]",
            ["crt.refine: is given, and calibration is 'skew_normal'"],
        ),
        (
            f"statistic: welch, refine: [{STAGE}]",
            ["refine[0].method: is 'importance'", "'welch'", "use `method: resamples`"],
        ),
        (
            f"{BY_STRATA}, calibration: saddlepoint",
            ["crt.calibration: is 'saddlepoint'", "'stratified_perm'", "bernoulli_index"],
        ),
    ],
)
def test_stages_that_cannot_be_are_explained(refusal, keys, words):
    says(refusal(with_analysis(keys)), *words, "1 problem\n")


def test_all_that_is_wrong_with_stages_is_listed_together(refusal):
    stages = "[{below: 0.1, method: importance}, {below: 0.5, method: saddlepoint}]"
    message = refusal(with_analysis(f"statistic: welch, refine: {stages}"))
    says(message, "refine[0].method", "refine[1].method", "below 0.1, 0.5", "3 problems")


@pytest.mark.parametrize("statistic", ["ols", "ols_t"])
def test_the_null_of_ntc_guides_takes_either_ols_statistic(schema, statistic):
    config = yaml.safe_load(with_analysis(f"{EMPIRICAL}, statistic: {statistic}"))
    analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
    assert normalize_settings(analysis)["statistic"] == statistic


def test_residuals_are_taken_unless_the_analysis_says_no(schema, refusal):
    for keys, expected in (
        ("", True),
        (", residualize: true", True),
        (", residualize: no", False),
    ):
        config = yaml.safe_load(with_analysis(f"statistic: rank{keys}"))
        analysis = complete_config(config, schema, SOURCE)["analyses"]["crt"]
        assert normalize_settings(analysis)["residualize"] is expected
    says(refusal(with_analysis("residualize: 2")), "crt.residualize: is 2")


def test_all_that_the_null_of_ntc_guides_cannot_do_is_listed_together(refusal):
    keys = "statistic: welch, tail: left, calibration: skew_normal, control: ntc"
    says(refusal(with_analysis(f"{EMPIRICAL}, {keys}")), "4 problems")


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("statistic: wilcoxon", ["crt.statistic: is 'wilcoxon'", "ols, ols_t, rank, welch"]),
        ("sampler: stratified", ["crt.sampler: is 'stratified'", "mean 'stratified_perm'?"]),
        ("control: complment", ["crt.control: is 'complment'", "did you mean 'complement'?"]),
        ("null_method: ntc", ["crt.null_method: is 'ntc'", "crt, ntc_empirical"]),
        ("batch_key: ''", ["crt.batch_key: ''", "Column of the covariates"]),
        ("stratify: {n_bin: 5}", ["stratify.n_bin: is no key", "did you mean 'n_bins'?"]),
        ("stratify: {n_bins: 0}", ["stratify.n_bins: 0 is less than the minimum of 1"]),
        (
            "stratify: {burden_clip_quantiles: [0.9, 0.1]}",
            ["burden_clip_quantiles: is [0.9, 0.1]", "the lower quantile first"],
        ),
        ("stratify: {burden_clip_quantiles: [0.5, 0.5]}", ["is [0.5, 0.5]", "lower quantile"]),
        ("stratify: {burden_clip_quantiles: [0, 2]}", ["burden_clip_quantiles[1]: 2 is greater"]),
        ("stratify: {burden_clip_quantiles: [0]}", ["burden_clip_quantiles: [0]"]),
        ("ntc_groups: {group_size: 0}", ["ntc_groups.group_size: 0 is less than the minimum"]),
        ("ntc_groups: {n_ensemble: many}", ["n_ensemble: is 'many'", "a whole number"]),
        ("ntc_groups: {max_group: 3}", ["max_group: is no key", "did you mean 'max_groups'?"]),
        ("ntc_empirical: {n_ntc_units: 10}", ["n_ntc_units: 10 is less than the minimum of 50"]),
        ("ntc_empirical: {scale: student}", ["scale: is 'student'", "studentized, raw"]),
        ("ntc_empirical: {qq_crossfit_frac_A: 1}", ["qq_crossfit_frac_A: 1 is greater"]),
    ],
)
def test_bad_statistic_strata_and_null_are_named(refusal, keys, words):
    says(refusal(with_analysis(keys)), "analyses.crt", *words)


@pytest.mark.parametrize("key", ["moi_dispersion", "burden_effect"])
def test_what_one_guide_per_cell_leaves_no_room_for_is_named(refusal, schema, key):
    def simulate(guides_per_cell: str) -> str:
        keys = f"simulate: {{guides_per_cell: {guides_per_cell}, {key}: 0.5}}"
        return GOOD.replace("path: mine.h5ad", keys)

    message = refusal(simulate("one"))
    says(message, f"mine.simulate.{key}: is 0.5, and every cell has one guide", "set it to 0")
    complete_config(yaml.safe_load(simulate("poisson")), schema, SOURCE)


def test_burden_is_a_covariate_if_asked(schema):
    for keys, burden in (("", False), ("burden: true", True)):
        config = yaml.safe_load(with_screen(f"covariates: {{{keys}}}"))
        covariates = complete_config(config, schema, SOURCE)["screens"]["mine"]["covariates"]
        assert covariates["burden"] is burden
        assert covariates["key"] == "covar"


# Comparisons of groups of cells


def with_dex(keys: str) -> str:
    return GOOD.replace("{engine: crt}", "{engine: dex, " + keys + "}").replace("crt:", "dex:")


def dex_of(schema: dict[str, Any], keys: str) -> dict[str, Any]:
    return complete_config(yaml.safe_load(with_dex(keys)), schema, SOURCE)["analyses"]["dex"]


def test_an_analysis_of_engine_dex_has_the_defaults_of_that_engine(schema):
    analysis = dex_of(schema, "")
    assert analysis["outcome"] == {
        "key": "X",
        "transform": "auto",
        "library_size": None,
        "target_sum": 10000,
    }
    assert (analysis["control"], analysis["control_group"]) == ("ntc", None)
    assert (analysis["groupby"], analysis["multiple_guides"]) == (None, "include")
    assert (analysis["test"], analysis["ties"], analysis["continuity"]) == ("mwu", "exact", True)
    assert (analysis["geometric_mean"], analysis["pseudocount"]) == (True, 1e-9)
    assert (analysis["max_records"], analysis["exact_max_cells"]) == (None, 0)
    assert (analysis["controls"], analysis["targets"]) == ("groups", "all")
    assert "resamples" not in analysis


def test_a_column_of_groups_has_no_guides_that_could_be_controls(schema):
    assert dex_of(schema, "controls: guides")["controls"] == "guides"
    assert dex_of(schema, "groupby: gene")["controls"] == "none"
    assert dex_of(schema, "groupby: gene, controls: guides")["controls"] == "none"


@pytest.mark.parametrize(
    ("keys", "words"),
    [
        ("control: group", ["dex.control_group: is missing", "name the group"]),
        (
            "control_group: A",
            ["dex.control_group: is 'A', and control is 'ntc'", "`control: group`"],
        ),
        (
            "control: rest, control_group: A",
            ["control_group: is 'A', and control is 'rest'", "leave control_group out"],
        ),
        (
            "control: group, control_group: A, targets: [B, A]",
            ["dex.targets: name the control group 'A'", "leave it out"],
        ),
        ("targets: [A, B, A]", ["dex.targets: names twice: 'A'"]),
        ("control: all", ["dex.control: is 'all'", "ntc, rest, perturbed, group"]),
        ("control: prest", ["dex.control: is 'prest'", "did you mean 'rest'?"]),
        ("test: t-test", ["dex.test: is 't-test'", "mwu, welch"]),
        ("groupby: 5", ["dex.groupby: is 5, which is a number"]),
        ("groupby: ''", ["dex.groupby: ''", "Column of obs"]),
        ("max_records: 0", ["dex.max_records: 0 is less than the minimum of 1"]),
        ("pseudocount: 0", ["dex.pseudocount: 0", "minimum of 0"]),
        ("exact_max_cells: 500", ["dex.exact_max_cells: 500", "maximum of 200"]),
        ("ties: round", ["dex.ties: is 'round'", "did you mean 'rounded'?"]),
        ("multiple_guides: drop", ["dex.multiple_guides: is 'drop'", "include, exclude"]),
        ("outcome: {transform: log}", ["dex.outcome.transform: is 'log'"]),
        ("outcome: {target_sum: 0}", ["dex.outcome.target_sum: 0"]),
        ("outcome: {floor_quantile: 0.1}", ["outcome.floor_quantile: is no key"]),
        ("statistic: ols", ["dex.statistic: is no key", "test"]),
        ("resamples: 99", ["dex.resamples: is no key of this section"]),
        ("screens: [mien]", ["dex.screens: 'mien' is no screen"]),
    ],
)
def test_bad_comparison_is_named(refusal, keys, words):
    says(refusal(with_dex(keys)), "analyses.dex", *words, "1 problem\n")


@pytest.mark.parametrize("name", ["a", "l", "al", "all", "ntc", "rest"])
def test_a_control_group_of_any_name_is_fine_where_all_others_are_tested(schema, name):
    analysis = dex_of(schema, f"control: group, control_group: {name}")
    assert analysis["control_group"] == name


def test_keys_of_one_engine_are_none_of_the_other(refusal):
    for key in ("groupby: gene", "test: mwu", "max_records: 5", "pseudocount: 1"):
        says(refusal(with_analysis(key)), f"crt.{key.split(':')[0]}: is no key of this section")


def test_a_zarr_folder_may_be_a_screen_but_has_no_copy_with_effects(schema, refusal, tmp_path):
    for name, marker in (("three", "zarr.json"), ("two", ".zgroup")):
        (tmp_path / name).mkdir()
        (tmp_path / name / marker).touch()
        text = with_dex("write_h5ad: false").replace("mine.h5ad", str(tmp_path / name))
        complete_config(yaml.safe_load(text), schema, SOURCE)
        message = refusal(text.replace("false", "true"))
        says(message, "analyses.dex.write_h5ad:", "mine is a Zarr folder", "1 problem\n")
    (tmp_path / "none").mkdir()
    text = with_dex("test: mwu").replace("mine.h5ad", str(tmp_path / "none"))
    says(refusal(text), "is a folder", "or a Zarr folder")


def test_a_screen_needs_what_its_analyses_need_together(schema):
    text = """
screens: {a: {path: a}, b: {path: b}, c: {path: c}}
analyses:
  one: {engine: crt, screens: [a], targets: [X], control: complement, controls: none}
  two: {engine: dex, screens: [a, b], targets: [Y], control: group, control_group: Z}
  three: {engine: dex, screens: [b, c], groupby: gene, control: ntc}
"""
    config = complete_config(yaml.safe_load(text), schema, SOURCE)
    a, b, c = (needs_of(config, name) for name in "abc")
    assert [needs["guides"] for needs in (a, b, c)] == [True, True, False]
    assert [needs["covariates"] for needs in (a, b, c)] == [True, False, False]
    assert [needs["targets"] for needs in (a, b, c)] == [["X", "Y", "Z"], ["Y", "Z"], []]
    assert [needs["controls"] for needs in (a, b, c)] == [True, True, False]
    assert [needs["ntc_cells"] for needs in (a, b, c)] == [False, False, False]
    assert [len(needs["groupings"]) for needs in (a, b, c)] == [0, 1, 1]
    assert c["groupings"][0]["groupby"] == "gene"


# Files


def test_file_that_is_there_is_fine(tmp_path):
    (tmp_path / "mine.h5ad").touch()
    screens = {"a": {"path": str(tmp_path / "mine.h5ad")}, "b": {}}
    check_files({"screens": screens, "analyses": {}}, SOURCE, ["a", "b"])


def test_all_missing_files_are_named_with_the_nearest(tmp_path, monkeypatch):
    (tmp_path / "mine.h5ad").touch()
    monkeypatch.chdir(tmp_path)
    screens = {"a": {"path": "mien.h5ad"}, "b": {"path": str(tmp_path / "no" / "x.h5ad")}}
    with pytest.raises(InputError) as error:
        check_files({"screens": screens, "analyses": {}}, SOURCE, screens)
    message = str(error.value)
    says(message, SOURCE, "2 problems", "screens.a.path: there is no file 'mien.h5ad'")
    says(message, f"it starts from '{tmp_path}'", "did you mean 'mine.h5ad'?")
    says(message, "screens.b.path: ", f"there is no folder '{tmp_path}/no' either")


# Linear models of samples

TABLE = """
screens:
  bulk: {path: counts.csv.gz, samples: samples.csv}
analyses:
  lm: {engine: limma, design: "~ 0 + group"}
"""


def with_limma(keys: str) -> str:
    return TABLE.replace('"~ 0 + group"}', '"~ 0 + group", ' + keys + "}")


def test_a_count_table_with_a_design_is_completed(schema):
    analysis = complete_config(yaml.safe_load(TABLE), schema, SOURCE)["analyses"]["lm"]
    assert analysis["outcome"] == {
        "key": "X",
        "transform": "voom",
        "span": None,
        "prior_count": 2.0,
    }
    assert analysis["filter"] == {"method": "cpm", "min_count": 10, "groups": None}
    assert analysis["pseudobulk"] == {"by": [], "targets": False, "min_cells": 10}
    assert analysis["decide"] == {"method": "separate", "adjust": "BH", "lfc": 0.0}
    assert (analysis["normalization"], analysis["contrasts"]) == ("tmm", None)


def test_contrasts_may_be_named_or_listed(schema):
    for keys in ("contrasts: [a - b, b - c]", 'contrasts: {ab: "a - b"}'):
        complete_config(yaml.safe_load(with_limma(keys)), schema, SOURCE)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (TABLE.replace(", samples: samples.csv", ""), ["screens.bulk.samples: is missing"]),
        (
            TABLE.replace("counts.csv.gz", "screen.h5ad"),
            ["screens.bulk.samples: is given", "obs"],
        ),
        (
            TABLE + "  cells: {engine: dex}\n",
            ["analyses.cells: compares cells", "bulk is a count table", "screens: [...]"],
        ),
        (with_limma("pseudobulk: {by: [donor]}"), ["analyses.lm.pseudobulk", "count table"]),
        (with_limma("outcome: {key: layers/counts}"), ["analyses.lm.outcome.key", "one matrix"]),
        (with_limma("design_matrix: d.csv"), ["analyses.lm: has both design and design_matrix"]),
        (TABLE.replace(', design: "~ 0 + group"', ""), ["analyses.lm: has no design"]),
        (with_limma("contrasts: [a - b, a - b]"), ["analyses.lm.contrasts: holds twice: 'a - b'"]),
        (with_limma("contrasts: []"), ["analyses.lm.contrasts"]),
        (with_limma("contrasts: a - b"), ["analyses.lm.contrasts", "write [a - b]"]),
        (
            with_limma("treat: 1, decide: {method: nestedF}"),
            ["analyses.lm.decide.method: is 'nestedF'", "treat"],
        ),
        (with_limma("array_weights: true"), ["analyses.lm.array_weights", "voom_quality_weights"]),
        (with_limma("outcome: {span: 2}"), ["analyses.lm.outcome.span"]),
        (with_limma("filter: {method: cmp}"), ["is 'cmp'", "did you mean 'cpm'?"]),
        (TABLE.replace("limma, design", "anova, design"), ["design", "formula: is missing"]),
    ],
)
def test_bad_linear_model_is_named(refusal, text, words):
    says(refusal(text), *words)


def test_screens_of_linear_models_alone_are_no_screens_of_cells(schema):
    text = TABLE.replace("screens:\n", "screens:\n  cells: {path: c.h5ad}\n").replace(
        "analyses:\n", "analyses:\n  genes: {engine: dex, screens: [cells]}\n"
    )
    complete = complete_config(yaml.safe_load(text), schema, SOURCE)
    assert analyses_of(complete, OF_CELLS) == [("cells", "genes")]
    assert analyses_of(complete, OF_SAMPLES) == [("cells", "lm"), ("bulk", "lm")]
    assert outcomes_of(complete, "bulk") == []
    assert len(outcomes_of(complete, "cells")) == 1


def test_missing_tables_of_samples_and_designs_are_named(tmp_path):
    (tmp_path / "counts.csv").touch()
    (tmp_path / "samples.csv").touch()
    screens = {
        "a": {"path": str(tmp_path / "counts.csv"), "samples": str(tmp_path / "smples.csv")}
    }
    analyses = {"lm": {"design_matrix": str(tmp_path / "design.csv")}}
    with pytest.raises(InputError) as error:
        check_files({"screens": screens, "analyses": analyses}, SOURCE, screens)
    message = str(error.value)
    says(
        message, "2 problems", "screens.a.samples: there is no file", "did you mean 'samples.csv'"
    )
    says(message, "analyses.lm.design_matrix: there is no file")


# Two conditions along cell states

STATES = """
screens: {cells: {path: cells.h5ad}}
analyses:
  states: {engine: kompot, condition: condition, levels: [ctrl, stim]}
"""


def with_states(keys: str) -> str:
    return STATES.replace("stim]}", "stim], " + keys + "}")


def test_two_conditions_need_their_columns_and_embeddings_of_the_screen(schema):
    keys = "sample: donor, embedding: {key: X_dm}, plot_embedding: X_umap"
    complete = complete_config(yaml.safe_load(with_states(keys)), schema, SOURCE)
    needs = needs_of(complete, "cells")
    assert needs["embeddings"] == ["X_dm", "X_umap"]
    assert [(g["groupby"], g["targets"]) for g in needs["groupings"]] == [
        ("condition", ["ctrl", "stim"]),
        ("donor", "all"),
    ]
    assert not needs["guides"] and not needs["covariates"]
    assert [outcome["key"] for outcome in outcomes_of(complete, "cells")] == ["X"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (STATES.replace("[ctrl, stim]", "[ctrl, ctrl]"), ["levels: holds 'ctrl' twice"]),
        (STATES.replace("[ctrl, stim]", "[ctrl]"), ["analyses.states.levels"]),
        (STATES.replace("[ctrl, stim]", "[0, 1]"), ["write it in quotes, '0'"]),
        (
            with_states("sample: condition"),
            ["sample: is 'condition', the column of the condition"],
        ),
        (with_states("sample_variance: true"), ["sample: is missing, and sample_variance"]),
        (
            with_states("null_distances: {kind: samples}"),
            ["sample: is missing, and null_distances.kind"],
        ),
        (
            STATES.replace("cells.h5ad}", "cells.csv, samples: s.csv}"),
            ["analyses.states: compares cells", "count table"],
        ),
    ],
)
def test_bad_conditions_are_named(refusal, text, words):
    says(refusal(text), *words)
