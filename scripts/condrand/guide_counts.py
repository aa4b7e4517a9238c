"""Guides that each cell carries: the screen's MOI, its NTC cells, and the burden of a cell."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import scipy.sparse as sp


@dataclass(frozen=True)
class GuideCounts:
    """How many guides each cell carries.

    Attributes
    ----------
    n_guides, n_ntc_guides : int64, shape (n_cells,)
        But NTC guides, and NTC guides.
    """

    n_guides: np.ndarray
    n_ntc_guides: np.ndarray

    @classmethod
    def of(cls, carried: "sp.spmatrix", is_ntc: np.ndarray) -> "GuideCounts":
        """The counts of a screen.

        Parameters
        ----------
        carried : sparse bool, shape (n_cells, n_guides)
        is_ntc : bool, shape (n_guides,)
        """
        calls = carried.astype(np.int64)
        return cls(*(np.asarray(calls @ of.astype(np.int64)).ravel() for of in (~is_ntc, is_ntc)))

    @property
    def total(self) -> np.ndarray:
        """Guides of either kind: int64, shape (n_cells,)."""
        return self.n_guides + self.n_ntc_guides

    @property
    def is_ntc_cell(self) -> np.ndarray:
        """Cells that carry NTC guides and no others: bool, shape (n_cells,)."""
        return (self.n_ntc_guides > 0) & (self.n_guides == 0)

    @property
    def moi(self) -> dict[str, float]:
        """``mean`` guides per cell; shares of cells with ``none``, ``one``, ``several``."""
        total = self.total
        return {
            "mean": float(total.mean()),
            "none": float(np.mean(total == 0)),
            "one": float(np.mean(total == 1)),
            "several": float(np.mean(total > 1)),
        }

    def burdens(self, control: str) -> tuple[np.ndarray, np.ndarray]:
        """Guide burden of each cell, for targets and for NTC guides.

        Parameters
        ----------
        control : {"complement", "ntc"}

        Returns
        -------
        of_target, of_ntc : float64, shape (n_cells,)
            log1p of the guides that are no NTC guides, and of the NTC guides. Compared with NTC
            cells, which carry no others, it is log1p of all guides for both.

        Notes
        -----
        All guides of its kind that a cell carries count, the unit's own too: given their number,
        which targets they hit says nothing of how readily the cell takes up guides (splitting of
        a Poisson count, whatever its mean). Given the other guides alone, a carrier is a cell of
        higher uptake.
        """
        if control == "ntc":
            both = np.log1p(self.total)
            return both, both
        return np.log1p(self.n_guides), np.log1p(self.n_ntc_guides)


def targets_per_cell(
    carried: "sp.spmatrix", targets: Sequence[str], ntc_labels: Iterable[str]
) -> np.ndarray:
    """Targets whose guides each cell carries, all NTC labels taken for one of them.

    Parameters
    ----------
    carried : sparse bool, shape (n_cells, n_guides)
    targets : sequence of str, shape (n_guides,)
        Of each guide.
    ntc_labels : iterable of str

    Returns
    -------
    int64, shape (n_cells,)
    """
    labels = set(ntc_labels)
    of_guide = ["" if target in labels else target for target in targets]
    code = np.unique(np.array(of_guide, dtype=object).astype(str), return_inverse=True)[1]
    coo = carried.tocoo()
    pairs = np.unique(coo.row.astype(np.int64) * (code.size + 1) + code[coo.col])
    return np.bincount(pairs // (code.size + 1), minlength=carried.shape[0])
