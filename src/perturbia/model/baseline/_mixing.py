"""How queries mix measured effects: exactly what was measured, or member by member."""

from __future__ import annotations

from typing import TYPE_CHECKING, cast

import numpy as np
from scipy import sparse

if TYPE_CHECKING:
    from perturbia.model.baseline._training_effects import TrainingEffects

__all__ = ["control_shares", "find_members", "find_rows", "member_mix"]


def find_rows(dosage: sparse.csr_matrix, table: sparse.csr_matrix) -> np.ndarray:
    """Position of each row of `dosage` among the distinct rows of `table`, -1 where it is absent; both have sorted rows."""
    position = np.full(dosage.shape[0], -1)
    n_members, n_known = np.diff(dosage.indptr), np.diff(table.indptr)
    for length in np.unique(n_members):
        rows, known = np.flatnonzero(n_members == length), np.flatnonzero(n_known == length)
        where = dict(zip(_row_bytes(table, known, length), known.tolist(), strict=True))
        position[rows] = [where.get(row, -1) for row in _row_bytes(dosage, rows, length)]
    return position


def _row_bytes(dosage: sparse.csr_matrix, rows: np.ndarray, length: int) -> list[bytes]:
    """Columns and doses of rows with `length` entries each."""
    if length == 0:
        return [b""] * len(rows)
    at = dosage.indptr[rows][:, None] + np.arange(length)
    columns = np.ascontiguousarray(dosage.indices[at], dtype=np.int64).view(np.uint8)
    doses = np.ascontiguousarray(dosage.data[at], dtype=np.float32).view(np.uint8)
    packed = np.hstack([columns, doses])
    return cast("list[bytes]", packed.view(np.dtype((np.void, packed.shape[1]))).ravel().tolist())


def find_members(dosage: sparse.csr_matrix, table: sparse.csr_matrix) -> np.ndarray:
    """Position of each non-zero entry of `dosage`, in its order, as a perturbation of its own in `table`; -1 if absent."""
    members = sparse.csr_matrix(
        (dosage.data, dosage.indices, np.arange(dosage.nnz + 1)), shape=(dosage.nnz, dosage.shape[1])
    )
    return find_rows(members, table)


def member_mix(dosage: sparse.csr_matrix, measured: TrainingEffects, substitute: np.ndarray) -> sparse.csr_matrix:
    """Weights of measured single effects in the sum over the members of each query.

    Parameters
    ----------
    dosage
        Queries `(n, n_perturbations)`.
    measured
        The effects.
    substitute
        Weights `(K,)` that stand for a member which was not measured on its own.

    Returns
    -------
    Matrix `(n, K)`.
    """
    shape = (dosage.shape[0], len(measured.effects))
    query = np.repeat(np.arange(shape[0]), np.diff(dosage.indptr))
    member = find_members(dosage, measured.dosage)
    seen = member >= 0
    mix = sparse.csr_matrix((np.ones(int(seen.sum())), (query[seen], member[seen])), shape=shape)
    if seen.all():
        return mix
    n_unseen = np.bincount(query[~seen], minlength=shape[0])
    return mix + sparse.csr_matrix(n_unseen[:, None]) @ sparse.csr_matrix(substitute[None])


def control_shares(dosage: sparse.csr_matrix, measured: TrainingEffects) -> np.ndarray:
    """Shares of the batches among the controls that queries are compared with.

    Parameters
    ----------
    dosage
        Queries `(n, n_perturbations)`.
    measured
        The effects.

    Returns
    -------
    float64 `(n, n_batches)`: those of the measured effect of exactly that query, otherwise the mean over its members
    that were measured on their own. Rows add up to 1, or to 0 where nothing of a query was measured.
    """
    exact = find_rows(dosage, measured.dosage)
    if (exact >= 0).all():
        return measured.control_weight[exact].astype(np.float64)
    members = member_mix(dosage, measured, substitute=np.zeros(len(measured.effects)))
    n_members = np.maximum(np.asarray(members.sum(1)), 1)
    shares = np.asarray(members @ measured.control_weight.astype(np.float64)) / n_members
    shares[exact >= 0] = measured.control_weight[exact[exact >= 0]]
    return shares
