"""Tests of genes: the union of the cells of a gene's guides against all other cells."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from condrand.api.empirical import ntc_empirical
from condrand.api.inputs import CRTInputs
from condrand.api.propensities import fit_propensity_logistic
from condrand.api.resampling import (
    STAT_NAMES,
    Model,
    Options,
    Tests,
    check_control,
    gene_of,
    statistic_of,
)
from condrand.nulls.leave_one_out import compute_null_pvals_from_null_stats
from condrand.units import NTC_LABELS

# Genes whose propensities are held at once.
_TOGETHER = 64


@dataclass(frozen=True)
class CRTGeneResult:
    """What is found for one gene.

    Attributes
    ----------
    gene : str
    pvals : float64, shape (n_programs,)
        Of the skew-normal or refined where that was asked for, else `pvals_raw`. NaN where the
        gene could not be tested.
    betas : float64, shape (n_programs,)
        Effects; the rank-biserial correlation for rank tests.
    n_treated : int
    pvals_sn : float64, shape (n_programs,), or None
    skew_params : float64, shape (n_programs, 3), or None
        Location, scale and shape (xi, omega, alpha) of the null, standardized by its own mean
        and standard deviation.
    pvals_raw : float64, shape (n_programs,)
        Empirical.
    p_source : object array of str, shape (n_programs,)
        Where `pvals` come from: ``empirical``, ``skew_normal``, ``importance``, ``saddlepoint``,
        or empty.
    note : str
        Why the gene could not be tested; else empty.
    """

    gene: str
    pvals: np.ndarray
    betas: np.ndarray
    n_treated: int
    pvals_sn: np.ndarray | None
    skew_params: np.ndarray | None
    pvals_raw: np.ndarray
    p_source: np.ndarray
    note: str = ""


def run_one_gene_union_crt(
    gene: str,
    inputs: CRTInputs,
    B: int = 1023,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    null_method: str = "crt",
    null_kwargs: Options = None,
    calibrate_skew_normal: bool = False,
    skew_normal_side_code: int = 0,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
    control: str = "complement",
    ntc_labels: Iterable[str] = NTC_LABELS,
    calibration: str | None = None,
) -> CRTGeneResult:
    """Test one gene.

    Parameters
    ----------
    gene : str
    inputs : CRTInputs
        From :func:`condrand.api.prepare_crt_inputs`.
    B : int
        Resamples.
    base_seed : int
        Random numbers depend on it and on the name of the gene, not on the other genes.
    propensity_model : callable, optional
        ``model(C, y01)`` gives p, or a tuple that starts with p: the probability of treatment
        of every cell.
    resampling_method : {"bernoulli_index", "stratified_perm"}
    resampling_kwargs : mapping, optional
        Of ``stratified_perm``: n_bins, stratify_by_batch (True), batch_key, min_stratum_size,
        burden_key, n_burden_bins, burden_bin_method, burden_clip_quantiles; see
        :func:`condrand.samplers.strata.make_strata`. ``burden_key`` is a numeric covariate, or
        ``"log1p_non_ntc_guides_per_cell"``: the guides of each cell are then counted, for sets of
        NTC guides its NTC guides, for others those that are none (``ntc_labels`` here goes before
        the parameter of that name). The gene's own count too: see Notes.
    null_method : {"crt", "ntc_empirical"}
        ``ntc_empirical`` compares the OLS coefficient with those of sets of control guides; see
        :func:`condrand.api.run_all_genes_union_crt`.
    null_kwargs : mapping, optional
        Of ``ntc_empirical``.
    calibrate_skew_normal : bool
        Whether p values are those of a skew-normal fitted to the resamples, where its diagnostics
        pass.
    skew_normal_side_code : {0, 1, -1}
        Two-sided, right or left tail, of either kind of p value.
    test_stat : str
        ``ols`` (or ``beta``), ``ols_t`` (studentized, the workflow's default), ``rank`` (or
        ``utest``, ``wilcoxon``, ``mannwhitney``, ``mannwhitneyu``), ``welch``.
    test_stat_kwargs : mapping, optional
        ``use``: ``"clr"`` or ``"usage"``. ``residualize`` (False): rank and welch take it less
        its regression on the covariates, as the workflow does by default. Without, covariates
        enter through the resampling alone: valid, but conservative where they explain much of the
        outcome (in simulations where they explain 3/4 of it, power .10 in place of .84).
        ``rank_method`` (``"average"``) and ``rank_dtype`` are accepted; ranks are exact.
    control : {"complement", "ntc", "auto"}
        Compare treated cells with all others, or with the cells that carry NTC guides and no
        others, where every regression has an intercept; ``auto`` chooses by the guides per cell
        (:func:`condrand.normalize.choose_control`).
    ntc_labels : iterable of str
        Genes that stand for NTC guides.
    calibration : {"adaptive", "empirical", "skew_normal", "saddlepoint", "importance"}, optional
        As in the workflow, where ``adaptive`` is the default: p values of 0.01 and less are found
        anew by importance resampling or, without a linear form, by 102,300 plain resamples. Here
        the default is what `calibrate_skew_normal` says.

    Returns
    -------
    CRTGeneResult
        With p values of NaN and a note if no cell or every cell is treated, covariates determine
        the treatment, or the propensity does not converge.

    Raises
    ------
    KeyError
        If the gene has no guide.
    ValueError
        If an option is unknown or cannot be honoured.

    Notes
    -----
    A gene's own guides are part of the guide burden. Given how many guides a cell carries, which
    genes they hit says nothing of how readily it takes up guides (splitting of a Poisson count,
    whatever its mean). Given the other guides alone, a carrier is a cell of higher uptake: tests
    of null genes come out significant. So all carriers of NTC guides, taken for a gene, cannot be
    tested given the number of their NTC guides.
    """
    gene_of(inputs, gene)
    # Bins of the controls come from all genes, so that a gene's p value is that of their run.
    genes = sorted(inputs.gene_to_cols) if null_method == "ntc_empirical" else [gene]
    results = run_all_genes_union_crt(
        inputs,
        genes,
        B,
        n_jobs=1,
        base_seed=base_seed,
        propensity_model=propensity_model,
        resampling_method=resampling_method,
        resampling_kwargs=resampling_kwargs,
        null_method=null_method,
        null_kwargs=null_kwargs,
        calibrate_skew_normal=calibrate_skew_normal,
        skew_normal_side_code=skew_normal_side_code,
        test_stat=test_stat,
        test_stat_kwargs=test_stat_kwargs,
        control=control,
        ntc_labels=ntc_labels,
        calibration=calibration,
    )["results"]
    return results[genes.index(gene)]


def run_all_genes_union_crt(
    inputs: CRTInputs,
    genes: Iterable[str] | None = None,
    B: int = 1023,
    n_jobs: int = 8,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
    backend: str = "loky",
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    null_method: str = "crt",
    null_kwargs: Options = None,
    qq_crossfit: bool = False,
    calibrate_skew_normal: bool = False,
    skew_normal_side_code: int = 0,
    return_skew_normal: bool = False,
    return_raw_pvals: bool = False,
    return_format: str = "dict",
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
    control: str = "complement",
    ntc_labels: Iterable[str] = NTC_LABELS,
    calibration: str | None = None,
) -> dict[str, Any] | tuple[Any, ...]:
    """Test many genes; parameters not named here as in :func:`run_one_gene_union_crt`.

    Parameters
    ----------
    inputs : CRTInputs
    genes : iterable of str, optional
        All by default, sorted, NTC labels included.
    n_jobs : int
        Threads; -1 for all processors. Changes no bit.
    backend : str
        Accepted and ignored: threads run kernels that do not hold Python's lock.
    null_kwargs : mapping, optional
        Of ``null_method="ntc_empirical"``: ntc_labels (before the parameter of that name),
        guides_per_unit (6), n_ntc_units (5000),
        matching (see :class:`condrand.nulls.ntc_empirical.Matching`), batch_mode (``"meta"`` or
        ``"pooled"``), batch_key, combine_method (``"fisher"`` or ``"stouffer"``), min_treated and
        min_control (10), scale (``"studentized"`` or ``"raw"``), qq_crossfit_frac_A (0.5),
        qq_crossfit_seed (``base_seed + 91``), pbar_propensity_model.
    qq_crossfit : bool
        With ``ntc_empirical``: compare genes, and control guides held out, with the other
        control guides.
    return_skew_normal, return_raw_pvals : bool
        Return these tables too; with `calibrate_skew_normal`.
    return_format : {"dict", "tuple"}

    Returns
    -------
    dict
        ``pvals_df``, ``betas_df`` (genes x programs), ``treated_df`` (Series
        ``n_union_positive_cells``), ``results`` (list of :class:`CRTGeneResult`), ``stat_name``,
        ``notes`` (Series: why a gene was not tested); ``stats_df`` (``betas_df``) for rank tests;
        ``p_source_df`` where p values are not all empirical; ``pvals_raw_df`` where asked for;
        ``pvals_skew_df`` and ``skew_params`` (n_genes, n_programs, 3) where asked for;
        ``null_method``, ``ntc_matching_info``, ``ntc_crossfit`` of ``ntc_empirical``.
    tuple
        pvals_df, betas_df, treated_df, results[, pvals_raw_df][, pvals_skew_df, skew_params].
    """
    if return_format not in ("dict", "tuple"):
        raise ValueError(f"return_format {return_format!r} is neither 'dict' nor 'tuple'")
    if (return_skew_normal or return_raw_pvals) and not calibrate_skew_normal:
        raise ValueError("return_skew_normal and return_raw_pvals need calibrate_skew_normal=True")
    if calibration is None:
        calibration = "skew_normal" if calibrate_skew_normal else "empirical"
    elif calibrate_skew_normal and calibration != "skew_normal":
        raise ValueError(f"calibrate_skew_normal=True and calibration={calibration!r}: give one")
    genes = sorted(inputs.gene_to_cols) if genes is None else list(genes)
    extra: dict[str, Any] = {"stat_name": STAT_NAMES[statistic_of(test_stat)]}
    if null_method == "ntc_empirical":
        _check_empirical(test_stat, calibration, control)
        options = {"ntc_labels": ntc_labels, **(null_kwargs or {})}
        found = ntc_empirical(inputs, genes, base_seed, options, qq_crossfit)
        results = _empirical_results(genes, found)
        extra |= {"null_method": null_method, "ntc_matching_info": found.matching}
        if qq_crossfit:
            extra["ntc_crossfit"] = found.crossfit
    else:
        if null_method != "crt":
            raise ValueError(f"null_method {null_method!r} is neither 'crt' nor 'ntc_empirical'")
        if null_kwargs:
            raise ValueError("null_method='crt' takes no null_kwargs")
        if qq_crossfit:
            raise ValueError("qq_crossfit needs null_method='ntc_empirical'")
        tests = Tests(
            inputs,
            propensity_model,
            resampling_method,
            resampling_kwargs,
            test_stat,
            test_stat_kwargs,
            control,
            ntc_labels,
        )
        results = []
        for first in range(0, len(genes), _TOGETHER):
            results += _results(
                tests,
                genes[first : first + _TOGETHER],
                B,
                base_seed,
                n_jobs,
                calibration,
                skew_normal_side_code,
            )

    def table(name: str) -> pd.DataFrame:
        rows = [getattr(result, name) for result in results]
        shape = (len(genes), len(inputs.program_names))
        return pd.DataFrame(np.reshape(rows, shape), index=genes, columns=inputs.program_names)

    sizes = np.array([result.n_treated for result in results], np.int64)
    out: dict[str, Any] = {
        "pvals_df": table("pvals"),
        "betas_df": table("betas"),
        "treated_df": pd.Series(sizes, index=genes, name="n_union_positive_cells"),
        "results": results,
    }
    if return_raw_pvals:
        out["pvals_raw_df"] = table("pvals_raw")
    if return_skew_normal:
        out["pvals_skew_df"] = table("pvals_sn")
        shape = (len(genes), len(inputs.program_names), 3)
        out["skew_params"] = np.reshape([result.skew_params for result in results], shape)
    if return_format == "tuple":
        return tuple(out.values())
    notes = [result.note for result in results]
    out |= extra | {"notes": pd.Series(notes, index=genes, name="note", dtype=object)}
    if extra["stat_name"] == "rank_biserial":
        out["stats_df"] = out["betas_df"]
    if calibration != "empirical":
        out["p_source_df"] = table("p_source")
    return out


def compute_gene_null_pvals(
    gene: str,
    inputs: CRTInputs,
    B: int = 1023,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
    resampling_method: str = "bernoulli_index",
    resampling_kwargs: Options = None,
    side_code: int = 0,
    test_stat: str = "ols",
    test_stat_kwargs: Options = None,
) -> np.ndarray:
    """P values of a gene's resamples, each taken as observed and compared with the others.

    Parameters
    ----------
    gene, inputs, B, base_seed, propensity_model, resampling_method, resampling_kwargs, test_stat,
    test_stat_kwargs
        As in :func:`run_one_gene_union_crt`; the resamples are those of that test.
    side_code : {0, 1, -1}
        Two-sided, right or left tail.

    Returns
    -------
    float64, shape (B, n_programs)

    Raises
    ------
    ValueError
        If the gene cannot be tested.
    """
    tests = Tests(
        inputs, propensity_model, resampling_method, resampling_kwargs, test_stat, test_stat_kwargs
    )
    null = tests.null(gene_of(inputs, gene), B, base_seed)
    return compute_null_pvals_from_null_stats(null, side_code)


def crt_null_stats_for_test(
    gene: str,
    program_index: int,
    inputs: CRTInputs,
    B: int = 1023,
    base_seed: int = 123,
    propensity_model: Model = fit_propensity_logistic,
) -> np.ndarray:
    """OLS coefficients of a gene's Bernoulli resamples for one program.

    Parameters
    ----------
    gene, inputs, B, base_seed, propensity_model
        As in :func:`run_one_gene_union_crt`; the resamples are those of that test.
    program_index : int
        Counted from 0.

    Returns
    -------
    float64, shape (B,)
    """
    null = Tests(inputs, propensity_model).null(gene_of(inputs, gene), B, base_seed)
    return null[:, program_index].copy()


def _results(
    tests: Tests,
    genes: list[str],
    B: int,
    seed: int,
    n_jobs: int,
    calibration: str,
    side_code: int,
) -> list[CRTGeneResult]:
    batch = tests.prepare([gene_of(tests.inputs, gene) for gene in genes])
    is_fitted = calibration == "skew_normal"
    rows = tests.table(batch, B, seed, n_jobs, side_code, calibration)
    shape = (len(genes), len(tests.inputs.program_names))
    columns = {name: rows[name].to_numpy().reshape(shape) for name in rows}
    with np.errstate(divide="ignore", invalid="ignore"):
        location = (columns["sn_location"] - columns["null_mean"]) / columns["null_sd"]
        parameters = [location, columns["sn_scale"] / columns["null_sd"], columns["sn_shape"]]
    skew = np.stack(parameters, axis=-1)
    return [
        CRTGeneResult(
            gene=gene,
            pvals=columns["p_value"][g],
            betas=columns["effect"][g],
            n_treated=int(columns["n_target"][g, 0]),
            pvals_sn=columns["p_value"][g] if is_fitted else None,
            skew_params=skew[g] if is_fitted else None,
            pvals_raw=columns["p_empirical"][g],
            p_source=columns["p_source"][g],
            note=batch.notes[g],
        )
        for g, gene in enumerate(genes)
    ]


def _empirical_results(genes: list[str], found: Any) -> list[CRTGeneResult]:
    return [
        CRTGeneResult(
            gene=gene,
            pvals=p,
            betas=beta,
            n_treated=int(n),
            pvals_sn=None,
            skew_params=None,
            pvals_raw=p,
            p_source=np.where(np.isnan(p), "", "ntc_empirical").astype(object),
            note="no p value: too few cells, or no control to compare with"
            if np.isnan(p).all()
            else "",
        )
        for gene, p, beta, n in zip(genes, found.p, found.beta, found.n1, strict=True)
    ]


def _check_empirical(test_stat: str, calibration: str, control: str) -> None:
    if statistic_of(test_stat) not in ("ols", "ols_t"):
        raise ValueError("null_method='ntc_empirical' compares OLS coefficients: test_stat='ols'")
    if calibration != "empirical":
        raise ValueError(
            "null_method='ntc_empirical' has no resamples to fit a skew-normal to, or to refine"
        )
    check_control(control)
    if control == "ntc":
        raise ValueError("null_method='ntc_empirical' compares with all other cells")
