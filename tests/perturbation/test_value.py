from __future__ import annotations

import pickle
from copy import deepcopy
from dataclasses import FrozenInstanceError

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from perturbia import Perturbation
from perturbia.errors import DoseError, LabelError
from perturbia.perturbation import as_perturbation
from perturbia.perturbation.labels import UNASSIGNED, check_dose, format_dose

names = (
    st.text(st.characters(blacklist_categories=("Cs", "Cc", "Z")), min_size=1, max_size=8)
    .filter(lambda name: '"' not in name and name == name.strip())
    .filter(lambda name: name != "control" and name.casefold() not in UNASSIGNED)
)
doses = st.floats(1e-30, 1e30, allow_nan=False)
targets = st.dictionaries(names, doses, max_size=4)


@pytest.mark.parametrize(
    ("query", "expected"),
    [
        ("A", {"A": 1.0}),
        ("B+A", {"A": 1.0, "B": 1.0}),
        (" A + B ", {"A": 1.0, "B": 1.0}),
        ("A@0.5+B", {"A": 0.5, "B": 1.0}),
        ("A@1e2", {"A": 100.0}),
        ("A+control", {"A": 1.0}),
        ("control", {}),
        ("control+control", {}),
        ('"A+B"@2+C', {"A+B": 2.0, "C": 1.0}),
        ('C+"p@q"', {"C": 1.0, "p@q": 1.0}),
        ({"A+B": 0.5}, {"A+B": 0.5}),
        (["B@2", "A"], {"A": 1.0, "B": 2.0}),
        (("A", "control"), {"A": 1.0}),
        (np.array(["B", "A"]), {"A": 1.0, "B": 1.0}),
        ({}, {}),
        ([], {}),
        (None, {}),
    ],
)
def test_every_spelling_is_one_value(query, expected):
    value = as_perturbation(query)
    assert value == Perturbation(expected)
    assert value.targets == expected
    assert list(value.targets) == sorted(expected)
    assert (value.names, value.doses) == (tuple(sorted(expected)), tuple(expected[name] for name in sorted(expected)))
    assert len(value) == len(expected)
    assert value.is_control == (not expected)


@pytest.mark.parametrize(
    ("label", "control", "sep", "expected"),
    [
        ("ctrl", "ctrl", "+", "control"),
        ("ctrl+KLF1", "ctrl", "+", "KLF1"),
        ("KLF1+ctrl", ("NT", "ctrl"), "+", "KLF1"),
        ("CEBPE_CEBPA", "NT", "_", "CEBPA+CEBPE"),
        ("ZAP70_1", "NT", "+", "ZAP70_1"),
        ("a+b", "NT", "", '"a+b"'),
        ("DMSO@0", "DMSO", "+", "control"),
        ("none", "none", "+", "control"),
    ],
)
def test_parse_reads_the_labels_of_a_data_set(label, control, sep, expected):
    assert str(Perturbation.parse(label, control=control, sep=sep)) == expected


@given(targets)
def test_the_canonical_label_reads_back(given_targets):
    value = Perturbation(given_targets)
    assert Perturbation(str(value)) == value
    assert Perturbation.parse(value.label(sep="_"), sep="_") == value
    assert as_perturbation(value.targets) == value
    assert hash(Perturbation(str(value))) == hash(value)


@given(st.dictionaries(names, doses, min_size=2, max_size=4))
def test_order_does_not_count(given_targets):
    backwards = dict(reversed(given_targets.items()))
    assert Perturbation(backwards) == Perturbation(given_targets)
    assert str(Perturbation(backwards)) == str(Perturbation(given_targets))


@given(doses)
def test_doses_have_the_precision_of_a_dosage_matrix(dose):
    value = check_dose(dose, name="A")
    assert np.float32(value) == np.float32(dose)
    assert check_dose(np.float32(dose), name="A") == value
    assert check_dose(format_dose(value), name="A") == value
    assert "+" not in format_dose(value)


def test_values_sort_by_their_label():
    values = [Perturbation(text) for text in ("B", "control", "A+B", "A", "A@2")]
    assert [str(value) for value in sorted(values)] == ["A", "A+B", "A@2", "B", "control"]
    assert Perturbation("A") <= Perturbation("A") < Perturbation("B")


def test_values_are_immutable_and_survive_pickling():
    value = Perturbation({"A": 0.1}, context={"cell_type": "K562"})
    with pytest.raises(FrozenInstanceError):
        value.names = ("B",)
    value.targets["A"] = 5.0
    value.context["cell_type"] = "other"
    assert value == pickle.loads(pickle.dumps(value)) == deepcopy(value)
    assert (value.doses, value.context) == ((0.1,), {"cell_type": "K562"})


def test_context_is_part_of_the_value_but_not_of_the_label():
    here, there = (Perturbation("A", context={"cell_type": name}) for name in ("K562", "THP1"))
    assert here != there != Perturbation("A")
    assert str(here) == "A"
    assert repr(here) == "Perturbation('A', context={'cell_type': 'K562'})"
    assert repr(Perturbation()) == "Perturbation('control')"
    assert Perturbation(here) == here
    assert (here | Perturbation("B", context={"batch": "1"})).context == {"cell_type": "K562", "batch": "1"}
    with pytest.raises(LabelError, match="cell_type"):
        here | Perturbation("B", context={"cell_type": "THP1"})


def test_combining_adds_targets():
    both = Perturbation("A@2") | Perturbation("B")
    assert both == Perturbation("A@2") + Perturbation("B") == Perturbation({"A": 2, "B": 1})
    assert (both | Perturbation()) == both
    with pytest.raises(LabelError, match="'A' on both sides"):
        both | Perturbation("A")
    with pytest.raises(TypeError):
        both | "C"
    with pytest.raises(TypeError):
        _ = both < "C"


@pytest.mark.parametrize(
    ("bad", "error", "text"),
    [
        ("", LabelError, "empty label"),
        ("A+", LabelError, "both sides"),
        ("+A", LabelError, "both sides"),
        ("A++B", LabelError, "both sides"),
        ("@2", LabelError, "both sides"),
        ("A+A", LabelError, "'A' twice"),
        (["A", "A"], LabelError, "'A' on both sides"),
        ("A+nan", LabelError, "unassigned"),
        ("unassigned", LabelError, "unassigned"),
        ('A"B', LabelError, "double quotes"),
        ('"A"B', LabelError, "after a quoted name"),
        ({"": 1}, LabelError, "expected a name"),
        ({3: 1}, LabelError, "expected a name"),
        ({"control": 1}, LabelError, "`control`"),
        ({"A ": 1, "A": 1}, LabelError, "'A' twice"),
        ([1.0], LabelError, "expected names"),
        (3, LabelError, "expected"),
        ("A@", DoseError, "expected a number"),
        ("A@x", DoseError, "expected a number"),
        ("A@-1", DoseError, "above 0"),
        ("A@0", DoseError, "Leave the target out"),
        ("A@nan", DoseError, "finite"),
        ({"A": -0.5}, DoseError, "above 0"),
        ({"A": 0}, DoseError, "Leave the target out"),
        ({"A": float("nan")}, DoseError, "finite"),
        ({"A": float("inf")}, DoseError, "finite"),
        ({"A": 1e39}, DoseError, "float32"),
        ({"A": 1e-60}, DoseError, "float32"),
        ({"A": None}, DoseError, "expected a number"),
    ],
)
def test_bad_queries(bad, error, text):
    with pytest.raises(error, match=text):
        as_perturbation(bad)


@pytest.mark.parametrize("label", [3, None, ["A"]])
def test_only_text_is_parsed(label):
    with pytest.raises(LabelError, match="label: expected text"):
        Perturbation.parse(label)


@pytest.mark.parametrize("bad", [3, [1.0], {"A": -1}, "A+A", ["A", "A"]])
def test_bad_values(bad):
    with pytest.raises((LabelError, DoseError)):
        Perturbation(bad)
