"""The steps of the limma rules: files in, files out, around :mod:`condrand.engines.limma`."""

import logging
import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from condrand.engines.limma import (
    calls_of,
    calls_table,
    check_tests,
    contrast_matrix,
    design_of,
    effects,
    features_table,
    keep_features,
    lone_groups,
    moderation_table,
    row_groups,
    sample_weights,
    tested,
)
from condrand.errors import Problems, listed, nearest, quoted
from condrand.io.samples import Samples, read_samples, write_samples
from condrand.io.shards import read_joined, write_arrays
from condrand.io.tables import read_table, write_effects, write_tsv
from condrand.linear.counts import log2_cpm, log_cpm, norm_factors
from condrand.linear.densities import sample_densities
from condrand.linear.design import replication
from condrand.linear.fit import Fit, fit_rows
from condrand.linear.mds import plot_mds
from condrand.linear.voom import voom
from condrand.linear.weights import array_weights, voom_with_quality_weights
from condrand.plan import FEATURES_PER_BLOCK, n_feature_blocks, run_of_shard
from condrand.version import RESULTS_VERSION

log = logging.getLogger(__name__)

# Samples that a picture of distances needs.
_FEWEST_FOR_MDS = 3
_PARTS = ("coefficients", "stdev_unscaled", "sigma", "df_residual", "amean")


# The filter


def filter_features(
    samples: str | Path,
    filtered: str | Path,
    settings: Mapping[str, Any],
    design_matrix: str | Path | None = None,
) -> None:
    """Step of rule limma_filter: keep the features with counts enough, and look at the samples.

    Parameters
    ----------
    samples : str or pathlib.Path
    filtered : str or pathlib.Path
        File to write: the features kept, sizes of the libraries and their factors, groups,
        densities before and after, and MDS coordinates of the samples.
    settings : mapping
        ``transform`` ("none" where values are no counts), ``filter``, ``normalization``,
        ``design``, ``strip_prefix``, ``colour``.
    design_matrix : str or pathlib.Path, optional
        Table of the design, where it is no formula.

    Raises
    ------
    InputError
        Listing what is wrong with values, columns and design.
    """
    data = read_samples(samples)
    problems = Problems(str(samples))
    of_counts = settings["transform"] != "none"
    _check_values(data, settings, of_counts, problems)
    groups, notes = _groups(data.table, settings, design_matrix, of_counts, problems)
    colours = _column(data.table, settings["colour"], "colour", problems)
    problems.report()
    if of_counts:
        made = _filter_counts(data, groups, settings, problems)
    else:
        sentence = f"log expression: all {len(data.features):,} features are taken"
        made = replace(
            data,
            arrays={name: np.zeros(0) for name in ("lib_size_all", "lib_size", "norm_factors")},
            words=data.words | {"filter": sentence, "normalization": "none"},
        )
        shown = data.values[np.isfinite(data.values).all(axis=1)]
        made.arrays.update(_pictures(shown, shown))
    made.arrays["groups"] = groups if colours is None else colours
    made.words["n_before"] = len(data.features)
    made.words["notes"] = "\n".join(notes)
    _say(notes)
    log.info("%s", made.words["filter"])
    write_samples(filtered, made)


def _check_values(
    data: Samples, settings: Mapping[str, Any], of_counts: bool, problems: Problems
) -> None:
    """Note values, and settings, that do not go with each other."""
    values = data.values
    if np.isinf(values).any():
        problems.add(
            "values",
            f"{np.isinf(values).sum():,} are infinite",
            "give counts, or leave the field empty where a value is missing.",
        )
    if not of_counts:
        for key, word, ignored in (
            ("filter.method", settings["filter"]["method"], ("cpm", "none")),
            ("normalization", settings["normalization"], ("tmm", "none")),
        ):
            # The defaults are for counts, and are not taken for a wish.
            if word not in ignored:
                problems.add(
                    key,
                    f"is {word!r}, which needs counts, and `transform: none` has none",
                    "leave it out, or choose another transform.",
                )
        if len(data.features) < 2:
            _too_few(len(data.features), len(data.features), problems)
        return
    missing = np.isnan(values)
    if missing.any():
        rows = np.array(data.features, object)[missing.any(axis=1)]
        problems.add(
            "values",
            f"{missing.sum():,} are missing, in {quoted(rows)}, and the filter, normalization and "
            "voom need every count",
            "leave these features out or fill in what is known to be 0; `transform: none` takes "
            "log expression with missing values.",
        )
    if (values < 0.0).any():
        problems.add(
            "values",
            f"{(values < 0.0).sum():,} are negative",
            "give counts; `transform: none` takes log expression as it is.",
        )
    elif not missing.any():
        empty = data.table.index[values.sum(axis=0) == 0.0]
        if len(empty):
            problems.add(
                "values", f"samples without a count: {quoted(empty)}", "name them in `exclude`."
            )


def _groups(
    table: pd.DataFrame,
    settings: Mapping[str, Any],
    design_matrix: str | Path | None,
    of_counts: bool,
    problems: Problems,
) -> tuple[np.ndarray | None, list[str]]:
    """Group of each sample, and notes on them; the design is checked on the way."""
    given = None if design_matrix is None else read_table(design_matrix)
    design = None
    if given is not None or settings["design"] is not None:
        formula, strip = settings["design"], settings["strip_prefix"]
        design = design_of(table, formula, strip, given, problems)
    if design is not None:
        replication(design, problems)
    groups = _column(table, settings["filter"]["groups"], "filter.groups", problems)
    if groups is None and design is not None:
        groups = row_groups(design, table, settings["design"])
    by_groups = of_counts and settings["filter"]["method"] != "none"
    return groups, lone_groups(groups) if by_groups and groups is not None else []


def _column(
    table: pd.DataFrame, name: str | None, key: str, problems: Problems
) -> np.ndarray | None:
    """A column of the sample table as text; None where none is named, or it cannot be used."""
    if name is None:
        return None
    if name not in table.columns:
        problems.add(
            key,
            f"names {name!r}, which the sample table does not have",
            f"use a column of it. {nearest(name, table.columns)}There are: "
            f"{listed(table.columns, 20)}.",
        )
        return None
    missing = table[name].isna().to_numpy()
    if missing.any():
        problems.add(
            key,
            f"{missing.sum()} samples have no value of {name!r}: {quoted(table.index[missing])}",
            "fill it in, or name them in `exclude`.",
        )
        return None
    return table[name].astype(str).to_numpy(object)


def _filter_counts(
    data: Samples, groups: np.ndarray, settings: Mapping[str, Any], problems: Problems
) -> Samples:
    """The features kept, with what counts alone have: libraries and their factors."""
    kept, sentence = keep_features(data.values, groups, settings["filter"])
    n_kept = int(np.count_nonzero(kept))
    if n_kept < 2:
        _too_few(n_kept, len(kept), problems)
        problems.report()
    counts = np.ascontiguousarray(data.values[kept])
    library_all, library = data.values.sum(axis=0), counts.sum(axis=0)
    empty = data.table.index[library == 0.0]
    if len(empty):
        problems.add(
            "filter",
            f"samples have no count of the features kept: {quoted(empty)}",
            "name them in `exclude`.",
        )
        problems.report()
    try:
        factors = norm_factors(counts, settings["normalization"])
    except ValueError as error:
        problems.add(
            "normalization",
            str(error),
            "use `normalization: none`, or name the sample at fault in `exclude`.",
        )
        problems.report()
        raise
    log.info("libraries of %.3g to %.3g million counts", *_range(library_all / 1e6))
    log.info("normalization %s: factors %.3g to %.3g", settings["normalization"], *_range(factors))
    before = log2_cpm(data.values, library_all)
    arrays = {"lib_size_all": library_all, "lib_size": library, "norm_factors": factors}
    return replace(
        data,
        values=counts,
        features=[data.features[g] for g in np.flatnonzero(kept)],
        arrays=arrays | _pictures(before, np.ascontiguousarray(before[kept])),
        words=data.words | {"filter": sentence, "normalization": settings["normalization"]},
    )


def _too_few(n: int, before: int, problems: Problems) -> None:
    problems.add(
        "filter",
        f"keeps {n} of {before:,} features, and variances are moderated over 2 or more",
        "lower `min_count`, or check that the values are counts, and the features all there.",
    )


def _range(values: np.ndarray) -> tuple[float, float]:
    return float(values.min()), float(values.max())


def _pictures(before: np.ndarray, after: np.ndarray) -> dict[str, np.ndarray]:
    """Densities and coordinates of the samples; empty where there is nothing to draw."""
    arrays = {}
    for name, values in (("before", before), ("after", after)):
        grid, density = np.zeros(0), np.zeros((values.shape[1], 0))
        if values.size:
            made = sample_densities(values)
            grid, density = made.grid, made.density
        arrays |= {f"{name}_grid": grid, f"{name}_density": density}
    coordinates, shares = np.zeros((0, 0)), np.zeros(0)
    if after.size and after.shape[1] >= _FEWEST_FOR_MDS:
        made = plot_mds(after)
        coordinates, shares = made.coordinates, made.variance_explained
    return arrays | {"mds_coordinates": coordinates, "mds_shares": shares}


# Weights


def voom_samples(
    filtered: str | Path,
    design_matrix: str | Path | None,
    outcome: str | Path,
    settings: Mapping[str, Any],
    threads: int = 1,
) -> None:
    """Step of rule limma_voom: log expression of the samples, its weights, and the design.

    Parameters
    ----------
    filtered : str or pathlib.Path
    design_matrix : str or pathlib.Path, optional
        Table of the design, where it is no formula.
    outcome : str or pathlib.Path
        File to write: log expression, weights, design, and the mean-variance trend.
    settings : mapping
        ``transform``, ``span``, ``prior_count``, ``design``, ``strip_prefix``, ``array_weights``.
    threads : int
        The numbers do not depend on it.

    Raises
    ------
    InputError
        If the design cannot be used.
    """
    data = read_samples(filtered)
    problems = Problems(str(filtered))
    given = None if design_matrix is None else read_table(design_matrix)
    formula = settings["design"]
    design = design_of(data.table, formula, settings["strip_prefix"], given, problems)
    notes = [note for note in str(data.words["notes"]).split("\n") if note]
    if design is not None:
        notes += replication(design, problems)
    problems.report()
    words = {
        **{key: data.words[key] for key in ("source", "n_before", "filter", "normalization")},
        "n_features": len(data.features),
        "transform": settings["transform"],
        "design": formula if given is None else Path(design_matrix).name,
        "notes": "\n".join(notes),
    }
    try:
        values, arrays, more = _expression(data, design.to_numpy(), settings, threads)
    except ValueError as error:
        problems.add(
            "outcome.transform",
            str(error),
            "`transform: voom` needs 2 features with replicates, quality weights 3 samples more "
            "than coefficients.",
        )
        problems.report()
        raise
    arrays |= {
        # The formula is among the words, which share their place in the file.
        "design_matrix": design.to_numpy(),
        "coefficients": design.columns.to_numpy(object),
        "groups": data.arrays["groups"],
    }
    _say(notes)
    log.info(
        "design %s: %s; %d samples",
        words["design"],
        listed(design.columns, 20),
        len(design),
    )
    write_samples(outcome, Samples(values, data.features, data.table, arrays, words | more))


def _expression(
    data: Samples, design: np.ndarray, settings: Mapping[str, Any], threads: int
) -> tuple[np.ndarray, dict[str, np.ndarray], dict[str, float]]:
    """Log expression; weights, libraries and trend; the span of the trend."""
    transform = settings["transform"]
    arrays = {name: np.zeros(0) for name in ("line_x", "line_y", "points_x", "points_y")}
    library = data.arrays["lib_size"] * data.arrays["norm_factors"]
    arrays["lib_size"] = library
    if transform in ("voom", "voom_quality_weights"):
        weigh = voom if transform == "voom" else voom_with_quality_weights
        made = weigh(data.values, design, library, settings["span"], threads=threads)
        arrays["weights"] = made.weights
        arrays |= {name: getattr(made, name) for name in arrays if name.startswith(("line", "po"))}
        if made.sample_weights is not None:
            arrays["sample_weights"] = made.sample_weights
            _say_quality(data.table.index, made.sample_weights)
        log.info("mean-variance trend: %d features, span %.3g", made.points_x.size, made.span)
        return made.E, arrays, {"span": made.span}
    values = data.values
    if transform == "log_cpm":
        values = log_cpm(values, library, settings["prior_count"])
    weights = None
    if settings["array_weights"]:
        weights = arrays["sample_weights"] = array_weights(values, design)
        _say_quality(data.table.index, weights)
    missing = np.isnan(values)
    if missing.any():
        # Weights for every value, or a shard without missing ones would take another way to its
        # numbers, and bits would depend on how features are split.
        weights = np.where(missing, 0.0, 1.0 if weights is None else weights)
        log.info("%d values of %d are missing", np.count_nonzero(missing), missing.size)
    if weights is not None:
        arrays["weights"] = weights
    return values, arrays, {}


def _say(notes: list[str]) -> None:
    for note in notes:
        log.warning(note)


def _say_quality(names: pd.Index, weights: np.ndarray) -> None:
    least, most = int(np.argmin(weights)), int(np.argmax(weights))
    log.info(
        "quality of samples: %.3g (%s) to %.3g (%s)",
        *(weights[least], names[least], weights[most], names[most]),
    )


# Fits


def fit_shard(
    outcome: str | Path, shard: str | Path, run: tuple[int, int], threads: int = 1
) -> None:
    """Step of rule limma_shard: least squares of a run of blocks of features.

    Parameters
    ----------
    outcome : str or pathlib.Path
        Of which only this run is read.
    shard : str or pathlib.Path
        File to write.
    run : (int, int)
        Number of the shard, and of all shards.
    threads : int
        The numbers do not depend on it.
    """
    words = read_samples(outcome, slice(0, 0)).words
    first, end = run_of_shard(n_feature_blocks(words["n_features"]), run[1], run[0])
    key = {**_shard_key(words["digest"]), "first_block": first, "end_block": end}
    if first == end:
        write_arrays(shard, key, {})
        log.info("no blocks")
        return
    part = read_samples(outcome, slice(first * FEATURES_PER_BLOCK, end * FEATURES_PER_BLOCK))
    fit = _fit(part, threads)
    write_arrays(shard, key, {name: getattr(fit, name) for name in _PARTS})
    log.info("blocks %d to %d: %d features", first, end, len(part.features))


def _shard_key(digest: str) -> dict[str, Any]:
    return {"outcome": digest, "version": RESULTS_VERSION["limma_shard"]}


def _fit(part: Samples, threads: int) -> Fit:
    """Fit of some features, or of none for what all have in common."""
    weights = part.arrays.get("weights")
    if weights is not None and weights.shape == (len(part.features),):
        weights = weights[None, :]  # of the samples, though there are as many features
    return fit_rows(
        part.values,
        np.ascontiguousarray(part.arrays["design_matrix"], np.float64),
        part.features,
        [str(name) for name in part.arrays["coefficients"]],
        weights,
        threads=threads,
    )


# Tests


def test_contrasts(
    outcome: str | Path,
    shards: list[str | Path],
    labels: tuple[str, str],
    settings: Mapping[str, Any],
    fdr: float,
    written: Mapping[str, str | Path],
    threads: int = 1,
) -> None:
    """Step of rule limma_effects: join the fits of all features, and test contrasts.

    Parameters
    ----------
    outcome : str or pathlib.Path
    shards : list of str or pathlib.Path
    labels : (str, str)
        Screen and analysis.
    settings : mapping
        ``contrasts``, ``exact_contrasts``, ``moderation``, ``treat``, ``decide``.
    fdr : float
        Of the calls.
    written : mapping
        Files to write: ``effects`` (Parquet), ``effects_tsv``, ``features``, ``calls``,
        ``moderation``.
    threads : int
        The numbers do not depend on it.

    Raises
    ------
    InputError
        Listing every contrast that cannot be read or estimated.
    condrand.io.shards.ShardError
        If a shard is missing, damaged, foreign, or overlaps another.
    """
    began = time.monotonic()
    data = read_samples(outcome)
    problems = Problems(f"analyses.{labels[1]}")
    names = [str(name) for name in data.arrays["coefficients"]]
    design = pd.DataFrame(data.arrays["design_matrix"], index=data.table.index, columns=names)
    contrasts, targets = contrast_matrix(settings["contrasts"], design, problems)
    check_tests(settings, problems)
    problems.report()
    joined = _joined(outcome, shards, data, threads)
    fit = tested(joined, contrasts, targets, settings, problems, threads)
    calls = calls_of(fit, settings["decide"], fdr)

    observed = np.isfinite(data.values)
    weights = data.arrays.get("weights")
    if weights is not None:
        observed &= np.isfinite(weights) & (weights > 0.0)
    sides = sample_weights(design.to_numpy(), contrasts)
    table = effects(*labels, fit, observed, sides, calls)
    write_effects(table, written["effects"], written["effects_tsv"])
    write_tsv(features_table(fit), written["features"])
    counted = calls_table(fit, calls)
    write_tsv(counted, written["calls"])
    found = moderation_table(fit, len(design), data.words.get("span"), settings)
    write_tsv(found, written["moderation"], decimals=15)

    log.info("%s", ", ".join(f"{name} {value:.6g}" for name, value in found.to_numpy()))
    for row in counted.itertuples():
        log.info(
            "%s: %d up, %d down, %d not significant, %d untested",
            *(row.contrast, row.up, row.down, row.not_significant, row.untested),
        )
    log.info("%d tests at FDR %g, %.1f s", len(table), fdr, time.monotonic() - began)


def _joined(outcome: str | Path, shards: list[str | Path], data: Samples, threads: int) -> Fit:
    """The fits of all shards as one."""
    expected = _shard_key(data.words["digest"])
    parts = read_joined(shards, expected, n_feature_blocks(len(data.features)))
    shared = _fit(read_samples(outcome, slice(0, 0)), threads)
    weights = data.arrays.get("weights")
    return replace(shared, **parts, features=data.features, weights=weights)
