"""All batches of an analysis to its tables: effects, controls, calibration and a summary."""

import logging
import time
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
import pandas as pd

from condrand.calibration import calibration_table, flagged_controls, verdict
from condrand.errors import listed
from condrand.fdr import benjamini_hochberg, fdr_per_target
from condrand.io.comparisons import read_comparisons
from condrand.io.h5ad import write_copy_with_tables
from condrand.io.outcome import OutcomeHeader, read_features, read_header
from condrand.io.tables import (
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

# Rows of the readable copy: more than a spreadsheet opens; the Parquet table holds them all.
TSV_ROWS = 1_000_000
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
# Below so many treated cells the null of the OLS coefficient is a visible mixture of scales, which
# the observed set, of the expected size, is not drawn from.
FEW_TREATED = 50
# Below so many treated cells the fitted tail of Welch's t is too light.
FEW_FOR_WELCH = 100


def merge_analysis(
    batches: list[str | Path],
    outcome: str | Path,
    p_floor: float | None,
    written: Mapping[str, str | Path],
) -> None:
    """Step of rule merge_effects: join the batches, and adjust for multiple testing.

    Parameters
    ----------
    batches : list of str or pathlib.Path
        Each keeps the results contract, with a leading column ``kind``.
    outcome : str or pathlib.Path
    p_floor : float or None
        Smallest p value that can be attained, where all are empirical.
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
    found = calibration_table(*judged.values(), p_floor=p_floor)
    write_tsv(found, written["calibration"])
    suspects = flagged_controls(judged["controls"])
    write_tsv(suspects, written["flagged_controls"])
    if not (judged["controls"]["p_source"] == "empirical").all():
        p_floor = None
    sentence = verdict(found, suspects, p_floor=p_floor)
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
    """
    tested = effects["p_value"].notna()
    found = effects["fdr"] <= fdr
    screen, analysis = effects["screen"].iloc[0], effects["analysis"].iloc[0]
    lines = [
        f"{screen} / {analysis}",
        f"  tests        {tested.sum():,} ({effects['target'].nunique():,} targets x "
        f"{effects['feature'].nunique():,} features; {(~tested).sum():,} rows untested)",
        f"  against      {control}",
        f"  discoveries  {found.sum():,} at FDR {fdr:g}, in "
        f"{effects.loc[found, 'target'].nunique():,} targets",
    ]
    skipped = effects[~tested].drop_duplicates("target")
    whole = skipped[~skipped["target"].isin(effects.loc[tested, "target"])]
    for why, rows in whole.groupby("note", observed=True):
        lines.append(f"  skipped      {listed(rows['target'])}: {why}")
    sources = effects.loc[tested, "p_source"].astype(str).value_counts()
    of = ", ".join(f"{n:,} {name}" for name, n in sources.items())
    lines.append(f"  p values     {of or 'none'}")
    lines.append(f"  controls     {verdict}")
    lines += [f"  warning      {warning}" for warning in warnings]
    lines += [f"  {what:<12} {where}" for what, where in places.items()]
    return "\n".join(lines) + "\n"


def cautions(
    effects: pd.DataFrame, header: OutcomeHeader, fdr: float, p_floor: float | None
) -> list[str]:
    """What a reader should know of the p values of such tests.

    Parameters
    ----------
    effects : pandas.DataFrame
    header : OutcomeHeader
    fdr : float
    p_floor : float or None
        Smallest empirical p value that can be attained.
    """
    tested = effects["p_value"].notna()
    warnings = []
    if (
        p_floor is not None
        and (effects.loc[tested, "p_source"] == "empirical").all()
        and p_floor * tested.sum() > fdr
    ):
        warnings.append(
            f"no p value is below {p_floor:.2g}, so a test alone among {tested.sum():,} cannot "
            f"pass FDR {fdr:g}: raise `resamples` to {tested.sum() / fdr:,.0f}, or use "
            "`calibration: skew_normal`"
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
            "too small. Use `calibration: empirical`, or `statistic: ols_t`"
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
    p_floor: float | None,
) -> None:
    """Step of rule summarize: see :func:`summarize`."""
    folder = Path(summary).parent
    places = {"effects": str(folder / "effects.tsv.gz"), "figures": str(folder / "plots")}
    header, table = read_header(outcome), read_parquet(effects)
    control = f"{CONTROL_WORDS[header.control]}: {header.control_reason}"
    warnings = cautions(table, header, fdr, p_floor) + trend_warnings(read_tsv(trends))
    sentence = read_text(verdict).strip()
    write_text(summarize(table, control, sentence, warnings, fdr, places), summary)


def comparison_cautions(effects: pd.DataFrame) -> list[str]:
    """What a reader should know of tests of groups of cells.

    Parameters
    ----------
    effects : pandas.DataFrame
    """
    warnings = [
        "cells of one sample are no independent replicates: p values speak of these cells, and "
        "grow smaller with their number. Where there are several samples, sum them (pseudobulk)"
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
