"""Penalties of comparative models against brute force and their levels under chance."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import pdist, squareform
from torch.distributions import Normal

from perturbia.nn import minimum_norm_share, multiscale_mmd, normalized_hsic, squared_distance_to_zero
from perturbia.stats import mmd


def draws(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def numpy_hsic(x: np.ndarray, y: np.ndarray) -> float:
    kernels = []
    for block in (x, y):
        distance = pdist(block)
        # torch takes the lower of two middle values
        median = np.sort(distance)[(len(distance) - 1) // 2]
        kernels.append(np.exp(-(squareform(distance) ** 2) / (2 * median**2)))
    h = np.eye(len(x)) - 1 / len(x)
    k, l = kernels
    return np.trace(k @ h @ l @ h) / np.sqrt(np.trace(k @ h @ k @ h) * np.trace(l @ h @ l @ h))


def test_hsic_is_that_of_the_formula() -> None:
    x = draws(40, 3)
    y = x[:, :1] ** 2 + 0.3 * draws(40, 2, seed=1)
    value, shuffled = normalized_hsic(x, y)
    np.testing.assert_allclose(value, numpy_hsic(x.double().numpy(), y.double().numpy()), rtol=1e-4)
    assert len(shuffled) == 0
    np.testing.assert_allclose(normalized_hsic(x, x)[0], 1.0, rtol=1e-6)


def test_shuffles_of_hsic_are_its_values_of_shuffled_rows() -> None:
    x, y = draws(30, 2), draws(30, 2, seed=1)
    _, shuffled = normalized_hsic(x, y, n_shuffles=3, generator=torch.Generator().manual_seed(5))
    generator = torch.Generator().manual_seed(5)
    orders = [torch.randperm(30, generator=generator) for _ in range(3)]
    np.testing.assert_allclose(shuffled, [normalized_hsic(x, y[order])[0] for order in orders], rtol=1e-4)


def test_unrelated_rows_stay_below_the_level_of_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    below = 0
    for i in range(200):
        x, y = draws(64, 4, seed=2 * i), draws(64, 3, seed=2 * i + 1)
        value, shuffled = normalized_hsic(x, y, n_shuffles=100, generator=generator)
        below += int(value <= shuffled.quantile(0.95))
    assert 0.91 <= below / 200 <= 0.99


def test_hsic_gradient_lowers_it_and_a_lost_block_is_finite() -> None:
    x = draws(64, 2)
    y = (x + 0.1 * draws(64, 2, seed=1)).requires_grad_()
    value, _ = normalized_hsic(x, y)
    value.backward()
    assert normalized_hsic(x, y - 0.5 * y.grad / y.grad.norm())[0] < value
    nothing = torch.zeros(64, 2, requires_grad=True)
    value, shuffled = normalized_hsic(x, nothing, n_shuffles=2)
    value.backward()
    for values in (value, shuffled, nothing.grad):
        assert torch.isfinite(values).all()


def test_mmd_is_the_mean_over_the_bank() -> None:
    x, y = draws(30, 3), draws(20, 3, seed=1) + 0.5
    # exp(-rate d2) is a Gaussian of variance 1 / (2 rate)
    widths = np.sqrt(1 / (2 * 10.0 ** np.arange(-6, 7)))
    expected = mmd(x.numpy(), y.numpy(), bandwidths=widths, unbiased=False) / 13
    np.testing.assert_allclose(multiscale_mmd(x, y)[0], expected, rtol=1e-4)


def test_mmd_level_under_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    below = 0
    for i in range(100):
        value, shuffled = multiscale_mmd(
            draws(40, 3, seed=2 * i), draws(60, 3, seed=2 * i + 1), n_shuffles=100, generator=generator
        )
        below += int(value <= shuffled.quantile(0.95))
    assert 0.88 <= below / 100 <= 1
    value, shuffled = multiscale_mmd(draws(40, 3), draws(60, 3, seed=1) + 1, n_shuffles=100, generator=generator)
    assert value > shuffled.max()


def test_distance_to_zero_is_the_expected_square() -> None:
    latent = Normal(draws(5, 3), draws(5, 3, seed=1).exp())
    with torch.random.fork_rng():
        torch.manual_seed(0)
        sampled = latent.sample((40_000,)).square().sum(-1).mean()
    np.testing.assert_allclose(squared_distance_to_zero(latent), sampled, rtol=0.03)


@pytest.mark.parametrize("seed", range(8))
def test_minimum_norm_share_is_the_minimum_of_a_grid(seed: int) -> None:
    one, other = (
        [draws(4, seed=seed), draws(2, 3, seed=seed + 100)],
        [draws(4, seed=seed + 200), draws(2, 3, seed=seed)],
    )
    if seed % 2:
        other = [3 * part for part in one] if seed % 3 else [0.2 * a + b for a, b in zip(one, other, strict=True)]
    flat = [torch.cat([part.ravel() for part in gradient]).double().numpy() for gradient in (one, other)]
    grid = np.linspace(0, 1, 10_001)
    norms = ((grid[:, None] * flat[0] + (1 - grid[:, None]) * flat[1]) ** 2).sum(1)
    share = float(minimum_norm_share(one, other))
    assert 0 <= share <= 1
    np.testing.assert_allclose(share, grid[norms.argmin()], atol=2e-4)


def test_equal_gradients_share_evenly() -> None:
    assert float(minimum_norm_share([torch.ones(3)], [torch.ones(3)])) == 0.5
