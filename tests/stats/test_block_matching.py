from __future__ import annotations

import os
import subprocess
import sys
import warnings

import numpy as np
import ot
import pandas as pd
import pytest
import scipy.sparse as sp
from scipy.spatial.distance import cdist

from perturbia.errors import ConvergenceWarning
from perturbia.stats import couple
from perturbia.stats.block_matching import paired_groups
from perturbia.stats.shared_neighbors import shared_neighbor_plan

module = sys.modules["perturbia.stats.block_matching"]
METHODS = ["ot", "emd", "snn", "gw", "random"]


def draw(seed=0, n=60, m=50, noise=0.3):
    """Two populations in three groups, with cells of groups that the other side lacks."""
    rng = np.random.default_rng(seed)
    groups = rng.choice(["A", "B", "C", "only source"], size=n), rng.choice(["A", "B", "C", "only target"], size=m)
    shift = {"A": 0, "B": 3, "C": -3, "only source": 1, "only target": 2}
    sides = [rng.normal(size=(len(labels), 4)) + np.array([shift[one] for one in labels])[:, None] for labels in groups]
    return sides[0], sides[1] + noise * rng.normal(size=sides[1].shape), *groups


def matrix_of(coupling):
    matrix = np.zeros(coupling.shape)
    for rows, columns, tile in coupling.tiles():
        matrix[np.ix_(rows, columns)] = tile
    return matrix


@pytest.fixture
def populations():
    return draw()


def blocks_of(groups, others):
    return [(np.flatnonzero(groups == one), np.flatnonzero(others == one)) for one in "ABC"]


@pytest.mark.parametrize("method", METHODS)
def test_every_group_is_matched_as_if_alone(populations, method):
    x, y, groups, others = populations
    coupling = couple(x, y, groups, others, method=method, epsilon=0.3, scale_cost=None)
    matrix = matrix_of(coupling)
    assert coupling.groups == ["A", "B", "C"]
    matched = np.isin(groups, list("ABC"))
    assert matrix.sum() == pytest.approx(1, abs=1e-6)
    np.testing.assert_allclose(matrix.sum(1), matched / matched.sum(), rtol=1e-3)
    for (rows, columns), n in zip(blocks_of(groups, others), coupling.table["n_source"], strict=True):
        alone = matrix_of(couple(x[rows], y[columns], method=method, epsilon=0.3, scale_cost=None))
        np.testing.assert_allclose(matrix[np.ix_(rows, columns)], alone * n / matched.sum(), atol=1e-7)
        matrix[np.ix_(rows, columns)] = 0
    assert (matrix == 0).all()


@pytest.mark.parametrize("method", ["ot", "emd"])
def test_blocks_equal_the_whole_with_infinite_cost_between_groups(method):
    rng = np.random.default_rng(1)
    groups, others = np.repeat(list("ABC"), [20, 12, 16]), np.repeat(list("CAB"), [8, 5, 6])
    x, y = rng.normal(size=(48, 3)), rng.normal(size=(19, 3))
    costs = cdist(x, y, "sqeuclidean")
    epsilon = 1.0
    blocked = np.where(groups[:, None] == others, costs, 1e4)
    a = np.full(48, 1 / 48)
    b = a[0] * np.array([{"A": 4, "B": 2, "C": 2}[one] for one in others])
    if method == "emd":
        right = ot.emd(a, b, blocked)
    else:
        right = ot.sinkhorn(a, b, blocked, epsilon, method="sinkhorn_log", numItermax=1000, stopThr=1e-10)
    coupling = couple(x, y, groups, others, method=method, epsilon=epsilon, scale_cost=None, tolerance=1e-6)
    np.testing.assert_allclose(matrix_of(coupling), right, atol=1e-4 * right.max())


def test_blocks_of_shared_neighbours_equal_the_whole_with_infinite_cost_between_groups():
    rng = np.random.default_rng(1)
    groups, others = rng.choice(list("ABC"), size=40), rng.choice(list("ABC"), size=30)
    codes = [np.searchsorted(list("ABC"), one)[:, None].astype(float) for one in (groups, others)]
    x, y = (np.hstack([rng.normal(size=(len(one), 3)), one]) for one in codes)

    def blocked(x, y):
        return cdist(x[:, :3], y[:, :3], "sqeuclidean") + 1e6 * (x[:, 3:] != y[:, 3:].T)

    coupling = couple(x[:, :3], y[:, :3], groups, others, method="snn", n_neighbors=2)
    whole = shared_neighbor_plan(x, y, n_neighbors=2, cost=blocked)
    np.testing.assert_allclose(matrix_of(coupling), whole.toarray(), atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_order_of_cells_permutes_the_plan(populations, method):
    x, y, groups, others = populations
    order = np.random.default_rng(0).permutation(len(y))
    first = matrix_of(couple(x, y, groups, others, method=method, epsilon=0.1))[:, order]
    second = matrix_of(couple(x, y[order], groups, others[order], method=method, epsilon=0.1))
    np.testing.assert_allclose(second, first, atol=1e-4 * first.max() if method in {"ot", "gw"} else 1e-14)
    if method in {"emd", "snn"}:
        assert ((second > 1e-15) == (first > 1e-15)).all()


@pytest.mark.parametrize("method", METHODS)
def test_is_deterministic(populations, method):
    first, second = (couple(*populations, method=method, epsilon=0.05) for _ in range(2))
    assert (matrix_of(first) == matrix_of(second)).all()
    assert (first.to_sparse() != second.to_sparse()).nnz == 0
    pd.testing.assert_frame_equal(first.table, second.table)


def test_epsilon_is_relative_to_the_mean_cost_within_groups(populations):
    x, y, groups, others = populations
    costs = np.concatenate([cdist(x[i], y[j], "sqeuclidean").ravel() for i, j in blocks_of(groups, others)])
    coupling = couple(x, y, groups, others, epsilon=0.05)
    assert coupling.parameters["cost_scale"] == pytest.approx(costs.mean(), rel=1e-5)
    assert coupling.parameters["epsilon"] == pytest.approx(0.05 * costs.mean(), rel=1e-5)
    right = matrix_of(couple(x, y, groups, others, epsilon=0.05 * costs.mean(), scale_cost=None))
    np.testing.assert_allclose(matrix_of(coupling), right, atol=1e-4 * right.max())
    right = matrix_of(couple(x, y, groups, others, epsilon=0.05, scale_cost=np.float32(costs.mean())))
    np.testing.assert_allclose(matrix_of(coupling), right, atol=1e-4 * right.max())
    scaled = couple(100 * x, 100 * y, groups, others, epsilon=0.05)
    np.testing.assert_allclose(matrix_of(scaled), right, atol=1e-4 * right.max())


@pytest.mark.parametrize("method", METHODS)
def test_mean_cost_is_that_of_the_plan(populations, method):
    x, y, groups, others = populations
    coupling = couple(x, y, groups, others, method=method, epsilon=0.05)
    assert coupling.table["converged"].all()
    if method == "gw":
        return
    for block, found in zip(coupling.blocks, coupling.table["mean_cost"], strict=True):
        plan = block.tile(np.arange(len(block.rows))).astype(np.float64)
        costs = cdist(x[block.rows], y[block.columns], "sqeuclidean")
        assert found == pytest.approx((plan * costs).sum() / plan.sum(), rel=1e-4)


def test_table_says_how_well_marginals_are_kept(populations):
    table = couple(*populations).table
    assert table["converged"].all()
    assert (table["marginal_error"] <= 1e-4).all()
    assert (table["iterations"] >= 1).all()
    assert list(table.index) == ["A", "B", "C"]


@pytest.mark.parametrize("method", ["ot", "emd"])
@pytest.mark.parametrize(("n", "m"), [(60, 50), (300, 7), (5, 200)])
def test_cut_groups_keep_their_marginals(method, n, m):
    x, y, *_ = draw(n=n, m=m)
    coupling = couple(x, y, method=method, max_block_size=10, epsilon=0.1)
    assert len(coupling.blocks[0].parts) > 4
    matrix = matrix_of(coupling)
    np.testing.assert_allclose(matrix.sum(1), 1 / n, rtol=0.02)
    np.testing.assert_allclose(matrix.sum(0), 1 / m, rtol=0.02)
    assert np.abs(matrix.sum(1) - 1 / n).sum() < 2e-4
    costs = cdist(x, y, "sqeuclidean")
    (mean_cost,) = coupling.table["mean_cost"]
    assert mean_cost == pytest.approx((matrix * costs).sum(), rel=1e-3)
    assert mean_cost >= 0.999 * ot.emd2(np.full(n, 1 / n), np.full(m, 1 / m), costs)
    assert mean_cost < 0.9 * costs.mean()


@pytest.mark.parametrize("seed", range(3))
def test_cut_groups_keep_the_digits_of_their_duals(seed):
    """Duals of 1e4 have three digits after the point in float32: what is reported must be what is read."""
    rng = np.random.default_rng(seed)
    x, y = rng.standard_t(1.0, size=(90, 5)), rng.normal(size=(70, 5))
    coupling = couple(x, y, cost="cosine", epsilon=1e-4, max_block_size=20, max_iterations=3000)
    matrix = matrix_of(coupling)
    error = max(np.abs(matrix.sum(1) - 1 / 90).sum(), np.abs(matrix.sum(0) - 1 / 70).sum())
    assert coupling.table["converged"].all()
    assert error <= 1.001 * coupling.table["marginal_error"].iloc[0] + 1e-6


@pytest.mark.parametrize("method", ["ot", "emd"])
def test_share_of_the_mass(populations, method):
    x, y, groups, others = populations
    coupling = couple(x, y, groups, others, method=method, partial_mass=0.6, max_block_size=5, epsilon=0.05)
    assert coupling.table["converged"].all()
    assert coupling.row_mass.sum() == pytest.approx(0.6, rel=1e-3)
    sizes = np.isin(groups, list("ABC")).sum()
    assert coupling.row_mass.max() < 1.001 / sizes
    pulled = coupling.pull(y)
    assert (np.isnan(pulled[:, 0]) == (coupling.row_mass == 0)).all()
    whole = couple(x, y, groups, others, method=method, partial_mass=1.0, epsilon=0.05)
    right = matrix_of(couple(x, y, groups, others, method=method, epsilon=0.05))
    np.testing.assert_allclose(matrix_of(whole), right, atol=2e-3 * right.max())


def test_loosened_marginals_hold_what_they_match(populations):
    coupling = couple(*populations, unbalanced=(0.5, 0.9), epsilon=0.05)
    assert coupling.table["converged"].all()
    assert 0.1 < coupling.row_mass.sum() < 0.999
    rows = coupling.rows(coupling.row_mass > 0)
    np.testing.assert_allclose(rows.sum(1), 1, rtol=1e-5)
    assert coupling.parameters["unbalanced"] == [0.5, 0.9]


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("form", [np.asarray, sp.csr_matrix, pd.DataFrame])
def test_types_of_input_and_arithmetic(populations, dtype, form):
    x, y, groups, others = populations
    right = couple(x, y, groups, others)
    for kind in (np.float32, np.float64):
        coupling = couple(form(x.astype(kind)), form(y.astype(kind)), groups, others, dtype=dtype, device="cpu")
        np.testing.assert_allclose(matrix_of(coupling), matrix_of(right), atol=2e-3 * matrix_of(right).max())
        assert all(block.tile(np.arange(1)).dtype == np.dtype(dtype) for block in coupling.blocks)
    whole_numbers = couple(np.arange(8).reshape(4, 2), np.arange(8).reshape(4, 2)[::-1])
    np.testing.assert_allclose(4 * matrix_of(whole_numbers), np.eye(4)[::-1], atol=1e-3)


@pytest.mark.parametrize("method", METHODS)
def test_groups_of_one_cell(method):
    rng = np.random.default_rng(0)
    groups, others = list("AABCDDD"), list("ABBCD")
    coupling = couple(rng.normal(size=(7, 3)), rng.normal(size=(5, 3)), groups, others, method=method)
    expected = np.zeros((7, 5))
    expected[:2, 0] = expected[4:, 4] = 1 / 7
    expected[2, 1:3] = 1 / 14
    expected[3, 3] = 1 / 7
    found = matrix_of(coupling)
    if method == "snn":
        found[2, 1:3] = found[2, 1:3].mean()
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-12)


@pytest.mark.parametrize("method", METHODS)
def test_equal_cells(method):
    coupling = couple(np.ones((6, 2)), np.ones((4, 2)), method=method)
    matrix = matrix_of(coupling)
    np.testing.assert_allclose(matrix.sum(1), 1 / 6, rtol=1e-5)
    np.testing.assert_allclose(matrix.sum(0), 1 / 4, rtol=1e-5)
    assert coupling.table["mean_cost"].abs().max() < (1 if method == "gw" else 1e-9)


@pytest.mark.parametrize("method", ["ot", "emd", "snn", "random"])
def test_no_features(method):
    coupling = couple(np.zeros((5, 0)), np.zeros((4, 0)), method=method, max_block_size=2)
    np.testing.assert_allclose(matrix_of(coupling).sum(1), 1 / 5, rtol=1e-5)


@pytest.mark.parametrize(
    ("groups", "others", "names", "unmatched"),
    [
        (["A", None, "B", "A"], ["B", "A", None], ["A", "B"], 1),
        (["A", float("nan"), "B", "A"], ["B", "A", float("nan")], ["A", "B"], 1),
        (["A", pd.NA, "B", "A"], ["B", "A", "C"], ["A", "B"], 1),
        ([1, 2, 2, 10], [10, 2, 1], [1, 2, 10], 0),
        ([1, "1", 2.5, "b"], ["1", 1, "b"], [1, "1", "b"], 1),
        ([("a", 1), ("b", 2), ("a", 1), "c"], ["c", ("a", 1), ("z", 0)], ["c", ("a", 1)], 1),
        (pd.Categorical(["A", "B", None, "A"]), pd.Series(["A", None, "B"], dtype="string"), ["A", "B"], 1),
        (np.array([True, False, True, True]), np.array([True, True, False]), [False, True], 0),
    ],
)
def test_labels_of_any_kind(groups, others, names, unmatched):
    rng = np.random.default_rng(0)
    coupling = couple(rng.normal(size=(4, 2)), rng.normal(size=(3, 2)), groups, others)
    assert coupling.groups == names
    assert [type(one) for one in coupling.groups] == [type(one) for one in names]
    assert (coupling.row_mass == 0).sum() == unmatched
    assert coupling.row_mass.sum() == pytest.approx(1, rel=1e-5)
    assert len(coupling.table) == len(names)


def test_pairs_of_groups_hold_sorted_positions():
    found = paired_groups(np.array(list("BABAB")), np.array(list("ABC")), shape=(5, 3))
    assert [(name, rows.tolist(), columns.tolist()) for name, rows, columns in found] == [
        ("A", [1, 3], [0]),
        ("B", [0, 2, 4], [1]),
    ]


def test_many_groups_are_sorted_once():
    """No pass over all cells for every group."""
    n = 100_000
    rng = np.random.default_rng(0)
    labels = rng.integers(20_000, size=n), rng.integers(20_000, size=n)
    found = paired_groups(*labels, shape=(n, n))
    assert len(found) > 19_000
    assert sum(len(rows) for _, rows, _ in found) > 0.95 * n
    name, rows, columns = found[777]
    np.testing.assert_array_equal(rows, np.flatnonzero(labels[0] == name))
    np.testing.assert_array_equal(columns, np.flatnonzero(labels[1] == name))


def test_warns_of_groups_that_did_not_converge(populations, monkeypatch):
    with pytest.warns(
        ConvergenceWarning, match="3 of 3 groups did not converge: 'A', 'B', 'C'. .* larger epsilon than 0.001"
    ) as caught:
        coupling = couple(*populations, epsilon=0.001, max_iterations=3)
    assert len(caught) == 1
    assert caught[0].filename == __file__
    assert not coupling.table["converged"].any()
    assert "3 not converged" in repr(coupling)
    solve = ot.emd

    def stopped(a, b, costs, **options):
        plan, log = solve(a, b, costs, **options)
        return plan, log | {"warning": "stopped" if len(a) > 15 else None}

    monkeypatch.setattr(ot, "emd", stopped)
    sizes = couple(*populations, method="random").table["n_source"]
    with pytest.warns(ConvergenceWarning, match=f"{(sizes > 15).sum()} of 3 groups .* Use method='ot'"):
        coupling = couple(*populations, method="emd")
    assert (coupling.table["converged"] == (sizes <= 15)).all()


def test_is_silent_where_all_is_well(populations):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for method in METHODS:
            couple(*populations, method=method, epsilon=0.05)


def test_logs_size_and_lonely_groups(populations, caplog):
    caplog.set_level("INFO", logger="perturbia")
    couple(*populations)
    assert "3 groups; the largest needs about" in caplog.text
    assert "2 groups are on one side only" in caplog.text


X = np.arange(8.0).reshape(4, 2)


@pytest.mark.parametrize(
    ("options", "match"),
    [
        ({"X_source": X * np.nan}, "X_source: expected finite"),
        ({"X_target": np.full((4, 2), np.inf)}, "X_target: expected finite"),
        ({"X_source": X[:0]}, "X_source: expected at least 1 row"),
        ({"X_target": X[0]}, "X_target: expected a two-dimensional"),
        (
            {"X_target": X[:, :1]},
            "X_target: expected the 2 columns of X_source, got 1. Pass representations in one space",
        ),
        ({"X_target": X.astype(str)}, "X_target: expected real numbers"),
        (
            {"source_groups": list("AAB"), "target_groups": list("AABB")},
            r"source_groups: .* shape \(4,\), got shape \(3,\)",
        ),
        ({"source_groups": list("AABB"), "target_groups": list("CCDD")}, "both have, got 'A', 'B' and 'C', 'D'. Spell"),
        ({"source_groups": [1, 2, 1, 2], "target_groups": list("1212")}, "both have, got 1, 2 and '1', '2'"),
        ({"source_groups": [None] * 4, "target_groups": list("AABB")}, "both have, got none and 'A', 'B'"),
        ({"source_groups": list("AABB")}, "expected both or neither, got source_groups alone"),
        ({"target_groups": list("AABB")}, "expected both or neither, got target_groups alone"),
        ({"method": "sinkhorn"}, "method: expected one of 'ot', 'emd', 'snn', 'gw', 'random', got 'sinkhorn'"),
        ({"cost": "manhattan"}, "cost: expected one of"),
        ({"cost": "hellinger", "X_source": X - 3}, "cost: expected probabilities for 'hellinger'"),
        ({"cost": lambda x, y: x}, r"cost: expected a function that returns costs of shape \(4, 4\)"),
        ({"epsilon": 0}, "epsilon: expected a positive number, got 0. Use method='emd'"),
        ({"epsilon": "small"}, "epsilon: expected a positive number, got 'small'"),
        ({"epsilon": np.nan}, "epsilon: expected a positive number"),
        ({"tolerance": None}, "tolerance: expected a positive number, got None"),
        ({"scale_cost": "max"}, "scale_cost: expected 'mean', a positive number or None, got 'max'"),
        ({"scale_cost": np.inf}, "scale_cost: expected"),
        ({"unbalanced": 0.5}, r"unbalanced: expected two numbers in \(0, 1\], got 0.5"),
        ({"unbalanced": (0.0, 1.0)}, "unbalanced: expected two numbers"),
        ({"unbalanced": ("a", "b")}, "unbalanced: expected two numbers"),
        ({"unbalanced": (0.5, 0.5), "method": "emd"}, "unbalanced: expected None with method='emd'"),
        ({"partial_mass": 1.2}, r"partial_mass: expected a share in \(0, 1\]"),
        ({"partial_mass": "half"}, "partial_mass: expected a share"),
        ({"partial_mass": 0.5, "method": "snn"}, "partial_mass: expected a share"),
        ({"partial_mass": 0.5, "unbalanced": (0.5, 0.5)}, "partial_mass: expected a share"),
        ({"n_neighbors": 0}, "n_neighbors: expected a positive whole number, got 0"),
        ({"max_block_size": 0}, "max_block_size: expected a positive whole number, got 0"),
        ({"max_iterations": 2.5}, "max_iterations: expected a positive whole number, got 2.5"),
        ({"dtype": "float16"}, "dtype: expected 'float32' or 'float64', got 'float16'"),
        ({"device": "abacus"}, "device: expected one that torch can use here, got 'abacus'"),
        ({"seed": -1}, "seed: expected a whole number >= 0, got -1"),
        ({"seed": None}, "seed: expected a whole number"),
        ({"method": "gw", "X_target": X[:, :1]}, "at least 2 features, whose correlation is the distance"),
    ],
)
def test_bad_input(options, match):
    with pytest.raises(ValueError, match=match):
        couple(**{"X_source": X, "X_target": X, **options})


def test_gromov_wasserstein_refuses_groups_that_would_take_days(monkeypatch):
    monkeypatch.setattr("perturbia.stats._block_solvers._MAX_GROMOV_PAIRS", 15)
    with pytest.raises(
        ValueError, match="method: expected groups of at most 15 pairs of cells for 'gw', got 4 x 4. Draw"
    ):
        couple(X, X, method="gw")


MEMORY = """
from pathlib import Path
import numpy as np
import torch
from perturbia.stats import couple

torch.set_num_threads(1)

def resident(name):
    (line,) = [line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith(name)]
    return int(line.split()[1]) / 2**10

def added(function):
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    before = resident("VmRSS")
    result = function()
    return resident("VmHWM") - before, result

def draw(n, n_groups):
    rng = np.random.default_rng(0)
    groups = np.arange(n) % n_groups
    z = rng.normal(size=(n_groups, 10))[groups] + rng.normal(size=(n, 10))
    return [(z + 0.3 * rng.normal(size=z.shape)).astype(np.float32) for _ in range(2)] + [groups, groups]

couple(*draw(100, 2)).pull(np.zeros((100, 2), dtype=np.float32))
data = draw({n}, {n_groups})
features = np.random.default_rng(0).normal(size=({n}, 200)).astype(np.float32)
solved, coupling = added(lambda: couple(*data{options}))
pulled, _ = added(lambda: coupling.pull(features))
read, _ = added(lambda: (coupling.push(features), coupling.statistics(), coupling.sample(2)))
shortened, _ = added(lambda: coupling.to_sparse(0.99, 20))
print(solved, pulled, read, shortened)
"""


def added_megabytes(n, n_groups, options=""):
    """Peak memory that matching, reading and making sparse add, in a fresh process."""
    code = MEMORY.format(n=n, n_groups=n_groups, options=options)
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment)
    return [float(one) for one in found.stdout.split()]


needs_peak = pytest.mark.skipif(
    not os.access("/proc/self/clear_refs", os.W_OK), reason="needs a system that tells the peak of memory"
)


@needs_peak
def test_memory_of_many_groups():
    """20,000 x 20,000 cells in 50 groups: a dense plan would take 1.6 GB, features of all pairs 320 GB."""
    solved, pulled, read, shortened = added_megabytes(20_000, 50)
    assert sum((solved, pulled, read, shortened)) < 500
    assert solved < 100
    assert pulled < 100  # the result holds 16 MB


@pytest.mark.slow
@needs_peak
@pytest.mark.parametrize("options", ["", ", cost='euclidean'", ", partial_mass=0.9", ", dtype='float64'"])
def test_memory_of_one_group_is_that_of_few_matrices(options):
    block = 4000 * 4000 * 4 / 2**20
    solved, *others = added_megabytes(4000, 1, options)
    assert 0.9 * block < solved < 3 * block
    assert max(others) < 3 * block
