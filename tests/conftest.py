"""Fixtures that several tests share: a small valid screen, and the folder of real data."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import yaml

from condrand.config import complete_config, needs_of, outcomes_of
from condrand.screen import load_screen

ROOT = Path(__file__).parents[1]

N_CELLS = 60
TARGET_OF = {"a1": "A", "a2": "A", "b1": "B", "ntc1": "non-targeting", "ntc2": "non-targeting"}


def screen_parts() -> dict[str, Any]:
    """The parts of a valid screen of 60 cells: 5 guides, 2 targets, 3 programs, 4 genes."""
    rng = np.random.default_rng(1)
    cells = [f"cell{i}" for i in range(N_CELLS)]
    carried = np.zeros((N_CELLS, len(TARGET_OF)))
    # Every guide has 12 cells; every fourth cell of a guide carries the next guide too.
    for i in range(N_CELLS):
        carried[i, i % 5] = 1
        carried[i, (i + 1) % 5] = i % 4 == 0
    counts = rng.poisson(2.0, (N_CELLS, 4)) + 1.0
    obs = pd.DataFrame(
        {
            "n_umis": rng.integers(1000, 5000, N_CELLS).astype(float),
            "p_mito": rng.random(N_CELLS),
            "batch": pd.Categorical(rng.choice(["one", "two", "three"], N_CELLS)),
        },
        index=cells,
    )
    return {
        "X": sp.csr_matrix(counts),
        "obs": obs,
        "var": pd.DataFrame(index=["GENE1", "GENE2", "GENE3", "GENE4"]),
        "guide_assignment": sp.csr_matrix(carried),
        "cnmf_usage": rng.dirichlet(np.ones(3), N_CELLS),
        "covar": obs[["p_mito", "batch"]],
        "guide_names": np.array(list(TARGET_OF), dtype=object),
        "guide2gene": dict(TARGET_OF),
        "program_names": np.array(["P1", "P2", "P3"], dtype=object),
    }


@pytest.fixture
def parts() -> dict[str, Any]:
    """The parts of a valid screen, to be changed."""
    return screen_parts()


@pytest.fixture
def write_screen(tmp_path: Path) -> Callable[..., Path]:
    """Write a small screen and give its path.

    A keyword names a part of `screen_parts` to replace, or to leave out where it is None; further
    parts go to ``layers``, ``obsm``, ``uns`` and ``raw`` (an AnnData).
    """

    def write(name: str = "mine.h5ad", **changes: Any) -> Path:
        made = {**screen_parts(), **changes}
        obsm = {k: made[k] for k in ("guide_assignment", "cnmf_usage", "covar")}
        uns = {k: made[k] for k in ("guide_names", "guide2gene", "program_names")}
        obsm.update(made.get("obsm", {}))
        uns.update(made.get("uns", {}))
        data = ad.AnnData(
            made["X"],
            obs=made["obs"],
            var=made["var"],
            obsm={key: value for key, value in obsm.items() if value is not None},
            uns={key: value for key, value in uns.items() if value is not None},
            layers=made.get("layers"),
        )
        if "raw" in made:
            data.raw = made["raw"]
        path = tmp_path / name
        data.write_h5ad(path)
        return path

    return write


@pytest.fixture(scope="session")
def schema() -> dict[str, Any]:
    """The schema of the configuration, parsed."""
    return yaml.safe_load((ROOT / "workflow" / "schemas" / "config.schema.yaml").read_text())


@pytest.fixture
def complete(schema: dict[str, Any]) -> Callable[..., dict[str, Any]]:
    """Complete a configuration of one screen `s` and one analysis, named as its engine."""

    def make(
        screen: dict[str, Any] | None = None, engine: str = "crt", **analysis: Any
    ) -> dict[str, Any]:
        config = {
            "screens": {"s": {"path": "mine.h5ad", **(screen or {})}},
            "analyses": {engine: {"engine": engine, **analysis}},
        }
        return complete_config(config, schema, "config.yaml")

    return make


@pytest.fixture
def load(tmp_path: Path, complete: Callable[..., dict[str, Any]]) -> Callable[..., Path]:
    """Run the load stage as the workflow does; give the folder of what it wrote."""

    def run(
        path: Path, screen: dict[str, Any] | None = None, folder: str = "out", **analysis: Any
    ) -> Path:
        config = complete(screen, **analysis)
        out = tmp_path / folder
        load_screen(
            path,
            config["screens"]["s"],
            outcomes_of(config, "s"),
            needs_of(config, "s"),
            config["scatter"]["batches"],
            out / "screen.h5ad",
            out / "targets.tsv",
        )
        return out

    return run


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of real data; tests that need it are skipped where there is none."""
    folder = Path(os.environ.get("CONDRAND_DATA") or ROOT / ".." / "shared" / "data")
    if not folder.is_absolute():
        folder = ROOT / folder
    if not folder.is_dir():
        pytest.skip(f"no real data at {folder}: set CONDRAND_DATA")
    return folder.resolve()


@pytest.fixture(scope="session")
def limma(data_dir: Path) -> Path:
    """The folder of R's results on linear models."""
    folder = data_dir / "limma"
    if not folder.is_dir():
        pytest.skip(f"no references at {folder}")
    return folder
