from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy import sparse, stats

from perturbia.nn import FixedMaskEffects, GivenTreatments
from perturbia.stats import SpikeSlab, update_spike_slab

T, L = 3, 2


def effects(*, is_open: bool, trainable: bool = False) -> FixedMaskEffects:
    module = FixedMaskEffects(T, L, is_open=is_open, embedding_prior_scale=1.5, trainable=trainable)
    generator = torch.Generator().manual_seed(0)
    module.assign(
        torch.zeros(T, L),
        torch.randn(T, L, generator=generator),
        torch.rand(T, L, generator=generator) + 0.2,
    )
    return module


def test_open_masks_shift_by_their_embedding() -> None:
    module = effects(is_open=True)
    mean, sd = module.mean.detach().numpy(), module.log_sd.exp().detach().numpy()
    doses = torch.tensor([[0.0, 0, 0], [1, 0, 0], [2, 0, 0.5]])
    offset, variance = module.offset(GivenTreatments.of_doses(doses))
    np.testing.assert_allclose(offset.detach(), doses.numpy() @ mean, rtol=1e-6)
    np.testing.assert_allclose(variance.detach(), doses.numpy() ** 2 @ sd**2, rtol=1e-6)
    assert module.inclusion.min() == 1
    expected = np.log(1.5 / sd) + (sd**2 + mean**2) / (2 * 1.5**2) - 0.5
    np.testing.assert_allclose(module.kl().detach(), expected, rtol=1e-5)
    np.testing.assert_allclose(module.total_kl(), expected.sum(), rtol=1e-5)


def test_open_draws_are_normal_and_scored_as_such() -> None:
    module = effects(is_open=True)
    mask, embedding = (draw.detach() for draw in module.sample(4000, generator=torch.Generator().manual_seed(1)))
    assert mask.min() == 1
    mean, sd = module.mean.detach().numpy(), module.log_sd.exp().detach().numpy()
    np.testing.assert_allclose(embedding.mean(0), mean, atol=5 * sd.max() / 4000**0.5)
    ratio = module.log_ratio(mask, embedding).detach().numpy()
    expected = stats.norm.logpdf(embedding, 0, 1.5) - stats.norm.logpdf(embedding, mean, sd)
    np.testing.assert_allclose(ratio, expected, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(-ratio.mean(0), module.kl().detach(), atol=0.1)


def test_closed_masks_shift_nothing() -> None:
    module = effects(is_open=False)
    offset, variance = module.offset(GivenTreatments.of_doses(torch.ones(2, T)))
    assert offset.abs().max() == 0
    assert variance.abs().max() == 0
    mask, embedding = module.sample(3)
    assert (mask * embedding).abs().max() == 0
    assert module.total_kl() == 0


def test_gradients_reach_embeddings_alone() -> None:
    module = effects(is_open=True, trainable=True)
    mask, embedding = module.sample(2)
    ((mask * embedding).sum() + module.total_kl()).backward()
    assert {name for name, p in module.named_parameters() if p.grad is not None} == {"mean", "log_sd"}
    assert not any(p.requires_grad for p in effects(is_open=False, trainable=True).parameters())


def test_treatments_without_cells_return_to_the_prior() -> None:
    module = effects(is_open=True)
    module.reset_to_prior(torch.tensor([True, False, False]))
    np.testing.assert_allclose(module.kl()[0].detach(), 0, atol=1e-6)
    assert module.inclusion.min() == 1


@pytest.mark.parametrize(("rate", "factor"), [(1.0, 1.0), (0.0, 0.0)])
def test_closed_form_updates_know_certain_masks(rate: float, factor: float) -> None:
    """Certain inclusion is ridge regression, certain exclusion nothing."""
    rng = np.random.default_rng(0)
    design = sparse.csr_matrix(np.eye(T)[rng.integers(0, T, 60)])
    latents = rng.normal(size=(60, L)) + design @ rng.normal(size=(T, L))
    start = SpikeSlab(np.full((T, L), 0.5), np.zeros((T, L)), np.ones((T, L)))
    found = update_spike_slab(
        start, design.T @ latents, (design.T @ design).tocsr(), prior_inclusion=rate, slab_sd=1.5, n_sweeps=30
    )
    ridge = np.linalg.solve((design.T @ design).toarray() + np.eye(T) / 1.5**2, design.T @ latents)
    np.testing.assert_allclose(found.effect, factor * ridge, rtol=1e-10)
