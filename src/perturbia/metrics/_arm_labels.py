"""The chromosome arm of every row, where it is known."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, shorten
from perturbia.perturbation._profiles import label_values

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["arm_codes"]

# how a missing arm reads once it was turned to text
_NO_ARM = frozenset({"", "nan", "na", "n/a", "<na>", "none", "null", "nat"})


def arm_codes(
    data: Any, arms: Any, names: Sequence[str], *, named: bool = True, argument: str = "arms"
) -> tuple[np.ndarray, np.ndarray]:
    """Arms that occur, and which of them every row is on.

    Parameters
    ----------
    data
        The profiles, for the columns of AnnData.
    arms
        Column of `data.obs`, one label a row, or a mapping (a dict, or a Series under names) from name to arm.
    names
        Names of the rows.
    named
        Whether these are names that a Series can know rows by, and not just positions.
    argument
        What messages call the arms.

    Returns
    -------
    The arms, sorted text (n_arms,), and the position of that of every row, (n_rows,); -1 where it is missing (NaN,
    None, empty, or the text that these turn to).

    Raises
    ------
    LabelError
        If the column does not exist, there are not as many labels as rows, a mapping knows none of the rows or has a
        name twice, or no row has an arm.
    """
    labels = _labels(data, arms, names, argument, named=named)
    text = labels.astype(str).str.strip()
    known = ~(labels.isna() | text.str.casefold().isin(_NO_ARM)).to_numpy()
    if not known.any():
        msg = f"{argument}: expected the arm of some rows, got none in {len(names)} rows. Name another column, or fill it."
        raise LabelError(msg)
    codes = np.full(len(names), -1)
    found, codes[known] = np.unique(text.to_numpy(dtype=object)[known].astype(str), return_inverse=True)
    return found, codes


def _labels(data: Any, arms: Any, names: Sequence[str], argument: str, *, named: bool) -> pd.Series:
    under_names = isinstance(arms, pd.Series) and not isinstance(arms.index, pd.RangeIndex)
    if isinstance(arms, Mapping) or (under_names and named):
        table = pd.Series(arms, dtype=object)
        table.index = table.index.astype(str)
        if table.index.has_duplicates:
            twice = shorten(table.index[table.index.duplicated()].unique(), limit=3)
            msg = f"{argument}: expected one arm a name, got {twice} more than once. Keep one of them."
            raise LabelError(msg)
        found = table.reindex(names).reset_index(drop=True)
        if found.isna().all():
            msg = (
                f"{argument}: expected arms under the names of rows, such as {shorten(names, limit=3)}, got arms of "
                f"{shorten(table.index, limit=3)}. Use the same names."
            )
            raise LabelError(msg)
        return found
    return pd.Series(label_values(data, arms, argument=argument).to_numpy(dtype=object))
