"""The figure of recall shows the curves that the result holds."""

from __future__ import annotations

import matplotlib as mpl
import numpy as np
import pandas as pd
import pytest

mpl.use("agg")
import matplotlib.pyplot as plt
from matplotlib.colors import to_hex

from perturbia import pl
from perturbia.metrics import relationship_recall
from perturbia.pl._style import PALETTE


@pytest.fixture(autouse=True)
def _close():
    yield
    plt.close("all")


def make_result(names=("CORUM", "STRING"), *, null: str = "all", n_boot: int = 50):
    rng = np.random.default_rng(0)
    complexes = np.repeat(np.arange(20), 3)
    genes = [f"G{i}" for i in range(60)]
    features = pd.DataFrame(rng.normal(size=(20, 12))[complexes] + rng.normal(size=(60, 12)), index=genes)
    pairs = [(genes[i], genes[i + 1]) for i in range(59) if complexes[i] == complexes[i + 1]]
    databases = {name: pairs[i:] for i, name in enumerate(names)}
    return relationship_recall(features, databases, null=null, n_boot=n_boot)


def test_a_line_and_a_band_for_each_database():
    result = make_result()
    ax = pl.recall_curve(result)
    assert [line.get_label() for line in ax.lines] == ["CORUM (40 known pairs)", "STRING (39 known pairs)", "chance"]
    for line, band, (_, curve), colour in zip(
        ax.lines, ax.collections, result.curve.groupby("database", sort=False), PALETTE, strict=False
    ):
        np.testing.assert_allclose(line.get_xdata(), 100 * curve["tail"])
        np.testing.assert_allclose(line.get_ydata(), 100 * curve["recall"])
        assert line.get_color() == colour == to_hex(band.get_facecolor()[0]).upper()
        heights = band.get_paths()[0].vertices[:, 1]
        assert heights.max() == pytest.approx(100 * curve["recall_upper"].max())
    np.testing.assert_allclose(ax.lines[-1].get_ydata(), 2 * ax.lines[-1].get_xdata())
    assert ax.get_title() == "known relations of 60 perturbations\nagainst all pairs"
    assert "%" in ax.get_xlabel()
    assert "%" in ax.get_ylabel()


def test_without_resamples_there_are_no_bands(tmp_path):
    ax = pl.recall_curve(make_result(n_boot=0), title="bare")
    ax.figure.savefig(tmp_path / "a.png")
    assert not ax.collections
    assert ax.get_title() == "bare"


@pytest.mark.parametrize("null", ["excluding_known", "degree_matched"])
def test_the_title_names_what_is_compared_with(null):
    words = {"excluding_known": "not known", "degree_matched": "as many partners"}[null]
    assert words in pl.recall_curve(make_result(null=null)).get_title()


def test_axes_may_be_given():
    _, axes = plt.subplots(1, 2)
    assert pl.recall_curve(make_result(), ax=axes[1]) is axes[1]
    assert not axes[0].lines


def test_more_databases_than_colours_differ_by_line():
    names = [f"d{i}" for i in range(len(PALETTE) + 2)]
    lines = pl.recall_curve(make_result(names, n_boot=0)).lines[:-1]
    assert len({(line.get_color(), line.get_linestyle()) for line in lines}) == len(names)


@pytest.mark.parametrize("given", [None, 3, pd.DataFrame({"recall": [0.1]})])
def test_something_else_than_a_result(given):
    with pytest.raises(TypeError, match=r"expected the result of perturbia.metrics.relationship_recall, got"):
        pl.recall_curve(given)


@pytest.mark.parametrize("n", [1, 4])
def test_long_names_of_databases_leave_room_for_the_axes(n):
    names = [f"Protein complexes of the {i}. release of 2024, human, core set, filtered by evidence" for i in range(n)]
    ax = pl.recall_curve(make_result(names))
    ax.figure.canvas.draw()
    frame, axes = ax.figure.bbox, ax.get_window_extent()
    assert axes.width > 0.6 * frame.width
    assert axes.height > 2 * ax.figure.dpi
    for part in (ax.get_legend(), ax.title, ax.xaxis.label):
        box = part.get_window_extent()
        assert frame.x0 <= box.x0
        assert box.x1 <= frame.x1
        assert frame.y0 <= box.y0
        assert box.y1 <= frame.y1
    assert not ax.get_legend().get_window_extent().overlaps(ax.xaxis.label.get_window_extent())
    texts = [text.get_text().replace("\n", " ") for text in ax.get_legend().get_texts()]
    assert texts[0] == f"{names[0]} (40 known pairs)"
