"""Reading what every batch shares, with h5py alone: a shard job must start at once.

The counterpart that writes these files, with anndata, is :mod:`condrand.io.stages`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from condrand.statistics.scores import DenseScores, Scores, SparseScores


@dataclass(frozen=True)
class Outcome:
    """What every batch of an analysis shares.

    Attributes
    ----------
    scores : DenseScores or SparseScores
    design : float64, shape (n_cells, n_covariates)
        Standardized covariates without intercept.
    features : list of str
    effect_scale : str
    digest : str
        Of everything above.
    statistic : str
        Name of the statistic the scores are for.
    """

    scores: Scores
    design: np.ndarray
    features: list[str]
    effect_scale: str
    digest: str
    statistic: str = "ols"

    @property
    def n_cells(self) -> int:
        """Cells of the screen."""
        return self.design.shape[0]


def read_outcome(path: str | Path) -> Outcome:
    """Read an outcome written by :func:`condrand.io.stages.write_outcome`."""
    with h5py.File(path, "r") as file:
        uns = file["uns"]
        features = _features(file)
        design = file["obsm/design"][:]
        if "scores" in file["obsm"]:
            scores: Scores = DenseScores(
                file["obsm/scores"][:], len(features), int(uns["rank"][()])
            )
        else:
            scores = SparseScores(
                file["X/data"][:],
                file["X/indices"][:].astype(np.int32, copy=False),
                file["X/indptr"][:].astype(np.int64, copy=False),
                file["obsm/basis"][:],
                uns["projection"][:],
            )
        return Outcome(
            scores,
            design,
            features,
            uns["effect_scale"][()].decode(),
            uns["digest"][()].decode(),
            uns["statistic"][()].decode(),
        )


def read_features(path: str | Path) -> list[str]:
    """The features of an outcome, in order, without reading its numbers."""
    with h5py.File(path, "r") as file:
        return _features(file)


def read_treated(path: str | Path, kinds_and_names: list[tuple[str, str]]) -> list[np.ndarray]:
    """Treated cells of some units of a stored screen.

    Parameters
    ----------
    path : str or pathlib.Path
    kinds_and_names : list of (str, str)

    Returns
    -------
    list of int64[::1]
        Sorted cells, in the order asked for.
    """
    with h5py.File(path, "r") as file:
        kinds = _strings(file["uns/units/kind"])
        names = _strings(file["uns/units/name"])
        at = {pair: i for i, pair in enumerate(zip(kinds, names, strict=True))}
        indptr = file["obsm/treated/indptr"][:]
        indices = file["obsm/treated/indices"]
        return [
            indices[indptr[i] : indptr[i + 1]].astype(np.int64)
            for i in (at[pair] for pair in kinds_and_names)
        ]


def _features(file: h5py.File) -> list[str]:
    return _strings(file["var"][file["var"].attrs["_index"]])


def _strings(element: Any) -> list[str]:
    if isinstance(element, h5py.Group):  # categorical: codes into categories
        categories = _strings(element["categories"])
        return [categories[code] for code in element["codes"][:]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in element[:]]
