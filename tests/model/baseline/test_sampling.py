"""Cells drawn from baselines, against the control cells that they come from."""

from __future__ import annotations

from typing import Any

import anndata as ad
import numpy as np
import pandas as pd
import pytest
from scipy import sparse

import perturbia as pb
from perturbia.errors import ControlError, NotTrainedError, ScaleError, UnknownPerturbation, UnsupportedQuery
from perturbia.stats import log1p_cp10k

LABELS = ["control"] * 12 + ["A"] * 6 + ["B"] * 7 + ["C"] * 5 + ["A+B"] * 4


def make(labels: list[str] = LABELS, *, n_genes: int = 6, **obs: Any) -> ad.AnnData:
    counts = np.random.default_rng(0).poisson(0.5, (len(labels), n_genes)).astype(np.float32)
    counts[:, 0] += 1
    index = [f"cell{i}" for i in range(len(labels))]
    return ad.AnnData(sparse.csr_matrix(counts), obs=pd.DataFrame({"perturbation": labels, **obs}, index=index))


def fit(name: str, adata: ad.AnnData, **setup: Any) -> Any:
    cls = getattr(pb.model, name)
    cls.setup_anndata(adata, perturbation_key="perturbation", **setup)
    model = cls(adata)
    model.train()
    return model


def test_cells_are_controls_moved_by_the_effect_and_clipped() -> None:
    adata = make()
    model = fit("Additive", adata)
    cells = model.sample("A+C", 40, seed=1)
    source = adata[cells.obs["pb_source"]]
    expected = np.clip(log1p_cp10k(source.X).toarray() + model.estimate_ate(["A+C"]).X, 0, None)
    np.testing.assert_allclose(cells.X, expected, rtol=1e-5, atol=1e-6)
    assert (expected == 0).any()
    assert set(source.obs["perturbation"]) == {"control"}
    np.testing.assert_allclose(cells.layers["sd"], np.repeat(model.estimate_ate(["A+C"]).layers["se"], 40, 0))
    assert cells.obs["pb_perturbation"].unique().tolist() == ["A+C"]
    np.testing.assert_allclose(cells.obs["pb_library"], np.asarray(source.X.sum(1)).ravel())
    assert cells.X.dtype == np.float32
    assert cells.obs_names.is_unique
    assert list(cells.var_names) == list(adata.var_names)
    assert cells.uns["perturbia"] == {
        "schema": 1,
        "kind": "readout",
        "model": "Additive",
        "modality": "rna",
        "scale": "log1p_cp10k",
        "ur_id": model.ur_id,
        "control": "observed",
        "seed": 1,
    }


@pytest.mark.filterwarnings("ignore:Observation names are not unique")
def test_a_sample_is_what_perturb_and_decode_say_of_its_cells() -> None:
    adata = make()
    model = fit("Empirical", adata)
    for scale in ("log1p_cp10k", "counts"):
        cells = model.sample("B", 30, scale=scale)
        latent = model.encode(indices=adata.obs_names.get_indexer(cells.obs["pb_source"]))
        by_hand = model.decode(model.perturb(latent, "B"), scale=scale)
        np.testing.assert_allclose(cells.X, by_hand.X, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cells.layers["sd"], by_hand.layers["sd"], rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(cells.obs["pb_library"], by_hand.obs["pb_library"])


def test_every_training_control_is_drawn_alike_and_no_other_cell() -> None:
    adata = make()
    adata.obs["pb_split"] = np.where(np.arange(adata.n_obs) % 4 == 0, "test", "train")
    cells = fit("NoChange", adata).sample("A", 9_000)
    drawn = cells.obs["pb_source"].value_counts()
    assert set(drawn.index) == {f"cell{i}" for i in range(12) if i % 4}
    assert np.abs(drawn / 1_000 - 1).max() < 5 / np.sqrt(1_000)


def test_seeds_decide_and_baselines_share_cells() -> None:
    adata = make()
    model, other = fit("Mean", adata), fit("Additive", adata.copy())
    one, same = model.sample("A", 20, seed=3), model.sample("A", 20, seed=3)
    np.testing.assert_array_equal(one.X, same.X)
    assert one.obs["pb_source"].tolist() == other.sample("A", 20, seed=3).obs["pb_source"].tolist()
    assert one.obs["pb_source"].tolist() != model.sample("A", 20, seed=4).obs["pb_source"].tolist()
    fresh = [model.sample("A", 20, seed=None).obs["pb_source"].tolist() for _ in range(2)]
    assert fresh[0] != fresh[1]


@pytest.mark.parametrize(
    ("query", "treated"),
    [("A", ["A"]), ("A+B", ["A+B"]), ("A+C", ["A", "C"]), ("B+C", ["C"]), ("A+B+C", ["A", "C"])],
)
def test_batches_are_those_of_the_effect(query: str, treated: list[str]) -> None:
    """Of the exact perturbation, else the mean of the members that were measured alone: B was not, in batch z no control."""
    rng = np.random.default_rng(2)
    labels = np.array(["control"] * 20 + ["A"] * 10 + ["C"] * 10 + ["A+B"] * 10)
    batch = rng.choice(["x", "y", "z"], len(labels), p=[0.5, 0.3, 0.2])
    batch[:20] = np.where(np.arange(20) < 5, "x", "y")
    model = fit("Additive", make(list(labels), batch=batch), batch_key="batch")
    share = {"x": 0.0, "y": 0.0}
    for label in treated:
        own = pd.Series(batch[labels == label]).value_counts(normalize=True).reindex(["x", "y", "z"], fill_value=0)
        for b, of_all in (("x", 0.25), ("y", 0.75)):
            share[b] += (own[b] + own["z"] * of_all) / len(treated)
    drawn = model.sample(query, 20_000).obs["pb_source"]
    found = pd.Series(batch, index=model.adata.obs_names)[drawn].value_counts(normalize=True)
    assert found["x"] == pytest.approx(share["x"], abs=0.02)
    assert found["y"] == pytest.approx(share["y"], abs=0.02)


def test_an_unmeasured_query_takes_controls_of_all_batches() -> None:
    labels = ["control"] * 12 + ["A"] * 6 + ["B"] * 6
    batch = ["x"] * 9 + ["y"] * 3 + ["y"] * 12
    adata = make(labels, batch=batch, pb_split=["train"] * 18 + ["test"] * 6)
    model = fit("Mean", adata, batch_key="batch")
    assert set(model.sample("A", 50).obs["pb_source"]) == {"cell9", "cell10", "cell11"}
    assert model.sample("B", 500).obs["pb_source"].nunique() == 12


def test_means_move_by_the_effect() -> None:
    adata = make()
    adata.X = np.random.default_rng(0).normal(size=adata.shape).astype(np.float32)
    model = fit("Additive", adata, scale="zscore")
    cells = model.sample("A+C", 20_000)
    expected = adata.X[:12].mean(0) + model.estimate_ate(["A+C"]).X[0]
    np.testing.assert_allclose(cells.X.mean(0), expected, atol=0.05)
    assert "pb_library" not in cells.obs
    assert cells.X.min() < 0


def test_probabilities_stay_probabilities() -> None:
    adata = make()
    adata.X = np.random.default_rng(0).random(adata.shape).astype(np.float32)
    cells = fit("Additive", adata, scale="probability").sample("A+B+C", 200)
    assert (cells.X >= 0).all()
    assert (cells.X <= 1).all()


def test_bad_input(tmp_path) -> None:
    model = fit("Empirical", make())
    for arguments, error, match in (
        ({"query": "Z"}, UnknownPerturbation, "'Z'"),
        ({"query": "A+C"}, UnsupportedQuery, "combination"),
        ({"query": "A", "n_samples": 0}, ValueError, "n_samples: expected a positive integer, got 0"),
        ({"query": "A", "n_samples": 2.5}, ValueError, "n_samples"),
        ({"query": "A", "scale": "zscore"}, ScaleError, "zscore"),
    ):
        with pytest.raises(error, match=match):
            model.sample(**arguments)
    with pytest.raises(NotTrainedError):
        pb.model.Empirical(model.adata).sample("A")
    model.save(tmp_path / "model")
    load = pb.model.Empirical.load
    assert load(tmp_path / "model", adata=make(), accelerator="cpu").sample("A", 7).n_obs == 7
    with pytest.raises(ValueError, match="adata: expected the training data.*got none"):
        load(tmp_path / "model", adata=False, accelerator="cpu").sample("A")
    with pytest.raises(ValueError, match="at least 34 cells, got 25"):
        load(tmp_path / "model", adata=make()[:25].copy(), accelerator="cpu").sample("A")
    model.train_indices_ = np.arange(12, 30)
    with pytest.raises(ControlError, match="training data"):
        model.sample("A")
