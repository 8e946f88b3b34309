"""Scores of many methods side by side."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.pl._style import ACCENT, FAINT, INK, MUTED, PALETTE

if TYPE_CHECKING:
    from collections.abc import Sequence

    import pandas as pd
    from matplotlib.figure import Figure

__all__ = ["scores"]


def scores(
    table: pd.DataFrame,
    *,
    columns: Sequence[str],
    highlight: Sequence[str] = (),
    ceiling: str | None = None,
    title: str | None = None,
) -> Figure:
    """Strip of scores: one row a method, one panel a score.

    Parameters
    ----------
    table
        Methods × scores; missing scores (NaN) leave their place empty.
    columns
        Scores to draw.
    highlight
        Methods in colour, such as the models among baselines.
    ceiling
        Row to draw as a dashed line instead of points.
    title
        Title of the figure.

    Returns
    -------
    The figure. The axis of a score begins at zero or, where scores are negative, no further down than -0.3: what lies
    below is drawn as an arrow at the edge.

    Examples
    --------
    >>> import pandas as pd, perturbia as pb
    >>> table = pd.DataFrame({"r": [0.7, 0.6]}, index=["model", "baseline"])
    >>> len(pb.pl.scores(table, columns=["r"], highlight=["model"]).axes)
    1
    """
    import matplotlib.pyplot as plt

    rows = table.drop(index=[ceiling] if ceiling in table.index else [])
    rows = rows.iloc[::-1]
    height = 0.26 * len(rows) + 1.1
    figure, axes = plt.subplots(
        1, len(columns), figsize=(2.5 * len(columns) + 2.2, height), sharey=True, squeeze=False, layout="constrained"
    )
    position = np.arange(len(rows))
    colours = np.array([ACCENT if name in set(highlight) else PALETTE[0] for name in rows.index])
    for ax, column in zip(axes[0], columns, strict=True):
        values = rows[column].to_numpy(dtype=float)
        finite = values[np.isfinite(values)]
        low = float(np.clip(finite.min(initial=0.0) * 1.1, -0.3, 0.0))
        below = values < low
        ax.hlines(position, 0, np.where(below, low, values), color=FAINT, linewidth=1)
        ax.axvline(0, color=FAINT, linewidth=1, zorder=0)
        ax.scatter(values[~below], position[~below], c=colours[~below], s=28, zorder=3)
        ax.scatter(np.full(below.sum(), low), position[below], c=colours[below], marker="<", s=28, zorder=3)
        if ceiling in table.index and np.isfinite(table.loc[ceiling, column]):
            ax.axvline(table.loc[ceiling, column], color=MUTED, linestyle="--", linewidth=1)
        for y, value, colour in zip(position, values, colours, strict=True):
            if np.isfinite(value):
                text = f"{value:.2f}".replace("-0.00", "0.00")
                place = {"xycoords": ax.get_yaxis_transform(), "ha": "right", "va": "center", "fontsize": 7.5}
                ax.annotate(text, (1.0, y), color=colour, **place)
        top = max(finite.max(initial=0.1), table[column].get(ceiling, 0.0) if ceiling else 0.0)
        top = float(np.nan_to_num(top))
        ax.set_xlim(low - 0.02, top + 0.3 * (top - low))  # room for the numbers
        ax.set_title(column, fontsize=10, color=INK)
        ax.tick_params(labelsize=8, length=0)
        ax.spines[["top", "right", "left"]].set_visible(False)
    axes[0, 0].set_yticks(position, rows.index)
    for tick in axes[0, 0].get_yticklabels():
        if tick.get_text() in set(highlight):
            tick.set(color=ACCENT, fontweight="bold")
    if title:
        figure.suptitle(title, fontsize=11, color=INK)
    return figure
