"""Are the p values of tests without effect uniform? Counts, intervals and a distance."""

import numpy as np
import pandas as pd
from scipy import stats

LEVELS = (0.05, 0.01)


def calibration_row(p_values: np.ndarray) -> dict[str, float]:
    """How a set of p values compares with a uniform sample.

    Parameters
    ----------
    p_values : float64
        NaN is ignored.

    Returns
    -------
    dict
        ``n_tests``; for each level 0.05 and 0.01 the fraction below it with its 95 %
        Clopper-Pearson interval (tests taken as independent: those of one unit share its
        resamples, so the true interval is wider); the Kolmogorov-Smirnov distance from uniform
        and its p value. NaN where there is no test.
    """
    p = np.asarray(p_values, dtype=np.float64)
    p = p[~np.isnan(p)]
    row: dict[str, float] = {"n_tests": p.size}
    for level in LEVELS:
        name = f"fraction_below_{level:g}"
        if not p.size:
            row |= {name: np.nan, f"{name}_low": np.nan, f"{name}_high": np.nan}
            continue
        count = int(np.sum(p < level))
        interval = stats.binomtest(count, p.size).proportion_ci(0.95, method="exact")
        row |= {name: count / p.size, f"{name}_low": interval.low, f"{name}_high": interval.high}
    distance = stats.kstest(p, "uniform") if p.size else None
    row["ks_distance"] = distance.statistic if distance else np.nan
    row["ks_p"] = distance.pvalue if distance else np.nan
    return row


def calibration_table(effects: pd.DataFrame, controls: pd.DataFrame) -> pd.DataFrame:
    """Calibration of targets and NTC guides, of the empirical and of the reported p values."""
    rows = []
    for tests, table in (("targets", effects), ("ntc_guides", controls)):
        for source, column in (("empirical", "p_empirical"), ("reported", "p_value")):
            rows.append({"tests": tests, "p": source, **calibration_row(table[column].to_numpy())})
    return pd.DataFrame(rows)
