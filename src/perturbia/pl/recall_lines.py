"""Recall of known relations against how far into the tails of a map one looks."""

from __future__ import annotations

from textwrap import fill
from typing import TYPE_CHECKING, Any

from perturbia.pl._style import FAINT, INK, PALETTE, bare, colours_of, new_axes

if TYPE_CHECKING:
    from matplotlib.axes import Axes

    from perturbia.metrics import RelationshipRecall

__all__ = ["recall_curve"]

_LINES = ("-", "--", ":", "-.")
_BESIDE = 36  # letters of a name that fits beside the axes
_WIDTH = 4.8  # inches of new axes, about
_LETTERS = 13.5  # letters of a legend in an inch
_LABEL = 0.5  # inches that ticks and the label below the axes take
_NULLS = {
    "all": "all pairs",
    "excluding_known": "pairs that are not known",
    "degree_matched": "pairs of genes with as many partners",
}


def recall_curve(result: RelationshipRecall, *, title: str | None = None, ax: Axes | None = None) -> Axes:
    """Recall of known relations against the size of the tails, one line a database.

    Parameters
    ----------
    result
        Result of :func:`perturbia.metrics.relationship_recall`.
    title
        Title; by default what the known pairs were compared with, and the size of the map.
    ax
        Axes to draw into.

    Returns
    -------
    The axes: the share of known pairs in the two tails, with the interval from resampled genes, and the share that
    pairs at random would have (dashed). A curve that leaves that line at once has known pairs at the very ends.

    Raises
    ------
    TypeError
        If `result` is something else.

    Examples
    --------
    >>> import numpy as np, pandas as pd, perturbia as pb
    >>> genes = [f"G{i}" for i in range(30)]
    >>> profiles = pd.DataFrame(np.random.default_rng(0).normal(size=(30, 5)), index=genes)
    >>> pairs = list(zip(genes[:15], genes[15:]))
    >>> ax = pb.pl.recall_curve(pb.metrics.relationship_recall(profiles, {"pairs": pairs}, n_boot=100))
    >>> [text.get_text() for text in ax.get_legend().get_texts()]
    ['pairs (15 known pairs)', 'chance']
    """
    from perturbia.metrics import RelationshipRecall

    if not isinstance(result, RelationshipRecall):
        msg = (
            f"result: expected the result of perturbia.metrics.relationship_recall, got {type(result).__name__}. "
            "Make one with it."
        )
        raise TypeError(msg)
    n_pairs = result.table.drop_duplicates("database").set_index("database")["n_pairs"]
    width = _WIDTH if ax is None else ax.get_window_extent().width / ax.figure.dpi
    longest = int(_LETTERS * max(width, 2.0))
    names = {database: _legend_name(str(database), n, longest) for database, n in n_pairs.items()}
    below = max(len(line) for name in names.values() for line in name.splitlines()) > _BESIDE
    height = 0.16 * (1 + sum(name.count("\n") + 1 for name in names.values())) if below else 0.0
    ax = new_axes(ax, size=(5.8, 3.5 + height))
    colours = colours_of(list(n_pairs.index))
    for position, (database, curve) in enumerate(result.curve.groupby("database", sort=False)):
        tail, colour = 100 * curve["tail"], colours[str(database)]
        if curve["recall_lower"].notna().all():
            low, high = 100 * curve["recall_lower"], 100 * curve["recall_upper"]
            ax.fill_between(tail, low, high, color=colour, alpha=0.15, linewidth=0, zorder=2)
        style = _LINES[position // len(PALETTE) % len(_LINES)]
        ax.plot(
            tail,
            100 * curve["recall"],
            color=colour,
            linestyle=style,
            linewidth=1.6,
            label=names[database],
            zorder=3,
        )
    chance = result.curve.drop_duplicates("tail")
    ax.plot(
        100 * chance["tail"],
        100 * chance["chance"],
        color=INK,
        linewidth=1.0,
        linestyle=(0, (4, 3)),
        label="chance",
        zorder=4,
    )
    ax.set(
        xlim=(0, 100 * chance["tail"].max()),
        ylim=(0, 100),
        xlabel="tail on each side (% of compared pairs)",
        ylabel="known pairs in the tails (%)",
    )
    default = f"known relations of {result.n_perturbations:,} perturbations\nagainst {_NULLS[result.null]}"
    ax.set_title(default if title is None else title, fontsize=10, color=INK)
    ax.grid(axis="y", color=FAINT, linewidth=0.6)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8)
    ax.xaxis.label.set_fontsize(9)
    ax.yaxis.label.set_fontsize(9)
    _legend(ax, below=below)
    bare(ax)
    return ax


def _legend(ax: Axes, *, below: bool) -> None:
    """Databases beside the axes, or below them, where long names would leave no room."""
    place: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1.0, 0.5)}
    if below:
        tall = ax.get_window_extent().height / ax.figure.dpi
        place = {"loc": "upper left", "bbox_to_anchor": (0.0, -_LABEL / tall)}
    ax.legend(**place, fontsize=7.5, frameon=False, handlelength=1.8)


def _legend_name(database: str, n_pairs: int, longest: int) -> str:
    """Name of a database with the number of its pairs, in lines that fit below the axes."""
    return fill(f"{database} ({n_pairs:,} known pair{'' if n_pairs == 1 else 's'})", longest)
