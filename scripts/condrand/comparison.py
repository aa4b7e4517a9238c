"""The cells in which a unit is tested, and what the models see of them.

With ``control: complement`` all units share cells, scores and covariates, but for the burden
covariate, which leaves out a target's own guides. With ``control: ntc`` each unit is compared
with the NTC cells alone, and the outcome is projected anew on that subset.
"""

from dataclasses import dataclass

import numpy as np

from condrand.covariates import dependencies, orthonormal_basis, standardize
from condrand.io.outcome import Outcome
from condrand.kernels.elementary import log1p_of
from condrand.propensity import in_lanes
from condrand.statistics import STATISTICS
from condrand.statistics.scores import Scores


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
        log1p of the guides per cell but NTC guides and the unit's own.
    """

    n_cells: int
    treated: np.ndarray
    scores: Scores
    covariates: np.ndarray
    batch: np.ndarray | None
    burden: np.ndarray | None


class Comparisons:
    """Makes the comparison of any unit of an analysis.

    Parameters
    ----------
    outcome : Outcome
    """

    def __init__(self, outcome: Outcome):
        self.outcome = outcome
        self.statistic = STATISTICS[outcome.statistic]
        self._lanes = in_lanes(outcome.design) if outcome.control == "complement" else None

    @property
    def are_shared(self) -> bool:
        """Whether all units have the same scores and covariates."""
        return self.outcome.control == "complement" and not self.outcome.burden

    @property
    def n_covariates(self) -> int:
        """Columns of every unit's propensity model, without intercept."""
        return self.outcome.design.shape[1] + self.outcome.burden

    def n_cells(self, treated: np.ndarray) -> int:
        """Treated and control cells of a unit."""
        if self.outcome.control == "complement":
            return self.outcome.n_cells
        is_ntc = self.outcome.is_ntc_cell
        return int(np.count_nonzero(is_ntc) + np.count_nonzero(~is_ntc[treated]))

    def of(self, treated: np.ndarray, n_own: np.ndarray) -> Comparison:
        """The comparison of a unit.

        Parameters
        ----------
        treated : int64[::1]
            Cells of the screen, sorted; some but not all of the comparison's.
        n_own : float64[::1], shape (n_treated,)
            Guides of the unit in each that count towards the burden.
        """
        outcome = self.outcome
        burden = None
        if outcome.n_guides is not None:
            others = outcome.n_guides.copy()
            others[treated] -= n_own
            burden = log1p_of(others)
        if outcome.control == "ntc":
            return self._among_ntc_cells(treated, burden)
        scores, lanes = outcome.scores, self._lanes
        if outcome.burden:
            column = standardize(burden[:, None])
            scores = self.statistic.without(scores, column[:, 0])
            lanes = np.concatenate([lanes, in_lanes(column)])
        return Comparison(outcome.n_cells, treated, scores, lanes, outcome.batch, burden)

    def _among_ntc_cells(self, treated: np.ndarray, burden: np.ndarray | None) -> Comparison:
        outcome = self.outcome
        cells = np.union1d(treated, np.flatnonzero(outcome.is_ntc_cell))
        columns = outcome.design[cells]
        if outcome.burden:
            columns = np.column_stack([columns, burden[cells]])
        columns = standardize(columns)
        names = [str(j) for j in range(columns.shape[1])]
        # What varies over the screen may be constant here: a batch without NTC cells.
        dependent = {found.column for found in dependencies(names, columns)}
        free = [j for j, name in enumerate(names) if name not in dependent]
        scores = self.statistic.score(outcome.tested[cells], orthonormal_basis(columns[:, free]))
        return Comparison(
            cells.size,
            np.searchsorted(cells, treated),
            scores,
            in_lanes(columns),
            None if outcome.batch is None else outcome.batch[cells],
            None if burden is None else burden[cells],
        )
