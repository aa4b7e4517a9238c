"""The steps of the kompot rules after the states: files in, files out."""

import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.engines.kompot import (
    How,
    Sides,
    effects,
    exchanges,
    mean_covariance,
    rates_table,
    units_of_samples,
)
from condrand.engines.kompot_states import Values, values_of
from condrand.errors import InputError, listed
from condrand.gp.abundance import Abundance
from condrand.gp.covariance import Inducing
from condrand.gp.density import DensityPrior
from condrand.gp.null_genes import NullGenes
from condrand.io.blocks import block_matrices, open_screen
from condrand.io.shards import join_arrays, read_arrays, read_joined, write_arrays
from condrand.io.states import States, read_states, write_results
from condrand.io.tables import read_parquet, write_effects, write_tsv
from condrand.plan import FEATURES_PER_BLOCK, n_feature_blocks, run_of_shard
from condrand.version import RESULTS_VERSION

log = logging.getLogger(__name__)

_DIRECTIONS = ("down", "neutral", "up")
_BY_GENE = ("mean_log_fold_change", "mahalanobis", "mean_condition1", "mean_condition2")
_BY_CELL = (
    *("log_density_condition1", "log_density_condition2", "log_fold_change", "uncertainty"),
    *("zscore", "neg_log10_ptp", "direction"),
)
_PANELS = ("condition1", "condition2", "fold_change")


# Abundance


def change_abundance(
    states: str | Path, abundance: str | Path, settings: Mapping[str, Any]
) -> None:
    """Step of rule kompot_abundance: the change of density between the conditions, at each cell.

    Parameters
    ----------
    states : str or pathlib.Path
    abundance : str or pathlib.Path
        File to write, as :mod:`condrand.io.states` says.
    settings : mapping
        ``length_scale``, ``ls_factor``, ``min_cells``, ``abundance``.

    Raises
    ------
    InputError
        If the densities cannot be learned.
    """
    shared = read_states(states)
    how = settings["abundance"]
    sides = [np.flatnonzero(shared.second == is_second) for is_second in (False, True)]
    prior = DensityPrior(
        shared.landmarks, ls=settings["length_scale"], ls_factor=settings["ls_factor"]
    )
    labels = [shared.samples[at] if shared.words["uses_samples"] else None for at in sides]
    try:
        found = Abundance.of(
            (shared.x[sides[0]], shared.x[sides[1]]),
            prior,
            (labels[0], labels[1]),
            synchronize=how["synchronize"],
            min_cells=settings["min_cells"],
        )
        change = found.predict(shared.x, threshold=how["threshold"], ptp_threshold=how["ptp"])
    except ValueError as error:
        what = f"{states}: no density can be learned: {error}"
        mend = (
            "lower `n_landmarks` or `embedding.n_components`, raise `min_cells`, or set "
            "`length_scale`."
        )
        raise InputError(f"{what}\n      -> {mend}") from error
    direction = np.select([change.direction == "up", change.direction == "down"], [1, -1], 0)
    arrays = {
        "log_density_condition1": change.log_density1,
        "log_density_condition2": change.log_density2,
        "log_fold_change": change.log_fold_change,
        "uncertainty": change.uncertainty,
        "zscore": change.z,
        "neg_log10_ptp": change.neg_log10_ptp,
        "direction": direction.astype(np.int8),
    }
    n_samples = [0 if s is None else len(s.names) for s in found.samples]
    key = {
        "states": shared.words["digest"],
        "version": RESULTS_VERSION["kompot_abundance"],
        "threshold": how["threshold"],
        "ptp": how["ptp"],
        "sides": 1,
        "synchronize": how["synchronize"],
        "n_samples": n_samples,
    }
    for c, density in enumerate(found.densities, 1):
        key[f"length_scale_condition{c}"] = density.inducing.length_scale
        key[f"dimension_condition{c}"] = density.d
        log.info(
            "%s: %d cells, dimension %.3g, length scale %.4g, %d Newton steps, %d samples",
            *(shared.words["levels"][c - 1], density.n_cells, density.d),
            *(density.inducing.length_scale, density.iterations, n_samples[c - 1]),
        )
    write_arrays(abundance, key, arrays)
    for d, name in zip((-1, 0, 1), _DIRECTIONS, strict=True):
        log.info("%s: %d cells", name, np.count_nonzero(direction == d))


# Expression


def fit_shard(
    screen: str | Path,
    states: str | Path,
    shard: str | Path,
    run: tuple[int, int],
    settings: Mapping[str, Any],
) -> None:
    """Step of rule kompot_shard: the difference of expression of a run of blocks of genes.

    Parameters
    ----------
    screen, states : str or pathlib.Path
    shard : str or pathlib.Path
        File to write, as :mod:`condrand.io.states` says.
    run : (int, int)
        Number of the shard, and of all shards.
    settings : mapping
        ``sigma``, ``empirical_variance``, ``min_cells``, ``cov_combine``.
    """
    shared = read_states(states)
    first, end = run_of_shard(n_feature_blocks(len(shared.features)), run[1], run[0])
    key = {**_shard_key(shared, settings), "first_block": first, "end_block": end}
    log.info("computing starts: %d cells, blocks %d to %d", len(shared.x), first, end)
    if first == end:
        write_arrays(shard, key, {})
        return
    sides = _sides(shared, settings)
    everywhere = mean_covariance(shared.x, sides.inducing)
    values, found = values_of(shared), []
    with open_screen(screen) as file:
        blocks = block_matrices(file, shared.words["key"])
        for b in range(first, end):
            model = sides.fitted(values.of(blocks[b].rows(shared.cells)))
            means = [everywhere @ function.weights for function in model.functions]
            of_block = (means[1] - means[0], sides.distances(model), *means)
            found.append(dict(zip(_BY_GENE, of_block, strict=True)))
            log.info("block %d of %d done", b - first + 1, end - first)
    constant = shared.constant[first * FEATURES_PER_BLOCK : end * FEATURES_PER_BLOCK]
    arrays = join_arrays(found)
    write_arrays(shard, key, {n: np.where(constant, np.nan, a) for n, a in arrays.items()})


def _sides(shared: States, settings: Mapping[str, Any]) -> Sides:
    """The cells of either condition."""
    return Sides.of(
        shared.x,
        (np.flatnonzero(~shared.second), np.flatnonzero(shared.second)),
        Inducing.of(shared.landmarks, shared.words["length_scale"]),
        shared.samples if shared.words["uses_samples"] else None,
        _how(settings),
    )


def _how(settings: Mapping[str, Any]) -> How:
    return How(**{key: settings[key] for key in asdict(How())})


def _shard_key(shared: States, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "states": shared.words["digest"],
        "version": RESULTS_VERSION["kompot_shard"],
        "settings": asdict(_how(settings)),
    }


# Without an effect


def null_shard(
    screen: str | Path,
    states: str | Path,
    shard: str | Path,
    run: tuple[int, int],
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Step of rule kompot_null: distances without an effect.

    Parameters
    ----------
    screen, states : str or pathlib.Path
    shard : str or pathlib.Path
        File to write, as :mod:`condrand.io.states` says.
    run : (int, int)
        Number of the shard, and of all shards, over blocks of null genes or over exchanges.
    settings : mapping
        As of :func:`fit_shard`, and ``null``.
    seed : int

    Raises
    ------
    InputError
        If samples cannot be exchanged.
    """
    shared = read_states(states)
    first, end = run_of_shard(_null_blocks(shared, settings, seed, states), run[1], run[0])
    key = {**_null_key(shared, settings, seed), "first_block": first, "end_block": end}
    log.info("computing starts: null blocks %d to %d", first, end)
    if first == end:
        write_arrays(shard, key, {})
        return
    with open_screen(screen) as file:
        if settings["null"]["kind"] == "genes":
            distances, genes = _null_genes(file, shared, settings, seed, range(first, end))
        else:
            distances, genes = _exchanged(file, shared, settings, seed, slice(first, end))
    write_arrays(shard, key, {"mahalanobis": distances, "gene": genes})
    log.info("%d distances", distances.size)


def _null_blocks(
    shared: States, settings: Mapping[str, Any], seed: int, states: str | Path
) -> int:
    """Blocks of null genes, or exchanges of samples."""
    null = settings["null"]
    if null["kind"] == "genes":
        return n_feature_blocks(null["count"])
    if shared.samples is None:
        what, n = "there is no `sample`", 0
    else:
        n_first, n_second = _units(shared, settings)[1:]
        what = f"{n_first} and {n_second} samples of {settings['min_cells']} cells or more"
        n = len(exchanges(n_first, n_second, null["count"], seed)) if min(n_first, n_second) else 0
        n = n if min(n_first, n_second) > 1 else 0
    if not n:
        mend = "give two samples in each condition, or set `null_distances.kind: genes`."
        raise InputError(f"{states}: null_distances.kind is samples: {what}\n      -> {mend}")
    return n


def _units(shared: States, settings: Mapping[str, Any]) -> tuple[np.ndarray, int, int]:
    return units_of_samples(shared.second, shared.samples, settings["min_cells"])


def _null_genes(
    file: h5py.File, shared: States, settings: Mapping[str, Any], seed: int, blocks: range
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of genes dealt anew, and which genes these are."""
    sides, values = _sides(shared, settings), values_of(shared)
    # A gene that is constant would be a null gene that cannot be far away.
    varying = np.flatnonzero(~shared.constant)
    drawn = NullGenes.of(varying.size, settings["null"]["count"], seed)
    distances, genes = [], []
    for b in blocks:
        at = slice(b * FEATURES_PER_BLOCK, (b + 1) * FEATURES_PER_BLOCK)
        genes.append(varying[drawn.columns[at]])
        y = _gathered(file, shared, values, genes[-1])
        here = NullGenes(np.arange(genes[-1].size), drawn.seeds[at])
        dealt = here.dealt(y[sides.rows[0]], y[sides.rows[1]])
        del y
        distances.append(sides.distances(sides.fitted_to(*dealt)))
        log.info("null block %d of %d done", b - blocks.start + 1, len(blocks))
    return np.concatenate(distances), np.concatenate(genes)


def _gathered(file: h5py.File, shared: States, values: Values, genes: np.ndarray) -> np.ndarray:
    """Expression of the cells in some genes, dense: float64, shape (n, k)."""
    blocks = block_matrices(file, shared.words["key"])
    block, column = np.divmod(genes, FEATURES_PER_BLOCK)
    out = np.empty((len(shared.x), genes.size))
    for b in np.unique(block):
        here = np.flatnonzero(block == b)
        rows = values.of(blocks[b].rows(shared.cells)[:, column[here]])
        out[:, here] = rows.toarray() if sp.issparse(rows) else rows
    return out


def _exchanged(
    file: h5py.File, shared: States, settings: Mapping[str, Any], seed: int, which: slice
) -> tuple[np.ndarray, np.ndarray]:
    """Distances of all genes after some exchanges of samples, and which genes these are.

    Notes
    -----
    Cells of samples that are too small to be exchanged are left out.
    """
    unit, *numbers = _units(shared, settings)
    ways = exchanges(*numbers, settings["null"]["count"], seed)[which]
    inducing = Inducing.of(shared.landmarks, shared.words["length_scale"])
    labels = unit if shared.words["uses_samples"] else None
    how, values = _how(settings), values_of(shared)
    every = []
    for is_second in ways:
        there = unit >= 0
        after = is_second[unit] & there
        rows = (np.flatnonzero(there & ~after), np.flatnonzero(after))
        every.append(Sides.of(shared.x, rows, inducing, labels, how))
    varying = np.flatnonzero(~shared.constant)
    distances = np.empty((len(ways), len(shared.features)))
    blocks = block_matrices(file, shared.words["key"])
    for b, block in enumerate(blocks):
        y = values.of(block.rows(shared.cells))
        at = slice(b * FEATURES_PER_BLOCK, b * FEATURES_PER_BLOCK + y.shape[1])
        for r, sides in enumerate(every):
            distances[r, at] = sides.distances(sides.fitted(y))
        log.info("block %d of %d done", b + 1, len(blocks))
    return distances[:, varying].ravel(), np.tile(varying, len(ways))


def _null_key(shared: States, settings: Mapping[str, Any], seed: int) -> dict[str, Any]:
    return {
        **_shard_key(shared, settings),
        "version": RESULTS_VERSION["kompot_null"],
        "null": {key: settings["null"][key] for key in ("kind", "count")},
        "seed": seed,
    }


# Tables


def test_genes(
    states: str | Path,
    shards: list[str | Path],
    nulls: list[str | Path],
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    seed: int,
    written: Mapping[str, str | Path],
) -> None:
    """Step of rule kompot_effects: join the genes, and compare them with those without an effect.

    Parameters
    ----------
    states : str or pathlib.Path
    shards, nulls : list of str or pathlib.Path
        Without nulls p values are tails of a chi-squared distribution.
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        As of :func:`null_shard`, with ``null.threshold``.
    seed : int
    written : mapping
        Files to write: ``effects`` (Parquet), ``effects_tsv``, ``null_distances``, ``fdr``.

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    shared = read_states(states)
    n_blocks = n_feature_blocks(len(shared.features))
    found = read_joined(shards, _shard_key(shared, settings), n_blocks)
    how, null, source, n_exchanged = settings["null"], None, "chi2", 0
    distances = {"mahalanobis": np.zeros(0), "gene": np.zeros(0, np.int64)}
    if how["count"]:
        n_null = _null_blocks(shared, settings, seed, states)
        key = _null_key(shared, settings, seed)
        distances = read_joined(nulls, key, n_null)
        null, source = distances["mahalanobis"], f"null_{how['kind']}"
        n_exchanged = n_null if how["kind"] == "samples" else 0
    levels = shared.words["levels"]
    words = {
        "target": f"{levels[1]}_vs_{levels[0]}",
        "effect_scale": shared.words["effect_scale"],
        "n_first": int(np.count_nonzero(~shared.second)),
        "n_second": int(np.count_nonzero(shared.second)),
        "n_dimensions": shared.x.shape[1],
    }
    constant, threshold = shared.constant, how["threshold"]
    try:
        table = effects(
            *(labels, shared.features, found, constant, null, source, words, threshold)
        )
    except ValueError as error:
        raise InputError(f"{states}: {error}\n      -> set `null_distances.count: 0`.") from error
    # Distances tell apart genes whose p values are the same.
    by_distance = write_effects(table, written["effects"], written["effects_tsv"], "statistic")
    names = np.array(shared.features, dtype=object)[distances["gene"]]
    nulls_table = pd.DataFrame({"gene": names, "distance": distances["mahalanobis"]})
    write_tsv(nulls_table, written["null_distances"])
    rates = rates_table(table, null, threshold, n_exchanged)
    write_tsv(rates, written["fdr"])
    log.info("%s", ", ".join(f"{what} {value:.6g}" for what, value in rates.to_numpy()))
    log.info("farthest: %s", listed(by_distance["feature"].head(10), 10))


# Cells


def smooth_top_genes(
    screen: str | Path,
    states: str | Path,
    effects: str | Path,
    panels: str | Path,
    settings: Mapping[str, Any],
) -> None:
    """Step of rule kompot_panels: smoothed expression of the genes of largest distance.

    Parameters
    ----------
    screen, states, effects : str or pathlib.Path
    panels : str or pathlib.Path
        File to write, as :mod:`condrand.io.states` says.
    settings : mapping
        As of :func:`fit_shard`, and ``panels``: how many genes.
    """
    shared = read_states(states)
    table = read_parquet(effects, ["feature", "statistic"])
    # By rows: they are in the order of the features.
    distance = table["statistic"].to_numpy()
    order = np.argsort(-distance, kind="stable")[: settings["panels"]]
    genes = order[np.isfinite(distance[order])]
    arrays = {name: np.zeros((len(shared.x), 0)) for name in _PANELS}
    if genes.size:
        sides = _sides(shared, settings)
        with open_screen(screen) as file:
            y = _gathered(file, shared, values_of(shared), genes)
        found = sides.fitted(y).predict(shared.x)
        arrays = {
            "condition1": found["condition1_smoothed"],
            "condition2": found["condition2_smoothed"],
            "fold_change": found["fold_change"],
        }
    names = [shared.features[g] for g in genes]
    key = {
        "states": shared.words["digest"],
        "version": RESULTS_VERSION["kompot_panels"],
        "genes": names,
    }
    write_arrays(panels, key, arrays)
    log.info("%d genes: %s", len(names), listed(names, 10))


def write_cells(
    states: str | Path, abundance: str | Path, panels: str | Path, cells: str | Path
) -> None:
    """Step of rule kompot_cells: all results by cell, for users.

    Parameters
    ----------
    states, abundance, panels : str or pathlib.Path
    cells : str or pathlib.Path
        .h5ad to write.

    Raises
    ------
    InputError
        If the files are of different analyses.
    """
    shared = read_states(states)
    (key, by_cell), (panel_key, of_genes) = read_arrays(abundance), read_arrays(panels)
    for path, digest in ((abundance, key["states"]), (panels, panel_key["states"])):
        if digest != shared.words["digest"]:
            raise InputError(f"{path}: was made for other cells than {states}\n      -> remove it")
    columns = {name: by_cell[name] for name in _BY_CELL}
    codes = columns["direction"].astype(np.int64) + 1
    columns["direction"] = pd.Categorical.from_codes(codes, _DIRECTIONS)
    layers = {name: of_genes[name] for name in _PANELS}
    write_results(cells, shared, columns, panel_key["genes"], layers)
    log.info("%d cells, %d genes", len(shared.x), len(panel_key["genes"]))
