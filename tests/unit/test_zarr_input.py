"""A screen in a folder of Zarr: read as the same screen in an .h5ad, and refused as clearly."""

import json
import logging
import os
import shutil
import zipfile
from pathlib import Path

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from condrand.errors import InputError
from condrand.io import h5ad

CLR_X = {"key": "X", "transform": "clr"}


def to_zarr(path: Path, version: int = 3, consolidated: bool = True) -> Path:
    """A copy of an .h5ad as AnnData.write_zarr makes it."""
    copy = path.with_suffix(".zarr")
    before = ad.settings.zarr_write_format
    ad.settings.zarr_write_format = version
    try:
        ad.read_h5ad(path).write_zarr(copy)
    finally:
        ad.settings.zarr_write_format = before
    if not consolidated and version == 2:
        (copy / ".zmetadata").unlink()
    elif not consolidated:
        metadata = json.loads((copy / "zarr.json").read_text())
        del metadata["consolidated_metadata"]
        (copy / "zarr.json").write_text(json.dumps(metadata))
    return copy


def refusal(path: Path, where: str | None = None) -> str:
    """The message about a bad file, or about an element in it that is read whole."""
    with pytest.raises(InputError) as error, h5ad.open_anndata(path) as file:
        if where is not None:
            for _ in h5ad.matrix(file, where).pieces():
                pass
    message = str(error.value)
    assert message.startswith(f"{path}: ")
    assert message.count("-> ") == 1
    return message


def says(message: str, *words: str) -> None:
    """Assert that every word is in the message."""
    missing = [word for word in words if word not in message]
    assert not missing, f"{missing} not in:\n{message}"


@pytest.mark.parametrize(
    ("version", "consolidated", "outcome", "covariates"),
    [
        (2, True, CLR_X, {"key": "covar"}),
        (2, False, {"key": "cnmf_usage"}, {"columns": ["p_mito", "batch"]}),
        (3, True, {"key": "cnmf_usage"}, {"formula": "~ log(n_umis) + batch"}),
        (3, False, CLR_X, {"key": "depth"}),
    ],
)
def test_a_screen_is_stored_in_the_same_bytes(
    write_screen, load, parts, version, consolidated, outcome, covariates
):
    parts["obs"]["depth"] = pd.array(range(60), dtype="Int64")
    path = write_screen(obs=parts["obs"])
    copy = to_zarr(path, version, consolidated)
    screen = {"covariates": covariates}
    one = load(path, screen, folder="hdf5", outcome=outcome)
    other = load(copy, screen, folder="zarr", outcome=outcome)
    for name in ("screen.h5ad", "targets.tsv"):
        assert (one / name).read_bytes() == (other / name).read_bytes()


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("form", [sp.csr_matrix, sp.csc_matrix, np.asarray])
def test_forms_of_the_matrices_are_read_alike(write_screen, load, parts, version, form):
    calls, counts = parts["guide_assignment"].toarray(), parts["X"].toarray()
    raw = ad.AnnData(form(counts), obs=parts["obs"], var=parts["var"])
    path = write_screen(
        guide_assignment=form(calls),
        layers={"counts": form(counts)},
        raw=raw,
        guide2gene=pd.DataFrame(list(parts["guide2gene"].items()), columns=["guide", "gene"]),
    )
    copy = to_zarr(path, version)
    for place in ("counts", "raw/X"):
        outcome = {"key": place, "transform": "clr"}
        one = load(path, folder=f"{place[:3]}-hdf5", outcome=outcome)
        other = load(copy, folder=f"{place[:3]}-zarr", outcome=outcome)
        assert (one / "screen.h5ad").read_bytes() == (other / "screen.h5ad").read_bytes()


@pytest.mark.parametrize("version", [2, 3])
def test_every_element_is_found_and_read_alike(write_screen, parts, version):
    obs = parts["obs"].assign(
        text=[f"t{i % 7}" for i in range(60)],
        truth=np.arange(60) % 2 == 0,
        whole=pd.array([None, *range(59)], dtype="Int64"),
    )
    pairs = np.array(list(parts["guide2gene"].items()), dtype=object)
    path = write_screen(obs=obs, covar=obs, uns={"pairs": pairs, "number": 3})
    copy = to_zarr(path, version)
    with h5ad.open_anndata(path) as one, h5ad.open_anndata(copy) as other:
        assert h5ad.keys_there(one) == h5ad.keys_there(other)
        for key in ("X", "covar", "/obsm/covar", "p_mito", "nothing", "a/b", "..", "uns/../X", ""):
            assert h5ad.locate(one, key) == h5ad.locate(other, key)
        for key in ("guide_names", "pairs"):
            texts = [h5ad.read(file, f"uns/{key}") for file in (one, other)]
            assert texts[0].dtype == texts[1].dtype == object
            assert texts[0].tolist() == texts[1].tolist()
        assert h5ad.read(one, "uns/guide2gene") == h5ad.read(other, "uns/guide2gene")
        pd.testing.assert_frame_equal(h5ad.read(one, "obs"), h5ad.read(other, "obs"))
        tables = [h5ad.matrix(file, "obsm/covar") for file in (one, other)]
        assert tables[0].shape == tables[1].shape == (60, 6)
        assert tables[0].text_columns() == tables[1].text_columns() == ["batch", "text"]
        assert h5ad.matrix(other, "uns/guide_names") is None
        assert h5ad.matrix(other, "uns/guide2gene") is None


def test_a_category_as_anndata_0_7_stored_it_is_read(write_screen, load, parts):
    path = write_screen()
    copy = to_zarr(path, 2, consolidated=False)
    batch = parts["obs"]["batch"]
    file = zarr.open_group(copy, mode="r+")
    shutil.rmtree(copy / "obs" / "batch")
    ad.io.write_elem(
        file["obs"].require_group("__categories"), "batch", np.array(batch.cat.categories)
    )
    ad.io.write_elem(file["obs"], "batch", batch.cat.codes.to_numpy())
    file["obs/batch"].attrs["categories"] = "__categories/batch"
    file["obs"].attrs["encoding-version"] = "0.1.0"
    (copy / ".zmetadata").unlink(missing_ok=True)
    for i, covariates in enumerate(({"columns": ["batch"]}, {"key": "batch"})):
        one = load(path, {"covariates": covariates}, folder=f"{i}-hdf5")
        other = load(copy, {"covariates": covariates}, folder=f"{i}-zarr")
        assert (one / "screen.h5ad").read_bytes() == (other / "screen.h5ad").read_bytes()


def test_a_modality_of_mudata_is_read_where_its_folder_is_named(write_screen, tmp_path):
    copy = to_zarr(write_screen())
    store = tmp_path / "mdata.zarr"
    made = zarr.open_group(store, mode="w")
    made.attrs["encoding-type"] = "MuData"
    made.create_group("mod")
    shutil.copytree(copy, store / "mod" / "rna")
    says(refusal(store), "this is a MuData store", "name the modality", f"{store}/mod/rna.")
    with h5ad.open_anndata(store / "mod" / "rna") as file:
        assert h5ad.matrix(file, "X").shape == (60, 4)


# Bad folders


def test_a_plain_folder_is_named(tmp_path):
    folder = tmp_path / "some.zarr"
    (folder / "obs").mkdir(parents=True)
    says(refusal(folder), "this is a folder, and no Zarr store", "zarr.json", "write_zarr")


def test_a_single_array_is_named(tmp_path):
    zarr.create_array(tmp_path / "array.zarr", shape=(3,), dtype="f4")
    says(refusal(tmp_path / "array.zarr"), "this is a single Zarr array", "write_zarr")


@pytest.mark.parametrize("version", [2, 3])
def test_a_store_without_obs_is_named(tmp_path, version):
    zarr.open_group(tmp_path / "empty.zarr", mode="w", zarr_format=version)
    says(refusal(tmp_path / "empty.zarr"), "a Zarr store without the group `obs`", "write_zarr")


def test_obs_of_an_old_anndata_is_named(tmp_path):
    made = zarr.open_group(tmp_path / "old.zarr", mode="w")
    made.create_array("obs", shape=(3,), dtype="f4")
    says(refusal(tmp_path / "old.zarr"), "an anndata before 0.7", "`anndata.read_zarr(...)`")


@pytest.mark.parametrize(("version", "name"), [(2, ".zgroup"), (3, "zarr.json")])
def test_damaged_metadata_is_named(write_screen, version, name):
    copy = to_zarr(write_screen(), version)
    for consolidated in copy.glob(".zmetadata"):
        consolidated.unlink()
    (copy / name).write_text("{half")
    says(refusal(copy), "the Zarr store cannot be opened", "copy or download it again")


def test_a_folder_that_may_not_be_read_is_named(write_screen):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    copy = to_zarr(write_screen())
    copy.chmod(0)
    try:
        says(refusal(copy), "you may not read this folder", "chmod -R +rX")
    finally:
        copy.chmod(0o755)


def test_a_zip_of_a_store_is_named(write_screen, tmp_path):
    copy = to_zarr(write_screen())
    packed = tmp_path / "packed.zarr.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        for file in copy.rglob("*"):
            archive.write(file, file.relative_to(copy))
    says(refusal(packed), "this is a zip archive", "unpack it")


def chunk(copy: Path, where: str) -> Path:
    """A chunk file of an array."""
    found = [
        file
        for file in sorted((copy / where).rglob("*"))
        if file.is_file() and file.name != "zarr.json" and not file.name.startswith(".z")
    ]
    return found[0]


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("where", ["X/data", "X/indices", "X/indptr", "obsm/cnmf_usage"])
def test_a_damaged_chunk_is_named_with_its_element(write_screen, version, where):
    copy = to_zarr(write_screen(), version)
    damaged = chunk(copy, where)
    damaged.write_bytes(damaged.read_bytes()[: damaged.stat().st_size // 2])
    element = where.removesuffix("/data").removesuffix("/indices").removesuffix("/indptr")
    says(refusal(copy, element), f"{element}: cannot be read", "damaged; copy or download")


@pytest.mark.parametrize("version", [2, 3])
def test_missing_pointers_are_found(write_screen, version):
    copy = to_zarr(write_screen(), version)
    chunk(copy, "X/indptr").unlink()
    # Zarr reads what is not there as zeros: a matrix without entries, but its values are there.
    says(refusal(copy, "X"), "X: cannot be read", "indptr", "copy or download it again")


@pytest.mark.parametrize("version", [2, 3])
@pytest.mark.parametrize("where", ["X/data", "X/indices", "obsm/cnmf_usage"])
def test_missing_chunks_are_warned_of(write_screen, version, where, caplog):
    copy = to_zarr(write_screen(), version)
    element = where.removesuffix("/data").removesuffix("/indices")
    with caplog.at_level(logging.WARNING), h5ad.open_anndata(copy) as file:
        h5ad.matrix(file, element)
        assert caplog.text == ""
        chunk(copy, where).unlink()
        h5ad.matrix(file, element)
    says(caplog.text, f"{where}: 1 of its 1 chunks are not stored", "is the copy whole?")


def test_a_bad_screen_gets_the_same_message_from_both(write_screen, load, parts):
    usage = parts["cnmf_usage"]
    usage[7, 2] = np.nan
    path = write_screen(cnmf_usage=usage, guide2gene={**parts["guide2gene"], "x9": "X"})
    copy = to_zarr(path)
    messages = []
    for source in (path, copy):
        with pytest.raises(InputError) as error:
            load(source, {"program_names": "program_name"})
        messages.append(str(error.value).replace(str(source), "PATH"))
    says(messages[0], "nan in cell 'cell7'", "names 1 guides", "did you mean 'program_names'?")
    assert messages[0] == messages[1]
