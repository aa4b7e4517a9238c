"""The steps of the anova rules: files in, files out, around :mod:`condrand.engines.anova`."""

import logging
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from condrand.engines.anova import (
    Model,
    block_tests,
    effects,
    expression,
    model_of,
    significant_features,
    terms_table,
)
from condrand.errors import Problems
from condrand.io.outcome import read_features
from condrand.io.samples import Samples, read_samples
from condrand.io.shards import join_arrays, read_joined, write_arrays
from condrand.io.tables import write_effects, write_tsv
from condrand.plan import FEATURES_PER_BLOCK, n_feature_blocks, run_of_shard
from condrand.version import RESULTS_VERSION

log = logging.getLogger(__name__)


def anova_shard(
    samples: str | Path, shard: str | Path, run: tuple[int, int], settings: Mapping[str, Any]
) -> None:
    """Step of rule anova_shard: test a run of blocks of features.

    Parameters
    ----------
    samples : str or pathlib.Path
    shard : str or pathlib.Path
        File to write.
    run : (int, int)
        Number of the shard, and of all shards.
    settings : mapping
        ``formula``, ``transform``, ``prior_count``.

    Raises
    ------
    InputError
        Listing everything that is wrong with the formula.

    Notes
    -----
    Features are tested block by block, whatever the shard: products of matrices may differ in
    the last bit with the rows they are made of.
    """
    head, model = _model(samples, settings)
    n_blocks = n_feature_blocks(len(read_features(samples)))
    first, end = run_of_shard(n_blocks, run[1], run[0])
    log.info("%s: %d samples, blocks %d to %d", settings["formula"], len(head.table), first, end)
    for note in filter(None, model.notes):
        log.warning(note)
    library = None
    if settings["transform"] != "none":
        library = sum(part.values.sum(axis=0) for part in _blocks(samples, 0, n_blocks))
    found = [
        block_tests(expression(part.values, library, settings), model)
        for part in _blocks(samples, first, end)
    ]
    key = {**_shard_key(head, settings), "first_block": first, "end_block": end}
    write_arrays(shard, key, join_arrays(found))
    log.info("%d features tested", sum(len(one["F"]) for one in found))


def anova_effects(
    samples: str | Path,
    shards: list[str | Path],
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    fdr: float,
    written: Mapping[str, str | Path],
) -> None:
    """Step of rule anova_effects: join the blocks of features, and adjust the tests.

    Parameters
    ----------
    samples : str or pathlib.Path
    shards : list of str or pathlib.Path
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        As of :func:`anova_shard`, and ``significant``.
    fdr : float
        Threshold of a discovery.
    written : mapping
        Files to write: ``effects`` (Parquet), ``effects_tsv``, ``significant``, ``terms``.

    Raises
    ------
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    head, model = _model(samples, settings)
    features = read_features(samples)
    tests = read_joined(shards, _shard_key(head, settings), n_feature_blocks(len(features)))
    table = effects(labels, features, tests, model)
    write_effects(table, written["effects"], written["effects_tsv"])
    listed = significant_features(table, settings["significant"], fdr)
    write_tsv(listed, written["significant"])
    terms = terms_table(table, model, fdr)
    write_tsv(terms, written["terms"])
    for row in terms.itertuples():
        log.info("%s: %d of %d features significant", row.term, row.significant, row.tested)


def _model(samples: str | Path, settings: Mapping[str, Any]) -> tuple[Samples, Model]:
    """The table of the samples, without values, and the model on it."""
    head = read_samples(samples, slice(0, 0))
    return head, model_of(settings["formula"], head.table, Problems(str(samples)))


def _blocks(samples: str | Path, first: int, end: int) -> Iterator[Samples]:
    for block in range(first, end):
        start = block * FEATURES_PER_BLOCK
        yield read_samples(samples, slice(start, start + FEATURES_PER_BLOCK))


def _shard_key(head: Samples, settings: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "samples": head.words["digest"],
        "formula": settings["formula"],
        "transform": settings["transform"],
        "prior_count": settings["prior_count"],
        "version": RESULTS_VERSION["anova_shard"],
    }
