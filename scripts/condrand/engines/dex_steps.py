"""The steps of the dex rules: files in, files out, around :mod:`condrand.engines.dex`."""

import logging
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from condrand.engines.dex import MEASURES, Settings, Sums, effects, sums
from condrand.io.blocks import block_matrices, open_screen
from condrand.io.comparisons import Comparisons, read_comparisons
from condrand.io.h5ad import Matrix
from condrand.io.outcome import read_features
from condrand.io.shards import read_shards, write_arrays
from condrand.io.tables import write_parquet_parts
from condrand.outcomes.expression import log1p_cpm
from condrand.plan import n_feature_blocks, run_of_shard
from condrand.twosample.control import ControlTables
from condrand.twosample.rows import Needs, Scaling
from condrand.version import RESULTS_VERSION

log = logging.getLogger(__name__)

# Rows of a row group, where units have fewer; units are merged one by one.
_LEAST_ROWS = 1000


def sum_shard(
    screen: str | Path,
    outcome: str | Path,
    shard: str | Path,
    batch: int,
    run: tuple[int, int],
    test: str,
    threads: int,
) -> None:
    """Step of rule dex_shard: sums of a batch of units over a run of blocks of features.

    Parameters
    ----------
    screen : str or pathlib.Path
        Of the load stage.
    outcome : str or pathlib.Path
        Comparisons of the analysis.
    shard : str or pathlib.Path
        File to write.
    batch : int
    run : (int, int)
        Number of the shard, and of all shards of a batch.
    test : {"mwu", "welch"}
        Says which sums are needed.
    threads : int
    """
    shared = read_comparisons(outcome)
    units = np.flatnonzero(shared.batch == batch)
    # Natural sums always: another kind of mean needs no other shards.
    needs = replace(Settings(test).needs, natural=True)
    with open_screen(screen) as file:
        blocks = block_matrices(file, shared.words["key"])
        first, end = run_of_shard(len(blocks), run[1], run[0])
        log.info("computing starts: %d units, blocks %d to %d", units.size, first, end)
        found = []
        for b in range(first, end):
            found.append(_sums_of_block(blocks[b], shared, units, needs, threads))
            log.info("block %d of %d done", b - first + 1, end - first)
    key = {**_shard_key(shared, units, test), "first_block": first, "end_block": end}
    write_arrays(shard, key, Sums.of_features(found).as_arrays() if found else {})


def _sums_of_block(
    block: Matrix, shared: Comparisons, units: np.ndarray, needs: Needs, threads: int
) -> Sums:
    """Sums of some units over one block of features."""
    members = [shared.cells[unit] for unit in units]
    wanted = _any_of([shared.control, *members])
    rows = block.rows(wanted)
    library = shared.library[wanted] if shared.library.size else None
    measure = MEASURES[shared.words["transform"]]
    if library is not None and shared.words["ties"] == "rounded":
        rows = log1p_cpm(rows, library, shared.words["target_sum"])
        library, measure = None, "logged"
    is_counts = shared.words["is_counts"] and library is None and measure != "logged"

    scaling = Scaling(measure, shared.words["target_sum"])
    order = np.searchsorted(wanted, shared.control)
    tables = ControlTables.of(
        rows, library, scaling, order=order, counts=is_counts, needs=needs, threads=threads
    )
    ends = np.cumsum([0, *(cells.size for cells in members)])
    order = np.searchsorted(wanted, np.concatenate([np.zeros(0, np.int64), *members]))
    within = shared.within[units]
    return sums(tables, rows, ends, within, library, order=order, threads=threads)


def _any_of(sets: list[np.ndarray]) -> np.ndarray:
    """Cells in any of some sets, sorted."""
    taken = np.zeros(1 + max((int(cells.max(initial=-1)) for cells in sets), default=-1), bool)
    for cells in sets:
        taken[cells] = True
    return np.flatnonzero(taken)


def merge_batch(
    outcome: str | Path,
    shards: list[str | Path],
    table: str | Path,
    batch: int,
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    threads: int = 1,
) -> None:
    """Step of rule dex_merge: join the blocks of features of a batch and test.

    Parameters
    ----------
    outcome : str or pathlib.Path
    shards : list of str or pathlib.Path
    table : str or pathlib.Path
        Parquet file to write.
    batch : int
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        The analysis.
    threads : int

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    shared, features = read_comparisons(outcome), read_features(outcome)
    units = np.flatnonzero(shared.batch == batch)
    expected = _shard_key(shared, units, settings["test"])
    read = read_shards(shards, expected, n_feature_blocks(len(features)))
    joined = Sums.of_features([Sums.from_arrays(arrays) for arrays in read])
    how = Settings(
        settings["test"],
        MEASURES[shared.words["transform"]],
        settings["geometric_mean"],
        settings["pseudocount"],
        settings["continuity"],
        settings["exact_max_cells"],
    )
    every_name = sorted({shared.names[unit] for unit in units})
    every_kind = sorted({shared.kinds[unit] for unit in units})

    def rows() -> Iterator[pd.DataFrame]:
        # A batch without units has a table all the same, of no rows.
        for part in _parts([shared.kinds[unit] for unit in units], len(features)):
            names = [shared.names[units[i]] for i in part]
            found = joined.of(part)
            some = effects(*labels, names, features, found, how, shared.words["values"], threads)
            some["target"] = some["target"].cat.set_categories(every_name)
            kind = every_kind.index(shared.kinds[units[part[0]]]) if part.size else -1
            codes = np.full(len(some), kind, np.int8)
            some.insert(0, "kind", pd.Categorical.from_codes(codes, every_kind))
            yield some

    write_parquet_parts(rows(), table)
    log.info("%d units, %d features", units.size, len(features))


def _parts(kinds: list[str], n_features: int) -> Iterator[np.ndarray]:
    """Consecutive units of one kind, so many that a row group is worth its header."""
    most = max(1, _LEAST_ROWS // max(1, n_features))
    start = 0
    while start < len(kinds) or not start:
        stop = start
        while stop < len(kinds) and stop < start + most and kinds[stop] == kinds[start]:
            stop += 1
        yield np.arange(start, stop)
        if stop == len(kinds):
            return
        start = stop


def _shard_key(shared: Comparisons, units: np.ndarray, test: str) -> dict[str, Any]:
    return {
        "outcome": shared.words["digest"],
        "kinds": [shared.kinds[unit] for unit in units],
        "names": [shared.names[unit] for unit in units],
        "test": test,
        "version": RESULTS_VERSION["dex_shard"],
    }
