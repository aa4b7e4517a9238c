"""Null genes: real genes whose values are dealt anew to the cells of both conditions."""

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

# Exclusive upper bound of the seeds.
_SEEDS = 2**31 - 1


@dataclass(frozen=True)
class NullGenes:
    """Which genes are dealt anew, and how.

    Attributes
    ----------
    columns : int64, shape (n_null,)
        Genes; repeated where more are wanted than there are.
    seeds : int64, shape (n_null,)
        Of the permutation of each.

    Notes
    -----
    Precondition: the permutation destroys the dependence on the condition and that on the cell
    state, so a null gene is as rough as noise. A gene that varies over cell states but not over
    conditions can be farther out.
    """

    columns: np.ndarray
    seeds: np.ndarray

    @classmethod
    def of(cls, n_genes: int, n_null: int, seed: int = 42) -> "NullGenes":
        """Draw genes and their seeds, as the reference implementation does.

        Parameters
        ----------
        n_genes, n_null : int
            1 or more.
        seed : int
        """
        if n_genes < 1 or n_null < 1:
            raise ValueError(f"{n_null} null genes of {n_genes} genes: give 1 or more of each")
        columns = np.random.RandomState(seed).choice(n_genes, n_null, replace=n_null > n_genes)
        seeds = np.random.RandomState(seed).randint(0, _SEEDS, n_null, dtype=np.int64)
        return cls(columns.astype(np.int64), seeds)

    def dealt(
        self,
        y1: "np.ndarray | sp.spmatrix",
        y2: "np.ndarray | sp.spmatrix",
        at: slice = slice(None),
    ) -> tuple[np.ndarray, np.ndarray]:
        """Expression of some null genes in the cells of either condition.

        Parameters
        ----------
        y1, y2 : numbers, shapes (n1, G) and (n2, G)
        at : slice
            Of the null genes.

        Returns
        -------
        tuple of float64[:, ::1], shapes (n1, k) and (n2, k)
        """
        columns = self.columns[at]
        parts = [y[:, columns] for y in (y1, y2)]
        parts = [part.toarray() if sp.issparse(part) else part for part in parts]
        # One row per gene, so that a permutation runs over neighbours in memory.
        genes = np.concatenate([np.asarray(part, np.float64).T for part in parts], axis=1)
        for gene, seed in zip(genes, self.seeds[at], strict=True):
            gene[:] = np.random.RandomState(seed).permutation(gene)
        n1 = y1.shape[0]
        return np.ascontiguousarray(genes[:, :n1].T), np.ascontiguousarray(genes[:, n1:].T)
