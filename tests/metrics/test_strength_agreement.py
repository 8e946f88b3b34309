from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import edistance_correlation


def test_matches_scipy():
    truth, prediction = np.random.default_rng(0).gamma(2.0, size=(2, 12))
    expected = scipy.stats.pearsonr(truth, prediction).statistic
    assert edistance_correlation(truth, prediction) == pytest.approx(expected, abs=1e-12)
    assert edistance_correlation(truth, np.ones(12)) == 0.0


@pytest.mark.parametrize(
    ("truth", "prediction", "match"),
    [
        ([1.0], [1.0], "truth: expected one distance a perturbation"),
        ([[1.0, 2.0]], [1.0, 2.0], "truth: expected one distance a perturbation"),
        ([1.0, 2.0], [1.0, 2.0, 3.0], "prediction: expected the shape of truth"),
        ([1.0, np.nan], [1.0, 2.0], "truth: expected finite"),
        ([1.0, 1.0], [1.0, 2.0], "truth: expected effects that vary"),
    ],
)
def test_bad_input(truth, prediction, match):
    with pytest.raises(ValueError, match=match):
        edistance_correlation(truth, prediction)
