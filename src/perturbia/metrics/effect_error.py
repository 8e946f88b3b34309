"""Absolute and squared error of predicted effects."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._paired_effects import as_rows, paired_effects, result


def mae(truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False) -> float | np.ndarray:
    r"""Mean absolute error, :math:`\frac{1}{G} \sum_g |\delta_g - \hat\delta_g|`.

    Means and effects give the same value when one observed control mean is added to both. On mean profiles it is the `mae`
    of cell-eval and the Virtual Cell Challenge.

    **Range** from 0, best, in the unit of the effects. **Chance**: none; no effect at all scores the mean absolute effect,
    which is hard to beat where most genes do nothing. **Not seen**: direction and pattern of the few genes that matter.

    Parameters
    ----------
    truth, prediction
        Effects or mean profiles, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One value for each row instead of one over all entries.

    Returns
    -------
    A float in the unit of the effects, or an array of shape (n_perturbations,). 0 is best.

    Raises
    ------
    ValueError
        Shapes differ, or arrays are empty, not two-dimensional or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> mae(np.array([[0.0, 1.0]]), np.array([[1.0, 3.0]]))
    1.5
    """
    true, predicted = paired_effects(truth, prediction)
    rows = as_rows(np.abs(true - predicted), per_perturbation=per_perturbation)
    return result(rows.mean(axis=1), per_perturbation=per_perturbation)


def mse(truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False) -> float | np.ndarray:
    r"""Mean squared error, :math:`\frac{1}{G} \sum_g (\delta_g - \hat\delta_g)^2`.

    **Range** from 0, best, in the squared unit of the effects. **Chance**: none; no effect at all scores the mean square of
    the truth. **Not seen**: which of many small errors matter; a few strong genes decide it.

    Parameters
    ----------
    truth, prediction
        Effects or mean profiles, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One value for each row instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Shapes differ, or arrays are empty, not two-dimensional or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> mse(np.array([[0.0, 1.0]]), np.array([[3.0, 5.0]]))
    12.5
    """
    true, predicted = paired_effects(truth, prediction)
    rows = as_rows((true - predicted) ** 2, per_perturbation=per_perturbation)
    return result(rows.mean(axis=1), per_perturbation=per_perturbation)


def rmse(truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False) -> float | np.ndarray:
    r"""Root mean squared error, :math:`\sqrt{\frac{1}{G} \sum_g (\delta_g - \hat\delta_g)^2}`.

    The flattened value is the root of the mean over all entries, not the mean of the rows' values. By perturbation and
    averaged it is the `rmse` of PerturBench.

    **Range** from 0, best, in the unit of the effects. **Chance**: none; no effect at all scores the root mean square of the
    truth. **Not seen**: which of many small errors matter; a few strong genes decide it.

    Parameters
    ----------
    truth, prediction
        Effects or mean profiles, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One value for each row instead of one over all entries.

    Returns
    -------
    A float in the unit of the effects, or an array of shape (n_perturbations,). 0 is best.

    Raises
    ------
    ValueError
        Shapes differ, or arrays are empty, not two-dimensional or not finite.

    Examples
    --------
    >>> import numpy as np
    >>> round(rmse(np.array([[0.0, 1.0]]), np.array([[3.0, 5.0]])), 4)
    3.5355
    """
    true, predicted = paired_effects(truth, prediction)
    rows = as_rows((true - predicted) ** 2, per_perturbation=per_perturbation)
    return result(np.sqrt(rows.mean(axis=1)), per_perturbation=per_perturbation)
