"""Is a prediction nearer to its own true centroid than to those of other perturbations?"""

from __future__ import annotations

from typing import TYPE_CHECKING

from perturbia.metrics.retrieval_scores import retrieval

if TYPE_CHECKING:
    import numpy as np


def centroid_accuracy(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    candidates: np.ndarray | None = None,
    per_perturbation: bool = False,
) -> float | np.ndarray:
    r"""Share of other perturbations' true centroids that are farther from the prediction than its own.

    .. math:: a_p = \frac{1}{n - 1} \sum_{q \ne p} \left[ \lVert \hat\mu_p - \mu_q \rVert >
              \lVert \hat\mu_p - \mu_p \rVert \right], \text{ ties counted half}

    The centroid accuracy of Systema: :func:`retrieval` with Euclidean distance, under its own name. Means and effects give
    the same value when one observed control mean is subtracted from both.

    **Range** [0, 1], 1 best. **Chance** is 0.5, as is one constant prediction for everything. **Not seen**: any error
    smaller than the distance to other perturbations.

    Parameters
    ----------
    truth, prediction
        Mean profiles or effects, shape (n_perturbations, n_genes), same order and scale.
    candidates
        Further true centroids that compete, (n_candidates, n_genes): Systema takes those of training perturbations too.
    per_perturbation
        The value of each row instead of their mean.

    Returns
    -------
    A float, or an array of shape (n_perturbations,).

    Raises
    ------
    ValueError
        Bad arrays, or a single perturbation without candidates.

    References
    ----------
    Viñas Torné et al., Systema, Nature Biotechnology (2025).

    Examples
    --------
    >>> import numpy as np
    >>> centroid_accuracy(
    ...     np.array([[0.0, 0.0], [1.0, 1.0], [5.0, 5.0]]), np.array([[0.9, 1.0], [1.2, 1.0], [4.0, 5.0]])
    ... )
    0.8333333333333334
    """
    return retrieval(truth, prediction, metric="l2", candidates=candidates, per_perturbation=per_perturbation)
