"""Reduced-rank ridge regression of effects on doses."""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import scipy.linalg
import scipy.optimize
import scipy.sparse as sp

from perturbia.stats._arrays import check_nonnegative, check_same_shape, dense_matrix
from perturbia.stats.ridge import DosageFit, checked_regression, solve_ridge


def low_rank_ridge(
    dosage: np.ndarray | sp.spmatrix,
    effects: np.ndarray,
    *,
    rank: int | Literal["evidence", "cv"] = "evidence",
    penalty: float | Literal["evidence"] = 0.1,
    standard_errors: np.ndarray | None = None,
    weights: np.ndarray | None = None,
    max_rank: int | None = None,
    n_folds: int = 5,
    seed: int = 0,
) -> DosageFit:
    r"""Ridge regression whose fitted effects span few expression programmes (Mukherjee and Zhu, 2011).

    With B the ridge solution, the penalised fit :math:`(W^{1/2} D; \sqrt\lambda I) B` has right singular vectors V;
    :math:`B_r = B V_r V_r^\top` is the best solution of rank r. Genes are divided by their noise first, if known.

    Parameters
    ----------
    dosage
        Doses of each perturbation, shape (n_perturbations, n_targets), dense or sparse.
    effects
        Effects against control, shape (n_perturbations, n_genes).
    rank
        An integer; or `"evidence"`: the number of singular values above the threshold of Gavish and Donoho (2014) for
        known noise, needs `standard_errors`; or `"cv"`: least error over left-out perturbations, which needs every target
        to occur in several perturbations (combinations or doses). Rank 0 predicts no effect.
    penalty
        Ridge penalty on the scale of D'WD; or `"evidence"`: noise over signal variance of largest marginal likelihood when
        all coefficients have one normal prior (in units of the noise), needs `standard_errors`.
    standard_errors
        Standard errors of `effects`, same shape. Approximated as (row) x (gene): rows are weighted by their inverse square
        (geometric mean 1), genes divided by their noise.
    weights
        Positive weight of each row instead of `standard_errors`; then genes are not rescaled.
    max_rank
        Largest rank tried by `"evidence"` and `"cv"`; default: as many as the doses allow.
    n_folds, seed
        Folds of `"cv"` and the seed that assigns rows to them.

    Returns
    -------
    :class:`~perturbia.stats.DosageFit` with its `rank`.

    Raises
    ------
    ValueError
        Shapes differ, both `weights` and `standard_errors`, an impossible rank, `"evidence"` without standard errors,
        `"cv"` when no left-out perturbation has all its targets elsewhere, or the errors of
        :func:`~perturbia.stats.dosage_ridge`.

    Notes
    -----
    `"evidence"` takes the noise of genes and rows as independent. Noise that genes share (composition, cell state) or rows
    share (one control mean) looks like a programme: it raises the rank and lowers the penalty.

    Examples
    --------
    >>> import numpy as np
    >>> rng = np.random.default_rng(0)
    >>> truth = rng.normal(size=(30, 2)) @ rng.normal(size=(2, 200))
    >>> noisy = truth + rng.normal(size=truth.shape)
    >>> low_rank_ridge(np.eye(30), noisy, standard_errors=np.ones_like(noisy)).rank
    2
    """
    values = dense_matrix(effects, "effects")
    if weights is not None and standard_errors is not None:
        msg = "weights: expected None when standard_errors are given, which imply them. Pass one of the two."
        raise ValueError(msg)
    noise = np.ones(values.shape[1])
    if standard_errors is not None:
        weights, noise = _separable_noise(standard_errors, values)
    if standard_errors is None and "evidence" in (rank, penalty):
        msg = "standard_errors: expected an array for rank or penalty 'evidence', got None. Pass them, or a number or 'cv'."
        raise ValueError(msg)
    if isinstance(penalty, str) and penalty != "evidence":
        msg = f"penalty: expected a number or 'evidence', got {penalty!r}."
        raise ValueError(msg)
    fixed = 0.0 if isinstance(penalty, str) else penalty
    doses, values, row_weights = checked_regression(dosage, values, weights, fixed)
    root = np.sqrt(row_weights)[:, None]
    D = (doses.toarray() if sp.issparse(doses) else np.asarray(doses, dtype=np.float64)) * root
    Y = values / noise * root
    limit = min(np.linalg.matrix_rank(D), values.shape[1])
    if max_rank is not None and isinstance(rank, str):
        limit = _given_rank(max_rank, limit, "max_rank")
    ridge = _evidence_penalty(D, Y) if penalty == "evidence" else float(fixed)
    if rank == "evidence":
        chosen = min(_evidence_rank(D, Y), limit)
    elif rank == "cv":
        chosen = _cross_validated_rank(D, Y, ridge, limit, n_folds, seed)
    else:
        chosen = _given_rank(rank, limit, "rank")
    coefficients, basis = _fit(D, Y, ridge)
    reduced = (coefficients @ basis[:chosen].T) @ basis[:chosen] * noise
    return DosageFit(reduced, np.zeros(values.shape[1]), ridge, int(chosen))


def _separable_noise(standard_errors: Any, effects: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Weights of rows and noise of genes such that the standard errors are about noise / sqrt(weight)."""
    errors = dense_matrix(standard_errors, "standard_errors")
    check_same_shape(effects, errors, ("effects", "standard_errors"))
    check_nonnegative(errors, "standard_errors")
    positive = errors > 0
    if not positive.any(axis=1).all():
        msg = "standard_errors: expected a positive entry in every row, got rows of zeros. Leave these rows out."
        raise ValueError(msg)
    log_error = np.log(np.where(positive, errors, 1.0))  # zeros (genes no cell expresses) are left out of the means
    log_gene = log_error.sum(axis=0) / np.maximum(positive.sum(axis=0), 1)
    log_row = ((log_error - log_gene) * positive).sum(axis=1) / positive.sum(axis=1)
    return np.exp(-2 * log_row), np.exp(log_gene)


def _fit(D: np.ndarray, Y: np.ndarray, penalty: float) -> tuple[np.ndarray, np.ndarray]:
    """Ridge coefficients and the right singular vectors (in rows) of the penalised fit."""
    coefficients = solve_ridge(D.T @ D, D.T @ Y, penalty)
    fitted = np.vstack([D, np.sqrt(penalty) * np.eye(D.shape[1])]) @ coefficients
    return coefficients, scipy.linalg.svd(fitted, full_matrices=False)[2]


def _in_span(D: np.ndarray, Y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Singular values of D that are not zero, and Y in the coordinates of their left singular vectors."""
    left, size, _ = scipy.linalg.svd(D, full_matrices=False)
    span = size > size.max(initial=0.0) * max(D.shape) * np.finfo(np.float64).eps
    return size[span], left[:, span].T @ Y


def _evidence_penalty(D: np.ndarray, Y: np.ndarray) -> float:
    """Penalty of largest marginal likelihood under unit noise: coordinate k of Y has variance 1 + size_k² / penalty."""
    size, coordinates = _in_span(D, Y)
    power = (coordinates**2).mean(axis=1)

    def loss(log_penalty: float) -> float:
        variance = 1 + size**2 / np.exp(log_penalty)
        return float((np.log(variance) + power / variance).sum())

    return float(np.exp(scipy.optimize.minimize_scalar(loss, bounds=(-15.0, 15.0), method="bounded").x))


def _evidence_rank(D: np.ndarray, Y: np.ndarray) -> int:
    """Number of singular values of Y within the span of D above the optimal hard threshold for unit noise."""
    _, coordinates = _in_span(D, Y)
    short, long = sorted(coordinates.shape)
    if short == 0:
        return 0
    ratio = short / long
    threshold = np.sqrt(2 * (ratio + 1) + 8 * ratio / (ratio + 1 + np.sqrt(ratio**2 + 14 * ratio + 1)))
    return int((scipy.linalg.svdvals(coordinates) > threshold * np.sqrt(long)).sum())


def _cross_validated_rank(D: np.ndarray, Y: np.ndarray, penalty: float, limit: int, n_folds: int, seed: int) -> int:
    """Rank of least squared error on left-out rows whose targets all occur in the other rows."""
    if not 2 <= n_folds <= len(D):
        msg = f"n_folds: expected 2 to {len(D)} (the number of perturbations), got {n_folds}."
        raise ValueError(msg)
    fold = np.random.default_rng(seed).permutation(len(D)) % n_folds
    gain, n_scored = np.zeros(limit), 0
    for k in range(n_folds):
        train, test = fold != k, fold == k
        test[test] = ~(D[test][:, ~D[train].any(axis=0)] != 0).any(axis=1)
        if not test.any():
            continue
        n_scored += int(test.sum())
        coefficients, basis = _fit(D[train], Y[train], penalty)
        basis = basis[:limit]
        prediction, target = D[test] @ coefficients @ basis.T, Y[test] @ basis.T
        # The basis is orthonormal: each further direction changes the squared error by its own term.
        gain[: len(basis)] += (prediction**2 - 2 * prediction * target).sum(axis=0)
    if n_scored == 0:
        msg = (
            "rank: expected left-out perturbations whose targets occur in others for 'cv', got none. "
            "Use rank='evidence' or an integer for single perturbations."
        )
        raise ValueError(msg)
    return int(np.argmin(np.r_[0.0, np.cumsum(gain)]))


def _given_rank(rank: Any, limit: int, name: str) -> int:
    if isinstance(rank, bool) or not isinstance(rank, (int, np.integer)) or not 0 <= rank <= limit:
        msg = f"{name}: expected an integer from 0 to {limit} (rank of the doses and genes), got {rank!r}."
        raise ValueError(msg)
    return int(rank)
