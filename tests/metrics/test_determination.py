from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import r2_score

from perturbia.metrics import effect_correlation, effect_r2


@pytest.fixture
def effects():
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(5, 30)) * np.arange(1, 6)[:, None]
    return truth, 0.7 * truth + 0.5 * rng.normal(size=truth.shape)


def test_matches_sklearn(effects):
    truth, prediction = effects
    assert effect_r2(truth, prediction) == pytest.approx(r2_score(truth.ravel(), prediction.ravel()), abs=1e-12)
    by_row = [r2_score(a, b) for a, b in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(effect_r2(truth, prediction, per_perturbation=True), by_row, atol=1e-12)


def test_mean_of_truth_scores_zero_and_truth_scores_one(effects):
    truth, _ = effects
    assert effect_r2(truth, np.full_like(truth, truth.mean())) == pytest.approx(0.0, abs=1e-12)
    assert effect_r2(truth, truth) == 1.0


def test_half_the_effect_is_seen_by_r2_only(effects):
    # The trap of the "matching mean" of two members: same direction as the additive model, half the size.
    truth, _ = effects
    assert effect_correlation(truth, truth / 2) == pytest.approx(1.0)
    assert effect_r2(truth, truth / 2) < 0.8


def test_is_not_symmetric(effects):
    truth, prediction = effects
    assert abs(effect_r2(truth, prediction) - effect_r2(prediction, truth)) > 0.01


def test_constant_row_of_truth_is_nan_with_warning(effects):
    truth, prediction = effects
    truth[0] = 0.0
    with pytest.warns(RuntimeWarning, match="constant for 1 perturbations"):
        scores = effect_r2(truth, prediction, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(scores), np.arange(5) == 0)


@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (np.eye(3), np.eye(4), "prediction: expected the shape"),
        (np.zeros((2, 3)), np.eye(3)[:2], "truth: expected effects that vary"),
        (np.eye(3) * np.nan, np.eye(3), "truth: expected finite"),
        (np.eye(3)[0], np.eye(3)[0], "two-dimensional"),
    ],
)
def test_bad_input(truth, prediction, match):
    with pytest.raises(ValueError, match=match):
        effect_r2(truth, prediction)
