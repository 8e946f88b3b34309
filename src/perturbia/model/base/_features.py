"""Checks of the feature matrix before a model registers it or reads from it."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np
from scipy import sparse

from perturbia.errors import FeatureMismatch, ScaleError, shorten
from perturbia.model.base._minified import require_features
from perturbia.perturbation._copies import in_memory

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from anndata import AnnData

__all__ = ["Scale", "check_anndata", "check_features", "match_features"]

logger = logging.getLogger(__name__)

Scale = Literal["counts", "log1p_cp10k", "zscore", "embedding", "probability"]

_CHUNK = 8192


def check_anndata(adata: object, argument: str = "adata") -> None:
    """Refuse anything but AnnData, such as MuData or the path of a file.

    Parameters
    ----------
    adata
        What was given as annotated data.
    argument
        What the message calls it.

    Raises
    ------
    TypeError
        If it is something else.
    """
    import anndata

    if not isinstance(adata, anndata.AnnData):
        how = (
            "Pass one modality, such as mdata['rna']" if hasattr(adata, "mod") else "Read the file, or make one, first"
        )
        msg = f"{argument}: expected AnnData, got {type(adata).__name__}. {how}."
        raise TypeError(msg)


def check_features(adata: AnnData, layer: str | None, scale: Scale) -> None:
    """Check that the matrix is what `scale` says, reading it once in blocks of rows.

    Parameters
    ----------
    adata
        Annotated data, in memory or backed.
    layer
        Layer that holds the features, ``None`` for `X`.
    scale
        Declared scale.

    Raises
    ------
    ScaleError
        If counts are negative, not whole or all zero in a cell, or any feature is not finite.
    UnsupportedQuery
        If the features were dropped in minification.
    KeyError
        If the layer does not exist.
    """
    if scale not in get_args(Scale):
        msg = f"scale: expected one of {', '.join(get_args(Scale))}, got {scale!r}."
        raise ScaleError(msg)
    # of several files together, layers know their keys and no more
    if layer is not None and layer not in adata.layers.keys():  # noqa: SIM118
        msg = f"layer: expected one of {sorted(adata.layers.keys())} or None for X, got {layer!r}."
        raise KeyError(msg)
    require_features(adata, "adata")
    where = "X" if layer is None else f"layers[{layer!r}]"
    matrix = adata.X if layer is None else adata.layers[layer]
    if matrix is None:
        msg = f"layer: expected a matrix in {where}, found none. Name the layer that holds the features."
        raise ScaleError(msg)
    n_empty = 0
    for block in _blocks(matrix, n_rows=adata.n_obs, whole=not adata.isbacked):
        values = block.data if sparse.issparse(block) else block
        if values.size and not np.isfinite(values).all():
            msg = f"{where}: expected finite numbers, found NaN or infinity. Remove or impute these cells or genes."
            raise ScaleError(msg)
        if scale == "counts" and values.size:
            if values.min() < 0:
                msg = f"{where}: expected raw counts, found the negative value {values.min():g}. {_HOW}"
                raise ScaleError(msg)
            broken = values != np.floor(values)
            if broken.any():
                msg = f"{where}: expected raw counts, found the fraction {values[broken].flat[0]:g}. {_HOW}"
                raise ScaleError(msg)
        if scale == "counts":
            n_empty += int((np.asarray(block.sum(1)).ravel() == 0).sum())
    if n_empty:
        msg = (
            f"{where}: expected at least one count in every cell, found {n_empty} empty cell(s) of {adata.n_obs}. "
            "Drop them with scanpy.pp.filter_cells(adata, min_counts=1)."
        )
        raise ScaleError(msg)


_HOW = "Pass the layer with raw counts, as in layer='counts', or declare another scale."


def _blocks(matrix: Any, *, n_rows: int, whole: bool) -> Iterator[Any]:
    """Blocks of rows; a sparse matrix in memory comes whole, a backed one in pieces."""
    if whole and sparse.issparse(matrix):
        yield matrix
        return
    for start in range(0, n_rows, _CHUNK):
        block = matrix[start : start + _CHUNK]
        yield block if sparse.issparse(block) else np.asarray(block)


def match_features(adata: AnnData, names: Sequence[str]) -> AnnData:
    """Return `adata` with exactly the registered features in the registered order.

    Parameters
    ----------
    adata
        New data.
    names
        Registered feature names.

    Returns
    -------
    The same object if nothing differs, else a copy with features reordered and surplus ones left out.

    Raises
    ------
    FeatureMismatch
        If a registered feature is missing: features are never filled with zeros.
    """
    wanted = np.asarray(names, dtype=str)
    present = adata.var_names.to_numpy().astype(str)
    if len(present) == len(wanted) and (present == wanted).all():
        return adata
    missing = wanted[~np.isin(wanted, present)]
    if len(missing):
        msg = (
            f"adata: expected the {len(names)} features that the model was registered with, "
            f"{len(missing)} are missing: {shorten(missing.tolist(), limit=5)}. Use data with these features."
        )
        raise FeatureMismatch(msg)
    if not adata.var_names.is_unique:
        msg = "adata: expected unique feature names, found duplicates. Call adata.var_names_make_unique() first."
        raise FeatureMismatch(msg)
    logger.info("Features reordered to those of the model; %d surplus left out.", len(present) - len(names))
    return in_memory(adata[:, wanted])
