"""Locations of groups against pandas, NumPy and SciPy, and standard errors against what repeated draws do."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats

from perturbia.stats import group_locations
from perturbia.stats.group_locations import locate_groups

FUNCS = ["mean", "median", "trimmed", "spherical"]


@pytest.fixture
def rows():
    """Groups of 1 to 40 rows of counts, with ties and zeros."""
    rng = np.random.default_rng(0)
    labels = np.repeat([f"g{i:02d}" for i in range(20)], rng.integers(2, 40, 20))
    X = rng.poisson(1.0, (len(labels), 7)).astype(np.float32)
    X[:, 0] += 1  # every row has a direction
    order = rng.permutation(len(labels))
    return X[order], labels[order]


def by_loop(X, labels, function):
    return np.array([function(X[labels == name].astype(np.float64)) for name in np.unique(labels)])


ORACLES = {
    "mean": (lambda x: x.mean(axis=0), lambda x: x.std(axis=0, ddof=1) / np.sqrt(len(x))),
    "median": (lambda x: np.median(x, axis=0), None),
    "trimmed": (lambda x: scipy.stats.trim_mean(x, 0.2, axis=0), None),
    "spherical": (
        lambda x: (x / np.linalg.norm(x, axis=1, keepdims=True)).mean(axis=0),
        lambda x: scipy.stats.sem(x / np.linalg.norm(x, axis=1, keepdims=True), axis=0),
    ),
}


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_matrix, sp.csr_array])
@pytest.mark.parametrize("func", FUNCS)
def test_locations_match_a_loop_over_groups(rows, func, container):
    X, labels = rows
    found = locate_groups(container(X), labels, func=func, trim=0.2)
    location, error = ORACLES[func]
    rtol = 1e-6 if func == "spherical" else 1e-12
    np.testing.assert_array_equal(found.groups, np.unique(labels))
    np.testing.assert_array_equal(found.count, pd.Series(labels).value_counts().sort_index())
    np.testing.assert_allclose(found.location, by_loop(X, labels, location), rtol=rtol, atol=1e-15)
    if error is not None:
        np.testing.assert_allclose(found.standard_error, by_loop(X, labels, error), rtol=1e-5, atol=1e-9)
    assert found.location.dtype == found.standard_error.dtype == np.float64


@pytest.mark.parametrize("trim", [0.0, 0.1, 0.25])
def test_errors_of_trimmed_means_are_those_of_yuens_test(trim):
    rng = np.random.default_rng(1)
    a, b = rng.standard_t(3, size=(23, 4)), rng.standard_t(3, size=(17, 4))
    found = locate_groups(np.vstack([a, b]), np.repeat(["a", "b"], [23, 17]), func="trimmed", trim=trim)
    expected = scipy.stats.ttest_ind(a, b, equal_var=False, trim=trim).statistic
    difference = found.location[0] - found.location[1]
    np.testing.assert_allclose(difference / np.sqrt((found.standard_error**2).sum(axis=0)), expected, rtol=1e-9)


@pytest.mark.parametrize("n", [3, 5])
def test_errors_of_medians_of_odd_groups_are_those_of_all_their_resamples(n):
    x = np.random.default_rng(2).normal(size=(n, 3))
    resamples = np.array(list(itertools.product(range(n), repeat=n)))
    found = locate_groups(x, ["g"] * n, func="median")
    np.testing.assert_allclose(found.standard_error[0], np.median(x[resamples], axis=1).std(axis=0), rtol=1e-9)


def test_the_median_of_two_is_their_mean_with_its_error():
    x = np.random.default_rng(3).normal(size=(10, 4))
    one, other = (locate_groups(x, np.repeat(range(5), 2), func=func) for func in ("median", "mean"))
    np.testing.assert_allclose(one.location, other.location)
    np.testing.assert_allclose(one.standard_error, other.standard_error)


@pytest.mark.parametrize(("func", "high"), [("mean", 1.05), ("trimmed", 1.06), ("median", 1.3), ("spherical", 1.05)])
@pytest.mark.parametrize("n", [4, 15])
def test_errors_are_what_repeated_draws_vary_by(func, high, n):
    n_groups = 3000
    x = np.random.default_rng(4).normal(1.0, 1.0, size=(n_groups * n, 2))
    found = locate_groups(x, np.repeat(np.arange(n_groups), n), func=func)
    ratio = np.sqrt((found.standard_error**2).mean(axis=0)) / found.location.std(axis=0)
    assert (ratio > 0.95).all()
    assert (ratio < high).all()


@pytest.mark.parametrize("func", FUNCS)
def test_blocks_types_and_the_order_of_rows_do_not_matter(rows, func, monkeypatch):
    X, labels = rows
    expected = locate_groups(X, labels, func=func)
    order = np.random.default_rng(5).permutation(len(X))
    monkeypatch.setattr(group_locations, "_BLOCK_ENTRIES", 2 * len(X))  # two columns at a time
    for values in (X, X.astype(np.float64), X.astype(int), sp.csc_matrix(X)):
        found = locate_groups(values[order], labels[order], func=func)
        np.testing.assert_allclose(found.location, expected.location, rtol=1e-6, atol=1e-12)
        np.testing.assert_allclose(found.standard_error, expected.standard_error, rtol=1e-5, atol=1e-9)


@pytest.mark.parametrize("func", FUNCS)
def test_wanted_groups_in_wanted_order(rows, func):
    X, labels = rows
    every, some = (locate_groups(X, labels, func=func, groups=groups) for groups in (None, ["g07", "g02"]))
    np.testing.assert_array_equal(some.groups, ["g07", "g02"])
    np.testing.assert_allclose(some.location, every.location[[7, 2]])
    np.testing.assert_allclose(some.standard_error, every.standard_error[[7, 2]])


@pytest.mark.parametrize("func", FUNCS)
def test_one_wild_row_moves_the_mean_and_not_the_others(func):
    x = np.random.default_rng(6).normal(2.0, 0.1, size=(21, 3))
    wild = x.copy()
    wild[4] *= 1e4  # in length, not in direction
    before, after = (locate_groups(values, ["g"] * 21, func=func).location for values in (x, wild))
    moved = np.abs(after - before).max()
    assert moved > 100 if func == "mean" else moved < 0.05


@pytest.mark.parametrize("func", FUNCS)
def test_single_rows_have_no_error_and_all_others_do(func):
    x = np.arange(1.0, 9.0).reshape(4, 2)
    with pytest.warns(RuntimeWarning, match="labels: 1 groups have too few rows") as record:
        found = locate_groups(x, ["a", "a", "b", "a"], func=func)
    assert len(record) == 1
    np.testing.assert_array_equal(np.isnan(found.standard_error).all(axis=1), [False, True])
    assert np.isfinite(found.location).all()
    assert np.isfinite(found.standard_error[0]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        locate_groups(x, ["a", "a", "b", "b"], func=func)


def test_trimming_to_one_value_leaves_no_error():
    with pytest.warns(RuntimeWarning, match="too few rows"):
        found = locate_groups(np.array([[0.0], [1.0], [9.0]]), ["a"] * 3, func="trimmed", trim=0.4)
    assert found.location[0, 0] == 1.0
    assert np.isnan(found.standard_error).all()


def test_repr_says_what_it_holds(rows):
    assert repr(locate_groups(*rows)) == f"GroupLocations: 20 groups x 7 columns, {len(rows[0])} rows"


X = np.arange(1.0, 9.0).reshape(4, 2)
ZERO = np.where(np.arange(4)[:, None] == 2, 0.0, X)


@pytest.mark.parametrize(
    ("values", "labels", "options", "match"),
    [
        (X, ["a"] * 4, {"func": "mode"}, "func: expected one of 'mean', 'median', 'trimmed', 'spherical', got 'mode'"),
        (X, ["a"] * 4, {"func": "trimmed", "trim": 0.5}, "trim: expected a share in"),
        (X, ["a"] * 4, {"trim": -0.1}, "trim: expected a share in"),
        (X, ["a"] * 3, {"func": "median"}, "labels: expected one label a row"),
        (X, ["a", None, "b", "b"], {"func": "median"}, "labels: expected a label for every row"),
        (X, ["a"] * 4, {"groups": ["z"], "func": "median"}, "groups: .* no row is labelled z"),
        (np.where(X == 3, np.nan, X), ["a"] * 4, {"func": "median"}, "X: expected finite numbers"),
        (ZERO, ["a"] * 4, {"func": "spherical"}, r"X: .* got 1 of zeros only \(rows 2\)"),
        (sp.csr_matrix(ZERO), ["a"] * 4, {"func": "spherical"}, r"X: .* got 1 of zeros only \(rows 2\)"),
        (X[0], ["a"], {}, "X: expected a two-dimensional"),
    ],
)
def test_bad_input(values, labels, options, match):
    with pytest.raises(ValueError, match=match):
        locate_groups(values, labels, **options)
