"""The examples in config/examples, on the published screens they name."""

from pathlib import Path

import anndata as ad
import pandas as pd
import pytest
import yaml

EXAMPLES = Path(__file__).resolve().parents[2] / "config" / "examples"


@pytest.fixture
def run_example(new_folder, data_dir):
    """Run an example in a folder of its own; give the tables of effects and of controls."""

    def run(name):
        folder = new_folder(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))
        folder.environment["CONDRAND_DATA"] = str(data_dir)
        folder.snakemake()
        results = folder.path / "results" / name / "crt"
        return tuple(pd.read_parquet(results / f"{t}.parquet") for t in ("effects", "controls"))

    return run


@pytest.mark.slow
def test_thp1_programs_fall_where_their_regulators_are_knocked_out(run_example):
    effects, controls = run_example("papalexi_programs")
    known = [(target, "P4") for target in ("JAK2", "IFNGR1", "IFNGR2", "STAT1")]
    rows = effects.set_index(["target", "feature"]).loc[[*known, ("SMAD4", "P7")]]
    assert (rows["effect"] < 0).all()
    assert (rows["fdr"] < 0.05).all()
    # No resample of 10,230 is as extreme.
    assert (rows["p_empirical"] == 1 / 10231).all()
    empty = effects[effects["target"] == "CD274"]
    assert len(empty) == 10
    assert empty["p_value"].isna().all()
    assert set(empty["note"]) == {"no treated cell"}
    assert controls["target"].nunique() == 9


@pytest.mark.slow
def test_k562_own_genes_fall_and_controls_are_calibrated(run_example, data_dir):
    effects, controls = run_example("gasperini_expression")
    pairs = pd.read_csv(data_dir / "gasperini_k562.positive_control_pairs.tsv", sep="\t")
    own = effects.merge(
        pairs, left_on=["target", "feature"], right_on=["grna_group", "response_id"]
    ).set_index("feature")
    assert len(own) == 10
    names = ad.read_h5ad(data_dir / "gasperini_k562.h5ad", backed="r").var["symbol"]
    own.index = names[own.index].to_numpy()
    print(own[["n_target", "effect", "p_empirical", "p_value", "fdr"]])
    assert (own["effect"] < 0).all()
    # LARP1 has no effect in this subset by any test; VAPA is borderline.
    strong = own.drop(index=["LARP1", "VAPA"])
    assert (strong["fdr"] < 1e-5).all()
    assert own.loc["LARP1", "p_value"] > 0.1
    p = controls["p_empirical"].dropna()
    print("NTC", len(p), (p < 0.05).mean(), (p < 0.01).mean())
    # 9,150 tests of 25 guides; genes share resamples, so five binomial standard errors.
    assert abs((p < 0.05).mean() - 0.05) < 5 * (0.05 * 0.95 / len(p)) ** 0.5
    assert abs((p < 0.01).mean() - 0.01) < 5 * (0.01 * 0.99 / len(p)) ** 0.5
