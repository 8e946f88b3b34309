"""Features of the other modality, label by label and cell by cell, through a stored coupling."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
from scipy import sparse

from perturbia.errors import FeatureMismatch, shorten
from perturbia.model.alignment._modalities import check_mudata
from perturbia.model.alignment.coupling_storage import read_coupling

if TYPE_CHECKING:
    from collections.abc import Sequence

    from mudata import MuData

__all__ = ["impute"]


def impute(
    mdata: MuData,
    *,
    coupling: str = "coupling",
    source: str | None = None,
    target: str | None = None,
    layer: str | None = None,
    use_rep: str | None = None,
    features: Sequence[str] | None = None,
    key_added: str | None = None,
    batch_size: int = 1024,
) -> None:
    r"""Give each source cell the expected target features of its matches, :math:`\sum_j M_{ij} x_j`.

    Parameters
    ----------
    mdata
        Data with a stored coupling.
    coupling
        Its key.
    source
        Modality whose cells get features; either side of the coupling. As stored by default.
    target
        Modality whose features they get.
    layer
        Layer of `target` with the features, `X` by default: log-normalised values rather than counts.
    use_rep
        Key of `obsm` of `target`, in place of a layer.
    features
        Names of features; all by default.
    key_added
        Key of `obsm` of `source`, ``f"imputed_{target}"`` by default.
    batch_size
        Cells at a time: bounds memory beside the result.

    Returns
    -------
    Nothing; writes to the source modality

    - `obsm[key_added]`: float32 (or float64 for float64 features), shape (n_source, n_features); NaN for cells without
      match;
    - `uns[key_added]`: `features` (their names), `coupling`, `layer`.

    Raises
    ------
    KeyError, ModalityError
        If there is no such coupling, or it does not join these modalities.
    FeatureMismatch
        If the features do not exist.
    ValueError
        If `batch_size` is not positive.

    Notes
    -----
    A mean over matches is less variable than cells are: use it for means and marker maps, and draws of
    :func:`perturbia.tl.sample_pairs` where variation matters. Memory is that of the result and of one batch.

    Examples
    --------
    >>> import perturbia as pb
    >>> mdata = pb.datasets.simulate_modalities(n_cells=20, n_perturbations=4, n_latent=2)
    >>> _ = pb.tl.align(mdata, use_rep="truth_log_ratio")
    >>> pb.tl.impute(mdata, source="source", target="target")
    >>> mdata["source"].obsm["imputed_target"].shape
    (100, 30)
    """
    check_mudata(mdata)
    if not (isinstance(batch_size, int | np.integer) and batch_size > 0):
        msg = f"batch_size: expected a positive number of cells, got {batch_size!r}."
        raise ValueError(msg)
    stored = read_coupling(mdata, coupling, source=source, target=target)
    if layer is not None and use_rep is not None:
        msg = f"layer, use_rep: expected one of them, got {layer!r} and {use_rep!r}."
        raise ValueError(msg)
    held, kind = (stored.target.layers, "layers") if use_rep is None else (stored.target.obsm, "obsm")
    key = layer if use_rep is None else use_rep
    if key is not None and key not in held:
        msg = f"{'layer' if use_rep is None else 'use_rep'}: expected a key of {kind}, got {key!r}; keys are {shorten(held)}."
        raise FeatureMismatch(msg)
    values = stored.target.X if key is None else held[key]
    if values is None:
        msg = f"layer: expected features in X of {stored.target_name!r}, got none. Name a layer, or a key of obsm."
        raise FeatureMismatch(msg)
    values = values[:] if stored.target.isbacked and key is None else values
    names = stored.target.var_names if use_rep is None else pd.Index(_columns(values))
    values = values.to_numpy() if hasattr(values, "to_numpy") else values
    if features is not None:
        at = names.get_indexer_for(list(features))
        if len(at) != len(features) or (at < 0).any():
            odd = [name for name in features if (names == name).sum() != 1]
            msg = (
                f"features: expected names that one feature of {stored.target_name!r} has, got {shorten(odd, limit=5)}, "
                "which none has, or several have."
            )
            raise FeatureMismatch(msg)
        values, names = values[:, at], names[at]
    conditional = stored.conditional()
    dtype = np.float64 if values.dtype == np.float64 else np.float32
    conditional = conditional.astype(dtype)
    values = values.astype(dtype, copy=False)
    matched = np.diff(conditional.indptr) > 0
    imputed = np.full((conditional.shape[0], values.shape[1]), np.nan, dtype=dtype)
    for start in range(0, len(imputed), batch_size):
        product = conditional[start : start + batch_size] @ values
        block = product.toarray() if sparse.issparse(product) else product
        imputed[start : start + batch_size][matched[start : start + batch_size]] = block[
            matched[start : start + batch_size]
        ]
    key_added = key_added or f"imputed_{stored.target_name}"
    stored.source.obsm[key_added] = imputed
    stored.source.uns[key_added] = {
        "features": np.asarray(names, dtype=str),
        "coupling": coupling,
        "layer": layer or use_rep or "X",
        "modality": stored.target_name,
    }


def _columns(values: Any) -> Any:
    """Names of the columns of a representation, or their numbers."""
    return values.columns.astype(str) if hasattr(values, "columns") else np.arange(values.shape[1]).astype(str)
