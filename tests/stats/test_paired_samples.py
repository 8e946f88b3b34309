from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import wilcoxon

from perturbia.stats import bootstrap_mean, paired_comparison


@pytest.fixture
def scores():
    rng = np.random.default_rng(0)
    difficulty = rng.normal(0, 3, size=25)
    return difficulty + rng.normal(0.3, 0.4, size=25), difficulty


def test_is_the_bootstrap_and_the_signed_rank_test_of_differences(scores):
    first, second = scores
    result = paired_comparison(first, second, seed=2)
    interval = bootstrap_mean(first - second, seed=2)
    assert (result.mean_difference, result.lower, result.upper) == (interval.mean, interval.lower, interval.upper)
    assert result.p_value == wilcoxon(first, second).pvalue
    assert result.share_better == (first > second).mean()
    assert result.count == 25
    assert result.p_value < 0.01  # the spread of difficulty is taken out


def test_swapping_mirrors(scores):
    one, other = paired_comparison(*scores), paired_comparison(*scores[::-1])
    assert other.mean_difference == pytest.approx(-one.mean_difference)
    assert (other.lower, other.upper) == pytest.approx((-one.upper, -one.lower))
    assert other.p_value == one.p_value
    assert other.share_better == pytest.approx(1 - one.share_better)
    assert paired_comparison(*scores, higher_is_better=False).share_better == other.share_better


def test_matrices_are_columns_of_vectors(scores):
    first, second = np.column_stack([scores[0], scores[0] ** 2]), np.column_stack([scores[1], scores[1] ** 2])
    first[3, 1] = np.nan
    both = paired_comparison(first, second, nan="omit")
    for column in range(2):
        one = paired_comparison(first[:, column], second[:, column], nan="omit")
        for field in ("mean_difference", "lower", "upper", "p_value", "share_better", "count"):
            assert getattr(both, field)[column] == pytest.approx(getattr(one, field))
    np.testing.assert_array_equal(both.count, [25, 24])


def test_equal_scores_are_a_tie(scores):
    result = paired_comparison(scores[0], scores[0])
    assert (result.mean_difference, result.lower, result.upper) == (0, 0, 0)
    assert (result.p_value, result.share_better) == (1.0, 0.5)


def test_no_pair_left_is_nan_with_warning():
    with pytest.warns(RuntimeWarning, match="fewer than 2 rows"):
        result = paired_comparison([np.nan, 1.0], [1.0, np.nan], nan="omit")
    assert np.isnan([result.mean_difference, result.p_value, result.share_better]).all()
    assert result.count == 0


@pytest.mark.parametrize(
    ("first", "second", "options", "match"),
    [
        ([1.0, 2.0], [1.0], {}, "second: expected the shape of first"),
        ([1.0, 2.0], [1.0, np.nan], {}, "second: expected no missing values, got 1"),
        ([1.0, np.inf], [1.0, 2.0], {}, "first: expected finite numbers"),
        ([1.0, 2.0], [1.0, 2.0], {"confidence": 0}, "confidence: expected a share"),
    ],
)
def test_bad_input(first, second, options, match):
    with pytest.raises(ValueError, match=match):
        paired_comparison(first, second, **options)
