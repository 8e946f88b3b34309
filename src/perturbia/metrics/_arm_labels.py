"""The chromosome arm of every row, where it is known, and rows that are marked as controls."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.perturbation._profiles import is_annotated

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["arm_codes", "marked_controls"]

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
    if isinstance(arms, str):
        if not is_annotated(data):
            msg = f"{argument}: expected one label a row, got the text {arms!r}. Names of columns go with AnnData."
            raise LabelError(msg)
        if arms not in data.obs:
            columns = shorten(data.obs.columns) or "none"
            msg = f"{argument}: expected a column of adata.obs, got {arms!r}; columns are {columns}."
            raise LabelError(msg)
        return pd.Series(data.obs[arms].to_numpy(dtype=object))
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
    values = pd.Series(np.asarray(arms, dtype=object))
    if len(values) != len(names):
        msg = f"{argument}: expected one label for each of {len(names)} rows, got {len(values)}."
        raise LabelError(msg)
    return values


def marked_controls(data: Any) -> np.ndarray:
    """Rows that `obs["is_control"]` of AnnData marks, bool (n_rows,); none where there is no such column of booleans."""
    if is_annotated(data) and _keys.OBS_CONTROL in data.obs:
        column = data.obs[_keys.OBS_CONTROL]
        if pd.api.types.is_bool_dtype(column):
            return column.astype("boolean").fillna(value=False).to_numpy(dtype=bool)
    return np.zeros(data.n_obs if is_annotated(data) else len(data), dtype=bool)
