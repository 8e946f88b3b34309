"""Mass of couplings on true pairs."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp

from perturbia.metrics import coupling_trace
from perturbia.stats import Coupling


def by_hand(alignment) -> dict[str, list[float]]:
    """Conditional mass of each scored cell's partner, by group."""
    found: dict[str, list[float]] = {}
    for i, j in enumerate(alignment.pairs):
        if j >= 0 and alignment.plan[i].sum() > 0 and alignment.source_groups[i] == alignment.target_groups[j]:
            found.setdefault(alignment.source_groups[i], []).append(alignment.plan[i, j] / alignment.plan[i].sum())
    return found


def test_matches_a_loop_over_cells(alignment, held):
    scores = coupling_trace(held, alignment.pairs, **alignment.groups)
    expected = by_hand(alignment)
    for group, values in expected.items():
        assert scores.table.loc[group, "n_scored"] == len(values)
        assert scores.table.loc[group, "trace"] == pytest.approx(np.mean(values))
        n_target = (alignment.target_groups == group).sum()
        assert scores.table.loc[group, "fold"] == pytest.approx(n_target * np.mean(values))
    assert scores.table["trace"].notna().sum() == len(expected) == 3
    assert scores.macro["trace"] == pytest.approx(np.mean([np.mean(values) for values in expected.values()]))
    assert scores.micro["trace"] == pytest.approx(np.mean(np.concatenate(list(expected.values()))))
    assert scores.left_out.to_dict() == {"unpaired": 5, "partner_in_other_group": 0, "unmatched": 2}


def test_true_pairs_score_the_size_of_the_group():
    labels = np.repeat(["a", "b", "c"], [2, 5, 1])
    scores = coupling_trace(sp.identity(8), np.arange(8), source_groups=labels, target_groups=labels)
    assert scores.table["trace"].tolist() == [1.0, 1.0, 1.0]
    assert scores.table["fold"].tolist() == [2.0, 5.0, 1.0]
    assert scores.micro["fold"] == pytest.approx((2 * 2 + 5 * 5 + 1) / 8)


def test_the_uniform_plan_is_chance_exactly():
    labels, others = np.repeat(["a", "b"], [6, 11]), np.repeat(["a", "b"], [13, 7])
    plan = (labels[:, None] == others) / 3.0
    pairs = np.r_[np.arange(6), 13 + np.arange(7), [13, 14, 15, 16]]
    scores = coupling_trace(plan, pairs, source_groups=labels, target_groups=others)
    np.testing.assert_allclose(scores.table["fold"], 1.0, rtol=1e-14)
    np.testing.assert_allclose(scores.table["trace"], [1 / 13, 1 / 7], rtol=1e-14)
    assert scores.macro["fold"] == pytest.approx(1.0, rel=1e-14)


def test_random_matches_are_chance_on_average():
    rng = np.random.default_rng(0)
    folds = [
        coupling_trace(sp.identity(50).tocsr()[rng.permutation(50)], np.arange(50)).macro["fold"] for _ in range(200)
    ]
    assert abs(np.mean(folds) - 1.0) < 3 * np.std(folds, ddof=1) / np.sqrt(200)


def test_order_of_cells_does_not_matter(alignment):
    first = coupling_trace(alignment.plan, alignment.pairs, **alignment.groups)
    moved = alignment.shuffled(3)
    assert (moved.pairs != alignment.pairs).any()
    again = coupling_trace(moved.plan, moved.pairs, **moved.groups)
    np.testing.assert_allclose(again.table, first.table, atol=1e-14)


def test_partners_of_another_group_are_left_out_with_a_warning(alignment, held):
    pairs = alignment.pairs.copy()
    pairs[0] = 8
    with pytest.warns(RuntimeWarning, match="pairs: 1 true partners belong to another group"):
        scores = coupling_trace(held, pairs, **alignment.groups)
    assert scores.left_out.to_dict() == {"unpaired": 5, "partner_in_other_group": 1, "unmatched": 2}
    pairs[0] = -1
    expected = coupling_trace(held, pairs, **alignment.groups)
    np.testing.assert_array_equal(scores.table["trace"], expected.table["trace"])


def test_partners_outside_the_block_of_a_cell_have_no_mass(alignment):
    """Groups coarser than the blocks: a partner is a candidate that the tile of the cell does not hold."""
    pairs = alignment.pairs.copy()
    pairs[[0, 5, 6]] = 9, 3, 0
    everyone = {"source_groups": np.full(17, "all"), "target_groups": np.full(17, "all")}
    scores = coupling_trace(Coupling.from_matrix(alignment.plan, **alignment.groups), pairs, **everyone)
    expected = [alignment.weights[i, j] for i, j in enumerate(pairs) if j >= 0 and alignment.plan[i].any()]
    assert scores.macro["trace"] == pytest.approx(np.mean(expected))


def test_cells_outside_all_blocks_are_unmatched(alignment):
    """Without labels, a cell that no block holds has no group: that is neither an error nor another group."""
    coupling = Coupling.from_matrix(alignment.plan, **alignment.groups)
    pairs = alignment.pairs.copy()
    pairs[[14, 15]] = 13, 5  # source cells of a group that one side lacks, with partners in such a group and in a block
    scores = coupling_trace(coupling, pairs)
    assert scores.left_out.to_dict() == {"unpaired": 3, "partner_in_other_group": 0, "unmatched": 4}
    assert scores.table.loc["b", "trace"] == pytest.approx(np.mean(by_hand(alignment)["b"]))


@pytest.mark.parametrize(
    ("pairs", "match"),
    [
        ([0, 1], r"pairs: expected .* shape \(3,\), got dtype int64 and shape \(2,\)"),
        ([0.0, 1.0, 2.0], "pairs: .*got dtype float64"),
        ([0.0, np.nan, 2.0], "pairs: .*got dtype float64"),
        ([[0, 1, 2]], "pairs: expected"),
        ([0, 1, 3], "pairs: expected -1 .none. or positions below 3.*got 0 to 3"),
        ([0, 1, -2], "pairs: expected -1"),
        ([True, False, True], "pairs: .*got dtype bool"),
        ([-1, -1, -1], "expected cells to score, got none of 3 .3 unpaired"),
    ],
)
def test_bad_pairs(pairs, match):
    with pytest.raises(ValueError, match=match):
        coupling_trace(np.eye(3), pairs)


def test_no_mass_for_any_paired_cell_is_an_error():
    with pytest.raises(ValueError, match="1 unpaired, 0 partner_in_other_group, 2 unmatched"):
        coupling_trace(np.diag([1.0, 0.0, 0.0]), [-1, 1, 2])


def test_inputs_are_left_alone(alignment):
    plan, pairs = alignment.plan.copy(), alignment.pairs.copy()
    sparse = sp.csr_array(plan)
    for array in (plan, pairs, sparse.data, sparse.indices):
        array.setflags(write=False)
    first = coupling_trace(plan, pairs, **alignment.groups)
    assert coupling_trace(sparse, pairs, **alignment.groups).macro.equals(first.macro)
