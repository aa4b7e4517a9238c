"""Counts before voom: counts per million, filters, normalization factors."""

from collections.abc import Sequence

import numpy as np

# Sums of the filter are shares and means; this keeps an exact tie on the side of keeping.
_TIE = 1e-14
# Samples whose log ratios all lie below this are the reference over again.
_SAME = 1e-6


def cpm(counts: np.ndarray, lib_size: np.ndarray | None = None) -> np.ndarray:
    """Counts per million of a library.

    Parameters
    ----------
    counts : numbers, shape (G, n)
    lib_size : float64, shape (n,), optional
        Sums of the counts given if not said.

    Returns
    -------
    float64, shape (G, n)
    """
    counts, lib_size = _checked(counts, lib_size)
    if not (lib_size > 0.0).all():
        raise ValueError("a library without counts has no counts per million")
    return counts / lib_size * 1e6


def log2_cpm(
    counts: np.ndarray, lib_size: np.ndarray | None = None, offset: float = 0.01
) -> np.ndarray:
    """``log2(cpm + offset)``, for display.

    Parameters
    ----------
    counts, lib_size
        As in :func:`cpm`. After filtering, give the libraries of all features.
    offset : float
        In counts per million.

    Returns
    -------
    float64, shape (G, n)
    """
    return np.log2(cpm(counts, lib_size) + offset)


def log_cpm(
    counts: np.ndarray, lib_size: np.ndarray | None = None, prior_count: float = 2.0
) -> np.ndarray:
    """Log2 counts per million that stay finite, as edgeR's ``cpm(log=TRUE)``.

    Parameters
    ----------
    counts, lib_size
        As in :func:`cpm`; libraries times their normalization factors if any.
    prior_count : float
        Added to the counts of a library of average size; above 0.

    Returns
    -------
    float64, shape (G, n)

    Notes
    -----
    Definition: ``log2((c_gi + a_i) / (library_i + 2 a_i) * 1e6)`` with
    ``a_i = prior_count * library_i / mean(library)``. Scaled so, the prior moves no fold change
    between libraries that differ in size alone.
    """
    counts, lib_size = _checked(counts, lib_size)
    if not (lib_size > 0.0).all():
        raise ValueError("a library without counts has no counts per million")
    if not 0.0 < prior_count < np.inf:
        raise ValueError(f"prior_count is {prior_count}, expected a number above 0")
    prior = lib_size / lib_size.mean() * prior_count
    return np.log2((counts + prior) / (lib_size + 2.0 * prior) * 1e6)


def filter_by_cpm(
    counts: np.ndarray,
    groups: Sequence,
    lib_size: np.ndarray | None = None,
    min_count: float = 10.0,
) -> np.ndarray:
    """Features that reach about `min_count` in as many samples as the smallest group has.

    Parameters
    ----------
    counts : numbers, shape (G, n)
        All features.
    groups : sequence, shape (n,)
        Label of each sample.
    lib_size : float64, shape (n,), optional
    min_count : float
        In a library of median size.

    Returns
    -------
    bool, shape (G,)

    Notes
    -----
    Definition: ``#{i: cpm_gi > min_count / (median(library) / 1e6)} >= smallest group``; strict.
    """
    counts, lib_size = _checked(counts, lib_size)
    sizes = _group_sizes(groups, counts.shape[1])
    cutoff = min_count / (np.median(lib_size) / 1e6)
    return np.count_nonzero(cpm(counts, lib_size) > cutoff, axis=1) >= sizes.min()


def filter_by_expr(
    counts: np.ndarray,
    groups: Sequence | None = None,
    design: np.ndarray | None = None,
    lib_size: np.ndarray | None = None,
    min_count: float = 10.0,
    min_total_count: float = 15.0,
    large_n: float = 10.0,
    min_prop: float = 0.7,
) -> np.ndarray:
    """Features expressed in enough samples, as edgeR's ``filterByExpr`` keeps them.

    Parameters
    ----------
    counts : numbers, shape (G, n)
        All features.
    groups : sequence, shape (n,), optional
        Label of each sample. Without groups and design all samples are one group.
    design : float64, shape (n, p), optional
        Used where there are no groups: the smallest group has ``1 / max(leverage)`` samples.
    lib_size : float64, shape (n,), optional
    min_count : float
        In a library of median size.
    min_total_count : float
        Over all samples.
    large_n, min_prop : float
        Of a smallest group beyond `large_n` samples, only this share counts.

    Returns
    -------
    bool, shape (G,)

    Notes
    -----
    Definition: keep where ``#{i: cpm_gi >= min_count / median(library) * 1e6} >= m`` and the
    total reaches `min_total_count`, m the size of the smallest group.
    Source: Chen, Lun & Smyth 2016 (F1000Research 5:1438).
    """
    counts, lib_size = _checked(counts, lib_size)
    n = counts.shape[1]
    if groups is not None:
        smallest = float(_group_sizes(groups, n).min())
    elif design is not None:
        design = np.asarray(design, np.float64)
        if design.ndim != 2 or design.shape[0] != n:
            raise ValueError(f"the design must have {n} rows, not {design.shape}")
        u, singular, _ = np.linalg.svd(design, full_matrices=False)
        span = u[:, singular > 1e-10 * singular.max(initial=0.0)]
        smallest = 1.0 / np.max(np.sum(span**2, axis=1))
    else:
        smallest = float(n)
    if smallest > large_n:
        smallest = large_n + (smallest - large_n) * min_prop
    reached = cpm(counts, lib_size) >= min_count / np.median(lib_size) * 1e6
    enough = np.count_nonzero(reached, axis=1) >= smallest - _TIE
    return enough & (counts.sum(axis=1) >= min_total_count - _TIE)


def norm_factors(
    counts: np.ndarray,
    method: str = "tmm",
    lib_size: np.ndarray | None = None,
    reference: int | None = None,
    trim_ratio: float = 0.3,
    trim_intensity: float = 0.05,
) -> np.ndarray:
    """Factors by which libraries differ in composition; their product is 1.

    Parameters
    ----------
    counts : numbers, shape (G, n)
    method : {"tmm", "rle", "upper_quartile", "none"}
    lib_size : float64, shape (n,), optional
    reference : int, optional
        Sample that TMM compares with; that with the most usual upper quartile if not said.
    trim_ratio, trim_intensity : float
        Share of the features that TMM leaves out at either end of log ratio and log intensity.

    Returns
    -------
    float64, shape (n,)
        To be multiplied with the library sizes.

    Raises
    ------
    ValueError
        If the method is unknown, or a sample has no feature to compare by.

    Notes
    -----
    Definition: ``tmm``, trimmed mean of the log ratios to the reference, weighted by the inverse
    of their binomial variance (Robinson & Oshlack 2010). ``rle``,
    median ratio to the geometric mean of the samples (Anders & Huber 2010) per count.
    ``upper_quartile``, third quartile of the features that any sample has, per count (Bullard
    2010). All are scaled to a geometric mean of 1.
    """
    counts, lib_size = _checked(counts, lib_size)
    if not (lib_size > 0.0).all():
        raise ValueError("a library without counts has no normalization factor")
    n = counts.shape[1]
    counts = counts[counts.any(axis=1)]
    if method not in {"tmm", "rle", "upper_quartile", "none"}:
        raise ValueError(f"method {method!r}: tmm, rle, upper_quartile or none")
    if method == "none" or n == 1 or not len(counts):
        return np.ones(n)
    if method == "tmm":
        factors = _tmm(counts, lib_size, reference, trim_ratio, trim_intensity)
    elif method == "rle":
        with np.errstate(divide="ignore"):
            centre = np.exp(np.mean(np.log(counts), axis=1))
        common = centre > 0.0
        if not common.any():
            raise ValueError("RLE needs a feature that every sample has")
        factors = np.median(counts[common] / centre[common, None], axis=0) / lib_size
    else:
        factors = np.quantile(counts, 0.75, axis=0) / lib_size
    if not (factors > 0.0).all():
        raise ValueError(f"{method}: the factor of sample {int(np.argmin(factors)) + 1} is 0")
    return factors / np.exp(np.mean(np.log(factors)))


def _tmm(
    counts: np.ndarray,
    lib_size: np.ndarray,
    reference: int | None,
    trim_ratio: float,
    trim_intensity: float,
) -> np.ndarray:
    """Factors of the samples relative to a reference, float64 of shape (n,)."""
    n = counts.shape[1]
    if reference is None:
        quartile = np.quantile(counts, 0.75, axis=0) / lib_size
        if np.median(quartile) < 1e-20:  # too sparse for quartiles
            reference = int(np.argmax(np.sqrt(counts).sum(axis=0)))
        else:
            reference = int(np.argmin(np.abs(quartile - quartile.mean())))
    elif not 0 <= reference < n:
        raise ValueError(f"reference sample {reference} of {n}")
    factors = np.ones(n)
    base, base_size = counts[:, reference], lib_size[reference]
    for i in range(n):
        both = (counts[:, i] > 0.0) & (base > 0.0)
        own, other, own_size = counts[both, i], base[both], lib_size[i]
        ratio = np.log2((own / own_size) / (other / base_size))
        if not ratio.size:
            raise ValueError(f"TMM: samples {i + 1} and {reference + 1} share no feature")
        if np.abs(ratio).max() < _SAME:
            continue
        intensity = (np.log2(own / own_size) + np.log2(other / base_size)) / 2.0
        variance = (own_size - own) / own_size / own + (base_size - other) / base_size / other
        kept = _untrimmed(ratio, trim_ratio) & _untrimmed(intensity, trim_intensity)
        weights = 1.0 / variance[kept]
        if kept.any():
            factors[i] = 2.0 ** (np.sum(weights * ratio[kept]) / np.sum(weights))
    return factors


def _untrimmed(values: np.ndarray, share: float) -> np.ndarray:
    """Values left after cutting off a share of them at either end; ties share their mean rank."""
    _, place, times = np.unique(values, return_inverse=True, return_counts=True)
    rank = (np.cumsum(times) - (times - 1) / 2.0)[place]
    cut = np.floor(values.size * share)
    return (rank >= cut + 1) & (rank <= values.size - cut)


def _group_sizes(groups: Sequence, n: int) -> np.ndarray:
    labels = np.asarray(groups)
    if labels.shape != (n,):
        raise ValueError(f"{labels.shape} labels of groups for {n} samples")
    return np.unique(labels.astype(str), return_counts=True)[1]


def _checked(counts: np.ndarray, lib_size: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
    """Counts and library sizes as float64."""
    counts = np.ascontiguousarray(counts, np.float64)
    if counts.ndim != 2 or not counts.size:
        raise ValueError(f"counts must be features by samples, not {counts.shape}")
    if not np.isfinite(counts).all() or counts.min() < 0.0:
        raise ValueError("a count is missing, infinite or negative")
    if lib_size is None:
        return counts, counts.sum(axis=0)
    lib_size = np.asarray(lib_size, np.float64)
    if lib_size.shape != counts.shape[1:]:
        raise ValueError(f"library sizes of shape {lib_size.shape} for {counts.shape[1]} samples")
    if not (np.isfinite(lib_size) & (lib_size >= 0.0)).all():
        raise ValueError("a library size is missing, infinite or negative")
    return counts, lib_size
