"""P values of the resamples themselves, each taken as observed and compared with the others.

Under exchangeability they are uniform on ``1/B, ..., 1`` whatever the statistic: the null curve
of a QQ plot. Resample b has ``p_b = (1 + #{b' != b: T_b' >= T_b}) / B``.
"""

import numpy as np


def compute_null_pvals_from_null_stats(null_stats: np.ndarray, side_code: int = 0) -> np.ndarray:
    """Leave-one-out p value of every resample.

    Parameters
    ----------
    null_stats : float64, shape (n_resamples,) or (n_resamples, n_features)
    side_code : {0, 1, -1}
        0 compares ``|T|``, 1 ``T`` (right tail), -1 ``-T`` (left tail).

    Returns
    -------
    float64, the shape of `null_stats`
        ``(B - #{b': T_b' < T_b}) / B``, in [1/B, 1]; a tie counts as at least as extreme.

    Raises
    ------
    ValueError
        If there is no resample, a statistic is NaN, or `side_code` is none of the three.
    """
    return _at_least_as_extreme(null_stats, side_code) / len(null_stats)


def crt_null_pvals_from_null_stats_fast(T_null: np.ndarray, two_sided: bool = True) -> np.ndarray:
    """The same for one feature, shape (n_resamples,); right-tailed unless `two_sided`."""
    return compute_null_pvals_from_null_stats(np.ravel(T_null), 0 if two_sided else 1)


def crt_null_pvals_from_null_stats_matrix(
    beta_null_bk: np.ndarray, two_sided: bool = True
) -> np.ndarray:
    """The same for shape (n_resamples, n_features); right-tailed unless `two_sided`."""
    return compute_null_pvals_from_null_stats(np.atleast_2d(beta_null_bk), 0 if two_sided else 1)


def rank_counts(null: np.ndarray, side_code: int = 0) -> np.ndarray:
    """How often each p value occurs among the leave-one-out p values of all features.

    Parameters
    ----------
    null : float64, shape (n_resamples, n_features)
    side_code : {0, 1, -1}
        As in :func:`compute_null_pvals_from_null_stats`.

    Returns
    -------
    int64, shape (n_resamples,)
        Entry ``j - 1``: how many p values equal ``j/B``. Counts of several units add up to those
        of all of them together, at the cost of B numbers.

    Raises
    ------
    ValueError
        As :func:`compute_null_pvals_from_null_stats`.
    """
    numerators = _at_least_as_extreme(null, side_code)
    return np.bincount(numerators.ravel() - 1, minlength=len(null))


def qq_expected_grid(p: np.ndarray) -> np.ndarray:
    """Expected uniform quantiles of m p values, ``(i - 0.5) / m`` for i = 1 ... m.

    Parameters
    ----------
    p : array_like
        Only its size m counts: leave NaN out beforehand.

    Returns
    -------
    float64, shape (m,)
    """
    m = np.size(p)
    return (np.arange(1, m + 1) - 0.5) / m


def _at_least_as_extreme(null: np.ndarray, side_code: int) -> np.ndarray:
    """Resamples, itself among them, at least as extreme as each; int64, the shape of `null`."""
    null = np.asarray(null, np.float64)
    if side_code not in (0, 1, -1):
        raise ValueError(f"side_code {side_code!r} is none of 0, 1, -1")
    if null.ndim not in (1, 2) or not len(null):
        raise ValueError(f"statistics of resamples by features wanted, got shape {null.shape}")
    if np.isnan(null).any():
        raise ValueError("a statistic of the null is NaN: it has no rank among the others")
    extremity = np.abs(null) if side_code == 0 else side_code * null
    columns = extremity.reshape(len(null), -1)
    ordered = np.sort(columns, axis=0)
    below = np.empty(columns.shape, np.int64)
    for k in range(columns.shape[1]):
        below[:, k] = np.searchsorted(ordered[:, k], columns[:, k], side="left")
    return (len(null) - below).reshape(null.shape)
