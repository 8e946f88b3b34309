"""All scores of an alignment that the known truth allows, in one series."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.metrics._coupling_tiles import CouplingTiles
from perturbia.metrics.closer_cells import projected_foscttm, soft_foscttm
from perturbia.metrics.matched_error import matched_mse, matched_r2
from perturbia.metrics.matched_labels import matched_label_accuracy
from perturbia.metrics.population_distance import matched_distribution
from perturbia.metrics.true_pair_mass import coupling_trace

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics.matching_scores import MatchingScores


def alignment(
    coupling: Any,
    *,
    pairs: Sequence[int] | np.ndarray | None = None,
    x_source: np.ndarray | None = None,
    x_target: np.ndarray | None = None,
    source_labels: Sequence[Any] | np.ndarray | None = None,
    target_labels: Sequence[Any] | np.ndarray | None = None,
    source_groups: Sequence[Any] | np.ndarray | None = None,
    target_groups: Sequence[Any] | np.ndarray | None = None,
    distribution: bool = False,
    max_cells: int = 2000,
    seed: int = 0,
) -> pd.Series:
    """Score a coupling in every way that what is known of the truth allows.

    Every score is computed within groups. `<score>_macro` is its mean over groups, `<score>_micro` its mean over cells.

    ================================= ======================== ====== ====== ==============================
    Entry                             Needs                    Best   Chance Function
    ================================= ======================== ====== ====== ==============================
    trace                             `pairs`                  1      1/m    :func:`coupling_trace`
    fold                              `pairs`                  m      1      :func:`coupling_trace`
    barycentric_mse, expected_mse     features                 0      --     :func:`matched_mse`
    r2, r2_median, r2_within_groups   features                 1      0      :func:`matched_r2`
    foscttm                           features                 0      0.5    :func:`projected_foscttm`
    foscttm_source, foscttm_target    features                 0      0.5    :func:`projected_foscttm`
    soft_foscttm                      features                 0      0.5    :func:`soft_foscttm`
    expected_agreement, accuracy      labels                   1      --     :func:`matched_label_accuracy`
    macro_f1                          labels                   1      --     :func:`matched_label_accuracy`
    relative_matching                 labels                   1      0      :func:`matched_label_accuracy`
    mean_distance                     features, `distribution` 0      --     :func:`matched_distribution`
    wasserstein1, wasserstein2        features, `distribution` 0      --     :func:`matched_distribution`
    energy_distance, gaussian_kl      features, `distribution` 0      --     :func:`matched_distribution`
    n_source, n_target, n_groups      --                       --     --     sizes
    n_unmatched                       --                       0      --     source cells without mass
    n_unpaired                        `pairs`                  0      --     source cells without a partner
    n_partner_in_other_group          `pairs`                  0      --     source cells left out for it
    ================================= ======================== ====== ====== ==============================

    The R² and the counts are over all cells and have no ending; m is the number of target cells of a group.

    Features are `x_target` with `x_source`, one space for both sides (true latents of a simulation, shared features), or
    with `pairs`, so that true partners say where source cells lie. If both are there, `x_source` counts.

    Parameters
    ----------
    coupling
        Non-negative matrix (n_source, n_target), dense or sparse, or an object with tiles, as in :func:`coupling_trace`.
    pairs
        Position of the true partner of every source cell among target cells, -1 for none, shape (n_source,).
    x_source, x_target
        Features of cells in one space, shapes (n_source, n_features) and (n_target, n_features).
    source_labels, target_labels
        Held-out labels of cells, such as cell types, shapes (n_source,) and (n_target,).
    source_groups, target_groups
        Group (perturbation) of every cell. Default: the blocks of the coupling, or one group.
    distribution
        Also compare the populations of predicted cells (means of matches) with real ones, which solves an exact transport
        problem in every group: with the real source cells, if `x_source` is given, or target cells.
    max_cells, seed
        As in :func:`matched_distribution`.

    Returns
    -------
    Float64 series.

    Raises
    ------
    ValueError
        Nothing to score against, half of a pair of arguments, or as the functions above.

    Warns
    -----
    RuntimeWarning
        True partners that belong to another group.

    Examples
    --------
    >>> import numpy as np
    >>> scores = alignment(np.full((4, 4), 1 / 16), pairs=np.arange(4), x_target=np.eye(4))
    >>> scores[["trace_macro", "fold_macro", "soft_foscttm_macro"]].tolist()
    [0.25, 1.0, 0.5]
    """
    labelled = source_labels is not None or target_labels is not None
    _check_what_is_known(pairs, x_source, x_target, source_labels, target_labels, distribution=distribution)
    plan = CouplingTiles(coupling, source_groups, target_groups)
    scores = pd.Series(dtype=np.float64)
    found: list[MatchingScores] = []
    if pairs is not None:
        found.append(coupling_trace(plan, pairs))
    if x_target is not None:
        geometry: dict[str, Any] = {"x_source": x_source, "x_target": x_target}
        geometry["pairs"] = pairs if x_source is None else None
        found += [score(plan, **geometry) for score in (matched_mse, projected_foscttm, soft_foscttm)]
        fit = matched_r2(plan, **geometry)
        scores = pd.Series({"r2": fit.pooled, "r2_median": fit.median, "r2_within_groups": fit.within_groups})
    if labelled:
        found.append(matched_label_accuracy(plan, source_labels, target_labels))  # type: ignore[arg-type]
    if distribution:
        found.append(_populations(plan, x_source, x_target, max_cells, seed))
    return pd.concat([*(score.flat() for score in found), scores, _counts(plan, found)]).astype(np.float64)


def _check_what_is_known(
    pairs: Any, x_source: Any, x_target: Any, source_labels: Any, target_labels: Any, *, distribution: bool
) -> None:
    if pairs is None and x_target is None and source_labels is None and target_labels is None:
        msg = "pairs, x_target, source_labels: expected something to score against, got none. Pass what is known."
        raise ValueError(msg)
    if x_target is None and (x_source is not None or distribution):
        msg = "x_target: expected features of target cells beside x_source or distribution, got None."
        raise ValueError(msg)
    if (source_labels is None) != (target_labels is None):
        absent = "source_labels" if source_labels is None else "target_labels"
        msg = f"{absent}: expected a label for every cell, as on the other side, got None. Pass both or neither."
        raise ValueError(msg)


def _populations(plan: CouplingTiles, x_source: Any, x_target: Any, max_cells: int, seed: int) -> MatchingScores:
    """Predicted cells against real ones of the same groups."""
    predicted = plan.expectation(np.asarray(x_target, dtype=np.float64))
    matched = ~np.isnan(predicted[:, 0])
    real, codes = (x_source, plan.groups.source) if x_source is not None else (x_target, plan.groups.target)
    in_group = codes >= 0
    return matched_distribution(
        np.asarray(real)[in_group],
        predicted[matched],
        truth_groups=plan.groups.names[codes[in_group]],
        prediction_groups=plan.groups.names[plan.groups.source[matched]],
        max_cells=max_cells,
        seed=seed,
    )


def _counts(plan: CouplingTiles, found: list[MatchingScores]) -> pd.Series:
    counts = {"n_source": plan.shape[0], "n_target": plan.shape[1], "n_groups": len(plan.groups.names)}
    counts["n_unmatched"] = int((~plan.matched).sum())
    for reason in ("unpaired", "partner_in_other_group"):
        if values := [score.left_out[reason] for score in found if reason in score.left_out]:
            counts[f"n_{reason}"] = int(values[0])
    return pd.Series(counts)
