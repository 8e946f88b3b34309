"""Metadata that every AnnData leaving a model carries."""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING, Literal

import numpy as np
import pandas as pd

from perturbia import _keys
from perturbia.errors import RepresentationMismatch, ScaleError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import torch
    from anndata import AnnData

__all__ = ["check_library", "check_source", "representation_id", "stamp"]

Kind = Literal["latent", "readout", "effect", "screen", "map"]


def stamp(
    adata: AnnData,
    *,
    kind: Kind,
    ur_id: str,
    model: str,
    scale: str,
    control: Literal["observed", "predicted"] = "observed",
    modality: str = "rna",
    seed: int | None = None,
) -> AnnData:
    """Write the metadata to `uns["perturbia"]`: plain types that survive h5ad and zarr."""
    adata.uns[_keys.UNS_RESULT] = {
        "schema": 1,
        "kind": kind,
        "ur_id": ur_id,
        "model": model,
        "modality": modality,
        "scale": scale,
        "control": control,
        "seed": -1 if seed is None else int(seed),
    }
    return adata


def check_source(latent: AnnData, *, ur_id: str, model: str, dimensions: Iterable[str]) -> None:
    """Refuse a latent AnnData of another model, of the same one before more training, or with dimensions moved."""
    found = latent.uns.get(_keys.UNS_RESULT)
    if found is None or found.get("kind") != "latent":
        msg = f"latent: expected the result of {model}.encode, got an AnnData without its metadata."
        raise RepresentationMismatch(msg)
    if found["ur_id"] != ur_id:
        msg = (
            f"latent: expected coordinates of this {model} (ur_id {ur_id}), got those of a {found['model']} "
            f"(ur_id {found['ur_id']}). Encode the cells with this model."
        )
        raise RepresentationMismatch(msg)
    if list(latent.var_names) != (expected := list(dimensions)) or _keys.LAYER_SD not in latent.layers:
        msg = (
            f"latent: expected the {len(expected)} dimensions of {model}.encode in their order, with "
            f"layers[{_keys.LAYER_SD!r}], got {latent.n_vars} dimensions and layers {list(latent.layers)}. "
            "Leave columns and layers as they are."
        )
        raise RepresentationMismatch(msg)
    if not (np.isfinite(np.asarray(latent.X)).all() and np.isfinite(np.asarray(latent.layers[_keys.LAYER_SD])).all()):
        msg = "latent: expected finite coordinates, got NaN or infinity in X or layers['sd']. Drop these cells."
        raise RepresentationMismatch(msg)


def check_library(latent: AnnData) -> None:
    """Refuse library sizes that are missing or no sizes; the readout of counts scales with them."""
    key = _keys.OBS_LIBRARY
    if key not in latent.obs:
        msg = f"latent: expected library sizes in obs[{key!r}], got none. Keep the column that encode writes."
        raise ScaleError(msg)
    sizes = pd.to_numeric(latent.obs[key], errors="coerce").to_numpy(np.float64)
    broken = ~(np.isfinite(sizes) & (sizes > 0))
    if broken.any():
        got = latent.obs[key][broken].tolist()[0]
        msg = (
            f"latent: expected positive numbers in obs[{key!r}], got {got!r} in {int(broken.sum())} cell(s). Mend them."
        )
        raise ScaleError(msg)


def representation_id(state: dict[str, torch.Tensor], names: Sequence[str]) -> str:
    """Short hash of all weights and registered names: equal ids mean comparable coordinates."""
    digest = hashlib.sha256("\n".join(names).encode())
    for key in sorted(state):
        digest.update(key.encode())
        digest.update(state[key].detach().cpu().contiguous().numpy().tobytes())
    return digest.hexdigest()[:12]
