from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch
from scvi.distributions import NegativeBinomial

from perturbia.nn import negative_binomial_log_prob

# most entries above zero, few, and none: sparse counts are summed by another path
RATES = (3.0, 0.2, 0.0)


def draw(
    shape: tuple[int, ...], n_features: int, *, seed: int = 0, dtype: torch.dtype = torch.float64, rate: float = 3.0
) -> tuple:
    generator = torch.Generator().manual_seed(seed)
    x = torch.poisson(rate * torch.rand(shape[-2:], generator=generator, dtype=dtype), generator=generator)
    mu = torch.rand(shape, generator=generator, dtype=dtype) * 5 + 0.05
    theta = torch.rand(n_features, generator=generator, dtype=dtype) * 4 + 0.2
    return x, mu, theta


@pytest.mark.parametrize("rate", RATES)
def test_value_is_that_of_scipy_and_scvi(rate: float) -> None:
    x, mu, theta = draw((7, 4), 4, rate=rate)
    value = negative_binomial_log_prob(x, mu, theta)
    n, p = theta.numpy(), (theta / (theta + mu)).numpy()
    np.testing.assert_allclose(value, scipy.stats.nbinom.logpmf(x.numpy(), n, p), rtol=1e-10)
    np.testing.assert_allclose(value, NegativeBinomial(mu=mu, theta=theta).log_prob(x), rtol=1e-6)


@pytest.mark.parametrize("rate", RATES)
def test_gradient_is_that_of_autograd(rate: float) -> None:
    x, mu, theta = draw((3, 7, 4), 4, rate=rate)
    weight = torch.randn(3, 7, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    grads = []
    for log_prob in (negative_binomial_log_prob, lambda x, m, t: NegativeBinomial(mu=m, theta=t).log_prob(x)):
        m, t = mu.clone().requires_grad_(), theta.clone().requires_grad_()
        grads.append(torch.autograd.grad((weight * log_prob(x, m, t)).sum(), (m, t)))
    for ours, theirs in zip(*grads, strict=True):
        assert ours.shape == theirs.shape
        np.testing.assert_allclose(ours, theirs, rtol=1e-5)
    inputs = mu[0].clone().requires_grad_(), theta.clone().requires_grad_()
    assert torch.autograd.gradcheck(lambda m, t: negative_binomial_log_prob(x, m, t), inputs)


def test_particles_share_counts() -> None:
    x, mu, theta = draw((3, 7, 4), 4)
    together = negative_binomial_log_prob(x, mu, theta)
    assert together.shape == (3, 7, 4)
    for particle in range(3):
        np.testing.assert_array_equal(together[particle], negative_binomial_log_prob(x, mu[particle], theta))


@pytest.mark.parametrize("stride", [2, 4, 6])
@pytest.mark.parametrize("particles", [(), (3,)])
def test_stride_thins_the_gradient_of_the_dispersion_alone(stride: int, particles: tuple[int, ...]) -> None:
    """Averaged over which row comes first, the thinned gradient is the full one: it is unbiased."""
    x, mu, theta = draw((*particles, 12, 4), 4)

    def gradients(first: int, stride: int) -> tuple[torch.Tensor, ...]:
        m, t = mu.roll(-first, -2).requires_grad_(), theta.clone().requires_grad_()
        value = negative_binomial_log_prob(x.roll(-first, -2), m, t, stride=stride)
        return value, *torch.autograd.grad(value.sum(), (m, t))

    value, grad_mu, grad_theta = gradients(0, 1)
    thinned = [gradients(first, stride) for first in range(stride)]
    np.testing.assert_array_equal(thinned[0][0].detach(), value.detach())
    np.testing.assert_array_equal(thinned[0][1], grad_mu)
    assert not torch.allclose(thinned[0][2], grad_theta)
    np.testing.assert_allclose(torch.stack([part[2] for part in thinned]).mean(0), grad_theta, rtol=1e-12)


@pytest.mark.parametrize("n_rows", [1, 3, 5])
def test_fewer_rows_than_the_stride(n_rows: int) -> None:
    x, mu, theta = draw((n_rows, 4), 4)
    t = theta.clone().requires_grad_()
    negative_binomial_log_prob(x, mu, t, stride=4).sum().backward()
    used = torch.zeros(4, dtype=torch.float64)
    rows = range(0, n_rows, 4)
    for row in rows:
        single = theta.clone().requires_grad_()
        NegativeBinomial(mu=mu[row], theta=single).log_prob(x[row]).sum().backward()
        used += single.grad
    np.testing.assert_allclose(t.grad, used * n_rows / len(rows), rtol=1e-5)


def test_extreme_numbers_stay_finite() -> None:
    x = torch.tensor([[0.0, 0.0, 1e5, 3.0]])
    mu = torch.tensor([[1e-8, 1e5, 1e5, 1e-8]], requires_grad=True)
    theta = torch.tensor([1e-3, 1e4, 0.1, 2.0], requires_grad=True)
    value = negative_binomial_log_prob(x, mu, theta)
    value.sum().backward()
    for numbers in (value, mu.grad, theta.grad):
        assert torch.isfinite(numbers).all()
