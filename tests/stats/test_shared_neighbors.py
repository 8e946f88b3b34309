from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist

from perturbia.stats.shared_neighbors import shared_neighbor_plan


def neighbour_sets(x, y, k, cost, *, itself):
    """Positions of the k nearest rows of y, and of all that are as near as the last."""
    distances = cdist(x, y, cost)
    if itself:
        np.fill_diagonal(distances, -1)
    limit = np.sort(distances, axis=1)[:, min(k, len(y)) - 1]
    return [set(np.flatnonzero(row <= high + 1e-12)) for row, high in zip(distances, limit, strict=True)]


def brute_force(x, y, k, cost):
    g11, g22 = neighbour_sets(x, x, k, cost, itself=True), neighbour_sets(y, y, k, cost, itself=True)
    g21, g12 = neighbour_sets(x, y, k, cost, itself=False), neighbour_sets(y, x, k, cost, itself=False)
    plan = np.zeros((len(x), len(y)))
    for i in range(len(x)):
        for j in range(len(y)):
            shared = len(g11[i] & g12[j]) + len(g21[i] & g22[j])
            plan[i, j] = shared / (len(g11[i]) + len(g21[i]) + len(g12[j]) + len(g22[j]) - shared)
    return plan / plan.sum(1, keepdims=True) / len(x)


@pytest.mark.parametrize("k", [1, 2, 5, 100])
@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine"])
def test_equals_sets_of_neighbours(k, cost):
    rng = np.random.default_rng(k)
    x, y = rng.normal(size=(30, 3)), rng.normal(size=(24, 3))
    plan = shared_neighbor_plan(x, y, n_neighbors=k, cost=cost)
    np.testing.assert_allclose(plan.toarray(), brute_force(x, y, k, cost), atol=1e-12)


@pytest.mark.parametrize("k", [1, 2, 4])
def test_copies_of_a_cell_are_not_itself(k):
    """A cell comes first among its neighbours; its copies come next, all of them."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(3, size=(2, 40, 2)).astype(float)  # copies, and many equal distances
    y = y[:25] + [0, 1]
    plan = shared_neighbor_plan(x, y, n_neighbors=k)
    np.testing.assert_allclose(plan.toarray(), brute_force(x, y, k, "sqeuclidean"), atol=1e-12)


def test_formula_where_there_are_no_ties():
    """J / (4k - J), with four times k neighbours of a pair."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(20, 3)), rng.normal(size=(20, 3))
    plan = 20 * shared_neighbor_plan(x, y, n_neighbors=3).toarray()
    ratios = plan / plan.max(1, keepdims=True)
    allowed = np.array([j / (12 - j) for j in range(7)])
    for row in ratios[ratios.max(1) > 0]:
        assert any(np.isin(np.round(row * best, 9), np.round(allowed, 9)).all() for best in allowed[1:])


@pytest.mark.parametrize("k", [1, 3])
def test_every_cell_is_matched(k):
    rng = np.random.default_rng(0)
    for n, m in ((50, 7), (7, 50), (1, 9), (9, 1), (1, 1)):
        x, y = rng.standard_t(1.0, size=(n, 2)), rng.standard_t(1.0, size=(m, 2)) + 5
        plan = shared_neighbor_plan(x, y, n_neighbors=k)
        np.testing.assert_allclose(plan.sum(1), 1 / n)
        assert (plan.sum(0) > 0).all()


@pytest.mark.parametrize("cost", ["sqeuclidean", "euclidean", "cosine"])
def test_ties_do_not_depend_on_the_order(cost):
    """Equal cells are at equal distances, although a matrix product rounds them by their place."""
    rng = np.random.default_rng(0)
    kinds = rng.normal(size=(9, 37)) + 1e3
    x, y = kinds[rng.integers(9, size=83)], kinds[rng.integers(9, size=61)]
    rows, columns = rng.permutation(83), rng.permutation(61)
    for k in (1, 4):
        plan = shared_neighbor_plan(x, y, n_neighbors=k, cost=cost).toarray()
        other = shared_neighbor_plan(x[rows], y[columns], n_neighbors=k, cost=cost).toarray()
        np.testing.assert_allclose(other, plan[np.ix_(rows, columns)], atol=1e-15)
    same = (x[:, None] == y).all(2)
    plan = shared_neighbor_plan(x, y, cost=cost).toarray()
    assert (plan[same] > 0).all()
    assert (plan[~same] == 0).all()


def test_order_of_targets_permutes_columns_exactly():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 4)), rng.normal(size=(50, 4))
    order = rng.permutation(50)
    first, second = (shared_neighbor_plan(x, one, n_neighbors=2).toarray() for one in (y, y[order]))
    np.testing.assert_allclose(second, first[:, order], rtol=1e-15)
    assert ((second > 0) == (first[:, order] > 0)).all()


@pytest.mark.parametrize("cost", ["sqeuclidean", lambda x, y: cdist(x, y, "cityblock")])
def test_tiles_are_those_of_the_whole(monkeypatch, cost):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(40, 4)), rng.normal(size=(30, 4))
    whole = shared_neighbor_plan(x, y, n_neighbors=2, cost=cost).toarray()
    monkeypatch.setattr(
        "perturbia.stats.transport_cost.PairCost.bounds", lambda self: map(self_slice, range(self.shape[0]))
    )
    np.testing.assert_allclose(shared_neighbor_plan(x, y, n_neighbors=2, cost=cost).toarray(), whole)


def self_slice(k):
    return slice(k, k + 1)


def test_outliers_do_not_blur_near_cells():
    """Rounding is relative to a cell, not to the farthest one, and the middle is that of most cells."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(30, 2))
    x[0] = 1e9
    y = x + 1e-4 * rng.normal(size=x.shape)
    plan = 30 * shared_neighbor_plan(x, y).toarray()
    assert plan[0, 0] == 1
    assert np.diag(plan).mean() > 0.95
