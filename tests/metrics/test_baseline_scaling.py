from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import scale_to_baseline


def test_is_the_two_formulas_of_the_leaderboard():
    score, baseline = np.random.default_rng(0).uniform(0.05, 0.95, size=(2, 50))
    np.testing.assert_allclose(scale_to_baseline(score, baseline=baseline), (score - baseline) / (1 - baseline))
    np.testing.assert_allclose(scale_to_baseline(score, baseline=baseline, best=0.0), 1 - score / baseline)


def test_baseline_is_zero_best_is_one_and_a_ceiling_can_be_passed():
    assert scale_to_baseline(0.3, baseline=0.3) == 0.0
    assert scale_to_baseline(0.9, baseline=0.3, best=0.9) == 1.0
    assert scale_to_baseline(0.0, baseline=2.0, best=0.0) == 1.0
    np.testing.assert_allclose(scale_to_baseline([0.5, 0.7], baseline=0.3, best=0.5), [1.0, 2.0])


def test_the_clip_hides_any_bad_error():
    assert scale_to_baseline([1.0, 100.0], baseline=0.5, best=0.0).tolist() == [-1.0, -199.0]
    assert scale_to_baseline([1.0, 100.0], baseline=0.5, best=0.0, clip=True).tolist() == [0.0, 0.0]


def test_a_perfect_baseline_leaves_no_scale():
    with pytest.warns(RuntimeWarning, match="1 of 2 baselines equal the best value"):
        scaled = scale_to_baseline([0.5, 0.5], baseline=[1.0, 0.0])
    np.testing.assert_array_equal(scaled, [np.nan, 0.5])


@pytest.mark.parametrize(
    ("score", "options", "match"),
    [
        (np.nan, {"baseline": 0.5}, "score: expected finite numbers"),
        (0.5, {"baseline": np.inf}, "baseline: expected finite numbers"),
        (0.5, {"baseline": 0.5, "best": None}, "best: expected finite numbers"),
        ([0.5, 0.4], {"baseline": [0.1, 0.2, 0.3]}, "score: expected shapes that broadcast"),
    ],
)
def test_bad_input(score, options, match):
    with pytest.raises(ValueError, match=match):
        scale_to_baseline(score, **options)
