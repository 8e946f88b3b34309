"""Are strong perturbations predicted to be strong? Distances to control, true against predicted."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbia.metrics.correlation import effect_correlation
from perturbia.stats._arrays import check_same_shape, dense_matrix


def _vector(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.ndim != 1 or len(array) < 2:
        msg = f"{name}: expected one distance a perturbation, at least two of them, got shape {array.shape}."
        raise ValueError(msg)
    return dense_matrix(array[None, :], name)


def edistance_correlation(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Pearson correlation over perturbations of their distances to control, true and predicted.

    With energy distances of true cells to true control cells, and of predicted cells to the **same** control cells, this
    is `pearson_edistance` of cell-eval, which takes predicted controls for the second. Any other distance will do as well.

    **Range** [-1, 1], 1 best. **Chance** is 0. **Not seen**: what a perturbation does, only how much; and the unit of the
    predicted distances. A few strong perturbations decide it.

    Parameters
    ----------
    truth, prediction
        Distances to control, shape (n_perturbations,).

    Returns
    -------
    A float. The same predicted distance everywhere scores 0.

    Raises
    ------
    ValueError
        Arrays are not one-dimensional, differ in length, are shorter than two or not finite, or true distances are equal.

    Examples
    --------
    >>> round(edistance_correlation([1.0, 2.0, 3.0], [0.1, 0.3, 0.2]), 6)
    0.5
    """
    true, predicted = _vector(truth, "truth"), _vector(prediction, "prediction")
    check_same_shape(true[0], predicted[0], ("truth", "prediction"))
    return float(effect_correlation(true, predicted))
