"""What scatters of cells share: which groups are coloured, how large a point is, where the legend goes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.pl._methods import check_names
from perturbia.pl._style import FAINT, PALETTE

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from matplotlib.axes import Axes

__all__ = ["groups_to_colour", "legend_beside", "panel", "point_size"]


def groups_to_colour(
    labels: np.ndarray,
    asked: Sequence[str] | None,
    *,
    drawn: np.ndarray,
    greys: Collection[str],
    argument: str,
    of: str,
) -> list[str]:
    """The groups `asked` for, or as many of those of most drawn cells as there are colours, without the `greys`.

    Raises
    ------
    ValueError
        If one that was asked for is no label.
    """
    if asked is None:
        names, count = np.unique(labels[drawn], return_counts=True)
        others = [str(name) for name in names[np.argsort(-count, kind="stable")] if name not in greys]
        return sorted(others[: len(PALETTE)])
    return check_names(asked, np.unique(labels), argument=argument, of=of) if list(asked) else []


def point_size(n_cells: int) -> float:
    """Area of a point in square points, smaller for more cells."""
    return float(np.clip(30_000 / max(n_cells, 1), 1.5, 20))


def panel(ax: Axes) -> None:
    """Frame an axis whose numbers mean nothing."""
    ax.set(xticks=[], yticks=[])
    for spine in ax.spines.values():
        spine.set_color(FAINT)


def legend_beside(ax: Axes) -> None:
    """Legend at the right of the axes."""
    ax.legend(loc="center left", bbox_to_anchor=(1.0, 0.5), frameon=False, fontsize=8, handletextpad=0.2)
