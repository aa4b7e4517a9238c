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

from condrand.guide_counts import GuideCounts
from condrand.io.atomic import replacing
from condrand.io.blocks import outcome_name, read_whole
from condrand.io.h5ad import new_anndata, read, write_element
from condrand.io.outcome import Outcome
from condrand.statistics.scores import DenseScores


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
    burden : bool
        Whether the guides per cell are covariates.
    counts : GuideCounts
    batch : int64, shape (n_cells,), or None
        Codes of the batch column, where one is asked for.
    batch_levels : list of str, or None
        What the codes stand for.
    """

    cells: pd.Index
    features: list[str]
    values: np.ndarray | sp.csr_matrix
    library_size: np.ndarray | None
    covariates: pd.DataFrame
    numeric_as_category_threshold: int | None
    burden: bool
    counts: GuideCounts
    batch: np.ndarray | None
    batch_levels: list[str] | None

    @classmethod
    def read(
        cls, path: str | Path, settings: Mapping[str, Any], batch_key: str | None = None
    ) -> "StoredScreen":
        """Read the parts that an outcome section names, and a batch column."""
        name = outcome_name(settings["key"])
        threshold = "uns/numeric_as_category_threshold"
        column = settings["library_size"] if settings["transform"] == "log1p_cpm" else None
        with h5py.File(path, "r") as file:
            return cls(
                read(file, "obs").index,
                [str(feature) for feature in read(file, f"uns/features.{name}")],
                read_whole(file, settings["key"]),
                None if column is None else read(file, f"obsm/library_size.{column}").ravel(),
                read(file, "obsm/covariates"),
                int(read(file, threshold)) if threshold in file else None,
                bool(read(file, "uns/burden")),
                GuideCounts(
                    *(read(file, f"obsm/{name}").ravel() for name in ("n_guides", "n_ntc_guides"))
                ),
                None if batch_key is None else read(file, f"obsm/batch.{batch_key}").ravel(),
                None if batch_key is None else list(read(file, f"uns/levels.batch.{batch_key}")),
            )


def write_outcome(
    path: str | Path,
    cells: pd.Index,
    outcome: Outcome,
    design_names: list[str],
    design_dropped: list[str],
    control_reason: str,
    outcome_scale: str,
    moi_one: float,
) -> None:
    """Write an outcome as .h5ad, uncompressed, so that its size tells a shard job's memory.

    Parameters
    ----------
    path : str or pathlib.Path
    cells : pandas.Index
    outcome : Outcome
        Its digest is ignored: the file's is computed here.
    design_names, design_dropped : list of str
        Columns of the design, and those left out with the reason.
    control_reason : str
        Why these comparison cells.
    outcome_scale : str
        Unit of the outcome, where that of the effects is another.
    moi_one : float
        Share of the cells with exactly one guide.
    """
    arrays: dict[str, Any] = {"design": outcome.design}
    uns: dict[str, Any] = {
        "design_names": np.array(design_names, dtype=object),
        "design_dropped": np.array(design_dropped, dtype=object),
        "effect_scale": outcome.effect_scale,
        "statistic": outcome.statistic,
        "control": outcome.control,
        "control_reason": control_reason,
        "outcome_scale": outcome_scale,
        "moi_one": moi_one,
        "residualize": outcome.residualize,
    }
    scores = outcome.scores
    if scores is None:
        arrays["tested"] = outcome.tested
    else:
        uns["rank"] = scores.rank
        if scores.constants.size:
            uns["constants"] = scores.constants
        if isinstance(scores, DenseScores):
            arrays["scores"] = scores.rows
        else:
            shape = (len(cells), scores.projection.shape[1])
            rows = (scores.data, scores.indices, scores.indptr)
            arrays["sparse_scores"] = sp.csr_matrix(rows, shape=shape)
            arrays["basis"] = scores.basis
            uns["projection"] = scores.projection
    for name in ("is_ntc_cell", "batch", "burden", "ntc_burden"):
        column = getattr(outcome, name)
        if column is not None:
            arrays[name] = column[:, None]
    if outcome.batch_levels is not None:
        uns["batch_levels"] = np.array(outcome.batch_levels, dtype=object)
    uns["digest"] = _digest({**arrays, **uns}, outcome.features)
    names = pd.Index(outcome.features, dtype=object)
    with replacing(path) as temporary, new_anndata(temporary, cells, names) as file:
        for key, value in arrays.items():
            write_element(file["obsm"], key, value)
        for key, value in uns.items():
            write_element(file["uns"], key, value)


def _digest(elements: Mapping[str, Any], words: list[str]) -> str:
    digest = hashlib.blake2b("\0".join(words).encode(), digest_size=16)
    for name, value in elements.items():
        if sp.issparse(value):
            parts = [value.data, value.indices, value.indptr]
        elif isinstance(value, np.ndarray) and value.dtype != object:
            parts = [value]
        else:
            digest.update(f"{name}={value}".encode())
            continue
        for part in parts:
            digest.update(str((name, part.shape, part.dtype.str)).encode())
            digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def read_guides_table(path: str | Path) -> pd.DataFrame:
    """Guides of a stored screen: columns name, target, is_ntc, n_cells."""
    with h5py.File(path, "r") as file:
        return read(file, "uns/guides")
