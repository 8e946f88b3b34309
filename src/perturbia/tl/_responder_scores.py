"""How far cells lie along the direction of their perturbation, as cells that did not choose the direction say it."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from scipy.special import stdtr
from scipy.stats import false_discovery_control

from perturbia.stats import shifted_mixture

if TYPE_CHECKING:
    from scipy import sparse

__all__ = ["cross_fitted_scores", "signature_test"]

FDR = 0.05


def signature_test(
    signatures: np.ndarray, neighbours: sparse.csr_matrix, control_variance: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    r"""Test whether the mean signature of some cells is zero, gene by gene.

    Signatures share control cells, so that their mean is less certain than independent ones would be: with
    :math:`a_j` the mean weight of control :math:`j`,
    :math:`\operatorname{se}^2 = \max(s^2, s_c^2)/n + s_c^2 \sum_j a_j^2`. The variance is that of controls at the least,
    because a few cells that all lack a gene are not certain of it.

    Returns
    -------
    t statistics and Benjamini-Hochberg adjusted p-values, both `(n_genes,)`.
    """
    n = len(signatures)
    weight = np.asarray(neighbours.mean(axis=0)).ravel()
    variance = np.maximum(signatures.var(0, ddof=1), control_variance) / n + control_variance * (weight @ weight)
    mean = signatures.mean(0)
    t = np.divide(mean, np.sqrt(variance), out=np.zeros_like(mean), where=variance > 0)
    return t, false_discovery_control(np.clip(2 * stdtr(n - 1, -np.abs(t)), 0.0, 1.0))


def cross_fitted_scores(
    signatures: np.ndarray,
    neighbours: sparse.csr_matrix,
    controls: np.ndarray,
    *,
    folds: np.ndarray,
    control_folds: np.ndarray,
    min_de: int,
    max_iter: int,
) -> tuple[np.ndarray, np.ndarray]:
    """Scores of the cells of a perturbation and of the controls, in standard deviations of the controls.

    Parameters
    ----------
    signatures
        Of the cells of the perturbation, `(n, n_genes)`.
    neighbours
        Their weights `(n, n_controls)`.
    controls
        Signatures of the control cells, `(n_controls, n_genes)`.
    folds, control_folds
        Fold of each cell. A fold is scored along the direction of the others; one fold scores itself.
    min_de
        Least number of genes in the direction.
    max_iter
        Most rounds of choosing responders and taking the direction anew.

    Returns
    -------
    Scores `(n,)` and `(n_controls,)`.
    """
    scores, reference = np.empty(len(signatures)), np.empty(len(controls))
    spread = controls.var(0, ddof=1)
    for fold in np.unique(folds):
        held, held_control = folds == fold, control_folds == fold
        fit, fit_control = (held, held_control) if held.all() else (~held, ~held_control)
        genes = _genes(signatures[fit], neighbours[fit], spread, min_de)
        pool = controls[fit_control][:, genes]
        direction = _direction(signatures[fit][:, genes], pool, max_iter)
        along = pool @ direction
        scores[held], reference[held_control] = (
            (part[:, genes] @ direction - along.mean()) / along.std(ddof=1)
            for part in (signatures[held], controls[held_control])
        )
    return scores, reference


def _genes(signatures: np.ndarray, neighbours: sparse.csr_matrix, spread: np.ndarray, least: int) -> np.ndarray:
    """Genes that differ, or the `least` that come nearest to it, among those that vary in controls."""
    t, fdr = signature_test(signatures, neighbours, spread)
    fdr[spread == 0], t[spread == 0] = 1.0, 0.0
    n_genes = max(least, 1, int((fdr < FDR).sum()))
    return np.argsort(-np.abs(t), kind="stable")[: min(n_genes, int((spread > 0).sum()))]


def _direction(own: np.ndarray, pool: np.ndarray, max_iter: int) -> np.ndarray:
    """Mean difference between responders and controls, found in turn with who responds."""
    centre = pool.mean(0)
    responds = np.ones(len(own), dtype=bool)
    for _ in range(max_iter):
        direction = own[responds].mean(0) - centre
        called = shifted_mixture(own @ direction, pool @ direction, max_null_components=1).probability >= 0.5
        if not called.any() or (called == responds).all():
            break
        responds = called
    return own[responds].mean(0) - centre
