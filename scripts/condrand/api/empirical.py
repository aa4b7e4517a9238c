"""The empirical null from control guides, over the inputs of a notebook."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from condrand.api.inputs import CRTInputs, carriers, columns_of, outcome_of
from condrand.api.propensities import given_propensity
from condrand.api.resampling import Options, batches_of, refuse_unknown
from condrand.engines.ntc_null import (
    UnitsTested,
    compute_null,
    draw_halves,
    draw_pseudo_genes,
)
from condrand.nulls.ntc_empirical import (
    POOLED,
    Against,
    Units,
    cells_of_units,
    compute_ntc_empirical_pvals_crossfit,
    compute_ntc_empirical_pvals_gene_agg_crossfit,
    empirical_pvals_by_batch,
    empirical_pvals_vs_ntc,
)
from condrand.units import NTC_LABELS, TARGET

_DEFAULTS: Mapping[str, Any] = {
    "ntc_labels": NTC_LABELS,
    "guides_per_unit": 6,
    "n_ntc_units": 5000,
    "matching": None,
    "batch_mode": "meta",
    "batch_key": None,
    "combine_method": "fisher",
    "min_treated": 10,
    "min_control": 10,
    "scale": "studentized",
    "qq_crossfit_frac_A": 0.5,
    "qq_crossfit_seed": None,
    "pbar_propensity_model": None,
}


@dataclass(frozen=True)
class Empirical:
    """Genes against controls.

    Attributes
    ----------
    p, beta : float64, shape (n_genes, n_programs)
    n1 : int64, shape (n_genes,)
    matching : dict, or list of dict (one per batch)
    crossfit : dict or None
    """

    p: np.ndarray
    beta: np.ndarray
    n1: np.ndarray
    matching: Any
    crossfit: dict[str, Any] | None


def ntc_empirical(
    inputs: CRTInputs,
    genes: list[str],
    base_seed: int,
    null_kwargs: Options = None,
    qq_crossfit: bool = False,
) -> Empirical:
    """Compare genes with pseudo-genes of control guides.

    Parameters
    ----------
    inputs : CRTInputs
    genes : list of str
        Bins of the matching end at their quantiles.
    base_seed : int
    null_kwargs : mapping, optional
        See :func:`condrand.api.run_all_genes_union_crt`.
    qq_crossfit : bool
        Compare genes, and pseudo-genes of one half of the controls, with those of the other.
    """
    options = dict(null_kwargs or {})
    refuse_unknown(options, _DEFAULTS, "null_kwargs")
    options = {**_DEFAULTS, **options}
    if options["batch_mode"] not in ("meta", POOLED):
        raise ValueError(f"batch_mode {options['batch_mode']!r} is neither 'meta' nor 'pooled'")
    names = ("matching", "scale", "combine_method", "min_treated", "min_control")
    rule = Against(**{name: options[name] for name in names})
    cells_of_guide = _controls(inputs, options["ntc_labels"])
    pool = sorted(cells_of_guide)
    each = (options["guides_per_unit"], options["n_ntc_units"], base_seed)
    draws = draw_pseudo_genes(pool, *each)
    if qq_crossfit:
        split = (options["qq_crossfit_frac_A"], options["qq_crossfit_seed"])
        halves = draw_halves(pool, *each, *split)
        if not halves:
            raise ValueError(f"a cross-fit needs 2 NTC guides in either half, of {len(pool)}")
        draws |= halves
    treated = [carriers(inputs, inputs.gene_to_cols[gene]) for gene in genes]
    guides = [[inputs.guide_names[c] for c in inputs.gene_to_cols[gene]] for gene in genes]
    tested = UnitsTested([TARGET] * len(genes), genes, guides, treated)
    outcome, batch_names = outcome_of(inputs, "ols"), None
    if options["batch_mode"] != POOLED:
        batch_names, codes = batches_of(inputs, options["batch_key"])
        outcome = replace(outcome, batch=codes, batch_levels=[str(name) for name in batch_names])
    model, use_pbar = options["pbar_propensity_model"], rule.matching.use_pbar
    null = compute_null(
        outcome, tested, cells_of_guide, draws, options["batch_mode"], use_pbar and model is None
    )
    sets: dict[str, Any] = dict(null.sets)
    if use_pbar and model is not None:
        units = {name: list(cells_of_units(of, cells_of_guide)) for name, of in draws.items()}
        for name, cells in {"tested": treated, **units}.items():
            pbar = np.array([_mean_logit(inputs, model, each) for each in cells])
            sets[name] = {place: u._replace(pbar=pbar) for place, u in sets[name].items()}
    if batch_names is None:
        sets = {name: of[POOLED] for name, of in sets.items()}
        real, ntc = sets["tested"], sets["ntc"]
        p, matching = empirical_pvals_vs_ntc(
            *(real.beta, real.n1, real.d),
            *(ntc.beta, ntc.n1, ntc.d),
            *(real.pbar, ntc.pbar, rule.matching, rule.scale),
        )
    else:
        p, info = empirical_pvals_by_batch(sets["tested"], sets["ntc"], rule)
        matching = [{"batch": batch, **(of or {})} for batch, of in info["matching"].items()]
    crossfit = None
    if qq_crossfit:
        split_sets: tuple[Units | dict[str, Units], ...]
        split_sets = (sets["tested"], sets["A"], sets["B"])
        crossfit = compute_ntc_empirical_pvals_gene_agg_crossfit(*split_sets, rule)
        crossfit |= compute_ntc_empirical_pvals_crossfit(*split_sets, rule)
    return Empirical(p, null.tested.beta, null.tested.n1, matching, crossfit)


def _controls(inputs: CRTInputs, labels: Any) -> dict[str, np.ndarray]:
    """Cells of each control guide that any cell carries."""
    cells = {inputs.guide_names[c]: carriers(inputs, [c]) for c in columns_of(inputs, labels)}
    return {guide: found for guide, found in cells.items() if found.size}


def _mean_logit(inputs: CRTInputs, model: Any, cells: np.ndarray) -> float:
    if not 0 < cells.size < inputs.n_cells:
        return np.nan
    p = given_propensity(inputs.C, model, cells)
    return float(np.mean(np.log(p) - np.log1p(-p)))
