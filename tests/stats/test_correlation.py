from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.stats import centre_rows, row_correlation


def test_matches_scipy():
    first, second = np.random.default_rng(0).normal(size=(2, 7, 20))
    expected = [scipy.stats.pearsonr(a, b).statistic for a, b in zip(first, second, strict=True)]
    np.testing.assert_allclose(row_correlation(first, second), expected, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 0.1, 1e8, -1 / 3])
def test_constant_rows_are_recognised_in_spite_of_rounding(value):
    X = np.vstack([np.full(1001, value), value + max(1.0, abs(value)) * np.linspace(0, 1e-9, 1001)])
    _, length = centre_rows(X)
    assert length[0] == 0
    assert length[1] > 0
    np.testing.assert_array_equal(
        np.isnan(row_correlation(X, np.random.default_rng(1).normal(size=X.shape))), [True, False]
    )


@pytest.mark.parametrize(
    ("first", "second", "match"),
    [
        (np.eye(3), np.eye(2), "second: expected the shape of first"),
        (np.ones((3, 1)), np.ones((3, 1)), "2 column"),
        (np.eye(3), np.full((3, 3), np.nan), "second: expected finite"),
    ],
)
def test_bad_input(first, second, match):
    with pytest.raises(ValueError, match=match):
        row_correlation(first, second)
