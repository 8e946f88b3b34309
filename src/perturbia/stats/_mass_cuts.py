"""Cut a large group of cells of two sides into parts of equal mass along its principal axis."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from perturbia.stats._coupling_plans import Part
from perturbia.stats.variance_axes import principal_axes

if TYPE_CHECKING:
    from perturbia.stats._coupling_plans import Plan

__all__ = ["MassCut", "cut_in_parts"]

_AXIS_CELLS = 5000  # cells that the axis is computed from


@dataclass(frozen=True)
class MassCut:
    """A part of a group.

    Attributes
    ----------
    rows, columns
        Sorted positions of its cells on both sides. A cell at a cut belongs to both parts.
    row_weights, column_weights
        Their masses, of sum one; None for equal ones.
    share
        Share of the group.
    whole
        Whether it is all of the group.
    """

    rows: np.ndarray
    columns: np.ndarray
    row_weights: np.ndarray | None
    column_weights: np.ndarray | None
    share: float
    whole: bool

    def part(self, plan: Plan) -> Part:
        """The plan, with the positions of its cells.

        Parameters
        ----------
        plan
            Plan of the cells of this part.

        Returns
        -------
        The part of a coupling.
        """
        return Part(plan) if self.whole else Part(plan, self.rows, self.columns)


def cut_in_parts(x: np.ndarray, y: np.ndarray, max_size: int) -> list[MassCut]:
    """Halve until no side of a part has more than `max_size` cells.

    Parameters
    ----------
    x, y
        Cells in rows, shapes (n, d) and (m, d).
    max_size
        Cells of a side at most.

    Returns
    -------
    The parts. Over all of them, each cell has its mass: marginals stay exact.
    """
    rows, columns = np.arange(len(x)), np.arange(len(y))
    if max(len(x), len(y)) <= max_size:
        return [MassCut(rows, columns, None, None, 1.0, whole=True)]
    pieces = [(rows, np.full(len(x), 1 / len(x)), columns, np.full(len(y), 1 / len(y)), 1.0)]
    done = []
    while pieces:
        rows, a, columns, b, share = pieces.pop()
        if max(len(rows), len(columns)) <= max(max_size, 2):
            order, other = np.argsort(rows), np.argsort(columns)
            weights = a[order] / a.sum(), b[other] / b.sum()
            done.append(MassCut(rows[order], columns[other], *weights, share, whole=False))
            continue
        axis = _principal_axis(np.concatenate([_some(x[rows]), _some(y[columns])]))
        halves = _halve(rows, a, x[rows] @ axis), _halve(columns, b, y[columns] @ axis)
        pieces += [(*halves[0][side], *halves[1][side], share / 2) for side in (1, 0)]
    return done


def _some(points: np.ndarray) -> np.ndarray:
    return points[:: max(1, len(points) // _AXIS_CELLS)]


def _principal_axis(points: np.ndarray) -> np.ndarray:
    return principal_axes(points, 1).axes[:, 0] if points.shape[1] else np.zeros(0)


def _halve(
    positions: np.ndarray, weights: np.ndarray, height: np.ndarray
) -> tuple[tuple[np.ndarray, np.ndarray], tuple[np.ndarray, np.ndarray]]:
    """Both halves of the mass in the order of height; a cell across the middle is divided."""
    order = np.argsort(height, kind="stable")
    positions, weights = positions[order], weights[order]
    after = np.cumsum(weights)
    before, middle = after - weights, after[-1] / 2
    lower = np.clip(middle - before, 0, weights)
    upper = weights - lower
    tiny = 1e-12 * after[-1]
    return (
        (positions[lower > tiny], lower[lower > tiny]),
        (positions[upper > tiny], upper[upper > tiny]),
    )
