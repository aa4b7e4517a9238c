"""Rows of a stored matrix: the same values, bit for bit, however it is stored and read."""

import logging
import tracemalloc
from contextlib import contextmanager

import anndata as ad
import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import zarr

from condrand.errors import InputError
from condrand.io import h5ad

STORES = ["hdf5", "zarr2", "zarr3"]
FORMS = ["csr", "csc", "dense", "table"]
N_ROWS, N_COLUMNS = 97, 23


@pytest.fixture
def small_reads(monkeypatch):
    """Sizes at which a matrix of some hundred rows takes many pieces, spans, blocks and passes."""
    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 1600)
    monkeypatch.setattr(h5ad, "_HELD_BYTES", 2000)
    monkeypatch.setattr(h5ad, "_GAP_BYTES", 100)


@pytest.fixture
def group(tmp_path):
    """Make an empty file of a kind."""
    opened = []

    def make(store: str):
        if store == "hdf5":
            opened.append(h5py.File(tmp_path / f"{len(opened)}.h5", "w"))
            return opened[-1]
        path = tmp_path / f"{len(opened)}.zarr"
        return zarr.open_group(path, mode="w", zarr_format=int(store[-1]))

    yield make
    for file in opened:
        file.close()


def put(group, key, value, chunks=None):
    """Store an array as it is, whatever anndata would make of it."""
    if isinstance(group, h5py.Group):
        group.create_dataset(key, data=value, chunks=chunks)
    else:
        chunks = chunks or "auto"
        array = group.create_array(key, shape=value.shape, dtype=value.dtype, chunks=chunks)
        array[...] = value


def put_sparse(group, form, data, indices, indptr, shape, chunks=None):
    made = group.create_group("m")
    made.attrs["encoding-type"], made.attrs["encoding-version"] = f"{form}_matrix", "0.1.0"
    made.attrs["shape"] = list(shape)
    for name, value in (("data", data), ("indices", indices), ("indptr", indptr)):
        put(made, name, value, chunks and (min(chunks, value.size),))
    return h5ad.matrix(group, "m")


def put_form(group, form, values, chunks=None):
    if form in ("csr", "csc"):
        # scipy makes no sparse matrix of half precision.
        made = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[form](values.astype("f8"))
        parts = (made.data.astype(values.dtype), made.indices, made.indptr)
        return put_sparse(group, form, *parts, made.shape, chunks)
    if form == "table":
        names = [f"c{j}" for j in range(values.shape[1])]
        ad.io.write_elem(group, "m", pd.DataFrame(values, columns=names).rename(index=str))
    else:
        put(group, "m", values, chunks and (chunks, 5))
    return h5ad.matrix(group, "m")


def some_values(dtype, seed=0):
    """Values of a type, with empty rows and columns among them."""
    rng = np.random.default_rng(seed)
    values = rng.integers(-9, 10, (N_ROWS, N_COLUMNS)) * (rng.random((N_ROWS, N_COLUMNS)) < 0.3)
    values[[0, 5, 6, 7, N_ROWS - 1]] = 0
    values[:, [2, N_COLUMNS - 1]] = 0
    return values.astype(dtype)


def some_cells():
    rng = np.random.default_rng(1)
    few = [np.sort(rng.choice(N_ROWS, n, replace=False)) for n in (1, 20, 80)]
    ends = np.array([0, N_ROWS - 1])
    return [*few, ends, np.r_[3:9, 40:77, 79:81], np.arange(N_ROWS), np.arange(0)]


def same_bits(found, expected):
    """Assert that two matrices agree in type, values, order and stored zeros."""
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    if sp.issparse(expected):
        assert found.format == expected.format == "csr"
        for name in ("indptr", "indices", "data"):
            assert getattr(found, name).tolist() == getattr(expected, name).tolist()
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert found.indices.dtype == found.indptr.dtype
    else:
        assert type(found) is np.ndarray and found.flags.c_contiguous
        assert found.tobytes() == expected.tobytes()


def pieces_of(found, n_pieces=None):
    """All rows, of pieces that must follow each other."""
    pieces, end = [], 0
    for start, stop, rows in found.pieces():
        assert start == end and rows.shape == (stop - start, found.shape[1])
        assert rows.dtype == found.dtype
        pieces.append(rows)
        end = stop
    assert end == found.shape[0]
    if n_pieces:
        assert len(pieces) >= n_pieces
    if not sp.issparse(pieces[0]):
        return np.concatenate(pieces)
    return sp.vstack(pieces, format="csr")


ALL_TYPES = ["f2", "f4", "f8", "i1", "u2", "i8", "?", ">f8", ">i4"]
STORED = [
    *(("hdf5", chunks, dtype) for chunks in (None, 7) for dtype in ALL_TYPES),
    *((store, 40, dtype) for store in ("zarr2", "zarr3") for dtype in ("f2", "f4", "?", ">f8")),
]


@pytest.mark.parametrize(("store", "chunks", "dtype"), STORED)
@pytest.mark.parametrize("form", FORMS)
def test_rows_and_pieces_are_the_same_however_stored(
    group, small_reads, store, chunks, dtype, form
):
    values = some_values(dtype)
    found = put_form(group(store), form, values, chunks)
    native = values.astype(np.dtype(dtype).newbyteorder("="))
    if form == "table":
        expected = native.astype(np.float64)
    elif form == "dense":
        expected = native
    else:
        expected = sp.csr_matrix(native.astype("f4") if dtype == "f2" else native)
    for cells in some_cells():
        same_bits(found.rows(cells), expected[cells])
    many = 1 if form == "table" else 2
    same_bits(pieces_of(found, many), expected)


@pytest.mark.parametrize("form", FORMS)
def test_rows_and_pieces_at_the_sizes_in_use(group, form):
    values = some_values("f4")
    found = put_form(group("hdf5"), form, values)
    expected = sp.csr_matrix(values) if form in ("csr", "csc") else values
    expected = values.astype(np.float64) if form == "table" else expected
    for cells in some_cells():
        same_bits(found.rows(cells), expected[cells])
    same_bits(pieces_of(found), expected)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize(
    ("index", "held"), [("i4", 2000), ("i8", 400 * 2**20), ("u1", 2000), ("u8", 2000)]
)
def test_unsorted_and_repeated_entries_are_put_in_order(
    group, small_reads, monkeypatch, store, form, index, held
):
    # As it was before there were passes: the whole matrix put in order, then turned.
    monkeypatch.setattr(h5ad, "_HELD_BYTES", held)
    rng = np.random.default_rng(2)
    n_lines, n_across = (N_ROWS, N_COLUMNS) if form == "csr" else (N_COLUMNS, N_ROWS)
    lengths = rng.integers(0, 40, n_lines) * (rng.random(n_lines) < 0.7)
    indptr = np.concatenate([[0], np.cumsum(lengths)]).astype("i8")
    indices = rng.integers(0, n_across, indptr[-1]).astype(index)
    # Their sum depends on its order, and zeros are among them.
    data = rng.standard_normal(indptr[-1]) * (rng.random(indptr[-1]) < 0.8)
    made = {"csr": sp.csr_matrix, "csc": sp.csc_matrix}[form]
    parts = (data.copy(), indices.astype("i4"), indptr.astype("i4"))
    whole = made(parts, shape=(N_ROWS, N_COLUMNS))
    whole.sum_duplicates()
    expected = whole.tocsr()
    assert expected.nnz < data.size and np.any(expected.data == 0)
    found = put_sparse(group(store), form, data, indices, indptr, whole.shape, chunks=50)
    for cells in some_cells():
        same_bits(found.rows(cells), expected[cells])
    same_bits(pieces_of(found, 2), expected)


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("shape", [(0, 4), (5, 0), (0, 0), (5, 4), (1, 1)])
def test_matrices_without_rows_columns_or_entries_are_read(group, store, form, shape):
    found = put_form(group(store), form, np.zeros(shape))
    n_rows = shape[0]
    whole = pieces_of(found)
    assert whole.shape == shape and sp.issparse(whole) == (form in ("csr", "csc"))
    assert found.rows(np.arange(n_rows)).shape == shape
    assert found.rows(np.arange(n_rows)[:0]).shape == (0, shape[1])
    for rows in (whole, found.rows(np.arange(n_rows))):
        assert (rows.nnz if sp.issparse(rows) else np.count_nonzero(rows)) == 0


@pytest.mark.parametrize("store", STORES)
def test_a_single_column_is_a_matrix_of_one(group, small_reads, store):
    made = group(store)
    put(made, "m", np.arange(900.0), chunks=(7,))
    found = h5ad.matrix(made, "m")
    cells = np.array([0, 1, 5, 150, 199])
    same_bits(found.rows(cells), cells[:, None].astype(float))
    same_bits(pieces_of(found, 3), np.arange(900.0)[:, None])


def test_missing_values_of_a_table_are_nan(group):
    table = pd.DataFrame(
        {
            "a": pd.array([1, None, 3], dtype="Int64"),
            "b": pd.array([True, None, False], dtype="boolean"),
            "c": [True, False, True],
        },
        index=list("xyz"),
    )
    made = group("hdf5")
    ad.io.write_elem(made, "m", table)
    expected = np.array([[1, 1, 1], [np.nan, np.nan, 0], [3, 0, 1]])
    found = h5ad.matrix(made, "m")
    np.testing.assert_array_equal(found.rows(np.arange(3)), expected)
    np.testing.assert_array_equal(found.rows(np.array([1])), expected[[1]])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("cells", [[3, 2], [2, 2], [-1, 4], [5, N_ROWS]])
def test_rows_that_are_not_sorted_distinct_and_there_are_refused(group, form, cells):
    found = put_form(group("hdf5"), form, some_values("f4"))
    with pytest.raises(ValueError, match="not sorted|not there"):
        found.rows(np.array(cells))


@pytest.mark.parametrize("form", ["csr", "dense"])
def test_only_what_holds_wanted_rows_is_read(group, monkeypatch, form):
    monkeypatch.setattr(h5ad, "_GAP_BYTES", 0)
    made = group("hdf5")
    values = np.ones((1000, 10))
    found = put_form(made, form, values, chunks=100)
    read = []
    true_read = h5ad._read_into

    def noted(array, low, high, out):
        read.append((array.name, low, high))
        true_read(array, low, high, out)

    monkeypatch.setattr(h5ad, "_read_into", noted)
    found.rows(np.r_[100:200, 700:705])
    factor = 10 if form == "csr" else 1
    places = [(100 * factor, 200 * factor), (700 * factor, 705 * factor)]
    names = ["/m/data", "/m/indices"] if form == "csr" else ["/m"]
    assert read == [(name, *place) for name in names for place in places]


def test_rows_of_a_small_gap_are_read_together(group, monkeypatch):
    found = put_form(group("hdf5"), "dense", some_values("f8"))
    read = []
    monkeypatch.setattr(h5ad, "_read_into", lambda _a, low, high, _out: read.append((low, high)))
    # 23 columns of 8 bytes: a gap of one row is 184 bytes.
    for gap, expected in ((183, [(0, 2), (3, 4), (9, 10)]), (184, [(0, 4), (9, 10)])):
        read.clear()
        monkeypatch.setattr(h5ad, "_GAP_BYTES", gap)
        found.rows(np.array([0, 1, 3, 9]))
        assert read == expected


# Damage


@contextmanager
def refused(*words):
    with pytest.raises(InputError) as error:
        yield
    message = str(error.value)
    for word in (": m: cannot be read", "-> the file is damaged; copy or download", *words):
        assert word in message, message


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("form", ["csr", "csc"])
@pytest.mark.parametrize("index", ["i4", "i8", "u8"])
@pytest.mark.parametrize("held", [2000, 400 * 2**20])
def test_an_index_out_of_range_is_found(group, small_reads, monkeypatch, store, form, index, held):
    monkeypatch.setattr(h5ad, "_HELD_BYTES", held)
    values = some_values("f4")
    whole = sp.csr_matrix(values) if form == "csr" else sp.csc_matrix(values)
    n_across = N_COLUMNS if form == "csr" else N_ROWS
    bad = [n_across, -1, 2**31 - 1]
    # In fewer bits these would be 3.
    bad = {"i4": bad, "i8": [*bad, 2**32 + 3, -(2**40) + 3], "u8": [n_across, 2**32 + 3]}[index]
    for value in bad:
        indices = whole.indices.astype(index)
        indices[whole.nnz // 2] = value
        found = put_sparse(group(store), form, whole.data, indices, whole.indptr, whole.shape)
        with refused("ind"):
            pieces_of(found)
        with refused("ind"):
            found.rows(np.arange(N_ROWS))


@pytest.mark.parametrize("store", STORES)
@pytest.mark.parametrize("form", ["csr", "csc"])
def test_pointers_that_cannot_be_are_found(group, store, form):
    values = some_values("f4")
    whole = sp.csr_matrix(values) if form == "csr" else sp.csc_matrix(values)
    falling, beyond, late = (whole.indptr.copy() for _ in range(3))
    falling[4] = falling[12]
    beyond[-1] += 1
    late[0] = 1
    for indptr, words in (
        (falling, "indptr does not rise"),
        (late, "indptr does not rise from 0"),
        (beyond, "an indptr that ends at"),
        (whole.indptr[:-1], "indptr has shape"),
        (whole.indptr.astype("f4"), "no whole numbers"),
    ):
        parts = (whole.data, whole.indices, indptr)
        found = put_sparse(group(store), form, *parts, whole.shape)
        with refused(words):
            pieces_of(found)
        with refused(words):
            found.rows(np.array([1]))
    found = put_sparse(
        group(store), form, whole.data[:-1], whole.indices, whole.indptr, whole.shape
    )
    with refused("values"):
        pieces_of(found)


def test_a_column_of_a_table_that_is_too_short_is_found(group):
    made = group("hdf5")
    found = put_form(made, "table", some_values("f4"))
    short = made["m/c3"][:-1]
    del made["m/c3"]
    ad.io.write_elem(made["m"], "c3", short)
    with refused("c3 has 96 rows, not 97"):
        found.rows(np.array([1]))


# Memory


def peak_mb(run):
    tracemalloc.start()
    try:
        run()
        return tracemalloc.get_traced_memory()[1] / 2**20
    finally:
        tracemalloc.stop()


def put_large(group, form):
    """Stored values and indices of 24 MB."""
    rng = np.random.default_rng(3)
    n_lines, n_each, n_across = 2000, 1000, 4000
    gaps = rng.integers(1, 5, (n_lines, n_each), dtype="i4")
    indices = np.minimum(np.cumsum(gaps, axis=1, dtype="i4"), n_across - n_each) - 1
    indices += np.arange(n_each, dtype="i4") * (indices == n_across - n_each - 1)
    indices = np.sort(indices, axis=1).ravel()
    data = rng.random(indices.size)
    indptr = np.arange(n_lines + 1) * n_each
    shape = (n_lines, n_across) if form == "csr" else (n_across, n_lines)
    return put_sparse(group, form, data, indices, indptr, shape)


def test_turning_a_matrix_stored_by_columns_holds_a_bounded_part_of_it(group, monkeypatch, caplog):
    found = put_large(group("hdf5"), "csc")
    whole_mb = 24e6 / 2**20

    def read():
        for _ in found.pieces():
            pass

    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 2**18)
    # Held as a whole it is seen, so the measure can fail.
    assert peak_mb(read) > whole_mb
    assert "passes" not in caplog.text
    monkeypatch.setattr(h5ad, "_HELD_BYTES", 4 * 2**20)
    with caplog.at_level(logging.INFO):
        assert peak_mb(read) < 4 + 2 + 1
    passes = int(np.ceil(whole_mb / 4))
    assert f"m is stored by columns: {passes} passes" in caplog.text


@pytest.mark.parametrize("form", ["csr", "csc"])
def test_all_rows_are_read_without_a_second_copy(group, monkeypatch, form):
    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 2**18)
    found = put_large(group("hdf5"), form)
    cells = np.arange(found.shape[0])
    assert peak_mb(lambda: found.rows(cells)) < 1.1 * 24e6 / 2**20


@pytest.mark.parametrize("store", ["hdf5", "zarr3"])
def test_half_of_the_rows_are_read_with_little_beside_them(group, monkeypatch, store):
    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 2**18)
    found = put_large(group(store), "csr")
    cells = np.arange(0, found.shape[0], 2)
    assert peak_mb(lambda: found.rows(cells)) < 12e6 / 2**20 + (2 if store == "hdf5" else 8)


@pytest.mark.parametrize("store", ["hdf5", "zarr3"])
@pytest.mark.parametrize("form", ["csr", "dense"])
def test_a_large_chunk_is_not_unpacked_for_every_piece(group, monkeypatch, store, form):
    monkeypatch.setattr(h5ad, "_PIECE_BYTES", 200)
    made = group(store)
    values = np.ones((1000, 1))
    if form == "csr":
        found = put_form(made, form, values, chunks=250)
    else:
        put(made, "m", values, chunks=(250, 1))
        found = h5ad.matrix(made, "m")
    monkeypatch.setattr(h5ad, "_LARGE_CHUNK_BYTES", 1000)
    assert len(list(found.pieces())) <= 4
    pieces = pieces_of(found)
    np.testing.assert_array_equal(pieces.toarray() if form == "csr" else pieces, values)
