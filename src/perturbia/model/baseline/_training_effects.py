"""Effects of the training cells against controls of the same batch, with what their errors are made of."""

from __future__ import annotations

import warnings
from dataclasses import dataclass

import numpy as np
from scipy import sparse

from perturbia.errors import ControlError, SplitError
from perturbia.perturbation import unique_dosages
from perturbia.stats import group_means

__all__ = ["TrainingEffects", "measure_effects"]


@dataclass(frozen=True)
class TrainingEffects:
    r"""Effects :math:`\delta_k = \bar x_k - \sum_b w_{kb} \bar x_{cb}` of the distinct perturbations that were measured.

    The weights :math:`w_{kb}` are the shares of the cells of perturbation :math:`k` in batch :math:`b`. A batch without
    controls is compared with the controls of all batches.

    Attributes
    ----------
    dosage
        CSR float32 `(K, n_perturbations)`, distinct rows, no control.
    effects
        float32 `(K, n_features)`.
    variance
        Sampling variance of the treated part of `effects`, float32 `(K, n_features)`.
    control_variance
        Sampling variance of the control mean of each batch, float32 `(n_batches, n_features)`.
    control_weight
        Weight of the controls of each batch in each effect, float32 `(K, n_batches)`, rows add up to 1.
    n_cells
        Training cells of each, int64 `(K,)`.
    """

    dosage: sparse.csr_matrix
    effects: np.ndarray
    variance: np.ndarray
    control_variance: np.ndarray
    control_weight: np.ndarray
    n_cells: np.ndarray

    def combine(self, mix: sparse.csr_matrix) -> tuple[np.ndarray, np.ndarray]:
        """Weighted sums of the effects, and their standard errors.

        Parameters
        ----------
        mix
            Weights `(n, K)`.

        Returns
        -------
        Two float64 arrays `(n, n_features)`. The errors know that all effects of a batch share its control mean.
        """
        variance = mix.power(2) @ self.variance + np.square(mix @ self.control_weight) @ self.control_variance
        return mix @ self.effects.astype(np.float64), np.sqrt(variance)

    @property
    def standard_errors(self) -> np.ndarray:
        """Standard errors of `effects`, float64 `(K, n_features)`: Welch's within each batch."""
        return self.combine(sparse.identity(len(self.effects), format="csr"))[1]


def measure_effects(
    features: np.ndarray | sparse.csr_matrix, dosage: sparse.csr_matrix, batch: np.ndarray, n_batches: int
) -> TrainingEffects:
    """Measure the effect of every distinct perturbation of the cells, within batches.

    Parameters
    ----------
    features
        Cells on the scale of the effects, `(n_cells, n_features)`, dense or sparse (stays sparse).
    dosage
        Dosage of the cells; zero rows are controls.
    batch
        Batch of each cell, integers below `n_batches`.
    n_batches
        Number of registered batches.

    Returns
    -------
    :class:`TrainingEffects`. Groups of one cell in a batch get the variance pooled over all others.

    Raises
    ------
    ControlError
        If no cell is a control.
    SplitError
        If all cells are.
    """
    unique, group = unique_dosages(dosage)
    is_control = np.diff(unique.indptr) == 0
    if not is_control.any():
        msg = "adata: expected control cells among the training cells, found none. Mark some of them as 'train'."
        raise ControlError(msg)
    if is_control.all():
        msg = "adata: expected perturbed cells among the training cells, found only controls. Mark some as 'train'."
        raise SplitError(msg)
    n_groups, n_features = unique.shape[0], features.shape[1]
    size = np.zeros((n_groups, n_batches))
    total, scaled = np.zeros((2, n_groups, n_features))
    lone = np.zeros((n_groups, 1))
    control_mean, control_scaled = np.zeros((2, n_batches, n_features))
    pooled, freedom = np.zeros(n_features), 0
    for b in np.unique(batch):
        rows = np.flatnonzero(batch == b)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*have one row", category=RuntimeWarning)
            moments = group_means(features if len(rows) == len(batch) else features[rows], group[rows])
        found, n = moments.groups, moments.count[:, None]
        spread = np.where(n > 1, moments.variance, 0.0)
        size[found, b] = moments.count
        total[found] += n * moments.mean
        scaled[found] += n * spread
        lone[found] += n == 1
        pooled += ((n - 1) * spread).sum(0)
        freedom += int((n - 1).sum())
        if is_control[found[0]]:
            control_mean[b], control_scaled[b] = moments.mean[0], n[0] * spread[0]
    pooled /= max(freedom, 1)
    # unique_dosages puts the control first
    n_control, treated = size[0], size[1:]
    share = treated / treated.sum(1, keepdims=True)
    elsewhere = (share * (n_control == 0)).sum(1, keepdims=True)
    weight = share * (n_control > 0) + elsewhere * n_control / n_control.sum()
    present = np.maximum(n_control, 1)[:, None]
    return TrainingEffects(
        dosage=unique[1:],
        effects=(total[1:] / treated.sum(1, keepdims=True) - weight @ control_mean).astype(np.float32),
        variance=((scaled[1:] + lone[1:] * pooled) / treated.sum(1, keepdims=True) ** 2).astype(np.float32),
        control_variance=((control_scaled + (present == 1) * (n_control[:, None] > 0) * pooled) / present**2).astype(
            np.float32
        ),
        control_weight=weight.astype(np.float32),
        n_cells=treated.sum(1).astype(np.int64),
    )
