from __future__ import annotations

import numpy as np
import pytest
from sklearn.metrics import mean_absolute_error, mean_squared_error, root_mean_squared_error

from perturbia.metrics import mae, mse, rmse

ORACLES = [(mae, mean_absolute_error), (mse, mean_squared_error), (rmse, root_mean_squared_error)]


@pytest.mark.parametrize(("score", "oracle"), ORACLES)
def test_matches_sklearn(score, oracle):
    truth, prediction = np.random.default_rng(0).normal(size=(2, 5, 30))
    assert score(truth, prediction) == pytest.approx(oracle(truth.ravel(), prediction.ravel()), abs=1e-12)
    by_row = [oracle(a, b) for a, b in zip(truth, prediction, strict=True)]
    np.testing.assert_allclose(score(truth, prediction, per_perturbation=True), by_row, atol=1e-12)


@pytest.mark.parametrize("score", [mae, rmse])
def test_perfect_is_zero_and_scales_with_the_unit(score):
    truth, prediction = np.random.default_rng(1).normal(size=(2, 4, 6))
    assert score(truth, truth) == 0.0
    assert score(10 * truth, 10 * prediction) == pytest.approx(10 * score(truth, prediction))


@pytest.mark.parametrize("score", [mae, mse, rmse])
@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        (np.eye(3), np.eye(4), "prediction: expected the shape"),
        (np.eye(3), np.full((3, 3), np.nan), "prediction: expected finite"),
        (np.empty((0, 3)), np.empty((0, 3)), "at least 1 row"),
        (np.ones(3), np.ones(3), "two-dimensional"),
    ],
)
def test_bad_input(score, truth, prediction, match):
    with pytest.raises(ValueError, match=match):
        score(truth, prediction)
