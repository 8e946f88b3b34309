from __future__ import annotations

import math
from itertools import product

import numpy as np
import pytest
import torch

from perturbia.nn import MaskedEffects

SLABS = ("conditional", "mean_field")


def effects(
    slab: str = "conditional", *, trainable: bool = False, seed: int = 0, n_treatments: int = 3
) -> MaskedEffects:
    generator = torch.Generator().manual_seed(seed)
    module = MaskedEffects(
        n_treatments, 2, mask_prior_prob=0.2, embedding_prior_scale=1.5, slab=slab, trainable=trainable
    )
    with torch.no_grad():
        module.mask_logit.copy_(torch.randn(n_treatments, 2, generator=generator))
        module.mean.copy_(torch.randn(n_treatments, 2, generator=generator))
        module.log_sd.copy_(0.5 * torch.randn(n_treatments, 2, generator=generator) - 0.5)
    return module


@pytest.mark.parametrize("slab", SLABS)
def test_closed_form_kl_is_the_monte_carlo_kl(slab: str) -> None:
    module = effects(slab)
    ratio = -module.log_ratio(*module.sample(400_000, generator=torch.Generator().manual_seed(1)))
    error = ratio.std(0) / len(ratio) ** 0.5
    assert error.max() < 0.005
    np.testing.assert_allclose(ratio.mean(0), module.kl().detach(), atol=1e-2)
    assert (module.kl() > 0).all()


@pytest.mark.parametrize("slab", SLABS)
def test_log_ratio_is_that_of_torch_distributions(slab: str) -> None:
    module = effects(slab)
    mask, embedding = module.sample(50, generator=torch.Generator().manual_seed(2))
    bernoulli, normal = torch.distributions.Bernoulli, torch.distributions.Normal
    prior = bernoulli(torch.tensor(0.2)).log_prob(mask) + normal(0, 1.5).log_prob(embedding)
    slab_density = normal(module.mean, module.log_sd.exp()).log_prob(embedding)
    if slab == "conditional":
        slab_density = torch.where(mask == 1, slab_density, normal(0, 1.5).log_prob(embedding))
    posterior = bernoulli(module.inclusion).log_prob(mask) + slab_density
    np.testing.assert_allclose(module.log_ratio(mask, embedding).detach(), (prior - posterior).detach(), atol=1e-5)


@pytest.mark.parametrize("slab", SLABS)
@pytest.mark.parametrize("seeded", [True, False])
def test_moments_are_those_of_draws(slab: str, *, seeded: bool) -> None:
    module = effects(slab)
    torch.manual_seed(3)
    generator = torch.Generator().manual_seed(3) if seeded else None
    n = 200_000
    with torch.no_grad():
        mask, embedding = module.sample(n, generator=generator)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    np.testing.assert_allclose(mask.mean(0), module.inclusion.detach(), atol=5 * 0.5 / n**0.5)
    masked = mask * embedding
    np.testing.assert_allclose(masked.mean(0), module.effect().detach(), atol=5 * 2 / n**0.5)
    np.testing.assert_allclose(masked.var(0), module.variance().detach(), rtol=0.03)
    closed = torch.where(mask == 0, embedding, torch.nan)
    spread = torch.from_numpy(np.nanstd(closed.numpy(), 0))
    expected = torch.full_like(spread, 1.5) if slab == "conditional" else module.log_sd.exp().detach()
    np.testing.assert_allclose(spread, expected, rtol=0.03)


def test_variance_by_enumeration() -> None:
    module = effects()
    p, mean, sd = (value.detach().numpy() for value in (module.inclusion, module.mean, module.log_sd.exp()))
    first = sum(np.where(m, p, 1 - p) * m * mean for m in (0, 1))
    second = sum(np.where(m, p, 1 - p) * m * (mean**2 + sd**2) for m in (0, 1))
    np.testing.assert_allclose(module.effect().detach(), first, rtol=1e-5)
    np.testing.assert_allclose(module.variance().detach(), second - first**2, rtol=1e-5)


def test_straight_through_gradient_is_near_that_of_the_expectation() -> None:
    """The relaxed gradient is biased, but for a linear function it has the right size and sign."""
    module = effects("mean_field", trainable=True)
    torch.manual_seed(0)
    mask, _ = module.sample(50_000, temperature=1.0)
    assert set(mask.unique().tolist()) == {0.0, 1.0}
    mask.mean(0).sum().backward()
    p = module.inclusion.detach()
    np.testing.assert_allclose(module.mask_logit.grad, p * (1 - p), rtol=0.5)


@pytest.mark.parametrize("slab", SLABS)
def test_draws_with_a_generator_are_reproducible(slab: str) -> None:
    module = effects(slab)
    one, same, other = (module.sample(4, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    for k in range(2):
        assert torch.equal(one[k], same[k])
        assert not torch.equal(one[k], other[k])
        assert one[k].shape == (4, 3, 2)


@pytest.mark.parametrize("slab", SLABS)
def test_the_prior_has_no_kl(slab: str) -> None:
    module = effects(slab)
    before = module.kl().detach().clone()
    module.reset_to_prior(torch.tensor([True, False, True]))
    kl = module.kl().detach()
    np.testing.assert_allclose(kl[[0, 2]], 0, atol=1e-6)
    np.testing.assert_array_equal(kl[1], before[1])
    np.testing.assert_allclose(module.inclusion[0].detach(), 0.2, rtol=1e-6)
    assert (module.effect()[0] == 0).all()
    np.testing.assert_allclose(
        module.log_ratio(*module.sample(100, generator=torch.Generator()))[:, 0].detach(), 0, atol=1e-6
    )


def test_assign_overwrites_everything() -> None:
    module = effects()
    inclusion = torch.tensor([[0.1, 0.9], [0.5, 1 - 1e-9], [1e-9, 0.3]], dtype=torch.float64)
    mean, sd = torch.ones(3, 2, dtype=torch.float64) * 2, torch.full((3, 2), 0.1, dtype=torch.float64)
    module.assign(inclusion, mean, sd)
    np.testing.assert_allclose(module.inclusion.detach(), inclusion, atol=2e-6)
    np.testing.assert_array_equal(module.mean.detach(), 2)
    np.testing.assert_allclose(module.log_sd.exp().detach(), 0.1, rtol=1e-6)
    assert torch.isfinite(module.kl()).all()
    assert module.mean.dtype == torch.float32


def test_a_start_knows_nothing() -> None:
    """Masks at one half, embeddings at their prior: the KL is that of one half against the prior probability alone."""
    module = MaskedEffects(4, 3, mask_prior_prob=0.1, embedding_prior_scale=2.0)
    expected = 0.5 * math.log(0.5 / 0.1) + 0.5 * math.log(0.5 / 0.9)
    np.testing.assert_allclose(module.kl().detach(), expected, rtol=1e-5)
    assert not any(parameter.requires_grad for parameter in module.parameters())
    assert all(parameter.requires_grad for parameter in MaskedEffects(2, 2, trainable=True).parameters())


def test_expected_kl_of_a_linear_model_by_enumeration() -> None:
    """`E[(f - sum d m e)^2]` from moments equals the sum over all masks."""
    module = effects()
    dosage = torch.tensor([1.0, 0.5, 2.0])
    p, mean, sd = (value.detach() for value in (module.inclusion, module.mean, module.log_sd.exp()))
    total = torch.zeros(2)
    for bits in product((0.0, 1.0), repeat=3):
        mask = torch.tensor(bits)[:, None]
        weight = torch.where(mask == 1, p, 1 - p).prod(0)
        total += weight * ((0.7 - dosage @ (mask * mean)) ** 2 + dosage**2 @ (mask * sd**2))
    moments = (0.7 - dosage @ module.effect()) ** 2 + dosage**2 @ module.variance()
    np.testing.assert_allclose(moments.detach(), total, rtol=1e-5)
