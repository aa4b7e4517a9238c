"""States of cells that a user's file holds, such as principal or diffusion components."""

from collections.abc import Sequence

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems
from condrand.inputs.elements import as_matrix, find
from condrand.io.h5ad import Group

# A matrix of more columns is expression, and no place where a cell lies.
_MOST_COLUMNS = 1000


def read_embeddings(
    file: Group, keys: Sequence[str], cells: pd.Index, problems: Problems
) -> dict[str, np.ndarray]:
    """Cell states by key.

    Parameters
    ----------
    file : h5py.File or zarr.Group
    keys : sequence of str
        As in ``embedding.key`` and ``plot_embedding``.
    cells : pandas.Index
    problems : Problems
        Receives keys that are not there or do not fit. Missing values are judged later, in the
        cells that are compared.

    Returns
    -------
    dict of str to float64, shape (n_cells, p)
    """
    what, found = "cell states", {}
    for key in keys:
        where = find(file, key, "embedding.key` or `plot_embedding", what, problems)
        states = where and as_matrix(file, where, len(cells), what, problems)
        if not states:
            continue
        n_columns = states.shape[1]
        if not 0 < n_columns <= _MOST_COLUMNS:
            problems.add(
                where,
                f"has {n_columns:,} columns, which are no cell states",
                "name components, such as X_pca, or leave `embedding.key` out to compute them.",
            )
            continue
        values = np.empty(states.shape)
        for start, stop, rows in states.pieces():
            values[start:stop] = rows.toarray() if sp.issparse(rows) else rows
        found[key] = values
    return found
