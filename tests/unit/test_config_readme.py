"""config/README.md names the keys of the schema, all and no others, with their defaults.

Keys of an engine stand in its section, headed by "## Engine `name`".
"""

import re
from pathlib import Path
from typing import Any

import pytest

README = Path(__file__).parents[2] / "config" / "README.md"

# A row of a table of keys: | `key` | default | meaning |
ROW = re.compile(r"^\| `([\w.]+)` \|([^|]*)\|([^|]+)\|$", re.MULTILINE)
ENGINE = re.compile(r"^## Engine `(\w+)`$", re.MULTILINE)


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
            inner = keys_of(schema["$defs"][engine], schema, where)
            found |= {f"{engine}:{key}": item for key, item in inner.items()}
        return found
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


@pytest.fixture(scope="module")
def rows(text) -> list[tuple[str, str]]:
    """Key, with its engine, and default of every row."""
    first, *sections = re.split(ENGINE, text)
    found = [(key, shown) for key, shown, _ in ROW.findall(first)]
    for engine, section in zip(sections[::2], sections[1::2], strict=True):
        found += [(f"{engine}:{key}", shown) for key, shown, _ in ROW.findall(section)]
    return found


def test_schema_is_walked_to_its_ends(keys):
    assert {
        "seed",
        "scatter.shards",
        "screens.NAME.path",
        "screens.NAME.simulate.n_cells",
        "screens.NAME.covariates.columns",
        "screens.NAME.covariates.columns.transform",
        "crt:analyses.NAME.engine",
        "crt:analyses.NAME.propensity.clip",
        "dex:analyses.NAME.outcome.target_sum",
    } <= set(keys)
    assert not {"scatter", "screens", "screens.NAME.covariates"} & set(keys)


def test_every_key_of_the_schema_has_a_row(keys, rows):
    assert sorted(set(keys) - {key for key, _ in rows}) == []


def test_every_row_is_a_key_of_the_schema_and_there_once(keys, rows):
    named = [key for key, _ in rows]
    assert sorted(set(named) - set(keys)) == []
    assert sorted({key for key in named if named.count(key) > 1}) == []


def test_every_path_in_the_text_is_a_key_or_a_section(keys, text):
    keys = {key.rpartition(":")[2] for key in keys}
    sections = {key.rsplit(".", depth)[0] for key in keys for depth in (1, 2, 3)}
    tops = {key.split(".")[0] for key in keys}
    paths = {path for path in re.findall(r"`(\w+(?:\.\w+)+)`", text) if path.split(".")[0] in tops}
    assert sorted(paths - set(keys) - sections) == []


def test_every_default_is_the_one_of_the_schema(keys, rows):
    differ = {}
    for key, shown in rows:
        if key not in keys or "default" not in keys[key]:
            continue
        default = keys[key]["default"]
        plain = shown.replace("`", "").strip()
        if isinstance(default, bool) or default is None:
            same = plain == {True: "true", False: "false", None: "null"}[default]
        elif isinstance(default, int | float):
            same = re.fullmatch(r"[\d.,e+-]+", plain) and float(plain.replace(",", "")) == default
        elif isinstance(default, list):
            same = plain == (", ".join(map(str, default)) or "none")
        else:
            same = plain == default
        if not same:
            differ[key] = (shown, default)
    assert differ == {}
