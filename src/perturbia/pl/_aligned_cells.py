"""What figures of alignments share: colours of the two modalities, their columns, and axes of the space they were matched in."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from perturbia import _keys
from perturbia.errors import nearest_names
from perturbia.model.alignment._modalities import dense, obs_column, read_features
from perturbia.pl._style import PALETTE

if TYPE_CHECKING:
    from collections.abc import Mapping

    import pandas as pd

    from perturbia.model.alignment.coupling_storage import StoredCoupling

__all__ = ["SOURCE", "TARGET", "column_of", "coordinates", "members_of"]

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
    return (
        obs_column(stored.source, key, modality=stored.source_name, argument=argument),
        obs_column(stored.target, key, modality=stored.target_name, argument=argument),
    )


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
        dense(read_features(adata, use_rep=None if key == "X" else key, layer=None, modality=name)).astype(np.float64)
        for adata, key, name in zip((stored.source, stored.target), keys, names, strict=True)
    )
    return source, target, (keys[0], keys[1])
