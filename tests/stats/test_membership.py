"""Groups of rows as matrices, places and counts, against loops and pandas."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from perturbia.stats._membership import distinct_within, one_hot, place_within


@pytest.fixture(params=[0, 1, 2])
def codes(request) -> np.ndarray:
    return np.random.default_rng(request.param).integers(-1, 5, size=60)


def test_one_hot(codes):
    found = one_hot(codes, 7)
    np.testing.assert_array_equal(found.toarray(), codes[:, None] == np.arange(7))
    assert found.dtype == np.float64
    assert found.nnz == (codes >= 0).sum()
    assert one_hot(codes[:0], 7).shape == (0, 7)


@pytest.mark.parametrize("as_text", [False, True])
def test_places_are_those_of_sorted_groups(codes, as_text):
    order = np.random.default_rng(3).random(len(codes))
    groups = codes.astype(str) if as_text else codes
    expected = pd.Series(order).groupby(groups).rank().to_numpy() - 1
    np.testing.assert_array_equal(place_within(groups, order), expected)


def test_equal_rows_keep_their_order(codes):
    expected = pd.Series(codes).groupby(codes).cumcount()
    np.testing.assert_array_equal(place_within(codes, np.zeros(len(codes))), expected)
    np.testing.assert_array_equal(place_within(codes, np.arange(len(codes))), expected)


def test_no_rows_have_no_place():
    assert place_within(np.empty(0, dtype=int), np.empty(0)).tolist() == []


def test_distinct_values(codes):
    values = np.random.default_rng(4).integers(0, 9, size=len(codes))
    expected = [len(set(values[codes == group])) for group in range(7)]
    np.testing.assert_array_equal(distinct_within(codes, values, 7), expected)
    np.testing.assert_array_equal(distinct_within(codes.astype(np.int8), values.astype(np.int8), 7), expected)
    assert distinct_within(codes[:0], values[:0], 3).tolist() == [0, 0, 0]
    assert distinct_within(np.array([-1, -1]), np.array([0, 1]), 2).tolist() == [0, 0]
