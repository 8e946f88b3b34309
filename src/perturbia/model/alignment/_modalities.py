"""The two modalities of a MuData that are aligned, and the features that they bring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia.errors import FeatureMismatch, LabelError, ModalityError, ScaleError, shorten

if TYPE_CHECKING:
    from collections.abc import Mapping

    from anndata import AnnData
    from mudata import MuData

__all__ = ["check_mudata", "dense", "obs_column", "positions_in", "read_features", "true_partners", "two_modalities"]


def check_mudata(mdata: object, *, writes: bool = True) -> None:
    """Refuse anything but MuData, and views where something is to be written.

    Parameters
    ----------
    mdata
        What was given.
    writes
        Whether it is to be written to.

    Raises
    ------
    TypeError
        If it is something else.
    ValueError
        If it is a view, and is to be written to.
    """
    from mudata import MuData

    if not isinstance(mdata, MuData):
        msg = (
            f"mdata: expected MuData, got {type(mdata).__name__}. Make one: MuData({{'rna': adata, 'protein': other}})."
        )
        raise TypeError(msg)
    if writes and mdata.is_view:
        msg = "mdata: expected data that can be written to, got a view. Pass mdata[...].copy()."
        raise ValueError(msg)


def two_modalities(
    mdata: MuData, modalities: Mapping[str, str] | None, *, paired: bool = False
) -> tuple[dict[str, str], dict[str, AnnData]]:
    """The source and the target modality.

    MuData joins modalities by the names of their cells: two unpaired data sets that both count ``"0"``, ``"1"``, … become
    pairs without a word. That is refused.

    Parameters
    ----------
    mdata
        The data.
    modalities
        ``{"source": name, "target": name}``; by default the two that there are, in their order.
    paired
        Whether cells of the same name are the same cell on purpose.

    Returns
    -------
    Role → name, and name → data, source first.

    Raises
    ------
    ModalityError
        Roles or names that are not there, or not exactly two by default.
    ValueError
        Names of cells that are not unique, or that both modalities have while `paired` is False.
    """
    if modalities is None:
        if len(mdata.mod) != 2:
            msg = (
                f"modalities: expected {{'source': ..., 'target': ...}} for data of {len(mdata.mod)} modalities, got None; "
                f"they are {shorten(mdata.mod)}."
            )
            raise ModalityError(msg)
        modalities = dict(zip(("source", "target"), mdata.mod, strict=True))
    if set(modalities) != {"source", "target"} or modalities["source"] == modalities["target"]:
        msg = f"modalities: expected {{'source': name, 'target': other name}}, got {dict(modalities)!r}."
        raise ModalityError(msg)
    for name in modalities.values():
        if name not in mdata.mod:
            msg = f"modalities: expected names of modalities, {shorten(mdata.mod)}, got {name!r}."
            raise ModalityError(msg)
    roles = {role: modalities[role] for role in ("source", "target")}
    chosen = {name: mdata.mod[name] for name in roles.values()}
    for name, adata in chosen.items():
        if not adata.obs_names.is_unique:
            msg = (
                f"mdata[{name!r}].obs_names: expected unique names, got duplicates. Call obs_names_make_unique() before "
                "the MuData is made."
            )
            raise ValueError(msg)
    first, second = chosen.values()
    both = first.obs_names.intersection(second.obs_names)
    if len(both) and not paired:
        msg = (
            f"mdata: expected modalities of different cells, got {len(both)} cell names that both have: "
            f"{shorten(both, limit=3)}. MuData takes them for the same cells. Before making it, set for instance "
            f"adata.obs_names = {roles['source']!r} + ':' + adata.obs_names; or pass paired=True if they are the same."
        )
        raise ValueError(msg)
    return roles, chosen


def positions_in(mdata: MuData, adata: AnnData) -> np.ndarray:
    """Positions of the cells of a modality among all cells.

    Parameters
    ----------
    mdata
        The data.
    adata
        The modality.

    Returns
    -------
    int64, shape (n_cells,).

    Raises
    ------
    ValueError
        If the whole does not know a cell.
    """
    positions = mdata.obs_names.get_indexer(adata.obs_names)
    if n_unknown := int((positions < 0).sum()):
        msg = (
            f"mdata: expected the cells of its modalities in mdata.obs_names, got {n_unknown} that are not there. A modality "
            "was changed: call mdata.update()."
        )
        raise ValueError(msg)
    return positions


def read_features(adata: AnnData, *, use_rep: str | None, layer: str | None, modality: str) -> Any:
    """Features of the cells of a modality.

    Parameters
    ----------
    adata
        The modality.
    use_rep
        Key of `obsm`; None for `layer`.
    layer
        Key of `layers`; None for `X`.
    modality
        Name of the modality, for messages.

    Returns
    -------
    Array or CSR matrix, shape (n_cells, n_features), of finite numbers.

    Raises
    ------
    FeatureMismatch
        If the key does not exist.
    ScaleError
        If values are missing or infinite, or there is no feature.
    """
    for name, key, held in (("use_rep", use_rep, adata.obsm), ("layer", layer, adata.layers)):
        if key is not None and key not in held:
            msg = (
                f"{name}: expected a key of mdata[{modality!r}].{'obsm' if name == 'use_rep' else 'layers'}, got {key!r}; "
                f"keys are {shorten(held) or 'none'}."
            )
            raise FeatureMismatch(msg)
    values = adata.obsm[use_rep] if use_rep is not None else adata.X if layer is None else adata.layers[layer]
    if values is None:
        msg = f"use_rep: expected features in mdata[{modality!r}].X, got none. Name a key of obsm."
        raise FeatureMismatch(msg)
    if adata.isbacked and use_rep is None:
        values = values[:]
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    values = values.tocsr() if sparse.issparse(values) else np.asarray(values)
    where = f"mdata[{modality!r}].{f'obsm[{use_rep!r}]' if use_rep else f'layers[{layer!r}]' if layer else 'X'}"
    if values.ndim != 2 or values.shape[1] == 0 or values.dtype.kind not in "biuf":
        msg = f"{where}: expected a numeric matrix with features, got shape {values.shape} of {values.dtype}."
        raise ScaleError(msg)
    data = np.asarray(values.data if sparse.issparse(values) else values)
    if data.dtype.kind == "f" and not np.isfinite(data).all():
        n_bad = int((~np.isfinite(data)).sum())
        msg = (
            f"{where}: expected finite numbers, got {n_bad} NaN or infinite. Remove or impute these cells or features."
        )
        raise ScaleError(msg)
    return values


def dense(values: Any) -> np.ndarray:
    """Features as a dense matrix of a floating-point type.

    Parameters
    ----------
    values
        Dense or sparse, as :func:`read_features` gives them.

    Returns
    -------
    float32 as it is, anything else float64.
    """
    array = values.toarray() if sparse.issparse(values) else np.asarray(values)
    return array if array.dtype in (np.float32, np.float64) else array.astype(np.float64)


def obs_column(adata: AnnData, key: str, *, modality: str, argument: str) -> pd.Series:
    """A column of `obs` of a modality.

    Parameters
    ----------
    adata
        The modality.
    key
        Name of the column.
    modality
        Name of the modality, for the message.
    argument
        What the user gave the name to, for the message.

    Returns
    -------
    The column.

    Raises
    ------
    LabelError
        If there is none of that name.
    """
    if key not in adata.obs:
        msg = (
            f"{argument}: expected a column of obs of {modality!r}, got {key!r}; they are {shorten(adata.obs.columns)}."
        )
        raise LabelError(msg)
    return adata.obs[key]


def true_partners(
    source: pd.Series, target: pd.Series, *, key: str, names: tuple[str, str], distinct: bool = False
) -> np.ndarray:
    """Position of the true partner of each source cell among target cells.

    Parameters
    ----------
    source, target
        What is the same for true partners, such as a barcode; missing for cells without.
    key, names
        Name of the column and of the modalities, for the message.
    distinct
        Whether no two source cells may have one partner either.

    Returns
    -------
    int64, shape (n_source,); -1 for none.

    Raises
    ------
    LabelError
        If several target cells have one value, or several source cells where they must not.
    """
    for column, name in ((source, names[0]), (target, names[1]))[0 if distinct else 1 :]:
        if not column.dropna().astype(str).is_unique:
            msg = f"pairs: expected values of obs[{key!r}] that are unique among cells of {name!r}, got duplicates."
            raise LabelError(msg)
    known = target.notna().to_numpy()
    index = pd.Index(target[known].astype(str))
    position = index.get_indexer(source.astype(str))
    position[source.isna().to_numpy()] = -1
    return np.append(np.flatnonzero(known), -1)[position]
