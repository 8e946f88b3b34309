from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.stats import false_discovery_control, mannwhitneyu

from perturbia.stats import rank_sum


@pytest.fixture
def counts():
    """Counts with many ties and zeros, a gene without counts, a constant gene and groups of 1 to 60 cells."""
    rng = np.random.default_rng(0)
    labels = np.repeat(["b", "control", "a", "one"], [23, 60, 41, 1])
    X = rng.poisson(rng.gamma(1.0, 2.0, size=12), size=(125, 12)).astype(float)
    X[labels == "a", :4] += rng.poisson(2.0, size=(41, 4))
    X[:, 5], X[:, 6] = 0, 3
    shuffled = rng.permutation(125)
    return X[shuffled], labels[shuffled]


@pytest.mark.parametrize("use_continuity", [True, False])
@pytest.mark.parametrize("shift", [0.0, -2.0])
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix, sp.csc_array])
def test_matches_scipy(counts, use_continuity, shift, container):
    X, labels = counts
    X = X + shift  # values below zero rank below the zeros that sparse data do not store
    test = rank_sum(container(X), labels, reference="control", use_continuity=use_continuity, fold_change=None)
    assert list(test.groups) == ["a", "b", "one"]
    assert list(test.count) == [41, 23, 1]
    assert test.n_reference == 60
    varies = np.ptp(X, axis=0) > 0
    for k, group in enumerate(test.groups):
        expected = mannwhitneyu(
            X[labels == group][:, varies],
            X[labels == "control"][:, varies],
            method="asymptotic",
            use_continuity=use_continuity,
        )
        np.testing.assert_array_equal(test.statistic[k, varies], expected.statistic)
        # A gene with one value in both groups has 0 / 0 in SciPy without the continuity correction.
        np.testing.assert_allclose(test.p_value[k, varies], np.nan_to_num(expected.pvalue, nan=1.0), rtol=1e-10)
    np.testing.assert_array_equal(test.p_value[:, ~varies], 1.0)
    np.testing.assert_array_equal(test.z_score[:, ~varies], 0.0)
    np.testing.assert_allclose(test.fdr, false_discovery_control(test.p_value, axis=1))


def test_blocks_of_genes_change_nothing(counts, monkeypatch):
    X, labels = counts
    whole = rank_sum(X, labels, reference="control")
    monkeypatch.setattr("perturbia.stats.rank_sum_test._BLOCK_ENTRIES", 300)
    for container in (np.asarray, sp.csr_matrix):
        parts = rank_sum(container(X), labels, reference="control")
        np.testing.assert_array_equal(parts.p_value, whole.p_value)


def test_order_of_cells_and_genes_and_scale_do_not_matter(counts):
    X, labels = counts
    rng = np.random.default_rng(1)
    cells, genes = rng.permutation(X.shape[0]), rng.permutation(X.shape[1])
    first = rank_sum(X, labels, reference="control", fold_change="values")
    second = rank_sum(
        7 * X[cells][:, genes], labels[cells], reference="control", fold_change="values", pseudocount=7e-9
    )
    np.testing.assert_array_equal(second.statistic, first.statistic[:, genes])
    np.testing.assert_allclose(second.p_value, first.p_value[:, genes])
    np.testing.assert_allclose(second.log2_fold_change, first.log2_fold_change[:, genes], atol=1e-9)


def test_swapping_group_and_reference_mirrors_the_test(counts):
    X, labels = counts
    keep = np.isin(labels, ["a", "control"])
    one = rank_sum(X[keep], labels[keep], reference="control")
    other = rank_sum(X[keep], labels[keep], reference="a")
    np.testing.assert_array_equal(one.statistic + other.statistic, 41 * 60)
    np.testing.assert_allclose(one.z_score, -other.z_score)
    np.testing.assert_allclose(one.p_value, other.p_value)


@pytest.mark.parametrize(
    ("kind", "mean"),
    [
        ("values", lambda X: X.mean(axis=0)),
        ("arithmetic", lambda X: np.expm1(X).mean(axis=0)),
        ("geometric", lambda X: np.expm1(X.mean(axis=0))),
    ],
)
@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_fold_change_is_that_of_the_declared_means(counts, kind, mean, container):
    X, labels = np.log1p(counts[0]), counts[1]
    test = rank_sum(container(X), labels, reference="control", fold_change=kind, pseudocount=0.1)
    expected = np.log2((mean(X[labels == "a"]) + 0.1) / (mean(X[labels == "control"]) + 0.1))
    np.testing.assert_allclose(test.log2_fold_change[0], expected, atol=1e-12)


def test_without_pseudocount_a_silent_gene_is_unchanged_and_one_sided_zeros_are_infinite():
    X = np.array([[0.0, 0.0, 1.0], [0.0, 0.0, 1.0], [0.0, 2.0, 0.0], [0.0, 2.0, 0.0]])
    test = rank_sum(X, ["c", "c", "p", "p"], reference="c", pseudocount=0)
    np.testing.assert_array_equal(test.log2_fold_change, [[0, np.inf, -np.inf]])


def test_p_values_are_uniform_without_an_effect():
    rng = np.random.default_rng(3)
    test = rank_sum(rng.normal(size=(300, 2000)), np.repeat(["c", "p"], 150), reference="c", fold_change=None)
    assert abs((test.p_value < 0.05).mean() - 0.05) < 4 * np.sqrt(0.05 * 0.95 / 2000)
    assert np.isnan(test.log2_fold_change).all()
    assert (test.fdr < 0.05).mean() < 0.01


def test_input_is_left_alone(counts):
    X = sp.csr_matrix(counts[0])
    X.data[:3] = 0  # stored zeros
    before = X.copy()
    stored = rank_sum(X, counts[1], reference="control")
    np.testing.assert_array_equal(X.data, before.data)
    np.testing.assert_array_equal(X.indices, before.indices)
    np.testing.assert_allclose(stored.p_value, rank_sum(X.toarray(), counts[1], reference="control").p_value)


SMALL = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("X", "labels", "options", "match"),
    [
        (SMALL, ["c", "c", "p"], {}, "labels: expected one label a row"),
        (SMALL, ["c", "c", None, "p"], {}, "1 missing"),
        (SMALL, ["p"] * 4, {}, "reference: expected one of the 1 groups"),
        (SMALL, ["c"] * 4, {}, "labels: expected a group besides the reference 'c'"),
        (SMALL * np.nan, ["c", "c", "p", "p"], {}, "X: expected finite numbers"),
        (SMALL - 9, ["c", "c", "p", "p"], {}, "X: expected group means >= 0 for a fold change"),
        (SMALL, ["c", "c", "p", "p"], {"fold_change": "median"}, "fold_change: expected 'geometric'"),
        (SMALL, ["c", "c", "p", "p"], {"pseudocount": -1}, "pseudocount: expected a finite number >= 0"),
    ],
)
def test_bad_input(X, labels, options, match):
    with pytest.raises(ValueError, match=match):
        rank_sum(X, labels, **{"reference": "c", **options})
