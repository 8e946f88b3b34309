"""Observed effects against sums written out by hand."""

from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.errors import ControlError, LabelError, ScaleError
from perturbia.tl import effects

LABELS = ["control"] * 9 + ["A"] * 6 + ["B+A"] * 3 + ["A+B"] * 4 + ["C"]


def screen(container=sp.csr_matrix) -> ad.AnnData:
    rng = np.random.default_rng(1)
    counts = rng.poisson(3.0, (len(LABELS), 5)).astype(np.float32) + np.eye(len(LABELS), 5, dtype=np.float32)
    counts[:, 0] += 1
    obs = pd.DataFrame(
        {"perturbation": LABELS, "batch": rng.choice(["x", "y"], len(LABELS))},
        index=[str(i) for i in range(len(LABELS))],
    )
    return ad.AnnData(container(counts), obs=obs)


def by_hand(X: np.ndarray, labels: np.ndarray, name: str) -> tuple[np.ndarray, np.ndarray]:
    x, c = X[labels == name], X[labels == "control"]
    effect = x.mean(0) - c.mean(0)
    return effect, np.sqrt(x.var(0, ddof=1) / len(x) + c.var(0, ddof=1) / len(c))


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix])
@pytest.mark.parametrize("scale", ["log1p_cp10k", "counts"])
def test_effects_are_differences_of_means(container, scale):
    adata = screen(container)
    X = screen(np.asarray).X.astype(float)
    if scale == "log1p_cp10k":
        X = np.log1p(1e4 * X / X.sum(1, keepdims=True))
    out = effects(adata, scale=scale)
    labels = np.array(["A+B" if label == "B+A" else label for label in LABELS])
    assert out.obs_names.tolist() == ["A", "A+B"]  # C has one cell
    assert out.obs["n_cells"].tolist() == [6, 7]
    for i, name in enumerate(out.obs_names):
        effect, error = by_hand(X, labels, name)
        np.testing.assert_allclose(out.X[i], effect, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(out.layers["se"][i], error, rtol=1e-4)
    assert out.uns["perturbia"]["scale"] == scale
    assert out.uns["perturbia"]["n_control_cells"] == 9


def test_batches_are_compared_within():
    adata = screen()
    adata.obs["batch"] = ["x"] * 5 + ["y"] * 4 + ["x"] * 2 + ["y"] * 4 + ["x"] * 4 + ["y"] * 4
    shifted = adata.copy()
    in_y = (shifted.obs["batch"] == "y").to_numpy()
    X = shifted.X.toarray()
    X[in_y] += 100.0
    shifted.X = X
    plain = effects(adata, scale="counts", batch_key="batch")
    moved = effects(shifted, scale="counts", batch_key="batch")
    np.testing.assert_allclose(moved.X, plain.X, atol=1e-3)
    assert np.abs(effects(shifted, scale="counts").X - plain.X).max() > 5


def test_chosen_cells_and_the_order_of_cells():
    adata = screen()
    keep = np.r_[0:7, 9:13]
    from_positions = effects(adata, cells=keep)
    mask = np.zeros(adata.n_obs, dtype=bool)
    mask[keep] = True
    np.testing.assert_array_equal(from_positions.X, effects(adata, cells=mask).X)
    np.testing.assert_allclose(from_positions.X, effects(adata[keep].copy()).X, rtol=1e-5)
    order = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_allclose(effects(adata[order].copy()).X, effects(adata).X, rtol=1e-4, atol=1e-5)


def test_values_are_taken_as_they_are_when_registered():
    adata = screen(np.asarray)
    adata.X = adata.X - 2.5
    out = effects(adata, scale="registered")
    labels = np.array(LABELS)
    np.testing.assert_allclose(out["A"].X[0], by_hand(adata.X, labels, "A")[0], rtol=1e-4, atol=1e-5)


def test_rare_perturbations_are_left_out():
    assert effects(screen(), min_cells=7).obs_names.tolist() == ["A+B"]


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"scale": "log2"}, ScaleError),
        ({"perturbation_key": "guide"}, LabelError),
        ({"batch_key": "plate"}, LabelError),
        ({"control": "NT"}, ControlError),
        ({"cells": np.arange(8, 20)}, ControlError),
        ({"cells": np.ones(3, dtype=bool)}, ValueError),
        ({"cells": [0, 0, 1]}, ValueError),
        ({"cells": []}, ValueError),
        ({"cells": ["c0"]}, ValueError),
        ({"cells": [10**6]}, IndexError),
        ({"min_cells": 100}, LabelError),
        ({"layer": "raw"}, KeyError),
    ],
)
def test_bad_arguments(arguments, error):
    with pytest.raises(error):
        effects(screen(), **arguments)


def test_fractions_are_no_counts():
    adata = screen(np.asarray)
    adata.X = adata.X + 0.5
    with pytest.raises(ScaleError, match="counts"):
        effects(adata)


def test_batches_without_controls_are_counted_and_said():
    adata = screen()
    adata.obs["batch"] = ["x"] * 9 + ["x", "x", "y", "y", "y", "z"] + ["x"] * 8
    with pytest.warns(
        RuntimeWarning, match="batch_key: 1 perturbations have cells in batches without controls, 4 in all"
    ):
        out = effects(adata, batch_key="batch")
    assert out.obs["n_unmatched"].to_dict() == {"A": 4, "A+B": 0}


def test_cells_in_any_order():
    adata = screen()
    rows = np.random.default_rng(0).permutation(adata.n_obs)
    np.testing.assert_array_equal(effects(adata, cells=rows).X, effects(adata).X)
    np.testing.assert_array_equal(effects(adata, cells=rows - adata.n_obs).X, effects(adata).X)
