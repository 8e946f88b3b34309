"""Dosage matrices: perturbations as rows of a sparse matrix, one column per target."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy.sparse as sp

from perturbia.errors import LabelError, UnknownPerturbation
from perturbia.perturbation.labels import CONTROL, join_label
from perturbia.perturbation.value import Query, as_perturbation

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence


def dosage_matrix(perturbations: Iterable[Query], names: Sequence[str]) -> sp.csr_matrix:
    """Write perturbations as rows of doses.

    Parameters
    ----------
    perturbations
        Perturbations in any spelling that :func:`~perturbia.perturbation.as_perturbation` reads.
    names
        Target of each column, all different.

    Returns
    -------
    float32 matrix (n_perturbations, n_names); the control is a zero row.

    Raises
    ------
    UnknownPerturbation
        If a target is not in `names`; the message holds the three nearest names.

    Examples
    --------
    >>> from perturbia.perturbation import dosage_matrix
    >>> dosage_matrix(["B+A", "B@0.5", "control"], ["A", "B"]).toarray()
    array([[1. , 1. ],
           [0. , 0.5],
           [0. , 0. ]], dtype=float32)
    """
    if isinstance(perturbations, str):
        msg = f"perturbations: expected a list of perturbations, got {perturbations!r}. Write [{perturbations!r}]."
        raise LabelError(msg)
    values = [as_perturbation(one) for one in perturbations]
    column = {name: j for j, name in enumerate(names)}
    unknown = sorted({name for one in values for name in one.names} - column.keys())
    if unknown:
        raise UnknownPerturbation.among(unknown, list(names))
    indptr = np.cumsum([0, *(len(one) for one in values)])
    indices = np.array([column[name] for one in values for name in one.names], dtype=np.int32)
    data = np.array([dose for one in values for dose in one.doses], dtype=np.float32)
    out = sp.csr_matrix((data, indices, indptr), shape=(len(values), len(column)))
    out.sort_indices()
    return out


def unique_dosages(D: sp.csr_matrix) -> tuple[sp.csr_matrix, np.ndarray]:
    """Find the distinct rows of a dosage matrix.

    Parameters
    ----------
    D
        Dosage matrix (n_rows, n_names), sparse or dense.

    Returns
    -------
    unique
        float32 matrix (n_unique, n_names), rows in the order of their number of targets, then of their columns.
    inverse
        int64 (n_rows,), so that `unique[inverse]` is `D`.

    Examples
    --------
    >>> from perturbia.perturbation import dosage_matrix, unique_dosages
    >>> unique, inverse = unique_dosages(dosage_matrix(["A+B", "control", "B+A"], ["A", "B"]))
    >>> inverse
    array([1, 0, 1])
    """
    D = sp.csr_matrix(D, dtype=np.float32, copy=True)
    D.sum_duplicates()  # also sorts the indices
    D.eliminate_zeros()
    n_targets = np.diff(D.indptr)
    inverse = np.empty(D.shape[0], dtype=np.int64)
    first: list[np.ndarray] = []
    found = 0
    # rows of one length are compared as bytes of (columns, doses): a pass per length, none per row
    for length in np.unique(n_targets):
        rows = np.flatnonzero(n_targets == length)
        at = D.indptr[rows][:, None] + np.arange(length)
        doses = D.data[at].astype(">f4").view(np.uint8).reshape(len(rows), -1)
        columns = D.indices[at].astype(">i4").view(np.uint8).reshape(len(rows), -1)
        packed = np.ascontiguousarray(np.hstack([columns, doses]))
        if length == 0:
            where, codes = np.array([0]), np.zeros(len(rows), dtype=np.int64)
        else:
            _, where, codes = np.unique(
                packed.view(np.dtype((np.void, packed.shape[1]))).ravel(), return_index=True, return_inverse=True
            )
        inverse[rows] = codes + found
        first.append(rows[where])
        found += len(where)
    order = np.concatenate(first) if first else np.zeros(0, dtype=np.int64)
    return D[order], inverse


def dosage_labels(D: sp.csr_matrix, names: Sequence[str], *, sep: str = "+", control: str = CONTROL) -> np.ndarray:
    """Write the canonical label of every row of a dosage matrix.

    Parameters
    ----------
    D
        Dosage matrix (n_rows, n_names), sparse or dense.
    names
        Target of each column.
    sep
        Text between targets.
    control
        Label of a zero row.

    Returns
    -------
    object array (n_rows,) of text; targets sorted, dose 1 not written.

    Raises
    ------
    LabelError
        If `names` does not match the columns.

    Examples
    --------
    >>> from perturbia.perturbation import dosage_labels
    >>> dosage_labels([[1, 0.5], [0, 0]], ["KLF1", "CEBPA"])
    array(['CEBPA@0.5+KLF1', 'control'], dtype=object)
    """
    unique, inverse = unique_dosages(D)
    if unique.shape[1] != len(names):
        msg = f"names: expected {unique.shape[1]} names, one per column, got {len(names)}. Pass the registered names."
        raise LabelError(msg)
    labels = np.empty(unique.shape[0], dtype=object)
    for i in range(unique.shape[0]):
        row = slice(unique.indptr[i], unique.indptr[i + 1])
        pairs = sorted(zip((names[j] for j in unique.indices[row]), unique.data[row], strict=True))
        labels[i] = join_label([name for name, _ in pairs], [dose for _, dose in pairs], sep=sep, control=control)
    return labels[inverse]
