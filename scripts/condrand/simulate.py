"""Synthetic screens with known effects and known confounding.

The way of a cell: covariates -> guides -> usage. Batch, depth and further covariates are drawn
first; they tilt which targets the cell's guides hit, and depth how many guides there are;
covariates, the hit targets and the number of guides together move the logits of the cell's
program usage. A test that leaves out what moves both sees effects that are not there; the table of
the effects that are there is stored with the screen.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import IntEnum
from itertools import islice
from numbers import Integral, Real
from pathlib import Path

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp
from anndata.io import write_elem

from condrand.io.atomic import replacing

NTC_LABEL = "non-targeting"
"""Target of the non-targeting control guides in ``uns["guide2gene"]``."""

CELLS_PER_BLOCK = 4096
"""Cells that share one random stream: a constant, so that no way of writing changes a number."""

GUIDES_PER_CELL = ("poisson", "one")
"""How the number of a cell's guide events is drawn."""

# Depth is lognormal: a median of about 22,000 UMIs per cell, one natural-log unit = 2.7-fold.
_LOG_UMIS_MEAN = 10.0
_LOG_UMIS_SD = 0.35

# Spread of one program's logit: between programs and per standard deviation of a covariate, and
# between cells that share their covariates. Small against the default effect of 0.6.
_PROGRAM_WEIGHT_SD = 0.25
_NOISE_SD = 0.3

# Of the log of a cell's mean number of guides with its depth: large cells take up more guides.
_UPTAKE_DEPTH_CORRELATION = 0.5

# Targets are unequally represented in a library: the middle 95 % span a factor of about ten.
_LOG_TARGET_WEIGHT_SD = 0.6

_NEAR_ZERO_FACTOR = 1e-6

# Positions in the guide matrix are int32; half of that range is out of reach of the noise.
_MAX_EXPECTED_ENTRIES = 2**30

# One HDF5 chunk of the guide matrix: fixed, because the chunk size is part of the file's bytes.
_ENTRIES_PER_HDF5_CHUNK = 65_536


class _Stream(IntEnum):
    """What a random stream is for; one number per purpose, so that purposes never share draws."""

    PROGRAM_WEIGHTS = 1
    TARGET_WEIGHTS = 2
    TARGET_LOADINGS = 3
    TRUTH = 4
    COVARIATES = 5
    GUIDES = 6
    USAGE = 7
    BURDEN_WEIGHTS = 8
    UPTAKE = 9


@dataclass(frozen=True)
class _Model:
    """What all cells share.

    Attributes
    ----------
    program_weights : float64 (n_columns + 1, n_programs)
        Intercept, then the slope of each standardized covariate, on the logit scale.
    log_target_weights : float64 (n_targets,)
        Log of the unnormalized frequency of each target in a cell with average covariates.
    target_tilts : float64 (n_columns, n_targets)
        Change of that log frequency per standard deviation of each covariate.
    effects : float64 (n_targets, n_programs)
        Shift of a program's logit in cells that carry the target; zero for pairs not causal.
    burden_weights : float64 (2, n_programs)
        Intercept, then the slope of the burden as `_burden` has it, on the logit scale.
    """

    seed: int
    n_batches: int
    n_covariates: int
    guides_per_target: int
    n_ntc_guides: int
    ntc_fraction: float
    guides_per_cell: str
    moi_mean: float
    moi_dispersion: float
    near_zero_fraction: float
    program_weights: np.ndarray
    log_target_weights: np.ndarray
    target_tilts: np.ndarray
    effects: np.ndarray
    burden_weights: np.ndarray

    @property
    def n_targets(self) -> int:
        return self.effects.shape[0]

    @property
    def n_programs(self) -> int:
        return self.effects.shape[1]

    @property
    def n_guides(self) -> int:
        return self.n_targets * self.guides_per_target + self.n_ntc_guides


@dataclass(frozen=True)
class _Cells:
    """Consecutive cells.

    Attributes
    ----------
    batch : int8 or wider (n_cells,)
        Batch number, from 0.
    n_umis : int64 (n_cells,)
        UMIs per cell.
    covariates : float64 (n_cells, n_covariates)
        Further covariates, standard normal.
    n_guides : int64 (n_cells,)
        Distinct guides per cell.
    guides : int32 (sum of n_guides,)
        Guide columns of the cells, one cell after the other, ascending within a cell.
    usage : float64 (n_cells, n_programs)
        Program usage; rows sum to one.
    """

    batch: np.ndarray
    n_umis: np.ndarray
    covariates: np.ndarray
    n_guides: np.ndarray
    guides: np.ndarray
    usage: np.ndarray

    def first(self, n_cells: int) -> "_Cells":
        n_entries = int(self.n_guides[:n_cells].sum())
        return _Cells(
            batch=self.batch[:n_cells],
            n_umis=self.n_umis[:n_cells],
            covariates=self.covariates[:n_cells],
            n_guides=self.n_guides[:n_cells],
            guides=self.guides[:n_entries],
            usage=self.usage[:n_cells],
        )


@dataclass(frozen=True)
class _Covariates:
    """What the cells of a block bring along.

    Attributes
    ----------
    batch : int8 or wider (n_cells,)
        Batch number, from 0.
    depth : float64 (n_cells,)
        Log UMIs, standardized.
    further : float64 (n_cells, n_covariates)
        Further covariates, standard normal.
    columns : float64 (n_cells, n_columns)
        All of them standardized: batches but the first, depth, further ones.
    """

    batch: np.ndarray
    depth: np.ndarray
    further: np.ndarray
    columns: np.ndarray


def simulate_screen(
    path: str | Path,
    *,
    n_cells: int = 5000,
    n_programs: int = 10,
    n_targets: int = 40,
    guides_per_target: int = 3,
    ntc_fraction: float = 0.15,
    guides_per_cell: str = "poisson",
    moi_mean: float = 5.0,
    moi_dispersion: float = 0.0,
    causal_fraction: float = 0.2,
    n_effect_programs: int = 2,
    effect_size: float = 0.6,
    burden_effect: float = 0.0,
    n_batches: int = 3,
    n_covariates: int = 2,
    confounding: float = 0.5,
    near_zero_fraction: float = 0.15,
    seed: int = 0,
    chunk_cells: int = 50_000,
) -> None:
    """Write a synthetic screen with known effects as an AnnData file.

    Parameters
    ----------
    path : str or Path
        The .h5ad file to write, in an existing folder. It appears only once it is complete.
    n_cells, n_programs, n_targets, guides_per_target : int
        Sizes of the screen.
    ntc_fraction : float in [0, 1)
        Share of the non-targeting controls, both among the guides of the library and among the
        guides of a cell.
    guides_per_cell : "poisson" or "one"
        Whether the number of guide events of a cell is random, or one in every cell.
    moi_mean : float, guides per cell
        Mean number of guide events per cell. A guide that hits a cell twice is stored once, so
        the mean number of distinct guides is a little lower. Unused with one guide per cell.
    moi_dispersion : float
        Coefficient of variation of the cells' own mean numbers of guide events. These are
        lognormal around `moi_mean`, and higher in cells of high depth; 0 makes them equal.
    causal_fraction : float in [0, 1]
        Share of targets that move usage, rounded to whole targets but at least one; 0 gives a
        null screen.
    n_effect_programs : int
        Programs moved by each causal target; fewer than `n_programs`, since usage cannot show a
        shift of all programs at once.
    effect_size : float, natural-log units
        Absolute shift of the logit of such a program. Signs alternate over a target's programs,
        the first one random.
    burden_effect : float
        Influence on usage of the burden, log(1 + distinct guides that are no controls), relative
        to the influence of one covariate. It confounds: cells of high burden carry more of every
        target.
    n_batches : int
        Batches, equally likely. A single one is in ``obs`` but is no covariate.
    n_covariates : int
        Numeric covariates besides batch and depth.
    confounding : float
        Standard deviation over targets of the log tilt of a target's frequency in a cell whose
        covariates are typical; 0 makes treatment independent of the covariates. Controls are not
        tilted.
    near_zero_fraction : float in [0, 1)
        Share of the usage entries that are shrunk to almost zero, at random.
    seed : int
        Key of all random numbers, not negative.
    chunk_cells : int
        Cells held in memory and written at a time, rounded up to whole blocks of
        `CELLS_PER_BLOCK`. Changes no number.

    Raises
    ------
    ValueError
        If an argument is outside its range.

    Notes
    -----
    Definition. With `c` the standardized covariates of a cell (batch indicators, log UMIs,
    `n_covariates` normals) and `a_g`, `w_k` random vectors:

    * the cell receives ``Poisson(moi_mean u)`` guide events, `u` lognormal with mean 1, standard
      deviation `moi_dispersion`, and a log that correlates by 0.5 with log UMIs, or it receives
      one; each is a control with probability `ntc_fraction`, else target `g` with probability
      proportional to ``weight_g exp(confounding a_g·c)``, `weight_g` lognormal; guides of a
      target are equally likely;
    * ``logit_k = w_k0 + w_k·c + burden_effect v_k·b + noise + sum over targets g in the cell of
      effect_gk``, `b` the burden standardized, `v_k` distributed as a `w_k`, each target counted
      once; usage is the softmax, entries made near zero are multiplied by 1e-6, and rows are
      divided by their sum.

    The burden is standardized by its mean and standard deviation in the first block of cells.

    In centred log ratios a target moves program `k` by ``effect_gk`` minus the mean of its effects
    over all programs: that mean is zero for an even `n_effect_programs` (programs outside the
    truth are then null exactly) and ``± effect_size / n_programs`` for an odd one.

    File. ``X`` is empty. ``obs``: batch (categorical), n_umis (int64), covariate_1, ... (float64).
    ``obsm``: covar (DataFrame: batch unless there is but one, log_n_umis in natural log,
    covariate_1, ...), cnmf_usage
    (float64, n_cells × n_programs), guide_assignment (int8 CSR of 0/1, n_cells × n_guides).
    ``uns``: guide_names and program_names (strings), guide2gene (guide to target, or
    "non-targeting"), truth (DataFrame: target, program, effect in natural-log units).

    Randomness. Cells are drawn in blocks of `CELLS_PER_BLOCK`, keyed by seed, purpose and block
    number: the same arguments give the same bytes, and a larger `n_cells` only appends cells.

    Cost. Time linear in ``n_cells (n_programs + n_targets)``, times the columns of `c` where these
    are many; memory for `chunk_cells` cells of usage and guides, and for the covariates of all
    cells.
    """
    _require_integers(
        n_cells=(n_cells, 1),
        # With one program usage is 1 in every cell.
        n_programs=(n_programs, 2),
        n_targets=(n_targets, 1),
        guides_per_target=(guides_per_target, 1),
        n_effect_programs=(n_effect_programs, 1),
        n_batches=(n_batches, 1),
        n_covariates=(n_covariates, 0),
        seed=(seed, 0),
        chunk_cells=(chunk_cells, 1),
    )
    _require_numbers(
        moi_mean=moi_mean,
        moi_dispersion=moi_dispersion,
        effect_size=effect_size,
        burden_effect=burden_effect,
        confounding=confounding,
        ntc_fraction=ntc_fraction,
        causal_fraction=causal_fraction,
        near_zero_fraction=near_zero_fraction,
    )
    for name, fraction in (
        ("ntc_fraction", ntc_fraction),
        ("near_zero_fraction", near_zero_fraction),
    ):
        if fraction >= 1:
            raise ValueError(f"{name} is {fraction}; expected a fraction below 1")
    if guides_per_cell not in GUIDES_PER_CELL:
        raise ValueError(
            f"guides_per_cell is {guides_per_cell!r}; expected one of {', '.join(GUIDES_PER_CELL)}"
        )
    if guides_per_cell == "one":
        for name, value in (("moi_dispersion", moi_dispersion), ("burden_effect", burden_effect)):
            if value > 0:
                raise ValueError(
                    f"{name} is {value}; expected 0 where every cell has one guide "
                    "(guides_per_cell='one')"
                )
    mean_events = 1 if guides_per_cell == "one" else moi_mean
    if n_cells * mean_events >= _MAX_EXPECTED_ENTRIES:
        raise ValueError(
            f"n_cells={n_cells} with {mean_events} guides per cell (moi_mean) make "
            f"{n_cells * mean_events:.2g} guide entries; expected fewer than "
            f"{_MAX_EXPECTED_ENTRIES:.2g}"
        )
    if causal_fraction > 1:
        raise ValueError(f"causal_fraction is {causal_fraction}; expected a fraction up to 1")
    if causal_fraction > 0 and n_effect_programs >= n_programs:
        raise ValueError(
            f"n_effect_programs is {n_effect_programs}; expected fewer than the {n_programs} "
            "programs (n_programs)"
        )
    if causal_fraction > 0 and effect_size == 0:
        raise ValueError(
            "effect_size is 0; expected a positive number, or causal_fraction=0 for a null screen"
        )

    n_columns = n_batches - 1 + 1 + n_covariates
    n_ntc_guides = round(n_targets * guides_per_target * ntc_fraction / (1 - ntc_fraction))
    if ntc_fraction > 0:
        n_ntc_guides = max(n_ntc_guides, 1)
    model = _Model(
        seed=seed,
        n_batches=n_batches,
        n_covariates=n_covariates,
        guides_per_target=guides_per_target,
        n_ntc_guides=n_ntc_guides,
        ntc_fraction=ntc_fraction,
        guides_per_cell=guides_per_cell,
        moi_mean=moi_mean,
        moi_dispersion=moi_dispersion,
        near_zero_fraction=near_zero_fraction,
        program_weights=_random(seed, _Stream.PROGRAM_WEIGHTS).normal(
            0, _PROGRAM_WEIGHT_SD, (n_columns + 1, n_programs)
        ),
        log_target_weights=_random(seed, _Stream.TARGET_WEIGHTS).normal(
            0, _LOG_TARGET_WEIGHT_SD, n_targets
        ),
        # Divided so that the tilt of a typical cell has standard deviation `confounding` for any
        # number of covariates.
        target_tilts=confounding
        * _random(seed, _Stream.TARGET_LOADINGS).normal(
            0, 1 / math.sqrt(n_columns), (n_columns, n_targets)
        ),
        effects=_draw_effects(
            seed,
            n_targets=n_targets,
            n_programs=n_programs,
            causal_fraction=causal_fraction,
            n_effect_programs=n_effect_programs,
            effect_size=effect_size,
        ),
        burden_weights=np.zeros((2, n_programs)),
    )
    if burden_effect > 0:
        model = replace(model, burden_weights=_draw_burden_weights(model, burden_effect))

    with replacing(path) as temporary, h5py.File(temporary, "w") as file:
        _write_screen(file, model, n_cells=n_cells, chunk_cells=chunk_cells)


def _require_integers(**values_and_minima: tuple[int, int]) -> None:
    for name, (value, minimum) in values_and_minima.items():
        if not isinstance(value, Integral) or isinstance(value, bool) or value < minimum:
            raise ValueError(f"{name} is {value!r}; expected an integer of at least {minimum}")


def _require_numbers(**values: float) -> None:
    for name, value in values.items():
        if (
            not isinstance(value, Real)
            or isinstance(value, bool)
            or not math.isfinite(value)
            or value < 0
        ):
            raise ValueError(f"{name} is {value!r}; expected a finite number of at least 0")


def _random(seed: int, stream: _Stream, block: int = 0) -> np.random.Generator:
    # The spawn key, not a longer entropy list: numpy pads the seed before it, so that no large
    # seed can run into another purpose's key.
    key = np.random.SeedSequence(int(seed), spawn_key=(int(stream), block))
    return np.random.Generator(np.random.Philox(key))


def _draw_effects(
    seed: int,
    *,
    n_targets: int,
    n_programs: int,
    causal_fraction: float,
    n_effect_programs: int,
    effect_size: float,
) -> np.ndarray:
    """Draw the causal pairs: float64 (n_targets, n_programs), zero where there is no effect."""
    effects = np.zeros((n_targets, n_programs))
    if causal_fraction == 0:
        return effects
    n_causal = max(1, round(causal_fraction * n_targets))
    random = _random(seed, _Stream.TRUTH)
    alternating = effect_size * (-1.0) ** np.arange(n_effect_programs)
    for target in np.sort(random.choice(n_targets, n_causal, replace=False)):
        programs = random.choice(n_programs, n_effect_programs, replace=False)
        effects[target, programs] = random.choice([-1.0, 1.0]) * alternating
    return effects


def _draw_burden_weights(model: _Model, burden_effect: float) -> np.ndarray:
    """Draw the intercept and slope of the burden per program: float64 (2, n_programs)."""
    # The first block is drawn whole, so that its moments do not depend on the number of cells.
    burden = _burden(model, *_draw_treatment(model, 0)[1:])
    if burden.std() == 0:
        raise ValueError(
            f"burden_effect is {burden_effect}; expected 0 where cells do not differ in their "
            f"number of guides that are no controls (moi_mean={model.moi_mean}, "
            f"ntc_fraction={model.ntc_fraction})"
        )
    slopes = burden_effect * _random(model.seed, _Stream.BURDEN_WEIGHTS).normal(
        0, _PROGRAM_WEIGHT_SD, model.n_programs
    )
    slopes /= burden.std()
    return np.stack([-slopes * burden.mean(), slopes])


def _draw_blocks(model: _Model, n_cells: int) -> Iterator[_Cells]:
    for block, start in enumerate(range(0, n_cells, CELLS_PER_BLOCK)):
        # The last block is drawn whole and cut, so that its cells do not depend on `n_cells`.
        yield _draw_block(model, block).first(n_cells - start)


def _draw_block(model: _Model, block: int) -> _Cells:
    covariates, n_guides, guides = _draw_treatment(model, block)
    return _Cells(
        batch=covariates.batch,
        n_umis=np.rint(np.exp(_LOG_UMIS_MEAN + _LOG_UMIS_SD * covariates.depth)).astype(np.int64),
        covariates=covariates.further,
        n_guides=n_guides,
        guides=guides.astype(np.int32),
        usage=_draw_usage(
            model, covariates.columns, n_guides, guides, _random(model.seed, _Stream.USAGE, block)
        ),
    )


def _draw_treatment(model: _Model, block: int) -> tuple[_Covariates, np.ndarray, np.ndarray]:
    """Draw what comes before usage: covariates, distinct guides per cell, and their columns."""
    covariates = _draw_covariates(model, _random(model.seed, _Stream.COVARIATES, block))
    n_events = np.ones(CELLS_PER_BLOCK, np.int64)
    random = _random(model.seed, _Stream.GUIDES, block)
    if model.guides_per_cell == "poisson":
        uptake = _draw_uptake(model, covariates.depth, _random(model.seed, _Stream.UPTAKE, block))
        n_events = random.poisson(model.moi_mean * uptake)
    return covariates, *_draw_guides(model, covariates.columns, n_events, random)


def _draw_covariates(model: _Model, random: np.random.Generator) -> _Covariates:
    # The narrowest type that holds the numbers: int8 for up to 128 batches.
    batch = random.integers(
        model.n_batches, size=CELLS_PER_BLOCK, dtype=np.min_scalar_type(-model.n_batches)
    )
    depth = random.standard_normal(CELLS_PER_BLOCK)
    further = random.standard_normal((CELLS_PER_BLOCK, model.n_covariates))

    # Standardized by the moments they are drawn with: those of the sample would depend on n_cells.
    columns = [depth, further]
    if model.n_batches > 1:
        share = 1 / model.n_batches
        in_batch = batch[:, None] == np.arange(1, model.n_batches)
        columns.insert(0, (in_batch - share) / math.sqrt(share * (1 - share)))
    return _Covariates(batch, depth, further, np.column_stack(columns))


def _draw_uptake(model: _Model, depth: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Draw each cell's factor on the mean number of guide events: 1 exactly if not dispersed."""
    own = random.standard_normal(len(depth))
    correlation = _UPTAKE_DEPTH_CORRELATION
    standard = correlation * depth + math.sqrt(1 - correlation**2) * own
    # log(1 + cv²), in a form that no cv overflows.
    log_variance = 2 * math.log(math.hypot(1, model.moi_dispersion))
    return np.exp(math.sqrt(log_variance) * standard - log_variance / 2)


def _draw_guides(
    model: _Model, columns: np.ndarray, n_events: np.ndarray, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw the guides of each cell: distinct guides per cell and their columns, both int64."""
    n_cells = len(columns)
    n_targets = model.n_targets
    cell = np.repeat(np.arange(n_cells), n_events)
    is_ntc = random.random(len(cell)) < model.ntc_fraction
    position = random.random(len(cell))
    target_guide = random.integers(model.guides_per_target, size=len(cell))
    ntc_guide = random.integers(max(model.n_ntc_guides, 1), size=len(cell))

    log_weights = model.log_target_weights + _linear(columns, model.target_tilts)
    log_weights -= log_weights.max(axis=1, keepdims=True)
    cumulative = np.cumsum(np.exp(log_weights, out=log_weights), axis=1)
    cumulative /= cumulative[:, -1:]
    # Each cell's distribution function moved up by the cell's number: one ascending array, so
    # that one search inverts them all.
    cumulative += np.arange(n_cells)[:, None]
    target = np.searchsorted(cumulative.ravel(), cell + position, side="right") - cell * n_targets
    # cell + position can round up to the next cell's first target.
    target = np.minimum(target, n_targets - 1)

    guide = np.where(
        is_ntc,
        n_targets * model.guides_per_target + ntc_guide,
        target * model.guides_per_target + target_guide,
    )
    cell, guide = np.divmod(np.unique(cell * model.n_guides + guide), model.n_guides)
    return np.bincount(cell, minlength=n_cells), guide


def _draw_usage(
    model: _Model,
    columns: np.ndarray,
    n_guides: np.ndarray,
    guides: np.ndarray,
    random: np.random.Generator,
) -> np.ndarray:
    """Draw the usage of each cell: float64 (n_cells, n_programs), rows sum to one."""
    n_cells = len(columns)
    shape = (n_cells, model.n_programs)
    logits = random.normal(0, _NOISE_SD, shape)
    near_zero = random.random(shape) < model.near_zero_fraction
    logits += model.program_weights[0] + _linear(columns, model.program_weights[1:])

    cell = np.repeat(np.arange(n_cells), n_guides)
    target = guides // model.guides_per_target
    is_targeting = target < model.n_targets
    # Two guides of a target act once.
    carried = np.unique(cell[is_targeting] * model.n_targets + target[is_targeting])
    carries = sp.csr_array(
        (np.ones(len(carried)), np.divmod(carried, model.n_targets)),
        shape=(n_cells, model.n_targets),
    )
    logits += carries @ model.effects
    intercept, slope = model.burden_weights
    logits += intercept + _burden(model, n_guides, guides)[:, None] * slope

    usage = np.exp(logits - logits.max(axis=1, keepdims=True))
    usage[near_zero] *= _NEAR_ZERO_FACTOR
    usage /= usage.sum(axis=1, keepdims=True)
    return usage


def _burden(model: _Model, n_guides: np.ndarray, guides: np.ndarray) -> np.ndarray:
    """Log of one plus each cell's distinct guides that are no controls: float64 (n_cells,)."""
    cell = np.repeat(np.arange(len(n_guides)), n_guides)
    is_targeting = guides < model.n_targets * model.guides_per_target
    return np.log1p(np.bincount(cell[is_targeting], minlength=len(n_guides)))


def _linear(columns: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Multiply (n_cells, n_columns) by (n_columns, n) in a fixed order of summation."""
    # Not `@`: the last bits of a BLAS product may depend on its threads. Columns are few.
    product = np.zeros((len(columns), weights.shape[1]))
    for column, weight in zip(columns.T, weights, strict=True):
        product += column[:, None] * weight
    return product


def _write_screen(file: h5py.File, model: _Model, *, n_cells: int, chunk_cells: int) -> None:
    _mark(file, "anndata", "0.1.0")
    obsm = file.create_group("obsm")
    _mark(obsm, "dict", "0.1.0")

    usage = obsm.create_dataset("cnmf_usage", (n_cells, model.n_programs), np.float64)
    _mark(usage, "array", "0.2.0")

    assignment = obsm.create_group("guide_assignment")
    _mark(assignment, "csr_matrix", "0.1.0")
    assignment.attrs["shape"] = np.array([n_cells, model.n_guides])
    # One integer type for both: scipy fails on a matrix that mixes them.
    indptr = assignment.create_dataset("indptr", n_cells + 1, np.int32)
    indices, data = (
        assignment.create_dataset(
            name, 0, dtype, maxshape=(None,), chunks=(_ENTRIES_PER_HDF5_CHUNK,)
        )
        for name, dtype in (("indices", np.int32), ("data", np.int8))
    )

    tables = []
    blocks_per_chunk = math.ceil(chunk_cells / CELLS_PER_BLOCK)
    blocks = _draw_blocks(model, n_cells)
    start = 0
    while chunk := list(islice(blocks, blocks_per_chunk)):
        stop = start + sum(len(cells.batch) for cells in chunk)
        usage[start:stop] = np.concatenate([cells.usage for cells in chunk])
        n_guides = np.concatenate([cells.n_guides for cells in chunk])
        indptr[start + 1 : stop + 1] = len(indices) + np.cumsum(n_guides)
        guides = np.concatenate([cells.guides for cells in chunk])
        _append(indices, guides)
        _append(data, np.ones(len(guides), np.int8))
        tables += [_table(model, cells) for cells in chunk]
        start = stop

    obs = pd.concat(tables, ignore_index=True)
    obs.index = pd.Index([f"cell_{i:07d}" for i in range(1, n_cells + 1)])
    write_elem(file, "obs", obs)
    covar = obs.assign(n_umis=np.log(obs["n_umis"])).rename(columns={"n_umis": "log_n_umis"})
    if model.n_batches == 1:
        # A constant is no covariate.
        covar = covar.drop(columns="batch")
    write_elem(obsm, "covar", covar)
    write_elem(file, "var", pd.DataFrame(index=pd.Index([], dtype=str)))
    for name in ("varm", "obsp", "varp", "layers"):
        write_elem(file, name, {})
    write_elem(file, "uns", _names_and_truth(model))


def _mark(node: h5py.Group | h5py.Dataset, encoding: str, version: str) -> None:
    node.attrs["encoding-type"] = encoding
    node.attrs["encoding-version"] = version


def _append(dataset: h5py.Dataset, values: np.ndarray) -> None:
    start = len(dataset)
    dataset.resize(start + len(values), axis=0)
    dataset[start:] = values


def _table(model: _Model, cells: _Cells) -> pd.DataFrame:
    batches = [f"batch_{i}" for i in range(1, model.n_batches + 1)]
    return pd.DataFrame(
        {"batch": pd.Categorical.from_codes(cells.batch, batches), "n_umis": cells.n_umis}
        | {f"covariate_{i}": column for i, column in enumerate(cells.covariates.T, start=1)}
    )


def _names_and_truth(model: _Model) -> dict[str, np.ndarray | dict[str, str] | pd.DataFrame]:
    targets = _numbered("GENE", model.n_targets)
    programs = np.array([f"program_{i}" for i in range(1, model.n_programs + 1)])
    guide2gene = {
        f"{target}_g{i}": target
        for target in targets
        for i in range(1, model.guides_per_target + 1)
    } | dict.fromkeys(_numbered("NTC_", model.n_ntc_guides), NTC_LABEL)
    target, program = np.nonzero(model.effects)
    return {
        "guide_names": np.array(list(guide2gene)),
        "guide2gene": guide2gene,
        "program_names": programs,
        "truth": pd.DataFrame(
            {
                "target": np.array(targets)[target],
                "program": programs[program],
                "effect": model.effects[target, program],
            },
            index=[str(i) for i in range(len(target))],
        ),
    }


def _numbered(prefix: str, n: int) -> list[str]:
    width = max(3, len(str(n)))
    return [f"{prefix}{i:0{width}d}" for i in range(1, n + 1)]
