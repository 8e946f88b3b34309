"""Agreement of labels of matched cells."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
from sklearn.metrics import accuracy_score, cohen_kappa_score, f1_score

from perturbia.metrics import matched_label_accuracy

NAMES = ["expected_agreement", "accuracy", "macro_f1", "relative_matching"]


def votes(weights, target_labels) -> np.ndarray:
    """Label of most mass of each row, in a loop."""
    labels = np.unique(target_labels)
    return labels[np.argmax([[row[target_labels == label].sum() for label in labels] for row in weights], axis=1)]


def test_matches_loops_and_sklearn(alignment, held):
    scores = matched_label_accuracy(held, alignment.source_labels, alignment.target_labels, **alignment.groups)
    matched = alignment.plan.sum(axis=1) > 0
    assert scores.names == NAMES
    for group in ("a", "b"):
        cells = matched & (alignment.source_groups == group)
        weights, true = alignment.weights[cells], alignment.source_labels[cells]
        agreement = [row[alignment.target_labels == label].sum() for row, label in zip(weights, true, strict=True)]
        predicted = votes(weights, alignment.target_labels)
        row = scores.table.loc[group]
        assert row["n_scored"] == cells.sum()
        assert row["expected_agreement"] == pytest.approx(np.mean(agreement))
        assert row["accuracy"] == pytest.approx(accuracy_score(true, predicted))
        assert row["macro_f1"] == pytest.approx(f1_score(true, predicted, average="macro"))
        confusion = pd.DataFrame(weights).T.groupby(alignment.target_labels).sum().T.groupby(true).sum() / cells.sum()
        confusion = confusion.reindex(index=["B", "NK", "T"], columns=["B", "NK", "T"], fill_value=0.0)
        rows, columns = confusion.sum(axis=1), confusion.sum(axis=0)
        chance = (rows * columns).sum()
        best = np.minimum(rows, columns).sum()
        assert row["relative_matching"] == pytest.approx((np.trace(confusion) - chance) / (best - chance))
    assert scores.left_out.to_dict() == {"unmatched": 4}
    assert scores.table.loc[["only_source", "only_target"], NAMES].isna().all(axis=None)


def test_relative_matching_is_kappa_over_its_maximum():
    rng = np.random.default_rng(0)
    labels, others = rng.integers(3, size=(2, 200))
    others = np.where(rng.random(200) < 0.4, labels, others)
    scores = matched_label_accuracy(sp.identity(200), labels, others).macro
    margins = np.array([np.bincount(values) / 200 for values in (labels, others)])
    highest = (np.minimum(*margins).sum() - np.prod(margins, axis=0).sum()) / (1 - np.prod(margins, axis=0).sum())
    assert 0.2 < scores["relative_matching"] < 0.9
    assert scores["relative_matching"] == pytest.approx(cohen_kappa_score(labels, others) / highest)


def test_no_balanced_plan_beats_the_margins():
    """The most agreement that margins allow is that of the best of all plans, found as a transport problem."""
    import ot

    rng = np.random.default_rng(1)
    labels, others = rng.choice(3, size=12, p=[0.6, 0.3, 0.1]), rng.choice(3, size=9, p=[0.2, 0.3, 0.5])
    plan = ot.emd([], [], (labels[:, None] != others).astype(float))
    scores = matched_label_accuracy(plan, labels, others).macro
    assert scores["relative_matching"] == pytest.approx(1.0)
    assert scores["expected_agreement"] < 0.9


def test_true_pairs_score_one():
    labels = np.repeat(["T", "B"], [3, 5])
    assert matched_label_accuracy(np.eye(8), labels, labels).macro.to_dict() == pytest.approx(dict.fromkeys(NAMES, 1.0))


@pytest.mark.parametrize("labels", [["T", "B", "B", "NK"], [3, 1, 1, 2], pd.Categorical(["T", "B", "B", "NK"])])
def test_the_uniform_plan_is_chance(labels):
    scores = matched_label_accuracy(np.ones((4, 4)), labels, labels).macro
    assert scores["relative_matching"] == pytest.approx(0.0, abs=1e-14)
    assert scores["expected_agreement"] == pytest.approx((1 + 4 + 1) / 16)
    assert scores["accuracy"] == 0.5


def test_random_plans_are_chance_on_average():
    rng = np.random.default_rng(2)
    labels = rng.integers(3, size=60)
    plan = sp.identity(60, format="csr")
    values = [
        matched_label_accuracy(plan[rng.permutation(60)], labels, labels).macro["relative_matching"] for _ in range(80)
    ]
    assert abs(np.mean(values)) < 3 * np.std(values, ddof=1) / np.sqrt(80)


def test_labels_of_equal_mass_share_the_vote():
    """Neither the order of labels nor that of cells breaks a tie."""
    plan = np.array([[0.5, 0.5, 0.0], [0.1, 0.1, 0.2]])
    scores = matched_label_accuracy(plan, ["x", "z"], ["x", "y", "z"]).macro
    assert scores["accuracy"] == pytest.approx((0.5 + 1.0) / 2)
    # Votes: half an x and half a y for a true x; all z for a true z.
    assert scores["macro_f1"] == pytest.approx((2 * 0.5 / 1.5 + 0.0 + 1.0) / 3)
    renamed = matched_label_accuracy(plan, ["b", "z"], ["b", "a", "z"]).macro
    assert renamed.equals(scores)


def test_a_plan_that_sends_everyone_to_one_cell_is_no_better_than_chance():
    plan = np.zeros((4, 4))
    plan[:, 0] = 1.0
    scores = matched_label_accuracy(plan, ["T", "T", "T", "B"], ["T", "T", "T", "B"]).macro
    assert scores["accuracy"] == 0.75
    assert scores["relative_matching"] == 0.0


@pytest.mark.parametrize(
    ("source", "target"),
    [(["T", "T"], ["T", "B"]), (["T", "B"], ["T", "T"]), (["T", "T"], ["T", "T"]), (["T", "B"], ["x", "y"])],
)
def test_labels_that_leave_no_room_have_no_relative_matching(source, target):
    scores = matched_label_accuracy(np.ones((2, 2)), source, target)
    assert np.isnan(scores.macro["relative_matching"])
    assert np.isnan(scores.micro["relative_matching"])
    assert scores.macro["accuracy"] >= 0.0


def test_groups_without_room_do_not_count():
    groups = ["a", "a", "b", "b"]
    scores = matched_label_accuracy(
        np.eye(4), ["T", "B", "T", "T"], ["T", "B", "T", "T"], source_groups=groups, target_groups=groups
    )
    assert scores.table["relative_matching"].isna().tolist() == [False, True]
    assert scores.macro["relative_matching"] == scores.micro["relative_matching"] == 1.0


def test_order_of_cells_does_not_matter(alignment):
    moved = alignment.shuffled(4)
    first = matched_label_accuracy(alignment.plan, alignment.source_labels, alignment.target_labels, **alignment.groups)
    again = matched_label_accuracy(moved.plan, moved.source_labels, moved.target_labels, **moved.groups)
    np.testing.assert_allclose(again.table, first.table, atol=1e-14)


@pytest.mark.parametrize(
    ("source", "target", "match"),
    [
        (["T"], ["T", "B"], r"source_labels: expected one label a row, shape \(2,\), got shape \(1,\)"),
        (["T", "B"], ["T"], "target_labels: expected one label a row"),
        (["T", None], ["T", "B"], "source_labels: expected a label for every row, got 1 missing"),
        ([1.0, 2.0], [1.0, np.nan], "target_labels: expected a label for every row, got 1 missing"),
    ],
)
def test_bad_labels(source, target, match):
    with pytest.raises(ValueError, match=match):
        matched_label_accuracy(np.eye(2), source, target)
