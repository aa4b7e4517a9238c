"""Do the sources of p values agree where they overlap? Counts, and one sentence."""

from dataclasses import dataclass, field

import numpy as np
import pandas as pd
from scipy import stats

COLUMNS = (
    *("target", "feature", "p_value", "neg_log10_p", "p_source", "p_empirical"),
    *("p_relative_error", "p_saddlepoint"),
)
# What refines a test, in the words of the sentence.
METHODS = {
    "importance": "importance resampling",
    "saddlepoint": "a saddlepoint",
    "resamples": "fresh resamples",
}
# Where a count of resamples says enough about a small p to be compared with another source.
LEAST_COUNT, LARGEST_P = 5, 0.05
# A saddlepoint is expected nearer than this.
FACTOR = 2.0
# Doubt: a standard error of more than half of p; sources apart by more than this factor, and by
# more than so many standard errors.
MOST_ERROR, APART, STANDARD_ERRORS = 0.5, 5.0, 4.0

# Of fewer tests than these, a share within the noise says nothing.
_ENOUGH_COUNTED = 20
_CONFIDENCE = 0.95
_NORMAL = float(stats.norm.isf((1.0 - _CONFIDENCE) / 2.0))
# Smaller p values are told by their logarithm alone, which is not kept of every source.
_SMALLEST_P = 1e-300


@dataclass(frozen=True)
class Agreement:
    """Of the tests of an analysis, how p values were refined and how their sources agree.

    Attributes
    ----------
    n_tests : int
        With a p value.
    n_resamples : int or None
        B, by which all tests were looked at first.
    refined : dict of str to int
        Tests that were refined, by method.
    n_fitted : int
        Tests with the p value of a skew-normal.
    n_near_floor : int
        Tests refined by fresh resamples of which fewer than three reach the observed statistic:
        their p values are valid, and coarse.
    error_median, error_largest : float
        Relative errors of refined tests; NaN where there is none.
    n_saddlepoint : int
        Tests refined by draws that have a saddlepoint's p value too.
    share_near : float
        Of these, within a factor 2 of it.
    worst : str
        The one farthest from it, ``target / feature``.
    worst_factor : float
    n_counted : int
        Tests whose reported p is compared with their count among the first resamples.
    share_within : float
        Of these, within the noise of that count.
    n_without : int
        Tests refined by importance resampling that have no saddlepoint's p value: too few cells
        carry the tail for one, or it lies outside the support of the linear form.
    doubts : dict of str to int
        Tests in doubt, by reason; a test may have several.
    n_doubtful : int
        Tests with one or more of them.
    """

    n_tests: int = 0
    n_resamples: int | None = None
    refined: dict[str, int] = field(default_factory=dict)
    n_fitted: int = 0
    n_near_floor: int = 0
    error_median: float = np.nan
    error_largest: float = np.nan
    n_saddlepoint: int = 0
    share_near: float = np.nan
    worst: str = ""
    worst_factor: float = np.nan
    n_counted: int = 0
    share_within: float = np.nan
    n_without: int = 0
    doubts: dict[str, int] = field(default_factory=dict)
    n_doubtful: int = 0


def agreement(effects: pd.DataFrame, p_floor: float | None) -> Agreement:
    """Compare the p values of each test where it has several.

    Parameters
    ----------
    effects : pandas.DataFrame
        Columns as in ``COLUMNS``; those that are missing count as NaN.
    p_floor : float or None
        1 / (B + 1), the smallest p value counted in the resamples of all tests.

    Returns
    -------
    Agreement

    Notes
    -----
    **Saddlepoint** against the reported p of tests refined by draws: the share within a factor
    2, and the worst. Below 1e-300 both are taken as equal.

    **Count** k of the first B resamples against the reported p, of tests refined or fitted with
    k >= 5 and an empirical p of at most 0.05: the reported p should lie in the 95 % interval of
    Clopper and Pearson around the count, widened by the reported p's own standard error. The
    two are combined on the scale of log p as the distances to their own limits, root of the sum
    of squares (Zou & Donner 2008, Statistics in Medicine 27, 1693-1702). Tests were chosen by
    k, and the interval is read at a given k, so that the choice alone does not empty it. A
    skew-normal is fitted to the same resamples: it should agree more often.

    **Doubt**: a relative error above 50 % of importance resampling or of a saddlepoint; a
    saddlepoint or a count that is a factor 5 and 4 standard errors away from the reported p (of
    a count by the exact binomial tail, with p moved by 4 of its own standard errors towards
    it). A test without a saddlepoint is not one in doubt for that: its draws are as good as their
    error says.
    """
    table = _complete(effects)
    table = table[table["p_value"].notna().to_numpy()]
    log_p = np.minimum(table["neg_log10_p"].to_numpy(np.float64), -np.log10(_SMALLEST_P))
    error = table["p_relative_error"].to_numpy(np.float64)
    p, p_empirical = (table[name].to_numpy(np.float64) for name in ("p_value", "p_empirical"))
    by, fitted = _refined(table, p, p_empirical)
    tilted = by["importance"] | by["saddlepoint"]
    is_refined = tilted | by["resamples"]
    found: dict[str, object] = {
        "n_tests": len(table),
        "n_resamples": None if p_floor is None else round(1.0 / p_floor) - 1,
        "refined": {name: n for name, rows in by.items() if (n := _n(rows))},
        "n_fitted": _n(fitted),
        "n_near_floor": _n(by["resamples"] & (error > MOST_ERROR)),
    }
    known = error[is_refined & np.isfinite(error)]
    if known.size:
        found |= {"error_median": float(np.median(known)), "error_largest": float(known.max())}

    p_saddlepoint = table["p_saddlepoint"].to_numpy(np.float64)
    computed = np.isfinite(p_saddlepoint)
    noise = np.nan_to_num(error)
    # Apart by this factor, on the natural scale; of a test without a saddlepoint, by none.
    between = np.zeros(len(table))
    shown = is_refined & computed & ~by["saddlepoint"]
    log_saddlepoint = -np.log10(np.maximum(p_saddlepoint[shown], _SMALLEST_P))
    between[shown] = np.log(10.0) * np.abs(log_p[shown] - log_saddlepoint)
    if shown.any():
        worst = int(np.argmax(between))
        found |= {
            "n_saddlepoint": _n(shown),
            "share_near": float(np.mean(between[shown] <= np.log(FACTOR))),
            "worst": f"{table['target'].iloc[worst]} / {table['feature'].iloc[worst]}",
            "worst_factor": float(np.exp(between[worst])),
        }
    if "p_saddlepoint" in effects:
        found["n_without"] = _n(by["importance"] & ~computed)
    apart = (between > np.log(APART)) & (between > STANDARD_ERRORS * noise)

    if p_floor is not None:
        n = found["n_resamples"]
        again = (is_refined | fitted) & np.isfinite(p_empirical)
        count = np.rint(p_empirical[again] / p_floor) - 1.0
        within = _within_noise(count, n, p[again], noise[again])
        clear = (count >= LEAST_COUNT) & (p_empirical[again] <= LARGEST_P)
        if clear.any():
            found["n_counted"] = _n(clear)
            found["share_within"] = float(np.mean(within[clear]))
        apart[again] |= _far_from_count(count, n, p[again], noise[again])

    doubts = {
        f"with a relative error above {_percent(MOST_ERROR)}": tilted & (noise > MOST_ERROR),
        f"with sources more than a factor {APART:g} apart": apart,
    }
    found["doubts"] = {why: n for why, rows in doubts.items() if (n := _n(rows))}
    found["n_doubtful"] = _n(np.any(list(doubts.values()), axis=0))
    return Agreement(**found)


def verdict(found: Agreement) -> str:
    """How p values were refined, and whether their sources agree, in one line.

    Parameters
    ----------
    found : Agreement

    Returns
    -------
    str
        Without a full stop.
    """
    if not found.n_tests:
        return "no test has a p value"
    n_refined = sum(found.refined.values())
    if not n_refined and not found.n_fitted:
        if found.n_resamples is None:
            return f"no p value of {found.n_tests:,} was refined"
        return (
            f"no test was refined: all {found.n_tests:,} p values are counted in "
            f"{found.n_resamples:,} resamples, none below {1 / (found.n_resamples + 1):.2g}"
        )
    parts = []
    if n_refined:
        parts += [_refined_words(found, n_refined)]
        if np.isfinite(found.error_median):
            # That of a saddlepoint is how far its two orders differ.
            estimated = "estimated " if list(found.refined) == ["saddlepoint"] else ""
            parts.append(
                f"{estimated}relative error {_percent(found.error_median)} (median; at most "
                f"{_percent(found.error_largest)})"
            )
    if found.n_fitted:
        parts.append(f"{_of(found.n_fitted, found.n_tests)} p values of a fitted skew-normal")
    if found.n_saddlepoint:
        words = f"saddlepoint within a factor {FACTOR:g} of them in {_share(found.share_near)}"
        if found.n_without:
            words += f" of {found.n_saddlepoint:,}"
        if found.worst_factor > FACTOR:
            words += f" (at worst {_factor(found.worst_factor)}: {found.worst})"
        parts.append(words)
    if found.n_without:
        parts.append(f"{found.n_without:,} without a saddlepoint, as too few cells carry them")
    if found.n_counted >= _ENOUGH_COUNTED:
        parts.append(
            f"within the noise of the first {found.n_resamples:,} resamples in "
            f"{_share(found.share_within)} of {_tests(found.n_counted)} (95 % expected)"
        )
    if found.n_near_floor:
        parts.append(
            f"{found.n_near_floor:,} near the smallest p that their resamples can tell: an upper "
            "bound of it"
        )
    if not found.n_doubtful:
        return "; ".join([*parts, "none in doubt"])
    reasons = ", ".join(f"{n:,} {why}" for why, n in found.doubts.items())
    if len(found.doubts) == 1:
        reasons = next(iter(found.doubts))
    parts.append(f"{_tests(found.n_doubtful)} in doubt: {reasons}")
    return "; ".join(parts)


def _n(rows: np.ndarray) -> int:
    return int(np.count_nonzero(rows))


def _complete(effects: pd.DataFrame) -> pd.DataFrame:
    """The columns that are read, NaN where the table has none."""
    return effects.reindex(columns=list(COLUMNS))


def _refined(
    table: pd.DataFrame, p: np.ndarray, p_empirical: np.ndarray
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """Which tests were refined, by method, and which have a fitted p value.

    Tests refined by fresh draws are those whose p is not the one counted in the first.
    """
    of = {
        name: (table["p_source"] == name).to_numpy(bool)
        for name in ("importance", "saddlepoint", "empirical", "skew_normal")
    }
    fresh = of["empirical"] & np.isfinite(p_empirical) & (p != p_empirical)
    by = {"importance": of["importance"], "saddlepoint": of["saddlepoint"], "resamples": fresh}
    return by, of["skew_normal"]


def _within_noise(count: np.ndarray, n: int, p: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Whether p values lie within the noise of counts among n draws, and of their own."""
    tail = (1.0 - _CONFIDENCE) / 2.0
    with np.errstate(divide="ignore", invalid="ignore"):
        low = np.log(stats.beta.ppf(tail, count, n - count + 1.0))
        high = np.log(stats.beta.isf(tail, count + 1.0, n - count))
        middle, own = np.log(count / n), _NORMAL * error
        apart = np.log(p) - middle
        limit = np.where(apart > 0.0, high - middle, middle - low)
        return np.abs(apart) <= np.hypot(limit, own)


def _far_from_count(count: np.ndarray, n: int, p: np.ndarray, error: np.ndarray) -> np.ndarray:
    """Whether p values are a factor, and standard errors, away from counts among n draws."""
    move = STANDARD_ERRORS * error
    more = stats.binom.sf(count - 1.0, n, np.clip(p * (1.0 + move), 0.0, 1.0))
    less = stats.binom.cdf(count, n, np.clip(p * (1.0 - move), 0.0, 1.0))
    with np.errstate(divide="ignore"):
        factor = np.abs(np.log((count + 1.0) / (n + 1.0)) - np.log(p))
    return (factor > np.log(APART)) & (np.minimum(more, less) < stats.norm.sf(STANDARD_ERRORS))


def _refined_words(found: Agreement, n_refined: int) -> str:
    of = f"{_of(n_refined, found.n_tests)} tests refined"
    if len(found.refined) == 1:
        return f"{of} by {METHODS[next(iter(found.refined))]}"
    return f"{of}: " + ", ".join(f"{n:,} by {METHODS[name]}" for name, n in found.refined.items())


def _of(n: int, total: int) -> str:
    return f"all {total:,}" if n == total else f"{n:,} of {total:,}"


def _tests(n: int) -> str:
    return f"{n:,} test" if n == 1 else f"{n:,} tests"


def _percent(value: float) -> str:
    return f"{100 * value:,.0f} %" if value >= 0.0995 else f"{100 * value:.2g} %"


def _share(value: float) -> str:
    """A share as a percentage: all of them is 100 %, and nothing less is."""
    return f"{np.floor(1000 * value + 1e-9) / 10:g} %"


def _factor(value: float) -> str:
    return f"{value:.1f}" if value < 10.0 else f"{value:,.0f}" if value < 1e6 else f"{value:.0e}"
