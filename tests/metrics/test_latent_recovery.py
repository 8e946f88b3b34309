from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest
import scipy.stats
from sklearn.linear_model import LinearRegression
from sklearn.metrics import r2_score

from perturbia.metrics import latent_mcc, linear_r2, match_latents


@pytest.fixture
def latents():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(200, 4))
    return truth, truth @ rng.normal(size=(4, 4)) + 0.3 * rng.normal(size=(200, 4))


def brute_force_mcc(truth, estimate, correlate):
    table = np.array([[abs(correlate(a, b).statistic) for b in estimate.T] for a in truth.T])
    n_true, n_estimated = table.shape
    if n_estimated >= n_true:
        sums = [table[np.arange(n_true), list(p)].sum() for p in permutations(range(n_estimated), n_true)]
    else:
        sums = [table[list(p), np.arange(n_estimated)].sum() for p in permutations(range(n_true), n_estimated)]
    return max(sums) / n_true


@pytest.mark.parametrize(
    ("method", "correlate"), [("pearson", scipy.stats.pearsonr), ("spearman", scipy.stats.spearmanr)]
)
@pytest.mark.parametrize("n_estimated", [2, 4, 6])
def test_mcc_matches_enumeration(method, correlate, n_estimated):
    rng = np.random.default_rng(n_estimated)
    truth = rng.normal(size=(60, 4))
    estimate = np.exp(truth @ rng.normal(size=(4, n_estimated)))
    expected = brute_force_mcc(truth, estimate, correlate)
    assert latent_mcc(truth, estimate, method=method) == pytest.approx(expected, abs=1e-12)


def test_order_sign_and_scale_do_not_matter(latents):
    truth, _ = latents
    estimate = truth[:, [2, 0, 3, 1]] * [-1, 2, -3, 0.1] + 5
    matching = match_latents(truth, estimate)
    np.testing.assert_array_equal(matching.estimate, [1, 3, 0, 2])
    np.testing.assert_allclose(matching.correlation, [1, 1, -1, -1])
    assert latent_mcc(truth, estimate) == pytest.approx(1.0)


def test_spearman_forgives_monotone_curvature(latents):
    truth, _ = latents
    curved = np.exp(2 * truth)
    assert latent_mcc(truth, curved, method="spearman") == pytest.approx(1.0)
    assert latent_mcc(truth, curved) < 0.8


def test_missing_and_dead_latents_count_zero_and_surplus_is_free(latents):
    truth, _ = latents
    dead = truth.copy()
    dead[:, 0] = 3.0
    assert latent_mcc(truth, dead) == pytest.approx(0.75)
    assert latent_mcc(truth, truth[:, :2]) == pytest.approx(0.5)
    assert latent_mcc(truth, np.column_stack([dead, truth])) == pytest.approx(1.0)


def test_rotation_keeps_linear_r2_and_lowers_mcc():
    rng = np.random.default_rng(1)
    truth = rng.normal(size=(500, 6))
    rotated = truth @ scipy.stats.ortho_group.rvs(6, random_state=2)
    assert linear_r2(truth, rotated) == pytest.approx(1.0)
    assert latent_mcc(truth, rotated) < 0.9


def test_linear_r2_in_sample_matches_sklearn(latents):
    truth, estimate = latents
    fitted = LinearRegression().fit(estimate, truth).predict(estimate)
    assert linear_r2(truth, estimate, n_folds=None) == pytest.approx(r2_score(truth, fitted), abs=1e-10)


def test_linear_r2_by_fold_matches_leave_one_out(latents):
    truth, estimate = latents[0][:30], latents[1][:30]
    predicted = np.vstack(
        [
            LinearRegression().fit(np.delete(estimate, i, 0), np.delete(truth, i, 0)).predict(estimate[[i]])
            for i in range(30)
        ]
    )
    assert linear_r2(truth, estimate, n_folds=30) == pytest.approx(r2_score(truth, predicted), abs=1e-10)


def test_folds_remove_the_optimism_of_many_latents():
    rng = np.random.default_rng(3)
    truth, estimate = rng.normal(size=(100, 2)), rng.normal(size=(100, 40))
    assert linear_r2(truth, estimate, n_folds=None) > 0.25
    assert linear_r2(truth, estimate) < 0.0


Z = np.random.default_rng(4).normal(size=(10, 2))


@pytest.mark.parametrize("score", [match_latents, latent_mcc, linear_r2])
@pytest.mark.parametrize(
    ("truth", "estimate", "match"),
    [
        (Z, Z[:5], "estimate: expected the 10 cells"),
        (np.column_stack([Z, np.ones(10)]), Z, "truth: expected latents that vary"),
        (Z[:, 0], Z, "truth: expected a two-dimensional"),
        (Z, np.full_like(Z, np.nan), "estimate: expected finite"),
        (Z[:1], Z[:1], "at least 2 row"),
        (Z, Z[:, :0], "at least 2 row.s. and 1 column"),
    ],
)
def test_bad_input(score, truth, estimate, match):
    with pytest.raises(ValueError, match=match):
        score(truth, estimate)


def test_bad_options():
    with pytest.raises(ValueError, match="method: expected 'pearson' or 'spearman', got 'kendall'"):
        latent_mcc(Z, Z, method="kendall")
    with pytest.raises(ValueError, match="n_folds: expected None or 2 to 10"):
        linear_r2(Z, Z, n_folds=11)
