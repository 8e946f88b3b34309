"""How far combinations depart from the sum of their members, as observed and as predicted."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia import metrics
from perturbia.tl._evaluation.measure import Overall

if TYPE_CHECKING:
    from collections.abc import Callable

    from perturbia.tl._evaluation.predictions import Prediction
    from perturbia.tl._evaluation.truth import Truth

__all__ = ["interaction_r", "interaction_r2"]


def _departures(truth: Truth, prediction: Prediction) -> tuple[np.ndarray, tuple[np.ndarray, ...]]:
    """Combinations whose members were all measured alone, by cells that no method is fitted to.

    Their positions; and effects and sums of the effects of members, as observed and as predicted. No positions without
    any, or if the method says nothing of members.
    """
    cache = prediction.__dict__
    if "departures" in cache:
        return cache["departures"]
    cache["departures"] = np.zeros(0, dtype=int), ()
    if prediction.effects_of is None:
        return cache["departures"]
    names, seen = truth.members
    position = {str(name): i for i, name in enumerate(names)}
    rows, members = [], []
    for i, parts in enumerate(truth.parts):
        measured = np.isfinite(truth.effects[i]).all()
        if len(parts) > 1 and measured and all(part in position for part in parts):
            rows.append(i)
            members.append(parts)
    if not rows:
        return cache["departures"]
    singles = sorted({part for parts in members for part in parts})
    stated = dict(zip(singles, prediction.effects_of(singles), strict=True))
    arrays = (
        truth.effects[rows],
        prediction.effects[rows],
        np.stack([sum(seen[position[part]] for part in parts) for parts in members]),
        np.stack([sum(stated[part] for part in parts) for parts in members]),
    )
    # in the precision that effects were stated in: what is left of exact sums is dust, and the metric knows how much
    cache["departures"] = np.array(rows), tuple(values.astype(np.float32) for values in arrays)
    return cache["departures"]


def _score(truth: Truth, prediction: Prediction, score: Callable[..., float | np.ndarray]) -> Overall:
    """A score over these combinations."""
    rows, arrays = _departures(truth, prediction)
    if len(rows) == 0:
        return Overall.undefined(len(truth))
    true, predicted, true_sum, predicted_sum = arrays
    value = float(score(true, predicted, truth_additive=true_sum, prediction_additive=predicted_sum))
    return Overall.of(value, np.isin(np.arange(len(truth)), rows))


def interaction_r(truth: Truth, prediction: Prediction) -> Overall:
    """Correlation of departures over all combinations and genes."""
    return _score(truth, prediction, metrics.interaction_correlation)


def interaction_r2(truth: Truth, prediction: Prediction) -> Overall:
    """R² of departures over all combinations and genes."""
    return _score(truth, prediction, metrics.interaction_r2)
