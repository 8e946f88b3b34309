from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist, pdist

from perturbia.stats import median_distance, mmd, pairwise_mmd


def oracle(X, Y, widths, unbiased):
    """Squared discrepancy from full kernel matrices."""

    def kernel(A, B):
        return sum(np.exp(-cdist(A, B, "sqeuclidean") / (2 * width**2)) for width in widths)

    n, m = len(X), len(Y)
    xx, yy, xy = kernel(X, X), kernel(Y, Y), kernel(X, Y)
    if not unbiased:
        return xx.mean() + yy.mean() - 2 * xy.mean()
    return (xx.sum() - np.trace(xx)) / (n * (n - 1)) + (yy.sum() - np.trace(yy)) / (m * (m - 1)) - 2 * xy.mean()


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.normal(size=(53, 6)), rng.normal(0.3, 1.5, size=(38, 6))


@pytest.mark.parametrize("unbiased", [True, False])
@pytest.mark.parametrize("block_size", [1, 7, 1000])
@pytest.mark.parametrize("widths", [[1.5], [0.5, 1.0, 3.0], list(np.sqrt([0.5, 1.0, 2.0, 4.0]))])
def test_matches_full_kernel_matrices(populations, unbiased, block_size, widths):
    value = mmd(*populations, bandwidths=widths[::-1], unbiased=unbiased, block_size=block_size)
    assert value == pytest.approx(oracle(*populations, widths, unbiased), abs=1e-10)


def test_default_widths_are_around_the_median_distance(populations):
    both = np.vstack(populations)
    median = np.median(pdist(both))
    assert median_distance(both) == pytest.approx(median)
    widths = median * np.sqrt([0.25, 0.5, 1, 2, 4])
    assert mmd(*populations) == pytest.approx(oracle(*populations, widths, True), abs=1e-10)
    drawn = [median_distance(both, max_cells=40, seed=seed) for seed in (0, 0, 1)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert drawn[0] == pytest.approx(median, rel=0.2)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_pairs_and_reference_match_two_sample_form(container):
    rng = np.random.default_rng(1)
    labels = rng.choice(["d", "a", "c", "b"], size=120)
    X = rng.poisson(1.0, size=(120, 5)) + (labels == "c")[:, None]
    pairs = pairwise_mmd(container(X), labels, block_size=16)
    np.testing.assert_array_equal(np.diag(pairs.values), 0)
    for i, g in enumerate("abcd"):
        against = pairwise_mmd(container(X), labels, reference=g, block_size=16)
        np.testing.assert_allclose(against.values, pairs.values[i], atol=1e-10)
        for j, h in enumerate("abcd"):
            if i != j:
                expected = oracle(X[labels == g], X[labels == h], pairs.bandwidths, True)
                assert pairs.values[i, j] == pytest.approx(expected, abs=1e-10)
    assert repr(pairs) == "KernelDiscrepancies: 4 groups, all pairs, unbiased, 5 bandwidths"


def test_float32_is_accurate(populations):
    X, Y = (P + 100 for P in populations)
    assert mmd(X.astype(np.float32), Y.astype(np.float32)) == pytest.approx(mmd(*populations), abs=1e-4)


def test_unbiased_is_centred_at_zero_for_equal_distributions():
    draws = np.random.default_rng(2).normal(size=(400, 2, 12, 3))
    values = np.array([mmd(X, Y) for X, Y in draws])
    assert abs(values.mean()) < 4 * values.std() / np.sqrt(len(values))
    assert min(mmd(X, Y, unbiased=False) for X, Y in draws[:50]) >= 0


def test_sees_a_spread_and_ignores_scale_with_the_median(populations):
    rng = np.random.default_rng(3)
    X, Y = rng.normal(size=(300, 2)), 3 * rng.normal(size=(300, 2))
    assert mmd(X, Y) > 0.2
    assert mmd(50 * X + 7, 50 * Y + 7) == pytest.approx(mmd(X, Y), rel=1e-8)
    assert mmd(Y, X) == pytest.approx(mmd(X, Y), rel=1e-10)


def test_single_cell_groups_are_nan_with_warning():
    X = np.arange(10.0).reshape(5, 2)
    with pytest.warns(RuntimeWarning, match="1 groups have one cell"):
        result = pairwise_mmd(X, ["a", "a", "b", "c", "c"])
    np.testing.assert_array_equal(np.isnan(result.values), [[0, 1, 0], [1, 0, 1], [0, 1, 0]])


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("first", "second", "options", "match"),
    [
        (X, X[:, :1], {}, "Y: expected the container and columns of X"),
        (X[:1], X, {}, "X: expected at least 2 row"),
        (X, X * np.nan, {}, "Y: expected finite"),
        (X, X, {"bandwidths": []}, "bandwidths: expected positive numbers"),
        (X, X, {"bandwidths": [1, 0]}, "bandwidths: expected positive numbers"),
        (X, X, {"block_size": 0}, "block_size: expected a positive"),
        (np.ones((4, 2)), np.ones((4, 2)), {}, "X: expected cells that differ"),
    ],
)
def test_bad_input(first, second, options, match):
    with pytest.raises(ValueError, match=match):
        mmd(first, second, **options)


@pytest.mark.parametrize(
    ("labels", "reference", "match"),
    [
        (["a", "a", "b"], None, "labels: expected one label a row"),
        (["a"] * 4, None, "labels: expected at least 2 groups"),
        (["a", "a", "b", "b"], "z", "reference: expected one of the 2 groups"),
    ],
)
def test_bad_labels(labels, reference, match):
    with pytest.raises(ValueError, match=match):
        pairwise_mmd(X, labels, reference=reference)
