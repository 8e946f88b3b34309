from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from perturbia import Perturbation
from perturbia.errors import LabelError, UnknownPerturbation
from perturbia.perturbation import dosage_labels, dosage_matrix, unique_dosages

NAMES = ["C", "A", "B"]
matrices = arrays(np.float32, st.tuples(st.integers(0, 12), st.just(3)), elements=st.sampled_from([0, 0, 1, 0.1, 2e20]))


def test_dosage_matrix_against_a_table():
    D = dosage_matrix(["B+A", "control", Perturbation("C@0.1"), None, {"A": 3}, ["C", "B"]], NAMES)
    assert isinstance(D, sp.csr_matrix)
    assert D.dtype == np.float32
    expected = [[0, 1, 1], [0, 0, 0], [0.1, 0, 0], [0, 0, 0], [0, 3, 0], [1, 0, 1]]
    np.testing.assert_array_equal(D.toarray(), np.array(expected, dtype=np.float32))
    assert dosage_matrix([], NAMES).shape == (0, 3)


@given(matrices)
def test_labels_and_matrix_are_inverse(dense):
    labels = dosage_labels(dense, NAMES)
    assert labels.dtype == object
    np.testing.assert_array_equal(dosage_matrix(labels, NAMES).toarray(), dense)


@given(matrices)
def test_labels_against_a_loop(dense):
    expected = [str(Perturbation({name: dose for name, dose in zip(NAMES, row, strict=True) if dose})) for row in dense]
    assert dosage_labels(sp.csr_matrix(dense), NAMES).tolist() == expected


@given(matrices)
def test_unique_dosages_against_numpy(dense):
    unique, inverse = unique_dosages(sp.csc_matrix(dense))
    np.testing.assert_array_equal(unique.toarray()[inverse], dense)
    assert unique.shape[0] == len(np.unique(dense, axis=0))


def test_unique_dosages_reads_any_storage_and_changes_nothing():
    # stored zeros, duplicates and unsorted indices are three ways to write [1, 0, 2]
    odd = sp.csr_matrix(([2.0, 0.5, 0.5, 0.0, 1.0, 2.0], [2, 0, 0, 1, 0, 2], [0, 4, 6]), shape=(2, 3))
    before = odd.data.copy()
    unique, inverse = unique_dosages(odd)
    assert inverse.tolist() == [0, 0]
    assert unique.toarray().tolist() == [[1, 0, 2]]
    np.testing.assert_array_equal(odd.data, before)


def test_label_words():
    D = [[0, 0, 0], [1, 1, 0]]
    assert dosage_labels(D, NAMES, sep="|", control="NT").tolist() == ["NT", "A|C"]
    assert dosage_labels([[1, 1]], ["A+B", "C"]).tolist() == ['"A+B"+C']


def test_unknown_targets_name_three_neighbours():
    with pytest.raises(UnknownPerturbation, match=r"'KLF2' \(nearest: KLF1, KLF3, KLF10\)"):
        dosage_matrix(["KLF1+KLF2"], ["KLF10", "GATA1", "KLF3", "KLF1"])


def test_bad_input():
    with pytest.raises(LabelError, match="names: expected 2 names"):
        dosage_labels([[1, 0]], ["A"])
    with pytest.raises(LabelError, match="list of perturbations"):
        dosage_matrix("A+B", NAMES)
