"""Direction and order of fold changes on the genes that are significant in truth."""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from perturbia.metrics._de_tables import check_alpha, check_shapes, fdr_matrix, fold_change_matrix
from perturbia.metrics._paired_effects import mean_or_rows


def _checked_mask(significant: Any) -> np.ndarray:
    mask = np.asarray(significant)
    if mask.dtype != bool:
        msg = f"significant: expected a boolean mask, got dtype {mask.dtype}. Pass fdr < alpha."
        raise ValueError(msg)
    return mask


def direction_match(
    truth: np.ndarray, prediction: np.ndarray, *, significant: np.ndarray, per_perturbation: bool = False
) -> float | np.ndarray:
    """Share of significant genes whose effect is predicted with the right sign.

    `de_direction_match` of cell-eval, which takes the genes with FDR below 0.05 on the true cells. **Range** [0, 1], 1
    best. **Chance** is 0.5 for random signs, but more where most perturbations move a gene the same way: the mean baseline
    is the level to beat. **Not seen**: sizes, and all other genes.

    Parameters
    ----------
    truth, prediction
        Effects or log fold changes, shape (n_perturbations, n_genes); infinite fold changes have a sign.
    significant
        Boolean mask of the entries that count, same shape.
    per_perturbation
        The share in each row instead of the mean of these.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A predicted effect of zero is wrong. A perturbation without
    significant genes has no score: NaN, or left out of the mean, with a warning.

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, a mask that is not boolean, or nothing significant at all.

    Warns
    -----
    RuntimeWarning
        Some perturbations have no significant gene.

    Examples
    --------
    >>> import numpy as np
    >>> truth, mask = np.array([[2.0, -1.0, 0.1]]), np.array([[True, True, False]])
    >>> direction_match(truth, np.array([[1.0, 1.0, -9.0]]), significant=mask)
    0.5
    """
    true, predicted = fold_change_matrix(truth, "truth"), fold_change_matrix(prediction, "prediction")
    mask = _checked_mask(significant)
    check_shapes(truth=true, prediction=predicted, significant=mask)
    count = mask.sum(axis=1)
    right = (mask & (np.sign(true) == np.sign(predicted))).sum(axis=1)
    return mean_or_rows(
        right / np.maximum(count, 1), count > 0, "no gene is significant", per_perturbation=per_perturbation
    )


def _masked_ranks(values: np.ndarray, mask: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Centred average ranks inside the mask, zero outside, and their lengths."""
    ranks = np.where(mask, scipy.stats.rankdata(np.where(mask, values, np.nan), axis=1, nan_policy="omit"), 0.0)
    middle = (mask.sum(axis=1, keepdims=True) + 1.0) / 2.0
    ranks = np.where(mask, ranks - middle, 0.0)
    return ranks, np.linalg.norm(ranks, axis=1)


def de_spearman_lfc(
    truth_lfc: np.ndarray,
    truth_fdr: np.ndarray,
    prediction_lfc: np.ndarray,
    *,
    alpha: float = 0.05,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    """Rank correlation of true and predicted fold changes over the genes that are significant in truth.

    `de_spearman_lfc_sig` of cell-eval. **Range** [-1, 1], 1 best. **Chance** is 0, but the mean baseline scores well where
    perturbations share their response. **Not seen**: scale, any monotone distortion, and all other genes.

    Parameters
    ----------
    truth_lfc, prediction_lfc
        Log fold changes against control, shape (n_perturbations, n_genes); infinite ones rank first or last.
    truth_fdr
        False discovery rates on the true side, same shape.
    alpha
        Genes with a rate below are significant.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A constant prediction scores 0. A perturbation with fewer than two
    significant genes of different fold change has no score: NaN, or left out of the mean, with a warning.

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, rates outside [0, 1], or no perturbation that has a score.

    Warns
    -----
    RuntimeWarning
        Some perturbations have no score.

    Examples
    --------
    >>> import numpy as np
    >>> lfc, fdr = np.array([[3.0, -2.0, 1.0, 0.1]]), np.array([[0.01, 0.01, 0.01, 0.9]])
    >>> round(de_spearman_lfc(lfc, fdr, np.array([[1.0, -2.0, 3.0, 9.0]])), 6)
    0.5
    """
    true, predicted = fold_change_matrix(truth_lfc, "truth_lfc"), fold_change_matrix(prediction_lfc, "prediction_lfc")
    fdr = fdr_matrix(truth_fdr, "truth_fdr")
    check_shapes(truth_lfc=true, truth_fdr=fdr, prediction_lfc=predicted)
    check_alpha(alpha)
    mask = fdr < alpha
    (a, length_a), (b, length_b) = _masked_ranks(true, mask), _masked_ranks(predicted, mask)
    scale = length_a * length_b
    scores = np.divide(np.einsum("ij,ij->i", a, b), scale, out=np.zeros_like(scale), where=scale > 0)
    return mean_or_rows(
        np.clip(scores, -1.0, 1.0),
        length_a > 0,
        "fewer than two significant genes differ",
        per_perturbation=per_perturbation,
    )
