"""Stratified permutation: within each stratum the treated cells are drawn anew."""

from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from condrand.kernels.stratified import (
    stratified_hits,
    stratified_sums_dense,
    stratified_sums_sparse,
)
from condrand.samplers.strata import Strata
from condrand.samplers.streams import stream_key
from condrand.statistics.scores import DenseScores, Scores, SetSums

# Pairs of treated cell and resample held at once, 6 bytes each.
_HELD = 4_000_000


@dataclass(frozen=True)
class StratifiedSampler:
    """For each resample and stratum, as many cells as were observed, uniformly without repeats.

    Attributes
    ----------
    key : tuple of uint64
        From :func:`condrand.samplers.streams.stream_key`.
    strata : Strata
    """

    needs_strata: ClassVar[bool] = True

    key: tuple[np.uint64, np.uint64]
    strata: Strata

    @classmethod
    def of(
        cls,
        seed: int,
        kind: str,
        unit: str,
        p: np.ndarray,
        strata: Strata,
        stream: tuple[str, ...] = (),
    ) -> "StratifiedSampler":
        """The sampler of a unit with `strata`; the propensities `p` are in them already."""
        return cls(stream_key(seed, kind, unit, stream), strata)

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
        return self._sums_in_runs(scores, block, n_resamples, self._run_length())

    def _run_length(self) -> int:
        return max(1, _HELD // max(1, int(self.strata.n_treated.sum())))

    def _sums_in_runs(
        self, scores: Scores, block: int, n_resamples: int, run_length: int
    ) -> SetSums:
        sums = scores.room_for(n_resamples)
        strata = self.strata
        draws = (
            *self.key,
            np.uint64(block),
            strata.cells,
            strata.indptr,
            strata.n_treated,
            run_length,
        )
        if isinstance(scores, DenseScores):
            stratified_sums_dense(*draws, scores.rows, sums.rows, sums.counts)
        else:
            stratified_sums_sparse(
                *draws,
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
        strata = self.strata
        n_cells, n_hits = strata.cells.size, n_resamples * int(strata.n_treated.sum())
        hits, end = np.empty(n_hits, np.uint16), np.empty(n_cells, np.int32)
        stratified_hits(
            *self.key,
            np.uint64(block),
            0,
            n_resamples,
            strata.cells,
            strata.indptr,
            strata.n_treated,
            np.empty(n_hits, np.int32),
            hits,
            end,
        )
        out = np.zeros((n_resamples, n_cells), bool)
        out[hits, np.repeat(np.arange(n_cells), np.diff(end, prepend=0))] = True
        return out
