"""The burden of a cell: how many guides it carries."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.api.elements import element, read_covariates, read_guide2gene, read_guides
from condrand.api.inputs import CRTInputs
from condrand.errors import Problems
from condrand.guide_counts import GuideCounts

if TYPE_CHECKING:  # a type only: whoever has an AnnData has imported it
    from anndata import AnnData

BURDEN_KEY = "log1p_non_ntc_guides_per_cell"


def guide_counts(inputs: CRTInputs, ntc_columns: Iterable[int]) -> GuideCounts:
    """The guide counts of a screen whose columns of NTC guides are given."""
    is_ntc = np.zeros(len(inputs.guide_names), bool)
    is_ntc[list(ntc_columns)] = True
    return GuideCounts.of(inputs.G > 0, is_ntc)


def compute_guide_burden(
    G: "np.ndarray | sp.spmatrix | sp.sparray | pd.DataFrame",
    *,
    guide_names: Iterable[str],
    guide2gene: Mapping[str, str],
    ntc_labels: Iterable[str] | None,
    include_ntc: bool = True,
    count_nonzero: bool = True,
    use_log1p: bool = True,
) -> np.ndarray:
    """Guides per cell.

    Parameters
    ----------
    G : dense, sparse or table, shape (n_cells, n_guides)
    guide_names : iterable of str
    guide2gene : mapping of str to str
    ntc_labels : iterable of str or None
        Genes that stand for controls; wanted unless they are included.
    include_ntc : bool
        Whether control guides count.
    count_nonzero : bool
        Count guides; else their values are added.
    use_log1p : bool
        Give ``log(1 + count)``.

    Returns
    -------
    float64, shape (n_cells,)

    Notes
    -----
    A target's own guides count, and should: given how many guides a cell carries, which targets
    they hit says nothing of how readily it takes up guides (splitting of a Poisson count,
    whatever its mean). Given its other guides alone, a carrier is a cell of higher uptake, and
    tests of null targets come out significant. A test of NTC guides needs their number instead,
    or that of all guides (``include_ntc=True``).
    """
    G = sp.csc_matrix(G.to_numpy() if isinstance(G, pd.DataFrame) else G)
    names, labels = list(guide_names), set(ntc_labels or ())
    if len(names) != G.shape[1]:
        raise ValueError(f"{len(names)} guide names for {G.shape[1]} columns")
    if not include_ntc:
        if not labels:
            raise ValueError("give ntc_labels, or include_ntc=True")
        G = G[:, [j for j, name in enumerate(names) if guide2gene.get(name) not in labels]]
    burden = np.asarray(((G > 0) if count_nonzero else G).sum(axis=1), np.float64).ravel()
    return np.log1p(burden) if use_log1p else burden


def add_burden_covariate(
    adata: "AnnData",
    *,
    guide_assignment_key: str = "guide_assignment",
    covar_key: str = "covar",
    guide_names_key: str = "guide_names",
    guide2gene_key: str = "guide2gene",
    burden_key: str = BURDEN_KEY,
    ntc_labels: Iterable[str] | None = ("non-targeting", "safe-targeting", "NTC"),
    include_ntc: bool = False,
    count_nonzero: bool = True,
    use_log1p: bool = True,
) -> pd.DataFrame:
    """Append the guides per cell to the covariates, in place.

    Parameters
    ----------
    adata : anndata.AnnData
        ``obsm[covar_key]`` is replaced by a table with one more column; an array becomes a table
        of columns ``covar_0``, ...
    guide_assignment_key, covar_key, guide_names_key, guide2gene_key : str
        As in :func:`prepare_crt_inputs`.
    burden_key : str
        Name of the column.
    ntc_labels, include_ntc, count_nonzero, use_log1p
        As in :func:`compute_guide_burden`.

    Returns
    -------
    pandas.DataFrame
        The covariates with the new column.
    """
    problems = Problems("adata")
    G, guides = read_guides(adata, guide_assignment_key, guide_names_key, problems)
    problems.report()
    table, _, _ = read_covariates(adata, covar_key, None)
    table = table.set_axis(adata.obs_names, axis=0)
    table[burden_key] = compute_guide_burden(
        G,
        guide_names=guides,
        guide2gene=read_guide2gene(element(adata, guide2gene_key), guide2gene_key),
        ntc_labels=ntc_labels,
        include_ntc=include_ntc,
        count_nonzero=count_nonzero,
        use_log1p=use_log1p,
    )
    adata.obsm[covar_key] = table
    return table
