from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
from scipy import stats

from perturbia.nn import CorrelatedEffects

T, L = 3, 2


def effects(seed: int = 0, n_treatments: int = T) -> CorrelatedEffects:
    torch.manual_seed(seed)
    module = CorrelatedEffects(n_treatments, L, n_hidden=6, n_layers=3, mask_prior_prob=0.2, embedding_prior_scale=1.5)
    with torch.no_grad():
        for parameter in module.parameters():
            if parameter.requires_grad:
                parameter.copy_(0.7 * torch.randn(parameter.shape))
    return module


def network(module: CorrelatedEffects, mask: np.ndarray, row: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean and standard deviation of embeddings, from the weights alone: an indicator of the treatment beside the mask."""
    weights = {name: value.detach().numpy().astype(float) for name, value in module.state_dict().items()}
    first = np.concatenate([weights["mask_input.weight"], weights["row_input"].T], 1)
    hidden = first @ np.concatenate([mask, np.eye(len(weights["row_input"]))[row]]) + weights["mask_input.bias"]
    hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    for layer in ("deeper.1", "deeper.3"):
        hidden = weights[f"{layer}.weight"] @ hidden + weights[f"{layer}.bias"]
        hidden = np.where(hidden > 0, hidden, 0.01 * hidden)
    out = weights["head.weight"] @ hidden + weights["head.bias"]
    return out[:L], np.exp(out[L:] / 2)


def test_log_ratio_is_that_of_the_two_densities() -> None:
    module = effects()
    torch.manual_seed(1)
    mask, embedding = (draw.detach() for draw in module.sample(4))
    ratio = module.log_ratio(mask, embedding).detach().numpy()
    inclusion = module.inclusion.detach().numpy()
    for draw, row in product(range(4), range(T)):
        m, e = mask[draw, row].numpy(), embedding[draw, row].numpy()
        mean, sd = network(module, m, row)
        expected = stats.bernoulli.logpmf(m, 0.2) - stats.bernoulli.logpmf(m, inclusion[row])
        expected += stats.norm.logpdf(e, 0, 1.5) - stats.norm.logpdf(e, mean, sd)
        np.testing.assert_allclose(ratio[draw, row], expected, rtol=1e-4, atol=1e-5)


def test_moments_are_those_over_all_masks() -> None:
    module = effects()
    n_draws = 40_000
    module.summarise(n_draws=n_draws, chunk=1000)
    inclusion = module.inclusion.detach().numpy().astype(float)
    for row in range(T):
        first, second = np.zeros(L), np.zeros(L)
        for bits in product((0.0, 1.0), repeat=L):
            mask = np.array(bits)
            probability = np.prod(np.where(mask == 1, inclusion[row], 1 - inclusion[row]))
            mean, sd = network(module, mask, row)
            first += probability * mask * mean
            second += probability * mask * (mean**2 + sd**2)
        error = 5 * np.sqrt(second / n_draws)
        assert (np.abs(module.effect()[row].detach().numpy() - first) < error).all()
        np.testing.assert_allclose(module.variance()[row].detach().numpy(), second - first**2, rtol=0.05)


def test_draws_follow_the_moments() -> None:
    module = effects()
    module.summarise(n_draws=20_000, chunk=2000)
    mask, embedding = (draw.detach() for draw in module.sample(20_000, generator=torch.Generator().manual_seed(3)))
    product_ = mask * embedding
    spread = module.variance().detach().sqrt()
    assert ((product_.mean(0) - module.effect().detach()).abs() < 5 * spread * 2 / 20_000**0.5).all()
    torch.testing.assert_close(product_.std(0), spread, rtol=0.05, atol=0.01)


def test_rows_are_those_of_the_whole() -> None:
    module, rows = effects(), torch.tensor([2, 0])
    mask = (torch.rand(5, T, L) < 0.5).float()
    for part, whole in zip(module._slab(mask[:, rows], rows), module._slab(mask, slice(None)), strict=True):
        torch.testing.assert_close(part, whole[:, rows].expand_as(part))


def test_embeddings_of_a_treatment_depend_on_one_another() -> None:
    """What the published family can say and the independent one can not: another mask, another embedding."""
    module = effects()
    closed, opened = (module._slab(torch.tensor([[[1.0, other]] * T]), slice(None))[0] for other in (0.0, 1.0))
    assert (closed - opened)[..., 0].abs().min() > 1e-3


def test_treatments_without_cells_are_at_the_prior() -> None:
    module = effects()
    module.reset_to_prior(torch.tensor([False, True, False]))
    module.summarise()
    mask, embedding = (draw.detach() for draw in module.sample(20_000, generator=torch.Generator().manual_seed(0)))
    np.testing.assert_allclose(mask[:, 1].mean(0), 0.2, atol=0.02)
    np.testing.assert_allclose(embedding[:, 1].mean(0), 0.0, atol=0.06)
    np.testing.assert_allclose(embedding[:, 1].std(0), 1.5, atol=0.06)
    np.testing.assert_array_equal(module.effect()[1].detach(), [0.0, 0.0])
    np.testing.assert_allclose(module.log_ratio(mask, embedding)[:, 1].detach(), 0.0, atol=1e-5)
    module.reset_to_prior(torch.tensor([True, False, False]))
    assert module.at_prior.tolist() == [True, False, False]


def test_summaries_do_not_depend_on_other_treatments() -> None:
    module = effects()
    module.summarise()
    before = module.mean.clone(), module.log_sd.clone()
    module.summarise(torch.tensor([1]))
    torch.testing.assert_close(module.mean[1], before[0][1])
    assert torch.equal(module.mean[[0, 2]], before[0][[0, 2]])
    assert torch.equal(module.log_sd[[0, 2]], before[1][[0, 2]])


@pytest.mark.parametrize("temperature", [0.3, 1.0])
def test_gradients_reach_network_and_masks(temperature: float) -> None:
    module = effects()
    mask, embedding = module.sample(3, temperature=temperature)
    ((mask * embedding).sum() - module.log_ratio(mask, embedding).sum()).backward()
    moved = {name for name, parameter in module.named_parameters() if parameter.grad is not None}
    assert {"mask_logit", "row_input", "mask_input.weight", "head.weight"} <= moved
    assert not {"mean", "log_sd"} & moved
