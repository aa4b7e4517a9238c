"""The load stage: every way of storing a screen, and every message about a bad one."""

import logging
import os
import pickle
import re
import subprocess
import sys
from pathlib import Path

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

import condrand
from condrand.config import needs_of, outcomes_of
from condrand.engines.ntc_groups import write_ntc_groups
from condrand.errors import InputError
from condrand.guide_counts import GuideCounts
from condrand.io import h5ad
from condrand.io.outcome import read_treated
from condrand.io.stages import StoredScreen, read_guides_table
from condrand.io.tables import read_tsv
from condrand.normalize import make_design
from condrand.screen import load_screen
from condrand.units import NTC_GROUP, NTC_GUIDE, TARGET, units_of_batch

CLR_X = {"key": "X", "transform": "clr"}


def stored(folder: Path) -> ad.AnnData:
    return ad.read_h5ad(folder / "screen.h5ad")


def carriers(folder: Path) -> dict[str, list[int]]:
    """Cells of each unit of a stored screen, by name."""
    screen = stored(folder)
    treated = screen.obsm["treated"].tocsc()
    names = screen.uns["units"]["name"]
    return {name: treated[:, j].indices.tolist() for j, name in enumerate(names)}


def expected_carriers(carried: np.ndarray) -> dict[str, list[int]]:
    """The same, by hand, for the guides a1, a2 (of A), b1 (of B), ntc1, ntc2."""
    columns = {"A": [0, 1], "B": [2], "ntc1": [3], "ntc2": [4]}
    return {
        name: np.flatnonzero((np.asarray(carried)[:, at] > 0).any(axis=1)).tolist()
        for name, at in columns.items()
    }


@pytest.fixture
def refusal(load, tmp_path):
    """Load a bad screen; give the message, after seeing that nothing was written."""

    def run(path: Path, screen=None, **analysis) -> str:
        with pytest.raises(InputError) as error:
            load(path, screen, **analysis)
        left = [file for file in (tmp_path / "out").rglob("*") if file.is_file()]
        assert left == []
        message = str(error.value)
        assert message.startswith(f"{path}: ")
        assert "-> " in message
        assert "Traceback" not in message
        return message

    return run


def says(message: str, *words: str) -> None:
    """Assert that every word is in the message."""
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"


# Ways to store a screen


def test_stored_screen_holds_exactly_the_cells_of_each_target(write_screen, load, parts):
    folder = load(write_screen())
    expected = expected_carriers(parts["guide_assignment"].toarray())
    assert carriers(folder) == expected
    table = read_tsv(folder / "targets.tsv").set_index("target")
    assert table["n_cells"].to_dict() == {name: len(cells) for name, cells in expected.items()}
    assert set(table["status"]) == {"kept"}
    assert table.loc["A", "guides"] == "a1,a2"
    assert table["kind"].to_dict() == {
        "A": "target",
        "B": "target",
        "ntc1": "ntc_guide",
        "ntc2": "ntc_guide",
    }


def test_stored_screen_opens_with_anndata_and_holds_the_parts_as_given(write_screen, load, parts):
    screen = stored(load(write_screen()))
    assert screen.obs_names.tolist() == parts["obs"].index.tolist()
    np.testing.assert_array_equal(
        screen.obsm["outcome.cnmf_usage.block-0000"], parts["cnmf_usage"]
    )
    assert screen.uns["features.outcome.cnmf_usage"].tolist() == ["P1", "P2", "P3"]
    pd.testing.assert_frame_equal(screen.obsm["covariates"], parts["covar"])


def with_explicit_zeros(carried):
    rows, columns = np.indices(carried.shape)
    return sp.csr_matrix(
        (carried.toarray().ravel(), (rows.ravel(), columns.ravel())), shape=carried.shape
    )


@pytest.mark.parametrize(
    "change",
    [
        lambda calls: calls.toarray(),
        lambda calls: calls.tocsc(),
        lambda calls: calls.toarray().astype(bool),
        lambda calls: calls.astype(np.uint8),
        lambda calls: calls * 7,
        with_explicit_zeros,
        lambda calls: with_explicit_zeros(calls).tocsc(),
    ],
    ids=["dense", "csc", "bool", "uint8", "counts", "explicit zeros", "csc explicit zeros"],
)
def test_guide_assignment_means_the_same_in_every_form(write_screen, load, parts, change):
    calls = parts["guide_assignment"]
    folder = load(write_screen(guide_assignment=change(calls)))
    assert carriers(folder) == expected_carriers(calls.toarray())


def test_guide_assignment_as_table_names_the_guides_itself(write_screen, load, parts):
    calls = parts["guide_assignment"].toarray()
    backwards = list(parts["guide_names"])[::-1]
    table = pd.DataFrame(calls[:, ::-1], columns=backwards, index=parts["obs"].index)
    table["b1"] = table["b1"].astype("Int64")
    folder = load(write_screen(guide_assignment=table, guide_names=None))
    assert carriers(folder) == expected_carriers(calls)


def test_guide_assignment_in_layers_needs_its_folder_or_bare_key(write_screen, load, parts):
    calls = parts["guide_assignment"].toarray()
    path = write_screen(
        guide_assignment=None, var=pd.DataFrame(index=list("vwxyz")), X=None, layers={"g": calls}
    )
    for i, key in enumerate(("layers/g", "g", "/layers/g")):
        folder = load(path, {"guide_assignment": key}, folder=str(i))
        assert carriers(folder) == expected_carriers(calls)


@pytest.mark.parametrize(
    "change",
    [
        lambda pairs: pd.DataFrame(pairs, columns=["guide", "gene"]),
        lambda pairs: pd.DataFrame(pairs[::-1], columns=["guide", "gene"]).astype("category"),
        lambda pairs: pd.DataFrame(
            {"target": [gene for _, gene in pairs]}, index=[guide for guide, _ in pairs]
        ),
        lambda pairs: np.array(pairs, dtype=object),
        lambda pairs: np.array(pairs, dtype="S"),
        lambda pairs: np.array(pairs, dtype=[("guide", "S20"), ("gene", "S20")]),
    ],
    ids=["table", "categories", "indexed table", "array", "bytes", "records"],
)
def test_guide2gene_means_the_same_in_every_form(write_screen, load, parts, change):
    # anndata refuses to write some of these; other programs do not.
    path = write_screen()
    value = change(list(parts["guide2gene"].items()))
    with h5py.File(path, "r+") as file:
        del file["uns/guide2gene"]
        if isinstance(value, np.ndarray) and value.dtype.kind in "SV":
            file["uns/guide2gene"] = value
        else:
            ad.io.write_elem(file["uns"], "guide2gene", value)
    folder = load(path)
    assert carriers(folder) == expected_carriers(parts["guide_assignment"].toarray())


def test_names_stored_as_bytes_are_text(write_screen, load, parts):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        for key in ("guide_names", "program_names"):
            del file[f"uns/{key}"]
            file[f"uns/{key}"] = np.array([str(name).encode() for name in parts[key]])
    folder = load(path)
    assert list(carriers(folder)) == ["A", "B", "ntc1", "ntc2"]
    assert stored(folder).uns["features.outcome.cnmf_usage"].tolist() == ["P1", "P2", "P3"]


def test_usage_as_table_names_the_programs_itself(write_screen, load, parts):
    table = pd.DataFrame(
        parts["cnmf_usage"], columns=["red", "green", "blue"], index=parts["obs"].index
    )
    screen = stored(load(write_screen(cnmf_usage=table)))
    assert screen.uns["features.outcome.cnmf_usage"].tolist() == ["red", "green", "blue"]
    np.testing.assert_array_equal(
        screen.obsm["outcome.cnmf_usage.block-0000"], parts["cnmf_usage"]
    )


def test_programs_without_names_are_numbered(write_screen, load):
    screen = stored(load(write_screen(program_names=None)))
    features = screen.uns["features.outcome.cnmf_usage"].tolist()
    assert features == ["program_0", "program_1", "program_2"]


@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
@pytest.mark.parametrize("place", ["X", "layers/counts", "/layers/counts", "counts", "raw/X"])
def test_outcome_is_found_by_its_key_and_named_by_its_genes(
    write_screen, load, parts, form, place
):
    counts = parts["X"].toarray()
    n_cells, n_genes = counts.shape
    changes = {"X": form(counts), "layers": {"counts": form(counts)}}
    names = [f"GENE{i + 1}" for i in range(n_genes)]
    if place == "raw/X":
        # Raw has other genes than X.
        raw = ad.AnnData(
            form(counts[:, :3]), obs=parts["obs"], var=pd.DataFrame(index=["R1", "R2", "R3"])
        )
        changes["raw"], names, counts = raw, ["R1", "R2", "R3"], counts[:, :3]
    path = write_screen(**changes)
    screen = stored(load(path, outcome={"key": place, "transform": "log1p_cpm"}))
    name = f"outcome.{place.replace('/', ':')}"
    values = screen.obsm[f"{name}.block-0000"]
    assert sp.issparse(values) == (form is not np.asarray)
    np.testing.assert_array_equal(values.toarray() if sp.issparse(values) else values, counts)
    assert screen.uns[f"features.{name}"].tolist() == names


def test_entries_stored_twice_are_added_up(write_screen, load):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        x = file["X"]
        dense = h5ad.read(file, "X").toarray()
        indptr = x["indptr"][:]
        data, indices = x["data"][:], x["indices"][:]
        data = np.concatenate([[0.25], data])
        data[1] -= 0.25
        indices = np.concatenate([indices[:1], indices])
        indptr[1:] += 1
        for name, value in (("data", data), ("indices", indices), ("indptr", indptr)):
            del x[name]
            x[name] = value
    values = stored(load(path, outcome=CLR_X)).obsm["outcome.X.block-0000"]
    np.testing.assert_array_equal(values.toarray(), dense)
    assert values.nnz == np.count_nonzero(dense)


def test_reading_in_pieces_stores_the_same_bytes(write_screen, load, monkeypatch):
    path = write_screen()
    for outcome in ({"key": "cnmf_usage"}, CLR_X):
        key = outcome["key"]
        whole = load(path, folder=f"{key}-whole", outcome=outcome)
        with monkeypatch.context() as patch:
            patch.setattr(h5ad, "_PIECE_BYTES", 200)
            with h5py.File(path) as file:
                assert len(list(h5ad.matrix(file, h5ad.locate(file, key)).pieces())) > 5
            pieces = load(path, folder=f"{key}-pieces", outcome=outcome)
        for name in ("screen.h5ad", "targets.tsv"):
            assert (whole / name).read_bytes() == (pieces / name).read_bytes()


def test_loading_in_another_process_gives_the_same_bytes(write_screen, load, complete, tmp_path):
    path = write_screen()
    here = load(path)
    config = complete()
    there = tmp_path / "there"
    arguments = (
        *(path, config["screens"]["s"], outcomes_of(config, "s"), needs_of(config, "s"), 1),
        *(there / "screen.h5ad", there / "targets.tsv"),
    )
    (tmp_path / "arguments").write_bytes(pickle.dumps(arguments))
    program = (
        "import pickle, sys; from condrand.screen import load_screen; "
        "load_screen(*pickle.load(open(sys.argv[1], 'rb')))"
    )
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "arguments")],
        cwd=Path(condrand.__file__).parents[1],
        env={**os.environ, "PYTHONHASHSEED": "12345"},
        check=True,
    )
    for name in ("screen.h5ad", "targets.tsv"):
        assert (there / name).read_bytes() == (here / name).read_bytes()


def damage_x(path: Path) -> None:
    """Make X unreadable: it stays listed, but its checksum no longer fits its bytes."""
    with h5py.File(path, "r+") as file:
        shape = file["X"].shape
        del file["X"]
        x = file.create_dataset("X", data=np.ones(shape), chunks=shape, fletcher32=True)
        x.attrs["encoding-type"], x.attrs["encoding-version"] = "array", "0.2.0"
        file.flush()
        at = x.id.get_chunk_info(0).byte_offset
    with open(path, "r+b") as raw:
        raw.seek(at)
        raw.write(b"\xff" * 64)


def test_x_is_never_read_when_the_analysis_does_not_use_it(write_screen, load, refusal):
    path = write_screen(X=np.ones((60, 4)))
    damage_x(path)
    # The damage is real: using X finds it.
    says(refusal(path, outcome=CLR_X), "X: cannot be read", "damaged", "copy or download it again")
    assert len(carriers(load(path))) == 4


def test_columns_and_keys_written_by_anndata_0_7_are_read(write_screen, load, parts):
    path = write_screen()
    batch = parts["obs"]["batch"]
    with h5py.File(path, "r+") as file:
        obs = file["obs"]
        del obs["batch"]
        obs["__categories/batch"] = np.array(batch.cat.categories, dtype=object)
        obs["batch"] = batch.cat.codes.to_numpy()
        obs["batch"].attrs["categories"] = obs["__categories/batch"].ref
        obs.attrs["encoding-version"] = "0.1.0"
        obs["_index"].attrs.clear()
        calls = file["obsm/guide_assignment"]
        calls.attrs["h5sparse_format"] = "csr"
        calls.attrs["h5sparse_shape"] = calls.attrs["shape"]
        for name in ("encoding-type", "encoding-version", "shape"):
            del calls.attrs[name]
    for i, covariates in enumerate(
        ({"columns": ["batch"]}, {"key": "batch"}, {"formula": "~ batch"})
    ):
        folder = load(path, {"covariates": covariates}, folder=str(i))
        assert carriers(folder) == expected_carriers(parts["guide_assignment"].toarray())
        table = stored(folder).obsm["covariates"]
        if "formula" in covariates:
            assert set(table) == {"batch[T.three]", "batch[T.two]"}
            assert table["batch[T.two]"].tolist() == (batch == "two").tolist()
        else:
            assert table["batch"].tolist() == batch.tolist()


# Covariates


def test_covariates_of_every_type_are_taken(write_screen, load, parts):
    rng = np.random.default_rng(2)
    n_cells = len(parts["obs"])
    table = pd.DataFrame(
        {
            "category": pd.Categorical(rng.choice(["x", "y", "z"], n_cells)),
            "numbered": pd.Categorical(rng.choice([1, 2, 3], n_cells)),
            "truth": rng.random(n_cells) < 0.5,
            "text": rng.choice(["u", "v"], n_cells),
            "whole": pd.array(rng.integers(0, 1000, n_cells), dtype="Int64"),
            "number": rng.random(n_cells).astype(np.float32),
        },
        index=parts["obs"].index,
    )
    read = stored(load(write_screen(covar=table))).obsm["covariates"]
    assert list(read) == list(table)
    for name in table:
        assert read[name].astype(str).tolist() == table[name].astype(str).tolist()


@pytest.mark.parametrize("n_columns", [0, 1, 2])
def test_covariates_as_array_get_numbered_names(write_screen, load, n_columns):
    shape = (60, n_columns) if n_columns else 60
    values = np.random.default_rng(3).random(shape)
    path = write_screen(covar=None, uns={"covar": values})
    table = stored(load(path)).obsm["covariates"]
    assert list(table) == [f"covar_{i}" for i in range(n_columns or 1)]
    np.testing.assert_array_equal(table.to_numpy(), values.reshape(60, -1))


def test_covariates_as_sparse_array_are_taken(write_screen, load):
    values = sp.random(60, 2, 0.5, format="csr", random_state=1)
    table = stored(load(write_screen(covar=values))).obsm["covariates"]
    np.testing.assert_array_equal(table.to_numpy(), values.toarray())


def test_single_column_of_obs_may_be_the_covariate_key(write_screen, load, parts):
    parts["obs"]["depth"] = pd.array(range(60), dtype="Int64")
    path = write_screen(obs=parts["obs"])
    for key in ("p_mito", "obs/batch", "depth"):
        table = stored(load(path, {"covariates": {"key": key}}, folder=key)).obsm["covariates"]
        assert table.iloc[:, 0].tolist() == parts["obs"][key.removeprefix("obs/")].tolist()


def test_obsm_is_searched_before_obs(write_screen, load, parts):
    path = write_screen(obsm={"batch": np.arange(60.0)})
    table = stored(load(path, {"covariates": {"key": "batch"}})).obsm["covariates"]
    assert table["covar_0"].tolist() == list(range(60))


def test_columns_of_obs_are_transformed_by_natural_logarithms(write_screen, load, parts):
    columns = [
        {"name": "n_umis", "transform": "log"},
        {"name": "p_mito", "transform": "log1p"},
        "batch",
    ]
    table = stored(load(write_screen(), {"covariates": {"columns": columns}})).obsm["covariates"]
    assert list(table) == ["log(n_umis)", "log1p(p_mito)", "batch"]
    np.testing.assert_array_equal(table["log(n_umis)"], np.log(parts["obs"]["n_umis"]))
    np.testing.assert_array_equal(table["log1p(p_mito)"], np.log1p(parts["obs"]["p_mito"]))


def test_formula_gives_design_columns_without_intercept(write_screen, load, parts):
    formula = "~ log(n_umis) + batch + bs(p_mito, df=4) + I(n_umis / p_mito)"
    table = stored(load(write_screen(), {"covariates": {"formula": formula}})).obsm["covariates"]
    assert [re.sub(r"[^\w.]+", " ", name).strip() for name in table] == [
        "log n_umis",
        "batch T.three",
        "batch T.two",
        *(f"bs p_mito df 4 {i}" for i in range(1, 5)),
        "I n_umis p_mito",
    ]
    ratio = parts["obs"]["n_umis"] / parts["obs"]["p_mito"]
    np.testing.assert_array_equal(table.iloc[:, -1], ratio)


def test_constant_and_collinear_covariates_are_dropped_with_a_warning_if_asked(
    write_screen, load, parts, caplog
):
    table = parts["covar"].assign(flat=5.0, twice=2 * parts["covar"]["p_mito"])
    path = write_screen(covar=table)
    with caplog.at_level(logging.WARNING):
        load(path, {"covariates": {"rank_deficient": "drop"}})
    says(caplog.text, "flat (constant)", "twice (a combination of p_mito)")


# Units


def test_target_in_no_cell_or_in_every_cell_is_skipped_with_the_reason(
    write_screen, load, parts, caplog
):
    calls = parts["guide_assignment"].toarray()
    calls[:, :2], calls[:, 2] = 0, 1
    with caplog.at_level(logging.WARNING):
        folder = load(write_screen(guide_assignment=calls))
    status = read_tsv(folder / "targets.tsv").set_index("target")["status"].to_dict()
    assert status == {
        "A": "no cell carries its guides",
        "B": "every cell carries its guides",
        "ntc1": "kept",
        "ntc2": "kept",
    }
    says(caplog.text, "skipped A: no cell", "skipped B: every cell")


def test_target_may_bear_the_name_of_an_ntc_guide(write_screen, load, parts):
    path = write_screen(guide2gene={**parts["guide2gene"], "b1": "ntc1"})
    folder = load(path)
    expected = expected_carriers(parts["guide_assignment"].toarray())
    table = read_tsv(folder / "targets.tsv").set_index(["target", "kind"])["n_cells"]
    assert table[("ntc1", "target")] == len(expected["B"])
    assert table[("ntc1", "ntc_guide")] == len(expected["ntc1"])
    assert len(table) == 4


def test_only_wanted_targets_and_all_controls_are_stored(write_screen, load):
    path = write_screen()
    assert list(carriers(load(path, targets=["B"]))) == ["B", "ntc1", "ntc2"]


def test_screen_without_controls_is_fine_where_none_are_tested(write_screen, load, parts):
    genes = {guide: guide.upper() for guide in parts["guide2gene"]}
    folder = load(write_screen(guide2gene=genes), controls="none")
    assert list(carriers(folder)) == ["A1", "A2", "B1", "NTC1", "NTC2"]


def test_cell_names_that_occur_twice_change_nothing_and_are_warned_of(
    write_screen, load, parts, caplog
):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        names = file["obs/_index"]
        names[1] = "cell0"
        for table in ("obsm/covar",):
            file[f"{table}/_index"][1] = "cell0"
    with caplog.at_level(logging.WARNING):
        folder = load(path)
    says(caplog.text, "1 cell names occur more than once: 'cell0'")
    assert carriers(folder) == expected_carriers(parts["guide_assignment"].toarray())


# What control cells, the burden and NTC groups need


def test_ntc_guides_and_others_of_each_cell_are_counted(write_screen, load, parts):
    calls = parts["guide_assignment"].toarray()
    calls[:4] = [[1, 1, 1, 1, 1], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1], [0, 0, 0, 0, 0]]
    screen = stored(load(write_screen(guide_assignment=7 * calls)))
    n_guides, n_ntc = calls[:, :3].sum(axis=1), calls[:, 3:].sum(axis=1)
    assert screen.obsm["n_guides"].ravel().tolist() == n_guides.tolist()
    assert screen.obsm["n_ntc_guides"].ravel().tolist() == n_ntc.tolist()
    counts = GuideCounts(n_guides, n_ntc)
    # A cell without any guide is no NTC cell.
    assert counts.is_ntc_cell[:4].tolist() == [False, True, True, False]
    count = n_guides + n_ntc
    assert counts.moi == pytest.approx(
        {
            "mean": count.mean(),
            "none": np.mean(count == 0),
            "one": np.mean(count == 1),
            "several": np.mean(count > 1),
        },
        rel=1e-12,
    )


def test_more_guides_than_a_byte_counts_are_counted(write_screen, load, parts):
    n_guides = 300
    names = [f"g{i}" for i in range(n_guides)]
    path = write_screen(
        guide_assignment=np.ones((60, n_guides), np.uint8) * (np.arange(60) < 50)[:, None],
        guide_names=np.array([*names[:-1], "ntc"], dtype=object),
        guide2gene={**dict.fromkeys(names[:-1], "A"), "ntc": "NTC"},
    )
    folder = load(path)
    assert set(stored(folder).obsm["n_guides"].ravel()) == {0, 299}
    (cells,) = read_treated(folder / "screen.h5ad", [(TARGET, "A")])
    np.testing.assert_array_equal(cells, np.arange(50))


def test_the_guides_table_tells_label_and_cells_of_each_guide(write_screen, load, parts):
    folder = load(write_screen())
    table = read_guides_table(folder / "screen.h5ad")
    assert list(table) == ["name", "target", "is_ntc", "n_cells"]
    assert table["name"].tolist() == list(parts["guide_names"])
    assert table["target"].tolist() == list(parts["guide2gene"].values())
    assert table["is_ntc"].tolist() == [False, False, False, True, True]
    carried = parts["guide_assignment"].toarray() > 0
    assert table["n_cells"].tolist() == carried.sum(axis=0).tolist()


def test_a_cell_with_several_guides_of_a_target_is_treated_once(write_screen, load, parts):
    calls = with_explicit_zeros(parts["guide_assignment"]) * 3
    folder = load(write_screen(guide_assignment=calls))
    own = parts["guide_assignment"].toarray()[:, :2].sum(axis=1)
    asked = [(NTC_GUIDE, "ntc1"), (TARGET, "A")]
    assert set(own) == {0, 1, 2}
    ntc_cells, cells = read_treated(folder / "screen.h5ad", asked)
    assert cells.tolist() == np.flatnonzero(own).tolist()
    ntc1 = parts["guide_assignment"].toarray()[:, 3]
    assert ntc_cells.tolist() == np.flatnonzero(ntc1).tolist()
    treated = stored(folder).obsm["treated"]
    assert treated.dtype == bool and treated.data.all()


def test_analysis_of_ntc_cells_needs_some(write_screen, load, refusal, parts):
    calls = parts["guide_assignment"].toarray()
    calls[:, 2] = 1
    path = write_screen(guide_assignment=calls)
    message = refusal(path, control="ntc")
    says(message, "guide_assignment: no cell carries NTC guides and no others", "`control: ntc`")
    says(message, "use `control: complement`", "`ntc_labels`", "1 problem\n")
    # One such cell will do, and no other control asks for any.
    load(path, control="auto")
    calls[3] = [0, 0, 0, 0, 1]
    load(write_screen(guide_assignment=calls), control="ntc")


def test_burden_covariate_is_noted_for_the_later_stages(write_screen, load):
    path = write_screen()
    for burden in (True, False):
        folder = load(path, {"covariates": {"burden": burden}}, folder=str(burden))
        settings = {"key": "cnmf_usage", "transform": "none", "library_size": None}
        screen = StoredScreen.read(folder / "screen.h5ad", settings)
        assert screen.burden is burden
        # Which counts it is depends on the comparison, so it is no column of the table.
        assert list(screen.covariates) == ["p_mito", "batch"]


def test_a_burden_that_is_equal_in_all_cells_is_named(write_screen, load, refusal):
    burden = {"covariates": {"burden": True}}
    # Guides and NTC guides each differ between cells; their sum does not.
    calls = np.zeros((60, 5))
    calls[np.arange(60), np.arange(60) % 5] = calls[np.arange(60), (np.arange(60) + 1) % 5] = 1
    path = write_screen(guide_assignment=calls)
    message = refusal(path, burden)
    says(message, "guide_assignment: every cell carries 2 guides", "no burden to adjust for")
    says(message, "leave `covariates.burden` out", "1 problem\n")
    load(path, folder="no burden")
    # One cell that differs will do.
    calls[7] = [0, 0, 0, 0, 1]
    load(write_screen(guide_assignment=calls), burden, folder="one differs")


def test_missing_burden_and_missing_ntc_cells_are_named_together(write_screen, refusal):
    calls = np.zeros((60, 5))
    calls[np.arange(60), np.arange(60) % 3] = calls[np.arange(60), 3 + np.arange(60) % 2] = 1
    path = write_screen(guide_assignment=calls)
    message = refusal(path, {"covariates": {"burden": True}}, control="ntc")
    says(message, "every cell carries 2 guides", "no cell carries NTC guides and no others")
    says(message, "2 problems")


# Batches


BY_BATCH = {"sampler": "stratified_perm"}


def batch_codes(folder, key="batch"):
    screen = stored(folder)
    return screen.obsm[f"batch.{key}"].ravel().tolist(), list(screen.uns[f"levels.batch.{key}"])


def coded(values):
    levels = sorted({str(value) for value in values})
    return [levels.index(str(value)) for value in values], levels


def test_batches_are_those_of_the_covariates_before_those_of_obs(write_screen, load, parts):
    covar = parts["covar"].assign(batch=pd.Categorical(list("xy" * 30), categories=list("zyx")))
    path = write_screen(covar=covar)
    assert batch_codes(load(path, **BY_BATCH)) == coded(covar["batch"])
    columns = {"covariates": {"columns": ["p_mito"]}}
    folder = load(path, columns, folder="obs", **BY_BATCH)
    assert batch_codes(folder) == coded(parts["obs"]["batch"])


@pytest.mark.parametrize(
    "values",
    [np.arange(60) % 4, np.arange(60) % 2 == 0, np.full(60, "only"), (np.arange(60) % 3) / 2],
    ids=["whole numbers", "truth", "one level", "numbers"],
)
def test_batches_of_every_type_are_coded(write_screen, load, parts, values):
    parts["obs"]["lane"] = values
    folder = load(write_screen(obs=parts["obs"]), batch_key="lane", **BY_BATCH)
    assert batch_codes(folder, "lane") == coded(values.tolist())


def test_batches_are_stored_only_where_an_analysis_asks(write_screen, load):
    path = write_screen()
    for i, analysis in enumerate(({}, {**BY_BATCH, "stratify": {"stratify_by_batch": False}})):
        assert "batch.batch" not in stored(load(path, folder=str(i), **analysis)).obsm
        # And a column that is not there is no problem.
        load(path, folder=str(i), batch_key="no_such_column", **analysis)


def test_missing_batch_column_is_named(write_screen, refusal):
    message = refusal(write_screen(), batch_key="bacth", **BY_BATCH)
    says(message, "obs/bacth: there is no such column (batch)", "`batch_key`", "mean 'batch'?")


def test_cells_without_batch_are_named(write_screen, refusal, parts):
    parts["obs"].loc[["cell4", "cell9"], "batch"] = None
    columns = {"covariates": {"columns": ["p_mito"]}}
    message = refusal(write_screen(obs=parts["obs"]), columns, **BY_BATCH)
    says(message, "obs/batch: 2 cells have no batch ('cell4', 'cell9')", "fill it in")
    says(message, "`stratify_by_batch: false`", "1 problem\n")


def test_a_batch_per_cell_is_none(write_screen, load, refusal, parts):
    parts["obs"]["lane"] = np.arange(60) % 31
    message = refusal(write_screen(obs=parts["obs"]), batch_key="lane", **BY_BATCH)
    says(message, "obs/lane: has 31 values in 60 cells, which are no batches", "`batch_key`")
    parts["obs"]["lane"] = np.arange(60) % 30
    load(write_screen(obs=parts["obs"]), batch_key="lane", **BY_BATCH)


# Names


def test_guide_names_with_commas_and_quotes_survive_every_table(write_screen, load, parts):
    names = ["a,1", 'a"2', "b 1", "ntc,1", "ntc,2,"]
    genes = dict(zip(names, parts["guide2gene"].values(), strict=True))
    folder = load(write_screen(guide_names=np.array(names, dtype=object), guide2gene=genes))
    screen, targets = folder / "screen.h5ad", folder / "targets.tsv"
    settings = {"group_size": 2, "n_bins": 1, "n_ensemble": 1, "max_groups": None, "seed": 0}
    groups = folder / "ntc_groups.tsv"
    write_ntc_groups(screen, groups, "groups", settings, 1)
    tested = units_of_batch([targets, groups], 0, "all", "groups")
    assert sorted(tested) == [
        (NTC_GROUP, "e0/ntc_0", ["ntc,1", "ntc,2,"]),
        (NTC_GUIDE, "ntc,1", ["ntc,1"]),
        (NTC_GUIDE, "ntc,2,", ["ntc,2,"]),
        (TARGET, "A", ["a,1", 'a"2']),
        (TARGET, "B", ["b 1"]),
    ]
    expected = expected_carriers(parts["guide_assignment"].toarray())
    cells = read_treated(screen, [(NTC_GUIDE, "ntc,1"), (NTC_GUIDE, "ntc,2,")])
    assert [part.tolist() for part in cells] == [expected["ntc1"], expected["ntc2"]]


# The file as a whole


def test_missing_file_is_named(refusal, tmp_path):
    says(refusal(tmp_path / "absent.h5ad"), "absent.h5ad: there is no such file", "`path`")


def test_folder_in_place_of_a_file_is_named(refusal, tmp_path):
    (tmp_path / "store.zarr").mkdir()
    says(refusal(tmp_path / "store.zarr"), "this is a folder", "write_h5ad")


def test_empty_file_is_named(refusal, tmp_path):
    (tmp_path / "empty.h5ad").touch()
    says(refusal(tmp_path / "empty.h5ad"), "the file is empty", "download it again")


@pytest.mark.parametrize("share", [0.01, 0.5, 0.999])
def test_truncated_file_is_named(write_screen, refusal, share):
    path = write_screen()
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    says(refusal(path), "the file is truncated", "copy or download it again")


def test_file_that_is_no_hdf5_is_named(refusal, tmp_path):
    path = tmp_path / "table.h5ad"
    path.write_text("cell\tguide\n" * 100)
    says(refusal(path), "this is no HDF5 file", "write_h5ad")


def test_hdf5_file_of_another_kind_is_named(refusal, tmp_path):
    path = tmp_path / "10x.h5"
    with h5py.File(path, "w") as file:
        file["matrix/data"] = np.ones(3)
    says(refusal(path), "without the group `obs`", "write_h5ad")


def test_mudata_file_is_named(write_screen, refusal):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        file.attrs["encoding-type"] = "MuData"
    says(refusal(path), "MuData", "modality")


def test_file_of_an_anndata_before_0_7_is_named(refusal, tmp_path):
    path = tmp_path / "old.h5ad"
    with h5py.File(path, "w") as file:
        file["obs"] = np.array([(b"cell0", 1.0)], dtype=[("index", "S5"), ("n", "f8")])
    says(refusal(path), "`obs` is stored in the way of an anndata before 0.7", "write_h5ad")


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (PermissionError(13, "Permission denied"), ["may not read", "chmod +r"]),
        (BlockingIOError(11, "unable to lock file"), ["locked", "HDF5_USE_FILE_LOCKING=FALSE"]),
        (OSError("unable to read superblock"), ["cannot be opened", "superblock", "copy"]),
    ],
)
def test_file_that_cannot_be_opened_is_named(write_screen, refusal, monkeypatch, error, words):
    path = write_screen()

    def fail(*_arguments, **_more):
        raise error

    monkeypatch.setattr(h5ad.h5py, "File", fail)
    says(refusal(path), *words)


def test_element_of_a_newer_anndata_is_named(write_screen, refusal):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        file["uns/guide2gene"].attrs["encoding-version"] = "99.0"
    says(refusal(path), "uns/guide2gene: cannot be read", "newer anndata")


def test_matrix_whose_columns_are_out_of_range_is_named(write_screen, refusal):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        file["obsm/guide_assignment/indices"][3] = 10**6
    says(refusal(path), "obsm/guide_assignment: cannot be read", "damaged")


def test_screen_without_cells_is_named(refusal, write_screen, parts):
    none = {key: parts[key][:0] for key in ("X", "obs", "guide_assignment", "cnmf_usage")}
    path = write_screen(**none, covar=parts["covar"][:0])
    says(refusal(path), "obs/_index: there are no cells", "filtered")


# Keys


@pytest.mark.parametrize(
    ("left_out", "setting"),
    [
        ("guide_assignment", "guide_assignment"),
        ("guide_names", "guide_names"),
        ("guide2gene", "guide2gene"),
        ("covar", "covariates.key"),
        ("cnmf_usage", "outcome.key"),
    ],
)
def test_missing_key_is_named_with_the_setting_and_the_keys_there_are(
    write_screen, refusal, left_out, setting
):
    message = refusal(write_screen(**{left_out: None}))
    says(message, f"{left_out}: there is no such key", f"set `{setting}`", "There are: X; obsm: ")
    says(message, "obs: _index, batch, n_umis, p_mito")


def test_misspelt_key_gets_the_nearest(write_screen, refusal):
    message = refusal(write_screen(), {"guide_assignment": "guide_asignment"})
    says(message, "guide_asignment: there is no such key", "did you mean 'guide_assignment'?")


def test_program_names_asked_for_by_name_must_be_there(write_screen, refusal):
    message = refusal(write_screen(), {"program_names": "programs"})
    says(message, "programs: there is no such key (program names)", "'program_names'?")


@pytest.mark.parametrize(
    ("key", "setting"), [("guide_assignment", "guide_assignment"), ("cnmf_usage", "outcome")]
)
def test_matrix_with_other_cells_is_named(write_screen, refusal, parts, key, setting):
    path = write_screen(**{key: None}, uns={key: np.ones((59, 5))})
    says(refusal(path), f"uns/{key}: has 59 rows, but obs has 60 cells", "one row per cell")


def test_covariates_with_other_cells_are_named(write_screen, refusal):
    path = write_screen(covar=None, uns={"covar": np.ones((61, 2))})
    says(refusal(path), "uns/covar: has 61 rows, but obs has 60 cells", "one row per cell")


def test_transposed_matrix_is_named(write_screen, refusal, parts):
    path = write_screen(guide_assignment=None, uns={"guide_assignment": np.ones((5, 60))})
    says(refusal(path), "has 5 rows", "it looks transposed")


@pytest.mark.parametrize("key", ["guide_assignment", "cnmf_usage"])
def test_matrix_that_is_none_is_named(write_screen, refusal, key):
    path = write_screen(**{key: None}, uns={key: "text"})
    says(refusal(path), f"uns/{key}: is no numeric matrix or table", "cells x columns")


@pytest.mark.parametrize("key", ["guide_assignment", "cnmf_usage"])
def test_text_column_of_a_table_is_named(write_screen, refusal, parts, key):
    table = pd.DataFrame({"one": 1.0, "barcode": "ACGT", "level": "a"}, index=parts["obs"].index)
    table["level"] = table["level"].astype("category")
    message = refusal(write_screen(**{key: table}))
    says(message, f"obsm/{key}: has columns that are not numeric: 'barcode', 'level'", "leave")


# Guides


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.nan, "1 NaN or infinite values (nan in cell 'cell7', column 'b1')"),
        (np.inf, "1 NaN or infinite values (inf in cell 'cell7', column 'b1')"),
        (-2.0, "1 negative values (-2.0 in cell 'cell7', column 'b1')"),
    ],
)
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_bad_guide_call_is_named(write_screen, refusal, parts, form, value, text):
    calls = parts["guide_assignment"].toarray()
    calls[7, 2] = value
    message = refusal(write_screen(guide_assignment=form(calls)))
    says(message, f"obsm/guide_assignment: {text}", "store 0 for no guide")
    assert "1 problem\n" in message


def test_missing_value_of_a_guide_table_is_named(write_screen, refusal, parts):
    table = pd.DataFrame(
        parts["guide_assignment"].toarray(), parts["obs"].index, list(parts["guide_names"])
    ).astype("Int64")
    table.iloc[7, 2] = pd.NA
    says(refusal(write_screen(guide_assignment=table)), "nan in cell 'cell7', column 'b1'")


@pytest.mark.parametrize("n_guides", [0, 5])
def test_empty_guide_assignment_is_named(write_screen, refusal, parts, n_guides):
    guides = list(parts["guide_names"])[:n_guides]
    path = write_screen(
        guide_assignment=np.zeros((60, n_guides)),
        guide_names=np.array(guides, dtype="U4"),
        guide2gene={guide: parts["guide2gene"][guide] for guide in guides},
    )
    message = refusal(path)
    says(message, f"no cell carries a guide (60 cells x {n_guides} guides)", "`guide_assignment`")


def test_guide_names_that_do_not_fit_the_columns_are_named(write_screen, refusal, parts):
    path = write_screen(guide_names=parts["guide_names"][:4])
    says(refusal(path), "uns/guide_names: has 4 names", "has 5 columns", "one name per column")


def test_guide_name_that_occurs_twice_is_named(write_screen, refusal):
    names = np.array(["a1", "a1", "b1", "ntc1", "ntc2"], dtype=object)
    genes = {"a1": "A", "b1": "B", "ntc1": "non-targeting", "ntc2": "non-targeting"}
    message = refusal(write_screen(guide_names=names, guide2gene=genes))
    says(message, "uns/guide_names: 1 guide names occur more than once: 'a1'", "unique")


def test_guide_that_maps_to_two_genes_is_named(write_screen, refusal, parts):
    pairs = [*parts["guide2gene"].items(), ("a1", "B")]
    table = pd.DataFrame(pairs, columns=["guide", "gene"])
    message = refusal(write_screen(guide2gene=table))
    says(message, "uns/guide2gene: 1 guide names occur more than once: 'a1'", "one gene")


def test_guides_missing_on_either_side_are_named(write_screen, refusal, parts):
    genes = dict(parts["guide2gene"])
    del genes["b1"]
    message = refusal(write_screen(guide2gene={**genes, "z9": "Z"}))
    says(message, "guide2gene: lacks 1 of the 5 guides: 'b1'", "add their genes")
    says(message, "guide2gene: names 1 guides that obsm/guide_assignment does not have: 'z9'")
    assert "blanks" not in message


def test_guides_that_differ_in_blanks_alone_are_named_so(write_screen, refusal):
    names = np.array(["a1", "a2", " b1", "ntc1", "ntc2 "], dtype=object)
    says(refusal(write_screen(guide_names=names)), "' b1', 'ntc2 '", "in blanks alone: 'b1'")


def test_gene_written_with_and_without_blank_is_named(write_screen, refusal, parts):
    path = write_screen(guide2gene={**parts["guide2gene"], "a2": "A "})
    says(refusal(path), "these genes differ in blanks alone: 'A', 'A '", "in one way")


@pytest.mark.parametrize("missing", [None, "", np.nan])
def test_guide_without_gene_is_named(write_screen, refusal, parts, missing):
    pairs = list({**parts["guide2gene"], "a2": missing}.items())
    table = pd.DataFrame(pairs, columns=["guide", "gene"])
    table["gene"] = table["gene"].astype("category")
    message = refusal(write_screen(guide2gene=table))
    says(message, "uns/guide2gene: gives 1 guides no gene: 'a2'", "the NTC label")


@pytest.mark.parametrize(
    ("value", "found"),
    [
        (np.array(["A", "B"], dtype=object), "an array of shape (2,)"),
        (pd.DataFrame({"x": ["1"], "y": ["2"]}), "a table with the columns 'x', 'y'"),
        ("A", "is str"),
    ],
)
def test_guide2gene_of_another_form_is_named(write_screen, refusal, value, found):
    message = refusal(write_screen(guide2gene=value))
    says(message, "uns/guide2gene", found, "maps no guide to a gene", "`guide` and `gene`")


def test_guide2gene_of_names_with_slashes_is_named(write_screen, refusal, parts):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        ad.io.write_elem(file["uns/guide2gene"], "a", {"3": "A"})
    says(refusal(path), "maps 1 guides to no single gene: 'a'", "names with '/'")


def test_screen_without_ntc_label_is_named_with_the_labels_there_are(write_screen, refusal, parts):
    genes = {guide: gene.replace("non-", "Non-") for guide, gene in parts["guide2gene"].items()}
    message = refusal(write_screen(guide2gene=genes))
    says(message, "guide2gene: no guide is labelled non-targeting control", "'non-targeting'")
    says(message, "`ntc_labels`", "`controls: none`", "did you mean 'Non-targeting'?", "'A', 'B'")


def test_screen_without_targets_is_named(write_screen, refusal):
    message = refusal(write_screen(), {"ntc_labels": ["non-targeting", "A", "B"]})
    says(message, "there is no target to test", "correct `ntc_labels`")


def test_target_that_the_screen_lacks_gets_the_nearest(write_screen, refusal, parts):
    genes = {**parts["guide2gene"], "a1": "STAT1", "a2": "STAT1", "b1": "JAK2"}
    message = refusal(write_screen(guide2gene=genes), targets=["STAT11", "JAK2", "jak2"])
    says(message, "analyses: targets: 2 have no guide in this screen: 'STAT11', 'jak2'")
    says(message, "STAT11: did you mean 'STAT1'?", "jak2: did you mean 'JAK2'?")
    says(message, "there are: 'JAK2', 'STAT1'")


def test_ntc_label_is_no_target(write_screen, refusal):
    message = refusal(write_screen(), targets=["A", "non-targeting"])
    says(message, "'non-targeting'", "it is an NTC label", "`controls: guides`")


# Outcomes


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (np.nan, "1 NaN or infinite values (nan in cell 'cell7', column 'P3')"),
        (-np.inf, "1 NaN or infinite values (-inf in cell 'cell7', column 'P3')"),
        (-0.5, "1 negative values (-0.5 in cell 'cell7', column 'P3')"),
    ],
)
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_bad_usage_is_named_once_whatever_the_pieces(
    write_screen, refusal, parts, monkeypatch, form, value, text
):
    usage = parts["cnmf_usage"]
    usage[7, 2] = value
    path = write_screen(cnmf_usage=form(usage))
    whole = refusal(path)
    says(whole, f"obsm/cnmf_usage: {text}", "remove those cells", "1 problem\n")
    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 100)
    assert refusal(path) == whole


def test_many_bad_values_are_counted_and_the_first_shown(write_screen, refusal, parts):
    usage = parts["cnmf_usage"]
    usage[10:60, 0] = np.nan
    says(refusal(write_screen(cnmf_usage=usage)), "50 NaN", "cell 'cell12'", "and 47 more")


def test_negative_values_are_fine_as_they_are(write_screen, load, parts):
    usage = parts["cnmf_usage"] - 0.5
    folder = load(
        write_screen(cnmf_usage=usage), outcome={"key": "cnmf_usage", "transform": "none"}
    )
    np.testing.assert_array_equal(stored(folder).obsm["outcome.cnmf_usage.block-0000"], usage)


@pytest.mark.parametrize("form", [sp.csr_matrix, np.asarray])
def test_rows_that_sum_to_zero_are_named_beside_bad_values(write_screen, refusal, parts, form):
    usage = parts["cnmf_usage"]
    usage[[3, 59]] = 0
    usage[4, 1] = np.nan
    message = refusal(write_screen(cnmf_usage=form(usage)))
    says(message, "obsm/cnmf_usage: 2 rows sum to zero (cells 'cell3', 'cell59')", "remove those")
    says(message, "1 NaN or infinite values", "2 problems")


def test_program_name_that_occurs_twice_is_named(write_screen, refusal):
    message = refusal(write_screen(program_names=np.array(["P1", "P2", "P1"], dtype=object)))
    says(message, "uns/program_names: 1 program names occur more than once: 'P1'", "unique")


def test_gene_name_that_occurs_twice_is_named(write_screen, refusal):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        file["var/_index"][1] = "GENE1"
    message = refusal(path, outcome=CLR_X)
    says(message, "var/_index: 1 feature names occur more than once: 'GENE1'")
    says(message, "var_names_make_unique()")


def test_program_names_that_do_not_fit_are_named(write_screen, refusal):
    message = refusal(write_screen(program_names=np.array(["P1", "P2"], dtype=object)))
    says(message, "uns/program_names: has 2 names", "has 3 columns", "one name per column")


def test_log_ratio_of_a_single_column_is_named(write_screen, refusal):
    path = write_screen(cnmf_usage=np.ones((60, 1)), program_names=None)
    says(refusal(path), "has one column, and clr compares columns", "`transform: none`")


CPM = {"key": "X", "transform": "log1p_cpm"}


def test_library_sizes_are_stored(write_screen, load, parts):
    parts["obs"]["depth"] = pd.array(range(1, 61), dtype="Int64")
    path = write_screen(obs=parts["obs"])
    screen = stored(load(path, outcome={**CPM, "library_size": "depth"}))
    assert screen.obsm["library_size.depth"].ravel().tolist() == list(range(1, 61))


def test_missing_library_size_is_named(write_screen, refusal):
    message = refusal(write_screen(), outcome={**CPM, "library_size": "n_umi"})
    says(message, "obs/n_umi: there is no such column (library size)", "`outcome.library_size`")
    says(message, "did you mean 'n_umis'?")


@pytest.mark.parametrize("bad", [0.0, -3.0, np.nan, np.inf])
def test_bad_library_size_is_named(write_screen, refusal, parts, bad):
    parts["obs"].loc["cell5", "n_umis"] = bad
    message = refusal(write_screen(obs=parts["obs"]), outcome={**CPM, "library_size": "n_umis"})
    says(message, f"obs/n_umis: 1 library sizes are not positive ({bad}; cells 'cell5')", "total")


def test_text_as_library_size_is_named(write_screen, refusal):
    message = refusal(write_screen(), outcome={**CPM, "library_size": "batch"})
    says(message, "obs/batch: holds no numbers", "'one'", "total counts")


# Bad covariates


@pytest.mark.parametrize(
    ("value", "text"), [(np.nan, "1 NaN"), (np.inf, "1 infinite"), (-np.inf, "1 infinite")]
)
def test_bad_covariate_is_named(write_screen, refusal, parts, value, text):
    table = parts["covar"].copy()
    table.loc["cell9", "p_mito"] = value
    message = refusal(write_screen(covar=table))
    says(message, f"obsm/covar/p_mito: {text} values (cells 'cell9')", "fill them in")


@pytest.mark.parametrize(
    "column",
    [
        pd.Categorical([None, *"ab" * 29, "a"]),
        pd.array([None, *range(59)], dtype="Int64"),
        pd.array([None, *[True, False] * 29, True], dtype="boolean"),
    ],
    ids=["category", "whole number", "truth"],
)
def test_missing_value_of_any_type_is_named(write_screen, refusal, parts, column):
    path = write_screen(covar=parts["covar"].assign(extra=column))
    says(refusal(path), "obsm/covar/extra: 1 NaN values (cells 'cell0')", "fill them in")


def test_constant_and_collinear_covariates_are_named(write_screen, refusal, parts):
    table = parts["covar"].assign(flat=5.0, twice=2 * parts["covar"]["p_mito"])
    message = refusal(write_screen(covar=table))
    says(message, "obsm/covar: these covariates add nothing to the others")
    says(message, "flat (constant), twice (a combination of p_mito)", "`covariates.rank_deficient")


def test_constant_covariate_is_named_beside_a_bad_one(write_screen, refusal, parts):
    table = parts["covar"].assign(flat=5.0)
    table.loc["cell9", "p_mito"] = np.nan
    says(refusal(write_screen(covar=table)), "flat (constant)", "covar/p_mito: 1 NaN")


def test_more_covariates_than_cells_are_named(write_screen, refusal):
    values = np.random.default_rng(0).random((60, 59))
    message = refusal(write_screen(covar=values))
    says(message, "obsm/covar: 60 design columns", "for 60 cells", "leave covariates out")


def test_covariate_with_a_level_per_cell_is_named(write_screen, refusal, parts):
    table = parts["covar"].assign(barcode=[f"AC{i}" for i in range(60)])
    message = refusal(write_screen(covar=table))
    says(message, "for 60 cells (barcode has 60 levels", "leave covariates out, or join levels")


def test_numbers_stored_as_text_are_named(write_screen, refusal, parts):
    table = parts["covar"].assign(depth=[f"{i}.5" for i in range(60)])
    message = refusal(write_screen(covar=table))
    says(message, "obsm/covar/depth: holds 60 different numbers stored as text", "'0.5'")
    says(message, "astype(float)")


def test_few_numbers_stored_as_text_are_categories(write_screen, load, parts):
    table = parts["covar"].assign(plate=[str(i % 12) for i in range(60)])
    assert "plate" in stored(load(write_screen(covar=table))).obsm["covariates"]


def test_covariates_that_are_no_table_are_named(write_screen, refusal):
    path = write_screen(covar=None, uns={"covar": {"a": 1}})
    says(refusal(path), "uns/covar: is no table or array", "cells x covariates")


def test_missing_column_gets_the_nearest_beside_the_faults_of_others(write_screen, refusal, parts):
    parts["obs"].loc["cell9", "p_mito"] = np.nan
    columns = ["n_umi", "p_mito"]
    message = refusal(write_screen(obs=parts["obs"]), {"covariates": {"columns": columns}})
    says(message, "obs/n_umi: there is no such column (covariates)", "did you mean 'n_umis'?")
    says(message, "`covariates.columns`", "There are: n_umis, p_mito, batch", "obs/p_mito: 1 NaN")


@pytest.mark.parametrize(
    ("transform", "value", "text"),
    [
        ("log", 0.0, "1 values are 0 or less (0.0; cells 'cell5'), so log is undefined"),
        ("log1p", -1.0, "1 values are -1 or less (-1.0; cells 'cell5'), so log1p is undefined"),
    ],
)
def test_log_of_a_value_too_low_is_named(write_screen, refusal, parts, transform, value, text):
    parts["obs"].loc["cell5", "n_umis"] = value
    columns = [{"name": "n_umis", "transform": transform}]
    message = refusal(write_screen(obs=parts["obs"]), {"covariates": {"columns": columns}})
    says(message, f"obs/n_umis: {text}", "remove those cells")


def test_log_of_text_is_named(write_screen, refusal):
    columns = [{"name": "batch", "transform": "log"}]
    message = refusal(write_screen(), {"covariates": {"columns": columns}})
    says(message, "obs/batch: is not numeric ('", "but log is asked", "drop `transform`")


@pytest.mark.parametrize(
    ("formula", "words"),
    [
        ("~ n_umi", ["names 'n_umi', which obs does not have", "did you mean 'n_umis'?"]),
        ("~ bs(n_umi, df=4)", ["cannot be read", "n_umi", "The columns there are: n_umis"]),
        ("n_umis ~ batch", ["has a left-hand side", "covariates only"]),
        ("~ n_umis ~ batch", ["has a left-hand side", "covariates only"]),
        ("~ log(n_umis", ["cannot be read", "R-style"]),
        ("~ n_umis +", ["cannot be read", "R-style"]),
        ("~ n_umis | batch", ["cannot be read", "R-style"]),
        ("~ log(batch)", ["cannot be read", "R-style"]),
        ("~ 0 + batch", ["leaves the intercept out", "remove `0 +`"]),
        ("~ log(n_umis - 1e9)", ["60 NaN values", "the logarithm of 0"]),
    ],
)
def test_bad_formula_is_named(write_screen, refusal, formula, words):
    message = refusal(write_screen(), {"covariates": {"formula": formula}})
    says(message, "covariates.formula", *words)
    assert "\x1b" not in message


@pytest.mark.parametrize("formula", ["~ batch", "~ bs(p_mito, df=4) + batch"])
def test_missing_value_behind_a_formula_is_named(write_screen, refusal, parts, formula):
    # Unnoticed, a cell without batch would count as one of the first batch.
    parts["obs"].loc["cell5", "batch"] = None
    parts["obs"].loc["cell6", "p_mito"] = np.nan
    message = refusal(write_screen(obs=parts["obs"]), {"covariates": {"formula": formula}})
    says(message, "obs/batch: 1 NaN values (cells 'cell5')", "fill them in")
    assert ("obs/p_mito: 1 NaN values (cells 'cell6')" in message) == ("p_mito" in formula)


def test_covariate_named_twice_by_its_file_is_named(write_screen, refusal, parts):
    path = write_screen()
    with h5py.File(path, "r+") as file:
        file["obsm/covar"].attrs["column-order"] = ["batch", "p_mito", "p_mito"]
    says(refusal(path), "obsm/covar: 1 covariate names occur more than once: 'p_mito'", "rename")


# All together


def test_all_problems_of_a_file_are_listed_together(write_screen, refusal, parts):
    calls = parts["guide_assignment"].toarray()
    calls[0, 0] = -1
    usage = parts["cnmf_usage"]
    usage[1, 1], usage[2] = np.nan, 0
    covar = parts["covar"].assign(flat=1.0)
    covar.loc["cell3", "p_mito"] = np.inf
    genes = {"a1": "A", "a2": "A", "b1": "B", "ntc1": "control", "x1": "X"}
    path = write_screen(
        guide_assignment=calls,
        cnmf_usage=usage,
        covar=covar,
        guide2gene=genes,
        program_names=np.array(["P1", "P1", "P3"], dtype=object),
    )
    message = refusal(path, targets=["A", "BB"])
    says(message, "1 negative values (-1.0 in cell 'cell0', column 'a1')")
    says(message, "lacks 1 of the 5 guides: 'ntc2'")
    says(message, "names 1 guides that obsm/guide_assignment does not have: 'x1'")
    says(message, "no guide is labelled non-targeting control")
    says(message, "1 have no guide in this screen: 'BB'")
    says(message, "obsm/covar/p_mito: 1 infinite")
    says(message, "flat (constant)")
    says(message, "1 program names occur more than once: 'P1'")
    says(message, "1 NaN or infinite values (nan in cell 'cell1'")
    says(message, "1 rows sum to zero (cells 'cell2')")
    says(message, "mine.h5ad: 10 problems", "\n  10. ")


def test_bad_label_is_listed_beside_an_empty_guide_assignment(write_screen, refusal, parts):
    path = write_screen(guide_assignment=np.zeros((60, 5)))
    message = refusal(path, {"ntc_labels": ["control"]})
    says(message, "no cell carries a guide", "no guide is labelled", "2 problems")


def test_problem_of_a_matrix_that_two_analyses_share_is_listed_once(
    write_screen, complete, tmp_path
):
    path = write_screen(cnmf_usage=None)
    config = complete()
    outcomes = outcomes_of(config, "s")
    outcomes.append({**outcomes[0], "transform": "none"})
    settings, needs, out = config["screens"]["s"], needs_of(config, "s"), tmp_path / "screen.h5ad"
    with pytest.raises(InputError, match="1 problem\n"):
        load_screen(path, settings, outcomes, needs, 1, out, tmp_path / "targets.tsv")


def test_earlier_result_stays_when_the_input_turns_bad(write_screen, load, parts):
    folder = load(write_screen())
    before = {file.name: file.read_bytes() for file in folder.iterdir()}
    with pytest.raises(InputError):
        load(write_screen(covar=None))
    assert {file.name: file.read_bytes() for file in folder.iterdir()} == before


# Real data


@pytest.mark.parametrize(
    ("name", "columns", "n_targets", "n_controls", "skipped"),
    [
        ("papalexi_thp1_programs", ["p_mito", "bio_rep"], 26, 9, ["CD274"]),
        ("gasperini_k562", ["p_mito", "batch"], 27, 25, []),
    ],
)
def test_real_screen_loads_with_the_targets_it_is_known_to_have(
    data_dir, load, name, columns, n_targets, n_controls, skipped
):
    path = data_dir / f"{name}.h5ad"
    outcome = CLR_X if "programs" in name else CPM
    folder = load(path, {"covariates": {"columns": columns}}, outcome=outcome)
    table = read_tsv(folder / "targets.tsv")
    assert table["kind"].value_counts().to_dict() == {
        "target": n_targets,
        "ntc_guide": n_controls,
    }
    assert table.loc[table["status"] != "kept", "target"].tolist() == skipped


def test_few_valued_numbers_are_categories_in_a_table_and_numbers_in_an_array(
    write_screen, load, parts
):
    ploidy = np.arange(60) % 4 + 2.0
    given = {
        "table": (pd.DataFrame({"ploidy": ploidy}, index=parts["obs"].index), 3),
        "array": (ploidy[:, None], 1),
    }
    for name, (covar, n_columns) in given.items():
        folder = load(write_screen(f"{name}.h5ad", covar=covar), folder=name)
        settings = {"key": "cnmf_usage", "transform": "none", "library_size": None}
        stored_screen = StoredScreen.read(folder / "screen.h5ad", settings)
        design = make_design(stored_screen.covariates, stored_screen.numeric_as_category_threshold)
        assert len(design.names) == n_columns, name
