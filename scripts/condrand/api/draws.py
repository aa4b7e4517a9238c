"""Resampled treatments written out, for those who compute their own statistics."""

from typing import Any

import numpy as np
import pandas as pd

from condrand.plan import n_blocks, resamples_of_block
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.strata import make_strata
from condrand.samplers.stratified import StratifiedSampler
from condrand.units import TARGET


def check_resamples(B: int) -> None:
    """Raise ValueError unless there is a resample."""
    if B < 1:
        raise ValueError(f"B is {B}, must be at least 1")


def bernoulli_index_sampler(
    p_hat: np.ndarray, B: int, seed: int, *, kind: str = TARGET, unit: str = ""
) -> tuple[np.ndarray, np.ndarray]:
    """Treated cells of B resamples: each cell independently with its propensity.

    Parameters
    ----------
    p_hat : float64, shape (n_cells,)
        Inside (0, 1).
    B, seed : int
    kind, unit : str
        Part of the key of the random numbers: ``"target"`` and a gene give the resamples of that
        gene's test.

    Returns
    -------
    indptr : int64, shape (B + 1,)
    indices : int32
        Cells of resample b: ``indices[indptr[b] : indptr[b + 1]]``, sorted.
    """
    p = np.ascontiguousarray(p_hat, np.float64)
    if p.ndim != 1 or not np.all((p > 0) & (p < 1)):
        raise ValueError("propensities must lie inside (0, 1)")
    return _written_out(BernoulliSampler.of(seed, kind, unit, p), B)


def stratified_permutation_sampler(
    x_obs: np.ndarray,
    p_hat: np.ndarray,
    B: int,
    seed: int,
    batch_raw: Any = None,
    n_bins: int = 20,
    stratify_by_batch: bool = True,
    min_stratum_size: int = 2,
    burden_values: np.ndarray | None = None,
    n_burden_bins: int = 8,
    burden_bin_method: str = "quantile",
    burden_clip_quantiles: tuple[float, float] = (0.0, 1.0),
    *,
    kind: str = TARGET,
    unit: str = "",
) -> tuple[np.ndarray, np.ndarray]:
    """Treated cells of B resamples: within strata, as many as were observed.

    Parameters
    ----------
    x_obs : bool or numeric, shape (n_cells,)
        Observed treatment.
    p_hat : float64, shape (n_cells,)
    B, seed : int
    batch_raw : shape (n_cells,), or None
        None: cells of all batches may change places.
    n_bins, min_stratum_size, n_burden_bins, burden_bin_method, burden_clip_quantiles
        See :func:`condrand.samplers.strata.make_strata`.
    stratify_by_batch : bool
    burden_values : float64, shape (n_cells,), or None
    kind, unit : str
        As in :func:`bernoulli_index_sampler`.

    Returns
    -------
    indptr : int64, shape (B + 1,)
    indices : int32
    """
    x, p = np.asarray(x_obs), np.ascontiguousarray(p_hat, np.float64)
    if x.shape != p.shape or x.ndim != 1:
        raise ValueError(f"treatment has shape {x.shape}, propensity {p.shape}")
    batch = None
    if stratify_by_batch and batch_raw is not None:
        batch = np.unique(pd.Series(batch_raw).astype(str), return_inverse=True)[1]
    settings = {
        "n_bins": n_bins,
        "min_stratum_size": min_stratum_size,
        "n_burden_bins": n_burden_bins,
        "burden_bin_method": burden_bin_method,
        "burden_clip_quantiles": burden_clip_quantiles,
    }
    burden = None if burden_values is None else np.asarray(burden_values, np.float64)
    strata = make_strata(np.flatnonzero(x), p, batch, burden, settings)
    return _written_out(StratifiedSampler.of(seed, kind, unit, p, strata), B)


def _written_out(
    sampler: BernoulliSampler | StratifiedSampler, B: int
) -> tuple[np.ndarray, np.ndarray]:
    check_resamples(B)
    sizes, cells = [np.zeros(1, np.int64)], [np.zeros(0, np.int32)]
    for block in range(n_blocks(B)):
        treated = sampler.treated(block, resamples_of_block(B, block))
        sizes.append(np.count_nonzero(treated, axis=1))
        cells.append(np.nonzero(treated)[1].astype(np.int32))
    return np.cumsum(np.concatenate(sizes)), np.concatenate(cells)
