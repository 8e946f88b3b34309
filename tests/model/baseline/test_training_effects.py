from __future__ import annotations

import numpy as np
import pytest
from scipy import sparse

from perturbia.errors import ControlError, SplitError
from perturbia.model.baseline._mixing import find_members, find_rows
from perturbia.model.baseline._training_effects import measure_effects
from perturbia.perturbation import dosage_labels, dosage_matrix
from perturbia.stats import effects_against, group_means

NAMES = ["A", "B"]


def make(labels: list[str], *, seed: int = 0, n_genes: int = 4) -> tuple[np.ndarray, sparse.csr_matrix]:
    rng = np.random.default_rng(seed)
    return rng.normal(size=(len(labels), n_genes)), dosage_matrix(labels, NAMES)


def test_one_batch_gives_welch() -> None:
    labels = ["control"] * 7 + ["A"] * 5 + ["A+B"] * 3 + ["B@0.5"] * 4
    features, dosage = make(labels)
    measured = measure_effects(features, dosage, np.zeros(len(labels), dtype=int), 1)
    oracle = effects_against(group_means(features, labels), reference="control")
    rows = [list(oracle.groups).index(label) for label in dosage_labels(measured.dosage, NAMES)]
    np.testing.assert_allclose(measured.effects, oracle.effects[rows], rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured.standard_errors, oracle.standard_errors[rows], rtol=1e-5)
    np.testing.assert_array_equal(
        measured.n_cells, [labels.count(label) for label in dosage_labels(measured.dosage, NAMES)]
    )


def test_batches_are_strata() -> None:
    rng = np.random.default_rng(1)
    labels = np.array(["control"] * 40 + ["A"] * 30)
    batch = np.concatenate([rng.integers(0, 2, 40), rng.random(30) < 0.8]).astype(int)
    features, dosage = make(list(labels))
    features += 10.0 * batch[:, None]
    measured = measure_effects(features, dosage, batch, 3)
    effect, variance = 0.0, 0.0
    for b in (0, 1):
        treated, control = features[(labels == "A") & (batch == b)], features[(labels == "control") & (batch == b)]
        share = len(treated) / 30
        effect = effect + share * (treated.mean(0) - control.mean(0))
        variance = variance + share**2 * (treated.var(0, ddof=1) / len(treated) + control.var(0, ddof=1) / len(control))
    np.testing.assert_allclose(measured.effects[0], effect, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(measured.standard_errors[0], np.sqrt(variance), rtol=1e-4)
    np.testing.assert_allclose(measured.control_weight.sum(1), 1, rtol=1e-6)
    assert np.abs(measured.effects).max() < 1.5  # and not the 10 between batches


def test_a_batch_without_controls_borrows_all_of_them() -> None:
    labels = ["control"] * 4 + ["control"] * 8 + ["A"] * 5
    features, dosage = make(labels)
    batch = np.array([0] * 4 + [1] * 8 + [2] * 5)
    measured = measure_effects(features, dosage, batch, 3)
    np.testing.assert_allclose(measured.effects[0], features[12:].mean(0) - features[:12].mean(0), rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(measured.control_weight, [[4 / 12, 8 / 12, 0]], rtol=1e-6)


def test_a_lone_cell_borrows_the_pooled_variance() -> None:
    labels = ["control"] * 6 + ["A"] * 5 + ["B"]
    features, dosage = make(labels)
    measured = measure_effects(features, dosage, np.zeros(12, dtype=int), 1)
    pooled = (5 * features[:6].var(0, ddof=1) + 4 * features[6:11].var(0, ddof=1)) / 9
    expected = np.sqrt(pooled + features[:6].var(0, ddof=1) / 6)
    np.testing.assert_allclose(measured.standard_errors[1], expected, rtol=1e-5)


def test_errors_of_sums_know_the_shared_control() -> None:
    """The spread of A + B over repeated experiments is what `combine` says."""
    labels = ["control"] * 5 + ["A"] * 10 + ["B"] * 10
    mix = sparse.csr_matrix([[1.0, 1.0], [1.0, -1.0]])
    sums, claims = [], []
    for seed in range(400):
        features, dosage = make(labels, seed=seed)
        value, error = measure_effects(features, dosage, np.zeros(25, dtype=int), 1).combine(mix)
        sums.append(value)
        claims.append(error**2)
    spread = np.var(sums, axis=0).mean(1)
    np.testing.assert_allclose(spread, [0.2 + 4 * 0.2, 0.2], rtol=0.15)
    np.testing.assert_allclose(np.mean(claims, axis=(0, 2)), spread, rtol=0.15)


def test_sparse_and_dense_agree() -> None:
    labels = ["control"] * 5 + ["A"] * 5
    features, dosage = make(labels)
    features = np.where(features > 0, features, 0)
    batch = np.array([0, 1] * 5)
    dense, csr = (measure_effects(x, dosage, batch, 2) for x in (features, sparse.csr_matrix(features)))
    np.testing.assert_allclose(dense.effects, csr.effects, rtol=1e-5, atol=1e-7)
    np.testing.assert_allclose(dense.standard_errors, csr.standard_errors, rtol=1e-4)


@pytest.mark.parametrize(
    ("labels", "error", "match"),
    [(["A", "B"], ControlError, "control cells"), (["control", "control"], SplitError, "perturbed cells")],
)
def test_both_sides_are_needed(labels: list[str], error: type, match: str) -> None:
    features, dosage = make(labels)
    with pytest.raises(error, match=match):
        measure_effects(features, dosage, np.zeros(2, dtype=int), 1)


def test_rows_and_members_are_found() -> None:
    table = dosage_matrix(["A", "A+B", "B@0.5"], NAMES)
    queries = dosage_matrix(["A+B", "B", "control", "A", "A+B@0.5"], NAMES)
    assert find_rows(queries, table).tolist() == [1, -1, -1, 0, -1]
    # A+B, B, A, A+B@0.5, member by member
    assert find_members(queries, table).tolist() == [0, -1, -1, 0, 0, 2]
