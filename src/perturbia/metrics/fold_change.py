"""Log fold changes of mean profiles, as PerturBench takes them."""

from __future__ import annotations

import numpy as np

from perturbia.stats._arrays import check_same_shape, dense_matrix


def log_fold_change(means: np.ndarray, control: np.ndarray, *, pseudocount: float = 0.1) -> np.ndarray:
    r"""Log fold changes of mean profiles against control means.

    .. math:: \operatorname{lfc}_{pg} = \log_2(\mu_{pg} + c) - \log_2(\mu_{cg} + c)

    The aggregation ``"logfc"`` of PerturBench, which takes means of log1p-normalised values: compare its rows by
    :func:`effect_cosine`. **Not a fold change of counts**: on that scale a difference of means is one already, and this is
    the logarithm of a ratio of logarithms. Genes near zero in controls weigh most.

    Parameters
    ----------
    means, control
        Mean profiles of perturbations and of the controls that each is compared with, shape (n_perturbations, n_genes).
    pseudocount
        Added to both.

    Returns
    -------
    Float64, shape (n_perturbations, n_genes). 0 where a mean is below minus the pseudocount, as there.

    Raises
    ------
    ValueError
        Bad arrays, shapes that differ, or a pseudocount that is not positive.

    References
    ----------
    Wu et al., PerturBench: benchmarking machine learning models for cellular perturbation analysis (2024).

    Examples
    --------
    >>> import numpy as np
    >>> log_fold_change(np.array([[0.3, 0.1]]), np.array([[0.1, 0.1]])).round(3)
    array([[1., 0.]])
    """
    mean, reference = dense_matrix(means, "means"), dense_matrix(control, "control")
    check_same_shape(mean, reference, ("means", "control"))
    if not pseudocount > 0:
        msg = f"pseudocount: expected a number > 0, got {pseudocount}."
        raise ValueError(msg)
    with np.errstate(divide="ignore", invalid="ignore"):
        change = np.log2(mean + pseudocount) - np.log2(reference + pseudocount)
    return np.where(np.isfinite(change), change, 0.0)
