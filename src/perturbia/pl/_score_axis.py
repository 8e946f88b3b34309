"""How far the axis of a score reaches."""

from __future__ import annotations

import numpy as np

__all__ = ["score_limits"]

_ROOM = 0.1  # of a score whose best method is no better than chance


def score_limits(
    means: np.ndarray,
    others: np.ndarray,
    *,
    points: np.ndarray | None = None,
    chance: float,
    higher_is_better: bool,
    ceiling: float = 0.0,
    show_chance: bool = True,
) -> tuple[float, float]:
    """Limits with room for what matters: not for scores far worse than chance or than those of the other methods.

    Parameters
    ----------
    means
        Scores of methods; NaN is passed over, as in the others.
    others
        Ends of intervals and scores of ceilings, which have to be seen.
    points
        Scores of single perturbations; their middle 96 % have to be seen.
    chance
        Score without information, NaN if there is none.
    higher_is_better
        Direction.
    ceiling
        Where lower is better, the axis reaches at least so far.
    show_chance
        Chance, or 0 where lower is better, has to be seen.

    Returns
    -------
    Lower and upper limit.
    """
    means, others = means[np.isfinite(means)], others[np.isfinite(others)]
    if not len(means):
        return 0.0, 1.0
    marks = np.concatenate([means, others])
    low, high = float(marks.min()), float(marks.max())
    if points is not None and len(points):
        spread = np.quantile(points, [0.02, 0.98])
        low, high = min(low, float(spread[0])), max(high, float(spread[1]))
    if higher_is_better and np.isfinite(chance):
        above = max(high - chance, _ROOM)
        low = max(low, min(chance - above, float(means.max()) - _ROOM))
        if show_chance:
            low, high = min(low, chance), max(high, chance)
    elif not higher_is_better:
        low = min(low, 0.0) if show_chance else low
        high = min(high, max(2.5 * float(np.median(means)), 1.5 * float(means.min()), ceiling))
    pad = 0.04 * (high - low) or 0.5
    return low - pad, high + pad
