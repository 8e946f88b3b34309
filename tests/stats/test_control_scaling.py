from __future__ import annotations

import numpy as np
import pytest
from scipy import stats as scipy_stats

from perturbia.stats import fit_control_scaling


@pytest.fixture
def rows():
    rng = np.random.default_rng(0)
    batches = np.repeat([0, 1, 2], [30, 20, 25])
    is_control = rng.random(75) < 0.4
    X = rng.normal(size=(75, 5)) * [1, 2, 3, 4, 5] + 100 + 10 * batches[:, None]
    return X, is_control, batches


def test_without_a_prior_it_is_mean_and_sd_of_each_batch(rows):
    X, is_control, batches = rows
    found = fit_control_scaling(X, is_control, batches)
    for batch in range(3):
        controls = X[is_control & (batches == batch)]
        np.testing.assert_allclose(found.center[batch], controls.mean(axis=0), rtol=1e-12)
        np.testing.assert_allclose(found.scale[batch], controls.std(axis=0, ddof=1), rtol=1e-9)
    done = found.transform(X, batches)
    assert np.abs(done[is_control & (batches == 1)].mean(axis=0)).max() < 1e-12


def test_prior_mixes_variances(rows):
    X, is_control, batches = rows
    found = fit_control_scaling(X, is_control, batches, prior=7.0)
    counts = np.bincount(batches[is_control])
    own = np.array([X[is_control & (batches == b)].var(axis=0, ddof=1) for b in range(3)])
    pooled = ((counts - 1) @ own) / (counts.sum() - 3)
    expected = ((counts - 1)[:, None] * own + 7 * pooled) / (counts - 1 + 7)[:, None]
    np.testing.assert_allclose(found.scale**2, expected, rtol=1e-9)


def test_robust_is_median_and_scaled_deviation(rows):
    X, is_control, batches = rows
    found = fit_control_scaling(X, is_control, batches, method="robust")
    controls = X[is_control & (batches == 2)]
    np.testing.assert_allclose(found.center[2], np.median(controls, axis=0))
    np.testing.assert_allclose(found.scale[2], scipy_stats.median_abs_deviation(controls, scale="normal"), rtol=1e-6)


def test_robust_ignores_one_wild_row(rows):
    X, is_control, batches = rows
    wild = X.copy()
    wild[np.flatnonzero(is_control)[0]] = 1e6
    before, after = (fit_control_scaling(x, is_control, batches, method="robust") for x in (X, wild))
    assert np.abs(after.center - before.center).max() < 6
    assert fit_control_scaling(wild, is_control, batches).center.max() > 1000


def test_batches_without_controls_take_those_of_all(rows):
    X, is_control, batches = rows
    is_control = is_control & (batches != 1)
    found = fit_control_scaling(X, is_control, batches, prior=5.0)
    np.testing.assert_allclose(found.center[1], X[is_control].mean(axis=0))
    assert found.n_controls[1] == 0
    assert np.isfinite(found.scale).all()


def test_one_centre_and_scale_for_all(rows):
    X, is_control, batches = rows
    found = fit_control_scaling(X, is_control, batches, center_per_batch=False, scale_per_batch=False)
    assert np.ptp(found.center, axis=0).max() == 0
    np.testing.assert_allclose(found.scale[0], X[is_control].std(axis=0, ddof=1), rtol=1e-9)


def test_constant_features_are_counted_and_not_scaled(rows):
    X, is_control, batches = rows
    X = X.copy()
    X[:, 2] = 1e8 + 0.1
    found = fit_control_scaling(X, is_control, batches, prior=3.0)
    assert found.n_constant == 1
    assert (found.scale[:, 2] == 1).all()
    assert np.abs(found.transform(X, batches)[:, 2]).max() < 1e-6


def test_far_from_zero_no_digit_is_lost(rows):
    X, is_control, batches = rows
    near, far = (fit_control_scaling(X + offset, is_control, batches, prior=3.0) for offset in (0.0, 1e7))
    np.testing.assert_allclose(near.scale, far.scale, rtol=1e-6)


def test_counts_that_are_mostly_zero_are_scaled_by_their_standard_deviation():
    rng = np.random.default_rng(0)
    X = (rng.random((60, 3)) < [0.1, 0.3, 0.6]) * rng.poisson(3, (60, 3)).astype(float)
    found = fit_control_scaling(X, np.ones(60, dtype=bool), np.zeros(60, dtype=int), method="robust")
    assert found.n_constant == 0
    np.testing.assert_allclose(found.scale[0, :2], X[:, :2].std(axis=0), rtol=1e-9)
