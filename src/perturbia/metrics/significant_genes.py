"""Agreement of the genes called significant on true and on predicted cells, in number, overlap and recall."""

from __future__ import annotations

from typing import Literal

import numpy as np
import scipy.stats

from perturbia.metrics._de_tables import check_alpha, check_shapes, fdr_matrix, fold_change_matrix
from perturbia.metrics._paired_effects import mean_or_rows
from perturbia.metrics._top_sets import membership
from perturbia.metrics.correlation import effect_correlation
from perturbia.stats._settings import check_choice


def overlap_at_n(
    truth_lfc: np.ndarray,
    truth_fdr: np.ndarray,
    prediction_lfc: np.ndarray,
    prediction_fdr: np.ndarray,
    *,
    alpha: float = 0.05,
    n: int | None = None,
    size: Literal["truth", "prediction"] = "truth",
    ties: Literal["average", "first"] = "average",
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Overlap of the significant genes of largest absolute fold change, true and predicted.

    .. math:: O_p = \frac{|A_N \cap B_N|}{N}

    A and B are the genes with FDR below `alpha`, sorted by absolute fold change, on the true and on the predicted side.
    `size="truth"` is `overlap_at_N` of cell-eval (the DES of the Virtual Cell Challenge), N = number of significant true
    genes; `size="prediction"` is its `precision_at_N`, N = number of significant predicted genes; with `n` these are
    `overlap_at_{n}` and `precision_at_{n}`.

    **Range** [0, 1], 1 best. **Chance** for random genes is about N / n_genes. A perturbation without significant genes on
    either side scores 0, so that even a perfect prediction stays below 1 where some perturbations do nothing. **Not
    seen**: signs, and (with `size="truth"`) any number of false calls that are weaker than the top N. The number of
    significant genes grows with the number of cells: match cell numbers of both sides first.

    Parameters
    ----------
    truth_lfc, prediction_lfc
        Log fold changes against control, shape (n_perturbations, n_genes); infinite ones come first.
    truth_fdr, prediction_fdr
        False discovery rates, same shape.
    alpha
        Genes with a rate below are significant.
    n
        Genes compared at most. Default: all N.
    size
        Which side's significant genes are counted.
    ties
        Genes of equal fold change at the edge share the places left (`"average"`), or are taken in order of columns
        (`"first"`, as cell-eval does in order of its table).
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, rates outside [0, 1], a missing fold change, `n` below 1, unknown choices.

    References
    ----------
    Roohani et al., Virtual Cell Challenge, Cell 188 (2025).

    Examples
    --------
    >>> import numpy as np
    >>> lfc, fdr = np.array([[3.0, -2.0, 1.0, 0.1]]), np.array([[0.01, 0.01, 0.01, 0.9]])
    >>> round(overlap_at_n(lfc, fdr, lfc, np.array([[0.01, 0.2, 0.01, 0.01]])), 3)
    0.667
    """
    true, predicted = fold_change_matrix(truth_lfc, "truth_lfc"), fold_change_matrix(prediction_lfc, "prediction_lfc")
    true_fdr, predicted_fdr = fdr_matrix(truth_fdr, "truth_fdr"), fdr_matrix(prediction_fdr, "prediction_fdr")
    check_shapes(truth_lfc=true, truth_fdr=true_fdr, prediction_lfc=predicted, prediction_fdr=predicted_fdr)
    check_alpha(alpha)
    check_choice("size", size, ("truth", "prediction"))
    check_choice("ties", ties, ("average", "first"))
    if n is not None and n < 1:
        msg = f"n: expected None or at least 1 gene, got {n}."
        raise ValueError(msg)
    called, guessed = true_fdr < alpha, predicted_fdr < alpha
    count = (called if size == "truth" else guessed).sum(axis=1)
    count = count if n is None else np.minimum(count, n)
    a = membership(np.abs(true), called, count, ties=ties)
    b = membership(np.abs(predicted), guessed, count, ties=ties)
    scores = (a * b).sum(axis=1) / np.maximum(count, 1)
    return scores if per_perturbation else float(scores.mean())


def de_recall(
    truth_fdr: np.ndarray, prediction_fdr: np.ndarray, *, alpha: float = 0.05, per_perturbation: bool = False
) -> float | np.ndarray:
    """Share of significant true genes that are significant on the predicted side.

    `de_sig_genes_recall` of cell-eval. **Range** [0, 1], 1 best. **Chance** is the share of all genes that is called on the
    predicted side. **Not seen**: false calls (calling every gene scores 1), signs and sizes.

    Parameters
    ----------
    truth_fdr, prediction_fdr
        False discovery rates, shape (n_perturbations, n_genes).
    alpha
        Genes with a rate below are significant.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A perturbation without significant true genes has no score: NaN, or
    left out of the mean, with a warning.

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, rates outside [0, 1], or no significant true gene at all.

    Warns
    -----
    RuntimeWarning
        Some perturbations have no significant true gene.

    Examples
    --------
    >>> import numpy as np
    >>> de_recall(np.array([[0.01, 0.01, 0.9]]), np.array([[0.01, 0.6, 0.01]]))
    0.5
    """
    true, predicted = fdr_matrix(truth_fdr, "truth_fdr"), fdr_matrix(prediction_fdr, "prediction_fdr")
    check_shapes(truth_fdr=true, prediction_fdr=predicted)
    check_alpha(alpha)
    called = true < alpha
    count = called.sum(axis=1)
    scores = (called & (predicted < alpha)).sum(axis=1) / np.maximum(count, 1)
    return mean_or_rows(scores, count > 0, "no gene is significant", per_perturbation=per_perturbation)


def de_spearman_significant(
    truth_fdr: np.ndarray,
    prediction_fdr: np.ndarray,
    *,
    alpha: float = 0.05,
    perturbations: Literal["responding", "all"] = "responding",
) -> float:
    """Rank correlation over perturbations of the numbers of significant genes, true and predicted.

    `de_spearman_sig` of cell-eval: are strong perturbations predicted to be strong? **Range** [-1, 1], 1 best. **Chance** is
    0. **Not seen**: which genes are called, and how many in absolute terms. Numbers of significant genes follow numbers of
    cells: match them first.

    Parameters
    ----------
    truth_fdr, prediction_fdr
        False discovery rates, shape (n_perturbations, n_genes).
    alpha
        Genes with a rate below are significant.
    perturbations
        `"responding"` leaves out perturbations without any significant true gene, as cell-eval does, and with them the
        false calls on them; `"all"` keeps them.

    Returns
    -------
    A float. The same number of predicted genes everywhere scores 0.

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, rates outside [0, 1], fewer than two perturbations to compare, or the same number
        of true genes in all of them (cell-eval: 1 if there is none, else NaN).

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[0.01, 0.9, 0.9], [0.01, 0.01, 0.9], [0.01, 0.01, 0.01]])
    >>> round(de_spearman_significant(truth, truth[[0, 2, 1]]), 6)
    0.5
    """
    true, predicted = fdr_matrix(truth_fdr, "truth_fdr"), fdr_matrix(prediction_fdr, "prediction_fdr")
    check_shapes(truth_fdr=true, prediction_fdr=predicted)
    check_alpha(alpha)
    check_choice("perturbations", perturbations, ("responding", "all"))
    counts = np.stack([(true < alpha).sum(axis=1), (predicted < alpha).sum(axis=1)])
    if perturbations == "responding":
        counts = counts[:, counts[0] > 0]
    if counts.shape[1] < 2 or np.ptp(counts[0]) == 0:
        msg = (
            "truth_fdr: expected at least two perturbations that differ in their number of significant genes, got "
            f"{counts.shape[1]} with counts {sorted(set(counts[0].tolist()))}. Use a larger alpha or more cells."
        )
        raise ValueError(msg)
    ranks = scipy.stats.rankdata(counts, axis=1)
    return float(effect_correlation(ranks[:1], ranks[1:]))
