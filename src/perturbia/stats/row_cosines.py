"""Cosines of the rows of a matrix with one another, in blocks: all, the largest, the nearest rows, and how many pairs lie below."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, NamedTuple

import numpy as np
import scipy.sparse as sp

from perturbia.stats.correlation import centre_rows

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = [
    "NearestRows",
    "RowMetric",
    "Sign",
    "cosine_errors",
    "cosine_matrix",
    "largest_cosines",
    "nearest_rows",
    "pair_cosines",
    "pairs_at_most",
    "unit_rows",
]

RowMetric = Literal["cosine", "pearson"]
Sign = Literal["both", "alike", "opposite"]
_BLOCK_ENTRIES = 2**22  # cosines held at a time: 32 MB, and a few copies


def unit_rows(X: np.ndarray, *, metric: RowMetric = "cosine") -> tuple[np.ndarray, np.ndarray]:
    """Rows divided by their lengths, so that cosines are their products.

    Parameters
    ----------
    X
        Finite matrix, shape (n_rows, n_columns).
    metric
        ``"cosine"``, or ``"pearson"``, the cosine of rows minus their means.

    Returns
    -------
    Unit rows, float64, same shape, and the lengths that were divided by, shape (n_rows,): 0 in rows without direction
    (zeros only, or constant under ``"pearson"``), which stay zero.

    Examples
    --------
    >>> import numpy as np
    >>> units, length = unit_rows(np.array([[3.0, 4.0], [0.0, 0.0]]))
    >>> units.tolist(), length.tolist()
    ([[0.6, 0.8], [0.0, 0.0]], [5.0, 0.0])
    """
    values = np.asarray(X, dtype=np.float64)
    # a first division, so that squares of very large or small values stay in range
    largest = np.abs([values.max(axis=1), values.min(axis=1)]).max(axis=0)
    units = values / np.where(largest > 0, largest, 1.0)[:, None]
    if metric == "pearson":
        units, length = centre_rows(units)
        units[length == 0] = 0.0
    else:
        length = np.sqrt(np.einsum("ij,ij->i", units, units))
    units /= np.where(length > 0, length, 1.0)[:, None]
    with np.errstate(over="ignore"):
        return units, length * largest


def pair_cosines(units: np.ndarray, first: np.ndarray, second: np.ndarray) -> np.ndarray:
    """Cosines of some pairs of rows.

    Parameters
    ----------
    units
        Unit rows, float64, shape (n_rows, n_columns).
    first, second
        Rows of each pair, shape (n_pairs,).

    Returns
    -------
    Shape (n_pairs,), float64; rounding may take them beyond 1 by a few parts in 10^16.

    Examples
    --------
    >>> import numpy as np
    >>> pair_cosines(np.array([[1.0, 0.0], [0.6, 0.8]]), np.array([0, 1]), np.array([1, 1])).tolist()
    [0.6, 1.0]
    """
    cosines = np.empty(len(first))
    step = max(1, _BLOCK_ENTRIES // units.shape[1])
    for start in range(0, len(first), step):
        part = slice(start, start + step)
        cosines[part] = np.einsum("ij,ij->i", units[first[part]], units[second[part]])
    return cosines


def _blocks(n_queries: int, n_rows: int, block_size: int | None) -> Iterator[slice]:
    step = max(1, _BLOCK_ENTRIES // n_rows) if block_size is None else block_size
    for start in range(0, n_queries, step):
        yield slice(start, min(start + step, n_queries))


def cosine_matrix(units: np.ndarray, *, block_size: int | None = None) -> np.ndarray:
    """Cosines of all pairs of rows.

    Parameters
    ----------
    units
        Unit rows, float64, shape (n_rows, n_columns).
    block_size
        Rows at a time; by default as many as make 32 MB of cosines.

    Returns
    -------
    float32, shape (n_rows, n_rows), exactly symmetric, with a diagonal of exactly 1.

    Examples
    --------
    >>> import numpy as np
    >>> cosine_matrix(np.array([[1.0, 0.0], [0.6, 0.8]])).round(2).tolist()
    [[1.0, 0.6000000238418579], [0.6000000238418579, 1.0]]
    """
    n_rows = len(units)
    out = np.empty((n_rows, n_rows), dtype=np.float32)
    for rows in _blocks(n_rows, n_rows, block_size):
        block = np.clip(units[rows] @ units[rows.start :].T, -1.0, 1.0)
        width = rows.stop - rows.start
        upper = np.triu(block[:, :width], 1)
        out[rows, rows] = upper + upper.T
        out[rows, rows.stop :] = block[:, width:]
        out[rows.stop :, rows] = out[rows, rows.stop :].T
    np.fill_diagonal(out, 1.0)
    return out


def largest_cosines(units: np.ndarray, *, n_top: int, block_size: int | None = None) -> sp.csr_matrix:
    """The cosines of largest absolute value of every row with others.

    Parameters
    ----------
    units
        Unit rows, float64, shape (n_rows, n_columns).
    n_top
        How many of each row; those as large as the last of them are kept, too.
    block_size
        Rows at a time; by default as many as make 32 MB of cosines.

    Returns
    -------
    float32 CSR matrix, shape (n_rows, n_rows), exactly symmetric: an entry is kept if it is among the largest of its row or
    of its column, so that rows may hold more than `n_top`. The diagonal is empty, and zeros are not stored.

    Examples
    --------
    >>> import numpy as np
    >>> units, _ = unit_rows(np.array([[1.0, 0.0], [1.0, 0.1], [0.0, 1.0]]))
    >>> largest_cosines(units, n_top=1).toarray().round(1).tolist()
    [[0.0, 1.0, 0.0], [1.0, 0.0, 0.10000000149011612], [0.0, 0.10000000149011612, 0.0]]
    """
    n_rows = len(units)
    kept = min(n_top, n_rows - 1)
    pairs, values = [], []
    for rows in _blocks(n_rows, n_rows, block_size):
        block = _rounded(units[rows] @ units.T)
        size = np.abs(block)
        size[np.arange(len(size)), np.arange(rows.start, rows.stop)] = 0.0
        last = np.partition(size, n_rows - kept, axis=1)[:, n_rows - kept]
        row, column = np.nonzero((size >= last[:, None]) & (size > 0))
        values.append(block[row, column])
        row += rows.start
        pairs.append(np.minimum(row, column) * n_rows + np.maximum(row, column))
    pair, first = np.unique(np.concatenate(pairs), return_index=True)
    value = np.concatenate(values)[first]
    row, column = np.divmod(pair, n_rows)
    ends = (np.concatenate([row, column]), np.concatenate([column, row]))
    return sp.csr_matrix((np.tile(value, 2), ends), shape=(n_rows, n_rows))


def _rounded(block: np.ndarray) -> np.ndarray:
    return np.clip(block, -1.0, 1.0).astype(np.float32)


class NearestRows(NamedTuple):
    """Pairs of a query and one of its nearest rows, in the order of queries and then of ranks.

    Attributes
    ----------
    query, neighbor
        Rows, shape (n_pairs,).
    cosine
        Their cosine, float32.
    rank
        1 for the nearest.
    """

    query: np.ndarray
    neighbor: np.ndarray
    cosine: np.ndarray
    rank: np.ndarray


def nearest_rows(
    units: np.ndarray, queries: np.ndarray, *, n: int, sign: Sign = "both", block_size: int | None = None
) -> NearestRows:
    """The rows of largest cosine with some of them.

    Parameters
    ----------
    units
        Unit rows, float64, shape (n_rows, n_columns).
    queries
        Rows to find neighbours of, shape (n_queries,).
    n
        Neighbours of each, at most.
    sign
        ``"alike"``: the largest positive cosines; ``"opposite"``: the most negative ones; ``"both"``: the largest absolute
        values.
    block_size
        Queries at a time.

    Returns
    -------
    :class:`NearestRows`; ties are in the order of rows.

    Examples
    --------
    >>> import numpy as np
    >>> units, _ = unit_rows(np.array([[1.0, 0.0], [1.0, 0.1], [-1.0, 0.5]]))
    >>> nearest_rows(units, np.array([0]), n=2).neighbor
    array([1, 2])
    """
    n_rows = len(units)
    kept = min(n, n_rows - 1)
    found = []
    for block in _blocks(len(queries), n_rows, block_size):
        own = queries[block]
        cosine = _rounded(units[own] @ units.T)
        score = np.abs(cosine) if sign == "both" else cosine if sign == "alike" else -cosine
        score[np.arange(len(own)), own] = -np.inf
        last = np.partition(score, n_rows - kept, axis=1)[:, n_rows - kept]
        row, column = np.nonzero((score >= last[:, None]) & (score > (-np.inf if sign == "both" else 0.0)))
        order = np.lexsort((column, -score[row, column], row))
        row, column = row[order], column[order]
        rank = np.arange(len(row)) - np.searchsorted(row, row) + 1
        row, column, rank = (part[rank <= kept] for part in (row, column, rank))
        found.append(NearestRows(own[row], column, cosine[row, column], rank))
    return NearestRows(*(np.concatenate(part) for part in zip(*found, strict=True)))


def pairs_at_most(units: np.ndarray, values: np.ndarray, *, block_size: int | None = None) -> np.ndarray:
    """How many of all pairs of different rows have a cosine of at most each value, without storing them.

    Parameters
    ----------
    units
        Unit rows, float64, shape (n_rows, n_columns).
    values
        Shape (n_values,).
    block_size
        Rows at a time; by default as many as make 32 MB of cosines.

    Returns
    -------
    Number of unordered pairs, int64, shape (n_values,). Cosines are rounded to float32 first.

    Examples
    --------
    >>> import numpy as np
    >>> pairs_at_most(np.array([[1.0, 0.0], [0.6, 0.8], [-1.0, 0.0]]), np.array([-0.8, 0.0, 0.7])).tolist()
    [1, 2, 3]
    """
    n_rows = len(units)
    order = np.argsort(values, kind="stable")
    wanted = np.asarray(values, dtype=np.float32)[order]
    count = np.zeros(len(values), dtype=np.int64)
    for rows in _blocks(n_rows, n_rows, block_size):
        block = _rounded(units[rows] @ units[rows.start :].T)
        width = rows.stop - rows.start
        for part in (block[:, :width][np.triu_indices(width, 1)], block[:, width:].ravel()):
            count[order] += np.searchsorted(np.sort(part), wanted, side="right")
    return count


def cosine_errors(
    units: np.ndarray, length: np.ndarray, errors: np.ndarray, first: np.ndarray, second: np.ndarray
) -> np.ndarray:
    r"""Standard errors of cosines of pairs of rows by the delta method.

    With unit rows :math:`u, v` of lengths :math:`a, b`, cosine :math:`c` and standard errors :math:`\sigma, \tau` of the
    entries, which are taken as independent,

    .. math:: \operatorname{se}^2(c) = \sum_j \frac{(v_j - c u_j)^2 \sigma_j^2}{a^2} + \frac{(u_j - c v_j)^2 \tau_j^2}{b^2}

    Parameters
    ----------
    units, length
        Result of :func:`unit_rows`, under either metric.
    errors
        Standard errors of the entries of the rows, shape (n_rows, n_columns).
    first, second
        Rows of each pair, shape (n_pairs,).

    Returns
    -------
    Shape (n_pairs,), float64; NaN where `errors` are.

    Examples
    --------
    >>> import numpy as np
    >>> units, length = unit_rows(np.array([[2.0, 0.0], [0.0, 1.0]]))
    >>> cosine_errors(units, length, np.full((2, 2), 0.1), np.array([0]), np.array([1])).round(3)
    array([0.112])
    """
    out = np.empty(len(first))
    step = max(1, _BLOCK_ENTRIES // units.shape[1])
    for start in range(0, len(first), step):
        i, j = first[start : start + step], second[start : start + step]
        u, v = units[i], units[j]
        c = np.einsum("pj,pj->p", u, v)[:, None]
        own = (v - c * u) * errors[i] / length[i, None]
        other = (u - c * v) * errors[j] / length[j, None]
        out[start : start + step] = np.sqrt((own**2).sum(axis=1) + (other**2).sum(axis=1))
    return out
