"""config/README.md names the keys of the schema, all and no others, with their defaults."""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "config" / "README.md"

# A row of a table of keys: | `key` | default | meaning |
ROW = re.compile(r"^\| `([\w.]+)` \|([^|]*)\|([^|]+)\|$", re.MULTILINE)


def keys_of(section: dict[str, Any], schema: dict[str, Any], where: str = "") -> dict[str, dict]:
    """The keys below a section that hold values, by dotted path; sections have none."""
    name = section.get("$ref", "").rsplit("/", 1)[-1]
    section = {**schema["$defs"].get(name, {}), **section}
    found = {}
    if section.get("type") == "array":
        for form in section["items"].get("anyOf", []):
            found |= keys_of(form, schema, where)
    elif name == "analysis":
        for engine in section["properties"]["engine"]["enum"]:
            found |= keys_of(schema["$defs"][engine], schema, where)
    for key, item in section.get("properties", {}).items():
        path = f"{where}.{key}" if where else key
        below = keys_of(item, schema, path)
        if item.get("type") == "array" or not below:
            found[path] = item
        found |= below
    if isinstance(section.get("additionalProperties"), dict):
        found |= keys_of(section["additionalProperties"], schema, f"{where}.NAME")
    return found


@pytest.fixture(scope="module")
def keys(schema) -> dict[str, dict]:
    return keys_of(schema, schema)


@pytest.fixture(scope="module")
def text() -> str:
    if not README.exists():
        pytest.skip("config/README.md is not written yet")
    return README.read_text()


def test_schema_is_walked_to_its_ends(keys):
    assert {
        "seed",
        "scatter.shards",
        "screens.NAME.path",
        "screens.NAME.simulate.n_cells",
        "screens.NAME.covariates.columns",
        "screens.NAME.covariates.columns.transform",
        "analyses.NAME.engine",
        "analyses.NAME.propensity.clip",
    } <= set(keys)
    assert not {"scatter", "screens", "screens.NAME.covariates"} & set(keys)


def test_every_key_of_the_schema_has_a_row(keys, text):
    assert sorted(set(keys) - {key for key, _, _ in ROW.findall(text)}) == []


def test_every_row_is_a_key_of_the_schema_and_there_once(keys, text):
    rows = [key for key, _, _ in ROW.findall(text)]
    assert sorted(set(rows) - set(keys)) == []
    assert sorted({key for key in rows if rows.count(key) > 1}) == []


def test_every_path_in_the_text_is_a_key_or_a_section(keys, text):
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in (1, 2, 3)}
    tops = {key.split(".")[0] for key in keys}
    paths = {path for path in re.findall(r"`(\w+(?:\.\w+)+)`", text) if path.split(".")[0] in tops}
    assert sorted(paths - set(keys) - sections) == []


def test_every_default_is_the_one_of_the_schema(keys, text):
    differ = {}
    for key, shown, _ in ROW.findall(text):
        if key not in keys or "default" not in keys[key]:
            continue
        default = keys[key]["default"]
        plain = shown.replace("`", "").strip()
        if isinstance(default, bool) or default is None:
            same = plain == {True: "true", False: "false", None: "null"}[default]
        elif isinstance(default, int | float):
            same = re.fullmatch(r"[\d.,e+-]+", plain) and float(plain.replace(",", "")) == default
        elif isinstance(default, list):
            same = plain == ", ".join(map(str, default))
        else:
            same = plain == default
        if not same:
            differ[key] = (shown, default)
    assert differ == {}
