"""The examples in config/examples, on the published screens they name."""

from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import yaml
from scipy.stats import spearmanr

from condrand.fdr import benjamini_hochberg

EXAMPLES = Path(__file__).resolve().parents[2] / "config" / "examples"


@pytest.fixture
def run_example(new_folder, data_dir):
    """Run an example in a folder of its own; give some tables of one of its analyses."""

    def run(name, *analyses, tables=("effects", "controls")):
        folder = new_folder(yaml.safe_load((EXAMPLES / f"{name}.yaml").read_text()))
        folder.environment["CONDRAND_DATA"] = str(data_dir)
        folder.snakemake()
        results = folder.path / "results" / name
        found = [
            tuple(pd.read_parquet(results / analysis / f"{table}.parquet") for table in tables)
            for analysis in analyses or ("crt",)
        ]
        return found if analyses else found[0]

    return run


@pytest.mark.slow
def test_thp1_programs_fall_where_their_regulators_are_knocked_out(run_example):
    effects, controls = run_example("papalexi_programs")
    known = [(target, "P4") for target in ("JAK2", "IFNGR1", "IFNGR2", "STAT1")]
    rows = effects.set_index(["target", "feature"]).loc[[*known, ("SMAD4", "P7")]]
    assert (rows["effect"] < 0).all()
    assert (rows["fdr"] < 0.05).all()
    # No resample of 1,023 is as extreme, and p is far smaller than they could tell.
    assert (rows["p_empirical"] == 1 / 1024).all()
    assert (rows["p_value"] < 1e-5).all() and (rows["p_source"] == "importance").all()
    # By 255 draws of each tail; four times as many halve it.
    assert (rows["p_relative_error"] < 0.6).all()
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


@pytest.mark.slow
def test_thp1_comparisons_find_what_is_known_and_little_else(run_example, data_dir, capsys):
    names = ("effects", "controls", "ntc_groups")
    mwu, welch = run_example("papalexi_dex", "mwu", "welch", tables=names)
    published = pd.read_csv(data_dir / "papalexi_thp1.sceptre_discovery.tsv.gz", sep="\t")
    published = published.dropna(subset="p_value").set_index(["grna_group", "response_id"])
    for test, (effects, controls, groups) in (("mwu", mwu), ("welch", welch)):
        rows = effects.set_index(["target", "feature"])
        own = rows[[target == feature for target, feature in rows.index]]
        assert len(own) == 9
        assert (own["effect"] < 0).all() and (own["fdr"] < 0.05).all()

        both = rows.loc[published.index.intersection(rows.dropna(subset="p_value").index)]
        theirs = -np.log10(published.loc[both.index, "p_value"].clip(lower=1e-300))
        rho = spearmanr(both["neg_log10_p"], theirs).statistic
        assert len(both) > 6000
        assert rho > 0.7

        psmb9 = effects[effects["feature"] == "PSMB9"].set_index("target")["effect"]
        assert set(psmb9.index[psmb9 < -1]) == {"IFNGR1", "IFNGR2", "JAK2", "STAT1"}

        empty = effects[effects["target"] == "CD274"]
        assert len(empty) == 303
        assert set(empty["note"]) == {"no target cell"} and empty["p_value"].isna().all()

        found = {}
        for name, table in (("guides", controls), ("groups", groups)):
            assert table["p_value"].notna().sum() > 1000
            found[name] = int((benjamini_hochberg(table["p_value"].to_numpy()) < 0.1).sum())
        with capsys.disabled():
            print(f"\n{test}: rho {rho:.3f}; own genes", own["effect"].round(2).to_dict())
            print(f"{test}: NTC against NTC at BH < 0.1: {found}")
        if test == "mwu":
            assert found["guides"] <= 1 and found["groups"] == 0


@pytest.mark.slow
def test_gse60450_has_the_published_numbers(run_example, data_dir):
    (effects,), (stages,) = run_example("gse60450", "limma", "stages", tables=("effects",))
    rows = effects.set_index("feature")
    called = effects["fdr"] < 0.05
    assert len(effects) == 14_453
    assert (called.sum(), (effects["call"] < 0).sum(), (effects["call"] > 0).sum()) == (
        *(6503, 4503, 2000),
    )
    assert rows["neg_log10_p"].idxmax() == "110308"
    reference = pd.read_csv(
        data_dir / "limma" / "limma_ref_seed_genes.csv.gz",
        float_precision="round_trip",
        dtype={"EntrezGeneID": str},
    ).set_index("EntrezGeneID")
    ours = rows.loc[reference.index]
    for column, theirs in (("effect", "logFC"), ("statistic", "t"), ("log_odds", "B")):
        assert np.abs(ours[column] - reference[theirs]).max() < 1e-9, column
    assert stages["target"].nunique() == 3


@pytest.mark.slow
def test_hspc_has_the_published_f_of_every_gene(run_example, data_dir):
    ((effects,),) = run_example("hspc", "anova", tables=("effects",))
    rows = effects.set_index("feature")
    assert rows.loc["Kdm3a", "statistic"] == pytest.approx(1.500594, abs=5e-7)
    assert rows.loc["Kdm3a", "p_value"] == pytest.approx(0.22639342, abs=5e-8)
    assert (effects["fdr"] < 0.05).sum() == 2398
    table = pd.read_csv(data_dir / "hspc.f_oneway_computed_here.tsv.gz", sep="\t", index_col=0)
    # The file stores float32, the table was made from text.
    np.testing.assert_allclose(rows.loc[table.index, "statistic"], table["F"], rtol=5e-6)


@pytest.mark.slow
def test_interferon_genes_of_blood_cells_change_along_their_states(run_example):
    ((effects,),) = run_example("kang_kompot", "kompot", tables=("effects",))
    rows = effects.set_index("feature").sort_values("statistic", ascending=False)
    known = ["ISG15", "IFI6", "ISG20"]
    places = [rows.index.get_loc(gene) for gene in known]
    print(rows[["effect", "statistic", "local_fdr"]].head(20))
    assert max(places) < 20
    assert (rows.loc[known, "effect"] > 0).all() and rows.loc[known, "is_de"].all()
