"""Continuous ranked probability score: how good a predicted distribution is, in the unit of what it predicts."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.special

from perturbia.metrics._paired_effects import as_rows, result
from perturbia.stats._arrays import check_nonnegative, check_same_shape, dense_matrix


def checked_samples(samples: Any, shape: tuple[int, ...], *, least: int) -> np.ndarray:
    """Return finite float64 samples of shape (n_samples, *shape)."""
    array = np.asarray(samples)
    if array.ndim != 3 or array.shape[1:] != shape or len(array) < least:
        msg = (
            f"samples: expected at least {least} draws of the shape of truth, (n_samples, {shape[0]}, {shape[1]}), "
            f"got {array.shape}."
        )
        raise ValueError(msg)
    return dense_matrix(array.reshape(len(array), -1), "samples").reshape(array.shape)


def crps_gaussian(
    truth: np.ndarray, mean: np.ndarray, sd: np.ndarray, *, per_perturbation: bool = False
) -> float | np.ndarray:
    r"""Continuous ranked probability score of Gaussian predictions.

    .. math:: \mathrm{CRPS} = \sigma \left[ z \, (2\Phi(z) - 1) + 2\varphi(z) - \frac{1}{\sqrt\pi} \right], \quad
              z = \frac{y - \mu}{\sigma}

    A proper score: the true distribution has the best expected value, so that neither too narrow nor too wide an interval
    pays. **Range** from 0, best, in the unit of the effects; at `sd` = 0 it is the absolute error, which makes it comparable
    with :func:`mae` of a prediction without uncertainty. **Chance**: compare with the score of the training effects'
    distribution, there is no fixed level. **Not seen**: whether errors of different genes go together. A measured effect
    carries its own noise: add its variance to `sd`\ ², or a model that is right about the effect looks overconfident.

    Parameters
    ----------
    truth
        Effects against control, shape (n_perturbations, n_genes).
    mean, sd
        Mean and standard deviation of each prediction, same shape.
    per_perturbation
        The mean over each row instead of that over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, negative standard deviations.

    References
    ----------
    Gneiting and Raftery, Journal of the American Statistical Association 102 (2007), section 4.2.

    Examples
    --------
    >>> import numpy as np
    >>> round(crps_gaussian(np.zeros((1, 1)), np.zeros((1, 1)), np.ones((1, 1))), 4)
    0.2337
    """
    true, centre, spread = (dense_matrix(value, name) for value, name in ((truth, "truth"), (mean, "mean"), (sd, "sd")))
    check_same_shape(true, centre, ("truth", "mean"))
    check_same_shape(true, spread, ("truth", "sd"))
    check_nonnegative(spread, "sd")
    error = true - centre
    z = np.divide(error, spread, out=np.zeros_like(error), where=spread > 0)
    density = np.exp(-(z**2) / 2.0) / np.sqrt(2.0 * np.pi)
    scores = error * (2.0 * scipy.special.ndtr(z) - 1.0) + spread * (2.0 * density - 1.0 / np.sqrt(np.pi))
    rows = as_rows(np.where(spread > 0, scores, np.abs(error)), per_perturbation=per_perturbation)
    return result(rows.mean(axis=1), per_perturbation=per_perturbation)


def crps_samples(
    truth: np.ndarray, samples: np.ndarray, *, unbiased: bool = True, per_perturbation: bool = False
) -> float | np.ndarray:
    r"""Continuous ranked probability score of predictions given as samples.

    .. math:: \mathrm{CRPS} = \operatorname{E}|X - y| - \tfrac{1}{2} \operatorname{E}|X - X'|

    Range, levels and limits as in :func:`crps_gaussian`.

    Parameters
    ----------
    truth
        Effects against control, shape (n_perturbations, n_genes).
    samples
        Draws of the predicted effects, shape (n_samples, n_perturbations, n_genes).
    unbiased
        Average `|X - X'|` over pairs of different draws ("fair"): the expected score does not depend on the number of
        draws, and a single value can be below 0. `False` takes the draws for the whole distribution, which favours more
        of them.
    per_perturbation
        The mean over each row instead of that over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Bad arrays, shapes that do not match, fewer than two samples (one if not `unbiased`).

    References
    ----------
    Gneiting and Raftery (2007), section 4.2; Ferro, Quarterly Journal of the Royal Meteorological Society 140 (2014), for
    the fair form.

    Examples
    --------
    >>> import numpy as np
    >>> crps_samples(np.zeros((1, 1)), np.array([[[-1.0]], [[1.0]]]), unbiased=False)
    0.5
    """
    true = dense_matrix(truth, "truth")
    draws = np.sort(checked_samples(samples, true.shape, least=2 if unbiased else 1), axis=0)
    n = len(draws)
    # The sum of |x_i - x_j| over all ordered pairs is twice that of (2 i - n + 1) x_(i), i from 0.
    weight = 2.0 * (2.0 * np.arange(n) - n + 1.0)
    spread = np.tensordot(weight, draws - draws[n // 2], axes=1) / (n * (n - 1) if unbiased else n * n)
    rows = as_rows(np.abs(draws - true).mean(axis=0) - spread / 2.0, per_perturbation=per_perturbation)
    return result(rows.mean(axis=1), per_perturbation=per_perturbation)
