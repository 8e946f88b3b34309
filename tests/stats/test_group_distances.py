from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.distance import cdist, pdist
from scipy.stats import binom, false_discovery_control

from perturbia.stats import group_distance_tests


@pytest.fixture
def cells():
    """Two sets with groups of several sizes, one of which one side lacks, in no order."""
    rng = np.random.default_rng(0)
    x_groups = rng.permutation(np.repeat(["a", "b", "c", "one", "x"], [30, 20, 25, 1, 5])).astype(object)
    y_groups = rng.permutation(np.repeat(["a", "b", "c", "one", "y"], [25, 35, 20, 4, 5])).astype(object)
    X, Y = rng.normal(size=(len(x_groups), 3)), rng.normal(size=(len(y_groups), 3))
    Y[y_groups == "b"] += 1.5
    return X, Y, x_groups, y_groups


def test_distances_by_the_formula(cells):
    X, Y, x_groups, y_groups = cells
    table = group_distance_tests(X, Y, x_groups, y_groups, n_permutations=99)
    assert table.index.tolist() == ["a", "b", "c", "one"]
    for name in "abc":
        x, y = X[x_groups == name], Y[y_groups == name]
        between = 2 * cdist(x, y).mean()
        expected = between - pdist(x).mean() - pdist(y).mean()
        assert table.loc[name, "energy_distance"] == pytest.approx(expected)
        assert table.loc[name, "relative_distance"] == pytest.approx(expected / between)
    assert table.loc["one"].isna().all()
    tested = table.drop(index="one")
    np.testing.assert_allclose(tested["p_adjusted"], false_discovery_control(tested["p_value"]))
    assert (tested["p_adjusted"] < 0.05).tolist() == [False, True, False]


def test_order_scale_and_cells_without_group_do_not_matter(cells):
    X, Y, x_groups, y_groups = cells
    table = group_distance_tests(X, Y, x_groups, y_groups, n_permutations=20)
    rng = np.random.default_rng(1)
    some = rng.permutation(len(X))
    moved = group_distance_tests(5 * X[some] + 3, 5 * Y + 3, x_groups[some], y_groups, n_permutations=20)
    np.testing.assert_allclose(moved["relative_distance"], table["relative_distance"], atol=1e-12)
    np.testing.assert_allclose(moved["energy_distance"], 5 * table["energy_distance"])
    lone = np.where(x_groups == "x", None, x_groups)
    again = group_distance_tests(X, Y, lone, np.where(y_groups == "y", np.nan, y_groups), n_permutations=20)
    np.testing.assert_array_equal(again.to_numpy(), table.to_numpy())


def test_a_seed_is_a_seed(cells):
    X, Y, x_groups, y_groups = cells
    first, same, other = (
        group_distance_tests(X, Y, x_groups, y_groups, n_permutations=99, seed=seed)["p_value"] for seed in (0, 0, 1)
    )
    assert first.equals(same)
    assert not first.equals(other)


def test_p_values_are_valid_under_the_null():
    """Of 150 groups with one distribution, about a tenth is below 0.1, and none survives the false discovery rate."""
    rng = np.random.default_rng(0)
    groups = np.repeat(np.arange(150), 12)
    X, Y = rng.normal(size=(2, len(groups), 2))
    table = group_distance_tests(X, Y, groups, groups, n_permutations=199)
    low, high = binom.ppf([0.001, 0.999], 150, 0.1)
    assert low <= (table["p_value"] <= 0.1).sum() <= high
    assert (table["p_adjusted"] >= 0.05).all()
    assert abs(table["relative_distance"].mean()) < 0.02


def test_large_groups_are_drawn_from():
    rng = np.random.default_rng(0)
    X, Y = rng.normal(size=(300, 2)), rng.normal(1.0, 1, size=(400, 2))
    few = group_distance_tests(X, Y, ["a"] * 300, ["a"] * 400, n_permutations=99, max_cells=50)
    assert few.loc["a", "p_value"] == pytest.approx(0.01)
    whole = group_distance_tests(X, Y, ["a"] * 300, ["a"] * 400, n_permutations=99)
    assert few.loc["a", "energy_distance"] != whole.loc["a", "energy_distance"]
    assert few.loc["a", "energy_distance"] == pytest.approx(whole.loc["a", "energy_distance"], abs=0.5)


def test_cells_that_are_all_alike_are_at_no_distance():
    table = group_distance_tests(np.ones((4, 2)), np.ones((5, 2)), ["a"] * 4, ["a"] * 5, n_permutations=20)
    assert table.loc["a", ["energy_distance", "relative_distance", "p_value"]].tolist() == [0, 0, 1]


X, GROUPS = np.zeros((4, 2)), ["a", "a", "b", "b"]


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        ((X, np.zeros((4, 3)), GROUPS, GROUPS), {}, "Y: expected the 2 columns"),
        ((X, X + np.nan, GROUPS, GROUPS), {}, "Y: expected finite"),
        ((X, X, GROUPS[:3], GROUPS), {}, "x_groups: expected one label a cell"),
        ((X, X, GROUPS, ["c"] * 4), {}, "expected a group that both have"),
        ((X, X, GROUPS, GROUPS), {"max_cells": 1}, "max_cells: expected"),
        ((X, X, GROUPS, GROUPS), {"n_permutations": 0}, "n_permutations, block_size: expected"),
    ],
)
def test_bad_input(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        group_distance_tests(*arguments, **options)
