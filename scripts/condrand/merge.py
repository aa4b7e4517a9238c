"""All batches of an analysis to its tables: effects, controls, calibration and a summary."""

import logging
import time
from pathlib import Path

import pandas as pd

from condrand.calibration import calibration_table
from condrand.errors import listed
from condrand.fdr import benjamini_hochberg
from condrand.io.h5ad import write_copy_with_tables
from condrand.io.outcome import read_header
from condrand.io.tables import read_parquet, read_tsv, write_parquet, write_text, write_tsv
from condrand.tables import sort_effects
from condrand.units import NTC_GUIDE, TARGET

log = logging.getLogger(__name__)

# Rows of the readable copy: more than a spreadsheet opens; the Parquet table holds them all.
TSV_ROWS = 1_000_000


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
        ``effects`` (the targets; FDR by Benjamini-Hochberg over all of their tests) and
        ``controls`` (the NTC guides; no FDR, they are no discoveries).
    """
    filled = [batch for batch in batches if len(batch)] or batches[:1]
    rows = pd.concat(filled, ignore_index=True)
    tables = {}
    for name, kind in (("effects", TARGET), ("controls", NTC_GUIDE)):
        table = rows[rows["kind"] == kind].drop(columns="kind")
        tables[name] = sort_effects(table, features)
    effects = tables["effects"]
    effects["fdr"] = benjamini_hochberg(effects["p_value"].to_numpy())
    return tables


def merge_analysis(
    batches: list[str | Path],
    outcome: str | Path,
    effects: str | Path,
    effects_tsv: str | Path,
    controls: str | Path,
    controls_tsv: str | Path,
    calibration: str | Path,
) -> None:
    """Step of rule merge_effects: see :func:`merge_tables`. The last five are files to write."""
    began = time.monotonic()
    features = read_header(outcome).features
    tables = merge_tables([read_parquet(path) for path in batches], features)
    for name, parquet, tsv in (
        ("effects", effects, effects_tsv),
        ("controls", controls, controls_tsv),
    ):
        write_parquet(tables[name], parquet)
        by_p = tables[name].sort_values("neg_log10_p", ascending=False, kind="stable")
        write_tsv(by_p.head(TSV_ROWS), tsv)
    write_tsv(calibration_table(tables["effects"], tables["controls"]), calibration)
    log.info(
        "%d batches, %d tests of targets, %d of controls, %.1f s",
        len(batches),
        tables["effects"]["p_value"].notna().sum(),
        tables["controls"]["p_value"].notna().sum(),
        time.monotonic() - began,
    )


def summarize(
    effects: pd.DataFrame, calibration: pd.DataFrame, fdr: float, places: dict[str, str]
) -> str:
    """A few plain lines about an analysis.

    Parameters
    ----------
    effects, calibration : pandas.DataFrame
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
    controls = calibration[
        (calibration["tests"] == "ntc_guides") & (calibration["p"] == "reported")
    ]
    row = controls.iloc[0]
    if row["n_tests"]:
        lines.append(
            f"  controls     {int(row['n_tests']):,} NTC tests: "
            f"{100 * row['fraction_below_0.05']:.1f} % with p < 0.05 (5 % expected), "
            f"{100 * row['fraction_below_0.01']:.2f} % with p < 0.01 (1 % expected)"
        )
    else:
        lines.append("  controls     none tested")
    lines += [f"  {what:<12} {where}" for what, where in places.items()]
    return "\n".join(lines) + "\n"


def write_summary(
    effects: str | Path, calibration: str | Path, summary: str | Path, fdr: float
) -> None:
    """Step of rule summarize: see :func:`summarize`."""
    folder = Path(summary).parent
    places = {"effects": str(folder / "effects.tsv.gz"), "figures": str(folder / "plots")}
    write_text(summarize(read_parquet(effects), read_tsv(calibration), fdr, places), summary)


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
