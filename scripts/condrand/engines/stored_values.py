"""How an engine takes the stored values of an outcome: their transform, and library sizes."""

from collections.abc import Mapping
from typing import Any

import h5py
import numpy as np

from condrand.io.blocks import block_matrices, outcome_name
from condrand.io.h5ad import read
from condrand.outcomes.expression import automatic


def transform_of(file: h5py.File, outcome: Mapping[str, Any]) -> tuple[str, np.ndarray]:
    """The transform of an outcome, and what the counts of each cell are divided by.

    Parameters
    ----------
    file : h5py.File
        A stored screen.
    outcome : mapping
        The analysis's section.

    Returns
    -------
    transform : str
        Never "auto".
    library : float64, shape (n_cells,) or (0,)
        None where the transform needs none.
    """
    (first, *_) = block_matrices(file, outcome["key"])
    transform = outcome["transform"]
    if transform == "auto":
        transform = automatic(first.kind == "csr")
    if transform != "log_normalize":
        return transform, np.zeros(0)
    column = outcome["library_size"]
    source = f"sums.{outcome_name(outcome['key'])}" if column is None else f"library_size.{column}"
    library = read(file, f"obsm/{source}").ravel().astype(np.float64)
    # A cell without counts holds zeros alone, whatever they are divided by.
    return transform, np.where(library > 0, library, 1.0)
