"""Overlap of the strongest genes of true and predicted effects."""

from __future__ import annotations

import numpy as np

from perturbia.metrics._paired_effects import mean_or_rows, paired_effects
from perturbia.metrics._top_sets import membership


def top_gene_jaccard(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    k: int = 20,
    signed: bool = False,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Jaccard index of the k genes of largest absolute effect, true and predicted.

    .. math:: J_k(p) = \frac{|A_k \cap B_k|}{|A_k \cup B_k|}

    Genes without any effect are in no set, and genes that tie for the last places share them: no order of genes decides.

    **Range** [0, 1], 1 best. **Chance** for k of G genes is about k / (2G - k), half of it if `signed`. **Not seen**: size
    and order of effects inside the sets, and everything outside. The truth's own k genes are partly noise, so that even
    a second experiment does not reach 1.

    Parameters
    ----------
    truth, prediction
        Effects against control, shape (n_perturbations, n_genes), same order and scale.
    k
        Genes in each set.
    signed
        Count a gene as shared only if its sign agrees.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,). A prediction of no effect scores 0. A row without any true effect has
    no score: NaN, or left out of the mean, with a warning.

    Raises
    ------
    ValueError
        Bad arrays, `k` out of range, or no true effect at all.

    Warns
    -----
    RuntimeWarning
        Some rows of the truth are zero.

    References
    ----------
    Bereket and Karaletsos (2023); Viñas Torné et al., Systema, Nature Biotechnology (2025).

    Examples
    --------
    >>> import numpy as np
    >>> round(top_gene_jaccard(np.array([[3.0, -2.0, 1.0, 0.0]]), np.array([[3.0, 0.0, 1.0, 0.5]]), k=2), 3)
    0.333
    """
    true, predicted = paired_effects(truth, prediction)
    if not 1 <= k <= true.shape[1]:
        msg = f"k: expected 1 to {true.shape[1]} (the number of genes), got {k}."
        raise ValueError(msg)
    size = np.full(len(true), k)
    a, b = (membership(np.abs(effects), effects != 0, size) for effects in (true, predicted))
    shared = (a * b * (np.sign(true) == np.sign(predicted)) if signed else a * b).sum(axis=1)
    union = a.sum(axis=1) + b.sum(axis=1) - shared
    moves = (true != 0).any(axis=1)
    scores = np.divide(shared, union, out=np.zeros_like(shared), where=union > 0)
    return mean_or_rows(scores, moves, "effects are zero", per_perturbation=per_perturbation)
