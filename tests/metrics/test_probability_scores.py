from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.stats

from perturbia.metrics import crps_gaussian, crps_samples, mae


@pytest.fixture
def gaussian():
    rng = np.random.default_rng(0)
    mean, sd = rng.normal(size=(3, 4)), rng.uniform(0.2, 2.0, size=(3, 4))
    return mean + sd * rng.normal(size=mean.shape), mean, sd


def by_integral(y, mean, sd):
    """CRPS as the integral of the squared difference of the two distribution functions."""
    left = scipy.integrate.quad(lambda x: scipy.stats.norm.cdf(x, mean, sd) ** 2, mean - 12 * sd, y)[0]
    return left + scipy.integrate.quad(lambda x: scipy.stats.norm.sf(x, mean, sd) ** 2, y, mean + 12 * sd)[0]


def test_gaussian_matches_the_integral(gaussian):
    expected = np.vectorize(by_integral)(*gaussian)
    assert crps_gaussian(*gaussian) == pytest.approx(expected.mean(), abs=1e-7)
    np.testing.assert_allclose(crps_gaussian(*gaussian, per_perturbation=True), expected.mean(axis=1), atol=1e-7)


def test_no_spread_is_the_absolute_error(gaussian):
    truth, mean, _ = gaussian
    assert crps_gaussian(truth, mean, np.zeros_like(mean)) == pytest.approx(mae(truth, mean))
    assert crps_samples(truth, mean[None], unbiased=False) == pytest.approx(mae(truth, mean))
    assert crps_samples(truth, np.stack([mean, mean])) == pytest.approx(mae(truth, mean))


@pytest.mark.parametrize("unbiased", [False, True])
def test_samples_match_all_pairs(gaussian, unbiased):
    truth, mean, sd = gaussian
    draws = mean + sd * np.random.default_rng(1).normal(size=(7, 3, 4))
    pairs = np.abs(draws[:, None] - draws[None]).sum(axis=(0, 1)) / (7 * 6 if unbiased else 49)
    expected = np.abs(draws - truth).mean(axis=0) - pairs / 2
    ours = crps_samples(truth, draws, unbiased=unbiased, per_perturbation=True)
    np.testing.assert_allclose(ours, expected.mean(axis=1), atol=1e-12)


def test_samples_approach_the_closed_form(gaussian):
    truth, mean, sd = gaussian
    draws = mean + sd * np.random.default_rng(2).normal(size=(20_000, 3, 4))
    assert crps_samples(truth, draws) == pytest.approx(crps_gaussian(truth, mean, sd), abs=0.02)


def test_fair_form_does_not_depend_on_the_number_of_draws():
    rng = np.random.default_rng(3)
    truth = rng.normal(size=(200, 200))
    few, many = rng.normal(size=(2, 200, 200)), rng.normal(size=(20, 200, 200))
    assert crps_samples(truth, few) == pytest.approx(crps_samples(truth, many), abs=0.01)
    assert crps_samples(truth, few, unbiased=False) > crps_samples(truth, many, unbiased=False) + 0.2


@pytest.mark.parametrize("factor", [0.3, 0.7, 1.5, 3.0])
def test_the_true_spread_is_best(factor):
    truth = np.random.default_rng(4).normal(size=(100, 100))
    best = crps_gaussian(truth, 0 * truth, np.ones_like(truth))
    assert crps_gaussian(truth, 0 * truth, np.full_like(truth, factor)) > best


def test_scales_with_the_unit(gaussian):
    truth, mean, sd = gaussian
    assert crps_gaussian(10 * truth, 10 * mean, 10 * sd) == pytest.approx(10 * crps_gaussian(truth, mean, sd))


T = np.ones((2, 3))


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        ((T, T[:1], T), "mean: expected the shape of truth"),
        ((T, T, T[:, :1]), "sd: expected the shape of truth"),
        ((T, T, -T), "sd: expected numbers >= 0"),
        ((T * np.nan, T, T), "truth: expected finite"),
    ],
)
def test_bad_gaussian(arguments, match):
    with pytest.raises(ValueError, match=match):
        crps_gaussian(*arguments)


@pytest.mark.parametrize(
    ("samples", "match"),
    [
        (T, "samples: expected at least 2 draws"),
        (T[None], "samples: expected at least 2 draws"),
        (np.ones((4, 3, 2)), "samples: expected at least 2 draws"),
        (np.full((4, 2, 3), np.nan), "samples: expected finite"),
    ],
)
def test_bad_samples(samples, match):
    with pytest.raises(ValueError, match=match):
        crps_samples(T, samples)
