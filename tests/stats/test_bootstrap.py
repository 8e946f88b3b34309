from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.stats import bootstrap_mean


def test_agrees_with_scipy_and_theory():
    values = np.random.default_rng(0).gamma(2.0, size=80)
    ours = bootstrap_mean(values, n_resamples=20_000)
    theirs = scipy.stats.bootstrap(
        (values,), np.mean, n_resamples=20_000, method="percentile", rng=np.random.default_rng(1)
    )
    assert ours.mean == pytest.approx(values.mean())
    assert ours.standard_error == pytest.approx(values.std() / np.sqrt(80), rel=0.02)
    limits = theirs.confidence_interval
    assert (ours.lower, ours.upper) == pytest.approx((limits.low, limits.high), abs=0.02 * values.std())
    assert ours.count == 80


def test_all_resamples_of_two_rows_are_known():
    """Means are first, middle and last with odds 1 : 2 : 1."""
    result = bootstrap_mean([0.0, 1.0], n_resamples=40_000, confidence=0.9)
    assert (result.lower, result.upper) == (0, 1)
    assert result.standard_error == pytest.approx(np.sqrt(1 / 8), rel=0.02)
    assert bootstrap_mean([0.0, 1.0], n_resamples=40_000, confidence=0.4).lower == 0.5


def test_columns_do_not_depend_on_each_other_nor_on_blocks(monkeypatch):
    values = np.random.default_rng(1).normal(size=(30, 5))
    values[4, 1] = values[7, 1] = values[4, 3] = np.nan
    together = bootstrap_mean(values, nan="omit", n_resamples=999, seed=3)
    monkeypatch.setattr("perturbia.stats.bootstrap._BLOCK_ENTRIES", 2000)
    blocks = bootstrap_mean(values, nan="omit", n_resamples=999, seed=3)
    for column in range(5):
        alone = bootstrap_mean(values[:, column], nan="omit", n_resamples=999, seed=3)
        left = bootstrap_mean(values[~np.isnan(values[:, column]), column], n_resamples=999, seed=3)
        for field in ("mean", "lower", "upper", "standard_error", "count"):
            assert getattr(alone, field) == pytest.approx(getattr(left, field), rel=1e-12)
            assert getattr(together, field)[column] == pytest.approx(getattr(alone, field), rel=1e-12)
            assert getattr(blocks, field)[column] == pytest.approx(getattr(alone, field), rel=1e-12)
    np.testing.assert_array_equal(together.count, [30, 28, 30, 29, 30])


def test_coverage_is_nominal():
    draws = np.random.default_rng(2).normal(1.0, 1.0, size=(60, 2000))
    result = bootstrap_mean(draws, n_resamples=500, confidence=0.9)
    covered = ((result.lower <= 1.0) & (result.upper >= 1.0)).mean()
    assert abs(covered - 0.9) < 0.03


def test_shift_and_scale():
    values = np.random.default_rng(3).normal(size=20)
    first, second = bootstrap_mean(values), bootstrap_mean(5 * values + 100)
    assert (second.lower, second.upper) == pytest.approx((5 * first.lower + 100, 5 * first.upper + 100))
    assert bootstrap_mean(np.full(20, 0.1)).standard_error == 0


def test_same_seed_same_interval():
    values = np.random.default_rng(4).normal(size=20)
    assert bootstrap_mean(values, seed=5) == bootstrap_mean(values, seed=5)
    assert bootstrap_mean(values, seed=5).lower != bootstrap_mean(values, seed=6).lower


def test_fewer_than_two_rows_have_no_interval():
    with pytest.warns(RuntimeWarning, match="2 columns have fewer than 2 rows"):
        result = bootstrap_mean([[1.0, np.nan, 2.0], [3.0, np.nan, np.nan]], nan="omit")
    np.testing.assert_array_equal(result.mean, [2.0, np.nan, 2.0])
    np.testing.assert_array_equal(result.count, [2, 0, 1])
    np.testing.assert_array_equal(np.isnan(result.lower), [False, True, True])


@pytest.mark.parametrize(
    ("values", "options", "match"),
    [
        ([1.0, np.nan], {}, "values: expected no missing values, got 1"),
        ([1.0, np.inf], {"nan": "omit"}, "values: expected finite numbers, got 1 infinite"),
        ([], {}, "values: expected numbers of shape"),
        (np.zeros((2, 2, 2)), {}, "values: expected numbers of shape"),
        (["a", "b"], {}, "values: expected numbers of shape"),
        ([1.0, 2.0], {"nan": "drop"}, "nan: expected 'raise' or 'omit'"),
        ([1.0, 2.0], {"confidence": 95}, "confidence: expected a share"),
        ([1.0, 2.0], {"n_resamples": 0}, "n_resamples: expected 1 or more"),
    ],
)
def test_bad_input(values, options, match):
    with pytest.raises(ValueError, match=match):
        bootstrap_mean(values, **options)
