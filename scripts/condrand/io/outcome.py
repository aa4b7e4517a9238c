"""Reading what every batch shares, with h5py alone: a shard job must start at once.

The counterpart that writes these files, with anndata, is :mod:`condrand.io.stages`.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np

from condrand.statistics.scores import NO_CONSTANTS, DenseScores, Scores, SparseScores

if TYPE_CHECKING:  # scipy would delay the start of every shard job
    import scipy.sparse as sp


@dataclass(frozen=True)
class Outcome:
    """What every batch of an analysis shares.

    Attributes
    ----------
    scores : DenseScores or SparseScores, or None
        Of all cells; None where each unit is compared with NTC cells and has scores of its own.
    design : float64, shape (n_cells, n_covariates)
        Standardized covariates without intercept.
    features : list of str
    effect_scale : str
    digest : str
        Of everything here.
    statistic : str
        Name of the statistic the scores are for.
    control : {"complement", "ntc"}
        Whether a unit is compared with all other cells or with NTC cells.
    tested : float64, dense or CSR, shape (n_cells, n_features), or None
        The transformed outcome, where there are no shared scores.
    is_ntc_cell : bool, shape (n_cells,), or None
        Cells that carry NTC guides and no others.
    batch : int64, shape (n_cells,), or None
        Codes of the batch column.
    burden, ntc_burden : float64, shape (n_cells,), or None
        Guide burden of each cell, for the strata of targets and of NTC guides.
    batch_levels : list of str, or None
        Name of each code of `batch`.
    residualize : bool
        Whether `tested` is regressed on the design before it is scored.
    """

    scores: Scores | None
    design: np.ndarray
    features: list[str]
    effect_scale: str
    digest: str
    statistic: str = "ols"
    control: str = "complement"
    tested: "np.ndarray | sp.csr_matrix | None" = None
    is_ntc_cell: np.ndarray | None = None
    batch: np.ndarray | None = None
    burden: np.ndarray | None = None
    ntc_burden: np.ndarray | None = None
    batch_levels: list[str] | None = None
    residualize: bool = False

    @property
    def n_cells(self) -> int:
        """Cells of the screen."""
        return self.design.shape[0]


@dataclass(frozen=True)
class OutcomeHeader:
    """What can be said of an :class:`Outcome` without its numbers; the names mean the same.

    Attributes
    ----------
    control_reason : str
        Why these comparison cells.
    outcome_scale : str
        Unit of the outcome, where that of the effects is another.
    moi_one : float
        Share of the cells with exactly one guide.
    """

    n_cells: int
    features: list[str]
    effect_scale: str
    digest: str
    statistic: str
    control: str
    control_reason: str
    outcome_scale: str
    moi_one: float
    residualize: bool


def read_outcome(path: str | Path) -> Outcome:
    """Read an outcome written by :func:`condrand.io.stages.write_outcome`."""
    with h5py.File(path, "r") as file:
        header = _header(file)
        obsm, n_features = file["obsm"], len(header.features)
        scores: Scores | None = None
        tested = None
        if "scores" in obsm:
            rank = int(file["uns/rank"][()])
            scores = DenseScores(obsm["scores"][:], n_features, rank, _constants(file))
        elif "basis" in obsm:
            scores = SparseScores(
                *_csr(obsm["sparse_scores"]),
                obsm["basis"][:],
                file["uns/projection"][:],
                n_features,
                _constants(file),
            )
        elif isinstance(obsm["tested"], h5py.Group):
            import scipy.sparse as sp

            tested = sp.csr_matrix(_csr(obsm["tested"]), shape=(header.n_cells, n_features))
        else:
            tested = obsm["tested"][:]
        return Outcome(
            scores,
            obsm["design"][:],
            header.features,
            header.effect_scale,
            header.digest,
            header.statistic,
            header.control,
            tested,
            _column(obsm, "is_ntc_cell", bool),
            _column(obsm, "batch", np.int64),
            _column(obsm, "burden", np.float64),
            _column(obsm, "ntc_burden", np.float64),
            _strings(file["uns/batch_levels"]) if "batch_levels" in file["uns"] else None,
            bool(file["uns/residualize"][()]),
        )


def read_header(path: str | Path) -> OutcomeHeader:
    """Read what an outcome says of itself, for steps that need none of its numbers."""
    with h5py.File(path, "r") as file:
        return _header(file)


def read_features(path: str | Path) -> list[str]:
    """Names of the features of any engine's outcome, in the screen's order."""
    with h5py.File(path, "r") as file:
        return _strings(file["var"][file["var"].attrs["_index"]])


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
    words = ("effect_scale", "digest", "statistic", "control", "control_reason", "outcome_scale")
    return OutcomeHeader(
        file["obsm/design"].shape[0],
        _strings(file["var"][file["var"].attrs["_index"]]),
        *(uns[name][()].decode() for name in words),
        float(uns["moi_one"][()]),
        bool(uns["residualize"][()]),
    )


def _constants(file: h5py.File) -> np.ndarray:
    return file["uns/constants"][:] if "constants" in file["uns"] else NO_CONSTANTS


def _csr(group: h5py.Group) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    return (
        group["data"][:],
        group["indices"][:].astype(np.int32, copy=False),
        group["indptr"][:].astype(np.int64, copy=False),
    )


def _column(group: h5py.Group, name: str, dtype: type) -> np.ndarray | None:
    return group[name][:, 0].astype(dtype) if name in group else None


def _strings(element: Any) -> list[str]:
    if isinstance(element, h5py.Group):  # categorical: codes into categories
        categories = _strings(element["categories"])
        return [categories[code] for code in element["codes"][:]]
    return [text.decode() if isinstance(text, bytes) else str(text) for text in element[:]]
