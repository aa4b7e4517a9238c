"""Propensities: the probability that a cell is treated, given its covariates."""

from dataclasses import dataclass

import numpy as np

from condrand.kernels.logistic import LANES, newton_sums, propensity, treated_covariate_sums

_MAX_STEPS = 60
_MAX_HALVINGS = 30
# Half the squared Newton decrement bounds how far the loss is from its minimum; at this size the
# propensities are exact to about 1e-12 relative.
_CONVERGED = 1e-18


@dataclass(frozen=True)
class PropensityModel:
    """Fitted logistic regressions of several units on the same covariates.

    Attributes
    ----------
    coefficients : float64[:, ::1], shape (n_units, n_covariates + 1)
        Intercept first, on standardized covariates.
    converged : bool, shape (n_units,)
    clip : float
        Propensities are clipped to ``[clip, 1 - clip]``.
    """

    coefficients: np.ndarray
    converged: np.ndarray
    clip: float

    def predict(self, unit: int, covariates: np.ndarray, n_cells: int) -> np.ndarray:
        """Propensity of every cell for one unit: float64[::1], shape (n_cells,)."""
        p = np.empty(n_cells)
        propensity(self.coefficients[unit], covariates, self.clip, p)
        return p


def in_lanes(design: np.ndarray) -> np.ndarray:
    """Covariates as the kernels read them: one row each, padded with zeros.

    Parameters
    ----------
    design : float64, shape (n_cells, n_covariates)
        Standardized, without intercept.

    Returns
    -------
    float64[:, ::1], shape (n_covariates, n_cells rounded up to a multiple of LANES)
    """
    n_cells, n_covariates = design.shape
    lanes = np.zeros((n_covariates, -(-n_cells // LANES) * LANES))
    lanes[:, :n_cells] = design.T
    return lanes


def fit_propensities(
    covariates: np.ndarray,
    n_cells: int,
    treated: list[np.ndarray],
    inverse_penalty: float = 1.0,
    clip: float = 1e-6,
) -> PropensityModel:
    """Fit L2-penalized logistic regressions of several units together.

    Parameters
    ----------
    covariates : float64[:, ::1], shape (n_covariates, padded)
        From :func:`in_lanes`.
    n_cells : int
    treated : list of int64[::1]
        Treated cells of each unit, sorted; neither none nor all cells.
    inverse_penalty : float
        C of ``C * sum_i loss_i + |w|**2 / 2``; the intercept is not penalized.
    clip : float

    Returns
    -------
    PropensityModel
        A unit's coefficients do not depend on the other units of the call.

    Notes
    -----
    Newton's method with step halving on the strictly convex penalized loss (Hastie, Tibshirani &
    Friedman 2009, section 4.4.1), run to a decrement of 1e-18.
    """
    n_units, width = len(treated), covariates.shape[0] + 1
    observed = np.empty((n_units, width))
    for g, cells in enumerate(treated):
        treated_covariate_sums(covariates, cells, observed[g])
    penalty = np.full(width, 1.0 / inverse_penalty)
    penalty[0] = 0.0
    sizes = np.array([cells.size for cells in treated], dtype=np.float64)
    coefficients = np.zeros((n_units, width))
    coefficients[:, 0] = np.log(sizes / (n_cells - sizes))
    converged = np.zeros(n_units, bool)
    best_loss = np.full(n_units, np.inf)
    best = coefficients.copy()
    step = np.zeros((n_units, width))
    halvings = np.zeros(n_units, np.int64)
    active = np.arange(n_units)
    for _ in range(_MAX_STEPS + _MAX_HALVINGS):
        if not active.size:
            break
        b = np.ascontiguousarray(coefficients[active])
        loss = np.empty(active.size)
        gradient = np.empty((active.size, width))
        hessian = np.empty((active.size, width, width))
        newton_sums(covariates, n_cells, b, loss, gradient, hessian)
        loss += 0.5 * np.sum(penalty * b * b, axis=1) - np.sum(observed[active] * b, axis=1)
        gradient += penalty * b - observed[active]
        still = []
        for a, g in enumerate(active):
            # Rounding of the loss itself must not be mistaken for a rise.
            slack = 1e-13 * abs(best_loss[g]) if np.isfinite(best_loss[g]) else 0.0
            if not loss[a] <= best_loss[g] + slack:
                halvings[g] += 1
                if halvings[g] <= _MAX_HALVINGS:
                    step[g] *= 0.5
                    coefficients[g] = best[g] + step[g]
                    still.append(g)
                continue
            best_loss[g], best[g] = loss[a], b[a]
            step[g] = -np.linalg.solve(hessian[a] + np.diag(penalty), gradient[a])
            decrement = -0.5 * float(step[g] @ gradient[a])
            coefficients[g] = b[a] + step[g]
            if decrement <= _CONVERGED * max(1.0, sizes[g]):
                converged[g] = True
            else:
                still.append(g)
        active = np.array(still, dtype=np.int64)
    coefficients[~converged] = best[~converged]
    return PropensityModel(coefficients, converged, clip)


def area_under_curve(p: np.ndarray, cells: np.ndarray) -> float:
    """How well the propensity tells treated cells from the rest: 0.5 says not at all.

    Parameters
    ----------
    p : float64, shape (n_cells,)
    cells : int64
        Treated cells.

    Returns
    -------
    float
        Mann-Whitney probability that a treated cell's propensity exceeds another cell's, ties
        counted half.
    """
    treated = np.sort(p[cells])

    def below(ordered: np.ndarray) -> float:
        left = np.searchsorted(ordered, treated, "left")
        return 0.5 * float(np.sum(left + np.searchsorted(ordered, treated, "right")))

    others = p.size - treated.size
    return (below(np.sort(p)) - below(treated)) / (treated.size * others)
