"""The figure of a block search shows what the table and its scores hold, from either form."""

from __future__ import annotations

import anndata as ad
import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import same_color

from perturbia import pl, tl
from perturbia.errors import FeatureMismatch
from perturbia.pl._style import ACCENT


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def search(*, n_blocks: int = 4, tasks="gene") -> tuple[ad.AnnData, pd.DataFrame]:
    rng = np.random.default_rng(0)
    gene = np.tile(np.arange(4), 20)
    obs = pd.DataFrame(
        {"gene": gene.astype(str), "complex": (gene // 2).astype(str), "plate": np.repeat(list("abcd"), 20)},
        index=map(str, range(80)),
    )
    adata = ad.AnnData(np.zeros((80, 1), np.float32), obs=obs)
    for depth in range(n_blocks):
        adata.obsm[f"X_{depth}"] = (1 + 2 * (depth == 1)) * np.eye(4)[gene] + rng.normal(size=(80, 4))
    names = [f"X_{depth}" for depth in range(n_blocks)]
    return adata, tl.block_search(adata, names, label_key=tasks, group_key="plate", n_splits=4)


def errorbars(ax) -> dict[str, tuple]:
    """Marker line and bar segments by label."""
    return {one.get_label(): (one.lines[0], one.lines[2][0].get_segments()) for one in ax.containers}


@pytest.mark.parametrize("form", ["data", "table", "file"])
def test_one_task(form, tmp_path):
    adata, table = search()
    if form == "file":
        adata.write_h5ad(tmp_path / "a.h5ad")
        adata = ad.read_h5ad(tmp_path / "a.h5ad")
    ax = pl.block_search(table if form == "table" else adata)
    bars = errorbars(ax)
    line, segments = bars["block, mean ± se"]
    np.testing.assert_array_equal(line.get_xdata(), range(4))
    np.testing.assert_allclose(line.get_ydata(), table["mean"])
    np.testing.assert_allclose([one[1][1] - one[0][1] for one in segments], 2 * table["se"])
    score = table.attrs["nested_score"]
    diamond, ((low, high),) = bars[f"nested score of the\nsearch, {score:.3f}"]
    np.testing.assert_allclose(diamond.get_ydata(), [score])
    np.testing.assert_allclose(high[1] - low[1], 2 * table.attrs["nested_se"])
    labelled = {one.get_label(): one for one in ax.lines}
    chosen = labelled["chosen block"]
    place = int(np.flatnonzero(table["selected"])[0])
    assert (chosen.get_xdata()[0], chosen.get_ydata()[0]) == (place, table["mean"].iloc[place])
    assert same_color(chosen.get_color(), ACCENT)
    np.testing.assert_allclose(labelled["chance 0.25"].get_ydata(), 0.25)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["X_0", "X_1", "X_2", "X_3"]
    first, second = ax.get_title().splitlines()
    assert first.startswith(f"search: nested score {score:.3f}")
    assert second == f"selected X_{place}, chosen in {table.attrs['nested_blocks'].count(f'X_{place}')} of 4 folds"
    assert "balanced accuracy" in ax.get_ylabel()


def test_cost_is_drawn_behind_and_below_the_scores():
    _, table = search()
    ax = pl.block_search(table)
    cost = next(other for other in ax.figure.axes if other is not ax)
    heights = [bar.get_height() for bar in cost.patches]
    np.testing.assert_allclose(heights, table["seconds"])
    assert [text.get_text() for text in cost.texts] == [f"{table['seconds'].max():.2g} s"]
    assert cost.get_zorder() < ax.get_zorder() or not ax.patch.get_visible()
    lowest = (table["mean"] - table["se"]).min()
    share = (min(lowest, 0.25) - ax.get_ylim()[0]) / np.ptp(ax.get_ylim())
    assert max(heights) / cost.get_ylim()[1] < share


def test_several_tasks_have_lines_of_their_own():
    _, table = search(tasks=["gene", "complex"])
    ax = pl.block_search(table)
    bars = errorbars(ax)
    for task in ("gene", "complex"):
        own = table.loc[table["task"] == task, "mean"]
        np.testing.assert_allclose(bars[task][0].get_ydata(), own)
    assert not same_color(bars["gene"][0].get_markeredgecolor(), bars["complex"][0].get_markeredgecolor())
    diamonds = sorted(one[0].get_ydata()[0] for name, one in bars.items() if name not in ("gene", "complex"))
    nested = [one.lines[0].get_ydata()[0] for one in ax.containers if one.lines[0].get_marker() == "D"]
    np.testing.assert_allclose(sorted(nested), sorted(table.attrs["nested_score"].values()))
    assert set(diamonds) <= set(nested)
    names = {text.get_text() for text in ax.get_legend().get_texts()}
    assert names == {"chosen for all", "gene", "complex", "chosen in a task", "nested score", "chance", "CPU seconds"}
    assert ax.get_title() == "X_1: least mean rank in 2 tasks"


def test_axes_title_and_many_blocks():
    _, table = search(n_blocks=45)
    figure, ax = plt.subplots()
    assert pl.block_search(table, ax=ax, title="48 layers") is ax
    assert ax.get_title() == "48 layers"
    ticks = ax.get_xticklabels()
    assert [tick.get_text() for tick in ticks] == [f"X_{i}" for i in range(0, 45, 2)]
    assert ticks[0].get_rotation() == 90
    figure.canvas.draw()


def test_a_single_block():
    _, table = search(n_blocks=1)
    low, high = pl.block_search(table).get_ylim()
    assert low < table["mean"].iloc[0] < high


@pytest.mark.parametrize("change", ["column", "score", "rows", "foreign"])
def test_something_else_than_a_result(change):
    adata, table = search()
    if change == "column":
        table, match = table.drop(columns="se"), "got no se"
    elif change == "score":
        del table.attrs["chance"]
        match = "got no chance"
    elif change == "rows":
        table, match = table.iloc[:0], "got no rows"
    else:
        adata.uns["block_search"] = 3
        table, match = adata, "got no task, block"
    with pytest.raises(ValueError, match=match):
        pl.block_search(table)


def test_missing_keys_and_other_types():
    adata, _ = search()
    with pytest.raises(
        FeatureMismatch, match="key: expected a key of adata.uns, got 'blocks'; keys are 'block_search'"
    ):
        pl.block_search(adata, key="blocks")
    with pytest.raises(TypeError, match="adata_or_table: expected AnnData or the result .* got list"):
        pl.block_search([1])


def test_the_title_says_whose_score_it_is_where_folds_disagree_and_fits():
    _, table = search(n_blocks=3)
    table.attrs["nested_blocks"] = ["X_0", "X_1", "X_0", "X_0"]
    ax = pl.block_search(table)
    assert ax.get_title().splitlines()[-1] == "selected X_1, chosen in 1 of 4 folds"
    ax.figure.canvas.draw()
    assert inside(ax.title.get_window_extent(), ax.figure.bbox)
    table["block"] = table["block"].replace("X_1", "X_a_long_name_of_a_layer_" + "standardized_" * 3)
    table.attrs["selected"] = table["block"].iloc[1]
    ax = pl.block_search(table)
    ax.figure.canvas.draw()
    assert inside(ax.title.get_window_extent(), ax.figure.bbox)
    del table.attrs["nested_blocks"]  # of an earlier version
    assert "folds" not in pl.block_search(table).get_title()


def inside(box, frame) -> bool:
    return frame.x0 <= box.x0 and box.x1 <= frame.x1 and frame.y0 <= box.y0 and box.y1 <= frame.y1
