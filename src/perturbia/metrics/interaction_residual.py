"""What a combination does beyond the sum of its members, true against predicted."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbia.metrics._paired_effects import as_rows, paired_effects, residual, result, rounding, settle_undefined
from perturbia.metrics.correlation import effect_correlation
from perturbia.stats._arrays import check_same_shape, dense_matrix


def _residuals(
    truth: Any, prediction: Any, truth_additive: Any, prediction_additive: Any
) -> tuple[np.ndarray, np.ndarray]:
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    true_sum = dense_matrix(truth_additive, "truth_additive")
    predicted_sum = dense_matrix(prediction_additive, "prediction_additive")
    check_same_shape(true, true_sum, ("truth", "truth_additive"))
    check_same_shape(true, predicted_sum, ("truth", "prediction_additive"))
    return (
        residual(true, true_sum, tolerance=rounding(truth, truth_additive)),
        residual(predicted, predicted_sum, tolerance=rounding(prediction, prediction_additive)),
    )


def interaction_correlation(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    truth_additive: np.ndarray,
    prediction_additive: np.ndarray,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Pearson correlation of true and predicted interactions.

    .. math:: r = \operatorname{corr}\left(\delta_{AB} - \delta_A - \delta_B,\;
              \hat\delta_{AB} - \hat\delta_A - \hat\delta_B\right)

    Most of a double perturbation is the sum of its members, and any model that adds them scores high in
    :func:`effect_correlation`. What is left is the interaction; an additive model scores 0 here by construction.

    **Range** [-1, 1], 1 best. **Chance** is 0. **Not seen**: the size of predicted interactions (report
    :func:`interaction_r2` beside it). Measured interactions carry the noise of three means: judge them against a ceiling.

    Parameters
    ----------
    truth, prediction
        Effects of combinations against control, shape (n_combinations, n_genes), same order and scale.
    truth_additive
        Sums of the **observed** effects of each combination's members, same shape. Take them from other control cells
        than `truth`, or both residuals share those cells' noise.
    prediction_additive
        Sums of the effects that the **model** gives these members, same shape.
    per_perturbation
        One correlation for each combination instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_combinations,). A prediction without interaction, up to rounding, scores 0. A
    combination whose true interaction is constant has no score: NaN with a warning.

    Raises
    ------
    ValueError
        Bad arrays, shapes that do not match, or no true interaction at all.

    Warns
    -----
    RuntimeWarning
        Some true interactions are constant.

    Examples
    --------
    >>> import numpy as np
    >>> a, b, both = np.random.default_rng(0).normal(size=(3, 4, 30))
    >>> interaction_correlation(both, a + b, truth_additive=a + b, prediction_additive=a + b)
    0.0
    """
    true, predicted = _residuals(truth, prediction, truth_additive, prediction_additive)
    return effect_correlation(true, predicted, per_perturbation=per_perturbation)


def interaction_r2(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    truth_additive: np.ndarray,
    prediction_additive: np.ndarray,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Share of the true interactions that the predicted ones explain.

    .. math:: R^2 = 1 - \frac{\lVert \epsilon - \hat\epsilon \rVert^2}{\lVert \epsilon \rVert^2}, \quad
              \epsilon = \delta_{AB} - \delta_A - \delta_B

    Against zero rather than against the mean of :math:`\epsilon`, so that an additive model scores exactly 0.

    **Range** up to 1, best; no lower bound. An additive model scores 0, a guess that is wrong in size or sign less.
    **Not seen**: errors of the additive part.

    Parameters
    ----------
    truth, prediction, truth_additive, prediction_additive
        As in :func:`interaction_correlation`.
    per_perturbation
        One value for each combination instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_combinations,). A combination without any true interaction has no score: NaN with a
    warning.

    Raises
    ------
    ValueError
        As :func:`interaction_correlation`.

    Warns
    -----
    RuntimeWarning
        Some combinations have no true interaction.

    Examples
    --------
    >>> import numpy as np
    >>> a, b, both = np.random.default_rng(0).normal(size=(3, 4, 30))
    >>> interaction_r2(both, a + b, truth_additive=a + b, prediction_additive=a + b)
    0.0
    """
    true, predicted = _residuals(truth, prediction, truth_additive, prediction_additive)
    true, predicted = (as_rows(matrix, per_perturbation=per_perturbation) for matrix in (true, predicted))
    size, error = (true**2).sum(axis=1), ((true - predicted) ** 2).sum(axis=1)
    scores = 1.0 - np.divide(error, size, out=np.zeros_like(error), where=size > 0)
    return result(settle_undefined(scores, size > 0, "interactions are zero"), per_perturbation=per_perturbation)
