"""Pairs of genes in the package, and pairs read from files and tables of all kinds."""

from __future__ import annotations

import gzip
import logging
import warnings
from importlib import resources

import numpy as np
import pandas as pd
import pytest

import perturbia as pb
from perturbia.errors import LabelError

DATA = resources.files("perturbia.datasets") / "data"
ROWS = [("STAT1", "JAK2"), ("JAK2", "STAT1"), ("MYC", "MYC"), ("MAX", "MYC"), ("NA", "nan")]
PAIRS = [["JAK2", "STAT1"], ["MAX", "MYC"], ["NA", "nan"]]


def pairs_of(table: pd.DataFrame) -> list[list[str]]:
    assert list(table.columns) == ["entity1", "entity2"]
    return table.to_numpy().tolist()


def pairs_by_hand(rows: list[tuple[str, str]]) -> list[list[str]]:
    """The same with sets."""
    return sorted(sorted(pair) for pair in {frozenset(row) for row in rows} if len(pair) == 2)


def test_reactome_is_what_the_note_says():
    table = pb.datasets.reactome_pairs()
    pairs = pairs_of(table)
    assert len(pairs) == 18_565
    assert pairs == pairs_by_hand([tuple(pair) for pair in pairs])
    partners = pd.Series(table.to_numpy().ravel()).value_counts()
    assert (len(partners), partners.index[0], partners.iloc[0], partners.median()) == (4509, "GRB2", 166, 4)
    assert not table.isna().to_numpy().any()
    for known in (["JAK2", "STAT1"], ["IFNGR1", "IFNGR2"], ["MAX", "MYC"]):
        assert known in pairs


def test_reactome_is_new_each_time():
    table = pb.datasets.reactome_pairs()
    table.iloc[:] = "changed"
    assert pb.datasets.reactome_pairs()["entity1"].nunique() > 1000


def test_reactome_file_has_no_date_and_a_note_with_its_terms():
    packed = (DATA / "reactome_pairs.csv.gz").read_bytes()
    assert packed[4:8] == bytes(4)  # the date in the head of a gzip file
    assert len(packed) < 100_000
    lines = gzip.decompress(packed).decode("ascii").splitlines()
    assert lines[0] == "entity1,entity2"
    note = (DATA / "reactome_pairs.md").read_text(encoding="utf-8")
    assert "CC0 1.0" in note
    assert "10.1093/nar/gkab1028" in note
    assert "18,565" in note


def test_reading_the_package_file_again_changes_nothing(tmp_path):
    table = pb.datasets.reactome_pairs()
    shuffled = table.sample(frac=1, random_state=0)[["entity2", "entity1"]].set_axis(table.columns, axis=1)
    pd.concat([shuffled, table.head(7)]).to_csv(tmp_path / "pairs.tsv.gz", sep="\t", index=False)
    again = pb.datasets.read_relationships(tmp_path / "pairs.tsv.gz")
    pd.testing.assert_frame_equal(again, table)
    assert again.attrs == {"n_rows": 18_572, "n_missing": 0, "n_self": 0, "n_duplicates": 7}


def test_matches_sets_of_pairs():
    rng = np.random.default_rng(0)
    rows = [tuple(f"G{i}" for i in pair) for pair in rng.integers(12, size=(200, 2))]
    table = pb.datasets.read_relationships(pd.DataFrame(rows, columns=["source", "target"]))
    assert pairs_of(table) == pairs_by_hand(rows)
    n_self = sum(a == b for a, b in rows)
    assert table.attrs["n_self"] == n_self
    assert table.attrs["n_duplicates"] == 200 - n_self - len(table)


@pytest.mark.parametrize(
    ("name", "sep"), [("a.csv", ","), ("a.tsv", "\t"), ("a.txt", ","), ("a.txt", "  "), ("a.csv.gz", ";")]
)
@pytest.mark.parametrize("header", [True, False])
def test_files_of_all_kinds(tmp_path, name, sep, header):
    lines = [sep.join(row) for row in [("entity1", "entity2")] * header + ROWS]
    content = ("\ufeff" + "\r\n".join(lines) + "\n").encode()  # as a spreadsheet writes it
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    table = pb.datasets.read_relationships(tmp_path / name, header=header)
    assert pairs_of(table) == PAIRS
    assert table.attrs == {"n_rows": 5, "n_missing": 0, "n_self": 1, "n_duplicates": 1}
    assert (
        pairs_of(pb.datasets.read_relationships(str(tmp_path / name), header=header, sep=sep.replace("  ", r"\s+")))
        == PAIRS
    )


@pytest.mark.parametrize(
    "columns",
    [
        ("source", "target"),
        ("source_genesymbol", "target_genesymbol"),
        ("ENTITYA", "ENTITYB"),
        ("Official Symbol Interactor A", "Official Symbol Interactor B"),
        ("preferredName_A", "preferredName_B"),
        ("protein1", "protein2"),
    ],
)
def test_columns_of_databases_are_known_among_others(columns):
    frame = pd.DataFrame(ROWS, columns=list(columns), index=list("abcde"))
    frame.insert(0, "weight", 1.0)
    frame["references"] = "x"
    assert pairs_of(pb.datasets.read_relationships(frame)) == PAIRS


def test_symbols_go_before_accessions():
    frame = pd.DataFrame(ROWS, columns=["source_genesymbol", "target_genesymbol"])
    frame.insert(0, "source", "P1")
    frame.insert(1, "target", "P2")
    assert pairs_of(pb.datasets.read_relationships(frame)) == PAIRS
    assert pairs_of(pb.datasets.read_relationships(frame, columns=("target", "source"))) == [["P1", "P2"]]


def test_blanks_categories_and_numbers():
    frame = pd.DataFrame({"a": pd.Categorical([" X ", "Y", "X"]), "b": ["Y", "X ", "Z"]})
    assert pairs_of(pb.datasets.read_relationships(frame)) == [["X", "Y"], ["X", "Z"]]
    assert pairs_of(pb.datasets.read_relationships(pd.DataFrame({"a": [2, 10], "b": [10, 7]}))) == [
        ["10", "2"],
        ["10", "7"],
    ]


def test_rows_without_a_name_are_left_out_and_said(caplog):
    frame = pd.DataFrame({"source": ["A", None, "B", " "], "target": ["B", "C", np.nan, "C"]})
    with caplog.at_level(logging.WARNING, logger="perturbia.datasets"):
        table = pb.datasets.read_relationships(frame)
    assert pairs_of(table) == [["A", "B"]]
    assert table.attrs["n_missing"] == 3
    assert "3 of 4 rows lack a name" in caplog.text


def test_input_is_not_changed():
    frame = pd.DataFrame(ROWS, columns=["source", "target"])
    before = frame.copy()
    pb.datasets.read_relationships(frame)
    pd.testing.assert_frame_equal(frame, before)


FRAME = pd.DataFrame(ROWS, columns=["source", "target"])


@pytest.mark.parametrize(
    ("source", "options", "error", "match"),
    [
        (
            "no_such_file.csv",
            {},
            FileNotFoundError,
            "source: expected a DataFrame or the path of a file.*no_such_file.csv",
        ),
        (
            FRAME,
            {"columns": ("source", "aim")},
            LabelError,
            "columns: expected columns that DataFrame has once, got 'aim'",
        ),
        (
            FRAME,
            {"columns": "source"},
            LabelError,
            "expected two different columns, got 'source'; columns of DataFrame are",
        ),
        (FRAME, {"columns": ("source", "source")}, LabelError, "expected two different columns"),
        (
            FRAME.assign(x=1).set_axis(["a", "b", "c"], axis=1),
            {},
            LabelError,
            "expected two columns.*got 'a', 'b', 'c'",
        ),
        (FRAME[["source"]], {}, LabelError, "expected two columns.*got 'source'"),
        (FRAME.set_axis(["MYC", "MAX"], axis=1), {}, LabelError, "header: expected names of columns.*header=False"),
        (FRAME.set_axis(["a", "a"], axis=1), {}, LabelError, "columns that DataFrame has once, got 'a'"),
        (FRAME.iloc[2:3], {}, ValueError, "got none in 1 rows: 0 lack a name, 1 pair a name with itself"),
        (FRAME.iloc[:0], {}, ValueError, "got none in 0 rows"),
        (5, {}, TypeError, "source: expected one database of pairs, got int. Pass the path"),
        ({"CORUM": FRAME}, {}, TypeError, "source: expected one database of pairs, got dict"),
        (["MYC", "MAX"], {}, TypeError, "source: expected pairs of two names, got 'MYC' among 2"),
        ([("MYC", "MAX"), ("A", "B", 1.0)], {}, TypeError, r"got \('A', 'B', 1.0\) among 2"),
        ([], {}, ValueError, "got none in 0 rows"),
    ],
)
def test_bad_input(source, options, error, match):
    with pytest.raises(error, match=match):
        pb.datasets.read_relationships(source, **options)


@pytest.mark.parametrize(
    ("content", "options", "error", "match"),
    [
        ("", {}, ValueError, "got an empty line in pairs.csv"),
        ("MYC,MAX\nMAX,JUN\n", {}, LabelError, "header: .*first line of pairs.csv, got 'MAX'"),
        ("a,b,c\nMYC,MAX,1\n", {}, LabelError, "in pairs.csv, got 'a', 'b', 'c'"),
        ("a,b\nMYC,MAX\n", {"sep": "\t"}, LabelError, "got 'a,b'.*sep="),
        ("source,target\n", {}, ValueError, "got none in 0 rows"),
        ("# a comment\n", {}, ValueError, "got an empty line in pairs.csv"),
        (
            "a,b\nX,Y\nX,Y,Z\n",
            {},
            ValueError,
            "sep: expected lines of as many columns as the first of pairs.csv.*line 3",
        ),
    ],
)
def test_bad_files(tmp_path, content, options, error, match):
    (tmp_path / "pairs.csv").write_text(content)
    with pytest.raises(error, match=match):
        pb.datasets.read_relationships(tmp_path / "pairs.csv", **options)


def test_the_first_line_is_names_when_columns_say_so(tmp_path):
    (tmp_path / "pairs.csv").write_text("MYC,MAX\nMAX,JUN\n")
    assert pairs_of(pb.datasets.read_relationships(tmp_path / "pairs.csv", columns=("MYC", "MAX"))) == [["JUN", "MAX"]]
    assert pairs_of(pb.datasets.read_relationships(tmp_path / "pairs.csv", header=False)) == [
        ["JUN", "MAX"],
        ["MAX", "MYC"],
    ]


@pytest.mark.parametrize("dtype", [float, object])
def test_whole_numbers_stay_whole_where_gaps_made_them_real(dtype):
    frame = pd.DataFrame({"a": [1, 2, np.nan], "b": [10, 1e15, 3]}, dtype=dtype)
    table = pb.datasets.read_relationships(frame)
    assert pairs_of(table) == [["1", "10"], ["1000000000000000", "2"]]
    assert table.attrs["n_missing"] == 1
    assert pairs_of(pb.datasets.read_relationships(pd.DataFrame({"a": [1.5], "b": [2.0]}))) == [["1.5", "2"]]


def test_a_first_pair_that_may_be_lost_is_warned_of(tmp_path):
    (tmp_path / "pairs.csv").write_text("MYC,MAX\nJUN,FOS\n")
    with pytest.warns(RuntimeWarning, match="header: the first line of pairs.csv, 'MYC', 'MAX', was read as names"):
        assert pairs_of(pb.datasets.read_relationships(tmp_path / "pairs.csv")) == [["FOS", "JUN"]]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert len(pb.datasets.read_relationships(tmp_path / "pairs.csv", header=False)) == 2
        assert len(pb.datasets.read_relationships(tmp_path / "pairs.csv", columns=("MYC", "MAX"))) == 1
        pb.datasets.read_relationships(pd.DataFrame({"a": ["JUN"], "b": ["FOS"]}))  # names that a user gave


@pytest.mark.parametrize("name", ["pairs.tsv", "pairs.tsv.gz"])
@pytest.mark.parametrize("header", [True, False])
def test_lines_above_the_header_may_be_comments(tmp_path, name, header):
    lines = ['# of 2024, "core" set', "#", *["entity1\tentity2"] * header, *map("\t".join, ROWS)]
    content = "\n".join(lines).encode()
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
    table = pb.datasets.read_relationships(tmp_path / name, header=header)
    assert pairs_of(table) == PAIRS
    assert table.attrs["n_rows"] == 5


@pytest.mark.parametrize(
    ("first", "columns"),
    [
        ("#BioGRID ID\tOfficial Symbol Interactor A\tOfficial Symbol Interactor B", None),
        ("#n\tnode1\tnode2", None),
        ("#n\tone\tother", ("one", "other")),
    ],
)
def test_a_header_may_start_as_a_comment(tmp_path, first, columns):
    lines = ["# version 3", first, *("1\t" + "\t".join(row) for row in ROWS)]
    (tmp_path / "a.tsv").write_text("\n".join(lines))
    assert pairs_of(pb.datasets.read_relationships(tmp_path / "a.tsv", columns=columns)) == PAIRS


@pytest.mark.parametrize("columns", [None, ("node1", "node2"), ("#node1", "node2")])
def test_the_mark_is_no_part_of_a_name(tmp_path, columns):
    (tmp_path / "a.tsv").write_text("\n".join(["#node1\tnode2", *map("\t".join, ROWS)]))
    assert pairs_of(pb.datasets.read_relationships(tmp_path / "a.tsv", columns=columns)) == PAIRS


def test_pairs_may_be_given_as_they_are():
    for source in (ROWS, set(ROWS), iter(ROWS), np.array(ROWS)):
        assert pairs_of(pb.datasets.read_relationships(source)) == PAIRS
    assert pairs_of(pb.datasets.read_relationships([(1, 2), (None, 3)])) == [["1", "2"]]
