from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax, softmax

from perturbia.stats import propensity_scores
from perturbia.stats.log_ratios import cross_entropy, fit_temperature

KINDS = ("log_ratio", "clr", "probs", "sqrt_probs")


def gaussians(n: int = 40, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """Log-densities of points under five Gaussians of unit variance, and unequal class frequencies."""
    rng = np.random.default_rng(seed)
    means = rng.normal(size=(5, 2))
    x = means[rng.integers(5, size=n)] + rng.normal(size=(n, 2))
    return -0.5 * ((x[:, None] - means) ** 2).sum(-1), np.array([400, 10, 90, 200, 300])


def centred(values: np.ndarray) -> np.ndarray:
    return values - values.mean(1, keepdims=True)


def test_log_ratios_of_gaussians_whatever_the_frequencies():
    """Bayes: logits of a perfect classifier are log-densities plus log-frequencies, up to a constant of each cell."""
    log_density, counts = gaussians()
    gauge = np.random.default_rng(1).normal(0, 3, (40, 1))
    logits = log_density + np.log(counts) + gauge
    scores = propensity_scores(logits, class_counts=counts, floor=1e-30)
    # half a cell is added to every count
    bias = centred(np.log(counts / (counts + 0.5))[None])
    np.testing.assert_allclose(scores - bias, centred(log_density), atol=1e-10)
    np.testing.assert_allclose(scores.sum(1), 0, atol=1e-10)


@pytest.mark.parametrize("kind", KINDS)
def test_no_score_but_raw_logits_sees_a_constant_of_each_cell(kind):
    logits = np.random.default_rng(0).normal(0, 2, (30, 6))
    moved = logits + np.random.default_rng(1).normal(0, 50, (30, 1))
    np.testing.assert_allclose(
        propensity_scores(moved, kind=kind, class_counts=np.arange(1, 7)),
        propensity_scores(logits, kind=kind, class_counts=np.arange(1, 7)),
        atol=1e-9,
    )
    assert not np.allclose(propensity_scores(moved, kind="logits"), propensity_scores(logits, kind="logits"))


def test_kinds_are_their_formulas():
    logits = np.random.default_rng(0).normal(0, 1, (20, 4))
    np.testing.assert_allclose(propensity_scores(logits, kind="probs", temperature=2), softmax(logits / 2, axis=1))
    np.testing.assert_allclose(propensity_scores(logits, kind="sqrt_probs"), np.sqrt(softmax(logits, axis=1)))
    np.testing.assert_allclose(propensity_scores(logits, kind="clr"), centred(log_softmax(logits, axis=1)), atol=1e-12)
    np.testing.assert_array_equal(propensity_scores(logits, kind="logits", temperature=9.0), logits)
    equal = propensity_scores(logits, class_counts=np.full(4, 7))
    np.testing.assert_allclose(equal, propensity_scores(logits), atol=1e-12)
    np.testing.assert_allclose(equal, propensity_scores(logits, kind="clr"), atol=1e-12)


def test_the_floor_bounds_scores_and_a_class_without_cells_is_no_infinity():
    logits = np.array([[0.0, -300.0, -700.0], [800.0, 0.0, 0.0]])
    scores = propensity_scores(logits, floor=1e-6)
    np.testing.assert_allclose(np.ptp(scores, axis=1), np.log(1e6))
    np.testing.assert_allclose(scores[0, 1], scores[0, 2])
    assert np.isfinite(propensity_scores(logits, class_counts=np.array([5, 5, 0]))).all()


@given(st.integers(0, 1000), st.integers(2, 8))
def test_order_of_cells_and_classes_is_kept(seed, n_classes):
    rng = np.random.default_rng(seed)
    logits, counts = rng.normal(0, 3, (10, n_classes)), rng.integers(1, 99, n_classes)
    rows, columns = rng.permutation(10), rng.permutation(n_classes)
    scores = propensity_scores(logits, class_counts=counts)
    moved = propensity_scores(logits[rows][:, columns], class_counts=counts[columns])
    np.testing.assert_allclose(moved, scores[rows][:, columns], atol=1e-10)


def test_cross_entropy_by_hand():
    logits = np.log([[0.5, 0.25, 0.25], [0.1, 0.1, 0.8]]) + [[3.0], [-4.0]]
    assert cross_entropy(logits, np.array([1, 2])) == pytest.approx(-(np.log(0.25) + np.log(0.8)) / 2)


@pytest.mark.parametrize("true", [0.5, 1.0, 3.0])
def test_temperature_is_found_again(true):
    rng = np.random.default_rng(0)
    logits = rng.normal(0, 2, (8000, 4))
    codes = (softmax(logits, axis=1).cumsum(1) < rng.random((8000, 1))).sum(1)
    assert fit_temperature(true * logits, codes) == pytest.approx(true, rel=0.07)


def test_temperature_stays_in_its_bounds():
    right, wrong = np.eye(3) * 5, -np.eye(3) * 5
    assert fit_temperature(right, np.arange(3)) == pytest.approx(0.2, rel=0.01)  # always right: ever more extreme
    assert fit_temperature(wrong, np.arange(3)) == pytest.approx(5.0, rel=0.01)


GOOD = np.zeros((3, 2))


@pytest.mark.parametrize(
    ("logits", "options", "message"),
    [
        (np.array([[np.nan, 0.0]]), {}, "logits: expected finite"),
        (np.array([[np.inf, 0.0]]), {}, "logits: expected finite"),
        (np.zeros(3), {}, "logits: expected a two-dimensional"),
        (GOOD, {"kind": "softmax"}, "kind: expected one of"),
        (GOOD, {"temperature": 0.0}, "temperature, floor"),
        (GOOD, {"temperature": np.nan}, "temperature, floor"),
        (GOOD, {"floor": 0.0}, "temperature, floor"),
        (GOOD, {"floor": 1.0}, "temperature, floor"),
        (GOOD, {"class_counts": np.ones(3)}, "class_counts: expected"),
        (GOOD, {"class_counts": np.array([-1, 2])}, "class_counts: expected"),
        (GOOD, {"class_counts": np.array([np.nan, 2])}, "class_counts: expected"),
    ],
)
def test_bad_input(logits, options, message):
    with pytest.raises(ValueError, match=message):
        propensity_scores(logits, **options)
