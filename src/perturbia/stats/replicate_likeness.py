"""How far replicates point the same way, in closed form: no pair is ever visited."""

from __future__ import annotations

import numpy as np
from scipy import sparse

__all__ = ["replicate_signal"]


def _one_hot(codes: np.ndarray) -> sparse.csr_matrix:
    n_rows = len(codes)
    return sparse.csr_matrix((np.ones(n_rows), (codes, np.arange(n_rows))), shape=(int(codes.max()) + 1, n_rows))


def _squared_sums(codes: np.ndarray, unit: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Squared norm of the sum of the rows of every group, and their numbers."""
    sums = _one_hot(codes) @ unit
    return np.einsum("ij,ij->i", sums, sums), np.bincount(codes)


def replicate_signal(rows: np.ndarray, groups: np.ndarray, batches: np.ndarray | None = None) -> float:
    r"""Mean cosine of replicates above that of all rows, in standard deviations of the cosine of any two rows.

    .. math:: z = \frac{\overline{\cos}_{\text{same}} - \overline{\cos}_{\text{all}}}{\operatorname{sd}(\cos_{\text{all}})}

    over pairs of rows of different batches, and every group alike in the first mean: with unit rows :math:`u`, the sum
    over pairs is :math:`\lVert \sum u \rVert^2 - \sum_b \lVert \sum_{i \in b} u_i \rVert^2`.

    **Range**: any number; 0 where replicates are no more alike than other rows.

    Parameters
    ----------
    rows
        Shape (n_rows, n_features).
    groups
        Position of the group of every row, 0, 1, …, shape (n_rows,).
    batches
        Position of the batch of every row; `None` counts all pairs of rows.

    Returns
    -------
    z; NaN where no two rows of a group lie in different batches.

    Notes
    -----
    O(n_rows n_features²), as the mean squared cosine is the squared Frobenius norm of :math:`U^\top U`.

    Examples
    --------
    >>> import numpy as np
    >>> from perturbia.stats import replicate_signal
    >>> rng = np.random.default_rng(0)
    >>> groups = np.repeat(np.arange(20), 4)
    >>> effects = rng.normal(size=(20, 10))[groups]
    >>> noise = rng.normal(size=(80, 10))
    >>> round(replicate_signal(noise, groups), 1), round(replicate_signal(effects + noise, groups), 1)
    (-0.1, 1.3)
    """
    norms = np.linalg.norm(rows, axis=1, keepdims=True)
    unit = rows / np.where(norms > 0, norms, 1.0)
    n_rows = len(unit)
    block = np.arange(n_rows) if batches is None else batches
    n_batches = int(block.max()) + 1
    total, size = _squared_sums(groups, unit)
    cell = np.unique(groups * n_batches + block, return_inverse=True)
    own, own_size = _squared_sums(cell[1], unit)
    owner = cell[0] // n_batches
    same = total - np.bincount(owner, own, len(total))
    n_pairs = size.astype(np.float64) ** 2 - np.bincount(owner, own_size.astype(np.float64) ** 2, len(total))
    counted = n_pairs > 0
    if not counted.any():
        return float("nan")
    alike = float(np.mean(same[counted] / n_pairs[counted]))
    mean, square = _any_pair(unit, block, per_row=batches is None)
    spread = np.sqrt(max(square - mean**2, np.finfo(np.float64).tiny))
    return (alike - mean) / float(spread)


def _any_pair(unit: np.ndarray, block: np.ndarray, *, per_row: bool) -> tuple[float, float]:
    """Mean and mean square of the cosine of two rows of different batches."""
    whole = unit.sum(axis=0)
    gram = unit.T @ unit
    lengths = np.einsum("ij,ij->i", unit, unit)
    if per_row:
        own, own_square, own_pairs = lengths.sum(), (lengths**2).sum(), float(len(unit))
    else:
        sums, size = _squared_sums(block, unit)
        own, own_pairs = sums.sum(), float((size.astype(np.float64) ** 2).sum())
        own_square = sum(float(np.sum((part.T @ part) ** 2)) for part in (unit[block == b] for b in np.unique(block)))
    n_pairs = float(len(unit)) ** 2 - own_pairs
    if n_pairs <= 0:
        return 0.0, 1.0
    return float((whole @ whole - own) / n_pairs), float((np.sum(gram**2) - own_square) / n_pairs)
