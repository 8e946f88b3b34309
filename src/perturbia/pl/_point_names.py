"""Names beside points that do not cover one another."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.pl._style import INK

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes

__all__ = ["name_points"]

_LETTER = 0.58  # width of a letter as a share of its height
_MOST_COVERED = 1  # points that a name may hide
_GAP = 4.0  # points between a point and its name


def name_points(ax: Axes, x: np.ndarray, y: np.ndarray, names: Sequence[str], *, size: float = 6.5) -> None:
    """Write names beside points, the most important first; those that would cover another name are left out.

    Parameters
    ----------
    ax
        Axes with their final limits, drawn with a height equal to their width.
    x, y
        The points `(n,)`, those without a name last.
    names
        Names of the first points.
    size
        Height of letters in points.
    """
    box = ax.get_position()
    figure = ax.figure
    inches = min(box.width * figure.bbox.width, box.height * figure.bbox.height) / figure.dpi
    side = 72 * max(0.8 * inches, 0.5)  # points; labels and titles take the rest
    points = np.column_stack(
        [(values - limits[0]) / (limits[1] - limits[0]) * side
         for values, limits in ((x, ax.get_xlim()), (y, ax.get_ylim()))]
    )  # fmt: skip
    taken: list[np.ndarray] = []
    for (left, bottom), name in zip(points, names, strict=False):
        width = _LETTER * size * len(name)
        best = None
        for dx, dy in ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (-1, 1), (1, -1), (-1, -1)):
            reach = _GAP if dx == 0 or dy == 0 else 0.7 * _GAP
            start = left + (dx * reach if dx > 0 else dx * reach - width if dx < 0 else -width / 2)
            floor = bottom + (dy * reach if dy > 0 else dy * reach - size if dy < 0 else -size / 2)
            frame = np.array([start, floor, start + width, floor + size])
            outside = max(0.0, -frame[0], -frame[1], frame[2] - side, frame[3] - side)
            if outside > 0 or any(_overlap(frame, other) for other in taken):
                continue
            covered = int(((points > frame[:2] - 1) & (points < frame[2:] + 1)).all(axis=1).sum())
            if best is None or covered < best[0]:
                best = covered, frame, (dx, dy, reach)
        if best is None or best[0] > _MOST_COVERED:
            continue
        taken.append(best[1])
        dx, dy, reach = best[2]
        place: dict[str, Any] = {
            "ha": {1: "left", -1: "right", 0: "center"}[dx],
            "va": {1: "bottom", -1: "top", 0: "center"}[dy],
        }
        at = (
            ax.get_xlim()[0] + left / side * np.ptp(ax.get_xlim()),
            ax.get_ylim()[0] + bottom / side * np.ptp(ax.get_ylim()),
        )
        ax.annotate(
            name, at, (dx * reach, dy * reach), textcoords="offset points", fontsize=size, color=INK, zorder=5, **place
        )


def _overlap(one: np.ndarray, other: np.ndarray) -> bool:
    return bool((one[:2] < other[2:]).all() and (other[:2] < one[2:]).all())
