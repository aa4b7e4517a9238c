"""Strata: cells alike in batch, propensity and guide burden, which may change places."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from condrand.kernels.stratified import cells_by_stratum, digitize, merge_small

# What :func:`make_strata` and its callers take where nothing else is said.
STRATIFY: Mapping[str, Any] = {
    "n_bins": 20,
    "stratify_by_batch": True,
    "stratify_by_burden": True,
    "min_stratum_size": 2,
    "n_burden_bins": None,
    "burden_bin_method": "quantile",
    "burden_clip_quantiles": (0.0, 1.0),
}


@dataclass(frozen=True)
class Strata:
    """A partition of all cells, and how many cells of each part are treated.

    Attributes
    ----------
    cells : int32[::1], shape (n_cells,)
        All cells in order of stratum, within a stratum in order of cell.
    indptr : int64[::1], shape (n_strata + 1,)
        Where the strata begin in `cells`.
    n_treated : int64[::1], shape (n_strata,)
        Observed treated cells.
    n_merged : int
        Strata that were too small and were joined to others.
    """

    cells: np.ndarray
    indptr: np.ndarray
    n_treated: np.ndarray
    n_merged: int

    @property
    def n_strata(self) -> int:
        """How many strata there are."""
        return self.n_treated.size

    @property
    def free(self) -> int:
        """Treated cells of strata that have untreated cells too: no others can move."""
        return int(self.n_treated[self.n_treated < np.diff(self.indptr)].sum())


def compute_bins(
    values: np.ndarray,
    n_bins: int,
    method: str = "quantile",
    clip_quantiles: tuple[float, float] = (0.0, 1.0),
) -> tuple[np.ndarray, int, np.ndarray]:
    """Bins of a covariate.

    Parameters
    ----------
    values : array, shape (n,)
        Finite, at least one.
    n_bins : int
        How many bins are wanted; ties can leave fewer.
    method : {"quantile", "uniform"}
        Edges at equally spaced quantiles, or equally spaced between the extremes.
    clip_quantiles : (float, float)
        Values beyond these quantiles are moved there before the edges are laid.

    Returns
    -------
    bin_id : int32[::1], shape (n,)
        From 0. A value on an edge belongs to the bin above; the last bin is closed.
    n_eff : int
        Bins between distinct edges, at least 1. Some may hold no value.
    edges : float64[::1]
        Distinct edges, increasing: ``n_eff + 1`` of them, or one where all values are equal.

    Raises
    ------
    ValueError
        If a value is not finite, or an option is not known.
    """
    values = np.ascontiguousarray(values, dtype=np.float64)
    low, high = clip_quantiles
    if values.ndim != 1 or not values.size:
        raise ValueError(f"values to be binned have shape {values.shape}, not (n,) with n > 0")
    if not np.isfinite(values).all():
        raise ValueError("values to be binned are not all finite")
    if method not in ("quantile", "uniform"):
        raise ValueError(f"method {method!r} is neither 'quantile' nor 'uniform'")
    if not 0.0 <= low < high <= 1.0:
        raise ValueError(f"clip_quantiles {low}, {high} are not 0 <= low < high <= 1")
    # Sorting once is faster than the selections of np.quantile on values in no order.
    ordered = np.sort(values)
    if (low, high) != (0.0, 1.0):
        ordered = np.clip(ordered, *np.quantile(ordered, [low, high]))
    n_edges = max(n_bins, 1) + 1
    if method == "quantile":
        edges = np.quantile(ordered, np.linspace(0.0, 1.0, n_edges))
    else:
        edges = np.linspace(ordered[0], ordered[-1], n_edges)
    edges = np.unique(edges)
    bin_id = np.empty(values.size, np.int32)
    # The outer edges do not matter: values beyond them belong to the end bins.
    digitize(values, edges[1:-1], bin_id)
    return bin_id, max(edges.size - 1, 1), edges


def make_strata(
    treated: np.ndarray,
    p: np.ndarray,
    batch: np.ndarray | None,
    burden: np.ndarray | None,
    settings: Mapping[str, Any],
) -> Strata:
    """Strata of a unit: batch x bin of propensity x bin of guide burden.

    Parameters
    ----------
    treated : int64[::1]
        Treated cells, sorted.
    p : float64[::1], shape (n_cells,)
        Propensity.
    batch : int32, shape (n_cells,), or None
        Code of each cell's batch, from 0. None: cells of all batches may change places.
    burden : float64, shape (n_cells,), or None
        Other guides of each cell. None: not used.
    settings : mapping
        ``n_bins``, ``min_stratum_size``, ``n_burden_bins`` (None: each value of the burden is a
        bin of its own), ``burden_bin_method`` and ``burden_clip_quantiles``.

    Raises
    ------
    ValueError
        If lengths differ, a batch code is negative, or a number is not finite.

    Notes
    -----
    Strata are numbered by batch, burden bin, propensity bin. One with fewer than
    ``min_stratum_size`` cells is merged with its neighbour in propensity; where all cells of a
    burden are too few, with the first stratum of the next burden of the batch; where a batch is
    too small as a whole, with the first of the next batch; at the end, with the last before.
    Neighbours, because cells of high propensity and burden mixed with any others would be
    likelier to be treated than these: a large ``min_stratum_size`` mixes what is to be kept apart.
    """
    for name, given in (("batch", batch), ("burden", burden)):
        if given is not None and given.shape != p.shape:
            raise ValueError(f"{name} has shape {given.shape}, the propensity {p.shape}")
    if batch is not None and batch.min() < 0:
        raise ValueError("cells without a batch")
    code, n_bins, _ = compute_bins(p, settings["n_bins"])
    code = code.astype(np.int64)
    n_burdens = 1
    if burden is not None:
        burden_bin, n_burdens = _burden_bins(burden, settings)
        code += burden_bin * n_bins
    if batch is not None:
        code += batch.astype(np.int64) * (n_burdens * n_bins)
    sizes = np.bincount(code)
    present = np.flatnonzero(sizes)
    least = settings["min_stratum_size"]
    group = _merge_small(sizes[present], present // n_bins, n_burdens, least)
    n_merged = int(np.count_nonzero(sizes[present] < least)) if present.size > 1 else 0
    number = np.zeros(sizes.size, np.int32)
    number[present] = group
    stratum = number[code]
    indptr = np.concatenate([[0], np.cumsum(np.bincount(stratum))])
    cells = np.empty(p.size, np.int32)
    cells_by_stratum(stratum, indptr[:-1].copy(), cells)
    n_treated = np.bincount(stratum[treated], minlength=indptr.size - 1)
    return Strata(cells, indptr, n_treated, n_merged)


def _burden_bins(burden: np.ndarray, settings: Mapping[str, Any]) -> tuple[np.ndarray, int]:
    """Bin of each cell's burden, and how many bins there are."""
    if settings["n_burden_bins"] is None:
        # A count of guides: within a bin of several counts, carriers still are cells of more.
        if not np.isfinite(burden).all():
            raise ValueError("the burden is not finite")
        values, bins = np.unique(burden, return_inverse=True)
        return bins, values.size
    bins, n_bins, _ = compute_bins(
        burden,
        settings["n_burden_bins"],
        settings["burden_bin_method"],
        settings["burden_clip_quantiles"],
    )
    return bins, n_bins


def _merge_small(sizes: np.ndarray, level: np.ndarray, n_burdens: int, least: int) -> np.ndarray:
    """Number of the stratum that each one goes to.

    Given are the cells of each stratum, and the number of its batch and burden together.
    """
    group = np.arange(sizes.size)
    # Neighbours in propensity first, then whole burdens of a batch, then batches.
    for run in (level, level // n_burdens, np.zeros_like(level)):
        merged = np.bincount(group, sizes).astype(np.int64)
        first = np.searchsorted(group, np.arange(merged.size))
        joined = np.empty(merged.size, np.int64)
        merge_small(merged, run[first], least, joined)
        group = joined[group]
    return group
