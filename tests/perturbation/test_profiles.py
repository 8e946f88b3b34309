"""Labels and controls of profiles, from AnnData, tables and arrays."""

from __future__ import annotations

import re

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

from perturbia.errors import LabelError
from perturbia.perturbation._profiles import label_values, marked_controls, obs_column, row_labels


def profiles(**obs: object) -> ad.AnnData:
    return ad.AnnData(np.eye(3, dtype=np.float32), obs=pd.DataFrame(obs, index=["x", "x", "y"]))


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    ("column", "expected"),
    [
        ([True, False, True], [True, False, True]),
        (pd.array([True, None, False], dtype="boolean"), [True, False, False]),
        (pd.Categorical([True, False, False]), [True, False, False]),
        ([1, 0, 1], [False] * 3),
        (["True", "False", "True"], [False] * 3),
        (np.array([True, None, False], dtype=object), [False] * 3),
    ],
)
def test_controls_are_rows_that_a_boolean_column_marks(column, expected):
    found = marked_controls(profiles(is_control=column))
    assert found.tolist() == expected
    assert found.dtype == bool


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    "data", [profiles(gene=list("abc")), np.eye(3), sparse.eye_array(3), pd.DataFrame(np.eye(3)), np.eye(3).tolist()]
)
def test_without_such_a_column_there_are_none(data):
    assert marked_controls(data).tolist() == [False] * 3


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize(
    "labels",
    [["a", None, 1], np.array(["a", None, 1], dtype=object), pd.Series(["a", None, 1], index=[7, 7, 8]), "gene"],
)
def test_labels_as_they_are(labels):
    found = label_values(profiles(gene=["a", None, 1]), labels, argument="key")
    assert found.tolist() == ["a", None, 1]
    with pytest.raises(LabelError, match="key: expected a label in every row, got 1 of 3 without one"):
        row_labels(profiles(gene=["a", None, 1]), labels, argument="key")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
@pytest.mark.parametrize("read", [label_values, row_labels])
@pytest.mark.parametrize(
    ("data", "labels", "message"),
    [
        (profiles(gene=list("abc")), "genes", "key: expected a column of adata.obs, got 'genes'; columns are 'gene'."),
        (profiles(), "gene", "key: expected a column of adata.obs, got 'gene'; columns are none."),
        (np.eye(3), "gene", "key: expected one label a row, got the text 'gene'."),
        (np.eye(3), ["a", "b"], "key: expected one label for each of 3 rows, got 2."),
    ],
)
def test_bad_labels(read, data, labels, message):
    with pytest.raises(LabelError, match=re.escape(message)):
        read(data, labels, argument="key")


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_column():
    adata = profiles(gene=list("abc"))
    pd.testing.assert_series_equal(obs_column(adata, "gene", argument="key"), adata.obs["gene"])
    with pytest.raises(LabelError, match="key: expected a column of adata.obs, got 'X'; columns are 'gene'."):
        obs_column(adata, "X", argument="key")
