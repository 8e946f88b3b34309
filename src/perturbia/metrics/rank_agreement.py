"""Rank correlation of predicted and measured effects."""

from __future__ import annotations

from typing import TYPE_CHECKING

import scipy.stats

from perturbia.metrics._paired_effects import as_rows, paired_effects
from perturbia.metrics.correlation import effect_correlation

if TYPE_CHECKING:
    import numpy as np


def effect_rank_correlation(
    truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False
) -> float | np.ndarray:
    """Spearman correlation between true and predicted effects.

    The Pearson correlation of average ranks. **Range** [-1, 1], 1 best. **Chance** is 0, though the shift that all
    perturbations share is worth as much as in :func:`effect_correlation`. **Not seen**: scale and any monotone distortion;
    the many genes without effect weigh as much as the few with one.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One correlation for each row instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A constant prediction scores 0. A row of constant truth has no
    score: NaN with a warning.

    Raises
    ------
    ValueError
        As :func:`effect_correlation`.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth are constant.

    Examples
    --------
    >>> import numpy as np
    >>> round(effect_rank_correlation(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 50.0, 10.0]])), 6)
    0.5
    """
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    ranks = [
        scipy.stats.rankdata(as_rows(effects, per_perturbation=per_perturbation), axis=1)
        for effects in (true, predicted)
    ]
    return effect_correlation(*ranks, per_perturbation=per_perturbation)
