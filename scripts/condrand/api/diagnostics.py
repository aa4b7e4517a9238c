"""Is the null right? Fitted tails, and what is known of a unit beside its p values."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from condrand.api.inputs import CRTInputs
from condrand.api.propensities import fit_propensity_logistic
from condrand.api.resampling import TAIL_OF, Model, Options, Tests, gene_of, guide_set_of
from condrand.nulls import empirical, skew_normal
from condrand.nulls.summary import NullSummary

_SEPARATED = 1e-4


def is_bh_adjusted_like(p: np.ndarray) -> bool:
    """Whether p values look adjusted: over a fifth are 1, or they are large and share values."""
    p = np.asarray(p, np.float64).ravel()
    p = p[np.isfinite(p)]
    if not p.size:
        return False
    return bool(np.mean(p == 1) > 0.2 or (p.mean() > 0.6 and np.unique(p).size / p.size < 0.2))


def fit_skew_normal(y: np.ndarray) -> np.ndarray:
    """Fit a skew-normal by moments.

    Parameters
    ----------
    y : float64, shape (n,)

    Returns
    -------
    float64, shape (5,)
        Location xi, scale omega, shape alpha, mean and standard deviation of `y`.
    """
    y = np.asarray(y, np.float64).ravel()
    mean, sd = y.mean(), y.std()
    skewness = np.mean((y - mean) ** 3) / sd**3 if sd > 0 else 0.0
    fit = skew_normal.fit_moments(*(np.array([v]) for v in (mean, sd, skewness)))
    return np.array([fit.location[0], fit.scale[0], fit.shape[0], mean, sd])


def fit_and_evaluate_skew_normal(
    z_orig: float, null_statistics: np.ndarray, side_code: int = 0
) -> np.ndarray:
    """Fit a skew-normal to a null and read the p value of an observed statistic off it.

    Parameters
    ----------
    z_orig : float
        Observed statistic.
    null_statistics : float64, shape (B,)
    side_code : {0, 1, -1}
        Two-sided, right or left tail.

    Returns
    -------
    float64, shape (4,)
        xi, omega, alpha and the p value; -1 in its place where the diagnostics
        (:func:`condrand.nulls.skew_normal.diagnose`) do not let the fit speak for the tail.
    """
    null = np.asarray(null_statistics, np.float64).ravel()
    xi, omega, alpha, mean, sd = fit_skew_normal(null)
    if not sd > 0:
        return np.array([np.nan, np.nan, np.nan, -1.0])
    summary = NullSummary.empty(1)
    units = (np.array([v], np.float64) for v in (z_orig, mean, sd))
    summary.add_resamples(np.ascontiguousarray(null[:, None]), *units)
    of_z = skew_normal.fit_moments(*(np.nan_to_num(m) for m in summary.moments()))
    p = -1.0
    if not skew_normal.diagnose(summary, of_z)[0]:
        fit = skew_normal.SkewNormal(*(np.array([v]) for v in (xi, omega, alpha)))
        observed = np.array([float(z_orig)])
        p = float(np.exp(skew_normal.log_p_values(observed, fit, TAIL_OF[side_code]))[0])
    return np.array([xi, omega, alpha, p])


def compute_empirical_p_value(
    null_statistics: np.ndarray, z_orig: float, side_code: int = 0
) -> float:
    """``(1 + exceedances) / (B + 1)``; two-sided about zero, as everywhere here.

    Parameters
    ----------
    null_statistics : float64, shape (B,)
    z_orig : float
    side_code : {0, 1, -1}
    """
    null = np.asarray(null_statistics, np.float64).ravel()
    counts = [null >= z_orig, null <= z_orig, np.abs(null) >= abs(z_orig)]
    exceed = np.array([[np.count_nonzero(count)] for count in counts])
    return float(empirical.p_values(exceed, null.size, TAIL_OF[side_code])[0])


def compute_unit_diagnostics(
    *,
    inputs: CRTInputs,
    unit_id: str,
    unit_type: str = "gene",
    guide_idx: Iterable[int] | None = None,
    B: int = 1023,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> dict[str, Any]:
    """What is known of a unit beside its p values.

    Parameters
    ----------
    inputs : CRTInputs
    unit_id : str
        Name of the gene, or of the set.
    unit_type : {"gene", "guide_set"}
    guide_idx : iterable of int, optional
        Columns of ``inputs.G``, of a set.
    B, base_seed, propensity_model, resampling_method, resampling_kwargs, test_stat,
    test_stat_kwargs
        As in :func:`condrand.api.run_one_gene_union_crt`.

    Returns
    -------
    dict
        ``unit_id``, ``unit_type``, ``guide_count``, ``n_treated``, ``x_mean``, ``note``;
        ``p_hat_mean``, ``p_hat_min``, ``p_hat_max``, ``p_hat_var``, ``separation`` (a propensity
        below 1e-4 or above 1 - 1e-4), ``auc`` (NaN for a caller's model); ``p_min``,
        ``share_p_one``; ``null_mean``, ``null_sd``, ``null_skewness`` of the first program. NaN
        where the unit cannot be tested.
    """
    if unit_type not in ("gene", "guide_set"):
        raise ValueError(f"unit_type {unit_type!r} is neither 'gene' nor 'guide_set'")
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    unit = (
        gene_of(inputs, unit_id)
        if unit_type == "gene"
        else guide_set_of(inputs, guide_idx or (), unit_id)
    )
    batch = tests.prepare([unit])
    rows = tests.table(batch, B, base_seed)
    found = {
        "unit_id": unit_id,
        "unit_type": unit_type,
        "guide_count": len(unit.columns),
        "n_treated": int(batch.treated[0].size),
        "x_mean": batch.treated[0].size / inputs.n_cells,
        "note": batch.notes[0],
    }
    p_hat = np.full(1, np.nan)
    if not batch.notes[0]:
        p_hat = tests.propensity(batch)
    found |= {f"p_hat_{name}": float(getattr(p_hat, name)()) for name in ("mean", "min", "max")}
    found["p_hat_var"] = float(p_hat.var())
    found["separation"] = bool(np.any((p_hat < _SEPARATED) | (p_hat > 1 - _SEPARATED)))
    given = tests.model is not None
    found["auc"] = np.nan if given else float(batch.diagnostics["auc"][0])
    p = rows["p_value"].to_numpy()
    found["p_min"] = float(np.fmin.reduce(p))
    found["share_p_one"] = float(np.mean(p == 1)) if np.isfinite(p).any() else np.nan
    columns = ("null_mean", "null_sd", "null_skewness")
    return found | {name: float(rows[name].iloc[0]) for name in columns}
