"""Propensities of a notebook: the engine's fit, or what a caller's own model says."""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from condrand.api.inputs import design_of
from condrand.errors import listed
from condrand.propensity import PropensityModel, fit_propensities, in_lanes

log = logging.getLogger(__name__)

CLIP = 1e-6


def fit_propensity_logistic(
    C: np.ndarray,
    y01: np.ndarray,
    penalty: str = "l2",
    C_value: float = 1.0,
    max_iter: int = 200,
    n_jobs: int = 1,
    **kw: Any,
) -> tuple[np.ndarray, PropensityModel]:
    """Fit a logistic regression of the treatment on the covariates.

    Parameters
    ----------
    C : float64, shape (n_cells, n_columns)
        Standardized here if it is not; constant columns are left out, the model has an intercept.
    y01 : bool or numeric, shape (n_cells,)
        1 for treated cells.
    penalty : {"l2"}
        Of the standardized columns; the intercept is not penalized.
    C_value : float
        Inverse strength of the penalty.
    max_iter, n_jobs : int
        Accepted and not needed: Newton's method converges in a few steps, on one thread.
    **kw
        Refused.

    Returns
    -------
    p : float64, shape (n_cells,)
        Clipped to [1e-6, 1 - 1e-6].
    model : condrand.propensity.PropensityModel

    Raises
    ------
    ValueError
        If an option is unknown, or no cell or every cell is treated.
    """
    if kw or penalty != "l2":
        wrong = listed(kw) if kw else f"penalty {penalty!r}"
        raise ValueError(f"there is no {wrong}: the fit is an L2-penalized Newton's method")
    treated = np.flatnonzero(np.asarray(y01))
    n_cells = len(C)
    if not 0 < treated.size < n_cells:
        raise ValueError(f"{treated.size} of {n_cells} cells are treated: nothing can be fitted")
    lanes = in_lanes(design_of(np.asarray(C, np.float64)))
    model = fit_propensities(lanes, n_cells, [treated], C_value, CLIP)
    if not model.converged[0]:
        log.warning("the propensity of %d treated cells did not converge", treated.size)
    return model.predict(0, lanes, n_cells), model


def given_propensity(
    C: np.ndarray, propensity_model: Callable[..., Any], cells: np.ndarray
) -> np.ndarray:
    """What a caller's model says of a treated set: float64[::1], shape (n_cells,), clipped."""
    y01 = np.zeros(len(C), np.int64)
    y01[cells] = 1
    p = propensity_model(C, y01)
    p = np.array(p[0] if isinstance(p, tuple | list) else p, np.float64)
    if p.shape != y01.shape or not np.isfinite(p).all() or (p < 0).any() or (p > 1).any():
        raise ValueError(
            f"propensity_model gave values of shape {p.shape}, not one probability in [0, 1] for "
            f"each of {len(C):,} cells"
        )
    return np.clip(p, CLIP, 1 - CLIP)


@dataclass(frozen=True)
class GivenPropensities:
    """Propensities that a caller's model gave, in place of a fitted ``PropensityModel``.

    Attributes
    ----------
    p : list of float64[::1] or None
        By unit; None for one that cannot be tested.
    """

    p: list[np.ndarray | None]

    def predict(self, unit: int, covariates: np.ndarray, n_cells: int) -> np.ndarray:
        """Propensity of every cell for one unit: float64[::1], shape (n_cells,)."""
        return self.p[unit]
