"""Which features respond to which contrast: multiple testing across features and contrasts."""

import numpy as np

from condrand.fdr import benjamini_hochberg
from condrand.linear.fit import Fit
from condrand.linear.moderation import estimable_contrasts, f_quantile, log_f, whitening

METHODS = ("separate", "global", "hierarchical", "nestedF")
ADJUSTMENTS = ("BH", "BY", "holm", "bonferroni", "none")


def adjust_p(p_values: np.ndarray, method: str = "BH") -> np.ndarray:
    """P values adjusted for multiple testing.

    Parameters
    ----------
    p_values : float64, any shape
        Taken as one family. NaN for a test that was not made; it counts as no test.
    method : {"BH", "BY", "holm", "bonferroni", "none"}
        ``BH`` and ``BY`` control the false discovery rate, ``BY`` under any dependence; ``holm``
        and ``bonferroni`` the chance of any false call.

    Returns
    -------
    float64, same shape

    Notes
    -----
    Source: Benjamini & Hochberg 1995; Benjamini & Yekutieli 2001; Holm 1979.
    """
    if method not in ADJUSTMENTS:
        raise ValueError(f"adjust is {method!r}, expected one of {', '.join(ADJUSTMENTS)}")
    p = np.asarray(p_values, np.float64)
    flat = p.ravel()
    made = np.flatnonzero(~np.isnan(flat))
    m = made.size
    if method == "none" or not m:
        return p.copy()
    if method == "BH":
        return benjamini_hochberg(flat).reshape(p.shape)
    out = np.full(flat.shape, np.nan)
    if method == "bonferroni":
        out[made] = np.minimum(flat[made] * m, 1.0)
        return out.reshape(p.shape)
    order = made[np.argsort(flat[made], kind="stable")]
    if method == "BY":
        scaled = flat[order] * (m * np.sum(1 / np.arange(1, m + 1)) / np.arange(1, m + 1))
        out[order] = np.minimum(np.minimum.accumulate(scaled[::-1])[::-1], 1.0)
    else:
        stepped = np.maximum.accumulate(flat[order] * np.arange(m, 0, -1))
        out[order] = np.minimum(stepped, 1.0)
    return out.reshape(p.shape)


def decide_tests(
    fit: Fit,
    method: str = "separate",
    adjust: str = "BH",
    p_value: float = 0.05,
    lfc: float = 0.0,
) -> np.ndarray:
    """Calls of every feature and contrast: up, down, or neither.

    Parameters
    ----------
    fit : Fit
        After ``e_bayes``, or ``treat`` for the first two methods.
    method : {"separate", "global", "hierarchical", "nestedF"}
        ``separate`` adjusts each contrast by itself; ``global`` all tests together;
        ``hierarchical`` and ``nestedF`` first select features by F, then contrasts within them.
    adjust : {"BH", "BY", "holm", "bonferroni", "none"}
    p_value : float
        A test is called where its adjusted p value is below this, strictly.
    lfc : float
        And where the size of its coefficient exceeds this, strictly.

    Returns
    -------
    int8, shape (G, p)
        1, -1 or 0; 0 too where there is no test.

    Notes
    -----
    Definition: let i of the N features with an F be selected at level `p_value`, and alpha the
    unadjusted level they were selected at (``p_value i/N`` with BH). ``hierarchical`` adjusts
    the p values of each selected feature among its contrasts and calls those below alpha.
    ``nestedF`` calls the contrast with the largest t in size; then, in decreasing order,
    the next one as long as F stays above its quantile at alpha with all larger t reduced to the
    size of the next.
    Both use uncapped degrees of freedom, ``d + d0``.
    Source: Smyth 2004 (F); Ritchie et al. 2015 (decideTests).
    """
    if method not in METHODS:
        raise ValueError(f"method is {method!r}, expected one of {', '.join(METHODS)}")
    if fit.log_p is None or fit.t is None:
        raise ValueError("the fit has no tests: run e_bayes or treat on it first")
    if method in ("separate", "global"):
        p = np.exp(fit.log_p)
        if method == "global":
            called = adjust_p(p, adjust) < p_value
        else:
            called = np.stack([adjust_p(column, adjust) < p_value for column in p.T], axis=1)
    else:
        if fit.F_log_p is None or fit.F_df2 is None:
            raise ValueError(f"method {method!r} needs F: run e_bayes, not treat")
        selected = adjust_p(np.exp(fit.F_log_p), adjust) < p_value
        n = int(np.count_nonzero(~np.isnan(fit.F_log_p)))
        level = p_value * _share(adjust, int(np.count_nonzero(selected)), n)
        called = np.zeros(fit.t.shape, bool)
        t, df = fit.t[selected], fit.F_df2[selected]
        if t.size:
            within = _hierarchical if method == "hierarchical" else _nested_f
            called[selected] = within(fit, t, df, adjust, level)
    called &= np.abs(fit.coefficients) > lfc if lfc else True
    with np.errstate(invalid="ignore"):
        return np.where(called, np.sign(fit.coefficients), 0).astype(np.int8)


def _share(adjust: str, i: int, n: int) -> float:
    """The level at which i of n p values are selected, in units of the adjusted one."""
    if adjust == "none" or n == 0:
        return 1.0
    if adjust == "bonferroni":
        return 1 / n
    if adjust == "holm":
        return 1 / (n - i + 1)
    return i / n / (np.sum(1 / np.arange(1, n + 1)) if adjust == "BY" else 1.0)


def _hierarchical(
    fit: Fit, t: np.ndarray, df: np.ndarray, adjust: str, level: float
) -> np.ndarray:
    p = np.exp(log_f(t**2, 1.0, df[:, None]))
    return np.stack([adjust_p(row, adjust) < level for row in p])


def _nested_f(fit: Fit, t: np.ndarray, df: np.ndarray, adjust: str, level: float) -> np.ndarray:
    estimable = np.flatnonzero(estimable_contrasts(fit.t, fit.cov_coefficients))
    whole, t = t, t[:, estimable]
    root, rank = whitening(fit.cov_coefficients[np.ix_(estimable, estimable)])
    threshold = f_quantile(np.full(df.shape, np.log(level)), float(rank), df)
    order = np.argsort(-np.abs(t), axis=1, kind="stable")
    signs = np.sign(t)
    size = np.abs(t)
    rows = np.arange(len(t))
    called = np.zeros(t.shape, bool)
    going = np.ones(len(t), bool)
    for j in range(t.shape[1]):
        here = order[:, j]
        # The larger ones come down to this |t|; the smaller ones stay as they are.
        reduced = np.minimum(size, size[rows, here][:, None])
        f = np.sum(((signs * reduced) @ root) ** 2, axis=1) / rank
        going &= f > threshold
        called[rows, here] = going
    out = np.zeros(whole.shape, bool)
    out[:, estimable] = called
    return out


def count_calls(calls: np.ndarray, names: list[str]) -> dict[str, dict[str, int]]:
    """Features down, neither and up, by contrast.

    Parameters
    ----------
    calls : int8, shape (G, p)
        From :func:`decide_tests`.
    names : list of str, length p
    """
    return {
        name: {
            word: int(np.count_nonzero(calls[:, k] == value))
            for word, value in (("down", -1), ("not_significant", 0), ("up", 1))
        }
        for k, name in enumerate(names)
    }
