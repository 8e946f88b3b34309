"""Sets of top genes whose ties at the edge do not depend on the order of genes."""

from __future__ import annotations

import numpy as np
import scipy.stats


def membership(strength: np.ndarray, eligible: np.ndarray, size: np.ndarray, *, ties: str = "average") -> np.ndarray:
    """Probability of each gene to be in its row's set of the `size` strongest eligible ones.

    Parameters
    ----------
    strength
        Numbers >= 0, infinity allowed, shape (n_rows, n_genes).
    eligible
        Genes that may be in the set, boolean, same shape.
    size
        Size of each row's set, shape (n_rows,); a row with fewer eligible genes has them all.
    ties
        `"average"`: equal genes at the edge share the places left, as when ties are broken at random; `"first"`: the
        genes that come first take them.
    """
    weakness = np.where(eligible, -strength, 1.0)
    if ties == "first":
        inside = scipy.stats.rankdata(weakness, method="ordinal", axis=1) <= size[:, None]
        return (inside & eligible).astype(np.float64)
    first = scipy.stats.rankdata(weakness, method="min", axis=1)
    last = scipy.stats.rankdata(weakness, method="max", axis=1)
    return np.where(eligible, np.clip((size[:, None] - first + 1.0) / (last - first + 1.0), 0.0, 1.0), 0.0)
