"""Folds of whole groups (plates, experiments) over which every label is spread as evenly as it can be."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import scipy.sparse as sp

from perturbia.stats._membership import distinct_within

__all__ = ["FoldSupport", "fold_support", "groups_of_labels", "spread_folds"]


@dataclass(frozen=True)
class FoldSupport:
    """What can be scored when folds are held out, from labels alone.

    Attributes
    ----------
    outer
        Whether fold k has rows of labels that rows outside it have too, two labels at least, shape (n_folds,).
    inner
        The same of fold j when folds k and j are both left out, shape (n_folds, n_folds); the diagonal is `outer`.
    n_unscored
        Rows whose label has no row outside their fold.
    chance
        Score of guesses that know nothing, the mean over folds: one over the number of labels that were trained on, or,
        unbalanced, the share of the most frequent one.
    """

    outer: np.ndarray
    inner: np.ndarray
    n_unscored: int
    chance: float


def groups_of_labels(codes: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """How many groups each label has rows in.

    Parameters
    ----------
    codes
        Label of every row, 0 to n_labels - 1, shape (n_rows,).
    groups
        Group of every row, 0 to n_groups - 1, shape (n_rows,).

    Returns
    -------
    int64, shape (n_labels,).
    """
    return distinct_within(codes, groups, int(codes.max()) + 1)


def spread_folds(codes: np.ndarray, groups: np.ndarray, *, n_folds: int, seed: int = 0) -> np.ndarray:
    r"""Put whole groups into folds so that the rows, and above all the groups, of a label lie in different folds.

    Groups are taken from the one with most of its labels on, ties in an order drawn by `seed`, and go to the fold where

    .. math:: \sum_c n_{fc} \, n_{gc} / N_c^2

    is least: the growth of the summed squared shares that folds f hold of labels c; of equals, the fold with fewest rows.

    Parameters
    ----------
    codes, groups
        As in :func:`groups_of_labels`.
    n_folds
        Number of folds, at most that of the groups.
    seed
        Seed of the order of ties.

    Returns
    -------
    Fold of every row, 0 to n_folds - 1, int64, shape (n_rows,). No fold is empty, no group is in two, and the order of rows
    does not matter.

    Raises
    ------
    ValueError
        If there are fewer groups than folds.

    Notes
    -----
    ``StratifiedGroupKFold`` of scikit-learn has the same aim. It refuses labels that all have fewer rows than there are
    folds, as in screens of three replicates, and walks over the rows in Python; here the cost is n_groups × n_folds ×
    n_labels.

    Examples
    --------
    >>> import numpy as np
    >>> spread_folds(np.array([0, 1, 0, 1, 0, 1]), np.array([0, 0, 1, 1, 2, 2]), n_folds=3).tolist()
    [1, 1, 2, 2, 0, 0]
    """
    counts = _counts(groups, codes)
    n_groups = len(counts)
    if not 1 <= n_folds <= n_groups:
        msg = f"n_folds: expected 1 to {n_groups}, the number of groups, got {n_folds}."
        raise ValueError(msg)
    shares = counts / np.maximum(counts.sum(axis=0), 1)
    shuffled = np.random.default_rng(seed).permutation(n_groups)
    order = shuffled[np.argsort(-np.round((shares[shuffled] ** 2).sum(axis=1), 12), kind="stable")]
    held = np.zeros((n_folds, shares.shape[1]))
    n_rows = np.zeros(n_folds)
    fold = np.empty(n_groups, dtype=np.int64)
    for group in order:
        growth = np.round(held @ shares[group], 12)
        chosen = np.lexsort((n_rows, growth))[0]
        fold[group] = chosen
        held[chosen] += shares[group]
        n_rows[chosen] += counts[group].sum()
    return fold[groups]


def fold_support(codes: np.ndarray, folds: np.ndarray, *, balanced: bool) -> FoldSupport:
    """Say which folds can be scored, alone and in pairs, how many rows can not, and what guessing scores.

    Parameters
    ----------
    codes
        Label of every row, shape (n_rows,).
    folds
        Fold of every row, shape (n_rows,).
    balanced
        Whether labels count equally in the score, else rows do.

    Returns
    -------
    :class:`FoldSupport`.
    """
    counts = _counts(folds, codes)
    n_folds = len(counts)
    total = counts.sum(axis=0)
    # rows outside folds k and j, (n_folds, n_folds, n_labels); the diagonal leaves one fold out
    outside = total - counts[:, None] - counts[None] * (~np.eye(n_folds, dtype=bool))[..., None]
    trained = outside > 0
    scored = ((counts[None] > 0) & trained).any(axis=2) & (trained.sum(axis=2) > 1)
    alone = trained[np.arange(n_folds), np.arange(n_folds)]
    seen = np.where(alone, counts, 0)
    if balanced:
        levels = 1 / np.maximum(alone.sum(axis=1), 1)
    else:
        left = outside[np.arange(n_folds), np.arange(n_folds)]
        levels = seen[np.arange(n_folds), left.argmax(axis=1)] / np.maximum(seen.sum(axis=1), 1)
    outer = np.diag(scored).copy()
    return FoldSupport(
        outer=outer,
        inner=scored,
        n_unscored=int(counts.sum() - seen.sum()),
        chance=float(levels[outer].mean()) if outer.any() else float("nan"),
    )


def _counts(rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Cross table of two codes, int64."""
    ones = np.ones(len(rows), dtype=np.int64)
    return sp.coo_matrix((ones, (rows, columns))).toarray()
