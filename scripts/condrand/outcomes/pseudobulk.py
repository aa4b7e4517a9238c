"""Cells summed to samples: which cells are one sample, and the sums of their rows."""

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp


def group_cells(columns: Sequence[np.ndarray]) -> tuple[np.ndarray, np.ndarray]:
    """Number cells by what they have in all columns.

    Parameters
    ----------
    columns : sequence of int64, shape (n_cells,)
        Codes of levels, -1 where missing.

    Returns
    -------
    samples : int64, shape (n_cells,)
        Sample of each cell, -1 where a level is missing.
    levels : int64, shape (n_samples, n_columns)
        Codes of each sample; sorted, by the first column first. Every sample has cells.
    """
    codes = np.stack(columns, axis=1)
    whole = np.all(codes >= 0, axis=1)
    levels, found = np.unique(codes[whole], axis=0, return_inverse=True)
    samples = np.full(len(codes), -1, np.int64)
    samples[whole] = found.ravel()
    return samples, levels


def sample_names(labels: Sequence[Sequence[str]]) -> list[str]:
    """Join the labels of each sample by dots; by bars where dots would make two alike."""
    separator = "."
    while True:
        names = [separator.join(of_sample) for of_sample in labels]
        if len(set(names)) == len(names):
            return names
        separator = "|" if separator == "." else separator + "|"


def constant_codes(samples: np.ndarray, codes: np.ndarray, n_samples: int) -> np.ndarray | None:
    """What the cells of each sample have in a column; None where some differ.

    Parameters
    ----------
    samples : int64, shape (n_cells,)
        Sample of each cell, -1 for none. Every sample has cells.
    codes : int64, shape (n_cells,)
        Of the column's values; -1, missing, is a value too.
    n_samples : int

    Returns
    -------
    int64, shape (n_samples,), or None
    """
    inside = samples >= 0
    of_sample = np.zeros(n_samples, np.int64)
    of_sample[samples[inside]] = codes[inside]
    return of_sample if np.array_equal(of_sample[samples[inside]], codes[inside]) else None


def add_rows(sums: np.ndarray, rows: np.ndarray | sp.csr_matrix, samples: np.ndarray) -> None:
    """Add rows of cells to the sums of their samples.

    Parameters
    ----------
    sums : float64[:, ::1], shape (n_samples, n_features)
        Changed in place.
    rows : numbers, shape (n_cells, n_features)
    samples : int64, shape (n_cells,)
        Sample of each row, -1 for none.

    Notes
    -----
    Entries are added one by one in the order of the rows, so sums have the same bits however the
    rows are cut into pieces, and stored dense or sparse.
    """
    if sp.issparse(rows):
        of_entry = np.repeat(samples, np.diff(rows.indptr))
        wanted = of_entry >= 0
        places = of_entry[wanted] * sums.shape[1] + rows.indices[wanted]
        np.add.at(sums.reshape(-1), places, rows.data[wanted].astype(np.float64))
        return
    for sample, row in zip(samples, rows, strict=True):
        if sample >= 0:
            sums[sample] += row
