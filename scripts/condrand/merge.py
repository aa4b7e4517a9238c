"""All batches of an analysis to its tables: effects, controls, calibration and a summary."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from condrand import agreement
from condrand.calibration import calibration_table, flagged_controls, verdict
from condrand.errors import listed
from condrand.fdr import benjamini_hochberg, fdr_per_target
from condrand.io.comparisons import read_comparisons
from condrand.io.h5ad import write_copy_with_tables
from condrand.io.outcome import OutcomeHeader, read_features, read_header
from condrand.io.samples import read_samples
from condrand.io.shards import read_arrays
from condrand.io.states import States, read_states
from condrand.io.tables import (
    TSV_ROWS,
    UnitTables,
    read_parquet,
    read_text,
    read_tsv,
    write_parquet_parts,
    write_text,
    write_tsv,
)
from condrand.normalize import CONTROL_WORDS, OF_RESIDUALS
from condrand.residuals import trend_warnings
from condrand.tables import sort_effects, stack
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET

log = logging.getLogger(__name__)

# With fewer expressing cells than these expected, a target without any seems not to vary.
FEW_EXPRESSING = 5
_SUMMARIZED = [
    *("screen", "analysis", "target", "feature", "n_target", "control_fraction"),
    *("p_value", "fdr", "p_source", "note"),
]
# Rows that are written, and held, at a time.
_ROWS_AT_A_TIME = 250_000
# Columns by which calibration is judged.
_JUDGED = ("target", "feature", "effect", "p_value", "neg_log10_p", "p_source", "p_empirical")
_SUMMARIZED_LINEAR = ["screen", "analysis", "target", "feature", "p_value", "fdr", "p_source"]
_SUMMARIZED_GENES = [*_SUMMARIZED_LINEAR, "effect", "is_de"]
# Mean change of log density (natural log) on the wrong side of 0 that is more than rounding.
_IMPOSSIBLE = 0.1
# Too few p values below 0.05 in so many tests, or too many.
_FEW_SMALL, _MANY_SMALL, _ENOUGH_TESTS = 0.02, 0.7, 500
# Below the residual degrees of freedom of three replicates in two groups.
_FEW_DF = 4
# Below so many treated cells the null of the OLS coefficient is a visible mixture of scales, which
# the observed set, of the expected size, is not drawn from.
FEW_TREATED = 50
# Below so many treated cells the fitted tail of Welch's t is too light.
FEW_FOR_WELCH = 100


def merge_analysis(
    batches: list[str | Path],
    outcome: str | Path,
    p_floors: tuple[float | None, float | None],
    written: Mapping[str, str | Path],
) -> None:
    """Step of rule merge_effects: join the batches, and adjust for multiple testing.

    Parameters
    ----------
    batches : list of str or pathlib.Path
        Each keeps the results contract, with a leading column ``kind``.
    outcome : str or pathlib.Path
    p_floors : (float or None, float or None)
        Smallest p values that can be counted in the resamples of all tests, and that can be
        reported where all are counted.
    written : mapping
        Files to write: ``effects``, ``controls``, ``ntc_groups`` (Parquet), ``effects_tsv``,
        ``controls_tsv``, ``calibration``, ``flagged_controls``, ``verdict``.

    Notes
    -----
    FDR by Benjamini-Hochberg over all tests of the targets, and where the engine has
    ``fdr_target`` over those of each target; NTC guides and groups have none: they are no
    discoveries. Rows pass by unit after unit; p values and their names alone are held.
    """
    began = time.monotonic()
    features = read_features(outcome)
    tables = UnitTables(batches)
    kinds = {"effects": TARGET, "controls": NTC_GUIDE, "ntc_groups": NTC_GROUP}
    judged = {
        name: _merge_kind(tables, kind, features, written[name], written.get(f"{name}_tsv"))
        for name, kind in kinds.items()
    }
    found = calibration_table(*judged.values(), p_floor=p_floors[0])
    write_tsv(found, written["calibration"])
    suspects = flagged_controls(judged["controls"])
    write_tsv(suspects, written["flagged_controls"])
    all_counted = (judged["controls"]["p_source"] == "empirical").all()
    sentence = verdict(found, suspects, p_floor=p_floors[1] if all_counted else None)
    write_text(sentence + "\n", written["verdict"])
    log.info(
        "%d batches, %d tests of targets, %d of controls, %d of NTC groups, %.1f s",
        len(batches),
        *(table["p_value"].notna().sum() for table in judged.values()),
        time.monotonic() - began,
    )
    log.info(sentence)


def _merge_kind(
    tables: UnitTables,
    kind: str,
    features: list[str],
    parquet: str | Path,
    tsv: str | Path | None,
) -> pd.DataFrame:
    """Write the rows of one kind of units; give what calibration is judged by."""
    columns = [name for name in tables.columns if name in ("kind", *_JUDGED)]
    passed = [stack(part) for part in tables.parts(kind, _ROWS_AT_A_TIME, columns)]
    judged = stack([sort_effects(part, features) for part in passed or [tables.empty()[columns]]])
    if isinstance(judged["target"].dtype, pd.CategoricalDtype):
        # Those of this kind, whatever other units their batches hold.
        judged["target"] = judged["target"].cat.remove_unused_categories()
    fdr = np.full(len(judged), np.nan)
    if kind == TARGET:
        fdr = benjamini_hochberg(judged["p_value"].to_numpy())
    height = judged["neg_log10_p"].fillna(-np.inf).to_numpy()
    least = -np.inf if height.size <= TSV_ROWS else np.partition(height, -TSV_ROWS)[-TSV_ROWS]
    top = []

    def rows() -> Iterator[pd.DataFrame]:
        at = 0
        for part in tables.parts(kind, _ROWS_AT_A_TIME):
            whole = sort_effects(stack(part), features).drop(columns="kind")
            whole["fdr"] = fdr[at : at + len(whole)]
            if kind == TARGET and "fdr_target" in whole:
                whole["fdr_target"] = fdr_per_target(whole["p_value"], whole["target"])
            for name in ("target", "feature"):
                if isinstance(judged[name].dtype, pd.CategoricalDtype):
                    whole[name] = whole[name].cat.set_categories(judged[name].cat.categories)
            top.append(whole[height[at : at + len(whole)] >= least])
            at += len(whole)
            yield whole
        if not at:
            top.append(tables.empty().drop(columns="kind"))
            yield top[0]

    write_parquet_parts(rows(), parquet)
    if tsv is not None:
        by_p = stack(top).sort_values("neg_log10_p", ascending=False, kind="stable")
        write_tsv(by_p.head(TSV_ROWS), tsv)
    return judged


def summarize(
    effects: pd.DataFrame,
    control: str,
    verdict: str,
    warnings: list[str],
    fdr: float,
    places: dict[str, str],
    tails: str = "",
) -> str:
    """A few plain lines about an analysis.

    Parameters
    ----------
    effects : pandas.DataFrame
    control : str
        What treated cells are compared with, and why.
    verdict : str
        Whether the controls are calibrated.
    warnings : list of str
        What a reader should know before trusting the numbers.
    fdr : float
        Threshold of a discovery.
    places : dict of str to str
        What is where, for the last lines.
    tails : str
        How small p values were refined, where they may have been.
    """
    tested = effects["p_value"].notna()
    found = effects["fdr"] <= fdr
    lines = [
        (
            "tests",
            f"{tested.sum():,} ({effects['target'].nunique():,} targets x "
            f"{effects['feature'].nunique():,} features; {(~tested).sum():,} rows untested)",
        ),
        ("against", control),
        (
            "discoveries",
            f"{found.sum():,} at FDR {fdr:g}, in "
            f"{effects.loc[found, 'target'].nunique():,} targets",
        ),
    ]
    skipped = effects[~tested].drop_duplicates("target")
    whole = skipped[~skipped["target"].isin(effects.loc[tested, "target"])]
    for why, rows in whole.groupby("note", observed=True):
        lines.append(("skipped", f"{listed(rows['target'])}: {why}"))
    lines.append(("p values", _sources_words(effects)))
    if tails:
        lines.append(("tails", tails))
    lines.append(("controls", verdict))
    return _text_of(effects, lines, warnings, places)


def cautions(
    effects: pd.DataFrame,
    header: OutcomeHeader,
    fdr: float,
    p_floors: tuple[float | None, float | None],
) -> list[str]:
    """What a reader should know of the p values of such tests.

    Parameters
    ----------
    effects : pandas.DataFrame
    header : OutcomeHeader
    fdr : float
    p_floors : (float or None, float or None)
        Smallest p values that can be counted in the resamples of all tests, and that can be
        reported where all are counted.
    """
    tested = effects["p_value"].notna()
    warnings = []
    counted, floor = p_floors
    if (
        floor is not None
        and (effects.loc[tested, "p_source"] == "empirical").all()
        and floor * tested.sum() > fdr
    ):
        wanted = f"{tested.sum() / fdr:,.0f}"
        mend = f"raise `resamples` to {wanted}, or use `calibration: adaptive`"
        if floor != counted:
            mend = f"give the last stage of `refine` {wanted} `resamples`"
        warnings.append(
            f"no p value is below {floor:.2g}, so a test alone among {tested.sum():,} cannot "
            f"pass FDR {fdr:g}: {mend}"
        )
    few = effects.loc[tested & (effects["n_target"] < FEW_TREATED), "target"].nunique()
    if few and header.statistic == "ols":
        warnings.append(
            f"{few} targets have fewer than {FEW_TREATED} treated cells, where the statistic ols "
            "is conservative: `statistic: ols_t` is not"
        )
    if header.control == "complement" and header.moi_one > 0.5:
        warnings.append(
            f"{100 * header.moi_one:.0f} % of the cells carry exactly one guide, and they are "
            "compared with all others: targets without effect look active where others are, and "
            "NTC guides may not show it. Use `control: ntc`"
        )
    smooth = effects["p_source"] == "skew_normal"
    few = effects.loc[smooth & (effects["n_target"] < FEW_FOR_WELCH), "target"].nunique()
    if few and header.statistic == "welch":
        warnings.append(
            f"{few} targets have fewer than {FEW_FOR_WELCH} treated cells, where the null of "
            "Welch's t has heavier tails than a skew-normal: p values below 0.01 are up to twice "
            "too small. Use `calibration: adaptive`, or `statistic: ols_t`"
        )
    if header.statistic in OF_RESIDUALS and not header.residualize:
        warnings.append(
            f"the statistic {header.statistic} does not see the covariates: with bernoulli_index "
            "it is conservative where they explain much of the outcome, with stratified_perm only "
            "as good as the strata are fine. Use `residualize: true`"
        )
    return warnings


def write_summary(
    effects: str | Path,
    outcome: str | Path,
    trends: str | Path,
    verdict: str | Path,
    summary: str | Path,
    fdr: float,
    p_floors: tuple[float | None, float | None],
) -> None:
    """Step of rule summarize: see :func:`summarize`."""
    folder = Path(summary).parent
    places = {"effects": str(folder / "effects.tsv.gz"), "figures": str(folder / "plots")}
    header, table = read_header(outcome), read_parquet(effects)
    control = f"{CONTROL_WORDS[header.control]}: {header.control_reason}"
    warnings = cautions(table, header, fdr, p_floors) + trend_warnings(read_tsv(trends))
    sentence = read_text(verdict).strip()
    tails = ""
    if p_floors[0] is not None:
        tails = agreement.verdict(agreement.agreement(table, p_floors[0]))
    write_text(summarize(table, control, sentence, warnings, fdr, places, tails), summary)


def comparison_cautions(effects: pd.DataFrame) -> list[str]:
    """What a reader should know of tests of groups of cells.

    Parameters
    ----------
    effects : pandas.DataFrame
    """
    warnings = [
        "cells of one sample are no independent replicates: p values speak of these cells, and "
        "grow smaller with their number. Where there are several samples, sum their cells: engine "
        "limma with `pseudobulk`"
    ]
    expected = effects["n_target"] * effects["control_fraction"]
    rare = (effects["p_source"] == "t") & (expected < FEW_EXPRESSING)
    if rare.any():
        warnings.append(
            f"{rare.sum():,} tests are of features expected in fewer than {FEW_EXPRESSING} of the "
            "target's cells, where Welch's t has far too many small p values: use `test: mwu`, or "
            "leave them out by n_target and control_fraction"
        )
    alone = effects["note"].isin(["seen in target cells alone", "seen in control cells alone"])
    if alone.any():
        warnings.append(
            f"{alone.sum():,} fold changes are of features that one side alone expresses: their "
            "size is that of `pseudocount`"
        )
    return warnings


def write_comparison_summary(
    effects: str | Path,
    outcome: str | Path,
    verdict: str | Path,
    summary: str | Path,
    fdr: float,
) -> None:
    """Step of rule dex_summary: see :func:`summarize`."""
    folder = Path(summary).parent
    places = {
        "effects": str(folder / "effects.tsv.gz"),
        "targets": str(folder / "ranked_targets.tsv"),
        "figures": str(folder / "plots"),
    }
    table = read_parquet(effects, _SUMMARIZED)
    control = read_comparisons(outcome).words["control_words"]
    sentence = read_text(verdict).strip()
    text = summarize(table, control, sentence, comparison_cautions(table), fdr, places)
    write_text(text, summary)


def write_contrasts_summary(
    effects: str | Path,
    outcome: str | Path,
    filtered: str | Path,
    calls: str | Path,
    moderation: str | Path,
    summary: str | Path,
    fdr: float,
) -> None:
    """Step of rule limma_summary: a few plain lines about contrasts of a linear model.

    Parameters
    ----------
    effects, outcome, filtered, calls, moderation : str or pathlib.Path
    summary : str or pathlib.Path
        File to write.
    fdr : float
        Threshold of a discovery.
    """
    table = read_parquet(effects, _SUMMARIZED_LINEAR)
    before, after = read_samples(filtered, slice(0, 0)), read_samples(outcome, slice(0, 0))
    shrunk = read_tsv(moderation).set_index("name")["value"].astype(float)
    lines = [
        ("samples", before.words.get("source", "")),
        ("filter", str(before.words.get("filter", ""))),
        ("weights", _weights_words(before.words, after.words)),
        ("design", f"{after.words['design']}: {listed(after.arrays['coefficients'], 10)}"),
        ("tests", _tests_words(table, "contrasts")),
    ]
    for row in read_tsv(calls).itertuples():
        untested = f", {row.untested:,} untested" if row.untested else ""
        lines.append(
            (
                "discoveries",
                f"{row.contrast}: {row.up:,} up, {row.down:,} down at FDR {fdr:g}{untested}",
            )
        )
    prior = f"{shrunk['s2_prior']:.3g}, worth {shrunk['df_prior']:.3g} degrees of freedom"
    lines.append(("p values", f"{_sources_words(table)}; prior variance {prior}"))
    notes = [note for note in str(after.words.get("notes", "")).split("\n") if note]
    if after.words["transform"] == "log_cpm" and "s2_prior_max" not in shrunk:
        notes.append(
            "variances of log counts without weights fall with expression, and one prior for all "
            "is too low for few counts: use `moderation.trend: true`, or `transform: voom`"
        )
    files = {"features": "features.tsv.gz"}
    _write_lines(table, lines, notes + linear_cautions(table), files, summary)


def write_terms_summary(
    effects: str | Path,
    samples: str | Path,
    terms: str | Path,
    summary: str | Path,
    fdr: float,
) -> None:
    """Step of rule anova_summary: a few plain lines about an analysis of variance.

    Parameters
    ----------
    effects, samples, terms : str or pathlib.Path
    summary : str or pathlib.Path
        File to write.
    fdr : float
        Threshold of a discovery.
    """
    table = read_parquet(effects, _SUMMARIZED_LINEAR)
    of_terms = read_tsv(terms).fillna("")
    source = read_samples(samples, slice(0, 0)).words.get("source", "")
    names = of_terms["term"].astype(str).tolist()
    kind = "sums of squares of type II" if len(names) > 1 else "one term"
    lines = [
        ("samples", source),
        ("model", f"~ {' + '.join(names)} ({kind})"),
        ("tests", _tests_words(table, "terms")),
    ]
    for row in of_terms.itertuples():
        levels = f" between {row.levels}" if row.levels else ""
        found = f"{row.term}: {row.significant:,} of {row.tested:,} features at FDR {fdr:g}"
        lines.append(("discoveries", found + levels))
    lines.append(("p values", _sources_words(table)))
    notes = [note for note in of_terms["note"] if note]
    few = int(of_terms["df_residual"].iloc[0])
    if few < _FEW_DF:
        notes.append(
            f"there are {few} residual degrees of freedom: variances are hardly known, and only "
            "very large effects can be found. Add replicates, or borrow strength (engine limma)"
        )
    files = {"significant": "significant.tsv"}
    _write_lines(table, lines, notes + linear_cautions(table), files, summary)


def write_states_summary(
    effects: str | Path,
    states: str | Path,
    abundance: str | Path,
    fdr_table: str | Path,
    summary: str | Path,
    fdr: float,
) -> None:
    """Step of rule kompot_summary: a few plain lines about conditions over cell states.

    Parameters
    ----------
    effects, states, abundance, fdr_table : str or pathlib.Path
    summary : str or pathlib.Path
        File to write.
    fdr : float
        Threshold of a discovery.
    """
    table, found = read_parquet(effects, _SUMMARIZED_GENES), read_states(states)
    key, arrays = read_arrays(abundance)
    of_fdr = read_tsv(fdr_table).set_index("what")["value"]
    first, second = found.words["levels"]
    n_second = int(np.count_nonzero(found.second))
    samples = f", in {len(found.sample_levels):,} samples" if found.sample_levels else ""
    up, down = (np.count_nonzero(arrays["direction"] == side) for side in (1, -1))
    called = table["fdr"] <= fdr
    higher = int((called & (table["effect"] > 0.0)).sum())
    lines = [
        (
            "cells",
            f"{n_second:,} of {second} against {found.second.size - n_second:,} of {first}"
            + samples,
        ),
        ("state", f"{found.words['state']}; {len(found.landmarks):,} landmarks"),
        ("expression", found.words["values"]),
        (
            "abundance",
            f"{up:,} cells where {second} has more, {down:,} where it has fewer, "
            f"{found.second.size - up - down:,} neither (change of {key['threshold']:g} or more, "
            f"tail probability at most {key['ptp']:g})",
        ),
        ("tests", _tests_words(table, "comparisons")),
        (
            "discoveries",
            f"{higher:,} genes higher in {second}, {int(called.sum()) - higher:,} lower at FDR "
            f"{fdr:g}; {int(table['is_de'].sum()):,} by local FDR",
        ),
        ("p values", f"{_sources_words(table)}; {float(of_fdr['n_null']):,.0f} null distances"),
    ]
    notes = f"{found.words.get('notes', '')}\n{key.get('notes', '')}".split("\n")
    notes = list(dict.fromkeys(note for note in notes if note))
    warnings = notes + states_cautions(table, found, arrays["log_fold_change"])
    _write_lines(table, lines, warnings, {"cells": "cells.h5ad"}, summary)


def states_cautions(effects: pd.DataFrame, states: States, change: np.ndarray) -> list[str]:
    """What a reader should know of conditions compared over cell states.

    Parameters
    ----------
    effects : pandas.DataFrame
    states : States
    change : float64 array, shape (n_cells,)
        Change of log density.

    Notes
    -----
    The mean of log(f2 / f1) over cells of density f2 is a Kullback-Leibler divergence, which is
    not negative; over cells of density f1 it is not positive. An estimate far on the other side is
    of no densities.
    """
    warnings = []
    if not effects["p_value"].notna().any():
        warnings.append("no gene could be tested: the column `note` of the effects says why")
    if (effects["p_source"] == "chi2").any():
        warnings.append(
            "p values are those of a chi-squared distribution, which distances do not follow: "
            "they rank genes and are not calibrated. Set `null_distances.count` to 2000"
        )
    if not states.words["uses_samples"]:
        warnings.append(
            "differences between samples are not known, and count as effects of the condition: "
            "cells of one sample are no independent replicates. Name the column of `sample`, "
            "where there are two or more in each condition"
        )
    elif (effects["p_source"] == "null_genes").any():
        warnings.append(
            "null genes differ neither between samples nor along the states: where samples are "
            "apart, their p values are too small. Those of `null_distances.kind: samples` are "
            "not, and find less"
        )
    means = np.mean(change[states.second]), np.mean(change[~states.second])
    if means[0] < -_IMPOSSIBLE or means[1] > _IMPOSSIBLE:
        warnings.append(
            f"the change of abundance is {means[0]:.2g} on average in cells of "
            f"{states.words['levels'][1]} and {means[1]:.2g} in those of "
            f"{states.words['levels'][0]}; the first cannot be below 0, nor the second above it: "
            "densities are too smooth to be told apart. Lower `ls_factor`, or `length_scale`"
        )
    return warnings


def linear_cautions(effects: pd.DataFrame) -> list[str]:
    """What p values of samples say of the model they come from.

    Parameters
    ----------
    effects : pandas.DataFrame
    """
    warnings = []
    if not effects["p_value"].notna().any():
        return ["no feature could be tested: the column `note` of the effects says why"]
    for name, rows in effects.groupby("target", sort=False, observed=True):
        p = rows["p_value"].dropna().to_numpy()
        if p.size < _ENOUGH_TESTS:
            continue
        small = float(np.mean(p < 0.05))
        if small < _FEW_SMALL:
            warnings.append(
                f"{name}: {100 * small:.1f} % of the p values are below 0.05, where 5 % would be "
                "without any effect: samples differ by something that the model leaves out, such "
                "as a batch, or there is an outlying sample (figure MDS)"
            )
        elif small > _MANY_SMALL:
            warnings.append(
                f"{name}: {100 * small:.0f} % of the p values are below 0.05. Where most features "
                "differ, look at the normalization, and whether replicates are independent"
            )
    return warnings


def _weights_words(filtered: Mapping[str, object], outcome: Mapping[str, object]) -> str:
    """How values became log expression with weights."""
    normalization = filtered.get("normalization", "none")
    parts = [str(outcome["transform"])]
    if normalization != "none":
        parts.append(f"normalization factors {normalization}")
    return ", ".join(parts)


def _tests_words(effects: pd.DataFrame, what: str) -> str:
    tested, n = effects["p_value"].notna(), effects["target"].nunique()
    return (
        f"{tested.sum():,} ({n:,} {what if n > 1 else what.removesuffix('s')} x "
        f"{effects['feature'].nunique():,} features; {(~tested).sum():,} rows untested)"
    )


def _sources_words(effects: pd.DataFrame) -> str:
    sources = effects.loc[effects["p_value"].notna(), "p_source"].astype(str).value_counts()
    return ", ".join(f"{n:,} {name}" for name, n in sources.items()) or "none"


def _write_lines(
    effects: pd.DataFrame,
    lines: list[tuple[str, str]],
    warnings: list[str],
    files: dict[str, str],
    summary: str | Path,
) -> None:
    """Write lines about an analysis, then warnings, then where its files are."""
    folder = Path(summary).parent
    places = {"effects": "effects.tsv.gz", **files, "figures": "plots"}
    places = {what: str(folder / name) for what, name in places.items()}
    write_text(_text_of(effects, [line for line in lines if line[1]], warnings, places), summary)


def _text_of(
    effects: pd.DataFrame,
    lines: list[tuple[str, str]],
    warnings: list[str],
    places: dict[str, str],
) -> str:
    """A summary: lines about an analysis, warnings, and what is where."""
    lines = [*lines, *(("warning", text) for text in warnings), *places.items()]
    screen, analysis = effects["screen"].iloc[0], effects["analysis"].iloc[0]
    text = [f"{screen} / {analysis}", *(f"  {what:<12} {value}" for what, value in lines)]
    return "\n".join(text) + "\n"


def annotate(
    source: str | Path,
    effects: str | Path,
    controls: str | Path,
    analysis: str,
    annotated: str | Path,
) -> None:
    """Step of rule annotate_h5ad: effects and controls into uns of a copy of the user's file."""
    tables = {"effects": read_parquet(effects), "controls": read_parquet(controls)}
    for table in tables.values():
        table.index = table.index.astype(str)
    named = {f"condrand_{analysis}_{name}": table for name, table in tables.items()}
    write_copy_with_tables(source, annotated, named)
