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


@dataclass(frozen=True)
class OutcomeHeader:
    """What can be said of an :class:`Outcome` without its numbers; the names mean the same."""

    n_cells: int
    features: list[str]
    effect_scale: str
    digest: str
    statistic: str


def read_outcome(path: str | Path) -> Outcome:
    """Read an outcome written by :func:`condrand.io.stages.write_outcome`."""
    with h5py.File(path, "r") as file:
        header = _header(file)
        n_features = len(header.features)
        if "scores" in file["obsm"]:
            rank = int(file["uns/rank"][()])
            scores: Scores = DenseScores(file["obsm/scores"][:], n_features, rank)
        else:
            scores = SparseScores(
                file["X/data"][:],
                file["X/indices"][:].astype(np.int32, copy=False),
                file["X/indptr"][:].astype(np.int64, copy=False),
                file["obsm/basis"][:],
                file["uns/projection"][:],
            )
        return Outcome(
            scores,
            file["obsm/design"][:],
            header.features,
            header.effect_scale,
            header.digest,
            header.statistic,
        )


def read_header(path: str | Path) -> OutcomeHeader:
    """Read what an outcome says of itself, for steps that need none of its numbers."""
    with h5py.File(path, "r") as file:
        return _header(file)


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


def _header(file: h5py.File) -> OutcomeHeader:
    uns = file["uns"]
    return OutcomeHeader(
        file["obsm/design"].shape[0],
        _strings(file["var"][file["var"].attrs["_index"]]),
        *(uns[name][()].decode() for name in ("effect_scale", "digest", "statistic")),
    )


def _strings(element: Any) -> list[str]:
    if isinstance(element, h5py.Group):  # categorical: codes into categories
        categories = _strings(element["categories"])
        return [categories[code] for code in element["codes"][:]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in element[:]]
