"""Groups, getters and queries; what all models have in common is in the contract."""

from __future__ import annotations

import numpy as np
import pytest

import perturbia as pb
from perturbia.errors import ControlError, LabelError, ScaleError, UnknownPerturbation, UnsupportedQuery

SETUP = {"group_key": "group", "background": "background"}


def test_groups_are_registered_and_reloaded(three_groups, fit, tmp_path) -> None:
    model = fit(three_groups, n_restarts=2)
    assert model.groups == ["background", "CD4+ T", "target"]
    assert "CD4+ T" not in repr(model)
    assert "2 target group(s)" in repr(model)
    model.save(tmp_path / "model")
    loaded = pb.model.ComparativeVAE.load(tmp_path / "model", adata=three_groups.copy(), accelerator="cpu")
    assert loaded.groups == model.groups
    assert loaded.ur_id == model.ur_id
    for kind in ("shared", "salient", "both"):
        np.testing.assert_array_equal(
            loaded.get_latent_representation(kind=kind), model.get_latent_representation(kind=kind)
        )
    assert loaded.restarts_.equals(model.restarts_)
    assert loaded.history["lambda"].equals(model.history["lambda"])
    again = loaded.get_latent_representation(three_groups[::7].copy())
    np.testing.assert_allclose(again, model.get_latent_representation()[::7], rtol=1e-4, atol=1e-5)


def test_other_data_need_no_background(three_groups, fit) -> None:
    model = fit(three_groups)
    only = three_groups[three_groups.obs["group"] == "target"].copy()
    assert model.get_latent_representation(only).shape == (only.n_obs, 7)
    elsewhere = only.copy()
    elsewhere.obs["group"] = "elsewhere"
    with pytest.raises(UnknownPerturbation, match="elsewhere"):
        model.get_latent_representation(elsewhere)


def test_salient_latents_are_zero_outside_their_block(three_groups, fit) -> None:
    model = fit(three_groups)
    salient = model.get_latent_representation(kind="salient")
    groups = three_groups.obs["group"].to_numpy()
    assert (salient[groups == "background"] == 0).all()
    for group, own in (("CD4+ T", slice(0, 2)), ("target", slice(2, 4))):
        assert (salient[groups == group][:, own] != 0).all()
        assert np.count_nonzero(salient[groups == group]) == 2 * (groups == group).sum()
    draw = model.get_latent_representation(kind="salient", give_mean=False)
    assert (draw[groups == "background"] == 0).all()
    _, variance = model.get_latent_representation(kind="salient", return_dist=True)
    assert (variance[groups == "background"] == 0).all()
    both = model.get_latent_representation()
    np.testing.assert_array_equal(both, np.hstack([model.get_latent_representation(kind="shared"), salient]))


def test_expression_without_what_is_salient(populations, fit) -> None:
    model = fit(populations, max_steps=100)
    full = model.get_normalized_expression(n_samples=3)
    shared = model.get_normalized_expression(component="shared_only", n_samples=3)
    assert list(full.columns) == list(populations.var_names)
    np.testing.assert_allclose(full.sum(1), 1, rtol=1e-4)
    is_background = (populations.obs["group"] == "background").to_numpy()
    np.testing.assert_array_equal(full[is_background], shared[is_background])
    assert np.abs(full - shared).to_numpy()[~is_background].max() > 0
    counts = model.get_normalized_expression(indices=[3, 5], library_size="latent", return_numpy=True)
    np.testing.assert_allclose(counts.sum(1), populations.X[[3, 5]].sum(1).A1, rtol=1e-4)
    with pytest.raises(ValueError, match="component: expected one of"):
        model.get_normalized_expression(component="salient")
    with pytest.raises(ValueError, match="library_size: expected a positive number"):
        model.get_normalized_expression(library_size=-1.0)


def test_bounds_by_group(three_groups, fit) -> None:
    model = fit(three_groups)
    bounds = model.get_elbo(n_samples=2)
    assert list(bounds.index) == model.groups
    assert (bounds < 0).all()
    only = np.flatnonzero(three_groups.obs["group"] == "target")
    assert list(model.get_elbo(indices=only).index) == ["target"]
    np.testing.assert_allclose(model.get_elbo(indices=only, n_samples=30)["target"], bounds["target"], rtol=0.02)
    assert model.get_elbo(seed=1)["target"] == model.get_elbo(seed=1)["target"]


def test_active_dimensions(three_groups, fit) -> None:
    table = fit(three_groups).get_active_dimensions()
    assert list(table.index) == ["z0", "z1", "z2", "s0", "s1", "s2", "s3"]
    assert table["group"].tolist() == ["all"] * 3 + ["CD4+ T"] * 2 + ["target"] * 2
    assert table["active"].equals(table["variance"] > 0.01)


def test_labels_answer_queries_of_perturbations_and_no_prior_does_not(populations, fit) -> None:
    by_label = {"group_key": None, "background": None, "perturbation_key": "perturbation"}
    model = fit(populations.copy(), setup=by_label, init={"salient_prior": "label"})
    assert model.groups == ["background", "target"]
    assert {"combination", "dose", "uncertainty"} <= model.capabilities
    means = model.get_label_means()
    assert list(means.index) == ["P01", "P02", "P03"]
    moved = model.perturb(model.encode(indices=[0]), "P01+P02@0.5")
    np.testing.assert_allclose(moved.X[0, 3:], means.loc["P01"] + 0.5 * means.loc["P02"], rtol=1e-5)
    assert (moved.layers["sd"][0, 3:] == 1).all()
    plain = fit(populations.copy(), setup=by_label)
    assert plain.capabilities == {"counts"}
    assert len(plain.get_label_means()) == 0
    assert plain.predict(None, "control").n_obs == 120
    for ask in (lambda: plain.predict(None, "P01"), plain.estimate_ate, lambda: plain.sample("P01")):
        with pytest.raises(UnsupportedQuery, match="salient_prior='label'"):
            ask()


def test_groups_as_labels(three_groups, fit) -> None:
    model = fit(three_groups, init={"salient_prior": "label", "target_prior": "learned"})
    assert model.capabilities == {"counts", "uncertainty"}
    means = model.get_label_means()
    assert list(means.index) == ["CD4+ T", "target"]
    moved = model.perturb(model.encode(indices=[0]), "CD4+ T")
    np.testing.assert_allclose(moved.X[0, 3:5], means.loc["CD4+ T"], rtol=1e-5)
    assert (moved.X[0, 5:] == 0).all()
    assert (moved.layers["sd"][0, 5:] == 0).all()
    with pytest.raises(UnsupportedQuery, match="no combinations"):
        model.perturb(model.encode(indices=[0]), {"CD4+ T": 1.0, "target": 1.0})


def test_effects_have_the_sign_of_the_data(populations, fit) -> None:
    by_label = {"group_key": None, "background": None, "perturbation_key": "perturbation"}
    init = {"salient_prior": "label", "n_hidden": 32}
    model = fit(populations, setup=by_label, init=init, max_steps=500, batch_size=128, background_first=0.0)
    effects = model.estimate_ate(scale="counts")
    mean = populations.layers["truth_mean"]
    labels = populations.obs["perturbation"].astype(str).to_numpy()
    true = np.stack([mean[labels == name].mean(0) for name in effects.obs_names]) - mean[labels == "control"].mean(0)
    assert np.corrcoef(effects.X.ravel(), true.ravel())[0, 1] > 0.6
    assert (effects.layers["sd"] > 0).any()


@pytest.mark.parametrize(
    ("setup", "error", "match"),
    [
        ({}, LabelError, "group_key, perturbation_key, perturbation_obsm_key: expected exactly one"),
        ({"group_key": "group"}, LabelError, "background: expected the label"),
        ({"group_key": "groups", "background": "background"}, LabelError, "group_key: expected a column.*'groups'"),
        ({**SETUP, "background": "controls"}, ControlError, "'controls'. Labels seen: 'background', 'target'"),
        ({**SETUP, "perturbation_key": "perturbation"}, LabelError, "perturbation_key: expected None with group_key"),
        ({"perturbation_key": "perturbation", "background": "control"}, LabelError, "background: expected None"),
        ({**SETUP, "scale": "counts", "layer": "truth_mean"}, ScaleError, "fraction"),
    ],
)
def test_registration_is_checked(populations, setup: dict, error: type[Exception], match: str) -> None:
    with pytest.raises(error, match=match):
        pb.model.ComparativeVAE.setup_anndata(populations, **setup)
    assert "_perturbia_dosage" not in populations.obsm


def test_missing_groups_are_refused(populations) -> None:
    populations.obs["group"] = populations.obs["group"].where(np.arange(populations.n_obs) > 0)
    with pytest.raises(LabelError, match="1 without one"):
        pb.model.ComparativeVAE.setup_anndata(populations, **SETUP)


@pytest.mark.parametrize(
    ("options", "error", "match"),
    [
        ({"n_latent_salient": 0}, ValueError, "n_latent_salient: expected a positive integer"),
        ({"salient_prior": "labels"}, ValueError, "salient_prior: expected one of"),
        ({"target_prior": "flow"}, ValueError, "target_prior: expected one of"),
        ({"gene_likelihood": "normal"}, ScaleError, "gene_likelihood"),
    ],
)
def test_options_of_the_model_are_checked(populations, options: dict, error: type[Exception], match: str) -> None:
    pb.model.ComparativeVAE.setup_anndata(populations, **SETUP)
    with pytest.raises(error, match=match):
        pb.model.ComparativeVAE(populations, **options)
