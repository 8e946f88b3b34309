from __future__ import annotations

import numpy as np
import pytest
from sklearn.covariance import LedoitWolf

from perturbia.stats import fit_whitening, ledoit_wolf_shrinkage, likely_shrinkage


def centred(n_rows: int, n_features: int, seed: int = 0) -> np.ndarray:
    rng = np.random.default_rng(seed)
    rows = rng.normal(size=(n_rows, n_features)) @ rng.normal(size=(n_features, n_features))
    return rows - rows.mean(axis=0)


def explicit(rows: np.ndarray, new: np.ndarray, rank: int, shrinkage: float) -> np.ndarray:
    """The formula, by the whole covariance."""
    covariance = np.cov(rows.T)
    values, vectors = np.linalg.eigh(covariance)
    order = np.argsort(values)[::-1][:rank]
    shrunk = (1 - shrinkage) * np.maximum(values[order], 0) + shrinkage * np.trace(covariance) / len(covariance)
    return new @ (vectors[:, order] / np.sqrt(shrunk)) @ vectors[:, order].T


@pytest.mark.parametrize(("n_rows", "rank", "shrinkage"), [
    (50, 8, 0.0), (50, 8, 0.3), (50, 3, 0.0), (50, 3, 0.5), (6, 8, 0.2), (6, 4, 0.2), (6, 5, 0.0), (9, 8, 1.0),
])  # fmt: skip
def test_it_is_the_formula(n_rows, rank, shrinkage):
    rows = centred(n_rows, 8)
    new = np.random.default_rng(1).normal(size=(20, 8))
    found = fit_whitening(rows).transform(new, rank=rank, shrinkage=shrinkage)
    np.testing.assert_allclose(found, explicit(rows, new, rank, shrinkage), atol=1e-9)


@pytest.mark.parametrize("n_rows", [60, 9])
def test_controls_become_white(n_rows):
    rows = centred(n_rows, 8)
    np.testing.assert_allclose(
        np.cov(fit_whitening(rows).transform(rows, rank=8, shrinkage=0.0).T), np.eye(8), atol=1e-6
    )


@pytest.mark.parametrize("n_rows", [60, 5])
@pytest.mark.parametrize("rank", [3, 8])
def test_axes_have_the_cosines_of_features(n_rows, rank):
    rows = centred(n_rows, 8)
    fit = fit_whitening(rows)
    features, axes = (fit.transform(rows, rank=rank, shrinkage=0.2, as_axes=as_axes) for as_axes in (False, True))
    assert axes.shape == (n_rows, rank)
    np.testing.assert_allclose(features @ features.T, axes @ axes.T, atol=1e-9)


def test_axes_are_orthonormal_also_beyond_those_of_the_rows():
    fit = fit_whitening(centred(5, 8))
    every = np.hstack([fit.axes, fit.complement])
    np.testing.assert_allclose(every.T @ every, np.eye(8), atol=1e-10)


def test_ledoit_wolf_is_that_of_scikit_learn():
    rows = centred(30, 12)
    assert ledoit_wolf_shrinkage(rows) == pytest.approx(LedoitWolf(assume_centered=True).fit(rows).shrinkage_)


def test_likelihood_is_that_of_the_normal_distribution():
    rows = centred(24, 6)
    folds = np.arange(24) % 3
    candidates = np.array([0.01, 0.1, 0.5, 1.0])
    loss = []
    for alpha in candidates:
        total = 0.0
        for fold in range(3):
            train, held = rows[folds != fold], rows[folds == fold]
            covariance = train.T @ train / (len(train) - 1)
            covariance = (1 - alpha) * covariance + alpha * np.trace(covariance) / 6 * np.eye(6)
            total += len(held) * np.linalg.slogdet(covariance)[1] + np.trace(held @ np.linalg.inv(covariance) @ held.T)
        loss.append(total)
    assert likely_shrinkage(rows, folds, candidates) == candidates[np.argmin(loss)]


def test_fewer_rows_ask_for_more_shrinkage():
    grid = np.array([0.01, 0.03, 0.1, 0.3, 0.6, 1.0])
    few, many = (likely_shrinkage(centred(n, 20, seed=3), np.arange(n) % 5, grid) for n in (15, 400))
    assert few > many
