"""Degrees of freedom of the standard errors of observed effects, and Student's quantiles that follow from them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from scipy.special import ndtri, stdtr, stdtrit

from perturbia.model.baseline._training_effects import measure_effects
from perturbia.perturbation import unique_dosages

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["freedom_of_sum", "gaussian_equivalent", "student_limit", "welch_freedom"]

_MOST = 1e6  # Student's t is the normal distribution from here on


def welch_freedom(features: Any, dosage: sparse.csr_matrix, batch: np.ndarray) -> tuple[sparse.csr_matrix, np.ndarray]:
    r"""Welch-Satterthwaite degrees of freedom of the effects of the distinct perturbations.

    .. math:: \nu = \frac{(\sum_j v_j)^2}{\sum_j v_j^2 / \nu_j}

    over the sampling variances :math:`v_j` of an effect: the mean of its own cells, with as many degrees of freedom as it
    has cells less its batches, and the control mean of each batch, with its cells less one.

    Parameters
    ----------
    features
        Cells on the scale of the effects, `(n_cells, n_features)`, dense or sparse.
    dosage
        Dosage of the cells; zero rows are controls.
    batch
        Batch of each cell, integers from 0.

    Returns
    -------
    Distinct dosages `(K, n_perturbations)` and degrees of freedom, float64 `(K, n_features)`, 1 at the least.
    """
    n_batches = int(batch.max()) + 1
    measured = measure_effects(features, dosage, batch, n_batches)
    unique, group = unique_dosages(dosage)  # in the order of `measured`, controls first
    size = np.bincount(group * n_batches + batch, minlength=unique.shape[0] * n_batches).reshape(-1, n_batches)
    own = measured.variance.astype(np.float64)
    shared = measured.control_weight.astype(np.float64) ** 2
    control = measured.control_variance.astype(np.float64)
    # a batch that holds a perturbation takes one degree of freedom for its mean
    within = np.maximum(size[1:].sum(1) - (size[1:] > 0).sum(1), 1)
    parts = own**2 / within[:, None]
    parts += shared**2 @ (control**2 / np.maximum(size[0] - 1, 1)[:, None])
    total = (own + shared @ control) ** 2
    freedom = np.divide(total, parts, out=np.full_like(total, _MOST), where=parts > 0)
    return measured.dosage, np.clip(freedom, 1.0, _MOST)


def freedom_of_sum(freedom: np.ndarray, estimated: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Degrees of freedom where a standard deviation that is taken as known joins an estimated one, by the same rule."""
    share = np.divide(estimated**2, estimated**2 + known**2, out=np.zeros_like(freedom), where=estimated > 0)
    return np.minimum(np.divide(freedom, share**2, out=np.full_like(freedom, _MOST), where=share > 0), _MOST)


def student_limit(freedom: np.ndarray, level: float) -> np.ndarray:
    """Half the width of the central interval of Student's t at a level."""
    return stdtrit(freedom, (1 + level) / 2)


def gaussian_equivalent(error: np.ndarray, sd: np.ndarray, freedom: np.ndarray) -> np.ndarray:
    """Absolute errors as the normal quantiles of their place in Student's t; at most 38, where probabilities end."""
    sure = np.where(np.abs(error) > 0, np.inf, 0.0)  # no spread: inside every interval or none
    t = np.divide(np.abs(error), sd, out=sure, where=sd > 0)
    return np.minimum(-ndtri(stdtr(freedom, -t)), 38.0)
