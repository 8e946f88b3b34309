from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import coverage_curve, interval_coverage


def test_coverage_counts_with_limits():
    truth = np.array([[0.0, 1.0, 2.0], [3.0, 4.0, 5.0]])
    lower, upper = truth + [[0.0, 0.1, -1.0], [-1.0, -1.0, -2.0]], truth + [[0.0, 0.2, 1.0], [1.0, -0.5, 0.0]]
    np.testing.assert_allclose(interval_coverage(truth, lower, upper, per_perturbation=True), [2 / 3, 2 / 3])
    assert interval_coverage(truth, lower, upper) == pytest.approx(2 / 3)


def test_gaussian_curve_counts_central_intervals():
    rng = np.random.default_rng(0)
    truth, mean, sd = rng.normal(size=(20, 30)), rng.normal(size=(20, 30)), rng.uniform(0.5, 2.0, size=(20, 30))
    curve = coverage_curve(truth, mean=mean, sd=sd, levels=[0.5, 0.9])
    for level, share in zip(curve.nominal, curve.empirical, strict=True):
        half = sd * scipy.stats.norm.ppf((1 + level) / 2)
        assert share == interval_coverage(truth, mean - half, mean + half)
    assert curve.n_values == 600


@pytest.mark.parametrize("n_samples", [9, 19, 99])
def test_calibrated_samples_lie_on_the_diagonal_however_few(n_samples):
    rng = np.random.default_rng(1)
    levels = np.array([0.2, 0.6, 0.8])  # multiples of 2 / (n + 1)
    curve = coverage_curve(rng.normal(size=(200, 200)), rng.normal(size=(n_samples, 200, 200)), levels=levels)
    np.testing.assert_allclose(curve.empirical, levels, atol=4 * 0.5 / 200)


@pytest.mark.parametrize(("sd", "sign"), [(0.5, -1), (2.0, 1)])
def test_narrow_and_wide_predictions_are_seen(sd, sign):
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(50, 50))
    by_sd = coverage_curve(truth, mean=0 * truth, sd=sd + 0 * truth)
    by_draws = coverage_curve(truth, sd * rng.normal(size=(199, 50, 50)))
    for curve in (by_sd, by_draws):
        assert (sign * (curve.empirical - curve.nominal) > 0).all()
        assert curve.error > 0.1
    assert "mean absolute error" in repr(by_sd)


def test_no_spread_is_inside_or_never():
    truth = np.array([[1.0, 2.0]])
    curve = coverage_curve(truth, mean=np.array([[1.0, 0.0]]), sd=np.zeros((1, 2)))
    np.testing.assert_array_equal(curve.empirical, 0.5)


def test_truth_equal_to_every_draw_is_in_the_middle():
    truth = np.random.default_rng(3).normal(size=(3, 4))
    curve = coverage_curve(truth, np.repeat(truth[None], 5, axis=0), levels=[0.01])
    np.testing.assert_array_equal(curve.empirical, 1.0)


T = np.ones((2, 3))


@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((T, T[:1], T), {}, "lower: expected the shape of truth"),
        ((T, T, T[:1]), {}, "upper: expected the shape of truth"),
        ((T, T, T - 1), {}, "upper: expected limits at or above lower, got 6 below"),
        ((T, T * np.nan, T), {}, "lower: expected finite"),
    ],
)
def test_bad_intervals(arguments, options, match):
    with pytest.raises(ValueError, match=match):
        interval_coverage(*arguments, **options)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({}, "samples: expected either samples, or mean and sd"),
        ({"mean": T}, "samples: expected either"),
        ({"sd": T}, "samples: expected either"),
        ({"samples": np.ones((5, 2, 3)), "mean": T, "sd": T}, "samples: expected either"),
        ({"samples": T}, "samples: expected at least 2 draws"),
        ({"mean": T, "sd": -T}, "sd: expected numbers >= 0"),
        ({"mean": T, "sd": T, "levels": [0.5, 1.0]}, "levels: expected shares"),
        ({"mean": T, "sd": T, "levels": []}, "levels: expected shares"),
    ],
)
def test_bad_curve(options, match):
    with pytest.raises(ValueError, match=match):
        coverage_curve(T, **options)
