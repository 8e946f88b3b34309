"""Strata of perturbations by the strength of their effect: most are weak, and weak ones dominate averages."""

from __future__ import annotations

import numpy as np

__all__ = ["STRATA", "strata_of"]

STRATA = ("weakest", "weak", "strong", "strongest")
HALVES = ("weaker", "stronger")
MIN_PER_STRATUM = 2


def strata_of(strength: np.ndarray) -> np.ndarray:
    """Quarters of perturbations by strength; halves or one group if there are few.

    Parameters
    ----------
    strength
        Strength of each `(n,)`; NaN belongs to none.

    Returns
    -------
    Names `(n,)`: ``weakest`` to ``strongest``, ``weaker`` and ``stronger``, or ``all``; empty text for NaN.
    """
    out = np.full(len(strength), "", dtype=object)
    (known,) = np.nonzero(np.isfinite(strength))
    names: tuple[str, ...] = STRATA if len(known) >= MIN_PER_STRATUM * len(STRATA) else HALVES
    names = names if len(known) >= MIN_PER_STRATUM * len(names) else ("all",)
    order = known[np.argsort(strength[known], kind="stable")]
    for name, part in zip(names, np.array_split(order, len(names)), strict=True):
        out[part] = name
    return out
