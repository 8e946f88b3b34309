"""Checks that turn what a user passes into clean numeric arrays, with errors that name argument, problem and fix."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np
import scipy.sparse as sp

if TYPE_CHECKING:
    from collections.abc import Sequence


def _check_numeric(dtype: np.dtype, name: str) -> None:
    if dtype.kind not in "biuf":
        msg = f"{name}: expected real numbers, got dtype {dtype}. Convert it to a numeric array first."
        raise ValueError(msg)


def _check_values(values: np.ndarray, name: str) -> None:
    if values.dtype.kind == "f" and not (finite := np.isfinite(values)).all():
        msg = (
            f"{name}: expected finite numbers, got {int(np.count_nonzero(~finite))} NaN or infinite entries. "
            "Remove or impute them first."
        )
        raise ValueError(msg)


def _check_extent(shape: tuple[int, ...], name: str, min_rows: int, min_columns: int) -> None:
    if len(shape) != 2:
        msg = f"{name}: expected a two-dimensional array, got shape {shape}. Reshape one row to (1, n_columns)."
        raise ValueError(msg)
    if shape[0] < min_rows or shape[1] < min_columns:
        msg = f"{name}: expected at least {min_rows} row(s) and {min_columns} column(s), got shape {shape}."
        raise ValueError(msg)


def dense_matrix(value: Any, name: str, *, min_rows: int = 1, min_columns: int = 1) -> np.ndarray:
    """Return `value` as a finite float64 matrix, or raise a `ValueError` that names the argument."""
    if sp.issparse(value):
        msg = f"{name}: expected a dense array, got {type(value).__name__}. Pass {name}.toarray()."
        raise ValueError(msg)
    array = np.asarray(value)
    _check_numeric(array.dtype, name)
    _check_extent(array.shape, name, min_rows, min_columns)
    _check_values(array, name)
    return array.astype(np.float64, copy=False)


def any_matrix(value: Any, name: str, *, min_rows: int = 1, min_columns: int = 1) -> Any:
    """Return `value` as a finite numeric dense array (own dtype) or canonical CSR matrix; never densifies."""
    if not sp.issparse(value):
        array = np.asarray(value)
        _check_numeric(array.dtype, name)
        _check_extent(array.shape, name, min_rows, min_columns)
        _check_values(array, name)
        return array
    _check_numeric(value.dtype, name)
    _check_extent(value.shape, name, min_rows, min_columns)
    matrix = value.tocsr()
    if not matrix.has_canonical_format:
        matrix = matrix.copy()
        matrix.sum_duplicates()
    _check_values(matrix.data, name)
    return matrix


def check_same_shape(first: np.ndarray, second: np.ndarray, names: tuple[str, str]) -> None:
    """Raise a `ValueError` when two arrays that belong together differ in shape."""
    if first.shape != second.shape:
        msg = (
            f"{names[1]}: expected the shape of {names[0]}, {first.shape}, got {second.shape}. "
            "Align rows (perturbations) and columns (genes) first."
        )
        raise ValueError(msg)


def check_nonnegative(values: np.ndarray, name: str) -> None:
    """Raise a `ValueError` when an array holds negative numbers."""
    if (values < 0).any():
        msg = f"{name}: expected numbers >= 0, got a minimum of {values.min():g}."
        raise ValueError(msg)


def positive_vector(value: Any, name: str, length: int) -> np.ndarray:
    """Return `value` as a float64 vector of positive numbers of the given length."""
    vector = np.asarray(value)
    _check_numeric(vector.dtype, name)
    if vector.shape != (length,):
        msg = f"{name}: expected shape ({length},), got {vector.shape}."
        raise ValueError(msg)
    _check_values(vector, name)
    if (vector <= 0).any():
        msg = f"{name}: expected numbers > 0, got a minimum of {vector.min():g}. Leave out rows of weight zero."
        raise ValueError(msg)
    return vector.astype(np.float64, copy=False)


def group_codes(
    labels: Any, n_rows: int, *, groups: Sequence[Any] | None = None, name: str = "labels"
) -> tuple[np.ndarray, np.ndarray]:
    """Turn one label a row into integer codes.

    Returns
    -------
    The distinct groups (sorted, or `groups` as given) and the code of every row; rows whose label is not in `groups`
    get -1.
    """
    import pandas as pd

    values = np.asarray(labels)
    if values.shape != (n_rows,):
        msg = f"{name}: expected one label a row, shape ({n_rows},), got shape {values.shape}."
        raise ValueError(msg)
    codes, found = pd.factorize(values, sort=True)
    if (n_missing := int((codes < 0).sum())) > 0:
        msg = f"{name}: expected a label for every row, got {n_missing} missing. Label or drop these rows."
        raise ValueError(msg)
    found = np.asarray(found)
    if groups is None:
        return found, codes
    wanted = np.asarray(list(groups), dtype=found.dtype if found.dtype == object else None)
    position = pd.Index(found).get_indexer(wanted)
    if (position < 0).any() or len(set(position.tolist())) != len(position):
        absent = [str(label) for label in wanted[position < 0]]
        problem = f"no row is labelled {', '.join(absent)}" if absent else "a group is named twice"
        msg = f"groups: expected distinct labels that occur in {name}, but {problem}."
        raise ValueError(msg)
    lookup = np.full(len(found), -1)
    lookup[position] = np.arange(len(position))
    return wanted, lookup[codes]


def group_positions(codes: np.ndarray, n_groups: int) -> list[np.ndarray]:
    """Positions of the rows of every group, ascending; rows of code -1 are in none."""
    order = np.argsort(codes, kind="stable")
    cuts = np.searchsorted(codes[order], np.arange(n_groups + 1))
    return [order[start:stop] for start, stop in pairwise(cuts)]


def position_of(groups: np.ndarray, label: Any, name: str) -> int:
    """Return the index of `label` in `groups`, or raise a `ValueError` that lists what is there."""
    (hits,) = np.nonzero(groups == label)
    if len(hits) != 1:
        shown = ", ".join(str(group) for group in groups[:5]) + (", ..." if len(groups) > 5 else "")
        msg = f"{name}: expected one of the {len(groups)} groups ({shown}), got {label!r}."
        raise ValueError(msg)
    return int(hits[0])
