"""The engine of the NTC null against its definition, by least squares in every batch."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy import stats

from condrand.covariates import dependencies, orthonormal_basis, standardize
from condrand.engines.ntc_null import (
    UnitsTested,
    against_of,
    compute_null,
    crossfit_table,
    null_table,
    write_ntc_null,
)
from condrand.errors import InputError
from condrand.figures import draw_crossfit
from condrand.io.outcome import Outcome, read_outcome
from condrand.io.tables import read_parquet, read_tsv
from condrand.normalize import normalize
from condrand.nulls.ntc_empirical import sample_ntc_pseudogenes_with_replacement
from condrand.propensity import fit_propensities, in_lanes
from condrand.statistics import ols
from condrand.tables import CONTRACT

N_CELLS, N_FEATURES, N_GUIDES = 600, 3, 12
SETTINGS = {
    **{"guides_per_unit": 3, "n_ntc_units": 80, "n_n1_bins": 1, "n_d_bins": 1},
    **{"use_pbar": False, "n_pbar_bins": 1, "min_ntc_per_bin": 5, "scale": "studentized"},
    **{"batch_mode": "meta", "combine_method": "fisher", "min_treated": 10, "min_control": 10},
    "qq_crossfit_frac_A": 0.5,
}
LABELS = ("S", "A")


class Simulated:
    """A small screen: three batches, one of 15 cells; a target that misses two of them."""

    def __init__(self, sparse: bool = False):
        random = np.random.default_rng(5)
        self.batch = np.repeat([0, 1, 2], [300, 285, 15])
        covariates = np.column_stack(
            [random.normal(size=(N_CELLS, 2)), self.batch == 1, self.batch == 2]
        ).astype(float)
        outcome = random.poisson(0.7, (N_CELLS, N_FEATURES)).astype(float)
        outcome += 0.5 * (self.batch == 1)[:, None]
        # Varies between batches alone.
        outcome[:, 2] = self.batch
        self.outcome, self.covariates = outcome, covariates
        self.cells_of_guide = {
            f"n{i:02}": np.flatnonzero(random.random(N_CELLS) < 0.06) for i in range(N_GUIDES)
        }
        targets = [np.flatnonzero(random.random(N_CELLS) < share) for share in (0.1, 0.2, 0.3)]
        targets += [np.arange(0, 300, 6), np.zeros(0, np.int64), np.arange(300, 309)]
        guides = sorted(self.cells_of_guide)
        treated = targets + [self.cells_of_guide[guide] for guide in guides]
        self.tested = UnitsTested(
            ["target"] * len(targets) + ["ntc_guide"] * N_GUIDES,
            [f"t{i}" for i in range(len(targets))] + guides,
            [[f"t{i}_1"] for i in range(len(targets))] + [[guide] for guide in guides],
            treated,
        )
        design = standardize(covariates)
        assert not dependencies(["x", "y", "b1", "b2"], design)
        shown = sp.csr_matrix(outcome) if sparse else outcome
        self.shared = Outcome(
            ols.score(shown, orthonormal_basis(design)),
            *(design, ["p0", "p1", "p2"], "outcome", "digest", "ols", "complement"),
            *(None, None, self.batch),
        )

    def least_squares(self, treated: np.ndarray, inside: np.ndarray):
        """Coefficient and denominator of one unit in some cells, from the raw columns."""
        x = np.isin(np.arange(N_CELLS), treated)
        design = np.column_stack([np.ones(N_CELLS), self.covariates])[inside]
        x = x[inside].astype(float)
        residual = x - design @ np.linalg.lstsq(design, x, rcond=None)[0]
        d = residual @ residual
        return residual @ self.outcome[inside] / d if d > 1e-9 else np.full(3, np.nan), d


def expected_p(screen, pseudo_genes, settings):
    """P values of every unit by definition, all pseudo-genes in one bin; NaN for feature 2."""
    meta = settings["batch_mode"] == "meta"
    places = [screen.batch == b for b in range(3)] if meta else [np.ones(N_CELLS, bool)]
    pseudo_cells = [
        np.unique(np.concatenate([screen.cells_of_guide[g] for g in unit]))
        for unit in pseudo_genes
    ]
    found, beta_of = [], []
    for inside in places:

        def extremity(treated, inside=inside):
            n1 = inside[treated].sum()
            if meta and (n1 < 10 or inside.sum() - n1 < 10):
                return np.full(3, np.nan), np.full(3, np.nan)
            beta, d = screen.least_squares(treated, inside)
            scale = np.sqrt(d) if settings["scale"] == "studentized" else 1.0
            return np.abs(beta) * scale, beta

        null = np.array([extremity(cells)[0] for cells in pseudo_cells])
        p, betas = [], []
        for u, cells in enumerate(screen.tested.treated):
            size, beta = extremity(cells)
            apart = ~np.isin(pseudo_genes, screen.tested.guides[u]).any(axis=1)
            others = null[apart & ~np.isnan(null).all(axis=1)]
            p.append((1 + (others >= size).sum(axis=0)) / (1 + len(others)))
            p[-1][np.isnan(size)] = np.nan
            betas.append(beta)
        found.append(p)
        beta_of.append(betas)
    found, beta_of = np.array(found), np.array(beta_of)
    combined = np.full(found.shape[1:], np.nan)
    for at in np.ndindex(combined.shape):
        made = ~np.isnan(found[(slice(None), *at)])
        p, beta = found[(made, *at)], beta_of[(made, *at)]
        if not made.any() or at[1] == 2:
            continue
        if not meta:
            combined[at] = p[0]
        elif settings["combine_method"] == "fisher":
            combined[at] = stats.combine_pvalues(p, "fisher")[1]
        else:
            z = np.sum(np.sign(beta) * stats.norm.isf(p / 2)) / np.sqrt(p.size)
            combined[at] = 2 * stats.norm.sf(abs(z))
    return combined


def table_of(screen, settings, seed=7):
    pseudo_genes = sample_ntc_pseudogenes_with_replacement(
        sorted(screen.cells_of_guide), settings["guides_per_unit"], settings["n_ntc_units"], seed
    )
    null = compute_null(
        screen.shared,
        screen.tested,
        screen.cells_of_guide,
        {"ntc": pseudo_genes},
        settings["batch_mode"],
        settings["use_pbar"],
    )
    rule = against_of(settings)
    table, matching = null_table(screen.shared, screen.tested, null, pseudo_genes, rule, LABELS)
    return table, matching, pseudo_genes, null


@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize(
    "change",
    [
        {"batch_mode": "pooled"},
        {"batch_mode": "meta"},
        {"batch_mode": "meta", "combine_method": "stouffer"},
    ],
    ids=lambda change: "-".join(change.values()),
)
def test_the_table_is_that_of_the_definition(sparse, change):
    screen, settings = Simulated(sparse), {**SETTINGS, **change}
    table, _, pseudo_genes, _ = table_of(screen, settings)
    p = table["p_value"].to_numpy().reshape(-1, N_FEATURES)
    np.testing.assert_allclose(p, expected_p(screen, pseudo_genes, settings), rtol=1e-9)
    every = np.ones(N_CELLS, bool)
    for u, name in enumerate(screen.tested.names):
        rows = table[table["target"] == name]
        beta, d = screen.least_squares(screen.tested.treated[u], every)
        beta[2] = np.nan
        np.testing.assert_allclose(rows["effect"], beta, rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(rows["ntc_d"], d, rtol=1e-9, atol=1e-12)
        assert (rows["n_target"] == screen.tested.treated[u].size).all()


def test_the_table_keeps_the_contract_and_says_why_there_is_no_p_value():
    table, _, _, _ = table_of(Simulated(), SETTINGS)
    assert list(table) == ["kind", *CONTRACT, "p_empirical", "ntc_d", "n_batches", "note"]
    assert (table["p_empirical"].dropna() == table["p_value"].dropna()).all()
    assert table["p_source"].isin(["ntc_empirical", ""]).all()
    note = table.set_index(["target", "feature"])["note"]
    assert note["t0", "p0"] == ""
    assert note["t0", "p2"] == "the feature does not vary beyond the covariates"
    assert note["t4", "p0"] == "no treated cell"
    assert note["t5", "p0"] == "no batch with 10 treated and 10 other cells"
    used = table.drop_duplicates("target").set_index("target")["n_batches"]
    # The third batch is too small for any.
    assert used[["t0", "t1", "t3", "t4", "t5"]].tolist() == [2, 2, 1, 0, 0]


def test_the_statistic_is_about_a_t_statistic():
    screen = Simulated()
    table, _, _, _ = table_of(screen, {**SETTINGS, "batch_mode": "pooled"})
    x = np.isin(np.arange(N_CELLS), screen.tested.treated[1]).astype(float)
    design = np.column_stack([x, np.ones(N_CELLS), screen.covariates])
    y = screen.outcome[:, 0]
    residual = y - design @ np.linalg.lstsq(design, y, rcond=None)[0]
    sd = np.sqrt(residual @ residual / (N_CELLS - design.shape[1]))
    row = table[(table["target"] == "t1") & (table["feature"] == "p0")].iloc[0]
    assert row["statistic"] == pytest.approx(row["effect"] * np.sqrt(row["ntc_d"]) / sd, rel=0.01)


def test_single_guides_are_no_controls_of_raw_coefficients():
    table, _, _, _ = table_of(Simulated(), {**SETTINGS, "scale": "raw"})
    guides = table[(table["kind"] == "ntc_guide") & (table["feature"] != "p2")]
    assert guides["p_value"].isna().all()
    assert set(guides["note"]) == {
        "raw coefficients of one guide and of several are not comparable"
    }
    assert table.loc[table["kind"] == "target", "p_value"].notna().any()


def test_a_guide_in_every_pseudo_gene_has_nothing_to_be_compared_with():
    table, _, pseudo_genes, _ = table_of(Simulated(), {**SETTINGS, "guides_per_unit": N_GUIDES})
    assert (pseudo_genes == pseudo_genes[0]).all()
    guides = table[(table["kind"] == "ntc_guide") & (table["feature"] != "p2")]
    assert set(guides["note"]) == {"too few pseudo-genes without its guides"}


def test_the_matching_report_counts_every_target_once_per_batch():
    bins = {**SETTINGS, "n_n1_bins": 3, "n_d_bins": 3, "min_ntc_per_bin": 20}
    _, matching, _, _ = table_of(Simulated(), bins)
    assert matching["batch"].tolist() == ["0", "1", "2"]
    compared = matching[["own_bin", "wider_bins", "all_units"]].sum(axis=1)
    assert compared.tolist() == matching["n_targets"].tolist() == [4, 3, 0]
    assert matching["n_ntc_units"].tolist()[2] == 0


def test_the_mean_logit_of_the_propensity_is_the_intercept_of_the_fit():
    screen = Simulated()
    _, _, _, null = table_of(screen, {**SETTINGS, "batch_mode": "pooled", "use_pbar": True})
    lanes = in_lanes(screen.shared.design)
    fit = fit_propensities(lanes, N_CELLS, screen.tested.treated[:1], clip=1e-12)
    p = fit.predict(0, lanes, N_CELLS)
    expected = np.mean(np.log(p / (1 - p)))
    assert null.sets["tested"]["pooled"].pbar[0] == pytest.approx(expected, rel=1e-9)
    assert np.isnan(null.sets["tested"]["pooled"].pbar[4])


def test_one_batch_of_all_cells_gives_the_pooled_test():
    screen = Simulated()
    screen.shared.batch[:] = 0
    meta, pooled = (table_of(screen, {**SETTINGS, "batch_mode": m})[0] for m in ("meta", "pooled"))
    enough = meta["n_target"] >= 10
    pd.testing.assert_frame_equal(meta[enough], pooled[enough], rtol=1e-12)


def test_the_cross_fit_holds_every_level_kind_and_batch():
    screen = Simulated()
    guides = np.array(sorted(screen.cells_of_guide))
    draw = sample_ntc_pseudogenes_with_replacement
    sets = {"A": draw(guides[::2], 3, 20, 1), "B": draw(guides[1::2], 3, 15, 2)}
    sets["ntc"] = sets["A"]
    null = compute_null(screen.shared, screen.tested, screen.cells_of_guide, sets, "meta")
    is_target = np.array(screen.tested.kinds) == "target"
    table = crossfit_table(screen.shared.features, null, is_target, against_of(SETTINGS))
    sizes = table.groupby(["level", "kind", "batch"]).size().unstack("batch")
    assert list(sizes) == ["0", "1", "2", "meta"]
    assert sizes.loc[("gene", "holdout")].tolist() == [15] * 4
    assert sizes.loc[("program", "target")].tolist() == [6 * N_FEATURES] * 4
    real = table[(table["level"] == "program") & (table["kind"] == "target")]
    real = real[real["batch"] == "meta"]
    # What varies most stands first.
    by_variance = [f"p{k}" for k in np.argsort(-null.t_units)]
    assert real["feature"].unique().tolist() == by_variance
    only_targets = expected_p(screen, sets["A"], SETTINGS)[:6]
    for k in range(N_FEATURES):
        p = real.loc[real["feature"] == f"p{k}", "p"]
        np.testing.assert_allclose(p, only_targets[:, k], rtol=1e-9)


# The step, from stored files


@pytest.fixture
def step(tmp_path, write_screen, load, complete):
    """Load and normalize a screen of 5 NTC guides, then run the step; give its files."""

    def run(name="one", guides=None, seed=123, n_batches=1, burden=False, **section):
        target_of = {"a1": "A", "a2": "A", "b1": "B"}
        target_of |= {f"n{i}": "NTC" for i in range(5)}
        random = np.random.default_rng(3)
        carried = random.random((60, len(target_of))) < 0.3
        if guides is not None:
            carried[:, 3 + guides :] = False
        path = write_screen(
            guide_assignment=sp.csr_matrix(carried.astype(float)),
            guide_names=np.array(list(target_of), dtype=object),
            guide2gene=target_of,
        )
        section = {"guides_per_unit": 2, "n_ntc_units": 60, "min_treated": 2, **section}
        analysis = {"null_method": "ntc_empirical", "ntc_empirical": section}
        settings = complete(**analysis)["analyses"]["crt"]
        out = load(path, {"covariates": {"burden": burden}}, folder=name, **analysis)
        normalize(
            out / "screen.h5ad",
            out / "outcome.h5ad",
            settings["outcome"],
            batch_key="batch" if settings["ntc_empirical"]["batch_mode"] == "meta" else None,
        )
        (out / "groups.tsv").write_text("target\tkind\tguides\tn_cells\tbatch\tstatus\n")
        if guides is None:
            row = "e0/ntc_0\tntc_group\tn0,n1\t30\t0\tkept\n"
            (out / "groups.tsv").open("a").write(row)
        files = [out / "null.parquet", out / "matching.tsv", out / "crossfit.parquet"]
        write_ntc_null(
            out / "screen.h5ad",
            [out / "targets.tsv", out / "groups.tsv"],
            out / "outcome.h5ad",
            *files,
            LABELS,
            "all",
            "groups",
            settings["ntc_empirical"],
            seed,
            n_batches,
        )
        return files

    return run


def test_the_step_tests_targets_guides_and_groups_and_ends_its_log_with_counts(step, caplog):
    caplog.set_level(logging.INFO)
    files = step()
    table, matching, crossfit = read_parquet(files[0]), read_tsv(files[1]), read_parquet(files[2])
    assert table.groupby("kind")["target"].nunique().to_dict() == {
        "ntc_group": 1,
        "ntc_guide": 5,
        "target": 2,
    }
    assert len(matching) == 3
    assert set(crossfit["kind"]) == {"target", "holdout"}
    assert "2 targets and 6 controls against 60 pseudo-genes of 2 of 5 NTC guides" in caplog.text
    assert "only 10 differ" in caplog.text
    assert "cross-fit: pseudo-genes of 1 guides in place of 2, from 2 and 3" in caplog.text


def test_the_step_gives_equal_bytes_for_an_equal_seed_and_others_for_another(step):
    first, again, other = step("one"), step("two"), step("three", seed=124)
    assert [f.read_bytes() for f in first] == [f.read_bytes() for f in again]
    assert first[0].read_bytes() != other[0].read_bytes()


def test_the_burden_is_a_covariate_of_every_unit_its_own_guides_counted(step, parts):
    files = step(burden=True, batch_mode="pooled")
    table = read_parquet(files[0]).drop_duplicates("target").set_index("target")
    data = ad.read_h5ad(files[0].parent.parent / "mine.h5ad")
    calls, batch = data.obsm["guide_assignment"].toarray(), parts["covar"]["batch"]
    burdens = [np.log1p(calls[:, :3].sum(axis=1)), np.log1p(calls[:, 3:].sum(axis=1))]
    columns = [np.ones(60), parts["covar"]["p_mito"], batch == "two", batch == "three"]
    guides_of = {"A": [0, 1], "B": [2], "n3": [6], "e0/ntc_0": [3, 4]}
    outcome = read_outcome(files[0].parent / "outcome.h5ad")
    assert outcome.design.shape[1] == 5
    d = {}
    for design in (columns, columns + burdens):
        design = np.column_stack(design).astype(float)
        for name, guides in guides_of.items():
            x = calls[:, guides].any(axis=1).astype(float)
            d[name, design.shape[1]] = np.linalg.lstsq(design, x, rcond=None)[1][0]
    for name in guides_of:
        assert d[name, 4] > 1.02 * d[name, 6]
        assert table.loc[name, "ntc_d"] == pytest.approx(d[name, 6], rel=1e-9)


def test_too_few_guides_for_halves_leave_the_cross_fit_empty_and_its_figure_says_so(
    step, caplog, tmp_path
):
    files = step(guides=3)
    assert "no cross-fit: it needs 2 NTC guides in either half, of 3" in caplog.text
    table = read_parquet(files[2])
    assert len(table) == 0
    assert list(table) == ["level", "feature", "kind", "batch", "p"]
    draw_crossfit(files[2], tmp_path / "a.png", tmp_path / "a.svg")
    assert "No cross-fit: too few NTC guides" in (tmp_path / "a.svg").read_text()


def test_fewer_guides_than_a_pseudo_gene_has_are_bad_input(step):
    with pytest.raises(InputError, match="1 NTC guides are carried .* lower .*guides_per_unit"):
        step(guides=1)


def test_the_figure_of_a_cross_fit_shows_genes_and_at_most_five_programs(step, tmp_path):
    files = step()
    draw_crossfit(files[2], tmp_path / "a.png", tmp_path / "a.svg")
    text = (tmp_path / "a.svg").read_text()
    assert "gene: largest effect" in text
    assert read_outcome(files[0].parent / "outcome.h5ad").features[0] in text
