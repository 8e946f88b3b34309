from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import effect_correlation, reference_correlation, top_gene_correlation


@pytest.fixture
def screen():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=50)
    train, truth = (shared + 0.5 * rng.normal(size=(n, 50)) for n in (30, 8))
    return truth, shared + 0.5 * rng.normal(size=(8, 50)), train.mean(axis=0)


def test_is_the_correlation_of_what_is_left(screen):
    truth, prediction, reference = screen
    expected = [np.corrcoef(a - reference, b - reference)[0, 1] for a, b in zip(truth, prediction, strict=True)]
    ours = reference_correlation(truth, prediction, reference=reference, per_perturbation=True)
    np.testing.assert_allclose(ours, expected, atol=1e-12)
    flat = np.corrcoef((truth - reference).ravel(), (prediction - reference).ravel())[0, 1]
    assert reference_correlation(truth, prediction, reference=reference) == pytest.approx(flat, abs=1e-12)


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize("per_perturbation", [False, True])
def test_mean_baseline_has_nothing_left(screen, dtype, per_perturbation):
    truth, _, reference = screen
    baseline = np.tile(reference, (len(truth), 1))
    assert effect_correlation(truth, baseline) > 0.7
    shifted = ((baseline + 3.0) - 3.0).astype(dtype)  # rounding of a mean that went through other numbers
    scores = reference_correlation(truth, shifted, reference=reference, per_perturbation=per_perturbation)
    np.testing.assert_array_equal(scores, 0.0)


def test_does_not_depend_on_the_control(screen):
    truth, prediction, reference = screen
    control = np.random.default_rng(1).normal(size=50)
    means = reference_correlation(truth + control, prediction + control, reference=reference + control)
    assert means == pytest.approx(reference_correlation(truth, prediction, reference=reference), abs=1e-12)


def test_one_reference_a_row(screen):
    truth, prediction, reference = screen
    rows = np.vstack([np.tile(reference, (4, 1)), np.tile(2 * reference, (4, 1))])
    ours = reference_correlation(truth, prediction, reference=rows, per_perturbation=True)
    halves = [
        reference_correlation(truth[at], prediction[at], reference=reference * k, per_perturbation=True)
        for at, k in ((slice(0, 4), 1), (slice(4, 8), 2))
    ]
    np.testing.assert_allclose(ours, np.concatenate(halves))


def test_selection_chooses_genes(screen):
    truth, prediction, reference = screen
    selection = np.random.default_rng(2).normal(size=truth.shape)
    ours = reference_correlation(truth, prediction, reference=reference, selection=selection, k=5)
    expected = top_gene_correlation(truth - reference, prediction - reference, selection=selection, k=5)
    assert ours == pytest.approx(expected, abs=1e-12)
    by_default = reference_correlation(truth, prediction, reference=reference, selection=selection)
    assert by_default == reference_correlation(truth, prediction, reference=reference, selection=selection, k=20)


def test_truth_at_the_reference_is_nan_with_warning(screen):
    truth, prediction, reference = screen
    truth[2] = reference
    with pytest.warns(RuntimeWarning, match="constant for 1 perturbations"):
        scores = reference_correlation(truth, prediction, reference=reference, per_perturbation=True)
    np.testing.assert_array_equal(np.isnan(scores), np.arange(8) == 2)


T = np.random.default_rng(3).normal(size=(3, 4))


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"reference": T[:, 0]}, "reference: expected one value a gene"),
        ({"reference": T[:2]}, "reference: expected one value a gene"),
        ({"reference": T[0] * np.nan}, "reference: expected finite"),
        ({"reference": T}, "truth: expected effects that vary"),
        ({"reference": T[0] + 1, "k": 2}, "k: expected None without selection"),
        ({"reference": T[0] + 1, "selection": T, "k": 5}, "k: expected 1 to 4"),
        ({"reference": T[0] + 1, "selection": T[:2], "k": 2}, "selection: expected the shape of truth"),
    ],
)
def test_bad_options(options, match):
    with pytest.raises(ValueError, match=match):
        reference_correlation(T, T[::-1], **options)
