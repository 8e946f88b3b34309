"""Coefficient of determination of predicted effects."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._paired_effects import as_rows, paired_effects, result, settle_undefined
from perturbia.stats.correlation import centre_rows


def effect_r2(truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False) -> float | np.ndarray:
    r"""Share of the variation of true effects that the prediction explains.

    .. math:: R^2 = 1 - \frac{\sum (\delta - \hat\delta)^2}{\sum (\delta - \bar\delta)^2}

    The convention of scikit-learn, truth first, as in Bereket and Karaletsos (2023).

    **Range** up to 1, best; no lower bound. **Chance**: a constant at the mean of the truth scores 0, a guess of wrong
    direction or size less. Unlike a correlation it punishes effects of the wrong size. **Not seen**, if flattened: which
    perturbations are missed, as the strong ones decide; by perturbation, weak ones go far below 0.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One value for each row instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A row of constant truth has no score: NaN with a warning.

    Raises
    ------
    ValueError
        Shapes differ, arrays are empty, not two-dimensional or not finite, or the truth is constant everywhere.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth are constant.

    Examples
    --------
    >>> import numpy as np
    >>> round(effect_r2(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 1.0, 1.0]])), 6)
    0.5
    """
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    true, predicted = (as_rows(effects, per_perturbation=per_perturbation) for effects in (true, predicted))
    _, length = centre_rows(true)
    varies = length > 0
    error = ((true - predicted) ** 2).sum(axis=1)
    scores = 1.0 - np.divide(error, length**2, out=np.zeros_like(error), where=varies)
    return result(settle_undefined(scores, varies, "effects are constant"), per_perturbation=per_perturbation)
