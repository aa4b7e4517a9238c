"""Units in tables: guide names as one field, and which units an analysis tests."""

import csv

import pandas as pd
import pytest

from condrand.errors import InputError
from condrand.io.tables import write_tsv
from condrand.units import (
    CONTROLS,
    NTC_GROUP,
    NTC_GUIDE,
    TARGET,
    join_guides,
    split_guides,
    units_of_batch,
)

NAMES = [
    ["a"],
    ["a", "b", "c"],
    ["a,b", "c"],
    ['say "hi"', "b"],
    ['"quoted"'],
    ['"', ",", '",'],
    ["with blank ", " before"],
    ["tab\tinside", "b"],
    ["", "b"],
    [""],
    ["NA", "nan", "1"],
    ["caf\N{LATIN SMALL LETTER E WITH ACUTE}", "\N{GREEK SMALL LETTER ALPHA}1"],
    [],
]


@pytest.mark.parametrize("guides", NAMES)
def test_joined_guides_are_split_into_the_same_names(guides):
    assert split_guides(join_guides(guides)) == guides


def test_plain_names_are_joined_by_commas_alone():
    assert join_guides(["a1", "a2"]) == "a1,a2"


def table_of(folder, name, rows):
    path = folder / name
    columns = ["target", "kind", "guides", "n_cells", "batch", "status"]
    write_tsv(pd.DataFrame(rows, columns=columns), path)
    return path


@pytest.mark.parametrize("guides", [names for names in NAMES if names])
def test_guides_survive_a_table_on_disk(tmp_path, guides):
    path = table_of(tmp_path, "t.tsv", [("T", TARGET, join_guides(guides), 3, 0, "kept")])
    assert units_of_batch([path], 0, "all", "none") == [(TARGET, "T", guides)]


@pytest.fixture
def tables(tmp_path):
    """Targets and NTC guides of two batches, and groups."""
    targets = [
        ("A", TARGET, "a1,a2", 5, 0, "kept"),
        ("B", TARGET, "b1", 5, 10, "kept"),
        ("C", TARGET, "c1", 0, 0, "no cell carries its guides"),
        ("n1", TARGET, "d1", 4, 0, "kept"),
        ("n1", NTC_GUIDE, "n1", 4, 0, "kept"),
        ("n2", NTC_GUIDE, "n2", 4, 10, "kept"),
    ]
    groups = [
        ("e0/ntc_0", NTC_GROUP, "n1,n2", 8, 0, "kept"),
        ("e0/ntc_1", NTC_GROUP, "n3,n4", 8, 1, "kept"),
    ]
    return [table_of(tmp_path, "t.tsv", targets), table_of(tmp_path, "g.tsv", groups)]


def test_controls_say_which_kinds_are_tested(tables):
    assert CONTROLS == {
        "none": (),
        "guides": (NTC_GUIDE,),
        "groups": (NTC_GUIDE, NTC_GROUP),
    }
    targets = [(TARGET, "A", ["a1", "a2"]), (TARGET, "C", ["c1"]), (TARGET, "n1", ["d1"])]
    guide, group = (NTC_GUIDE, "n1", ["n1"]), (NTC_GROUP, "e0/ntc_0", ["n1", "n2"])
    assert units_of_batch(tables, 0, "all", "none") == targets
    assert units_of_batch(tables, 0, "all", "guides") == [*targets, guide]
    assert units_of_batch(tables, 0, "all", "groups") == [*targets, guide, group]


def test_wanted_targets_leave_out_other_targets_but_no_control(tables):
    # A target that bears the name of an NTC guide is still a target.
    tested = units_of_batch(tables, 0, ["A", "B"], "guides")
    assert tested == [(TARGET, "A", ["a1", "a2"]), (NTC_GUIDE, "n1", ["n1"])]
    assert units_of_batch(tables, 0, ["n1"], "none") == [(TARGET, "n1", ["d1"])]


def test_a_batch_is_told_by_its_whole_number(tables):
    assert [name for _, name, _ in units_of_batch(tables, 10, "all", "groups")] == ["B", "n2"]
    assert [name for _, name, _ in units_of_batch(tables, 1, "all", "groups")] == ["e0/ntc_1"]
    assert units_of_batch(tables, 2, "all", "groups") == []


def test_an_empty_table_has_no_unit(tmp_path):
    path = table_of(tmp_path, "g.tsv", [])
    with open(path, newline="") as lines:
        assert next(csv.reader(lines, delimiter="\t"))[:2] == ["target", "kind"]
    assert units_of_batch([path], 0, "all", "groups") == []


def test_targets_that_no_guide_has_are_refused_by_name(tables):
    with pytest.raises(InputError) as error:
        units_of_batch(tables, 0, ["A", "a", "Z"], "none")
    assert "targets: 2 have no guide in this screen: 'a', 'Z'" in str(error.value)
    assert "a: did you mean 'A'?" in str(error.value)
