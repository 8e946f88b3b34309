"""How far combinations depart from the sum of their members, as observed and as predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia import metrics
from perturbia.perturbation import Perturbation, as_perturbation
from perturbia.tl._evaluation.measure import Overall

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["interaction_r", "interaction_r2"]


def _score(truth: Truth, prediction: Prediction, score: Callable[..., float | np.ndarray]) -> Overall:
    """A score over combinations whose members were all measured alone, by cells that no method is fitted to.

    None without any, or if the method says nothing of members.
    """
    nothing = Overall.undefined(len(truth))
    if prediction.effects_of is None:
        return nothing
    names, seen = truth.members
    position = {str(name): i for i, name in enumerate(names)}
    rows, members = [], []
    for i, name in enumerate(truth.perturbations):
        parts = [str(Perturbation({target: dose})) for target, dose in as_perturbation(name).targets.items()]
        measured = np.isfinite(truth.effects[i]).all()
        if len(parts) > 1 and measured and all(part in position for part in parts):
            rows.append(i)
            members.append(parts)
    if not rows:
        return nothing
    singles = sorted({part for parts in members for part in parts})
    stated = dict(zip(singles, prediction.effects_of(singles), strict=True))
    arrays = (
        truth.effects[rows],
        prediction.effects[rows],
        np.stack([sum(seen[position[part]] for part in parts) for parts in members]),
        np.stack([sum(stated[part] for part in parts) for parts in members]),
    )
    # in the precision that effects were stated in: what is left of exact sums is dust, and the metric knows how much
    true, predicted, true_sum, predicted_sum = (values.astype(np.float32) for values in arrays)
    value = float(score(true, predicted, truth_additive=true_sum, prediction_additive=predicted_sum))
    return Overall.of(value, np.isin(np.arange(len(truth)), rows))


def interaction_r(truth: Truth, prediction: Prediction) -> Overall:
    """Correlation of departures over all combinations and genes."""
    return _score(truth, prediction, metrics.interaction_correlation)


def interaction_r2(truth: Truth, prediction: Prediction) -> Overall:
    """R² of departures over all combinations and genes."""
    return _score(truth, prediction, metrics.interaction_r2)
