"""The samples of a linear model: every way they come, and every message about bad ones."""

import gzip
import logging

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from condrand.errors import InputError
from condrand.io.samples import Samples, read_samples, write_samples
from condrand.io.tables import read_table
from condrand.samples import load_samples

ROWS = {"by": [], "targets": False, "min_cells": 10}
SETTINGS = {"key": "X", "pseudobulk": ROWS, "exclude": [], "counts": True, "columns": []}
GUIDES = {
    "annotation_columns": [],
    "guide_assignment": "guide_assignment",
    "guide_names": "guide_names",
    "guide2gene": "guide2gene",
    "ntc_labels": ["non-targeting"],
}

COUNTS = "gene,A-1,A-2,B-1\ng1,10,20,30\ng2,0,5,1\ng3,7,0,2\n"
TABLE = "sample,group,batch,age\nB-1,b,1,40.5\nA-2,a,2,\nA-1,a,1,50\n"


@pytest.fixture
def tables(tmp_path):
    """Load a count table and a sample table given as text."""

    def run(text=COUNTS, table=TABLE, annotation=(), **settings) -> Samples:
        (tmp_path / "counts.csv").write_text(text)
        (tmp_path / "samples.csv").write_text(table)
        load_samples(
            tmp_path / "counts.csv",
            tmp_path / "samples.csv",
            {"annotation_columns": list(annotation)},
            SETTINGS | settings,
            tmp_path / "out.h5ad",
        )
        return read_samples(tmp_path / "out.h5ad")

    return run


@pytest.fixture
def stored(tmp_path):
    """Load an AnnData written to a file."""

    def run(adata, zarr=False, screen=GUIDES, **settings) -> Samples:
        path = tmp_path / ("in.zarr" if zarr else "in.h5ad")
        (adata.write_zarr if zarr else adata.write_h5ad)(path)
        load_samples(path, None, screen, SETTINGS | settings, tmp_path / "out.h5ad")
        return read_samples(tmp_path / "out.h5ad")

    return run


def refusal(run, *arguments, **keywords) -> str:
    with pytest.raises(InputError) as error:
        run(*arguments, **keywords)
    return str(error.value)


# Tables


def test_a_count_table_is_matched_with_its_sample_table_by_name(tables):
    made = tables()
    assert list(made.table.index) == ["A-1", "A-2", "B-1"]
    assert made.features == ["g1", "g2", "g3"]
    np.testing.assert_array_equal(made.values, [[10, 20, 30], [0, 5, 1], [7, 0, 2]])
    assert made.values.flags.c_contiguous
    assert made.table["group"].tolist() == ["a", "a", "b"]
    assert list(made.table["group"].cat.categories) == ["a", "b"]
    assert made.table["batch"].dtype == np.int64
    np.testing.assert_array_equal(made.table["age"], [50.0, np.nan, 40.5])
    assert made.words["source"] == "3 features x 3 samples of counts.csv"
    assert made.words["is_counts"] is True


def test_annotation_columns_and_excluded_samples_are_left_out(tables):
    counts = "gene,Chr,Length,A-1,A-2,B-1\ng1,1;1,900,10,20,30\ng2,2,800,0,5,1\n"
    made = tables(counts, annotation=["Chr", "Length"], exclude=["A-2"])
    assert list(made.table.index) == ["A-1", "B-1"]
    np.testing.assert_array_equal(made.values, [[10, 30], [0, 1]])


def test_missing_values_are_kept_where_log_expression_is_wanted(tables):
    made = tables(COUNTS.replace("g2,0,", "g2,NA,").replace("30", "-0.25"), counts=False)
    assert np.isnan(made.values[1, 0])
    assert made.values[0, 2] == -0.25
    assert made.words["is_counts"] is False


def test_estimated_counts_are_taken_with_a_warning(tables, caplog):
    made = tables(COUNTS.replace("30", "30.5").replace("20", "2000"))
    assert made.values[0, 2] == 30.5
    assert "1 values are not whole: they are taken for estimated counts" in caplog.text


def test_counts_taken_as_log_expression_are_warned_of(tables, caplog):
    tables(COUNTS.replace("30", "3000"), counts=False)
    assert "they look like counts" in caplog.text


def test_real_tables_load(data_dir, tmp_path):
    folder = data_dir / "limma"
    paths = folder / "gse60450_counts.csv.gz", folder / "gse60450_targets.csv"
    load_samples(*paths, {"annotation_columns": []}, SETTINGS, tmp_path / "out.h5ad")
    made = read_samples(tmp_path / "out.h5ad")
    assert made.values.shape == (27179, 12)
    assert made.features[0] == "497097"
    assert made.values[0, :3].tolist() == [438.0, 300.0, 65.0]
    assert list(made.table) == ["immunophenotype", "developmental_stage", "group"]


BAD_TABLES = {
    "negative": ({"text": COUNTS.replace("30", "-30")}, ["-30 in sample 'B-1', feature 'g1'"]),
    "missing": ({"text": COUNTS.replace("g2,0", "g2,")}, ["1 values are missing", "'g2'"]),
    "infinite": ({"text": COUNTS.replace("30", "inf")}, ["1 values are infinite", "'B-1'"]),
    "text cell": (
        {"text": COUNTS.replace("30", "thirty")},
        ["1 cells are no numbers", "'thirty' in row 'g1', column 'B-1'"],
    ),
    "text column": (
        {"text": "gene,Chr,A-1,A-2,B-1\ng1,X,1,2,3\n"},
        ["1 columns hold text: 'Chr'", "`annotation_columns: [Chr]`"],
    ),
    "text cell of a sample that is not described": (
        {"text": COUNTS.replace("A-1", "A-3").replace("10", "ten")},
        ["1 samples have no row in samples.csv: 'A-3'"],
    ),
    "numeric annotation": (
        {"text": "gene,Length,A-1,A-2,B-1\ng1,9,1,2,3\n"},
        ["1 samples have no row in samples.csv: 'Length'", "`annotation_columns`"],
    ),
    "no such annotation": ({"annotation": ["a-1"]}, ["no column 'a-1'", "did you mean 'A-1'?"]),
    "no such exclusion": ({"exclude": ["A-3"]}, ["exclude", "'A-3'", "did you mean"]),
    "no such column": ({"columns": ["groups"]}, ["samples.csv", "'groups'", "'group'"]),
    "only in the counts": (
        {"table": TABLE.replace("A-2", "A_2")},
        ["no row in samples.csv: 'A-2'", "A-2: did you mean 'A_2'?", "no column in the count"],
    ),
    "renamed by R": (
        {"text": COUNTS.replace("-", ".")},
        ["R seems to have renamed 'A-1' to 'A.1'", "check.names = FALSE"],
    ),
    "transposed": (
        {"text": "sample,g1,g2\nA-1,1,2\nA-2,3,4\nB-1,5,6\n"},
        ["looks transposed"],
    ),
    "names in another column": (
        {"table": "i,sample,g\n1,A-1,a\n2,A-2,a\n3,B-1,b\n"},
        ["the column 'sample' of samples.csv: make it the first"],
    ),
    "features twice": ({"text": COUNTS.replace("g3", "g1")}, ["more than once: 'g1'"]),
    "samples twice": ({"text": COUNTS.replace("A-2", "A-1")}, ["header", "once: 'A-1'"]),
    "samples twice, described": (
        {"table": TABLE.replace("A-2", "A-1")},
        ["samples.csv: first column", "more than once: 'A-1'"],
    ),
    "feature without a name": (
        {"text": COUNTS.replace("g2", "")},
        ["1 feature names are empty"],
    ),
    "sample without a name": (
        {"text": COUNTS.replace("A-2", " ")},
        ["1 sample names are empty"],
    ),
    "empty library": (
        {"text": COUNTS.replace("10", "0").replace("7", "0")},
        ["1 samples have no counts: 'A-1'", "`exclude: [A-1]`"],
    ),
    "one sample": ({"exclude": ["A-1", "A-2"]}, ["there is one, 'B-1'", "two or more"]),
    "logged": (
        {"text": "gene,A-1,A-2,B-1\ng1,1.5,2.25,3.5\ng2,0,5.1,1\n"},
        ["look log-transformed: 80 %", "largest is 5.1", "`transform: none`"],
    ),
    "ragged": ({"text": COUNTS + "g4,1\n"}, ["counts.csv", "line 5 has 2"]),
    "empty": ({"text": ""}, ["counts.csv", "the file is empty"]),
    "empty table": ({"table": "sample,group\n"}, ["samples.csv", "no rows"]),
}


@pytest.mark.parametrize("name", BAD_TABLES)
def test_a_bad_table_is_refused_with_file_place_value_and_mend(tables, tmp_path, name):
    arguments, words = BAD_TABLES[name]
    text = refusal(tables, **arguments)
    assert str(tmp_path / "counts.csv") in text
    assert [word for word in words if word not in text] == []
    assert text.count("->") >= 1
    assert not (tmp_path / "out.h5ad").exists()


def test_all_problems_are_listed_together(tables):
    text = refusal(
        tables,
        COUNTS.replace("30", "-1").replace("g2", "g1").replace(",5,", ",x,"),
        TABLE + "C-1,c,1,2\n",
        annotation=["Length"],
        exclude=["Z"],
        columns=["colour"],
    )
    assert text.startswith(text.split(":")[0] + ": 7 problems")


def test_a_shifted_r_name_with_a_leading_digit_is_recognized(tables):
    text = refusal(
        tables,
        "g,X1.a,X2.a\ng1,3,4\n",
        "sample,group\n1-a,x\n2-a,y\n",
    )
    assert "R seems to have renamed '1-a' to 'X1.a'" in text


# The reader of tables

SAME = {
    "plain.csv": "g,A,B\nx,1,2\ny,3,4\n",
    "windows.csv": "\ufeffg,A,B\r\nx,1,2\r\ny,3,4\r\n",
    "quoted.csv": '"g","A","B"\n"x",1,2\n"y",3,4\n',
    "spaced.csv": "g, A, B\nx, 1, 2\ny, 3, 4\n",
    "trailing.csv": "g,A,B\nx,1,2,\ny,3,4,\n",
    "spreadsheet.csv": "g,A,B,\nx,1,2,\ny,3,4,\n,,,\n",
    "tabs.tsv": "g\tA\tB\nx\t1\t2\ny\t3\t4\n",
    "r.tab": "A\tB\nx\t1\t2\ny\t3\t4\n",
    "r.txt": '"A" "B"\n"x" 1 2\n"y" 3 4\n',
    "semicolons.txt": "g;A;B\nx;1;2\ny;3;4\n",
    "feature_counts.txt": '# Program:featureCounts; "a" "b"\ng\tA\tB\nx\t1\t2\n\ny\t3\t4\n',
}


@pytest.mark.parametrize("name", SAME)
@pytest.mark.parametrize("zipped", [False, True])
def test_a_table_reads_alike_however_it_is_written(tmp_path, name, zipped):
    path = tmp_path / (name + ".gz" if zipped else name)
    text = SAME[name].encode()
    path.write_bytes(gzip.compress(text) if zipped else text)
    made = read_table(path)
    assert list(made.index) == ["x", "y"]
    assert list(made.columns) == ["A", "B"]
    np.testing.assert_array_equal(made.to_numpy(), [[1, 2], [3, 4]])


def test_names_stay_text_and_columns_may_repeat(tmp_path):
    (tmp_path / "t.csv").write_text("g,A,A,k\nNA,1,2,None\n001,0.1,4,\nnan,3,NA,b\n")
    made = read_table(tmp_path / "t.csv")
    assert list(made.index) == ["NA", "001", "nan"]
    assert list(made.columns) == ["A", "A", "k"]
    assert made.iloc[1, 0] == 0.1
    assert np.isnan(made.iloc[2, 1])
    assert made["k"].fillna("?").tolist() == ["None", "?", "b"]


def test_floats_keep_their_last_bit(tmp_path):
    random = np.random.default_rng(0)
    values = random.random(2000) * 10.0 ** random.integers(-300, 300, 2000)
    text = "".join(f"g{i},{float(v)!r}\n" for i, v in enumerate(values))
    (tmp_path / "t.csv").write_text("g,A\n" + text)
    assert np.array_equal(read_table(tmp_path / "t.csv")["A"], values)


@pytest.mark.parametrize(
    ("name", "contents", "words"),
    [
        ("t.csv", b"", "the file is empty"),
        ("t.csv", b"\n\n", "the file is empty"),
        ("t.csv", b"g,A\n", "a header and no rows"),
        ("t.csv", b"g;A;B\nx;1;2\n", "no commas between its fields, but semicolons"),
        ("t.csv", b"g,A,B\nx,1,2\n\ny,1\nz,1,2,3\n", "line 4 has 2, line 5 has 4"),
        ("t.csv", b"g,A\nx,\x001\n", "line 2 holds a zero byte"),
        ("t.csv", "g,A\nµ,1\n".encode("latin-1"), "no text in UTF-8"),
        ("t.csv", "g,A\nµ,1\n".encode("utf-16"), "no text in UTF-8"),
        ("t.csv", b'g,A\n"x,1\ny,2\n', "line"),
        ("t.csv.gz", b"g,A\nx,1\n", "not gzipped"),
        ("t.csv.gz", gzip.compress(b"g,A\nx,1\n" * 100)[:30], "truncated or damaged"),
    ],
)
def test_a_file_that_is_no_table_is_refused(tmp_path, name, contents, words):
    (tmp_path / name).write_bytes(contents)
    text = refusal(read_table, tmp_path / name)
    assert str(tmp_path / name) in text
    assert words in text


def test_a_table_that_is_not_there_is_refused(tmp_path):
    assert "there is no such file" in refusal(read_table, tmp_path / "none.csv")


# AnnData whose rows are samples


def bulk(kind=np.asarray, n=150, n_features=11):
    random = np.random.default_rng(0)
    obs = pd.DataFrame(
        {
            "group": pd.Categorical(
                random.choice(["treated", "control"], n), categories=["treated", "control", "x"]
            ),
            "text": random.choice(["v", "u"], n),
            "number": np.arange(n),
            "flag": np.arange(n) % 2 == 0,
        },
        index=[f"s{i}" for i in range(n)],
    )
    counts = random.poisson(3, (n, n_features)).astype(float)
    return ad.AnnData(kind(counts), obs, pd.DataFrame(index=[f"g{j}" for j in range(n_features)]))


@pytest.mark.parametrize("kind", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("zarr", [False, True])
def test_rows_of_a_file_are_samples_with_its_obs(stored, kind, zarr):
    adata = bulk(kind)
    made = stored(adata, zarr=zarr, exclude=["s3", "s149"], columns=["group"])
    kept = ~adata.obs_names.isin(["s3", "s149"])
    dense = adata.X if kind is np.asarray else adata.X.toarray()
    np.testing.assert_array_equal(made.values, dense[kept].T)
    assert list(made.table.index) == list(adata.obs_names[kept])
    assert list(made.table["group"].cat.categories) == ["treated", "control"]
    assert list(made.table["text"].cat.categories) == ["u", "v"]
    assert made.table["number"].dtype == np.int64
    assert made.table["flag"].dtype == bool


def test_a_layer_and_a_table_of_programs_can_be_taken(stored):
    adata = bulk()
    adata.layers["half"] = adata.X / 2
    adata.obsm["usage"] = pd.DataFrame(adata.X[:, :2], adata.obs_names, ["p", "q"])
    assert stored(adata, key="half", counts=False).values[0, 0] == adata.X[0, 0] / 2
    assert stored(adata, key="usage").features == ["p", "q"]


def test_samples_do_not_depend_on_how_they_are_stored(stored):
    digests = {
        stored(bulk(kind), zarr=zarr).words["digest"]
        for kind, zarr in ((np.asarray, False), (sp.csr_matrix, False))
    }
    assert len(digests) == 1


def test_bad_rows_of_a_file_are_refused_all_at_once(stored):
    adata = bulk()
    adata.X[2, 3] = -1
    adata.X[4, 5] = np.nan
    adata.obs_names = ["s0", "s0", *adata.obs_names[2:]]
    adata.var_names = ["g0", "g0", *adata.var_names[2:]]
    text = refusal(stored, adata, exclude=["S9"], columns=["grup"])
    for words in (
        "-1 in sample 's2', feature 'g3'",
        "nan in sample 's4', feature 'g5'",
        "1 sample names occur more than once: 's0'",
        "1 feature names occur more than once: 'g0'",
        "there is no sample 'S9'",
        "did you mean 'group'?",
        "6 problems",
    ):
        assert words in text


def test_a_file_without_the_matrix_or_with_log_values_is_refused(stored):
    adata = bulk()
    assert "there is no such key" in refusal(stored, adata, key="countz")
    adata.X = np.log2(adata.X + 0.3)
    text = refusal(stored, adata)
    assert "`transform: none`" in text
    adata.X = np.abs(adata.X)
    assert "look log-transformed" in refusal(stored, adata)
    assert "there are none" in refusal(stored, bulk()[:, :0].copy())


# Cells


def screen(seed=0):
    """Cells of 2 donors with guides of A and B and two NTC guides; some carry none or several."""
    random = np.random.default_rng(seed)
    n = 400
    names = ["a1", "a2", "b1", "ntc1", "ntc2"]
    carried = np.zeros((n, 5), np.int8)
    carried[np.arange(n), random.integers(0, 5, n)] = 1
    carried[:10] = 0
    carried[10:20, [0, 2]] = 1
    carried[20:30] = [1, 1, 0, 0, 0]
    carried[30:40] = [0, 0, 0, 1, 1]
    adata = ad.AnnData(
        sp.csr_matrix(random.poisson(1.0, (n, 6)).astype(np.float32)),
        pd.DataFrame(
            {"donor": random.choice(["d1", "d2"], n), "lane": "L1"},
            index=[f"c{i}" for i in range(n)],
        ),
        pd.DataFrame(index=[f"g{j}" for j in range(6)]),
    )
    adata.obsm["guide_assignment"] = sp.csr_matrix(carried)
    adata.uns["guide_names"] = np.array(names, object)
    genes = ["A", "A", "B", "non-targeting", "non-targeting"]
    adata.uns["guide2gene"] = dict(zip(names, genes, strict=True))
    return adata


def test_cells_that_were_meant_to_be_summed_are_refused_before_they_are_read(stored, monkeypatch):
    monkeypatch.setattr("condrand.inputs.samples._LARGEST", 100)
    cells = ad.AnnData(sp.csr_matrix(np.ones((5, 4), np.float32)))
    message = refusal(stored, cells)
    assert "has 5 rows and 4 columns" in message and "pseudobulk: {by:" in message


def test_cells_are_summed_by_donor_and_target(stored, caplog):
    caplog.set_level(logging.INFO)
    adata = screen()
    made = stored(adata, pseudobulk={"by": ["donor"], "targets": True, "min_cells": 5})
    assert list(made.table.index) == [
        *("d1.NTC", "d1.A", "d1.B"),
        *("d2.NTC", "d2.A", "d2.B"),
    ]
    assert list(made.table["target"].cat.categories) == ["NTC", "A", "B"]
    assert made.table["lane"].tolist() == ["L1"] * 6
    carried, X = adata.obsm["guide_assignment"].toarray(), adata.X.toarray()
    has = {
        "A": carried[:, :2].any(axis=1),
        "B": carried[:, 2] > 0,
        "NTC": carried[:, 3:].any(axis=1),
    }
    several = sum(h.astype(int) for h in has.values()) > 1
    n_cells = 0
    for j, name in enumerate(made.table.index):
        donor, target = name.split(".")
        own = has[target] & ~several & (adata.obs["donor"] == donor).to_numpy()
        assert made.table["n_cells"].iloc[j] == own.sum()
        np.testing.assert_array_equal(made.values[:, j], X[own].astype(float).sum(axis=0))
        n_cells += own.sum()
    assert made.words["source"] == f"6 features x 6 samples of in.h5ad, sums of {n_cells} cells"
    alone = (carried.sum(axis=1) == 0).sum()
    assert f"{alone} cells carry no guide, {several.sum()} guides of several" in caplog.text


def test_targets_alone_make_samples(stored):
    made = stored(screen(), pseudobulk={"by": [], "targets": True, "min_cells": 5})
    assert list(made.table.index) == ["NTC", "A", "B"]


def test_small_and_excluded_samples_are_left_out(stored, caplog):
    adata = screen()
    adata.obs.iloc[:3, 0] = "few"
    by = {"by": ["donor"], "targets": False, "min_cells": 5}
    adata.obs["third"] = np.arange(adata.n_obs) % 3
    made = stored(
        adata,
        pseudobulk=by | {"by": ["third", "donor"]},
        exclude=["0.d1", "0.few"],
        columns=["donor"],
    )
    assert list(made.table.index) == ["0.d2", "1.d1", "1.d2", "2.d1", "2.d2"]
    assert "3 samples of fewer than 5 cells are left out: '0.few' (1)" in caplog.text
    assert list(made.table["donor"].cat.categories) == ["d1", "d2"]


def test_the_stage_sums_as_the_notebook_does(data_dir, tmp_path):
    from condrand import pseudobulk

    path = data_dir / "kang_muscat.h5ad"
    by = {"by": ["donor", "condition"], "targets": False, "min_cells": 10}
    load_samples(path, None, {}, SETTINGS | {"pseudobulk": by}, tmp_path / "out.h5ad")
    made, expected = read_samples(tmp_path / "out.h5ad"), pseudobulk(ad.read_h5ad(path), by["by"])
    assert np.array_equal(made.values, expected.X.T)
    pd.testing.assert_frame_equal(made.table, expected.obs)


BAD_CELLS = {
    "columns": (
        {"by": ["doner", "lan"]},
        {},
        ["2 problems", "'donor'?", "'lane'?", "`pseudobulk.by`"],
    ),
    "too few": ({"by": ["donor"], "min_cells": 999}, {}, ["no sample has 999 cells", "'d"]),
    "excluded": ({"by": ["donor"]}, {"exclude": ["D1"]}, ["no sample 'D1'", "'d1'?"]),
    "one": ({"by": ["lane"]}, {}, ["there is one, 'L1'"]),
    "colour": ({"by": ["donor"]}, {"columns": ["sex"]}, ["no column 'sex'", "n_cells"]),
    "both": ({"by": ["donor", "target"], "targets": True}, {}, ["`targets: true` makes one"]),
}


@pytest.mark.parametrize("name", BAD_CELLS)
def test_cells_that_make_no_samples_are_refused(stored, name):
    changed, settings, words = BAD_CELLS[name]
    text = refusal(stored, screen(), pseudobulk=ROWS | changed, **settings)
    assert [word for word in words if word not in text] == []


def test_bad_values_of_cells_are_named(stored):
    adata = screen()
    adata.X = adata.X.toarray()
    adata.X[7, 2], adata.X[8, 3] = -2, np.nan
    text = refusal(stored, adata, pseudobulk=ROWS | {"by": ["donor"]})
    assert "-2 in cell 'c7', feature 'g2'" in text
    assert "nan in cell 'c8', feature 'g3'" in text
    adata.X = np.log1p(np.abs(np.nan_to_num(adata.X)))
    text = refusal(stored, adata, pseudobulk=ROWS | {"by": ["donor"]})
    assert "look log-transformed" in text
    assert "`outcome.key`" in text


def test_a_target_of_the_name_of_ntc_cells_is_refused(stored):
    adata = screen()
    adata.uns["guide2gene"]["b1"] = "NTC"
    text = refusal(stored, adata, pseudobulk=ROWS | {"targets": True})
    assert "add it to `ntc_labels`" in text


# The file


def test_samples_come_back_as_they_were_written(tmp_path):
    random = np.random.default_rng(0)
    values = random.random((70, 130))
    values[3, 4] = np.nan
    table = pd.DataFrame(
        {
            "b": pd.Categorical(["y", "x"] * 65, categories=["y", "x"]),
            "a": np.arange(130),
            "m": pd.Categorical([None, "x"] * 65),
            "f": np.arange(130) / 7,
            "q": np.arange(130) % 3 == 0,
        },
        index=[f"s{i}" for i in range(130)],
    )
    arrays = {
        "weights": random.random((70, 130)),
        "design": random.random((130, 2)),
        "coefficients": np.array(["ä", "b"], object),
        "nothing": np.zeros(0),
        "no_words": np.zeros(0, object),
        "kept": np.array([True, False]),
    }
    words = {"source": "3 µ", "span": 0.5, "n_before": 7, "is_counts": False}
    given = Samples(values, [f"g{i}" for i in range(70)], table, arrays, words)
    write_samples(tmp_path / "a.h5ad", given)
    made = read_samples(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(made.values, values)
    pd.testing.assert_frame_equal(made.table, table)
    assert made.features == given.features
    assert {**words, "digest": made.words["digest"]} == made.words
    for name, array in arrays.items():
        np.testing.assert_array_equal(made.arrays[name], array)
    some = read_samples(tmp_path / "a.h5ad", slice(60, 90))
    np.testing.assert_array_equal(some.values, values[60:])
    np.testing.assert_array_equal(some.arrays["weights"], arrays["weights"][60:])
    np.testing.assert_array_equal(some.arrays["design"], arrays["design"])
    assert some.features == given.features[60:]
    opened = ad.read_h5ad(tmp_path / "a.h5ad")
    np.testing.assert_array_equal(opened.X, values.T)
    np.testing.assert_array_equal(opened.layers["weights"], arrays["weights"].T)
    pd.testing.assert_frame_equal(opened.obs, table)
    write_samples(tmp_path / "b.h5ad", made)
    assert (tmp_path / "a.h5ad").read_bytes() == (tmp_path / "b.h5ad").read_bytes()


def test_the_digest_is_of_everything(tmp_path):
    def digest(**changes):
        table = pd.DataFrame({"g": pd.Categorical(["x", "y"])}, index=["s", "t"])
        base = {
            "values": np.array([[1.0, 2.0]]),
            "features": ["f"],
            "table": table,
            "arrays": {"v": np.ones(2)},
            "words": {"w": 1},
        }
        write_samples(tmp_path / "x.h5ad", Samples(**(base | changes)))
        return read_samples(tmp_path / "x.h5ad").words["digest"]

    table = pd.DataFrame({"g": pd.Categorical(["y", "x"])}, index=["s", "t"])
    others = [
        digest(values=np.array([[1.0, 3.0]])),
        digest(features=["h"]),
        digest(table=table),
        digest(arrays={"v": np.zeros(2)}),
        digest(words={"w": 2}),
    ]
    assert digest() == digest(words={"w": 1, "digest": "old"})
    assert len({digest(), *others}) == 6


def test_values_that_do_not_fit_their_names_are_not_written(tmp_path):
    table = pd.DataFrame(index=["s", "t"])
    with pytest.raises(ValueError, match="the names say"):
        write_samples(tmp_path / "x.h5ad", Samples(np.zeros((2, 1)), ["f"], table))


def test_an_array_and_a_word_of_one_name_are_not_written(tmp_path):
    table = pd.DataFrame(index=["a", "b"])
    made = Samples(np.ones((1, 2)), ["g"], table, {"design": np.ones(2)}, {"design": "~ 1"})
    with pytest.raises(ValueError, match="design"):
        write_samples(tmp_path / "x.h5ad", made)
