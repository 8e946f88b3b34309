from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import top_gene_jaccard


def brute_force(truth, prediction, k, *, signed):
    scores = []
    for a, b in zip(truth, prediction, strict=True):
        first, second = (
            {
                (g, np.sign(row[g]) if signed else 0)
                for g in sorted(range(len(row)), key=lambda g, row=row: -abs(row[g]))[:k]
            }
            for row in (a, b)
        )
        scores.append(len(first & second) / len(first | second))
    return scores


@pytest.mark.parametrize("signed", [False, True])
@pytest.mark.parametrize("k", [1, 7, 40])
def test_matches_sets(signed, k):
    rng = np.random.default_rng(0)
    truth = rng.normal(size=(6, 40))
    prediction = truth + 1.5 * rng.normal(size=truth.shape)
    ours = top_gene_jaccard(truth, prediction, k=k, signed=signed, per_perturbation=True)
    np.testing.assert_allclose(ours, brute_force(truth, prediction, k, signed=signed))
    assert top_gene_jaccard(truth, prediction, k=k, signed=signed) == pytest.approx(ours.mean())


def test_opposite_effects_share_genes_but_not_signs():
    truth = np.random.default_rng(1).normal(size=(4, 30))
    assert top_gene_jaccard(truth, -truth, k=5) == 1.0
    assert top_gene_jaccard(truth, -truth, k=5, signed=True) == 0.0


def test_no_predicted_effect_scores_zero_and_ties_are_shared():
    truth = np.random.default_rng(2).normal(size=(4, 30))
    assert top_gene_jaccard(truth, np.zeros_like(truth), k=5) == 0.0
    # 5 places shared by 30 equal genes: 5 * 5 / 30 shared of the expected union
    shared = 25 / 30
    assert top_gene_jaccard(truth, np.ones_like(truth), k=5) == pytest.approx(shared / (10 - shared))


def test_truth_of_fewer_genes_than_k_has_a_smaller_set():
    truth = np.array([[2.0, -1.0, 0.0, 0.0, 0.0]])
    assert top_gene_jaccard(truth, truth, k=4) == 1.0
    assert top_gene_jaccard(truth, np.array([[2.0, -1.0, 1.0, 1.0, 0.0]]), k=4) == 0.5


def test_no_true_effect_is_nan_or_left_out_with_warning():
    truth = np.random.default_rng(3).normal(size=(4, 10))
    prediction = truth + np.random.default_rng(4).normal(size=truth.shape)
    complete = top_gene_jaccard(truth[[0, 2, 3]], prediction[[0, 2, 3]], k=3)
    truth[1] = 0.0
    with pytest.warns(RuntimeWarning, match="zero for 1 of 4 perturbations; their score is NaN"):
        scores = top_gene_jaccard(truth, prediction, k=3, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(scores), np.arange(4) == 1)
    with pytest.warns(RuntimeWarning, match="left out of the mean"):
        assert top_gene_jaccard(truth, prediction, k=3) == pytest.approx(complete)


@pytest.mark.parametrize(
    ("truth", "options", "match"),
    [
        (np.eye(3), {"k": 4}, "k: expected 1 to 3"),
        (np.eye(3), {"k": 0}, "k: expected 1 to 3"),
        (np.zeros((3, 3)), {"k": 1}, "truth: expected perturbations that define a score"),
        (np.eye(4), {"k": 1}, "prediction: expected the shape"),
    ],
)
def test_bad_input(truth, options, match):
    with pytest.raises(ValueError, match=match):
        top_gene_jaccard(truth, np.eye(3), **options)
