"""Every term of the loss against an independent derivation, for every combination of switches."""

from __future__ import annotations

from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import torch
from scvi import REGISTRY_KEYS

from .conftest import GUIDES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType

    from perturbia.model.mechanism._mechanism_module import MechanismModule

N_CELLS, N_OBS = 11, 40
PRIOR = {"mask_prior_prob": 0.15, "embedding_prior_scale": 1.7}
COMBINATIONS = [
    pytest.param(
        {
            "basal_encoder": basal,
            "global_update": update,
            "global_kl": kl,
            "gene_likelihood": likelihood,
            "n_particles": n,
        },
        id=f"{basal}-{update}-{kl}-{likelihood}-{n}",
    )
    for (basal, update), kl, likelihood, n in product(
        GUIDES, ("closed", "plated"), ("nb", "zinb", "poisson", "normal"), (1, 3)
    )
]


def a_batch(*, counts: bool, covariates: bool, size_factor: bool) -> dict[str, torch.Tensor]:
    rng = np.random.default_rng(3)
    x = rng.poisson(2.0, (N_CELLS, 5)) + (np.arange(5) == 0) if counts else rng.normal(size=(N_CELLS, 5))
    dosage = rng.choice([0.0, 0.5, 1.0, 2.0], (N_CELLS, 3), p=[0.6, 0.1, 0.2, 0.1])
    dosage[0] = 0
    tensors = {
        REGISTRY_KEYS.X_KEY: x,
        "perturbation": dosage,
        REGISTRY_KEYS.BATCH_KEY: rng.integers(0, 2 if covariates else 1, (N_CELLS, 1)),
    }
    if covariates:
        tensors[REGISTRY_KEYS.CAT_COVS_KEY] = np.stack([rng.integers(0, 3, N_CELLS), np.zeros(N_CELLS, int)], 1)
        tensors[REGISTRY_KEYS.CONT_COVS_KEY] = rng.normal(size=(N_CELLS, 2))
    if size_factor:
        tensors[REGISTRY_KEYS.SIZE_FACTOR_KEY] = rng.uniform(5, 20, (N_CELLS, 1))
    return {
        key: torch.from_numpy(value if value.dtype.kind == "i" and "X" not in key else value.astype(np.float32))
        for key, value in tensors.items()
    }


def check_against(
    oracle: ModuleType, module: MechanismModule, tensors: dict[str, torch.Tensor], switches: dict[str, Any]
) -> None:
    torch.manual_seed(5)
    inference, generative, output = module(tensors, loss_kwargs={"kl_weight": 0.6, "n_obs": N_OBS})
    array = {key: value.numpy().astype(np.float64) for key, value in tensors.items()}
    x = array[REGISTRY_KEYS.X_KEY]
    categories = [(tensors[REGISTRY_KEYS.BATCH_KEY].numpy().ravel(), 2 if REGISTRY_KEYS.CAT_COVS_KEY in array else 1)]
    if REGISTRY_KEYS.CAT_COVS_KEY in array:
        codes = tensors[REGISTRY_KEYS.CAT_COVS_KEY].numpy()
        categories += [(codes[:, 0], 3), (codes[:, 1], 1)]
    draws = {"z": inference["z"].detach().numpy().astype(np.float64).reshape(-1, N_CELLS, 2)}
    if switches["basal_encoder"] != "residual":
        rows, *drawn = inference["draws"]
        for name, draw in zip(("mask", "embedding"), drawn, strict=True):
            # a treatment that no cell of the batch was given is not drawn
            draws[name] = np.zeros((len(draw), 3, 2))
            draws[name][:, rows.numpy()] = draw.detach().numpy()
    expected = oracle.loss(
        {name: value.numpy().astype(np.float64) for name, value in module.state_dict().items()},
        {
            "x": x,
            "dosage": array["perturbation"],
            "covariates": oracle.design(array.get(REGISTRY_KEYS.CONT_COVS_KEY), *categories),
            "library": array.get(REGISTRY_KEYS.SIZE_FACTOR_KEY, x.sum(1, keepdims=True)),
        },
        draws,
        switches=switches,
        prior={**PRIOR, "slab": "conditional" if switches["basal_encoder"] == "residual" else "mean_field"},
        n_obs=N_OBS,
        kl_weight=0.6,
    )
    assert len(draws["z"]) == switches["n_particles"]
    np.testing.assert_allclose(
        output.reconstruction_loss["reconstruction_loss"].detach(), expected["reconstruction"], rtol=1e-4
    )
    np.testing.assert_allclose(output.kl_local["basal"].detach(), expected["kl_local"], rtol=1e-4)
    np.testing.assert_allclose(output.kl_global_sum, expected["kl_global"], rtol=1e-4)
    np.testing.assert_allclose(output.loss.detach(), expected["loss"], rtol=1e-4)


@pytest.mark.parametrize("switches", COMBINATIONS)
def test_terms_of_the_loss(oracle: ModuleType, random_module: Callable, switches: dict[str, Any]) -> None:
    module = random_module(**switches, **PRIOR)
    counts = switches["gene_likelihood"] != "normal"
    check_against(oracle, module, a_batch(counts=counts, covariates=False, size_factor=False), switches)


@pytest.mark.parametrize(("basal", "update"), GUIDES)
@pytest.mark.parametrize("n_particles", [1, 3])
def test_covariates_size_factors_and_depth(
    oracle: ModuleType, random_module: Callable, basal: str, update: str, n_particles: int
) -> None:
    switches = {
        "basal_encoder": basal,
        "global_update": update,
        "global_kl": "plated",
        "gene_likelihood": "nb",
        "n_particles": n_particles,
    }
    module = random_module(**switches, **PRIOR, n_batch=2, n_cats_per_cov=[3, 1], n_continuous_cov=2, n_layers=2)
    check_against(oracle, module, a_batch(counts=True, covariates=True, size_factor=True), switches)


@pytest.mark.parametrize(("basal", "update"), GUIDES)
def test_latents_are_drawn_from_the_guide(oracle: ModuleType, random_module: Callable, basal: str, update: str) -> None:
    """Standardised by the oracle's mean and spread, many draws of the latents are standard normal."""
    module = random_module(basal_encoder=basal, global_update=update, **PRIOR)
    tensors = a_batch(counts=True, covariates=False, size_factor=False)
    torch.manual_seed(0)
    n = 4000
    outputs = module.inference(**module._get_inference_input(tensors), n_samples=n)
    weights = {name: value.numpy().astype(np.float64) for name, value in module.state_dict().items()}
    x, dosage = tensors["X"].numpy(), tensors["perturbation"].numpy()
    offset = 0.0
    if basal != "residual":
        rows, mask, embedding = (draw.detach().numpy() for draw in outputs["draws"])
        offset = dosage[:, rows] @ (mask * embedding)
    seen = offset if basal == "correlated" else None
    loc, scale = oracle.guide(weights, x, np.zeros((N_CELLS, 0)), counts=True, offset=seen)
    standard = (outputs["z"].detach().numpy() - offset - loc) / scale
    np.testing.assert_allclose(standard.mean(0), 0, atol=5 / n**0.5)
    np.testing.assert_allclose(standard.std(0), 1, atol=5 / (2 * n) ** 0.5)


def test_gradient_steps_move_what_they_should(random_module: Callable) -> None:
    """Closed-form globals get no gradient, the others do from every term; stride 4 keeps the value of the loss."""
    tensors = a_batch(counts=True, covariates=False, size_factor=False)
    for basal, update in GUIDES:
        module = random_module(basal_encoder=basal, global_update=update, **PRIOR).train()
        torch.manual_seed(0)
        loss = module(tensors, loss_kwargs={"n_obs": N_OBS})[2].loss
        loss.backward()
        for name, parameter in module.named_parameters():
            if name.startswith("effects.") and update == "closed_form":
                assert parameter.grad is None, name
            else:
                assert parameter.grad.abs().sum() > 0, (basal, name)
        torch.manual_seed(0)
        again = module.eval()(tensors, loss_kwargs={"n_obs": N_OBS})[2].loss
        assert again.item() == loss.item()
