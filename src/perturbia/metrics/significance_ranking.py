"""Does the order of predicted significance find the genes that are significant in truth?"""

from __future__ import annotations

from typing import Any

import numpy as np
import scipy.stats

from perturbia.metrics._de_tables import check_alpha, check_shapes, fdr_matrix
from perturbia.metrics._paired_effects import mean_or_rows

# Rates below this are equally significant, as in cell-eval.
_SMALLEST_FDR = 1e-10


def _labels_and_rates(truth_fdr: Any, prediction_fdr: Any, alpha: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Which genes are significant, the predicted rates, and which rows have genes of both kinds."""
    true, predicted = fdr_matrix(truth_fdr, "truth_fdr"), fdr_matrix(prediction_fdr, "prediction_fdr")
    check_shapes(truth_fdr=true, prediction_fdr=predicted)
    check_alpha(alpha)
    labels = true < alpha
    both = np.asarray(labels.any(axis=1) & ~labels.all(axis=1))
    return labels, np.maximum(predicted, _SMALLEST_FDR), both


def de_precision_recall_auc(
    truth_fdr: np.ndarray, prediction_fdr: np.ndarray, *, alpha: float = 0.05, per_perturbation: bool = False
) -> float | np.ndarray:
    r"""Average precision of predicted significance for the genes that are significant in truth.

    .. math:: \mathrm{AP} = \frac{1}{|A|} \sum_{g \in A} \frac{|\{h \in A: q_h \le q_g\}|}{|\{h: q_h \le q_g\}|}

    with A the significant true genes and q the predicted false discovery rates: `pr_auc` of cell-eval.

    **Range** [0, 1], 1 best. **Chance** is the share of genes that is significant, which differs between perturbations:
    compare models on the same truth only. **Not seen**: signs, sizes, and the level of the predicted rates.

    Parameters
    ----------
    truth_fdr, prediction_fdr
        False discovery rates, shape (n_perturbations, n_genes). Predicted rates below 1e-10 count as equal.
    alpha
        Genes with a true rate below are significant.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A perturbation in which no gene or every gene is significant has no
    score: NaN, or left out of the mean, with a warning.

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
    >>> de_precision_recall_auc(np.array([[0.01, 0.01, 0.9, 0.9]]), np.array([[0.01, 0.6, 0.2, 0.8]]))
    0.8333333333333333
    """
    labels, rates, defined = _labels_and_rates(truth_fdr, prediction_fdr, alpha)
    listed = scipy.stats.rankdata(rates, method="max", axis=1).astype(np.intp)  # genes listed when this one is
    found = np.cumsum(np.take_along_axis(labels, np.argsort(rates, axis=1), axis=1), axis=1)
    precision = np.take_along_axis(found, listed - 1, axis=1) / listed
    scores = (precision * labels).sum(axis=1) / np.maximum(labels.sum(axis=1), 1)
    return mean_or_rows(scores, defined, "no gene or every gene is significant", per_perturbation=per_perturbation)


def de_roc_auc(
    truth_fdr: np.ndarray, prediction_fdr: np.ndarray, *, alpha: float = 0.05, per_perturbation: bool = False
) -> float | np.ndarray:
    r"""Probability that a significant true gene is predicted to be more significant than another gene.

    The area under the receiver operating characteristic, ties counted half: `roc_auc` of cell-eval.

    **Range** [0, 1], 1 best. **Chance** is 0.5. **Not seen**: signs, sizes, the level of the predicted rates; and with few
    significant genes it hardly sees false calls: report :func:`de_precision_recall_auc` beside it.

    Parameters
    ----------
    truth_fdr, prediction_fdr, alpha, per_perturbation
        As in :func:`de_precision_recall_auc`.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). The same rate for every gene scores 0.5. A perturbation in which no
    gene or every gene is significant has no score: NaN, or left out of the mean, with a warning.

    Raises
    ------
    ValueError
        As :func:`de_precision_recall_auc`.

    Warns
    -----
    RuntimeWarning
        Some perturbations have no score.

    Examples
    --------
    >>> import numpy as np
    >>> de_roc_auc(np.array([[0.01, 0.01, 0.9, 0.9]]), np.array([[0.01, 0.6, 0.2, 0.8]]))
    0.75
    """
    labels, rates, defined = _labels_and_rates(truth_fdr, prediction_fdr, alpha)
    positive = labels.sum(axis=1)
    negative = labels.shape[1] - positive
    ranks = scipy.stats.rankdata(-rates, axis=1)
    wins = (ranks * labels).sum(axis=1) - positive * (positive + 1) / 2.0
    return mean_or_rows(
        wins / np.maximum(positive * negative, 1),
        defined,
        "no gene or every gene is significant",
        per_perturbation=per_perturbation,
    )
