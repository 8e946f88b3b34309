from __future__ import annotations

import numpy as np
import pytest
import scipy.integrate
import scipy.optimize
import scipy.stats

from perturbia.stats import adaptive_shrinkage, james_stein, james_stein_factor, limited_translation

GRID = np.array([0.0, 0.5, 2.0])


@pytest.fixture
def screen():
    """Sparse heavy-tailed effects measured with unequal noise."""
    rng = np.random.default_rng(0)
    truth = np.where(rng.random((8, 300)) < 0.15, rng.normal(0, 2, (8, 300)), 0.0)
    errors = rng.uniform(0.3, 1.0, size=truth.shape)
    return truth, truth + errors * rng.normal(size=truth.shape), errors


def test_james_stein_matches_the_textbook_formula():
    effects = np.random.default_rng(1).normal(0, 1.5, size=(4, 10))
    for row in effects:
        expected = max(0.0, 1 - (10 - 2) * 0.8**2 / (row @ row)) * row
        np.testing.assert_allclose(james_stein(row[None], np.full((1, 10), 0.8))[0], expected, rtol=1e-12)


def test_james_stein_factor_is_near_the_oracle_factor():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(20, 5000)) * np.linspace(0, 2, 20)[:, None]
    errors = rng.uniform(0.2, 2.0, size=truth.shape)
    measured = truth + errors * rng.normal(size=truth.shape)
    best = (truth * measured).sum(1) / (measured**2).sum(1)
    np.testing.assert_allclose(james_stein_factor(measured, errors), best.clip(0), atol=0.05)


def test_james_stein_dominates_the_raw_effects(screen):
    truth, measured, errors = screen
    assert ((james_stein(measured, errors) - truth) ** 2).sum() < 0.8 * ((measured - truth) ** 2).sum()


def test_james_stein_limits():
    effects = np.array([[1.0, 2.0, 3.0], [0.0, 0.0, 0.0], [0.1, 0.1, 0.1]])
    errors = np.array([[0.0, 0.0, 0.0], [1.0, 1.0, 1.0], [5.0, 5.0, 5.0]])
    np.testing.assert_array_equal(james_stein_factor(effects, errors), [1.0, 0.0, 0.0])


def test_posterior_moments_match_quadrature():
    weights_prior = 10.0
    effects, errors = np.array([[0.4, -1.3, 3.0, 0.0, 2.0]]), np.array([[0.5, 0.7, 1.2, 0.3, 0.4]])
    result = adaptive_shrinkage(effects, errors, grid=GRID, null_prior=weights_prior)
    for g in range(effects.shape[1]):
        e, s = effects[0, g], errors[0, g]

        def joint(d, power, e=e, s=s):
            slab = sum(w * scipy.stats.norm.pdf(d, 0, t) for w, t in zip(result.weights[1:], GRID[1:], strict=True))
            return d**power * slab * scipy.stats.norm.pdf(e, d, s)

        spike = result.weights[0] * scipy.stats.norm.pdf(e, 0, s)
        slab, first, second = (scipy.integrate.quad(joint, -15, 15, args=(p,), points=[0, e])[0] for p in range(3))
        mean = first / (slab + spike)
        assert result.mean[0, g] == pytest.approx(mean, abs=1e-7)
        assert result.sd[0, g] == pytest.approx(np.sqrt(second / (slab + spike) - mean**2), abs=1e-6)
        assert result.null_probability[0, g] == pytest.approx(spike / (slab + spike), abs=1e-7)


def test_weights_reach_the_optimum_of_a_general_solver(screen):
    _, measured, errors = screen
    result = adaptive_shrinkage(measured, errors, grid=GRID, null_prior=10.0)
    scale = np.sqrt(errors.ravel()[:, None] ** 2 + GRID**2)
    likelihood = scipy.stats.norm.pdf(measured.ravel()[:, None], 0, scale)

    def loss(w):
        return -np.log(likelihood @ w).sum() - 9 * np.log(w[0])

    best = scipy.optimize.minimize(
        loss, [0.4, 0.3, 0.3], bounds=[(1e-9, 1)] * 3, constraints={"type": "eq", "fun": lambda w: w.sum() - 1}
    )
    assert loss(result.weights) <= best.fun + 1e-4
    np.testing.assert_allclose(result.weights, best.x, atol=5e-3)
    assert result.log_likelihood == pytest.approx(np.log(likelihood @ result.weights).sum(), abs=1e-6)


def test_one_component_is_the_normal_posterior():
    effects, errors = np.array([[1.0, -2.0, 0.3]]), np.array([[0.5, 1.0, 2.0]])
    result = adaptive_shrinkage(effects, errors, grid=[0.0, 1.0], null_prior=1.0, max_iterations=0)
    # Without a step of the fit both components keep weight 1/2.
    np.testing.assert_allclose(result.weights, 0.5)
    slab = 1 - result.null_probability
    np.testing.assert_allclose(result.mean, slab * effects / (1 + errors**2), rtol=1e-12)


def test_default_grid_recovers_sparse_effects_and_calibrated_nulls(screen):
    truth, measured, errors = screen
    result = adaptive_shrinkage(measured, errors)
    assert result.grid[0] == 0
    np.testing.assert_allclose(result.grid[2:] / result.grid[1:-1], np.sqrt(2))
    assert ((result.mean - truth) ** 2).mean() < 0.6 * ((james_stein(measured, errors) - truth) ** 2).mean()
    assert 0.75 < result.weights[0] < 0.97
    # The null probability is calibrated or conservative (the point mass is favoured a priori).
    confident = result.null_probability < 0.2
    assert np.mean(truth[confident] == 0) < 0.2
    # About nine in ten truths lie within the 90 % interval where an effect is likely.
    likely = result.null_probability < 0.05
    assert np.mean(np.abs(truth - result.mean)[likely] < 1.645 * result.sd[likely]) > 0.8


def test_pure_noise_shrinks_to_nothing():
    rng = np.random.default_rng(3)
    noise = rng.normal(size=(5, 400))
    result = adaptive_shrinkage(noise, np.ones_like(noise))
    assert result.weights[0] > 0.8
    assert np.sqrt((result.mean**2).mean()) < 0.1


def test_rows_with_their_own_weights_separate_silent_and_strong_perturbations():
    rng = np.random.default_rng(4)
    truth = np.vstack([np.zeros((6, 300)), rng.normal(0, 1.0, size=(2, 300))])
    errors = np.ones_like(truth)
    measured = truth + rng.normal(size=truth.shape)
    pooled, by_row = (adaptive_shrinkage(measured, errors, by=by) for by in ("all", "row"))
    assert by_row.weights.shape == (8, len(by_row.grid))
    np.testing.assert_allclose(by_row.weights.sum(axis=1), 1.0)
    assert by_row.weights[:6, 0].min() > by_row.weights[6:, 0].max()
    assert ((by_row.mean - truth) ** 2).mean() < 0.9 * ((pooled.mean - truth) ** 2).mean()


def test_strong_prior_makes_rows_equal_the_pooled_fit(screen):
    _, measured, errors = screen
    pooled = adaptive_shrinkage(measured, errors)
    by_row = adaptive_shrinkage(measured, errors, by="row", prior_strength=1e9)
    np.testing.assert_allclose(by_row.mean, pooled.mean, atol=1e-4)


@pytest.mark.parametrize("by", ["all", "row"])
def test_order_and_unit_do_not_matter(screen, by):
    _, measured, errors = screen
    result = adaptive_shrinkage(measured, errors, by=by)
    order = np.random.default_rng(5).permutation(measured.shape[1])
    changed = adaptive_shrinkage(100 * measured[::-1, order], 100 * errors[::-1, order], by=by)
    np.testing.assert_allclose(changed.mean, 100 * result.mean[::-1, order], rtol=1e-3, atol=1e-2)


@pytest.mark.parametrize("by", ["all", "row"])
def test_exactly_known_effects_stay_and_do_not_enter_the_fit(screen, by):
    _, measured, errors = screen
    known, zero = measured.copy(), errors.copy()
    known[:, 0], known[:, 1], zero[:, :2], zero[3] = 50.0, 0.0, 0.0, 0.0
    result = adaptive_shrinkage(known, zero, by=by)
    np.testing.assert_array_equal(result.mean[:, :2], known[:, :2])
    np.testing.assert_array_equal(result.mean[3], known[3])
    np.testing.assert_array_equal(result.sd[:, :2], 0)
    np.testing.assert_array_equal(result.null_probability[:, :2], [[0, 1]] * 8)
    rows = [row for row in range(8) if row != 3]
    alone = adaptive_shrinkage(measured[rows, 2:], errors[rows, 2:], by=by)
    np.testing.assert_allclose(result.mean[rows, 2:], alone.mean, atol=1e-10)


def test_huge_effects_do_not_underflow():
    effects = np.array([[1e4, -1e4, 0.1, 0.0]])
    result = adaptive_shrinkage(effects, np.full_like(effects, 1e-2))
    assert np.isfinite(result.mean).all()
    np.testing.assert_allclose(result.mean[0, :2], effects[0, :2], rtol=1e-6)


def test_repr_says_what_it_holds(screen):
    _, measured, errors = screen
    assert repr(adaptive_shrinkage(measured, errors, grid=GRID)).startswith(
        "ShrunkenEffects: 8 x 300 effects, 3 components"
    )


ONES = np.ones((2, 3))


@pytest.mark.parametrize("function", [james_stein_factor, james_stein, adaptive_shrinkage, limited_translation])
@pytest.mark.parametrize(
    ("effects", "errors", "match"),
    [
        (ONES, ONES[:, :2], "standard_errors: expected"),
        (ONES, -ONES, "standard_errors: expected numbers >= 0"),
        (ONES * np.nan, ONES, "effects: expected finite"),
        (ONES, np.full((2, 3), np.inf), "standard_errors: expected finite"),
        (ONES[0], ONES[0], "effects: expected a two-dimensional"),
        (ONES[:0], ONES[:0], "effects: expected at least 1 row"),
    ],
)
def test_bad_input(function, effects, errors, match):
    with pytest.raises(ValueError, match=match):
        function(effects, errors)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"by": "gene"}, "by: expected 'all' or 'row', got 'gene'"),
        ({"grid": [-1.0, 1.0]}, "grid: expected finite"),
        ({"grid": [0.0]}, "grid: expected finite"),
        ({"grid": []}, "grid: expected finite"),
        ({"null_prior": 0.5}, "null_prior, prior_strength"),
        ({"prior_strength": -1.0}, "null_prior, prior_strength"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        adaptive_shrinkage(ONES, ONES, **options)


def test_too_little_to_shrink_by():
    with pytest.raises(ValueError, match="at least 1 row.s. and 3 column"):
        james_stein(ONES[:, :2], ONES[:, :2])
    with pytest.raises(ValueError, match="standard_errors: expected positive entries"):
        adaptive_shrinkage(ONES, 0 * ONES)


def test_limited_translation_is_james_stein_within_its_bound(screen):
    _, measured, errors = screen
    shrunken = james_stein(measured, errors)
    for bound in (0.0, 0.3, 2.0, 10.0):
        result = limited_translation(measured, errors, bound=bound)
        for p, g in [(0, 0), (3, 17), (7, 299)]:
            x, s = measured[p, g], errors[p, g]
            low, high = x - bound * s, x + bound * s
            assert result[p, g] == pytest.approx(min(max(shrunken[p, g], low), high), rel=1e-12)
        assert (np.abs(measured - result) <= bound * errors + 1e-12).all()
        assert (np.abs(result) >= np.abs(shrunken) - 1e-12).all()
    np.testing.assert_allclose(limited_translation(measured, errors, bound=np.inf), shrunken, rtol=1e-12)
    np.testing.assert_array_equal(limited_translation(measured, errors, bound=0.0), measured)


def test_limited_translation_keeps_the_target_gene():
    """One large effect among noise: a single factor would erase it, and its row is estimated no worse."""
    rng = np.random.default_rng(7)
    truth = np.zeros((40, 300))
    truth[:, 0] = 8.0
    measured = truth + rng.normal(size=truth.shape)
    errors = np.ones_like(truth)
    single, limited = james_stein(measured, errors), limited_translation(measured, errors)
    assert np.abs(single[:, 0]).mean() < 2.5
    assert np.abs(limited[:, 0] - 8).mean() < 2.5
    risk = [((estimate - truth) ** 2).sum() for estimate in (measured, single, limited)]
    assert risk[2] < risk[1] < risk[0]


def test_limited_translation_of_exactly_known_effects():
    effects = np.array([[1.0, -2.0, 0.1, 0.2], [0.0, 0.0, 0.0, 0.0]])
    errors = np.array([[0.0, 1.0, 5.0, 5.0], [1.0, 1.0, 1.0, 1.0]])
    result = limited_translation(effects, errors)
    assert result[0, 0] == 1.0
    np.testing.assert_array_equal(result[1], 0)


@pytest.mark.parametrize("bound", [-1.0, np.nan])
def test_limited_translation_bad_bound(bound):
    with pytest.raises(ValueError, match="bound: expected zero or a positive number"):
        limited_translation(ONES, ONES, bound=bound)
