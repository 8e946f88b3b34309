"""Scores put on a common scale: 0 is a baseline, 1 the best there is."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np


def _finite(value: Any, name: str) -> np.ndarray:
    array = np.asarray(value)
    if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
        msg = f"{name}: expected finite numbers, got {value!r}. Leave out what has no score, and say so."
        raise ValueError(msg)
    return array.astype(np.float64)


def scale_to_baseline(score: Any, *, baseline: Any, best: Any = 1.0, clip: bool = False) -> Any:
    r"""Share of the way from a baseline to the best value that a score goes.

    .. math:: \frac{s - b}{s^* - b}

    With `best=1` this is :math:`(s - b)/(1 - b)`, with `best=0` (errors) :math:`1 - s/b`: the two normalisations of
    cell-eval and the Virtual Cell Challenge. With `best` the value of a noise ceiling it says how much of what can be
    predicted is.

    **Range** up to 1, best (above 1: better than the ceiling); no lower bound. **Chance** is whatever the baseline is: it
    scores 0. **Not seen**: absolute values. `clip=True` sets negative values to 0 as those leaderboards do. **The clip
    hides bad errors**: any error beyond the baseline's costs nothing, however large, so that a submission may give up one
    metric to win another. Publish the unclipped value, or both.

    Parameters
    ----------
    score, baseline, best
        Numbers or arrays that broadcast: the value of a model, of the baseline, and of the best there is (1 for scores, 0
        for errors, or a ceiling's value), all of one metric.
    clip
        Set values below 0 to 0.

    Returns
    -------
    A float for three numbers, otherwise an array. Where the baseline equals the best value there is no scale: NaN with a
    warning (cell-eval: 0).

    Raises
    ------
    ValueError
        Missing or infinite values, or shapes that do not broadcast.

    Warns
    -----
    RuntimeWarning
        Some baselines equal the best value.

    Examples
    --------
    >>> scale_to_baseline(0.75, baseline=0.5)
    0.5
    >>> scale_to_baseline(0.5, baseline=0.25, best=0.0)
    -1.0
    >>> scale_to_baseline(0.5, baseline=0.25, best=0.0, clip=True)
    0.0
    """
    try:
        value, base, top = np.broadcast_arrays(
            _finite(score, "score"), _finite(baseline, "baseline"), _finite(best, "best")
        )
    except ValueError as error:
        if "broadcast" not in str(error):
            raise
        shapes = ", ".join(str(np.shape(x)) for x in (score, baseline, best))
        msg = f"score: expected shapes that broadcast with baseline and best, got {shapes}."
        raise ValueError(msg) from None
    room = top - base
    if (n_same := int((room == 0).sum())) > 0:
        warnings.warn(
            f"baseline: {n_same} of {room.size} baselines equal the best value; no scale, NaN there.",
            RuntimeWarning,
            stacklevel=2,
        )
    scaled = np.divide(value - base, room, out=np.full(room.shape, np.nan), where=room != 0)
    scaled = np.maximum(scaled, 0.0) if clip else scaled
    return float(scaled) if scaled.ndim == 0 else scaled
