"""Which cosines lie in the tails of the cosines of all pairs, and how well |cosine| ranks known pairs before others."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia.metrics._pair_similarities import TIE

if TYPE_CHECKING:
    from collections.abc import Sequence

    from perturbia.metrics._pair_similarities import CosineCounts

__all__ = ["ranking_scores", "tail_hits"]

_ROUNDING = 1e-12  # of sums of weights; counts are exact
_COARSE = 1e-3  # share of all pairs in one bin above which ranks are made exact for the ranking, too


def tail_hits(
    counts: CosineCounts,
    cosines: Sequence[np.ndarray],
    tails: np.ndarray,
    *,
    exclude: bool = False,
) -> list[np.ndarray]:
    """Whether each cosine lies in the lower and in the upper tail of those of all pairs.

    With N pairs, a cosine is in the lower tail if as many as `low` N pairs at the most have one as small, itself counted,
    and in the upper tail if at least `high` N have a smaller one: ties never help.

    Parameters
    ----------
    counts
        Counts of all pairs.
    cosines
        Sets of cosines of pairs that are among those.
    tails
        Shares `low` and `high`, shape (n_tails, 2).
    exclude
        Leave the pairs of a set out of those that its cosines are compared with.

    Returns
    -------
    For each set, boolean of shape (2, n_cosines, n_tails): lower and upper.
    """
    shifts = [_own_ranks(one) if exclude else np.zeros((2, len(one))) for one in cosines]
    totals = [counts.total - (len(one) if exclude else 0.0) for one in cosines]
    slack = 0.0 if counts.weights is None else _ROUNDING
    found, unsure = [], []
    for one, shift, total in zip(cosines, shifts, totals, strict=True):
        (left_low, left_high), (right_low, right_high) = counts.rank_bounds(one) - shift[:, None]
        strict = _in_tails(left_low / total, right_high / total, tails, slack)
        loose = _in_tails(left_high / total, right_low / total, tails, slack)
        found.append(strict)
        unsure.append((strict != loose).any(axis=(0, 2)))
    together = np.concatenate([one[which] for one, which in zip(cosines, unsure, strict=True)])
    if len(together) == 0:
        return found
    exact = np.split(counts.ranks(together), np.cumsum([which.sum() for which in unsure])[:-1], axis=1)
    for hits, which, ranks, shift, total in zip(found, unsure, exact, shifts, totals, strict=True):
        left, right = (ranks - shift[:, which]) / total
        hits[:, which] = _in_tails(left, right, tails, slack)
    return found


def _in_tails(left: np.ndarray, right: np.ndarray, tails: np.ndarray, slack: float) -> np.ndarray:
    return np.stack([right[:, None] <= tails[:, 0] + slack, left[:, None] >= tails[:, 1] - slack])


def _own_ranks(cosines: np.ndarray) -> np.ndarray:
    """Left and right rank of each cosine among these."""
    ordered = np.sort(cosines)
    return np.stack(
        [np.searchsorted(ordered, cosines - TIE, "left"), np.searchsorted(ordered, cosines + TIE, "right")]
    ).astype(np.float64)


def ranking_scores(counts: CosineCounts, cosines: np.ndarray, n_others: float) -> tuple[float, float]:
    """Area under the ROC curve and average precision of |cosine| for known pairs against others.

    Parameters
    ----------
    counts
        Counts of all pairs. If these have weights they are the others; if not, those of them that are not known.
    cosines
        Of the known pairs.
    n_others
        What the weight of the others is scaled to. It does not change the first score.

    Returns
    -------
    Both scores. Ranks are exact, or, where no bin that a known pair is in has more than a thousandth of all pairs, those of
    the middle of its bin.
    """
    sizes = np.abs(cosines)
    both = np.concatenate([sizes, -sizes])
    bounds = counts.rank_bounds(both)
    coarse = (bounds[:, 1] - bounds[:, 0]).max() > _COARSE * counts.total
    left, right = (counts.ranks(both) if coarse else bounds.mean(axis=1)).reshape(2, 2, -1)
    # others that are smaller, and those that are no larger
    lesser = np.stack([left[0] - right[1], right[0] - left[1]])
    own = _own_ranks(sizes)
    if counts.weights is None:
        lesser -= own
    share = np.clip(lesser / (counts.total - (len(sizes) if counts.weights is None else 0)), 0.0, 1.0)
    listed = len(sizes) - own[0]
    precision = listed / (listed + n_others * (1.0 - share[0]))
    return float(share.mean()), float(precision.mean())
