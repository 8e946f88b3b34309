"""How far the cells that a coupling matches lie from where they should: squared errors and R²."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia.metrics._cell_groups import true_positions
from perturbia.metrics._coupling_tiles import as_tiles
from perturbia.metrics.matching_scores import mean_by_group
from perturbia.stats._arrays import check_same_shape, dense_matrix, group_codes
from perturbia.stats.correlation import centre_rows
from perturbia.stats.group_moments import group_means

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics.matching_scores import MatchingScores

# A sum of squares below this share of the whole is what rounding leaves of constant groups.
_ROUNDING = 1e-24


def matched_mse(
    coupling: Any,
    x_source: np.ndarray | None,
    x_target: np.ndarray,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> MatchingScores:
    r"""Squared distance of each cell to its match, in a space that both sides share: that of the mean match, and the mean one.

    With :math:`w_{ij} = M_{ij} / \sum_k M_{ik}`, d features, and :math:`z_i` the true position of source cell i,

    .. math:: \mathrm{barycentric} = \frac{1}{nd} \sum_i \Big\| z_i - \sum_j w_{ij} z_j \Big\|^2, \qquad
              \mathrm{expected} = \frac{1}{nd} \sum_{ij} w_{ij} \| z_i - z_j \|^2

    The second is the first plus the variance of the match, and is computed so: no matrix of distances is formed. The first
    is what a prediction by the mean match pays, the second what a match drawn at random pays.

    **Range** from 0, best, in squared units of the features. **Chance** of the uniform plan is the variance within groups
    for the first and twice that for the second. **Not seen** by the first: it falls when a plan predicts the mean of many
    cells, so that a soft plan may win without matching better. Read both.

    Parameters
    ----------
    coupling
        Non-negative matrix (n_source, n_target), dense or sparse, or an object with tiles, as in :func:`coupling_trace`.
    x_source
        True latents (or shared features) of source cells, shape (n_source, n_features). `None`: those of true partners,
        which `pairs` name.
    x_target
        The same latents or features of target cells, shape (n_target, n_features).
    pairs
        Position of the true partner of every source cell, -1 for none; in place of `x_source`.
    source_groups, target_groups
        As in :func:`coupling_trace`.

    Returns
    -------
    :class:`MatchingScores` with `barycentric_mse` and `expected_mse`, divided by the number of features.

    Raises
    ------
    ValueError
        As :func:`coupling_trace`; features that are missing, of another length or width; both or none of `x_source` and
        `pairs`.

    Examples
    --------
    >>> import numpy as np
    >>> z = np.array([[0.0], [2.0]])
    >>> matched_mse(np.full((2, 2), 0.25), z, z).macro.to_dict()
    {'barycentric_mse': 1.0, 'expected_mse': 2.0}
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    truth, target, left_out = true_positions(x_source, x_target, pairs, plan.groups)
    # The variance of a match is a difference of moments: the common offset would cost its digits.
    offset = target.mean(axis=0)
    centred = target - offset
    moments = plan.expectation(np.column_stack([centred, (centred**2).sum(axis=1)]))
    match, n_features = moments[:, :-1], target.shape[1]
    barycentric = ((truth - offset - match) ** 2).sum(axis=1)
    variance = np.maximum(moments[:, -1] - (match**2).sum(axis=1), 0.0)
    values = {"barycentric_mse": barycentric / n_features, "expected_mse": (barycentric + variance) / n_features}
    return mean_by_group(plan.groups, values, left_out)


@dataclass(frozen=True)
class FeatureR2:
    """R² of predicted features of cells.

    Attributes
    ----------
    pooled
        One minus the squared error of all features over their squared deviation from the mean of each feature.
    median
        Median over features of their own R².
    within_groups
        As `pooled`, with the mean of each group in place of the mean of all cells: what a prediction knows beyond the group;
        NaN without groups, or where nothing varies within them.
    by_feature
        R² of every feature, shape (n_features,); NaN where a feature is constant.
    n_cells
        Cells that were scored.
    """

    pooled: float
    median: float
    within_groups: float
    by_feature: np.ndarray
    n_cells: int

    def __repr__(self) -> str:
        within = "" if np.isnan(self.within_groups) else f", within groups {self.within_groups:.3f}"
        return (
            f"FeatureR2: pooled {self.pooled:.3f}, median {self.median:.3f}{within} "
            f"({self.n_cells} cells, {len(self.by_feature)} features)"
        )


def feature_r2(
    truth: np.ndarray, prediction: np.ndarray, *, groups: Sequence[Any] | np.ndarray | None = None
) -> FeatureR2:
    r"""R² of predicted features of cells: all features together, their median, and beyond the means of groups.

    .. math:: R^2 = 1 - \frac{\sum_{if} (x_{if} - \hat x_{if})^2}{\sum_{if} (x_{if} - \bar x_f)^2}

    **Range** up to 1, best. **Chance**: the mean of each feature scores 0, and the mean of each group scores 0 within groups.
    Groups that differ lift the pooled value of a prediction that knows the group and nothing of its cells. **Not seen**, if
    pooled: features of small variance. A squared error rewards a prediction that is shrunk to the mean.

    Parameters
    ----------
    truth, prediction
        Features of the same cells, shape (n_cells, n_features), at least two cells.
    groups
        Group of every cell, shape (n_cells,).

    Returns
    -------
    :class:`FeatureR2`.

    Raises
    ------
    ValueError
        Shapes differ, missing values, fewer than two cells, or no feature that varies.

    Notes
    -----
    Xi et al. (2024) print the formula without "1 -"; their code has it.

    Examples
    --------
    >>> import numpy as np
    >>> feature_r2(np.array([[0.0], [2.0]]), np.array([[0.0], [1.0]]))
    FeatureR2: pooled 0.500, median 0.500 (2 cells, 1 features)
    """
    true = dense_matrix(truth, "truth", min_rows=2)
    predicted = dense_matrix(prediction, "prediction", min_rows=2)
    check_same_shape(true, predicted, ("truth", "prediction"))
    length = centre_rows(true.T)[1]
    if not (length > 0).any():
        msg = "truth: expected features that vary between cells, got constant columns only. No R² is defined."
        raise ValueError(msg)
    error = ((true - predicted) ** 2).sum(axis=0)
    by_feature = 1.0 - np.divide(error, length**2, out=np.full(len(error), np.nan), where=length > 0)
    within = np.nan
    if groups is not None:
        _, codes = group_codes(groups, len(true), name="groups")
        spread = ((true - group_means(true, codes, with_variance=False).mean[codes]) ** 2).sum()
        within = 1.0 - float(error.sum() / spread) if spread > _ROUNDING * (length**2).sum() else np.nan
    return FeatureR2(
        pooled=1.0 - float(error.sum() / (length**2).sum()),
        median=float(np.nanmedian(by_feature)),
        within_groups=within,
        by_feature=by_feature,
        n_cells=len(true),
    )


def matched_r2(
    coupling: Any,
    x_source: np.ndarray | None,
    x_target: np.ndarray,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
) -> FeatureR2:
    """R² of the features that a coupling imputes, the mean of each cell's match, against the true ones.

    Ranges, levels and limits are those of :func:`feature_r2`. The means of groups are where a plan without information
    within them ends: look at `within_groups`.

    Parameters
    ----------
    coupling, x_source, x_target, pairs, source_groups, target_groups
        As in :func:`matched_mse`.

    Returns
    -------
    :class:`FeatureR2` over source cells that have mass and a true position.

    Raises
    ------
    ValueError
        As :func:`matched_mse` and :func:`feature_r2`.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [1.0], [5.0], [6.0]])
    >>> blocks = np.kron(np.eye(2), np.ones((2, 2)))
    >>> groups = ["a", "a", "b", "b"]
    >>> matched_r2(blocks, x, x, source_groups=groups, target_groups=groups)
    FeatureR2: pooled 0.962, median 0.962, within groups 0.000 (4 cells, 1 features)
    """
    plan = as_tiles(coupling, source_groups, target_groups)
    truth, target, _ = true_positions(x_source, x_target, pairs, plan.groups)
    match = plan.expectation(target)
    scored = ~np.isnan(truth[:, 0] + match[:, 0])
    if scored.sum() < 2:
        msg = f"coupling: expected at least two cells with mass and a true position, got {int(scored.sum())}."
        raise ValueError(msg)
    return feature_r2(truth[scored], match[scored], groups=plan.groups.source[scored])
