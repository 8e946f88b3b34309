"""Pearson correlation of predicted and measured effects, over all genes or the strongest ones."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._paired_effects import as_rows, paired_effects, result, settle_undefined
from perturbia.stats._arrays import check_same_shape, dense_matrix
from perturbia.stats.correlation import centre_rows, row_correlation


def _correlate(true: np.ndarray, predicted: np.ndarray, *, per_perturbation: bool) -> float | np.ndarray:
    true = as_rows(true, per_perturbation=per_perturbation)
    predicted = as_rows(predicted, per_perturbation=per_perturbation)
    correlation = row_correlation(true, predicted)
    varies = centre_rows(true)[1] > 0
    correlation[varies & np.isnan(correlation)] = 0.0  # a constant prediction explains nothing
    return result(settle_undefined(correlation, varies, "effects are constant"), per_perturbation=per_perturbation)


def effect_correlation(
    truth: np.ndarray, prediction: np.ndarray, *, per_perturbation: bool = False
) -> float | np.ndarray:
    r"""Pearson correlation between true and predicted effects.

    .. math:: r = \frac{\sum_g (\delta_g - \bar\delta)(\hat\delta_g - \bar{\hat\delta})}
                       {\lVert \delta - \bar\delta \rVert \, \lVert \hat\delta - \bar{\hat\delta} \rVert}

    Flattened over perturbations it is the "ATE correlation" of Bereket and Karaletsos (2023), which mixes how strong
    perturbations are with what they do; by perturbation it is the "Pearson delta" of the field.

    **Range** [-1, 1], 1 best. **Chance** is 0, but the shift that all perturbations of a screen share is rewarded: the mean
    of the training perturbations scores high, which :func:`reference_correlation` takes out. **Not seen**: the scale of a
    prediction (report :func:`effect_r2` beside it).

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    per_perturbation
        One correlation for each row instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A constant prediction scores 0. A row of constant truth has no
    score: NaN with a warning.

    Raises
    ------
    ValueError
        Shapes differ, arrays are empty, not two-dimensional or not finite, fewer than two values to correlate, or the
        truth is constant everywhere.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth are constant.

    Examples
    --------
    >>> import numpy as np
    >>> round(effect_correlation(np.array([[0.0, 1.0, 2.0]]), np.array([[0.0, 2.0, 4.0]])), 6)
    1.0
    """
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    return _correlate(true, predicted, per_perturbation=per_perturbation)


def top_genes(selection: np.ndarray, *, k: int = 20) -> np.ndarray:
    """Genes of largest absolute effect, for each perturbation.

    Parameters
    ----------
    selection
        Effects, shape (n_perturbations, n_genes).
    k
        Genes to take, at most n_genes.

    Returns
    -------
    Column indices, shape (n_perturbations, k), strongest first; ties go to the gene that comes first.

    Raises
    ------
    ValueError
        `k` out of range, or a bad array.

    Examples
    --------
    >>> import numpy as np
    >>> top_genes(np.array([[0.1, -3.0, 2.0]]), k=2)
    array([[1, 2]])
    """
    effects = dense_matrix(selection, "selection")
    if not 1 <= k <= effects.shape[1]:
        msg = f"k: expected 1 to {effects.shape[1]} (the number of genes), got {k}."
        raise ValueError(msg)
    return np.argsort(-np.abs(effects), axis=1, kind="stable")[:, :k]


def top_gene_correlation(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    selection: np.ndarray,
    k: int = 20,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    """Pearson correlation between true and predicted effects on each perturbation's strongest genes.

    The genes are those of largest absolute effect in `selection`. **Take `selection` from cells that are not in `truth`**
    (the other half of the test cells, or training cells): genes chosen and scored on the same noisy effects are chosen
    partly for their noise (winner's curse), which flatters anything fitted to the same cells and understates a good
    model. Effects that are known exactly, as in a simulation, may serve as both.

    **Range, chance and blind spots** as in :func:`effect_correlation`; all other genes are not seen either. The protocol of
    Bereket and Karaletsos (2023) takes the genes from the scored effects themselves.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes).
    selection
        Effects that choose the genes, same shape.
    k
        Genes of each perturbation (20 in the field).
    per_perturbation
        One correlation for each row instead of one over all k n_perturbations entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,), under the rules of :func:`effect_correlation`.

    Raises
    ------
    ValueError
        As :func:`effect_correlation`; `k` out of range.

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.array([[3.0, -2.0, 0.1, 0.0]])
    >>> round(top_gene_correlation(truth, 2 * truth, selection=truth, k=2), 6)
    1.0
    """
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    chosen_by = dense_matrix(selection, "selection")
    check_same_shape(true, chosen_by, ("truth", "selection"))
    if k < 2:
        msg = f"k: expected at least 2 genes to correlate, got {k}."
        raise ValueError(msg)
    genes = top_genes(chosen_by, k=k)
    true, predicted = (np.take_along_axis(effects, genes, axis=1) for effects in (true, predicted))
    return _correlate(true, predicted, per_perturbation=per_perturbation)
