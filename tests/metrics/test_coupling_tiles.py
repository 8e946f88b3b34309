"""Tiles of row-conditionals, from whatever holds a plan."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp

from perturbia.metrics import _coupling_tiles, coupling_trace
from perturbia.metrics._coupling_tiles import CouplingTiles
from perturbia.metrics.matching_scores import MatchingScores
from perturbia.stats import Coupling


def assembled(plan: CouplingTiles, *, dense: bool) -> tuple[np.ndarray, np.ndarray]:
    """Row-conditionals of a plan put together from its tiles, and how often each row came."""
    weights, times = np.zeros(plan.shape), np.zeros(plan.shape[0], dtype=int)
    for tile in plan.tiles(dense=dense):
        assert sp.issparse(tile.weights) <= (not dense)
        assert (plan.groups.source[tile.rows] == tile.group).all()
        assert (plan.groups.target[tile.columns] == tile.group).all()
        weights[np.ix_(tile.rows, tile.columns)] = tile.weights.toarray() if sp.issparse(tile.weights) else tile.weights
        times[tile.rows] += 1
        if dense:
            assert len(tile.columns) == (plan.groups.target == tile.group).sum()
    return weights, times


@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("dense", [True, False])
@pytest.mark.parametrize("block", [1, 8, 2**20])
def test_tiles_hold_every_row_with_mass_once(alignment, held, dense, block, labelled, monkeypatch):
    monkeypatch.setattr(_coupling_tiles, "_BLOCK", block)
    plan = CouplingTiles(held, **(alignment.groups if labelled else {}))
    weights, times = assembled(plan, dense=dense)
    has_mass = alignment.plan.sum(axis=1) > 0
    np.testing.assert_array_equal(times, has_mass)
    np.testing.assert_allclose(weights, np.nan_to_num(alignment.weights), atol=1e-15)
    np.testing.assert_array_equal(plan.matched, has_mass)


@pytest.mark.parametrize("sparse", [True, False])
def test_expectation_is_the_product_with_row_conditionals(alignment, held, sparse):
    values = np.random.default_rng(1).normal(size=(17, 4))
    plan = CouplingTiles(held, **alignment.groups)
    np.testing.assert_allclose(plan.expectation(sp.csr_array(values) if sparse else values), alignment.weights @ values)


def test_blocks_are_groups_where_none_are_given(alignment):
    coupling = Coupling.from_matrix(alignment.plan, **alignment.groups)
    groups = CouplingTiles(coupling).groups
    assert groups.names.tolist() == ["a", "b", "single"]
    assert groups.n_source.tolist() == [5, 9, 1]
    assert groups.n_target.tolist() == [7, 6, 1]
    assert CouplingTiles(alignment.plan).groups.names.tolist() == ["all"]


def test_groups_may_be_finer_than_the_blocks_of_a_coupling(alignment):
    """Cells of half a block get tiles over the candidates of that half."""
    half = np.where(alignment.source_groups == "b", "b1", alignment.source_groups)
    half[9:14] = "b2"
    target = np.where(alignment.target_groups == "b", "b1", alignment.target_groups)
    target[10:13] = "b2"
    mass = np.where(half[:, None] == target, alignment.plan, 0.0)
    whole = Coupling.from_matrix(mass, **alignment.groups)
    for dense in (True, False):
        weights, _ = assembled(CouplingTiles(whole, half, target), dense=dense)
        expected, _ = assembled(CouplingTiles(mass, half, target), dense=dense)
        np.testing.assert_allclose(weights, expected, atol=1e-15)


def test_groups_may_be_coarser_than_the_blocks_of_a_coupling(alignment):
    """Blocks of one group are padded to its candidates when asked for whole."""
    coupling = Coupling.from_matrix(alignment.plan, **alignment.groups)
    everyone = np.full(17, "all")
    weights, _ = assembled(CouplingTiles(coupling, everyone, everyone), dense=True)
    np.testing.assert_allclose(weights, np.nan_to_num(alignment.weights), atol=1e-15)


def test_large_sparse_plans_are_never_dense():
    """A plan of 4e8 pairs in 100 groups costs what its entries cost."""
    n = 20_000
    labels = np.arange(n) % 100
    plan = sp.identity(n, format="csr")
    scores = coupling_trace(plan, np.arange(n), source_groups=labels, target_groups=labels)
    assert scores.macro.tolist() == [1.0, 200.0]
    whole = CouplingTiles(plan)
    assert all(sp.issparse(tile.weights) for tile in whole.tiles())
    assert max(tile.weights.size for tile in whole.tiles(dense=True)) <= 2**20


@pytest.mark.parametrize(
    ("coupling", "match"),
    [
        (np.array([[1.0, -0.1]]), "coupling: expected numbers >= 0, got a minimum of -0.1"),
        (sp.csr_array([[1.0, -0.1]]), "coupling: expected numbers >= 0"),
        (np.array([[1.0, np.nan]]), "coupling: expected finite"),
        (sp.csr_array([[1.0, np.inf]]), "coupling: expected finite"),
        (np.zeros((2, 2)), "coupling: expected mass"),
        (np.ones(3), "coupling: expected a two-dimensional array"),
        (np.ones((0, 3)), "coupling: expected at least 1 row"),
        (np.array([["a"]]), "coupling: expected real numbers"),
    ],
)
def test_bad_matrices(coupling, match):
    with pytest.raises(ValueError, match=match):
        CouplingTiles(coupling)


class Given:
    def __init__(self, *tiles, shape=(2, 2)):
        self.shape = shape
        self.content = tiles

    def tiles(self, max_rows=1024):
        yield from self.content


BOTH = np.array([0, 1])


@pytest.mark.parametrize(
    ("tiles", "match"),
    [
        ([(BOTH, BOTH, -np.ones((2, 2)))], "coupling: expected numbers >= 0"),
        ([(BOTH, BOTH, np.full((2, 2), np.nan))], "coupling: expected tiles of finite numbers"),
        ([(BOTH, BOTH, np.ones((1, 2)))], r"coupling: expected tiles .* shape \(2, 2\), got shape \(1, 2\)"),
        ([(BOTH, BOTH[:1], np.ones((2, 1))), (BOTH, BOTH[1:], np.ones((2, 1)))], "every source cell in one tile"),
        ([(BOTH, BOTH, np.zeros((2, 2)))], "coupling: expected mass"),
        ([], "coupling: expected mass"),
    ],
)
def test_bad_tiles(tiles, match):
    with pytest.raises(ValueError, match=match):
        list(CouplingTiles(Given(*tiles), ["all", "all"], ["all", "all"]).tiles())


def test_no_tiles_are_no_blocks():
    with pytest.raises(ValueError, match="coupling: expected mass"):
        CouplingTiles(Given())


def test_mass_between_groups_is_refused(alignment, held):
    other = np.roll(alignment.target_groups, 1)
    with pytest.raises(ValueError, match=r"coupling: expected mass within groups only, got \d"):
        list(CouplingTiles(held, alignment.source_groups, other).tiles())


@pytest.mark.parametrize("kind", ["dense", "tiles"])
def test_cells_without_a_group_are_unmatched(kind):
    """Neither a group of their own nor one together."""
    plan = np.diag([1.0, 2.0, 0.0, 0.0])
    held = Given((np.arange(4), np.arange(4), plan), shape=(4, 4)) if kind == "tiles" else plan
    groups = ["a", "b", None, np.nan]
    tiles = CouplingTiles(held, groups, groups)
    np.testing.assert_array_equal(assembled(tiles, dense=True)[0], np.diag([1.0, 1.0, 0.0, 0.0]))
    scores = coupling_trace(held, np.arange(4), source_groups=groups, target_groups=groups)
    assert scores.left_out.to_dict() == {"unpaired": 0, "partner_in_other_group": 0, "unmatched": 2}
    plan[2, 3] = 1.0
    with pytest.raises(ValueError, match=r"mass within groups only, got 25.0% between them"):
        list(CouplingTiles(held, groups, groups).tiles())


def test_mass_between_groups_up_to_rounding_is_not():
    plan = np.eye(2) + 1e-12
    assert coupling_trace(plan, BOTH, source_groups=BOTH, target_groups=BOTH).macro["trace"] == 1.0


@pytest.mark.parametrize(
    ("source", "target", "match"),
    [
        (["a", "b"], None, "target_groups: expected labels, as source_groups has them, got None"),
        (None, ["a", "b"], "source_groups: expected labels, as target_groups"),
        (["a"], ["a", "b"], r"source_groups: expected one label a row, shape \(2,\)"),
        (["a", "b"], ["a"], r"target_groups: expected one label a row, shape \(2,\)"),
        ([None, None], ["a", "b"], "none in common"),
        ([None, "a"], ["a", None], "coupling: expected mass within groups only, got 100.0%"),
        (["a", "b"], ["c", "d"], "target_groups: expected groups of source_groups, got none in common"),
        ([0, 1], ["0", "1"], "none in common"),
    ],
)
def test_bad_groups(source, target, match):
    with pytest.raises(ValueError, match=match):
        CouplingTiles(np.eye(2), source, target)


def test_categories_and_numbers_are_labels():
    codes = pd.Categorical(["x", "y"], categories=["unused", "y", "x"])
    assert CouplingTiles(np.eye(2), codes, ["x", "y"]).groups.n_target.tolist() == [1, 1]
    assert CouplingTiles(np.eye(2), [3, 1], np.array([3, 1])).groups.names.tolist() == [1, 3]


def test_means_over_groups_and_over_cells():
    table = pd.DataFrame(
        {
            "n_source": [4, 2, 9],
            "n_target": [4, 2, 9],
            "n_scored": [3, 1, 9],
            "u": [0.5, 0.1, np.nan],
            "v": [1.0, 5.0, 0],
        },
        index=["a", "b", "c"],
    )
    scores = MatchingScores(table, pd.Series({"unmatched": 2}))
    assert scores.names == ["u", "v"]
    assert scores.macro.to_dict() == pytest.approx({"u": 0.3, "v": 2.0})
    assert scores.micro.to_dict() == pytest.approx({"u": 0.4, "v": 8 / 13})
    assert scores.flat().index.tolist() == ["u_macro", "u_micro", "v_macro", "v_micro"]
    assert repr(scores) == ("MatchingScores: u 0.3 (micro 0.4); v 2 (micro 0.6154); 13 cells in 3 groups, 2 left out")
