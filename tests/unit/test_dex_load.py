"""The load stage for comparisons of groups of cells: what it needs, and every message it has."""

import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand.config import complete_config, needs_of, outcomes_of
from condrand.errors import InputError
from condrand.io.tables import read_tsv
from condrand.screen import load_screen

N_CELLS = 60
BY_GENE = {"groupby": "gene"}


@pytest.fixture
def obs(parts):
    """Columns of obs, a column of groups among them: three targets and NTC cells."""
    names = np.array(["A", "B", "C", "non-targeting"])[np.arange(N_CELLS) % 4]
    return parts["obs"].assign(gene=pd.Categorical(names), depth=np.arange(N_CELLS) + 100.0)


@pytest.fixture
def write(write_screen, obs):
    """Write a screen for comparisons of groups: no guides, no covariates, no usage."""

    def run(**changes):
        absent = ("guide_assignment", "cnmf_usage", "covar", "guide_names", "guide2gene")
        given = dict.fromkeys((*absent, "program_names")) | {"obs": obs} | changes
        return write_screen(**given)

    return run


@pytest.fixture
def load_dex(load):
    """Run the load stage for one analysis of engine dex; give the stored screen."""

    def run(path, screen=None, folder="out", **analysis):
        return ad.read_h5ad(load(path, screen, folder, engine="dex", **analysis) / "screen.h5ad")

    return run


@pytest.fixture
def refusal(load_dex, tmp_path):
    """Load a bad screen; give the message, after seeing that nothing was written."""

    def run(path, screen=None, **analysis):
        with pytest.raises(InputError) as error:
            load_dex(path, screen, **analysis)
        left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        assert left == []
        return str(error.value)

    return run


def says(message, *words):
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"


def groups_of(screen, column="gene"):
    """Cells of each group of a stored screen; under None those of no group."""
    codes = screen.obsm[f"groups.{column}"].ravel()
    levels = [*screen.uns[f"levels.groups.{column}"], None]
    found = {level: np.flatnonzero(codes == code) for code, level in enumerate(levels[:-1])}
    return found | {None: np.flatnonzero(codes == -1)}


def with_value(parts, row, column, value):
    """Counts of the screen with one other value."""
    counts = parts["X"].toarray()
    counts[row, column] = value
    return sp.csr_matrix(counts)


# What is stored


def test_a_file_without_guides_and_covariates_loads_where_cells_are_grouped_by_a_column(
    write, load_dex, obs
):
    screen = load_dex(write(), **BY_GENE)
    found = groups_of(screen)
    assert list(found) == ["A", "B", "C", "non-targeting", None]
    for name, cells in found.items():
        assert cells.tolist() == np.flatnonzero((obs["gene"] == name).to_numpy()).tolist()
    assert set(screen.uns["ntc_labels"]) == {"non-targeting", "safe-targeting", "NTC", "SAFE"}
    for absent in ("treated", "covariates", "n_guides"):
        assert absent not in screen.obsm


def test_a_table_without_units_is_written_where_there_are_no_guides(write, load, tmp_path):
    table = read_tsv(load(write(), engine="dex", **BY_GENE) / "targets.tsv")
    assert list(table)[:2] == ["target", "kind"]
    assert len(table) == 0


def test_guides_are_stored_where_cells_are_grouped_by_them_and_no_covariate_is_asked_for(
    write_screen, load_dex, parts
):
    screen = load_dex(write_screen(covar=None))
    carried = parts["guide_assignment"].toarray() > 0
    n_targets = np.stack([carried[:, :2].any(1), carried[:, 2], carried[:, 3:].any(1)]).sum(axis=0)
    assert (n_targets > 1).any() and (n_targets == 1).any()
    assert screen.obsm["n_targets"].ravel().tolist() == n_targets.tolist()
    assert sorted(screen.uns["units"]["name"]) == ["A", "B", "ntc1", "ntc2"]
    assert "covariates" not in screen.obsm


@pytest.mark.parametrize(
    "values",
    [
        [f"g{i % 3}" for i in range(N_CELLS)],
        pd.Categorical([f"g{i % 3}" for i in range(N_CELLS)], categories=["g2", "g0", "g1", "x"]),
        np.arange(N_CELLS) % 3,
        np.arange(N_CELLS) % 2 == 0,
    ],
    ids=["text", "category", "numbers", "booleans"],
)
def test_groups_of_every_type_are_told_by_their_text(write, load_dex, obs, values):
    screen = load_dex(write(obs=obs.assign(gene=values)), control="rest", **BY_GENE)
    texts = pd.Series(values).astype(str).to_numpy()
    found = groups_of(screen)
    # A category that no cell has is no group.
    assert list(found) == [*sorted(set(texts)), None]
    for name in sorted(set(texts)):
        assert found[name].tolist() == np.flatnonzero(texts == name).tolist()


@pytest.mark.parametrize("kind", ["object", "category"])
def test_cells_of_no_group_are_left_out_with_a_warning(write, load_dex, obs, kind, caplog):
    values = obs["gene"].astype(object).to_numpy().copy()
    values[[3, 7]] = None
    values = pd.Series(values, index=obs.index).astype(kind)
    with caplog.at_level(logging.WARNING):
        screen = load_dex(write(obs=obs.assign(gene=values)), **BY_GENE)
    found = groups_of(screen)
    assert found[None].tolist() == [3, 7]
    assert sum(cells.size for cells in found.values()) == N_CELLS
    assert "obs/gene: 2 cells belong to no group and are left out" in caplog.text


def test_columns_of_several_analyses_are_stored_and_others_are_not(write, schema, obs, tmp_path):
    config = complete_config(
        {
            "screens": {"s": {"path": "mine.h5ad"}},
            "analyses": {
                "a": {"engine": "dex", "groupby": "gene"},
                "b": {"engine": "dex", "groupby": "batch", "control": "rest"},
            },
        },
        schema,
        "config.yaml",
    )
    given = (config["screens"]["s"], outcomes_of(config, "s"), needs_of(config, "s"))
    load_screen(write(), *given, 1, tmp_path / "screen.h5ad", tmp_path / "targets.tsv")
    screen = ad.read_h5ad(tmp_path / "screen.h5ad")
    assert {key for key in screen.obsm if key.startswith("groups.")} == {
        "groups.gene",
        "groups.batch",
    }


def test_library_sizes_are_stored_where_values_are_divided_by_them(write, load_dex, obs):
    outcome = {"transform": "log_normalize", "library_size": "depth"}
    screen = load_dex(write(), outcome=outcome, **BY_GENE)
    assert screen.obsm["library_size.depth"].ravel().tolist() == obs["depth"].tolist()
    # Other transforms divide by nothing.
    for transform in ("counts", "logged", "none"):
        outcome = {"transform": transform, "library_size": "no such column"}
        screen = load_dex(write(), folder=transform, outcome=outcome, **BY_GENE)
        assert [key for key in screen.obsm if key.startswith("library_size")] == []


def test_auto_divides_a_sparse_matrix_by_libraries_and_takes_a_dense_one_as_it_is(
    write, load_dex, refusal, parts
):
    counts = parts["X"].toarray()
    negative = counts - 3
    load_dex(write(X=negative), folder="dense", **BY_GENE)
    assert "negative values" in refusal(write(X=sp.csr_matrix(negative)), **BY_GENE)


# What an analysis needs


def needs(complete, **analysis):
    return needs_of(complete(engine="dex", **analysis), "s")


def test_guides_are_needed_by_groups_of_guides_alone(complete):
    assert needs(complete)["guides"] and not needs(complete, **BY_GENE)["guides"]
    for given in ({}, BY_GENE):
        assert not needs(complete, **given)["covariates"]
    assert needs_of(complete(), "s")["covariates"]


def test_ntc_cells_are_needed_where_guides_say_who_they_are(complete):
    assert needs(complete)["ntc_cells"]
    assert not needs(complete, control="rest")["ntc_cells"]
    assert not needs(complete, **BY_GENE)["ntc_cells"]


def test_the_control_is_needed_beside_the_targets(complete):
    given = {"targets": ["A"], "control": "group", "control_group": "B"}
    assert needs(complete, **given)["targets"] == ["A", "B"]
    assert needs(complete, **given, **BY_GENE)["targets"] == []
    assert needs(complete, **given, **BY_GENE)["groupings"] == [{**given, **BY_GENE}]


@pytest.mark.parametrize("control", ["rest", "perturbed"])
def test_every_group_is_needed_where_the_control_is_a_sample_of_each(complete, control):
    given = {"targets": ["A"], "control": control}
    assert needs(complete, **given)["targets"] == ["A"]
    assert needs(complete, **given, max_records=5)["targets"] == "all"
    assert needs(complete, targets=["A"], max_records=5)["targets"] == ["A"]


def test_a_missing_burden_is_no_problem_where_no_covariate_is_needed(write_screen, load_dex):
    calls = np.zeros((N_CELLS, 5))
    calls[np.arange(N_CELLS), np.arange(N_CELLS) % 5] = 1
    path = write_screen(guide_assignment=calls, covar=None)
    load_dex(path, {"covariates": {"burden": True}})


# Bad input


def test_a_column_of_groups_that_is_missing_gets_the_nearest(write, refusal):
    message = refusal(write(), groupby="genes")
    says(message, "obs/genes: there is no such column", "`groupby`", "did you mean 'gene'?")
    says(message, "There are: n_umis", "1 problem\n")


def test_a_control_group_that_is_missing_gets_the_nearest(write, refusal):
    message = refusal(write(), control="group", control_group="non targeting", **BY_GENE)
    says(message, "obs/gene: has no group 'non targeting', the control", "`control_group`")
    says(message, "did you mean 'non-targeting'?", "'A', 'B', 'C'", "1 problem\n")


def test_groups_without_ntc_label_are_named(write, refusal, obs):
    genes = obs["gene"].astype(str).replace("non-targeting", "ctrl")
    path = write(obs=obs.assign(gene=genes))
    message = refusal(path, **BY_GENE)
    says(message, "obs/gene: has no group of non-targeting controls", "looked for: 'NTC'")
    says(message, "`ntc_labels`", "`control: group`", "'A', 'B', 'C', 'ctrl'", "1 problem\n")


def test_groups_without_ntc_label_are_fine_where_there_is_another_control(write, load_dex, obs):
    genes = obs["gene"].astype(str).replace("non-targeting", "ctrl")
    path = write(obs=obs.assign(gene=genes))
    load_dex(path, {"ntc_labels": ["ctrl"]}, folder="label", **BY_GENE)
    for control in ("rest", "perturbed"):
        load_dex(path, folder=control, control=control, **BY_GENE)
    load_dex(path, folder="group", control="group", control_group="ctrl", **BY_GENE)


def test_targets_that_are_no_groups_are_all_listed_with_the_nearest(write, refusal):
    strangers = ["a", "X1", "X2", "X3", "X4", "X5", "X6"]
    message = refusal(write(), targets=["B", *strangers], **BY_GENE)
    says(message, "obs/gene: has no group", *(f"'{name}'" for name in strangers))
    says(message, "a: did you mean 'A'?", "correct the names asked for", "1 problem\n")
    assert "no group 'B'" not in message


def test_targets_that_no_guide_has_are_named(write_screen, refusal):
    message = refusal(write_screen(), targets=["A", "a", "Z"])
    says(message, "targets: 2 have no guide in this screen: 'Z', 'a'", "a: did you mean 'A'?")
    message = refusal(write_screen(), targets=["A"], control="group", control_group="b")
    says(message, "1 have no guide in this screen: 'b'", "did you mean 'B'?")


def test_a_screen_of_controls_alone_has_no_group_to_test(write, refusal, load_dex, obs):
    path = write(obs=obs.assign(gene=["NTC", "SAFE"] * 30))
    message = refusal(path, **BY_GENE)
    says(message, "obs/gene: has no group to test beside the controls: 'NTC', 'SAFE'")
    path = write(obs=obs.assign(gene="ctrl"))
    message = refusal(path, control="group", control_group="ctrl", **BY_GENE)
    says(message, "has no group to test beside the controls: 'ctrl'")
    # Compared with all others, controls are groups as any.
    load_dex(write(obs=obs.assign(gene=["NTC", "SAFE"] * 30)), control="rest", **BY_GENE)


def test_a_target_that_is_the_control_is_named(write, refusal):
    message = refusal(write(), targets=["A", "non-targeting"], **BY_GENE)
    says(message, "obs/gene: 'non-targeting' are both targets and", "leave them out of `targets`")


def test_a_group_per_cell_is_none(write, refusal, obs):
    path = write(obs=obs.assign(gene=[f"g{i}" for i in range(N_CELLS)]))
    message = refusal(path, control="rest", **BY_GENE)
    says(message, "obs/gene: has 60 values in 60 cells, which are no groups", "`groupby`")


def test_screen_without_ntc_cells_is_refused_where_they_are_the_control(
    write_screen, refusal, load_dex, parts
):
    calls = parts["guide_assignment"].toarray()
    calls[:, 2] = 1
    path = write_screen(guide_assignment=calls)
    message = refusal(path)
    says(message, "no cell carries NTC guides and no others", "`control: rest`", "1 problem\n")
    load_dex(path, control="rest")


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize(
    ("value", "transform", "says_what"),
    [
        (-2.0, "log_normalize", "1 negative values (-2.0 in cell 'cell5', column 'GENE3')"),
        (-2.0, "counts", "1 negative values"),
        (np.nan, "log_normalize", "1 NaN or infinite values (nan in cell 'cell5'"),
        (np.inf, "counts", "1 NaN or infinite values"),
        (np.nan, "logged", "1 NaN or infinite values"),
        (np.nan, "none", "1 NaN or infinite values"),
        (1.5, "counts", "1 fractional values (1.5 in cell 'cell5', column 'GENE3')"),
    ],
)
def test_a_value_that_cannot_be_is_named_with_its_cell_and_feature(
    write, refusal, parts, form, value, transform, says_what
):
    counts = parts["X"].toarray()
    counts[5, 2] = value
    message = refusal(write(X=form(counts)), outcome={"transform": transform}, **BY_GENE)
    says(message, f"X: {says_what}", "1 problem\n")
    mend = "use another `transform`" if value == 1.5 else "remove those cells or fill"
    says(message, mend)


@pytest.mark.parametrize(
    ("value", "transform"),
    [(1.5, "log_normalize"), (1.5, "logged"), (-2.0, "none"), (-2, "logged")],
)
def test_a_value_that_may_be_is_taken(write, load_dex, parts, value, transform):
    path = write(X=with_value(parts, 5, 2, value))
    screen = load_dex(path, outcome={"transform": transform}, **BY_GENE)
    assert screen.obsm["outcome.X.block-0000"][5, 2] == value


def test_feature_names_that_occur_twice_are_named(write, refusal):
    path = write(var=pd.DataFrame(index=["G", "H", "G", "I"]))
    message = refusal(path, **BY_GENE)
    says(message, "'G'", "var_names_make_unique", "1 problem\n")


@pytest.mark.parametrize("bad", [0.0, -1.0, np.nan])
def test_library_sizes_that_are_not_positive_are_named(write, refusal, obs, bad):
    obs.loc["cell7", "depth"] = bad
    outcome = {"library_size": "depth"}
    message = refusal(write(obs=obs), outcome=outcome, **BY_GENE)
    says(message, "obs/depth: 1 library sizes are not positive", "'cell7'", "1 problem\n")


def test_a_missing_column_of_library_sizes_gets_the_nearest(write, refusal):
    message = refusal(write(), outcome={"library_size": "dept"}, **BY_GENE)
    says(message, "obs/dept: there is no such column (library size)", "did you mean 'depth'?")


def test_a_missing_matrix_is_named(write, refusal):
    message = refusal(write(), outcome={"key": "layers/counts"}, **BY_GENE)
    says(message, "layers/counts: there is no such key (outcome)", "`outcome.key`", "1 problem\n")


def test_all_problems_of_a_file_are_listed_together(write, refusal, obs, parts):
    counts = parts["X"].toarray()
    counts[5, 2], counts[6, 1] = -1, np.nan
    path = write(
        X=sp.csr_matrix(counts),
        obs=obs.assign(depth=0.0),
        var=pd.DataFrame(index=["G", "H", "G", "I"]),
    )
    message = refusal(
        path,
        outcome={"library_size": "depth"},
        control="group",
        control_group="none",
        targets=["A", "Z"],
        **BY_GENE,
    )
    says(message, "6 problems", "no group 'none'", "no group 'Z'", "not positive")
    says(message, "1 negative values", "1 NaN or infinite values", "'G'")
    assert message.count("\n      -> ") == 6


def test_bad_guides_and_bad_counts_are_listed_together(write_screen, refusal, parts):
    calls = parts["guide_assignment"].toarray()
    calls[0, 0] = -1
    path = write_screen(guide_assignment=calls, X=with_value(parts, 5, 2, -1))
    says(refusal(path), "obsm/guide_assignment: 1 negative", "X: 1 negative", "2 problems")


# Warnings


def test_values_that_look_normalized_are_warned_of(write, load_dex, parts, caplog):
    logged = parts["X"].copy()
    logged.data = np.log1p(logged.data)
    with caplog.at_level(logging.WARNING):
        load_dex(write(X=logged), **BY_GENE)
    says(caplog.text, "X: holds no whole numbers; the largest is", "`transform: logged`")
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        load_dex(write(), folder="counts", **BY_GENE)
        load_dex(write(X=logged), folder="logged", outcome={"transform": "logged"}, **BY_GENE)
        load_dex(write(X=logged.toarray()), folder="dense", **BY_GENE)
    assert "whole numbers" not in caplog.text


def test_cells_without_counts_are_warned_of_and_taken(write, load_dex, parts, caplog):
    counts = parts["X"].toarray()
    counts[[4, 9]] = 0
    path = write(X=sp.csr_matrix(counts))
    with caplog.at_level(logging.WARNING):
        screen = load_dex(path, **BY_GENE)
    says(caplog.text, "X: 2 cells have no counts and enter as zeros: 'cell4', 'cell9'")
    np.testing.assert_array_equal(screen.obsm["outcome.X.block-0000"].toarray(), counts)
    caplog.clear()
    with caplog.at_level(logging.WARNING):
        # Given libraries are no sums of the matrix.
        load_dex(path, folder="given", outcome={"library_size": "depth"}, **BY_GENE)
    assert caplog.text == ""
