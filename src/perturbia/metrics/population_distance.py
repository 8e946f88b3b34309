"""How far predicted populations of cells are from real ones, group by group."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.metrics._cell_groups import CellGroups
from perturbia.metrics.matching_scores import MatchingScores, count_table
from perturbia.stats._arrays import dense_matrix
from perturbia.stats.energy import energy_distance
from perturbia.stats.transport_distance import wasserstein2

if TYPE_CHECKING:
    from collections.abc import Sequence


def _drawn(cells: np.ndarray, n_cells: int, rng: np.random.Generator) -> np.ndarray:
    return cells if len(cells) <= n_cells else cells[rng.choice(len(cells), size=n_cells, replace=False)]


def _wasserstein1(x: np.ndarray, y: np.ndarray) -> float:
    """Wasserstein distance of order 1, from the exact plan of POT."""
    import ot

    value, log = ot.emd2([], [], ot.dist(x, y, metric="euclidean"), numItermax=10_000_000, log=True)
    if log.get("warning"):
        msg = f"max_cells: the optimal plan of {len(x)} x {len(y)} cells was not reached. Draw fewer cells."
        raise RuntimeError(msg)
    return float(max(value, 0.0))


def _gaussian_kl(truth: np.ndarray, prediction: np.ndarray, min_variance: float) -> float:
    """Divergence of the Gaussian of predictions from that of the truth, both with variances and no covariances."""
    v, w = (np.maximum(cells.var(axis=0, ddof=1), min_variance) for cells in (truth, prediction))
    gap = (truth.mean(axis=0) - prediction.mean(axis=0)) ** 2
    return float((np.log(w / v) + (v + gap) / w - 1.0).sum() / 2.0)


def _distances(
    prediction: np.ndarray, truth: np.ndarray, max_cells: int, min_variance: float, rng: np.random.Generator
) -> dict[str, float]:
    some = _drawn(prediction, max_cells, rng), _drawn(truth, max_cells, rng)
    several = min(len(prediction), len(truth)) > 1
    return {
        "mean_distance": float(np.linalg.norm(prediction.mean(axis=0) - truth.mean(axis=0))),
        "wasserstein1": _wasserstein1(*some),
        "wasserstein2": wasserstein2(*some, max_pairs=max_cells**2),
        "energy_distance": energy_distance(prediction, truth) if several else np.nan,
        "gaussian_kl": _gaussian_kl(truth, prediction, min_variance) if several else np.nan,
    }


def matched_distribution(
    truth: np.ndarray,
    prediction: np.ndarray,
    *,
    truth_groups: Sequence[Any] | np.ndarray | None = None,
    prediction_groups: Sequence[Any] | np.ndarray | None = None,
    max_cells: int = 2000,
    min_variance: float = 1e-3,
    seed: int = 0,
) -> MatchingScores:
    r"""Distances between real and predicted populations of cells, within groups; no pairs of cells are needed.

    - `mean_distance`: Euclidean distance of the means;
    - `wasserstein1`, `wasserstein2`: exact transport distances, of at most `max_cells` cells drawn from each side;
    - `energy_distance`: unbiased, of all cells (:func:`perturbia.stats.energy_distance`);
    - `gaussian_kl`: :math:`\mathrm{KL}(\mathrm{truth} \,\|\, \mathrm{prediction})` of Gaussians without covariances,

    .. math:: \frac12 \sum_f \left[ \log \frac{w_f}{v_f} + \frac{v_f + (m_f - \hat m_f)^2}{w_f} - 1 \right]

    with means and variances :math:`m, v` of the truth and :math:`\hat m, w` of the prediction, variances at least
    `min_variance`.

    **Range** from 0, best (the energy distance may fall below). **Chance**: none; compare with two halves of the real cells,
    since transport distances of finite samples are far above 0, and fall with their number. **Not seen**: whether the right
    cell has the right prediction. Predictions by mean matches are too narrow: the divergence shows it, the means do not.

    Parameters
    ----------
    truth, prediction
        Real and predicted cells in one space, shapes (n_truth, n_features) and (n_prediction, n_features).
    truth_groups, prediction_groups
        Group (perturbation) of every cell. Default: one group.
    max_cells
        Cells of a group and side that transport distances are taken of, at most; time grows about with its cube.
    min_variance
        Floor of variances, in squared units of the features: part of the score, to be reported with it.
    seed
        Seed of the draws of cells.

    Returns
    -------
    :class:`MatchingScores`, with real cells as source and predicted ones as target. Groups on one side only have no score, and
    real cells there, or without a label, are counted; `energy_distance` and `gaussian_kl` need two cells on both sides. `macro` weights groups alike ("inverse count" of cells), `micro` by their number of real cells: Xi et al. (2024)
    state the first in the text and the second in the appendix.

    Raises
    ------
    ValueError
        Missing values, different numbers of features, labels of wrong length, no group in common, or settings that are not
        positive.
    RuntimeError
        The solver did not reach an optimal plan.

    Examples
    --------
    >>> import numpy as np
    >>> x = np.array([[0.0], [2.0], [4.0]])
    >>> matched_distribution(x, x + 4).macro.round(3).to_dict()
    {'mean_distance': 4.0, 'wasserstein1': 4.0, 'wasserstein2': 4.0, 'energy_distance': 2.667, 'gaussian_kl': 2.0}
    """
    real, predicted = dense_matrix(truth, "truth"), dense_matrix(prediction, "prediction")
    if real.shape[1] != predicted.shape[1]:
        msg = f"prediction: expected the {real.shape[1]} features (columns) of truth, got {predicted.shape[1]}."
        raise ValueError(msg)
    if max_cells < 1 or not 0 < min_variance < np.inf:
        msg = f"max_cells, min_variance: expected at least 1 and a number > 0, got {max_cells} and {min_variance}."
        raise ValueError(msg)
    groups = CellGroups.from_labels(
        len(real), len(predicted), truth_groups, prediction_groups, names=("truth_groups", "prediction_groups")
    )
    both = (groups.n_source > 0) & (groups.n_target > 0)
    rows = [
        _distances(predicted[others], real[cells], max_cells, min_variance, np.random.default_rng([seed, group]))
        if both[group]
        else {}
        for group, (cells, others) in enumerate(zip(groups.source_members, groups.target_members, strict=True))
    ]
    table = count_table(groups, np.where(both, groups.n_source, 0))
    scores = pd.DataFrame(rows, index=table.index, dtype=np.float64)
    left_out = {"without_counterpart": len(real) - int(groups.n_source[both].sum())}
    return MatchingScores(table.join(scores), pd.Series(left_out, dtype=np.int64))
