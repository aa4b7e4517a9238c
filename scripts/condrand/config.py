"""The configuration: checked against the schema, defaults filled in, problems listed at once.

Imported by the Snakefile: standard library and jsonschema (a dependency of Snakemake) only.
"""

import os
import re
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator

from condrand.errors import Problems, listed


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


def analyses_of(config: dict[str, Any]) -> list[tuple[str, str]]:
    """Every (screen, analysis) pair of a complete configuration, in its order."""
    return [
        (screen, name)
        for screen in config["screens"]
        for name, analysis in config["analyses"].items()
        if screen in analysis.get("screens", config["screens"])
    ]


def outcomes_of(config: dict[str, Any], screen: str) -> list[dict[str, Any]]:
    """The distinct outcome sections that the analyses of a screen need, in a stable order."""
    outcomes = {
        str(config["analyses"][name]["outcome"]): config["analyses"][name]["outcome"]
        for of_screen, name in analyses_of(config)
        if of_screen == screen
    }
    return [outcomes[key] for key in sorted(outcomes)]


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
        _check_leaf(value, schema, root, where, problems)
        return value
    here = where or "(top level)"
    if not isinstance(value, dict):
        problems.add(here, f"is {_kind(value)}", "it must be a mapping of keys to values.")
        return {}
    if schema is root["$defs"]["analysis"] or schema == root["$defs"]["analysis"]:
        engine = value.get("engine")
        _check_engine(engine, schema, where, problems)
        if not isinstance(engine, str) or engine not in root["$defs"]:
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
            problems.add(path, "is no key of this section", _nearest(str(key), properties, "key"))
    if len(value) < schema.get("minProperties", 0):
        problems.add(here, "is empty", "give at least one entry.")
    for key in schema.get("required", []):
        if key not in value:
            path = f"{where}.{key}" if where else key
            problems.add(path, "is missing", properties[key].get("description", "it is required."))
    for key, item in properties.items():
        item = _resolve(item, root)
        if key not in value and "default" in item:
            complete[key] = _checked(item["default"], item, root, f"{where}.{key}", problems)
    return complete


def _check_leaf(
    value: Any, schema: dict[str, Any], root: dict[str, Any], where: str, problems: Problems
) -> None:
    for error in Draft202012Validator({**schema, "$defs": root["$defs"]}).iter_errors(value):
        meaning = schema.get("description", "")
        if error.validator == "enum":
            mend = _nearest(str(value), error.validator_value, "value")
        elif error.validator == "type":
            wanted = error.validator_value
            wanted = wanted if isinstance(wanted, str) else " or ".join(wanted)
            mend = f"it must be of type {wanted}. {meaning}"
        else:
            mend = meaning
        found = f"is {value!r}, which " if error.validator in ("enum", "type") else ""
        reason = {
            "enum": "is no known choice",
            "type": f"is {_kind(value)}",
        }.get(error.validator, error.message)
        problems.add(where, found + reason, mend)


def _check_engine(engine: Any, schema: dict[str, Any], where: str, problems: Problems) -> None:
    choices = schema["properties"]["engine"]["enum"]
    if engine is None:
        problems.add(f"{where}.engine", "is missing", f"name one of: {', '.join(choices)}.")
    elif engine not in choices:
        problems.add(
            f"{where}.engine",
            f"is {engine!r}, which is no known choice",
            _nearest(str(engine), choices, "value"),
        )


def _check_name(
    name: Any, schema: dict[str, Any], root: dict[str, Any], where: str, problems: Problems
) -> None:
    pattern = _resolve(schema.get("propertyNames", {}), root).get("pattern")
    if pattern and not re.match(pattern, str(name)):
        problems.add(
            where,
            f"{name!r} cannot be a folder name",
            "use letters, digits, '_', '-' and '.', starting with a letter, digit or '_'.",
        )


def _check_screen(where: str, screen: dict[str, Any], problems: Problems) -> None:
    if ("path" in screen) == ("simulate" in screen):
        problems.add(where, "needs either path or simulate", "give exactly one of the two.")
    given = [key for key in ("key", "columns", "formula") if key in screen["covariates"]]
    if len(given) > 1:
        problems.add(
            f"{where}.covariates",
            f"has {' and '.join(given)}",
            "give one of key, columns, formula.",
        )
    elif not given:
        screen["covariates"]["key"] = "covar"
    if "path" in screen:
        screen["path"] = expand_path(screen["path"])
        left = re.findall(r"\$\{?(\w+)", screen["path"])
        if left:
            problems.add(
                f"{where}.path",
                f"names the unset variable {listed(left)}",
                "set it in the environment, or write the path out.",
            )
        elif Path(screen["path"]).is_dir():
            problems.add(f"{where}.path", f"{screen['path']} is a folder", "name the .h5ad file.")


def _check_analysis(
    where: str, analysis: dict[str, Any], screens: dict[str, Any], problems: Problems
) -> None:
    for screen in analysis.get("screens", []):
        if screen not in screens:
            problems.add(
                f"{where}.screens", f"{screen!r} is no screen", _nearest(screen, screens, "screen")
            )
    targets = analysis["targets"]
    if targets != "all" and len(set(targets)) < len(targets):
        twice = sorted({name for name in targets if targets.count(name) > 1})
        problems.add(f"{where}.targets", f"names twice: {listed(twice)}", "name each target once.")


def _nearest(word: str, words: Any, noun: str) -> str:
    close = get_close_matches(word, list(words), n=1, cutoff=0.5)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return f"{hint}The {noun}s there are: {', '.join(map(str, words))}."


def _kind(value: Any) -> str:
    names = {
        dict: "a mapping",
        list: "a list",
        str: "text",
        bool: "true/false",
        type(None): "empty",
    }
    return names.get(type(value), f"a number ({value!r})")
