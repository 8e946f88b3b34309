"""The figure of consistency shows what the result holds."""

from __future__ import annotations

from dataclasses import replace

import matplotlib as mpl
import numpy as np
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt

from perturbia import pl
from perturbia.metrics import ReplicateConsistency, replicate_consistency


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def make_result(n: int = 20, *, scale: float = 1.0, batched: bool = True) -> ReplicateConsistency:
    rng = np.random.default_rng(0)
    effects = rng.normal(size=(n, 12)) * scale * (np.arange(n) < n // 2)[:, None]
    labels, plates = np.repeat([f"g{i:02d}" for i in range(n)], 4), np.tile([*"abcd"], n)
    values = np.repeat(effects, 4, axis=0) + rng.normal(size=(4 * n, 12))
    return replicate_consistency(values, labels, batch_key=plates if batched else None, n_null=200, max_pairs=3000)


def test_distributions():
    result = make_result()
    left, right = pl.consistency(result)
    assert left.get_title().startswith("replicates of ")
    assert right.get_title() == "consistency of each"
    left, _ = pl.consistency(result, title="wells")
    different, same, gap = left.lines
    for line, cosines in ((different, result.different_cosines), (same, result.same_cosines)):
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        assert (y[0], y[-1]) == (0, 1)
        inner = slice(1, -1)
        share = np.searchsorted(np.sort(cosines), x[inner], side="right") / len(cosines)
        np.testing.assert_allclose(y[inner], share, atol=1e-9)
        assert len(np.unique(cosines)) == len(cosines)  # as many pairs as are named
        assert f"{len(cosines):,} pairs" in line.get_label()
    assert "same" in same.get_label()
    assert set(gap.get_xdata()) == {result.ks_location}
    assert abs(np.diff(gap.get_ydata())[0]) == pytest.approx(result.ks)
    (text,) = left.texts
    assert text.get_text() == f"KS {result.ks:.2f}"
    assert left.get_xlabel() == "cosine of two rows of different batches"
    assert left.get_title() == "wells"


def test_weights_are_drawn():
    result = make_result()
    weights = np.random.default_rng(0).random(len(result.different_weights))
    line = pl.consistency(replace(result, different_weights=weights / weights.sum()))[0].lines[0]
    share = [weights[result.different_cosines <= x].sum() / weights.sum() for x in line.get_xdata()[1:-1]]
    np.testing.assert_allclose(line.get_ydata()[1:-1], share, atol=1e-9)


def test_many_pairs_are_thinned():
    many = {"different_cosines": np.linspace(-1, 1, 50_000), "different_weights": np.full(50_000, 1 / 50_000)}
    result = replace(make_result(), **many)
    line = pl.consistency(result)[0].lines[0]
    assert len(line.get_xdata()) < 2500


def test_perturbations_by_rank():
    result = make_result()
    _, right = pl.consistency(result, n_labels=3)
    found, other = right.collections
    table = result.table.sort_values("consistency", ascending=False)
    points = np.concatenate([found.get_offsets(), other.get_offsets()])
    points = points[np.argsort(points[:, 0])]
    np.testing.assert_allclose(points, np.c_[np.arange(1, 21), table["consistency"]])
    n_found = (table["q_value"] <= 0.05).sum()
    assert 0 < n_found < 20
    assert found.get_label() == f"q ≤ 0.05: {n_found} of 20"
    assert len(found.get_offsets()) == n_found
    assert [text.get_text() for text in right.texts] == table.index[:3].tolist()
    assert right.lines[1].get_ydata()[0] == pytest.approx(table["null_mean"].mean())


def test_level_and_names():
    result = make_result()
    right = pl.consistency(result, level=1.0, n_labels=0)[1]
    assert not right.texts
    (points,) = right.collections
    assert points.get_label() == "q ≤ 1: 20 of 20"
    assert len(pl.consistency(result, n_labels=100)[1].texts) == 20


def test_given_axes():
    _, axes = plt.subplots(1, 2)
    n_figures = len(plt.get_fignums())
    drawn = pl.consistency(make_result(batched=False), ax=axes)
    assert drawn == list(axes)
    assert len(plt.get_fignums()) == n_figures
    assert drawn[0].get_xlabel() == "cosine of two rows"
    with pytest.raises(TypeError, match="ax: expected two axes, got 1"):
        pl.consistency(make_result(), ax=axes[0])
    with pytest.raises(TypeError, match="ax: expected two axes, got 3"):
        pl.consistency(make_result(), ax=[*axes, axes[0]])


def test_perturbations_without_a_score_are_not_drawn():
    result = make_result()
    table = result.table.copy()
    table.iloc[3:5, 3:] = np.nan
    _, right = pl.consistency(replace(result, table=table))
    assert sum(len(points.get_offsets()) for points in right.collections) == 18


def test_strong_and_missing_samples_can_be_drawn(tmp_path):
    pl.consistency(make_result(scale=40.0))[0].figure.savefig(tmp_path / "a.png")
    rng = np.random.default_rng(0)
    with pytest.warns(RuntimeWarning, match="batch_key"):
        result = replicate_consistency(
            rng.normal(size=(8, 3)), np.repeat([*"ab"], 4), batch_key=[*"ppqqrrss"], n_null=9
        )
    left, _ = pl.consistency(result)
    assert not left.texts
    left.figure.savefig(tmp_path / "b.png")


def test_something_else_than_a_result():
    with pytest.raises(
        TypeError, match=r"result: expected the result of perturbia.metrics.replicate_consistency, got dict"
    ):
        pl.consistency({})
