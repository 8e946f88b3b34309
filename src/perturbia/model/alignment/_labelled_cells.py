"""Which cells train, which say when to stop, and which fold they are in: in the same proportion of every label."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from perturbia import _keys
from perturbia.errors import SplitError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import pandas as pd

__all__ = ["check_split_key", "folds_of", "stratified_split", "training_parts"]


def stratified_split(codes: np.ndarray, train_size: float, rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation cells in the same proportion of every label.

    Parameters
    ----------
    codes
        Label of each cell; cells of -1 are in neither.
    train_size
        Share that trains; of every label at least one cell does.
    rng
        Source of the draws.

    Returns
    -------
    Sorted positions of both.
    """
    order = rng.permutation(len(codes))
    order = order[codes[order] >= 0]
    order = order[np.argsort(codes[order], kind="stable")]
    counts = np.bincount(codes[order])
    rank = np.arange(len(order)) - np.repeat(np.cumsum(counts) - counts, counts)
    trains = rank < np.maximum(1, np.round(train_size * counts))[codes[order]]
    return np.sort(order[trains]), np.sort(order[~trains])


def folds_of(codes: np.ndarray, n_folds: int, groups: np.ndarray | None, seed: int) -> np.ndarray:
    """Fold of every cell, in the same proportion of every label, and whole groups in one fold.

    Parameters
    ----------
    codes
        Label of each cell; cells of -1 are in no fold.
    n_folds
        Number of folds.
    groups
        Batch or donor of each cell.
    seed
        Seed of the draw.

    Returns
    -------
    Fold of each cell, int64; -1 for none.

    Raises
    ------
    SplitError
        If there are fewer groups than folds.
    """
    from sklearn.model_selection import StratifiedGroupKFold

    fold = np.full(len(codes), -1, dtype=np.int64)
    (used,) = np.nonzero(codes >= 0)
    if groups is None:
        rng = np.random.default_rng(seed)
        order = rng.permutation(used)
        order = order[np.argsort(codes[order], kind="stable")]
        fold[order] = np.arange(len(order)) % n_folds
        return fold
    n_groups = len(set(groups[used]))
    if n_groups < n_folds:
        msg = f"group_key: expected at least n_folds={n_folds} groups, got {n_groups}. Pass fewer folds."
        raise SplitError(msg)
    splitter = StratifiedGroupKFold(n_folds, shuffle=True, random_state=seed)
    for k, (_, held_out) in enumerate(splitter.split(used[:, None], codes[used], groups[used])):
        fold[used[held_out]] = k
    return fold


def check_split_key(split_key: str | None, annotations: Iterable[pd.DataFrame]) -> None:
    """Refuse a column that no modality has: misspelt, it would train on the test cells.

    Parameters
    ----------
    split_key
        Name of the column; None and the default may be missing.
    annotations
        `obs` of the modalities.

    Raises
    ------
    SplitError
        If none has it.
    """
    if split_key not in {None, _keys.OBS_SPLIT} and all(split_key not in obs for obs in annotations):
        msg = f"split_key: expected a column of obs of a modality, got {split_key!r}. Run perturbia.tl.split, or pass None."
        raise SplitError(msg)


def training_parts(
    obs: pd.DataFrame,
    codes: np.ndarray,
    *,
    modality: str,
    split_key: str | None,
    train_size: float,
    rng: np.random.Generator,
) -> tuple[np.ndarray, np.ndarray]:
    """Training and validation cells of a modality, those without a shared label in neither.

    Parameters
    ----------
    obs
        Annotation of its cells.
    codes
        Label of each cell; -1 for none that both modalities have.
    modality
        Its name, for messages.
    split_key
        Column of `obs` with ``train`` and ``valid``; where there is none, cells are drawn.
    train_size
        Share of the cells of every label that are drawn to train.
    rng
        Source of the draws.

    Returns
    -------
    Sorted positions of both.

    Raises
    ------
    SplitError
        If a column marks no usable cell for training.
    """
    if split_key is None or split_key not in obs:
        return stratified_split(codes, train_size, rng)
    marked = obs[split_key].astype(str).to_numpy()
    train, valid = (np.flatnonzero((marked == part) & (codes >= 0)) for part in _keys.SPLIT_VALUES[:2])
    if len(train) == 0:
        msg = f"split_key: expected cells marked 'train' in obs[{split_key!r}] of {modality!r}, got none."
        raise SplitError(msg)
    return train, valid
