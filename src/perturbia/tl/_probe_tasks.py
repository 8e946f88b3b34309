"""What a search over blocks reads from the data: features of blocks, labels to tell apart, and folds of groups."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from perturbia.errors import ControlError, FeatureMismatch, LabelError, SplitError, nearest_names, shorten
from perturbia.perturbation._profiles import obs_column, profile_matrix, row_labels
from perturbia.perturbation.design import design_from_labels
from perturbia.stats._arrays import group_codes
from perturbia.stats.grouped_folds import FoldSupport, fold_support, groups_of_labels, spread_folds

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = ["ProbeTask", "read_blocks", "read_task"]

logger = logging.getLogger(__name__)

_LEAST_FOLDS = 3  # one to score on, one to choose on, one to fit to


@dataclass(frozen=True)
class ProbeTask:
    """Rows whose labels are to be told apart, in folds of whole groups.

    Attributes
    ----------
    name
        Name of the column of labels.
    rows
        Positions of the rows that take part, shape (n_rows,).
    labels
        Distinct labels, sorted.
    codes
        Label of every row, shape (n_rows,).
    groups
        Distinct groups, sorted.
    group_fold
        Fold of every group, shape (n_groups,).
    folds
        Fold of every row, shape (n_rows,).
    support
        What can be scored.
    n_unlabelled, n_control, n_dropped
        Rows left out: without a label, of controls, of labels that one group alone has.
    """

    name: str
    rows: np.ndarray
    labels: np.ndarray
    codes: np.ndarray
    groups: np.ndarray
    group_fold: np.ndarray
    folds: np.ndarray
    support: FoldSupport
    n_unlabelled: int
    n_control: int
    n_dropped: int

    @property
    def n_folds(self) -> int:
        """Number of folds."""
        return int(self.group_fold.max()) + 1


def read_blocks(adata: AnnData, blocks: Any) -> dict[str, np.ndarray]:
    """Features of every block by name, in the order given, each a finite matrix (n_obs, n_features).

    Raises
    ------
    FeatureMismatch
        If a block does not exist, is named twice, or has other rows than the data; if there is none.
    ValueError
        If values are missing.
    """
    if isinstance(blocks, Mapping):
        return {str(name): _given_block(adata, str(name), values) for name, values in blocks.items()} or _no_blocks()
    names = [blocks] if isinstance(blocks, str) else list(blocks)
    if not names:
        _no_blocks()
    known = ["X", *adata.obsm]
    for name in names:
        if not isinstance(name, str) or name not in known:
            near = ", ".join(map(repr, nearest_names(str(name), known)))
            msg = f"blocks: expected keys of adata.obsm, or 'X', got {name!r} (nearest: {near}). {len(known) - 1} keys are there."
            raise FeatureMismatch(msg)
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        msg = f"blocks: expected every block once, got {shorten(twice)} more than once."
        raise FeatureMismatch(msg)
    return {name: profile_matrix(adata, use_rep=name) for name in names}


def _no_blocks() -> dict[str, np.ndarray]:
    msg = "blocks: expected one block or more, got none. Name keys of adata.obsm."
    raise FeatureMismatch(msg)


def _given_block(adata: AnnData, name: str, values: Any) -> np.ndarray:
    argument = f"blocks[{name!r}]"
    if isinstance(values, pd.DataFrame) and not values.index.astype(str).equals(adata.obs_names.astype(str)):
        msg = f"{argument}: expected the rows of adata in their order, got a data frame of another index. Reindex it by adata.obs_names."
        raise FeatureMismatch(msg)
    matrix = profile_matrix(values, argument=argument)
    if len(matrix) != adata.n_obs:
        msg = f"{argument}: expected a row for each of {adata.n_obs} rows of adata, got {len(matrix)}."
        raise FeatureMismatch(msg)
    return matrix


def read_task(
    adata: AnnData,
    label_key: str,
    group_key: str,
    *,
    control: Sequence[str],
    sep: str | None,
    nan: str,
    n_splits: int,
    balanced: bool,
    seed: int,
) -> ProbeTask:
    """Labels of one column, and folds that keep groups whole.

    Raises
    ------
    LabelError
        If a column does not exist, labels are missing under ``nan="raise"``, or fewer than two labels occur in several
        groups.
    SplitError
        If there are fewer than three groups, or folds have no label that can be scored.

    Warns
    -----
    RuntimeWarning
        Labels that one group alone has are left out.
    """
    labels, labelled = _labels(adata, label_key, nan)
    groups = row_labels(adata, group_key, argument="group_key")
    taken = labelled & ~np.isin(labels, list(control))
    if sep is not None:
        labels = labels.astype(object)
        labels[taken] = _canonical(labels[taken], sep, label_key)
        labels = labels.astype(str)
    rows = np.flatnonzero(taken)
    names, codes = group_codes(labels[rows], len(rows))
    alone = groups_of_labels(codes, group_codes(groups[rows], len(rows))[1]) < 2 if len(rows) else np.array([], bool)
    if (~alone).sum() < 2:
        msg = (
            f"label_key: expected two labels or more that occur in several groups, got {int((~alone).sum())} in "
            f"{label_key!r}, and {int(alone.sum())} that have one group of {group_key!r} only. Such a label can not be told "
            "from its group: name a finer group_key, or add replicates."
        )
        raise LabelError(msg)
    if alone.any():
        warnings.warn(
            f"label_key: {int(alone.sum())} of {len(names)} labels of {label_key!r} occur in one group of {group_key!r} only "
            f"and can not be held out; their {int(alone[codes].sum())} rows are left out ({shorten(names[alone].tolist(), limit=5)}).",
            RuntimeWarning,
            stacklevel=3,
        )
    n_dropped = int(alone[codes].sum())
    rows = rows[~alone[codes]]
    names, codes = group_codes(labels[rows], len(rows))
    group_names, group_of_row = group_codes(groups[rows], len(rows))
    n_folds = _number_of_folds(len(group_names), n_splits, label_key, group_key)
    folds = spread_folds(codes, group_of_row, n_folds=n_folds, seed=seed)
    group_fold = np.empty(len(group_names), dtype=np.int64)
    group_fold[group_of_row] = folds
    return ProbeTask(
        name=label_key,
        rows=rows,
        labels=names,
        codes=codes,
        groups=group_names,
        group_fold=group_fold,
        folds=folds,
        support=_checked_support(codes, folds, label_key, balanced=balanced),
        n_unlabelled=int((~labelled).sum()),
        n_control=int((labelled & ~taken).sum()),
        n_dropped=n_dropped,
    )


def check_control(adata: AnnData, label_keys: Sequence[str], control: Sequence[str]) -> None:
    """Refuse controls that no column of labels knows."""
    known = {label for key in label_keys if key in adata.obs for label in adata.obs[key].dropna().astype(str).unique()}
    absent = [label for label in control if label not in known]
    if absent:
        msg = f"control: expected labels of {shorten(label_keys)}, got {shorten(absent)}. Labels seen: {shorten(sorted(known))}."
        raise ControlError(msg)


def _labels(adata: AnnData, label_key: str, nan: str) -> tuple[np.ndarray, np.ndarray]:
    """Labels as text, and which rows have one."""
    column = obs_column(adata, label_key, argument="label_key")
    missing = column.isna().to_numpy()
    if missing.any() and nan == "raise":
        msg = (
            f"label_key: expected a label in every row of {label_key!r}, got {missing.sum()} of {len(missing)} without one "
            f"({shorten(adata.obs_names[missing], limit=3)}). Label them, or pass nan='omit' to leave them out."
        )
        raise LabelError(msg)
    filled = column.astype(object).where(~missing, "")
    return row_labels(adata, filled.to_numpy(), argument="label_key"), ~missing


def _canonical(labels: np.ndarray, sep: str, label_key: str) -> np.ndarray:
    """One label for all spellings of a perturbation."""
    if not len(labels):
        return labels
    argument = f"adata.obs[{label_key!r}]"
    return design_from_labels(labels, sep=sep, require_control=False, argument=argument).labels(plain=True)


def _number_of_folds(n_groups: int, n_splits: int, label_key: str, group_key: str) -> int:
    if n_groups < _LEAST_FOLDS:
        msg = (
            f"group_key: expected {_LEAST_FOLDS} groups or more, one to score on, one to choose on and one to fit to, got "
            f"{n_groups} in {group_key!r} with labels of {label_key!r}. Name a finer column, such as plates, replicates or guides."
        )
        raise SplitError(msg)
    if n_groups < n_splits:
        logger.warning("n_splits: %d groups of %r make %d folds, not %d.", n_groups, group_key, n_groups, n_splits)
    return min(n_groups, n_splits)


def _checked_support(codes: np.ndarray, folds: np.ndarray, label_key: str, *, balanced: bool) -> FoldSupport:
    support = fold_support(codes, folds, balanced=balanced)
    others = support.inner & ~np.eye(len(support.outer), dtype=bool)
    if not (support.outer.all() and others.any(axis=1).all()):
        msg = (
            f"n_splits: expected folds that hold labels of {label_key!r} which other folds hold too, got "
            f"{int((~support.outer).sum())} of {len(support.outer)} without any, and {int((~others.any(axis=1)).sum())} that leave "
            "nothing to choose on. Labels occur in too few groups: use more splits, or add replicates."
        )
        raise SplitError(msg)
    return support
