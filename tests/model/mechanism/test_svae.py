"""sVAE+: recovery, its published inference, the origin without controls, and new interventions."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch

import perturbia as pb
from perturbia.errors import ControlError, UnsupportedQuery
from perturbia.metrics import latent_mcc, linear_r2, mask_scores, match_latents
from perturbia.model.mechanism._global_updates import ClosedFormUpdates
from perturbia.model.mechanism._update_schedule import UpdateSchedule

from .conftest import QUIET

if TYPE_CHECKING:
    from anndata import AnnData

SMALL = {"n_perturbations": 24, "n_latent": 4, "n_genes": 40, "n_hidden": 20, "cells_per_perturbation": 80}


def a_screen(**changes: Any) -> AnnData:
    return pb.datasets.simulate_svae(**{**SMALL, "n_targets": (1, 1), "library_size": 5000.0, **changes})


def fit(adata: AnnData, *, control: str | None = None, train: dict | None = None, **init: Any) -> pb.model.SVAE:
    pb.model.SVAE.setup_anndata(adata, layer="counts", perturbation_key="perturbation", control=control)
    model = pb.model.SVAE(adata, **{"n_latent": 4, "n_hidden": 32, "n_layers": 1, **init})
    model.train(**{"max_steps": 1200, "batch_size": 128, "plan_kwargs": {"lr": 5e-3}, **QUIET, **(train or {})})
    return model


@pytest.fixture(scope="module")
def trained() -> pb.model.SVAE:
    return fit(a_screen())


def test_latents_and_targets_are_found_without_controls(trained: pb.model.SVAE) -> None:
    adata = trained.adata
    latent, true = trained.get_latent_representation(), adata.obsm["truth_latent"]
    assert linear_r2(true, latent) > 0.8
    assert latent_mcc(true, latent) > 0.88
    matching = match_latents(true, latent)
    masks = adata.uns["truth"]["masks"]
    for min_effect in (None, "gap"):
        found = trained.get_intervention_targets(min_effect=min_effect).to_numpy()
        assert mask_scores(masks, found, matching=matching).f1 > 0.8, min_effect
    # where most interventions leave a latent is zero
    shifts = trained.get_treatment_embeddings(masked=False).to_numpy()
    assert np.abs(np.median(shifts, axis=0)).max() < 0.6


def test_targets_by_size(trained: pb.model.SVAE) -> None:
    every, large = (trained.get_intervention_targets(min_effect=size) for size in (None, 2.0))
    shift = np.abs(trained.get_treatment_embeddings(masked=False).to_numpy())
    assert every.index.tolist() == trained.perturbations
    np.testing.assert_array_equal(large.to_numpy() > 0, shift >= 2.0)
    binary = trained.get_intervention_targets(kind="binary")
    np.testing.assert_array_equal(binary.to_numpy(), every.to_numpy() > 0.5)
    # the cut is where the two groups lie apart most
    cut = trained.get_intervention_targets(min_effect="gap").to_numpy() > 0
    inside = sum(((part - part.mean()) ** 2).sum() for part in (shift[cut], shift[~cut]))
    for other in np.linspace(shift.min(), shift.max(), 50)[1:-1]:
        split = [shift[shift >= other], shift[shift < other]]
        assert inside <= sum(((part - part.mean()) ** 2).sum() for part in split) + 1e-4


@pytest.mark.parametrize("sparsity", ["beta", "l1", "none"])
def test_the_published_inference(sparsity: str, tmp_path) -> None:
    """It fits as well; its axes are found by the rotation afterwards."""
    adata = a_screen(n_controls=200)
    model = fit(adata, control="control", inference="straight_through", sparsity=sparsity)
    shifts = model.get_treatment_embeddings()
    assert np.abs(shifts).max().max() > 1.0
    latent, true = model.get_latent_representation(), adata.obsm["truth_latent"]
    assert linear_r2(true, latent) > 0.7
    adata.obsm["X_svae"] = latent
    pb.tl.sparse_rotation(adata, use_rep="X_svae")
    assert latent_mcc(true, adata.obsm["X_svae_rotated"]) > max(0.8, latent_mcc(true, latent) - 0.02)
    if sparsity == "none":
        assert model.get_intervention_targets().min().min() == 1
    model.save(tmp_path / "model")
    loaded = pb.model.SVAE.load(tmp_path / "model", adata=adata)
    np.testing.assert_array_equal(loaded.estimate_ate(["P01"], n_draws=0).X, model.estimate_ate(["P01"], n_draws=0).X)
    assert np.isfinite(model.estimate_ate(["P01"], n_draws=5).layers["sd"]).all()


def test_more_sparsity_closes_masks() -> None:
    adata = a_screen(cells_per_perturbation=40)
    rates = []
    for weight in (0.0, 50.0):
        options = {"inference": "straight_through", "sparsity": "l1", "sparsity_weight": weight}
        train = {"max_steps": 300, "plan_kwargs": {"lr": 5e-3, "global_lr_factor": 10.0}}
        rates.append(fit(adata.copy(), train=train, **options).get_intervention_targets().to_numpy().mean())
    assert rates[1] < rates[0] - 0.05


def test_new_interventions_are_group_means(tmp_path) -> None:
    adata = a_screen()
    labels = adata.obs["perturbation"].astype(str)
    new = labels.isin(["P03", "P24"]).to_numpy()
    model = fit(adata[~new].copy())
    later = adata[new].copy()
    latent = model.get_latent_representation
    before = {name: value.clone() for name, value in model.module.state_dict().items()}
    extended = model.fit_interventions(later)
    assert extended.perturbations == [*model.perturbations, "P03", "P24"]
    for name, value in before.items():
        after = extended.module.state_dict()[name]
        if after.shape == value.shape:
            assert torch.equal(after, value), name
        else:
            assert torch.equal(after[: len(value)], value), name
    encoded = extended.get_latent_representation()
    shifts = extended.get_treatment_embeddings()
    for name in ("P03", "P24"):
        mean = encoded[(later.obs["perturbation"] == name).to_numpy()].mean(0)
        np.testing.assert_allclose(shifts.loc[name], mean, atol=1e-4)
    np.testing.assert_array_equal(shifts.iloc[:-2], model.get_treatment_embeddings())
    sparse = model.fit_interventions(adata[new].copy(), sparse=True)
    assert (sparse.get_intervention_targets().loc[["P03", "P24"]] < 0.5).any().any()
    assert latent().shape == (model.adata.n_obs, 4)
    extended.save(tmp_path / "model")
    loaded = pb.model.SVAE.load(tmp_path / "model", adata=later)
    np.testing.assert_array_equal(loaded.get_treatment_embeddings(), shifts)


def test_moving_the_origin_leaves_the_likelihood(trained: pb.model.SVAE) -> None:
    import copy

    module = copy.deepcopy(trained.module)
    z = torch.randn(5, 4, generator=torch.Generator().manual_seed(0))
    library = torch.full((5, 1), 1000.0)
    batch = torch.zeros((5, 1), dtype=torch.long)
    before = module.generative(z, library, batch)["px"].mu
    x = torch.from_numpy(trained.adata.layers["counts"][:5].toarray())
    guide = module.encode(x, None, batch)
    origin = torch.tensor([1.0, -2.0, 0.5, 3.0])
    module.translate(origin)
    torch.testing.assert_close(module.generative(z - origin, library, batch)["px"].mu, before, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(module.encode(x, None, batch).loc, guide.loc - origin, rtol=1e-4, atol=1e-5)


def test_the_origin_is_found_only_without_controls() -> None:
    with_controls = a_screen(n_controls=100, cells_per_perturbation=20)
    model = fit(with_controls, control="control", train={"max_steps": 20})
    assert not model._centres(model._registered_dosage(model.adata, np.arange(model.adata.n_obs)))
    schedule = UpdateSchedule(10)
    source = model._registered_dosage(model.adata, np.arange(50))
    updates = ClosedFormUpdates(model.module, cells=None, dosage=source, schedule=schedule)
    assert not updates.centre


def test_capabilities_and_queries(trained: pb.model.SVAE) -> None:
    assert "combination" not in trained.capabilities
    with pytest.raises(UnsupportedQuery, match="expected a single perturbation"):
        trained.estimate_ate(["P01+P02"])
    with pytest.raises(ControlError, match="expected control cells"):
        trained.estimate_ate(["P01"])
    assert trained.estimate_ate(["P01"], base="prior", n_draws=0).shape == (1, 40)
    assert trained.sample("P01", 7).shape == (7, 40)
    assert "SVAE of 40 features" in repr(trained)


def test_bad_input() -> None:
    pairs = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=1, n_genes=20, n_latent=2)
    pb.model.SVAE.setup_anndata(pairs, perturbation_key="perturbation")
    with pytest.raises(UnsupportedQuery, match="adata: expected one perturbation a cell, got 60 cells of combinations"):
        pb.model.SVAE(pairs)
    doses = pb.datasets.simulate_screen(n_perturbations=3, n_combinations=0, n_genes=20, n_latent=2, doses=(0.5, 1.0))
    pb.model.SVAE.setup_anndata(doses, perturbation_key="perturbation")
    with pytest.raises(UnsupportedQuery, match="adata: expected doses of 1, got 0.5"):
        pb.model.SVAE(doses)
    adata = a_screen(cells_per_perturbation=10)
    with pytest.raises(ControlError, match="control: expected the label of control cells, got None; SAMSVAE"):
        pb.model.SAMSVAE.setup_anndata(adata, perturbation_key="perturbation", control=None)
    with pytest.raises(ControlError, match="control"):
        pb.model.SVAE.setup_anndata(adata, perturbation_key="perturbation")
    pb.model.SVAE.setup_anndata(adata, perturbation_key="perturbation", control=None)
    for init, match in (
        ({"inference": "exact"}, "inference: expected one of"),
        ({"inference": "straight_through", "sparsity": "l0"}, "sparsity: expected one of"),
        ({"inference": "straight_through", "sparsity_weight": 0.1}, "sparsity_weight: expected at least 1"),
        ({"embedding_prior_scale": -1.0}, "embedding_prior_scale: expected a positive number"),
        ({"mask_prior": "flat"}, "mask_prior: expected one of"),
    ):
        with pytest.raises(ValueError, match=match):
            pb.model.SVAE(adata, **init)


@pytest.mark.parametrize(("kind", "min_effect"), [("shape", None), ("prob", -1.0), ("prob", "cut")])
def test_bad_targets(trained: pb.model.SVAE, kind: str, min_effect: Any) -> None:
    with pytest.raises(ValueError, match="kind|min_effect"):
        trained.get_intervention_targets(kind=kind, min_effect=min_effect)
