from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from scipy.special import logsumexp

from perturbia.stats._kernel_tiles import column_logsumexp, exponential_, kernel, plan_sums, row_logsumexp
from perturbia.stats.transport_cost import PairCost

EPSILON = 0.7


@pytest.fixture(params=[1, 5, 100])
def case(request, monkeypatch):
    """Costs, duals, and the plan that they make, in tiles of so many rows."""
    step = request.param

    def bounds(self):
        return (slice(start, min(start + step, self.shape[0])) for start in range(0, self.shape[0], step))

    monkeypatch.setattr(PairCost, "bounds", bounds)
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(23, 3)), rng.normal(size=(17, 3))
    f, g = rng.normal(0, 30, size=23), rng.normal(-3, 1, size=17)
    exponents = f[:, None] + g - cdist(x, y, "sqeuclidean") / EPSILON
    return PairCost(x, y, dtype=torch.float64), f, g, exponents


def test_kernel_is_the_exponential(case):
    pairs, f, g, exponents = case
    f, g = torch.as_tensor(f), torch.as_tensor(g)
    np.testing.assert_allclose(kernel(pairs, EPSILON, f, g), np.exp(exponents), rtol=1e-10)
    out = torch.empty(23, 17, dtype=torch.float64)
    assert kernel(pairs, EPSILON, f, g, out) is out
    np.testing.assert_allclose(out, np.exp(exponents), rtol=1e-10)


def test_logarithms_of_sums(case):
    pairs, f, g, exponents = case
    found = row_logsumexp(pairs, EPSILON, torch.as_tensor(g))
    np.testing.assert_allclose(found, logsumexp(exponents - f[:, None], axis=1), rtol=1e-12)
    found = column_logsumexp(pairs, EPSILON, torch.as_tensor(f))
    np.testing.assert_allclose(found, logsumexp(exponents - g, axis=0), rtol=1e-12)


def test_sums_of_the_plan(case):
    pairs, f, g, exponents = case
    plan = np.exp(exponents)
    sums = plan_sums(pairs, EPSILON, f, g)
    np.testing.assert_allclose(sums.rows, plan.sum(1), rtol=1e-10)
    np.testing.assert_allclose(sums.columns, plan.sum(0), rtol=1e-10)
    costs = pairs.tile(slice(None)).numpy()
    assert sums.mean_cost == pytest.approx((plan * costs).sum() / plan.sum())


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_no_subnormal_numbers(dtype):
    values = torch.linspace(-800, 10, 5000, dtype=dtype)
    found = exponential_(values.clone())
    assert (found[found > 0] >= torch.finfo(dtype).tiny).all()
    right = np.exp(values.numpy())
    np.testing.assert_allclose(
        found.numpy(), np.where(right < 2 * torch.finfo(dtype).tiny, 0, right), rtol=1e-5, atol=1e-37
    )
