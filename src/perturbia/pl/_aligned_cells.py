"""What figures of alignments share: colours of the two modalities, their columns, and axes of the space they were matched in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import _keys
from perturbia.errors import LabelError, nearest_names, shorten
from perturbia.model.alignment._modalities import read_features
from perturbia.pl._style import PALETTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from perturbia.model.alignment.coupling_storage import StoredCoupling

__all__ = ["SOURCE", "TARGET", "column_of", "coordinates", "members_of", "principal_axes"]

#: Colour and marker of each modality, wherever both are drawn in one panel.
SOURCE: dict[str, Any] = {"color": PALETTE[0], "marker": "o"}
TARGET: dict[str, Any] = {"color": PALETTE[4], "marker": "^"}


def column_of(stored: StoredCoupling, key: str, *, argument: str) -> tuple[pd.Series, pd.Series]:
    """A column of `obs` of both modalities.

    Parameters
    ----------
    stored
        The coupling.
    key
        The column.
    argument
        The argument that named it.

    Returns
    -------
    That of source and of target cells.

    Raises
    ------
    LabelError
        If a modality lacks it.
    """
    for adata, name in ((stored.source, stored.source_name), (stored.target, stored.target_name)):
        if key not in adata.obs:
            msg = (
                f"{argument}: expected a column of obs of {name!r}, got {key!r}; they are {shorten(adata.obs.columns)}."
            )
            raise LabelError(msg)
    return stored.source.obs[key], stored.target.obs[key]


def members_of(stored: StoredCoupling, perturbation: str) -> tuple[np.ndarray, np.ndarray]:
    """Positions of the cells of a perturbation.

    Parameters
    ----------
    stored
        The coupling.
    perturbation
        Its label, as either modality spells it.

    Returns
    -------
    Those of source and of target cells, int64.

    Raises
    ------
    ValueError
        If no cell of it is matched; the message has the nearest labels that are.
    """
    codes = stored.codes()
    key = str(stored.metadata["perturbation_key"])
    for adata, own in zip((stored.source, stored.target), codes, strict=True):
        spelled = own[(adata.obs[key].astype(str) == str(perturbation)).to_numpy()]
        if len(spelled) and spelled[0] >= 0:
            source, target = (np.flatnonzero(one == spelled[0]) for one in codes)
            return source, target
    matched = [str(name) for name in stored.metadata["table"]["perturbation"]]
    near = ", ".join(nearest_names(str(perturbation), matched)) or "none"
    msg = f"perturbation: expected a perturbation that was matched, got {perturbation!r} (nearest: {near})."
    raise ValueError(msg)


def coordinates(
    stored: StoredCoupling, use_rep: str | Mapping[str, str] | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, str]]:
    """Coordinates of all cells of both modalities, by default those that they were matched by.

    Parameters
    ----------
    stored
        The coupling.
    use_rep
        Key of `obsm` of both, or modality → key; ``"X"`` for features themselves.

    Returns
    -------
    Float64 arrays `(n_source, n_features)` and `(n_target, n_features)`, and the two keys.

    Raises
    ------
    FeatureMismatch, ScaleError
        If a key does not exist or values are missing.
    ValueError
        If the mapping lacks a modality.
    """
    names = (stored.source_name, stored.target_name)
    if use_rep is None:
        roles = stored.metadata.get("use_rep") or {}
        roles = (
            roles
            if str(stored.metadata["source"]) == names[0]
            else {"source": roles.get("target"), "target": roles.get("source")}
        )
        keys = tuple(str(roles.get(role) or _keys.OBSM_PROPENSITY) for role in ("source", "target"))
    elif isinstance(use_rep, str):
        keys = (use_rep, use_rep)
    elif set(names) <= set(use_rep):
        keys = tuple(use_rep[name] for name in names)
    else:
        msg = f"use_rep: expected a key of obsm for each of {list(names)}, got {dict(use_rep)!r}."
        raise ValueError(msg)
    source, target = (
        _dense(read_features(adata, use_rep=None if key == "X" else key, layer=None, modality=name))
        for adata, key, name in zip((stored.source, stored.target), keys, names, strict=True)
    )
    return source, target, (keys[0], keys[1])


def principal_axes(points: np.ndarray, n_axes: int) -> tuple[np.ndarray, np.ndarray]:
    """Coordinates on the first principal axes, and their shares of the variance.

    Parameters
    ----------
    points
        `(n_cells, n_features)`.
    n_axes
        How many; fewer where there are fewer features.

    Returns
    -------
    `(n_cells, n_axes)` and `(n_axes,)`.
    """
    centred = points - points.mean(axis=0)
    variances, axes = np.linalg.eigh(centred.T @ centred)
    first, shares = axes[:, ::-1][:, :n_axes], variances[::-1][:n_axes] / max(variances.sum(), np.finfo(float).tiny)
    # the sign of an axis is free: the same data should look the same on every machine
    largest = first[np.abs(first).argmax(axis=0), np.arange(first.shape[1])]
    return centred @ (first * np.where(largest < 0, -1, 1)), shares


def _dense(values: Any) -> np.ndarray:
    return np.asarray(values.toarray() if hasattr(values, "toarray") else values, dtype=np.float64)
