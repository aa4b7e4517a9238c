"""Linear models of expression, under the names of the R packages edgeR and limma.

Tables in, tables out: features are rows and samples columns of a DataFrame, or an AnnData of
samples x features, whose obs is the table of the samples. Samples are matched by name.
"""

import os
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.errors import Problems, listed, nearest, quoted
from condrand.fdr import benjamini_hochberg
from condrand.inputs.cell_groups import group_by
from condrand.inputs.sample_values import ValueChecks
from condrand.linear import calls, moderation
from condrand.linear import counts as counts_of
from condrand.linear import design as design_of
from condrand.linear import fit as fit_of
from condrand.linear import mds as mds_of
from condrand.linear import voom as voom_of
from condrand.linear import weights as quality
from condrand.linear.anova import anova
from condrand.linear.fit import Fit
from condrand.linear.mds import Mds
from condrand.outcomes.pseudobulk import add_rows

if TYPE_CHECKING:  # a type only: whoever has an AnnData has imported it
    from anndata import AnnData

_METHODS = {"tmm": "tmm", "rle": "rle", "upperquartile": "upper_quartile", "none": "none"}
_ALPHA = 0.05
# Cells summed at once.
_CELLS_AT_ONCE = 4096

Groups = pd.Series | Mapping | Sequence | str


@dataclass(frozen=True)
class EList:
    """Log counts with weights, and the design they were made with; as limma's.

    Attributes
    ----------
    E, weights : pandas.DataFrame
        Features by samples.
    design : pandas.DataFrame
        Samples by coefficients, in the order of the samples.
    lib_size : pandas.Series
        Library sizes as used, normalization factors included.
    sample_weights : pandas.Series or None
        From ``voom_with_quality_weights``; already part of `weights`.
    trend : condrand.linear.voom.Voom
        The line and the points of the mean-variance trend, for a plot.
    """

    E: pd.DataFrame
    weights: pd.DataFrame
    design: pd.DataFrame
    lib_size: pd.Series
    sample_weights: pd.Series | None
    trend: voom_of.Voom


# Counts


def pseudobulk(
    adata: "AnnData", by: str | Sequence[str], layer: str | None = None, min_cells: int = 10
) -> "AnnData":
    """Sum the cells that are alike in some columns of obs.

    Parameters
    ----------
    adata : anndata.AnnData
        Cells x features: counts.
    by : str or sequence of str
        Columns of obs, such as donor and condition. Cells without a label are left out.
    layer : str, optional
    min_cells : int
        Samples of fewer cells are left out.

    Returns
    -------
    anndata.AnnData
        Samples x features, samples in the order of their levels, named by them. Its obs: the
        columns of `by`, ``n_cells``, and columns in which the cells of each sample agree.
    """
    from anndata import AnnData

    problems = Problems("pseudobulk")
    if not _is_anndata(adata):
        problems.add("adata", f"is {_kind(adata)}", "give an AnnData of cells x features.")
        problems.report()
    by = [by] if isinstance(by, str) else list(by)
    if not by:
        problems.add("by", "is empty", "name at least one column of obs.")
    for name in by:
        if name not in adata.obs:
            _unknown("by", name, "column of obs", list(adata.obs.columns), problems)
    if layer is not None and layer not in adata.layers:
        _unknown("layer", layer, "layer", list(adata.layers), problems)
    elif layer is None and adata.X is None:
        problems.add("X", "is empty", "name a `layer`.")
    design_of.check_names(adata.var_names, "var_names", "feature", problems)
    problems.report()
    grouped = group_by({name: adata.obs[name] for name in by}, min_cells, problems, key="")
    problems.report()
    _warn(grouped.notes)
    for name in adata.obs.columns:
        if name not in grouped.table:
            grouped.carry(name, adata.obs[name])
    matrix = adata.X if layer is None else adata.layers[layer]
    matrix = matrix.tocsr() if sp.issparse(matrix) else matrix
    sums = np.zeros((len(grouped.table), adata.n_vars))
    checks = ValueChecks(counts=True, of_cells=True)
    for start in range(0, adata.n_obs, _CELLS_AT_ONCE):
        rows = matrix[start : start + _CELLS_AT_ONCE]
        rows = sp.csr_matrix(rows) if sp.issparse(rows) else np.asarray(rows)
        of_rows = grouped.samples[start : start + _CELLS_AT_ONCE]
        inside = np.flatnonzero(of_rows >= 0)
        checks.look(adata.obs_names[start + inside], rows[inside])
        add_rows(sums, rows[inside], of_rows[inside])
    where = "X" if layer is None else f"layers/{layer}"
    mends = _MENDS | {"logged": "sum counts: name the `layer` that holds them."}
    checks.report(where, adata.var_names, mends, problems)
    problems.report()
    return AnnData(sums, obs=grouped.table, var=adata.var.copy())


def cpm(
    counts: "pd.DataFrame | AnnData",
    lib_size: pd.Series | None = None,
    log: bool = False,
    offset: float = 0.01,
    *,
    layer: str | None = None,
) -> pd.DataFrame:
    """Counts per million of their library.

    Parameters
    ----------
    counts : pandas.DataFrame or anndata.AnnData
        Features by samples; or samples by features in an AnnData.
    lib_size : pandas.Series, optional
        By sample; sums of the counts given if not said. After filtering, give those of all
        features.
    log : bool
        ``log2(cpm + offset)``, for display. Not edgeR's, which scales its offset by library.
    offset : float
    layer : str, optional
        Of an AnnData; X if not said. So for all functions here.

    Returns
    -------
    pandas.DataFrame
        Features by samples.
    """
    problems = Problems("cpm")
    given = _counts(counts, layer, problems)
    library = _library(lib_size, None, given, problems)
    problems.report()
    if log:
        return given.frame(counts_of.log2_cpm(given.values, library, offset))
    return given.frame(counts_of.cpm(given.values, library))


def filter_by_cpm(
    counts: "pd.DataFrame | AnnData",
    groups: Groups,
    lib_size: pd.Series | None = None,
    min_count: float = 10.0,
    *,
    layer: str | None = None,
) -> pd.Series:
    """Features with over `min_count` counts in as many samples as the smallest group has.

    Parameters
    ----------
    counts, layer
        As in :func:`cpm`; all features.
    groups : pandas.Series, mapping, sequence, or str
        Group of each sample: by name of the sample; or, where there are no names, one label per
        sample in order; or a column of obs.
    lib_size : pandas.Series, optional
    min_count : float
        In a library of median size.

    Returns
    -------
    pandas.Series of bool
        By feature: ``counts[filter_by_cpm(counts, groups)]``.
    """
    problems = Problems("filter_by_cpm")
    given = _counts(counts, layer, problems)
    labels = _groups(groups, given, problems)
    library = _library(lib_size, None, given, problems)
    problems.report()
    _warn(labels.notes)
    kept = counts_of.filter_by_cpm(given.values, labels.codes, library, min_count)
    return pd.Series(kept, given.features, name="kept")


def filter_by_expr(
    counts: "pd.DataFrame | AnnData",
    groups: Groups | None = None,
    design: pd.DataFrame | str | None = None,
    lib_size: pd.Series | None = None,
    min_count: float = 10.0,
    min_total_count: float = 15.0,
    large_n: float = 10.0,
    min_prop: float = 0.7,
    *,
    layer: str | None = None,
) -> pd.Series:
    """Features expressed in enough samples, as edgeR's ``filterByExpr`` keeps them.

    Parameters
    ----------
    counts, groups, lib_size, min_count, layer
        As in :func:`filter_by_cpm`.
    design : pandas.DataFrame or str, optional
        As in :func:`voom`; used where there are no groups. With neither, all samples are one
        group.
    min_total_count : float
        Over all samples.
    large_n, min_prop : float
        Of a smallest group beyond `large_n` samples, only this share counts.

    Returns
    -------
    pandas.Series of bool
        By feature.
    """
    problems = Problems("filter_by_expr")
    given = _counts(counts, layer, problems)
    library = _library(lib_size, None, given, problems)
    labels = matrix = None
    if groups is not None:
        labels = _groups(groups, given, problems)
    elif design is not None:
        matrix = _aligned_design(design, given, problems)
    problems.report()
    if labels is not None:
        _warn(labels.notes)
    kept = counts_of.filter_by_expr(
        given.values,
        None if labels is None else labels.codes,
        None if matrix is None else matrix.to_numpy(),
        library,
        min_count,
        min_total_count,
        large_n,
        min_prop,
    )
    return pd.Series(kept, given.features, name="kept")


def calc_norm_factors(
    counts: "pd.DataFrame | AnnData",
    method: str = "TMM",
    lib_size: pd.Series | None = None,
    ref_column: str | None = None,
    logratio_trim: float = 0.3,
    sum_trim: float = 0.05,
    *,
    layer: str | None = None,
) -> pd.Series:
    """Factors by which libraries differ in composition; their product is 1.

    Parameters
    ----------
    counts, lib_size, layer
        As in :func:`cpm`.
    method : {"TMM", "RLE", "upperquartile", "none"}
    ref_column : str, optional
        Sample that TMM compares with; that with the most usual upper quartile if not said.
    logratio_trim, sum_trim : float
        Share of the features that TMM leaves out at either end of log ratio and log intensity.

    Returns
    -------
    pandas.Series
        By sample; for ``norm_factors`` of :func:`voom`.
    """
    problems = Problems("calc_norm_factors")
    given = _counts(counts, layer, problems)
    library = _library(lib_size, None, given, problems)
    word = method.lower().replace("_", "")
    if word not in _METHODS:
        problems.add("method", f"is {method!r}", "it is TMM, RLE, upperquartile or none.")
    reference = None
    if ref_column is not None and ref_column not in given.samples:
        _unknown("ref_column", ref_column, "sample", given.samples, problems)
    problems.report()
    if ref_column is not None:
        reference = int(given.samples.get_loc(ref_column))
    found = counts_of.norm_factors(
        given.values, _METHODS[word], library, reference, logratio_trim, sum_trim
    )
    return pd.Series(found, given.samples, name="norm_factors")


# Designs and contrasts


def model_matrix(
    formula: str | pd.DataFrame,
    samples: "pd.DataFrame | AnnData | None" = None,
    strip_prefix: bool = False,
) -> pd.DataFrame:
    """Design of a linear model.

    Parameters
    ----------
    formula : str or pandas.DataFrame
        R-style, such as ``~ 0 + group`` or ``~ group + age``; or the matrix itself, samples by
        coefficients.
    samples : pandas.DataFrame or anndata.AnnData
        One row per sample, its name in the index. With a matrix it may be left out; else the
        rows are put in its order.
    strip_prefix : bool
        Name the column of a level ``basal``, not ``groupbasal`` as R does.

    Returns
    -------
    pandas.DataFrame of float64
        Samples by coefficients; the intercept is called ``(Intercept)``.

    Notes
    -----
    Levels are those that occur, sorted or in the order of a Categorical; where one is left out
    it is the first. Ordered categoricals are coded as others are, unlike in R.
    """
    problems = Problems("model_matrix")
    table = samples.obs if _is_anndata(samples) else samples
    if table is not None and not isinstance(table, pd.DataFrame):
        problems.add("samples", f"is {_kind(table)}", "give a DataFrame, one row per sample.")
        problems.report()
    if isinstance(formula, pd.DataFrame):
        made = design_of.explicit_matrix(formula, problems)
        if table is not None:
            design_of.check_names(table.index, "the sample table", "sample", problems)
            rows = _matched(formula.index, table.index, "the matrix", "the table", problems)
            problems.report()
            made = made.iloc[rows]
    elif not isinstance(formula, str):
        problems.add("formula", f"is {_kind(formula)}", "give a text such as `~ 0 + group`.")
        made = None
    elif table is None:
        problems.add("samples", "is missing", "give the table that the formula names columns of.")
        made = None
    else:
        made = design_of.model_matrix(formula, table, strip_prefix, problems)
    problems.report()
    return made


def make_contrasts(
    *contrasts: str | Mapping[str, str] | Sequence[str],
    levels: pd.DataFrame | EList | Fit | Sequence[str],
    **named: str,
) -> pd.DataFrame:
    """Contrasts of coefficients, from expressions in their names.

    Parameters
    ----------
    *contrasts : str, mapping of str to str, or sequence of str
        Such as ``"luminal - basal"`` or ``"(a + b)/2 - c"``, each its own name; or by name. Names
        other than of letters, digits, dots and colons go in backquotes.
    levels : pandas.DataFrame, EList, Fit, or sequence of str
        Design, or what was made with it, or the names of its columns.
    **named : str
        Expressions by name: ``LvsB="luminal - basal"``.

    Returns
    -------
    pandas.DataFrame of float64
        Coefficients by contrasts.
    """
    problems = Problems("make_contrasts")
    names = _coefficients(levels)
    wanted: list[tuple[str, str]] = []
    for given in contrasts:
        if isinstance(given, str):
            wanted.append((given, given))
        elif isinstance(given, Mapping):
            wanted += [(str(label), text) for label, text in given.items()]
        else:
            wanted += [(text, text) for text in given]
    wanted += named.items()
    labels = [label for label, _ in wanted]
    design_of.check_names(pd.Index(labels, dtype=object), "contrasts", "contrast", problems)
    if not wanted:
        problems.add("contrasts", "are missing", 'give at least one, such as "luminal - basal".')
    columns = {}
    for label, text in wanted:
        try:
            columns[label] = fit_of.make_contrasts({label: text}, names)[0][:, 0]
        except ValueError as error:
            problems.add("contrasts", str(error), "write it in the names of the coefficients.")
    problems.report()
    return pd.DataFrame(columns, index=names)


def non_estimable(design: pd.DataFrame) -> list[str]:
    """Names of the coefficients that a design cannot estimate: earlier columns win.

    Parameters
    ----------
    design : pandas.DataFrame
        Samples by coefficients.
    """
    problems = Problems("non_estimable")
    made = _numbers(design, problems)
    problems.report()
    return fit_of.non_estimable(made.to_numpy(), list(made.columns))


# Weights


def voom(
    counts: "pd.DataFrame | AnnData",
    design: pd.DataFrame | str,
    lib_size: pd.Series | None = None,
    norm_factors: pd.Series | None = None,
    span: float | None = None,
    *,
    allow_fractional: bool = False,
    layer: str | None = None,
    threads: int = 0,
) -> EList:
    """Log counts per million, with weights from the trend of their variance.

    Parameters
    ----------
    counts, layer
        As in :func:`cpm`; filtered.
    design : pandas.DataFrame or str
        Samples by coefficients, see :func:`model_matrix`; rows in any order. For an AnnData also
        a formula in columns of obs.
    lib_size : pandas.Series, optional
        By sample; sums of the counts given if not said.
    norm_factors : pandas.Series, optional
        By sample, from :func:`calc_norm_factors`; library sizes are multiplied by them.
    span : float, optional
        Share of the features in a window of the trend. By default it narrows with their number,
        as in limma since 3.66; 0.5 is that of older ones.
    allow_fractional : bool
        Take counts that are no whole numbers, such as estimated ones.
    threads : int
        0 for all. Changes no bit.

    Returns
    -------
    EList

    Raises
    ------
    ValueError
        Listing all that is wrong.
    """
    problems = Problems("voom")
    given = _counts(counts, layer, problems, whole=not allow_fractional)
    matrix, library, notes = _for_voom(given, design, lib_size, norm_factors, problems)
    _warn(notes)
    made = voom_of.voom(given.values, matrix.to_numpy(), library, span, threads=_threads(threads))
    return _elist(made, given, matrix)


def voom_with_quality_weights(
    counts: "pd.DataFrame | AnnData",
    design: pd.DataFrame | str,
    lib_size: pd.Series | None = None,
    norm_factors: pd.Series | None = None,
    span: float | None = None,
    *,
    prior_n: float = 10.0,
    allow_fractional: bool = False,
    layer: str | None = None,
    threads: int = 0,
) -> EList:
    """Log counts with weights of counts and of samples together.

    Parameters
    ----------
    counts, design, lib_size, norm_factors, span, allow_fractional, layer, threads
        As in :func:`voom`.
    prior_n : float
        As in :func:`array_weights`.

    Returns
    -------
    EList
        With `sample_weights`.
    """
    problems = Problems("voom_with_quality_weights")
    given = _counts(counts, layer, problems, whole=not allow_fractional)
    matrix, library, notes = _for_voom(given, design, lib_size, norm_factors, problems)
    _warn(notes)
    made = quality.voom_with_quality_weights(
        *(given.values, matrix.to_numpy(), library, span),
        prior_n=prior_n,
        threads=_threads(threads),
    )
    return _elist(made, given, matrix)


def array_weights(
    E: "EList | pd.DataFrame | AnnData",
    design: pd.DataFrame | str | None = None,
    weights: pd.DataFrame | pd.Series | None = None,
    method: str = "auto",
    prior_n: float = 10.0,
    max_iterations: int = 50,
    tolerance: float = 1e-5,
    *,
    layer: str | None = None,
) -> pd.Series:
    """Relative quality of samples.

    Parameters
    ----------
    E, design, weights, layer
        As in :func:`lm_fit`.
    method : {"auto", "gene_by_gene", "reml"}
        ``reml`` takes neither weights nor missing values; ``auto`` is ``reml`` where it can be.
    prior_n : float
        Features' worth of information that all samples are alike.
    max_iterations, tolerance
        Of ``reml``.

    Returns
    -------
    pandas.Series
        By sample; geometric mean 1. For ``weights`` of :func:`lm_fit`.
    """
    problems = Problems("array_weights")
    given, matrix, used, notes = _for_fit(E, design, weights, layer, problems)
    _warn(notes)
    found = quality.array_weights(
        given.values, matrix.to_numpy(), used, method, prior_n, max_iterations, tolerance
    )
    return pd.Series(found, given.samples, name="array_weights")


# Fits


def lm_fit(
    E: "EList | pd.DataFrame | AnnData",
    design: pd.DataFrame | str | None = None,
    weights: pd.DataFrame | pd.Series | None = None,
    *,
    layer: str | None = None,
    threads: int = 0,
) -> Fit:
    """Least squares of every feature on one design.

    Parameters
    ----------
    E : EList, pandas.DataFrame or anndata.AnnData
        From :func:`voom`, with its design and weights; or log expression, features by samples,
        NaN where missing.
    design : pandas.DataFrame or str
        As in :func:`voom`; not needed with an EList.
    weights : pandas.DataFrame or pandas.Series, optional
        Of features by samples, of samples, or of features: by name. A weight that is not positive
        means a missing value.
    layer, threads
        As in :func:`voom`.

    Returns
    -------
    condrand.linear.fit.Fit
        ``features`` are the labels of the rows as given, ``names`` those of the coefficients.
        A coefficient not estimable is NaN, with a warning.
    """
    problems = Problems("lm_fit")
    given, matrix, used, notes = _for_fit(E, design, weights, layer, problems)
    _warn(notes)
    names = list(matrix.columns)
    made = fit_of.fit_rows(
        given.values,
        np.ascontiguousarray(matrix.to_numpy()),
        given.features.tolist(),
        names,
        used,
        threads=_threads(threads),
    )
    estimable = np.isfinite(np.diag(made.cov_coefficients))
    absent = np.isnan(made.coefficients[:, estimable])
    partly = np.flatnonzero(absent.any(axis=1) & ~absent.all(axis=1))
    if partly.size:
        _warn(
            [
                f"missing values leave some coefficients of {partly.size:,} features "
                f"undetermined: {quoted(given.features[partly], 3)}"
            ]
        )
    return made


def contrasts_fit(
    fit: Fit,
    contrasts: pd.DataFrame | pd.Series | str | Mapping[str, str] | Sequence[str],
    exact: bool = False,
    *,
    threads: int = 0,
) -> Fit:
    """Contrasts of the coefficients of a fit, in their place.

    Parameters
    ----------
    fit : Fit
        From :func:`lm_fit`; not yet moderated.
    contrasts : pandas.DataFrame
        Coefficients by contrasts, see :func:`make_contrasts`; rows in any order. Or expressions,
        as there.
    exact : bool
        Standard errors from the weights of each feature. By default the correlation of the
        coefficients is that of the design alone, as in limma; for cell means (``~ 0 + group``)
        there is no difference.
    threads : int

    Returns
    -------
    Fit
    """
    problems = Problems("contrasts_fit")
    if isinstance(contrasts, pd.Series):
        contrasts = contrasts.to_frame(str(contrasts.name or "contrast"))
    elif not isinstance(contrasts, pd.DataFrame):
        if isinstance(contrasts, np.ndarray):
            problems.add("contrasts", "are numbers without names", "use make_contrasts.")
            problems.report()
        contrasts = make_contrasts(contrasts, levels=fit)
    design_of.check_names(contrasts.index, "contrasts", "coefficient", problems)
    design_of.check_names(contrasts.columns, "contrasts", "contrast", problems)
    rows = _matched(
        contrasts.index, pd.Index(fit.names), "the contrasts", "the fit", problems, "coefficients"
    )
    problems.report()
    weights = contrasts.iloc[rows].to_numpy(np.float64)
    for j in np.flatnonzero(np.isnan(np.diag(fit.cov_coefficients))):
        for name in contrasts.columns[weights[j] != 0]:
            problems.add(
                f"contrast {str(name)!r}",
                f"the design cannot estimate {fit.names[j]!r}",
                "leave the coefficient out, or the columns it is a combination of.",
            )
    problems.report()
    return fit_of.contrasts_fit(
        fit, weights, list(contrasts.columns), exact, threads=_threads(threads)
    )


def e_bayes(
    fit: Fit,
    proportion: float = 0.01,
    trend: bool | pd.Series = False,
    robust: bool = False,
    stdev_coef_lim: tuple[float, float] = (0.1, 4.0),
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
    legacy: bool = True,
) -> Fit:
    """Moderated t, F and log odds of every feature.

    Parameters
    ----------
    fit : Fit
        From :func:`lm_fit` or :func:`contrasts_fit`.
    proportion : float
        Share of the features expected to have an effect; only the log odds depend on it.
    trend : bool or pandas.Series
        Whether the prior variance depends on the mean of the feature, or on values by feature.
    robust : bool
        Whether features with outlying variances are held back from the prior.
    stdev_coef_lim, winsor_tail_p, legacy
        As in :func:`condrand.linear.moderation.e_bayes`.

    Returns
    -------
    Fit
        For :func:`top_table` and :func:`decide_tests`.
    """
    return moderation.e_bayes(
        fit,
        proportion,
        _trend(trend, fit, "e_bayes"),
        robust,
        stdev_coef_lim,
        winsor_tail_p,
        legacy,
    )


def treat(
    fit: Fit,
    lfc: float | None = None,
    fc: float = 1.2,
    trend: bool | pd.Series = False,
    robust: bool = False,
    winsor_tail_p: tuple[float, float] = (0.05, 0.1),
    legacy: bool = True,
) -> Fit:
    """Moderated t tests against effects no larger than a threshold.

    Parameters
    ----------
    fit : Fit
        From :func:`lm_fit` or :func:`contrasts_fit`.
    lfc : float, optional
        Threshold on the size of the log2 fold change.
    fc : float
        Threshold as a fold change, where `lfc` is not given.
    trend, robust, winsor_tail_p, legacy
        As :func:`e_bayes`.

    Returns
    -------
    Fit
        For :func:`top_treat`.
    """
    trend = _trend(trend, fit, "treat")
    return moderation.treat(fit, lfc, fc, trend, robust, winsor_tail_p, legacy)


def decide_tests(
    fit: Fit,
    method: str = "separate",
    adjust: str = "BH",
    p_value: float = 0.05,
    lfc: float = 0.0,
) -> pd.DataFrame:
    """Calls of every feature and contrast: 1 up, -1 down, 0 neither.

    Parameters
    ----------
    fit : Fit
        After :func:`e_bayes`, or :func:`treat` for the first two methods.
    method : {"separate", "global", "hierarchical", "nestedF"}
    adjust : {"BH", "BY", "holm", "bonferroni", "none"}
    p_value, lfc : float
        A test is called where its adjusted p value is below, and its effect above in size;
        strictly.

    Returns
    -------
    pandas.DataFrame of int8
        Features by contrasts.
    """
    found = calls.decide_tests(fit, method, adjust, p_value, lfc)
    return pd.DataFrame(found, index=pd.Index(fit.features), columns=fit.names)


# Samples, and single factors


def plot_mds(
    values: "EList | pd.DataFrame | AnnData",
    top: int = 500,
    gene_selection: str = "pairwise",
    *,
    layer: str | None = None,
) -> Mds:
    """Coordinates of samples whose distances are their leading log fold changes.

    Parameters
    ----------
    values : EList, pandas.DataFrame or anndata.AnnData
        Log expression, such as ``cpm(counts, log=True)``; features with missing values are left
        out.
    top : int
        Features that make up a distance.
    gene_selection : {"pairwise", "common"}
    layer : str, optional

    Returns
    -------
    condrand.linear.mds.Mds
        Rows of ``coordinates`` are the samples as given; drawing is left to the figures.
    """
    problems = Problems("plot_mds")
    given = _read(values, layer, problems)
    _check_values(given, problems, ("infinite",))
    problems.report()
    return mds_of.plot_mds(given.values, top, gene_selection)


def run_anova(
    expression: "pd.DataFrame | AnnData", groups: Groups, *, layer: str | None = None
) -> pd.DataFrame:
    """One-way analysis of variance of every feature.

    Parameters
    ----------
    expression : pandas.DataFrame or anndata.AnnData
        Log expression, features by samples; NaN where missing.
    groups : pandas.Series, mapping, sequence, or str
        As in :func:`filter_by_cpm`.
    layer : str, optional

    Returns
    -------
    pandas.DataFrame
        Rows as given: ``pval``; ``pval_fdr`` (Benjamini-Hochberg); ``significant_0_05``, whether
        that is at most 0.05; ``F``; ``eta_squared``, the share of the variation between groups;
        ``mean_`` and its name for each group; ``note``, why there is no ordinary F.

    Notes
    -----
    A constant feature has no test and counts as none. With missing values a feature is tested on
    the samples, and the groups, that it has.
    """
    problems = Problems("run_anova")
    given = _read(expression, layer, problems)
    _check_values(given, problems, ("infinite",))
    labels = _groups(groups, given, problems)
    if labels is not None and len(labels.levels) < 2:
        problems.add("groups", f"holds one group, {quoted(labels.levels)}", "give two or more.")
    elif labels is not None and len(labels.levels) == len(labels.codes):
        problems.add(
            "groups",
            "every group has one sample, which leaves no residual degrees of freedom",
            "add replicates, or join groups.",
        )
    problems.report()
    _warn(labels.notes)
    made = anova(given.values, labels.codes)
    adjusted = benjamini_hochberg(made.p_value)
    columns = {
        "pval": made.p_value,
        "pval_fdr": adjusted,
        "significant_0_05": adjusted <= _ALPHA,
        "F": made.F,
        "eta_squared": made.eta_squared,
    }
    columns |= {f"mean_{level}": made.group_means[:, j] for j, level in enumerate(labels.levels)}
    return pd.DataFrame(columns | {"note": made.note.astype(object)}, index=given.features)


# What is read


@dataclass(frozen=True)
class _Given:
    """Values of features by samples, with their names.

    Attributes
    ----------
    values : float64[:, ::1], shape (G, n), or None
        None where they are no numbers.
    features, samples : pandas.Index
    table : pandas.DataFrame or None
        Of the samples, in their order.
    """

    values: np.ndarray | None
    features: pd.Index
    samples: pd.Index
    table: pd.DataFrame | None

    def frame(self, values: np.ndarray) -> pd.DataFrame:
        return pd.DataFrame(values, index=self.features, columns=self.samples)


@dataclass(frozen=True)
class _Labels:
    """Groups of the samples: levels in order, the place among them of each sample's."""

    codes: np.ndarray
    levels: list
    notes: list[str]


def _read(data: object, layer: str | None, problems: Problems) -> _Given:
    """Values and names; raises at once where there is no table to speak of."""
    table = None
    if isinstance(data, EList):
        data = data.E
    if _is_anndata(data):
        data = data.to_memory() if data.isbacked else data
        if layer is not None and layer not in data.layers:
            _unknown("layer", layer, "layer", list(data.layers), problems)
            problems.report()
        matrix = data.X if layer is None else data.layers[layer]
        if matrix is None:
            problems.add("X", "is empty", "name a `layer`.")
            problems.report()
        matrix = matrix.toarray() if sp.issparse(matrix) else np.asarray(matrix)
        values = np.ascontiguousarray(matrix.T, np.float64)
        features, samples, table = data.var_names, data.obs_names, data.obs
    elif isinstance(data, pd.DataFrame):
        if layer is not None:
            problems.add("layer", f"is {layer!r}", "a DataFrame has none: leave it out.")
        features, samples = data.index, data.columns
        text = [
            name
            for name, dtype in zip(samples, data.dtypes, strict=True)
            if not pd.api.types.is_numeric_dtype(dtype)
        ]
        values = None
        if text:
            problems.add(
                "values",
                f"columns are not numbers: {quoted(text)}",
                "columns are samples: put names of features in the index, drop annotations.",
            )
        else:
            values = np.ascontiguousarray(data.to_numpy(np.float64, na_value=np.nan))
    else:
        problems.add(
            "values",
            f"are {_kind(data)}, which has no names",
            "give a DataFrame of features x samples, or an AnnData of samples x features.",
        )
        problems.report()
    design_of.check_names(features, "values", "feature", problems)
    design_of.check_names(samples, "values", "sample", problems)
    if not len(features) or not len(samples):
        problems.add(
            "values",
            f"there are {len(features):,} features and {len(samples):,} samples",
            "give at least one of each; does the filter keep any?",
        )
        values = None
    return _Given(values, features, samples, table)


def _counts(data: object, layer: str | None, problems: Problems, *, whole: bool = False) -> _Given:
    given = _read(data, layer, problems)
    kinds = ("missing", "infinite", "negative") + (("fractional",) if whole else ())
    _check_values(given, problems, kinds)
    return given


_MENDS = {
    "missing": "leave out these features (counts.dropna()), or fill in what is known to be 0.",
    "infinite": "correct them; the logarithm of 0? give counts, or NaN where missing.",
    "negative": "give counts. Are these log values? Then lm_fit takes them as they are.",
    "fractional": "give counts, not normalized values; or say allow_fractional=True for estimated "
    "counts.",
}


def _check_values(given: _Given, problems: Problems, kinds: Sequence[str]) -> None:
    """Note values of these kinds; for counts, where missing is one, empty libraries too."""
    values = given.values
    if values is None:
        return
    finite = np.isfinite(values)
    for kind in kinds:
        if kind in ("missing", "infinite"):
            if finite.all():
                continue
            bad = np.isnan(values) if kind == "missing" else np.isinf(values)
        elif kind == "negative":
            bad = finite & (values < 0)
        else:
            bad = finite & (values != np.floor(values))
        if not bad.any():
            continue
        rows, columns = np.nonzero(bad)
        places = [
            f"{given.features[i]!s} in {given.samples[j]!s}: {values[i, j]:g}"
            for i, j in zip(rows[:3], columns[:3], strict=True)
        ]
        problems.add(
            "values", f"{rows.size:,} values are {kind} ({'; '.join(places)})", _MENDS[kind]
        )
    if "missing" in kinds:
        empty = ~np.any(values != 0, axis=0)
        if empty.any():
            problems.add(
                "values",
                f"samples without a count: {quoted(given.samples[empty])}",
                "leave them out, of counts and table.",
            )


def _groups(groups: object, given: _Given, problems: Problems) -> _Labels | None:
    before = len(problems.found)
    n = len(given.samples)
    if isinstance(groups, str):
        if given.table is None:
            problems.add(
                "groups",
                f"is {groups!r}, but a DataFrame has no obs",
                "give the column itself: samples[...].",
            )
            return None
        if groups not in given.table:
            _unknown("groups", groups, "column of obs", list(given.table.columns), problems)
            return None
        column = given.table[groups]
    else:
        column = pd.Series(groups) if isinstance(groups, Mapping) else groups
        if isinstance(column, pd.DataFrame):
            problems.add("groups", "is a DataFrame", "give one column of it.")
            return None
        if isinstance(column, pd.Series):
            design_of.check_names(column.index, "groups", "sample", problems)
            rows = _matched(column.index, given.samples, "groups", "values", problems)
            if rows is None:
                return None
            column = column.iloc[rows]
        else:
            column = pd.Series(groups)
            if len(column) != n:
                problems.add(
                    "groups",
                    f"holds {len(column)} labels for {n} samples",
                    "give one per sample, or a Series by name of the sample.",
                )
                return None
    missing = column.isna().to_numpy()
    if missing.any():
        problems.add(
            "groups",
            f"samples without a group: {quoted(given.samples[missing])}",
            "name their groups, or leave these samples out.",
        )
    if len(problems.found) > before:
        return None
    if not isinstance(column.dtype, pd.CategoricalDtype):
        column = column.astype("category")
    column = column.cat.remove_unused_categories()
    codes, levels = column.cat.codes.to_numpy(np.int64), list(column.cat.categories)
    single = [level for level, size in zip(levels, np.bincount(codes), strict=True) if size == 1]
    notes = [f"groups of one sample: {quoted(single, 20)}"] if single else []
    return _Labels(codes, levels, notes)


def _numbers(design: object, problems: Problems) -> pd.DataFrame | None:
    if isinstance(design, pd.DataFrame):
        return design_of.explicit_matrix(design, problems)
    problems.add(
        "design",
        f"is {_kind(design)}",
        "give a DataFrame of samples x coefficients, from model_matrix.",
    )
    return None


def _aligned_design(
    design: pd.DataFrame | str, given: _Given, problems: Problems
) -> pd.DataFrame | None:
    """The design in the order of the samples, or None and problems."""
    if isinstance(design, str) and given.table is not None:
        return design_of.model_matrix(design, given.table, False, problems)
    if isinstance(design, str):
        problems.add(
            "design",
            f"is the formula {design!r}, but a DataFrame has no obs",
            "give model_matrix(formula, samples).",
        )
        return None
    made = _numbers(design, problems)
    if not isinstance(design, pd.DataFrame):
        return None
    rows = _matched(design.index, given.samples, "the design", "the values", problems)
    return None if made is None or rows is None else made.iloc[rows]


def _library(
    lib_size: pd.Series | None,
    norm_factors: pd.Series | None,
    given: _Given,
    problems: Problems,
) -> np.ndarray | None:
    library = _per_sample(lib_size, "lib_size", given, problems)
    factors = _per_sample(norm_factors, "norm_factors", given, problems)
    if factors is None or given.values is None:
        return library
    return (given.values.sum(axis=0) if library is None else library) * factors


def _per_sample(
    values: pd.Series | None, key: str, given: _Given, problems: Problems
) -> np.ndarray | None:
    if values is None:
        return None
    if not isinstance(values, pd.Series) or not pd.api.types.is_numeric_dtype(values):
        problems.add(key, f"is {_kind(values)}", "give a Series of numbers by name of the sample.")
        return None
    design_of.check_names(values.index, key, "sample", problems)
    rows = _matched(values.index, given.samples, key, "the values", problems)
    if rows is None:
        return None
    found = values.to_numpy(np.float64, na_value=np.nan)[rows]
    bad = ~(np.isfinite(found) & (found > 0))
    if bad.any():
        problems.add(
            key,
            f"samples without a positive number: {quoted(given.samples[bad])}",
            "correct them, or leave these samples out.",
        )
    return found


def _weights(weights: object, given: _Given, problems: Problems) -> np.ndarray | None:
    if weights is None:
        return None
    by_sample = isinstance(weights, pd.Series) and set(weights.index) == set(given.samples)
    if isinstance(weights, pd.Series):
        names, what = (given.samples, "samples") if by_sample else (given.features, "features")
        if not by_sample and set(weights.index) & set(given.samples):
            names, what = given.samples, "samples"
        design_of.check_names(weights.index, "weights", what.rstrip("s"), problems)
        rows = _matched(weights.index, names, "weights", "the values", problems, what)
        if rows is None:
            return None
        found = weights.to_numpy(np.float64, na_value=np.nan)[rows]
        return found[None, :] if by_sample else found[:, None]
    if not isinstance(weights, pd.DataFrame):
        problems.add(
            "weights",
            f"are {_kind(weights)}, which has no names",
            "give a DataFrame of features x samples, or a Series by sample or by feature.",
        )
        return None
    design_of.check_names(weights.index, "weights", "feature", problems)
    design_of.check_names(weights.columns, "weights", "sample", problems)
    rows = _matched(weights.index, given.features, "weights", "the values", problems, "features")
    columns = _matched(weights.columns, given.samples, "weights", "the values", problems)
    if rows is None or columns is None:
        return None
    return weights.to_numpy(np.float64, na_value=np.nan)[np.ix_(rows, columns)]


def _matched(
    there: pd.Index,
    wanted: pd.Index,
    where: str,
    other: str,
    problems: Problems,
    what: str = "samples",
) -> np.ndarray | None:
    """Positions in `there` of the names in `wanted`, or None and a problem if they differ."""
    if there.has_duplicates or wanted.has_duplicates or there.hasnans or wanted.hasnans:
        return None
    only_there, only_wanted = there[~there.isin(wanted)], wanted[~wanted.isin(there)]
    if not len(only_there) and not len(only_wanted):
        return there.get_indexer(wanted)
    says = [
        f"{len(names)} {what} are in {place} only: {quoted(names, 12)}"
        for names, place in ((only_there, where), (only_wanted, other))
        if len(names)
    ]
    mend = f"give the same {what} in both, in any order."
    if {str(name) for name in there} == {str(name) for name in wanted}:
        mend = "as text they agree: convert one of them with `.astype(str)`."
    elif isinstance(there, pd.RangeIndex):
        mend = f"names are missing: set the names of the {what} as the index."
    problems.add(where, "; ".join(says), mend)
    return None


def _for_voom(
    given: _Given,
    design: pd.DataFrame | str,
    lib_size: pd.Series | None,
    norm_factors: pd.Series | None,
    problems: Problems,
) -> tuple[pd.DataFrame, np.ndarray | None, list[str]]:
    """Design, libraries and what to warn of, all checked."""
    if len(given.features) == 1:
        problems.add("values", "there is one feature", "a trend needs many: give two or more.")
    matrix = _aligned_design(design, given, problems)
    notes = design_of.replication(matrix, problems) if matrix is not None else []
    library = _library(lib_size, norm_factors, given, problems)
    problems.report()
    return matrix, library, notes


def _for_fit(
    E: object, design: object, weights: object, layer: str | None, problems: Problems
) -> tuple[_Given, pd.DataFrame, np.ndarray | None, list[str]]:
    """Values, design, weights and what to warn of, all checked."""
    given = _read(E, layer, problems)
    _check_values(given, problems, ("infinite",))
    known = isinstance(E, EList) and design is None
    if isinstance(E, EList):
        design = E.design if design is None else design
        weights = E.weights if weights is None else weights
    matrix, notes = None, []
    if design is None:
        problems.add("design", "is missing", "give model_matrix(formula, samples).")
    else:
        matrix = _aligned_design(design, given, problems)
    if matrix is not None:
        notes = design_of.replication(matrix, problems)
    used = _weights(weights, given, problems)
    problems.report()
    # Whoever has an EList was told by voom.
    return given, matrix, used, [] if known else notes


def _elist(made: voom_of.Voom, given: _Given, matrix: pd.DataFrame) -> EList:
    quality_of = made.sample_weights
    return EList(
        E=given.frame(made.E),
        weights=given.frame(made.weights),
        design=matrix,
        lib_size=pd.Series(made.lib_size, given.samples, name="lib_size"),
        sample_weights=None
        if quality_of is None
        else pd.Series(quality_of, given.samples, name="sample_weights"),
        trend=made,
    )


def _coefficients(levels: object) -> list[str]:
    if isinstance(levels, EList):
        levels = levels.design
    if isinstance(levels, pd.DataFrame):
        return [str(name) for name in levels.columns]
    if isinstance(levels, Fit):
        return list(levels.names)
    return [str(name) for name in ([levels] if isinstance(levels, str) else levels)]


def _trend(trend: object, fit: Fit, source: str) -> bool | np.ndarray:
    if isinstance(trend, bool | np.bool_):
        return bool(trend)
    problems = Problems(source)
    if not isinstance(trend, pd.Series):
        problems.add("trend", f"is {_kind(trend)}", "give True, or a Series by feature.")
        problems.report()
    design_of.check_names(trend.index, "trend", "feature", problems)
    wanted = pd.Index(fit.features)
    rows = _matched(trend.index, wanted, "trend", "the fit", problems, "features")
    problems.report()
    return trend.to_numpy(np.float64, na_value=np.nan)[rows]


def _unknown(key: str, word: object, what: str, there: Sequence, problems: Problems) -> None:
    problems.add(
        key,
        f"there is no {what} {str(word)!r}",
        f"{nearest(str(word), there)}There are: {listed(there, 20)}.",
    )


def _is_anndata(data: object) -> bool:
    return hasattr(data, "obs_names") and hasattr(data, "var_names")


def _kind(value: object) -> str:
    return f"a {type(value).__name__}"


def _threads(threads: int) -> int:
    return threads if threads > 0 else len(os.sched_getaffinity(0))


def _warn(notes: Sequence[str]) -> None:
    for text in notes:
        # At the line that called the function which calls this one.
        warnings.warn(text, stacklevel=3)
