from __future__ import annotations

import numpy as np
import ot
import pytest
from scipy.spatial.distance import cdist

from perturbia.stats.exact_transport import exact_plan, partial_plan


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)), rng.normal(0.5, 2, size=(55, 3))


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine"])
def test_equals_pot(populations, cost):
    x, y = populations
    a, b = np.random.default_rng(1).dirichlet(np.ones(40)), np.random.default_rng(2).dirichlet(np.ones(55))
    costs = cdist(x, y, cost)
    right = ot.emd(a, b, costs)
    plan, report = exact_plan(x, y, cost=cost, source_weights=a, target_weights=b)
    np.testing.assert_allclose(plan.toarray(), right, atol=1e-12)
    assert plan.nnz <= 40 + 55 - 1
    assert report["converged"]
    assert report["mean_cost"] == pytest.approx((right * costs).sum())


def test_order_of_targets_permutes_columns_exactly(populations):
    x, y = populations[0], populations[1][:40]
    order = np.random.default_rng(0).permutation(40)
    first, second = exact_plan(x, y)[0][:, order], exact_plan(x, y[order])[0]
    assert (first != second).nnz == 0
    x, y = populations
    order = np.random.default_rng(0).permutation(len(y))
    first, second = exact_plan(x, y)[0][:, order].toarray(), exact_plan(x, y[order])[0].toarray()
    assert ((first > 0) == (second > 0)).all()
    np.testing.assert_allclose(first, second, atol=1e-15)


@pytest.mark.parametrize("mass", [0.1, 0.5, 0.93, 1.0])
def test_share_of_the_mass_equals_pot(populations, mass):
    x, y = populations
    costs = cdist(x, y, "sqeuclidean")
    a, b = np.full(40, 1 / 40), np.full(55, 1 / 55)
    right = ot.partial.partial_wasserstein(a, b, costs, m=min(mass, a.sum(), b.sum()))
    plan, report = partial_plan(x, y, mass=mass)
    np.testing.assert_allclose(plan.toarray(), right, atol=1e-9)
    assert report["converged"]
    assert report["mean_cost"] == pytest.approx((right * costs).sum() / mass)


@pytest.mark.parametrize("cost", ["sqeuclidean", lambda x, y: -cdist(x, y)])
@pytest.mark.parametrize("points", [np.ones((6, 2)), np.arange(12.0).reshape(6, 2), np.zeros((6, 0))])
def test_moves_the_mass_whatever_the_costs(points, cost):
    """Costs of zero or below must not make it cheaper to move less."""
    plan, report = partial_plan(points, points[:5], mass=0.4, cost=cost)
    assert report["converged"]
    assert plan.sum() == pytest.approx(0.4)
    assert plan.sum(1).max() <= 1 / 6 + 1e-12


@pytest.mark.parametrize("shape", [(1, 1), (1, 4), (3, 1)])
def test_one_cell(shape):
    x, y = np.arange(shape[0] * 2.0).reshape(-1, 2), np.ones((shape[1], 2))
    np.testing.assert_allclose(exact_plan(x, y)[0].toarray(), 1 / (shape[0] * shape[1]))
    assert partial_plan(x, y, mass=0.5)[0].sum() == pytest.approx(0.5)


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_costs_on_demand_give_the_same_plan(cost, monkeypatch):
    pytest.importorskip("ot", minversion="0.9.7")
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(55, 4)).astype(np.float32)
    held, report = exact_plan(x, y, cost=cost)
    monkeypatch.setattr("perturbia.stats.exact_transport.DENSE_PAIRS", 0)
    lazy, other = exact_plan(x, y, cost=cost)
    np.testing.assert_allclose(lazy.toarray(), held.toarray(), atol=1e-12)
    assert other["mean_cost"] == pytest.approx(report["mean_cost"])
    assert other["converged"]
