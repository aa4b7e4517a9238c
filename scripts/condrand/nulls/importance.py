"""Tail probabilities by importance resampling: treated sets drawn where the tail is.

Sets are drawn from propensities tilted along the statistic's linear form (Siegmund 1976, Annals of
Statistics 4, 673-684), of which about half reach the tail, and each counts with its likelihood
ratio. A thousand draws settle a probability of 1e-30 as well as one of 0.01.
"""

from dataclasses import dataclass
from types import ModuleType

import numpy as np

from condrand.kernels.tilting import tilt_cells
from condrand.nulls.empirical import as_extreme
from condrand.plan import n_blocks, resamples_of_block
from condrand.samplers.bernoulli import BernoulliSampler
from condrand.samplers.streams import stream_key
from condrand.statistics.scores import DenseScores, Scores, SetSums, padded

# Names of the two tails in the keys of their streams; upper first, as in all arrays of tails.
TAIL_NAMES = ("upper", "lower")


@dataclass(frozen=True)
class Estimate:
    """P value of one test.

    Attributes
    ----------
    log_p : float
        Natural logarithm; finite.
    relative_error : float
        Standard error over p.
    n_resamples : int
        Draws, those of both tails together.
    """

    log_p: float
    relative_error: float
    n_resamples: int


class NarrowRows:
    """Score rows of one feature at a time, in memory that is used again.

    Each worker has its own: ``[residual | Q | logit's tilt]``, a row per cell.
    """

    def __init__(self) -> None:
        self._room = np.empty((0, 0))
        self._gap = np.empty(0)
        self._filled: Scores | None = None

    def of(self, scores: Scores, residual: np.ndarray) -> tuple[DenseScores, np.ndarray]:
        """Rows of a feature, and room for the gaps of its cells.

        Parameters
        ----------
        scores : DenseScores or SparseScores
            Whose basis is taken.
        residual : float64, shape (n_cells,)
            Of the feature.
        """
        n_cells, rank = scores.n_cells, scores.rank
        width = padded(rank + 2)
        if self._room.shape[0] < n_cells or self._room.shape[1] != width:
            self._room, self._gap = np.empty((n_cells, width)), np.empty(n_cells)
            self._filled = None
        rows = self._room[:n_cells]
        if self._filled is not scores:
            basis, first = scores.basis_rows()
            rows[:, 1 : 1 + rank] = basis[:, first : first + rank]
            rows[:, 1 + rank :] = 0.0
            self._filled = scores
        rows[:, 0] = residual
        return DenseScores(rows, 1, rank), self._gap[:n_cells]


def estimate(
    rows: DenseScores,
    gap: np.ndarray,
    statistic: ModuleType,
    h: np.ndarray,
    p: np.ndarray,
    cells: np.ndarray,
    centre: float,
    tail: str,
    levels: np.ndarray,
    tilts: np.ndarray,
    stream: tuple[int, str, str, tuple[str, ...]],
    resamples: int,
) -> Estimate:
    """P value of one test.

    Parameters
    ----------
    rows : DenseScores
        Of one feature, from :class:`NarrowRows`; the last column is overwritten.
    gap : float64[::1], shape (n_cells,)
        Overwritten.
    statistic : module
        One of :data:`condrand.statistics.STATISTICS`.
    h : float64[::1], shape (n_cells,)
        Of the statistic's linear form.
    p : float64[::1], shape (n_cells,)
        Propensity, inside (0, 1).
    cells : int64[::1]
        Treated cells, sorted.
    centre : float
        About which ``two_sided_centred`` looks.
    tail : {"two_sided", "two_sided_centred", "left", "right"}
    levels, tilts : float64, shape (2,)
        Of the upper and the lower tail; the level is NaN where the test has no such tail. Any
        tilt gives the right answer: a good one gives it with few draws.
    stream : (int, str, str, tuple of str)
        Seed, kind and name of the unit, and what sets these draws apart from its others.
    resamples : int
        Draws of each tail.

    Notes
    -----
    ``p = sum over tails of mean(w 1{x in the tail})`` with ``w = exp(K - sum x a)``, the tail
    taken by the exact statistic: the linear form only says where to draw. The observed set counts
    as one more draw of its own tail (Harrison 2012, Biometrika 99, 57-69), as it does in
    ``(1 + exceedances)/(B + 1)``: p is never 0, and valid. With a tilt of 0 it is that p value.
    """
    last = rows.rows.shape[1] - 1
    own = statistic.values(rows, rows.observed(cells))
    observed, seed, kind, unit, part = float(own[0, 0]), *stream
    logs, counts = [], []
    for t, name in enumerate(TAIL_NAMES):
        if np.isnan(levels[t]):
            continue
        log_mean = tilt_cells(p, rows.rows, h, levels[t], tilts[t], last, gap)
        draw = BernoulliSampler(stream_key(seed, kind, unit, (*part, name)), gap)

        def weights(sums: SetSums, log_mean: float = log_mean, upper: bool = t == 0) -> np.ndarray:
            values = statistic.values(rows, sums)[:, 0]
            return (log_mean - sums.rows[:, last])[in_tail(values, observed, centre, tail, upper)]

        found = [weights(rows.observed(cells))]
        for block in range(n_blocks(resamples)):
            found.append(weights(draw.set_sums(rows, block, resamples_of_block(resamples, block))))
        logs.append(np.concatenate(found))
        counts.append(resamples + found[0].size)
    return Estimate(*_combined(logs, counts), resamples * len(counts))


def in_tail(
    values: np.ndarray, observed: float, centre: float, tail: str, upper: bool
) -> np.ndarray:
    """Which values are at least as extreme as the observed one, on one side."""
    extreme = as_extreme(values, observed, centre, tail)
    if tail in ("right", "left"):
        return extreme
    about = centre if tail == "two_sided_centred" else 0.0
    return extreme & (values >= about if upper else values <= about)


def _combined(logs: list[np.ndarray], counts: list[int]) -> tuple[float, float]:
    """Log of the sum of mean weights over tails, and its relative standard error."""
    highest = max(part.max(initial=-np.inf) for part in logs)
    total = variance = 0.0
    for part, n in zip(logs, counts, strict=True):
        weights = np.exp(part - highest)
        mean = weights.sum() / n
        total += mean
        variance += (np.square(weights).sum() / n - mean**2) / max(n - 1, 1)
    return min(float(highest + np.log(total)), 0.0), float(np.sqrt(max(variance, 0.0)) / total)
