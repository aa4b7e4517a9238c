"""Who is compared with whom: what every job of a dex analysis shares, as a file."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from condrand.io.atomic import replacing
from condrand.io.h5ad import new_anndata, read, write_element


@dataclass(frozen=True)
class Comparisons:
    """Who is compared with whom, and on which values: what every job of an analysis shares.

    Attributes
    ----------
    kinds, names : list of str
        Of the units.
    batch : int64, shape (n_units,)
    cells : list of int64
        Of each unit, sorted.
    within : bool, shape (n_units,)
        Units among the control cells, compared with the others.
    control : int64
        Control cells, sorted.
    library : float64, shape (n_cells,) or (0,)
        Library sizes; none if empty.
    words : dict
        ``key``, ``transform``, ``target_sum``, ``ties``; ``values`` in words; ``is_counts``:
        whether all of them are; ``control``, ``control_words``; ``digest`` of all.
    """

    kinds: list[str]
    names: list[str]
    batch: np.ndarray
    cells: list[np.ndarray]
    within: np.ndarray
    control: np.ndarray
    library: np.ndarray
    words: dict[str, Any]


def write_comparisons(
    path: str | Path, comparisons: Comparisons, cells: pd.Index, features: list[str]
) -> None:
    """Write them as .h5ad, with names of cells and features.

    Parameters
    ----------
    path : str or pathlib.Path
    comparisons : Comparisons
        The digest of the values in its words becomes one of everything here.
    cells : pandas.Index
    features : list of str
    """
    sizes = np.array([members.size for members in comparisons.cells], np.int64)
    arrays = {
        "unit_batch": comparisons.batch,
        "unit_ends": np.cumsum(sizes),
        "unit_cells": np.concatenate([np.zeros(0, np.int64), *comparisons.cells]),
        "unit_within": comparisons.within,
        "control_cells": comparisons.control,
        "library": comparisons.library,
    }
    names = {"unit_kind": comparisons.kinds, "unit_name": comparisons.names}
    digest = hashlib.blake2b(digest_size=16)
    for array in arrays.values():
        digest.update(np.ascontiguousarray(array).data)
    words = "\0".join(
        [*map(str, comparisons.words.items()), *comparisons.kinds, *comparisons.names, *features]
    )
    digest.update(words.encode())
    with (
        replacing(path) as temporary,
        new_anndata(temporary, cells, pd.Index(features, dtype=object)) as file,
    ):
        for key, value in {**arrays, **comparisons.words, "digest": digest.hexdigest()}.items():
            write_element(file["uns"], key, value)
        for key, value in names.items():
            write_element(file["uns"], key, np.array(value, dtype=object))


def read_comparisons(path: str | Path) -> Comparisons:
    """Read what :func:`write_comparisons` wrote."""
    with h5py.File(path, "r") as file:
        uns = {key: read(file, f"uns/{key}") for key in file["uns"]}
    ends = uns.pop("unit_ends")
    arrays = [uns.pop(f"unit_{name}") for name in ("kind", "name", "batch", "cells", "within")]
    kinds, names, batch, members, within = arrays
    control, library = uns.pop("control_cells"), uns.pop("library")
    return Comparisons(
        [str(kind) for kind in kinds],
        [str(name) for name in names],
        batch,
        np.split(members, ends)[: ends.size],
        within,
        control,
        library,
        {
            key: value.item() if isinstance(value, np.generic) else value
            for key, value in uns.items()
        },
    )
