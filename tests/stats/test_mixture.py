"""Mixtures against a fixed null: what is recovered, and that the null alone stays null."""

from __future__ import annotations

import numpy as np
import pytest
from scipy import stats
from scipy.optimize import minimize

from perturbia.stats import ShiftedMixture, shifted_mixture


def draw(n_null, n_shifted, *, mean=4.0, sd=1.0, seed=0):
    rng = np.random.default_rng(seed)
    truth = np.repeat([False, True], [n_null, n_shifted])
    return np.where(truth, rng.normal(mean, sd, len(truth)), rng.normal(size=len(truth))), rng.normal(size=2000), truth


def test_em_ends_at_the_maximum_of_the_likelihood():
    values, null, _ = draw(200, 150, mean=2.5, sd=1.3)
    fit = shifted_mixture(values, null, max_null_components=1, tol=1e-10, max_iter=5000)
    f0 = stats.norm(null.mean(), null.std()).pdf(values)

    def loss(theta):
        weight, mean, sd = 1 / (1 + np.exp(-theta[0])), theta[1], np.exp(theta[2])
        return -np.log((1 - weight) * f0 + weight * stats.norm.pdf(values, mean, sd)).sum()

    best = minimize(
        loss, [0.0, 2.0, 0.0], method="Nelder-Mead", options={"xatol": 1e-8, "fatol": 1e-10, "maxiter": 5000}
    )
    assert fit.weight == pytest.approx(1 / (1 + np.exp(-best.x[0])), abs=1e-3)
    assert fit.mean == pytest.approx(best.x[1], abs=2e-3)
    assert fit.sd == pytest.approx(np.exp(best.x[2]), abs=2e-3)
    # against one Gaussian for all 2350: as many parameters of the null on both sides
    both = np.r_[null, values]
    one = stats.norm.logpdf(both, both.mean(), both.std()).sum()
    two = stats.norm.logpdf(null, null.mean(), null.std()).sum() - best.fun
    assert fit.evidence == pytest.approx(two - one - 1.5 * np.log(350), abs=1e-2)


@pytest.mark.parametrize(("n_null", "n_shifted"), [(300, 100), (100, 300), (20, 380), (380, 20)])
def test_share_and_calls_are_recovered(n_null, n_shifted):
    values, null, truth = draw(n_null, n_shifted)
    fit = shifted_mixture(values, null)
    assert fit.weight == pytest.approx(n_shifted / 400, abs=0.05)
    assert ((fit.probability >= 0.5) == truth).mean() > 0.94
    assert fit.mean == pytest.approx(4, abs=0.8)
    assert isinstance(fit, ShiftedMixture)
    assert "shifted to" in repr(fit)


@pytest.mark.parametrize("n", [20, 100, 1000])
def test_the_null_stays_null(n):
    rng = np.random.default_rng(n)
    kept = [shifted_mixture(rng.normal(size=n), rng.normal(size=1500)).weight > 0 for _ in range(40)]
    assert sum(kept) <= 1


@pytest.mark.parametrize(("n", "n_null"), [(500, 60), (1000, 100), (2000, 200)])
def test_a_null_known_from_few_values_is_not_taken_as_known(n, n_null):
    """Its mean is off by 1 / sqrt(n_null), which many values tell: taken as known it was refuted in a fifth of the cases."""
    rng = np.random.default_rng(n)
    assert not any(shifted_mixture(rng.normal(size=n), rng.normal(size=n_null)).weight for _ in range(25))
    found = [
        shifted_mixture(np.r_[rng.normal(size=n - n // 5), rng.normal(3, 1, n // 5)], rng.normal(size=n_null)).weight
        for _ in range(10)
    ]
    assert np.count_nonzero(found) >= 8


def test_tails_of_the_null_are_no_shift():
    rng = np.random.default_rng(1)
    weights = []
    for _ in range(20):
        values, null = rng.standard_t(4, size=300), rng.standard_t(4, size=2000)
        weights.append([shifted_mixture(values, null, max_null_components=k).weight > 0 for k in (1, 3)])
    one, three = np.sum(weights, axis=0)
    assert three <= 1
    assert one > 5  # what a single Gaussian would have claimed


def test_a_wide_component_does_not_claim_the_far_side():
    rng = np.random.default_rng(2)
    values = np.r_[rng.normal(size=200), rng.normal(3, 3, 200), -9.0, 25.0]
    fit = shifted_mixture(values, rng.normal(size=1000), max_null_components=1)
    assert fit.sd > 1.5
    order = np.argsort(values)
    assert (np.diff(fit.probability[order]) >= 0).all()
    assert fit.probability[-2] < 0.5 < fit.probability[-1]


def test_order_location_and_scale_do_not_matter():
    values, null, _ = draw(200, 100)
    fit = shifted_mixture(values, null)
    order = np.random.default_rng(0).permutation(len(values))
    np.testing.assert_allclose(shifted_mixture(values[order], null).probability, fit.probability[order], atol=1e-6)
    moved = shifted_mixture(100 * values - 7, 100 * null - 7)
    np.testing.assert_allclose(moved.probability, fit.probability, atol=1e-3)
    assert moved.sd == pytest.approx(100 * fit.sd, rel=1e-2)


def test_a_shift_below_the_null_is_not_sought():
    values, null, _ = draw(200, 100, mean=-5)
    fit = shifted_mixture(values, null)
    assert fit.mean >= null.mean() - 0.1
    assert (fit.probability[200:] < 0.5).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"values": [1.0, np.nan]}, "values"),
        ({"values": []}, "values"),
        ({"null": [1.0, np.inf, 2.0, 3.0]}, "null"),
        ({"null": [1.0] * 10}, "distinct"),
        ({"max_null_components": 0}, "max_null_components"),
        ({"max_iter": 0}, "max_iter"),
        ({"min_sd": 0.0}, "min_sd"),
        ({"values": ["a"]}, "values"),
    ],
)
def test_bad_arguments(changes, match):
    arguments = {"values": np.arange(5.0), "null": np.arange(9.0), **changes}
    with pytest.raises(ValueError, match=match):
        shifted_mixture(np.array(arguments.pop("values")), np.array(arguments.pop("null")), **arguments)
