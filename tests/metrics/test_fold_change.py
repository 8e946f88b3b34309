from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import log_fold_change


def test_formula():
    rng = np.random.default_rng(0)
    means, control = rng.random((2, 4, 5))
    expected = np.log2((means + 0.1) / (control + 0.1))
    np.testing.assert_allclose(log_fold_change(means, control), expected)
    np.testing.assert_allclose(log_fold_change(means, control), -log_fold_change(control, means))


def test_means_below_the_pseudocount_are_no_change():
    assert log_fold_change([[-0.2, -0.1, 0.3]], [[0.1, 0.1, 0.1]]).tolist() == [[0.0, 0.0, 1.0]]


@pytest.mark.parametrize(
    ("means", "control", "options", "match"),
    [
        ([[1.0]], [[1.0, 2.0]], {}, "control: expected the shape of means"),
        ([[np.nan]], [[1.0]], {}, "means: expected finite numbers"),
        ([[1.0]], [[1.0]], {"pseudocount": 0}, "pseudocount: expected a number > 0"),
    ],
)
def test_bad_input(means, control, options, match):
    with pytest.raises(ValueError, match=match):
        log_fold_change(means, control, **options)
