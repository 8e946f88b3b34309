"""The plan of a perturbation as an image: the order of its cells, and tiles that are large enough to be seen."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

__all__ = ["PlanImage", "plan_image"]

#: Rows and columns of an image; more could not be told apart at the size of a figure in a notebook.
_PIXELS = 160


@dataclass(frozen=True)
class PlanImage:
    """A plan whose cells are in order.

    Attributes
    ----------
    values
        Mass relative to an even share, `(n_rows, n_columns)`: one cell, or the mean of some neighbours, a row and a column.
    rows, columns
        Positions of the cells in their order.
    """

    values: np.ndarray
    rows: np.ndarray
    columns: np.ndarray


def plan_image(
    plan: sp.csr_matrix,
    axis: np.ndarray,
    *,
    partners: np.ndarray | None = None,
    labels: tuple[np.ndarray, np.ndarray] | None = None,
) -> PlanImage:
    """Put the cells of a plan in order and average neighbours where there are too many.

    Parameters
    ----------
    plan
        Row-conditionals of one perturbation, `(n_source, n_target)`.
    axis
        Where target cells lie on the axis that orders them, `(n_target,)`; source cells are where their matches are.
    partners
        True partner of each source cell, -1 for none: source cells are where it is.
    labels
        Number of the label of source and of target cells, which come before anything else.

    Returns
    -------
    :class:`PlanImage`. Source cells without mass, or without a partner, are the last of their label.
    """
    sums = np.asarray(plan.sum(axis=1)).ravel()
    if partners is None:
        place = np.where(sums > 0, plan @ axis, np.inf)
    else:
        place = np.where(partners >= 0, axis[np.maximum(partners, 0)], np.inf)
    first, second = labels if labels is not None else (np.zeros(len(sums)), np.zeros(len(axis)))
    rows, columns = np.lexsort((place, first)), np.lexsort((axis, second))
    fold = plan[rows][:, columns] * plan.shape[1]
    down, across = (_averages(n) for n in plan.shape)
    return PlanImage((down @ fold @ across.T).toarray(), rows, columns)


def _averages(n_cells: int) -> sp.csr_matrix:
    """Means of as many neighbours as leave no more rows than can be seen."""
    n = min(n_cells, _PIXELS)
    pixel = np.arange(n_cells) * n // n_cells
    width = np.bincount(pixel)
    return sp.csr_matrix((1.0 / width[pixel], (pixel, np.arange(n_cells))), shape=(n, n_cells))
