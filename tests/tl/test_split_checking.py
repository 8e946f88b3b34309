"""Checks of a split: each way to leak is found and named, and members of test perturbations are counted."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbia.errors import ControlError, LabelError, LeakageError, SplitError
from perturbia.tl import check_split, seen_members, split

LABELS = ["control", "A", "B", "C", "D@2", "A+B", "B+A", "B+C", "A@2+C", "A+B+C"]
AXES = ["combination", "perturbation", "context", "dose"]


def screen(parts: dict[str, list[str]], contexts: dict[str, list[str]] | None = None) -> ad.AnnData:
    """One cell for each entry: label → parts."""
    rows = [(label, part) for label, ones in parts.items() for part in ones]
    obs = pd.DataFrame(rows, columns=["perturbation", "pb_split"], index=[f"c{i}" for i in range(len(rows))])
    if contexts is not None:
        obs["line"] = [line for ones in contexts.values() for line in ones]
    return ad.AnnData(np.ones((len(obs), 1), np.float32), obs=obs)


def clean() -> ad.AnnData:
    return screen({"control": ["train", "test"], "A": ["train"], "B": ["valid"], "A+B": ["test", "test"]})


# leaks -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("axis", "parts", "leak"),
    [
        ("combination", {"A+B": ["test"], "B+A": ["train"]}, "'A\\+B'"),
        ("combination", {"A+B": ["test", "valid"]}, "'A\\+B'"),
        ("combination", {"A@2+B": ["test"], "A+B": ["train"]}, "'A\\+B'"),
        ("combination", {"A": ["test", "train"]}, "'A'"),
        ("perturbation", {"A+B": ["test"], "A": ["train"], "B": ["train"]}, "'A\\+B'"),
        ("perturbation", {"A+B": ["test"], "A+C": ["train"], "B": ["valid"]}, "'A\\+B'"),
        ("perturbation", {"A": ["test"], "A@2+C": ["train"]}, "'A'"),
        ("dose", {"A@2": ["test"], "A@2+B": ["train"]}, "'A@2'"),
        ("dose", {"A@2+B": ["test"], "A@2": ["train"], "B": ["train"]}, "'A@2\\+B'"),
    ],
)
def test_a_leak_is_named(axis, parts, leak):
    adata = screen({"control": ["train", "test"], "Z": ["train"], **parts})
    with pytest.raises(LeakageError, match=f"1 that leak: {leak}"):
        check_split(adata, axis=axis)


@pytest.mark.parametrize(
    ("axis", "parts", "n"),
    [
        ("combination", {"A+B": ["test"], "A": ["train"], "B": ["train"]}, 1),
        ("combination", {"A+B": ["test"], "A+B+C": ["train"]}, 1),
        ("perturbation", {"A+B": ["test"], "A": ["test"], "B": ["train"]}, 2),
        ("dose", {"A@2": ["test"], "A": ["train"], "A@4+B": ["test"]}, 2),
        ("random", {"A": ["train", "test"]}, 1),
    ],
)
def test_a_clean_split_passes(axis, parts, n):
    adata = screen({"control": ["train", "test"], "Z": ["train"], **parts})
    guarantee = check_split(adata, axis=axis)
    assert guarantee["n_test_perturbations"] == n
    assert guarantee["n_test_controls"] == 1
    assert guarantee["checked"] is True


def test_pairs_of_perturbation_and_context():
    parts = {"control": ["train", "train"], "A": ["train", "test"]}
    contexts = {"control": ["K562", "RPE1"], "A": ["K562", "RPE1"]}
    adata = screen(parts, contexts)
    assert check_split(adata, axis="context", context_key="line")["n_unseen_everywhere"] == 0
    with pytest.raises(LeakageError, match="'A'"):
        check_split(adata, axis="combination")
    adata.obs["line"] = "K562"
    with pytest.raises(LeakageError, match="'A in K562'"):
        check_split(adata, axis="context", context_key="line")


def test_the_first_five_of_many_are_named():
    parts = {f"T{i}": ["train", "test"] for i in range(9)}
    with pytest.raises(LeakageError, match=r"9 that leak: 'T0', 'T1', 'T2', 'T3', 'T4' and 4 more"):
        check_split(screen({"control": ["train"], **parts}), axis="combination")


def brute_force(axis: str, labels: list[str], lines: list[str], parts: list[str]) -> set[int]:
    """Test cells of which nothing is new, compared with every other cell one by one."""

    def units(label: str, line: str) -> set:
        tokens = [(token.split("@") + ["1"])[:2] for token in label.split("+")]
        names = frozenset(name for name, _ in tokens)
        return {
            "combination": {names},
            "perturbation": names,
            "context": {(names, line)},
            "dose": set(map(tuple, tokens)),
        }[axis]

    cells = [
        (i, units(a, b), c) for i, (a, b, c) in enumerate(zip(labels, lines, parts, strict=True)) if a != "control"
    ]
    seen = set().union(*(one for _, one, part in cells if part in {"train", "valid"}))
    return {i for i, one, part in cells if part == "test" and one <= seen}


@pytest.mark.parametrize("axis", AXES)
@given(
    rows=st.lists(
        st.tuples(
            st.sampled_from(LABELS[1:]), st.sampled_from("KR"), st.sampled_from(["train", "valid", "test", None])
        ),
        min_size=1,
        max_size=14,
    )
)
def test_any_leak_is_found_and_nothing_else(axis, rows):
    rows = [("control", "K", "train"), ("A", "K", "test"), *rows]
    labels, lines, parts = map(list, zip(*rows, strict=True))
    obs = pd.DataFrame(
        {"perturbation": labels, "line": lines, "pb_split": parts}, index=[f"c{i}" for i in range(len(rows))]
    )
    obs["pb_split"] = pd.Categorical(obs["pb_split"], categories=["test", "unused", "train", "valid"])
    adata = ad.AnnData(np.ones((len(obs), 1), np.float32), obs=obs)
    if brute_force(axis, labels, lines, parts):
        with pytest.raises(LeakageError, match="that leak"):
            check_split(adata, axis=axis, context_key="line")
    else:
        assert check_split(adata, axis=axis, context_key="line")["checked"]


# changes since ----------------------------------------------------------------------------------------------------


def made() -> ad.AnnData:
    rng = np.random.default_rng(0)
    labels = rng.choice(["control", "A", "B", "C", "A+B", "B+C"], 200)
    adata = ad.AnnData(
        np.ones((200, 1), np.float32), obs=pd.DataFrame({"guide": labels}, index=[f"c{i}" for i in range(200)])
    )
    split(adata, axis="combination", perturbation_key="guide", seed=1)
    return adata


def test_a_changed_column_is_found():
    adata = made()
    assert check_split(adata) == adata.uns["pb_split"]["guarantee"]
    row = np.flatnonzero((adata.obs["pb_split"] == "train") & (adata.obs["guide"] == "A"))[0]
    adata.obs.iloc[row, adata.obs.columns.get_loc("pb_split")] = "valid"  # no leak, yet another split
    with pytest.raises(LeakageError, match="changed since"):
        check_split(adata)
    del adata.uns["pb_split"]
    assert check_split(adata, axis="combination", perturbation_key="guide")["checked"]


def test_renamed_perturbations_leak():
    adata = made()
    held = adata.uns["pb_split"]["held_out"][0]
    adata.obs["guide"] = adata.obs["guide"].replace("A", held)
    with pytest.raises(LeakageError, match=f"'{held}'".replace("+", r"\+")):
        check_split(adata)


def test_another_order_or_fewer_cells_are_the_same_split():
    adata = made()
    order = np.random.default_rng(3).permutation(adata.n_obs)
    assert check_split(adata[order]) == check_split(adata)
    assert check_split(adata[order[:150]])["digest"] != check_split(adata)["digest"]


def test_the_guarantee_survives_files(tmp_path):
    adata = made()
    before = check_split(adata)
    for form in ("h5ad", "zarr"):
        path = tmp_path / f"a.{form}"
        (adata.write_h5ad if form == "h5ad" else adata.write_zarr)(path)
        back = (ad.read_h5ad if form == "h5ad" else ad.read_zarr)(path)
        assert check_split(back) == before
        assert dict(back.uns["pb_split"]["guarantee"]) == before
        assert list(back.uns["pb_split"]["held_out"]) == list(adata.uns["pb_split"]["held_out"])


@pytest.mark.parametrize(
    ("change", "arguments", "error", "text"),
    [
        ({}, {"key": "fold"}, SplitError, "'fold'"),
        ({}, {}, SplitError, "axis.*none"),
        ({}, {"axis": "cells"}, SplitError, "'cells'"),
        ({"pb_split": "train"}, {"axis": "combination"}, SplitError, "'test'"),
        ({"pb_split": "holdout"}, {"axis": "combination"}, SplitError, "'holdout'"),
        ({}, {"axis": "context"}, SplitError, "context_key"),
        ({}, {"axis": "context", "context_key": "line"}, LabelError, "context_key"),
        ({}, {"axis": "dose", "dose_key": "mg"}, LabelError, "dose_key"),
        ({}, {"axis": "combination", "perturbation_key": "guide"}, LabelError, "guide"),
        ({}, {"axis": "combination", "control": "NT"}, ControlError, "NT"),
    ],
)
def test_bad_arguments(change, arguments, error, text):
    adata = clean()
    for column, value in change.items():
        adata.obs[column] = value
    with pytest.raises(error, match=text):
        check_split(adata, **arguments)


# members ------------------------------------------------------------------------------------------------------------


def test_members_against_a_count_by_hand():
    parts = {
        "control": ["train", "test"],
        "A": ["train"],
        "B": ["test"],
        "B+C": ["train", "valid"],
        "A+B": ["test", "test"],
        "A+D": ["test"],
        "D+E": ["test", None],
        "A+B+C": ["test"],
        "C@2": ["test", "train"],
    }
    table = seen_members(screen(parts))
    expected = {  # n_targets, seen_members, seen_alone, n_cells_test, n_cells_seen
        "A+B": (2, 2, 1, 2, 0),
        "A+B+C": (3, 3, 2, 1, 0),
        "A+D": (2, 1, 1, 1, 0),
        "B": (1, 1, 0, 1, 0),
        "C@2": (1, 1, 1, 1, 1),
        "D+E": (2, 0, 0, 1, 0),
    }
    assert list(table.index) == list(expected)
    assert [tuple(row) for row in table.to_numpy()] == list(expected.values())
    assert list(table.columns) == ["n_targets", "seen_members", "seen_alone", "n_cells_test", "n_cells_seen"]
    assert (table.dtypes == np.int64).all()


def test_members_do_not_depend_on_the_order_of_cells():
    adata = made()
    order = np.random.default_rng(3).permutation(adata.n_obs)
    pd.testing.assert_frame_equal(seen_members(adata), seen_members(adata[order]))
    assert (seen_members(adata)["seen_alone"] == 2).all()
