"""How many cells of a condition every side of a test of differential expression has."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.tl._evaluation.control_cells import base_cells

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["FEW_TESTED", "match_cells", "matched_sizes"]

FEW_TESTED = 30  # fewer cells leave most true effects undetected


def match_cells(truth: Truth, predictions: Sequence[Prediction]) -> None:
    """Let no side of a test have more cells than any of these predictions, before the first test is made.

    The number of significant genes follows the number of cells. So held-out and predicted cells of a condition are cut to
    the same number, and to one for all methods: to the held-out cells, to the training controls in their batches, which
    predicted effects shift, and to the cells of predictions that were given as cells. Cells that are drawn twice would not
    do, because a test takes them for independent ones.
    """
    limits = [one.n_cells for one in predictions if one.n_cells is not None]
    if limits:
        truth.__dict__["cell_limit"] = np.min(limits, axis=0)


def matched_sizes(truth: Truth) -> np.ndarray:
    """Cells of each condition that held-out and predicted side have, `(n_conditions,)`."""
    cache = truth.__dict__
    if "matched_sizes" not in cache:
        sizes = [min(len(rows), len(base_cells(truth, i))) for i, rows in enumerate(truth.populations)]
        cache["matched_sizes"] = np.minimum(np.array(sizes), cache.get("cell_limit", np.inf)).astype(np.int64)
    return cache["matched_sizes"]
