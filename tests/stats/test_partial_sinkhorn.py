from __future__ import annotations

import sys

import numpy as np
import ot
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from perturbia.stats._coupling_plans import DualPlan
from perturbia.stats.partial_sinkhorn import partial_sinkhorn
from perturbia.stats.transport_cost import PairCost

module = sys.modules["perturbia.stats.partial_sinkhorn"]


def plan_of(solution, costs, epsilon):
    return np.exp(solution.f[:, None] + solution.g - costs / epsilon)


# the other solver of POT takes more than cells have where a row is short
pot_partial = getattr(ot.partial, "entropic_partial_wasserstein_logscale", None)


@pytest.mark.skipif(pot_partial is None, reason="POT before 0.9.7")
@pytest.mark.parametrize(("n", "m"), [(14, 10), (1, 6), (7, 1)])
@pytest.mark.parametrize("mass", [0.05, 0.5, 0.9, 0.99])
@pytest.mark.parametrize("relative", [0.3, 0.05])
def test_equals_pot(n, m, mass, relative):
    rng = np.random.default_rng(n)
    x, y = rng.normal(size=(n, 3)), rng.normal(0.5, 1, size=(m, 3))
    costs = cdist(x, y, "sqeuclidean")
    epsilon = relative * costs.mean()
    right = pot_partial(np.full(n, 1 / n), np.full(m, 1 / m), costs, epsilon, m=mass, numItermax=5000, stopThr=1e-11)
    solution = partial_sinkhorn(x, y, mass=mass, epsilon=epsilon, tolerance=1e-8, dtype=torch.float64)
    assert solution.converged
    assert np.abs(plan_of(solution, costs, epsilon) - right).max() < 1e-5 * right.max()
    assert solution.mean_cost == pytest.approx((right * costs).sum() / mass, rel=1e-5)
    solution = partial_sinkhorn(x, y, mass=mass, epsilon=epsilon, tolerance=1e-5)
    assert np.abs(plan_of(solution, costs, epsilon) - right).max() < 1e-4 * right.max()


@pytest.mark.parametrize("mass", [0.05, 0.6, 0.95])
@pytest.mark.parametrize("relative", [0.1, 0.01])
def test_meets_the_conditions_of_the_optimum(mass, relative):
    """They have one solution: P = exp(f + g + l - C / epsilon), and a cell is full where its dual is below zero."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 3)), rng.normal(0.5, 1, size=(30, 3))
    costs = cdist(x, y, "sqeuclidean")
    epsilon = relative * costs.mean()
    solution = partial_sinkhorn(x, y, mass=mass, epsilon=epsilon, tolerance=1e-9, dtype=torch.float64)
    plan = plan_of(solution, costs, epsilon)
    assert solution.converged
    assert plan.sum() == pytest.approx(mass, rel=1e-8)
    level = solution.f.max()  # f holds l, and is l where a cell is not full
    for sums, dual, size in ((plan.sum(1), solution.f - level, 40), (plan.sum(0), solution.g, 30)):
        assert (dual <= 0).all()
        assert (sums <= 1 / size + 1e-9).all()
        np.testing.assert_allclose(sums[dual < 0], 1 / size, rtol=1e-6)
    assert (solution.f < level).any() == (mass > 0.1)


def test_small_epsilon_nears_the_exact_plan():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    costs = cdist(x, y, "sqeuclidean")
    weights = np.full(30, 1 / 30), np.full(40, 1 / 40)
    exact = ot.partial.partial_wasserstein2(*weights, costs, m=0.7)
    found = [
        0.7 * partial_sinkhorn(x, y, mass=0.7, epsilon=relative * costs.mean()).mean_cost
        for relative in (0.1, 0.03, 0.01, 0.003)
    ]
    assert (np.diff(found) < 0).all()
    assert exact - 1e-3 < found[-1] < 1.02 * exact < found[0]


def test_all_of_the_mass_is_nearly_the_balanced_plan():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(25, 3))
    costs = cdist(x, y, "sqeuclidean")
    plan = plan_of(partial_sinkhorn(x, y, mass=1.0, epsilon=1.0), costs, 1.0)
    right = ot.sinkhorn(np.full(20, 1 / 20), np.full(25, 1 / 25), costs, 1.0)
    assert np.abs(plan - right).max() < 1e-3 * right.max()


def test_far_cells_are_left_alone_and_cost_nothing():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(50, 3))
    x[:10] += 1e4
    y[:10] -= 1e4
    solution = partial_sinkhorn(x, y, mass=0.75, epsilon=0.05)
    plan = plan_of(solution, cdist(x, y, "sqeuclidean"), 0.05)
    assert solution.converged
    assert plan[:10].sum() == plan[:, :10].sum() == 0
    assert plan.sum() == pytest.approx(0.75, abs=1e-4)


def test_far_cells_are_matched_where_the_mass_asks_for_them():
    """Their kernel is zero in float32 until the level has risen: sums in the log domain find it."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 2)), rng.normal(size=(20, 2))
    x[:10] += 30
    solution = partial_sinkhorn(x, y, mass=0.8, epsilon=0.5)
    plan = plan_of(solution, cdist(x, y, "sqeuclidean"), 0.5)
    assert solution.converged
    np.testing.assert_allclose(plan[10:].sum(), 0.5, atol=1e-3)
    np.testing.assert_allclose(plan[:10].sum(), 0.3, atol=1e-3)


@pytest.mark.parametrize(("x", "y", "cost"), [([0, 1], [10, 12], 81.0), ([0, 1, 2, 3], [1.2, 2.6], 0.1)])
def test_cells_that_the_kernel_does_not_show_are_asked_in_the_log_domain(monkeypatch, x, y, cost):
    """Half of the mass, and next to no entropy: the nearest pairs."""
    asked = []
    for name in ("row_logsumexp", "column_logsumexp"):

        def watched(*args, log_sums=getattr(module, name)):
            asked.append(1)
            return log_sums(*args)

        monkeypatch.setattr(module, name, watched)
    x, y = np.array(x, dtype=float)[:, None], np.array(y, dtype=float)[:, None]
    solution = partial_sinkhorn(x, y, mass=0.5, epsilon=1e-3)
    assert solution.converged
    assert solution.mean_cost == pytest.approx(cost, rel=1e-4)
    assert len(asked) > 2


@pytest.mark.parametrize("mass", [0.1, 0.45, 0.9999])
def test_level_fills_the_cells_to_the_mass(mass):
    rng = np.random.default_rng(0)
    weights = rng.uniform(0.5, 1, size=200)
    weights /= weights.sum()
    reached = (
        np.append(rng.normal(0, 300, size=190), np.full(10, -np.inf)) if mass < 0.9 else rng.normal(0, 300, size=200)
    )
    dual, level = module._capped(reached, weights, mass)
    held = np.exp(np.minimum(np.log(weights), level + reached))
    assert held.sum() == pytest.approx(mass, rel=1e-9)
    np.testing.assert_allclose(np.exp(dual + level + reached), held, rtol=1e-9)
    assert (dual <= 0).all()


@pytest.mark.parametrize("mass", [0.7, np.nextafter(0.7, 0), np.nextafter(0.7, 1)])
def test_level_where_full_cells_hold_all_of_the_mass(mass):
    """14 of 20 cells, of which the others are out of reach: 0.7 up to rounding."""
    reached = np.where(np.arange(20) < 14, 2.6, -2000.0)
    dual, level = module._capped(reached, np.full(20, 1 / 20), mass)
    np.testing.assert_allclose(np.exp(dual + level + reached), np.where(reached > 0, 0.05, 0), rtol=1e-9, atol=1e-12)


def draw_population(kind, rng, n, d):
    if kind == "heavy":
        return rng.standard_t(1.0, size=(n, d))
    points = rng.normal(size=(n, d))
    if kind == "far clusters":
        points += 100 * rng.integers(2, size=(n, 1))
    return points[rng.integers(max(1, n // 5), size=n)] if kind == "copies" else points


@given(
    kinds=st.tuples(*[st.sampled_from(["normal", "heavy", "far clusters", "copies"])] * 2),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 8)),
    mass=st.sampled_from([0.01, 0.3, 0.8, 0.99, 1.0]),
    relative=st.sampled_from([0.1, 0.01, 1e-3, 1e-5]),
    seed=st.integers(0, 1000),
)
@settings(max_examples=40)
def test_never_claims_a_plan_that_takes_too_much(kinds, shape, mass, relative, seed):
    rng = np.random.default_rng(seed)
    n, m, d = shape
    x, y = draw_population(kinds[0], rng, n, d), draw_population(kinds[1], rng, m, d)
    epsilon = relative * max(cdist(x, y, "sqeuclidean").mean(), 1e-6)
    solution = partial_sinkhorn(x, y, mass=mass, epsilon=epsilon, max_iterations=300)
    plan = DualPlan(PairCost(x, y, dtype=solution.dtype), solution.f, solution.g, epsilon).tile(np.arange(n))
    assert np.isfinite(plan).all()
    excess = [np.maximum(plan.sum(1 - side, dtype=np.float64) - 1 / size, 0).sum() for side, size in enumerate((n, m))]
    assert solution.marginal_error >= 0.98 * max(excess) - 2e-6
    if solution.converged:
        assert plan.sum(dtype=np.float64) == pytest.approx(mass, rel=1.1e-4)
        assert max(excess) < 1.1e-4 * mass
