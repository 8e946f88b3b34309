"""An order of rows that does not depend on how the data hold them, for draws."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["rank_by_name"]


def rank_by_name(obs_names: pd.Index | np.ndarray) -> np.ndarray:
    """Rank of each row by its name, `(n_rows,)`; rows of equal names keep their order."""
    order = np.argsort(np.asarray(obs_names).astype(str), kind="stable")
    rank = np.empty(len(order), dtype=np.int64)
    rank[order] = np.arange(len(order))
    return rank
