from __future__ import annotations

import sys

import numpy as np
import ot
import pytest
import scipy.sparse as sp
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.distance import cdist

from perturbia.stats import sinkhorn
from perturbia.stats._coupling_plans import DualPlan
from perturbia.stats.transport_cost import PairCost

module = sys.modules["perturbia.stats.entropic_transport"]


def plan_of(solution, cost, epsilon):
    return np.exp(solution.f[:, None] + solution.g - cost / epsilon)


def weights_of(rng, n, *, even):
    values = np.ones(n) if even else rng.uniform(0.2, 1, size=n)
    return values / values.sum()


@pytest.mark.parametrize(
    ("n", "m", "relative", "cost"),
    [
        (30, 30, 0.3, "sqeuclidean"),
        (25, 40, 0.05, "euclidean"),
        (40, 25, 0.05, "cosine"),
        (13, 10, 0.01, "sqeuclidean"),
        (9, 14, 0.01, "cityblock"),
        (8, 9, 0.002, "sqeuclidean"),
        (9, 8, 0.002, "euclidean"),
    ],
)
@pytest.mark.parametrize("even", [True, False])
def test_equals_pot(n, m, relative, cost, even):
    rng = np.random.default_rng(n + m)
    x, y = rng.normal(size=(n, 4)), rng.normal(0.3, 1.2, size=(m, 4))
    costs = cdist(x, y, cost)
    epsilon = relative * costs.mean()
    a, b = weights_of(rng, n, even=even), weights_of(rng, m, even=even)
    right = ot.sinkhorn(a, b, costs, epsilon, method="sinkhorn_log", numItermax=100_000, stopThr=1e-10)
    given_cost = (lambda x, y: cdist(x, y, "cityblock")) if cost == "cityblock" else cost
    settings = {"epsilon": epsilon, "cost": given_cost, "source_weights": a, "target_weights": b}
    loose = sinkhorn(x, y, **settings, max_iterations=20_000, tolerance=2e-6)
    assert loose.converged
    assert np.abs(plan_of(loose, costs, epsilon) - right).max() < 1e-4 * right.max()
    strict = sinkhorn(x, y, **settings, max_iterations=50_000, tolerance=1e-9, dtype=torch.float64)
    assert strict.converged
    assert np.abs(plan_of(strict, costs, epsilon) - right).max() < 1e-6 * right.max()
    assert strict.mean_cost == pytest.approx((right * costs).sum(), rel=1e-6)


def test_plan_in_float32_is_that_of_pot():
    """What a coupling reads are tiles in float32."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(12, 4))
    y = x + 1e-3 * rng.normal(size=x.shape)  # near pairs, whose costs are small differences of large squares
    for cost in ("sqeuclidean", "euclidean"):
        costs = cdist(x, y, cost)
        epsilon = 0.2 * costs.mean()
        weights = np.full(12, 1 / 12)
        right = ot.sinkhorn(weights, weights, costs, epsilon, method="sinkhorn_log", numItermax=50_000, stopThr=1e-10)
        solution = sinkhorn(x, y, epsilon=epsilon, cost=cost, tolerance=2e-6)
        tile = DualPlan(PairCost(x, y, cost), solution.f, solution.g, epsilon).tile(np.arange(12))
        assert tile.dtype == np.float32
        assert np.abs(tile - right).max() < 1e-4 * right.max()


@pytest.mark.parametrize("tau", [(0.5, 0.5), (0.9, 0.9), (0.99, 0.99), (0.1, 0.8), (1.0, 0.7), (0.6, 1.0)])
@pytest.mark.parametrize("relative", [0.3, 0.03])
def test_loosened_marginals_equal_pot(tau, relative):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=(20, 3)), rng.normal(0.5, 1, size=(28, 3))
    costs = cdist(x, y, "sqeuclidean")
    epsilon = relative * costs.mean()
    a, b = weights_of(rng, 20, even=False), weights_of(rng, 28, even=False)
    strength = [epsilon * one / (1 - one) if one < 1 else np.inf for one in tau]
    right = ot.unbalanced.sinkhorn_unbalanced(
        a, b, costs, epsilon, strength, reg_type="kl", numItermax=50_000, stopThr=1e-14
    )
    solution = sinkhorn(
        x, y, epsilon=epsilon, source_weights=a, target_weights=b, unbalanced=tau, tolerance=1e-8, dtype=torch.float64
    )
    assert solution.converged
    assert np.abs(plan_of(solution, costs, epsilon) - right).max() < 1e-6 * right.max()
    solution = sinkhorn(x, y, epsilon=epsilon, source_weights=a, target_weights=b, unbalanced=tau, tolerance=2e-6)
    assert np.abs(plan_of(solution, costs, epsilon) - right).max() < 1e-4 * right.max()


def test_loosened_marginals_of_nearly_one_do_not_need_thousands_of_updates():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(1, 1, size=(60, 3))
    epsilon = 0.05 * cdist(x, y, "sqeuclidean").mean()
    solution = sinkhorn(x, y, epsilon=epsilon, unbalanced=(0.999, 0.999), max_iterations=300)
    assert solution.converged


def test_far_cells_may_lose_all_of_a_loosened_mass():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    x[0] += 1e3
    solution = sinkhorn(x, y, epsilon=0.1, unbalanced=(0.5, 0.5))
    plan = plan_of(solution, cdist(x, y, "sqeuclidean"), 0.1)
    assert solution.converged
    assert solution.dtype == torch.float32
    assert plan[0].sum() == 0
    assert plan[1:].sum() > 0.01


def test_small_epsilon_nears_the_exact_cost():
    rng = np.random.default_rng(2)
    x, y = rng.normal(size=(40, 3)), rng.normal(size=(50, 3))
    costs = cdist(x, y, "sqeuclidean")
    exact = ot.emd2(np.full(40, 1 / 40), np.full(50, 1 / 50), costs)
    found = [
        sinkhorn(x, y, epsilon=relative * costs.mean(), max_iterations=20_000).mean_cost
        for relative in (0.3, 0.1, 0.03, 0.01, 0.003, 0.001)
    ]
    assert (np.diff(found) < 0).all()
    assert exact - 1e-3 < found[-1] < 1.01 * exact
    assert found[0] > 1.5 * exact


@pytest.fixture
def stages(monkeypatch):
    """Which stages of the solver were entered."""
    seen = []
    for name in ("_scaled", "_annealed", "_logarithmic"):

        def watched(problem, *args, name=name, stage=getattr(module, name), **kwargs):
            seen.append((name, problem.pairs.dtype))
            return stage(problem, *args, **kwargs)

        monkeypatch.setattr(module, name, watched)
    return seen


def test_common_settings_need_one_stage(stages):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(100, 5)), rng.normal(size=(90, 5))
    assert sinkhorn(x, y, epsilon=0.1).converged
    assert stages == [("_scaled", torch.float32)]


def test_very_small_epsilon_is_annealed(stages):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 5)), rng.normal(size=(50, 5))
    costs = cdist(x, y, "sqeuclidean")
    epsilon = 3e-4 * costs.mean()
    solution = sinkhorn(x, y, epsilon=epsilon, max_iterations=20_000)
    assert ("_annealed", torch.float32) in stages
    assert solution.converged
    plan = plan_of(solution, costs, epsilon)
    assert np.abs(plan.sum(1) - 1 / 60).sum() < 5e-4
    exact = ot.emd2(np.full(60, 1 / 60), np.full(50, 1 / 50), costs)
    assert (plan * costs).sum() == pytest.approx(exact, rel=2e-3)


def test_lost_digits_are_found_in_float64(stages):
    """Two populations far apart: in float32, rounding of C / epsilon is larger than the tolerance."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 3)), rng.normal(size=(40, 3)) + 50
    costs = cdist(x, y, "sqeuclidean")
    solution = sinkhorn(x, y, epsilon=0.1)
    assert stages == [("_scaled", torch.float32), ("_scaled", torch.float64)]
    assert solution.converged
    assert solution.dtype == torch.float64
    plan = plan_of(solution, costs, 0.1)
    assert max(np.abs(plan.sum(1) - 1 / 50).sum(), np.abs(plan.sum(0) - 1 / 40).sum()) < 1e-4


@pytest.mark.parametrize("tau", [(1.0, 1.0), (0.8, 0.95), (1.0, 0.7)])
def test_log_domain_finds_the_same_plan(monkeypatch, stages, tau):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(40, 3))
    costs = cdist(x, y, "sqeuclidean")
    settings = {"epsilon": 0.3, "unbalanced": tau, "tolerance": 1e-6}
    right = plan_of(sinkhorn(x, y, **settings), costs, 0.3)
    stages.clear()

    def lost(problem, f, g, done=0):
        return module._Duals(f, g, done, float("inf"))

    monkeypatch.setattr(module, "_scaled", lost)
    solution = sinkhorn(x, y, **settings)
    assert stages[-1] == ("_logarithmic", torch.float64)
    assert solution.converged
    assert np.abs(plan_of(solution, costs, 0.3) - right).max() < 1e-4 * right.max()


def test_says_that_it_did_not_converge():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(50, 2)), rng.normal(size=(50, 2))
    costs = cdist(x, y, "sqeuclidean")
    solution = sinkhorn(x, y, epsilon=0.02, max_iterations=7)
    assert solution.iterations == 7
    assert not solution.converged
    plan = plan_of(solution, costs, 0.02)
    error = max(np.abs(plan.sum(1) - 0.02).sum(), np.abs(plan.sum(0) - 0.02).sum())
    assert solution.marginal_error == pytest.approx(error, rel=0.01)
    assert error > 1e-3


@pytest.mark.parametrize(
    ("x", "y"),
    [
        (np.ones((5, 2)), np.ones((3, 2))),
        (np.ones((5, 2)), 7 * np.ones((3, 2))),
        (np.zeros((4, 0)), np.zeros((6, 0))),
        (np.ones((1, 2)), np.arange(8.0).reshape(4, 2)),
        (np.arange(8.0).reshape(4, 2), np.ones((1, 2))),
        (np.ones((1, 1)), np.zeros((1, 1))),
        (np.repeat([[0.0], [9.0]], 4, axis=0), np.repeat([[1.0], [8.0]], [3, 5], axis=0)),
    ],
)
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean"])
def test_degenerate_sets_have_a_plan(x, y, cost):
    solution = sinkhorn(x, y, epsilon=0.5, cost=cost)
    assert solution.converged
    plan = plan_of(solution, cdist(x, y, cost) if x.shape[1] else np.zeros((len(x), len(y))), 0.5)
    np.testing.assert_allclose(plan.sum(1), 1 / len(x), rtol=2e-4)
    np.testing.assert_allclose(plan.sum(0), 1 / len(y), rtol=2e-4)
    if len(np.unique(x, axis=0)) == len(np.unique(y, axis=0)) == 1:
        np.testing.assert_allclose(plan, 1 / plan.size, rtol=1e-5)


def draw_population(kind, rng, n, d):
    if kind == "heavy":
        return rng.standard_t(1.0, size=(n, d))
    points = rng.normal(size=(n, d))
    if kind == "far clusters":
        points += 100 * rng.integers(2, size=(n, 1))
    elif kind == "outlier":
        points[0] += 1000
    elif kind == "copies":
        points = points[rng.integers(max(1, n // 5), size=n)]
    elif kind == "scale":
        points *= 1e4
    return points


@given(
    kinds=st.tuples(*[st.sampled_from(["normal", "heavy", "far clusters", "outlier", "copies", "scale"])] * 2),
    shape=st.tuples(st.integers(1, 60), st.integers(1, 60), st.integers(1, 8)),
    relative=st.sampled_from([0.1, 0.01, 0.002, 3e-4, 1e-5]),
    cost=st.sampled_from(["sqeuclidean", "euclidean"]),
    tau=st.sampled_from([(1.0, 1.0), (1.0, 1.0), (0.95, 0.95), (1.0, 0.5)]),
    seed=st.integers(0, 1000),
)
@example(("scale", "normal"), (50, 40, 3), 1e-5, "sqeuclidean", (1.0, 1.0), 0)
@example(("far clusters", "heavy"), (60, 13, 2), 3e-4, "euclidean", (1.0, 1.0), 1)
@settings(max_examples=80)
def test_never_claims_a_marginal_that_the_plan_does_not_have(kinds, shape, relative, cost, tau, seed):
    """Over-relaxed or rounded, what converged has its marginals, and the error is that of the plan as it is read."""
    rng = np.random.default_rng(seed)
    n, m, d = shape
    x, y = draw_population(kinds[0], rng, n, d), draw_population(kinds[1], rng, m, d)
    epsilon = relative * max(cdist(x, y, cost).mean(), 1e-6)
    solution = sinkhorn(x, y, epsilon=epsilon, cost=cost, unbalanced=tau, max_iterations=300)
    assert np.isfinite(solution.f).all()
    assert np.isfinite(solution.g).all()
    tile = DualPlan(PairCost(x, y, cost, dtype=solution.dtype), solution.f, solution.g, epsilon).tile(np.arange(n))
    assert np.isfinite(tile).all()
    if tau == (1, 1):
        sums = tile.sum(1, dtype=np.float64), tile.sum(0, dtype=np.float64)
        error = max(np.abs(sums[0] - 1 / n).sum(), np.abs(sums[1] - 1 / m).sum())
        assert solution.marginal_error == pytest.approx(error, rel=0.02, abs=2e-6)
        assert solution.converged == (solution.marginal_error <= 1e-4)
    elif solution.converged and tau[0] == 1:
        assert np.abs(tile.sum(1, dtype=np.float64) - 1 / n).sum() <= 1.02e-4


def test_order_of_cells_does_not_matter():
    rng = np.random.default_rng(3)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(50, 4))
    order = rng.permutation(50)
    costs = cdist(x, y, "sqeuclidean")
    plans = [
        plan_of(sinkhorn(x, y, epsilon=0.2), costs, 0.2),
        plan_of(sinkhorn(x, y[order], epsilon=0.2), costs[:, order], 0.2),
    ]
    np.testing.assert_allclose(plans[1], plans[0][:, order], atol=1e-4 * plans[0].max())


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("given_", "match"),
    [
        ({"x": X * np.nan}, "x: expected finite"),
        ({"x": sp.csr_matrix(X)}, "x: expected a dense array"),
        ({"y": X[:, :1]}, "y: expected the 2 columns of x, got 1"),
        ({"epsilon": 0}, "epsilon: expected a positive number, got 0"),
        ({"epsilon": np.nan}, "epsilon: expected a positive number"),
        ({"source_weights": [1, 1, 1]}, r"source_weights: expected shape \(4,\)"),
        ({"target_weights": [1, 1, 1, 0]}, "target_weights: expected numbers > 0"),
        ({"target_weights": np.ones(4)}, "expected equal sums, got 1 and 4. Divide both"),
        ({"unbalanced": (0, 1)}, r"unbalanced: expected two numbers in \(0, 1\]"),
        ({"cost": "city"}, "cost: expected one of"),
    ],
)
def test_bad_input(given_, match):
    with pytest.raises(ValueError, match=match):
        sinkhorn(**{"x": X, "y": X, "epsilon": 1.0, **given_})
