"""Empirical null from non-targeting controls (NTC): genes against pseudo-genes of NTC guides.

The OLS coefficient of a gene is compared with those of sets of control guides that treat about
as many cells as precisely; no model of the treatment enters. A coefficient with denominator
``d = x'M x`` has variance ``sigma**2 / d``, so ``beta sqrt(d)`` of gene and control are alike
where their ``beta`` are not.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from condrand.kernels.ols import SINGULAR
from condrand.nulls.combine import fisher, stouffer, stouffer_one_sided
from condrand.statistics.ols import coefficients, denominators, residual_squares
from condrand.statistics.scores import DenseScores, Scores

SCALES = ("studentized", "raw")
COMBINE_METHODS = ("fisher", "stouffer")
_SMALLEST_D = 1e-12
# Share of a feature's sum of squares that rounding leaves where the covariates explain it.
_CONSTANT = 1e-12
POOLED = "pooled"


class Units(NamedTuple):
    """OLS statistics of genes or pseudo-genes, in all cells or in those of one batch.

    Attributes
    ----------
    beta : float64, shape (n_units, n_features)
        Coefficients; a row of NaN for a unit that cannot be tested.
    n1, n0 : int64, shape (n_units,)
        Treated and other cells.
    d : float64, shape (n_units,)
        Denominators ``n1 - |sum Q|**2``.
    pbar : float64, shape (n_units,), or None
        Mean logit of the propensity, for matching on it.
    """

    beta: np.ndarray
    n1: np.ndarray
    n0: np.ndarray
    d: np.ndarray
    pbar: np.ndarray | None = None


@dataclass(frozen=True)
class Matching:
    """How units are binned, and how many controls a bin must hold.

    Attributes
    ----------
    n_n1_bins, n_d_bins, n_pbar_bins : int
        Bins of the treated cells, of log d and, if `use_pbar`, of the mean logit propensity.
    min_ntc_per_bin : int
        With fewer controls in its bin a unit is compared with those of wider surroundings.
    use_pbar : bool
    """

    n_n1_bins: int = 10
    n_d_bins: int = 10
    min_ntc_per_bin: int = 50
    use_pbar: bool = False
    n_pbar_bins: int = 8

    def __post_init__(self) -> None:
        for name in ("n_n1_bins", "n_d_bins", "min_ntc_per_bin", "n_pbar_bins"):
            if getattr(self, name) < 1:
                raise ValueError(f"matching: {name} is {getattr(self, name)}, must be at least 1")

    @classmethod
    def of(cls, settings: "Matching | Mapping[str, Any] | None") -> "Matching":
        """Matching of a mapping of settings; refuses an unknown one with ValueError."""
        if isinstance(settings, cls):
            return settings
        settings = dict(settings or {})
        unknown = sorted(set(settings) - set(cls.__dataclass_fields__))
        if unknown:
            known = ", ".join(cls.__dataclass_fields__)
            raise ValueError(f"matching has no {', '.join(unknown)}; it has {known}")
        return cls(**settings)


@dataclass(frozen=True)
class Against:
    """How units are compared with controls, and batches combined.

    Attributes
    ----------
    matching : Matching
    scale : {"studentized", "raw"}
        Whether ``|beta| sqrt(d)`` or ``|beta|`` is compared.
    combine_method : {"fisher", "stouffer"}
        Stouffer combines signed z.
    min_treated, min_control : int
        A unit with fewer treated or other cells in a batch, gene or control, is left out there.
    """

    matching: Matching = field(default_factory=Matching)
    scale: str = "studentized"
    combine_method: str = "fisher"
    min_treated: int = 10
    min_control: int = 10

    def __post_init__(self) -> None:
        object.__setattr__(self, "matching", Matching.of(self.matching))
        _check_choice("scale", self.scale, SCALES)
        _check_choice("combine_method", self.combine_method, COMBINE_METHODS)


# Pseudo-genes


def sample_ntc_pseudogenes_with_replacement(
    ntc_guides: Sequence[str] | Sequence[int] | np.ndarray,
    guides_per_unit: int = 6,
    n_ntc_units: int = 5000,
    seed: int = 0,
) -> np.ndarray:
    """Draw sets of distinct control guides; two sets may share guides.

    Parameters
    ----------
    ntc_guides : sequence of str or int
        Names or column indices; their order does not matter.
    guides_per_unit, n_ntc_units, seed : int

    Returns
    -------
    str or int array, shape (n_ntc_units, guides_per_unit)
        Each row sorted, a uniformly drawn set.

    Raises
    ------
    ValueError
        If there are fewer control guides than `guides_per_unit`.

    Notes
    -----
    Floyd's algorithm (Bentley & Floyd 1987, "Programming pearls: a sample of brilliance"), all
    sets at once: at step j draw t from 0 ... j and take it, or j where t is in the set already.
    """
    pool = np.unique(np.asarray(ntc_guides))
    if pool.size < guides_per_unit or guides_per_unit < 1:
        raise ValueError(
            f"a pseudo-gene of {guides_per_unit} guides cannot be drawn from {pool.size} control "
            "guides: correct the NTC labels or set guides_per_unit"
        )
    random = np.random.default_rng(seed)
    chosen = np.empty((n_ntc_units, guides_per_unit), np.int64)
    for step in range(guides_per_unit):
        last = pool.size - guides_per_unit + step
        drawn = random.integers(0, last + 1, size=n_ntc_units)
        taken = (chosen[:, :step] == drawn[:, None]).any(axis=1)
        chosen[:, step] = np.where(taken, last, drawn)
    return pool[np.sort(chosen, axis=1)]


def cells_of_units(
    units: Iterable[Iterable], cells_of_guide: Mapping | Sequence
) -> Iterator[np.ndarray]:
    """Cells with any guide of each unit.

    Parameters
    ----------
    units : iterable of iterables of guides
        Say, the rows of :func:`sample_ntc_pseudogenes_with_replacement`.
    cells_of_guide : mapping or sequence of int64 arrays
        Cells of each guide, by what `units` names guides with.

    Yields
    ------
    int64[::1]
        Sorted, each cell once.
    """
    for unit in units:
        yield np.unique(np.concatenate([cells_of_guide[guide] for guide in unit]))


def split_ntc_guides(
    guides: Sequence[str] | Sequence[int] | np.ndarray, frac_A: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Split control guides at random into two halves, A and B.

    Pseudo-genes are then drawn inside each half: split the other way round, A and B would share
    guides, and B would look more like A than a gene can.

    Parameters
    ----------
    guides : sequence of str or int
        Their order does not matter.
    frac_A : float
        Share of the guides that go to A.
    seed : int

    Returns
    -------
    guides_A, guides_B : array, sorted

    Raises
    ------
    ValueError
        If a half would be empty.
    """
    pool = np.unique(np.asarray(guides))
    n_A = round(frac_A * pool.size)
    if not 0 < n_A < pool.size:
        raise ValueError(
            f"{pool.size} controls with frac_A {frac_A} leave {n_A} for A and {pool.size - n_A} "
            "for B: each needs at least one"
        )
    order = np.random.default_rng(seed).permutation(pool.size)
    return pool[np.sort(order[:n_A])], pool[np.sort(order[n_A:])]


def split_ntc_units(
    ids: Sequence[str] | Sequence[int] | np.ndarray, frac_A: float = 0.5, seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """The same for pseudo-genes, which may share guides across the halves.

    Prefer :func:`split_ntc_guides`.
    """
    return split_ntc_guides(ids, frac_A, seed)


# Statistics


def unit_statistics(
    scores: Scores, cell_lists: Iterable[np.ndarray]
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """OLS coefficient, treated cells and denominator of many sets of cells.

    Parameters
    ----------
    scores : DenseScores or SparseScores
        Of the outcome (:func:`condrand.statistics.ols.score`).
    cell_lists : iterable of int64 arrays
        Treated cells of each unit, sorted.

    Returns
    -------
    beta : float64[:, ::1], shape (n_units, n_features)
        The same bits as the test of the same cells. NaN for a unit without cells or whose
        indicator the covariates explain, and for a feature that they explain.
    n1 : int64, shape (n_units,)
    d : float64, shape (n_units,)
        ``n1 - |sum Q|**2``, at least 0.
    """
    observed = [scores.observed(np.ascontiguousarray(cells, np.int64)) for cells in cell_lists]
    dense = isinstance(scores, DenseScores)
    sums = scores.room_for(len(observed))
    for u, one in enumerate(observed):
        sums.rows[u], sums.counts[u] = one.rows[0], one.counts[0]
        if not dense:
            sums.basis[u] = one.basis[0]
    beta = coefficients(scores, sums)
    d = np.maximum(denominators(scores, sums), 0.0)
    beta[d <= SINGULAR * sums.counts] = np.nan
    left, whole = residual_squares(scores)
    beta[:, left <= _CONSTANT * whole] = np.nan
    return beta, sums.counts, d


def compute_ols_denom(C: np.ndarray, x: np.ndarray) -> float:
    """Denominator of the OLS coefficient of x beside the columns of C.

    Parameters
    ----------
    C : float64, shape (n_cells, n_columns)
        Covariates with their intercept column; may be rank-deficient.
    x : bool or numeric, shape (n_cells,)

    Returns
    -------
    float
        ``x'x - |Q'x|**2`` with Q an orthonormal basis of the columns of C; at least 0.
    """
    C, x = np.asarray(C, np.float64), np.asarray(x, np.float64)
    basis, size, _ = np.linalg.svd(C, full_matrices=False)
    basis = basis[:, size > size.max(initial=0.0) * max(C.shape) * np.finfo(float).eps]
    return max(float(x @ x - np.sum((basis.T @ x) ** 2)), 0.0)


def compute_ols_denom_reference(C: np.ndarray, x: np.ndarray) -> float:
    """The same by definition: the residual sum of squares of x on C, by least squares."""
    C, x = np.asarray(C, np.float64), np.asarray(x, np.float64)
    residual = x - C @ np.linalg.lstsq(C, x, rcond=None)[0]
    return float(residual @ residual)


# Comparison


@dataclass(frozen=True)
class _Bins:
    """Edges of the bins of each matched quantity, at quantiles of the tested genes."""

    edges: tuple[np.ndarray, ...]

    @classmethod
    def of(cls, genes: Units, matching: Matching) -> "_Bins":
        counts = [matching.n_n1_bins, matching.n_d_bins, matching.n_pbar_bins]
        tested = ~np.isnan(genes.beta).all(axis=1)
        quantities = _quantities(genes, matching.use_pbar)
        return cls(
            tuple(_quantile_edges(q[tested], n) for q, n in zip(quantities, counts, strict=False))
        )

    def place(self, units: Units) -> np.ndarray:
        """Bin of every unit; int64, shape (n_units, n_quantities)."""
        quantities = _quantities(units, use_pbar=len(self.edges) == 3)
        bins = [
            np.clip(np.searchsorted(edges, q, side="right") - 1, 0, max(edges.size - 2, 0))
            for q, edges in zip(quantities, self.edges, strict=True)
        ]
        return np.column_stack(bins)


def _quantities(units: Units, use_pbar: bool) -> list[np.ndarray]:
    n1 = np.asarray(units.n1, np.float64)
    found = [n1, np.log(np.maximum(units.d, _SMALLEST_D))]
    if use_pbar:
        if units.pbar is None:
            raise ValueError("matching by use_pbar needs the mean logit propensity of every unit")
        found.append(np.asarray(units.pbar, np.float64))
    return found


def _quantile_edges(values: np.ndarray, n_bins: int) -> np.ndarray:
    """Distinct quantiles; two or fewer make one bin and are given as none."""
    if not values.size:
        return np.empty(0)
    edges = np.unique(np.quantile(values, np.linspace(0, 1, n_bins + 1)))
    return edges if edges.size > 2 else np.empty(0)


def _extremity(units: Units, scale: str) -> np.ndarray:
    """What is compared: ``|beta| sqrt(d)`` or ``|beta|``, shape (n_units, n_features)."""
    beta = np.abs(np.asarray(units.beta, np.float64))
    if scale == "raw":
        return beta
    return beta * np.sqrt(np.maximum(units.d, 0.0))[:, None]


def _largest(extremity: np.ndarray) -> np.ndarray:
    """Largest over the features, shape (n_units, 1); NaN only where all are."""
    return np.fmax.reduce(extremity, axis=1)[:, None]


def _radius(distance: np.ndarray, matching: Matching) -> int | None:
    """Smallest L1 distance of bins within which there are controls enough; None for all bins."""
    largest = max(
        [matching.n_n1_bins, matching.n_d_bins] + [matching.n_pbar_bins] * matching.use_pbar
    )
    within = np.cumsum(np.bincount(distance, minlength=largest + 1))[: largest + 1]
    radius = int(np.searchsorted(within, matching.min_ntc_per_bin))
    return radius if radius <= largest else None


def _references(
    place: np.ndarray, place_ntc: np.ndarray, matching: Matching
) -> Iterator[tuple[np.ndarray, np.ndarray, str]]:
    """Units that share a reference: their rows, the rows of the controls, and how it was found.

    Bins within L1 distance 0, 1, 2, ... are taken in until there are controls enough.
    """
    everywhere = []
    cells, cell_of = np.unique(place, axis=0, return_inverse=True)
    order = np.argsort(cell_of.ravel(), kind="stable")
    starts = np.searchsorted(cell_of.ravel()[order], np.arange(len(cells) + 1))
    for c, cell in enumerate(cells):
        members = order[starts[c] : starts[c + 1]]
        distance = np.abs(place_ntc - cell).sum(axis=1)
        radius = _radius(distance, matching)
        if radius is None:
            everywhere.append(members)
        else:
            how = "bin" if radius == 0 else f"radius_{radius}"
            yield members, np.flatnonzero(distance <= radius), how
    if everywhere:
        yield np.concatenate(everywhere), np.arange(len(place_ntc)), "all"


def _compare(
    extremity: np.ndarray,
    place: np.ndarray,
    extremity_ntc: np.ndarray,
    place_ntc: np.ndarray,
    matching: Matching,
) -> tuple[np.ndarray, dict[str, int]]:
    """P values of units against controls, and how many units found their reference how."""
    p = np.full(extremity.shape, np.nan)
    counts: dict[str, int] = {}
    tested = np.flatnonzero(~np.isnan(extremity).all(axis=1))
    for members, controls, how in _references(place[tested], place_ntc, matching):
        rows = tested[members]
        counts[how] = counts.get(how, 0) + rows.size
        ordered = np.sort(extremity_ntc[controls], axis=0)
        for k in range(extremity.shape[1]):
            below = np.searchsorted(ordered[:, k], extremity[rows, k], side="left")
            p[rows, k] = (1 + controls.size - below) / (controls.size + 1)
    p[np.isnan(extremity)] = np.nan
    return p, counts


def _against(
    units: Units, ntc: Units, bins: _Bins, against: Against, largest: bool = False
) -> tuple[np.ndarray, dict[str, Any]]:
    """:func:`_compare` of units with the usable ones of `ntc`, and its matching info."""
    matching = against.matching
    extremity, extremity_ntc = (_extremity(u, against.scale) for u in (units, ntc))
    if largest:
        extremity, extremity_ntc = _largest(extremity), _largest(extremity_ntc)
    usable = np.flatnonzero(~np.isnan(extremity_ntc).all(axis=1))
    if not usable.size:
        raise ValueError("no control unit has an effect to compare with")
    place_ntc = bins.place(ntc)[usable]
    p, fallback = _compare(
        extremity, bins.place(units), extremity_ntc[usable], place_ntc, matching
    )
    occupied, sizes = np.unique(place_ntc, axis=0, return_counts=True)
    info = {
        "fallback_counts": fallback,
        "bin_sizes": {
            ",".join(map(str, cell)): int(n) for cell, n in zip(occupied, sizes, strict=True)
        },
        "n_bins_n1": max(bins.edges[0].size - 1, 1),
        "n_bins_d": max(bins.edges[1].size - 1, 1),
        "min_ntc_per_bin": matching.min_ntc_per_bin,
        "use_pbar": matching.use_pbar,
    }
    return p, info


def empirical_pvals_vs_ntc(
    beta: np.ndarray,
    n1: np.ndarray,
    d: np.ndarray,
    beta_ntc: np.ndarray,
    n1_ntc: np.ndarray,
    d_ntc: np.ndarray,
    pbar: np.ndarray | None = None,
    pbar_ntc: np.ndarray | None = None,
    matching: Matching | Mapping[str, Any] | None = None,
    scale: str = "studentized",
) -> tuple[np.ndarray, dict[str, Any]]:
    """P values of genes, by comparing each with the controls of its bin.

    Parameters
    ----------
    beta : float64, shape (n_genes, n_features)
        NaN for what cannot be tested.
    n1, d : shape (n_genes,)
        Treated cells and denominators (:func:`unit_statistics`).
    beta_ntc, n1_ntc, d_ntc
        The same of the controls, shape (n_ntc, n_features) and (n_ntc,); a row of NaN is left
        out.
    pbar, pbar_ntc : float64, shapes (n_genes,) and (n_ntc,), or None
        Mean logit of the propensity, wanted if ``matching["use_pbar"]``.
    matching : Matching, mapping of its attributes, or None
    scale : {"studentized", "raw"}
        ``|beta| sqrt(d)`` is compared, or ``|beta|``. Raw effects are alike only where d is:
        where genes have half the d of the controls, a sixth of null tests falls below .05.

    Returns
    -------
    p : float64, shape (n_genes, n_features)
        ``(1 + #{|ntc| >= |gene|}) / (R + 1)`` over the R controls of the bin. NaN stays NaN.
    info : dict
        ``fallback_counts`` (genes by where their controls were found: ``bin``, ``radius_1``, ...,
        ``all``), ``bin_sizes`` (controls by ``"n1 bin,d bin"``), ``n_bins_n1``, ``n_bins_d``,
        ``min_ntc_per_bin``, ``use_pbar``.

    Raises
    ------
    ValueError
        If no control can be compared with, `pbar` is wanted and absent, or an option is unknown.

    Notes
    -----
    Bins end at quantiles of the tested genes in ``n1``, ``log max(d, 1e-12)`` and ``pbar``;
    controls beyond belong to the end bins. If a bin holds fewer than ``min_ntc_per_bin``
    controls, those of all bins within L1 distance 1, 2, ... (at most the largest number of bins)
    are taken, else all.
    """
    against = Against(Matching.of(matching), scale)
    genes = Units(beta, n1, None, d, pbar)
    bins = _Bins.of(genes, against.matching)
    return _against(genes, Units(beta_ntc, n1_ntc, None, d_ntc, pbar_ntc), bins, against)


# Batches


def empirical_pvals_by_batch(
    genes: Mapping[Any, Units], ntc: Mapping[Any, Units], against: Against | None = None
) -> tuple[np.ndarray, dict[str, Any]]:
    """P values of genes in every batch, combined.

    Parameters
    ----------
    genes, ntc : mapping of batch to Units (or to a tuple beta, n1, n0, d[, pbar])
        Statistics within the batch, of the same units in the same order in every batch.
    against : Against, or None

    Returns
    -------
    p : float64, shape (n_genes, n_features)
        NaN for a gene without a batch that can be used.
    info : dict
        ``p_by_batch`` (NaN where too few cells are treated or left, or no control can be
        compared with), ``n_batches`` (int64, shape (n_genes,): those used), ``matching`` (batch
        to the info of :func:`empirical_pvals_vs_ntc`, None for a batch without controls).

    Raises
    ------
    ValueError
        If the batches of genes and controls are not the same, or there is none.
    """
    against = against or Against()
    genes, (ntc,) = _batches(genes, [ntc], against)
    p_by_batch, matching = {}, {}
    for batch, units in genes.items():
        bins = _Bins.of(units, against.matching)
        p_by_batch[batch], matching[batch] = _in_batch(units, ntc[batch], bins, against)
    used = [~np.isnan(p).all(axis=1) for p in p_by_batch.values()]
    p = _combined(p_by_batch, genes, against)
    return p, {
        "p_by_batch": p_by_batch,
        "n_batches": np.sum(used, axis=0),
        "matching": matching,
    }


def _batches(
    genes: Mapping[Any, Units], others: Sequence[Mapping[Any, Units]], against: Against
) -> tuple[dict[Any, Units], list[dict[Any, Units]]]:
    """Statistics by batch, with NaN coefficients for units with too few cells in it."""
    for other in others:
        if set(other) != set(genes) or not genes:
            raise ValueError(
                f"batches of genes are {sorted(map(str, genes))}, those of controls "
                f"{sorted(map(str, other))}: statistics of both are needed in each"
            )

    def masked(units: Units) -> Units:
        units = Units(*units)
        few = np.asarray(units.n1) < against.min_treated
        few |= np.asarray(units.n0) < against.min_control
        return units._replace(beta=np.where(few[:, None], np.nan, units.beta))

    every = [{b: masked(by_batch[b]) for b in genes} for by_batch in (genes, *others)]
    return every[0], every[1:]


def _in_batch(
    units: Units, ntc: Units, bins: _Bins, against: Against, largest: bool = False
) -> tuple[np.ndarray, dict[str, Any] | None]:
    """As :func:`_against`; NaN where the batch has no control to compare with."""
    if np.isnan(ntc.beta).all():
        n_units, n_features = units.beta.shape
        return np.full((n_units, 1 if largest else n_features), np.nan), None
    return _against(units, ntc, bins, against, largest)


def _combined(
    p_by_batch: Mapping[Any, np.ndarray],
    units: Mapping[Any, Units],
    against: Against,
    largest: bool = False,
) -> np.ndarray:
    p = np.stack(list(p_by_batch.values()))
    if against.combine_method == "fisher":
        return fisher(p)
    if largest:  # the largest effect has no sign
        return stouffer_one_sided(p)
    return stouffer(p, np.stack([units[batch].beta for batch in p_by_batch]))


# Controls


def empirical_pvals_of_controls(
    controls: Units | Mapping[Any, Units],
    ntc: Units | Mapping[Any, Units],
    genes: Units | Mapping[Any, Units],
    shares: np.ndarray,
    against: Against | None = None,
) -> tuple[np.ndarray, np.ndarray]:
    """P values of control units, each against the pseudo-genes that share no guide with it.

    Parameters
    ----------
    controls, ntc, genes : Units, or mapping of batch to Units
        Statistics in all cells (pooled), or within each batch. Bins end at quantiles of `genes`.
    shares : bool, shape (n_controls, n_ntc)
        Whether a pseudo-gene holds a guide of the control: compared with units made of itself
        it would seem less extreme than it is.
    against : Against, or None
        The thresholds on cells and the method of combining concern batches only.

    Returns
    -------
    p : float64, shape (n_controls, n_features)
        NaN for a control that fewer than ``min_ntc_per_bin`` pseudo-genes can be compared with.
    n_batches : int64, shape (n_controls,)
        Those used; 1 or 0 if pooled.
    """
    against = against or Against()
    pooled = not isinstance(genes, Mapping)
    if pooled:
        genes, controls, ntc = ({POOLED: Units(*units)} for units in (genes, controls, ntc))
    else:
        genes, (controls, ntc) = _batches(genes, [controls, ntc], against)
    p_by_batch = {
        batch: _apart(controls[batch], ntc[batch], genes[batch], shares, against)
        for batch in genes
    }
    n_batches = np.sum([~np.isnan(p).all(axis=1) for p in p_by_batch.values()], axis=0)
    p = p_by_batch[POOLED] if pooled else _combined(p_by_batch, controls, against)
    return p, n_batches


def _apart(
    controls: Units, ntc: Units, genes: Units, shares: np.ndarray, against: Against
) -> np.ndarray:
    bins = _Bins.of(genes, against.matching)
    place, place_ntc = bins.place(controls), bins.place(ntc)
    extremity, extremity_ntc = (_extremity(units, against.scale) for units in (controls, ntc))
    usable = ~np.isnan(extremity_ntc).all(axis=1)
    p = np.full(extremity.shape, np.nan)
    for i in np.flatnonzero(~np.isnan(extremity).all(axis=1)):
        others = np.flatnonzero(usable & ~shares[i])
        if others.size < against.matching.min_ntc_per_bin:
            continue
        distance = np.abs(place_ntc[others] - place[i]).sum(axis=1)
        radius = _radius(distance, against.matching)
        if radius is not None:
            others = others[distance <= radius]
        exceed = np.sum(extremity_ntc[others] >= extremity[i], axis=0)
        p[i] = (1 + exceed) / (others.size + 1)
    p[np.isnan(extremity)] = np.nan
    return p


# Cross-fit


def compute_ntc_empirical_pvals_crossfit(
    genes: Units | Mapping[Any, Units],
    ntc_A: Units | Mapping[Any, Units],
    ntc_B: Units | Mapping[Any, Units],
    against: Against | None = None,
) -> dict[str, Any]:
    """P values of genes against half A of the controls, and of half B against A as their null.

    Parameters
    ----------
    genes, ntc_A, ntc_B : Units, or mapping of batch to Units
        Statistics in all cells (pooled), or within each batch. A and B should share no guide
        (:func:`split_ntc_guides`).
    against : Against, or None
        The thresholds on cells and the method of combining concern batches only.

    Returns
    -------
    dict
        ``batches`` (list), ``p_real_vs_A_by_batch``, ``p_ntcB_vs_A_by_batch`` (dicts of batch to
        float64 arrays; empty if pooled), ``meta_p_real_vs_A`` (n_genes, n_features),
        ``meta_p_ntcB_vs_A`` (n_B, n_features), ``matching_diagnostics`` (batch, or ``"pooled"``,
        to the infos of both comparisons). Bins end at quantiles of the genes throughout.

    Raises
    ------
    ValueError
        As :func:`empirical_pvals_vs_ntc` and :func:`empirical_pvals_by_batch`.
    """
    return _crossfit(genes, ntc_A, ntc_B, against, largest=False)


def compute_ntc_empirical_pvals_gene_agg_crossfit(
    genes: Units | Mapping[Any, Units],
    ntc_A: Units | Mapping[Any, Units],
    ntc_B: Units | Mapping[Any, Units],
    against: Against | None = None,
) -> dict[str, Any]:
    """The same by gene: the largest effect over features, one-sided.

    Returns
    -------
    dict
        As :func:`compute_ntc_empirical_pvals_crossfit`, with ``gene`` in the names:
        ``p_real_gene_vs_A_by_batch``, ``p_ntcB_gene_vs_A_by_batch``,
        ``meta_p_real_gene_vs_A`` (n_genes,), ``meta_p_ntcB_gene_vs_A`` (n_B,).

    Notes
    -----
    The statistic is ``max_k |beta_k| sqrt(d)``: features are taken to be on one scale, and those
    that vary most decide it.
    """
    return _crossfit(genes, ntc_A, ntc_B, against, largest=True)


def _crossfit(
    genes: Units | Mapping[Any, Units],
    ntc_A: Units | Mapping[Any, Units],
    ntc_B: Units | Mapping[Any, Units],
    against: Against | None,
    largest: bool,
) -> dict[str, Any]:
    against = against or Against()
    pooled = not isinstance(genes, Mapping)
    if pooled:
        genes, A, B = ({POOLED: Units(*units)} for units in (genes, ntc_A, ntc_B))
    else:
        genes, (A, B) = _batches(genes, [ntc_A, ntc_B], against)
    real, held, diagnostics = {}, {}, {}
    compare = _against if pooled else _in_batch
    for batch, units in genes.items():
        bins = _Bins.of(units, against.matching)
        real[batch], of_real = compare(units, A[batch], bins, against, largest)
        held[batch], of_held = compare(B[batch], A[batch], bins, against, largest)
        diagnostics[batch] = {"real_vs_A": of_real, "ntcB_vs_A": of_held}
    out = {"batches": [] if pooled else list(genes), "matching_diagnostics": diagnostics}
    middle = "_gene" if largest else ""
    for name, p_by_batch, units in (("real", real, genes), ("ntcB", held, B)):
        together = p_by_batch[POOLED] if pooled else _combined(p_by_batch, units, against, largest)
        if largest:
            p_by_batch = {batch: p[:, 0] for batch, p in p_by_batch.items()}
            together = together[:, 0]
        out[f"p_{name}{middle}_vs_A_by_batch"] = {} if pooled else p_by_batch
        out[f"meta_p_{name}{middle}_vs_A"] = together
    return out


def _check_choice(name: str, value: str, choices: tuple[str, ...]) -> None:
    if value not in choices:
        raise ValueError(f"{name} {value!r} is none of {', '.join(choices)}")
