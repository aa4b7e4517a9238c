"""Are the p values of tests without effect uniform? Counts, intervals, and a plain verdict."""

import numpy as np
import pandas as pd
from scipy import stats

from condrand.errors import listed
from condrand.fdr import benjamini_hochberg

LEVELS = (0.05, 0.01)
# What the column `verdict` may hold, beside '' where a verdict would make no sense.
CALIBRATED, ANTICONSERVATIVE, CONSERVATIVE = "calibrated", "anticonservative", "conservative"
TOO_FEW, NO_CONTROLS = "too_few", "no_controls"

# Where the correlation of a unit's tests is looked at.
_THRESHOLDS = (0.01, 0.05, 0.1, 0.25, 0.5)
_CONFIDENCE = 0.95
_SMALLEST_P = 1e-300
_FLAGGED = ("guide", "feature", "effect", "p_value", "n_features", "p_guide", "fdr")


def calibration_row(
    p_values: np.ndarray,
    units: np.ndarray | None = None,
    *,
    n_replicates: int = 1,
    p_floor: float | None = None,
) -> dict[str, float | str]:
    """How a set of p values compares with a uniform sample.

    Parameters
    ----------
    p_values : float64, shape (n_tests,)
        NaN is ignored.
    units : array of str, shape (n_tests,), optional
        Which unit (target, guide, group) each test is of. Without it all tests are taken as
        independent.
    n_replicates : int
        How often the same guides were grouped anew; see the notes.
    p_floor : float, optional
        Smallest p value that can be attained, 1 / (B + 1), if all are multiples of it.

    Returns
    -------
    dict
        ``n_units``, ``n_tests``; ``n_effective``, the number of independent tests that tell as
        much; for each level 0.05 and 0.01 the fraction below it with its 95 % interval; the
        Kolmogorov-Smirnov distance from uniform and ``ks_p``; ``inflation_median`` and
        ``inflation_tail``; ``verdict``. NaN where there is no test.

    Notes
    -----
    **Interval.** Tests of different units are independent given outcome and covariates: each
    unit has its own resamples. Tests of one unit are not, they share resamples and features are
    correlated. So units are clusters: the variance of a fraction is that of the sum of the
    units' deviations, its ratio to the binomial one is the design effect, and
    ``n_effective = n_tests / design effect``. The design effect is the largest of those at
    p < 0.01, 0.05, 0.1, 0.25 and 0.5 (few tests lie below 0.01: alone they would say little),
    and at least 1; with no test below any of these it is the number of tests per unit. The
    interval is that of Clopper and Pearson with ``n_effective`` tests, reduced further by
    ``(t(n_tests - 1) / t(n_units - 1))^2`` because the design effect is itself estimated. It is
    never narrower than that of independent tests; a single unit gives [0, 1].

    **Replicates.** Groups of several replicates are made of the same guides. Which guides a
    group holds is not known here, so replicates are taken as wholly redundant: the number of
    clusters is the number of groups per replicate, and ``n_effective`` is divided by the number
    of replicates. More replicates make the fraction steadier, never the interval narrower.

    **Inflation.** The chi-squared quantile (1 degree of freedom) of the median p over that of
    0.5, 0.4549; and the same ratio at the 1 % quantile of p, NaN below 100 tests. 1 if uniform.

    ``ks_p`` takes ``n_effective`` for the sample size: an approximation, as the Kolmogorov
    law holds for independent tests. The distance itself does not depend on it.

    **Verdict.** Two levels are looked at, so intervals of 97.5 % decide. ``anticonservative``:
    at either level the lower end is above it. Else ``conservative``: at either level the upper
    end is below it (below the largest attainable multiple of ``p_floor`` under it). Else
    ``too_few``: the upper end of the 95 % interval at 0.05 reaches 0.10, so that twice too many
    small p values cannot be excluded. Else ``calibrated``. ``no_controls`` without any test.

    Source: Korn & Graubard 1998, Survey Methodology 24, 193-201, for the interval; Devlin &
    Roeder 1999, Biometrics 55, 997-1004, for the inflation factor.
    """
    p = np.asarray(p_values, dtype=np.float64)
    made = ~np.isnan(p)
    p = p[made]
    codes = np.arange(p.size) if units is None else pd.factorize(np.asarray(units)[made])[0]
    n_units = int(codes.max(initial=-1)) + 1
    row: dict[str, float | str] = {"n_units": n_units, "n_tests": p.size}
    if not p.size:
        for level in LEVELS:
            name = f"fraction_below_{level:g}"
            row |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
        names = ("n_effective", "ks_distance", "ks_p", "inflation_median", "inflation_tail")
        return row | dict.fromkeys(names, np.nan) | {"verdict": NO_CONTROLS}
    n_tests, n_clusters = p.size / n_replicates, n_units / n_replicates
    effective = n_tests / _design_effect(p, codes, n_units)
    sample = (n_tests, n_clusters, effective)
    row["n_effective"] = effective
    for level in LEVELS:
        fraction = float(np.mean(p < level))
        low, high = _interval(fraction, *sample, _CONFIDENCE)
        name = f"fraction_below_{level:g}"
        row |= {name: fraction, f"{name}_low": low, f"{name}_high": high}
    distance = float(stats.kstest(p, "uniform").statistic)
    row["ks_distance"] = distance
    row["ks_p"] = float(stats.kstwo.sf(distance, max(round(effective), 1)))
    row["inflation_median"] = _inflation(p, 0.5)
    row["inflation_tail"] = _inflation(p, 0.01) if p.size >= 100 else np.nan
    row["verdict"] = _word(p, sample, row["fraction_below_0.05_high"], p_floor)
    return row


def calibration_table(
    effects: pd.DataFrame,
    controls: pd.DataFrame,
    groups: pd.DataFrame | None = None,
    *,
    p_floor: float | None = None,
) -> pd.DataFrame:
    """Calibration of targets, NTC guides and NTC groups; of empirical and of reported p values.

    Parameters
    ----------
    effects, controls, groups : pandas.DataFrame
        Columns of the results contract and ``p_empirical``; may have no rows. The ``target`` of
        ``groups`` is ``replicate/group``, as in ``e0/ntc_3``. Without ``groups`` the table has
        no rows for them.
    p_floor : float, optional
        Smallest attainable empirical p value, 1 / (B + 1). It bears on the empirical rows, and
        on the reported ones where no p value has another source.

    Returns
    -------
    pandas.DataFrame
        One row per ``tests`` (``targets``, ``ntc_guides``, ``ntc_groups``) and ``p``
        (``empirical``, ``reported``): ``n_features``, ``n_replicates`` and the columns of
        :func:`calibration_row`. ``verdict`` is '' for targets, which may have effects.
    """
    sets = [("targets", effects), ("ntc_guides", controls)]
    if groups is not None:
        sets.append(("ntc_groups", groups))
    rows = []
    for tests, table in sets:
        for source, column in (("empirical", "p_empirical"), ("reported", "p_value")):
            made = table[table[column].notna()] if column in table else table.iloc[:0]
            p = made[column].to_numpy(np.float64) if len(made) else np.empty(0)
            units = made["target"].astype(str) if len(made) else pd.Series(dtype=str)
            n_replicates = 1
            if tests == "ntc_groups" and len(made):
                n_replicates = units.str.partition("/")[0].nunique()
            floor = p_floor
            if source == "reported" and "p_source" in made:
                floor = p_floor if (made["p_source"] == "empirical").all() else None
            row = calibration_row(p, units.to_numpy(), n_replicates=n_replicates, p_floor=floor)
            if tests == "targets":
                row["verdict"] = ""
            n_features = made["feature"].nunique() if len(made) else 0
            of = {"n_features": n_features, "n_replicates": n_replicates}
            rows.append({"tests": tests, "p": source, **of, **row})
    return pd.DataFrame(rows)


def flagged_controls(controls: pd.DataFrame, fdr: float = 0.05) -> pd.DataFrame:
    """NTC guides that do something: suspects of an off-target effect.

    Parameters
    ----------
    controls : pandas.DataFrame
        Tests of NTC guides, columns of the results contract; may have no rows.
    fdr : float
        Largest false discovery rate at which a guide is flagged.

    Returns
    -------
    pandas.DataFrame
        One row per flagged guide, the most significant first: ``guide``, its top ``feature``
        with ``effect`` and ``p_value``, ``n_features`` it was tested on, ``p_guide``, ``fdr``.

    Notes
    -----
    ``p_guide = min(1, n_features * smallest p)`` (Bonferroni): valid under every dependence of
    the features, of which those of a centred log ratio are correlated both ways. Then
    Benjamini-Hochberg over the guides, whose tests are independent given the outcome.

    The p values are those reported. Where they are empirical, none is below 1 / (B + 1): a lone
    guide among ``G`` on ``K`` features can be flagged only if ``G K / (B + 1) <= fdr``. With
    fewer resamples an empty table says nothing; :func:`verdict` says so.
    """
    tested = controls[controls["p_value"].notna()] if len(controls) else controls
    if not len(tested):
        return pd.DataFrame(columns=list(_FLAGGED))
    # Of p values that underflow, the logarithm still tells which is the smallest.
    log = -tested["neg_log10_p"] if "neg_log10_p" in tested else 0.0
    ordered = tested.assign(_log=log).sort_values(["p_value", "_log"], kind="stable")
    top = ordered.drop_duplicates("target")
    n_features = top["target"].map(tested.groupby("target", observed=True).size())
    n_features = n_features.to_numpy(np.int64)
    p_guide = np.minimum(1.0, n_features * top["p_value"].to_numpy(np.float64))
    table = pd.DataFrame(
        {
            "guide": top["target"].astype(str).to_numpy(),
            "feature": top["feature"].astype(str).to_numpy(),
            "effect": top["effect"].to_numpy(np.float64),
            "p_value": top["p_value"].to_numpy(np.float64),
            "n_features": n_features,
            "p_guide": p_guide,
            "fdr": benjamini_hochberg(p_guide),
        }
    )
    table = table[table["fdr"] <= fdr]
    return table.sort_values(["p_guide", "guide"], kind="stable", ignore_index=True)


def verdict_row(table: pd.DataFrame) -> pd.Series | None:
    """The row of a calibration table that the verdict rests on.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`calibration_table`.

    Returns
    -------
    pandas.Series or None
        Reported p values of the NTC groups if any was tested, else of the NTC guides, else None.
        Where the groups are too few to judge and the guides are not, the guides; where both are,
        whichever has the narrower interval.
    """
    found = []
    for tests in ("ntc_groups", "ntc_guides"):
        rows = table[(table["tests"] == tests) & (table["p"] == "reported")]
        if len(rows) and rows["n_tests"].iloc[0]:
            found.append(rows.iloc[0])
    judged = [row for row in found if row["verdict"] != TOO_FEW]
    return next(iter(judged or sorted(found, key=_width)), None)


def _width(row: pd.Series) -> float:
    return row["fraction_below_0.05_high"] - row["fraction_below_0.05_low"]


def verdict(
    table: pd.DataFrame,
    flagged: pd.DataFrame,
    *,
    fdr: float = 0.05,
    p_floor: float | None = None,
) -> str:
    """Whether the controls are calibrated, in one sentence.

    Parameters
    ----------
    table : pandas.DataFrame
        From :func:`calibration_table`, perhaps by way of a file.
    flagged : pandas.DataFrame
        From :func:`flagged_controls`.
    fdr : float
        At which guides were flagged.
    p_floor : float, optional
        Smallest attainable p value, 1 / (B + 1), if the reported ones are all empirical.

    Returns
    -------
    str
        Rests on :func:`verdict_row` and the word in its column ``verdict``, whose rule is in
        the notes of :func:`calibration_row`.
    """
    row = verdict_row(table)
    if row is None:
        return "Calibration cannot be judged: no controls were tested."
    kind = "NTC groups" if row["tests"] == "ntc_groups" else "NTC guides"
    counts = f"{row['n_tests']:,.0f} tests of {row['n_units']:,.0f} {kind}"
    numbers = (
        f"{_percent(row, 0.05, counts + ' have ')} (95 % interval {_range(row, 0.05)}), "
        f"{_percent(row, 0.01)} ({_range(row, 0.01)})"
    )
    suspects = _suspects(table, flagged, fdr, p_floor)
    word = row["verdict"]
    if word == ANTICONSERVATIVE:
        return (
            f"Controls are NOT calibrated (too many small p values): {numbers}: do not trust "
            "the p values of targets before the cause is found; see the QQ plot, and the outcome "
            f"residuals for a covariate whose effect is not linear{suspects}."
        )
    if word == CONSERVATIVE:
        return (
            f"Controls are conservative (too few small p values): {numbers}: discoveries stand, "
            f"but effects may be missed{suspects}."
        )
    if word == TOO_FEW:
        return (
            f"Calibration cannot be judged: too few {kind} ({row['n_units']:,.0f}) to exclude "
            f"twice too many small p values: {numbers}{suspects}."
        )
    few = ""
    if row["fraction_below_0.01_high"] >= 0.02:
        few = ", too few tests to judge the level 0.01 alone"
    groups = table[(table["tests"] == "ntc_groups") & (table["p"] == "reported")]
    if kind == "NTC guides" and len(groups) and groups["n_tests"].iloc[0]:
        few += f" (the {groups['n_units'].iloc[0]:,.0f} NTC groups alone are too few to judge)"
    return f"Controls are calibrated: {numbers}{few}{suspects}."


def _percent(row: pd.Series, level: float, counts: str = "") -> str:
    fraction = 100 * row[f"fraction_below_{level:g}"]
    of = f"of {counts}" if counts else ""
    return f"{fraction:.1f} % {of}p < {level:g}"


def _range(row: pd.Series, level: float) -> str:
    name = f"fraction_below_{level:g}"
    return f"{100 * row[f'{name}_low']:.1f} to {100 * row[f'{name}_high']:.1f} %"


def _suspects(
    table: pd.DataFrame, flagged: pd.DataFrame, fdr: float, p_floor: float | None
) -> str:
    if len(flagged):
        return f"; off-target suspects: {listed(flagged['guide'])}"
    guides = table[(table["tests"] == "ntc_guides") & (table["p"] == "reported")]
    if not len(guides) or not guides["n_tests"].iloc[0]:
        return ""
    if p_floor is not None and p_floor * guides["n_tests"].iloc[0] > fdr:
        return (
            f"; whether a single NTC guide stands out cannot be seen with p values of at least "
            f"{p_floor:.1g} (raise `resamples`)"
        )
    return "; no NTC guide stands out"


def _design_effect(p: np.ndarray, codes: np.ndarray, n_units: int) -> float:
    """Variance of a fraction over that of independent tests, the largest of some thresholds."""
    if n_units == p.size:
        return 1.0
    tests_of_unit = np.bincount(codes, minlength=n_units)
    if n_units == 1:
        return float(p.size)
    found = []
    for threshold in _THRESHOLDS:
        below = p < threshold
        fraction = below.mean()
        if 0.0 < fraction < 1.0:
            deviation = np.bincount(codes, below, n_units) - fraction * tests_of_unit
            clustered = n_units / (n_units - 1) * np.sum(deviation**2) / p.size**2
            found.append(clustered / (fraction * (1.0 - fraction) / (p.size - 1)))
    return max(1.0, *found) if found else p.size / n_units


def _interval(
    fraction: float, n_tests: float, n_clusters: float, effective: float, confidence: float
) -> tuple[float, float]:
    """Korn and Graubard's interval of a fraction; Clopper and Pearson's without clusters."""
    if n_tests <= 1.0:
        n = effective
    elif n_clusters <= 1.0:
        return 0.0, 1.0
    else:
        upper = (1.0 + confidence) / 2.0
        ratio = stats.t.ppf(upper, n_tests - 1.0) / stats.t.ppf(upper, n_clusters - 1.0)
        n = effective * min(1.0, ratio**2)
    tail = (1.0 - confidence) / 2.0
    below = fraction * n
    low = stats.beta.ppf(tail, below, n - below + 1.0) if fraction > 0.0 else 0.0
    high = stats.beta.ppf(1.0 - tail, below + 1.0, n - below) if fraction < 1.0 else 1.0
    return float(low), float(high)


def _inflation(p: np.ndarray, at: float) -> float:
    quantile = max(float(np.quantile(p, at)), _SMALLEST_P)
    return float(stats.chi2.isf(quantile, 1) / stats.chi2.isf(at, 1))


def _word(
    p: np.ndarray,
    sample: tuple[float, float, float],
    high_at_5: float,
    p_floor: float | None,
) -> str:
    confidence = 1.0 - (1.0 - _CONFIDENCE) / len(LEVELS)
    intervals = {
        level: _interval(float(np.mean(p < level)), *sample, confidence) for level in LEVELS
    }
    if any(low > level for level, (low, _) in intervals.items()):
        return ANTICONSERVATIVE
    if any(high < _attainable(level, p_floor) for level, (_, high) in intervals.items()):
        return CONSERVATIVE
    return TOO_FEW if high_at_5 >= 2 * LEVELS[0] else CALIBRATED


def _attainable(level: float, p_floor: float | None) -> float:
    """Share of uniform multiples of the floor that lie strictly below a level."""
    if p_floor is None:
        return level
    return (np.ceil(level / p_floor * (1.0 - 1e-12)) - 1.0) * p_floor
