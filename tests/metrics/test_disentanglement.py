from __future__ import annotations

import numpy as np
import pytest
import scipy.stats

from perturbia.metrics import dci, dci_from_importance


def test_scores_of_an_importance_matrix_match_scipy():
    importance = np.random.default_rng(0).gamma(0.5, size=(5, 3))
    importance[2] = 0.0
    latents, factors, disentanglement, completeness = dci_from_importance(importance)
    used = [0, 1, 3, 4]
    np.testing.assert_allclose(latents[used], [1 - scipy.stats.entropy(row, base=3) for row in importance[used]])
    np.testing.assert_allclose(factors, [1 - scipy.stats.entropy(column, base=5) for column in importance.T])
    assert latents[2] == 0.0
    assert disentanglement == pytest.approx(np.average(latents, weights=importance.sum(axis=1)))
    assert completeness == pytest.approx(np.average(factors, weights=importance.sum(axis=0)))


@pytest.mark.parametrize(
    ("importance", "disentanglement", "completeness"),
    [
        (np.eye(3), 1.0, 1.0),
        (np.ones((3, 3)), 0.0, 0.0),
        (np.repeat(np.eye(2), 2, axis=0), 1.0, 0.5),  # two latents for each factor
        (np.repeat(np.eye(2), 2, axis=1), 0.5, 1.0),  # two factors for each latent
        (np.zeros((2, 2)), 0.0, 0.0),
    ],
)
def test_known_matrices(importance, disentanglement, completeness):
    assert dci_from_importance(importance)[2:] == pytest.approx((disentanglement, completeness))


@pytest.fixture
def factors():
    return np.random.default_rng(1).normal(size=(400, 3))


@pytest.mark.parametrize("model", ["random_forest", "gradient_boosting"])
def test_copies_beat_rotations_in_all_but_information(factors, model):
    copies = dci(factors, np.exp(-factors[:, [2, 0, 1]]), model=model)
    rotated = dci(factors, factors @ scipy.stats.ortho_group.rvs(3, random_state=2), model=model)
    assert copies.disentanglement > 0.8
    assert copies.completeness > 0.8
    assert copies.informativeness > 0.8
    np.testing.assert_array_equal(copies.importance.argmax(axis=0), [1, 2, 0])
    assert rotated.disentanglement < 0.6
    assert rotated.completeness < 0.6
    assert rotated.informativeness > 0.4


def test_unrelated_latents_inform_of_nothing(factors):
    noise = np.random.default_rng(3).normal(size=(400, 3))
    assert dci(factors, noise).informativeness < 0.1


def test_same_seed_same_scores(factors):
    first, second, other = (dci(factors, factors, n_trees=5, seed=seed) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first.importance, second.importance)
    assert first.informativeness == second.informativeness != other.informativeness
    assert "3 latents, 3 factors" in repr(first)


Z = np.random.default_rng(4).normal(size=(30, 2))


@pytest.mark.parametrize(
    ("truth", "latents", "options", "match"),
    [
        (Z, Z[:25], {}, "latents: expected the 30 cells"),
        (Z[:19], Z[:19], {}, "truth: expected at least 20 row"),
        (Z[:, :1], Z, {}, "truth: expected at least 20 row.s. and 2 column"),
        (Z, Z[:, :1], {}, "latents: expected at least 20 row.s. and 2 column"),
        (Z * [1, 0], Z, {}, "truth: expected factors that vary"),
        (Z, Z * np.nan, {}, "latents: expected finite"),
        (Z, Z, {"model": "lasso"}, "model: expected one of"),
        (Z, Z, {"n_trees": 0}, "n_trees, test_fraction"),
        (Z, Z, {"test_fraction": 1.0}, "n_trees, test_fraction"),
    ],
)
def test_bad_input(truth, latents, options, match):
    with pytest.raises(ValueError, match=match):
        dci(truth, latents, **options)


def test_bad_importance():
    with pytest.raises(ValueError, match="importance: expected numbers >= 0"):
        dci_from_importance(-np.eye(2))
    with pytest.raises(ValueError, match="importance: expected at least 2 row"):
        dci_from_importance(np.ones((1, 2)))
