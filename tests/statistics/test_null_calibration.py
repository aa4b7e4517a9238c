"""p values of screens without any effect, whose covariates move treatment and outcome alike."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from condrand.calibration import calibration_row
from condrand.config import complete_config, outcomes_of
from condrand.covariates import orthonormal_basis
from condrand.engines import crt
from condrand.io.outcome import Outcome, read_outcome, read_treated
from condrand.io.stages import StoredScreen
from condrand.normalize import normalize, transform_outcome
from condrand.screen import load_screen
from condrand.simulate import simulate_screen
from condrand.statistics import ols
from condrand.units import units_of_batch

N_SCREENS = 8
SCHEMA = Path(__file__).parents[2] / "workflow" / "schemas" / "config.schema.yaml"
SETTINGS = complete_config(
    {"screens": {"s": {"path": "null.h5ad"}}, "analyses": {"crt": {"engine": "crt"}}},
    yaml.safe_load(SCHEMA.read_text()),
    "test",
)


def null_screen(folder, seed):
    path = folder / f"null_{seed}.h5ad"
    simulate_screen(
        path,
        n_cells=6000,
        n_programs=10,
        n_targets=280,
        causal_fraction=0.0,
        confounding=1.0,
        near_zero_fraction=0.0,
        seed=seed,
    )
    screen, targets, outcome = (folder / f"{seed}-{x}" for x in ("screen", "targets.tsv", "out"))
    settings = SETTINGS["screens"]["s"]
    load_screen(path, settings, outcomes_of(SETTINGS, "s"), "all", True, 1, screen, targets)
    normalize(screen, outcome, SETTINGS["analyses"]["crt"]["outcome"])
    return screen, targets, read_outcome(outcome)


def run_crt(screen, targets, outcome, resamples=1023):
    units = units_of_batch(targets, 0, "all", "none")
    kinds, names = map(list, zip(*units, strict=True))
    batch = crt.prepare(outcome, kinds, names, read_treated(screen, units))
    blocks = range(-(-resamples // 1024))
    summaries = crt.resample(outcome, batch, blocks, resamples, seed=5, threads=2)
    settings = {"tail": "two_sided", "calibration": "skew_normal"}
    return crt.batch_table(outcome, batch, summaries, ("s", "crt"), settings), batch


@pytest.fixture(scope="module")
def null_table(tmp_path_factory):
    folder = tmp_path_factory.mktemp("null")
    tables, aucs = [], []
    for seed in range(N_SCREENS):
        table, batch = run_crt(*null_screen(folder, seed))
        tables.append(table)
        aucs.append(batch.diagnostics["auc"])
    return pd.concat(tables, ignore_index=True), np.concatenate(aucs)


@pytest.mark.slow
def test_the_null_screens_are_confounded(null_table):
    # Otherwise the test below would show nothing about confounding.
    assert np.median(null_table[1]) > 0.65


@pytest.mark.slow
@pytest.mark.parametrize("column", ["p_empirical", "p_value"])
@pytest.mark.parametrize("level", [0.05, 0.01])
def test_null_p_values_are_uniform_under_confounding(null_table, column, level):
    p = null_table[0][column].dropna().to_numpy()
    assert p.size >= 20_000
    row = calibration_row(p)
    print(column, {key: round(value, 5) for key, value in row.items()})
    # The largest attainable level below the nominal one, for p = (1 + k) / 1024.
    nominal = np.floor(np.nextafter(level * 1024, 0)) / 1024 if column == "p_empirical" else level
    error = np.sqrt(level * (1 - level) / p.size)
    # Three standard errors: 0.27 % false alarms were the tests independent.
    assert abs(row[f"fraction_below_{level:g}"] - nominal) < 3 * error


@pytest.mark.slow
def test_without_covariates_the_same_screens_are_not_calibrated(tmp_path):
    # The confounding is real: a test that ignores the covariates must fail on it.
    screen, targets, outcome = null_screen(tmp_path, 0)
    section = SETTINGS["analyses"]["crt"]["outcome"]
    clr, _ = transform_outcome(StoredScreen.read(screen, section).values, section)
    none = np.zeros((outcome.n_cells, 0))
    scores = ols.score(clr, orthonormal_basis(none))
    table, _ = run_crt(screen, targets, Outcome(scores, none, outcome.features, "", ""))
    assert np.mean(table["p_empirical"] < 0.05) > 0.2
