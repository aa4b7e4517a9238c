"""Containers pin what they hold, and the user's guide names commands and files that exist."""

import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import launch

ROOT = Path(__file__).resolve().parents[2]
DOCKERFILE, DEFINITION = ROOT / "envs/Dockerfile", ROOT / "envs/condrand.def"
GUIDE = ROOT / "docs/cluster.md"
MAKEFILE = (ROOT / "Makefile").read_text()
LOCK = "envs/requirements.lock"
IMAGE = re.compile(
    r"python:(?P<python>3\.\d+)\.\d+-slim-(?P<system>[a-z]+)(@sha256:[0-9a-f]{64})?"
)
# Placeholders of the guide for a user's own files.
YOURS = {"my_screen.yaml", "pilot.yaml", "condrand.sif"}


def commands_in(text: str) -> list[str]:
    """Lines that are run, continued ones joined, without comments."""
    lines = re.sub(r"\\\n\s*", " ", text).splitlines()
    return [line.strip() for line in lines if line.strip() and not line.strip().startswith("#")]


def sections() -> dict[str, list[str]]:
    """Lines of the Apptainer definition by section; those before any under an empty name."""
    found: dict[str, list[str]] = {"": []}
    name = ""
    for line in commands_in(DEFINITION.read_text()):
        if line.startswith("%"):
            name = line.removeprefix("%")
            found[name] = []
        else:
            found[name].append(line)
    return found


def base_images() -> dict[str, str]:
    (of_docker,) = re.findall(r"^FROM (\S+)$", DOCKERFILE.read_text(), re.MULTILINE)
    header = dict(line.split(": ", 1) for line in sections()[""])
    assert header["Bootstrap"] == "docker"
    return {"Dockerfile": of_docker, "condrand.def": header["From"]}


def test_both_containers_start_from_one_image_of_one_patch_release():
    images = base_images()
    assert images["Dockerfile"] == images["condrand.def"]
    image = IMAGE.fullmatch(images["Dockerfile"])
    assert image, images
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    assert project["requires-python"] == f">={image['python']}"
    assert f"  - python={image['python']}\n" in (ROOT / "envs/condrand.yaml").read_text()


@pytest.mark.parametrize("file", [DOCKERFILE, DEFINITION], ids=lambda file: file.name)
def test_what_is_installed_comes_from_the_lock_alone_with_hashes(file):
    text = "\n".join(commands_in(file.read_text()))
    installs = re.findall(r"pip3? install ([^&|;\n]*)", text)
    assert len(installs) == 1 == len(re.findall(r"\binstall\b", text))
    words = installs[0].split()
    assert "--require-hashes" in words
    assert words[words.index("--requirement") + 1] == "/opt/condrand/requirements.lock"
    # No package beside the lock.
    taken = {"--requirement", "/opt/condrand/requirements.lock"}
    assert [word for word in words if word not in taken and not word.startswith("--")] == []
    assert not re.search(r"\b(conda|mamba|curl|wget|git|apt|apt-get|easy_install)\b", text)


def test_the_lock_is_copied_to_where_it_is_read_from():
    (copied,) = re.findall(r"^COPY (.+)$", DOCKERFILE.read_text(), re.MULTILINE)
    for words in (copied.split(), *(line.split() for line in sections()["files"])):
        assert words == [LOCK, "/opt/condrand/requirements.lock"]
    assert (ROOT / LOCK).is_file()


def test_both_containers_run_the_same_commands():
    (run,) = [line for line in commands_in(DOCKERFILE.read_text()) if line.startswith("RUN ")]
    lines = (run.removeprefix("RUN "), " ".join(sections()["post"]))
    # How the commands are joined differs.
    in_docker, in_apptainer = (re.sub(r"[{};]|&&", " ", line).split() for line in lines)
    assert in_docker == in_apptainer


def test_no_image_carries_the_checkout_or_a_secret():
    for file in (DOCKERFILE, DEFINITION):
        text = file.read_text()
        assert not re.search(r"^(ADD|COPY \.|ARG|USER root)\b", text, re.MULTILINE)
        assert "token" not in text.lower() and "password" not in text.lower()


def test_what_the_definition_tests_is_locked():
    (test,) = sections()["test"]
    imported = re.search(r'import ([\w, ]+)"', test)[1].split(", ")
    locked = re.findall(r"^([\w.-]+)==", (ROOT / LOCK).read_text(), re.MULTILINE)
    assert set(imported) <= set(locked)


# The guide


def fences() -> list[str]:
    return re.findall(r"^```\n(.*?)^```$", GUIDE.read_text(), re.MULTILINE | re.DOTALL)


def shown_commands() -> list[str]:
    """Commands of the guide: lines of code blocks, and code within the text."""
    prose = re.sub(r"^```\n.*?^```$", "", GUIDE.read_text(), flags=re.MULTILINE | re.DOTALL)
    spans = re.findall(r"`([^`]+)`", prose)
    lines = [line for block in fences() for line in block.splitlines()]
    starts = r"(make|\.venv/bin/python|apptainer|docker|module|git|cd) "
    return [line.strip() for line in lines + spans if re.match(starts, line.strip())]


def python_arguments(command: str) -> list[str]:
    words = shlex.split(command)
    at = next(i for i, word in enumerate(words) if word.endswith("python"))
    return words[at + 1 :]


def test_the_guide_shows_each_kind_of_command():
    starts = {command.split()[0] for command in shown_commands()}
    assert {"make", ".venv/bin/python", "apptainer", "docker"} <= starts


def test_targets_and_variables_of_make_in_the_guide_exist():
    targets = set(re.findall(r"^([a-z][a-z-]*):", MAKEFILE, re.MULTILINE))
    variables = set(re.findall(r"\$[({](\w+)[)}]", MAKEFILE))
    shown = [shlex.split(c)[1:] for c in shown_commands() if c.startswith("make ")]
    assert {"env", "demo", "plan", "run"} <= {words[0] for words in shown}
    for words in shown:
        assert words[0] in targets, words
        for word in words[1:]:
            name, _, value = word.partition("=")
            if word in ("&&", "rm"):
                continue
            assert name in variables and value, words


def test_options_of_the_launcher_in_the_guide_exist():
    shown = [c for c in shown_commands() if "scripts/launch.py" in c]
    assert len(shown) >= 4
    for command in shown:
        script, *arguments = python_arguments(command)
        assert (ROOT / script).is_file()
        options, _ = launch.parse(arguments)
        assert options.config in YOURS | {"config/config.yaml"}
        assert (ROOT / options.profile / "config.yaml").is_file()


def test_options_of_snakemake_in_the_guide_exist():
    text = GUIDE.read_text()
    shown = set()
    for command in shown_commands():
        if "scripts/launch.py" in command and " -- " in command:
            shown |= set(re.findall(r"(--[a-z-]+)", command.split(" -- ")[1]))
        elif "-m snakemake" in command:
            shown |= set(re.findall(r"(--[a-z-]+)", command))
    shown |= set(re.findall(r"`(--set-[a-z]+)", text))
    assert {"--dry-run", "--set-resources", "--software-deployment-method"} <= shown
    done = subprocess.run(
        [sys.executable, "-m", "snakemake", "--help"], capture_output=True, text=True
    )
    known = set(re.findall(r"(--[a-z-]+)", done.stdout))
    assert shown <= known


def test_files_and_rules_that_the_guide_names_exist():
    text = GUIDE.read_text()
    named = set(re.findall(r"`((?:config|docs|envs|profiles|scripts)/[\w./-]+)`", text))
    assert {"envs/condrand.def", "envs/Dockerfile", "profiles/slurm/config.yaml"} <= named
    assert [path for path in sorted(named) if not (ROOT / path).exists()] == []
    rules = "".join(path.read_text() for path in (ROOT / "workflow/rules").glob("*.smk"))
    for rule in re.findall(r"--set-resources (\w+):", text):
        assert f"rule {rule}:" in rules


def test_links_within_the_guide_lead_somewhere():
    text = GUIDE.read_text()
    headings = re.findall(r"^#+ (.+)$", text, re.MULTILINE)
    anchors = {re.sub(r"[^\w -]", "", h).lower().replace(" ", "-") for h in headings}
    links = re.findall(r"\]\(#([\w-]+)\)", text)
    assert links and set(links) <= anchors
    for path in re.findall(r"\]\(([^#)][^)]*)\)", text):
        assert (GUIDE.parent / path).exists(), path


def test_messages_that_the_guide_explains_are_those_of_the_program():
    sources = "".join(path.read_text() for path in (ROOT / "scripts").rglob("*.py"))
    table = re.findall(r"^\| ([^|]*`[^|]+) \|", GUIDE.read_text(), re.MULTILINE)
    assert len(table) > 5
    of_others = {"OUT_OF_MEMORY", "TIMEOUT", "No space left on device"}
    explained = {message.rstrip(" …") for cell in table for message in re.findall("`(.+?)`", cell)}
    for message in explained - of_others:
        # A part of it may be filled in.
        assert message in sources or message.rsplit(" ", 1)[0] in sources, message


def test_what_was_not_run_is_said_to_be():
    text = " ".join(GUIDE.read_text().split())
    assert "none of these three has been run" in text
