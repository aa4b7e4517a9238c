"""The configuration: checked against the schema, defaults filled in, problems listed at once.

Imported by the Snakefile: standard library and jsonschema (a dependency of Snakemake) only.
"""

import itertools
import math
import os
import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator, ValidationError

from condrand.errors import Problems, listed, nearest, quoted

# Engines that compare cells, and those that take samples, or sums of cells, as they are.
OF_CELLS, OF_SAMPLES = ("crt", "dex", "kompot"), ("limma", "anova")
_COUNT_TABLE = re.compile(r"\.(csv|tsv|txt|tab)(\.gz)?$", re.IGNORECASE)
_OF_F = ("hierarchical", "nestedF")
# Distances of null genes cost what as many genes do; an exchange of samples costs as much as all.
_NULL_COUNT = {"genes": 2000, "samples": 20}
# Statistics whose tail is one of a Bernoulli sum.
_LINEAR = ("ols", "ols_t", "rank")
# Fresh draws of a stage that does not say how many.
_STAGE_RESAMPLES = {"importance": 255, "saddlepoint": 255, "resamples": 102_300}
# Types of the schema in a user's words.
_TYPES = {
    "string": "text",
    "integer": "a whole number",
    "number": "a number",
    "array": "a list, as in [a, b]",
    "boolean": "true or false",
    "null": "null",
}


def complete_config(config: dict[str, Any], schema: dict[str, Any], source: str) -> dict[str, Any]:
    """Validate a configuration and fill in every default.

    Parameters
    ----------
    config : dict
        As read from the user's YAML; not changed.
    schema : dict
        ``workflow/schemas/config.schema.yaml``, parsed.
    source : str
        Name of the configuration in messages.

    Returns
    -------
    dict
        The complete configuration: every key of the schema that applies is present.

    Raises
    ------
    InputError
        Listing every unknown key, wrong type or range, misspelt word (with the nearest one there
        is) and contradiction.
    """
    problems = Problems(source)
    complete = _checked(config, schema, schema, "", problems)
    problems.report()
    for name, screen in complete["screens"].items():
        _check_screen(f"screens.{name}", screen, problems)
    for name, analysis in complete["analyses"].items():
        _check_analysis(f"analyses.{name}", analysis, complete["screens"], problems)
    problems.report()
    return complete


def expand_path(path: str) -> str:
    """`path` with ``~`` and the environment variables that are set replaced."""
    return os.path.expanduser(os.path.expandvars(path))


def check_files(config: dict[str, Any], source: str, screens: Iterable[str]) -> None:
    """Check that the files of some screens are there.

    Parameters
    ----------
    config : dict
        Complete configuration.
    source : str
        Name of the configuration in messages.
    screens : iterable of str
        Names of the screens to check.

    Raises
    ------
    InputError
        Listing every file that is not, with what its folder holds.
    """
    problems = Problems(source)
    screens = set(screens)
    for name in config["screens"]:
        for key in ("path", "samples"):
            if name in screens and key in config["screens"][name]:
                _check_there(f"screens.{name}.{key}", config["screens"][name][key], problems)
    for name, analysis in config["analyses"].items():
        if analysis.get("design_matrix") is not None:
            where = f"analyses.{name}.design_matrix"
            _check_there(where, analysis["design_matrix"], problems)
    problems.report()


def _check_there(where: str, path: str, problems: Problems) -> None:
    file = Path(path)
    if file.exists():
        return
    folder = file.absolute().parent
    suffix = ".h5ad" if file.suffix == ".h5ad" else ""
    there = [] if not folder.is_dir() else sorted(f.name for f in folder.glob(f"*{suffix}"))
    mend = "correct the path"
    if not file.is_absolute():
        mend += f"; it starts from {str(Path.cwd())!r}"
    if not folder.is_dir():
        mend += f"; there is no folder {str(folder)!r} either"
    elif there:
        mend += f". {nearest(file.name, there)}The folder holds: {listed(there)}"
    problems.add(where, f"there is no file {path!r}", mend + ".")


def is_count_table(path: str) -> bool:
    """Whether a screen is a table of features x samples, by the name of its file."""
    return _COUNT_TABLE.search(path) is not None


def is_zarr(path: str | Path) -> bool:
    """Whether a folder is a Zarr group."""
    return any((Path(path) / name).is_file() for name in ("zarr.json", ".zgroup"))


def analyses_of(
    config: dict[str, Any], engines: Iterable[str] = OF_CELLS + OF_SAMPLES
) -> list[tuple[str, str]]:
    """Every (screen, analysis) pair of some engines, in the order of the configuration."""
    return [
        (screen, name)
        for screen in config["screens"]
        for name, analysis in config["analyses"].items()
        if screen in analysis.get("screens", config["screens"]) and analysis["engine"] in engines
    ]


def outcomes_of(config: dict[str, Any], screen: str) -> list[dict[str, Any]]:
    """The distinct outcome sections that the analyses of a screen need, in a stable order."""
    outcomes = {
        str(config["analyses"][name]["outcome"]): config["analyses"][name]["outcome"]
        for of_screen, name in analyses_of(config, OF_CELLS)
        if of_screen == screen
    }
    return [outcomes[key] for key in sorted(outcomes)]


def needs_of(config: dict[str, Any], screen: str) -> dict[str, Any]:
    """What the analyses of a screen need of its file, beside their outcomes.

    Returns
    -------
    dict
        ``guides``, ``covariates``: whether guide calls and covariates are read. ``targets``: those
        that any analysis takes from the guides, or "all". ``controls``, ``ntc_cells``: whether a
        screen without NTC guides, or without cells that carry them alone, is an error.
        ``batch_keys``: columns of batches. ``groupings``: columns of groups, and the groups that
        must be there. ``embeddings``: keys of cell states.
    """
    analyses = [
        config["analyses"][name] for of_screen, name in analyses_of(config) if of_screen == screen
    ]
    crt = [analysis for analysis in analyses if analysis["engine"] == "crt"]
    dex = [analysis for analysis in analyses if analysis["engine"] == "dex"]
    kompot = [analysis for analysis in analyses if analysis["engine"] == "kompot"]
    by_guides = crt + [analysis for analysis in dex if analysis["groupby"] is None]
    wanted = [analysis["targets"] for analysis in by_guides]
    wanted += [[a["control_group"]] for a in by_guides if a.get("control_group") is not None]
    # Of controls that are sampled group by group, all groups must be known.
    sampled = [a for a in by_guides if a.get("max_records")]
    wanted += ["all" for a in sampled if a["control"] in ("rest", "perturbed")]
    keys = ("groupby", "targets", "control", "control_group")
    groupings = {
        str(grouping): grouping
        for grouping in (
            *({key: a[key] for key in keys} for a in dex if a["groupby"] is not None),
            *(dict(zip(keys, column, strict=True)) for a in kompot for column in _columns_of(a)),
        )
    }
    return {
        "guides": bool(by_guides),
        "covariates": bool(crt),
        "targets": "all" if "all" in wanted else sorted({t for those in wanted for t in those}),
        "controls": any(
            a["controls"] != "none" or a.get("null_method") == "ntc_empirical" for a in by_guides
        ),
        "ntc_cells": any(a["control"] == "ntc" for a in by_guides),
        "batch_keys": sorted({batch_key_of(analysis) for analysis in crt} - {None}),
        "groupings": [groupings[key] for key in sorted(groupings)],
        "embeddings": sorted(
            {key for a in kompot for key in (a["embedding"]["key"], a["plot_embedding"]) if key}
        ),
    }


def _columns_of(analysis: dict[str, Any]) -> Iterator[tuple[str, Any, str, None]]:
    """Columns of a kompot analysis as :func:`needs_of` groups cells, and what must be there."""
    yield analysis["condition"], analysis["levels"], "rest", None
    if analysis["sample"] is not None:
        yield analysis["sample"], "all", "rest", None


def batch_key_of(analysis: dict[str, Any]) -> str | None:
    """The batch column that a crt analysis needs, or none."""
    if analysis["null_method"] == "ntc_empirical":
        needed = analysis["ntc_empirical"]["batch_mode"] == "meta"
    else:
        needed = analysis["sampler"] == "stratified_perm"
        needed = needed and analysis["stratify"]["stratify_by_batch"]
    return analysis["batch_key"] if needed else None


def refine_stages(analysis: dict[str, Any]) -> list[dict[str, Any]]:
    """The stages by which small p values of a crt analysis are refined, in order.

    Parameters
    ----------
    analysis : dict
        ``null_method``, ``calibration``, ``refine``, ``resamples``, ``sampler`` and ``statistic``
        are read.

    Returns
    -------
    list of dict
        ``below``, ``method`` and ``resamples`` of each.
    """
    calibration = analysis["calibration"]
    if analysis["null_method"] != "crt" or calibration in ("empirical", "skew_normal"):
        return []
    if calibration == "saddlepoint":
        return [_complete_stage({"below": 1.0, "method": "saddlepoint"})]
    if calibration == "importance":
        return [{"below": 1.0, "method": "importance", "resamples": analysis["resamples"]}]
    if analysis["refine"] != "auto":
        return [_complete_stage(stage) for stage in analysis["refine"]]
    if _is_bernoulli_sum(analysis):
        return [_complete_stage({"below": 0.01, "method": "importance"})]
    return [_complete_stage({"below": 0.005, "method": "resamples"})]


def _complete_stage(stage: dict[str, Any]) -> dict[str, Any]:
    resamples = int(stage.get("resamples", _STAGE_RESAMPLES[stage["method"]]))
    return {"below": float(stage["below"]), "method": stage["method"], "resamples": resamples}


def _is_bernoulli_sum(analysis: dict[str, Any]) -> bool:
    return analysis["sampler"] == "bernoulli_index" and analysis["statistic"] in _LINEAR


def p_floors(analysis: dict[str, Any]) -> tuple[float | None, float | None]:
    """Smallest p values that can be counted in B resamples, and in the last stage's.

    None where there is no smallest one.
    """
    if analysis.get("null_method") != "crt":
        return None, None
    counted = 1 / (analysis["resamples"] + 1)
    stages = refine_stages(analysis)
    if not stages:
        return counted, counted
    last = stages[-1]
    return counted, 1 / (last["resamples"] + 1) if last["method"] == "resamples" else None


def normalize_settings(analysis: dict[str, Any]) -> dict[str, Any]:
    """Parameters of the normalize stage, from a crt analysis."""
    by_burden = analysis["sampler"] == "stratified_perm"
    by_burden = by_burden and analysis["stratify"]["stratify_by_burden"]
    is_crt = analysis["null_method"] == "crt"
    return {
        "settings": analysis["outcome"],
        "statistic": analysis["statistic"],
        "residualize": analysis["residualize"],
        "control": analysis["control"] if is_crt else "complement",
        "batch_key": batch_key_of(analysis),
        "by_burden": is_crt and by_burden,
    }


def _resolve(schema: dict[str, Any], root: dict[str, Any]) -> dict[str, Any]:
    if "$ref" not in schema:
        return schema
    target = root
    for part in schema["$ref"].removeprefix("#/").split("/"):
        target = target[part]
    return {**target, **{key: value for key, value in schema.items() if key != "$ref"}}


def _checked(
    value: Any, schema: dict[str, Any], root: dict[str, Any], where: str, problems: Problems
) -> Any:
    """`value` with defaults filled in; what is wrong with it goes to `problems`."""
    schema = _resolve(schema, root)
    if schema.get("type") != "object":
        return _checked_leaf(value, schema, root, where, problems)
    here = where or "(top level)"
    if value is None:
        # A section whose keys are all commented out.
        value = {}
    if not isinstance(value, dict):
        problems.add(
            here, f"is {value!r}, which is {_kind(value)}", "write `key: value` lines below it."
        )
        return {}
    if schema == root["$defs"]["analysis"]:
        engine = value.get("engine")
        choices = schema["properties"]["engine"]["enum"]
        _check_engine(engine, choices, where, problems)
        if engine not in choices:
            return {}
        schema = root["$defs"][engine]
    properties = schema.get("properties", {})
    open_keys = schema.get("additionalProperties")
    complete: dict[str, Any] = {}
    for key, item in value.items():
        path = f"{where}.{key}" if where else str(key)
        if key in properties:
            complete[key] = _checked(item, properties[key], root, path, problems)
        elif isinstance(open_keys, dict):
            _check_name(key, schema, root, path, problems)
            complete[key] = _checked(item, open_keys, root, path, problems)
        else:
            problems.add(path, "is no key of this section", _choices(key, properties, "key"))
    if len(value) < schema.get("minProperties", 0):
        problems.add(here, "is empty", "give at least one entry.")
    for key in schema.get("required", []):
        if key not in value:
            path = f"{where}.{key}" if where else key
            problems.add(path, "is missing", properties[key].get("description", "it is required."))
    for key, item in properties.items():
        item = _resolve(item, root)
        if key not in value and "default" in item:
            path = f"{where}.{key}" if where else key
            complete[key] = _checked(item["default"], item, root, path, problems)
    return complete


def _checked_leaf(
    value: Any, schema: dict[str, Any], root: dict[str, Any], where: str, problems: Problems
) -> Any:
    """`value`, a whole number as int; what is wrong with it goes to `problems`."""
    meaning = schema.get("description", "")
    if isinstance(value, float) and not math.isfinite(value):
        problems.add(where, f"is {value}", f"it must be a finite number. {meaning}")
        return value
    validator = Draft202012Validator({**schema, "$defs": root["$defs"]})
    for outer in validator.iter_errors(value):
        for error in _meant(outer):
            place = "".join(
                f"[{part}]" if isinstance(part, int) else f".{part}"
                for part in error.absolute_path
            )
            problems.add(where + place, *_explained(error, meaning))
    # JSON Schema takes 1.0e+4 as an integer; range() does not.
    if schema.get("type") == "integer" and isinstance(value, float) and value.is_integer():
        return int(value)
    return value


def _meant(error: ValidationError) -> Iterator[ValidationError]:
    """The errors of the alternative that a user meant, where it can be told."""
    if error.validator == "anyOf":
        meant = [
            inner
            for inner in error.context
            if inner.relative_path or inner.validator not in ("type", "const")
        ]
        if meant:
            for inner in meant:
                yield from _meant(inner)
            return
    yield error


def _explained(error: ValidationError, meaning: str) -> tuple[str, str]:
    """What was found, and what to do."""
    value = error.instance
    found = "is empty" if value is None else f"is {value!r}"
    if error.validator == "enum":
        return f"{found}, which is no known choice", _choices(
            value, error.validator_value, "choice"
        )
    if error.validator == "additionalProperties":
        there = error.schema["properties"]
        strangers = [key for key in value if key not in there]
        return f"has the unknown key {quoted(strangers)}", _choices(strangers[0], there, "key")
    if error.validator in ("type", "anyOf"):
        wanted = error.validator_value
        if error.validator == "anyOf":
            wanted = [form["type"] for form in wanted if "type" in form]
        wanted = [wanted] if isinstance(wanted, str) else wanted
        words = " or ".join(_TYPES.get(name, "keys with values") for name in wanted)
        if value is not None:
            found += f", which is {_kind(value)}"
        return found, f"it must be {words}{_rewritten(value, wanted)}. {meaning}"
    return error.message, meaning


def _rewritten(value: Any, wanted: list[str]) -> str:
    """How a value of the wrong type is written in the right one, where that is plain."""
    if "array" in wanted and isinstance(value, str):
        return f"; write [{value}]"
    if "string" in wanted and not isinstance(value, dict | list | None):
        return f"; write it in quotes, '{value}'"
    if {"integer", "number"} & set(wanted) and isinstance(value, str):
        try:
            number = float(value)
        except ValueError:
            return ""
        # YAML takes 1e-6 for text: it wants a point.
        text = repr(int(number)) if number.is_integer() else repr(number)
        mantissa, e, exponent = text.partition("e")
        return f"; write {mantissa if '.' in mantissa or not e else mantissa + '.0'}{e}{exponent}"
    return ""


def _check_engine(engine: Any, choices: list[str], where: str, problems: Problems) -> None:
    if engine is None:
        problems.add(f"{where}.engine", "is missing", f"name one of: {', '.join(choices)}.")
    elif engine not in choices:
        problems.add(
            f"{where}.engine",
            f"is {engine!r}, which is no known choice",
            _choices(engine, choices, "choice"),
        )


def _check_name(
    name: Any, schema: dict[str, Any], root: dict[str, Any], where: str, problems: Problems
) -> None:
    pattern = _resolve(schema.get("propertyNames", {}), root).get("pattern")
    if not isinstance(name, str):
        problems.add(where, f"{name!r} is {_kind(name)}", f"write the name in quotes: '{name}'.")
    elif pattern and not re.fullmatch(pattern, name):
        problems.add(
            where,
            f"{name!r} cannot be a folder name",
            "use letters, digits, '_', '-' and '.', starting with a letter, digit or '_'.",
        )


def _check_screen(where: str, screen: dict[str, Any], problems: Problems) -> None:
    if "path" in screen and "simulate" in screen:
        problems.add(where, "has both path and simulate", "give exactly one of the two.")
    elif "path" not in screen and "simulate" not in screen:
        problems.add(where, "has neither path nor simulate", "give exactly one of the two.")
    _check_covariates(f"{where}.covariates", screen["covariates"], problems)
    simulated = screen.get("simulate", {})
    if simulated.get("guides_per_cell") == "one":
        for key in ("moi_dispersion", "burden_effect"):
            if simulated[key]:
                problems.add(
                    f"{where}.simulate.{key}",
                    f"is {simulated[key]}, and every cell has one guide",
                    "set it to 0, or `guides_per_cell: poisson`.",
                )
    for key in ("path", "samples"):
        if key in screen:
            screen[key] = expand_path(screen[key])
            _check_path(f"{where}.{key}", screen[key], problems)
    is_table = is_count_table(screen.get("path", ""))
    if is_table and "samples" not in screen:
        problems.add(
            f"{where}.samples",
            "is missing, and path names a count table",
            "name the table of its samples: a row for each, its name in the first column.",
        )
    elif "samples" in screen and not is_table:
        problems.add(
            f"{where}.samples",
            "is given, and path names no count table",
            "leave it out: the samples, or cells, of an .h5ad file are described by its obs.",
        )


def _check_covariates(where: str, covariates: dict[str, Any], problems: Problems) -> None:
    given = [key for key in ("key", "columns", "formula") if key in covariates]
    if len(given) > 1:
        problems.add(where, f"has {' and '.join(given)}", "give one of key, columns, formula.")
    elif not given:
        covariates["key"] = "covar"
    if "formula" in covariates:
        # A formula says itself what is a category: C(batch).
        covariates["numeric_as_category_threshold"] = None
    columns = [
        (item, "none") if isinstance(item, str) else (item["name"], item.get("transform", "none"))
        for item in covariates.get("columns", [])
    ]
    twice = sorted({name for name, transform in columns if columns.count((name, transform)) > 1})
    if twice:
        problems.add(f"{where}.columns", f"names twice: {quoted(twice)}", "name each column once.")


def _check_path(where: str, path: str, problems: Problems) -> None:
    left = re.findall(r"\$\{?(\w+)", path)
    file = Path(path)
    if left:
        problems.add(
            where,
            f"{path!r} names the unset variable {listed(left)}",
            "set it in the environment, or write the path out.",
        )
    elif file.is_dir() and not is_zarr(file):
        problems.add(where, f"{path!r} is a folder", "name the .h5ad file, or a Zarr folder.")


def _check_analysis(
    where: str, analysis: dict[str, Any], screens: dict[str, Any], problems: Problems
) -> None:
    for screen in analysis.get("screens", []):
        if screen not in screens:
            problems.add(
                f"{where}.screens",
                f"{screen!r} is no screen",
                _choices(screen, screens, "screen"),
            )
    of_tables = [
        name
        for name in analysis.get("screens", screens)
        if is_count_table(screens.get(name, {}).get("path", ""))
    ]
    if analysis["engine"] in OF_SAMPLES:
        _check_linear(where, analysis, of_tables, problems)
        return
    if of_tables:
        problems.add(
            where,
            f"compares cells by their guides or groups, and {listed(of_tables)} is a count table",
            "name the screens of this analysis with `screens: [...]`, or use limma or anova.",
        )
    if analysis["engine"] == "kompot":
        _check_conditions(where, analysis, problems)
        return
    if analysis["engine"] == "crt":
        _check_null(where, analysis, problems)
        _check_refine(where, analysis, problems)
        _check_strata(where, analysis["stratify"], problems)
    else:
        _check_groups(where, analysis, problems)
    _check_targets(where, analysis["targets"], problems)
    zarr = [
        name
        for name in analysis.get("screens", screens)
        if analysis["write_h5ad"] and is_zarr(screens.get(name, {}).get("path", ""))
    ]
    if zarr:
        problems.add(
            f"{where}.write_h5ad",
            f"copies an .h5ad file, and {listed(zarr)} is a Zarr folder",
            "leave it out, or write the screen as .h5ad.",
        )


def _check_linear(
    where: str, analysis: dict[str, Any], of_tables: list[str], problems: Problems
) -> None:
    """What a linear model of samples cannot be combined with."""
    pseudobulk = analysis["pseudobulk"]
    if of_tables and (pseudobulk["by"] or pseudobulk["targets"]):
        problems.add(
            f"{where}.pseudobulk",
            f"sums cells, and the columns of {listed(of_tables)}, a count table, are samples",
            "leave it out, or name the screens of this analysis with `screens: [...]`.",
        )
    if of_tables and analysis["outcome"]["key"] != "X":
        problems.add(
            f"{where}.outcome.key",
            f"is {analysis['outcome']['key']!r}, and {listed(of_tables)} is a count table",
            "leave it out: the table has one matrix.",
        )
    if analysis["engine"] == "anova":
        return
    given = [key for key in ("design", "design_matrix") if analysis[key] is not None]
    if len(given) != 1:
        found = "has both design and design_matrix" if given else "has no design"
        problems.add(where, found, 'give one of `design: "~ 0 + group"` and `design_matrix`.')
    if analysis["design_matrix"] is not None:
        analysis["design_matrix"] = expand_path(analysis["design_matrix"])
    contrasts = analysis["contrasts"]
    if isinstance(contrasts, list):
        twice = sorted({text for text in contrasts if contrasts.count(text) > 1})
        if twice:
            problems.add(f"{where}.contrasts", f"holds twice: {quoted(twice)}", "name each once.")
    if analysis["treat"] is not None and analysis["decide"]["method"] in _OF_F:
        problems.add(
            f"{where}.decide.method",
            f"is {analysis['decide']['method']!r}, which needs an F test, and treat has none",
            "use separate or global, or leave treat out.",
        )
    transform = analysis["outcome"]["transform"]
    if analysis["array_weights"] and transform.startswith("voom"):
        problems.add(
            f"{where}.array_weights",
            f"is true, and the transform is {transform!r}",
            "use `transform: voom_quality_weights`, which weighs samples and counts together.",
        )


def _check_conditions(where: str, analysis: dict[str, Any], problems: Problems) -> None:
    """What two conditions of cells cannot be combined with."""
    null = analysis["null_distances"]
    if null["count"] is None:
        null["count"] = _NULL_COUNT[null["kind"]]
    first, second = analysis["levels"]
    if first == second:
        problems.add(f"{where}.levels", f"holds {first!r} twice", "name two conditions.")
    sample = analysis["sample"]
    if sample is not None and sample == analysis["condition"]:
        problems.add(
            f"{where}.sample",
            f"is {sample!r}, the column of the condition",
            "name the column of the samples: several in each condition.",
        )
    for key, wanted in (
        ("sample_variance", analysis["sample_variance"] is True),
        ("null_distances.kind", null["kind"] == "samples" and null["count"] > 0),
    ):
        if wanted and sample is None:
            problems.add(
                f"{where}.sample",
                f"is missing, and {key} needs samples",
                "name the column of obs that says the sample of each cell.",
            )


def _check_strata(where: str, stratify: dict[str, Any], problems: Problems) -> None:
    low, high = stratify["burden_clip_quantiles"]
    if low >= high:
        problems.add(
            f"{where}.stratify.burden_clip_quantiles",
            f"is [{low}, {high}]",
            "give the lower quantile first.",
        )


def _check_targets(where: str, targets: list[str] | str, problems: Problems) -> None:
    if targets == "all":
        return
    twice = sorted({name for name in targets if targets.count(name) > 1})
    if twice:
        problems.add(f"{where}.targets", f"names twice: {quoted(twice)}", "name each target once.")
    if "all" in targets:
        problems.add(
            f"{where}.targets", "holds 'all' in a list", "write `targets: all`, or names alone."
        )


def _check_groups(where: str, analysis: dict[str, Any], problems: Problems) -> None:
    """What the groups of cells of a dex analysis are compared with."""
    control, name = analysis["control"], analysis["control_group"]
    if control == "group" and name is None:
        problems.add(f"{where}.control_group", "is missing", "name the group of control cells.")
    elif control != "group" and name is not None:
        problems.add(
            f"{where}.control_group",
            f"is {name!r}, and control is {control!r}",
            "write `control: group`, or leave control_group out.",
        )
    elif name is not None and analysis["targets"] != "all" and name in analysis["targets"]:
        problems.add(
            f"{where}.targets", f"name the control group {name!r}", "leave it out of the targets."
        )
    if analysis["groupby"] is not None:
        # A column of obs names no guides that could be taken for targets.
        analysis["controls"] = "none"


def _check_null(where: str, analysis: dict[str, Any], problems: Problems) -> None:
    """What the null of NTC pseudo-genes cannot be combined with."""
    if analysis["null_method"] != "ntc_empirical":
        return
    fixed = {
        "statistic": (("ols", "ols_t"), "it compares OLS coefficients"),
        "tail": (("two_sided",), "it is two-sided"),
        "calibration": (("adaptive", "empirical"), "nothing is fitted, and neither is read"),
        "refine": (("auto",), "nothing is refined"),
    }
    for key, (those, why) in fixed.items():
        if analysis[key] not in those:
            problems.add(
                f"{where}.{key}",
                f"is {analysis[key]!r}, and null_method is ntc_empirical",
                f"{why}: use {those[0]!r}, or `null_method: crt`.",
            )
    if analysis["control"] == "ntc":
        problems.add(
            f"{where}.control",
            "is 'ntc', and null_method is ntc_empirical",
            "targets and pseudo-genes are both compared with all other cells: use `complement`.",
        )


def _check_refine(where: str, analysis: dict[str, Any], problems: Problems) -> None:
    """What the stages of refinement need."""
    if analysis["null_method"] != "crt":
        return
    calibration, refine = analysis["calibration"], analysis["refine"]
    if refine != "auto" and calibration != "adaptive":
        problems.add(
            f"{where}.refine",
            f"is given, and calibration is {calibration!r}",
            "leave one of the two out: `refine` is read with `calibration: adaptive`.",
        )
    methods = {f"{where}.calibration": calibration}
    if refine != "auto":
        methods |= {f"{where}.refine[{i}].method": s["method"] for i, s in enumerate(refine)}
    for place, method in methods.items():
        if method in ("importance", "saddlepoint") and not _is_bernoulli_sum(analysis):
            problems.add(
                place,
                f"is {method!r}, with the sampler {analysis['sampler']!r} and the statistic "
                f"{analysis['statistic']!r}",
                "it needs `sampler: bernoulli_index` and one of the statistics "
                f"{', '.join(_LINEAR)}: use `method: resamples`, with `calibration: adaptive`.",
            )
    if refine == "auto":
        return
    below = [stage["below"] for stage in refine]
    if any(later >= earlier for earlier, later in itertools.pairwise(below)):
        problems.add(
            f"{where}.refine",
            f"has stages below {', '.join(f'{b:g}' for b in below)}",
            "each stage takes tests of the one before: let `below` fall from stage to stage.",
        )


def _choices(word: Any, words: Iterable[object], noun: str) -> str:
    words = list(words)
    return f"{nearest(str(word), words)}The {noun}s there are: {', '.join(map(str, words))}."


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true/false",
        int: "a number",
        float: "a number",
        type(None): "empty",
    }
    return names.get(type(value), f"a {type(value).__name__}")
