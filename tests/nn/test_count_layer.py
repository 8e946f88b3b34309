from __future__ import annotations

import numpy as np
import pytest
import scipy.stats
import torch

from perturbia.nn import ExpectedLogCounts, gamma_quantile_draws


def poisson_sums(rate: np.ndarray, library: float, target_sum: float = 1e4) -> np.ndarray:
    """Mean and mean square of log1p-normalised Poisson counts by summation, shape (2, n)."""
    reach = int(rate.max() + 12 * rate.max() ** 0.5 + 30)
    counts = np.arange(reach)
    value = np.log1p(counts * target_sum / library)
    pmf = scipy.stats.poisson.pmf(counts, rate[:, None])
    return np.stack([pmf @ value, pmf @ value**2])


@pytest.mark.parametrize("library", [80.0, 3e3, 1e5])
@pytest.mark.parametrize("max_rate", [0.5, 30.0, 3000.0])
def test_moments_are_sums_over_the_poisson(library: float, max_rate: float) -> None:
    layer = ExpectedLogCounts(torch.tensor([library]), max_rate=max_rate)
    rate = torch.from_numpy(np.r_[0.0, np.geomspace(1e-4, max_rate, 150)]).float()[None]
    mean, square = poisson_sums(rate[0].double().numpy(), library)
    np.testing.assert_allclose(layer.mean(rate)[0], mean, atol=3e-5)
    np.testing.assert_allclose(layer.second_moment(rate)[0], square, atol=3e-4)
    assert layer.mean(rate)[0, 0] == 0
    spread = np.sqrt(np.maximum(layer.second_moment(rate)[0].numpy() - mean**2, 0))
    np.testing.assert_allclose(spread, np.sqrt(np.maximum(square - mean**2, 0)), atol=6e-3)


def test_rows_have_their_own_library() -> None:
    library = torch.tensor([100.0, 1000.0, 5000.0])
    layer = ExpectedLogCounts(library, max_rate=20.0, target_sum=1e3)
    rate = torch.rand(4, 3, 6, generator=torch.Generator().manual_seed(0)) * 20
    table = layer.mean(rate)
    assert table.shape == rate.shape
    for row, size in enumerate(library.tolist()):
        expected = poisson_sums(rate[:, row].double().ravel().numpy(), size, 1e3)[0].reshape(4, 6)
        np.testing.assert_allclose(table[:, row], expected, atol=3e-5)
    part = layer.rows(slice(1, 3))
    np.testing.assert_array_equal(part.mean(rate[:, 1:3]), table[:, 1:3])
    np.testing.assert_array_equal(part.second_moment(rate[:, 1:3]), layer.second_moment(rate)[:, 1:3])


def test_more_counts_are_never_fewer() -> None:
    layer = ExpectedLogCounts(torch.tensor([2000.0]), max_rate=5000.0)
    mean = layer.mean(torch.linspace(0, 5000, 20001)[None])[0]
    assert (mean.diff() > -1e-6).all()
    top = layer.mean(torch.tensor([[5000.0, 9000.0]]))[0]
    assert top[0] == top[1]  # beyond the table its last value, never an extrapolation


@pytest.mark.parametrize("theta", [0.2, 1.0, 30.0])
@pytest.mark.parametrize("n_rows", [1, 2, 400])
def test_gamma_draws_are_mid_quantiles_in_random_order(theta: float, n_rows: int) -> None:
    generator = torch.Generator().manual_seed(0)
    draws = gamma_quantile_draws(torch.tensor([theta, theta]), n_rows, generator=generator)
    assert draws.shape == (n_rows, 2)
    assert draws.dtype == torch.float32
    grid = scipy.stats.gamma.ppf((np.arange(n_rows) + 0.5) / n_rows, theta, scale=1 / theta)
    for column in draws.T:
        np.testing.assert_allclose(np.sort(column.numpy()), grid, rtol=1e-5, atol=1e-12)
    if n_rows == 400:
        assert not torch.equal(draws[:, 0], draws[:, 1])
        assert abs(np.corrcoef(np.argsort(draws[:, 0]), np.arange(400))[0, 1]) < 0.2
        np.testing.assert_allclose(draws.mean(0), 1, atol=0.01)
        np.testing.assert_allclose(draws.var(0), 1 / theta, rtol=0.15)


def test_gamma_draws_follow_their_generator() -> None:
    one, same, other = (
        gamma_quantile_draws(torch.ones(3), 50, generator=torch.Generator().manual_seed(seed)) for seed in (0, 0, 1)
    )
    assert torch.equal(one, same)
    assert not torch.equal(one, other)
