"""Distances between real and predicted populations."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.optimize
from scipy.spatial.distance import cdist

from perturbia.metrics import matched_distribution
from perturbia.stats import energy_distance

NAMES = ["mean_distance", "wasserstein1", "wasserstein2", "energy_distance", "gaussian_kl"]


def test_matches_definitions():
    rng = np.random.default_rng(0)
    real, predicted = rng.normal(size=(2, 30, 3)) * [[[1.0]], [[1.5]]]
    scores = matched_distribution(real, predicted).macro
    assert scores.index.tolist() == NAMES
    assert scores["mean_distance"] == pytest.approx(np.linalg.norm(real.mean(axis=0) - predicted.mean(axis=0)))
    for order in (1, 2):
        cost = cdist(real, predicted) ** order
        best = cost[scipy.optimize.linear_sum_assignment(cost)].mean() ** (1 / order)
        assert scores[f"wasserstein{order}"] == pytest.approx(best)
    assert scores["energy_distance"] == pytest.approx(energy_distance(real, predicted))


def test_populations_differ_in_size():
    """Three cells against two, by hand: sixths of the mass move by 0, 0, 1, 2, 1, 1."""
    scores = matched_distribution(np.array([[0.0], [1.0], [2.0]]), np.array([[0.0], [3.0]])).macro
    assert scores["wasserstein1"] == pytest.approx(5 / 6)
    assert scores["wasserstein2"] == pytest.approx(np.sqrt(7 / 6))


def test_divergence_is_that_of_densities():
    """The closed form against the mean log ratio of densities over draws from the first."""
    import scipy.stats

    rng = np.random.default_rng(1)
    real, predicted = rng.normal(size=(50, 2)), 0.5 + 2 * rng.normal(size=(40, 2))
    kl = matched_distribution(real, predicted).macro["gaussian_kl"]
    p, q = (scipy.stats.norm(cells.mean(axis=0), cells.std(axis=0, ddof=1)) for cells in (real, predicted))
    draws = p.rvs(size=(200_000, 2), random_state=2)
    ratio = (p.logpdf(draws) - q.logpdf(draws)).sum(axis=1)
    assert abs(kl - ratio.mean()) < 4 * ratio.std() / np.sqrt(len(draws))
    assert kl != pytest.approx(matched_distribution(predicted, real).macro["gaussian_kl"], rel=0.1)


def test_shrunken_predictions_show_in_the_divergence():
    rng = np.random.default_rng(3)
    real = rng.normal(size=(200, 2))
    narrow = matched_distribution(real, 0.1 * (real - real.mean(axis=0)) + real.mean(axis=0)).macro
    assert narrow["mean_distance"] == pytest.approx(0.0, abs=1e-12)
    assert narrow["gaussian_kl"] > 10


def test_the_floor_bounds_the_divergence():
    real = np.random.default_rng(4).normal(size=(20, 1))
    constant = np.full((20, 1), real.mean())
    high, low = (
        matched_distribution(real, constant, min_variance=floor).macro["gaussian_kl"] for floor in (1e-3, 1e-1)
    )
    assert high == pytest.approx((np.log(1e-3 / real.var(ddof=1)) + real.var(ddof=1) / 1e-3 - 1) / 2)
    assert high > 50 * low


def test_groups_weigh_alike_or_by_their_real_cells():
    real = np.array([[0.0], [2.0], [10.0], [12.0], [14.0], [10.0], [12.0], [14.0]])
    groups = np.repeat(["a", "b"], [2, 6])
    predicted = np.array([[1.0], [3.0], [16.0], [14.0], [99.0]])
    scores = matched_distribution(real, predicted, truth_groups=groups, prediction_groups=["a", "a", "b", "b", "c"])
    assert scores.table["n_scored"].to_dict() == {"a": 2, "b": 6, "c": 0}
    assert scores.table["mean_distance"].to_dict() == pytest.approx({"a": 1.0, "b": 3.0, "c": np.nan}, nan_ok=True)
    assert scores.macro["mean_distance"] == pytest.approx(2.0)
    assert scores.micro["mean_distance"] == pytest.approx(2.5)
    assert scores.left_out.to_dict() == {"without_counterpart": 0}
    other = matched_distribution(real, predicted[:2], truth_groups=groups, prediction_groups=["a", "a"])
    assert other.left_out.to_dict() == {"without_counterpart": 6}
    assert other.macro["mean_distance"] == pytest.approx(1.0)


def test_one_cell_has_no_spread():
    scores = matched_distribution(np.zeros((1, 2)), np.ones((3, 2))).macro
    assert scores["wasserstein1"] == pytest.approx(np.sqrt(2))
    assert scores[["energy_distance", "gaussian_kl"]].isna().all()


def test_large_groups_are_drawn_from_with_a_seed():
    rng = np.random.default_rng(5)
    real, predicted = rng.normal(size=(2, 300, 2))
    few = [matched_distribution(real, predicted, max_cells=50, seed=seed).macro for seed in (0, 0, 1)]
    assert few[0].equals(few[1])
    assert few[0]["wasserstein2"] != few[2]["wasserstein2"]
    whole = matched_distribution(real, predicted).macro
    assert few[0]["wasserstein2"] > whole["wasserstein2"]
    assert few[0]["energy_distance"] == whole["energy_distance"]


def test_order_of_cells_does_not_matter():
    rng = np.random.default_rng(6)
    real, predicted = rng.normal(size=(20, 2)), rng.normal(size=(25, 2))
    rows, columns = rng.permutation(20), rng.permutation(25)
    groups, others = np.arange(20) % 3, np.arange(25) % 3
    first = matched_distribution(real, predicted, truth_groups=groups, prediction_groups=others)
    again = matched_distribution(
        real[rows], predicted[columns], truth_groups=groups[rows], prediction_groups=others[columns]
    )
    np.testing.assert_allclose(again.table, first.table, atol=1e-12)


X = np.random.default_rng(7).normal(size=(4, 2))


@pytest.mark.parametrize(
    ("prediction", "options", "match"),
    [
        (X[:, :1], {}, "prediction: expected the 2 features"),
        (X * np.nan, {}, "prediction: expected finite"),
        (X[:0], {}, "prediction: expected at least 1 row"),
        (X, {"max_cells": 0}, "max_cells, min_variance: expected at least 1"),
        (X, {"min_variance": 0.0}, "max_cells, min_variance: expected"),
        (X, {"truth_groups": list("aabb")}, "prediction_groups: expected labels, as truth_groups has them, got None"),
        (X, {"truth_groups": list("aabb"), "prediction_groups": list("ccdd")}, "got none in common"),
        (X, {"truth_groups": list("aab"), "prediction_groups": list("aabb")}, "truth_groups: expected one label a row"),
    ],
)
def test_bad_input(prediction, options, match):
    with pytest.raises(ValueError, match=match):
        matched_distribution(X, prediction, **options)
