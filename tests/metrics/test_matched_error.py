"""Squared errors and R² of matches."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from sklearn.metrics import r2_score

from perturbia.metrics import effect_r2, feature_r2, matched_mse, matched_r2


def errors_by_hand(alignment, truth) -> dict[str, np.ndarray]:
    """Both errors of every cell, from the whole matrix of squared distances."""
    squared = ((truth[:, None] - alignment.x_target[None]) ** 2).sum(axis=2)
    expected = np.einsum("ij,ij->i", alignment.weights, squared)
    barycentric = ((truth - alignment.weights @ alignment.x_target) ** 2).sum(axis=1)
    return {"barycentric_mse": barycentric / 3, "expected_mse": expected / 3}


def partners(alignment) -> np.ndarray:
    return np.where(alignment.pairs[:, None] >= 0, alignment.x_target[alignment.pairs], np.nan)


@pytest.mark.parametrize("by_pairs", [False, True])
def test_matches_the_sums_over_all_pairs(alignment, held, by_pairs):
    known = {"pairs": alignment.pairs} if by_pairs else {}
    x_source = None if by_pairs else alignment.x_source
    scores = matched_mse(held, x_source, alignment.x_target, **known, **alignment.groups)
    cells = errors_by_hand(alignment, partners(alignment) if by_pairs else alignment.x_source)
    for name, values in cells.items():
        scored = ~np.isnan(values)
        by_group = {g: values[scored & (alignment.source_groups == g)] for g in scores.table.index}
        for group, some in by_group.items():
            assert scores.table.loc[group, "n_scored"] == len(some)
            assert scores.table.loc[group, name] == pytest.approx(some.mean() if len(some) else np.nan, nan_ok=True)
        assert scores.macro[name] == pytest.approx(np.mean([some.mean() for some in by_group.values() if len(some)]))
        assert scores.micro[name] == pytest.approx(values[scored].mean())
    # Only groups of one side and cells without mass, or also cells without a partner, have no score.
    assert scores.left_out.to_dict() == (
        {"unpaired": 5, "partner_in_other_group": 0, "unmatched": 2} if by_pairs else {"unmatched": 4}
    )


def test_true_pairs_cost_nothing_and_chance_the_variance():
    z = np.random.default_rng(0).normal(size=(400, 5))
    assert matched_mse(sp.identity(400), z, z).macro.tolist() == pytest.approx([0.0, 0.0], abs=1e-14)
    uniform = matched_mse(np.ones((400, 400)), z, z).macro
    assert uniform["barycentric_mse"] == pytest.approx(z.var(axis=0).mean())
    assert uniform["expected_mse"] == pytest.approx(2 * z.var(axis=0).mean())


def test_a_soft_plan_gains_in_the_first_error_only():
    """Two twins are confused evenly: their mean is nearer to the truth than a draw from them."""
    z = np.array([[-1.0], [1.0]])
    soft, hard = matched_mse(np.ones((2, 2)), z, z).macro, matched_mse(np.eye(2)[::-1], z, z).macro
    assert soft.tolist() == [1.0, 2.0]
    assert hard.tolist() == [4.0, 4.0]


def test_a_common_offset_costs_no_digits(alignment):
    first = matched_mse(alignment.plan, alignment.x_source, alignment.x_target, **alignment.groups)
    far = matched_mse(alignment.plan, alignment.x_source + 1e7, alignment.x_target + 1e7, **alignment.groups)
    np.testing.assert_allclose(far.macro, first.macro, rtol=1e-6)
    one = matched_mse(np.ones((3, 1)), np.full((3, 2), 1e8), np.full((1, 2), 1e8))
    assert one.macro.tolist() == [0.0, 0.0]


def test_order_of_cells_does_not_matter(alignment):
    moved = alignment.shuffled(1)
    first = matched_mse(alignment.plan, alignment.x_source, alignment.x_target, **alignment.groups)
    again = matched_mse(moved.plan, moved.x_source, moved.x_target, **moved.groups)
    np.testing.assert_allclose(again.table, first.table)
    fit = matched_r2(alignment.plan, None, alignment.x_target, pairs=alignment.pairs, **alignment.groups)
    other = matched_r2(moved.plan, None, moved.x_target, pairs=moved.pairs, **moved.groups)
    np.testing.assert_allclose(other.by_feature, fit.by_feature)
    assert other.within_groups == pytest.approx(fit.within_groups)


def test_r2_matches_sklearn():
    rng = np.random.default_rng(2)
    truth = rng.normal(size=(60, 4)) * [1, 2, 3, 4] + [0, 5, -5, 1]
    prediction = truth + rng.normal(size=truth.shape)
    fit = feature_r2(truth, prediction)
    assert fit.pooled == pytest.approx(r2_score(truth, prediction, multioutput="variance_weighted"))
    np.testing.assert_allclose(fit.by_feature, r2_score(truth, prediction, multioutput="raw_values"))
    np.testing.assert_allclose(fit.by_feature, effect_r2(truth.T, prediction.T, per_perturbation=True))
    assert fit.median == pytest.approx(np.median(fit.by_feature))
    assert np.isnan(fit.within_groups)


def test_r2_of_means():
    rng = np.random.default_rng(3)
    groups = np.repeat(["a", "b", "c"], [10, 20, 5])
    truth = rng.normal(size=(35, 3)) + 3 * (groups == "a")[:, None]
    everyone = feature_r2(truth, np.tile(truth.mean(axis=0), (35, 1)), groups=groups)
    assert everyone.pooled == pytest.approx(0.0, abs=1e-12)
    assert everyone.within_groups < -0.5
    by_group = np.stack([truth[groups == g].mean(axis=0) for g in groups])
    fit = feature_r2(truth, by_group, groups=groups)
    assert fit.pooled > 0.3
    assert fit.within_groups == pytest.approx(0.0, abs=1e-12)
    perfect = feature_r2(truth, truth, groups=groups)
    assert (perfect.pooled, perfect.median, perfect.within_groups, perfect.n_cells) == (1.0, 1.0, 1.0, 35)


def test_constant_features_have_no_r2_of_their_own():
    truth = np.array([[1.0, 0.1], [2.0, 0.1], [4.0, 0.1]])
    fit = feature_r2(truth, truth + [0.0, 0.5])
    np.testing.assert_array_equal(np.isnan(fit.by_feature), [False, True])
    assert fit.median == 1.0
    assert fit.pooled < 1.0  # what is predicted wrongly still counts


def test_groups_that_do_not_vary_leave_nothing_to_explain():
    truth = np.array([[0.1], [0.1], [0.7], [0.7]])
    assert np.isnan(feature_r2(truth, truth, groups=["a", "a", "b", "b"]).within_groups)


def test_matched_r2_is_that_of_imputed_features(alignment, held):
    fit = matched_r2(held, alignment.x_source, alignment.x_target, **alignment.groups)
    matched = alignment.plan.sum(axis=1) > 0
    imputed = (alignment.weights @ alignment.x_target)[matched]
    expected = feature_r2(alignment.x_source[matched], imputed, groups=alignment.source_groups[matched])
    assert fit.n_cells == matched.sum() == 13
    assert fit.pooled == pytest.approx(expected.pooled)
    assert fit.within_groups == pytest.approx(expected.within_groups)
    by_pairs = matched_r2(held, None, alignment.x_target, pairs=alignment.pairs, **alignment.groups)
    scored = matched & (alignment.pairs >= 0)
    true = alignment.x_target[alignment.pairs[scored]]
    assert by_pairs.pooled == pytest.approx(feature_r2(true, imputed[scored[matched]]).pooled)


def test_a_uniform_plan_is_the_mean_of_the_group():
    rng = np.random.default_rng(4)
    groups = np.repeat(["a", "b"], [8, 12])
    z = rng.normal(size=(20, 2))
    options = {"source_groups": groups, "target_groups": groups}
    uniform = (groups[:, None] == groups).astype(float)
    assert matched_r2(uniform, z, z, **options).within_groups == pytest.approx(0.0, abs=1e-12)
    assert matched_r2(np.eye(20), z, z, **options).within_groups == 1.0


Z = np.random.default_rng(5).normal(size=(3, 2))


@pytest.mark.parametrize("score", [matched_mse, matched_r2])
@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((Z, Z[:2]), {}, r"x_target: expected 3 cells .rows., got 2"),
        ((Z[:2], Z), {}, r"x_source: expected 3 cells .rows., got 2"),
        ((Z, Z[:, :1]), {}, "x_target: expected the 2 features .columns. of x_source, got 1.*pass pairs"),
        ((Z * np.nan, Z), {}, "x_source: expected finite"),
        ((Z, Z * np.inf), {}, "x_target: expected finite"),
        ((Z, sp.csr_array(Z)), {}, "x_target: expected a dense array"),
        ((None, Z), {}, "expected either features of source cells or their true partners, got neither"),
        ((Z, Z), {"pairs": [0, 1, 2]}, "got both"),
        ((None, Z), {"pairs": [0, 1, 3]}, "pairs: expected -1"),
        ((None, Z), {"pairs": [-1, -1, -1]}, "expected (cells to score|at least two cells)"),
    ],
)
def test_bad_input(score, arguments, options, match):
    with pytest.raises(ValueError, match=match):
        score(np.eye(3), *arguments, **options)


@pytest.mark.parametrize(
    ("truth", "prediction", "options", "match"),
    [
        (Z, Z[:, :1], {}, "prediction: expected the shape of truth"),
        (Z[:1], Z[:1], {}, "truth: expected at least 2 row"),
        (Z, Z * np.nan, {}, "prediction: expected finite"),
        (np.ones((3, 2)), Z, {}, "truth: expected features that vary"),
        (Z, Z, {"groups": ["a", "b"]}, r"groups: expected one label a row, shape \(3,\)"),
    ],
)
def test_bad_features(truth, prediction, options, match):
    with pytest.raises(ValueError, match=match):
        feature_r2(truth, prediction, **options)
