"""The null of control guides: targets against pseudo-genes made of NTC guides.

No model of the treatment enters and nothing is resampled: the OLS coefficient of a target is
compared with those of thousands of sets of NTC guides that treat about as many cells as
precisely (:mod:`condrand.nulls.ntc_empirical`), in every batch, or in all cells.
"""

import logging
import math
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from condrand.covariates import full_rank, orthonormal_basis, standardize
from condrand.engines.crt_steps import treated_of
from condrand.engines.ntc_groups import group_size_of
from condrand.errors import InputError
from condrand.io.outcome import Outcome, read_outcome, read_treated
from condrand.io.stages import read_guides_table
from condrand.io.tables import write_parquet, write_tsv
from condrand.kernels.ols import SINGULAR
from condrand.nulls.ntc_empirical import (
    POOLED,
    Against,
    Matching,
    Units,
    cells_of_units,
    compute_ntc_empirical_pvals_crossfit,
    compute_ntc_empirical_pvals_gene_agg_crossfit,
    empirical_pvals_by_batch,
    empirical_pvals_of_controls,
    empirical_pvals_vs_ntc,
    sample_ntc_pseudogenes_with_replacement,
    split_ntc_guides,
    unit_statistics,
)
from condrand.propensity import fit_propensities, in_lanes
from condrand.statistics import ols
from condrand.statistics.scores import Scores
from condrand.tables import effects_table
from condrand.units import NTC_GUIDE, TARGET, units_of_batch

log = logging.getLogger(__name__)

P_SOURCE = "ntc_empirical"
META = "meta"
# Added to the seed of the configuration: each set of draws has a stream of its own.
_PSEUDO_GENES, _SPLIT, _PSEUDO_GENES_A, _PSEUDO_GENES_B = 17, 91, 92, 93
# Units whose cells are held at a time.
_TOGETHER = 256
# Units whose Newton steps share one pass over the covariates.
_FIT_TOGETHER = 16
# Features of which the cross-fit is written, those that vary most: each has a row for every
# pseudo-gene and batch.
_CROSSFIT_FEATURES = 100


@dataclass(frozen=True)
class UnitsTested:
    """Targets and controls that are tested.

    Attributes
    ----------
    kinds, names : list of str
    guides : list of list of str
    treated : list of int64[::1]
        Treated cells, sorted.
    """

    kinds: list[str]
    names: list[str]
    guides: list[list[str]]
    treated: list[np.ndarray]


@dataclass(frozen=True)
class Place:
    """All cells, or those of a batch, with a linear model of their own.

    Attributes
    ----------
    name : str
    number : int64, shape (cells of the screen,), or None
        Number of each cell here, -1 for one of another batch; None where all cells are here.
    scores : DenseScores or SparseScores
    columns : float64, shape (n_cells, n_columns)
        Standardized covariates, full rank.
    """

    name: str
    number: np.ndarray | None
    scores: Scores
    columns: np.ndarray

    def here(self, cells: np.ndarray) -> np.ndarray:
        """Those cells of the screen that are here, in the numbers they have here."""
        if self.number is None:
            return cells
        local = self.number[cells]
        return local[local >= 0]

    def units(self, treated: Iterable[np.ndarray], use_pbar: bool = False) -> Units:
        """Statistics of units here.

        Parameters
        ----------
        treated : iterable of int64[::1]
            Cells in the numbers they have here, sorted; a few units' are held at a time.
        use_pbar : bool
            Whether to fit the propensities. With centred covariates the mean logit of the
            propensity is the intercept.
        """
        lanes = in_lanes(self.columns) if use_pbar else None
        left = iter(treated)
        found = []
        while cells := list(islice(left, _TOGETHER)):
            beta, n1, d = unit_statistics(self.scores, cells)
            pbar = self._pbar(lanes, cells) if use_pbar else None
            found.append(Units(beta, n1, self.scores.n_cells - n1, d, pbar))
        if not found:
            none = np.zeros(0, np.int64)
            beta = np.zeros((0, self.scores.n_features))
            return Units(beta, none, none, np.zeros(0), np.zeros(0) if use_pbar else None)
        parts = zip(*found, strict=True)
        return Units(*(None if part[0] is None else np.concatenate(part) for part in parts))

    def _pbar(self, lanes: np.ndarray, cells: list[np.ndarray]) -> np.ndarray:
        n_cells = self.scores.n_cells
        pbar = np.full(len(cells), np.nan)
        some = [i for i, each in enumerate(cells) if 0 < each.size < n_cells]
        for first in range(0, len(some), _FIT_TOGETHER):
            at = some[first : first + _FIT_TOGETHER]
            fit = fit_propensities(lanes, n_cells, [cells[i] for i in at])
            pbar[at] = fit.coefficients[:, 0]
        return pbar


def all_cells(outcome: Outcome) -> Place:
    """The screen as one place."""
    return Place(POOLED, None, outcome.scores, outcome.design)


def batches(outcome: Outcome) -> Iterator[Place]:
    """Each batch as a place, by its name; one is held at a time.

    The residual rows of the screen are projected anew: the covariates' span within a batch holds
    what the screen's covariates took out of them, so that the residual is the batch's own.
    """
    whole = all_cells(outcome)
    codes = np.unique(outcome.batch)
    for code in codes:
        cells = np.flatnonzero(outcome.batch == code)
        if codes.size == 1:
            yield replace(whole, name=_name(outcome, code))
            return
        columns = full_rank(standardize(outcome.design[cells]))
        number = np.full(outcome.n_cells, -1)
        number[cells] = np.arange(cells.size)
        scores = ols.rescore(whole.scores, cells, orthonormal_basis(columns))
        yield Place(_name(outcome, code), number, scores, columns)


def _name(outcome: Outcome, code: int) -> str:
    return str(code) if outcome.batch_levels is None else outcome.batch_levels[code]


@dataclass(frozen=True)
class Null:
    """What the comparison needs, by place: units of each set, in :data:`POOLED` or by batch.

    Attributes
    ----------
    tested : Units
        In all cells: what a reader is told.
    t_units : float64, shape (n_features,)
        Residual standard deviation of each feature.
    sets : dict of str to dict of str to Units
        ``tested``, ``ntc``, ``A``, ``B``: place to statistics.
    """

    tested: Units
    t_units: np.ndarray
    sets: dict[str, dict[str, Units]]


def compute_null(
    outcome: Outcome,
    tested: UnitsTested,
    cells_of_guide: Mapping[str, np.ndarray],
    pseudo_genes: Mapping[str, np.ndarray],
    batch_mode: str,
    use_pbar: bool = False,
) -> Null:
    """OLS statistics of targets, controls and pseudo-genes, in all cells or in each batch.

    Parameters
    ----------
    outcome : Outcome
    tested : UnitsTested
    cells_of_guide : mapping of str to int64[::1]
    pseudo_genes : mapping of str to array of str, shape (n_units, guides_per_unit)
        Sets of pseudo-genes by name.
    batch_mode : {"meta", "pooled"}
    use_pbar : bool
    """
    whole = all_cells(outcome)
    pooled = batch_mode == POOLED
    in_all = whole.units(tested.treated, use_pbar and pooled)
    sets: dict[str, dict[str, Units]] = {"tested": {}, **{name: {} for name in pseudo_genes}}
    for place in [whole] if pooled else batches(outcome):
        began = time.monotonic()
        if pooled:
            sets["tested"][place.name] = in_all
        else:
            treated = (place.here(cells) for cells in tested.treated)
            sets["tested"][place.name] = place.units(treated, use_pbar)
        here = {guide: place.here(cells) for guide, cells in cells_of_guide.items()}
        for name, units in pseudo_genes.items():
            sets[name][place.name] = place.units(cells_of_units(units, here), use_pbar)
        log.info(
            "%s: statistics of %d units and %d pseudo-genes in %d cells, %.2f s",
            "all cells" if pooled else f"batch {place.name}",
            len(tested.names),
            sum(len(units) for units in pseudo_genes.values()),
            place.scores.n_cells,
            time.monotonic() - began,
        )
    left, _ = ols.residual_squares(outcome.scores)
    freedom = max(outcome.n_cells - outcome.scores.rank, 1)
    return Null(in_all, np.sqrt(left / freedom), sets)


def write_ntc_null(
    screen: str | Path,
    units: list[str | Path],
    outcome: str | Path,
    table: str | Path,
    matching: str | Path,
    crossfit: str | Path,
    labels: tuple[str, str],
    wanted: list[str] | str,
    controls: str,
    settings: Mapping[str, Any],
    seed: int,
    n_batches: int,
) -> None:
    """Step of rule crt_ntc_null: targets and controls against pseudo-genes of NTC guides.

    Parameters
    ----------
    screen : str or pathlib.Path
        Of the load stage.
    units : list of str or pathlib.Path
        Tables of units: the screen's targets, the analysis's NTC groups.
    outcome : str or pathlib.Path
        Of the normalize stage, with OLS scores and, for ``batch_mode: meta``, batches.
    table : str or pathlib.Path
        Parquet file to write: the results contract, with a leading column ``kind``.
    matching : str or pathlib.Path
        TSV to write: how targets found pseudo-genes like them.
    crossfit : str or pathlib.Path
        Parquet file to write: p values of targets and of held-out pseudo-genes against others.
    labels : (str, str)
        Screen and analysis.
    wanted : list of str or "all"
        Targets of the analysis.
    controls : {"groups", "guides", "none"}
        Which NTC guides are tested too, against the pseudo-genes that share no guide with them.
    settings : mapping
        The section ``ntc_empirical`` of the analysis.
    seed : int
    n_batches : int
        Batches that the tables of units name.

    Raises
    ------
    condrand.errors.InputError
        If there are fewer NTC guides than a pseudo-gene has.
    """
    began = time.monotonic()
    shared = read_outcome(outcome)
    tested, cells_of_guide = _read_units(screen, units, wanted, controls, n_batches)
    per_unit = group_size_of(read_guides_table(screen), settings["guides_per_unit"])
    n_units = settings["n_ntc_units"]
    pool = sorted(cells_of_guide)
    if len(pool) < per_unit:
        raise InputError(
            f"{len(pool)} NTC guides are carried by any cell, and a pseudo-gene has {per_unit}: "
            "lower `ntc_empirical.guides_per_unit`, or correct `ntc_labels` of the screen"
        )
    distinct = math.comb(len(pool), per_unit)
    if distinct < n_units:
        log.warning(
            "%d pseudo-genes of %d of the %d NTC guides: only %d differ, so that small p values "
            "say little",
            *(n_units, per_unit, len(pool), distinct),
        )
    sets = draw_pseudo_genes(pool, per_unit, n_units, seed)
    sets |= draw_halves(pool, per_unit, n_units, seed, settings["qq_crossfit_frac_A"])
    rule = against_of(settings)
    null = compute_null(
        shared,
        tested,
        cells_of_guide,
        sets,
        settings["batch_mode"],
        settings["use_pbar"],
    )
    found, report = null_table(shared, tested, null, sets["ntc"], rule, labels)
    write_parquet(found, table)
    write_tsv(report, matching)
    is_target = np.array([kind == TARGET for kind in tested.kinds], dtype=bool)
    crossed = crossfit_table(shared.features, null, is_target, rule)
    write_parquet(crossed, crossfit)
    log.info(
        "%d targets and %d controls against %d pseudo-genes of %d of %d NTC guides; %d rows, %d "
        "of them with a p value, %.1f s",
        *(is_target.sum(), (~is_target).sum(), n_units, per_unit, len(pool), len(found)),
        *(found["p_value"].notna().sum(), time.monotonic() - began),
    )


def against_of(settings: Mapping[str, Any]) -> Against:
    """How targets are compared, from the section ``ntc_empirical`` of an analysis."""
    matching = {
        name: settings[name]
        for name in ("n_n1_bins", "n_d_bins", "min_ntc_per_bin", "use_pbar", "n_pbar_bins")
    }
    rest = {
        name: settings[name] for name in ("scale", "combine_method", "min_treated", "min_control")
    }
    return Against(Matching.of(matching), **rest)


def _read_units(
    screen: str | Path, units: list[str | Path], wanted: list[str] | str, controls: str, n: int
) -> tuple[UnitsTested, dict[str, np.ndarray]]:
    """What is tested, whatever batches it was dealt to, and the cells of each NTC guide."""
    rows = sorted(u for b in range(n) for u in units_of_batch(units, b, wanted, controls))
    guides = read_guides_table(screen)
    pool = guides.loc[guides["is_ntc"] & (guides["n_cells"] > 0), "name"]
    cells = read_treated(screen, [(NTC_GUIDE, guide) for guide in pool])
    kinds, names, members = ([row[i] for row in rows] for i in range(3))
    tested = UnitsTested(kinds, names, members, treated_of(screen, rows))
    return tested, dict(zip(pool, cells, strict=True))


def draw_pseudo_genes(
    pool: list[str], per_unit: int, n_units: int, seed: int
) -> dict[str, np.ndarray]:
    """The pseudo-genes that everything is compared with.

    Parameters
    ----------
    pool : list of str
        NTC guides.
    per_unit : int
        Guides of each.
    n_units, seed : int

    Returns
    -------
    dict of str to array of str, shape (n_units, per_unit)
        One entry, ``ntc``.
    """
    draw = sample_ntc_pseudogenes_with_replacement
    return {"ntc": draw(pool, per_unit, n_units, seed + _PSEUDO_GENES)}


def draw_halves(
    pool: list[str],
    per_unit: int,
    n_units: int,
    seed: int,
    share: float,
    split_seed: int | None = None,
) -> dict[str, np.ndarray]:
    """Pseudo-genes of two halves of the NTC guides that share none, for the cross-fit.

    Parameters
    ----------
    pool, per_unit, n_units, seed
        As for :func:`draw_pseudo_genes`; `n_units` are split like the guides.
    share : float
        Of the guides that go to A.
    split_seed : int, optional
        Of the split alone.

    Returns
    -------
    dict of str to array of str
        ``A`` and ``B``; nothing where a half would have fewer than 2 guides.
    """
    n_A = round(share * len(pool))
    smaller = min(n_A, len(pool) - n_A)
    if smaller < 2:
        log.warning("no cross-fit: it needs 2 NTC guides in either half, of %d", len(pool))
        return {}
    A, B = split_ntc_guides(pool, share, seed + _SPLIT if split_seed is None else split_seed)
    # Of half the guides at most, or all sets would be nearly the same.
    in_half = min(per_unit, smaller // 2)
    if in_half < per_unit:
        log.warning(
            "cross-fit: pseudo-genes of %d guides in place of %d, from %d and %d NTC guides",
            *(in_half, per_unit, A.size, B.size),
        )
    n_of_A = min(max(round(share * n_units), 1), n_units - 1)
    draw = sample_ntc_pseudogenes_with_replacement
    return {
        "A": draw(A, in_half, n_of_A, seed + _PSEUDO_GENES_A),
        "B": draw(B, in_half, n_units - n_of_A, seed + _PSEUDO_GENES_B),
    }


def null_table(
    outcome: Outcome,
    tested: UnitsTested,
    null: Null,
    pseudo_genes: np.ndarray,
    rule: Against,
    labels: tuple[str, str],
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """P values of targets and controls.

    Parameters
    ----------
    outcome : Outcome
    tested : UnitsTested
    null : Null
    pseudo_genes : array of str, shape (n_ntc_units, guides_per_unit)
        Guides of the set ``ntc``.
    rule : Against
    labels : (str, str)
        Screen and analysis.

    Returns
    -------
    table : pandas.DataFrame
        The results contract, with a leading column ``kind``. ``effect`` and ``statistic`` are of
        all cells, whatever the batches say: the coefficient, and the coefficient times the root
        of its denominator ``ntc_d`` over the feature's residual standard deviation (about its t
        statistic). ``n_batches``: those that were combined.
    matching : pandas.DataFrame
        See :func:`matching_table`.
    """
    is_target = np.array([kind == TARGET for kind in tested.kinds], dtype=bool)
    n_features = len(outcome.features)
    genes = {b: _rows(units, is_target) for b, units in null.sets["tested"].items()}
    ntc = null.sets["ntc"]
    p = np.full((is_target.size, n_features), np.nan)
    n_used = np.zeros(is_target.size, np.int64)
    report = matching_table({}, genes, ntc)
    if is_target.any():
        p[is_target], n_used[is_target], infos = _against_ntc(genes, ntc, rule)
        report = matching_table(infos, genes, ntc)
    others = np.array([_comparable(kind, rule) for kind in tested.kinds], bool) & ~is_target
    if others.any() and is_target.any():
        shares = np.stack(
            [
                np.isin(pseudo_genes, guides).any(axis=1)
                for guides, yes in zip(tested.guides, others, strict=True)
                if yes
            ]
        )
        of_others = {b: _rows(units, others) for b, units in null.sets["tested"].items()}
        sets = (of_others, ntc, genes)
        if list(ntc) == [POOLED]:
            sets = tuple(by_place[POOLED] for by_place in sets)
        p[others], n_used[others] = empirical_pvals_of_controls(*sets, shares, rule)
    note = _notes(tested, null, p, rule)
    beta, n1, n0, d, _ = null.tested
    with np.errstate(divide="ignore", invalid="ignore"):
        statistic = beta * np.sqrt(d)[:, None] / null.t_units
    statistic[np.isnan(beta)] = np.nan
    columns = {
        "screen": labels[0],
        "analysis": labels[1],
        "target": np.repeat(np.array(tested.names, dtype=object), n_features),
        "feature": np.tile(np.array(outcome.features, dtype=object), is_target.size),
        "n_target": np.repeat(n1, n_features),
        "n_control": np.repeat(n0, n_features),
        "effect": beta.ravel(),
        "effect_scale": outcome.effect_scale,
        "statistic": statistic.ravel(),
        "p_value": p.ravel(),
        # Adding zero makes -0 of p = 1 plain.
        "neg_log10_p": -np.log10(p.ravel()) + 0.0,
        "p_source": np.where(np.isnan(p.ravel()), "", P_SOURCE).astype(object),
    }
    own = {
        "p_empirical": p.ravel(),
        "ntc_d": np.repeat(d, n_features),
        "n_batches": np.repeat(n_used, n_features),
    }
    table = effects_table(columns, own, note.ravel())
    table.insert(0, "kind", np.repeat(np.array(tested.kinds, dtype=object), n_features))
    return table, report


def _comparable(kind: str, rule: Against) -> bool:
    """Raw coefficients of a single guide are noisier than those of several: no control."""
    return kind != NTC_GUIDE or rule.scale != "raw"


def _rows(units: Units, which: np.ndarray) -> Units:
    return Units(*(None if part is None else part[which] for part in units))


def _against_ntc(
    genes: dict[str, Units], ntc: dict[str, Units], rule: Against
) -> tuple[np.ndarray, np.ndarray, dict[str, Any]]:
    if list(genes) != [POOLED]:
        p, info = empirical_pvals_by_batch(genes, ntc, rule)
        return p, info["n_batches"], info["matching"]
    gene, control = genes[POOLED], ntc[POOLED]
    p, info = empirical_pvals_vs_ntc(
        *(gene.beta, gene.n1, gene.d, control.beta, control.n1, control.d),
        *(gene.pbar, control.pbar, rule.matching, rule.scale),
    )
    return p, (~np.isnan(p).all(axis=1)).astype(np.int64), {POOLED: info}


def _notes(tested: UnitsTested, null: Null, p: np.ndarray, rule: Against) -> np.ndarray:
    """Why a test has no p value; shape as `p`."""
    beta, n1, n0, d, _ = null.tested
    note = np.where(np.isnan(p), "the feature does not vary beyond the covariates", "")
    note = note.astype(object)
    by_batch = list(null.sets["ntc"]) != [POOLED]
    for u in np.flatnonzero(np.isnan(p).all(axis=1)):
        usable = [
            not np.isnan(units.beta[u]).all()
            and (not by_batch or units.n1[u] >= rule.min_treated)
            and (not by_batch or units.n0[u] >= rule.min_control)
            for units in null.sets["tested"].values()
        ]
        if not n1[u]:
            note[u] = "no treated cell"
        elif not n0[u]:
            note[u] = "every cell is treated"
        elif d[u] <= SINGULAR * n1[u]:
            note[u] = "covariates determine the treatment"
        elif np.isnan(beta[u]).all():
            continue
        elif not any(usable):
            note[u] = (
                f"no batch with {rule.min_treated} treated and {rule.min_control} other cells"
            )
        elif not _comparable(tested.kinds[u], rule):
            note[u] = "raw coefficients of one guide and of several are not comparable"
        elif tested.kinds[u] == TARGET:
            note[u] = "no pseudo-gene to compare with"
        else:
            note[u] = "too few pseudo-genes without its guides"
    return note


def matching_table(
    infos: Mapping[str, Mapping[str, Any] | None],
    genes: Mapping[str, Units],
    ntc: Mapping[str, Units],
) -> pd.DataFrame:
    """How targets found pseudo-genes like them, one row per batch (``pooled``: all cells).

    Parameters
    ----------
    infos : mapping of str to dict or None
        Of :func:`condrand.nulls.ntc_empirical.empirical_pvals_vs_ntc`, by place.
    genes, ntc : mapping of str to Units

    Returns
    -------
    pandas.DataFrame
        ``n_targets`` compared, of which ``own_bin``, ``wider_bins`` (up to ``largest_radius``
        bins away; ``radii`` counts each) and ``all_units`` say where their pseudo-genes were
        found; bins of each quantity, and how many pseudo-genes the occupied ones hold; medians
        of treated cells and of the denominator d.
    """
    rows = []
    for place, info in infos.items():
        info = info or {"fallback_counts": {}, "bin_sizes": {}, "n_bins_n1": 0, "n_bins_d": 0}
        counts = info["fallback_counts"]
        radii = {
            int(how.removeprefix("radius_")): n
            for how, n in counts.items()
            if how.startswith("radius_")
        }
        sizes = np.array(list(info["bin_sizes"].values()) or [0])
        medians = {}
        for name, units in (("targets", genes[place]), ("ntc", ntc[place])):
            for quantity in ("n1", "d"):
                values = getattr(units, quantity)[~np.isnan(units.beta).all(axis=1)]
                middle = np.median(values) if values.size else np.nan
                medians[f"median_{quantity}_{name}"] = middle
        rows.append(
            {
                "batch": place,
                "n_targets": sum(counts.values()),
                "n_ntc_units": int(sizes.sum()),
                "own_bin": counts.get("bin", 0),
                "wider_bins": sum(radii.values()),
                "largest_radius": max(radii, default=0),
                "radii": ", ".join(f"{r}: {radii[r]}" for r in sorted(radii)),
                "all_units": counts.get("all", 0),
                "n_bins_n1": info["n_bins_n1"],
                "n_bins_d": info["n_bins_d"],
                "bins_occupied": len(info["bin_sizes"]),
                "smallest_bin": int(sizes.min()),
                "median_bin": float(np.median(sizes)),
                "largest_bin": int(sizes.max()),
                **medians,
            }
        )
    return pd.DataFrame(rows, columns=_MATCHING)


_MATCHING = [
    *("batch", "n_targets", "n_ntc_units", "own_bin", "wider_bins", "largest_radius", "radii"),
    *("all_units", "n_bins_n1", "n_bins_d", "bins_occupied"),
    *("smallest_bin", "median_bin", "largest_bin"),
    *("median_n1_targets", "median_d_targets", "median_n1_ntc", "median_d_ntc"),
]


def crossfit_table(
    features: list[str], null: Null, is_target: np.ndarray, rule: Against
) -> pd.DataFrame:
    """P values of targets, and of held-out pseudo-genes B, against the pseudo-genes A.

    Parameters
    ----------
    features : list of str
    null : Null
    is_target : bool, shape (n_units,)
    rule : Against

    Returns
    -------
    pandas.DataFrame
        ``level`` (program, gene), ``feature`` (empty for gene), ``kind`` (target, holdout),
        ``batch`` (its name, or ``meta``: all of them, or all cells) and ``p``. No rows without
        targets or halves. Features stand in order of their residual variance, the largest first;
        of many those are kept.
    """
    parts: list[pd.DataFrame] = []

    def put(level: str, of: list[str], kind: str, batch: str, p: np.ndarray) -> None:
        named = {"level": level, "feature": np.tile(np.array(of, dtype=object), len(p))}
        parts.append(
            pd.DataFrame({**named, "kind": kind, "batch": batch, "p": np.asarray(p).ravel()})
        )

    sets = null.sets
    enough = "A" in sets and is_target.any()
    if enough:
        genes = {b: _rows(units, is_target) for b, units in sets["tested"].items()}
        three = (genes, sets["A"], sets["B"])
        enough = not any(
            all(np.isnan(units.beta).all() for units in by_place.values()) for by_place in three
        )
    if not enough:
        log.warning("the cross-fit is empty")
        return pd.DataFrame(
            {name: pd.Series(dtype=object) for name in ("level", "feature", "kind", "batch")}
            | {"p": pd.Series(dtype=np.float64)}
        )
    if list(genes) == [POOLED]:
        three = tuple(by_place[POOLED] for by_place in three)
    kept = np.argsort(-null.t_units, kind="stable")[:_CROSSFIT_FEATURES]
    if kept.size < len(features):
        log.info("cross-fit by program: the %d features that vary most", kept.size)
    for level, cross, of in (
        ("gene", compute_ntc_empirical_pvals_gene_agg_crossfit, [""]),
        ("program", compute_ntc_empirical_pvals_crossfit, [features[k] for k in kept]),
    ):
        found = cross(*three, rule)
        middle = "_gene" if level == "gene" else ""
        for kind, name in (("target", "real"), ("holdout", "ntcB")):
            by_batch = found[f"p_{name}{middle}_vs_A_by_batch"]
            for batch, p in {META: found[f"meta_p_{name}{middle}_vs_A"], **by_batch}.items():
                put(level, of, kind, batch, p if level == "gene" else p[:, kept])
    return pd.concat(parts, ignore_index=True)
