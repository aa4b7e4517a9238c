"""The order of the house: a script per rule, imports one way, files in one place, nothing dead."""

import ast
import re
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
SCRIPTS = ROOT / "scripts"
PACKAGE = SCRIPTS / "condrand"

SMK = {path: path.read_text() for path in sorted((ROOT / "workflow" / "rules").glob("*.smk"))}
COMMON = (ROOT / "workflow/rules/common.smk").read_text()
RULES = {
    name: text
    for source in SMK.values()
    for name, text in re.findall(r"^rule (\w+):\n((?:(?: {4}.*)?\n)+)", source, re.MULTILINE)
}
ENTRIES = {path.stem: path for path in SCRIPTS.glob("*.py") if path.name != "launch.py"}
MODULES = {
    ".".join(path.relative_to(SCRIPTS).with_suffix("").parts).removesuffix(".__init__"): path
    for path in sorted(PACKAGE.rglob("*.py"))
}
TREES = {name: ast.parse(path.read_text()) for name, path in MODULES.items()}


def directive(rule: str, name: str) -> str:
    """What a rule says under a directive, on its line or below."""
    found = re.search(rf"^ {{4}}{name}:(.*\n(?: {{8}}.*\n)*)", RULES[rule], re.MULTILINE)
    return found[1].strip() if found else ""


def quoted(text: str) -> list[str]:
    return re.findall(r'"([^"]+)"', text)


def imports_of(name: str) -> set[str]:
    """Modules and packages a module names in its imports, ours by their longest known name."""
    found = set()
    for node in ast.walk(TREES[name]):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{name} has a relative import"
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                found.add(inner if inner in MODULES else node.module)
    return found - {name}


def ours(name: str) -> set[str]:
    return {module for module in imports_of(name) if module.split(".")[0] == "condrand"}


def foreign(name: str) -> set[str]:
    """Packages that are neither ours nor Python's."""
    tops = {module.split(".")[0] for module in imports_of(name)} - {"condrand"}
    return tops - sys.stdlib_module_names


def below(*packages: str) -> list[str]:
    return [
        name
        for name in MODULES
        if any(name == package or name.startswith(f"{package}.") for package in packages)
    ]


def starts_with_any(name: str, *packages: str) -> bool:
    return any(name == package or name.startswith(f"{package}.") for package in packages)


# Rules and scripts


def test_the_rules_are_found():
    assert {"load_screen", "crt_shard", "merge_effects"} <= set(RULES)
    assert len(RULES) == sum(len(re.findall(r"^rule ", text, re.M)) for text in SMK.values())


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_has_one_script_of_its_name(rule):
    assert quoted(directive(rule, "script")) == [f"../../scripts/{rule}.py"]
    assert rule in ENTRIES


def test_each_entry_script_has_one_rule_and_names_it():
    assert sorted(ENTRIES) == sorted(RULES)
    for name, path in ENTRIES.items():
        assert ast.get_docstring(ast.parse(path.read_text())).startswith(f"Rule {name}: ")


@pytest.mark.parametrize("entry", ENTRIES)
def test_each_entry_script_starts_its_log_before_it_imports_anything_else(entry):
    _, first, second, *rest = ast.parse(ENTRIES[entry].read_text()).body
    assert ast.unparse(first) == "from condrand.entry import start"
    assert ast.unparse(second) == "start(snakemake)"
    # Imports, at most names for the arguments, and one call: no logic.
    *before, call = rest
    assert isinstance(call.value, ast.Call)
    assert {type(node) for node in before} <= {ast.ImportFrom, ast.Assign}


@pytest.mark.parametrize("rule", RULES)
def test_each_rule_says_its_log_benchmark_environment_resources_and_version(rule):
    assert quoted(directive(rule, "conda")) == ["../../envs/condrand.yaml"]
    resources = directive(rule, "resources")
    # By a function: not even a constant may forget Snakemake's own memory.
    asked = re.search(r"\bmem_mb=(\w+)\b", resources)[1]
    function = re.search(rf"^def {asked}\(.*\n((?: .*|\n)+)", COMMON, re.MULTILINE)[1]
    assert re.search(r"attempt \* plan\.\w*mem_mb\(", function)
    assert "runtime=" in resources
    # The stamp of the kernels holds no number.
    if rule != "warm_kernels":
        assert "version=RESULTS_VERSION[" in directive(rule, "params")


@pytest.mark.parametrize("rule", RULES)
def test_log_and_benchmark_of_a_rule_lie_beside_each_other_as_its_outputs_do(rule):
    (log,), (benchmark,) = quoted(directive(rule, "log")), quoted(directive(rule, "benchmark"))
    assert log.endswith(".log")
    assert benchmark == log.removesuffix(".log") + ".benchmark.tsv"
    outputs = [path for path in quoted(directive(rule, "output")) if path.startswith("results/")]
    folders = {str(Path(path).parent) for path in outputs}
    assert str(Path(log).parent).replace("logs", "results", 1) in folders


def test_every_version_of_results_belongs_to_a_rule():
    used = re.findall(r'RESULTS_VERSION\["(\w+)"\]', "".join(SMK.values()))
    assigned = re.findall(r'^    "(\w+)": \d+,$', MODULES["condrand.version"].read_text(), re.M)
    assert assigned
    assert sorted(set(used)) == sorted(assigned)


def test_cluster_words_live_in_profiles_only():
    files = [ROOT / "Snakefile", *SMK, *MODULES.values(), *ENTRIES.values()]
    files += (ROOT / "workflow" / "schemas").iterdir()
    assert [f.name for f in files if re.search(r"(?i)slurm|sbatch", f.read_text())] == []


# Imports


def test_imports_make_no_circle():
    try:
        list(TopologicalSorter({name: ours(name) for name in MODULES}).static_order())
    except CycleError as error:
        pytest.fail(f"imports make a circle: {' -> '.join(error.args[1])}")


def test_kernels_import_numbers_and_each_other_only():
    for name in below("condrand.kernels"):
        assert foreign(name) <= {"numpy", "numba", "llvmlite"}, name
        assert all(
            starts_with_any(module, "condrand.kernels", "condrand.version")
            for module in ours(name)
        ), name


def test_the_numerical_layers_know_neither_files_nor_tables_nor_engines():
    parts = ("samplers", "statistics", "nulls", "outcomes", "twosample", "groups", "gp")
    allowed = ("condrand.kernels", "condrand.plan", "condrand.errors")
    layers = [f"condrand.{part}" for part in parts]
    for name in below(*layers):
        strangers = [
            module for module in ours(name) if not starts_with_any(module, *layers, *allowed)
        ]
        assert strangers == [], name
        assert foreign(name) <= {"numpy", "scipy", "numba"}, name


def test_plots_import_no_files_and_nothing_that_computes():
    for name in below("condrand.plots"):
        assert [m for m in ours(name) if not starts_with_any(m, "condrand.plots")] == [], name


def test_io_knows_what_it_stores_but_no_stage():
    allowed = (
        *("condrand.io", "condrand.errors", "condrand.statistics.scores"),
        *("condrand.guide_counts", "condrand.plan", "condrand.kernels.blocks"),
    )
    for name in below("condrand.io"):
        assert [m for m in ours(name) if not starts_with_any(m, *allowed)] == [], name


def test_engines_know_no_stage_before_or_after_them():
    stages = [f"condrand.{x}" for x in ("screen", "normalize", "merge", "figures", "plots")]
    for name in below("condrand.engines"):
        assert [m for m in ours(name) if starts_with_any(m, *stages)] == [], name


def test_nothing_in_the_package_knows_snakemake_or_imports_the_entry():
    for name in MODULES:
        assert "snakemake" not in foreign(name), name
        assert "condrand.entry" not in ours(name), name


def test_what_the_snakefile_imports_is_light():
    light = {f"condrand.{x}" for x in ("plan", "config", "errors", "version")}
    texts = [(ROOT / "Snakefile").read_text(), *SMK.values()]
    found = set()
    for text in texts:
        for module, names in re.findall(r"^ *from (condrand[\w.]*) import (.+)$", text, re.M):
            for name in names.split(","):
                inner = f"{module}.{name.strip()}"
                found.add(inner if inner in MODULES else module)
        assert not re.search(r"^ *import condrand", text, re.M)
    assert "condrand.plan" in found
    assert found <= light
    for name in light:
        assert foreign(name) <= {"jsonschema"}, name
        assert ours(name) <= light, name


# Files

OPENS = {
    *("open", "File", "read_text", "read_bytes", "write_text", "write_bytes"),
    *("read_csv", "read_parquet", "read_h5ad", "to_csv", "to_parquet", "write_h5ad"),
    *("save", "savez", "savefig", "copyfile", "copy2", "mkdir", "mkdtemp", "mkstemp", "unlink"),
}
# Beside io/: what must do without its libraries, and why.
OPENS_FILES = {
    "condrand.entry": "the job's log, before anything is imported",
    "condrand.kernels.cache": "the folder of compiled kernels",
    "condrand.plan": "targets.tsv, with the standard library alone",
    "condrand.units": "targets.tsv, with the standard library alone",
    "condrand.version": "the kernels' own sources",
    "condrand.simulate": "writes a screen too large for memory",
}


def opening_calls(tree: ast.AST) -> list[ast.Call]:
    """Calls of the built-in open, and of methods by which files are read or written."""
    return [
        node
        for node in ast.walk(tree)
        if isinstance(node, ast.Call)
        and (
            (isinstance(node.func, ast.Name) and node.func.id == "open")
            or (isinstance(node.func, ast.Attribute) and node.func.attr in OPENS)
        )
    ]


def test_files_are_opened_in_io_and_in_named_exceptions_only():
    opening = {name for name, tree in TREES.items() if opening_calls(tree)}
    assert opening - set(below("condrand.io")) == set(OPENS_FILES)


def is_write(call: ast.Call) -> bool:
    name = call.func.id if isinstance(call.func, ast.Name) else call.func.attr
    if name in {"open", "File"}:
        modes = [a.value for a in call.args if isinstance(a, ast.Constant)]
        return any(set(str(mode)) & set("wax+") for mode in modes)
    return name.startswith(("write_", "to_", "save", "copy")) or name == "new_anndata"


def writes_in_place(tree: ast.AST) -> list[str]:
    """Functions that write under a file's own name instead of by way of `replacing`."""
    found = []

    def visit(node: ast.AST, function: str, safe: bool) -> None:
        if isinstance(node, ast.FunctionDef):
            function = node.name
        if isinstance(node, ast.With):
            safe = safe or any("replacing(" in ast.unparse(item) for item in node.items)
        if isinstance(node, ast.Call) and not safe:
            called = node.func.id if isinstance(node.func, ast.Name) else ""
            if (node in calls and is_write(node)) or called == "new_anndata":
                found.append(function)
        for child in ast.iter_child_nodes(node):
            visit(child, function, safe)

    calls = opening_calls(tree)
    visit(tree, "", False)
    return found


def test_files_appear_whole_or_not_at_all():
    found = {
        (name, function) for name, tree in TREES.items() for function in writes_in_place(tree)
    }
    assert found == {
        # A log grows while the job runs.
        ("condrand.entry", "start"),
        # Given a temporary name: its callers are looked at, as if they wrote.
        ("condrand.io.h5ad", "new_anndata"),
        # Called inside `replacing` with its temporary name.
    }


# Nothing dead, nothing nameless


def schema_keys(schema: dict, path: str = "") -> dict[str, str]:
    """Every key a user may set, by where it stands."""
    keys = {}
    for name, item in schema.get("properties", {}).items():
        keys[f"{path}.{name}"] = name
        keys |= schema_keys(item, f"{path}.{name}")
    for name, item in schema.get("$defs", {}).items():
        keys |= schema_keys(item, name)
    if isinstance(schema.get("items"), dict):
        for item in schema["items"].get("anyOf", [schema["items"]]):
            keys |= schema_keys(item, f"{path}[]")
    return keys


SCHEMA = yaml.safe_load((ROOT / "workflow/schemas/config.schema.yaml").read_text())
# Layers that know tables or arrays only: a column's name there is no key of the configuration.
NO_READERS = ("plots", "kernels", "nulls", "outcomes", "tables", "calibration", "warm")


def keys_read() -> set[str]:
    """Strings by which something is looked up, in the package and in the rules."""
    found = set(re.findall(r'(?:\[|\.get\()"(\w+)"', "".join(SMK.values())))
    found |= {key for text in SMK.values() for key in re.findall(r'"(\w+)"', text)}
    for name, tree in TREES.items():
        if starts_with_any(name, *(f"condrand.{layer}" for layer in NO_READERS)):
            continue
        for node in ast.walk(tree):
            if isinstance(node, ast.Subscript):
                sought = [node.slice]
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
                sought = node.args[:1] if node.func.attr in {"get", "pop"} else []
            elif isinstance(node, ast.comprehension) and isinstance(node.iter, ast.Tuple):
                sought = node.iter.elts
            else:
                sought = []
            found |= {x.value for x in sought if isinstance(x, ast.Constant)}
    return found


def test_every_key_of_the_schema_is_read_somewhere():
    keys = schema_keys(SCHEMA)
    assert {".seed", "crt.resamples", "crt.propensity.clip", "screen.path"} <= set(keys)
    (simulate,) = (
        node
        for node in TREES["condrand.simulate"].body
        if isinstance(node, ast.FunctionDef) and node.name == "simulate_screen"
    )
    arguments = {a.arg for a in (*simulate.args.args, *simulate.args.kwonlyargs)}
    read = keys_read()
    unread = [
        path
        for path, key in keys.items()
        if key not in (arguments if path.startswith("simulate.") else read)
    ]
    assert unread == []


def test_every_make_command_of_the_readme_exists():
    readme = ROOT / "README.md"
    if not readme.exists():
        pytest.skip("no README.md yet")
    named = set(re.findall(r"(?:^|`)make ([a-z][a-z-]*)\b", readme.read_text(), re.MULTILINE))
    targets = set(re.findall(r"^([a-z][a-z-]*):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    assert {"demo", "run"} <= named
    assert named <= targets


def test_no_module_is_a_drawer_for_odds_and_ends():
    drawers = {"utils", "util", "helpers", "helper", "misc", "common", "tools"}
    names = {part for name in MODULES for part in name.split(".")} | set(ENTRIES)
    assert names & drawers == set()


def public(tree: ast.Module | ast.ClassDef) -> list[ast.FunctionDef | ast.ClassDef]:
    found = []
    for node in tree.body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef) and not node.name.startswith("_"):
            found.append(node)
            if isinstance(node, ast.ClassDef):
                found += public(node)
    return found


@pytest.mark.parametrize("name", MODULES)
def test_every_module_and_public_function_has_a_docstring(name):
    assert ast.get_docstring(TREES[name])
    silent = [node.name for node in public(TREES[name]) if not ast.get_docstring(node)]
    assert silent == []


def test_every_test_of_the_workflow_is_named_by_a_sentence():
    for path in sorted(Path(__file__).parent.glob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                assert node.name.count("_") >= 4, f"{path.name}: {node.name}"
