"""The parts of an AnnData in memory, found by their keys and checked."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, listed, quoted
from condrand.inputs.elements import Faults, texts

if TYPE_CHECKING:  # a type only: whoever has an AnnData has imported it
    from anndata import AnnData

_SEARCHED = ("obsm", "layers", "obsp", "uns", "obs")


def element(adata: "AnnData", key: str) -> Any:
    """What a key names, in obsm, layers, obsp, uns or obs; KeyError if nothing."""
    for place in _SEARCHED:
        if key in getattr(adata, place):
            return getattr(adata, place)[key]
    there = [name for place in _SEARCHED for name in getattr(adata, place)]
    raise KeyError(f"there is no {key!r} in adata; there are: {listed(there, 20)}")


def _numbers(value: Any, key: str) -> "np.ndarray | sp.csr_matrix":
    if sp.issparse(value):
        return sp.csr_matrix(value)
    array = value.to_numpy() if isinstance(value, pd.DataFrame) else np.asarray(value)
    if array.ndim != 2 or array.dtype.kind not in "biuf":
        raise ValueError(f"{key} is no numeric matrix of the cells: {array.dtype} {array.shape}")
    return array


def read_usage(adata: "AnnData", key: str, problems: Problems) -> tuple[np.ndarray, list[str]]:
    """Program usage and the names of the programs; its faults are noted."""
    value = element(adata, key)
    usage = _numbers(value, key)
    usage = usage.toarray() if sp.issparse(usage) else usage
    if isinstance(value, pd.DataFrame):
        names = texts(value.columns)
    elif "program_names" in adata.uns:
        names = texts(adata.uns["program_names"])
    else:
        names = [f"program_{k}" for k in range(usage.shape[1])]
    if len(names) != usage.shape[1] or len(set(names)) != len(names):
        raise ValueError(f"{len(names)} program names, {len(set(names))} distinct, for {key}")
    mend = "remove those cells or fill the values in; usage cannot be negative."
    _check(usage, key, adata.obs_names, names, mend, problems)
    with np.errstate(invalid="ignore"):
        empty = np.flatnonzero(usage.sum(axis=1) == 0)
    if empty.size and len(usage) == adata.n_obs:
        named = quoted(adata.obs_names[empty], 3)
        problems.add(
            key, f"{empty.size:,} rows sum to zero (cells {named})", "remove those cells."
        )
    return usage, names


def _check(
    values: Any, key: str, cells: pd.Index, names: list[str], mend: str, problems: Problems
) -> None:
    faults = Faults(may_be_negative=False)
    if values.shape[0] == len(cells):
        faults.look(0, values)
    faults.report(key, cells, names, mend, problems)


def read_covariates(
    adata: "AnnData", key: str, threshold: int | None
) -> tuple[pd.DataFrame, int | None, bool]:
    """Covariates, how they are encoded, and whether they were given as a table."""
    value = element(adata, key)
    value = value.toarray() if sp.issparse(value) else value
    is_table = isinstance(value, pd.DataFrame | pd.Series) or bool(
        getattr(getattr(value, "dtype", None), "names", None)
    )
    if is_table:
        # A Series keeps the name of its column.
        table = pd.DataFrame(value)
    else:
        array = np.asarray(value)
        array = array.reshape(len(array), -1)
        if array.dtype.kind in "biuf":
            # Numbers in an array may already be indicators or splines.
            array, threshold = array.astype(np.float64), None
        table = pd.DataFrame(array, columns=[f"covar_{i}" for i in range(array.shape[1])])
        table = table.infer_objects()
    table = table.rename(columns=str)
    numeric = table.select_dtypes("number").to_numpy(np.float64, na_value=np.nan)
    infinite = table.select_dtypes("number").columns[np.isinf(numeric).any(axis=0)]
    bad = [*table.columns[table.isna().any()], *infinite]
    if bad:
        raise ValueError(f"{key} has missing or infinite values in: {quoted(bad)}")
    return table.copy(), threshold, is_table


def read_guides(
    adata: "AnnData", key: str, names_key: str, problems: Problems
) -> tuple[sp.csc_matrix, list[str]]:
    """Guide calls without stored zeros, and the names of the guides; faults are noted."""
    value = element(adata, key)
    if isinstance(value, pd.DataFrame):
        names = texts(value.columns)
    elif names_key in adata.uns:
        names = texts(adata.uns[names_key])
    else:
        raise ValueError(
            f"guides have no names: set uns[{names_key!r}], or store {key} as a table"
        )
    calls = _numbers(value, key)
    if len(names) != calls.shape[1] or len(set(names)) != len(names):
        raise ValueError(
            f"{len(names)} guide names, {len(set(names))} distinct, for {calls.shape[1]} columns "
            f"of {key}: give one name per column"
        )
    mend = "correct those calls: 1 (or a count) for a guide, 0 for none."
    _check(calls, key, adata.obs_names, names, mend, problems)
    G = sp.csc_matrix(calls)
    G = G.copy() if G is value else G
    G.sum_duplicates()
    G.eliminate_zeros()
    return G, names


def read_guide2gene(value: Any, key: str) -> dict[str, str]:
    """Gene of each guide, from a dict or a table."""
    if isinstance(value, pd.DataFrame) and {"guide", "gene"} <= set(value.columns):
        value = dict(zip(value["guide"], value["gene"], strict=True))
    if not isinstance(value, Mapping):
        raise ValueError(f"{key} is neither a dict nor a table with columns guide and gene")
    return {str(guide): str(gene) for guide, gene in value.items()}
