"""Orthogonal rotations that turn a matrix of effects towards sparse axes."""

from __future__ import annotations

import numpy as np

__all__ = ["sparse_rotation", "varimax"]


def _row_scale(effects: np.ndarray, noise: float) -> np.ndarray:
    """Scale rows to unit length, but leave rows that are no longer than the noise short."""
    norm = np.sqrt((effects**2).sum(1) + noise**2)
    return effects / np.where(norm > 0, norm, 1.0)[:, None]


def varimax(
    effects: np.ndarray, *, normalize: bool = True, noise: float = 0.0, max_iter: int = 500, tol: float = 1e-8
) -> np.ndarray:
    r"""Rotation that maximises the variance of squared loadings.

    Parameters
    ----------
    effects
        Matrix of shape `(n_rows, n_latent)`; rows are perturbations.
    normalize
        Scale every row to unit length first (Kaiser normalisation), so that a few strong rows do not decide alone.
    noise
        Length of a row that is indistinguishable from zero; such rows keep little weight under `normalize`.
    max_iter
        Upper limit of iterations.
    tol
        Relative change of the criterion at which to stop.

    Returns
    -------
    Orthogonal matrix `R` of shape `(n_latent, n_latent)`, float64; the rotated effects are `effects @ R`.

    Raises
    ------
    ValueError
        If `effects` is not a finite two-dimensional matrix.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import varimax
    >>> R = varimax(np.eye(3)[[0, 1, 2, 0]])
    >>> bool(np.allclose(R @ R.T, np.eye(3)))
    True

    References
    ----------
    Kaiser, H. F. (1958). The varimax criterion for analytic rotation in factor analysis. Psychometrika 23.
    """
    loadings = _checked(effects)
    if normalize:
        loadings = _row_scale(loadings, noise)
    n_rows, n_latent = loadings.shape
    rotation = _principal_axes(loadings)
    previous = 0.0
    for _ in range(max_iter):
        rotated = loadings @ rotation
        gradient = loadings.T @ (rotated**3 - rotated * (rotated**2).sum(0) / n_rows)
        left, singular, right = np.linalg.svd(gradient)
        rotation = left @ right
        if singular.sum() <= previous * (1 + tol):
            break
        previous = singular.sum()
    return rotation


def sparse_rotation(
    effects: np.ndarray,
    *,
    normalize: bool = True,
    noise: float = 0.0,
    start: np.ndarray | None = None,
    max_sweeps: int = 50,
    n_angles: int = 61,
) -> np.ndarray:
    r"""Rotation that minimises the sum of absolute loadings.

    Pairs of latents are turned against each other in sweeps (Jacobi), each pair to the best of `n_angles` angles
    within :math:`\pm 45` degrees, until no pair gains; then once more on a grid ten times finer. The absolute value is
    won by many entries near zero instead of a few large ones, which is why it finds the axes of sparse effects where
    :func:`varimax` does not.

    Parameters
    ----------
    effects
        Matrix of shape `(n_rows, n_latent)`; rows are perturbations.
    normalize
        Scale every row to unit length first.
    noise
        Length of a row that is indistinguishable from zero; such rows keep little weight under `normalize`.
    start
        Orthogonal matrix to start from, by default :func:`varimax` of the same rows.
    max_sweeps
        Upper limit of sweeps on each grid.
    n_angles
        Angles tried for each pair.

    Returns
    -------
    Orthogonal matrix `R` of shape `(n_latent, n_latent)`, float64; the rotated effects are `effects @ R`.

    Raises
    ------
    ValueError
        If `effects` is not a finite two-dimensional matrix, or `start` not an orthogonal one.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import sparse_rotation
    >>> effects = np.array([[1.0, 1.0], [1.0, -1.0], [2.0, 2.0]]) / np.sqrt(2)
    >>> (np.abs(effects @ sparse_rotation(effects)) > 0.01).sum(1).tolist()
    [1, 1, 1]
    """
    loadings = _checked(effects)
    if normalize:
        loadings = _row_scale(loadings, noise)
    n_latent = loadings.shape[1]
    rotation = varimax(loadings, normalize=False) if start is None else np.array(start, dtype=np.float64)
    if rotation.shape != (n_latent, n_latent) or not np.allclose(rotation @ rotation.T, np.eye(n_latent), atol=1e-6):
        msg = (
            f"start: expected an orthogonal matrix of shape {(n_latent, n_latent)}, got one of shape {rotation.shape}."
        )
        raise ValueError(msg)
    rotated = loadings @ rotation
    for width in (np.pi / 4, np.pi / 40):
        angles = np.linspace(-width, width, n_angles)
        cosine, sine = np.cos(angles), np.sin(angles)
        for _ in range(max_sweeps):
            if not _sweep(rotated, rotation, cosine, sine):
                break
    return rotation


def _sweep(rotated: np.ndarray, rotation: np.ndarray, cosine: np.ndarray, sine: np.ndarray) -> bool:
    """Turn every pair of columns once, in place; say whether the criterion fell."""
    improved = False
    n_latent = rotation.shape[0]
    for i in range(n_latent - 1):
        for j in range(i + 1, n_latent):
            a, b = rotated[:, i, None], rotated[:, j, None]
            cost = np.abs(a * cosine - b * sine).sum(0) + np.abs(a * sine + b * cosine).sum(0)
            best = int(cost.argmin())
            now = np.abs(a).sum() + np.abs(b).sum()
            if cost[best] < now * (1 - 1e-9) - 1e-12:
                turn = np.array([[cosine[best], sine[best]], [-sine[best], cosine[best]]])
                rotated[:, [i, j]] = rotated[:, [i, j]] @ turn
                rotation[:, [i, j]] = rotation[:, [i, j]] @ turn
                improved = True
    return improved


def _principal_axes(loadings: np.ndarray) -> np.ndarray:
    """Full right singular basis: a start that also covers latents without any effect."""
    return np.linalg.svd(loadings, full_matrices=True)[2].T


def _checked(effects: np.ndarray) -> np.ndarray:
    matrix = np.asarray(effects, dtype=np.float64)
    if matrix.ndim != 2 or matrix.size == 0:
        msg = f"effects: expected a matrix of shape (n_rows, n_latent), got shape {matrix.shape}."
        raise ValueError(msg)
    if not np.isfinite(matrix).all():
        msg = "effects: expected finite numbers, got NaN or infinity. Drop the rows without an estimate first."
        raise ValueError(msg)
    return matrix
