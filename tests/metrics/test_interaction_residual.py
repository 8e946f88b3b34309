from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import effect_correlation, interaction_correlation, interaction_r2


@pytest.fixture
def doubles():
    rng = np.random.default_rng(0)
    a, b, interaction, noise = rng.normal(size=(4, 6, 40))
    return a + b + 0.5 * interaction, a + b, a + b + 0.4 * interaction + 0.3 * noise, interaction, noise


def test_is_the_score_of_the_residuals(doubles):
    truth, additive, prediction, interaction, noise = doubles
    options = {"truth_additive": additive, "prediction_additive": additive}
    guess = 0.4 * interaction + 0.3 * noise
    expected = [np.corrcoef(x, y)[0, 1] for x, y in zip(interaction, guess, strict=True)]
    ours = interaction_correlation(truth, prediction, per_perturbation=True, **options)
    np.testing.assert_allclose(ours, expected, atol=1e-10)
    r2 = 1 - ((0.5 * interaction - guess) ** 2).sum() / ((0.5 * interaction) ** 2).sum()
    assert interaction_r2(truth, prediction, **options) == pytest.approx(r2, abs=1e-10)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("per_perturbation", [False, True])
def test_additive_model_scores_zero(doubles, dtype, per_perturbation):
    truth, additive, _, _, _ = doubles
    guess = ((additive * 0.9 + 1.0) - 1.0).astype(dtype)
    options = {"truth_additive": additive, "prediction_additive": 0.9 * additive}
    assert effect_correlation(truth, guess) > 0.9
    for score in (interaction_correlation, interaction_r2):
        np.testing.assert_array_equal(score(truth, guess, per_perturbation=per_perturbation, **options), 0.0)


def test_size_is_seen_by_r2_only(doubles):
    truth, additive, _, interaction, _ = doubles
    options = {"truth_additive": additive, "prediction_additive": additive}
    wild = additive + 5 * interaction
    assert interaction_correlation(truth, wild, **options) == pytest.approx(1.0)
    assert interaction_r2(truth, wild, **options) < 0


def test_a_true_sum_without_interaction_is_nan(doubles):
    truth, additive, prediction, _, _ = doubles
    truth[1] = additive[1]
    for score in (interaction_correlation, interaction_r2):
        with pytest.warns(RuntimeWarning, match="for 1 perturbations"):
            values = score(
                truth, prediction, truth_additive=additive, prediction_additive=additive, per_perturbation=True
            )
        np.testing.assert_array_equal(np.isnan(values), np.arange(6) == 1)


@pytest.mark.parametrize("score", [interaction_correlation, interaction_r2])
@pytest.mark.parametrize(
    ("truth_additive", "prediction_additive", "match"),
    [
        (np.eye(4), np.eye(3), "truth_additive: expected the shape of truth"),
        (np.eye(3), np.eye(4), "prediction_additive: expected the shape of truth"),
        (np.eye(3) * np.nan, np.eye(3), "truth_additive: expected finite"),
        (np.eye(3), np.eye(3), "truth: expected effects that vary"),
    ],
)
def test_bad_input(score, truth_additive, prediction_additive, match):
    with pytest.raises(ValueError, match=match):
        score(np.eye(3), np.eye(3), truth_additive=truth_additive, prediction_additive=prediction_additive)
