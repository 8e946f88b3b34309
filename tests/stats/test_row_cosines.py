"""Cosines in blocks against scikit-learn, NumPy and loops over pairs."""

from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics.pairwise import cosine_similarity

from perturbia.stats import row_cosines
from perturbia.stats.row_cosines import (
    cosine_errors,
    cosine_matrix,
    largest_cosines,
    nearest_rows,
    pair_cosines,
    pairs_at_most,
    unit_rows,
)


@pytest.fixture
def X() -> np.ndarray:
    return np.random.default_rng(0).normal(0.3, 1.0, size=(40, 6))


@pytest.mark.parametrize("block_size", [None, 1, 7, 40, 1000])
@pytest.mark.parametrize(("metric", "oracle"), [("cosine", cosine_similarity), ("pearson", np.corrcoef)])
def test_all_cosines(X, metric, oracle, block_size):
    found = cosine_matrix(unit_rows(X, metric=metric)[0], block_size=block_size)
    np.testing.assert_allclose(found, oracle(X), atol=2e-7)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_array_equal(np.diag(found), 1.0)


@pytest.mark.parametrize("scale", [1e-200, 1e-3, 1e200])
def test_scale_does_not_matter(X, scale):
    units, length = unit_rows(X * scale)
    np.testing.assert_allclose(units, unit_rows(X)[0], rtol=1e-14)
    np.testing.assert_allclose(length, np.linalg.norm(X, axis=1) * scale, rtol=1e-12)


@pytest.mark.filterwarnings("error")
@pytest.mark.parametrize(("value", "length"), [(5e-324, 2 * 5e-324), (1.7e308, np.inf)])
def test_ends_of_the_range_have_directions(value, length):
    units, found = unit_rows(np.array([[value, -value, value, value]]))
    assert units.tolist() == [[0.5, -0.5, 0.5, 0.5]]
    assert found.tolist() == [length]


def test_what_is_given_stays_as_it_is(X):
    before = X.copy()
    unit_rows(X)
    unit_rows(X, metric="pearson")
    np.testing.assert_array_equal(X, before)


@pytest.mark.parametrize("entries", [1, 30, 10_000])
def test_cosines_of_some_pairs(X, entries, monkeypatch):
    monkeypatch.setattr(row_cosines, "_BLOCK_ENTRIES", entries)
    first, second = np.triu_indices(len(X))
    found = pair_cosines(unit_rows(X)[0], first, second)
    np.testing.assert_allclose(found, cosine_similarity(X)[first, second], atol=1e-14)
    assert pair_cosines(unit_rows(X)[0], first[:0], second[:0]).shape == (0,)


@pytest.mark.parametrize("metric", ["cosine", "pearson"])
def test_rows_without_direction_have_length_zero(metric):
    X = np.array([[0.0, 0.0, 0.0], [0.1, 0.1, 0.1], [1.0, 2.0, 3.0]])
    units, length = unit_rows(X, metric=metric)
    flat = [True, metric == "pearson", False]
    np.testing.assert_array_equal(length == 0, flat)
    np.testing.assert_array_equal((units == 0).all(axis=1), flat)


@pytest.mark.parametrize("block_size", [None, 1, 7])
@pytest.mark.parametrize("n_top", [1, 5, 39, 100])
def test_largest_cosines(X, n_top, block_size):
    found = largest_cosines(unit_rows(X)[0], n_top=n_top, block_size=block_size)
    every = cosine_matrix(unit_rows(X)[0])
    size = np.abs(every - np.eye(40))
    kept = np.zeros_like(size, dtype=bool)
    for i in range(40):
        kept[i, np.argsort(-size[i])[: min(n_top, 39)]] = True
    kept |= kept.T
    np.testing.assert_array_equal(found.toarray() != 0, kept)
    np.testing.assert_allclose(found.toarray()[kept], every[kept], atol=1e-7)
    assert (found != found.T).nnz == 0
    assert found.dtype == np.float32
    assert found.has_sorted_indices


def test_those_as_large_as_the_last_are_kept_and_zeros_are_not():
    X = np.repeat(np.eye(3), [4, 2, 1], axis=0)  # four alike, two alike, one that is like none
    found = largest_cosines(X, n_top=2).toarray()
    np.testing.assert_array_equal(found, X @ X.T - np.eye(7))


@pytest.mark.parametrize("block_size", [None, 3])
@pytest.mark.parametrize("sign", ["both", "alike", "opposite"])
def test_nearest_rows(X, sign, block_size):
    queries = np.array([31, 4, 7, 12])
    found = nearest_rows(unit_rows(X)[0], queries, n=5, sign=sign, block_size=block_size)
    every = cosine_similarity(X)
    for query in queries:
        own = found.query == query
        score = {"both": np.abs(every[query]), "alike": every[query], "opposite": -every[query]}[sign]
        others = [j for j in np.argsort(-score) if j != query and (sign == "both" or score[j] > 0)]
        assert found.neighbor[own].tolist() == others[:5]
        assert found.rank[own].tolist() == [1, 2, 3, 4, 5]
        np.testing.assert_allclose(found.cosine[own], every[query, others[:5]], atol=1e-7)
    assert list(dict.fromkeys(found.query)) == queries.tolist()


def test_fewer_neighbours_than_asked_for_where_there_are_no_more():
    X = np.array([[1.0, 0.1], [1.0, 0.0], [-1.0, 0.0]])
    both, alike, opposite = (nearest_rows(unit_rows(X)[0], np.array([0, 2]), n=9, sign=sign)
                             for sign in ("both", "alike", "opposite"))  # fmt: skip
    assert both.neighbor.tolist() == [1, 2, 1, 0]
    assert (alike.query.tolist(), alike.neighbor.tolist()) == ([0], [1])
    assert (opposite.query.tolist(), opposite.neighbor.tolist()) == ([0, 2, 2], [2, 1, 0])


def test_ties_are_in_the_order_of_rows():
    X = np.repeat(np.eye(2), 4, axis=0)
    found = nearest_rows(X, np.array([2]), n=2)
    assert found.neighbor.tolist() == [0, 1]


@pytest.mark.parametrize("block_size", [None, 1, 7])
def test_pairs_at_most(X, block_size):
    values = np.array([0.4, -2.0, 0.0, 2.0, -0.3, 0.4])
    pairs = cosine_similarity(X)[np.triu_indices(40, 1)]
    found = pairs_at_most(unit_rows(X)[0], values, block_size=block_size)
    assert found.tolist() == [(pairs <= value).sum() for value in values]


@pytest.mark.parametrize("metric", ["cosine", "pearson"])
def test_errors_are_first_derivatives_times_errors(X, metric):
    errors = np.random.default_rng(1).uniform(0.1, 0.5, size=X.shape)
    first, second = np.array([0, 3, 5]), np.array([1, 2, 5 + 1])
    found = cosine_errors(*unit_rows(X, metric=metric), errors, first, second)

    def cosine(values, i, j):
        units = unit_rows(values, metric=metric)[0]
        return units[i] @ units[j]

    for value, i, j in zip(found, first, second, strict=True):
        variance = 0.0
        for row in (i, j):
            for column in range(X.shape[1]):
                step = np.zeros_like(X)
                step[row, column] = 1e-6
                slope = (cosine(X + step, i, j) - cosine(X - step, i, j)) / 2e-6
                variance += (slope * errors[row, column]) ** 2
        assert value == pytest.approx(np.sqrt(variance), rel=1e-6)


def test_errors_are_what_measured_cosines_vary_by():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(2, 30))
    truth[1] += truth[0]
    errors = rng.uniform(0.05, 0.3, size=(2, 30))
    draws = [truth + errors * rng.normal(size=(2, 30)) for _ in range(3000)]
    pair = np.array([0]), np.array([1])
    varied = np.std([cosine_similarity(one)[0, 1] for one in draws])
    stated = np.mean([cosine_errors(*unit_rows(one), errors, *pair)[0] for one in draws[:300]])
    assert stated == pytest.approx(varied, rel=0.05)


def test_errors_that_are_missing_stay_missing(X):
    errors = np.full_like(X, 0.1)
    errors[3] = np.nan
    found = cosine_errors(*unit_rows(X), errors, np.array([0, 3, 1]), np.array([1, 2, 3]))
    np.testing.assert_array_equal(np.isnan(found), [False, True, True])
