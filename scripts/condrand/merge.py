"""All batches of an analysis to its tables: effects, controls, calibration and a summary."""

import logging
import time
from collections.abc import Mapping
from pathlib import Path

import pandas as pd

from condrand.calibration import calibration_table, flagged_controls, verdict
from condrand.errors import listed
from condrand.fdr import benjamini_hochberg
from condrand.io.h5ad import write_copy_with_tables
from condrand.io.outcome import OutcomeHeader, read_header
from condrand.io.tables import (
    read_parquet,
    read_text,
    read_tsv,
    write_parquet,
    write_text,
    write_tsv,
)
from condrand.normalize import CONTROL_WORDS, OF_RESIDUALS
from condrand.residuals import trend_warnings
from condrand.tables import sort_effects
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET

log = logging.getLogger(__name__)

# Rows of the readable copy: more than a spreadsheet opens; the Parquet table holds them all.
TSV_ROWS = 1_000_000
# Below so many treated cells the null of the OLS coefficient is a visible mixture of scales, which
# the observed set, of the expected size, is not drawn from.
FEW_TREATED = 50
# Below so many treated cells the fitted tail of Welch's t is too light.
FEW_FOR_WELCH = 100


def merge_tables(batches: list[pd.DataFrame], features: list[str]) -> dict[str, pd.DataFrame]:
    """Join the batches of an analysis and adjust for multiple testing.

    Parameters
    ----------
    batches : list of pandas.DataFrame
        Each keeps the results contract, with a leading column ``kind``.
    features : list of str
        In the order the screen has them.

    Returns
    -------
    dict of pandas.DataFrame
        ``effects`` (the targets; FDR by Benjamini-Hochberg over all of their tests),
        ``controls`` (the NTC guides) and ``ntc_groups``; the last two without FDR: they are no
        discoveries.
    """
    filled = [batch for batch in batches if len(batch)] or batches[:1]
    rows = pd.concat(filled, ignore_index=True)
    tables = {}
    for name, kind in (
        ("effects", TARGET),
        ("controls", NTC_GUIDE),
        ("ntc_groups", NTC_GROUP),
    ):
        table = rows[rows["kind"] == kind].drop(columns="kind")
        tables[name] = sort_effects(table, features)
    effects = tables["effects"]
    effects["fdr"] = benjamini_hochberg(effects["p_value"].to_numpy())
    return tables


def merge_analysis(
    batches: list[str | Path],
    null_counts: list[str | Path],
    outcome: str | Path,
    p_floor: float | None,
    written: Mapping[str, str | Path],
) -> None:
    """Step of rule merge_effects: see :func:`merge_tables`.

    Parameters
    ----------
    batches : list of str or pathlib.Path
    null_counts : list of str or pathlib.Path
        Of each batch, the counts of leave-one-out p values of NTC groups; may be empty.
    outcome : str or pathlib.Path
    p_floor : float or None
        Smallest p value that can be attained, where all are empirical.
    written : mapping
        Files to write: ``effects``, ``controls``, ``ntc_groups`` (Parquet), ``effects_tsv``,
        ``controls_tsv``, ``crt_null``, ``calibration``, ``flagged_controls``, ``verdict``.
    """
    began = time.monotonic()
    features = read_header(outcome).features
    tables = merge_tables([read_parquet(path) for path in batches], features)
    for name, table in tables.items():
        write_parquet(table, written[name])
    for name in ("effects", "controls"):
        by_p = tables[name].sort_values("neg_log10_p", ascending=False, kind="stable")
        write_tsv(by_p.head(TSV_ROWS), written[f"{name}_tsv"])
    counts = [read_tsv(path)["n_at_p_of_rank"].to_numpy() for path in null_counts]
    write_tsv(pd.DataFrame({"n_at_p_of_rank": sum(counts) if counts else []}), written["crt_null"])
    found = calibration_table(*tables.values(), p_floor=p_floor)
    write_tsv(found, written["calibration"])
    suspects = flagged_controls(tables["controls"])
    write_tsv(suspects, written["flagged_controls"])
    if not (tables["controls"]["p_source"] == "empirical").all():
        p_floor = None
    sentence = verdict(found, suspects, p_floor=p_floor)
    write_text(sentence + "\n", written["verdict"])
    log.info(
        "%d batches, %d tests of targets, %d of controls, %d of NTC groups, %.1f s",
        len(batches),
        *(table["p_value"].notna().sum() for table in tables.values()),
        time.monotonic() - began,
    )
    log.info(sentence)


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
    for why, rows in whole.groupby("note"):
        lines.append(f"  skipped      {listed(rows['target'])}: {why}")
    sources = effects.loc[tested, "p_source"].value_counts()
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
