"""Bad input as a user meets it: `snakemake` itself, its exit code, and what the terminal shows."""

import subprocess
from pathlib import Path

import pytest

import launch

ROOT = Path(__file__).parents[2]
ONE_SCREEN = "screens: {mine: {path: mine.h5ad}}\nanalyses: {crt: {engine: crt}}\n"


@pytest.fixture
def snakemake(tmp_path):
    """Run the workflow in a folder of its own with a config given as YAML; give code, terminal."""

    def run(config: str) -> tuple[int, str]:
        (tmp_path / "mine.yaml").write_text(config)
        done = subprocess.run(
            [
                *launch.snakemake_command(),
                *("-s", str(ROOT / "Snakefile"), "--directory", str(tmp_path)),
                *("--configfile", str(tmp_path / "mine.yaml"), "--cores", "1"),
            ],
            env=launch.snakemake_environment(),
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert "Traceback" not in done.stdout
        results = tmp_path / "results"
        assert [file for file in results.rglob("*") if file.is_file()] == []
        return done.returncode, done.stdout

    return run


def test_misspelt_key_stops_the_run_at_once_with_the_nearest(snakemake, tmp_path):
    code, terminal = snakemake(ONE_SCREEN.replace("crt}", "crt, resample: 99, tail: lefft}"))
    assert code == 1
    assert terminal.count("mine.yaml: 2 problems") == 1
    assert terminal.count("analyses.crt.resample: is no key of this section") == 1
    assert "did you mean 'resamples'?" in terminal
    assert "analyses.crt.tail: is 'lefft'" in terminal
    assert "did you mean 'left'?" in terminal
    assert not (tmp_path / "logs").exists()


def test_bad_screen_stops_the_run_with_all_its_problems_shown_once(
    snakemake, write_screen, parts, tmp_path
):
    calls = parts["guide_assignment"].toarray()
    calls[0, 0] = -1
    write_screen(guide_assignment=calls, covar=None)
    code, terminal = snakemake(ONE_SCREEN)
    assert code == 1
    message = (
        "mine.h5ad: 2 problems\n"
        "  1. obsm/guide_assignment: 1 negative values (-1.0 in cell 'cell0', column 'a1')\n"
        "      -> store 0 for no guide, 1 or a count for one.\n"
        "  2. covar: there is no such key (covariates)\n"
        "      -> set `covariates.key` to the right one."
    )
    assert terminal.count(message) == 1
    assert terminal.count("2 problems") == 1
    log = (tmp_path / "logs" / "mine" / "screen.log").read_text()
    assert log.count(message) == 1
    assert "Traceback" not in log


def test_truncated_screen_stops_the_run_and_is_named(snakemake, write_screen):
    path = write_screen()
    path.write_bytes(path.read_bytes()[:-100])
    code, terminal = snakemake(ONE_SCREEN)
    assert code == 1
    assert terminal.count("mine.h5ad: the file is truncated") == 1
    assert "copy or download it again" in terminal


def test_missing_screen_stops_the_run_at_once_and_is_named(snakemake, tmp_path):
    code, terminal = snakemake(ONE_SCREEN)
    assert code == 1
    assert "mine.h5ad" in terminal
    assert not (tmp_path / "logs").exists()
