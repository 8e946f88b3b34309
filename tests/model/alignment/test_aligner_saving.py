"""Saved aligners, and cells that an aligner has not seen."""

from __future__ import annotations

import mudata
import numpy as np
import pandas as pd
import pytest
import torch
from scipy import sparse

import perturbia as pb
from perturbia.errors import FeatureMismatch, LabelError, ModalityError, ScaleError
from perturbia.stats import propensity_scores

ROLES = ("source", "target")
Aligner = pb.model.PropensityAligner


def matrix(coupling) -> np.ndarray:
    return coupling.to_sparse(1.0, 10**6).toarray()


def everything(model) -> dict[str, np.ndarray]:
    return {role: model.get_propensity(role) for role in ROLES} | {"coupling": matrix(model.align(key_added=None))}


def assert_same(one: dict[str, np.ndarray], other: dict[str, np.ndarray]) -> None:
    for name, values in one.items():
        np.testing.assert_array_equal(values, other[name], err_msg=name)


@pytest.mark.parametrize(
    ("setup", "init", "train"),
    [
        ({}, {}, {}),
        ({}, {"n_folds": 3}, {"temperature": True}),
        ({"source_rep": "X_rep"}, {"encoders": {"source": torch.nn.Linear(5, 3)}}, {}),
        ({"control": ["control", "P01"], "sep": None}, {}, {}),
    ],
)
def test_a_loaded_model_gives_the_same_scores_and_matches(fit, simulate, tmp_path, setup, init, train):
    mdata = simulate()
    mdata["source"].obsm["X_rep"] = mdata["source"].X[:, :5].copy()
    model = fit(mdata, setup=setup, init=init, **train)
    before = everything(model)
    model.save(tmp_path / "model")
    for data in (mdata, mdata.copy()):
        loaded = Aligner.load(tmp_path / "model", adata=data)
        assert_same(everything(loaded), before)
        assert (loaded.labels, loaded.modalities) == (model.labels, model.modalities)
        pd.testing.assert_frame_equal(loaded.classification_, model.classification_)
        table = loaded.diagnose(n_permutations=20)
        pd.testing.assert_frame_equal(table, model.diagnose(n_permutations=20))
    assert repr(loaded) == repr(model)


def test_a_model_is_saved_with_its_data(fit, simulate, tmp_path):
    model = fit(simulate())
    model.align()
    before = everything(model)
    model.save(tmp_path / "model", save_anndata=True)
    loaded = Aligner.load(tmp_path / "model")
    assert_same(everything(loaded), before)
    pb.tl.impute(loaded.adata, source="source")
    assert loaded.adata["source"].obsm["imputed_target"].shape == (100, 30)


def test_a_model_without_data_scores_cells_that_it_is_given(fit, simulate, tmp_path):
    mdata = simulate()
    model = fit(mdata, init={"n_folds": 2})
    model.save(tmp_path / "model")
    loaded = Aligner.load(tmp_path / "model", adata=False)
    for role in ROLES:
        np.testing.assert_array_equal(loaded.get_propensity(role, mdata[role]), model.get_propensity(role))
    assert "5 shared labels" in repr(loaded)
    for use in (
        lambda: loaded.get_propensity("source"),
        loaded.align,
        loaded.diagnose,
        loaded.translate,
        loaded.train,
        lambda: loaded.check_batches("batch"),
    ):
        with pytest.raises(ValueError, match="made without any"):
            use()


def test_a_model_is_loaded_with_some_of_its_cells_and_others(fit, simulate, tmp_path):
    """Folds and held-out cells are found by name, so that no cell is scored by a classifier that has seen it."""
    mdata = simulate()
    model = fit(mdata, init={"n_folds": 3})
    model.save(tmp_path / "model")
    rng = np.random.default_rng(0)
    kept = {role: rng.permutation(100)[:60] for role in ROLES}
    fresh = simulate(seed=1)
    parts = {}
    for role in ROLES:
        new = fresh[role][:10].copy()
        new.obs_names = [f"new_{role}_{i}" for i in range(10)]
        old = mdata[role][kept[role]].copy()
        joined = mudata.AnnData(
            np.concatenate([old.X, new.X]), obs=pd.concat([old.obs, new.obs])[["perturbation"]], var=old.var
        )
        parts[role] = joined
    loaded = Aligner.load(tmp_path / "model", adata=mudata.MuData(parts))
    for role in ROLES:
        scores = loaded.get_propensity(role)
        np.testing.assert_allclose(scores[:60], model.get_propensity(role)[kept[role]], rtol=1e-5, atol=1e-5)
        single = [
            propensity_scores(one, class_counts=classifier.class_counts.numpy())
            for one, classifier in zip(model._logits(role, fresh[role]), model._classifiers(role), strict=True)
        ]
        np.testing.assert_allclose(scores[60:], np.mean(single, axis=0)[:10], rtol=1e-5, atol=1e-5)
    assert loaded.align().shape == (70, 70)
    table = loaded.diagnose(n_permutations=20)
    assert table["n_source"].sum() == 70
    assert table["auroc_source"].notna().all()


def test_features_of_loaded_data_are_found_by_name(fit, simulate, tmp_path):
    mdata = simulate()
    model = fit(mdata)
    model.save(tmp_path / "model")
    order = np.random.default_rng(0).permutation(mdata["source"].n_vars)
    parts = {"source": mdata["source"][:, order].copy(), "target": mdata["target"].copy()}
    loaded = Aligner.load(tmp_path / "model", adata=mudata.MuData(parts))
    np.testing.assert_allclose(loaded.get_propensity("source"), model.get_propensity("source"), rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(matrix(loaded.align()), matrix(model.align()), atol=1e-5)
    loaded.save(tmp_path / "again")
    again = Aligner.load(tmp_path / "again", adata=mdata)
    np.testing.assert_array_equal(again.get_propensity("source"), model.get_propensity("source"))


def test_loading_with_data_without_labels_writes_nothing(fit, simulate, tmp_path):
    mdata = simulate()
    fit(mdata).save(tmp_path / "model")
    other = simulate()
    del other["target"].obs["perturbation"]
    with pytest.raises(LabelError, match="obs of modality 'target'"):
        Aligner.load(tmp_path / "model", adata=other)
    for role in ROLES:
        assert "_perturbia_label" not in other[role].obs


def test_transfer_to_labels_that_were_not_registered(fit, simulate, tmp_path):
    mdata = simulate()
    model = fit(mdata, setup={"control": "control"})
    model.save(tmp_path / "model")
    other = mdata.copy()
    for role in ROLES:
        labels = other[role].obs["perturbation"].astype(str)
        other[role].obs["perturbation"] = labels.replace({"P01": "unheard-of"})
    with pytest.warns(UserWarning, match="not registered: 'unheard-of'"):
        loaded = Aligner.load(tmp_path / "model", adata=other)
    coupling = loaded.align()
    assert "P01" not in coupling.groups
    assert (coupling.row_mass > 0).sum() == 80


def test_another_registration_of_the_same_data_leaves_a_model_its_labels(fit, simulate):
    mdata = simulate()
    model = fit(mdata)
    before = matrix(model.align(key_added=None))
    for role in ROLES:
        mdata[role].obs["cell_type"] = np.resize(["T", "B"], 100)
    Aligner.setup_mudata(mdata, perturbation_key="cell_type")
    other = Aligner(mdata, n_hidden=4)
    assert len(other.labels) == 2
    np.testing.assert_array_equal(matrix(model.align(key_added=None)), before)
    assert set(other._codes_of("source")) == {0, 1}


# new cells --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [np.asarray, sparse.csr_matrix, sparse.csc_matrix, lambda X: X.astype(np.float64)])
def test_new_cells_of_one_modality(fit, simulate, form):
    mdata = simulate()
    model = fit(mdata)
    new = mdata["target"].copy()
    new.X = form(new.X)
    expected = model.get_propensity("target")
    shuffled = np.random.default_rng(0).permutation(new.n_vars)
    surplus = mudata.AnnData(np.ones((100, 2), np.float32), obs=new.obs, var=pd.DataFrame(index=["x", "y"]))
    wider = mudata.AnnData(
        np.hstack([surplus.X, mdata["target"].X[:, shuffled]]),
        obs=new.obs,
        var=pd.DataFrame(index=["x", "y", *new.var_names[shuffled]]),
    )
    wider.X = form(wider.X)
    for data in (new, new[:, shuffled].copy(), new[:, shuffled], wider, mudata.MuData({"target": new})):
        np.testing.assert_allclose(model.get_propensity("target", data), expected, rtol=1e-4, atol=1e-4)
    some = model.get_propensity("target", new, indices=[5, 2], batch_size=1)
    np.testing.assert_allclose(some, expected[[5, 2]], rtol=1e-4, atol=1e-4)
    mask = np.arange(100) % 7 == 0
    np.testing.assert_array_equal(model.get_latent_representation("target", indices=mask), expected[mask])


def test_new_cells_need_no_labels_and_their_names_may_repeat(fit, simulate):
    mdata = simulate()
    model = fit(mdata, init={"n_folds": 2})
    new = mudata.AnnData(mdata["source"].X[:4], var=mdata["source"].var)
    new.obs_names = ["0", "0", "1", "1"]
    assert model.get_propensity("source", new).shape == (4, 5)


def test_new_cells_that_can_not_be_read(fit, simulate):
    mdata = simulate()
    model = fit(mdata, setup={"target_rep": "truth_latent"})
    missing = mdata["source"][:, 1:].copy()
    with pytest.raises(FeatureMismatch, match="1 are missing: 'source_feature_01'"):
        model.get_propensity("source", missing)
    with pytest.raises(FeatureMismatch, match="missing"):
        model.get_propensity("source", mdata["target"])
    spoilt = mdata["source"].copy()
    spoilt.X[3, 3] = np.nan
    with pytest.raises(ScaleError, match="1 NaN or infinite"):
        model.get_propensity("source", spoilt)
    narrow = mdata["target"].copy()
    narrow.obsm["truth_latent"] = narrow.obsm["truth_latent"][:, :1]
    with pytest.raises(ValueError, match="expected the 2 registered features of 'target', got 1"):
        model.get_propensity("target", narrow)
    del narrow.obsm["truth_latent"]
    with pytest.raises(FeatureMismatch, match="use_rep: expected a key"):
        model.get_propensity("target", narrow)
    with pytest.raises(ModalityError, match="expected the modality 'target'"):
        model.get_propensity("target", mudata.MuData({"rna": mdata["source"].copy()}))
    with pytest.raises(ValueError, match="batch_size"):
        model.get_propensity("source", batch_size=0)
    with pytest.raises(ValueError, match="kind: expected one of"):
        model.get_propensity("source", kind="logit")
