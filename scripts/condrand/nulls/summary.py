"""The mergeable summary of a null distribution: exact, and of a size that ignores B."""

from dataclasses import dataclass, fields

import numpy as np

from condrand.kernels.null_summary import HALF_RANGE, N_BINS, POWER_SCALE, add_block

# Edges of the histogram's bins, in units of the standardized null.
EDGES = np.linspace(-HALF_RANGE, HALF_RANGE, N_BINS + 1)


@dataclass
class NullSummary:
    """What the merge needs of the resamples of one unit. Adding two is exact and commutes.

    Attributes
    ----------
    n : int64[::1], shape (1,)
        Resamples.
    exceed : int64, shape (4, n_features)
        Resamples with statistic >= observed, <= observed, and at least as far from zero, and from
        the centre of the units.
    powers : int64, shape (3, n_features)
        Sums of z, z**2, z**3 in fixed point (``POWER_SCALE``); integers, because floating sums
        would depend on the order of merging.
    extremes : float64, shape (2, n_features)
        Smallest and largest z.
    histogram : int32, shape (n_features, N_BINS)
        Counts of z between :data:`EDGES`; the end bins hold what lies beyond.
    """

    n: np.ndarray
    exceed: np.ndarray
    powers: np.ndarray
    extremes: np.ndarray
    histogram: np.ndarray

    @classmethod
    def empty(cls, n_features: int) -> "NullSummary":
        """The summary of no resamples: the neutral element of adding."""
        extremes = np.empty((2, n_features))
        extremes[0], extremes[1] = np.inf, -np.inf
        return cls(
            np.zeros(1, np.int64),
            np.zeros((4, n_features), np.int64),
            np.zeros((3, n_features), np.int64),
            extremes,
            np.zeros((n_features, N_BINS), np.int32),
        )

    def add_resamples(
        self, null: np.ndarray, observed: np.ndarray, centre: np.ndarray, scale: np.ndarray
    ) -> None:
        """Add the statistics of one whole block of resamples, in place.

        Parameters
        ----------
        null : float64[:, ::1], shape (n_resamples, n_features)
        observed, centre, scale : float64[::1], shape (n_features,)
            The observed statistic, and the units of z.
        """
        self.n += null.shape[0]
        add_block(
            null,
            observed,
            centre,
            scale,
            self.exceed,
            self.powers,
            self.extremes,
            self.histogram,
        )

    def __iadd__(self, other: "NullSummary") -> "NullSummary":
        self.n += other.n
        self.exceed += other.exceed
        self.powers += other.powers
        np.minimum(self.extremes[0], other.extremes[0], out=self.extremes[0])
        np.maximum(self.extremes[1], other.extremes[1], out=self.extremes[1])
        self.histogram += other.histogram
        return self

    @classmethod
    def joined(cls, summaries: list["NullSummary"]) -> "NullSummary":
        """One summary with the features of several, side by side; all of the same resamples."""
        if not summaries:
            return cls.empty(0)
        sizes = {int(summary.n[0]) for summary in summaries}
        if len(sizes) > 1:
            raise ValueError(f"summaries of different numbers of resamples: {sorted(sizes)}")
        return cls(
            summaries[0].n.copy(),
            np.concatenate([summary.exceed for summary in summaries], axis=1),
            np.concatenate([summary.powers for summary in summaries], axis=1),
            np.concatenate([summary.extremes for summary in summaries], axis=1),
            np.concatenate([summary.histogram for summary in summaries], axis=0),
        )

    @classmethod
    def stacked(cls, summaries: list["NullSummary"], n_features: int) -> dict[str, np.ndarray]:
        """Arrays by name with a leading axis of units, as a shard file holds them."""
        names = [field.name for field in fields(cls)]
        # A batch may be empty: then the neutral element gives the arrays their shapes.
        shapes = cls.empty(n_features)
        return {
            name: np.stack([getattr(summary, name) for summary in summaries])
            if summaries
            else getattr(shapes, name)[None][:0]
            for name in names
        }

    @classmethod
    def unstacked(cls, arrays: dict[str, np.ndarray]) -> list["NullSummary"]:
        """The inverse of :meth:`stacked`."""
        return [
            cls(**{name: array[g] for name, array in arrays.items()})
            for g in range(arrays["n"].shape[0])
        ]

    def moments(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Mean, standard deviation (n in the divisor) and skewness of z.

        Returns
        -------
        mean, sd, skewness : float64, shape (n_features,)
            The skewness is NaN where the standard deviation is 0.
        """
        n = self.n[0]
        m1, m2, m3 = (self.powers[i] / POWER_SCALE[i] / n for i in range(3))
        variance = np.maximum(m2 - m1**2, 0.0)
        sd = np.sqrt(variance)
        third = m3 - 3 * m1 * m2 + 2 * m1**3
        with np.errstate(divide="ignore", invalid="ignore"):
            skewness = np.where(sd > 0, third / sd**3, np.nan)
        return m1, sd, skewness
