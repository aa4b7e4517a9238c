"""The steps of engine dex, from a file to its tables, against scipy by brute force."""

import itertools
import logging
from pathlib import Path
from typing import Any

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu, ttest_ind

from condrand.config import complete_config, needs_of, outcomes_of
from condrand.engines.dex_groups import plan_groups
from condrand.engines.dex_steps import merge_batch, sum_shard
from condrand.engines.ntc_groups import write_ntc_groups
from condrand.errors import InputError
from condrand.io.comparisons import read_comparisons
from condrand.io.shards import ShardError, read_arrays, write_arrays
from condrand.io.tables import read_tsv
from condrand.merge import merge_analysis
from condrand.plan import FEATURES_PER_BLOCK
from condrand.screen import load_screen
from condrand.tables import CONTRACT

N_CELLS, N_FEATURES = 240, FEATURES_PER_BLOCK + 28
LABELS = ["non-targeting", "NTC"]
TARGET_OF = {
    **{"a1": "A", "a2": "A", "b1": "B", "b2": "B", "c1": "C", "d1": "ONE", "e1": "EMPTY"},
    **{f"n{i}": "non-targeting" for i in range(4)},
}
NAMES = list(TARGET_OF)
# Features that fall in the cells of a target.
KNOWN = {"A": [0, 1, 515], "B": [7, 530], "C": [10]}
KNOWN_AT = [feature for features in KNOWN.values() for feature in features]
ZERO, CONSTANT, ALONE = 3, FEATURES_PER_BLOCK + 3, FEATURES_PER_BLOCK + 5
WRITTEN = {
    **{"effects": "effects.parquet", "effects_tsv": "effects.tsv.gz"},
    **{"controls": "controls.parquet", "controls_tsv": "controls.tsv.gz"},
    **{"ntc_groups": "ntc_groups.parquet", "calibration": "calibration.tsv"},
    **{"flagged_controls": "flagged_controls.tsv", "verdict": "verdict.txt"},
}


def make_screen() -> dict[str, Any]:
    """240 cells, 540 features in two blocks, three targets with effects, four NTC guides."""
    random = np.random.default_rng(8)
    carried = np.zeros((N_CELLS, len(NAMES)), bool)
    often = [0, 1, 2, 3, 4, 7, 8, 9, 10]
    carried[np.arange(N_CELLS), np.resize(often, N_CELLS)] = True
    # Some cells carry a guide more, of the same or of another target, or an NTC guide.
    for cell in range(0, N_CELLS, 11):
        carried[cell, random.choice(often)] = True
    carried[17] = False
    carried[17, NAMES.index("d1")] = True
    # A cell that carries nothing.
    carried[29] = False
    rate = random.gamma(0.6, 1.0, N_FEATURES)
    rate[KNOWN_AT] = 4
    depth = random.lognormal(0, 0.4, N_CELLS)
    mean = np.outer(depth, rate)
    for target, features in KNOWN.items():
        of = [NAMES.index(guide) for guide in NAMES if TARGET_OF[guide] == target]
        mean[np.ix_(carried[:, of].any(axis=1), features)] *= 0.15
    counts = random.poisson(mean).astype(np.float32)
    counts[:, ZERO] = 0
    counts[:, ALONE] = 0
    counts[carried[:, NAMES.index("c1")], ALONE] = 2
    gene = np.array(["A", "B", "C", "NTC"], dtype=object)[np.arange(N_CELLS) % 4]
    gene[5] = "ONE"
    gene[[7, 18]] = None
    return {
        "counts": counts,
        "carried": carried,
        "depth": random.integers(500, 900, N_CELLS).astype(float),
        "gene": gene,
    }


SCREEN = make_screen()


def write_file(path: Path, counts: Any = None) -> Path:
    """The screen as a file."""
    obs = pd.DataFrame(
        {"depth": SCREEN["depth"], "gene": pd.Categorical(SCREEN["gene"])},
        index=[f"cell{i}" for i in range(N_CELLS)],
    )
    data = ad.AnnData(
        sp.csr_matrix(SCREEN["counts"]) if counts is None else counts,
        obs=obs,
        # In no alphabetical order.
        var=pd.DataFrame(index=[f"G{(7 * j) % N_FEATURES}" for j in range(N_FEATURES)]),
        obsm={"guide_assignment": sp.csr_matrix(SCREEN["carried"].astype(float))},
        uns={"guide_names": np.array(NAMES, object), "guide2gene": dict(TARGET_OF)},
    )
    data.write_h5ad(path)
    return path


class Steps:
    """Does what the rules from load_screen to merge_effects do."""

    def __init__(self, schema, source: Path, folder: Path, split=(1, 1, 1), seed=5, **analysis):
        self.n_batches, self.n_shards, self.threads = split
        self.folder, self.source, self.seed = folder, source, seed
        self.config = complete_config(
            {
                "screens": {"s": {"path": str(source), "ntc_labels": LABELS}},
                "analyses": {"d": {"engine": "dex", **analysis}},
            },
            schema,
            "this test",
        )
        self.settings = self.config["analyses"]["d"]
        self.outcome = folder / "outcome.h5ad"

    def load(self) -> None:
        load_screen(
            self.source,
            self.config["screens"]["s"],
            outcomes_of(self.config, "s"),
            needs_of(self.config, "s"),
            self.n_batches,
            self.folder / "screen.h5ad",
            self.folder / "targets.tsv",
        )

    def plan(self) -> None:
        groups = None
        if self.settings["groupby"] is None:
            groups = self.folder / "ntc_groups.tsv"
            write_ntc_groups(
                self.folder / "screen.h5ad",
                groups,
                self.settings["controls"],
                self.settings["ntc_groups"],
                self.n_batches,
            )
        plan_groups(
            self.folder / "screen.h5ad",
            groups,
            self.outcome,
            self.folder / "groups.tsv",
            self.folder / "blocks.tsv",
            self.settings,
            self.seed,
            self.n_batches,
        )

    def shards(self, batch: int) -> list[Path]:
        return [self.folder / f"batch-{batch}" / f"shard-{s}.h5" for s in range(self.n_shards)]

    def sum(self, batch: int, shard: int) -> None:
        sum_shard(
            self.folder / "screen.h5ad",
            self.outcome,
            self.shards(batch)[shard],
            batch,
            (shard, self.n_shards),
            self.settings["test"],
            self.threads,
        )

    def merge(self, batch: int, shards: list[Path] | None = None) -> Path:
        table = self.folder / f"batch-{batch}.parquet"
        shards = self.shards(batch) if shards is None else shards
        merge_batch(self.outcome, shards, table, batch, ("s", "d"), self.settings)
        return table

    def join(self) -> dict[str, bytes]:
        """Merge all batches; give the tables' bytes."""
        tables = [self.merge(batch) for batch in range(self.n_batches)]
        written = {key: self.folder / name for key, name in WRITTEN.items()}
        merge_analysis(tables, self.outcome, (None, None), written)
        return {name: (self.folder / name).read_bytes() for name in WRITTEN.values()}

    def run(self) -> dict[str, bytes]:
        self.load()
        self.plan()
        for batch, shard in itertools.product(range(self.n_batches), range(self.n_shards)):
            self.sum(batch, shard)
        return self.join()

    def table(self, name: str = "effects") -> pd.DataFrame:
        return pd.read_parquet(self.folder / f"{name}.parquet")


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_file(tmp_path_factory.mktemp("source") / "mine.h5ad")


@pytest.fixture(scope="module")
def dense_source(tmp_path_factory) -> Path:
    return write_file(tmp_path_factory.mktemp("source") / "dense.h5ad", SCREEN["counts"])


@pytest.fixture
def steps(schema, source, tmp_path):
    """Make steps of an analysis in a folder of their own, not yet run."""

    def make(name="run", path=source, split=(1, 1, 1), seed=5, **analysis) -> Steps:
        return Steps(schema, path, tmp_path / name, split, seed, **analysis)

    return make


@pytest.fixture
def run(steps):
    """Run an analysis; give its steps."""

    def make(name="run", **given) -> Steps:
        made = steps(name, **given)
        made.run()
        return made

    return make


# By brute force


def carries(*targets: str) -> np.ndarray:
    """Cells that carry a guide of some targets."""
    of = [i for i, guide in enumerate(NAMES) if TARGET_OF[guide] in targets]
    return SCREEN["carried"][:, of].any(axis=1)


TARGETS = ["A", "B", "C", "EMPTY", "ONE"]
IS_NTC = carries("non-targeting") & ~carries(*TARGETS)
SEVERAL = sum(carries(name).astype(int) for name in [*TARGETS, "non-targeting"]) > 1
GENE = SCREEN["gene"]


def values_of(transform, library=None, target_sum=1e4):
    """Values as they are ranked exactly, their scaled ones, and what natural values are."""
    counts = SCREEN["counts"].astype(np.float64)
    if transform == "log_normalize":
        library = counts.sum(axis=1) if library is None else library
        ranked = counts / library[:, None]
        return ranked, np.log1p(ranked * target_sum), np.expm1
    if transform == "counts":
        return counts, np.log1p(counts), np.expm1
    if transform == "logged":
        return counts, counts, np.expm1
    return counts, counts, lambda x: x


def brute_force(target, control, values, test="mwu", geometric=True, epsilon=1e-9, **how):
    """Every column of one target's rows, feature by feature."""
    ranked, scaled, natural = values
    rows = {}
    n, m = int(target.sum()), int(control.sum())
    plain = natural(np.array(1.0)) == 1
    for j in range(N_FEATURES):
        a, b = scaled[target, j], scaled[control, j]
        if test == "mwu":
            x, y = ranked[target, j], ranked[control, j]
            found = mannwhitneyu(
                x, y, method="asymptotic", use_continuity=how.get("continuity", True)
            )
        else:
            found = ttest_ind(a, b, equal_var=False)
        means = [
            side.mean() if plain else np.expm1(side.mean()) if geometric else natural(side).mean()
            for side in (a, b)
        ]
        rows[j] = (
            *(found.statistic, found.pvalue, *means),
            means[0] - means[1] if plain else np.log2((means[0] + epsilon) / (means[1] + epsilon)),
            *((a != 0).mean(), (b != 0).mean()),
        )
    columns = ["statistic", "p_value", "target_mean", "control_mean", "effect"]
    columns += ["target_fraction", "control_fraction"]
    table = pd.DataFrame.from_dict(rows, orient="index", columns=columns)
    return table.assign(n_target=n, n_control=m)


def equals_brute_force(table, name, target, control, values, **how):
    """Compare a target's rows with those by brute force; constant features are NaN."""
    got = table[table["target"] == name].reset_index(drop=True)
    assert len(got) == N_FEATURES
    expected = brute_force(target, control, values, **how)
    assert (got["n_target"] == target.sum()).all() and (got["n_control"] == control.sum()).all()
    sides = [values[1][cells] for cells in (target, control)]
    if how.get("test") == "welch":
        constant = np.all([(side == side[0]).all(axis=0) for side in sides], axis=0)
    else:
        constant = (np.vstack(sides) == sides[0][0]).all(axis=0)
    assert constant[ZERO]
    assert set(got["note"][constant]) == {"constant"}
    assert got.loc[constant, ["p_value", "statistic", "fdr"]].isna().all(axis=None)
    for column in ("statistic", "p_value"):
        np.testing.assert_allclose(
            got.loc[~constant, column], expected.loc[~constant, column], rtol=1e-8, err_msg=column
        )
    # Sums in another order, seen through a difference of means.
    for column in ("target_mean", "control_mean", "target_fraction", "control_fraction", "effect"):
        np.testing.assert_allclose(
            got[column], expected[column], rtol=1e-9, atol=1e-9, err_msg=column
        )


BY_GENE = {"groupby": "gene"}


def is_gene(name):
    return np.array([gene == name for gene in GENE])


# Cells of target A and its control, by what says so.
COMPARED = {
    "ntc": ({}, carries("A"), IS_NTC),
    "rest": ({"control": "rest"}, carries("A"), ~carries("A")),
    "perturbed": ({"control": "perturbed"}, carries("A"), carries(*TARGETS) & ~carries("A")),
    "group": (
        {"control": "group", "control_group": "B"},
        carries("A") & ~carries("B"),
        carries("B"),
    ),
    "gene-ntc": (BY_GENE, is_gene("A"), is_gene("NTC")),
    "gene-rest": (
        {**BY_GENE, "control": "rest"},
        is_gene("A"),
        is_gene("B") | is_gene("C") | is_gene("ONE") | is_gene("NTC"),
    ),
    "gene-perturbed": (
        {**BY_GENE, "control": "perturbed"},
        is_gene("A"),
        is_gene("B") | is_gene("C") | is_gene("ONE"),
    ),
    "gene-group": (
        {**BY_GENE, "control": "group", "control_group": "B"},
        is_gene("A"),
        is_gene("B"),
    ),
    "exclude-ntc": ({"multiple_guides": "exclude"}, carries("A") & ~SEVERAL, IS_NTC),
    "exclude-rest": (
        {"multiple_guides": "exclude", "control": "rest"},
        carries("A") & ~SEVERAL,
        ~carries("A") & ~SEVERAL,
    ),
    "exclude-perturbed": (
        {"multiple_guides": "exclude", "control": "perturbed"},
        carries("A") & ~SEVERAL,
        carries(*TARGETS) & ~carries("A") & ~SEVERAL,
    ),
    "exclude-group": (
        {"multiple_guides": "exclude", "control": "group", "control_group": "B"},
        carries("A") & ~SEVERAL,
        carries("B") & ~SEVERAL,
    ),
}


def test_the_screen_has_what_the_tests_are_about():
    assert (carries("A") & carries("B")).any()
    assert (carries("non-targeting") & carries(*TARGETS)).any()
    assert carries("ONE").sum() == 1 and carries("EMPTY").sum() == 0
    assert not carries(*TARGETS, "non-targeting").all()
    assert sum(gene is None for gene in GENE) == 2


@pytest.mark.parametrize("test", ["mwu", "welch"])
@pytest.mark.parametrize("who", COMPARED)
def test_every_control_is_compared_as_scipy_does(run, who, test):
    analysis, target, control = COMPARED[who]
    made = run(test=test, **analysis)
    equals_brute_force(made.table(), "A", target, control, values_of("log_normalize"), test=test)


@pytest.mark.parametrize("test", ["mwu", "welch"])
@pytest.mark.parametrize("form", ["sparse", "dense"])
@pytest.mark.parametrize("transform", ["log_normalize", "counts", "logged", "none"])
def test_every_transform_is_compared_as_scipy_does(
    run, source, dense_source, transform, form, test
):
    path = source if form == "sparse" else dense_source
    made = run(path=path, test=test, outcome={"transform": transform})
    values = values_of(transform)
    for name in ("A", "C"):
        equals_brute_force(made.table(), name, carries(name), IS_NTC, values, test=test)


def test_the_transform_that_is_meant_is_taken_by_itself(run, source, dense_source):
    for path, same in ((source, "log_normalize"), (dense_source, "none")):
        auto = run(f"auto-{same}", path=path).table()
        pd.testing.assert_frame_equal(
            auto, run(same, path=path, outcome={"transform": same}).table()
        )


@pytest.mark.parametrize("test", ["mwu", "welch"])
def test_libraries_of_a_column_and_another_sum_are_taken(run, test):
    outcome = {"transform": "log_normalize", "library_size": "depth", "target_sum": 300}
    made = run(test=test, outcome=outcome)
    values = values_of("log_normalize", SCREEN["depth"], 300)
    equals_brute_force(made.table(), "A", carries("A"), IS_NTC, values, test=test)
    assert set(made.table()["effect_scale"]) == {
        "log2 fold change of geometric means, counts per 300"
    }


def test_rounded_ties_are_those_of_rounded_logarithms(run):
    exact, rounded = run("exact").table(), run("rounded", ties="rounded").table()
    _, _, natural = values_of("log_normalize")
    counts = SCREEN["counts"].astype(np.float64)
    scaled = np.log1p(counts * (1e4 / counts.sum(axis=1))[:, None])
    equals_brute_force(rounded, "A", carries("A"), IS_NTC, (scaled, scaled, natural))
    # What the option is for.
    assert (exact["statistic"] != rounded["statistic"]).sum() > exact["statistic"].isna().sum()
    np.testing.assert_allclose(exact["effect"], rounded["effect"], rtol=1e-9, atol=1e-9)


def test_rounded_ties_are_the_same_of_dense_and_sparse_matrices(run, source, dense_source):
    given = {"ties": "rounded", "outcome": {"transform": "log_normalize"}}
    tables = [run(p.stem, path=p, **given).table() for p in (source, dense_source)]
    pd.testing.assert_frame_equal(*tables)


@pytest.mark.parametrize("test", ["mwu", "welch"])
def test_arithmetic_means_and_a_pseudocount_change_effects_but_no_test(run, test):
    plain = run("plain", test=test).table()
    made = run(test=test, geometric_mean=False, pseudocount=0.5).table()
    how = {"test": test, "geometric": False, "epsilon": 0.5}
    equals_brute_force(made, "A", carries("A"), IS_NTC, values_of("log_normalize"), **how)
    np.testing.assert_array_equal(plain["p_value"], made["p_value"])


def test_without_continuity_correction_p_values_are_scipys(run):
    made = run(continuity=False).table()
    values = values_of("log_normalize")
    equals_brute_force(made, "A", carries("A"), IS_NTC, values, continuity=False)


def test_small_groups_without_ties_are_tested_exactly_if_asked(run, schema, tmp_path):
    # Continuous values: nothing ties.
    random = np.random.default_rng(0)
    values = random.gamma(2.0, 1.0, SCREEN["counts"].shape)
    path = write_file(tmp_path / "continuous.h5ad", values)
    given = {**BY_GENE, "control": "group", "control_group": "ONE", "targets": ["A"]}
    table = run(path=path, exact_max_cells=100, **given).table()
    assert set(table["p_source"]) == {"exact"}
    a, b = is_gene("A"), is_gene("ONE")
    expected = [
        mannwhitneyu(values[a, j], values[b, j], method="exact").pvalue for j in range(N_FEATURES)
    ]
    np.testing.assert_allclose(table["p_value"], expected, rtol=1e-12)
    assert set(run("asymptotic", path=path, **given).table()["p_source"]) == {"asymptotic"}


# Who is tested, and who is sampled


def cells_of(made: Steps) -> dict[str, np.ndarray]:
    found = read_comparisons(made.outcome)
    return dict(zip(found.names, found.cells, strict=True))


def test_every_target_has_a_row_per_feature_in_the_order_of_the_screen(run):
    table = run(split=(3, 2, 1)).table()
    assert list(table.columns[: len(CONTRACT)]) == list(CONTRACT)
    features = [f"G{(7 * j) % N_FEATURES}" for j in range(N_FEATURES)]
    assert table["target"].tolist() == np.repeat(TARGETS, N_FEATURES).tolist()
    assert table["feature"].tolist() == features * len(TARGETS)


def test_only_the_targets_that_are_asked_for_are_tested(run):
    assert set(run("guides", targets=["C", "A"]).table()["target"]) == {"A", "C"}
    assert set(run("gene", targets=["C", "A"], **BY_GENE).table()["target"]) == {"A", "C"}


def test_controls_are_no_targets_but_against_all_other_cells(run):
    def tested(name, **given):
        return set(run(name, **BY_GENE, **given).table()["target"])

    assert tested("ntc") == {"A", "B", "C", "ONE"}
    assert tested("perturbed", control="perturbed") == {"A", "B", "C", "ONE"}
    assert tested("rest", control="rest") == {"A", "B", "C", "ONE", "NTC"}
    assert tested("group", control="group", control_group="B") == {"A", "C", "ONE"}


def test_the_target_that_is_the_control_is_not_tested(run):
    made = run(control="group", control_group="B")
    assert set(made.table()["target"]) == {"A", "C", "EMPTY", "ONE"}


@pytest.mark.parametrize("name", ["ntc", "rest", "perturbed"])
def test_a_control_group_may_bear_the_name_of_another_control(run, tmp_path, name):
    path = tmp_path / "named.h5ad"
    data = ad.read_h5ad(write_file(path))
    data.obs["gene"] = data.obs["gene"].cat.rename_categories({"B": name})
    data.write_h5ad(path)
    made = run(path=path, control="group", control_group=name, **BY_GENE)
    values = values_of("log_normalize")
    equals_brute_force(made.table(), "A", is_gene("A"), is_gene("B"), values)


def test_cells_of_target_and_control_group_are_left_out_of_the_target_with_a_warning(run, caplog):
    both = carries("A") & carries("B")
    with caplog.at_level(logging.WARNING):
        made = run(control="group", control_group="B")
    assert f"A: {both.sum()} of its cells are control cells, left out" in caplog.text
    assert cells_of(made)["A"].tolist() == np.flatnonzero(carries("A") & ~both).tolist()


def test_ntc_guides_are_compared_with_the_other_ntc_cells(run):
    controls = run().table("controls")
    guides = [name for name in NAMES if TARGET_OF[name] == "non-targeting"]
    assert controls["target"].unique().tolist() == guides
    values = values_of("log_normalize")
    for guide in guides:
        own = SCREEN["carried"][:, NAMES.index(guide)] & IS_NTC
        equals_brute_force(controls, guide, own, IS_NTC & ~own, values)
    assert controls["fdr"].isna().all() and controls["fdr_target"].isna().all()


def test_groups_of_ntc_guides_are_compared_with_the_other_ntc_cells(run):
    made = run(ntc_groups={"group_size": 2, "n_bins": 1, "n_ensemble": 1})
    groups = made.table("ntc_groups")
    members = read_tsv(made.folder / "ntc_groups.tsv").set_index("target")["guides"]
    assert groups["target"].nunique() == len(members) == 2
    for name, guides in members.items():
        at = [NAMES.index(guide) for guide in guides.split(",")]
        assert len(at) == 2
        own = SCREEN["carried"][:, at].any(axis=1) & IS_NTC
        equals_brute_force(groups, name, own, IS_NTC & ~own, values_of("log_normalize"))


@pytest.mark.parametrize(
    ("controls", "guides", "groups"),
    [("groups", 4, True), ("guides", 4, False), ("none", 0, False)],
)
def test_controls_that_are_not_asked_for_are_not_tested(run, controls, guides, groups):
    made = run(controls=controls, ntc_groups={"group_size": 2, "n_bins": 1})
    assert made.table("controls")["target"].nunique() == guides
    assert (len(made.table("ntc_groups")) > 0) == groups


def test_a_large_group_is_sampled_and_a_small_one_is_whole(run):
    made = run(max_records=20)
    cells, found = cells_of(made), read_comparisons(made.outcome)
    assert cells["A"].size == 20 == found.control.size
    assert set(cells["A"]) <= set(np.flatnonzero(carries("A")))
    assert set(found.control) <= set(np.flatnonzero(IS_NTC))
    assert cells["ONE"].tolist() == [17]
    target, control = np.zeros((2, N_CELLS), bool)
    target[cells["A"]] = control[found.control] = True
    equals_brute_force(made.table(), "A", target, control, values_of("log_normalize"))


def test_a_larger_sample_contains_a_smaller_one_and_another_seed_draws_others(run):
    few, more, other = (
        cells_of(run(name, max_records=most, seed=seed))["A"]
        for name, most, seed in (("few", 10, 5), ("more", 20, 5), ("other", 10, 6))
    )
    assert set(few) < set(more)
    assert set(few) != set(other)


@pytest.mark.parametrize("given", [{}, BY_GENE], ids=["guides", "gene"])
def test_a_group_within_a_sampled_control_is_compared_with_what_is_left_of_it(run, given):
    made = run(max_records=15, control="rest", **given)
    found = read_comparisons(made.outcome)
    target, control = np.zeros((2, N_CELLS), bool)
    target[cells_of(made)["A"]] = control[found.control] = True
    assert (target & ~control).sum() == 0
    own = is_gene("A") if given else carries("A")
    assert (control & own).sum() == target.sum() >= 15
    equals_brute_force(made.table(), "A", target, control & ~own, values_of("log_normalize"))


@pytest.mark.parametrize("control", ["rest", "perturbed"])
def test_what_is_sampled_does_not_depend_on_the_targets_that_are_asked_for(run, control):
    given = {"max_records": 15, "control": control}
    every, one = run("every", **given), run("one", targets=["A"], **given)
    table = every.table()
    expected = table[table["target"] == "A"].reset_index(drop=True)
    same = ["n_target", "n_control", "p_value", "effect", "fdr_target"]
    pd.testing.assert_frame_equal(expected[same], one.table()[same])


def test_targets_that_no_guide_has_are_refused_though_the_screen_was_loaded_for_all(steps):
    made = steps()
    made.load()
    for given, says in (
        ({"targets": ["A", "a", "Z"]}, r"targets: 2 have no guide in this screen: 'a', 'Z'"),
        ({"control": "group", "control_group": "b"}, r"control_group: 1 have no guide .*'b'"),
    ):
        asked = steps(**given)
        with pytest.raises(InputError, match=says) as error:
            asked.plan()
        assert "There are" in str(error.value) or "there are: 'A', 'B'" in str(error.value)
        assert not asked.outcome.exists()


# Rows that cannot be tested


@pytest.mark.parametrize("test", ["mwu", "welch"])
def test_rows_that_cannot_be_tested_are_there_and_say_why(run, test):
    table = run(test=test).table().set_index("target")
    empty = table.loc["EMPTY"]
    assert len(empty) == N_FEATURES
    assert (empty["n_target"] == 0).all() and set(empty["note"]) == {"no target cell"}
    assert empty[["p_value", "fdr", "fdr_target", "effect"]].isna().all(axis=None)
    one = table.loc["ONE"]
    assert (one["n_target"] == 1).all()
    if test == "welch":
        assert set(one["note"]) == {"fewer than two cells"} and one["p_value"].isna().all()
    else:
        assert one["p_value"].notna().sum() > 400
    zero = table[table["feature"] == "G21"]
    assert set(zero.loc[["A", "B", "C"], "note"]) == {"constant"}
    assert zero["p_value"].isna().all()
    alone = table[table["feature"] == f"G{7 * ALONE % N_FEATURES}"].loc["C"]
    # Divided by unequal libraries, the values of the target's cells differ.
    assert alone["note"] == "seen in target cells alone"
    assert 25 < alone["effect"] < 60 and alone["fdr"] < 0.05


def test_a_feature_of_one_value_is_constant_whatever_the_value(run, tmp_path):
    values = SCREEN["counts"].copy()
    values[:, CONSTANT] = 3
    path = write_file(tmp_path / "constant.h5ad", values)
    for test in ("mwu", "welch"):
        table = run(test, path=path, test=test).table()
        rows = table[
            (table["feature"] == f"G{7 * CONSTANT % N_FEATURES}") & (table["target"] == "A")
        ]
        assert rows["note"].tolist() == ["constant"]
        assert rows["p_value"].isna().all() and rows["target_mean"].tolist() == [3]


def test_a_control_of_one_cell_and_of_none_say_so(run):
    given = {"control": "group", "test": "welch"}
    one = run("one", control_group="ONE", **given).table()
    assert set(one.loc[one["target"] == "A", "note"]) == {"fewer than two cells"}
    none = run("none", control_group="EMPTY", **given).table()
    assert set(none.loc[none["target"] == "A", "note"]) == {"no control cell"}
    assert (none["n_control"] == 0).all()


@pytest.mark.parametrize("test", ["mwu", "welch"])
def test_the_fdr_is_over_all_tests_and_over_those_of_each_target(run, test):
    table = run(test=test, split=(2, 1, 1)).table()
    tested = table[table["p_value"].notna()]
    assert 0 < len(tested) < len(table)
    np.testing.assert_allclose(
        tested["fdr"], false_discovery_control(tested["p_value"]), rtol=1e-12
    )
    for _, rows in tested.groupby("target", observed=True):
        np.testing.assert_allclose(
            rows["fdr_target"], false_discovery_control(rows["p_value"]), rtol=1e-12
        )
    untested = table[table["p_value"].isna()]
    assert untested[["fdr", "fdr_target"]].isna().all(axis=None)


def test_known_effects_are_found_and_few_others(run):
    table = run(test="mwu").table()
    found = table[table["fdr"] < 0.05]
    known = {(name, f"G{7 * j % N_FEATURES}") for name, at in KNOWN.items() for j in at}
    made = set(zip(found["target"], found["feature"], strict=True))
    assert known < made
    assert (found.set_index(["target", "feature"]).loc[sorted(known), "effect"] < -1).all()
    # Cells that carry two targets, the feature that C alone has, and one in twenty by chance.
    assert len(made - known) <= 5


# However it is split


def bytes_of(run, name, **given):
    made = run(name, **given)
    return {file: (made.folder / file).read_bytes() for file in WRITTEN.values()}


SPLITS = [(1, 2, 1), (1, 5, 2), (3, 1, 2), (4, 2, 1), (40, 1, 1)]


@pytest.mark.parametrize(
    "given",
    [
        {"ntc_groups": {"group_size": 2, "n_bins": 1}},
        {**BY_GENE, "test": "welch", "control": "rest"},
        {"controls": "none", "outcome": {"transform": "counts"}},
        {"ties": "rounded", "control": "perturbed", "max_records": 25},
    ],
    ids=["guides", "gene", "counts", "rounded"],
)
def test_batches_shards_and_threads_change_no_byte_of_any_table(run, given):
    whole = bytes_of(run, "whole", **given)
    for i, split in enumerate(SPLITS):
        made = bytes_of(run, f"split{i}", split=split, **given)
        assert [name for name in whole if whole[name] != made[name]] == [], split


def test_a_sparse_and_a_dense_matrix_give_the_same_tests(run, source, dense_source):
    given = {"outcome": {"transform": "log_normalize"}}
    sparse, dense = (run(p.stem, path=p, **given).table() for p in (source, dense_source))
    pd.testing.assert_frame_equal(sparse, dense, rtol=1e-12)


def test_a_batch_without_units_has_a_table_without_rows(run):
    made = run(split=(40, 1, 1))
    batch = read_comparisons(made.outcome).batch
    empty = sorted(set(range(40)) - set(batch.tolist()))
    assert empty
    table = pd.read_parquet(made.folder / f"batch-{empty[0]}.parquet")
    assert len(table) == 0
    full = pd.read_parquet(made.folder / f"batch-{batch[0]}.parquet")
    assert list(table.columns) == list(full.columns)


def test_more_shards_than_blocks_leave_some_empty_and_nothing_out(run):
    made = run(split=(1, 5, 1))
    keys = [read_arrays(path)[0] for path in made.shards(0)]
    blocks = [range(key["first_block"], key["end_block"]) for key in keys]
    assert sorted(itertools.chain(*blocks)) == [0, 1]
    assert sum(not of for of in blocks) == 3
    assert made.table()["p_value"].notna().sum() > N_FEATURES


def test_the_tables_of_groups_and_blocks_say_what_is_summed(run):
    made = run(split=(3, 1, 1), ntc_groups={"group_size": 2, "n_bins": 1, "n_ensemble": 1})
    groups = read_tsv(made.folder / "groups.tsv")
    assert groups["kind"].value_counts().to_dict() == {
        "target": 5,
        "ntc_guide": 4,
        "ntc_group": 2,
    }
    sizes = groups.set_index("target")["n_cells"]
    assert sizes["A"] == carries("A").sum() and sizes["EMPTY"] == 0
    assert groups.set_index("target").loc["EMPTY", "status"] == "no cell"
    assert groups.set_index("target").loc["A", "guides"] == "a1,a2"
    assert set(groups["batch"]) == {0, 1, 2}
    blocks = read_tsv(made.folder / "blocks.tsv")
    assert blocks["n_features"].tolist() == [FEATURES_PER_BLOCK, 28]
    assert blocks["first_feature"].tolist() == [0, FEATURES_PER_BLOCK]
    assert blocks["n_stored"].sum() == np.count_nonzero(SCREEN["counts"])


# Shards that cannot be merged


@pytest.fixture
def two_shards(steps):
    """One batch of two shards, summed but not merged."""
    made = steps(split=(1, 2, 1))
    made.load()
    made.plan()
    for shard in range(2):
        made.sum(0, shard)
    return made


def refused(made, *words, shards=None):
    with pytest.raises(ShardError) as error:
        made.merge(0, shards)
    assert not (made.folder / "batch-0.parquet").exists()
    missing = [word for word in words if str(word) not in str(error.value)]
    assert not missing, error.value


def test_a_shard_that_was_cut_short_is_refused_by_name(two_shards):
    path = two_shards.shards(0)[1]
    path.write_bytes(path.read_bytes()[:-100])
    refused(two_shards, path, "truncated or damaged", f"rm '{path}'")


def test_a_shard_that_is_missing_is_refused_by_name(two_shards):
    path = two_shards.shards(0)[0]
    path.unlink()
    refused(two_shards, path, "cannot be read")


def test_a_block_that_no_shard_or_two_hold_is_refused(two_shards):
    first, second = two_shards.shards(0)
    refused(two_shards, "no shard holds block 1 of 2", shards=[first])
    refused(two_shards, "several shards hold block 0 of 2", shards=[first, first, second])


def test_a_shard_of_another_analysis_is_refused_by_name(two_shards, steps):
    other = steps("other", split=(1, 2, 1), max_records=10)
    other.load()
    other.plan()
    other.sum(0, 1)
    foreign = other.shards(0)[1]
    refused(two_shards, foreign, "another outcome", shards=[two_shards.shards(0)[0], foreign])


def test_a_shard_of_other_counts_is_refused_by_name(two_shards, steps, tmp_path):
    counts = SCREEN["counts"].copy()
    counts[0, 0] += 1
    path = write_file(tmp_path / "other.h5ad", sp.csr_matrix(counts))
    other = steps("other", path=path, split=(1, 2, 1))
    other.load()
    other.plan()
    other.sum(0, 1)
    foreign = other.shards(0)[1]
    refused(two_shards, foreign, "another outcome", shards=[two_shards.shards(0)[0], foreign])


def test_a_shard_of_another_batch_is_refused_by_name(steps):
    made = steps(split=(2, 1, 1))
    made.load()
    made.plan()
    for batch in range(2):
        made.sum(batch, 0)
    foreign = made.shards(1)[0]
    refused(made, foreign, "another kinds and names", shards=[foreign])


def test_a_shard_of_another_version_is_refused_by_name(two_shards):
    path = two_shards.shards(0)[1]
    key, arrays = read_arrays(path)
    key.pop("checksum")
    write_arrays(path, {**key, "version": key["version"] + 1}, arrays)
    refused(two_shards, path, "another version")


def test_the_means_may_change_after_the_shards_were_made(two_shards, steps):
    two_shards.settings["geometric_mean"] = False
    two_shards.join()
    made = steps("fresh", split=(1, 2, 1), geometric_mean=False)
    made.run()
    pd.testing.assert_frame_equal(two_shards.table(), made.table())


def test_shards_of_another_test_are_refused(two_shards):
    two_shards.settings["test"] = "welch"
    with pytest.raises(ShardError, match="test"):
        two_shards.join()


# The stored comparisons


def test_the_digest_tells_other_cells_values_and_controls(run):
    given = [
        {},
        {"control": "rest"},
        {"max_records": 20},
        {"multiple_guides": "exclude"},
        {"ties": "rounded"},
        {"outcome": {"target_sum": 1000}},
        {"outcome": {"library_size": "depth"}},
        {"outcome": {"transform": "counts"}},
        {"targets": ["A"]},
    ]
    found = []
    for i, analysis in enumerate(given):
        made = run(f"{i}", **analysis)
        found.append(read_comparisons(made.outcome).words["digest"])
    assert len(set(found)) == len(given)
    # Tests are no part of it.
    same = run("same", test="welch", pseudocount=1.0)
    assert read_comparisons(same.outcome).words["digest"] == found[0]


def test_comparisons_open_with_anndata_and_name_cells_and_features(run):
    made = run()
    stored = ad.read_h5ad(made.outcome)
    assert stored.obs_names.tolist() == [f"cell{i}" for i in range(N_CELLS)]
    assert stored.var_names.tolist() == [f"G{(7 * j) % N_FEATURES}" for j in range(N_FEATURES)]
    with h5py.File(made.outcome) as file:
        assert file["uns/control_words"][()].decode() == f"{IS_NTC.sum()} NTC cells"
