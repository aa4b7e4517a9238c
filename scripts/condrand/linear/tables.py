"""Results of a moderated fit as tables, best features first."""

import numpy as np
import pandas as pd

from condrand.linear.calls import adjust_p
from condrand.linear.fit import Fit
from condrand.linear.moderation import f_quantile, moderated_f

INTERCEPT = "(Intercept)"
_SORTS = ("B", "P", "t", "logFC", "AveExpr", "none")
_F_SORTS = ("F", "none")

Coef = str | int | list[str] | list[int] | None


def _columns(fit: Fit, coef: Coef) -> list[int]:
    """Positions of the coefficients asked for; without a wish, all but the intercept."""
    if coef is None:
        every = list(range(len(fit.names)))
        return [k for k in every if fit.names[k] != INTERCEPT] or every
    wanted = coef if isinstance(coef, list | tuple | np.ndarray) else [coef]
    found = []
    for one in wanted:
        if isinstance(one, str):
            if one not in fit.names:
                raise ValueError(f"coef {one!r} is not in the fit: it has {', '.join(fit.names)}")
            found.append(fit.names.index(one))
        else:
            k = int(one)
            if not -len(fit.names) <= k < len(fit.names):
                raise ValueError(f"coef {k} is out of range: the fit has {len(fit.names)}")
            found.append(k % len(fit.names))
    if not found:
        raise ValueError("coef is empty: name at least one coefficient")
    return found


def _finish(
    table: pd.DataFrame, keep: np.ndarray, order: np.ndarray, number: int | None
) -> pd.DataFrame:
    rows = order[keep[order]]
    return table.iloc[rows if number is None else rows[:number]]


def _order(by: np.ndarray | None, n: int) -> np.ndarray:
    """Positions by increasing value, stable; NaN last."""
    return np.arange(n) if by is None else np.argsort(by, kind="stable")


def _margin(fit: Fit, k: int, confint: bool | float) -> np.ndarray:
    level = 0.95 if confint is True else float(confint)
    if not 0 < level < 1:
        raise ValueError(f"confint is {confint}, expected a level between 0 and 1")
    # A two-sided t quantile is the root of that of F on 1 degree of freedom.
    t = np.sqrt(f_quantile(np.log1p(-level), 1.0, fit.df_total))
    return t * fit.stdev_unscaled[:, k] * np.sqrt(fit.s2_post)


def _one_contrast(
    fit: Fit,
    k: int,
    number: int | None,
    sort_by: str,
    p_value: float,
    lfc: float,
    confint: bool | float,
    adjust: str,
) -> pd.DataFrame:
    if sort_by not in _SORTS:
        raise ValueError(f"sort_by is {sort_by!r}, expected one of {', '.join(_SORTS)}")
    effect, t, log_p = fit.coefficients[:, k], fit.t[:, k], fit.log_p[:, k]
    p = np.exp(log_p)
    adjusted = adjust_p(p, adjust)
    columns = {"logFC": effect}
    if confint is not False:
        margin = _margin(fit, k, confint)
        columns |= {"CI.L": effect - margin, "CI.R": effect + margin}
    columns |= {"AveExpr": fit.amean, "t": t, "P.Value": p, "adj.P.Val": adjusted}
    if fit.lods is not None:
        columns["B"] = fit.lods[:, k]
    # Adding 0 turns the -0 of p = 1 into 0.
    columns["neg_log10_p"] = -log_p / np.log(10) + 0.0
    by = {
        "logFC": -np.abs(effect),
        "AveExpr": -fit.amean,
        # Logarithms tell apart p values that underflow.
        "P": log_p,
        "t": -np.abs(t),
        "B": -columns["B"] if "B" in columns else None,
        "none": None,
    }[sort_by]
    keep = np.ones(effect.size, bool)
    if p_value < 1 or lfc > 0:
        keep = (adjusted <= p_value) & (np.abs(effect) >= lfc)
    table = pd.DataFrame(columns, index=pd.Index(fit.features))
    return _finish(table, keep, _order(by, effect.size), number)


def top_table(
    fit: Fit,
    coef: Coef = None,
    number: int | None = 10,
    sort_by: str | None = None,
    p_value: float = 1.0,
    lfc: float = 0.0,
    confint: bool | float = False,
    adjust: str = "BH",
) -> pd.DataFrame:
    """The features with the strongest evidence, for one contrast or several together.

    Parameters
    ----------
    fit : Fit
        After ``e_bayes``.
    coef : str, int or list of these, optional
        Coefficients or contrasts, by name or position. All but an ``(Intercept)`` by default.
    number : int or None
        Most rows; None for all.
    sort_by : {"B", "P", "t", "logFC", "AveExpr", "none"} or {"F", "none"}
        ``B`` for one contrast and ``F`` for several by default. Effects and t by size. Ties stay
        in the order of the features; NaN comes last.
    p_value, lfc : float
        Keep features with an adjusted p value of at most `p_value` and an effect of size at least
        `lfc`; with several contrasts any effect above `lfc` in size, strictly (as limma).
    confint : bool or float
        Add confidence limits of the effect, 95 % or of the level given; one contrast only.
    adjust : {"BH", "BY", "holm", "bonferroni", "none"}

    Returns
    -------
    pandas.DataFrame
        Index: names of features. One contrast: ``logFC``, ``CI.L`` and ``CI.R`` if asked for,
        ``AveExpr``, ``t``, ``P.Value``, ``adj.P.Val``, ``B``, ``neg_log10_p``. Several: one column
        of effects per contrast, ``AveExpr``, ``F``, ``P.Value``, ``adj.P.Val``, ``neg_log10_p``.

    Notes
    -----
    p values are adjusted over all features, before any cut. ``neg_log10_p`` is finite where
    ``P.Value`` underflows.
    """
    if fit.treat_lfc is not None:
        raise ValueError("the fit is from treat: use top_treat")
    if fit.lods is None:
        raise ValueError("the fit has no tests: run e_bayes on it first")
    found = _columns(fit, coef)
    if len(found) == 1:
        by = "B" if sort_by is None else sort_by
        return _one_contrast(fit, found[0], number, by, p_value, lfc, confint, adjust)
    if confint is not False:
        raise ValueError("confint needs one contrast: name it in coef")
    by = "F" if sort_by is None else sort_by
    if by not in _F_SORTS:
        raise ValueError(f"sort_by is {by!r}, expected one of {', '.join(_F_SORTS)}")
    f, log_p = fit.F, fit.F_log_p
    if found != list(range(len(fit.names))):
        cov = fit.cov_coefficients[np.ix_(found, found)]
        f, _, log_p = moderated_f(fit.t[:, found], cov, fit.F_df2)
    p = np.exp(log_p)
    adjusted = adjust_p(p, adjust)
    effects = fit.coefficients[:, found]
    columns = {fit.names[k]: fit.coefficients[:, k] for k in found}
    columns |= {
        "AveExpr": fit.amean,
        "F": f,
        "P.Value": p,
        "adj.P.Val": adjusted,
        "neg_log10_p": -log_p / np.log(10) + 0.0,
    }
    keep = np.ones(p.size, bool)
    if p_value < 1 or lfc > 0:
        keep = adjusted <= p_value
        if lfc > 0:
            keep &= np.any(np.abs(effects) > lfc, axis=1)
    table = pd.DataFrame(columns, index=pd.Index(fit.features))
    return _finish(table, keep, _order(log_p if by == "F" else None, p.size), number)


def top_treat(
    fit: Fit,
    coef: str | int = 0,
    number: int | None = 10,
    sort_by: str = "P",
    p_value: float = 1.0,
    lfc: float = 0.0,
    confint: bool | float = False,
    adjust: str = "BH",
) -> pd.DataFrame:
    """The features whose effect most clearly exceeds the threshold of ``treat``.

    Parameters
    ----------
    fit : Fit
        After ``treat``.
    coef : str or int
        One contrast; the first by default.
    number, p_value, lfc, confint, adjust
        As :func:`top_table`.
    sort_by : {"P", "t", "logFC", "AveExpr", "none"}

    Returns
    -------
    pandas.DataFrame
        As :func:`top_table` for one contrast, without ``B``.
    """
    if fit.treat_lfc is None:
        raise ValueError("the fit is not from treat: use top_table")
    found = _columns(fit, coef)
    if len(found) != 1:
        raise ValueError(f"coef names {len(found)} contrasts, expected one")
    if sort_by == "B":
        raise ValueError("treat has no log odds: sort by P, t, logFC or AveExpr")
    return _one_contrast(fit, found[0], number, sort_by, p_value, lfc, confint, adjust)
