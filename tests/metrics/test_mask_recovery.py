from __future__ import annotations

from itertools import combinations, permutations

import numpy as np
import pytest
from sklearn.metrics import precision_recall_fscore_support

from perturbia.metrics import mask_scores, match_latents


def oracle(truth, estimate, pairs):
    """Score the masks with sklearn after laying partners side by side and padding with empty columns."""
    pairs = dict(pairs)
    left = [truth[:, i] for i in range(truth.shape[1])]
    right = [estimate[:, pairs[i]] if i in pairs else np.zeros(len(truth)) for i in range(truth.shape[1])]
    for surplus in set(range(estimate.shape[1])) - set(pairs.values()):
        left.append(np.zeros(len(truth)))
        right.append(estimate[:, surplus])
    scores = precision_recall_fscore_support(np.ravel(left), np.ravel(right), average="binary", zero_division=0)
    return scores[:3]


@pytest.mark.parametrize("n_estimated", [2, 3, 4])
@pytest.mark.parametrize("seed", range(3))
def test_default_matching_has_the_best_f1(n_estimated, seed):
    rng = np.random.default_rng(seed)
    truth = (rng.random((12, 3)) < 0.4).astype(int)
    estimate = (rng.random((12, n_estimated)) < 0.4).astype(int)
    n = min(3, n_estimated)
    choices = [(a, b) for a in combinations(range(3), n) for b in permutations(range(n_estimated), n)]
    candidates = [zip(a, b, strict=True) for a, b in choices]
    best = max((oracle(truth, estimate, pairs) for pairs in candidates), key=lambda scores: scores[2])
    scores = mask_scores(truth, estimate)
    np.testing.assert_allclose([scores.precision, scores.recall, scores.f1], best, atol=1e-12)
    assert scores.true_positives + scores.false_negatives == truth.sum()
    assert scores.true_positives + scores.false_positives == estimate.sum()


def test_given_matching_is_used():
    rng = np.random.default_rng(1)
    truth, estimate = rng.random((10, 3)) < 0.5, rng.random((10, 5)) < 0.5
    scores = mask_scores(truth, estimate, matching=([0, 1, 2], [4, 0, 1]))
    expected = oracle(truth.astype(int), estimate.astype(int), [(0, 4), (1, 0), (2, 1)])
    np.testing.assert_allclose([scores.precision, scores.recall, scores.f1], expected, atol=1e-12)
    np.testing.assert_array_equal(scores.matching, [4, 0, 1])


def test_matching_of_latents_carries_over():
    rng = np.random.default_rng(2)
    z = rng.normal(size=(50, 3))
    truth = rng.random((20, 3)) < 0.4
    order = [2, 0, 1]
    scores = mask_scores(truth, truth[:, order], matching=match_latents(z, -z[:, order]))
    assert scores.f1 == 1.0
    np.testing.assert_array_equal(scores.matching, [1, 2, 0])


def test_surplus_open_columns_cost_precision_and_empty_ones_nothing():
    truth = np.eye(4, dtype=bool)
    assert mask_scores(truth, np.column_stack([truth, np.zeros((4, 3))])).f1 == 1.0
    scores = mask_scores(truth, np.column_stack([truth, np.ones((4, 1))]))
    assert (scores.precision, scores.recall) == (0.5, 1.0)


def test_missing_columns_cost_recall():
    scores = mask_scores(np.eye(4), np.eye(4)[:, :1])
    assert (scores.precision, scores.recall) == (1.0, 0.25)
    np.testing.assert_array_equal(scores.matching, [0, -1, -1, -1])


def test_closed_estimate_scores_zero():
    scores = mask_scores(np.eye(3), np.zeros((3, 2)))
    assert (scores.precision, scores.recall, scores.f1) == (0.0, 0.0, 0.0)


def test_threshold_is_exclusive():
    probabilities = np.eye(2) * 0.5
    assert mask_scores(np.eye(2), probabilities).true_positives == 0
    assert mask_scores(np.eye(2), probabilities, threshold=0.4).f1 == 1.0


@pytest.mark.parametrize(
    ("truth", "estimate", "matching", "match"),
    [
        (np.eye(3), np.eye(4), None, "estimated_mask: expected the 3 perturbations"),
        (np.zeros((3, 3)), np.eye(3), None, "truth_mask: expected zeros and ones"),
        (np.eye(3) * 0.7, np.eye(3), None, "truth_mask: expected zeros and ones"),
        (np.eye(3), np.eye(3) * np.nan, None, "estimated_mask: expected finite"),
        (np.eye(3)[0], np.eye(3), None, "truth_mask: expected a two-dimensional"),
        (np.eye(3), np.eye(3), ([0, 0], [1, 2]), "matching: expected"),
        (np.eye(3), np.eye(3), ([0, 1], [1]), "matching: expected"),
        (np.eye(3), np.eye(3), ([0], [3]), "matching: expected"),
        (np.eye(3), np.eye(3), ([0], [-1]), "matching: expected"),
        (np.eye(3), np.eye(3), ([0.0], [1.0]), "matching: expected"),
        (np.eye(3), np.eye(3), 7, "matching: expected"),
    ],
)
def test_bad_input(truth, estimate, matching, match):
    with pytest.raises(ValueError, match=match):
        mask_scores(truth, estimate, matching=matching)
