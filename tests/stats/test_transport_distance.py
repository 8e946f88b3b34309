from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.optimize import linear_sum_assignment
from scipy.spatial.distance import cdist

from perturbia.stats import sliced_wasserstein, wasserstein2


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.normal(size=(40, 3)), rng.normal(0.5, 2.0, size=(40, 3))


def test_exact_plan_is_the_best_assignment(populations):
    cost = cdist(*populations, "sqeuclidean")
    best = np.sqrt(cost[linear_sum_assignment(cost)].mean())
    assert wasserstein2(*populations) == pytest.approx(best, rel=1e-10)


def test_copies_of_cells_change_nothing(populations):
    """Three copies of every cell weigh as much as one: unequal sizes are weighted right."""
    X, Y = populations
    assert wasserstein2(np.repeat(X, 3, axis=0), Y) == pytest.approx(wasserstein2(X, Y), rel=1e-9)
    assert sliced_wasserstein(np.repeat(X, 3, axis=0), Y) == pytest.approx(sliced_wasserstein(X, Y), rel=1e-9)


@pytest.mark.parametrize("order", [1.0, 2.0])
def test_one_dimension_is_the_distance_of_sorted_values(order):
    rng = np.random.default_rng(1)
    x, y = rng.normal(size=30), rng.gamma(2.0, size=30)
    exact = (np.abs(np.sort(x) - np.sort(y)) ** order).mean() ** (1 / order)
    assert sliced_wasserstein(x[:, None], y[:, None], order=order, n_projections=3) == pytest.approx(exact)
    if order == 2:
        assert wasserstein2(x[:, None], y[:, None]) == pytest.approx(exact)


def test_shift_has_a_closed_form(populations):
    X, _ = populations
    shift = np.array([3.0, -4.0, 0.0])
    assert wasserstein2(X, X + shift) == pytest.approx(5.0)
    assert sliced_wasserstein(X, X + shift, n_projections=20_000) == pytest.approx(5 / np.sqrt(3), rel=0.02)


@pytest.mark.parametrize("distance", [sliced_wasserstein, wasserstein2])
def test_is_symmetric_scales_and_ignores_order(populations, distance):
    X, Y = populations
    value = distance(X, Y)
    assert distance(Y, X) == pytest.approx(value)
    assert distance(5 * X + 2, 5 * Y + 2) == pytest.approx(5 * value)
    assert distance(X[::-1], Y) == pytest.approx(value)
    assert distance(X, X[::-1]) == pytest.approx(0, abs=1e-6)


def test_directions_are_seeded(populations):
    values = [sliced_wasserstein(*populations, n_projections=5, seed=seed) for seed in (0, 0, 1)]
    assert values[0] == values[1] != values[2]


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize("distance", [sliced_wasserstein, wasserstein2])
@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        (X, X[:, :1], "Y: expected the 2 columns of X, got 1"),
        (X[:0], X, "X: expected at least 1 row"),
        (X, X * np.nan, "Y: expected finite"),
        (X, sp.csr_matrix(X), "Y: expected a dense array"),
    ],
)
def test_bad_input(distance, first, second, match):
    with pytest.raises(ValueError, match=match):
        distance(first, second)


def test_limits_and_settings_are_explained():
    with pytest.raises(
        ValueError, match="at most max_pairs=15 pairs of cells for an exact plan, got 4 x 4. Draw fewer"
    ):
        wasserstein2(X, X, max_pairs=15)
    for options in ({"order": 0.5}, {"n_projections": 0}):
        with pytest.raises(ValueError, match="order, n_projections: expected"):
            sliced_wasserstein(X, X, **options)
