"""Profiles (rows of wells, cells, guides or perturbations) and what labels them, from AnnData, a DataFrame or arrays.

What works on maps takes either: values as an array and one label a row, or AnnData and the names of columns of `obs`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia import _keys
from perturbia.errors import ControlError, FeatureMismatch, LabelError, shorten
from perturbia.perturbation._representation import read_representation
from perturbia.perturbation.design import Design, design_from_labels
from perturbia.perturbation.labels import CONTROL, check_control

if TYPE_CHECKING:
    from collections.abc import Sequence

    from anndata import AnnData

__all__ = [
    "is_annotated",
    "label_design",
    "label_values",
    "map_rows",
    "marked_controls",
    "obs_column",
    "profile_matrix",
    "row_labels",
    "row_names",
]


def is_annotated(data: Any) -> bool:
    """Whether `data` is AnnData, or looks like it: no import of anndata is needed to know."""
    return hasattr(data, "obs") and hasattr(data, "obsm")


def row_names(data: Any) -> list[str]:
    """Names of the rows: those of AnnData or of a DataFrame, else their positions."""
    if is_annotated(data):
        return data.obs_names.astype(str).tolist()
    return [str(name) for name in (data.index if isinstance(data, pd.DataFrame) else range(_n_rows(data)))]


def _n_rows(data: Any) -> int:
    return data.shape[0] if hasattr(data, "shape") else len(data)


def profile_matrix(
    data: Any, *, use_rep: str | None = None, argument: str = "adata", least_rows: int = 1
) -> np.ndarray:
    """Values of the profiles as a finite dense float matrix.

    Parameters
    ----------
    data
        AnnData (a view, or backed, too), a DataFrame, or an array, (n_rows, n_features).
    use_rep
        Key of `obsm`; None and ``"X"`` read `X`. For AnnData alone.
    argument
        What messages call the data.
    least_rows
        Rows that are needed.

    Returns
    -------
    Shape (n_rows, n_features); float32 stays float32, anything else becomes float64. It may be the user's own memory.

    Raises
    ------
    FeatureMismatch
        If the representation does not exist, or has another shape than (n_rows, n_features >= 1).
    ValueError
        If entries are missing or infinite, with the rows, or there are too few rows.
    """
    where = argument
    if is_annotated(data):
        key = "X" if use_rep is None else use_rep
        values = read_representation(data, key)
        where = f"{argument}.X" if key == "X" else f"{argument}.obsm[{key!r}]"
    elif use_rep is not None:
        msg = f"use_rep: expected None, since {argument} is {type(data).__name__} and not AnnData, got {use_rep!r}."
        raise FeatureMismatch(msg)
    else:
        values = data.to_numpy() if isinstance(data, pd.DataFrame) else data
    values = values.toarray() if sparse.issparse(values) else np.asarray(values)
    if values.ndim != 2 or values.shape[1] < 1:
        msg = f"{where}: expected a matrix (n_rows, n_features), got shape {values.shape}."
        raise FeatureMismatch(msg)
    if values.dtype.kind not in "biuf":
        msg = f"{where}: expected numbers, got dtype {values.dtype}. Pass a numeric matrix."
        raise FeatureMismatch(msg)
    if len(values) < least_rows:
        msg = f"{where}: expected {least_rows} rows or more, got {len(values)}."
        raise ValueError(msg)
    if values.dtype != np.float32:
        values = values.astype(np.float64, copy=False)
    broken = ~np.isfinite(values).all(axis=1)
    if broken.any():
        names = np.array(row_names(data), dtype=object)[broken]
        msg = (
            f"{where}: expected finite numbers, got NaN or infinity in {broken.sum()} of {len(broken)} rows "
            f"({shorten(names.tolist(), limit=3)}). Drop these rows, or impute them."
        )
        raise ValueError(msg)
    return values


def obs_column(adata: AnnData, key: str, *, argument: str) -> pd.Series:
    """A column of `obs`; a `LabelError` that lists the columns where there is none of that name."""
    if key not in adata.obs:
        columns = shorten(adata.obs.columns) or "none"
        msg = f"{argument}: expected a column of adata.obs, got {key!r}; columns are {columns}."
        raise LabelError(msg)
    return adata.obs[key]


def label_values(data: Any, labels: Any, *, argument: str) -> pd.Series:
    """One label a row as it is, missing ones among them, (n_rows,); what is missing or wrong is a `LabelError`.

    Parameters
    ----------
    data
        The profiles.
    labels
        Column of `data.obs`, or one label a row; positions count, and not the index of a Series.
    argument
        What messages call the labels.
    """
    if isinstance(labels, str):
        if not is_annotated(data):
            msg = f"{argument}: expected one label a row, got the text {labels!r}. Names of columns go with AnnData."
            raise LabelError(msg)
        labels = obs_column(data, labels, argument=argument)
    labels = np.asarray(labels, dtype=object) if isinstance(labels, (list, tuple)) else labels
    if np.ndim(labels) > 1:
        msg = f"{argument}: expected one label for each of {_n_rows(data)} rows, got shape {np.shape(labels)}. Pass one column."
        raise LabelError(msg)
    values = pd.Series(labels)
    if len(values) != _n_rows(data):
        msg = f"{argument}: expected one label for each of {_n_rows(data)} rows, got {len(values)}."
        raise LabelError(msg)
    return values


def row_labels(data: Any, labels: Any, *, argument: str) -> np.ndarray:
    """One label a row, as text.

    Parameters
    ----------
    data
        The profiles.
    labels
        Column of `data.obs`, or of a DataFrame's index, or one label a row.
    argument
        What messages call the labels.

    Returns
    -------
    Text, shape (n_rows,).

    Raises
    ------
    LabelError
        If the column does not exist, labels are missing, or there are not as many as rows.
    """
    values = label_values(data, labels, argument=argument)
    if (n_missing := int(values.isna().sum())) > 0:
        msg = (
            f"{argument}: expected a label in every row, got {n_missing} of {len(values)} without one. Label or drop "
            "these rows."
        )
        raise LabelError(msg)
    return values.astype(str).to_numpy(dtype=object).astype(str)


def label_design(
    data: Any,
    perturbation_key: Any,
    *,
    control: str | Sequence[str] | None,
    sep: str,
    argument: str = "perturbation_key",
    with_marked: bool = False,
) -> Design:
    """Design of the rows, so that every spelling of a perturbation is one; without `control`, no control is needed.

    Every label of `control` has to occur. Rows that :func:`marked_controls` finds are controls `with_marked`, whatever
    their label is.
    """
    labels = row_labels(data, perturbation_key, argument=argument)
    controls = check_control(CONTROL if control is None else control)
    seen = sorted(set(labels.tolist()))
    marked = marked_controls(data) if with_marked else np.zeros(len(labels), dtype=bool)
    # profiles may well be one a perturbation, so identifiers are not refused here
    design = design_from_labels(
        np.where(marked, controls[0], labels), control=controls, sep=sep, require_control=False, argument=argument
    )
    if control is not None:
        written = {part.strip() for label in seen for part in (label, *(label.split(sep) if sep else ()))}
        absent = [name for name in controls if name not in written]
        if absent or not design.is_control.any():
            msg = f"control: expected rows labelled {shorten(absent or controls)}, got none. Labels seen: {shorten(seen)}."
            raise ControlError(msg)
    return design


def marked_controls(data: Any) -> np.ndarray:
    """Rows that `obs["is_control"]` of AnnData marks, bool (n_rows,); none where there is no such column of booleans."""
    column = data.obs.get(_keys.OBS_CONTROL) if is_annotated(data) else None
    if column is None or not pd.api.types.is_bool_dtype(column):
        return np.zeros(_n_rows(data), dtype=bool)
    return column.astype("boolean").fillna(value=False).to_numpy(dtype=bool)


def map_rows(
    data: Any, *, names: Sequence[str] | None, use_rep: str | None, argument: str = "adata_map"
) -> tuple[np.ndarray, np.ndarray]:
    """Values and distinct names of a map: one row a perturbation.

    Parameters
    ----------
    data
        AnnData or DataFrame, whose rows are named, or an array with `names`.
    names
        Names of the rows of an array; of the others, in place of their own.
    use_rep
        Key of `obsm`, None for `X`.
    argument
        What messages call the map.

    Returns
    -------
    Shape (n_rows, n_features), and text (n_rows,).

    Raises
    ------
    LabelError
        If names are missing or repeated.
    """
    values = profile_matrix(data, use_rep=use_rep, argument=argument, least_rows=2)
    if names is None and not is_annotated(data) and not isinstance(data, pd.DataFrame):
        msg = f"names: expected a name for each row of an array, got None. Pass names=, or a DataFrame or AnnData as {argument}."
        raise LabelError(msg)
    labels = np.array(row_names(data) if names is None else [str(name) for name in names])
    if len(labels) != len(values):
        msg = f"names: expected one for each of the {len(values)} rows, got {len(labels)}."
        raise LabelError(msg)
    unique, counts = np.unique(labels, return_counts=True)
    if (counts > 1).any():
        msg = (
            f"{argument}: expected one row a perturbation, got {shorten(unique[counts > 1].tolist(), limit=3)} more than "
            "once. Aggregate replicates first, with perturbia.tl.aggregate_perturbations."
        )
        raise LabelError(msg)
    return values, labels
