"""Correlation beyond a shift that all perturbations share."""

from __future__ import annotations

from typing import Any

import numpy as np

from perturbia.metrics._paired_effects import paired_effects, residual, rounding
from perturbia.metrics.correlation import effect_correlation, top_gene_correlation
from perturbia.stats._arrays import dense_matrix


def _checked_reference(reference: Any, shape: tuple[int, int]) -> np.ndarray:
    array = np.asarray(reference)
    rows = dense_matrix(array[None, :] if array.ndim == 1 else array, "reference")
    if rows.shape not in ((1, shape[1]), shape):
        msg = f"reference: expected one value a gene, shape ({shape[1]},), or the shape of truth, got {array.shape}."
        raise ValueError(msg)
    return rows


def reference_correlation(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    reference: np.ndarray,
    selection: np.ndarray | None = None,
    k: int | None = None,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Pearson correlation of true and predicted profiles after `reference` is subtracted from both.

    .. math:: r_p = \operatorname{corr}(\mu_p - O, \hat\mu_p - O)

    Correlation against control rewards the shift that all perturbations of a screen share (stress, selection, cell cycle):
    predicting the mean of the training perturbations for everything scores high. With :math:`O` the **perturbed
    centroid**, the unweighted mean over training perturbations, that prediction is left with nothing and scores 0.

    **Range** [-1, 1], 1 best. **Chance** is 0, as are the mean baseline and any constant difference to the reference.
    **Not seen**: the scale of a prediction.

    Parameters
    ----------
    truth, prediction
        Effects against control, or mean profiles, shape (n_perturbations, n_genes), same order and scale.
    reference
        What is subtracted, on the scale of `truth`: shape (n_genes,), or one row a perturbation (n_perturbations, n_genes)
        where the centroid differs, by cell line for example. Take it from **training** perturbations.
    selection
        Effects that choose each perturbation's genes by absolute size, same shape as `truth`, from cells that are not in
        `truth` (see :func:`top_gene_correlation`). Default: all genes.
    k
        Genes chosen by `selection`; 20 by default.
    per_perturbation
        One correlation for each row instead of one over all entries.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A prediction that is the reference up to rounding scores 0. A row of
    the truth that is has no score: NaN with a warning.

    Raises
    ------
    ValueError
        Bad arrays, shapes that do not match, `k` without `selection` or out of range, or no row of the truth differs from
        the reference.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth do not vary beyond the reference.

    References
    ----------
    Viñas Torné et al., Systema, Nature Biotechnology (2025).

    Examples
    --------
    >>> import numpy as np
    >>> truth = np.random.default_rng(0).normal(1.0, 1.0, size=(10, 50))
    >>> mean = truth.mean(axis=0)
    >>> reference_correlation(truth, np.tile(mean, (10, 1)), reference=mean)
    0.0
    """
    true, predicted = paired_effects(truth, prediction, min_columns=2)
    base = _checked_reference(reference, (len(true), true.shape[1]))
    if k is not None and selection is None:
        msg = f"k: expected None without selection, got {k}. Pass selection, the effects that choose the genes."
        raise ValueError(msg)
    beyond = residual(true, base, tolerance=rounding(truth, reference))
    guess = residual(predicted, base, tolerance=rounding(prediction, reference))
    if selection is None:
        return effect_correlation(beyond, guess, per_perturbation=per_perturbation)
    return top_gene_correlation(
        beyond, guess, selection=selection, k=20 if k is None else k, per_perturbation=per_perturbation
    )
