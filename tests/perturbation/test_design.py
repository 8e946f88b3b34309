from __future__ import annotations

import logging

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st

from perturbia import Perturbation
from perturbia.errors import ControlError, DoseError, LabelError, UnknownPerturbation
from perturbia.perturbation import design_from_labels, design_from_matrix

KINDS = {
    "list": list,
    "array": np.array,
    "object series": lambda values: pd.Series(values, dtype=object),
    "string series": lambda values: pd.Series(values, dtype="string"),
    "categorical": lambda values: pd.Series(values, dtype="category"),
    "unused categories": lambda values: pd.Series(pd.Categorical(values, categories=["", "Z", *sorted(set(values))])),
    "bytes": lambda values: pd.Series([value.encode() for value in values]),
    "odd index": lambda values: pd.Series(values, index=["same"] * len(values)),
}
LABELS = ["B+A", "ctrl", "A+ctrl", "ctrl+B", "ctrl+ctrl", " A ", "B@0.5"]
EXPECTED = [[1, 1], [0, 0], [1, 0], [0, 1], [0, 0], [1, 0], [0, 0.5]]


@pytest.mark.parametrize("kind", KINDS)
def test_labels_against_a_table(kind):
    design = design_from_labels(KINDS[kind](LABELS), control="ctrl")
    assert design.names == ["A", "B"]
    assert design.matrix.toarray().tolist() == EXPECTED
    assert design.matrix.dtype == np.float32
    assert design.matrix.has_canonical_format
    assert design.n_targets.tolist() == [2, 0, 1, 1, 0, 1, 1]
    assert design.is_control.tolist() == [False, True, False, False, True, False, False]
    assert design.labels().tolist() == ["A+B", "control", "A", "B", "control", "A", "B@0.5"]
    assert (design.control, design.sep, design.has_doses) == (["ctrl"], "+", True)


@pytest.mark.parametrize(
    ("values", "control"),
    [([0, 1, 2], 0), ([0, 1, 2], "0"), (pd.array([0, 1, 2], dtype="Int64"), 0), (pd.Categorical([0, 1, 2]), "0")],
)
def test_whole_numbers_are_labels(values, control):
    design = design_from_labels(values, control=control)
    assert design.names == ["1", "2"]
    assert design.matrix.toarray().tolist() == [[0, 0], [1, 0], [0, 1]]


DOSES = [
    (["B+A", "ctrl", "A"], ["10+1", "0", "2"], [[1, 10], [0, 0], [2, 0]]),
    (["B+A", "ctrl", "A"], ["10+1", None, 2], [[1, 10], [0, 0], [2, 0]]),
    (["B+A", "A+B", "ctrl"], ["10+1", "10+1", "x"], [[1, 10], [10, 1], [0, 0]]),
    (["A+ctrl", "ctrl+B", "ctrl"], ["0.5+9", "9+0.5", "9"], [[0.5, 0], [0, 0.5], [0, 0]]),
    (["A+ctrl", "ctrl+B", "ctrl"], [0.5, 2.0, np.nan], [[0.5, 0], [0, 2], [0, 0]]),
    (["ctrl+A+B", "ctrl", "B"], ["3+4", "1", "5"], [[3, 4], [0, 0], [0, 5]]),
    (["A", "B", "ctrl"], pd.Categorical([0.5, 3, 0]), [[0.5, 0], [0, 3], [0, 0]]),
    (["A", "B", "ctrl"], pd.Categorical(["0.5", "3", "0"]), [[0.5, 0], [0, 3], [0, 0]]),
    (["A", "B", "ctrl"], [1, 2, 0], [[1, 0], [0, 2], [0, 0]]),
]


@pytest.mark.parametrize(("labels", "doses", "expected"), DOSES)
def test_doses_follow_the_written_order(labels, doses, expected):
    design = design_from_labels(labels, control="ctrl", doses=pd.Series(doses))
    assert design.matrix.toarray().tolist() == expected
    assert design.has_doses


def test_doses_may_be_split_at_either_separator():
    for text in ("10_1", "10+1"):
        design = design_from_labels(["B_A", "NT"], control="NT", doses=[text, "1"], sep="_")
        assert design.matrix.toarray().tolist() == [[1, 10], [0, 0]]


combos = st.lists(
    st.dictionaries(st.sampled_from("ABCD"), st.sampled_from([0.1, 1.0, 7.5]), max_size=3), min_size=1, max_size=15
)


@given(combos, st.randoms(use_true_random=False))
def test_labels_with_doses_against_a_loop(cells, random):
    cells = [{}, {"E": 1.0}, *cells]
    labels, doses = [], []
    for cell in cells:
        written = list(cell.items())
        random.shuffle(written)
        labels.append("+".join(name for name, _ in written) or "NT")
        doses.append("+".join(str(dose) for _, dose in written) or "1")
    design = design_from_labels(labels, control="NT", doses=doses)
    assert design.labels().tolist() == [str(Perturbation(cell)) for cell in cells]


def test_permuting_cells_permutes_rows():
    order = np.array([3, 0, 6, 1, 5, 2, 4])
    whole = design_from_labels(LABELS, control="ctrl")
    mixed = design_from_labels(np.array(LABELS)[order], control="ctrl")
    assert mixed.names == whole.names
    np.testing.assert_array_equal(mixed.matrix.toarray(), whole.matrix.toarray()[order])


BAD_LABELS = [
    (["A", np.nan, "NT"], LabelError, "1 of 3 without one .* row 1"),
    (pd.Categorical(["A", None, "NT"]), LabelError, "1 of 3 without one"),
    ([1.0, np.nan, 0.0], LabelError, "without one"),
    ([np.nan, np.nan], LabelError, "2 of 2 without one"),
    ([0.0, 1.5], LabelError, "real numbers"),
    (pd.Categorical([0.5, 1.5]), LabelError, "real numbers"),
    ([], LabelError, "expected cells, got none"),
    (["A", "", "NT"], LabelError, "empty label"),
    (["A", "A+", "NT"], LabelError, "label 'A\\+' cannot be read"),
    (["A", "B+B", "NT"], LabelError, "'B' twice"),
    (["A", "unassigned", "NT"], LabelError, "unassigned"),
    (["A", "nan", "NT"], LabelError, "unassigned"),
    (["A", "A@-1", "NT"], DoseError, "above 0"),
    (["A", "A@0", "NT"], DoseError, "Leave the target out"),
    (["A", "B"], ControlError, "got none. Labels seen: 'A', 'B'"),
    (["A", "ctrl", "A+ctrl"], ControlError, "Did you mean control='ctrl'"),
    (["NT", "NT"], LabelError, "at least one perturbation"),
    (["A", "NT", "control"], ControlError, "Add 'control' to `control`"),
    ([f"cell{i}" for i in range(99)] + ["NT"], LabelError, "99 distinct targets in 100 cells"),
]


@pytest.mark.parametrize(("labels", "error", "text"), BAD_LABELS)
def test_bad_labels(labels, error, text):
    with pytest.raises(error, match=text):
        design_from_labels(labels, control="NT", argument="adata.obs['target']")


@pytest.mark.parametrize(
    ("labels", "doses", "text"),
    [
        (["A", "NT"], [np.nan, 1], "1 cells without one"),
        (["A", "NT"], [0, 0], "got 0 for label 'A'"),
        (["A", "NT"], ["0", "0"], "Label untreated cells as control"),
        (["A", "NT"], [-2, 0], "got -2"),
        (["A", "NT"], [np.inf, 0], "finite"),
        (["A", "NT"], [1e39, 0], "finite"),
        (["A", "NT"], ["high", "0"], "'high'"),
        (["A+B", "NT"], [0.5, 0], "one dose per target"),
        (["A+B", "NT"], ["1+2+3", "0"], "one dose per target"),
        (["A", "NT"], ["1+2", "0"], "one dose per target"),
        (["A@2", "NT"], [1, 0], "doses in one place"),
        (["A", "NT"], [1], "one dose per cell"),
    ],
)
def test_bad_doses(labels, doses, text):
    with pytest.raises(DoseError, match=text):
        design_from_labels(labels, control="NT", doses=doses)


@pytest.mark.parametrize("control", [[], "", None, ["NT", ""], "unassigned", ["NT", "nan"]])
def test_bad_control(control):
    with pytest.raises(ControlError, match="^control: expected"):
        design_from_labels(["A", "unassigned", ""], control=control)


def test_many_combinations_of_few_targets_are_fine():
    """A screen with many guides per cell has distinct labels in most cells, and that is no fault."""
    targets = [f"g{i}" for i in range(20)]
    labels = ["NT"] + ["+".join(pair) for i, a in enumerate(targets) for pair in [(a, b) for b in targets[i + 1 :]]]
    assert design_from_labels(labels, control="NT").names == sorted(targets)


def test_a_lookalike_of_a_control_is_warned_of(caplog):
    with caplog.at_level(logging.WARNING, logger="perturbia.perturbation"):
        design = design_from_labels(["A", "DMSO", "NT"], control="NT")
    assert design.names == ["A", "DMSO"]
    assert "'DMSO' read as a treatment" in caplog.text


DENSE = np.array([[1, 0], [0, 0], [0, 0.5]])
MATRICES = {
    "float64": DENSE,
    "csr": sp.csr_matrix(DENSE),
    "csc": sp.csc_matrix(DENSE),
    "csr array": sp.csr_array(DENSE),
    "frame": pd.DataFrame(DENSE),
    "nullable frame": pd.DataFrame(DENSE).astype("Float64"),
    "unordered": sp.csr_matrix(([1.0, 0.0, 0.25, 0.25], [0, 0, 1, 1], [0, 1, 2, 4]), shape=(3, 2)),
}


@pytest.mark.parametrize("kind", MATRICES)
def test_matrices_of_any_kind(kind):
    design = design_from_matrix(MATRICES[kind], names=["B", "A"])
    assert design.names == ["B", "A"]
    assert design.matrix.toarray().tolist() == DENSE.tolist()
    assert (design.matrix.dtype, design.matrix.has_canonical_format) == (np.float32, True)
    assert design.labels().tolist() == ["B", "control", "A@0.5"]


def test_matrices_are_not_modified():
    given = MATRICES["unordered"].copy()
    design_from_matrix(given)
    assert given.nnz == MATRICES["unordered"].nnz
    assert given.dtype == np.float64


def test_names_of_a_matrix():
    assert design_from_matrix(DENSE).names == ["t0", "t1"]
    assert design_from_matrix(pd.DataFrame(DENSE, columns=["x", 7])).names == ["x", "7"]
    assert design_from_matrix(DENSE > 0, names=("A", "B")).has_doses is False


@pytest.mark.parametrize(
    ("matrix", "names", "error", "text"),
    [
        (np.array([[1, -1], [0, 0]]), None, DoseError, "got .*-1"),
        (np.array([[1, np.nan], [0, 0]]), None, DoseError, "nan"),
        (np.array([[1, 1e39], [0, 0]]), None, DoseError, "float32"),
        (np.array([[1, 1e-60], [0, 0]]), None, DoseError, "float32"),
        (np.array([["a"], ["b"]]), None, DoseError, "expected numbers"),
        (pd.DataFrame({"A": ["a", "b"]}), None, DoseError, "expected numbers"),
        (np.ones(3), None, LabelError, "expected a matrix"),
        (DENSE, ["A"], LabelError, "expected 2 distinct names"),
        (DENSE, ["A", "A"], LabelError, "'A' twice"),
        (DENSE, ["A", ""], LabelError, "expected a name"),
        (DENSE, ["A", "control"], ControlError, "control cells are zero rows"),
        (DENSE, ["A", "NT"], ControlError, "control cells are zero rows"),
        (np.ones((2, 2)), ["A", "B"], ControlError, "zero row .* Names seen: 'A', 'B'"),
        (np.zeros((2, 2)), None, LabelError, "at least one perturbed cell"),
    ],
)
def test_bad_matrices(matrix, names, error, text):
    with pytest.raises(error, match=text):
        design_from_matrix(matrix, names=names, control="NT")


def test_moving_to_other_columns():
    design = design_from_labels(["B", "A+D", "NT"], control="NT")
    assert design.on(["D", "C", "B", "A"]).matrix.toarray().tolist() == [[0, 0, 1, 0], [1, 0, 0, 1], [0, 0, 0, 0]]
    with pytest.raises(UnknownPerturbation, match="'A' .*'D'"):
        design.on(["B"])
    extended = design.on(["C", "B"], extend=True)
    assert extended.names == ["C", "B", "A", "D"]
    assert extended.labels().tolist() == design.labels().tolist()
    # a target without cells is nothing to refuse
    assert design_from_matrix([[1, 0], [0, 0]], names=["A", "B"]).on(["A"]).names == ["A"]


def test_plain_labels_leave_names_as_they_are_where_each_label_is_one():
    design = design_from_labels(["HLA+A", "control", "B@2"], sep="")
    assert design.labels().tolist() == ['"HLA+A"', "control", "B@2"]
    assert design.labels(plain=True).tolist() == ["HLA+A", "control", "B@2"]
    combined = design_from_labels(["B_A", '"C_D"', "control"], sep="_")
    assert combined.labels(plain=True).tolist() == combined.labels().tolist() == ["A_B", '"C_D"', "control"]
