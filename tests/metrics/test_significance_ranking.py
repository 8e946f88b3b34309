from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import average_precision_score, roc_auc_score

from perturbia.metrics import de_precision_recall_auc, de_roc_auc

ORACLES = [(de_precision_recall_auc, average_precision_score), (de_roc_auc, roc_auc_score)]


@pytest.fixture
def rates():
    rng = np.random.default_rng(0)
    truth = rng.uniform(size=(6, 80)) ** 3
    return truth, np.round(np.clip(truth + 0.2 * rng.normal(size=truth.shape), 0, 1), 1)  # ties, at 0 among others


@pytest.mark.parametrize(("score", "oracle"), ORACLES)
def test_matches_sklearn(rates, score, oracle):
    truth, prediction = rates
    expected = [oracle(a < 0.1, -np.log10(np.maximum(b, 1e-10))) for a, b in zip(truth, prediction, strict=True)]
    ours = score(truth, prediction, alpha=0.1, per_perturbation=True)
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    assert score(truth, prediction, alpha=0.1) == pytest.approx(np.mean(expected))


@pytest.mark.parametrize(("score", "oracle"), ORACLES)
def test_one_kind_of_gene_is_nan_with_warning(rates, score, oracle):
    truth, prediction = rates
    truth[1], truth[2] = 0.5, 0.01
    with pytest.warns(RuntimeWarning, match="no gene or every gene is significant for 2 of 6"):
        ours = score(truth, prediction, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(ours), np.isin(np.arange(6), (1, 2)))


def test_the_smallest_rates_are_equal():
    truth, prediction = np.array([[0.01, 0.9, 0.9]]), np.array([[1e-11, 1e-300, 0.5]])
    assert de_roc_auc(truth, prediction) == 0.75
    assert de_precision_recall_auc(truth, prediction) == 0.5


def test_same_rate_everywhere_is_chance(rates):
    truth, _ = rates
    flat = np.full_like(truth, 0.3)
    assert de_roc_auc(truth, flat) == 0.5
    assert de_precision_recall_auc(truth, flat) == pytest.approx((truth < 0.05).mean())


@pytest.mark.parametrize("score", [de_precision_recall_auc, de_roc_auc])
@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (np.eye(3), np.eye(4), "prediction_fdr: expected the shape"),
        (np.eye(3), 2 * np.eye(3), r"prediction_fdr: .*\[0, 1\]"),
        (np.eye(3) * np.nan, np.eye(3), "truth_fdr: expected finite"),
        (np.ones((3, 3)), np.eye(3), "no gene or every gene is significant in every row"),
    ],
)
def test_bad_input(score, truth, prediction, match):
    with pytest.raises(ValueError, match=match):
        score(truth, prediction)
