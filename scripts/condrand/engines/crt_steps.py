"""Steps of the crt rules: each reads files, calls :mod:`condrand.engines.crt`, writes files."""

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from condrand.engines.crt import DIAGNOSTICS, Batch, prepare, resample
from condrand.io.outcome import Outcome, OutcomeHeader, read_header, read_outcome, read_treated
from condrand.io.shards import (
    ShardError,
    check_shards,
    differences,
    read_arrays,
    write_arrays,
)
from condrand.nulls.summary import NullSummary
from condrand.plan import BLOCK, n_blocks
from condrand.propensity import PropensityModel
from condrand.units import NTC_GROUP, NTC_GUIDE, units_of_batch
from condrand.version import RESULTS_VERSION

if TYPE_CHECKING:  # pandas would delay the start of every shard job
    import pandas as pd

log = logging.getLogger(__name__)

_NULL_COUNTS = "null_counts"


def prepare_batch(
    screen: str | Path,
    units: list[str | Path],
    outcome: str | Path,
    propensity: str | Path,
    batch: int,
    wanted: list[str] | str,
    controls: str,
    settings: Mapping[str, Any],
) -> None:
    """Step of rule crt_propensity: see :func:`condrand.engines.crt.prepare`.

    Parameters
    ----------
    screen : str or pathlib.Path
        Of the load stage.
    units : list of str or pathlib.Path
        Tables of units: the screen's targets, the analysis's NTC groups.
    outcome : str or pathlib.Path
        Of the normalize stage.
    propensity : str or pathlib.Path
        File to write.
    batch : int
    wanted : list of str or "all"
        Targets of the analysis.
    controls : {"groups", "guides", "none"}
        Which NTC guides are tested as pseudo-targets.
    settings : mapping
        ``propensity``, ``sampler`` and ``stratify`` of the analysis.
    """
    shared = read_outcome(outcome)
    tested = units_of_batch(units, batch, wanted, controls)
    kinds, names = [kind for kind, _, _ in tested], [name for _, name, _ in tested]
    treated = treated_of(screen, tested)
    fitted = prepare(
        shared,
        kinds,
        names,
        treated,
        settings["propensity"]["inverse_penalty"],
        settings["propensity"]["clip"],
        settings["sampler"],
        settings["stratify"],
    )
    key = {
        "outcome": shared.digest,
        "kinds": kinds,
        "names": names,
        "notes": fitted.notes,
        "clip": settings["propensity"]["clip"],
        "version": RESULTS_VERSION["crt_propensity"],
    }
    sizes = np.array([cells.size for cells in treated], dtype=np.int64)
    arrays = {
        "treated": np.concatenate([np.zeros(0, np.int64), *treated]),
        "treated_ends": np.cumsum(sizes),
        "coefficients": fitted.model.coefficients,
        "converged": fitted.model.converged,
        "effect": fitted.effect,
        "observed": fitted.observed,
        "centre": fitted.centre,
        "scale": fitted.scale,
        **fitted.diagnostics,
    }
    write_arrays(propensity, key, arrays)
    log.info("%d units, %d of them testable", len(tested), fitted.notes.count(""))


def treated_of(screen: str | Path, tested: list[tuple[str, str, list[str]]]) -> list[np.ndarray]:
    """Treated cells of units, sorted int64[::1]; a group's are the union of its guides'."""
    stored = [(kind, name) for kind, name, _ in tested if kind != NTC_GROUP]
    members = {guide for kind, _, guides in tested if kind == NTC_GROUP for guide in guides}
    asked = stored + [(NTC_GUIDE, guide) for guide in sorted(members)]
    found = dict(zip(asked, read_treated(screen, asked), strict=True))
    return [
        np.unique(np.concatenate([found[NTC_GUIDE, guide] for guide in guides]))
        if kind == NTC_GROUP
        else found[kind, name]
        for kind, name, guides in tested
    ]


def read_batch(propensity: str | Path) -> tuple[Batch, dict[str, Any]]:
    """Read what :func:`prepare_batch` wrote, and its key."""
    key, arrays = read_arrays(propensity)
    ends = arrays["treated_ends"]
    batch = Batch(
        key["kinds"],
        key["names"],
        np.split(arrays["treated"], ends)[: ends.size],
        key["notes"],
        PropensityModel(arrays["coefficients"], arrays["converged"], key["clip"]),
        *(arrays[name] for name in ("effect", "observed", "centre", "scale")),
        {name: arrays[name] for name in DIAGNOSTICS},
    )
    return batch, key


def resample_shard(
    outcome: str | Path,
    propensity: str | Path,
    shard: str | Path,
    blocks: tuple[int, int],
    resamples: int,
    seed: int,
    threads: int,
    settings: Mapping[str, Any],
) -> None:
    """Step of rule crt_shard: see :func:`condrand.engines.crt.resample`.

    Parameters
    ----------
    outcome, propensity : str or pathlib.Path
    shard : str or pathlib.Path
        File to write.
    blocks : (int, int)
        First block, and the first after the last.
    resamples, seed, threads : int
    settings : mapping
        ``sampler`` and ``stratify`` of the analysis.
    """
    shared = read_outcome(outcome)
    batch, batch_key = read_batch(propensity)
    check_same_outcome(propensity, batch_key, shared)
    log.info("computing starts: %d units, blocks %d to %d", len(batch.names), *blocks)
    null_counts = np.zeros(min(resamples, BLOCK) if blocks[0] == 0 else 0, np.int64)
    summaries = resample(
        shared,
        batch,
        range(*blocks),
        resamples,
        seed,
        threads,
        settings["sampler"],
        settings["stratify"],
        null_counts,
    )
    key = {
        **_shard_key(batch_key, seed, settings),
        "first_block": blocks[0],
        "end_block": blocks[1],
    }
    arrays = NullSummary.stacked(summaries, len(shared.features))
    write_arrays(shard, key, {**arrays, _NULL_COUNTS: null_counts})


def merge_batch(
    outcome: str | Path,
    propensity: str | Path,
    shards: list[str | Path],
    null: str | Path,
    null_counts: str | Path,
    settings: Mapping[str, Any],
    seed: int,
) -> None:
    """Step of rule crt_merge: add the shards of a batch.

    Parameters
    ----------
    outcome, propensity : str or pathlib.Path
    shards : list of str or pathlib.Path
    null : str or pathlib.Path
        File to write: the summaries of all resamples.
    null_counts : str or pathlib.Path
        TSV to write: how many leave-one-out p values of NTC groups equal each j/B.
    settings : mapping
        ``resamples``, ``sampler`` and ``stratify`` of the analysis.
    seed : int

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    import pandas as pd

    from condrand.io.tables import write_tsv

    shared = read_header(outcome)
    batch, batch_key = read_batch(propensity)
    check_same_outcome(propensity, batch_key, shared)
    total = [NullSummary.empty(len(shared.features)) for _ in batch.names]
    counts = np.zeros(min(settings["resamples"], BLOCK), np.int64)
    expected = _shard_key(batch_key, seed, settings)
    keys = []
    for path in shards:
        key, arrays = read_arrays(path)
        keys.append(key)
        if not differences(key, expected):
            part_counts = arrays.pop(_NULL_COUNTS)
            if part_counts.size == counts.size:
                counts += part_counts
            for g, part in enumerate(NullSummary.unstacked(arrays)):
                total[g] += part
    check_shards(shards, keys, expected, n_blocks(settings["resamples"]))
    for name, note, summary in zip(batch.names, batch.notes, total, strict=True):
        # The key holds no B, so that raising it keeps finished shards; the counts tell.
        if not note and summary.n[0] != settings["resamples"]:
            raise ShardError(
                f"{Path(shards[-1]).parent}: {summary.n[0]:,} resamples of {name}, not "
                f"{settings['resamples']:,}: the shards were made for another B. Remove the "
                "folder's shards and run again"
            )
    key = null_key(batch_key, seed, settings)
    write_arrays(null, key, NullSummary.stacked(total, len(shared.features)))
    write_tsv(pd.DataFrame({"n_at_p_of_rank": counts}), null_counts)


def join_null_counts(null_counts: list[str | Path], crt_null: str | Path) -> None:
    """Step of rule crt_null: leave-one-out p values of the NTC groups of all batches, counted.

    Parameters
    ----------
    null_counts : list of str or pathlib.Path
        Of each batch.
    crt_null : str or pathlib.Path
        Table to write: how many of these p values equal each j/B.
    """
    import pandas as pd

    from condrand.io.tables import read_tsv, write_tsv

    counts = [read_tsv(path)["n_at_p_of_rank"].to_numpy() for path in null_counts]
    write_tsv(pd.DataFrame({"n_at_p_of_rank": sum(counts)}), crt_null)


def units_table(propensities: list[str | Path], labels: tuple[str, str]) -> "pd.DataFrame":
    """Diagnostics of every unit of an analysis, from its batches' files, by kind and name.

    Parameters
    ----------
    propensities : list of str or pathlib.Path
    labels : (str, str)
        Screen and analysis.
    """
    import pandas as pd

    tables = []
    for path in propensities:
        batch, _ = read_batch(path)
        names = dict(zip(("screen", "analysis"), labels, strict=True))
        names |= {"unit": batch.names, "kind": batch.kinds}
        tables.append(pd.DataFrame({**names, **batch.diagnostics, "note": batch.notes}))
    table = pd.concat(tables, ignore_index=True)
    for name in ("n_target", "n_control"):
        table[name] = table[name].astype(np.int64)
    return table.sort_values(["kind", "unit"], kind="stable", ignore_index=True)


def _shard_key(
    batch_key: Mapping[str, Any], seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "outcome": batch_key["outcome"],
        "propensity": batch_key["checksum"],
        "names": batch_key["names"],
        "kinds": batch_key["kinds"],
        "seed": seed,
        "sampler": settings["sampler"],
        "stratify": settings["stratify"],
        "version": RESULTS_VERSION["crt_shard"],
    }


def null_key(
    batch_key: Mapping[str, Any], seed: int, settings: Mapping[str, Any]
) -> dict[str, Any]:
    """The key of a batch's merged null: nothing of how it was split."""
    key = _shard_key(batch_key, seed, settings)
    return {**key, "version": RESULTS_VERSION["crt_merge"]}


def check_same_outcome(
    path: str | Path, key: Mapping[str, Any], outcome: Outcome | OutcomeHeader
) -> None:
    """Raise ValueError for a file that was made from another outcome than the one there is."""
    if key["outcome"] != outcome.digest:
        raise ValueError(f"{path} was made from another outcome; remove it and run again")
