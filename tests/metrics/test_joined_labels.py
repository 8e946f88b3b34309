"""Mass of pairs of labels."""

from __future__ import annotations

import numpy as np
import pytest

from perturbia.metrics import label_confusion, matched_label_accuracy


def by_hand(one, weights) -> np.ndarray:
    """Mass of pairs of labels in a loop over pairs of cells."""
    labels = ["B", "NK", "T"]
    mass = np.zeros((3, 3))
    matched = np.flatnonzero(one.plan.sum(axis=1) > 0)
    for i in matched:
        for j in range(weights.shape[1]):
            mass[labels.index(one.source_labels[i]), labels.index(one.target_labels[j])] += weights[i, j] / len(matched)
    return mass


def test_matches_loops(alignment, held):
    confusion = label_confusion(held, alignment.source_labels, alignment.target_labels, **alignment.groups)
    for found, weights in (
        (confusion.mass, alignment.weights),
        (confusion.even, even_plan(alignment)),
    ):
        expected = by_hand(alignment, weights)
        whole = found.reindex(index=["B", "NK", "T"], columns=["B", "NK", "T"], fill_value=0.0)
        np.testing.assert_allclose(whole, expected, atol=1e-12)
        assert found.to_numpy().sum() == pytest.approx(1)
    assert confusion.agreement == pytest.approx(np.trace(by_hand(alignment, alignment.weights)))
    assert confusion.even_agreement == pytest.approx(np.trace(by_hand(alignment, even_plan(alignment))))


def even_plan(one) -> np.ndarray:
    same = one.source_groups[:, None] == one.target_groups
    return same / np.maximum(same.sum(axis=1, keepdims=True), 1)


def test_its_diagonal_is_the_expected_agreement_and_its_rows_the_labels(alignment):
    confusion = label_confusion(alignment.plan, alignment.source_labels, alignment.target_labels, **alignment.groups)
    scores = matched_label_accuracy(
        alignment.plan, alignment.source_labels, alignment.target_labels, **alignment.groups
    )
    assert confusion.agreement == pytest.approx(scores.micro["expected_agreement"])
    np.testing.assert_allclose(confusion.mass.sum(axis=1), confusion.even.sum(axis=1))


def test_labels_that_follow_from_groups_agree_without_a_choice():
    groups = np.repeat(["a", "b"], 3)
    plan = np.kron(np.eye(2), np.eye(3)[[2, 0, 1]])
    confusion = label_confusion(plan, groups, groups, source_groups=groups, target_groups=groups)
    assert confusion.agreement == confusion.even_agreement == pytest.approx(1)
    whole = label_confusion(plan, groups, groups)
    assert (whole.agreement, whole.even_agreement) == pytest.approx((1.0, 0.5))


def test_sides_may_have_labels_of_their_own():
    confusion = label_confusion(np.eye(2), ["b", "a"], ["c", "a"])
    assert confusion.mass.index.tolist() == ["a", "b"]
    assert confusion.mass.columns.tolist() == ["a", "c"]
    np.testing.assert_allclose(confusion.mass, [[0.5, 0.0], [0.0, 0.5]])
    assert confusion.agreement == 0.5


@pytest.mark.parametrize(
    ("plan", "labels", "match"),
    [
        (np.zeros((2, 2)), ["a", "b"], "coupling: expected mass"),
        (np.eye(2), ["a"], "source_labels: expected one label a row"),
        (np.eye(2), ["a", None], "source_labels: expected a label for every row, got 1 missing"),
    ],
)
def test_bad_input(plan, labels, match):
    with pytest.raises(ValueError, match=match):
        label_confusion(plan, labels, ["a", "b"])
