from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import squareform

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.stats import energy_distance
from perturbia.tl import edistance, etest

LABELS = ["ctrl"] * 12 + ["A+ctrl"] * 7 + ["B+A"] * 4 + ["A+B"] * 5 + ["B"] * 6


def screen() -> ad.AnnData:
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": LABELS}, index=[str(i) for i in range(len(LABELS))])
    adata = ad.AnnData(sp.csr_matrix(rng.poisson(1.0, (len(LABELS), 8)).astype(np.float32)), obs=obs)
    adata.obsm["X_pca"] = rng.normal(size=(len(LABELS), 3)) + 2 * (obs["perturbation"] == "B").to_numpy()[:, None]
    adata.obsm["frame"] = pd.DataFrame(adata.obsm["X_pca"], index=obs.index)
    adata.obsm["sparse"] = sp.csr_matrix(adata.obsm["X_pca"])
    return adata


CANONICAL = np.array(["control"] * 12 + ["A"] * 7 + ["A+B"] * 9 + ["B"] * 6)


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("use_rep", ["X_pca", "frame", "sparse", "X"])
def test_values_are_energy_distances_under_canonical_labels(metric, unbiased, use_rep):
    adata = screen()
    X = adata.X.toarray() if use_rep == "X" else adata.obsm["X_pca"]
    options = {"metric": metric, "unbiased": unbiased}
    pairs = edistance(adata, control="ctrl", pairwise=True, use_rep=use_rep, **options)
    names = ["A", "A+B", "B", "control"]
    assert list(pairs.index) == list(pairs.columns) == names
    for first in names:
        for second in names:
            groups = X[first == CANONICAL], X[second == CANONICAL]
            expected = 0 if first == second else energy_distance(*groups, **options)
            assert pairs.loc[first, second] == pytest.approx(expected, abs=1e-5)
    against = edistance(adata, control="ctrl", use_rep=use_rep, **options)
    assert list(against.index) == names[:3]
    np.testing.assert_allclose(against["control"], pairs.loc[names[:3], "control"], atol=1e-5)
    assert against.attrs == {
        "metric": metric,
        "unbiased": unbiased,
        "use_rep": use_rep,
        "n_cells": {"A": 7, "A+B": 9, "B": 6, "control": 12},
    }


def test_all_pairs_need_no_control():
    adata = screen()
    adata = adata[12:].copy()
    adata.obs["perturbation"] = CANONICAL[12:]
    assert list(edistance(adata).index) == ["A", "A+B", "B"]


def test_order_of_cells_does_not_matter_and_data_are_left_alone():
    adata = screen()
    shuffled = adata[np.random.default_rng(1).permutation(adata.n_obs)]
    pd.testing.assert_frame_equal(edistance(shuffled, control="ctrl"), edistance(adata, control="ctrl"))
    assert list(adata.uns) == []
    assert list(adata.obs) == ["perturbation"]


def test_at_most_some_cells_are_drawn():
    adata = screen()
    table = edistance(adata, control="ctrl", max_cells=6, seed=1)
    assert table.attrs["n_cells"] == {"A": 6, "A+B": 6, "B": 6, "control": 6}
    pd.testing.assert_frame_equal(table, edistance(adata, control="ctrl", max_cells=6, seed=1))
    assert (table["control"] != edistance(adata, control="ctrl", max_cells=6, seed=2)["control"]).any()
    pd.testing.assert_series_equal(
        edistance(adata, control="ctrl", max_cells=99)["control"], edistance(adata, control="ctrl")["control"]
    )


def test_lone_cells_are_nan_with_warning():
    adata = screen()[:-5].copy()
    with pytest.warns(RuntimeWarning, match="1 groups have one cell"):
        table = edistance(adata, control="ctrl")
    np.testing.assert_array_equal(table["control"].isna(), [False, False, True])


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"perturbation_key": "gene"}, LabelError, "perturbation_key: expected a column"),
        ({"perturbation_key": "gene", "control": None}, LabelError, "perturbation_key: expected a column"),
        ({"control": "DMSO"}, ControlError, "control: expected cells labelled"),
        ({"control": None, "pairwise": False}, LabelError, "pairwise: expected control labels"),
        ({"use_rep": "X_umap"}, FeatureMismatch, "use_rep: expected a key of adata.obsm, got 'X_umap'"),
        ({"metric": "cosine"}, ValueError, "metric: expected"),
        ({"max_cells": 1}, ValueError, "max_cells: expected None or a number"),
    ],
)
def test_bad_input(options, error, match):
    with pytest.raises(error, match=match):
        edistance(screen(), **{"control": "ctrl", **options})


def test_one_group_and_missing_values_are_refused():
    adata = screen()
    with pytest.raises(LabelError, match="expected cells of 2 groups or more, got 'B'"):
        edistance(adata[-6:])
    adata.obsm["X_pca"][3, 1] = np.nan
    with pytest.raises(ValueError, match="X: expected finite numbers"):
        edistance(adata, control="ctrl")


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_all_pairs_are_exactly_symmetric(metric, dtype):
    rng = np.random.default_rng(0)
    obs = pd.DataFrame({"perturbation": rng.choice([f"P{i}" for i in range(30)], 1500)}, index=map(str, range(1500)))
    adata = ad.AnnData(np.zeros((1500, 1), dtype=np.float32), obs=obs)
    adata.obsm["X_pca"] = rng.normal(3.0, 1.0, size=(1500, 20)).astype(dtype)
    table = edistance(adata, metric=metric).to_numpy()
    assert (table == table.T).all()
    assert len(squareform(table)) == 30 * 29 // 2


def test_draws_do_not_depend_on_the_order_of_cells():
    adata = screen()
    moved = adata[np.random.default_rng(0).permutation(adata.n_obs)].copy()
    pd.testing.assert_frame_equal(edistance(adata, max_cells=4), edistance(moved, max_cells=4))


@pytest.mark.parametrize("seed", [-1, 1.5, True, None])
def test_bad_seeds(seed):
    with pytest.raises(ValueError, match="seed: expected a whole number of 0 or more"):
        edistance(screen(), seed=seed)
    with pytest.raises(ValueError, match="seed: expected a whole number of 0 or more"):
        etest(screen(), control="ctrl", seed=seed)
