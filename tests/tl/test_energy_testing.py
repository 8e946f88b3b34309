from __future__ import annotations

import anndata as ad
import numpy as np
import pandas as pd
import pytest

from perturbia.errors import ControlError, FeatureMismatch, LabelError
from perturbia.stats import energy_test
from perturbia.tl import edistance, etest

COUNT = {"ctrl": 60, "A+ctrl": 25, "B": 30, "B+A": 12, "A+B": 13}


def screen() -> ad.AnnData:
    """B shifts the cells, its double with A too; A does nothing. Batches differ."""
    rng = np.random.default_rng(0)
    labels = np.repeat(list(COUNT), list(COUNT.values()))
    batch = rng.choice(["x", "y"], len(labels))
    obs = pd.DataFrame(
        {"perturbation": pd.Categorical(labels), "batch": batch}, index=[f"c{i}" for i in range(len(labels))]
    )
    adata = ad.AnnData(np.zeros((len(labels), 1), dtype=np.float32), obs=obs)
    has_b = obs["perturbation"].astype(str).str.contains("B").to_numpy()
    adata.obsm["X_pca"] = rng.normal(size=(len(labels), 4)) + 1.5 * has_b[:, None] + 5 * (batch == "x")[:, None]
    return adata


@pytest.mark.parametrize("metric", ["euclidean", "sqeuclidean"])
def test_table_holds_the_test_of_canonical_groups(metric):
    adata = screen()
    table = etest(adata, control="ctrl", batch_key="batch", metric=metric, n_permutations=500, seed=2)
    assert list(table.index) == ["A", "A+B", "B"]
    assert list(table.columns) == [
        "edistance",
        "p_value",
        "p_adjusted",
        "significant",
        "n_cells",
        "n_control",
        "n_unmatched",
    ]
    assert (table["n_unmatched"] == 0).all()
    np.testing.assert_allclose(
        table["edistance"], edistance(adata, control="ctrl", metric=metric)["control"], atol=1e-9
    )
    canonical = np.array(["control"] * 60 + ["A"] * 25 + ["B"] * 30 + ["A+B"] * 25)
    expected = energy_test(
        adata.obsm["X_pca"],
        canonical,
        reference="control",
        strata=adata.obs["batch"].to_numpy(),
        metric=metric,
        n_permutations=500,
        seed=2,
    )
    np.testing.assert_array_equal(table["p_value"], expected.p_value)
    np.testing.assert_array_equal(table["p_adjusted"], expected.p_adjusted)
    np.testing.assert_array_equal(table["significant"], [False, True, True])
    np.testing.assert_array_equal(table["n_cells"], [25, 25, 30])
    np.testing.assert_array_equal(table["n_control"], 60)
    assert table.attrs["metric"] == metric
    assert table.attrs["adjustment"] == "holm-sidak"


def test_batches_are_not_taken_for_effects():
    adata = screen()
    is_null = adata.obs["perturbation"].isin(["A+ctrl"]).to_numpy()
    keep = ~is_null | (adata.obs["batch"] == "x").to_numpy()
    uneven = adata[keep]  # A is found in batch x only
    assert etest(uneven, control="ctrl").loc["A", "p_value"] < 0.05
    assert etest(uneven, control="ctrl", batch_key="batch").loc["A", "p_value"] > 0.05


def test_cells_without_controls_in_their_batch_are_counted_and_left_out():
    adata = screen()
    adata.obs["batch"] = adata.obs["batch"].astype(str)
    lost = np.flatnonzero(adata.obs["perturbation"] == "A+ctrl")[:7]
    adata.obs.iloc[lost, adata.obs.columns.get_loc("batch")] = "z"
    adata.obsm["X_pca"][lost] += 20
    with pytest.warns(RuntimeWarning, match="7 in all"):
        table = etest(adata, control="ctrl", batch_key="batch", n_permutations=99)
    assert table.loc["A", ["n_cells", "n_unmatched"]].tolist() == [18, 7]
    assert table.loc["A", "edistance"] < 0.2
    assert table.loc["A", "p_value"] > 0.05


def test_control_cells_are_drawn_and_data_are_left_alone():
    adata = screen()
    before = adata.copy()
    table = etest(adata, control="ctrl", max_reference="match", n_permutations=99)
    np.testing.assert_array_equal(table["n_control"], table["n_cells"])
    pd.testing.assert_frame_equal(adata.obs, before.obs)
    np.testing.assert_array_equal(adata.obsm["X_pca"], before.obsm["X_pca"])
    assert not adata.uns


def test_what_can_not_be_tested_is_nan_and_not_significant():
    adata = screen()[:86].copy()  # one cell of B
    with pytest.warns(RuntimeWarning, match="1 groups have one cell"):
        table = etest(adata, control="ctrl", n_permutations=99)
    assert table.loc["B", ["edistance", "p_value", "p_adjusted"]].isna().all()
    assert not table.loc["B", "significant"]


def test_says_how_many_permutations_are_needed():
    """The best p-value p of three has the adjusted value 1 - (1 - p)^3, below 0.05 from p = 1 / 59 on."""
    with pytest.warns(RuntimeWarning, match="n_permutations: expected 59 or more, so that one of 3 perturbations"):
        table = etest(screen(), control="ctrl", n_permutations=57)
    assert not table["significant"].any()
    assert etest(screen(), control="ctrl", n_permutations=59)["significant"].any()


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"perturbation_key": "gene"}, LabelError, "perturbation_key: expected a column"),
        ({"control": "DMSO"}, ControlError, "control: expected cells labelled"),
        ({"use_rep": "X_umap"}, FeatureMismatch, "use_rep: expected a key of adata.obsm"),
        ({"batch_key": "lane"}, LabelError, "batch_key: expected a complete column of adata.obs, got 'lane'"),
        ({"alpha": 5}, ValueError, "alpha: expected a level between 0 and 1"),
        ({"metric": "cosine"}, ValueError, "metric: expected"),
        ({"n_permutations": 0}, ValueError, "n_permutations, block_size: expected positive"),
        ({"max_reference": 0}, ValueError, "max_reference: expected None"),
    ],
)
def test_bad_input(options, error, match):
    with pytest.raises(error, match=match):
        etest(screen(), **{"control": "ctrl", **options})
