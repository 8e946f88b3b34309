from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.stats

from perturbia.metrics import paired_iwelbo


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    second = rng.normal(-500.0, 40.0, size=600)
    return second + rng.normal(0.4, 2.0, size=600), second


def test_interval_matches_the_normal_one(cells):
    first, second = cells
    found = paired_iwelbo(first, second)
    difference = first - second
    error = difference.std(ddof=1) / np.sqrt(600)
    assert found.mean_difference == pytest.approx(difference.mean())
    assert found.standard_error == pytest.approx(error, rel=0.03)
    normal = scipy.stats.norm.interval(0.95, difference.mean(), error)
    assert (found.lower, found.upper) == pytest.approx(normal, abs=0.1 * error)
    assert found.sd == pytest.approx(difference.std(ddof=1))
    assert found.sd_second == pytest.approx(second.std(ddof=1))
    assert (found.n_cells, found.n_groups) == (600, 600)


def test_pairing_sees_what_separate_spreads_hide(cells):
    first, second = cells
    found = paired_iwelbo(first, second)
    assert found.lower > 0
    assert found.mean_difference < found.sd_first / np.sqrt(600)


def test_swapping_models_changes_the_sign(cells):
    first, second = cells
    one, other = paired_iwelbo(first, second), paired_iwelbo(second, first)
    assert other.mean_difference == pytest.approx(-one.mean_difference)
    assert (other.lower, other.upper) == pytest.approx((-one.upper, -one.lower))


def test_series_are_matched_by_name(cells):
    names = [f"c{i}" for i in range(600)]
    first, second = (pd.Series(values, index=names) for values in cells)
    shuffled = second.sample(frac=1, random_state=1)
    assert paired_iwelbo(first, shuffled) == paired_iwelbo(first, second) == paired_iwelbo(*cells)
    with pytest.raises(ValueError, match="second: expected the 600 cells of first, got 600, without 1"):
        paired_iwelbo(first, second.rename({"c3": "other"}))
    with pytest.raises(ValueError, match="second: expected the 600 cells of first, got 599"):
        paired_iwelbo(first, second.iloc[1:])
    with pytest.raises(ValueError, match="another one with repeated names"):
        paired_iwelbo(first, second.rename({"c3": "c4"}))


def test_whole_groups_widen_the_interval_where_they_differ():
    rng = np.random.default_rng(2)
    groups = np.repeat(np.arange(20), 50)
    second = rng.normal(-500.0, 40.0, size=1000)
    first = second + rng.normal(size=20)[groups] + 0.3 * rng.normal(size=1000)
    by_cell, by_group = paired_iwelbo(first, second), paired_iwelbo(first, second, groups=groups)
    means = (first - second).reshape(20, 50).mean(axis=1)
    assert by_group.standard_error == pytest.approx(means.std() / np.sqrt(20), rel=0.05)
    assert by_group.standard_error > 3 * by_cell.standard_error
    assert by_group.mean_difference == by_cell.mean_difference
    assert by_group.n_groups == 20
    assert "1000 cells in 20 groups" in repr(by_group)


def test_groups_of_unequal_size_keep_the_mean_over_cells():
    rng = np.random.default_rng(3)
    groups = np.repeat(np.arange(40), rng.integers(1, 60, size=40))
    second = rng.normal(size=len(groups))
    found = paired_iwelbo(second + 5.0, second, groups=groups)  # the same difference in every cell: nothing varies
    assert (found.lower, found.upper) == pytest.approx((5.0, 5.0), abs=1e-12)


def test_same_seed_same_interval(cells):
    groups = np.arange(600) % 30
    assert paired_iwelbo(*cells, groups=groups) == paired_iwelbo(*cells, groups=groups)
    assert paired_iwelbo(*cells, groups=groups) != paired_iwelbo(*cells, groups=groups, seed=1)


V = np.arange(4.0)


@pytest.mark.parametrize(
    ("first", "second", "options", "match"),
    [
        (V, V[:3], {}, "second: expected the 4 cells"),
        (V[:1], V[:1], {}, "first: expected one value a cell"),
        (V[:, None], V[:, None], {}, "first: expected one value a cell"),
        (V, V * np.nan, {}, "second: expected finite"),
        (V, V, {"groups": [0, 1, 1]}, "groups: expected one label a row"),
        (V, V, {"groups": ["a"] * 4}, "groups: expected at least two groups"),
        (V, V, {"confidence": 1.0}, "n_resamples, confidence"),
        (V, V, {"n_resamples": 0}, "n_resamples, confidence"),
    ],
)
def test_bad_input(first, second, options, match):
    with pytest.raises(ValueError, match=match):
        paired_iwelbo(first, second, **options)
