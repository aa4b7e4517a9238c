"""Fixtures of the oracle tests alone: results of other implementations, read."""

import numpy as np
import pytest

from references import read


@pytest.fixture(scope="session")
def limma_table(limma):
    """Read a table of limma's by its name; identifiers become the index."""

    def read_indexed(name, index="EntrezGeneID"):
        table = read(limma / name)
        return table.set_index(index) if index in table else table

    return read_indexed


@pytest.fixture(scope="session")
def groups(limma_table):
    """Cell means of basal and luminal samples."""
    luminal = (limma_table("gse60450_targets.csv").immunophenotype == "luminal").to_numpy(float)
    return np.column_stack([1 - luminal, luminal])


@pytest.fixture(scope="session")
def ref(data_dir):
    """All arrays of kompot's results."""
    path = data_dir / "kompot" / "kompot_ref.npz"
    if not path.exists():
        pytest.skip(f"no references at {path}")
    with np.load(path) as file:
        return {name: file[name] for name in file.files}
