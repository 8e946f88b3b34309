from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from perturbia.nn import LikelihoodDecoder

LIKELIHOODS = ("nb", "zinb", "poisson", "normal")
LIBRARY = torch.tensor([[100.0], [30.0], [7.0]])


def decoder(likelihood: str, **options: object) -> LikelihoodDecoder:
    torch.manual_seed(0)
    return LikelihoodDecoder(4, 6, likelihood=likelihood, n_hidden=9, **options)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("particles", [(), (5,)])
def test_shapes_and_library(likelihood: str, particles: tuple[int, ...]) -> None:
    z = torch.randn(*particles, 3, 4, generator=torch.Generator().manual_seed(1))
    px = decoder(likelihood)(z, LIBRARY, torch.zeros(3, 1, dtype=torch.long))
    assert px.mean.shape == (*particles, 3, 6)
    if likelihood in {"nb", "poisson"}:
        np.testing.assert_allclose(px.mean.sum(-1).detach(), LIBRARY.ravel().expand(*particles, 3), rtol=1e-5)
        np.testing.assert_allclose(px.get_normalized("scale").sum(-1).detach(), 1, rtol=1e-5)
    twice = decoder(likelihood)(z, 2 * LIBRARY, torch.zeros(3, 1, dtype=torch.long))
    factor = 1 if likelihood == "normal" else 2
    np.testing.assert_allclose(twice.mean.detach(), factor * px.mean.detach(), rtol=1e-5)


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
def test_an_untrained_decoder_predicts_its_start(likelihood: str) -> None:
    model = decoder(likelihood)
    with torch.no_grad():
        model.head.weight.zero_()
    profile = torch.tensor([0.5, 0.2, 0.1, 0.1, 0.1, 0.0])
    model.start_at(profile)
    px = model(torch.randn(3, 4), LIBRARY, torch.zeros(3, 1, dtype=torch.long))
    mean = px.mu if likelihood in {"nb", "zinb"} else px.mean
    expected = profile.expand(3, 6) if likelihood == "normal" else LIBRARY * profile
    np.testing.assert_allclose(mean.detach(), expected, atol=1e-4)
    if likelihood == "zinb":
        assert px.zi_probs.mean() < 0.1


@pytest.mark.parametrize("likelihood", LIKELIHOODS)
@pytest.mark.parametrize("n_layers", [1, 2])
@pytest.mark.parametrize("n_batch", [1, 3])
def test_a_rotation_is_absorbed(likelihood: str, n_layers: int, n_batch: int) -> None:
    model = decoder(likelihood, n_layers=n_layers, n_cat_list=[n_batch], n_cont=2)
    z, batch, cont = torch.randn(5, 3, 4), torch.tensor([[0], [n_batch - 1], [0]]), torch.randn(3, 2)
    x = torch.arange(18.0).reshape(3, 6) % 4
    before = model(z, LIBRARY, batch, cont=cont).log_prob(x)
    rotation = torch.from_numpy(scipy.stats.ortho_group.rvs(4, random_state=0)).float()
    model.rotate(rotation)
    after = model(z @ rotation, LIBRARY, batch, cont=cont).log_prob(x)
    np.testing.assert_allclose(after.detach(), before.detach(), atol=1e-5, rtol=1e-5)
    unturned = model(z, LIBRARY, batch, cont=cont).log_prob(x)
    assert not np.allclose(unturned.detach(), before.detach(), atol=1e-3)


def test_covariates_matter_and_one_category_does_not() -> None:
    model = decoder("nb", n_cat_list=[3, 1], n_cont=1)
    z, ones = torch.randn(3, 4), torch.zeros(3, 1, dtype=torch.long)
    a, b = (model(z, LIBRARY, torch.full((3, 1), k), ones, cont=torch.zeros(3, 1)).mu for k in (0, 2))
    assert not torch.allclose(a, b)
    moved = model(z, LIBRARY, ones, ones, cont=torch.ones(3, 1)).mu
    assert not torch.allclose(a, moved)
    assert model.trunk.fc_layers[0][0].in_features == 4 + 3 + 1


def test_only_dispersed_likelihoods_have_a_dispersion() -> None:
    named = {likelihood: dict(decoder(likelihood).named_parameters()) for likelihood in LIKELIHOODS}
    assert {likelihood for likelihood, found in named.items() if "log_dispersion" in found} == {"nb", "zinb", "normal"}
    assert {likelihood for likelihood, found in named.items() if "zero_head.weight" in found} == {"zinb"}
