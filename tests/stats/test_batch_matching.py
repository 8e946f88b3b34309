"""Effects against the reference of the same batches: sums written out, and the rule of tl.effects."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.stats import matched_effects
from perturbia.tl import effects


def screen(seed: int = 0) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    labels = np.array(["control"] * 30 + ["A"] * 20 + ["B"] * 10)
    batch = rng.choice(["x", "y", "z"], len(labels))
    batch[(labels == "control") & (batch == "z")] = "x"  # a batch without the reference
    return rng.poisson(2.0, (len(labels), 6)).astype(np.float32), labels, batch


def by_hand(X, labels, batch, name):
    own, control = labels == name, labels == "control"
    out = X[own].mean(0)
    for one in np.unique(batch[own]):
        same = control & (batch == one)
        out = out - (batch[own] == one).mean() * X[same if same.any() else control].mean(0)
    return out


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix])
def test_sums_written_out(container):
    X, labels, batch = screen()
    found = matched_effects(container(X), labels, batch, reference="control")
    expected = [by_hand(X.astype(float), labels, batch, name) for name in ("A", "B")]
    np.testing.assert_allclose(found, expected, atol=1e-12)
    assert found.dtype == np.float64


@pytest.mark.filterwarnings("ignore:batch_key")
def test_the_rule_of_tl_effects():
    X, labels, batch = screen(1)
    X[:, 0] += 1
    adata = ad.AnnData(X, obs=pd.DataFrame({"perturbation": labels, "batch": batch}, index=map(str, range(len(X)))))
    observed = effects(adata, batch_key="batch", scale="counts")
    np.testing.assert_allclose(matched_effects(X, labels, batch, reference="control"), observed.X, atol=1e-5)


def test_order_of_rows_does_not_matter():
    X, labels, batch = screen()
    order = np.random.default_rng(2).permutation(len(X))
    one, other = (matched_effects(X[i], labels[i], batch[i], reference="control") for i in (slice(None), order))
    np.testing.assert_allclose(one, other, atol=1e-12)


@pytest.mark.parametrize(
    ("change", "match"),
    [
        ({"reference": "nobody"}, "reference"),
        ({"labels": ["A"]}, "labels: expected one label a row"),
        ({"batch": ["x"]}, "batch: expected one label a row"),
        ({"X": np.full((60, 2), np.nan)}, "X: expected finite numbers"),
    ],
)
def test_bad_input(change, match):
    X, labels, batch = screen()
    given = {"X": X, "labels": labels, "batch": batch, "reference": "control", **change}
    with pytest.raises(ValueError, match=match):
        matched_effects(given["X"], given["labels"], given["batch"], reference=given["reference"])
