"""Recovery of true latent variables up to order, sign and scale (MCC) or up to a linear map (R²)."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import scipy.optimize
import scipy.stats

from perturbia.stats._arrays import dense_matrix
from perturbia.stats.correlation import centre_rows


@dataclass(frozen=True)
class LatentMatching:
    """One-to-one matching of true and estimated latents.

    Attributes
    ----------
    truth, estimate
        Column indices of the matched pairs, each of shape (min(n_true, n_estimated),), in order of the true latents.
    correlation
        Signed correlation of each pair.
    n_true
        Number of true latents, matched or not.
    """

    truth: np.ndarray
    estimate: np.ndarray
    correlation: np.ndarray
    n_true: int


def _paired_latents(truth: Any, estimate: Any) -> tuple[np.ndarray, np.ndarray]:
    true = dense_matrix(truth, "truth", min_rows=2)
    estimated = dense_matrix(estimate, "estimate", min_rows=2)
    if len(true) != len(estimated):
        msg = f"estimate: expected the {len(true)} cells (rows) of truth, got {len(estimated)}. Align the cells first."
        raise ValueError(msg)
    if (centre_rows(true.T)[1] == 0).any():
        msg = "truth: expected latents that vary between cells, got constant columns. Leave these columns out."
        raise ValueError(msg)
    return true, estimated


def match_latents(
    truth: np.ndarray, estimate: np.ndarray, *, method: Literal["pearson", "spearman"] = "pearson"
) -> LatentMatching:
    """Match estimated to true latents so that the sum of absolute correlations is largest (Hungarian algorithm).

    Parameters
    ----------
    truth, estimate
        Latents of the same cells, shapes (n_cells, n_true) and (n_cells, n_estimated).
    method
        Correlation: `"spearman"` also forgives monotone curvature.

    Returns
    -------
    :class:`LatentMatching`.

    Raises
    ------
    ValueError
        Numbers of cells differ, fewer than two cells, a constant true latent, missing values, unknown method.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[0.0, 1.0], [1.0, 0.0], [2.0, 5.0]])
    >>> match_latents(z, -z[:, ::-1]).estimate
    array([1, 0])
    """
    true, estimated = _paired_latents(truth, estimate)
    if method not in ("pearson", "spearman"):
        msg = f"method: expected 'pearson' or 'spearman', got {method!r}."
        raise ValueError(msg)
    if method == "spearman":
        true, estimated = scipy.stats.rankdata(true, axis=0), scipy.stats.rankdata(estimated, axis=0)
    (a, length_a), (b, length_b) = centre_rows(true.T), centre_rows(estimated.T)
    scale = np.outer(length_a, length_b)
    correlation = np.divide(a @ b.T, scale, out=np.zeros_like(scale), where=scale > 0)
    rows, columns = scipy.optimize.linear_sum_assignment(-np.abs(correlation))
    return LatentMatching(rows, columns, np.clip(correlation[rows, columns], -1.0, 1.0), true.shape[1])


def latent_mcc(truth: np.ndarray, estimate: np.ndarray, *, method: Literal["pearson", "spearman"] = "pearson") -> float:
    r"""Mean correlation coefficient after matching: recovery up to order, sign and scale.

    .. math:: \mathrm{MCC} = \frac{1}{L} \max_{\pi \text{ injective}} \sum_{l=1}^{L} |\operatorname{corr}(z_l, \hat z_{\pi(l)})|

    The standard score of identifiable representation learning (Hyvärinen and Morioka, 2016; Khemakhem et al., 2020).

    Parameters
    ----------
    truth, estimate
        Latents of the same cells, shapes (n_cells, n_true) and (n_cells, n_estimated).
    method
        Kind of correlation.

    Returns
    -------
    Value in [0, 1]. The mean is over all true latents: one that finds no partner (fewer estimated than true) or a
    constant partner counts 0. Surplus estimated latents cost nothing, and more of them raise the chance level, which is
    about :math:`\sqrt{2 \log(n_\mathrm{estimated}) / n_\mathrm{cells}}`.

    Raises
    ------
    ValueError
        As :func:`match_latents`.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=(50, 3))
    >>> round(latent_mcc(z, -2 * z[:, ::-1]), 6)
    1.0
    """
    matching = match_latents(truth, estimate, method=method)
    return float(np.abs(matching.correlation).sum() / matching.n_true)


def linear_r2(truth: np.ndarray, estimate: np.ndarray, *, n_folds: int | None = 5, seed: int = 0) -> float:
    r"""Share of variance of the true latents explained by a linear map of the estimated ones.

    .. math:: R^2 = \frac{1}{L} \sum_l \left( 1 -
              \frac{\sum_i (z_{il} - a_l - \hat z_i \cdot b_l)^2}{\sum_i (z_{il} - \bar z_l)^2} \right)

    Recovery up to a linear map: high R² with low :func:`latent_mcc` means right space, wrong axes.

    **Range** up to 1, best. **Chance** is 0 or a little below. **Not seen**: axes and their order, curvature, and surplus
    latents.

    Parameters
    ----------
    truth, estimate
        Latents of the same cells, shapes (n_cells, n_true) and (n_cells, n_estimated).
    n_folds
        Predict each cell by least squares fitted without its fold. `None` fits and scores on all cells, which overstates
        R² by about n_estimated / n_cells.
    seed
        Seed that assigns cells to folds.

    Returns
    -------
    Mean over true latents, at most 1.

    Raises
    ------
    ValueError
        As :func:`match_latents`; too few cells for the folds.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=(50, 2))
    >>> round(linear_r2(z, z @ np.array([[1.0, 2.0], [0.0, 1.0]])), 6)
    1.0
    """
    true, estimated = _paired_latents(truth, estimate)
    if n_folds is not None and not 2 <= n_folds <= len(true):
        msg = f"n_folds: expected None or 2 to {len(true)} (the number of cells), got {n_folds}."
        raise ValueError(msg)
    design = np.column_stack([np.ones(len(estimated)), estimated])
    if n_folds is None:
        residual = true - design @ np.linalg.lstsq(design, true, rcond=None)[0]
    else:
        fold = np.random.default_rng(seed).permutation(len(true)) % n_folds
        residual = np.empty_like(true)
        for k in range(n_folds):
            fit = np.linalg.lstsq(design[fold != k], true[fold != k], rcond=None)[0]
            residual[fold == k] = true[fold == k] - design[fold == k] @ fit
    unexplained = (residual**2).sum(axis=0) / ((true - true.mean(axis=0)) ** 2).sum(axis=0)
    return float(np.mean(1.0 - unexplained))
