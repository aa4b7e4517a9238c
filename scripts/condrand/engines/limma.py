"""Linear models of samples: which features are kept, how samples group, and tests of contrasts."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from condrand.errors import Problems, nearest, quoted
from condrand.fdr import benjamini_hochberg
from condrand.linear.calls import decide_tests
from condrand.linear.counts import filter_by_cpm, filter_by_expr
from condrand.linear.design import explicit_matrix, model_matrix
from condrand.linear.fit import Basis, Fit, contrasts_fit, make_contrasts, non_estimable
from condrand.linear.moderation import e_bayes, treat
from condrand.linear.tables import INTERCEPT, top_table, top_treat
from condrand.tables import effects_table, one_text

# A sample whose weight in an estimate is this share of the largest has none but rounding.
_NO_WEIGHT = 1e-9
# Methods of calls that begin with an F test, which treat has none of.
_OF_F = ("hierarchical", "nestedF")


# Designs and groups


def design_of(
    table: pd.DataFrame,
    formula: str | None,
    strip_prefix: bool,
    given: pd.DataFrame | None,
    problems: Problems,
) -> pd.DataFrame | None:
    """The design of an analysis, rows as in the table of the samples.

    Parameters
    ----------
    table : pandas.DataFrame
        One row per sample.
    formula : str, optional
    strip_prefix : bool
        Call a coefficient by its level.
    given : pandas.DataFrame, optional
        The design as numbers, rows in any order; then there is no formula.
    problems : Problems

    Returns
    -------
    pandas.DataFrame of float64, or None
        None where `problems` got an entry.
    """
    if given is None:
        return model_matrix(formula, table, strip_prefix, problems)
    before = len(problems.found)
    made = explicit_matrix(given, problems)
    absent = [name for name in table.index if name not in given.index]
    if absent:
        problems.add(
            "design_matrix",
            f"has no row for {len(absent)} of the samples: {quoted(absent)}",
            f"add them, or name them in `exclude`. {nearest(absent[0], given.index)}"
            "Its first column holds the names of the samples.",
        )
    others = [name for name in given.index if name not in table.index]
    if others:
        problems.add(
            "design_matrix",
            f"has rows for {len(others)} samples that the data do not have: {quoted(others)}",
            "leave them out, or correct their names.",
        )
    return made.loc[table.index] if len(problems.found) == before else None


def row_groups(design: pd.DataFrame, table: pd.DataFrame, formula: str | None) -> np.ndarray:
    """Groups of the samples that a design tells apart: those with equal rows.

    Parameters
    ----------
    design : pandas.DataFrame
    table : pandas.DataFrame
        Of the samples.
    formula : str, optional
        What the design was made of.

    Returns
    -------
    numpy.ndarray of str objects, shape (n,)
        Called by the levels of the variables in the formula, as in ``luminal.virgin``, or by the
        coefficient where each group has its own; else by their number.
    """
    rows = design.to_numpy(np.float64)
    _, first, group = np.unique(rows, axis=0, return_index=True, return_inverse=True)
    group = group.ravel()
    if np.isin(rows, (0.0, 1.0)).all() and (rows.sum(axis=1) == 1.0).all():
        return design.columns.to_numpy(object)[rows.argmax(axis=1)]
    words = {
        quote or word for quote, word in re.findall(r"`([^`]+)`|([^\W\d][\w.]*)", formula or "")
    }
    levels = [
        table[name].astype(str)
        for name in table.columns
        if name in words and not _is_number(table[name])
    ]
    if levels:
        labels = np.array([".".join(parts) for parts in zip(*levels, strict=True)], object)
        pairs = set(zip(labels, group, strict=True))
        if len(pairs) == len(first) == len(set(labels)):
            return labels
    number = np.argsort(np.argsort(first)) + 1
    return np.array([f"group {k}" for k in number[group]], object)


def _is_number(column: pd.Series) -> bool:
    return pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)


def lone_groups(groups: np.ndarray) -> list[str]:
    """What a user should know of groups of a filter that have one sample: a note, or nothing."""
    names, sizes = np.unique(groups.astype(str), return_counts=True)
    alone = names[sizes == 1]
    if not alone.size:
        return []
    return [
        f"the filter keeps features that a single sample has, because {alone.size} of its "
        f"{names.size} groups have one sample: {quoted(alone)}; `filter: {{groups: ...}}` names "
        "the column that groups the samples"
    ]


def keep_features(
    values: np.ndarray, groups: np.ndarray, how: Mapping[str, Any]
) -> tuple[np.ndarray, str]:
    """Features with counts enough.

    Parameters
    ----------
    values : float64, shape (G, n)
        Counts; no library is empty.
    groups : numpy.ndarray, shape (n,)
        Label of each sample.
    how : mapping
        The section ``filter``.

    Returns
    -------
    kept : bool, shape (G,)
    sentence : str
        What was done, for the summary.
    """
    if how["method"] == "none":
        return np.ones(len(values), bool), f"all {len(values):,} features are taken"
    least = how["min_count"]
    cutoff = least / (np.median(values.sum(axis=0)) / 1e6)
    smallest = np.unique(groups.astype(str), return_counts=True)[1].min()
    if how["method"] == "cpm":
        kept = filter_by_cpm(values, groups, min_count=least)
        rule = f"more than {cutoff:.3g} counts per million in at least {_samples(smallest)}"
    else:
        kept = filter_by_expr(values, groups, min_count=least)
        rule = (
            f"{cutoff:.3g} counts per million or more in enough samples, by filterByExpr for a "
            f"smallest group of {_samples(smallest)}"
        )
    return kept, f"{kept.sum():,} of {kept.size:,} features have {rule}"


def _samples(n: int) -> str:
    return "1 sample" if n == 1 else f"{n:,} samples"


# Contrasts


def contrast_matrix(
    contrasts: Mapping[str, str] | Sequence[str] | None, design: pd.DataFrame, problems: Problems
) -> tuple[np.ndarray, list[str]]:
    """Weights of the coefficients in each contrast.

    Parameters
    ----------
    contrasts : mapping of str to str, sequence of str, or None
        Expressions by name; in a sequence each is its own name. None: every coefficient that the
        design can estimate, but the intercept where there are others.
    design : pandas.DataFrame
    problems : Problems
        Gets an entry for each contrast that cannot be read or estimated.

    Returns
    -------
    weights : float64, shape (n_coefficients, n_contrasts)
        Without the contrasts that are at fault.
    names : list of str
        Of the contrasts.
    """
    coefficients = list(design.columns)
    lost = non_estimable(design.to_numpy(), coefficients)
    if contrasts is None:
        there = [name for name in coefficients if name not in lost]
        names = [name for name in there if name != INTERCEPT] or there
        return np.eye(len(coefficients))[:, [coefficients.index(name) for name in names]], names
    if not isinstance(contrasts, Mapping):
        twice = sorted({text for text in contrasts if list(contrasts).count(text) > 1})
        if twice:
            problems.add("contrasts", f"hold twice: {quoted(twice)}", "name each once.")
        contrasts = {text: text for text in contrasts}
    columns = {}
    for name, text in contrasts.items():
        try:
            columns[str(name)] = make_contrasts({str(name): text}, coefficients)[0][:, 0]
        except ValueError as error:
            problems.add(
                "contrasts", str(error), "write it in the names of the coefficients of the design."
            )
            continue
        unknown = [k for k in lost if columns[str(name)][coefficients.index(k)] != 0.0]
        if unknown:
            problems.add(
                "contrasts",
                f"{str(name)!r} uses {quoted(unknown)}, which the design cannot estimate: a "
                "combination of the columns before it",
                "take it out of the contrast, or out of the design what tells the same.",
            )
    names = list(columns)
    return np.array([columns[name] for name in names]).reshape(-1, len(coefficients)).T, names


def sample_weights(design: np.ndarray, contrasts: np.ndarray) -> np.ndarray:
    """Weights of the samples in the estimates of contrasts: their sides.

    Parameters
    ----------
    design : float64, shape (n, p)
    contrasts : float64, shape (p, q)

    Returns
    -------
    float64, shape (n, q)
        ``X (X'X)**-1 c`` over the columns that can be estimated; 0 where it is rounding.
    """
    basis = Basis.of(design)
    weights = basis.q @ np.linalg.solve(basis.r.T, contrasts[basis.kept])
    rounding = np.abs(weights) <= _NO_WEIGHT * np.abs(weights).max(axis=0, initial=0.0)
    return np.where(rounding, 0.0, weights)


def check_tests(settings: Mapping[str, Any], problems: Problems) -> None:
    """Note settings of the tests that exclude each other."""
    if settings["moderation"]["robust"] and not settings["moderation"]["legacy"]:
        problems.add(
            "moderation",
            "robust is true and legacy is false: the robust prior is fitted by moments",
            "leave one of them out.",
        )
    if settings["treat"] is not None and settings["decide"]["method"] in _OF_F:
        problems.add(
            "decide.method",
            f"is {settings['decide']['method']!r}, which needs an F test, and treat has none",
            "use separate or global, or leave treat out.",
        )


def tested(
    fit: Fit,
    contrasts: np.ndarray,
    names: list[str],
    settings: Mapping[str, Any],
    problems: Problems,
    threads: int = 1,
) -> Fit:
    """Moderated tests of contrasts.

    Parameters
    ----------
    fit : Fit
        Of all features.
    contrasts, names
        As of :func:`contrast_matrix`.
    settings : mapping
        ``contrasts``, ``exact_contrasts``, ``moderation`` and ``treat`` of the analysis.
    problems : Problems
        Reported where variances cannot be moderated.
    threads : int
        The numbers do not depend on it.
    """
    if settings["contrasts"] is None:
        fit = _of_columns(fit, [fit.names.index(name) for name in names])
    else:
        exact = settings["exact_contrasts"]
        fit = contrasts_fit(fit, contrasts, names, exact, threads=threads)
    how = settings["moderation"]
    prior = {"trend": how["trend"], "robust": how["robust"], "legacy": how["legacy"]}
    try:
        if settings["treat"] is not None:
            return treat(fit, settings["treat"], **prior)
        return e_bayes(fit, how["proportion"], **prior)
    except ValueError as error:
        problems.add("moderation", str(error), "filter the features, or join samples to groups.")
        problems.report()
        raise


def _of_columns(fit: Fit, at: list[int]) -> Fit:
    """Some coefficients of a fit, as if they were its contrasts."""
    return replace(
        fit,
        coefficients=np.ascontiguousarray(fit.coefficients[:, at]),
        stdev_unscaled=np.ascontiguousarray(fit.stdev_unscaled[:, at]),
        cov_coefficients=fit.cov_coefficients[np.ix_(at, at)],
        names=[fit.names[k] for k in at],
        contrasts=np.eye(len(fit.names))[:, at],
    )


# Tables


def effects(
    screen: str,
    analysis: str,
    fit: Fit,
    observed: np.ndarray,
    weights: np.ndarray,
    calls: np.ndarray,
) -> pd.DataFrame:
    """One row per contrast and feature, as :func:`condrand.tables.effects_table` wants them.

    Parameters
    ----------
    screen, analysis : str
    fit : Fit
        From :func:`tested`.
    observed : bool, shape (G, n)
        Which values entered the fit.
    weights : float64, shape (n, p)
        Of the samples in the contrasts.
    calls : int8, shape (G, p)

    Returns
    -------
    pandas.DataFrame
        Contrasts in their order, features in theirs. Own columns: ``fdr_target`` (BH within the
        contrast), ``average_expression``, ``ci_low``, ``ci_high`` (95 %), ``log_odds`` (NaN of
        treat), ``df`` and ``call``.
    """
    n_features, n_contrasts = fit.coefficients.shape
    of_treat = fit.treat_lfc is not None
    top = top_treat if of_treat else top_table
    found = pd.concat(
        [top(fit, k, number=None, sort_by="none", confint=True) for k in range(n_contrasts)],
        ignore_index=True,
    )
    p_value = found["P.Value"].to_numpy()
    note, notes = _notes(fit, observed, p_value)
    n_rows = len(found)

    def side(sign: float) -> np.ndarray:
        sizes = observed.astype(np.float64) @ (sign * weights > 0.0)
        return sizes.T.ravel().astype(np.int64)

    table = effects_table(
        {
            "screen": one_text(screen, n_rows),
            "analysis": one_text(analysis, n_rows),
            "target": pd.Categorical.from_codes(
                np.repeat(np.arange(n_contrasts, dtype=np.int32), n_features), fit.names
            ),
            "feature": pd.Categorical.from_codes(
                np.tile(np.arange(n_features, dtype=np.int32), n_contrasts), fit.features
            ),
            "n_target": side(1.0),
            "n_control": side(-1.0),
            "effect": found["logFC"],
            "effect_scale": one_text("log2 fold change", n_rows),
            "statistic": found["t"],
            "p_value": p_value,
            "neg_log10_p": found["neg_log10_p"],
            "p_source": pd.Categorical.from_codes(
                (~np.isnan(p_value)).astype(np.int8), ["", "treat" if of_treat else "t"]
            ),
        },
        {
            "fdr_target": found["adj.P.Val"],
            "average_expression": found["AveExpr"],
            "ci_low": found["CI.L"],
            "ci_high": found["CI.R"],
            "log_odds": np.nan if of_treat else found["B"],
            "df": np.tile(fit.df_total, n_contrasts),
            "call": calls.T.ravel(),
        },
        pd.Categorical.from_codes(note, notes),
    )
    table["fdr"] = benjamini_hochberg(p_value)
    return table


_NOTES = (
    "",
    "no value is observed",
    "not estimable with its missing values",
    "does not vary",
    "no residual degrees of freedom of its own: the prior variance alone",
)


def _notes(fit: Fit, observed: np.ndarray, p_value: np.ndarray) -> tuple[np.ndarray, list[str]]:
    """Which note each row has, int8, and the notes."""
    none, absent, lost, still, alone = range(len(_NOTES))
    untested = np.isnan(p_value)
    n_contrasts = len(fit.names)
    missing = np.isnan(fit.coefficients).T.ravel()
    code = np.where(np.tile(fit.df_residual <= 0, n_contrasts), alone, none)
    code[untested] = still
    code[untested & missing] = lost
    code[untested & np.tile(~observed.any(axis=1), n_contrasts)] = absent
    return code.astype(np.int8), list(_NOTES)


def features_table(fit: Fit) -> pd.DataFrame:
    """One row per feature: its variances, the F test of all contrasts, and their effects.

    Parameters
    ----------
    fit : Fit
        From :func:`tested`; after treat there is no F.
    """
    n = len(fit.features)
    nothing = np.full(n, np.nan)
    log_p = nothing if fit.F_log_p is None else fit.F_log_p
    p_value = np.exp(log_p)
    columns = {
        "feature": fit.features,
        "average_expression": fit.amean,
        "sigma": fit.sigma,
        "df_residual": fit.df_residual,
        "s2_prior": np.broadcast_to(np.asarray(fit.s2_prior, np.float64), n),
        "s2_post": fit.s2_post,
        "F": nothing if fit.F is None else fit.F,
        "df1": np.nan if fit.F is None else np.full(n, fit.F_df1),
        "df2": nothing if fit.F is None else fit.F_df2,
        "p_value": p_value,
        "neg_log10_p": -log_p / np.log(10) + 0.0,
        "fdr": benjamini_hochberg(p_value),
    }
    columns |= {f"logFC.{name}": fit.coefficients[:, k] for k, name in enumerate(fit.names)}
    return pd.DataFrame(columns)


def calls_of(fit: Fit, decide: Mapping[str, Any], fdr: float) -> np.ndarray:
    """Calls by the section ``decide``: int8, shape (G, p), as of :func:`.decide_tests`."""
    return decide_tests(fit, decide["method"], decide["adjust"], fdr, decide["lfc"])


def calls_table(fit: Fit, calls: np.ndarray) -> pd.DataFrame:
    """How many features each contrast has up, down, neither, or could not test."""
    untested = np.isnan(fit.log_p)
    return pd.DataFrame(
        {
            "contrast": fit.names,
            "up": np.count_nonzero(calls > 0, axis=0),
            "down": np.count_nonzero(calls < 0, axis=0),
            "not_significant": np.count_nonzero((calls == 0) & ~untested, axis=0),
            "untested": np.count_nonzero((calls == 0) & untested, axis=0),
        }
    )


def moderation_table(
    fit: Fit, n_samples: int, span: float | None, settings: Mapping[str, Any]
) -> pd.DataFrame:
    """What the tests rest on, as names and numbers.

    Parameters
    ----------
    fit : Fit
        From :func:`tested`.
    n_samples : int
    span : float, optional
        Of the mean-variance trend, where there is one.
    settings : mapping
        With ``moderation``.

    Returns
    -------
    pandas.DataFrame
        ``name``, ``value``. Where features differ, the median, and rows that end in ``_min`` and
        ``_max``.
    """
    rows: dict[str, float] = {
        "n_features": len(fit.features),
        "n_samples": n_samples,
        "rank": fit.rank,
    }
    varying = {
        "df_residual": fit.df_residual,
        "s2_prior": fit.s2_prior,
        "df_prior": fit.df_prior,
        "df_total": fit.df_total,
    }
    for name, values in varying.items():
        known = np.atleast_1d(np.asarray(values, np.float64))
        rows[name] = np.median(known)
        if known.min() < known.max():
            rows |= {f"{name}_min": known.min(), f"{name}_max": known.max()}
    if settings["moderation"]["robust"]:
        prior = np.atleast_1d(np.asarray(fit.df_prior, np.float64))
        rows["n_held_back"] = np.count_nonzero(prior < prior.max())
    if fit.treat_lfc is not None:
        rows["treat_log2_fold_change"] = fit.treat_lfc
    else:
        rows["proportion"] = settings["moderation"]["proportion"]
        rows |= {f"var_prior.{n}": v for n, v in zip(fit.names, fit.var_prior, strict=True)}
    if span is not None:
        rows["span"] = span
    return pd.DataFrame({"name": list(rows), "value": [float(v) for v in rows.values()]})
