"""Expression on a log scale, sparse in, sparse out."""

import numpy as np
import scipy.sparse as sp


def effect_scale(target_sum: float) -> str:
    """Unit of an effect on this scale, for axis labels."""
    per = {1e6: "CPM", 1e4: "CP10k"}.get(target_sum, f"counts per {target_sum:g}")
    return f"log1p {per} (natural log)"


def automatic(is_sparse: bool) -> str:
    """The transform that ``auto`` stands for: sparse values are counts, dense ones features."""
    return "log_normalize" if is_sparse else "none"


def log1p_cpm(
    counts: np.ndarray | sp.csr_matrix, library_size: np.ndarray | None, target_sum: float
) -> np.ndarray | sp.csr_matrix:
    """``log(1 + counts * target_sum / library size)``.

    Parameters
    ----------
    counts : float64, dense or CSR, shape (n_cells, n_genes)
        Not changed.
    library_size : float64, shape (n_cells,), or None
        Total counts of each cell, positive; None sums the rows of `counts`.
    target_sum : float
        Counts each cell is scaled to.

    Returns
    -------
    Same kind and shape as `counts`; natural logarithm. Zeros stay zeros.
    """
    if library_size is None:
        library_size = np.asarray(counts.sum(axis=1), dtype=np.float64).ravel()
    factor = target_sum / library_size
    if not sp.issparse(counts):
        return np.log1p(counts * factor[:, None])
    scaled = counts.astype(np.float64)
    scaled.data = np.log1p(scaled.data * np.repeat(factor, np.diff(scaled.indptr)))
    return scaled
