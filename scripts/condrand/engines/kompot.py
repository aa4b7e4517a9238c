"""Engine kompot: two conditions along the states of cells, gene by gene.

Numbers come from :mod:`condrand.gp`; here is how an analysis uses them. Whatever is computed of
genes is computed in blocks, so a job that sees some blocks has the bits of one that sees all.
"""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.fdr import benjamini_hochberg
from condrand.gp.covariance import Inducing, batches
from condrand.gp.expression import ExpressionModel
from condrand.gp.mahalanobis import neg_log10_tail
from condrand.gp.sample_variance import Samples
from condrand.local_fdr import local_fdr
from condrand.outcomes.expression import effect_scale as logged_scale
from condrand.tables import effects_table, one_text

SOURCES = ("", "null_genes", "null_samples", "chi2")
NOTES = ("", "constant")
# Added to variances, and to the diagonal of the covariance of a difference.
EPS = 1e-8
# Up to so many splits of the samples all are listed, and dealt in a random order.
_LISTED = 10_000
_SMALLEST = math.ulp(0.0)


@dataclass(frozen=True)
class How:
    """How expression is smoothed and compared.

    Attributes
    ----------
    sigma : float
        Standard deviation of the noise of expression in a cell.
    empirical_variance : bool
        Whether squared residuals, smoothed, count as uncertainty.
    min_cells : int
        Samples of fewer cells have no function of their own.
    cov_combine : {"sum", "mean"}
        How the covariances of the conditions make that of their difference.
    """

    sigma: float = 1.0
    empirical_variance: bool = False
    min_cells: int = 10
    cov_combine: str = "sum"


@dataclass(frozen=True)
class Sides:
    """Cells of two conditions, to which functions of any genes are fitted.

    Attributes
    ----------
    x : tuple of float64, shapes (n1, p) and (n2, p)
    rows : tuple of int64, shapes (n1,) and (n2,)
        Where the cells are among the rows of expression.
    inducing : Inducing
    samples : tuple of Samples, or of None where samples do not count
    how : How
    """

    x: tuple[np.ndarray, np.ndarray]
    rows: tuple[np.ndarray, np.ndarray]
    inducing: Inducing
    samples: tuple[Samples | None, Samples | None]
    how: How

    @classmethod
    def of(
        cls,
        x: np.ndarray,
        rows: tuple[np.ndarray, np.ndarray],
        inducing: Inducing,
        labels: np.ndarray | None,
        how: How,
    ) -> "Sides":
        """Cells by their rows.

        Parameters
        ----------
        x : float64, shape (n, p)
        rows : pair of int64
            Of the cells of each condition.
        inducing : Inducing
        labels : int64, shape (n,), optional
            Sample of each cell, where samples count.
        how : How
        """
        samples: tuple[Samples | None, Samples | None] = (None, None)
        if labels is not None:
            first, second = (Samples.of(labels[at], len(at), how.min_cells) for at in rows)
            samples = first, second
        return cls((x[rows[0]], x[rows[1]]), rows, inducing, samples, how)

    def fitted(self, y: np.ndarray | sp.csr_matrix) -> ExpressionModel:
        """Functions of the genes of some expression, shape (n, G)."""
        return self.fitted_to(y[self.rows[0]], y[self.rows[1]])

    def fitted_to(
        self, first: np.ndarray | sp.csr_matrix, second: np.ndarray | sp.csr_matrix
    ) -> ExpressionModel:
        """Functions of expression in the cells of either condition."""
        return ExpressionModel.of(
            self.x,
            (first, second),
            self.inducing.length_scale,
            self.how.sigma,
            self.inducing,
            self.samples,
            empirical=self.how.empirical_variance,
        )

    def distances(self, model: ExpressionModel) -> np.ndarray:
        """Mahalanobis distances of the difference at the landmarks: float64, shape (G,)."""
        return model.mahalanobis(self.inducing.points, EPS, self.how.cov_combine)


def mean_covariance(x: np.ndarray, inducing: Inducing) -> np.ndarray:
    """Mean over cells of ``K(x, U)``: what gives the mean of any function over these cells.

    Parameters
    ----------
    x : float64, shape (n, p)
    inducing : Inducing

    Returns
    -------
    float64, shape (m,)
    """
    total = np.zeros(inducing.m)
    for at in batches(len(x)):
        total += inducing.covariance(x[at]).sum(axis=0)
    return total / len(x)


def is_constant(rows: np.ndarray | sp.csr_matrix) -> np.ndarray:
    """Which columns hold one value in all cells: bool, shape (G,)."""
    low, high = rows.min(axis=0), rows.max(axis=0)
    if sp.issparse(rows):
        low, high = low.toarray().ravel(), high.toarray().ravel()
    return np.asarray(low == high)


# Samples exchanged between conditions


def n_exchanges(n_first: int, n_second: int) -> int:
    """Distinct ways to exchange samples, other than what is and its mirror image.

    Parameters
    ----------
    n_first, n_second : int
        Samples of either condition; each has as many after the exchange.
    """
    ways = math.comb(n_first + n_second, n_second)
    # Of as many samples on both sides, a split and its mirror image have the same distances.
    return ways // 2 - 1 if n_first == n_second else ways - 1


def exchanges(n_first: int, n_second: int, count: int, seed: int) -> np.ndarray:
    """Samples that are of the second condition, in each of some exchanges.

    Parameters
    ----------
    n_first, n_second : int
    count : int
        All there are, if these are fewer.
    seed : int

    Returns
    -------
    bool, shape (at most count, n_first + n_second)
        No two alike; those of a smaller count come first in that of a larger.
    """
    n, there = n_first + n_second, n_exchanges(n_first, n_second)
    random = np.random.Generator(np.random.Philox(seed))
    # Mirror images are told apart by their first sample.
    start = 1 if n_first == n_second else 0
    truth = tuple(range(n_first, n))
    if there <= _LISTED:
        ways = [way for way in itertools.combinations(range(start, n), n_second) if way != truth]
        chosen = [ways[i] for i in random.permutation(len(ways))[:count]]
    else:
        seen, chosen = {truth}, []
        while len(chosen) < min(count, there):
            drawn = random.permutation(n)
            way = tuple(sorted(drawn[:n_second].tolist()))
            if start and way[0] == 0:
                way = tuple(sorted(drawn[n_second:].tolist()))
            if way not in seen:
                seen.add(way)
                chosen.append(way)
    found = np.zeros((len(chosen), n), bool)
    for r, way in enumerate(chosen):
        found[r, list(way)] = True
    return found


def units_of_samples(
    second: np.ndarray, samples: np.ndarray, min_cells: int
) -> tuple[np.ndarray, int, int]:
    """Samples of either condition that have enough cells, numbered through.

    Parameters
    ----------
    second : bool, shape (n,)
    samples : int64, shape (n,)
    min_cells : int

    Returns
    -------
    unit : int64, shape (n,)
        Number of each cell's sample, those of the first condition first; -1 for a small one.
    n_first, n_second : int
    """
    pair = np.where(second, samples.max() + 1, 0) + samples
    sizes = np.bincount(pair, minlength=2 * (int(samples.max()) + 1))
    kept = np.flatnonzero(sizes >= min_cells)
    number = np.full(sizes.size, -1, np.int64)
    number[kept] = np.arange(kept.size)
    n_first = int(np.count_nonzero(kept <= samples.max()))
    return number[pair], n_first, kept.size - n_first


# Tables


def effect_scale(transform: str, target_sum: float) -> str:
    """Unit of the effects: a difference of means on the scale of the expression."""
    if transform == "log_normalize":
        return f"difference of {logged_scale(target_sum)}"
    known = {"logged": "difference of stored logarithms (natural log)"}
    return known.get(transform, "difference of values as stored")


def effects(
    labels: tuple[str, str],
    features: Sequence[str],
    found: Mapping[str, np.ndarray],
    constant: np.ndarray,
    null: np.ndarray | None,
    source: str,
    words: Mapping[str, Any],
    threshold: float,
) -> pd.DataFrame:
    """One row per gene, as :func:`condrand.tables.effects_table` wants them.

    Parameters
    ----------
    labels : (str, str)
        Screen and analysis.
    features : sequence of str
    found : mapping of str to float64, shape (G,)
        Of the shards: ``mean_log_fold_change``, ``mahalanobis``, ``mean_condition1`` and
        ``mean_condition2``.
    constant : bool, shape (G,)
        Genes without a test.
    null : float64, shape (n_null,), or None
        Distances without an effect; without them p values are tails of a chi-squared
        distribution of `n_dimensions`.
    source : str
        What the p values come from, one of SOURCES.
    words : mapping
        ``target``, ``effect_scale``; ``n_first``, ``n_second``: cells of either condition;
        ``n_dimensions`` of the cell states.
    threshold : float
        Of the local FDR.

    Returns
    -------
    pandas.DataFrame
        Own columns: ``local_fdr``, ``is_de``, ``mean_condition1``, ``mean_condition2`` and
        ``neg_log10_ptp``, the tail of that chi-squared distribution. Without a null, ``local_fdr``
        is missing and no gene is called.
    """
    n = len(features)
    tested = np.flatnonzero(~constant)
    distances = found["mahalanobis"][tested]
    tail = neg_log10_tail(distances, words["n_dimensions"])
    p, nlp, fdr, local = (np.full(n, np.nan) for _ in range(4))
    is_de = np.zeros(n, bool)
    if null is None:
        nlp[tested] = tail
        p[tested] = np.maximum(10.0**-tail, _SMALLEST)
        fdr = benjamini_hochberg(p)
    else:
        rates = local_fdr(distances, null, threshold)
        p[tested], nlp[tested] = rates.p_values, -np.log10(rates.p_values)
        fdr[tested], local[tested] = rates.tail_fdr, rates.local_fdr
        is_de[tested] = rates.is_de

    def known(values: np.ndarray) -> np.ndarray:
        return np.where(constant, np.nan, values)

    ptp = np.full(n, np.nan)
    ptp[tested] = tail
    table = effects_table(
        {
            "screen": one_text(labels[0], n),
            "analysis": one_text(labels[1], n),
            "target": one_text(words["target"], n),
            "feature": pd.Categorical.from_codes(np.arange(n, dtype=np.int32), list(features)),
            "n_target": words["n_second"],
            "n_control": words["n_first"],
            "effect": known(found["mean_log_fold_change"]),
            "effect_scale": one_text(words["effect_scale"], n),
            "statistic": known(found["mahalanobis"]),
            "p_value": p,
            # Adding 0 turns the -0 of p = 1 into 0.
            "neg_log10_p": nlp + 0.0,
            "p_source": pd.Categorical.from_codes(
                np.where(constant, 0, SOURCES.index(source)).astype(np.int8), SOURCES
            ),
        },
        {
            "local_fdr": local,
            "is_de": is_de,
            "mean_condition1": known(found["mean_condition1"]),
            "mean_condition2": known(found["mean_condition2"]),
            "neg_log10_ptp": ptp + 0.0,
        },
        pd.Categorical.from_codes(constant.astype(np.int8), NOTES),
    )
    table["fdr"] = fdr
    return table


def rates_table(
    table: pd.DataFrame, null: np.ndarray | None, threshold: float, n_exchanged: int
) -> pd.DataFrame:
    """What the false discovery rates rest on, as names and numbers.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`effects`.
    null : float64, shape (n_null,), or None
    threshold : float
    n_exchanged : int
        Exchanges of samples; 0 for null genes.

    Returns
    -------
    pandas.DataFrame
        ``what``, ``value``.
    """
    distances, p = table["statistic"].to_numpy(), table["p_value"].to_numpy()
    tested = np.isfinite(p)
    rows: dict[str, float] = {
        "n_genes": len(table),
        "n_tested": int(tested.sum()),
        "n_null": 0 if null is None else null.size,
        "n_exchanges": n_exchanged,
        "threshold": threshold,
        "n_de": int(table["is_de"].sum()),
        "smallest_p": p[tested].min() if tested.any() else np.nan,
        "largest_distance": distances[tested].max() if tested.any() else np.nan,
        "largest_null_distance": np.nan if null is None or not null.size else null.max(),
        "median_distance": np.median(distances[tested]) if tested.any() else np.nan,
        "median_null_distance": np.nan if null is None or not null.size else np.median(null),
    }
    return pd.DataFrame({"what": list(rows), "value": [float(value) for value in rows.values()]})
