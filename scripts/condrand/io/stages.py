"""Files between stages that only load and normalize touch: the stored screen, the outcome."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.io.atomic import replacing
from condrand.io.h5ad import new_anndata, read, write_element
from condrand.statistics.scores import DenseScores, Scores


def outcome_name(key: str) -> str:
    """Name of an outcome's element in the stored screen."""
    return f"outcome.{key.replace('/', ':')}"


@dataclass(frozen=True)
class StoredScreen:
    """What normalize needs of a stored screen.

    Attributes
    ----------
    cells : pandas.Index
    features : list of str
    values : dense or CSR, shape (n_cells, n_features)
        The outcome as the user stored it.
    library_size : float64, shape (n_cells,), or None
    covariates : pandas.DataFrame
    numeric_as_category_threshold : int or None
        See :func:`condrand.covariates.encode`.
    """

    cells: pd.Index
    features: list[str]
    values: np.ndarray | sp.csr_matrix
    library_size: np.ndarray | None
    covariates: pd.DataFrame
    numeric_as_category_threshold: int | None

    @classmethod
    def read(cls, path: str | Path, settings: Mapping[str, Any]) -> "StoredScreen":
        """Read the parts that an outcome section names."""
        name = outcome_name(settings["key"])
        threshold = "uns/numeric_as_category_threshold"
        column = settings["library_size"] if settings["transform"] == "log1p_cpm" else None
        with h5py.File(path, "r") as file:
            return cls(
                read(file, "obs").index,
                [str(feature) for feature in read(file, f"uns/features.{name}")],
                read(file, f"obsm/{name}"),
                None if column is None else read(file, f"obsm/library_size.{column}").ravel(),
                read(file, "obsm/covariates"),
                int(read(file, threshold)) if threshold in file else None,
            )


def write_outcome(
    path: str | Path,
    cells: pd.Index,
    features: list[str],
    scores: Scores,
    design: Any,
    effect_scale: str,
    statistic: str,
) -> None:
    """Write an outcome as .h5ad, uncompressed, so that its size tells a shard job's memory.

    Parameters
    ----------
    path : str or pathlib.Path
    cells : pandas.Index
    features : list of str
    scores : DenseScores or SparseScores
    design : condrand.normalize.Design
    effect_scale : str
    statistic : str
        What the scores are for.
    """
    arrays = {"design": design.columns}
    if isinstance(scores, DenseScores):
        arrays["scores"] = scores.rows
        matrix = None
    else:
        arrays["basis"] = scores.basis
        matrix = sp.csr_matrix(
            (scores.data, scores.indices, scores.indptr),
            shape=(len(cells), scores.n_features),
        )
    names = pd.Index(features, dtype=object)
    digest = _digest([*arrays.values(), *_parts(scores)], [*features, effect_scale, statistic])
    with replacing(path) as temporary, new_anndata(temporary, cells, names) as file:
        for key, value in arrays.items():
            write_element(file["obsm"], key, value)
        if matrix is not None:
            write_element(file, "X", matrix)
            write_element(file["uns"], "projection", scores.projection)
        uns = {
            "design_names": np.array(design.names, dtype=object),
            "design_dropped": np.array(design.dropped, dtype=object),
            "effect_scale": effect_scale,
            "statistic": statistic,
            "rank": scores.rank,
            "digest": digest,
        }
        for key, value in uns.items():
            write_element(file["uns"], key, value)


def _parts(scores: Scores) -> list[np.ndarray]:
    if isinstance(scores, DenseScores):
        return []
    return [scores.data, scores.indices, scores.indptr, scores.projection]


def _digest(arrays: list[np.ndarray], words: list[str]) -> str:
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=16)
    for array in arrays:
        digest.update(str((array.shape, array.dtype.str)).encode())
        digest.update(np.ascontiguousarray(array).data)
    return digest.hexdigest()
