from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from scipy.linalg import sqrtm
from torch.distributions import Normal, kl_divergence

from perturbia.stats import mean_variance_distance, symmetric_kl


@pytest.fixture
def populations():
    rng = np.random.default_rng(0)
    return rng.poisson(2.0, size=(50, 6)).astype(float), rng.poisson(3.0, size=(30, 6)).astype(float)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_divergence_is_that_of_torch(populations, container):
    X, Y = populations
    p, q = (Normal(torch.tensor(A.mean(0)), torch.tensor(A.std(0, ddof=1))) for A in populations)
    expected = (kl_divergence(p, q) + kl_divergence(q, p)) / 2
    np.testing.assert_allclose(symmetric_kl(container(X), container(Y)), expected.numpy(), rtol=1e-8)


@pytest.mark.parametrize("container", [np.asarray, sp.csr_matrix])
def test_distance_is_the_w2_distance_of_gaussians(populations, container):
    X, Y = populations
    A, B = (np.diag(P.var(0, ddof=1)) for P in populations)
    expected = np.sqrt(((X.mean(0) - Y.mean(0)) ** 2).sum() + np.trace(A + B - 2 * sqrtm(sqrtm(A) @ B @ sqrtm(A))))
    assert mean_variance_distance(container(X), container(Y)) == pytest.approx(expected, rel=1e-8)


def test_symmetric_scaling_and_floor(populations):
    X, Y = populations
    np.testing.assert_allclose(symmetric_kl(X, Y), symmetric_kl(Y, X))
    np.testing.assert_allclose(symmetric_kl(10 * X, 10 * Y), symmetric_kl(X, Y))
    np.testing.assert_allclose(symmetric_kl(X, X), 0, atol=1e-12)
    assert mean_variance_distance(10 * X + 3, 10 * Y + 3) == pytest.approx(10 * mean_variance_distance(X, Y))
    silent = np.zeros((4, 1))
    np.testing.assert_allclose(symmetric_kl(silent, silent + 0.1, min_variance=0.01), 0.01 * 200 / 4)


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize("distance", [symmetric_kl, mean_variance_distance])
@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        (X, X[:, :1], "Y: expected the 2 columns of X, got 1"),
        (X[:1], X, "X: expected at least 2 row"),
        (X, X * np.nan, "Y: expected finite"),
    ],
)
def test_bad_input(distance, first, second, match):
    with pytest.raises(ValueError, match=match):
        distance(first, second)


def test_floor_must_be_positive():
    with pytest.raises(ValueError, match="min_variance: expected a number > 0"):
        symmetric_kl(X, X, min_variance=0)
