from __future__ import annotations

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from perturbia.stats._mass_cuts import cut_in_parts


def masses(cuts, n, m):
    """Mass of every cell of both sides, over all parts."""
    totals = np.zeros(n), np.zeros(m)
    for cut in cuts:
        totals[0][cut.rows] += cut.share * cut.row_weights
        totals[1][cut.columns] += cut.share * cut.column_weights
    return totals


def check(x, y, max_size):
    cuts = cut_in_parts(x, y, max_size)
    n, m = len(x), len(y)
    assert sum(cut.share for cut in cuts) == pytest.approx(1, abs=1e-12)
    rows, columns = masses(cuts, n, m)
    np.testing.assert_allclose(rows, 1 / n, rtol=1e-9)
    np.testing.assert_allclose(columns, 1 / m, rtol=1e-9)
    for cut in cuts:
        assert 1 <= len(cut.rows) <= max(max_size, 2)
        assert 1 <= len(cut.columns) <= max(max_size, 2)
        assert (np.diff(cut.rows) > 0).all()
        assert (np.diff(cut.columns) > 0).all()
        assert cut.row_weights.min() > 0
        assert cut.column_weights.min() > 0
        assert cut.row_weights.sum() == pytest.approx(1)
        assert cut.column_weights.sum() == pytest.approx(1)
    return cuts


def test_small_groups_stay_whole():
    (cut,) = cut_in_parts(np.ones((5, 2)), np.ones((7, 2)), 7)
    assert cut.whole
    assert cut.share == 1
    assert cut.row_weights is None
    assert cut.column_weights is None


@given(
    sizes=st.tuples(st.integers(1, 300), st.integers(1, 300)).filter(lambda sizes: max(sizes) > 30),
    max_size=st.integers(1, 30),
    kind=st.sampled_from(["normal", "constant", "heavy", "two values"]),
    seed=st.integers(0, 100),
)
@example((7, 1000), 10, "normal", 0)
@example((1000, 7), 10, "constant", 0)
@example((1, 999), 10, "normal", 0)
@example((1000, 1), 1, "normal", 0)
@example((257, 256), 1, "heavy", 0)
@settings(max_examples=30)
def test_marginals_stay_exact_whatever_the_sizes(sizes, max_size, kind, seed):
    rng = np.random.default_rng(seed)

    def draw(n):
        points = rng.normal(size=(n, 3))
        if kind == "constant":
            return np.ones((n, 3))
        if kind == "heavy":
            return rng.standard_t(1.0, size=(n, 3))
        return np.sign(points) if kind == "two values" else points

    check(draw(sizes[0]), draw(sizes[1]), max_size)


def test_parts_follow_the_principal_axis():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(400, 3)) * [0.1, 5, 0.1]
    cuts = check(x, x[rng.permutation(400)] + [0, 100, 0], 101)
    assert len(cuts) == 4
    heights = sorted((x[cut.rows, 1].min(), x[cut.rows, 1].max()) for cut in cuts)
    for (_, below), (above, _) in zip(heights[:-1], heights[1:], strict=True):
        assert below <= above + 0.2


def test_an_offset_between_sides_does_not_separate_partners():
    rng = np.random.default_rng(0)
    x = rng.normal(size=(256, 2)) * [5, 1]
    cuts = cut_in_parts(x, x + [3, 0], 40)
    assert all((cut.rows == cut.columns).all() for cut in cuts)


def test_no_features():
    check(np.zeros((20, 0)), np.zeros((30, 0)), 4)


def test_axis_of_many_cells_is_computed_from_some(monkeypatch):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(500, 2)) * [9, 1]
    whole = cut_in_parts(x, x, 260)
    monkeypatch.setattr("perturbia.stats._mass_cuts._AXIS_CELLS", 50)
    for some, all_ in zip(cut_in_parts(x, x, 260), whole, strict=True):
        assert len(np.intersect1d(some.rows, all_.rows)) > 0.9 * len(all_.rows)
