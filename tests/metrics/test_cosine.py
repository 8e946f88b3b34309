from __future__ import annotations

import numpy as np
import pytest
import scipy.spatial.distance

from perturbia.metrics import effect_cosine


@pytest.fixture
def effects():
    rng = np.random.default_rng(0)
    truth = rng.normal(1.0, 1.0, size=(5, 30))
    return truth, truth + rng.normal(size=truth.shape)


def test_matches_scipy(effects):
    truth, prediction = effects
    expected = 1 - scipy.spatial.distance.cosine(truth.ravel(), prediction.ravel())
    assert effect_cosine(truth, prediction) == pytest.approx(expected, abs=1e-12)
    by_row = [1 - scipy.spatial.distance.cosine(a, b) for a, b in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(effect_cosine(truth, prediction, per_perturbation=True), by_row, atol=1e-12)


def test_opposite_and_scaled(effects):
    truth, _ = effects
    assert effect_cosine(truth, 5 * truth) == pytest.approx(1.0)
    assert effect_cosine(truth, -truth) == pytest.approx(-1.0)


def test_no_predicted_effect_scores_zero_and_no_true_effect_is_nan(effects):
    truth, prediction = effects
    assert effect_cosine(truth, np.zeros_like(truth)) == 0.0
    truth[1] = 0.0
    with pytest.warns(RuntimeWarning, match="zero for 1 perturbations"):
        scores = effect_cosine(truth, prediction, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(scores), np.arange(5) == 1)


@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (np.eye(3), np.eye(4), "prediction: expected the shape"),
        (np.zeros((2, 3)), np.eye(3)[:2], "truth: expected effects that vary"),
        (np.eye(3), np.full((3, 3), np.inf), "prediction: expected finite"),
        (np.empty((2, 0)), np.empty((2, 0)), "at least 1 row.s. and 1 column"),
    ],
)
def test_bad_input(truth, prediction, match):
    with pytest.raises(ValueError, match=match):
        effect_cosine(truth, prediction)
