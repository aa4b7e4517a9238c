"""The step that says which cells are compared, and where they lie among all states."""

import logging
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pandas as pd
import scipy.sparse as sp

from condrand.engines.kompot import effect_scale, is_constant, n_exchanges, units_of_samples
from condrand.engines.stored_values import transform_of
from condrand.errors import Problems, listed, nearest, quoted
from condrand.gp.covariance import Inducing
from condrand.gp.expression import MOST_POINTS
from condrand.gp.neighbours import landmarks as clustered
from condrand.gp.neighbours import length_scale, nearest_distances
from condrand.io.blocks import block_matrices, open_screen, outcome_name
from condrand.io.h5ad import Matrix, read
from condrand.io.states import States, embedding_name, write_states
from condrand.io.tables import write_tsv
from condrand.outcomes.embedding import (
    diffusion_components,
    moments,
    most_variable,
    principal_components,
)
from condrand.outcomes.expression import log1p_cpm
from condrand.plan import FEATURES_PER_BLOCK

log = logging.getLogger(__name__)

# Fewer cells have no neighbourhoods to learn from.
FEWEST_CELLS = 10
# Cells whose chosen features are held at once, dense.
_CELLS_AT_ONCE = 4096

Rows = np.ndarray | sp.csr_matrix


@dataclass(frozen=True)
class Values:
    """What a stored value stands for.

    Attributes
    ----------
    transform : {"log_normalize", "logged", "none"}
    target_sum : float
    library : float64, shape (n,) or (0,)
        Of the cells; none if empty.
    """

    transform: str
    target_sum: float
    library: np.ndarray

    def of(self, rows: Rows, cells: slice = slice(None)) -> Rows:
        """Expression of some of the cells: float64, sparse where the rows are."""
        rows = rows.astype(np.float64)
        if self.transform != "log_normalize":
            return rows
        return log1p_cpm(rows, self.library[cells], self.target_sum)


def values_of(states: States) -> Values:
    """How the stored values of an analysis become expression."""
    words = states.words
    return Values(words["transform"], float(words["target_sum"]), states.library)


def place_cells(
    screen: str | Path,
    states: str | Path,
    sizes: str | Path,
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Step of rule kompot_states: which cells are compared, and where they lie.

    Parameters
    ----------
    screen : str or pathlib.Path
        Of the load stage.
    states : str or pathlib.Path
        File to write: a :class:`.States`.
    sizes : str or pathlib.Path
        Table to write: ``what`` and ``number`` of cells, landmarks, samples that have functions of
        their own, and features.
    settings : mapping
        The analysis.
    seed : int
        Of the landmarks.

    Raises
    ------
    InputError
        Listing everything by which the cells cannot be compared.
    """
    problems, notes = Problems(str(screen)), []
    with open_screen(screen) as file:
        cells, second, samples = _cells(file, settings, problems, notes)
        problems.report()
        names = [str(name) for name in np.asarray(read(file, "obs").index)[cells]]
        levels = _sample_levels(file, settings)
        uses_samples = _uses_samples(second, samples, levels, settings, problems, notes)
        values, words = _values(file, settings, cells)
        given = settings["embedding"]["key"]
        if given is not None:
            stored = _stored_states(file, given, cells, names, "embedding.key", problems)
        plotted = None
        if settings["plot_embedding"] is not None:
            where = settings["plot_embedding"]
            plotted = _stored_states(file, where, cells, names, "plot_embedding", problems)
        digest = str(read(file, f"uns/digest.{outcome_name(words['key'])}"))
        features = [str(f) for f in read(file, f"uns/features.{outcome_name(words['key'])}")]
        blocks = block_matrices(file, words["key"])
        constant, mean, variance = _features(blocks, values, cells)
        if constant.all():
            problems.add(
                settings["outcome"]["key"],
                f"all {constant.size:,} features are constant in the {cells.size:,} cells of both "
                "conditions",
                "correct `outcome.key`, or the conditions.",
            )
        problems.report()
        x, state = (stored, f"{given} of the file") if given is not None else (None, "")
        if x is None:
            pieces = _Pieces(blocks, values, cells)
            x, state = _computed(pieces, mean, variance, settings["embedding"], problems, notes)
            problems.report()
    _check_states(x, names, state, problems, notes)
    problems.report()
    landmarks, scale = _landmarks(x, second, settings, seed, problems, notes)
    problems.report()
    where_drawn = settings["plot_embedding"]
    if plotted is None:
        plotted = np.zeros((len(x), 2))
        plotted[:, : min(2, x.shape[1])] = x[:, :2]
        where_drawn = f"first two components, {state}"
    words |= {
        "levels": list(settings["levels"]),
        "condition": settings["condition"],
        "sample": settings["sample"] or "",
        "length_scale": scale,
        "state": state,
        "plotted": where_drawn,
        "uses_samples": uses_samples,
        "outcome_digest": digest,
        "notes": "\n".join(notes),
    }
    for note in notes:
        log.warning(note)
    there = np.zeros(0, np.int64) if samples is None else np.unique(samples)
    found = States(
        cells,
        names,
        np.ascontiguousarray(x),
        second,
        None if samples is None else np.searchsorted(there, samples),
        [levels[code] for code in there],
        landmarks,
        values.library,
        np.ascontiguousarray(plotted[:, :2]),
        features,
        constant,
        words,
    )
    write_states(states, found)
    n_samples = 0
    if uses_samples:
        n_samples = sum(units_of_samples(second, samples, settings["min_cells"])[1:])
    numbers = {
        "n_cells": cells.size,
        "n_landmarks": len(landmarks),
        "n_samples": n_samples,
        "n_features": len(features),
    }
    write_tsv(pd.DataFrame({"what": list(numbers), "number": list(numbers.values())}), sizes)
    log.info(
        "%d cells of %s, %d of %s; %s; %d landmarks, length scale %.4g; samples %s",
        *(np.count_nonzero(~second), settings["levels"][0]),
        *(np.count_nonzero(second), settings["levels"][1]),
        *(state, len(landmarks), scale, "count" if uses_samples else "do not count"),
    )


# Cells and samples


def _groups(file: h5py.File, column: str) -> tuple[np.ndarray, list[str]]:
    """Code of each cell in a column, -1 for none, and the names of the codes."""
    codes = read(file, f"obsm/groups.{column}").ravel()
    return codes, [str(level) for level in read(file, f"uns/levels.groups.{column}")]


def _sample_levels(file: h5py.File, settings: Mapping[str, Any]) -> list[str]:
    return [] if settings["sample"] is None else _groups(file, settings["sample"])[1]


def _cells(
    file: h5py.File, settings: Mapping[str, Any], problems: Problems, notes: list[str]
) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
    """Cells of both conditions; whether each is of the second; its sample."""
    column, sample = settings["condition"], settings["sample"]
    nothing = np.zeros(0, np.int64), np.zeros(0, bool), None
    codes, levels = _groups(file, column)
    strangers = [level for level in settings["levels"] if level not in levels]
    if strangers:
        hints = "".join(f"{n}: {close}" for n in strangers if (close := nearest(n, levels)))
        problems.add(
            f"obs/{column}",
            f"has no condition {quoted(strangers)}",
            f"correct `levels`. {hints}There are: {quoted(levels, 10)}.",
        )
    if sample == column:
        problems.add(
            f"obs/{column}",
            "is both the condition and the sample",
            "set `sample` to a column with several samples in each condition, or leave it out.",
        )
    if settings["levels"][0] == settings["levels"][1]:
        problems.add("levels", f"names {settings['levels'][0]!r} twice", "name two conditions.")
    if problems.found:
        return nothing
    first, second = (levels.index(level) for level in settings["levels"])
    cells = np.flatnonzero((codes == first) | (codes == second)).astype(np.int64)
    samples = None
    if sample is not None:
        of_cell = _groups(file, sample)[0][cells]
        without = of_cell < 0
        if without.any():
            notes.append(f"{without.sum():,} cells without {sample!r} are left out")
        cells, samples = cells[~without], of_cell[~without]
    is_second = codes[cells] == second
    for level, n in zip(
        settings["levels"], (np.count_nonzero(~is_second), is_second.sum()), strict=True
    ):
        if n < FEWEST_CELLS:
            problems.add(
                f"obs/{column}",
                f"has {n} cells of {level!r}" + (f" with a {sample!r}" if sample else ""),
                f"a condition needs {FEWEST_CELLS} cells or more.",
            )
    return cells, is_second, samples


def _uses_samples(
    second: np.ndarray,
    samples: np.ndarray | None,
    levels: list[str],
    settings: Mapping[str, Any],
    problems: Problems,
    notes: list[str],
) -> bool:
    """Whether variance over samples counts; too few of them are a problem where it was asked."""
    wanted, least = settings["sample_variance"], settings["min_cells"]
    null = settings.get("null", {"kind": "genes", "count": 0})
    exchanged = null["kind"] == "samples" and null["count"] > 0
    asked, mends = [], []
    if wanted is True:
        asked, mends = ["`sample_variance: true`"], ["`sample_variance: false`"]
    if exchanged:
        asked.append("`null_distances.kind: samples`")
        mends.append("`null_distances.kind: genes`")
    if samples is None:
        if asked:
            problems.add(
                "sample",
                f"is missing, and {' and '.join(asked)} need samples",
                f"name their column of obs with `sample`, or set {' and '.join(mends)}.",
            )
        return False
    sides = []
    for is_second, level in zip((False, True), settings["levels"], strict=True):
        codes, sizes = np.unique(samples[second == is_second], return_counts=True)
        sides.append(codes)
        small = [f"{levels[c]} ({n})" for c, n in zip(codes, sizes, strict=True) if n < least]
        if small:
            notes.append(
                f"{level}: samples of fewer than {least} cells have no function of their own: "
                f"{listed(small, 20)}"
            )
    both = np.intersect1d(*sides)
    if both.size:
        notes.append(
            "these samples have cells of both conditions, which count as separate samples: "
            f"{listed([levels[code] for code in both], 20)}"
        )
    _, *numbers = units_of_samples(second, samples, least)
    for level, n in zip(settings["levels"], numbers, strict=True):
        if n < 2 and asked:
            problems.add(
                f"obs/{settings['sample']}",
                f"{level!r} has {n} samples of {least} cells or more, and "
                f"{' and '.join(asked)} need two",
                f"lower `min_cells`, or set {' and '.join(mends)}.",
            )
        elif n < 2 and wanted == "auto":
            notes.append(
                f"{level}: {n} samples of {least} cells or more, so differences between samples "
                "do not count"
            )
    enough = min(numbers) > 1
    if exchanged and enough and n_exchanges(*numbers) < null["count"]:
        notes.append(
            f"{numbers[0]} and {numbers[1]} samples can be exchanged in {n_exchanges(*numbers):,} "
            f"ways, fewer than `null_distances.count` {null['count']:,}"
        )
    return enough and wanted is not False


# Expression


def _values(
    file: h5py.File, settings: Mapping[str, Any], cells: np.ndarray
) -> tuple[Values, dict[str, Any]]:
    """What stored values stand for, and this in words."""
    outcome = settings["outcome"]
    transform, library = transform_of(file, outcome)
    library = library[cells] if library.size else library
    target_sum = float(outcome["target_sum"])
    values = {
        "log_normalize": f"log(1 + counts per {target_sum:,g})",
        "logged": "logarithms as stored",
        "none": "as stored",
    }
    words = {
        "key": outcome["key"],
        "transform": transform,
        "target_sum": target_sum,
        "values": values[transform],
        "effect_scale": effect_scale(transform, target_sum),
    }
    return Values(transform, target_sum, library), words


def _features(
    blocks: list[Matrix], values: Values, cells: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which features are constant, and the mean and variance of each."""
    found = []
    for block in blocks:
        rows = values.of(block.rows(cells))
        found.append((is_constant(rows), *moments(rows)))
    constant, mean, variance = (np.concatenate(parts) for parts in zip(*found, strict=True))
    # Rounding makes no feature vary.
    return constant, mean, np.where(constant, 0.0, variance)


# States


class _Pieces:
    """Expression of the cells in chosen features, dense, some cells at a time.

    Parameters
    ----------
    blocks : list of Matrix
    values : Values
    cells : int64, shape (n,)
    """

    def __init__(self, blocks: list[Matrix], values: Values, cells: np.ndarray) -> None:
        self._blocks, self._values, self._cells = blocks, values, cells

    def of(self, chosen: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
        """Gives them anew each time: float64, shape (n_some, n_chosen)."""
        block, column = np.divmod(chosen, FEATURES_PER_BLOCK)
        wanted = [(b, column[block == b]) for b in np.unique(block)]

        def pieces() -> Iterator[np.ndarray]:
            for start in range(0, self._cells.size, _CELLS_AT_ONCE):
                at = slice(start, start + _CELLS_AT_ONCE)
                parts = []
                for b, columns in wanted:
                    rows = self._values.of(self._blocks[b].rows(self._cells[at])[:, columns], at)
                    parts.append(rows.toarray() if sp.issparse(rows) else rows)
                yield np.hstack(parts)

        return pieces


def _computed(
    pieces: _Pieces,
    mean: np.ndarray,
    variance: np.ndarray,
    settings: Mapping[str, Any],
    problems: Problems,
    notes: list[str],
) -> tuple[np.ndarray, str]:
    """Cell states from expression, and what they are in words."""
    wanted = settings["n_components"]
    chosen = most_variable(variance, settings["n_features"])
    made = principal_components(pieces.of(chosen), mean[chosen], wanted)
    n_found = made.scores.shape[1]
    log.info(
        "%d principal components of %d features: %.3g %% of their variance",
        *(n_found, chosen.size, 100 * made.share.sum()),
    )
    if n_found < wanted:
        notes.append(f"{n_found} components vary, not the {wanted} of `embedding.n_components`")
    state = f"{n_found} principal components of {chosen.size:,} features"
    if settings["method"] == "pca":
        return made.scores, state
    try:
        found = diffusion_components(made.scores, wanted, settings["n_neighbors"])
    except ValueError as error:
        problems.add(
            "embedding",
            str(error),
            "raise `embedding.n_neighbors`, use `embedding.method: pca`, or name states of your "
            "own with `embedding.key`.",
        )
        return made.scores, state
    return found, f"{found.shape[1]} diffusion components of {state}"


def _stored_states(
    file: h5py.File,
    key: str,
    cells: np.ndarray,
    names: list[str],
    setting: str,
    problems: Problems,
) -> np.ndarray | None:
    """States that the file holds; None, and a problem, where they are not to be used."""
    found = read(file, f"obsm/{embedding_name(key)}")[cells]
    bad = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if bad.size:
        problems.add(
            key,
            f"{bad.size:,} cells have NaN or infinite values ({quoted([names[i] for i in bad])})",
            f"leave these cells out, or name another `{setting}`.",
        )
    elif setting == "plot_embedding" and found.shape[1] < 2:
        problems.add(key, "has one column", "name two coordinates with `plot_embedding`.")
    else:
        return found
    return None


def _check_states(
    x: np.ndarray, names: list[str], state: str, problems: Problems, notes: list[str]
) -> None:
    """What is wrong, or odd, with where the cells lie."""
    still = np.flatnonzero(x.min(axis=0) == x.max(axis=0))
    mend = "name other states with `embedding.key`, or leave it out to compute them."
    if still.size == x.shape[1]:
        problems.add("embedding", f"all {len(x):,} cells lie at one point ({state})", mend)
        return
    if still.size:
        notes.append(
            f"these dimensions are the same in all cells, counted from 0: {listed(still.tolist())}"
        )
    order = np.lexsort(x.T)
    same = (x[order[1:]] == x[order[:-1]]).all(axis=1)
    if same.any():
        twice = np.sort(order[1:][same])
        notes.append(
            f"{twice.size:,} cells lie where another does; they count as near as the nearest two "
            f"others: {quoted([names[i] for i in twice], 3)}"
        )


def _landmarks(
    x: np.ndarray,
    second: np.ndarray,
    settings: Mapping[str, Any],
    seed: int,
    problems: Problems,
    notes: list[str],
) -> tuple[np.ndarray, float]:
    """Landmarks among the cells of both conditions, and the length scale."""
    n_wanted = settings["n_landmarks"]
    if min(n_wanted, len(x)) > MOST_POINTS:
        problems.add(
            "n_landmarks",
            f"is {n_wanted:,}, and distances of genes are over {MOST_POINTS:,} points at most",
            "lower it; 500 to 5,000 are usual.",
        )
        return x[:0], np.nan
    if n_wanted >= len(x):
        log.info("%d cells, no more than `n_landmarks` %d: each is a landmark", len(x), n_wanted)
    # The conditions one after the other, as notebook functions have them.
    points = clustered(np.vstack([x[~second], x[second]]), n_wanted, seed)
    scale = settings["length_scale"]
    try:
        if scale is None:
            scale = length_scale(nearest_distances(x[~second]), settings["ls_factor"])
        Inducing.of(points, scale)
    except ValueError as error:
        problems.add(
            "embedding",
            str(error),
            "lower `n_landmarks`, or set `length_scale` (ls_factor makes it longer or shorter).",
        )
        return points, np.nan
    return points, float(scale)
