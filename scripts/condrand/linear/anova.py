"""Analysis of variance of every feature: one factor, or named terms by type II sums of squares.

Features are taken in blocks that stay in the cache: each value is read from memory once. Sums of
squares come from residuals and projections, never as differences of larger sums.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy.linalg import qr

from condrand.linear.moderation import log_f

# Values per block: with its centred copy and residual about 1 MB, which caches hold.
_BLOCK = 32_768
# A part this small of a design column's length is rounding, as in `condrand.covariates`.
_RANK_TOLERANCE = 1e-9
# Rounding leaves residuals of about n machine epsilons of the values; with a margin.
_ROUNDING = 4 * np.finfo(np.float64).eps

CONSTANT = "constant"
NO_RESIDUAL = "no variance within groups"
TOO_FEW = "too few values"


@dataclass(frozen=True)
class Anova:
    """Analysis of variance on one factor; G features, k groups.

    Attributes
    ----------
    levels : list
        The groups, sorted.
    F, p_value, log_p : float64, shape (G,)
        log_p is the natural logarithm of p. NaN where there is no test.
    df_group, df_residual : float64, shape (G,)
    ss_group, ss_residual : float64, shape (G,)
        Sums of squares between and within groups.
    eta_squared : float64, shape (G,)
        Share of the sum of squares that lies between groups, 0 to 1.
    group_means : float64, shape (G, k)
        NaN where a group has no value.
    group_counts : int64, shape (G, k)
    note : array of str, shape (G,)
        Empty, or why F is not an ordinary number: ``constant`` (F and p are NaN),
        ``no variance within groups`` (F inf, p 0, log p -inf), ``too few values`` (NaN).
    """

    levels: list
    F: np.ndarray
    p_value: np.ndarray
    log_p: np.ndarray
    df_group: np.ndarray
    df_residual: np.ndarray
    ss_group: np.ndarray
    ss_residual: np.ndarray
    eta_squared: np.ndarray
    group_means: np.ndarray
    group_counts: np.ndarray
    note: np.ndarray


@dataclass(frozen=True)
class TypeTwo:
    """Analysis of variance on several terms; G features, m terms.

    Attributes
    ----------
    terms : list of str
    sum_sq, df, F, p_value, log_p : float64, shape (G, m)
        As in :class:`Anova`, one column per term.
    partial_eta_squared : float64, shape (G, m)
        ``SS / (SS + residual SS)``.
    ss_residual, df_residual : float64, shape (G,)
    note : array of str, shape (G,)
        As in :class:`Anova`.
    """

    terms: list[str]
    sum_sq: np.ndarray
    df: np.ndarray
    F: np.ndarray
    p_value: np.ndarray
    log_p: np.ndarray
    partial_eta_squared: np.ndarray
    ss_residual: np.ndarray
    df_residual: np.ndarray
    note: np.ndarray


def _checked(values: np.ndarray) -> np.ndarray:
    values = np.asarray(values)
    if values.ndim != 2:
        raise ValueError(f"values have {values.ndim} dimensions, expected features by samples")
    if values.dtype.kind not in "fiub":
        raise ValueError(f"values are {values.dtype}, expected numbers")
    return values


def _blocks(values: np.ndarray) -> Iterator[tuple[slice, np.ndarray, np.ndarray, np.ndarray]]:
    """Rows, their values less their means, the means, and a buffer of the same shape.

    Rows with missing values come as NaN throughout.
    """
    g, n = values.shape
    step = max(16, _BLOCK // max(n, 1))
    centred, buffer = np.empty((step, n)), np.empty((step, n))
    for first in range(0, g, step):
        rows = slice(first, min(first + step, g))
        size = rows.stop - first
        block = values[rows]
        with np.errstate(invalid="ignore", over="ignore"):
            mean = block.mean(axis=1, dtype=np.float64)
        bad = np.flatnonzero(~np.isfinite(mean))
        bad = bad[np.any(np.isinf(block[bad]), axis=1) | np.isinf(mean[bad])]
        if bad.size:
            raise ValueError(
                f"feature {first + bad[0]} has infinite or too large values, "
                "expected numbers or NaN"
            )
        np.subtract(block, mean[:, None], out=centred[:size])
        yield rows, centred[:size], mean, buffer[:size]


def _squares(rows: np.ndarray) -> np.ndarray:
    return np.einsum("ij,ij->i", rows, rows)


def _ratios(
    ss: np.ndarray, df: np.ndarray, ss_residual: np.ndarray, df_residual: np.ndarray
) -> np.ndarray:
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        return (ss / df) / (ss_residual / df_residual)


def _rounding(n: np.ndarray | int, mean: np.ndarray, ss_total: np.ndarray) -> np.ndarray:
    """Sums of squares that rounding alone may leave.

    No value of a feature exceeds ``|mean| + sqrt(total sum of squares)`` in size.
    """
    if not np.all(np.isfinite(ss_total)):
        feature = int(np.argmin(np.isfinite(ss_total)))
        raise ValueError(f"feature {feature} has values too large to square")
    return (_ROUNDING * n * (np.abs(mean) + np.sqrt(ss_total))) ** 2


def anova(values: np.ndarray, groups: Sequence) -> Anova:
    """One-way analysis of variance of every feature.

    Parameters
    ----------
    values : numeric, shape (G, n)
        Features by samples. NaN is missing: the feature is tested on the samples it has, and on
        the groups these are of.
    groups : sequence of length n
        Group of each sample; labels that sort.

    Notes
    -----
    Definition: ``F = (SSB/(k - 1)) / (SSW/(N - k))`` with
    ``SSB = sum_j n_j (mean_j - mean)^2`` and ``SSW = sum_ij (y_ij - mean_j)^2``. With one factor
    the types I, II and III of sums of squares agree.
    Degenerate features: a sum of squares within ``(4 N eps (|mean| + sd sqrt(N)))^2`` is rounding.
    If the total is, the feature is constant and F and p are NaN, so that it counts as no test; if
    only SSW is, F is inf, p is 0 and log p is -inf.
    Source: Fisher 1925; no empty group counts in k.
    """
    values = _checked(values)
    levels, codes = np.unique(np.asarray(groups), return_inverse=True)
    g, n = values.shape
    if codes.size != n:
        raise ValueError(f"groups has {codes.size} labels, expected one for each of {n} samples")
    if levels.dtype.kind == "f" and np.any(np.isnan(levels)):
        raise ValueError("groups has missing labels: leave out those samples")
    k = levels.size
    if k < 2:
        raise ValueError(f"groups holds {k} group, expected at least 2")
    member = np.zeros((n, k))
    member[np.arange(n), codes] = 1.0
    sizes = member.sum(axis=0)
    averaging = member / sizes
    spreading = np.ascontiguousarray(member.T)
    mean, between, within = np.empty(g), np.empty(g), np.empty(g)
    means = np.empty((g, k))
    for rows, centred, average, residual in _blocks(values):
        away = centred @ averaging
        np.matmul(away, spreading, out=residual)
        np.subtract(centred, residual, out=residual)
        within[rows] = _squares(residual)
        with np.errstate(over="ignore"):
            between[rows] = (away**2) @ sizes
        mean[rows] = average
        means[rows] = away + average[:, None]
    counts = np.broadcast_to(sizes.astype(np.int64), (g, k)).copy()
    gaps = np.flatnonzero(~np.isfinite(mean))
    step = max(16, _BLOCK // max(n, 1))
    for first in range(0, gaps.size, step):
        some = gaps[first : first + step]
        block, there = _present(values, some)
        n_there = there @ member
        counts[some] = np.rint(n_there).astype(np.int64)
        n_all = n_there.sum(axis=1)
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            average = block.sum(axis=1) / n_all
            centred = np.where(there, block - average[:, None], 0.0)
            away = (centred @ member) / n_there
        within[some] = _squares(np.where(there, centred - away[:, codes], 0.0))
        between[some] = np.sum(np.where(n_there > 0, n_there * away**2, 0.0), axis=1)
        mean[some] = average
        means[some] = away + average[:, None]
    n_values = counts.sum(axis=1).astype(np.float64)
    n_groups = np.count_nonzero(counts, axis=1)
    df_group, df_residual = n_groups - 1.0, n_values - n_groups
    total = between + within
    rounding = _rounding(n_values, np.where(n_values > 0, mean, 0.0), total)
    f = _ratios(between, df_group, within, df_residual)
    note = np.full(g, "", dtype=f"<U{len(NO_RESIDUAL)}")
    exact = within <= rounding
    f[exact], note[exact] = np.inf, NO_RESIDUAL
    constant = total <= rounding
    f[constant], note[constant] = np.nan, CONSTANT
    few = (df_group < 1) | (df_residual < 1)
    f[few], note[few] = np.nan, TOO_FEW
    for array in (between, within, df_group, df_residual):
        array[few] = np.nan
    log_p = log_f(f, df_group, df_residual)
    with np.errstate(divide="ignore", invalid="ignore"):
        share = np.where(constant, np.nan, between / total)
    share[few] = np.nan
    return Anova(
        levels=levels.tolist(),
        F=f,
        p_value=np.exp(log_p),
        log_p=log_p,
        df_group=df_group,
        df_residual=df_residual,
        ss_group=between,
        ss_residual=within,
        eta_squared=share,
        group_means=means,
        group_counts=counts,
        note=note,
    )


def _present(values: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Values of some rows with 0 where they are missing, and where they are not."""
    block = values[rows].astype(np.float64)
    there = ~np.isnan(block)
    return np.where(there, block, 0.0), there


def anova_type_two(values: np.ndarray, terms: Mapping[str, np.ndarray]) -> TypeTwo:
    """Type II analysis of variance of every feature on several terms.

    Parameters
    ----------
    values : numeric, shape (G, n)
        Features by samples. NaN is missing: the feature is tested on the samples it has.
    terms : mapping of str to float64, shape (n, width) or (n,)
        The columns of each term; an intercept is implied. A name such as ``a:b`` is the
        interaction of ``a`` and ``b``, so it contains both; its columns are products of theirs.

    Notes
    -----
    Definition: the sum of squares of a term is what the residual sum of squares falls by when the
    term joins all terms that do not contain it; the error is that of the full model. Columns that
    depend on others add no degree of freedom; a term left without any is NaN.
    Degenerate features: as :func:`anova`.
    Cost: one QR per term for all complete features together, and one more set per pattern of
    missing values.
    Source: Yates 1934; Langsrud 2003, Statistics and Computing 13.
    """
    values = _checked(values)
    g, n = values.shape
    columns = {}
    for name, block in terms.items():
        block = np.asarray(block, np.float64)
        block = block[:, None] if block.ndim == 1 else block
        if block.shape[0] != n:
            raise ValueError(f"term {name!r} has {block.shape[0]} rows, expected {n} samples")
        if not np.all(np.isfinite(block)):
            raise ValueError(f"term {name!r} has missing or infinite values")
        columns[name] = block
    if not columns:
        raise ValueError("there are no terms: name at least one")
    m = len(columns)
    ss, df = np.full((g, m), np.nan), np.full((g, m), np.nan)
    residual_ss, residual_df = np.full(g, np.nan), np.full(g, np.nan)
    total, mean, n_values = np.zeros(g), np.zeros(g), np.full(g, float(n))
    bases = _bases(columns)
    residual_df[:] = n - 1.0 - bases.full.shape[1]
    df[:] = bases.widths
    for rows, centred, average, buffer in _blocks(values):
        ss[rows], residual_ss[rows] = bases.sums(centred, buffer)
        total[rows], mean[rows] = _squares(centred), average
    gaps = np.flatnonzero(~np.isfinite(mean))
    if gaps.size:
        block, there = _present(values, gaps)
        patterns, which = np.unique(np.packbits(there, axis=1), axis=0, return_inverse=True)
        order = np.argsort(which.ravel(), kind="stable")
        ends = np.cumsum(np.bincount(which.ravel(), minlength=len(patterns)))
        for same in np.split(order, ends[:-1]):
            rows, kept = gaps[same], there[same[0]]
            n_values[rows] = np.count_nonzero(kept)
            mean[rows] = total[rows] = 0.0
            if not np.any(kept):
                df[rows], residual_df[rows], ss[rows], residual_ss[rows] = 0.0, 0.0, 0.0, 0.0
                continue
            y = block[same][:, kept]
            mean[rows] = y.mean(axis=1)
            y -= mean[rows][:, None]
            part = _bases({name: block[kept] for name, block in columns.items()})
            ss[rows], residual_ss[rows] = part.sums(y, np.empty_like(y))
            df[rows], total[rows] = part.widths, _squares(y)
            residual_df[rows] = n_values[rows] - 1.0 - part.full.shape[1]
    rounding = _rounding(n_values, mean, total)
    f = _ratios(ss, df, residual_ss[:, None], residual_df[:, None])
    note = np.full(g, "", dtype=f"<U{len(NO_RESIDUAL)}")
    exact = residual_ss <= rounding
    note[exact] = NO_RESIDUAL
    # A term that explains nothing of a feature without error has no F, not an infinite one.
    f[exact] = np.where(ss[exact] <= rounding[exact][:, None], np.nan, np.inf)
    constant = total <= rounding
    f[constant], note[constant] = np.nan, CONSTANT
    few = (residual_df < 1) | np.all(df < 1, axis=1)
    note[few] = TOO_FEW
    residual_ss[few] = residual_df[few] = np.nan
    untestable = few[:, None] | (df < 1)
    f[untestable] = ss[untestable] = np.nan
    log_p = log_f(f, df, residual_df[:, None])
    with np.errstate(divide="ignore", invalid="ignore"):
        partial = ss / (ss + residual_ss[:, None])
    partial[constant] = np.nan
    return TypeTwo(
        terms=list(columns),
        sum_sq=ss,
        df=df,
        F=f,
        p_value=np.exp(log_p),
        log_p=log_p,
        partial_eta_squared=partial,
        ss_residual=residual_ss,
        df_residual=residual_df,
        note=note,
    )


@dataclass(frozen=True)
class _Bases:
    """Orthonormal bases of what each term adds, side by side, and of the whole design."""

    terms: np.ndarray
    widths: np.ndarray
    full: np.ndarray

    def sums(self, centred: np.ndarray, buffer: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Sum of squares of each term, and of the residual, for each row."""
        with np.errstate(over="ignore"):
            squares = (centred @ self.terms) ** 2
        ends = np.cumsum(self.widths)
        ss = np.stack(
            [
                squares[:, end - width : end].sum(axis=1)
                for end, width in zip(ends, self.widths, strict=True)
            ],
            axis=1,
        )
        np.matmul(centred @ self.full, self.full.T, out=buffer)
        np.subtract(centred, buffer, out=buffer)
        return ss, _squares(buffer)


def _bases(columns: Mapping[str, np.ndarray]) -> _Bases:
    # Centring takes the intercept out of every column, as it is taken out of the features.
    scaled = {name: _standardized(block) for name, block in columns.items()}
    factors = {name: frozenset(name.split(":")) for name in columns}
    parts = []
    for name, block in scaled.items():
        others = [
            scaled[other]
            for other in columns
            if other != name and not factors[other] > factors[name]
        ]
        under = _orthonormal(np.hstack([np.empty((len(block), 0)), *others]))
        left = block.copy()
        # The second pass takes out what rounding left.
        for _ in range(2):
            left -= under @ (under.T @ left)
        parts.append(_orthonormal(left))
    widths = np.array([part.shape[1] for part in parts])
    return _Bases(np.hstack(parts), widths, _orthonormal(np.hstack(list(scaled.values()))))


def _standardized(block: np.ndarray) -> np.ndarray:
    """Centred columns of length 1; 0 where constant."""
    centred = block - block.mean(axis=0)
    length = np.linalg.norm(centred, axis=0)
    flat = length <= _RANK_TOLERANCE * np.linalg.norm(block, axis=0)
    return np.where(flat, 0.0, centred / np.where(flat, 1.0, length))


def _orthonormal(columns: np.ndarray) -> np.ndarray:
    """Orthonormal basis of columns, each at most of length 1."""
    if not columns.size:
        return np.empty((len(columns), 0))
    q, r, _ = qr(columns, mode="economic", pivoting=True)
    rank = int(np.count_nonzero(np.abs(np.diag(r)) > _RANK_TOLERANCE))
    return np.ascontiguousarray(q[:, :rank])
