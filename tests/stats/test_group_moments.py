from __future__ import annotations

import warnings

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import scipy.stats

from perturbia.stats import effects_against, group_means


@pytest.fixture
def cells():
    rng = np.random.default_rng(0)
    X = rng.poisson(0.7, size=(9000, 12)).astype(np.float32)  # more rows than one block
    return X, rng.choice(["ctrl", "B", "A", "C"], size=len(X), p=[0.5, 0.2, 0.2, 0.1])


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csr_array, sp.csc_matrix])
def test_matches_pandas(cells, container):
    X, labels = cells
    moments = group_means(container(X), labels)
    frame = pd.DataFrame(X.astype(float)).groupby(labels)
    np.testing.assert_array_equal(moments.groups, frame.mean().index)
    np.testing.assert_allclose(moments.mean, frame.mean(), rtol=1e-12)
    np.testing.assert_allclose(moments.variance, frame.var(), rtol=1e-10)
    np.testing.assert_array_equal(moments.count, frame.size())
    assert moments.mean.dtype == moments.variance.dtype == np.float64


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_overlapping_membership(cells, container):
    X, _ = cells
    member = np.random.default_rng(1).random((len(X), 3)) < 0.4
    moments = group_means(X, container(member), groups=["a", "b", "c"])
    for k in range(3):
        np.testing.assert_allclose(moments.mean[k], X[member[:, k]].mean(0, dtype=float), rtol=1e-12)
        np.testing.assert_allclose(moments.variance[k], X[member[:, k]].var(0, ddof=1, dtype=float), rtol=1e-10)
    assert list(moments.groups) == ["a", "b", "c"]


def test_wanted_groups_in_wanted_order(cells):
    X, labels = cells
    everything, some = group_means(X, labels), group_means(X, labels, groups=["ctrl", "A"])
    np.testing.assert_array_equal(some.groups, ["ctrl", "A"])
    np.testing.assert_array_equal(some.mean, everything.mean[[3, 0]])
    np.testing.assert_array_equal(some.count, everything.count[[3, 0]])


def test_order_of_cells_does_not_matter(cells):
    X, labels = cells
    order = np.random.default_rng(2).permutation(len(X))
    np.testing.assert_allclose(
        group_means(X[order], labels[order]).variance, group_means(X, labels).variance, rtol=1e-10
    )


def test_float32_values_far_from_zero_keep_their_variance():
    X = (1e4 + np.random.default_rng(3).normal(size=(5000, 3))).astype(np.float32)
    moments = group_means(X, np.repeat(["a", "b"], 2500))
    np.testing.assert_allclose(moments.variance[0], X[:2500].astype(float).var(0, ddof=1), rtol=1e-10)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
@pytest.mark.parametrize("value", [0.1, 1 / 3, 1e6])
def test_constant_columns_have_variance_exactly_zero(container, value):
    X = np.full((1001, 2), value)
    X[500:, 1] += 1
    assert (group_means(container(X), np.repeat([0, 1], [500, 501])).variance == 0).all()


def test_single_row_groups_warn_and_variance_can_be_left_out(cells):
    X, _ = cells
    with pytest.warns(RuntimeWarning, match="1 groups have one row"):
        moments = group_means(X[:3], ["a", "b", "b"])
    assert np.isnan(moments.variance[0]).all()
    assert np.isfinite(moments.variance[1]).all()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert group_means(X[:3], ["a", "b", "b"], with_variance=False).variance is None


def test_effects_and_standard_errors_match_welch(cells):
    X, labels = cells
    result = effects_against(group_means(X, labels), reference="ctrl")
    assert list(result.groups) == ["A", "B", "C"]
    test = scipy.stats.ttest_ind(X[labels == "B"].astype(float), X[labels == "ctrl"].astype(float), equal_var=False)
    np.testing.assert_allclose(result.effects[1] / result.standard_errors[1], test.statistic, rtol=1e-9)


def test_repr_says_what_it_holds(cells):
    moments = group_means(*cells)
    assert repr(moments) == "GroupMoments: 4 groups x 12 columns, 9000 rows"
    assert repr(effects_against(moments, reference="ctrl")) == "GroupEffects: 3 groups x 12 columns"


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("values", "labels", "groups", "match"),
    [
        (X, ["a", "b"], None, "labels: expected one label a row"),
        (X, ["a", "b", None, "b"], None, "labels: expected a label for every row, got 1 missing"),
        (X, [1.0, np.nan, 2.0, np.nan], None, "got 2 missing"),
        (X, ["a", "a", "b", "b"], ["a", "z"], "groups: .* no row is labelled z"),
        (X, ["a", "a", "b", "b"], ["a", "a"], "groups: .* named twice"),
        (np.where(X == 3, np.nan, X), ["a", "a", "b", "b"], None, "X: expected finite"),
        (X[0], ["a"], None, "X: expected a two-dimensional"),
        (X, np.eye(4)[:, :2] * 2, None, "labels: expected a 0/1 membership"),
        (X, np.eye(3), None, "labels: expected a 0/1 membership"),
        (X, np.array([[1, 0]] * 4), None, "got none in 1 groups"),
        (X, np.eye(4), ["a"], "groups: expected a name for each of the 4"),
    ],
)
def test_bad_input(values, labels, groups, match):
    with pytest.raises(ValueError, match=match):
        group_means(values, labels, groups=groups)


@pytest.mark.parametrize(
    ("labels", "reference", "options", "match"),
    [
        (["a", "a", "b", "b"], "z", {}, "reference: expected one of the 2 groups .a, b., got 'z'"),
        (["a"] * 4, "a", {}, "a group besides the reference"),
        (["a", "a", "b", "b"], "a", {"with_variance": False}, "moments: expected variances"),
        (["a", "a", "a", "b"], "a", {}, "got 1 groups of one"),
        (["a", "a", "b", "b"], "a", {"variance": "student"}, "variance: expected 'welch' or 'pooled', got 'student'"),
    ],
)
def test_bad_effects(labels, reference, options, match):
    options = dict(options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        moments = group_means(X, labels, with_variance=options.pop("with_variance", True))
    with pytest.raises(ValueError, match=match):
        effects_against(moments, reference=reference, **options)


def test_pooled_errors_match_students_test(cells):
    """With two groups the pooled error is that of the t-test of equal variances."""
    X, labels = cells
    two = np.isin(labels, ["A", "ctrl"])
    result = effects_against(group_means(X[two], labels[two]), reference="ctrl", variance="pooled")
    test = scipy.stats.ttest_ind(X[labels == "A"].astype(float), X[labels == "ctrl"].astype(float), equal_var=True)
    np.testing.assert_allclose(result.effects[0] / result.standard_errors[0], test.statistic, rtol=1e-9)


def test_pooled_variance_is_within_all_groups(cells):
    X, labels = cells
    result = effects_against(group_means(X, labels), reference="ctrl", variance="pooled")
    residual = X.astype(float) - pd.DataFrame(X.astype(float)).groupby(labels).transform("mean").to_numpy()
    within = (residual**2).sum(0) / (len(X) - 4)
    n = {name: (labels == name).sum() for name in ("A", "B", "C", "ctrl")}
    for row, name in enumerate(result.groups):
        np.testing.assert_allclose(
            result.standard_errors[row], np.sqrt(within * (1 / n[name] + 1 / n["ctrl"])), rtol=1e-9
        )
    np.testing.assert_array_equal(result.effects, effects_against(group_means(X, labels), reference="ctrl").effects)


def test_pooled_errors_serve_small_groups():
    """Ten cells that all lack a gene are not certain of it, and one cell has an error at all."""
    rng = np.random.default_rng(4)
    values = rng.poisson(0.05, size=(511, 1)).astype(float)
    labels = np.array(["ctrl"] * 500 + ["ten"] * 10 + ["one"])
    values[500:510] = 0
    with pytest.warns(RuntimeWarning, match="one row"):
        moments = group_means(values, labels)
    pooled = effects_against(moments, reference="ctrl", variance="pooled")
    expected = values[:500].std(ddof=1) * np.sqrt(1 / np.array([1, 10]) + 1 / 500)
    np.testing.assert_allclose(pooled.standard_errors[:, 0], expected, rtol=0.02)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        lonely = group_means(values[:2], ["ctrl", "one"])
    with pytest.raises(ValueError, match="a group of at least 2 rows, got none"):
        effects_against(lonely, reference="ctrl", variance="pooled")


@pytest.mark.parametrize("container", [sp.csr_matrix, sp.csc_array])
@pytest.mark.parametrize("offset", [1e4, 1e7, 1e9])
def test_variances_of_sparse_values_far_from_zero(container, offset):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(90, 5))
    X[:, 0] += offset
    X[:, 1] = np.where(np.arange(90) < 30, 0.0, offset + X[:, 1])  # a group of zeros
    X[:, 2] = offset + 1 / 3
    X[:, 3] *= rng.random(90) < 0.2
    labels = np.repeat(["a", "b", "c"], 30)
    expected = [np.var(X[labels == one] - X[labels == one][0], axis=0, ddof=1) for one in "abc"]
    moments = group_means(container(X), labels)
    np.testing.assert_allclose(moments.variance, expected, rtol=1e-6)
    np.testing.assert_allclose(moments.mean, [X[labels == one].mean(axis=0) for one in "abc"], rtol=1e-12)
