"""Confidence against accuracy: bins by hand, and what classifiers are judged on."""

from __future__ import annotations

import numpy as np
import pytest

from perturbia.model.alignment._classification_scores import classification_scores, reliability_curve


def test_bins_by_hand():
    # confidences 0.6, 0.7, 0.8, 0.9 of the first label, which is right for all but the least and the most confident
    confidence = np.array([0.9, 0.6, 0.8, 0.7])
    logits = np.log(np.column_stack([confidence, 1 - confidence]))
    curve = reliability_curve(logits, np.array([1, 1, 0, 0]), n_bins=2)
    np.testing.assert_allclose(curve["confidence"], [0.65, 0.85])
    assert curve["n_cells"].tolist() == [2, 2]
    assert curve["accuracy"].tolist() == [0.5, 0.5]
    # Wilson interval of one in two: its centre is the half, its width z / sqrt(n + z^2)
    half_width = 1.959964 / np.sqrt(2 + 1.959964**2) / 2
    np.testing.assert_allclose(curve[["lower", "upper"]], [[0.5 - half_width, 0.5 + half_width]] * 2, atol=1e-6)


def test_probabilities_that_are_true_lie_within_their_intervals():
    rng = np.random.default_rng(0)
    logits = rng.normal(size=(4000, 3)) * 2
    probability = np.exp(logits) / np.exp(logits).sum(1, keepdims=True)
    codes = (rng.random((4000, 1)) > probability.cumsum(1)).sum(1)
    curve = reliability_curve(logits, codes)
    assert curve["n_cells"].tolist() == [400] * 10
    assert curve["confidence"].is_monotonic_increasing
    inside = (curve["lower"] <= curve["confidence"]) & (curve["confidence"] <= curve["upper"])
    assert inside.sum() >= 8
    too_sure = reliability_curve(4 * logits, codes)
    assert (too_sure["confidence"] > too_sure["upper"]).sum() >= 7


@pytest.mark.parametrize("n_cells", [4, 37])
def test_the_calibration_error_is_the_mean_distance_from_the_diagonal(n_cells):
    rng = np.random.default_rng(1)
    logits, codes = rng.normal(size=(n_cells, 4)), rng.integers(4, size=n_cells)
    curve = reliability_curve(logits, codes)
    assert len(curve) == min(n_cells, 10)
    by_hand = sum(abs(one.confidence - one.accuracy) * one.n_cells for one in curve.itertuples()) / n_cells
    assert classification_scores(logits, codes, 4)["calibration_error"] == pytest.approx(by_hand)
