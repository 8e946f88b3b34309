"""Vectors of perturbations that a user gives to a model."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from perturbia.errors import LabelError, ScaleError, shorten

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["read_embedding"]


def read_embedding(embedding: pd.DataFrame | np.ndarray, names: Sequence[str]) -> tuple[np.ndarray, np.ndarray]:
    """Vectors of the registered targets, float64 `(T, d)`, zero where there are none, and where there are."""
    if not isinstance(embedding, pd.DataFrame):
        embedding = np.asarray(embedding)
        if embedding.ndim != 2 or len(embedding) != len(names):
            msg = (
                f"perturbation_embedding: expected a data frame indexed by target, or an array with a row for each of "
                f"the {len(names)} registered targets, got shape {embedding.shape}."
            )
            raise LabelError(msg)
        embedding = pd.DataFrame(embedding, index=list(names))
    index = embedding.index.astype(str)
    twice = index[index.duplicated() & index.isin(list(names))]
    if len(twice):
        msg = f"perturbation_embedding: expected one row for each target, got several for {shorten(twice.unique(), limit=5)}."
        raise LabelError(msg)
    rows = np.flatnonzero(index.isin(list(names)))
    try:
        values = embedding.iloc[rows].to_numpy(np.float64)
    except (TypeError, ValueError) as error:
        msg = f"perturbation_embedding: expected numbers, got columns of {shorten(embedding.dtypes.unique(), limit=3)}."
        raise ScaleError(msg) from error
    broken = ~np.isfinite(values).all(1)
    if broken.any() or values.shape[1] == 0:
        what = shorten(index[rows[broken]], limit=5) if broken.any() else "no column"
        msg = f"perturbation_embedding: expected finite numbers, got others for {what}. Drop or mend these rows."
        raise ScaleError(msg)
    column = {name: j for j, name in enumerate(names)}
    target = np.array([column[name] for name in index[rows]], dtype=np.int64)
    vectors, known = np.zeros((len(names), values.shape[1])), np.zeros(len(names), dtype=bool)
    vectors[target], known[target] = values, True
    return vectors, known
