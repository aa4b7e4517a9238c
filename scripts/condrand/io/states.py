"""Cells of two conditions and their states: what every job of a kompot analysis shares, as a file.

Beside it lie arrays of :func:`.write_arrays`, whose keys hold ``states``, the digest of this file:

- ``abundance.h5``, n cells: ``log_density_condition1``, ``log_density_condition2``,
  ``log_fold_change``, ``uncertainty`` (a variance), ``zscore``, ``neg_log10_ptp``: float64 (n,);
  ``direction``: int8 (n,), -1, 0 or 1. The key also has ``threshold``, ``ptp``, ``sides``,
  ``synchronize``, ``length_scale_condition1``, ``length_scale_condition2``,
  ``dimension_condition1``, ``dimension_condition2``, ``n_samples`` (two numbers, 0 where samples
  do not count), ``notes``.
- ``shard-*.h5``, G genes of blocks ``first_block`` to ``end_block`` (in the key, with
  ``version`` and ``settings``): ``mean_log_fold_change``, ``mahalanobis``, ``mean_condition1``,
  ``mean_condition2``: float64 (G,), NaN for a constant gene.
- ``null-*.h5``: ``mahalanobis``: float64 (N,), the N null genes of the run; ``gene``: int64 (N,),
  which gene each was made of.
- ``panels.h5``, n cells and the k top genes, named by ``genes`` in the key: ``condition1``,
  ``condition2``, ``fold_change``: float64 (n, k).
"""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd

from condrand.io.atomic import replacing
from condrand.io.h5ad import new_anndata, read, write_element


@dataclass(frozen=True)
class States:
    """Cells of both conditions, n of them, and where they lie among all states.

    Attributes
    ----------
    cells : int64, shape (n,)
        Rows of the screen, sorted.
    names : list of str
    x : float64, shape (n, p)
        Cell states.
    second : bool, shape (n,)
        Whether a cell is of the second condition.
    samples : int64, shape (n,), or None
        Sample of each cell, a number of `sample_levels`; None where samples do not count.
    sample_levels : list of str
    landmarks : float64, shape (m, p)
    library : float64, shape (n,) or (0,)
        Library sizes; none if empty.
    plotted : float64, shape (n, 2)
        Where cells are drawn.
    features : list of str
        All genes.
    constant : bool, shape (n_genes,)
        Genes of one value in all these cells, which have no test.
    words : dict
        ``levels`` (list of two names, the first condition first), ``condition`` and ``sample``
        (columns of obs, "" for none), ``length_scale``, ``transform``, ``target_sum``, ``values``
        (in words), ``effect_scale``, ``state`` (in words), ``plotted`` (in words), ``key`` of the
        outcome and ``outcome_digest`` of its values, ``uses_samples``: whether their variance
        counts; ``notes``, a line each; ``digest`` of everything, once written.
    """

    cells: np.ndarray
    names: list[str]
    x: np.ndarray
    second: np.ndarray
    samples: np.ndarray | None
    sample_levels: list[str]
    landmarks: np.ndarray
    library: np.ndarray
    plotted: np.ndarray
    features: list[str]
    constant: np.ndarray
    words: dict[str, Any]


def embedding_name(key: str) -> str:
    """Name of cell states in obsm of the stored screen."""
    return f"embedding.{key.replace('/', ':')}"


def write_states(path: str | Path, states: States) -> None:
    """Write them as .h5ad, which anndata opens: obs, obsm and var without a matrix.

    Parameters
    ----------
    path : str or pathlib.Path
    states : States
        The digest of the values in its words becomes one of everything here.
    """
    arrays = {"cells": states.cells, "landmarks": states.landmarks, "library": states.library}
    by_cell = {"state": states.x, "plotted": states.plotted}
    words = {**states.words, "levels": np.array(states.words["levels"], dtype=object)}
    digest = hashlib.blake2b(digest_size=16)
    parts = [*arrays.items(), *by_cell.items()]
    parts += [("second", states.second), ("constant", states.constant)]
    if states.samples is not None:
        parts.append(("samples", states.samples))
    for name, array in parts:
        digest.update(f"{name} {array.dtype.str} {array.shape}\0".encode())
        digest.update(np.ascontiguousarray(array).data)
    for texts in (map(str, sorted(states.words.items())), states.features, states.sample_levels):
        # Lengths, so that names are not told apart by where they join alone.
        digest.update(b"".join(b"%d:%b" % (len(t), t) for t in (text.encode() for text in texts)))
    words["digest"] = digest.hexdigest()
    obs = _obs(states)
    var = pd.DataFrame(
        {"constant": states.constant}, index=pd.Index(states.features, dtype=object)
    )
    with replacing(path) as temporary, new_anndata(temporary, obs.index, var.index) as file:
        write_element(file, "obs", obs)
        write_element(file, "var", var)
        for name, array in by_cell.items():
            write_element(file["obsm"], name, array)
        for name, value in {**arrays, **words}.items():
            write_element(file["uns"], name, value)


def read_states(path: str | Path) -> States:
    """Read what :func:`write_states` wrote."""
    with h5py.File(path, "r") as file:
        uns = {name: read(file, f"uns/{name}") for name in file["uns"]}
        arrays = [uns.pop(name) for name in ("cells", "landmarks", "library")]
        condition = read(file, "obs/condition")
        samples = read(file, "obs/sample") if "sample" in file["obs"] else None
        names = [str(name) for name in read(file, "obs/_index")]
        x, plotted = read(file, "obsm/state"), read(file, "obsm/plotted")
        features = [str(name) for name in read(file, "var/_index")]
        constant = read(file, "var/constant")
    words = {
        name: value.item() if isinstance(value, np.generic) else value
        for name, value in uns.items()
    }
    words["levels"] = [str(level) for level in words["levels"]]
    cells, landmarks, library = arrays
    return States(
        cells,
        names,
        x,
        condition.codes.astype(bool),
        None if samples is None else samples.codes.astype(np.int64),
        [] if samples is None else [str(level) for level in samples.categories],
        landmarks,
        library,
        plotted,
        features,
        constant,
        words,
    )


def write_results(
    path: str | Path,
    states: States,
    columns: Mapping[str, np.ndarray | pd.Categorical],
    genes: list[str],
    layers: Mapping[str, np.ndarray],
) -> None:
    """Write results by cell as .h5ad, without a matrix X.

    Parameters
    ----------
    path : str or pathlib.Path
    states : States
    columns : mapping
        Columns of obs, beside condition and sample.
    genes : list of str
    layers : mapping
        Cells x genes.
    """
    obs = _obs(states).assign(**columns)
    words = ("state", "plotted", "values", "effect_scale", "length_scale", "notes")
    with (
        replacing(path) as temporary,
        new_anndata(temporary, obs.index, pd.Index(genes, dtype=object)) as file,
    ):
        write_element(file, "obs", obs)
        write_element(file["obsm"], "state", states.x)
        write_element(file["obsm"], "plotted", states.plotted)
        for name, layer in layers.items():
            write_element(file["layers"], name, layer)
        write_element(file["uns"], "levels", np.array(states.words["levels"], dtype=object))
        for word in words:
            write_element(file["uns"], word, states.words[word])


def _obs(states: States) -> pd.DataFrame:
    """Condition of each cell, and its sample if there are any."""
    codes, levels = states.second.astype(np.int64), states.words["levels"]
    columns = {"condition": pd.Categorical.from_codes(codes, levels)}
    if states.samples is not None:
        of_cell = pd.Categorical.from_codes(states.samples, states.sample_levels)
        columns["sample"] = of_cell
    return pd.DataFrame(columns, index=pd.Index(states.names, dtype=object))
