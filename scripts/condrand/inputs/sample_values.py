"""Values of samples, or of cells that become samples: what is wrong with them."""

import logging
from collections.abc import Mapping

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems

log = logging.getLogger(__name__)

# Fractions below this are logarithms, above it estimated counts.
_LARGEST_LOG = 50.0


class ValueChecks:
    """Counts what is wrong with values while rows pass by, and whether they look like counts.

    Parameters
    ----------
    counts : bool
        Whether counts are wanted; else values of any size, missing ones where rows are samples.
    of_cells : bool
        Whether rows are cells.
    """

    def __init__(self, counts: bool, of_cells: bool = False):
        self.counts = counts
        self.noun = "cell" if of_cells else "sample"
        kinds = {"missing": counts or of_cells, "infinite": True, "negative": counts}
        self.first = {kind: [] for kind, is_fault in kinds.items() if is_fault}
        self.n = dict.fromkeys(self.first, 0)
        self.n_nonzero = self.n_fractional = 0
        self.largest, self.smallest = 0.0, 0.0

    def look(self, names: pd.Index, rows: np.ndarray | sp.csr_matrix) -> None:
        """Look at some rows, given their names."""
        stored = rows.data if sp.issparse(rows) else np.asarray(rows)
        if not stored.size:
            return
        finite = np.isfinite(stored)
        for kind in self.n:
            if kind == "negative":
                bad = finite & (stored < 0)
            else:
                bad = ~finite & (np.isnan(stored) == (kind == "missing"))
            self._note(kind, bad, names, rows, stored)
        if stored.dtype.kind == "f":
            fractional = finite & (stored != np.floor(stored))
            self.n_fractional += int(fractional.sum())
        self.n_nonzero += int((finite & (stored != 0)).sum())
        if finite.any():
            self.largest = max(self.largest, float(stored.max(where=finite, initial=0)))
            self.smallest = min(self.smallest, float(stored.min(where=finite, initial=0)))

    def _note(
        self,
        kind: str,
        bad: np.ndarray,
        names: pd.Index,
        rows: np.ndarray | sp.csr_matrix,
        stored: np.ndarray,
    ) -> None:
        if not bad.any():
            return
        self.n[kind] += int(bad.sum())
        few = 3 - len(self.first[kind])
        if sp.issparse(rows):
            at = np.flatnonzero(bad)[:few]
            row, column = np.searchsorted(rows.indptr, at, "right") - 1, rows.indices[at]
            values = stored[at]
        else:
            row, column = (index[:few] for index in np.nonzero(bad))
            values = stored[row, column]
        self.first[kind] += zip(values.tolist(), names[row], column.tolist(), strict=True)

    def report(
        self, where: str, features: pd.Index, mends: Mapping[str, str], problems: Problems
    ) -> None:
        """Note what was found, naming the first places.

        Parameters
        ----------
        where : str
        features : pandas.Index
        mends : mapping
            Of ``missing``, ``infinite``, ``negative`` and ``logged`` values.
        problems : Problems
        """
        for kind, n in self.n.items():
            places = [
                f"{value:g} in {self.noun} {name!r}, feature {features[j]!r}"
                for value, name, j in self.first[kind]
            ]
            if n > len(places):
                places.append(f"{n - len(places):,} more")
            if n:
                found = f"{n:,} values are {kind} ({'; '.join(places)})"
                problems.add(where, found, mends[kind])
        if self.counts and self.n_fractional:
            self._judge_fractions(where, mends["logged"], problems)
        are_whole = not self.n_fractional and self.smallest >= 0
        if not self.counts and are_whole and self.largest >= _LARGEST_LOG:
            log.warning(
                "%s: all values are whole and the largest is %g: they look like counts, and "
                "`transform: none` takes them as they are",
                where,
                self.largest,
            )

    def _judge_fractions(self, where: str, mend: str, problems: Problems) -> None:
        share = self.n_fractional / self.n_nonzero
        if self.largest < _LARGEST_LOG and share > 0.5:
            found = (
                f"values look log-transformed: {100 * share:.0f} % of those other than 0 are not "
                f"whole, and the largest is {self.largest:.4g}"
            )
            problems.add(where, found, mend)
            return
        log.warning(
            "%s: %d values are not whole: they are taken for estimated counts",
            where,
            self.n_fractional,
        )
