"""The cells in which a unit is tested, and what the models see of them.

With ``control: complement`` all units share cells, scores and covariates. With ``control: ntc``
each unit is compared with the NTC cells alone, and the outcome is projected anew on that subset.
"""

from dataclasses import dataclass

import numpy as np

from condrand.covariates import full_rank, orthonormal_basis, standardize
from condrand.io.outcome import Outcome
from condrand.propensity import in_lanes
from condrand.statistics import STATISTICS
from condrand.statistics.scores import Scores
from condrand.units import TARGET


@dataclass(frozen=True)
class Comparison:
    """One unit's comparison.

    Attributes
    ----------
    n_cells : int
        Treated and control cells.
    treated : int64[::1]
        Treated cells, numbered within the comparison, sorted.
    scores : DenseScores or SparseScores
    covariates : float64[:, ::1]
        Of the propensity model, from :func:`condrand.propensity.in_lanes`.
    batch : int64, shape (n_cells,), or None
    burden : float64, shape (n_cells,), or None
        Guide burden, for the strata.
    cells : int64, shape (n_cells,), or None
        Their numbers in the screen, sorted; None where all of its cells are compared.
    """

    n_cells: int
    treated: np.ndarray
    scores: Scores
    covariates: np.ndarray
    batch: np.ndarray | None
    burden: np.ndarray | None
    cells: np.ndarray | None = None


class Comparisons:
    """Makes the comparison of any unit of an analysis.

    Parameters
    ----------
    outcome : Outcome
    """

    def __init__(self, outcome: Outcome):
        self.outcome = outcome
        self._lanes = in_lanes(outcome.design) if self.are_shared else None

    @property
    def are_shared(self) -> bool:
        """Whether all units have the same scores and covariates."""
        return self.outcome.control == "complement"

    def n_cells(self, treated: np.ndarray) -> int:
        """Treated and control cells of a unit."""
        if self.are_shared:
            return self.outcome.n_cells
        is_ntc = self.outcome.is_ntc_cell
        return int(np.count_nonzero(is_ntc) + np.count_nonzero(~is_ntc[treated]))

    def of(self, kind: str, treated: np.ndarray) -> Comparison:
        """The comparison of a unit.

        Parameters
        ----------
        kind : str
            Targets and NTC guides have burdens of their own.
        treated : int64[::1]
            Cells of the screen, sorted; some but not all of the comparison's.
        """
        outcome = self.outcome
        burden = outcome.burden if kind == TARGET else outcome.ntc_burden
        if not self.are_shared:
            return self._among_ntc_cells(treated, burden)
        return Comparison(
            outcome.n_cells, treated, outcome.scores, self._lanes, outcome.batch, burden
        )

    def _among_ntc_cells(self, treated: np.ndarray, burden: np.ndarray | None) -> Comparison:
        outcome = self.outcome
        cells = np.union1d(treated, np.flatnonzero(outcome.is_ntc_cell))
        columns = standardize(outcome.design[cells])
        basis = orthonormal_basis(full_rank(columns))
        tested = outcome.tested[cells]
        if outcome.residualize:
            tested = tested - basis @ (basis.T @ tested)
        return Comparison(
            cells.size,
            np.searchsorted(cells, treated),
            STATISTICS[outcome.statistic].score(tested, basis),
            in_lanes(columns),
            None if outcome.batch is None else outcome.batch[cells],
            None if burden is None else burden[cells],
            cells,
        )
