"""Analysis of variance of every feature on the terms of a formula, as arrays and as a table."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from condrand.errors import Problems
from condrand.fdr import benjamini_hochberg, fdr_per_target
from condrand.linear.anova import CONSTANT, NO_RESIDUAL, TOO_FEW, anova, anova_type_two
from condrand.linear.counts import log_cpm
from condrand.linear.design import Term, model_terms
from condrand.linear.fit import Basis
from condrand.tables import effects_table

GAPS = "not estimable with its missing values"
# What a feature or a term of it may have noted, by its code in arrays.
NOTES = ("", CONSTANT, NO_RESIDUAL, TOO_FEW, GAPS)
# So few values of a column of numbers may be names of groups.
_FEW_VALUES = 10


@dataclass(frozen=True)
class Model:
    """Terms to be tested, on n samples.

    Attributes
    ----------
    terms : list of Term
    df : int64, shape (n_terms,)
        Degrees of freedom where no value is missing.
    df_residual : int
    notes : list of str
        What to know of each term; mostly empty.
    """

    terms: list[Term]
    df: np.ndarray
    df_residual: int
    notes: list[str]

    @property
    def groups(self) -> pd.Categorical | None:
        """Group of each sample, where there is one factor and nothing else."""
        return self.terms[0].groups if len(self.terms) == 1 else None

    @property
    def names(self) -> list[str]:
        """Names of the terms."""
        return [term.name for term in self.terms]


def model_of(formula: str, table: pd.DataFrame, problems: Problems) -> Model:
    """What a formula asks of samples.

    Parameters
    ----------
    formula : str
    table : pandas.DataFrame
        One row per sample.
    problems : Problems

    Raises
    ------
    InputError
        Listing everything that is wrong with the formula or with the columns it names.
    """
    terms = model_terms(formula, table, problems)
    problems.report()
    n = len(table)
    design = np.column_stack([np.ones(n), *(term.columns for term in terms)])
    df_residual = n - len(Basis.of(design).kept)
    # Of one feature without variance: the degrees of freedom are those of any other.
    df = anova_type_two(np.zeros((1, n)), _columns(terms)).df[0].astype(np.int64)
    for term, left in zip(terms, df.tolist(), strict=True):
        if not left:
            problems.add(
                "formula",
                f"{term.name!r} cannot be told apart from the other terms of {formula!r}",
                "its columns are combinations of theirs: leave one of them out.",
            )
    if df_residual < 1:
        alone = len(terms) == 1 and terms[0].groups is not None
        what = f"{n} samples and {n - df_residual} independent columns"
        problems.add(
            "formula",
            f"{'every group has one sample, which leaves' if alone else f'{what} leave'} no "
            f"residual degrees of freedom in {formula!r}",
            "add replicates, or leave terms out.",
        )
    problems.report()
    notes = [_note(term, left) for term, left in zip(terms, df.tolist(), strict=True)]
    return Model(terms, df, df_residual, notes)


def _columns(terms: Sequence[Term]) -> dict[str, np.ndarray]:
    """Columns by names that say which term contains which, whatever signs the factors hold."""
    factors = sorted(set().union(*(term.factors for term in terms)))
    return {
        ":".join(str(i) for i, factor in enumerate(factors) if factor in term.factors): (
            term.columns
        )
        for term in terms
    }


def _note(term: Term, df: int) -> str:
    values = term.columns[:, 0]
    n_values = np.unique(values).size
    if term.is_column and term.groups is None and n_values <= min(_FEW_VALUES, values.size // 2):
        return (
            f"{term.name} has {n_values} values and is taken as a number with one slope: "
            f"`C({term.name})` makes it a factor"
        )
    width = np.linalg.matrix_rank(term.columns - term.columns.mean(axis=0))
    if df < width:
        return (
            f"{term.name} has {df} degrees of freedom of {width}: in part it cannot be told apart "
            "from the other terms"
        )
    return ""


def expression(
    values: np.ndarray, lib_size: np.ndarray | None, settings: Mapping[str, Any]
) -> np.ndarray:
    """What is tested, float64 of shape (G, n).

    Parameters
    ----------
    values : float64, shape (G, n)
    lib_size : float64, shape (n,), or None
        Sums of all features, for ``log_cpm``.
    settings : mapping
        ``transform`` and ``prior_count``.
    """
    if settings["transform"] == "none":
        return values
    return log_cpm(values, lib_size, settings["prior_count"])


def block_tests(values: np.ndarray, model: Model) -> dict[str, np.ndarray]:
    """Test one block of features.

    Parameters
    ----------
    values : float64, shape (G, n)
        NaN where missing. The same features in the same block give the same bits.
    model : Model

    Returns
    -------
    dict of numpy.ndarray
        Of shape (G, n_terms): ``F``, ``log_p``, ``sum_sq``, ``df_term``, ``eta_squared``,
        ``note``; of shape (G,): ``residual_sum_sq``, ``df_residual``, ``n_values``; and
        ``means``, shape (G, k), where there is one factor of k levels.
    """
    there = np.count_nonzero(~np.isnan(values), axis=1)
    groups = model.groups
    if groups is not None:
        made = anova(values, groups.codes)
        f, log_p = made.F[:, None], made.log_p[:, None]
        sum_sq, df, eta = made.ss_group[:, None], made.df_group[:, None], made.eta_squared[:, None]
    else:
        made = anova_type_two(values, _columns(model.terms))
        f, log_p, sum_sq, df = made.F, made.log_p, made.sum_sq, made.df
        eta = made.partial_eta_squared
    codes = np.array([NOTES.index(note) for note in made.note], np.int8)
    notes = np.where(
        np.isnan(f) & (codes[:, None] == 0), np.int8(NOTES.index(GAPS)), codes[:, None]
    )
    arrays = {"F": f, "log_p": log_p, "sum_sq": sum_sq, "df_term": df, "eta_squared": eta}
    arrays |= {"note": notes, "n_values": there}
    arrays |= {"residual_sum_sq": made.ss_residual, "df_residual": made.df_residual}
    return arrays | ({"means": made.group_means} if groups is not None else {})


def effects(
    labels: tuple[str, str],
    features: Sequence[str],
    tests: Mapping[str, np.ndarray],
    model: Model,
) -> pd.DataFrame:
    """The table of all terms and features, adjusted for multiple testing.

    Parameters
    ----------
    labels : (str, str)
        Screen and analysis.
    features : sequence of str, length G
    tests : mapping
        As of :func:`block_tests`, of all features.
    model : Model

    Returns
    -------
    pandas.DataFrame
        Terms in their order, features in theirs; the results contract.
    """
    n_terms, g = len(model.terms), len(features)

    def by_term(array: np.ndarray) -> np.ndarray:
        return np.tile(array, n_terms) if array.ndim == 1 else array.T.ravel()

    log_p = by_term(tests["log_p"])
    tested = ~np.isnan(log_p)
    p_value = np.exp(log_p)
    columns = {
        "screen": labels[0],
        "analysis": labels[1],
        "target": np.repeat(np.array(model.names, dtype=object), g),
        "feature": np.tile(np.array(features, dtype=object), n_terms),
        "n_target": by_term(tests["n_values"]).astype(np.int64),
        "n_control": 0,
        "effect": by_term(tests["eta_squared"]),
        "effect_scale": "eta squared" if n_terms == 1 else "partial eta squared",
        "statistic": by_term(tests["F"]),
        "p_value": p_value,
        # Not -0 where p is 1.
        "neg_log10_p": 0.0 - log_p / math.log(10),
        "p_source": np.where(tested, "F", "").astype(object),
    }
    own = {
        "fdr_target": np.nan,
        "df_term": by_term(tests["df_term"]),
        "df_residual": by_term(tests["df_residual"]),
        "sum_sq": by_term(tests["sum_sq"]),
        "residual_sum_sq": by_term(tests["residual_sum_sq"]),
    }
    if model.groups is not None:
        levels = model.groups.categories
        own |= {f"mean.{level}": tests["means"][:, j] for j, level in enumerate(levels)}
    notes = np.array(NOTES, dtype=object)[by_term(tests["note"])]
    table = effects_table(columns, own, notes)
    table["fdr"] = benjamini_hochberg(p_value)
    table["fdr_target"] = fdr_per_target(table["p_value"], table["target"])
    return table


def significant_features(
    effects: pd.DataFrame, significant: Mapping[str, Any], fdr: float
) -> pd.DataFrame:
    """Rows of the first term that are to be listed and drawn, smallest p first.

    Parameters
    ----------
    effects : pandas.DataFrame
    significant : mapping
        ``fdr``, or None for that of the run; ``count``, how many at most. A count alone takes
        the smallest p values, significant or not.
    fdr : float
        Of the run.
    """
    first = effects[effects["target"] == effects["target"].iloc[0]] if len(effects) else effects
    first = first[first["p_value"].notna()]
    limit, count = significant["fdr"], significant["count"]
    if limit is not None or count is None:
        first = first[first["fdr"] <= (fdr if limit is None else limit)]
    first = first.sort_values("neg_log10_p", ascending=False, kind="stable")
    return (first if count is None else first.head(count)).reset_index(drop=True)


def terms_table(effects: pd.DataFrame, model: Model, fdr: float) -> pd.DataFrame:
    """One row per term: its degrees of freedom, tests, discoveries and levels."""
    rows = []
    for term, df, note in zip(model.terms, model.df.tolist(), model.notes, strict=True):
        own = effects[effects["target"] == term.name]
        sizes = {} if term.groups is None else term.groups.value_counts().to_dict()
        rows.append(
            {
                "term": term.name,
                "df": df,
                "df_residual": model.df_residual,
                "tested": int(own["p_value"].notna().sum()),
                "significant": int((own["fdr"] <= fdr).sum()),
                "levels": ", ".join(f"{level} ({size})" for level, size in sizes.items()),
                "note": note,
            }
        )
    return pd.DataFrame(rows)
