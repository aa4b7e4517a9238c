"""A whole run of the null of NTC pseudo-genes."""

import pytest

from condrand.io.tables import read_parquet, read_tsv
from condrand.tables import CONTRACT

A = "results/S/A"
SECTION = {"guides_per_unit": 2, "n_ntc_units": 200}


def config_of(tiny, **analysis):
    config = tiny()
    simulate = {"n_cells": 800, "n_programs": 3, "n_targets": 8, "ntc_fraction": 0.4}
    config["screens"]["S"]["simulate"] = simulate
    config["analyses"]["A"] = {
        **{"engine": "crt", "null_method": "ntc_empirical", "ntc_empirical": SECTION},
        **analysis,
    }
    return config


def test_a_run_with_the_null_of_ntc_guides_ends_with_every_table_and_plans_nothing_more(
    new_folder, tiny
):
    folder = new_folder(config_of(tiny))
    planned = folder.planned()
    assert planned[f"{A}/ntc_null.parquet"] == "crt_ntc_null"
    assert not {"crt_shard", "crt_propensity", "crt_merge"} & set(planned.values())
    folder.snakemake()
    assert folder.planned() == {}

    effects = read_parquet(folder.path / A / "effects.parquet")
    assert list(effects) == [*CONTRACT, "p_empirical", "ntc_d", "n_batches", "note"]
    assert len(effects) == 8 * 3
    assert set(effects["p_source"]) == {"ntc_empirical"}
    assert effects["fdr"].notna().all()
    assert len(read_parquet(folder.path / A / "controls.parquet")) > 0
    calibration = read_tsv(folder.path / A / "calibration.tsv")
    assert (calibration.loc[calibration["tests"] == "ntc_guides", "n_tests"] > 0).all()
    assert len(read_tsv(folder.path / A / "ntc_matching.tsv")) == 3
    crossfit = read_parquet(folder.path / A / "crossfit.parquet")
    assert set(crossfit["batch"]) == {"batch_1", "batch_2", "batch_3", "meta"}
    assert (folder.path / A / "plots" / "qq_crossfit.png").stat().st_size > 0
    log = (folder.path / "logs" / "S" / "A" / "ntc_null.log").read_text()
    assert "8 targets and " in log.splitlines()[-1]

    # Pseudo-genes are drawn anew, and nothing before them is made again.
    folder.change("seed", 124)
    assert set(folder.planned()) >= {f"{A}/ntc_null.parquet", f"{A}/effects.parquet"}
    assert f"{A}/outcome.h5ad" not in folder.planned()


@pytest.mark.parametrize(
    ("analysis", "says"),
    [
        ({"statistic": "rank"}, "analyses.A.statistic: is 'rank', and null_method"),
        ({"tail": "left"}, "analyses.A.tail: is 'left', and null_method"),
        ({"calibration": "skew_normal"}, "analyses.A.calibration: is 'skew_normal'"),
        ({"control": "ntc"}, "analyses.A.control: is 'ntc', and null_method"),
    ],
)
def test_what_the_null_of_ntc_guides_cannot_be_combined_with_is_refused(
    analysis, says, new_folder, tiny
):
    folder = new_folder(config_of(tiny, **analysis))
    assert says in folder.snakemake("--dry-run", fails=True)
