"""From an AnnData in memory to what the tests need, and back."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import scipy.sparse as sp
from scipy.linalg import qr, solve_triangular

from condrand.api.elements import (
    element,
    read_covariates,
    read_guide2gene,
    read_guides,
    read_usage,
)
from condrand.covariates import encode, orthonormal_basis, standardize
from condrand.errors import Problems
from condrand.io.outcome import Outcome
from condrand.normalize import OF_RESIDUALS, make_design, transform_outcome
from condrand.outcomes.clr import EFFECT_SCALE
from condrand.statistics import STATISTICS

if TYPE_CHECKING:  # a type only: whoever has an AnnData has imported it
    from anndata import AnnData

# Columns whose mean and standard deviation are this close to 0 and 1 are taken as they are.
_STANDARDIZED = 1e-9
_INTERCEPT = "intercept"


@dataclass
class CRTInputs:
    """What every test of a screen shares; from :func:`prepare_crt_inputs`.

    Attributes
    ----------
    C : float64, shape (n_cells, n_columns)
        Covariates, intercept first; full rank.
    Y : float64, shape (n_cells, n_programs)
        Centred log-ratios of usage.
    A : float64, shape (n_columns, n_columns)
        Inverse of ``C'C``.
    CTY : float64, shape (n_columns, n_programs)
        ``C'Y``.
    G : scipy.sparse.csc_matrix, shape (n_cells, n_guides)
        Guide calls; positive values only.
    guide_names : list of str
    guide2gene : dict of str to str
    gene_to_cols : dict of str to list of int
        Columns of G by gene, sorted; NTC labels are among the genes.
    program_names : list of str
    U : float32, shape (n_cells, n_programs)
        Usage as given.
    R : float32, shape (n_cells, n_programs), or None
        Ranks of the outcome, filled in by the first rank test.
    rank_info : dict or None
        What R ranks.
    usage_eps_quantile : float
    covar_cols : list of str
        Names of the columns of C.
    covar_df_raw : pandas.DataFrame or None
        Covariates as given, where they were a table.
    batch_raw : pandas.Series or None
        Batch of each cell.

    Notes
    -----
    Scores of a statistic are kept after its first test. To change a field, make new inputs by
    ``dataclasses.replace``.
    """

    C: np.ndarray
    Y: np.ndarray
    A: np.ndarray
    CTY: np.ndarray
    G: sp.csc_matrix
    guide_names: list[str]
    guide2gene: dict[str, str]
    gene_to_cols: dict[str, list[int]]
    program_names: list[str]
    U: np.ndarray
    R: np.ndarray | None = None
    rank_info: dict[str, Any] | None = None
    usage_eps_quantile: float = 1e-4
    covar_cols: list[str] = field(default_factory=list)
    covar_df_raw: pd.DataFrame | None = None
    batch_raw: pd.Series | None = None
    _outcomes: dict[tuple[str, str, bool], Outcome] = field(
        default_factory=dict, init=False, repr=False, compare=False
    )

    @property
    def n_cells(self) -> int:
        """Cells of the screen."""
        return self.C.shape[0]


def prepare_crt_inputs(
    adata: "AnnData",
    usage_key: str = "cnmf_usage",
    covar_key: str = "covar",
    guide_assignment_key: str = "guide_assignment",
    guide_names_key: str = "guide_names",
    guide2gene_key: str = "guide2gene",
    eps_quantile: float = 1e-4,
    add_intercept: bool = True,
    standardize: bool = True,
    numeric_as_category_threshold: int | None = 20,
    batch_key: str = "batch",
    clamp_threads: bool = True,
) -> CRTInputs:
    """Encode covariates, transform usage and find the guides of every gene.

    Parameters
    ----------
    adata : anndata.AnnData
        In memory; not changed. Keys are looked up in obsm, layers, obsp, uns, obs.
    usage_key : str
        Program usage, cells x programs: array, sparse or table, not negative. The columns of a
        table name the programs, else ``uns["program_names"]``, else ``program_0``, ...
    covar_key : str
        Covariates: a table, whose columns are encoded (:func:`condrand.covariates.encode`), or
        an array of numbers, taken as it is.
    guide_assignment_key : str
        Guide calls, cells x guides; a positive value is a guide, a stored zero is none.
    guide_names_key : str
        Names of the guides, unless the calls are a table.
    guide2gene_key : str
        Gene, or NTC label, of each guide: a dict, or a table with columns guide and gene.
    eps_quantile : float
        Usage is floored at this quantile of its entries, rows being divided by their sums; at the
        smallest positive entry where the quantile is 0.
    add_intercept, standardize : bool
        Of ``C``. The propensity model has an intercept and standardized columns in any case.
    numeric_as_category_threshold : int or None
        Numeric columns of a table with at most this many values count as categories.
    batch_key : str
        Batch of each cell: a column of the covariates if they have it, else of obs.
    clamp_threads : bool
        Call :func:`limit_threading`.

    Returns
    -------
    CRTInputs

    Raises
    ------
    KeyError
        If a key is not there.
    ValueError
        If usage is negative, not finite or zero in a whole cell, covariates have missing values,
        rows or names do not fit, or no guide has a gene.

    Notes
    -----
    Covariates that are constant or combinations of others are left out and named in a warning of
    the log; the coefficient of a treatment does not depend on which of them stay.
    """
    if clamp_threads:
        limit_threading()
    problems = Problems("adata")
    usage, programs = read_usage(adata, usage_key, problems)
    table, threshold, is_table = read_covariates(adata, covar_key, numeric_as_category_threshold)
    G, guides = read_guides(adata, guide_assignment_key, guide_names_key, problems)
    problems.report()
    for key, value in ((usage_key, usage), (covar_key, table), (guide_assignment_key, G)):
        if value.shape[0] != adata.n_obs:
            raise ValueError(f"{key} has {value.shape[0]:,} rows for {adata.n_obs:,} cells")
    guide2gene = read_guide2gene(element(adata, guide2gene_key), guide2gene_key)
    gene_to_cols: dict[str, list[int]] = {}
    for column, guide in enumerate(guides):
        if guide in guide2gene:
            gene_to_cols.setdefault(guide2gene[guide], []).append(column)
    if not gene_to_cols:
        raise ValueError(f"{guide2gene_key} names no guide of {guide_assignment_key}")
    design = make_design(table, threshold)
    C = design.columns if standardize else encode(table, threshold)[design.names].to_numpy()
    names = design.names
    if add_intercept:
        C, names = np.column_stack([np.ones(len(C)), C]), [_INTERCEPT, *names]
    Y, _ = transform_outcome(usage, _clr(eps_quantile))
    root = qr(C, mode="r", check_finite=False)[0][: C.shape[1]]
    inverse = solve_triangular(root, np.eye(C.shape[1]))
    batch = None
    for there in (table if is_table else {}, adata.obs):
        if batch is None and batch_key in there:
            batch = there[batch_key].copy()
    return CRTInputs(
        C=np.ascontiguousarray(C),
        Y=Y,
        A=inverse @ inverse.T,
        CTY=C.T @ Y,
        G=G,
        guide_names=guides,
        guide2gene=guide2gene,
        gene_to_cols=gene_to_cols,
        program_names=programs,
        U=usage.astype(np.float32),
        usage_eps_quantile=eps_quantile,
        covar_cols=names,
        covar_df_raw=table.copy() if is_table else None,
        batch_raw=batch,
    )


def limit_threading(n_threads: int = 1) -> None:
    """Ask BLAS and OpenMP for this many threads, unless the environment says otherwise.

    Without effect on libraries that are loaded already: call it before they are imported.
    """
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS"):
        os.environ.setdefault(name, str(n_threads))


def design_of(C: np.ndarray) -> np.ndarray:
    """The columns of C that vary, standardized: what the propensity model sees."""
    columns = np.ascontiguousarray(C[:, np.ptp(C, axis=0) > 0], dtype=np.float64)
    done = np.allclose(columns.mean(axis=0), 0, atol=_STANDARDIZED) and np.allclose(
        columns.std(axis=0), 1, rtol=_STANDARDIZED
    )
    # Standardizing twice would change the last bits.
    return columns if done else standardize(columns)


def outcome_of(
    inputs: CRTInputs,
    statistic: str,
    use: str = "clr",
    residualize: bool = False,
    is_ntc_cell: np.ndarray | None = None,
) -> Outcome:
    """What units are tested with; scores of all cells are computed at their first use.

    Parameters
    ----------
    inputs : CRTInputs
    statistic : str
        One of :data:`condrand.statistics.STATISTICS`.
    use : {"clr", "usage"}
        What is tested.
    residualize : bool
        Whether rank and welch take it less its regression on the covariates.
    is_ntc_cell : bool, shape (n_cells,), optional
        Each unit is compared with these cells, and has scores of its own.
    """
    residualize = residualize and statistic in OF_RESIDUALS
    key = (statistic, use, residualize)
    if is_ntc_cell is None and key in inputs._outcomes:
        return inputs._outcomes[key]
    tested, scale = inputs.Y, EFFECT_SCALE
    if use == "usage":
        settings = {**_clr(inputs.usage_eps_quantile), "transform": "usage"}
        tested, scale = transform_outcome(inputs.U, settings)
    outcome = Outcome(
        scores=None,
        design=design_of(inputs.C),
        features=list(inputs.program_names),
        effect_scale=STATISTICS[statistic].effect_scale(
            f"residual of {scale}" if residualize else scale
        ),
        digest="",
        statistic=statistic,
        residualize=residualize,
    )
    if is_ntc_cell is not None:
        return replace(outcome, control="ntc", tested=tested, is_ntc_cell=is_ntc_cell)
    basis = _basis(inputs.C, outcome.design)
    if residualize:
        tested = tested - basis @ (basis.T @ tested)
    scores = STATISTICS[statistic].score(tested, basis)
    if statistic == "rank":
        ranks = scores.rows[:, : len(inputs.program_names)] + (inputs.n_cells + 1) / 2
        inputs.R = ranks.astype(np.float32)
        inputs.rank_info = {"use": use, "rank_method": "average", "rank_dtype": "float32"}
        inputs.rank_info["residualize"] = residualize
    inputs._outcomes[key] = replace(outcome, scores=scores)
    return inputs._outcomes[key]


def carriers(inputs: CRTInputs, columns: Iterable[int]) -> np.ndarray:
    """Cells with any guide of some columns of G: int64, sorted."""
    calls = inputs.G[:, np.asarray(list(columns), np.int64)]
    return np.unique(calls.indices[calls.data > 0]).astype(np.int64)


def columns_of(inputs: CRTInputs, labels: str | Iterable[str]) -> list[int]:
    """Columns of G whose guides stand for any of some genes or NTC labels, sorted."""
    labels = {labels} if isinstance(labels, str) else set(labels)
    return sorted(c for label in labels for c in inputs.gene_to_cols.get(label, []))


def store_results_in_adata(
    adata: "AnnData",
    pvals_df: pd.DataFrame,
    betas_df: pd.DataFrame,
    treated_df: pd.Series,
    prefix: str = "crt_union_gene_program",
    pvals_skew_df: pd.DataFrame | None = None,
    skew_params: np.ndarray | None = None,
) -> None:
    """Put result tables into ``uns``, under `prefix` and ``_pvals``, ``_betas``, ``_n_positive``.

    Parameters
    ----------
    adata : anndata.AnnData
        Changed in place.
    pvals_df, betas_df, treated_df
        Of :func:`condrand.api.run_all_genes_union_crt`.
    prefix : str
    pvals_skew_df, skew_params : optional
        Put under ``_pvals_skew`` and ``_skew_params``.
    """
    for name, value in (
        ("pvals", pvals_df),
        ("betas", betas_df),
        ("n_positive", treated_df),
        ("pvals_skew", pvals_skew_df),
        ("skew_params", skew_params),
    ):
        if value is not None:
            adata.uns[f"{prefix}_{name}"] = value


def _clr(eps_quantile: float) -> dict[str, Any]:
    return {"transform": "clr", "floor_quantile": eps_quantile, "floor_epsilon": None}


def _basis(C: np.ndarray, design: np.ndarray) -> np.ndarray:
    """Orthonormal basis of C; with the workflow's bits where C has an intercept."""
    constant = np.ptp(C, axis=0) == 0
    if np.any(C[0, constant] != 0):
        return orthonormal_basis(design)
    return np.ascontiguousarray(qr(C, mode="economic")[0])
