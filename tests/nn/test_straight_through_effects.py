from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import stats

from perturbia.nn import GivenTreatments, StraightThroughEffects

T, L = 3, 2


def effects(**options: object) -> StraightThroughEffects:
    torch.manual_seed(0)
    module = StraightThroughEffects(T, L, **options)
    with torch.no_grad():
        if module.sparsity != "none":
            module.mask_logit.copy_(torch.randn(T, L))
    return module


GIVEN = GivenTreatments.of_doses(torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0], [0, 0, 1]]).repeat(2000, 1))


def test_each_cell_draws_a_mask_of_its_own() -> None:
    module = effects().train()
    shift, variance = module.offset(GIVEN)
    assert variance.abs().max() == 0
    cells = shift.detach().reshape(2000, 4, L)
    assert cells[:, 0].abs().max() == 0
    for t in range(T):
        for latent in range(L):
            values = cells[:, t + 1, latent]
            size = float(module.mean[t, latent].detach())
            assert set(values.unique().tolist()) == {0.0, size}
            share = float((values != 0).float().mean())
            assert abs(share - float(module.inclusion[t, latent])) < 5 * 0.5 / 2000**0.5


def test_expectations_do_not_sample() -> None:
    module = effects().eval()
    shift, variance = module.offset(GIVEN)
    probability, size = module.inclusion.detach(), module.mean.detach()
    torch.testing.assert_close(shift[1:4].detach(), probability * size)
    torch.testing.assert_close(variance[1:4].detach(), probability * (1 - probability) * size**2)


@pytest.mark.parametrize("weight", [1.0, 2.0, 10.0])
def test_the_beta_prior_is_that_of_the_probabilities(weight: float) -> None:
    module = effects(sparsity="beta", sparsity_weight=weight)
    expected = -stats.beta.logpdf(module.inclusion.detach().numpy(), 1, weight)
    np.testing.assert_allclose(module.kl().detach(), expected, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(module.total_kl(500).item(), expected.sum(), rtol=1e-4, atol=1e-5)


def test_other_charges() -> None:
    module = effects(sparsity="l1", sparsity_weight=0.3)
    np.testing.assert_allclose(module.total_kl(200).item(), 200 * 0.3 * module.inclusion.mean().item(), rtol=1e-6)
    open_ = effects(sparsity="none").train()
    assert open_.total_kl() == 0
    assert open_.inclusion.min() == 1
    shift, _ = open_.offset(GIVEN)
    torch.testing.assert_close(shift[1:4], open_.mean)


def test_gradients_reach_masks_and_shifts() -> None:
    module = effects().train()
    shift, _ = module.offset(GIVEN)
    (shift.sum() + module.total_kl()).backward()
    assert module.mask_logit.grad.abs().min() > 0
    assert module.mean.grad.abs().min() > 0
    assert not module.log_sd.requires_grad


def test_draws_are_of_masks_alone() -> None:
    module = effects()
    mask, embedding = module.sample(3, generator=torch.Generator().manual_seed(0))
    moved = (mask * embedding).detach()
    assert torch.isfinite(moved).all()
    torch.testing.assert_close(moved, mask * module.mean.detach())


def test_unseen_and_assigned_treatments() -> None:
    module = effects()
    module.reset_to_prior(torch.tensor([True, False, False]))
    assert module.effect()[0].abs().max() == 0
    module.assign(torch.full((T, L), 0.9), torch.full((T, L), 2.0), torch.ones(T, L), rows=torch.tensor([1]))
    torch.testing.assert_close(module.effect()[1].detach(), torch.full((L,), 1.8))
    assert module.variance()[1].max() < 0.9 * 0.1 * 4 + 1e-5


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"sparsity": "l0"}, "sparsity: expected one of"),
        ({"sparsity": "beta", "sparsity_weight": 0.5}, "sparsity_weight: expected at least 1"),
        ({"sparsity": "l1", "sparsity_weight": -1.0}, "sparsity_weight: expected at least 0"),
    ],
)
def test_bad_input(options: dict, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        StraightThroughEffects(T, L, **options)
