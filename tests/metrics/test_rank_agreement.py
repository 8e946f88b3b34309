from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import effect_rank_correlation


def test_matches_scipy():
    rng = np.random.default_rng(0)
    truth = np.round(rng.normal(size=(5, 30)), 1)
    prediction = np.round(truth + rng.normal(size=truth.shape), 1)
    flat = scipy.stats.spearmanr(truth.ravel(), prediction.ravel()).statistic
    assert effect_rank_correlation(truth, prediction) == pytest.approx(flat, abs=1e-12)
    rows = [scipy.stats.spearmanr(a, b).statistic for a, b in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(effect_rank_correlation(truth, prediction, per_perturbation=True), rows, atol=1e-12)


def test_monotone_distortion_constant_prediction_and_constant_truth():
    truth = np.random.default_rng(1).normal(size=(4, 20))
    assert effect_rank_correlation(truth, np.exp(5 * truth)) == pytest.approx(1.0)
    assert effect_rank_correlation(truth, np.full_like(truth, 0.1)) == 0.0
    truth[1] = 2.0
    with pytest.warns(RuntimeWarning, match="constant for 1"):
        assert np.isnan(effect_rank_correlation(truth, truth, per_perturbation=True)[1])


def test_bad_input():
    with pytest.raises(ValueError, match="prediction: expected the shape"):
        effect_rank_correlation(np.eye(3), np.eye(4))
    with pytest.raises(ValueError, match="truth: expected finite"):
        effect_rank_correlation(np.eye(3) * np.nan, np.eye(3))
    with pytest.raises(ValueError, match="truth: expected effects that vary"):
        effect_rank_correlation(np.ones((3, 3)), np.eye(3))
