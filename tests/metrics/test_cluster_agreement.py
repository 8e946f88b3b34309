from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import clustering_agreement


@pytest.fixture
def groups():
    rng = np.random.default_rng(0)
    centres = np.repeat(4 * rng.normal(size=(4, 10)), 15, axis=0)
    return centres + rng.normal(size=centres.shape), centres + rng.normal(size=centres.shape)


def test_same_groups_agree_and_shuffled_ones_do_not(groups):
    truth, prediction = groups
    assert clustering_agreement(truth, prediction, n_neighbors=8) == pytest.approx(1.0)
    shuffled = prediction[np.random.default_rng(1).permutation(60)]
    assert clustering_agreement(truth, shuffled, n_neighbors=8) < 0.2


def test_constant_prediction_scores_zero_and_groups_of_equals_score_their_groups(groups):
    truth, prediction = groups
    assert clustering_agreement(truth, np.tile(prediction[0], (60, 1)), n_neighbors=8) == 0.0
    means = np.repeat(prediction.reshape(4, 15, 10).mean(axis=1), 15, axis=0)
    assert clustering_agreement(truth, means, n_neighbors=8) > 0.7


@pytest.mark.parametrize("seed", range(5))
def test_order_of_perturbations_and_genes_does_not_matter(groups, seed):
    rng = np.random.default_rng(seed)
    truth, prediction = groups
    vague, noisy = (effects + 4 * rng.normal(size=effects.shape) for effects in (truth, prediction))
    rows, genes = rng.permutation(60), rng.permutation(10)
    first = clustering_agreement(vague, noisy)
    assert first < 1.0
    assert clustering_agreement(vague[rows][:, genes], noisy[rows][:, genes]) == pytest.approx(first, abs=1e-12)


@pytest.mark.parametrize(
    ("rows", "options", "match"),
    [
        (2, {}, "at least three perturbations"),
        (60, {"resolutions": ()}, "resolutions: expected numbers > 0"),
        (60, {"resolutions": (1.0, 0.0)}, "resolutions: expected numbers > 0"),
        (60, {"truth_resolution": -1.0}, "resolutions: expected numbers > 0"),
        (60, {"n_neighbors": 0}, "n_neighbors: expected at least 1"),
        (60, {"truth_resolution": 1e-3, "n_neighbors": 59}, "truth: expected effects that form clusters, got 1"),
        (60, {"truth_resolution": 1e6}, "truth: expected effects that form clusters, got 60"),
    ],
)
def test_bad_input(groups, rows, options, match):
    truth, prediction = groups
    with pytest.raises(ValueError, match=match):
        clustering_agreement(truth[:rows], prediction[:rows], **options)
