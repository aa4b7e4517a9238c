"""Bernoulli resampling: each cell is treated independently with its propensity."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from condrand.kernels.resampling import (
    CHUNK,
    ROOM,
    bernoulli_hits,
    bernoulli_sums_dense,
    bernoulli_sums_sparse,
    mean_gaps,
)
from condrand.samplers.strata import Strata
from condrand.samplers.streams import stream_key
from condrand.statistics.scores import DenseScores, Scores, SetSums


@dataclass(frozen=True)
class BernoulliSampler:
    """The index sampler: for each cell, which resamples of a block treat it.

    Attributes
    ----------
    key : tuple of uint64
        From :func:`condrand.samplers.streams.stream_key`.
    gap : float64[::1], shape (n_cells,)
        ``-1 / log(1 - p)``: scale of the gaps between the resamples that treat a cell.
    """

    key: tuple[np.uint64, np.uint64]
    gap: np.ndarray
    needs_strata: ClassVar[bool] = False

    @classmethod
    def of(
        cls,
        seed: int,
        kind: str,
        unit: str,
        p: np.ndarray,
        strata: Strata | None = None,
        stream: tuple[str, ...] = (),
    ) -> "BernoulliSampler":
        """The sampler of a unit with propensities `p` (float64[::1], inside (0, 1)).

        Strata are not used: each cell is drawn on its own.
        """
        gap = np.empty_like(p)
        mean_gaps(p, gap)
        return cls(stream_key(seed, kind, unit, stream), gap)

    def set_sums(self, scores: Scores, block: int, n_resamples: int) -> SetSums:
        """Sums of the score rows of each resample's treated cells.

        Parameters
        ----------
        scores : DenseScores or SparseScores
        block : int
            Which block of resamples.
        n_resamples : int
            How many of the block, from its first.
        """
        sums = scores.room_for(n_resamples)
        if isinstance(scores, DenseScores):
            bernoulli_sums_dense(
                *self.key, np.uint64(block), self.gap, scores.rows, sums.rows, sums.counts
            )
        else:
            bernoulli_sums_sparse(
                *self.key,
                np.uint64(block),
                self.gap,
                scores.data,
                scores.indices,
                scores.indptr,
                scores.basis,
                sums.rows,
                sums.basis,
                sums.counts,
            )
        return sums

    def treated(self, block: int, n_resamples: int) -> np.ndarray:
        """The same draws written out: bool, shape (n_resamples, n_cells). For small data."""
        n_cells = self.gap.size
        out = np.zeros((n_resamples, n_cells), bool)
        hits = np.empty((CHUNK, n_resamples + ROOM), np.uint16)
        n_hits = np.empty(CHUNK, np.int64)
        cells, work = np.empty(CHUNK, np.uint64), np.empty((3, CHUNK))
        for start in range(0, n_cells, CHUNK):
            gap = self.gap[start : start + CHUNK]
            bernoulli_hits(
                *self.key, np.uint64(block), start, n_resamples, gap, hits, n_hits, cells, work
            )
            for i in range(gap.size):
                out[hits[i, : n_hits[i]], start + i] = True
        return out
