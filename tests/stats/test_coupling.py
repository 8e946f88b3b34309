from __future__ import annotations

import pickle

import numpy as np
import pandas as pd
import pytest
import scipy.sparse as sp
import torch

from perturbia.stats import Coupling
from perturbia.stats._coupling_blocks import CouplingBlock
from perturbia.stats._coupling_plans import DualPlan, Part, SparsePlan, UniformPlan, random_matches, truncated
from perturbia.stats.transport_cost import PairCost

N, M = 23, 19  # some cells of either side are in no group
SOURCE = [np.array([3, 0, 7, 9, 20]), np.array([1, 2, 4, 5, 6, 8, 10, 11]), np.array([22]), np.array([12, 13, 14])]
TARGET = [np.array([5, 1, 2, 3]), np.array([0, 4, 6, 7, 8, 9, 10]), np.array([18, 17]), np.array([11, 12, 13])]


def dual_plan(rng, n, m, *, dtype=torch.float32, share=1.0):
    x, y = rng.normal(size=(n, 3)), rng.normal(size=(m, 3))
    pairs = PairCost(x, y, dtype=dtype)
    f, g = rng.normal(-2, 1, size=n), rng.normal(-2, 1, size=m)
    total = np.exp(f[:, None] + g - pairs.tile(slice(None)).numpy() / 2.0).sum()
    return DualPlan(pairs, f - np.log(total), g, 2.0, share)


def sparse_plan(rng, n, m, *, sum_=1.0):
    dense = rng.random((n, m)) * (rng.random((n, m)) < 0.6)
    dense[0, 0] = 1
    return SparsePlan(sp.csr_matrix(dense / dense.sum() * sum_))


def cut_parts(rng, kind):
    """Two parts that share source cell 3 and target cell 2 of a block of 8 and 7 cells."""
    rows = np.array([0, 2, 3, 6]), np.array([1, 3, 4, 5, 7])
    columns = np.array([1, 2, 5]), np.array([0, 2, 3, 4, 6])
    if kind == "duals":
        plans = [dual_plan(rng, len(rows[k]), len(columns[k]), share=0.5) for k in (0, 1)]
    elif kind == "float64":
        plans = [dual_plan(rng, len(rows[k]), len(columns[k]), share=0.5, dtype=torch.float64) for k in (0, 1)]
    else:
        plans = [sparse_plan(rng, len(rows[k]), len(columns[k]), sum_=0.5) for k in (0, 1)]
    return tuple(Part(plans[k], rows[k], columns[k]) for k in (0, 1))


def make(kind):
    rng = np.random.default_rng(0)
    whole = {
        "duals": dual_plan,
        "float64": lambda rng, n, m: dual_plan(rng, n, m, dtype=torch.float64),
        "sparse": sparse_plan,
        "partial": lambda rng, n, m: sparse_plan(rng, n, m, sum_=0.7),
        "uniform": lambda rng, n, m: UniformPlan((n, m)),
    }[kind]
    blocks = []
    for k, (rows, columns) in enumerate(zip(SOURCE, TARGET, strict=True)):
        if k == 1 and kind in {"duals", "float64", "sparse"}:
            parts = cut_parts(rng, kind)
        else:
            parts = (Part(whole(rng, len(rows), len(columns))),)
        blocks.append(CouplingBlock("ABCD"[k], rows, columns, len(rows) / 17, parts, {"converged": k != 2}))
    return Coupling((N, M), tuple(blocks), {"method": kind, "seed": 3})


def dense(coupling):
    """The masses, put together part by part and without tiles."""
    matrix = np.zeros(coupling.shape)
    for block in coupling.blocks:
        for part in block.parts:
            plan = part.plan
            if isinstance(plan, DualPlan):
                costs = plan.pairs.tile(slice(None)).double().numpy()
                masses = plan.share * np.exp(plan.f[:, None] + plan.g - costs / plan.epsilon)
            else:
                masses = plan.sparse().toarray()
            rows = block.rows if part.rows is None else block.rows[part.rows]
            columns = block.columns if part.columns is None else block.columns[part.columns]
            matrix[np.ix_(rows, columns)] += block.mass * masses
    return matrix


KINDS = ["duals", "float64", "sparse", "partial", "uniform"]
TOLERANCE = {"duals": 2e-6, "float64": 1e-13, "sparse": 1e-13, "partial": 1e-13, "uniform": 1e-6}


@pytest.fixture(params=KINDS)
def kind(request):
    return request.param


@pytest.fixture(params=[None, 16], ids=["whole", "tiles"])
def tile(request, monkeypatch):
    """Tiles of all rows, and of few."""
    if request.param is not None:
        monkeypatch.setattr("perturbia.stats._coupling_blocks._TILE", request.param)
        monkeypatch.setattr("perturbia.stats.transport_cost._TILE", request.param)


@pytest.fixture
def case(kind, tile):
    coupling = make(kind)
    return coupling, dense(coupling), TOLERANCE[kind]


def conditional(matrix):
    with np.errstate(invalid="ignore"):
        return matrix / matrix.sum(1, keepdims=True)


def test_masses(case):
    coupling, matrix, tolerance = case
    np.testing.assert_allclose(coupling.row_mass, matrix.sum(1), rtol=tolerance, atol=1e-15)
    np.testing.assert_allclose(coupling.column_mass, matrix.sum(0), rtol=tolerance, atol=1e-15)
    found = np.zeros((N, M))
    for rows, columns, values in coupling.tiles(max_rows=3):
        assert len(rows) <= 3
        assert values.dtype == np.float64
        found[np.ix_(rows, columns)] += values
    np.testing.assert_allclose(found, matrix, rtol=tolerance)
    assert matrix.sum() == pytest.approx(0.7 if coupling.parameters["method"] == "partial" else 1)


def test_rows(case):
    coupling, matrix, tolerance = case
    right = np.nan_to_num(conditional(matrix))
    rows = coupling.rows()
    assert rows.dtype == np.float64
    np.testing.assert_allclose(rows.toarray(), right, rtol=tolerance, atol=1e-12)
    assert set(np.round(np.asarray(rows.sum(1)).ravel(), 5)) == {0, 1}
    for index in ([7, 15, 3, 3, 22], [21], np.array([-1, 0]), [], 4):
        np.testing.assert_allclose(
            coupling.rows(index).toarray(),
            np.atleast_2d(right[np.asarray(index, dtype=int)]),
            rtol=tolerance,
            atol=1e-12,
        )
    mask = np.arange(N) % 3 == 0
    np.testing.assert_allclose(coupling.rows(mask).toarray(), right[mask], rtol=tolerance, atol=1e-12)


@pytest.mark.parametrize(
    ("form", "dtype"),
    [
        (np.asarray, np.float32),
        (np.asarray, np.float64),
        (np.asarray, np.float16),
        (sp.csr_matrix, np.float32),
        (sp.csc_matrix, np.int64),
    ],
)
def test_pull_and_push(case, form, dtype):
    coupling, matrix, tolerance = case
    rng = np.random.default_rng(1)
    tolerance = max(tolerance, 1e-5 if dtype == np.float32 else 0)
    for side, n in ((0, M), (1, N)):
        X = rng.poisson(1.0, size=(n, 5)).astype(dtype)
        X[:, 4] = 0  # a column of nothing must not hide who has no match
        weights = conditional(matrix if side == 0 else matrix.T)
        found = (coupling.pull if side == 0 else coupling.push)(form(X))
        assert isinstance(found, np.ndarray)
        assert found.dtype == (dtype if dtype in (np.float32, np.float64) else np.float64)
        np.testing.assert_allclose(found, weights @ X.astype(np.float64), rtol=tolerance, atol=tolerance)
    assert np.isnan(coupling.pull(np.ones((M, 2)))[[15, 21]]).all()
    assert np.isnan(coupling.push(np.ones((N, 2)))[14:17]).all()


def test_unmatched_and_empty_rows_are_missing():
    """A cell of a group whose row holds nothing is unmatched, too: partial transport leaves such rows."""
    coupling = Coupling.from_matrix(np.array([[0.2, 0.3, 0], [0, 0, 0], [0, 0.5, 0]]))
    np.testing.assert_array_equal(coupling.row_mass, [0.5, 0, 0.5])
    np.testing.assert_array_equal(coupling.rows([1, 0]).toarray(), [[0, 0, 0], [0.4, 0.6, 0]])
    assert coupling.sample(3, seed=0)[1].tolist() == [-1, -1, -1]
    for X in (np.ones((3, 1)), sp.csr_matrix((3, 1))):
        np.testing.assert_array_equal(np.isnan(coupling.pull(X)).ravel(), [False, True, False])
        np.testing.assert_array_equal(np.isnan(coupling.push(X)).ravel(), [False, False, True])
    statistics = coupling.statistics(lambda rows, columns: np.ones((len(rows), len(columns))))
    np.testing.assert_array_equal(np.isnan(statistics.n_effective), [False, True, False])
    np.testing.assert_array_equal(np.isnan(statistics.cost), [False, True, False])
    np.testing.assert_allclose(statistics.hubness, [0.6, 2.4, 0])
    assert coupling.to_sparse()[1].nnz == 0


def test_draws_have_the_frequencies_of_the_rows(case):
    coupling, matrix, _ = case
    n_draws = 4000
    draws = coupling.sample(n_draws, seed=1)
    assert draws.shape == (N, n_draws)
    assert draws.dtype == np.int64
    right = np.nan_to_num(conditional(matrix))
    for i in range(N):
        if right[i].sum() == 0:
            assert (draws[i] == -1).all()
            continue
        counts = np.bincount(draws[i], minlength=M)
        assert counts[right[i] == 0].sum() == 0
        z = (counts - n_draws * right[i]) / np.sqrt(n_draws * right[i] * (1 - right[i]) + 1e-9)
        assert np.abs(z).max() < 5


def test_draws_do_not_depend_on_who_is_asked_for_nor_on_tiles(kind, monkeypatch):
    coupling = make(kind)
    whole = coupling.sample(6, seed=2)
    np.testing.assert_array_equal(coupling.sample(6, rows=[20, 3, 3, 15], seed=2), whole[[20, 3, 3, 15]])
    np.testing.assert_array_equal(coupling.sample(6, rows=np.arange(N) > 9, seed=2), whole[10:])
    assert (coupling.sample(6, seed=3) != whole).any()
    monkeypatch.setattr("perturbia.stats._coupling_blocks._TILE", 1)
    np.testing.assert_array_equal(coupling.sample(6, seed=2), whole)


@pytest.mark.parametrize(("mass", "max_entries"), [(0.99, 100), (0.8, 3), (1.0, 2), (0.5, 1)])
def test_truncation_keeps_the_fewest_largest_entries(case, mass, max_entries):
    coupling, matrix, tolerance = case
    short = coupling.truncate(mass, max_entries)
    found = short.to_sparse(1.0, 10**9).toarray()
    method = coupling.parameters["method"]
    np.testing.assert_allclose(found.sum(1), matrix.sum(1), rtol=max(tolerance, 1e-6), atol=1e-15)
    if method in {"sparse", "partial"}:
        np.testing.assert_allclose(found, matrix, atol=1e-15)
        assert (short.table["kept_mass"] == 1).all()
        return
    kept = np.zeros(4)
    for k, block in enumerate(coupling.blocks):
        for i in block.rows:
            order = np.argsort(-matrix[i], kind="stable")
            sums = np.cumsum(matrix[i][order])
            size = min(max_entries, int(np.argmax(sums >= mass * sums[-1] * (1 - 1e-6)) + 1))
            if method == "uniform":
                size = min(max_entries, len(block.columns))
                assert (found[i] > 0).sum() == size
                continue
            assert set(np.flatnonzero(found[i])) == set(order[:size])
            np.testing.assert_allclose(
                found[i] * sums[size - 1] / sums[-1], np.where(found[i] > 0, matrix[i], 0), rtol=1e-5
            )
            kept[k] += sums[size - 1]
    if method != "uniform":
        np.testing.assert_allclose(short.table["kept_mass"], kept / short.table["mass"], rtol=1e-5)
    np.testing.assert_allclose(coupling.to_sparse(mass, max_entries).toarray(), found)


def test_uniform_plans_are_stood_for_by_draws_without_replacement():
    matches = random_matches((5000, 11), 4, np.random.default_rng(0))
    assert (np.diff(matches.indptr) == 4).all()
    assert matches.sum() == pytest.approx(1)
    counts = np.bincount(matches.indices, minlength=11)
    assert np.abs(counts - 20_000 / 11).max() < 5 * np.sqrt(20_000 / 11)
    assert all(len(set(row)) == 4 for row in matches.indices.reshape(-1, 4)[:100])
    coupling = make("uniform")
    assert (coupling.to_sparse(1.0, 2) != coupling.to_sparse(1.0, 2)).nnz == 0


def test_truncated_tile_of_empty_and_single_rows():
    matrix, kept = truncated(np.array([[0.0, 0, 0], [0, 2, 0], [1, 1, 2]]), 0.5, 5)
    np.testing.assert_array_equal(matrix.toarray(), [[0, 0, 0], [0, 2, 0], [0, 0, 4]])
    np.testing.assert_array_equal(kept, [0, 2, 2])


def test_other_side(case):
    coupling, matrix, tolerance = case
    other = coupling.transpose()
    assert other.shape == (M, N)
    np.testing.assert_allclose(dense(other), matrix.T, rtol=tolerance)
    np.testing.assert_allclose(other.row_mass, coupling.column_mass, rtol=max(tolerance, 1e-6))
    X = np.random.default_rng(0).normal(size=(N, 3))
    np.testing.assert_allclose(other.pull(X), coupling.push(X), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(dense(other.transpose()), matrix, rtol=tolerance)
    assert other.table["n_source"].tolist() == coupling.table["n_target"].tolist()


def test_statistics(case):
    coupling, matrix, tolerance = case
    costs = np.random.default_rng(0).random((N, M))
    found = coupling.statistics(lambda rows, columns: costs[np.ix_(rows, columns)])
    weights = conditional(matrix)
    with np.errstate(divide="ignore", invalid="ignore"):
        entropy = -np.nansum(weights * np.log(weights), axis=1)
    matched = matrix.sum(1) > 0
    tolerance = max(tolerance, 1e-5)
    np.testing.assert_allclose(found.n_effective[matched], np.exp(entropy)[matched], rtol=tolerance)
    np.testing.assert_allclose(found.cost, (weights * costs).sum(1), rtol=tolerance)
    assert np.isnan(found.n_effective[~matched]).all()
    hubness = np.full(M, np.nan)
    for block in coupling.blocks:
        hubness[block.columns] = matrix[:, block.columns].sum(0) * len(block.columns) / block.mass
    np.testing.assert_allclose(found.hubness, hubness, rtol=tolerance)
    assert np.isnan(coupling.statistics().cost).all()


def test_tiles_have_the_type_of_their_plans():
    for kind, dtype in (("duals", np.float32), ("float64", np.float64), ("sparse", np.float64)):
        assert {block.tile(np.arange(1)).dtype for block in make(kind).blocks} == {np.dtype(dtype)}


def test_shows_what_it_holds():
    coupling = make("duals")
    assert repr(coupling) == "Coupling: 23 source x 19 target cells in 4 group(s), method='duals', 1 not converged"
    assert "<table" in coupling._repr_html_()
    assert coupling.groups == ["A", "B", "C", "D"]
    table = coupling.table
    assert table.index.name == "group"
    assert table["n_source"].tolist() == [5, 8, 1, 3]
    assert table["mass"].sum() == pytest.approx(1)
    assert coupling == coupling  # noqa: PLR0124
    assert len({coupling, make("duals")}) == 2


def test_can_be_stored(kind):
    coupling = make(kind)
    again = pickle.loads(pickle.dumps(coupling.transpose()))
    np.testing.assert_array_equal(dense(again), dense(coupling.transpose()))


@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, sp.coo_matrix])
def test_wraps_a_matrix_in_groups(form):
    matrix = dense(make("sparse"))
    labels = np.full(N, "rest", dtype=object), np.full(M, "none", dtype=object)
    for name, rows, columns in zip("ABCD", SOURCE, TARGET, strict=True):
        labels[0][rows], labels[1][columns] = name, name
    coupling = Coupling.from_matrix(form(5 * matrix), source_groups=labels[0], target_groups=labels[1])
    assert coupling.groups == ["A", "B", "C", "D"]
    np.testing.assert_allclose(dense(coupling), matrix, atol=1e-15)
    for block, rows, columns in zip(coupling.blocks, SOURCE, TARGET, strict=True):
        np.testing.assert_array_equal(block.rows, np.sort(rows))
        np.testing.assert_array_equal(block.columns, np.sort(columns))
        assert block.mass == pytest.approx(matrix[rows].sum())
    whole = Coupling.from_matrix(form(matrix))
    assert whole.groups == ["all"]
    np.testing.assert_allclose(dense(whole), matrix, atol=1e-15)
    of_series = Coupling.from_matrix(
        form(matrix), source_groups=pd.Series(labels[0], dtype="category"), target_groups=list(labels[1])
    )
    np.testing.assert_allclose(dense(of_series), matrix, atol=1e-15)


EYE = np.eye(3)


@pytest.mark.parametrize(
    ("matrix", "options", "match"),
    [
        (-EYE, {}, "matrix: expected numbers >= 0"),
        (EYE * np.nan, {}, "matrix: expected finite"),
        (0 * EYE, {}, "matrix: expected some mass, got none"),
        (sp.csr_matrix((2, 2)), {}, "matrix: expected some mass"),
        (EYE[0], {}, "matrix: expected a two-dimensional array"),
        (EYE, {"source_groups": list("abc")}, "expected both or neither, got source_groups alone"),
        (EYE, {"source_groups": list("ab"), "target_groups": list("abc")}, "source_groups: expected one label a row"),
        (EYE, {"source_groups": ["a", "b", None], "target_groups": list("abc")}, "source_groups: expected a label for"),
        (EYE, {"source_groups": ["a", "b", np.nan], "target_groups": list("abc")}, "source_groups: expected a label"),
        (EYE, {"source_groups": list("abc"), "target_groups": list("abb")}, "got 1 entries between cells of different"),
        (EYE, {"source_groups": [1, 2, 3], "target_groups": list("123")}, "got 3 entries between cells of different"),
    ],
)
def test_bad_matrix(matrix, options, match):
    with pytest.raises(ValueError, match=match):
        Coupling.from_matrix(matrix, **options)


@pytest.mark.parametrize(
    ("method", "arguments", "match"),
    [
        ("pull", (np.ones((3, 2)),), "X: expected a row for each of the 19 target cells, got 3"),
        ("push", (np.ones((3, 2)),), "X: expected a row for each of the 23 source cells, got 3"),
        ("pull", (np.full((M, 1), np.nan),), "X: expected finite"),
        ("rows", ([0, 23],), "index: expected positions of the 23 cells, got 0 to 23"),
        ("rows", ([0.5],), "index: expected positions of cells or a mask"),
        ("rows", ([True, False],), r"index: expected positions of cells or a mask of shape \(23,\), got bool"),
        ("sample", (0,), "n_draws: expected a positive whole number, got 0"),
        ("truncate", (0.0,), r"mass: expected a share in \(0, 1\], got 0.0"),
        ("truncate", (1.5,), "mass: expected a share"),
        ("to_sparse", (0.9, 0), "max_entries: expected a positive whole number, got 0"),
    ],
)
def test_bad_input(method, arguments, match):
    with pytest.raises(ValueError, match=match):
        getattr(make("duals"), method)(*arguments)
