"""Rows of data that belong together: those of one perturbation, parted by further columns."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import LabelError, shorten
from perturbia.perturbation._profiles import row_labels
from perturbia.stats._membership import distinct_within

if TYPE_CHECKING:
    from collections.abc import Hashable, Sequence

    from anndata import AnnData

    from perturbia.perturbation.design import Design

__all__ = ["RowGroups", "row_groups", "shared_columns"]

_BAR = "|"  # between the parts of the name of a group
_WRITTEN = (_keys.OBS_N_OBS, _keys.OBS_N_BATCHES, _keys.OBS_CONTROL)


@dataclass(frozen=True)
class RowGroups:
    """Groups of rows, in the order of their labels and then of their other columns.

    Attributes
    ----------
    codes
        Group of every row, (n_obs,).
    count
        Rows of every group, (n_groups,).
    labels
        Canonical label of the perturbation of every group, text (n_groups,).
    is_control
        Whether it is the control, (n_groups,).
    columns
        What else the table of groups holds, a value a group: the labels as the data spell them, and `by`.
    by
        The columns, besides the perturbation, that part rows.
    n_batches
        Batches that the rows of a group come from, (n_groups,); None where batches are not known.
    """

    codes: np.ndarray
    count: np.ndarray
    labels: np.ndarray
    is_control: np.ndarray
    columns: dict[str, pd.Series]
    by: list[str]
    n_batches: np.ndarray | None

    def names(self, kept: np.ndarray) -> pd.Index:
        """Names of some groups: the label, and the values of `by` after bars; refuses names that coincide."""
        parts = [self.labels, *(self.columns[name].astype(str).to_numpy() for name in self.by)]
        names = pd.Index([_BAR.join(one) for one in zip(*(part[kept] for part in parts), strict=True)])
        if names.has_duplicates:
            twice = shorten(names[names.duplicated()].unique(), limit=3)
            msg = f"by: expected groups whose joined names differ, got {twice} more than once. Rename values that hold '|'."
            raise LabelError(msg)
        return names

    def table(self, kept: np.ndarray) -> dict[Hashable, np.ndarray | pd.api.extensions.ExtensionArray]:
        """Columns that describe some groups."""
        out: dict[Hashable, np.ndarray | pd.api.extensions.ExtensionArray] = {_keys.OBS_PERTURBATION: self.labels[kept]}
        out |= {name: _without_unused(column.iloc[kept]) for name, column in self.columns.items() if name not in out}
        out[_keys.OBS_N_OBS] = self.count[kept]
        if self.n_batches is not None:
            out[_keys.OBS_N_BATCHES] = self.n_batches[kept]
        out[_keys.OBS_CONTROL] = self.is_control[kept]
        return out


def row_groups(
    adata: AnnData, design: Design, *, perturbation_key: str, by: Sequence[str] | None, batch_key: str | None
) -> RowGroups:
    """Group rows by their perturbation and the columns `by`.

    Raises
    ------
    LabelError
        If a column does not exist, is named twice, holds missing values, or would be overwritten.
    """
    by = list(by or ())
    _check_columns(adata, perturbation_key, by)
    names = design.labels(plain=True).astype(str)
    codes = pd.factorize(names, sort=True)[0]
    for name in by:
        column = adata.obs[name]
        numeric = pd.api.types.is_numeric_dtype(column) and not pd.api.types.is_bool_dtype(column)
        part, levels = pd.factorize(column if numeric else column.astype(str), sort=True)
        # compressed each time, so that products of many levels stay small
        codes = np.unique(codes * len(levels) + part, return_inverse=True)[1]
    _, first, codes, count = np.unique(codes, return_index=True, return_inverse=True, return_counts=True)
    is_control = design.is_control[first]
    labels = names[first].astype(object)
    spelled = pd.Series(np.where(is_control, design.control[0], labels), dtype=object)
    columns = {perturbation_key: spelled} | {name: adata.obs[name].iloc[first].reset_index(drop=True) for name in by}
    n_batches = None
    if batch_key is not None:
        batch = pd.factorize(row_labels(adata, batch_key, argument="batch_key"))[0]
        n_batches = distinct_within(codes, batch, len(count))
    return RowGroups(codes, count, labels, is_control, columns, by, n_batches)


def _check_columns(adata: AnnData, perturbation_key: str, by: list[str]) -> None:
    for argument, name in [("perturbation_key", perturbation_key), *(("by", name) for name in by)]:
        if name in _WRITTEN or (argument == "by" and name == _keys.OBS_PERTURBATION):
            msg = f"{argument}: expected another column than {name!r}, which the result has for its own. Rename it."
            raise LabelError(msg)
    repeated = sorted({name for name in by if by.count(name) > 1 or name == perturbation_key})
    if repeated:
        msg = f"by: expected distinct columns besides perturbation_key, got {shorten(repeated)} again. Name each once."
        raise LabelError(msg)
    unknown = [name for name in by if name not in adata.obs]
    if unknown:
        columns = shorten(adata.obs.columns) or "none"
        msg = f"by: expected columns of adata.obs, got {shorten(unknown)}; columns are {columns}."
        raise LabelError(msg)
    for name in by:
        if (n_missing := int(adata.obs[name].isna().sum())) > 0:
            msg = (
                f"by: expected a value of {name!r} in every row, got {n_missing} of {adata.n_obs} without one. "
                "Fill in or drop these rows."
            )
            raise LabelError(msg)


def shared_columns(
    obs: pd.DataFrame, codes: np.ndarray, kept: np.ndarray
) -> dict[Hashable, np.ndarray | pd.api.extensions.ExtensionArray]:
    """Columns that hold one value in all rows of each group, in every one of some groups.

    Parameters
    ----------
    obs
        Table of the rows, (n_obs, n_columns).
    codes
        Group of every row, (n_obs,).
    kept
        The groups.

    Returns
    -------
    Name of a column → its value in these groups, (n_kept,); a missing value is a value.
    """
    rows = np.flatnonzero(np.isin(codes, kept))
    first = np.full(codes.max() + 1, -1)
    first[codes[rows[::-1]]] = rows[::-1]
    out = {}
    for name in obs.columns.difference([*_WRITTEN, _keys.OBS_PERTURBATION], sort=False):
        if str(name).startswith("_scvi"):  # codes that registration for a model leaves behind
            continue
        column = obs[name]
        try:
            values = pd.factorize(column)[0]
        except TypeError:  # lists and the like
            continue
        if (values[rows] == values[first[codes[rows]]]).all():
            out[name] = _without_unused(column.iloc[first[kept]])
    return out


def _without_unused(column: pd.Series) -> np.ndarray | pd.api.extensions.ExtensionArray:
    """Values of a column, categories that none of them has left out."""
    if isinstance(column.dtype, pd.CategoricalDtype):
        return column.cat.remove_unused_categories().array
    return column.array
