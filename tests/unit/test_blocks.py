"""The outcome of a stored screen, in blocks of features: what is read is what was written."""

import itertools

import h5py
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand.io.blocks import (
    OutcomeWriter,
    block_matrices,
    is_stored,
    open_screen,
    outcome_name,
    read_whole,
    row_sums,
    split_columns,
)
from condrand.io.h5ad import new_anndata, read
from condrand.plan import FEATURES_PER_BLOCK, n_feature_blocks

WIDE = FEATURES_PER_BLOCK
WIDTHS = [1, WIDE - 1, WIDE, WIDE + 1, 2 * WIDE, 2 * WIDE + 3]
DTYPES = ["float32", "float64", "int32", "int64", "uint16", "int8"]
FORMS = {"dense": np.asarray, "sparse": sp.csr_matrix}
KEY = "layers/counts"


def counts_of(n_rows, n_columns, dtype="float32", seed=0):
    """Counts with many zeros; every third row has none else."""
    values = np.random.default_rng(seed).poisson(0.7, (n_rows, n_columns))
    values[::3] = 0
    return values.astype(dtype)


def canonical(matrix):
    """The rows as readers of the user's file give them."""
    if sp.issparse(matrix):
        matrix = sp.csr_matrix(matrix)
        matrix.sum_duplicates()
    return matrix


@pytest.fixture
def store(tmp_path):
    """Write a matrix in pieces that end at some rows; give the path."""
    numbers = itertools.count()

    def run(matrix, ends=(), features=None):
        matrix = canonical(matrix)
        path = tmp_path / f"{next(numbers)}.h5ad"
        cells = pd.Index([f"c{i}" for i in range(matrix.shape[0])], dtype=object)
        with new_anndata(path, cells, pd.Index([])) as out:
            writer = OutcomeWriter(out, KEY, matrix.shape, matrix.dtype, sp.issparse(matrix))
            for start, stop in itertools.pairwise([0, *ends, matrix.shape[0]]):
                writer.append(start, matrix[start:stop], row_sums(matrix[start:stop]))
            writer.finish(features)
        return path

    return run


def known(path, what):
    with open_screen(path) as file:
        found = read(file, f"{what}.{outcome_name(KEY)}")
    return found


def digest_of(path):
    return str(known(path, "uns/digest"))


def whole_of(path):
    with open_screen(path) as file:
        return read_whole(file, KEY)


def dense(matrix):
    return matrix.toarray() if sp.issparse(matrix) else matrix


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_columns", WIDTHS)
def test_what_is_read_is_what_was_written_whatever_the_width(store, form, n_columns):
    given = counts_of(11, n_columns)
    path = store(FORMS[form](given), ends=(4, 5))
    found = whole_of(path)
    assert sp.issparse(found) == (form == "sparse")
    assert found.dtype == given.dtype
    np.testing.assert_array_equal(dense(found), given)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_columns", WIDTHS)
def test_each_block_holds_its_own_features_and_reads_some_rows(store, form, n_columns):
    given = counts_of(11, n_columns)
    rows = np.array([0, 1, 4, 10])
    with open_screen(store(FORMS[form](given), ends=(7,))) as file:
        blocks = block_matrices(file, KEY)
        assert len(blocks) == n_feature_blocks(n_columns)
        for b, block in enumerate(blocks):
            expected = given[:, b * WIDE : (b + 1) * WIDE]
            assert block.shape == expected.shape
            np.testing.assert_array_equal(dense(block.rows(rows)), expected[rows])


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_the_type_of_the_values_stays(store, form, dtype):
    given = counts_of(6, WIDE + 2, dtype)
    found = whole_of(store(FORMS[form](given)))
    assert found.dtype == np.dtype(dtype)
    np.testing.assert_array_equal(dense(found), given)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_columns", [3, WIDE + 1])
def test_a_matrix_of_zeros_and_one_without_rows_are_stored(store, form, n_columns):
    for n_rows in (0, 5):
        path = store(FORMS[form](np.zeros((n_rows, n_columns), np.float32)))
        assert whole_of(path).shape == (n_rows, n_columns)
        assert known(path, "obsm/sums").shape == (n_rows, 1)
        assert known(path, "uns/is_counts")


def test_an_outcome_is_stored_once_it_is_there_and_no_other_is(store):
    with open_screen(store(counts_of(4, 3))) as file:
        assert is_stored(file, KEY)
        for other in ("layers/count", "counts", "X"):
            assert not is_stored(file, other)


def test_features_are_stored_where_they_are_known(store):
    assert known(store(counts_of(4, 2), features=["b", "a"]), "uns/features").tolist() == [
        "b",
        "a",
    ]
    with h5py.File(store(counts_of(4, 2))) as file:
        assert f"features.{outcome_name(KEY)}" not in file["uns"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("dtype", ["float32", "float64", "int32", "uint8", "bool"])
def test_sums_are_those_of_whole_rows_in_double_precision(store, form, dtype):
    random = np.random.default_rng(2)
    given = random.random((9, 3 * WIDE)) * (random.random((9, 3 * WIDE)) < 0.4) * 200
    given = (given > 50) if dtype == "bool" else given.astype(dtype)
    sums = known(store(FORMS[form](given), ends=(2, 3)), "obsm/sums").ravel()
    # The order of the additions is free: 1,500 roundings.
    np.testing.assert_allclose(sums, given.astype(np.float64).sum(axis=1), rtol=1e-13)


@pytest.mark.parametrize("form", FORMS)
def test_sums_of_counts_are_exact_beyond_what_single_precision_holds(store, form):
    given = np.full((2, 5), 2**24 - 1, np.float32)
    sums = known(store(FORMS[form](given)), "obsm/sums").ravel()
    assert sums.tolist() == [5 * (2**24 - 1)] * 2


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize(
    ("value", "expected"),
    [
        (3, True),
        (0, True),
        (2**31 - 2, True),
        (2**31 - 1, False),
        (0.5, False),
        (-1, False),
        (np.nan, False),
        (np.inf, False),
        (1e300, False),
    ],
)
def test_one_value_that_is_no_count_is_seen_wherever_it_is(store, form, value, expected):
    for row, column in ((0, 0), (5, WIDE + 1)):
        given = counts_of(6, WIDE + 2, "float64")
        given[row, column] = value
        path = store(FORMS[form](given), ends=(3,))
        assert bool(known(path, "uns/is_counts")) is expected


# The digest


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("n_columns", [3, WIDE + 1])
def test_digest_and_sums_do_not_depend_on_the_pieces(store, form, n_columns):
    given = FORMS[form](counts_of(12, n_columns) / np.float32(7))
    ways = [(), (1,), (6,), (3, 4, 11), tuple(range(1, 12))]
    paths = [store(given, ends) for ends in ways]
    assert len({digest_of(path) for path in paths}) == 1
    assert len({known(path, "obsm/sums").tobytes() for path in paths}) == 1


@pytest.mark.parametrize("form", FORMS)
def test_the_digest_tells_every_other_content(store, form):
    given = counts_of(6, 4)
    one = given.copy()
    one[1, 2] += 1
    swapped = given[[0, 2, 1, 3, 4, 5]]
    moved = np.roll(given, 1, axis=1)
    others = [
        one,
        swapped,
        moved,
        given.astype("float64"),
        given[:5],
        given[:, :3],
        np.hstack([given, np.zeros((6, 1), np.float32)]),
        np.vstack([given, np.zeros((1, 4), np.float32)]),
    ]
    digests = [digest_of(store(FORMS[form](x))) for x in (given, *others)]
    assert len(set(digests)) == len(digests)


def test_the_digest_tells_where_rows_end_and_dense_from_sparse(store):
    # The same values and columns, cut into rows otherwise.
    parts = (np.ones(3, np.float32), np.array([0, 1, 2], np.int32))
    cut = [sp.csr_matrix((*parts, ends), shape=(2, 3)) for ends in ([0, 1, 3], [0, 2, 3])]
    digests = [digest_of(store(matrix)) for matrix in (*cut, cut[0].toarray())]
    assert len(set(digests)) == 3


# Columns


@pytest.mark.parametrize("width", [1, 2, 5, 6, 7, 100])
@pytest.mark.parametrize("n_columns", [0, 1, 5, 6, 13])
@pytest.mark.parametrize("n_rows", [0, 1, 8])
def test_columns_are_split_as_scipy_slices_them(n_rows, n_columns, width):
    matrix = sp.csr_matrix(counts_of(n_rows, n_columns, seed=5))
    parts = split_columns(matrix, width)
    starts = range(0, max(1, n_columns), width)
    assert len(parts) == len(starts)
    for start, part in zip(starts, parts, strict=True):
        expected = matrix[:, start : start + width]
        assert part.shape == expected.shape
        assert part.dtype == expected.dtype
        assert part.has_canonical_format
        np.testing.assert_array_equal(part.toarray(), expected.toarray())
        np.testing.assert_array_equal(part.indptr, expected.indptr)
        assert part.nnz == expected.nnz


def test_zeros_that_are_stored_stay_when_columns_are_split():
    matrix = sp.csr_matrix(
        (np.array([0.0, 1.0, 0.0]), np.array([0, 1, 3]), np.array([0, 2, 3])), shape=(2, 4)
    )
    assert [part.nnz for part in split_columns(matrix, 2)] == [2, 1]


def test_more_blocks_than_a_byte_counts_are_split():
    matrix = sp.random(5, 700, density=0.2, format="csr", random_state=3)
    parts = split_columns(matrix, 2)
    assert len(parts) == 350
    np.testing.assert_array_equal(sp.hstack(parts).toarray(), matrix.toarray())
