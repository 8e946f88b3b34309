"""Cosine of the angle between predicted and measured effects."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._paired_effects import as_rows, paired_effects, result, settle_undefined


def effect_cosine(truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False) -> float | np.ndarray:
    r"""Cosine similarity between true and predicted effects.

    .. math:: \cos = \frac{\delta \cdot \hat\delta}{\lVert \delta \rVert \, \lVert \hat\delta \rVert}

    Like a correlation without centring: zero effect stays the reference point.

    **Range** [-1, 1], 1 best. **Chance** is 0, but a shift that all perturbations share is rewarded, as in
    :func:`effect_correlation`. **Not seen**: the size of a prediction. On :func:`log_fold_change` it is the `cosine` of
    PerturBench (Wu et al., 2024).

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One value for each row instead of one over all entries.

    Returns
    -------
    A float in [-1, 1], or an array of shape (n_perturbations,). A prediction of no effect scores 0. A row without any
    true effect has no score: NaN with a warning.

    Raises
    ------
    ValueError
        Shapes differ, arrays are empty, not two-dimensional or not finite, or the truth is zero everywhere.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth are zero.

    Examples
    --------
    >>> import numpy as np
    >>> round(effect_cosine(np.array([[1.0, 0.0]]), np.array([[3.0, 4.0]])), 6)
    0.6
    """
    true, predicted = paired_effects(truth, prediction)
    true, predicted = (as_rows(effects, per_perturbation=per_perturbation) for effects in (true, predicted))
    true_length, length = np.linalg.norm(true, axis=1), np.linalg.norm(predicted, axis=1)
    moves = true_length > 0
    product = np.einsum("ij,ij->i", true, predicted)
    scale = true_length * length
    scores = np.clip(np.divide(product, scale, out=np.zeros_like(product), where=scale > 0), -1.0, 1.0)
    return result(settle_undefined(scores, moves, "effects are zero"), per_perturbation=per_perturbation)
