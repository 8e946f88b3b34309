"""Fractions of cells closer than the true match."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from perturbia.metrics import _nearest_rows, foscttm, projected_foscttm, soft_foscttm

CONVENTIONS = ["strict", "midrank", "scot", "glue"]


def scglue(x, y) -> np.ndarray:
    """The mean over all cells of "closer than the true match", as scglue has it, by its definition."""
    distance = cdist(x, y)
    true = np.diag(distance)
    return np.array([(distance < true[:, None]).mean(axis=1), (distance < true).mean(axis=0)])


def scot(x, y) -> np.ndarray:
    """Position of the true distance in the sorted list of all, over n - 1, as SCOT has it."""
    distance = cdist(x, y)
    ranks = [[sorted(row.tolist()).index(row[i]) for i, row in enumerate(d)] for d in (distance, distance.T)]
    return np.array(ranks) / (len(x) - 1)


def midrank(x, y) -> np.ndarray:
    distance = cdist(x, y).round(9)
    parts = []
    for d in (distance, distance.T):
        true = np.diag(d)[:, None]
        parts.append(((d < true).sum(axis=1) + ((d == true).sum(axis=1) - 1) / 2) / (len(x) - 1))
    return np.array(parts)


BY_HAND = {"strict": scot, "scot": scot, "glue": scglue, "midrank": midrank}


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("ties", [False, True])
def test_conventions_match_their_definitions(convention, ties):
    rng = np.random.default_rng(0)
    x = rng.integers(3, size=(30, 2)).astype(float) if ties else rng.normal(size=(30, 2))
    y = x + (rng.integers(-1, 2, size=x.shape) if ties else 0.3 * rng.normal(size=x.shape))
    by_cell = BY_HAND[convention](x, y)
    scores = foscttm(x, y, convention=convention).macro
    assert scores["foscttm_source"] == pytest.approx(by_cell[0].mean(), abs=1e-14)
    assert scores["foscttm_target"] == pytest.approx(by_cell[1].mean(), abs=1e-14)
    assert scores["foscttm"] == pytest.approx(by_cell.mean(), abs=1e-14)
    assert (by_cell.mean(axis=1) > 0.01).all()
    if ties:
        assert foscttm(x, y, convention="midrank").macro["foscttm"] > foscttm(x, y).macro["foscttm"] + 0.01


def test_glue_divides_by_one_more():
    x, y = np.random.default_rng(1).normal(size=(2, 12, 3))
    assert foscttm(x, y, convention="glue").macro["foscttm"] == pytest.approx(foscttm(x, y).macro["foscttm"] * 11 / 12)


def test_true_pairs_score_zero_and_random_ones_one_half():
    rng = np.random.default_rng(2)
    x = rng.normal(size=(40, 3))
    assert foscttm(x, x).macro.tolist() == [0.0, 0.0, 0.0]
    values = [foscttm(x, x[rng.permutation(40)]).macro["foscttm"] for _ in range(100)]
    # A cell that draws itself scores 0, on average one of 40, so that the level is 1/2 over all cells.
    assert abs(np.mean(values) - 0.5) < 3 * np.std(values, ddof=1) / 10
    assert np.std(values) < 0.1


@pytest.mark.parametrize(("convention", "level"), [("strict", 0.0), ("scot", 0.0), ("glue", 0.0), ("midrank", 0.5)])
def test_collapse_is_seen_by_midranks_only(convention, level):
    assert foscttm(np.full((7, 2), 0.1), np.full((7, 2), 0.1), convention=convention).macro["foscttm"] == level


def test_cells_compete_within_groups_whether_they_have_a_partner_or_not(alignment):
    scores = foscttm(alignment.x_source, alignment.x_target, pairs=alignment.pairs, **alignment.groups)
    expected: dict[str, list[float]] = {}
    for i, j in enumerate(alignment.pairs):
        group = alignment.source_groups[i]
        rows, columns = alignment.source_groups == group, alignment.target_groups == group
        if j < 0 or rows.sum() < 2:
            continue
        true = np.linalg.norm(alignment.x_source[i] - alignment.x_target[j])
        ahead = (np.linalg.norm(alignment.x_source[i] - alignment.x_target[columns], axis=1) < true - 1e-12).sum()
        behind = (np.linalg.norm(alignment.x_source[rows] - alignment.x_target[j], axis=1) < true - 1e-12).sum()
        expected.setdefault(group, []).append((ahead / (columns.sum() - 1) + behind / (rows.sum() - 1)) / 2)
    assert sorted(expected) == ["a", "b"]
    for group, values in expected.items():
        assert scores.table.loc[group, "foscttm"] == pytest.approx(np.mean(values))
    assert scores.table["foscttm"].notna().sum() == 2
    assert scores.left_out.to_dict() == {"unpaired": 5, "partner_in_other_group": 0, "alone": 1, "unmatched": 0}


def test_blocks_do_not_matter(alignment, monkeypatch):
    arguments = (alignment.x_source, alignment.x_target)
    first = foscttm(*arguments, pairs=alignment.pairs, **alignment.groups)
    monkeypatch.setattr(_nearest_rows, "_BLOCK", 3)
    assert foscttm(*arguments, pairs=alignment.pairs, **alignment.groups).table.equals(first.table)


@pytest.mark.parametrize("by_pairs", [False, True])
@pytest.mark.parametrize("score", [projected_foscttm, soft_foscttm])
def test_order_of_cells_does_not_matter(alignment, score, by_pairs):
    def of(one):
        known = (None, one.x_target) if by_pairs else (one.x_source, one.x_target)
        return score(one.plan, *known, pairs=one.pairs if by_pairs else None, **one.groups)

    np.testing.assert_allclose(of(alignment.shuffled(2)).table, of(alignment).table, atol=1e-14)


def test_order_of_cells_does_not_matter_to_embeddings(alignment):
    moved = alignment.shuffled(2)
    first = foscttm(alignment.x_source, alignment.x_target, pairs=alignment.pairs, **alignment.groups)
    again = foscttm(moved.x_source, moved.x_target, pairs=moved.pairs, **moved.groups)
    np.testing.assert_allclose(again.table, first.table, atol=1e-14)


def test_a_common_offset_does_not_matter():
    x, y = np.random.default_rng(3).normal(size=(2, 30, 2))
    assert foscttm(x + 1e6, y + 1e6).table.equals(foscttm(x, y).table)


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_projection_with_a_common_space_is_foscttm_of_projected_cells(alignment, held, convention):
    scores = projected_foscttm(held, alignment.x_source, alignment.x_target, convention=convention, **alignment.groups)
    projected = alignment.weights @ alignment.x_target
    # Cells without mass have no projection, but their features remain candidates.
    present = np.flatnonzero(alignment.plan.sum(axis=1) > 0)
    expected = foscttm(
        projected[present],
        alignment.x_source,
        pairs=present,
        source_groups=alignment.source_groups[present],
        target_groups=alignment.source_groups,
        convention=convention,
    )
    for group in ("a", "b"):
        np.testing.assert_allclose(scores.table.loc[group, scores.names], expected.table.loc[group, expected.names])
    assert scores.left_out.to_dict() == {"alone": 1, "unmatched": 4}


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_projection_with_pairs_is_foscttm_among_targets(alignment, held, convention):
    options = {"pairs": alignment.pairs, "convention": convention}
    scores = projected_foscttm(held, None, alignment.x_target, **options, **alignment.groups)
    present = np.flatnonzero(alignment.plan.sum(axis=1) > 0)
    expected = foscttm(
        (alignment.weights @ alignment.x_target)[present],
        alignment.x_target,
        pairs=alignment.pairs[present],
        source_groups=alignment.source_groups[present],
        target_groups=alignment.target_groups,
        convention=convention,
    )
    for group in ("a", "b"):
        np.testing.assert_allclose(scores.table.loc[group, scores.names], expected.table.loc[group, expected.names])
    assert scores.left_out.to_dict() == {"unpaired": 5, "partner_in_other_group": 0, "alone": 1, "unmatched": 2}


def ungrouped(score, plan, z, *, by_pairs, **options):
    n = len(z)
    return score(plan, None if by_pairs else z, z, pairs=np.arange(n) if by_pairs else None, **options).macro.iloc[0]


@pytest.mark.parametrize("by_pairs", [False, True])
@pytest.mark.parametrize("score", [projected_foscttm, soft_foscttm])
def test_levels_of_plans(score, by_pairs):
    rng = np.random.default_rng(4)
    z = rng.normal(size=(40, 3))
    assert ungrouped(score, sp.identity(40), z, by_pairs=by_pairs) == 0.0
    assert ungrouped(score, np.ones((40, 40)), z, by_pairs=by_pairs) == pytest.approx(0.5, abs=1e-12)
    random = [
        ungrouped(score, sp.identity(40, format="csr")[rng.permutation(40)], z, by_pairs=by_pairs) for _ in range(60)
    ]
    assert abs(np.mean(random) - 0.5) < 3 * np.std(random, ddof=1) / np.sqrt(60)


def test_strict_ties_flatter_the_uniform_plan():
    """Its predictions are all equal: those who ask for the nearest one get none that is closer."""
    z = np.random.default_rng(5).normal(size=(30, 2))
    scores = projected_foscttm(np.ones((30, 30)), z, z, convention="strict").macro
    assert scores["foscttm_target"] == 0.0
    assert scores["foscttm"] == pytest.approx(0.25)


@pytest.mark.parametrize("by_pairs", [False, True])
def test_soft_score_matches_its_formula(alignment, held, by_pairs):
    known = (None, alignment.x_target) if by_pairs else (alignment.x_source, alignment.x_target)
    scores = soft_foscttm(held, *known, pairs=alignment.pairs if by_pairs else None, **alignment.groups)
    truth = alignment.x_target[alignment.pairs] if by_pairs else alignment.x_source
    expected: dict[str, list[float]] = {}
    for i, weights in enumerate(alignment.weights):
        candidates = np.flatnonzero(alignment.target_groups == alignment.source_groups[i])
        if np.isnan(weights).any() or len(candidates) < 2 or (by_pairs and alignment.pairs[i] < 0):
            continue
        distance = np.linalg.norm(truth[i] - alignment.x_target, axis=1)
        total = sum(weights[j] * (distance[candidates] < distance[j]).mean() for j in candidates)
        expected.setdefault(alignment.source_groups[i], []).append(total * len(candidates) / (len(candidates) - 1))
    for group, values in expected.items():
        assert scores.table.loc[group, "soft_foscttm"] == pytest.approx(np.mean(values))
        assert scores.table.loc[group, "n_scored"] == len(values)
    assert scores.table["soft_foscttm"].notna().sum() == len(expected) == 2
    assert scores.left_out.to_dict() == (
        {"unpaired": 5, "partner_in_other_group": 0, "alone": 1, "unmatched": 2}
        if by_pairs
        else {"alone": 1, "unmatched": 4}
    )


def test_soft_score_of_twins():
    """Two equal cells share ranks 0 and 1, wherever the mass is; the uniform plan stays at one half."""
    x = np.array([[0.1], [0.1], [0.7], [0.9]])
    identity = soft_foscttm(np.eye(4), None, x, pairs=np.arange(4))
    swapped = soft_foscttm(np.eye(4)[[1, 0, 2, 3]], None, x, pairs=np.arange(4))
    assert identity.macro.equals(swapped.macro)
    assert identity.macro["soft_foscttm"] == pytest.approx((2 * 0.5 / 3) / 4)
    assert soft_foscttm(np.ones((4, 4)), None, x, pairs=np.arange(4)).macro["soft_foscttm"] == pytest.approx(0.5)


def test_soft_score_falls_with_distance_of_the_misses():
    z = np.linspace(0, 1, 20)[:, None]
    near, far = np.eye(20)[np.roll(np.arange(20), 1)], np.eye(20)[np.roll(np.arange(20), 10)]
    assert soft_foscttm(near, z, z).macro["soft_foscttm"] < 0.2 < soft_foscttm(far, z, z).macro["soft_foscttm"]


X = np.random.default_rng(6).normal(size=(4, 2))


@pytest.mark.parametrize(
    ("x", "y", "options", "match"),
    [
        (X, X[:3], {}, "y: expected the 4 cells of x in the same order, got 3. Or pass pairs"),
        (X, X[:, :1], {}, "y: expected the 2 features"),
        (X * np.nan, X, {}, "x: expected finite"),
        (X[0], X, {}, "x: expected a two-dimensional"),
        (X[:0], X[:0], {}, "x: expected at least 1 row"),
        (X, X, {"convention": "loose"}, "convention: expected one of 'strict', 'midrank', 'scot', 'glue', got 'loose'"),
        (X, X, {"pairs": [0, 0, 1, 2]}, "pairs: expected one source cell for each target cell"),
        (X, X, {"pairs": [0, 1, 2]}, "pairs: expected"),
        (X, X, {"source_groups": list("abcd"), "target_groups": list("abcd")}, "expected cells to score.*4 alone"),
        (X[:1], X[:1], {}, "expected cells to score, got none of 1"),
    ],
)
def test_bad_embeddings(x, y, options, match):
    with pytest.raises(ValueError, match=match):
        foscttm(x, y, **options)


@pytest.mark.parametrize("score", [projected_foscttm, soft_foscttm])
@pytest.mark.parametrize(
    ("arguments", "options", "match"),
    [
        ((None, X), {}, "got neither"),
        ((X, X), {"pairs": np.arange(4)}, "got both"),
        ((X[:3], X), {}, "x_source: expected 4 cells"),
        ((X, X * np.nan), {}, "x_target: expected finite"),
        ((X, X[:, :1]), {}, "x_target: expected the 2 features"),
        ((X, X), {"source_groups": list("abcd"), "target_groups": list("abcd")}, "expected cells to score.*4 alone"),
    ],
)
def test_bad_plans(score, arguments, options, match):
    with pytest.raises(ValueError, match=match):
        score(np.eye(4), *arguments, **options)


def test_projection_refuses_shared_partners_and_unknown_conventions():
    with pytest.raises(ValueError, match="pairs: expected one source cell"):
        projected_foscttm(np.eye(4), None, X, pairs=[0, 0, 1, 2])
    with pytest.raises(ValueError, match="convention: expected one of"):
        projected_foscttm(np.eye(4), X, X, convention="loose")
    assert soft_foscttm(np.eye(4)[[0, 0, 1, 2]], None, X, pairs=[0, 0, 1, 2]).macro["soft_foscttm"] == 0.0
