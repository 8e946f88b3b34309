"""Disentanglement, completeness and informativeness of latents against known factors."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from perturbia.stats._arrays import check_nonnegative, dense_matrix
from perturbia.stats._settings import check_choice


@dataclass(frozen=True)
class DCIScores:
    """Scores of latents against true factors.

    Attributes
    ----------
    disentanglement
        Each latent serves one factor: weighted mean of `latent_disentanglement`.
    completeness
        Each factor is served by one latent: weighted mean of `factor_completeness`.
    informativeness
        Factors can be predicted from latents: mean of `factor_informativeness`.
    latent_disentanglement
        One minus the entropy of each latent's importance over factors, shape (n_latents,); 0 for a latent of no use.
    factor_completeness
        One minus the entropy of each factor's importance over latents, shape (n_factors,); 0 for a factor that no latent
        serves.
    factor_informativeness
        R² on held-out cells of each factor, shape (n_factors,).
    importance
        Importance of latents for factors, shape (n_latents, n_factors).
    """

    disentanglement: float
    completeness: float
    informativeness: float
    latent_disentanglement: np.ndarray
    factor_completeness: np.ndarray
    factor_informativeness: np.ndarray
    importance: np.ndarray

    def __repr__(self) -> str:
        return (
            f"DCIScores: disentanglement {self.disentanglement:.3f}, completeness {self.completeness:.3f}, "
            f"informativeness {self.informativeness:.3f} ({self.importance.shape[0]} latents, "
            f"{self.importance.shape[1]} factors)"
        )


def _concentration(weights: np.ndarray) -> tuple[np.ndarray, float]:
    """One minus the relative entropy of each row, and its mean weighted by the rows' totals."""
    total = weights.sum(axis=1)
    share = np.divide(weights, total[:, None], out=np.zeros_like(weights), where=total[:, None] > 0)
    entropy = -np.sum(share * np.log(np.where(share > 0, share, 1.0)), axis=1) / np.log(weights.shape[1])
    rows = np.where(total > 0, 1.0 - entropy, 0.0)
    return rows, float(rows @ total / total.sum()) if total.sum() > 0 else 0.0


def dci_from_importance(importance: np.ndarray) -> tuple[np.ndarray, np.ndarray, float, float]:
    r"""Disentanglement and completeness of a matrix of importances.

    .. math:: D_i = 1 + \sum_j P_{ij} \log_F P_{ij}, \quad P_{ij} = \frac{R_{ij}}{\sum_k R_{ik}}, \quad
              D = \sum_i \frac{\sum_j R_{ij}}{\sum_{kj} R_{kj}} D_i

    and the same over columns for completeness, weighted by column totals (equal weights in the paper, where every factor's
    importances add up to one).

    **Range** [0, 1], 1 best. **Chance** is near 0 for equal importances, and well above 0 for random ones of few latents.
    **Not seen**: whether factors can be predicted at all.

    Parameters
    ----------
    importance
        Numbers >= 0, shape (n_latents, n_factors), at least two of each.

    Returns
    -------
    Disentanglement of each latent (n_latents,), completeness of each factor (n_factors,), and their weighted means. A row
    or column of zeros has 0 and no weight.

    Raises
    ------
    ValueError
        A bad array, or negative numbers.

    References
    ----------
    Eastwood and Williams, ICLR (2018), section 2.

    Examples
    --------
    >>> import numpy as np
    >>> dci_from_importance(np.array([[1.0, 0.0], [0.0, 1.0], [0.0, 1.0]]))[2]
    1.0
    """
    matrix = dense_matrix(importance, "importance", min_rows=2, min_columns=2)
    check_nonnegative(matrix, "importance")
    latents, disentanglement = _concentration(matrix)
    factors, completeness = _concentration(matrix.T)
    return latents, factors, disentanglement, completeness


def _regressor(model: str, n_trees: int, seed: int, n_jobs: int) -> Any:
    if model == "random_forest":
        from sklearn.ensemble import RandomForestRegressor

        return RandomForestRegressor(n_trees, min_samples_leaf=5, random_state=seed, n_jobs=n_jobs)
    from sklearn.ensemble import GradientBoostingRegressor

    return GradientBoostingRegressor(n_estimators=n_trees, subsample=0.5, random_state=seed)


def dci(
    truth: np.ndarray,
    latents: np.ndarray,
    *,
    model: Literal["random_forest", "gradient_boosting"] = "random_forest",
    n_trees: int = 50,
    test_fraction: float = 0.25,
    seed: int = 0,
    n_jobs: int = 1,
) -> DCIScores:
    """Disentanglement, completeness and informativeness: do latents and true factors match one to one?

    For each factor a tree ensemble predicts it from all latents; the impurity importances, which add up to one for each
    factor, give the matrix of :func:`dci_from_importance`. :func:`latent_mcc` asks the same of one pair at a time and
    without curvature; a high informativeness beside low disentanglement means right space, wrong axes.

    **Range** [0, 1] for the first two, informativeness up to 1; 1 best. **Chance** depends on the numbers of latents and
    factors: score shuffled cells beside it. **Not seen**: sign, scale and monotone distortion of latents. Impurity
    importances give useless latents a little weight, so that 1 is not reached on finite samples.

    Parameters
    ----------
    truth
        True factors of cells, shape (n_cells, n_factors), at least two; a 0/1 factor is treated as a number.
    latents
        Estimated latents of the same cells, shape (n_cells, n_latents), at least two.
    model
        Ensemble of scikit-learn.
    n_trees
        Trees for each factor.
    test_fraction
        Share of cells, drawn at random, on which informativeness is scored and nothing is fitted.
    seed
        Seed of the split and the trees.
    n_jobs
        Processes of the random forest.

    Returns
    -------
    :class:`DCIScores`. Informativeness is R² here, higher better, where the paper states an error.

    Raises
    ------
    ValueError
        Numbers of cells differ, fewer than 20 cells, fewer than two factors or latents, a factor that is constant in either
        part of the cells, missing values, settings out of range.

    References
    ----------
    Eastwood and Williams, A framework for the quantitative evaluation of disentangled representations, ICLR (2018).

    Examples
    --------
    >>> import numpy as np
    >>> z = np.random.default_rng(0).normal(size=(300, 2))
    >>> scores = dci(z, -2 * z[:, ::-1])
    >>> scores.disentanglement > 0.8 and scores.informativeness > 0.8
    True
    """
    factors = dense_matrix(truth, "truth", min_rows=20, min_columns=2)
    codes = dense_matrix(latents, "latents", min_rows=20, min_columns=2)
    if len(factors) != len(codes):
        msg = f"latents: expected the {len(factors)} cells (rows) of truth, got {len(codes)}. Align the cells first."
        raise ValueError(msg)
    check_choice("model", model, ("random_forest", "gradient_boosting"))
    if n_trees < 1 or not 0 < test_fraction < 1:
        msg = f"n_trees, test_fraction: expected at least 1 and a share in (0, 1), got {n_trees} and {test_fraction}."
        raise ValueError(msg)
    order = np.random.default_rng(seed).permutation(len(factors))
    n_test = min(max(2, round(test_fraction * len(factors))), len(factors) - 2)
    test, train = order[:n_test], order[n_test:]
    for part in (train, test):
        if (np.ptp(factors[part], axis=0) == 0).any():
            msg = "truth: expected factors that vary in both parts of the cells, got constant columns. Leave these out."
            raise ValueError(msg)
    importance, informativeness = np.empty((codes.shape[1], factors.shape[1])), np.empty(factors.shape[1])
    for column, values in enumerate(factors.T):
        fitted = _regressor(model, n_trees, seed + column, n_jobs).fit(codes[train], values[train])
        importance[:, column] = fitted.feature_importances_
        informativeness[column] = fitted.score(codes[test], values[test])
    by_latent, by_factor, disentanglement, completeness = dci_from_importance(importance)
    return DCIScores(
        disentanglement=disentanglement,
        completeness=completeness,
        informativeness=float(informativeness.mean()),
        latent_disentanglement=by_latent,
        factor_completeness=by_factor,
        factor_informativeness=informativeness,
        importance=importance,
    )
