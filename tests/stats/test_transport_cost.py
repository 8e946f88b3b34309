from __future__ import annotations

import pickle

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from perturbia.stats.transport_cost import PairCost, check_cost

COSTS = ["sqeuclidean", "euclidean", "cosine", "hellinger"]


def expected(x, y, cost):
    if cost == "hellinger":
        return cdist(np.sqrt(x), np.sqrt(y)) / np.sqrt(2)
    return cdist(x, y, cost)


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.dirichlet(np.ones(5), size=40), rng.dirichlet(np.ones(5), size=31)


@pytest.mark.parametrize("cost", COSTS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_equals_distances_of_scipy(populations, cost, dtype):
    pairs = PairCost(*populations, cost, dtype=dtype)
    tile = pairs.tile(slice(None))
    assert tile.dtype == dtype
    np.testing.assert_allclose(tile, expected(*populations, cost), atol=1e-6 if dtype == torch.float32 else 1e-12)


@pytest.mark.parametrize("cost", [*COSTS, lambda x, y: cdist(x, 2 * y, "cityblock")])
def test_tiles_sums_and_other_side_are_those_of_the_whole(populations, cost):
    pairs = PairCost(*populations, cost, dtype=torch.float64)
    whole = pairs.tile(slice(None)).numpy()
    bounds = list(pairs.bounds(max_entries=100))
    assert max((rows.stop - rows.start) * 31 for rows in bounds) <= 100
    np.testing.assert_allclose(np.concatenate([pairs.tile(rows) for rows in bounds]), whole, atol=1e-12)
    np.testing.assert_allclose(pairs.tile(np.array([7, 3, 3])), whole[[7, 3, 3]], atol=1e-12)
    out = torch.empty(2, 31, dtype=torch.float64)
    assert pairs.tile(slice(4, 6), out=out) is out
    np.testing.assert_allclose(out, whole[4:6], atol=1e-12)
    assert pairs.total() == pytest.approx(whole.sum())
    other = pairs.transpose()
    assert other.shape == (31, 40)
    np.testing.assert_allclose(other.tile(np.arange(5, 12)), whole.T[5:12], atol=1e-12)
    np.testing.assert_allclose(other.transpose().tile(slice(None)), whole, atol=1e-12)
    assert other.total() == pytest.approx(whole.sum())


@pytest.mark.parametrize("cost", ["euclidean", "hellinger"])
def test_roots_keep_their_digits_for_equal_cells_in_float32(cost):
    """The root of what float32 leaves of |x|^2 + |y|^2 - 2 xy would be 3e-4 of the norm."""
    x = np.random.default_rng(0).dirichlet(np.ones(20), size=50)
    tile = PairCost(x, x, cost).tile(slice(None))
    assert tile.dtype == torch.float32
    assert float(tile.diagonal().max()) < 1e-7


def test_squares_keep_their_digits_far_from_the_origin():
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(30, 4)) + 1e4, rng.normal(size=(20, 4)) + 1e4
    np.testing.assert_allclose(PairCost(x, y).tile(slice(None)), cdist(x, y, "sqeuclidean"), rtol=1e-5, atol=1e-5)


def test_no_features_cost_nothing():
    pairs = PairCost(np.zeros((3, 0)), np.zeros((2, 0)), "euclidean")
    assert pairs.tile(slice(None)).tolist() == [[0, 0]] * 3
    assert pairs.total() == 0


def manhattan(x, y):
    return cdist(x, y, "cityblock")


def test_can_be_stored_whichever_side_it_shows(populations):
    pairs = PairCost(*populations, manhattan, dtype=torch.float64).transpose()
    np.testing.assert_array_equal(pickle.loads(pickle.dumps(pairs)).tile(slice(None)), manhattan(*populations).T)


def test_bad_input():
    x = np.ones((3, 2))
    with pytest.raises(ValueError, match="cost: expected one of 'sqeuclidean', .* got 'manhattan'"):
        check_cost("manhattan")
    with pytest.raises(ValueError, match="cost: expected probabilities for 'hellinger', got negative values"):
        PairCost(x, -x, "hellinger")
    with pytest.raises(ValueError, match=r"costs of shape \(3, 3\), got shape \(3,\)"):
        PairCost(x, x, lambda x, y: x[:, 0]).tile(slice(None))
    with pytest.raises(ValueError, match="finite costs, got NaN"):
        PairCost(x, x, lambda x, y: cdist(x, y) * np.nan).tile(slice(None))
