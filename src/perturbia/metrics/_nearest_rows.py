"""How many rows of one matrix lie closer to a row of another than its own partner does, in blocks."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from scipy.spatial.distance import cdist

from perturbia.stats.correlation import centre_rows

# Entries of one block of distances: a few matrices of 8 MB each, whatever the number of rows.
_BLOCK = 2**20
# Distances closer than this share of what they were computed from are one distance, whatever the order of summation.
_TIE = 1e-12


class Competition(NamedTuple):
    """For each query: competitors closer than its partner, other ones as close, and those of them that come first."""

    closer: np.ndarray
    tied: np.ndarray
    tied_before: np.ndarray


def _excluded_column(rows: np.ndarray, genes: np.ndarray) -> np.ndarray:
    """Entries of `rows` at the gene that each query leaves out, (n_queries, n_rows); 0 where it leaves out none."""
    return np.where(genes[:, None] >= 0, rows[:, genes].T, 0.0)


def _absolute(queries: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    distance = cdist(queries, rows, "cityblock")
    own = np.take_along_axis(queries, genes[:, None], axis=1)
    left_out = np.where(genes[:, None] >= 0, np.abs(own - _excluded_column(rows, genes)), 0.0)
    return distance - left_out, distance


def _squared(queries: np.ndarray, rows: np.ndarray, genes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    scale = (queries**2).sum(axis=1)[:, None] + (rows**2).sum(axis=1)
    own = np.take_along_axis(queries, genes[:, None], axis=1)
    left_out = np.where(genes[:, None] >= 0, (own - _excluded_column(rows, genes)) ** 2, 0.0)
    return scale - 2.0 * (queries @ rows.T) - left_out, scale


def _angle(queries: np.ndarray, rows: np.ndarray, genes: np.ndarray, *, centred: bool) -> tuple[np.ndarray, np.ndarray]:
    """One minus cosine, or Pearson correlation if rows are `centred`; no direction means similarity 0 to everything."""
    own = np.where(genes >= 0, np.take_along_axis(queries, genes[:, None], axis=1)[:, 0], 0.0)[:, None]
    other = _excluded_column(rows, genes)
    # Without its gene, a row that summed to zero sums to minus that entry, over one gene less.
    share = 1.0 + (1.0 / max(queries.shape[1] - 1, 1) if centred else 0.0)
    product = queries @ rows.T - share * own * other
    squares = []
    for matrix, left_out in ((queries, own), (rows, other)):
        total = (matrix**2).sum(axis=1)
        total = total[:, None] if matrix is queries else total[None, :]
        square = total - share * left_out**2
        squares.append(np.where(square > _TIE * total, square, 0.0))
    scale = np.sqrt(squares[0] * squares[1])
    similarity = np.divide(product, scale, out=np.zeros_like(product), where=scale > 0)
    return 1.0 - similarity, np.ones_like(similarity)


def _centred(matrix: np.ndarray) -> np.ndarray:
    centred, length = centre_rows(matrix)
    return np.where(length[:, None] > 0, centred, 0.0)


def compete(queries: np.ndarray, rows: np.ndarray, *, metric: str, exclude: np.ndarray) -> Competition:
    """Rank row i of `rows` by its distance to query i among all of `rows`.

    Parameters
    ----------
    queries
        Finite float64 matrix (n_queries, n_genes).
    rows
        Competitors (n_rows, n_genes), the first n_queries of them the queries' partners.
    metric
        `"l1"`, `"l2"` (and `"rmse"`, the same order), `"cosine"` or `"pearson"`.
    exclude
        Gene that each query leaves out of its distances, -1 for none, (n_queries,).
    """
    n_queries, counts = len(queries), []
    if metric == "pearson":  # a constant row has no direction; its rounding error must not give it one
        queries, rows = (_centred(matrix) for matrix in (queries, rows))
    step = max(1, _BLOCK // len(rows))
    for start in range(0, n_queries, step):
        at = np.arange(start, min(start + step, n_queries))
        block, genes = queries[at], exclude[at]
        if metric == "l1":
            distance, scale = _absolute(block, rows, genes)
        elif metric in ("l2", "rmse"):
            distance, scale = _squared(block, rows, genes)
        else:
            distance, scale = _angle(block, rows, genes, centred=metric == "pearson")
        inside = np.arange(len(at))
        margin = distance - distance[inside, at][:, None]
        tolerance = _TIE * (scale + scale[inside, at][:, None])
        tied = np.abs(margin) <= tolerance
        tied[inside, at] = False
        before = tied & (np.arange(len(rows)) < at[:, None])
        counts.append(((margin < -tolerance).sum(axis=1), tied.sum(axis=1), before.sum(axis=1)))
    return Competition(*(np.concatenate(part) for part in zip(*counts, strict=True)))
